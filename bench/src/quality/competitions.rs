//! Our models under the protocols of others: M4 Hourly, and ETT over long horizons.

use std::num::NonZeroUsize;
use std::time::Instant;

use meterline_models::data::Panel;
use meterline_models::forecaster::{Forecaster, Task};
use meterline_models::metrics::{index_of, seasonal_scale};
use meterline_schemas::quantiles::{LEVELS, MEDIAN};
use serde_json::Value;

use super::baselines::PointSums;
use super::ett::{CHANNELS, LongHorizon};
use super::m4::{self, M4Hourly};
use super::models::fit;
use super::{Metric, PeerRow, rows};

/// Intervals of which is said what they hold.
const SHARES: [Metric; 3] = [Metric::Coverage, Metric::Coverage90, Metric::Coverage95];

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

impl Table {
    /// The rows of a document: one a model, figure and peer that has the figure, or a single one where none has it.
    pub fn document(&self) -> Vec<Value> {
        let mut rows = Vec::new();
        for row in &self.rows {
            let name = |what: &str| format!("{}_{}_{what}", self.name.to_lowercase(), row.model);
            for (metric, ours) in &row.figures {
                let of = |against: Option<(&str, Option<f64>)>| {
                    rows::row(&name(metric.key()), Some(*ours), &metric.unit(), against)
                };
                let peers = self
                    .peers
                    .iter()
                    .filter_map(|peer| Some((format!("{}, published", peer.model), peer.get(*metric)?)));
                let beside: Vec<Value> = peers.map(|(peer, theirs)| of(Some((peer.as_str(), Some(theirs))))).collect();
                if beside.is_empty() {
                    rows.push(of(None));
                }
                rows.extend(beside);
            }
            rows.push(rows::row(&name("train"), Some(row.seconds), "s", None));
        }
        rows
    }
}

/// M4 Hourly. sMAPE, MASE and OWA are of the median, which they are least for.
///
/// # Errors
/// A model that is not there, or has no forecast for some series.
pub fn m4_hourly(data: &M4Hourly, models: &[String], seed: u64) -> Result<Table, String> {
    let (panel, scales) = alike(&data.panel);
    let longest = panel.longest();
    let task = Task::new(m4::HORIZON, longest / 2, seed);
    let ends = |share: f64| {
        let [low, high] = [0.5 - share / 2.0, 0.5 + share / 2.0].map(|level| index_of(&LEVELS, level));
        low.zip(high).ok_or_else(|| format!("no quantiles at the ends of the interval of {:.0} %", 100.0 * share))
    };
    let (low, high) = ends(m4::INTERVAL)?;
    let shares = SHARES.iter().filter_map(|metric| Some((*metric, metric.nominal()?)));
    let shares: Vec<_> = shares.map(|(metric, share)| Ok((metric, ends(share)?))).collect::<Result<_, String>>()?;
    let mut rows = Vec::new();
    for name in models {
        let fitted = fit(name, "M4", &panel, &task)?;
        let begun = Instant::now();
        let forecasts = fitted.model.forecast(&panel, m4::HORIZON);
        eprintln!("M4 {name}: forecast in {:.1} s", begun.elapsed().as_secs_f64());
        let mut medians = Vec::with_capacity(forecasts.len());
        let mut intervals = Vec::with_capacity(forecasts.len());
        let mut held = vec![0; shares.len()];
        let mut all = 0;
        for (((series, scale), forecast), actuals) in panel.series.iter().zip(&scales).zip(forecasts).zip(&data.actuals)
        {
            let forecast = forecast.map_err(|error| format!("M4 {name}: series {}: {error}", series.id))?;
            medians.push(forecast.quantiles.iter().map(|q| scale * q[MEDIAN]).collect());
            intervals.push(forecast.quantiles.iter().map(|q| [scale * q[low], scale * q[high]]).collect());
            all += actuals.len() as u32;
            for (held, (_, ends)) in held.iter_mut().zip(&shares) {
                *held += within(&forecast.quantiles, *ends, *scale, actuals);
            }
        }
        let (Some(points), Some(msis)) = (data.score(&medians), data.msis(&intervals)) else {
            return Err(format!("M4 {name}: forecasts of another length"));
        };
        let mut figures = vec![
            (Metric::Smape, points.smape),
            (Metric::Mase, points.mase),
            (Metric::Owa, points.owa),
            (Metric::Msis, msis),
            (Metric::Nd, points.nd),
        ];
        figures.extend(shares.iter().zip(held).map(|((metric, _), held)| (*metric, f64::from(held) / f64::from(all))));
        rows.push(Row { model: name.clone(), figures, seconds: fitted.seconds });
    }
    let title = format!("M4 Hourly, {} series, {} steps from the end of each", m4::SERIES, m4::HORIZON);
    Ok(Table { name: "M4".into(), title, rows, peers: data.peers.clone() })
}

