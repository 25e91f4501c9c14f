//! `[policy.NAME]`: when the pipelines of one frequency run, and what a model must show to be used.
//!
//! Every key but the frequency is optional: [`resolve_policy`] fills the rest with the defaults of the frequency.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::selector::Selector;
use super::trigger::{ResolvedTrigger, TriggerConfig, TriggerDefaults};
use crate::frequency::Frequency;
use crate::length::Length;
use crate::location::Location;
use crate::settings::Settings;
use crate::time::{DAY, Date, Span};

/// Policy of the model groups of one frequency, or of one of them, or of its series with a label.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyConfig {
    /// The frequency that the policy applies to. Required.
    pub frequency: Frequency,
    /// The one model group that the policy applies to, such as `P1D@Europe/Lisbon`. What it does not say is taken from the
    /// policy of the frequency, key by key. Default all groups of the frequency.
    #[serde(default)]
    pub group: Option<String>,
    /// One label with one value, such as `{ tariff = "industry" }`: the series of the frequency whose label has it are a
    /// model group of their own, `PT15M/tariff=industry`. What the policy does not say is taken from the policy of the
    /// frequency, key by key. The label must come from a file of `[labels.*]`; of two policies that take a series the first
    /// by name counts. A change of which labels and values there are counts with a restart. Default none.
    #[serde(default)]
    pub label: Option<BTreeMap<String, String>>,
    /// How far ahead forecasts reach. Default by frequency: 2 days below a day, 14 days for days, 8 weeks, 12 months.
    #[serde(default)]
    pub horizon: Option<Length>,
    /// How much history a forecast looks at. Default by frequency: 7 days below a day, 56 days for days, 104 weeks, 48
    /// months.
    #[serde(default)]
    pub context: Option<Length>,
    /// What each unit costs by which the actual value of an interval is above the forecast that was decided on: money, or
    /// any weight, per unit of the series (kWh). With `cost_over`, or neither. Default none: the median decides.
    #[serde(default)]
    pub cost_under: Option<f64>,
    /// The same for each unit by which the actual value is below it. The forecast that costs least, the column `decision`
    /// of `forecasts`, is the quantile at `cost_under / (cost_under + cost_over)`, kept within 0.001 to 0.999.
    #[serde(default)]
    pub cost_over: Option<f64>,
    /// When every series is forecast again.
    #[serde(default)]
    pub reforecast: TriggerConfig,
    /// When a new model is trained.
    #[serde(default)]
    pub retrain: TriggerConfig,
    /// When series whose readings were corrected within what their published forecasts were made from are forecast anew,
    /// from the origin of those, with the roll-ups that they are part of; the others keep their forecasts.
    #[serde(default)]
    pub correct: TriggerConfig,
    /// What a new model must show.
    #[serde(default)]
    pub gate: GateConfig,
    /// How a model is trained.
    #[serde(default)]
    pub model: ModelConfig,
}

/// `[policy.NAME.gate]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GateConfig {
    /// SQL predicate over the evaluation: `wql`, `nd`, `mase`, `coverage` (of the 80 % interval) and `coverage_90` of the
    /// candidate, the same with the prefix `naive_` and `champion_`. Where the policy has `cost_under` and `cost_over`
    /// also `cost`, the mean cost of an interval. While there is no champion, seasonal naive is the champion. A missing
    /// figure rejects wherever the predicate looks at it, also in one branch of an `or`. Default `wql <= naive_wql and
    /// wql <= 1.02 * champion_wql`.
    pub accept_if: Option<String>,
    /// `automatic` or `manual` (an accepted model waits for `meterline models approve`). Default `automatic`.
    pub approval: Option<Approval>,
}

/// Who approves a model that passed its gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Approval {
    /// The gate alone.
    #[default]
    Automatic,
    /// A person.
    Manual,
}

