//! The JSON documents of an OCI image, as far as they matter here (image-spec: descriptor.md,
//! image-index.md, manifest.md, config.md). Fields that are not known are passed over, as that
//! standard asks; Docker's older media types are the same documents under other names.

use std::collections::HashMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::blob::Digest;
use crate::Error;
use crate::error::shown;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// What an index entry points to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum DocumentKind {
    Index,
    Manifest,
}

/// How the tar archive of a layer is packed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    digest: String,
    pub(super) size: u64,
    pub(super) platform: Option<Platform>,
    #[serde(default)]
    annotations: Option<HashMap<String, String>>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Index {
    #[serde(default)]
    pub(super) manifests: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Manifest {
    pub(super) config: Descriptor,
    #[serde(default)]
    pub(super) layers: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Config {
    #[serde(flatten)]
    pub(super) platform: Platform,
    pub(super) created: Option<String>,
    pub(super) config: Option<Execution>,
    pub(super) rootfs: RootFs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Execution {
    pub(super) entrypoint: Option<Vec<String>>,
    pub(super) cmd: Option<Vec<String>>,
    pub(super) env: Option<Vec<String>>,
    pub(super) working_dir: Option<String>,
    pub(super) user: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct RootFs {
    #[serde(default)]
    pub(super) diff_ids: Vec<String>,
}

/// The file `oci-layout`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Marker {
    pub(super) image_layout_version: String,
}

impl Platform {
    pub(super) fn is_linux_amd64(&self) -> bool {
        self.os == "linux" && self.architecture == "amd64"
    }

    pub(super) fn text(&self) -> String {
        shown(format!("{}/{}", self.os, self.architecture).as_bytes())
    }
}

impl Descriptor {
    pub(super) fn digest(&self) -> Result<Digest, Error> {
        Digest::parse(&self.digest).ok_or_else(|| Error::Oci {
            file: "descriptor".to_owned(),
            problem: format!(
                "digest `{}` is not sha256 or sha512 in lower-case hexadecimal",
                shown(self.digest.as_bytes())
            ),
        })
    }

    /// `None` for other media types: signatures, attestations, artefacts.
    pub(super) fn kind(&self) -> Option<DocumentKind> {
        match self.media_type.as_str() {
            OCI_INDEX | DOCKER_INDEX => Some(DocumentKind::Index),
            OCI_MANIFEST | DOCKER_MANIFEST => Some(DocumentKind::Manifest),
            _ => None,
        }
    }

    /// The name the image has in its layout, where one is noted.
    pub(super) fn name(&self) -> Option<&str> {
        self.annotation("org.opencontainers.image.ref.name")
            .or_else(|| self.annotation("io.containerd.image.name"))
    }

    /// Whether `tag` is meant to find this entry: its name, or the part after the colon of a full
    /// reference.
    pub(super) fn answers_to(&self, tag: &str) -> bool {
        ["org.opencontainers.image.ref.name", "io.containerd.image.name"].iter().any(|key| {
            self.annotation(key).is_some_and(|name| {
                name == tag || name.rsplit_once(':').is_some_and(|(_, last)| last == tag)
            })
        })
    }

    fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }

    /// How a layer of this media type is packed.
    pub(super) fn compression(&self) -> Result<Compression, Error> {
        let refuse = || Error::Oci {
            file: format!("layer {}", shown(self.digest.as_bytes())),
            problem: format!("media type `{}` is not known", shown(self.media_type.as_bytes())),
        };
        let media_type = self.media_type.as_str();
        let packing = media_type
            .strip_prefix("application/vnd.oci.image.layer.v1.tar")
            .or_else(|| {
                media_type.strip_prefix("application/vnd.oci.image.layer.nondistributable.v1.tar")
            })
            .or_else(|| media_type.strip_prefix("application/vnd.docker.image.rootfs.diff.tar"))
            .or_else(|| {
                media_type.strip_prefix("application/vnd.docker.image.rootfs.foreign.diff.tar")
            })
            .ok_or_else(refuse)?;
        match packing {
            "" => Ok(Compression::None),
            "+gzip" | ".gzip" => Ok(Compression::Gzip),
            "+zstd" | ".zstd" => Ok(Compression::Zstd),
            _ => Err(refuse()),
        }
    }
}

/// Reads a document; `file` is named when that fails.
pub(super) fn parse<T: DeserializeOwned>(file: &str, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::Oci { file: file.to_owned(), problem: error.to_string() })
}
