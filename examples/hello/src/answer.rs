//! What the application says, as JSON, and how its document is bound to the request.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nsm::message::AttestationFields;
use ring::digest::{SHA384, digest};
use serde::Serialize;

use crate::machine;

/// One answer. Binary values are base64.
#[derive(Debug, Serialize)]
pub(crate) struct Answer {
    greeting: String,
    /// CPUs this process may run on.
    cpus: Option<usize>,
    /// MiB, what the kernel has left to give to programs.
    memory_mib: Option<u64>,
    /// SHA-384 of the request line, lower-case hex: the document's user data.
    user_data: String,
    /// An attestation document, COSE_Sign1.
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<String>,
    /// Why there is no document.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// The answer to a request line.
pub(crate) fn to(line: &[u8]) -> Answer {
    let hash = digest(&SHA384, line);
    let (document, error) = match document(hash.as_ref()) {
        Ok(document) => (Some(STANDARD.encode(document)), None),
        Err(error) => (None, Some(error)),
    };
    Answer {
        greeting: format!("hello, {}", String::from_utf8_lossy(line)),
        cpus: machine::cpus(),
        memory_mib: machine::memory_mib(),
        user_data: hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect(),
        document,
        error,
    }
}

fn document(user_data: &[u8]) -> Result<Vec<u8>, String> {
    let fields =
        AttestationFields { user_data: Some(user_data.to_vec()), ..AttestationFields::default() };
    nsm_dev::Device::open().and_then(|device| device.attest(fields)).map_err(|error| {
        match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_of_an_enclave_it_answers_without_a_document() {
        let answer = serde_json::to_value(to(b"good morning")).unwrap();
        assert_eq!(answer["greeting"], "hello, good morning");
        assert!(answer["cpus"].as_u64() >= Some(1), "{answer}");
        assert!(answer["memory_mib"].as_u64() > Some(1), "{answer}");
        // printf 'good morning' | sha384sum
        assert_eq!(
            answer["user_data"],
            "0632a734659b8659d14ba9a11ced40f93467601cca678dfc2664dc60f3b81235e103633944deae38860a18655a841361"
        );
        assert!(answer["document"].is_null(), "{answer}");
        assert!(answer["error"].as_str().unwrap().contains("/dev/nsm"), "{answer}");
    }

    #[test]
    fn any_bytes_are_greeted() {
        assert_eq!(to(&[0xff, b'a']).greeting, "hello, \u{fffd}a");
    }
}
