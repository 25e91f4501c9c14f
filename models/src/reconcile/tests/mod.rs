//! Reconciliation against dense formulas, by hand, and on large trees.

mod behaviour;
mod dense_oracle;
mod structures;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Structure;

pub(super) fn structure(leaves: &[&str], nodes: &[(&str, &[&str])]) -> Structure {
    let nodes: Vec<(&str, Vec<&str>)> = nodes.iter().map(|(name, parts)| (*name, parts.to_vec())).collect();
    Structure::new(leaves, &nodes).unwrap()
}

/// Numbers between −1 and 1.
pub(super) fn noise(seed: u64) -> impl FnMut() -> f64 {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    move || random.random_range(-1.0..1.0)
}

/// Leaves under feeders, those under regions, those under one total, as evenly as the numbers allow.
pub(super) fn tree(leaves: usize, feeders: usize, regions: usize) -> Structure {
    let name = |kind: &str, i: usize| format!("{kind}{i}");
    let leaf_names: Vec<String> = (0..leaves).map(|i| name("site", i)).collect();
    let mut nodes = vec![("total".to_owned(), (0..regions).map(|i| name("region", i)).collect::<Vec<_>>())];
    for region in 0..regions {
        let parts = (0..feeders).filter(|f| f * regions / feeders == region).map(|f| name("feeder", f)).collect();
        nodes.push((name("region", region), parts));
    }
    for feeder in 0..feeders {
        let parts = (0..leaves).filter(|l| l * feeders / leaves == feeder).map(|l| name("site", l)).collect();
        nodes.push((name("feeder", feeder), parts));
    }
    Structure::new(&leaf_names, &nodes).unwrap()
}

/// A tree and, across it, groups of leaves: tariff classes, with a sum of their own.
pub(super) fn grouped(leaves: usize, regions: usize, classes: usize) -> Structure {
    let leaf_names: Vec<String> = (0..leaves).map(|i| format!("site{i}")).collect();
    let mut nodes = vec![("total".to_owned(), (0..regions).map(|i| format!("region{i}")).collect::<Vec<_>>())];
    nodes.push(("all classes".to_owned(), (0..classes).map(|i| format!("class{i}")).collect()));
    for region in 0..regions {
        let parts = (0..leaves).filter(|l| l * regions / leaves == region).map(|l| format!("site{l}")).collect();
        nodes.push((format!("region{region}"), parts));
    }
    for class in 0..classes {
        let parts = (0..leaves).filter(|l| (l * 7 + l / 3) % classes == class).map(|l| format!("site{l}")).collect();
        nodes.push((format!("class{class}"), parts));
    }
    Structure::new(&leaf_names, &nodes).unwrap()
}

/// The largest difference between every node and the sum of its parts, relative to the largest value.
pub(super) fn incoherence(structure: &Structure, values: &[f64]) -> f64 {
    let largest = values.iter().fold(f64::MIN_POSITIVE, |largest, v| largest.max(v.abs()));
    let gap = |node: usize| {
        let parts = structure.parts(node);
        if parts.is_empty() { 0.0 } else { (values[node] - parts.iter().map(|p| values[*p]).sum::<f64>()).abs() }
    };
    (0..structure.nodes()).map(gap).fold(0.0, f64::max) / largest
}

/// The largest difference between two vectors, relative to the largest value.
pub(super) fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let largest = a.iter().fold(f64::MIN_POSITIVE, |largest, v| largest.max(v.abs()));
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / largest
}
