//! Models and forecasts within a replay: what a policy's runs would have made of the data that there were, and how good
//! that was once the truth came.
//!
//! A build and a forecast are those of the pipelines (the same windows, the same gate), on some of the group's series.
//! They are made once: policies that are replayed one after the other share what they have in common.

use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use meterline_models::backtest::compare_at_cost;
use meterline_models::data::{Covariate, Known, Panel};
use meterline_models::forecaster::{Forecaster, SeriesForecast};
use meterline_models::forecasters::guarded::baseline;
use meterline_models::metrics::{Sums, seasonal_scale};
use meterline_models::plausible::hide;
use meterline_models::{device, registry};
use meterline_schemas::Micros;
use meterline_schemas::config::ResolvedPolicy;
use meterline_schemas::quantiles::MEDIAN;
use xxhash_rust::xxh3::Xxh3Default;

use super::scores::{SCALED_ERROR_MAX, Scores};
use super::shift;
use crate::metadata::records::RunSpec;
use crate::pipelines::build::evaluate::figures;
use crate::pipelines::build::train::task;
use crate::pipelines::build::{evaluated, evaluation_origins, gate, trained_from, trained_until};
use crate::pipelines::covariates::horizon::{self, Informed};
use crate::pipelines::error::{Doing, StepError};
use crate::pipelines::{SEASONAL_NAIVE, context, history};

/// What a build came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Built {
    /// Figures of the evaluation, as the gate sees them.
    pub figures: BTreeMap<String, Option<f64>>,
    /// Whether the gate accepts it.
    pub accepted: bool,
    /// Why, or why not.
    pub reason: String,
    /// Seconds that fitting took.
    pub seconds: f64,
    /// End of the last interval that it was trained on.
    pub trained_until: Micros,
}

/// How good the forecasts of a replay were.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Accuracy {
    /// Over all steps of all forecasts that came true.
    pub all: Sums,
    /// Over each interval's newest forecast.
    pub newest: Sums,
    /// Seasonal naive, over all steps of the same forecasts.
    pub naive: Sums,
}

/// Builds and forecasts of one group.
pub struct Learner {
    panel: Panel,
    // A number for what is known beside the series.
    inputs: u64,
    models: HashMap<(Micros, String), Fitted>,
    forecasts: HashMap<(Micros, String), Arc<Vec<Step>>>,
    // Of this replay: which forecasts were made, oldest first.
    made: Vec<(Micros, String, Arc<Vec<Step>>)>,
    naive: Vec<Arc<Vec<Step>>>,
    // Names of the replay's models, and what they are.
    versions: HashMap<String, (Micros, String)>,
}

struct Fitted {
    model: Option<Arc<dyn Forecaster>>,
    error: String,
    seconds: f64,
}

/// One step ahead, of all series.
#[derive(Debug, Clone, Default)]
struct Step {
    end: Micros,
    sums: Sums,
    scaled: f64,
    scaled_points: usize,
    stood_in: usize,
    series: usize,
}

impl Learner {
    /// A learner that knows the history of some of the group's series, with what is known beside them. What no meter can have
    /// meant is missing in it, as it is for models and figures of runs.
    pub fn new(mut panel: Panel) -> Learner {
        hide(&mut panel);
        Learner {
            inputs: inputs(&panel),
            panel,
            models: HashMap::new(),
            forecasts: HashMap::new(),
            made: Vec::new(),
            naive: Vec::new(),
            versions: HashMap::new(),
        }
    }

    /// How many series it learns from.
    pub fn series(&self) -> usize {
        self.panel.series.len()
    }

    /// Goes by another panel of the same series from now on: what is known beside them is another for another policy.
    pub fn show(&mut self, mut panel: Panel) {
        hide(&mut panel);
        self.inputs = inputs(&panel);
        self.panel = panel;
    }

    /// Begins another replay; what was fitted and forecast is remembered.
    pub fn begin(&mut self) {
        self.made.clear();
        self.naive.clear();
        self.versions.clear();
    }

