//! `attestation verify`: yes or no to a document, and what the yes does not say. Exit 0 or 1; anything that kept us from deciding is
//! 3, so that a script never takes an unreadable file for a refusal, or the reverse.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use attestation::{At, Check, Reason, Refusal, Root, Verified, VerifyOptions};
use enclave_vmm::paths::Paths;
use nsm::Pcr;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::arguments::ours::AttestationVerify;
use crate::attestation_get::nonce_from_hex;
use crate::error_table::ErrorNumber;
use crate::failure::{EXIT_NO, Failure, Outcome};
use crate::{document_file, input_file, output, pcr};

/// A root certificate is at most 1 KiB of DER.
const MAX_ROOT: u64 = 64 << 10;

const LOCAL: &str = "local";

/// The answer as JSON.
#[derive(Debug, Default, Serialize)]
struct Answer {
    valid: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    module_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    root: Option<String>,
    /// The time the certificates were valid at.
    #[serde(skip_serializing_if = "Option::is_none")]
    verified_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    debug: Option<bool>,
    checked: BTreeSet<Check>,
    unchecked: BTreeSet<Check>,
    notes: Vec<String>,
}

/// Decides.
pub(crate) fn run(arguments: &AttestationVerify) -> Outcome<u8> {
    let options = options(arguments)?;
    let document = document_file::read(&arguments.document)?;
    match attestation::verify(&document, &options) {
        Ok(verified) => {
            let answer = accepted(&verified);
            if arguments.json {
                output::json(&answer)?;
            } else {
                output::write(text(&verified, &answer).as_bytes())?;
            }
            Ok(0)
        }
        Err(refusal) if arguments.json => {
            output::json(&refused(&refusal))?;
            Ok(EXIT_NO)
        }
        Err(refusal) => {
            Err(Failure::no(format!("refused ({}): {}", refusal.reason, refusal.detail))
                .maybe_hint(hint(&refusal)))
        }
    }
}

fn options(arguments: &AttestationVerify) -> Outcome<VerifyOptions> {
    let mut pcrs = BTreeMap::new();
    for text in &arguments.pcr {
        let (index, value) = register(text)?;
        if pcrs.insert(index, value).is_some() {
            return Err(Failure::new(
                ErrorNumber::CONFLICTING_ARGUMENT,
                format!("PCR{index} is given twice"),
            ));
        }
    }
    if let Some(path) = &arguments.eif {
        let measured = pcr::of_image(path).map_err(Failure::could_not_look)?;
        pcrs.extend([(0, measured.pcr0), (1, measured.pcr1), (2, measured.pcr2)]);
        pcrs.extend(measured.pcr8.map(|value| (8, value)));
    }
    let nonce = arguments.nonce.as_deref().map(nonce_from_hex).transpose()?;
    Ok(VerifyOptions {
        roots: roots(&arguments.root)?,
        at: time(&arguments.time)?,
        nonce,
        pcrs,
        max_age: None,
        allow_debug: arguments.allow_debug,
        any_image: arguments.any_image,
    })
}

/// `N=HEX`.
fn register(text: &str) -> Outcome<(u8, Pcr)> {
    let wrong = || {
        Failure::new(
            ErrorNumber::INVALID_ARGUMENT,
            format!("{text:?} is not a register and its value"),
        )
        .hint("give --pcr N=HEX with N from 0 to 31 and 96 hexadecimal digits")
    };
    let (index, value) = text.split_once('=').ok_or_else(wrong)?;
    let index = index.parse().ok().filter(|index| *index < 32).ok_or_else(wrong)?;
    let value = hex::decode(value).map_err(|_| wrong())?;
    Ok((index, Pcr::try_from(value.as_slice()).map_err(|_| wrong())?))
}

fn time(text: &str) -> Outcome<At> {
    match text {
        "document" => Ok(At::DocumentTime),
        "now" => {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .ok()
                .and_then(|time| i64::try_from(time.as_secs()).ok());
            now.map(At::Unix).ok_or_else(|| {
                Failure::new(ErrorNumber::CLOCK_SKEW, "the clock of this machine is before 1970")
            })
        }
        _ => OffsetDateTime::parse(text, &Rfc3339)
            .map(|time| At::Unix(time.unix_timestamp()))
            .map_err(|error| {
                Failure::new(ErrorNumber::INVALID_ARGUMENT, format!("{text:?} is no time"))
                    .because(error)
                    .hint("give now, document, or a time such as 2026-01-31T12:00:00Z")
            }),
    }
}

