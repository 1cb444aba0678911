//! The payload of an attestation document (nitro.md 5.1): written in the one order and with the
//! types AWS uses, absent values as null, because verifiers in use depend on it; read strictly,
//! with a definite or an indefinite outer map, since AWS has sent both.

use std::collections::BTreeMap;

use nsm::cbor::{self, Limits, Value};
use nsm::{Claims, Pcr};
use serde::{Serialize, Serializer};
use serde_bytes::Bytes;

use crate::Error;
use crate::authority::LeafChain;
use crate::refusal::{Reason, Refusal};

/// Longest payload, bytes.
pub const MAX_PAYLOAD: usize = 16384;
/// Longest certificate, bytes of DER.
pub const MAX_CERTIFICATE: usize = 1024;
/// The hash behind the registers; no document has another.
pub const DIGEST: &str = "SHA384";
/// Longest `user_data`, `nonce` and `public_key` that the specification allows; a verifier accepts
/// more, for AWS's hardware does, and says so.
pub const FIELD_LIMIT: usize = nsm::message::MAX_ATTESTATION_FIELD;

const LIMITS: Limits = Limits::new(MAX_PAYLOAD).depth(2).indefinite();
const KEYS: [&str; 9] = [
    "module_id",
    "digest",
    "timestamp",
    "pcrs",
    "certificate",
    "cabundle",
    "public_key",
    "user_data",
    "nonce",
];

/// What a document states, before it is signed or after it was read. Its digest is always SHA-384.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AttestationDocument {
    /// The enclave's id.
    pub module_id: String,
    /// When it was made, milliseconds since 1970.
    pub timestamp_ms: u64,
    /// The registers that were locked, by index (0 to 31).
    pub pcrs: BTreeMap<u8, Pcr>,
    /// The certificate of the signing key, DER.
    pub certificate: Vec<u8>,
    /// From the root to the issuer of `certificate`, DER each.
    pub cabundle: Vec<Vec<u8>>,
    /// A key that answers may be encrypted to, as the enclave gave it.
    pub public_key: Option<Vec<u8>>,
    /// Whatever the enclave put in. Empty and absent are different things.
    pub user_data: Option<Vec<u8>>,
    /// Whatever the verifier asked the enclave to put in.
    pub nonce: Option<Vec<u8>>,
}

/// The payload map; serde writes the fields in this order.
#[derive(Serialize)]
struct Payload<'a> {
    module_id: &'a str,
    digest: &'static str,
    timestamp: u64,
    pcrs: &'a BTreeMap<u8, Pcr>,
    certificate: &'a Bytes,
    #[serde(serialize_with = "byte_strings")]
    cabundle: &'a [Vec<u8>],
    public_key: Option<&'a Bytes>,
    user_data: Option<&'a Bytes>,
    nonce: Option<&'a Bytes>,
}

