//! `auto`: several models as one, with weights learned from forecasts of days that none of them had seen, and quantiles
//! that were as often above the actual values of those days as they say.
//!
//! 1. Each candidate is fitted to the history before each of four parts of its end (`folds`) and forecasts those from
//!    each of their origins.
//! 2. From these forecasts the weights are learned ([`combine`]), by part of the horizon and of the distribution, and by
//!    series, or it is found that the equal mean or a single model does better.
//! 3. What is combined is calibrated on the same days, each by weights that were learned from the others, as far as that
//!    holds for later ones (`calibration`), and stretched until it does (`stretch`).
//! 4. The candidates that have a weight are fitted to the whole history.
//! 5. As time goes on, what has come true since is compared with what would have been forecast of it, and intervals are
//!    made wider or narrower (`follow`).
//!
//! All of this is deterministic for a seed, and [`Forecaster::report`] says what was chosen and why. New data need no new
//! fit: forecasts are made of what the models see at their origin, with the same weights.

mod calibration;
mod candidates;
pub(crate) mod folds;
pub(crate) mod follow;
mod stretch;
mod validation;

use std::collections::BTreeMap;

use meterline_schemas::Micros;
use meterline_schemas::quantiles::{LEVELS, MEDIAN};
use serde::{Deserialize, Serialize};

use self::calibration::Correction;
use self::validation::{Outcome, Validated, bucket, validate};
use crate::artifact::{self, ArtifactError};
use crate::combine::{Choice, Combination, CombineError, Combined, Options, Own, Reason, combine};
use crate::data::Panel;
use crate::device::Device;
use crate::explain::{self, Explanation, Part, SERIES_MAX, renamed};
use crate::forecaster::{Done, FitError, Forecaster, Model, NoForecast, Progress, SeriesForecast, Task};
use crate::metrics::{index_of, mean_of_quantiles};
use crate::registry;

/// Name of the kind.
pub(crate) const NAME: &str = "auto";
/// Raised whenever what is kept changes.
const FORMAT: u32 = 4;
/// Share of the whole time that validation takes, about: four fits of five.
const VALIDATION: f64 = 0.8;

/// The kind of model.
pub struct Auto {
    name: String,
    candidates: Vec<Box<dyn Model>>,
}

impl Default for Auto {
    fn default() -> Auto {
        Auto::of(NAME, candidates::standard())
    }
}

impl Auto {
    /// Of other candidates, the cheapest first, with different names.
    pub fn of(name: impl Into<String>, candidates: Vec<Box<dyn Model>>) -> Auto {
        Auto { name: name.into(), candidates }
    }

    /// One model by its own name, calibrated.
    pub fn calibrated(model: impl Model + 'static) -> Auto {
        Auto::of(model.name().to_owned(), vec![Box::new(model)])
    }

    fn fit_all(&self, panel: &Panel, task: &Task, progress: Progress<'_>) -> Result<FittedAuto, FitError> {
        let candidates = candidates::of_use(&self.candidates, panel, task);
        let to_validation = &mut |done: Done<'_>| progress(done.within(0.0, VALIDATION));
        let Outcome { validated, fits, is_cut_short } = validate(&candidates, panel, task, to_validation)?;
        let learned = match &validated {
            Some(validated) => {
                Learned::from(validated).map_err(|reason| FitError::Failed { model: self.name.clone(), reason })?
            }
            None => None,
        };
        // In the order in which weights go by.
        let names: Vec<String> = match &learned {
            Some(learned) => learned.combination.models().to_vec(),
            None if is_cut_short => fits.iter().map(|(name, _)| name.clone()).collect(),
            None => candidates.iter().map(|model| model.name().to_owned()).collect(),
        };
        let until = panel.origin().unwrap_or(Micros::MIN);
        let fitted = |members| FittedAuto { name: self.name.clone(), members, learned, horizon: task.horizon, until };
        if is_cut_short {
            // There is no time to fit them anew; those before the newest fold know nearly as much.
            let mut fits: BTreeMap<String, Option<Box<dyn Forecaster>>> = fits.into_iter().collect();
            return Ok(fitted(names.iter().map(|name| fits.remove(name).flatten()).collect()));
        }
        let named = |name: &String| candidates.iter().copied().find(|candidate| candidate.name() == name);
        let wanted: Vec<&dyn Model> = names.iter().filter_map(named).collect();
        let mut members = Vec::new();
        let mut failed = None;
        for (number, model) in wanted.iter().enumerate() {
            let part = |done: usize| VALIDATION + (1.0 - VALIDATION) * done as f64 / wanted.len() as f64;
            let (from, to) = (part(number), part(number + 1));
            match model.fit(panel, task, &mut |done| progress(done.within(from, to))) {
                Ok(fitted) => members.push(Some(fitted)),
                Err(error) => {
                    members.push(None);
                    failed = Some(error);
                }
            }
        }
        match failed {
            Some(error) if members.iter().all(Option::is_none) => Err(error),
            _ => Ok(fitted(members)),
        }
    }
}

