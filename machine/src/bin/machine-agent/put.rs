//! Storing a file the host sends: under a temporary name, checked against its hash, then renamed, so
//! that a name never shows half a file.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use machine::channel::frame::{Decoder, Kind};
use machine::channel::request::Put;
use ring::digest::{Context, SHA256};

use crate::port::{Port, SessionEnd};

/// Makes temporary names unique among the ports' threads.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// A temporary file that disappears unless it is renamed.
struct Draft {
    file: File,
    name: DraftName,
}

struct DraftName(PathBuf);

impl Drop for DraftName {
    fn drop(&mut self) {
        // After the rename there is nothing under this name.
        let _ = fs::remove_file(&self.0);
    }
}

pub(crate) fn put(port: &mut Port, decoder: &mut Decoder, put: &Put) -> Result<(), SessionEnd> {
    let path = Path::new(&put.path);
    if put.keep_existing && is_there(path, put) {
        return port.send(Kind::Stored, &[]);
    }
    let mut draft = match open_draft(path) {
        Ok(draft) => draft,
        Err(error) => return port.fail(&format!("cannot store {}: {error}", path.display())),
    };
    port.send(Kind::Ready, &[])?;
    let mut hash = Context::new(&SHA256);
    let mut received = 0u64;
    // The first failure is kept until the host has sent everything: it reads only then.
    let mut failure = None;
    loop {
        match port.receive(decoder)? {
            (Kind::Input, payload) => {
                hash.update(payload);
                received = received.saturating_add(payload.len() as u64);
                if failure.is_none() && received <= put.size {
                    failure = draft.file.write_all(payload).err();
                }
            }
            (Kind::InputEnd, _) => break,
            _ => return Err(SessionEnd::Broken),
        }
    }
    if let Some(error) = failure {
        return port.fail(&format!("cannot write {}: {error}", path.display()));
    }
    if received != put.size || hash.finish().as_ref() != put.sha256 {
        return port.fail(&format!(
            "{} arrived different from what was announced ({received} of {} bytes): was it being \
             rewritten?",
            path.display(),
            put.size
        ));
    }
    match finish(draft, path, put.mode) {
        Ok(()) => port.send(Kind::Stored, &[]),
        Err(error) => port.fail(&format!("cannot store {}: {error}", path.display())),
    }
}

fn is_there(path: &Path, put: &Put) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.len() == put.size)
}

fn open_draft(path: &Path) -> io::Result<Draft> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the name of a file"));
    };
    if !path.is_absolute() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not an absolute path"));
    }
    fs::create_dir_all(folder)?;
    let mut draft = OsString::from(".");
    draft.push(name);
    draft.push(format!(".{}", COUNTER.fetch_add(1, Ordering::Relaxed)));
    let path = folder.join(draft);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    Ok(Draft { file, name: DraftName(path) })
}

fn finish(draft: Draft, path: &Path, mode: u32) -> io::Result<()> {
    let Draft { file, name } = draft;
    file.set_permissions(fs::Permissions::from_mode(mode & 0o7777))?;
    // A program open for writing cannot be started, so it is closed before it gets its name.
    drop(file);
    fs::rename(&name.0, path)
}
