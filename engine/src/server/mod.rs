//! What monitoring asks over HTTP: `/metrics`, `/healthz`, `/readyz`.
//!
//! * `/healthz`: 200 while the stream starts or runs; 503 once it has died, with the remedy: restart the process.
//! * `/readyz`: 200 while Kafka and the store answer; 503 with what is waited for, also by the start of the stream.
//! * `/metrics`: OpenMetrics text; see [`metrics`].
//!
//! They answer before the stream is restored: a start that waits for its store must not be silent. A process of a cluster
//! that has workers alone is ready once these run; of Kafka, the store and what was committed, process 0 tells.

mod auth;
mod connections;
pub mod metrics;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use meterline_schemas::config::{HTTP_DEFAULT, HttpConfig};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::auth::Password;
use self::connections::{Bounded, Limits, only_answer};
use crate::ingest::Committed;
use crate::ingest::brokers::Brokers;
use crate::ingest::dead_letters;
use crate::ingest::pulse::Pulse;
use crate::ingest::service::Shown;
use crate::maintenance::service::Summary;

/// Why the endpoints cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address is taken, or is none of this machine's.
    #[error("http.listen `{listen}` cannot be opened: {source}; choose another address, or \"off\"")]
    Listen {
        /// As configured.
        listen: String,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// The password cannot be read.
    #[error("http.password_file `{path}` cannot be used: {reason}")]
    Password {
        /// As configured.
        path: String,
        /// What is wrong.
        reason: String,
    },
}

/// What the endpoints speak of.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The newest commit, as it changes; `None` while the stream starts.
    pub committed: watch::Receiver<Option<Arc<Committed>>>,
    /// What the brokers last said.
    pub brokers: Brokers,
    /// What housekeeping did last.
    pub maintenance: watch::Receiver<Summary>,
    /// How the start and commits fare.
    pub pulse: Pulse,
    /// What could not be read or used.
    pub letters: dead_letters::Counted,
}

impl Subject {
    /// What is seen of a stream, with what housekeeping says.
    pub fn of(shown: &Shown, maintenance: watch::Receiver<Summary>) -> Subject {
        let (committed, brokers, pulse, letters) = (shown.committed(), shown.brokers(), shown.pulse(), shown.letters());
        Subject { committed, brokers, maintenance, pulse, letters }
    }
}

/// Open endpoints; dropping it closes them.
#[derive(Debug)]
pub struct Server {
    /// Where they are.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Opens the endpoints; `None` where they are switched off, or where nobody asked for them and the default address is
/// taken.
///
/// # Errors
/// [`ServerError`].
pub async fn start(config: &HttpConfig, subject: Subject) -> Result<Option<Server>, ServerError> {
    let router = Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(health))
        .route("/readyz", get(readiness))
        .with_state(subject);
    open(config, router, "metrics at /metrics, health at /healthz and /readyz").await
}

/// Opens those of a process that has workers alone.
///
/// # Errors
/// [`ServerError`].
pub async fn start_of_member(config: &HttpConfig, pulse: Pulse) -> Result<Option<Server>, ServerError> {
    let router = Router::new()
        .route("/metrics", get((StatusCode::NOT_FOUND, "metrics are at process 0 of the cluster\n")))
        .route("/healthz", get("the process runs\n"))
        .route("/readyz", get(readiness_of_member))
        .with_state(pulse);
    open(config, router, "health of this process at /healthz and /readyz").await
}

async fn open(config: &HttpConfig, mut router: Router, what: &str) -> Result<Option<Server>, ServerError> {
    if config.is_off() {
        return Ok(None);
    }
    let password = config.password_file.as_deref().map(Password::read).transpose()?;
    let listen = config.listen.as_deref().unwrap_or(HTTP_DEFAULT);
    let bound = async {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        Ok::<_, std::io::Error>((listener, address))
    };
    let (listener, address) = match bound.await {
        Ok(bound) => bound,
        Err(error) if config.listen.is_none() => {
            tracing::warn!(
                address = listen, %error,
                "no metrics and health endpoints: another program has the default address; set http.listen"
            );
            return Ok(None);
        }
        Err(source) => return Err(ServerError::Listen { listen: listen.to_owned(), source }),
    };
    if let Some(password) = password {
        router = router.layer(middleware::from_fn_with_state(Arc::new(password), auth::check));
    }
    router = router.layer(middleware::from_fn(only_answer));
    let listener = Bounded::new(listener, Limits::default());
    tracing::info!(%address, "{what}");
    let task = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the metrics and health endpoints closed; ingest goes on");
        }
    });
    Ok(Some(Server { address, task }))
}

