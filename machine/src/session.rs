//! The host's side of one session on one port: taking a port nobody else uses, opening, frames in
//! and out. A port belongs to whoever holds the lock on the file beside its socket; the file is
//! empty while the port is known to be at rest.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::Error;
use crate::channel::frame::{self, Decoder, HEADER, Kind};
use crate::channel::opening::{Nonce, START, Scanner};
use crate::channel::request::{MAX_REQUEST, Request};
use crate::channel::{CONTROL_PORT, MAX_PAYLOAD, PORTS};
use crate::qemu::socket_name;

/// How long a caller waits for a port to become free.
const PORT_PATIENCE: Duration = Duration::from_secs(30);
/// An opening not answered for this long is sent again, after zeros.
const OPENING_RETRY: Duration = Duration::from_secs(4);

/// Which port a session may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// Any but the control port.
    Ordinary,
    /// The one for pings and power-off.
    Control,
}

/// An open session. Dropped before [`Session::finish`], it leaves its port marked for cleaning, and the agent
/// ends what ran in it.
#[derive(Debug)]
pub(crate) struct Session {
    socket: UnixStream,
    lock: Flock<File>,
    nonce: Nonce,
    decoder: Decoder,
    out: Vec<u8>,
    sent: usize,
}

impl Session {
    /// Takes a port of the machine in `folder` and opens a session on it before `deadline`.
    ///
    /// # Errors
    /// [`Error::NoFreePort`]; [`Error::NoAnswer`] past the deadline; [`Error::ChannelIo`] and
    /// [`Error::Channel`] when there is no QEMU behind the socket.
    pub(crate) fn open(folder: &Path, which: Which, deadline: Instant) -> Result<Self, Error> {
        let (index, lock) = take_port(folder, which)?;
        // A socket's path is limited to 107 bytes; this one is always short.
        let folder = File::open(folder).map_err(Error::file("open", folder))?;
        let path = format!("/proc/self/fd/{}/{}", folder.as_raw_fd(), socket_name(index));
        let socket = UnixStream::connect(path).map_err(Error::ChannelIo)?;
        socket.set_nonblocking(true).map_err(Error::ChannelIo)?;
        let nonce = Nonce([0; 16]);
        let decoder = Decoder::new(nonce, Vec::new());
        let mut session = Self { socket, lock, nonce, decoder, out: Vec::new(), sent: 0 };
        session.exchange_openings(deadline)?;
        Ok(session)
    }

    fn exchange_openings(&mut self, deadline: Instant) -> Result<(), Error> {
        let begun = Instant::now();
        let mut at_rest = self.lock.metadata().map_err(Error::ChannelIo)?.len() == 0;
        // From here on the port is not at rest until the session ends in order.
        self.lock.write_all(b"in use\n").map_err(Error::ChannelIo)?;
        while Instant::now() < deadline {
            let mut bytes = [0; 16];
            SystemRandom::new()
                .fill(&mut bytes)
                .map_err(|_| Error::Channel("no random numbers".to_owned()))?;
            self.nonce = Nonce(bytes);
            if !at_rest {
                self.out.resize(self.out.len() + MAX_PAYLOAD + HEADER, 0);
            }
            self.out.extend_from_slice(&self.nonce.opening(START));
            let retry = deadline.min(Instant::now() + OPENING_RETRY);
            if let Some(rest) = self.await_echo(retry, deadline)? {
                self.decoder = Decoder::new(self.nonce, rest);
                return Ok(());
            }
            at_rest = false;
        }
        Err(Error::NoAnswer { waited: begun.elapsed(), log: String::new() })
    }

    /// Sends what is queued and looks for the echo until `retry`; what is only half sent then is sent to its
    /// end (before `deadline`), for a second opening must not begin inside the first.
    fn await_echo(&mut self, retry: Instant, deadline: Instant) -> Result<Option<Vec<u8>>, Error> {
        let mut scanner = Scanner::for_echo(self.nonce);
        let mut buffer = vec![0; 4096];
        loop {
            self.write_pending()?;
            let limit = if self.pending() > 0 { deadline } else { retry };
            let now = Instant::now();
            if now >= limit {
                return Ok(None);
            }
            let events = self.poll(Some(limit - now))?;
            if events.intersects(PollFlags::POLLIN | PollFlags::POLLHUP) {
                match io::Read::read(&mut self.socket, &mut buffer) {
                    Ok(0) => return Err(ended()),
                    Ok(count) => {
                        if let Some((_, rest)) = scanner.push(&buffer[..count]) {
                            return Ok(Some(rest));
                        }
                    }
                    Err(error) if is_transient(&error) => {}
                    Err(error) => return Err(Error::ChannelIo(error)),
                }
            }
        }
    }

    /// Queues the request.
    ///
    /// # Errors
    /// [`Error::RequestTooLarge`].
    pub(crate) fn request(&mut self, request: &Request) -> Result<(), Error> {
        let bytes = request.encode();
        if bytes.len() > MAX_REQUEST {
            return Err(Error::RequestTooLarge { size: bytes.len(), limit: MAX_REQUEST });
        }
        self.queue(Kind::Request, &bytes);
        self.queue(Kind::RequestEnd, &[]);
        Ok(())
    }

