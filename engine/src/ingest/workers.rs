//! What the workers of one process start with: their part of the last commit, and the channels to them.

use std::path::Path;
use std::sync::{Arc, mpsc};

use meterline_connectors::formats::{Decoder, LabelDecoder};
use meterline_schemas::Micros;
use meterline_schemas::config::Config;
use meterline_schemas::labels::ROLLUP_PREFIX;

use super::bounds::Bounds;
use super::classes::Classes;
use super::crew::Crew;
use super::dataflow::{self, RollupSetup, Setup};
use super::discovery::{Command, GivenBack};
use super::error::IngestError;
use super::feeds::{Restored, restore};
use super::load::{Kept, States};
use super::names::Names;
use super::outlet::Outlet;
use super::reader::Decoders;
use super::recall::Recalled;
use super::rollup;
use super::rollup::ask::Answers;
use super::rollup::plan::Plan;
use super::rollup::series::RollupSeries;
use super::series::SeriesState;
use super::shard::{Evicted, FeedRules, route};
use super::state::IngestState;

/// What the workers of a process are made of.
pub(super) struct Start<'a> {
    pub(super) config: &'a Config,
    /// Where the states of the last commit are read from.
    pub(super) states: States<'a>,
    /// Where relative paths of the configuration begin.
    pub(super) directory: &'a Path,
    pub(super) names: &'a Names,
    pub(super) feeds: &'a [FeedRules],
    /// The last commit.
    pub(super) state: &'a IngestState,
    /// Of the writer that goes on after it.
    pub(super) fence: i64,
    pub(super) crew: Crew,
    pub(super) bounds: &'a Bounds,
    /// To discovery.
    pub(super) given_back: Outlet<GivenBack>,
}

/// The workers of a process, about to start.
pub(super) struct Prepared {
    /// One a worker.
    pub(super) setups: Vec<Setup>,
    /// The ways to them, in the same order.
    pub(super) inlets: Vec<Inlet>,
    /// Where there are roll-ups: these, and the series that they make, which process 0 restores.
    pub(super) rollups: Option<(Arc<Plan>, RollupSeries)>,
    /// Labels hold from the first epoch on, whatever is read in it.
    pub(super) go_on: bool,
    /// Number of series in their shards.
    pub(super) series: usize,
    /// Of those that are in the lake alone.
    pub(super) evicted: usize,
    /// When the last commit was made.
    pub(super) committed_at: Micros,
}

/// The series that a shard starts with.
#[derive(Default)]
struct ShardSeries {
    in_memory: Vec<(u16, SeriesState, i64)>,
    evicted: Evicted,
}

/// The ways to one worker.
#[derive(Clone)]
pub(super) struct Inlet {
    pub(super) commands: Outlet<Command>,
    pub(super) recalled: Outlet<Recalled>,
    /// Where there are roll-ups.
    pub(super) answers: Option<Answers>,
}

