//! The first sign of life (nitro.md 3.4): one byte to the parent's port 9000 and the same byte back. Without
//! it the parent counts the start as failed, so there is no enclave without it; a few attempts, because a
//! parent may begin to listen while the guest already boots.

use std::io::{self, Read, Write};
use std::thread;
use std::time::Duration;

use guest_abi::cid::PARENT_CID;
use guest_abi::ports::{HEARTBEAT, HEARTBEAT_BYTE};
use vsock::VsockStream;

use crate::Error;

const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);
/// For the answer, in each attempt.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sends the heartbeat and reads the answer.
pub(crate) fn beat() -> Result<(), Error> {
    retry(PAUSE, || {
        let mut stream = VsockStream::connect_with_cid_port(PARENT_CID, HEARTBEAT)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        exchange(&mut stream)
    })
}

fn retry(pause: Duration, mut attempt: impl FnMut() -> io::Result<u8>) -> Result<(), Error> {
    let mut last = io::Error::from(io::ErrorKind::TimedOut);
    for number in 0..ATTEMPTS {
        if number > 0 {
            thread::sleep(pause);
        }
        match attempt() {
            Ok(HEARTBEAT_BYTE) => return Ok(()),
            // Somebody answers, but it is no Nitro parent: asking again would not change that.
            Ok(byte) => return Err(Error::HeartbeatByte { byte }),
            Err(error) => last = error,
        }
    }
    Err(Error::Heartbeat { attempts: ATTEMPTS, source: last })
}

fn exchange(stream: &mut (impl Read + Write)) -> io::Result<u8> {
    stream.write_all(&[HEARTBEAT_BYTE])?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    Ok(answer[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_PAUSE: Duration = Duration::ZERO;

    /// A parent that answers with fixed bytes.
    struct Parent(&'static [u8], Vec<u8>);

    impl Read for Parent {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl Write for Parent {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn one_byte_each_way() {
        let mut parent = Parent(&[0xb7, 1], Vec::new());
        assert_eq!(exchange(&mut parent).unwrap(), 0xb7);
        assert_eq!(parent.1, [0xb7]);
        assert!(exchange(&mut Parent(&[], Vec::new())).is_err());
    }

    #[test]
    fn a_late_parent_is_waited_for() {
        let mut calls = 0;
        let result = retry(NO_PAUSE, || {
            calls += 1;
            if calls < 3 { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(0xb7) }
        });
        assert!(result.is_ok());
        assert_eq!(calls, 3);
    }

    #[test]
    fn a_missing_parent_is_given_up() {
        let mut calls = 0;
        let result = retry(NO_PAUSE, || {
            calls += 1;
            Err(io::ErrorKind::ConnectionReset.into())
        });
        assert!(matches!(result, Err(Error::Heartbeat { attempts: 20, .. })));
        assert_eq!(calls, 20);
    }

    #[test]
    fn a_wrong_byte_ends_it_at_once() {
        let error = retry(NO_PAUSE, || Ok(0x42)).unwrap_err();
        assert!(error.to_string().contains("0x42 instead of 0xb7"), "{error}");
    }
}