impl Model for Auto {
    fn name(&self) -> &str {
        &self.name
    }

    /// Where `progress` breaks, no further candidate is tried, and those that were tried forecast as they were fitted last.
    fn fit(&self, panel: &Panel, task: &Task, progress: Progress<'_>) -> Result<Box<dyn Forecaster>, FitError> {
        Ok(Box::new(self.fit_all(panel, task, progress)?))
    }
}

/// What validation taught.
#[derive(Serialize, Deserialize)]
struct Learned {
    combination: Combination,
    correction: Correction,
    // Numbers of the series by which weights and corrections were learned.
    numbers: BTreeMap<String, u32>,
}

impl Learned {
    // Nothing where no candidate has forecasts of enough rows; why not, where there is a number that cannot be used.
    fn from(validated: &Validated) -> Result<Option<Learned>, String> {
        let candidates = validated.candidates();
        let Combined { combination, unseen } = match combine(&validated.for_weights(&candidates), &Options::default()) {
            Ok(combined) => combined,
            Err(CombineError::NoModel { .. } | CombineError::NoRow) => return Ok(None),
            Err(error) => return Err(format!("weights: {error}")),
        };
        let correction = Correction::learn(validated, &unseen);
        let correction = correction.map_err(|error| format!("calibration: {error}"))?;
        Ok(Some(Learned { combination, correction, numbers: validated.numbers() }))
    }
}

/// Several fitted models as one.
pub struct FittedAuto {
    name: String,
    // In the order of the combination; `None` for one that could not be fitted, mostly because the history is too short.
    members: Vec<Option<Box<dyn Forecaster>>>,
    // `None` where the history is too short to learn anything, or lacks too much: the mean of all.
    learned: Option<Learned>,
    horizon: usize,
    // End of what it was fitted to.
    until: Micros,
}

impl FittedAuto {
    /// Reads an artifact; `device` is where networks are put.
    ///
    /// # Errors
    /// It is none of these, or what it is made of cannot be read.
    pub fn from_bytes(bytes: &[u8], device: Device) -> Result<FittedAuto, ArtifactError> {
        let Stored::<Learned> { name, members, learned, horizon, until } = artifact::decode(bytes, NAME, FORMAT)?;
        if learned.as_ref().is_some_and(|learned| {
            !learned.combination.is_sound() || learned.combination.models().len() != members.len()
        }) {
            return Err(ArtifactError::damaged("its weights do not go together"));
        }
        let load = |bytes: Option<Vec<u8>>| bytes.map(|bytes| registry::load_part(&bytes, device)).transpose();
        let members = members.into_iter().map(load).collect::<Result<_, _>>()?;
        Ok(FittedAuto { name, members, learned, horizon, until })
    }

