//! Which enclaves there are: the folders `<run>/<id>/`. An enclave lives as long as its keeper holds the flock on the folder's `lock`; the
//! kernel drops that lock however the keeper dies, so a free lock means a dead enclave, and whoever next takes the run lock puts its things back.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::description::EnclaveDescription;
use crate::error::{Error, Result};
use crate::identity::is_enclave_id;
use crate::json_file;
use crate::resources::ledger::Grant;

/// What a keeper has been handed, written before it is taken: name, CID, CPUs, pages. In `claim.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Enclave id.
    pub id: String,
    /// Unique among those living.
    pub name: String,
    /// vsock address.
    pub cid: u32,
    /// The image's path, for people.
    pub eif_path: String,
    /// Debug mode.
    pub debug: bool,
    /// Keeper's process id.
    pub keeper: u32,
    /// RFC 3339.
    pub started: String,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// The vsock socket its vmm makes. Nothing was there before, so a socket found there is its own.
    pub vsock_path: PathBuf,
    /// CPUs and pages.
    pub grant: Grant,
}

/// What `describe` needs, written once the enclave runs. In `enclave.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnclaveFile {
    /// As printed; `State` is what it was at the start.
    pub description: EnclaveDescription,
    /// The vsock socket of the parent's applications.
    pub vsock_path: PathBuf,
    /// Who started it, Unix user id.
    pub owner: u32,
}

/// One enclave's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Enclave id, the folder's name.
    pub id: String,
    /// The folder.
    pub folder: PathBuf,
    /// Whether its keeper lives.
    pub live: bool,
}

impl Entry {
    /// What it has been handed; `None` if its keeper died before writing that.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Damaged`].
    pub fn claim(&self) -> Result<Option<Claim>> {
        json_file::read(&self.folder.join(CLAIM))
    }

    /// What describes it; `None` while it starts.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Damaged`].
    pub fn file(&self) -> Result<Option<EnclaveFile>> {
        json_file::read(&self.folder.join(ENCLAVE))
    }

    /// Its control socket.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.folder.join(CONTROL_SOCKET)
    }

    /// Whether its memory is there already, so that the kernel's counters speak for it.
    #[must_use]
    pub fn has_memory(&self) -> bool {
        self.folder.join(MEMORY_TAKEN).exists()
    }
}

/// File names in an enclave's folder.
pub(crate) const CLAIM: &str = "claim.json";
pub(crate) const ENCLAVE: &str = "enclave.json";
pub(crate) const LOCK: &str = "lock";
pub(crate) const CONTROL_SOCKET: &str = "control.sock";
pub(crate) const MEMORY_TAKEN: &str = "memory-taken";

/// The enclaves below a run folder, living and dead, by id.
///
/// # Errors
/// [`Error::File`]. No run folder means no enclaves.
pub fn entries(run: &Path) -> Result<Vec<Entry>> {
    let folders = match fs::read_dir(run) {
        Ok(folders) => folders,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::file("list", run)(error)),
    };
    let mut found = Vec::new();
    for folder in folders {
        let folder = folder.map_err(Error::file("list", run))?;
        let Ok(id) = folder.file_name().into_string() else { continue };
        if is_enclave_id(&id) {
            let path = folder.path();
            let live = is_held(&path.join(LOCK));
            found.push(Entry { id, folder: path, live });
        }
    }
    found.sort_by(|one, other| one.id.cmp(&other.id));
    Ok(found)
}

/// Finds a living enclave by id or, failing that, by name.
///
/// # Errors
/// [`Error::NoSuchEnclave`], [`Error::File`].
pub fn find(run: &Path, id_or_name: &str) -> Result<Entry> {
    let living: Vec<Entry> = entries(run)?.into_iter().filter(|entry| entry.live).collect();
    if let Some(entry) = living.iter().find(|entry| entry.id == id_or_name) {
        return Ok(entry.clone());
    }
    for entry in living {
        if entry.claim()?.is_some_and(|claim| claim.name == id_or_name) {
            return Ok(entry);
        }
    }
    Err(Error::NoSuchEnclave { what: id_or_name.escape_debug().to_string() })
}

fn is_held(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_probe) => false,
        Err((_, errno)) => errno == nix::errno::Errno::EWOULDBLOCK,
    }
}

/// The longest name, bytes.
const MAX_NAME: usize = 128;

/// The name an enclave gets: `wished` (or the image's file name without `.eif`), with `_1`, `_2`, … if it is taken.
///
/// # Errors
/// [`Error::Name`] for one that is empty, too long, or would not print.
pub fn unique_name(wished: Option<&str>, eif_path: &str, taken: &[String]) -> Result<String> {
    let from_file = || {
        let name = Path::new(eif_path).file_name().and_then(|name| name.to_str()).unwrap_or("");
        name.strip_suffix(".eif").unwrap_or(name)
    };
    let base = match wished {
        Some(name) => name,
        None => match from_file() {
            "" => "enclave",
            name => name,
        },
    };
    let bad = |reason| Error::Name { name: base.escape_debug().to_string(), reason };
    if base.is_empty() {
        return Err(bad("it is empty"));
    }
    if base.len() > MAX_NAME {
        return Err(bad("it has more than 128 bytes"));
    }
    if base.chars().any(char::is_control) {
        return Err(bad("it has control characters"));
    }
    let mut name = base.to_owned();
    // One more candidate than there are names taken always has a free one among them.
    for number in 1..=taken.len() + 1 {
        if !taken.contains(&name) {
            break;
        }
        name = format!("{base}_{number}");
    }
    Ok(name)
}