impl Start<'_> {
    /// Restores the series of the workers of this process.
    ///
    /// # Errors
    /// The lake cannot be read, or the configuration does not fit what was committed.
    pub(super) async fn prepare(self) -> Result<Prepared, IngestError> {
        let Start { config, states, names, feeds, state, crew, .. } = &self;
        let start = rollup::restore::start(config, self.directory, *states, state).await?;
        let go_on = start.as_ref().is_some_and(|start| !start.labels.is_empty());
        let (mut rollups, rollup_setups) = match start {
            Some(start) => {
                let series = RollupSeries::new(Arc::clone(&start.plan), names.first_rollup());
                (Some((Arc::clone(&start.plan), series)), self.rollup_setups(start))
            }
            None => (None, Vec::new()),
        };
        let classes = Classes::load(config, self.directory).await?;
        for (selector, series) in classes.taken() {
            let (frequency, label, value) = (selector.frequency, &selector.label, &selector.value);
            match series {
                0 => {
                    tracing::warn!(%frequency, label, value, "a policy's label: no series has this value in the files of labels")
                }
                series => tracing::info!(%frequency, label, value, series, "a policy's label"),
            }
        }
        let mut shards: Vec<ShardSeries> = (0..crew.threads).map(|_| ShardSeries::default()).collect();
        let take = |(feed, series, kept): Restored| match (&mut rollups, kept) {
            (Some((_, made)), kept) if series.id.starts_with(ROLLUP_PREFIX) => {
                if crew.process == 0 {
                    made.restore(series, kept.written());
                }
            }
            _ => {
                let local = crew.local(crew.shard_of(route(&series.id)));
                let Some(shard) = local.and_then(|local| shards.get_mut(local)) else { return };
                match kept {
                    Kept::InMemory(written) => shard.in_memory.push((feed, series, written)),
                    Kept::Evicted => {
                        let zone = feeds.get(usize::from(feed)).map(|rules| (feed, &rules.rules.zone));
                        shard.evicted.add(zone, &series, &classes);
                    }
                }
            }
        };
        restore(config, *states, state, feeds, take).await?;
        let series = shards.iter().map(|shard| shard.in_memory.len()).sum();
        let evicted = shards.iter().map(|shard| shard.evicted.count()).sum();
        let (mut setups, mut inlets) = (Vec::new(), Vec::new());
        for (local, series) in shards.into_iter().enumerate() {
            let (setup, inlet) = self.setup(local, series, &classes)?;
            setups.push(setup);
            inlets.push(inlet);
        }
        for ((setup, inlet), (rollups, answers)) in setups.iter_mut().zip(&mut inlets).zip(rollup_setups) {
            (setup.rollups, inlet.answers) = (Some(rollups), Some(answers));
        }
        let committed_at = state.committed_at;
        Ok(Prepared { setups, inlets, rollups, go_on, series, evicted, committed_at })
    }

    // What the roll-ups of each worker start with, and where their answers go.
    fn rollup_setups(&self, start: rollup::restore::Start) -> Vec<(RollupSetup, Answers)> {
        let rollup::restore::Start { plan, givers, members, labels, groups } = start;
        let setup = |_| {
            let (answers, answered) = rollup::ask::channels();
            let setup = RollupSetup {
                plan: Arc::clone(&plan),
                givers: Arc::clone(&givers),
                members: Vec::new(),
                labels: Vec::new(),
                groups: groups.clone(),
                offset: rollup::coordinate::first_offset(self.fence),
                answered,
            };
            (setup, answers)
        };
        let mut setups: Vec<(RollupSetup, Answers)> = (0..self.crew.threads).map(setup).collect();
        let local = |series: &str| self.crew.local(self.crew.shard_of(route(series)));
        for member in members {
            if let Some(local) = local(&member.0.series) {
                setups[local].0.members.push(member);
            }
        }
        for said in labels {
            if let Some(local) = local(&said.series) {
                setups[local].0.labels.push(said);
            }
        }
        setups
    }

    fn setup(&self, local: usize, series: ShardSeries, classes: &Arc<Classes>) -> Result<(Setup, Inlet), IngestError> {
        let Start { config, names, bounds, .. } = self;
        let (commands, commanded) = mpsc::channel();
        let (found, recalled) = mpsc::channel();
        let decoders = config.feed.iter().map(|(name, feed)| {
            Decoder::new(feed).map_err(|error| IngestError::Feed { feed: name.clone(), reason: error.to_string() })
        });
        let sources = config.labels.iter().filter(|(_, source)| source.topic.is_some());
        let labels = (config.feed.len() as u16..).zip(sources).map(|(number, (name, source))| {
            let fault = |error| IngestError::Fault(format!("the zone of [labels.{name}]: {error}"));
            Ok((names.source(number).unwrap_or_default(), LabelDecoder::new(source).map_err(fault)?))
        });
        let worker = self.crew.process * self.crew.threads + local;
        let setup = Setup {
            source: dataflow::connect(&config.kafka, worker, bounds)?,
            decoders: Decoders {
                feeds: decoders.collect::<Result<_, _>>()?,
                labels: labels.collect::<Result<_, IngestError>>()?,
            },
            rollups: None,
            commands: commanded,
            given_back: self.given_back.clone(),
            series: series.in_memory,
            evicted: series.evicted,
            classes: Arc::clone(classes),
            budget: bounds.shard,
            recalled,
        };
        Ok((setup, Inlet { commands: commands.into(), recalled: found.into(), answers: None }))
    }
}
