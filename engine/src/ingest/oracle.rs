//! What `intervals` must hold, in SQL over the log of all readings, for tests: written from what the tables promise,
//! with nothing of the code that keeps them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{Float64Type, Int32Type, TimestampMicrosecondType};
use datafusion::prelude::{SessionConfig, SessionContext};
use jiff::tz::TimeZone;
use meterline_schemas::config::Label;
use meterline_schemas::reading::{Position, Quality, ValueKind};
use meterline_schemas::time::SECOND;
use meterline_schemas::{Frequency, Micros};

/// One record of the log.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) series: String,
    pub(super) at: Micros,
    pub(super) value: f64,
    /// As readings give it: `kW` of an interval becomes energy, all else stays.
    pub(super) unit: &'static str,
    pub(super) quality: Quality,
    pub(super) position: Position,
}

/// An interval by series, start and end.
pub(super) type Key = (String, Micros, Micros);
/// Value, number of readings, and quality.
pub(super) type Content = (f64, i32, Quality);

/// The log with each stamp in local time and the worst quality as the greatest number.
const LOG: &str = "
log AS (
    SELECT series, at AT TIME ZONE '{zone}' AS at, value, unit, sent, kafka_partition, kafka_offset,
           CASE quality WHEN 'measured' THEN 0 WHEN 'estimated' THEN 1 ELSE 2 END AS rank
    FROM raw
)";

/// Of each boundary the newest reading: meter clocks are a little off it.
const BOUNDARIES: &str = "
placed AS (SELECT *, {floor(at + INTERVAL '5 minutes')} AS boundary FROM log),
ranked AS (
    SELECT *, row_number() OVER (
        PARTITION BY series, boundary ORDER BY sent DESC, kafka_partition DESC, kafka_offset DESC) AS place
    FROM placed
),
newest AS (SELECT series, boundary, value, unit, rank FROM ranked WHERE place = 1)";

/// One reading is one interval, of power its energy.
const INTERVAL: &str = "
bounds AS (
    SELECT series, value, unit, rank,
           CASE WHEN {begins} THEN boundary ELSE boundary - {step} END AS first,
           CASE WHEN {begins} THEN boundary + {step} ELSE boundary END AS last
    FROM newest
)
SELECT series, first, last,
       CASE unit WHEN 'kW' THEN value * (to_unixtime(last) - to_unixtime(first)) / 3600 ELSE value END AS value,
       1 AS readings, rank
FROM bounds";

/// An interval is the mean of the samples in it; of those with one stamp the newest counts.
const GAUGE: &str = "
ranked AS (
    SELECT *, row_number() OVER (
        PARTITION BY series, at ORDER BY sent DESC, kafka_partition DESC, kafka_offset DESC) AS place
    FROM log
),
placed AS (
    SELECT series, value, rank,
           CASE WHEN {begins} THEN {floor(at)} ELSE {floor(at - INTERVAL '1 microsecond')} END AS first
    FROM ranked WHERE place = 1
)
SELECT series, first, first + {step} AS last, avg(value) AS value, count(*) AS readings, max(rank) AS rank
FROM placed GROUP BY series, first";

/// An interval is the difference of the registers at its two ends, unless it is negative.
const COUNTER: &str = "
SELECT earlier.series AS series, earlier.boundary AS first, later.boundary AS last,
       later.value - earlier.value AS value, 2 AS readings, greatest(earlier.rank, later.rank) AS rank
FROM newest AS earlier
JOIN newest AS later ON later.series = earlier.series AND later.boundary = earlier.boundary + {step}
WHERE later.value >= earlier.value";

