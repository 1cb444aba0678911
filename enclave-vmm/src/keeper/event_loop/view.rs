//! What the control socket is told about the enclave.

use crate::description::State;
use crate::error::{Failure, code};
use crate::json_file;
use crate::keeper::console_ring::ConsoleRing;
use crate::keeper::control_server::Subject;
use crate::registry::EnclaveFile;

/// What the control socket tells.
#[derive(Debug)]
pub(super) struct View {
    pub(super) file: std::path::PathBuf,
    pub(super) running: bool,
    pub(super) terminating: bool,
    pub(super) console: Option<ConsoleRing>,
}

impl Subject for View {
    fn describe(&self) -> std::result::Result<serde_json::Value, Failure> {
        if !self.running {
            return Err(Failure::new(code::COMMAND_NOT_EXECUTED, "The enclave is not up yet"));
        }
        // Read anew each time rather than kept: metadata can be large, and is rarely asked for.
        let file: EnclaveFile = json_file::read(&self.file)?
            .ok_or_else(|| Failure::new(code::READ_FROM_DISK, "The enclave's folder is gone"))?;
        let mut description = file.description;
        description.state = if self.terminating { State::Terminating } else { State::Running };
        serde_json::to_value(description)
            .map_err(|error| Failure::new(code::SERDE, error.to_string()))
    }

    fn console(&self) -> Option<&ConsoleRing> {
        self.console.as_ref()
    }
}
