//! What commands on plain files share: which files, how far ahead, and how far they are.

use std::collections::BTreeSet;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use meterline_connectors::files::labels::{self, LabelFileError};
use meterline_models::data::{Covariate, Known, Panel, Series};
use meterline_models::forecaster::{Done, Model, Task};
use meterline_models::holidays::Holidays;
use meterline_models::registry::{self, Kind};
use meterline_models::statistics::HORIZON_MAX;
use meterline_models::tuning::SettingsError;
use meterline_schemas::config::{Config, ESTIMATED_WEIGHT, Fallback, LabelsConfig, resolve_policy};
use meterline_schemas::location::Location;
use meterline_schemas::settings::{Settings, Value};
use meterline_schemas::time::{Date, Span, format_micros};
use meterline_schemas::{Frequency, Micros};

use super::CommandError;
use super::transfer::{FileArgs, FilesArg};
use super::values::{fallback, setting};
use crate::ingest::rollup::LabelChange;
use crate::ingest::rollup::plan::Label;
use crate::offline::{Offline, OfflineOptions, OfflinePanel, complete, read};
use crate::series_labels::{at_instant, set};
use crate::triggers::inputs::Input;
use crate::triggers::{days_off, no_such_kind, wrong_setting};

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
    /// Columns of long files, separated by commas, that are known ahead of time, such as temperature,tariff: rows without
    /// a value have them over the horizon
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    covariates: Vec<String>,
    /// Columns of long files, separated by commas, that are known once their interval has ended, such as voltage
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    past_covariates: Vec<String>,
    /// What is taken where one of --covariates is missing within the horizon: that of the last day or week that has it
    /// [default: none, it is an error]
    #[arg(long, value_name = "last_day|last_week", value_parser = fallback, requires = "covariates")]
    covariate_fallback: Option<Fallback>,
    /// CSV file of labels that models are told, such as tariff or region: a row a series, with the column series_id, and every
    /// other column a label; with valid_from, those count that hold at the end
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Country whose public holidays count as days off, such as Netherlands
    #[arg(long, value_name = "NAME")]
    holidays: Option<String>,
    /// Dates, separated by commas, that are days off beside those, such as 2026-05-05
    #[arg(long, value_delimiter = ',', value_name = "DATE")]
    days_off: Vec<Date>,
    /// Dates, separated by commas, that are among the country's holidays but are worked on
    #[arg(long, value_delimiter = ',', value_name = "DATE")]
    workdays: Vec<Date>,
    /// Where the series are, in degrees, north and east positive, such as 52.1,5.3: models are told where the sun stands
    #[arg(long, value_name = "LATITUDE,LONGITUDE", allow_hyphen_values = true)]
    location: Option<Location>,
    /// How much values count in training that were estimated or substituted, 0 to 1: by default as in policies
    #[arg(long, value_name = "SHARE", default_value_t = ESTIMATED_WEIGHT as f32)]
    pub estimated_weight: f32,
    /// A setting of the model, as `[policy.NAME.model.settings]` has it; more than one may be given. A backtest sets it of
    /// each of its models, a search keeps to it and varies the others [default: the usual ones]
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
    settings: Vec<(String, Value)>,
    /// Longest time of one fit; the best until then is kept
    #[arg(long, value_name = "TIME")]
    time_limit: Option<Span>,
    /// Of everything random
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

impl OfflineArgs {
    /// The series of the files, a panel for each frequency.
    pub fn panels(&self) -> Result<Vec<Panel>, CommandError> {
        Ok(self.read()?.panels.into_iter().map(|found| found.panel).collect())
    }

    /// What the files hold.
    pub fn read(&self) -> Result<Offline, CommandError> {
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
        self.calendar()?;
        if file.zone.is_none() && (self.holidays.is_some() || !self.days_off.is_empty()) {
            eprintln!("days begin at midnight UTC: with --zone they do so where the series are, in summer too");
        }
        let options = OfflineOptions {
            file,
            frequency: self.frequency,
            zone,
            estimated_weight: self.estimated_weight,
            covariates: self.columns()?,
        };
        let labels = self.labels.as_deref().map(Labels::read).transpose()?;
        let mut found = read(&self.files.files, &options).map_err(|error| match error.is_usage() {
            true => CommandError::usage(error.to_string()),
            false => CommandError::from(error),
        })?;
        if found.skipped > 0 {
            eprintln!("{} rows or cells that cannot be read are left out", found.skipped);
        }
        if let [first, ..] = &found.without_readings[..] {
            let count = found.without_readings.len();
            eprintln!("covariates of {count} series without a reading are left out, such as of `{first}`");
        }
        found.left_out.iter().for_each(|error| eprintln!("left out: {error}"));
        if let Some(labels) = &labels {
            let given = found.panels.iter_mut().fold(0, |given, of| given + labels.give(&mut of.panel));
            if given == 0 {
                return Err(CommandError::usage(
                    "--labels: it names no series of the files: its `series_id` are those of the readings",
                ));
            }
        }
        Ok(found)
    }

