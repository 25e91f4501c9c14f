//! Which node is the sum of which.

use std::collections::HashMap;

use super::error::{ReconcileError, StructureError};
use super::forest::Forest;

/// Which nodes are sums of which others: the summing matrix S of the literature (nodes × leaves, entries 0 and 1), kept
/// as the edges it was given by, so that `S b` and `Sᵀ v` take as many additions as there are edges.
///
/// A node may be a part of several others (a site of its feeder and of its tariff class), so long as no node counts a
/// leaf twice. Leaves that are parts of nothing are allowed; nothing moves them.
#[derive(Debug, Clone, PartialEq)]
pub struct Structure {
    names: Vec<String>,
    index: HashMap<String, usize>,
    leaves: usize,
    /// `parts[part_offsets[k]..part_offsets[k + 1]]` are the parts of node `leaves + k`.
    part_offsets: Vec<usize>,
    parts: Vec<usize>,
    /// Nodes that are not leaves, parts before wholes.
    bottom_up: Vec<usize>,
    /// Whether no node is a part of two others.
    tree: bool,
    forest: Forest,
    /// Nodes that are not leaves and not in the forest.
    outside_forest: Vec<usize>,
}

impl Structure {
    /// A structure over `leaves`, in which each of `nodes` is the sum of its parts: leaves, or other nodes in any
    /// order.
    ///
    /// # Errors
    /// [`StructureError`] names the first node that is declared twice, without parts, with an unknown or repeated part,
    /// part of itself, or counting a leaf twice.
    pub fn new<S: AsRef<str>>(leaves: &[S], nodes: &[(S, Vec<S>)]) -> Result<Structure, StructureError> {
        let names: Vec<String> =
            leaves.iter().chain(nodes.iter().map(|(name, _)| name)).map(|name| name.as_ref().to_owned()).collect();
        let mut index = HashMap::with_capacity(names.len());
        for (i, name) in names.iter().enumerate() {
            if index.insert(name.clone(), i).is_some() {
                return Err(StructureError::DeclaredTwice { name: name.clone() });
            }
        }
        let (part_offsets, parts) = resolve_parts(leaves.len(), &names, &index, nodes)?;
        let mut structure = Structure {
            names,
            index,
            leaves: leaves.len(),
            part_offsets,
            parts,
            bottom_up: Vec::new(),
            tree: true,
            forest: Forest::default(),
            outside_forest: Vec::new(),
        };
        structure.bottom_up = structure.order_bottom_up()?;
        let parents;
        (parents, structure.tree) = structure.first_parents();
        if structure.tree {
            structure.forest = Forest::new(structure.leaves, parents, structure.bottom_up.clone());
        } else {
            let sets = structure.leaf_sets()?;
            (structure.forest, structure.outside_forest) =
                Forest::within(structure.leaves, structure.names.len(), &structure.bottom_up, &sets);
        }
        Ok(structure)
    }

    /// Names of all nodes: the leaves, then the others, both as they were given. Every vector over nodes has this
    /// order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Position of a node in vectors over nodes.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    /// Number of nodes, leaves included.
    pub fn nodes(&self) -> usize {
        self.names.len()
    }

    /// Number of leaves; they are the first entries of vectors over nodes.
    pub fn leaves(&self) -> usize {
        self.leaves
    }

    /// True where no node is a part of two others.
    pub fn is_tree(&self) -> bool {
        self.tree
    }

    /// Parts of the node at `position`; none for a leaf.
    pub fn parts(&self, position: usize) -> &[usize] {
        let offset = |k: usize| self.part_offsets.get(k).copied();
        let bounds = position.checked_sub(self.leaves).and_then(|k| offset(k).zip(offset(k + 1)));
        bounds.map_or(&[][..], |(from, to)| &self.parts[from..to])
    }

    /// Number of leaves under each node; one for a leaf.
    pub fn leaf_counts(&self) -> Vec<usize> {
        let mut counts = vec![1; self.nodes()];
        for &node in &self.bottom_up {
            counts[node] = self.parts(node).iter().map(|part| counts[*part]).sum();
        }
        counts
    }

    pub(super) fn forest(&self) -> &Forest {
        &self.forest
    }

    /// True where the forest leaves no node out, so that its solution is that of the whole structure.
    pub(super) fn is_forest(&self) -> bool {
        self.outside_forest.is_empty()
    }

    pub(super) fn nodes_outside_forest(&self) -> usize {
        self.outside_forest.len()
    }

    pub(super) fn name(&self, position: usize) -> String {
        self.names.get(position).cloned().unwrap_or_default()
    }

    /// `S b`: overwrites every node that is not a leaf with the sum of its leaves. `values` over nodes.
    pub(super) fn sum_up(&self, values: &mut [f64]) {
        for &node in &self.bottom_up {
            values[node] = self.parts(node).iter().map(|part| values[*part]).sum();
        }
    }

