//! What is started: program, arguments, environment, folder and ids, all from the measured manifest and the
//! image's own files. Nothing comes from init's own arguments or environment: the kernel fills those from its
//! command line, part of which the parent may write.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use guest_abi::manifest::{DEFAULT_PATH, Manifest};

use crate::Error;
use crate::accounts::{self, Identity};

/// The application, ready to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Command {
    /// The program's file, absolute, or relative to `workdir` where the manifest says so.
    pub(crate) program: PathBuf,
    /// Its arguments, the name it was called by first.
    pub(crate) arguments: Vec<String>,
    /// Its whole environment.
    pub(crate) environment: Vec<(String, String)>,
    /// Where it starts, absolute.
    pub(crate) workdir: PathBuf,
    /// As whom.
    pub(crate) identity: Identity,
}

impl Command {
    /// Puts together what `manifest` says, with accounts and programs looked up below `root`.
    pub(crate) fn new(manifest: &Manifest, root: &Path) -> Result<Self, Error> {
        let account = manifest.account().map_err(Error::Manifest)?;
        let identity = accounts::resolve(&account, root)?;
        let environment = environment(manifest, &identity);
        let search = value(&environment, "PATH").unwrap_or(DEFAULT_PATH);
        let workdir = PathBuf::from(&manifest.workdir);
        let name = manifest.cmd.first().map_or("", String::as_str);
        let program = find_program(name, search, &workdir, root)?;
        Ok(Self { program, arguments: manifest.cmd.clone(), environment, workdir, identity })
    }
}

/// The manifest's environment, with `PATH` and `HOME` where it sets none.
fn environment(manifest: &Manifest, identity: &Identity) -> Vec<(String, String)> {
    let mut environment: Vec<(String, String)> = manifest
        .env
        .iter()
        .filter_map(|entry| entry.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    for (name, default) in [("PATH", DEFAULT_PATH), ("HOME", identity.home.as_str())] {
        if value(&environment, name).is_none() {
            environment.push((name.to_owned(), default.to_owned()));
        }
    }
    environment
}

fn value<'a>(environment: &'a [(String, String)], name: &str) -> Option<&'a str> {
    environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// A name with a slash is the file itself; others are the first executable file of that name in `search`.
/// The kernel has the last word when it is started: this only finds the path to name in an error.
fn find_program(name: &str, search: &str, workdir: &Path, root: &Path) -> Result<PathBuf, Error> {
    if name.contains('/') {
        return Ok(PathBuf::from(name));
    }
    search
        .split(':')
        .map(|folder| workdir.join(folder).join(name))
        .find(|candidate| is_program(root, candidate))
        .ok_or_else(|| Error::NoProgram { program: name.to_owned(), search: search.to_owned() })
}

fn is_program(root: &Path, candidate: &Path) -> bool {
    let below = candidate.strip_prefix("/").unwrap_or(candidate);
    fs::metadata(root.join(below))
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> tempfile::TempDir {
        let image = tempfile::tempdir().unwrap();
        for (path, mode) in
            [("bin/app", 0o644), ("usr/bin/app", 0o755), ("srv/tool", 0o755), ("opt/b/tool", 0o100)]
        {
            let path = image.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::create_dir_all(image.path().join("usr/local/bin/app")).unwrap();
        image
    }

    fn manifest(cmd: &[&str], env: &[&str]) -> Manifest {
        let mut manifest = Manifest::new(cmd.iter().map(|text| (*text).to_owned()).collect());
        manifest.env = env.iter().map(|text| (*text).to_owned()).collect();
        manifest
    }

    #[test]
    fn the_environment_is_the_manifests_and_two_defaults() {
        let image = image();
        let command =
            Command::new(&manifest(&["/x", "a b"], &["A=1", "B=x=y", "C="]), image.path()).unwrap();
        let expected = [("A", "1"), ("B", "x=y"), ("C", ""), ("PATH", DEFAULT_PATH), ("HOME", "/")];
        let expected: Vec<_> =
            expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert_eq!(command.environment, expected);
        assert_eq!(command.arguments, ["/x", "a b"]);
        assert_eq!(command.workdir, Path::new("/"));
    }

    #[test]
    fn what_the_manifest_sets_is_not_replaced() {
        let image = image();
        let command =
            Command::new(&manifest(&["/x"], &["HOME=/h", "PATH=/p"]), image.path()).unwrap();
        assert_eq!(
            command.environment,
            [("HOME".to_owned(), "/h".to_owned()), ("PATH".to_owned(), "/p".to_owned())]
        );
    }

    #[test]
    fn home_comes_from_the_images_passwd() {
        let image = image();
        fs::create_dir(image.path().join("etc")).unwrap();
        fs::write(image.path().join("etc/passwd"), "app:x:7:8::/srv/app:\n").unwrap();
        let mut manifest = manifest(&["/x"], &[]);
        manifest.user = "app".to_owned();
        let command = Command::new(&manifest, image.path()).unwrap();
        assert_eq!(value(&command.environment, "HOME"), Some("/srv/app"));
        assert_eq!((command.identity.uid, command.identity.gid), (7, 8));
    }

    #[test]
    fn a_name_is_the_first_executable_file_in_path() {
        let image = image();
        // Not /usr/local/bin/app, a folder, and not /bin/app, which nobody may execute.
        let command = Command::new(&manifest(&["app"], &[]), image.path()).unwrap();
        assert_eq!(command.program, Path::new("/usr/bin/app"));
        let command = Command::new(&manifest(&["tool"], &["PATH=/nowhere:/opt/b"]), image.path());
        assert_eq!(command.unwrap().program, Path::new("/opt/b/tool"));
    }

    #[test]
    fn an_empty_entry_of_path_is_the_working_folder() {
        let image = image();
        let mut manifest = manifest(&["tool"], &["PATH="]);
        manifest.workdir = "/srv".to_owned();
        let command = Command::new(&manifest, image.path()).unwrap();
        assert_eq!(command.program, Path::new("/srv/tool"));
    }

    #[test]
    fn a_name_with_a_slash_is_taken_as_it_is() {
        let image = image();
        let command = Command::new(&manifest(&["./nothing/here"], &[]), image.path()).unwrap();
        assert_eq!(command.program, Path::new("./nothing/here"));
    }

    #[test]
    fn a_program_that_is_nowhere_is_named_with_the_path_searched() {
        let image = image();
        let error = Command::new(&manifest(&["nope"], &["PATH=/a:/b"]), image.path()).unwrap_err();
        assert_eq!(error.to_string(), "no program \"nope\" in PATH \"/a:/b\"");
    }
}
