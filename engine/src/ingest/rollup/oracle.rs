//! Random cases, and what is right for them, computed in one go from everything that was ever said: no state, no
//! differences, nothing shared with what is tested but the grid and the configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::tz::TimeZone;
use meterline_schemas::config::{Config, FeedConfig, LabelsConfig, RollupConfig, RollupFrequency, RollupValue};
use meterline_schemas::labels::LabelValues;
use meterline_schemas::reading::{Position, Quality};
use meterline_schemas::time::{DAY, HOUR, MINUTE, SECOND, Span};
use meterline_schemas::unit::Unit;
use meterline_schemas::{Frequency, Micros};
use meterline_tests::dice::Dice;

use super::super::rows::Content;
use super::{Input, IntervalChange, LabelChange};

const BEGIN: Micros = 1_711_756_800 * SECOND; // 2024-03-30T00:00:00Z: a day before the clocks change

/// A reading of one interval.
#[derive(Debug, Clone)]
pub struct Read {
    pub series: usize,
    pub start: Micros,
    pub end: Micros,
    pub frequency: Frequency,
    pub content: Content,
    pub labels: Option<LabelValues>,
}

#[derive(Debug, Clone)]
pub enum Said {
    Read(Read),
    Label(usize, LabelChange),
}

#[derive(Debug, Clone)]
pub struct Series {
    pub id: Arc<str>,
    pub feed: u16,
    pub unit: Unit,
}

/// One case: a configuration, and what is said in which epoch.
pub struct Case {
    pub config: Config,
    pub series: Vec<Series>,
    /// By epoch, from 1.
    pub epochs: Vec<Vec<Said>>,
}

fn choose(dice: &Dice, prefix: &str) -> Option<Arc<str>> {
    match dice.roll(5) {
        0 => None,
        n => Some(format!("{prefix}{}", n % 3).into()),
    }
}

fn config(dice: &Dice) -> Config {
    let mut config = Config::default();
    let mut a = FeedConfig::new("a", "s", "t", "v");
    a.labels = [("feeder".into(), "f".into()), ("site".into(), "s".into())].into();
    a.zone = "Europe/Berlin".into();
    config.feed.insert("a".into(), a);
    config.feed.insert("b".into(), FeedConfig::new("b", "s", "t", "v"));
    let mut labels = BTreeMap::from([("region".to_owned(), "r".to_owned())]);
    if dice.one_in(2) {
        labels.insert("site".into(), "s".into());
    }
    config.labels.insert(
        "meta".into(),
        LabelsConfig {
            file: None,
            topic: Some("meta".into()),
            series: "series_id".into(),
            valid_from: "valid_from".into(),
            labels,
            series_prefix: String::new(),
            zone: "UTC".into(),
        },
    );
    for name in ["grid", "other"].iter().take(1 + dice.roll(2) as usize) {
        let by: &[&str] = dice.pick(&[&["region", "feeder", "site"][..], &["region"], &["feeder", "site"]]);
        let mut rollup = RollupConfig::new(by);
        if dice.one_in(4) {
            rollup.feeds = vec!["a".into()];
        }
        let mut frequencies: Vec<RollupFrequency> =
            ["native", "PT30M", "PT1H", "P1D", "P1W"].iter().map(|text| text.parse().unwrap()).collect();
        frequencies.retain(|_| !dice.one_in(2));
        if !frequencies.is_empty() {
            rollup.frequencies = frequencies;
        }
        if dice.one_in(4) {
            rollup.value = RollupValue::Mean;
        }
        if dice.one_in(5) {
            rollup.unit = "degC".parse().unwrap();
        }
        rollup.zone = dice.pick(&["UTC", "Europe/Berlin"]).into();
        if dice.one_in(3) {
            rollup.unlabelled = Some("none".into());
        }
        rollup.remembered = dice.pick(&[Span(0), Span(6 * HOUR), Span(30 * DAY)]);
        config.rollup.insert((*name).into(), rollup);
    }
    config
}

