//! The authority on disk: `<state>/pki`, made at first run, one for each Unix user. Root, regional, zonal and instance keys live here and nowhere else; what a
//! leaf needs is issued under a file lock and only certificates leave. Changes are staged beside the files and moved in when complete, so a kill at any
//! moment leaves the old set or the new one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use attestation::{Authority, Certificate, Identity, LeafChain, Lifetimes};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use ring::rand::{SecureRandom, SystemRandom};

use crate::error::{Error, Result};
use crate::json_file;

/// How long to wait for another process that issues, unless told otherwise.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);

/// Largest file read, bytes; a key or certificate has about one thousand.
const MAX_FILE: u64 = 64 * 1024;

/// Files written but not complete.
const UNFINISHED: &str = "next.tmp";
/// Files complete but not all moved in.
const STAGED: &str = "next";

/// The folder.
#[derive(Debug, Clone)]
pub struct AuthorityFolder {
    path: PathBuf,
    identity: Identity,
    lifetimes: Lifetimes,
    patience: Duration,
}

/// A leaf's certificates and when to get new ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedLeaf {
    /// What documents carry.
    pub chain: LeafChain,
    /// Unix seconds: from here on, or if the clock goes before `not_before`, ask again.
    pub renew_at: i64,
    /// Unix seconds.
    pub not_before: i64,
}

impl IssuedLeaf {
    /// Whether it has aged (or the clock has been set back before its life).
    #[must_use]
    pub fn needs_renewal(&self, now: i64) -> bool {
        now >= self.renew_at || now < self.not_before
    }
}

impl AuthorityFolder {
    /// The folder at `path` for the parent `parent_id`. Nothing is touched yet.
    #[must_use]
    pub fn new(path: &Path, parent_id: &str) -> Self {
        let identity = Identity { host: host_name(), parent_id: parent_id.to_owned() };
        Self {
            path: path.to_owned(),
            identity,
            lifetimes: Lifetimes::default(),
            patience: LOCK_PATIENCE,
        }
    }

    /// From now on waits so long at most for another process that issues.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Issues the certificates of a leaf key (DER SubjectPublicKeyInfo) for the enclave `module_id`. Makes the authority if there is none, renews what has aged.
    ///
    /// # Errors
    /// [`Error::LoosePermissions`], [`Error::Authority`], [`Error::File`], [`Error::LockBusy`].
    pub fn issue_leaf(&self, public_key: &[u8], module_id: &str) -> Result<IssuedLeaf> {
        self.issue_leaf_at(public_key, module_id, now_seconds())
    }

    fn issue_leaf_at(&self, public_key: &[u8], module_id: &str, now: i64) -> Result<IssuedLeaf> {
        let _lock = self.lock()?;
        let authority = self.current(now)?;
        // The slot is the last part of the id, `…-enc<16 hex>`.
        let slot = module_id
            .rsplit_once("-enc")
            .and_then(|(_, hex)| u64::from_str_radix(hex, 16).ok())
            .unwrap_or(0);
        let chain = authority
            .issue_leaf(public_key, module_id, slot, now)
            .map_err(failed("leaf certificate"))?;
        let leaf = chain.leaf_certificate().map_err(failed("leaf certificate"))?;
        Ok(IssuedLeaf { renew_at: leaf.renew_at(), not_before: leaf.not_before(), chain })
    }

    /// The root certificate, for `--root local`. Makes the authority if there is none.
    ///
    /// # Errors
    /// As [`AuthorityFolder::issue_leaf`].
    pub fn root(&self) -> Result<Certificate> {
        let _lock = self.lock()?;
        Ok(self.current(now_seconds())?.root().clone())
    }

