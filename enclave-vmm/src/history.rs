//! Records of dead enclaves, `<state>/history/<id>.json`: how it ended and when. Console text only of debug enclaves. The oldest go when there are
//! more than [`MAX_RECORDS`].

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::description::Measurements;
use crate::error::{Error, Result};
use crate::json_file;

/// Records kept.
pub const MAX_RECORDS: usize = 256;

/// One dead enclave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ExitRecord {
    /// Its name.
    pub enclave_name: String,
    /// Its id.
    #[serde(rename = "EnclaveID")]
    pub enclave_id: String,
    /// Its vsock address.
    #[serde(rename = "EnclaveCID")]
    pub enclave_cid: u32,
    /// Memory, MiB.
    #[serde(rename = "MemoryMiB")]
    pub memory_mib: u64,
    /// Its CPUs.
    #[serde(rename = "CPUIDs")]
    pub cpu_ids: Vec<u32>,
    /// The image's path as given at the start.
    pub eif_path: String,
    /// Debug mode.
    pub debug_mode: bool,
    /// The image's registers, if it came so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measurements: Option<Measurements>,
    /// RFC 3339, UTC.
    pub started: String,
    /// RFC 3339, UTC.
    pub ended: String,
    /// Why it ended.
    pub reason: Reason,
    /// The same in words, with what is known beyond it.
    pub detail: String,
    /// The app's exit code, if it exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<u8>,
    /// The signal that ended the app, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<u8>,
    /// The console's last text; debug mode only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub console_tail: Option<String>,
}

/// Why an enclave ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Somebody who may said so.
    Terminated,
    /// Its application ended.
    AppExited,
    /// The guest reset itself, for example after a kernel panic, with no word about the application.
    GuestReset,
    /// The guest crashed (triple fault).
    GuestCrashed,
    /// It did not come up.
    StartFailed,
    /// The vmm process died or failed.
    VmmDied,
    /// The nsm process died or failed.
    NsmDied,
    /// The keeper died; the next command put things back.
    KeeperDied,
}

/// Now, RFC 3339 in UTC with seconds.
#[must_use]
pub fn now() -> String {
    let time = OffsetDateTime::from(SystemTime::now());
    // Only years outside 0..=9999 cannot be written.
    time.replace_nanosecond(0).unwrap_or(time).format(&Rfc3339).unwrap_or_default()
}

/// Writes a record and drops the oldest beyond [`MAX_RECORDS`].
///
/// # Errors
/// [`Error::File`].
pub fn write(history: &Path, record: &ExitRecord) -> Result<()> {
    json_file::make_folder(history, 0o755)?;
    json_file::write(&history.join(format!("{}.json", record.enclave_id)), record, 0o644)?;
    prune(history)
}

/// The records, oldest end first. A damaged one is skipped.
///
/// # Errors
/// [`Error::File`].
pub fn list(history: &Path) -> Result<Vec<ExitRecord>> {
    let mut records: Vec<ExitRecord> = files(history)?
        .into_iter()
        .filter_map(|(_, path)| json_file::read(&path).ok().flatten())
        .collect();
    records.sort_by(|one: &ExitRecord, other| one.ended.cmp(&other.ended));
    Ok(records)
}

/// The record of one enclave.
///
/// # Errors
/// [`Error::File`], [`Error::Damaged`].
pub fn of(history: &Path, id: &str) -> Result<Option<ExitRecord>> {
    if !crate::identity::is_enclave_id(id) {
        return Ok(None);
    }
    json_file::read(&history.join(format!("{id}.json")))
}

fn files(history: &Path) -> Result<Vec<(SystemTime, std::path::PathBuf)>> {
    let entries = match fs::read_dir(history) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::file("list", history)(error)),
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "json")
            && let Ok(time) = entry.metadata().and_then(|metadata| metadata.modified())
        {
            found.push((time, path));
        }
    }
    found.sort();
    Ok(found)
}

fn prune(history: &Path) -> Result<()> {
    let found = files(history)?;
    for (_, path) in found.iter().take(found.len().saturating_sub(MAX_RECORDS)) {
        match fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::file("remove", path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: usize) -> ExitRecord {
        ExitRecord {
            enclave_name: "hello".to_owned(),
            enclave_id: format!("i-0123456789abcdef0-enc{number:016x}"),
            enclave_cid: 16,
            memory_mib: 256,
            cpu_ids: vec![2],
            eif_path: "hello.eif".to_owned(),
            debug_mode: false,
            measurements: None,
            started: now(),
            ended: now(),
            reason: Reason::AppExited,
            detail: "the application exited with 3".to_owned(),
            exit_code: Some(3),
            signal: None,
            console_tail: None,
        }
    }

    #[test]
    fn records_come_back_and_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let history = folder.path().join("history");
        for number in 0..MAX_RECORDS + 3 {
            write(&history, &record(number)).unwrap();
        }
        assert_eq!(list(&history).unwrap().len(), MAX_RECORDS);
        let last = record(MAX_RECORDS + 2).enclave_id;
        assert_eq!(of(&history, &last).unwrap().unwrap().exit_code, Some(3));
        assert_eq!(of(&history, "../x").unwrap(), None);
    }

    #[test]
    fn the_time_is_utc_seconds() {
        let text = now();
        assert!(text.ends_with('Z') && text.len() == 20, "{text}");
    }

    #[test]
    fn a_record_without_console_does_not_mention_it() {
        let text = serde_json::to_string(&record(1)).unwrap();
        assert!(text.contains(r#""Reason":"app_exited""#) && !text.contains("Console"), "{text}");
    }
}
