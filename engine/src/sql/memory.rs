//! Tables that come from the committed state and the metadata database.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use meterline_models::explain::Explanation;
use meterline_schemas::Micros;

use crate::ingest::series::SeriesState;
use crate::ingest::state::{IngestState, PartitionState};
use crate::metadata::records::{DecisionRecord, ModelRecord, RunRecord, StepRecord};

/// A column: its name and values.
pub(super) type Column = (&'static str, ArrayRef);

pub(super) fn text<T: Into<String>>(name: &'static str, values: impl Iterator<Item = Option<T>>) -> Column {
    (name, Arc::new(values.map(|v| v.map(Into::into)).collect::<StringArray>()))
}

fn integer(name: &'static str, values: impl Iterator<Item = Option<i64>>) -> Column {
    (name, Arc::new(values.collect::<Int64Array>()))
}

fn number(name: &'static str, values: impl Iterator<Item = Option<f64>>) -> Column {
    (name, Arc::new(values.collect::<Float64Array>()))
}

fn truth(name: &'static str, values: impl Iterator<Item = Option<bool>>) -> Column {
    (name, Arc::new(values.collect::<BooleanArray>()))
}

pub(super) fn instant(name: &'static str, values: impl Iterator<Item = Option<Micros>>) -> Column {
    (name, Arc::new(values.collect::<TimestampMicrosecondArray>().with_timezone("UTC")))
}

pub(super) fn batch(columns: Vec<Column>) -> Result<RecordBatch, ArrowError> {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, values)| (name, values, true)))
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Series of one batch.
const SERIES: usize = 1 << 16;

/// The table of series, batch by batch: there may be many more than states fit into memory. Each batch is in the order
/// of feeds and identifiers.
#[derive(Debug, Default)]
pub(super) struct SeriesRows {
    waiting: Vec<SeriesState>,
    batches: Vec<Result<RecordBatch, ArrowError>>,
}

impl SeriesRows {
    /// Takes one more.
    pub(super) fn take(&mut self, series: SeriesState) {
        self.waiting.push(series);
        if self.waiting.len() == SERIES {
            self.end_batch();
        }
    }

    fn end_batch(&mut self) {
        self.waiting.sort_unstable_by(|a, b| (&a.feed, &a.id).cmp(&(&b.feed, &b.id)));
        self.batches.push(series(&self.waiting));
        self.waiting.clear();
    }

    /// The table of all that were taken.
    ///
    /// # Errors
    /// A fault of ours.
    pub(super) fn finish(mut self) -> Result<(SchemaRef, Vec<RecordBatch>), ArrowError> {
        self.end_batch();
        let batches = self.batches.into_iter().collect::<Result<Vec<RecordBatch>, ArrowError>>()?;
        Ok((series(&[])?.schema(), batches))
    }
}

/// What exists, at what frequency, since when, and how sure that is: the probability that the readings of a next
/// interval fit the frequency, as of when it was detected; 1 where it is declared.
fn series(series: &[SeriesState]) -> Result<RecordBatch, ArrowError> {
    let rows = || series.iter();
    batch(vec![
        text("series_id", rows().map(|s| Some(&*s.id))),
        text("feed", rows().map(|s| Some(&*s.feed))),
        text("frequency", rows().map(|s| s.frequency.map(|f| f.to_string()))),
        truth("declared", rows().map(|s| Some(s.declared))),
        instant("since", rows().map(|s| s.since())),
        number("confidence", rows().map(|s| s.frequency.map(|_| f64::from(s.confidence) / 100.0))),
        text("unit", rows().map(|s| Some(s.unit.to_string()))),
        instant("first_start", rows().map(|s| s.first_ever())),
        instant("last_start", rows().map(|s| s.last_start)),
        integer("intervals", rows().map(|s| Some(signed(s.intervals_ever())))),
        integer("corrections", rows().map(|s| Some(i64::from(s.corrections)))),
        integer("pending", rows().map(|s| Some(s.extra().pending.len() as i64))),
    ])
}

