//! The soak: load, faults, watching, and the judgement at its end.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use meterline_tests::kafka::Kafka;
use meterline_tests::sandbox::Engine;
use serde_json::Value;

use super::plot::{Panel, svg};
use super::trend::{FLAT, Trend};
use super::watch::{SETTLES, Samples, Seen, Watch};
use crate::ingest::engine::Deployment;
use crate::ingest::load::Load;
use crate::ingest::{Failure, PARTITIONS};
use crate::report::{alone, compared};

/// One of so many readings is repeated, and one is corrected.
const ONE_IN: u64 = 100;
/// What is repeated or corrected lies this many quarter hours back at most: also beyond what the engine remembers.
const BACK: u64 = 200;
/// Part of the run in which nothing counts yet.
const WARM_UP: f64 = 0.2;
/// Readings from which the maximum rate is measured.
const PROBE: u64 = 10_000_000;
const DRAIN: Duration = Duration::from_secs(600);

/// How to soak.
#[derive(Debug, Clone)]
pub struct Soak {
    /// Minutes of load.
    pub minutes: f64,
    /// Number of series.
    pub series: u64,
    /// Readings a second; `None`: half of what the engine ingests from a backlog, measured first.
    pub rate: Option<f64>,
    /// Minutes between two SIGKILLs.
    pub kill_every: f64,
    /// Folder for the plot and the samples.
    pub out: PathBuf,
}

/// Soaks; returns rows of the report, and whether memory, commit time and number of files are flat.
pub fn run(soak: &Soak) -> Result<(Vec<Value>, bool), Failure> {
    if soak.kill_every * 60.0 <= SETTLES.as_secs_f64() {
        return Err(format!("memory counts from {SETTLES:?} after a start on: let the engine live longer").into());
    }
    fs::create_dir_all(&soak.out)?;
    let kafka = Kafka::start().map_err(|skip| skip.to_string())?;
    let rate = match soak.rate {
        Some(rate) => rate,
        None => probe(&kafka, soak.series)? / 2.0,
    };
    eprintln!("{rate:.0} readings a second of {} series for {} minutes", soak.series, soak.minutes);
    let topic = "soak";
    kafka.create_topic(topic, PARTITIONS);
    let mut load = Load::new(&kafka.brokers(), topic, soak.series, "lz4")?;
    let deployment = Deployment::new(&kafka.brokers(), topic);
    let (sent, seen, engine) = under_load(soak, rate, &mut load, &deployment)?;
    let records = load.sent + sent.repeats;
    caught_up(&deployment, records)?;
    // Whatever comes now, the plot is there.
    let (mut rows, flat) = judge(soak, &seen)?;
    engine.stop();
    // A correction is 1 kW more for a quarter of an hour.
    deployment.check(load.sent, load.energy + sent.corrected.len() as f64 / 4.0)?;
    rows.push(alone("soak_rate", sent.rate, "readings/s"));
    rows.push(alone("soak_repeats_and_corrections", sent.repeats as f64, "records"));
    rows.push(alone("soak_kills", seen.kills.len() as f64, "SIGKILLs"));
    Ok((rows, flat))
}

fn probe(kafka: &Kafka, series: u64) -> Result<f64, Failure> {
    let topic = "probe";
    kafka.create_topic(topic, PARTITIONS);
    let mut load = Load::new(&kafka.brokers(), topic, series, "lz4")?;
    load.send(PROBE)?;
    let mut deployment = Deployment::new(&kafka.brokers(), topic);
    let (engine, done) = deployment.start(load.sent)?;
    engine.stop();
    let rate = load.sent as f64 / done.seconds;
    eprintln!("from a backlog: {rate:.0} readings a second");
    Ok(rate)
}

struct Sent {
    rate: f64,
    // Duplicates and corrections.
    repeats: u64,
    // Readings whose last record is a correction.
    corrected: HashSet<u64>,
}

