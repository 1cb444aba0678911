//! Where things are kept: the path table of `docs/architecture.md` as a pure function of environment and user, so that
//! every program agrees and a test can ask for any user without being it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The folders of one user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// Run state, gone after a reboot: one folder for each enclave, `lock`, `pool.json`.
    pub run: PathBuf,
    /// What lasts: authority, history, machine.
    pub state: PathBuf,
    /// What can be made again: kernels.
    pub cache: PathBuf,
    /// Run folders whose enclaves may be described: this user's, and root's when it is another.
    pub describable: Vec<PathBuf>,
    lib_override: Option<PathBuf>,
    blobs_override: Option<PathBuf>,
}

const ROOT_RUN: &str = "/run/enclave";
const ROOT_STATE: &str = "/var/lib/enclave";

impl Paths {
    /// The table for `uid` under the environment `get`. Empty values count as unset. `NITRO_CLI_BLOBS` is honoured where
    /// `ENCLAVE_BLOBS` is not set; nitro-cli's other variables name things that do not exist here.
    pub fn from_env(get: impl Fn(&str) -> Option<OsString>, uid: u32) -> Self {
        let get = |name: &str| get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        // XDG says relative paths there are to be ignored.
        let xdg = |name: &str| get(name).filter(|path| path.is_absolute());
        let home = || get("HOME").unwrap_or_else(|| PathBuf::from("/"));

        let run = get("ENCLAVE_RUN_DIR").unwrap_or_else(|| match uid {
            0 => PathBuf::from(ROOT_RUN),
            _ => xdg("XDG_RUNTIME_DIR")
                .unwrap_or_else(|| PathBuf::from(format!("/run/user/{uid}")))
                .join("enclave"),
        });
        let state = get("ENCLAVE_STATE_DIR").unwrap_or_else(|| match uid {
            0 => PathBuf::from(ROOT_STATE),
            _ => {
                xdg("XDG_STATE_HOME").unwrap_or_else(|| home().join(".local/state")).join("enclave")
            }
        });
        let cache = get("ENCLAVE_CACHE_DIR").unwrap_or_else(|| {
            xdg("XDG_CACHE_HOME").unwrap_or_else(|| home().join(".cache")).join("enclave")
        });
        let mut describable = vec![run.clone()];
        if get("ENCLAVE_RUN_DIR").is_none() && uid != 0 {
            describable.push(PathBuf::from(ROOT_RUN));
        }
        Self {
            run,
            state,
            cache,
            describable,
            lib_override: get("ENCLAVE_LIB_DIR"),
            blobs_override: get("ENCLAVE_BLOBS").or_else(|| get("NITRO_CLI_BLOBS")),
        }
    }

    /// The table for this process.
    #[must_use]
    pub fn current() -> Self {
        Self::from_env(|name| std::env::var_os(name), nix::unistd::geteuid().as_raw())
    }

    /// The authority's keys and certificates.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.state.join("pki")
    }

    /// Records of dead enclaves.
    #[must_use]
    pub fn history(&self) -> PathBuf {
        self.state.join("history")
    }

    /// The parent VM's folder.
    #[must_use]
    pub fn machine(&self) -> PathBuf {
        self.state.join("machine")
    }

    /// Flocked while CPUs, pages, names and CIDs are handed out.
    #[must_use]
    pub fn run_lock(&self) -> PathBuf {
        self.run.join("lock")
    }

    /// The folder of one enclave.
    #[must_use]
    pub fn enclave(&self, id: &str) -> PathBuf {
        self.run.join(id)
    }

    /// Where a helper program may be, in the order to look: the override alone if there is one; else beside `exe`, then
    /// `<prefix>/lib/enclave` where `exe` is `<prefix>/bin/…`.
    #[must_use]
    pub fn helper_candidates(&self, name: &str, exe: &Path) -> Vec<PathBuf> {
        let folders = match &self.lib_override {
            Some(folder) => vec![folder.clone()],
            None => beside_or_prefix(exe, None, "lib/enclave"),
        };
        folders.into_iter().map(|folder| folder.join(name)).collect()
    }

    /// Folders where the blobs may be, in the order to look.
    #[must_use]
    pub fn blob_candidates(&self, exe: &Path) -> Vec<PathBuf> {
        match &self.blobs_override {
            Some(folder) => vec![folder.clone()],
            None => beside_or_prefix(exe, Some("blobs"), "share/enclave/blobs"),
        }
    }

    /// The helper program `name`, if it is there.
    #[must_use]
    pub fn helper(&self, name: &str, exe: &Path) -> Option<PathBuf> {
        self.helper_candidates(name, exe).into_iter().find(|path| path.is_file())
    }
}

fn beside_or_prefix(exe: &Path, below: Option<&str>, under_prefix: &str) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    if let Some(folder) = exe.parent() {
        folders.push(below.map_or_else(|| folder.to_owned(), |name| folder.join(name)));
        if let Some(prefix) = folder.parent() {
            folders.push(prefix.join(under_prefix));
        }
    }
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(vars: &[(&str, &str)], uid: u32) -> Paths {
        Paths::from_env(
            |name| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()),
            uid,
        )
    }

    #[test]
    fn root_has_the_system_folders() {
        let paths = with(&[("HOME", "/root")], 0);
        assert_eq!(paths.run, Path::new("/run/enclave"));
        assert_eq!(paths.authority(), Path::new("/var/lib/enclave/pki"));
        assert_eq!(paths.cache, Path::new("/root/.cache/enclave"));
        assert_eq!(paths.describable, [Path::new("/run/enclave")]);
    }

    #[test]
    fn others_have_xdg_folders_and_see_roots_enclaves() {
        let paths = with(&[("HOME", "/home/a"), ("XDG_RUNTIME_DIR", "/run/user/1000")], 1000);
        assert_eq!(paths.run, Path::new("/run/user/1000/enclave"));
        assert_eq!(paths.state, Path::new("/home/a/.local/state/enclave"));
        assert_eq!(paths.describable.len(), 2);
        assert_eq!(
            with(&[("XDG_STATE_HOME", "rel"), ("HOME", "/h")], 5).state,
            Path::new("/h/.local/state/enclave")
        );
    }

    #[test]
    fn overrides_win_and_empty_ones_do_not() {
        let paths = with(&[("ENCLAVE_RUN_DIR", "/r"), ("ENCLAVE_STATE_DIR", "")], 0);
        assert_eq!(paths.run, Path::new("/r"));
        assert_eq!(paths.state, Path::new("/var/lib/enclave"));
        assert_eq!(with(&[("ENCLAVE_RUN_DIR", "/r")], 7).describable, [Path::new("/r")]);
        let blobs = with(&[("NITRO_CLI_BLOBS", "/n")], 0).blob_candidates(Path::new("/usr/bin/x"));
        assert_eq!(blobs, [Path::new("/n")]);
        let both = with(&[("NITRO_CLI_BLOBS", "/n"), ("ENCLAVE_BLOBS", "/e")], 0);
        assert_eq!(both.blob_candidates(Path::new("/usr/bin/x")), [Path::new("/e")]);
    }

    #[test]
    fn helpers_are_beside_the_program_or_under_its_prefix() {
        let paths = with(&[], 0);
        assert_eq!(
            paths.helper_candidates("enclave-vmm", Path::new("/usr/local/bin/enclave-cli")),
            [
                Path::new("/usr/local/bin/enclave-vmm"),
                Path::new("/usr/local/lib/enclave/enclave-vmm")
            ]
        );
    }
}