/// One row a feed, with the sums of its partitions.
pub(super) fn feeds(state: &IngestState) -> Result<RecordBatch, ArrowError> {
    let rows = || state.feeds.iter();
    let sum = |name: &'static str, of: fn(&crate::ingest::state::Counts) -> u64| {
        integer(name, rows().map(move |(_, f)| Some(f.partitions.values().map(|p| signed(of(&p.counts))).sum())))
    };
    batch(vec![
        text("feed", rows().map(|(name, _)| Some(name.as_str()))),
        text("topic", rows().map(|(_, f)| Some(f.topic.as_str()))),
        instant("watermark", rows().map(|(_, f)| f.watermark)),
        instant("newest_interval", rows().map(|(_, f)| f.newest)),
        number("records_per_second", rows().map(|(_, f)| Some(f.records_per_second))),
        integer("lag_records", rows().map(|(_, f)| Some(f.partitions.values().map(PartitionState::lag).sum()))),
        sum("records", |c| c.records),
        sum("accepted", |c| c.accepted),
        sum("corrected", |c| c.corrected),
        sum("duplicate", |c| c.duplicate),
        sum("dead", |c| c.dead),
        sum("pending", |c| c.pending),
        sum("late", |c| c.late),
        integer("gaps", rows().map(|(_, f)| Some(f.partitions.values().map(|p| signed(p.gaps)).sum()))),
        integer("expired", rows().map(|(_, f)| Some(f.partitions.values().map(|p| signed(p.expired)).sum()))),
        integer("commit_seq", rows().map(|_| Some(state.seq))),
        instant("committed_at", rows().map(|_| Some(state.committed_at))),
    ])
}

/// One row a partition. `records` = accepted + corrected + duplicate + dead + pending, and
/// `records` + `gaps` + `expired` = `earlier_offsets` + `next_offset` - `first_offset`.
pub(super) fn partitions(state: &IngestState) -> Result<RecordBatch, ArrowError> {
    let rows = || state.feeds.iter().flat_map(|(name, f)| f.partitions.iter().map(move |(id, p)| (name, f, *id, p)));
    let count = |name: &'static str, of: fn(&crate::ingest::state::Counts) -> u64| {
        integer(name, rows().map(move |(_, _, _, p)| Some(signed(of(&p.counts)))))
    };
    batch(vec![
        text("feed", rows().map(|(name, ..)| Some(name.as_str()))),
        text("topic", rows().map(|(_, f, ..)| Some(f.topic.as_str()))),
        integer("partition", rows().map(|(_, _, id, _)| Some(i64::from(id)))),
        integer("incarnation", rows().map(|(.., p)| Some(i64::from(p.incarnation)))),
        integer("earlier_offsets", rows().map(|(.., p)| Some(p.earlier))),
        integer("first_offset", rows().map(|(.., p)| Some(p.first_offset))),
        integer("next_offset", rows().map(|(.., p)| Some(p.next_offset))),
        integer("end_offset", rows().map(|(.., p)| Some(p.end_offset))),
        integer("lag_records", rows().map(|(.., p)| Some(p.lag()))),
        instant("watermark", rows().map(|(.., p)| p.watermark)),
        instant("newest_interval", rows().map(|(.., p)| p.newest)),
        instant("newest_record", rows().map(|(.., p)| p.newest_record)),
        count("records", |c| c.records),
        count("accepted", |c| c.accepted),
        count("corrected", |c| c.corrected),
        count("duplicate", |c| c.duplicate),
        count("dead", |c| c.dead),
        count("pending", |c| c.pending),
        count("late", |c| c.late),
        integer("gaps", rows().map(|(.., p)| Some(signed(p.gaps)))),
        integer("expired", rows().map(|(.., p)| Some(signed(p.expired)))),
    ])
}

