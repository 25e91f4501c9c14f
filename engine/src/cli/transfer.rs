//! What the commands that move readings share: how files are understood, the pace of sending, progress on standard
//! error, and the feed that reads what was sent.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use meterline_connectors::files::FileOptions;
use meterline_connectors::kafka::sink::{Sink, SinkError};
use meterline_schemas::config::{FeedConfig, Label};
use meterline_schemas::reading::ValueKind;
use meterline_schemas::time::{SECOND, format_micros};
use meterline_schemas::unit::Unit;
use meterline_schemas::{Frequency, Micros};
use tokio::sync::watch;

use super::values::label;
use super::{CommandError, CommandResult};

/// How long the broker may take to acknowledge the last records.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(300);
/// Longest sleep between two looks at whether the end was asked for.
const NAP: Duration = Duration::from_millis(100);
/// Records between two looks at the clock.
const BREATH: u64 = 256;

/// Where records go, and how fast.
#[derive(Debug, Clone, clap::Args)]
pub struct SendArgs {
    /// Topic to send to; created where it is missing
    #[arg(long)]
    pub topic: Option<String>,
    /// Partitions of a topic that is created
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    pub partitions: i32,
    /// Further librdkafka property
    #[arg(long = "property", value_name = "KEY=VALUE", value_parser = property)]
    pub properties: Vec<(String, String)>,
    /// Stream seconds per second, or `max`
    #[arg(long, default_value = "max", value_parser = speed)]
    pub speed: Speed,
    /// At most this many records a second
    #[arg(long, value_name = "N", value_parser = rate)]
    pub rate: Option<f64>,
}

/// Stream seconds per second; `None` is as fast as it goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speed(pub Option<f64>);

fn positive(text: &str) -> Option<f64> {
    text.parse().ok().filter(|x: &f64| x.is_finite() && *x > 0.0)
}

