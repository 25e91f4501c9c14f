//! What the configuration says of the cluster: where its processes are, and what they have in common.

use std::collections::BTreeSet;
use std::path::Path;

use meterline_connectors::kafka::decisive;
use meterline_schemas::config::{ClusterConfig, Config, selectors};
use ring::{digest, hmac};

use super::super::crew::Crew;
use super::ClusterError;

/// The variable of the environment with the secret, where the configuration names no file.
pub const SECRET_VARIABLE: &str = "METERLINE_CLUSTER_SECRET";

/// The part of the configuration that should be the same and need not be: one broker may be reached under several
/// addresses.
pub const BROKERS: &str = "kafka.brokers";

/// SHA-256.
pub type Digest = [u8; 32];

/// What all processes know; it is shown nowhere.
pub struct Secret(hmac::Key);

impl Secret {
    /// One of these bytes; without any it keeps nobody away.
    pub fn new(bytes: &[u8]) -> Secret {
        Secret(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// The key that it is.
    pub fn key(&self) -> &hmac::Key {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// One process as a part of the cluster.
#[derive(Debug)]
pub struct Membership {
    /// Its number.
    pub process: usize,
    /// Where each process listens.
    pub addresses: Vec<String>,
    /// Workers of each process.
    pub workers: usize,
    /// Of each part of the configuration that has to be the same, by its name; and of [`BROKERS`].
    pub configuration: Vec<(String, Digest)>,
    /// What keeps others away.
    pub secret: Secret,
}

impl Membership {
    /// What a configuration says of process number `process`; `None` where all is in one process. Relative paths are
    /// below `directory`.
    ///
    /// # Errors
    /// There is no such process, or no secret where one is needed.
    pub fn of(
        config: &Config,
        directory: &Path,
        process: usize,
        workers: usize,
    ) -> Result<Option<Membership>, ClusterError> {
        let cluster = &config.cluster;
        let processes = cluster.processes();
        if process >= processes {
            return Err(ClusterError::NoSuchProcess { process, processes });
        }
        if processes == 1 {
            return Ok(None);
        }
        let secret = secret(cluster, directory)?;
        let configuration = digests(config, directory);
        Ok(Some(Membership { process, addresses: cluster.addresses.clone(), workers, configuration, secret }))
    }

    /// All workers.
    pub fn crew(&self) -> Crew {
        Crew { process: self.process, processes: self.addresses.len(), threads: self.workers }
    }
}

fn secret(cluster: &ClusterConfig, directory: &Path) -> Result<Secret, ClusterError> {
    if let Some(file) = &cluster.secret_file {
        let path = directory.join(file);
        let refuse = |reason: String| ClusterError::Secret { path: path.display().to_string(), reason };
        let text = std::fs::read_to_string(&path).map_err(|error| refuse(error.to_string()))?;
        return match text.trim() {
            "" => Err(refuse("it is empty; write a long random text into it".to_owned())),
            secret => Ok(Secret::new(secret.as_bytes())),
        };
    }
    let given = std::env::var(SECRET_VARIABLE).unwrap_or_default();
    match (given.trim(), cluster.reachable()) {
        ("", Some(address)) => Err(ClusterError::NoSecret { address: address.to_owned() }),
        (secret, _) => Ok(Secret::new(secret.as_bytes())),
    }
}

// What decides what becomes of readings. A file of labels that cannot be read is told when it is needed.
fn digests(config: &Config, directory: &Path) -> Vec<(String, Digest)> {
    let brokers: BTreeSet<&str> = config.kafka.brokers.split(',').map(str::trim).collect();
    // Others may differ: certificates lie elsewhere, and a listener has its own way to prove who one is.
    let properties = decisive(&config.kafka);
    let mut all = vec![
        of(BROKERS.into(), &brokers, &[]),
        of("cluster.addresses".into(), &config.cluster.addresses, &[]),
        of("ingest.remembered_intervals".into(), &config.ingest.remembered_intervals, &[]),
    ];
    all.extend(properties.map(|(key, value)| of(format!("kafka.properties `{key}`"), &value, &[])));
    all.extend(config.feed.iter().map(|(name, feed)| of(format!("[feed.{name}]"), feed, &[])));
    all.extend(config.labels.iter().map(|(name, labels)| {
        let content = labels.file.as_ref().and_then(|file| std::fs::read(directory.join(file)).ok());
        of(format!("[labels.{name}] (with its file)"), labels, &content.unwrap_or_default())
    }));
    all.push(of("[policy.*] label".into(), &selectors(&config.policy), &[]));
    all.extend(config.rollup.iter().map(|(name, rollup)| of(format!("[rollup.{name}]"), rollup, &[])));
    all
}

fn of(name: String, part: &impl serde::Serialize, content: &[u8]) -> (String, Digest) {
    let text = serde_json::to_vec(part).unwrap_or_default();
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest::digest(&digest::SHA256, &[text.as_slice(), content].concat()).as_ref());
    (name, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts in which two configurations differ.
    fn differing(change: impl Fn(&mut Config)) -> Vec<String> {
        let (mine, mut theirs) = (Config::default(), Config::default());
        change(&mut theirs);
        let of = |config: &Config| digests(config, Path::new("")).into_iter();
        of(&mine).zip(of(&theirs)).filter(|(mine, theirs)| mine != theirs).map(|((name, _), _)| name).collect()
    }

    #[test]
    fn properties_that_decide_what_is_read_have_to_be_the_same_and_others_not() {
        let set =
            |key: &str, value: &str| differing(|config| _ = config.kafka.properties.insert(key.into(), value.into()));
        assert_eq!(set("check.crcs", "false"), ["kafka.properties `check.crcs`"]);
        assert_eq!(set("topic.blacklist", "x"), ["kafka.properties `topic.blacklist`"]);
        let as_it_is = [("check.crcs", "true"), ("sasl.password", "x"), ("client.rack", "b")];
        for (key, value) in as_it_is {
            assert!(set(key, value).is_empty(), "{key}");
        }
    }

    #[test]
    fn brokers_are_the_same_in_any_order() {
        let differs = |mine: &str, theirs: &str| {
            let of = |brokers: &str| {
                let mut config = Config::default();
                config.kafka.brokers = brokers.into();
                digests(&config, Path::new(""))
            };
            of(mine) != of(theirs)
        };
        assert!(!differs("a:1,b:2", " b:2, a:1"));
        assert!(differs("a:1", "a:2"));
    }
}
