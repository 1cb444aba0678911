//! Where init and the application write: `/dev/console`, which the VMM shows in debug mode and discards
//! otherwise. Writing must never fail init, so it does not use the printing macros, which panic.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;

use nix::sys::termios::tcdrain;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};

use crate::Error;

/// Points the three standard descriptors at the console (stdin: at nothing). The kernel starts init with none
/// at all where the boot ramdisk has no `/dev/console`.
pub(crate) fn attach() -> Result<(), Error> {
    let null = open("/dev/null").map_err(Error::file("open", "/dev/null"))?;
    // A kernel without a console device: run silently rather than not at all.
    let console = match open("/dev/console") {
        Ok(console) => console,
        Err(_) => null.try_clone().map_err(Error::call("copy a descriptor"))?,
    };
    dup2_stdin(&null).map_err(Error::call("replace stdin"))?;
    dup2_stdout(&console).map_err(Error::call("replace stdout"))?;
    dup2_stderr(&console).map_err(Error::call("replace stderr"))?;
    Ok(())
}

/// One line on the console.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr(), "enclave-init: {text}");
}

/// Waits until the UART has taken everything written; a reset would throw the rest away.
pub(crate) fn drain() {
    let _ = tcdrain(io::stderr());
}

/// A descriptor that is none of the standard three, even where those are closed: `try_clone` promises 3 or more.
fn open(path: &str) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(path)?.try_clone()
}
