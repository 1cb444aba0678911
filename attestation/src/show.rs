//! A document in a form for people and scripts: every field, the certificates taken apart, nothing
//! verified. Shown also when it would be refused, as long as it can be decoded.

use std::collections::BTreeMap;

use nsm::Pcr;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::certificate::X509Certificate;

use crate::cose::Envelope;
use crate::document::{AttestationDocument, DIGEST};
use crate::refusal::Refusal;
use crate::root::fingerprint;

/// Every field of a document; byte strings in hexadecimal.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct DocumentView {
    /// Whether the envelope had COSE's tag 18 (AWS's have not).
    pub tagged: bool,
    /// `ES384`.
    pub algorithm: &'static str,
    /// The enclave's id.
    pub module_id: String,
    /// `SHA384`.
    pub digest: &'static str,
    /// Milliseconds since 1970.
    pub timestamp: u64,
    /// The same, RFC 3339.
    pub time: String,
    /// PCR0 is zero.
    pub debug: bool,
    /// Registers by index.
    pub pcrs: BTreeMap<u8, Pcr>,
    /// The leaf.
    pub certificate: CertificateView,
    /// Root first.
    pub cabundle: Vec<CertificateView>,
    /// Absent is null; empty is an empty text.
    pub public_key: Option<BytesView>,
    /// Absent is null; empty is an empty text.
    pub user_data: Option<BytesView>,
    /// Absent is null; empty is an empty text.
    pub nonce: Option<BytesView>,
    /// 96 bytes, r and s.
    pub signature: String,
}

/// A byte string.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct BytesView {
    /// How many bytes.
    pub len: usize,
    /// All of them.
    pub hex: String,
    /// The same as text, where it is printable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// A certificate of a document.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct CertificateView {
    /// Bytes of DER.
    pub len: usize,
    /// SHA-256 of the DER.
    pub sha256: String,
    /// Its fields, or why it has none.
    #[serde(flatten)]
    pub fields: CertificateFields,
}

/// What a certificate says.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(untagged)]
pub enum CertificateFields {
    /// It could be parsed.
    Parsed {
        /// Distinguished name.
        subject: String,
        /// Distinguished name.
        issuer: String,
        /// Hexadecimal.
        serial: String,
        /// RFC 3339.
        not_before: String,
        /// RFC 3339.
        not_after: String,
        /// May sign certificates.
        ca: bool,
        /// How many authorities may follow it.
        path_len: Option<u32>,
        /// Object identifier.
        signature_algorithm: String,
    },
    /// It could not.
    Broken {
        /// What the parser said.
        error: String,
    },
}

impl DocumentView {
    /// Reads a document (binary COSE_Sign1) without verifying anything.
    ///
    /// # Errors
    /// `malformed-cose`, `unsupported-algorithm`, `malformed-document`, `document-limits`.
    pub fn read(bytes: &[u8]) -> Result<Self, Refusal> {
        let envelope = Envelope::open(bytes)?;
        let document = AttestationDocument::decode(envelope.payload)?;
        let seconds = i64::try_from(document.timestamp_ms / 1000).unwrap_or(i64::MAX);
        Ok(Self {
            tagged: envelope.tagged,
            algorithm: "ES384",
            digest: DIGEST,
            timestamp: document.timestamp_ms,
            time: rfc3339(seconds),
            debug: document.is_debug(),
            certificate: CertificateView::read(&document.certificate),
            cabundle: document.cabundle.iter().map(|der| CertificateView::read(der)).collect(),
            public_key: document.public_key.as_deref().map(BytesView::read),
            user_data: document.user_data.as_deref().map(BytesView::read),
            nonce: document.nonce.as_deref().map(BytesView::read),
            signature: hex::encode(envelope.signature),
            module_id: document.module_id,
            pcrs: document.pcrs,
        })
    }
}

