//! The soak: load, faults, watching, and the judgement at its end.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use meterline_tests::kafka::Kafka;
use meterline_tests::sandbox::Engine;
use serde_json::Value;

use super::plot::{Panel, svg};
use super::trend::{FLAT, Trend};
use super::watch::{SETTLES, Samples, Seen, Watch};
use crate::ingest::engine::{Deployment, Known, stop};
use crate::ingest::load::{FIRST, Load, QUARTER_HOUR};
use crate::ingest::{Failure, PARTITIONS};
use crate::report::{alone, compared};

/// One of so many readings is repeated, and one is corrected.
const ONE_IN: u64 = 100;
/// What is repeated or corrected lies this many quarter hours back at most: also beyond what the engine remembers.
const BACK: u64 = 400;
/// Part of the run in which nothing counts yet.
const WARM_UP: f64 = 0.2;
/// Part of the run in which the engine is killed. What comes after is one long life, in which memory must not grow
/// either.
const KILLED: f64 = 0.5;
/// For how long the maximum rate is measured, and with how many series.
const PROBE: Duration = Duration::from_secs(60);
const PROBE_SERIES: u64 = 10_000;
/// Readings a second that nobody makes.
const AS_FAST_AS_CAN_BE: f64 = 1e8;
/// Quarter hours of a month of 31 days.
const MONTH: u64 = 31 * 96;
/// Minutes in which a month of readings is sent, unless the number of series is given.
const MONTH_MINUTES: f64 = 1.0;
/// Months after which as much is deleted as comes: of three a part is kept, and housekeeping takes its time.
const STEADY: f64 = 3.5;
/// Time of a commit, as configured by [`Deployment`].
const COMMIT_INTERVAL: Duration = Duration::from_secs(10);
/// Files are merged, revisions folded and old months deleted all the time, so that the lake always holds about the
/// same: its files can only be as many as before if nothing is left lying.
const HOUSEKEEPING: &str = r#"
[maintenance]
every = "15s"
[retention]
intervals = "1mo"
"#;
const DRAIN: Duration = Duration::from_secs(600);
/// Without a commit for so long, kills and starts included, a stream stands still.
const STILL: Duration = Duration::from_secs(60);

/// How to soak.
#[derive(Debug, Clone)]
pub struct Soak {
    /// Minutes of load.
    pub minutes: f64,
    /// Number of series; `None`: as many as send a month of readings a minute.
    pub series: Option<u64>,
    /// Readings a second; `None`: half of what the engine commits while as many are made beside it as can be, measured
    /// first.
    pub rate: Option<f64>,
    /// Minutes between two SIGKILLs.
    pub kill_every: f64,
    /// Folder for the plot and the samples.
    pub out: PathBuf,
}

/// Soaks; returns rows of the report, and whether memory, commit time and number of files do not grow and the stream keeps
/// up.
pub fn run(soak: &Soak) -> Result<(Vec<Value>, bool), Failure> {
    if soak.kill_every * 60.0 <= SETTLES.as_secs_f64() || soak.kill_every >= soak.minutes * KILLED {
        let least = SETTLES.as_secs();
        return Err(format!("let the engine live longer than {least} s, and less than half of the soak").into());
    }
    fs::create_dir_all(&soak.out)?;
    let kafka = Kafka::start().map_err(|skip| skip.to_string())?;
    let rate = match soak.rate {
        Some(rate) => rate,
        None => probe(&kafka, soak.series.unwrap_or(PROBE_SERIES))? / 2.0,
    };
    let a_month_a_minute = (rate * 60.0 * MONTH_MINUTES / MONTH as f64) as u64;
    let series = soak.series.unwrap_or(a_month_a_minute).max(PARTITIONS as u64);
    let months_a_minute = rate * 60.0 / (series * MONTH) as f64;
    reaches_today(months_a_minute * soak.minutes, series)?;
    eprintln!(
        "{rate:.0} readings a second of {series} series for {} minutes: {months_a_minute:.2} months a minute",
        soak.minutes
    );
    let topic = "soak";
    kafka.create_topic(topic, PARTITIONS);
    let mut load = Load::new(&kafka.brokers(), topic, series, "lz4")?;
    let deployment = Deployment::with(&kafka.brokers(), topic, Known::Detected, HOUSEKEEPING);
    let (sent, seen, engine) = under_load(soak, rate, &mut load, &deployment)?;
    let records = load.sent + sent.repeats;
    caught_up(&deployment, records)?;
    // Whatever comes now, the plot is there.
    let (mut rows, flat) = judge(soak, &seen, STEADY / months_a_minute, sent.rate)?;
    stop(engine)?;
    check(&deployment, &load, &sent)?;
    rows.push(alone("soak_rate", sent.rate, "readings/s"));
    rows.push(alone("soak_series", series as f64, "series"));
    rows.push(alone("soak_repeats_and_corrections", sent.repeats as f64, "records"));
    rows.push(alone("soak_kills", seen.kills.len() as f64, "SIGKILLs"));
    Ok((rows, flat))
}

