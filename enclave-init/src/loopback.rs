//! Brings `lo` up, which stock Nitro leaves down: then `127.0.0.1` and `::1` are there (the kernel gives a
//! loopback interface its addresses when it comes up). It is the enclave's only network interface.

#![allow(unsafe_code)]

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use crate::Error;

/// Sets IFF_UP on `lo`.
pub(crate) fn up() -> Result<(), Error> {
    set_up().map_err(Error::call("bring the loopback interface up"))
}

fn set_up() -> io::Result<()> {
    // Any socket will do to name an interface; an unspecified address needs none to be up.
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: `ifreq` is plain old data, for which all zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    // SAFETY: the descriptor is open, and the kernel reads and writes one `ifreq`, which lives across the call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: SIOCGIFFLAGS has just filled this member of the union; every bit pattern is a number.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    // IFF_UP is bit 0 of 16: it fits.
    request.ifr_ifru.ifru_flags = flags | 1;
    // SAFETY: as above; the kernel only reads.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_flag_is_the_kernels() {
        assert_eq!(libc::IFF_UP, 1);
    }
}
