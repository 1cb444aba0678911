//! Signals held back from their usual effect and read from a descriptor instead: what asks this process to end
//! means the command in the parent, or the parent that is being started.

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::Error;

/// Blocked in the thread that made it until dropped; other threads of the process must not take them.
#[derive(Debug)]
pub(crate) struct HeldSignals {
    descriptor: SignalFd,
    before: SigSet,
}

impl HeldSignals {
    pub(crate) fn hold(signals: impl IntoIterator<Item = Signal>) -> Result<Self, Error> {
        let failed =
            |errno: Errno| Error::Stream { action: "take charge of signals", source: errno.into() };
        let set = SigSet::from_iter(signals);
        let descriptor = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .map_err(failed)?;
        let before = SigSet::thread_get_mask().map_err(failed)?;
        set.thread_block().map_err(failed)?;
        Ok(Self { descriptor, before })
    }

    /// The next one that came, if any did.
    pub(crate) fn take(&self) -> Result<Option<Signal>, Error> {
        match self.descriptor.read_signal() {
            Ok(Some(info)) => {
                let number = i32::try_from(info.ssi_signo).unwrap_or(0);
                Ok(Signal::try_from(number).ok())
            }
            Ok(None) => Ok(None),
            Err(errno) => Err(Error::Stream { action: "read a signal", source: errno.into() }),
        }
    }
}

impl AsFd for HeldSignals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Drop for HeldSignals {
    fn drop(&mut self) {
        // Fails only for a wrong argument.
        let _ = self.before.thread_set_mask();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_signal_is_read_not_delivered() {
        let held = HeldSignals::hold([Signal::SIGUSR1]).unwrap();
        assert_eq!(held.take().unwrap(), None);
        // To this thread, where it is blocked; unblocked it would end the process.
        nix::sys::signal::raise(Signal::SIGUSR1).unwrap();
        assert_eq!(held.take().unwrap(), Some(Signal::SIGUSR1));
        assert_eq!(held.take().unwrap(), None);
    }
}
