//! `eif-builder`: an enclave image from ready sections, for people who want images and nothing else.
//! Images from root file systems and OCI layouts are `enclave-cli build-enclave`'s.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use eif_builder::describe::BuildInfo;
use eif_builder::format::{Architecture, MAX_METADATA, SectionKind};
use eif_builder::input;
use eif_builder::metadata::{BuildMetadata, Metadata, build_time};
use eif_builder::write::EifWriter;
use eif_builder::{Error, Measurements};

/// Make enclave images (EIF version 4).
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Put ready sections into an image and print its measurements.
    ///
    /// The sections are copied as they are. The image is complete or not there at all: an output that
    /// exists is replaced in one step. The same input gives the same bytes; without --metadata the label
    /// carries the time of SOURCE_DATE_EPOCH, or 1970.
    #[command(after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage.\n\n\
        Example:\n  eif-builder assemble --kernel bzImage --cmdline 'reboot=k panic=30 console=ttyS0' \\\n    \
        --ramdisk boot.cpio --ramdisk app.cpio --output app.eif")]
    Assemble(Assemble),
}

#[derive(Args)]
struct Assemble {
    /// Kernel: a bzImage.
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,
    /// Kernel command line, one line; white space at its end is dropped.
    #[arg(long, value_name = "TEXT")]
    cmdline: String,
    /// Ramdisk (cpio, newc), once for each and in order: the first boots, the others are the application.
    #[arg(long = "ramdisk", value_name = "FILE", required = true)]
    ramdisks: Vec<PathBuf>,
    /// Metadata section: a file with a JSON object, taken as it is. Without it, a label is made from the
    /// kernel's file name.
    #[arg(long, value_name = "FILE")]
    metadata: Option<PathBuf>,
    /// Where the image goes.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

fn main() -> ExitCode {
    let Arguments { command: Command::Assemble(arguments) } = Arguments::parse();
    match assemble(&arguments).and_then(|measurements| print(&measurements)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

/// The causes once, outermost first, then what to do.
fn report(error: &Error) {
    let mut text = format!("eif-builder: {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    if let Some(hint) = error.hint() {
        text.push_str(&format!("\n{hint}"));
    }
    // Nobody is left to tell when this fails.
    let _ = writeln!(io::stderr(), "{text}");
}

fn assemble(arguments: &Assemble) -> Result<Measurements, Error> {
    let cmdline = input::cmdline(&arguments.cmdline)?;
    let metadata = match &arguments.metadata {
        Some(path) => read_metadata(path)?,
        None => label(&arguments.kernel)?,
    };
    let mut writer = EifWriter::create(&arguments.output, Architecture::X86_64)?;
    add_file(&mut writer, SectionKind::Kernel, &arguments.kernel)?;
    writer.section(SectionKind::Cmdline, cmdline.len() as u64, &mut cmdline.as_bytes())?;
    writer.section(SectionKind::Metadata, metadata.len() as u64, &mut metadata.as_slice())?;
    for ramdisk in &arguments.ramdisks {
        add_file(&mut writer, SectionKind::Ramdisk, ramdisk)?;
    }
    Ok(writer.finish()?.measurements)
}

fn add_file(writer: &mut EifWriter, kind: SectionKind, path: &Path) -> Result<(), Error> {
    let mut file = input::open(path)?;
    let metadata = file.metadata().map_err(|source| Error::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    writer.section(kind, metadata.len(), &mut file)
}

/// A metadata file, which must be what every reader of the image will ask for.
fn read_metadata(path: &Path) -> Result<Vec<u8>, Error> {
    let bytes = input::read_bounded(path, MAX_METADATA)?;
    let object: Result<serde_json::Map<String, serde_json::Value>, _> =
        serde_json::from_slice(&bytes);
    match object {
        Ok(_) => Ok(bytes),
        Err(error) => Err(Error::Option {
            option: "--metadata",
            value: path.display().to_string(),
            problem: error.to_string(),
        }),
    }
}

/// The label `eif_build` gives: the kernel's file name, version 1.0.
fn label(kernel: &Path) -> Result<Vec<u8>, Error> {
    let name = kernel.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok();
    let build_metadata =
        BuildMetadata { build_time: build_time(epoch.as_deref(), None)?, ..BuildMetadata::new() };
    Metadata {
        image_name: name,
        image_version: "1.0".to_owned(),
        build_metadata,
        docker_info: serde_json::Value::Null,
        custom_metadata: serde_json::Value::Null,
    }
    .to_bytes()
}

fn print(measurements: &Measurements) -> Result<(), Error> {
    let info = BuildInfo::from(measurements);
    let text = serde_json::to_string_pretty(&info)
        .map_err(|error| Error::MetadataJson { offset: 0, detail: error.to_string() })?;
    writeln!(io::stdout(), "{text}").map_err(|source| Error::Io {
        action: "write to",
        path: "standard output".into(),
        source,
    })
}
