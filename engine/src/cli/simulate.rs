//! `meterline triggers simulate`: what policies would have done, replayed over the past.

use std::path::PathBuf;
use std::sync::Arc;

use meterline_schemas::Micros;
use meterline_schemas::config::{Config, selectors};
use meterline_schemas::time::{Span, format_micros};
use serde::Serialize;

use super::table::render;
use super::values::instant;
use super::{CommandError, CommandResult, ConfigArg, Context};
use crate::environment::{Environment, read_config};
use crate::metadata::records::Pipeline;
use crate::triggers::learn::Learner;
use crate::triggers::past::{self, GroupPast, Range};
use crate::triggers::sample;
use crate::triggers::simulate::{Fired, Replay, simulate_with};

/// Columns of the plot.
const COLUMNS: usize = 72;

/// Arguments of `meterline triggers simulate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// Another configuration whose policies are replayed beside; may be given more than once
    #[arg(long = "policy", value_name = "FILE")]
    policies: Vec<PathBuf>,
    /// Model group, such as PT15M [default: every group]
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Time of the readings from which on; UTC without an offset [default: the first evaluation]
    #[arg(long, value_name = "TIME", value_parser = instant)]
    from: Option<Micros>,
    /// Time of the readings up to which [default: the last evaluation]
    #[arg(long, value_name = "TIME", value_parser = instant)]
    to: Option<Micros>,
    /// Evaluate at each interval that closed, as if each reading had come in its time, instead of when it really was
    /// evaluated; where nothing was recorded this is done in any case
    #[arg(long)]
    each_interval: bool,
    /// Train and forecast within the replay, at each interval that closed, and score what comes true: how good each policy
    /// would have been. Errors, coverage and what retraining gains are then those of the replay. Takes as long as the
    /// runs would
    #[arg(long)]
    accuracy: bool,
    /// With --accuracy: most series of a group that are trained on and forecast
    #[arg(long, value_name = "N", default_value_t = 50)]
    series: usize,
}

/// What is printed with `--json`.
#[derive(Debug, Serialize)]
struct Report {
    groups: Vec<GroupReport>,
}

#[derive(Debug, Serialize)]
struct GroupReport {
    group_id: String,
    from: String,
    to: String,
    evaluations: usize,
    /// `recorded`, or `intervals`: one at each interval that closed.
    evaluations_of: &'static str,
    /// What really was started in this time.
    happened: Vec<Event>,
    policies: Vec<PolicyReport>,
}

#[derive(Debug, Serialize)]
struct PolicyReport {
    /// The file.
    config: String,
    /// The policies that apply.
    source: String,
    retrains: usize,
    reforecasts: usize,
    /// Re-forecasts of corrected series alone.
    corrections: usize,
    /// Of these, those that failed.
    failed: usize,
    /// Seconds on the device, by what such runs took; null where none was measured.
    device_seconds: Option<f64>,
    forecast_age_mean_hours: Option<f64>,
    forecast_age_max_hours: Option<f64>,
    champion_age_mean_hours: Option<f64>,
    champion_age_max_hours: Option<f64>,
    /// Of the forecasts within the replay, where that was asked for.
    accuracy: Option<AccuracyReport>,
    /// Whether it started just what really was started, where evaluations were recorded.
    agrees: Option<bool>,
    events: Vec<Event>,
}

/// How good the forecasts of a replay were, on what came true.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct AccuracyReport {
    series: usize,
    /// Weighted quantile loss over all steps of all forecasts, and of seasonal naive on the same.
    wql: Option<f64>,
    naive_wql: Option<f64>,
    /// Over the newest forecast of each interval alone.
    newest_wql: Option<f64>,
    coverage: Option<f64>,
    points: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Event {
    at: String,
    trigger: &'static str,
    origin: String,
    reason: String,
    device_seconds: Option<f64>,
    error: Option<String>,
}

