//! The engine's part of the job alone: readings made in memory → rows of intervals and states, ready to be written.

use std::sync::{Arc, Barrier};
use std::time::Instant;

use compact_str::CompactString;
use meterline::ingest::aggregate::Rules;
use meterline::ingest::bounds::Bounds;
use meterline::ingest::crew::Crew;
use meterline::ingest::series::PendingReading;
use meterline::ingest::shard::{FeedRules, Place, Routed, Shard, route};
use meterline_schemas::config::{Config, FeedConfig};
use meterline_schemas::reading::{Position, Quality};
use meterline_schemas::unit::Unit;
use meterline_schemas::{Frequency, Micros};

use super::Failure;
use super::engine::Known;
use super::load::{FIRST, QUARTER_HOUR};

/// As a source hands them on.
const BATCH: usize = 1024;
/// Readings of a series at least: a day of them. That it is new counts for little then, as it does in operation.
const DAY: u64 = 96;

/// What one worker did.
#[derive(Debug, Clone, Copy)]
pub struct Worked {
    /// Readings per second.
    pub rate: f64,
    /// Rows that came of them.
    pub rows: u64,
}

/// Readings of so many series through the shards of all workers at once, a thread a processor; by worker.
pub fn run(readings: u64, series: u64, frequency: Known) -> Result<Vec<Worked>, Failure> {
    let workers = std::thread::available_parallelism()?.get() as u64;
    let series = (series / workers).max(1);
    let readings = (readings / workers / series).max(DAY) * series;
    let together = Barrier::new(workers as usize);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers)
            .map(|worker| {
                let together = &together;
                scope.spawn(move || {
                    work(worker, workers, (readings, series), frequency, together).map_err(|error| error.to_string())
                })
            })
            .collect();
        threads.into_iter().map(|thread| Ok(thread.join().map_err(|_| "a worker panicked")??)).collect()
    })
}

// What a worker does between its source and the committer, epoch by epoch. All use of the engine's inside is here.
fn work(
    worker: u64,
    workers: u64,
    (readings, series): (u64, u64),
    frequency: Known,
    together: &Barrier,
) -> Result<Worked, Failure> {
    let ids: Vec<CompactString> = (0..series).map(|number| format!("meter-{worker}-{number:06}").into()).collect();
    let config = Config::default();
    let bounds = Bounds::of(&config, Crew::alone(workers as usize));
    let mut feed = FeedConfig::new("readings", "meter_id", "ts", "value");
    feed.frequency = (frequency == Known::Declared).then_some(Frequency::QUARTER_HOUR);
    let rules = Rules::new(&feed, config.ingest.remembered_intervals)?;
    let (name, topic) = (Arc::from("meters"), Arc::from("readings"));
    let mut shard = Shard::new([FeedRules { name, topic, rules, bad_records: feed.bad_records }].into(), bounds.shard);
    let epoch_max = bounds.records / workers;
    let mut batch: Vec<Routed> = Vec::with_capacity(BATCH);
    let (mut sent, mut in_epoch, mut rows) = (0, 0, 0);
    together.wait();
    let began = Instant::now();
    while sent < readings {
        for number in sent..readings.min(sent + BATCH as u64) {
            let interval = (number / series) as i64;
            let id = &ids[(number % series) as usize];
            let at = FIRST + (interval + 1) * QUARTER_HOUR;
            let position = Position { timestamp_ms: at / 1000, partition: worker as i32, offset: number as i64 };
            let value = (number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f64 / 1e6;
            let (unit, quality) = (Unit::KW, Quality::Measured);
            let reading = PendingReading { at, value, scale: unit.scale(), quality, position };
            batch.push(Routed { feed: 0, route: route(id), series: id.clone(), unit, reading, labels: None });
        }
        sent += batch.len() as u64;
        in_epoch += batch.len() as u64;
        shard.take(batch.drain(..), |_| Micros::MIN);
        if in_epoch >= epoch_max || sent >= readings {
            in_epoch = 0;
            let part = shard.finish(Place { seq: 1, rewrite_from: i64::MAX })?;
            rows += part.rows.iter().map(|rows| rows.rows.len() as u64).sum::<u64>();
            std::hint::black_box(part);
            shard.census_changes().drain().for_each(drop);
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    if rows != readings {
        return Err(format!("{readings} readings became {rows} intervals").into());
    }
    Ok(Worked { rate: readings as f64 / seconds, rows })
}