fn byte_strings<S: Serializer>(items: &&[Vec<u8>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(items.iter().map(|item| Bytes::new(item)))
}

impl AttestationDocument {
    /// What the device claims, with the certificates of the key that will sign it.
    #[must_use]
    pub fn new(claims: &Claims, chain: &LeafChain) -> Self {
        let fields = claims.fields.clone();
        Self {
            module_id: claims.module_id.as_str().to_owned(),
            timestamp_ms: claims.timestamp_ms,
            pcrs: claims.pcrs.clone(),
            certificate: chain.leaf.clone(),
            cabundle: chain.cabundle.clone(),
            public_key: fields.public_key,
            user_data: fields.user_data,
            nonce: fields.nonce,
        }
    }

    /// The payload's bytes.
    ///
    /// # Errors
    /// [`Error::Encode`], in practice never.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let payload = Payload {
            module_id: &self.module_id,
            digest: DIGEST,
            timestamp: self.timestamp_ms,
            pcrs: &self.pcrs,
            certificate: Bytes::new(&self.certificate),
            cabundle: &self.cabundle,
            public_key: self.public_key.as_deref().map(Bytes::new),
            user_data: self.user_data.as_deref().map(Bytes::new),
            nonce: self.nonce.as_deref().map(Bytes::new),
        };
        cbor::to_vec(&payload).map_err(Error::Encode)
    }

    /// Reads a payload: exactly the keys of nitro.md 5.1, in any order, the three optional ones
    /// null or absent, everything within its limits.
    ///
    /// # Errors
    /// `malformed-document` and `document-limits`.
    pub fn decode(payload: &[u8]) -> Result<Self, Refusal> {
        let value = Value::from_slice(payload, &LIMITS).map_err(|error| match error {
            nsm::Error::CborTooLong { .. } => limits(format!("Payload: {error}")),
            _ => malformed(format!("Payload: {error}")),
        })?;
        let Value::Map(entries) = value else {
            return Err(malformed(format!("Payload is a map, not {}", value.kind())));
        };
        let mut fields = BTreeMap::new();
        for (key, value) in entries {
            match key {
                Value::Text(key) if KEYS.contains(&key) => fields.insert(key, value),
                other => return Err(malformed(format!("Payload has an unknown key {other:.80?}"))),
            };
        }
        let mut take = |key| fields.remove(key).unwrap_or(Value::Null);

        let module_id = match take("module_id") {
            Value::Text("") => return Err(limits("module_id is empty".to_owned())),
            Value::Text(text) => text.to_owned(),
            other => return Err(wrong("module_id", "a text", &other)),
        };
        match take("digest") {
            Value::Text(DIGEST) => {}
            Value::Text(other) => {
                return Err(limits(format!("digest is {DIGEST}, not {other:.40?}")));
            }
            other => return Err(wrong("digest", "a text", &other)),
        }
        let timestamp_ms = match take("timestamp") {
            Value::Unsigned(0) => return Err(limits("timestamp is 0".to_owned())),
            Value::Unsigned(value) => value,
            other => return Err(wrong("timestamp", "a positive integer", &other)),
        };
        let pcrs = pcrs(take("pcrs"))?;
        let certificate = match take("certificate") {
            Value::Bytes(bytes) => within_limits("certificate", bytes)?,
            other => return Err(wrong("certificate", "a byte string", &other)),
        };
        let cabundle = match take("cabundle") {
            Value::Array(items) if items.is_empty() => {
                return Err(limits("cabundle is empty".to_owned()));
            }
            Value::Array(items) => items
                .into_iter()
                .enumerate()
                .map(|(index, item)| match item {
                    Value::Bytes(bytes) => within_limits(&format!("cabundle[{index}]"), bytes),
                    other => Err(wrong(&format!("cabundle[{index}]"), "a byte string", &other)),
                })
                .collect::<Result<Vec<_>, _>>()?,
            other => return Err(wrong("cabundle", "an array", &other)),
        };
        let mut optional = |key| match take(key) {
            Value::Null => Ok(None),
            Value::Bytes(bytes) => Ok(Some(bytes.to_vec())),
            other => Err(wrong(key, "a byte string or null", &other)),
        };
        Ok(Self {
            module_id,
            timestamp_ms,
            pcrs,
            certificate,
            cabundle,
            public_key: optional("public_key")?,
            user_data: optional("user_data")?,
            nonce: optional("nonce")?,
        })
    }

    /// Whether PCR0 says that the enclave ran in debug mode (or says nothing).
    #[must_use]
    pub fn is_debug(&self) -> bool {
        self.pcrs.get(&0).is_none_or(Pcr::is_zero)
    }
}

fn pcrs(value: Value<'_>) -> Result<BTreeMap<u8, Pcr>, Refusal> {
    let Value::Map(entries) = value else { return Err(wrong("pcrs", "a map", &value)) };
    if entries.is_empty() || entries.len() > 32 {
        return Err(limits(format!("pcrs has {} registers, not 1 to 32", entries.len())));
    }
    let mut pcrs = BTreeMap::new();
    for (key, value) in entries {
        let index = match key {
            Value::Unsigned(index @ 0..32) => {
                u8::try_from(index).map_err(|_| limits(format!("there is no PCR{index}")))?
            }
            Value::Unsigned(index) => return Err(limits(format!("There is no PCR{index}"))),
            other => return Err(wrong("an index in pcrs", "an integer from 0 to 31", &other)),
        };
        let Value::Bytes(bytes) = value else {
            return Err(wrong(&format!("PCR{index}"), "a byte string", &value));
        };
        let pcr = Pcr::try_from(bytes).map_err(|_| {
            limits(format!("PCR{index} is 48 bytes (SHA-384), not {}", bytes.len()))
        })?;
        pcrs.insert(index, pcr);
    }
    Ok(pcrs)
}

fn within_limits(name: &str, bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
    match bytes.len() {
        1..=MAX_CERTIFICATE => Ok(bytes.to_vec()),
        len => Err(limits(format!("{name} is 1 to {MAX_CERTIFICATE} bytes, not {len}"))),
    }
}

fn wrong(name: &str, expected: &str, found: &Value<'_>) -> Refusal {
    match found {
        Value::Null => malformed(format!("{name} is missing or null; it is {expected}")),
        other => malformed(format!("{name} is {expected}, not {}", other.kind())),
    }
}

fn malformed(detail: String) -> Refusal {
    Refusal::new(Reason::MalformedDocument, detail)
}

fn limits(detail: String) -> Refusal {
    Refusal::new(Reason::DocumentLimits, detail)
}

#[cfg(test)]
mod tests;
