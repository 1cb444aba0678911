//! The messages of `/dev/nsm` (nitro.md 4.3): what a guest asks and what the device answers, in
//! the encoding of AWS's Rust library: a name alone, or a map from the name to the arguments. Keys
//! are written in one order and read in any; the reader takes whatever clients in use send (wide
//! integers, indefinite maps, text for bytes, missing optional values) and nothing that is not
//! well-formed.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::cbor::{self, Limits, Value};
use crate::{Error, Pcr};

/// Longest request, bytes.
pub const MAX_REQUEST: usize = 0x1000;
/// Longest response, bytes; the size of the buffer the Linux driver posts.
pub const MAX_RESPONSE: usize = 0x3000;
/// Longest `user_data`, `nonce` or `public_key` the device puts into a document, bytes.
pub const MAX_ATTESTATION_FIELD: usize = 1024;

const REQUEST_LIMITS: Limits = Limits::new(MAX_REQUEST).indefinite().non_minimal();
const RESPONSE_LIMITS: Limits = Limits::new(MAX_RESPONSE).indefinite().non_minimal();

/// What a guest asks the device.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub enum Request {
    /// Value and lock bit of a register.
    #[serde(rename = "DescribePCR")]
    DescribePcr {
        /// Register, 0 to 31.
        index: u16,
    },
    /// Extends a register: SHA-384(old value || data).
    #[serde(rename = "ExtendPCR")]
    ExtendPcr {
        /// Register, 0 to 31.
        index: u16,
        /// Extended as it is, not hashed before.
        #[serde(with = "serde_bytes")]
        data: Vec<u8>,
    },
    /// Locks a register until the enclave ends.
    #[serde(rename = "LockPCR")]
    LockPcr {
        /// Register, 0 to 31.
        index: u16,
    },
    /// Locks registers 0 to `range - 1`.
    #[serde(rename = "LockPCRs")]
    LockPcrs {
        /// How many registers, 0 to 32.
        range: u16,
    },
    /// What the device is.
    #[serde(rename = "DescribeNSM")]
    DescribeNsm,
    /// A signed document.
    Attestation(AttestationFields),
    /// Random bytes.
    GetRandom,
}

/// What the guest has put into a document; `None` and empty are different things.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct AttestationFields {
    /// At most [`MAX_ATTESTATION_FIELD`] bytes, chosen by the application.
    #[serde(with = "serde_bytes")]
    pub user_data: Option<Vec<u8>>,
    /// At most [`MAX_ATTESTATION_FIELD`] bytes, chosen by whoever will verify.
    #[serde(with = "serde_bytes")]
    pub nonce: Option<Vec<u8>>,
    /// At most [`MAX_ATTESTATION_FIELD`] bytes: the key answers may be encrypted to.
    #[serde(with = "serde_bytes")]
    pub public_key: Option<Vec<u8>>,
}

/// What the device answers.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub enum Response {
    /// To [`Request::DescribePcr`].
    #[serde(rename = "DescribePCR")]
    DescribePcr {
        /// Whether the register is locked.
        lock: bool,
        /// Its value.
        data: Pcr,
    },
    /// To [`Request::ExtendPcr`].
    #[serde(rename = "ExtendPCR")]
    ExtendPcr {
        /// The new value.
        data: Pcr,
    },
    /// To [`Request::LockPcr`].
    #[serde(rename = "LockPCR")]
    LockPcr,
    /// To [`Request::LockPcrs`].
    #[serde(rename = "LockPCRs")]
    LockPcrs,
    /// To [`Request::DescribeNsm`].
    #[serde(rename = "DescribeNSM")]
    DescribeNsm {
        /// 1.
        version_major: u16,
        /// 0.
        version_minor: u16,
        /// 0.
        version_patch: u16,
        /// The enclave's id.
        module_id: String,
        /// 32.
        max_pcrs: u16,
        /// Indices of the locked registers, ascending.
        locked_pcrs: BTreeSet<u16>,
        /// What registers are extended with.
        digest: Digest,
    },
    /// To [`Request::Attestation`].
    Attestation {
        /// The signed document, COSE_Sign1.
        #[serde(with = "serde_bytes")]
        document: Vec<u8>,
    },
    /// To [`Request::GetRandom`].
    GetRandom {
        /// Random bytes, 24 at least.
        #[serde(with = "serde_bytes")]
        random: Vec<u8>,
    },
    /// To any request that failed.
    Error(ErrorCode),
}

/// The hash a module's registers are extended with.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Deserialize, Serialize)]
pub enum Digest {
    /// 32 bytes.
    #[serde(rename = "SHA256")]
    Sha256,
    /// 48 bytes: the only one in use.
    #[serde(rename = "SHA384")]
    Sha384,
    /// 64 bytes.
    #[serde(rename = "SHA512")]
    Sha512,
}

