use super::{Data, eliminate};
use crate::linear::{Penalty, QuantileFit, QuantileOptions, ShrinkTo, fit_many, quantile_fit};

/// Options that come close to the unsmoothed, unpenalised problem.
fn sharp(levels: &[f64]) -> QuantileOptions {
    QuantileOptions {
        penalty: Penalty::Fixed(0.0),
        half_width: Some(1e-4),
        tolerance: 1e-9,
        evaluations_max: 500,
        ..QuantileOptions::new(levels)
    }
}

fn fit(data: &Data, options: &QuantileOptions) -> QuantileFit {
    quantile_fit(&data.problem(), &data.names(), options).unwrap()
}

/// Line of the level at `index` without sorting.
fn line(fit: &QuantileFit, index: usize, row: &[f32]) -> f64 {
    let terms = row.iter().zip(&fit.model.means).zip(&fit.model.coefficients[index]);
    fit.model.bases[index] + terms.map(|((x, mean), b)| b * (f64::from(*x) - mean)).sum::<f64>()
}

fn pinball(residual: f64, level: f64) -> f64 {
    (level * residual).max((level - 1.0) * residual)
}

/// Mean pinball loss of some prediction.
fn loss(data: &Data, level: f64, predict: impl Fn(&[f32]) -> f64) -> f64 {
    let weights: f64 = (0..data.rows()).map(|row| data.weight(row)).sum();
    let of_row = |row| data.weight(row) * pinball(f64::from(data.target[row]) - predict(data.row(row)), level);
    (0..data.rows()).map(of_row).sum::<f64>() / weights
}

/// The least mean pinball loss: some optimal line passes through as many points as it has coefficients (Koenker and
/// Bassett 1978, theorem 3.1), so all such lines are tried.
fn least_loss(data: &Data, level: f64) -> f64 {
    let size = data.columns + 1;
    let mut least = f64::INFINITY;
    let mut chosen: Vec<usize> = (0..size).collect();
    loop {
        let rows = chosen.iter().map(|row| with_one(data.row(*row))).collect();
        let right = chosen.iter().map(|row| f64::from(data.target[*row])).collect();
        if let Some(b) = eliminate(rows, right) {
            let predict = |row: &[f32]| with_one(row).iter().zip(&b).map(|(x, b)| x * b).sum();
            least = least.min(loss(data, level, predict));
        }
        // The next combination in lexicographic order.
        let Some(k) = (0..size).rev().find(|k| chosen[*k] < data.rows() - size + k) else {
            return least;
        };
        chosen[k] += 1;
        for later in k + 1..size {
            chosen[later] = chosen[later - 1] + 1;
        }
    }
}

fn with_one(row: &[f32]) -> Vec<f64> {
    row.iter().map(|x| f64::from(*x)).chain([1.0]).collect()
}

#[test]
fn tiny_problems_reach_the_least_loss_of_all_lines() {
    let levels = [0.1, 0.25, 0.5, 0.9];
    for seed in 0..12 {
        for (rows, columns) in [(8, 1), (25, 1), (12, 2), (20, 2), (14, 3)] {
            let mut data =
                Data::normal(seed, rows, columns, |x, e| 1.0 + f64::from(x[0]) + (1.0 + f64::from(x[0]).abs()) * e);
            if seed % 3 == 0 {
                data = data.with_weights(|row| 1.0 + (row % 3) as f32);
            }
            let found = fit(&data, &sharp(&levels));
            for (index, level) in levels.iter().enumerate() {
                let least = least_loss(&data, *level);
                let reached = loss(&data, *level, |row| line(&found, index, row));
                assert!((reached - found.levels[index].loss).abs() < 1e-5 * reached + 1e-6, "the loss that is told");
                assert!(
                    reached <= least * 1.002 + 1e-6,
                    "seed {seed}, {rows} × {columns}, level {level}: {reached} for {least}; {:?}",
                    found.levels[index]
                );
            }
        }
    }
}

#[test]
fn as_many_rows_lie_below_a_line_as_its_level_says() {
    let levels = [0.01, 0.1, 0.5, 0.75, 0.99];
    for (rows, columns) in [(50, 3), (1000, 20), (3000, 5)] {
        let data = Data::normal(5, rows, columns, |x, e| f64::from(x[0]) + e * e * e);
        for options in [sharp(&levels), QuantileOptions::new(&levels)] {
            let found = fit(&data, &options);
            for (index, level) in levels.iter().enumerate() {
                let residuals: Vec<f64> =
                    (0..rows).map(|row| f64::from(data.target[row]) - line(&found, index, data.row(row))).collect();
                // Points on the line are within rounding of it.
                let below = residuals.iter().filter(|r| **r < -1e-4).count() as f64 / rows as f64;
                let above = residuals.iter().filter(|r| **r > 1e-4).count() as f64 / rows as f64;
                assert!(below <= level + 1e-9 && above <= 1.0 - level + 1e-9, "{rows}: {below} {above} at {level}");
                let smooth = options.half_width.is_none();
                assert!(found.levels[index].converged || !smooth, "{:?}", found.levels[index]);
            }
        }
    }
}

