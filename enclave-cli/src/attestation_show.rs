//! `attestation show`: every field of a document, judging nothing.

use std::fmt::Write as _;

use attestation::cose::Envelope;
use attestation::show::{BytesView, CertificateFields, CertificateView, DocumentView};
use attestation::{AttestationDocument, Refusal};

use crate::arguments::ours::AttestationShow;
use crate::failure::{Failure, Outcome};
use crate::{document_file, output};

/// Prints it.
pub(crate) fn run(arguments: &AttestationShow) -> Outcome<u8> {
    let bytes = document_file::read(&arguments.document)?;
    let view = DocumentView::read(&bytes).map_err(|refusal| {
        Failure::no(format!(
            "{} is no attestation document ({})",
            arguments.document.display(),
            refusal.reason
        ))
        .because(refusal)
    })?;
    if arguments.json {
        output::json(&view)?;
    } else {
        output::write(text(&view).as_bytes())?;
    }
    Ok(0)
}

/// Reads a document without verifying it, for the one field that a caller may compare on its own: the nonce.
pub(crate) fn parse(bytes: &[u8]) -> Result<AttestationDocument, Refusal> {
    AttestationDocument::decode(Envelope::open(bytes)?.payload)
}

fn text(view: &DocumentView) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<12} {value}");
    };
    // Text from a document is a stranger's: it must not steer the terminal.
    line("module_id", &view.module_id.escape_debug().to_string());
    line("time", &format!("{} ({} ms)", view.time, view.timestamp));
    line("digest", view.digest);
    line("algorithm", view.algorithm);
    line("debug mode", if view.debug { "yes: PCR0 is zero" } else { "no" });
    for (index, pcr) in &view.pcrs {
        line(&format!("PCR{index}"), &pcr.to_string());
    }
    for (name, value) in
        [("nonce", &view.nonce), ("user_data", &view.user_data), ("public_key", &view.public_key)]
    {
        line(name, &value.as_ref().map_or_else(|| "null".to_owned(), bytes));
    }
    for (index, view) in view.cabundle.iter().enumerate() {
        line(&format!("cabundle[{index}]"), &certificate(view));
    }
    line("certificate", &certificate(&view.certificate));
    line("signature", &view.signature);
    text
}

fn bytes(view: &BytesView) -> String {
    let text = view.text.as_ref().map_or_else(String::new, |text| format!(" = {text:?}"));
    format!("{} bytes: {}{text}", view.len, view.hex)
}

fn certificate(view: &CertificateView) -> String {
    match &view.fields {
        CertificateFields::Parsed { subject, not_before, not_after, ca, .. } => format!(
            "{} ({not_before} to {not_after}{}; SHA-256 {})",
            subject.escape_debug(),
            if *ca { ", authority" } else { "" },
            view.sha256
        ),
        CertificateFields::Broken { error } => {
            format!("{} bytes that are no certificate: {}", view.len, error.escape_debug())
        }
    }
}
