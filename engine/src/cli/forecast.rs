//! `meterline forecast`: a plain file in, forecasts out; no broker, no lake.

use std::fmt::Write;
use std::path::PathBuf;

use meterline_models::data::Panel;
use meterline_models::explain::{Explanation, bounded};
use meterline_models::forecaster::{Model, NoForecast, SeriesForecast};
use meterline_schemas::Micros;
use meterline_schemas::quantiles::{COLUMNS, LEVELS};
use meterline_schemas::time::format_micros;
use serde::Serialize;

use super::offline::{OfflineArgs, each};
use super::{CommandError, CommandResult, Context, explanation};

/// Arguments of `meterline forecast`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    offline: OfflineArgs,
    /// The model; `meterline models kinds` lists all
    #[arg(long, value_name = "NAME", default_value = "auto")]
    model: String,
    /// Write the forecasts to this CSV file instead of standard output
    #[arg(long, short = 'o', value_name = "FILE")]
    out: Option<PathBuf>,
    /// Say what the model learned and what its forecasts are made of: on standard error, or on standard output where the
    /// forecasts go to a file; with --json in one document with them
    #[arg(long)]
    explain: bool,
}

/// One forecast value.
#[derive(Serialize)]
struct Row<'a> {
    series_id: &'a str,
    start: String,
    end: String,
    mean: f64,
    quantiles: [f64; LEVELS.len()],
}

/// With `--explain`.
#[derive(Serialize)]
struct Explained {
    forecasts: Vec<serde_json::Value>,
    explanations: Vec<Explanation>,
}

/// What is written where.
struct Written {
    forecasts: String,
    // For people; empty where it is in the document, or was not asked for.
    explanations: String,
}

/// Fits the model to all that the files have, and writes what comes next.
pub async fn run(args: Args, context: &Context) -> CommandResult {
    let Args { offline, model, out, explain } = args;
    let json = context.json;
    let written = tokio::task::spawn_blocking(move || forecast(&offline, &model, json, explain));
    let written = written.await.map_err(|error| CommandError::failed(format!("forecasting ended: {error}")))??;
    let Written { forecasts: text, explanations } = written;
    if out.is_none() && !explanations.is_empty() {
        eprintln!("{explanations}");
    }
    match out {
        Some(path) => {
            std::fs::write(&path, text)
                .map_err(|error| CommandError::failed(format!("cannot write {}: {error}", path.display())))?;
            if explanations.is_empty() { Ok(()) } else { context.print(&explanations) }
        }
        None => context.print(text.trim_end()),
    }
}

/// What is written of the series of one frequency.
#[derive(Default)]
struct Found {
    // Rows of CSV, or with --json documents.
    texts: Vec<String>,
    documents: Vec<serde_json::Value>,
    explanations: Vec<Explanation>,
    // Series without a forecast.
    without: usize,
}

fn forecast(offline: &OfflineArgs, model: &str, json: bool, explain: bool) -> Result<Written, CommandError> {
    let kind = offline.kind(model)?;
    offline.check_inputs(&[kind])?;
    let unfitted = offline.model(kind)?;
    let found = each(offline.read()?.panels, |found| of_frequency(offline, &*unfitted, found.panel, json, explain))?;
    let all = found.into_iter().fold(Found::default(), |mut all, of| {
        all.texts.extend(of.texts);
        all.documents.extend(of.documents);
        all.explanations.extend(of.explanations);
        all.without += of.without;
        all
    });
    let Found { texts, documents, explanations, without } = all;
    if texts.is_empty() && documents.is_empty() {
        return Err(CommandError::failed(format!("none of the {without} series has a forecast")));
    }
    if json {
        let document = match explain {
            true => serde_json::to_string_pretty(&Explained { forecasts: documents, explanations })?,
            false => serde_json::to_string_pretty(&documents)?,
        };
        return Ok(Written { forecasts: document, explanations: String::new() });
    }
    let forecasts = format!("series_id,start,end,mean,{}\n{}", COLUMNS.join(","), texts.concat());
    let explanations = match (explain, explanations.is_empty()) {
        (false, _) => String::new(),
        (true, true) => format!("{model} has nothing to tell of itself or of its forecasts"),
        (true, false) => explanation::table(&explanations),
    };
    Ok(Written { forecasts, explanations })
}