/// `[policy.NAME.model]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConfig {
    /// Which model is trained: one of those that `meterline models kinds` lists. `auto` (several, weighted by what they
    /// forecast of days that they had not seen) is the best, and takes many times as long. An infer run shows most kinds
    /// twelve weeks of each series, and `quantile_mlp` its context alone, which a group of a million quarter-hourly series
    /// needs. Default `quantile_mlp`.
    pub kind: Option<String>,
    /// Longest training time. Default `10m`; what was learned by then is kept.
    pub train_time: Option<Span>,
    /// Most history that is trained on, or what the kind of model needs (`history_needed`), where that is more. Default by frequency: 400 days below a day, 1830 days for days, 530 weeks, 240
    /// months.
    pub history: Option<Length>,
    /// Time at the end of the group's history that evaluation keeps to itself, in horizons, at least 1. Default 3.
    pub evaluate_windows: Option<usize>,
    /// Times of day at which infer runs may begin that models on features (`auto`, `linear_quantile`, `boosted_trees`,
    /// `feature_mlp` and the like) learn from, about, 1 to 24: from another one they forecast worse. With 1, models learn
    /// from the time at which the training data end alone: a little better, where infer always runs at that time of day,
    /// and far worse elsewhere. Where intervals are days or longer, places within a week or a year. Default 4, each six
    /// hours.
    pub origins_a_day: Option<usize>,
    /// Seed of every random choice. Default 1.
    pub seed: Option<u64>,
    /// Settings of the kind, by name; `meterline models kinds` says which it has, with their ranges, and `meterline tune`
    /// searches for good ones. Default: the usual ones.
    pub settings: Settings,
    /// Names of `[covariate.*]` that the model is given; only for kinds that make use of them (`meterline models
    /// kinds`). A model serves the covariates that it was fitted with: after a change, retrain. Default none.
    pub covariates: Vec<String>,
    /// Labels of series that the model is told, such as a tariff or a region: those of a file of `[labels.*]`, and where
    /// there is a roll-up, of any source of labels. What holds at the origin counts. Only for kinds that make use of them:
    /// models of all series, which learn what series of one label have in common and forecast a new one accordingly. As
    /// with covariates, retrain after a change. Default none.
    pub labels: Vec<String>,
    /// Country whose public holidays, those of the whole nation, are days off: its English name, such as `Netherlands`.
    /// As the next two, for kinds that make use of days off, and from the next model on. Default none.
    pub holidays: Option<String>,
    /// Dates that are days off beside those, such as the holidays of a region. Default none.
    pub days_off: Vec<Date>,
    /// Dates that are among the country's holidays but are worked on here. Default none.
    pub workdays: Vec<Date>,
    /// Where the series are, such as `{ latitude = 52.1, longitude = 5.3 }`, in degrees, north and east positive: models
    /// are told where the sun stands there, which is known ahead and decides what photovoltaics feed in. One place for all
    /// series of the policy: a hundred kilometres to the east or west are about six minutes. For kinds that are
    /// told where the sun stands (`meterline models kinds`), and from the next model on. Default none.
    pub location: Option<Location>,
    /// How much an interval counts in training that was estimated or substituted, from 0 (not at all) to 1 (as a measured
    /// one); of a roll-up's interval, the part that was. Classical models (`ets`, `mstl` and so on) count all alike.
    /// Default 0.5: an estimate tells how much there was, but is smoother than what a meter would have shown. Counted in
    /// full it makes models too sure of themselves; left out, a long gap is unknown to them.
    pub estimated_weight: Option<f64>,
}

/// Default of [`ModelConfig::estimated_weight`].
pub const ESTIMATED_WEIGHT: f64 = 0.5;

/// What the policy's `cost_under` and `cost_over` say, where it has them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Costs {
    /// See [`PolicyConfig::cost_under`].
    pub cost_under: f64,
    /// See [`PolicyConfig::cost_over`].
    pub cost_over: f64,
}

