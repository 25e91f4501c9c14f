//! What models share that predict each step of a forecast directly, from a row of [`Design`].

use meterline_schemas::quantiles::{LEVELS, MEDIAN};

use crate::data::Panel;
use crate::design::{Design, Normal};
use crate::forecaster::{FitError, NoForecast, SeriesForecast};
use crate::metrics::mean_of_quantiles;

/// One row to be trained on.
pub(super) struct Row<'a> {
    pub features: &'a [f32],
    /// Relative to level and spread, as the features are.
    pub target: f32,
    pub weight: f32,
    /// The interval of the series that it is about.
    pub interval: usize,
    /// Number of its origin among those of the series: rows of one depend on each other.
    pub origin: usize,
}

/// Whether some series of a panel is long enough for one forecast to be trained on.
///
/// # Errors
/// None is.
pub(super) fn check_length(model: &str, panel: &Panel, design: &Design, horizon: usize) -> Result<(), FitError> {
    let longest = panel.series.iter().map(|series| series.values.len()).max().unwrap_or(0);
    let needed = design.first_origin() + horizon;
    match longest < needed {
        true => Err(FitError::TooShort { model: model.into(), needed, longest, series: panel.series.len() }),
        false => Ok(()),
    }
}

/// Hands the rows of a series to `take`, those of the oldest origin first. Origins are `apart` intervals from each other
/// and from the end of the series.
pub(super) fn each_row(
    panel: &Panel,
    design: &Design,
    number: usize,
    (apart, horizon): (usize, usize),
    mut take: impl FnMut(Row<'_>),
) {
    let Some(series) = panel.series.get(number) else { return };
    let length = series.values.len();
    let mut features = vec![0.0; design.width()];
    let apart = apart.max(1);
    let origins = length.saturating_sub(design.first_origin()) / apart;
    for (origin, back) in (1..=origins).rev().enumerate() {
        let known = length - back * apart;
        for (step, value) in series.values[known..].iter().take(horizon).enumerate() {
            let normal = match design.row(number, known, step, &mut features) {
                Some(normal) if value.is_finite() => normal,
                _ => continue,
            };
            let interval = known + step;
            let target = ((f64::from(*value) - normal.level) / normal.spread) as f32;
            take(Row { features: &features, target, weight: series.weight(interval), interval, origin });
        }
    }
}

/// The forecast of a series, of which `predict` says the quantiles of each step, normalised, from its row and its
/// interval.
///
/// # Errors
/// The series is too short, or `predict` has no answer or one that is not finite.
pub(super) fn forecast(
    panel: &Panel,
    design: &Design,
    number: usize,
    horizon: usize,
    mut predict: impl FnMut(&[f32], usize) -> Result<[f64; LEVELS.len()], NoForecast>,
) -> Result<SeriesForecast, NoForecast> {
    let values = panel.series.get(number).map_or(&[][..], |series| &series.values);
    let origin = values.len();
    let none = || NoForecast::MissingContext {
        present: values.iter().filter(|value| value.is_finite()).count(),
        needed: design.first_origin(),
    };
    if origin < design.first_origin() {
        return Err(none());
    }
    let mut forecast = SeriesForecast { mean: Vec::with_capacity(horizon), quantiles: Vec::with_capacity(horizon) };
    let mut features = vec![0.0; design.width()];
    for step in 0..horizon {
        let Normal { level, spread } = design.row(number, origin, step, &mut features).ok_or_else(none)?;
        let quantiles = predict(&features, origin + step)?.map(|quantile| quantile * spread + level);
        if !quantiles[MEDIAN].is_finite() {
            return Err(NoForecast::NotFinite);
        }
        forecast.mean.push(mean_of_quantiles(&quantiles));
        forecast.quantiles.push(quantiles);
    }
    Ok(forecast)
}
