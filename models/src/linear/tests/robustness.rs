use super::{Data, normal};
use crate::linear::{Design, LinearError, Penalty, Problem, QuantileFit, QuantileOptions, quantile_fit, ridge};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

const LEVELS: [f64; 3] = [0.1, 0.5, 0.9];

fn fit(data: &Data) -> QuantileFit {
    quantile_fit(&data.problem(), &data.names(), &QuantileOptions::new(&LEVELS)).unwrap()
}

fn predict(fit: &QuantileFit, row: &[f32]) -> Vec<f64> {
    let mut quantiles = vec![0.0; fit.model.levels.len()];
    fit.model.predict_row(row, &mut quantiles).unwrap();
    quantiles
}

fn example() -> Data {
    Data::normal(21, 400, 4, |x, e| 5.0 + 2.0 * f64::from(x[0]) - f64::from(x[3]) + (1.0 + f64::from(x[1]).abs()) * e)
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let data = Data::normal(20, 9_001, 10, |x, e| f64::from(x[0]) + e).with_weights(|row| 1.0 + (row % 7) as f32 / 3.0);
    let with =
        |threads: usize| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| fit(&data));
    let one = with(1);
    for threads in [2, 3, 8] {
        assert_eq!(with(threads), one, "{threads} threads");
    }
}

#[test]
fn a_weight_of_zero_leaves_a_row_out() {
    let whole = example().with_weights(|row| if row % 5 == 0 { 0.0 } else { 2.0 });
    let mut kept = Data { features: vec![], target: vec![], weights: None, columns: 4 };
    for row in (0..whole.rows()).filter(|row| row % 5 != 0) {
        kept.features.extend(whole.row(row));
        kept.target.push(whole.target[row]);
    }
    assert_eq!(fit(&whole), fit(&kept));
    let mut without_target = Data { weights: None, ..whole.clone() };
    for row in (0..whole.rows()).step_by(5) {
        without_target.target[row] = f32::NAN;
        without_target.features[row * 4] = f32::NAN;
    }
    assert_eq!(fit(&without_target), fit(&kept));
}

#[test]
fn a_weight_of_three_is_a_row_three_times() {
    let weighted = example().with_weights(|row| if row % 2 == 0 { 3.0 } else { 1.0 });
    let mut repeated = Data { features: vec![], target: vec![], weights: None, columns: 4 };
    for row in 0..weighted.rows() {
        for _ in 0..weighted.weight(row) as usize {
            repeated.features.extend(weighted.row(row));
            repeated.target.push(weighted.target[row]);
        }
    }
    // The usual half-width and λ depend on how many rows there are; given both, the problems are the same.
    let options = QuantileOptions {
        half_width: Some(0.1),
        lambdas: vec![0.01],
        penalty: Penalty::Fixed(0.01),
        tolerance: 1e-10,
        ..QuantileOptions::new(&LEVELS)
    };
    let fit = |data: &Data| quantile_fit(&data.problem(), &data.names(), &options).unwrap();
    let (weighted, repeated) = (fit(&weighted), fit(&repeated));
    for (a, b) in weighted.model.coefficients.iter().flatten().zip(repeated.model.coefficients.iter().flatten()) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
}

#[test]
fn copies_of_a_column_share_its_coefficient() {
    let data = Data::normal(22, 300, 1, |x, e| 2.0 * f64::from(x[0]) + e);
    let features = data.features.iter().flat_map(|x| [*x, *x, -*x, 7.0]).collect();
    let copies = Data { features, columns: 4, ..data.clone() };
    let (one, many) = (fit(&data), fit(&copies));
    for (one, many) in one.model.coefficients.iter().zip(&many.model.coefficients) {
        assert!((many[0] - many[1]).abs() < 1e-3 && (many[0] + many[2]).abs() < 1e-3, "{many:?}");
        assert!((many[0] + many[1] - many[2] - one[0]).abs() < 0.02, "{one:?} {many:?}");
        assert_eq!(many[3], 0.0, "a constant column has no coefficient");
    }
    // Also without any penalty, where the equations have no single solution.
    let free = QuantileOptions { penalty: Penalty::Fixed(0.0), lambdas: vec![0.0], ..QuantileOptions::new(&LEVELS) };
    let found = quantile_fit(&copies.problem(), &copies.names(), &free).unwrap();
    assert!(found.levels.iter().all(|level| level.converged), "{:?}", found.levels);
    assert!((predict(&found, &[1.0, 1.0, -1.0, 7.0])[1] - 2.0).abs() < 0.3);
}

