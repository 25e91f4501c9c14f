//! `meterline tune`: good settings of a model, by trial on the end of a plain file's history.

mod record;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use meterline_models::backtest::compare;
use meterline_models::data::Panel;
use meterline_models::forecaster::{Forecaster, Model, Task};
use meterline_models::forecasters::guarded::baseline;
use meterline_models::registry::{KINDS, Kind};
use meterline_models::search::{
    Configuration, Decision, Ended, Outcome, Pruning, Settings as SearchSettings, Space, Stop, Study, Trial, minimise,
};
use meterline_models::tuning::{Tuning, Validation, WithStandIn};
use meterline_schemas::Micros;
use meterline_schemas::settings::Settings;
use meterline_schemas::time::{Span, format_micros};
use serde::Serialize;

use self::record::{Header, Record};
use super::offline::{OfflineArgs, no_such_setting, steps};
use super::table::render;
use super::{CommandError, CommandResult, Context};

/// Complete trials before one ends early because it does worse than half of them.
const PRUNED_AFTER: usize = 5;

/// Arguments of `meterline tune`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    offline: OfflineArgs,
    /// The model; `meterline models kinds` says which have settings
    #[arg(long, value_name = "NAME")]
    model: String,
    /// Settings to try, those on record included
    #[arg(long, value_name = "N", default_value_t = 30)]
    trials: usize,
    /// Longest time of the search, such as 10m [default: until all trials are made]
    #[arg(long, value_name = "TIME")]
    time: Option<Span>,
    /// Keep so much of the end of the history from the search, such as 30d, and score the best settings on it
    #[arg(long, value_name = "TIME")]
    hold_out: Option<Span>,
    /// Keep each trial in this file, and go on from those that it has
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

/// What the search found. Losses are weighted quantile losses, before calibration.
#[derive(Serialize)]
struct Found {
    model: String,
    frequency: String,
    horizon: usize,
    /// End of what the search knew.
    until: String,
    /// Settings that were given: the search kept to them.
    fixed: Configuration,
    /// Loss of the usual settings; `None` where time was up before.
    usual: Option<f64>,
    /// The best trial.
    best: Option<Trial>,
    /// Whether it is better than the usual settings.
    is_better: bool,
    /// On what was held out.
    held_out: Option<HeldOut>,
    ended: Ended,
    trials: Vec<Trial>,
}

/// Losses on what was held out.
#[derive(Serialize)]
struct HeldOut {
    seasonal_naive: Option<f64>,
    usual: Option<f64>,
    best: Option<f64>,
}

/// Searches, and says what was found.
pub async fn run(args: Args, context: &Context) -> CommandResult {
    let found = tokio::task::spawn_blocking(move || tune(&args));
    let found = found.await.map_err(|error| CommandError::failed(format!("the search ended: {error}")))??;
    if context.json {
        return context.print_json(&found);
    }
    context.print(&text(&found))
}

