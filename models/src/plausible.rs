//! Values that no meter can have meant: a register that was reset, a unit that was wrong once, a placeholder such as
//! 999999. One of them among thousands is enough to spoil what is learned from a series, and each forecast that looks
//! back at it. Pure.
//!
//! A value is implausible that is more than [`TIMES`] as far from the median of its series as 99 % of the values are. So
//! fewer than one of a hundred can be: what is there for longer is how it is now, such as a fleet that reports in another
//! unit. And at least a tenth of the values must differ from the median: demand that is mostly zero may be anything.

use std::borrow::Cow;

use rayon::prelude::*;

use crate::data::{Panel, Series};

/// So many times the distance of 99 % of the values from their median is too far. Of the load, generation and
/// temperature series in the benchmarks the farthest is at 16.
pub const TIMES: f32 = 20.0;
/// With fewer values the farthest one is too much of that distance itself.
const VALUES_MIN: usize = 200;

/// Places of the implausible values of a series.
pub fn implausible(series: &Series) -> Vec<usize> {
    let mut sorted: Vec<f32> = series.values.iter().copied().filter(|value| value.is_finite()).collect();
    let count = sorted.len();
    if count < VALUES_MIN {
        return Vec::new();
    }
    let (_, median, _) = sorted.select_nth_unstable_by(count / 2, f32::total_cmp);
    let median = *median;
    let mut distances = sorted;
    distances.iter_mut().for_each(|value| *value = (*value - median).abs());
    let farthest = distances.iter().copied().fold(0.0, f32::max);
    let (nearer, usual, _) = distances.select_nth_unstable_by(count * 99 / 100, f32::total_cmp);
    let limit = TIMES * *usual;
    if farthest <= limit || nearer.iter().filter(|distance| **distance > 0.0).count() * 10 < count {
        return Vec::new();
    }
    let is_far = |value: &f32| (*value - median).abs() > limit;
    series.values.iter().enumerate().filter(|(_, value)| is_far(value)).map(|(place, _)| place).collect()
}

/// The same panel where implausible values are missing, and which they are.
pub fn plausible(panel: &Panel) -> (Cow<'_, Panel>, Hidden) {
    let found: Vec<Vec<usize>> = panel.series.par_iter().map(implausible).collect();
    let hidden = Hidden {
        series: found.iter().filter(|places| !places.is_empty()).count(),
        values: found.iter().map(Vec::len).sum(),
        first: found.iter().position(|places| !places.is_empty()).map(|place| panel.series[place].id.clone()),
    };
    if hidden.values == 0 {
        return (Cow::Borrowed(panel), hidden);
    }
    let mut series = panel.series.clone();
    for (series, places) in series.iter_mut().zip(&found) {
        for place in places {
            series.values[*place] = f32::NAN;
        }
    }
    (Cow::Owned(panel.with(series)), hidden)
}

/// What was hidden of a panel.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hidden {
    /// Series with an implausible value.
    pub series: usize,
    /// Implausible values.
    pub values: usize,
    /// One of these series.
    pub first: Option<String>,
}

impl Hidden {
    /// In a sentence; `None` where there was nothing.
    pub fn told(&self) -> Option<String> {
        let first = self.first.as_ref()?;
        Some(format!(
            "Values that models see as missing: {}, of {} series, such as `{first}`; {}.",
            self.values,
            self.series,
            rule_in_words()
        ))
    }
}

/// What is implausible, for an operator.
pub fn rule_in_words() -> String {
    format!("they are more than {TIMES} times as far from the median of the series as 99 % of its values")
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use meterline_schemas::Frequency;

    use super::*;

    fn load(step: usize) -> f32 {
        10.0 + 5.0 * (step as f32 * std::f32::consts::TAU / 24.0).sin() + ((step * 7919) % 13) as f32 / 13.0
    }

    fn with(values: impl Iterator<Item = f32>, far: &[(usize, f32)]) -> Series {
        let mut values: Vec<f32> = values.collect();
        far.iter().for_each(|(place, value)| values[*place] = *value);
        Series::new("a", 0, values)
    }

    #[test]
    fn what_no_meter_can_have_meant_is_found() {
        let far = [(5, 999_999.0), (700, -4_000.0), (701, 16_000.0)];
        assert_eq!(implausible(&with((0..1_000).map(load), &far)), [5, 700, 701]);
        // Three times the usual, a night without current, and a gap.
        let near = [(5, 45.0), (6, 0.0), (7, f32::NAN), (8, -30.0)];
        assert!(implausible(&with((0..1_000).map(load), &near)).is_empty());
    }

    #[test]
    fn what_is_there_for_longer_or_what_is_mostly_zero_is_as_it_is() {
        let in_watts = |step| if step < 980 { load(step) } else { 1_000.0 * load(step) };
        assert!(implausible(&with((0..1_000).map(in_watts), &[])).is_empty());
        let seldom = |step| if step % 12 == 0 { 0.1 } else { 0.0 };
        assert!(implausible(&with((0..1_000).map(seldom), &[(500, 80.0)])).is_empty());
        assert!(implausible(&with((0..1_000).map(|_| 3.0), &[(500, 80.0)])).is_empty());
        assert!(implausible(&with((0..VALUES_MIN - 1).map(load), &[(50, 1e6)])).is_empty());
    }

    #[test]
    fn a_panel_has_gaps_there_and_says_how_many() {
        let fine = with((0..300).map(load), &[]);
        let panel = |series| Panel::new(Frequency::HOUR, TimeZone::UTC, series);
        let without = panel(vec![fine.clone()]);
        let (same, hidden) = plausible(&without);
        assert!(matches!(same, Cow::Borrowed(_)) && hidden.told().is_none());
        let dirty = panel(vec![fine.clone(), with((0..300).map(load), &[(3, 1e6), (299, -1e6)])]);
        let (clean, hidden) = plausible(&dirty);
        assert_eq!((hidden.series, hidden.values, &clean.series[0]), (1, 2, &fine));
        let gaps: Vec<usize> = (0..300).filter(|place| clean.series[1].values[*place].is_nan()).collect();
        assert_eq!(gaps, [3, 299]);
        assert!(
            hidden.told().unwrap().starts_with("Values that models see as missing: 2, of 1 series, such as `a`"),
            "{:?}",
            hidden.told()
        );
    }
}
