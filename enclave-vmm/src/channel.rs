//! A SEQPACKET socket that carries one JSON value a record, between two processes of the tree. Records keep their borders, so
//! there is no framing to get wrong, and a peer's death is an end of file.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// Longest record, bytes.
pub const MAX_RECORD: usize = crate::vmm::messages::MAX_MESSAGE;

/// One end of such a socket.
#[derive(Debug)]
pub struct Channel {
    fd: OwnedFd,
    /// Who is at the other end, for messages.
    peer: &'static str,
}

/// What a receive found.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<T> {
    /// A value.
    Value(T),
    /// Nothing yet (only without waiting).
    Nothing,
    /// The peer is gone.
    End,
}

/// A connected pair, both ends closed on exec.
///
/// # Errors
/// [`Error::System`].
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .map_err(Error::system("make a socket pair"))
}

impl Channel {
    /// Takes a socket whose other end is `peer`.
    #[must_use]
    pub fn new(fd: OwnedFd, peer: &'static str) -> Self {
        Self { fd, peer }
    }

    /// Sends one value, waiting at most two seconds for room.
    ///
    /// # Errors
    /// [`Error::Closed`] if the peer is gone, [`Error::Timeout`], [`Error::System`].
    pub fn send<T: Serialize>(&self, value: &T) -> Result<()> {
        const SECONDS: u64 = 2;
        let bytes = serde_json::to_vec(value)
            .map_err(|source| Error::Message { peer: self.peer, source })?;
        if bytes.len() > MAX_RECORD {
            return Err(Error::System {
                action: "send a message",
                source: io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{} bytes for {}, at most {MAX_RECORD}", bytes.len(), self.peer),
                ),
            });
        }
        let deadline = Instant::now() + Duration::from_secs(SECONDS);
        loop {
            let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
            match send(self.fd.as_raw_fd(), &bytes, flags) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    if !wait(self.fd.as_fd(), PollFlags::POLLOUT, Some(deadline))? {
                        return Err(Error::Timeout { peer: self.peer, seconds: SECONDS });
                    }
                }
                Err(Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN) => {
                    return Err(Error::Closed { peer: self.peer });
                }
                Err(errno) => return Err(Error::system("send a message")(errno)),
            }
        }
    }

    /// Receives without waiting.
    ///
    /// # Errors
    /// [`Error::Message`] for what is not a `T`, [`Error::System`].
    pub fn try_receive<T: DeserializeOwned>(&self) -> Result<Received<T>> {
        // MSG_TRUNC makes the kernel say the true length, so a record too long is seen, not cut.
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
        let mut buffer = vec![0_u8; MAX_RECORD];
        let length = loop {
            match recv(self.fd.as_raw_fd(), &mut buffer, flags) {
                Ok(length) => break length,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(Received::Nothing),
                Err(Errno::ECONNRESET) => return Ok(Received::End),
                Err(errno) => return Err(Error::system("receive a message")(errno)),
            }
        };
        if length == 0 {
            return Ok(Received::End);
        }
        let bytes = buffer.get(..length).unwrap_or(&[]);
        serde_json::from_slice(bytes)
            .map(Received::Value)
            .map_err(|source| Error::Message { peer: self.peer, source })
    }

    /// Receives, waiting until `deadline` (for ever without one).
    ///
    /// # Errors
    /// As [`Channel::try_receive`], and [`Error::Timeout`].
    pub fn receive<T: DeserializeOwned>(&self, deadline: Option<Instant>) -> Result<Option<T>> {
        let began = Instant::now();
        loop {
            match self.try_receive()? {
                Received::Value(value) => return Ok(Some(value)),
                Received::End => return Ok(None),
                Received::Nothing => {
                    if !wait(self.fd.as_fd(), PollFlags::POLLIN, deadline)? {
                        let seconds = began.elapsed().as_secs();
                        return Err(Error::Timeout { peer: self.peer, seconds });
                    }
                }
            }
        }
    }

    /// Receives a value that must come.
    ///
    /// # Errors
    /// As [`Channel::receive`], and [`Error::Closed`].
    pub fn expect_value<T: DeserializeOwned>(&self, deadline: Option<Instant>) -> Result<T> {
        self.receive(deadline)?.ok_or(Error::Closed { peer: self.peer })
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Waits until `fd` is ready for `events` (or has failed); false when `deadline` has passed.
pub(crate) fn wait(
    fd: BorrowedFd<'_>,
    events: PollFlags,
    deadline: Option<Instant>,
) -> Result<bool> {
    loop {
        let timeout = poll_timeout(deadline);
        match poll(&mut [PollFd::new(fd, events)], timeout) {
            Ok(0) if deadline.is_some_and(|limit| Instant::now() >= limit) => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(Error::system("wait for a message")(errno)),
        }
    }
}

/// The time left, rounded up to a millisecond so that a loop does not spin at the end.
pub(crate) fn poll_timeout(deadline: Option<Instant>) -> PollTimeout {
    let Some(deadline) = deadline else { return PollTimeout::NONE };
    let left = deadline.saturating_duration_since(Instant::now());
    let millis = i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
    PollTimeout::try_from(millis).unwrap_or(PollTimeout::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channels() -> (Channel, Channel) {
        let (left, right) = pair().unwrap();
        (Channel::new(left, "right"), Channel::new(right, "left"))
    }

    #[test]
    fn values_keep_their_borders() {
        let (left, right) = channels();
        left.send(&"one").unwrap();
        left.send(&"two").unwrap();
        assert_eq!(right.expect_value::<String>(None).unwrap(), "one");
        assert_eq!(right.try_receive::<String>().unwrap(), Received::Value("two".to_owned()));
        assert_eq!(right.try_receive::<String>().unwrap(), Received::Nothing);
        drop(left);
        assert_eq!(right.try_receive::<String>().unwrap(), Received::End);
        assert!(matches!(right.send(&"x"), Err(Error::Closed { peer: "left" })));
    }

    #[test]
    fn rubbish_and_silence_are_errors() {
        let (left, right) = channels();
        send(left.as_fd().as_raw_fd(), b"{", MsgFlags::empty()).unwrap();
        assert!(matches!(right.receive::<String>(None), Err(Error::Message { .. })));
        let soon = Instant::now() + Duration::from_millis(20);
        assert!(matches!(right.receive::<String>(Some(soon)), Err(Error::Timeout { .. })));
    }

    #[test]
    fn a_record_that_is_too_long_is_refused_at_both_ends() {
        let (left, right) = channels();
        assert!(left.send(&"x".repeat(MAX_RECORD)).is_err());
        let long = format!("\"{}\"", "y".repeat(MAX_RECORD));
        send(left.as_fd().as_raw_fd(), long.as_bytes(), MsgFlags::empty()).unwrap();
        assert!(right.receive::<String>(None).is_err());
    }

    #[test]
    fn a_peer_that_does_not_read_cannot_hold_us_for_ever() {
        let (left, _right) = channels();
        let text = "x".repeat(MAX_RECORD / 2);
        let mut outcome = Ok(());
        for _ in 0..1000 {
            outcome = left.send(&text);
            if outcome.is_err() {
                break;
            }
        }
        assert!(matches!(outcome, Err(Error::Timeout { .. })));
    }
}
