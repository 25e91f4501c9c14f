//! Values that no meter can have meant: a register that was reset, a unit that was wrong once, 999999 where there was none.
//! One of them among thousands is enough to spoil what is learned from a series, and each forecast that looks
//! back at it. Pure.
//!
//! Far is what is more than [`TIMES`] as far from the median of its series as 99 % of the values are (all but two, where there
//! are few). It is implausible where it is also rare: where far values come no more than twice, or once in a thousand
//! intervals. A car that is charged each week is far from what its meter has else, and comes back. And at least a tenth of
//! the values must differ from the median: demand that is mostly zero may be anything.

use std::borrow::Cow;

use rayon::prelude::*;

use crate::data::Panel;

/// So many times the distance of 99 % of the values from their median is far. Of the load, generation and temperature
/// series in the benchmarks the farthest is at 16.
pub const TIMES: f32 = 20.0;
/// With fewer values the farthest one is too much of that distance itself.
const VALUES_MIN: usize = 30;
/// Values that may be far where one of a hundred is fewer, and times that they may come where one of a thousand is.
const FEW: usize = 2;
/// Far values that are no more than so many intervals apart came at one time.
const APART_MAX: usize = 4;

/// Places of the implausible values of a series. Without them, none of the rest is.
pub fn implausible(values: &[f32]) -> Vec<usize> {
    let mut found = far_and_rare(values);
    if found.is_empty() {
        return found;
    }
    // One that is a thousand times too far hides one that is fifty times too far.
    let mut rest = values.to_vec();
    let mut all = Vec::new();
    while !found.is_empty() {
        found.iter().for_each(|place| rest[*place] = f32::NAN);
        all.append(&mut found);
        found = far_and_rare(&rest);
    }
    all.sort_unstable();
    all
}

fn far_and_rare(values: &[f32]) -> Vec<usize> {
    let mut sorted: Vec<f32> = values.iter().copied().filter(|value| value.is_finite()).collect();
    let count = sorted.len();
    if count < VALUES_MIN {
        return Vec::new();
    }
    let (_, median, _) = sorted.select_nth_unstable_by(count / 2, f32::total_cmp);
    let median = *median;
    let mut distances = sorted;
    distances.iter_mut().for_each(|value| *value = (*value - median).abs());
    let farthest = distances.iter().copied().fold(0.0, f32::max);
    let usual = (count * 99 / 100).min(count - 1 - FEW);
    let (nearer, usual, _) = distances.select_nth_unstable_by(usual, f32::total_cmp);
    let limit = TIMES * *usual;
    if farthest <= limit || nearer.iter().filter(|distance| **distance > 0.0).count() * 10 < count {
        return Vec::new();
    }
    let is_far = |value: &f32| (*value - median).abs() > limit;
    let far: Vec<usize> =
        values.iter().enumerate().filter(|(_, value)| is_far(value)).map(|(place, _)| place).collect();
    let times = 1 + far.iter().zip(far.iter().skip(1)).filter(|(one, next)| *next - *one > APART_MAX).count();
    if times > FEW.max(count / 1_000) { Vec::new() } else { far }
}

/// The values of a series, those missing (NaN) that are implausible.
pub fn values(all: &[f32]) -> Cow<'_, [f32]> {
    let mut values = Cow::Borrowed(all);
    for place in implausible(all) {
        values.to_mut()[place] = f32::NAN;
    }
    values
}

/// Makes the implausible values of a panel missing.
pub fn hide(panel: &mut Panel) {
    let found = places(panel);
    hide_at(panel, &found);
}

/// The same panel where implausible values are missing, and which they are. Where there are any it is a copy: whoever has
/// a large panel of its own can [`hide`] them in it.
pub fn plausible(panel: &Panel) -> (Cow<'_, Panel>, Hidden) {
    let found = places(panel);
    let hidden = Hidden::new(panel, &found);
    if found.is_empty() {
        return (Cow::Borrowed(panel), hidden);
    }
    let mut copy = panel.clone();
    hide_at(&mut copy, &found);
    (Cow::Owned(copy), hidden)
}

fn hide_at(panel: &mut Panel, found: &[(usize, Vec<usize>)]) {
    for (series, places) in found {
        for place in places {
            panel.series[*series].values[*place] = f32::NAN;
        }
    }
}

