//! Everything that can stop an enclave before or while its application runs. The text goes to the console
//! and, as the reason, to the parent over 9002, so it names the failing path or value; causes are printed
//! once, by [`Error::chain`].

use std::error::Error as _;
use std::io;
use std::path::PathBuf;

use guest_abi::manifest::ManifestError;
use guest_abi::ports::HEARTBEAT_BYTE;

/// Why the enclave cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot {action} {}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot mount {kind} on {target}")]
    Mount {
        kind: &'static str,
        target: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot {action}")]
    Call {
        action: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("no heartbeat from the parent (CID 3, port 9000) in {attempts} attempts")]
    Heartbeat {
        attempts: u32,
        #[source]
        source: io::Error,
    },
    #[error("the parent answered the heartbeat with {byte:#04x} instead of {HEARTBEAT_BYTE:#04x}")]
    HeartbeatByte { byte: u8 },
    #[error("/enclave.toml is refused")]
    Manifest(#[source] ManifestError),
    #[error("{} is over the limit of {limit} bytes", path.display())]
    FileTooLong { path: PathBuf, limit: u64 },
    #[error("{} is not a regular file", path.display())]
    NotAFile { path: PathBuf },
    #[error("user {name:?} is not in the image's /etc/passwd")]
    UnknownUser { name: String },
    #[error("group {name:?} is not in the image's /etc/group")]
    UnknownGroup { name: String },
    #[error("no program {program:?} in PATH {search:?}")]
    NoProgram { program: String, search: String },
    #[error("cannot start {}", path.display())]
    Start {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot start {}: it is there, but the interpreter or loader it names is not", path.display())]
    NoInterpreter {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: a file operation on `path` failed.
    pub(crate) fn file<E: Into<io::Error>>(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source: source.into() }
    }

    /// For `map_err`: a system call without a path failed.
    pub(crate) fn call<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Call { action, source: source.into() }
    }

    /// The text with all its causes, in one line.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_names_path_and_errno_once() {
        let source = io::Error::from_raw_os_error(libc::ENOENT);
        let error = Error::Start { path: "/bin/app".into(), source };
        assert_eq!(error.chain(), "cannot start /bin/app: No such file or directory (os error 2)");
    }
}
