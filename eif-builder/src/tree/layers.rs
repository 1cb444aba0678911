//! Putting the entries of a layer into a tree (OCI image-spec, layer.md "Applying Changesets"): a later
//! entry replaces an earlier one of its name, except that a folder is merged with a folder; `.wh.x`
//! hides `x` of older layers, `.wh..wh..opq` everything of older layers in its folder, wherever in
//! the layer they stand.

use super::{Attributes, Child, Kind, Lost, MAX_NAME, NodeId, Tree, components};
use crate::Error;

/// How the name of an entry begins that hides one.
pub(super) const WHITEOUT: &[u8] = b".wh.";

/// What an entry of a layer means.
#[derive(Debug)]
pub(crate) enum Change {
    /// There is this now.
    Put(Attributes, Kind),
    /// There is one more name for what is at this path.
    Link(Vec<u8>),
}

/// Why an entry cannot be part of an image: for the message.
pub(crate) type Problem = String;

impl Tree {
    /// Applies one entry. Paths are those of the archive; a leading slash means nothing.
    pub(crate) fn apply(
        &mut self,
        path: &[u8],
        change: Change,
        layer: u32,
    ) -> Result<Result<(), Problem>, Error> {
        if layer != self.hidden_in {
            self.hidden.clear();
            self.hidden_in = layer;
        }
        if let Err(problem) = check(path) {
            return Ok(Err(problem));
        }
        let mut names = components(path);
        let Some(name) = names.next_back() else {
            return Ok(self.put_root(&change));
        };
        if let Some(folder) = names.clone().find(|name| name.starts_with(WHITEOUT)) {
            return Ok(bookkeeping(folder));
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return Ok(self.whiteout(names, hidden, layer));
        }
        let parent = match self.make_folders(names, layer)? {
            Ok(parent) => parent,
            Err(lost) => return Ok(Err(format!("its folder {}", lost.reason()))),
        };
        match change {
            Change::Put(attributes, Kind::Folder(_)) => {
                match self.child(parent, name).filter(|child| self.is_folder(child.node)) {
                    Some(child) => {
                        self.set_attributes(child.node, attributes);
                        self.touch(parent, name, layer);
                    }
                    None => {
                        self.add(parent, name, attributes, Kind::folder(), layer)?;
                    }
                }
            }
            Change::Put(attributes, kind) => {
                self.add(parent, name, attributes, kind, layer)?;
            }
            Change::Link(target) => {
                if let Err(problem) = check(&target) {
                    return Ok(Err(format!("hard link: {problem}")));
                }
                match self.resolve(&target, false) {
                    Ok(node) if self.is_folder(node) => {
                        return Ok(Err("hard link to a folder".to_owned()));
                    }
                    Ok(node) => self.add_link(parent, name, node, layer)?,
                    Err(lost) => {
                        let target = crate::error::shown(&target);
                        return Ok(Err(format!("hard link: `{target}` {}", lost.reason())));
                    }
                }
            }
        }
        Ok(Ok(()))
    }

    /// An entry for the root itself, `./`.
    fn put_root(&mut self, change: &Change) -> Result<(), Problem> {
        match change {
            Change::Put(attributes, Kind::Folder(_)) => {
                self.set_attributes(Self::root(), *attributes);
                Ok(())
            }
            _ => Err("the root is not a folder".to_owned()),
        }
    }

    /// Hides older things; nothing there to hide is no error.
    fn whiteout<'a>(
        &mut self,
        folder: impl DoubleEndedIterator<Item = &'a [u8]>,
        hidden: &[u8],
        layer: u32,
    ) -> Result<(), Problem> {
        if hidden.is_empty() || hidden == b"." || hidden == b".." {
            return Err("a whiteout of nothing".to_owned());
        }
        let folder = match self.resolve(&folder.collect::<Vec<_>>().join(&b'/'), true) {
            Ok(folder) => folder,
            Err(Lost::Missing | Lost::NotFolder) => return Ok(()),
            Err(Lost::Loop) => return Err(format!("its folder {}", Lost::Loop.reason())),
        };
        if hidden == b".wh..opq" {
            self.hide_older(folder, layer);
            return Ok(());
        }
        if hidden.starts_with(WHITEOUT) {
            // `.wh..wh.aufs` and its like: see `bookkeeping`.
            return Ok(());
        }
        match self.child(folder, hidden) {
            Some(child) if child.layer < layer => self.forget(folder, hidden),
            Some(child) => self.hide_older(child.node, layer),
            None => {}
        }
        Ok(())
    }

    /// Removes everything under a folder that `layer` has not mentioned.
    fn hide_older(&mut self, folder: NodeId, layer: u32) {
        let mut folders = vec![folder];
        while let Some(folder) = folders.pop() {
            if !self.hidden.insert(folder) {
                continue;
            }
            if let Kind::Folder(children) = &mut self.nodes[folder.0].kind {
                children.retain(|_, child: &mut Child| child.layer >= layer);
                folders.extend(children.values().map(|child| child.node));
            }
        }
    }

    fn forget(&mut self, folder: NodeId, name: &[u8]) {
        if let Kind::Folder(children) = &mut self.nodes[folder.0].kind {
            children.remove(name);
        }
    }
}

/// An entry in a folder named like a whiteout. `.wh..wh.plnk/…`, which a file system long gone noted
/// down for itself, is passed over; anything else is no layer's business.
fn bookkeeping(folder: &[u8]) -> Result<(), Problem> {
    match folder.strip_prefix(WHITEOUT) {
        Some(rest) if rest.starts_with(WHITEOUT) => Ok(()),
        _ => Err("a whiteout used as a folder".to_owned()),
    }
}

/// Refuses paths that no honest layer has.
fn check(path: &[u8]) -> Result<(), Problem> {
    if path.contains(&0) {
        return Err("a NUL byte in its path".to_owned());
    }
    for name in components(path) {
        if name == b".." {
            return Err("`..` in its path".to_owned());
        }
        // Whiteouts are names of names: a little longer.
        if name.len() > MAX_NAME + 4 {
            return Err(format!("a name of {} bytes, the limit is {MAX_NAME}", name.len()));
        }
    }
    Ok(())
}
