use super::super::{MinTrace, Range, ReconcileError, ShrunkCovariance, bottom_up, shift_quantiles};
use super::{distance, grouped, incoherence, noise, structure, tree};

#[test]
fn leaves_can_decide() {
    let s = structure(&["a", "b", "c"], &[("top", &["x", "c"]), ("x", &["a", "b"])]);
    assert_eq!(bottom_up(&s, &[1.0, 3.0, 6.0, 20.0, 4.0]).unwrap(), [1.0, 3.0, 6.0, 10.0, 4.0]);
    // A roll-up without a forecast is no obstacle.
    assert_eq!(bottom_up(&s, &[1.0, 3.0, 6.0, f64::NAN, f64::NAN]).unwrap()[3], 10.0);
}

#[test]
fn a_gap_is_shared_by_variance() {
    let s = structure(&["a", "b"], &[("top", &["a", "b"])]);
    let base = [1.0, 2.0, 6.0];
    for (variances, expected) in [
        ([1.0, 1.0, 1.0], [2.0, 3.0, 5.0]),
        // The top is trusted most, and a least.
        ([3.0, 1.0, 2.0], [2.5, 2.5, 5.0]),
        ([1.0, 1.0, f64::INFINITY], [1.0, 2.0, 3.0]),
    ] {
        let found = MinTrace::weighted(&s, &variances).unwrap().reconcile(&base, Range::Any).unwrap();
        assert!(distance(&expected, &found) < 1e-12, "{variances:?}: {found:?}");
    }
    let ordinary = MinTrace::ordinary(&s).reconcile(&base, Range::Any).unwrap();
    assert!(distance(&[2.0, 3.0, 5.0], &ordinary) < 1e-12);
    let structural = MinTrace::structural(&s).reconcile(&base, Range::Any).unwrap();
    assert!(distance(&[1.75, 2.75, 4.5], &structural) < 1e-12);
}

#[test]
fn coherent_forecasts_come_back_unchanged() {
    for (name, s) in [("tree", tree(60, 10, 3)), ("groups", grouped(60, 5, 7))] {
        let mut noise = noise(1);
        let mut base: Vec<f64> = (0..s.nodes()).map(|_| 50.0 + 50.0 * noise()).collect();
        s.sum_up(&mut base);
        let errors: Vec<Vec<f64>> = (0..s.nodes()).map(|_| (0..20).map(|_| noise()).collect()).collect();
        let shrunk = ShrunkCovariance::estimate(&s, &errors).unwrap();
        for reconciler in [MinTrace::structural(&s), MinTrace::shrunk(&s, &shrunk).unwrap()] {
            let found = reconciler.reconcile(&base, Range::NonNegative).unwrap();
            assert!(distance(&base, &found) < 1e-12, "{name}");
        }
        let exact = MinTrace::structural(&s).reconcile(&base, Range::Any).unwrap();
        assert!(name != "tree" || exact == base, "bit for bit in a tree");
    }
}

#[test]
fn reconciled_forecasts_are_better_than_any_level_alone() {
    let s = tree(40, 8, 2);
    let mut noise = noise(3);
    let (mut of_base, mut of_leaves, mut of_weighted) = (0.0, 0.0, 0.0);
    let variances: Vec<f64> = s.leaf_counts().iter().map(|leaves| (*leaves as f64).sqrt()).collect();
    let reconciler = MinTrace::weighted(&s, &variances).unwrap();
    for _ in 0..500 {
        let mut truth: Vec<f64> = (0..s.nodes()).map(|_| 10.0 + noise()).collect();
        s.sum_up(&mut truth);
        let base: Vec<f64> = truth.iter().zip(&variances).map(|(y, v)| y + v.sqrt() * noise()).collect();
        let squares = |x: &[f64]| x.iter().zip(&truth).map(|(x, y)| (x - y).powi(2)).sum::<f64>();
        of_base += squares(&base);
        of_leaves += squares(&bottom_up(&s, &base).unwrap());
        of_weighted += squares(&reconciler.reconcile(&base, Range::Any).unwrap());
    }
    assert!(of_weighted < 0.8 * of_base && of_weighted < 0.8 * of_leaves, "{of_weighted} {of_base} {of_leaves}");
}

