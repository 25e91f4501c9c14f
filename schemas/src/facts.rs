//! Trigger facts: what a policy's predicates can look at.
//!
//! Each fact is defined once, in [`FACTS`]: its name, type and meaning. The SQL table `trigger_facts`, the
//! predicates' schema and the documentation all come from that list. Time in facts is *stream time* (the group's
//! origin), never the wall clock, so that a replay decides as the live stream did; but for `silent_hours`, which says how
//! far the two are apart.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One fact's definition.
#[derive(Debug, Clone, Copy)]
pub struct FactDefinition {
    /// Column name.
    pub name: &'static str,
    /// Column type.
    pub kind: FactKind,
    /// Meaning, with unit; when it is null.
    pub meaning: &'static str,
}

/// Type of a fact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FactKind {
    /// 64-bit integer.
    Integer,
    /// 64-bit float.
    Number,
    /// Boolean.
    Truth,
}

const fn fact(name: &'static str, kind: FactKind, meaning: &'static str) -> FactDefinition {
    FactDefinition { name, kind, meaning }
}

/// Every fact, in the order of the columns.
pub const FACTS: &[FactDefinition] = &[
    fact("series", FactKind::Integer, "series in the group"),
    fact("history_intervals", FactKind::Integer, "native intervals from the group's first interval to its origin"),
    fact(
        "history_needed",
        FactKind::Integer,
        "native intervals of history that the policy's kind of model needs to be trained on, with what evaluation keeps to itself",
    ),
    fact(
        "new_intervals",
        FactKind::Integer,
        "native intervals closed since the origin of this pipeline's last run that succeeded or is under way; all of the history if there is none, and 1 where only stragglers of closed intervals came",
    ),
    fact(
        "new_corrections",
        FactKind::Integer,
        "records since then that changed intervals of the group's series already written (where the group has roll-ups: of any series, which may be their parts); null if there was no run",
    ),
    fact(
        "hours_since_run",
        FactKind::Number,
        "stream hours since the origin of this pipeline's last run that succeeded or is under way; null if there is none",
    ),
    fact("hours_since_build", FactKind::Number, "the same of the last build, whichever pipeline the row is about"),
    fact("hours_since_infer", FactKind::Number, "the same of the last infer run"),
    fact("has_champion", FactKind::Truth, "an approved model version serves this group"),
    fact(
        "champion_is_new",
        FactKind::Truth,
        "another model serves than the one that made the newest forecast: it was approved, rejected or rolled back since",
    ),
    fact(
        "champion_age_intervals",
        FactKind::Integer,
        "native intervals closed since the champion's training data ended; null without a champion",
    ),
    fact(
        "completeness",
        FactKind::Number,
        "share of the expected intervals of the recent context (up to 96 intervals per series) that are there, 0 to 1",
    ),
    fact(
        "mase_ratio",
        FactKind::Number,
        "MASE of the champion's scored forecasts over its MASE at registration, over the last horizon; null until half a horizon is scored",
    ),
    fact(
        "coverage",
        FactKind::Number,
        "share of scored actuals inside the forecasts' 80 % interval, 0 to 1, over the last horizon; null until half a horizon is scored",
    ),
    fact("coverage_near", FactKind::Number, "the same in the first half of the horizon"),
    fact("coverage_far", FactKind::Number, "the same in the second half of the horizon"),
    fact(
        "substituted_share",
        FactKind::Number,
        "share of the newest forecasts that seasonal naive stood in for; null before the first forecast",
    ),
    fact(
        "input_shift",
        FactKind::Number,
        "population stability index of the values of the last context against those of the context before the champion's training data ended, of each series standardised by the latter, computed once in a season: below 0.1 little has changed, above 0.25 much; null without a champion",
    ),
    fact("lag_records", FactKind::Integer, "records in Kafka that are not yet read"),
    fact("backfilling", FactKind::Truth, "the stream is catching up: lag_records is above ingest.catch_up_records"),
    fact(
        "silent_hours",
        FactKind::Number,
        "hours since the time stamp of the newest record of the group's feeds, by the clock; null where records have none. Looked at when something else changes: a silent stream closes no intervals",
    ),
    fact(
        "device_busy",
        FactKind::Truth,
        "all slots of this pipeline are taken: of builds those of device.slots, of infer runs and corrections the one",
    ),
    fact("failures_in_row", FactKind::Integer, "runs of this pipeline that failed since its last success"),
    fact(
        "retrain_gain",
        FactKind::Number,
        "by what part of the champion's wQL the last five builds were better than it, on average, in their evaluation; a rejected model gained 0; null before the first",
    ),
    fact(
        "retrain_gain_per_device_second",
        FactKind::Number,
        "the sum of these gains by the seconds for which these builds held the device",
    ),
];

/// Identity and values of one evaluation's facts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Model group.
    pub group_id: String,
    /// Trigger that the facts are about: `retrain`, `reforecast` or `correct`.
    pub pipeline: String,
    /// Values by name, as JSON scalars; a missing name is null.
    pub values: serde_json::Map<String, Value>,
}

/// Schema of [`FACTS`] alone, all nullable: what predicates are planned against.
pub fn fact_schema() -> SchemaRef {
    Arc::new(Schema::new(
        FACTS
            .iter()
            .map(|f| {
                let data_type = match f.kind {
                    FactKind::Integer => DataType::Int64,
                    FactKind::Number => DataType::Float64,
                    FactKind::Truth => DataType::Boolean,
                };
                Field::new(f.name, data_type, true)
            })
            .collect::<Vec<_>>(),
    ))
}