async fn show_metrics(State(subject): State<Subject>) -> Response {
    let now = jiff::Timestamp::now().as_microsecond();
    match metrics::text(subject, now) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("metrics cannot be written: {error}")).into_response()
        }
    }
}

async fn health(State(subject): State<Subject>) -> (StatusCode, &'static str) {
    // The stream holds the other end as long as it lives.
    match subject.committed.has_changed() {
        Ok(_) if subject.pulse.starting(Instant::now()).is_some() => (StatusCode::OK, "the stream is being restored\n"),
        Ok(_) => (StatusCode::OK, "the stream runs\n"),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the stream has ended; its log says why; restart the process\n"),
    }
}

async fn readiness(State(subject): State<Subject>) -> (StatusCode, String) {
    let (health, said) = health(State(subject.clone())).await;
    if health != StatusCode::OK {
        return (health, said.to_owned());
    }
    let now = Instant::now();
    // Before it has begun nobody asks the brokers.
    let waiting = subject.pulse.starting(now).or_else(|| subject.brokers.waiting());
    match waiting.or_else(|| subject.pulse.waiting(now)) {
        None => (StatusCode::OK, "Kafka and the store answer\n".to_owned()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

async fn readiness_of_member(State(pulse): State<Pulse>) -> (StatusCode, String) {
    match pulse.waiting(Instant::now()) {
        None => (StatusCode::OK, "the workers run\n".to_owned()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use meterline_schemas::time::SECOND;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::ingest::state::{Counts, FeedState, IngestState, PartitionState};
    use crate::maintenance::report::{Kind, TableSize};
    use crate::maintenance::service::LastRound;

    async fn ask(address: SocketAddr, path: &str, headers: &str) -> (u16, String) {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    fn commit(now: i64) -> Arc<Committed> {
        let counts = Counts { records: 10, accepted: 7, corrected: 1, duplicate: 1, dead: 1, ..Counts::default() };
        let watermark = Some(now - 90 * SECOND);
        let read = PartitionState { next_offset: 10, end_offset: 12, watermark, counts, ..PartitionState::default() };
        let partition = PartitionState { newest: Some(now - 600 * SECOND), ..read };
        // What is no partition of the topic: a backfill.
        let filled = PartitionState { newest: Some(0), ..PartitionState::default() };
        let feed = FeedState {
            topic: "readings".into(),
            watermark,
            newest: watermark,
            partitions: BTreeMap::from([(0, partition), (-1, filled)]),
            ..FeedState::default()
        };
        let state = IngestState {
            seq: 3,
            committed_at: now - 5 * SECOND,
            feeds: BTreeMap::from([("meters".into(), feed)]),
            ..IngestState::default()
        };
        Arc::new(Committed { state: Arc::new(state), census: Default::default(), intervals_version: 4 })
    }

    fn swept(now: i64) -> watch::Receiver<Summary> {
        let tables = vec![TableSize { table: "intervals".into(), files: 4, bytes: 1000 }];
        let last = Some(LastRound { at: now - SECOND, seconds: 0.5 });
        watch::channel(Summary { tables, last, failures: BTreeMap::from([(Kind::Merge, 2)]) }).1
    }

    #[tokio::test]
    async fn figures_go_on_rising_when_the_stream_stands_still() {
        let now = jiff::Timestamp::now().as_microsecond();
        let (sender, committed) = watch::channel(Some(commit(now)));
        let (start_of_stream, pulse) = (Instant::now(), Pulse::default());
        let brokers = Brokers::new(start_of_stream);
        let http = HttpConfig { listen: Some("127.0.0.1:0".into()), password_file: None };
        let maintenance = swept(now);
        let letters = dead_letters::Counted::default();
        letters.add(dead_letters::Reasons::from([(("meters".into(), "too_many_series".into()), 5)]));
        let subject = Subject { committed, brokers: brokers.clone(), maintenance, pulse: pulse.clone(), letters };
        let server = start(&http, subject).await.unwrap().unwrap();
        let (status, reason) = ask(server.address, "/readyz", "").await;
        assert_eq!((status, reason.contains("Kafka")), (503, true), "{reason}");
        brokers.answered("meters", 0, 0, 42, Instant::now());
        // Of this one nothing was committed yet.
        brokers.answered("meters", 1, 5, 9, Instant::now());
        assert_eq!(ask(server.address, "/readyz", "").await.0, 200);
        let (status, text) = ask(server.address, "/metrics", "").await;
        assert_eq!(status, 200);
        for line in [
            "meterline_records_total{feed=\"meters\",partition=\"0\",outcome=\"accepted\"} 7",
            "meterline_records_total{feed=\"meters\",partition=\"0\",outcome=\"dead\"} 1",
            // The broker has more than the last commit knew.
            "meterline_lag_records{feed=\"meters\",partition=\"0\"} 32",
            "meterline_lag_records{feed=\"meters\",partition=\"1\"} 4",
            "meterline_partition_silence_seconds{feed=\"meters\",partition=\"0\"} 0.0",
            "meterline_commits_total 3",
            "meterline_dead_letters_total{feed=\"meters\",reason=\"too_many_series\"} 5",
            "meterline_table_files{table=\"intervals\"} 4",
            "meterline_table_size_bytes{table=\"intervals\"} 1000",
            "meterline_maintenance_duration_seconds 0.5",
            "meterline_maintenance_errors_total{job=\"fold\"} 0",
            "meterline_maintenance_errors_total{job=\"merge\"} 2",
            "meterline_commit_in_progress_seconds 0.0",
            "meterline_declined_lookups_total 0",
            "# EOF",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
        let age_of = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            line.rsplit(' ').next()?.parse::<f64>().ok()
        };
        let age = |text: &str| age_of(text, "meterline_freshness_seconds{feed=\"meters\"}").unwrap();
        let of_partition = |number: &str| {
            let name = format!("meterline_partition_freshness_seconds{{feed=\"meters\",partition=\"{number}\"}}");
            age_of(&text, &name)
        };
        // It stalls, which that of the feed does not say.
        assert!(of_partition("0").is_some_and(|age| (600.0..700.0).contains(&age)), "{text}");
        assert_eq!((of_partition("1"), of_partition("-1")), (None, None), "{text}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        let later = ask(server.address, "/metrics", "").await.1;
        assert!(age(&text) >= 90.0 && age(&later) > age(&text), "{} {}", age(&text), age(&later));
        assert_eq!(ask(server.address, "/healthz", "").await.0, 200);
        // A commit that is stuck, and a partition whose leader is away.
        let commit = pulse.begins(Instant::now());
        pulse.store_failed("writing intervals: no space".into());
        pulse.lookup_declined();
        let (status, reason) = ask(server.address, "/readyz", "").await;
        assert_eq!((status, reason.contains("no space")), (503, true), "{reason}");
        brokers.unanswered("meters", 1, "no leader".into(), Instant::now());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        let stuck = ask(server.address, "/metrics", "").await.1;
        for gone in ["commit_in_progress_seconds 0.0\n", "silence_seconds{feed=\"meters\",partition=\"1\"} 0.0\n"] {
            assert!(!stuck.contains(gone), "{stuck}");
        }
        for told in ["meterline_store_failures_total 1", "meterline_declined_lookups_total 1"] {
            assert!(stuck.contains(told), "{stuck}");
        }
        // And one that hangs: nobody says why.
        drop(commit);
        brokers.answered("meters", 1, 5, 9, Instant::now());
        assert_eq!(ask(server.address, "/readyz", "").await.0, 200);
        if let Some(began) = Instant::now().checked_sub(std::time::Duration::from_secs(75)) {
            let _commit = pulse.begins(began);
            let (status, reason) = ask(server.address, "/readyz", "").await;
            assert_eq!((status, reason.contains("in progress for 7")), (503, true), "{reason}");
        }
        drop(sender);
        let (status, reason) = ask(server.address, "/healthz", "").await;
        assert_eq!((status, reason.contains("restart")), (503, true));
    }

    #[tokio::test]
    async fn a_stream_that_is_not_restored_yet_says_what_its_start_waits_for() {
        let shown = Shown::default();
        let pulse = shown.pulse();
        let subject = Subject::of(&shown, watch::channel(Summary::default()).1);
        let http = HttpConfig { listen: Some("127.0.0.1:0".into()), password_file: None };
        let server = start(&http, subject).await.unwrap().unwrap();
        let (status, said) = ask(server.address, "/readyz", "").await;
        assert_eq!((status, said.contains("restoring") && said.contains("opening the tables")), (503, true), "{said}");
        pulse.does("loading the states of series");
        let (status, said) = ask(server.address, "/readyz", "").await;
        assert_eq!((status, said.contains("loading the states of series")), (503, true), "{said}");
        pulse.store_failed("no route to the store".into());
        let (status, said) = ask(server.address, "/readyz", "").await;
        assert_eq!((status, said.contains("restoring") && said.contains("no route")), (503, true), "{said}");
        let (status, said) = ask(server.address, "/healthz", "").await;
        assert_eq!((status, said.contains("being restored")), (200, true), "{said}");
        let (status, text) = ask(server.address, "/metrics", "").await;
        assert_eq!((status, text.contains("meterline_store_failures_total 1")), (200, true), "{text}");
        // It rises from the beginning of the start on; and what only a commit says is not said to be 0.
        assert!(!text.contains("meterline_commit_in_progress_seconds 0.0\n"), "{text}");
        for unknown in ["_freshness_seconds{", "commit_age_seconds", "commits_total", "records_total{"] {
            assert!(!text.contains(unknown), "{unknown} is not known:\n{text}");
        }
        // The start fails: its process will end.
        drop(shown);
        for path in ["/healthz", "/readyz"] {
            let (status, said) = ask(server.address, path, "").await;
            assert_eq!((status, said.contains("has ended")), (503, true), "{path}: {said}");
        }
    }

    #[tokio::test]
    async fn without_the_password_nothing_is_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "geheim\n").unwrap();
        let password_file = Some(file.path().to_str().unwrap().to_owned());
        let http = HttpConfig { listen: Some("127.0.0.1:0".into()), password_file };
        let (_sender, committed) = watch::channel(None);
        let (brokers, pulse) = (Brokers::new(Instant::now()), Pulse::default());
        let subject = Subject { committed, brokers, maintenance: swept(0), pulse, letters: Default::default() };
        let server = start(&http, subject).await.unwrap().unwrap();
        // Of anybody:geheim and anybody:falsch.
        for (headers, status) in [
            ("", 401),
            ("Authorization: Basic YW55Ym9keTpmYWxzY2g=\r\n", 401),
            ("Authorization: Bearer geheim\r\n", 401),
            ("Authorization: Basic YW55Ym9keTpnZWhlaW0=\r\n", 200),
        ] {
            assert_eq!(ask(server.address, "/metrics", headers).await.0, status, "{headers}");
        }
        std::fs::write(file.path(), "\n").unwrap();
        let Err(error) = Password::read(file.path().to_str().unwrap()) else { panic!("there is none in it") };
        assert!(error.to_string().contains("empty"), "{error}");
    }

    #[tokio::test]
    async fn a_taken_address_is_an_error_only_where_it_was_asked_for() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listen = Some(taken.local_addr().unwrap().to_string());
        let (_sender, committed) = watch::channel(None);
        let (brokers, pulse) = (Brokers::new(Instant::now()), Pulse::default());
        let subject = Subject { committed, brokers, maintenance: swept(0), pulse, letters: Default::default() };
        let error = start(&HttpConfig { listen, password_file: None }, subject.clone()).await.unwrap_err().to_string();
        assert!(error.contains("http.listen") && error.contains("off"), "{error}");
        let off = HttpConfig { listen: Some("off".into()), password_file: None };
        assert!(start(&off, subject).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_process_of_workers_says_how_it_fares() {
        let config = HttpConfig { listen: Some("127.0.0.1:0".into()), ..HttpConfig::default() };
        let pulse = Pulse::default();
        let server = start_of_member(&config, pulse.clone()).await.unwrap().unwrap();
        let starting = pulse.starts(Instant::now());
        pulse.does("waiting for the other processes");
        assert_eq!(ask(server.address, "/healthz", "").await.0, 200);
        let (status, said) = ask(server.address, "/readyz", "").await;
        assert_eq!((status, said.contains("waiting for the other processes")), (503, true), "{said}");
        drop(starting);
        assert_eq!(ask(server.address, "/readyz", "").await.0, 200);
        let (status, said) = ask(server.address, "/metrics", "").await;
        assert_eq!((status, said.contains("process 0")), (404, true), "{said}");
    }
}