fn tune(args: &Args) -> Result<Found, CommandError> {
    let kind = args.offline.kind(&args.model)?;
    args.offline.check_inputs(&[kind])?;
    let searched = Searched::of(kind, &args.offline.settings()?)?;
    let space = searched.space()?;
    let mut whole = only(args.offline.panels()?)?;
    let task = args.offline.task_of_origins(whole.frequency, None)?;
    let cut = cut(args, &whole, task.horizon)?;
    let mut panel = whole.cut(cut);
    // What is known ahead must be there before hours are spent on a search, and each part is asked for its own: what is
    // ahead in the search is a gap of the past in what is held out.
    if let Some(last) = Validation::last_origin(&panel, &task) {
        args.offline.complete_after(&mut panel, last, task.horizon)?;
    }
    if let Some(last) = held_out_origins(&whole, cut, task.horizon).last() {
        args.offline.complete_after(&mut whole, *last, task.horizon)?;
    }
    let validation = Validation::new(&panel, &task).ok_or_else(|| {
        CommandError::failed(format!(
            "comparing settings on days that a model has not seen takes {} intervals of {}, and the longest of {} series \
             has {} until {}: use longer files, or a shorter --hold-out or --horizon",
            Validation::needed(&panel, task.horizon),
            panel.frequency,
            panel.series.len(),
            panel.longest(),
            format_micros(cut)
        ))
    })?;
    let settings = SearchSettings {
        trials_max: args.trials,
        seed: task.seed,
        pruning: Pruning::Median { trials_min: PRUNED_AFTER, warmup_steps: 1 },
        ..SearchSettings::default()
    };
    let header = Header {
        model: kind.name.to_owned(),
        frequency: panel.frequency.to_string(),
        task: task.clone(),
        covariates: panel.covariates.clone(),
        labels: panel.labels.clone(),
        estimated_weight: args.offline.estimated_weight,
        series: panel.series.len(),
        values: panel.series.iter().map(|series| series.values.len()).sum(),
        until: format_micros(cut),
        pruning: settings.pruning,
        fixed: searched.fixed.clone(),
        space: space.clone(),
    };
    let (mut record, recorded) = match &args.record {
        Some(path) => Record::open(path, &header).map(|(record, trials)| (Some(record), trials))?,
        None => (None, Vec::new()),
    };
    let begun = Instant::now();
    let limit = args.time.map(Span::to_std);
    let is_over = move || limit.is_some_and(|limit: Duration| begun.elapsed() >= limit);
    let usual = usual(args, &searched, &validation, &is_over)?;
    let mut objective = |configuration: &Configuration, report: &mut dyn FnMut(u64, f64) -> Decision| {
        loss(args, &*searched.model(configuration), &validation, &is_over, report)
    };
    let mut failure = None;
    let mut on_trial = |trial: &Trial| {
        eprintln!("trial {}: {}, {}", trial.number, outcome(trial), written(&trial.configuration, ", "));
        if let Some(Err(error)) = record.as_mut().map(|record| record.add(trial)) {
            failure.get_or_insert(error);
        }
    };
    let study = minimise(&space, &settings, recorded, &is_over, &mut objective, &mut on_trial);
    let study = study.map_err(|error| CommandError::usage(error.to_string()))?;
    if let Some(failure) = failure {
        return Err(failure);
    }
    let best = study.best().cloned();
    let held_out = match (&args.hold_out, &best) {
        (Some(_), Some(best)) => Some(held_out(args, &searched, (&whole, cut), &task, &best.configuration)?),
        _ => None,
    };
    let is_better = best.as_ref().and_then(Trial::loss).zip(usual).is_some_and(|(best, usual)| best < usual);
    let Study { trials, ended } = study;
    Ok(Found {
        model: kind.name.to_owned(),
        frequency: whole.frequency.to_string(),
        horizon: task.horizon,
        until: format_micros(cut),
        fixed: searched.fixed,
        usual,
        best,
        is_better,
        held_out,
        ended,
        trials,
    })
}

/// What is searched: the settings of a kind but for those that are given.
struct Searched {
    tuning: &'static Tuning,
    fixed: Configuration,
}

impl Searched {
    fn of(kind: &'static Kind, given: &Settings) -> Result<Searched, CommandError> {
        let tuning = tuning(kind)?;
        let fixed = tuning.configuration(kind.name, given).map_err(|wrong| no_such_setting(&wrong))?;
        Ok(Searched { tuning, fixed })
    }

    fn space(&self) -> Result<Space, CommandError> {
        let mut parameters = (self.tuning.parameters)();
        parameters.retain(|parameter| !self.fixed.0.contains_key(&parameter.name));
        if parameters.is_empty() {
            return Err(CommandError::usage("--set leaves no setting to search for: give fewer"));
        }
        Space::new(parameters).map_err(|error| CommandError::failed(error.to_string()))
    }

    fn model(&self, configuration: &Configuration) -> Box<dyn Model> {
        self.tuning.trial(&merged(&self.fixed, configuration))
    }
}

// Settings of a trial, with those that all have.
fn merged(fixed: &Configuration, trial: &Configuration) -> Configuration {
    let all = fixed.0.iter().chain(&trial.0);
    Configuration(all.map(|(name, value)| (name.clone(), value.clone())).collect())
}

