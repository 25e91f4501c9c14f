//! Linear quantile regression on the rows of [`Design`]: for each series, or for all together, for each part of the day and
//! day ahead, one model a level.
//!
//! Load is nearly linear in its own lags, the calendar and functions of the weather; what is not (heating below a
//! temperature, cooling above one) is made so by pieces of lines between knots. A model of its own for each part of the
//! day lets every effect differ by hour, which is what wins load competitions (Hong, Wang, White 2015; Gaillard, Goude,
//! Nedellec 2016). One for each day ahead, because what was yesterday says less of the day after tomorrow.
//!
//! Lines that all series share (a global model: Montero-Manso, Hyndman 2021) know labels, too, and forecast series that
//! were not there when they were fitted; rows are relative to level and spread of their series, so sizes do not matter.

mod parts;
mod split;

use std::collections::BTreeMap;

use meterline_schemas::location::Location;
use meterline_schemas::quantiles::{LEVELS, MEDIAN};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use self::parts::{Parts, Rows};
use super::basis::KNOTS;
use super::direct::{self, Ahead, Origins, Row, Sample, ahead, check_length, each_row, restored};
use crate::artifact::{self, ArtifactError};
use crate::data::{Panel, Series};
use crate::design::{Design, DesignPart, Seen, Wanted, first_origin};
use crate::explain::{Explanation, Part, SERIES_MAX, by_part};
use crate::forecaster::{Done, FitError, Forecaster, Model, NoForecast, Progress, SeriesForecast, Task};
use crate::search::{Configuration, Domain, Parameter};

/// Most rows that lines of all series are fitted to.
const ROWS_MAX: usize = 150_000;
/// Most rows that lines of each series are fitted to, those of all series together, …
const ROWS_OF_EACH_MAX: usize = 4_000_000;
/// … but so many of each series at least. Of 31 loads with 29,000 rows each, lines lost .3 % more with 16,000, 1.7 % with
/// 8,000 and 3.5 % with 4,000; of 20 with 134,000, 6.8 % with 8,000.
const ROWS_OF_EACH_MIN: usize = 4_000;

/// How a linear model is fitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinearSpec {
    /// Most parts of the day that have a model of their own.
    pub parts: usize,
    /// Factor of the penalty that the ridge chooses.
    pub penalty: f64,
    /// Days after which a row counts half; infinite for all alike.
    pub half_life_days: f64,
    /// Whether all series share their lines.
    pub shared: bool,
}

impl Default for LinearSpec {
    fn default() -> LinearSpec {
        LinearSpec { parts: 24, penalty: 1.0, half_life_days: f64::INFINITY, shared: false }
    }
}

impl LinearSpec {
    fn name(&self) -> &'static str {
        if self.shared { NAME_OF_SHARED } else { NAME }
    }

    /// What can be set of it.
    pub(crate) fn parameters() -> Vec<Parameter> {
        vec![
            Parameter::new("parts", Domain::log_integer(1, 24)),
            Parameter::new("penalty", Domain::log_float(0.1, 1_000.0)),
            Parameter::new("half_life_days", Domain::log_float(30.0, 10_000.0)),
        ]
    }

    /// The usual one of lines that all series share.
    pub fn shared() -> LinearSpec {
        LinearSpec { shared: true, parts: 4, penalty: 10.0, ..LinearSpec::default() }
    }

    /// The same with these settings.
    pub(crate) fn with(mut self, settings: &Configuration) -> LinearSpec {
        settings.set_count("parts", &mut self.parts);
        settings.set_float("penalty", &mut self.penalty);
        settings.set_float("half_life_days", &mut self.half_life_days);
        self
    }
}

/// The kind of model.
#[derive(Debug, Clone, Default)]
pub struct LinearQuantile {
    /// How it is fitted.
    pub spec: LinearSpec,
}

/// Name of the kind.
pub(crate) const NAME: &str = "linear_quantile";
/// Name of the kind whose series share their lines.
pub(crate) const NAME_OF_SHARED: &str = "global_linear";
/// Raised whenever the features or what is kept of a model changes.
const FORMAT: u32 = 4;