// How many values lie between two quantiles of their forecasts, which are in units of the scale; both ends count.
fn within(quantiles: &[[f64; LEVELS.len()]], (low, high): (usize, usize), scale: f64, actuals: &[f32]) -> u32 {
    let is_within =
        |(q, y): (&[f64; LEVELS.len()], &f32)| u32::from((scale * q[low]..=scale * q[high]).contains(&f64::from(*y)));
    quantiles.iter().zip(actuals).map(is_within).sum()
}

// As the competition takes them: without time stamps, so that all end at one time, and each counts the same, in units of
// its own seasonal differences.
fn alike(panel: &Panel) -> (Panel, Vec<f64>) {
    let mut panel = panel.clone();
    let (frequency, zone) = (panel.frequency, panel.zone.clone());
    let end = panel.series.iter().map(|series| series.origin(frequency, &zone)).max().unwrap_or(0);
    let mut scales = Vec::with_capacity(panel.series.len());
    for series in &mut panel.series {
        series.start = frequency.advance(end, -(series.values.len() as i64), &zone);
        let scale = seasonal_scale(&series.values, m4::SEASON).unwrap_or(1.0);
        series.values.iter_mut().for_each(|value| *value = (f64::from(*value) / scale) as f32);
        scales.push(scale);
    }
    (panel, scales)
}

/// One file and horizon of the long-horizon protocol, with windows from every step of the test part, or from each
/// `stride`th. Each model is fitted
/// twice: to all that is known before the first of them, as under every other protocol here, and to the training part
/// alone, as what is published was, which chose on the validation part besides.
///
/// # Errors
/// A model that is not there, or has no forecast for some window.
pub fn long_horizon(
    data: &LongHorizon,
    horizon: usize,
    models: &[String],
    seed: u64,
    stride: NonZeroUsize,
) -> Result<Table, String> {
    let name = format!("{}_{horizon}", data.name);
    let task = Task::new(horizon, 14 * data.season, seed);
    let mut rows = Vec::new();
    let parts = [("", data.validation.end), (", of the training part", data.train.end)];
    for (model, (part, end)) in models.iter().flat_map(|model| parts.map(|part| (model, part))) {
        let fitted = fit(model, &name, &data.panel.cut(data.origin(end)), &task)?;
        let begun = Instant::now();
        let sums =
            windows(data, horizon, stride, &*fitted.model).map_err(|error| format!("{name} {model}: {error}"))?;
        eprintln!("{name} {model}: evaluated in {:.1} s", begun.elapsed().as_secs_f64());
        let (Some(mse), Some(mae)) = (sums.mse(), sums.mae()) else {
            return Err(format!("{name}: there is no window"));
        };
        let figures = vec![(Metric::Mse, mse), (Metric::Mae, mae)];
        rows.push(Row { model: format!("{model}{part}"), figures, seconds: fitted.seconds });
    }
    let title = format!(
        "{} over {horizon} steps, {} channels, {} windows, {} apart",
        data.name,
        CHANNELS.len(),
        data.windows(horizon).step_by(stride.get()).len(),
        if stride.get() > 1 { format!("{stride} steps") } else { "a step".to_owned() }
    );
    Ok(Table { name, title, rows, peers: data.peers(horizon) })
}

