//! What holds for every model and any series.

use proptest::prelude::*;
use rayon::prelude::*;

use super::testing::{LEVELS, ascending, gaussian_noise, request, two_seasons};
use super::{HORIZON_MAX, Method, Request, StatisticsError};

/// Values as a meter or a fault might send them.
fn any_value() -> impl Strategy<Value = f64> {
    prop_oneof![
        6 => -100.0..100.0_f64,
        3 => 0.0..1.0_f64,
        3 => Just(0.0),
        2 => Just(f64::NAN),
        1 => Just(1e9),
        1 => prop_oneof![
            Just(f64::INFINITY), Just(f64::NEG_INFINITY), Just(1e300), Just(-1e300), Just(f64::MAX), Just(1e-310),
            Just(f64::MIN_POSITIVE), Just(-0.0)
        ],
    ]
}

/// Series of one kind of value, of all kinds, and such that stand still for a while.
fn any_series() -> impl Strategy<Value = Vec<f64>> {
    prop_oneof![
        proptest::collection::vec(any_value(), 0..120),
        proptest::collection::vec(-1.0..1.0_f64, 0..200),
        (proptest::collection::vec(any_value(), 1..8), 1..40_usize)
            .prop_map(|(values, times)| values.into_iter().flat_map(|v| vec![v; times]).collect()),
        (proptest::collection::vec(any_value(), 1..30), 1..8_usize).prop_map(|(cycle, times)| cycle
            .iter()
            .copied()
            .cycle()
            .take(cycle.len() * times)
            .collect()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_model_panics_and_every_forecast_is_finite_and_in_order(
        values in any_series(),
        periods in proptest::collection::vec(prop_oneof![0..15_usize, Just(24), Just(168), Just(usize::MAX)], 0..4),
        horizon in 0..40_usize,
        regressor in proptest::option::of(any_value()),
    ) {
        let levels = [0.001, 0.1, 0.5, 0.9, 0.999];
        let column = |v: f64| (0..values.len() + horizon).map(|t| if t % 5 == 0 { v } else { 1.0 }).collect();
        let regressors: Vec<Vec<f64>> = regressor.map(column).into_iter().collect();
        let request = Request { values: &values, periods: &periods, regressors: &regressors, horizon, levels: &levels };
        for method in Method::ALL {
            if let Ok(found) = method.forecast(&request) {
                prop_assert_eq!((found.mean.len(), found.quantiles.len()), (horizon, horizon));
                prop_assert!(ascending(&found), "{:?}", method);
                prop_assert!(found.quantiles.iter().all(|q| q.len() == levels.len() && q.iter().all(|v| v.is_finite())));
                prop_assert!(found.mean.iter().all(|m| m.is_finite()), "{:?}", method);
            }
        }
    }

    #[test]
    fn a_series_in_another_unit_has_the_forecast_in_that_unit(
        seed in 0..1000_u64,
        power in prop_oneof![Just(-900_i32), Just(-20), Just(20), Just(900)],
    ) {
        // Powers of two are exact, so that even searches take the same path.
        let values: Vec<f64> = gaussian_noise(seed, 90).into_iter().map(|e| (8.0 + e).max(0.1)).collect();
        let unit = f64::from(power).exp2();
        let scaled: Vec<f64> = values.iter().map(|v| v * unit).collect();
        for method in Method::ALL {
            let (one, other) = (method.forecast(&request(&values, &[7], 5)), method.forecast(&request(&scaled, &[7], 5)));
            let (one, other) = (one.unwrap(), other.unwrap());
            for (a, b) in one.quantiles.iter().flatten().zip(other.quantiles.iter().flatten()) {
                prop_assert!((a - b / unit).abs() < 1e-3 * (1.0 + a.abs()), "{:?} {} {}", method, a, b / unit);
            }
        }
    }
}

#[test]
fn requests_that_mean_nothing_are_refused() {
    let values = [1.0, 2.0, 1.5, 3.0, 2.0, 4.0, 3.0, 5.0, 2.5];
    for levels in [&[0.0][..], &[1.0], &[0.5, 0.5], &[0.9, 0.1], &[f64::NAN]] {
        let request = Request { values: &values, periods: &[2], regressors: &[], horizon: 2, levels };
        for method in Method::ALL {
            assert!(matches!(method.forecast(&request), Err(StatisticsError::Level { .. })), "{method:?} {levels:?}");
        }
    }
    let far = request(&values, &[2], HORIZON_MAX + 1);
    for method in [Method::Naive, Method::Ets, Method::Theta, Method::Mstl, Method::Sba] {
        assert_eq!(method.forecast(&far), Err(StatisticsError::Horizon { horizon: HORIZON_MAX + 1 }));
    }
}

#[test]
fn no_level_and_no_step_are_no_error() {
    let values = two_seasons(1, 60, 7, 14);
    for method in Method::ALL {
        let nothing = method.forecast(&request(&values, &[7], 0)).unwrap();
        assert!(nothing.mean.is_empty() && nothing.quantiles.is_empty(), "{method:?}");
        let no_levels = Request { levels: &[], ..request(&values, &[7], 2) };
        assert_eq!(method.forecast(&no_levels).unwrap().quantiles, vec![Vec::<f64>::new(); 2], "{method:?}");
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let series: Vec<Vec<f64>> = (0..12).map(|seed| two_seasons(seed, 200, 7, 28)).collect();
    let requests: Vec<Request> = series.iter().map(|values| request(values, &[7, 28], 14)).collect();
    for method in Method::ALL {
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| requests.par_iter().map(|request| method.forecast(request)).collect::<Vec<_>>())
        };
        let one = with(1);
        assert_eq!(one, with(4), "{method:?}");
        assert!(one.iter().all(Result::is_ok), "{method:?}");
    }
}

#[test]
fn a_trend_far_from_zero_keeps_its_digits() {
    // A meter's register: a large level, small steps. LEVELS is what the interval of 80 % is made of.
    let values: Vec<f64> =
        gaussian_noise(3, 300).into_iter().enumerate().map(|(t, e)| 1e9 + t as f64 + 0.1 * e).collect();
    for method in [Method::Drift, Method::Ets, Method::Theta, Method::Mstl, Method::Harmonic] {
        let found = method.forecast(&request(&values, &[7], 7)).unwrap();
        for (step, (mean, quantiles)) in found.mean.iter().zip(&found.quantiles).enumerate() {
            let actual = 1e9 + 300.0 + step as f64;
            assert!((mean - actual).abs() < 1.0, "{method:?} {step} {}", mean - actual);
            let width = quantiles[LEVELS.len() - 1] - quantiles[0];
            assert!(width > 0.05 && width < 5.0, "{method:?} {step} {width}");
        }
    }
}
