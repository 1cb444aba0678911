//! Following a path through a tree, symlinks included, as the kernel would with the tree as its root:
//! `..` stops at the root, an absolute link starts there, and after 40 links it is a loop.

use super::layers::WHITEOUT;
use super::{Attributes, Child, Kind, MAX_NAME, NodeId, Tree};
use crate::Error;

/// As in the kernel's `path_resolution(7)`.
const MAX_LINKS: u32 = 40;

/// Components followed for one path, links included: bounds the time a hostile path costs.
const MAX_STEPS: u32 = 4096;

/// Why a path leads nowhere.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Lost {
    /// Something on the way, or its end, is not there.
    Missing,
    /// Something on the way is no folder.
    NotFolder,
    /// Too many links, or a path too long.
    Loop,
}

impl Lost {
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::Missing => "is not there",
            Self::NotFolder => "goes through something that is not a folder",
            Self::Loop => "goes through too many symlinks",
        }
    }
}

/// The names in a path; `.` and repeated slashes are none.
pub(crate) fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> + Clone {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".")
}

/// A path being followed.
struct Cursor {
    /// The folders from the root to here.
    stack: Vec<NodeId>,
    /// Names to come, the next one last.
    pending: Vec<Box<[u8]>>,
    steps: u32,
    links: u32,
}

enum Step {
    /// A name was consumed.
    Moved,
    /// The end: this node, which is a folder unless its name was the last.
    At(NodeId),
    /// The next name is not in the folder on top; it has been taken from `pending`.
    Missing(Box<[u8]>),
}

impl Cursor {
    fn new<'a>(names: impl DoubleEndedIterator<Item = &'a [u8]>) -> Self {
        let pending = names.rev().map(Into::into).collect();
        Self { stack: vec![Tree::root()], pending, steps: 0, links: 0 }
    }

    fn here(&self) -> NodeId {
        self.stack.last().copied().unwrap_or(Tree::root())
    }

    fn step(&mut self, tree: &Tree, follow_last: bool) -> Result<Step, Lost> {
        let Some(name) = self.pending.pop() else {
            return Ok(Step::At(self.here()));
        };
        self.steps += 1;
        if self.steps > MAX_STEPS || self.stack.len() + self.pending.len() > MAX_STEPS as usize {
            return Err(Lost::Loop);
        }
        if *name == *b".." {
            self.stack.truncate(self.stack.len().saturating_sub(1).max(1));
            return Ok(Step::Moved);
        }
        let Some(Child { node, .. }) = tree.child(self.here(), &name) else {
            return Ok(Step::Missing(name));
        };
        let last = self.pending.is_empty();
        match &tree.node(node).kind {
            Kind::Folder(_) => {
                self.stack.push(node);
                Ok(Step::Moved)
            }
            Kind::Symlink(target) if !last || follow_last => {
                self.links += 1;
                if self.links > MAX_LINKS {
                    return Err(Lost::Loop);
                }
                if target.starts_with(b"/") {
                    self.stack.truncate(1);
                }
                self.pending.extend(components(target).rev().map(Into::into));
                Ok(Step::Moved)
            }
            _ if last => Ok(Step::At(node)),
            _ => Err(Lost::NotFolder),
        }
    }
}

impl Tree {
    /// Where a path leads; a symlink at its very end is followed where `follow_last` says so.
    pub(crate) fn resolve(&self, path: &[u8], follow_last: bool) -> Result<NodeId, Lost> {
        self.follow(&mut Cursor::new(components(path)), follow_last)
    }

    fn follow(&self, cursor: &mut Cursor, follow_last: bool) -> Result<NodeId, Lost> {
        loop {
            match cursor.step(self, follow_last)? {
                Step::Moved => {}
                Step::At(node) => return Ok(node),
                Step::Missing(_) => return Err(Lost::Missing),
            }
        }
    }

    /// The folder these names lead to. Folders that are missing are made, 0755 and root's; those on
    /// the way count as mentioned by `layer`.
    pub(crate) fn make_folders<'a>(
        &mut self,
        names: impl DoubleEndedIterator<Item = &'a [u8]>,
        layer: u32,
    ) -> Result<Result<NodeId, Lost>, Error> {
        let mut cursor = Cursor::new(names);
        loop {
            let parent = cursor.here();
            let name = cursor.pending.last().cloned();
            let step = match cursor.step(self, true) {
                Ok(step) => step,
                Err(lost) => return Ok(Err(lost)),
            };
            match step {
                Step::At(node) if self.is_folder(node) => return Ok(Ok(node)),
                Step::At(_) => return Ok(Err(Lost::NotFolder)),
                Step::Missing(name) => {
                    // Neither can be in a file system; only a symlink's target gets here with one.
                    if name.len() > MAX_NAME || name.starts_with(WHITEOUT) {
                        return Ok(Err(Lost::Missing));
                    }
                    let attributes = Attributes::root(0o755);
                    let node = self.add(parent, &name, attributes, Kind::folder(), layer)?;
                    cursor.stack.push(node);
                }
                Step::Moved => {
                    // A symlink on the way is not what the layer is about.
                    if let Some(name) = name
                        && self.child(parent, &name).is_some_and(|child| self.is_folder(child.node))
                    {
                        self.touch(parent, &name, layer);
                    }
                }
            }
        }
    }

    /// Notes that `layer` mentioned a name.
    pub(super) fn touch(&mut self, parent: NodeId, name: &[u8], layer: u32) {
        if let Kind::Folder(children) = &mut self.nodes[parent.0].kind
            && let Some(child) = children.get_mut(name)
        {
            child.layer = layer;
        }
    }
}
