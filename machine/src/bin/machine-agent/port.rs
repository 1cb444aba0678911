//! One virtio-serial port: waiting for a session, and frames in and out. A port has no connections,
//! only a hint that some process on the host holds its socket open: poll says HUP when none does. The
//! hint takes a way of its own (control messages, through a work queue) and can lag behind the data: a
//! session's first bytes may arrive before the news that the host before it has left. So HUP
//! counts only when it lasts; and if it was believed wrongly all the same, the zeros of
//! [`Port::await_host`] end the session for the host, which then reports a broken channel and does not wait.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use machine::channel::MAX_PAYLOAD;
use machine::channel::frame::{self, Decoder, FrameError, HEADER, Kind};
use machine::channel::opening::{ECHO, Nonce, Scanner};

/// How long HUP must last to mean that the host has gone.
const HANGUP_LASTS: Duration = Duration::from_secs(3);
/// Between two looks at it.
const HANGUP_LOOK: Duration = Duration::from_millis(5);

/// Why a session cannot go on.
#[derive(Debug)]
pub(crate) enum SessionEnd {
    /// All that is to be said has been said.
    Over,
    /// The host has gone away.
    Gone,
    /// What came is not this session's protocol.
    Broken,
    /// The device failed.
    Device,
}

impl From<FrameError> for SessionEnd {
    fn from(_: FrameError) -> Self {
        Self::Broken
    }
}

impl From<io::Error> for SessionEnd {
    fn from(_: io::Error) -> Self {
        Self::Device
    }
}

impl From<nix::errno::Errno> for SessionEnd {
    fn from(_: nix::errno::Errno) -> Self {
        Self::Device
    }
}

/// An open port. Non-blocking, except while nobody is there.
#[derive(Debug)]
pub(crate) struct Port {
    device: File,
    nonce: Nonce,
    out: Vec<u8>,
    sent: usize,
}

impl Port {
    /// Opens the device; only one process can.
    pub(crate) fn open(device: &Path) -> io::Result<Self> {
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(device)?;
        Ok(Self { device, nonce: Nonce([0; 16]), out: Vec::new(), sent: 0 })
    }

    /// Ends the session of a host that was talking to an earlier server, which failed: zeros to the length of the
    /// longest frame are no session's frames, and mean nothing to a host that is only opening one.
    pub(crate) fn disown_earlier_session(&mut self) {
        if self.poll_now().is_ok_and(|events| !events.contains(PollFlags::POLLHUP)) {
            self.out.resize(MAX_PAYLOAD + HEADER, 0);
            // It may have gone by itself.
            let _ = self.flush();
            self.end_session();
        }
    }

    /// Waits until a host opens a session and answers it. `rest` is what the last session left unread.
    pub(crate) fn await_opening(&mut self, rest: &[u8]) -> io::Result<Decoder> {
        let mut scanner = Scanner::for_start();
        let mut found = scanner.push(rest);
        let mut buffer = vec![0; 4096];
        loop {
            if let Some((nonce, after)) = found {
                self.nonce = nonce;
                self.out.clear();
                self.sent = 0;
                self.out.extend_from_slice(&nonce.opening(ECHO));
                let decoder = Decoder::new(nonce, after);
                match self.flush() {
                    Ok(()) => return Ok(decoder),
                    // It left before the answer.
                    Err(SessionEnd::Gone) => found = scanner.push(&decoder.into_rest()),
                    Err(_) => return Err(io::Error::other("the port's device failed")),
                }
                continue;
            }
            let events = self.poll(PollFlags::POLLIN)?;
            if events.contains(PollFlags::POLLIN) {
                match self.device.read(&mut buffer) {
                    // Nobody is there any more and nothing is left.
                    Ok(0) => self.await_host()?,
                    Ok(count) => found = scanner.push(&buffer[..count]),
                    Err(error) if is_transient(&error) => {}
                    Err(error) => return Err(error),
                }
            } else if events.contains(PollFlags::POLLHUP) {
                self.await_host()?;
            }
        }
    }