/// What the intervals of `log` must be where it is all that was read of a feed with these rules.
pub(super) async fn intervals(
    log: &[Entry],
    kind: ValueKind,
    label: Label,
    frequency: Frequency,
    zone: &TimeZone,
) -> BTreeMap<Key, Content> {
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
    context.register_batch("raw", table(log)).unwrap();
    let rows = context.sql(&query(kind, label, frequency, zone)).await.unwrap().collect().await.unwrap();
    let mut found = BTreeMap::new();
    for rows in rows {
        let series = rows.column(0).as_string::<i32>();
        let [first, last] = [1, 2].map(|column| rows.column(column).as_primitive::<TimestampMicrosecondType>());
        let value = rows.column(3).as_primitive::<Float64Type>();
        let [readings, rank] = [4, 5].map(|column| rows.column(column).as_primitive::<Int32Type>());
        for row in 0..rows.num_rows() {
            let quality = match rank.value(row) {
                0 => Quality::Measured,
                1 => Quality::Estimated,
                _ => Quality::Substituted,
            };
            let key = (series.value(row).to_owned(), first.value(row), last.value(row));
            let twice = found.insert(key, (value.value(row), readings.value(row), quality));
            assert_eq!(twice, None, "the oracle has an interval twice");
        }
    }
    found
}

fn table(log: &[Entry]) -> RecordBatch {
    let at = TimestampMicrosecondArray::from_iter_values(log.iter().map(|entry| entry.at)).with_timezone("UTC");
    let columns: [(&str, ArrayRef); 8] = [
        ("series", Arc::new(StringArray::from_iter_values(log.iter().map(|entry| &entry.series)))),
        ("at", Arc::new(at)),
        ("value", Arc::new(Float64Array::from_iter_values(log.iter().map(|entry| entry.value)))),
        ("unit", Arc::new(StringArray::from_iter_values(log.iter().map(|entry| entry.unit)))),
        ("quality", Arc::new(StringArray::from_iter_values(log.iter().map(|entry| entry.quality.as_str())))),
        ("sent", Arc::new(Int64Array::from_iter_values(log.iter().map(|entry| entry.position.timestamp_ms)))),
        ("kafka_partition", Arc::new(Int32Array::from_iter_values(log.iter().map(|entry| entry.position.partition)))),
        ("kafka_offset", Arc::new(Int64Array::from_iter_values(log.iter().map(|entry| entry.position.offset)))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn query(kind: ValueKind, label: Label, frequency: Frequency, zone: &TimeZone) -> String {
    let (unit, step) = match frequency {
        Frequency::Day => ("day", "INTERVAL '1 day'".to_owned()),
        Frequency::Week => ("week", "INTERVAL '7 days'".to_owned()),
        Frequency::Month => ("month", "INTERVAL '1 month'".to_owned()),
        fixed => ("", format!("INTERVAL '{} seconds'", fixed.nominal_micros() / SECOND)),
    };
    let floor = |instant: &str| match unit {
        "" => format!("date_bin({step}, {instant})"),
        unit => format!("date_trunc('{unit}', {instant})"),
    };
    let text = match kind {
        ValueKind::Interval => format!("WITH {LOG},{BOUNDARIES},{INTERVAL}"),
        ValueKind::Gauge => format!("WITH {LOG},{GAUGE}"),
        ValueKind::Counter => format!("WITH {LOG},{BOUNDARIES}{COUNTER}"),
    };
    let text = ["at", "at + INTERVAL '5 minutes'", "at - INTERVAL '1 microsecond'"]
        .into_iter()
        .fold(text, |text, instant| text.replace(&format!("{{floor({instant})}}"), &floor(instant)));
    let text = text.replace("{zone}", zone.iana_name().unwrap()).replace("{step}", &step);
    let text = text.replace("{begins}", if label == Label::Begin { "true" } else { "false" });
    format!(
        "SELECT series, arrow_cast(first, 'Timestamp(Microsecond, Some(\"UTC\"))'), \
         arrow_cast(last, 'Timestamp(Microsecond, Some(\"UTC\"))'), CAST(value AS DOUBLE), CAST(readings AS INT), \
         CAST(rank AS INT) FROM ({text})"
    )
}
