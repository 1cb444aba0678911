//! `run-enclave --timing`: where the time went, step by step, and the virtual machine monitor's own share of it.

use std::fmt::Write as _;

use enclave_vmm::launch::Timing;

/// One line for each step, in milliseconds: since the command began, and since the step before.
pub(crate) fn table(timing: &Timing) -> String {
    let steps = [
        ("keeper ready", timing.keeper_us),
        ("CPUs and pages taken", timing.allocated_us),
        ("processes started", timing.spawned_us),
        ("image measured", timing.measured_us),
        ("certificates issued", timing.serving_us),
        ("image in guest memory", timing.loaded_us),
        ("first guest instruction", timing.started_us),
        ("heartbeat", timing.heartbeat_us),
    ];
    let mut text = String::from("Timing                      since start    this step\n");
    let mut before = 0;
    for (name, at) in steps {
        // Measuring and loading go on side by side, so a step may end before the one above it.
        let _ = writeln!(
            text,
            "  {name:<26}{:>8} ms  {:>8} ms",
            millis(at),
            millis(at.saturating_sub(before))
        );
        before = before.max(at);
    }
    let vmm = &timing.vmm;
    let _ = writeln!(
        text,
        "VMM: process start to first guest instruction {} ms, of which",
        millis(vmm.total_ns / 1000)
    );
    for (name, ns) in [
        ("process start", vmm.start_ns),
        ("KVM", vmm.kvm_ns),
        ("guest memory", vmm.memory_ns),
        ("loading", vmm.load_ns),
        ("devices and vCPUs", vmm.vcpus_ns),
        ("waiting for the nsm", vmm.wait_ns),
        ("entering the guest", vmm.enter_ns),
    ] {
        let _ = writeln!(text, "  {name:<26}{:>8} ms", millis(ns / 1000));
    }
    text.pop();
    text
}

fn millis(us: u64) -> String {
    format!("{}.{}", us / 1000, us % 1000 / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_add_up_and_may_overlap() {
        let timing = Timing {
            keeper_us: 1_500,
            allocated_us: 4_000,
            spawned_us: 3_900,
            heartbeat_us: 2_000_000,
            ..Timing::default()
        };
        let text = table(&timing);
        assert!(text.contains("keeper ready                   1.5 ms       1.5 ms"), "{text}");
        assert!(text.contains("CPUs and pages taken           4.0 ms       2.5 ms"), "{text}");
        assert!(text.contains("processes started              3.9 ms       0.0 ms"), "{text}");
        assert!(text.contains("heartbeat                   2000.0 ms    1996.0 ms"), "{text}");
    }
}
