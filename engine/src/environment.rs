//! What every command with a configuration works on: the configuration itself, the lake and the metadata database.

use std::path::{Path, PathBuf};

use meterline_schemas::config::{self, Config, ConfigError};

/// Why the environment of a command could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    /// The configuration file cannot be read.
    #[error("cannot read the configuration {}: {source}; name the file with -c FILE", path.display())]
    ReadConfig {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The configuration is wrong: key, line and remedy are in the source.
    #[error("{}: {source}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong, where, and the remedy.
        source: ConfigError,
    },
}

impl EnvironmentError {
    /// Whether the configuration is at fault, rather than what it points at.
    pub const fn is_configuration(&self) -> bool {
        matches!(self, EnvironmentError::ReadConfig { .. } | EnvironmentError::Config { .. })
    }
}

/// Reads and checks a configuration file.
///
/// # Errors
/// [`EnvironmentError::ReadConfig`] and [`EnvironmentError::Config`].
pub fn read_config(path: &Path) -> Result<Config, EnvironmentError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| EnvironmentError::ReadConfig { path: path.to_owned(), source })?;
    config::parse(&text).map_err(|source| EnvironmentError::Config { path: path.to_owned(), source })
}
