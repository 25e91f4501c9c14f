use super::{Data, eliminate};
use crate::linear::{LinearError, default_lambdas, loo_residuals, out_of_fold_residuals, ridge};

/// Coefficients and intercept, by elimination, of the rows with their multipliers: Σ m w r² + λ share |b|² for
/// standardised features, where `share` is one or the weight of the rows taken part of.
fn brute_force(data: &Data, lambda: f64, keep: impl Fn(usize) -> bool, rescale: bool) -> Vec<f64> {
    let standardised = data.standardised();
    let size = data.columns + 1;
    let total: f64 = (0..data.rows()).map(|row| data.weight(row)).sum();
    let mut kept = 0.0;
    let mut system = vec![vec![0.0; size]; size];
    let mut right = vec![0.0; size];
    for row in (0..data.rows()).filter(|row| keep(*row)) {
        let mut x = standard_row(data, row);
        x.push(1.0);
        let y = (f64::from(data.target[row]) - standardised.target_centre()) / standardised.target_scale();
        let weight = data.weight(row) / total;
        kept += weight;
        for i in 0..size {
            for j in 0..size {
                system[i][j] += weight * x[i] * x[j];
            }
            right[i] += weight * x[i] * y;
        }
    }
    for (i, row) in system.iter_mut().enumerate().take(data.columns) {
        row[i] += if rescale { lambda * kept } else { lambda };
    }
    eliminate(system, right).unwrap()
}

fn standard_row(data: &Data, row: usize) -> Vec<f64> {
    let standardised = data.standardised();
    let columns = data.row(row).iter().zip(standardised.means()).zip(standardised.scales());
    columns.map(|((x, mean), scale)| (f64::from(*x) - mean) / scale).collect()
}

/// Target − prediction of a row in the target's unit.
fn residual(data: &Data, row: usize, coefficients: &[f64]) -> f64 {
    let standardised = data.standardised();
    let mut x = standard_row(data, row);
    x.push(1.0);
    let fit: f64 = x.iter().zip(coefficients).map(|(x, b)| x * b).sum();
    f64::from(data.target[row]) - standardised.target_centre() - standardised.target_scale() * fit
}

fn examples() -> Vec<Data> {
    let line = |x: &[f32], e: f64| 3.0 + f64::from(x[0]) * 2.0 - f64::from(x[x.len() - 1]) + 0.5 * e;
    vec![
        Data::normal(1, 30, 1, line),
        Data::normal(2, 45, 6, line),
        Data::normal(3, 70, 9, line).with_weights(|row| 1.0 + (row % 4) as f32),
    ]
}

#[test]
fn coefficients_solve_the_normal_equations() {
    for data in examples() {
        let standardised = data.standardised();
        for lambda in [0.0, 0.01, 0.3, 5.0] {
            let found = ridge(&standardised, &[lambda]).unwrap();
            let expected = brute_force(&data, lambda, |_| true, false);
            for row in 0..data.rows() {
                let error = f64::from(data.target[row]) - found.predict_row(data.row(row)).unwrap();
                assert!((error - residual(&data, row, &expected)).abs() < 1e-5, "lambda {lambda}, row {row}");
            }
        }
    }
}

#[test]
fn leave_one_out_residuals_are_those_of_real_refits() {
    for data in examples() {
        let standardised = data.standardised();
        for lambda in [0.0, 0.02, 1.0] {
            let found = loo_residuals(&standardised, lambda).unwrap();
            for (row, found) in found.iter().enumerate() {
                let refit = brute_force(&data, lambda, |other| other != row, false);
                let expected = residual(&data, row, &refit);
                assert!((found - expected).abs() < 1e-5, "lambda {lambda}, row {row}: {found} {expected}");
            }
            let weights: f64 = (0..data.rows()).map(|row| data.weight(row)).sum();
            let square: f64 = (0..data.rows()).map(|row| data.weight(row) * found[row].powi(2)).sum();
            let (_, error) = ridge(&standardised, &[lambda]).unwrap().candidates[0];
            assert!((error - square / weights).abs() < 1e-6 * error, "{error} {}", square / weights);
        }
    }
}

