//! Intervals of one group on a regular grid: from rows in any order to a [`Panel`].

#[cfg(test)]
mod tests;

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
use meterline_schemas::config::{Config, ResolvedPolicy, without_label};
use meterline_schemas::reading::Quality;
use meterline_schemas::tables;
use meterline_schemas::time::format_micros;
use meterline_schemas::unit::Unit;
use meterline_schemas::{Frequency, Micros};

use super::context::StepContext;
use super::covariates;
use super::error::{Doing, StepError};
use super::members::Members;
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
    members: Members,
    // The last series that is not among them.
    other: Option<String>,
    // The unit of those that are energy.
    energy: String,
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
        HistoryBuilder {
            frequency,
            zone,
            base,
            places: HashMap::new(),
            series: Vec::new(),
            off_grid: 0,
            members: Members::default(),
            other: None,
            energy: Unit::KWH.to_string(),
        }
    }

    /// Takes the rows of these series alone.
    pub fn only(self, members: Members) -> HistoryBuilder {
        HistoryBuilder { members, ..self }
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
                _ if self.is_of_others(id) => continue,
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

    fn is_of_others(&mut self, id: &str) -> bool {
        if self.other.as_deref() == Some(id) {
            return true;
        }
        if self.members.has(id) {
            return false;
        }
        self.other = Some(id.to_owned());
        true
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
            let signed = partial.unit != self.energy;
            series.push(Series { weights: partial.weights, signed, ..Series::new(partial.id, start, partial.values) });
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
    // Where there is a place, there is more to be learned.
    let task = Task { location: policy.location, ..Task::new(policy.horizon, policy.context, policy.seed) };
    let of_kind = registry::find(&policy.model).map_or(0, |kind| kind.needs(&panel, &task));
    policy.history_least().max(of_kind + policy.evaluate_windows * policy.horizon)
}

/// Intervals before the origin that a build is trained on and evaluated by: those of the policy, or what it needs, where
/// that is more.
pub fn trained(spec: &RunSpec, zone: &TimeZone) -> usize {
    spec.policy.history.max(needed(&spec.policy, zone, covariates::of(&spec.covariates)))
}

/// Of which series intervals are read.
#[derive(Debug, Clone, Copy)]
pub enum Of<'a> {
    /// All of the run's group.
    Group(&'a Members),
    /// These.
    Series(&'a [String]),
}

/// Series that are named in a query; those of a larger group are told apart once they are read.
const NAMED_MAX: usize = 1_000;

/// Reads intervals of the group's frequency and calendar with `from <= start` and `end <= until`, and none that ends after
/// the origin, at the run's pinned version.
pub async fn read(ctx: &StepContext, from: Micros, until: Micros, of: Of<'_>) -> Result<History, StepError> {
    read_at(ctx, ctx.spec.intervals_version, from, until, of).await
}

/// The same at another version of the table.
pub async fn read_at(
    ctx: &StepContext,
    version: i64,
    from: Micros,
    until: Micros,
    of: Of<'_>,
) -> Result<History, StepError> {
    let spec = &ctx.spec;
    let doing = || format!("reading intervals of {} at version {version}", spec.frequency);
    let versions = TableVersions { intervals: Some(version) };
    let weight = weight(spec.policy.estimated_weight);
    let (named, members) = match of {
        Of::Group(members) => (members.named().filter(|named| named.len() <= NAMED_MAX), members.clone()),
        Of::Series(series) => (Some(series.to_vec()), Members::default()),
    };
    let query = query(
        spec.frequency,
        &weight,
        from,
        until.min(spec.origin),
        named.as_deref(),
        &other_feeds(&ctx.env.config, spec.frequency, &spec.group_id),
    );
    let mut stream = sql::plan(&ctx.env, &query, versions).await.doing(doing)?.execute_stream().await.doing(doing)?;
    let mut builder = HistoryBuilder::new(spec.frequency, ctx.zone()?, from).only(members);
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

/// The feeds whose series of a frequency are in another group than `group`, because their calendar is another. (Which series
/// of the same calendar are in one is for [`Members`] to say.)
pub fn other_feeds(config: &Config, frequency: Frequency, group: &str) -> Vec<String> {
    let (names, all) = (Names::of(config), without_label(group));
    let feeds = names.series_feeds(config).filter(|feed| group_id(frequency, feed.zone) != all);
    feeds.map(|feed| names.name(feed.number).to_owned()).collect()
}

/// What an interval counts in training, as SQL; of a roll-up's, the part that was estimated or substituted counts less.
pub fn weight(of_estimated: f64) -> String {
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
    condition.push_str(&but(others));
    condition
}

/// What a condition, in SQL, has behind it to leave out feeds of another calendar ([`other_feeds`]).
pub fn but(others: &[String]) -> String {
    if others.is_empty() { String::new() } else { format!(" AND feed NOT IN ({})", sql::literals(others)) }
}