fn of_frequency(
    offline: &OfflineArgs,
    model: &dyn Model,
    mut panel: Panel,
    json: bool,
    explain: bool,
) -> Result<Found, CommandError> {
    let mut found = Found::default();
    let task = offline.task(panel.frequency)?;
    offline.complete(&mut panel, |series| series.values.len()..series.values.len() + task.horizon)?;
    let mut shown = offline.shown(format!("{}, {}", model.name(), panel.frequency));
    let fitted = model.fit(&panel, &task, &mut |done| shown.step(done))?;
    if let Some(report) = fitted.report() {
        eprintln!("{}: {report}", model.name());
    }
    let forecasts = fitted.forecast(&panel, task.horizon);
    if explain {
        found.explanations.extend(bounded(fitted.explain()));
        found.explanations.extend(bounded(fitted.explain_forecast(&panel, task.horizon)));
    }
    let refused = forecasts.iter().zip(&panel.series).filter_map(|(f, series)| Some((series, f.as_ref().err()?)));
    for (series, reason) in refused {
        eprintln!("series `{}` has no forecast: {reason}", series.id);
        found.without += 1;
    }
    let rows = rows(&panel, &forecasts);
    match json {
        true => found.documents.extend(rows.iter().filter_map(|row| serde_json::to_value(row).ok())),
        false => found.texts.extend(rows.iter().map(csv)),
    }
    Ok(found)
}

fn rows<'p>(panel: &'p Panel, forecasts: &[Result<SeriesForecast, NoForecast>]) -> Vec<Row<'p>> {
    let there =
        panel.series.iter().zip(forecasts).filter_map(|(series, forecast)| Some((series, forecast.as_ref().ok()?)));
    let mut rows = Vec::new();
    for (series, forecast) in there {
        let origin = series.origin(panel.frequency, &panel.zone);
        let at = |step: usize| -> Micros { panel.frequency.advance(origin, step as i64, &panel.zone) };
        for (step, (mean, quantiles)) in forecast.mean.iter().zip(&forecast.quantiles).enumerate() {
            rows.push(Row {
                series_id: &series.id,
                start: format_micros(at(step)),
                end: format_micros(at(step + 1)),
                mean: *mean,
                quantiles: *quantiles,
            });
        }
    }
    rows
}

