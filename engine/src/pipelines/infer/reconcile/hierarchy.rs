//! Which series are the parts of which roll-ups, by the labels that hold at an instant. Pure.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::tz::TimeZone;
use meterline_schemas::config::{Config, Reconcile};
use meterline_schemas::{Frequency, Micros};

use crate::ingest::groups::group_id;
use crate::ingest::rollup::plan::{Plan, Rollup};
use crate::ingest::rollup::saved::{Givers, SavedMember};
use crate::metadata::records::RunSpec;
use crate::pipelines::members::Members;

/// The roll-ups whose series a run forecasts, and that are to agree with their parts.
pub struct Scope {
    plan: Plan,
    givers: Givers,
    // Number and way of each.
    rollups: Vec<(u16, Reconcile)>,
    // By number of the feed: its zone, and its name.
    zones: Vec<(TimeZone, String)>,
    frequency: Frequency,
    group_id: String,
    // The instant: the run's origin.
    at: Micros,
    // The run's series.
    members: Members,
}

impl Scope {
    /// That of a run; `None` where there is no such roll-up.
    ///
    /// # Errors
    /// A zone is unknown, which a checked configuration excludes.
    pub fn new(config: &Config, spec: &RunSpec) -> Result<Option<Scope>, jiff::Error> {
        let plan = Plan::new(config)?;
        let of_run = |rollup: &Rollup, zone: &str| {
            let there = rollup.native || rollup.lengths.contains(&spec.frequency);
            there && group_id(spec.frequency, zone) == spec.group_id
        };
        let rollups: Vec<(u16, Reconcile)> = (0..)
            .zip(plan.rollups.iter().zip(config.rollup.values()))
            .filter(|(_, (rollup, configured))| of_run(rollup, &configured.zone))
            .map(|(number, (_, configured))| (number, configured.reconcile()))
            .filter(|(_, way)| *way != Reconcile::None)
            .collect();
        let zone = |zone: &String| Ok((TimeZone::get(zone)?, zone.clone()));
        let zones = config.feed.values().map(|feed| zone(&feed.zone)).collect::<Result<_, jiff::Error>>()?;
        let (frequency, group_id, at) = (spec.frequency, spec.group_id.clone(), spec.origin);
        let (givers, members) = (Givers::new(config), Members::default());
        let scope = Scope { plan, givers, rollups, zones, frequency, group_id, at, members };
        Ok((!scope.rollups.is_empty()).then_some(scope))
    }

    /// The same, of a run that has these series alone.
    pub fn among(self, members: Members) -> Scope {
        Scope { members, ..self }
    }

    /// Whether any of them weighs forecasts by past errors.
    pub fn weighs_by_errors(&self) -> bool {
        self.rollups.iter().any(|(_, way)| *way == Reconcile::MinTrace)
    }

    /// Whether a series with this identifier is made by one of them.
    pub fn makes(&self, series: &str) -> bool {
        let feeds = self.rollups.iter().filter_map(|(number, _)| self.plan.rollup(*number));
        feeds.filter_map(|rollup| series.strip_prefix(&*rollup.feed)).any(|rest| rest.starts_with(':'))
    }

    // Whether intervals of a series of this feed and frequency count in those of the roll-up: they lie within one.
    fn counts(&self, rollup: &Rollup, feed: u16, frequency: Frequency) -> bool {
        let Some((zone, _)) = self.zones.get(usize::from(feed)) else { return false };
        let own = rollup.members_of(self.frequency).is_none_or(|own| own == frequency);
        let start = frequency.floor(self.at, zone);
        own && rollup.slot(self.frequency, start, frequency.advance(start, 1, zone)).is_some()
    }

    // Whether a series of this feed and frequency is forecast in the run. (Series with roll-ups are never those of a label
    // policy: their group has no such name.)
    fn is_here(&self, series: &str, feed: u16, frequency: Frequency) -> bool {
        let of_group = |(_, zone): &(TimeZone, String)| group_id(frequency, zone) == self.group_id;
        self.zones.get(usize::from(feed)).is_some_and(of_group) && self.members.has(series)
    }
}

