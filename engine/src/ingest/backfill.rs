//! History from files, through the same aggregate and the same commits as the stream.
//!
//! A reading of a backfill has a position before every Kafka position: it never wins against one from the stream, and
//! of two backfills the later one wins. So a backfill may be repeated, whole or after a crash: the result is the same
//! (the repeated rows are revisions with the values that are there already, and those that the stream has overtaken do
//! not count).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use compact_str::CompactString;
use meterline_connectors::files::{self, FileOptions, FileReadings};
use meterline_connectors::formats::check;
use meterline_connectors::lake::Lake;
use meterline_schemas::Micros;
use meterline_schemas::config::{Config, FeedConfig, Label};
use meterline_schemas::labels::ROLLUP_PREFIX;
use meterline_schemas::reading::Position;
use serde::Serialize;

use super::bounds::{Bounds, RECORDS_MIN};
use super::brokers::Brokers;
use super::census::Census;
use super::classes::Classes;
use super::commit::{Batch, Committer, RollupStates};
use super::crew::Crew;
use super::epoch::{self, Parts, Progress, SourcePart};
use super::error::IngestError;
use super::feeds::{Restored, check_feeds, feed_rules, keep_configured, restore};
use super::idleness::Idleness;
use super::load::Kept;
use super::lock::EngineLock;
use super::names::Names;
use super::rollup;
use super::rollup::alone::Alone;
use super::rollup::changes::ForRollups;
use super::rollup::coordinate::{Rollups, first_offset, follow};
use super::rollup::series::RollupSeries;
use super::rollup::taken::Taken;
use super::segments::rewrite_from;
use super::series::PendingReading;
use super::shard::{Evicted, FeedRules, Place, Routed, Shard, ShardPart, route};
use super::state::IngestState;

/// How far a backfill is.
#[derive(Debug, Clone, PartialEq)]
pub struct BackfillProgress {
    /// The file that is being read.
    pub file: PathBuf,
    /// Its number, from 1.
    pub number: usize,
    /// Number of files.
    pub files: usize,
    /// Share of this file that is committed, 0 to 1.
    pub share: f64,
    /// Readings committed so far.
    pub readings: u64,
}

/// What a backfill did.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct BackfillReport {
    /// The feed.
    pub feed: String,
    /// Files read to their end.
    pub files: usize,
    /// Readings committed.
    pub readings: u64,
    /// Of them, those that became the first value of an interval (or a part of it).
    pub accepted: u64,
    /// Those that changed an interval already written, or may have.
    pub corrected: u64,
    /// Those that changed nothing: repeated, or overtaken by a reading with a greater position.
    pub duplicate: u64,
    /// Those that cannot be used; the table `dead_letters` says why.
    pub dead: u64,
    /// Those that wait for the native frequency of their series.
    pub pending: i64,
    /// Cells and rows left out because they could not be read.
    pub skipped: u64,
    /// Commits made.
    pub commits: u64,
    /// Wall clock seconds.
    pub seconds: f64,
}

