//! `bench/run quality [--json]`: our models beside both seasonal naives and published peers, on the load protocols P1 to
//! P4.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use meterline_bench::quality::{Metric, Protocol, p1, p2, p3, p4};
use meterline_models::backtest::{Evaluation, compare};
use meterline_models::data::Panel;
use meterline_models::forecaster::{Done, Forecaster, Task};
use meterline_models::forecasters::classical::Classical;
use meterline_models::forecasters::seasonal_naive::SeasonalNaive;
use meterline_models::registry;
use meterline_models::statistics::Method;
use serde_json::{Value, json};

/// Days of context of the network.
const CONTEXT_DAYS: usize = 28;
/// Models that are measured if nothing else is asked for; any of [`Method::ALL`] may be, too. Those fit themselves anew at
/// each origin.
const MODELS: [&str; 6] = ["mstl", "harmonic", "quantile_mlp", "linear_quantile", "boosted_trees", "auto"];

/// Measures the forecasters on real load, with published figures of peers beside them.
#[derive(Parser)]
#[command(name = "bench/run quality")]
struct Arguments {
    /// Folder with the protocols' data (`uci_electricity`, `openstef_substations`, `vic_electricity`,
    /// `gefcom2014_load`). Default: the environment variable METERLINE_DATA.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Protocols.
    #[arg(long, value_delimiter = ',', default_values_t = ["P1", "P2", "P3", "P4"].map(String::from))]
    protocols: Vec<String>,
    /// Models beside the seasonal naives.
    #[arg(long, value_delimiter = ',', default_values_t = MODELS.map(String::from))]
    models: Vec<String>,
    /// Seed of whatever is random.
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
        "no data: set METERLINE_DATA (or --data) to the folder that holds uci_electricity/, openstef_substations/, \
         vic_electricity/ and gefcom2014_load/",
    )?;
    let mut rows = Vec::new();
    for name in &arguments.protocols {
        let protocol = match name.to_uppercase().as_str() {
            "P1" => p1(&data)?,
            "P2" => p2(&data)?,
            "P3" => p3(&data)?,
            "P4" => p4(&data)?,
            _ => return Err(format!("there is no protocol `{name}`: choose among P1, P2, P3, P4")),
        };
        rows.extend(measure_protocol(&protocol, arguments)?);
    }
    if arguments.json {
        println!("{}", json!({ "bench": "quality", "rows": rows }));
    }
    Ok(())
}

/// A fitted model and how long that took.
struct Fitted {
    model: Box<dyn Forecaster>,
    seconds: f64,
}

fn measure_protocol(protocol: &Protocol, arguments: &Arguments) -> Result<Vec<Value>, String> {
    // A harness that does not reproduce the known figures measures something else.
    for checked in protocol.check_all() {
        if !checked.holds() {
            return Err(format!("{}: {checked}", protocol.name));
        }
    }
    let panel = protocol.panel_with_covariates();
    // Nothing that ends after the first origin is trained on, and nothing of the test window chooses anything.
    let known = panel.cut(protocol.train_until);
    let naive = [SeasonalNaive::short(panel.frequency), SeasonalNaive::long(panel.frequency)];
    let mut fitted = Vec::new();
    for name in &arguments.models {
        let begun = Instant::now();
        let model = fit(name, protocol, &known, arguments.seed)?;
        fitted.push(Fitted { model, seconds: begun.elapsed().as_secs_f64() });
    }
    let mut models: Vec<&dyn Forecaster> = naive.iter().map(|model| model as &dyn Forecaster).collect();
    models.extend(fitted.iter().map(|fitted| &*fitted.model));
    let begun = Instant::now();
    let found = compare(&models, &panel, &protocol.origins, protocol.horizon);
    eprintln!("{} evaluated in {:.1} s", protocol.name, begun.elapsed().as_secs_f64());
    let seconds: Vec<Option<f64>> =
        naive.iter().map(|_| None).chain(fitted.iter().map(|fitted| Some(fitted.seconds))).collect();
    if !arguments.json {
        print_table(protocol, &found, &seconds);
    }
    Ok(json_rows(protocol, &found, &seconds))
}

