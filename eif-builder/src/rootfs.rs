//! A folder of the host as an image's root file system. What comes out must not depend on who built
//! it: everything belongs to root, times are dropped, names are sorted by their bytes. Permissions are
//! kept as they are, because they mean something (0600 is not 0644); whoever wants the same bits
//! on every machine creates the files with explicit modes (`install -m`), not by way of the umask.
//! Extended attributes are dropped. Nothing but regular files is ever opened, and no link is
//! followed.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::Error;
use crate::error::shown;
use crate::tree::{Attributes, Content, Kind, NodeId, Tree, TreeLimits};

/// Reads names and attributes of everything below `folder`.
pub(crate) fn read(folder: &Path, limits: TreeLimits) -> Result<Tree, Error> {
    let mut tree = Tree::new(limits);
    let top = fs::metadata(folder).map_err(Error::io("open", folder))?;
    if !top.is_dir() {
        let problem = "it is not a folder".to_owned();
        return Err(Error::Unsupported { path: shown(folder.as_os_str().as_bytes()), problem });
    }
    tree.set_attributes(Tree::root(), attributes(&top));
    // Files with several names, by device and inode.
    let mut linked: HashMap<(u64, u64), NodeId> = HashMap::new();
    let mut folders: Vec<(PathBuf, NodeId)> = vec![(folder.to_owned(), Tree::root())];
    while let Some((path, id)) = folders.pop() {
        for name in sorted_names(&path)? {
            let child = path.join(std::ffi::OsStr::from_bytes(&name));
            let metadata = fs::symlink_metadata(&child).map_err(Error::io("read", &child))?;
            let key = (metadata.dev(), metadata.ino());
            if !metadata.is_dir()
                && metadata.nlink() > 1
                && let Some(node) = linked.get(&key)
            {
                tree.link_in(id, &name, *node)?;
                continue;
            }
            let kind = kind(&child, &metadata)?;
            let node = tree.add(id, &name, attributes(&metadata), kind, 0)?;
            if metadata.is_dir() {
                folders.push((child, node));
            } else if metadata.nlink() > 1 {
                linked.insert(key, node);
            }
        }
    }
    Ok(tree)
}

fn sorted_names(folder: &Path) -> Result<Vec<Vec<u8>>, Error> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        names.push(entry.map_err(Error::io("read", folder))?.file_name().into_vec());
    }
    names.sort_unstable();
    Ok(names)
}

fn attributes(metadata: &Metadata) -> Attributes {
    // Masked to 12 bits, so it fits.
    let permissions = u16::try_from(metadata.permissions().mode() & 0o7777).unwrap_or(0);
    Attributes::root(permissions)
}

fn kind(path: &Path, metadata: &Metadata) -> Result<Kind, Error> {
    let file_type = metadata.file_type();
    if file_type.is_file() {
        let content = Content::Host { path: path.to_owned(), size: metadata.len() };
        return Ok(Kind::File(content));
    }
    if file_type.is_dir() {
        return Ok(Kind::folder());
    }
    if file_type.is_symlink() {
        let target = fs::read_link(path).map_err(Error::io("read", path))?;
        return Ok(Kind::Symlink(target.into_os_string().into_vec().into_boxed_slice()));
    }
    if file_type.is_fifo() {
        return Ok(Kind::Fifo);
    }
    if file_type.is_block_device() || file_type.is_char_device() {
        let device = metadata.rdev();
        let block = file_type.is_block_device();
        return Ok(Kind::Device { block, major: libc::major(device), minor: libc::minor(device) });
    }
    Err(Error::Unsupported {
        path: shown(path.as_os_str().as_bytes()),
        problem: "it is a socket; only a running program can make one".to_owned(),
    })
}
