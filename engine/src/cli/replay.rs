//! `meterline replay`: sends files to Kafka, in the order of time, at a chosen pace.

use std::time::Duration;

use meterline_connectors::files::{self, FileError, FileReadings, Merged, write_json};
use meterline_connectors::kafka::sink::{Sink, SinkError};
use meterline_schemas::Frequency;
use meterline_schemas::config::FeedConfig;
use meterline_schemas::reading::ValueKind;
use meterline_schemas::time::format_micros;
use serde::Serialize;

use super::shutdown::Shutdown;
use super::transfer::{FileArgs, FilesArg, Pace, SendArgs, Transfer, connect, feed, feed_toml, usage};
use super::{CommandError, CommandResult, Context};

/// Arguments of `meterline replay`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    files: FilesArg,
    /// Bootstrap brokers, host:port separated by commas
    #[arg(long, default_value = "localhost:9092")]
    brokers: String,
    #[command(flatten)]
    send: SendArgs,
    #[command(flatten)]
    file: FileArgs,
    /// Native frequency of the series, such as PT15M, for the printed feed [default: detected by the engine]
    #[arg(long)]
    frequency: Option<Frequency>,
}

/// What was done.
#[derive(Debug, Serialize)]
struct Summary {
    /// Records that the broker acknowledged.
    sent: u64,
    /// Cells and rows left out because they could not be read.
    skipped: u64,
    /// Records whose stamp was before that of one sent earlier.
    out_of_order: u64,
    /// Whether the end was asked for before everything was sent.
    interrupted: bool,
    seconds: f64,
    records_per_second: f64,
    topic: String,
    partitions: i32,
    /// Earliest and latest stamp, RFC 3339.
    first: Option<String>,
    last: Option<String>,
    /// The section of the configuration file that reads the topic.
    feed: String,
}

#[derive(Debug, thiserror::Error)]
enum ReplayError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Sink(#[from] SinkError),
}

/// Sends the files, and says what was sent and how it is read.
pub async fn run(args: Args, context: &Context) -> CommandResult {
    let Some(topic) = args.send.topic.clone() else {
        return Err(CommandError::usage("no topic is named; use --topic NAME"));
    };
    let opened = files::open_all(&args.files.files, &args.file.options());
    let opened = opened.map_err(|e| if e.is_usage() { usage(&e) } else { e.into() })?;
    let feed = read_by(&opened, &topic, &args);
    let shutdown = Shutdown::install()?;
    let (sink, partitions) = connect(&args.brokers, &args.send, std::slice::from_ref(&topic)).await?;
    let pace = Pace::new(args.send.speed, args.send.rate);
    let transfer = Transfer::start(pace, shutdown.receiver());
    let name = topic.clone();
    let sending = move || send(Merged::new(opened), &sink, &name, transfer);
    let (readings, transfer, failure) = tokio::task::spawn_blocking(sending).await?;
    let span = transfer.span();
    let summary = Summary {
        sent: transfer.sent(),
        skipped: readings.skipped(),
        out_of_order: readings.disordered(),
        interrupted: transfer.interrupted(),
        seconds: transfer.seconds(),
        records_per_second: transfer.sent() as f64 / transfer.seconds(),
        topic,
        partitions: partitions.first().copied().unwrap_or(0),
        first: span.map(|(first, _)| format_micros(first)),
        last: span.map(|(_, last)| format_micros(last)),
        feed: feed_toml(&feed),
    };
    if let Some(error) = failure {
        return Err(CommandError::failed(format!("after {} records: {error}", summary.sent)));
    }
    if context.json {
        return context.print_json(&summary);
    }
    context.print(&describe(&summary))
}

