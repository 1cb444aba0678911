//! Ctrl-C in the middle of a build must not leave half an image beside the real one. The builder writes into a file with a name of its own choice and
//! removes it on every way out but a signal; this is that way: a thread waits for the signals that end a command, removes
//! what the process is still writing in the output's folder, and lets the signal do its work.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::{SigSet, Signal, raise};

use crate::error_table::ErrorNumber;
use crate::failure::{Failure, Outcome};

/// What the builder's unfinished files end with.
const UNFINISHED: &str = ".partial";

/// From here on a signal that ends this process first removes unfinished files in `folder`.
pub(crate) fn removed_on_signals(folder: &Path) -> Outcome<()> {
    let set = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT]);
    // Threads take the mask of the one that starts them, so only the waiting thread sees these signals.
    set.thread_block().map_err(|errno| {
        Failure::new(ErrorNumber::UNSPECIFIED, "cannot take charge of signals")
            .because(std::io::Error::from(errno))
    })?;
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    std::thread::spawn(move || {
        if let Ok(signal) = set.wait() {
            for path in open_files().into_iter().filter(|path| is_unfinished(path, &folder)) {
                let _ = fs::remove_file(path);
            }
            // Blocked until now in this thread too: unblocked, it ends the process as it would have.
            let _ = raise(signal);
            let _ = set.thread_unblock();
        }
    });
    Ok(())
}

fn is_unfinished(path: &Path, folder: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    path.parent() == Some(folder) && name.starts_with('.') && name.ends_with(UNFINISHED)
}

/// The files this process has open, by the names the kernel knows.
fn open_files() -> Vec<PathBuf> {
    let Ok(descriptors) = fs::read_dir("/proc/self/fd") else { return Vec::new() };
    descriptors.flatten().filter_map(|entry| fs::read_link(entry.path()).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_processs_unfinished_files_in_the_folder_are_meant() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().canonicalize().unwrap();
        let own = at.join(".eif-1.partial");
        let _open = fs::File::create(&own).unwrap();
        fs::write(at.join(".eif-2.partial"), "another process's").unwrap();
        let found: Vec<PathBuf> =
            open_files().into_iter().filter(|path| is_unfinished(path, &at)).collect();
        assert_eq!(found, [own]);
        assert!(!is_unfinished(Path::new("/x/.eif-1.partial"), &at));
        assert!(!is_unfinished(&at.join("hello.eif"), &at));
    }
}
