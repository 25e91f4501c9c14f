//! The independent reader: the Python package `deltalake`, with DuckDB over it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;

use crate::checkout;
use crate::skip::{Skip, prepared};
use crate::wait;

/// Reads a lake by `python/read_lake.py`.
#[derive(Debug, Clone)]
pub struct Reader {
    python: PathBuf,
}

impl Reader {
    /// Prepares the reader's Python environment if this is the first time; [`Skip`] says what the machine lacks.
    pub fn prepare() -> Result<Reader, Skip> {
        static PYTHON: OnceLock<Result<PathBuf, Skip>> = OnceLock::new();
        let python = PYTHON.get_or_init(|| prepared("python/prepare")).clone()?;
        Ok(Reader { python })
    }

    /// The interpreter.
    pub fn python(&self) -> &Path {
        &self.python
    }

    /// What it reads from `lake`: see `python/read_lake.py`.
    pub fn read(&self, lake: &Path) -> Value {
        let mut command = Command::new(&self.python);
        command.arg(here().join("read_lake.py")).arg(lake);
        let finished = wait::run(&mut command, Duration::from_secs(120)).succeeded();
        serde_json::from_str(&finished.stdout).expect("the reader prints one JSON document")
    }
}

fn here() -> PathBuf {
    checkout::root().join("tests/python")
}
