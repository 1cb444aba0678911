//! Verification in the order of nitro.md 5.3: envelope, payload, the caller's root, the chain at
//! the chosen time, the signature, and last what the caller expects of the enclave. The first
//! check that fails is the answer. What was not checked is said too: a yes without a nonce is a
//! yes to somebody's old document.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nsm::Pcr;
use serde::Serialize;

use crate::cose::Envelope;
use crate::document::{AttestationDocument, FIELD_LIMIT};
use crate::refusal::{Reason, Refusal};
use crate::root::Root;
use crate::show::rfc3339;

mod chain;

/// How far a document may be ahead of the verifier's clock, milliseconds.
const CLOCK_SKEW_MS: i128 = 60_000;

/// Registers that say which image runs: all of it, its kernel, its application, its signer. The
/// others are the operator's (3, 4) or the running application's (16 and up).
const IMAGE_PCRS: [u8; 4] = [0, 1, 2, 8];

/// The time certificates must be valid at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum At {
    /// Unix time, seconds; usually now.
    Unix(i64),
    /// The document's own timestamp, for archived documents: says nothing about its age.
    DocumentTime,
}

/// What the caller expects.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    /// Roots that may have signed; the caller's choice.
    pub roots: Vec<Root>,
    /// When.
    pub at: At,
    /// The nonce the caller asked for, if it did.
    pub nonce: Option<Vec<u8>>,
    /// Registers and their values.
    pub pcrs: BTreeMap<u8, Pcr>,
    /// How old the document may be at `at`; cannot be checked at the document's own time.
    pub max_age: Option<Duration>,
    /// Accept an enclave in debug mode, whose memory and console anybody can read.
    pub allow_debug: bool,
    /// Accept any image.
    pub any_image: bool,
}

impl VerifyOptions {
    /// Expects nothing but this root at this time; as it is, every document is refused because
    /// nothing about the image was asked.
    #[must_use]
    pub fn new(root: Root, at: At) -> Self {
        Self {
            roots: vec![root],
            at,
            nonce: None,
            pcrs: BTreeMap::new(),
            max_age: None,
            allow_debug: false,
            any_image: false,
        }
    }
}

/// A question about a document that the caller may or may not have asked.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// Was it made for me?
    Nonce,
    /// Was it made lately?
    Age,
    /// Which image runs?
    Image,
}

/// A document that was accepted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Verified {
    /// What it states.
    pub document: AttestationDocument,
    /// The name of the root it is signed under.
    pub root: String,
    /// The time its certificates were valid at, unix seconds.
    pub at: i64,
    /// The enclave ran in debug mode, and that was allowed.
    pub debug: bool,
    /// What was asked, and holds.
    pub checked: BTreeSet<Check>,
    /// What was not asked.
    pub unchecked: BTreeSet<Check>,
    /// What is odd about the document though allowed.
    pub notes: Vec<String>,
}

/// Verifies a document: the bytes of a COSE_Sign1 (binary, not base64).
///
/// # Errors
/// The first check that failed.
pub fn verify(bytes: &[u8], options: &VerifyOptions) -> Result<Verified, Refusal> {
    let envelope = Envelope::open(bytes)?;
    let document = AttestationDocument::decode(envelope.payload)?;
    let root = pinned(&document, &options.roots)?;
    let at = match options.at {
        At::Unix(at) => at,
        At::DocumentTime => i64::try_from(document.timestamp_ms / 1000).unwrap_or(i64::MAX),
    };
    let public_key = chain::verify(&document, at)?;
    envelope.verify(&public_key)?;

    let mut checked = BTreeSet::new();
    check_age(&document, at, options, &mut checked)?;
    check_image(&document, options, &mut checked)?;
    check_nonce(&document, options, &mut checked)?;
    let all = BTreeSet::from([Check::Nonce, Check::Age, Check::Image]);
    Ok(Verified {
        root: root.name().to_owned(),
        at,
        debug: document.is_debug(),
        unchecked: all.difference(&checked).copied().collect(),
        checked,
        notes: notes(&document),
        document,
    })
}

