//! Electricity transformer temperature (Zhou et al. 2021, CC BY-ND 4.0): six loads and the oil temperature of one
//! transformer, 2016-07 … 2018-06; `ETTm1` every 15 minutes, `ETTh1` hourly.
//!
//! The long-horizon protocol (Zhou et al. 2021; Zeng et al. 2023; Nie et al. 2023): train on the first 12 months of 30
//! days, choose on the next 4, test on the 4 after them; every channel is a series, standardised by mean and standard
//! deviation of its training part; a window starts at every step of the test part; MSE and MAE in standardised units
//! over all windows, steps and channels.
//!
//! Traps:
//!
//! * "months" have 30 days, so the test part ends 600 days after the start and the last 125 days of the file belong to
//!   nobody;
//! * the first test window's *target* starts at the test part; what a model looks back on lies before it, in the
//!   validation part;
//! * the standard deviation is that of the population (divisor n), as scikit-learn has it;
//! * published code of several models dropped the last incomplete batch of windows: up to 127 windows are missing
//!   there and not here;
//! * a model at horizon h has fewer windows than at 96: figures of different horizons are of different test windows;
//! * published models look back 336 or 512 steps; here they are given all that is known and may take what they want;
//! * stamps have no zone; they are taken as UTC, every day has 24 hours.

use std::ops::Range;
use std::path::Path;

use jiff::tz::TimeZone;
use meterline_models::data::{Panel, Series};
use meterline_models::holidays::Holidays;
use meterline_schemas::time::DAY;
use meterline_schemas::{Frequency, Micros};

use super::baselines::PointSums;
use super::grid::{Stamped, on_grid};
use super::published;
use super::table::Table;
use super::{Baseline, Check, Checked, Metric, PeerRow, Protocol};

/// The channels, in the order of the file: high, middle and low loads, useful and useless (reactive), oil temperature.
pub const CHANNELS: [&str; 7] = ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"];
/// Published horizons in steps.
pub const HORIZONS: [usize; 4] = [96, 192, 336, 720];

/// One file under the long-horizon protocol.
#[derive(Debug, Clone)]
pub struct LongHorizon {
    /// `ETTm1` or `ETTh1`.
    pub name: &'static str,
    /// One series a channel, in standardised units, train, validation and test together.
    pub panel: Panel,
    /// Mean of each channel's training part, in the unit of the file.
    pub means: [f64; CHANNELS.len()],
    /// Standard deviation of each channel's training part, in the unit of the file.
    pub deviations: [f64; CHANNELS.len()],
    /// Steps of the training part.
    pub train: Range<usize>,
    /// Steps of the validation part.
    pub validation: Range<usize>,
    /// Steps of the test part: what windows may forecast.
    pub test: Range<usize>,
    /// Steps in a day.
    pub season: usize,
    /// Known figures, with their horizon.
    pub checks: Vec<(usize, Check)>,
}

impl LongHorizon {
    /// `ETTm1`, every 15 minutes.
    ///
    /// # Errors
    /// A file that cannot be read or is not what it should be, with its line and what to do.
    pub fn ettm1(data: &Path) -> Result<LongHorizon, String> {
        let check = |baseline, metric, expected| (96, Check { baseline, metric, expected, digits: 3 });
        let checks = vec![
            check(Baseline::SeasonalNaiveDay, Metric::Mse, 0.423),
            check(Baseline::SeasonalNaiveDay, Metric::Mae, 0.387),
            check(Baseline::RepeatLast, Metric::Mse, 1.214),
            check(Baseline::RepeatLast, Metric::Mae, 0.665),
        ];
        LongHorizon::load(data, "ETTm1", Frequency::QUARTER_HOUR, checks)
    }

    /// `ETTh1`, hourly.
    ///
    /// # Errors
    /// As [`LongHorizon::ettm1`].
    pub fn etth1(data: &Path) -> Result<LongHorizon, String> {
        LongHorizon::load(data, "ETTh1", Frequency::HOUR, vec![])
    }

