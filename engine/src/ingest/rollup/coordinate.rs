//! What the coordinator does for roll-ups: answers lookups, and makes their parts of an epoch a part of its commit.

use std::collections::BTreeMap;
use std::sync::Arc;

use meterline_schemas::Micros;
use meterline_schemas::config::{Config, RollupConfig};
use meterline_schemas::labels::ROLLUP_PREFIX;
use meterline_schemas::time::{DAY, Span};
use serde::{Deserialize, Serialize};

use super::super::census::Census;
use super::super::commit::{Committer, RollupStates};
use super::super::error::IngestError;
use super::super::layout::ShardRows;
use super::super::names::rollup_feed;
use super::super::segments::{FRAME, Frames, rewrite_from};
use super::super::shard::Place;
use super::super::state::{FeedState, IngestState};
use super::ask::{Answers, Asked, Of};
use super::dataflow::{GroupsPart, MembersPart};
use super::parents::GroupsState;
use super::plan::Plan;
use super::saved::{Givers, SavedLabels, SavedMember};
use super::series::RollupSeries;

/// What the series of a worker give to a commit.
#[derive(Debug, Serialize, Deserialize)]
pub struct MembersFrames {
    /// The epoch.
    pub epoch: u64,
    /// States that the commit writes.
    pub states: Frames,
    /// How many of them changed; the others are written again.
    pub changed: u64,
    /// Labels that hold from the next epoch on.
    pub said: Frames,
    /// By number of the roll-up: change of the number of intervals that belong to no group.
    pub unlabelled: Vec<i64>,
}

impl MembersFrames {
    /// What the series of a worker gave, encoded.
    ///
    /// # Errors
    /// A fault of ours.
    pub fn of(part: MembersPart, givers: &Givers) -> Result<MembersFrames, IngestError> {
        let fault = |reason| IngestError::Fault(format!("encoding what roll-ups remember: {reason}"));
        let mut states = Frames::default();
        for some in part.changed.chunks(FRAME) {
            let saved: Vec<SavedMember> = some.iter().map(|state| givers.save(state)).collect();
            states.append(Frames::pack(&saved).map_err(fault)?);
        }
        let said: Vec<SavedLabels> = part.said.iter().filter_map(|change| givers.save_said(change)).collect();
        Ok(MembersFrames {
            epoch: part.epoch,
            states,
            changed: part.news,
            said: Frames::pack(&said).map_err(fault)?,
            unlabelled: part.unlabelled,
        })
    }
}

/// The parts of an epoch that come of roll-ups.
#[derive(Debug, Default)]
pub struct RollupParts {
    /// Of their series.
    pub members: Vec<MembersFrames>,
    /// Of their groups.
    pub groups: Vec<GroupsPart>,
}

impl RollupParts {
    /// Whether every worker has handed in its parts.
    pub fn complete(&self, workers: usize) -> bool {
        [self.members.len(), self.groups.len()] == [workers; 2]
    }

    /// Whether there is anything to be committed.
    pub fn has_news(&self) -> bool {
        self.members.iter().any(|part| part.states.series > 0 || part.said.series > 0)
            || self.groups.iter().any(|part| !part.rows.is_empty())
    }

    /// Whether the next epoch has something to do, whatever is read in it.
    pub fn go_on(&self) -> bool {
        self.members.iter().any(|part| part.said.series > 0)
    }
}

/// Of the positions of a writer's rows, before its first epoch: greater than all before it, however many epochs they
/// had.
pub fn first_offset(fence: i64) -> i64 {
    fence.saturating_mul(1 << 32)
}

/// The coordinator's side of the roll-ups.
pub struct Rollups {
    /// As configured.
    pub plan: Arc<Plan>,
    /// The series that they make.
    pub series: RollupSeries,
    // By worker.
    answers: Vec<Answers>,
    // Asked by epochs that have not begun to end.
    later: Vec<Asked>,
    // States of series that change with the next commit, about.
    changed: u64,
}

/// What one roll-up computes, as a commit remembers it: what concerns memory or forecasts alone is left out.
fn definition(rollup: &RollupConfig) -> String {
    let computed = RollupConfig { remembered: Span(2 * DAY), reconcile: None, ..rollup.clone() };
    serde_json::to_string(&computed).unwrap_or_default()
}

