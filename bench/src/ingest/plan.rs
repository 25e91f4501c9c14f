//! What `bench/run ingest` does, in order, for one number of series. One thing runs at a time.

use std::time::{Duration, SystemTime};

use meterline_tests::kafka::Kafka;
use serde_json::Value;

use super::bare::{Drained, drain};
use super::delta::Commit;
use super::engine::{Deployment, Ingested, Known, stop};
use super::latency::Latencies;
use super::load::{Load, Paced};
use super::{Failure, PARTITIONS, flink, generator};
use crate::report::{alone, compared};

const BARE: &str = "bare rdkafka consumer";
/// Before latencies count: two commit intervals of the engine.
const WARM_UP: Duration = Duration::from_secs(20);
/// After they counted, readings go on: the end of a stream is committed early.
const COOL_DOWN: Duration = Duration::from_secs(15);

/// What is to be measured.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Readings in all.
    pub readings: u64,
    /// Compression of the topic.
    pub compression: String,
    /// Seconds in which produced readings count for the latency; 0: it is not measured.
    pub latency_s: u64,
    /// Whether Apache Flink does the job too.
    pub flink: bool,
    /// Whether readings from memory are measured.
    pub generator: bool,
    /// How the frequency is known.
    pub frequency: Known,
}

/// Readings of a series below which its frequency is not detected, and nothing of it committed.
const DETECTED: u64 = 12;

/// Measures with so many series; returns rows of the report. Without a broker, only what needs none.
pub fn measure(kafka: Option<&Kafka>, plan: &Plan, series: u64) -> Result<Vec<Value>, Failure> {
    if plan.frequency == Known::Detected && plan.readings / series < DETECTED {
        let least = DETECTED * series;
        return Err(format!("{} readings of {series} series are too few: send at least {least}", plan.readings).into());
    }
    let mut rows = Vec::new();
    if plan.generator {
        rows.extend(from_memory(plan, series)?);
    }
    if let Some(kafka) = kafka {
        rows.extend(from_kafka(kafka, plan, series)?);
    }
    Ok(rows)
}

fn from_memory(plan: &Plan, series: u64) -> Result<Vec<Value>, Failure> {
    let workers = generator::run(plan.readings, series, plan.frequency)?;
    let rates: Vec<f64> = workers.iter().map(|worker| worker.rate).collect();
    eprintln!("from memory, {series} series: {rates:.0?} a second by worker");
    let slowest = rates.iter().copied().fold(f64::INFINITY, f64::min);
    Ok(vec![alone(&format!("generator_{series}_series"), slowest, "readings/s per worker")])
}

fn from_kafka(kafka: &Kafka, plan: &Plan, series: u64) -> Result<Vec<Value>, Failure> {
    let (brokers, topic) = (kafka.brokers(), format!("readings-{series}"));
    kafka.create_topic(&topic, PARTITIONS);
    let mut load = Load::new(&brokers, &topic, series, &plan.compression)?;
    let began = SystemTime::now();
    load.send(plan.readings / series * series)?;
    let readings = load.sent;
    eprintln!(
        "{readings} readings of {series} series sent in {:.1} s, {:.1} bytes each, {}",
        began.elapsed()?.as_secs_f64(),
        load.bytes as f64 / readings as f64,
        plan.compression
    );
    let bare = drain(&brokers, &topic)?;
    eprintln!("{BARE}: {:.0} a second", readings as f64 / bare.seconds);
    let mut deployment = Deployment::new(&brokers, &topic, plan.frequency);
    let (engine, done) = deployment.start(readings)?;
    stop(engine)?;
    deployment.check(readings, load.energy)?;
    eprintln!("meterline: {:.0} a second, {:.1} s", readings as f64 / done.seconds, done.seconds);
    let mut rows = throughput(readings, series, &bare, &done);
    if plan.flink {
        let theirs = flink::run(&brokers, &topic, readings, load.energy)?;
        eprintln!(
            "{}: {:.0} a second at work, {:.1} s with its start, {} files of {:.0} MB, {:.0} MiB",
            flink::NAME,
            theirs.steady,
            theirs.seconds,
            theirs.files,
            theirs.bytes as f64 / 1e6,
            theirs.usage.peak_mib
        );
        rows.extend(beside_flink(readings, series, &done, &theirs));
    }
    rows.extend(restart(&mut deployment, &mut load)?);
    if plan.latency_s > 0 {
        let rate = readings as f64 / done.seconds / 2.0;
        rows.extend(latency(&mut deployment, &mut load, rate, plan.latency_s)?);
    }
    Ok(rows)
}

