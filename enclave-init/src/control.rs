//! The connection to the VMM on port 9002: ready, exit status, failure. A parent that is not ours (AWS, QEMU)
//! does not answer there, and the enclave runs without it; so nothing here can fail init. It is one per
//! process and reachable from anywhere, because a failure can come from any thread, a panic included.

use std::io::{self, Read};
use std::net::Shutdown;
use std::sync::{Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use guest_abi::cid::PARENT_CID;
use guest_abi::control::{MAX_FRAME, ToVmm};
use guest_abi::{Error as WireError, frame, ports};
use vsock::VsockStream;

use crate::console;

/// For a write that the parent does not take, and for the parent's end of the stream after ours.
const PATIENCE: Duration = Duration::from_secs(2);

static LINK: Mutex<Option<VsockStream>> = Mutex::new(None);

/// Connects, if that is not done yet; must be the first connection to that port, the VMM trusts no later one.
pub(crate) fn connect() -> io::Result<()> {
    let mut link = LINK.lock().unwrap_or_else(PoisonError::into_inner);
    if link.is_none() {
        *link = Some(open()?);
    }
    Ok(())
}

/// Sends `message`; a parent that does not take it is told of on the console.
pub(crate) fn send(message: &ToVmm) {
    // A panic while the lock is held (there is none in `send_on`) must not keep the report of it from being tried.
    let mut link = match LINK.try_lock() {
        Ok(link) => link,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return,
    };
    if let Some(stream) = link.as_mut()
        && let Err(error) = send_on(stream, message)
    {
        console::say(&format!("cannot tell the parent {message:?}: {error}"));
        *link = None;
    }
}

/// Ends our half and waits until the parent has ended its own: then it has read everything.
pub(crate) fn finish() {
    let Ok(mut link) = LINK.try_lock() else { return };
    if let Some(mut stream) = link.take()
        && let Err(error) = stream.shutdown(Shutdown::Write).and_then(|()| read_to_end(&mut stream))
    {
        console::say(&format!("the parent may not have read the last report: {error}"));
    }
}

fn open() -> io::Result<VsockStream> {
    let stream = VsockStream::connect_with_cid_port(PARENT_CID, ports::CONTROL)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn send_on(stream: &mut VsockStream, message: &ToVmm) -> Result<(), WireError> {
    frame::write(stream, &message.encode()?, MAX_FRAME)
}

/// Bounded in time also against a parent that keeps sending.
fn read_to_end(stream: &mut impl Read) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut scratch = [0; 256];
    while stream.read(&mut scratch)? > 0 {
        if Instant::now() > deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    Ok(())
}
