//! A real Apache Kafka on loopback: fetched once, formatted, started, awaited, and gone when dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tempfile::TempDir;

use crate::guard::{self, Guarded};
use crate::ports::free_addresses;
use crate::skip::{Skip, prepared};

const START_LIMIT: Duration = Duration::from_secs(90);
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// One broker of Apache Kafka (KRaft) with an empty data folder of its own.
#[derive(Debug)]
pub struct Kafka {
    jars: PathBuf,
    home: TempDir,
    port: u16,
    process: Option<Guarded>,
}

impl Kafka {
    /// Fetches Kafka if this is the first time, formats a data folder, starts the broker and waits until it answers.
    ///
    /// [`Skip`] says what the machine lacks. A broker that does not start is a fault, and panics with its log.
    pub fn start() -> Result<Kafka, Skip> {
        let jars = jars()?;
        // Another process may take a port between our choice and the broker's start: choose again.
        for _ in 0..2 {
            if let Ok(kafka) = Kafka::try_start(&jars) {
                return Ok(kafka);
            }
        }
        Kafka::try_start(&jars).map_err(|log| panic!("Kafka did not start; its log ends with\n{log}"))
    }

    /// The broker's address, `host:port`.
    pub fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Stops the broker in good order and starts it again with the same data and port.
    pub fn restart(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal("TERM");
            process.wait_for(STOP_LIMIT);
        }
        self.run().unwrap_or_else(|log| panic!("Kafka did not start again; its log ends with\n{log}"));
    }

    /// Ends the broker at once, as a power cut would; [`Kafka::restart`] brings it back.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Creates `topic`.
    pub fn create_topic(&self, topic: &str, partitions: i32) {
        self.create_topic_with(topic, partitions, &[]);
    }

    /// Creates `topic` with settings of its own.
    pub fn create_topic_with(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
        let (admin, options) = self.admin();
        let mut wanted = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        wanted.config = settings.to_vec();
        let made = block_on(admin.create_topics([&wanted], &options)).expect("ask for a topic");
        if let Some(Err((name, code))) = made.into_iter().next() {
            panic!("the broker did not create topic {name}: {code}");
        }
    }

    /// Deletes `topic`.
    pub fn delete_topic(&self, topic: &str) {
        let (admin, options) = self.admin();
        let gone = block_on(admin.delete_topics(&[topic], &options)).expect("ask to delete a topic");
        assert!(gone.iter().all(Result::is_ok), "{gone:?}");
    }

    /// Gives `topic` so many partitions in all.
    pub fn add_partitions(&self, topic: &str, partitions: usize) {
        let (admin, options) = self.admin();
        let wanted = NewPartitions::new(topic, partitions);
        let made = block_on(admin.create_partitions([&wanted], &options)).expect("ask for partitions");
        assert!(made.iter().all(Result::is_ok), "{made:?}");
    }

    /// Deletes the records of a partition before `offset`, as retention does.
    pub fn delete_records(&self, topic: &str, partition: i32, offset: i64) {
        let (admin, options) = self.admin();
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(topic, partition, Offset::Offset(offset)).expect("name a partition");
        block_on(admin.delete_records(&offsets, &options)).expect("delete records");
    }

    /// The broker stands still, as in a long pause of its machine, until [`Kafka::resume`].
    pub fn pause(&self) {
        if let Some(process) = &self.process {
            process.signal("STOP");
        }
    }

    /// The broker goes on.
    pub fn resume(&self) {
        if let Some(process) = &self.process {
            process.signal("CONT");
        }
    }

    fn admin(&self) -> (AdminClient<DefaultClientContext>, AdminOptions) {
        let admin = client(&self.brokers()).create().expect("create an admin client");
        (admin, AdminOptions::new().request_timeout(Some(Duration::from_secs(30))))
    }

    fn try_start(jars: &Path) -> Result<Kafka, String> {
        let (port, controller_port) = free_ports();
        let home = tempfile::Builder::new().prefix("meterline-kafka-").tempdir().expect("make a data folder");
        guard::remove_at_exit(home.path());
        let properties = include_str!("../kafka/server.properties")
            .replace("@PORT@", &port.to_string())
            .replace("@CONTROLLER_PORT@", &controller_port.to_string())
            .replace("@DATA@", &home.path().join("data").display().to_string());
        fs::write(home.path().join("server.properties"), properties).expect("write server.properties");
        fs::write(home.path().join("log4j2.properties"), include_str!("../kafka/log4j2.properties"))
            .expect("write log4j2.properties");
        let mut kafka = Kafka { jars: jars.to_owned(), home, port, process: None };
        kafka.format()?;
        kafka.run()?;
        Ok(kafka)
    }

    fn java(&self) -> Command {
        let mut java = Command::new("java");
        java.arg("-cp").arg(self.jars.join("*")).current_dir(self.home.path()).stdin(Stdio::null());
        java
    }

    fn format(&self) -> Result<(), String> {
        // Any 16 bytes in base64url are a cluster id.
        let id = "bWV0ZXJsaW5lLXRlc3RzIQ";
        let done = self
            .java()
            .args(["kafka.tools.StorageTool", "format", "--standalone", "-t", id, "-c", "server.properties"])
            .output()
            .map_err(|e| format!("java: {e}"))?;
        if done.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&done.stderr).into_owned()) }
    }

    fn run(&mut self) -> Result<(), String> {
        let log = self.home.path().join("broker.log");
        let output = fs::File::options().create(true).append(true).open(&log).expect("open the broker's log");
        let errors = output.try_clone().expect("share the broker's log");
        let mut command = self.java();
        command
            .args(["-Xmx1g", "-XX:+UseSerialGC", "-Dlog4j2.configurationFile=log4j2.properties"])
            .args(["kafka.Kafka", "server.properties"])
            .stdout(output)
            .stderr(errors);
        let mut process = Guarded::spawn(&mut command).map_err(|e| format!("java: {e}"))?;
        let until = Instant::now() + START_LIMIT;
        while !answers(&self.brokers()) {
            if process.ended().is_some() || Instant::now() > until {
                drop(process);
                return Err(tail(&log));
            }
        }
        self.process = Some(process);
        Ok(())
    }
}

/// librdkafka's properties for `brokers`.
pub fn client(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    config
}

fn answers(brokers: &str) -> bool {
    let mut config = client(brokers);
    config.set("reconnect.backoff.max.ms", "500");
    let asked: Result<BaseConsumer, _> = config.create();
    asked.is_ok_and(|c| c.fetch_metadata(None, Duration::from_secs(1)).is_ok_and(|m| !m.brokers().is_empty()))
}

fn free_ports() -> (u16, u16) {
    let addresses = free_addresses(2);
    (addresses[0].port(), addresses[1].port())
}

/// The folder of Kafka's jars, fetched by `kafka/fetch` the first time.
fn jars() -> Result<PathBuf, Skip> {
    static JARS: OnceLock<Result<PathBuf, Skip>> = OnceLock::new();
    JARS.get_or_init(|| prepared("kafka/fetch")).clone()
}

pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("start a runtime").block_on(future)
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