    /// Builds a model as a run would, and remembers it as `version`.
    ///
    /// # Errors
    ///
    /// [`StepError`], as the run's step would fail.
    pub fn build(&mut self, spec: &RunSpec, champion: Option<&str>, version: &str) -> Result<Built, StepError> {
        let zone = self.panel.zone.clone();
        let until = trained_until(spec, &zone);
        let key = (until, self.settings(spec));
        if !self.models.contains_key(&key) {
            let fitted = self.fit(spec, until)?;
            self.models.insert(key.clone(), fitted);
        }
        let fitted = self.models.get(&key).ok_or_else(|| StepError::failed("fitting a model", "it is not there"))?;
        let seconds = fitted.seconds;
        let Some(candidate) = &fitted.model else {
            return Err(StepError::failed("fitting a model", fitted.error.clone()));
        };
        let naive = baseline(spec.frequency);
        let mut models: Vec<&dyn Forecaster> = vec![&**candidate, &naive];
        let champion = champion.and_then(|version| self.versions.get(version)).and_then(|key| self.models.get(key));
        models.extend(champion.and_then(|fitted| fitted.model.as_deref()).map(|model| model as &dyn Forecaster));
        let shown = self.panel.cut(spec.origin).newest(evaluated(&spec.policy));
        let origins = evaluation_origins(spec, &zone);
        let cost = context::cost(&spec.policy)?;
        let evaluations = compare_at_cost(&models, &shown, &origins, spec.policy.horizon, cost);
        let [candidate, naive, rest @ ..] = &evaluations[..] else {
            return Err(StepError::failed("scoring the candidate", "the comparison gave no figures"));
        };
        let figures = figures(candidate, naive, rest.first(), cost.is_some());
        let gated = gate::decide(&spec.policy.accept_if, &figures)?;
        self.versions.insert(version.to_owned(), key);
        Ok(Built { figures, accepted: gated.accepted, reason: gated.reason, seconds, trained_until: until })
    }

    // What a model is made by, beside the values of its series.
    fn settings(&self, spec: &RunSpec) -> String {
        let policy = &spec.policy;
        format!(
            "{} {:?} {} {} {} {} {} {:?} {:?} {:?} {:?} {:?} {} {:x}",
            policy.model,
            policy.settings,
            policy.horizon,
            policy.context,
            policy.history,
            policy.seed,
            policy.origins_a_day,
            policy.holidays,
            policy.days_off,
            policy.workdays,
            policy.location,
            spec.covariates,
            policy.estimated_weight,
            self.inputs
        )
    }

