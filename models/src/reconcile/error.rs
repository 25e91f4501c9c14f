//! What can be wrong with a structure, and with what is to be reconciled.

use thiserror::Error;

/// Why a list of nodes and their parts is no structure. Every message names the node to look at.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StructureError {
    /// Two leaves, two nodes, or a leaf and a node of one name.
    #[error("\"{name}\" is declared twice; every leaf and node needs a name of its own")]
    DeclaredTwice {
        /// The name.
        name: String,
    },
    /// A node that is the sum of nothing.
    #[error("node \"{node}\" has no parts; declare it as a leaf if it has readings of its own")]
    NoParts {
        /// The node.
        node: String,
    },
    /// A part that is neither a leaf nor a node.
    #[error("node \"{node}\" has the part \"{part}\", which is neither a leaf nor a node")]
    UnknownPart {
        /// The node.
        node: String,
        /// The unknown name.
        part: String,
    },
    /// One part listed twice by one node.
    #[error("node \"{node}\" lists the part \"{part}\" twice")]
    PartTwice {
        /// The node.
        node: String,
        /// The part.
        part: String,
    },
    /// A node that is, through others, a part of itself.
    #[error("nodes are parts of themselves: {}", .nodes.join(" → "))]
    Cycle {
        /// From a node over its parts back to it: the first and the last name are the same.
        nodes: Vec<String>,
    },
    /// A leaf that two parts of a node have in common.
    #[error("node \"{node}\" counts the leaf \"{leaf}\" twice, through two of its parts")]
    CountedTwice {
        /// The node.
        node: String,
        /// The leaf.
        leaf: String,
    },
}

/// Why forecasts could not be reconciled.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum ReconcileError {
    /// A vector that does not have one entry a node (or a leaf).
    #[error("{what}: {found} entries where the structure has {expected}")]
    Length {
        /// Which input.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length it must have.
        expected: usize,
    },
    /// A node without a usable forecast: missing or infinite.
    #[error("node \"{node}\" has no finite forecast; give it a fallback first")]
    NoForecast {
        /// The node.
        node: String,
    },
    /// A variance that is not positive, or a leaf's that is infinite.
    #[error("node \"{node}\": an error variance of {variance} weighs nothing; it must be positive and finite")]
    Variance {
        /// The node.
        node: String,
        /// What was given.
        variance: f64,
    },
    /// No node has two past errors.
    #[error("no node has two past errors to tell its reliability from")]
    NoErrors,
    /// Past errors of different lengths.
    #[error("node \"{node}\" has {found} past errors where the first has {expected}; mark missing ones as NaN")]
    ErrorsLength {
        /// The node.
        node: String,
        /// Its number of errors.
        found: usize,
        /// That of the first node.
        expected: usize,
    },
    /// Quantiles that descend, or are not finite.
    #[error("node \"{node}\": {reason}")]
    Quantiles {
        /// The node.
        node: String,
        /// What is wrong with them.
        reason: String,
    },
    /// Numbers so far apart that the arithmetic gave out.
    #[error("the reconciled value of \"{node}\" is not finite; values or variances are too far apart")]
    NotFinite {
        /// The node.
        node: String,
    },
    /// Conjugate gradients did not converge.
    #[error("no solution after {iterations} iterations; the error variances are too far apart")]
    NotConverged {
        /// Iterations made.
        iterations: usize,
    },
}
