//! Writing cpio archives in the `newc` format, the one the kernel unpacks into its first root file
//! system (Linux `Documentation/driver-api/early-userspace/buffer-format.rst`). The bytes depend on
//! content only: inode numbers count up from 1, times are 0, device numbers of the archive's own file
//! system are 0. Of files with several names the last one carries the data, which the kernel's
//! `init/initramfs.c` and GNU cpio both understand. Extended attributes do not exist in the format.

use std::io::{Read, Write};

use crate::Error;
use crate::error::shown;
use crate::write::copy;

/// The kernel passes over longer names and link targets without a word.
const MAX_PATH: usize = 4095;

/// The archive ends with a file of this name.
const TRAILER: &[u8] = b"TRAILER!!!";

/// The whole archive is padded to this, as by other writers.
const BLOCK: usize = 512;

/// The type bits of a mode.
pub(crate) mod file_type {
    pub(crate) const FIFO: u32 = 0o010_000;
    pub(crate) const CHARACTER_DEVICE: u32 = 0o020_000;
    pub(crate) const FOLDER: u32 = 0o040_000;
    pub(crate) const BLOCK_DEVICE: u32 = 0o060_000;
    pub(crate) const FILE: u32 = 0o100_000;
    pub(crate) const SYMLINK: u32 = 0o120_000;
}

/// The attributes of one entry.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Entry {
    /// Type and permissions.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Names of this file; 2 for folders.
    pub(crate) links: u32,
    /// Bytes of data that follow.
    pub(crate) size: u64,
    /// For device files: major and minor.
    pub(crate) device: (u32, u32),
}

/// An archive in the making.
pub(crate) struct CpioWriter<'a> {
    out: &'a mut dyn Write,
    /// Bytes written since a whole number of blocks: all that padding needs to know.
    position: usize,
    last_inode: u32,
}

impl<'a> CpioWriter<'a> {
    pub(crate) fn new(out: &'a mut dyn Write) -> Self {
        Self { out, position: 0, last_inode: 0 }
    }

    /// A number for a file that will have several names.
    pub(crate) fn new_inode(&mut self) -> u32 {
        // As many entries as a u32 counts do not fit into memory, let alone into the limits.
        self.last_inode = self.last_inode.saturating_add(1);
        self.last_inode
    }

    /// Adds something with exactly one name.
    pub(crate) fn add(
        &mut self,
        name: &[u8],
        entry: Entry,
        data: &mut dyn Read,
    ) -> Result<(), Error> {
        let inode = self.new_inode();
        self.add_with_inode(name, inode, entry, data)
    }

    /// Adds one name of the file with this number.
    pub(crate) fn add_with_inode(
        &mut self,
        name: &[u8],
        inode: u32,
        entry: Entry,
        data: &mut dyn Read,
    ) -> Result<(), Error> {
        let refuse = |problem: String| Error::Cpio { path: shown(name), problem };
        if name.is_empty() || name == TRAILER || name.contains(&0) {
            return Err(refuse("this name is not possible in it".to_owned()));
        }
        if name.len() > MAX_PATH {
            return Err(refuse(format!(
                "its path has {} bytes, the limit is {MAX_PATH}",
                name.len()
            )));
        }
        let Ok(size) = u32::try_from(entry.size) else {
            return Err(refuse(format!("it has {} bytes, the limit is {}", entry.size, u32::MAX)));
        };
        if entry.mode & 0o170_000 == file_type::SYMLINK && entry.size > MAX_PATH as u64 {
            return Err(refuse(format!("its target has {size} bytes, the limit is {MAX_PATH}")));
        }
        self.header(name, inode, entry, size)?;
        let copied = copy(data, &mut *self.out, &shown(name))?;
        if copied != entry.size {
            return Err(Error::Length {
                what: format!("`{}`", shown(name)),
                found: copied,
                expected: entry.size,
            });
        }
        self.advance(size as usize);
        self.pad(4)
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> Result<(), Error> {
        let inode = self.new_inode();
        self.header(TRAILER, inode, Entry { links: 1, ..Entry::default() }, 0)?;
        self.pad(BLOCK)
    }

    fn header(&mut self, name: &[u8], inode: u32, entry: Entry, size: u32) -> Result<(), Error> {
        let (major, minor) = entry.device;
        // At most MAX_PATH and the NUL.
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        let fields = [
            inode,
            entry.mode,
            entry.uid,
            entry.gid,
            entry.links,
            0,
            size,
            0,
            0,
            major,
            minor,
            name_size,
            0,
        ];
        let mut header = Vec::with_capacity(110 + name.len() + 4);
        header.extend_from_slice(b"070701");
        for field in fields {
            // Writing to a Vec cannot fail.
            let _ = write!(header, "{field:08x}");
        }
        header.extend_from_slice(name);
        header.push(0);
        self.write(&header)?;
        self.pad(4)
    }

    fn pad(&mut self, to: usize) -> Result<(), Error> {
        const ZEROS: [u8; BLOCK] = [0; BLOCK];
        let missing = self.position.next_multiple_of(to) - self.position;
        self.write(&ZEROS[..missing])
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.advance(bytes.len());
        self.out
            .write_all(bytes)
            .map_err(|source| Error::Copy { what: "the ramdisk".to_owned(), source })
    }

    const fn advance(&mut self, bytes: usize) {
        self.position = (self.position + bytes % BLOCK) % BLOCK;
    }
}

#[cfg(test)]
pub(crate) mod tests;
