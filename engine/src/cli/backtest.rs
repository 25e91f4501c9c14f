//! `meterline backtest`: how good models would have been on a plain file, from origins of the past.

use std::time::Instant;

use meterline_models::backtest::{Scoring, score};
use meterline_models::cost::Cost;
use meterline_models::data::Panel;
use meterline_models::forecaster::{Forecaster, Model, Task};
use meterline_models::forecasters::guarded::baseline;
use meterline_models::metrics::scoreboard::{Figures, Report, Rule};
use meterline_models::plausible::rule_in_words;
use meterline_models::registry::Kind;
use meterline_models::rolling::{Delayed, Rolling, Schedule};
use meterline_schemas::quantiles::LEVELS;
use meterline_schemas::time::{Span, format_micros};
use meterline_schemas::{Frequency, Micros};
use serde::Serialize;

use super::offline::{OfflineArgs, check_horizon, each, steps};
use super::table::render;
use super::{CommandError, CommandResult, Context};
use crate::offline::OfflinePanel;

/// Arguments of `meterline backtest`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    offline: OfflineArgs,
    /// Models, separated by commas; `meterline models kinds` lists all. Seasonal naive is always there
    #[arg(long, value_delimiter = ',', value_name = "NAME", default_value = "auto")]
    models: Vec<String>,
    /// Origins
    #[arg(long, value_name = "N", default_value_t = 10)]
    windows: usize,
    /// From one origin to the next, such as 1d [default: the horizon]
    #[arg(long, value_name = "TIME")]
    step: Option<Span>,
    /// Fit the models anew every so many origins [default: once, before the first]
    #[arg(long, value_name = "N")]
    refit_every: Option<usize>,
    /// Fit to so much before each fit alone, such as 365d [default: to everything]
    #[arg(long, value_name = "TIME")]
    history: Option<Span>,
    /// Leave so much out between the end of what a model is fitted to and the first origin that it forecasts from, such as
    /// 7d for models that are a week old. At an origin all is known, but for --delay: the longer of the two is left out
    /// [default: nothing]
    #[arg(long, value_name = "TIME")]
    gap: Option<Span>,
    /// How late readings come: what is younger than this at an origin is not known there
    #[arg(long, value_name = "TIME")]
    delay: Option<Span>,
    /// What each unit costs that comes above the forecast that is decided on: adds the mean cost of a point
    #[arg(long, value_name = "COST", requires = "cost_over")]
    cost_under: Option<f64>,
    /// What each unit costs that the forecast is too high
    #[arg(long, value_name = "COST", requires = "cost_under")]
    cost_over: Option<f64>,
    /// Show the figures of each series or forecast step, too, or those of measured values and of estimated ones
    #[arg(long, value_name = "series|step|quality")]
    by: Option<By>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum By {
    Series,
    Step,
    Quality,
}

/// What one model scored.
#[derive(Debug, Serialize)]
struct Scored {
    frequency: String,
    model: String,
    origins: Vec<String>,
    /// Native intervals that are left out between the end of each fit and the first origin that it forecasts from, at least.
    gap: usize,
    /// Native intervals before each origin that are not known there.
    delay: usize,
    /// End of what each fit knew, the oldest first; nothing for what is not fitted.
    fitted_until: Vec<String>,
    fit_seconds: f64,
    /// Windows (a series from an origin on) that are scored: those that every model has a forecast for.
    windows: usize,
    /// Windows that this model has no forecast for, which are scored for none.
    windows_missed: usize,
    /// Values of the windows that are not scored because they are implausible.
    implausible: usize,
    report: Told,
}

/// The figures of a [`Report`], those of a series by its identifier.
#[derive(Debug, Serialize)]
struct Told {
    overall: Figures,
    by_series: Vec<(String, Figures)>,
    by_step: Vec<(u32, Figures)>,
    by_group: Vec<(String, Figures)>,
}

impl Told {
    fn of(report: Report, panel: &Panel) -> Told {
        let Report { overall, by_series, by_step, by_group } = report;
        let id = |number: u64| usize::try_from(number).ok().and_then(|number| panel.series.get(number));
        let named = by_series.into_iter().filter_map(|(number, figures)| Some((id(number)?.id.clone(), figures)));
        Told { overall, by_series: named.collect(), by_step, by_group }
    }
}

/// A model that is compared with others.
struct Compared {
    model: Box<dyn Forecaster>,
    fitted_until: Vec<String>,
    fit_seconds: f64,
}

