//! The coordinator: closes epochs, collects their parts from the workers, and commits them; in between it serves
//! housekeeping.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use compact_str::CompactString;
use meterline_connectors::lake::CommitError;
use meterline_schemas::config::Config;
use meterline_schemas::time::format_micros;
use tokio::sync::{mpsc as channel, oneshot, watch};

use super::brokers::Brokers;
use super::census::Census;
use super::cluster::{Down, Links};
use super::commit::{Batch, Committer, RollupStates};
use super::control::{Control, Places};
use super::dataflow::Event;
use super::dead_letters::{self, by_reason};
use super::declined::Declined;
use super::discovery::{Report, Reported};
use super::epoch::{self, Parts};
use super::error::IngestError;
use super::feeds::keep_configured;
use super::idleness::Idleness;
use super::inbox::Inbox;
use super::load::Committed;
use super::names::Names;
use super::outlet::Outlet;
use super::pulse::{Committing, Pulse};
use super::recall::{ROWS_MAX, Recalled};
use super::requests::Request;
use super::rollup::ask::Asked;
use super::rollup::coordinate::{Rollups, follow};
use super::segments::rewrite_from;
use super::shard::Place;
use super::state::{IngestState, PartitionState};
use super::told::outcomes;

/// How often the coordinator looks whether an epoch is to be closed.
const LOOK: Duration = Duration::from_millis(20);
/// How long the sources must have found nothing, after a full epoch, until the next one is closed before its time.
const CAUGHT_UP: Duration = Duration::from_millis(500);
/// How often it looks whether idle partitions let the watermark go on.
const IDLE_LOOK: Duration = Duration::from_secs(1);
/// How long workers may take to finish an epoch before the log mentions it.
const SLOW_EPOCH: Duration = Duration::from_secs(30);

fn out_of_turn() -> IngestError {
    IngestError::Fault("a part of an epoch came out of turn".into())
}

// Who asked may have gone away: then the log tells what failed.
fn answer<T>(
    reply: oneshot::Sender<Result<T, CommitError>>,
    result: Result<T, CommitError>,
    doing: &'static str,
) -> Result<(), IngestError> {
    let fenced = result.as_ref().err().and_then(CommitError::fenced);
    if let Err(Err(error)) = reply.send(result) {
        tracing::warn!(%error, "{doing} for housekeeping, which has ended meanwhile, failed");
    }
    fenced.map_or(Ok(()), |fenced| Err(IngestError::Fenced(fenced)))
}

/// Closes epochs, collects their parts, and commits them.
pub(super) struct Coordinator {
    pub(super) config: Config,
    pub(super) committer: Committer,
    pub(super) control: Arc<Control>,
    /// To the other processes.
    pub(super) links: Arc<Links>,
    pub(super) events: Inbox,
    pub(super) names: Names,
    pub(super) rollups: Option<Rollups>,
    /// The next epoch has something to do, whatever is read in it.
    pub(super) go_on: bool,
    pub(super) workers: usize,
    /// Of them, those for which series are looked up at a time: what is found for so many fits into this process.
    pub(super) lookups_at_once: usize,
    pub(super) idleness: Idleness,
    // By worker.
    pub(super) recalled: Vec<Outlet<Recalled>>,
    pub(super) brokers: Brokers,
    pub(super) pulse: Pulse,
    pub(super) letters: dead_letters::Counted,
    pub(super) publish: watch::Sender<Option<Arc<Committed>>>,
    pub(super) report: Arc<Mutex<Option<Report>>>,
    pub(super) requests: channel::Receiver<Request>,
    pub(super) stopped: watch::Receiver<bool>,
}

impl Coordinator {
    /// Until the stream is to stop, or cannot go on. Once it has begun `starting` is over.
    ///
    /// # Errors
    /// Why it cannot go on.
    pub(super) async fn run(mut self, starting: Committing) -> Result<(), IngestError> {
        // As with a commit: whoever looks sees how long it takes, and a stop does not wait for it.
        self.pulse.awaits_workers();
        let mut stopped = self.stopped.clone();
        tokio::select! {
            begun = self.begin() => begun?,
            // Nothing was read. Without a sender nobody can stop the stream any more but by ending it.
            _ = stopped.wait_for(|stop| *stop) => return Ok(()),
        }
        drop(starting);
        let mut was_full = false;
        // Series that change with the next commit, about.
        let mut changed = 0;
        loop {
            // Also where the stream never has to wait.
            if let Ok(request) = self.requests.try_recv() {
                self.serve(request).await?;
            }
            let stop = self.wait_until_due(was_full).await?;
            was_full = self.control.full();
            let known = &self.committer.committed().state;
            let series = Place { seq: known.seq + 1, rewrite_from: rewrite_from(&known.segments, changed) };
            let members = self.rollups.as_ref().map_or(Place::NOWHERE, |rollups| rollups.place(known));
            let places = Places { series, members };
            let epoch = self.control.open_next(places);
            self.links.tell(|| Down::Open { epoch, places, stopping: stop });
            // What the workers look up is part of it.
            let committing = self.pulse.begins(Instant::now());
            let parts = self.collect(epoch).await?;
            changed = parts.shards.iter().map(|part| part.changed).sum();
            self.go_on = parts.rollups.go_on();
            let news = parts.has_states() || parts.rollups.has_news();
            if parts.records() > 0 || parts.has_gaps() || news || self.caught_up(&parts) {
                self.commit(parts, series).await?;
            }
            drop(committing);
            if stop {
                return Ok(());
            }
        }
    }

