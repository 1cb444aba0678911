//! The crate's one error type. Each text names the value that failed; `hint` says what to do next.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::module_file::ModuleError;

/// Everything that can go wrong with the parent VM, seen from the host.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// QEMU is not installed, or not on `PATH`.
    #[error("qemu-system-x86_64 was not found on PATH")]
    QemuMissing,
    /// Older releases crash the parent when a nested guest starts.
    #[error("QEMU {found} cannot run nested guests reliably: {needed} or newer is needed")]
    QemuTooOld {
        /// The version found, as QEMU prints it.
        found: String,
        /// The first release known to work.
        needed: &'static str,
    },
    /// `--version` printed something else.
    #[error("the version of {program} could not be read from {output:?}")]
    QemuVersionUnreadable {
        /// What was run.
        program: PathBuf,
        /// Its first line.
        output: String,
    },
    /// QEMU ended before the parent answered, or while it was in use.
    #[error("QEMU ended ({status}) while {during}{log}")]
    QemuEnded {
        /// Exit status, as text.
        status: String,
        /// What was going on.
        during: &'static str,
        /// The last lines of QEMU's own output and of the parent's console, indented; may be empty.
        log: String,
    },
    /// QEMU runs but the parent's agent never answered.
    #[error("the parent did not answer within {}{log}", Seconds(*.waited))]
    NoAnswer {
        /// How long the caller waited.
        waited: Duration,
        /// The last lines of the console, indented; may be empty.
        log: String,
    },
    /// KVM acceleration was asked for, but its nesting switch is off.
    #[error("nested virtualisation is off ({parameter} is {value:?})")]
    NestingOff {
        /// The module parameter's path.
        parameter: PathBuf,
        /// What it holds.
        value: String,
    },
    /// No kernel package of the needed series can be found.
    #[error("no Debian kernel package of the {0} series is known to apt")]
    KernelPackageUnknown(&'static str),
    /// A program used to fetch or unpack the parent's kernel failed.
    #[error("{program} failed ({status}): {message}")]
    Tool {
        /// Its name.
        program: String,
        /// Exit status, as text.
        status: String,
        /// The last line of its error output.
        message: String,
    },
    /// A program used to fetch or unpack the parent's kernel is not installed.
    #[error("{program} is needed to prepare the parent's kernel and was not found on PATH")]
    ToolMissing {
        /// Its name.
        program: String,
        /// The package that has it.
        package: &'static str,
    },
    /// The kernel package lacks a module the parent cannot do without.
    #[error("kernel {version} has no module {module}")]
    ModuleMissing {
        /// Kernel version.
        version: String,
        /// Canonical module name.
        module: String,
    },
    /// A module of the kernel package could not be read.
    #[error("kernel module {module} is not usable")]
    Module {
        /// Canonical module name.
        module: String,
        /// Why.
        source: ModuleError,
    },
    /// `machine-agent` is not there.
    #[error("the parent's agent was not found at {0}")]
    AgentMissing(PathBuf),
    /// `machine-agent` needs a dynamic loader, which an initramfs does not have.
    #[error("the parent's agent {0} is not a static program")]
    AgentNotStatic(PathBuf),
    /// A file or folder operation failed.
    #[error("cannot {action} {path}")]
    File {
        /// The verb.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process is starting or stopping the machine.
    #[error("the machine is busy: another command has held {lock} for {}", Seconds(*.waited))]
    Busy {
        /// The lock file.
        lock: PathBuf,
        /// How long this one waited.
        waited: Duration,
    },
    /// Every session port is in use.
    #[error("all {ports} channels to the machine are in use")]
    NoFreePort {
        /// How many there are.
        ports: usize,
    },
    /// No machine is running.
    #[error("no machine is running")]
    NotRunning,
    /// The machine does not answer although QEMU is alive: QEMU's fault, start a fresh one.
    #[error("the parent is wedged: no output for {} and no answer to a ping", Seconds(*.silent))]
    Wedged {
        /// Time since the last byte.
        silent: Duration,
    },
    /// The command printed nothing for too long; the parent itself answers.
    #[error("{command} printed nothing for {}", Seconds(*.silent))]
    Stalled {
        /// The command's name.
        command: String,
        /// Time since the last byte.
        silent: Duration,
    },
    /// The command did not end in time.
    #[error("{command} did not end within {}", Seconds(*.limit))]
    TimedOut {
        /// The command's name.
        command: String,
        /// The limit it was given.
        limit: Duration,
    },
    /// The command printed more than the caller would keep.
    #[error("{command} printed more than {limit} bytes")]
    TooMuchOutput {
        /// The command's name.
        command: String,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The agent could not do what it was asked.
    #[error("the parent refused: {0}")]
    Refused(String),
    /// The channel carried something that is not the protocol, or ended early.
    #[error("the channel to the parent broke: {0}")]
    Channel(String),
    /// The channel's socket failed.
    #[error("the channel to the parent failed")]
    ChannelIo(#[source] io::Error),
    /// The caller's own input or output failed.
    #[error("cannot {action}")]
    Stream {
        /// What was attempted.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A request larger than the agent takes.
    #[error("the command and its environment are {size} bytes; at most {limit} fit in a request")]
    RequestTooLarge {
        /// Encoded size in bytes.
        size: usize,
        /// Limit in bytes.
        limit: usize,
    },
    /// The caller was interrupted.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// What the user can do about it, where there is something.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::QemuMissing | Self::QemuTooOld { .. } => {
                "install QEMU 9 or newer; on Debian 12: \
                sudo apt-get install -t bookworm-backports qemu-system-x86 (with the \
                suite bookworm-backports of your mirror among apt's sources)"
                    .to_owned()
            }
            Self::NestingOff { parameter, .. } => format!(
                "load the KVM module with nested=1, or let the machine use software emulation \
                 (no reload needed); the switch is {}",
                parameter.display()
            ),
            Self::KernelPackageUnknown(_) => "run 'sudo apt-get update'; on Debian 12 the package \
                is in bookworm-security, on Debian 13 in trixie"
                .to_owned(),
            Self::ToolMissing { package: "apt", .. } => {
                "the machine takes its kernel from Debian's packages, so it needs a Debian host"
                    .to_owned()
            }
            Self::ToolMissing { package, .. } => format!("sudo apt-get install {package}"),
            Self::Tool { program, .. } if program == "apt-get" => {
                "run 'sudo apt-get update' and try again; the download needs the network once"
                    .to_owned()
            }
            Self::AgentMissing(_) | Self::AgentNotStatic(_) => {
                "build it with: RUSTFLAGS='-C target-feature=+crt-static' cargo build --release \
                 -p machine --bin machine-agent --target x86_64-unknown-linux-gnu"
                    .to_owned()
            }
            Self::NotRunning => "enclave-cli machine start".to_owned(),
            Self::Busy { .. } => "wait for it to end, or end it".to_owned(),
            Self::NoFreePort { .. } => "wait for one of the running commands to end".to_owned(),
            Self::Wedged { .. } | Self::NoAnswer { .. } => {
                "enclave-cli machine stop, then enclave-cli machine start".to_owned()
            }
            _ => return None,
        };
        Some(text)
    }

    pub(crate) fn file(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}

/// Prints a duration the way a person would say it.
struct Seconds(Duration);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.0} s", self.0.as_secs_f64().ceil())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_name_the_value_and_hints_the_next_step() {
        let error = Error::QemuTooOld { found: "7.2.11".to_owned(), needed: "9.0" };
        assert!(error.to_string().contains("7.2.11"));
        assert!(error.hint().unwrap().contains("bookworm-backports"));
        let error = Error::Wedged { silent: Duration::from_secs(30) };
        assert!(error.to_string().contains("30 s"));
    }
}
