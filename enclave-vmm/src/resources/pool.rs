//! The pool: CPUs and huge pages set aside for enclaves by `allocator apply` until `allocator release`. Enclaves take from it and give back to it; it is
//! changed only while no enclave runs, as on AWS. Its book is `<run>/pool.json`, which goes with the partition at a reboot.

use std::collections::BTreeSet;
use std::fs;

use serde::{Deserialize, Serialize};

use super::allocator_file::PoolRequest;
use super::cpu_partition::hold_pool;
use super::cpu_topology::{CpuRequest, CpuSet, CpuTopology};
use super::huge_pages::{HugePages, PAGE_MIB, pages_for};
use super::ledger::OpenLedger;
use crate::error::{Error, Result};
use crate::json_file;

/// What the pool holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Whether making it was finished; false marks an interrupted one.
    pub complete: bool,
    /// Its CPUs, lent ones included.
    pub cpus: Vec<u32>,
    /// Its 2 MiB pages, lent ones included.
    pub pages: u64,
    /// The kernel's total before.
    pub pages_before: u64,
    /// By how much the kernel's total was raised for it.
    pub pages_added: u64,
}

/// What `allocator status` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PoolStatus {
    /// Whether there is a pool; without, the numbers are what enclaves could take from the machine now.
    pub applied: bool,
    /// CPUs of the pool.
    #[serde(rename = "CPUIDs")]
    pub cpu_ids: Vec<u32>,
    /// Of these, not in an enclave.
    #[serde(rename = "FreeCPUIDs")]
    pub free_cpu_ids: Vec<u32>,
    /// Memory of the pool, MiB.
    #[serde(rename = "MemoryMiB")]
    pub memory_mib: u64,
    /// Of this, not in an enclave, MiB.
    #[serde(rename = "FreeMemoryMiB")]
    pub free_memory_mib: u64,
    /// Ids of the enclaves that run.
    pub enclaves: Vec<String>,
}

impl OpenLedger<'_> {
    /// Makes a pool, or one of another size in place of the one there is.
    ///
    /// # Errors
    /// [`Error::PoolInUse`] while enclaves run, the CPU and memory errors; the pool is as before then.
    pub fn apply_pool(&self, request: &PoolRequest) -> Result<Pool> {
        self.refuse_while_enclaves_run()?;
        if request.memory_mib == 0 {
            return Err(Error::MemorySize { mib: 0 });
        }
        let before = self.pool()?;
        self.drop_pool()?;
        self.make_pool(request).inspect_err(|_| {
            if let Some(pool) = before {
                let cpus = CpuRequest::Ids(pool.cpus);
                let as_before = PoolRequest { memory_mib: pool.pages * PAGE_MIB, cpus };
                // What has just been given back can be taken again, or the first error tells why not.
                let _ = self.make_pool(&as_before);
            }
        })
    }

    fn make_pool(&self, request: &PoolRequest) -> Result<Pool> {
        let topology = CpuTopology::read(self.host())?;
        let cpus = topology.choose(&request.cpus, &topology.grantable())?;
        let huge_pages = HugePages::of(self.host())?;
        let mut pool = Pool {
            complete: false,
            cpus,
            pages: pages_for(request.memory_mib),
            pages_before: huge_pages.counters()?.total,
            pages_added: 0,
        };
        json_file::write(&self.pool_path(), &pool, 0o644)?;
        let set = CpuSet(pool.cpus.iter().copied().collect());
        match huge_pages
            .ensure(pool.pages)
            .and_then(|added| hold_pool(self.host(), &set).map(|()| added))
        {
            Ok(added) => {
                pool.pages_added = added;
                pool.complete = true;
                json_file::write(&self.pool_path(), &pool, 0o644)?;
                Ok(pool)
            }
            Err(error) => {
                self.drop_pool()?;
                Err(error)
            }
        }
    }

    /// Gives the pool back to the parent.
    ///
    /// # Errors
    /// [`Error::NoPool`], [`Error::PoolInUse`] while enclaves run, [`Error::File`].
    pub fn release_pool(&self) -> Result<Pool> {
        let pool = self.pool()?.ok_or(Error::NoPool)?;
        self.refuse_while_enclaves_run()?;
        self.drop_pool()?;
        Ok(pool)
    }

    /// What there is.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Damaged`].
    pub fn pool_status(&self) -> Result<PoolStatus> {
        let pool = self.pool()?;
        let living = self.living()?;
        let free: BTreeSet<u32> = self.free_cpus(pool.as_ref())?;
        let used: u64 = living.iter().map(|(_, claim)| claim.grant.pages).sum();
        let (cpu_ids, pages, free_pages) = match &pool {
            Some(pool) => (pool.cpus.clone(), pool.pages, pool.pages.saturating_sub(used)),
            None => {
                let available = HugePages::of(self.host())
                    .and_then(|pages| pages.counters())
                    .map_or(0, |counters| counters.available());
                (free.iter().copied().collect(), available, available)
            }
        };
        Ok(PoolStatus {
            applied: pool.is_some(),
            cpu_ids,
            free_cpu_ids: free.into_iter().collect(),
            memory_mib: pages * PAGE_MIB,
            free_memory_mib: free_pages * PAGE_MIB,
            enclaves: living.into_iter().map(|(entry, _)| entry.id).collect(),
        })
    }

    /// Undoes an interrupted `apply`, so that the pool is whole or not there.
    pub(super) fn finish_pool_change(&self) -> Result<()> {
        match self.pool()? {
            Some(pool) if !pool.complete => self.drop_pool(),
            _ => Ok(()),
        }
    }

    fn refuse_while_enclaves_run(&self) -> Result<()> {
        let ids: Vec<String> = self.living()?.into_iter().map(|(entry, _)| entry.id).collect();
        if ids.is_empty() { Ok(()) } else { Err(Error::PoolInUse { count: ids.len(), ids }) }
    }

    fn drop_pool(&self) -> Result<()> {
        let Some(pool) = self.pool()? else { return Ok(()) };
        hold_pool(self.host(), &CpuSet::default())?;
        let huge_pages = HugePages::of(self.host())?;
        if pool.complete {
            // Half-released is told from whole by the flag, so that a kill here does not give the same pages back twice.
            let undoing = Pool {
                complete: false,
                pages_before: huge_pages.counters()?.total.saturating_sub(pool.pages_added),
                ..pool
            };
            json_file::write(&self.pool_path(), &undoing, 0o644)?;
            huge_pages.lower_to(undoing.pages_before)?;
        } else {
            huge_pages.lower_to(pool.pages_before)?;
        }
        let path = self.pool_path();
        fs::remove_file(&path).map_err(Error::file("remove", &path))
    }
}

