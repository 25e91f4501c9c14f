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
