//! `doctor`: asks every question of `diagnosis`, says what to do about each bad answer, and whether enclaves can run: here, or in a machine.

use std::fmt::Write as _;
use std::path::Path;

use enclave_vmm::paths::Paths;
use enclave_vmm::resources::Host;
use serde::Serialize;

use crate::arguments::ours::Doctor;
use crate::diagnosis::{self, Check, Verdict};
use crate::diagnosis_of_installation;
use crate::failure::{EXIT_NO, Outcome};
use crate::output;
use crate::route::Route;

/// Everything that was found.
#[derive(Debug, Serialize)]
struct Report {
    /// Enclaves can run on this machine itself.
    direct: bool,
    /// Enclaves can run in a machine, once it is started.
    machine: bool,
    /// Whether this machine's own KVM ran a guest, whatever else is missing.
    kvm_runs_guests: bool,
    /// Questions about this machine.
    checks: Vec<Check>,
    /// Questions about a machine on it.
    machine_checks: Vec<Check>,
}

/// Looks, prints, and exits with 0 where enclaves can run.
pub(crate) fn run(arguments: &Doctor, route: &Route) -> Outcome<u8> {
    let report = examine(route);
    if arguments.json {
        output::json(&report)?;
    } else {
        output::write(report.text().as_bytes())?;
    }
    Ok(if report.direct || report.machine { 0 } else { EXIT_NO })
}

fn examine(route: &Route) -> Report {
    let paths = Paths::current();
    let host = Host::this();
    let uid = nix::unistd::geteuid().as_raw();
    let exe = std::env::current_exe().unwrap_or_default();

    let device = Path::new(diagnosis::KVM);
    let mut checks = vec![diagnosis::user(uid), diagnosis::kvm_device(device)];
    if checks.iter().all(|check| check.name != diagnosis::KVM || check.verdict == Verdict::Good) {
        checks.push(diagnosis::kvm_runs());
    }
    checks.extend([
        diagnosis::cgroups(&host),
        diagnosis::cpus(&host),
        diagnosis::huge_pages(&host),
        diagnosis::huge_memfd(),
    ]);
    checks.extend(diagnosis_of_installation::installation(&paths, &exe));
    checks.push(diagnosis_of_installation::authority(&paths.authority(), uid));
    checks.extend(diagnosis::vsock(&host.sys, Path::new("/dev")));

    let mut machine_checks = vec![diagnosis::nesting(&host.sys)];
    machine_checks.extend(diagnosis_of_installation::machine(&paths, &exe, route));

    let sound = |checks: &[Check]| checks.iter().all(|check| check.verdict != Verdict::Bad);
    Report {
        direct: sound(&checks),
        kvm_runs_guests: checks
            .iter()
            .any(|check| check.name == diagnosis::KVM_RUNS && check.verdict == Verdict::Good),
        machine: !route.is_inside() && sound(&machine_checks),
        checks,
        machine_checks,
    }
}

impl Report {
    fn text(&self) -> String {
        let mut text = String::new();
        let mut section = |title: &str, checks: &[Check]| {
            let _ = writeln!(text, "{title}");
            for check in checks {
                let mark = match check.verdict {
                    Verdict::Good => "ok  ",
                    Verdict::Note => "note",
                    Verdict::Bad => "BAD ",
                };
                let _ = writeln!(text, "  {mark} {}: {}", check.name, check.value);
                if let Some(mend) = &check.mend {
                    let _ = writeln!(text, "       mend: {mend}");
                }
            }
        };
        section("This machine itself", &self.checks);
        section("A parent machine on it (enclave-cli machine)", &self.machine_checks);
        let verdict = match (self.direct, self.machine) {
            (true, _) => "Enclaves can run here.",
            (false, true) => {
                "Enclaves cannot run here, but in a parent machine: enclave-cli machine start"
            }
            (false, false) => {
                "Enclaves cannot run here, and neither in a parent machine: mend what is BAD in one of the two lists."
            }
        };
        let _ = writeln!(text, "\n{verdict}");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_value_mend_and_a_verdict() {
        let report = Report {
            direct: false,
            machine: true,
            kvm_runs_guests: false,
            checks: vec![Check::bad("/dev/kvm", "missing", "load it")],
            machine_checks: vec![Check::good("QEMU", "10.0.2")],
        };
        let text = report.text();
        assert!(text.contains("BAD  /dev/kvm: missing\n       mend: load it\n"), "{text}");
        assert!(text.contains("ok   QEMU: 10.0.2\n") && text.contains("machine start"), "{text}");
    }

    #[test]
    fn the_json_names_each_check() {
        let report = Report {
            direct: true,
            machine: false,
            kvm_runs_guests: true,
            checks: vec![Check::good("/dev/kvm", "present")],
            machine_checks: Vec::new(),
        };
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            r#"{"direct":true,"machine":false,"kvm_runs_guests":true,"checks":[{"name":"/dev/kvm","verdict":"good","value":"present"}],"machine_checks":[]}"#
        );
    }
}
