//! `meterline generate`: a simulated fleet, to Kafka or to a file.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use meterline_connectors::files::{FileError, LongWriter};
use meterline_connectors::fleet::{Class, Dirt, Fleet, FleetConfig, FleetCounts, FleetRecord, Form, Mix};
use meterline_connectors::kafka::sink::{Sink, SinkError};
use meterline_schemas::config::Label;
use meterline_schemas::reading::{Quality, ValueKind};
use meterline_schemas::time::{DAY, Span, format_micros};
use meterline_schemas::unit::Unit;
use meterline_schemas::{Frequency, Micros};
use serde::Serialize;

use super::shutdown::Shutdown;
use super::transfer::{Pace, SendArgs, Transfer, connect, feed, feed_toml, usage};
use super::values::instant;
use super::{CommandError, CommandResult, Context};

/// Arguments of `meterline generate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Number of meters, up to 1,000,000
    #[arg(long, default_value_t = 100)]
    meters: u32,
    /// Everything random follows from it: equal arguments give equal records
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Start of the first interval: a date, or a date and time; UTC without an offset [default: 2024-01-01]
    #[arg(long, value_parser = instant)]
    from: Option<Micros>,
    /// End of the last interval
    #[arg(long, value_parser = instant, conflicts_with = "days")]
    to: Option<Micros>,
    /// Days of readings
    #[arg(long, default_value_t = 30)]
    days: u32,
    /// Time zone in which people live and days begin
    #[arg(long, default_value = "UTC")]
    zone: String,
    /// Native frequencies with weights, such as PT15M=0.7,PT1H=0.25,P1D=0.05
    #[arg(long)]
    mix: Option<Mix<Frequency>>,
    /// What meters send, with weights: kW, kWh, register
    #[arg(long)]
    forms: Option<Mix<Form>>,
    /// Kinds of meters, with weights: household, business, solar, feeder
    #[arg(long)]
    classes: Option<Mix<Class>>,
    /// Regions with a weather of their own
    #[arg(long, default_value_t = 4)]
    regions: u32,
    /// Leave site, feeder and region out of the records
    #[arg(long)]
    no_labels: bool,
    #[command(flatten)]
    dirt: DirtArgs,
    /// Bootstrap brokers, host:port separated by commas
    #[arg(long, requires = "topic", conflicts_with = "out", required_unless_present = "out")]
    brokers: Option<String>,
    #[command(flatten)]
    send: SendArgs,
    /// File to write instead: .ndjson as it would be sent; .csv or .parquet with the readings alone
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What goes wrong: probabilities per reading, if nothing else is said.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Dirt (probability per reading)")]
struct DirtArgs {
    /// Nothing goes wrong but what the other options of this group ask for
    #[arg(long)]
    clean: bool,
    /// A reading is never sent
    #[arg(long, value_name = "P")]
    gaps: Option<f64>,
    /// A meter falls silent for hours; probability per day
    #[arg(long, value_name = "P")]
    outages: Option<f64>,
    /// A reading is sent late
    #[arg(long, value_name = "P")]
    late: Option<f64>,
    /// Mean delay of late readings
    #[arg(long, value_name = "SPAN")]
    late_delay: Option<Span>,
    /// A record is sent twice
    #[arg(long, value_name = "P")]
    duplicates: Option<f64>,
    /// A reading is sent as an estimate and corrected hours later
    #[arg(long, value_name = "P")]
    corrections: Option<f64>,
    /// A meter's clock is off by seconds to minutes; share of meters
    #[arg(long, value_name = "P")]
    skewed_clocks: Option<f64>,
    /// A record cannot be read
    #[arg(long, value_name = "P")]
    malformed: Option<f64>,
}

impl DirtArgs {
    fn dirt(&self) -> Dirt {
        let base = if self.clean { Dirt::NONE } else { Dirt::default() };
        Dirt {
            gaps: self.gaps.unwrap_or(base.gaps),
            outages: self.outages.unwrap_or(base.outages),
            late: self.late.unwrap_or(base.late),
            late_delay: self.late_delay.unwrap_or(base.late_delay),
            duplicates: self.duplicates.unwrap_or(base.duplicates),
            corrections: self.corrections.unwrap_or(base.corrections),
            skewed_clocks: self.skewed_clocks.unwrap_or(base.skewed_clocks),
            malformed: self.malformed.unwrap_or(base.malformed),
        }
    }
}

impl Args {
    fn config(&self) -> FleetConfig {
        let base = FleetConfig::default();
        let from = self.from.unwrap_or(base.from);
        FleetConfig {
            meters: self.meters,
            seed: self.seed,
            from,
            to: self.to.unwrap_or_else(|| from.saturating_add(i64::from(self.days).saturating_mul(DAY))),
            zone: self.zone.clone(),
            mix: self.mix.clone().unwrap_or(base.mix),
            forms: self.forms.clone().unwrap_or(base.forms),
            classes: self.classes.clone().unwrap_or(base.classes),
            regions: self.regions,
            labels: !self.no_labels,
            dirt: self.dirt.dirt(),
        }
    }
}

