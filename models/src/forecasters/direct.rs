//! What models share that predict each step of a forecast directly, from a row of [`Design`].

use meterline_schemas::quantiles::{LEVELS, MEDIAN};

use crate::data::Panel;
use crate::design::{self, Design, DesignPart, Normal, Seen, Wanted};
use crate::explain::{Explanation, SERIES_MAX};
use crate::forecaster::{FitError, NoForecast, SeriesForecast, Task};
use crate::metrics::mean_of_quantiles;
use crate::spread::{place_of_origin, place_of_series};

/// One row to be trained on.
pub(super) struct Row<'a> {
    pub features: &'a [f32],
    /// Relative to level and spread, as the features are.
    pub target: f32,
    pub weight: f32,
    /// The interval of the series that it is about, …
    pub interval: usize,
    /// … and its time of day, in intervals.
    pub phase: usize,
    /// Step of its forecast, from 0.
    pub step: usize,
    /// Number of its origin among those of the series: rows of one depend on each other.
    pub origin: usize,
}

/// Whether some series of a panel is long enough for one forecast to be trained on.
///
/// # Errors
/// None is.
pub(super) fn check_length(model: &str, panel: &Panel, horizon: usize) -> Result<(), FitError> {
    match too_short(model, panel, horizon) {
        FitError::TooShort { needed, longest, .. } if longest >= needed => Ok(()),
        error => Err(error),
    }
}

/// That no series is long enough, or has values enough.
pub(super) fn too_short(model: &str, panel: &Panel, horizon: usize) -> FitError {
    let needed = needs(panel, horizon);
    FitError::TooShort { model: model.into(), needed, longest: panel.longest(), series: panel.series.len() }
}

/// Intervals that a series of such a panel needs for one forecast to be trained on: the first ends a day or more after its
/// origin.
pub(crate) fn needs(panel: &Panel, horizon: usize) -> usize {
    let season = panel.frequency.season();
    design::first_origin(season) + horizon.max(season)
}

/// Where the forecasts of a series begin that are trained on, and how far they go; in intervals.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origins {
    /// From one to the next.
    pub apart: usize,
    /// From the newest to the end of the series: more than none, and at most `apart`.
    pub newest: usize,
    /// Steps of each, …
    pub horizon: usize,
    /// … of which every so many are taken, others at each origin.
    pub every: usize,
}

impl Origins {
    /// As far from the end of the series as from each other.
    pub fn even(apart: usize, horizon: usize) -> Origins {
        let apart = apart.max(1);
        Origins { apart, newest: apart, horizon, every: 1 }
    }

    /// The same with each so many-th step alone.
    pub fn with_every(self, every: usize) -> Origins {
        Origins { every: every.max(1), ..self }
    }

    /// Rows of a series of this length, where so many values are needed at an origin and no step is left out.
    pub fn rows(self, length: usize, needed: usize) -> usize {
        self.known(length, needed).len() * self.horizon
    }

    // The first step that is taken of the origin of this number.
    fn first_step(self, origin: usize) -> usize {
        place_of_origin(origin, self.every)
    }

    /// The same for the series of this number, where each has few origins: the newest a whole number of seasons before the
    /// end, another one for each, so that all together see all days that each sees a few of.
    ///
    /// They are at so many times of day (`times`), too, of which one series may see one alone.
    pub fn of_series(self, number: usize, season: usize, times: usize) -> Origins {
        let step = (season / times.max(1)).max(1);
        let places = self.apart / step;
        if self.apart < 2 * season || places < 2 {
            return self;
        }
        Origins { newest: (1 + place_of_series(number, places)) * step, ..self }
    }

    // Values that are known at each, the oldest origin first, where so many are needed and there are `length`.
    fn known(self, length: usize, needed: usize) -> impl ExactSizeIterator<Item = usize> {
        let newest = length.checked_sub(self.newest).filter(|newest| *newest >= needed);
        let earlier = newest.map_or(0, |newest| (newest - needed) / self.apart + 1);
        (0..earlier).rev().map(move |back| length - self.newest - back * self.apart)
    }
}

/// Which rows of a panel one model for all its series is trained on, if there is a limit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    origins: Origins,
    season: usize,
    times: usize,
    every: usize,
}

impl Sample {
    /// Origins at all times of day that the task is about, further apart where there are more than `rows_max` rows. Where
    /// even one origin of each series is too much, some series stand for all.
    pub fn new(panel: &Panel, task: &Task, rows_max: usize) -> Sample {
        let horizon = task.horizon;
        let season = panel.frequency.season().max(1);
        let first = design::first_origin(season);
        let lengths = || panel.series.iter().map(|series| series.values.len());
        let origins: usize = lengths().map(|length| length.saturating_sub(first)).sum();
        let mut apart = (season / task.origins_a_day.max(1)).max(1);
        let farthest = panel.longest().saturating_sub(first).max(season);
        while origins / apart * horizon > rows_max.max(1) && apart + season <= farthest {
            apart += season;
        }
        let rows = (origins / apart * horizon).max(panel.series.len() * horizon);
        let every = (rows / (2 * rows_max.max(1))).max(1);
        Sample { origins: Origins::even(apart, horizon), season, times: task.origins_a_day, every }
    }