fn tuning(kind: &'static Kind) -> Result<&'static Tuning, CommandError> {
    kind.tuning.as_ref().ok_or_else(|| {
        let with: Vec<&str> = KINDS.iter().filter(|kind| kind.tuning.is_some()).map(|kind| kind.name).collect();
        CommandError::usage(format!("`{}` has no settings to search for; these have: {}", kind.name, with.join(", ")))
    })
}

fn only(mut panels: Vec<Panel>) -> Result<Panel, CommandError> {
    match panels.pop() {
        Some(panel) if panels.is_empty() => Ok(panel),
        last => {
            let frequencies = panels.iter().chain(&last).map(|panel| panel.frequency.to_string());
            Err(CommandError::usage(format!(
                "a search is for one frequency, and the files have series of {}: give it files of one",
                frequencies.collect::<Vec<_>>().join(", ")
            )))
        }
    }
}

// The end of what the search may know.
fn cut(args: &Args, panel: &Panel, horizon: usize) -> Result<Micros, CommandError> {
    let (frequency, zone) = (panel.frequency, &panel.zone);
    let end = panel.origin().unwrap_or(Micros::MIN);
    let Some(time) = args.hold_out else { return Ok(end) };
    let held = steps(time, frequency);
    if held < horizon {
        return Err(CommandError::usage(format!(
            "--hold-out is {held} intervals of {frequency}, less than the horizon of {horizon}: nothing could be scored on it"
        )));
    }
    Ok(frequency.advance(end, -(held as i64), zone))
}

// Origins from the cut on whose whole horizon has happened, oldest first; none where nothing is held out.
fn held_out_origins(panel: &Panel, cut: Micros, horizon: usize) -> Vec<Micros> {
    let (frequency, zone) = (panel.frequency, &panel.zone);
    let end = panel.origin().unwrap_or(cut);
    let windows = frequency.steps_between(cut, end, zone) / horizon.max(1) as i64;
    (0..windows).map(|window| frequency.advance(cut, window * horizon as i64, zone)).collect()
}

fn loss(
    args: &Args,
    model: &dyn Model,
    validation: &Validation<'_>,
    is_over: &dyn Fn() -> bool,
    report: &mut dyn FnMut(u64, f64) -> Decision,
) -> Result<f64, Stop> {
    let mut shown = args.offline.shown(format!("fitting {}", model.name()));
    let mut progress = |done: meterline_models::forecaster::Done<'_>| match is_over() {
        true => std::ops::ControlFlow::Break(()),
        false => shown.step(done),
    };
    validation.loss(model, &mut progress, report)
}

// The loss of the usual settings; `None` where time was up before.
fn usual(
    args: &Args,
    searched: &Searched,
    validation: &Validation<'_>,
    is_over: &dyn Fn() -> bool,
) -> Result<Option<f64>, CommandError> {
    let model = searched.model(&Configuration::default());
    let mut go_on = |_: u64, _: f64| if is_over() { Decision::Prune } else { Decision::Continue };
    match loss(args, &*model, validation, is_over, &mut go_on) {
        Ok(loss) => {
            eprintln!("the usual settings: {loss:.5}");
            Ok(Some(loss))
        }
        Err(Stop::Told) => Ok(None),
        Err(Stop::Failed(reason)) => Err(CommandError::failed(format!("with the usual settings: {reason}"))),
    }
}

