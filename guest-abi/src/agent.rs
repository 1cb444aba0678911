//! The attestation agent's messages (vsock 9001). Anyone in the parent may dial it, so it takes a nonce
//! and nothing else: with `user_data` or `public_key` a stranger could speak for the application, or have
//! a KMS encrypt to a key of its own. Such keys are refused, not ignored. One request per connection.

use nsm::cbor::{self, Limits};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::Error;

/// Bytes of a request frame, at most.
pub const MAX_REQUEST: usize = 4096;

/// Bytes of a reply frame, at most. A document is about 5 KiB, and the device gives at most 12 KiB.
pub const MAX_REPLY: usize = 16_384;

/// Bytes of a nonce, at most.
pub const MAX_NONCE: usize = 512;

/// Bytes of the text of an error, at most, so that a reply always fits its frame.
const MAX_ERROR: usize = 1024;

const REQUEST: &str = "agent request";
const REPLY: &str = "agent reply";

/// A request for a fresh document: `{"nonce": bstr}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentRequest {
    nonce: ByteBuf,
}

impl AgentRequest {
    /// Asks for a document with `nonce` in it, at most [`MAX_NONCE`] bytes (an empty one is one too).
    ///
    /// # Errors
    /// [`Error::NonceTooLong`].
    pub fn new(nonce: impl Into<Vec<u8>>) -> Result<Self, Error> {
        let nonce = nonce.into();
        if nonce.len() > MAX_NONCE {
            return Err(Error::NonceTooLong { length: nonce.len() });
        }
        Ok(Self { nonce: ByteBuf::from(nonce) })
    }

    /// The nonce, at most [`MAX_NONCE`] bytes.
    #[must_use]
    pub fn nonce(&self) -> &[u8] {
        &self.nonce
    }

    /// The CBOR, without the frame.
    ///
    /// # Errors
    /// [`Error::Encode`].
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        cbor::to_vec(self).map_err(|source| Error::Encode { message: REQUEST, source })
    }

    /// Reads the CBOR of one frame.
    ///
    /// # Errors
    /// [`Error::Malformed`] for anything but a map with `nonce` alone, [`Error::NonceTooLong`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let request: Self = cbor::from_slice(bytes, &Limits::new(MAX_REQUEST).non_minimal())
            .map_err(|source| Error::Malformed { message: REQUEST, source })?;
        Self::new(request.nonce.into_vec())
    }
}

/// What the agent answers: `{"document": bstr}` or `{"error": text}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentReply {
    /// An attestation document, a COSE_Sign1.
    Document(ByteBuf),
    /// Why there is none, in a sentence.
    Error(String),
}

impl AgentReply {
    /// A reply with `text`, cut to a length that fits the frame whatever it was made from.
    #[must_use]
    pub fn error(text: &str) -> Self {
        let mut end = text.len().min(MAX_ERROR);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Self::Error(text[..end].to_owned())
    }

    /// The CBOR, without the frame.
    ///
    /// # Errors
    /// [`Error::Encode`].
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        cbor::to_vec(self).map_err(|source| Error::Encode { message: REPLY, source })
    }

    /// Reads the CBOR of one frame.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        cbor::from_slice(bytes, &Limits::new(MAX_REPLY))
            .map_err(|source| Error::Malformed { message: REPLY, source })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `{"nonce": h'0102'}`, written by hand from RFC 8949.
    const BYTES: &[u8] = b"\xa1\x65nonce\x42\x01\x02";

    #[test]
    fn golden_bytes() {
        let request = AgentRequest::new([1, 2]).unwrap();
        assert_eq!(request.encode().unwrap(), BYTES);
        assert_eq!(AgentRequest::decode(BYTES).unwrap(), request);

        let document = AgentReply::Document(ByteBuf::from([0x84, 0x44]));
        assert_eq!(document.encode().unwrap(), b"\xa1\x68document\x42\x84\x44");
        assert_eq!(AgentReply::decode(b"\xa1\x68document\x42\x84\x44").unwrap(), document);

        let error = AgentReply::error("no");
        assert_eq!(error.encode().unwrap(), b"\xa1\x65error\x62no");
        assert_eq!(AgentReply::decode(b"\xa1\x65error\x62no").unwrap(), error);
    }

    #[test]
    fn every_other_key_is_refused() {
        for other in [
            &b"\xa2\x65nonce\x41\x01\x6apublic_key\x41\x01"[..],
            b"\xa2\x65nonce\x41\x01\x69user_data\x41\x01",
            b"\xa2\x65nonce\x41\x01\x69user_data\xf6",
            b"\xa1\x69user_data\x41\x01",
            b"\xa2\x65nonce\x41\x01\x65nonce\x41\x02",
            b"\xa0",
        ] {
            let error = AgentRequest::decode(other).unwrap_err();
            assert!(matches!(error, Error::Malformed { .. }), "{other:?}: {error}");
        }
    }

    #[test]
    fn wrong_types_and_trailing_bytes_are_refused() {
        for other in [
            &b""[..],
            b"\xa1\x65nonce\xf6",
            b"\xa1\x65nonce\x01",
            b"\xa1\x65nonce\x42\x01\x02\x00",
            b"\xa1\x65nonce\x42\x01",
            b"\xf6",
        ] {
            assert!(AgentRequest::decode(other).is_err(), "{other:?}");
        }
    }

    #[test]
    fn the_longest_nonce() {
        let longest = AgentRequest::new(vec![7; MAX_NONCE]).unwrap();
        assert_eq!(AgentRequest::decode(&longest.encode().unwrap()).unwrap(), longest);
        assert!(matches!(
            AgentRequest::new(vec![7; MAX_NONCE + 1]),
            Err(Error::NonceTooLong { length: 513 })
        ));
        let mut bytes = b"\xa1\x65nonce\x59\x02\x01".to_vec();
        bytes.extend([7; MAX_NONCE + 1]);
        assert!(matches!(AgentRequest::decode(&bytes), Err(Error::NonceTooLong { length: 513 })));
    }

    #[test]
    fn a_long_error_is_cut_at_a_character() {
        let AgentReply::Error(text) = AgentReply::error(&"ä".repeat(5000)) else { unreachable!() };
        assert_eq!(text, "ä".repeat(512));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(request) = AgentRequest::decode(&bytes) {
                prop_assert_eq!(AgentRequest::decode(&request.encode().unwrap()).unwrap(), request);
            }
        }
    }
}
