//! The readings of one run, endless and the same for the same seed: repetitions, stragglers, corrections (also of the
//! first ones, when they have long been forgotten), records that nobody can read, and time stamps that go back; and
//! beside them where meters are, which moves, and is said too late or otherwise again. Where frequencies are detected,
//! there is always a meter of which few readings are there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::util::Timeout;

use super::Failure;
use crate::kafka::client;

/// Length of an interval in seconds.
pub const SECONDS: i64 = 900;
/// 2024-01-31T00:00:00Z: a month ends during the run.
const BEGIN: i64 = 1_706_659_200;
/// Between two hours of readings, where nothing else is wanted.
pub const PACE: Duration = Duration::from_millis(60);
/// Hours for which a meter sends that is not there from the first one on: there are never many of these at a time.
const OTHERS_LAST: i64 = 24;
/// Sites that meters may be at.
const SITES: i64 = 3;
/// Kinds whose sites [`Topic::Sites`] says.
const SAID: [Kind; 2] = [Kind::Power, Kind::Register];
/// A broker may be away for a while.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the readings of a topic are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Energy of an interval, or mean power over it.
    Energy,
    /// Samples of power.
    Power,
    /// A cumulative register.
    Register,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::Energy, Kind::Power, Kind::Register];

    /// The name of its feed, and how its topic's name ends. The first one is the feed of every [`crate::sandbox`].
    pub fn name(self) -> &'static str {
        match self {
            Kind::Energy => "meters",
            Kind::Power => "power",
            Kind::Register => "register",
        }
    }

    /// As `kind` in the configuration.
    pub fn configured(self) -> &'static str {
        match self {
            Kind::Energy => "interval",
            Kind::Power => "gauge",
            Kind::Register => "counter",
        }
    }

    /// The unit of its feed, for readings that tell none; all of them do.
    pub fn usual_unit(self) -> &'static str {
        match self {
            Kind::Power => "kW",
            Kind::Energy | Kind::Register => "kWh",
        }
    }

    /// Partitions of its topic.
    pub fn partitions(self) -> i32 {
        match self {
            Kind::Energy => 4,
            Kind::Power | Kind::Register => 2,
        }
    }

    /// Number of its meters that are there from the first hour to the last.
    pub fn meters(self) -> i64 {
        match self {
            Kind::Energy => 16,
            Kind::Power | Kind::Register => 5,
        }
    }

    /// Whether the engine can be left to find out the frequency itself. What it finds in a day's readings does not
    /// depend on their order; but samples come three times in an interval, and their own frequency would be found.
    pub fn is_detectable(self) -> bool {
        self != Kind::Power
    }

    /// Hours after which another meter begins, where others do.
    fn begins_every(self) -> Option<i64> {
        match self {
            Kind::Energy => Some(4),
            Kind::Register => Some(8),
            Kind::Power => None,
        }
    }

    /// Whether one of its meters sends in an hour; one that begins later ends a day after that.
    fn sends(self, meter: i64, hour: i64) -> bool {
        let other = meter - self.meters();
        let begins = self.begins_every().map_or(0, |every| (other + 1) * every);
        other < 0 || (begins..begins + OTHERS_LAST).contains(&hour)
    }

    /// The most meters that there can be.
    pub fn meters_max(self) -> i64 {
        self.meters() + self.begins_every().map_or(0, |hours| i64::from(HOURS_MAX) / hours)
    }

    /// Samples come every five minutes.
    fn minutes(self) -> &'static [i64] {
        match self {
            Kind::Power => &[5, 10, 15],
            Kind::Energy | Kind::Register => &[15],
        }
    }

    /// Meters differ in their units.
    fn unit(self, meter: i64) -> &'static str {
        match self {
            Kind::Energy if meter % 2 == 0 => "kW",
            Kind::Energy | Kind::Register => "kWh",
            Kind::Power if meter % 2 == 0 => "W",
            Kind::Power => "kW",
        }
    }
}

