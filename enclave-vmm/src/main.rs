//! One enclave's processes: `enclave-vmm keeper|nsm|vmm`. Started by `enclave-cli` and by the keeper with the descriptors of
//! `docs/architecture.md`; not for people, who are told so.

use std::process::ExitCode;
use std::time::Instant;

use enclave_vmm::{Failure, keeper, nsm_process, vmm};

fn main() -> ExitCode {
    let started = Instant::now();
    let role = std::env::args().nth(1).unwrap_or_default();
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