/// A policy with every default filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResolvedPolicy {
    /// `policy.NAME` where the configuration has one, else `default`.
    pub source: String,
    /// The frequency it applies to.
    pub frequency: Frequency,
    /// Horizon in native intervals, at least 1.
    pub horizon: usize,
    /// Context in native intervals, at least one season and one horizon.
    pub context: usize,
    /// What a wrong forecast costs; without it the median decides.
    #[serde(default)]
    pub costs: Option<Costs>,
    /// When every series is forecast again.
    pub reforecast: ResolvedTrigger,
    /// When a new model is trained.
    pub retrain: ResolvedTrigger,
    /// When corrected series alone are forecast anew.
    #[serde(default = "correct")]
    pub correct: ResolvedTrigger,
    /// See [`GateConfig::accept_if`].
    pub accept_if: String,
    /// See [`GateConfig::approval`].
    pub approval: Approval,
    /// See [`ModelConfig::kind`].
    #[serde(default = "default_kind")]
    pub model: String,
    /// See [`ModelConfig::settings`].
    #[serde(default)]
    pub settings: Settings,
    /// See [`ModelConfig::train_time`].
    pub train_time: Span,
    /// Longest history in native intervals.
    pub history: usize,
    /// See [`ModelConfig::evaluate_windows`].
    pub evaluate_windows: usize,
    /// See [`ModelConfig::seed`].
    pub seed: u64,
    /// See [`ModelConfig::covariates`].
    #[serde(default)]
    pub covariates: Vec<String>,
    /// See [`ModelConfig::labels`].
    #[serde(default)]
    pub labels: Vec<String>,
    /// See [`ModelConfig::holidays`].
    #[serde(default)]
    pub holidays: Option<String>,
    /// See [`ModelConfig::days_off`].
    #[serde(default)]
    pub days_off: Vec<Date>,
    /// See [`ModelConfig::workdays`].
    #[serde(default)]
    pub workdays: Vec<Date>,
    /// See [`ModelConfig::location`].
    #[serde(default)]
    pub location: Option<Location>,
    /// See [`ModelConfig::estimated_weight`].
    #[serde(default = "estimated_weight")]
    pub estimated_weight: f64,
    /// See [`ModelConfig::origins_a_day`].
    #[serde(default = "four")]
    pub origins_a_day: usize,
}

impl ResolvedPolicy {
    /// The policy that groups share, each with what is said of it alone: they count together where something is limited.
    pub fn shared(&self) -> &str {
        self.source.rsplit(", ").next().unwrap_or(&self.source)
    }

    /// Native intervals of history without which there is nothing to train any model on and to evaluate it by: two seasons
    /// of targets after one context, and the windows that evaluation keeps to itself.
    pub fn history_least(&self) -> usize {
        self.context + 2 * self.frequency.season().max(self.horizon) + self.evaluate_windows * self.horizon
    }
}

fn default_kind() -> String {
    "quantile_mlp".to_owned()
}

fn correct() -> ResolvedTrigger {
    TriggerConfig::default().resolve(correct_defaults())
}

// Each correction counts at once; what bounds the work is the budget.
fn correct_defaults() -> TriggerDefaults {
    TriggerDefaults {
        when: "new_corrections >= 1".to_owned(),
        require: "not backfilling",
        cooldown: Length::ZERO,
        max_series: Some(1_000),
        max_runs: Some(20),
    }
}

fn estimated_weight() -> f64 {
    ESTIMATED_WEIGHT
}

fn four() -> usize {
    4
}

/// The policy of `frequency`: what the configuration says, and the frequency's defaults for the rest.
pub fn resolve_policy(frequency: Frequency, policies: &BTreeMap<String, PolicyConfig>) -> ResolvedPolicy {
    let of_frequency = policies.iter().find(|(_, p)| p.frequency == frequency && p.is_of_frequency());
    layered(frequency, of_frequency)
}

/// The policy of the model group `group` of `frequency`: what the configuration says of it, then what it says of the label
/// that makes the group, then of the frequency, then the frequency's defaults.
pub fn resolve_group_policy(
    group: &str,
    frequency: Frequency,
    policies: &BTreeMap<String, PolicyConfig>,
) -> ResolvedPolicy {
    let find =
        |holds: &dyn Fn(&PolicyConfig) -> bool| policies.iter().find(|(_, p)| p.frequency == frequency && holds(p));
    let of_group = find(&|p| p.group.as_deref() == Some(group));
    let of_label = find(&|p| p.selector().is_some_and(|selector| selector.makes(group)));
    let of_frequency = find(&PolicyConfig::is_of_frequency);
    layered(frequency, of_group.into_iter().chain(of_label).chain(of_frequency))
}

// Policies laid over each other, the uppermost first.
fn layered<'a>(
    frequency: Frequency,
    layers: impl IntoIterator<Item = (&'a String, &'a PolicyConfig)>,
) -> ResolvedPolicy {
    let (mut names, mut all) = (Vec::new(), None);
    for (name, policy) in layers {
        names.push(format!("policy.{name}"));
        all = Some(all.map_or_else(|| policy.clone(), |above: PolicyConfig| above.over(policy)));
    }
    match all {
        Some(policy) => resolve(frequency, names.join(", "), &policy),
        None => resolve(frequency, "default".to_owned(), &PolicyConfig::empty(frequency)),
    }
}

