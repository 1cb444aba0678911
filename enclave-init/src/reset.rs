//! The end of an enclave, orderly or not: the report is flushed to the parent, everything else is killed,
//! and the machine resets, which the VMM takes as the exit. Every way out of PID 1 leads through here; the kernel's own
//! panic on the death of PID 1 is only what remains if even the reset fails.

use std::panic;
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use guest_abi::control::{Exit, ToVmm};
use nix::errno::Errno;
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, sync};

use crate::{Error, console, control};

/// For processes to be gone after SIGKILL.
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(10);

/// Makes a panic in any thread a reported failure and a reset.
pub(crate) fn on_panic() {
    panic::set_hook(Box::new(|panic| {
        let reason = format!("init panicked: {panic}");
        console::say(&reason);
        control::send(&ToVmm::failed(&reason));
        machine();
    }));
}

/// The application has ended.
pub(crate) fn after_exit(exit: Exit) -> ! {
    console::say(&match exit {
        Exit::Code(code) => format!("the application ended with code {code}"),
        Exit::Signal(signal) => format!("the application was ended by signal {signal}"),
    });
    control::send(&ToVmm::Exited(exit));
    machine()
}

/// Init cannot go on.
pub(crate) fn after_failure(error: &Error) -> ! {
    let reason = error.chain();
    console::say(&reason);
    // It may have failed before it came to connecting. Where nobody answers there is nobody to tell.
    if control::connect().is_ok() {
        control::send(&ToVmm::failed(&reason));
    }
    machine()
}

fn machine() -> ! {
    control::finish();
    kill_the_rest();
    console::drain();
    sync();
    // Returns only if it has failed.
    let Err(errno) = reboot(RebootMode::RB_AUTOBOOT);
    console::say(&format!("cannot reset: {errno}"));
    process::abort()
}

/// Kills every process but this one, and waits a moment for them to be gone.
fn kill_the_rest() {
    // There may be none: then this fails with ESRCH, and the wait below ends at once.
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => return,
            Ok(nix::sys::wait::WaitStatus::StillAlive) => thread::sleep(PAUSE),
            _ => {}
        }
    }
}
