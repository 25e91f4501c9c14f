//! The next configuration to try.

use std::cmp::Ordering;

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Settings;
use super::Value;
use super::parzen::{Frequencies, Parzen};
use super::space::{Configuration, Domain, Parameter, Space};
use super::trial::{Outcome, Trial};

/// Share of the trials that count as good (Bergstra et al. 2011).
const GOOD_SHARE: f64 = 0.15;
/// Good trials at the most, so that a long search keeps looking near its very best.
const GOOD_MAX: usize = 25;
/// Draws in search of a configuration that was not tried yet; they matter only in small discrete spaces.
const DRAWS_MAX: usize = 10;

/// The configuration of trial `number`, given all trials before it. The same arguments give the same configuration.
pub(super) fn propose(space: &Space, settings: &Settings, history: &[Trial], number: usize) -> Configuration {
    if number < settings.startup_trials {
        return stratified(space, settings, number);
    }
    let mut random = ChaCha8Rng::seed_from_u64(settings.seed);
    random.set_stream(number as u64);
    let groups = Groups::new(history);
    let tried = |c: &Configuration| history.iter().any(|trial| trial.configuration == *c);
    let mut proposal = groups.draw(space, settings, &mut random);
    for attempt in 0..2 * DRAWS_MAX {
        if !tried(&proposal) {
            break;
        }
        // When the estimate keeps returning to what is known, look anywhere.
        let nowhere = Groups { good: Vec::new(), bad: Vec::new() };
        let source = if attempt < DRAWS_MAX { &groups } else { &nowhere };
        proposal = source.draw(space, settings, &mut random);
    }
    proposal
}

/// The first trials are a Latin hypercube (McKay, Beckman and Conover 1979): each parameter visits every one of
/// `startup_trials` equal parts of its range once.
fn stratified(space: &Space, settings: &Settings, number: usize) -> Configuration {
    let parts = settings.startup_trials;
    let mut configuration = Configuration::default();
    for (i, parameter) in space.parameters().iter().enumerate() {
        let mut random = ChaCha8Rng::seed_from_u64(settings.seed);
        // Streams from the far end belong to parameters, those from the near end to trials.
        random.set_stream(u64::MAX - i as u64);
        let mut order: Vec<usize> = (0..parts).collect();
        order.shuffle(&mut random);
        let within: Vec<f64> = (0..parts).map(|_| random.random()).collect();
        let part = order.get(number).copied().unwrap_or(0) as f64 + within.get(number).copied().unwrap_or(0.5);
        assign(&mut configuration, parameter, |domain| domain.at(part / parts as f64));
    }
    configuration
}

/// Gives `parameter` a value, if it applies.
fn assign(configuration: &mut Configuration, parameter: &Parameter, value: impl FnOnce(&Domain) -> Value) {
    if parameter.applies(configuration) {
        configuration.0.insert(parameter.name.clone(), value(&parameter.domain));
    }
}

/// Trials so far, parted.
struct Groups<'a> {
    good: Vec<&'a Trial>,
    bad: Vec<&'a Trial>,
}