/// The roots that a name stands for. `local` is this user's own authority, and that of this user's machine.
fn roots(name: &str) -> Outcome<Vec<Root>> {
    let unusable = |path: &Path, error: attestation::Error| {
        Failure::new(
            ErrorNumber::FILE_OPERATION,
            format!("{} is no root certificate", path.display()),
        )
        .because(error)
    };
    match name {
        "aws" => {
            let root = Root::aws().map_err(|error| {
                Failure::new(ErrorNumber::UNSPECIFIED, "AWS's root cannot be read").because(error)
            })?;
            Ok(vec![root])
        }
        LOCAL => {
            let paths = Paths::current();
            let files =
                [paths.authority().join("root.pem"), paths.machine().join("share/pki/root.pem")];
            let mut roots = Vec::new();
            for path in files.iter().filter(|path| path.exists()) {
                let pem = input_file::read(path, MAX_ROOT)?;
                roots.push(Root::from_pem(LOCAL, &pem).map_err(|error| unusable(path, error))?);
            }
            if roots.is_empty() {
                let [own, machine] = files.map(|path| path.display().to_string());
                return Err(Failure::new(ErrorNumber::FILE_OPERATION, format!("this user has no authority: neither {own} nor {machine} exists"))
                    .hint("it is made at the first run-enclave; for another host's or user's, give that root certificate's file"));
            }
            Ok(roots)
        }
        file => {
            let path = Path::new(file);
            let bytes = input_file::read(path, MAX_ROOT)?;
            let root = if bytes.starts_with(b"-----")
                || bytes.first().is_some_and(u8::is_ascii_whitespace)
            {
                Root::from_pem(file, &bytes)
            } else {
                Root::from_der(file, &bytes)
            };
            Ok(vec![root.map_err(|error| unusable(path, error))?])
        }
    }
}

/// The option's name in place of the library's words.
fn hint(refusal: &Refusal) -> Option<&'static str> {
    match refusal.reason {
        Reason::UnknownRoot => Some(
            "say with --root whose authority it should come from: aws, local, or a file from a source you trust",
        ),
        Reason::Expired | Reason::NotYetValid => Some(
            "ask for a fresh document, look at this machine's clock, or verify an archived one with --time document",
        ),
        Reason::DebugEnclave => {
            Some("run the enclave without --debug-mode; for tests, --allow-debug --any-image")
        }
        Reason::ImageNotAsked => Some("give --pcr 0=HEX or --eif FILE, or --any-image"),
        _ => refusal.hint(),
    }
}

fn accepted(verified: &Verified) -> Answer {
    let mut notes = verified.notes.clone();
    if verified.root == LOCAL {
        notes.push("local is a software root: whoever has root on the host that holds it can forge such documents".to_owned());
    }
    if verified.debug {
        notes.push("the enclave runs in debug mode: its host can read it".to_owned());
    }
    Answer {
        valid: true,
        module_id: Some(verified.document.module_id.clone()),
        root: Some(verified.root.clone()),
        verified_at: OffsetDateTime::from_unix_timestamp(verified.at)
            .ok()
            .and_then(|time| time.format(&Rfc3339).ok()),
        debug: Some(verified.debug),
        checked: verified.checked.clone(),
        unchecked: verified.unchecked.clone(),
        notes,
        ..Answer::default()
    }
}

fn refused(refusal: &Refusal) -> Answer {
    Answer {
        reason: Some(refusal.reason),
        detail: Some(refusal.detail.clone()),
        ..Answer::default()
    }
}

fn text(verified: &Verified, answer: &Answer) -> String {
    let mut text = format!(
        "valid: {} under the root {}, at {}\n",
        verified.document.module_id.escape_debug(),
        verified.root,
        answer.verified_at.as_deref().unwrap_or("an unwritable time")
    );
    for check in &verified.checked {
        let _ = writeln!(text, "  checked: {}", question(*check));
    }
    for check in &verified.unchecked {
        let _ = writeln!(text, "  not checked: {}", question(*check));
    }
    for note in &answer.notes {
        let _ = writeln!(text, "  note: {note}");
    }
    text
}

fn question(check: Check) -> &'static str {
    match check {
        Check::Nonce => "nonce (was it made for this request?)",
        Check::Age => "age (was it made lately?)",
        Check::Image => "identity (which image runs?)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_read_strictly() {
        let value = "ab".repeat(48);
        assert_eq!(register(&format!("31={value}")).unwrap().0, 31);
        for bad in [
            format!("32={value}"),
            format!("-1={value}"),
            value.clone(),
            "0=ab".to_owned(),
            format!("0={}x", &value[1..]),
        ] {
            assert_eq!(
                register(&bad).unwrap_err().number(),
                ErrorNumber::INVALID_ARGUMENT,
                "{bad}"
            );
        }
    }

    #[test]
    fn times_are_now_the_documents_or_written_out() {
        assert_eq!(time("document").unwrap(), At::DocumentTime);
        assert_eq!(time("1970-01-01T00:01:00Z").unwrap(), At::Unix(60));
        assert!(matches!(time("now").unwrap(), At::Unix(now) if now > 1_700_000_000));
        assert!(time("yesterday").is_err());
    }

    #[test]
    fn a_refusal_as_json() {
        let refusal =
            Refusal { reason: Reason::PcrMismatch, detail: "PCR0 is a, expected b".to_owned() };
        assert_eq!(
            serde_json::to_string(&refused(&refusal)).unwrap(),
            r#"{"valid":false,"reason":"pcr-mismatch","detail":"PCR0 is a, expected b","checked":[],"unchecked":[],"notes":[]}"#
        );
    }
}
