//! An engine that reads two feeds, of quarter hours and of hours, which come day by day.

use std::fs;

use meterline_tests::kafka::Kafka;
use meterline_tests::sandbox::{Engine, Sandbox};
use meterline_tests::topic::{self, Outgoing};
use meterline_tests::wait;
use serde_json::{Map, Value, json};

use crate::checks;
use crate::four_weeks::{self, Feed};
use crate::harness::MINUTE;

pub use crate::four_weeks::DAYS;

/// The feed of quarter hours, and that of hours.
pub const QUARTERS: usize = 0;
pub const HOURS: usize = 1;

/// By feed, when it is forecast and when it is trained on.
const WHEN: [[&str; 2]; 2] = [
    ["new_intervals >= 24 or champion_is_new", "new_intervals >= 672"],
    ["new_intervals >= 12", "new_intervals >= 168"],
];
/// What each trigger is called, in this order.
const TRIGGERS: [&str; 2] = ["reforecast", "retrain"];

/// The model of quarter hours that is trained in a moment, and one that takes its time.
pub const QUICK: &str = "kind = \"seasonal_naive\" # of quarter hours";
pub const LONG: &str =
    "kind = \"quantile_mlp\"\ntrain_time = \"12s\"\nsettings = { members = 4, hidden = 256, epochs = 200 }";

/// The substations belong to two regions.
const REGIONS: [&str; 2] = ["north", "south"];

/// The engine with its two feeds.
pub struct World {
    pub sandbox: Sandbox,
    engine: Option<Engine>,
    pub feeds: [Feed; 2],
    brokers: String,
}

/// A run; its origin in intervals since the first one began.
#[derive(Debug)]
pub struct Run {
    pub origin: i64,
    pub status: String,
    pub model: Option<String>,
    pub created_at: i64,
    pub finished_at: Option<i64>,
}

/// What `triggers explain` says of a trigger, as text and as a document.
pub struct Explained {
    pub told: String,
    pub document: Value,
}

impl Explained {
    /// Kinds of what keeps the run from starting.
    pub fn blockers(&self) -> Vec<&str> {
        let blockers = self.document["blockers"].as_array().expect("blockers");
        blockers.iter().filter_map(|blocker| blocker["kind"].as_str()).collect()
    }
}

impl World {
    /// Starts the engine; nothing was sent yet.
    pub fn start(kafka: &Kafka) -> World {
        let (sandbox, feeds) = (Sandbox::new(), four_weeks::feeds());
        for feed in &feeds {
            kafka.create_topic(feed.topic, 1);
        }
        let brokers = kafka.brokers();
        sandbox.configure(&configuration(&sandbox, &brokers, &feeds));
        let regions = feeds[QUARTERS].series().into_iter().zip(REGIONS.iter().cycle());
        let rows: String = regions.map(|(series, region)| format!("{series},{region}\n")).collect();
        fs::write(sandbox.path().join("network.csv"), format!("series_id,region\n{rows}")).expect("write the labels");
        let engine = Some(sandbox.engine());
        World { sandbox, engine, feeds, brokers }
    }

    /// Sends the days before this one, each once all is done that the one before it called for.
    pub fn days_before(&mut self, day: usize) {
        while self.feeds.iter().any(|feed| feed.sent + 1 < day) {
            for feed in [QUARTERS, HOURS] {
                if self.feeds[feed].sent + 1 < day {
                    self.send_day(feed);
                }
            }
            self.settle();
        }
    }

    /// Sends the next day of a feed.
    pub fn send_day(&mut self, feed: usize) {
        self.feeds[feed].send_day(&self.sandbox, &self.brokers);
    }

    /// Waits until all that was sent is committed.
    pub fn await_committed(&mut self) {
        let engine = self.engine.as_mut().expect("an engine runs");
        for feed in &self.feeds {
            checks::await_committed(&self.sandbox, engine, &self.brokers, feed.topic);
        }
    }

    /// Waits until all that was sent is committed, and nothing is due or under way.
    pub fn settle(&mut self) {
        let sent: i64 = self.feeds.iter().flat_map(|feed| topic::end_offsets(&self.brokers, feed.topic)).sum();
        let due = |feed: usize, trigger: usize| {
            let (group, when) = (self.feeds[feed].group, WHEN[feed][trigger]);
            format!("(group_id = '{group}' AND pipeline = '{}' AND ({when}))", TRIGGERS[trigger])
        };
        let due = [due(QUARTERS, 0), due(QUARTERS, 1), due(HOURS, 0), due(HOURS, 1)].join(" OR ");
        let open = format!(
            "SELECT {sent} - (SELECT sum(next_offset) FROM partitions) \
             + (SELECT count(*) FROM runs WHERE status IN ('queued', 'running')) \
             + (SELECT count(*) FROM trigger_facts WHERE {due})"
        );
        // Twice: what is due may become a run between one table and the next.
        let mut quiet = 0;
        wait::until("nothing is due or under way", 3 * MINUTE, || {
            quiet = if self.sandbox.number(&open) == Some(0) { quiet + 1 } else { 0 };
            (quiet >= 2).then_some(())
        });
    }

    /// Kills the engine.
    pub fn kill(&mut self) {
        let engine = self.engine.take().expect("an engine runs");
        self.sandbox.kill(engine);
    }

    /// Stops the engine in good order.
    pub fn stop(&mut self) {
        let engine = self.engine.take().expect("an engine runs");
        assert_eq!(engine.stop().code(), Some(0));
    }

