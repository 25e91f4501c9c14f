//! Records in the order in which they are sent.
//!
//! Readings on time need no queue: within one moment the meters send one after the other, in a fixed order. Only what
//! is sent later (late readings, duplicates, corrections) waits in a heap.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::ops::Range;

use jiff::tz::TimeZone;
use meterline_schemas::time::{HOUR, SECOND};
use meterline_schemas::{Frequency, Micros};

use super::config::{Class, FleetConfig, FleetError, Form};
use super::dirt::{Fate, fate};
use super::load::Shapes;
use super::meter::{Meter, frequency, region_name};
use super::noise::{between, hash};
use super::record::{FleetRecord, RecordKind, Sent, scale, write_id};
use super::weather::{Climate, Moment, samples};

/// The first meter sends a second after the interval's end, the last one this much later.
const SPREAD: Micros = 20 * SECOND;

/// A simulated fleet: an iterator of records in send order. When its time has passed it sends what is still on the way.
pub struct Fleet {
    config: FleetConfig,
    zone: TimeZone,
    shapes: Shapes,
    climate: Climate,
    /// In the order in which they send: by frequency, then by number.
    meters: Vec<Meter>,
    groups: Vec<Group>,
    /// State of each meter's register, in tenths of a watt-hour; empty when no meter has one.
    registers: Vec<i64>,
    /// Groups whose interval ends now.
    active: Vec<usize>,
    /// Place in `active`, and the next meter.
    cursor: Option<(usize, u32)>,
    delayed: BinaryHeap<Reverse<Sent>>,
    sequence: u64,
    counts: FleetCounts,
}

/// The meters of one frequency.
struct Group {
    frequency: Frequency,
    ranks: Range<u32>,
    start: Micros,
    end: Micros,
    moments: Vec<Moment>,
}

/// What was sent so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FleetCounts {
    /// Records of every kind.
    pub records: u64,
    /// Intervals of which a reading was sent (or will be, when it is late).
    pub readings: u64,
    /// Intervals of which none is sent: gaps and outages.
    pub lost: u64,
    /// Readings that come late.
    pub late: u64,
    /// Records sent twice.
    pub duplicates: u64,
    /// Readings that are corrected.
    pub corrections: u64,
    /// Records that cannot be read.
    pub malformed: u64,
    /// Readings whose stamp is off.
    pub skewed: u64,
}

/// A meter as documentation and tests see it.
#[derive(Debug, Clone, PartialEq)]
pub struct MeterInfo {
    /// Series identifier.
    pub id: String,
    /// Its number.
    pub number: u32,
    /// Native frequency.
    pub frequency: Frequency,
    /// What it sends.
    pub form: Form,
    /// Kind of meter.
    pub class: Class,
    /// Name of its region.
    pub region: &'static str,
    /// By how much its clock is ahead.
    pub skew: Micros,
}

impl Fleet {
    /// A fleet before its first record.
    ///
    /// # Errors
    /// The configuration is wrong.
    pub fn new(config: FleetConfig) -> Result<Fleet, FleetError> {
        let zone = config.check()?;
        let mut by_frequency: BTreeMap<Frequency, Vec<u32>> = BTreeMap::new();
        for number in 0..config.meters {
            by_frequency.entry(frequency(&config, number)).or_default().push(number);
        }
        let mut meters = Vec::with_capacity(config.meters as usize);
        let mut groups = Vec::new();
        for (frequency, numbers) in by_frequency {
            let first = meters.len() as u32;
            meters.extend(numbers.into_iter().map(|n| Meter::new(&config, n, frequency.nominal_micros())));
            let floor = frequency.floor(config.from, &zone);
            let start = if floor < config.from { frequency.advance(floor, 1, &zone) } else { floor };
            let end = frequency.advance(start, 1, &zone);
            groups.push(Group { frequency, ranks: first..meters.len() as u32, start, end, moments: Vec::new() });
        }
        let first_state = |m: &Meter| (between(hash(m.seed, 50), 0.0, 40_000.0) * 10_000.0) as i64;
        let any_register = meters.iter().any(|m: &Meter| m.form == Form::Register);
        let registers = if any_register { meters.iter().map(first_state).collect() } else { Vec::new() };
        Ok(Fleet {
            shapes: Shapes::new(),
            climate: Climate::new(config.seed, config.regions, zone.clone()),
            config,
            zone,
            meters,
            groups,
            registers,
            active: Vec::new(),
            cursor: None,
            delayed: BinaryHeap::new(),
            sequence: 0,
            counts: FleetCounts::default(),
        })
    }