impl<'a> Groups<'a> {
    /// Complete trials by their loss, then pruned ones by how far they came and how well they did there, then failed
    /// ones. Only complete trials can be good. Without any there are no groups.
    fn new(history: &'a [Trial]) -> Groups<'a> {
        let mut ranked: Vec<&Trial> = history.iter().filter(|trial| trial.outcome != Outcome::Interrupted).collect();
        ranked.sort_by(|a, b| compare(a, b));
        let complete = ranked.iter().filter(|trial| trial.loss().is_some()).count();
        let good = ((GOOD_SHARE * ranked.len() as f64).ceil() as usize).min(GOOD_MAX).min(complete);
        if good == 0 {
            ranked.clear();
        }
        let bad = ranked.split_off(good);
        Groups { good: ranked, bad }
    }

    /// Tree-structured Parzen estimator (Bergstra et al. 2011): parameter by parameter, draws candidates from the
    /// density of good trials, and takes the one whose density among good trials is greatest relative to that among the
    /// others. A parameter is judged by the trials in which it applied. Without trials this is uniform.
    ///
    /// A choice is drawn in proportion to that ratio, where the paper takes the greatest: which kind of model is best
    /// is known only once each has been tuned a little, and the greatest ratio settles on the first kind that did
    /// well. (On the four parameters of this module's tests, the mean best loss of 100 trials is 0.02 instead of
    /// 0.14.)
    fn draw(&self, space: &Space, settings: &Settings, random: &mut ChaCha8Rng) -> Configuration {
        let mut configuration = Configuration::default();
        for parameter in space.parameters() {
            assign(&mut configuration, parameter, |domain| match domain {
                Domain::Categorical { choices } => {
                    let frequencies =
                        |trials: &[&Trial]| Frequencies::new(choices.len(), positions(trials, parameter, choices));
                    let (good, bad) = (frequencies(&self.good), frequencies(&self.bad));
                    let ratios = (0..choices.len()).map(|c| good.probability(c) / bad.probability(c)).collect();
                    let best = Frequencies::weighted(ratios).draw(random);
                    Value::Choice(choices.get(best).cloned().unwrap_or_default())
                }
                _ => {
                    let density = |trials: &[&Trial]| Parzen::new(units(trials, parameter));
                    let (good, bad) = (density(&self.good), density(&self.bad));
                    let candidates = (0..self.candidates(settings)).map(|_| domain.at(good.draw(random)));
                    let scored = candidates.map(|value| {
                        // Judged where it came to lie: whole numbers are rounded.
                        let unit = domain.unit(&value).unwrap_or(0.5);
                        (value, good.density(unit) / bad.density(unit))
                    });
                    greatest(scored).unwrap_or_else(|| domain.at(0.5))
                }
            });
        }
        configuration
    }

    /// One draw is enough where nothing is known.
    fn candidates(&self, settings: &Settings) -> usize {
        if self.good.is_empty() { 1 } else { settings.candidates.max(1) }
    }
}

/// Order of trials from good to bad.
fn compare(a: &Trial, b: &Trial) -> Ordering {
    let class = |trial: &Trial| match trial.outcome {
        Outcome::Complete(_) => 0,
        Outcome::Pruned => 1,
        Outcome::Failed(_) | Outcome::Interrupted => 2,
    };
    let last = |trial: &Trial| trial.intermediate.last().copied().unwrap_or((0, f64::INFINITY));
    let by_progress = || {
        let ((a_step, a_value), (b_step, b_value)) = (last(a), last(b));
        b_step.cmp(&a_step).then(a_value.total_cmp(&b_value))
    };
    class(a).cmp(&class(b)).then_with(|| match (a.loss(), b.loss()) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        _ => by_progress(),
    })
}

/// The item of the greatest score, the first among equals.
fn greatest<T>(scored: impl Iterator<Item = (T, f64)>) -> Option<T> {
    scored.reduce(|best, next| if next.1 > best.1 { next } else { best }).map(|(item, _)| item)
}

/// Values of a number in those trials in which it applied, from 0 to 1.
fn units(trials: &[&Trial], parameter: &Parameter) -> Vec<f64> {
    let value = |trial: &&Trial| trial.configuration.0.get(&parameter.name).and_then(|v| parameter.domain.unit(v));
    trials.iter().filter_map(value).collect()
}

/// Positions among `choices` of what was chosen in those trials in which the parameter applied.
fn positions(trials: &[&Trial], parameter: &Parameter, choices: &[String]) -> impl Iterator<Item = usize> {
    let position = |trial: &&Trial| {
        let chosen = trial.configuration.choice(&parameter.name)?;
        choices.iter().position(|choice| choice == chosen)
    };
    trials.iter().filter_map(position).collect::<Vec<_>>().into_iter()
}
