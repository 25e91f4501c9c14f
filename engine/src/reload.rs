//! The configuration is read again when its file changes, or on SIGHUP: a valid one is taken, of an invalid one the
//! engine says why, and goes on with the one before.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use meterline_schemas::config::{Config, recheck, selectors};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::environment::read_config;
use crate::triggers::check_policies;

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What waits where policies make other model groups: the stream counts series by them from its start on. All policies
/// wait then, as what is said of a group that is not there would count for nobody.
const LABEL_POLICIES: &str = "policy (other labels)";

/// The configuration that an engine goes by once it has read `found`: policies and covariates are taken at once; of the
/// rest, which the stream was started with, the names of what differs and waits for a restart.
pub fn taken(running: &Config, found: Config) -> (Config, Vec<&'static str>) {
    let other_groups = selectors(&running.policy) != selectors(&found.policy);
    let differs = [
        ("kafka", running.kafka != found.kafka),
        ("lake", running.lake != found.lake),
        ("metadata", running.metadata != found.metadata),
        ("ingest", running.ingest != found.ingest),
        ("cluster", running.cluster != found.cluster),
        ("device", running.device != found.device),
        ("http", running.http != found.http),
        ("maintenance", running.maintenance != found.maintenance),
        ("retention", running.retention != found.retention),
        ("feed", running.feed != found.feed),
        ("labels", running.labels != found.labels),
        ("rollup", running.rollup != found.rollup),
        (LABEL_POLICIES, other_groups),
    ];
    let waits = differs.into_iter().filter(|(_, differs)| *differs).map(|(section, _)| section).collect();
    let policy = if other_groups { running.policy.clone() } else { found.policy };
    (Config { policy, covariate: found.covariate, ..running.clone() }, waits)
}

/// Listens for SIGHUP in a process that reads nothing again, which the signal would end otherwise.
///
/// # Errors
/// The operating system refuses the signal handler.
pub fn outlive_hangup() -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            tracing::info!(
                "SIGHUP: process 0 of the cluster reads the configuration again; this one does so at its start alone"
            );
        }
    });
    Ok(())
}

/// Looks at the file of the configuration. It is to begin before anything that takes time, so that no signal and no change
/// of the file is missed.
#[derive(Debug)]
pub struct Watcher {
    path: PathBuf,
    hangup: Signal,
    seen: Option<Stamp>,
}

type Stamp = (SystemTime, u64);

impl Watcher {
    /// Listens for SIGHUP, and remembers how the file is.
    ///
    /// # Errors
    /// The operating system refuses the signal handler.
    pub fn begin(path: &Path) -> std::io::Result<Watcher> {
        Ok(Watcher { path: path.to_owned(), hangup: signal(SignalKind::hangup())?, seen: stamp(path) })
    }

    /// Reads the configuration again whenever that is called for, and tells the one to go by, until `stop` turns true.
    pub async fn run(mut self, config: watch::Sender<Arc<Config>>, mut stop: watch::Receiver<bool>) {
        let mut changed = None;
        loop {
            let asked = tokio::select! {
                stopped = stop.changed() => if stopped.is_err() || *stop.borrow() { return } else { false },
                Some(()) = self.hangup.recv() => true,
                () = tokio::time::sleep(LOOK_EVERY) => false,
            };
            let now = stamp(&self.path);
            // A file that is still being written is another one at the next look.
            let is_whole = now.is_some() && now == changed;
            changed = now;
            if asked || (is_whole && now != self.seen) {
                self.seen = now;
                read_again(&self.path, &config);
            }
        }
    }
}