/// Replays the configuration's policies, and those of other files, and shows them side by side.
///
/// # Errors
/// A configuration, the lake or the metadata database cannot be read; the group is unknown; there is nothing to replay.
pub async fn run(args: Args, context: &Context) -> CommandResult {
    if args.from.zip(args.to).is_some_and(|(from, to)| from >= to) {
        return Err(CommandError::usage("--from is not before --to"));
    }
    let env = Environment::open(&args.config.config).await?;
    let mut configs: Vec<(String, Config)> = vec![(args.config.config.display().to_string(), env.config.clone())];
    for path in &args.policies {
        let config = read_config(path)?;
        if selectors(&config.policy) != selectors(&env.config.policy) {
            let told = format!(
                "{}: its policies have other labels (`label`) than {}, so there would be other model groups, of which nothing was \
                 evaluated; give both the same",
                path.display(),
                args.config.config.display()
            );
            return Err(CommandError::usage(told));
        }
        configs.push((path.display().to_string(), config));
    }
    let range = Range {
        group: args.group.clone(),
        from: args.from,
        to: args.to,
        each_interval: args.each_interval || args.accuracy,
    };
    let pasts = past::read(&env, &range).await?;
    if pasts.is_empty() {
        let known: Vec<String> =
            past::group_ids(&env).await?.into_iter().filter(|id| args.group.as_ref() != Some(id)).collect();
        return Err(CommandError::unknown_group(args.group.as_deref().unwrap_or("*"), &known));
    }
    let mut groups = Vec::new();
    let mut learners: Vec<Learner> = Vec::new();
    let mut replays = Vec::new();
    for (file, config) in &configs {
        let subjects: Vec<_> = pasts.iter().map(|past| past.under(config)).collect();
        if args.accuracy {
            let config_path = PathBuf::from(file);
            let of_policy = Arc::new(Environment { config: config.clone(), config_path, ..env.clone() });
            for (index, (past, subject)) in pasts.iter().zip(&subjects).enumerate() {
                let panel = sample::panel(&env, &of_policy, &past.group, subject, args.series).await?;
                match learners.get_mut(index) {
                    Some(learner) => learner.show(panel),
                    None => learners.push(Learner::new(panel)),
                }
            }
        }
        let mut shown = None;
        let mut progress = |share: f64| {
            let percent = (share * 100.0) as u32;
            if args.accuracy && shown != Some(percent) {
                shown = Some(percent);
                eprint!("\r{file}: {percent:3} % of the replay ");
            }
        };
        let replay = tokio::task::block_in_place(|| simulate_with(&subjects, &mut learners, &mut progress))?;
        if args.accuracy {
            eprintln!();
        }
        let accuracy: Vec<_> = learners.iter().map(accuracy).collect();
        replays.push((replay, accuracy));
    }
    for (index, past) in pasts.iter().enumerate() {
        let (Some(first), Some(last)) = (past.evaluations.first(), past.evaluations.last()) else { continue };
        let happened: Vec<Event> = past.fired.iter().filter_map(event_of).collect();
        let policies = configs.iter().zip(&replays).filter_map(|((file, config), (replays, accuracy))| {
            let report = report(file, past, config, replays.get(index)?, &happened);
            Some(PolicyReport { accuracy: accuracy.get(index).cloned(), ..report })
        });
        groups.push(GroupReport {
            group_id: past.group.group_id.clone(),
            from: format_micros(first.group.origin),
            to: format_micros(last.group.origin),
            evaluations: past.evaluations.len(),
            evaluations_of: if past.is_recorded { "recorded" } else { "intervals" },
            policies: policies.collect(),
            happened,
        });
    }
    if groups.is_empty() {
        return Err(CommandError::failed(
            "nothing was evaluated or closed in this time; `meterline triggers list` says how far the readings are",
        ));
    }
    let report = Report { groups };
    if context.json {
        return context.print_json(&report);
    }
    let told: Vec<String> = report.groups.iter().map(tell).collect();
    context.print(&told.join("\n\n"))
}

fn accuracy(learner: &Learner) -> AccuracyReport {
    let found = learner.accuracy();
    AccuracyReport {
        series: learner.series(),
        wql: found.all.wql(),
        naive_wql: found.naive.wql(),
        newest_wql: found.newest.wql(),
        coverage: found.all.coverage(),
        points: found.all.points,
    }
}

fn report(file: &str, past: &GroupPast, config: &Config, replay: &Replay, happened: &[Event]) -> PolicyReport {
    let of = |pipeline: Pipeline| replay.fired.iter().filter(|fired| fired.pipeline == pipeline).count();
    let seconds: Option<Vec<f64>> = replay.fired.iter().map(|fired| fired.device_seconds).collect();
    let hours = |age: Option<Micros>| age.map(|age| age as f64 / 3.6e9);
    let events: Vec<Event> = replay.fired.iter().map(event).collect();
    let same = |a: &Event, b: &Event| (&a.at, a.trigger, &a.origin) == (&b.at, b.trigger, &b.origin);
    let agrees = events.len() == happened.len() && events.iter().zip(happened).all(|(a, b)| same(a, b));
    PolicyReport {
        config: file.to_owned(),
        source: past.policy(config).source,
        retrains: of(Pipeline::Build),
        reforecasts: of(Pipeline::Infer),
        corrections: of(Pipeline::Correct),
        failed: replay.fired.iter().filter(|fired| fired.error.is_some()).count(),
        device_seconds: seconds.map(|seconds| seconds.iter().sum()),
        forecast_age_mean_hours: hours(replay.forecasts.mean()),
        forecast_age_max_hours: hours(replay.forecasts.most()),
        champion_age_mean_hours: hours(replay.champion.mean()),
        champion_age_max_hours: hours(replay.champion.most()),
        accuracy: None,
        agrees: past.is_recorded.then_some(agrees),
        events,
    }
}

fn event(fired: &Fired) -> Event {
    Event {
        at: format_micros(fired.at),
        trigger: fired.pipeline.trigger(),
        origin: format_micros(fired.origin),
        reason: fired.reason.clone(),
        device_seconds: fired.device_seconds,
        error: fired.error.clone(),
    }
}