    fn columns(&self) -> Result<Vec<Covariate>, CommandError> {
        let known = |known: Known| move |name: &String| Covariate { name: name.clone(), known };
        let ahead = self.covariates.iter().map(known(Known::Ahead));
        let columns: Vec<Covariate> = ahead.chain(self.past_covariates.iter().map(known(Known::Past))).collect();
        let mut names = BTreeSet::new();
        match columns.iter().find(|column| !names.insert(&column.name)) {
            Some(twice) => Err(CommandError::usage(format!(
                "covariate `{}` is named twice: once is enough, in --covariates or --past-covariates",
                twice.name
            ))),
            None => Ok(columns),
        }
    }

    /// Sees to it that what is known ahead is there in those intervals of each series that `within` says, and says what
    /// was taken in its place.
    pub fn complete(&self, panel: &mut Panel, within: impl Fn(&Series) -> Range<usize>) -> Result<(), CommandError> {
        for filled in complete(panel, self.covariate_fallback.unwrap_or_default(), within)? {
            eprintln!(
                "covariate `{}`: {} values over the horizon are missing and those of earlier days taken, the oldest of {}",
                filled.covariate,
                filled.values,
                format_micros(filled.oldest)
            );
        }
        Ok(())
    }

    /// The same in the intervals that are scored from an origin of the past. A gap before it is one for the models.
    pub fn complete_after(&self, panel: &mut Panel, origin: Micros, horizon: usize) -> Result<(), CommandError> {
        let (frequency, zone) = (panel.frequency, panel.zone.clone());
        self.complete(panel, |series| {
            match usize::try_from(frequency.steps_between(series.start, origin, &zone)).unwrap_or(0) {
                // It begins later, and has no forecast.
                0 => 0..0,
                known => known..series.values.len().min(known + horizon),
            }
        })
    }

    /// What models are fitted for.
    ///
    /// # Errors
    /// The horizon is longer than models forecast.
    pub fn task(&self, frequency: Frequency) -> Result<Task, CommandError> {
        let policy = resolve_policy(frequency, &Default::default());
        let horizon = self.horizon.map_or(policy.horizon, |horizon| steps(horizon, frequency));
        check_horizon("--horizon", horizon, frequency)?;
        let holidays = self.calendar()?;
        Ok(Task { holidays, location: self.location, ..Task::new(horizon, policy.context.max(horizon), self.seed) })
    }

    /// The same for origins that are so many intervals apart, or a horizon: at one time of day, or at as many as pipelines
    /// have.
    ///
    /// # Errors
    /// As [`OfflineArgs::task`].
    pub fn task_of_origins(&self, frequency: Frequency, apart: Option<usize>) -> Result<Task, CommandError> {
        let task = self.task(frequency)?;
        let apart = apart.unwrap_or(task.horizon);
        Ok(match apart.is_multiple_of(frequency.season().max(1)) {
            true => task,
            false => Task { origins_a_day: resolve_policy(frequency, &Default::default()).origins_a_day, ..task },
        })
    }

    fn calendar(&self) -> Result<Holidays, CommandError> {
        if let Some(day) = self.workdays.iter().find(|day| self.days_off.contains(day)) {
            let why = format!("--workdays: {day} is among --days-off, too: keep it in one of them");
            return Err(CommandError::usage(why));
        }
        days_off(self.holidays.as_deref(), &self.days_off, &self.workdays)
            .map_err(|error| CommandError::usage(format!("--holidays: {error}")))
    }

