//! One enclave's processes: `enclave-vmm keeper|nsm|vmm`. Started by `enclave-cli` and by the keeper with the descriptors of
//! `docs/architecture.md`; not for people, who are told so.

use std::ffi::CString;
use std::process::ExitCode;
use std::time::Instant;

use enclave_vmm::{Failure, keeper, nsm_process, vmm};

fn main() -> ExitCode {
    let started = Instant::now();
    let role = std::env::args().nth(1).unwrap_or_default();
    name_process(&role);
    let outcome = match role.as_str() {
        "keeper" => keeper::run(),
        "nsm" => nsm_process::run(),
        // It tells the keeper itself what went wrong.
        "vmm" => return ExitCode::from(vmm::run(started)),
        _ => {
            eprintln!("enclave-vmm is started by enclave-cli: run enclave-cli run-enclave");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("enclave-vmm {role}: {}", Failure::from(error));
            ExitCode::FAILURE
        }
    }
}

/// The name that `ps` and `pgrep` show: `enclave-keeper`, `enclave-nsm`, `enclave-vmm`.
fn name_process(role: &str) {
    if let Ok(name) = CString::new(format!("enclave-{role}")) {
        let _ = nix::sys::prctl::set_name(&name);
    }
}