#[test]
fn correlated_errors_are_worth_knowing() {
    // Leaves err together, so their sum is worse than independent errors would make it.
    let s = tree(40, 8, 2);
    let mut noise = noise(4);
    let mut draw = || {
        let common = noise();
        let leaves = s.leaves();
        (0..s.nodes()).map(|i| if i < leaves { common + 0.5 * noise() } else { 3.0 * noise() }).collect::<Vec<f64>>()
    };
    let past: Vec<Vec<f64>> = (0..60).map(|_| draw()).collect();
    let errors: Vec<Vec<f64>> = (0..s.nodes()).map(|node| past.iter().map(|e| e[node]).collect()).collect();
    let shrunk = ShrunkCovariance::estimate(&s, &errors).unwrap();
    assert!(shrunk.shrinkage() < 0.5, "{}", shrunk.shrinkage());
    let weighted = MinTrace::weighted(&s, &shrunk.variances().values).unwrap();
    let shrunk = MinTrace::shrunk(&s, &shrunk).unwrap();
    let squares = |x: Vec<f64>| x.iter().map(|x| x * x).sum::<f64>();
    let (mut of_weighted, mut of_shrunk) = (0.0, 0.0);
    for _ in 0..300 {
        // The truth is zero.
        let base = draw();
        of_weighted += squares(weighted.reconcile(&base, Range::Any).unwrap());
        of_shrunk += squares(shrunk.reconcile(&base, Range::Any).unwrap());
    }
    assert!(of_shrunk < 0.9 * of_weighted, "{of_shrunk} {of_weighted}");
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let s = grouped(300, 10, 7);
    let mut noise = noise(5);
    let errors: Vec<Vec<f64>> = (0..s.nodes()).map(|_| (0..37).map(|_| noise()).collect()).collect();
    let base: Vec<Vec<f64>> = (0..10).map(|_| (0..s.nodes()).map(|_| noise()).collect()).collect();
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let shrunk = ShrunkCovariance::estimate(&s, &errors).unwrap();
            MinTrace::shrunk(&s, &shrunk).unwrap().reconcile_steps(&base, Range::NonNegative).unwrap()
        })
    };
    assert_eq!(run(1), run(4));
}

#[test]
fn what_cannot_be_reconciled_is_named() {
    let s = structure(&["a", "b"], &[("top", &["a", "b"])]);
    let reconciler = MinTrace::ordinary(&s);
    let gap = f64::NAN;
    assert_eq!(
        reconciler.reconcile(&[1.0, 2.0], Range::Any),
        Err(ReconcileError::Length { what: "base forecasts", found: 2, expected: 3 })
    );
    for (base, node) in [([1.0, gap, 3.0], "b"), ([1.0, 2.0, gap], "top"), ([f64::INFINITY, 2.0, 3.0], "a")] {
        assert_eq!(reconciler.reconcile(&base, Range::Any), Err(ReconcileError::NoForecast { node: node.into() }));
    }
    assert_eq!(bottom_up(&s, &[gap, 1.0, 1.0]), Err(ReconcileError::NoForecast { node: "a".into() }));
    for variances in [[0.0, 1.0, 1.0], [-1.0, 1.0, 1.0], [gap, 1.0, 1.0], [f64::INFINITY, 1.0, 1.0]] {
        let error = MinTrace::weighted(&s, &variances).unwrap_err();
        assert!(matches!(&error, ReconcileError::Variance { node, .. } if node == "a"), "{error}");
    }
    let error = reconciler.reconcile(&[f64::MAX; 3], Range::Any).unwrap_err();
    assert!(matches!(error, ReconcileError::NotFinite { .. }), "{error}");
    for errors in [vec![vec![]; 3], vec![vec![1.0]; 3], vec![vec![gap; 5]; 3], vec![vec![0.0; 5]; 3]] {
        assert_eq!(ShrunkCovariance::estimate(&s, &errors), Err(ReconcileError::NoErrors));
    }
    let uneven = vec![vec![1.0, 2.0], vec![1.0], vec![1.0, 2.0]];
    let error = ReconcileError::ErrorsLength { node: "b".into(), found: 1, expected: 2 };
    assert_eq!(ShrunkCovariance::estimate(&s, &uneven), Err(error));
}

#[test]
fn a_covariance_can_ignore_a_node() {
    let s = tree(12, 4, 2);
    let mut noise = noise(6);
    let errors: Vec<Vec<f64>> = (0..s.nodes()).map(|_| (0..30).map(|_| noise()).collect()).collect();
    let mut shrunk = ShrunkCovariance::estimate(&s, &errors).unwrap();
    let total = s.position("total").unwrap();
    shrunk.ignore(total);
    let reconciler = MinTrace::shrunk(&s, &shrunk).unwrap();
    let mut base: Vec<f64> = (0..s.nodes()).map(|_| 10.0 * noise()).collect();
    let mut without = |value: f64| {
        base[total] = value;
        reconciler.reconcile(&base, Range::Any).unwrap()
    };
    assert_eq!(without(f64::NAN), without(1e9));
}

