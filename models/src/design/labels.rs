//! What is said of a series as a whole, as features: of a label with few values a flag for each; of one with many, or with
//! another of nearly each series, all of them numbers (a rated power, a floor area), the number.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::data::{Panel, Series};

/// Most values of a label that have a flag: those of the most series.
const FLAGS_MAX: usize = 24;
/// Series that a value needs for a flag: what one series has alone says nothing of others.
const SERIES_MIN: usize = 2;
/// Different numbers from which on a label may be one, and the share of series whose value has to be a number then.
const NUMBERS_MIN: usize = 3;
const NUMBERS_SHARE: f64 = 0.9;
/// Standard deviations from the mean that a number counts, at most.
const FARTHEST: f32 = 3.0;

/// A label, and what the panel that a model was fitted to had of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct SeenLabel {
    name: String,
    values: Values,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Values {
    // Sorted.
    Flags(Vec<String>),
    Number { mean: f32, deviation: f32 },
}

impl SeenLabel {
    pub fn all_of(panel: &Panel) -> Vec<SeenLabel> {
        let of = |(place, name): (usize, &String)| SeenLabel { name: name.clone(), values: Values::of(panel, place) };
        panel.labels.iter().enumerate().map(of).collect()
    }

    pub fn names(&self) -> Vec<String> {
        match &self.values {
            Values::Flags(values) => values.iter().map(|value| format!("{}={value}", self.name)).collect(),
            Values::Number { .. } => vec![self.name.clone()],
        }
    }

    /// What a series has in its row, as the names are. A panel may have labels in another order, and lack some; a value
    /// that training did not see, or none, raises no flag, and is the mean of numbers.
    pub fn features(&self, panel: &Panel, series: &Series) -> Vec<f32> {
        let place = panel.labels.iter().position(|name| *name == self.name);
        let value = place.and_then(|place| series.label(place));
        match &self.values {
            Values::Flags(values) => values.iter().map(|known| if value == Some(known) { 1.0 } else { 0.0 }).collect(),
            Values::Number { mean, deviation } => {
                let number = value.and_then(number);
                vec![number.map_or(0.0, |number| ((number - mean) / deviation).clamp(-FARTHEST, FARTHEST))]
            }
        }
    }
}

impl Values {
    fn of(panel: &Panel, place: usize) -> Values {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        panel
            .series
            .iter()
            .filter_map(|series| series.label(place))
            .for_each(|value| *counts.entry(value).or_default() += 1);
        let all: usize = counts.values().sum();
        let alone = counts.values().filter(|count| **count < SERIES_MIN).count();
        let numbers: Vec<(f32, usize)> =
            counts.iter().filter_map(|(value, count)| Some((number(value)?, *count))).collect();
        let of_numbers: usize = numbers.iter().map(|(_, count)| count).sum();
        // Too many, or mostly of one series each, to be names of something.
        let is_measured = counts.len() > FLAGS_MAX || 2 * alone > all;
        if is_measured && numbers.len() >= NUMBERS_MIN && of_numbers as f64 >= NUMBERS_SHARE * all as f64 {
            return Values::of_numbers(numbers);
        }
        let mut values: Vec<(&str, usize)> = counts.into_iter().filter(|(_, count)| *count >= SERIES_MIN).collect();
        values.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        values.truncate(FLAGS_MAX);
        let mut values: Vec<String> = values.into_iter().map(|(value, _)| value.to_owned()).collect();
        values.sort_unstable();
        Values::Flags(values)
    }

    fn of_numbers(numbers: Vec<(f32, usize)>) -> Values {
        let count: f64 = numbers.iter().map(|(_, count)| *count as f64).sum();
        let mean_of = |f: &dyn Fn(f64) -> f64| {
            let sum: f64 = numbers.iter().map(|(number, count)| f(f64::from(*number)) * *count as f64).sum();
            sum / count
        };
        let mean = mean_of(&|number| number);
        // Texts may differ and their numbers not.
        let deviation = mean_of(&|number| (number - mean).powi(2)).sqrt().max(1e-30);
        Values::Number { mean: mean as f32, deviation: deviation as f32 }
    }
}