// What the usual and the best settings score on the time that the search did not know, fitted once before it.
fn held_out(
    args: &Args,
    searched: &Searched,
    (panel, cut): (&Panel, Micros),
    task: &Task,
    best: &Configuration,
) -> Result<HeldOut, CommandError> {
    let origins = held_out_origins(panel, cut, task.horizon);
    let known = panel.cut(cut);
    let naive = baseline(panel.frequency);
    let fit = |what: &str, configuration: &Configuration| {
        let mut shown = args.offline.shown(format!("fitting the {what} settings before what is held out"));
        let model = searched.model(configuration).fit(&known, task, &mut |done| shown.step(done))?;
        Ok::<_, CommandError>(WithStandIn { model, naive: baseline(panel.frequency) })
    };
    let (usual, best) = (fit("usual", &Configuration::default())?, fit("best", best)?);
    let models: [&dyn Forecaster; 3] = [&naive, &usual, &best];
    let found: Vec<Option<f64>> =
        compare(&models, panel, &origins, task.horizon).into_iter().map(|evaluation| evaluation.wql).collect();
    let of = |place: usize| found.get(place).copied().flatten();
    Ok(HeldOut { seasonal_naive: of(0), usual: of(1), best: of(2) })
}

fn outcome(trial: &Trial) -> String {
    match &trial.outcome {
        Outcome::Complete(loss) => format!("{loss:.5}"),
        Outcome::Pruned => {
            let last = trial.intermediate.last().map_or(f64::NAN, |(_, value)| *value);
            format!("ended early at {last:.5}")
        }
        Outcome::Failed(reason) => format!("failed: {reason}"),
        Outcome::Interrupted => "interrupted".to_owned(),
    }
}

fn written(configuration: &Configuration, between: &str) -> String {
    let settings: Vec<String> = configuration.0.iter().map(|(name, value)| format!("{name} = {value}")).collect();
    settings.join(between)
}