impl Case {
    pub fn random(seed: u64) -> Case {
        let dice = Dice::new(seed);
        let dice = &dice;
        let config = config(dice);
        let mut offset = 0;
        let mut position = |dice: &Dice| {
            offset += 1;
            Position { timestamp_ms: dice.roll(40) as i64, partition: dice.roll(3) as i32, offset }
        };
        let mut series = Vec::new();
        let mut said = Vec::new();
        for number in 0..1 + dice.roll(7) as usize {
            let feed = dice.roll(2) as u16;
            let unit: Unit = dice.pick(&["kWh", "kWh", "kWh", "degC"]).parse().unwrap();
            series.push(Series { id: format!("s{number}").into(), feed, unit });
            let zone = TimeZone::get(if feed == 0 { "Europe/Berlin" } else { "UTC" }).unwrap();
            let mut frequency: Frequency = dice.pick(&["PT15M", "PT15M", "PT30M", "PT1H", "P1D"]).parse().unwrap();
            let first = BEGIN + dice.roll(24) as i64 * HOUR;
            let mut at = frequency.floor(first, &zone);
            for _ in 0..1 + dice.roll(20) {
                if dice.one_in(25) {
                    // The meter is exchanged.
                    frequency = dice.pick(&["PT15M", "PT1H"]).parse().unwrap();
                    at = frequency.advance(frequency.floor(at, &zone), 1, &zone);
                }
                let end = frequency.advance(at, 1, &zone);
                for _ in 0..1 + dice.roll(5) / 3 {
                    let content = Content {
                        value: (dice.roll(2_000_000) as f64 - 500_000.0) / 1e3,
                        count: 1,
                        quality: dice.pick(&[Quality::Measured, Quality::Estimated, Quality::Substituted]),
                        position: position(dice),
                    };
                    let labels: Option<LabelValues> = (feed == 0).then(|| {
                        if dice.one_in(8) {
                            return [None, None].into();
                        }
                        let feeder = if dice.one_in(4) { choose(dice, "f") } else { Some("f1".into()) };
                        [feeder, if dice.one_in(6) { choose(dice, "s") } else { Some("s1".into()) }].into()
                    });
                    let read = Said::Read(Read { series: number, start: at, end, frequency, content, labels });
                    for _ in 0..1 + dice.roll(6) / 5 {
                        said.push(read.clone());
                    }
                }
                let gap = if dice.one_in(4) { dice.roll(6) as i64 } else { 0 };
                at = frequency.advance(end, gap, &zone);
            }
            for _ in 0..dice.roll(4) {
                let site = config.labels["meta"].labels.len() > 1;
                let mut labels = vec![choose(dice, "r")];
                labels.extend(site.then(|| choose(dice, "s")));
                // Some say it for ever, some since an instant at which no interval needs to start.
                let valid_from = if dice.one_in(3) { Micros::MIN } else { BEGIN + dice.roll(4000) as i64 * MINUTE };
                let id = Arc::clone(&series[number].id);
                let label =
                    LabelChange { source: 0, series: id, valid_from, labels: labels.into(), position: position(dice) };
                said.push(Said::Label(number, label));
            }
        }
        // Either about in order or not at all.
        if dice.one_in(2) {
            said.sort_by_key(|said| match said {
                Said::Read(read) => read.start,
                Said::Label(_, label) => label.valid_from,
            });
            for _ in 0..said.len() / 4 {
                let (a, b) = (dice.roll(said.len() as u64) as usize, dice.roll(said.len() as u64) as usize);
                said.swap(a, b);
            }
        } else {
            dice.shuffle(&mut said);
        }
        let mut epochs: Vec<Vec<Said>> = (0..1 + dice.roll(6)).map(|_| Vec::new()).collect();
        let (count, total) = (epochs.len(), said.len());
        for (index, said) in said.into_iter().enumerate() {
            epochs[index * count / total].push(said);
        }
        Case { config, series, epochs }
    }