    fn load(
        data: &Path,
        name: &'static str,
        frequency: Frequency,
        checks: Vec<(usize, Check)>,
    ) -> Result<LongHorizon, String> {
        let (start, mut channels) = channels(data, name, frequency)?;
        let month = 30 * frequency.per_day();
        let [train, validation, test] = [0..12 * month, 12 * month..16 * month, 16 * month..20 * month];
        if channels.iter().any(|values| values.len() < test.end) {
            return Err(format!("{name}: less than 20 months; {}", super::table::REMEDY));
        }
        let mut means = [0.0; CHANNELS.len()];
        let mut deviations = [0.0; CHANNELS.len()];
        for (i, values) in channels.iter_mut().enumerate() {
            values.truncate(test.end);
            (means[i], deviations[i]) = moments(&values[train.clone()]);
            if !deviations[i].is_finite() || deviations[i] == 0.0 {
                return Err(format!("{name}: channel {} has no spread; {}", CHANNELS[i], super::table::REMEDY));
            }
            values.iter_mut().for_each(|v| *v = ((f64::from(*v) - means[i]) / deviations[i]) as f32);
        }
        let series = CHANNELS.iter().zip(channels);
        let series = series.map(|(id, values)| Series::new((*id).to_owned(), start, values)).collect();
        Ok(LongHorizon {
            name,
            panel: Panel::new(frequency, TimeZone::UTC, series),
            means,
            deviations,
            train,
            validation,
            test,
            season: frequency.per_day(),
            checks,
        })
    }

    /// First steps of all test windows of this horizon; none where it is longer than the test part.
    pub fn windows(&self, horizon: usize) -> Range<usize> {
        self.test.start..(self.test.end + 1).saturating_sub(horizon).max(self.test.start)
    }

    /// The origin whose first forecast step is `window`.
    pub fn origin(&self, window: usize) -> Micros {
        let start = self.panel.series.first().map_or(0, |s| s.start);
        self.panel.frequency.advance(start, window as i64, &self.panel.zone)
    }

    /// Scores `forecast` on every window and channel. It is given the index of the channel and all its values before
    /// the window, standardised, and gives `horizon` steps. `None` where it has no forecast or one of another length.
    pub fn score(&self, horizon: usize, forecast: impl Fn(usize, &[f32]) -> Option<Vec<f64>>) -> Option<PointSums> {
        let mut sums = PointSums::default();
        for (channel, series) in self.panel.series.iter().enumerate() {
            for window in self.windows(horizon) {
                let (known, later) = series.values.split_at(window);
                let found = forecast(channel, known).filter(|f| f.len() == horizon)?;
                sums.add(&later[..horizon], &found);
            }
        }
        Some(sums)
    }

    /// Every known figure beside the one that these data give.
    pub fn check_all(&self) -> Vec<Checked> {
        let found = |(horizon, check): &(usize, Check)| {
            let sums = self.score(*horizon, |_, known| check.baseline.forecast(known, self.season, *horizon))?;
            match check.metric {
                Metric::Mse => sums.mse(),
                Metric::Mae => sums.mae(),
                _ => None,
            }
        };
        self.checks.iter().map(|check| check.1.beside(found(check))).collect()
    }

    /// What others reached at this horizon.
    pub fn peers(&self, horizon: usize) -> Vec<PeerRow> {
        published::ett(self.name, horizon)
    }
}

