//! `bench/run quality`: our models beside both seasonal naives and published peers, on the load protocols P1 to
//! P4, on two published protocols of the same kind, on M4 Hourly, and on ETT over long horizons.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use meterline_bench::quality::competitions::{Table, long_horizon, m4_hourly};
use meterline_bench::quality::ett::{HORIZONS, fev_ett_15t};
use meterline_bench::quality::models::{Fitted, fit};
use meterline_bench::quality::rows::row;
use meterline_bench::quality::uci::published_week;
use meterline_bench::quality::{Checked, LongHorizon, M4Hourly, Metric, Protocol, p1, p2, p3, p4};
use meterline_models::backtest::score;
use meterline_models::forecaster::{Forecaster, Task};
use meterline_models::forecasters::seasonal_naive::SeasonalNaive;
use meterline_models::metrics::scoreboard::{Figures, Rule};
use meterline_models::plausible::Hidden;
use meterline_schemas::quantiles::LEVELS;
use serde_json::{Value, json};

/// Days of context of the network.
const CONTEXT_DAYS: usize = 28;
/// Models that are measured if nothing else is asked for; any other kind may be, and the classical ones, which fit
/// themselves anew at each origin.
const MODELS: [&str; 7] =
    ["mstl", "harmonic", "quantile_mlp", "feature_mlp", "linear_quantile", "boosted_trees", "auto"];
/// The same on M4, whose series are too short for some of those.
const MODELS_M4: [&str; 5] = ["mstl", "theta", "window_linear", "boosted_trees", "auto"];
/// The same on ETT, where a forecast is made from every step.
const MODELS_ETT: [&str; 1] = ["window_linear"];
/// What is measured.
const PROTOCOLS: [&str; 9] = ["P1", "P2", "P3", "P4", "UCI", "ETT_15T", "M4", "ETTm1", "ETTh1"];

/// Measures the forecasters on real load, with published figures of peers beside them.
#[derive(Parser)]
#[command(name = "bench/run quality")]
struct Arguments {
    /// Folder with the protocols' data (`uci_electricity`, `openstef_substations`, `vic_electricity`,
    /// `gefcom2014_load`, `m4_hourly`, `ett`). Default: the environment variable METERLINE_DATA.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Protocols.
    #[arg(long, value_delimiter = ',', default_values_t = PROTOCOLS.map(String::from))]
    protocols: Vec<String>,
    /// Models beside the seasonal naives. Default: some that suit each protocol.
    #[arg(long, value_delimiter = ',')]
    models: Vec<String>,
    /// Days by which all test windows are moved back, to choose by windows that are no test. They may not overlap those of
    /// the tests; origins of P4 are Sundays, so take weeks. Not for ETTm1 and ETTh1.
    #[arg(long, value_name = "DAYS")]
    before: Option<u32>,
    /// Of ETT, how many steps the windows are apart. With 1, as in what is published, they begin at each step of the test
    /// part.
    #[arg(long, value_name = "N", default_value_t = NonZeroUsize::MIN)]
    ett_stride: NonZeroUsize,
    /// Seed of whatever is random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    json: bool,
}

impl Arguments {
    fn models_for(&self, usual: &[&str]) -> Vec<String> {
        match self.models.is_empty() {
            true => usual.iter().copied().map(String::from).collect(),
            false => self.models.clone(),
        }
    }

    /// What is said behind the title of a protocol whose windows were moved back.
    fn moved(&self) -> String {
        self.before.map_or_else(String::new, |days| format!(", {days} days before the test windows"))
    }
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
         vic_electricity/, gefcom2014_load/, m4_hourly/ and ett/",
    )?;
    let long = |name: &&String| ["ETTM1", "ETTH1"].contains(&name.to_uppercase().as_str());
    if let Some(name) = arguments.protocols.iter().find(long).filter(|_| arguments.before.is_some()) {
        return Err(format!("{name} has no earlier windows: leave it or --before out"));
    }
    let mut rows = Vec::new();
    for name in &arguments.protocols {
        let protocol = match name.to_uppercase().as_str() {
            "P1" => p1(&data)?,
            "P2" => p2(&data)?,
            "P3" => p3(&data)?,
            "P4" => p4(&data)?,
            "UCI" => published_week(&data)?,
            "ETT_15T" => fev_ett_15t(&data)?,
            "M4" => {
                rows.extend(measure_m4(M4Hourly::load(&data)?, arguments)?);
                continue;
            }
            "ETTM1" => {
                rows.extend(measure_ett(&LongHorizon::ettm1(&data)?, arguments)?);
                continue;
            }
            "ETTH1" => {
                rows.extend(measure_ett(&LongHorizon::etth1(&data)?, arguments)?);
                continue;
            }
            _ => return Err(format!("there is no protocol `{name}`: choose among {}", PROTOCOLS.join(", "))),
        };
        rows.extend(measure_protocol(protocol, arguments)?);
    }
    if arguments.json {
        println!(
            "{}",
            json!({
                "bench": "quality", "days_before": arguments.before, "ett_stride": arguments.ett_stride, "rows": rows
            })
        );
    }
    Ok(())
}

