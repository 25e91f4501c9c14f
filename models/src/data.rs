//! Series on a regular grid, and what is known beside them.

use std::sync::Arc;

use jiff::tz::TimeZone;
use meterline_schemas::{Frequency, Micros};
use serde::{Deserialize, Serialize};

/// One series: the value of every native interval from `start` on, without holes in the grid.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Series identifier.
    pub id: String,
    /// Start of the first interval; on the frequency's grid.
    pub start: Micros,
    /// One value an interval, NaN where it is missing. Its length sets the origin: nothing later is known.
    pub values: Vec<f32>,
    /// How much each value counts in training, from 0 (not at all) to 1: what was estimated or substituted may count
    /// less. As many as values; or none, where all count alike.
    pub weights: Vec<f32>,
    /// A column for each of [`Panel::covariates`].
    pub covariates: Vec<Column>,
    /// A value for each of [`Panel::labels`]; or none, where it has none of them.
    pub labels: Vec<Option<Arc<str>>>,
    /// Whether it may fall below zero although it never did: a temperature does, energy mostly does not.
    pub signed: bool,
}

/// The values of a covariate for one series. Series may share them.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// Interval of the series, counted from its first one, that the first value belongs to.
    pub offset: i64,
    /// One value an interval, NaN where it is missing.
    pub values: Arc<[f32]>,
}

/// What a column is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Covariate {
    /// Name of the column.
    pub name: String,
    /// When its values are known.
    pub known: Known,
}

/// When the value of an interval is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Known {
    /// Before the interval begins, over the whole horizon: a weather forecast, a tariff, a holiday.
    Ahead,
    /// Once the interval has ended, as the series itself.
    Past,
}

/// The series of one model group.
#[derive(Debug, Clone)]
pub struct Panel {
    /// Their common native frequency.
    pub frequency: Frequency,
    /// Zone of calendar features and calendar frequencies.
    pub zone: TimeZone,
    /// What is known beside the series.
    pub covariates: Vec<Covariate>,
    /// Names of what is said of each series as a whole, such as its tariff or region.
    pub labels: Vec<String>,
    /// The series, each with its own start and origin.
    pub series: Vec<Series>,
}

impl Column {
    /// The value of an interval of the series, counted from its first one; NaN where none is known.
    pub fn at(&self, interval: i64) -> f32 {
        let place = interval.checked_sub(self.offset).and_then(|place| usize::try_from(place).ok());
        place.and_then(|place| self.values.get(place)).copied().unwrap_or(f32::NAN)
    }

    // Without what belongs to the interval `end` of the series or a later one.
    fn cut(&self, end: usize) -> Column {
        let kept = usize::try_from(end as i64 - self.offset).unwrap_or(0).min(self.values.len());
        let values = if kept == self.values.len() { Arc::clone(&self.values) } else { self.values[..kept].into() };
        Column { offset: self.offset, values }
    }
}

impl Series {
    /// A series of energy with nothing beside it, all of whose values count alike.
    pub fn new(id: impl Into<String>, start: Micros, values: Vec<f32>) -> Series {
        let (weights, covariates, labels) = (Vec::new(), Vec::new(), Vec::new());
        Series { id: id.into(), start, values, weights, covariates, labels, signed: false }
    }

    /// End of the last interval: the origin of a forecast made from this series as it stands.
    pub fn origin(&self, frequency: Frequency, zone: &TimeZone) -> Micros {
        frequency.advance(self.start, self.values.len() as i64, zone)
    }

    /// Its newest `count` values, with the start moved accordingly.
    pub fn newest(&self, count: usize, frequency: Frequency, zone: &TimeZone) -> Series {
        let skipped = self.values.len().saturating_sub(count);
        let moved = |column: &Column| Column { offset: column.offset - skipped as i64, ..column.clone() };
        Series {
            id: self.id.clone(),
            start: frequency.advance(self.start, skipped as i64, zone),
            values: self.values[skipped..].to_vec(),
            weights: self.weights.get(skipped..).unwrap_or_default().to_vec(),
            covariates: self.covariates.iter().map(moved).collect(),
            labels: self.labels.clone(),
            signed: self.signed,
        }
    }

    /// Its value of the label at this place among those of the panel.
    pub fn label(&self, place: usize) -> Option<&str> {
        self.labels.get(place)?.as_deref()
    }

    /// Whether it may be expected below zero: it was, or it is [signed](Series::signed).
    pub fn may_be_below_zero(&self) -> bool {
        self.signed || self.values.iter().any(|value| *value < 0.0)
    }

    /// How much the value of an interval counts in training.
    pub fn weight(&self, interval: usize) -> f32 {
        self.weights.get(interval).copied().unwrap_or(1.0)
    }
}

impl Panel {
    /// A panel with nothing beside the series.
    pub fn new(frequency: Frequency, zone: TimeZone, series: Vec<Series>) -> Panel {
        Panel { frequency, zone, covariates: Vec::new(), labels: Vec::new(), series }
    }

    /// End of the newest value: the latest origin of its series. `None` without any value.
    pub fn origin(&self) -> Option<Micros> {
        let begun = self.series.iter().filter(|series| !series.values.is_empty());
        begun.map(|series| series.origin(self.frequency, &self.zone)).max()
    }

    /// Intervals of its longest series.
    pub fn longest(&self) -> usize {
        self.series.iter().map(|series| series.values.len()).max().unwrap_or(0)
    }

