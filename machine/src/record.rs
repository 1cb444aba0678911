//! The record of a running machine in its run folder, and whether its process still lives. A process id alone can be
//! taken over by another process; id and start time together cannot.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::{Accel, Error};

/// Between two looks at a process that should end.
const TICK: Duration = Duration::from_millis(30);

/// What is known about a running machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// QEMU's process id.
    pub pid: i32,
    /// Its start time in clock ticks since boot, `/proc/<pid>/stat` field 22.
    pub start_time: u64,
    /// How it runs.
    pub accel: Accel,
    /// Whether time is counted in instructions.
    pub icount: bool,
    /// Processors of the parent.
    pub cpus: u32,
    /// Memory of the parent, MiB.
    pub memory_mib: u32,
    /// QEMU's version.
    pub qemu: String,
    /// The parent's kernel release.
    pub kernel: String,
    /// `<state>/machine`: console log and share.
    pub state_dir: PathBuf,
    /// Milliseconds from QEMU's start to the agent's first answer.
    pub boot_ms: u64,
}

pub(crate) fn path(folder: &Path) -> PathBuf {
    folder.join("machine.json")
}

pub(crate) fn write(folder: &Path, status: &Status) -> Result<(), Error> {
    let path = path(folder);
    let text = serde_json::to_vec_pretty(status).map_err(|error| Error::File {
        action: "write",
        path: path.clone(),
        source: error.into(),
    })?;
    let draft = folder.join("machine.json.new");
    fs::write(&draft, text).map_err(Error::file("write", &draft))?;
    fs::rename(&draft, &path).map_err(Error::file("write", &path))
}

/// The record, if its process is alive.
pub(crate) fn running(folder: &Path) -> Result<Option<Status>, Error> {
    let path = path(folder);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::File { action: "read", path, source }),
    };
    let status: Status = serde_json::from_slice(&text).map_err(|error| Error::File {
        action: "read",
        path,
        source: error.into(),
    })?;
    // An id of 1, 0 or below would mean init or whole groups to `kill`.
    Ok(Some(status).filter(|status| status.pid > 1 && is_alive(status)))
}

pub(crate) fn is_alive(status: &Status) -> bool {
    match process_state(status.pid) {
        Some((_, start_time)) if start_time != status.start_time => false,
        Some(('Z' | 'X', _)) => {
            // Ended; this process collects it when it is its parent, and nobody is harmed when not.
            let _ = waitpid(Pid::from_raw(status.pid), Some(WaitPidFlag::WNOHANG));
            false
        }
        found => found.is_some(),
    }
}

pub(crate) fn ends_within(status: &Status, patience: Duration) -> bool {
    let begun = Instant::now();
    while is_alive(status) {
        if begun.elapsed() > patience {
            return false;
        }
        sleep(TICK);
    }
    true
}

/// State and start time of a process, fields 3 and 22 of `/proc/<pid>/stat`; none when there is no such process.
pub(crate) fn process_state(pid: i32) -> Option<(char, u64)> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The second field, the name in parentheses, may hold anything, so fields count from its last one.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn status(pid: i32, start_time: u64) -> Status {
        Status {
            pid,
            start_time,
            accel: Accel::Tcg,
            icount: false,
            cpus: 4,
            memory_mib: 4096,
            qemu: "10.0.2".to_owned(),
            kernel: "6.12.117+deb12-amd64".to_owned(),
            state_dir: PathBuf::from("/nonexistent"),
            boot_ms: 5000,
        }
    }

    #[test]
    fn the_start_time_is_found_whatever_the_name() {
        let tail = "1 1 1 0 -1 4194560 5 6 7 8 9 10 11 12 20 0 1 0 4242 100 200";
        assert_eq!(parse_stat(&format!("7 (a) b) (c) S {tail}")), Some(('S', 4242)));
        assert_eq!(parse_stat(&format!("7 (sh) Z {tail}")), Some(('Z', 4242)));
        assert_eq!(parse_stat("7 (sh) S 1 2"), None);
        assert!(process_state(std::process::id().cast_signed()).is_some());
    }

    #[test]
    fn a_record_of_a_dead_or_different_process_is_no_machine() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(running(folder.path()).unwrap(), None);
        let own = std::process::id().cast_signed();
        let alive = status(own, process_state(own).unwrap().1);
        write(folder.path(), &alive).unwrap();
        assert_eq!(running(folder.path()).unwrap(), Some(alive.clone()));
        write(folder.path(), &status(own, alive.start_time + 1)).unwrap();
        assert_eq!(running(folder.path()).unwrap(), None);
        let everybody = Status { pid: -1, ..alive };
        write(folder.path(), &everybody).unwrap();
        assert_eq!(running(folder.path()).unwrap(), None);
        fs::write(path(folder.path()), "{").unwrap();
        assert!(running(folder.path()).is_err());
    }

    #[test]
    fn a_child_that_ended_is_not_alive() {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id().cast_signed();
        let started = process_state(pid).unwrap().1;
        assert!(ends_within(&status(pid, started), Duration::from_secs(20)));
        assert!(process_state(pid).is_none(), "left uncollected");
        let _ = child.wait();
    }
}
