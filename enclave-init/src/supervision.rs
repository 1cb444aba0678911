//! What PID 1 does while the application runs: reap whatever becomes its child, pass requests to end on to
//! the application, and tell how that ended. Signals are blocked in every thread and taken here one by one, so no
//! handler runs anywhere.

use guest_abi::control::Exit;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::Error;

/// Passed on to the application: the kernel drops them for a PID 1 without handlers, and somebody in the
/// enclave who asks PID 1 to end means the application.
const PASSED_ON: [Signal; 6] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// Blocks what [`until_exit`] takes; before any other thread is started, since threads inherit it.
pub(crate) fn block_signals() -> Result<(), Error> {
    taken().thread_block().map_err(Error::call("block signals"))
}

/// Waits until `application` has ended.
pub(crate) fn until_exit(application: Pid) -> Result<Exit, Error> {
    let taken = taken();
    loop {
        match taken.wait().map_err(Error::call("wait for a signal"))? {
            Signal::SIGCHLD => {
                if let Some(exit) = reap(application)? {
                    return Ok(exit);
                }
            }
            // It may have ended this moment: then the next SIGCHLD tells.
            signal => drop(kill(application, signal)),
        }
    }
}

/// Takes every child that has ended; one SIGCHLD can stand for many.
fn reap(application: Pid) -> Result<Option<Exit>, Error> {
    let mut exit = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(exit),
            Ok(status) => exit = exit.or(exit_of(&status, application)),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::call("wait for children")(errno)),
        }
    }
}

/// Only the low 8 bits of a code reach a parent, and signals are numbers up to 64.
fn exit_of(status: &WaitStatus, application: Pid) -> Option<Exit> {
    match *status {
        WaitStatus::Exited(pid, code) if pid == application => {
            Some(Exit::Code(code.to_le_bytes()[0]))
        }
        WaitStatus::Signaled(pid, signal, _) if pid == application => {
            Some(Exit::Signal((signal as i32).to_le_bytes()[0]))
        }
        _ => None,
    }
}

fn taken() -> SigSet {
    let mut set = SigSet::from_iter(PASSED_ON);
    set.add(Signal::SIGCHLD);
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_application_counts() {
        let (app, other) = (Pid::from_raw(7), Pid::from_raw(8));
        assert_eq!(exit_of(&WaitStatus::Exited(app, 3), app), Some(Exit::Code(3)));
        assert_eq!(exit_of(&WaitStatus::Exited(app, 255), app), Some(Exit::Code(255)));
        assert_eq!(exit_of(&WaitStatus::Exited(other, 3), app), None);
        let killed = WaitStatus::Signaled(app, Signal::SIGKILL, false);
        assert_eq!(exit_of(&killed, app), Some(Exit::Signal(9)));
        assert_eq!(exit_of(&killed, other), None);
    }
}