    fn fit(&self, spec: &RunSpec, until: Micros) -> Result<Fitted, StepError> {
        let policy = &spec.policy;
        let kind = registry::find(&policy.model)
            .ok_or_else(|| StepError::failed("choosing the model", super::no_such_kind(&policy.model)))?;
        let device = device::resolve(&spec.device).doing(|| format!("taking the device `{}`", spec.device))?;
        let task = task(policy, device)?;
        let model = kind.with(&policy.settings).doing(|| format!("choosing the settings of {}", kind.name))?;
        let from = trained_from(spec, &self.panel.zone);
        let length = usize::try_from(spec.frequency.steps_between(from, until, &self.panel.zone)).unwrap_or(0);
        let known = self.panel.cut(until).newest(length);
        let limit = policy.train_time.to_std();
        let began = Instant::now();
        let fitted = model.fit(&known, &task, &mut |_| {
            if began.elapsed() >= limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let seconds = began.elapsed().as_secs_f64();
        Ok(match fitted {
            Ok(model) => Fitted { model: Some(model.into()), error: String::new(), seconds },
            Err(error) => Fitted { model: None, error: error.to_string(), seconds },
        })
    }

    /// Forecasts from an origin by the model that is remembered as `version`; seasonal naive where there is none, and
    /// where it has no forecast. Returns the seconds that it took: none, if it was forecast in an earlier replay.
    ///
    /// # Errors
    ///
    /// [`StepError`], as the run's step would fail: a covariate is missing ahead, and nothing may stand in.
    pub fn infer(&mut self, spec: &RunSpec, version: Option<&str>) -> Result<f64, StepError> {
        let began = Instant::now();
        let key = version.and_then(|version| self.versions.get(version)).cloned();
        let model = key.as_ref().and_then(|key| self.models.get(key)).and_then(|fitted| fitted.model.clone());
        // What a model is shown, and how far it looks ahead, is in its settings.
        let naive = format!("{} {}", spec.policy.horizon, history::shown(&spec.policy));
        let name = key.map_or_else(|| naive.clone(), |(at, settings)| format!("{at} {settings}"));
        let steps = self.steps(spec, model.as_deref(), name)?;
        let naive = self.steps(spec, None, naive)?;
        self.made.push((spec.origin, version.unwrap_or(SEASONAL_NAIVE).to_owned(), steps));
        self.naive.push(naive);
        Ok(began.elapsed().as_secs_f64())
    }

    fn steps(
        &mut self,
        spec: &RunSpec,
        model: Option<&dyn Forecaster>,
        name: String,
    ) -> Result<Arc<Vec<Step>>, StepError> {
        let key = (spec.origin, name);
        if let Some(known) = self.forecasts.get(&key) {
            return Ok(Arc::clone(known));
        }
        let (frequency, zone, length) = (self.panel.frequency, self.panel.zone.clone(), spec.policy.horizon);
        let cut = self.panel.cut(spec.origin);
        let mut shown = cut.newest(history::shown(&spec.policy));
        let naive = baseline(frequency).forecast(&shown, length);
        let forecasts = match model {
            Some(model) => {
                let completed = horizon::whole(spec, &mut shown)?;
                Some(Informed { model, without: &completed.without }.forecast(&shown, length))
            }
            None => None,
        };
        let mut steps = vec![Step::default(); length];
        for (step, ahead) in steps.iter_mut().zip(1..) {
            step.end = frequency.advance(spec.origin, ahead, &zone);
        }
        for (index, series) in self.panel.series.iter().enumerate() {
            let known = cut.series.get(index).map_or(0, |series| series.values.len());
            let scale = seasonal_scale(series.values.get(..known).unwrap_or_default(), frequency.season());
            let by_model = forecasts.as_ref().and_then(|all| all.get(index)?.as_ref().ok());
            let Some(forecast) = by_model.or_else(|| naive.get(index)?.as_ref().ok()) else { continue };
            let actuals = series.values.get(known..).unwrap_or_default();
            score(&mut steps, forecast, actuals, scale, model.is_some() && by_model.is_none());
        }
        let steps = Arc::new(steps);
        self.forecasts.insert(key, Arc::clone(&steps));
        Ok(steps)
    }

    /// What is known at `origin` of the forecasts that `champion` made, over the last horizon, and how much of the newest
    /// forecasts seasonal naive stood in for.
    pub(super) fn scores(&self, policy: &ResolvedPolicy, champion: Option<&str>, origin: Micros) -> Scores {
        let since = self.panel.frequency.advance(origin, -(policy.horizon as i64), &self.panel.zone);
        let half = policy.horizon.div_ceil(2);
        let mut ends = std::collections::BTreeSet::new();
        let (mut scaled, mut scaled_points) = (0.0, 0);
        let (mut near, mut far) = ((0, 0), (0, 0));
        let of_champion =
            |made: &&(Micros, String, Arc<Vec<Step>>)| champion.is_some_and(|champion| made.1 == champion);
        // Those that ended before have nothing in it.
        let ends_in = |steps: &[Step]| steps.last().is_some_and(|last| last.end > since);
        let recent = self.made.iter().rev().take_while(|(_, _, steps)| ends_in(steps));
        for (_, _, steps) in recent.filter(of_champion) {
            for (index, step) in steps.iter().enumerate().filter(|(_, step)| step.end > since && step.end <= origin) {
                scaled += step.scaled;
                scaled_points += step.scaled_points;
                let half = if index < half { &mut near } else { &mut far };
                half.0 += step.sums.covered;
                half.1 += step.sums.points;
                if step.sums.points > 0 {
                    ends.insert(step.end);
                }
            }
        }
        let newest = self.made.last().and_then(|(_, _, steps)| steps.first());
        let substituted_share =
            newest.filter(|step| step.series > 0).map(|step| step.stood_in as f64 / step.series as f64);
        let trained_until = champion.and_then(|champion| self.versions.get(champion)).map(|(until, _)| *until);
        let input_shift = trained_until.and_then(|until| shift::of_panel(&self.panel, policy.context, until, origin));
        if ends.len() < half {
            return Scores { substituted_share, input_shift, ..Scores::default() };
        }
        let share = |(covered, points): (usize, usize)| (points > 0).then(|| covered as f64 / points as f64);
        Scores {
            mase: (scaled_points > 0).then(|| scaled / scaled_points as f64),
            coverage: share((near.0 + far.0, near.1 + far.1)),
            coverage_near: share(near),
            coverage_far: share(far),
            substituted_share,
            input_shift,
        }
    }

    /// How good the forecasts of this replay were.
    pub fn accuracy(&self) -> Accuracy {
        let mut accuracy = Accuracy::default();
        for (index, (_, _, steps)) in self.made.iter().enumerate() {
            let next = self.made.get(index + 1).map_or(Micros::MAX, |(origin, _, _)| *origin);
            for step in steps.iter() {
                accuracy.all.merge(&step.sums);
                if step.end <= next {
                    accuracy.newest.merge(&step.sums);
                }
            }
        }
        for step in self.naive.iter().flat_map(|steps| steps.iter()) {
            accuracy.naive.merge(&step.sums);
        }
        accuracy
    }
}

fn score(steps: &mut [Step], forecast: &SeriesForecast, actuals: &[f32], scale: Option<f64>, stood_in: bool) {
    for (index, step) in steps.iter_mut().enumerate() {
        step.series += 1;
        step.stood_in += usize::from(stood_in);
        let (Some(actual), Some(quantiles)) = (actuals.get(index), forecast.quantiles.get(index)) else { continue };
        let actual = f64::from(*actual);
        if !actual.is_finite() {
            continue;
        }
        step.sums.add(actual, quantiles);
        let scaled = scale.filter(|scale| *scale > 0.0).map(|scale| (actual - quantiles[MEDIAN]).abs() / scale);
        if let Some(scaled) = scaled.filter(|scaled| *scaled < SCALED_ERROR_MAX) {
            step.scaled += scaled;
            step.scaled_points += 1;
        }
    }
}

// A number that tells what is known beside the series of one panel from that of another.
fn inputs(panel: &Panel) -> u64 {
    let mut hasher = Xxh3Default::new();
    for Covariate { name, known } in &panel.covariates {
        (name, *known == Known::Ahead).hash(&mut hasher);
    }
    panel.labels.hash(&mut hasher);
    for series in &panel.series {
        (&series.id, &series.labels).hash(&mut hasher);
        for column in &series.covariates {
            (column.offset, column.values.len()).hash(&mut hasher);
            column.values.iter().for_each(|value| value.to_bits().hash(&mut hasher));
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use meterline_models::data::{Column, Series};
    use meterline_schemas::Frequency;
    use meterline_schemas::config::{parse, resolve_policy};
    use meterline_schemas::quantiles::LEVELS;
    use meterline_schemas::time::DAY;

    use super::super::past::tests::each_hour;
    use super::super::simulate::{Replay, Subject, simulate_with};
    use super::*;
    use crate::metadata::records::Pipeline;
    use crate::pipelines::covariates;

    /// Days of a wave that doubles on day 40.
    fn panel() -> Panel {
        let value = |hour: usize| {
            let level = if hour < 40 * 24 { 10.0 } else { 20.0 };
            let noise = ((hour * 7919) % 13) as f32 / 13.0;
            level + 5.0 * (hour as f32 * std::f32::consts::TAU / 24.0).sin() + noise
        };
        let series = |name: &str| Series::new(name, 0, (0..70 * 24).map(value).collect());
        Panel::new(Frequency::HOUR, TimeZone::UTC, vec![series("a"), series("b")])
    }

    fn replayed(learner: &mut Learner, retrain: &str) -> (Replay, Accuracy) {
        let text = format!(
            "[policy.a]\nfrequency = \"PT1H\"\nhorizon = \"1d\"\ncontext = \"7d\"\n[policy.a.model]\nkind = \"theta\"\n\
             [policy.a.reforecast]\nwhen = \"new_intervals >= 24 or champion_is_new\"\nrequire = \"\"\n\
             [policy.a.gate]\naccept_if = \"true\"\n\
             [policy.a.retrain]\nrequire = \"history_intervals >= 336\"\nwhen = \"{retrain}\"\ncooldown = \"1d\"\n"
        );
        replayed_from(15 * 24, learner, &text)
    }

    fn replayed_from(first: i64, learner: &mut Learner, text: &str) -> (Replay, Accuracy) {
        let config = parse(text).unwrap();
        let policy = resolve_policy(Frequency::HOUR, &config.policy);
        let subject = Subject {
            covariates: covariates::configured(&config, &policy),
            policy,
            evaluations: each_hour(first, 69 * 24),
            past: Default::default(),
            standings: Default::default(),
            typical: Default::default(),
        };
        let replay = simulate_with(&[subject], std::slice::from_mut(learner), &mut |_| ()).unwrap().remove(0);
        (replay, learner.accuracy())
    }

    /// The wave, with the load of a weather that is known ahead up to `known` hours from the beginning.
    fn weathered(known: usize) -> Panel {
        let weather = |hour: usize| ((hour * 7919 + hour / 7 * 104_729) % 101) as f32 / 10.0;
        let mut panel = panel();
        panel.covariates = vec![Covariate { name: "weather".into(), known: Known::Ahead }];
        for series in &mut panel.series {
            series.values.iter_mut().enumerate().for_each(|(hour, value)| *value += 2.0 * weather(hour));
            series.covariates = vec![Column { offset: 0, values: (0..known).map(weather).collect() }];
        }
        panel
    }

    #[test]
    fn models_are_shown_what_the_policy_names_and_a_run_fails_that_lacks_it() {
        let policy = |covariates: &str| {
            format!(
                "[covariate.weather]\nfile = \"weather.csv\"\n[policy.a]\nfrequency = \"PT1H\"\nhorizon = \"1d\"\n\
                 context = \"7d\"\n[policy.a.model]\nkind = \"linear_quantile\"\ncovariates = [{covariates}]\n\
                 [policy.a.reforecast]\nwhen = \"new_intervals >= 24 or champion_is_new\"\nrequire = \"\"\n\
                 [policy.a.gate]\naccept_if = \"true\"\n[policy.a.retrain]\nrequire = \"\"\nwhen = \"not has_champion\"\n"
            )
        };
        let (with, without) = (policy("\"weather\""), policy(""));
        let all = 70 * 24;
        let mut learner = Learner::new(weathered(all));
        let (replay, told) = replayed_from(60 * 24, &mut learner, &with);
        assert_eq!(replay.fired.iter().find_map(|fired| fired.error.as_deref()), None);
        let mut bare = weathered(all);
        bare.covariates.clear();
        bare.series.iter_mut().for_each(|series| series.covariates.clear());
        learner.show(bare);
        let (_, untold) = replayed_from(60 * 24, &mut learner, &without);
        let wql = |accuracy: &Accuracy| accuracy.all.wql().unwrap();
        assert!(wql(&told) < 0.9 * wql(&untold), "{} {}", wql(&told), wql(&untold));
        assert_eq!(learner.models.len(), 2, "one of each policy");
        let (_, shorter) =
            replayed_from(60 * 24, &mut learner, &without.replace("horizon = \"1d\"", "horizon = \"6h\""));
        assert!(shorter.naive.points < untold.naive.points, "seasonal naive looks as far ahead as the policy");
        // The weather ends within the horizon of a forecast.
        learner.show(weathered(65 * 24));
        let (replay, _) = replayed_from(60 * 24, &mut learner, &with);
        let failed = replay.fired.iter().filter(|fired| fired.error.is_some());
        let failed: Vec<(Pipeline, &str)> =
            failed.map(|fired| (fired.pipeline, fired.error.as_deref().unwrap_or_default())).collect();
        assert!(failed.iter().all(|(pipeline, _)| *pipeline == Pipeline::Infer) && !failed.is_empty(), "{failed:?}");
        assert!(failed[0].1.contains("`weather` is missing within the horizon"), "{failed:?}");
    }

    #[test]
    fn a_policy_that_looks_at_the_error_retrains_when_it_rises() {
        let mut learner = Learner::new(panel());
        let (replay, accuracy) = replayed(&mut learner, "not has_champion or mase_ratio > 1.5");
        let builds: Vec<Micros> = replay
            .fired
            .iter()
            .filter(|fired| fired.pipeline == Pipeline::Build)
            .map(|fired| fired.origin / DAY)
            .collect();
        assert_eq!(replay.fired.iter().find_map(|fired| fired.error.as_deref()), None);
        assert_eq!(builds[0], 15);
        assert!(builds.len() > 1 && (40..43).contains(&builds[1]), "{builds:?}");
        assert!(replay.fired.iter().all(|fired| fired.device_seconds.is_some()));
        assert!(accuracy.all.points > 50 * 24 * 2 && accuracy.all.wql() < accuracy.naive.wql(), "{accuracy:?}");
        // Another policy over the same past is another replay, and what both have in common is the same.
        let fits = learner.models.len();
        let (once, _) = replayed(&mut learner, "not has_champion");
        assert_eq!(once.fired.iter().filter(|fired| fired.pipeline == Pipeline::Build).count(), 1);
        assert_eq!(learner.models.len(), fits, "it was fitted before");
        assert_eq!(replayed(&mut learner, "not has_champion or mase_ratio > 1.5").1, accuracy);
    }

    #[test]
    fn nothing_from_after_an_origin_is_known_at_it() {
        let mut poisoned = panel();
        for series in &mut poisoned.series {
            for value in series.values.iter_mut().skip(50 * 24) {
                *value = 1e6;
            }
        }
        let spec = RunSpec {
            origin: 50 * DAY,
            policy: resolve_policy(Frequency::HOUR, &Default::default()),
            ..crate::pipelines::spec::tests::spec("r")
        };
        let spec = RunSpec { policy: ResolvedPolicy { model: "theta".into(), ..spec.policy.clone() }, ..spec };
        let figures = |panel: Panel| {
            let mut learner = Learner::new(panel);
            let built = learner.build(&spec, None, "v").unwrap();
            learner.infer(&RunSpec { origin: 48 * DAY, ..spec.clone() }, Some("v")).unwrap();
            (built.figures, learner.scores(&spec.policy, Some("v"), 50 * DAY))
        };
        let (clean, poisoned) = (figures(panel()), figures(poisoned));
        assert_eq!(clean, poisoned);
        assert!(clean.1.mase.is_some() && clean.1.coverage_near.is_some());
    }

    #[test]
    fn an_error_that_no_meter_can_have_meant_is_none() {
        let forecast = SeriesForecast { mean: vec![1.0; 2], quantiles: vec![[1.0; LEVELS.len()]; 2] };
        let mut steps = vec![Step::default(); 2];
        score(&mut steps, &forecast, &[3.0, 1e6], Some(1.0), false);
        let scaled: Vec<(f64, usize)> = steps.iter().map(|step| (step.scaled, step.scaled_points)).collect();
        assert_eq!(scaled, [(2.0, 1), (0.0, 0)]);
    }
}
