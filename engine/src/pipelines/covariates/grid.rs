//! The values of a covariate on the grid of a panel. Pure.

use std::sync::Arc;

use meterline_models::data::{Column, Panel, Series};
use meterline_schemas::time::format_micros;
use meterline_schemas::{Frequency, Micros};

use super::file::{Row, Values};

/// The columns of a covariate.
#[derive(Debug, Clone, PartialEq)]
pub struct Placed {
    /// One for each series of the panel, in its order; they share what is the same of all.
    pub columns: Vec<Column>,
    /// Values in them.
    pub values: usize,
    /// Rows whose interval had one before.
    pub repeated: usize,
    /// Series of the panel that have no value.
    pub without: usize,
    /// Series that have values and are not in the panel.
    pub unknown: usize,
}

/// A stamp that starts no interval.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the start {}{} is not on the grid of {frequency}: each row is about one interval of the series' frequency and has its start, such as {}",
    format_micros(*.at), of_series(.series), format_micros(*.floor)
)]
pub struct OffGrid {
    /// The stamp.
    pub at: Micros,
    /// The boundary before it.
    pub floor: Micros,
    /// The series, where the row is of one.
    pub series: Option<String>,
    /// The frequency of the panel.
    pub frequency: Frequency,
}

fn of_series(series: &Option<String>) -> String {
    series.as_ref().map(|id| format!(" of `{id}`")).unwrap_or_default()
}

impl Placed {
    /// What there is, in words.
    pub fn in_words(&self) -> String {
        let mut words = format!("{} values", self.values);
        for (count, what) in [
            (self.repeated, "rows repeat an interval, of which the last one counts"),
            (self.without, "series have none"),
            (self.unknown, "series that it is known of are not in the run"),
        ] {
            if count > 0 {
                words.push_str(&format!(", {count} {what}"));
            }
        }
        words
    }
}

/// Start of the earliest interval of a panel.
pub fn first_start(panel: &Panel) -> Option<Micros> {
    panel.series.iter().map(|series| series.start).min()
}

/// Puts values on the grid of a panel: for each series from its first interval to `ahead` intervals after its last one.
/// What lies outside is of no use to it.
///
/// # Errors
/// A stamp is not on the grid.
pub fn place(values: &Values, panel: &Panel, ahead: usize) -> Result<Placed, OffGrid> {
    let mut placed = Placed { columns: Vec::new(), values: 0, repeated: 0, without: 0, unknown: 0 };
    let end =
        |series: &Series| panel.frequency.advance(series.start, (series.values.len() + ahead) as i64, &panel.zone);
    match values {
        Values::OfAll(rows) => {
            let from = first_start(panel).unwrap_or(0);
            let until = panel.series.iter().map(end).max().unwrap_or(from);
            let values = placed.line(rows, None, panel, from, until)?;
            let offset = |series: &Series| -panel.frequency.steps_between(from, series.start, &panel.zone);
            let column = |series| Column { offset: offset(series), values: Arc::clone(&values) };
            placed.columns = panel.series.iter().map(column).collect();
        }
        Values::OfEach(each) => {
            for series in &panel.series {
                let rows = each.get(series.id.as_str()).map_or(&[][..], Vec::as_slice);
                let values = placed.line(rows, Some(&series.id), panel, series.start, end(series))?;
                placed.columns.push(Column { offset: 0, values });
            }
            let known = panel.series.iter().filter(|series| each.contains_key(series.id.as_str()));
            placed.unknown = each.len() - known.count();
        }
    }
    placed.without = placed.columns.iter().filter(|column| column.values.is_empty()).count();
    Ok(placed)
}