    /// Reads the authority, or makes it, or renews what is due. The lock is held.
    fn current(&self, now: i64) -> Result<Authority> {
        self.finish_interrupted_change()?;
        let random = SystemRandom::new();
        let mut starved = false;
        let mut fill = |out: &mut [u8]| starved |= random.fill(out).is_err();
        let (authority, changed) = match self.read()? {
            Some(files) => {
                let mut authority = Authority::from_files(&files, &self.lifetimes)
                    .map_err(failed("authority from its files"))?;
                let renewed = authority
                    .renew(&self.identity, now, &mut fill)
                    .map_err(failed("certificates of the authority"))?;
                (authority, !renewed.is_empty())
            }
            None => {
                let made = Authority::create(&self.identity, &self.lifetimes, now, &mut fill);
                (made.map_err(failed("authority"))?, true)
            }
        };
        if starved {
            let source = std::io::ErrorKind::Other.into();
            return Err(Error::System { action: "get random bytes", source });
        }
        if changed {
            self.write(&authority)?;
        }
        Ok(authority)
    }

    fn lock(&self) -> Result<Flock<File>> {
        json_file::make_folder(&self.path, 0o700)?;
        check_owned(&self.path)?;
        let path = self.path.join("lock");
        let deadline = Instant::now() + self.patience;
        loop {
            let file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .open(&path)
                .map_err(Error::file("open", &path))?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(lock),
                Err((_, Errno::EWOULDBLOCK)) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err((_, Errno::EWOULDBLOCK)) => {
                    return Err(Error::LockBusy { path, seconds: self.patience.as_secs() });
                }
                Err((_, errno)) => return Err(Error::file("lock", &path)(errno.into())),
            }
        }
    }

    /// All files by name; `None` if there is not one of them. Some missing is an error that the authority's reader names.
    fn read(&self) -> Result<Option<BTreeMap<String, Vec<u8>>>> {
        let mut files = BTreeMap::new();
        for (name, secret) in Authority::FILES {
            let path = self.path.join(name);
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::file("read", &path)(error)),
            };
            if secret {
                check_owned(&path)?;
            }
            let mut contents = Vec::new();
            file.take(MAX_FILE).read_to_end(&mut contents).map_err(Error::file("read", &path))?;
            files.insert(name.to_owned(), contents);
        }
        Ok((!files.is_empty()).then_some(files))
    }

    fn write(&self, authority: &Authority) -> Result<()> {
        let unfinished = self.path.join(UNFINISHED);
        json_file::make_folder(&unfinished, 0o700)?;
        for file in authority.to_files().map_err(failed("files of the authority"))? {
            let mode = if file.secret { 0o600 } else { 0o644 };
            json_file::write_bytes(&unfinished.join(file.name), &file.contents, mode)?;
        }
        let staged = self.path.join(STAGED);
        fs::rename(&unfinished, &staged).map_err(Error::file("rename", &unfinished))?;
        self.finish_interrupted_change()
    }

    /// Drops what was not complete, moves in what was.
    fn finish_interrupted_change(&self) -> Result<()> {
        let unfinished = self.path.join(UNFINISHED);
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).map_err(Error::file("remove", &unfinished))?;
        }
        let staged = self.path.join(STAGED);
        if !staged.exists() {
            return Ok(());
        }
        for (name, _) in Authority::FILES {
            match fs::rename(staged.join(name), self.path.join(name)) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(Error::file("rename", &staged.join(name))(error));
                }
                _ => {}
            }
        }
        fs::remove_dir_all(&staged).map_err(Error::file("remove", &staged))
    }
}

/// Refuses a file or folder that anybody but its owner could use, or that belongs to somebody else.
fn check_owned(path: &Path) -> Result<()> {
    let metadata = fs::metadata(path).map_err(Error::file("read", path))?;
    let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
    if mode & 0o077 != 0 || owner != nix::unistd::geteuid().as_raw() {
        return Err(Error::LoosePermissions { path: path.to_owned(), mode, owner });
    }
    Ok(())
}

