//! An enclave as `run-enclave` and `describe-enclaves` print it: nitro-cli's field names and their order, so that scripts written for
//! nitro-cli read it. Optional fields that are absent are left out, as there.

use serde::{Deserialize, Serialize};

/// What `run-enclave` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RunDescription {
    /// Its name, unique among those running.
    pub enclave_name: String,
    /// `i-<17 hex>-enc<16 hex>`.
    #[serde(rename = "EnclaveID")]
    pub enclave_id: String,
    /// The keeper, root of its process tree.
    #[serde(rename = "ProcessID")]
    pub process_id: u32,
    /// Its vsock address.
    #[serde(rename = "EnclaveCID")]
    pub enclave_cid: u32,
    /// How many.
    #[serde(rename = "NumberOfCPUs")]
    pub number_of_cpus: usize,
    /// Which CPUs of the parent.
    #[serde(rename = "CPUIDs")]
    pub cpu_ids: Vec<u32>,
    /// Memory, MiB.
    #[serde(rename = "MemoryMiB")]
    pub memory_mib: u64,
}

/// One element of what `describe-enclaves` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct EnclaveDescription {
    /// The fields `run-enclave` prints.
    #[serde(flatten)]
    pub run: RunDescription,
    /// What it does now.
    pub state: State,
    /// Debug mode or not.
    pub flags: Flags,
    /// The image's PCRs as built, also in debug mode.
    pub measurements: Measurements,
    /// From the image; shown with `--metadata`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_name: Option<String>,
    /// From the image; shown with `--metadata`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_version: Option<String>,
    /// From the image; shown with `--metadata`. A label that nothing vouches for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<serde_json::Value>,
}

impl EnclaveDescription {
    /// Without what `--metadata` shows.
    #[must_use]
    pub fn without_metadata(mut self) -> Self {
        self.image_name = None;
        self.image_version = None;
        self.metadata = None;
        self
    }
}

/// nitro-cli's states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum State {
    /// Up.
    Running,
    /// On its way out.
    Terminating,
    /// Not up yet.
    Empty,
}

/// nitro-cli's flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Flags {
    /// An ordinary enclave.
    #[serde(rename = "NONE")]
    None,
    /// Console open, PCRs 0 to 2 and 8 zero in its documents.
    #[serde(rename = "DEBUG_MODE")]
    DebugMode,
}

/// The image's registers, 96 lower-case hex digits each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measurements {
    /// nitro-cli's literal text.
    #[serde(rename = "HashAlgorithm")]
    pub hash_algorithm: String,
    /// The whole image.
    #[serde(rename = "PCR0")]
    pub pcr0: String,
    /// Kernel, command line and boot ramdisk.
    #[serde(rename = "PCR1")]
    pub pcr1: String,
    /// The application's ramdisks.
    #[serde(rename = "PCR2")]
    pub pcr2: String,
    /// The signing certificate, if signed.
    #[serde(rename = "PCR8", skip_serializing_if = "Option::is_none")]
    pub pcr8: Option<String>,
}

/// What nitro-cli prints as `HashAlgorithm`.
pub const HASH_ALGORITHM: &str = "Sha384 { ... }";

#[cfg(test)]
pub(crate) fn example(id: &str, name: &str, cid: u32) -> EnclaveDescription {
    EnclaveDescription {
        run: RunDescription {
            enclave_name: name.to_owned(),
            enclave_id: id.to_owned(),
            process_id: 77,
            enclave_cid: cid,
            number_of_cpus: 2,
            cpu_ids: vec![2, 3],
            memory_mib: 256,
        },
        state: State::Running,
        flags: Flags::None,
        measurements: Measurements {
            hash_algorithm: HASH_ALGORITHM.to_owned(),
            pcr0: "00".repeat(48),
            pcr1: "11".repeat(48),
            pcr2: "22".repeat(48),
            pcr8: None,
        },
        image_name: Some("hello".to_owned()),
        image_version: None,
        metadata: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_names_and_order_are_nitro_clis() {
        let text = serde_json::to_string(&example("i-0-enc1", "hello", 16).run).unwrap();
        assert_eq!(
            text,
            r#"{"EnclaveName":"hello","EnclaveID":"i-0-enc1","ProcessID":77,"EnclaveCID":16,"NumberOfCPUs":2,"CPUIDs":[2,3],"MemoryMiB":256}"#
        );
    }

    #[test]
    fn a_description_comes_back() {
        let whole = example("i-0-enc1", "hello", 16);
        let text = serde_json::to_string(&whole).unwrap();
        assert!(text.contains(r#""State":"RUNNING","Flags":"NONE","Measurements":{"HashAlgorithm":"Sha384 { ... }","PCR0""#));
        assert!(text.contains(r#""ImageName":"hello""#) && !text.contains("PCR8"));
        assert_eq!(serde_json::from_str::<EnclaveDescription>(&text).unwrap(), whole);
        assert!(!serde_json::to_string(&whole.without_metadata()).unwrap().contains("ImageName"));
    }
}