/// The model registry; `metrics` is JSON. `alias` says which version serves (`champion`), which served before it
/// (`previous`) and which waits for a person (`challenger`).
pub(super) fn models(records: &[ModelRecord]) -> Result<RecordBatch, ArrowError> {
    let rows = || records.iter();
    batch(vec![
        text("version", rows().map(|m| Some(m.version.as_str()))),
        text("group_id", rows().map(|m| Some(m.group_id.as_str()))),
        text("alias", rows().map(|m| crate::metadata::alias(records, m))),
        text("approval", rows().map(|m| Some(m.approval.as_str()))),
        text("approval_reason", rows().map(|m| Some(m.approval_reason.as_str()))),
        text("forecaster", rows().map(|m| Some(m.forecaster.as_str()))),
        text("run_id", rows().map(|m| Some(m.run_id.as_str()))),
        text("artifact", rows().map(|m| Some(m.artifact.as_str()))),
        instant("trained_until", rows().map(|m| Some(m.trained_until))),
        integer("intervals_version", rows().map(|m| Some(m.intervals_version))),
        number("wql", rows().map(|m| m.metrics.get("wql")?.as_f64())),
        number("naive_wql", rows().map(|m| m.metrics.get("naive_wql")?.as_f64())),
        text("metrics", rows().map(|m| serde_json::to_string(&m.metrics).ok())),
        instant("created_at", rows().map(|m| Some(m.created_at))),
    ])
}

/// What each model version says of itself, a row a term. `series_id`, `level` and the range of steps are null where a row
/// is about all of them.
pub(super) fn explanations(versions: &[(String, Vec<Explanation>)]) -> Result<RecordBatch, ArrowError> {
    let rows = || versions.iter().flat_map(|(version, rows)| rows.iter().map(move |row| (version.as_str(), row)));
    let step = |step: usize| i64::try_from(step).ok();
    batch(vec![
        text("version", rows().map(|(version, _)| Some(version))),
        text("model", rows().map(|(_, row)| Some(row.model.as_str()))),
        text("part", rows().map(|(_, row)| Some(row.part.as_str()))),
        text("series_id", rows().map(|(_, row)| row.series.as_deref())),
        number("level", rows().map(|(_, row)| row.level)),
        integer("first_step", rows().map(|(_, row)| step(row.steps?.0))),
        integer("last_step", rows().map(|(_, row)| step(row.steps?.1))),
        text("term", rows().map(|(_, row)| Some(row.term.as_str()))),
        number("value", rows().map(|(_, row)| Some(row.value))),
    ])
}

/// All runs.
pub(super) fn runs(records: &[RunRecord]) -> Result<RecordBatch, ArrowError> {
    let rows = || records.iter();
    batch(vec![
        text("run_id", rows().map(|r| Some(r.spec.run_id.as_str()))),
        text("pipeline", rows().map(|r| Some(r.spec.pipeline.as_str()))),
        text("group_id", rows().map(|r| Some(r.spec.group_id.as_str()))),
        text("status", rows().map(|r| Some(r.status.as_str()))),
        text("cause", rows().map(|r| Some(r.cause.as_str()))),
        text("decision_id", rows().map(|r| r.decision_id.as_deref())),
        instant("origin", rows().map(|r| Some(r.spec.origin))),
        integer("intervals_version", rows().map(|r| Some(r.spec.intervals_version))),
        text("model_version", rows().map(|r| r.model_version.as_deref())),
        integer("attempts", rows().map(|r| Some(r.attempts))),
        number("device_seconds", rows().map(|r| Some(r.device_seconds))),
        text("error", rows().map(|r| r.error.as_deref())),
        instant("created_at", rows().map(|r| Some(r.created_at))),
        instant("started_at", rows().map(|r| r.started_at)),
        instant("finished_at", rows().map(|r| r.finished_at)),
    ])
}

/// All steps; `output` is JSON.
pub(super) fn steps(records: &[StepRecord]) -> Result<RecordBatch, ArrowError> {
    let rows = || records.iter();
    batch(vec![
        text("run_id", rows().map(|s| Some(s.run_id.as_str()))),
        integer("ordinal", rows().map(|s| Some(s.ordinal))),
        text("step", rows().map(|s| Some(s.step.as_str()))),
        text("status", rows().map(|s| Some(s.status.as_str()))),
        instant("started_at", rows().map(|s| s.started_at)),
        instant("finished_at", rows().map(|s| s.finished_at)),
        text("output", rows().map(|s| Some(s.output.to_string()))),
        text("error", rows().map(|s| s.error.as_deref())),
    ])
}

