//! What `doctor` looks at, one function a question. Each answer has the value it found and, where it is not good, the mend. Only
//! looking: nothing is loaded, reserved or written.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;
use std::time::Instant;

use enclave_vmm::resources::Host;
use enclave_vmm::resources::cpu_topology::{CpuSet, CpuTopology};
use enclave_vmm::resources::huge_pages::{HugePages, PAGE_MIB};
use serde::Serialize;

use crate::error_table::ErrorNumber;
use crate::failure::{Failure, Outcome};

/// The device, and the name of the check that opens it.
pub(crate) const KVM: &str = "/dev/kvm";

/// The name of the check that runs a guest on it.
pub(crate) const KVM_RUNS: &str = "KVM runs a guest";

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// As it should be.
    Good,
    /// Works without it, or only part of what there is.
    Note,
    /// Enclaves cannot run here as long as it is so.
    Bad,
}

/// One question and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// What was looked at.
    pub(crate) name: &'static str,
    /// How it came out.
    pub(crate) verdict: Verdict,
    /// What was found.
    pub(crate) value: String,
    /// What to do, where there is something to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mend: Option<String>,
}

impl Check {
    /// As it should be.
    pub(crate) fn good(name: &'static str, value: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Good, value: value.into(), mend: None }
    }

    /// Enclaves run without it.
    pub(crate) fn note(
        name: &'static str,
        value: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self { name, verdict: Verdict::Note, value: value.into(), mend: Some(mend.into()) }
    }

    /// Enclaves do not run like this.
    pub(crate) fn bad(
        name: &'static str,
        value: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self { name, verdict: Verdict::Bad, value: value.into(), mend: Some(mend.into()) }
    }
}

/// Who asks: taking CPUs and pages from the machine needs root.
pub(crate) fn user(uid: u32) -> Check {
    const NAME: &str = "user";
    if uid == 0 {
        Check::good(NAME, "root")
    } else {
        Check::bad(
            NAME,
            format!("user {uid}"),
            "taking CPUs and huge pages from this machine needs root: sudo enclave-cli ...",
        )
    }
}

/// Whether the device is there and may be opened.
pub(crate) fn kvm_device(device: &Path) -> Check {
    const NAME: &str = KVM;
    match File::options().read(true).write(true).open(device) {
        Ok(_) => Check::good(NAME, "present, permitted"),
        Err(error) if error.kind() == ErrorKind::NotFound => Check::bad(
            NAME,
            "missing",
            "load kvm_intel or kvm_amd and switch virtualisation on in the firmware; in a virtual machine, have its host allow nesting",
        ),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Check::bad(
            NAME,
            "present, not permitted",
            "sudo usermod -aG kvm $USER, then log in again; or run as root",
        ),
        Err(error) => {
            Check::bad(NAME, format!("present, but: {error}"), "see what dmesg says about kvm")
        }
    }
}

/// Whether a guest really runs: some hosts have a /dev/kvm that takes one and then does not run it.
pub(crate) fn kvm_runs() -> Check {
    const NAME: &str = KVM_RUNS;
    let begun = Instant::now();
    match enclave_vmm::probe::kvm_runs_guests() {
        Ok(()) => Check::good(NAME, format!("yes, tried in {} ms", begun.elapsed().as_millis())),
        Err(fault) => Check::bad(NAME, fault.to_string(), fault.hint()),
    }
}

/// The same question where the answer decides whether to go on. In a machine of ours KVM works by construction, but runs under emulation, where
/// a time limit that is right for processors would refuse a guest for being slow: there only the device is opened.
pub(crate) fn require_kvm(inside_machine: bool) -> Outcome<()> {
    let outcome = if inside_machine {
        enclave_vmm::probe::open_kvm().map(drop)
    } else {
        enclave_vmm::probe::kvm_runs_guests()
    };
    outcome.map_err(|fault| {
        let hint = match (inside_machine, fault.hint()) {
            (true, hint) => hint.to_owned(),
            (false, hint) => {
                format!("{hint}; to have a parent whose KVM works: enclave-cli machine start")
            }
        };
        Failure::new(ErrorNumber::ENCLAVE_BOOT, "this machine cannot run enclaves")
            .because(fault)
            .hint(hint)
    })
}

/// Whether guests of this machine may run guests of their own: what a machine with `kvm` needs.
pub(crate) fn nesting(sys: &Path) -> Check {
    const NAME: &str = "nested virtualisation";
    for module in ["kvm_intel", "kvm_amd"] {
        let file = sys.join("module").join(module).join("parameters/nested");
        if let Ok(text) = fs::read_to_string(&file) {
            let value = text.trim();
            return if matches!(value, "Y" | "1") {
                Check::good(NAME, format!("{module}: {value}"))
            } else {
                Check::note(
                    NAME,
                    format!("{module}: {value}"),
                    format!(
                        "echo 'options {module} nested=1' | sudo tee /etc/modprobe.d/kvm-nested.conf, then reload {module}; until then a machine uses emulation"
                    ),
                )
            };
        }
    }
    Check::note(NAME, "neither kvm_intel nor kvm_amd is loaded", "a machine uses emulation")
}

/// Whether CPUs can be taken from everybody else.
pub(crate) fn cgroups(host: &Host) -> Check {
    const NAME: &str = "cgroup v2 with cpuset";
    let file = host.cgroup.join("cgroup.controllers");
    match fs::read_to_string(&file) {
        Ok(text) if text.split_whitespace().any(|controller| controller == "cpuset") => {
            Check::good(NAME, format!("{} at {}", text.trim(), host.cgroup.display()))
        }
        Ok(text) => Check::bad(
            NAME,
            format!("controllers at {}: {}", host.cgroup.display(), text.trim()),
            "boot with systemd.unified_cgroup_hierarchy=1, or give this container the cpuset controller",
        ),
        Err(error) => Check::bad(
            NAME,
            format!("{}: {error}", file.display()),
            "mount it (mount -t cgroup2 none /sys/fs/cgroup) or boot with systemd.unified_cgroup_hierarchy=1",
        ),
    }
}