/// Fits the models before the origins, and says what they scored.
pub async fn run(args: Args, context: &Context) -> CommandResult {
    let by = args.by;
    let scored = tokio::task::spawn_blocking(move || backtest(&args));
    let scored = scored.await.map_err(|error| CommandError::failed(format!("the backtest ended: {error}")))??;
    if context.json {
        return context.print_json(&scored);
    }
    context.print(&table(&scored, by))
}

fn backtest(args: &Args) -> Result<Vec<Scored>, CommandError> {
    let kinds: Vec<&Kind> = args.models.iter().map(|name| args.offline.kind(name)).collect::<Result<_, _>>()?;
    args.offline.check_inputs(&kinds)?;
    let unfitted: Vec<Box<dyn Model>> = kinds.iter().map(|kind| args.offline.model(kind)).collect::<Result<_, _>>()?;
    let mut rule = Rule::new(&LEVELS).map_err(|error| CommandError::failed(error.to_string()))?;
    if let Some((under, over)) = args.cost_under.zip(args.cost_over) {
        rule = rule.with_cost(Cost::new(under, over).map_err(|error| CommandError::usage(error.to_string()))?);
    }
    let scored = each(args.offline.read()?.panels, |found| of_frequency(args, &unfitted, &rule, found))?;
    Ok(scored.into_iter().flatten().collect())
}

// What the models score on the series of one frequency.
fn of_frequency(
    args: &Args,
    unfitted: &[Box<dyn Model>],
    rule: &Rule,
    found: OfflinePanel,
) -> Result<Vec<Scored>, CommandError> {
    let OfflinePanel { mut panel, estimated } = found;
    let step = args.step.map(|step| steps(step, panel.frequency));
    let task = args.offline.task_of_origins(panel.frequency, step)?;
    let schedule = schedule(args, panel.frequency);
    let delay = schedule.delay;
    check_horizon("--horizon and --delay", task.horizon.saturating_add(delay), panel.frequency)?;
    let origins = origins(args, &panel, task.horizon)?;
    let last = origins.last().copied().unwrap_or(Micros::MIN);
    args.offline.complete_after(&mut panel, last, task.horizon)?;
    let naive = baseline(panel.frequency);
    let model = Box::new(Delayed { model: naive, delay });
    let mut models = vec![Compared { model, fitted_until: Vec::new(), fit_seconds: 0.0 }];
    for model in unfitted {
        let begun = Instant::now();
        let rolling = rolling(args, &**model, &panel, &task, &origins, &schedule)?;
        let fit_seconds = begun.elapsed().as_secs_f64();
        let fitted_until = rolling.fits().map(|fit| format_micros(fit.until)).collect();
        models.push(Compared { model: Box::new(Delayed { model: rolling, delay }), fitted_until, fit_seconds });
    }
    let all: Vec<&dyn Forecaster> = models.iter().map(|compared| &*compared.model).collect();
    let quality = |series: usize, interval: usize| match estimated[series].get(interval) {
        Some(true) => "estimated",
        _ => "measured",
    };
    let scorings = score(&all, &panel, &origins, task.horizon, rule, &quality);
    if let Some(Scoring { implausible: hidden @ 1.., .. }) = scorings.first() {
        eprintln!("values that are not scored: {hidden}; {}", rule_in_words());
    }
    let scored = |(compared, scoring): (Compared, Scoring)| Scored {
        frequency: panel.frequency.to_string(),
        model: compared.model.name().to_owned(),
        origins: origins.iter().copied().map(format_micros).collect(),
        gap: schedule.gap,
        delay,
        fitted_until: compared.fitted_until,
        fit_seconds: compared.fit_seconds,
        windows: scoring.windows,
        windows_missed: scoring.windows_missed,
        implausible: scoring.implausible,
        report: Told::of(scoring.report, &panel),
    };
    Ok(models.into_iter().zip(scorings).map(scored).collect())
}

// The newest origins whose whole horizon has happened, oldest first.
fn origins(args: &Args, panel: &Panel, horizon: usize) -> Result<Vec<Micros>, CommandError> {
    let (frequency, zone) = (panel.frequency, &panel.zone);
    let step = args.step.map_or(horizon, |step| steps(step, frequency));
    let end = panel.origin().unwrap_or(Micros::MIN);
    let origin = |window: usize| frequency.advance(end, -((horizon + window * step) as i64), zone);
    let first = panel.series.iter().map(|series| series.start).min().unwrap_or(end);
    let longest = panel.longest();
    let windows = args.windows.max(1);
    let back = windows.checked_mul(step).and_then(|back| back.checked_add(horizon));
    match back {
        Some(back) if back - step < longest => Ok((0..windows).rev().map(origin).collect()),
        _ => Err(CommandError::usage(format!(
            "{} origins of {horizon} intervals of {frequency} reach back to before the first reading ({}): use fewer \
             --windows, or a shorter --horizon or --step",
            args.windows,
            format_micros(first)
        ))),
    }
}