    /// The kind of model of this name.
    pub fn kind(&self, name: &str) -> Result<&'static Kind, CommandError> {
        registry::find(name).ok_or_else(|| CommandError::usage(no_such_kind(name)))
    }

    /// Refuses what none of these kinds makes use of, and says of which of them makes no use of what the others do: so
    /// models can be compared with and without it.
    pub fn check_inputs(&self, kinds: &[&Kind]) -> Result<(), CommandError> {
        for (option, input, is_given) in self.inputs() {
            let without: Vec<&Kind> =
                kinds.iter().copied().filter(|kind| is_given && !input.is_seen_by(kind)).collect();
            match without.first() {
                Some(first) if without.len() == kinds.len() => {
                    let why = format!("{option}: {}; {}", input.of_no_use(first), input.remedy());
                    return Err(CommandError::usage(why));
                }
                _ => without.iter().for_each(|kind| eprintln!("{option}: {}", input.of_no_use(kind))),
            }
        }
        Ok(())
    }

    /// The settings that are given.
    pub fn settings(&self) -> Result<Settings, CommandError> {
        let mut settings = Settings::new();
        for (name, value) in &self.settings {
            if settings.insert(name.clone(), value.clone()).is_some() {
                return Err(CommandError::usage(format!("--set names `{name}` twice: once is enough")));
            }
        }
        Ok(settings)
    }

    /// A model of a kind with the settings that are given.
    pub fn model(&self, kind: &Kind) -> Result<Box<dyn Model>, CommandError> {
        kind.with(&self.settings()?).map_err(|wrong| no_such_setting(&wrong))
    }

    // What models can be given, with its option, and whether it is.
    fn inputs(&self) -> [(&'static str, Input, bool); 7] {
        [
            ("--labels", Input::Labels, self.labels.is_some()),
            ("--covariates", Input::Covariates, !self.covariates.is_empty()),
            ("--past-covariates", Input::PastCovariates, !self.past_covariates.is_empty()),
            ("--holidays", Input::Holidays, self.holidays.is_some()),
            ("--days-off", Input::DaysOff, !self.days_off.is_empty()),
            ("--workdays", Input::Workdays, !self.workdays.is_empty()),
            ("--location", Input::Location, self.location.is_some()),
        ]
    }

    /// Says how far something is, and ends it once its time is over.
    pub fn shown(&self, what: String) -> Shown {
        Shown { what, limit: self.time_limit.map(Span::to_std), begun: Instant::now(), said: None }
    }
}

/// Why a setting is refused.
pub fn no_such_setting(wrong: &SettingsError) -> CommandError {
    CommandError::usage(format!("--set: {}", wrong_setting(wrong)))
}

/// What a file of labels says.
struct Labels {
    names: Vec<String>,
    labels: Vec<Label>,
    said: Vec<LabelChange>,
}