fn fit(name: &str, protocol: &Protocol, known: &Panel, seed: u64) -> Result<Box<dyn Forecaster>, String> {
    let task = Task {
        holidays: protocol.holidays.clone(),
        ..Task::new(protocol.horizon, CONTEXT_DAYS * known.frequency.per_day(), seed)
    };
    let mut shown = -1;
    let mut progress = |done: Done<'_>| {
        let tenths = (10.0 * done.share) as i32;
        if tenths > shown {
            shown = tenths;
            eprint!("\r{} {name} {:3} % ", protocol.name, 10 * tenths);
        }
        ControlFlow::Continue(())
    };
    let kind = registry::find(name).map(registry::Kind::model);
    let method = || Method::ALL.into_iter().find(|method| method.name() == name);
    let model = kind.or_else(|| Some(Box::new(Classical { method: method()? })));
    let Some(model) = model else {
        let mut names: BTreeSet<&str> = Method::ALL.map(Method::name).into();
        names.extend(registry::KINDS.iter().map(|kind| kind.name));
        let names: Vec<&str> = names.into_iter().collect();
        return Err(format!("there is no model `{name}`: choose among {}", names.join(", ")));
    };
    let fitted = model.fit(known, &task, &mut progress).map_err(|error| format!("{}: {error}", protocol.name))?;
    eprintln!();
    if let Some(report) = fitted.report() {
        eprintln!("{} {name}: {report}", protocol.name);
    }
    Ok(fitted)
}

/// What is shown of each model, with its digits.
const SHOWN: [(Metric, usize); 4] = [(Metric::Nd, 6), (Metric::Wql, 4), (Metric::Mase, 3), (Metric::Coverage, 3)];

fn figure(evaluation: &Evaluation, metric: Metric) -> Option<f64> {
    match metric {
        Metric::Nd => evaluation.nd,
        Metric::Wql => evaluation.wql,
        Metric::Mase => evaluation.mase,
        Metric::Coverage => evaluation.coverage,
        _ => None,
    }
}

fn print_table(protocol: &Protocol, found: &[Evaluation], seconds: &[Option<f64>]) {
    let line = |model: &str, figures: &dyn Fn(Metric) -> Option<f64>, seconds: Option<f64>| {
        let shown = |figure: Option<f64>, digits: usize| figure.map_or("-".into(), |f| format!("{f:.digits$}"));
        let figures = SHOWN.map(|(metric, digits)| format!("{:>9}", shown(figures(metric), digits)));
        println!("{model:<36} {} {:>8}", figures.join(" "), shown(seconds, 1));
    };
    println!("{}: {}, {} points", protocol.name, protocol.title, found.first().map_or(0, |e| e.points));
    println!("{:<36} {:>9} {:>9} {:>9} {:>9} {:>8}", "model", "ND", "wQL", "MASE", "coverage", "train s");
    for (evaluation, seconds) in found.iter().zip(seconds) {
        line(&evaluation.model, &|metric| figure(evaluation, metric), *seconds);
    }
    for peer in &protocol.peers {
        line(&format!("{} (published)", peer.model), &|metric| peer.get(metric), None);
    }
    println!();
}

/// One row a model, figure and peer; a ratio above 1 means that ours is better.
fn json_rows(protocol: &Protocol, found: &[Evaluation], seconds: &[Option<f64>]) -> Vec<Value> {
    let mut rows = Vec::new();
    for (evaluation, seconds) in found.iter().zip(seconds) {
        let name = |what: &str| format!("{}_{}_{what}", protocol.name.to_lowercase(), evaluation.model);
        for metric in [Metric::Nd, Metric::Wql, Metric::Mase] {
            let Some(ours) = figure(evaluation, metric) else { continue };
            let naive = found.iter().take(2).map(|naive| (naive.model.clone(), figure(naive, metric)));
            let peers = protocol.peers.iter().map(|peer| (format!("{}, published", peer.model), peer.get(metric)));
            for (against, theirs) in naive.chain(peers) {
                let ratio = theirs.map(|theirs| theirs / ours);
                rows.push(json!({
                    "name": name(metric.name()), "ours": ours, "against": against, "theirs": theirs, "unit": "1",
                    "ratio": ratio
                }));
            }
        }
        for (what, value, unit) in
            [("coverage_q10_q90", evaluation.coverage, "share, 0.8 is right"), ("train", *seconds, "s")]
        {
            rows.push(json!({
                "name": name(what), "ours": value, "against": null, "theirs": null, "unit": unit, "ratio": null
            }));
        }
    }
    rows
}