// By series that has any.
fn places(panel: &Panel) -> Vec<(usize, Vec<usize>)> {
    let all = panel.series.par_iter().enumerate();
    all.map(|(place, series)| (place, implausible(&series.values))).filter(|(_, places)| !places.is_empty()).collect()
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
    /// What is implausible in a panel.
    pub fn of(panel: &Panel) -> Hidden {
        Hidden::new(panel, &places(panel))
    }

    fn new(panel: &Panel, found: &[(usize, Vec<usize>)]) -> Hidden {
        Hidden {
            series: found.len(),
            values: found.iter().map(|(_, places)| places.len()).sum(),
            first: found.first().map(|(series, _)| panel.series[*series].id.clone()),
        }
    }

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
    format!("they are more than {TIMES} times as far from the median of the series as 99 % of its values, and rare")
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use meterline_schemas::Frequency;

    use super::*;
    use crate::data::Series;

    fn load(step: usize) -> f32 {
        10.0 + 5.0 * (step as f32 * std::f32::consts::TAU / 24.0).sin() + ((step * 7919) % 13) as f32 / 13.0
    }

    fn with(values: impl Iterator<Item = f32>, far: &[(usize, f32)]) -> Vec<f32> {
        let mut values: Vec<f32> = values.collect();
        far.iter().for_each(|(place, value)| values[*place] = *value);
        values
    }

    #[test]
    fn what_no_meter_can_have_meant_is_found() {
        let far = [(5, 999_999.0), (700, -4_000.0), (701, 16_000.0)];
        assert_eq!(implausible(&with((0..1_000).map(load), &far)), [5, 700, 701]);
        // Three times the usual, a night without current, and a gap.
        let near = [(5, 45.0), (6, 0.0), (7, f32::NAN), (8, -30.0)];
        assert!(implausible(&with((0..1_000).map(load), &near)).is_empty());
        // Of 56 days, too; one that is farther does not hide another, and what is left is plausible.
        assert_eq!(implausible(&with((0..56).map(load), &[(9, 1e6), (50, 2e3)])), [9, 50]);
        let levels: Vec<(usize, f32)> = (500..508).map(|at| (at, 1e9)).chain((600..608).map(|at| (at, 1e5))).collect();
        let found = implausible(&with((0..1_000).map(load), &levels));
        assert_eq!(found.len(), 16);
        assert!(implausible(&values(&with((0..1_000).map(load), &levels))).is_empty());
    }

    #[test]
    fn what_comes_back_or_is_there_for_longer_or_is_mostly_zero_is_as_it_is() {
        // Two hours of each week a car is charged; else there is a little that changes.
        let car = |step: usize| if step % 168 < 2 { 7_400.0 } else { 4.0 + (step % 3) as f32 };
        for hours in [504, 1_000, 8_760] {
            assert!(implausible(&with((0..hours).map(car), &[])).is_empty(), "{hours}");
        }
        let in_watts = |step| if step < 980 { load(step) } else { 1_000.0 * load(step) };
        assert!(implausible(&with((0..1_000).map(in_watts), &[])).is_empty());
        let seldom = |step| if step % 12 == 0 { 0.1 } else { 0.0 };
        assert!(implausible(&with((0..1_000).map(seldom), &[(500, 80.0)])).is_empty());
        assert!(implausible(&with((0..1_000).map(|_| 3.0), &[(500, 80.0)])).is_empty());
        assert!(implausible(&with((0..VALUES_MIN - 1).map(load), &[(5, 1e6)])).is_empty());
    }

    #[test]
    fn a_panel_has_gaps_there_and_says_how_many() {
        let series = |far: &[(usize, f32)]| Series::new("a", 0, with((0..300).map(load), far));
        let fine = series(&[]);
        let panel = |series| Panel::new(Frequency::HOUR, TimeZone::UTC, series);
        let without = panel(vec![fine.clone()]);
        let (same, hidden) = plausible(&without);
        assert!(matches!(same, Cow::Borrowed(_)) && hidden.told().is_none());
        let dirty = panel(vec![fine.clone(), series(&[(3, 1e6), (299, -1e6)])]);
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
