//! `meterline run` beside its lake, watched from outside.

use std::fs;
use std::time::{Duration, SystemTime};

use meterline_tests::sandbox::{Engine, Sandbox};

use super::Failure;
use super::delta::{Commit, Follower};
use super::process::{Usage, usage};

const LIMIT: Duration = Duration::from_secs(1800);
const PAUSE: Duration = Duration::from_millis(50);

/// A deployment of the engine: ingest alone, no pipeline runs beside it.
pub struct Deployment {
    /// Where it is.
    pub sandbox: Sandbox,
    log: Follower,
    rows: u64,
}

/// How the frequency of a feed is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// By the configuration.
    Declared,
    /// From its readings, the first of which wait for it.
    Detected,
}

/// What the engine did.
#[derive(Debug, Clone)]
pub struct Ingested {
    /// From its start until the commit with the last reading.
    pub seconds: f64,
    /// What it had cost by then.
    pub usage: Usage,
    /// The commits with rows.
    pub commits: Vec<Commit>,
}

impl Deployment {
    /// An empty lake for the readings of `topic`, whose frequency is declared or is to be found.
    pub fn new(brokers: &str, topic: &str, frequency: Known) -> Deployment {
        Deployment::with(brokers, topic, frequency, "")
    }

    /// As [`Deployment::new`], with further tables of the configuration.
    pub fn with(brokers: &str, topic: &str, frequency: Known, more: &str) -> Deployment {
        let declared = match frequency {
            Known::Declared => "frequency = \"PT15M\"",
            Known::Detected => "",
        };
        let settings = r#"
[ingest]
commit_interval = "10s"
[http]
listen = "off"
"#;
        // The feed's table comes before.
        let settings = declared.to_owned() + settings + &Sandbox::no_pipelines("PT15M") + more;
        let sandbox = Sandbox::reading(brokers, topic, &settings);
        let log = Follower::new(&sandbox.lake());
        Deployment { sandbox, log, rows: 0 }
    }

    /// Changes `ingest.commit_interval`; the next engine takes it.
    pub fn commit_every(&self, interval: &str) -> Result<(), Failure> {
        let known = fs::read_to_string(self.sandbox.config())?;
        let lines = known.lines().map(|line| match line.starts_with("commit_interval") {
            true => format!("commit_interval = \"{interval}\"\n"),
            false => format!("{line}\n"),
        });
        self.sandbox.configure(&lines.collect::<String>());
        Ok(())
    }

    /// Starts the engine and waits until so many readings in all are committed; it goes on running.
    pub fn start(&mut self, readings: u64) -> Result<(Engine, Ingested), Failure> {
        let started = SystemTime::now();
        let mut engine = self.sandbox.engine();
        let commits = self.wait(&mut engine, readings)?;
        let usage = usage(engine.id()).ok_or("the engine ended by itself")?;
        let last = commits.last().ok_or("nothing was committed")?.at;
        let seconds = last.duration_since(started).unwrap_or_default().as_secs_f64();
        Ok((engine, Ingested { seconds, usage, commits }))
    }

    /// Waits until so many readings in all are committed. Each is an interval of its own. Returns the commits since the
    /// last call.
    pub fn wait(&mut self, engine: &mut Engine, readings: u64) -> Result<Vec<Commit>, Failure> {
        let mut commits = Vec::new();
        let until = SystemTime::now() + LIMIT;
        while self.rows < readings {
            if !engine.runs() {
                return Err(format!("the engine ended by itself:\n{}", self.sandbox.log()).into());
            }
            if SystemTime::now() > until {
                return Err(format!("{} of {readings} readings are committed after {LIMIT:?}", self.rows).into());
            }
            std::thread::sleep(PAUSE);
            let news = self.log.news();
            self.rows += news.iter().map(Commit::rows).sum::<u64>();
            commits.extend(news);
        }
        Ok(commits)
    }

    /// That `intervals` has so many rows with so much energy (kWh), as SQL sees them.
    pub fn check(&self, readings: u64, energy: f64) -> Result<(), Failure> {
        let rows = self.sandbox.sql("SELECT count(*) AS rows, sum(value) AS energy FROM intervals");
        let row = rows.first().ok_or("no answer")?;
        let (found, sum) = (row["rows"].as_u64().unwrap_or(0), row["energy"].as_f64().unwrap_or(f64::NAN));
        same("meterline", (found, sum), (readings, energy))
    }
}

/// Stops an engine, which has to end well.
pub fn stop(engine: Engine) -> Result<(), Failure> {
    let status = engine.stop();
    if status.success() { Ok(()) } else { Err(format!("the engine ended with {status}").into()) }
}

/// That somebody's rows and their energy are all of them.
pub(super) fn same(whose: &str, found: (u64, f64), wanted: (u64, f64)) -> Result<(), Failure> {
    // Sums of floats differ by the order of addition.
    if found.0 == wanted.0 && ((found.1 - wanted.1) / wanted.1).abs() < 1e-9 {
        return Ok(());
    }
    let ((rows, energy), (all, sum)) = (found, wanted);
    Err(format!("{whose} has {rows} rows with {energy} kWh; there are {all} readings with {sum} kWh").into())
}