// Readings of tomorrow are refused.
fn reaches_today(months: f64, series: u64) -> Result<(), Failure> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_micros() as f64 - FIRST as f64;
    let there_are = since / (MONTH as i64 * QUARTER_HOUR) as f64;
    if months < there_are {
        return Ok(());
    }
    let least = (series as f64 * months / there_are).ceil() + 1.0;
    Err(format!("{months:.0} months of readings would end after today: send more series, such as --series {least}")
        .into())
}

// What is not deleted yet is all there, once, and nothing was deleted that had to be kept.
fn check(at: &Deployment, load: &Load, sent: &Sent) -> Result<(), Failure> {
    let first_us = at.sandbox.number("SELECT min(CAST(start AS BIGINT)) FROM intervals").ok_or("no intervals")?;
    let intervals = load.sent / load.series();
    let gone = u64::try_from((first_us - FIRST) / QUARTER_HOUR)?;
    if gone > intervals.saturating_sub(MONTH) {
        return Err(format!("of {intervals} quarter hours, {gone} are gone: less than a month is kept").into());
    }
    let first = gone * load.series();
    let corrected = sent.corrected.iter().filter(|number| **number >= first).count();
    // A correction is 1 kW more for a quarter of an hour.
    at.check(load.sent - first, load.energy_from(first) + corrected as f64 / 4.0)
}