impl Model for LinearQuantile {
    fn name(&self) -> &str {
        self.spec.name()
    }

    fn fit(&self, panel: &Panel, task: &Task, progress: Progress<'_>) -> Result<Box<dyn Forecaster>, FitError> {
        Ok(Box::new(self.fit_to(panel, &Seen::of(panel), task, progress)?))
    }
}

impl LinearQuantile {
    /// Fits it to the rows of a panel that has this to be seen.
    pub(super) fn fit_to(
        &self,
        panel: &Panel,
        seen: &Seen,
        task: &Task,
        progress: Progress<'_>,
    ) -> Result<FittedLinear, FitError> {
        check_length(self.name(), panel, task.horizon)?;
        let lengths = (panel.frequency.season(), task.horizon);
        let names = seen.names(panel, task);
        let (task, seen) = (task.clone(), seen.clone());
        if self.spec.shared {
            let rows = self.rows_of_all(panel, &seen, &task, names.width());
            // They are fitted at once, in seconds: there is no part of them to be kept where it breaks.
            let _ = progress(Done::share(0.3));
            let shared = Parts::fit(&rows, names.width(), names.bent(), &self.spec, lengths);
            let shared = shared.ok_or_else(|| direct::too_short(self.name(), panel, task.horizon))?;
            let _ = progress(Done::share(1.0));
            let names = names.names().to_vec();
            return Ok(FittedLinear { task, seen, names, shared: Some(shared), fitted: BTreeMap::new() });
        }
        let width = names.own_width();
        // One model failing (a series without enough values) leaves the others alone.
        let mut fitted = BTreeMap::new();
        let numbers = 0..panel.series.len();
        let rows_of = OfEach::new(panel, &task);
        'all: for part in seen.parts(panel, numbers, Wanted::to_learn(&task)) {
            for (place, number) in part.numbers.iter().enumerate() {
                let rows = self.rows(&part, place, rows_of, width);
                if let Some(parts) = Parts::fit(&rows, width, names.bent(), &self.spec, lengths) {
                    fitted.insert(panel.series[*number].id.clone(), parts);
                }
                if progress(Done::share((number + 1) as f64 / panel.series.len() as f64)).is_break() {
                    break 'all;
                }
            }
        }
        if fitted.is_empty() {
            return Err(self.too_short(panel, &names, task.horizon));
        }
        let names = names.names()[..width].to_vec();
        Ok(FittedLinear { task, seen, names, shared: None, fitted })
    }
}

impl LinearQuantile {
    fn too_short(&self, panel: &Panel, design: &Design, horizon: usize) -> FitError {
        let needed = needed(panel, design, horizon);
        FitError::TooShort { model: self.name().into(), needed, longest: panel.longest(), series: panel.series.len() }
    }

    // Those of the series at this place of a part.
    fn rows(&self, part: &DesignPart, place: usize, of_each: OfEach, width: usize) -> Rows {
        let DesignPart { panel, design, .. } = part;
        let origins = of_each.origins(&panel.series[place]);
        let mut rows = Rows::of_steps(origins.every);
        each_row(panel, design, place, origins, |row| {
            self.take(&mut rows, panel, place, row, width);
        });
        rows
    }

    // Some of those of all series, where there are too many.
    fn rows_of_all(&self, panel: &Panel, seen: &Seen, task: &Task, width: usize) -> Rows {
        let mut rows = Rows::of_steps(1);
        Sample::new(panel, task, ROWS_MAX).each_row(panel, seen, task, |number, row| {
            self.take(&mut rows, panel, number, row, width);
        });
        rows
    }

    // Takes so many features of a row of a series.
    fn take(&self, rows: &mut Rows, panel: &Panel, number: usize, row: Row<'_>, width: usize) {
        let age = (panel.series[number].values.len() - row.interval) as f64 / panel.frequency.season() as f64;
        rows.features.extend_from_slice(&row.features[..width]);
        rows.targets.push(row.target);
        rows.weights.push(row.weight * 0.5_f64.powf(age / self.spec.half_life_days) as f32);
        rows.places.push((row.phase, row.step));
    }
}

