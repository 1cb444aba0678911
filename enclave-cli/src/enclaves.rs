//! `describe-enclaves`, `terminate-enclave` and `console`, and finding the enclave that any command means. What a killed keeper could not
//! put back, the first of these commands does.

use std::io::{ErrorKind, Read};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use enclave_vmm::control::{self, ConsoleStream};
use enclave_vmm::paths::Paths;
use enclave_vmm::registry::{self, Entry};
use enclave_vmm::resources::Host;
use enclave_vmm::resources::ledger::Ledger;
use serde::Serialize;

use crate::arguments::nitro::{Console, DescribeEnclaves, TerminateEnclave};
use crate::error_table::ErrorNumber;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::progress::line;
use crate::pump::{self, CopyError};
use crate::route::Route;

/// How long a keeper that has only just begun may take to open its control socket.
const SOCKET_TIME: Duration = Duration::from_secs(15);

/// What `terminate-enclave` prints.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Terminated {
    enclave_name: String,
    #[serde(rename = "EnclaveID")]
    enclave_id: String,
    terminated: bool,
}

/// This machine's books.
pub(crate) fn ledger(paths: &Paths) -> Ledger {
    Ledger { host: Host::this(), run: paths.run.clone(), history: paths.history() }
}

/// The user's living enclave with this id or name.
pub(crate) fn find(id_or_name: &str) -> Outcome<Entry> {
    let paths = Paths::current();
    ledger(&paths).reclaim_if_free()?;
    Ok(registry::find(&paths.run, id_or_name)?)
}

/// The socket through which its ports are reached.
pub(crate) fn vsock_socket(id_or_name: &str) -> Outcome<PathBuf> {
    let entry = find(id_or_name)?;
    let file = entry.file()?.ok_or_else(|| {
        Failure::new(
            ErrorNumber::ENCLAVE_CONNECTION,
            format!("enclave {} is still starting", entry.id),
        )
        .hint("wait for run-enclave to print its JSON")
    })?;
    Ok(file.vsock_path)
}

/// Prints every enclave that may be described.
pub(crate) fn describe(arguments: &DescribeEnclaves, route: &Route) -> Outcome<u8> {
    if let Some(machine) = route.machine() {
        let words: &[&str] = if arguments.metadata {
            &["describe-enclaves", "--metadata"]
        } else {
            &["describe-enclaves"]
        };
        return machine.run(words);
    }
    let paths = Paths::current();
    ledger(&paths).reclaim_if_free()?;
    let mut described = Vec::new();
    for run in &paths.describable {
        for entry in registry::entries(run)?.into_iter().filter(|entry| entry.live) {
            match control::describe(&entry.control_socket()) {
                Ok(description) if arguments.metadata => described.push(description),
                Ok(description) => described.push(description.without_metadata()),
                // Starting or ending at this moment: not there yet, or not there any more.
                Err(error) if is_gone(&error) => {}
                Err(error) => line(&format!(
                    "warning: enclave {} does not describe itself: {error}",
                    entry.id
                )),
            }
        }
    }
    output::json(&described)?;
    Ok(0)
}

/// Ends one enclave, or all of this user's.
pub(crate) fn terminate(arguments: &TerminateEnclave, route: &Route) -> Outcome<u8> {
    let which = arguments.enclave_id.as_ref().or(arguments.enclave_name.as_ref());
    if let Some(machine) = route.machine() {
        return match which {
            Some(which) => machine.run(&["terminate-enclave", "--enclave-id", which]),
            None => machine.run(&["terminate-enclave", "--all"]),
        };
    }
    if let Some(which) = which {
        output::json(&end(&find(which)?)?)?;
        return Ok(0);
    }
    let paths = Paths::current();
    ledger(&paths).reclaim_if_free()?;
    let (mut ended, mut failed) = (Vec::new(), None);
    for entry in registry::entries(&paths.run)?.into_iter().filter(|entry| entry.live) {
        match end(&entry) {
            Ok(terminated) => ended.push(terminated),
            // It ended by itself meanwhile.
            Err(_) if registry::find(&paths.run, &entry.id).is_err() => {}
            Err(failure) => failed = Some(failure),
        }
    }
    output::json(&ended)?;
    failed.map_or(Ok(0), Err)
}

