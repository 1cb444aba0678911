//! What can go wrong while making keys, certificates and documents, and while reading back what
//! this crate stored. A document that does not verify is no error but a [`crate::Refusal`].

use openssl::error::ErrorStack;

/// A key, certificate or document that could not be made or read back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// OpenSSL refused.
    #[error("OpenSSL could not {what}")]
    Crypto {
        /// What it was asked to do.
        what: &'static str,
        /// Its own error queue.
        #[source]
        source: ErrorStack,
    },
    /// The COSE library refused.
    #[error("COSE_Sign1 could not be made: {detail}")]
    Cose {
        /// What it said.
        detail: String,
    },
    /// The document could not be written as CBOR.
    #[error("Attestation document could not be encoded")]
    Encode(#[source] nsm::Error),
    /// A name that an X.509 subject cannot carry.
    #[error("{what} {value:?} is not 1 to {max} visible characters")]
    Name {
        /// Which name.
        what: &'static str,
        /// The name given.
        value: String,
        /// Characters X.509 allows.
        max: usize,
    },
    /// Not a certificate, or not one in X.509 version 3 with a P-384 key.
    #[error("{what} is not a certificate this project can use: {detail}")]
    Certificate {
        /// Which file or argument.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Not a P-384 key.
    #[error("{what} is not a key for P-384: {detail}")]
    Key {
        /// Which file or argument.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A certificate larger than verifiers accept.
    #[error("Certificate of {len} bytes is over the 1024 that verifiers accept")]
    CertificateTooLong {
        /// Bytes of DER.
        len: usize,
    },
    /// A part of the authority is not there.
    #[error("Authority has no file {name}")]
    FileMissing {
        /// The file's name.
        name: &'static str,
    },
    /// Parts of the authority that do not belong together.
    #[error("Authority files do not belong together: {detail}")]
    Inconsistent {
        /// Which two parts, and why not.
        detail: String,
    },
    /// The clock is outside the life of the root.
    #[error("Root certificate is valid from {not_before} to {not_after}, not at {now}")]
    RootOutOfDate {
        /// RFC 3339.
        not_before: String,
        /// RFC 3339.
        not_after: String,
        /// RFC 3339.
        now: String,
    },
    /// A time that a certificate cannot carry.
    #[error("{seconds} seconds since 1970 is no time a certificate can carry")]
    Time {
        /// The time given.
        seconds: i64,
    },
}

impl Error {
    /// What to do next, where there is something to do.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::RootOutOfDate { .. } => Some(
                "Set the clock right; if it is, make a new authority and give its root out again",
            ),
            Self::FileMissing { .. } | Self::Inconsistent { .. } => Some(
                "Restore the authority folder from a copy, or remove it: a new one is made at the next start, with a new root",
            ),
            Self::Name { .. } => Some("Give this host a shorter name of visible characters"),
            _ => None,
        }
    }

    pub(crate) fn crypto(what: &'static str) -> impl FnOnce(ErrorStack) -> Self {
        move |source| Self::Crypto { what, source }
    }
}
