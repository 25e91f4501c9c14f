//! Our models under the protocols of others: M4 Hourly, and ETT over long horizons.

use std::time::Instant;

use meterline_models::data::Panel;
use meterline_models::forecaster::{Forecaster, Task};
use meterline_models::metrics::index_of;
use meterline_schemas::quantiles::{LEVELS, MEDIAN};

use super::baselines::PointSums;
use super::ett::{CHANNELS, LongHorizon};
use super::m4::{self, M4Hourly};
use super::models::fit;
use super::{Metric, PeerRow};

/// What one model scored.
pub struct Row {
    /// Its name.
    pub model: String,
    /// Its figures.
    pub figures: Vec<(Metric, f64)>,
    /// How long it took to fit it.
    pub seconds: f64,
}

/// What models scored at one task.
pub struct Table {
    /// Short, such as `M4` or `ETTm1_96`.
    pub name: String,
    /// In one line.
    pub title: String,
    /// One a model.
    pub rows: Vec<Row>,
    /// What others reached.
    pub peers: Vec<PeerRow>,
}

/// M4 Hourly. sMAPE, MASE and OWA are of the median, which they are least for.
///
/// # Errors
/// A model that is not there, or has no forecast for some series.
pub fn m4_hourly(data: &M4Hourly, models: &[String], seed: u64) -> Result<Table, String> {
    let panel = together(&data.panel);
    let longest = panel.series.iter().map(|series| series.values.len()).max().unwrap_or(0);
    let task = Task::new(m4::HORIZON, longest / 2, seed);
    let ends = [0.5 - m4::INTERVAL / 2.0, 0.5 + m4::INTERVAL / 2.0].map(|level| index_of(&LEVELS, level));
    let [Some(low), Some(high)] = ends else { return Err("no quantiles at the ends of the interval of MSIS".into()) };
    let mut rows = Vec::new();
    for name in models {
        let fitted = fit(name, "M4", &panel, &task)?;
        let begun = Instant::now();
        let forecasts = fitted.model.forecast(&panel, m4::HORIZON);
        eprintln!("M4 {name}: forecast in {:.1} s", begun.elapsed().as_secs_f64());
        let mut medians = Vec::with_capacity(forecasts.len());
        let mut intervals = Vec::with_capacity(forecasts.len());
        for (series, forecast) in panel.series.iter().zip(forecasts) {
            let forecast = forecast.map_err(|error| format!("M4 {name}: series {}: {error}", series.id))?;
            medians.push(forecast.quantiles.iter().map(|q| q[MEDIAN]).collect());
            intervals.push(forecast.quantiles.iter().map(|q| [q[low], q[high]]).collect());
        }
        let (Some(points), Some(msis)) = (data.score(&medians), data.msis(&intervals)) else {
            return Err(format!("M4 {name}: forecasts of another length"));
        };
        let covered = data.actuals.iter().zip(&intervals).flat_map(|(actuals, intervals): (_, &Vec<[f64; 2]>)| {
            actuals.iter().zip(intervals).map(|(y, [low, high])| (*low..=*high).contains(&f64::from(*y)))
        });
        let (inside, all) = covered.fold((0.0, 0.0), |(inside, all), is| (inside + f64::from(u8::from(is)), all + 1.0));
        eprintln!("M4 {name}: {:.3} of all values within the interval of MSIS", inside / all);
        rows.push(Row {
            model: name.clone(),
            figures: vec![
                (Metric::Smape, points.smape),
                (Metric::Mase, points.mase),
                (Metric::Owa, points.owa),
                (Metric::Msis, msis),
                (Metric::Nd, points.nd),
            ],
            seconds: fitted.seconds,
        });
    }
    let title = format!("M4 Hourly, {} series, {} steps from the end of each", m4::SERIES, m4::HORIZON);
    Ok(Table { name: "M4".into(), title, rows, peers: data.peers.clone() })
}

// As competitors had them, who were given no time stamps: all series end at one time.
fn together(panel: &Panel) -> Panel {
    let mut panel = panel.clone();
    let (frequency, zone) = (panel.frequency, panel.zone.clone());
    let end = panel.series.iter().map(|series| series.origin(frequency, &zone)).max().unwrap_or(0);
    for series in &mut panel.series {
        series.start = frequency.advance(end, -(series.values.len() as i64), &zone);
    }
    panel
}

/// One file and horizon of the long-horizon protocol: fitted to the training part, with windows from every step of the
/// test part.
///
/// # Errors
/// A model that is not there, or has no forecast for some window.
pub fn long_horizon(data: &LongHorizon, horizon: usize, models: &[String], seed: u64) -> Result<Table, String> {
    let name = format!("{}_{horizon}", data.name);
    let known = data.panel.cut(data.origin(data.train.end));
    let task = Task::new(horizon, 14 * data.season, seed);
    let mut rows = Vec::new();
    for model in models {
        let fitted = fit(model, &name, &known, &task)?;
        let begun = Instant::now();
        let sums = windows(data, horizon, &*fitted.model).map_err(|error| format!("{name} {model}: {error}"))?;
        eprintln!("{name} {model}: evaluated in {:.1} s", begun.elapsed().as_secs_f64());
        let (Some(mse), Some(mae)) = (sums.mse(), sums.mae()) else {
            return Err(format!("{name}: there is no window"));
        };
        let figures = vec![(Metric::Mse, mse), (Metric::Mae, mae)];
        rows.push(Row { model: model.clone(), figures, seconds: fitted.seconds });
    }
    let title = format!(
        "{} over {horizon} steps, {} channels, {} windows",
        data.name,
        CHANNELS.len(),
        data.windows(horizon).len()
    );
    Ok(Table { name, title, rows, peers: data.peers(horizon) })
}

// Of the mean, which the squared error is least for; the absolute error is of the mean, too, as in what is published.
fn windows(data: &LongHorizon, horizon: usize, model: &dyn Forecaster) -> Result<PointSums, String> {
    let mut sums = PointSums::default();
    for window in data.windows(horizon) {
        let known = data.panel.cut(data.origin(window));
        let forecasts = model.forecast(&known, horizon);
        for (series, forecast) in data.panel.series.iter().zip(forecasts) {
            let forecast = forecast.map_err(|error| format!("series {}: {error}", series.id))?;
            sums.add(&series.values[window..window + horizon], &forecast.mean);
        }
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use meterline_models::data::Series;
    use meterline_schemas::Frequency;
    use meterline_schemas::time::HOUR;

    use super::*;

    #[test]
    fn series_without_stamps_end_together() {
        let series = vec![Series::new("a", 5 * HOUR, vec![1.0; 3]), Series::new("b", 90 * HOUR, vec![1.0; 7])];
        let panel = together(&Panel::new(Frequency::HOUR, TimeZone::UTC, series));
        let ends: Vec<i64> = panel.series.iter().map(|s| s.origin(Frequency::HOUR, &TimeZone::UTC)).collect();
        assert_eq!(ends, [97 * HOUR; 2]);
    }
}