    /// Starts an engine again.
    pub fn start_again(&mut self) {
        assert!(self.engine.is_none());
        self.engine = Some(self.sandbox.engine());
    }

    /// Changes the configuration while the engine runs.
    pub fn reconfigure(&self, from: &str, to: &str) {
        let taken = || self.sandbox.log().matches("has changed and is taken").count();
        let before = taken();
        self.sandbox.replace(from, to);
        wait::until("the configuration is taken", MINUTE, || (taken() > before).then_some(()));
    }

    /// The runs of a feed's group, in the order in which they were asked for.
    pub fn runs(&self, feed: usize, pipeline: &str) -> Vec<Run> {
        let Feed { group, minutes, .. } = &self.feeds[feed];
        let first = format!("(SELECT CAST(min(start) AS BIGINT) FROM intervals WHERE frequency = '{group}')");
        let rows = self.sandbox.sql(&format!(
            "SELECT (CAST(origin AS BIGINT) - {first}) / ({minutes} * 60000000) AS origin, status, model_version, \
               CAST(created_at AS BIGINT) AS created_at, CAST(finished_at AS BIGINT) AS finished_at \
             FROM runs WHERE group_id = '{group}' AND pipeline = '{pipeline}' ORDER BY run_id"
        ));
        rows.iter().map(Run::of).collect()
    }

    /// What is said of a trigger of a feed's group.
    pub fn explained(&self, feed: usize, trigger: &str) -> Explained {
        let arguments = ["triggers", "explain", self.feeds[feed].group, "--trigger", trigger];
        let told = self.sandbox.run(&arguments).succeeded().stdout;
        let document = self.sandbox.run(&[&arguments[..], &["--json"]].concat()).succeeded().stdout;
        let document: Value = serde_json::from_str(&document).expect("a document");
        Explained { told, document: document[0].clone() }
    }

    /// A substation, and the roll-up that it is a part of.
    pub fn substation(&self) -> (String, String) {
        (self.feeds[QUARTERS].series().swap_remove(0), format!("rollup.grid:region={}@PT15M", REGIONS[0]))
    }

    /// Sends another value of an interval that the newest forecast of a substation was made from.
    pub fn correct(&mut self, substation: &str) {
        let rows = self.sandbox.sql(&format!(
            "SELECT max(origin) - INTERVAL '3 hours' AS at FROM forecasts_latest WHERE series_id = '{substation}'"
        ));
        let reading = json!({"meter_id": substation, "ts": rows[0]["at"], "value": 500.0, "unit": "kW"});
        let record = Outgoing { key: substation.to_owned(), payload: Some(reading.to_string().into_bytes()) };
        topic::send(&self.brokers, self.feeds[QUARTERS].topic, &[record]);
        self.await_committed();
    }
}

impl Run {
    fn of(row: &Map<String, Value>) -> Run {
        let text = |name: &str| row[name].as_str().map(str::to_owned);
        let origin = row["origin"].as_i64().unwrap_or_else(|| panic!("{row:?}"));
        let created_at = row["created_at"].as_i64().unwrap_or_else(|| panic!("{row:?}"));
        let status = text("status").unwrap_or_default();
        Run { origin, status, model: text("model_version"), created_at, finished_at: row["finished_at"].as_i64() }
    }
}

fn configuration(sandbox: &Sandbox, brokers: &str, feeds: &[Feed; 2]) -> String {
    let [quarters, hours] = feeds;
    let lake = sandbox.lake();
    let feed = |name: &str, of: &Feed| {
        format!(
            r#"
[feed.{name}]
topic = "{}"
series = "meter_id"
time = "ts"
value = "value"
unit_field = "unit"
frequency = "{}"
lateness = "0s"
"#,
            of.topic, of.group
        )
    };
    format!(
        r#"
[kafka]
brokers = "{brokers}"
[lake]
url = "{}"
[device]
slots = 1
[ingest]
commit_interval = "200ms"
idle_timeout = "1s"
catch_up_records = 0
{}{}
[labels.network]
file = "network.csv"
labels = {{ region = "region" }}
[rollup.grid]
by = ["region"]
feeds = ["substations"]
# Parts keep their forecasts: those of one series say nothing of the others.
reconcile = "bottom_up"

[policy.quarter_hours]
frequency = "PT15M"
horizon = "6h"
context = "96 intervals"
[policy.quarter_hours.reforecast]
when = "{}"
# All that is there is read before anything is caught up with.
require = "not backfilling"
catch_up = "once"
[policy.quarter_hours.retrain]
when = "{}"
require = "history_intervals >= history_needed and completeness >= 0.9"
[policy.quarter_hours.gate]
accept_if = "true"
[policy.quarter_hours.model]
{QUICK}

[policy.hours]
frequency = "PT1H"
horizon = "12h"
context = "24 intervals"
[policy.hours.reforecast]
when = "{}"
# Nothing that depends on commits.
require = ""
catch_up = "all"
[policy.hours.retrain]
when = "{}"
require = "not device_busy"
catch_up = "all"
[policy.hours.gate]
accept_if = "true"
[policy.hours.model]
kind = "seasonal_naive"
"#,
        lake.display(),
        feed("substations", quarters),
        feed("clients", hours),
        WHEN[QUARTERS][0],
        WHEN[QUARTERS][1],
        WHEN[HOURS][0],
        WHEN[HOURS][1],
    )
}
