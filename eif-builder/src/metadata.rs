//! The metadata section (nitro.md 1.5): JSON that labels an image. It is in no PCR and under no
//! signature, only the CRC covers it, so nothing may be decided by it. It depends on the inputs alone:
//! the time in it is `SOURCE_DATE_EPOCH`, or the image's own, or 1970, never the clock.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::Error;
use crate::error::shown;

/// The longest file of custom metadata, in bytes; nitro-cli's limit.
pub const MAX_CUSTOM: usize = 4096;

/// The whole section, fields in this order.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Metadata {
    /// A name for people.
    pub image_name: String,
    /// A version for people.
    pub image_version: String,
    /// What built it, from what.
    pub build_metadata: BuildMetadata,
    /// What `docker inspect` says about the image, where a Docker engine was asked; else null.
    #[serde(default)]
    pub docker_info: Value,
    /// The object the user gave, or null.
    #[serde(default)]
    pub custom_metadata: Value,
}

/// What built an image, from what.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct BuildMetadata {
    /// RFC 3339.
    pub build_time: String,
    /// For example `eif-builder`.
    pub build_tool: String,
    /// Its version.
    pub build_tool_version: String,
    /// For example `Linux`.
    pub operating_system: String,
    /// For example `6.12.57`.
    pub kernel_version: String,
    /// SHA-256 of the kernel, hexadecimal, as `sha256sum` prints it. Ours; AWS's tools pass over it.
    #[serde(rename = "KernelSHA256", default, skip_serializing_if = "Option::is_none")]
    pub kernel_sha256: Option<String>,
    /// SHA-256 of the init in the boot ramdisk. Ours as well.
    #[serde(rename = "InitSHA256", default, skip_serializing_if = "Option::is_none")]
    pub init_sha256: Option<String>,
}

impl BuildMetadata {
    /// The names of its fields in JSON.
    pub(crate) const MEMBERS: [&str; 7] = [
        "BuildTime",
        "BuildTool",
        "BuildToolVersion",
        "OperatingSystem",
        "KernelVersion",
        "KernelSHA256",
        "InitSHA256",
    ];

    /// Made by this crate, of a kernel about which nothing is known, in 1970.
    #[must_use]
    pub fn new() -> Self {
        Self {
            build_time: "1970-01-01T00:00:00Z".to_owned(),
            build_tool: env!("CARGO_PKG_NAME").to_owned(),
            build_tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            operating_system: "OS".to_owned(),
            kernel_version: "kernel".to_owned(),
            kernel_sha256: None,
            init_sha256: None,
        }
    }

    /// Takes operating system and version from a kernel's `.config`, whose third line is
    /// `# Linux/x86_64 6.12.57 Kernel Configuration`. Says whether they were there.
    pub fn read_kernel_config(&mut self, config: &[u8]) -> bool {
        let line = config.split(|byte| *byte == b'\n').nth(2).unwrap_or_default();
        let Some((system, version)) = kernel_line(line) else {
            return false;
        };
        self.operating_system = system.to_owned();
        self.kernel_version = version.to_owned();
        true
    }
}

impl Default for BuildMetadata {
    fn default() -> Self {
        Self::new()
    }
}

fn kernel_line(line: &[u8]) -> Option<(&str, &str)> {
    let mut words = std::str::from_utf8(line).ok()?.strip_prefix("# ")?.split_ascii_whitespace();
    let (system, _architecture) = words.next()?.split_once('/')?;
    // What the distribution appended to the version is not part of it.
    let version = words.next()?.split('-').next()?;
    words.next().filter(|word| *word == "Kernel").map(|_| (system, version))
}

impl Metadata {
    /// The section's bytes.
    ///
    /// # Errors
    /// [`Error::MetadataJson`] for what JSON cannot express; that takes a broken `Value`.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        serde_json::to_vec(self)
            .map_err(|error| Error::MetadataJson { offset: 0, detail: error.to_string() })
    }

    /// Reads a section; `None` where it is not of this shape, as in files not made by `nitro-cli`.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

/// Reads a file of custom metadata: a JSON object of at most [`MAX_CUSTOM`] bytes.
///
/// # Errors
/// [`Error::Option`], naming `file`.
pub fn custom(file: &str, bytes: &[u8]) -> Result<Value, Error> {
    let refuse = |problem: String| Error::Option {
        option: "--metadata",
        value: shown(file.as_bytes()),
        problem,
    };
    if bytes.len() > MAX_CUSTOM {
        let problem = format!("{} bytes, the limit is {MAX_CUSTOM}", bytes.len());
        return Err(refuse(problem));
    }
    let object: Map<String, Value> =
        serde_json::from_slice(bytes).map_err(|error| refuse(error.to_string()))?;
    Ok(Value::Object(object))
}

