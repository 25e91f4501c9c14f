//! The demo's directory and configuration.

use std::path::{Path, PathBuf};

use meterline_schemas::Frequency;
use meterline_schemas::Micros;
use meterline_schemas::config::Label;
use meterline_schemas::time::{DAY, HOUR, SECOND, Span};

use crate::cli::CommandError;

/// Name of the feed.
pub const FEED: &str = "meters";

/// A name that no other demo has: process ids repeat, and are the same in every container.
pub fn unique_name() -> String {
    format!("meterline-demo-{}", uuid::Uuid::now_v7().simple())
}

/// Where the demo keeps everything. Removed at the end, unless the user chose it or something failed.
pub struct Directory {
    path: PathBuf,
    keep: bool,
}

impl Directory {
    /// The chosen directory, or a fresh temporary one.
    ///
    /// # Errors
    /// It cannot be created, or holds an earlier demo's lake: the in-process broker has forgotten what that one read.
    pub fn prepare(chosen: Option<&Path>) -> Result<Directory, CommandError> {
        let path = match chosen {
            Some(path) => {
                std::path::absolute(path).map_err(|e| CommandError::usage(format!("--dir {}: {e}", path.display())))?
            }
            None => std::env::temp_dir().join(unique_name()),
        };
        let directory = Directory { path, keep: chosen.is_some() };
        if directory.lake().exists() {
            return Err(CommandError::usage(format!(
                "{} holds the lake of an earlier demo; name another directory with --dir, or remove it",
                directory.path.display()
            )));
        }
        std::fs::create_dir_all(&directory.path).map_err(|e| {
            CommandError::failed(format!(
                "cannot create {}: {e}; name a directory that can be written with --dir",
                directory.path.display()
            ))
        })?;
        Ok(directory)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it stays.
    pub const fn stays(&self) -> bool {
        self.keep
    }

    /// Keeps it, for its log.
    pub const fn keep(&mut self) {
        self.keep = true;
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.path.join("meterline.toml")
    }

    /// The log of engine and demo.
    pub fn log(&self) -> PathBuf {
        self.path.join("meterline.log")
    }

    /// The lake.
    pub fn lake(&self) -> PathBuf {
        self.path.join("lake")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            tracing::warn!(directory = %self.path.display(), %error, "the demo's directory is not removed");
        }
    }
}

/// What the configuration depends on.
pub struct Settings<'a> {
    /// Bootstrap brokers.
    pub brokers: &'a str,
    /// Topic.
    pub topic: &'a str,
    /// Directory of the lake.
    pub lake: &'a Path,
    /// Which end of the interval stamps mark.
    pub label: Label,
    /// Length of the history that is sent before life begins.
    pub history: Micros,
}

/// The demo's configuration: a real one, tuned to a simulated clock that runs an hour in a second.
pub fn config(settings: &Settings<'_>) -> String {
    let Settings { brokers, topic, lake, label, history } = settings;
    let label = match label {
        Label::Begin => "begin",
        Label::End => "end",
    };
    let mut text = format!(
        r#"# Written by `meterline demo`: a complete configuration, tuned to a simulated clock that runs an hour in a second.

[kafka]
brokers = {brokers}

[lake]
url = {lake}

[ingest]
commit_interval = "1s"       # intervals, offsets and state become visible together, this often

[http]
listen = "off"               # metrics and health; by default at 127.0.0.1:9464

[feed.{FEED}]
topic      = {topic}
series     = "meter_id"
time       = "ts"
value      = "value"
unit_field = "unit"          # this feed mixes kW and kWh
quality    = "quality"
label      = "{label}"           # which end of the interval a stamp marks
lateness   = "15m"
"#,
        brokers = quoted(brokers),
        lake = quoted(&lake.display().to_string()),
        topic = quoted(topic),
    );
    for (name, frequency, train_time) in [
        ("minutely", Frequency::Seconds(60), 40),
        ("five_minutely", Frequency::Seconds(300), 40),
        ("ten_minutely", Frequency::Seconds(600), 40),
        ("quarter_hourly", Frequency::QUARTER_HOUR, 40),
        ("half_hourly", Frequency::Seconds(1800), 40),
        ("hourly", Frequency::HOUR, 25),
        ("daily", Frequency::Day, 20),
    ] {
        text.push_str(&policy(name, frequency, *history, train_time));
    }
    text
}

fn policy(name: &str, frequency: Frequency, history: Micros, train_time: Micros) -> String {
    let length = frequency.nominal_micros();
    let daily = length >= DAY;
    let short = history < 20 * DAY;
    let (horizon, context, windows) = match (daily, short) {
        (true, _) => (14 * DAY, 56 * DAY, 3),
        (false, true) => (DAY, 2 * DAY, 1),
        (false, false) => (DAY, 7 * DAY, 3),
    };
    // One context, two horizons to learn from, and what evaluation keeps to itself.
    let least = context + 2 * horizon + windows * horizon;
    let whole = (history - DAY).max(DAY);
    format!(
        r#"
[policy.{name}]
frequency = "{frequency}"
horizon   = "{horizon}"
context   = "{context}"

[policy.{name}.reforecast]
when    = "new_intervals >= {every} or champion_is_new"
require = "history_intervals >= {known} and not backfilling"   # wait until the history is in

[policy.{name}.retrain]
when     = "not has_champion or new_intervals >= {week}"
require  = "history_intervals >= {enough} and completeness >= 0.8 and not backfilling"
cooldown = "{cooldown}"

[policy.{name}.model]
train_time       = "{train_time}"
evaluate_windows = {windows}
"#,
        horizon = Span(horizon),
        context = Span(context),
        every = (6 * HOUR / length).max(1),
        known = whole / length,
        week = if daily { 28 } else { 7 * DAY / length },
        enough = least.max(whole) / length,
        cooldown = Span(if daily { 14 * DAY } else { 3 * DAY }),
        train_time = Span(train_time * SECOND),
    )
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use meterline_schemas::config::{parse, resolve_policy};

    use super::*;

    #[test]
    fn the_configuration_is_valid_whatever_the_history() {
        for (history, label) in [(28 * DAY, Label::End), (9 * DAY, Label::Begin), (HOUR, Label::End)] {
            let lake = Path::new("/tmp/a \"strange\\ place");
            let text = config(&Settings { brokers: "127.0.0.1:9092", topic: "readings", lake, label, history });
            let config = parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
            assert_eq!(config.lake.url, lake.to_str().unwrap());
            assert_eq!(config.feed[FEED].label, label);
            for policy in config.policy.values() {
                let resolved = resolve_policy(policy.frequency, &config.policy);
                assert!(resolved.reforecast.require.to_string().starts_with("history_intervals >= "), "{resolved:?}");
            }
        }
    }

    #[test]
    fn a_fresh_directory_goes_and_a_chosen_one_stays() {
        let fresh = Directory::prepare(None).unwrap();
        let path = fresh.path().to_owned();
        assert!(path.exists());
        drop(fresh);
        assert!(!path.exists());

        let place = tempfile::tempdir().unwrap();
        let chosen = Directory::prepare(Some(&place.path().join("demo"))).unwrap();
        std::fs::create_dir_all(chosen.lake()).unwrap();
        let path = chosen.path().to_owned();
        drop(chosen);
        assert!(path.exists());
        let Err(again) = Directory::prepare(Some(&path)) else { panic!("an old lake is in there") };
        assert_eq!(again.status(), 2);
    }
}
