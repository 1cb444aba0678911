//! The kernel's pool of 2 MiB huge pages. `run-enclave` and `allocator apply` raise it by exactly what is missing and remember by how
//! much, so that it can be lowered by exactly that again; pages somebody else reserved are used, never taken away.

use std::fs;
use std::path::PathBuf;

use super::{Host, read_number};
use crate::error::{Error, Result};

/// MiB in a page.
pub const PAGE_MIB: u64 = 2;

/// What is left to the parent, KiB, whatever is asked for: enough to log in and put things right.
const PARENT_KEEPS_KIB: u64 = 64 * 1024;

/// Pages for so much memory, rounded up.
#[must_use]
pub fn pages_for(memory_mib: u64) -> u64 {
    memory_mib.div_ceil(PAGE_MIB)
}

/// The pool's counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// All persistent pages.
    pub total: u64,
    /// Not handed to anybody.
    pub free: u64,
    /// Of `free`, promised to mappings that have not touched them yet.
    pub reserved: u64,
}

impl Counters {
    /// Pages that can still be promised.
    #[must_use]
    pub fn available(&self) -> u64 {
        self.free.saturating_sub(self.reserved)
    }
}

/// The kernel's pool of 2 MiB pages.
#[derive(Debug, Clone)]
pub struct HugePages {
    folder: PathBuf,
    compact: PathBuf,
    meminfo: PathBuf,
}

impl HugePages {
    /// Finds it.
    ///
    /// # Errors
    /// [`Error::NoHugePages`].
    pub fn of(host: &Host) -> Result<Self> {
        let folder = host.sys.join("kernel/mm/hugepages/hugepages-2048kB");
        if !folder.is_dir() {
            return Err(Error::NoHugePages { path: folder });
        }
        Ok(Self {
            folder,
            compact: host.proc.join("sys/vm/compact_memory"),
            meminfo: host.proc.join("meminfo"),
        })
    }

    /// Reads the counters.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn counters(&self) -> Result<Counters> {
        Ok(Counters {
            total: read_number(&self.folder.join("nr_hugepages"))?,
            free: read_number(&self.folder.join("free_hugepages"))?,
            reserved: read_number(&self.folder.join("resv_hugepages"))?,
        })
    }

    /// Sees to it that `needed` pages can be promised; returns by how many the pool was raised. If the kernel cannot find that many the pool
    /// is put back as it was.
    ///
    /// # Errors
    /// [`Error::HugePages`], [`Error::File`].
    pub fn ensure(&self, needed: u64) -> Result<u64> {
        let before = self.counters()?;
        let missing = needed.saturating_sub(before.available());
        if missing == 0 {
            return Ok(0);
        }
        // Asked for more than there is, the kernel takes everything there is, and its OOM killer takes the parent's processes.
        let possible = self.pages_in_free_memory()?;
        if missing > possible {
            let available = before.available().saturating_add(possible);
            return Err(Error::HugePages { needed, available });
        }
        let wanted = before.total.saturating_add(missing);
        self.set_total(wanted)?;
        if self.counters()?.available() < needed {
            // Memory in small pieces: ask the kernel to tidy up, once. It is allowed to refuse.
            let _ = fs::write(&self.compact, "1");
            self.set_total(wanted)?;
        }
        let available = self.counters()?.available();
        if available < needed {
            self.set_total(before.total)?;
            return Err(Error::HugePages { needed, available });
        }
        Ok(missing)
    }

    /// Lowers the pool to `total` if it is above. Pages still in use leave it when they are freed.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn lower_to(&self, total: u64) -> Result<()> {
        if self.counters()?.total > total {
            self.set_total(total)?;
        }
        Ok(())
    }

    /// Pages that the parent's memory has room for, when it keeps [`PARENT_KEEPS_KIB`].
    fn pages_in_free_memory(&self) -> Result<u64> {
        let text = fs::read_to_string(&self.meminfo).map_err(Error::file("read", &self.meminfo))?;
        let kib: u64 = text
            .lines()
            .find_map(|line| line.strip_prefix("MemAvailable:"))
            .and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse().ok())
            .unwrap_or(0);
        Ok(kib.saturating_sub(PARENT_KEEPS_KIB) / (PAGE_MIB * 1024))
    }

    fn set_total(&self, total: u64) -> Result<()> {
        let path = self.folder.join("nr_hugepages");
        fs::write(&path, total.to_string()).map_err(Error::file("write", &path))
    }
}

