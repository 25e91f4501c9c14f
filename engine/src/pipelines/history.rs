//! Intervals of one group on a regular grid: from rows in any order to a [`Panel`].

use std::collections::HashMap;

use arrow::array::{Array, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use futures::StreamExt;
use jiff::tz::TimeZone;
use meterline_models::data::{Covariate, Panel, Series};
use meterline_models::forecaster::Task;
use meterline_models::forecasters::seasonal_naive::SeasonalNaive;
use meterline_models::registry;
use meterline_schemas::config::{Config, ResolvedPolicy};
use meterline_schemas::reading::Quality;
use meterline_schemas::tables;
use meterline_schemas::time::format_micros;
use meterline_schemas::{Frequency, Micros};

use super::context::StepContext;
use super::covariates;
use super::error::{Doing, StepError};
use crate::ingest::groups::group_id;
use crate::ingest::names::Names;
use crate::metadata::records::RunSpec;
use crate::sql::{self, TableVersions};

/// Series of one group with their units.
#[derive(Debug, Clone)]
pub struct History {
    /// The series, ordered by id. Each ends with an interval that is there.
    pub panel: Panel,
    /// Unit of each series of the panel, in its order.
    pub units: Vec<String>,
}

impl History {
    /// Intervals that are there, over all series.
    pub fn intervals(&self) -> usize {
        self.panel.series.iter().map(|s| s.values.iter().filter(|v| !v.is_nan()).count()).sum()
    }

    /// Forgets what starts before `from`; a series may be left without any interval.
    pub fn keep_from(&mut self, from: Micros) {
        let Panel { frequency, zone, series, .. } = &mut self.panel;
        for one in series.iter_mut() {
            let earlier = frequency.steps_between(one.start, from, zone).max(0) as usize;
            keep_last(one, one.values.len().saturating_sub(earlier), *frequency, zone);
        }
    }

    /// Keeps the last `length` intervals of every series.
    pub fn keep_last(&mut self, length: usize) {
        let Panel { frequency, zone, series, .. } = &mut self.panel;
        for one in series.iter_mut() {
            keep_last(one, length, *frequency, zone);
        }
    }

    /// Keeps the series for which `keep` holds and says how many went.
    pub fn retain(&mut self, mut keep: impl FnMut(&Series) -> bool) -> usize {
        let before = self.panel.series.len();
        let kept: Vec<bool> = self.panel.series.iter().map(&mut keep).collect();
        let mut flags = kept.iter();
        self.panel.series.retain(|_| flags.next().copied().unwrap_or(false));
        let mut flags = kept.iter();
        self.units.retain(|_| flags.next().copied().unwrap_or(false));
        before - self.panel.series.len()
    }
}

/// Shortens a series to its last `length` intervals.
pub fn keep_last(series: &mut Series, length: usize, frequency: Frequency, zone: &TimeZone) {
    if series.values.len() > length {
        *series = series.newest(length, frequency, zone);
    }
}

/// Collects rows into a [`History`]. The order of the rows does not matter.
pub struct HistoryBuilder {
    frequency: Frequency,
    zone: TimeZone,
    base: Micros,
    places: HashMap<String, usize>,
    series: Vec<Partial>,
    off_grid: u64,
}

struct Partial {
    id: String,
    unit: String,
    // Intervals from the builder's base to the first value: of a series that began late, nothing is kept before.
    from: usize,
    values: Vec<f32>,
    // As far as some count less than others.
    weights: Vec<f32>,
}

impl HistoryBuilder {
    /// A builder for intervals that start at or after `from`.
    pub fn new(frequency: Frequency, zone: TimeZone, from: Micros) -> HistoryBuilder {
        let base = frequency.floor(from, &zone);
        HistoryBuilder { frequency, zone, base, places: HashMap::new(), series: Vec::new(), off_grid: 0 }
    }

    /// Adds rows with the columns `series_id`, `start`, `value` and `unit`; and `weight`, where some count less than 1.
    pub fn add(&mut self, rows: &RecordBatch) -> Result<(), StepError> {
        let ids = column(rows, "series_id", &DataType::Utf8)?;
        let starts = column(rows, "start", &tables::instant())?;
        let values = column(rows, "value", &DataType::Float64)?;
        let units = column(rows, "unit", &DataType::Utf8)?;
        let ids = downcast::<StringArray>(&ids, "series_id")?;
        let starts = downcast::<TimestampMicrosecondArray>(&starts, "start")?;
        let values = downcast::<Float64Array>(&values, "value")?;
        let units = downcast::<StringArray>(&units, "unit")?;
        let weights = rows.column_by_name("weight").map(|_| column(rows, "weight", &DataType::Float64)).transpose()?;
        let weights = weights.as_ref().map(|weights| downcast::<Float64Array>(weights, "weight")).transpose()?;
        let weight = |row: usize| weights.filter(|of| of.is_valid(row)).map_or(1.0, |of| of.value(row) as f32);
        let mut last: Option<usize> = None;
        for row in 0..rows.num_rows() {
            if ids.is_null(row) || starts.is_null(row) || values.is_null(row) {
                continue;
            }
            let id = ids.value(row);
            // Rows of one series mostly follow each other.
            let place = match last {
                Some(place) if self.series[place].id == id => place,
                _ => self.place(id, if units.is_null(row) { "" } else { units.value(row) }),
            };
            last = Some(place);
            let start = starts.value(row);
            let step = self.frequency.steps_between(self.base, start, &self.zone);
            if step < 0 || self.frequency.advance(self.base, step, &self.zone) != start {
                self.off_grid += 1;
                continue;
            }
            self.series[place].set(step as usize, values.value(row) as f32, weight(row));
        }
        Ok(())
    }

    fn place(&mut self, id: &str, unit: &str) -> usize {
        if let Some(place) = self.places.get(id) {
            return *place;
        }
        let place = self.series.len();
        self.places.insert(id.to_owned(), place);
        let (id, unit) = (id.to_owned(), unit.to_owned());
        self.series.push(Partial { id, unit, from: 0, values: Vec::new(), weights: Vec::new() });
        place
    }

    /// The history, and the number of rows that were not on the frequency's grid and were left out.
    pub fn finish(mut self) -> (History, u64) {
        self.series.sort_by(|a, b| a.id.cmp(&b.id));
        let mut series = Vec::with_capacity(self.series.len());
        let mut units = Vec::with_capacity(self.series.len());
        for mut partial in self.series {
            let Some(first) = partial.values.iter().position(|v| !v.is_nan()) else { continue };
            let end = partial.values.iter().rposition(|v| !v.is_nan()).map_or(0, |last| last + 1);
            partial.values.truncate(end);
            partial.values.drain(..first);
            partial.values.shrink_to_fit();
            if !partial.weights.is_empty() {
                partial.weights.resize(end, 1.0);
                partial.weights.drain(..first);
            }
            let start = self.frequency.advance(self.base, (partial.from + first) as i64, &self.zone);
            series.push(Series { weights: partial.weights, ..Series::new(partial.id, start, partial.values) });
            units.push(partial.unit);
        }
        (History { panel: Panel::new(self.frequency, self.zone, series), units }, self.off_grid)
    }
}

impl Partial {
    // Sets what is known of an interval, counted from the builder's base.
    fn set(&mut self, step: usize, value: f32, weight: f32) {
        if self.values.is_empty() {
            self.from = step;
        }
        if let Some(earlier) = self.from.checked_sub(step).filter(|earlier| *earlier > 0) {
            self.values.splice(0..0, std::iter::repeat_n(f32::NAN, earlier));
            if !self.weights.is_empty() {
                self.weights.splice(0..0, std::iter::repeat_n(1.0, earlier));
            }
            self.from = step;
        }
        let place = step - self.from;
        set(&mut self.values, place, value, f32::NAN);
        if weight < 1.0 || place < self.weights.len() {
            set(&mut self.weights, place, weight, 1.0);
        }
    }
}

// Sets a place of a line; what lies between the line's end and it becomes `otherwise`.
fn set(line: &mut Vec<f32>, place: usize, value: f32, otherwise: f32) {
    if line.len() <= place {
        // By a quarter, not twofold: what is spare in every series at once is spare memory of a whole panel.
        if line.capacity() <= place {
            line.reserve_exact((place + 1 - line.len()).max(line.len() / 4));
        }
        line.resize(place + 1, otherwise);
    }
    line[place] = value;
}

fn column(rows: &RecordBatch, name: &str, data_type: &DataType) -> Result<arrow::array::ArrayRef, StepError> {
    let array = rows
        .column_by_name(name)
        .ok_or_else(|| StepError::failed("reading intervals", format!("the column {name} is missing")))?;
    cast(array, data_type).doing(|| format!("reading the column {name} of intervals"))
}

fn downcast<'a, T: 'static>(array: &'a arrow::array::ArrayRef, name: &str) -> Result<&'a T, StepError> {
    array
        .as_any()
        .downcast_ref::<T>()
        .ok_or_else(|| StepError::failed("reading intervals", format!("the column {name} has an unexpected type")))
}

/// Intervals before the origin of each series that an infer run shows its models: the policy's context, or what the
/// policy's model, or seasonal naive, the baseline and the fallback, makes use of, where that is more.
pub fn shown(policy: &ResolvedPolicy) -> usize {
    let task = Task::new(policy.horizon, policy.context, policy.seed);
    let of_model = registry::find(&policy.model).map_or(0, |kind| kind.lookback(policy.frequency, &task));
    policy.context.max(of_model).max(SeasonalNaive::history(policy.frequency, policy.horizon))
}

/// Intervals of history that a build takes: what the policy's kind of model needs, before what evaluation keeps to itself.
pub fn needed(policy: &ResolvedPolicy, zone: &TimeZone, covariates: Vec<Covariate>) -> usize {
    let panel = Panel { covariates, ..Panel::new(policy.frequency, zone.clone(), Vec::new()) };
    let task = Task::new(policy.horizon, policy.context, policy.seed);
    let of_kind = registry::find(&policy.model).map_or(0, |kind| kind.needs(&panel, &task));
    policy.history_least().max(of_kind + policy.evaluate_windows * policy.horizon)
}

/// Intervals before the origin that a build is trained on and evaluated by: those of the policy, or what it needs, where
/// that is more.
pub fn trained(spec: &RunSpec, zone: &TimeZone) -> usize {
    spec.policy.history.max(needed(&spec.policy, zone, covariates::of(&spec.covariates)))
}

/// Reads the group's intervals with `from <= start` and `end <= until`, and none that ends after the origin, at the
/// run's pinned version; of all series, or of the given ones.
pub async fn read(
    ctx: &StepContext,
    from: Micros,
    until: Micros,
    series: Option<&[String]>,
) -> Result<History, StepError> {
    read_at(ctx, ctx.spec.intervals_version, from, until, series).await
}

/// The same at another version of the table.
pub async fn read_at(
    ctx: &StepContext,
    version: i64,
    from: Micros,
    until: Micros,
    series: Option<&[String]>,
) -> Result<History, StepError> {
    let spec = &ctx.spec;
    let doing = || format!("reading intervals of {} at version {version}", spec.frequency);
    let versions = TableVersions { intervals: Some(version) };
    let weight = weight(spec.policy.estimated_weight);
    let query = query(
        spec.frequency,
        &weight,
        from,
        until.min(spec.origin),
        series,
        &other_feeds(&ctx.env.config, spec.frequency, &spec.group_id),
    );
    let mut stream = sql::plan(&ctx.env, &query, versions).await.doing(doing)?.execute_stream().await.doing(doing)?;
    let mut builder = HistoryBuilder::new(spec.frequency, ctx.zone()?, from);
    while let Some(rows) = stream.next().await {
        ctx.stop.check()?;
        builder.add(&rows.doing(doing)?)?;
    }
    let (history, off_grid) = builder.finish();
    if off_grid > 0 {
        ctx.warn(format!(
            "{off_grid} intervals do not start on the grid of {} in zone {} and were left out; \
             check the feed's zone and frequency",
            spec.frequency, spec.zone
        ));
    }
    Ok(history)
}

/// The feeds whose series of a frequency are in another group than `group`, because their calendar is another.
pub fn other_feeds(config: &Config, frequency: Frequency, group: &str) -> Vec<String> {
    let names = Names::of(config);
    let feeds = names.series_feeds(config).filter(|feed| group_id(frequency, feed.zone) != group);
    feeds.map(|feed| names.name(feed.number).to_owned()).collect()
}

// What an interval counts in training, as SQL; of a roll-up's, the part that was estimated or substituted counts less.
fn weight(of_estimated: f64) -> String {
    let less = 1.0 - of_estimated;
    format!(
        "CASE WHEN measured + estimated + substituted > 0 THEN \
           1.0 - {less} * CAST(estimated + substituted AS DOUBLE) / (measured + estimated + substituted) \
         WHEN quality = '{}' THEN 1.0 ELSE 1.0 - {less} END",
        Quality::Measured
    )
}

/// The query for intervals with `from <= start` and `end <= until`: of all series, or of the given ones; of all feeds but
/// `others`. `weight` is SQL.
pub fn query(
    frequency: Frequency,
    weight: &str,
    from: Micros,
    until: Micros,
    series: Option<&[String]>,
    others: &[String],
) -> String {
    tracing::debug!(from = format_micros(from), until = format_micros(until), "reads intervals");
    format!(
        "SELECT series_id, start, value, unit, {weight} AS weight FROM intervals WHERE {}",
        within(frequency, from, until, series, others)
    )
}

/// The condition, in SQL, that a row is of an interval with `from <= start` and `end <= until`, as in [`query`].
pub fn within(
    frequency: Frequency,
    from: Micros,
    until: Micros,
    series: Option<&[String]>,
    others: &[String],
) -> String {
    let instant = |at: Micros| format!("arrow_cast({at}, 'Timestamp(Microsecond, Some(\"UTC\"))')");
    let mut condition = format!(
        "frequency = '{frequency}' AND start >= {} AND start < {} AND \"end\" <= {}",
        instant(from),
        instant(until),
        instant(until)
    );
    if let Some(series) = series {
        condition.push_str(&format!(" AND series_id IN ({})", sql::literals(series)));
    }
    if !others.is_empty() {
        condition.push_str(&format!(" AND feed NOT IN ({})", sql::literals(others)));
    }
    condition
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};
    use arrow::datatypes::{Field, Schema};
    use datafusion::prelude::SessionContext;
    use meterline_models::data::{Column, Known};
    use meterline_schemas::time::HOUR;
    use proptest::prelude::*;

    fn rows(of: &[(&str, Micros, f64)]) -> RecordBatch {
        let schema = Schema::new(vec![
            Field::new("series_id", DataType::Utf8, false),
            Field::new("start", tables::instant(), false),
            Field::new("value", DataType::Float64, false),
            Field::new("unit", DataType::Utf8, false),
        ]);
        RecordBatch::try_new(
            Arc::new(schema),
            vec![
                Arc::new(StringArray::from_iter_values(of.iter().map(|r| r.0))),
                Arc::new(TimestampMicrosecondArray::from_iter_values(of.iter().map(|r| r.1)).with_timezone("UTC")),
                Arc::new(Float64Array::from_iter_values(of.iter().map(|r| r.2))),
                Arc::new(StringArray::from_iter_values(of.iter().map(|_| "kWh"))),
            ],
        )
        .unwrap()
    }

    #[test]
    fn each_series_starts_and_ends_with_an_interval_that_is_there() {
        let mut builder = HistoryBuilder::new(Frequency::HOUR, TimeZone::UTC, 0);
        builder
            .add(&rows(&[("b", 5 * HOUR, 5.0), ("a", 2 * HOUR, 2.0), ("b", 3 * HOUR, 3.0), ("b", HOUR / 2, 9.0)]))
            .unwrap();
        let (history, off_grid) = builder.finish();
        assert_eq!(off_grid, 1);
        assert_eq!(history.intervals(), 3);
        let [a, b] = &history.panel.series[..] else { panic!("two series") };
        assert_eq!((a.id.as_str(), a.start, &a.values[..]), ("a", 2 * HOUR, &[2.0][..]));
        assert_eq!((b.id.as_str(), b.start, b.values.len()), ("b", 3 * HOUR, 3));
        assert!(b.values[1].is_nan());
        assert_eq!(b.origin(Frequency::HOUR, &TimeZone::UTC), 6 * HOUR);
    }

    #[test]
    fn keeping_the_last_intervals_keeps_the_origin() {
        let mut series = Series::new("a", 0, vec![1.0, 2.0, 3.0]);
        series.weights = vec![0.1, 0.2, 0.3];
        series.covariates = vec![Column { offset: 0, values: [10.0, 20.0, 30.0, 40.0].into() }];
        keep_last(&mut series, 2, Frequency::HOUR, &TimeZone::UTC);
        assert_eq!((series.start, &series.values[..]), (HOUR, &[2.0, 3.0][..]));
        assert_eq!(series.origin(Frequency::HOUR, &TimeZone::UTC), 3 * HOUR);
        assert_eq!((&series.weights[..], series.covariates[0].at(2)), (&[0.2, 0.3][..], 40.0));
    }

    #[test]
    fn keeping_from_an_instant_forgets_what_is_earlier() {
        let series = |id: &str, start| Series::new(id, start, vec![1.0, 2.0, 3.0]);
        let panel = Panel::new(
            Frequency::HOUR,
            TimeZone::UTC,
            vec![series("a", 0), series("b", 5 * HOUR), series("c", -9 * HOUR)],
        );
        let mut history = History { panel, units: vec!["kWh".into(); 3] };
        history.panel.covariates = vec![Covariate { name: "temperature".into(), known: Known::Ahead }];
        for (number, series) in (0u8..).zip(&mut history.panel.series) {
            series.weights = vec![0.5, 0.6, 0.7];
            series.covariates = vec![Column { offset: 0, values: vec![f32::from(number); 4].into() }];
        }
        history.keep_from(2 * HOUR);
        let found: Vec<(Micros, usize)> = history.panel.series.iter().map(|s| (s.start, s.values.len())).collect();
        assert_eq!(found, [(2 * HOUR, 1), (5 * HOUR, 3), (-6 * HOUR, 0)]);
        assert_eq!(history.retain(|series| series.id != "b"), 1);
        let [a, c] = &history.panel.series[..] else { panic!("two series") };
        assert_eq!((a.weight(0), c.weights.len()), (0.7, 0));
        // Interval 1 of `a` is what was 3.
        assert_eq!((a.covariates[0].at(1), a.covariates[0].at(2).is_nan(), c.covariates[0].at(0)), (0.0, true, 2.0));
    }

    #[test]
    fn series_names_cannot_end_the_query() {
        let query = query(Frequency::HOUR, "1.0", 0, HOUR, Some(&["o'brien".to_owned()]), &["a'b".to_owned()]);
        assert!(query.ends_with("AND series_id IN ('o''brien') AND feed NOT IN ('a''b')"), "{query}");
    }

    #[tokio::test]
    async fn what_was_estimated_counts_less_and_of_a_roll_up_the_part_that_was() {
        let texts = |of: &[&str]| Arc::new(StringArray::from(of.to_vec())) as ArrayRef;
        let counts = |of: [Option<i64>; 6]| Arc::new(Int64Array::from(of.to_vec())) as ArrayRef;
        let hours = |of: [i64; 6]| {
            let starts = TimestampMicrosecondArray::from_iter_values(of.map(|hour| hour * HOUR));
            Arc::new(starts.with_timezone("UTC")) as ArrayRef
        };
        let columns = [
            ("series_id", texts(&["a", "a", "a", "b", "sum", "sum"])),
            ("start", hours([0, 1, 2, 0, 0, 1])),
            ("end", hours([1, 2, 3, 1, 1, 2])),
            ("frequency", texts(&["PT1H"; 6])),
            ("value", Arc::new(Float64Array::from(vec![1.0; 6])) as ArrayRef),
            ("unit", texts(&["kWh"; 6])),
            ("quality", texts(&["measured", "estimated", "substituted", "measured", "estimated", "measured"])),
            ("feed", texts(&["m"; 6])),
            ("measured", counts([None, None, None, None, Some(3), Some(4)])),
            ("estimated", counts([None, None, None, None, Some(1), Some(0)])),
            ("substituted", counts([None, None, None, None, Some(0), Some(0)])),
        ];
        let context = SessionContext::new();
        context.register_batch("intervals", RecordBatch::try_from_iter(columns).unwrap()).unwrap();
        let query = query(Frequency::HOUR, &weight(0.25), 0, 9 * HOUR, None, &[]);
        let mut builder = HistoryBuilder::new(Frequency::HOUR, TimeZone::UTC, 0);
        for rows in context.sql(&query).await.unwrap().collect().await.unwrap() {
            builder.add(&rows).unwrap();
        }
        let found: Vec<Vec<f32>> = builder.finish().0.panel.series.into_iter().map(|s| s.weights).collect();
        // Where all count alike there is nothing to remember.
        assert_eq!(found, [vec![1.0, 0.25, 0.25], vec![], vec![0.8125, 1.0]]);
    }

    proptest! {
        #[test]
        fn the_order_of_rows_does_not_matter(steps in proptest::collection::btree_set(0i64..200, 1..60), seed in any::<u64>()) {
            let zone = TimeZone::get("Europe/Berlin").unwrap();
            let base = Frequency::Day.floor(1_700_000_000_000_000, &zone);
            let in_order: Vec<(&str, Micros, f64)> =
                steps.iter().map(|s| ("a", Frequency::Day.advance(base, *s, &zone), *s as f64)).collect();
            let mut shuffled = in_order.clone();
            let mut state = seed | 1;
            for i in (1..shuffled.len()).rev() {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                shuffled.swap(i, (state >> 33) as usize % (i + 1));
            }
            let mut builder = HistoryBuilder::new(Frequency::Day, zone.clone(), base);
            for chunk in shuffled.chunks(7) {
                builder.add(&rows(chunk)).unwrap();
            }
            let (history, off_grid) = builder.finish();
            prop_assert_eq!(off_grid, 0);
            let series = &history.panel.series[0];
            for (i, value) in series.values.iter().enumerate() {
                let start = Frequency::Day.advance(series.start, i as i64, &zone);
                let there = in_order.iter().find(|r| r.1 == start).map(|r| r.2 as f32);
                prop_assert_eq!((!value.is_nan()).then_some(*value), there);
            }
        }
    }
}
