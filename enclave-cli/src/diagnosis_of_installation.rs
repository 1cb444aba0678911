//! The other half of what `doctor` looks at: programs, blobs and keys of this installation, and what a machine needs.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use enclave_vmm::paths::Paths;

use crate::diagnosis::Check;
use crate::route::Route;

/// Kernel, command line and init of the guest, and the program that runs it.
pub(crate) fn installation(paths: &Paths, exe: &Path) -> Vec<Check> {
    let mut checks = Vec::new();
    checks.push(match paths.helper("enclave-vmm", exe) {
        Some(path) => Check::good("enclave-vmm", path.display().to_string()),
        None => Check::bad(
            "enclave-vmm",
            format!("not at {}", places(&paths.helper_candidates("enclave-vmm", exe))),
            "make install, or name its folder in ENCLAVE_LIB_DIR",
        ),
    });
    let folders = paths.blob_candidates(exe);
    let complete = |folder: &&PathBuf| {
        ["bzImage", "cmdline", "init"].iter().all(|name| folder.join(name).is_file())
    };
    checks.push(match folders.iter().find(complete) {
        Some(folder) => Check::good("guest kernel and init", folder.display().to_string()),
        None => Check::note(
            "guest kernel and init",
            format!("no bzImage, cmdline and init in {}", places(&folders)),
            "make install, or name their folder in ENCLAVE_BLOBS; only build-enclave needs them",
        ),
    });
    checks
}

fn places(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" or ")
}

/// Whether a machine can be started, and whether one is up.
pub(crate) fn machine(paths: &Paths, exe: &Path, route: &Route) -> Vec<Check> {
    if route.is_inside() {
        return vec![Check::good("machine", "this is one")];
    }
    let mut checks = vec![qemu()];
    checks.push(match paths.helper("machine-agent", exe) {
        Some(path) => Check::good("machine-agent", path.display().to_string()),
        None => Check::bad(
            "machine-agent",
            format!("not at {}", places(&paths.helper_candidates("machine-agent", exe))),
            "make install, or name its folder in ENCLAVE_LIB_DIR",
        ),
    });
    checks.push(match route.machine().map(|machine| machine.machine().status()) {
        Some(status) => Check::good(
            "machine",
            format!(
                "up: {} CPUs, {} MiB, {:?}, process {}",
                status.cpus, status.memory_mib, status.accel, status.pid
            ),
        ),
        None => Check::note("machine", "not running", "enclave-cli machine start"),
    });
    checks
}

fn qemu() -> Check {
    const NAME: &str = "QEMU";
    match machine::qemu_version() {
        Ok(version) => Check::good(NAME, version),
        Err(error) => {
            let mend = error.hint().unwrap_or_else(|| "install QEMU 9 or newer".to_owned());
            Check::bad(NAME, error.to_string(), mend)
        }
    }
}

/// Whether the authority's folder is closed to others, where there is one.
pub(crate) fn authority(folder: &Path, uid: u32) -> Check {
    use std::os::unix::fs::MetadataExt;
    const NAME: &str = "authority";
    match fs::metadata(folder) {
        Ok(metadata) if metadata.uid() == uid && metadata.mode() & 0o077 == 0 => {
            Check::good(NAME, folder.display().to_string())
        }
        Ok(metadata) => Check::bad(
            NAME,
            format!(
                "{} has mode {:04o} and owner {}",
                folder.display(),
                metadata.mode() & 0o7777,
                metadata.uid()
            ),
            format!(
                "its keys may be known to others: move the folder away, a new one is made (or chmod 700 {} where you are sure)",
                folder.display()
            ),
        ),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Check::good(NAME, format!("made at the first run, in {}", folder.display()))
        }
        Err(error) => Check::bad(
            NAME,
            format!("{}: {error}", folder.display()),
            "make the folder readable for this user",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::diagnosis::Verdict;

    #[test]
    fn an_authority_open_to_others_is_bad() {
        let folder = tempfile::tempdir().unwrap();
        let uid = nix::unistd::geteuid().as_raw();
        let pki = folder.path().join("pki");
        assert_eq!(authority(&pki, uid).verdict, Verdict::Good, "none yet");
        fs::create_dir(&pki).unwrap();
        fs::set_permissions(&pki, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(authority(&pki, uid).verdict, Verdict::Good);
        fs::set_permissions(&pki, fs::Permissions::from_mode(0o750)).unwrap();
        let check = authority(&pki, uid);
        assert_eq!(check.verdict, Verdict::Bad);
        assert!(check.value.contains("0750"), "{check:?}");
    }
}