#[cfg(test)]
mod tests {
    use super::super::ledger::{Grant, fixture};
    use super::*;
    use crate::registry::fixture::{claim, folder, hold};

    const A: &str = "i-0123456789abcdef0-enc000000000000000a";

    fn request(memory_mib: u64, count: usize) -> PoolRequest {
        PoolRequest { memory_mib, cpus: CpuRequest::Count(count) }
    }

    fn empty_pool_cgroup(ledger: &super::super::ledger::Ledger) {
        for entry in fs::read_dir(ledger.host.cgroup.join("enclave-pool")).unwrap().flatten() {
            fs::remove_file(entry.path()).unwrap();
        }
    }

    #[test]
    fn a_pool_is_made_seen_and_released() {
        let root = tempfile::tempdir().unwrap();
        let ledger = fixture::ledger(root.path());
        let open = ledger.open().unwrap();
        assert!(!open.pool_status().unwrap().applied);
        assert!(matches!(open.release_pool(), Err(Error::NoPool)));
        open.apply_pool(&request(100, 2)).unwrap();
        let status = open.pool_status().unwrap();
        assert!(status.applied);
        assert_eq!((status.cpu_ids, status.memory_mib), (vec![1, 2], 100));
        let partition = ledger.host.cgroup.join("enclave-pool/cpuset.cpus");
        assert_eq!(fs::read_to_string(partition).unwrap(), "1-2");
        empty_pool_cgroup(&ledger);
        let before = open.pool().unwrap();
        let error = open.apply_pool(&request(1 << 30, 1)).unwrap_err();
        assert!(matches!(error, Error::HugePages { .. }));
        assert_eq!(open.pool().unwrap(), before, "a failed change leaves the old pool");
        empty_pool_cgroup(&ledger);
        open.release_pool().unwrap();
        assert_eq!(open.pool().unwrap(), None);
    }

    #[test]
    fn a_pool_in_use_is_left_alone_and_lends_only_what_it_has() {
        let root = tempfile::tempdir().unwrap();
        let ledger = fixture::ledger(root.path());
        let open = ledger.open().unwrap();
        open.apply_pool(&request(100, 2)).unwrap();
        let mut a = claim(A, "x", 16, Grant::default());
        a.memory_mib = 60;
        let path = folder(&ledger.run, &a);
        let _lock = hold(&path);
        open.take(&path, &mut a, &CpuRequest::Count(1)).unwrap();
        assert!(a.grant.from_pool && a.grant.pages_added == 0);
        let held = ledger.host.cgroup.join("enclave-pool/cpuset.cpus");
        assert_eq!(fs::read_to_string(held).unwrap(), "2");
        assert!(matches!(open.release_pool(), Err(Error::PoolInUse { count: 1, .. })));
        assert!(matches!(open.apply_pool(&request(10, 1)), Err(Error::PoolInUse { .. })));
        let status = open.pool_status().unwrap();
        assert_eq!((status.free_cpu_ids, status.free_memory_mib), (vec![2], 40));

        let mut b = claim("i-0123456789abcdef0-enc000000000000000b", "y", 17, Grant::default());
        b.memory_mib = 60;
        let error = open.take(&path, &mut b, &CpuRequest::Count(1)).unwrap_err();
        assert!(matches!(error, Error::PoolMemory { needed: 60, available: 40, total: 100 }));
        b.memory_mib = 10;
        let error = open.take(&path, &mut b, &CpuRequest::Ids(vec![3])).unwrap_err();
        assert!(matches!(error, Error::CpuUnavailable { cpu: 3, .. }));
    }

    #[test]
    fn an_interrupted_apply_is_undone() {
        let root = tempfile::tempdir().unwrap();
        let ledger = fixture::ledger(root.path());
        fs::create_dir_all(&ledger.run).unwrap();
        let half =
            Pool { complete: false, cpus: vec![1], pages: 50, pages_before: 60, pages_added: 0 };
        json_file::write(&ledger.run.join("pool.json"), &half, 0o644).unwrap();
        let open = ledger.open().unwrap();
        assert_eq!(open.pool().unwrap(), None);
        let counters = HugePages::of(&ledger.host).unwrap().counters().unwrap();
        assert_eq!(counters.total, 60);
    }
}
