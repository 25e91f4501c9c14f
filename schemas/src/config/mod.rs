//! Configuration: one TOML file, every key documented here with its default and unit.
//!
//! An empty file is a valid configuration of everything but the feeds. Unknown keys are refused, with the line and
//! the nearest known key.

mod cluster;
mod covariate;
mod feed;
mod lake;
mod load;
mod maintenance;
mod policy;
mod rollup;
mod selector;
mod trigger;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use cluster::ClusterConfig;
pub use covariate::{CovariateConfig, Fallback, KnownWhen};
pub use feed::{BadRecords, ClockChange, FeedConfig, Format, Label, OnExpired, OnRecreated};
pub use lake::{LakeConfig, S3_SCHEME, S3Config};
pub use load::{ConfigError, parse, recheck};
pub use maintenance::{Every, Keep, MaintenanceConfig, RetentionConfig};
pub use policy::{
    Approval, Costs, ESTIMATED_WEIGHT, GateConfig, ModelConfig, PolicyConfig, ResolvedPolicy, resolve_group_policy,
    resolve_policy,
};
pub use rollup::{LabelsConfig, Reconcile, RollupConfig, RollupFrequency, RollupValue};
pub use selector::{SELECTORS_MAX, Selector, is_of_label, selectors, without_label};
pub use trigger::{Blackout, CatchUp, Predicates, ResolvedTrigger, TriggerConfig};

use crate::bytes::Bytes;
use crate::time::{HOUR, MINUTE, SECOND, Span};

/// Whether a host, without its port, is this machine and cannot be reached from others.
fn is_this_machine(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The whole configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where readings come from.
    pub kafka: KafkaConfig,
    /// Where tables and models are kept.
    pub lake: LakeConfig,
    /// Where runs, registry and decisions are kept.
    pub metadata: MetadataConfig,
    /// How the stream is processed.
    pub ingest: IngestConfig,
    /// Where the processes of the stream are.
    pub cluster: ClusterConfig,
    /// What trains and predicts.
    pub device: DeviceConfig,
    /// What monitoring can ask.
    pub http: HttpConfig,
    /// How the lake is kept in order.
    pub maintenance: MaintenanceConfig,
    /// How long things are kept.
    pub retention: RetentionConfig,
    /// One entry a topic.
    pub feed: BTreeMap<String, FeedConfig>,
    /// Labels of series from files and topics.
    pub labels: BTreeMap<String, LabelsConfig>,
    /// Series that are the sums of others.
    pub rollup: BTreeMap<String, RollupConfig>,
    /// What is known beside the series.
    pub covariate: BTreeMap<String, CovariateConfig>,
    /// One entry a frequency, and for groups of series by label; each has defaults, so none is needed.
    pub policy: BTreeMap<String, PolicyConfig>,
}

/// `[kafka]`
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaConfig {
    /// Comma-separated `host:port` of the bootstrap brokers. Default `localhost:9092`.
    pub brokers: String,
    /// Consumer group under which positions are reported for monitoring; recovery never reads it. Default `meterline`.
    pub group_id: String,
    /// Further librdkafka properties, passed as they are; those that decide which records are read are refused
    /// (`isolation.level`, `auto.offset.reset`, `enable.auto.commit` and the like). Values are never logged. Default none.
    /// Checksums of batches are verified unless `"check.crcs" = "false"` is among them.
    pub properties: BTreeMap<String, String>,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        KafkaConfig { brokers: "localhost:9092".into(), group_id: "meterline".into(), properties: BTreeMap::new() }
    }
}

impl fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&String> = self.properties.keys().collect();
        f.debug_struct("KafkaConfig")
            .field("brokers", &self.brokers)
            .field("group_id", &self.group_id)
            .field("properties (values hidden)", &names)
            .finish()
    }
}

/// `[metadata]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetadataConfig {
    /// `sqlite:PATH`. Default: `metadata.db` in the lake's directory; where the lake is on S3 there is none, and it
    /// must be given.
    pub url: Option<String>,
}