#[test]
fn out_of_fold_residuals_are_those_of_real_refits() {
    for data in examples() {
        for folds in [2, 5] {
            let found = out_of_fold_residuals(&data.standardised(), 0.05, folds).unwrap();
            for fold in 0..folds {
                let range = data.rows() * fold / folds..data.rows() * (fold + 1) / folds;
                let refit = brute_force(&data, 0.05, |row| !range.contains(&row), true);
                for row in range {
                    assert!((found[row] - residual(&data, row, &refit)).abs() < 1e-5, "{folds} folds, row {row}");
                }
            }
        }
    }
}

#[test]
fn noise_is_penalised_more_than_signal() {
    let noise = Data::normal(7, 60, 30, |_, e| e).standardised();
    let signal = Data::normal(8, 60, 30, |x, e| f64::from(x[0]) - f64::from(x[1]) + 0.01 * e).standardised();
    let lambdas = default_lambdas();
    let (noise, signal) = (ridge(&noise, &lambdas).unwrap(), ridge(&signal, &lambdas).unwrap());
    assert!(noise.lambda >= 1.0 && signal.lambda <= 1e-3, "{} {}", noise.lambda, signal.lambda);
    let least = signal.candidates.iter().map(|(_, error)| *error).fold(f64::INFINITY, f64::min);
    assert!(signal.candidates.contains(&(signal.lambda, least)));
}

#[test]
fn of_very_many_rows_a_sample_chooses_about_the_same_lambda() {
    let data = Data::normal(9, 80_000, 3, |x, e| f64::from(x[0]) + 3.0 * e);
    let standardised = data.standardised();
    let found = ridge(&standardised, &default_lambdas()).unwrap();
    for (lambda, error) in &found.candidates {
        let all = loo_residuals(&standardised, *lambda).unwrap();
        let exact = all.iter().map(|e| e * e).sum::<f64>() / all.len() as f64;
        assert!((error / exact - 1.0).abs() < 0.03, "{lambda}: {error} {exact}");
    }
}

#[test]
fn rows_that_did_not_count_have_no_residual() {
    let mut data = examples().remove(1).with_weights(|row| if row == 4 { 0.0 } else { 1.0 });
    data.target[9] = f32::NAN;
    let loo = loo_residuals(&data.standardised(), 0.1).unwrap();
    let folds = out_of_fold_residuals(&data.standardised(), 0.1, 3).unwrap();
    for residuals in [loo, folds] {
        let missing: Vec<usize> = (0..data.rows()).filter(|row| residuals[*row].is_nan()).collect();
        assert_eq!(missing, [4, 9]);
    }
}

#[test]
fn what_cannot_be_left_out_is_told() {
    let data = Data::normal(4, 5, 8, |x, _| f64::from(x[0]));
    let standardised = data.standardised();
    assert!(matches!(loo_residuals(&standardised, 0.0), Err(LinearError::NotFinite { .. })));
    assert!(loo_residuals(&standardised, 0.1).is_ok());
    // Without a finite error for λ = 0, the other candidate is chosen.
    assert_eq!(ridge(&standardised, &[0.0, 0.1]).unwrap().lambda, 0.1);
    for (lambda, folds) in [(-1.0, 2), (f64::NAN, 2), (0.1, 1), (0.1, 6), (0.1, 0)] {
        let found = out_of_fold_residuals(&standardised, lambda, folds);
        assert!(matches!(found, Err(LinearError::Option { .. })), "{lambda} {folds}");
    }
    assert!(matches!(ridge(&standardised, &[]), Err(LinearError::Option { .. })));
    assert!(matches!(ridge(&standardised, &[f64::INFINITY]), Err(LinearError::Option { .. })));
}
