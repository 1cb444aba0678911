//! A file that is there as a whole or not at all. It has no name while it is written, where the file
//! system can do that (`O_TMPFILE`), so that not even `kill -9` leaves anything; elsewhere it has a
//! temporary one in the folder of the output. At the end it takes the output's place in one step.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::linkat;
use tempfile::NamedTempFile;

use super::folder_of;

/// What temporary names begin and end with.
const PREFIX: &str = ".eif-";
const SUFFIX: &str = ".partial";

/// What everybody may do with an image, less the umask.
const MODE: u32 = 0o666;

pub(super) enum OutputFile {
    Unnamed(File),
    Named(NamedTempFile),
}

impl OutputFile {
    pub(super) fn create(output: &Path) -> io::Result<Self> {
        let folder = folder_of(output);
        let unnamed = OpenOptions::new()
            .read(true)
            .write(true)
            .mode(MODE)
            .custom_flags(libc::O_TMPFILE)
            .open(&folder);
        if let Ok(file) = unnamed
            && name_of(&file).exists()
        {
            return Ok(Self::Unnamed(file));
        }
        let file = tempfile::Builder::new()
            .prefix(PREFIX)
            .suffix(SUFFIX)
            .permissions(Permissions::from_mode(MODE))
            .tempfile_in(&folder)?;
        Ok(Self::Named(file))
    }

    pub(super) fn file(&self) -> &File {
        match self {
            Self::Unnamed(file) => file,
            Self::Named(file) => file.as_file(),
        }
    }

    /// Waits until all of it is on disk and gives it the name of the output.
    pub(super) fn persist(self, output: &Path) -> io::Result<()> {
        self.file().sync_all()?;
        match self {
            Self::Unnamed(file) => {
                // A link cannot take the place of a file, a rename can: link it under a temporary name
                // first, which is tried anew where it is taken and goes away if the rename fails.
                let name = name_of(&file);
                let linked = tempfile::Builder::new()
                    .prefix(PREFIX)
                    .suffix(SUFFIX)
                    .make_in(folder_of(output), |path| {
                        Ok(linkat(AT_FDCWD, &name, AT_FDCWD, path, AtFlags::AT_SYMLINK_FOLLOW)?)
                    })?;
                linked.into_temp_path().persist(output)?;
            }
            Self::Named(file) => {
                file.persist(output)?;
            }
        }
        // The new name lies in the folder. The image is complete either way, and some file systems do
        // not let folders be synchronised.
        if let Ok(folder) = File::open(folder_of(output)) {
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

/// The name by which a file without one can be reached.
fn name_of(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}
