//! The record of a search: a file with a line that says what is searched, and one for each trial. A search that finds its
//! own record goes on from there.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use meterline_models::data::Covariate;
use meterline_models::forecaster::Task;
use meterline_models::search::{Configuration, Pruning, Space, Trial};
use serde::{Deserialize, Serialize};

use super::CommandError;

/// What is searched: only trials of the same can be gone on from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Kind of model.
    pub model: String,
    /// Frequency of the series.
    pub frequency: String,
    /// What models are fitted for.
    pub task: Task,
    /// What they see beside the series.
    pub covariates: Vec<Covariate>,
    /// Labels that they are told.
    #[serde(default)]
    pub labels: Vec<String>,
    /// How much values count that were estimated or substituted.
    pub estimated_weight: f32,
    /// How many series there are.
    pub series: usize,
    /// Values that they have together.
    pub values: usize,
    /// End of what is known to the search.
    pub until: String,
    /// When trials end early.
    pub pruning: Pruning,
    /// Settings that all trials have.
    #[serde(default)]
    pub fixed: Configuration,
    /// What can be chosen.
    pub space: Space,
}

/// An open record.
pub struct Record {
    path: PathBuf,
    file: File,
}

impl Record {
    /// Opens the record of a search, with the trials that it has; begins one where there is none.
    ///
    /// # Errors
    /// The file cannot be read or written, is of another search, or no record.
    pub fn open(path: &Path, header: &Header) -> Result<(Record, Vec<Trial>), CommandError> {
        let failed = |error: std::io::Error| CommandError::failed(format!("cannot use {}: {error}", path.display()));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
        let mut record = Record { path: path.to_owned(), file };
        let mut text = String::new();
        record.file.read_to_string(&mut text).map_err(failed)?;
        // What the end of an earlier search cut off is tried again.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        record.file.set_len(whole as u64).map_err(failed)?;
        record.file.seek(SeekFrom::End(0)).map_err(failed)?;
        let mut lines = text[..whole].lines();
        let Some(first) = lines.next() else {
            record.write(header)?;
            return Ok((record, Vec::new()));
        };
        let refuse = |what: &str| {
            let path = path.display();
            CommandError::usage(format!("{path} {what}: name another file to begin a new search"))
        };
        let found: Header = serde_json::from_str(first).map_err(|_| refuse("is no record of a search"))?;
        if found != *header {
            let ours = format!(
                "is the record of another search (of {} for {} steps of {}, of {} series with {} covariates until {}, with \
                 the seed {})",
                found.model,
                found.task.horizon,
                found.frequency,
                found.series,
                found.covariates.len(),
                found.until,
                found.task.seed
            );
            return Err(refuse(&ours));
        }
        let mut trials: Vec<Trial> = Vec::new();
        for (number, line) in (2..).zip(lines) {
            let trial: Trial = serde_json::from_str(line)
                .map_err(|error| refuse(&format!("has a line {number} that is no trial ({error})")))?;
            // One that was interrupted was run again.
            trials.truncate(trial.number);
            trials.push(trial);
        }
        Ok((record, trials))
    }

    /// Adds a trial.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add(&mut self, trial: &Trial) -> Result<(), CommandError> {
        self.write(trial)
    }

    fn write(&mut self, line: &impl Serialize) -> Result<(), CommandError> {
        let mut line = serde_json::to_string(line)?;
        line.push('\n');
        self.file
            .write_all(line.as_bytes())
            .map_err(|error| CommandError::failed(format!("cannot write {}: {error}", self.path.display())))
    }
}

#[cfg(test)]
mod tests {
    use meterline_models::search::{Outcome, Parameter, Value};

    use super::*;

    fn header(horizon: usize) -> Header {
        let parameter = Parameter::new("x", meterline_models::search::Domain::float(0.0, 1.0));
        Header {
            model: "m".into(),
            frequency: "PT1H".into(),
            task: Task::new(horizon, 24, 1),
            covariates: Vec::new(),
            labels: Vec::new(),
            estimated_weight: 1.0,
            series: 1,
            values: 10,
            until: "2024".into(),
            pruning: Pruning::Never,
            fixed: Configuration::default(),
            space: Space::new(vec![parameter]).unwrap(),
        }
    }

    fn trial(number: usize, outcome: Outcome) -> Trial {
        Trial { number, configuration: Configuration::default(), intermediate: vec![(1, 0.5)], outcome }
    }

    #[test]
    fn a_search_goes_on_from_its_own_record_and_from_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trials.jsonl");
        let (mut record, none) = Record::open(&path, &header(24)).unwrap();
        assert!(none.is_empty());
        record.add(&trial(0, Outcome::Complete(0.25))).unwrap();
        record.add(&trial(1, Outcome::Interrupted)).unwrap();
        record.add(&trial(1, Outcome::Pruned)).unwrap();
        // A process that ended in the middle of a line.
        record.file.write_all(b"{\"number\":2,").unwrap();
        let (mut record, found) = Record::open(&path, &header(24)).unwrap();
        assert_eq!(found, [trial(0, Outcome::Complete(0.25)), trial(1, Outcome::Pruned)]);
        record.add(&trial(2, Outcome::Pruned)).unwrap();
        assert_eq!(Record::open(&path, &header(24)).unwrap().1.len(), 3);
        let error = Record::open(&path, &header(48)).err().unwrap().message().to_owned();
        assert!(error.contains("another search (of m for 24 steps"), "{error}");
        // Losses with and without a covariate are no losses of one search.
        let temperature = Covariate { name: "temperature".into(), known: meterline_models::data::Known::Ahead };
        let other = Header { covariates: vec![temperature], ..header(24) };
        assert!(Record::open(&path, &other).err().unwrap().message().contains("with 0 covariates"));
        let fixed = Configuration([("y".to_owned(), Value::Integer(1))].into());
        assert!(Record::open(&path, &Header { fixed, ..header(24) }).is_err(), "other settings that all trials have");
        std::fs::write(&path, "time,value\n").unwrap();
        let error = Record::open(&path, &header(24)).err().unwrap().message().to_owned();
        assert!(error.contains("no record of a search"), "{error}");
    }
}
