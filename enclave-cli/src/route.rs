//! Where a command is carried out: here, or in the parent machine that this user has started. With a machine up, whatever touches enclaves
//! goes through its channel, with these very programs (sent there by their hash, so a rebuilt program is the one that runs)
//! and with the image streamed in: what the machine sees of the host's files may be stale. Exit code, stdout, stderr and signals pass through.

use std::ffi::OsStr;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use enclave_vmm::paths::Paths;
use machine::{Command, Limits, Machine};

use crate::error_table::ErrorNumber;
use crate::failure::{Failure, Outcome};
use crate::invocation::Invocation;

/// How long a command whose output is kept may take: an attestation request is the only one.
const CAPTURE_TIME: Duration = Duration::from_secs(180);

/// Room for what such a command says on stderr, bytes.
const CAPTURE_ROOM: usize = 64 << 10;

/// Variables that change what a command prints.
const PASSED_ON: [&str; 2] = ["BACKTRACE", "RUST_LOG"];

/// Where commands about enclaves are carried out.
#[derive(Debug)]
pub(crate) enum Route {
    /// On this machine; the user has started no other.
    Here,
    /// In the parent machine, on behalf of a command outside of it.
    Inside,
    /// In the parent machine, from outside.
    Machine(ParentMachine),
}

/// The user's running machine.
#[derive(Debug)]
pub(crate) struct ParentMachine {
    machine: Machine,
    invocation: Invocation,
}

impl Route {
    /// Looks whether this user's machine is up.
    pub(crate) fn find(invocation: Invocation) -> Outcome<Self> {
        if invocation.in_machine {
            return Ok(Self::Inside);
        }
        Ok(match Machine::open(&Paths::current().run)? {
            Some(machine) => Self::Machine(ParentMachine { machine, invocation }),
            None => Self::Here,
        })
    }

    /// The machine to send the command to, if that is to be done.
    pub(crate) fn machine(&self) -> Option<&ParentMachine> {
        match self {
            Self::Machine(machine) => Some(machine),
            Self::Here | Self::Inside => None,
        }
    }

    /// Whether this process is in the machine.
    pub(crate) fn is_inside(&self) -> bool {
        matches!(self, Self::Inside)
    }
}

impl ParentMachine {
    /// The machine itself.
    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Runs `enclave-cli words…` there, with no input; its exit code.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, words: &[S]) -> Outcome<u8> {
        self.run_from(words, None)
    }

    /// The same with this process's stdin.
    pub(crate) fn run_with_stdin<S: AsRef<OsStr>>(&self, words: &[S]) -> Outcome<u8> {
        self.run_from(words, Some(std::io::stdin().as_fd()))
    }

    /// The same with any input, such as an image.
    pub(crate) fn run_from<S: AsRef<OsStr>>(
        &self,
        words: &[S],
        input: Option<BorrowedFd<'_>>,
    ) -> Outcome<u8> {
        let command = self.command(words)?;
        Ok(self.machine.exec_from(&command, input, false)?.code())
    }

    /// Runs `enclave-cli words…` there and keeps its stdout, at most `limit` bytes. Where it fails, what it said is passed on as it is.
    pub(crate) fn capture<S: AsRef<OsStr>>(&self, words: &[S], limit: usize) -> Outcome<Vec<u8>> {
        let command = self.command(words)?;
        let limits =
            Limits { time: Some(CAPTURE_TIME), output: limit + CAPTURE_ROOM, ..Limits::default() };
        let captured = self.machine.exec_captured(&command, b"", &limits)?;
        let _ = std::io::stderr().write_all(&captured.stderr);
        if captured.exit.success() {
            Ok(captured.stdout)
        } else {
            Err(Failure::passed_on(captured.exit.code()))
        }
    }

    fn command<S: AsRef<OsStr>>(&self, words: &[S]) -> Outcome<Command> {
        // Not the path it was started by: what is there may have been rebuilt or removed since.
        let own = self.machine.ensure_program("enclave-cli", Path::new("/proc/self/exe"))?;
        let vmm = self.machine.ensure_program("enclave-vmm", &helper("enclave-vmm")?)?;
        let mut command = Command::new(own).args(words);
        if let Some(folder) = vmm.parent() {
            command = command.env("ENCLAVE_LIB_DIR", folder);
        }
        for (name, value) in self.invocation.machine_environment() {
            command = command.env(name, value);
        }
        for name in PASSED_ON {
            if let Some(value) = std::env::var_os(name) {
                command = command.env(name, value);
            }
        }
        Ok(command)
    }
}

/// A program that is installed with this one.
pub(crate) fn helper(name: &str) -> Outcome<std::path::PathBuf> {
    let paths = Paths::current();
    let exe = std::env::current_exe().map_err(|error| {
        Failure::new(ErrorNumber::FILE_OPERATION, "cannot find out where this program is")
            .because(error)
    })?;
    paths.helper(name, &exe).ok_or_else(|| {
        let places: Vec<String> = paths
            .helper_candidates(name, &exe)
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        Failure::new(
            ErrorNumber::PROCESS_SPAWN,
            format!("{name} is not at {}", places.join(" or ")),
        )
        .hint("install it (`make install`), or name its folder in ENCLAVE_LIB_DIR")
    })
}

impl From<machine::Error> for Failure {
    fn from(error: machine::Error) -> Self {
        let hint = error.hint();
        Failure::new(ErrorNumber::ENCLAVE_CONNECTION, "the machine cannot be used")
            .because(error)
            .maybe_hint(hint)
    }
}