    /// The same for a whole stream, where a series has one frequency (a quarter hour in the first feed, an hour in the
    /// second), and positions are those of records: which those will be is told by `position`.
    pub fn for_stream(mut self, mut position: impl FnMut(&Said, Position) -> Position) -> Case {
        for (feed, frequency) in self.config.feed.values_mut().zip([Frequency::QUARTER_HOUR, Frequency::HOUR]) {
            feed.frequency = Some(frequency);
        }
        let mut starts: BTreeMap<usize, BTreeSet<Micros>> = BTreeMap::new();
        for said in self.epochs.iter().flatten() {
            if let Said::Read(read) = said {
                starts.entry(read.series).or_default().insert(read.start);
            }
        }
        for said in self.epochs.iter_mut().flatten() {
            match said {
                Said::Read(read) => {
                    let frequency =
                        if self.series[read.series].feed == 0 { Frequency::QUARTER_HOUR } else { Frequency::HOUR };
                    let place = starts[&read.series].range(..read.start).count() as i64;
                    // With a gap now and then.
                    let place = place + place / 5 + read.series as i64;
                    read.frequency = frequency;
                    read.start = BEGIN + place * frequency.nominal_micros();
                    read.end = read.start + frequency.nominal_micros();
                }
                Said::Label(_, label) => label.valid_from = label.valid_from.max(BEGIN - 10 * DAY),
            }
            let known = match said {
                Said::Read(read) => read.content.position,
                Said::Label(_, label) => label.position,
            };
            let now = position(said, known);
            match said {
                Said::Read(read) => read.content.position = now,
                Said::Label(_, label) => label.position = now,
            }
        }
        self
    }

    /// By epoch what the roll-ups are told, and by epoch the intervals as they were before it.
    #[expect(clippy::type_complexity, reason = "two lists that are taken apart at once")]
    pub fn inputs(&self) -> (Vec<Vec<Input>>, Vec<BTreeMap<(usize, Micros), Read>>) {
        let mut known: BTreeMap<(usize, Micros), Read> = BTreeMap::new();
        let mut before = Vec::new();
        let inputs = self.epochs.iter().map(|said| {
            before.push(known.clone());
            said.iter()
                .filter_map(|said| match said {
                    Said::Label(_, change) => Some(Input::Label(change.clone())),
                    Said::Read(read) => {
                        let key = (read.series, read.start);
                        let old = known.get(&key).filter(|old| old.frequency == read.frequency).map(|old| old.content);
                        if known.get(&key).is_some_and(|known| known.content.position >= read.content.position) {
                            return None;
                        }
                        known.insert(key, read.clone());
                        let series = &self.series[read.series];
                        Some(Input::Interval(IntervalChange {
                            series: Arc::clone(&series.id),
                            feed: series.feed,
                            start: read.start,
                            end: read.end,
                            frequency: read.frequency,
                            unit: series.unit.clone(),
                            old,
                            new: Some(read.content),
                            labels: read.labels.clone(),
                        }))
                    }
                })
                .collect()
        });
        let inputs = inputs.collect();
        before.push(known.clone());
        (inputs, before)
    }

    /// What the roll-ups have to be in the end, by series and start.
    /// And how many intervals belong to no group.
    pub fn truth(&self) -> (BTreeMap<(String, Micros), Truth>, i64) {
        let mut intervals: BTreeMap<usize, BTreeMap<Micros, Read>> = BTreeMap::new();
        let mut statements: BTreeMap<usize, BTreeMap<Micros, LabelChange>> = BTreeMap::new();
        for said in self.epochs.iter().flatten() {
            match said {
                Said::Read(read) => {
                    let known = intervals.entry(read.series).or_default().entry(read.start).or_insert(read.clone());
                    if read.content.position > known.content.position {
                        *known = read.clone();
                    }
                }
                Said::Label(series, label) => {
                    let known = statements.entry(*series).or_default().entry(label.valid_from).or_insert(label.clone());
                    if label.position > known.position {
                        *known = label.clone();
                    }
                }
            }
        }
        let (mut truth, mut unlabelled) = (BTreeMap::new(), 0);
        for (name, rollup) in &self.config.rollup {
            let takes = |series: &Series| {
                let feed = if series.feed == 0 { "a" } else { "b" };
                (rollup.feeds.is_empty() || rollup.feeds.iter().any(|f| f == feed)) && series.unit == rollup.unit
            };
            let members: Vec<Meter<'_>> = intervals
                .iter()
                .filter(|(number, _)| takes(&self.series[**number]))
                .map(|(number, intervals)| Meter { case: self, intervals, statements: statements.get(number) })
                .collect();
            self.rolled_up(name, rollup, &members, &mut truth);
            let starts = members.iter().flat_map(|meter| meter.intervals.keys().map(move |start| (meter, *start)));
            unlabelled += starts.filter(|(meter, start)| meter.groups(rollup, *start).is_empty()).count() as i64;
        }
        (truth, unlabelled)
    }

