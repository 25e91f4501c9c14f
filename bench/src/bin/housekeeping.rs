//! `bench/run housekeeping`: what small commits cost readers, what merging them costs and gains, and what it does to
//! commits.

use std::error::Error;
use std::time::{Duration, Instant};

use clap::Parser;
use meterline_bench::ingest::PARTITIONS;
use meterline_bench::ingest::load::Load;
use meterline_tests::kafka::Kafka;
use meterline_tests::sandbox::Sandbox;
use meterline_tests::wait;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(900);
/// Times that a query is asked; the median counts.
const ASKED: usize = 5;

/// Files, queries and commits, with and without housekeeping beside them
#[derive(Debug, Parser)]
struct Args {
    /// Readings in all
    #[arg(long, default_value_t = 4_000_000)]
    readings: u64,
    /// Series that they are spread over
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    series: u64,
    /// Readings of one commit
    #[arg(long, default_value_t = 20_000)]
    commit: u64,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

const TOPIC: &str = "readings";

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let readings = args.readings / args.series * args.series;
    let kafka = Kafka::start().map_err(|skip| skip.to_string())?;
    kafka.create_topic(TOPIC, PARTITIONS);
    let brokers = kafka.brokers();
    Load::new(&brokers, TOPIC, args.series, "lz4")?.send(readings)?;

    let without = ingest(&brokers, readings, args.commit, "off")?;
    let (files, bytes) = size(&without.sandbox);
    let (series, all) = queries(&without.sandbox);
    let began = Instant::now();
    let told = without.sandbox.run(&["maintain", "--json"]).succeeded().stdout;
    let maintain = began.elapsed().as_secs_f64();
    let report: Value = serde_json::from_str(&told)?;
    let read: u64 = report["jobs"].as_array().into_iter().flatten().filter_map(|j| j["bytes_before"].as_u64()).sum();
    let (files_after, bytes_after) = size(&without.sandbox);
    let (series_after, all_after) = queries(&without.sandbox);
    let beside = ingest(&brokers, readings, args.commit, "10s")?;
    let (files_beside, _) = size(&beside.sandbox);

    let row = |name: &str, ours: f64, against: f64, unit: &str| {
        let ratio = against / ours;
        json!({"name": name, "ours": ours, "against": "without housekeeping", "theirs": against, "unit": unit, "ratio": ratio})
    };
    let rows = json!([
        row("files", files_after, files, "files"),
        row("bytes", bytes_after, bytes, "bytes"),
        row("query_one_series", series_after, series, "s"),
        row("query_all", all_after, all, "s"),
        row("files_with_rounds_beside", files_beside, files, "files"),
        row("commit_median", beside.median_ms, without.median_ms, "ms"),
        row("commit_longest", beside.longest_ms, without.longest_ms, "ms"),
        row("ingest", beside.seconds, without.seconds, "s"),
        {"name": "maintain", "ours": maintain, "against": null, "theirs": null, "unit": "s", "ratio": null},
        {"name": "maintain_rate", "ours": read as f64 / 1e6 / maintain, "against": null, "theirs": null, "unit": "MB/s", "ratio": null},
    ]);
    let document = json!({"bench": "housekeeping", "commits": without.commits, "rows": rows});
    if args.json {
        println!("{document:#}");
        return Ok(());
    }
    println!("{} commits", without.commits);
    for row in document["rows"].as_array().into_iter().flatten() {
        let figure = |key: &str| row[key].as_f64().map_or(String::new(), |n| format!("{n:.3}"));
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        println!("{:26} {:>16} {:6} without: {:>16}", text("name"), figure("ours"), text("unit"), figure("theirs"));
    }
    Ok(())
}

struct Ingested {
    sandbox: Sandbox,
    seconds: f64,
    commits: usize,
    median_ms: f64,
    longest_ms: f64,
}

fn ingest(brokers: &str, readings: u64, commit: u64, every: &str) -> Result<Ingested, Box<dyn Error>> {
    let settings = format!(
        r#"
[ingest]
commit_records = {commit}

[maintenance]
every = "{every}"
"#
    );
    let sandbox = Sandbox::reading(brokers, TOPIC, &(settings + &Sandbox::no_pipelines("PT15M")));
    let began = Instant::now();
    let mut engine = sandbox.engine();
    let all = readings as i64;
    wait::until("everything is committed", LIMIT, || {
        if !engine.runs() {
            return Some(Err(format!("the engine ended by itself:\n{}", sandbox.log())));
        }
        // A query takes processor time from the engine.
        std::thread::sleep(Duration::from_secs(2));
        (sandbox.number("SELECT sum(next_offset) FROM partitions") == Some(all)).then_some(Ok(()))
    })?;
    let seconds = began.elapsed().as_secs_f64();
    if every != "off" {
        // The round that may be under way, and one more.
        std::thread::sleep(Duration::from_secs(25));
    }
    engine.stop();
    let intervals = sandbox.number("SELECT count(*) FROM intervals");
    if intervals != Some(all) {
        return Err(format!("{all} readings became {intervals:?} intervals").into());
    }
    let log = sandbox.log();
    let took = |line: &str| line.split("took_ms=").nth(1)?.split_whitespace().next()?.parse::<f64>().ok();
    let mut took: Vec<f64> =
        log.lines().filter(|line| line.contains("committed") && line.contains("records=")).filter_map(took).collect();
    took.sort_by(f64::total_cmp);
    let median_ms = took.get(took.len() / 2).copied().unwrap_or(f64::NAN);
    let longest_ms = took.last().copied().unwrap_or(f64::NAN);
    Ok(Ingested { sandbox, seconds, commits: took.len(), median_ms, longest_ms })
}

/// Data files of `intervals` and their bytes, as the next round sees them.
fn size(sandbox: &Sandbox) -> (f64, f64) {
    let told = sandbox.run(&["maintain", "--dry-run", "--json"]).succeeded().stdout;
    let report: Value = serde_json::from_str(&told).unwrap_or_default();
    let tables = report["tables"].as_array().into_iter().flatten();
    let mut found =
        tables.filter(|table| table["table"] == "intervals").map(|t| (t["files"].as_f64(), t["bytes"].as_f64()));
    found
        .next_back()
        .map_or((f64::NAN, f64::NAN), |(files, bytes)| (files.unwrap_or(f64::NAN), bytes.unwrap_or(f64::NAN)))
}

/// Seconds for one series, and for all of them; each with the start of the command.
fn queries(sandbox: &Sandbox) -> (f64, f64) {
    let time = |sql: &str| {
        let mut took: Vec<f64> = (0..ASKED)
            .map(|_| {
                let began = Instant::now();
                sandbox.sql(sql);
                began.elapsed().as_secs_f64()
            })
            .collect();
        took.sort_by(f64::total_cmp);
        took[ASKED / 2]
    };
    let one = time("SELECT sum(value) FROM intervals WHERE series_id = 'meter-000123'");
    (one, time("SELECT sum(value) FROM intervals"))
}
