//! Series that are made: hourly load with what models look for, and demand that is mostly zero.
//!
//! The same number makes the same series, whatever else is made.

use std::f64::consts::TAU;

use meterline_models::statistics::quantiles::Randomness;

use super::{DAY, WEEK};

/// Of all series: another one, other series.
const SEED: u64 = 20_261_129;
/// Share of a deviation that is left an hour later: of the weather, which is slow, and of habits.
const SLOW: f64 = 0.99;
const FAST: f64 = 0.6;
/// Hours by which a series begins later than the one before it; has no factor with those of a week.
const APART: usize = 17;
/// Share of the steps that have a demand.
const DEMAND: f64 = 0.2;

/// Hourly loads: a shape of the day that differs by series, quieter weekends, a slow trend, slow and fast deviations
/// that are the larger the larger the load. All above zero.
pub fn loads(count: usize, hours: usize) -> Vec<Vec<f32>> {
    (0..count).map(|number| load(number as u64, hours)).collect()
}

/// The same, each from another hour of the week on, so that what comes last is not always the same day.
pub fn loads_from_any_hour(count: usize, hours: usize) -> Vec<Vec<f32>> {
    let from = |(number, load): (usize, Vec<f32>)| load.into_iter().skip(APART * number % WEEK).take(hours).collect();
    loads(count, hours + WEEK).into_iter().enumerate().map(from).collect()
}

fn load(number: u64, hours: usize) -> Vec<f32> {
    let mut random = Randomness::new(SEED.wrapping_add(2 * number));
    let size = (0.8 * random.normal()).exp() * 10.0;
    let shift = 2.0 * random.normal();
    let second = 0.2 + 0.3 * random.uniform();
    let weekend = [0.5 + 0.4 * random.uniform(), 0.4 + 0.4 * random.uniform()];
    let trend = 0.1 * random.normal();
    let (mut slow, mut fast) = (0.0, 0.0);
    let value = |hour: usize| {
        slow = SLOW * slow + 0.02 * random.normal();
        fast = FAST * fast + 0.05 * random.normal();
        let angle = TAU * ((hour % DAY) as f64 - shift) / DAY as f64;
        let shape = 1.0 - 0.5 * angle.cos() + second * (2.0 * angle).sin();
        let day = hour % WEEK / DAY;
        let of_week = day.checked_sub(5).and_then(|day| weekend.get(day)).copied().unwrap_or(1.0);
        let along = 1.0 + trend * hour as f64 / hours as f64;
        (size * along * (0.4 + 0.6 * shape.max(0.0) * of_week) * (slow + fast).exp()) as f32
    };
    (0..hours).map(value).collect()
}

/// Intermittent demands: whole numbers at a fifth of the steps, zero at the others.
pub fn demands(count: usize, steps: usize) -> Vec<Vec<f32>> {
    (0..count).map(|number| demand(number as u64, steps)).collect()
}

fn demand(number: u64, steps: usize) -> Vec<f32> {
    let mut random = Randomness::new(SEED.wrapping_add(2 * number + 1));
    let size = 2.0 + 8.0 * random.uniform();
    let value = |_| {
        // Both are drawn at each step, so that a demand here does not change those that follow.
        let (comes, much) = (random.uniform() < DEMAND, random.exponential());
        if comes { (1.0 + size * much).round() as f32 } else { 0.0 }
    };
    (0..steps).map(value).collect()
}

#[cfg(test)]
mod tests {
    use meterline_models::statistics::{classical, croston};

    use super::*;

    fn doubles(values: &[f32]) -> Vec<f64> {
        values.iter().map(|value| f64::from(*value)).collect()
    }

    #[test]
    fn loads_are_positive_seasonal_and_the_same_again() {
        let made = loads(3, 6 * WEEK);
        assert_eq!(made[..2], loads(2, 6 * WEEK), "whatever else is made");
        assert_ne!(made[0], made[1]);
        for load in &made {
            assert!(load.iter().all(|value| value.is_finite() && *value > 0.0));
            assert!(classical::is_seasonal(&doubles(load), DAY) && classical::is_seasonal(&doubles(load), WEEK));
        }
    }

    #[test]
    fn a_week_of_series_ends_at_every_hour() {
        let made = loads_from_any_hour(WEEK, WEEK);
        let whole = loads(WEEK, 2 * WEEK);
        let found =
            made.iter().zip(&whole).map(|(made, whole)| (0..WEEK).find(|from| whole[*from..][..WEEK] == made[..]));
        let from: std::collections::BTreeSet<usize> = found.map(Option::unwrap).collect();
        assert_eq!(from.len(), WEEK);
    }

    #[test]
    fn demands_are_intermittent() {
        for demand in demands(3, 1000) {
            assert!(croston::is_intermittent(&doubles(&demand)));
            assert!(demand.iter().all(|value| *value >= 0.0 && value.fract() == 0.0));
        }
    }
}
