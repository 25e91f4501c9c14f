//! Classical decomposition by moving averages, and the test for a season that goes with it in the M4 competition.

use super::gaps;

/// How a season acts on the level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It is added.
    Additive,
    /// It multiplies.
    Multiplicative,
}

/// Seasonal indices of one period, by phase: step t has the index at t modulo the period.
#[derive(Debug, Clone, PartialEq)]
pub struct Indices {
    /// How they act.
    pub kind: Kind,
    /// One a phase; their mean is 0 (additive) or 1 (multiplicative).
    pub values: Vec<f64>,
}

impl Indices {
    fn at(&self, step: usize) -> f64 {
        self.values[step % self.values.len()]
    }

    /// `value` of `step` without the season.
    pub fn remove(&self, step: usize, value: f64) -> f64 {
        match self.kind {
            Kind::Additive => value - self.at(step),
            Kind::Multiplicative => value / self.at(step),
        }
    }

    /// `value` of `step` with the season.
    pub fn apply(&self, step: usize, value: f64) -> f64 {
        match self.kind {
            Kind::Additive => value + self.at(step),
            Kind::Multiplicative => value * self.at(step),
        }
    }

    /// `deviation` of `step` with the season.
    pub fn apply_deviation(&self, step: usize, deviation: f64) -> f64 {
        match self.kind {
            Kind::Additive => deviation,
            Kind::Multiplicative => deviation * self.at(step).abs(),
        }
    }
}

/// Seasons of several periods, the shortest first, each found in what those before it leave; or none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seasons(Vec<Indices>);

impl FromIterator<Indices> for Seasons {
    fn from_iter<I: IntoIterator<Item = Indices>>(indices: I) -> Seasons {
        Seasons(indices.into_iter().collect())
    }
}

impl Seasons {
    /// Those of the `periods`, in their order, that [`is_seasonal`] finds: multiplicative where all values are positive
    /// and the indices allow it, else additive.
    pub fn find(values: &[f64], periods: &[usize]) -> Seasons {
        let positive = values.iter().all(|v| v.is_nan() || *v > 0.0);
        let mut seasons = Seasons::default();
        let mut rest = values.to_vec();
        for period in periods {
            if !is_seasonal(&rest, *period) {
                continue;
            }
            // Indices near zero would turn noise into an adjusted level of any size.
            let steady = |i: &Indices| i.values.iter().all(|v| *v > 0.05);
            let multiplicative = || indices(&rest, *period, Kind::Multiplicative).filter(steady);
            let found = if positive { multiplicative() } else { None };
            if let Some(found) = found.or_else(|| indices(&rest, *period, Kind::Additive)) {
                rest.iter_mut().enumerate().for_each(|(step, value)| *value = found.remove(step, *value));
                seasons.0.push(found);
            }
        }
        seasons
    }

    /// `values`, from the first step on, without them.
    pub fn remove(&self, values: &[f64]) -> Vec<f64> {
        let without = |(step, value): (usize, &f64)| self.0.iter().fold(*value, |v, season| season.remove(step, v));
        values.iter().enumerate().map(without).collect()
    }

    /// `value` of `step` with them.
    pub fn apply(&self, step: usize, value: f64) -> f64 {
        self.0.iter().rev().fold(value, |v, season| season.apply(step, v))
    }

    /// `deviation` of `step` with them.
    pub fn apply_deviation(&self, step: usize, deviation: f64) -> f64 {
        self.0.iter().rev().fold(deviation, |d, season| season.apply_deviation(step, d))
    }

    /// Mean and standard deviation of the steps from `first` on, with them.
    pub fn put_back(&self, first: usize, mean: &mut [f64], deviation: &mut [f64]) {
        for (ahead, (mean, deviation)) in mean.iter_mut().zip(deviation).enumerate() {
            *mean = self.apply(first + ahead, *mean);
            *deviation = self.apply_deviation(first + ahead, *deviation);
        }
    }
}

