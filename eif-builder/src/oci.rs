//! An OCI image layout as the source of an image (image-spec v1.1, image-layout.md): index, manifest,
//! configuration, layers. Everything is read through its digest; layers are merged in memory and their
//! contents spooled to one unnamed temporary file. No daemon, no root, nothing unpacked on the host.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::error::shown;
use crate::tree::{Tree, TreeLimits};

mod blob;
mod document;
mod layer;
mod tar;

use blob::{Blob, Digest};
use document::{Config, Descriptor, DocumentKind, Index, Manifest, Marker, parse};
use layer::Unpacker;

/// An index may point to an index; deeper is no image.
const MAX_INDEX_DEPTH: usize = 4;

/// More layers than any engine allows.
const MAX_LAYERS: usize = 1024;

/// Which image: a layout folder and, where it holds several, a name in it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OciReference {
    /// The folder with `oci-layout` in it.
    pub layout: PathBuf,
    /// `org.opencontainers.image.ref.name`, or the tag at its end.
    pub tag: Option<String>,
}

impl OciReference {
    /// Reads `DIR[:TAG]`. A folder with a colon in its name is taken as it is if it is there.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        if !Path::new(text).is_dir()
            && let Some((layout, tag)) = text.rsplit_once(':')
            && !tag.contains('/')
            && !tag.is_empty()
        {
            return Self { layout: layout.into(), tag: Some(tag.to_owned()) };
        }
        Self { layout: text.into(), tag: None }
    }
}

/// An image, unpacked.
pub(crate) struct OciImage {
    pub(crate) tree: Tree,
    /// Holds the contents of all files in the tree.
    pub(crate) spool: File,
    /// Entrypoint and Cmd, joined.
    pub(crate) cmd: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) workdir: Option<String>,
    pub(crate) user: Option<String>,
    /// As the configuration has it: RFC 3339 if it is right.
    pub(crate) created: Option<String>,
    /// The digest of the configuration without its algorithm, which Docker calls the image's id.
    pub(crate) id: String,
    /// Extended attributes that were left out.
    pub(crate) xattrs: usize,
}