    /// A panel with other series of the same kind.
    pub fn with(&self, series: Vec<Series>) -> Panel {
        Panel {
            frequency: self.frequency,
            zone: self.zone.clone(),
            covariates: self.covariates.clone(),
            labels: self.labels.clone(),
            series,
        }
    }

    /// The same panel, knowing nothing that ends after `origin` but what is known ahead.
    pub fn cut(&self, origin: Micros) -> Panel {
        self.cut_of(0..self.series.len(), origin)
    }

    /// The same with those of its series alone that have these numbers.
    pub fn cut_of(&self, numbers: impl Iterator<Item = usize>, origin: Micros) -> Panel {
        let cut = |s: &Series| {
            let known = self.frequency.steps_between(s.start, origin, &self.zone).max(0) as usize;
            let columns = self.covariates.iter().zip(&s.covariates);
            Series {
                id: s.id.clone(),
                start: s.start,
                values: s.values[..known.min(s.values.len())].to_vec(),
                weights: s.weights[..known.min(s.weights.len())].to_vec(),
                covariates: columns
                    .map(|(covariate, column)| match covariate.known {
                        Known::Ahead => column.clone(),
                        Known::Past => column.cut(known),
                    })
                    .collect(),
                labels: s.labels.clone(),
                signed: s.signed,
            }
        };
        self.with(numbers.filter_map(|number| self.series.get(number)).map(cut).collect())
    }

    /// The newest `count` values of every series, each with its own start moved accordingly.
    pub fn newest(&self, count: usize) -> Panel {
        self.with(self.series.iter().map(|s| s.newest(count, self.frequency, &self.zone)).collect())
    }

    /// The same panel with these covariates alone, in their order; `None` where it lacks one of them.
    pub fn with_covariates(mut self, wanted: &[Covariate]) -> Option<Panel> {
        let place = |wanted: &Covariate| self.covariates.iter().position(|covariate| covariate == wanted);
        let places: Vec<usize> = wanted.iter().map(place).collect::<Option<_>>()?;
        for series in &mut self.series {
            let columns = places.iter().map(|place| series.covariates.get(*place).cloned());
            series.covariates = columns.collect::<Option<_>>()?;
        }
        self.covariates = wanted.to_vec();
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use meterline_schemas::time::HOUR;

    use super::*;

    // Ten hours; of each column the value of interval i is i.
    fn panel() -> Panel {
        let column = |offset: i64, count: i64| Column {
            offset,
            values: (offset..offset + count).map(|interval| interval as f32).collect(),
        };
        let covariate = |name: &str, known| Covariate { name: name.into(), known };
        let mut series = Series::new("a", 5 * HOUR, (0..10).map(|i| i as f32).collect());
        series.weights = (0..10).map(|i| 0.1 * i as f32).collect();
        series.covariates = vec![column(-2, 20), column(3, 7)];
        Panel {
            covariates: vec![covariate("temperature", Known::Ahead), covariate("voltage", Known::Past)],
            ..Panel::new(Frequency::HOUR, TimeZone::UTC, vec![series])
        }
    }

    #[test]
    fn a_cut_panel_knows_the_future_of_what_is_known_ahead_alone() {
        let cut = panel().cut(9 * HOUR);
        let series = &cut.series[0];
        assert_eq!((series.values.len(), series.weights.len()), (4, 4));
        assert_eq!((series.covariates[0].at(17), series.covariates[0].at(-2)), (17.0, -2.0));
        assert_eq!(series.covariates[1].at(3), 3.0);
        assert!(series.covariates[1].at(4).is_nan() && series.covariates[1].at(2).is_nan());
        let before = panel().cut(0);
        assert!(before.series[0].values.is_empty() && before.series[0].covariates[1].values.is_empty());
        assert_eq!(panel().cut(100 * HOUR).series, panel().series);
    }

    #[test]
    fn the_newest_values_keep_their_columns() {
        let newest = panel().newest(3);
        let series = &newest.series[0];
        assert_eq!((series.start, series.values.as_slice()), (12 * HOUR, [7.0, 8.0, 9.0].as_slice()));
        assert_eq!((series.weight(0), series.weight(7)), (0.7, 1.0));
        // Interval 0 is now what was 7.
        assert_eq!((series.covariates[0].at(0), series.covariates[0].at(10)), (7.0, 17.0));
        assert_eq!((series.covariates[1].at(2), series.covariates[1].at(-4)), (9.0, 3.0));
        assert!(series.covariates[1].at(3).is_nan());
        assert_eq!(panel().newest(50).series, panel().series);
    }

    #[test]
    fn some_covariates_are_chosen_in_any_order() {
        let all = panel().covariates;
        let [temperature, voltage] = &all[..] else { panic!("two covariates") };
        let chosen = panel().with_covariates(&[voltage.clone(), temperature.clone()]).unwrap();
        assert_eq!(chosen.covariates, [voltage.clone(), temperature.clone()]);
        assert_eq!((chosen.series[0].covariates[0].offset, chosen.series[0].covariates[1].offset), (3, -2));
        assert!(panel().with_covariates(&[]).unwrap().series[0].covariates.is_empty());
        let other = Covariate { known: Known::Ahead, ..voltage.clone() };
        assert!(panel().with_covariates(&[other]).is_none(), "what is known at another time is another covariate");
    }
}
