//! M4 competition, hourly series (Makridakis, Spiliotis and Assimakopoulos 2020): 414 series, the next 48 hours of each
//! from its own end, season 24.
//!
//! Traps of the files:
//!
//! * lines of `Hourly-train.csv` are padded with empty fields: 169 series have 700 values, 245 have 960;
//! * neither file has times. `with_timestamps.parquet` has them for train and test together, in one long table of
//!   nanoseconds without a zone; series end years apart, so there is no common origin;
//! * series are of many kinds and of sizes from 10 to 703,008: ND over all of them is that of the greatest few, MASE and
//!   sMAPE weigh each series the same;
//! * OWA takes the ratios of the *means* over series, not the mean of the ratios, and the official tables take them of
//!   figures that are rounded to three decimals already: seasonal naive has .627453 there and .627505 without rounding,
//!   which three decimals show as .628.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use jiff::tz::TimeZone;
use meterline_models::data::{Panel, Series};
use meterline_models::metrics::{interval_score, owa, seasonal_scale, smape_term};
use meterline_schemas::{Frequency, Micros};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::baselines::PointSums;
use super::published;
use super::table::{REMEDY, Table};
use super::{Baseline, Check, Checked, Metric, PeerRow};

/// Series of the data set.
pub const SERIES: usize = 414;
/// Steps of each forecast.
pub const HORIZON: usize = 48;
/// Hours in a season.
pub const SEASON: usize = 24;
/// sMAPE (percent) and MASE of Naive2 in the official tables: the denominators of OWA.
pub const NAIVE2: [f64; 2] = [18.383, 2.395];
/// Level of the interval that MSIS scores.
pub const INTERVAL: f64 = 0.95;

/// The data set: each series has its own start, length and origin.
#[derive(Debug, Clone)]
pub struct M4Hourly {
    /// What is known, in the order `H1`, `H2`, …; the origin of each series is its end, so a forecaster takes the panel
    /// as it is.
    pub panel: Panel,
    /// The next [`HORIZON`] values of each series, in the panel's order.
    pub actuals: Vec<Vec<f32>>,
    /// Figures that must come out again.
    pub checks: Vec<Check>,
    /// What others reached.
    pub peers: Vec<PeerRow>,
}

/// Figures of point forecasts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PointFigures {
    /// sMAPE in percent.
    pub smape: f64,
    /// MASE.
    pub mase: f64,
    /// OWA against [`NAIVE2`], of sMAPE and MASE rounded to three decimals, as the official tables have it.
    pub owa: f64,
    /// ND over all series.
    pub nd: f64,
}

impl M4Hourly {
    /// Reads the data set.
    ///
    /// # Errors
    /// The first file that cannot be read or is not what it should be, with its line and what to do.
    pub fn load(data: &Path) -> Result<M4Hourly, String> {
        let folder = data.join("m4_hourly");
        let train = rows(&folder.join("Hourly-train.csv"))?;
        let test = rows(&folder.join("Hourly-test.csv"))?;
        let stamped = folder.join("with_timestamps.parquet");
        let hours = hours(&stamped).map_err(|e| format!("reading {}: {e}; {REMEDY}", stamped.display()))?;
        let mut series = Vec::with_capacity(train.len());
        let mut actuals = Vec::with_capacity(train.len());
        for ((id, values), (of, next)) in train.into_iter().zip(test) {
            let refuse = |what: &str| Err(format!("{}: series {id} {what}; {REMEDY}", folder.display()));
            if id != of || next.len() != HORIZON {
                return refuse(&format!("stands beside {of} with {} values in Hourly-test.csv", next.len()));
            }
            match hours.get(&id) {
                Some(hours) if hours.are(values.len() + HORIZON) => {
                    series.push(Series::new(id, hours.first, values));
                }
                _ => return refuse("has other hours, or none, in with_timestamps.parquet"),
            }
            actuals.push(next);
        }
        if series.len() != SERIES {
            return Err(format!("{}: {} series instead of {SERIES}; {REMEDY}", folder.display(), series.len()));
        }
        let check = |baseline, metric, expected, digits| Check { baseline, metric, expected, digits };
        Ok(M4Hourly {
            panel: Panel::new(Frequency::HOUR, TimeZone::UTC, series),
            actuals,
            checks: vec![
                check(Baseline::SeasonalNaiveDay, Metric::Smape, 13.912, 3),
                check(Baseline::SeasonalNaiveDay, Metric::Mase, 1.193, 3),
                check(Baseline::SeasonalNaiveDay, Metric::Owa, 0.627, 3),
                check(Baseline::SeasonalNaiveDay, Metric::Nd, 0.0483, 4),
                check(Baseline::Naive2, Metric::Smape, 18.383, 3),
                check(Baseline::Naive2, Metric::Mase, 2.395, 3),
                check(Baseline::Naive2, Metric::Owa, 1.0, 3),
            ],
            peers: published::m4_hourly(),
        })
    }