    /// The configuration.
    pub const fn config(&self) -> &FleetConfig {
        &self.config
    }

    /// What was sent so far.
    pub const fn counts(&self) -> FleetCounts {
        self.counts
    }

    /// The meters, by frequency and number.
    pub fn meters(&self) -> impl Iterator<Item = MeterInfo> + '_ {
        self.groups.iter().flat_map(move |group| {
            self.meters[group.ranks.start as usize..group.ranks.end as usize].iter().map(move |m| {
                let mut id = String::new();
                write_id(&mut id, m.number);
                MeterInfo {
                    id,
                    number: m.number,
                    frequency: group.frequency,
                    form: m.form,
                    class: m.class,
                    region: region_name(u32::from(m.region)),
                    skew: Micros::from(m.skew_s) * SECOND,
                }
            })
        })
    }

    /// Number of meters by frequency.
    pub fn frequencies(&self) -> Vec<(Frequency, usize)> {
        self.groups.iter().map(|g| (g.frequency, g.ranks.len())).collect()
    }

    /// Mean power in kW of meter `number` over an interval, before rounding and whatever happens to its reading. `None`
    /// if the fleet has no such meter.
    pub fn power(&self, number: u32, start: Micros, end: Micros) -> Option<f64> {
        let meter = self.meters.iter().find(|m| m.number == number)?;
        let moments: Vec<Moment> = samples(start, end).map(|at| self.climate.moment(at)).collect();
        Some(mean_power(&self.shapes, meter, &moments))
    }

    /// Writes the next record into `record`; false when there is none. Faster than iterating, because it reuses memory.
    pub fn next_into(&mut self, record: &mut FleetRecord) -> bool {
        let Some(sent) = self.advance() else { return false };
        self.counts.records += 1;
        let meter = &self.meters[sent.rank as usize];
        let group = self.groups.iter().find(|g| g.ranks.contains(&sent.rank));
        let frequency = group.map_or(Frequency::QUARTER_HOUR, |g| g.frequency);
        record.write(&sent, meter, frequency, self.config.labels.then_some(self.config.regions));
        true
    }

    fn advance(&mut self) -> Option<Sent> {
        loop {
            let Some((place, rank)) = self.cursor else {
                if !self.open_moment() {
                    return self.delayed.pop().map(|Reverse(sent)| sent);
                }
                continue;
            };
            let group = &self.groups[self.active[place]];
            if rank == group.ranks.end {
                self.close_group(place);
                continue;
            }
            let send_at = group.end + SECOND + SPREAD * i64::from(rank) / self.meters.len() as i64;
            if self.delayed.peek().is_some_and(|Reverse(sent)| sent.send_at <= send_at) {
                return self.delayed.pop().map(|Reverse(sent)| sent);
            }
            self.cursor = Some((place, rank + 1));
            if let Some(sent) = self.read(self.active[place], rank, send_at) {
                return Some(sent);
            }
        }
    }

    /// Goes to the next moment at which intervals end; false when the fleet's time has passed.
    fn open_moment(&mut self) -> bool {
        let Some(now) = self.groups.iter().map(|g| g.end).min().filter(|now| *now <= self.config.to) else {
            return false;
        };
        self.active = (0..self.groups.len()).filter(|&g| self.groups[g].end == now).collect();
        for &g in &self.active {
            let group = &mut self.groups[g];
            group.moments = samples(group.start, group.end).map(|at| self.climate.moment(at)).collect();
        }
        self.cursor = Some((0, self.groups[self.active[0]].ranks.start));
        true
    }

    fn close_group(&mut self, place: usize) {
        let group = &mut self.groups[self.active[place]];
        group.start = group.end;
        group.end = group.frequency.advance(group.start, 1, &self.zone);
        self.cursor = self.active.get(place + 1).map(|&next| (place + 1, self.groups[next].ranks.start));
    }

    /// One meter reads one interval; `Some` is sent now.
    fn read(&mut self, group: usize, rank: u32, send_at: Micros) -> Option<Sent> {
        let group = &self.groups[group];
        let (start, end) = (group.start, group.end);
        let meter = &self.meters[rank as usize];
        let fate = fate(&self.config.dirt, meter.seed, start, end);
        // A register runs on whether it is read or not.
        if fate == Fate::Lost && meter.form != Form::Register {
            self.counts.lost += 1;
            return None;
        }
        let power = mean_power(&self.shapes, meter, &group.moments);
        let hours = (end - start) as f64 / HOUR as f64;
        let fixed = |value: f64| (value * scale(meter.form) as f64).round() as i64;
        let (before, right) = match meter.form {
            Form::Kw => (0, fixed(power)),
            Form::Kwh => (0, fixed(power * hours)),
            Form::Register => {
                let register = &mut self.registers[rank as usize];
                let before = *register;
                *register += fixed(power * hours).max(0);
                (before, *register)
            }
        };
        let sent = |send_at, sequence, kind, fixed, estimated| Sent {
            send_at,
            sequence,
            rank,
            kind,
            start,
            end,
            fixed,
            estimated,
        };
        self.sequence += 4;
        let sequence = self.sequence;
        match fate {
            Fate::Lost => {
                self.counts.lost += 1;
                None
            }
            Fate::Malformed(how) => {
                self.counts.malformed += 1;
                Some(sent(send_at, sequence, RecordKind::Malformed, (how >> 8) as i64, false))
            }
            Fate::Sent { delay, duplicate, correction } => {
                self.counts.readings += 1;
                self.counts.late += u64::from(delay > 0);
                self.counts.duplicates += u64::from(duplicate.is_some());
                self.counts.corrections += u64::from(correction.is_some());
                self.counts.skewed += u64::from(meter.skew_s != 0);
                let value = correction.map_or(right, |(_, source)| estimate(meter.form, before, right, source));
                let estimated = correction.is_some();
                let send_at = send_at + delay;
                if let Some(after) = duplicate {
                    let again = sent(send_at + after, sequence + 1, RecordKind::Duplicate, value, estimated);
                    self.delayed.push(Reverse(again));
                }
                if let Some((after, _)) = correction {
                    let correction = sent(send_at + after, sequence + 2, RecordKind::Correction, right, false);
                    self.delayed.push(Reverse(correction));
                }
                if delay > 0 {
                    self.delayed.push(Reverse(sent(send_at, sequence, RecordKind::Late, value, estimated)));
                    return None;
                }
                Some(sent(send_at, sequence, RecordKind::Reading, value, estimated))
            }
        }
    }
}

/// A wrong value: half to one and a half of the right one; of a register, a state between the last and the right one.
fn estimate(form: Form, before: i64, right: i64, source: u64) -> i64 {
    match form {
        Form::Register => before + ((right - before) as f64 * between(source, 0.2, 0.9)) as i64,
        Form::Kw | Form::Kwh => (right as f64 * between(source, 0.5, 1.5)).round() as i64 + 1,
    }
}

fn mean_power(shapes: &Shapes, meter: &Meter, moments: &[Moment]) -> f64 {
    moments.iter().map(|moment| shapes.power(meter, moment)).sum::<f64>() / moments.len().max(1) as f64
}

impl Iterator for Fleet {
    type Item = FleetRecord;

    fn next(&mut self) -> Option<FleetRecord> {
        let mut record = FleetRecord::empty();
        self.next_into(&mut record).then_some(record)
    }
}
