//! What the booster promises as a whole.

use std::ops::ControlFlow;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

/// Every feature, small leaves, little shrinkage: few rounds are enough.
fn plain() -> Params {
    Params { learning_rate: 0.1, leaf_rows_min: 20, leaf_l2: 1.0, feature_fraction: 1.0, ..Params::default() }
}

fn deciles() -> Objective {
    Objective::Quantiles((1..10).map(|i| f64::from(i) / 10.0).collect())
}

fn fit(data: &Dataset, params: &Params, objective: &Objective) -> Booster {
    train(data, None, params, objective, &mut |_| ControlFlow::Continue(())).unwrap()
}

/// Quantiles of the standard normal distribution at the deciles.
const NORMAL: [f32; 9] =
    [-1.2815516, -0.8416212, -0.5244005, -0.2533471, 0.0, 0.2533471, 0.5244005, 0.8416212, 1.2815516];

/// Location and scale of the synthetic target.
fn truth(x: &Matrix, row: usize) -> (f32, f32) {
    let [a, b, c] = [0, 1, 2].map(|f| x.column(f)[row]);
    ((3.0 * a).sin() + if b > 0.5 { 1.0 } else { 0.0 } + a * c, 0.2 + 0.6 * b)
}

/// Six uniform features, two of them noise, and a normal target of known location and scale.
fn synthetic(rows: usize, seed: u64) -> (Matrix, Vec<f32>) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let x = Matrix::new((0..rows * 6).map(|_| random.random::<f32>()).collect(), rows, 6).unwrap();
    let mut normal = || {
        let (u, v) = (1.0 - random.random::<f32>(), random.random::<f32>());
        (-2.0 * u.ln()).sqrt() * (std::f32::consts::TAU * v).cos()
    };
    let y = (0..rows)
        .map(|row| {
            let (location, scale) = truth(&x, row);
            location + scale * normal()
        })
        .collect();
    (x, y)
}

fn pinball(y: &[f32], predictions: &[f32]) -> f64 {
    let mut sum = 0.0;
    for (y, row) in y.iter().zip(predictions.chunks_exact(9)) {
        for (i, f) in row.iter().enumerate() {
            let (level, error) = ((i + 1) as f64 / 10.0, f64::from(y - f));
            sum += (level * error).max((level - 1.0) * error) / 9.0;
        }
    }
    sum / y.len() as f64
}

#[test]
fn quantiles_of_a_known_distribution_are_found() {
    let (x, y) = synthetic(30_000, 1);
    let (test_x, test_y) = synthetic(30_000, 2);
    let params = Params { rounds: 120, leaves_max: 15, leaf_rows_min: 50, ..plain() };
    let found = fit(&Dataset::new(&x, &y), &params, &deciles()).predict(&test_x, None).unwrap();
    let oracle: Vec<f32> = (0..test_y.len())
        .flat_map(|row| {
            let (location, scale) = truth(&test_x, row);
            NORMAL.map(|z| location + scale * z)
        })
        .collect();
    let ratio = pinball(&test_y, &found) / pinball(&test_y, &oracle);
    assert!((1.0..1.03).contains(&ratio), "{ratio}");
    for level in 0..9 {
        let below = test_y.iter().zip(found.chunks_exact(9)).filter(|(y, row)| **y <= row[level]).count();
        let share = below as f64 / test_y.len() as f64;
        assert!((share - (level + 1) as f64 / 10.0).abs() < 0.02, "{level}: {share}");
    }
    assert!(found.chunks_exact(9).all(|row| row.windows(2).all(|w| w[0] <= w[1])), "quantiles never cross");
}