/// The feed that reads the files' records. Stamps are sent as instants, so the zone matters for calendar days alone.
fn read_by(opened: &[FileReadings], topic: &str, args: &Args) -> FeedConfig {
    let unit = opened.first().and_then(FileReadings::unit).cloned();
    let unit = unit.filter(|unit| opened.iter().all(|file| file.unit() == Some(unit)));
    let label = opened.first().map(FileReadings::label).unwrap_or_default();
    let mut feed = feed(topic, unit, label, ValueKind::Interval, args.frequency);
    if let Some(zone) = args.file.options().zone {
        feed.zone = zone;
    }
    feed
}

/// Sends until the end, an error, or the wish to end; then waits for the broker.
fn send(
    mut readings: Merged,
    sink: &Sink,
    topic: &str,
    mut transfer: Transfer,
) -> (Merged, Transfer, Option<ReplayError>) {
    let mut payload = Vec::new();
    let mut failure = None;
    while let Some(reading) = readings.next() {
        let reading = match reading {
            Ok(reading) => reading,
            Err(error) => {
                failure = Some(error.into());
                break;
            }
        };
        if !transfer.next(reading.at, || readings.progress()) {
            break;
        }
        payload.clear();
        write_json(&mut payload, &reading);
        if let Err(error) = sink.send(topic, None, reading.series.as_bytes(), &payload, None) {
            failure = Some(error.into());
            break;
        }
    }
    let flushed = transfer.flush(sink);
    transfer.done();
    let failure = failure.or_else(|| flushed.err().map(ReplayError::from));
    (readings, transfer, failure)
}

fn describe(summary: &Summary) -> String {
    let mut text = format!(
        "{} records sent to {} ({} partitions) in {:.1?}, {:.0} a second\n",
        summary.sent,
        summary.topic,
        summary.partitions,
        Duration::from_secs_f64(summary.seconds),
        summary.records_per_second
    );
    if let (Some(first), Some(last)) = (&summary.first, &summary.last) {
        text.push_str(&format!("stamps from {first} to {last}\n"));
    }
    for (count, what) in [
        (summary.skipped, "cells or rows could not be read and were skipped"),
        (summary.out_of_order, "records were not in the order of time"),
    ] {
        if count > 0 {
            text.push_str(&format!("{count} {what}\n"));
        }
    }
    if summary.interrupted {
        text.push_str("interrupted before the end\n");
    }
    text.push_str(&format!("\nThis section of the configuration reads them:\n\n{}", summary.feed));
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use meterline_connectors::files::FileOptions;
    use meterline_connectors::kafka::mock::MockBroker;
    use tokio::sync::watch;

    use super::super::transfer::Speed;
    use super::*;

    fn replay(stopped: bool, last_row: &str) -> (u64, u64, Option<String>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f.csv");
        std::fs::write(&path, format!("time,a,b\n2024-01-01 00:00,1,2\n2024-01-01 00:15,3,4\n{last_row}\n")).unwrap();
        let broker = MockBroker::start(&[("readings", 2)]).unwrap();
        let sink = Sink::connect(broker.brokers(), &BTreeMap::new()).unwrap();
        let readings = Merged::new(files::open_all(&[path], &FileOptions::default()).unwrap());
        let (_asker, stop) = watch::channel(stopped);
        let transfer = Transfer::start(Pace::new(Speed(None), None), stop);
        let (_, transfer, failure) = send(readings, &sink, "readings", transfer);
        (transfer.sent(), sink.delivered().records, failure.map(|e| e.to_string()))
    }

    #[test]
    fn every_reading_is_acknowledged_before_the_end() {
        assert_eq!(replay(false, ""), (4, 4, None));
    }

    #[test]
    fn what_was_sent_before_a_bad_row_is_acknowledged() {
        let (sent, delivered, failure) = replay(false, "2024-01-01 00:30,x,5");
        assert_eq!((sent, delivered), (4, 4));
        assert!(failure.is_some_and(|reason| reason.contains("line 4, column `a`")));
    }

    #[test]
    fn the_wish_to_end_is_heard() {
        assert_eq!(replay(true, ""), (0, 0, None));
    }
}