impl Labels {
    fn read(path: &Path) -> Result<Labels, CommandError> {
        let wrong = |error: LabelFileError| CommandError::usage(format!("--labels: {error}"));
        let (series, valid_from) = ("series_id".to_owned(), "valid_from".to_owned());
        let mut names = labels::columns(path).map_err(wrong)?;
        names.retain(|name| *name != series && *name != valid_from && !name.is_empty());
        let source = LabelsConfig {
            file: Some(path.display().to_string()),
            topic: None,
            series,
            valid_from,
            labels: names.iter().map(|name| (name.clone(), name.clone())).collect(),
            series_prefix: String::new(),
            zone: "UTC".into(),
        };
        let records = labels::read(path, &source).map_err(wrong)?;
        let refuse = |what: String| Err(CommandError::usage(format!("--labels: {} {what}", path.display())));
        if names.is_empty() {
            return refuse("has no column of labels beside `series_id`: add one, or leave it out".into());
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = names.iter().find(|name| !seen.insert(*name)) {
            return refuse(format!("has two columns `{twice}`: rename one"));
        }
        let config = Config { labels: [("file".to_owned(), source)].into(), ..Config::default() };
        let labels = names.iter().map(|name| Label::of(&config, name)).collect();
        Ok(Labels { names, labels, said: LabelChange::of_file(0, records, 0).collect() })
    }

    // How many labels the series of a panel get.
    fn give(&self, panel: &mut Panel) -> usize {
        let Some(origin) = panel.origin() else { return 0 };
        let mut given = 0;
        let values = at_instant(&self.labels, self.said.iter().cloned(), origin);
        for (name, found) in self.names.iter().zip(set(panel, &self.names, &values)) {
            let (all, frequency) = (panel.series.len(), panel.frequency);
            eprintln!(
                "label `{name}`: {} of {all} series of {frequency} have one of {} values",
                found.series, found.values
            );
            given += found.series;
        }
        given
    }
}

/// Does something with the series of each frequency, and says on standard error of which it cannot be done, and why.
///
/// # Errors
/// It can be done of none: the first of the errors. The others are said.
pub fn each<T>(
    panels: Vec<OfflinePanel>,
    mut what: impl FnMut(OfflinePanel) -> Result<T, CommandError>,
) -> Result<Vec<T>, CommandError> {
    let mut done = Vec::new();
    let mut failed = Vec::new();
    for found in panels {
        let of = format!("{} series of {}", found.panel.series.len(), found.panel.frequency);
        match what(found) {
            Ok(result) => done.push(result),
            Err(error) => failed.push((of, error)),
        }
    }
    let first = if done.is_empty() && !failed.is_empty() { Some(failed.remove(0).1) } else { None };
    failed.iter().for_each(|(of, error)| eprintln!("{of} left out: {}", error.message()));
    first.map_or(Ok(done), Err)
}

/// Refuses more intervals ahead than models forecast.
pub fn check_horizon(what: &str, horizon: usize, frequency: Frequency) -> Result<(), CommandError> {
    match horizon > HORIZON_MAX {
        true => Err(CommandError::usage(format!(
            "{what}: {horizon} intervals of {frequency} ahead are more than the {HORIZON_MAX} that models forecast: make \
             it shorter"
        ))),
        false => Ok(()),
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        offline: OfflineArgs,
    }

    fn parsed(arguments: &[&str]) -> Result<OfflineArgs, clap::Error> {
        let line = Line::try_parse_from(["meterline"].iter().chain(arguments));
        line.map(|line| line.offline)
    }

    #[test]
    fn what_no_model_makes_use_of_is_refused_as_in_a_configuration() {
        let check = |kinds: &[&str], given: &[&str]| {
            let offline = parsed(&[given, &["f.csv"]].concat()).unwrap();
            let kinds: Vec<&Kind> = kinds.iter().map(|kind| offline.kind(kind).unwrap()).collect();
            offline.check_inputs(&kinds).map_err(|error| (error.status(), error.message().to_owned()))
        };
        for (kind, given, words) in [
            (
                "quantile_mlp",
                ["--covariates", "t"],
                "--covariates: the model `quantile_mlp` makes no use of covariates;",
            ),
            ("prophet", ["--past-covariates", "v"], "no use of covariates that are known of the past alone; choose"),
            ("theta", ["--holidays", "Portugal"], "--holidays: the model `theta` makes no use of days off; choose"),
            ("mstl", ["--workdays", "2026-12-26"], "--workdays: the model `mstl` makes no use of days off; choose"),
            ("ets", ["--days-off", "2026-05-05"], "--days-off: the model `ets` makes no use of days off; choose"),
            ("linear_quantile", ["--labels", "l.csv"], "no use of labels; choose a kind that does (adjusted_mlp, "),
        ] {
            let (status, message) = check(&[kind], &given).unwrap_err();
            assert!(status == 2 && message.contains(words), "{message}");
            // One that does may be compared with one that does not.
            assert_eq!(check(&[kind, "auto"], &given), Ok(()), "{kind}");
        }
        assert_eq!(check(&["harmonic"], &["--covariates", "t"]), Ok(()));
        assert_eq!(check(&["ets"], &[]), Ok(()));
    }

    #[test]
    fn settings_are_those_of_a_configuration_and_checked_alike() {
        let model = |kind: &str, given: &[&str]| {
            let offline = parsed(&[given, &["f.csv"]].concat()).unwrap();
            let made = offline.model(offline.kind(kind).unwrap());
            made.map(|model| model.name().to_owned()).map_err(|error| (error.status(), error.message().to_owned()))
        };
        let given = ["--set", "leaves_max=31", "--set", "learning_rate = 0.02"];
        assert_eq!(model("boosted_trees", &given), Ok("boosted_trees".to_owned()));
        assert_eq!(model("ets", &[]), Ok("ets".to_owned()));
        for (kind, given, words) in [
            ("boosted_trees", &["--set", "leaves_maxx=31"][..], "--set: `boosted_trees` has no setting `leaves_maxx`"),
            ("boosted_trees", &["--set", "leaves_maxx=31"], "did you mean `leaves_max`?"),
            ("boosted_trees", &["--set", "leaves_max=many"], "leaves_max is \"many\"; it must be a whole number"),
            ("boosted_trees", &["--set", "leaves_max=31", "--set", "leaves_max=8"], "names `leaves_max` twice"),
            ("auto", &["--set", "leaves_max=31"], "--set: `auto` has no settings: leave them out"),
        ] {
            let (status, message) = model(kind, given).unwrap_err();
            assert!(status == 2 && message.contains(words), "{message}");
        }
    }

    #[test]
    fn days_off_are_those_of_a_policy() {
        let given = ["--holidays", "Netherlands", "--days-off", "2026-05-05,2026-05-15", "--workdays", "2026-12-26"];
        let days = parsed(&[&given[..], &["f.csv"]].concat()).unwrap().task(Frequency::HOUR).unwrap().holidays;
        for (day, is_off) in [("2026-05-05", true), ("2026-05-15", true), ("2026-12-25", true), ("2026-12-26", false)] {
            assert_eq!(days.contains(day.parse().unwrap()), is_off, "{day}");
        }
        let both = parsed(&["--days-off", "2026-05-05", "--workdays", "2026-05-05", "f.csv"]).unwrap();
        let refused = both.calendar().unwrap_err();
        assert!(refused.status() == 2 && refused.message().contains("2026-05-05 is among --days-off"), "{refused:?}");
        assert!(
            parsed(&["--days-off", "5.5.2026", "f.csv"]).unwrap_err().to_string().contains("write it like 2026-05-05")
        );
    }

    #[test]
    fn a_frequency_that_cannot_be_served_does_not_keep_the_others_from_it() {
        let panels = || {
            let panel = |frequency| OfflinePanel {
                panel: Panel::new(frequency, TimeZone::UTC, vec![Series::new("a", 0, vec![1.0])]),
                estimated: vec![Vec::new()],
            };
            [Frequency::QUARTER_HOUR, Frequency::HOUR].map(panel).into()
        };
        let refuse = |refused: &[Frequency]| {
            each(panels(), |found| match refused.contains(&found.panel.frequency) {
                true => Err(CommandError::usage(format!("nothing of {}", found.panel.frequency))),
                false => Ok(found.panel.frequency),
            })
        };
        assert_eq!(refuse(&[Frequency::QUARTER_HOUR]).unwrap(), [Frequency::HOUR]);
        let error = refuse(&[Frequency::QUARTER_HOUR, Frequency::HOUR]).unwrap_err();
        assert_eq!((error.status(), error.message()), (2, "nothing of PT15M"));
        assert!(each(Vec::new(), |_| Ok(())).unwrap().is_empty());
    }

    #[test]
    fn a_horizon_has_an_end() {
        let task = |horizon: &str| parsed(&["--horizon", horizon, "f.csv"]).unwrap().task(Frequency::HOUR);
        assert_eq!(task("100000h").unwrap().horizon, 100_000);
        let refused = task("100001h").unwrap_err();
        assert_eq!(refused.status(), 2);
        for words in ["--horizon", "100001 intervals of PT1H", "100000", "shorter"] {
            assert!(refused.message().contains(words), "{refused:?}");
        }
    }

    #[test]
    fn covariates_are_named_once_and_a_fallback_needs_them() {
        let named = parsed(&["--covariates", "temperature,tariff", "--past-covariates", "voltage", "f.csv"]).unwrap();
        let columns = named.columns().unwrap();
        let found: Vec<(&str, Known)> = columns.iter().map(|column| (column.name.as_str(), column.known)).collect();
        assert_eq!(found, [("temperature", Known::Ahead), ("tariff", Known::Ahead), ("voltage", Known::Past)]);
        assert_eq!(named.covariate_fallback, None);
        let policy = resolve_policy(Frequency::HOUR, &Default::default());
        assert_eq!(f64::from(named.estimated_weight), policy.estimated_weight, "as in a policy");
        let twice = parsed(&["--covariates", "a,b", "--past-covariates", "b", "f.csv"]).unwrap().columns().unwrap_err();
        assert!(twice.status() == 2 && twice.message().contains("`b` is named twice"), "{}", twice.message());
        let week = parsed(&["--covariates", "a", "--covariate-fallback", "last_week", "f.csv"]).unwrap();
        assert_eq!(week.covariate_fallback, Some(Fallback::LastWeek));
        assert!(parsed(&["--covariate-fallback", "last_day", "f.csv"]).is_err());
    }

    #[test]
    fn a_location_is_a_part_of_the_task_and_may_be_south_of_the_equator() {
        let named = parsed(&["--location", "-33.9,18.4", "f.csv"]).unwrap();
        assert_eq!(named.task(Frequency::HOUR).unwrap().location, Location::new(-33.9, 18.4).ok());
        assert_eq!(parsed(&["f.csv"]).unwrap().task(Frequency::HOUR).unwrap().location, None);
        let error = parsed(&["--location", "95,5", "f.csv"]).unwrap_err().to_string();
        assert!(error.contains("--location") && error.contains("the latitude 95 is not between"), "{error}");
    }
}
