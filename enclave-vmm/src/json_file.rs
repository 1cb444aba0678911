//! Small JSON files of our own, written so that a reader finds the old text or the new one and never half of either, and read with a limit.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// Largest file read, bytes.
pub const MAX_FILE: u64 = 4 << 20;

/// Writes `bytes` to `path` with `mode`, through a temporary file beside it.
///
/// # Errors
/// [`Error::File`].
pub fn write_bytes(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let fresh = path.with_file_name(name);
    let outcome = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&fresh)
        .and_then(|mut file| {
            // The mode given to open is cut by the umask; this one is not.
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&fresh, path));
    if outcome.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    outcome.map_err(Error::file("write", path))
}

/// Writes `value` as JSON, readable by people.
///
/// # Errors
/// [`Error::File`], [`Error::Damaged`] if it cannot be JSON.
pub fn write<T: Serialize>(path: &Path, value: &T, mode: u32) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value)
        .map_err(|source| Error::Damaged { path: path.to_owned(), source })?;
    bytes.push(b'\n');
    write_bytes(path, &bytes, mode)
}

/// Reads a value; `None` if there is no such file.
///
/// # Errors
/// [`Error::File`], [`Error::Damaged`].
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::file("read", path)(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(Error::file("read", path))?;
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|source| Error::Damaged { path: path.to_owned(), source })
}

/// Makes a folder and those above it; the last one gets `mode` if it is made here.
///
/// # Errors
/// [`Error::File`].
pub fn make_folder(path: &Path, mode: u32) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(above) = path.parent() {
        fs::create_dir_all(above).map_err(Error::file("create", above))?;
    }
    match fs::create_dir(path) {
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(mode))
            .map_err(Error::file("set the mode of", path)),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(Error::file("create", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_back_and_the_mode_is_as_asked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        assert_eq!(read::<Vec<u32>>(&path).unwrap(), None);
        write(&path, &vec![1_u32, 2], 0o600).unwrap();
        write(&path, &vec![3_u32], 0o600).unwrap();
        assert_eq!(read::<Vec<u32>>(&path).unwrap(), Some(vec![3]));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn rubbish_is_called_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        fs::write(&path, "{").unwrap();
        assert!(matches!(read::<Vec<u32>>(&path), Err(Error::Damaged { .. })));
    }
}
