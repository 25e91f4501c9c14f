//! What a wrong forecast costs its user, and the forecast that costs least.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Levels that a decision is taken at, at the least and at the most: beyond, the tail is a guess.
const DECISION_LEVELS: (f64, f64) = (0.001, 0.999);

/// Costs of a forecast that misses, in proportion to the miss (the newsvendor's; asymmetric piecewise linear loss).
///
/// The expected cost is least for the forecast that is the quantile at the level under / (under + over) (Gneiting
/// 2011).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Costs", into = "Costs")]
pub struct Cost {
    under: f64,
    over: f64,
}

/// The form of [`Cost`] in configuration files, not checked yet.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Costs {
    cost_under: f64,
    cost_over: f64,
}

/// Why costs, or the quantiles that a decision needs, are of no use.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum CostError {
    /// A cost that is NaN or infinite.
    #[error("{name} is {value}; a cost must be a finite number")]
    NotFinite {
        /// `cost_under` or `cost_over`.
        name: &'static str,
        /// What was given.
        value: f64,
    },
    /// A negative cost.
    #[error("{name} is {value}; a cost must not be negative")]
    Negative {
        /// `cost_under` or `cost_over`.
        name: &'static str,
        /// What was given.
        value: f64,
    },
    /// Both costs are zero, so every forecast is as good.
    #[error("cost_under and cost_over are both 0; at least one must be positive")]
    BothZero,
    /// Levels and values of different numbers, or none.
    #[error("{levels} quantile levels with {values} values; there must be as many of both, and at least one")]
    Lengths {
        /// Number of levels.
        levels: usize,
        /// Number of values.
        values: usize,
    },
    /// Levels outside (0, 1) or not ascending.
    #[error("quantile level {level} is not between 0 and 1, or not above the level before it")]
    Level {
        /// The level.
        level: f64,
    },
    /// Values that are not finite or descend.
    #[error("the quantile at level {level} is {value}: not finite, or below the quantile before it")]
    Value {
        /// Its level.
        level: f64,
        /// The value.
        value: f64,
    },
}

impl Cost {
    /// `cost_under` for each unit that the actual value is above the forecast, `cost_over` for each unit that it is
    /// below. One of them may be 0.
    ///
    /// # Errors
    /// When a cost is negative or not finite, or both are 0.
    pub fn new(cost_under: f64, cost_over: f64) -> Result<Cost, CostError> {
        for (name, value) in [("cost_under", cost_under), ("cost_over", cost_over)] {
            if !value.is_finite() {
                return Err(CostError::NotFinite { name, value });
            }
            if value < 0.0 {
                return Err(CostError::Negative { name, value });
            }
        }
        if cost_under == 0.0 && cost_over == 0.0 {
            return Err(CostError::BothZero);
        }
        Ok(Cost { under: cost_under, over: cost_over })
    }

    /// Level of the quantile that costs least: under / (under + over), from 0 to 1.
    pub fn decision_level(&self) -> f64 {
        // Divided by the larger first, so that their sum cannot overflow.
        let largest = self.under.max(self.over);
        let (under, over) = (self.under / largest, self.over / largest);
        under / (under + over)
    }

    /// [`Cost::decision_level`], but neither 0 nor 1, where the quantile would be infinite: 0.001 to 0.999.
    pub(crate) fn bounded_level(&self) -> f64 {
        let (least, most) = DECISION_LEVELS;
        self.decision_level().clamp(least, most)
    }

    /// The forecast that costs least, from the quantiles `values` at `levels` (both ascending): [`quantile_at`] the
    /// decision level.
    ///
    /// A level beyond 0.001 or 0.999 (one side costs nothing, or next to it) is taken as that: otherwise the answer
    /// would be infinity.
    ///
    /// # Errors
    /// When levels are not strictly ascending within (0, 1), or values are not finite and ascending.
    pub fn decide(&self, levels: &[f64], values: &[f64]) -> Result<f64, CostError> {
        check_quantiles(levels, values)?;
        Ok(quantile_at(levels, values, self.bounded_level()))
    }

    /// Cost of having forecast `forecast` when `actual` came, in cost × unit. `None` where either is missing, or the
    /// cost is too large for a number.
    pub fn of(&self, forecast: f64, actual: f64) -> Option<f64> {
        let miss = actual - forecast;
        let cost = if miss >= 0.0 { self.under * miss } else { self.over * -miss };
        cost.is_finite().then_some(cost)
    }
}

impl TryFrom<Costs> for Cost {
    type Error = CostError;

    fn try_from(costs: Costs) -> Result<Cost, CostError> {
        Cost::new(costs.cost_under, costs.cost_over)
    }
}

impl From<Cost> for Costs {
    fn from(cost: Cost) -> Costs {
        Costs { cost_under: cost.under, cost_over: cost.over }
    }
}

