//! Platform configuration registers: one value (`Pcr`) and the bank of 32 with its lock bits
//! (`PcrBank`). A register only ever changes by being extended, and a locked one not at all; both
//! rules live here so that nobody else can get them wrong.

use std::fmt;
use std::str::FromStr;

use ring::digest::{Context, SHA384};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Error;

mod bank;

pub use bank::{BankError, PCR_COUNT, PcrBank};

/// The value of one register: 48 bytes, SHA-384.
///
/// Text and JSON show it as 96 lower-case hexadecimal digits, CBOR as a byte string.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Pcr([u8; Pcr::LEN]);

impl Pcr {
    /// Bytes in a register.
    pub const LEN: usize = 48;

    /// A register nothing was extended into: 48 zero bytes. In a document, PCR0 with this value
    /// means a debug enclave.
    pub const ZERO: Self = Self([0; Self::LEN]);

    /// A register with these very bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The 48 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// Whether all 48 bytes are zero.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }

    /// The value after `data` is extended into it: SHA-384(old value || data). The data is taken
    /// as it is; images are measured by extending the hash of their parts.
    #[must_use]
    pub fn extend(&self, data: &[u8]) -> Self {
        let mut context = Context::new(&SHA384);
        context.update(&self.0);
        context.update(data);
        let mut value = [0; Self::LEN];
        value.copy_from_slice(context.finish().as_ref());
        Self(value)
    }

    /// A fresh register with `data` extended into it: SHA-384(48 zero bytes || data).
    #[must_use]
    pub fn of(data: &[u8]) -> Self {
        Self::ZERO.extend(data)
    }
}

impl TryFrom<&[u8]> for Pcr {
    type Error = Error;

    fn try_from(bytes: &[u8]) -> Result<Self, Error> {
        bytes.try_into().map(Self).map_err(|_| Error::PcrBytes { bytes: bytes.len() })
    }
}

impl fmt::Display for Pcr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Pcr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pcr({self})")
    }
}

impl FromStr for Pcr {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = text.chars().enumerate().find(|(_, character)| !character.is_ascii_hexdigit());
        if let Some((position, character)) = wrong {
            return Err(Error::PcrCharacter { character, position });
        }
        let mut value = [0; Self::LEN];
        hex::decode_to_slice(text, &mut value)
            .map_err(|_| Error::PcrDigits { digits: text.len() })?;
        Ok(Self(value))
    }
}

impl Serialize for Pcr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_bytes(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Pcr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            deserializer.deserialize_str(Text)
        } else {
            deserializer.deserialize_bytes(Binary)
        }
    }
}

struct Text;

impl Visitor<'_> for Text {
    type Value = Pcr;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a PCR of 96 hexadecimal digits")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Pcr, E> {
        text.parse().map_err(E::custom)
    }
}

struct Binary;

impl Visitor<'_> for Binary {
    type Value = Pcr;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a PCR of 48 bytes")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Pcr, E> {
        bytes.try_into().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extends_like_the_vectors_of_the_nitro_sheet() {
        // nitro.md section 12: ExtendPCR(16, "hello"), PCR3 and PCR4.
        let vectors: [(&[u8], &str); 3] = [
            (
                b"hello",
                "30e84b2d7eeffe6d90a475797b35e59a11b0da473eee4b3b8edfe73daf0279801bb18730c39db7f27f2f77b7b458cb9e",
            ),
            (
                b"arn:aws:iam::123456789012:role/enclave",
                "b1fd651ff7878eaff12dd954c8af010570acf204ad3c60b3832e3e8f109f2ce9fa7e9ee8b3e848a415da9e8d720d7158",
            ),
            (
                b"i-0123456789abcdef0",
                "d6432900ac1c343cb40286898792c55e962aef0cc35c4910c0c286145b51af19e782cb21cc31a042671d7dfbd398251c",
            ),
        ];
        for (data, expected) in vectors {
            assert_eq!(Pcr::of(data).to_string(), expected);
        }
    }

    #[test]
    fn reads_either_case_and_writes_lower() {
        let pcr = Pcr::of(b"x");
        assert_eq!(pcr.to_string().to_uppercase().parse(), Ok(pcr));
        assert_eq!(pcr.to_string().parse(), Ok(pcr));
    }

    #[test]
    fn names_what_is_wrong_with_a_text() {
        assert_eq!("ab".parse::<Pcr>(), Err(Error::PcrDigits { digits: 2 }));
        assert_eq!("a".repeat(97).parse::<Pcr>(), Err(Error::PcrDigits { digits: 97 }));
        assert_eq!("0x12".parse::<Pcr>(), Err(Error::PcrCharacter { character: 'x', position: 1 }));
        assert_eq!(
            "é".repeat(48).parse::<Pcr>(),
            Err(Error::PcrCharacter { character: 'é', position: 0 })
        );
    }

    #[test]
    fn is_hexadecimal_in_json_and_bytes_in_cbor() {
        let pcr = Pcr::of(b"x");
        let json = serde_json::to_string(&pcr).unwrap();
        assert_eq!(json, format!("\"{pcr}\""));
        assert_eq!(serde_json::from_str::<Pcr>(&json).unwrap(), pcr);

        let cbor = crate::cbor::to_vec(&pcr).unwrap();
        assert_eq!(cbor[..2], [0x58, 48]);
        assert_eq!(cbor[2..], pcr.as_bytes()[..]);
        let limits = crate::cbor::Limits::new(64);
        assert_eq!(crate::cbor::from_slice::<Pcr>(&cbor, &limits).unwrap(), pcr);
        assert!(crate::cbor::from_slice::<Pcr>(&[0x41, 0], &limits).is_err());
    }
}