fn text(found: &Found) -> String {
    let mut trials: Vec<&Trial> = found.trials.iter().collect();
    let rank = |trial: &Trial| trial.loss().unwrap_or(f64::INFINITY);
    trials.sort_by(|a, b| rank(a).total_cmp(&rank(b)));
    let rows: Vec<Vec<String>> = trials
        .iter()
        .map(|trial| vec![trial.number.to_string(), outcome(trial), written(&trial.configuration, ", ")])
        .collect();
    let mut parts = vec![render(&["trial", "wQL", "settings"], &rows)];
    let shown = |loss: Option<f64>| loss.map_or_else(|| "none".to_owned(), |loss| format!("{loss:.5}"));
    let loss = found.best.as_ref().and_then(Trial::loss);
    let ended = match found.ended {
        Ended::Trials => "all trials were made",
        Ended::Deadline => "time was up",
    };
    parts.push(format!(
        "{} of {} for {} steps, until {}: {ended}; wQL of the best {}, of the usual settings {}",
        found.model,
        found.frequency,
        found.horizon,
        found.until,
        shown(loss),
        shown(found.usual)
    ));
    if let Some(HeldOut { seasonal_naive, usual, best }) = &found.held_out {
        parts.push(format!(
            "on what was held out: the best {}, the usual settings {}, seasonal naive {}",
            shown(*best),
            shown(*usual),
            shown(*seasonal_naive)
        ));
    }
    match &found.best {
        Some(best) if found.is_better || found.usual.is_none() => parts.push(format!(
            "[policy.NAME.model]\nkind = \"{}\"\n\n[policy.NAME.model.settings]\n{}",
            found.model,
            written(&merged(&found.fixed, &best.configuration), "\n")
        )),
        Some(_) => parts.push("no trial was better than the usual settings: leave them".to_owned()),
        None => parts.push("no trial was made to its end".to_owned()),
    }
    parts.join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use meterline_models::search::Value;

    fn found(losses: &[f64], usual: Option<f64>) -> Found {
        let trial = |(number, loss): (usize, &f64)| Trial {
            number,
            configuration: Configuration([("penalty".to_owned(), Value::Float(*loss))].into_iter().collect()),
            intermediate: Vec::new(),
            outcome: Outcome::Complete(*loss),
        };
        let study = Study { trials: losses.iter().enumerate().map(trial).collect(), ended: Ended::Trials };
        let best = study.best().cloned();
        Found {
            model: "linear_quantile".into(),
            frequency: "PT1H".into(),
            horizon: 24,
            until: "2024".into(),
            fixed: Configuration([("parts".to_owned(), Value::Integer(4))].into_iter().collect()),
            usual,
            is_better: best.as_ref().and_then(Trial::loss).zip(usual).is_some_and(|(best, usual)| best < usual),
            best,
            held_out: None,
            ended: study.ended,
            trials: study.trials,
        }
    }

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    // Forty days of one series and their temperatures, without those of the hours of `lacking`.
    fn tuned(lacking: &[i64], more: &[&str]) -> Result<Found, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f.csv");
        let mut text = "series_id,timestamp,value,temperature\n".to_owned();
        for hour in 0..40 * 24 {
            let at = format_micros(hour * meterline_schemas::time::HOUR);
            let temperature = if lacking.contains(&hour) { String::new() } else { (hour % 24).to_string() };
            text.push_str(&format!("a,{at},{},{temperature}\n", hour * 13 % 24));
        }
        std::fs::write(&path, text).unwrap();
        let line = ["", "--model", "linear_quantile", "--trials", "1", "--horizon", "24h", "--label", "begin"];
        let line = line.iter().chain(&["--covariates", "temperature"]).chain(more).copied().chain(path.to_str());
        let args = <Line as clap::Parser>::try_parse_from(line).unwrap().args;
        tune(&args).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn what_is_known_ahead_is_asked_for_at_the_last_origins_of_the_search_and_of_what_is_held_out() {
        let held = ["--hold-out", "10d"];
        let filled = ["--covariate-fallback", "last_day"];
        for (day, more, at) in [
            (39, &[][..], "1970-02-09T03:00:00Z"),
            (29, &held[..], "1970-01-30T03:00:00Z"),
            (39, &held[..], "1970-02-09T03:00:00Z"),
        ] {
            let refused = tuned(&[day * 24 + 3], more).err().unwrap();
            for words in ["`temperature`", "`a`", "for 1 of", at, "--covariate-fallback"] {
                assert!(refused.contains(words), "{refused}");
            }
        }
        let found = tuned(&[29 * 24 + 3, 39 * 24 + 3], &[&held[..], &filled].concat()).unwrap();
        assert!(found.best.is_some() && found.held_out.is_some_and(|held| held.best.is_some()));
        // A gap before the last origin is one for the models.
        assert!(tuned(&[20 * 24], &[]).is_ok());
    }

    #[test]
    fn what_is_set_is_kept_to_and_the_rest_is_searched() {
        let found = tuned(&[], &["--set", "penalty=20", "--set", "parts=2"]).unwrap();
        let names = |configuration: &Configuration| configuration.0.keys().cloned().collect::<Vec<_>>();
        assert_eq!(
            (names(&found.fixed), names(&found.best.unwrap().configuration)),
            (vec!["parts".to_owned(), "penalty".to_owned()], vec!["half_life_days".to_owned()],)
        );
        let all = ["--set", "penalty=20", "--set", "parts=2", "--set", "half_life_days=90"];
        assert!(tuned(&[], &all).err().unwrap().contains("leaves no setting to search for"));
        let unknown = tuned(&[], &["--set", "penaltie=20"]).err().unwrap();
        assert!(unknown.contains("did you mean `penalty`?"), "{unknown}");
    }

    #[test]
    fn what_was_found_is_written_as_a_configuration_takes_it() {
        let shown = text(&found(&[3.0, 2.0], Some(2.5)));
        assert!(shown.starts_with("trial  wQL      settings\n1      2.00000  penalty = 2.0\n0"), "{shown}");
        let (_, config) = shown.split_once("[policy.NAME.model]").unwrap();
        let config = format!("[policy.a]\nfrequency = \"PT1H\"\n[policy.a.model]{}", config.replace("NAME", "a"));
        let parsed = meterline_schemas::config::parse(&config).unwrap();
        crate::triggers::check_policies(&config, &parsed).unwrap();
        let settings = &parsed.policy["a"].model.settings;
        assert_eq!((&settings["penalty"], &settings["parts"]), (&Value::Float(2.0), &Value::Integer(4)));
        assert!(text(&found(&[3.0], Some(2.5))).ends_with("leave them"));
        assert!(text(&found(&[], None)).ends_with("no trial was made to its end"));
    }
}
