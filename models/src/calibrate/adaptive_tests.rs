use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

const LEVELS: [f64; 5] = [0.1, 0.3, 0.5, 0.7, 0.9];

/// Shares of actual values not above each quantile, over `days` days of 24 hours. Forecasts are uniform on [0, 1]
/// every day, the truth is uniform on the interval that `truth` gives for the day. Learns all along.
fn run(adaptive: &mut Adaptive, days: std::ops::Range<u32>, truth: impl Fn(u32) -> (f64, f64)) -> Vec<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(u64::from(days.start));
    let (mut counts, mut rows) = (vec![0.0; LEVELS.len()], 0.0);
    for day in days {
        let (low, high) = truth(day);
        let actuals: Vec<f64> = (0..24).map(|_| low + (high - low) * rng.random::<f64>()).collect();
        let mut corrected = LEVELS;
        adaptive.apply(0, &mut corrected).unwrap();
        for actual in &actuals {
            rows += 1.0;
            counts.iter_mut().zip(corrected).for_each(|(c, q)| *c += f64::from(u8::from(*actual <= q)));
        }
        adaptive.update(&[0; 24], &LEVELS.repeat(24), &actuals).unwrap();
    }
    counts.iter().map(|count| count / rows).collect()
}

fn near(shares: &[f64], tolerance: f64) -> bool {
    shares.iter().zip(LEVELS).all(|(share, level)| (share - level).abs() < tolerance)
}

#[test]
fn a_good_forecast_is_left_nearly_alone() {
    let mut adaptive = Adaptive::new(&LEVELS, Options::default()).unwrap();
    let shares = run(&mut adaptive, 0..400, |_| (0.0, 1.0));
    assert!(near(&shares, 0.02), "{shares:?}");
    let Some(Correction { location, stretch, shifts }) = adaptive.correction(0) else { return };
    assert!(location.abs() < 0.15 && (stretch - 1.0).abs() < 0.15, "{location} {stretch}");
    assert!(shifts.iter().all(|s| s.abs() < 0.1), "{shifts:?}");
    let (raw, corrected) = adaptive.losses(0).unwrap();
    assert!(corrected < 1.02 * raw, "{raw} {corrected}");
}

#[test]
fn a_shift_of_level_is_followed_within_a_month() {
    for shift in [5.0, -3.0] {
        let mut adaptive = Adaptive::new(&LEVELS, Options::default()).unwrap();
        run(&mut adaptive, 0..100, |_| (0.0, 1.0));
        let at_first = run(&mut adaptive, 100..103, |_| (shift, shift + 1.0));
        assert!(!near(&at_first, 0.2));
        run(&mut adaptive, 103..130, |_| (shift, shift + 1.0));
        let shares = run(&mut adaptive, 130..230, |_| (shift, shift + 1.0));
        assert!(near(&shares, 0.06), "{shift}: {shares:?}");
    }
}

#[test]
fn wrong_spreads_are_corrected_both_ways() {
    for (low, high) in [(-1.0, 2.0), (0.4, 0.6)] {
        let mut adaptive = Adaptive::new(&LEVELS, Options::default()).unwrap();
        run(&mut adaptive, 0..200, |_| (low, high));
        let shares = run(&mut adaptive, 200..500, |_| (low, high));
        assert!(near(&shares, 0.04), "{low} {high}: {shares:?}");
    }
}

#[test]
fn the_long_run_share_stays_near_even_where_the_truth_jumps() {
    let always = Options { location_rates: vec![0.3], worst_ratio: None, ..Options::default() };
    let mut adaptive = Adaptive::new(&LEVELS, always).unwrap();
    // The truth jumps to and fro every ten days.
    let shares = run(&mut adaptive, 0..2000, |day| if day / 10 % 2 == 0 { (0.0, 1.0) } else { (2.0, 3.5) });
    assert!(near(&shares, 0.1), "{shares:?}");
}

#[test]
fn corrections_that_do_harm_are_left_out() {
    let mut adaptive = Adaptive::new(&LEVELS, Options::default()).unwrap();
    // Each day's error is the opposite of the last: whatever is learned is wrong.
    run(&mut adaptive, 0..101, |day| if day % 2 == 0 { (-3.0, -2.0) } else { (3.0, 4.0) });
    let (raw, corrected) = adaptive.losses(0).unwrap();
    assert!(corrected > raw || adaptive.correction(0).is_some_and(|c| c.location.abs() < 1.0));
    for tracker in &mut adaptive.buckets[0].trackers {
        tracker.loss = 2.0 * raw;
    }
    assert_eq!(adaptive.correction(0), None);
    let mut quantiles = LEVELS;
    adaptive.apply(0, &mut quantiles).unwrap();
    assert_eq!(quantiles, LEVELS);
}