/// Quantile at any `level` in (0, 1), from `values` at `levels`: both ascending, equally many, at least one.
///
/// Between given levels it is interpolated linearly. Beyond the outermost ones the distribution continues as a
/// logistic one through the two outermost points: linearly in ln(p / (1 − p)). Tails of forecast errors are rarely
/// lighter, and it needs no more than two points. For a normal distribution given by its deciles this puts the
/// quantile at 0.05 at −1.69 standard deviations (right: −1.64) and that at 0.01 at −2.58 (−2.33): a little too wide,
/// so on the safe side. A single value is taken as certain. NaN when there is no value at all.
pub fn quantile_at(levels: &[f64], values: &[f64], level: f64) -> f64 {
    match bracket(levels, level) {
        Some((lower, weight)) => interpolate(values, lower, weight),
        None => f64::NAN,
    }
}

/// Where [`quantile_at`] reads: a position in `levels`, and the weight of the next position's value against its own
/// (below 0 or above 1 in the tails). `None` without levels.
pub(crate) fn bracket(levels: &[f64], level: f64) -> Option<(usize, f64)> {
    let above = levels.iter().position(|l| *l >= level).unwrap_or(levels.len());
    let lower = above.saturating_sub(1).min(levels.len().saturating_sub(2));
    let from = levels.get(lower)?;
    let Some(to) = levels.get(lower + 1) else { return Some((lower, 0.0)) };
    let within = above > 0 && above < levels.len();
    let score = |p: f64| if within { p } else { (p / (1.0 - p)).ln() };
    Some((lower, (score(level) - score(*from)) / (score(*to) - score(*from))))
}

/// The value between positions `lower` and `lower + 1` of `values`; NaN where there is none.
pub(crate) fn interpolate(values: &[f64], lower: usize, weight: f64) -> f64 {
    match (values.get(lower), values.get(lower + 1)) {
        // Written so that equal values stay exactly equal.
        (Some(low), Some(high)) => low + weight * (high - low),
        (Some(only), None) => *only,
        _ => f64::NAN,
    }
}

