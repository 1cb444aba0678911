//! OCI layouts made for tests, right ones and wrong ones.

use std::fs;
use std::io::Write;
use std::path::Path;

use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A folder that becomes a layout.
pub(crate) struct Layout {
    pub(crate) folder: TempDir,
}

/// A layer: its archive, how it is packed, and the two digests' truth.
pub(crate) struct Layer {
    pub(crate) archive: Vec<u8>,
    pub(crate) packing: &'static str,
}

/// An archive with files, made with the crate `tar`. A path with a slash at its end is a folder, `a->b` a
/// symlink, `a=>b` a hard link; everything else is a file holding the second text.
pub(crate) fn archive(members: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, data) in members {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_uid(7);
        header.set_gid(8);
        header.set_size(0);
        if let Some((path, target)) = path.split_once("->") {
            header.set_entry_type(tar::EntryType::Symlink);
            builder.append_link(&mut header, path, target).unwrap();
        } else if let Some((path, target)) = path.split_once("=>") {
            header.set_entry_type(tar::EntryType::Link);
            builder.append_link(&mut header, path, target).unwrap();
        } else if path.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
            builder.append_data(&mut header, path, &[][..]).unwrap();
        } else {
            header.set_size(data.len() as u64);
            builder.append_data(&mut header, path, data.as_bytes()).unwrap();
        }
    }
    builder.into_inner().unwrap()
}

pub(crate) fn plain(members: &[(&str, &str)]) -> Layer {
    Layer { archive: archive(members), packing: "" }
}

fn pack(archive: &[u8], packing: &str) -> Vec<u8> {
    match packing {
        "+gzip" => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(archive).unwrap();
            encoder.finish().unwrap()
        }
        "+zstd" => zstd::encode_all(archive, 1).unwrap(),
        _ => archive.to_vec(),
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(digest(&SHA256, bytes)))
}

impl Layout {
    /// With the marker file and no image.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("blobs/sha256")).unwrap();
        fs::write(folder.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Stores a blob and returns its descriptor.
    pub(crate) fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = sha256(bytes);
        let name = digest.strip_prefix("sha256:").unwrap();
        fs::write(self.path().join("blobs/sha256").join(name), bytes).unwrap();
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    pub(crate) fn document(&self, media_type: &str, value: &Value) -> Value {
        self.blob(media_type, value.to_string().as_bytes())
    }

    /// Stores an image and returns its manifest's descriptor. `change` has its way with
    /// configuration and manifest.
    pub(crate) fn image(
        &self,
        layers: &[Layer],
        config: &Value,
        change: impl Fn(&mut Value, &mut Value),
    ) -> Value {
        let diff_ids: Vec<_> = layers.iter().map(|layer| sha256(&layer.archive)).collect();
        let descriptors: Vec<_> = layers
            .iter()
            .map(|layer| {
                let media_type = format!("{LAYER}{}", layer.packing);
                self.blob(&media_type, &pack(&layer.archive, layer.packing))
            })
            .collect();
        let mut config = json!({
            "architecture": "amd64", "os": "linux", "created": "2026-01-02T03:04:05.6Z",
            "config": config, "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let mut manifest = json!({"schemaVersion": 2, "layers": descriptors});
        change(&mut config, &mut manifest);
        if manifest.get("config").is_none() {
            manifest["config"] = self.document("application/vnd.oci.image.config.v1+json", &config);
        }
        self.document(OCI_MANIFEST, &manifest)
    }

    /// Writes `index.json`.
    pub(crate) fn index(&self, manifests: &[Value]) {
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        fs::write(self.path().join("index.json"), index.to_string()).unwrap();
    }
}

/// A layout with one image and no tag.
pub(crate) fn one_image(layers: &[Layer], config: &Value) -> Layout {
    let layout = Layout::new();
    let image = layout.image(layers, config, |_, _| {});
    layout.index(&[image]);
    layout
}

/// The descriptor with a member set.
pub(crate) fn with(mut descriptor: Value, key: &str, value: Value) -> Value {
    descriptor[key] = value;
    descriptor
}
