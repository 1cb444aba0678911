//! From a kernel, an init and a root file system to an image: what `enclave-cli build-enclave` does.
//! Everything that can be refused is refused before the first byte is written, and the same inputs give
//! the same file on every machine, for every user, at any time.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use guest_abi::manifest::{Manifest, PartialManifest};
use ring::digest::{Context, SHA256, digest};
use serde_json::Value;

use crate::Error;
use crate::format::{Architecture, SectionKind};
use crate::input::{self, open, read_bounded};
use crate::measure::Measurements;
use crate::metadata::{BuildMetadata, Metadata, build_time, custom};
use crate::oci::{self, OciReference};
use crate::ramdisk::{add_mount_points, write_app, write_boot};
use crate::rootfs;
use crate::tree::{Kind, Tree, TreeLimits};
use crate::write::{EifWriter, Written, copy, folder_of};

mod checks;
mod settings;

/// The longest init, in bytes: it is held in memory while its hash goes into the metadata.
const MAX_INIT: u64 = 64 << 20;

/// The longest text file among the inputs (kernel configuration, manifest), in bytes.
const MAX_TEXT: u64 = 1 << 20;

/// Where the root file system comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Source {
    /// A folder: owners and times are dropped (everything is root's, of 1970), permissions, hard links
    /// and devices are kept, extended attributes are not.
    Folder(PathBuf),
    /// An image in an OCI layout, for linux/amd64; owners and permissions are those of its layers.
    OciLayout(OciReference),
}

/// How much a source may make of itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Bytes of all layers together, decompressed (`--max-unpacked`).
    pub max_unpacked: u64,
}

impl Limits {
    /// 16 GiB.
    pub const DEFAULT: Self = Self { max_unpacked: 16 << 30 };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Everything an image is made of.
#[derive(Clone, Debug)]
pub struct BuildInputs {
    /// The kernel, a bzImage.
    pub kernel: PathBuf,
    /// Its `.config`, for the metadata.
    pub kernel_config: Option<PathBuf>,
    /// Its command line; white space at the end is dropped, as nitro-cli does.
    pub cmdline: String,
    /// The static program that becomes `/init`.
    pub init: PathBuf,
    /// The root file system.
    pub source: Source,
    /// A manifest file; what it leaves out comes from the image.
    pub manifest: Option<PathBuf>,
    /// The command, in place of the image's and the manifest file's.
    pub cmd: Option<Vec<String>>,
    /// `NAME=VALUE` each; added to the environment, or in place of a variable of that name.
    pub env: Vec<String>,
    /// A name for people; else the source's.
    pub name: Option<String>,
    /// A version for people; else the image's id, or `1.0`.
    pub version: Option<String>,
    /// A JSON object of at most 4096 bytes.
    pub custom_metadata: Option<PathBuf>,
    /// The value of `SOURCE_DATE_EPOCH`, if it is set.
    pub source_date_epoch: Option<String>,
    /// Where the image goes; replaced in one step when it is complete.
    pub output: PathBuf,
    /// Bounds on the source.
    pub limits: Limits,
}

/// How far a build is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Progress {
    /// Layers are being read: bytes of how many.
    Reading {
        /// Bytes of the layers' blobs.
        done: u64,
        /// All of them.
        total: u64,
    },
    /// The image is being written: bytes of the root file system's files of how many.
    Writing {
        /// Bytes of files.
        done: u64,
        /// All of them.
        total: u64,
    },
}

/// A finished build.
#[derive(Clone, Debug)]
pub struct Built {
    /// Of the image as it was written.
    pub measurements: Measurements,
    /// Bytes of the file.
    pub size: u64,
    /// The manifest that is in it.
    pub manifest: Manifest,
    /// The label that is in it.
    pub metadata: Metadata,
    /// What the user should know, a sentence each.
    pub notes: Vec<String>,
}

/// A root file system and what its source says about running it.
struct Application {
    tree: Tree,
    spool: Option<File>,
    image: PartialManifest,
    created: Option<String>,
    name: String,
    version: String,
    notes: Vec<String>,
}

