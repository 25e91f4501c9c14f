//! `meterline backtest`: how good models would have been on a plain file, from origins of the past.

use std::time::Instant;

use meterline_models::backtest::score;
use meterline_models::cost::Cost;
use meterline_models::data::Panel;
use meterline_models::forecaster::{Forecaster, Task};
use meterline_models::forecasters::seasonal_naive::SeasonalNaive;
use meterline_models::metrics::scoreboard::{Figures, Report, Rule};
use meterline_models::registry::Kind;
use meterline_models::rolling::{Delayed, Rolling};
use meterline_schemas::Micros;
use meterline_schemas::quantiles::LEVELS;
use meterline_schemas::time::{Span, format_micros};
use serde::Serialize;

use super::offline::{OfflineArgs, steps};
use super::table::render;
use super::{CommandError, CommandResult, Context};

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
    /// How late readings come: what is younger than this at an origin is not known there
    #[arg(long, value_name = "TIME")]
    delay: Option<Span>,
    /// What each unit costs that comes above the forecast that is decided on: adds the mean cost of a point
    #[arg(long, value_name = "COST", requires = "cost_over")]
    cost_under: Option<f64>,
    /// What each unit costs that the forecast is too high
    #[arg(long, value_name = "COST", requires = "cost_under")]
    cost_over: Option<f64>,
    /// Show the figures of each series or forecast step, too
    #[arg(long, value_name = "series|step")]
    by: Option<By>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum By {
    Series,
    Step,
}

/// What one model scored.
#[derive(Serialize)]
struct Scored {
    frequency: String,
    model: String,
    origins: Vec<String>,
    fit_seconds: f64,
    report: Report,
    #[serde(skip)]
    series: Vec<String>,
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
    let mut rule = Rule::new(&LEVELS).map_err(|error| CommandError::failed(error.to_string()))?;
    if let Some((under, over)) = args.cost_under.zip(args.cost_over) {
        rule = rule.with_cost(Cost::new(under, over).map_err(|error| CommandError::usage(error.to_string()))?);
    }
    let mut scored = Vec::new();
    for panel in args.offline.panels()? {
        let task = args.offline.task(panel.frequency);
        // What is younger than the delay in part is not known either.
        let delay = args.delay.map_or(0, |delay| {
            let step = panel.frequency.nominal_micros();
            usize::try_from(delay.micros().div_euclid(step) + i64::from(delay.micros().rem_euclid(step) > 0))
                .unwrap_or(0)
        });
        let origins = origins(args, &panel, task.horizon)?;
        let naive = SeasonalNaive::for_frequency(panel.frequency);
        let mut models: Vec<(Box<dyn Forecaster>, f64)> = vec![(Box::new(Delayed { model: naive, delay }), 0.0)];
        for kind in &kinds {
            let begun = Instant::now();
            let rolling = rolling(args, kind, &panel, &task, &origins, delay)?;
            models.push((Box::new(Delayed { model: rolling, delay }), begun.elapsed().as_secs_f64()));
        }
        let all: Vec<&dyn Forecaster> = models.iter().map(|(model, _)| &**model).collect();
        let reports = score(&all, &panel, &origins, task.horizon, &rule);
        for ((model, fit_seconds), report) in models.iter().zip(reports) {
            scored.push(Scored {
                frequency: panel.frequency.to_string(),
                model: model.name().to_owned(),
                origins: origins.iter().copied().map(format_micros).collect(),
                fit_seconds: *fit_seconds,
                report,
                series: panel.series.iter().map(|series| series.id.clone()).collect(),
            });
        }
    }
    Ok(scored)
}

// The newest origins whose whole horizon has happened, oldest first.
fn origins(args: &Args, panel: &Panel, horizon: usize) -> Result<Vec<Micros>, CommandError> {
    let (frequency, zone) = (panel.frequency, &panel.zone);
    let step = args.step.map_or(horizon, |step| steps(step, frequency));
    let ends = panel.series.iter().map(|series| series.origin(frequency, zone));
    let end = ends.max().unwrap_or(Micros::MIN);
    let origin = |window: usize| frequency.advance(end, -((horizon + window * step) as i64), zone);
    let first = panel.series.iter().map(|series| series.start).min().unwrap_or(end);
    let longest = panel.series.iter().map(|series| series.values.len()).max().unwrap_or(0);
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

fn rolling(
    args: &Args,
    kind: &Kind,
    panel: &Panel,
    task: &Task,
    origins: &[Micros],
    delay: usize,
) -> Result<Rolling, CommandError> {
    let every = args.refit_every.unwrap_or(usize::MAX).max(1);
    let due: Vec<Micros> = origins.iter().step_by(every).copied().collect();
    let mut fits = Vec::new();
    let task = Task { horizon: task.horizon + delay, ..task.clone() };
    for (number, origin) in due.iter().enumerate() {
        let end = panel.frequency.advance(*origin, -(delay as i64), &panel.zone);
        let mut known = panel.cut(end);
        if let Some(history) = args.history {
            known = known.newest(steps(history, panel.frequency));
        }
        let mut shown =
            args.offline.shown(format!("{}, {}, fit {} of {}", kind.name, panel.frequency, number + 1, due.len()));
        let fitted = kind.model().fit(&known, &task, &mut |done| shown.step(done))?;
        if let Some(report) = fitted.report() {
            eprintln!("{} until {}: {report}", kind.name, format_micros(end));
        }
        fits.push((end, fitted));
    }
    Rolling::new(fits).ok_or_else(|| CommandError::failed("there is no origin"))
}

fn table(scored: &[Scored], by: Option<By>) -> String {
    let mut header = vec!["frequency", "model"];
    let group = match by {
        Some(By::Series) => Some("series"),
        Some(By::Step) => Some("step"),
        None => None,
    };
    header.extend(group);
    header.extend(["wQL", "ND", "MASE", "sMAPE", "RMSE", "bias", "coverage", "points", "fit s"]);
    let with_cost = scored.iter().any(|one| one.report.overall.cost.is_some());
    header.extend(with_cost.then_some("cost"));
    let mut rows = Vec::new();
    for one in scored {
        let row = |group_value: Option<String>, figures: &Figures, seconds: String| {
            let shown = |figure: Option<f64>| figure.map_or("-".to_owned(), |figure| format!("{figure:.4}"));
            let coverage = figures.interval(0.8).and_then(|interval| interval.coverage);
            let mut cells = vec![one.frequency.clone(), one.model.clone()];
            cells.extend(group.map(|_| group_value.unwrap_or_else(|| "all".to_owned())));
            let all =
                [figures.wql, figures.nd, figures.mase, figures.smape, figures.rmse, figures.bias, coverage].map(shown);
            cells.extend(all);
            cells.extend([figures.points.to_string(), seconds]);
            cells.extend(with_cost.then(|| shown(figures.cost)));
            cells
        };
        rows.push(row(None, &one.report.overall, format!("{:.1}", one.fit_seconds)));
        match by {
            Some(By::Series) => rows.extend(one.report.by_series.iter().map(|(number, figures)| {
                let id = usize::try_from(*number).ok().and_then(|number| one.series.get(number)).cloned();
                row(id, figures, String::new())
            })),
            Some(By::Step) => rows.extend(
                one.report.by_step.iter().map(|(step, figures)| row(Some(step.to_string()), figures, String::new())),
            ),
            None => {}
        }
    }
    render(&header, &rows)
}
