//! CPUs taken from the parent's scheduler: isolated cpuset partitions (cgroup v2). The pool holds its free CPUs in a partition of its own;
//! a running enclave has `enclave-<id>` (the vmm's and nsm's ordinary threads, on the parent's CPUs) with a threaded child `vcpus`, an isolated
//! partition that only its vCPU threads enter. The kernel then runs nothing else on those CPUs.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::cpu_topology::CpuSet;
use super::{Host, read_text};
use crate::error::{Error, Result};

/// How long processes may take to leave a cgroup after they were killed. Freeing much memory takes time.
const EMPTYING: Duration = Duration::from_secs(20);

const POOL: &str = "enclave-pool";
const VCPUS: &str = "vcpus";

/// The cgroup of one enclave. Its name is remembered in the enclave's folder; dropping this value removes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnclaveCgroup {
    path: PathBuf,
}

impl EnclaveCgroup {
    /// The cgroup that belongs to enclave `id`, whether or not it exists.
    #[must_use]
    pub fn of(host: &Host, id: &str) -> Self {
        Self { path: host.cgroup.join(format!("enclave-{id}")) }
    }

    /// Makes it, with an isolated partition of `cpus`.
    ///
    /// # Errors
    /// [`Error::Partition`], [`Error::File`].
    pub fn create(&self, host: &Host, cpus: &CpuSet) -> Result<()> {
        enable_cpuset(host)?;
        let list = cpus.list();
        make_folder(&self.path)?;
        // The chain of exclusive lists is what lets a partition begin below a cgroup that is none ("remote partition").
        take_exclusively(&self.path.join("cpuset.cpus.exclusive"), &list)?;
        let vcpus = self.path.join(VCPUS);
        make_folder(&vcpus)?;
        write(&vcpus.join("cgroup.type"), "threaded")?;
        write(&self.path.join("cgroup.subtree_control"), "+cpuset")?;
        isolate(&vcpus, &list)
    }

    /// Moves a process of the tree in. Its threads then are where the parent's are, until they enter `vcpus`.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn add(&self, pid: u32) -> Result<()> {
        write(&self.path.join("cgroup.procs"), &pid.to_string())
    }

    /// The file by which a vCPU thread enters the partition; for the vmm's descriptor 7.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn threads(&self) -> Result<File> {
        let path = self.path.join(VCPUS).join("cgroup.threads");
        File::options().write(true).open(&path).map_err(Error::file("open", &path))
    }

    /// Kills what is still in it, waits for that to be gone, and removes it; the CPUs are the parent's again. Nothing to do is no error.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Partition`] if processes do not go away.
    pub fn remove(&self) -> Result<()> {
        if !self.path.exists() {
            return Ok(());
        }
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
        let deadline = Instant::now() + EMPTYING;
        loop {
            match remove_folder(&self.path.join(VCPUS)).and_then(|()| remove_folder(&self.path)) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ResourceBusy => {
                    if Instant::now() >= deadline {
                        let reason = format!("processes stay in {}", self.path.display());
                        return Err(Error::Partition { reason });
                    }
                    sleep(Duration::from_millis(10));
                }
                Err(error) => return Err(Error::file("remove", &self.path)(error)),
            }
        }
    }
}

/// Sets the pool's free CPUs aside (none: the partition goes away).
///
/// # Errors
/// [`Error::Partition`], [`Error::File`].
pub fn hold_pool(host: &Host, cpus: &CpuSet) -> Result<()> {
    let path = host.cgroup.join(POOL);
    if cpus.0.is_empty() {
        return remove_folder(&path).map_err(Error::file("remove", &path));
    }
    enable_cpuset(host)?;
    let list = cpus.list();
    if !path.exists() {
        make_folder(&path)?;
        return isolate(&path, &list);
    }
    // Measured on 6.12: in this order the partition stays valid throughout, and what it keeps is never the parent's for a moment.
    let held = CpuSet::parse(&read_text(&path.join("cpuset.cpus"))?)?;
    let (lists, exclusive) = (path.join("cpuset.cpus"), path.join("cpuset.cpus.exclusive"));
    if held.0.is_subset(&cpus.0) {
        write(&lists, &list)?;
        take_exclusively(&exclusive, &list)?;
    } else {
        take_exclusively(&exclusive, &list)?;
        write(&lists, &list)?;
    }
    check_isolated(&path)
}

