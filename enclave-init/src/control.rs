//! The connection to the VMM on port 9002: ready, exit status, failure. A parent that is not ours (AWS, QEMU)
//! does not answer there, and the enclave runs without it; so nothing here can fail init. It is one per
//! process and reachable from anywhere, because a failure can come from any thread, a panic included.

use std::io;
use std::sync::{Mutex, PoisonError, TryLockError};
use std::time::Duration;

use guest_abi::cid::PARENT_CID;
use guest_abi::control::{MAX_FRAME, ToVmm};
use guest_abi::{Error as WireError, frame, ports};
use nix::sys::socket::{SetSockOpt, sockopt};
use vsock::VsockStream;

use crate::console;

/// For a write that the parent does not take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Seconds to wait at the end for the parent to have read everything.
const LINGER: libc::c_int = 2;

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

/// Closes the connection, and waits until the parent has taken everything sent on it.
pub(crate) fn finish() {
    let Ok(mut link) = LINK.try_lock() else { return };
    if let Some(stream) = link.take() {
        // With it, closing waits for the peer's answer, which it gives once it has read all of it.
        let linger = libc::linger { l_onoff: 1, l_linger: LINGER };
        if let Err(errno) = sockopt::Linger.set(&stream, &linger) {
            console::say(&format!("the parent may not have read the last report: {errno}"));
        }
    }
}

fn open() -> io::Result<VsockStream> {
    let stream = VsockStream::connect_with_cid_port(PARENT_CID, ports::CONTROL)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn send_on(stream: &mut VsockStream, message: &ToVmm) -> Result<(), WireError> {
    frame::write(stream, &message.encode()?, MAX_FRAME)
}
