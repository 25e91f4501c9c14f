//! A test that cannot run here says so, and why; where skipping is forbidden it fails.

use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use crate::checkout;

/// Why a test cannot run on this machine.
#[derive(Debug, Clone)]
pub struct Skip(pub String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The folder or file that a script fetches or makes, once, and names on its standard output.
///
/// # Errors
/// [`Skip`] with what it said.
pub fn prepared(script: &str) -> Result<PathBuf, Skip> {
    let script = checkout::root().join("tests").join(script);
    let done = Command::new(&script).output().map_err(|e| Skip(format!("cannot run {}: {e}", script.display())))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if done.status.success() { Ok(text(&done.stdout).into()) } else { Err(Skip(text(&done.stderr))) }
}

/// What `found` holds, or `None` with a visible line that names the test. Panics instead where
/// `METERLINE_FORBID_SKIPS=1`, as in CI.
pub fn or_skip<T>(test: &str, found: Result<T, Skip>) -> Option<T> {
    match found {
        Ok(found) => Some(found),
        Err(skip) if std::env::var_os("METERLINE_FORBID_SKIPS").is_some_and(|v| v == "1") => {
            panic!("{test} cannot run, and METERLINE_FORBID_SKIPS forbids to skip it: {skip}")
        }
        Err(skip) => {
            note(&format!("SKIPPED {test}: {skip}"));
            None
        }
    }
}

/// Writes a line that the test runner does not capture.
pub fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
