//! Handing out and putting back: names, CIDs, CPUs and pages of this machine, always under the flock `<run>/lock`. What is taken is written down
//! before it is taken, so that a kill at any moment leaves a record from which the next command puts everything back.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::Host;
use super::cpu_partition::{EnclaveCgroup, hold_pool};
use super::cpu_topology::{CpuRequest, CpuSet, CpuTopology};
use super::huge_pages::{HugePages, PAGE_MIB, pages_for};
use super::pool::Pool;
use crate::error::{Error, Result};
use crate::history::{self, ExitRecord, Reason};
use crate::json_file;
use crate::registry::{self, CLAIM, Claim, Entry};

/// How long to wait for another command that holds the run lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(60);

/// How often a busy lock is tried again.
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// What one enclave has taken from the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Whether taking was finished; false marks an interrupted one.
    pub complete: bool,
    /// Its CPUs, in vCPU order.
    pub cpus: Vec<u32>,
    /// Whether they, and the pages, are the pool's.
    pub from_pool: bool,
    /// 2 MiB pages it uses.
    pub pages: u64,
    /// The kernel's total before.
    pub pages_before: u64,
    /// By how much the kernel's total was raised for it.
    pub pages_added: u64,
}

/// This machine's books.
#[derive(Debug, Clone)]
pub struct Ledger {
    /// Roots of the machine's controls.
    pub host: Host,
    /// `<run>`.
    pub run: PathBuf,
    /// `<state>/history`.
    pub history: PathBuf,
}

/// The books while the run lock is held; everything that changes them is here.
#[derive(Debug)]
pub struct OpenLedger<'a> {
    ledger: &'a Ledger,
    _lock: Flock<File>,
}

/// Outcome of [`OpenLedger::take`].
#[derive(Debug)]
pub enum Taken {
    /// Done.
    Granted(Grant),
    /// Another enclave is taking its memory at this moment, and whether there is enough for both is known only then: close the books and
    /// try again.
    Later,
}

