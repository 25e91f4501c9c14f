//! What commands on plain files share: which files, how far ahead, and how far they are.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use meterline_models::data::Panel;
use meterline_models::forecaster::{Done, Task};
use meterline_models::holidays::Holidays;
use meterline_models::registry::{self, Kind};
use meterline_schemas::Frequency;
use meterline_schemas::config::resolve_policy;
use meterline_schemas::time::Span;

use super::CommandError;
use super::transfer::{FileArgs, FilesArg};
use crate::offline::{OfflineOptions, read};
use crate::triggers::no_such_kind;

/// Progress is said at most this often.
const SAY_EVERY: Duration = Duration::from_secs(2);

/// Arguments of commands on plain files.
#[derive(Debug, clap::Args)]
pub struct OfflineArgs {
    #[command(flatten)]
    files: FilesArg,
    #[command(flatten)]
    file: FileArgs,
    /// How far ahead, such as 24h or 7d [default: that of the frequency's policy]
    #[arg(long, value_name = "TIME")]
    horizon: Option<Span>,
    /// The frequency, such as PT15M [default: found in the stamps]
    #[arg(long)]
    frequency: Option<Frequency>,
    /// Country whose public holidays count as days off, such as Netherlands
    #[arg(long, value_name = "NAME")]
    holidays: Option<String>,
    /// How much values count in training that were estimated or substituted, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 1.0)]
    estimated_weight: f32,
    /// Longest time of one fit; the best until then is kept
    #[arg(long, value_name = "TIME")]
    time_limit: Option<Span>,
    /// Of everything random
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

impl OfflineArgs {
    /// What the files hold.
    pub fn panels(&self) -> Result<Vec<Panel>, CommandError> {
        let file = self.file.options();
        let zone = match &file.zone {
            Some(name) => {
                TimeZone::get(name).map_err(|error| CommandError::usage(format!("--zone {name}: {error}")))?
            }
            None => TimeZone::UTC,
        };
        if !(0.0..=1.0).contains(&self.estimated_weight) {
            return Err(CommandError::usage("--estimated-weight is a share from 0 to 1"));
        }
        // A wrong name is found out before the files are read.
        self.days_off()?;
        let options = OfflineOptions { file, frequency: self.frequency, zone, estimated_weight: self.estimated_weight };
        let found = read(&self.files.files, &options)?;
        if found.skipped > 0 {
            eprintln!("{} rows or cells that cannot be read are left out", found.skipped);
        }
        Ok(found.panels)
    }

    /// What models are fitted for.
    pub fn task(&self, frequency: Frequency) -> Task {
        let policy = resolve_policy(frequency, &Default::default());
        let horizon = self.horizon.map_or(policy.horizon, |horizon| steps(horizon, frequency));
        let holidays = self.days_off().unwrap_or_default();
        Task { holidays, ..Task::new(horizon, policy.context.max(horizon), self.seed) }
    }

    fn days_off(&self) -> Result<Holidays, CommandError> {
        match &self.holidays {
            Some(country) => Holidays::of(country).map_err(|error| CommandError::usage(format!("--holidays: {error}"))),
            None => Ok(Holidays::none()),
        }
    }

    /// The kind of model of this name.
    pub fn kind(&self, name: &str) -> Result<&'static Kind, CommandError> {
        registry::find(name).ok_or_else(|| CommandError::usage(no_such_kind(name)))
    }

    /// Says how far something is, and ends it once its time is over.
    pub fn shown(&self, what: String) -> Shown {
        Shown { what, limit: self.time_limit.map(Span::to_std), begun: Instant::now(), said: None }
    }
}

/// A time in intervals, at least one.
pub fn steps(time: Span, frequency: Frequency) -> usize {
    (time.micros() / frequency.nominal_micros()).max(1) as usize
}

/// Says how far something is.
pub struct Shown {
    what: String,
    limit: Option<Duration>,
    begun: Instant,
    said: Option<Instant>,
}

impl Shown {
    /// It is so far.
    pub fn step(&mut self, done: Done<'_>) -> ControlFlow<()> {
        if self.said.unwrap_or(self.begun).elapsed() >= SAY_EVERY {
            self.said = Some(Instant::now());
            eprintln!("{}: {:.0} %", self.what, 100.0 * done.share);
        }
        match self.limit {
            Some(limit) if self.begun.elapsed() >= limit => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }
}