impl Placed {
    // The values of a column from `from` to `until`, which is empty if there is none.
    fn line(
        &mut self,
        rows: &[Row],
        series: Option<&str>,
        panel: &Panel,
        from: Micros,
        until: Micros,
    ) -> Result<Arc<[f32]>, OffGrid> {
        let Panel { frequency, zone, .. } = panel;
        let mut line = vec![f32::NAN; frequency.steps_between(from, until, zone).max(0) as usize];
        let before = self.values;
        for (at, value) in rows {
            let floor = frequency.floor(*at, zone);
            if floor != *at {
                let series = series.map(str::to_owned);
                return Err(OffGrid { at: *at, floor, series, frequency: *frequency });
            }
            let step = usize::try_from(frequency.steps_between(from, *at, zone)).ok();
            let Some(slot) = step.and_then(|step| line.get_mut(step)) else { continue };
            *(if slot.is_nan() { &mut self.values } else { &mut self.repeated }) += 1;
            *slot = *value;
        }
        Ok(if self.values == before { Arc::default() } else { line.into() })
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use meterline_schemas::time::{DAY, HOUR};

    use super::*;

    // `a` has the hours 2, 3 and 4 of the day, `b` 4 and 5.
    fn panel() -> Panel {
        let series = |id: &str, start: i64, count: usize| Series::new(id, start * HOUR, vec![1.0; count]);
        Panel::new(Frequency::HOUR, TimeZone::UTC, vec![series("a", 2, 3), series("b", 4, 2)])
    }

    fn rows(hours: &[(i64, f32)]) -> Vec<Row> {
        hours.iter().map(|(hour, value)| (hour * HOUR, *value)).collect()
    }

    fn shown(column: &Column, intervals: std::ops::Range<i64>) -> Vec<Option<f32>> {
        intervals.map(|interval| Some(column.at(interval)).filter(|value| value.is_finite())).collect()
    }

    #[test]
    fn values_of_all_series_are_shared_and_each_finds_its_own_intervals() {
        // In no order, once twice, once missing, and some of other times.
        let hours = [(5, 5.0), (2, 2.0), (0, 9.0), (3, 30.0), (3, 3.0), (7, 7.0), (8, 9.0)];
        let placed = place(&Values::OfAll(rows(&hours)), &panel(), 2).unwrap();
        let [a, b] = &placed.columns[..] else { panic!("two columns") };
        assert!(Arc::ptr_eq(&a.values, &b.values));
        assert_eq!(shown(a, -1..7), [None, Some(2.0), Some(3.0), None, Some(5.0), None, Some(7.0), None]);
        assert_eq!(shown(b, -2..4), [Some(2.0), Some(3.0), None, Some(5.0), None, Some(7.0)]);
        assert_eq!((placed.values, placed.repeated, placed.without, placed.unknown), (4, 1, 0, 0));
        assert!(placed.in_words().starts_with("4 values, 1 rows repeat"), "{}", placed.in_words());
    }

    #[test]
    fn a_series_without_values_has_an_empty_column_and_series_of_other_groups_are_counted() {
        let each = [("b", vec![(4, 4.0)]), ("c", vec![(4, 4.0)]), ("d", vec![])];
        let each = each.map(|(id, hours)| (Arc::from(id), rows(&hours)));
        let placed = place(&Values::OfEach(each.into()), &panel(), 0).unwrap();
        assert!(placed.columns[0].values.is_empty());
        assert_eq!(shown(&placed.columns[1], 0..2), [Some(4.0), None]);
        assert_eq!((placed.values, placed.without, placed.unknown), (1, 1, 2));
    }

    #[test]
    fn nothing_is_placed_beyond_the_end() {
        let placed = place(&Values::OfAll(rows(&[(5, 5.0), (6, 1e9)])), &panel(), 0).unwrap();
        assert_eq!(shown(&placed.columns[1], 0..4), [None, Some(5.0), None, None]);
        let empty = Panel::new(Frequency::HOUR, TimeZone::UTC, Vec::new());
        assert_eq!(place(&Values::OfAll(rows(&[(5, 5.0)])), &empty, 0).unwrap().columns, []);
    }

    #[test]
    fn a_stamp_that_is_not_on_the_grid_is_named() {
        let each = [(Arc::from("b"), vec![(HOUR / 4, 1.0)])];
        let error = place(&Values::OfEach(each.into()), &panel(), 0).unwrap_err().to_string();
        assert!(error.contains("1970-01-01T00:15:00Z of `b` is not on the grid of PT1H"), "{error}");
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        let day = Frequency::Day.floor(100 * DAY, &berlin);
        let days = Panel::new(Frequency::Day, berlin, vec![Series::new("a", day, vec![1.0; 3])]);
        assert!(place(&Values::OfAll(vec![(day, 1.0)]), &days, 0).is_ok());
        let error = place(&Values::OfAll(vec![(100 * DAY, 1.0)]), &days, 0).unwrap_err();
        assert_eq!((error.series, error.floor), (None, day));
    }
}
