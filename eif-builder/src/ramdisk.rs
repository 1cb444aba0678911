//! The two ramdisks of an image: the first boots (`dev/`, `init`), the second is the application
//! (`enclave.toml`, `rootfs/…`). The kernel unpacks both into one root file system. Their layout is a
//! contract with init, written down in docs/architecture.md.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;

use guest_abi::manifest;

use crate::Error;
use crate::cpio::{CpioWriter, Entry, file_type};
use crate::input;
use crate::tree::{Content, Kind, Node, Tree};

/// Folders that init mounts something on, with the permissions they get where an image lacks them.
const MOUNT_POINTS: [(&str, u16); 5] =
    [("dev", 0o755), ("proc", 0o755), ("run", 0o755), ("sys", 0o755), ("tmp", 0o1777)];

/// Where the image's root file system lies in the ramdisk.
const PREFIX: &[u8] = b"rootfs";

/// Writes the boot ramdisk around this init.
pub(crate) fn write_boot(init: &mut dyn Read, size: u64, out: &mut dyn Write) -> Result<(), Error> {
    let mut cpio = CpioWriter::new(out);
    cpio.add(b"dev", folder(0o755), &mut io::empty())?;
    let entry = Entry { mode: file_type::FILE | 0o755, links: 1, size, ..Entry::default() };
    cpio.add(b"init", entry, init)?;
    cpio.finish()
}

/// Gives an image the folders that init needs in it.
///
/// # Errors
/// [`Error::MountPoint`] where the image has something else there.
pub(crate) fn add_mount_points(tree: &mut Tree) -> Result<(), Error> {
    for (name, permissions) in MOUNT_POINTS {
        tree.ensure_mount_point(name, permissions)?;
    }
    Ok(())
}

/// Writes the application ramdisk. `spool` holds the contents of spooled files; `progress` is told
/// about every file's bytes.
pub(crate) fn write_app(
    manifest: &str,
    tree: &Tree,
    spool: Option<&File>,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(u64),
) -> Result<(), Error> {
    let mut cpio = CpioWriter::new(out);
    let mode = file_type::FILE | 0o644;
    let entry = Entry { mode, links: 1, size: manifest.len() as u64, ..Entry::default() };
    cpio.add(manifest::FILE_NAME.as_bytes(), entry, &mut manifest.as_bytes())?;
    let root = tree.node(Tree::root());
    cpio.add(PREFIX, entry_of(root, 1), &mut io::empty())?;

    let total = tree.names_per_node();
    let mut left = total.clone();
    let mut inodes = vec![None; total.len()];
    for found in tree.walk() {
        let index = found.id.index();
        let mut name = PREFIX.to_vec();
        name.push(b'/');
        name.extend_from_slice(&found.path);
        if let Kind::Symlink(target) = &found.node.kind {
            // The kernel makes every symlink from its own data, whatever its number.
            cpio.add(&name, entry_of(found.node, 1), &mut &target[..])?;
            continue;
        }
        let mut entry = entry_of(found.node, total[index]);
        let inode = *inodes[index].get_or_insert_with(|| cpio.new_inode());
        left[index] -= 1;
        if left[index] > 0 {
            // The data comes with the last name.
            entry.size = 0;
            cpio.add_with_inode(&name, inode, entry, &mut io::empty())?;
            continue;
        }
        match &found.node.kind {
            Kind::File(content) => {
                let mut data = open(content, spool)?;
                cpio.add_with_inode(&name, inode, entry, &mut data)?;
                progress(entry.size);
            }
            _ => cpio.add_with_inode(&name, inode, entry, &mut io::empty())?,
        }
    }
    cpio.finish()
}

fn folder(permissions: u32) -> Entry {
    Entry { mode: file_type::FOLDER | permissions, links: 2, ..Entry::default() }
}

fn entry_of(node: &Node, names: u32) -> Entry {
    let permissions = u32::from(node.attributes.permissions);
    let (kind, size, device) = match &node.kind {
        Kind::Folder(_) => (file_type::FOLDER, 0, (0, 0)),
        Kind::File(content) => (file_type::FILE, content.size(), (0, 0)),
        Kind::Symlink(target) => (file_type::SYMLINK, target.len() as u64, (0, 0)),
        Kind::Device { block: true, major, minor } => {
            (file_type::BLOCK_DEVICE, 0, (*major, *minor))
        }
        Kind::Device { block: false, major, minor } => {
            (file_type::CHARACTER_DEVICE, 0, (*major, *minor))
        }
        Kind::Fifo => (file_type::FIFO, 0, (0, 0)),
    };
    let links = if matches!(node.kind, Kind::Folder(_)) { 2 } else { names };
    let (uid, gid) = (node.attributes.uid, node.attributes.gid);
    Entry { mode: kind | permissions, uid, gid, links, size, device }
}

/// The bytes of a file, and not one more: a file of the host may grow while it is read.
pub(crate) fn open<'a>(
    content: &'a Content,
    spool: Option<&'a File>,
) -> Result<Box<dyn Read + 'a>, Error> {
    Ok(match content {
        Content::Spooled { offset, size } => {
            Box::new(SpoolReader { spool, offset: *offset, left: *size })
        }
        Content::Host { path, size } => Box::new(input::open_unfollowed(path)?.take(*size)),
    })
}

struct SpoolReader<'a> {
    spool: Option<&'a File>,
    offset: u64,
    left: u64,
}

impl Read for SpoolReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(spool) = self.spool else {
            return Ok(0);
        };
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = spool.read_at(&mut buffer[..most], self.offset)?;
        self.offset += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
