//! One tree, as it is kept: it needs raw feature values only, no bins.

use serde::{Deserialize, Serialize};

use super::error::BoosterError;

/// A split. A child that is not negative is a node, always a later one; otherwise it is the leaf `!child`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Node {
    pub feature: u32,
    /// Values up to this one go to the first child.
    pub threshold: f32,
    pub missing_left: bool,
    pub children: [i32; 2],
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Tree {
    /// In the order in which they were made; at least one.
    pub nodes: Vec<Node>,
    /// Leaves × outputs.
    pub values: Vec<f32>,
    /// Training rows of each leaf.
    pub rows: Vec<u32>,
}

impl Tree {
    /// The leaf of a row, whose features are given in order; infinite values must be clamped to finite ones.
    pub fn leaf(&self, features: &[f32]) -> usize {
        let mut at = 0_i32;
        while at >= 0 {
            at = self.nodes[at as usize].next(features);
        }
        !at as usize
    }

    /// Expected value of each output below each node (nodes × outputs), and below the root when there is no node:
    /// leaves weighted by their training rows.
    pub fn node_means(&self, outputs: usize) -> Vec<f64> {
        let mut means = vec![0.0; self.nodes.len() * outputs];
        let mut node_rows = vec![0.0; self.nodes.len()];
        // Children come after their parents.
        for at in (0..self.nodes.len()).rev() {
            let mut sums = vec![0.0; outputs];
            for child in self.nodes[at].children {
                let rows = if child >= 0 { node_rows[child as usize] } else { f64::from(self.rows[!child as usize]) };
                node_rows[at] += rows;
                for (output, sum) in sums.iter_mut().enumerate() {
                    *sum += rows * self.mean_below(child, &means, outputs, output);
                }
            }
            for (output, sum) in sums.iter().enumerate() {
                means[at * outputs + output] = sum / f64::max(node_rows[at], 1.0);
            }
        }
        means
    }

    fn mean_below(&self, child: i32, means: &[f64], outputs: usize, output: usize) -> f64 {
        if child >= 0 {
            means[child as usize * outputs + output]
        } else {
            f64::from(self.values[!child as usize * outputs + output])
        }
    }

    /// Walks a row's path: each step changes the expected value, and `add` (feature, output, change) is told
    /// (Saabas 2014, "Interpreting random forests"). `means` as of [`Tree::node_means`].
    pub fn explain(&self, features: &[f32], means: &[f64], outputs: usize, add: &mut dyn FnMut(usize, usize, f64)) {
        let mut at = 0_i32;
        while at >= 0 {
            let node = &self.nodes[at as usize];
            let child = node.next(features);
            for output in 0..outputs {
                let change = self.mean_below(child, means, outputs, output) - means[at as usize * outputs + output];
                add(node.feature as usize, output, change);
            }
            at = child;
        }
    }

    /// Whether every walk ends in a leaf that has values, and asks only for features that there are.
    pub fn check(&self, features: usize, outputs: usize) -> Result<(), BoosterError> {
        let leaves = self.rows.len();
        if self.nodes.is_empty() || self.nodes.len() + 1 != leaves || self.values.len() != leaves * outputs {
            return Err(BoosterError::Damaged { what: "a tree's numbers of nodes and leaves do not agree" });
        }
        for (at, node) in self.nodes.iter().enumerate() {
            let later = |child: i32| child as usize > at && (child as usize) < self.nodes.len();
            let valid = |child: i32| if child >= 0 { later(child) } else { (!child as usize) < leaves };
            if node.feature as usize >= features || !node.children.into_iter().all(valid) {
                return Err(BoosterError::Damaged { what: "a tree's node refers to nothing" });
            }
        }
        if !self.values.iter().all(|value| value.is_finite()) {
            return Err(BoosterError::Damaged { what: "a tree's leaf is not finite" });
        }
        Ok(())
    }
}

impl Node {
    fn next(&self, features: &[f32]) -> i32 {
        let value = features[self.feature as usize];
        let left = if value.is_nan() { self.missing_left } else { value <= self.threshold };
        self.children[usize::from(!left)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        let node = |feature, threshold, children| Node { feature, threshold, missing_left: false, children };
        Tree {
            nodes: vec![node(0, 1.0, [1, !2]), node(1, 5.0, [!0, !1])],
            values: vec![1.0, 2.0, 6.0],
            rows: vec![1, 3, 4],
        }
    }

    #[test]
    fn a_row_walks_to_its_leaf_and_each_step_is_explained() {
        let tree = tree();
        assert_eq!(tree.check(2, 1), Ok(()));
        let means = tree.node_means(1);
        assert_eq!(means, vec![31.0 / 8.0, 7.0 / 4.0]);
        for (row, leaf) in
            [([1.0, 5.0], 0), ([0.0, 6.0], 1), ([2.0, 0.0], 2), ([f32::NAN, 0.0], 2), ([0.0, f32::NAN], 1)]
        {
            assert_eq!(tree.leaf(&row), leaf, "{row:?}");
            let mut sum = means[0];
            tree.explain(&row, &means, 1, &mut |_, _, change| sum += change);
            assert!((sum - f64::from(tree.values[leaf])).abs() < 1e-12);
        }
    }

    #[test]
    fn damaged_trees_are_refused() {
        type Damage = fn(&mut Tree);
        let damages: [Damage; 6] = [
            |t| t.nodes[0].feature = 2,
            |t| t.nodes[1].children[0] = 0,
            |t| t.nodes[0].children[0] = 2,
            |t| t.nodes[0].children[1] = !3,
            |t| t.nodes.clear(),
            |t| t.values[1] = f32::NAN,
        ];
        for damage in damages {
            let mut tree = tree();
            damage(&mut tree);
            assert!(matches!(tree.check(2, 1), Err(BoosterError::Damaged { .. })), "{tree:?}");
        }
    }
}