    /// Scores point forecasts, [`HORIZON`] steps of every series in the panel's order. `None` where there is not one
    /// for each step of each series.
    pub fn score(&self, forecasts: &[Vec<f64>]) -> Option<PointFigures> {
        if forecasts.len() != self.actuals.len() || forecasts.iter().any(|f| f.len() != HORIZON) {
            return None;
        }
        let (mut smape, mut mase, mut total) = (0.0, 0.0, PointSums::default());
        for ((series, actuals), forecast) in self.panel.series.iter().zip(&self.actuals).zip(forecasts) {
            let mut sums = PointSums::default();
            sums.add(actuals, forecast);
            mase += sums.mae()? / seasonal_scale(&series.values, SEASON)?;
            smape += symmetric_percentage(actuals, forecast);
            total.merge(&sums);
        }
        let series = self.actuals.len() as f64;
        let (smape, mase) = (smape / series, mase / series);
        let rounded = |figure: f64| (figure * 1000.0).round() / 1000.0;
        let owa = owa(rounded(smape), rounded(mase), NAIVE2[0], NAIVE2[1])?;
        Some(PointFigures { smape, mase, owa, nd: total.nd()? })
    }

    /// MSIS of intervals at [`INTERVAL`]: lower and upper bound of [`HORIZON`] steps of every series in the panel's
    /// order. `None` where there is not one for each step of each series.
    pub fn msis(&self, intervals: &[Vec<[f64; 2]>]) -> Option<f64> {
        if intervals.len() != self.actuals.len() || intervals.iter().any(|i| i.len() != HORIZON) {
            return None;
        }
        let mut sum = 0.0;
        for ((series, actuals), intervals) in self.panel.series.iter().zip(&self.actuals).zip(intervals) {
            let score =
                |(y, [low, high]): (&f32, &[f64; 2])| interval_score(f64::from(*y), *low, *high, 1.0 - INTERVAL);
            let scores = actuals.iter().zip(intervals).map(score);
            sum += scores.sum::<f64>() / HORIZON as f64 / seasonal_scale(&series.values, SEASON)?;
        }
        Some(sum / self.actuals.len() as f64)
    }

    /// The figures of a baseline; `None` where it has no forecast for a series.
    pub fn baseline(&self, baseline: Baseline) -> Option<PointFigures> {
        let forecasts: Option<Vec<Vec<f64>>> =
            self.panel.series.iter().map(|s| baseline.forecast(&s.values, SEASON, HORIZON)).collect();
        self.score(&forecasts?)
    }

    /// Every known figure beside the one that these data give.
    pub fn check_all(&self) -> Vec<Checked> {
        let found = |check: &Check| {
            let figures = self.baseline(check.baseline)?;
            match check.metric {
                Metric::Smape => Some(figures.smape),
                Metric::Mase => Some(figures.mase),
                Metric::Owa => Some(figures.owa),
                Metric::Nd => Some(figures.nd),
                _ => None,
            }
        };
        self.checks.iter().map(|check| check.beside(found(check))).collect()
    }
}

/// sMAPE of one series in percent.
fn symmetric_percentage(actuals: &[f32], forecast: &[f64]) -> f64 {
    let terms = actuals.iter().zip(forecast).map(|(actual, forecast)| smape_term(f64::from(*actual), *forecast));
    terms.sum::<f64>() / actuals.len() as f64
}

