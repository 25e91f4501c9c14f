//! The configuration is read again when its file changes, or on SIGHUP: a valid one is taken, of an invalid one the
//! engine says why, and goes on with the one before.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use meterline_schemas::config::Config;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::environment::read_config;

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The configuration that an engine goes by once it has read `found`: policies and covariates are taken at once; of the
/// rest, which the stream was started with, the names of what differs and waits for a restart.
pub fn taken(running: &Config, found: Config) -> (Config, Vec<&'static str>) {
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
    ];
    let waits = differs.into_iter().filter(|(_, differs)| *differs).map(|(section, _)| section).collect();
    (Config { policy: found.policy, covariate: found.covariate, ..running.clone() }, waits)
}

/// Reads the configuration again whenever that is called for, and tells the one to go by, until `stop` turns true.
pub async fn watch(path: PathBuf, config: watch::Sender<Arc<Config>>, mut stop: watch::Receiver<bool>) {
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => hangup,
        Err(error) => {
            tracing::warn!(%error, "SIGHUP cannot be listened for: the configuration is read again at the next start");
            return;
        }
    };
    let mut seen = stamp(&path);
    loop {
        let asked = tokio::select! {
            stopped = stop.changed() => if stopped.is_err() || *stop.borrow() { return } else { false },
            Some(()) = hangup.recv() => true,
            () = tokio::time::sleep(LOOK_EVERY) => false,
        };
        let now = stamp(&path);
        if !asked && (now == seen || now.is_none()) {
            continue;
        }
        seen = now;
        read_again(&path, &config);
    }
}

// When the file was written, and how long it is; `None` while it cannot be asked (an editor may be replacing it).
fn stamp(path: &std::path::Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn read_again(path: &std::path::Path, config: &watch::Sender<Arc<Config>>) {
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
    let (now, waits) = taken(&running, found);
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
