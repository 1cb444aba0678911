//! The CBOR of the signature section, read item by item: serde would take an array for a struct and
//! text for bytes, and here every spelling but one is somebody else's file.

use nsm::Pcr;
use nsm::cbor::{Limits, Value};

use crate::Error;

const SECTION: &str = "signature section";
const COSE: &str = "COSE_Sign1 of the signature section";
const PAYLOAD: &str = "signed payload";

/// The tag of COSE_Sign1. AWS writes none; readers see through it.
const COSE_SIGN1_TAG: u64 = 18;

/// The parts of the structure that are not fixed.
pub(super) struct CoseSign1 {
    pub(super) protected: Vec<u8>,
    pub(super) payload: Vec<u8>,
    pub(super) signature: Vec<u8>,
}

/// Certificate (PEM) and COSE_Sign1 of the section's first element.
pub(super) fn element(bytes: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let Value::Array(elements) = read(SECTION, bytes, &[])? else {
        return Err(malformed(SECTION, "it is not an array"));
    };
    let Some(first) = elements.first() else {
        return Err(malformed(SECTION, "it has no element"));
    };
    let (certificate, signature) =
        two_members(SECTION, first, ["signing_certificate", "signature"])?;
    Ok((integers(SECTION, certificate)?, integers(SECTION, signature)?))
}

pub(super) fn cose_sign1(bytes: &[u8]) -> Result<CoseSign1, Error> {
    let item = match read(COSE, bytes, &[COSE_SIGN1_TAG])? {
        Value::Tag(COSE_SIGN1_TAG, item) => *item,
        item => item,
    };
    let Value::Array(items) = item else {
        return Err(malformed(COSE, "it is not an array"));
    };
    let [Value::Bytes(protected), unprotected, Value::Bytes(payload), Value::Bytes(signature)] =
        items.as_slice()
    else {
        return Err(malformed(COSE, "it is not byte string, map, byte string, byte string"));
    };
    if !matches!(unprotected, Value::Map(members) if members.is_empty()) {
        return Err(malformed(COSE, "its unprotected header is not an empty map"));
    }
    Ok(CoseSign1 {
        protected: protected.to_vec(),
        payload: payload.to_vec(),
        signature: signature.to_vec(),
    })
}

pub(super) fn signed_pcr0(bytes: &[u8]) -> Result<Pcr, Error> {
    let map = read(PAYLOAD, bytes, &[])?;
    let (index, value) = two_members(PAYLOAD, &map, ["register_index", "register_value"])?;
    let value = integers(PAYLOAD, value)?;
    match (index, Pcr::try_from(value.as_slice())) {
        (Value::Unsigned(0), Ok(pcr)) => Ok(pcr),
        (Value::Unsigned(index), _) => {
            let (found, length) = (value.len(), Pcr::LEN);
            let detail =
                format!("register {index} with {found} bytes, expected register 0 with {length}");
            Err(malformed(PAYLOAD, detail))
        }
        (other, _) => Err(malformed(PAYLOAD, format!("register_index is {}", other.kind()))),
    }
}

/// The values of a map that has exactly these keys, in any order.
fn two_members<'a, 'b>(
    part: &'static str,
    map: &'b Value<'a>,
    keys: [&str; 2],
) -> Result<(&'b Value<'a>, &'b Value<'a>), Error> {
    let Value::Map(members) = map else {
        return Err(malformed(part, format!("{}, expected a map", map.kind())));
    };
    let of = |wanted: &str| {
        members.iter().find(|(key, _)| *key == Value::Text(wanted)).map(|(_, value)| value)
    };
    match (of(keys[0]), of(keys[1])) {
        (Some(first), Some(second)) if members.len() == 2 => Ok((first, second)),
        _ => {
            let [first, second] = keys;
            Err(malformed(part, format!("its keys are not {first} and {second}")))
        }
    }
}

/// Bytes written as an array of integers.
fn integers(part: &'static str, array: &Value<'_>) -> Result<Vec<u8>, Error> {
    let Value::Array(items) = array else {
        return Err(malformed(part, format!("{}, expected an array of integers", array.kind())));
    };
    let byte = |item: &Value<'_>| match item {
        Value::Unsigned(value) => u8::try_from(*value).ok(),
        _ => None,
    };
    items
        .iter()
        .map(byte)
        .collect::<Option<Vec<u8>>>()
        .ok_or_else(|| malformed(part, "an array item is not an integer from 0 to 255"))
}

fn read<'a>(part: &'static str, bytes: &'a [u8], tags: &'static [u64]) -> Result<Value<'a>, Error> {
    Value::from_slice(bytes, &Limits::new(bytes.len()).tags(tags))
        .map_err(|error| malformed(part, error.to_string()))
}

fn malformed(part: &'static str, detail: impl Into<String>) -> Error {
    Error::SignatureEncoding { part, detail: detail.into() }
}