    /// Puts a frame behind those under way.
    pub(crate) fn queue(&mut self, kind: Kind, payload: &[u8]) {
        frame::encode(&mut self.out, &self.nonce, kind, payload);
    }

    /// Bytes queued and not yet taken by the socket.
    pub(crate) fn pending(&self) -> usize {
        self.out.len() - self.sent
    }

    /// Writes what the socket takes now.
    pub(crate) fn write_pending(&mut self) -> Result<(), Error> {
        while self.pending() > 0 {
            match self.socket.write(&self.out[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::ChannelIo(error)),
            }
        }
        self.out.clear();
        self.sent = 0;
        Ok(())
    }

    /// What to poll the socket for.
    pub(crate) fn interest(&self) -> PollFlags {
        let mut events = PollFlags::POLLIN;
        events.set(PollFlags::POLLOUT, self.pending() > 0);
        events
    }

    fn poll(&self, wait: Option<Duration>) -> Result<PollFlags, Error> {
        let mut descriptors = [PollFd::new(self.as_fd(), self.interest())];
        wait_for(&mut descriptors, wait)?;
        Ok(descriptors[0].revents().unwrap_or(PollFlags::empty()))
    }

    /// Reads once; false when there was nothing.
    pub(crate) fn fill(&mut self) -> Result<bool, Error> {
        match self.decoder.fill(&mut self.socket) {
            Ok(0) => Err(ended()),
            Ok(_) => Ok(true),
            Err(error) if is_transient(&error) => Ok(false),
            Err(error) => Err(Error::ChannelIo(error)),
        }
    }

    /// The next whole frame, if there is one. A refusal is an error.
    pub(crate) fn next(&mut self) -> Result<Option<(Kind, &[u8])>, Error> {
        match self.decoder.next().map_err(|error| Error::Channel(error.to_string()))? {
            Some((Kind::Failed, reason)) => {
                Err(Error::Refused(String::from_utf8_lossy(reason).into_owned()))
            }
            other => Ok(other),
        }
    }

    /// Waits for one of the frames without payload, sending what is queued.
    pub(crate) fn await_kind(&mut self, deadline: Option<Instant>) -> Result<Kind, Error> {
        let begun = Instant::now();
        loop {
            if let Some((kind, _)) = self.next()? {
                return Ok(kind);
            }
            self.write_pending()?;
            let wait = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if wait == Some(Duration::ZERO) {
                return Err(Error::NoAnswer { waited: begun.elapsed(), log: String::new() });
            }
            let events = self.poll(wait)?;
            if events.intersects(PollFlags::POLLIN | PollFlags::POLLHUP) {
                self.fill()?;
            }
        }
    }

    /// Sends everything queued.
    pub(crate) fn flush(&mut self, deadline: Instant) -> Result<(), Error> {
        let begun = Instant::now();
        loop {
            self.write_pending()?;
            if self.pending() == 0 {
                return Ok(());
            }
            let wait = deadline.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                return Err(Error::NoAnswer { waited: begun.elapsed(), log: String::new() });
            }
            let mut descriptors = [PollFd::new(self.as_fd(), PollFlags::POLLOUT)];
            wait_for(&mut descriptors, Some(wait))?;
        }
    }

    /// Ends a session that has come to its end: the port is at rest.
    pub(crate) fn finish(self) {
        // Failing that, the next session only sends its zeros.
        let _ = self.lock.set_len(0);
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Polls, with no time limit for `None`; interruptions count as nothing having happened.
pub(crate) fn wait_for(
    descriptors: &mut [PollFd<'_>],
    wait: Option<Duration>,
) -> Result<(), Error> {
    let timeout = match wait {
        None => PollTimeout::NONE,
        // Rounded up, so that a caller does not spin through the last millisecond.
        Some(wait) => PollTimeout::try_from(wait.as_millis().saturating_add(1).min(60_000))
            .unwrap_or(PollTimeout::MAX),
    };
    match poll(descriptors, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(Error::ChannelIo(errno.into())),
    }
}

fn take_port(folder: &Path, which: Which) -> Result<(usize, Flock<File>), Error> {
    let choice = match which {
        Which::Ordinary => 0..CONTROL_PORT,
        Which::Control => CONTROL_PORT..PORTS,
    };
    let begun = Instant::now();
    loop {
        for index in choice.clone() {
            if let Some(lock) = try_lock(&folder.join(format!("port{index}.lock")))? {
                return Ok((index, lock));
            }
        }
        if begun.elapsed() > PORT_PATIENCE {
            return Err(Error::NoFreePort { ports: choice.len() });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn try_lock(path: &PathBuf) -> Result<Option<Flock<File>>, Error> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(Error::file("open", path))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK | Errno::EINTR)) => Ok(None),
        Err((_, errno)) => {
            Err(Error::File { action: "lock", path: path.clone(), source: errno.into() })
        }
    }
}

fn ended() -> Error {
    Error::Channel("QEMU closed it".to_owned())
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
