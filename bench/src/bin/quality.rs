//! `bench/run quality [--json]`: our model beside both seasonal naives on the load protocols P1 and P2.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use meterline_bench::quality::{Metric, PeerRow, Protocol, p1, p2};
use meterline_models::backtest::{Evaluation, compare};
use meterline_models::forecaster::Forecaster;
use meterline_models::forecasters::quantile_mlp::{TrainSpec, train};
use meterline_models::forecasters::seasonal_naive::SeasonalNaive;
use serde_json::json;

/// Days of context on both protocols.
const CONTEXT_DAYS: usize = 28;

/// Measures the forecasters on real load, with published figures of peers beside them.
#[derive(Parser)]
#[command(name = "bench/run quality")]
struct Arguments {
    /// Folder with the protocols' data (`uci_electricity`, `openstef_substations`). Default: the environment variable
    /// METERLINE_DATA.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Seed of the training.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match measure(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quality: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> Result<(), String> {
    let data = arguments.data.clone().or_else(|| std::env::var_os("METERLINE_DATA").map(PathBuf::from)).ok_or(
        "no data: set METERLINE_DATA (or --data) to the folder that holds uci_electricity/ and openstef_substations/",
    )?;
    let mut rows = Vec::new();
    for protocol in [p1(&data)?, p2(&data)?] {
        rows.extend(measure_protocol(&protocol, arguments)?);
    }
    if arguments.json {
        println!("{}", json!({ "bench": "quality", "rows": rows }));
    }
    Ok(())
}

fn measure_protocol(protocol: &Protocol, arguments: &Arguments) -> Result<Vec<serde_json::Value>, String> {
    let frequency = protocol.panel.frequency;
    let day = SeasonalNaive::short(frequency);
    let week = SeasonalNaive::long(frequency);
    let first = *protocol.origins.first().ok_or("the protocol has no origin")?;
    // Nothing that ends after the first origin is trained on, and nothing of the test window chooses anything.
    let known = protocol.panel.cut(first);
    let spec = TrainSpec::new(protocol.horizon, CONTEXT_DAYS * frequency.per_day(), arguments.seed);
    let begun = Instant::now();
    let model = train(&known, &spec, &mut |progress| {
        if progress.batch == 0 {
            eprint!("\r{} training {:3.0} %", protocol.name, 100.0 * progress.done());
        }
        ControlFlow::Continue(())
    })
    .map_err(|e| format!("{}: {e}", protocol.name))?;
    let train_seconds = begun.elapsed().as_secs_f64();
    eprintln!("\r{} trained in {train_seconds:.1} s, {} weights", protocol.name, model.parameters());

    let models: [&dyn Forecaster; 3] = [&day, &week, &model];
    let begun = Instant::now();
    let found = compare(&models, &protocol.panel, &protocol.origins, protocol.horizon);
    eprintln!("{} evaluated in {:.1} s", protocol.name, begun.elapsed().as_secs_f64());
    check_naive(protocol, &found)?;
    if !arguments.json {
        print_table(protocol, &found, train_seconds);
    }
    json_rows(protocol, &found, train_seconds)
}

/// A harness that does not reproduce the published figures of seasonal naive measures something else.
fn check_naive(protocol: &Protocol, found: &[Evaluation]) -> Result<(), String> {
    for (evaluation, check) in found.iter().zip(protocol.checks.iter().filter(|check| check.metric == Metric::Nd)) {
        let checked = check.beside(evaluation.nd);
        if !checked.holds() {
            return Err(format!("{} {}: {checked}", protocol.name, evaluation.model));
        }
    }
    Ok(())
}

fn print_table(protocol: &Protocol, found: &[Evaluation], train_seconds: f64) {
    let shown = |figure: Option<f64>, digits: usize| figure.map_or("-".into(), |f| format!("{f:.digits$}"));
    println!("{}: {} points", protocol.name, found.first().map_or(0, |e| e.points));
    println!("{:<22} {:>9} {:>8} {:>7} {:>9} {:>8}", "model", "ND", "wQL", "MASE", "coverage", "train s");
    for evaluation in found {
        let seconds = if evaluation.model == "quantile_mlp" { Some(train_seconds) } else { None };
        println!(
            "{:<22} {:>9} {:>8} {:>7} {:>9} {:>8}",
            evaluation.model,
            shown(evaluation.nd, 6),
            shown(evaluation.wql, 4),
            shown(evaluation.mase, 3),
            shown(evaluation.coverage, 3),
            shown(seconds, 1)
        );
    }
    let peer = |metric| lightgbm(protocol).and_then(|row| row.get(metric));
    println!(
        "{:<22} {:>9} {:>8} {:>7} {:>9} {:>8}",
        "LightGBM (published)",
        shown(peer(Metric::Nd), 6),
        shown(peer(Metric::Wql), 4),
        shown(peer(Metric::Mase), 3),
        shown(peer(Metric::Coverage), 3),
        "10–68"
    );
    println!();
}

/// The strongest single model of P1 and P2 that was measured elsewhere.
fn lightgbm(protocol: &Protocol) -> Option<&PeerRow> {
    protocol.peer("LightGBM")
}

/// One row a figure and peer; a ratio above 1 means that ours is better.
fn json_rows(protocol: &Protocol, found: &[Evaluation], train_seconds: f64) -> Result<Vec<serde_json::Value>, String> {
    let [day, week, ours] = found else { return Err("three models were compared".into()) };
    let name = |what: &str| format!("{}_{what}", protocol.name.to_lowercase());
    let mut rows = Vec::new();
    for (what, figure) in [("nd", ours.nd), ("wql", ours.wql), ("mase", ours.mase)] {
        let ours = figure.ok_or_else(|| format!("{}: {what} has no value", protocol.name))?;
        let metric = match what {
            "nd" => Metric::Nd,
            "wql" => Metric::Wql,
            _ => Metric::Mase,
        };
        let of = |e: &Evaluation| match what {
            "nd" => e.nd,
            "wql" => e.wql,
            _ => e.mase,
        };
        for (against, theirs) in [
            ("seasonal naive, day", of(day)),
            ("seasonal naive, week", of(week)),
            ("LightGBM, published", lightgbm(protocol).and_then(|row| row.get(metric))),
        ] {
            let ratio = theirs.map(|theirs| theirs / ours);
            rows.push(json!({
                "name": name(what), "ours": ours, "against": against, "theirs": theirs, "unit": "1", "ratio": ratio
            }));
        }
    }
    for (what, value, unit) in
        [("coverage_q10_q90", ours.coverage, "share, 0.8 is right"), ("train", Some(train_seconds), "s")]
    {
        rows.push(json!({
            "name": name(what), "ours": value, "against": null, "theirs": null, "unit": unit, "ratio": null
        }));
    }
    Ok(rows)
}