#[test]
fn buckets_of_steps_learn_apart() {
    let options = Options { buckets: vec![0, 24], ..Options::default() };
    let mut adaptive = Adaptive::new(&LEVELS, options).unwrap();
    for _ in 0..50 {
        adaptive.update(&[3, 30], &LEVELS.repeat(2), &[0.5, 2.5]).unwrap();
    }
    let location = |step: u32| adaptive.correction(step).map_or(0.0, |c| c.location);
    assert!(location(23).abs() < 0.1 && location(24) > 1.5);
    assert_eq!(adaptive.correction(24), adaptive.correction(1000));
}

#[test]
fn what_cannot_be_learned_from_is_left_out_and_counted() {
    let mut adaptive = Adaptive::new(&[0.1, 0.5, 0.9], Options::default()).unwrap();
    let fresh = adaptive.clone();
    let quantiles = [[1.0, 2.0, 3.0], [1.0, f64::NAN, 3.0], [2.0; 3], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]].concat();
    let actuals = [f64::NAN, 1.0, 1.0, f64::INFINITY, 1e300];
    let found = adaptive.update(&[0; 5], &quantiles, &actuals).unwrap();
    assert_eq!((found, &adaptive), (Batch { rows: 0, rows_left_out: 5 }, &fresh));
    assert_eq!(adaptive.update(&[], &[], &[]), Ok(Batch::default()));
    let error = adaptive.update(&[0], &[1.0, 2.0], &[1.0]);
    assert_eq!(error, Err(CalibrateError::Length { what: "quantiles", found: 2, expected: 3 }));
    assert_eq!(adaptive, fresh);
    assert_eq!(adaptive.losses(0), None);
    let mut quantiles = [1.0, f64::INFINITY, 2.0];
    assert_eq!(adaptive.apply(0, &mut quantiles), Err(CalibrateError::NotFinite));
}

#[test]
fn no_input_makes_a_quantile_that_is_not_finite() {
    let values = [0.0, 1.0, -1.0, 1e-300, 1e300, -1e300, f64::MAX, f64::MIN, f64::NAN, f64::INFINITY, 7.5, -0.0];
    let mut rng = ChaCha8Rng::seed_from_u64(12);
    for case in 0..200 {
        let mut pick = || values[rng.random_range(0..12 - case % 12)];
        let mut adaptive = Adaptive::new(&[0.1, 0.5, 0.9], Options::default()).unwrap();
        for _ in 0..40 {
            let quantiles: Vec<f64> = (0..12).map(|_| pick()).collect();
            let actuals: Vec<f64> = (0..4).map(|_| pick()).collect();
            adaptive.update(&[0; 4], &quantiles, &actuals).unwrap();
            let mut corrected = [pick(), pick(), pick()];
            match adaptive.apply(0, &mut corrected) {
                Ok(()) => assert!(corrected.is_sorted() && corrected.iter().all(|q| q.is_finite())),
                Err(error) => assert_eq!(error, CalibrateError::NotFinite),
            }
        }
        let (raw, corrected) = adaptive.losses(0).unwrap_or((0.0, 0.0));
        assert!(raw.is_finite() && corrected.is_finite());
    }
}

#[test]
fn options_out_of_range_are_refused_by_name() {
    for (options, name) in [
        (Options { rate: -1.0, ..Options::default() }, "rate"),
        (Options { location_rates: vec![], ..Options::default() }, "location_rates"),
        (Options { memory: 1.0, ..Options::default() }, "memory"),
        (Options { limit: f64::INFINITY, ..Options::default() }, "limit"),
        (Options { limit: 0.5, ..Options::default() }, "limit"),
        (Options { buckets: vec![3, 3], ..Options::default() }, "buckets"),
    ] {
        assert_eq!(Adaptive::new(&LEVELS, options), Err(CalibrateError::Option(name)));
    }
}

#[test]
fn stored_state_goes_on_where_it_stopped() {
    let mut adaptive = Adaptive::new(&LEVELS, Options::default()).unwrap();
    run(&mut adaptive, 0..30, |_| (0.2, 1.7));
    let stored = serde_json::to_string(&adaptive).unwrap();
    let mut restored: Adaptive = serde_json::from_str(&stored).unwrap();
    run(&mut restored, 30..31, |_| (0.2, 1.7));
    run(&mut adaptive, 30..31, |_| (0.2, 1.7));
    let (mut a, mut b) = (LEVELS, LEVELS);
    adaptive.apply(0, &mut a).unwrap();
    restored.apply(0, &mut b).unwrap();
    assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12), "JSON may lose the last digit of a number");
}