    // Its models by the names that they have here: with other settings one is another.
    fn named(&self) -> impl Iterator<Item = (&str, &dyn Forecaster)> {
        let names = self.learned.as_ref().map_or(&[][..], |learned| learned.combination.models());
        let members = self.members.iter().enumerate();
        members.filter_map(move |(place, member)| {
            let member = member.as_deref()?;
            Some((names.get(place).map_or_else(|| member.name(), String::as_str), member))
        })
    }

    fn combined(&self, series: u32, forecasts: &[Option<&SeriesForecast>], horizon: usize) -> Option<SeriesForecast> {
        let mut combined = SeriesForecast { mean: Vec::with_capacity(horizon), quantiles: Vec::with_capacity(horizon) };
        for step in 0..horizon {
            let rows: Vec<Option<&[f64; LEVELS.len()]>> =
                forecasts.iter().map(|forecast| forecast.and_then(|forecast| forecast.quantiles.get(step))).collect();
            let quantiles = match &self.learned {
                Some(learned) => learned.quantiles(series, bucket(step, self.horizon), &rows)?,
                None => mean_of(&rows)?,
            };
            combined.mean.push(mean_of_quantiles(&quantiles));
            combined.quantiles.push(quantiles);
        }
        Some(combined)
    }
}

/// Levels whose weights are told, where those of the tails are others than those between.
const TOLD: [f64; 3] = [0.1, 0.5, 0.9];

impl Learned {
    fn explain(&self, model: &str, horizon: usize) -> Vec<Explanation> {
        let combination = &self.combination;
        let losses = combination.losses();
        let mut rows = Vec::new();
        if matches!(combination.models(), [only] if only == model) {
            return rows;
        }
        let like = Explanation::new(model, Part::Weight, "", 0.0);
        if self.own() == Own::Nothing {
            rows.extend(self.weights(combination.weights(u32::MAX, u32::MAX, MEDIAN), &like));
        } else {
            for (group, steps) in (0..).zip(explain::parts(horizon)) {
                for level in TOLD {
                    let Some(place) = index_of(&LEVELS, level) else { continue };
                    let steps = Some((steps.start + 1, steps.end));
                    let like = Explanation { level: Some(level), steps, ..like.clone() };
                    rows.extend(self.weights(combination.weights(u32::MAX, group, place), &like));
                }
            }
        }
        let singles = losses.singles.iter().map(|(name, loss)| (name.as_str(), *loss));
        let ways = singles.chain([("equal mean", losses.equal)]).chain(losses.weighted.map(|loss| ("weights", loss)));
        rows.extend(ways.map(|(name, loss)| Explanation::new(model, Part::Loss, name, loss / losses.equal)));
        rows
    }

    // Weights of the median by series, of those that have some of their own: means over the horizon.
    fn explain_series(&self, model: &str, horizon: usize) -> Vec<Explanation> {
        let combination = &self.combination;
        let own: Vec<(&String, &u32)> =
            self.numbers.iter().filter(|(_, number)| combination.has_own(**number)).collect();
        let of_series = |(id, number): &(&String, &u32)| {
            let mut mean = vec![0.0; combination.models().len()];
            for (group, steps) in (0..).zip(explain::parts(horizon)) {
                let share = steps.len() as f64 / horizon.max(1) as f64;
                let of_part = combination.weights(**number, group, MEDIAN);
                mean.iter_mut().zip(of_part).for_each(|(mean, weight)| *mean += share * weight);
            }
            let like = Explanation::new(model, Part::Weight, "", 0.0);
            let like = Explanation { level: Some(LEVELS[MEDIAN]), series: Some((*id).clone()), ..like };
            let told = combination.models().iter().zip(mean).filter(|(_, weight)| *weight > 0.0);
            told.map(|(name, value)| Explanation { term: name.clone(), value, ..like.clone() }).collect::<Vec<_>>()
        };
        let rest = own.len().saturating_sub(SERIES_MAX);
        let left_out = (rest > 0).then(|| Explanation::left_out(model, "series", rest));
        own.iter().take(SERIES_MAX).flat_map(of_series).chain(left_out).collect()
    }