/// Reads an image. Layers are spooled in `spool_folder`; `progress` is told how many bytes of how many
/// have been read.
pub(crate) fn read(
    reference: &OciReference,
    spool_folder: &Path,
    max_unpacked: u64,
    limits: TreeLimits,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<OciImage, Error> {
    let layout = reference.layout.as_path();
    let marker: Marker = parse("oci-layout", &blob::read_named(layout, "oci-layout")?)?;
    if !marker.image_layout_version.starts_with("1.") {
        let problem =
            format!("version `{}`, expected 1.x", shown(marker.image_layout_version.as_bytes()));
        return Err(Error::Oci { file: "oci-layout".to_owned(), problem });
    }
    let manifest = find_manifest(reference)?;
    let name = format!("manifest {}", manifest.digest()?.short());
    let manifest: Manifest = parse(&name, &blob::read_document(layout, &manifest)?)?;
    let config_digest = manifest.config.digest()?;
    let config_name = format!("configuration {}", config_digest.short());
    let config: Config = parse(&config_name, &blob::read_document(layout, &manifest.config)?)?;
    if !config.platform.is_linux_amd64() {
        return Err(Error::Platform { found: config.platform.text() });
    }
    let diff_ids = diff_ids(&config, &config_name, manifest.layers.len())?;

    let mut tree = Tree::new(limits);
    let spool = tempfile::tempfile_in(spool_folder)
        .map_err(Error::io("create a temporary file in", spool_folder))?;
    let mut unpacker = Unpacker::new(&mut tree, spool, max_unpacked);
    let total = manifest.layers.iter().fold(0_u64, |sum, layer| sum.saturating_add(layer.size));
    let mut before: u64 = 0;
    for ((descriptor, diff_id), number) in manifest.layers.iter().zip(&diff_ids).zip(1..) {
        let blob = Blob::open(layout, descriptor)?;
        let compression = descriptor.compression()?;
        let mut tell = |read: u64| progress(before.saturating_add(read), total);
        unpacker.apply(blob, compression, diff_id, number, &mut tell)?;
        before = before.saturating_add(descriptor.size);
    }
    progress(total, total);
    let xattrs = unpacker.xattrs;
    let spool = unpacker.finish()?;
    let execution = config.config.unwrap_or_default();
    let mut cmd = execution.entrypoint.unwrap_or_default();
    cmd.extend(execution.cmd.unwrap_or_default());
    Ok(OciImage {
        tree,
        spool,
        cmd,
        env: execution.env.unwrap_or_default(),
        workdir: execution.working_dir.filter(|text| !text.is_empty()),
        user: execution.user.filter(|text| !text.is_empty()),
        created: config.created,
        id: config_digest.digits().to_owned(),
        xattrs,
    })
}

fn diff_ids(config: &Config, file: &str, layers: usize) -> Result<Vec<Digest>, Error> {
    let refuse = |problem: String| Error::Oci { file: file.to_owned(), problem };
    let texts = &config.rootfs.diff_ids;
    if texts.len() != layers {
        return Err(refuse(format!(
            "{} diff_ids for {layers} layers of the manifest",
            texts.len()
        )));
    }
    if layers > MAX_LAYERS {
        return Err(refuse(format!("{layers} layers, the limit is {MAX_LAYERS}")));
    }
    texts
        .iter()
        .map(|text| {
            Digest::parse(text)
                .ok_or_else(|| refuse(format!("`{}` is no diff_id", shown(text.as_bytes()))))
        })
        .collect()
}

/// The manifest of the image that was asked for, or of the only one there is.
fn find_manifest(reference: &OciReference) -> Result<Descriptor, Error> {
    let layout = reference.layout.as_path();
    let index: Index = parse("index.json", &blob::read_named(layout, "index.json")?)?;
    let images: Vec<_> =
        index.manifests.into_iter().filter(|entry| entry.kind().is_some()).collect();
    let available = || {
        let names: Vec<_> = images
            .iter()
            .map(|entry| shown(entry.name().unwrap_or("(without a name)").as_bytes()))
            .collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    };
    let wanted: Vec<Descriptor> = match &reference.tag {
        Some(tag) => images.iter().filter(|entry| entry.answers_to(tag)).cloned().collect(),
        None => images.clone(),
    };
    let only_ours = || {
        let ours = |entry: &&Descriptor| {
            entry.platform.as_ref().is_some_and(document::Platform::is_linux_amd64)
        };
        wanted.iter().filter(ours).collect::<Vec<_>>()
    };
    let chosen = match wanted.as_slice() {
        [one] => one.clone(),
        [] => {
            return Err(Error::NoSuchImage {
                layout: layout.to_owned(),
                wanted: reference.tag.clone().unwrap_or_default(),
                available: available(),
            });
        }
        several => match only_ours().as_slice() {
            [one] => (*one).clone(),
            _ => {
                return Err(Error::WhichImage {
                    layout: layout.to_owned(),
                    count: several.len(),
                    available: available(),
                });
            }
        },
    };
    follow_indexes(layout, chosen)
}

/// From an index to the manifest for this platform in it.
fn follow_indexes(layout: &Path, mut chosen: Descriptor) -> Result<Descriptor, Error> {
    for _ in 0..MAX_INDEX_DEPTH {
        if chosen.kind() == Some(DocumentKind::Manifest) {
            return Ok(chosen);
        }
        let name = format!("index {}", chosen.digest()?.short());
        let index: Index = parse(&name, &blob::read_document(layout, &chosen)?)?;
        let platforms: Vec<_> = index
            .manifests
            .iter()
            .filter_map(|entry| entry.platform.as_ref())
            .map(document::Platform::text)
            .collect();
        let ours = |entry: &Descriptor| {
            entry.kind().is_some()
                && entry.platform.as_ref().is_none_or(document::Platform::is_linux_amd64)
        };
        chosen = index
            .manifests
            .into_iter()
            .find(ours)
            .ok_or_else(|| Error::Platform { found: platforms.join(", ") })?;
    }
    let problem = format!("indexes in indexes, more than {MAX_INDEX_DEPTH} deep");
    Err(Error::Oci { file: "index.json".to_owned(), problem })
}

#[cfg(test)]
pub(crate) mod tests;