    /// Hands the rows to `take`, with the number of their series, series by series and those of the oldest origin first.
    pub fn each_row(self, panel: &Panel, seen: &Seen, task: &Task, mut take: impl FnMut(usize, Row<'_>)) {
        let numbers = (0..panel.series.len()).step_by(self.every);
        for part in seen.parts(panel, numbers, Wanted::to_learn(task)) {
            for (place, number) in part.numbers.iter().enumerate() {
                let origins = self.origins.of_series(*number, self.season, self.times);
                each_row(&part.panel, &part.design, place, origins, |row| take(*number, row));
            }
        }
    }
}

/// Hands the rows of a series to `take`, those of the oldest origin first.
pub(super) fn each_row(panel: &Panel, design: &Design, number: usize, origins: Origins, mut take: impl FnMut(Row<'_>)) {
    let Some(series) = panel.series.get(number) else { return };
    let length = series.values.len();
    let mut features = vec![0.0; design.width()];
    for (origin, known) in origins.known(length, design.first_origin()).enumerate() {
        let ahead = series.values[known..].iter().take(origins.horizon).enumerate();
        for (step, value) in ahead.skip(origins.first_step(origin)).step_by(origins.every) {
            let normal = match design.row(number, known, step, &mut features) {
                Some(normal) if value.is_finite() => normal,
                _ => continue,
            };
            let interval = known + step;
            let target = ((f64::from(*value) - normal.level) / normal.spread) as f32;
            // What is lost is counted in the unit of the series, not in what its spread was at the time.
            let weight = series.weight(interval) * (normal.spread / design.spread(number)) as f32;
            let phase = design.phase(number, interval);
            take(Row { features: &features, target, weight, interval, phase, step, origin });
        }
    }
}

/// What `of` says of each series of a panel, which it is given some at a time, prepared for forecasts.
pub(super) fn each_part<T>(
    panel: &Panel,
    seen: &Seen,
    task: &Task,
    horizon: usize,
    of: impl FnMut(DesignPart) -> Vec<T>,
) -> Vec<T> {
    let numbers = 0..panel.series.len();
    seen.parts(panel, numbers, Wanted::to_forecast(panel.frequency, horizon, task)).flat_map(of).collect()
}

/// The same of the first series alone that are explained, and how many there are beside them.
pub(super) fn explained(
    panel: &Panel,
    seen: &Seen,
    task: &Task,
    horizon: usize,
    of: impl FnMut(DesignPart) -> Vec<Explanation>,
) -> (Vec<Explanation>, usize) {
    let parts = seen.parts(panel, 0..SERIES_MAX, Wanted::to_forecast(panel.frequency, horizon, task));
    (parts.flat_map(of).collect(), panel.series.len().saturating_sub(SERIES_MAX))
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn origins_are_even_and_those_of_many_series_are_not_the_same_days() {
        let known = |origins: Origins| origins.known(1000, 336).collect::<Vec<usize>>();
        assert_eq!(known(Origins::even(24, 24)).len(), 27);
        assert_eq!((known(Origins::even(24, 24))[0], known(Origins::even(200, 24))), (352, vec![400, 600, 800]));
        assert!(known(Origins::even(665, 24)).is_empty());
        let apart = Origins::even(10 * 24, 24);
        let newest: BTreeSet<usize> =
            (0..70).filter_map(|number| known(apart.of_series(number, 24, 1)).last().copied()).collect();
        assert_eq!(newest, (1..=10).map(|days| 1000 - days * 24).collect());
        // At four times of day, all of them.
        let newest: BTreeSet<usize> =
            (0..200).filter_map(|number| known(apart.of_series(number, 24, 4)).last().copied()).collect();
        assert_eq!(newest, (1..=40).map(|quarters| 1000 - quarters * 6).collect());
        // One origin a day is the same for all.
        assert_eq!(known(Origins::even(24, 24).of_series(5, 24, 1)), known(Origins::even(24, 24)));
    }

    #[test]
    fn steps_that_are_left_out_are_others_at_each_origin() {
        let origins = Origins::even(24, 96).with_every(4);
        let first: BTreeSet<usize> = (0..8).map(|origin| origins.first_step(origin)).collect();
        assert_eq!(first, (0..4).collect());
        assert_eq!((origins.rows(1000, 336), origins.rows(300, 336)), (27 * 96, 0));
        assert_eq!((0..50).map(|origin| Origins::even(24, 96).first_step(origin)).max(), Some(0));
    }
}