/// Which rows lines of each series are fitted to: of many series some steps of each forecast, because lines that all have
/// years to learn from take hours, and what is next to a quarter hour says nearly the same.
#[derive(Debug, Clone, Copy)]
struct OfEach {
    // All of them.
    origins: Origins,
    // Values that are known at the first origin.
    first: usize,
    every: usize,
}

impl OfEach {
    fn new(panel: &Panel, task: &Task) -> OfEach {
        let season = panel.frequency.season().max(1);
        let origins = Origins::even(season / task.origins_a_day.max(1), task.horizon);
        let of_each = OfEach { origins, first: first_origin(season), every: 1 };
        OfEach { every: of_each.rows(panel).div_ceil(ROWS_OF_EACH_MAX), ..of_each }
    }

    // Of all series, where no step is left out.
    fn rows(self, panel: &Panel) -> usize {
        panel.series.iter().map(|series| self.rows_of(series)).sum()
    }

    // Of a series, about: what is missing, or counts nothing, is no row.
    fn rows_of(self, series: &Series) -> usize {
        let length = series.values.len();
        let counts = |interval: &usize| series.values[*interval].is_finite() && series.weight(*interval) > 0.0;
        self.origins.rows(length, self.first) * (0..length).filter(counts).count() / length.max(1)
    }

    // Those of a series.
    fn origins(self, series: &Series) -> Origins {
        if self.every < 2 {
            return self.origins;
        }
        self.origins.with_every(self.every.min(self.rows_of(series) / ROWS_OF_EACH_MIN))
    }
}

// How much history has rows enough: one forecast a day, of which those of an hour count as one.
fn needed(panel: &Panel, design: &Design, horizon: usize) -> usize {
    let season = panel.frequency.season().max(1);
    let features = design.own_width() + KNOTS.len() * design.bent().len();
    let in_forecast = (horizon / (season / 24).max(1)).max(1);
    let days = (2 * features).div_ceil(in_forecast) + horizon.div_ceil(season);
    design.first_origin() + days * season
}

/// Intervals that a series of such a panel needs, about; it may have none.
pub(crate) fn needs(panel: &Panel, task: &Task) -> usize {
    needed(panel, &Seen::of(&panel.with(Vec::new())).names(panel, task), task.horizon)
}

/// Rows that lines of each series of a panel have to learn from, all series together, before there are too many.
pub(super) fn rows_of_each(panel: &Panel, task: &Task) -> usize {
    OfEach::new(panel, task).rows(panel)
}

/// A fitted one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FittedLinear {
    task: Task,
    seen: Seen,
    // Of the features.
    names: Vec<String>,
    // Where all series share them.
    shared: Option<Parts>,
    fitted: BTreeMap<String, Parts>,
}

impl FittedLinear {
    /// The same for this place, which is not kept within.
    pub(super) fn at(mut self, location: Option<Location>) -> FittedLinear {
        self.task.location = location;
        self
    }

    // Those that a series is forecast with.
    fn parts(&self, series: &str) -> Option<&Parts> {
        self.shared.as_ref().or_else(|| self.fitted.get(series))
    }

    fn forecast_series(
        &self,
        panel: &Panel,
        design: &Design,
        number: usize,
        horizon: usize,
    ) -> Result<SeriesForecast, NoForecast> {
        // It was not there, or too short, when the model was fitted.
        let parts = self.parts(&panel.series[number].id).ok_or(NoForecast::Unknown)?;
        let Ahead { rows, normal, origin } = ahead(panel, design, number, horizon)?;
        let mut wide = Vec::new();
        let mut all = Vec::with_capacity(horizon);
        for (step, row) in rows.chunks_exact(design.width()).enumerate() {
            let phase = design.phase(number, origin + step);
            all.push(parts.quantiles(row, phase, step, &mut wide).ok_or(NoForecast::NotFinite)?);
        }
        restored(normal, all.into_iter())
    }
}

