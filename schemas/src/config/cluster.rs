//! `[cluster]`: one stream in several processes.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::is_this_machine;

/// Processes of one cluster at most.
const PROCESSES_MAX: usize = 64;

/// `[cluster]`: the processes that share the work of one stream, each started with `meterline run --process N`.
///
/// Process 0 also commits, serves `[http]`, and runs triggers, pipelines and housekeeping; the others only read and
/// aggregate. All have the same feeds, labels, roll-ups and `ingest.workers`, and reach the same lake and the same Kafka
/// cluster, if need be by other addresses; properties that decide which records are read (`check.crcs`) are the same, too.
/// A process that is lost ends all of them; a supervisor is to start them again.
///
/// What goes between processes is neither encrypted nor signed: their network is to be a private one. The secret keeps
/// strangers from taking part; it itself is never sent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterConfig {
    /// `host:port` of every process, by its number; each listens at its own address alone. Default none: one process.
    pub addresses: Vec<String>,
    /// File with the secret that all processes have; white space around it does not count. Relative to the
    /// configuration's directory. Default: `METERLINE_CLUSTER_SECRET` of the environment. Addresses that other machines
    /// can reach need one.
    pub secret_file: Option<String>,
}

impl ClusterConfig {
    /// Number of processes.
    pub fn processes(&self) -> usize {
        self.addresses.len().max(1)
    }

    /// The first address that other machines may reach.
    pub fn reachable(&self) -> Option<&str> {
        self.addresses.iter().map(String::as_str).find(|address| {
            let host = split(address).map_or(*address, |(host, _)| host);
            let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
            !is_this_machine(host)
        })
    }

    /// What is wrong with `cluster.addresses`, and what to do.
    pub(super) fn fault(&self) -> Option<(String, &'static str)> {
        let mut seen = BTreeSet::new();
        for address in &self.addresses {
            if split(address).is_none() {
                let wrong = format!("cluster.addresses: `{address}` is no host and port");
                return Some((wrong, "use one such as 127.0.0.1:4700, [::1]:4700 or engine-0.internal:4700"));
            }
            if !seen.insert(address) {
                return Some((format!("cluster.addresses has `{address}` twice"), "give each process its own"));
            }
        }
        let many = self.addresses.len();
        (many > PROCESSES_MAX).then(|| {
            (
                format!("cluster.addresses names {many} processes; {PROCESSES_MAX} are the most"),
                "use more workers in each",
            )
        })
    }
}

// Host and port.
fn split(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host_is_one = host.starts_with('[') == host.ends_with(']') && (host.starts_with('[') || !host.contains(':'));
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (!host.is_empty() && host_is_one).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(addresses: &[&str]) -> ClusterConfig {
        ClusterConfig { addresses: addresses.iter().map(|address| (*address).to_owned()).collect(), secret_file: None }
    }

    #[test]
    fn addresses_have_a_host_and_a_port_and_are_different() {
        for wrong in ["", "4700", ":4700", "host", "host:0", "host:70000", "::1:4700", "[::1:4700"] {
            assert!(of(&[wrong]).fault().is_some(), "{wrong}");
        }
        assert!(of(&["a:1", "a:1"]).fault().is_some());
        assert!(of(&["a:1", "a:2", "[::1]:3", "10.0.0.1:4"]).fault().is_none());
        assert_eq!((of(&[]).processes(), of(&["a:1", "b:1"]).processes()), (1, 2));
    }

    #[test]
    fn an_address_of_this_machine_is_not_reachable() {
        assert_eq!(of(&["127.0.0.1:1", "[::1]:2", "localhost:3", "127.8.0.1:4"]).reachable(), None);
        assert_eq!(of(&["127.0.0.1:1", "0.0.0.0:2"]).reachable(), Some("0.0.0.0:2"));
        assert_eq!(of(&["engine-0:1"]).reachable(), Some("engine-0:1"));
    }
}
