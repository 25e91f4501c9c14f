//! Arrow schemas of the lake's tables. Instants are µs with zone UTC; energy is kWh per interval.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use crate::quantiles;

/// Name of the table of truth.
pub const INTERVALS: &str = "intervals";
/// Name of the table of forecasts.
pub const FORECASTS: &str = "forecasts";
/// Name of the table of samples and registers.
pub const SAMPLES: &str = "samples";
/// Name of the table of records that could not be read.
pub const DEAD_LETTERS: &str = "dead_letters";

/// Partition columns of [`INTERVALS`]: `month` (`2024-01`, UTC month of `start`) and `layer`.
pub const INTERVALS_PARTITION: [&str; 2] = ["month", "layer"];
/// Partition columns of [`SAMPLES`]: `month` (UTC month of `at`).
pub const SAMPLES_PARTITION: [&str; 1] = ["month"];
/// Partition columns of [`FORECASTS`].
pub const FORECASTS_PARTITION: [&str; 1] = ["group_id"];

/// Layer of rows that are the first of their interval: unique by (series_id, start, end).
pub const LAYER_BASE: &str = "base";
/// Layer of rows that may revise another row; among rows of one interval the greatest position wins.
pub const LAYER_REVISION: &str = "rev";
/// Layer of rows that lost against a row of their interval: history, which `intervals` need not read.
pub const LAYER_OLD: &str = "old";

/// Data type of instants.
pub fn instant() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn field(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, false)
}

/// One row is one revision of one interval of one series; one whose `count` is 0 takes the interval's value away.
/// `position_timestamp`, `partition` and `offset` are the [`crate::reading::Position`] of the reading that caused it.
///
/// A roll-up's rows have partition −2, and say what they are made of (null for all others): seconds that are `present`
/// and that are `expected`, summed over the series of the group, and the intervals in it that are `measured`,
/// `estimated` and `substituted`.
pub fn intervals() -> SchemaRef {
    Arc::new(Schema::new(vec![
        field("series_id", DataType::Utf8),
        field("start", instant()),
        field("end", instant()),
        field("frequency", DataType::Utf8),
        field("value", DataType::Float64),
        field("unit", DataType::Utf8),
        field("count", DataType::Int32),
        field("quality", DataType::Utf8),
        field("feed", DataType::Utf8),
        field("position_timestamp", DataType::Int64),
        field("partition", DataType::Int32),
        field("offset", DataType::Int64),
        Field::new("present", DataType::Int64, true),
        Field::new("expected", DataType::Int64, true),
        Field::new("measured", DataType::Int64, true),
        Field::new("estimated", DataType::Int64, true),
        Field::new("substituted", DataType::Int64, true),
        field("month", DataType::Utf8),
        field("layer", DataType::Utf8),
    ]))
}

/// One row is one reading of a gauge or a counter: what an interval was computed from, for when another one comes late.
/// Among rows of one series and instant the greatest position wins.
pub fn samples() -> SchemaRef {
    Arc::new(Schema::new(vec![
        field("series_id", DataType::Utf8),
        field("at", instant()),
        field("value", DataType::Float64),
        field("unit", DataType::Utf8),
        field("quality", DataType::Utf8),
        field("feed", DataType::Utf8),
        field("position_timestamp", DataType::Int64),
        field("partition", DataType::Int32),
        field("offset", DataType::Int64),
        field("month", DataType::Utf8),
    ]))
}

/// One row is one forecast interval of one series from one origin. `scale` is the in-sample mean absolute error of
/// seasonal naive, the denominator of MASE (null where the context is too short). `substituted` marks seasonal naive
/// standing in for a model; `model_version` is then `seasonal_naive`. `decision` is the forecast that costs least by
/// `cost_under` and `cost_over`, the policy's at the time; the median where these are null, as it had none. Files of
/// before there were these columns have null in all three.
pub fn forecasts() -> SchemaRef {
    let mut fields = vec![
        field("series_id", DataType::Utf8),
        field("origin", instant()),
        field("start", instant()),
        field("end", instant()),
        field("step", DataType::Int32),
        field("mean", DataType::Float64),
    ];
    // The deciles were there from the beginning. What has come since is null in rows of before.
    let decile = |name: &str| !name.contains('_') && name.ends_with('0');
    fields.extend(quantiles::COLUMNS.map(|name| Field::new(name, DataType::Float64, !decile(name))));
    fields.extend(["decision", "cost_under", "cost_over"].map(|name| Field::new(name, DataType::Float64, true)));
    fields.extend([
        field("unit", DataType::Utf8),
        Field::new("scale", DataType::Float64, true),
        field("model_version", DataType::Utf8),
        field("substituted", DataType::Boolean),
        field("run_id", DataType::Utf8),
        field("intervals_version", DataType::Int64),
        field("watermark", instant()),
        field("frequency", DataType::Utf8),
        field("group_id", DataType::Utf8),
    ]);
    Arc::new(Schema::new(fields))
}

/// One row is one record that could not be read, with the reason and its raw bytes (the first 64 KiB of them); or a
/// reading that could not be used, without them: its partition and offset name the record.
/// `timestamp` is that of the record; where it has none, or one that cannot be right, that of the commit.
pub fn dead_letters() -> SchemaRef {
    Arc::new(Schema::new(vec![
        field("feed", DataType::Utf8),
        field("topic", DataType::Utf8),
        field("partition", DataType::Int32),
        field("offset", DataType::Int64),
        field("timestamp", instant()),
        Field::new("key", DataType::Binary, true),
        Field::new("payload", DataType::Binary, true),
        field("reason", DataType::Utf8),
        field("detail", DataType::Utf8),
    ]))
}
