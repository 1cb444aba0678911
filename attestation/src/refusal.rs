//! Why a document was refused. The code of each reason is stable: scripts and policies may rely on
//! it. The text beside it names the values that differed.

use std::fmt;

use serde::Serialize;

/// A document that was not accepted: the first check that failed.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, thiserror::Error)]
#[error("{detail}")]
pub struct Refusal {
    /// Which check failed.
    pub reason: Reason,
    /// What was found and what was expected.
    pub detail: String,
}

impl Refusal {
    pub(crate) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    /// What to do next, where there is something to do.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self.reason {
            Reason::UnknownRoot => Some(
                "Name the root this document is signed under; take it from a source you trust, never from the document",
            ),
            Reason::Expired | Reason::NotYetValid => Some(
                "Ask for a fresh document, check this machine's clock, or verify an archived document at its own time",
            ),
            Reason::DebugEnclave => {
                Some("Run the enclave without debug mode; for tests, allow debug explicitly")
            }
            Reason::ImageNotAsked => Some(
                "Say which image you expect (PCR0, PCR1, PCR2 or PCR8), or that any image will do",
            ),
            Reason::PcrMissing => {
                Some("Only locked registers are in a document; the enclave must lock PCR16 and up")
            }
            Reason::TooOld => Some("Ask for a fresh document"),
            _ => None,
        }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)*) => {
        /// Which check refused a document.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[$doc])* #[serde(rename = $code)] $name,)*
        }

        impl Reason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The stable code, in kebab case.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }
        }
    };
}

reasons! {
    /// Not a strict COSE_Sign1.
    MalformedCose = "malformed-cose",
    /// The signature is not of the one algorithm documents use, ES384.
    UnsupportedAlgorithm = "unsupported-algorithm",
    /// The payload is not a strict attestation document.
    MalformedDocument = "malformed-document",
    /// A part of the document is over or under its limit.
    DocumentLimits = "document-limits",
    /// The first certificate of the bundle is none of the roots asked for.
    UnknownRoot = "unknown-root",
    /// A certificate is not strict X.509.
    MalformedCertificate = "malformed-certificate",
    /// A certificate's version, algorithm, curve or critical extension is not one of Nitro's.
    UnsupportedCertificate = "unsupported-certificate",
    /// A certificate names another issuer than the one before it.
    IssuerMismatch = "issuer-mismatch",
    /// A certificate is not signed by the one before it.
    CertificateSignature = "certificate-signature",
    /// A certificate is not valid yet at the time asked for.
    NotYetValid = "not-yet-valid",
    /// A certificate is not valid any more at the time asked for.
    Expired = "expired",
    /// A certificate of the bundle may not sign certificates.
    NotACa = "not-a-ca",
    /// More certificates follow a certificate authority than it allows.
    PathLength = "path-length",
    /// The document's own certificate may not sign documents.
    NotALeaf = "not-a-leaf",
    /// The document is not signed by its certificate.
    DocumentSignature = "document-signature",
    /// The document was made after the time asked for.
    TimestampInFuture = "timestamp-in-future",
    /// The document is older than asked for.
    TooOld = "too-old",
    /// The enclave ran in debug mode.
    DebugEnclave = "debug-enclave",
    /// A register that was asked for is not in the document.
    PcrMissing = "pcr-missing",
    /// A register has another value than asked for.
    PcrMismatch = "pcr-mismatch",
    /// The document has no nonce, and one was asked for.
    NonceMissing = "nonce-missing",
    /// The document has another nonce than asked for.
    NonceMismatch = "nonce-mismatch",
    /// Nothing was asked that says which image runs.
    ImageNotAsked = "image-not-asked",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_kebab_case() {
        let codes: std::collections::BTreeSet<_> = Reason::ALL.iter().map(|r| r.code()).collect();
        assert_eq!(codes.len(), Reason::ALL.len());
        for code in codes {
            assert!(code.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{code}");
        }
    }
}