/// The host's name as certificates can carry it: 1 to 64 characters, none of them control.
fn host_name() -> String {
    let name = nix::unistd::gethostname().unwrap_or_default();
    let name: String =
        name.to_string_lossy().chars().filter(|c| !c.is_control()).take(64).collect();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

/// Unix time, seconds.
pub(crate) fn now_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn failed(what: &'static str) -> impl FnOnce(attestation::Error) -> Error {
    move |source| Error::Authority { what, source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use attestation::LeafKey;

    use super::*;

    const ID: &str = "i-0123456789abcdef0-enc000000000000000a";
    const NOW: i64 = 1_800_000_000;

    fn folder(root: &Path) -> AuthorityFolder {
        AuthorityFolder::new(&root.join("state/pki"), "i-0123456789abcdef0")
    }

    fn issue(folder: &AuthorityFolder, now: i64) -> Result<IssuedLeaf> {
        let key = LeafKey::generate().unwrap();
        folder.issue_leaf_at(key.public_key_der(), ID, now)
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn made_once_closed_to_others_and_the_root_stays() {
        let root = tempfile::tempdir().unwrap();
        let folder = folder(root.path());
        let first = issue(&folder, NOW).unwrap();
        assert_eq!(first.chain.cabundle.len(), 4);
        assert!(!first.needs_renewal(NOW) && first.needs_renewal(NOW + 2 * 3600 + 60));
        assert!(first.needs_renewal(NOW - 3600));
        assert_eq!(fs::metadata(&folder.path).unwrap().mode() & 0o777, 0o700);
        for (name, secret) in Authority::FILES {
            let mode = fs::metadata(folder.path.join(name)).unwrap().mode() & 0o777;
            assert_eq!(mode, if secret { 0o600 } else { 0o644 }, "{name}");
        }
        let second = issue(&folder, NOW + 60).unwrap();
        assert_eq!(first.chain.cabundle, second.chain.cabundle);
        let month_later = issue(&folder, NOW + 30 * 86_400).unwrap();
        assert_eq!(first.chain.cabundle[0], month_later.chain.cabundle[0]);
        assert_ne!(first.chain.cabundle[1], month_later.chain.cabundle[1]);
    }

    #[test]
    fn loose_permissions_are_refused_with_the_way_out() {
        let root = tempfile::tempdir().unwrap();
        let folder = folder(root.path());
        issue(&folder, NOW).unwrap();
        set_mode(&folder.path, 0o750);
        let error = issue(&folder, NOW).unwrap_err();
        assert!(matches!(error, Error::LoosePermissions { mode: 0o750, .. }));
        assert!(error.hint().unwrap().contains("chmod"));
        assert_eq!(error.code(), 18);
        set_mode(&folder.path, 0o700);
        set_mode(&folder.path.join("root-key.pem"), 0o640);
        assert!(matches!(issue(&folder, NOW), Err(Error::LoosePermissions { .. })));
    }

    #[test]
    fn a_kill_in_the_middle_of_a_change_leaves_a_whole_set() {
        let root = tempfile::tempdir().unwrap();
        let folder = folder(root.path());
        let before = issue(&folder, NOW).unwrap();
        // Killed while writing: thrown away.
        fs::create_dir(folder.path.join(UNFINISHED)).unwrap();
        fs::write(folder.path.join(UNFINISHED).join("root.pem"), "half").unwrap();
        assert_eq!(issue(&folder, NOW).unwrap().chain.cabundle, before.chain.cabundle);
        // Killed while moving in: finished. Half of the set is staged, half is in place.
        let staged = folder.path.join(STAGED);
        fs::create_dir(&staged).unwrap();
        for (name, _) in &Authority::FILES[..4] {
            fs::rename(folder.path.join(name), staged.join(name)).unwrap();
        }
        assert_eq!(issue(&folder, NOW).unwrap().chain.cabundle, before.chain.cabundle);
        assert!(!staged.exists());
    }

    #[test]
    fn a_missing_key_is_an_error_and_no_new_root() {
        let root = tempfile::tempdir().unwrap();
        let folder = folder(root.path());
        issue(&folder, NOW).unwrap();
        fs::remove_file(folder.path.join("root-key.pem")).unwrap();
        assert!(matches!(issue(&folder, NOW), Err(Error::Authority { .. })));
    }

    #[test]
    fn many_at_once_make_one_authority() {
        let root = tempfile::tempdir().unwrap();
        let folder = folder(root.path());
        let roots: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| issue(&folder, NOW).unwrap().chain.cabundle[0].clone()))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(roots.windows(2).all(|pair| pair[0] == pair[1]));
    }
}
