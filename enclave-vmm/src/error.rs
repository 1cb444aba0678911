//! What can go wrong around one enclave. [`Error`] is this crate's enum; [`Failure`] is the form in which an
//! error crosses a process border (keeper to CLI, nsm or vmm to keeper): nitro-cli's E-number, one cause with the
//! failing value in it, and the next step.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// nitro-cli's E-numbers (nitro-cli 1.5) that this crate raises.
pub mod code {
    /// No better number.
    pub const UNSPECIFIED: u16 = 0;
    /// An argument is not acceptable.
    pub const INVALID_ARGUMENT: u16 = 3;
    /// A process of the tree could not be started.
    pub const PROCESS_SPAWN: u16 = 5;
    /// A file could not be read.
    pub const READ_FROM_DISK: u16 = 7;
    /// A socket operation failed.
    pub const SOCKET: u16 = 11;
    /// A lock could not be had in time.
    pub const LOCK_ACQUIRE: u16 = 15;
    /// Something could not be parsed.
    pub const SERDE: u16 = 17;
    /// Not allowed.
    pub const FILE_PERMISSIONS: u16 = 18;
    /// A file operation failed.
    pub const FILE_OPERATION: u16 = 19;
    /// A CPU is named twice, or a core is not whole.
    pub const INVALID_CPU_CONFIGURATION: u16 = 20;
    /// That CPU cannot be given to an enclave.
    pub const NO_SUCH_CPU: u16 = 21;
    /// Fewer CPUs than asked for.
    pub const INSUFFICIENT_CPUS: u16 = 22;
    /// A CPU list cannot be read.
    pub const MALFORMED_CPU_ID: u16 = 23;
    /// CPUs could not be set aside.
    pub const CPU: u16 = 24;
    /// The kernel has no huge pages of the size needed.
    pub const NO_HUGE_PAGES: u16 = 25;
    /// Less memory than the image needs.
    pub const INSUFFICIENT_MEMORY_REQUESTED: u16 = 26;
    /// Fewer huge pages than asked for.
    pub const INSUFFICIENT_MEMORY_AVAILABLE: u16 = 27;
    /// The image cannot be read.
    pub const EIF_PARSING: u16 = 35;
    /// The enclave did not come up.
    pub const ENCLAVE_BOOT: u16 = 36;
    /// The enclave's keeper refused a command.
    pub const COMMAND_NOT_EXECUTED: u16 = 38;
    /// The enclave's keeper cannot be reached.
    pub const ENCLAVE_CONNECTION: u16 = 39;
    /// No console.
    pub const CONSOLE_CONNECTION: u16 = 44;
    /// Something about an enclave's name.
    pub const ENCLAVE_NAMING: u16 = 58;
    /// The image's signature is not good.
    pub const EIF_SIGNATURE: u16 = 59;
}