#[cfg(test)]
pub(crate) mod fixture {
    //! The counters as plain files: a write to `nr_hugepages` does not make pages, so a test sets what the kernel would.
    use super::super::Host;

    pub(crate) fn pages(host: &Host, total: u64, free: u64, reserved: u64) {
        let folder = host.sys.join("kernel/mm/hugepages/hugepages-2048kB");
        std::fs::create_dir_all(&folder).unwrap();
        for (name, value) in
            [("nr_hugepages", total), ("free_hugepages", free), ("resv_hugepages", reserved)]
        {
            std::fs::write(folder.join(name), format!("{value}\n")).unwrap();
        }
        available_memory(host, 1 << 20);
    }

    pub(crate) fn available_memory(host: &Host, mib: u64) {
        std::fs::create_dir_all(&host.proc).unwrap();
        let text = format!("MemTotal:  1 kB\nMemAvailable:  {} kB\n", mib * 1024);
        std::fs::write(host.proc.join("meminfo"), text).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn host(root: &Path) -> Host {
        Host { sys: root.join("sys"), cgroup: root.join("cg"), proc: root.join("proc") }
    }

    #[test]
    fn memory_is_rounded_up_to_pages() {
        assert_eq!(pages_for(64), 32);
        assert_eq!(pages_for(65), 33);
        assert_eq!(pages_for(0), 0);
    }

    #[test]
    fn enough_pages_are_left_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let host = host(folder.path());
        fixture::pages(&host, 10, 8, 3);
        let pages = HugePages::of(&host).unwrap();
        assert_eq!(pages.ensure(5).unwrap(), 0);
        assert_eq!(pages.counters().unwrap().total, 10);
    }

    #[test]
    fn a_kernel_that_cannot_is_one_error_and_the_pool_is_as_before() {
        let folder = tempfile::tempdir().unwrap();
        let host = host(folder.path());
        fixture::pages(&host, 10, 8, 3);
        let pages = HugePages::of(&host).unwrap();
        let error = pages.ensure(64).unwrap_err();
        assert!(matches!(error, Error::HugePages { needed: 64, available: 5 }), "{error}");
        assert!(error.hint().unwrap().contains("--memory-mib 128"));
        assert_eq!(pages.counters().unwrap().total, 10);
    }

    #[test]
    fn more_than_the_parents_memory_is_not_even_tried() {
        let folder = tempfile::tempdir().unwrap();
        let host = host(folder.path());
        fixture::pages(&host, 10, 8, 3);
        fixture::available_memory(&host, 164);
        let pages = HugePages::of(&host).unwrap();
        // 64 MiB stay with the parent, so 100 MiB, 50 pages, can become huge ones beside the 5 there are.
        let error = pages.ensure(56).unwrap_err();
        assert!(matches!(error, Error::HugePages { needed: 56, available: 55 }), "{error}");
        assert_eq!(pages.counters().unwrap().total, 10);
    }

    #[test]
    fn lowering_never_raises() {
        let folder = tempfile::tempdir().unwrap();
        let host = host(folder.path());
        fixture::pages(&host, 10, 10, 0);
        let pages = HugePages::of(&host).unwrap();
        pages.lower_to(6).unwrap();
        assert_eq!(pages.counters().unwrap().total, 6);
        pages.lower_to(8).unwrap();
        assert_eq!(pages.counters().unwrap().total, 6);
    }

    #[test]
    fn a_kernel_without_them_is_told() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(HugePages::of(&host(folder.path())).unwrap_err().code(), 25);
    }
}