// When the file was written, and how long it is; `None` while it cannot be asked (an editor may be replacing it).
fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn read_again(path: &Path, config: &watch::Sender<Arc<Config>>) {
    let running = Arc::clone(&config.borrow());
    let found = match read_config(path) {
        Ok(found) => found,
        Err(error) => {
            tracing::error!(
                config = %path.display(),
                %error,
                "the configuration has changed and is not valid: the engine goes on with the one before; mend it, it is read again then"
            );
            return;
        }
    };
    if found == Config::default() {
        tracing::error!(config = %path.display(), "the configuration is empty: the engine goes on with the one before");
        return;
    }
    let (now, waits) = taken(&running, found);
    // Policies may ask for what only a restart brings.
    if let Err(error) = recheck(&now).and_then(|()| check_policies("", &now)) {
        tracing::error!(
            config = %path.display(),
            %error,
            sections = waits.join(", "),
            "the policies need sections that count with a restart: until then the engine goes on with those before"
        );
        return;
    }
    if !waits.is_empty() {
        tracing::warn!(
            config = %path.display(),
            sections = waits.join(", "),
            "these sections have changed and need a restart of the engine; until then they are as they were"
        );
    }
    if now == *running {
        tracing::info!(config = %path.display(), "the configuration was read again; no policy or covariate is another");
        return;
    }
    let changed: Vec<&str> = running
        .policy
        .keys()
        .chain(now.policy.keys().filter(|name| !running.policy.contains_key(*name)))
        .filter(|name| running.policy.get(*name) != now.policy.get(*name))
        .map(String::as_str)
        .collect();
    tracing::info!(
        config = %path.display(),
        policies = if changed.is_empty() { "none".to_owned() } else { changed.join(", ") },
        covariates = if running.covariate == now.covariate { "as before" } else { "others" },
        "the configuration has changed and is taken"
    );
    config.send_replace(Arc::new(now));
}

#[cfg(test)]
mod tests {
    use meterline_schemas::config::parse;

    use super::*;

    #[test]
    fn policies_are_taken_at_once_and_the_rest_with_a_restart() {
        let text = |seed: u64, lateness: &str| {
            format!(
                "[feed.m]\ntopic = \"t\"\nseries = \"s\"\ntime = \"t\"\nvalue = \"v\"\nlateness = \"{lateness}\"\n\
                 [policy.a]\nfrequency = \"PT15M\"\n[policy.a.model]\nseed = {seed}\n"
            )
        };
        let running = parse(&text(1, "5m")).unwrap();
        let (now, waits) = taken(&running, parse(&text(2, "9m")).unwrap());
        assert_eq!((now.policy["a"].model.seed, &now.feed, waits), (Some(2), &running.feed, vec!["feed"]));
        let (now, waits) = taken(&running, running.clone());
        assert!(now == running && waits.is_empty());
    }

    #[test]
    fn other_labels_of_policies_wait_for_a_restart_and_all_policies_with_them() {
        let text = |seed: u64, value: &str| {
            format!(
                "[labels.meta]\nfile = \"m.csv\"\nlabels = {{ tariff = \"tariff\" }}\n[policy.a]\nfrequency = \"PT15M\"\n\
                 label = {{ tariff = \"{value}\" }}\n[policy.a.model]\nseed = {seed}\n"
            )
        };
        let running = parse(&text(1, "industry")).unwrap();
        let (now, waits) = taken(&running, parse(&text(2, "industry")).unwrap());
        assert_eq!((now.policy["a"].model.seed, waits.len()), (Some(2), 0));
        let (now, waits) = taken(&running, parse(&text(2, "farm")).unwrap());
        assert_eq!((now, waits), (running, vec![LABEL_POLICIES]));
    }

    #[tokio::test]
    async fn an_invalid_file_leaves_the_configuration_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meterline.toml");
        let policy = "[policy.a]\nfrequency = \"PT15M\"\n";
        std::fs::write(&path, policy).unwrap();
        let (sender, receiver) = watch::channel(Arc::new(parse(policy).unwrap()));
        for (text, seed) in [
            ("[policy.a.model]\nseed = 3\n", Some(3)),
            ("[policy.a.model]\nsed = 4\n", Some(3)),
            ("[policy.a.retrain]\nwhen = \"no_such_fact > 3\"\n", Some(3)),
            ("[policy.a.model]\nseed = 5\n", Some(5)),
        ] {
            std::fs::write(&path, format!("{policy}{text}")).unwrap();
            read_again(&path, &sender);
            assert_eq!(receiver.borrow().policy["a"].model.seed, seed, "{text}");
        }
    }
}
