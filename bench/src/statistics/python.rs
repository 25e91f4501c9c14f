//! Python with the packages that are measured beside ours, each run a process of its own.
//!
//! A job is a document on its standard input and arrays of numbers as files in a folder; it answers with a document on
//! its standard output and more such files. So numbers cross as they are, and nothing of that is measured.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use meterline_tests::checkout;
use serde_json::Value;

use super::Failure;

/// An interpreter that has the packages.
#[derive(Debug)]
pub struct Python {
    interpreter: PathBuf,
}

impl Python {
    /// That at `given`, or of an environment that `bench/python/setup` makes once. `None`, and a line that says why,
    /// where that cannot be.
    pub fn find(given: Option<PathBuf>) -> Option<Python> {
        let found = match given {
            Some(interpreter) => Ok(interpreter),
            None => set_up(),
        };
        match found.and_then(has_packages) {
            Ok(interpreter) => Some(Python { interpreter }),
            Err(reason) => {
                eprintln!("SKIPPED statsforecast and LightGBM, ours are measured alone: {reason}");
                None
            }
        }
    }

    /// Runs a script of `bench/python` in `folder`, and returns what it answers.
    ///
    /// # Errors
    /// It fails: its standard error says why.
    pub fn run(&self, script: &str, folder: &Path, job: &Value) -> Result<Value, Failure> {
        fs::write(folder.join("job"), job.to_string())?;
        let mut python = Command::new(&self.interpreter);
        python.arg(script_at(script)).current_dir(folder).stdin(File::open(folder.join("job"))?);
        // Nothing is written beside the scripts.
        python.env("PYTHONDONTWRITEBYTECODE", "1").stderr(Stdio::inherit());
        let done = python.output()?;
        if !done.status.success() {
            return Err(format!("{script} failed: {}", done.status).into());
        }
        Ok(serde_json::from_slice(&done.stdout)?)
    }

    /// What a run found; `None`, and a line that says why, where it failed.
    pub fn or_without<T>(&self, what: &str, found: Result<T, Failure>) -> Option<T> {
        found.map_err(|error| eprintln!("SKIPPED {what}, ours is measured alone: {error}")).ok()
    }
}

fn script_at(name: &str) -> PathBuf {
    checkout::root().join("bench/python").join(name)
}

fn set_up() -> Result<PathBuf, String> {
    let mut script = Command::new(script_at("setup"));
    let done = script.stderr(Stdio::inherit()).output().map_err(|error| format!("bench/python/setup: {error}"))?;
    if !done.status.success() {
        return Err("bench/python/setup made no environment, see above".into());
    }
    Ok(String::from_utf8_lossy(&done.stdout).trim().into())
}

fn has_packages(interpreter: PathBuf) -> Result<PathBuf, String> {
    let done = Command::new(&interpreter).args(["-c", "import statsforecast, lightgbm"]).output();
    let done = done.map_err(|error| format!("cannot run {}: {error}", interpreter.display()))?;
    if done.status.success() {
        return Ok(interpreter);
    }
    let said = String::from_utf8_lossy(&done.stderr);
    let last = said.trim().lines().last().unwrap_or_default();
    Err(format!("{}: {last}; its packages are those of bench/python/requirements.txt", interpreter.display()))
}

/// Writes numbers as a script reads them: 32 bits each, little-endian.
///
/// # Errors
/// The file cannot be written.
pub fn write<'a>(path: &Path, values: impl IntoIterator<Item = &'a f32>) -> Result<(), Failure> {
    let mut file = BufWriter::new(File::create(path)?);
    for value in values {
        file.write_all(&value.to_le_bytes())?;
    }
    Ok(file.flush()?)
}

/// Reads numbers as a script writes them: 64 bits each, little-endian.
///
/// # Errors
/// The file cannot be read.
pub fn floats(path: &Path) -> Result<Vec<f64>, Failure> {
    let bytes = fs::read(path)?;
    let (numbers, rest) = bytes.as_chunks::<8>();
    match rest {
        [] => Ok(numbers.iter().map(|number| f64::from_le_bytes(*number)).collect()),
        _ => Err(format!("{} has {} bytes, no whole number of values", path.display(), bytes.len()).into()),
    }
}

#[cfg(test)]
mod tests {
    use meterline_tests::sandbox::Sandbox;

    use super::*;

    #[test]
    fn no_interpreter_is_no_failure() {
        assert!(Python::find(Some("/nowhere/python".into())).is_none());
    }

    #[test]
    fn numbers_are_read_and_written_as_numpy_does() {
        let place = Sandbox::new();
        let path = place.path().join("numbers");
        write(&path, &[1.0, -0.5]).unwrap();
        assert_eq!(fs::read(&path).unwrap(), [0, 0, 128, 63, 0, 0, 0, 191]);
        fs::write(&path, 0.1_f64.to_le_bytes()).unwrap();
        assert_eq!(floats(&path).unwrap(), [0.1]);
        fs::write(&path, [0; 7]).unwrap();
        assert!(floats(&path).is_err());
    }
}
