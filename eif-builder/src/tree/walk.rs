//! Going through a tree in the one order everything is written in: a folder before what is in it,
//! names sorted by their bytes.

use std::collections::btree_map;

use super::{Child, Kind, Node, NodeId, Tree};

/// Something in the tree, and one of its names.
pub(crate) struct Found<'a> {
    /// From the root, without a leading slash; never empty: the root itself is not found.
    pub(crate) path: Vec<u8>,
    pub(crate) id: NodeId,
    pub(crate) node: &'a Node,
}

pub(crate) struct Walk<'a> {
    tree: &'a Tree,
    open: Vec<OpenFolder<'a>>,
    path: Vec<u8>,
}

struct OpenFolder<'a> {
    path_length: usize,
    children: btree_map::Iter<'a, Box<[u8]>, Child>,
}

impl Tree {
    /// Everything but the root.
    pub(crate) fn walk(&self) -> Walk<'_> {
        let mut walk = Walk { tree: self, open: Vec::new(), path: Vec::new() };
        walk.enter(Self::root());
        walk
    }

    /// How many names each node has.
    pub(crate) fn names_per_node(&self) -> Vec<u32> {
        let mut names = vec![0; self.nodes.len()];
        for found in self.walk() {
            names[found.id.0] += 1;
        }
        names
    }
}

impl NodeId {
    /// The place of this node in [`Tree::names_per_node`].
    pub(crate) const fn index(self) -> usize {
        self.0
    }
}

impl Walk<'_> {
    fn enter(&mut self, id: NodeId) {
        if let Kind::Folder(children) = &self.tree.node(id).kind {
            let (path_length, children) = (self.path.len(), children.iter());
            self.open.push(OpenFolder { path_length, children });
        }
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = Found<'a>;

    fn next(&mut self) -> Option<Found<'a>> {
        loop {
            let folder = self.open.last_mut()?;
            self.path.truncate(folder.path_length);
            let Some((name, child)) = folder.children.next() else {
                self.open.pop();
                continue;
            };
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name);
            self.enter(child.node);
            let node = self.tree.node(child.node);
            return Some(Found { path: self.path.clone(), id: child.node, node });
        }
    }
}