/// The time that goes into an image: `SOURCE_DATE_EPOCH` (seconds since 1970) if given, else what the
/// image says about itself, else 1970. RFC 3339, UTC, whole seconds.
///
/// # Errors
/// [`Error::Option`] for a text that is no number, a time beyond the year 9999, or an image's
/// `created` that is no time.
pub fn build_time(epoch: Option<&str>, created: Option<&str>) -> Result<String, Error> {
    let refuse = |option, value: &str, problem: String| Error::Option {
        option,
        value: shown(value.as_bytes()),
        problem,
    };
    let time = match (epoch, created) {
        (Some(epoch), _) => {
            let seconds: u32 = epoch.trim().parse().map_err(|_| {
                let problem = "not seconds since 1970, up to the year 2106".to_owned();
                refuse("SOURCE_DATE_EPOCH", epoch, problem)
            })?;
            OffsetDateTime::from_unix_timestamp(i64::from(seconds))
                .map_err(|error| refuse("SOURCE_DATE_EPOCH", epoch, error.to_string()))?
        }
        (None, Some(created)) => OffsetDateTime::parse(created, &Rfc3339)
            .map_err(|error| refuse("the image's `created`", created, error.to_string()))?,
        (None, None) => OffsetDateTime::UNIX_EPOCH,
    };
    let whole = time.to_offset(time::UtcOffset::UTC).truncate_to_second();
    whole
        .format(&Rfc3339)
        .map_err(|error| refuse("time", &whole.unix_timestamp().to_string(), error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_awss_shape_and_order() {
        let metadata = Metadata {
            image_name: "hello".into(),
            image_version: "1.0".into(),
            build_metadata: BuildMetadata::new(),
            docker_info: Value::Null,
            custom_metadata: Value::Null,
        };
        let bytes = metadata.to_bytes().unwrap();
        let expected = format!(
            "{{\"ImageName\":\"hello\",\"ImageVersion\":\"1.0\",\"BuildMetadata\":{{\
             \"BuildTime\":\"1970-01-01T00:00:00Z\",\"BuildTool\":\"eif-builder\",\
             \"BuildToolVersion\":\"{}\",\"OperatingSystem\":\"OS\",\"KernelVersion\":\"kernel\"}},\
             \"DockerInfo\":null,\"CustomMetadata\":null}}",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(String::from_utf8(bytes.clone()).unwrap(), expected);
        assert_eq!(Metadata::from_bytes(&bytes), Some(metadata));
        assert_eq!(Metadata::from_bytes(b"{}"), None);
    }

    #[test]
    fn reads_the_third_line_of_a_kernel_config() {
        let mut build = BuildMetadata::new();
        let config = b"#\n# Automatically generated file; DO NOT EDIT.\n\
                       # Linux/x86_64 4.14.256-209.484.amzn2 Kernel Configuration\n#\n";
        assert!(build.read_kernel_config(config));
        assert_eq!((&*build.operating_system, &*build.kernel_version), ("Linux", "4.14.256"));
        let mut build = BuildMetadata::new();
        for config in
            [&b""[..], b"\n\n# Linux 6.12\n", b"\n\nCONFIG_A=y\n", b"\n\n# \xff/x 1 Kernel"]
        {
            assert!(!build.read_kernel_config(config));
        }
        assert_eq!(build, BuildMetadata::new());
    }

    #[test]
    fn the_time_is_never_the_clocks() {
        let time = |epoch, created| build_time(epoch, created).unwrap();
        assert_eq!(time(None, None), "1970-01-01T00:00:00Z");
        assert_eq!(time(Some("1700000000"), Some("junk")), "2023-11-14T22:13:20Z");
        assert_eq!(time(None, Some("2026-01-02T03:04:05.678+02:00")), "2026-01-02T01:04:05Z");
        for epoch in ["", "-1", "1e9", "99999999999"] {
            assert!(build_time(Some(epoch), None).is_err(), "{epoch}");
        }
        assert!(build_time(None, Some("yesterday")).is_err());
    }

    #[test]
    fn custom_metadata_is_a_small_object() {
        assert_eq!(custom("f", b"{\"a\":1}").unwrap()["a"], 1);
        assert!(custom("f", b"[]").is_err());
        assert!(custom("f", b"{").is_err());
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(MAX_CUSTOM));
        assert!(custom("f", long.as_bytes()).unwrap_err().to_string().contains("4096"));
    }
}