    /// `Sᵀ v`: adds to every leaf the values of all nodes above it. `values` over nodes; only its leaves mean anything
    /// afterwards.
    pub(super) fn sum_down(&self, values: &mut [f64]) {
        for &node in self.bottom_up.iter().rev() {
            let value = values[node];
            for &part in self.parts(node) {
                values[part] += value;
            }
        }
    }

    /// Fails unless `values` has one entry a node.
    pub(super) fn check_length(&self, what: &'static str, found: usize) -> Result<(), ReconcileError> {
        let expected = self.nodes();
        if found == expected { Ok(()) } else { Err(ReconcileError::Length { what, found, expected }) }
    }

    /// The same structure, solved without the help of any forest.
    #[cfg(test)]
    pub(super) fn without_forest(mut self) -> Structure {
        self.forest = Forest::new(self.leaves, vec![None; self.names.len()], Vec::new());
        self.outside_forest = self.bottom_up.clone();
        self
    }

    /// Topological order of the nodes that are not leaves (Kahn 1962): a node follows when its last part has.
    fn order_bottom_up(&self) -> Result<Vec<usize>, StructureError> {
        let mut parents: Vec<Vec<usize>> = vec![Vec::new(); self.nodes()];
        let mut waiting = vec![0_usize; self.nodes()];
        for (node, waiting) in waiting.iter_mut().enumerate().skip(self.leaves) {
            for &part in self.parts(node).iter().filter(|part| **part >= self.leaves) {
                parents[part].push(node);
                *waiting += 1;
            }
        }
        let mut order: Vec<usize> = (self.leaves..self.nodes()).filter(|node| waiting[*node] == 0).collect();
        let mut next = 0;
        while let Some(&node) = order.get(next) {
            next += 1;
            for &parent in &parents[node] {
                waiting[parent] -= 1;
                if waiting[parent] == 0 {
                    order.push(parent);
                }
            }
        }
        if order.len() == self.nodes() - self.leaves { Ok(order) } else { Err(self.cycle(&waiting)) }
    }

    /// A cycle among the nodes that still wait for a part: each of them waits for another one of them.
    fn cycle(&self, waiting: &[usize]) -> StructureError {
        let mut path: Vec<usize> = Vec::new();
        let mut place = HashMap::new();
        let mut current = waiting.iter().position(|w| *w > 0);
        while let Some(node) = current {
            path.push(node);
            if let Some(start) = place.insert(node, path.len() - 1) {
                path.drain(..start);
                break;
            }
            current = self.parts(node).iter().copied().find(|part| waiting[*part] > 0);
        }
        StructureError::Cycle { nodes: path.into_iter().map(|node| self.name(node)).collect() }
    }

    /// The first parent of every node, and whether none has two.
    fn first_parents(&self) -> (Vec<Option<usize>>, bool) {
        let mut tree = true;
        let mut parents = vec![None; self.nodes()];
        for node in self.leaves..self.nodes() {
            for &part in self.parts(node) {
                if parents[part].is_none() {
                    parents[part] = Some(node);
                } else {
                    tree = false;
                }
            }
        }
        (parents, tree)
    }

    /// Leaves under every node, as positions; empty for the leaves themselves. Only a structure that is no tree needs
    /// them: in a tree no leaf can be counted twice.
    fn leaf_sets(&self) -> Result<Vec<Vec<usize>>, StructureError> {
        let mut sets: Vec<Vec<usize>> = vec![Vec::new(); self.nodes()];
        let mut counted_by = vec![usize::MAX; self.leaves];
        for &node in &self.bottom_up {
            let mut set = Vec::new();
            for &part in self.parts(node) {
                if part < self.leaves { set.push(part) } else { set.extend_from_slice(&sets[part]) }
            }
            for &leaf in &set {
                if std::mem::replace(&mut counted_by[leaf], node) == node {
                    return Err(StructureError::CountedTwice { node: self.name(node), leaf: self.name(leaf) });
                }
            }
            sets[node] = set;
        }
        Ok(sets)
    }
}

/// Offsets and positions of the parts of every node.
fn resolve_parts<S: AsRef<str>>(
    leaves: usize,
    names: &[String],
    index: &HashMap<String, usize>,
    nodes: &[(S, Vec<S>)],
) -> Result<(Vec<usize>, Vec<usize>), StructureError> {
    let mut offsets = vec![0];
    let mut parts = Vec::with_capacity(nodes.iter().map(|(_, parts)| parts.len()).sum());
    let mut listed_by = vec![usize::MAX; names.len()];
    for (k, (name, listed)) in nodes.iter().enumerate() {
        let node = || name.as_ref().to_owned();
        if listed.is_empty() {
            return Err(StructureError::NoParts { node: node() });
        }
        for part in listed {
            let Some(&position) = index.get(part.as_ref()) else {
                return Err(StructureError::UnknownPart { node: node(), part: part.as_ref().to_owned() });
            };
            if std::mem::replace(&mut listed_by[position], leaves + k) == leaves + k {
                return Err(StructureError::PartTwice { node: node(), part: part.as_ref().to_owned() });
            }
            parts.push(position);
        }
        offsets.push(parts.len());
    }
    Ok((offsets, parts))
}
