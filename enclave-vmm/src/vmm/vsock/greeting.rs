//! The first line of a client on the host's vsock socket, `CONNECT <port>\n`. It is peeked at until it is whole and then taken
//! off to the byte, so that what the client sends right behind it is still there for the guest.

use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};

/// `CONNECT 4294967295\n` has 19 bytes.
const LONGEST: usize = 32;

/// A client that has not said yet what it wants.
#[derive(Debug)]
pub struct Greeting {
    stream: UnixStream,
}

/// How far a greeting has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// More must come.
    Waiting,
    /// It wants this port of the guest.
    Port(u32),
    /// It speaks another language, or is gone.
    Refused,
}

impl Greeting {
    /// `stream` must not block.
    #[must_use]
    pub fn new(stream: UnixStream) -> Greeting {
        Greeting { stream }
    }

    /// The stream, behind its greeting.
    #[must_use]
    pub fn into_stream(self) -> UnixStream {
        self.stream
    }

    /// Looks at what has come.
    pub fn read(&mut self) -> Progress {
        let mut buffer = [0; LONGEST];
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        let length = match recv(self.stream.as_raw_fd(), &mut buffer, flags) {
            Ok(0) => return Progress::Refused,
            Ok(length) => length,
            Err(Errno::EAGAIN | Errno::EINTR) => return Progress::Waiting,
            Err(_) => return Progress::Refused,
        };
        let seen = buffer.get(..length).unwrap_or_default();
        let Some(end) = seen.iter().position(|byte| *byte == b'\n') else {
            let prefix = seen.iter().zip(b"CONNECT ").all(|(a, b)| a == b);
            return if prefix && length < LONGEST { Progress::Waiting } else { Progress::Refused };
        };
        let port = seen.get(..end).and_then(parse);
        let mut line = vec![0; end + 1];
        match (port, self.stream.read_exact(&mut line)) {
            (Some(port), Ok(())) => Progress::Port(port),
            _ => Progress::Refused,
        }
    }
}

fn parse(line: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(line.strip_prefix(b"CONNECT ")?).ok()?;
    // `parse` takes a sign.
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn pair() -> (UnixStream, Greeting) {
        let (client, server) = UnixStream::pair().unwrap();
        server.set_nonblocking(true).unwrap();
        (client, Greeting::new(server))
    }

    #[test]
    fn the_line_is_taken_and_what_follows_is_left() {
        let (mut client, mut greeting) = pair();
        client.write_all(b"CONN").unwrap();
        assert_eq!(greeting.read(), Progress::Waiting);
        client.write_all(b"ECT 52\nhello").unwrap();
        assert_eq!(greeting.read(), Progress::Port(52));
        let mut rest = [0; 5];
        greeting.into_stream().read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"hello");
    }

    #[test]
    fn anything_else_is_refused() {
        for line in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"CONNECT +5\n",
            b"CONNECT \n",
            b"CONNECT 4294967296\n",
            b"CONNECT 00000000000000000000000000000001\n",
            b"CONNECT 5 \n",
            b"\n",
        ] {
            let (mut client, mut greeting) = pair();
            client.write_all(line).unwrap();
            assert_eq!(greeting.read(), Progress::Refused, "{line:?}");
        }
        let (client, mut greeting) = pair();
        drop(client);
        assert_eq!(greeting.read(), Progress::Refused);
    }
}