impl PolicyConfig {
    /// A policy that leaves everything to the defaults of its frequency.
    pub fn empty(frequency: Frequency) -> PolicyConfig {
        PolicyConfig {
            frequency,
            group: None,
            label: None,
            horizon: None,
            context: None,
            cost_under: None,
            cost_over: None,
            reforecast: TriggerConfig::default(),
            retrain: TriggerConfig::default(),
            correct: TriggerConfig::default(),
            gate: GateConfig::default(),
            model: ModelConfig::default(),
        }
    }

    /// The series that are a model group of their own by it, where it has a label.
    pub fn selector(&self) -> Option<Selector> {
        let (label, value) = self.label.as_ref()?.first_key_value()?;
        Some(Selector { frequency: self.frequency, label: label.clone(), value: value.clone() })
    }

    // Whether it is of all groups of its frequency.
    fn is_of_frequency(&self) -> bool {
        self.group.is_none() && self.label.is_none()
    }

    /// This policy, and what `base` says where this one says nothing.
    fn over(&self, base: &PolicyConfig) -> PolicyConfig {
        // Through values by name, so that a key that is added is not forgotten here.
        let both = serde_json::to_value(self).and_then(|own| Ok((own, serde_json::to_value(base)?)));
        let laid = both.and_then(|(own, base)| serde_json::from_value(lay_over(own, base)));
        // Both came from a configuration, so together they are one.
        laid.unwrap_or_else(|_| self.clone())
    }
}

/// `own`, with the values of `base` where it has none: null, or an empty list.
fn lay_over(own: Value, base: Value) -> Value {
    match (own, base) {
        (Value::Object(own), Value::Object(mut base)) => {
            for (key, value) in own {
                let below = base.remove(&key).unwrap_or_default();
                base.insert(key, lay_over(value, below));
            }
            Value::Object(base)
        }
        (Value::Null, base) => base,
        (Value::Array(own), base) if own.is_empty() && !base.is_null() => base,
        (own, _) => own,
    }
}

fn resolve(frequency: Frequency, source: String, policy: &PolicyConfig) -> ResolvedPolicy {
    let defaults = Defaults::of(frequency);
    let steps = |length: Length| length.steps(frequency);
    let horizon = policy.horizon.map_or(defaults.horizon, steps);
    let season = frequency.season();
    let context = policy.context.map_or(defaults.context, steps).max(season).max(horizon);
    let evaluate_windows = policy.model.evaluate_windows.unwrap_or(3).max(1);
    let costs = policy.cost_under.zip(policy.cost_over);
    let resolved = ResolvedPolicy {
        costs: costs.map(|(cost_under, cost_over)| Costs { cost_under, cost_over }),
        reforecast: policy.reforecast.resolve(TriggerDefaults {
            when: format!("new_intervals >= {} or champion_is_new", defaults.reforecast_every),
            require: "not backfilling",
            cooldown: Length::ZERO,
            max_series: None,
            max_runs: None,
        }),
        retrain: policy.retrain.resolve(TriggerDefaults {
            when: format!("not has_champion or new_intervals >= {} or mase_ratio > 1.25", defaults.retrain_every),
            require: "history_intervals >= history_needed and completeness >= 0.8 and not backfilling",
            cooldown: Length::Intervals(defaults.retrain_cooldown),
            max_series: None,
            max_runs: None,
        }),
        correct: policy.correct.resolve(correct_defaults()),
        accept_if: policy
            .gate
            .accept_if
            .clone()
            .unwrap_or_else(|| "wql <= naive_wql and wql <= 1.02 * champion_wql".into()),
        approval: policy.gate.approval.unwrap_or_default(),
        model: policy.model.kind.clone().unwrap_or_else(default_kind),
        settings: policy.model.settings.clone(),
        train_time: policy.model.train_time.unwrap_or(Span(10 * crate::time::MINUTE)),
        history: policy.model.history.map_or(defaults.history, steps),
        evaluate_windows,
        seed: policy.model.seed.unwrap_or(1),
        covariates: policy.model.covariates.clone(),
        labels: policy.model.labels.clone(),
        holidays: policy.model.holidays.clone(),
        days_off: policy.model.days_off.clone(),
        workdays: policy.model.workdays.clone(),
        location: policy.model.location,
        estimated_weight: policy.model.estimated_weight.unwrap_or(ESTIMATED_WEIGHT),
        origins_a_day: policy.model.origins_a_day.unwrap_or_else(four),
        source,
        frequency,
        horizon,
        context,
    };
    ResolvedPolicy { history: resolved.history.max(resolved.history_least()), ..resolved }
}