/// Trend by a moving average over one period, centred (an even period: its ends weigh half); NaN where it does not fit.
pub fn centred_moving_average(values: &[f64], period: usize) -> Vec<f64> {
    let half = period / 2;
    let even = period.is_multiple_of(2);
    (0..values.len())
        .map(|t| {
            let Some(window) = t.checked_sub(half).and_then(|first| values.get(first..=t + half)) else {
                return f64::NAN;
            };
            let sum: f64 = window.iter().sum();
            let ends = if even { (window[0] + window[window.len() - 1]) / 2.0 } else { 0.0 };
            (sum - ends) / period as f64
        })
        .collect()
}

/// Seasonal indices by the classical decomposition (FPP3, section 3.4): the mean of the detrended values of each phase,
/// normalised. Missing values are filled for the trend and do not count in an index.
///
/// `None` when a period does not fit twice, a phase has no value, or (multiplicative) an index is not finite, zero or
/// below.
pub fn indices(values: &[f64], period: usize, kind: Kind) -> Option<Indices> {
    if period < 2 || values.len() / 2 < period {
        return None;
    }
    let trend = centred_moving_average(&gaps::fill_seasonal(values, period), period);
    let mut sums = vec![(0.0, 0_usize); period];
    for (t, (value, trend)) in values.iter().zip(&trend).enumerate() {
        let detrended = match kind {
            Kind::Additive => value - trend,
            Kind::Multiplicative => value / trend,
        };
        // What has no trend yet is NaN and left out; a trend of zero gives an infinite index, refused below.
        if !detrended.is_nan() {
            let (sum, count) = &mut sums[t % period];
            *sum += detrended;
            *count += 1;
        }
    }
    let means: Vec<f64> = sums.iter().map(|(sum, count)| sum / *count as f64).collect();
    let centre = means.iter().sum::<f64>() / period as f64;
    let values: Vec<f64> = match kind {
        Kind::Additive => means.iter().map(|m| m - centre).collect(),
        Kind::Multiplicative => means.iter().map(|m| m / centre).collect(),
    };
    let usable = |v: &f64| v.is_finite() && (kind == Kind::Additive || *v > 0.0);
    values.iter().all(usable).then_some(Indices { kind, values })
}

