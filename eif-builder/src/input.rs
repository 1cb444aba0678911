//! The files a user names for an image. They must be regular files, or links to such: a FIFO would be
//! waited for without end, and a device has no length to trust.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::Error;
use crate::error::shown;

/// Opens an input that the user named; links are followed.
///
/// # Errors
/// [`Error::Io`], and [`Error::NotRegular`] for what is there and no regular file.
pub fn open(path: &Path) -> Result<File, Error> {
    open_with(path, 0)
}

/// Opens a file that was seen to be a regular one and must still be: not a link that took its place.
pub(crate) fn open_unfollowed(path: &Path) -> Result<File, Error> {
    open_with(path, libc::O_NOFOLLOW)
}

fn open_with(path: &Path, flags: i32) -> Result<File, Error> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags | libc::O_NONBLOCK)
        .open(path)
        .map_err(Error::io("open", path))?;
    if !file.metadata().map_err(Error::io("read", path))?.is_file() {
        return Err(Error::NotRegular { path: shown(path.as_os_str().as_encoded_bytes()) });
    }
    Ok(file)
}

/// All of a file of at most `limit` bytes.
///
/// # Errors
/// As [`open`], and [`Error::Io`] for a longer file.
pub fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    open(path)?
        .take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(Error::io("read", path))?;
    if bytes.len() as u64 > limit {
        let error = io::Error::new(io::ErrorKind::FileTooLarge, format!("over {limit} bytes"));
        return Err(Error::io("read", path)(error));
    }
    Ok(bytes)
}

/// A kernel command line: one line without NUL; white space at its end is dropped, as `nitro-cli` does.
///
/// # Errors
/// [`Error::Option`].
pub fn cmdline(text: &str) -> Result<&str, Error> {
    let text = text.trim_end();
    if text.contains(['\0', '\n']) {
        return Err(Error::Option {
            option: "kernel command line",
            value: shown(text.as_bytes()),
            problem: "it must be one line without NUL".to_owned(),
        });
    }
    Ok(text)
}