/// Reads files into a feed. The feed's kind, label, zone and unit hold for them; a unit that a file names comes first.
/// Relative paths of the configuration are below `directory`.
///
/// # Errors
/// The feed is unknown, a file cannot be read, an engine runs on the lake, or the lake fails. What was committed before
/// stays, and running the same backfill again completes it.
pub async fn run(
    config: &Config,
    lake: &Lake,
    feed: &str,
    paths: &[PathBuf],
    options: &FileOptions,
    directory: &Path,
    mut progress: impl FnMut(BackfillProgress),
) -> Result<BackfillReport, IngestError> {
    let began = Instant::now();
    let settings = config.feed.get(feed).ok_or_else(|| unknown_feed(config, feed))?;
    let number = config.feed.keys().position(|name| name == feed).unwrap_or_default() as u16;
    if let Some(label) = options.label.filter(|label| *label != settings.label) {
        let named = |label| if label == Label::Begin { "begin" } else { "end" };
        let (asked, known) = (named(label), named(settings.label));
        let reason = format!(
            "its stamps mark the {known} of an interval (`label`), so files whose stamps mark the {asked} do not fit; give \
             them a feed of their own, or leave --label out"
        );
        return Err(IngestError::Feed { feed: feed.to_owned(), reason });
    }
    let options = FileOptions {
        label: options.label.or(Some(settings.label)),
        zone: options.zone.clone().or_else(|| Some(settings.zone.clone())),
        ..options.clone()
    };
    // A file that cannot be opened is found before anything is written.
    for path in paths {
        files::open(path, &options)?;
    }
    let _lock = EngineLock::exclusive(lake)?;
    let mut committer = Committer::claim(lake).await?;
    let state = Arc::clone(&committer.committed().state);
    check_feeds(config, &state)?;
    rollup::coordinate::check_backfill(config, &state)?;
    let start = rollup::restore::start(config, directory, committer.states(), &state).await?;
    if start.is_some() {
        committer = committer.never_declining();
    }
    let names = Names::of(config);
    let bounds = Bounds::of(config, Crew::alone(1));
    let taken = Arc::new(Taken::default());
    let for_rollups = start.as_ref().map(|start| {
        let (plan, givers) = (Arc::clone(&start.plan), Arc::clone(&start.givers));
        ForRollups::new(plan, givers, Arc::clone(&taken))
    });
    let mut rollups = start.map(|start| {
        let series = RollupSeries::new(Arc::clone(&start.plan), names.first_rollup());
        let rollups = Rollups::new(Arc::clone(&start.plan), series, Vec::new());
        (rollups, Alone::new(start, first_offset(committer.fence()), &bounds.shard, taken))
    });
    let rules: Arc<[FeedRules]> = feed_rules(config)?.into();
    let classes = Classes::load(config, directory).await?;
    let mut shard = Shard::new(Arc::clone(&rules), bounds.shard).by_classes(Arc::clone(&classes), 1);
    if let Some(for_rollups) = for_rollups {
        shard = shard.for_rollups(for_rollups);
    }
    let mut evicted = Evicted::default();
    let take = |(feed, series, kept): Restored| match (&mut rollups, kept) {
        (Some((rollups, _)), kept) if series.id.starts_with(ROLLUP_PREFIX) => {
            rollups.series.restore(series, kept.written());
        }
        (_, Kept::InMemory(written)) => shard.restore(feed, series, written),
        (_, Kept::Evicted) => {
            evicted.add(rules.get(usize::from(feed)).map(|rules| (feed, &rules.rules.zone)), &series, &classes);
        }
    };
    restore(config, committer.states(), &state, &rules, take).await?;
    shard.restore_evicted(evicted);
    let mut census = Census::new(config);
    census.change(shard.census_changes());
    if let Some((rollups, _)) = &mut rollups {
        census.change(rollups.series.census_changes());
    }
    committer.set_census(Arc::new(census));
    let mut run = Run {
        config,
        names,
        committer,
        rollups,
        feed: number,
        settings: settings.clone(),
        count_max: bounds.records,
        started_ms: jiff::Timestamp::now().as_millisecond(),
        next_row: 0,
        changed: 0,
        report: BackfillReport { feed: feed.to_owned(), ..BackfillReport::default() },
    };
    let mut shard = Some(shard);
    for (index, path) in paths.iter().enumerate() {
        let mut readings = files::open(path, &options)?;
        loop {
            let Some(mine) = shard.take() else { return Err(lost()) };
            let (mut mine, rest, count) = run.fill(mine, readings).await?;
            while let Some(wanted) = mine.wanted() {
                mine.resolve(run.committer.look_up(&wanted).await?)?;
            }
            let (mine, part) = run.finish(mine, count).await?;
            shard = Some(mine);
            readings = rest;
            let ended = part.count == 0;
            // A part without readings may have states that were to be written again.
            if !ended || part.part.has_states() {
                run.commit(part).await?;
            }
            progress(BackfillProgress {
                file: path.clone(),
                number: index + 1,
                files: paths.len(),
                share: if ended { 1.0 } else { readings.progress() },
                readings: run.report.readings,
            });
            if ended {
                break;
            }
        }
        run.report.files += 1;
        run.report.skipped += readings.skipped();
    }
    run.report.seconds = began.elapsed().as_secs_f64();
    Ok(run.report)
}

fn unknown_feed(config: &Config, feed: &str) -> IngestError {
    let known: Vec<&str> = config.feed.keys().map(String::as_str).collect();
    let reason = match known.is_empty() {
        true => "no feed is configured; add a [feed.NAME] with topic, series, time and value".to_owned(),
        false => format!("there is no such feed; the configuration has {}", known.join(", ")),
    };
    IngestError::Feed { feed: feed.to_owned(), reason }
}

fn lost() -> IngestError {
    IngestError::Fault("the backfill lost its series".into())
}

/// The readings of one commit.
struct Filled {
    count: u64,
    inputs: Vec<rollup::Input>,
    part: ShardPart,
    place: Place,
    census: Census,
}

struct Run<'a> {
    config: &'a Config,
    names: Names,
    // The coordinator's side of roll-ups, and the workers'.
    rollups: Option<(Rollups, Alone)>,
    committer: Committer,
    feed: u16,
    settings: FeedConfig,
    // Readings between two commits at most: an epoch is in memory as a whole.
    count_max: u64,
    started_ms: i64,
    next_row: i64,
    // Series that change with a commit, about.
    changed: u64,
    report: BackfillReport,
}