/// An error on its way from one process to another, and to the user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// nitro-cli's E-number, 0 to 60.
    pub code: u16,
    /// The cause, with the failing value in it; the whole chain of causes, once.
    pub message: String,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without a hint.
    #[must_use]
    pub fn new(code: u16, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    /// The same with a next step.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Failure {}

/// Everything this crate (outside the vmm process) can fail with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder operation failed.
    #[error("Could not {action} {}", path.display())]
    File {
        /// A verb: `open`, `write`.
        action: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A system call on something that has no path failed.
    #[error("Could not {action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A process of the tree could not be started.
    #[error("Could not start {role} from {}", program.display())]
    Spawn {
        /// `keeper`, `nsm` or `vmm`.
        role: &'static str,
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A message between two processes is not what it should be.
    #[error("Unreadable message from {peer}")]
    Message {
        /// Who sent it.
        peer: &'static str,
        /// Why it cannot be read.
        source: serde_json::Error,
    },
    /// A file of our own has been damaged.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why it cannot be read.
        source: serde_json::Error,
    },
    /// Another process of the tree went away.
    #[error("{peer} closed the connection")]
    Closed {
        /// Who.
        peer: &'static str,
    },
    /// Waiting took too long.
    #[error("{peer} did not answer within {seconds} s")]
    Timeout {
        /// Who.
        peer: &'static str,
        /// The limit, seconds.
        seconds: u64,
    },
    /// The run lock is held by another command for too long.
    #[error("{} is locked by another enclave command for more than {seconds} s", path.display())]
    LockBusy {
        /// The lock file.
        path: PathBuf,
        /// The limit, seconds.
        seconds: u64,
    },
    /// Needs root.
    #[error("Taking CPUs and huge pages from this machine needs root (this is user {uid})")]
    NotRoot {
        /// Who asks, Unix user id.
        uid: u32,
    },
    /// The image is larger than any enclave could be.
    #[error("The enclave image has more than {limit} bytes")]
    ImageTooLarge {
        /// The limit, bytes.
        limit: u64,
    },
    /// A memfd that should be sealed is not.
    #[error("The enclave image handed over is not sealed against writing")]
    NotSealed,
    /// The image cannot be read.
    #[error("The enclave image cannot be used")]
    Image {
        /// Why.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The image's signature is not good.
    #[error("The signature of the enclave image is not good: {reason}")]
    Signature {
        /// Which check failed.
        reason: String,
    },
    /// Less memory asked for than the image needs.
    #[error(
        "{asked} MiB of memory is not enough for this image, which needs at least {needed} MiB"
    )]
    MemoryTooSmall {
        /// Asked for, MiB.
        asked: u64,
        /// The least that works, MiB.
        needed: u64,
    },
    /// A memory size that no enclave can have.
    #[error("{mib} MiB is no possible size for an enclave's memory")]
    MemorySize {
        /// Asked for, MiB.
        mib: u64,
    },
    /// The kernel has no 2 MiB pages.
    #[error("This kernel offers no 2 MiB huge pages ({} does not exist)", path.display())]
    NoHugePages {
        /// Where they should be.
        path: PathBuf,
    },
    /// Too few huge pages.
    #[error(
        "{needed} huge pages of 2 MiB ({} MiB) are needed and {available} ({} MiB) can be had",
        needed.saturating_mul(2),
        available.saturating_mul(2)
    )]
    HugePages {
        /// Needed, pages.
        needed: u64,
        /// To be had, pages.
        available: u64,
    },
    /// Too few pages left in the pool.
    #[error("The enclave needs {needed} MiB and the pool has {available} MiB left of {total} MiB")]
    PoolMemory {
        /// Needed, MiB.
        needed: u64,
        /// Left, MiB.
        available: u64,
        /// The pool's size, MiB.
        total: u64,
    },
    /// A CPU list that cannot be read.
    #[error("'{text}' is not a list of CPUs")]
    CpuList {
        /// The text.
        text: String,
    },
    /// A CPU named twice.
    #[error("CPU {cpu} is named twice")]
    CpuTwice {
        /// The CPU.
        cpu: u32,
    },
    /// A core not taken whole.
    #[error("CPU {cpu} shares a core with CPU {sibling}, which is not in the list")]
    PartOfCore {
        /// The CPU asked for.
        cpu: u32,
        /// The thread that is missing.
        sibling: u32,
    },
    /// A count that does not fill whole cores.
    #[error("{count} CPUs do not fill whole cores: each core here has {threads} threads")]
    NotWholeCores {
        /// Asked for.
        count: usize,
        /// Threads a core.
        threads: usize,
    },
    /// A CPU that cannot be given away.
    #[error("CPU {cpu} cannot be given to an enclave: {reason}")]
    CpuUnavailable {
        /// The CPU.
        cpu: u32,
        /// Why.
        reason: &'static str,
    },
    /// Too few CPUs.
    #[error("{wanted} CPUs are asked for and {available} can be given")]
    CpuCount {
        /// Asked for.
        wanted: usize,
        /// To be had.
        available: usize,
    },
    /// No CPUs at all asked for.
    #[error("An enclave needs at least one CPU")]
    NoCpus,
    /// The cgroup tree cannot do it.
    #[error("CPUs cannot be set aside: {reason}")]
    Partition {
        /// What the kernel said.
        reason: String,
    },
    /// A CID that no enclave may have.
    #[error("CID {cid} is reserved and cannot be given to an enclave")]
    CidReserved {
        /// The number.
        cid: u64,
    },
    /// A CID in use.
    #[error("CID {cid} is in use by enclave {holder}")]
    CidTaken {
        /// The number.
        cid: u32,
        /// Whose it is.
        holder: String,
    },
    /// Something is where the vsock socket should go.
    #[error("{} exists already", path.display())]
    SocketExists {
        /// The path given.
        path: PathBuf,
    },
    /// Another enclave's vsock socket goes there.
    #[error("{} is the vsock socket of enclave {holder}", path.display())]
    SocketTaken {
        /// The path given.
        path: PathBuf,
        /// Whose it is.
        holder: String,
    },
    /// A name that cannot be used.
    #[error("'{name}' cannot be the name of an enclave: {reason}")]
    Name {
        /// The name, printable.
        name: String,
        /// Why.
        reason: &'static str,
    },
    /// No such enclave.
    #[error("There is no running enclave {what}")]
    NoSuchEnclave {
        /// Its id or name as given.
        what: String,
    },
    /// The authority folder is open to others.
    #[error("{} can be used by others (mode {mode:04o}, owner {owner})", path.display())]
    LoosePermissions {
        /// The file or folder.
        path: PathBuf,
        /// Its mode bits.
        mode: u32,
        /// Its owner's Unix id.
        owner: u32,
    },
    /// A certificate could not be made.
    #[error("Could not make the {what}")]
    Authority {
        /// Which key or certificate.
        what: &'static str,
        /// Why.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// No pool.
    #[error("There is no pool")]
    NoPool,
    /// The pool is in use.
    #[error("The pool is in use by {count} running enclave(s): {}", ids.join(", "))]
    PoolInUse {
        /// How many.
        count: usize,
        /// Their ids.
        ids: Vec<String>,
    },
    /// An allocator file that cannot be read.
    #[error("{} line {line}: {reason}", path.display())]
    AllocatorFile {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// Another process of the tree reported a failure.
    #[error(transparent)]
    Reported(#[from] Failure),
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A closure for `map_err` on file operations.
    pub(crate) fn file<'a>(
        action: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(io::Error) -> Error + 'a {
        move |source| Error::File { action, path: path.to_owned(), source }
    }

    /// A closure for `map_err` on other system calls.
    pub(crate) fn system<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> Error {
        move |source| Error::System { action, source: source.into() }
    }

    /// nitro-cli's E-number for it.
    #[must_use]
    pub fn code(&self) -> u16 {
        match self {
            Error::File { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                code::FILE_PERMISSIONS
            }
            Error::File { action: "read", .. } => code::READ_FROM_DISK,
            Error::File { .. } | Error::NotSealed => code::FILE_OPERATION,
            Error::System { .. } | Error::Authority { .. } => code::UNSPECIFIED,
            Error::Spawn { .. } => code::PROCESS_SPAWN,
            Error::Message { .. } | Error::Damaged { .. } => code::SERDE,
            Error::Closed { .. } | Error::Timeout { .. } => code::ENCLAVE_CONNECTION,
            Error::LockBusy { .. } => code::LOCK_ACQUIRE,
            Error::NotRoot { .. } | Error::LoosePermissions { .. } => code::FILE_PERMISSIONS,
            Error::Image { .. } => code::EIF_PARSING,
            Error::Signature { .. } => code::EIF_SIGNATURE,
            Error::ImageTooLarge { .. }
            | Error::MemorySize { .. }
            | Error::CidReserved { .. }
            | Error::CidTaken { .. }
            | Error::SocketExists { .. }
            | Error::SocketTaken { .. }
            | Error::AllocatorFile { .. } => code::INVALID_ARGUMENT,
            Error::MemoryTooSmall { .. } => code::INSUFFICIENT_MEMORY_REQUESTED,
            Error::NoHugePages { .. } => code::NO_HUGE_PAGES,
            Error::HugePages { .. } | Error::PoolMemory { .. } => {
                code::INSUFFICIENT_MEMORY_AVAILABLE
            }
            Error::CpuList { .. } => code::MALFORMED_CPU_ID,
            Error::CpuTwice { .. } | Error::PartOfCore { .. } | Error::NotWholeCores { .. } => {
                code::INVALID_CPU_CONFIGURATION
            }
            Error::CpuUnavailable { .. } => code::NO_SUCH_CPU,
            Error::CpuCount { .. } | Error::NoCpus => code::INSUFFICIENT_CPUS,
            Error::Partition { .. } => code::CPU,
            Error::Name { .. } | Error::NoSuchEnclave { .. } => code::ENCLAVE_NAMING,
            Error::NoPool | Error::PoolInUse { .. } => code::COMMAND_NOT_EXECUTED,
            Error::Reported(failure) => failure.code,
        }
    }

    /// What to do next, where there is something to say.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Error::File { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "Run the command as root (sudo), or as the user who owns it.".to_owned()
            }
            Error::NotRoot { .. } => {
                "Run the command with sudo, for example: sudo enclave-cli run-enclave …".to_owned()
            }
            Error::Spawn { .. } => {
                "Install enclave-vmm beside enclave-cli, or name its folder in ENCLAVE_LIB_DIR."
                    .to_owned()
            }
            Error::Damaged { path, .. } => {
                format!("Stop all enclaves, then remove it: rm {}", path.display())
            }
            Error::Closed { .. } => {
                "See whether the enclave still runs: enclave-cli describe-enclaves (which also puts back what a killed one had taken)".to_owned()
            }
            Error::LockBusy { .. } => {
                "Wait for the other command, or see who holds it: enclave-cli doctor".to_owned()
            }
            Error::Image { .. } => {
                "See what is wrong with it: enclave-cli describe-eif --eif-path FILE".to_owned()
            }
            Error::Signature { .. } => {
                "Sign the image again, or run it without its signature section.".to_owned()
            }
            Error::MemoryTooSmall { needed, .. } => format!("Ask for more: --memory {needed}"),
            Error::NoHugePages { .. } => {
                "Run on a kernel with CONFIG_HUGETLBFS and 2 MiB pages.".to_owned()
            }
            Error::HugePages { needed, .. } => format!(
                "Ask for less or free some memory. Pages set aside early, before memory is in pieces, stay: \
                 enclave-cli allocator apply --memory-mib {}",
                needed.saturating_mul(2)
            ),
            Error::PoolMemory { needed, .. } => format!(
                "Terminate an enclave, or make the pool larger: enclave-cli allocator apply --memory-mib {needed}"
            ),
            Error::CpuList { .. } => "Write CPUs as numbers and ranges, like 2,3,6-9.".to_owned(),
            Error::PartOfCore { cpu, sibling } => {
                format!("Name both, {cpu} and {sibling}: an enclave never shares a core.")
            }
            Error::NotWholeCores { threads, .. } => format!("Ask for a multiple of {threads}."),
            Error::CpuUnavailable { .. } | Error::CpuCount { .. } => {
                "See what there is: enclave-cli allocator status".to_owned()
            }
            Error::Partition { .. } => "See what this host can do: enclave-cli doctor".to_owned(),
            Error::CidReserved { .. } => {
                "Use 4 to 4294967294, or leave --enclave-cid out to have one chosen.".to_owned()
            }
            Error::CidTaken { .. } => {
                "Choose another, or leave --enclave-cid out to have one chosen.".to_owned()
            }
            Error::SocketExists { .. } | Error::SocketTaken { .. } => {
                "Remove it if nobody uses it, or choose another --vsock-path.".to_owned()
            }
            Error::Name { .. } => "Choose another with --enclave-name.".to_owned(),
            Error::NoSuchEnclave { .. } => {
                "See what runs: enclave-cli describe-enclaves".to_owned()
            }
            Error::LoosePermissions { path, .. } => format!(
                "If nobody else has used it: chown -R \"$USER\" {0} && chmod -R go= {0}",
                path.display()
            ),
            Error::NoPool => "Make one: enclave-cli allocator apply".to_owned(),
            Error::PoolInUse { .. } => {
                "Terminate them first: enclave-cli terminate-enclave --all".to_owned()
            }
            Error::Reported(failure) => return failure.hint.clone(),
            _ => return None,
        };
        Some(text)
    }
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        let mut message = error.to_string();
        // A transparent variant shows its inner error already, and that has no source of its own.
        let mut cause = error.source();
        while let Some(source) = cause {
            message.push_str(": ");
            message.push_str(&source.to_string());
            cause = source.source();
        }
        Failure { code: error.code(), message, hint: error.hint() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::from(&error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_prints_the_chain_once() {
        let error = Error::file("open", Path::new("/x/y"))(io::Error::from_raw_os_error(2));
        let failure = Failure::from(error);
        assert_eq!(failure.message, "Could not open /x/y: No such file or directory (os error 2)");
        assert_eq!(failure.code, code::FILE_OPERATION);
    }

    #[test]
    fn a_reported_failure_passes_through_unchanged() {
        let inner = Failure::new(59, "bad").with_hint("mend");
        assert_eq!(Failure::from(Error::from(inner.clone())), inner);
    }

    #[test]
    fn refused_permission_has_its_own_number() {
        let error = Error::file("write", Path::new("/x"))(io::Error::from_raw_os_error(13));
        assert_eq!(error.code(), code::FILE_PERMISSIONS);
        assert!(error.hint().is_some());
    }
}