#[test]
fn quantiles_move_with_their_mean() {
    let s = structure(&["a", "b"], &[("top", &["a", "b"])]);
    let (base, reconciled) = ([1.0, 2.0, 6.0], [0.5, 3.0, 3.5]);
    let before = [[0.2, 1.0, 1.7], [1.0, 2.0, 3.0], [5.0, 6.0, 8.0]];
    let mut free = before;
    shift_quantiles(&s, &base, &reconciled, &mut free, Range::Any).unwrap();
    for (found, expected) in free.iter().zip([[-0.3, 0.5, 1.2], [2.0, 3.0, 4.0], [2.5, 3.5, 5.5]]) {
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?}");
    }
    let mut bounded = before;
    shift_quantiles(&s, &base, &reconciled, &mut bounded, Range::NonNegative).unwrap();
    assert_eq!((bounded[0][0], bounded[0][1]), (0.0, 0.5));
    assert!(bounded.iter().all(|q| q.is_sorted()));
    let mut descending = before;
    descending[1] = [3.0, 2.0, 1.0];
    let error = shift_quantiles(&s, &base, &reconciled, &mut descending, Range::Any).unwrap_err();
    assert!(matches!(&error, ReconcileError::Quantiles { node, .. } if node == "b"), "{error}");
}

#[test]
fn intervals_keep_their_coverage() {
    let s = tree(20, 4, 2);
    let mut noise = noise(11);
    // Sums of twelve uniform numbers are as good as normal; the variance is 1.
    let mut normal = || (0..12).map(|_| noise() / 2.0).sum::<f64>();
    let spreads: Vec<f64> = s.leaf_counts().iter().map(|leaves| 1.5 * (*leaves as f64).sqrt()).collect();
    for common_share in [0.0_f64, 0.5] {
        let mut draw = || {
            let common = normal();
            let error =
                |spread: &f64, own: f64| spread * (common_share.sqrt() * common + (1.0 - common_share).sqrt() * own);
            spreads.iter().map(|spread| error(spread, normal())).collect::<Vec<f64>>()
        };
        let past: Vec<Vec<f64>> = (0..100).map(|_| draw()).collect();
        let errors: Vec<Vec<f64>> = (0..s.nodes()).map(|node| past.iter().map(|e| e[node]).collect()).collect();
        let shrunk = ShrunkCovariance::estimate(&s, &errors).unwrap();
        let reconciler = MinTrace::shrunk(&s, &shrunk).unwrap();
        let mut covered = vec![0_u32; s.nodes()];
        for _ in 0..1000 {
            // The truth is zero everywhere.
            let base = draw();
            let reconciled = reconciler.reconcile(&base, Range::Any).unwrap();
            let mut quantiles: Vec<[f64; 2]> = base
                .iter()
                .zip(&spreads)
                .map(|(mean, spread)| [mean - 1.2816 * spread, mean + 1.2816 * spread])
                .collect();
            shift_quantiles(&s, &base, &reconciled, &mut quantiles, Range::Any).unwrap();
            for (covered, [low, high]) in covered.iter_mut().zip(quantiles) {
                *covered += u32::from(low <= 0.0 && 0.0 <= high);
            }
        }
        let least = covered.iter().min().unwrap();
        assert!(*least >= 770, "{common_share}: {covered:?} of 1000 for 0.8");
    }
}

#[test]
fn thirty_thousand_leaves_are_coherent() {
    let s = tree(30_000, 1_000, 30);
    let mut noise = noise(9);
    let base: Vec<f64> = s.leaf_counts().iter().map(|leaves| *leaves as f64 * (1.0 + 0.5 * noise()) - 0.7).collect();
    let errors: Vec<Vec<f64>> = (0..s.nodes()).map(|_| (0..24).map(|_| noise()).collect()).collect();
    let shrunk = ShrunkCovariance::estimate(&s, &errors).unwrap();
    for reconciler in [MinTrace::structural(&s), MinTrace::shrunk(&s, &shrunk).unwrap()] {
        let found = reconciler.reconcile(&base, Range::NonNegative).unwrap();
        assert!(incoherence(&s, &found) < 1e-12);
        assert!(found.iter().all(|v| *v >= 0.0));
    }
}
