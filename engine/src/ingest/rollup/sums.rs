//! What a group adds up: fixed-point sums that can be taken away again.

use differential_dataflow::difference::{Abelian, IsZero, Monoid, Semigroup};
use meterline_schemas::Micros;
use meterline_schemas::config::RollupValue;
use meterline_schemas::reading::Quality;
use meterline_schemas::time::SECOND;
use serde::{Deserialize, Serialize};

/// Parts of a unit that are counted: values are rounded to 10⁻⁶.
const PARTS: f64 = 1e6;

/// What a group has in one interval, or a change of it.
///
/// It is a group in the mathematical sense: additions wrap, so that however large values are, what was added can be
/// taken away. `amount` is in 10⁻⁶ of the unit; of the mean of what is no energy, in 10⁻⁶ of the unit times seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Sums {
    /// Sum of the values.
    pub amount: i128,
    /// Seconds for which there is a value, summed over the series.
    pub present: i64,
    /// Intervals of series that are in it: measured, estimated and substituted ones.
    pub intervals: [i64; 3],
}

impl Sums {
    /// What one interval of a series adds.
    pub fn of(value: f64, quality: Quality, length: Micros, weighted: bool) -> Sums {
        let present = length / SECOND;
        let amount = fixed(value);
        let amount = if weighted { amount.wrapping_mul(i128::from(present)) } else { amount };
        let mut intervals = [0; 3];
        intervals[quality as usize] = 1;
        Sums { amount, present, intervals }
    }

    /// The same, taken away.
    pub fn negated(mut self) -> Sums {
        self.negate();
        self
    }

    /// Number of intervals in it.
    pub fn count(&self) -> i64 {
        self.intervals.iter().sum()
    }

    /// The least trusted of the qualities in it.
    pub fn quality(&self) -> Quality {
        let of = [Quality::Measured, Quality::Estimated, Quality::Substituted];
        of.into_iter().rev().find(|quality| self.intervals[*quality as usize] > 0).unwrap_or_default()
    }
}

/// A value in 10⁻⁶ of its unit, rounded half away from zero. What does not fit is cut off at the ends of the range.
pub fn fixed(value: f64) -> i128 {
    // In two parts: the product of a large value would be rounded before it is.
    let whole = (value.trunc() as i128).saturating_mul(PARTS as i128);
    whole.saturating_add((value.fract() * PARTS).round() as i128)
}

/// How the value of a row follows from sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Valuation {
    /// As configured.
    pub value: RollupValue,
    /// Whether the unit is that of energy.
    pub energy: bool,
}

impl Valuation {
    /// Whether values are weighted by time.
    pub fn weighted(self) -> bool {
        self.value == RollupValue::Mean && !self.energy
    }

    /// The value of an interval of `length`; 0 where there is none. A sum below 9·10⁹ is the float nearest to it.
    pub fn value(self, sums: &Sums, length: Micros) -> f64 {
        let amount = sums.amount as f64;
        match self.value {
            RollupValue::Sum => amount / PARTS,
            RollupValue::Mean if sums.present == 0 => 0.0,
            RollupValue::Mean => amount / PARTS / sums.present as f64 * self.factor(length),
        }
    }

    /// The amount that a row with this value had: exact for sums below 9·10⁹, and for means up to the rounding of a
    /// float.
    pub fn amount(self, value: f64, present: i64, length: Micros) -> i128 {
        match self.value {
            RollupValue::Sum => fixed(value),
            RollupValue::Mean => fixed(value / self.factor(length) * present as f64),
        }
    }

    fn factor(self, length: Micros) -> f64 {
        if self.energy { (length / SECOND) as f64 } else { 1.0 }
    }
}

impl IsZero for Sums {
    fn is_zero(&self) -> bool {
        *self == Sums::default()
    }
}

impl Semigroup for Sums {
    fn plus_equals(&mut self, other: &Sums) {
        self.amount = self.amount.wrapping_add(other.amount);
        self.present = self.present.wrapping_add(other.present);
        for (mine, theirs) in self.intervals.iter_mut().zip(other.intervals) {
            *mine = mine.wrapping_add(theirs);
        }
    }
}

impl Monoid for Sums {
    fn zero() -> Sums {
        Sums::default()
    }
}

impl Abelian for Sums {
    fn negate(&mut self) {
        self.amount = self.amount.wrapping_neg();
        self.present = self.present.wrapping_neg();
        self.intervals = self.intervals.map(i64::wrapping_neg);
    }
}

#[cfg(test)]
mod tests {
    use meterline_schemas::time::{HOUR, MINUTE};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_quality_of_a_sum_is_the_least_trusted_one_that_is_still_in_it() {
        let mut sums = Sums::of(1.0, Quality::Measured, HOUR, false);
        let estimated = Sums::of(2.0, Quality::Estimated, HOUR, false);
        sums.plus_equals(&estimated);
        assert_eq!((sums.quality(), sums.count()), (Quality::Estimated, 2));
        sums.plus_equals(&estimated.negated());
        assert_eq!((sums.quality(), sums.count()), (Quality::Measured, 1));
    }

    #[test]
    fn the_mean_of_energy_is_that_of_an_average_series_and_of_other_units_that_over_time() {
        let energy = Valuation { value: RollupValue::Mean, energy: true };
        // 1 kWh in a quarter of an hour is as much power as 4 kWh in an hour.
        let mut sums = Sums::of(1.0, Quality::Measured, 15 * MINUTE, energy.weighted());
        sums.plus_equals(&Sums::of(4.0, Quality::Measured, HOUR, energy.weighted()));
        assert_eq!(energy.value(&sums, HOUR), 4.0);
        let other = Valuation { value: RollupValue::Mean, energy: false };
        let mut sums = Sums::of(10.0, Quality::Measured, 15 * MINUTE, other.weighted());
        sums.plus_equals(&Sums::of(20.0, Quality::Measured, 45 * MINUTE, other.weighted()));
        assert_eq!(other.value(&sums, HOUR), 17.5);
    }

    proptest! {
        #[test]
        fn what_was_added_can_be_taken_away(values in prop::collection::vec(any::<f64>(), 1..20)) {
            let mut sums = Sums::default();
            let terms: Vec<Sums> = values.iter().map(|v| Sums::of(*v, Quality::Measured, HOUR, true)).collect();
            terms.iter().for_each(|term| sums.plus_equals(term));
            terms.iter().rev().for_each(|term| sums.plus_equals(&term.negated()));
            prop_assert!(sums.is_zero());
        }

        #[test]
        fn a_row_has_the_sum_it_came_from(amount in -4_500_000_000_000_000i64..4_500_000_000_000_000, steps in 1..9i64) {
            let sums = Sums { amount: amount.into(), present: 900 * steps, intervals: [steps, 0, 0] };
            let sum = Valuation { value: RollupValue::Sum, energy: true };
            prop_assert_eq!(sum.amount(sum.value(&sums, HOUR), sums.present, HOUR), sums.amount);
            for energy in [false, true] {
                let mean = Valuation { value: RollupValue::Mean, energy };
                let small = Sums { amount: sums.amount / 100, ..sums };
                let found = mean.amount(mean.value(&small, HOUR), small.present, HOUR);
                prop_assert_eq!(found, small.amount);
            }
        }
    }
}
