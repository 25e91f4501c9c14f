//! Weighted least squares on a forest, exact in two passes.

/// "No parent" in [`Forest::parent`].
const ROOT: usize = usize::MAX;

/// Nodes whose leaf sets are nested or disjoint: each has at most one parent among them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Forest {
    leaves: usize,
    /// Parent of each node of the structure; [`ROOT`] for none, also for nodes outside the forest.
    parent: Vec<usize>,
    /// Members that are not leaves, parts before wholes.
    bottom_up: Vec<usize>,
}

/// What the two passes need of the variances. Over all nodes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Gains {
    /// How far a node moves from the sum of its parts towards its own forecast: V / (V + w), where V is the variance of
    /// that sum as known from below, and w that of its own forecast. 0 for leaves and outside the forest.
    gain: Vec<f64>,
    /// A node's share of its parent's correction: its variance, as known from below, over the parent's V. 0 for roots.
    share: Vec<f64>,
}

impl Forest {
    /// The forest with `parents` over all nodes, and the members that are not leaves in the order `bottom_up`.
    pub(super) fn new(leaves: usize, parents: Vec<Option<usize>>, bottom_up: Vec<usize>) -> Forest {
        Forest { leaves, parent: parents.into_iter().map(|p| p.unwrap_or(ROOT)).collect(), bottom_up }
    }

    /// As large a forest as a greedy choice finds among the nodes of a general structure, and the nodes left out.
    ///
    /// Larger nodes first, a node is taken when all its leaves lie in the same smallest node taken before it: then it
    /// is nested in that one and disjoint from the others.
    pub(super) fn within(
        leaves: usize,
        nodes: usize,
        bottom_up: &[usize],
        leaf_sets: &[Vec<usize>],
    ) -> (Forest, Vec<usize>) {
        let mut by_size: Vec<usize> = bottom_up.iter().rev().copied().collect();
        by_size.sort_by_key(|node| std::cmp::Reverse(leaf_sets[*node].len()));
        let mut parent = vec![ROOT; nodes];
        let (mut taken, mut left_out) = (Vec::new(), Vec::new());
        for node in by_size {
            let set = &leaf_sets[node];
            let Some(owner) = set.first().map(|leaf| parent[*leaf]) else { continue };
            if set.iter().all(|leaf| parent[*leaf] == owner) {
                for &leaf in set {
                    parent[leaf] = node;
                }
                parent[node] = owner;
                taken.push(node);
            } else {
                left_out.push(node);
            }
        }
        taken.reverse();
        (Forest { leaves, parent, bottom_up: taken }, left_out)
    }

    /// What the passes need of `variances` (over all nodes). A leaf of variance 0 is held where it is; a node of
    /// infinite variance says nothing of its own.
    pub(super) fn gains(&self, variances: &[f64]) -> Gains {
        let nodes = self.parent.len();
        let mut below = vec![0.0; nodes];
        let mut known = vec![0.0; nodes];
        let mut gain = vec![0.0; nodes];
        for leaf in 0..self.leaves {
            known[leaf] = variances[leaf];
            self.add_to_parent(leaf, known[leaf], &mut below);
        }
        for &node in &self.bottom_up {
            known[node] = below[node];
            if below[node] > 0.0 && variances[node].is_finite() {
                let sum = below[node] + variances[node];
                gain[node] = below[node] / sum;
                known[node] = below[node] * (variances[node] / sum);
            }
            self.add_to_parent(node, known[node], &mut below);
        }
        let share = |node: usize| match self.parent[node] {
            ROOT => 0.0,
            parent if below[parent] > 0.0 => known[node] / below[parent],
            _ => 0.0,
        };
        Gains { gain, share: (0..nodes).map(share).collect() }
    }

    /// Leaf values that minimise Σ (y − sum of leaves)² / variance over the forest's nodes, exactly.
    ///
    /// Errors are independent, so this is inference on a tree (Pearl 1988; the scalar case of Chou, Willsky and
    /// Benveniste 1994). Upward, a node meets the sum of what its parts say, and keeps a weighted mean of that sum and
    /// its own forecast. Downward, what a node knows better than its parts is shared among them in proportion to their
    /// variances. Only *corrections* travel downward, so input that is coherent already comes back as it was, to the
    /// rounding of its sums.
    pub(super) fn fit(&self, gains: &Gains, y: &[f64]) -> Vec<f64> {
        let mut below = vec![0.0; self.parent.len()];
        let mut correction = vec![0.0; self.parent.len()];
        for (leaf, value) in y.iter().enumerate().take(self.leaves) {
            self.add_to_parent(leaf, *value, &mut below);
        }
        for &node in &self.bottom_up {
            correction[node] = gains.gain[node] * (y[node] - below[node]);
            self.add_to_parent(node, below[node] + correction[node], &mut below);
        }
        for &node in self.bottom_up.iter().rev() {
            if let Some(above) = correction.get(self.parent[node]).copied() {
                correction[node] += gains.share[node] * above;
            }
        }
        let leaf = |leaf: usize| match correction.get(self.parent[leaf]) {
            Some(above) => y[leaf] + gains.share[leaf] * above,
            None => y[leaf],
        };
        (0..self.leaves).map(leaf).collect()
    }

    fn add_to_parent(&self, node: usize, value: f64, sums: &mut [f64]) {
        if let Some(sum) = sums.get_mut(self.parent[node]) {
            *sum += value;
        }
    }
}