    // What has weights of its own.
    fn own(&self) -> Own {
        match self.combination.choice() {
            Choice::Weighted { own, .. } => *own,
            Choice::Single(_) | Choice::Equal => Own::Nothing,
        }
    }

    // A table of weights; models that are left out have none.
    fn weights(&self, weights: &[f64], like: &Explanation) -> Vec<Explanation> {
        let there = self.combination.models().iter().zip(weights.iter().copied());
        let none = self.combination.left_out().iter().map(|out| (&out.model, 0.0));
        there.chain(none).map(|(name, value)| Explanation { term: name.clone(), value, ..like.clone() }).collect()
    }

    fn quantiles(&self, series: u32, step: u32, rows: &[Option<&[f64; LEVELS.len()]>]) -> Option<[f64; LEVELS.len()]> {
        let rows: Vec<Option<&[f64]>> = rows.iter().map(|row| row.map(<[f64; LEVELS.len()]>::as_slice)).collect();
        let mut quantiles = [0.0; LEVELS.len()];
        self.combination.apply(series, step, &rows, &mut quantiles).ok()?;
        self.correction.apply(series, step, &mut quantiles)?;
        Some(quantiles)
    }
}

fn mean_of(rows: &[Option<&[f64; LEVELS.len()]>]) -> Option<[f64; LEVELS.len()]> {
    let there: Vec<&[f64; LEVELS.len()]> = rows.iter().copied().flatten().collect();
    let mean = |level: usize| there.iter().map(|row| row[level]).sum::<f64>() / there.len() as f64;
    (!there.is_empty()).then(|| std::array::from_fn(mean))
}

/// As it is kept.
#[derive(Serialize, Deserialize)]
struct Stored<L> {
    name: String,
    members: Vec<Option<Vec<u8>>>,
    learned: Option<L>,
    horizon: usize,
    until: Micros,
}

impl Forecaster for FittedAuto {
    fn name(&self) -> &str {
        &self.name
    }

    fn artifact(&self) -> Option<Vec<u8>> {
        let members = self.members.iter().map(|member| match member {
            Some(member) => member.artifact().map(Some),
            None => Some(None),
        });
        let learned = self.learned.as_ref();
        let stored = Stored {
            name: self.name.clone(),
            members: members.collect::<Option<_>>()?,
            learned,
            horizon: self.horizon,
            until: self.until,
        };
        Some(artifact::encode(NAME, FORMAT, &stored))
    }

    /// What was chosen, why, and what each candidate scored on days that it had not seen.
    fn report(&self) -> Option<String> {
        let Some(learned) = &self.learned else {
            let all = "the history is too short to compare models, or lacks too much: the mean of all that it is long enough for";
            return Some(all.to_owned());
        };
        let combination = &learned.combination;
        let losses = combination.losses();
        let scored = losses.singles.iter().map(|(name, loss)| (name.as_str(), *loss));
        let ways = scored.chain([("equal mean", losses.equal)]).chain(losses.weighted.map(|loss| ("weights", loss)));
        let ways: Vec<String> = ways.map(|(name, loss)| format!("{name} {:.4}", loss / losses.equal)).collect();
        let models = combination.models().iter().zip(combination.weights(u32::MAX, u32::MAX, MEDIAN));
        let weights: Vec<String> = models.map(|(name, weight)| format!("{name} {weight:.2}")).collect();
        let choice = match combination.choice() {
            Choice::Single(name) => format!("{name} alone"),
            Choice::Equal => "the equal mean".to_owned(),
            Choice::Weighted { own: Own::Nothing, .. } => "weights".to_owned(),
            Choice::Weighted { own: Own::Steps, .. } => {
                "weights by part of the horizon and of the distribution".to_owned()
            }
            Choice::Weighted { own: Own::Series, .. } => {
                "weights by series, and by part of the horizon and of the distribution".to_owned()
            }
        };
        let why = match combination.reason() {
            Reason::OnlyModel => "no other model has forecasts of enough days".to_owned(),
            Reason::TooFewBlocks { found, needed } => {
                format!("there are {found} of the {needed} days that weights are learned from")
            }
            Reason::LeastLoss { gain } => {
                let others = match combination.choice() {
                    Choice::Weighted { .. } => "the equal mean and each model alone",
                    Choice::Single(_) | Choice::Equal => "any other way",
                };
                format!("it lost {:.1} % less than {others} on days that it had not seen", 100.0 * gain)
            }
            Reason::GainTooSmall { gain, .. } => {
                format!("weights would have lost only {:.1} % less on days that they had not seen", 100.0 * gain)
            }
        };
        Some(format!(
            "{choice}: {why} ({} values of {} days or blocks of days; losses by that of the equal mean: {}). Weights of the median{}: {}. \
             Calibrated: {}.",
            losses.rows,
            losses.blocks,
            ways.join(", "),
            if learned.own() == Own::Series { ", of all series together" } else { "" },
            weights.join(", "),
            learned.correction.report()
        ))
    }

