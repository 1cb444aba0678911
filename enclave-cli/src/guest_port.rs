//! A connection to a port inside an enclave, through the enclave's own socket: `CONNECT <port>` and a newline, answered by `OK <port>` and
//! a newline, and from there on the guest's bytes.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::error_table::ErrorNumber;
use crate::failure::{Failure, Outcome};

/// How long the enclave may take to accept.
const ACCEPT_TIME: Duration = Duration::from_secs(20);

/// Longest answer to `CONNECT`, bytes: `OK 4294967295` and a newline.
const MAX_ANSWER: usize = 32;

/// Connects to `port` of the enclave behind `socket`. The stream that comes back has no time limits.
pub(crate) fn dial(socket: &Path, port: u32) -> Outcome<UnixStream> {
    dial_within(socket, port, ACCEPT_TIME)
}

fn dial_within(socket: &Path, port: u32, time: Duration) -> Outcome<UnixStream> {
    let mut stream = UnixStream::connect(socket).map_err(|error| match error.kind() {
        ErrorKind::PermissionDenied => Failure::file("connect to", socket, error)
            .hint("only the enclave's owner may connect to it; run as that user"),
        _ => Failure::new(
            ErrorNumber::ENCLAVE_CONNECTION,
            format!("cannot connect to {}", socket.display()),
        )
        .because(error)
        .hint("the enclave may have ended; run `enclave-cli describe-enclaves`"),
    })?;
    let broken = |error: std::io::Error| {
        Failure::new(ErrorNumber::SOCKET, format!("asking for port {port} of the enclave failed"))
            .because(error)
    };
    stream.set_read_timeout(Some(time)).map_err(broken)?;
    stream.set_write_timeout(Some(time)).map_err(broken)?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).map_err(broken)?;

    let nobody = || {
        Failure::new(
            ErrorNumber::SOCKET,
            format!("nobody in the enclave accepts connections to port {port}"),
        )
        .hint("check the port, and whether the application has come as far as listening on it")
    };
    let mut answer = Vec::new();
    loop {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(0) => return Err(nobody()),
            Ok(_) if byte[0] == b'\n' => break,
            Ok(_) if answer.len() < MAX_ANSWER => answer.push(byte[0]),
            Ok(_) => return Err(unexpected(&answer)),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Err(nobody()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(Failure::new(
                    ErrorNumber::SOCKET_CONNECT_TIMEOUT,
                    format!(
                        "port {port} of the enclave did not answer within {} s",
                        time.as_secs()
                    ),
                ));
            }
            Err(error) => return Err(broken(error)),
        }
    }
    if !answer.starts_with(b"OK ") {
        return Err(unexpected(&answer));
    }
    stream.set_read_timeout(None).map_err(broken)?;
    stream.set_write_timeout(None).map_err(broken)?;
    Ok(stream)
}

fn unexpected(answer: &[u8]) -> Failure {
    Failure::new(
        ErrorNumber::SOCKET,
        format!("the enclave's socket answered \"{}\" to CONNECT", answer.escape_ascii()),
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// Runs `dial` against a socket that answers with `answer` after the request, and closes.
    fn against(answer: &'static [u8]) -> Outcome<(UnixStream, Vec<u8>)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vsock.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let peer = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\n") {
                let mut byte = [0];
                if stream.read(&mut byte).unwrap() == 0 {
                    break;
                }
                request.push(byte[0]);
            }
            let _ = stream.write_all(answer);
            request
        });
        let result = dial_within(&path, 5005, Duration::from_secs(5));
        let request = peer.join().unwrap();
        result.map(|stream| (stream, request))
    }

    #[test]
    fn what_follows_the_answer_belongs_to_the_guest() {
        let (mut stream, request) = against(b"OK 1073741824\nhello").unwrap();
        assert_eq!(request, b"CONNECT 5005\n");
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }

    #[test]
    fn refusals_and_nonsense_are_errors() {
        assert!(against(b"").unwrap_err().chain().contains("port 5005"));
        assert!(against(b"NO\n").unwrap_err().chain().contains("NO"));
        assert!(against(&[b'x'; 100]).unwrap_err().chain().contains("xxx"));
        assert!(against(b"OK 1").is_err(), "an answer without its end");
        let missing = dial(Path::new("/nonexistent/vsock.sock"), 1).unwrap_err();
        assert_eq!(missing.number(), ErrorNumber::ENCLAVE_CONNECTION);
    }

    #[test]
    fn silence_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let _listener = UnixListener::bind(&path).unwrap();
        let failure = dial_within(&path, 1, Duration::from_millis(50)).unwrap_err();
        assert_eq!(failure.number(), ErrorNumber::SOCKET_CONNECT_TIMEOUT);
    }
}
