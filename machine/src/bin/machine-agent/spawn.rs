//! The few system calls that have no safe wrapper: starting a command in a session of its own,
//! watching it by descriptor, and raising the loopback interface.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};

/// Starts `command` as the leader of a new session, with standard input as its controlling terminal
/// if `terminal`.
pub(crate) fn spawn_in_session(command: &mut Command, terminal: bool) -> io::Result<Child> {
    let prepare = move || {
        nix::unistd::setsid()?;
        // SAFETY: the call takes no pointer, and descriptor 0 is the terminal when `terminal` is set.
        if terminal && unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: between fork and exec `prepare` makes two system calls, and neither allocates nor takes a lock.
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}

/// A descriptor that becomes readable when `child` ends.
pub(crate) fn watch(child: &Child) -> io::Result<OwnedFd> {
    // SAFETY: the call takes no pointer; the child is not yet waited for, so its id is its own.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    let descriptor = i32::try_from(descriptor).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Tells a terminal its size.
pub(crate) fn resize(terminal: &OwnedFd, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one `winsize`, which outlives the call.
    if unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// `ip link set lo up`.
pub(crate) fn raise_loopback() -> io::Result<()> {
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Datagram,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: all zeros is a valid `ifreq`: an empty name and no flags.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *slot = byte.cast_signed();
    }
    // IFF_UP, which is 1.
    request.ifr_ifru.ifru_flags = 1;
    // SAFETY: SIOCSIFFLAGS reads one `ifreq`, which outlives the call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
