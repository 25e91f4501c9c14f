//! Tables that are computed from others, as SQL.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use meterline_models::metrics::is_decile;
use meterline_schemas::quantiles::{COLUMNS, LEVELS};
use meterline_schemas::{Micros, tables};

use super::layers::Layers;

/// Name in [`intervals`] of the base files that no revision concerns.
pub(super) const SETTLED: &str = "settled";
/// Name in [`intervals`] of the base files that revisions may concern.
pub(super) const REVISED: &str = "revised";
/// Name in [`intervals`] of the revisions.
pub(super) const REVISIONS: &str = "revisions";

/// The columns of `intervals` that rows have, in its order; of those that are stored only `layer` is not among them.
const INTERVALS_COLUMNS: [&str; 18] = [
    "series_id",
    "start",
    "end",
    "frequency",
    "value",
    "unit",
    "count",
    "quality",
    "feed",
    "position_timestamp",
    "partition",
    "offset",
    "month",
    "present",
    "expected",
    "measured",
    "estimated",
    "substituted",
];
/// The column of `intervals` that is computed. Of a roll-up: the share of the expected time for which there is a value.
const COMPLETENESS: &str = "completeness";

/// The columns of `intervals`, which are those of any [`intervals`].
pub(super) fn intervals_schema() -> SchemaRef {
    let stored = tables::intervals();
    let stored = INTERVALS_COLUMNS.iter().filter_map(|name| stored.field_with_name(name).ok().cloned());
    let computed = Field::new(COMPLETENESS, DataType::Float64, true);
    Arc::new(Schema::new(stored.chain([computed]).collect::<Vec<_>>()))
}

/// The latest revision of every interval: base rows that no revision touches, and of each touched interval the row with
/// the greatest position. Where there are no revisions, it is a plain scan. `month` follows from `start`; it is part of
/// the window so that filters by it reach the scans. With `known_by`, only rows that were known at that instant count.
pub(super) fn intervals(layers: &Layers, known_by: Option<Micros>) -> String {
    let known = |table: &str| match known_by {
        None => table.to_owned(),
        Some(at) => format!("(SELECT * FROM {table} WHERE position_timestamp <= {})", at.div_euclid(1_000)),
    };
    let (settled, revised, revisions) = (known(SETTLED), known(REVISED), known(REVISIONS));
    let columns = INTERVALS_COLUMNS.map(|name| format!("\"{name}\"")).join(", ");
    let shown =
        format!("{columns}, CASE WHEN expected > 0 THEN CAST(present AS DOUBLE) / expected END AS {COMPLETENESS}");
    // A row of no readings takes the value of its interval away.
    let settled = format!("SELECT {shown} FROM {settled} WHERE count > 0");
    if layers.revisions.is_empty() {
        return settled;
    }
    let touched = format!(
        "(SELECT 1 FROM {revisions} r WHERE r.series_id = b.series_id AND r.start = b.start AND r.\"end\" = b.\"end\")"
    );
    format!(
        "{settled} UNION ALL \
         SELECT {shown} FROM {revised} b WHERE count > 0 AND NOT EXISTS {touched} UNION ALL \
         SELECT {shown} FROM (SELECT {columns}, row_number() OVER (PARTITION BY series_id, start, \"end\", month \
             ORDER BY position_timestamp DESC, partition DESC, \"offset\" DESC) AS revision FROM \
           (SELECT {columns} FROM {revisions} UNION ALL \
            SELECT {columns} FROM {revised} b WHERE EXISTS {touched})) \
         WHERE revision = 1 AND count > 0"
    )
}

/// Of each series the forecast from its newest origin, and of several from that origin the newest run's.
pub(super) const FORECASTS_LATEST: &str = "SELECT f.* FROM forecasts f JOIN \
     (SELECT series_id AS newest_series, origin AS newest_origin, run_id AS newest_run FROM \
       (SELECT series_id, origin, run_id, row_number() OVER (PARTITION BY series_id ORDER BY origin DESC, run_id DESC) \
          AS age FROM (SELECT DISTINCT series_id, origin, run_id FROM forecasts)) WHERE age = 1) \
     ON f.series_id = newest_series AND f.origin = newest_origin AND f.run_id = newest_run";

/// Forecasts against actuals, as they are known now: a correction changes its scores. `pinball` is twice the mean
/// pinball loss over the deciles, so that Σ pinball / Σ |actual| is the weighted quantile loss. `cost` is that of the
/// decision, by the costs that the policy had when it was made; null where it had none.
pub(super) fn forecast_scores() -> String {
    let terms: Vec<String> = LEVELS
        .iter()
        // Levels are symmetrical: 1 − level, without its rounding error.
        .zip(LEVELS.iter().rev())
        .zip(COLUMNS)
        .filter(|((level, _), _)| is_decile(**level))
        .map(|((level, rest), q)| {
            format!("CASE WHEN i.value >= f.{q} THEN {level} * (i.value - f.{q}) ELSE {rest} * (f.{q} - i.value) END")
        })
        .collect();
    format!(
        "SELECT f.series_id, f.group_id, f.origin, f.start, f.\"end\", f.step, i.value AS actual, f.mean, f.q50, \
           abs(i.value - f.q50) AS abs_error, 2.0 * ({}) / {} AS pinball, \
           i.value >= f.q10 AND i.value <= f.q90 AS covered_80, \
           i.value >= f.q5 AND i.value <= f.q95 AS covered_90, f.scale, \
           CASE WHEN f.scale > 0 THEN abs(i.value - f.q50) / f.scale END AS scaled_error, f.decision, \
           CASE WHEN i.value >= f.decision THEN f.cost_under * (i.value - f.decision) \
             ELSE f.cost_over * (f.decision - i.value) END AS cost, \
           f.model_version, f.substituted, f.run_id \
         FROM forecasts f JOIN intervals i \
           ON f.series_id = i.series_id AND f.start = i.start AND f.\"end\" = i.\"end\"",
        terms.join(" + "),
        terms.len()
    )
}