fn event_of(decision: &crate::metadata::records::DecisionRecord) -> Option<Event> {
    decision.fired.then(|| Event {
        at: format_micros(decision.at),
        trigger: decision.pipeline.trigger(),
        origin: format_micros(decision.origin),
        reason: decision.reason.clone(),
        device_seconds: None,
        error: None,
    })
}

fn tell(group: &GroupReport) -> String {
    let made = match group.evaluations_of {
        "recorded" => "as they were recorded",
        _ => "one at each interval that closed",
    };
    let mut text =
        format!("{}: {} evaluations from {} to {}, {made}\n", group.group_id, group.evaluations, group.from, group.to);
    let hours = |hours: Option<f64>| {
        hours.map_or("-".to_owned(), |h| Span((h * 3600.0).round() as i64 * 1_000_000).to_string())
    };
    let mut rows: Vec<Vec<String>> = group
        .policies
        .iter()
        .map(|policy| {
            vec![
                format!("{} ({})", policy.config, policy.source),
                policy.retrains.to_string(),
                policy.reforecasts.to_string(),
                policy.corrections.to_string(),
                policy.device_seconds.map_or("not measured".to_owned(), |s| format!("{s:.1} s")),
                hours(policy.forecast_age_mean_hours),
                hours(policy.forecast_age_max_hours),
                hours(policy.champion_age_mean_hours),
                hours(policy.champion_age_max_hours),
            ]
        })
        .collect();
    let really = |trigger: &str| group.happened.iter().filter(|event| event.trigger == trigger).count().to_string();
    if !group.happened.is_empty() {
        let mut row =
            vec!["what really was started".to_owned(), really("retrain"), really("reforecast"), really("correct")];
        row.resize(9, "-".to_owned());
        rows.push(row);
    }
    let header = [
        "policy",
        "retrains",
        "reforecasts",
        "corrections",
        "device",
        "forecasts' mean age",
        "at most",
        "model's mean age",
        "at most",
    ];
    text.push_str(&render(&header, &rows));
    let figure = |figure: Option<f64>| figure.map_or("-".to_owned(), |figure| format!("{figure:.4}"));
    let scored: Vec<Vec<String>> = group
        .policies
        .iter()
        .filter_map(|policy| {
            let of = policy.accuracy.as_ref()?;
            let figures = [of.wql, of.naive_wql, of.newest_wql, of.coverage].map(figure);
            Some([&[policy.config.clone()][..], &figures, &[of.points.to_string()]].concat())
        })
        .collect();
    if !scored.is_empty() {
        let series = group.policies.iter().filter_map(|policy| policy.accuracy.as_ref()).map(|of| of.series).max();
        text.push_str(&format!(
            "\n\nForecasts of {} series within the replay, on what came true:\n",
            series.unwrap_or(0)
        ));
        let header = ["policy", "wQL", "seasonal naive", "newest alone", "within 80 %", "points"];
        text.push_str(&render(&header, &scored));
        text.push('\n');
    }
    for policy in &group.policies {
        text.push_str(&format!("\n{}", plot(&policy.config, &policy.events, &group.from, &group.to)));
    }
    for policy in group.policies.iter().filter(|policy| policy.failed > 0) {
        let first = policy.events.iter().find_map(|event| Some((&event.origin, event.error.as_ref()?)));
        let why = first.map_or_else(String::new, |(origin, error)| format!("; the first, at {origin}: {error}"));
        text.push_str(&format!("\n{}: {} runs failed{why}", policy.config, policy.failed));
    }
    for policy in group.policies.iter().filter(|policy| policy.agrees.is_some()) {
        let words = if policy.agrees == Some(true) { "just what" } else { "not what" };
        text.push_str(&format!("\n{} starts {words} really was started", policy.config));
    }
    text
}

/// When runs start, on a line of time: `R` where a model is trained, `f` where forecasts are made.
fn plot(name: &str, events: &[Event], from: &str, to: &str) -> String {
    let at = |text: &str| instant(text).unwrap_or_default();
    let (begin, end) = (at(from), at(to));
    let mut line = vec!['·'; COLUMNS];
    for event in events {
        let share = (at(&event.origin) - begin) as f64 / (end - begin).max(1) as f64;
        let column = ((share * COLUMNS as f64) as usize).min(COLUMNS - 1);
        if let Some(cell) = line.get_mut(column)
            && *cell != 'R'
        {
            *cell = if event.trigger == "retrain" { 'R' } else { 'f' };
        }
    }
    format!("{} {name} (R: retrain, f: reforecast)", line.into_iter().collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_shows_when_runs_start() {
        let event = |hour: u32, trigger| Event {
            at: String::new(),
            trigger,
            origin: format!("2024-01-01T{hour:02}:00:00Z"),
            reason: String::new(),
            device_seconds: None,
            error: None,
        };
        let events = [event(0, "retrain"), event(0, "reforecast"), event(6, "reforecast"), event(12, "retrain")];
        let line = plot("a.toml", &events, "2024-01-01T00:00:00Z", "2024-01-01T12:00:00Z");
        let line: Vec<char> = line.chars().collect();
        assert_eq!((line[0], line[36], line[71], line[10]), ('R', 'f', 'R', '·'));
    }
}