#[test]
fn coefficients_follow_the_spread_of_the_errors() {
    // The quantile of level q is 1 + 2 x₀ + (2 + x₁) z_q, with x₁ in (−1, 1).
    let mut data = Data::normal(6, 40_000, 2, |_, e| e);
    for row in 0..data.rows() {
        let e = f64::from(data.target[row]);
        data.features[row * 2 + 1] = f64::from(data.features[row * 2 + 1]).sin() as f32;
        let x = data.row(row);
        data.target[row] = (1.0 + 2.0 * f64::from(x[0]) + (2.0 + f64::from(x[1])) * e) as f32;
    }
    let levels = [0.1, 0.5, 0.9];
    let found = fit(&data, &QuantileOptions::new(&levels));
    let intercepts = found.model.intercepts();
    for (index, z) in [-1.2816, 0.0, 1.2816].into_iter().enumerate() {
        let b = &found.model.coefficients[index];
        let close = |found: f64, expected: f64| assert!((found - expected).abs() < 0.1, "{found} {expected}");
        close(b[0], 2.0);
        close(b[1], z);
        close(intercepts[index], 1.0 + 2.0 * z);
    }
}

#[test]
fn smoothing_and_tolerance_cost_next_to_nothing() {
    let data = Data::normal(11, 4000, 12, |x, e| f64::from(x[0]) + (1.0 + 0.5 * f64::from(x[1]).abs()) * e);
    let levels = [0.1, 0.3, 0.5, 0.7, 0.9];
    let usual = fit(&data, &QuantileOptions { penalty: Penalty::Fixed(0.0), ..QuantileOptions::new(&levels) });
    let exact = fit(&data, &sharp(&levels));
    for (usual, exact) in usual.levels.iter().zip(&exact.levels) {
        assert!(usual.loss < exact.loss * 1.0005 && exact.loss < usual.loss * 1.000_01, "{usual:?} {exact:?}");
        assert!(usual.evaluations <= 25, "{usual:?}");
    }
}

#[test]
fn penalties_shrink_to_zero_or_to_the_ridge() {
    let data = Data::normal(12, 500, 4, |x, e| 3.0 * f64::from(x[0]) + (2.0 + f64::from(x[1])) * e);
    let levels = [0.1, 0.9];
    let with =
        |penalty, shrink_to| fit(&data, &QuantileOptions { penalty, shrink_to, ..QuantileOptions::new(&levels) }).model;
    let none = with(Penalty::Fixed(1e6), ShrinkTo::Zero);
    assert!(none.coefficients.iter().flatten().all(|b| b.abs() < 1e-4), "{none:?}");
    let ridge = with(Penalty::Fixed(1e6), ShrinkTo::Ridge);
    for (low, high) in ridge.coefficients[0].iter().zip(&ridge.coefficients[1]) {
        assert!((low - high).abs() < 1e-4, "{ridge:?}");
    }
    assert!((ridge.coefficients[0][0] - 3.0).abs() < 0.5);
    let free = with(Penalty::LikeRidge(1.0), ShrinkTo::Zero);
    assert!(free.coefficients[1][1] - free.coefficients[0][1] > 1.0, "{free:?}");
}

#[test]
fn predictions_never_cross_and_are_explained() {
    let data = Data::normal(13, 40, 5, |x, e| f64::from(x[0]) + (1.0 + 3.0 * f64::from(x[1]).abs()) * e);
    let levels = [0.05, 0.2, 0.4, 0.5, 0.6, 0.8, 0.95];
    let model = fit(&data, &sharp(&levels)).model;
    let far = Data::normal(14, 200, 5, |_, e| e);
    let problem = far.problem();
    let all = model.predict(&problem.design).unwrap();
    let mut crossed = 0;
    for (row, quantiles) in all.chunks_exact(levels.len()).enumerate() {
        assert!(quantiles.is_sorted(), "{quantiles:?}");
        let mut one = vec![0.0; levels.len()];
        model.predict_row(far.row(row), &mut one).unwrap();
        assert_eq!(one, quantiles);
        let explained = model.contributions(far.row(row)).unwrap();
        for ((found, quantile), level) in explained.iter().zip(quantiles).zip(levels) {
            assert!((found.base + found.features.iter().sum::<f64>() - quantile).abs() < 1e-9);
            assert_eq!(found.level, level);
        }
        crossed += usize::from(explained.iter().zip(&model.bases).any(|(found, base)| found.base != *base));
    }
    assert!(crossed > 0, "the example is one where lines cross");
}

#[test]
fn a_model_survives_being_written_and_read() {
    let data = Data::normal(15, 100, 3, |x, e| f64::from(x[0]) + e);
    let model = fit(&data, &QuantileOptions::new(&[0.1, 0.5, 0.9])).model;
    let text = serde_json::to_string(&model).unwrap();
    let read: crate::linear::LinearQuantiles = serde_json::from_str(&text).unwrap();
    let (mut before, mut after) = ([0.0; 3], [0.0; 3]);
    model.predict_row(data.row(0), &mut before).unwrap();
    read.predict_row(data.row(0), &mut after).unwrap();
    assert!(before.iter().zip(after).all(|(a, b)| (a - b).abs() < 1e-12));
    assert_eq!((read.names, read.levels), (model.names, model.levels));
}

#[test]
fn many_problems_are_fitted_as_each_alone_and_fail_alone() {
    let mut data: Vec<Data> = (0..6).map(|seed| Data::normal(seed, 60, 3, |x, e| f64::from(x[0]) + e)).collect();
    data[2].target.fill(f32::NAN);
    let problems: Vec<_> = data.iter().map(Data::problem).collect();
    let options = QuantileOptions::new(&[0.1, 0.5, 0.9]);
    let names = data[0].names();
    let found = fit_many(&problems, &names, &options);
    for (problem, found) in problems.iter().zip(&found) {
        assert_eq!(*found, quantile_fit(problem, &names, &options));
    }
    assert!(found.iter().enumerate().all(|(index, fit)| fit.is_err() == (index == 2)));
    assert!(fit_many(&[], &names, &options).is_empty());
}
