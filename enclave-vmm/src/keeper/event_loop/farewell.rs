//! The end of an enclave: what is left of its processes goes, everything is put back, the record is written, and those who wait are told, in this order.

use std::time::Duration;

use super::{Keeper, NSM_PATIENCE};
use crate::channel::Channel;
use crate::control::{Reply, Terminated};
use crate::error::{Failure, Result};
use crate::history::{ExitRecord, Reason};
use crate::keeper::console_ring::ConsoleRing;
use crate::keeper::ending::Ending;
use crate::keeper::members::Members;
use crate::launch::Report;
use crate::resources::ledger::record_of;
use crate::vmm::messages::AppExit;

/// Console readers and those who asked for the end get their last bytes within this.
const FAREWELL: Duration = Duration::from_secs(2);
/// Bytes of console in a record.
const CONSOLE_TAIL: usize = 16 * 1024;

impl Keeper {
    /// The vmm has ended: ends the nsm, puts everything back, leaves the record and tells those who wait.
    pub(super) fn finish(mut self, launch: Option<Channel>) -> Result<()> {
        while self.members.console.is_some() {
            let before = self.view.console.as_ref().map(ConsoleRing::end);
            self.read_console();
            if before == self.view.console.as_ref().map(ConsoleRing::end) {
                break;
            }
        }
        let Members { mut nsm, vmm, .. } = self.members;
        nsm.kill();
        nsm.finish(NSM_PATIENCE);
        drop((nsm, vmm));

        let ending =
            self.ending.unwrap_or_else(|| Ending::new(Reason::VmmDied, "the vmm process ended"));
        let tail = self.view.console.as_ref().map(|ring| ring.tail(CONSOLE_TAIL));
        let record = ExitRecord {
            measurements: self.progress.measured,
            exit_code: match self.app {
                Some(AppExit::Code(number)) => Some(number),
                _ => None,
            },
            signal: match self.app {
                Some(AppExit::Signal(number)) => Some(number),
                _ => None,
            },
            console_tail: tail,
            ..record_of(&self.place.claim, ending.reason, &ending.detail)
        };
        let put_back = self.place.give_back(self.progress.told_to_go.then_some(&record));
        let reply = match &put_back {
            Ok(()) => Reply::Ok(Terminated {
                enclave_name: record.enclave_name.clone(),
                enclave_id: record.enclave_id.clone(),
                terminated: true,
                record,
            }),
            Err(error) => Reply::Error(Failure::from(error)),
        };
        if let Some(launch) = launch {
            let _ = launch.send(&Report::Failed(ending.as_launch_failure(self.spec.debug)));
        }
        self.control.close(&reply, self.view.console.as_ref(), FAREWELL);
        put_back
    }
}
