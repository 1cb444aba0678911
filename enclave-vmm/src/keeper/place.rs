//! An enclave's place on the machine: its folder with the lock that says it lives, its name and CID, its CPUs and pages. Taken before anything runs, given back after
//! everything has ended; what a killed keeper cannot give back is reclaimed from the same files.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;

use crate::error::{Error, Result};
use crate::history::{self, ExitRecord};
use crate::identity;
use crate::json_file;
use crate::launch::LaunchSpec;
use crate::registry::{
    self, CLAIM, CONTROL_SOCKET, Claim, ENCLAVE, EnclaveFile, LOCK, MEMORY_TAKEN,
};
use crate::resources::Host;
use crate::resources::cpu_partition::EnclaveCgroup;
use crate::resources::ledger::{Grant, Ledger, OpenLedger, Taken, remove_folder};

/// How long to wait while other enclaves take their memory.
const OTHERS_PATIENCE: Duration = Duration::from_secs(120);
/// Between looks at whether they are done.
const OTHERS_RETRY: Duration = Duration::from_millis(100);

/// The place.
#[derive(Debug)]
pub(super) struct Place {
    ledger: Ledger,
    /// Parent's id.
    pub(super) parent_id: String,
    /// `<run>/<id>`.
    pub(super) folder: PathBuf,
    /// What was handed out.
    pub(super) claim: Claim,
    _alive: Flock<File>,
}

impl Place {
    /// Takes one as `spec` wishes. `cancelled` is asked while waiting.
    ///
    /// # Errors
    /// Everything that can be wrong with names, CIDs, CPUs and memory; nothing is kept then.
    pub(super) fn take(
        spec: &LaunchSpec,
        host: Host,
        cancelled: impl Fn() -> bool,
    ) -> Result<Self> {
        if !geteuid().is_root() {
            return Err(Error::NotRoot { uid: geteuid().as_raw() });
        }
        let ledger =
            Ledger { host, run: spec.run_dir.clone(), history: spec.state_dir.join("history") };
        json_file::make_folder(&spec.state_dir, 0o755)?;
        let parent_id = identity::parent_id(Path::new("/etc/machine-id"), &spec.state_dir)?;

        let mut open = ledger.open()?;
        let (folder, mut claim, alive) = settle(&open, spec, &parent_id)?;
        let deadline = Instant::now() + OTHERS_PATIENCE;
        loop {
            match open.take(&folder, &mut claim, &spec.cpus) {
                Ok(Taken::Granted(_)) => break,
                Ok(Taken::Later) if Instant::now() < deadline && !cancelled() => {
                    drop(open);
                    sleep(OTHERS_RETRY);
                    open = ledger.open().inspect_err(|_| drop(remove_folder(&folder)))?;
                }
                Ok(Taken::Later) => {
                    remove_folder(&folder)?;
                    let peer = "Another enclave that takes its memory";
                    return Err(Error::Timeout { peer, seconds: OTHERS_PATIENCE.as_secs() });
                }
                Err(error) => {
                    remove_folder(&folder)?;
                    return Err(error);
                }
            }
        }
        drop(open);
        Ok(Self { ledger, parent_id, folder, claim, _alive: alive })
    }

    /// Its cgroup.
    pub(super) fn cgroup(&self) -> EnclaveCgroup {
        EnclaveCgroup::of(&self.ledger.host, &self.claim.id)
    }

    /// Its control socket.
    pub(super) fn control_socket(&self) -> PathBuf {
        self.folder.join(CONTROL_SOCKET)
    }

    /// Its description.
    pub(super) fn enclave_file(&self) -> PathBuf {
        self.folder.join(ENCLAVE)
    }

    /// From now on the kernel's counters speak for its memory.
    pub(super) fn memory_is_taken(&self) -> Result<()> {
        json_file::write_bytes(&self.folder.join(MEMORY_TAKEN), b"", 0o644)
    }

    /// Writes what `describe` needs.
    pub(super) fn describe(&self, file: &EnclaveFile) -> Result<()> {
        json_file::write(&self.enclave_file(), file, 0o644)
    }

    /// Gives everything back and leaves a record. Its processes have ended.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Partition`], [`Error::LockBusy`]; the next command tries again.
    pub(super) fn give_back(mut self, record: Option<&ExitRecord>) -> Result<()> {
        let open = self.ledger.open()?;
        open.give_back(&self.folder, &mut self.claim)?;
        let recorded = record.map_or(Ok(()), |record| history::write(&self.ledger.history, record));
        // The lock is let go after the folder is gone, so nobody takes this for a dead enclave's.
        remove_folder(&self.folder)?;
        recorded
    }
}

/// Name, CID, folder and lock.
fn settle(
    open: &OpenLedger<'_>,
    spec: &LaunchSpec,
    parent_id: &str,
) -> Result<(PathBuf, Claim, Flock<File>)> {
    let living = open.living()?;
    let names: Vec<String> = living.iter().map(|(_, claim)| claim.name.clone()).collect();
    let cids: Vec<(u32, String)> =
        living.iter().map(|(entry, claim)| (claim.cid, entry.id.clone())).collect();
    let id = identity::fresh_enclave_id(parent_id)?;
    let folder = spec.run_dir.join(&id);
    let vsock_path = match &spec.vsock_path {
        Some(path) if fs::symlink_metadata(path).is_ok() => {
            return Err(Error::SocketExists { path: path.clone() });
        }
        Some(path) => path.clone(),
        None => folder.join("vsock.sock"),
    };
    if let Some((entry, _)) = living.iter().find(|(_, claim)| claim.vsock_path == vsock_path) {
        return Err(Error::SocketTaken { path: vsock_path, holder: entry.id.clone() });
    }
    let claim = Claim {
        name: registry::unique_name(spec.name.as_deref(), &spec.eif_path, &names)?,
        cid: registry::assign_cid(spec.cid, &cids)?,
        eif_path: spec.eif_path.clone(),
        debug: spec.debug,
        keeper: std::process::id(),
        started: history::now(),
        memory_mib: spec.memory_mib.next_multiple_of(2),
        vsock_path,
        grant: Grant::default(),
        id,
    };
    json_file::make_folder(&folder, 0o755)?;
    let alive = come_alive(&folder)
        .and_then(|lock| {
            json_file::write(&folder.join(CLAIM), &claim, 0o644)?;
            Ok(lock)
        })
        .inspect_err(|_| drop(fs::remove_dir_all(&folder)))?;
    Ok((folder, claim, alive))
}

/// Takes the lock that says this enclave lives. A command that probes may hold it for a moment.
fn come_alive(folder: &Path) -> Result<Flock<File>> {
    let path = folder.join(LOCK);
    let mut file = File::create(&path).map_err(Error::file("create", &path))?;
    for _ in 0..200 {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, Errno::EWOULDBLOCK)) => file = back,
            Err((_, errno)) => return Err(Error::file("lock", &path)(errno.into())),
        }
        sleep(Duration::from_millis(10));
    }
    Err(Error::LockBusy { path, seconds: 2 })
}
