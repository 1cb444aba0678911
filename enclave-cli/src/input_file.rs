//! Reading the small files that commands are given: bounded, so that a wrong path (a disk image, a pipe that never ends) is one
//! error and not all of the memory.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error_table::ErrorNumber;
use crate::failure::{Failure, Outcome};

/// The bytes of a file of at most `limit` bytes.
pub(crate) fn read(path: &Path, limit: u64) -> Outcome<Vec<u8>> {
    let file = File::open(path).map_err(|error| Failure::file("open", path, error))?;
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::file("read", path, error))?;
    if bytes.len() as u64 > limit {
        return Err(Failure::new(
            ErrorNumber::INVALID_ARGUMENT,
            format!("{} is longer than the {limit} bytes such a file may have", path.display()),
        ));
    }
    Ok(bytes)
}

/// The text of a file of at most `limit` bytes.
pub(crate) fn read_text(path: &Path, limit: u64) -> Outcome<String> {
    String::from_utf8(read(path, limit)?).map_err(|_| {
        Failure::new(ErrorNumber::SERDE, format!("{} is not UTF-8 text", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_and_is_inclusive() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, b"12345").unwrap();
        assert_eq!(read_text(&path, 5).unwrap(), "12345");
        assert_eq!(read(&path, 4).unwrap_err().number(), ErrorNumber::INVALID_ARGUMENT);
        assert_eq!(
            read(&folder.path().join("g"), 4).unwrap_err().number(),
            ErrorNumber::FILE_OPERATION
        );
        assert_eq!(
            read(Path::new("/dev/zero"), 4).unwrap_err().number(),
            ErrorNumber::INVALID_ARGUMENT
        );
        std::fs::write(&path, b"\xff").unwrap();
        assert_eq!(read_text(&path, 5).unwrap_err().number(), ErrorNumber::SERDE);
    }
}
