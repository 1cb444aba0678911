//! The parent's console and QEMU's own complaints, kept in files so that nothing dies silently, and
//! kept small: QEMU appends, and every command of ours cuts what has grown too long.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

/// A log longer than this is cut.
const LIMIT: u64 = 1024 * 1024;
/// To this many bytes of its end.
const KEPT: u64 = 64 * 1024;
/// Lines shown in an error.
const SHOWN: usize = 12;

/// Cuts an overlong log to its end. QEMU writes with O_APPEND, so cutting beneath it is sound; a line
/// written at that very moment may be lost.
pub(crate) fn trim(path: &Path) -> io::Result<()> {
    let mut file = match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    if file.metadata()?.len() <= LIMIT {
        return Ok(());
    }
    let end = read_end(&mut file, KEPT)?;
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(&end)
}

/// The last lines of the logs, indented and made printable, beginning with a line break; empty when
/// there are none.
pub(crate) fn tail(paths: &[&Path]) -> String {
    let mut text = String::new();
    for path in paths {
        let Ok(mut file) = File::open(path) else { continue };
        let Ok(end) = read_end(&mut file, 8 * 1024) else { continue };
        let end = String::from_utf8_lossy(&end);
        let lines: Vec<String> =
            end.lines().map(printable).filter(|line| !line.trim().is_empty()).collect();
        for line in &lines[lines.len().saturating_sub(SHOWN)..] {
            text.push_str("\n    ");
            text.push_str(line);
        }
    }
    text
}

/// Starts a log anew.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    let _ = fs::remove_file(path);
    OpenOptions::new().append(true).create_new(true).open(path)
}

fn read_end(file: &mut File, size: u64) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(size)))?;
    let mut end = Vec::new();
    file.take(size).read_to_end(&mut end)?;
    Ok(end)
}

/// A guest's console can hold anything; a terminal must not act on it.
fn printable(line: &str) -> String {
    line.chars().filter(|character| !character.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_keeps_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console.log");
        let mut text = vec![b'a'; usize::try_from(LIMIT).unwrap()];
        text.extend_from_slice(b"\nlast\x1b[2J line\r\n");
        fs::write(&path, &text).unwrap();
        trim(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), KEPT);
        let shown = tail(&[&path]);
        assert!(shown.ends_with("\n    last[2J line"), "{shown:?}");
    }

    #[test]
    fn short_and_missing_logs_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console.log");
        trim(&path).unwrap();
        assert_eq!(tail(&[&path]), "");
        fs::write(&path, "one\n\ntwo\n").unwrap();
        trim(&path).unwrap();
        assert_eq!(tail(&[&path]), "\n    one\n    two");
    }
}