// A harness that does not reproduce the known figures measures something else.
fn hold(name: &str, checks: Vec<Checked>) -> Result<(), String> {
    match checks.iter().find(|checked| !checked.holds()) {
        Some(checked) => Err(format!("{name}: {checked}")),
        None => Ok(()),
    }
}

fn measure_m4(data: M4Hourly, arguments: &Arguments) -> Result<Vec<Value>, String> {
    hold("M4", data.check_all())?;
    let data = match arguments.before {
        Some(days) => data.earlier(days)?,
        None => data,
    };
    Ok(shown(&m4_hourly(&data, &arguments.models_for(&MODELS_M4), arguments.seed)?, arguments))
}

fn measure_ett(data: &LongHorizon, arguments: &Arguments) -> Result<Vec<Value>, String> {
    hold(data.name, data.check_all())?;
    let mut rows = Vec::new();
    for horizon in HORIZONS {
        let models = arguments.models_for(&MODELS_ETT);
        let table = long_horizon(data, horizon, &models, arguments.seed, arguments.ett_stride)?;
        rows.extend(shown(&table, arguments));
    }
    Ok(rows)
}

/// Prints a table, where that is asked for, and gives its rows of the document.
fn shown(table: &Table, arguments: &Arguments) -> Vec<Value> {
    let metrics: Vec<Metric> = table.rows.first().map_or(Vec::new(), |row| row.figures.iter().map(|f| f.0).collect());
    let line = |model: &str, of: &dyn Fn(Metric) -> Option<f64>, seconds: Option<f64>| {
        let cell = |figure: Option<f64>, digits| figure.map_or("-".to_owned(), |figure| format!("{figure:.digits$}"));
        let cells: Vec<String> = metrics.iter().map(|metric| format!("{:>9}", cell(of(*metric), 3))).collect();
        println!("{model:<36} {} {:>8}", cells.join(" "), cell(seconds, 1));
    };
    if !arguments.json {
        println!("{}: {}{}", table.name, table.title, arguments.moved());
        let header: Vec<String> = metrics.iter().map(|metric| format!("{:>9}", metric.heading())).collect();
        println!("{:<36} {} {:>8}", "model", header.join(" "), "train s");
        for row in &table.rows {
            let of = |metric| row.figures.iter().find(|(known, _)| *known == metric).map(|(_, figure)| *figure);
            line(&row.model, &of, Some(row.seconds));
        }
        table.peers.iter().for_each(|peer| line(&format!("{} (published)", peer.model), &|m| peer.get(m), None));
        println!();
    }
    table.document()
}

fn measure_protocol(protocol: Protocol, arguments: &Arguments) -> Result<Vec<Value>, String> {
    hold(protocol.name, protocol.check_all())?;
    let protocol = match arguments.before {
        Some(days) => protocol.earlier(days)?,
        None => protocol,
    };
    let panel = protocol.panel_with_covariates();
    if let Some(told) = Hidden::of(&panel).told() {
        return Err(format!("{}: published figures are of all values. {told}", protocol.name));
    }
    // Nothing that ends after the first origin is trained on, and nothing of the test window chooses anything.
    let known = panel.cut(protocol.train_until);
    let naive = [SeasonalNaive::short(panel.frequency), SeasonalNaive::long(panel.frequency)];
    let task = Task {
        holidays: protocol.holidays.clone(),
        ..Task::new(protocol.horizon, CONTEXT_DAYS * known.frequency.per_day(), arguments.seed)
    };
    let names = arguments.models_for(&MODELS);
    let fitted: Vec<Fitted> =
        names.iter().map(|name| fit(name, protocol.name, &known, &task)).collect::<Result<_, _>>()?;
    let mut models: Vec<&dyn Forecaster> = naive.iter().map(|model| model as &dyn Forecaster).collect();
    models.extend(fitted.iter().map(|fitted| &*fitted.model));
    let begun = Instant::now();
    let rule = Rule::new(&LEVELS).map_err(|error| error.to_string())?;
    let scorings = score(&models, &panel, &protocol.origins, protocol.horizon, &rule, &|_, _| "");
    eprintln!("{} evaluated in {:.1} s", protocol.name, begun.elapsed().as_secs_f64());
    if let Some((model, of)) = models.iter().zip(&scorings).find(|(_, of)| of.windows_missed > 0) {
        return Err(format!("{} {}: no forecast for {} windows", protocol.name, model.name(), of.windows_missed));
    }
    let seconds = naive.iter().map(|_| None).chain(fitted.iter().map(|fitted| Some(fitted.seconds)));
    let scored = models.iter().zip(scorings).zip(seconds);
    let scored: Vec<Scored> = scored
        .map(|((model, scoring), seconds)| Scored {
            model: model.name().to_owned(),
            figures: scoring.report.overall,
            seconds,
        })
        .collect();
    if !arguments.json {
        print_table(&protocol, &scored, &arguments.moved());
    }
    Ok(json_rows(&protocol, &scored))
}