// What the engine commits a second while readings come as fast as this machine makes them beside it.
fn probe(kafka: &Kafka, series: u64) -> Result<f64, Failure> {
    let topic = "probe";
    kafka.create_topic(topic, PARTITIONS);
    let mut load = Load::new(&kafka.brokers(), topic, series, "lz4")?;
    let at = Deployment::new(&kafka.brokers(), topic, Known::Detected);
    let engine = at.sandbox.engine();
    let began = Instant::now();
    load.send_paced(AS_FAST_AS_CAN_BE, |_| began.elapsed() < PROBE)?;
    let committed = at.sandbox.number("SELECT sum(next_offset) FROM partitions").ok_or("nothing was committed")?;
    let rate = committed as f64 / began.elapsed().as_secs_f64();
    stop(engine)?;
    eprintln!("with readings made beside it as fast as can be: {rate:.0} readings a second");
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
            if minute >= next_kill && minute < soak.minutes * KILLED {
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

// A figure that is to be flat.
struct Figure<'s> {
    name: &'static str,
    title: &'static str,
    unit: &'static str,
    samples: &'s Samples,
    // The minute from which it counts.
    from: f64,
}

fn figures(seen: &Seen, from: f64, steady: f64) -> [Figure<'_>; 4] {
    let figure = |name, title, unit, samples, from| Figure { name, title, unit, samples, from };
    let last_start = seen.kills.last().copied().unwrap_or(0.0);
    [
        figure("memory", "resident memory, MiB", "MiB", &seen.memory, from),
        // Growth within a life that a restart would hide.
        figure("memory_of_one_life", "resident memory since the last start, MiB", "MiB", &seen.memory, last_start),
        figure("commit_time", "time of a commit, s", "s", &seen.commit, from),
        figure("files", "files of the newest versions", "files", &seen.files, from.max(steady)),
    ]
}

fn since(samples: &[(f64, f64)], from: f64) -> Samples {
    samples.iter().copied().filter(|sample| sample.0 >= from).collect()
}

fn highest(samples: &[(f64, f64)]) -> f64 {
    samples.iter().map(|sample| sample.1).fold(0.0, f64::max)
}

// The longest time between two samples, or before the first and after the last of so many minutes.
fn longest_gap(samples: &[(f64, f64)], minutes: f64) -> f64 {
    let times = || samples.iter().map(|sample| sample.0);
    let (before, after) = ([0.0].into_iter().chain(times()), times().chain([minutes]));
    before.zip(after).map(|(before, after)| after - before).fold(0.0, f64::max)
}

// `steady` is the minute from which the lake holds about the same.
fn judge(soak: &Soak, seen: &Seen, steady: f64, rate: f64) -> Result<(Vec<Value>, bool), Failure> {
    let from = soak.minutes * WARM_UP;
    let (mut rows, mut panels, mut all_well) = (Vec::new(), Vec::new(), true);
    for Figure { name, title, unit, samples, from } in figures(seen, from, steady) {
        let counted = since(samples, from);
        let trend = Trend::of(&counted).ok_or_else(|| format!("too few samples of {name}: soak longer"))?;
        let drift = trend.relative();
        eprintln!(
            "{name}: median {:.3} {unit}, {:+.4} ± {:.4} a minute, {:+.1} % from minute {from:.1} on: {}",
            trend.median,
            trend.slope,
            trend.error,
            trend.relative() * 100.0,
            trend.verdict()
        );
        all_well &= !trend.grows();
        let mut row =
            compared(&format!("soak_{name}_drift"), drift, "the limit of what counts as flat", FLAT, "of the median");
        // The less the better. No growth at all would be infinitely good, which JSON cannot say.
        row["ratio"] = (FLAT / drift.max(1e-3)).into();
        rows.extend([
            row,
            alone(&format!("soak_{name}_median"), trend.median, unit),
            alone(&format!("soak_{name}_highest"), highest(&counted), unit),
        ]);
        let from = counted.first().map_or(from, |sample| sample.0);
        panels.push((name, Panel { title, samples, from, trend: Some(trend) }));
    }
    let lag = Trend::of(&since(&seen.lag, from)).ok_or("too few samples of the lag: soak longer")?;
    // A stream that falls behind may have flat memory all the same.
    let limit = rate * COMMIT_INTERVAL.as_secs_f64();
    all_well &= lag.drift <= limit;
    let mut row = compared("soak_lag_drift", lag.drift, "what comes in a commit interval", limit, "records");
    row["ratio"] = (limit / lag.drift.max(1.0)).into();
    rows.extend([
        row,
        alone("soak_lag_highest", highest(&since(&seen.lag, from)), "records"),
        alone("soak_files_on_disk_highest", highest(&seen.on_disk), "files"),
    ]);
    let lag = Panel { title: "lag at each commit, records", samples: &seen.lag, from, trend: Some(lag) };
    // Flat figures of a stream that stood still tell nothing: it makes no samples then.
    let still = longest_gap(&seen.lag, soak.minutes) * 60.0;
    let limit = STILL.as_secs_f64();
    all_well &= still <= limit;
    eprintln!("longest time without a commit: {still:.1} s");
    let mut row =
        compared("soak_longest_without_commit", still, "the time after which a stream stands still", limit, "s");
    row["ratio"] = (limit / still.max(1.0)).into();
    rows.push(row);
    let title = "files below the lake's folder, with those that wait for their deletion";
    let on_disk = Panel { title, samples: &seen.on_disk, from, trend: None };
    panels.extend([("lag", lag), ("files_on_disk", on_disk)]);
    draw(soak, seen, &panels)?;
    Ok((rows, all_well))
}

fn draw(soak: &Soak, seen: &Seen, panels: &[(&str, Panel<'_>)]) -> Result<(), Failure> {
    for (name, panel) in panels {
        let lines: Vec<String> = panel.samples.iter().map(|(minute, figure)| format!("{minute:.4},{figure}")).collect();
        fs::write(soak.out.join(format!("{name}.csv")), format!("minute,figure\n{}\n", lines.join("\n")))?;
    }
    let panels: Vec<Panel<'_>> = panels.iter().map(|(_, panel)| panel.clone()).collect();
    fs::write(soak.out.join("soak.svg"), svg(&panels, &seen.kills))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_stands_still_is_seen_wherever_it_does() {
        for (samples, longest) in [
            (&[][..], 5.0),
            (&[(1.0, 0.0), (2.0, 0.0), (4.5, 0.0)], 2.5),
            (&[(1.5, 0.0), (2.0, 0.0), (3.0, 0.0)], 2.0),
            (&[(3.0, 0.0), (4.0, 0.0)], 3.0),
        ] {
            assert_eq!(longest_gap(samples, 5.0), longest);
        }
    }
}