#[test]
fn units_do_not_matter() {
    let data = example();
    let usual = fit(&data);
    for (feature_unit, target_unit) in [(1e-6, 1.0), (1.0, 1e-6), (1e9, 1e9), (1e-6, 1e9), (1e30, 1e-30)] {
        let scaled = Data {
            features: data.features.iter().map(|x| (f64::from(*x) * feature_unit) as f32).collect(),
            target: data.target.iter().map(|y| (f64::from(*y) * target_unit) as f32).collect(),
            ..data.clone()
        };
        let found = fit(&scaled);
        for row in (0..data.rows()).step_by(37) {
            for (a, b) in predict(&usual, data.row(row)).iter().zip(predict(&found, scaled.row(row))) {
                assert!((a - b / target_unit).abs() < 1e-2, "{feature_unit} {target_unit}: {a} {b}");
            }
        }
    }
}

#[test]
fn features_far_from_zero_lose_nothing() {
    let data = Data::normal(23, 500, 1, |x, e| f64::from(x[0]) + 0.1 * e);
    let usual = fit(&data);
    let moved = Data { features: data.features.iter().map(|x| x + 10_000.0).collect(), ..data.clone() };
    let found = fit(&moved);
    for row in (0..500).step_by(50) {
        let pairs = predict(&usual, data.row(row)).into_iter().zip(predict(&found, moved.row(row)));
        assert!(pairs.into_iter().all(|(a, b)| (a - b).abs() < 0.02));
    }
}

#[test]
fn the_smallest_problems_have_an_answer() {
    for (features, columns, target, expected) in [
        (vec![1.0], 1, vec![3.0], 3.0),
        (vec![1.0, 1.0], 1, vec![3.0, 3.0], 3.0),
        (vec![1.0, 2.0, 3.0, 4.0], 1, vec![7.0; 4], 7.0),
        (vec![5.0; 6], 2, vec![1.0, 2.0, 9.0], 2.0),
    ] {
        let data = Data { columns, features, target, weights: None };
        let found = fit(&data);
        let quantiles = predict(&found, data.row(0));
        assert!((quantiles[1] - expected).abs() < 1e-6, "{quantiles:?} for {expected}");
        assert!(found.levels.iter().all(|level| level.converged), "{:?}", found.levels);
    }
}

#[test]
fn an_exact_line_is_found_without_iterating() {
    let data = Data::normal(24, 200, 2, |x, _| 1.0 + 2.0 * f64::from(x[0]) - 3.0 * f64::from(x[1]));
    let options = QuantileOptions { lambdas: vec![0.0], ..QuantileOptions::new(&LEVELS) };
    let found = quantile_fit(&data.problem(), &data.names(), &options).unwrap();
    assert!(found.levels.iter().all(|level| level.evaluations == 0 && level.loss < 1e-6), "{:?}", found.levels);
    assert!((found.model.coefficients[0][1] + 3.0).abs() < 1e-5);
}

#[test]
fn more_columns_than_rows_are_held_by_the_penalty() {
    let data = Data::normal(25, 30, 60, |x, e| 3.0 * f64::from(x[0]) + 0.3 * e);
    let found = fit(&data);
    let quantiles: Vec<Vec<f64>> = (0..30).map(|row| predict(&found, data.row(row))).collect();
    assert!(quantiles.iter().flatten().all(|q| q.abs() < 20.0));
    assert!(found.levels.iter().all(|level| level.converged), "{:?}", found.levels);
}

#[test]
fn one_value_beyond_all_others_does_not_move_the_median() {
    let mut data = example();
    let usual = fit(&data);
    data.target[123] = 1e9;
    let found = fit(&data);
    for row in (0..400).step_by(41) {
        let (a, b) = (predict(&usual, data.row(row))[1], predict(&found, data.row(row))[1]);
        assert!((a - b).abs() < 1.0, "{a} {b}; {:?}", found.levels);
    }
}

