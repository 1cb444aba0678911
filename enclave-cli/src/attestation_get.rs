//! `attestation get`: asks a running enclave's agent (port 9001) for a document with a fresh nonce, and makes sure that the nonce came back.
//! Whoever relies on the document verifies it: asking and judging are different people as a rule.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use guest_abi::agent::{AgentReply, AgentRequest, MAX_NONCE, MAX_REPLY, MAX_REQUEST};
use guest_abi::{frame, ports};
use ring::rand::SecureRandom;
use serde::Serialize;

use crate::arguments::ours::AttestationGet;
use crate::error_table::ErrorNumber;
use crate::failure::{Failure, Outcome};
use crate::route::Route;
use crate::{enclaves, guest_port, output};

/// How long an enclave may take for a document: nested emulation takes seconds where hardware takes milliseconds.
const ANSWER_TIME: Duration = Duration::from_secs(60);

/// What goes to stdout when no file was named.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    #[serde(rename = "EnclaveID")]
    enclave_id: String,
    /// Lower-case hex.
    nonce: String,
    /// Base64 of the COSE_Sign1.
    document: String,
}

/// Asks, checks the nonce, and writes the document.
pub(crate) fn run(arguments: &AttestationGet, route: &Route) -> Outcome<u8> {
    let nonce = match &arguments.nonce {
        Some(text) => nonce_from_hex(text)?,
        None => random_nonce()?,
    };
    let document = match route.machine() {
        Some(machine) => {
            let hex = hex::encode(&nonce);
            machine.capture(
                &[
                    "attestation",
                    "get",
                    "--raw",
                    "--enclave-id",
                    &arguments.enclave_id,
                    "--nonce",
                    &hex,
                ],
                MAX_REPLY,
            )?
        }
        None => fetch(&enclaves::vsock_socket(&arguments.enclave_id)?, &nonce)?,
    };
    let module_id = check_nonce(&document, &nonce)?;
    if arguments.raw {
        output::write(&document)?;
    } else if let Some(path) = &arguments.output {
        write_file(path, &document)?;
    } else {
        output::json(&Document {
            enclave_id: module_id,
            nonce: hex::encode(&nonce),
            document: STANDARD.encode(&document),
        })?;
    }
    Ok(0)
}

/// A nonce as it is given on a command line.
pub(crate) fn nonce_from_hex(text: &str) -> Outcome<Vec<u8>> {
    let nonce = hex::decode(text).map_err(|error| {
        Failure::new(
            ErrorNumber::INVALID_ARGUMENT,
            format!("nonce {:?} is not hexadecimal", shortened(text)),
        )
        .because(error)
    })?;
    if nonce.len() > MAX_NONCE {
        return Err(Failure::new(
            ErrorNumber::INVALID_ARGUMENT,
            format!("nonce of {} bytes; at most {MAX_NONCE} fit", nonce.len()),
        ));
    }
    Ok(nonce)
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

fn random_nonce() -> Outcome<Vec<u8>> {
    let mut nonce = vec![0; 32];
    ring::rand::SystemRandom::new().fill(&mut nonce).map_err(|_| {
        Failure::new(ErrorNumber::UNSPECIFIED, "the system gives no random bytes for a nonce")
    })?;
    Ok(nonce)
}

/// One request to the agent.
fn fetch(socket: &Path, nonce: &[u8]) -> Outcome<Vec<u8>> {
    let mut stream = guest_port::dial(socket, ports::AGENT)?;
    let broken = |error: Box<dyn std::error::Error + Send + Sync>| {
        Failure::new(ErrorNumber::SOCKET, "the enclave's attestation agent gave no proper answer")
            .because(error)
    };
    stream.set_read_timeout(Some(ANSWER_TIME)).map_err(|error| broken(error.into()))?;
    stream.set_write_timeout(Some(ANSWER_TIME)).map_err(|error| broken(error.into()))?;
    let request = AgentRequest::new(nonce)
        .and_then(|request| request.encode())
        .map_err(|error| broken(error.into()))?;
    frame::write(&mut stream, &request, MAX_REQUEST).map_err(|error| broken(error.into()))?;
    let reply = frame::read(&mut stream, MAX_REPLY).map_err(|error| broken(error.into()))?;
    match AgentReply::decode(&reply).map_err(|error| broken(error.into()))? {
        AgentReply::Document(document) => Ok(document.into_vec()),
        AgentReply::Error(text) => Err(Failure::new(
            ErrorNumber::COMMAND_NOT_EXECUTED,
            format!("the enclave's agent refused: {}", text.escape_debug()),
        )),
    }
}

/// A document without our nonce is somebody's old one. Gives the enclave's id as the document has it.
fn check_nonce(document: &[u8], nonce: &[u8]) -> Outcome<String> {
    let unreadable = |refusal: attestation::Refusal| {
        Failure::no("what came back is no attestation document").because(refusal)
    };
    let parsed = crate::attestation_show::parse(document).map_err(unreadable)?;
    match parsed.nonce.as_deref() {
        Some(found) if found == nonce => Ok(parsed.module_id),
        found => Err(Failure::no(format!(
            "the document has nonce {}, not the {} that was sent",
            found.map_or_else(|| "null".to_owned(), |found| shortened(&hex::encode(found))),
            shortened(&hex::encode(nonce))
        ))
        .hint("do not use it: it was not made for this request")),
    }
}

/// Into a file that is made or replaced. Checked before, so what is in it was made for this request.
fn write_file(path: &Path, document: &[u8]) -> Outcome<()> {
    let wrong = |error| Failure::file("write", path, error);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(path)
        .map_err(wrong)?;
    file.write_all(document).map_err(wrong)
}
