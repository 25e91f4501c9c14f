//! `bench/run ingest`: readings per second, Kafka JSON → committed intervals, beside a bare consumer and Apache Flink.

use clap::Parser;
use meterline_bench::ingest::Failure;
use meterline_bench::ingest::engine::Known;
use meterline_bench::ingest::plan::{Plan, measure};
use meterline_bench::report;
use meterline_tests::kafka::Kafka;

// That of the engine, whose part alone is measured in this process.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Readings per second, Kafka JSON → committed intervals, beside a bare consumer of the same topic and Apache Flink;
/// how long a reading takes, what a restart takes, and the engine's part alone
#[derive(Debug, Parser)]
struct Args {
    /// Readings for each number of series
    #[arg(long, default_value_t = 20_000_000)]
    readings: u64,
    /// Numbers of series that they are spread over, each with a topic and a lake of its own
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 1_000_000], value_parser = clap::value_parser!(u64).range(1..))]
    series: Vec<u64>,
    /// Compression of the topic: none, lz4, zstd
    #[arg(long, default_value = "lz4")]
    compression: String,
    /// Seconds in which readings count for the latency; 0 leaves it out
    #[arg(long, default_value_t = 60)]
    latency: u64,
    /// Leave out Apache Flink
    #[arg(long)]
    no_flink: bool,
    /// Leave out readings from memory
    #[arg(long)]
    no_generator: bool,
    /// Only readings from memory
    #[arg(long, conflicts_with = "no_generator")]
    only_generator: bool,
    /// Declare no frequency: it has to be found, as Flink does not have to
    #[arg(long)]
    detect: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

fn main() -> Result<(), Failure> {
    let args = Args::parse();
    let plan = Plan {
        readings: args.readings,
        compression: args.compression,
        latency_s: args.latency,
        flink: !args.no_flink,
        generator: !args.no_generator,
        frequency: if args.detect { Known::Detected } else { Known::Declared },
    };
    let kafka = match args.only_generator {
        true => None,
        false => Some(Kafka::start().map_err(|skip| skip.to_string())?),
    };
    let mut rows = Vec::new();
    for series in args.series {
        rows.extend(measure(kafka.as_ref(), &plan, series)?);
    }
    report::print("ingest", &rows, args.json);
    Ok(())
}
