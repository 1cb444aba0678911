//! The ioctl of `/dev/nsm` (nitro.md 4.2): magic 0x0A, number 0, read-write, over two I/O vectors, the
//! request and the space for the response. The driver writes the response's length back into the second.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// `_IOWR(0x0A, 0, struct { struct iovec request, response; })`.
const EXCHANGE: libc::Ioctl = 0xc020_0a00;

/// The argument: 32 bytes, four 64-bit words.
#[repr(C)]
struct Message {
    request: libc::iovec,
    response: libc::iovec,
}

/// Sends `request` and gives the length of what is now at the start of `response`.
pub(crate) fn exchange(device: &File, request: &[u8], response: &mut [u8]) -> io::Result<usize> {
    let mut message = Message {
        request: libc::iovec {
            iov_base: request.as_ptr().cast_mut().cast(),
            iov_len: request.len(),
        },
        response: libc::iovec { iov_base: response.as_mut_ptr().cast(), iov_len: response.len() },
    };
    // SAFETY: the descriptor is open; `message` has the layout the driver expects (asserted below) and
    // lives across the call; both vectors describe live slices, of which the driver only reads the first
    // and writes at most `iov_len` bytes of the second, borrowed here exclusively. On any other file the
    // number means nothing and the call fails with ENOTTY or EINVAL.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), EXCHANGE, &raw mut message) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(message.response.iov_len.min(response.len()))
}

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use super::*;

    #[test]
    fn the_argument_has_the_drivers_layout() {
        assert_eq!(size_of::<Message>(), 32);
        assert_eq!(offset_of!(Message, request), 0);
        assert_eq!(offset_of!(Message, response), 16);
        assert_eq!(offset_of!(libc::iovec, iov_base), 0);
        assert_eq!(offset_of!(libc::iovec, iov_len), 8);
    }

    #[test]
    fn the_number_is_built_as_the_kernel_builds_it() {
        let (read_write, size, magic, number) = (3, size_of::<Message>() as u64, 0x0a, 0);
        assert_eq!(EXCHANGE, (read_write << 30) | (size << 16) | (magic << 8) | number);
    }
}