/// Trigger decisions; `clauses` and `facts` are JSON.
pub(super) fn decisions(records: &[DecisionRecord]) -> Result<RecordBatch, ArrowError> {
    let rows = || records.iter();
    batch(vec![
        text("decision_id", rows().map(|d| Some(d.decision_id.as_str()))),
        text("group_id", rows().map(|d| Some(d.group_id.as_str()))),
        text("pipeline", rows().map(|d| Some(d.pipeline.trigger()))),
        integer("commit_seq", rows().map(|d| Some(d.commit_seq))),
        instant("origin", rows().map(|d| Some(d.origin))),
        instant("at", rows().map(|d| Some(d.at))),
        truth("fired", rows().map(|d| Some(d.fired))),
        text("reason", rows().map(|d| Some(d.reason.as_str()))),
        text("clauses", rows().map(|d| serde_json::to_string(&d.clauses).ok())),
        text("facts", rows().map(|d| serde_json::to_string(&d.facts.values).ok())),
        text("run_id", rows().map(|d| d.run_id.as_deref())),
    ])
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;
    use meterline_schemas::unit::Unit;

    use super::*;
    use crate::ingest::state::{Counts, FeedState};

    fn state() -> IngestState {
        let partition = |next_offset, end_offset| PartitionState {
            next_offset,
            end_offset,
            watermark: Some(7),
            counts: Counts { records: 6, accepted: 1, corrected: 1, duplicate: 1, dead: 1, pending: 2, late: 1 },
            gaps: 3,
            ..PartitionState::default()
        };
        let partitions = [(0, partition(10, 15)), (1, partition(8, 8)), (-1, partition(3, 0))].into_iter().collect();
        let feed = FeedState { topic: "readings".into(), partitions, ..FeedState::default() };
        IngestState { seq: 4, feeds: [("meters".to_owned(), feed)].into_iter().collect(), ..IngestState::default() }
    }

    fn numbers(batch: &RecordBatch, column: &str) -> Vec<i64> {
        batch.column_by_name(column).unwrap().as_primitive::<Int64Type>().values().to_vec()
    }

    #[test]
    fn a_feed_is_the_sum_of_its_partitions_and_lag_is_never_negative() {
        let (feeds, partitions) = (feeds(&state()).unwrap(), partitions(&state()).unwrap());
        assert_eq!(numbers(&partitions, "partition"), [-1, 0, 1]);
        assert_eq!(numbers(&partitions, "lag_records"), [0, 5, 0]);
        assert_eq!(numbers(&feeds, "lag_records"), [5]);
        for column in ["records", "accepted", "corrected", "duplicate", "dead", "pending", "late", "gaps", "expired"] {
            assert_eq!(numbers(&feeds, column)[0], numbers(&partitions, column).iter().sum::<i64>(), "{column}");
        }
        assert_eq!(numbers(&feeds, "commit_seq"), [4]);
    }

    #[test]
    fn series_come_in_batches_that_are_in_order() {
        let rows = |count: usize| {
            let mut rows = SeriesRows::default();
            (0..count).rev().for_each(|i| rows.take(SeriesState::new("meters", &format!("m{i:06}"), Unit::KWH)));
            let (schema, batches) = rows.finish().unwrap();
            assert!(batches.iter().all(|batch| batch.schema() == schema));
            let ids = batches.iter().map(|batch| batch.column_by_name("series_id").unwrap().as_string::<i32>().clone());
            ids.map(|ids| ids.iter().flatten().map(str::to_owned).collect::<Vec<String>>()).collect::<Vec<_>>()
        };
        assert_eq!(rows(0), [Vec::<String>::new()]);
        assert_eq!(rows(2), [["m000000", "m000001"]]);
        let many = rows(SERIES + 1);
        assert_eq!(many.iter().map(Vec::len).collect::<Vec<_>>(), [SERIES, 1]);
        assert!(many[0].is_sorted() && many[0][0] == "m000001" && many[1][0] == "m000000");
    }

    #[test]
    fn a_series_without_intervals_has_nulls_where_nothing_is_known() {
        let series = series(&[SeriesState::new("meters", "m1", Unit::KWH)]).unwrap();
        assert_eq!(series.num_rows(), 1);
        for column in ["frequency", "since", "confidence", "first_start", "last_start"] {
            assert!(series.column_by_name(column).unwrap().is_null(0), "{column}");
        }
        assert_eq!(numbers(&series, "intervals"), [0]);
    }
}