/// Roll-ups cannot change what they computed, and those that are new begin with the stream.
///
/// # Errors
/// [`IngestError::Rollup`], with what to do.
pub fn check(config: &Config, state: &IngestState) -> Result<(), IngestError> {
    for (name, rollup) in &config.rollup {
        let reason = match state.rollups.by_name.get(name) {
            Some(known) if known.definition == definition(rollup) => continue,
            Some(known) => format!(
                "it was changed after it had been computed as {}; give what is new a name of its own, and keep this one or \
                 take it out",
                known.definition
            ),
            None if state.seq == 0 => continue,
            None => {
                "it was added after readings had been committed, which are not in it; read the topics into a new lake \
                     (`[lake] url`), or take it out"
                    .to_owned()
            }
        };
        return Err(IngestError::Rollup { name: name.clone(), reason });
    }
    Ok(())
}

/// The roll-ups of a state that are no longer configured: the next commit forgets them.
pub fn taken_out<'s>(config: &Config, state: &'s IngestState) -> impl Iterator<Item = &'s str> {
    let known = state.rollups.by_name.keys().map(String::as_str);
    known.filter(|name| !config.rollup.contains_key(*name))
}

/// A backfill is not how roll-ups are taken out: its configuration may be one for the files alone.
///
/// # Errors
/// [`IngestError::Rollup`], with what to do.
pub fn check_backfill(config: &Config, state: &IngestState) -> Result<(), IngestError> {
    let Some(name) = taken_out(config, state).next() else { return Ok(()) };
    let reason =
        "the lake has it, but this configuration does not: what a backfill adds would never be in it; run the \
                  backfill with the configuration of the stream (or, to take the roll-up out for good, let the stream \
                  commit without it first)"
            .to_owned();
    Err(IngestError::Rollup { name: name.to_owned(), reason })
}

/// Forgets roll-ups that were taken out: what comes from now on is not in them. One that is put back later is new.
pub fn forget(config: &Config, state: &mut IngestState) {
    let rollups = &mut state.rollups;
    rollups.by_name.retain(|name, _| config.rollup.contains_key(name));
    if rollups.by_name.is_empty() && config.rollup.is_empty() {
        // Nor does anything keep up what was remembered of series for them.
        (rollups.members, rollups.said) = (Vec::new(), None);
    }
}

/// What a commit remembers of the groups, with this configuration's numbers.
pub fn groups_state(plan: &Plan, state: &IngestState) -> GroupsState {
    let mut groups = GroupsState { clock_ms: state.rollups.clock_ms, newest: BTreeMap::new() };
    for (number, rollup) in (0..).zip(&plan.rollups) {
        let name = rollup.feed.strip_prefix(ROLLUP_PREFIX).unwrap_or(&rollup.feed);
        let Some(known) = state.rollups.by_name.get(name) else { continue };
        groups.newest.extend(known.newest.iter().map(|(length, end)| ((number, *length), *end)));
    }
    groups
}

/// Notes the watermark of every roll-up: the least of the feeds that take part and have one.
pub fn follow(config: &Config, feeds: &mut BTreeMap<String, FeedState>) {
    for (name, rollup) in &config.rollup {
        let takes = |feed: &&String| rollup.feeds.is_empty() || rollup.feeds.contains(feed);
        let of = |feed: &String| feeds.get(feed).and_then(|feed| feed.watermark);
        let least: Option<Micros> = config.feed.keys().filter(takes).filter_map(of).min();
        let newest = config.feed.keys().filter(takes).filter_map(|feed| feeds.get(feed)?.newest).max();
        let mine = feeds.entry(rollup_feed(name)).or_default();
        (mine.watermark, mine.newest) = (least, newest);
    }
}

impl Rollups {
    /// Those of a plan, with the series that a commit remembers.
    pub fn new(plan: Arc<Plan>, series: RollupSeries, answers: Vec<Answers>) -> Rollups {
        Rollups { plan, series, answers, later: Vec::new(), changed: 0 }
    }

    /// Where the states of the members of the next epoch go.
    pub fn place(&self, state: &IngestState) -> Place {
        Place { seq: state.seq + 1, rewrite_from: rewrite_from(&state.rollups.members, self.changed) }
    }