/// A topic of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// Readings of a kind.
    Of(Kind),
    /// At which site the meters are whose readings do not tell it: the label `site`.
    Sites,
}

impl Topic {
    /// All of them; the last one is read where there is a roll-up.
    pub const ALL: [Topic; 4] =
        [Topic::Of(Kind::Energy), Topic::Of(Kind::Power), Topic::Of(Kind::Register), Topic::Sites];

    /// Those that a run reads.
    pub fn read(rolls_up: bool) -> &'static [Topic] {
        if rolls_up { &Topic::ALL } else { &Topic::ALL[..Kind::ALL.len()] }
    }

    /// Its place among all of them.
    pub fn number(self) -> usize {
        match self {
            Topic::Of(kind) => kind as usize,
            Topic::Sites => Kind::ALL.len(),
        }
    }

    /// Its partitions.
    pub fn partitions(self) -> i32 {
        match self {
            Topic::Of(kind) => kind.partitions(),
            Topic::Sites => 2,
        }
    }

    /// Its name in a run.
    pub fn name(self, run: &str) -> String {
        match self {
            Topic::Of(kind) => format!("{run}-{}", kind.name()),
            Topic::Sites => format!("{run}-sites"),
        }
    }

    /// What tables call the feed that reads it.
    pub fn feed(self) -> &'static str {
        match self {
            Topic::Of(kind) => kind.name(),
            Topic::Sites => "labels.sites",
        }
    }
}

/// Records of each topic, by [`Topic::number`].
pub type Counts = [u64; Topic::ALL.len()];

/// One record to be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Sent {
    /// Which topic.
    pub topic: Topic,
    /// Partition.
    pub partition: i32,
    /// Time stamp of the record, in milliseconds since the epoch.
    pub timestamp_ms: i64,
    /// The bytes.
    pub payload: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    kind: Kind,
    meter: i64,
    at: i64,
    value: i64,
}

/// An endless feed.
#[derive(Debug)]
pub struct Feed {
    random: StdRng,
    quarter: i64,
    known: Vec<Reading>,
    // Held back, with the quarter at which each is sent.
    stragglers: Vec<(i64, Reading)>,
    // Meters of each kind that have begun, and whether others begin.
    meters: [i64; Kind::ALL.len()],
    others_begin: bool,
}

impl Feed {
    /// That of a seed; `others_begin`: other meters begin one after the other, until [`Feed::complete`].
    pub fn new(seed: u64, others_begin: bool) -> Feed {
        Feed {
            random: StdRng::seed_from_u64(seed),
            quarter: 0,
            known: Vec::new(),
            stragglers: Vec::new(),
            meters: Kind::ALL.map(Kind::meters),
            others_begin,
        }
    }

    /// From now on no other meter begins. Some hours later there is enough of each to tell its frequency.
    pub fn complete(&mut self) {
        self.others_begin = false;
    }

    /// The next hour of all meters.
    pub fn hour(&mut self) -> Vec<Sent> {
        let mut sent = self.sites();
        sent.extend(self.begin_others());
        sent.extend((0..4).flat_map(|_| self.next_quarter()));
        sent
    }

    /// Where meters are: of each from the first hour on, and then of one of them, from any quarter on up to now, so
    /// that much of it comes late or instead of what was said before.
    fn sites(&mut self) -> Vec<Sent> {
        let said = |kind: Kind| (0..self.meters[kind as usize]).map(move |meter| (kind, meter));
        let meters: Vec<(Kind, i64)> = SAID.into_iter().flat_map(said).collect();
        if self.quarter == 0 {
            return meters.into_iter().map(|(kind, meter)| self.site(kind, meter, BEGIN)).collect();
        }
        let (kind, meter) = meters[self.random.random_range(0..meters.len())];
        let from = BEGIN + self.random.random_range(0..=self.quarter) * SECONDS;
        vec![self.site(kind, meter, from)]
    }