    fn rolled_up(
        &self,
        name: &str,
        rollup: &RollupConfig,
        members: &[Meter<'_>],
        truth: &mut BTreeMap<(String, Micros), Truth>,
    ) {
        let zone = TimeZone::get(&rollup.zone).unwrap();
        let listed: BTreeSet<Frequency> = rollup
            .frequencies
            .iter()
            .filter_map(|f| if let RollupFrequency::Every(f) = f { Some(*f) } else { None })
            .collect();
        let native = rollup.frequencies.contains(&RollupFrequency::Native);
        let weighted = rollup.value == RollupValue::Mean && rollup.unit != Unit::KWH;
        let mut slots: BTreeMap<(String, Frequency, Micros), (Micros, Truth)> = BTreeMap::new();
        for read in members.iter().flat_map(|meter| meter.intervals.values().map(move |read| (meter, read))) {
            let (meter, read) = read;
            let mut lengths = listed.clone();
            if native {
                lengths.insert(read.frequency);
            }
            for length in lengths {
                let start = length.floor(read.start, &zone);
                let end = length.advance(start, 1, &zone);
                if read.end > end {
                    continue;
                }
                for group in meter.groups(rollup, read.start) {
                    let (_, slot) = slots.entry((group, length, start)).or_insert((end, Truth::default()));
                    let seconds = (read.end - read.start) / SECOND;
                    let amount = (read.content.value * 1e6).round() as i128;
                    slot.amount += if weighted { amount * i128::from(seconds) } else { amount };
                    slot.present += seconds;
                    slot.intervals[read.content.quality as usize] += 1;
                }
            }
        }
        for ((group, length, start), (end, mut found)) in slots {
            for meter in members {
                // Between two of these instants nothing changes.
                let mut instants: BTreeSet<Micros> = [start, end].into();
                instants.extend(meter.intervals.keys());
                instants.extend(meter.statements.iter().flat_map(|statements| statements.keys()));
                let instants: Vec<Micros> = instants.into_iter().filter(|at| (start..=end).contains(at)).collect();
                for pair in instants.windows(2) {
                    let counted = listed.contains(&length) || meter.frequency(pair[0]) == Some(length);
                    if counted && meter.groups(rollup, pair[0]).contains(&group) {
                        found.expected += (pair[1] - pair[0]) / SECOND;
                    }
                }
            }
            truth.insert((format!("rollup.{name}:{group}@{length}"), start), found);
        }
    }
}

/// What a roll-up interval has to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Truth {
    pub amount: i128,
    pub present: i64,
    pub intervals: [i64; 3],
    pub expected: i64,
}

struct Meter<'a> {
    case: &'a Case,
    intervals: &'a BTreeMap<Micros, Read>,
    statements: Option<&'a BTreeMap<Micros, LabelChange>>,
}

impl Meter<'_> {
    // Groups from the top down at an instant; none before the first interval.
    fn groups(&self, rollup: &RollupConfig, at: Micros) -> Vec<String> {
        let Some((_, newest)) = self.intervals.range(..=at).next_back() else { return Vec::new() };
        let said = self.statements.and_then(|statements| statements.range(..=at).next_back());
        let mut groups: Vec<String> = Vec::new();
        for label in &rollup.by {
            let of_source = self.case.config.labels["meta"].labels.keys().position(|known| known == label);
            let given = of_source.and_then(|place| said?.1.labels[place].clone());
            let place = ["feeder", "site"].iter().position(|known| known == label);
            let own = place.and_then(|place| newest.labels.as_ref()?[place].clone());
            let Some(value) = given.or(own).map(|v| v.to_string()).or_else(|| rollup.unlabelled.clone()) else { break };
            let level = format!("{label}={value}");
            groups.push(groups.last().map_or(level.clone(), |above| format!("{above}/{level}")));
        }
        groups
    }

    fn frequency(&self, at: Micros) -> Option<Frequency> {
        let mut firsts: BTreeMap<Frequency, Micros> = BTreeMap::new();
        for read in self.intervals.values() {
            firsts.entry(read.frequency).or_insert(read.start);
        }
        firsts.into_iter().filter(|(_, first)| *first <= at).map(|(f, first)| (first, f)).max().map(|(_, f)| f)
    }
}
