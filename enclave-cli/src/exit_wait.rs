//! `run-enclave --wait`: stays until the enclave ends and ends as its application did. Ctrl-C ends the enclave: whoever waits for it wants
//! nothing to go on unseen.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use enclave_vmm::control::{self, ConsoleStream};
use enclave_vmm::history::{self, ExitRecord};
use enclave_vmm::paths::Paths;
use enclave_vmm::registry;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::enclaves;
use crate::error_table::ErrorNumber;
use crate::failure::{Failure, Outcome};
use crate::progress::line;

/// Between two looks at whether the enclave lives.
const LOOK_MS: u16 = 100;

/// How long its record may take after its end.
const RECORD_TIME: Duration = Duration::from_secs(10);

/// What a shell reports for a command that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// A wait that has begun: signals are held back from here on, in this thread and those it starts.
#[derive(Debug)]
pub(crate) struct ExitWait {
    id: String,
    signals: SignalFd,
}

impl ExitWait {
    /// Takes charge of the signals that end a command.
    pub(crate) fn begin(id: &str) -> Outcome<Self> {
        let failed = |errno: nix::errno::Errno| {
            Failure::new(ErrorNumber::UNSPECIFIED, "cannot take charge of signals")
                .because(std::io::Error::from(errno))
        };
        let set =
            SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT]);
        set.thread_block().map_err(failed)?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .map_err(failed)?;
        Ok(Self { id: id.to_owned(), signals })
    }

    /// Shows the console, if there is one, until the end; the application's exit code.
    pub(crate) fn finish(self, console: Option<ConsoleStream>, paths: &Paths) -> Outcome<u8> {
        let shown = console.map(|stream| std::thread::spawn(move || enclaves::show(stream, None)));
        let interrupted = self.wait(&paths.run)?;
        if let Some(Err(failure)) = shown.and_then(|thread| thread.join().ok()) {
            return Err(failure);
        }
        // A keeper that was killed leaves its record to whoever comes next.
        enclaves::ledger(paths).reclaim_if_free()?;
        let record = self.record(&paths.history())?;
        if interrupted { Ok(INTERRUPTED) } else { exit_code(&record) }
    }

    /// Waits for the end; true where a signal made us ask for it.
    fn wait(&self, run: &Path) -> Outcome<bool> {
        let mut asked = false;
        loop {
            let lives =
                registry::entries(run)?.into_iter().any(|entry| entry.id == self.id && entry.live);
            if !lives {
                return Ok(asked);
            }
            let mut watched = [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            // An interrupted poll looks again, no more.
            let _ = poll(&mut watched, PollTimeout::from(LOOK_MS));
            if matches!(self.signals.read_signal(), Ok(Some(_))) && !asked {
                line(&format!("Terminating enclave {}...", self.id));
                asked = true;
                if let Ok(entry) = registry::find(run, &self.id)
                    && let Err(error) = control::terminate(&entry.control_socket())
                    && registry::find(run, &self.id).is_ok()
                {
                    line(&format!("warning: it goes on: {error}"));
                    asked = false;
                }
            }
        }
    }

    fn record(&self, history: &Path) -> Outcome<ExitRecord> {
        let deadline = Instant::now() + RECORD_TIME;
        loop {
            if let Some(record) = history::of(history, &self.id)? {
                return Ok(record);
            }
            if Instant::now() > deadline {
                return Err(Failure::new(
                    ErrorNumber::ENCLAVE_EVENT_WAIT,
                    format!("enclave {} ended without a record", self.id),
                ));
            }
            std::thread::sleep(Duration::from_millis(u64::from(LOOK_MS)));
        }
    }
}

/// As a shell would say it: a signal counts as 128 plus its number.
fn exit_code(record: &ExitRecord) -> Outcome<u8> {
    match (record.exit_code, record.signal) {
        (Some(code), _) => Ok(code),
        (None, Some(signal)) => Ok(signal.saturating_add(128)),
        (None, None) => Err(Failure::new(
            ErrorNumber::ENCLAVE_EVENT_WAIT,
            format!(
                "enclave {} ended before its application did: {}",
                record.enclave_id, record.detail
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use enclave_vmm::history::Reason;

    use super::*;

    #[test]
    fn the_command_ends_as_the_application_did() {
        let mut record = ExitRecord {
            enclave_name: "n".into(),
            enclave_id: "i-0-enc1".into(),
            enclave_cid: 16,
            memory_mib: 64,
            cpu_ids: vec![1],
            eif_path: "x".into(),
            debug_mode: false,
            measurements: None,
            started: String::new(),
            ended: String::new(),
            reason: Reason::AppExited,
            detail: "the guest reset itself".into(),
            exit_code: Some(7),
            signal: None,
            console_tail: None,
        };
        assert_eq!(exit_code(&record).unwrap(), 7);
        record.exit_code = None;
        record.signal = Some(9);
        assert_eq!(exit_code(&record).unwrap(), 137);
        record.signal = None;
        let failure = exit_code(&record).unwrap_err();
        assert!(failure.chain().contains("the guest reset itself"));
        assert_eq!(failure.number(), ErrorNumber::ENCLAVE_EVENT_WAIT);
    }
}
