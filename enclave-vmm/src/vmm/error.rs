//! What can go wrong in the vmm process, each with nitro-cli's number and, where there is one, the next step.

use std::io;
use std::path::PathBuf;

use crate::probe::KvmFault;

/// Errors of the vmm process.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `/dev/kvm` is missing, closed to us, of another version, or cannot run guests.
    #[error(transparent)]
    Kvm(#[from] KvmFault),
    /// A KVM request failed.
    #[error("KVM refused {request}")]
    Ioctl {
        /// Name of the ioctl and what it was for.
        request: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Guest memory is no multiple of a huge page or too large to map.
    #[error("{mib} MiB is no amount of guest memory: it must be a multiple of 2 MiB, at least 2")]
    MemorySize {
        /// Asked for, MiB.
        mib: u64,
    },
    /// The pool has too few huge pages.
    #[error("{mib} MiB of guest memory need {pages} free 2 MiB pages, and there are {free}")]
    MemoryShort {
        /// Asked for, MiB.
        mib: u64,
        /// 2 MiB pages asked for.
        pages: u64,
        /// Free 2 MiB pages of the machine when it failed.
        free: u64,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Guest memory could not be mapped for another reason.
    #[error("{mib} MiB of guest memory could not be mapped: {what}")]
    MemoryMap {
        /// Asked for, MiB.
        mib: u64,
        /// Which step failed and how.
        what: String,
    },
    /// The image does not fit in guest memory.
    #[error("the image needs {need_mib} MiB of guest memory and was given {have_mib} MiB")]
    ImageTooLarge {
        /// Needed at least, MiB.
        need_mib: u64,
        /// Given, MiB.
        have_mib: u64,
    },
    /// The image file is damaged.
    #[error("the enclave image cannot be used: {what}")]
    Image {
        /// What is wrong with it.
        what: String,
    },
    /// The kernel in the image cannot be started.
    #[error("the kernel in the image cannot be started: {what}")]
    Kernel {
        /// What is wrong with it.
        what: String,
    },
    /// The command line is too long or has a NUL in it.
    #[error("the kernel command line of {length} bytes {what}")]
    Cmdline {
        /// Length with the text that is appended, bytes.
        length: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// A number of vCPUs that cannot be.
    #[error("{vcpus} vCPUs are out of range 1 to {limit}, or do not match {cpu_ids} CPU ids")]
    VcpuCount {
        /// Asked for.
        vcpus: u8,
        /// CPU ids given.
        cpu_ids: usize,
        /// KVM's limit, or ours.
        limit: usize,
    },
    /// A vCPU thread could not be put where it belongs.
    #[error("vCPU {index} could not {what}")]
    Placement {
        /// Which vCPU.
        index: u8,
        /// What it was to do.
        what: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The guest could not be entered or run on.
    #[error("the guest cannot run: vCPU {index}: {what}")]
    Guest {
        /// Which vCPU.
        index: u8,
        /// KVM's exit and its details.
        what: String,
    },
    /// The nsm process is gone or silent.
    #[error("the NSM process {what}")]
    Nsm {
        /// What it did.
        what: &'static str,
    },
    /// The keeper is gone or said something out of turn.
    #[error("the keeper {what}")]
    Keeper {
        /// What it did.
        what: String,
    },
    /// The host side of vsock could not be opened.
    #[error("the vsock socket {path} could not be opened", path = path.display())]
    VsockPath {
        /// The path.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A system call that should not fail did.
    #[error("{what} failed")]
    System {
        /// The call and what it was for.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// nitro-cli's E-number.
    #[must_use]
    pub fn code(&self) -> u16 {
        match self {
            Error::Kvm(_) | Error::Guest { .. } | Error::Nsm { .. } | Error::Kernel { .. } => 36,
            Error::Ioctl { .. } => 29,
            Error::MemorySize { .. } | Error::ImageTooLarge { .. } => 26,
            Error::MemoryShort { .. } => 27,
            Error::MemoryMap { .. } => 42,
            Error::Image { .. } | Error::Cmdline { .. } => 35,
            Error::VcpuCount { .. } => 20,
            Error::Placement { .. } => 24,
            Error::Keeper { .. } => 39,
            Error::VsockPath { .. } => 11,
            Error::System { .. } => 0,
        }
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Kvm(fault) => Some(fault.hint().to_owned()),
            Error::MemoryShort { mib, .. } => Some(format!(
                "enclave-cli allocator apply --memory-mib {mib} sets them aside; enclave-cli describe-enclaves shows who holds some"
            )),
            Error::ImageTooLarge { need_mib, .. } => {
                Some(format!("give it --memory {} or more", need_mib.next_multiple_of(2)))
            }
            Error::Kernel { .. } => {
                Some("it must be an x86-64 bzImage with a 64-bit entry (protocol 2.12 or later), or an ELF vmlinux".into())
            }
            Error::VsockPath { .. } => Some("give another path with --vsock-path".into()),
            Error::Guest { .. } => Some("enclave-cli doctor shows what this host's KVM can do".into()),
            _ => None,
        }
    }

    /// For `map_err` on a KVM request.
    pub(crate) fn ioctl(request: &'static str) -> impl Fn(kvm_ioctls::Error) -> Error {
        move |e| Error::Ioctl { request, source: io::Error::from_raw_os_error(e.errno()) }
    }

    /// For `map_err` on a system call made through `nix`.
    pub(crate) fn nix(what: &'static str) -> impl Fn(nix::Error) -> Error {
        move |e| Error::System { what, source: e.into() }
    }

    /// For `map_err` on a system call made through `std`.
    pub(crate) fn io(what: &'static str) -> impl Fn(io::Error) -> Error {
        move |source| Error::System { what, source }
    }
}