impl BytesView {
    fn read(bytes: &[u8]) -> Self {
        let text = std::str::from_utf8(bytes).ok();
        let printable = |text: &&str| !text.is_empty() && !text.chars().any(char::is_control);
        Self {
            len: bytes.len(),
            hex: hex::encode(bytes),
            text: text.filter(printable).map(str::to_owned),
        }
    }
}

impl CertificateView {
    fn read(der: &[u8]) -> Self {
        let fields = match x509_parser::parse_x509_certificate(der) {
            Ok((_, x509)) => CertificateFields::read(&x509),
            Err(error) => CertificateFields::Broken { error: error.to_string() },
        };
        Self { len: der.len(), sha256: fingerprint(der), fields }
    }
}

impl CertificateFields {
    fn read(x509: &X509Certificate<'_>) -> Self {
        let basic = x509.basic_constraints().ok().flatten();
        Self::Parsed {
            subject: x509.subject().to_string(),
            issuer: x509.issuer().to_string(),
            serial: hex::encode(x509.raw_serial()),
            not_before: rfc3339(x509.validity().not_before.timestamp()),
            not_after: rfc3339(x509.validity().not_after.timestamp()),
            ca: basic.as_ref().is_some_and(|basic| basic.value.ca),
            path_len: basic.and_then(|basic| basic.value.path_len_constraint),
            signature_algorithm: x509.signature_algorithm.algorithm.to_string(),
        }
    }
}

/// Unix seconds as RFC 3339 in UTC; what no calendar holds stays a number.
pub(crate) fn rfc3339(seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{seconds} s since 1970"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_authority::BENCH;

    #[test]
    fn shows_every_field() {
        let bytes = BENCH.key.sign_document(&BENCH.document()).unwrap();
        let json = serde_json::to_value(DocumentView::read(&bytes).unwrap()).unwrap();
        assert_eq!(json["module_id"], "i-0123456789abcdef0-enc0123456789abcdef");
        assert_eq!(json["timestamp"], 1_795_348_800_123_u64);
        assert_eq!(json["time"], "2026-11-22T12:00:00Z");
        assert_eq!((&json["algorithm"], &json["digest"]), (&"ES384".into(), &"SHA384".into()));
        assert_eq!((&json["tagged"], &json["debug"]), (&false.into(), &false.into()));
        assert_eq!(json["pcrs"]["0"], Pcr::of(b"0").to_string());
        assert_eq!(json["pcrs"].as_object().unwrap().len(), 16);
        assert_eq!(json["public_key"], serde_json::Value::Null);
        assert_eq!(json["user_data"], serde_json::json!({"len": 0, "hex": ""}));
        assert_eq!(
            json["nonce"],
            serde_json::json!({"len": 5, "hex": "6e6f6e6365", "text": "nonce"})
        );
        assert_eq!(json["signature"].as_str().map(str::len), Some(192));
        let leaf = &json["certificate"];
        assert_eq!(leaf["subject"], "O=bench, CN=i-0123456789abcdef0-enc0123456789abcdef.local");
        assert_eq!(leaf["not_after"], "2026-11-22T15:00:00Z");
        assert_eq!((&leaf["ca"], &leaf["path_len"]), (&false.into(), &().into()));
        assert_eq!(leaf["signature_algorithm"], "1.2.840.10045.4.3.3");
        let root = &json["cabundle"][0];
        assert_eq!(root["sha256"], BENCH.root().fingerprint());
        assert_eq!(json["cabundle"][3]["path_len"], 0);
    }

    #[test]
    fn shows_documents_whose_certificates_are_broken() {
        let mut document = BENCH.document();
        document.certificate = vec![0; 64];
        document.timestamp_ms = u64::MAX;
        let bytes = BENCH.key.sign_document(&document).unwrap();
        let json = serde_json::to_value(DocumentView::read(&bytes).unwrap()).unwrap();
        assert_eq!(json["certificate"]["len"], 64);
        assert!(json["certificate"]["error"].is_string());
        assert_eq!(json["time"], "18446744073709551 s since 1970");
    }
}
