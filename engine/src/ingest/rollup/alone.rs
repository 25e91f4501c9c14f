//! Roll-ups without a dataflow: one worker, epoch by epoch, for a backfill.

use std::sync::Arc;

use differential_dataflow::consolidation::consolidate;

use super::super::commit::Committer;
use super::super::error::IngestError;
use super::super::shard::{Budget, Place};
use super::coordinate::{MembersFrames, RollupParts};
use super::dataflow::{GroupsPart, MembersPart};
use super::members::Members;
use super::parents::Parents;
use super::restore::Start;
use super::saved::Givers;
use super::taken::Taken;
use super::{Input, LabelChange};

/// The one worker.
pub struct Alone {
    members: Members,
    parents: Parents,
    givers: Arc<Givers>,
    // Labels that hold from the next epoch on.
    said: Vec<LabelChange>,
    // Is told what series and groups take.
    taken: Arc<Taken>,
    // Of the rows' positions.
    offset: i64,
    epoch: u64,
}

impl Alone {
    /// With what a commit remembers; `offset` is that of the rows' positions before the first epoch, and `taken` is
    /// told what series and groups take.
    pub fn new(start: Start, offset: i64, budget: &Budget, taken: Arc<Taken>) -> Alone {
        let Start { plan, givers, members, labels, groups } = start;
        let lookup = budget.lookups();
        let mut members = Members::new(Arc::clone(&plan), members).looking_up(lookup);
        let mut parents = Parents::new(plan, groups).looking_up(lookup).remembering(budget.groups);
        let mut remembered = members.finish(Place::NOWHERE).items;
        consolidate(&mut remembered);
        parents.restore(remembered);
        let alone = Alone { members, parents, givers, said: labels, taken, offset, epoch: 0 };
        alone.tell();
        alone
    }

    fn tell(&self) {
        self.taken.by_series(self.members.bytes());
        self.taken.by_groups(self.parents.standing());
    }

    /// The parts of an epoch in which these intervals changed; what members remember goes to `place`.
    ///
    /// # Errors
    /// The lake cannot be read.
    pub async fn epoch(
        &mut self,
        inputs: Vec<Input>,
        place: Place,
        committer: &Committer,
    ) -> Result<RollupParts, IngestError> {
        self.epoch += 1;
        let clock = inputs.iter().filter_map(Input::known_at_ms).max();
        self.members.say(self.said.drain(..));
        while let Some(wants) = self.members.wanted() {
            self.members.moved(committer.series_rows(&wants).await?);
        }
        for input in inputs {
            match input {
                Input::Interval(change) => self.members.interval(change),
                Input::Label(change) => self.said.push(change),
            }
        }
        let mut found = self.members.finish(place);
        consolidate(&mut found.items);
        self.parents.begin(found.items, self.offset.saturating_add_unsigned(self.epoch), clock);
        while let Some(wants) = self.parents.wanted() {
            self.parents.take(committer.group_rows(&wants).await?);
        }
        let rows = self.parents.finish();
        self.tell();
        let (epoch, state) = (self.epoch, self.parents.state().clone());
        let part = MembersPart {
            epoch,
            changed: found.changed,
            news: found.news,
            unlabelled: found.unlabelled,
            said: self.said.clone(),
        };
        let members = vec![MembersFrames::of(part, &self.givers)?];
        Ok(RollupParts { members, groups: vec![GroupsPart { epoch, rows, state }] })
    }
}
