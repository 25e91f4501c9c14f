//! A published forecast beside what came true, and beside what seasonal naive would have said.

use std::collections::{BTreeMap, HashMap};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, TimestampMicrosecondType};
use arrow::error::ArrowError;
use jiff::tz::TimeZone;
use meterline_models::backtest::{self, Evaluation};
use meterline_models::data::{Panel, Series};
use meterline_models::forecaster::{Forecaster, NoForecast, SeriesForecast};
use meterline_models::forecasters::guarded::baseline;
use meterline_schemas::Micros;
use meterline_schemas::quantiles::{CENTRAL_80, COLUMNS, LEVELS, MEDIAN};
use meterline_schemas::time::{DAY, format_micros};

use super::chart::Chart;
use super::narrate::minute;
use crate::environment::Environment;
use crate::metadata::records::RunRecord;
use crate::sql::{self, SqlError, TableVersions};

/// History before the origin that seasonal naive and the chart look at.
const LOOK_BACK: Micros = 28 * DAY;
/// Rows of the table.
const TABLE_ROWS: usize = 8;

/// Why a forecast cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ScoreError {
    /// A query failed.
    #[error("cannot query the forecast: {0}")]
    Query(#[from] SqlError),
    /// A column is not what it should be.
    #[error("cannot read the forecast: {0}")]
    Column(#[from] ArrowError),
    /// The group's time zone is unknown here.
    #[error("cannot read the forecast: {0}")]
    Zone(#[from] jiff::Error),
}

/// One run's forecasts, and the values of their group from some time before to now.
pub struct Published {
    /// The run's origin.
    pub origin: Micros,
    /// Horizon in native intervals.
    pub horizon: usize,
    /// Actual values; what is not there (yet) is NaN.
    pub panel: Panel,
    /// Unit of the values.
    pub unit: String,
    forecasts: HashMap<String, BTreeMap<Micros, [f64; LEVELS.len()]>>,
}

/// Reads a run's forecasts and the actual values around them.
///
/// # Errors
/// See [`ScoreError`].
pub async fn published(env: &Environment, run: &RunRecord) -> Result<Published, ScoreError> {
    let spec = &run.spec;
    let query = format!(
        "SELECT series_id, start, unit, {} FROM forecasts WHERE run_id = '{}'",
        COLUMNS.join(", "),
        spec.run_id.replace('\'', "''")
    );
    let forecasts = sql::query_batches(env, &query, TableVersions::default()).await?;
    let from = format_micros(spec.origin - LOOK_BACK);
    let query = format!(
        "SELECT series_id, start, value FROM intervals WHERE frequency = '{}' AND start >= TIMESTAMP '{from}'",
        spec.frequency
    );
    let intervals = sql::query_batches(env, &query, TableVersions::default()).await?;

    let mut published = Published {
        origin: spec.origin,
        horizon: spec.policy.horizon,
        panel: Panel::new(spec.frequency, TimeZone::get(&spec.zone)?, Vec::new()),
        unit: "kWh".to_owned(),
        forecasts: HashMap::new(),
    };
    for batch in &forecasts {
        published.add_forecasts(batch)?;
    }
    let mut values: BTreeMap<String, BTreeMap<Micros, f64>> = BTreeMap::new();
    for batch in &intervals {
        let (ids, starts, value) = (text(batch, 0)?, micros(batch, 1)?, number(batch, 2)?);
        let (ids, starts, value) = (
            ids.as_string::<i32>(),
            starts.as_primitive::<TimestampMicrosecondType>(),
            value.as_primitive::<Float64Type>(),
        );
        for row in 0..batch.num_rows() {
            values.entry(ids.value(row).to_owned()).or_default().insert(starts.value(row), value.value(row));
        }
    }
    published.add_series(values);
    Ok(published)
}

fn column(batch: &RecordBatch, index: usize, to: &DataType) -> Result<ArrayRef, ArrowError> {
    cast(batch.column(index), to)
}

fn text(batch: &RecordBatch, index: usize) -> Result<ArrayRef, ArrowError> {
    column(batch, index, &DataType::Utf8)
}

fn number(batch: &RecordBatch, index: usize) -> Result<ArrayRef, ArrowError> {
    column(batch, index, &DataType::Float64)
}

fn micros(batch: &RecordBatch, index: usize) -> Result<ArrayRef, ArrowError> {
    column(batch, index, &meterline_schemas::tables::instant())
}

impl Published {
    fn add_forecasts(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        let (ids, starts, units) = (text(batch, 0)?, micros(batch, 1)?, text(batch, 2)?);
        let quantiles = (0..LEVELS.len()).map(|i| number(batch, 3 + i)).collect::<Result<Vec<_>, _>>()?;
        let starts = starts.as_primitive::<TimestampMicrosecondType>();
        for row in 0..batch.num_rows() {
            let mut levels = [0.0; LEVELS.len()];
            for (level, column) in levels.iter_mut().zip(&quantiles) {
                *level = column.as_primitive::<Float64Type>().value(row);
            }
            let series = self.forecasts.entry(ids.as_string::<i32>().value(row).to_owned()).or_default();
            series.insert(starts.value(row), levels);
            if !units.is_null(row) {
                units.as_string::<i32>().value(row).clone_into(&mut self.unit);
            }
        }
        Ok(())
    }

    /// Puts values on the grid; only series with a forecast count.
    fn add_series(&mut self, values: BTreeMap<String, BTreeMap<Micros, f64>>) {
        let (frequency, zone) = (self.panel.frequency, self.panel.zone.clone());
        for (id, points) in values {
            let (Some((&first, _)), Some((&last, _))) = (points.first_key_value(), points.last_key_value()) else {
                continue;
            };
            if !self.forecasts.contains_key(&id) {
                continue;
            }
            let length = frequency.steps_between(first, last, &zone).max(0) as usize + 1;
            let mut grid = vec![f32::NAN; length];
            for (start, value) in points {
                if let Some(cell) = grid.get_mut(frequency.steps_between(first, start, &zone).max(0) as usize) {
                    *cell = value as f32;
                }
            }
            self.panel.series.push(Series::new(id, first, grid));
        }
    }

    /// Scores of the forecast and of seasonal naive, on the same series and steps: those whose actual value is there.
    pub fn scores(&self) -> Option<(Evaluation, Evaluation)> {
        let naive = baseline(self.panel.frequency);
        let mut both =
            backtest::compare(&[&Recorded(self), &naive], &self.panel, &[self.origin], self.horizon).into_iter();
        let (ours, naive) = (both.next()?, both.next()?);
        (ours.points > 0).then_some((ours, naive))
    }

    /// The series with the highest consumption: the least noisy one to look at.
    pub fn showcase(&self) -> Option<&str> {
        let total = |s: &Series| s.values.iter().filter(|v| v.is_finite()).map(|v| f64::from(v.abs())).sum::<f64>();
        let best = self.panel.series.iter().max_by(|a, b| total(a).total_cmp(&total(b)))?;
        Some(&best.id)
    }

    fn actual(&self, series: &Series, start: Micros) -> Option<f64> {
        let step = self.panel.frequency.steps_between(series.start, start, &self.panel.zone);
        let value = series.values.get(usize::try_from(step).ok()?)?;
        value.is_finite().then(|| f64::from(*value))
    }

    /// One series as a chart: as much history as horizon, then the forecast.
    pub fn chart(&self, id: &str) -> Option<Chart> {
        let series = self.panel.series.iter().find(|s| s.id == id)?;
        let forecast = self.forecasts.get(id)?;
        let (frequency, zone) = (self.panel.frequency, &self.panel.zone);
        let before = self.horizon as i64;
        let starts: Vec<Micros> =
            (-before..self.horizon as i64).map(|step| frequency.advance(self.origin, step, zone)).collect();
        let quantile = |level: usize| -> Vec<f64> {
            starts[self.horizon..].iter().map(|at| forecast.get(at).map_or(f64::NAN, |q| q[level])).collect()
        };
        let label = |index: usize| (index, starts.get(index).map_or(String::new(), |at| minute(*at)[5..].to_owned()));
        Some(Chart {
            actual: starts.iter().map(|at| self.actual(series, *at)).collect(),
            origin: self.horizon,
            lower: quantile(CENTRAL_80.0),
            median: quantile(MEDIAN),
            upper: quantile(CENTRAL_80.1),
            labels: [0, self.horizon / 2, self.horizon, self.horizon * 3 / 2].into_iter().map(label).collect(),
            unit: self.unit.clone(),
        })
    }

    /// A few rows of one series' forecast, as text.
    pub fn table(&self, id: &str) -> Vec<String> {
        let (Some(series), Some(forecast)) = (self.panel.series.iter().find(|s| s.id == id), self.forecasts.get(id))
        else {
            return Vec::new();
        };
        let mut lines =
            vec![format!("  {:<17} {:>10} {:>10} {:>10} {:>10}", "start (UTC)", "10 %", "median", "90 %", "actual")];
        let every = forecast.len().div_ceil(TABLE_ROWS).max(1);
        for (start, q) in forecast.iter().step_by(every) {
            let actual = self.actual(series, *start).map_or("not yet".to_owned(), |v| format!("{v:.3}"));
            lines.push(format!(
                "  {:<17} {:>10.3} {:>10.3} {:>10.3} {actual:>10}",
                minute(*start),
                q[CENTRAL_80.0],
                q[MEDIAN],
                q[CENTRAL_80.1]
            ));
        }
        lines
    }
}

/// The published forecasts as a forecaster, so that they are scored as any other.
struct Recorded<'a>(&'a Published);

impl Forecaster for Recorded<'_> {
    fn name(&self) -> &str {
        "published"
    }

    fn forecast(&self, panel: &Panel, horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>> {
        let steps: Vec<Micros> =
            (0..horizon as i64).map(|step| panel.frequency.advance(self.0.origin, step, &panel.zone)).collect();
        let of = |series: &Series| {
            let missing = || NoForecast::MissingContext { present: 0, needed: horizon };
            let recorded = self.0.forecasts.get(&series.id).ok_or_else(missing)?;
            let quantiles: Vec<[f64; LEVELS.len()]> = steps.iter().map_while(|at| recorded.get(at).copied()).collect();
            if quantiles.len() < horizon {
                return Err(missing());
            }
            Ok(SeriesForecast { mean: quantiles.iter().map(|q| q[MEDIAN]).collect(), quantiles })
        };
        panel.series.iter().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use meterline_schemas::Frequency;

    use super::*;
    use meterline_schemas::time::HOUR;

    fn published() -> Published {
        let mut published = Published {
            origin: 48 * HOUR,
            horizon: 4,
            panel: Panel::new(Frequency::HOUR, TimeZone::UTC, Vec::new()),
            unit: "kWh".into(),
            forecasts: HashMap::new(),
        };
        let quantiles = |median: f64| std::array::from_fn(|i| median + (i as f64 - MEDIAN as f64) * 0.1);
        published.forecasts.insert("a".into(), (48..52).map(|h| (h * HOUR, quantiles(2.0))).collect());
        // Two days of history, and two hours that came true; `b` has no forecast.
        let actual = (0..50).map(|h| (h * HOUR, if h < 24 { 1.0 } else { 2.0 })).collect::<BTreeMap<_, _>>();
        published.add_series([("a".to_owned(), actual.clone()), ("b".to_owned(), actual)].into());
        published
    }

    #[test]
    fn only_steps_that_came_true_are_scored_and_both_on_the_same() {
        let (ours, naive) = published().scores().unwrap();
        assert_eq!((ours.points, naive.points), (2, 2));
        assert_eq!(ours.nd, Some(0.0));
    }

    #[test]
    fn nothing_came_true_gives_no_score() {
        let mut early = published();
        early.panel.series[0].values.truncate(48);
        assert!(early.scores().is_none());
    }

    #[test]
    fn the_chart_ends_with_the_horizon_and_shows_what_came_true() {
        let chart = published().chart("a").unwrap();
        assert_eq!((chart.actual.len(), chart.origin), (8, 4));
        assert_eq!(chart.actual[3..], [Some(2.0), Some(2.0), Some(2.0), None, None]);
        assert_eq!(chart.median, [2.0; 4]);
        assert!(published().chart("b").is_none());
    }

    #[test]
    fn the_table_says_what_is_not_there_yet() {
        let table = published().table("a");
        assert_eq!(table.len(), 5);
        assert!(table[1].ends_with("2.000") && table[4].ends_with("not yet"), "{table:?}");
        assert_eq!(published().showcase(), Some("a"));
    }
}
