//! What can be run in the parent, and what comes back.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use crate::channel::request::{Request, Run, TerminalSize};

/// A command to run in the parent: as root, with a small environment of the parent's own plus what is
/// added here, in `/` unless a folder is given.
#[derive(Debug, Clone)]
pub struct Command {
    argv: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    cwd: Option<OsString>,
}

impl Command {
    /// A command without arguments; the program is looked for on the parent's `PATH`.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self { argv: vec![program.as_ref().to_owned()], env: Vec::new(), cwd: None }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.argv.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.argv.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Adds a variable to the environment.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Sets the working directory, a path in the parent.
    #[must_use]
    pub fn current_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cwd = Some(folder.into().into_os_string());
        self
    }

    pub(crate) fn name(&self) -> String {
        self.argv.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    pub(crate) fn request(&self, input: bool, terminal: Option<TerminalSize>) -> Request {
        Request::Run(Run {
            argv: self.argv.clone(),
            env: self.env.clone(),
            cwd: self.cwd.clone(),
            input,
            terminal,
        })
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It returned this exit code. 127: not found; 126: not executable.
    Code(u8),
    /// A signal ended it.
    Signal(u8),
}

impl Exit {
    /// The code a shell would report: a signal counts as 128 plus its number.
    pub fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => signal.saturating_add(128),
        }
    }

    /// Exit code 0.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

/// Limits on a command whose output is kept.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For the whole command.
    pub time: Option<Duration>,
    /// Between two bytes of output. Beyond it the result is [`Error::Wedged`] when the parent does not answer
    /// a ping either, else [`Error::Stalled`].
    pub silence: Option<Duration>,
    /// Bytes kept of each of the two streams.
    pub output: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { time: None, silence: None, output: 64 * 1024 * 1024 }
    }
}

/// A command's end and its output.
#[derive(Debug, Clone)]
pub struct Captured {
    /// How it ended.
    pub exit: Exit,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_follow_the_shell() {
        assert_eq!(Exit::Code(3).code(), 3);
        assert_eq!(Exit::Signal(9).code(), 137);
        assert!(Exit::Code(0).success() && !Exit::Signal(0).success());
    }

    #[test]
    fn a_command_becomes_its_request() {
        let command = Command::new("sh").args(["-c", "true"]).env("A", "b").current_dir("/tmp");
        let Request::Run(run) = command.request(false, None) else { panic!("not a run request") };
        assert_eq!(run.argv, ["sh", "-c", "true"]);
        assert_eq!(run.env, [("A".into(), "b".into())]);
        assert_eq!(run.cwd.as_deref(), Some(OsStr::new("/tmp")));
        assert!(!run.input && run.terminal.is_none());
    }
}