/// Which CPUs enclaves may have.
pub(crate) fn cpus(host: &Host) -> Check {
    const NAME: &str = "CPUs for enclaves";
    match CpuTopology::read(host) {
        Ok(topology) => {
            let free = topology.grantable();
            if free.is_empty() {
                Check::bad(
                    NAME,
                    "none beside the core of CPU 0",
                    "an enclave needs a core of its own: give this machine more CPUs",
                )
            } else {
                let per_core = topology.threads_per_core();
                Check::good(
                    NAME,
                    format!("{} ({}), {per_core} a core", free.len(), CpuSet(free.clone()).list()),
                )
            }
        }
        Err(error) => Check::bad(
            NAME,
            error.to_string(),
            error.hint().unwrap_or_else(|| "mount sysfs at /sys".to_owned()),
        ),
    }
}

/// Huge pages there are, and memory they could be made of.
pub(crate) fn huge_pages(host: &Host) -> Check {
    const NAME: &str = "huge pages (2 MiB)";
    let counters = match HugePages::of(host).and_then(|pages| pages.counters()) {
        Ok(counters) => counters,
        Err(error) => {
            return Check::bad(
                NAME,
                error.to_string(),
                error.hint().unwrap_or_else(|| "use a kernel with CONFIG_HUGETLBFS".to_owned()),
            );
        }
    };
    let available = fs::read_to_string(host.proc.join("meminfo"))
        .ok()
        .and_then(|text| mem_available_mib(&text))
        .unwrap_or(0);
    let value = format!(
        "{} reserved, {} free; {available} MiB of other memory available",
        counters.total,
        counters.available()
    );
    if counters.available() * PAGE_MIB + available < 128 {
        Check::bad(NAME, value, "an enclave needs about 128 MiB: free some memory")
    } else {
        Check::good(NAME, value)
    }
}

/// `MemAvailable` of /proc/meminfo in MiB.
fn mem_available_mib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024)
}

/// Whether guest memory can be made the way the vmm makes it.
pub(crate) fn huge_memfd() -> Check {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    const NAME: &str = "memfd of huge pages";
    match memfd_create(
        c"enclave-doctor",
        MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB,
    ) {
        Ok(_) => Check::good(NAME, "works"),
        Err(error) => Check::bad(
            NAME,
            error.desc(),
            "use a kernel with CONFIG_HUGETLBFS and CONFIG_MEMFD_CREATE",
        ),
    }
}

/// The kernel's own vsock: not needed by the muxer backend, but what parent applications speak.
pub(crate) fn vsock(sys: &Path, dev: &Path) -> Vec<Check> {
    let loaded = |module: &str| sys.join("module").join(module).exists();
    let vhost = if dev.join("vhost-vsock").exists() {
        Check::good("vhost_vsock", "present")
    } else {
        Check::note(
            "vhost_vsock",
            "no /dev/vhost-vsock",
            "sudo modprobe vhost_vsock; enclaves are reached through their sockets without it",
        )
    };
    let loopback = if loaded("vsock_loopback") {
        Check::good("vsock_loopback", "loaded")
    } else {
        Check::note(
            "vsock_loopback",
            "not loaded",
            "sudo modprobe vsock_loopback, for parent services on AF_VSOCK",
        )
    };
    vec![vhost, loopback]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fake() -> (tempfile::TempDir, Host) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let host =
            Host { sys: root.join("sys"), cgroup: root.join("cgroup"), proc: root.join("proc") };
        for path in [&host.sys, &host.cgroup, &host.proc] {
            fs::create_dir(path).unwrap();
        }
        (folder, host)
    }

    #[test]
    fn a_bare_machine_gets_a_mend_for_everything() {
        let (folder, host) = fake();
        for check in
            [kvm_device(&folder.path().join("kvm")), cgroups(&host), cpus(&host), huge_pages(&host)]
        {
            assert_eq!(check.verdict, Verdict::Bad, "{check:?}");
            assert!(check.mend.is_some(), "{check:?}");
        }
        assert_eq!(nesting(&host.sys).verdict, Verdict::Note);
        assert!(vsock(&host.sys, folder.path()).iter().all(|check| check.verdict == Verdict::Note));
    }

    #[test]
    fn what_is_there_is_good_with_its_value() {
        let (folder, host) = fake();
        fs::write(folder.path().join("kvm"), "").unwrap();
        assert_eq!(kvm_device(&folder.path().join("kvm")).verdict, Verdict::Good);
        fs::write(host.cgroup.join("cgroup.controllers"), "cpuset cpu io\n").unwrap();
        assert_eq!(cgroups(&host).verdict, Verdict::Good);
        let nested = host.sys.join("module/kvm_amd/parameters");
        fs::create_dir_all(&nested).unwrap();
        fs::write(nested.join("nested"), "1\n").unwrap();
        assert_eq!(nesting(&host.sys), Check::good("nested virtualisation", "kvm_amd: 1"));
        fs::write(nested.join("nested"), "0\n").unwrap();
        assert_eq!(nesting(&host.sys).verdict, Verdict::Note);
    }

    #[test]
    fn memory_is_read_from_meminfo() {
        assert_eq!(mem_available_mib("MemTotal: 1 kB\nMemAvailable:   2097152 kB\n"), Some(2048));
        assert_eq!(mem_available_mib("MemTotal: 1 kB\n"), None);
    }
}
