//! What would only come out when the enclave starts, found while it is built: is the command in the
//! image, does the image know the user, is there a folder to start in. The rules are init's own: names
//! are looked up with the image as root, in PATH, folders of PATH relative to the working directory.

use std::fs::File;
use std::io::Read;

use guest_abi::manifest::{Account, DEFAULT_PATH, Manifest, Principal};

use crate::Error;
use crate::error::shown;
use crate::ramdisk;
use crate::tree::{Kind, Lost, Node, Tree, components};

/// Bytes of passwd or group that are read; init's limit.
const MAX_ACCOUNTS: u64 = 1 << 20;

/// Makes sure the working directory is there: as with container engines, it is made where the image
/// does not have it.
pub(super) fn workdir(tree: &mut Tree, manifest: &Manifest) -> Result<(), Error> {
    let refuse = |problem: String| {
        Err(Error::Workdir { workdir: shown(manifest.workdir.as_bytes()), problem })
    };
    let path = manifest.workdir.as_bytes();
    match tree.resolve(path, true) {
        Ok(node) => match &tree.node(node).kind {
            Kind::Folder(_) => Ok(()),
            other => refuse(format!("it is a {} in the image", other.noun())),
        },
        Err(Lost::Missing) => match tree.make_folders(components(path), 0)? {
            Ok(_) => Ok(()),
            Err(lost) => refuse(format!("it {}", lost.reason())),
        },
        Err(lost) => refuse(format!("it {}", lost.reason())),
    }
}

/// Checks that names of `user` are in the image; numbers need nothing.
pub(super) fn account(tree: &Tree, spool: Option<&File>, manifest: &Manifest) -> Result<(), Error> {
    let Account { user, group } = manifest.account().map_err(Error::Manifest)?;
    for (principal, file) in [(Some(user), "/etc/passwd"), (group, "/etc/group")] {
        let Some(Principal::Name(name)) = principal else { continue };
        let lines = read(tree, spool, file)?;
        let known = lines
            .split(|byte| *byte == b'\n')
            .any(|line| line.split(|byte| *byte == b':').next() == Some(name.as_bytes()));
        if !known {
            let (user, name) = (manifest.user.clone(), name.to_owned());
            return Err(Error::UnknownUser { user, name, file });
        }
    }
    Ok(())
}

/// A small file of the image; nothing where it is not there.
fn read(tree: &Tree, spool: Option<&File>, path: &str) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    if let Ok(id) = tree.resolve(path.as_bytes(), true)
        && let Kind::File(content) = &tree.node(id).kind
    {
        ramdisk::open(content, spool)?
            .take(MAX_ACCOUNTS)
            .read_to_end(&mut bytes)
            .map_err(|source| Error::Copy { what: path.to_owned(), source })?;
    }
    Ok(bytes)
}

/// Checks that the command is a file that can be executed.
pub(super) fn command(tree: &Tree, manifest: &Manifest) -> Result<(), Error> {
    let command = manifest.cmd.first().map_or("", String::as_str);
    let workdir = manifest.workdir.as_str();
    if command.contains('/') {
        let path = join(workdir, command);
        return match tree.resolve(path.as_bytes(), true) {
            Ok(id) => match unusable(tree.node(id)) {
                None => Ok(()),
                Some(problem) => Err(Error::CommandUnusable {
                    command: shown(command.as_bytes()),
                    path: shown(path.as_bytes()),
                    problem,
                }),
            },
            Err(lost) => Err(Error::CommandMissing {
                command: shown(command.as_bytes()),
                looked: format!("`{}`, which {}", shown(path.as_bytes()), lost.reason()),
            }),
        };
    }
    let search = manifest.variable("PATH").unwrap_or(DEFAULT_PATH);
    let mut passed_over = None;
    for folder in search.split(':') {
        let path = join(&join(workdir, folder), command);
        let Ok(id) = tree.resolve(path.as_bytes(), true) else { continue };
        match unusable(tree.node(id)) {
            None => return Ok(()),
            Some(problem) => {
                passed_over.get_or_insert((path, problem));
            }
        }
    }
    let command = shown(command.as_bytes());
    Err(match passed_over {
        Some((path, problem)) => {
            Error::CommandUnusable { command, path: shown(path.as_bytes()), problem }
        }
        None => {
            let looked = format!("it in PATH {}", shown(search.as_bytes()));
            Error::CommandMissing { command, looked }
        }
    })
}

fn unusable(node: &Node) -> Option<String> {
    match &node.kind {
        Kind::File(_) if node.attributes.permissions & 0o111 != 0 => None,
        Kind::File(_) => {
            Some(format!("has mode {:04o}, no execute bit", node.attributes.permissions))
        }
        other => Some(format!("is a {}", other.noun())),
    }
}

/// `path` as seen from `folder`; with single slashes, so that it can be read in a message.
fn join(folder: &str, path: &str) -> String {
    let whole = if path.starts_with('/') { path.to_owned() } else { format!("{folder}/{path}") };
    let mut joined = String::new();
    for name in components(whole.as_bytes()) {
        joined.push('/');
        joined.push_str(&String::from_utf8_lossy(name));
    }
    if joined.is_empty() { "/".to_owned() } else { joined }
}
