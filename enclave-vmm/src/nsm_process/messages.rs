//! What keeper and nsm say to each other on the nsm's fd 3: one JSON value a SEQPACKET record. Order: `Setup` → `Measured` → `Certificates` →
//! `Serving`; then `Certificates` again whenever the leaf ages, each answered by `Serving`. Byte strings are hexadecimal.

use attestation::LeafChain;
use nsm::Pcr;
use serde::{Deserialize, Serialize};

use crate::error::Failure;

/// Keeper to nsm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ToNsm {
    /// First message: measure the image and make a key.
    Setup(Setup),
    /// The leaf key's certificates.
    Certificates(Certificates),
}

/// What the nsm cannot know by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// The enclave's id, `module_id` of its documents.
    pub module_id: String,
    /// Whether PCRs 0, 1, 2 and 8 are to be zero in documents.
    pub debug: bool,
    /// Role.
    pub pcr3: Pcr,
    /// Parent.
    pub pcr4: Pcr,
}

/// Certificates in DER, as hex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificates {
    /// Over the nsm's key.
    pub leaf: String,
    /// Root first.
    pub cabundle: Vec<String>,
}

/// Nsm to keeper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FromNsm {
    /// The image is measured (its signature checked, if it has one) and the key made.
    Measured(Measured),
    /// Documents are now signed under the certificates last sent.
    Serving,
    /// The nsm could not go on. Last message.
    Failed(Failure),
}

/// The image's registers as built (also in debug mode) and the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Whole image.
    pub pcr0: Pcr,
    /// Kernel, command line, boot ramdisk.
    pub pcr1: Pcr,
    /// Application.
    pub pcr2: Pcr,
    /// Signer, if signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pcr8: Option<Pcr>,
    /// DER SubjectPublicKeyInfo, as hex.
    pub leaf_public_key: String,
}

impl From<&LeafChain> for Certificates {
    fn from(chain: &LeafChain) -> Self {
        Self {
            leaf: hex::encode(&chain.leaf),
            cabundle: chain.cabundle.iter().map(hex::encode).collect(),
        }
    }
}

impl Certificates {
    /// The bytes.
    ///
    /// # Errors
    /// What is no hex.
    pub fn decode(&self) -> Result<LeafChain, hex::FromHexError> {
        let cabundle = self.cabundle.iter().map(hex::decode).collect::<Result<_, _>>()?;
        Ok(LeafChain { leaf: hex::decode(&self.leaf)?, cabundle })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_pass_as_hex() {
        let chain = LeafChain { leaf: vec![1, 0xfe], cabundle: vec![vec![2], vec![3]] };
        let message = ToNsm::Certificates(Certificates::from(&chain));
        let text = serde_json::to_string(&message).unwrap();
        assert_eq!(text, r#"{"certificates":{"leaf":"01fe","cabundle":["02","03"]}}"#);
        let ToNsm::Certificates(back) = serde_json::from_str(&text).unwrap() else { panic!() };
        assert_eq!(back.decode().unwrap(), chain);
    }
}
