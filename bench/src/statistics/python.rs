//! Python with the packages that are measured beside ours.

use std::path::PathBuf;
use std::process::Command;

use super::handover::{file_at, made_by};

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
            None => made_by("python/setup"),
        };
        match found.and_then(has_packages) {
            Ok(interpreter) => Some(Python { interpreter }),
            Err(reason) => {
                eprintln!("SKIPPED statsforecast and LightGBM, ours are measured without them: {reason}");
                None
            }
        }
    }

    /// The interpreter for a script of `bench/python`.
    pub fn command(&self, script: &str) -> Command {
        let mut python = Command::new(&self.interpreter);
        // Nothing is written beside the scripts.
        python.arg(file_at("python").join(script)).env("PYTHONDONTWRITEBYTECODE", "1");
        python
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_interpreter_is_no_failure() {
        assert!(Python::find(Some("/nowhere/python".into())).is_none());
    }
}
