//! The readings that are sent: quarter hour by quarter hour, in each one reading of every series, as JSON in kW.

use std::io::Write;
use std::time::{Duration, Instant, SystemTime};

use meterline_schemas::time::{MINUTE, format_micros};
use meterline_tests::kafka::client;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::util::Timeout;

use super::PARTITIONS;

/// 2024-01-01T00:00:00Z, the start of the first interval.
pub const FIRST: i64 = 1_704_067_200_000_000;
/// The interval, in µs.
pub const QUARTER_HOUR: i64 = 15 * MINUTE;
const FLUSH: Duration = Duration::from_secs(300);
/// How often a paced load is sent; so finely is it spread.
const BEAT: Duration = Duration::from_millis(5);
/// Readings of a paced load that are sent at a time where it is behind.
const AT_A_TIME: u64 = 16_384;
/// How far a paced load may be behind and still make up for it.
const BEHIND: Duration = Duration::from_secs(1);

/// Where the readings of a benchmark go, and how far they have been sent.
pub struct Load {
    topic: String,
    series: u64,
    producer: BaseProducer,
    /// Readings sent so far.
    pub sent: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Their energy in kWh.
    pub energy: f64,
    payload: Vec<u8>,
    stamp: (u64, String),
}

/// What a paced load came to.
#[derive(Debug, Clone, Copy)]
pub struct Paced {
    /// When the first reading was sent.
    pub began: SystemTime,
    /// Readings per second in fact.
    pub rate: f64,
}

impl Load {
    /// A load of so many series for `topic`, in messages compressed by `compression` (`none`, `lz4`, `zstd`).
    pub fn new(brokers: &str, topic: &str, series: u64, compression: &str) -> Result<Load, KafkaError> {
        let producer = client(brokers)
            .set("linger.ms", "20")
            .set("batch.num.messages", "20000")
            .set("batch.size", "2000000")
            .set("queue.buffering.max.messages", "1000000")
            .set("queue.buffering.max.kbytes", "524288")
            .set("compression.codec", compression)
            .create()?;
        Ok(Load {
            topic: topic.to_owned(),
            series,
            producer,
            sent: 0,
            bytes: 0,
            energy: 0.0,
            payload: Vec::with_capacity(128),
            stamp: (u64::MAX, String::new()),
        })
    }

    /// Number of series.
    pub fn series(&self) -> u64 {
        self.series
    }

    /// Sends so many readings as fast as the broker takes them.
    pub fn send(&mut self, readings: u64) -> Result<(), KafkaError> {
        for _ in 0..readings {
            self.next()?;
        }
        self.flush()
    }

    /// Sends `rate` readings a second for as long as `goes_on` says so, which is asked before each `AT_A_TIME` of
    /// them and at every beat. What the machine is too slow for is not made up for later: the rate that was reached
    /// tells.
    pub fn send_paced(&mut self, rate: f64, mut goes_on: impl FnMut(&mut Load) -> bool) -> Result<Paced, KafkaError> {
        let (began, start, before) = (SystemTime::now(), Instant::now(), self.sent);
        // Readings that were due and not sent.
        let mut missed = 0;
        while goes_on(self) {
            let due = (before + (start.elapsed().as_secs_f64() * rate) as u64).saturating_sub(missed);
            let behind = due.saturating_sub(self.sent);
            missed += behind.saturating_sub((rate * BEHIND.as_secs_f64()) as u64);
            for _ in 0..behind.min(AT_A_TIME) {
                self.next()?;
            }
            self.producer.poll(Duration::ZERO);
            if behind <= AT_A_TIME {
                std::thread::sleep(BEAT);
            }
        }
        let rate = (self.sent - before) as f64 / start.elapsed().as_secs_f64();
        self.flush()?;
        Ok(Paced { began, rate })
    }

    /// Sends reading number `number` again, with another value where it is a correction.
    pub fn repeat(&mut self, number: u64, correction: bool) -> Result<(), KafkaError> {
        self.write(number, if correction { 1.0 } else { 0.0 });
        self.post(number)
    }

    /// Energy in kWh of the readings from number `first` on, as they were sent first.
    pub fn energy_from(&self, first: u64) -> f64 {
        (first..self.sent).map(|number| kilowatts(number) / 4.0).sum()
    }

    /// Waits until the broker has everything.
    pub fn flush(&self) -> Result<(), KafkaError> {
        self.producer.flush(Timeout::After(FLUSH))
    }

    fn next(&mut self) -> Result<(), KafkaError> {
        self.energy += self.write(self.sent, 0.0);
        self.bytes += self.payload.len() as u64;
        self.post(self.sent)?;
        self.sent += 1;
        if self.sent.is_multiple_of(4096) {
            self.producer.poll(Duration::ZERO);
        }
        Ok(())
    }

    // The payload of a reading; returns its energy in kWh.
    fn write(&mut self, number: u64, more: f64) -> f64 {
        let (interval, series) = (number / self.series, number % self.series);
        if self.stamp.0 != interval {
            self.stamp = (interval, format_micros(FIRST + (interval as i64 + 1) * QUARTER_HOUR));
        }
        let value = kilowatts(number) + more;
        self.payload.clear();
        // Writing to memory does not fail.
        let _ = write!(
            self.payload,
            r#"{{"meter_id":"meter-{series:06}","ts":"{}","value":{value:.4},"unit":"kW","quality":"measured"}}"#,
            self.stamp.1
        );
        value / 4.0
    }

    fn post(&self, number: u64) -> Result<(), KafkaError> {
        let partition = (number % self.series % PARTITIONS as u64) as i32;
        let mut record: BaseRecord<'_, (), Vec<u8>> =
            BaseRecord::to(&self.topic).partition(partition).payload(&self.payload);
        while let Err((error, same)) = self.producer.send(record) {
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                return Err(error);
            }
            self.producer.poll(Duration::from_millis(10));
            record = same;
        }
        Ok(())
    }
}

// Load-like digits without a random generator, a whole number of tenths of a watt: a day's wave would cost more than
// sending.
fn kilowatts(number: u64) -> f64 {
    ((number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) / 100) as f64 / 1e4
}