/// What a model scored.
struct Scored {
    model: String,
    figures: Figures,
    // How long it took to fit, where it has to be.
    seconds: Option<f64>,
}

impl Scored {
    fn get(&self, metric: Metric) -> Option<f64> {
        let figures = &self.figures;
        match metric {
            Metric::Nd => figures.nd,
            Metric::Wql => figures.wql,
            Metric::Mase => figures.mase,
            Metric::Sql => figures.sql,
            Metric::P90Risk => figures.loss(0.9),
            _ => figures.interval(metric.nominal()?)?.coverage,
        }
    }
}

/// Figures that tell more than others where a peer has them.
const OF_SOME: [Metric; 2] = [Metric::P90Risk, Metric::Sql];

/// Those of them that a peer of the protocol has.
fn of_peers(protocol: &Protocol) -> impl Iterator<Item = Metric> + '_ {
    OF_SOME.into_iter().filter(|metric| protocol.peers.iter().any(|peer| peer.get(*metric).is_some()))
}

/// What is shown of each model, with its digits.
const SHOWN: [(Metric, usize); 5] =
    [(Metric::Nd, 6), (Metric::Wql, 4), (Metric::Mase, 3), (Metric::Coverage, 3), (Metric::Coverage90, 3)];
/// Digits of the others.
const DIGITS_OF_SOME: usize = 3;

fn print_table(protocol: &Protocol, scored: &[Scored], moved: &str) {
    let shown: Vec<(Metric, usize)> =
        SHOWN.into_iter().chain(of_peers(protocol).map(|metric| (metric, DIGITS_OF_SOME))).collect();
    let line = |model: &str, figures: &dyn Fn(Metric) -> Option<f64>, seconds: Option<f64>| {
        let cell = |figure: Option<f64>, digits: usize| figure.map_or("-".into(), |f| format!("{f:.digits$}"));
        let cells = shown.iter().map(|(metric, digits)| format!("{:>9}", cell(figures(*metric), *digits)));
        println!("{model:<36} {} {:>8}", cells.collect::<Vec<_>>().join(" "), cell(seconds, 1));
    };
    println!("{}: {}{moved}, {} points", protocol.name, protocol.title, scored.first().map_or(0, |s| s.figures.points));
    let header: Vec<String> = shown.iter().map(|(metric, _)| format!("{:>9}", metric.heading())).collect();
    println!("{:<36} {} {:>8}", "model", header.join(" "), "train s");
    for scored in scored {
        line(&scored.model, &|metric| scored.get(metric), scored.seconds);
    }
    for peer in &protocol.peers {
        line(&format!("{} (published)", peer.model), &|metric| peer.get(metric), None);
    }
    println!();
}

/// One row a model, figure and peer; a ratio above 1 means that ours is better. What peers reached on other series stands
/// beside none of ours.
fn json_rows(protocol: &Protocol, scored: &[Scored]) -> Vec<Value> {
    let mut rows = Vec::new();
    for one in scored {
        let name = |what: &str| format!("{}_{}_{what}", protocol.name.to_lowercase(), one.model);
        for metric in [Metric::Nd, Metric::Wql, Metric::Mase].into_iter().chain(of_peers(protocol)) {
            let Some(ours) = one.get(metric) else { continue };
            let naive = scored.iter().take(2).map(|naive| (naive.model.clone(), naive.get(metric)));
            let peers = protocol.peers.iter().filter(|peer| peer.same_series);
            let peers = peers.map(|peer| (format!("{}, published", peer.model), peer.get(metric)));
            for (against, theirs) in naive.chain(peers) {
                rows.push(row(&name(metric.key()), Some(ours), &metric.unit(), Some((against.as_str(), theirs))));
            }
        }
        for metric in [Metric::Coverage, Metric::Coverage90] {
            rows.push(row(&name(metric.key()), one.get(metric), &metric.unit(), None));
        }
        rows.push(row(&name("train"), one.seconds, "s", None));
    }
    for peer in protocol.peers.iter().filter(|peer| !peer.same_series) {
        for (metric, theirs) in &peer.figures {
            let name = format!("{}_{}", protocol.name.to_lowercase(), metric.key());
            let against = format!("{}, published, other series", peer.model);
            rows.push(row(&name, None, &metric.unit(), Some((against.as_str(), Some(*theirs)))));
        }
    }
    rows
}
