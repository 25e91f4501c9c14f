//! The textbook formulas with dense matrices, for small structures.

use super::super::least_squares::LeastSquares;
use super::super::{ErrorVariances, MinTrace, Range, ShrunkCovariance, Structure};
use super::{distance, grouped, incoherence, noise, structure, tree};

type Matrix = Vec<Vec<f64>>;

/// S, nodes × leaves.
fn summing_matrix(s: &Structure) -> Matrix {
    let mut matrix = vec![vec![0.0; s.leaves()]; s.nodes()];
    for leaf in 0..s.leaves() {
        let mut values = vec![0.0; s.nodes()];
        values[leaf] = 1.0;
        s.sum_up(&mut values);
        for (row, value) in matrix.iter_mut().zip(values) {
            row[leaf] = value;
        }
    }
    matrix
}

fn transpose(a: &Matrix) -> Matrix {
    (0..a[0].len()).map(|j| a.iter().map(|row| row[j]).collect()).collect()
}

fn product(a: &Matrix, b: &Matrix) -> Matrix {
    let b = transpose(b);
    a.iter().map(|row| b.iter().map(|column| row.iter().zip(column).map(|(x, y)| x * y).sum()).collect()).collect()
}

/// A⁻¹ B by Gaussian elimination with pivoting.
fn solve(mut a: Matrix, mut b: Matrix) -> Matrix {
    let n = a.len();
    for k in 0..n {
        let pivot = (k..n).max_by(|i, j| a[*i][k].abs().total_cmp(&a[*j][k].abs())).unwrap();
        a.swap(k, pivot);
        b.swap(k, pivot);
        for i in 0..n {
            if i != k {
                let factor = a[i][k] / a[k][k];
                let (row, rhs) = (a[k].clone(), b[k].clone());
                a[i].iter_mut().zip(row).for_each(|(x, y)| *x -= factor * y);
                b[i].iter_mut().zip(rhs).for_each(|(x, y)| *x -= factor * y);
            }
        }
    }
    (0..n).map(|i| b[i].iter().map(|x| x / a[i][i]).collect()).collect()
}

/// S (SᵀW⁻¹S)⁻¹ SᵀW⁻¹ y for an invertible W.
fn min_trace(s: &Structure, w: &Matrix, y: &[f64]) -> Vec<f64> {
    let summing = summing_matrix(s);
    let weighted = transpose(&solve(w.clone(), summing.clone()));
    let left = product(&weighted, &summing);
    let right = product(&weighted, &y.iter().map(|y| vec![*y]).collect());
    product(&summing, &solve(left, right)).into_iter().map(|row| row[0]).collect()
}

fn diagonal(values: &[f64]) -> Matrix {
    (0..values.len()).map(|i| (0..values.len()).map(|j| if i == j { values[i] } else { 0.0 }).collect()).collect()
}

fn structures() -> Vec<(&'static str, Structure)> {
    vec![
        ("one leaf", structure(&["a"], &[])),
        ("one leaf counted by two", structure(&["a"], &[("x", &["a"]), ("y", &["x"])])),
        ("a leaf apart", structure(&["a", "b", "c"], &[("x", &["a", "b"])])),
        (
            "leaves at different depths",
            structure(&["a", "b", "c", "d"], &[("top", &["x", "d"]), ("x", &["a", "y"]), ("y", &["b", "c"])]),
        ),
        ("tree", tree(12, 5, 2)),
        ("groups", grouped(12, 3, 4)),
        (
            "overlapping pairs",
            structure(&["a", "b", "c"], &[("x", &["a", "b"]), ("y", &["b", "c"]), ("z", &["a", "c"])]),
        ),
    ]
}

#[test]
fn a_diagonal_gives_the_textbook_formula() {
    for (name, s) in structures() {
        for seed in 0..20 {
            let mut noise = noise(seed);
            let y: Vec<f64> = (0..s.nodes()).map(|_| 100.0 * noise()).collect();
            let variances: Vec<f64> = (0..s.nodes()).map(|_| 10.0_f64.powf(2.0 * noise())).collect();
            let found = MinTrace::weighted(&s, &variances).unwrap().reconcile(&y, Range::Any).unwrap();
            let expected = min_trace(&s, &diagonal(&variances), &y);
            assert!(distance(&expected, &found) < 1e-9, "{name} {seed}: {expected:?} {found:?}");
            assert!(incoherence(&s, &found) < 1e-12, "{name} {seed}");
        }
    }
}