    /// The weights of its models and what they lost, and what these say of themselves.
    fn explain(&self) -> Vec<Explanation> {
        let learned = self.learned.as_ref();
        let own = learned.map(|learned| learned.explain(&self.name, self.horizon));
        let members = self.named().flat_map(|(name, member)| renamed(member.explain(), member.name(), name));
        // Last, because they are left out first where there are many rows.
        let series = learned.map(|learned| learned.explain_series(&self.name, self.horizon));
        own.unwrap_or_default().into_iter().chain(members).chain(series.unwrap_or_default()).collect()
    }

    /// What each of its models says of its own forecast, before they are combined and calibrated.
    fn explain_forecast(&self, panel: &Panel, horizon: usize) -> Vec<Explanation> {
        let members = self.named();
        members
            .flat_map(|(name, member)| renamed(member.explain_forecast(panel, horizon), member.name(), name))
            .collect()
    }

    fn forecast(&self, panel: &Panel, horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>> {
        let mut forecasts = self.as_fitted(panel, horizon);
        // What is not calibrated does not follow either.
        let followed = self
            .learned
            .as_ref()
            .and_then(|_| follow::follow(panel, horizon, self.until, |known| self.as_fitted(known, horizon)));
        if let Some(followed) = followed {
            forecasts.iter_mut().flatten().for_each(|forecast| follow::apply(&followed, forecast));
        }
        forecasts
    }
}

impl FittedAuto {
    // As weights and calibration were when it was fitted.
    fn as_fitted(&self, panel: &Panel, horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>> {
        let forecast =
            |member: &Option<Box<dyn Forecaster>>| member.as_ref().map(|member| member.forecast(panel, horizon));
        let forecasts: Vec<Option<Vec<_>>> = self.members.iter().map(forecast).collect();
        let of_series = |number: usize| {
            let of = |member: &Option<Vec<Result<SeriesForecast, NoForecast>>>| member.as_ref()?.get(number).cloned();
            let all: Vec<Option<Result<SeriesForecast, NoForecast>>> = forecasts.iter().map(of).collect();
            let there: Vec<Option<&SeriesForecast>> = all.iter().map(|one| one.as_ref()?.as_ref().ok()).collect();
            // A series that is new gets what holds for all together.
            let id = &panel.series[number].id;
            let number = self.learned.as_ref().and_then(|learned| learned.numbers.get(id)).copied().unwrap_or(u32::MAX);
            self.combined(number, &there, horizon).ok_or_else(|| {
                let why = all.into_iter().flatten().find_map(Result::err);
                why.unwrap_or(NoForecast::NotFinite)
            })
        };
        (0..panel.series.len()).map(of_series).collect()
    }
}

#[cfg(test)]
mod tests;
