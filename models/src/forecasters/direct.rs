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
    /// Step of its forecast, from 0.
    pub step: usize,
    /// Number of its origin among those of the series: rows of one depend on each other.
    pub origin: usize,
}

/// Whether some series of a panel is long enough for one forecast to be trained on.
///
/// # Errors
/// None is.
pub(super) fn check_length(model: &str, panel: &Panel, design: &Design, horizon: usize) -> Result<(), FitError> {
    match too_short(model, panel, design, horizon) {
        FitError::TooShort { needed, longest, .. } if longest >= needed => Ok(()),
        error => Err(error),
    }
}

/// That no series is long enough, or has values enough.
pub(super) fn too_short(model: &str, panel: &Panel, design: &Design, horizon: usize) -> FitError {
    let longest = panel.series.iter().map(|series| series.values.len()).max().unwrap_or(0);
    // The first forecast that is trained on ends a day or more after its origin.
    let needed = design.first_origin() + horizon.max(panel.frequency.season());
    FitError::TooShort { model: model.into(), needed, longest, series: panel.series.len() }
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
            // What is lost is counted in the unit of the series, not in what its spread was at the time.
            let weight = series.weight(interval) * (normal.spread / design.spread(number)) as f32;
            take(Row { features: &features, target, weight, interval, step, origin });
        }
    }
}

/// The rows of the forecast of a series.
pub(super) struct Ahead {
    /// Features of each step, one row after the other.
    pub rows: Vec<f32>,
    /// By which they are normalised.
    pub normal: Normal,
    /// The interval of the series that the first one is about.
    pub origin: usize,
}

/// The rows of the forecast of a series from the end of its values.
///
/// # Errors
/// The series is too short.
pub(super) fn ahead(panel: &Panel, design: &Design, number: usize, horizon: usize) -> Result<Ahead, NoForecast> {
    let values = panel.series.get(number).map_or(&[][..], |series| &series.values);
    let origin = values.len();
    let none = || NoForecast::MissingContext {
        present: values.iter().filter(|value| value.is_finite()).count(),
        needed: design.first_origin(),
    };
    if origin < design.first_origin() {
        return Err(none());
    }
    let width = design.width();
    let mut rows = vec![0.0; horizon * width];
    let mut normal = None;
    for (step, row) in rows.chunks_exact_mut(width).enumerate() {
        normal = Some(design.row(number, origin, step, row).ok_or_else(none)?);
    }
    Ok(Ahead { rows, normal: normal.ok_or_else(none)?, origin })
}

/// A forecast from the normalised quantiles of each step.
///
/// # Errors
/// A median is not finite.
pub(super) fn restored(
    normal: Normal,
    quantiles: impl Iterator<Item = [f64; LEVELS.len()]>,
) -> Result<SeriesForecast, NoForecast> {
    let mut forecast = SeriesForecast { mean: Vec::new(), quantiles: Vec::new() };
    for quantiles in quantiles {
        let quantiles = quantiles.map(|quantile| quantile * normal.spread + normal.level);
        if !quantiles[MEDIAN].is_finite() {
            return Err(NoForecast::NotFinite);
        }
        forecast.mean.push(mean_of_quantiles(&quantiles));
        forecast.quantiles.push(quantiles);
    }
    Ok(forecast)
}