/// `[ingest]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IngestConfig {
    /// Timely workers (threads) of each process. Default: the number of processors, at most 8.
    pub workers: usize,
    /// Longest time between two commits. Default `10s`.
    pub commit_interval: Span,
    /// Memory that the stream may take in each process: what it knows of series, what they remember, what is read and
    /// not yet committed; and the same of roll-ups. Series that had no reading for longest leave memory when there is
    /// not enough for all; their states are looked up in the lake when they have readings again. New series are refused
    /// (dead letters, `too_many_series`) where what cannot leave memory takes half of the share for series, which is
    /// 3/8 of the limit: some 8 to 18 bytes for each series that left, and what roll-ups know of series and groups. The
    /// rest of the process needs some 200 MiB more. Default `2GiB`.
    pub memory_limit: Bytes,
    /// Readings after which a commit is made early, at least 10,000; fewer where `memory_limit` allows fewer. Default
    /// 2,000,000.
    pub commit_records: u64,
    /// Intervals per series that are remembered, to tell duplicates from corrections; fewer where `memory_limit` allows
    /// fewer. Default 96.
    pub remembered_intervals: usize,
    /// A partition without a record for this long no longer holds the watermark, if everything in it was read. Default
    /// `30s`.
    pub idle_timeout: Span,
    /// A partition of which no broker can say where it ends (its leader is away) may have more records than are known and
    /// holds the watermark for this long. Those that are known hold it until they are read; where none could be for this
    /// long, the log says of which partition, and how many they are. Default `1h`.
    pub unreachable_timeout: Span,
    /// Lag in records above which the stream counts as catching up. Default 20,000.
    pub catch_up_records: u64,
}

impl Default for IngestConfig {
    fn default() -> Self {
        IngestConfig {
            workers: std::thread::available_parallelism().map_or(1, |n| n.get().min(8)),
            commit_interval: Span(10 * SECOND),
            memory_limit: Bytes::new(2 << 30),
            commit_records: 2_000_000,
            remembered_intervals: 96,
            idle_timeout: Span(MINUTE / 2),
            unreachable_timeout: Span(HOUR),
            catch_up_records: 20_000,
        }
    }
}

/// Where the endpoints of `[http]` are by default.
pub const HTTP_DEFAULT: &str = "127.0.0.1:9464";

/// `[http]`: the endpoints `/metrics`, `/healthz` and `/readyz` of `meterline run`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// `address:port`, or `off`. Default `127.0.0.1:9464`; where another program has that, the engine says so and runs
    /// without.
    pub listen: Option<String>,
    /// File with the password that clients have to send (HTTP basic authentication, with any user). Default none; an
    /// address that other machines can reach needs one.
    pub password_file: Option<String>,
}

impl HttpConfig {
    /// Whether there are to be no endpoints.
    pub fn is_off(&self) -> bool {
        self.listen.as_deref() == Some("off")
    }

    /// What is wrong with the address, and what to do.
    pub fn fault(&self) -> Option<(String, &'static str)> {
        let listen = self.listen.as_deref().filter(|_| !self.is_off())?;
        let Ok(address) = listen.parse::<std::net::SocketAddr>() else {
            let message = format!("http.listen `{listen}` is no address and port");
            return Some((message, "use one such as 127.0.0.1:9464 or [::1]:9464, or \"off\""));
        };
        (!address.ip().is_loopback() && self.password_file.is_none()).then(|| {
            let message = format!("http.listen `{listen}` can be reached from other machines, without a password");
            (message, "set http.password_file, or listen on 127.0.0.1")
        })
    }
}

/// `[device]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeviceConfig {
    /// `auto` (a GPU if this binary and machine have one), `cpu` or `cuda:N`. Default `auto`.
    pub device: String,
    /// Runs that may use the device at once. Default 1.
    pub slots: usize,
}

impl Default for DeviceConfig {
    fn default() -> Self {
        DeviceConfig { device: "auto".into(), slots: 1 }
    }
}