#[test]
fn intervals_are_as_wide_as_the_noise() {
    let (x, y) = synthetic(30_000, 3);
    let params = Params { rounds: 120, leaves_max: 15, leaf_rows_min: 50, ..plain() };
    let booster = fit(&Dataset::new(&x, &y), &params, &deciles());
    let probe = |b: f32| Matrix::new(vec![0.5, b, 0.5, 0.5, 0.5, 0.5], 1, 6).unwrap();
    for (b, scale) in [(0.1, 0.26), (0.9, 0.74)] {
        let row = booster.predict(&probe(b), None).unwrap();
        let width = (row[8] - row[0]) / (2.0 * NORMAL[8]);
        assert!((width / scale - 1.0).abs() < 0.15, "{width} {scale}");
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let (x, y) = synthetic(20_000, 4);
    let weights: Vec<f32> = (0..y.len()).map(|row| (row % 3) as f32).collect();
    let groups: Vec<u32> = (0..y.len()).map(|row| (row / 24) as u32).collect();
    let data = Dataset::new(&x, &y).with_weights(&weights).with_groups(&groups);
    let params = Params { rounds: 12, feature_fraction: 0.6, bagging_fraction: 0.7, ..plain() };
    let with_threads = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let booster = fit(&data, &params, &deciles());
            let predictions = booster.predict(&x, None).unwrap();
            (booster, predictions)
        })
    };
    let one = with_threads(1);
    assert_eq!(one.0.trees(), 12);
    for threads in [2, 4, 7] {
        assert!(with_threads(threads) == one, "{threads}");
    }
    let other_seed = fit(&data, &Params { seed: 1, ..params.clone() }, &deciles());
    assert!(other_seed != one.0);
}

#[test]
fn the_mean_of_each_step_of_a_staircase_is_found() {
    let x = Matrix::new((0..400).map(|r| r as f32).collect(), 400, 1).unwrap();
    let y: Vec<f32> = (0..400).map(|r| (r / 100) as f32 + if r % 2 == 0 { 0.5 } else { -0.5 }).collect();
    let params = Params { rounds: 60, learning_rate: 0.3, leaves_max: 4, leaf_l2: 0.0, ..plain() };
    let found = fit(&Dataset::new(&x, &y), &params, &Objective::Squared).predict(&x, None).unwrap();
    for (row, value) in found.iter().enumerate().filter(|(row, _)| (20..80).contains(&(row % 100))) {
        assert!((value - (row / 100) as f32).abs() < 0.1, "{row}: {value}");
    }
}

#[test]
fn missing_values_go_where_they_belong() {
    // Missing rows behave like those with large values of the first feature; the second is missing at random.
    let column: Vec<f32> = (0..3000).map(|r| if r % 3 == 0 { f32::NAN } else { (r % 100) as f32 }).collect();
    let y: Vec<f32> = column.iter().map(|v| if v.is_nan() || *v >= 50.0 { 10.0 } else { 0.0 }).collect();
    let noise: Vec<f32> = (0..3000).map(|r| if r % 7 == 0 { f32::NAN } else { (r * 31 % 17) as f32 }).collect();
    let x = Matrix::from_columns(&[column, noise]).unwrap();
    for objective in [deciles(), Objective::Squared] {
        let params = Params { rounds: 100, ..plain() };
        let booster = fit(&Dataset::new(&x, &y), &params, &objective);
        let outputs = objective.outputs();
        let found = booster.predict(&x, None).unwrap();
        for (y, row) in y.iter().zip(found.chunks_exact(outputs)) {
            assert!(row.iter().all(|f| (f - y).abs() < 0.1), "{y} {row:?}");
        }
        let probe = Matrix::from_columns(&[vec![f32::NAN, 10.0, f32::INFINITY], vec![f32::NAN; 3]]).unwrap();
        let found = booster.predict(&probe, None).unwrap();
        assert!(found[0] > 9.0 && found[outputs] < 1.0 && found[2 * outputs] > 9.0, "{found:?}");
        assert!(booster.gains()[0] > 100.0 * booster.gains()[1], "{:?}", booster.gains());
    }
}

#[test]
fn leaves_of_rows_that_made_no_split_have_wider_intervals() {
    // Pure noise: every split is a mistake, and only leaf values of other rows tell it.
    let (x, _) = synthetic(1_000, 16);
    let (_, y) = synthetic(1_000, 17);
    let width = |honest| {
        let params = Params { rounds: 40, bagging_fraction: 0.5, honest, ..plain() };
        let found = fit(&Dataset::new(&x, &y), &params, &deciles()).predict(&x, None).unwrap();
        found.chunks_exact(9).map(|row| f64::from(row[8] - row[0])).sum::<f64>()
    };
    assert!(width(true) > 1.1 * width(false));
}