// Of the mean, which the squared error is least for; the absolute error is of the mean, too, as in what is published.
fn windows(
    data: &LongHorizon,
    horizon: usize,
    stride: NonZeroUsize,
    model: &dyn Forecaster,
) -> Result<PointSums, String> {
    let mut sums = PointSums::default();
    for window in data.windows(horizon).step_by(stride.get()) {
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
    use meterline_models::forecasters::seasonal_naive::SeasonalNaive;

    #[test]
    fn a_figure_has_a_row_beside_each_peer_that_has_it_and_one_without_any() {
        let figures = vec![(Metric::Owa, 0.5), (Metric::Coverage95, 0.94)];
        let ours = || vec![Row { model: "auto".into(), figures: figures.clone(), seconds: 2.0 }];
        let peer = |name: &str, figures: &[(Metric, f64)]| PeerRow::new(name, figures, "somewhere");
        let document = |peers: Vec<PeerRow>| {
            let table = Table { name: "M4".into(), title: String::new(), rows: ours(), peers };
            let row = |row: &Value| format!("{} {} {}", row["name"], row["against"], row["theirs"]).replace('"', "");
            table.document().iter().map(row).collect::<Vec<_>>()
        };
        let rest = ["m4_auto_coverage_q2_5_q97_5 null null", "m4_auto_train null null"];
        // Windows that were moved back have no peer.
        assert_eq!(document(Vec::new()), [&["m4_auto_OWA null null"][..], &rest].concat());
        let peers = vec![peer("winner", &[(Metric::Owa, 0.44)]), peer("other", &[(Metric::Msis, 9.0)])];
        assert_eq!(document(peers), [&["m4_auto_OWA winner, published 0.44"][..], &rest].concat());
    }

    #[test]
    fn a_value_at_the_end_of_an_interval_is_within_it() {
        let quantiles: [f64; LEVELS.len()] = std::array::from_fn(|level| level as f64);
        let held = |ends, actuals: &[f32]| within(&vec![quantiles; actuals.len()], ends, 2.0, actuals);
        assert_eq!((held((1, 3), &[1.9, 2.0, 4.0, 6.0, 6.1]), held((0, 12), &[-0.1, 0.0, 24.0])), (3, 2));
    }

    #[test]
    fn windows_are_a_stride_apart() {
        let series = CHANNELS.map(|id| Series::new(id, 0, (0..100).map(|hour| (hour % 24) as f32).collect()));
        let data = LongHorizon {
            name: "ETTh1",
            panel: Panel::new(Frequency::HOUR, TimeZone::UTC, series.into()),
            means: [0.0; CHANNELS.len()],
            deviations: [1.0; CHANNELS.len()],
            train: 0..48,
            validation: 48..60,
            test: 60..100,
            season: 24,
            checks: Vec::new(),
        };
        let naive = SeasonalNaive::short(Frequency::HOUR);
        // 29 windows of 12 steps fit into 40.
        for (stride, count) in [(1, 29), (7, 5), (28, 2), (29, 1)] {
            let sums = windows(&data, 12, NonZeroUsize::new(stride).unwrap(), &naive).unwrap();
            assert_eq!((sums.points, sums.mae()), (count * 12 * CHANNELS.len(), Some(0.0)), "{stride}");
        }
    }

    #[test]
    fn series_end_together_and_count_alike() {
        let values = |size: f32| (0..60).map(|hour| size * (hour / 24) as f32).collect();
        let series = vec![Series::new("a", 5 * HOUR, values(3.0)), Series::new("b", 37 * HOUR, values(0.5))];
        let (panel, scales) = alike(&Panel::new(Frequency::HOUR, TimeZone::UTC, series));
        assert_eq!((scales, &panel.series[0].values), (vec![3.0, 0.5], &panel.series[1].values));
        let ends: Vec<i64> = panel.series.iter().map(|s| s.origin(Frequency::HOUR, &TimeZone::UTC)).collect();
        assert_eq!(ends, [97 * HOUR; 2]);
    }
}
