//! The database itself: opening, migrating, waiting for other processes.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};

/// How long a statement waits for other processes before it is tried again.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a locked database is waited for in all.
const LOCKED_MAX: Duration = Duration::from_secs(60);

/// Statements that bring a database from version i to i + 1.
const MIGRATIONS: &[&[&str]] = &[TABLES, MAINTENANCE, EXPLANATIONS, STANDINGS, CHAMPIONS];

// All that the question for the champions of all groups looks at: it is asked with each evaluation.
const CHAMPIONS: &[&str] = &["CREATE INDEX models_by_approval ON models (approval, group_id, version)"];

const STANDINGS: &[&str] = &[
    "CREATE TABLE standings (group_id TEXT NOT NULL, pipeline TEXT NOT NULL, doc TEXT NOT NULL, \
     PRIMARY KEY (group_id, pipeline))",
    "CREATE INDEX runs_by_time ON runs (created_at)",
];

const EXPLANATIONS: &[&str] = &["CREATE TABLE explanations (version TEXT PRIMARY KEY, doc TEXT NOT NULL)"];

const MAINTENANCE: &[&str] =
    &["CREATE TABLE maintenance (request_id TEXT PRIMARY KEY, status TEXT NOT NULL, doc TEXT NOT NULL)"];

const TABLES: &[&str] = &[
    "CREATE TABLE runs (run_id TEXT PRIMARY KEY, group_id TEXT NOT NULL, pipeline TEXT NOT NULL, status TEXT NOT NULL, \
     created_at INTEGER NOT NULL, doc TEXT NOT NULL)",
    "CREATE INDEX runs_by_group ON runs (group_id, pipeline, run_id)",
    "CREATE INDEX runs_by_status ON runs (status)",
    "CREATE TABLE steps (run_id TEXT NOT NULL, step TEXT NOT NULL, ordinal INTEGER NOT NULL, doc TEXT NOT NULL, \
     PRIMARY KEY (run_id, step))",
    "CREATE TABLE logs (id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL, doc TEXT NOT NULL)",
    "CREATE INDEX logs_by_run ON logs (run_id, id)",
    "CREATE TABLE metrics (id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL, doc TEXT NOT NULL)",
    "CREATE INDEX metrics_by_run ON metrics (run_id, id)",
    "CREATE TABLE models (version TEXT PRIMARY KEY, group_id TEXT NOT NULL, run_id TEXT NOT NULL UNIQUE, \
     approval TEXT NOT NULL, created_at INTEGER NOT NULL, doc TEXT NOT NULL)",
    "CREATE INDEX models_by_group ON models (group_id, version)",
    "CREATE TABLE model_numbers (group_id TEXT PRIMARY KEY, last INTEGER NOT NULL)",
    "CREATE TABLE decisions (decision_id TEXT PRIMARY KEY, group_id TEXT NOT NULL, pipeline TEXT NOT NULL, \
     commit_seq INTEGER NOT NULL, at INTEGER NOT NULL, fired INTEGER NOT NULL, doc TEXT NOT NULL)",
    "CREATE INDEX decisions_by_group ON decisions (group_id, pipeline, at)",
];

/// Why the metadata database did not answer.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// The URL is none that we can use.
    #[error("metadata.url `{url}` cannot be used: {reason}; use sqlite:PATH, or leave it out")]
    Url {
        /// As configured.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// Another process held it for too long.
    #[error(
        "metadata database `{path}` stayed locked by another process for {waited_s} s while {doing}; end that process and try again"
    )]
    Locked {
        /// The database.
        path: String,
        /// What was being done.
        doing: &'static str,
        /// Seconds waited.
        waited_s: u64,
    },
    /// It was written by a newer release.
    #[error(
        "metadata database `{path}` has schema version {found}, newer than this release's {known}; use the newer release"
    )]
    Newer {
        /// The database.
        path: String,
        /// Its version.
        found: usize,
        /// Ours.
        known: usize,
    },
    /// A row is not what this release writes.
    #[error("metadata database `{path}` has a row that cannot be read while {doing}: {reason}")]
    Row {
        /// The database.
        path: String,
        /// What was being done.
        doing: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A row that must be there is not.
    #[error("metadata database `{path}` lacks a row while {doing}: {what}; was it replaced by another database?")]
    Missing {
        /// The database.
        path: String,
        /// What was being done.
        doing: &'static str,
        /// What is missing.
        what: String,
    },
    /// The database failed.
    #[error(
        "metadata database `{path}` failed while {doing}: {source}; check the path, its permissions and free space"
    )]
    Database {
        /// The database.
        path: String,
        /// What was being done.
        doing: &'static str,
        /// Its answer.
        source: sqlx::Error,
    },
}