fn enable_cpuset(host: &Host) -> Result<()> {
    let controllers = read_text(&host.cgroup.join("cgroup.controllers")).map_err(|_| {
        Error::Partition { reason: format!("{} is no cgroup v2 tree", host.cgroup.display()) }
    })?;
    if !controllers.split_whitespace().any(|name| name == "cpuset") {
        return Err(Error::Partition {
            reason: format!("{} has no cpuset controller", host.cgroup.display()),
        });
    }
    let control = host.cgroup.join("cgroup.subtree_control");
    if read_text(&control)?.split_whitespace().any(|name| name == "cpuset") {
        return Ok(());
    }
    write(&control, "+cpuset")
}

fn isolate(path: &Path, list: &str) -> Result<()> {
    write(&path.join("cpuset.cpus"), list)?;
    take_exclusively(&path.join("cpuset.cpus.exclusive"), list)?;
    write(&path.join("cpuset.cpus.partition"), "isolated")?;
    check_isolated(path)
}

/// The kernel answers EIO (older ones EBUSY or EINVAL) when a CPU is another partition's already.
fn take_exclusively(path: &Path, list: &str) -> Result<()> {
    fs::write(path, list).map_err(|error| match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::NotFound => Error::file("write", path)(error),
        _ => Error::Partition {
            reason: format!("the kernel refuses CPUs {list} for {} ({error})", path.display()),
        },
    })
}

/// The kernel accepts the word first and says afterwards whether it could: `isolated invalid (reason)`.
fn check_isolated(path: &Path) -> Result<()> {
    let state = read_text(&path.join("cpuset.cpus.partition"))?;
    if state == "isolated" {
        return Ok(());
    }
    Err(Error::Partition { reason: format!("the kernel calls {} '{state}'", path.display()) })
}

fn make_folder(path: &Path) -> Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(Error::file("create", path)(error))
        }
        _ => Ok(()),
    }
}

fn remove_folder(path: &Path) -> std::io::Result<()> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(Error::file("write", path))
}

#[cfg(test)]
pub(crate) mod fixture {
    //! A cgroup root of plain files. They take what is written, so a partition always comes out as asked.
    use super::super::Host;

    pub(crate) fn cgroup_root(host: &Host) {
        std::fs::create_dir_all(&host.cgroup).unwrap();
        std::fs::write(host.cgroup.join("cgroup.controllers"), "cpuset cpu pids\n").unwrap();
        std::fs::write(host.cgroup.join("cgroup.subtree_control"), "").unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(root: &Path) -> Host {
        Host { sys: root.join("sys"), cgroup: root.join("cg"), proc: root.join("proc") }
    }

    fn text(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn an_enclave_gets_a_threaded_isolated_child() {
        let folder = tempfile::tempdir().unwrap();
        let host = host(folder.path());
        fixture::cgroup_root(&host);
        let cgroup = EnclaveCgroup::of(&host, "i-1-enc2");
        cgroup.create(&host, &CpuSet::parse("2-3").unwrap()).unwrap();
        let path = host.cgroup.join("enclave-i-1-enc2");
        assert_eq!(text(&path.join("cpuset.cpus.exclusive")), "2-3");
        assert_eq!(text(&path.join("vcpus/cgroup.type")), "threaded");
        assert_eq!(text(&path.join("vcpus/cpuset.cpus.partition")), "isolated");
        assert_eq!(text(&host.cgroup.join("cgroup.subtree_control")), "+cpuset");
    }

    #[test]
    fn removing_what_is_not_there_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let host = host(folder.path());
        fixture::cgroup_root(&host);
        EnclaveCgroup::of(&host, "x").remove().unwrap();
        hold_pool(&host, &CpuSet::default()).unwrap();
    }

    #[test]
    fn a_tree_without_cpuset_is_one_clear_error() {
        let folder = tempfile::tempdir().unwrap();
        let host = host(folder.path());
        let cgroup = EnclaveCgroup::of(&host, "x");
        let error = cgroup.create(&host, &CpuSet::default()).unwrap_err();
        assert!(error.to_string().contains("no cgroup v2 tree"), "{error}");
        fixture::cgroup_root(&host);
        fs::write(host.cgroup.join("cgroup.controllers"), "cpu pids").unwrap();
        let error = cgroup.create(&host, &CpuSet::default()).unwrap_err();
        assert!(error.to_string().contains("no cpuset controller"), "{error}");
    }

    #[test]
    fn a_partition_the_kernel_refuses_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(
            folder.path().join("cpuset.cpus.partition"),
            "isolated invalid (Cpu list in use)\n",
        )
        .unwrap();
        let error = check_isolated(folder.path()).unwrap_err();
        assert!(error.to_string().contains("Cpu list in use"), "{error}");
        assert_eq!(error.code(), 24);
    }
}