impl Run<'_> {
    // Reads up to one commit's readings, on a thread that may block.
    async fn fill(
        &mut self,
        mut shard: Shard,
        mut readings: FileReadings,
    ) -> Result<(Shard, FileReadings, u64), IngestError> {
        let (feed, unit, started_ms) = (self.feed, self.settings.unit.clone(), self.started_ms);
        let (count_min, count_max) = (RECORDS_MIN.min(self.count_max), self.count_max);
        let first_row = self.next_row;
        let (prefix, kind) = (self.settings.series_prefix.clone(), self.settings.kind);
        let filling = move || -> Result<(Shard, FileReadings, u64), IngestError> {
            let mut count = 0;
            while count < count_max && (count < count_min || !shard.full()) {
                let Some(reading) = readings.next() else { break };
                let reading = reading?;
                let series = CompactString::from(prefix.as_str()) + &reading.series;
                let unit = reading.unit.unwrap_or_else(|| unit.clone());
                let reading = PendingReading {
                    at: reading.at,
                    value: reading.value,
                    scale: unit.scale(),
                    quality: reading.quality,
                    position: Position::backfill(started_ms, first_row + count as i64),
                };
                count += 1;
                if let Err(refusal) = check(&series, reading.at, reading.value, &unit, kind) {
                    shard.refuse(feed, &reading, refusal.reason, refusal.detail);
                    continue;
                }
                // Nothing of a backfill is late.
                shard.apply(Routed { feed, route: route(&series), series, unit, reading, labels: None }, Micros::MIN);
            }
            Ok((shard, readings, count))
        };
        let filled = tokio::task::spawn_blocking(filling)
            .await
            .map_err(|error| IngestError::Fault(format!("reading a file: {error}")))??;
        self.next_row += filled.2 as i64;
        Ok(filled)
    }

    // Ends the epoch of `count` readings.
    async fn finish(&mut self, mut shard: Shard, count: u64) -> Result<(Shard, Filled), IngestError> {
        let known = self.committer.committed();
        let rewrite_from = rewrite_from(&known.state.segments, self.changed);
        let place = Place { seq: known.state.seq + 1, rewrite_from };
        let mut census = Census::clone(&known.census);
        let finishing = move || -> Result<(Shard, Filled), IngestError> {
            let part = shard.finish(place)?;
            census.change(shard.census_changes());
            let inputs = shard.rollup_inputs();
            Ok((shard, Filled { count, inputs, part, place, census }))
        };
        tokio::task::spawn_blocking(finishing)
            .await
            .map_err(|error| IngestError::Fault(format!("aggregating the readings of a file: {error}")))?
    }

    async fn commit(&mut self, mut filled: Filled) -> Result<(), IngestError> {
        let mut state = IngestState::clone(&self.committer.committed().state);
        keep_configured(self.config, &mut state);
        let partition = Position::BACKFILL_PARTITION;
        let known = state.feeds.get(&self.report.feed).and_then(|feed| feed.partitions.get(&partition));
        let before = known.map(|known| known.counts).unwrap_or_default();
        let read = known.map_or(0, |known| known.next_offset) + filled.count as i64;
        let progress = Progress {
            next_offset: read,
            end_offset: read,
            records: filled.count,
            ..Progress::begin(self.feed, partition, 0)
        };
        let source = SourcePart { epoch: filled.part.epoch, partitions: vec![progress], dead: vec![] };
        let mut parts = Parts { sources: vec![source], shards: vec![filled.part], ..Parts::default() };
        epoch::add(&mut state, &parts, &self.names);
        self.changed = parts.shards.iter().map(|part| part.changed).sum();
        let (mut states, evicted) = (parts.take_states(), parts.take_evicted());
        // Where there is a stream, its partitions alone say how far it is.
        if let Some(mine) = state.feeds.remove(&self.report.feed) {
            let only_files = mine.partitions.keys().all(|known| *known == partition);
            let mut alone = BTreeMap::from([(self.report.feed.clone(), mine)]);
            if only_files {
                let (now, nobody) = (Instant::now(), Brokers::new(Instant::now()));
                Idleness::default().advance(&mut alone, &filled.census, self.config, &nobody, now);
            }
            state.feeds.append(&mut alone);
        }
        follow(self.config, &mut state.feeds);
        let (mut of_rollups, mut remembered) = (None, RollupStates::default());
        if let Some((rollups, alone)) = &mut self.rollups {
            let members = rollups.place(&state);
            let parts = alone.epoch(std::mem::take(&mut filled.inputs), members, &self.committer).await?;
            let (rows, made, states_of) =
                rollups.commit(self.config, parts, filled.place, &mut state, &mut filled.census)?;
            states.append(made);
            (of_rollups, remembered) = (Some(rows), states_of);
        }
        state.committed_at = jiff::Timestamp::now().as_microsecond();
        let after = state.feeds.get(&self.report.feed).and_then(|feed| feed.partitions.get(&partition));
        if let Some(after) = after.map(|after| after.counts) {
            self.report.accepted += after.accepted - before.accepted;
            self.report.corrected += after.corrected - before.corrected;
            self.report.duplicate += after.duplicate - before.duplicate;
            self.report.dead += after.dead - before.dead;
            self.report.pending += after.pending as i64 - before.pending as i64;
        }
        self.report.readings += filled.count;
        self.report.commits += 1;
        let (intervals, dead_letters) = epoch::rows(parts, of_rollups, state.committed_at)?;
        let (rewrite_from, census) = (filled.place.rewrite_from, Arc::new(filled.census));
        let rollups = remembered;
        let batch = Batch { intervals, dead_letters, state, states, evicted, rewrite_from, rollups, census };
        let committed = self.committer.commit(batch).await?;
        tracing::info!(commit = committed.state.seq, readings = filled.count, "committed a part of the backfill");
        Ok(())
    }
}