/// The metadata database; cheap to clone.
#[derive(Debug, Clone)]
pub struct MetadataStore {
    pub(super) pool: SqlitePool,
    path: std::sync::Arc<str>,
}

impl MetadataStore {
    /// Opens `sqlite:PATH`, creating and migrating it.
    ///
    /// # Errors
    ///
    /// [`MetadataError`] with the path and the remedy.
    pub async fn open(url: &str) -> Result<MetadataStore, MetadataError> {
        let path = MetadataStore::file_of(url)?;
        let store = MetadataStore { pool: pool(&path), path: path.display().to_string().into() };
        if let Some(directory) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
            std::fs::create_dir_all(directory).map_err(|e| MetadataError::Database {
                path: store.path.to_string(),
                doing: "creating its directory",
                source: sqlx::Error::Io(e),
            })?;
        }
        store.migrate().await?;
        Ok(store)
    }

    /// The file that `sqlite:PATH` names, whether it is there or not.
    ///
    /// # Errors
    ///
    /// [`MetadataError::Url`].
    pub fn file_of(url: &str) -> Result<PathBuf, MetadataError> {
        let refuse = |reason: &str| MetadataError::Url { url: url.to_owned(), reason: reason.to_owned() };
        let Some(path) = url.strip_prefix("sqlite:") else { return Err(refuse("only sqlite: is supported")) };
        let path = PathBuf::from(path.strip_prefix("//").unwrap_or(path));
        if path.as_os_str().is_empty() {
            return Err(refuse("it names no file"));
        }
        Ok(path)
    }

    async fn migrate(&self) -> Result<(), MetadataError> {
        // Mostly there is nothing to do, and then nobody is waited for: an engine that takes over from one that stands
        // still must not need the lock with which that may have been stopped.
        let version = || async { sqlx::query_scalar("PRAGMA user_version").fetch_one(&self.pool).await };
        let mut found = number(self.retry("reading its version", version).await?);
        if found < MIGRATIONS.len() {
            found = self.retry("migrating", || self.migrate_once()).await?;
        }
        if found > MIGRATIONS.len() {
            return Err(MetadataError::Newer { path: self.path.to_string(), found, known: MIGRATIONS.len() });
        }
        Ok(())
    }

    // Returns the version that it had.
    async fn migrate_once(&self) -> Result<usize, sqlx::Error> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let found = number(sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *transaction).await?);
        for statements in MIGRATIONS.iter().skip(found) {
            for statement in *statements {
                sqlx::query(*statement).execute(&mut *transaction).await?;
            }
        }
        if found < MIGRATIONS.len() {
            // A pragma takes no parameters; the number is ours.
            let version = format!("PRAGMA user_version = {}", MIGRATIONS.len());
            sqlx::query(sqlx::AssertSqlSafe(version)).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(found)
    }

    /// Runs `operation`, waiting while another process holds the database.
    pub(super) async fn retry<T, F>(
        &self,
        doing: &'static str,
        mut operation: impl FnMut() -> F,
    ) -> Result<T, MetadataError>
    where
        F: Future<Output = Result<T, sqlx::Error>>,
    {
        let began = Instant::now();
        let mut pause = Duration::from_millis(50);
        loop {
            match operation().await {
                Ok(value) => return Ok(value),
                Err(error) if is_locked(&error) => {
                    let waited_s = began.elapsed().as_secs();
                    if began.elapsed() > LOCKED_MAX {
                        return Err(MetadataError::Locked { path: self.path.to_string(), doing, waited_s });
                    }
                    tracing::warn!(path = %self.path, doing, waited_s, "metadata database is locked by another process; waiting");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(2));
                }
                Err(source) => return Err(MetadataError::Database { path: self.path.to_string(), doing, source }),
            }
        }
    }

    pub(super) fn to_document<T: Serialize>(&self, doing: &'static str, record: &T) -> Result<String, MetadataError> {
        serde_json::to_string(record).map_err(|e| self.bad_row(doing, &e))
    }

    pub(super) fn parse<T: DeserializeOwned>(&self, doing: &'static str, text: &str) -> Result<T, MetadataError> {
        serde_json::from_str(text).map_err(|e| self.bad_row(doing, &e))
    }

    pub(super) fn parse_all<T: DeserializeOwned>(
        &self,
        doing: &'static str,
        texts: Vec<String>,
    ) -> Result<Vec<T>, MetadataError> {
        texts.iter().map(|text| self.parse(doing, text)).collect()
    }

    pub(super) fn missing(&self, doing: &'static str, what: String) -> MetadataError {
        MetadataError::Missing { path: self.path.to_string(), doing, what }
    }

    fn bad_row(&self, doing: &'static str, error: &serde_json::Error) -> MetadataError {
        MetadataError::Row { path: self.path.to_string(), doing, reason: error.to_string() }
    }
}

