//! The root file system of an image, held as names and attributes only; file contents stay where they
//! are. Layers are merged here and nowhere else, so that no name, link or device of an image ever
//! touches the host's file system: a symlink in a tree can lead nowhere but into the tree. Memory is
//! bounded by [`TreeLimits`], and nothing recurses, so depth costs no stack.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use crate::Error;

mod layers;
mod path;
mod walk;

pub(crate) use layers::Change;
pub(crate) use path::{Lost, components};

/// The longest name of one file; the kernel's NAME_MAX.
const MAX_NAME: usize = 255;

/// What a node costs beside its names: rounded up from the structures below.
const NODE_COST: u64 = 256;

/// How large a tree may become.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TreeLimits {
    /// Files, folders, links and devices, counting replaced ones too.
    pub(crate) entries: u64,
    /// Bytes of memory, about.
    pub(crate) memory: u64,
}

impl TreeLimits {
    pub(crate) const DEFAULT: Self = Self { entries: 2_000_000, memory: 512 << 20 };
}

/// Owner and permissions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Attributes {
    /// The low 12 bits of a mode: set-id and sticky bits, rwx.
    pub(crate) permissions: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Attributes {
    /// Owned by root.
    pub(crate) const fn root(permissions: u16) -> Self {
        Self { permissions, uid: 0, gid: 0 }
    }
}

/// Where the bytes of a file are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Content {
    /// In the spool file of the image.
    Spooled { offset: u64, size: u64 },
    /// In a file of the host.
    Host { path: PathBuf, size: u64 },
}

impl Content {
    pub(crate) const fn size(&self) -> u64 {
        match self {
            Self::Spooled { size, .. } | Self::Host { size, .. } => *size,
        }
    }
}

/// What something in the tree is.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Folder(BTreeMap<Box<[u8]>, Child>),
    File(Content),
    Symlink(Box<[u8]>),
    Device { block: bool, major: u32, minor: u32 },
    Fifo,
}

impl Kind {
    pub(crate) const fn folder() -> Self {
        Self::Folder(BTreeMap::new())
    }

    pub(crate) const fn noun(&self) -> &'static str {
        match self {
            Self::Folder(_) => "folder",
            Self::File(_) => "file",
            Self::Symlink(_) => "symlink",
            Self::Device { .. } => "device",
            Self::Fifo => "FIFO",
        }
    }
}

/// A name in a folder.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Child {
    node: NodeId,
    /// The last layer that had something to say about it; whiteouts hide older ones only.
    layer: u32,
}

/// A file by whatever name; hard links are several names for one node.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct NodeId(usize);

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) attributes: Attributes,
    pub(crate) kind: Kind,
}

/// A root file system.
#[derive(Debug)]
pub(crate) struct Tree {
    /// Nodes that lost their last name stay here until the tree goes; they were paid for.
    nodes: Vec<Node>,
    limits: TreeLimits,
    entries: u64,
    memory: u64,
    /// Folders whose older contents this layer already hid, so that it is done once each.
    hidden: HashSet<NodeId>,
    hidden_in: u32,
}

impl Tree {
    /// An empty root, 0755.
    pub(crate) fn new(limits: TreeLimits) -> Self {
        let root = Node { attributes: Attributes::root(0o755), kind: Kind::folder() };
        Self {
            nodes: vec![root],
            limits,
            entries: 0,
            memory: 0,
            hidden: HashSet::new(),
            hidden_in: 0,
        }
    }

    pub(crate) const fn root() -> NodeId {
        NodeId(0)
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        // Ids are made by this tree only, and nodes never go away.
        &self.nodes[id.0]
    }

    /// Gives `parent` a child, in place of one of that name.
    pub(crate) fn add(
        &mut self,
        parent: NodeId,
        name: &[u8],
        attributes: Attributes,
        kind: Kind,
        layer: u32,
    ) -> Result<NodeId, Error> {
        let target = if let Kind::Symlink(target) = &kind { target.len() } else { 0 };
        self.pay(name, target)?;
        let node = NodeId(self.nodes.len());
        self.nodes.push(Node { attributes, kind });
        self.name(parent, name, Child { node, layer });
        Ok(node)
    }

    /// Gives an existing node one more name.
    fn add_link(
        &mut self,
        parent: NodeId,
        name: &[u8],
        node: NodeId,
        layer: u32,
    ) -> Result<(), Error> {
        self.pay(name, 0)?;
        self.name(parent, name, Child { node, layer });
        Ok(())
    }

    /// One more name for `node`, from a source that knows which folder it is in.
    pub(crate) fn link_in(
        &mut self,
        parent: NodeId,
        name: &[u8],
        node: NodeId,
    ) -> Result<(), Error> {
        self.add_link(parent, name, node, 0)
    }

    pub(crate) fn set_attributes(&mut self, id: NodeId, attributes: Attributes) {
        self.nodes[id.0].attributes = attributes;
    }

    fn name(&mut self, parent: NodeId, name: &[u8], child: Child) {
        if let Kind::Folder(children) = &mut self.nodes[parent.0].kind {
            children.insert(name.into(), child);
        }
    }

    fn child(&self, parent: NodeId, name: &[u8]) -> Option<Child> {
        match &self.node(parent).kind {
            Kind::Folder(children) => children.get(name).copied(),
            _ => None,
        }
    }

    fn is_folder(&self, id: NodeId) -> bool {
        matches!(self.node(id).kind, Kind::Folder(_))
    }

    /// Counts an entry against the limits, replaced or not: layers are hostile.
    fn pay(&mut self, name: &[u8], target: usize) -> Result<(), Error> {
        self.entries += 1;
        self.memory += NODE_COST + (name.len() + target) as u64;
        if self.entries > self.limits.entries {
            return Err(Error::Limit { what: "entries", limit: self.limits.entries });
        }
        if self.memory > self.limits.memory {
            return Err(Error::Limit {
                what: "bytes of names and attributes",
                limit: self.limits.memory,
            });
        }
        Ok(())
    }

    /// Makes sure there is a folder of this name in the root: for mount points.
    pub(crate) fn ensure_mount_point(
        &mut self,
        name: &'static str,
        permissions: u16,
    ) -> Result<(), Error> {
        match self.child(Self::root(), name.as_bytes()) {
            None => {
                let attributes = Attributes::root(permissions);
                self.add(Self::root(), name.as_bytes(), attributes, Kind::folder(), 0)?;
                Ok(())
            }
            Some(child) if self.is_folder(child.node) => Ok(()),
            Some(child) => {
                Err(Error::MountPoint { path: name, found: self.node(child.node).kind.noun() })
            }
        }
    }
}

#[cfg(test)]
mod tests;
