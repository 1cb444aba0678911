//! What an enclave takes from its parent: whole cores (an isolated cgroup partition) and 2 MiB huge pages, from the pool if there is
//! one. Everything here works below a [`Host`], the roots of sysfs and the cgroup tree, so that a test can be any machine.

pub mod allocator_file;
pub mod cpu_partition;
pub mod cpu_topology;
pub mod huge_pages;
pub mod ledger;
pub mod pool;

use std::path::PathBuf;

/// Where this machine's controls are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// sysfs, `/sys`.
    pub sys: PathBuf,
    /// The cgroup v2 tree, `/sys/fs/cgroup`.
    pub cgroup: PathBuf,
    /// procfs, `/proc`.
    pub proc: PathBuf,
}

impl Host {
    /// This machine. With cgroup v1 and v2 side by side, v2 is at `unified`.
    #[must_use]
    pub fn this() -> Self {
        let hybrid = PathBuf::from("/sys/fs/cgroup/unified");
        let cgroup = if hybrid.join("cgroup.controllers").exists() {
            hybrid
        } else {
            PathBuf::from("/sys/fs/cgroup")
        };
        Self { sys: "/sys".into(), cgroup, proc: "/proc".into() }
    }
}

/// Reads a small text file of the kernel.
pub(crate) fn read_text(path: &std::path::Path) -> crate::Result<String> {
    std::fs::read_to_string(path)
        .map(|text| text.trim_end().to_owned())
        .map_err(crate::Error::file("read", path))
}

/// Reads a number from a file of the kernel.
pub(crate) fn read_number(path: &std::path::Path) -> crate::Result<u64> {
    let text = read_text(path)?;
    text.trim().parse().map_err(|_| crate::Error::File {
        action: "read",
        path: path.to_owned(),
        source: std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            format!("'{text}' is no number"),
        ),
    })
}