fn end(entry: &Entry) -> Outcome<Terminated> {
    let name = entry.claim()?.map(|claim| claim.name).unwrap_or_default();
    let deadline = Instant::now() + SOCKET_TIME;
    let reply = loop {
        match control::terminate(&entry.control_socket()) {
            Err(error) if is_gone(&error) && Instant::now() < deadline => {
                registry::find(&Paths::current().run, &entry.id)?;
                sleep(Duration::from_millis(100));
            }
            other => break other?,
        }
    };
    if reply.is_none() {
        // The keeper died on the way; what it held is put back here.
        ledger(&Paths::current()).open()?;
    }
    line(&format!("Successfully terminated enclave {}.", entry.id));
    Ok(Terminated {
        enclave_name: reply.map_or(name, |reply| reply.enclave_name),
        enclave_id: entry.id.clone(),
        terminated: true,
    })
}

/// Whether nobody is behind the socket.
fn is_gone(error: &enclave_vmm::Error) -> bool {
    match error {
        enclave_vmm::Error::Closed { .. } => true,
        enclave_vmm::Error::File { source, .. } => {
            matches!(source.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused)
        }
        _ => false,
    }
}

/// Shows the console of a debug enclave until it ends, or for as long as asked.
pub(crate) fn console(arguments: &Console, route: &Route) -> Outcome<u8> {
    let which = arguments.enclave_id.as_ref().or(arguments.enclave_name.as_ref());
    let which = which.ok_or_else(|| {
        Failure::new(ErrorNumber::MISSING_ARGUMENT, "--enclave-id or --enclave-name is needed")
    })?;
    if let Some(machine) = route.machine() {
        let mut words = vec!["console".to_owned(), "--enclave-id".to_owned(), which.clone()];
        if let Some(seconds) = arguments.disconnect_timeout {
            words.extend(["--disconnect-timeout".to_owned(), seconds.to_string()]);
        }
        return machine.run(&words);
    }
    let entry = find(which)?;
    let cid = entry.claim()?.map(|claim| claim.cid.to_string()).unwrap_or_default();
    line(&format!("Connecting to the console for enclave {cid}..."));
    let stream = control::console(&entry.control_socket())?;
    line("Successfully connected to the console.");
    show(stream, arguments.disconnect_timeout.map(Duration::from_secs))?;
    Ok(0)
}

/// Copies console text to stdout until it ends or `time` is over.
pub(crate) fn show(stream: ConsoleStream, time: Option<Duration>) -> Outcome<()> {
    let mut source = Limited { stream, end: time.map(|time| Instant::now() + time) };
    match pump::copy(&mut source, &mut std::io::stdout().lock()) {
        Ok(_) => Ok(()),
        Err(CopyError::Write(error)) => {
            Err(Failure::new(ErrorNumber::CONSOLE_WRITE, "what the console says cannot be written")
                .because(error))
        }
        Err(CopyError::Read(error)) => {
            Err(Failure::new(ErrorNumber::CONSOLE_READ, "the console broke off").because(error))
        }
    }
}

/// A console that ends at a time.
struct Limited {
    stream: ConsoleStream,
    end: Option<Instant>,
}

impl Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let Some(end) = self.end else { return self.stream.read(buffer) };
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(0);
        }
        self.stream.set_read_timeout(Some(left)).map_err(std::io::Error::other)?;
        match self.stream.read(buffer) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Ok(0)
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminate_prints_nitro_clis_three_fields() {
        let ended = Terminated {
            enclave_name: "hello".into(),
            enclave_id: "i-0-enc1".into(),
            terminated: true,
        };
        assert_eq!(
            serde_json::to_string_pretty(&ended).unwrap(),
            "{\n  \"EnclaveName\": \"hello\",\n  \"EnclaveID\": \"i-0-enc1\",\n  \"Terminated\": true\n}"
        );
    }

    #[test]
    fn only_a_missing_peer_counts_as_gone() {
        let file = |kind: ErrorKind| enclave_vmm::Error::File {
            action: "connect to",
            path: "/x".into(),
            source: kind.into(),
        };
        assert!(
            is_gone(&file(ErrorKind::NotFound)) && is_gone(&file(ErrorKind::ConnectionRefused))
        );
        assert!(!is_gone(&file(ErrorKind::PermissionDenied)));
        assert!(!is_gone(&enclave_vmm::Error::NotRoot { uid: 7 }));
    }
}
