//! The control connection (vsock 9002), from init to the VMM: parameters down; ready, exit status and
//! failures up. Both ends distrust each other: the guest is whatever the image holds, and for the guest
//! the parent is the adversary, so what comes down is data to be checked and measured, nothing more.

use std::collections::BTreeMap;

use nsm::cbor::{self, Limits};
use serde::{Deserialize, Serialize};

use crate::Error;

/// Bytes of a frame in either direction, at most.
pub const MAX_FRAME: usize = 65_536;

/// Bytes of the text in [`ToVmm::Failed`], at most.
pub const MAX_REASON: usize = 4096;

/// How the application ended: `{"code": u8}` or `{"signal": u8}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Exit {
    /// It returned this code.
    Code(u8),
    /// This signal ended it.
    Signal(u8),
}

/// What init says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum ToVmm {
    /// `"Parameters"`: asks for a [`FromVmm::Parameters`]; sent only when the manifest declares any.
    Parameters,
    /// `"Ready"`: the application has been started.
    Ready,
    /// `{"Exited": …}`: the application has ended; the guest resets itself next.
    Exited(Exit),
    /// `{"Failed": {"reason": text}}`: the application could not be started, or init itself cannot go on.
    Failed {
        /// One sentence, at most [`MAX_REASON`] bytes. It comes from the guest: escape before showing.
        reason: String,
    },
}

impl ToVmm {
    /// A failure with `reason`, cut to [`MAX_REASON`] bytes.
    #[must_use]
    pub fn failed(reason: &str) -> Self {
        let mut end = reason.len().min(MAX_REASON);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        Self::Failed { reason: reason[..end].to_owned() }
    }

    /// The CBOR, without the frame.
    ///
    /// # Errors
    /// [`Error::Encode`].
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        cbor::to_vec(self).map_err(|source| Error::Encode { message: MESSAGE, source })
    }

    /// Reads the CBOR of one frame.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        cbor::from_slice(bytes, &Limits::new(MAX_FRAME))
            .map_err(|source| Error::Malformed { message: MESSAGE, source })
    }
}

/// What the VMM says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum FromVmm {
    /// `{"Parameters": {"args": [text], "env": {text: text}}}`, in answer to [`ToVmm::Parameters`].
    Parameters {
        /// Arguments to append to the command.
        args: Vec<String>,
        /// Environment by name; init refuses names the manifest does not declare.
        env: BTreeMap<String, String>,
    },
}

impl FromVmm {
    /// The CBOR, without the frame.
    ///
    /// # Errors
    /// [`Error::Encode`].
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        cbor::to_vec(self).map_err(|source| Error::Encode { message: MESSAGE, source })
    }

    /// Reads the CBOR of one frame.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        cbor::from_slice(bytes, &Limits::new(MAX_FRAME))
            .map_err(|source| Error::Malformed { message: MESSAGE, source })
    }
}

const MESSAGE: &str = "control message";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Each message beside its bytes, written by hand from RFC 8949.
    fn golden() -> Vec<(ToVmm, &'static [u8])> {
        vec![
            (ToVmm::Parameters, b"\x6aParameters"),
            (ToVmm::Ready, b"\x65Ready"),
            (ToVmm::Exited(Exit::Code(0)), b"\xa1\x66Exited\xa1\x64code\x00"),
            (ToVmm::Exited(Exit::Code(255)), b"\xa1\x66Exited\xa1\x64code\x18\xff"),
            (ToVmm::Exited(Exit::Signal(9)), b"\xa1\x66Exited\xa1\x66signal\x09"),
            (ToVmm::failed("no"), b"\xa1\x66Failed\xa1\x66reason\x62no"),
        ]
    }

    #[test]
    fn golden_bytes_up() {
        for (message, bytes) in golden() {
            assert_eq!(message.encode().unwrap(), bytes, "{message:?}");
            assert_eq!(ToVmm::decode(bytes).unwrap(), message);
        }
    }

    #[test]
    fn golden_bytes_down() {
        let message = FromVmm::Parameters {
            args: vec!["-v".to_owned()],
            env: BTreeMap::from([
                ("B".to_owned(), String::new()),
                ("A".to_owned(), "1".to_owned()),
            ]),
        };
        let bytes = b"\xa1\x6aParameters\xa2\x64args\x81\x62-v\x63env\xa2\x61A\x611\x61B\x60";
        assert_eq!(message.encode().unwrap(), bytes);
        assert_eq!(FromVmm::decode(bytes).unwrap(), message);
    }

    #[test]
    fn what_is_not_a_message_is_refused() {
        for bytes in [
            &b""[..],
            b"\x65ready",
            b"\x65Ready\x00",
            b"\xa1\x66Exited\xa1\x64code\x19\x01\x00",
            b"\xa1\x66Exited\xa1\x64code\x20",
            b"\xa1\x66Exited\xa2\x64code\x00\x66signal\x09",
            b"\xa1\x66Exited\xa0",
            b"\xa1\x66Failed\xa0",
            b"\xa1\x66Failed\xa2\x66reason\x62no\x61x\x00",
        ] {
            assert!(ToVmm::decode(bytes).is_err(), "{bytes:?}");
        }
        for bytes in [
            &b"\x6aParameters"[..],
            b"\xa1\x6aParameters\xa1\x64args\x80",
            b"\xa1\x6aParameters\xa2\x64args\x80\x63env\xa2\x61A\x60\x61A\x60",
        ] {
            assert!(FromVmm::decode(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_long_reason_still_fits_its_frame() {
        let bytes = ToVmm::failed(&"ä".repeat(100_000)).encode().unwrap();
        assert!(bytes.len() < MAX_REASON + 64, "{}", bytes.len());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(message) = ToVmm::decode(&bytes) {
                prop_assert_eq!(ToVmm::decode(&message.encode().unwrap()).unwrap(), message);
            }
            if let Ok(message) = FromVmm::decode(&bytes) {
                prop_assert_eq!(FromVmm::decode(&message.encode().unwrap()).unwrap(), message);
            }
        }
    }
}
