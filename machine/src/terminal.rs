//! The caller's own terminal, for interactive commands: raw while one runs, and its size. The one
//! place of the library with unsafe code, for a system call without a safe wrapper.

#![allow(unsafe_code)]

use std::io::IsTerminal as _;
use std::os::fd::{AsFd as _, AsRawFd as _};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use crate::Error;
use crate::channel::request::TerminalSize;

/// Standard input's terminal in raw mode; as it was before when dropped.
pub(crate) struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// None when standard input is no terminal.
    pub(crate) fn enter() -> Result<Option<Self>, Error> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let failed = |errno: nix::errno::Errno| Error::Stream {
            action: "set the terminal's mode",
            source: errno.into(),
        };
        let before = tcgetattr(stdin.as_fd()).map_err(failed)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(stdin.as_fd(), SetArg::TCSADRAIN, &raw).map_err(failed)?;
        Ok(Some(Self { before }))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _ = tcsetattr(std::io::stdin().as_fd(), SetArg::TCSADRAIN, &self.before);
    }
}

/// The size of standard input's terminal, if it is one.
pub(crate) fn size() -> Option<TerminalSize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    let stdin = std::io::stdin().as_raw_fd();
    // SAFETY: TIOCGWINSZ writes one `winsize`, which outlives the call.
    let result = unsafe { libc::ioctl(stdin, libc::TIOCGWINSZ, &raw mut size) };
    (result == 0).then_some(TerminalSize { rows: size.ws_row, columns: size.ws_col })
}
