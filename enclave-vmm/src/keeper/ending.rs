//! Why an enclave ends, in the three forms it is told in: the record's reason and words, and the failure that a command still waiting for the heartbeat gets.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use crate::error::{Failure, code};
use crate::history::Reason;
use crate::vmm::messages::{AppExit, StopReason};

/// An end that has been decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ending {
    pub(super) reason: Reason,
    pub(super) detail: String,
    /// A process's own failure, if that is the reason.
    pub(super) failure: Option<Failure>,
}

impl Ending {
    pub(super) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), failure: None }
    }

    pub(super) fn of_failure(reason: Reason, failure: Failure) -> Self {
        Self { reason, detail: failure.message.clone(), failure: Some(failure) }
    }

    /// A guest that stopped by itself.
    pub(super) fn of_guest(stop: StopReason, app: Option<AppExit>, init: Option<&str>) -> Self {
        if let Some(app) = app {
            let detail = match app {
                AppExit::Code(number) => format!("the application exited with code {number}"),
                AppExit::Signal(number) => {
                    format!("the application was killed by signal {number}")
                }
            };
            return Self::new(Reason::AppExited, detail);
        }
        if let Some(reason) = init {
            return Self::new(
                Reason::StartFailed,
                format!("the application could not be started: {reason}"),
            );
        }
        match stop {
            StopReason::Asked => Self::new(Reason::Terminated, "terminated"),
            StopReason::Reset => Self::new(
                Reason::GuestReset,
                "the guest reset itself without a word about its application (a kernel panic does that)",
            ),
            StopReason::TripleFault => {
                Self::new(Reason::GuestCrashed, "the guest crashed (triple fault)")
            }
        }
    }

    /// A process of the tree that ended by itself.
    pub(super) fn of_process(reason: Reason, name: &str, status: Option<ExitStatus>) -> Self {
        let how = match status.map(|status| (status.code(), status.signal())) {
            Some((_, Some(signal))) => format!("was killed by signal {signal}"),
            Some((Some(number), _)) => format!("exited with code {number}"),
            _ => "closed its connection".to_owned(),
        };
        Self::new(reason, format!("the {name} process {how}"))
    }

    /// What a command gets that still waits for the heartbeat.
    pub(super) fn as_launch_failure(&self, debug: bool) -> Failure {
        if let Some(failure) = &self.failure {
            return failure.clone();
        }
        let message = format!("The enclave did not come up: {}", self.detail);
        let failure = Failure::new(code::ENCLAVE_BOOT, message);
        let guests = matches!(
            self.reason,
            Reason::GuestReset | Reason::GuestCrashed | Reason::AppExited | Reason::StartFailed
        );
        match (guests, debug) {
            (true, false) => {
                failure.with_hint("See its console: run it with --debug-mode --attach-console")
            }
            (true, true) => failure.with_hint("See its console's end: enclave-cli history"),
            (false, _) => failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_applications_end_is_told_before_the_guests() {
        let ending = Ending::of_guest(StopReason::Reset, Some(AppExit::Code(3)), None);
        assert_eq!(ending.reason, Reason::AppExited);
        assert!(ending.detail.ends_with("code 3"));
        let ending = Ending::of_guest(StopReason::Reset, None, Some("no such file"));
        assert!(ending.detail.contains("no such file"));
        let ending = Ending::of_guest(StopReason::TripleFault, None, None);
        assert_eq!(ending.reason, Reason::GuestCrashed);
    }

    #[test]
    fn a_killed_process_is_named_with_its_signal() {
        let status = ExitStatus::from_raw(9);
        let ending = Ending::of_process(Reason::NsmDied, "nsm", Some(status));
        assert_eq!(ending.detail, "the nsm process was killed by signal 9");
        let failure = ending.as_launch_failure(false);
        assert_eq!((failure.code, failure.hint), (36, None));
    }

    #[test]
    fn a_guest_that_never_came_up_points_to_its_console() {
        let failure = Ending::of_guest(StopReason::Reset, None, None).as_launch_failure(false);
        assert!(failure.hint.unwrap().contains("--debug-mode"));
        let own = Failure::new(27, "too few pages");
        assert_eq!(Ending::of_failure(Reason::VmmDied, own.clone()).as_launch_failure(true), own);
    }
}
