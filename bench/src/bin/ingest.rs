//! `bench/run ingest`: readings per second, Kafka JSON → committed intervals, beside a bare consumer.

use std::error::Error;
use std::time::Instant;

use clap::Parser;
use meterline_bench::ingest::{Load, PARTITIONS, TOPIC, drain, ingest, produce};
use meterline_tests::kafka::Kafka;
use serde_json::{Value, json};

/// Readings per second, Kafka JSON → committed intervals, beside a bare consumer of the same topic
#[derive(Debug, Parser)]
struct Args {
    /// Readings in all
    #[arg(long, default_value_t = 20_000_000)]
    readings: u64,
    /// Series that they are spread over
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    series: u64,
    /// Compression of the topic: none, lz4, zstd
    #[arg(long, default_value = "lz4")]
    compression: String,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let load = Load { readings: args.readings / args.series * args.series, series: args.series };
    let kafka = Kafka::start().map_err(|skip| skip.to_string())?;
    kafka.create_topic(TOPIC, PARTITIONS);
    let brokers = kafka.brokers();

    let started = Instant::now();
    let bytes = produce(&brokers, load, &args.compression)?;
    let sending = load.readings as f64 / started.elapsed().as_secs_f64();
    eprintln!(
        "{} readings of {} series sent at {sending:.0} a second, {:.1} bytes each, {}",
        load.readings,
        load.series,
        bytes as f64 / load.readings as f64,
        args.compression
    );
    let bare = load.readings as f64 / drain(&brokers)?;
    eprintln!("a bare consumer reads {bare:.0} a second");
    let done = ingest(&brokers, load);
    let ours = load.readings as f64 / done.seconds;
    eprintln!(
        "meterline commits {ours:.0} a second: {:.1} s, {} commits, peak memory {:.0} MiB, {:.0} MB of Parquet",
        done.seconds,
        done.commits,
        done.peak_mib,
        done.lake_bytes as f64 / 1e6
    );

    let name = format!("kafka_json_{}_series", load.series);
    let alone = |name: &str, ours: f64, unit: &str| json!({"name": name, "ours": ours, "against": null, "theirs": null, "unit": unit, "ratio": null});
    let rows = json!([
        {"name": name, "ours": ours, "against": "bare rdkafka consumer", "theirs": bare, "unit": "readings/s", "ratio": ours / bare},
        alone("peak_memory", done.peak_mib, "MiB"),
        alone("commits", done.commits as f64, "commits"),
        alone("parquet", done.lake_bytes as f64 / load.readings as f64, "bytes/reading"),
    ]);
    let document = json!({"bench": "ingest", "rows": rows});
    if args.json {
        println!("{document:#}");
    } else {
        print_rows(&document);
    }
    Ok(())
}

fn print_rows(document: &Value) {
    for row in document["rows"].as_array().into_iter().flatten() {
        println!("{:28} {:>14.1} {:14} {}", text(&row["name"]), number(&row["ours"]), text(&row["unit"]), against(row));
    }
}

fn against(row: &Value) -> String {
    match row["theirs"].as_f64() {
        Some(theirs) => format!("{}: {theirs:.1}, ratio {:.2}", text(&row["against"]), number(&row["ratio"])),
        None => String::new(),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}
