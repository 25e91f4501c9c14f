//! What every command with a configuration works on: the configuration itself, the lake and the metadata database.

use std::path::{Path, PathBuf};

use meterline_connectors::lake::{Lake, LakeError};
use meterline_schemas::config::{self, Config, ConfigError};

use crate::metadata::{MetadataError, MetadataStore};
use crate::triggers;

/// File name of the metadata database in the lake's directory.
const METADATA_FILE: &str = "metadata.db";

/// The opened parts that commands share.
#[derive(Debug, Clone)]
pub struct Environment {
    /// The configuration, checked.
    pub config: Config,
    /// The file that it came from.
    pub config_path: PathBuf,
    /// Tables and models.
    pub lake: Lake,
    /// Runs, registry and decisions.
    pub metadata: MetadataStore,
}

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
    /// The lake cannot be opened.
    #[error(transparent)]
    Lake(#[from] LakeError),
    /// The metadata database cannot be opened.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

impl EnvironmentError {
    /// Whether the configuration is at fault, rather than what it points at.
    pub const fn is_configuration(&self) -> bool {
        matches!(
            self,
            EnvironmentError::ReadConfig { .. }
                | EnvironmentError::Config { .. }
                | EnvironmentError::Lake(LakeError::Url { .. })
                | EnvironmentError::Metadata(MetadataError::Url { .. })
        )
    }
}

impl Environment {
    /// Where relative paths of the configuration begin: its own directory.
    pub fn directory(&self) -> &Path {
        directory_of(&self.config_path)
    }

    /// Reads the configuration and opens what it points at.
    ///
    /// # Errors
    /// See [`EnvironmentError`].
    pub async fn open(config_path: &Path) -> Result<Environment, EnvironmentError> {
        Environment::with_config(read_config(config_path)?, config_path).await
    }

    /// Opens what a checked configuration points at, which came from the file `config_path`.
    ///
    /// # Errors
    /// See [`EnvironmentError`].
    pub async fn with_config(config: Config, config_path: &Path) -> Result<Environment, EnvironmentError> {
        let lake = lake_of(&config).await?;
        let metadata = MetadataStore::open(&metadata_url(&config, &lake)).await?;
        Ok(Environment { config, config_path: config_path.to_owned(), lake, metadata })
    }
}

/// Where relative paths of a configuration begin: the directory of its file.
pub fn directory_of(config_path: &Path) -> &Path {
    config_path.parent().unwrap_or(Path::new(""))
}

/// Reads the configuration and opens the lake alone, for a process that needs no metadata database, which may be on
/// another machine. Its locks are where those of processes with the database are.
///
/// # Errors
/// See [`EnvironmentError`].
pub async fn open_lake(config_path: &Path) -> Result<(Config, Lake), EnvironmentError> {
    let config = read_config(config_path)?;
    let lake = lake_of(&config).await?;
    Ok((config, lake))
}

async fn lake_of(config: &Config) -> Result<Lake, EnvironmentError> {
    let mut lake = Lake::configured(&config.lake).await?;
    let database = MetadataStore::file_of(&metadata_url(config, &lake))?;
    lake.keep_locks_in(database.with_extension("locks"));
    Ok(lake)
}

/// Reads and checks a configuration file.
///
/// # Errors
/// [`EnvironmentError::ReadConfig`] and [`EnvironmentError::Config`].
pub fn read_config(path: &Path) -> Result<Config, EnvironmentError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| EnvironmentError::ReadConfig { path: path.to_owned(), source })?;
    let wrong = |source| EnvironmentError::Config { path: path.to_owned(), source };
    let config = config::parse(&text).map_err(wrong)?;
    triggers::check_policies(&text, &config).map_err(wrong)?;
    Ok(config)
}

/// URL of the metadata database: as configured, else a file in the lake's directory. (A configuration whose lake is on
/// S3 has one.)
pub fn metadata_url(config: &Config, lake: &Lake) -> String {
    match &config.metadata.url {
        Some(url) => url.clone(),
        None => format!("sqlite:{}", lake.lock_dir().join(METADATA_FILE).display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_lake_alone_is_opened_without_the_metadata_database() {
        let dir = tempfile::tempdir().unwrap();
        let (file, database) = (dir.path().join("meterline.toml"), dir.path().join("elsewhere/metadata.db"));
        let text = format!(
            "[lake]\nurl = \"{}\"\n[metadata]\nurl = \"sqlite:{}\"\n",
            dir.path().join("lake").display(),
            database.display()
        );
        std::fs::write(&file, text).unwrap();
        let (config, lake) = open_lake(&file).await.unwrap();
        assert!(lake.lock_dir().ends_with("lake") && !dir.path().join("elsewhere").exists());
        assert_eq!(directory_of(&file), dir.path());
        let opened = Environment::open(&file).await.unwrap();
        assert!(database.exists());
        assert_eq!((opened.config, opened.lake.lock_dir()), (config, lake.lock_dir()));
        // What cannot be a database is a wrong configuration for both.
        let text = std::fs::read_to_string(&file).unwrap().replace("sqlite:", "postgres:");
        std::fs::write(&file, text).unwrap();
        assert!(open_lake(&file).await.unwrap_err().is_configuration());
    }
}
