//! Bytes from a stream to stdout and from stdin to a stream. Output goes out as it comes (an interactive peer waits for it), input ends
//! with a half-close so that the other side can still answer.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

/// Which side of a copy failed.
#[derive(Debug)]
pub(crate) enum CopyError {
    /// Reading.
    Read(io::Error),
    /// Writing.
    Write(io::Error),
}

/// Copies until the end of `from`, flushing after every piece.
pub(crate) fn copy(from: &mut impl Read, to: &mut impl Write) -> Result<u64, CopyError> {
    let mut buffer = vec![0; 64 << 10];
    let mut total = 0;
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(CopyError::Read(error)),
        };
        to.write_all(&buffer[..count]).and_then(|()| to.flush()).map_err(CopyError::Write)?;
        total += count as u64;
    }
}

/// Sends this process's stdin to `stream` on a thread of its own, then ends that direction. The thread is never joined: it may be waiting
/// for a terminal when everything else is over, and ends with the process.
pub(crate) fn send_stdin(mut stream: UnixStream) {
    std::thread::spawn(move || {
        // Either side's failure only ends this direction; what matters is said by the one that reads.
        let _ = copy(&mut io::stdin().lock(), &mut stream);
        let _ = stream.shutdown(Shutdown::Write);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_copied_and_counted() {
        let mut out = Vec::new();
        let input = vec![7_u8; 200_000];
        assert_eq!(copy(&mut &input[..], &mut out).unwrap(), 200_000);
        assert_eq!(out, input);
    }

    #[test]
    fn the_failing_side_is_named() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(ErrorKind::ConnectionReset.into())
            }
        }
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        assert!(matches!(copy(&mut Broken, &mut Vec::new()), Err(CopyError::Read(_))));
        assert!(matches!(copy(&mut &b"x"[..], &mut Broken), Err(CopyError::Write(_))));
    }
}