// When models are fitted, and to what.
fn schedule(args: &Args, frequency: Frequency) -> Schedule {
    // What is too young in part counts as too young.
    let whole = |time: Option<Span>| {
        let (time, step) = (time.unwrap_or_default().micros(), frequency.nominal_micros());
        usize::try_from(time.div_euclid(step) + i64::from(time.rem_euclid(step) > 0)).unwrap_or(0)
    };
    Schedule {
        every: args.refit_every,
        history: args.history.map(|history| steps(history, frequency)),
        gap: whole(args.gap),
        delay: whole(args.delay),
    }
}

fn rolling(
    args: &Args,
    model: &dyn Model,
    panel: &Panel,
    task: &Task,
    origins: &[Micros],
    schedule: &Schedule,
) -> Result<Rolling, CommandError> {
    let due = schedule.fits(panel, origins);
    let mut fits = Vec::new();
    let task = Task { horizon: task.horizon + schedule.delay, ..task.clone() };
    for (number, fit) in due.iter().enumerate() {
        let known = schedule.known(panel, fit);
        let mut shown =
            args.offline.shown(format!("{}, {}, fit {} of {}", model.name(), panel.frequency, number + 1, due.len()));
        let fitted = model.fit(&known, &task, &mut |done| shown.step(done))?;
        if let Some(report) = fitted.report() {
            eprintln!("{} until {}: {report}", model.name(), format_micros(fit.until));
        }
        fits.push((*fit, fitted));
    }
    Rolling::new(fits).ok_or_else(|| CommandError::failed("there is no origin"))
}

/// Central intervals whose coverage is shown, where the levels have them.
const COVERED: [f64; 2] = [0.8, 0.9];