/// Lowest CID given out on its own, as seen on AWS.
const FIRST_AUTOMATIC_CID: u32 = 16;

/// The CID an enclave gets: the one wished for, or the lowest free one from 16. `taken` are CIDs and whose they are.
///
/// # Errors
/// [`Error::CidReserved`], [`Error::CidTaken`].
pub fn assign_cid(wished: Option<u64>, taken: &[(u32, String)]) -> Result<u32> {
    // 0 is nitro-cli's way to say "any".
    let Some(wished) = wished.filter(|cid| *cid != 0) else {
        let mut cid = FIRST_AUTOMATIC_CID;
        while taken.iter().any(|(other, _)| *other == cid) {
            cid += 1;
        }
        return Ok(cid);
    };
    let cid =
        guest_abi::Cid::try_from(wished).map_err(|_| Error::CidReserved { cid: wished })?.get();
    match taken.iter().find(|(other, _)| *other == cid) {
        Some((_, holder)) => Err(Error::CidTaken { cid, holder: holder.clone() }),
        None => Ok(cid),
    }
}

#[cfg(test)]
pub(crate) mod fixture {
    //! A folder as a keeper makes it.
    use super::*;

    pub(crate) fn claim(id: &str, name: &str, cid: u32, grant: Grant) -> Claim {
        Claim {
            id: id.to_owned(),
            name: name.to_owned(),
            cid,
            eif_path: "/x/hello.eif".to_owned(),
            debug: false,
            keeper: 77,
            started: "2026-01-01T00:00:00Z".to_owned(),
            memory_mib: grant.pages * 2,
            vsock_path: PathBuf::from(format!("/nonexistent/{id}.sock")),
            grant,
        }
    }

    pub(crate) fn folder(run: &Path, claim: &Claim) -> PathBuf {
        let folder = run.join(&claim.id);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(LOCK), "").unwrap();
        json_file::write(&folder.join(CLAIM), claim, 0o644).unwrap();
        folder
    }

    pub(crate) fn hold(folder: &Path) -> Flock<File> {
        let file = File::open(folder.join(LOCK)).unwrap();
        Flock::lock(file, FlockArg::LockExclusiveNonblock).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "i-0123456789abcdef0-enc000000000000000a";
    const B: &str = "i-0123456789abcdef0-enc000000000000000b";

    #[test]
    fn a_held_lock_is_life() {
        let run = tempfile::tempdir().unwrap();
        let a = fixture::folder(run.path(), &fixture::claim(A, "one", 16, Grant::default()));
        fixture::folder(run.path(), &fixture::claim(B, "two", 17, Grant::default()));
        fs::create_dir(run.path().join("other")).unwrap();
        let held = fixture::hold(&a);
        let states: Vec<bool> =
            entries(run.path()).unwrap().into_iter().map(|entry| entry.live).collect();
        assert_eq!(states, [true, false]);
        assert_eq!(find(run.path(), "one").unwrap().id, A);
        assert_eq!(find(run.path(), A).unwrap().id, A);
        assert!(matches!(find(run.path(), "two"), Err(Error::NoSuchEnclave { .. })));
        drop(held);
        assert!(find(run.path(), "one").is_err());
        assert_eq!(entries(&run.path().join("nowhere")).unwrap(), []);
    }

    #[test]
    fn names_are_made_unique_as_nitro_cli_does() {
        let taken =
            |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(unique_name(None, "/a/b/hello.eif", &[]).unwrap(), "hello");
        assert_eq!(unique_name(Some("x"), "y.eif", &taken(&["x"])).unwrap(), "x_1");
        assert_eq!(unique_name(Some("x"), "", &taken(&["x", "x_1"])).unwrap(), "x_2");
        assert_eq!(unique_name(Some("x"), "", &taken(&["x", "x_2"])).unwrap(), "x_1");
        for bad in ["", "a\nb", "\u{1b}[2J", &"x".repeat(129)] {
            assert_eq!(unique_name(Some(bad), "", &[]).unwrap_err().code(), 58);
        }
    }

    #[test]
    fn cids_start_at_16_and_reserved_ones_are_refused() {
        let taken = [(16, A.to_owned()), (18, B.to_owned())];
        assert_eq!(assign_cid(None, &taken).unwrap(), 17);
        assert_eq!(assign_cid(Some(0), &[]).unwrap(), 16);
        assert_eq!(assign_cid(Some(5), &taken).unwrap(), 5);
        for reserved in [1, 2, 3, 0xffff_ffff, 0x1_0000_0010] {
            assert_eq!(assign_cid(Some(reserved), &[]).unwrap_err().code(), 3);
        }
        let error = assign_cid(Some(18), &taken).unwrap_err();
        assert!(error.to_string().contains(B), "{error}");
        assert_eq!(error.code(), 3);
    }
}