fn check_quantiles(levels: &[f64], values: &[f64]) -> Result<(), CostError> {
    if levels.is_empty() || levels.len() != values.len() {
        return Err(CostError::Lengths { levels: levels.len(), values: values.len() });
    }
    let mut before = (0.0, f64::NEG_INFINITY);
    for (&level, &value) in levels.iter().zip(values) {
        // Written so that NaN fails too.
        if !(level > before.0 && level < 1.0) {
            return Err(CostError::Level { level });
        }
        if !(value.is_finite() && value >= before.1) {
            return Err(CostError::Value { level, value });
        }
        before = (level, value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECILES: [f64; 9] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9];
    /// Deciles of the standard normal distribution.
    const NORMAL: [f64; 9] = [-1.281552, -0.841621, -0.524401, -0.253347, 0.0, 0.253347, 0.524401, 0.841621, 1.281552];

    #[test]
    fn the_dearer_side_is_avoided() {
        for (under, over, level) in
            [(1.0, 1.0, 0.5), (3.0, 1.0, 0.75), (1.0, 4.0, 0.2), (0.0, 1.0, 0.0), (5.0, 0.0, 1.0), (1e308, 1e308, 0.5)]
        {
            assert_eq!(Cost::new(under, over).unwrap().decision_level(), level, "{under} {over}");
        }
    }

    #[test]
    fn costs_that_say_nothing_are_refused_by_name() {
        assert_eq!(Cost::new(0.0, 0.0), Err(CostError::BothZero));
        assert_eq!(Cost::new(-1.0, 1.0), Err(CostError::Negative { name: "cost_under", value: -1.0 }));
        assert_eq!(Cost::new(1.0, -2.0), Err(CostError::Negative { name: "cost_over", value: -2.0 }));
        let infinite = CostError::NotFinite { name: "cost_over", value: f64::INFINITY };
        assert_eq!(Cost::new(1.0, f64::INFINITY), Err(infinite));
        assert!(matches!(Cost::new(f64::NAN, 1.0), Err(CostError::NotFinite { name: "cost_under", .. })));
    }

    #[test]
    fn a_miss_costs_in_proportion() {
        let cost = Cost::new(3.0, 1.0).unwrap();
        for (forecast, actual, expected) in [
            (8.0, 10.0, Some(6.0)),
            (10.0, 8.0, Some(2.0)),
            (5.0, 5.0, Some(0.0)),
            (f64::NAN, 1.0, None),
            (1.0, f64::NAN, None),
            (f64::MAX, -f64::MAX, None),
        ] {
            assert_eq!(cost.of(forecast, actual), expected, "{forecast} {actual}");
        }
    }

    #[test]
    fn the_decision_is_the_quantile_at_its_level() {
        for (under, over, expected) in
            [(1.0, 1.0, 0.0), (9.0, 1.0, 1.281552), (1.0, 9.0, -1.281552), (3.0, 1.0, (0.524401 + 0.841621) / 2.0)]
        {
            let found = Cost::new(under, over).unwrap().decide(&DECILES, &NORMAL).unwrap();
            assert!((found - expected).abs() < 1e-12, "{under} {over}: {found}");
        }
    }

    #[test]
    fn the_decision_costs_least_on_average() {
        // 1,000 equally likely values of the standard exponential distribution.
        let quantile = |p: f64| -(1.0 - p).ln();
        let actuals: Vec<f64> = (0..1000).map(|i| quantile((f64::from(i) + 0.5) / 1000.0)).collect();
        let values: Vec<f64> = DECILES.iter().map(|p| quantile(*p)).collect();
        for (under, over) in [(1.0, 1.0), (4.0, 1.0), (2.0, 3.0), (7.0, 3.0)] {
            let cost = Cost::new(under, over).unwrap();
            let mean = |forecast: f64| actuals.iter().map(|a| cost.of(forecast, *a).unwrap()).sum::<f64>();
            let decided = cost.decide(&DECILES, &values).unwrap();
            for other in values.iter().filter(|v| (*v - decided).abs() > 0.01) {
                assert!(mean(decided) < mean(*other), "{under} {over}: {decided} against {other}");
            }
        }
    }

    #[test]
    fn tails_continue_a_little_wider_than_normal_ones() {
        for (level, least, most) in [(0.05, 1.64, 1.70), (0.01, 2.32, 2.60), (0.001, 3.09, 4.0)] {
            let (low, high) = (quantile_at(&DECILES, &NORMAL, level), quantile_at(&DECILES, &NORMAL, 1.0 - level));
            assert!((low + high).abs() < 1e-9, "symmetric");
            assert!(least < high && high < most, "{level}: {high}");
        }
    }

    #[test]
    fn a_side_that_costs_nothing_still_gives_a_number() {
        let decided = Cost::new(1.0, 0.0).unwrap().decide(&DECILES, &NORMAL).unwrap();
        assert_eq!(decided, quantile_at(&DECILES, &NORMAL, 0.999));
        assert!(decided.is_finite() && decided > NORMAL[8]);
    }

    #[test]
    fn quantiles_grow_with_their_level() {
        let mut before = f64::NEG_INFINITY;
        for step in 1..1000 {
            let value = quantile_at(&DECILES, &NORMAL, f64::from(step) / 1000.0);
            assert!(value > before, "{step}");
            before = value;
        }
    }

    #[test]
    fn certain_values_stay_certain() {
        for level in [0.001, 0.1, 0.37, 0.9, 0.999] {
            assert_eq!(quantile_at(&DECILES, &[4.0; 9], level), 4.0);
            assert_eq!(quantile_at(&[0.5], &[3.0], level), 3.0);
        }
        assert!(quantile_at(&[], &[], 0.5).is_nan());
    }

    #[test]
    fn quantiles_that_make_no_sense_are_refused() {
        let cost = Cost::new(1.0, 1.0).unwrap();
        let decide = |levels: &[f64], values: &[f64]| cost.decide(levels, values);
        assert_eq!(decide(&[], &[]), Err(CostError::Lengths { levels: 0, values: 0 }));
        assert_eq!(decide(&[0.5], &[1.0, 2.0]), Err(CostError::Lengths { levels: 1, values: 2 }));
        assert_eq!(decide(&[0.5, 0.5], &[1.0, 2.0]), Err(CostError::Level { level: 0.5 }));
        assert_eq!(decide(&[0.0], &[1.0]), Err(CostError::Level { level: 0.0 }));
        assert_eq!(decide(&[1.0], &[1.0]), Err(CostError::Level { level: 1.0 }));
        assert_eq!(decide(&[0.1, 0.9], &[2.0, 1.0]), Err(CostError::Value { level: 0.9, value: 1.0 }));
        assert!(matches!(decide(&[0.1], &[f64::NAN]), Err(CostError::Value { .. })));
        assert!(matches!(decide(&[f64::NAN], &[1.0]), Err(CostError::Level { .. })));
    }

    #[test]
    fn configuration_is_checked_where_it_is_read() {
        let cost: Cost = serde_json::from_str(r#"{"cost_under": 3, "cost_over": 1}"#).unwrap();
        assert_eq!(cost, Cost::new(3.0, 1.0).unwrap());
        assert_eq!(serde_json::to_string(&cost).unwrap(), r#"{"cost_under":3.0,"cost_over":1.0}"#);
        let error = serde_json::from_str::<Cost>(r#"{"cost_under": 0, "cost_over": 0}"#).unwrap_err();
        assert!(error.to_string().contains("both 0"), "{error}");
    }
}