fn table(scored: &[Scored], by: Option<By>) -> String {
    let group = match by {
        Some(By::Series) => Some("series"),
        Some(By::Step) => Some("step"),
        Some(By::Quality) => Some("quality"),
        None => None,
    };
    // All are of the same levels.
    let all = scored.first().map(|one| &one.report.overall);
    let widest = all.and_then(|figures| figures.intervals.first()).map_or(0.0, |interval| interval.nominal);
    let covered: Vec<f64> =
        COVERED.into_iter().filter(|nominal| all.is_some_and(|figures| figures.interval(*nominal).is_some())).collect();
    let percent = |what: &str, nominal: &f64| format!("{what} {:.0} %", 100.0 * nominal);
    let mut header: Vec<String> = ["frequency", "model"].into_iter().chain(group).map(String::from).collect();
    header.extend(["wQL", "ND", "MASE"].map(String::from));
    header.push(percent("MSIS", &widest));
    header.extend(["sMAPE", "RMSE", "bias"].map(String::from));
    header.extend(covered.iter().map(|nominal| percent("coverage", nominal)));
    header.extend(["points", "fit s"].map(String::from));
    let with_cost = scored.iter().any(|one| one.report.overall.cost.is_some());
    header.extend(with_cost.then(|| "cost".to_owned()));
    let with_missed = scored.iter().any(|one| one.windows_missed > 0);
    header.extend(with_missed.then(|| "missed".to_owned()));
    let mut rows = Vec::new();
    for one in scored {
        let row = |group_value: Option<String>, figures: &Figures, of_all: Option<[String; 2]>| {
            let [seconds, missed] = of_all.unwrap_or_default();
            let shown = |figure: Option<f64>| figure.map_or("-".to_owned(), |figure| format!("{figure:.4}"));
            let mut cells = vec![one.frequency.clone(), one.model.clone()];
            cells.extend(group.map(|_| group_value.unwrap_or_else(|| "all".to_owned())));
            let msis = figures.interval(widest).and_then(|interval| interval.msis);
            let all = [figures.wql, figures.nd, figures.mase, msis, figures.smape, figures.rmse, figures.bias];
            cells.extend(all.map(shown));
            cells.extend(covered.iter().map(|nominal| shown(figures.interval(*nominal).and_then(|i| i.coverage))));
            cells.extend([figures.points.to_string(), seconds]);
            cells.extend(with_cost.then(|| shown(figures.cost)));
            cells.extend(with_missed.then_some(missed));
            cells
        };
        let missed = if one.windows_missed > 0 { one.windows_missed.to_string() } else { String::new() };
        rows.push(row(None, &one.report.overall, Some([format!("{:.1}", one.fit_seconds), missed])));
        match by {
            Some(By::Series) => {
                rows.extend(one.report.by_series.iter().map(|(id, figures)| row(Some(id.clone()), figures, None)));
            }
            Some(By::Step) => {
                rows.extend(one.report.by_step.iter().map(|(step, figures)| row(Some(step.to_string()), figures, None)))
            }
            Some(By::Quality) => rows
                .extend(one.report.by_group.iter().map(|(quality, figures)| row(Some(quality.clone()), figures, None))),
            None => {}
        }
    }
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    render(&header, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    // Thirty days of one series, every fourth value of which was estimated, and the temperature of all hours but one.
    fn written(lacking: usize) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let mut text = "series_id,timestamp,value,quality,temperature\n".to_owned();
        for hour in 0..30 * 24 {
            let at = format_micros(hour as i64 * meterline_schemas::time::HOUR);
            let quality = if hour % 4 == 0 { "estimated" } else { "measured" };
            let temperature = if hour == lacking { String::new() } else { (hour % 24).to_string() };
            text.push_str(&format!("a,{at},{},{quality},{temperature}\n", hour * 13 % 24));
        }
        std::fs::write(directory.path().join("f.csv"), text).unwrap();
        directory
    }

    fn scored(directory: &tempfile::TempDir, more: &[&str]) -> Result<Vec<Scored>, CommandError> {
        let path = directory.path().join("f.csv");
        let windows = if more.contains(&"--windows") { &[][..] } else { &["--windows", "2"] };
        let line = ["", "--models", "mstl", "--horizon", "24h", "--label", "begin"];
        let line = line.iter().chain(windows).chain(more).copied().chain(path.to_str());
        backtest(&<Line as clap::Parser>::try_parse_from(line).unwrap().args)
    }

    #[test]
    fn what_was_measured_and_what_was_estimated_are_told_apart() {
        let found = scored(&written(usize::MAX), &[]).unwrap();
        let groups: Vec<(&str, usize)> =
            found[1].report.by_group.iter().map(|(group, figures)| (group.as_str(), figures.points)).collect();
        assert_eq!(groups, [("estimated", 12), ("measured", 36)]);
        let shown = table(&found, Some(By::Quality));
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines.len(), 1 + 2 * 3, "{shown}");
        assert!(lines[0].contains("quality") && lines[2].contains("estimated"), "{shown}");
    }

    #[test]
    fn figures_of_a_series_have_its_identifier() {
        let directory = written(usize::MAX);
        let path = directory.path().join("f.csv");
        let text = std::fs::read_to_string(&path).unwrap();
        let other: String = text.lines().skip(1).map(|line| format!("house 7{}\n", &line[1..])).collect();
        std::fs::write(&path, text + &other).unwrap();
        let found = scored(&directory, &[]).unwrap();
        let document = serde_json::to_value(&found).unwrap();
        for (place, id) in ["a", "house 7"].iter().enumerate() {
            let [named, figures] =
                &document[1]["report"]["by_series"].as_array().unwrap()[place].as_array().unwrap()[..]
            else {
                panic!("{document}")
            };
            assert_eq!((named, &figures["points"]), (&(*id).into(), &48.into()), "{document}");
        }
        let shown = table(&found, Some(By::Series));
        assert_eq!(shown.matches("house 7").count(), 2, "{shown}");
    }

    #[test]
    fn a_frequency_that_is_too_short_is_left_out() {
        let directory = written(usize::MAX);
        let path = directory.path().join("f.csv");
        let mut text = std::fs::read_to_string(&path).unwrap();
        for quarter in 0..40 {
            let at = format_micros(quarter * 15 * meterline_schemas::time::MINUTE);
            text.push_str(&format!("quarters,{at},1,,\n"));
        }
        std::fs::write(&path, text).unwrap();
        let found = scored(&directory, &[]).unwrap();
        assert!(found.len() == 2 && found.iter().all(|one| one.frequency == "PT1H"), "{found:?}");
        let refused = scored(&directory, &["--windows", "400"]).unwrap_err();
        assert!(refused.status() == 2 && refused.message().contains("use fewer --windows"), "{refused:?}");
        let far = scored(&directory, &["--delay", "200000h"]).unwrap_err();
        assert!(far.message().contains("--horizon and --delay: 800096 intervals of PT15M"), "{far:?}");
    }

    #[test]
    fn the_intervals_that_the_levels_have_are_shown() {
        for (levels, shown, hidden) in [
            (&[0.1, 0.5, 0.9][..], vec!["MSIS 80 %", "coverage 80 %"], vec!["coverage 90 %"]),
            (&[0.025, 0.05, 0.1, 0.5, 0.9, 0.95, 0.975], vec!["MSIS 95 %", "coverage 80 %", "coverage 90 %"], vec![]),
        ] {
            let rule = Rule::new(levels).unwrap();
            let report = meterline_models::metrics::scoreboard::Scoreboard::new(&rule).report();
            let one = Scored {
                frequency: "PT1H".into(),
                model: "m".into(),
                origins: Vec::new(),
                gap: 0,
                delay: 0,
                fitted_until: Vec::new(),
                fit_seconds: 0.0,
                windows: 0,
                windows_missed: 0,
                implausible: 0,
                report: Told::of(report, &Panel::new(Frequency::HOUR, jiff::tz::TimeZone::UTC, Vec::new())),
            };
            let text = table(&[one], None);
            assert!(shown.iter().all(|word| text.contains(word)), "{text}");
            assert!(!hidden.iter().any(|word| text.contains(word)), "{text}");
        }
    }

    #[test]
    fn windows_without_a_forecast_are_counted_by_model_and_shown_where_there_are_some() {
        let directory = written(usize::MAX);
        let path = directory.path().join("f.csv");
        let mut text = std::fs::read_to_string(&path).unwrap();
        // A second series that begins a few hours before the last origin.
        for hour in 28 * 24 + 20..30 * 24 {
            text.push_str(&format!("b,{},1,,\n", format_micros(hour * meterline_schemas::time::HOUR)));
        }
        let whole = scored(&directory, &[]).unwrap();
        assert!(whole.iter().all(|one| (one.windows, one.windows_missed) == (2, 0)));
        assert!(!table(&whole, None).contains("missed"));
        std::fs::write(&path, text).unwrap();
        // Which asks for eight values.
        let found = scored(&directory, &["--models", "harmonic", "--frequency", "PT1H"]).unwrap();
        assert!(found.iter().all(|one| one.windows == 2), "{found:?}");
        assert_eq!((found[2].model.as_str(), found[2].windows_missed), ("harmonic", 1), "{found:?}");
        assert!(table(&found, None).lines().next().unwrap().ends_with("missed"));
        assert_eq!(serde_json::to_value(&found).unwrap()[2]["windows_missed"], 1);
    }

    #[test]
    fn a_gap_is_left_out_of_each_fit_and_told() {
        let directory = written(usize::MAX);
        let fits = |more: &[&str]| {
            let found = scored(&directory, more).unwrap();
            let document = serde_json::to_value(&found).unwrap();
            assert_eq!(document[0]["fitted_until"], serde_json::json!([]), "what is not fitted");
            (document[1]["gap"].clone(), document[1]["origins"].clone(), document[1]["fitted_until"].clone())
        };
        let origins = ["1970-01-29T00:00:00Z", "1970-01-30T00:00:00Z"];
        let days = |days: &[&str]| days.iter().map(|day| format!("1970-01-{day}:00:00Z")).collect::<Vec<_>>();
        for (more, gap, until) in [
            (&[][..], 0, days(&["29T00"])),
            (&["--gap", "5d"][..], 120, days(&["24T00"])),
            (&["--gap", "5d", "--delay", "6h", "--refit-every", "1"][..], 120, days(&["24T00", "25T00"])),
            // What the gap covers in part is left out, too; and more comes late than that.
            (&["--gap", "90m", "--delay", "6h"][..], 2, days(&["28T18"])),
        ] {
            assert_eq!(fits(more), (gap.into(), origins.as_slice().into(), until.into()), "{more:?}");
        }
    }

    #[test]
    fn what_is_known_ahead_is_asked_for_at_the_last_origin() {
        let named = ["--models", "harmonic", "--covariates", "temperature"];
        let refused = scored(&written(29 * 24 + 3), &named).unwrap_err();
        assert!(refused.message().contains("1970-01-30T03:00:00Z"), "{}", refused.message());
        let filled = [&named[..], &["--covariate-fallback", "last_week"]].concat();
        assert_eq!(scored(&written(29 * 24 + 3), &filled).unwrap().len(), 3);
        // A gap before it is one for the models.
        assert_eq!(scored(&written(20 * 24), &named).unwrap().len(), 3);
    }
}