/// The root of the caller's that the document starts from, byte for byte.
fn pinned<'a>(document: &AttestationDocument, roots: &'a [Root]) -> Result<&'a Root, Refusal> {
    let first = document.cabundle.first().map_or(&[][..], Vec::as_slice);
    roots.iter().find(|root| root.certificate().der() == first).ok_or_else(|| {
        let asked: Vec<String> =
            roots.iter().map(|root| format!("{} ({})", root.name(), root.fingerprint())).collect();
        Refusal::new(
            Reason::UnknownRoot,
            format!(
                "Document is signed under the root {} (SHA-256), not under {}",
                crate::root::fingerprint(first),
                if asked.is_empty() { "any root asked for".to_owned() } else { asked.join(" or ") }
            ),
        )
    })
}

fn check_age(
    document: &AttestationDocument,
    at: i64,
    options: &VerifyOptions,
    checked: &mut BTreeSet<Check>,
) -> Result<(), Refusal> {
    if options.at == At::DocumentTime {
        return Ok(());
    }
    let age_ms = i128::from(at) * 1000 - i128::from(document.timestamp_ms);
    if age_ms < -CLOCK_SKEW_MS {
        return Err(Refusal::new(
            Reason::TimestampInFuture,
            format!(
                "Document was made {} s after the time it is verified at, {}",
                -age_ms / 1000,
                rfc3339(at)
            ),
        ));
    }
    if let Some(max_age) = options.max_age {
        if age_ms > i128::try_from(max_age.as_millis()).unwrap_or(i128::MAX) {
            return Err(Refusal::new(
                Reason::TooOld,
                format!(
                    "Document is {} s old at {}, {} s are allowed",
                    age_ms / 1000,
                    rfc3339(at),
                    max_age.as_secs()
                ),
            ));
        }
        checked.insert(Check::Age);
    }
    Ok(())
}

fn check_image(
    document: &AttestationDocument,
    options: &VerifyOptions,
    checked: &mut BTreeSet<Check>,
) -> Result<(), Refusal> {
    if document.is_debug() && !options.allow_debug {
        return Err(Refusal::new(
            Reason::DebugEnclave,
            "PCR0 is zero: the enclave ran in debug mode, anybody on its host could read it",
        ));
    }
    for (index, expected) in &options.pcrs {
        match document.pcrs.get(index) {
            Some(found) if found == expected => {}
            Some(found) => {
                return Err(Refusal::new(
                    Reason::PcrMismatch,
                    format!("PCR{index} is {found}, expected {expected}"),
                ));
            }
            None => {
                return Err(Refusal::new(
                    Reason::PcrMissing,
                    format!("PCR{index} is not in the document, expected {expected}"),
                ));
            }
        }
    }
    // Zero names no image: every debug enclave and every unsigned image has it.
    let asked = |index| options.pcrs.get(index).is_some_and(|pcr| !pcr.is_zero());
    if IMAGE_PCRS.iter().any(asked) {
        checked.insert(Check::Image);
    } else if !options.any_image {
        return Err(Refusal::new(
            Reason::ImageNotAsked,
            "Signature and certificates hold, but nothing was asked about the image that runs",
        ));
    }
    Ok(())
}

fn check_nonce(
    document: &AttestationDocument,
    options: &VerifyOptions,
    checked: &mut BTreeSet<Check>,
) -> Result<(), Refusal> {
    let Some(expected) = &options.nonce else { return Ok(()) };
    match &document.nonce {
        Some(found) if found == expected => {
            checked.insert(Check::Nonce);
            Ok(())
        }
        Some(found) => Err(Refusal::new(
            Reason::NonceMismatch,
            format!("Nonce is {}, expected {}", hex::encode(found), hex::encode(expected)),
        )),
        None => Err(Refusal::new(
            Reason::NonceMissing,
            format!("Document has no nonce, expected {}", hex::encode(expected)),
        )),
    }
}

fn notes(document: &AttestationDocument) -> Vec<String> {
    [
        ("user_data", &document.user_data),
        ("nonce", &document.nonce),
        ("public_key", &document.public_key),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value.as_ref()?.len())))
    .filter(|(_, len)| *len > FIELD_LIMIT)
    .map(|(name, len)| format!("{name} is {len} bytes, the specification allows {FIELD_LIMIT}"))
    .collect()
}

#[cfg(test)]
mod tests;