/// Builds an image.
///
/// # Errors
/// Any of [`Error`]; the output is then as it was before.
pub fn build(inputs: &BuildInputs, progress: &mut dyn FnMut(Progress)) -> Result<Built, Error> {
    // Cheap refusals first.
    let cmdline = input::cmdline(&inputs.cmdline)?;
    let given = match &inputs.manifest {
        Some(path) => settings::read_file(path)?,
        None => PartialManifest::default(),
    };
    let init = read_init(&inputs.init)?;
    let mut build_metadata = BuildMetadata::new();
    if let Some(path) = &inputs.kernel_config {
        build_metadata.read_kernel_config(&read_bounded(path, MAX_TEXT)?);
    }
    let custom_metadata = match &inputs.custom_metadata {
        Some(path) => custom(&path.display().to_string(), &read_bounded(path, MAX_TEXT)?)?,
        None => Value::Null,
    };
    open(&inputs.kernel)?;

    let Application { mut tree, spool, image, created, name, version, notes } =
        open_source(inputs, progress)?;
    let manifest = settings::manifest(image, given, inputs.cmd.as_deref(), &inputs.env)?;
    add_mount_points(&mut tree)?;
    checks::workdir(&mut tree, &manifest)?;
    checks::account(&tree, spool.as_ref(), &manifest)?;
    checks::command(&tree, &manifest)?;
    let manifest_text = manifest.to_toml().map_err(Error::Manifest)?;

    build_metadata.build_time =
        build_time(inputs.source_date_epoch.as_deref(), created.as_deref())?;
    build_metadata.init_sha256 = Some(hex::encode(digest(&SHA256, &init)));

    let mut writer = EifWriter::create(&inputs.output, Architecture::X86_64)?;
    let mut kernel = Sha256Reader::new(open(&inputs.kernel)?);
    let kernel_name = inputs.kernel.display().to_string();
    writer.section_with(SectionKind::Kernel, |sink| {
        copy(&mut kernel, sink, &kernel_name).map(|_| ())
    })?;
    build_metadata.kernel_sha256 = Some(kernel.finish());
    let metadata = Metadata {
        image_name: inputs.name.clone().unwrap_or(name),
        image_version: inputs.version.clone().unwrap_or(version),
        build_metadata,
        docker_info: Value::Null,
        custom_metadata,
    };
    writer.section(SectionKind::Cmdline, cmdline.len() as u64, &mut cmdline.as_bytes())?;
    let label = metadata.to_bytes()?;
    writer.section(SectionKind::Metadata, label.len() as u64, &mut label.as_slice())?;
    writer.section_with(SectionKind::Ramdisk, |sink| {
        write_boot(&mut init.as_slice(), init.len() as u64, sink)
    })?;
    writer.section_with(SectionKind::Ramdisk, |sink| {
        write_application(&manifest_text, &tree, spool.as_ref(), sink, progress)
    })?;
    let Written { measurements, size, .. } = writer.finish()?;
    Ok(Built { measurements, size, manifest, metadata, notes })
}

fn write_application(
    manifest: &str,
    tree: &Tree,
    spool: Option<&File>,
    sink: &mut dyn Write,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), Error> {
    let mut seen = vec![false; tree.names_per_node().len()];
    let mut total: u64 = 0;
    for found in tree.walk() {
        if let Kind::File(content) = &found.node.kind
            && !std::mem::replace(&mut seen[found.id.index()], true)
        {
            total = total.saturating_add(content.size());
        }
    }
    let mut done: u64 = 0;
    progress(Progress::Writing { done, total });
    write_app(manifest, tree, spool, sink, &mut |bytes| {
        done = done.saturating_add(bytes);
        progress(Progress::Writing { done, total });
    })
}

fn open_source(
    inputs: &BuildInputs,
    progress: &mut dyn FnMut(Progress),
) -> Result<Application, Error> {
    let limits = TreeLimits::DEFAULT;
    match &inputs.source {
        Source::Folder(folder) => Ok(Application {
            tree: rootfs::read(folder, limits)?,
            spool: None,
            image: PartialManifest::default(),
            created: None,
            name: last_name(folder),
            version: "1.0".to_owned(),
            notes: Vec::new(),
        }),
        Source::OciLayout(reference) => {
            let spool_folder = folder_of(&inputs.output);
            let most = inputs.limits.max_unpacked;
            let mut tell = |done, total| progress(Progress::Reading { done, total });
            let image = oci::read(reference, &spool_folder, most, limits, &mut tell)?;
            let mut notes = Vec::new();
            if image.xattrs > 0 {
                notes.push(format!(
                    "{} extended attributes of the image's files were left out: the ramdisk cannot hold them",
                    image.xattrs
                ));
            }
            Ok(Application {
                tree: image.tree,
                spool: Some(image.spool),
                image: PartialManifest {
                    cmd: Some(image.cmd),
                    env: image.env,
                    workdir: image.workdir,
                    user: image.user,
                },
                created: image.created,
                name: last_name(&reference.layout),
                version: image.id,
                notes,
            })
        }
    }
}

/// The name of a folder, whatever way it was written.
fn last_name(folder: &Path) -> String {
    let whole = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    whole.file_name().map_or_else(|| "image".to_owned(), |name| name.to_string_lossy().into_owned())
}

fn read_init(path: &Path) -> Result<Vec<u8>, Error> {
    let bytes = read_bounded(path, MAX_INIT)?;
    if bytes.is_empty() {
        return Err(Error::Option {
            option: "init",
            value: path.display().to_string(),
            problem: "it is empty".to_owned(),
        });
    }
    Ok(bytes)
}

/// Hashes a file on its way into the image.
struct Sha256Reader {
    file: File,
    hasher: Context,
}

impl Sha256Reader {
    fn new(file: File) -> Self {
        Self { file, hasher: Context::new(&SHA256) }
    }

    fn finish(self) -> String {
        hex::encode(self.hasher.finish())
    }
}

impl Read for Sha256Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