#[test]
fn training_stops_when_the_validation_loss_no_longer_falls() {
    let (x, y) = synthetic(2_000, 5);
    let (valid_x, valid_y) = synthetic(2_000, 6);
    let valid = Dataset::new(&valid_x, &valid_y);
    let params = Params { rounds: 400, learning_rate: 0.3, patience: Some(10), ..plain() };
    let mut losses = Vec::new();
    let booster = train(&Dataset::new(&x, &y), Some(&valid), &params, &deciles(), &mut |progress| {
        losses.push(progress.loss.unwrap());
        ControlFlow::Continue(())
    })
    .unwrap();
    let best = (0..losses.len()).min_by(|a, b| losses[*a].total_cmp(&losses[*b])).unwrap();
    assert_eq!((booster.trees(), losses.len()), (best + 1, best + 1 + 11));
    assert!(losses.len() < 400);
    let found = pinball(&valid_y, &booster.predict(&valid_x, None).unwrap());
    assert!(found <= losses[best] + 1e-6, "{found} {}", losses[best]);
}

#[test]
fn training_ends_when_it_is_told_to() {
    let (x, y) = synthetic(1_000, 7);
    let mut stop = |progress: &Progress| match progress.round {
        3 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let booster = train(&Dataset::new(&x, &y), None, &plain(), &deciles(), &mut stop).unwrap();
    assert_eq!(booster.trees(), 3);
}

#[test]
fn what_an_offset_explains_is_not_learned_again() {
    let (x, y) = synthetic(5_000, 8);
    let offset: Vec<f32> = (0..y.len())
        .flat_map(|row| {
            let (location, scale) = truth(&x, row);
            NORMAL.map(|z| 7.0 + location + scale * z)
        })
        .collect();
    let params = Params { rounds: 20, ..plain() };
    let booster = fit(&Dataset::new(&x, &y).with_offset(&offset), &params, &deciles());
    assert!(booster.base().iter().all(|b| (b + 7.0).abs() < 0.05), "the offset is 7 too high: {:?}", booster.base());
    let plain = fit(&Dataset::new(&x, &y), &params, &deciles());
    assert!(booster.gains().iter().sum::<f64>() < 0.2 * plain.gains().iter().sum::<f64>());
    let found = booster.predict(&x, Some(&offset)).unwrap();
    let shifted: Vec<f32> = offset.iter().map(|o| o - 7.0).collect();
    assert!(pinball(&y, &found) < 1.01 * pinball(&y, &shifted));
}

#[test]
fn contributions_sum_to_the_prediction() {
    let (x, y) = synthetic(3_000, 9);
    let offset: Vec<f32> = (0..y.len() * 9).map(|i| (i % 9) as f32 * 0.01).collect();
    let params = Params { rounds: 40, ..plain() };
    for (objective, offset) in [(deciles(), Some(&offset[..])), (deciles(), None), (Objective::Squared, None)] {
        let outputs = objective.outputs();
        let booster = fit(&Dataset { offset, ..Dataset::new(&x, &y) }, &params, &objective);
        let found = booster.predict(&x, offset).unwrap();
        for (row, explained) in found.chunks_exact(outputs).zip(booster.contributions(&x, offset).unwrap()) {
            for (output, value) in row.iter().enumerate() {
                let sum = explained.bias[output] + explained.features[output].iter().sum::<f64>();
                assert!((sum - f64::from(*value)).abs() < 1e-4, "{sum} {value}");
            }
        }
    }
}

#[test]
fn rows_without_weight_do_not_count() {
    let (x, mut y) = synthetic(4_000, 10);
    let weights: Vec<f32> = (0..y.len()).map(|row| if row % 4 == 0 { 0.0 } else { 2.0 }).collect();
    y.iter_mut().step_by(4).for_each(|y| *y = 1000.0);
    let booster = fit(&Dataset::new(&x, &y).with_weights(&weights), &plain(), &deciles());
    let found = booster.predict(&x, None).unwrap();
    assert!(found.iter().all(|f| *f < 6.0));
}

#[test]
fn what_is_stored_comes_back_and_damage_is_refused() {
    let (x, y) = synthetic(1_000, 11);
    let names: Vec<String> = (0..6).map(|f| format!("feature {f}")).collect();
    let x = x.with_names(names.clone()).unwrap();
    let booster = fit(&Dataset::new(&x, &y), &Params { rounds: 5, ..plain() }, &deciles());
    let text = serde_json::to_string(&booster).unwrap();
    let back: Booster = serde_json::from_str(&text).unwrap();
    // JSON may change the last digit of a f64, not a f32.
    assert!(back.gains().iter().zip(booster.gains()).all(|(a, b)| (a - b).abs() <= 1e-12 * b));
    assert_eq!((back.names(), back.trees()), (&names[..], booster.trees()));
    assert_eq!(back.predict(&x, None), booster.predict(&x, None));
    for (part, damaged) in [
        ("\"features\":6", "\"features\":1"),
        ("\"names\":[", "\"names\":[\"one more\","),
        ("\"base\":[", "\"base\":[0.0,"),
        ("\"gains\":[", "\"gains\":[0.0,"),
        ("0.1,0.2", "0.2,0.1"),
        ("\"children\":[1,", "\"children\":[0,"),
        ("\"rows\":[", "\"rows\":[1,"),
    ] {
        assert!(text.contains(part), "{part}");
        assert!(serde_json::from_str::<Booster>(&text.replacen(part, damaged, 1)).is_err(), "{damaged}");
    }
}

#[test]
fn constants_are_predicted_as_they_are() {
    let (x, _) = synthetic(500, 12);
    for value in [0.0, -3.5, 1e30] {
        for objective in [deciles(), Objective::Squared] {
            let booster = fit(&Dataset::new(&x, &[value; 500]), &plain(), &objective);
            assert_eq!(booster.trees(), 0);
            assert!(booster.predict(&x, None).unwrap().iter().all(|f| *f == value), "{value}");
        }
    }
}

#[test]
fn without_anything_to_split_by_the_base_values_are_predicted() {
    let y: Vec<f32> = (1..20).map(|i| i as f32).collect();
    for x in [
        Matrix::new(vec![], 19, 0).unwrap(),
        Matrix::new(vec![4.0; 19], 19, 1).unwrap(),
        Matrix::new(vec![f32::NAN; 19], 19, 1).unwrap(),
        Matrix::new((0..19).map(|i| i as f32).collect(), 19, 1).unwrap(),
    ] {
        let booster = fit(&Dataset::new(&x, &y), &plain(), &deciles());
        let found = booster.predict(&x, None).unwrap();
        assert!(
            found.chunks_exact(9).all(|row| row == [2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0, 18.0]),
            "{found:?}"
        );
    }
    let one = Matrix::new(vec![1.0], 1, 1).unwrap();
    let booster = fit(&Dataset::new(&one, &[5.0]), &plain(), &deciles());
    assert_eq!(booster.predict(&one, None), Ok(vec![5.0; 9]));
}

#[test]
fn huge_values_are_learned_or_refused() {
    let (x, y) = synthetic(1_000, 13);
    for (scale, fits) in [(1e30, true), (1e-30, true), (6e37, false)] {
        let y: Vec<f32> = y.iter().map(|y| y * scale).collect();
        let params = Params { rounds: 20, ..plain() };
        let found = train(&Dataset::new(&x, &y), None, &params, &deciles(), &mut |_| ControlFlow::Continue(()));
        match found {
            Ok(booster) => assert!(booster.trees() == 20 && booster.predict(&x, None).is_ok(), "{scale}"),
            Err(BoosterError::Overflow { .. } | BoosterError::NotFinite { .. }) => assert!(!fits, "{scale}"),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn inputs_that_do_not_fit_are_refused_by_name() {
    let (x, y) = synthetic(100, 14);
    let data = Dataset::new(&x, &y);
    let mut with_nan = y.clone();
    with_nan[7] = f32::NAN;
    let mut weights = vec![1.0; 100];
    weights[9] = -1.0;
    let mut unknown = vec![1.0; 100];
    unknown[3] = f32::NAN;
    let (zeros, short, empty) = (vec![0.0; 100], vec![0.0; 9], Matrix::new(vec![], 0, 6).unwrap());
    let narrow = Matrix::new(vec![0.0; 200], 100, 2).unwrap();
    let quantiles = |levels: &[f64]| Objective::Quantiles(levels.to_vec());
    let run = |data: &Dataset, valid: Option<&Dataset>, objective: &Objective| {
        train(data, valid, &plain(), objective, &mut |_| ControlFlow::Continue(())).map(|_| ())
    };
    for (data, error) in [
        (Dataset::new(&x, &y[1..]), BoosterError::Size { what: "targets", found: 99, expected: 100 }),
        (Dataset::new(&x, &with_nan), BoosterError::NotFinite { what: "target", row: 7 }),
        (Dataset::new(&empty, &[]), BoosterError::NoRows),
        (data.with_weights(&weights), BoosterError::Weight { row: 9 }),
        (data.with_weights(&unknown), BoosterError::Weight { row: 3 }),
        (data.with_weights(&zeros), BoosterError::NoWeight),
        (data.with_weights(&short), BoosterError::Size { what: "weights", found: 9, expected: 100 }),
        (data.with_offset(&short), BoosterError::Size { what: "offsets", found: 9, expected: 900 }),
        (data.with_groups(&[1]), BoosterError::Size { what: "groups", found: 1, expected: 100 }),
    ] {
        assert_eq!(run(&data, None, &deciles()), Err(error));
    }
    for levels in [&[][..], &[0.0, 0.5], &[0.5, 1.0], &[0.5, 0.5], &[0.9, 0.1], &[f64::NAN]] {
        assert!(matches!(run(&data, None, &quantiles(levels)), Err(BoosterError::Levels { .. })), "{levels:?}");
    }
    let valid = Dataset::new(&narrow, &y);
    let error = BoosterError::Size { what: "validation features", found: 2, expected: 6 };
    assert_eq!(run(&data, Some(&valid), &deciles()), Err(error));
    let booster = fit(&data, &Params { rounds: 1, ..plain() }, &deciles());
    assert!(matches!(booster.predict(&narrow, None), Err(BoosterError::Size { what: "features", .. })));
    assert!(matches!(booster.predict(&x, Some(&short)), Err(BoosterError::Size { what: "offsets", .. })));
    assert!(matches!(Matrix::new(vec![0.0; 5], 2, 3), Err(BoosterError::Size { what: "matrix", .. })));
    assert!(matches!(Matrix::from_columns(&[vec![1.0], vec![]]), Err(BoosterError::Size { what: "column", .. })));
    assert!(narrow.with_names(vec![]).is_err());
}

#[test]
fn parameters_out_of_range_are_refused_by_name() {
    type Change = fn(&mut Params);
    let changes: [(&str, Change); 9] = [
        ("bagging_fraction", |p| p.honest = true),
        ("learning_rate", |p| p.learning_rate = 0.0),
        ("leaves_max", |p| p.leaves_max = 1),
        ("leaf_rows_min", |p| p.leaf_rows_min = 0),
        ("leaf_l2", |p| p.leaf_l2 = -1.0),
        ("gain_min", |p| p.gain_min = f64::NAN),
        ("bins_max", |p| p.bins_max = 256),
        ("feature_fraction", |p| p.feature_fraction = 1.5),
        ("bagging_fraction", |p| p.bagging_fraction = f64::NAN),
    ];
    let (x, y) = synthetic(100, 15);
    for (field, change) in changes {
        let mut params = plain();
        change(&mut params);
        let found = train(&Dataset::new(&x, &y), None, &params, &deciles(), &mut |_| ControlFlow::Continue(()));
        assert!(matches!(found, Err(BoosterError::Parameter { name, .. }) if name == field), "{field}");
    }
}