fn throughput(readings: u64, series: u64, bare: &Drained, done: &Ingested) -> Vec<Value> {
    let readings = readings as f64;
    let name = format!("kafka_json_{series}_series");
    let bytes: u64 = done.commits.iter().flat_map(|commit| &commit.added).map(|file| file.bytes).sum();
    vec![
        compared(&name, readings / done.seconds, BARE, readings / bare.seconds, "readings/s"),
        compared(
            &format!("{name}_per_core"),
            readings / done.usage.cpu_s,
            BARE,
            readings / bare.cpu_s,
            "readings/s per core",
        ),
        alone(&format!("peak_memory_{series}_series"), done.usage.peak_mib, "MiB"),
        alone(&format!("commits_{series}_series"), done.commits.len() as f64, "commits"),
        alone(&format!("parquet_{series}_series"), bytes as f64 / readings, "bytes/reading"),
    ]
}

fn beside_flink(readings: u64, series: u64, done: &Ingested, theirs: &flink::Flinked) -> Vec<Value> {
    let readings = readings as f64;
    let ours = readings / done.seconds;
    let name = format!("kafka_json_{series}_series");
    let whole = format!("{}, with its start and its last checkpoint", flink::NAME);
    vec![
        compared(&name, ours, flink::NAME, theirs.steady, "readings/s"),
        compared(&name, ours, &whole, readings / theirs.seconds, "readings/s"),
        compared(
            &format!("{name}_per_core"),
            readings / done.usage.cpu_s,
            flink::NAME,
            readings / theirs.usage.cpu_s,
            "readings/s per core",
        ),
    ]
}

// A reading in each partition is new, and the engine starts on the lake of all of them. It commits as soon as it may,
// so that what counts is the start and not how long it waits for more.
fn restart(deployment: &mut Deployment, load: &mut Load) -> Result<Vec<Value>, Failure> {
    let series = load.series();
    load.send(PARTITIONS as u64)?;
    deployment.commit_every("100ms")?;
    let (engine, started) = deployment.start(load.sent)?;
    stop(engine)?;
    deployment.commit_every("10s")?;
    eprintln!("restart with {series} series: {:.2} s to the first commit", started.seconds);
    Ok(vec![alone(&format!("restart_{series}_series"), started.seconds, "s")])
}

fn latency(deployment: &mut Deployment, load: &mut Load, rate: f64, seconds: u64) -> Result<Vec<Value>, Failure> {
    let series = load.series();
    let mut engine = deployment.sandbox.engine();
    let window = Duration::from_secs(seconds);
    let until = SystemTime::now() + WARM_UP + window + COOL_DOWN;
    let Paced { began, rate: sent } = load.send_paced(rate, |_| SystemTime::now() < until)?;
    let commits: Vec<Commit> = deployment.wait(&mut engine, load.sent)?;
    stop(engine)?;
    let from = began + WARM_UP;
    let latencies = Latencies::of(&commits, from, from + window)?;
    let quantile = |part| latencies.quantile_s(part).ok_or("no reading was committed in time");
    let (p50, p99, longest) = (quantile(0.5)?, quantile(0.99)?, quantile(1.0)?);
    eprintln!(
        "at {sent:.0} of {rate:.0} a second, {series} series: p50 {p50:.2} s, p99 {p99:.2} s, longest {longest:.2} s of {} readings",
        latencies.len()
    );
    Ok(vec![
        alone(&format!("half_rate_{series}_series"), sent, "readings/s"),
        alone(&format!("latency_p50_{series}_series"), p50, "s"),
        alone(&format!("latency_p99_{series}_series"), p99, "s"),
    ])
}