fn csv(row: &Row<'_>) -> String {
    let quoted = match row.series_id.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", row.series_id.replace('"', "\"\"")),
        false => row.series_id.to_owned(),
    };
    let mut line = format!("{quoted},{},{},{}", row.start, row.end, row.mean);
    for quantile in row.quantiles {
        let _ = write!(line, ",{quantile}");
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_would_break_a_row_is_quoted() {
        let row = |series_id| Row {
            series_id,
            start: "a".into(),
            end: "b".into(),
            mean: 0.5,
            quantiles: [1.0; LEVELS.len()],
        };
        assert_eq!(csv(&row("m1")), format!("m1,a,b,0.5{}\n", ",1".repeat(LEVELS.len())));
        assert!(csv(&row("m\"1, left")).starts_with("\"m\"\"1, left\",a"));
    }

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    // Does not come again by days or weeks.
    fn temperature(hour: usize) -> f64 {
        ((31 * hour * hour + 17 * hour) % 41) as f64 / 2.0
    }

    // A load that the temperature of its hour decides, and temperatures beyond its end.
    fn heating(days: usize, known_hours: usize) -> String {
        let mut text = "series_id,timestamp,value,temperature\n".to_owned();
        for hour in 0..known_hours {
            let at = format_micros(hour as i64 * meterline_schemas::time::HOUR);
            let temperature = temperature(hour);
            let value = if hour < days * 24 { format!("{}", 50.0 - 2.0 * temperature) } else { String::new() };
            text.push_str(&format!("a,{at},{value},{temperature}\n"));
        }
        text
    }

    #[test]
    fn what_is_known_ahead_decides_the_forecast_and_is_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("heating.csv");
        let forecast_of = |known_hours: usize, more: &[&str]| {
            std::fs::write(&path, heating(60, known_hours)).unwrap();
            let line = ["", "--horizon", "24h", "--label", "begin", path.to_str().unwrap()];
            let line = <Line as clap::Parser>::try_parse_from(line.iter().chain(more)).unwrap();
            let written = forecast(&line.args.offline, "linear_quantile", false, false);
            written.map(|written| written.forecasts).map_err(|error| error.message().to_owned())
        };
        let error = |text: &str| -> f64 {
            let of = |(step, line): (usize, &str)| {
                let mean: f64 = line.split(',').nth(3).unwrap().parse().unwrap();
                (mean - (50.0 - 2.0 * temperature(60 * 24 + step))).abs()
            };
            text.lines().skip(1).enumerate().map(of).sum::<f64>() / 24.0
        };
        let named = ["--covariates", "temperature"];
        let (with, without) = (forecast_of(61 * 24, &named).unwrap(), forecast_of(61 * 24, &[]).unwrap());
        assert_eq!((with.lines().count(), without.lines().count()), (25, 25));
        assert!(error(&with) < 0.3 * error(&without), "{} {}", error(&with), error(&without));
        let refused = forecast_of(60 * 24 + 5, &named).unwrap_err();
        for words in ["`temperature` of series `a`", "for 19", "1970-03-02T05:00:00Z", "--covariate-fallback"] {
            assert!(refused.contains(words), "{refused}");
        }
        let filled = forecast_of(60 * 24 + 5, &["--covariates", "temperature", "--covariate-fallback", "last_day"]);
        assert_eq!(filled.unwrap().lines().count(), 25);
    }

    #[test]
    fn what_cannot_be_forecast_does_not_keep_the_rest_from_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f.csv");
        let forecast_of = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let line = ["", "--horizon", "24h", "--label", "begin", path.to_str().unwrap()];
            let args = <Line as clap::Parser>::try_parse_from(line).unwrap().args;
            let written = forecast(&args.offline, "linear_quantile", false, false);
            written.map(|written| written.forecasts).map_err(|error| error.message().to_owned())
        };
        // Two stamps a week apart have no frequency; forty quarter hours are too few to fit anything to.
        let odd = "odd,1970-01-01T00:00:00Z,1\nodd,1970-01-09T00:00:00Z,1\n";
        let quarter = |quarter: i64| format_micros(quarter * 15 * meterline_schemas::time::MINUTE);
        let quarters: String = (0..40).map(|at| format!("quarters,{},1\n", quarter(at))).collect();
        let names = "series_id,timestamp,value\n";
        let hour = |hour: i64| format_micros(hour * meterline_schemas::time::HOUR);
        let good: String = (0..60 * 24).map(|at| format!("good,{},{}\n", hour(at), at * 13 % 24)).collect();
        let found = forecast_of(&format!("{names}{odd}{quarters}{good}")).unwrap();
        assert!(found.lines().skip(1).all(|line| line.starts_with("good,")) && found.lines().count() == 25, "{found}");
        let refused = forecast_of(&format!("{names}{odd}{quarters}")).unwrap_err();
        assert!(refused.contains("intervals of history"), "{refused}");
        let refused = forecast_of(&format!("{names}{odd}")).unwrap_err();
        assert!(refused.contains("frequency of series `odd`"), "{refused}");
    }
}