impl FittedLinear {
    /// The normalised median of one row of a series, as [`Design`] has it, by its time of day in intervals and its step;
    /// `wide` is room to work in. `None` where the series is not known.
    pub(super) fn median(
        &self,
        series: &str,
        row: &[f32],
        (phase, step): (usize, usize),
        wide: &mut Vec<f32>,
    ) -> Option<f32> {
        let quantiles = self.parts(series)?.quantiles(row, phase, step, wide)?;
        Some(quantiles[MEDIAN] as f32).filter(|median| median.is_finite())
    }
}

impl FittedLinear {
    fn explain_series(&self, panel: &Panel, design: &Design, number: usize, horizon: usize) -> Vec<Explanation> {
        let id = &panel.series[number].id;
        let Some(parts) = self.parts(id) else { return Vec::new() };
        let Ok(Ahead { rows, normal, origin }) = ahead(panel, design, number, horizon) else { return Vec::new() };
        let names = parts.basis.names(&self.names);
        let mut terms: Vec<(String, Vec<f64>)> =
            ["level", "kept in reach"].into_iter().map(String::from).chain(names).map(|name| (name, vec![])).collect();
        let mut wide = Vec::new();
        for (step, row) in rows.chunks_exact(design.width()).enumerate() {
            let phase = design.phase(number, origin + step);
            let bounded = parts.quantiles(row, phase, step, &mut wide);
            let model = parts.models.get(parts.split.place(phase, step));
            let found = model.and_then(|model| model.contributions(&wide).ok()?.into_iter().nth(MEDIAN));
            let (Some(bounded), Some(found)) = (bounded, found) else { return Vec::new() };
            let free = found.base + found.features.iter().sum::<f64>();
            let values = [normal.level / normal.spread + found.base, bounded[MEDIAN] - free];
            let values = values.into_iter().chain(found.features);
            terms.iter_mut().zip(values).for_each(|((_, term), value)| term.push(value * normal.spread));
        }
        let like = Explanation::new(self.name(), Part::Contribution, "", 0.0);
        by_part(&Explanation { series: Some(id.clone()), level: Some(LEVELS[MEDIAN]), ..like }, &terms)
    }
}

impl FittedLinear {
    /// Reads an artifact.
    ///
    /// # Errors
    /// It is none of these.
    pub fn from_bytes(bytes: &[u8]) -> Result<FittedLinear, ArtifactError> {
        let kind = artifact::kind_of(bytes)?;
        if ![NAME, NAME_OF_SHARED].contains(&kind) {
            return Err(ArtifactError::Kind(kind.to_owned()));
        }
        let (fitted, location) = artifact::decode_at::<FittedLinear>(bytes, kind, FORMAT)?;
        Ok(fitted.at(location))
    }
}

impl Forecaster for FittedLinear {
    fn name(&self) -> &str {
        if self.shared.is_some() { NAME_OF_SHARED } else { NAME }
    }

    fn artifact(&self) -> Option<Vec<u8>> {
        Some(artifact::encode_at(self.name(), FORMAT, self.task.location, self))
    }

