//! The source side of one worker: partitions in, readings and counts out.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use meterline_connectors::formats::{Decoder, LabelDecoder, Refusal};
use meterline_connectors::kafka::source::{Assignment, RawRecord, Source};
use meterline_schemas::Micros;
use meterline_schemas::config::BadRecords;
use meterline_schemas::reading::Position;
use meterline_schemas::time::{Span, format_micros};

use super::dataflow::{Common, Event, ReadTopic};
use super::dead_letters::DeadLetter;
use super::discovery::{Change, Command, GivenBack, Order};
use super::epoch::{Progress, SourcePart};
use super::error::IngestError;
use super::outlet::Outlet;
use super::rollup::{Input, LabelChange};
use super::series::PendingReading;
use super::shard::{Routed, route};

/// Records that are polled before the dataflow gets its turn: what they become fits into a processor's own cache.
const BATCH: usize = 1024;
/// How often it is looked whether what follows the last record of a partition is nothing to read.
const LOOK: Duration = Duration::from_millis(250);

/// How long an epoch may be full before the client is told to fetch nothing more.
const REST_AFTER: Duration = Duration::from_secs(5);

/// The source side of one worker.
pub struct Reader {
    // Its place among those that read.
    worker: usize,
    common: Common,
    source: Source,
    decoders: Decoders,
    commands: Receiver<Command>,
    given_back: Outlet<GivenBack>,
    // All that it ever read, each with whether it is being read now; a place in here is the tag of an assignment.
    partitions: Vec<(Progress, bool)>,
    looked: Instant,
    // Since when nothing was read because nothing may be.
    waits: Option<Instant>,
    dead: Vec<DeadLetter>,
    dead_bytes: usize,
    /// Readings that were read last.
    pub batch: Vec<Routed>,
    /// Labels that were read last.
    pub labels: Vec<Input>,
}

/// What makes something of records.
pub struct Decoders {
    /// Readings, by number of the feed.
    pub feeds: Vec<Decoder>,
    /// Labels, by number of the topic after that of the last feed, with the number of their source.
    pub labels: Vec<(u16, LabelDecoder)>,
}

impl Reader {
    /// One without partitions; they come as commands. `worker` is its place among those that read.
    pub fn new(
        worker: usize,
        common: Common,
        source: Source,
        decoders: Decoders,
        commands: Receiver<Command>,
        given_back: Outlet<GivenBack>,
    ) -> Reader {
        Reader {
            worker,
            common,
            source,
            decoders,
            commands,
            given_back,
            partitions: Vec::new(),
            looked: Instant::now(),
            waits: None,
            dead: Vec::new(),
            dead_bytes: 0,
            batch: Vec::with_capacity(BATCH),
            labels: Vec::new(),
        }
    }