/// One group of a roll-up, and what belongs to it but to no group below it.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Identifier of the series that it makes.
    pub series: Arc<str>,
    /// How its forecast and theirs are made to agree.
    pub way: Reconcile,
    /// The group above, by its place among all.
    pub above: Option<usize>,
    /// Series that the run forecasts, if it can.
    pub members: Vec<Arc<str>>,
    /// Number of series that other runs forecast: of another frequency, of another calendar, or of a label policy.
    pub elsewhere: usize,
}

/// The groups of all roll-ups of a run, each after the one above it.
#[derive(Debug, Default, PartialEq)]
pub struct Hierarchy {
    /// The groups.
    pub groups: Vec<Group>,
    places: HashMap<Arc<str>, usize>,
}

impl Hierarchy {
    /// Takes a series of which roll-ups know. The order of series does not matter but for that of the groups.
    pub fn take(&mut self, scope: &Scope, saved: &SavedMember) {
        let member = scope.givers.restore(saved);
        for (number, way) in &scope.rollups {
            let Some(rollup) = scope.plan.rollup(*number) else { continue };
            let Some((groups, frequency)) = member.groups_at(&scope.plan, rollup, scope.at) else { continue };
            if !scope.counts(rollup, member.feed, frequency) {
                continue;
            }
            let mut deepest = None;
            for group in groups {
                deepest = Some(self.place(rollup.series(&group, scope.frequency), *way, deepest));
            }
            let Some(group) = deepest.and_then(|place| self.groups.get_mut(place)) else { continue };
            if scope.is_here(&member.series, member.feed, frequency) {
                group.members.push(Arc::clone(&member.series));
            } else {
                group.elsewhere += 1;
            }
        }
    }

    /// Whether it has the group that makes this series.
    pub fn has(&self, series: &str) -> bool {
        self.places.contains_key(series)
    }

    fn place(&mut self, series: Arc<str>, way: Reconcile, above: Option<usize>) -> usize {
        if let Some(place) = self.places.get(&series) {
            return *place;
        }
        let place = self.groups.len();
        self.places.insert(Arc::clone(&series), place);
        self.groups.push(Group { series, way, above, members: Vec::new(), elsewhere: 0 });
        place
    }

    /// The groups above these series, but those that are among them.
    pub fn above(&self, touched: &HashSet<&str>) -> Vec<String> {
        let mut is_above = vec![false; self.groups.len()];
        let mut found = Vec::new();
        // Those below come later.
        for (place, group) in self.groups.iter().enumerate().rev() {
            let is_one = touched.contains(&*group.series);
            let concerned = is_one || is_above[place] || group.members.iter().any(|member| touched.contains(&**member));
            if let Some(above) = group.above.filter(|_| concerned).and_then(|above| is_above.get_mut(above)) {
                *above = true;
            }
            if concerned && !is_one {
                found.push(group.series.to_string());
            }
        }
        found
    }

    /// The groups that are among these series, each the sum of its parts; other groups are parts like any series. All
    /// groups above one of them must be among them, too.
    pub fn of(self, touched: &HashSet<&str>) -> Hierarchy {
        let mut kept = Hierarchy::default();
        let mut places: Vec<Option<usize>> = Vec::with_capacity(self.groups.len());
        for group in self.groups {
            let above = group.above.and_then(|above| places.get(above).copied().flatten());
            let is_kept = touched.contains(&*group.series);
            places.push(is_kept.then_some(kept.groups.len()));
            if is_kept {
                kept.places.insert(Arc::clone(&group.series), kept.groups.len());
                kept.groups.push(Group { above, way: Reconcile::BottomUp, ..group });
            } else if let Some(above) = above.and_then(|above| kept.groups.get_mut(above)) {
                above.members.push(group.series);
            }
        }
        kept
    }

    /// What belongs to the groups and is not among these series.
    pub fn but(&self, touched: &HashSet<&str>) -> Vec<String> {
        let members = self.groups.iter().flat_map(|group| &group.members);
        members.filter(|member| !touched.contains(&***member)).map(|member| member.to_string()).collect()
    }
}