/// What was done.
#[derive(Debug, Serialize)]
struct Summary {
    meters: u32,
    /// Meters by native frequency.
    frequencies: std::collections::BTreeMap<String, usize>,
    /// Records sent or written.
    records: u64,
    /// Records left out of the file, because its form has no place for what cannot be read.
    left_out: u64,
    dirt: DirtCounts,
    /// Whether the end was asked for before everything was sent.
    interrupted: bool,
    seconds: f64,
    records_per_second: f64,
    /// Simulated time of the first and the last record, RFC 3339.
    first: Option<String>,
    last: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    topics: Vec<Topic>,
    /// The sections of the configuration file that read the topics.
    feed: String,
}

#[derive(Debug, Serialize)]
struct Topic {
    topic: String,
    partitions: i32,
}

#[derive(Debug, Serialize)]
struct DirtCounts {
    /// Intervals of which a reading was sent.
    readings: u64,
    lost: u64,
    late: u64,
    duplicates: u64,
    corrections: u64,
    malformed: u64,
    /// Readings of meters whose clock is off.
    skewed: u64,
}

impl From<FleetCounts> for DirtCounts {
    fn from(c: FleetCounts) -> DirtCounts {
        DirtCounts {
            readings: c.readings,
            lost: c.lost,
            late: c.late,
            duplicates: c.duplicates,
            corrections: c.corrections,
            malformed: c.malformed,
            skewed: c.skewed,
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum GenerateError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Sink(#[from] SinkError),
}

/// Where records go.
enum Output {
    /// Registers have a topic of their own: a feed reads one kind of value.
    Kafka {
        sink: Sink,
        topic: String,
        registers: String,
    },
    Lines {
        path: PathBuf,
        out: BufWriter<File>,
    },
    Readings {
        writer: LongWriter,
        left_out: u64,
    },
}

impl Output {
    fn file(path: &Path) -> Result<Output, GenerateError> {
        let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase());
        if matches!(extension.as_deref(), Some("csv" | "parquet")) {
            return Ok(Output::Readings { writer: LongWriter::create(path)?, left_out: 0 });
        }
        let file = File::create(path).map_err(|source| GenerateError::Write { path: path.to_owned(), source })?;
        Ok(Output::Lines { path: path.to_owned(), out: BufWriter::with_capacity(1 << 20, file) })
    }

    fn write(&mut self, record: &FleetRecord) -> Result<(), GenerateError> {
        match self {
            Output::Kafka { sink, topic, registers } => {
                let topic = if record.form == Form::Register { registers } else { topic };
                sink.send(topic, None, record.key.as_bytes(), &record.payload, None)?;
            }
            Output::Lines { path, out } => {
                let written = out.write_all(&record.payload).and_then(|()| out.write_all(b"\n"));
                written.map_err(|source| GenerateError::Write { path: path.clone(), source })?;
            }
            Output::Readings { writer, left_out } => match record.value {
                Some(value) => {
                    let quality = if record.estimated { Quality::Estimated } else { Quality::Measured };
                    writer.write(&record.key, record.at, value, record.form.unit(), quality)?;
                }
                None => *left_out += 1,
            },
        }
        Ok(())
    }

    /// Waits until everything is where it belongs; the value is the number of records left out.
    fn finish(self, transfer: &mut Transfer) -> Result<u64, GenerateError> {
        match self {
            Output::Kafka { sink, .. } => transfer.flush(&sink)?,
            Output::Lines { path, mut out } => {
                // A pipe cannot be synced, and need not be.
                let written = out.flush().and_then(|()| match out.get_ref().metadata() {
                    Ok(meta) if meta.is_file() => out.get_ref().sync_all(),
                    _ => Ok(()),
                });
                written.map_err(|source| GenerateError::Write { path, source })?;
            }
            Output::Readings { writer, left_out } => {
                writer.finish()?;
                return Ok(left_out);
            }
        }
        Ok(0)
    }
}

/// Generates, and says what was sent and how it is read.
pub async fn run(args: Args, context: &Context) -> CommandResult {
    let fleet = Fleet::new(args.config()).map_err(|e| usage(&e))?;
    let frequencies = fleet.frequencies().iter().map(|(f, n)| (f.to_string(), *n)).collect();
    let has = |wanted: fn(Form) -> bool| fleet.meters().any(|m| wanted(m.form));
    let (intervals, counters) = (has(|f| f != Form::Register), has(|f| f == Form::Register));
    let shutdown = Shutdown::install()?;

    let base = args.send.topic.clone().unwrap_or_else(|| "readings".into());
    let registers = if intervals { format!("{base}-registers") } else { base.clone() };
    let mut feeds = Vec::new();
    for (wanted, topic, kind) in [(intervals, &base, ValueKind::Interval), (counters, &registers, ValueKind::Counter)] {
        if wanted {
            let mut feed = feed(topic, Some(Unit::KWH), Label::End, kind, None);
            feed.zone.clone_from(&args.zone);
            feeds.push(feed);
        }
    }
    let topics: Vec<String> = feeds.iter().map(|f| f.topic.clone()).collect();
    let (output, partitions) = match (&args.out, &args.brokers) {
        (Some(path), _) if intervals && counters && path.extension().is_some_and(|e| e != "ndjson") => {
            return Err(CommandError::usage(
                "registers and intervals do not fit into one file of readings; use --forms to choose, or an .ndjson file",
            ));
        }
        (Some(path), _) => (Output::file(path)?, Vec::new()),
        (None, Some(brokers)) => {
            let (sink, partitions) = connect(brokers, &args.send, &topics).await?;
            (Output::Kafka { sink, topic: base, registers }, partitions)
        }
        (None, None) => return Err(CommandError::usage("name --brokers and --topic, or --out FILE")),
    };
    let transfer = Transfer::start(Pace::new(args.send.speed, args.send.rate), shutdown.receiver());
    let (counts, transfer, left_out) = tokio::task::spawn_blocking(move || send(fleet, output, transfer)).await?;
    let left_out = left_out.map_err(|e| CommandError::failed(format!("after {} records: {e}", transfer.sent())))?;
    let span = transfer.span();
    let summary = Summary {
        meters: args.meters,
        frequencies,
        records: transfer.sent(),
        left_out,
        dirt: counts.into(),
        interrupted: transfer.interrupted(),
        seconds: transfer.seconds(),
        records_per_second: transfer.sent() as f64 / transfer.seconds(),
        first: span.map(|(first, _)| format_micros(first)),
        last: span.map(|(_, last)| format_micros(last)),
        file: args.out.as_ref().map(|path| path.display().to_string()),
        topics: topics.into_iter().zip(partitions).map(|(topic, partitions)| Topic { topic, partitions }).collect(),
        feed: feeds.iter().map(feed_toml).collect::<Vec<_>>().join("\n\n"),
    };
    if context.json {
        return context.print_json(&summary);
    }
    context.print(&describe(&summary))
}

/// Generates until the end, an error, or the wish to end.
fn send(
    mut fleet: Fleet,
    mut output: Output,
    mut transfer: Transfer,
) -> (FleetCounts, Transfer, Result<u64, GenerateError>) {
    let (from, to) = (fleet.config().from, fleet.config().to);
    let mut record = FleetRecord::empty();
    let mut failure = None;
    while fleet.next_into(&mut record) {
        let share = (record.send_at - from) as f64 / (to - from) as f64;
        if !transfer.next(record.send_at, || share.min(1.0)) {
            break;
        }
        if let Err(error) = output.write(&record) {
            failure = Some(error);
            break;
        }
    }
    let finished = output.finish(&mut transfer);
    transfer.done();
    (fleet.counts(), transfer, failure.map_or(finished, Err))
}

fn describe(summary: &Summary) -> String {
    let place = match (&summary.file, summary.topics.as_slice()) {
        (Some(file), _) => format!("written to {file}"),
        (None, topics) => {
            let names: Vec<String> =
                topics.iter().map(|t| format!("{} ({} partitions)", t.topic, t.partitions)).collect();
            format!("sent to {}", names.join(" and "))
        }
    };
    let dirt = &summary.dirt;
    let frequencies: Vec<String> = summary.frequencies.iter().map(|(f, n)| format!("{n} at {f}")).collect();
    let mut text = format!(
        "{} records of {} meters ({}) {place} in {:.1} s, {:.0} a second\n\
         {} readings; {} lost, {} late, {} sent twice, {} corrected, {} malformed, {} with a wrong clock\n",
        summary.records,
        summary.meters,
        frequencies.join(", "),
        summary.seconds,
        summary.records_per_second,
        dirt.readings,
        dirt.lost,
        dirt.late,
        dirt.duplicates,
        dirt.corrections,
        dirt.malformed,
        dirt.skewed
    );
    if summary.left_out > 0 {
        text.push_str(&format!(
            "{} malformed records are not in the file: it holds readings alone\n",
            summary.left_out
        ));
    }
    if summary.interrupted {
        text.push_str("interrupted before the end\n");
    }
    text.push_str(&format!("\nThis section of the configuration reads them:\n\n{}", summary.feed));
    text
}
