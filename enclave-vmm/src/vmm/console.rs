//! Where the serial port's bytes go: into the keeper's pipe in debug mode, nowhere otherwise. Bytes are gathered into
//! lines, because the guest hands them over one exit at a time, and a full pipe loses them rather than stop a vCPU.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use vmm_sys_util::eventfd::EventFd;

/// Bytes gathered at most before they are written.
const GATHER: usize = 512;

/// The writing end.
#[derive(Debug)]
pub struct Console {
    pipe: Option<OwnedFd>,
    gathered: Vec<u8>,
    /// Signalled when bytes are gathered that no newline has flushed.
    pending: EventFd,
    lost: u64,
}

impl Console {
    /// `pipe` must not block. `pending` is signalled when a [`Console::flush_gathered`] a moment later is in order.
    #[must_use]
    pub fn new(pipe: Option<OwnedFd>, pending: EventFd) -> Console {
        Console { pipe, gathered: Vec::new(), pending, lost: 0 }
    }

    /// Writes what is gathered, as far as the pipe takes it, and forgets the rest.
    pub fn flush_gathered(&mut self) {
        let Some(pipe) = &self.pipe else { return };
        let mut rest = self.gathered.as_slice();
        while !rest.is_empty() {
            match nix::unistd::write(pipe.as_fd(), rest) {
                Ok(0) => break,
                Ok(n) => rest = rest.get(n..).unwrap_or_default(),
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => break,
                // Nobody reads any more.
                Err(_) => {
                    self.pipe = None;
                    break;
                }
            }
        }
        self.lost += rest.len() as u64;
        self.gathered.clear();
    }

    /// Bytes that were lost because the pipe was full or closed.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.pipe.is_some() {
            if self.gathered.is_empty() {
                // A full eventfd is a signal as well.
                let _ = self.pending.write(1);
            }
            self.gathered.extend_from_slice(bytes);
            if bytes.contains(&b'\n') || self.gathered.len() >= GATHER {
                self.flush_gathered();
            }
        }
        Ok(bytes.len())
    }

    /// The UART flushes after each byte; that is what this type is there to avoid.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn console() -> (std::io::PipeReader, Console) {
        let (reader, writer) = std::io::pipe().unwrap();
        let writer = OwnedFd::from(writer);
        nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))
            .unwrap();
        (reader, Console::new(Some(writer), EventFd::new(libc::EFD_NONBLOCK).unwrap()))
    }

    #[test]
    fn lines_arrive_whole_and_prompts_when_flushed() {
        let (mut reader, mut console) = console();
        for byte in b"ab\n# " {
            console.write_all(&[*byte]).unwrap();
        }
        let mut line = [0; 3];
        reader.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"ab\n");
        assert!(console.pending.read().is_ok());
        console.flush_gathered();
        drop(console);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "# ");
    }

    #[test]
    fn a_full_pipe_loses_bytes_and_counts_them_but_never_blocks() {
        let (reader, mut console) = console();
        let line = [b'x'; 1023];
        for _ in 0..1024 {
            console.write_all(&line).unwrap();
            console.write_all(b"\n").unwrap();
        }
        assert!(console.lost() > 0);
        drop(reader);
        console.write_all(b"after\n").unwrap();
        assert!(console.pipe.is_none());
    }
}