// A schema version as we count them; others never wrote a negative one.
fn number(version: i64) -> usize {
    usize::try_from(version).unwrap_or(0)
}

fn pool(path: &Path) -> SqlitePool {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT);
    SqlitePoolOptions::new().max_connections(4).acquire_timeout(LOCKED_MAX).connect_lazy_with(options)
}

/// SQLITE_BUSY and SQLITE_LOCKED, with their extended codes.
fn is_locked(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else { return false };
    error.code().and_then(|code| code.parse::<u32>().ok()).is_some_and(|code| matches!(code & 0xff, 5 | 6))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) async fn fresh() -> (tempfile::TempDir, MetadataStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = MetadataStore::open(&format!("sqlite:{}/metadata.db", dir.path().display())).await.unwrap();
        (dir, store)
    }

    #[tokio::test]
    async fn opening_again_finds_the_same_database_and_bad_urls_are_refused() {
        let (dir, _store) = fresh().await;
        let path = format!("sqlite:{}/metadata.db", dir.path().display());
        MetadataStore::open(&path).await.unwrap();
        for url in ["postgres://x", "sqlite:", "metadata.db"] {
            let error = MetadataStore::open(url).await.unwrap_err().to_string();
            assert!(error.contains("sqlite:PATH"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_database_of_a_newer_release_is_refused() {
        let (dir, store) = fresh().await;
        sqlx::query("PRAGMA user_version = 99").execute(&store.pool).await.unwrap();
        let path = format!("sqlite:{}/metadata.db", dir.path().display());
        assert!(matches!(MetadataStore::open(&path).await, Err(MetadataError::Newer { found: 99, .. })));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn two_processes_that_write_at_once_lose_nothing() {
        let (dir, one) = fresh().await;
        // Two pools share nothing but the file, as two processes do.
        let other = MetadataStore::open(&format!("sqlite:{}/metadata.db", dir.path().display())).await.unwrap();
        let writer = |store: MetadataStore| {
            tokio::spawn(async move {
                let mut versions = Vec::new();
                for _ in 0..20 {
                    versions.push(store.next_model_version("PT15M").await.unwrap());
                }
                versions
            })
        };
        let (a, b) = (writer(one), writer(other));
        let mut versions = a.await.unwrap();
        versions.extend(b.await.unwrap());
        versions.sort_unstable();
        let expected: Vec<String> = (1..=40).map(|n| format!("PT15M-{n:04}")).collect();
        assert_eq!(versions, expected);
    }

    #[tokio::test]
    async fn a_database_that_somebody_writes_to_is_opened_and_read_at_once() {
        let (dir, store) = fresh().await;
        let transaction = store.pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
        let url = format!("sqlite:{}/metadata.db", dir.path().display());
        let opened = tokio::time::timeout(BUSY_TIMEOUT / 2, MetadataStore::open(&url)).await;
        assert!(opened.expect("it waits").unwrap().active_runs().await.unwrap().is_empty());
        transaction.rollback().await.unwrap();
    }

    #[tokio::test]
    async fn a_locked_database_is_waited_for() {
        let (_dir, store) = fresh().await;
        let other = store.clone();
        let transaction = other.pool.begin_with("BEGIN EXCLUSIVE").await.unwrap();
        let waiting = tokio::spawn({
            let store = store.clone();
            async move { store.next_model_version("PT15M").await }
        });
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!waiting.is_finished());
        transaction.rollback().await.unwrap();
        assert_eq!(waiting.await.unwrap().unwrap(), "PT15M-0001");
    }
}
