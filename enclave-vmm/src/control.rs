//! The control socket of a running enclave, `<run>/<id>/control.sock`: the protocol and the client that the commands use. One JSON request a line,
//! one JSON reply a line; after `console` raw bytes follow until the end.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::description::EnclaveDescription;
use crate::error::{Error, Failure, Result};
use crate::history::ExitRecord;

/// Longest request line, bytes.
pub const MAX_REQUEST: usize = 4096;

/// Longest reply line read, bytes: a description with the image's metadata.
pub const MAX_REPLY: u64 = 4 << 20;

/// How long a keeper may take for an answer that needs no work.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long an orderly end may take: the vmm wipes all memory, then CPUs and pages go back.
const TERMINATE_PATIENCE: Duration = Duration::from_secs(300);

/// A request line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// What is asked for.
    pub op: Op,
}

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// [`EnclaveDescription`]. Anybody may.
    Describe,
    /// Ends the enclave; answered with [`Terminated`] when everything is put back. Owner and root.
    Terminate,
    /// The console's kept text, then what comes. Debug mode; owner and root.
    Console,
}

/// A reply line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply<T> {
    /// As asked.
    Ok(T),
    /// Refused or failed.
    Error(Failure),
}

/// The reply to `terminate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Terminated {
    /// Its name.
    pub enclave_name: String,
    /// Its id.
    #[serde(rename = "EnclaveID")]
    pub enclave_id: String,
    /// True.
    pub terminated: bool,
    /// How it ended.
    pub record: ExitRecord,
}

/// The reply to `console`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleOpen {
    /// Bytes that are kept and come first.
    pub history: u64,
}

/// Asks an enclave to describe itself.
///
/// # Errors
/// [`Error::File`] if it cannot be reached, [`Error::Closed`], [`Error::Reported`].
pub fn describe(socket: &Path) -> Result<EnclaveDescription> {
    let (description, _) = ask(socket, Op::Describe, PATIENCE)?;
    Ok(description)
}

/// Ends an enclave and waits until everything is put back. `None`: its keeper died on the way, and [`Ledger::open`] will put things back.
///
/// # Errors
/// [`Error::File`] if it cannot be reached, [`Error::Timeout`], [`Error::Reported`].
///
/// [`Ledger::open`]: crate::resources::ledger::Ledger::open
pub fn terminate(socket: &Path) -> Result<Option<Terminated>> {
    match ask(socket, Op::Terminate, TERMINATE_PATIENCE) {
        Ok((terminated, _)) => Ok(Some(terminated)),
        Err(Error::Closed { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens the console of a debug enclave; what is read is its text, history first, and ends with the enclave.
///
/// # Errors
/// [`Error::File`] if it cannot be reached, [`Error::Closed`], [`Error::Reported`] (E44 without debug mode).
pub fn console(socket: &Path) -> Result<ConsoleStream> {
    let (ConsoleOpen { .. }, stream) = ask(socket, Op::Console, PATIENCE)?;
    let socket = stream.get_ref();
    socket.set_read_timeout(None).map_err(Error::system("open the console"))?;
    Ok(ConsoleStream(stream))
}

/// Console text as it comes.
#[derive(Debug)]
pub struct ConsoleStream(BufReader<UnixStream>);

impl ConsoleStream {
    /// How long a read may wait; for ever without.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn set_read_timeout(&self, limit: Option<Duration>) -> Result<()> {
        self.0.get_ref().set_read_timeout(limit).map_err(Error::system("wait for the console"))
    }
}

impl Read for ConsoleStream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

fn ask<T: serde::de::DeserializeOwned>(
    socket: &Path,
    op: Op,
    patience: Duration,
) -> Result<(T, BufReader<UnixStream>)> {
    const PEER: &str = "The enclave's keeper";
    let io_error = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => {
            Error::Timeout { peer: PEER, seconds: patience.as_secs() }
        }
        std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset => {
            Error::Closed { peer: PEER }
        }
        _ => Error::File { action: "talk to", path: socket.to_owned(), source: error },
    };
    let mut stream = UnixStream::connect(socket).map_err(Error::file("connect to", socket))?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(io_error)?;
    stream.set_read_timeout(Some(patience)).map_err(io_error)?;
    let mut line = serde_json::to_vec(&Request { op })
        .map_err(|source| Error::Message { peer: PEER, source })?;
    line.push(b'\n');
    stream.write_all(&line).map_err(io_error)?;

    let mut reader = BufReader::new(stream);
    let mut reply = Vec::new();
    reader.by_ref().take(MAX_REPLY).read_until(b'\n', &mut reply).map_err(io_error)?;
    if reply.last() != Some(&b'\n') {
        return Err(Error::Closed { peer: PEER });
    }
    match serde_json::from_slice(&reply).map_err(|source| Error::Message { peer: PEER, source })? {
        Reply::Ok(value) => Ok((value, reader)),
        Reply::Error(failure) => Err(Error::Reported(failure)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;
    use crate::description::example;

    /// A keeper that reads one line and answers with `reply`, verbatim.
    fn keeper(
        reply: Vec<u8>,
    ) -> (tempfile::TempDir, std::path::PathBuf, thread::JoinHandle<String>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let served = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream);
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            reader.get_mut().write_all(&reply).unwrap();
            line
        });
        (folder, path, served)
    }

    #[test]
    fn describe_is_one_line_each_way() {
        let description = example("i-0-enc1", "x", 16);
        let mut reply = serde_json::to_vec(&Reply::Ok(&description)).unwrap();
        reply.push(b'\n');
        let (_folder, path, served) = keeper(reply);
        assert_eq!(describe(&path).unwrap(), description);
        assert_eq!(served.join().unwrap(), "{\"op\":\"describe\"}\n");
    }

    #[test]
    fn a_refusal_comes_through_with_its_number() {
        let (_folder, path, served) =
            keeper(b"{\"error\":{\"code\":44,\"message\":\"no console\"}}\n".to_vec());
        assert_eq!(console(&path).unwrap_err().code(), 44);
        assert_eq!(served.join().unwrap(), "{\"op\":\"console\"}\n");
    }

    #[test]
    fn a_keeper_that_dies_is_not_an_answer() {
        for reply in [b"".to_vec(), b"{\"ok\":".to_vec()] {
            let (_folder, path, served) = keeper(reply);
            assert!(matches!(describe(&path), Err(Error::Closed { .. })));
            served.join().unwrap();
        }
        let (_folder, path, _served) = keeper(Vec::new());
        assert_eq!(terminate(&path).unwrap(), None);
        let gone = describe(Path::new("/nonexistent/control.sock")).unwrap_err();
        assert!(gone.to_string().contains("/nonexistent/control.sock"));
    }

    #[test]
    fn console_text_follows_the_reply() {
        let (_folder, path, _served) = keeper(b"{\"ok\":{\"history\":5}}\nhello".to_vec());
        let mut text = String::new();
        console(&path).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for bad in ["", "{}", r#"{"op":"reboot"}"#, r#"{"op":"describe","x":1}"#, "[]"] {
            assert!(serde_json::from_str::<Request>(bad).is_err(), "{bad}");
        }
    }
}