impl Ledger {
    /// Takes the run lock, makes the run folder if need be, and puts back what dead enclaves left.
    ///
    /// # Errors
    /// [`Error::LockBusy`], [`Error::File`].
    pub fn open(&self) -> Result<OpenLedger<'_>> {
        let open = self.open_as_is(LOCK_PATIENCE)?;
        open.reclaim()?;
        Ok(open)
    }

    /// Puts back what dead enclaves left, unless another command is at the books: then that one has done it. For commands that only look.
    ///
    /// # Errors
    /// As [`Ledger::open`], but a busy lock is none.
    pub fn reclaim_if_free(&self) -> Result<()> {
        let stale = registry::entries(&self.run)?.iter().any(|entry| !entry.live);
        if !stale {
            return Ok(());
        }
        match self.open_as_is(Duration::ZERO) {
            Ok(open) => open.reclaim(),
            Err(Error::LockBusy { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn open_as_is(&self, patience: Duration) -> Result<OpenLedger<'_>> {
        json_file::make_folder(&self.run, 0o755)?;
        let path = self.run.join("lock");
        let deadline = Instant::now() + patience;
        loop {
            let file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .map_err(Error::file("open", &path))?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(OpenLedger { ledger: self, _lock: lock }),
                Err((_, Errno::EWOULDBLOCK)) if Instant::now() < deadline => sleep(LOCK_RETRY),
                Err((_, Errno::EWOULDBLOCK)) => {
                    return Err(Error::LockBusy { path, seconds: patience.as_secs() });
                }
                Err((_, errno)) => return Err(Error::file("lock", &path)(errno.into())),
            }
        }
    }
}

impl OpenLedger<'_> {
    /// The living enclaves and what they hold.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Damaged`].
    pub fn living(&self) -> Result<Vec<(Entry, Claim)>> {
        let mut living = Vec::new();
        for entry in registry::entries(&self.ledger.run)? {
            if entry.live
                && let Some(claim) = entry.claim()?
            {
                living.push((entry, claim));
            }
        }
        Ok(living)
    }

    /// The pool, if there is one.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Damaged`].
    pub fn pool(&self) -> Result<Option<Pool>> {
        json_file::read(&self.pool_path())
    }

    pub(super) fn pool_path(&self) -> PathBuf {
        self.ledger.run.join("pool.json")
    }

    pub(super) fn host(&self) -> &Host {
        &self.ledger.host
    }

    /// CPUs an enclave could get now.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::CpuList`].
    pub fn free_cpus(&self, pool: Option<&Pool>) -> Result<BTreeSet<u32>> {
        let mut free = match pool {
            Some(pool) => pool.cpus.iter().copied().collect(),
            None => CpuTopology::read(self.host())?.grantable(),
        };
        for (_, claim) in self.living()? {
            for cpu in &claim.grant.cpus {
                free.remove(cpu);
            }
        }
        Ok(free)
    }

    /// Takes CPUs and pages for the enclave whose claim this is, writing the claim into `folder` first and again when all is there.
    ///
    /// # Errors
    /// The CPU, memory and file errors of [`Error`]; what had been taken by then is back.
    pub fn take(&self, folder: &Path, claim: &mut Claim, request: &CpuRequest) -> Result<Taken> {
        let pool = self.pool()?;
        let others: Vec<(Entry, Claim)> =
            self.living()?.into_iter().filter(|(entry, _)| entry.id != claim.id).collect();
        let free = self.free_cpus(pool.as_ref())?;
        let topology = CpuTopology::read(self.host())?;
        let cpus = topology.choose(request, &free)?;
        let huge_pages = HugePages::of(self.host())?;
        let counters = huge_pages.counters()?;
        let pages = pages_for(claim.memory_mib);
        let in_flight: u64 = others
            .iter()
            .filter(|(entry, _)| !entry.has_memory())
            .map(|(_, other)| other.grant.pages)
            .sum();
        match &pool {
            Some(pool) => {
                let used: u64 = others.iter().map(|(_, other)| other.grant.pages).sum();
                let left = pool.pages.saturating_sub(used);
                if left < pages {
                    return Err(Error::PoolMemory {
                        needed: claim.memory_mib,
                        available: left * PAGE_MIB,
                        total: pool.pages * PAGE_MIB,
                    });
                }
                if counters.available() < pages && in_flight == 0 {
                    let available = counters.available();
                    return Err(Error::HugePages { needed: pages, available });
                }
            }
            None if in_flight > 0 && counters.available() < pages.saturating_add(in_flight) => {
                return Ok(Taken::Later);
            }
            None => {}
        }

        claim.grant = Grant {
            complete: false,
            cpus,
            from_pool: pool.is_some(),
            pages,
            pages_before: counters.total,
            pages_added: 0,
        };
        json_file::write(&folder.join(CLAIM), claim, 0o644)?;
        let outcome = self.take_as_written(claim, pool.as_ref(), &huge_pages);
        match outcome {
            Ok(added) => {
                claim.grant.pages_added = added;
                claim.grant.complete = true;
                json_file::write(&folder.join(CLAIM), claim, 0o644)?;
                Ok(Taken::Granted(claim.grant.clone()))
            }
            Err(error) => {
                self.give_back(folder, claim)?;
                claim.grant = Grant::default();
                Err(error)
            }
        }
    }

    fn take_as_written(
        &self,
        claim: &Claim,
        pool: Option<&Pool>,
        huge_pages: &HugePages,
    ) -> Result<u64> {
        let cpus = CpuSet(claim.grant.cpus.iter().copied().collect());
        if let Some(pool) = pool {
            // The claim is in its folder already, so the pool's free CPUs are without these.
            hold_pool(self.host(), &CpuSet(self.free_cpus(Some(pool))?))?;
        }
        EnclaveCgroup::of(self.host(), &claim.id).create(self.host(), &cpus)?;
        if claim.grant.from_pool { Ok(0) } else { huge_pages.ensure(claim.grant.pages) }
    }

    /// Puts back what an enclave holds: its processes are killed if any are left, its CPUs and pages are the pool's or the parent's again. The claim in
    /// `folder` is kept in step, so doing it twice, or after a kill in the middle, does no harm.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Partition`].
    pub fn give_back(&self, folder: &Path, claim: &mut Claim) -> Result<()> {
        let host = self.host();
        EnclaveCgroup::of(host, &claim.id).remove()?;
        remove_socket(&claim.vsock_path)?;
        if claim.grant.from_pool {
            if let Some(pool) = self.pool()? {
                let mut free = self.free_cpus(Some(&pool))?;
                free.extend(claim.grant.cpus.iter().filter(|cpu| pool.cpus.contains(cpu)));
                hold_pool(host, &CpuSet(free))?;
            }
        } else if claim.grant.pages > 0 {
            let huge_pages = HugePages::of(host)?;
            if claim.grant.complete {
                // From "lower by" to "lower to", which can be repeated.
                let total = huge_pages.counters()?.total;
                claim.grant.pages_before = total.saturating_sub(claim.grant.pages_added);
                claim.grant.complete = false;
                // Somebody may have removed the run folder; what is held must go back all the same.
                if folder.is_dir() {
                    json_file::write(&folder.join(CLAIM), claim, 0o644)?;
                }
            }
            huge_pages.lower_to(claim.grant.pages_before)?;
        }
        Ok(())
    }

    /// Puts back what dead keepers could not, with a record of each. An interrupted change comes first (there is at most one, because every opening of the books
    /// ends it): it says what the kernel's total was, and that is true only while nobody else's pages have gone back.
    fn reclaim(&self) -> Result<()> {
        let mut dead = registry::entries(&self.ledger.run)?;
        dead.retain(|entry| !entry.live);
        dead.sort_by_key(|entry| entry.claim().is_ok_and(is_whole));
        let interrupted = dead.partition_point(|entry| !entry.claim().is_ok_and(is_whole));
        let (first, rest) = dead.split_at(interrupted);
        first.iter().try_for_each(|entry| self.reclaim_one(entry))?;
        self.finish_pool_change()?;
        rest.iter().try_for_each(|entry| self.reclaim_one(entry))
    }

    fn reclaim_one(&self, entry: &Entry) -> Result<()> {
        // A damaged claim must not stop every later command; its cgroup is found by name, only pages it added cannot be known.
        let mut claim = entry.claim().ok().flatten();
        match &mut claim {
            Some(claim) => self.give_back(&entry.folder, claim)?,
            None => EnclaveCgroup::of(self.host(), &entry.id).remove()?,
        }
        // Without the description it never ran, and there is nothing to tell about it.
        if let (Some(claim), Ok(Some(file))) = (claim, entry.file()) {
            let record = ExitRecord {
                measurements: Some(file.description.measurements),
                ..record_of(&claim, Reason::KeeperDied, "its keeper was killed")
            };
            history::write(&self.ledger.history, &record)?;
        }
        remove_folder(&entry.folder)
    }
}