    /// Other meters that begin in this hour; where they are is said, if their readings do not tell it.
    fn begin_others(&mut self) -> Vec<Sent> {
        let hour = self.quarter / 4;
        let mut sent = Vec::new();
        for kind in Kind::ALL {
            let begins = |every| self.others_begin && hour > 0 && hour % every == 0;
            if kind.begins_every().is_some_and(begins) {
                let meter = self.meters[kind as usize];
                self.meters[kind as usize] += 1;
                sent.extend(SAID.contains(&kind).then(|| self.site(kind, meter, BEGIN)));
            }
        }
        sent
    }

    fn site(&mut self, kind: Kind, meter: i64, from: i64) -> Sent {
        let (name, from, site) = (kind.name(), stamp(from), self.random.random_range(0..SITES));
        let payload = format!(r#"{{"series_id":"{name}-{meter}","valid_from":"{from}","site":"s{site}"}}"#);
        let by = self.random.random_range(0..10);
        self.sent(Topic::Sites, by, payload)
    }

    fn next_quarter(&mut self) -> Vec<Sent> {
        let (begin, hour) = (BEGIN + self.quarter * SECONDS, self.quarter / 4);
        self.quarter += 1;
        let mut sent = Vec::new();
        for kind in Kind::ALL {
            for meter in (0..self.meters[kind as usize]).filter(|meter| kind.sends(*meter, hour)) {
                for minute in kind.minutes() {
                    let value = self.value(kind);
                    let reading = Reading { kind, meter, at: begin + minute * 60, value };
                    if self.random.random_ratio(1, 20) {
                        self.stragglers.push((self.quarter + self.random.random_range(1..60), reading));
                    } else {
                        sent.push(self.record(reading, meter, "measured"));
                        self.known.push(reading);
                    }
                    self.disturb(&mut sent);
                }
            }
        }
        for (_, late) in self.stragglers.extract_if(.., |(due, _)| *due <= self.quarter).collect::<Vec<_>>() {
            sent.push(self.record(late, late.meter, "estimated"));
            self.known.push(late);
        }
        sent
    }

    /// Registers rise by up to 15 in a quarter of an hour, and what corrects one may be lower than the one before.
    fn value(&mut self, kind: Kind) -> i64 {
        let noise = self.random.random_range(0..15);
        match kind {
            Kind::Energy | Kind::Power => noise * 40,
            Kind::Register => self.quarter * 15 + noise,
        }
    }

    /// Now and then, something that was sent before, as it was or changed; or no reading at all.
    fn disturb(&mut self, sent: &mut Vec<Sent>) {
        let Some(earlier) = (!self.known.is_empty()).then(|| self.random.random_range(0..self.known.len())) else {
            return;
        };
        let known = self.known[earlier];
        match self.random.random_range(0..100) {
            0..4 => sent.push(self.record(known, known.meter, "measured")),
            4..8 => {
                let value = known.value + self.random.random_range(-12..12i64).max(-known.value);
                // It may come by another partition. But a few corrections from all over the day, read before all that
                // they correct, might look like a frequency: a meter that begins when others have been read has one.
                let any = self.random.random_range(0..10);
                let by = if known.meter < known.kind.meters() { any } else { known.meter };
                sent.push(self.record(Reading { value, ..known }, by, "substituted"));
            }
            8 => {
                let mut broken = self.record(known, known.meter, "measured");
                broken.payload.truncate(self.random.random_range(0..broken.payload.len()));
                sent.push(broken);
            }
            _ => {}
        }
    }

    fn record(&mut self, reading: Reading, by: i64, quality: &str) -> Sent {
        let Reading { kind, meter, at, value } = reading;
        let (name, ts, unit) = (kind.name(), stamp(at), kind.unit(meter));
        // Only these have it: intervals of the others are made of several readings.
        let site = match kind {
            Kind::Energy => format!(r#","site":"{}""#, site(meter, at - SECONDS)),
            Kind::Power | Kind::Register => String::new(),
        };
        let payload = format!(
            r#"{{"meter_id":"{name}-{meter}","ts":"{ts}","value":{value},"unit":"{unit}","quality":"{quality}"{site}}}"#
        );
        self.sent(Topic::Of(kind), by, payload)
    }

    fn sent(&mut self, topic: Topic, by: i64, payload: String) -> Sent {
        // Now and then the order of time stamps is not that of offsets.
        let jitter = self.random.random_range(-4_000..4_000);
        let timestamp_ms = (BEGIN + self.quarter * SECONDS) * 1000 + jitter;
        let partition = (by % i64::from(topic.partitions())) as i32;
        Sent { topic, partition, timestamp_ms, payload: payload.into_bytes() }
    }
}

/// The region of a meter: one with registers, and one without.
pub fn region(kind: Kind, meter: i64) -> &'static str {
    match kind {
        Kind::Power => "north",
        Kind::Energy if meter % 2 == 0 => "north",
        Kind::Energy | Kind::Register => "south",
    }
}

/// The site of a meter of [`Kind::Energy`] in the interval that starts at an instant: it moves every day. Of the others
/// [`Topic::Sites`] says it.
pub fn site(meter: i64, start: i64) -> String {
    format!("s{}", (meter + start.div_euclid(86_400)) % SITES)
}

/// `2024-01-31T00:15:00Z` of seconds since the epoch, up to the end of March 2024.
fn stamp(at: i64) -> String {
    let (days, second) = ((at - BEGIN).div_euclid(86_400), at.rem_euclid(86_400));
    let (month, day) = match days {
        ..1 => (1, 31),
        1..30 => (2, days),
        _ => (3, days - 29),
    };
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("2024-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Hours of a feed that a stamp can be made of.
const HOURS_MAX: u32 = 24 * 60;

/// Sends a feed in the background, hour after hour, until it is told to come to an end.
#[derive(Debug)]
pub struct Feeder {
    ending: Arc<AtomicBool>,
    // Until it has come to its end.
    thread: Option<JoinHandle<Result<Counts, Failure>>>,
}

impl Feeder {
    /// Begins to send `feed` to all topics of a run, an hour of readings every `pace`. Once it is to end, it sends
    /// `after` more hours, in which no other meter begins.
    pub fn start(brokers: &str, run: &str, feed: Feed, pace: Duration, after: u32) -> Feeder {
        let ending = Arc::new(AtomicBool::new(false));
        let (told, brokers, run) = (Arc::clone(&ending), brokers.to_owned(), run.to_owned());
        let thread = std::thread::spawn(move || send(&brokers, &run, feed, pace, after, &told));
        Feeder { ending, thread: Some(thread) }
    }

    /// Lets it come to an end; returns the number of records that it sent to each topic.
    pub fn finish(mut self) -> Result<Counts, Failure> {
        self.ending.store(true, Ordering::Release);
        let thread = self.thread.take().ok_or("the feed has ended")?;
        thread.join().map_err(|_| "the thread that sends the feed panicked".to_owned())?
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        // A run that failed does not wait for it.
        self.ending.store(true, Ordering::Release);
    }
}

fn send(
    brokers: &str,
    run: &str,
    mut feed: Feed,
    pace: Duration,
    after: u32,
    ending: &AtomicBool,
) -> Result<Counts, Failure> {
    let mut config = client(brokers);
    // A broker that is away must lead to no duplicates and to no other order.
    config.set("enable.idempotence", "true").set("linger.ms", "5").set("message.timeout.ms", "300000");
    let producer: BaseProducer = config.create().map_err(|error| format!("create a producer: {error}"))?;
    let mut sent = Counts::default();
    let mut left = after;
    for _ in 0..HOURS_MAX {
        if ending.load(Ordering::Acquire) {
            if left == 0 {
                break;
            }
            left -= 1;
            feed.complete();
        }
        for record in feed.hour() {
            sent[record.topic.number()] += 1;
            queue(&producer, &record.topic.name(run), &record)?;
        }
        let until = Instant::now() + pace;
        while Instant::now() < until {
            producer.poll(PACE / 4);
        }
    }
    producer.flush(Timeout::After(PATIENCE)).map_err(|error| format!("deliver the feed: {error}"))?;
    Ok(sent)
}

fn queue(producer: &BaseProducer, topic: &str, record: &Sent) -> Result<(), Failure> {
    let until = Instant::now() + PATIENCE;
    loop {
        let next = BaseRecord::<(), [u8]>::to(topic)
            .partition(record.partition)
            .timestamp(record.timestamp_ms)
            .payload(record.payload.as_slice());
        match producer.send(next) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) if Instant::now() < until => {
                producer.poll(Duration::from_millis(100));
            }
            Err((error, _)) => return Err(format!("send to {topic}: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::instant_ms;

    #[test]
    fn a_seed_gives_one_feed_with_all_that_happens_to_readings() {
        let records = |seed| {
            let mut feed = Feed::new(seed, false);
            (0..40).flat_map(|_| feed.hour()).collect::<Vec<_>>()
        };
        let one = records(5);
        assert_eq!(one, records(5));
        assert_ne!(one, records(6));
        for topic in Topic::ALL {
            let partitions: std::collections::BTreeSet<i32> =
                one.iter().filter(|r| r.topic == topic).map(|r| r.partition).collect();
            assert_eq!(partitions.len() as i32, topic.partitions());
        }
        assert_eq!(Topic::ALL.map(Topic::number), [0, 1, 2, 3]);
        let sites = one.iter().filter(|r| r.topic == Topic::Sites).count() as i64;
        assert_eq!(sites, Kind::Power.meters() + Kind::Register.meters() + 39, "all at first, and then one an hour");
        let count = |what: &str| one.iter().filter(|r| String::from_utf8_lossy(&r.payload).contains(what)).count();
        assert!(count("estimated") > 100 && count("substituted") > 100);
        assert!(one.iter().filter(|r| !r.payload.ends_with(b"}")).count() > 20);
        assert!(one.windows(2).any(|pair| pair[0].timestamp_ms > pair[1].timestamp_ms));
    }

    #[test]
    fn other_meters_begin_and_no_partition_but_their_own_has_readings_of_them() {
        let mut feed = Feed::new(5, true);
        let mut all: Vec<Sent> = (0..41).flat_map(|_| feed.hour()).collect();
        feed.complete();
        all.extend((0..40).flat_map(|_| feed.hour()));
        let of = |kind: Kind, meter: i64| {
            let name = format!(r#"{{"meter_id":"{}-{meter}","#, kind.name());
            all.iter().filter(move |r| r.payload.starts_with(name.as_bytes()))
        };
        for (kind, others) in [(Kind::Energy, 10), (Kind::Power, 0), (Kind::Register, 5)] {
            let last = kind.meters() + others;
            assert_eq!(of(kind, last).count(), 0, "{kind:?}");
            assert!(last <= kind.meters_max());
            for meter in kind.meters()..last {
                let own = (meter % i64::from(kind.partitions())) as i32;
                assert!(of(kind, meter).all(|r| r.partition == own), "{kind:?} {meter}");
                // A day of quarter hours, and a few repetitions.
                assert!((80..150).contains(&of(kind, meter).count()), "{kind:?} {meter}");
            }
        }
        let said = |name: &str| all.iter().any(|r| String::from_utf8_lossy(&r.payload).contains(name));
        assert!(said(r#""series_id":"register-9""#));
    }

    #[test]
    fn stamps_are_what_they_say() {
        for hours in [0, 23, 24, 25, 24 * 30 - 1, 24 * 30, 24 * 59] {
            let at = BEGIN + hours * 3600 + 900;
            assert_eq!(instant_ms(&stamp(at)), Some(at * 1000));
        }
    }
}
