//! `build-enclave`: an EIF from an OCI layout or a folder, with the guest kernel and init that are installed or given. The image appears
//! under its name only when all of it is there, so Ctrl-C and errors leave what was there before.

use std::path::{Path, PathBuf};

use eif_builder::OciReference;
use eif_builder::build::{self, BuildInputs, Limits, Source};
use eif_builder::describe::BuildInfo;
use enclave_vmm::paths::Paths;

use crate::arguments::nitro::BuildEnclave;
use crate::error_table::ErrorNumber;
use crate::failure::{Failure, Outcome};
use crate::memory_size::MemoryMib;
use crate::progress::{Progress, line};
use crate::{input_file, output};

/// The kernel takes 2048 bytes.
const MAX_CMDLINE: u64 = 4096;

/// Builds it.
pub(crate) fn run(arguments: &BuildEnclave) -> Outcome<u8> {
    let source = match (&arguments.oci_layout, &arguments.rootfs, &arguments.docker_uri) {
        (Some(layout), _, _) => Source::OciLayout(OciReference::parse(layout)),
        (None, Some(folder), _) => Source::Folder(folder.clone()),
        (None, None, uri) => {
            return Err(no_docker(
                uri.as_deref().unwrap_or_default(),
                arguments.docker_dir.as_deref(),
            ));
        }
    };
    if let Some(entry) = arguments.env.iter().find(|entry| entry.find('=').is_none_or(|at| at == 0))
    {
        return Err(Failure::new(
            ErrorNumber::INVALID_ARGUMENT,
            format!("--env {entry:?} is not NAME=VALUE"),
        ));
    }
    let blobs = Blobs::find(arguments)?;
    let max_unpacked = match &arguments.max_unpacked {
        // A size that is read is at most 2^64 bytes.
        Some(text) => text.parse::<MemoryMib>()?.mib() << 20,
        None => Limits::DEFAULT.max_unpacked,
    };
    let inputs = BuildInputs {
        kernel_config: blobs.kernel_config(),
        cmdline: input_file::read_text(&blobs.cmdline, MAX_CMDLINE)?,
        kernel: blobs.kernel,
        init: blobs.init,
        source,
        manifest: arguments.manifest.clone(),
        cmd: (!arguments.cmd.is_empty()).then(|| arguments.cmd.clone()),
        env: arguments.env.clone(),
        name: arguments.name.clone(),
        version: arguments.version.clone(),
        custom_metadata: arguments.metadata.clone(),
        source_date_epoch: std::env::var("SOURCE_DATE_EPOCH")
            .ok()
            .filter(|value| !value.is_empty()),
        output: arguments.output_file.clone(),
        limits: Limits { max_unpacked },
    };
    let progress = Progress::bar();
    progress.line("Start building the Enclave Image...");
    let built = build::build(&inputs, &mut |now| match now {
        build::Progress::Reading { done, total } => progress.at("reading layers", done, total),
        build::Progress::Writing { done, total } => progress.at("writing image", done, total),
    })
    .map_err(build_failure)?;
    drop(progress);
    for note in &built.notes {
        line(&format!("note: {note}"));
    }
    line("Enclave Image successfully created.");
    output::json(&BuildInfo::from(&built.measurements))?;
    Ok(0)
}

/// Files that are not there are file errors and wrong values wrong values, as with the other commands; the rest is E48.
fn build_failure(error: eif_builder::Error) -> Failure {
    let hint = error.hint();
    let number = match &error {
        eif_builder::Error::Io { source, .. } => match source.kind() {
            std::io::ErrorKind::PermissionDenied => ErrorNumber::FILE_PERMISSIONS,
            std::io::ErrorKind::NotFound => ErrorNumber::FILE_OPERATION,
            _ => ErrorNumber::EIF_BUILDING,
        },
        eif_builder::Error::Option { .. } => ErrorNumber::INVALID_ARGUMENT,
        _ => ErrorNumber::EIF_BUILDING,
    };
    Failure::new(number, "the image was not built").because(error).maybe_hint(hint)
}

/// There is no Docker here; an OCI layout is what every tool can write.
fn no_docker(uri: &str, folder: Option<&Path>) -> Failure {
    let tagged = if uri.rsplit('/').next().is_some_and(|name| name.contains(':')) {
        uri.to_owned()
    } else {
        format!("{uri}:latest")
    };
    let copy = format!(
        "skopeo copy docker-daemon:{tagged} oci:./layout:latest, then build-enclave --oci-layout ./layout:latest"
    );
    match folder {
        Some(folder) => Failure::new(
            ErrorNumber::DOCKER_IMAGE_BUILD,
            format!("Dockerfiles are not built here: {}", folder.display()),
        )
        .hint(format!("docker build -t {tagged} {}, then {copy}", folder.display())),
        None => Failure::new(
            ErrorNumber::DOCKER_IMAGE_PULL,
            format!("images are not taken from Docker: {uri}"),
        )
        .hint(copy),
    }
}

/// What an image is made of beside the application: files of the installation, or of the options.
#[derive(Debug)]
struct Blobs {
    kernel: PathBuf,
    cmdline: PathBuf,
    init: PathBuf,
}

impl Blobs {
    /// What the options name, and the installed ones for the rest.
    fn find(arguments: &BuildEnclave) -> Outcome<Self> {
        let exe = std::env::current_exe().unwrap_or_default();
        let folders = Paths::current().blob_candidates(&exe);
        let blob = |given: &Option<PathBuf>, name: &str, option: &str| {
            match given {
            Some(path) => Ok(path.clone()),
            None => folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file()).ok_or_else(|| {
                let places: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
                Failure::new(ErrorNumber::BLOBS_PATH_NOT_SET, format!("no {name} in {}", places.join(" or ")))
                    .hint(format!("install it (`make install`), name its folder in ENCLAVE_BLOBS, or give {option} FILE"))
            }),
        }
        };
        Ok(Self {
            kernel: blob(&arguments.kernel, "bzImage", "--kernel")?,
            cmdline: blob(&arguments.cmdline, "cmdline", "--cmdline")?,
            init: blob(&arguments.init, "init", "--init")?,
        })
    }
    /// The kernel's configuration, beside it, which names its version.
    fn kernel_config(&self) -> Option<PathBuf> {
        let mut name = self.kernel.clone().into_os_string();
        name.push(".config");
        let path = PathBuf::from(name);
        path.is_file().then_some(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_round_docker_names_image_and_tag() {
        let failure = no_docker("registry:5000/hello", None);
        let text = failure.render(crate::failure::Family::Nitro, None);
        assert!(text.contains("docker-daemon:registry:5000/hello:latest oci:"), "{text}");
        assert_eq!(failure.number(), ErrorNumber::DOCKER_IMAGE_PULL);
        let failure = no_docker("hello:1", Some(Path::new("dir")));
        assert!(
            failure
                .render(crate::failure::Family::Nitro, None)
                .contains("docker build -t hello:1 dir")
        );
    }

    #[test]
    fn failures_keep_cause_and_hint() {
        let error = eif_builder::Error::Option {
            option: "--env",
            value: "x".into(),
            problem: "it has no =".into(),
        };
        let failure = build_failure(error);
        assert_eq!(failure.number(), ErrorNumber::INVALID_ARGUMENT);
        assert!(failure.chain().contains("--env"), "{}", failure.chain());
    }
}