    /// Whether HUP lasts.
    fn host_has_gone(&self) -> io::Result<bool> {
        let begun = Instant::now();
        while self.poll_now()?.contains(PollFlags::POLLHUP) {
            if begun.elapsed() > HANGUP_LASTS {
                return Ok(true);
            }
            sleep(HANGUP_LOOK);
        }
        Ok(false)
    }

    /// Sleeps until a process on the host holds the port's socket open. The kernel has no such call, but a
    /// blocking write waits for just that. The zeros are dropped by a host looking for its echo, and are no
    /// frame for one that is not.
    fn await_host(&mut self) -> io::Result<()> {
        fcntl(&self.device, FcntlArg::F_SETFL(OFlag::empty()))?;
        let result = self.device.write(&[0; HEADER]);
        fcntl(&self.device, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        match result {
            Err(error) if !is_transient(&error) => Err(error),
            _ => Ok(()),
        }
    }

    fn poll(&self, events: PollFlags) -> io::Result<PollFlags> {
        self.poll_for(events, PollTimeout::NONE)
    }

    fn poll_now(&self) -> io::Result<PollFlags> {
        self.poll_for(PollFlags::empty(), PollTimeout::ZERO)
    }

    fn poll_for(&self, events: PollFlags, wait: PollTimeout) -> io::Result<PollFlags> {
        let mut descriptors = [PollFd::new(self.device.as_fd(), events)];
        match poll(&mut descriptors, wait) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(descriptors[0].revents().unwrap_or(PollFlags::empty()))
    }

    /// Waits for a frame.
    pub(crate) fn receive<'a>(
        &mut self,
        decoder: &'a mut Decoder,
    ) -> Result<(Kind, &'a [u8]), SessionEnd> {
        while !decoder.has_frame()? {
            self.poll(PollFlags::POLLIN)?;
            self.fill(decoder)?;
        }
        decoder.next()?.ok_or(SessionEnd::Broken)
    }

    /// Reads what is there, if anything.
    pub(crate) fn fill(&mut self, decoder: &mut Decoder) -> Result<(), SessionEnd> {
        match decoder.fill(&mut self.device) {
            Ok(0) if self.host_has_gone()? => Err(SessionEnd::Gone),
            Ok(_) => Ok(()),
            Err(error) if is_transient(&error) => Ok(()),
            Err(_) => Err(SessionEnd::Device),
        }
    }

    /// Sends a frame and waits until it is on its way.
    pub(crate) fn send(&mut self, kind: Kind, payload: &[u8]) -> Result<(), SessionEnd> {
        self.queue(kind, payload);
        self.flush()
    }

    /// Refuses the request.
    pub(crate) fn fail(&mut self, reason: &str) -> Result<(), SessionEnd> {
        self.send(Kind::Failed, reason.as_bytes())
    }

    /// Puts a frame behind those under way; [`Self::pending`] says how much is.
    pub(crate) fn queue(&mut self, kind: Kind, payload: &[u8]) {
        frame::encode(&mut self.out, &self.nonce, kind, payload);
    }

    /// Bytes not yet taken by the device.
    pub(crate) fn pending(&self) -> usize {
        self.out.len() - self.sent
    }

    /// Writes what the device takes now.
    pub(crate) fn write_pending(&mut self) -> Result<(), SessionEnd> {
        while self.pending() > 0 {
            match self.device.write(&self.out[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if is_transient(&error) => {}
                Err(_) => return Err(SessionEnd::Device),
            }
        }
        if self.pending() == 0 {
            self.out.clear();
            self.sent = 0;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), SessionEnd> {
        loop {
            self.write_pending()?;
            if self.pending() == 0 {
                return Ok(());
            }
            let events = self.poll(PollFlags::POLLOUT)?;
            if events.contains(PollFlags::POLLHUP) && self.host_has_gone()? {
                return Err(SessionEnd::Gone);
            }
        }
    }

    /// Forgets what a broken session had still to say.
    pub(crate) fn end_session(&mut self) {
        self.out.clear();
        self.sent = 0;
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

/// Errors that only mean "not now".
pub(crate) fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
