//! What policies of retraining buy for the time on the device: replayed over real load, with models and forecasts.

use std::path::Path;

use meterline::metadata::records::Pipeline;
use meterline::triggers::learn::Learner;
use meterline::triggers::past::evaluations_of;
use meterline::triggers::simulate::{Subject, simulate_with};
use meterline_schemas::config::{parse, resolve_policy};
use meterline_schemas::time::{DAY, format_micros};
use serde_json::Value;

use crate::quality::p1;
use crate::report::alone;

/// When each policy retrains, beside that there must be a model.
pub const POLICIES: [(&str, &str, &str); 7] = [
    ("once", "false", "1d"),
    ("every_day", "new_intervals >= 24", "0s"),
    ("every_week", "new_intervals >= 168", "0s"),
    ("every_month", "new_intervals >= 720", "0s"),
    ("on_drift", "mase_ratio > 1.25", "1d"),
    ("on_coverage", "coverage < 0.7", "1d"),
    (
        "by_ledger",
        "new_intervals >= 168 and (retrain_gain > 0.01 or retrain_gain is null) or new_intervals >= 720",
        "1d",
    ),
];

/// What a policy bought.
#[derive(Debug, Clone)]
pub struct Bought {
    /// Its name.
    pub name: &'static str,
    /// Models that were trained.
    pub retrains: usize,
    /// Seconds that training took.
    pub device_seconds: f64,
    /// Weighted quantile loss over all steps of all forecasts.
    pub wql: f64,
    /// Of seasonal naive.
    pub naive: f64,
    /// Share within the 80 % interval.
    pub coverage: f64,
}

/// Replays each policy over the last `days` days of hourly load (protocol P1) before its test windows, with models of a
/// kind and a forecast every six hours.
///
/// # Errors
/// The data cannot be read, or a model cannot be fitted; in words.
pub fn measure(data: &Path, kind: &str, days: i64) -> Result<Vec<Bought>, String> {
    let protocol = p1(data)?;
    let panel = protocol.panel.cut(protocol.train_until);
    let until = panel.origin().ok_or("there is no load")?;
    eprintln!("policies over {days} days until {}, {} series, {kind}", format_micros(until), panel.series.len());
    let evaluations = evaluations_of(&panel, until - days * DAY, until);
    let mut learner = Learner::new(panel);
    let mut bought = Vec::new();
    for (name, when, cooldown) in POLICIES {
        let text = format!(
            "[policy.a]\nfrequency = \"PT1H\"\nhorizon = \"1d\"\ncontext = \"28d\"\n[policy.a.model]\nkind = \"{kind}\"\nhistory = \"200d\"\n\
             [policy.a.gate]\naccept_if = \"wql <= naive_wql\"\n\
             [policy.a.reforecast]\nwhen = \"new_intervals >= 6\"\nrequire = \"\"\n\
             [policy.a.retrain]\nwhen = \"not has_champion or {when}\"\nrequire = \"\"\ncooldown = \"{cooldown}\"\n"
        );
        let config = parse(&text).map_err(|e| e.to_string())?;
        let policy = resolve_policy(protocol.panel.frequency, &config.policy);
        let subject = Subject {
            policy,
            covariates: Vec::new(),
            evaluations: evaluations.clone(),
            past: Default::default(),
            standings: Default::default(),
            typical: Default::default(),
        };
        let mut shown = 0;
        let replays = simulate_with(&[subject], std::slice::from_mut(&mut learner), &mut |share| {
            let percent = (share * 10.0) as u32 * 10;
            if percent > shown {
                shown = percent;
                eprintln!("{name}: {percent} %");
            }
        })
        .map_err(|e| e.to_string())?;
        if let Some(error) = replays.iter().flat_map(|replay| &replay.fired).find_map(|fired| fired.error.as_ref()) {
            return Err(format!("{name}: {error}"));
        }
        let builds = replays.iter().flat_map(|replay| &replay.fired).filter(|fired| fired.pipeline == Pipeline::Build);
        let seconds: Vec<f64> = builds.map(|fired| fired.device_seconds.unwrap_or(f64::NAN)).collect();
        let accuracy = learner.accuracy();
        bought.push(Bought {
            name,
            retrains: seconds.len(),
            device_seconds: seconds.iter().sum(),
            wql: accuracy.all.wql().unwrap_or(f64::NAN),
            naive: accuracy.naive.wql().unwrap_or(f64::NAN),
            coverage: accuracy.all.coverage().unwrap_or(f64::NAN),
        });
    }
    Ok(bought)
}

/// As rows of a report.
pub fn rows(kind: &str, bought: &[Bought]) -> Vec<Value> {
    bought
        .iter()
        .flat_map(|of| {
            let name = |what: &str| format!("{kind}_{}_{what}", of.name);
            [
                alone(&name("retrains"), of.retrains as f64, "runs"),
                alone(&name("device"), of.device_seconds, "s"),
                alone(&name("wql"), of.wql, "wQL"),
                alone(&name("coverage"), of.coverage, "share within 80 %"),
            ]
        })
        .collect()
}

/// The loss of each policy against its time on the device, as a plot of text: the less of both the better.
pub fn plot(bought: &[Bought]) -> String {
    const COLUMNS: f64 = 60.0;
    let most = bought.iter().map(|of| of.device_seconds).fold(1e-9, f64::max);
    let (low, high) = bought.iter().fold((f64::MAX, f64::MIN), |(low, high), of| (low.min(of.wql), high.max(of.wql)));
    let mut sorted: Vec<&Bought> = bought.iter().collect();
    sorted.sort_by(|a, b| a.wql.total_cmp(&b.wql));
    let mut text = format!(
        "wQL (from {low:.4} above to {high:.4} below; seasonal naive {:.4})\n",
        sorted.first().map_or(f64::NAN, |of| of.naive)
    );
    for of in sorted {
        let column = (of.device_seconds / most * COLUMNS) as usize;
        text.push_str(&format!(
            "{:.4} |{}● {} ({} retrains, {:.1} s)\n",
            of.wql,
            " ".repeat(column),
            of.name,
            of.retrains,
            of.device_seconds
        ));
    }
    text.push_str(&format!("        0 s on the device{}{most:.0} s", " ".repeat(COLUMNS as usize - 20)));
    text
}