    /// Does what discovery says.
    ///
    /// # Errors
    /// The client refuses a partition.
    pub fn obey(&mut self) -> Result<(), IngestError> {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::GiveBack => self.give_back("a topic is gone, or is another one"),
                Command::Read(order) => self.take(order)?,
            }
        }
        if let Some(reason) = self.source.doubt().map(str::to_owned) {
            self.give_back(&reason);
        }
        Ok(())
    }

    fn take(&mut self, order: Order) -> Result<(), IngestError> {
        let Order { topic, topic_id, begin, change, end_offset } = order;
        let is = |(known, _): &(Progress, bool)| (known.feed, known.partition) == (begin.feed, begin.partition);
        let tag = match self.partitions.iter().position(is) {
            Some(known) => known,
            None => {
                self.partitions.push((begin, false));
                self.partitions.len() - 1
            }
        };
        let (progress, reading) = &mut self.partitions[tag];
        if progress.is_new() {
            (progress.first_offset, progress.next_offset) = (begin.first_offset, begin.next_offset);
        }
        change.apply(progress, topic_id, end_offset);
        if change != Change::None {
            self.common.control.passed();
        }
        *reading = change != Change::Gone;
        if *reading {
            let (partition, next_offset) = (progress.partition, progress.next_offset);
            let assignment = Assignment { topic, topic_id: progress.topic_id, partition, next_offset, tag };
            self.source.assign(std::slice::from_ref(&assignment))?;
        }
        Ok(())
    }

    fn give_back(&mut self, reason: &str) {
        self.source.close();
        let mut partitions = Vec::new();
        for (progress, reading) in &mut self.partitions {
            if std::mem::take(reading) {
                partitions.push(*progress);
            }
        }
        self.given_back.send(GivenBack { worker: self.worker, reason: reason.to_owned(), partitions });
    }

    /// Polls and decodes one batch of an epoch. Returns how many records there were.
    ///
    /// # Errors
    /// Going on would lose records, or one cannot be decoded and its feed is to fail then.
    pub fn read(&mut self, epoch: u64) -> Result<usize, IngestError> {
        self.waits = None;
        let Reader { common, source, decoders, partitions, dead, dead_bytes, batch, labels, .. } = self;
        let mut failed = None;
        // A machine that starts without its clock set would refuse everything.
        let now = Timestamp::now().as_microsecond().max(common.not_before);
        let count = source.poll(BATCH, Duration::ZERO, |record| {
            let (progress, _) = &mut partitions[record.tag];
            progress.read(record.offset);
            let position =
                Position { timestamp_ms: record.timestamp_ms, partition: progress.partition, offset: record.offset };
            let number = usize::from(progress.feed);
            let decoded = match (stamped_ahead(position, now, &common.topics[number]), decoders.feeds.get_mut(number)) {
                (Some(refusal), _) => Err(refusal),
                (None, Some(decoder)) => decoder.decode(record.payload, position).map(|reading| {
                    batch.push(Routed {
                        feed: progress.feed,
                        route: route(&reading.series),
                        series: reading.series,
                        reading: PendingReading {
                            at: reading.at,
                            value: reading.value,
                            scale: reading.unit.scale(),
                            quality: reading.quality,
                            position,
                        },
                        unit: reading.unit,
                        labels: decoder.labels().cloned(),
                    });
                }),
                (None, None) => {
                    let (of, decoder) = &mut decoders.labels[number - decoders.feeds.len()];
                    let said = decoder.decode(record.key, record.payload, record.timestamp_ms);
                    said.map(|said| {
                        progress.said_labels(record.timestamp_ms);
                        labels.push(Input::Label(LabelChange::new(*of, said, position)));
                    })
                }
            };
            match decoded {
                Ok(()) => {}
                Err(refusal) => {
                    progress.dead += 1;
                    let feed = &common.topics[number];
                    match feed.bad_records {
                        BadRecords::Skip => {}
                        BadRecords::DeadLetter => {
                            let letter = dead_letter(feed, position, &record, refusal);
                            *dead_bytes += letter.bytes();
                            dead.push(letter);
                        }
                        BadRecords::Fail => {
                            failed.get_or_insert_with(|| IngestError::BadRecord {
                                feed: feed.name.to_string(),
                                topic: feed.topic.to_string(),
                                partition: position.partition,
                                offset: position.offset,
                                refusal: refusal.to_string(),
                            });
                        }
                    }
                }
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        if count > 0 {
            self.common.control.found(count as u64);
        }
        if self.dead_bytes >= self.common.bounds.dead_bytes {
            self.common.control.fill(epoch);
        }
        if self.looked.elapsed() >= LOOK {
            self.look();
        }
        Ok(count)
    }

    /// The epoch is full, or the stream is to stop: nothing is read. If that takes long, fetching is paused; until
    /// then, what was fetched ahead is there when reading goes on.
    ///
    /// # Errors
    /// Going on would lose records.
    pub fn wait(&mut self) -> Result<(), IngestError> {
        let now = Instant::now();
        if now - *self.waits.get_or_insert(now) >= REST_AFTER {
            self.source.rest()?;
        }
        Ok(())
    }

    // What follows the last record that was handed out may be marks of transactions, and transactions that were
    // aborted: nothing to read, and so nothing that is behind.
    fn look(&mut self) {
        self.looked = Instant::now();
        let mut passed = false;
        for (tag, position) in self.source.positions() {
            passed |= self.partitions[tag].0.pass(position);
        }
        if passed {
            self.common.control.passed();
        }
    }

    /// Leaves an epoch: the coordinator gets what it brought.
    pub fn hand_in(&mut self, epoch: u64) {
        self.look();
        let mut partitions = Vec::with_capacity(self.partitions.len());
        for (progress, reading) in &mut self.partitions {
            let topic = &self.common.topics[usize::from(progress.feed)].topic;
            // Of several known ends the latest counts.
            let end = self.source.end_offset(topic, progress.partition).filter(|_| *reading);
            progress.end_offset = progress.end_offset.max(progress.next_offset).max(end.unwrap_or(i64::MIN));
            partitions.push(progress.hand_in());
        }
        self.dead_bytes = 0;
        let part = SourcePart { epoch, partitions, dead: std::mem::take(&mut self.dead) };
        self.common.events.send(Event::Source(part));
    }

    /// The stream cannot go on.
    pub fn fail(&self, error: IngestError) {
        self.common.events.send(Event::Failed(error));
    }
}

/// Reason of a record that is stamped far ahead of the wall clock. Of all that is known of a feed's progress, record time
/// stamps are what is believed, and of two readings of an interval the one of the later record counts: one such record
/// would close all intervals to come, and could never be corrected.
const RECORD_TIME_AHEAD: &str = "record_time_ahead";

// Why a record cannot be used that is stamped so far after `now`, the wall clock in microseconds.
fn stamped_ahead(position: Position, now: Micros, topic: &ReadTopic) -> Option<Refusal> {
    let stamped = position.known_at_ms()?.saturating_mul(1_000);
    let ahead = stamped.saturating_sub(now);
    (ahead > topic.max_ahead).then(|| {
        let detail = format!(
            "the record is stamped {}, {} after the clock of this machine (or the last commit, where that is later): the \
             producer's clock is wrong (brokers refuse such records where `message.timestamp.after.max.ms` of the topic \
             says so), or this machine's is, or more than {} should be allowed (`max_ahead` of a feed)",
            format_micros(stamped),
            Span(ahead),
            Span(topic.max_ahead)
        );
        Refusal::new(RECORD_TIME_AHEAD, detail)
    })
}

fn dead_letter(feed: &ReadTopic, position: Position, record: &RawRecord<'_>, refusal: Refusal) -> DeadLetter {
    let (feed, topic) = (Arc::clone(&feed.name), Arc::clone(&feed.topic));
    let Refusal { reason, detail } = refusal;
    DeadLetter { feed, topic, position, key: None, payload: None, reason: reason.into(), detail }
        .with_bytes(record.key, record.payload)
}

#[cfg(test)]
mod tests {
    use meterline_schemas::time::{DAY, HOUR};

    use super::*;

    #[test]
    fn a_record_from_the_future_cannot_be_used() {
        let topic =
            ReadTopic { name: "f".into(), topic: "t".into(), bad_records: BadRecords::DeadLetter, max_ahead: DAY };
        let now = 1_700_000_000_000_000;
        let of = |stamped: Micros| {
            stamped_ahead(Position { timestamp_ms: stamped / 1_000, partition: 0, offset: 0 }, now, &topic)
        };
        // Clocks of producers may differ from ours, and without a time stamp there is nothing to be wrong.
        for stamped in [-1_000, 0, now - 900 * DAY, now, now + HOUR, now + DAY] {
            assert_eq!(of(stamped), None, "{stamped}");
        }
        for stamped in [now + DAY + HOUR, now + 30_000 * DAY, Micros::MAX] {
            let refusal = of(stamped).unwrap();
            assert_eq!(refusal.reason, RECORD_TIME_AHEAD);
            assert!(refusal.detail.contains("max_ahead") && refusal.detail.contains("1d"), "{refusal}");
        }
    }
}
