//! The envelope of a document: COSE_Sign1 (RFC 9052 section 4.2), untagged, protected header
//! exactly `{1: -35}` (ES384), nothing unprotected, a raw 96-byte signature. Made with AWS's own
//! COSE library over a key of this crate; opened by a reader of our own, because nothing outside
//! the signed bytes may be changeable without the document being refused.

use aws_nitro_enclaves_cose::CoseSign1;
use aws_nitro_enclaves_cose::crypto::{Hash, MessageDigest, SigningPrivateKey};
use aws_nitro_enclaves_cose::error::CoseError;
use aws_nitro_enclaves_cose::header_map::HeaderMap;
use nsm::cbor::{Limits, Value};
use ring::digest;
use ring::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};

use crate::Error;
use crate::document::MAX_PAYLOAD;
use crate::refusal::{Reason, Refusal};

/// Longest document, bytes: the payload, the signature and what is around them.
pub const MAX_DOCUMENT: usize = MAX_PAYLOAD + 128;
/// Bytes of a signature: r and s of P-384, big-endian.
pub const SIGNATURE_LEN: usize = 96;

/// `{1: -35}`: the algorithm is ES384.
const PROTECTED: &[u8] = &[0xa1, 0x01, 0x38, 0x22];
/// The tag of a COSE_Sign1, which documents do not have but may.
const TAG: u64 = 18;
const LIMITS: Limits = Limits::new(MAX_DOCUMENT).depth(3).tags(&[TAG]);

/// An opened envelope, its signature not yet verified.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Envelope<'a> {
    /// Whether it had tag 18.
    pub tagged: bool,
    /// The signed bytes: the attestation document.
    pub payload: &'a [u8],
    /// r || s.
    pub signature: &'a [u8; SIGNATURE_LEN],
}

impl<'a> Envelope<'a> {
    /// Opens a COSE_Sign1, untagged or with tag 18.
    ///
    /// # Errors
    /// `malformed-cose`, `unsupported-algorithm`, `document-limits`.
    pub fn open(bytes: &'a [u8]) -> Result<Self, Refusal> {
        let value = Value::from_slice(bytes, &LIMITS).map_err(|error| match error {
            nsm::Error::CborTooLong { .. } => {
                Refusal::new(Reason::DocumentLimits, error.to_string())
            }
            _ => malformed(&error.to_string()),
        })?;
        let (tagged, value) = match value {
            Value::Tag(_, inner) => (true, *inner),
            other => (false, other),
        };
        let Value::Array(items) = value else {
            return Err(malformed(&format!("it is {}, not an array", value.kind())));
        };
        let [protected, unprotected, payload, signature] = items.as_slice() else {
            return Err(malformed(&format!("it has {} elements, not 4", items.len())));
        };
        let Value::Bytes(protected) = protected else {
            return Err(malformed("the protected header is not a byte string"));
        };
        if *protected != PROTECTED {
            return Err(Refusal::new(
                Reason::UnsupportedAlgorithm,
                format!(
                    "Protected header is {}, not {} (ES384 and nothing else)",
                    hex::encode(&protected[..protected.len().min(40)]),
                    hex::encode(PROTECTED)
                ),
            ));
        }
        // Nobody signs the unprotected header, so anything in it could be anybody's.
        if *unprotected != Value::Map(Vec::new()) {
            return Err(malformed("the unprotected header is not an empty map"));
        }
        let Value::Bytes(payload) = payload else {
            return Err(malformed("the payload is not a byte string"));
        };
        let Value::Bytes(signature) = signature else {
            return Err(malformed("the signature is not a byte string"));
        };
        let signature = <&[u8; SIGNATURE_LEN]>::try_from(*signature).map_err(|_| {
            malformed(&format!("the signature is {SIGNATURE_LEN} bytes, not {}", signature.len()))
        })?;
        Ok(Self { tagged, payload, signature })
    }

    /// Verifies the signature; `public_key` is an uncompressed P-384 point (97 bytes).
    ///
    /// # Errors
    /// `document-signature`.
    pub fn verify(&self, public_key: &[u8]) -> Result<(), Refusal> {
        UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, public_key)
            .verify(&signed_bytes(self.payload), self.signature)
            .map_err(|_| {
                Refusal::new(
                    Reason::DocumentSignature,
                    "Document's signature does not verify under its own certificate",
                )
            })
    }
}

/// Signs a payload and returns the untagged COSE_Sign1.
///
/// # Errors
/// [`Error::Cose`] when the key cannot sign.
pub fn sign(payload: &[u8], key: &dyn SigningPrivateKey) -> Result<Vec<u8>, Error> {
    CoseSign1::new::<Sha384>(payload, &HeaderMap::new(), key)
        .and_then(|cose| cose.as_bytes(false))
        .map_err(|error| Error::Cose { detail: error.to_string() })
}

/// `["Signature1", protected, h'', payload]`, RFC 9052 section 4.4.
fn signed_bytes(payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(payload.len() + 32);
    bytes.extend_from_slice(b"\x84\x6aSignature1\x44");
    bytes.extend_from_slice(PROTECTED);
    bytes.push(0x40);
    // An opened payload is under 64 KiB and was in the shortest form; so is this.
    let [.., high, low] = payload.len().to_be_bytes();
    match (high, low) {
        (0, 0..24) => bytes.push(0x40 | low),
        (0, _) => bytes.extend_from_slice(&[0x58, low]),
        _ => bytes.extend_from_slice(&[0x59, high, low]),
    }
    bytes.extend_from_slice(payload);
    bytes
}

/// SHA-384 for the COSE library.
struct Sha384;

impl Hash for Sha384 {
    fn hash(algorithm: MessageDigest, data: &[u8]) -> Result<Vec<u8>, CoseError> {
        match algorithm {
            MessageDigest::Sha384 => Ok(digest::digest(&digest::SHA384, data).as_ref().to_vec()),
            other => Err(CoseError::UnsupportedError(format!("{other:?}"))),
        }
    }
}

fn malformed(detail: &str) -> Refusal {
    Refusal::new(Reason::MalformedCose, format!("Not a COSE_Sign1: {detail}"))
}

#[cfg(test)]
mod tests;
