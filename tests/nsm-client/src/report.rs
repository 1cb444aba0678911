//! What came of it all.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

/// Collects calls and disagreements; nothing stops at the first.
#[derive(Debug, Default)]
pub(crate) struct Report {
    calls: BTreeMap<&'static str, u32>,
    failures: Vec<String>,
    module_id: String,
    document: Vec<u8>,
}

impl Report {
    /// Counts a call.
    pub(crate) fn called(&mut self, request: &'static str) {
        *self.calls.entry(request).or_default() += 1;
    }

    /// Notes a disagreement, in a sentence.
    pub(crate) fn fail(&mut self, what: String) {
        self.failures.push(what);
    }

    /// The module's id, as it says itself.
    pub(crate) fn set_module_id(&mut self, id: &str) {
        id.clone_into(&mut self.module_id);
    }

    /// A document for others to verify.
    pub(crate) fn set_document(&mut self, document: Vec<u8>) {
        self.document = document;
    }

    /// All of it, in one line.
    pub(crate) fn line(&self) -> String {
        json!({
            "failures": self.failures,
            "calls": self.calls,
            "module_id": self.module_id,
            "document": STANDARD.encode(&self.document),
        })
        .to_string()
    }
}
