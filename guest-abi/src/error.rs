//! The crate's one error: what was wrong with a frame, a message or a number, with the value in the
//! text. Most of these values came from the other side of a trust boundary.

use std::io;

/// What can go wrong between image, init and VMM.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// 0 to 3 and 0xffffffff have a meaning of their own on vsock.
    #[error("CID {number} is reserved")]
    ReservedCid {
        /// The number given.
        number: u32,
    },
    /// A vsock address with bits set above the low 32.
    #[error("CID {number} does not fit in 32 bits")]
    WideCid {
        /// The number given.
        number: u64,
    },
    /// Not a decimal number at all.
    #[error("\"{}\" is not a CID", text.escape_default())]
    NotACid {
        /// The text given.
        text: String,
    },
    /// A frame that says it is longer than its channel allows, or one we were about to send.
    #[error("frame of {length} bytes is over the limit of {limit}")]
    FrameTooLong {
        /// Bytes after the length field.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The stream ended inside a frame, or before one where one was due.
    #[error("stream ended inside a frame: {got} of {expected} bytes")]
    FrameCut {
        /// Bytes that came.
        got: usize,
        /// Bytes that were due.
        expected: usize,
    },
    /// A nonce longer than the device takes from every caller.
    #[error("nonce of {length} bytes is over the limit of {}", crate::agent::MAX_NONCE)]
    NonceTooLong {
        /// Bytes given.
        length: usize,
    },
    /// The bytes are not the message that was due here.
    #[error("malformed {message}")]
    Malformed {
        /// Which message was due.
        message: &'static str,
        /// What the decoder says.
        #[source]
        source: nsm::Error,
    },
    /// A message of ours that the encoder refuses.
    #[error("cannot encode {message}")]
    Encode {
        /// Which message.
        message: &'static str,
        /// What the encoder says.
        #[source]
        source: nsm::Error,
    },
    /// The connection itself failed.
    #[error("connection failed")]
    Io(#[from] io::Error),
}

impl Error {
    /// What to do next, where there is something to do.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::ReservedCid { .. } | Self::WideCid { .. } | Self::NotACid { .. } => {
                Some("use a number from 4 to 4294967294, or 0 to have one chosen")
            }
            Self::NonceTooLong { .. } => Some("hash the value first; 32 bytes are plenty"),
            _ => None,
        }
    }
}