    /// Series that it was not fitted to have no forecast, but of lines that all share.
    fn forecast(&self, panel: &Panel, horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>> {
        direct::each_part(panel, &self.seen, &self.task, horizon, |DesignPart { panel, design, .. }| {
            let numbers = (0..panel.series.len()).into_par_iter();
            numbers.map(|number| self.forecast_series(&panel, &design, number, horizon)).collect()
        })
    }

    /// Coefficients of the median: of all series together those of the features, of each series also those of the pieces
    /// of lines; of shared lines those of both. Values of the series count relative to its level and spread.
    fn explain(&self) -> Vec<Explanation> {
        let like = |series| Explanation {
            series,
            level: Some(LEVELS[MEDIAN]),
            ..Explanation::new(self.name(), Part::Coefficient, "", 0.0)
        };
        let rows = |of: &Explanation, names: &[String], values: &[f64]| -> Vec<Explanation> {
            let row = |(name, value): (&String, &f64)| Explanation { term: name.clone(), value: *value, ..of.clone() };
            names.iter().zip(values).map(row).collect()
        };
        if let Some(shared) = &self.shared {
            return rows(&like(None), &shared.basis.names(&self.names), &shared.coefficients());
        }
        let mut means = vec![0.0; self.names.len()];
        for parts in self.fitted.values() {
            let coefficients = parts.coefficients();
            means.iter_mut().zip(coefficients).for_each(|(mean, one)| *mean += one / self.fitted.len() as f64);
        }
        let mut all = rows(&like(None), &self.names, &means);
        for (id, parts) in self.fitted.iter().take(SERIES_MAX) {
            all.extend(rows(&like(Some(id.clone())), &parts.basis.names(&self.names), &parts.coefficients()));
        }
        let rest = self.fitted.len().saturating_sub(SERIES_MAX);
        all.extend((rest > 0).then(|| Explanation::left_out(self.name(), "series", rest)));
        all
    }

    /// What each feature adds to the median.
    fn explain_forecast(&self, panel: &Panel, horizon: usize) -> Vec<Explanation> {
        let (mut rows, rest) =
            direct::explained(panel, &self.seen, &self.task, horizon, |DesignPart { panel, design, .. }| {
                let numbers = (0..panel.series.len()).into_par_iter();
                numbers.map(|number| self.explain_series(&panel, &design, number, horizon)).collect::<Vec<_>>().concat()
            });
        rows.extend((rest > 0).then(|| Explanation::left_out(self.name(), "series", rest)));
        rows
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use jiff::tz::TimeZone;
    use meterline_schemas::Frequency;
    use meterline_schemas::time::{DAY, HOUR};

    use super::*;

    fn panel(frequency: Frequency, zone: &str, count: usize) -> Panel {
        let value = |at: usize| (at % 24) as f32 + (at / 24 % 7) as f32 + ((at * 7919) % 13) as f32 / 50.0;
        let series = Series::new("a", 0, (0..count).map(value).collect());
        Panel::new(frequency, TimeZone::get(zone).unwrap(), vec![series])
    }

    #[test]
    fn of_many_series_some_steps_are_learned_from_but_of_short_ones_all() {
        let (long, short) = (400 * 96, 40 * 96);
        let panel = |count: usize| {
            let values = |number: usize| vec![1.0; if number == 0 { short } else { long }];
            let series = (0..count).map(|number| Series::new(format!("s{number}"), 0, values(number))).collect();
            Panel::new(Frequency::QUARTER_HOUR, TimeZone::UTC, series)
        };
        let task = Task { origins_a_day: 4, ..Task::new(2 * 96, 2 * 96, 1) };
        let every = |count: usize, number: usize| {
            let panel = panel(count);
            OfEach::new(&panel, &task).origins(&panel.series[number]).every
        };
        assert_eq!((every(2, 1), every(2, 0)), (1, 1));
        // 370 of a year have 110 million rows.
        let rows = rows_of_each(&panel(370), &task);
        assert!((105_000_000..115_000_000).contains(&rows), "{rows}");
        let found = every(370, 1);
        assert!((3_600_000..=ROWS_OF_EACH_MAX).contains(&(rows / found)), "{found}");
        let kept = 4 * 26 * 192 / every(370, 0);
        assert!(kept >= ROWS_OF_EACH_MIN, "{kept}");
        // What is missing is no row: of one that was out for most of the year, more of the rest is taken.
        let mut out = panel(370);
        out.series[1].values[96 * 14..96 * 380].fill(f32::NAN);
        let of_each = OfEach::new(&out, &task);
        let (most, part) = (of_each.origins(&out.series[2]).every, of_each.origins(&out.series[1]).every);
        assert!(most > 20 && (1..=8).contains(&part), "{most} {part}");
    }

    // Not each place that a row may have has rows.
    #[test]
    fn any_horizon_frequency_and_zone_can_be_fitted() {
        for (frequency, zone, count, horizon) in [
            (Frequency::HOUR, "UTC", 90 * 24, 6),
            (Frequency::HOUR, "UTC", 90 * 24, 30),
            (Frequency::HOUR, "UTC", 400 * 24, 36),
            (Frequency::HOUR, "Asia/Kolkata", 120 * 24, 24),
            (Frequency::Day, "UTC", 5 * 365, 14),
            (Frequency::QUARTER_HOUR, "UTC", 40 * 96, 96),
        ] {
            let panel = panel(frequency, zone, count);
            let task = Task::new(horizon, horizon, 1);
            let fitted = LinearQuantile::default().fit(&panel, &task, &mut |_| ControlFlow::Continue(())).unwrap();
            let forecast = fitted.forecast(&panel, horizon).remove(0).unwrap();
            assert_eq!(forecast.quantiles.len(), horizon, "{frequency} {horizon}");
        }
    }

    #[test]
    fn what_features_add_is_the_median_and_their_names_are_those_of_the_design() {
        let panel = panel(Frequency::HOUR, "UTC", 90 * 24);
        let fitted = LinearQuantile::default().fit(&panel, &Task::new(24, 24, 1), &mut |_| ControlFlow::Continue(()));
        let fitted = fitted.unwrap();
        let learned = fitted.explain();
        let design = Design::new(&panel, &Task::new(24, 24, 1));
        assert_eq!(learned.len(), 2 * design.width(), "of all series, and of the one that there is");
        assert!(
            learned.iter().any(|row| row.term == "lag_1w" && row.series.as_deref() == Some("a") && row.value != 0.0)
        );
        let medians: Vec<f64> =
            fitted.forecast(&panel, 24).remove(0).unwrap().quantiles.iter().map(|row| row[MEDIAN]).collect();
        let explained = fitted.explain_forecast(&panel, 24);
        for (part, medians) in medians.chunks(3).enumerate() {
            let of_part = explained.iter().filter(|row| row.steps == Some((3 * part + 1, 3 * part + 3)));
            let (sum, median) = (of_part.map(|row| row.value).sum::<f64>(), medians.iter().sum::<f64>() / 3.0);
            assert!((sum - median).abs() < 1e-3, "{sum} {median}");
        }
    }

    #[test]
    fn forecasts_may_begin_at_any_time_of_day_that_the_task_is_about() {
        let whole = panel(Frequency::HOUR, "UTC", 91 * 24);
        let error = |origins_a_day: usize, begins: usize| {
            let task = Task { origins_a_day, ..Task::new(24, 24, 1) };
            let known = whole.cut(90 * DAY);
            let fitted = LinearQuantile::default().fit(&known, &task, &mut |_| ControlFlow::Continue(())).unwrap();
            let from = 89 * 24 + begins;
            let forecast = fitted.forecast(&whole.cut(from as i64 * HOUR), 24).remove(0).unwrap();
            let actuals = &whole.series[0].values[from..];
            let errors =
                forecast.quantiles.iter().zip(actuals).map(|(row, actual)| (row[MEDIAN] - f64::from(*actual)).abs());
            errors.sum::<f64>() / 24.0
        };
        assert!(error(1, 0) < 0.3, "{}", error(1, 0));
        for begins in [0, 6, 15] {
            assert!(error(4, begins) < 0.3, "{begins}: {}", error(4, begins));
        }
    }

    #[test]
    fn a_history_that_is_too_short_says_so() {
        for days in [10, 15, 17] {
            let fit = LinearQuantile::default().fit(
                &panel(Frequency::HOUR, "UTC", days * 24),
                &Task::new(24, 24, 1),
                &mut |_| ControlFlow::Continue(()),
            );
            let Some(FitError::TooShort { needed, longest, .. }) = fit.err() else { panic!("{days}") };
            assert!(needed > longest, "{needed} {longest}");
        }
    }
}
