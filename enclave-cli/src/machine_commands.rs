//! `machine start|status|exec|stop`: the parent in which nested KVM works.

use std::io::IsTerminal;
use std::path::Path;

use enclave_vmm::paths::Paths;
use machine::{Accel, Command, Config, Machine, Status, Stopped};
use serde::Serialize;

use crate::arguments::ours::{MachineAction, MachineExec, MachineStart};
use crate::diagnosis;
use crate::error_table::ErrorNumber;
use crate::failure::{EXIT_NO, Failure, Outcome};
use crate::invocation::Invocation;
use crate::memory_size::MemoryMib;
use crate::progress::line;
use crate::{output, route};

/// What `start` and `status` print.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Report {
    running: bool,
    #[serde(flatten)]
    details: Option<Details>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Details {
    #[serde(rename = "ProcessID")]
    process_id: i32,
    accelerator: Accel,
    #[serde(rename = "NumberOfCPUs")]
    number_of_cpus: u32,
    #[serde(rename = "MemoryMiB")]
    memory_mib: u32,
    #[serde(rename = "QEMU")]
    qemu: String,
    kernel: String,
    #[serde(rename = "BootMs")]
    boot_ms: u64,
    state_folder: String,
}

impl Report {
    fn of(status: Option<&Status>) -> Self {
        Self {
            running: status.is_some(),
            details: status.map(|status| Details {
                process_id: status.pid,
                accelerator: status.accel,
                number_of_cpus: status.cpus,
                memory_mib: status.memory_mib,
                qemu: status.qemu.clone(),
                kernel: status.kernel.clone(),
                boot_ms: status.boot_ms,
                state_folder: status.state_dir.display().to_string(),
            }),
        }
    }
}

/// Carries one of them out.
pub(crate) fn run(action: &MachineAction, invocation: Invocation) -> Outcome<u8> {
    if invocation.in_machine {
        return Err(Failure::new(ErrorNumber::INVALID_COMMAND, "this is the machine already")
            .hint("start, stop and look at machines from the host"));
    }
    let paths = Paths::current();
    match action {
        MachineAction::Start(arguments) => start(arguments, &paths),
        MachineAction::Status(_) => {
            let machine = Machine::open(&paths.run)?;
            output::json(&Report::of(machine.as_ref().map(Machine::status)))?;
            Ok(if machine.is_some() { 0 } else { EXIT_NO })
        }
        MachineAction::Exec(arguments) => exec(arguments, &paths),
        MachineAction::Stop(_) => {
            let text = match Machine::stop(&paths.run)? {
                Stopped::NotRunning => "No machine is running.",
                Stopped::Orderly => "Successfully stopped the machine.",
                Stopped::Forced => "Stopped the machine by force: it did not switch itself off.",
            };
            line(text);
            Ok(0)
        }
    }
}

fn start(arguments: &MachineStart, paths: &Paths) -> Outcome<u8> {
    let memory: MemoryMib = arguments.memory.parse()?;
    let memory_mib = u32::try_from(memory.mib()).map_err(|_| {
        Failure::new(
            ErrorNumber::INVALID_ARGUMENT,
            format!("{memory} is more than a machine can have"),
        )
    })?;
    let config = Config {
        cpus: arguments.cpus,
        memory_mib,
        accel: accelerator(),
        icount: false,
        state_dir: paths.state.clone(),
        run_dir: paths.run.clone(),
        cache_dir: paths.cache.clone(),
        agent: route::helper("machine-agent")?,
    };
    // Lines and no spinner: the start takes charge of signals, which a drawing thread would catch in its place.
    let machine = Machine::start(&config, &mut |text| line(text))?;
    output::json(&Report::of(Some(machine.status())))?;
    Ok(0)
}

/// Hardware where this host's KVM runs guests and lets them run guests of their own, else emulation.
fn accelerator() -> Accel {
    use diagnosis::Verdict::Good;
    let good = |check: &diagnosis::Check| check.verdict == Good;
    let works = good(&diagnosis::kvm_device(Path::new(diagnosis::KVM)))
        && good(&diagnosis::kvm_runs())
        && good(&diagnosis::nesting(Path::new("/sys")));
    if works { Accel::Kvm } else { Accel::Tcg }
}

fn exec(arguments: &MachineExec, paths: &Paths) -> Outcome<u8> {
    let machine = Machine::open(&paths.run)?.ok_or(machine::Error::NotRunning)?;
    let mut words = arguments.command.iter();
    let program = words
        .next()
        .ok_or_else(|| Failure::new(ErrorNumber::MISSING_ARGUMENT, "no command to run"))?;
    let command = Command::new(program).args(words);
    // With one of the two redirected the bytes must pass as they are, and a terminal would change them.
    let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    Ok(machine.exec(&command, terminal)?.code())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_does_not_run_is_one_word() {
        assert_eq!(serde_json::to_string(&Report::of(None)).unwrap(), r#"{"Running":false}"#);
    }
}