/// Whether everything in a claim was taken, and nothing given back yet.
fn is_whole(claim: Option<Claim>) -> bool {
    claim.is_some_and(|claim| claim.grant.complete)
}

/// Removes the socket that a killed vmm leaves outside its folder.
fn remove_socket(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {
            fs::remove_file(path).map_err(Error::file("remove", path))
        }
        _ => Ok(()),
    }
}

/// A record with what the claim knows.
#[must_use]
pub fn record_of(claim: &Claim, reason: Reason, detail: &str) -> ExitRecord {
    ExitRecord {
        enclave_name: claim.name.clone(),
        enclave_id: claim.id.clone(),
        enclave_cid: claim.cid,
        memory_mib: claim.memory_mib,
        cpu_ids: claim.grant.cpus.clone(),
        eif_path: claim.eif_path.clone(),
        debug_mode: claim.debug,
        measurements: None,
        started: claim.started.clone(),
        ended: history::now(),
        reason,
        detail: detail.to_owned(),
        exit_code: None,
        signal: None,
        console_tail: None,
    }
}

/// Removes an enclave's folder; one that is gone already is no error.
///
/// # Errors
/// [`Error::File`].
pub fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::file("remove", folder)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod fixture {
    //! A machine of four CPUs and some pages, with cgroups, in a temporary folder.
    use super::super::{cpu_partition, cpu_topology, huge_pages};
    use super::*;

    pub(crate) fn ledger(root: &Path) -> Ledger {
        let host = cpu_topology::fixture::machine(root, "0-3", &[]);
        cpu_partition::fixture::cgroup_root(&host);
        huge_pages::fixture::pages(&host, 100, 100, 0);
        Ledger { host, run: root.join("run"), history: root.join("history") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::fixture::{claim, folder, hold};

    const A: &str = "i-0123456789abcdef0-enc000000000000000a";
    const B: &str = "i-0123456789abcdef0-enc000000000000000b";

    fn total(ledger: &Ledger) -> u64 {
        HugePages::of(&ledger.host).unwrap().counters().unwrap().total
    }

    fn start(ledger: &Ledger, id: &str, cid: u32, memory: u64) -> (PathBuf, Flock<File>, Claim) {
        let mut claim = claim(id, "x", cid, Grant::default());
        claim.memory_mib = memory;
        let path = folder(&ledger.run, &claim);
        let lock = hold(&path);
        (path, lock, claim)
    }

    #[test]
    fn two_enclaves_get_different_cpus_and_the_third_none() {
        let root = tempfile::tempdir().unwrap();
        let ledger = fixture::ledger(root.path());
        let (folder_a, _lock_a, mut a) = start(&ledger, A, 16, 64);
        let (folder_b, _lock_b, mut b) = start(&ledger, B, 17, 64);
        let open = ledger.open().unwrap();
        let taken = open.take(&folder_a, &mut a, &CpuRequest::Count(2)).unwrap();
        assert!(matches!(taken, Taken::Granted(grant) if grant.cpus == [1, 2] && grant.complete));
        let error = open.take(&folder_b, &mut b, &CpuRequest::Count(2)).unwrap_err();
        assert!(matches!(error, Error::CpuCount { wanted: 2, available: 1 }), "{error}");
        let error = open.take(&folder_b, &mut b, &CpuRequest::Ids(vec![2])).unwrap_err();
        assert!(matches!(error, Error::CpuUnavailable { cpu: 2, .. }));
        let taken = open.take(&folder_b, &mut b, &CpuRequest::Ids(vec![3])).unwrap();
        assert!(matches!(taken, Taken::Granted(_)));
    }

    #[test]
    fn a_second_start_waits_while_the_first_takes_its_memory() {
        let root = tempfile::tempdir().unwrap();
        let ledger = fixture::ledger(root.path());
        let (folder_a, _lock_a, mut a) = start(&ledger, A, 16, 120);
        let (folder_b, _lock_b, mut b) = start(&ledger, B, 17, 120);
        let open = ledger.open().unwrap();
        open.take(&folder_a, &mut a, &CpuRequest::Count(1)).unwrap();
        let taken = open.take(&folder_b, &mut b, &CpuRequest::Count(1)).unwrap();
        assert!(matches!(taken, Taken::Later));
        fs::write(folder_a.join(registry::MEMORY_TAKEN), "").unwrap();
        let taken = open.take(&folder_b, &mut b, &CpuRequest::Count(1)).unwrap();
        assert!(matches!(taken, Taken::Granted(_)));
    }

    #[test]
    fn too_few_pages_put_the_cpus_back() {
        let root = tempfile::tempdir().unwrap();
        let ledger = fixture::ledger(root.path());
        let (folder_a, _lock, mut a) = start(&ledger, A, 16, 4096);
        let open = ledger.open().unwrap();
        // The plain files of the fixture stay in the way of rmdir; the error shows that removal was tried.
        let error = open.take(&folder_a, &mut a, &CpuRequest::Count(1)).unwrap_err();
        assert!(matches!(error, Error::HugePages { .. } | Error::File { action: "remove", .. }));
        assert_eq!(total(&ledger), 100);
    }

    #[test]
    fn a_dead_keepers_things_are_put_back_once() {
        let root = tempfile::tempdir().unwrap();
        let ledger = fixture::ledger(root.path());
        let grant = Grant {
            complete: true,
            cpus: vec![2],
            pages: 60,
            pages_before: 70,
            pages_added: 30,
            ..Grant::default()
        };
        let path = folder(&ledger.run, &claim(A, "x", 16, grant));
        let file = registry::EnclaveFile {
            description: crate::description::example(A, "x", 16),
            vsock_path: "/x".into(),
            owner: 0,
        };
        json_file::write(&path.join(registry::ENCLAVE), &file, 0o644).unwrap();
        ledger.reclaim_if_free().unwrap();
        ledger.open().unwrap();
        assert_eq!(total(&ledger), 70);
        assert!(!path.exists());
        let record = history::of(&ledger.history, A).unwrap().unwrap();
        assert_eq!(record.reason, Reason::KeeperDied);
    }

    #[test]
    fn an_interrupted_taking_is_undone() {
        let root = tempfile::tempdir().unwrap();
        let ledger = fixture::ledger(root.path());
        let grant = Grant { pages: 60, pages_before: 70, ..Grant::default() };
        let path = folder(&ledger.run, &claim(A, "x", 16, grant));
        ledger.open().unwrap();
        assert_eq!(total(&ledger), 70);
        assert!(!path.exists());
        assert_eq!(history::of(&ledger.history, A).unwrap(), None);
    }

    #[test]
    fn an_interrupted_taking_is_undone_before_others_give_back() {
        let root = tempfile::tempdir().unwrap();
        let ledger = fixture::ledger(root.path());
        // A has raised the total from 10 to 80; B was killed while it raised it from 80 to 120, and got to 100.
        let whole = Grant {
            complete: true,
            pages: 70,
            pages_before: 10,
            pages_added: 70,
            ..Grant::default()
        };
        let half = Grant { pages: 40, pages_before: 80, ..Grant::default() };
        folder(&ledger.run, &claim(A, "a", 16, whole));
        folder(&ledger.run, &claim(B, "b", 17, half));
        ledger.open().unwrap();
        assert_eq!(total(&ledger), 10);
    }

    #[test]
    fn a_damaged_claim_does_not_stop_later_commands() {
        let root = tempfile::tempdir().unwrap();
        let ledger = fixture::ledger(root.path());
        let path = folder(&ledger.run, &claim(A, "x", 16, Grant::default()));
        fs::write(path.join(CLAIM), "{").unwrap();
        ledger.open().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn the_books_are_open_to_one_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let ledger = fixture::ledger(root.path());
        let open = ledger.open().unwrap();
        let busy = ledger.open_as_is(Duration::from_millis(50)).unwrap_err();
        assert!(matches!(busy, Error::LockBusy { .. }));
        drop(open);
        ledger.open().unwrap();
    }
}
