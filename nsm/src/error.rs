//! What can be wrong with bytes or text given to this crate. The device itself never returns
//! these: it answers the guest with an [`crate::message::ErrorCode`].

/// A PCR or CBOR input that was refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Hexadecimal text of the wrong length; a PCR is 96 digits.
    #[error(
        "A PCR is 96 hexadecimal digits (48 bytes, SHA-384), this text has {digits} characters"
    )]
    PcrDigits {
        /// Characters given.
        digits: usize,
    },
    /// A character that is no hexadecimal digit.
    #[error("{character:?} at position {position} is not a hexadecimal digit of a PCR")]
    PcrCharacter {
        /// The character found.
        character: char,
        /// Its position, from 0.
        position: usize,
    },
    /// Bytes of the wrong length; a PCR is 48.
    #[error("A PCR is 48 bytes (SHA-384), not {bytes}")]
    PcrBytes {
        /// Bytes given.
        bytes: usize,
    },
    /// A module id that documents and the C library cannot carry.
    #[error("A module id is 1 to 99 visible ASCII characters, not {given:?}")]
    ModuleId {
        /// The text given, its beginning if it is long.
        given: String,
    },
    /// CBOR input longer than its reader allows.
    #[error("CBOR of {len} bytes is over the limit of {max} bytes")]
    CborTooLong {
        /// Bytes given.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// CBOR that ends inside an item.
    #[error("CBOR ends inside the item that starts at byte {offset}")]
    CborTruncated {
        /// Where the unfinished item starts.
        offset: usize,
    },
    /// Bytes after the one item that was expected.
    #[error("CBOR item ends at byte {offset}, but {extra} bytes follow it")]
    CborTrailing {
        /// Where the item ends.
        offset: usize,
        /// How many bytes follow.
        extra: usize,
    },
    /// CBOR nested deeper than its reader allows.
    #[error("CBOR at byte {offset} is nested more than {max} levels deep")]
    CborDepth {
        /// Where the first level too many starts.
        offset: usize,
        /// Levels allowed.
        max: usize,
    },
    /// A map with the same key twice.
    #[error("CBOR map has the key {key} a second time at byte {offset}")]
    CborDuplicateKey {
        /// The key, readable.
        key: String,
        /// Where its second appearance starts.
        offset: usize,
    },
    /// Bytes that are not CBOR, or a form of CBOR this reader refuses.
    #[error("CBOR at byte {offset}: {what}")]
    CborRefused {
        /// Where the refused item starts.
        offset: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Well-formed CBOR that does not hold what was expected.
    #[error("CBOR does not hold the expected value: {detail}")]
    CborShape {
        /// What was expected and what was found.
        detail: String,
    },
    /// A value that CBOR cannot hold.
    #[error("Value cannot be written as CBOR: {detail}")]
    CborEncode {
        /// What the encoder said.
        detail: String,
    },
}