    /// Answers what an epoch that is ending has to know; what a later one asks waits for the commit of this one.
    ///
    /// # Errors
    /// The lake cannot be read.
    pub async fn answer(&mut self, asked: Asked, ending: u64, committer: &Committer) -> Result<(), IngestError> {
        if asked.epoch > ending {
            self.later.push(asked);
            return Ok(());
        }
        let Asked { worker, of, wants, epoch } = asked;
        tracing::debug!(epoch, worker, parts = wants.len(), "looks up what roll-ups no longer remember");
        match of {
            Of::Series => self.answers[worker].series.send(committer.series_rows(&wants).await?),
            Of::Groups => self.answers[worker].groups.send(committer.group_rows(&wants).await?),
        }
        Ok(())
    }

    /// Answers what the epoch asked before it began to end.
    ///
    /// # Errors
    /// The lake cannot be read.
    pub async fn answer_waiting(&mut self, ending: u64, committer: &Committer) -> Result<(), IngestError> {
        for asked in std::mem::take(&mut self.later) {
            self.answer(asked, ending, committer).await?;
        }
        Ok(())
    }

    /// The parts of an epoch: rows and states of its series for the commit at `place`, what roll-ups remember from
    /// there on, and the changes of `state` and `census`.
    ///
    /// # Errors
    /// A fault of ours.
    pub fn commit(
        &mut self,
        config: &Config,
        parts: RollupParts,
        place: Place,
        state: &mut IngestState,
        census: &mut Census,
    ) -> Result<(ShardRows, Frames, RollupStates), IngestError> {
        let fault = |reason| IngestError::Fault(format!("encoding the states of roll-ups: {reason}"));
        let mut states = RollupStates { rewrite_from: self.place(state).rewrite_from, ..RollupStates::default() };
        let mut unlabelled = vec![0; self.plan.rollups.len()];
        self.changed = parts.members.iter().map(|part| part.changed).sum();
        for part in parts.members {
            states.members.append(part.states);
            states.said.append(part.said);
            unlabelled.iter_mut().zip(part.unlabelled).for_each(|(all, change)| *all += change);
        }
        let mut groups = groups_state(&self.plan, state);
        let mut rows = Vec::new();
        for part in parts.groups {
            groups.merge(&part.state);
            rows.extend(part.rows);
        }
        state.rollups.clock_ms = groups.clock_ms;
        for ((number, (name, rollup)), change) in (0..).zip(&config.rollup).zip(unlabelled) {
            let known = state.rollups.by_name.entry(name.clone()).or_default();
            known.definition = definition(rollup);
            known.unlabelled += change;
            let newest = groups.newest.iter().filter(|((of, _), _)| *of == number);
            known.newest = newest.map(|((_, length), end)| (*length, *end)).collect();
        }
        let (rows, mine) = self.series.take(rows, place).map_err(fault)?;
        census.change(self.series.census_changes());
        Ok((rows, mine, states))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::segments::Segment;
    use super::super::super::state::RollupState;
    use super::*;

    #[test]
    fn what_concerns_memory_or_forecasts_may_change() {
        let before = RollupConfig::new(&["site"]);
        let after = RollupConfig {
            remembered: Span(DAY),
            reconcile: Some(meterline_schemas::config::Reconcile::BottomUp),
            ..before.clone()
        };
        assert_eq!(definition(&before), definition(&after));
        // As commits remember it that were made before there was anything to reconcile.
        assert!(!definition(&before).contains("reconcile"));
    }

    #[test]
    fn a_roll_up_that_was_taken_out_is_new_when_it_is_put_back() {
        let mut config = Config::default();
        config.rollup.insert("grid".into(), RollupConfig::new(&["site"]));
        let mut state = IngestState { seq: 7, ..IngestState::default() };
        let definition = definition(&config.rollup["grid"]);
        state.rollups.by_name.insert("grid".into(), RollupState { definition, ..RollupState::default() });
        state.rollups.members.push(Segment { path: "state/members-7-1.zst".into(), seq: 7, series: 1, bytes: 1 });
        forget(&config, &mut state);
        assert!(check(&config, &state).is_ok() && check_backfill(&config, &state).is_ok());
        let refused = check_backfill(&Config::default(), &state).map_err(|error| error.to_string());
        assert!(refused.as_ref().is_err_and(|reason| reason.contains("grid")), "{refused:?}");
        assert_eq!(state.rollups.members.len(), 1);
        forget(&Config::default(), &mut state);
        let refused = check(&config, &state).map_err(|error| error.to_string());
        assert!(refused.as_ref().is_err_and(|reason| reason.contains("added after")), "{refused:?}");
        assert_eq!(state.rollups.members, []);
    }
}
