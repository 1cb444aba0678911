//! What keeper and vmm say to each other on the vmm's fd 3: one JSON value a SEQPACKET record, at most
//! [`MAX_MESSAGE`] bytes. JSON because it happens a handful of times in an enclave's life and a person reading
//! `strace` should understand it. Order: `Config` → `Loaded` → `Go` → `Started` → `Heartbeat`, `Ready`,
//! `AppExited` as they happen → one of `Stopped` and `Failed`, always last.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Longest record in either direction, bytes.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// What one enclave is made of, decided by the keeper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmmConfig {
    /// Guest memory, MiB; a multiple of 2, because it is made of 2 MiB pages.
    pub memory_mib: u64,
    /// Number of vCPUs, at least 1.
    pub vcpus: u8,
    /// Parent CPUs, one for each vCPU in order; empty leaves the threads unpinned.
    pub cpu_ids: Vec<u32>,
    /// The guest's vsock CID, 4 or more.
    pub cid: u32,
    /// Debug mode: the console is kept (fd 6).
    pub debug: bool,
    /// Host socket of the `muxer` backend; ports the guest dials are looked for at `<vsock_path>_<port>`.
    pub vsock_path: PathBuf,
    /// What the operator gives to the app; sent to init when it asks for it on port 9002.
    #[serde(default)]
    pub parameters: Parameters,
}

/// Launch parameters: only init decides whether the manifest allows them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// Arguments appended to the app's command.
    #[serde(default)]
    pub args: Vec<String>,
    /// Environment variables.
    #[serde(default)]
    pub env: std::collections::BTreeMap<String, String>,
}

/// Keeper to vmm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToVmm {
    /// First message: build the machine and load the image.
    Config(VmmConfig),
    /// Run the first guest instruction.
    Go,
    /// End the guest; answered by `Stopped` with [`StopReason::Asked`].
    Stop,
}

/// Vmm to keeper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromVmm {
    /// Memory is there, the image is in it, all privileges are gone.
    Loaded,
    /// The vCPUs have entered the guest.
    Started(Timings),
    /// Init's 0xB7 on port 9000 was answered. Sent once.
    Heartbeat,
    /// Init says that the app runs.
    Ready,
    /// The app ended; the guest will reset next.
    AppExited(AppExit),
    /// Init could not start the app.
    InitFailed {
        /// Init's own words, bounded by the frame's size and made printable.
        reason: String,
    },
    /// The guest is gone. Last message.
    Stopped {
        /// Why.
        reason: StopReason,
    },
    /// The vmm could not go on. Last message.
    Failed {
        /// nitro-cli's E-number.
        code: u16,
        /// One cause with the failing value in it.
        message: String,
        /// What to do next.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hint: Option<String>,
    },
}

/// How the app ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AppExit {
    /// Exit code.
    Code(u8),
    /// Killed by this signal.
    Signal(u8),
}

/// Why a guest stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The guest reset itself through the keyboard controller (`reboot=k`): the ordinary end.
    Reset,
    /// A triple fault: a crash, or the last resort of a guest without a keyboard controller.
    TripleFault,
    /// The keeper said `Stop`.
    Asked,
}

/// Where the time went between the start of the process and the first guest instruction, nanoseconds each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timings {
    /// Process start to the receipt of `Config`.
    pub start_ns: u64,
    /// `/dev/kvm`, the VM and its interrupt controllers.
    pub kvm_ns: u64,
    /// Guest memory, reserved and faulted.
    pub memory_ns: u64,
    /// Image into guest memory, tables and boot parameters.
    pub load_ns: u64,
    /// Devices, vCPUs and their threads.
    pub vcpus_ns: u64,
    /// Waiting for `Go` (the nsm process measures meanwhile).
    pub wait_ns: u64,
    /// `Go` to the first guest instruction.
    pub enter_ns: u64,
    /// Process start to the first guest instruction, waiting included.
    pub total_ns: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_form_is_what_the_keeper_reads() {
        let go = serde_json::to_string(&ToVmm::Go).unwrap();
        assert_eq!(go, r#""go""#);
        let stopped = FromVmm::Stopped { reason: StopReason::TripleFault };
        assert_eq!(
            serde_json::to_string(&stopped).unwrap(),
            r#"{"stopped":{"reason":"triple_fault"}}"#
        );
        let exited = FromVmm::AppExited(AppExit::Code(3));
        let text = serde_json::to_string(&exited).unwrap();
        assert_eq!(text, r#"{"app_exited":{"code":3}}"#);
        assert_eq!(serde_json::from_str::<FromVmm>(&text).unwrap(), exited);
    }

    #[test]
    fn a_config_with_an_unknown_field_is_refused() {
        let text = r#"{"config":{"memory_mib":64,"vcpus":1,"cpu_ids":[],"cid":16,"debug":false,"vsock_path":"/x","gpu":1}}"#;
        assert!(serde_json::from_str::<ToVmm>(text).is_err());
    }
}