/// Identifier and values of every line; the first names columns, trailing empty fields are padding.
fn rows(path: &Path) -> Result<Vec<(String, Vec<f32>)>, String> {
    let table = Table::open(path)?;
    let mut found = Vec::new();
    for row in table.rows() {
        let length = row.fields().skip(1).take_while(|field| !field.is_empty()).count();
        if row.fields().skip(1 + length).any(|field| !field.is_empty()) {
            return Err(row.refuse(&format!("field {} is empty and a later one is not", length + 2)));
        }
        let values: Result<Vec<f32>, String> = (1..=length).map(|column| row.number(column)).collect();
        found.push((row.text(0)?.to_owned(), values?));
    }
    Ok(found)
}

/// The hours of one series, train and test together.
struct Hours {
    first: Micros,
    last: Micros,
    count: usize,
}

impl Hours {
    /// Whether they are `count` hours without a gap.
    fn are(&self, count: usize) -> bool {
        let apart = Frequency::HOUR.steps_between(self.first, self.last, &TimeZone::UTC);
        self.count == count && apart + 1 == count as i64
    }
}

/// The hours of every series.
fn hours(path: &Path) -> Result<BTreeMap<String, Hours>, Box<dyn std::error::Error>> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?.build()?;
    let mut found: BTreeMap<String, Hours> = BTreeMap::new();
    for batch in reader {
        let batch = batch?;
        let column = |name: &str| batch.column_by_name(name).ok_or_else(|| format!("no column `{name}`"));
        let ids = cast(column("series_id")?, &DataType::Utf8)?;
        let stamps = cast(column("timestamp")?, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
        let stamps = stamps.as_primitive::<TimestampMicrosecondType>();
        for (id, at) in ids.as_string::<i32>().iter().zip(stamps) {
            let (Some(id), Some(at)) = (id, at) else { return Err("a row without series or time".into()) };
            match found.get_mut(id) {
                Some(hours) => {
                    hours.first = hours.first.min(at);
                    hours.last = hours.last.max(at);
                    hours.count += 1;
                }
                None => {
                    found.insert(id.to_owned(), Hours { first: at, last: at, count: 1 });
                }
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One series that rises by 1 a day, with its next 48 hours.
    fn small() -> M4Hourly {
        let values: Vec<f32> = (0..72).map(|h| (10 + h / 24) as f32).collect();
        let series = vec![Series::new("H1", 0, values)];
        let panel = Panel::new(Frequency::HOUR, TimeZone::UTC, series);
        let actuals = vec![(72..120).map(|h| (10 + h / 24) as f32).collect()];
        M4Hourly { panel, actuals, checks: vec![], peers: vec![] }
    }

    #[test]
    fn figures_agree_with_a_calculation_by_hand() {
        // The scale is 1; yesterday comes again, so errors are 1 and then 2.
        let found = small().baseline(Baseline::SeasonalNaiveDay).unwrap();
        assert!((found.mase - 1.5).abs() < 1e-12);
        assert!((found.smape - 100.0 * (1.0 / 25.0 + 2.0 / 26.0)).abs() < 1e-9);
        assert!((found.nd - 72.0 / (24.0 * 27.0)).abs() < 1e-12);
        // sMAPE is 11.6923…
        assert!((found.owa - (11.692 / 18.383 + 1.5 / 2.395) / 2.0).abs() < 1e-12);
    }

    #[test]
    fn intervals_pay_for_their_width_and_forty_times_for_what_they_miss() {
        let data = small();
        for (lower, upper, expected) in [(13.0, 14.0, 1.0), (13.5, 14.0, 0.5 + 40.0 * 0.25), (0.0, 20.0, 20.0)] {
            let found = data.msis(&[vec![[lower, upper]; HORIZON]]).unwrap();
            assert!((found - expected).abs() < 1e-9, "{lower} {upper}: {found}");
        }
    }

    #[test]
    fn forecasts_that_are_too_few_have_no_figure() {
        let data = small();
        assert_eq!(data.score(&[]), None);
        assert_eq!(data.score(&[vec![1.0; 47]]), None);
        assert_eq!(data.msis(&[vec![[0.0, 1.0]; 49]]), None);
    }

    #[test]
    fn nothing_forecast_as_nothing_is_no_error() {
        assert_eq!(symmetric_percentage(&[0.0, 1.0], &[0.0, 0.0]), 100.0);
    }
}