#[test]
fn conjugate_gradients_agree_with_the_tree() {
    for seed in 0..10 {
        let mut noise = noise(seed);
        let exact = tree(200, 20, 4);
        let y: Vec<f64> = (0..exact.nodes()).map(|_| 100.0 * noise()).collect();
        let variances: Vec<f64> = (0..exact.nodes()).map(|_| 10.0_f64.powf(2.0 * noise())).collect();
        let iterated = exact.clone().without_forest();
        assert!(exact.is_forest() && !iterated.is_forest());
        let from_tree = LeastSquares::new(&exact, &variances).fit(&y).unwrap();
        let from_gradients = LeastSquares::new(&iterated, &variances).fit(&y).unwrap();
        assert!(distance(&from_tree, &from_gradients) < 1e-9, "{seed}");
    }
}

#[test]
fn variances_may_be_far_apart() {
    // Standard deviations from a thousandth to a thousand times the typical one.
    for (name, s) in [("tree", tree(300, 30, 5)), ("groups", grouped(300, 12, 17))] {
        for seed in 0..10 {
            let mut noise = noise(seed);
            let y: Vec<f64> = (0..s.nodes()).map(|_| 100.0 * noise()).collect();
            let variances: Vec<f64> = (0..s.nodes()).map(|_| 10.0_f64.powf(6.0 * noise())).collect();
            let reconciler = MinTrace::weighted(&s, &variances).unwrap();
            let found = reconciler.reconcile(&y, Range::Any).unwrap();
            // At the minimum no leaf can move to advantage; in units of its own deviation.
            let mut slopes: Vec<f64> =
                found.iter().zip(&y).zip(&variances).map(|((x, y), variance)| (x - y) / variance).collect();
            s.sum_down(&mut slopes);
            for (leaf, variance) in variances.iter().enumerate().take(s.leaves()) {
                let step = slopes[leaf] * variance.sqrt();
                assert!(step.abs() < 1e-3, "{name} {seed}: {step}");
            }
            let bounded = reconciler.reconcile(&y, Range::NonNegative).unwrap();
            assert!(bounded.iter().all(|v| *v >= 0.0) && incoherence(&s, &bounded) < 1e-12, "{name} {seed}");
        }
    }
}

#[test]
fn an_ignored_node_changes_nothing() {
    // As if the node were not there: the same tree without its regions.
    let with = structure(&["a", "b", "c"], &[("x", &["a", "b"]), ("top", &["x", "c"])]);
    let without = structure(&["a", "b", "c"], &[("top", &["a", "b", "c"])]);
    let base = [1.0, 2.0, 3.0, f64::NAN, 9.0];
    let infinite = [1.0, 2.0, 3.0, f64::INFINITY, 4.0];
    let found = MinTrace::weighted(&with, &infinite).unwrap().reconcile(&base, Range::Any).unwrap();
    let expected = min_trace(&without, &diagonal(&[1.0, 2.0, 3.0, 4.0]), &[1.0, 2.0, 3.0, 9.0]);
    assert!(distance(&expected[..3], &found[..3]) < 1e-12);
    assert_eq!(found[3], found[0] + found[1]);
}

/// Errors of all nodes: what leaves have in common, what each has alone, and what upper nodes add.
fn errors(s: &Structure, times: usize, seed: u64) -> Vec<Vec<f64>> {
    let mut noise = noise(seed);
    let mut errors = vec![vec![0.0; times]; s.nodes()];
    for t in 0..times {
        let common = noise();
        let mut values: Vec<f64> = (0..s.nodes()).map(|i| (1.0 + i as f64 / 5.0) * (common + noise())).collect();
        let own: Vec<f64> = values.clone();
        s.sum_up(&mut values);
        for (node, errors) in errors.iter_mut().enumerate() {
            errors[t] = 0.7 * values[node] + 0.3 * own[node];
        }
    }
    errors
}

/// Covariance around zero, of complete errors.
fn sample_covariance(errors: &[Vec<f64>]) -> Matrix {
    let times = errors[0].len() as f64;
    let covariance = |a: &Vec<f64>, b: &Vec<f64>| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>() / times;
    errors.iter().map(|a| errors.iter().map(|b| covariance(a, b)).collect()).collect()
}

/// λ by its definition, pair by pair (Schäfer and Strimmer 2005).
fn shrinkage(errors: &[Vec<f64>]) -> f64 {
    let times = errors[0].len() as f64;
    let covariance = sample_covariance(errors);
    let (mut above, mut below) = (0.0, 0.0);
    for i in 0..errors.len() {
        for j in 0..errors.len() {
            if i != j {
                let scale = (covariance[i][i] * covariance[j][j]).sqrt();
                let products: Vec<f64> = errors[i].iter().zip(&errors[j]).map(|(x, y)| x * y / scale).collect();
                let sum: f64 = products.iter().sum();
                let squares: f64 = products.iter().map(|p| p * p).sum();
                above += (squares - sum * sum / times) / (times * (times - 1.0));
                below += (sum / times).powi(2);
            }
        }
    }
    (above / below).clamp(1e-4, 1.0)
}