#[test]
fn targets_that_are_mostly_zero_have_a_median_of_zero() {
    // Solar power at night: three rows of four are exactly zero.
    let mut random = ChaCha8Rng::seed_from_u64(26);
    let features: Vec<f32> = (0..800).map(|row| if row % 4 == 0 { 1.0 } else { 0.0 }).collect();
    let target = features.iter().map(|sun| sun * (5.0 + normal(&mut random)) as f32).collect();
    let data = Data { columns: 1, features, target, weights: None };
    let found = fit(&data);
    let (night, day) = (predict(&found, &[0.0]), predict(&found, &[1.0]));
    assert!(night.iter().all(|q| q.abs() < 0.1), "{night:?} {:?}", found.levels);
    assert!((day[1] - 5.0).abs() < 0.3 && day[0] < 4.3 && day[2] > 5.7, "{day:?}");
}

#[test]
fn losses_do_not_exceed_those_of_the_ridge() {
    for seed in 0..30 {
        let columns = 1 + seed as usize % 9;
        let data = Data::normal(seed, 12 + 7 * seed as usize, columns, |x, e| f64::from(x[0]) + e.powi(5));
        let options = QuantileOptions { penalty: Penalty::Fixed(0.0), ..QuantileOptions::new(&LEVELS) };
        let found = quantile_fit(&data.problem(), &data.names(), &options).unwrap();
        let standardised = data.standardised();
        let start = ridge(&standardised, &crate::linear::default_lambdas()).unwrap();
        let mut residuals: Vec<f64> = (0..data.rows())
            .map(|row| f64::from(data.target[row]) - start.predict_row(data.row(row)).unwrap())
            .collect();
        residuals.sort_unstable_by(f64::total_cmp);
        for level in &found.levels {
            let loss = |shift: f64| {
                let of = |r: &f64| (level.level * (r - shift)).max((level.level - 1.0) * (r - shift));
                residuals.iter().map(of).sum::<f64>() / residuals.len() as f64
            };
            let least = residuals.iter().map(|shift| loss(*shift)).fold(f64::INFINITY, f64::min);
            // Without a penalty, that would trade loss for size; smoothing costs a little.
            assert!(level.loss <= least * 1.01, "seed {seed}: {level:?} from {least}");
        }
    }
}

#[test]
fn options_out_of_range_are_refused() {
    let data = example();
    let usual = QuantileOptions::new(&LEVELS);
    for options in [
        QuantileOptions::new(&[]),
        QuantileOptions::new(&[0.5, 0.5]),
        QuantileOptions::new(&[0.9, 0.1]),
        QuantileOptions::new(&[0.0]),
        QuantileOptions::new(&[1.0]),
        QuantileOptions::new(&[f64::NAN]),
        QuantileOptions { penalty: Penalty::Fixed(-1.0), ..usual.clone() },
        QuantileOptions { penalty: Penalty::LikeRidge(f64::NAN), ..usual.clone() },
        QuantileOptions { half_width: Some(0.0), ..usual.clone() },
        QuantileOptions { tolerance: 0.0, ..usual.clone() },
        QuantileOptions { lambdas: vec![], ..usual.clone() },
    ] {
        let found = quantile_fit(&data.problem(), &data.names(), &options);
        assert!(matches!(found, Err(LinearError::Option { .. })), "{options:?}");
    }
    let names = vec!["one".to_owned()];
    let found = quantile_fit(&data.problem(), &names, &usual);
    assert_eq!(found, Err(LinearError::Shape { what: "names", expected: 4, found: 1 }));
}

#[test]
fn rows_that_cannot_be_predicted_are_named() {
    let model = fit(&example()).model;
    let mut quantiles = [0.0; 3];
    assert!(matches!(model.predict_row(&[1.0], &mut quantiles), Err(LinearError::Shape { .. })));
    assert!(matches!(model.predict_row(&[1.0; 4], &mut [0.0]), Err(LinearError::Shape { .. })));
    let bad = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, f32::NAN, 1.0];
    let found = model.predict(&Design::new(&bad, 4).unwrap());
    assert_eq!(found, Err(LinearError::Feature { row: 1, column: 2 }));
    let problem = Problem { design: Design::new(&bad, 4).unwrap(), target: &[1.0, 2.0], weights: None };
    let names = example().names();
    let found = quantile_fit(&problem, &names, &QuantileOptions::new(&LEVELS));
    assert_eq!(found, Err(LinearError::Feature { row: 1, column: 2 }));
}