/// Why a request failed; the number is the one of AWS's C library.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Deserialize, Serialize)]
pub enum ErrorCode {
    /// No error.
    Success = 0,
    /// An argument is of the right type but not allowed.
    InvalidArgument = 1,
    /// There is no such register.
    InvalidIndex = 2,
    /// The device answered something else than was asked (said by libraries, not by the device).
    InvalidResponse = 3,
    /// The register is locked.
    ReadOnlyIndex = 4,
    /// The request cannot be understood.
    InvalidOperation = 5,
    /// The response is longer than the buffer for it.
    BufferTooSmall = 6,
    /// The request is longer than [`MAX_REQUEST`].
    InputTooLarge = 7,
    /// The device failed.
    InternalError = 8,
}

impl Request {
    /// The bytes for the device.
    ///
    /// # Errors
    /// [`Error::CborTooLong`] for data that does not fit into [`MAX_REQUEST`].
    pub fn to_vec(&self) -> Result<Vec<u8>, Error> {
        let bytes = cbor::to_vec(self)?;
        if bytes.len() > MAX_REQUEST {
            return Err(Error::CborTooLong { len: bytes.len(), max: MAX_REQUEST });
        }
        Ok(bytes)
    }

    /// Reads a request as the device does. An index too wide for its type is read as 65535: it is
    /// no register either way. Arguments with unknown names are ignored.
    ///
    /// # Errors
    /// Every `Cbor…` variant of [`Error`].
    pub fn from_slice(bytes: &[u8]) -> Result<Self, Error> {
        match Value::from_slice(bytes, &REQUEST_LIMITS)? {
            Value::Text(name) => Self::from_parts(name, &Arguments(&[])),
            Value::Map(entries) => match entries.as_slice() {
                [(Value::Text(name), Value::Map(arguments))] => {
                    Self::from_parts(name, &Arguments(arguments))
                }
                [(Value::Text(name), Value::Null)] => Self::from_parts(name, &Arguments(&[])),
                _ => Err(shape("a request is a map of one name to a map of arguments".to_owned())),
            },
            other => Err(shape(format!("a request is a text or a map, not {}", other.kind()))),
        }
    }

    fn from_parts(name: &str, arguments: &Arguments<'_>) -> Result<Self, Error> {
        Ok(match name {
            "DescribePCR" => Self::DescribePcr { index: arguments.number("index")? },
            "ExtendPCR" => {
                let index = arguments.number("index")?;
                let data = arguments
                    .bytes("data")?
                    .ok_or_else(|| shape("ExtendPCR has no data".to_owned()))?;
                Self::ExtendPcr { index, data }
            }
            "LockPCR" => Self::LockPcr { index: arguments.number("index")? },
            "LockPCRs" => Self::LockPcrs { range: arguments.number("range")? },
            "DescribeNSM" => Self::DescribeNsm,
            "GetRandom" => Self::GetRandom,
            "Attestation" => Self::Attestation(AttestationFields {
                user_data: arguments.bytes("user_data")?,
                nonce: arguments.bytes("nonce")?,
                public_key: arguments.bytes("public_key")?,
            }),
            _ => return Err(shape("no request has this name".to_owned())),
        })
    }
}

impl Response {
    /// The bytes for the guest.
    ///
    /// # Errors
    /// [`Error::CborEncode`], in practice never.
    pub fn to_vec(&self) -> Result<Vec<u8>, Error> {
        cbor::to_vec(self)
    }

    /// Reads a response as a client does.
    ///
    /// # Errors
    /// Every `Cbor…` variant of [`Error`].
    pub fn from_slice(bytes: &[u8]) -> Result<Self, Error> {
        cbor::from_slice(bytes, &RESPONSE_LIMITS)
    }
}

struct Arguments<'a>(&'a [(Value<'a>, Value<'a>)]);

impl Arguments<'_> {
    fn get(&self, name: &str) -> Option<&Value<'_>> {
        self.0.iter().find(|(key, _)| *key == Value::Text(name)).map(|(_, value)| value)
    }

    fn number(&self, name: &str) -> Result<u16, Error> {
        match self.get(name) {
            Some(Value::Unsigned(value)) => Ok(u16::try_from(*value).unwrap_or(u16::MAX)),
            Some(other) => Err(shape(format!("{name} is a number, not {}", other.kind()))),
            None => Err(shape(format!("the argument {name} is missing"))),
        }
    }

    fn bytes(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        match self.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bytes(bytes)) => Ok(Some(bytes.to_vec())),
            Some(Value::Text(text)) => Ok(Some(text.as_bytes().to_vec())),
            Some(other) => Err(shape(format!("{name} is a byte string, not {}", other.kind()))),
        }
    }
}

fn shape(detail: String) -> Error {
    Error::CborShape { detail }
}

#[cfg(test)]
mod tests;