fn under_load(soak: &Soak, rate: f64, load: &mut Load, at: &Deployment) -> Result<(Sent, Seen, Engine), Failure> {
    let mut engine = Some(at.sandbox.engine());
    let mut watch = Watch::new(at.sandbox.lake(), at.sandbox.path().join("engine.log"));
    let mut sent = Sent { rate: 0.0, repeats: 0, corrected: HashSet::new() };
    let (mut failure, mut next_kill, mut due) = (None, soak.kill_every, 0);
    let paced = load.send_paced(rate, |load| {
        let step = (|| -> Result<(), Failure> {
            while load.sent >= due + ONE_IN {
                due += ONE_IN;
                disturb(load, due, &mut sent)?;
            }
            let minute = watch.minute();
            if minute >= next_kill && minute < soak.minutes - soak.kill_every / 2.0 {
                next_kill += soak.kill_every;
                if let Some(running) = engine.take() {
                    at.sandbox.kill(running);
                }
                engine = Some(at.sandbox.engine());
                watch.killed();
            }
            let running = engine.as_mut().ok_or("no engine")?;
            if !running.runs() {
                return Err(format!("the engine ended by itself:\n{}", at.sandbox.log()).into());
            }
            watch.look(running.id());
            Ok(())
        })();
        failure = step.err();
        failure.is_none() && watch.minute() < soak.minutes
    })?;
    if let Some(failure) = failure {
        return Err(failure);
    }
    sent.rate = paced.rate;
    Ok((sent, watch.seen, engine.ok_or("no engine")?))
}

// Of what was sent up to now, one reading comes again as it was, and one with another value.
fn disturb(load: &mut Load, now: u64, sent: &mut Sent) -> Result<(), Failure> {
    for (salt, correction) in [(0x9E37_79B9_7F4A_7C15_u64, false), (0xC2B2_AE3D_27D4_EB4F, true)] {
        let back = (now.wrapping_mul(salt) >> 20) % (load.series() * BACK).min(now) + 1;
        let number = now - back;
        load.repeat(number, correction)?;
        sent.repeats += 1;
        match correction {
            true => sent.corrected.insert(number),
            false => sent.corrected.remove(&number),
        };
    }
    Ok(())
}

fn caught_up(at: &Deployment, records: u64) -> Result<(), Failure> {
    let until = Instant::now() + DRAIN;
    while at.sandbox.number("SELECT sum(next_offset) FROM partitions") != Some(records as i64) {
        if Instant::now() > until {
            return Err(format!("{records} records are not all read {DRAIN:?} after the last was sent").into());
        }
        std::thread::sleep(Duration::from_secs(2));
    }
    Ok(())
}

fn judge(soak: &Soak, seen: &Seen) -> Result<(Vec<Value>, bool), Failure> {
    let from = soak.minutes * WARM_UP;
    let counted = |samples: &Samples| samples.iter().copied().filter(|sample| sample.0 >= from).collect::<Samples>();
    let figures =
        [("memory", "MiB", &seen.memory), ("commit_time", "s", &seen.commit), ("files", "files", &seen.files)];
    let (mut rows, mut panels, mut all_flat) = (Vec::new(), Vec::new(), true);
    let titles = ["resident memory, MiB", "time of a commit, s", "files in the lake"];
    for ((name, unit, samples), title) in figures.into_iter().zip(titles) {
        let counted = counted(samples);
        let trend = Trend::of(&counted).ok_or_else(|| format!("too few samples of {name}: soak longer"))?;
        let highest = samples.iter().map(|sample| sample.1).fold(0.0, f64::max);
        let drift = trend.relative().abs();
        eprintln!(
            "{name}: median {:.3} {unit}, {:+.4} ± {:.4} a minute, {:+.1} % over the run: {}",
            trend.median,
            trend.slope,
            trend.error,
            trend.relative() * 100.0,
            if trend.flat() { "flat" } else { "NOT flat" }
        );
        all_flat &= trend.flat();
        let mut row =
            compared(&format!("soak_{name}_drift"), drift, "the limit of what counts as flat", FLAT, "of the median");
        // The less the better. No drift at all would be infinitely good, which JSON cannot say.
        row["ratio"] = (FLAT / drift.max(1e-3)).into();
        rows.extend([
            row,
            alone(&format!("soak_{name}_median"), trend.median, unit),
            alone(&format!("soak_{name}_highest"), highest, unit),
        ]);
        panels.push(Panel { title, samples, trend: Some(trend) });
    }
    panels.push(Panel { title: "lag at each commit, records", samples: &seen.lag, trend: None });
    let highest = counted(&seen.lag).iter().map(|sample| sample.1).fold(0.0, f64::max);
    rows.push(alone("soak_lag_highest", highest, "records"));
    fs::write(soak.out.join("soak.svg"), svg(&panels, from, &seen.kills))?;
    for panel in &panels {
        let lines: Vec<String> = panel.samples.iter().map(|(minute, figure)| format!("{minute:.4},{figure}")).collect();
        let name = panel.title.split([',', ' ']).next().unwrap_or("samples");
        fs::write(soak.out.join(format!("{name}.csv")), format!("minute,figure\n{}\n", lines.join("\n")))?;
    }
    Ok((rows, all_flat))
}