/// The task `ETT_15T` of fev-bench on the one transformer that is here: the next 96 quarter hours of the seven channels
/// of ETTm1, in the unit of the file, from 20 origins a day apart, the first 1,920 steps before the end.
///
/// The peers' figures are means over ETTm1 and ETTm2, and fev-bench scales the errors of a window by what is known at
/// its own origin: read them as an order of size.
///
/// # Errors
/// As [`LongHorizon::ettm1`].
pub fn fev_ett_15t(data: &Path) -> Result<Protocol, String> {
    let frequency = Frequency::QUARTER_HOUR;
    let (start, channels) = channels(data, "ETTm1", frequency)?;
    let first = start + (channels[0].len() as i64 - 1920) * frequency.nominal_micros();
    let origins = (0..20).map(|window| first + window * DAY).collect();
    let series = CHANNELS.iter().zip(channels);
    let series = series.map(|(id, values)| Series::new((*id).to_owned(), start, values)).collect();
    Protocol {
        name: "ETT_15T",
        title: "fev-bench ETT_15T, ETTm1 alone, a day ahead",
        panel: Panel::new(frequency, TimeZone::UTC, series),
        covariates: vec![],
        holidays: Holidays::none(),
        train_until: first,
        origins,
        horizon: 96,
        season: 96,
        checks: vec![],
        peers: published::fev_ett_15t(),
    }
    .validated()
}

/// Start and values of every channel of a file, as they are.
fn channels(data: &Path, name: &str, frequency: Frequency) -> Result<(Micros, [Vec<f32>; CHANNELS.len()]), String> {
    let table = Table::open(&data.join(format!("ett/{name}.csv")))?;
    let stamp = table.column("date")?;
    let mut columns = [0; CHANNELS.len()];
    for (column, channel) in columns.iter_mut().zip(CHANNELS) {
        *column = table.column(channel)?;
    }
    let mut rows = Vec::new();
    for row in table.rows() {
        let mut values = [0.0; CHANNELS.len()];
        for (value, column) in values.iter_mut().zip(columns) {
            *value = row.number(column)?;
        }
        rows.push(Stamped { at: row.stamp(stamp)?, line: row.line(), values });
    }
    let found = on_grid(table.file(), frequency, &rows)?;
    if found.columns.iter().flatten().any(|v| !v.is_finite()) {
        return Err(format!("{}: a step is missing; {}", table.file(), super::table::REMEDY));
    }
    Ok((found.start, found.columns))
}

/// Mean and population standard deviation.
fn moments(values: &[f32]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    let variance = values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n;
    (mean, variance.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> LongHorizon {
        let series = vec![Series::new("OT", 0, (0..20).map(|i| i as f32).collect())];
        LongHorizon {
            name: "ETTh1",
            panel: Panel::new(Frequency::HOUR, TimeZone::UTC, series),
            means: [0.0; 7],
            deviations: [1.0; 7],
            train: 0..12,
            validation: 12..16,
            test: 16..20,
            season: 2,
            checks: vec![(3, Check { baseline: Baseline::RepeatLast, metric: Metric::Mae, expected: 2.0, digits: 3 })],
        }
    }

    #[test]
    fn a_window_starts_at_every_step_that_leaves_room_for_its_horizon() {
        let data = small();
        for (horizon, windows) in [(1, 16..20), (3, 16..18), (4, 16..17), (5, 16..16), (99, 16..16)] {
            assert_eq!(data.windows(horizon), windows, "{horizon}");
        }
        assert_eq!(data.origin(16), 16 * Frequency::HOUR.nominal_micros());
    }

    #[test]
    fn figures_are_means_over_windows_steps_and_channels() {
        let data = small();
        // A line that rises by 1: repeating the last value errs by 1, 2 and 3.
        let sums = data.score(3, |_, known| Baseline::RepeatLast.forecast(known, 2, 3)).unwrap();
        assert_eq!((sums.points, sums.mae(), sums.mse()), (6, Some(2.0), Some(14.0 / 3.0)));
        assert!(data.check_all().iter().all(Checked::holds));
        assert_eq!(data.score(3, |_, _| Some(vec![0.0])), None, "one step instead of three");
        assert_eq!(data.score(99, |_, _| None).map(|s| s.mae()), Some(None), "no window");
    }

    #[test]
    fn deviations_are_those_of_a_population() {
        assert_eq!(moments(&[1.0, 3.0]), (2.0, 1.0));
    }
}
