//! Programs that are measured beside ours, each run a process of its own.
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

/// Runs a program in `folder`, and returns what it answers.
///
/// # Errors
/// It fails: its standard error says why.
pub fn ask(mut program: Command, folder: &Path, job: &Value) -> Result<Value, Failure> {
    fs::write(folder.join("job"), job.to_string())?;
    program.current_dir(folder).stdin(File::open(folder.join("job"))?).stderr(Stdio::inherit());
    let done = program.output().map_err(|error| format!("cannot run {program:?}: {error}"))?;
    if !done.status.success() {
        return Err(format!("{program:?} failed: {}", done.status).into());
    }
    Ok(serde_json::from_slice(&done.stdout)?)
}

/// What a run found; `None`, and a line that says why, where it failed.
pub fn or_without<T>(what: &str, found: Result<T, Failure>) -> Option<T> {
    found.map_err(|error| eprintln!("SKIPPED {what}, ours is measured alone: {error}")).ok()
}

/// A file of the folder `bench` of the checkout.
pub fn file_at(name: &str) -> PathBuf {
    checkout::root().join("bench").join(name)
}

/// The path that a script of `bench` prints once it has made what lies there.
///
/// # Errors
/// It made nothing: its standard error says why.
pub fn made_by(script: &str) -> Result<PathBuf, String> {
    let done = Command::new(file_at(script)).stderr(Stdio::inherit()).output();
    let done = done.map_err(|error| format!("bench/{script}: {error}"))?;
    if !done.status.success() {
        return Err(format!("bench/{script} made nothing, see above"));
    }
    Ok(String::from_utf8_lossy(&done.stdout).trim().into())
}

/// Writes numbers as programs read them: 32 bits each, little-endian.
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

/// Reads numbers as programs write them: 64 bits each, little-endian.
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
    use serde_json::json;

    use super::*;

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

    #[test]
    fn a_program_is_given_the_job_and_one_that_fails_or_is_missing_is_left_out() {
        let place = Sandbox::new();
        let job = json!({"rows": 3});
        assert_eq!(ask(Command::new("cat"), place.path(), &job).unwrap(), job);
        for program in ["false", "/nowhere/program"] {
            assert!(or_without(program, ask(Command::new(program), place.path(), &job)).is_none());
        }
        assert!(made_by("no-such-script").is_err());
    }
}