/// Whether the autocorrelation at lag `period` differs from zero at 90 %, given those at shorter lags (Bartlett's
/// formula): the test of the M4 competition (Makridakis, Spiliotis and Assimakopoulos 2020; Fiorucci et al. 2016).
///
/// Never for fewer than three periods. The competition's code also says no where the period is above 10 log₁₀ n, the
/// last lag its library computes; no series of the competition is that short, and a week of quarter hours would never
/// have a season, so that is left out. Pairs with a missing value are left out.
pub fn is_seasonal(values: &[f64], period: usize) -> bool {
    if period < 2 || values.len() / 3 < period {
        return false;
    }
    let present: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    let mean = present.iter().sum::<f64>() / present.len() as f64;
    let centred: Vec<f64> = values.iter().map(|v| if v.is_finite() { v - mean } else { 0.0 }).collect();
    let variance: f64 = centred.iter().map(|c| c * c).sum();
    let correlation =
        |lag: usize| centred.iter().zip(&centred[lag..]).map(|(now, later)| now * later).sum::<f64>() / variance;
    let before: f64 = (1..period).map(|lag| correlation(lag).powi(2)).sum();
    let limit = 1.645 * ((1.0 + 2.0 * before) / present.len() as f64).sqrt();
    // A constant series has no correlation: the comparison with NaN is false.
    correlation(period).abs() > limit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moving_averages_agree_with_a_calculation_by_hand() {
        let odd = centred_moving_average(&[1.0, 2.0, 6.0, 4.0], 3);
        assert_eq!((odd[1], odd[2]), (3.0, 4.0));
        assert!(odd[0].is_nan() && odd[3].is_nan());
        let even = centred_moving_average(&[1.0, 2.0, 6.0, 4.0], 2);
        assert_eq!((even[1], even[2]), ((0.5 + 2.0 + 3.0) / 2.0, (1.0 + 6.0 + 2.0) / 2.0));
    }

    #[test]
    fn planted_indices_are_found_also_with_gaps() {
        let season = [0.5, 1.0, 1.25, 1.25];
        let mut values: Vec<f64> = (0..40).map(|t| 8.0 * season[t % 4]).collect();
        values[9] = f64::NAN;
        let found = indices(&values, 4, Kind::Multiplicative).unwrap();
        assert!(found.values.iter().zip(season).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?}");
        let shifts = [-3.0, 0.0, 1.0, 2.0];
        let values: Vec<f64> = (0..40).map(|t| t as f64 + shifts[t % 4]).collect();
        let found = indices(&values, 4, Kind::Additive).unwrap();
        assert!(found.values.iter().zip(shifts).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?}");
        assert!((found.apply(3, found.remove(3, 7.0)) - 7.0).abs() < 1e-12);
    }

    #[test]
    fn indices_need_two_periods_and_multiplication_needs_positive_ones() {
        assert_eq!(indices(&[1.0; 7], 4, Kind::Additive), None);
        assert_eq!(indices(&[1.0; 8], 1, Kind::Additive), None);
        let alternating: Vec<f64> = (0..20).map(|t| if t % 2 == 0 { -1.0 } else { 1.0 }).collect();
        assert_eq!(indices(&alternating, 2, Kind::Multiplicative), None);
        assert!(indices(&alternating, 2, Kind::Additive).is_some());
        assert_eq!(indices(&[f64::NAN; 9], 2, Kind::Additive), None);
    }

    #[test]
    fn seasons_of_two_periods_are_found_taken_out_and_put_back() {
        let (short, long) = ([2.0, -2.0, 0.0], [5.0, 0.0, -5.0, 1.0, -1.0, 0.0]);
        // Below zero in part, and always above.
        for level in [1.0, 100.0] {
            let values: Vec<f64> = (0..90).map(|t| level + short[t % 3] + long[t % 6]).collect();
            let seasons = Seasons::find(&values, &[3, 6, 60]);
            assert_eq!(seasons.0.len(), 2);
            let kind = if level > 50.0 { Kind::Multiplicative } else { Kind::Additive };
            assert!(seasons.0.iter().all(|season| season.kind == kind));
            let mut rest = seasons.remove(&values);
            assert!(rest.iter().all(|v| (v - level).abs() < 0.7), "{rest:?}");
            let mut deviation = vec![1.0; 30];
            seasons.put_back(60, &mut rest[60..], &mut deviation);
            assert!(rest[60..].iter().zip(&values[60..]).all(|(found, value)| (found - value).abs() < 1e-9));
            let spread = deviation[0] - deviation[2];
            assert!(if kind == Kind::Additive { spread == 0.0 } else { spread > 0.05 }, "{deviation:?}");
        }
        assert_eq!(Seasons::find(&[4.0; 60], &[3, 6]), Seasons::default());
    }

    #[test]
    fn the_test_sees_a_season_and_not_a_constant_or_a_short_series() {
        let seasonal: Vec<f64> = (0..60).map(|t| if t % 12 < 6 { 1.0 } else { 3.0 }).collect();
        assert!(is_seasonal(&seasonal, 12));
        assert!(!is_seasonal(&seasonal[..35], 12), "less than three periods");
        assert!(!is_seasonal(&[4.0; 60], 12));
        assert!(!is_seasonal(&[f64::NAN; 60], 12));
        assert!(!is_seasonal(&seasonal, 1));
        // A pure trend is correlated at every lag, and the limit grows with those before.
        let trend: Vec<f64> = (0..60).map(f64::from).collect();
        assert!(!is_seasonal(&trend, 12));
    }
}
