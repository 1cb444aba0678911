//! The attestation agent on vsock 9001: a nonce in, a document from `/dev/nsm` out. Anyone in the parent can
//! dial it, so it is bounded in every way: a fixed number of threads, one request per connection, a
//! deadline for the whole of it. It puts nothing but the nonce into a document (guest-abi `agent` says why).

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use guest_abi::agent::{AgentReply, AgentRequest, MAX_REPLY, MAX_REQUEST};
use guest_abi::cid::ANY_CID;
use guest_abi::{Error as WireError, frame, ports};
use nsm::message::AttestationFields;
use nsm_dev::Device;
use serde_bytes::ByteBuf;
use vsock::{VsockListener, VsockStream};

use crate::{Error, console};

/// Connections served at once; the rest wait in the listener's queue.
const WORKERS: usize = 8;

/// Enough for a few frames and the device's ioctl; the buffers are on the heap.
const STACK: usize = 128 << 10;

/// From the acceptance of a connection to the last byte of its request: short, since all a peer has to do is
/// to send a few bytes it already has, and whoever holds a worker holds up others.
const REQUEST_DEADLINE: Duration = Duration::from_secs(3);

/// From the device's answer to the last byte of the reply.
const REPLY_DEADLINE: Duration = Duration::from_secs(5);

/// After a failed accept, so that a lasting failure does not take the enclave's CPUs.
const PAUSE: Duration = Duration::from_millis(100);

/// Opens the port. Connections wait in its queue until [`serve`], so a parent that has seen the heartbeat can dial.
pub(crate) fn listen() -> Result<VsockListener, Error> {
    VsockListener::bind_with_cid_port(ANY_CID, ports::AGENT)
        .map_err(Error::call("listen on vsock port 9001"))
}

/// Starts the threads. They run until the enclave ends.
pub(crate) fn serve(listener: VsockListener) -> Result<(), Error> {
    let listener = Arc::new(listener);
    for _ in 0..WORKERS {
        let listener = Arc::clone(&listener);
        thread::Builder::new()
            .name("agent".to_owned())
            .stack_size(STACK)
            .spawn(move || work(&listener))
            .map_err(Error::call("start an agent thread"))?;
    }
    Ok(())
}

fn work(listener: &VsockListener) {
    loop {
        match listener.accept() {
            Ok((stream, _)) => answer(&stream),
            Err(error) => {
                console::say(&format!("the agent cannot accept a connection: {error}"));
                thread::sleep(PAUSE);
            }
        }
    }
}

/// Serves one connection. What goes wrong on it is the peer's affair and is not logged: a peer could
/// otherwise fill the console.
fn answer(stream: &VsockStream) {
    let mut bounded = Bounded { stream, deadline: Instant::now() + REQUEST_DEADLINE };
    let reply = match frame::read(&mut bounded, MAX_REQUEST) {
        Ok(request) => respond(&request, document),
        Err(error @ WireError::FrameTooLong { .. }) => AgentReply::error(&error.to_string()),
        Err(_) => return,
    };
    bounded.deadline = Instant::now() + REPLY_DEADLINE;
    if let Ok(bytes) = reply.encode()
        && frame::write(&mut bounded, &bytes, MAX_REPLY).is_ok()
    {
        let _ = stream.shutdown(Shutdown::Write);
        // Closing with unread bytes behind us would reset the connection and could take the reply with it.
        let _ = bounded.read(&mut [0; 64]);
    }
}

/// The reply to one request, whatever its bytes are.
fn respond(request: &[u8], document: impl FnOnce(&[u8]) -> Result<Vec<u8>, String>) -> AgentReply {
    let nonce = match AgentRequest::decode(request) {
        Ok(request) => request.nonce().to_vec(),
        Err(error) => return AgentReply::error(&describe(&error)),
    };
    match document(&nonce) {
        Ok(document) => AgentReply::Document(ByteBuf::from(document)),
        Err(text) => AgentReply::error(&text),
    }
}

/// Opened per request: a device that was not there at boot may be there now.
fn document(nonce: &[u8]) -> Result<Vec<u8>, String> {
    let fields = AttestationFields { nonce: Some(nonce.to_vec()), ..AttestationFields::default() };
    Device::open().and_then(|device| device.attest(fields)).map_err(|error| describe(&error))
}

fn describe(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// A stream with one deadline for everything: a time-out per call would let a peer that sends a byte now and
/// then hold a thread for hours.
struct Bounded<'a> {
    stream: &'a VsockStream,
    deadline: Instant,
}

impl Bounded<'_> {
    fn left(&self) -> io::Result<Option<Duration>> {
        match self.deadline.checked_duration_since(Instant::now()) {
            Some(left) if !left.is_zero() => Ok(Some(left)),
            _ => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        let mut stream = self.stream;
        stream.read(buffer)
    }
}

impl Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        let mut stream = self.stream;
        stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(nonce: &[u8]) -> Vec<u8> {
        AgentRequest::new(nonce).unwrap().encode().unwrap()
    }

    #[test]
    fn the_nonce_and_only_the_nonce_reaches_the_device() {
        let reply = respond(&request(b"n"), |nonce| Ok([b"signed ", nonce].concat()));
        assert_eq!(reply, AgentReply::Document(ByteBuf::from(*b"signed n")));
    }

    #[test]
    fn what_is_not_a_request_never_reaches_the_device() {
        for bytes in [&b""[..], b"\xa1\x6apublic_key\x41\x01", &[0xff; 40]] {
            let reply = respond(bytes, |_| unreachable!());
            let AgentReply::Error(text) = reply else { panic!("{reply:?}") };
            assert!(text.starts_with("malformed agent request: "), "{text}");
        }
    }

    #[test]
    fn a_device_that_fails_is_an_error_for_the_peer() {
        let reply = respond(&request(b"n"), |_| Err("no device".to_owned()));
        assert_eq!(reply, AgentReply::error("no device"));
    }

    #[test]
    fn the_largest_document_fits_a_reply() {
        let largest = vec![0; nsm::message::MAX_RESPONSE];
        let reply = respond(&request(b"n"), |_| Ok(largest));
        assert!(frame::encode(&reply.encode().unwrap(), MAX_REPLY).is_ok());
    }
}
