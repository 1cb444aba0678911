//! CBOR in and out, the one place that touches `serde_cbor`. That crate is unmaintained but its
//! output is the wire format of Nitro's messages, so it stays, behind a reader of our own: before
//! it sees a byte, the whole input has been walked without recursion and refused unless it is one
//! well-formed item with no duplicate keys, no lengths beyond the input and no more nesting than
//! the caller allows (RFC 8949; floats, chunked strings and `undefined` are never accepted,
//! because nothing this project reads has them).

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Error;

mod value;
mod walk;

pub use value::Value;

/// What one reader accepts. Everything not allowed here is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    max_len: usize,
    max_depth: usize,
    indefinite: bool,
    non_minimal: bool,
    tags: &'static [u64],
}

impl Limits {
    /// Levels of nesting unless [`Limits::depth`] says otherwise.
    pub const DEPTH: usize = 8;

    /// Inputs of at most `max_len` bytes and [`Limits::DEPTH`] levels, in the shortest form only.
    #[must_use]
    pub const fn new(max_len: usize) -> Self {
        Self { max_len, max_depth: Self::DEPTH, indefinite: false, non_minimal: false, tags: &[] }
    }

    /// With this many levels of nesting; a bare scalar is level 0. At most 64, so that what
    /// recurses behind the walker stays shallow.
    #[must_use]
    pub const fn depth(mut self, levels: usize) -> Self {
        self.max_depth = if levels > 64 { 64 } else { levels };
        self
    }

    /// Arrays and maps may also have an indefinite length.
    #[must_use]
    pub const fn indefinite(mut self) -> Self {
        self.indefinite = true;
        self
    }

    /// Integers and lengths may also be written wider than they need to be.
    #[must_use]
    pub const fn non_minimal(mut self) -> Self {
        self.non_minimal = true;
        self
    }

    /// These tags may appear; readers see through them or, in a [`Value`], see them.
    #[must_use]
    pub const fn tags(mut self, tags: &'static [u64]) -> Self {
        self.tags = tags;
        self
    }
}

/// Writes a value in the shortest definite form, struct fields in the order of their declaration.
///
/// # Errors
/// [`Error::CborEncode`] for what CBOR or `value`'s own `Serialize` cannot express.
pub fn to_vec<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    serde_cbor::to_vec(value).map_err(|error| Error::CborEncode { detail: error.to_string() })
}

/// Reads exactly one value. Maps must have text keys: `serde_cbor` would otherwise take a number
/// for the position of a struct field. Use [`Value`] for maps with other keys.
///
/// # Errors
/// Every `Cbor…` variant of [`Error`].
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8], limits: &Limits) -> Result<T, Error> {
    validate(bytes, limits)?;
    let mut deserializer =
        serde_cbor::Deserializer::from_slice(bytes).disable_packed_format().disable_legacy_enums();
    T::deserialize(&mut deserializer)
        .map_err(|error| Error::CborShape { detail: error.to_string() })
}

/// Checks that `bytes` are exactly one CBOR item within `limits`, in time linear (times the
/// logarithm of the largest map) and memory proportional to the input.
///
/// # Errors
/// Every `Cbor…` variant of [`Error`] but `CborShape` and `CborEncode`.
pub fn validate(bytes: &[u8], limits: &Limits) -> Result<(), Error> {
    walk::walk(bytes, limits)
}

#[cfg(test)]
mod tests;