fn speed(text: &str) -> Result<Speed, String> {
    match text {
        "max" => Ok(Speed(None)),
        _ => positive(text).map(|x| Speed(Some(x))).ok_or_else(|| "use a number above 0, or max".into()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    positive(text).ok_or_else(|| "use a number above 0".into())
}

fn property(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it as KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

/// How a file is to be understood, where it does not say so itself.
#[derive(Debug, Clone, clap::Args)]
pub struct FileArgs {
    /// Wide files: the value columns, separated by commas [default: all that hold numbers]
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    columns: Vec<String>,
    /// The series of a file with one value column; else the prefix of the columns' names
    #[arg(long, value_name = "NAME")]
    series: Option<String>,
    /// Long files: column with the series identifier [default: by its name]
    #[arg(long, value_name = "NAME")]
    series_column: Option<String>,
    /// Column with the time stamp [default: by its content]
    #[arg(long, value_name = "NAME")]
    time_column: Option<String>,
    /// Long files: column with the value [default: by its name]
    #[arg(long, value_name = "NAME")]
    value_column: Option<String>,
    /// Unit of the values, such as kW, kWh or MW [default: as the file says, else the feed]
    #[arg(long)]
    unit: Option<String>,
    /// Which end of the interval a stamp marks [default: as the feed (backfill) or the file (replay) says, else end]
    #[arg(long, value_parser = label, value_name = "begin|end")]
    label: Option<Label>,
    /// IANA time zone of stamps without an offset, and of the days and hours that models see [default: the feed's
    /// (backfill), UTC]
    #[arg(long)]
    zone: Option<String>,
    /// Leave out and count what cannot be read, instead of ending with an error
    #[arg(long)]
    skip_bad: bool,
}

impl FileArgs {
    /// The options for [`meterline_connectors::files`].
    pub fn options(&self) -> FileOptions {
        FileOptions {
            columns: self.columns.clone(),
            series: self.series.clone(),
            series_column: self.series_column.clone(),
            time_column: self.time_column.clone(),
            value_column: self.value_column.clone(),
            unit: self.unit.as_deref().map(|unit| match unit.parse::<Unit>() {
                Ok(unit) => unit,
            }),
            label: self.label,
            zone: self.zone.clone(),
            skip_bad: self.skip_bad,
        }
    }
}

/// When the next record is due: pure, the clock is an argument.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    speed: Option<f64>,
    rate: Option<f64>,
    first: Option<Micros>,
}

impl Pace {
    /// A pace of `speed` stream seconds per second and at most `rate` records a second.
    pub const fn new(speed: Speed, rate: Option<f64>) -> Pace {
        Pace { speed: speed.0, rate, first: None }
    }

    /// Time from the start until the record after `sent` others, with stream time `at`, is due.
    pub fn due(&mut self, at: Micros, sent: u64) -> Duration {
        let first = *self.first.get_or_insert(at);
        let stream = self.speed.map_or(0.0, |speed| (at - first).max(0) as f64 / SECOND as f64 / speed);
        let count = self.rate.map_or(0.0, |rate| sent as f64 / rate);
        Duration::try_from_secs_f64(stream.max(count)).unwrap_or(Duration::MAX)
    }

    const fn is_unlimited(&self) -> bool {
        self.speed.is_none() && self.rate.is_none()
    }
}

/// Counts, waits and reports while records are sent.
pub struct Transfer {
    pace: Pace,
    started: Instant,
    shown: Option<Instant>,
    terminal: bool,
    stop: watch::Receiver<bool>,
    sent: u64,
    first: Option<Micros>,
    last: Option<Micros>,
}

impl Transfer {
    /// Starts the clock. `stop` becomes true when the end is asked for.
    pub fn start(pace: Pace, stop: watch::Receiver<bool>) -> Transfer {
        let terminal = std::io::stderr().is_terminal();
        let started = Instant::now();
        Transfer { pace, started, shown: None, terminal, stop, sent: 0, first: None, last: None }
    }

    /// Waits until the record with stream time `at` is due; false when the end was asked for. `share` is how much is
    /// done.
    pub fn next(&mut self, at: Micros, share: impl Fn() -> f64) -> bool {
        if self.sent.is_multiple_of(BREATH) || !self.pace.is_unlimited() {
            loop {
                if *self.stop.borrow() {
                    return false;
                }
                let wait = self.pace.due(at, self.sent).saturating_sub(self.started.elapsed());
                if self.sent.is_multiple_of(BREATH) || !wait.is_zero() {
                    self.show(at, share());
                }
                if wait.is_zero() {
                    break;
                }
                std::thread::sleep(wait.min(NAP));
            }
        }
        self.sent += 1;
        self.first = Some(self.first.map_or(at, |first| first.min(at)));
        self.last = Some(self.last.map_or(at, |last| last.max(at)));
        true
    }

    fn show(&mut self, at: Micros, share: f64) {
        if !self.is_time_to_show() {
            return;
        }
        let rate = self.sent as f64 / self.seconds();
        let (sent, at) = (self.sent, format_micros(at));
        self.line(&format!("{:3.0} %  {sent} records sent  {rate:.0}/s  at {at}", share * 100.0));
    }

    /// Twice a second where a line can be rewritten, else every ten seconds.
    fn is_time_to_show(&mut self) -> bool {
        let every = if self.terminal { Duration::from_millis(500) } else { Duration::from_secs(10) };
        let due = self.shown.unwrap_or(self.started).elapsed() >= every;
        if due {
            self.shown = Some(Instant::now());
        }
        due
    }

    fn line(&self, text: &str) {
        let mut out = std::io::stderr().lock();
        // Progress that cannot be shown is no reason to stop.
        let _ = if self.terminal { write!(out, "\r\x1b[2K{text}") } else { writeln!(out, "{text}") };
        let _ = out.flush();
    }

    /// Waits for the broker to acknowledge everything.
    ///
    /// # Errors
    /// It does not, or has refused records.
    pub fn flush(&mut self, sink: &Sink) -> Result<(), SinkError> {
        let progress = |waiting| {
            if self.is_time_to_show() {
                self.line(&format!("{waiting} records wait for the broker"));
            }
        };
        sink.flush(FLUSH_TIMEOUT, progress).map(|_| ())
    }

    /// Ends the line of progress.
    pub fn done(&self) {
        if self.terminal && self.shown.is_some() {
            eprintln!();
        }
    }

    /// Whether the end was asked for.
    pub fn interrupted(&self) -> bool {
        *self.stop.borrow()
    }

    /// Records so far.
    pub const fn sent(&self) -> u64 {
        self.sent
    }

    /// Seconds since the start.
    pub fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64().max(1e-6)
    }

    /// The earliest and the latest stream time so far.
    pub fn span(&self) -> Option<(Micros, Micros)> {
        self.first.zip(self.last)
    }
}

/// Connects, and makes sure that the topics exist. The values are their numbers of partitions.
///
/// # Errors
/// No broker answers, or a topic can be neither found nor created.
pub async fn connect(brokers: &str, args: &SendArgs, topics: &[String]) -> CommandResult<(Sink, Vec<i32>)> {
    let properties = args.properties.iter().cloned().collect();
    let brokers = brokers.to_owned();
    let sink = tokio::task::spawn_blocking(move || Sink::connect(&brokers, &properties)).await??;
    let mut partitions = Vec::new();
    for topic in topics {
        partitions.push(sink.ensure_topic(topic, args.partitions).await?);
    }
    Ok((sink, partitions))
}

/// The feed that reads what is sent to `topic`.
pub fn feed(
    topic: &str,
    unit: Option<Unit>,
    label: Label,
    kind: ValueKind,
    frequency: Option<Frequency>,
) -> FeedConfig {
    FeedConfig {
        unit: unit.unwrap_or(Unit::KWH),
        unit_field: Some("unit".into()),
        quality: Some("quality".into()),
        label,
        kind,
        frequency,
        ..FeedConfig::new(topic, "meter_id", "ts", "value")
    }
}

/// The feed as a section of the configuration file, without the keys that have their default.
pub fn feed_toml(feed: &FeedConfig) -> String {
    let default = FeedConfig::new(&feed.topic, &feed.series, &feed.time, &feed.value);
    let name: String =
        feed.topic.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' }).collect();
    let mut lines = vec![format!("[feed.{name}]")];
    let mut key = |key: &str, value: &str| lines.push(format!("{key} = {value:?}"));
    key("topic", &feed.topic);
    key("series", &feed.series);
    key("time", &feed.time);
    key("value", &feed.value);
    key("unit", &feed.unit.to_string());
    if let Some(field) = &feed.unit_field {
        key("unit_field", field);
    }
    if let Some(field) = &feed.quality {
        key("quality", field);
    }
    if feed.kind != default.kind {
        key("kind", if feed.kind == ValueKind::Counter { "counter" } else { "gauge" });
    }
    key("label", if feed.label == Label::Begin { "begin" } else { "end" });
    if feed.zone != default.zone {
        key("zone", &feed.zone);
    }
    if let Some(frequency) = feed.frequency {
        key("frequency", &frequency.to_string());
    }
    lines.join("\n")
}

/// Files as arguments: at least one.
#[derive(Debug, Clone, clap::Args)]
pub struct FilesArg {
    /// CSV or Parquet files, long or wide
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// The error of an option.
pub fn usage(error: &dyn std::error::Error) -> CommandError {
    CommandError::usage(error.to_string())
}

#[cfg(test)]
mod tests {
    use meterline_schemas::config;

    use super::*;

    #[test]
    fn the_printed_feed_is_the_feed_that_was_meant() {
        let plain = feed("readings", None, Label::End, ValueKind::Interval, None);
        let other = FeedConfig {
            zone: "Europe/Lisbon".into(),
            ..feed("a.b \"c\"", Some(Unit::KW), Label::Begin, ValueKind::Counter, Some(Frequency::QUARTER_HOUR))
        };
        let counter = FeedConfig { unit: Unit::KWH, ..other };
        for (name, feed) in [("readings", plain), ("a_b__c_", counter)] {
            let parsed = config::parse(&feed_toml(&feed)).unwrap();
            assert_eq!(parsed.feed[name], feed);
        }
    }

    #[test]
    fn a_record_is_due_by_stream_time_and_by_count() {
        let mut pace = Pace::new(Speed(Some(60.0)), Some(10.0));
        let start = 1_000 * SECOND;
        assert_eq!(pace.due(start, 0), Duration::ZERO);
        assert_eq!(pace.due(start + 120 * SECOND, 1), Duration::from_secs(2));
        assert_eq!(pace.due(start + 60 * SECOND, 40), Duration::from_secs(4));
        assert_eq!(pace.due(start - 60 * SECOND, 0), Duration::ZERO);
        assert_eq!(Pace::new(Speed(None), None).due(start, 1_000), Duration::ZERO);
    }

    #[test]
    fn speeds_and_rates_are_checked() {
        assert_eq!(speed("max"), Ok(Speed(None)));
        assert_eq!(speed("3600"), Ok(Speed(Some(3600.0))));
        for text in ["0", "-1", "fast", "inf"] {
            assert!(speed(text).is_err() && rate(text).is_err(), "{text}");
        }
    }
}