    // The census of the series that the stream begins with comes from the workers.
    async fn begin(&mut self) -> Result<(), IngestError> {
        let mut census = Census::new(&self.config);
        let mut told = 0;
        while told < self.workers {
            match self.events.recv().await {
                Some(Event::Census(part)) if part.epoch == 0 => {
                    census.add(part.counts);
                    told += 1;
                }
                // Labels that hold from the first epoch on may move what was there before: its end waits for that.
                Some(Event::Asked(asked)) => self.answer(asked, 0).await?,
                Some(Event::Failed(error)) => return Err(error),
                Some(_) => return Err(out_of_turn()),
                None => return Err(IngestError::Fault("all workers of the stream ended".into())),
            }
        }
        if let Some(rollups) = &mut self.rollups {
            census.change(rollups.series.census_changes());
        }
        self.committer.set_census(Arc::new(census));
        self.make_known();
        Ok(())
    }

    // What roll-ups ask for; `ending` is the epoch that ends, 0 where none does.
    async fn answer(&mut self, asked: Asked, ending: u64) -> Result<(), IngestError> {
        match &mut self.rollups {
            Some(rollups) => rollups.answer(asked, ending, &self.committer).await,
            None => Err(out_of_turn()),
        }
    }

    // Until the open epoch is to be closed; whether it is the last one.
    async fn wait_until_due(&mut self, was_full: bool) -> Result<bool, IngestError> {
        let opened = Instant::now();
        let interval = self.config.ingest.commit_interval.to_std();
        let mut looked = Instant::now();
        loop {
            if *self.stopped.borrow_and_update() {
                return Ok(true);
            }
            if self.go_on {
                return Ok(false);
            }
            let news = self.control.has_news();
            // The end of a backlog becomes visible at once.
            let caught_up = was_full && self.control.quiet() >= CAUGHT_UP;
            if news && (opened.elapsed() >= interval || self.control.full() || caught_up) {
                return Ok(false);
            }
            if self.control.records() == 0 && looked.elapsed() >= IDLE_LOOK {
                self.commit_idle().await?;
                looked = Instant::now();
                // What is behind may be nothing to read (an aborted transaction): ask the sources how far they are.
                if self.lags() {
                    return Ok(false);
                }
            }
            tokio::select! {
                event = self.events.recv() => match event {
                    Some(Event::Failed(error)) => return Err(error),
                    // It concerns an epoch that has not begun to end.
                    Some(Event::Asked(asked)) => self.answer(asked, 0).await?,
                    Some(_) => return Err(out_of_turn()),
                    None => return Err(IngestError::Fault("all workers of the stream ended".into())),
                },
                Some(request) = self.requests.recv() => self.serve(request).await?,
                // A sender that is gone means that nobody can stop the stream any more but by ending it.
                changed = self.stopped.changed() => if changed.is_err() {
                    return Ok(true);
                },
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    // Serves housekeeping. A fault of the store is its to tell, and does not end the stream; a newer writer does.
    async fn serve(&mut self, request: Request) -> Result<(), IngestError> {
        match request {
            Request::Settle(reply) => {
                const DOING: &str = "confirming that this is the one writer";
                let _confirming = self.pulse.begins_other("housekeeping", Instant::now());
                self.pulse.does(DOING);
                let settled = self.committer.confirm().await;
                answer(reply, settled, DOING)
            }
            Request::Rewrite { table, rewrite, reply } => {
                let _rewriting = self.pulse.begins_other("housekeeping", Instant::now());
                self.pulse.does("rewriting files");
                let rewritten = self.committer.rewrite(table, &rewrite).await;
                // Nothing that anybody waits for is new.
                self.publish.send_if_modified(|known| {
                    if known.is_some() {
                        *known = Some(Arc::new(self.committer.committed().clone()));
                    }
                    false
                });
                answer(reply, rewritten, "rewriting files")
            }
        }
    }

    // Whether something is behind, as far as the newest commit knows.
    fn lags(&self) -> bool {
        let feeds = &self.committer.committed().state.feeds;
        feeds.values().flat_map(|feed| feed.partitions.values()).any(|p| p.lag() > 0)
    }

    // Whether a partition that was behind no longer is.
    fn caught_up(&self, parts: &Parts) -> bool {
        let feeds = &self.committer.committed().state.feeds;
        parts.sources.iter().flat_map(|part| &part.partitions).any(|now| {
            let known = feeds.get(self.names.name(now.feed)).and_then(|f| f.partitions.get(&now.partition));
            known.is_some_and(|p| p.end_offset > p.next_offset) && now.end_offset <= now.next_offset
        })
    }

    async fn collect(&mut self, epoch: u64) -> Result<Parts, IngestError> {
        let (mut parts, mut declined) = (Parts::default(), Declined::default());
        if let Some(rollups) = &mut self.rollups {
            rollups.answer_waiting(epoch, &self.committer).await?;
        }
        while !parts.complete(self.workers, self.rollups.is_some()) {
            // Whatever was looked up before is done.
            self.pulse.awaits_workers();
            let event = match tokio::time::timeout(SLOW_EPOCH, self.events.recv()).await {
                Ok(Some(event)) => event,
                Ok(None) => return Err(IngestError::Fault("all workers of the stream ended".into())),
                Err(_) => {
                    let (sources, shards, of) = (parts.sources.len(), parts.shards.len(), self.workers);
                    tracing::warn!(epoch, sources, shards, of, "waiting for the workers to finish an epoch");
                    continue;
                }
            };
            match event {
                Event::Failed(error) => return Err(error),
                Event::Source(part) if part.epoch == epoch => parts.sources.push(part),
                Event::Shard(part) if part.epoch == epoch => parts.shards.push(part),
                Event::Census(part) if part.epoch == epoch => parts.census.push(part),
                Event::Members(part) if part.epoch == epoch => parts.rollups.members.push(part),
                Event::Groups(part) if part.epoch == epoch => parts.rollups.groups.push(part),
                Event::Asked(asked) => self.answer(asked, epoch).await?,
                Event::Wanted { worker, wanted } if !wanted.series.is_empty() => {
                    self.look_up_series(epoch, worker, wanted.series).await?;
                }
                Event::Wanted { worker, wanted } => {
                    let began = Instant::now();
                    let found = self.committer.look_up(&wanted).await?;
                    if found.declined {
                        self.pulse.lookup_declined();
                        declined.add(&wanted);
                    }
                    let (intervals, samples) = (found.intervals.len(), found.samples.len());
                    let took_ms = began.elapsed().as_millis() as u64;
                    tracing::debug!(
                        epoch,
                        worker,
                        intervals,
                        samples,
                        declined = found.declined,
                        took_ms,
                        "looked up what was written earlier"
                    );
                    self.recalled[worker].send(found);
                }
                Event::Source(_) | Event::Shard(_) | Event::Census(_) | Event::Members(_) | Event::Groups(_) => {
                    return Err(out_of_turn());
                }
            }
        }
        if let Some(feeds) = declined.feeds(&self.names) {
            tracing::warn!(
                epoch,
                feeds,
                lookups = declined.lookups(),
                rows_max = ROWS_MAX,
                "whether readings of old intervals are new or repeat what is there was not looked up: it would have taken \
                 more rows than rows_max; they are written, and counted as corrected: intervals are right, counts of \
                 corrections may be too high; load history by `meterline backfill`, which looks up everything, or \
                 raise ingest.remembered_intervals and ingest.memory_limit"
            );
        }
        Ok(parts)
    }

    // One pass over the runs for all workers whose requests are there: what they want lies side by side.
    async fn look_up_series(
        &mut self,
        epoch: u64,
        worker: usize,
        series: Vec<CompactString>,
    ) -> Result<(), IngestError> {
        let began = Instant::now();
        let others = self.events.take_series_wanted(self.lookups_at_once.saturating_sub(1));
        let (workers, asked): (Vec<usize>, Vec<Vec<CompactString>>) =
            std::iter::once((worker, series)).chain(others).unzip();
        let wanted: usize = asked.iter().map(Vec::len).sum();
        let found = self.committer.look_up_series(asked).await?;
        let series: u64 = found.iter().map(|found| found.series.series).sum();
        let took_ms = began.elapsed().as_millis() as u64;
        tracing::debug!(epoch, ?workers, wanted, series, took_ms, "looked up series that are not in memory");
        for (worker, found) in workers.into_iter().zip(found) {
            self.recalled[worker].send(found);
        }
        Ok(())
    }

    async fn commit(&mut self, mut parts: Parts, place: Place) -> Result<(), IngestError> {
        let began = Instant::now();
        let records = parts.records();
        let known = Arc::clone(&self.committer.committed().state);
        let mut state = IngestState::clone(&known);
        keep_configured(&self.config, &mut state);
        epoch::add(&mut state, &parts, &self.names);
        let mut census = Census::clone(&self.committer.committed().census);
        parts.census.drain(..).for_each(|part| census.add(part.counts));
        self.idleness.heard(&parts, &self.names, began);
        self.idleness.advance(&mut state.feeds, &census, &self.config, &self.brokers, began);
        follow(&self.config, &mut state.feeds);
        let before = state.committed_at;
        state.committed_at = jiff::Timestamp::now().as_microsecond();
        parts.rates(&mut state, self.names.all(), before);
        let (mut states, evicted) = (parts.take_states(), parts.take_evicted());
        let (mut of_rollups, mut rollups) = (None, RollupStates::default());
        if let Some(mine) = &mut self.rollups {
            let parts = std::mem::take(&mut parts.rollups);
            let (rows, made, remembered) = mine.commit(&self.config, parts, place, &mut state, &mut census)?;
            states.append(made);
            (of_rollups, rollups) = (Some(rows), remembered);
        }
        let letters = parts.sources.iter().flat_map(|part| &part.dead);
        let letters = by_reason(letters.chain(parts.shards.iter().flat_map(|part| &part.dead)));
        let (intervals, dead_letters) = epoch::rows(parts, of_rollups, state.committed_at)?;
        let (rows, dead) = (intervals.len(), dead_letters.as_ref().map_or(0, RecordBatch::num_rows));
        let (rewrite_from, census) = (place.rewrite_from, Arc::new(census));
        let batch = Batch { intervals, dead_letters, state, states, evicted, rewrite_from, rollups, census };
        let committed = self.committer.commit(batch).await?;
        self.letters.add(letters);
        let partitions = committed.state.feeds.values().flat_map(|feed| feed.partitions.values());
        let lag: i64 = partitions.map(PartitionState::lag).sum();
        let watermark = committed.state.feeds.values().filter_map(|feed| feed.watermark).min();
        tracing::info!(
            commit = committed.state.seq,
            records,
            rows,
            dead_letters = dead,
            outcomes = outcomes(&known.feeds, &committed.state.feeds),
            lag,
            watermark = watermark.map(format_micros),
            took_ms = began.elapsed().as_millis() as u64,
            "committed"
        );
        self.make_known();
        Ok(())
    }

    // No records, but partitions that have become idle may let the watermark go on.
    async fn commit_idle(&mut self) -> Result<(), IngestError> {
        let Committed { state: known, census, .. } = self.committer.committed().clone();
        if known.seq == 0 {
            return Ok(());
        }
        let mut feeds = known.feeds.clone();
        if !self.idleness.advance(&mut feeds, &census, &self.config, &self.brokers, Instant::now()) {
            return Ok(());
        }
        follow(&self.config, &mut feeds);
        let state =
            IngestState { feeds, committed_at: jiff::Timestamp::now().as_microsecond(), ..IngestState::clone(&known) };
        let batch = Batch::of_state(state, census);
        let _committing = self.pulse.begins(Instant::now());
        let committed = self.committer.commit(batch).await?;
        tracing::debug!(commit = committed.state.seq, "idle partitions no longer hold the watermark");
        self.make_known();
        Ok(())
    }

    // Tells everybody about the newest commit.
    fn make_known(&self) {
        let committed = self.committer.committed();
        if committed.state.seq == 0 {
            return;
        }
        let (mut report, mut watermarks) = (Report::new(), Vec::new());
        for (number, name) in self.names.all().iter().enumerate() {
            let Some(feed) = committed.state.feeds.get(name) else { continue };
            if let Some(watermark) = feed.watermark {
                self.control.set_watermark(number, watermark);
                watermarks.push((number, watermark));
            }
            let live = feed.partitions.iter().filter(|(partition, _)| **partition >= 0);
            report.extend(live.map(|(partition, read)| Reported {
                feed: number as u16,
                partition: *partition,
                incarnation: read.incarnation,
                first_offset: read.first_offset,
                next_offset: read.next_offset,
            }));
        }
        self.links.tell(|| Down::Watermarks(watermarks));
        if let Ok(mut newest) = self.report.lock() {
            *newest = Some(report);
        }
        self.publish.send_replace(Some(Arc::new(committed.clone())));
    }
}