#[test]
fn a_shrunk_covariance_gives_the_textbook_formula() {
    for (name, s) in structures() {
        // Fewer and more errors than nodes.
        for times in [4, 10, 60] {
            for seed in 0..5 {
                let errors = errors(&s, times, seed);
                let shrunk = ShrunkCovariance::estimate(&s, &errors).unwrap();
                let lambda = shrinkage(&errors);
                if s.nodes() > 1 {
                    assert!((shrunk.shrinkage() - lambda).abs() < 1e-9, "{name}: {} {lambda}", shrunk.shrinkage());
                }
                let mut w = sample_covariance(&errors);
                for (i, row) in w.iter_mut().enumerate() {
                    for (j, entry) in row.iter_mut().enumerate() {
                        *entry *= if i == j { 1.0 } else { 1.0 - shrunk.shrinkage() };
                    }
                }
                let mut noise = noise(seed + 100);
                let y: Vec<f64> = (0..s.nodes()).map(|_| 100.0 * noise()).collect();
                let found = MinTrace::shrunk(&s, &shrunk).unwrap().reconcile(&y, Range::Any).unwrap();
                let expected = min_trace(&s, &w, &y);
                assert!(distance(&expected, &found) < 1e-7, "{name} {times} {seed}: {}", distance(&expected, &found));
                assert!(incoherence(&s, &found) < 1e-12, "{name} {times} {seed}");
            }
        }
    }
}

#[test]
fn variances_are_mean_squares_of_what_is_there() {
    let s = structure(&["a", "b", "c"], &[("x", &["a", "b"]), ("top", &["x", "c"])]);
    let gap = f64::NAN;
    let errors = vec![vec![1.0, -3.0, gap], vec![gap, 2.0, gap], vec![0.0; 3], vec![4.0, gap, 2.0], vec![3.0; 3]];
    let found = ErrorVariances::estimate(&s, &errors).unwrap();
    // Per leaf: 5, 10 / 2 and 9 / 3; the median is 5. What was never off counts a million times as much.
    assert_eq!(found.values, [5.0, 5.0, 5.0 * 1e-6, 10.0, 9.0]);
    assert_eq!(found.assumed, [1, 2]);
    let shrunk = ShrunkCovariance::estimate(&s, &errors).unwrap();
    assert_eq!(shrunk.variances(), &found);
    let y = [1.0, 2.0, 3.0, 4.0, 5.0];
    let reconciled = MinTrace::shrunk(&s, &shrunk).unwrap().reconcile(&y, Range::Any).unwrap();
    assert!(incoherence(&s, &reconciled) < 1e-12);
}

#[test]
fn without_negative_values_the_nearest_are_found() {
    for (name, s) in structures() {
        for seed in 0..20 {
            let mut noise = noise(seed);
            let y: Vec<f64> = (0..s.nodes()).map(|_| 10.0 * noise()).collect();
            let variances: Vec<f64> = (0..s.nodes()).map(|_| 10.0_f64.powf(noise())).collect();
            let found = MinTrace::weighted(&s, &variances).unwrap().reconcile(&y, Range::NonNegative).unwrap();
            let expected = nearest_by_trying_all(&s, &variances, &y);
            let largest = y.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
            let gap = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(gap < 1e-8 * largest, "{name} {seed}: {found:?} {expected:?}");
            assert!(found.iter().all(|v| *v >= 0.0) && incoherence(&s, &found) < 1e-12, "{name} {seed}");
        }
    }
}

/// The best of all solutions with any set of leaves at 0 and no leaf below.
fn nearest_by_trying_all(s: &Structure, variances: &[f64], y: &[f64]) -> Vec<f64> {
    let cost = |x: &[f64]| x.iter().zip(y).zip(variances).map(|((x, y), v)| (x - y).powi(2) / v).sum::<f64>();
    let mut best = vec![0.0; s.nodes()];
    for set in 0..1_u32 << s.leaves() {
        let held: Vec<bool> = (0..s.leaves()).map(|leaf| set >> leaf & 1 == 1).collect();
        let mut x = LeastSquares::holding(s, variances, held).fit(y).unwrap();
        if x.iter().all(|leaf| *leaf >= -1e-12) {
            x.resize(s.nodes(), 0.0);
            s.sum_up(&mut x);
            if cost(&x) < cost(&best) {
                best = x;
            }
        }
    }
    best
}