fn number(value: &str) -> Option<f32> {
    value.trim().parse().ok().filter(|number: &f32| number.is_finite())
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use meterline_schemas::Frequency;

    use super::*;

    fn panel(labels: &[&str], series: &[&[Option<&str>]]) -> Panel {
        let of = |(number, values): (usize, &&[Option<&str>])| Series {
            labels: values.iter().map(|value| value.map(Into::into)).collect(),
            ..Series::new(format!("s{number}"), 0, vec![1.0])
        };
        Panel {
            labels: labels.iter().map(|label| label.to_string()).collect(),
            ..Panel::new(Frequency::HOUR, TimeZone::UTC, series.iter().enumerate().map(of).collect())
        }
    }

    #[test]
    fn a_value_of_several_series_has_a_flag() {
        let seen = SeenLabel::all_of(&panel(
            &["region", "tariff"],
            &[
                &[Some("south"), Some("day")],
                &[Some("north")],
                &[Some("south"), Some("day")],
                &[Some("north"), None],
                &[None, Some("rare")],
            ],
        ));
        let names: Vec<Vec<String>> = seen.iter().map(SeenLabel::names).collect();
        assert_eq!(names, [vec!["region=north", "region=south"], vec!["tariff=day"]]);
        // In another order, without one of them, with a value that nobody knows.
        let other = panel(&["tariff", "site", "region"], &[&[Some("day"), Some("x"), Some("south")], &[Some("rare")]]);
        assert_eq!(seen[0].features(&other, &other.series[0]), [0.0, 1.0]);
        assert_eq!(seen[1].features(&other, &other.series[0]), [1.0]);
        assert_eq!(
            (seen[0].features(&other, &other.series[1]), seen[1].features(&other, &other.series[1])),
            (vec![0.0; 2], vec![0.0])
        );
    }

    #[test]
    fn many_numbers_are_one_feature_and_of_many_texts_the_frequent_ones_count() {
        let of = |value: &dyn Fn(usize) -> String| {
            let values: Vec<String> = (0..80).map(value).collect();
            let rows: Vec<[Option<&str>; 1]> = values.iter().map(|value| [Some(value.as_str())]).collect();
            let rows: Vec<&[Option<&str>]> = rows.iter().map(|row| &row[..]).collect();
            SeenLabel::all_of(&panel(&["power"], &rows)).remove(0)
        };
        let seen = of(&|series| format!("{}.5", series));
        assert_eq!(seen.names(), ["power"]);
        let shown = panel(&["power"], &[&[Some("40.0")], &[Some("1e9")], &[Some("much")], &[None]]);
        let features: Vec<f32> = shown.series.iter().flat_map(|series| seen.features(&shown, series)).collect();
        assert!(features[0].abs() < 1e-6, "the mean: {features:?}");
        assert_eq!(features[1..], [3.0, 0.0, 0.0]);
        // A few buildings with their floor areas, one of which nobody knows.
        let few = of(&|series| if series == 7 { "unknown".to_owned() } else { format!("{}.5", series % 79) });
        assert_eq!(few.names(), ["power"]);
        let rows: Vec<[Option<&str>; 1]> = ["120", "95.5", "310"].iter().map(|value| [Some(*value)]).collect();
        let rows: Vec<&[Option<&str>]> = rows.iter().map(|row| &row[..]).collect();
        assert_eq!(SeenLabel::all_of(&panel(&["area"], &rows)).remove(0).names(), ["area"]);
        // Few numbers are names of something.
        assert_eq!(of(&|series| format!("{}", series % 3)).names(), ["power=0", "power=1", "power=2"]);
        // Of 31 texts those of three series each.
        let texts = of(&|series| format!("t{:02}", if series < 72 { series % 24 } else { series }));
        assert_eq!((texts.names().len(), texts.names()[23].as_str()), (24, "power=t23"));
    }
}