/// Defaults of a frequency, in native intervals.
struct Defaults {
    horizon: usize,
    context: usize,
    reforecast_every: usize,
    retrain_every: usize,
    retrain_cooldown: u32,
    history: usize,
}

impl Defaults {
    fn of(frequency: Frequency) -> Defaults {
        match frequency {
            Frequency::Seconds(_) => {
                let day = frequency.per_day();
                // A new forecast every hour of new data (every interval, where intervals are longer), a new model
                // every week, at the earliest a day after the last.
                let hour = (crate::time::HOUR / frequency.nominal_micros()).max(1) as usize;
                Defaults {
                    horizon: 2 * day,
                    context: 7 * day,
                    reforecast_every: hour,
                    retrain_every: 7 * day,
                    retrain_cooldown: day as u32,
                    history: (400 * DAY / frequency.nominal_micros()) as usize,
                }
            }
            Frequency::Day => Defaults {
                horizon: 14,
                context: 56,
                reforecast_every: 1,
                retrain_every: 28,
                retrain_cooldown: 7,
                history: 5 * 366,
            },
            Frequency::Week => Defaults {
                horizon: 8,
                context: 104,
                reforecast_every: 1,
                retrain_every: 13,
                retrain_cooldown: 4,
                history: 10 * 53,
            },
            Frequency::Month => Defaults {
                horizon: 12,
                context: 48,
                reforecast_every: 1,
                retrain_every: 6,
                retrain_cooldown: 3,
                history: 20 * 12,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_configuration_has_a_policy_for_every_frequency() {
        for frequency in crate::frequency::STANDARD {
            let policy = resolve_policy(frequency, &Default::default());
            assert_eq!(policy.source, "default");
            assert!(policy.context >= policy.horizon && policy.context >= frequency.season(), "{frequency}");
            assert!(policy.history >= policy.context + policy.horizon, "{frequency}");
        }
    }

    #[test]
    fn what_is_said_of_a_group_goes_before_what_is_said_of_its_frequency() {
        let text = "[policy.days]\nfrequency = \"P1D\"\nhorizon = \"7d\"\n[policy.days.model]\nseed = 7\nkind = \"auto\"\n\
                    days_off = [\"2026-05-05\"]\nlocation = { latitude = 38.7, longitude = -9 }\n\
                    [policy.days.retrain]\ncooldown = \"3 intervals\"\n\
                    [policy.lisbon]\nfrequency = \"P1D\"\ngroup = \"P1D@Europe/Lisbon\"\n\
                    [policy.lisbon.model]\nseed = 8\n[policy.lisbon.retrain]\nmax_age = \"30d\"\n";
        let policies = crate::config::parse(text).unwrap().policy;
        let of = |group| resolve_group_policy(group, Frequency::Day, &policies);
        let (days, lisbon) = (of("P1D"), of("P1D@Europe/Lisbon"));
        assert_eq!((days.source.as_str(), lisbon.source.as_str()), ("policy.days", "policy.lisbon, policy.days"));
        assert_eq!((days.seed, lisbon.seed, lisbon.horizon, lisbon.model.as_str()), (7, 8, 7, "auto"));
        assert_eq!((lisbon.days_off.len(), lisbon.retrain.cooldown), (1, Length::Intervals(3)));
        assert_eq!(lisbon.location.map(|location| location.to_string()), Some("38.7,-9".into()));
        assert!(days.retrain.max_age.is_none() && lisbon.retrain.max_age.is_some());
        let again = format!("{text}[policy.other]\nfrequency = \"P1D\"\ngroup = \"P1D@Europe/Lisbon\"\n");
        let error = crate::config::parse(&again).unwrap_err().to_string();
        assert!(error.contains("`lisbon` and `other` are both for P1D@Europe/Lisbon"), "{error}");
    }
}
