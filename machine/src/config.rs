//! What a machine is started with.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How the parent's processors run. Whether the host's KVM can run guests is for `enclave-vmm`'s probe to say;
/// this crate only refuses KVM without nesting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// The host's KVM, with nesting.
    Kvm,
    /// QEMU's emulation of an AMD processor with SVM.
    Tcg,
}

impl Accel {
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Kvm => "KVM",
            Self::Tcg => "software emulation",
        }
    }
}

/// A machine to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Processors: that many cores of one thread each.
    pub cpus: u32,
    /// Memory, MiB.
    pub memory_mib: u32,
    /// How the processors run.
    pub accel: Accel,
    /// Counts time in instructions (software emulation only), for benchmarks; tests must not (an interrupt
    /// delivered twice can wedge a nested guest under load then).
    pub icount: bool,
    /// The project's state folder; the machine's own is `machine` in it.
    pub state_dir: PathBuf,
    /// The project's run folder; the machine's own is `machine` in it.
    pub run_dir: PathBuf,
    /// The project's cache folder; kernels are in `parent-kernel`.
    pub cache_dir: PathBuf,
    /// The static `machine-agent` program.
    pub agent: PathBuf,
}

impl Config {
    /// Processors when nothing is said.
    pub const DEFAULT_CPUS: u32 = 4;
    /// Memory when nothing is said, MiB.
    pub const DEFAULT_MEMORY_MIB: u32 = 4096;

    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        Self {
            cpus: Self::DEFAULT_CPUS,
            memory_mib: Self::DEFAULT_MEMORY_MIB,
            accel: Accel::Tcg,
            icount: false,
            state_dir: "/s".into(),
            run_dir: "/r".into(),
            cache_dir: "/c".into(),
            agent: "/lib/machine-agent".into(),
        }
    }
}
