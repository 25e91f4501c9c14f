//! Tables that are computed from others, as SQL.

use meterline_schemas::quantiles::{COLUMNS, LEVELS};

/// The latest revision of every interval: base rows that no revision touches, and of the touched intervals the row with
/// the greatest position. Reads `intervals_base` and `intervals_rev`.
pub(super) fn intervals() -> String {
    let columns = "series_id, start, \"end\", frequency, value, unit, count, quality, feed, position_timestamp, \
                   partition, \"offset\", month";
    format!(
        "SELECT {columns} FROM intervals_base b WHERE NOT EXISTS \
           (SELECT 1 FROM intervals_rev r WHERE r.series_id = b.series_id AND r.start = b.start) \
         UNION ALL \
         SELECT {columns} FROM (SELECT {columns}, row_number() OVER (PARTITION BY series_id, start \
             ORDER BY position_timestamp DESC, partition DESC, \"offset\" DESC) AS revision FROM \
           (SELECT {columns} FROM intervals_rev UNION ALL \
            SELECT {columns} FROM intervals_base b WHERE EXISTS \
              (SELECT 1 FROM intervals_rev r WHERE r.series_id = b.series_id AND r.start = b.start))) \
         WHERE revision = 1"
    )
}

/// The same where there are no revisions: a plain scan.
pub(super) const INTERVALS_WITHOUT_REVISIONS: &str = "SELECT series_id, start, \"end\", frequency, value, unit, count, \
     quality, feed, position_timestamp, partition, \"offset\", month FROM intervals_base";

/// All revisions.
pub(super) const INTERVAL_REVISIONS: &str = "SELECT * FROM intervals_base UNION ALL SELECT * FROM intervals_rev";

/// Of each series the forecast from its newest origin, and of several from that origin the newest run's.
pub(super) const FORECASTS_LATEST: &str = "SELECT f.* FROM forecasts f JOIN \
     (SELECT series_id AS newest_series, origin AS newest_origin, run_id AS newest_run FROM \
       (SELECT series_id, origin, run_id, row_number() OVER (PARTITION BY series_id ORDER BY origin DESC, run_id DESC) \
          AS age FROM (SELECT DISTINCT series_id, origin, run_id FROM forecasts)) WHERE age = 1) \
     ON f.series_id = newest_series AND f.origin = newest_origin AND f.run_id = newest_run";

/// Forecasts against actuals, as they are known now: a correction changes its scores. `pinball` is twice the mean
/// pinball loss over the deciles, so that Σ pinball / Σ |actual| is the weighted quantile loss.
pub(super) fn forecast_scores() -> String {
    let terms: Vec<String> = LEVELS
        .iter()
        .zip(COLUMNS)
        .map(|(level, q)| {
            format!(
                "CASE WHEN i.value >= f.{q} THEN {level} * (i.value - f.{q}) ELSE {} * (f.{q} - i.value) END",
                // Decimal text of 1 - level without its rounding error.
                (1.0 - level).mul_add(10.0, 0.0).round() / 10.0
            )
        })
        .collect();
    format!(
        "SELECT f.series_id, f.group_id, f.origin, f.start, f.\"end\", f.step, i.value AS actual, f.mean, f.q50, \
           abs(i.value - f.q50) AS abs_error, 2.0 * ({}) / {} AS pinball, \
           i.value >= f.q10 AND i.value <= f.q90 AS covered_80, f.scale, \
           CASE WHEN f.scale > 0 THEN abs(i.value - f.q50) / f.scale END AS scaled_error, \
           f.model_version, f.substituted, f.run_id \
         FROM forecasts f JOIN intervals i ON f.series_id = i.series_id AND f.start = i.start",
        terms.join(" + "),
        LEVELS.len()
    )
}
