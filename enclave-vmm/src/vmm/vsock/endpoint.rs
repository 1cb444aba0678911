//! The parent's end of a connection: a socket, or one of the services the VMM answers itself. Nothing here ever waits.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::sockopt::SocketError;
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, SockaddrLike, UnixAddr, VsockAddr,
    connect, getsockopt, recv, send, shutdown, socket,
};

use super::service::{News, Service};

/// `VMADDR_CID_LOCAL`: this machine, through the loopback transport.
const CID_LOCAL: u32 = 1;

/// The parent's end.
#[derive(Debug)]
pub enum Endpoint {
    /// A connected (or connecting) stream socket.
    Socket(OwnedFd),
    /// A service of ours.
    Service(Service),
}

/// Whether a socket is connected already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It is.
    Done,
    /// Wait until it is writable, then ask [`Endpoint::connected`].
    Pending,
}

impl Endpoint {
    /// Connects to what serves `port` in the parent: the socket `<path>_<port>` if it exists, else AF_VSOCK of this machine.
    ///
    /// # Errors
    /// Nobody listens, or the listener's backlog is full.
    pub fn dial(path: &Path, port: u32) -> io::Result<(Endpoint, Progress)> {
        let mut name = path.as_os_str().to_owned();
        name.push(format!("_{port}"));
        // A name that is too long for a socket is one that does not exist.
        if let Ok(unix) = UnixAddr::new(Path::new(&name)) {
            match Self::start(AddressFamily::Unix, &unix) {
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
                outcome => return outcome,
            }
        }
        Self::start(AddressFamily::Vsock, &VsockAddr::new(CID_LOCAL, port))
    }

    fn start(
        family: AddressFamily,
        address: &dyn SockaddrLike,
    ) -> io::Result<(Endpoint, Progress)> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd = socket(family, SockType::Stream, flags, None)?;
        let progress = match connect(fd.as_raw_fd(), address) {
            Ok(()) => Progress::Done,
            Err(Errno::EINPROGRESS) => Progress::Pending,
            Err(e) => return Err(e.into()),
        };
        Ok((Endpoint::Socket(fd), progress))
    }

    /// The outcome of a connect that was pending.
    ///
    /// # Errors
    /// It failed.
    pub fn connected(&self) -> io::Result<()> {
        match self {
            Endpoint::Service(_) => Ok(()),
            Endpoint::Socket(fd) => match getsockopt(fd, SocketError)? {
                0 => Ok(()),
                errno => Err(io::Error::from_raw_os_error(errno)),
            },
        }
    }

    /// The descriptor to wait on.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Endpoint::Socket(fd) => Some(fd.as_fd()),
            Endpoint::Service(_) => None,
        }
    }

    /// Bytes for the guest; 0 is the end of them.
    ///
    /// # Errors
    /// `WouldBlock` when there are none now.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Endpoint::Socket(fd) => retry(|| recv(fd.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT)),
            Endpoint::Service(service) => match service.send(buffer) {
                0 => Err(io::ErrorKind::WouldBlock.into()),
                n => Ok(n),
            },
        }
    }

    /// Bytes from the guest; how many were taken.
    ///
    /// # Errors
    /// `WouldBlock`, or nobody will ever take any more.
    pub fn write(&mut self, bytes: &[u8], news: &mut Vec<News>) -> io::Result<usize> {
        match self {
            Endpoint::Socket(fd) => {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                retry(|| send(fd.as_raw_fd(), bytes, flags))
            }
            Endpoint::Service(service) => match service.receive(bytes, news) {
                Ok(()) => Ok(bytes.len()),
                Err(_) => Err(io::ErrorKind::InvalidData.into()),
            },
        }
    }

    /// The guest sends no more.
    pub fn finish_writing(&self) {
        if let Endpoint::Socket(fd) = self {
            // Fails only when the other side is gone already.
            let _ = shutdown(fd.as_raw_fd(), Shutdown::Write);
        }
    }
}

fn retry(mut call: impl FnMut() -> nix::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            outcome => return outcome.map_err(io::Error::from),
        }
    }
}
