//! What became of the records of a run.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::Failure;
use super::feed::{Counts, Kind, SECONDS, Topic};
use super::sums;
use crate::accounts;
use crate::found::{self, Found};
use crate::oracle::{self, Expected, Outcomes};
use crate::sandbox::Sandbox;
use crate::topic::{Record, drain_delivered};

/// Differences that are told of a run.
const SHOWN: usize = 10;

/// What is wrong with a lake, if anything is.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Records in the topics.
    pub records: u64,
    /// Intervals of meters that must be there.
    pub intervals: u64,
    /// Intervals of roll-ups that must be there.
    pub sums: u64,
    /// Intervals, also of roll-ups, that are missing, wrong, or not to be there; samples that are missing, which a
    /// later correction would need; and records that cannot be read and are no dead letter.
    pub lost: u64,
    /// Rows that are there twice: of an interval, of a base row, of a position of an interval, of a sample, of a dead
    /// letter.
    pub doubled: u64,
    /// Counts that do not agree with the offsets or with each other.
    pub miscounted: u64,
    /// Some of all that, in words.
    pub examples: Vec<String>,
}

impl Verdict {
    /// Whether everything is as it must be.
    pub fn is_clean(&self) -> bool {
        self.lost + self.doubled + self.miscounted == 0
    }

    fn add(&mut self, of: fn(&mut Verdict) -> &mut u64, found: impl IntoIterator<Item = String>) {
        for what in found {
            *of(self) += 1;
            if self.examples.len() < SHOWN {
                self.examples.push(what);
            }
        }
    }
}

/// What a run has that changes what is to be expected.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The roll-up of [`sums`].
    pub rolls_up: bool,
    /// Feeds whose frequency is detected.
    pub detects: bool,
}

/// Compares the lake with what is in the topics; `sent` is what the producer has delivered.
///
/// # Errors
/// A query fails, or the topics do not hold what was sent.
pub fn judge(sandbox: &Sandbox, brokers: &str, run: &str, sent: Counts, plan: Plan) -> Result<Verdict, Failure> {
    let mut verdict = Verdict::default();
    let (mut all, mut sites) = (Expected::default(), sums::Sites::new());
    let letters = rows(sandbox, "SELECT feed, partition, \"offset\" FROM dead_letters")?;
    let samples = rows(sandbox, "SELECT DISTINCT feed, partition, \"offset\" FROM samples")?;
    let partitions = rows(sandbox, "SELECT * FROM partitions ORDER BY feed, partition")?;
    let feeds = "SELECT f.*, coalesce(s.corrections, 0) AS of_series FROM feeds f LEFT JOIN \
                 (SELECT feed, sum(corrections) AS corrections FROM series GROUP BY feed) s ON s.feed = f.feed";
    let feeds = rows(sandbox, feeds)?;
    for topic in Topic::read(plan.rolls_up) {
        let (name, feed, sent) = (topic.name(run), topic.feed(), sent[topic.number()]);
        let records = drain_delivered(brokers, &name, sent);
        if records.len() as u64 != sent {
            return Err(format!("{sent} records were sent to {name}, which has {}", records.len()));
        }
        let mut expected = match topic {
            Topic::Of(Kind::Energy) => oracle::intervals(&records),
            Topic::Of(Kind::Power) => oracle::samples(&records, SECONDS),
            Topic::Of(Kind::Register) => oracle::registers(&records),
            Topic::Sites => {
                sites = sums::sites(&records)?;
                // All of them are taken as they come.
                let outcomes = Outcomes { readings: sent, accepted: sent, ..Outcomes::default() };
                Expected { outcomes, ..Expected::default() }
            }
        };
        if plan.detects && matches!(topic, Topic::Of(kind) if kind.is_detectable()) {
            expected.outcomes = expected.outcomes.having_waited();
        }
        verdict.records += records.len() as u64;
        verdict.intervals += expected.intervals.len() as u64;
        dead_letters(feed, &of_feed(feed, &letters), &expected, &mut verdict)?;
        let kept = of_feed(feed, &samples).into_iter().map(place).collect::<Result<BTreeSet<_>, _>>()?;
        let missing = expected.samples.difference(&kept);
        verdict.add(|v| &mut v.lost, missing.map(|at| format!("sample {at:?} of {feed} is missing")));
        let ends = ends_of(&records, topic.partitions() as usize);
        counts(feed, &of_feed(feed, &partitions), &of_feed(feed, &feeds), &expected, &ends, &mut verdict)?;
        all.intervals.append(&mut expected.intervals);
    }
    let found = Found::of(&rows(sandbox, &found::query("feed NOT LIKE 'rollup.%'"))?);
    verdict.add(|v| &mut v.lost, found.differences(&all));
    verdict.add(|v| &mut v.doubled, found.twice.iter().map(|key| format!("{key:?} is there twice")));
    let expected = if plan.rolls_up { sums::expected(&all, &sites)? } else { sums::Sums::new() };
    verdict.sums = expected.len() as u64;
    // Where there is to be none, there is none.
    let (found, doubled) = sums::found(&rows(sandbox, &sums::query())?)?;
    verdict.add(|v| &mut v.lost, sums::differences(&expected, &found));
    verdict.add(|v| &mut v.doubled, doubled.iter().map(|key| format!("{key:?} is there twice")));
    twice(sandbox, &mut verdict)?;
    Ok(verdict)
}

/// Where each partition ends, by its records: what a broker answers may be from before the last of them.
fn ends_of(records: &[Record], partitions: usize) -> Vec<i64> {
    let mut ends = vec![0; partitions];
    for record in records {
        if let Some(end) = ends.get_mut(record.partition as usize) {
            *end = record.offset.saturating_add(1).max(*end);
        }
    }
    ends
}

pub(super) type Row = Map<String, Value>;

fn of_feed<'r>(feed: &str, rows: &'r [Row]) -> Vec<&'r Row> {
    rows.iter().filter(|row| row.get("feed").and_then(Value::as_str) == Some(feed)).collect()
}

fn dead_letters(feed: &str, rows: &[&Row], expected: &Expected, verdict: &mut Verdict) -> Result<(), Failure> {
    let mut found = BTreeSet::new();
    for row in rows {
        let at = place(row)?;
        if !found.insert(at) {
            verdict.add(|v| &mut v.doubled, [format!("dead letter {at:?} of {feed} is there twice")]);
        }
    }
    let other = found.symmetric_difference(&expected.dead);
    verdict.add(|v| &mut v.lost, other.map(|at| format!("record {at:?} of {feed} is a dead letter, or should be")));
    Ok(())
}

fn counts(
    feed: &str,
    partitions: &[&Row],
    feeds: &[&Row],
    expected: &Expected,
    ends: &[i64],
    verdict: &mut Verdict,
) -> Result<(), Failure> {
    let mut equal = |what: &str, found: i64, wanted: i64| {
        if found != wanted {
            verdict.add(|v| &mut v.miscounted, [format!("{feed}: {what} {found}, not {wanted}")]);
        }
    };
    equal("number of partitions is", partitions.len() as i64, ends.len() as i64);
    equal("number of rows in feeds is", feeds.len() as i64, 1);
    for (row, end) in partitions.iter().zip(ends) {
        let (partition, records) = (integer(row, "partition")?, integer(row, "records")?);
        equal(&format!("next offset of partition {partition} is"), integer(row, "next_offset")?, *end);
        equal(&format!("records of partition {partition} are"), records, *end);
    }
    let total = |column: &str| partitions.iter().map(|row| integer(row, column)).sum::<Result<i64, Failure>>();
    for column in ["records", "accepted", "corrected", "duplicate", "dead", "pending", "late", "gaps", "expired"] {
        if let Some(row) = feeds.first() {
            equal(&format!("{column} of the feed are"), integer(row, column)?, total(column)?);
        }
    }
    if let Some(row) = feeds.first() {
        equal("corrections of its series are", integer(row, "of_series")?, total("corrected")?);
    }
    equal("dead records are", total("dead")?, expected.dead.len() as i64);
    // No meter has so few readings in the end that its frequency cannot be told.
    equal("pending records are", total("pending")?, 0);
    // What corrects and what is a duplicate is determined as far as `Outcomes` says. What is late is not: that depends
    // on how far the other partitions were read when a reading came, and after a crash it comes another time.
    let Outcomes { readings, accepted, corrected_min, corrected_max } = expected.outcomes;
    let (corrected, duplicate) = (total("corrected")?, total("duplicate")?);
    equal("accepted readings are", total("accepted")?, accepted as i64);
    equal("corrected and duplicate readings are", corrected + duplicate, (readings - accepted) as i64);
    equal(
        &format!("corrected readings, of which there are from {corrected_min} to {corrected_max}, are"),
        corrected,
        corrected.clamp(corrected_min as i64, corrected_max as i64),
    );
    let late = total("late")?;
    equal("late readings, all of them accepted or corrected, are", late, late.min(total("accepted")? + corrected));
    for row in partitions {
        let faults = accounts::faults(row)?.into_iter().map(|fault| format!("{feed}: {fault}"));
        verdict.add(|v| &mut v.miscounted, faults);
    }
    Ok(())
}

/// Rows that must be unique, whatever a view makes of them.
fn twice(sandbox: &Sandbox, verdict: &mut Verdict) -> Result<(), Failure> {
    for (what, columns) in [
        ("interval_revisions WHERE layer = 'base'", "series_id, start, \"end\""),
        ("interval_revisions", "series_id, start, \"end\", position_timestamp, partition, \"offset\""),
        ("samples", "feed, partition, \"offset\""),
    ] {
        let query = format!("SELECT {columns}, count(*) AS times FROM {what} GROUP BY {columns} HAVING count(*) > 1");
        let found = rows(sandbox, &query)?;
        verdict.add(|v| &mut v.doubled, found.iter().map(|row| format!("in {what}: {row:?}")));
    }
    Ok(())
}

fn rows(sandbox: &Sandbox, query: &str) -> Result<Vec<Row>, Failure> {
    sandbox.try_sql(query).map_err(|finished| format!("{query}\n{}{}", finished.stdout, finished.stderr))
}

/// The partition and offset that a row comes from.
fn place(row: &Row) -> Result<(i32, i64), Failure> {
    Ok((integer(row, "partition")? as i32, integer(row, "offset")?))
}

pub(super) fn integer(row: &Row, column: &str) -> Result<i64, Failure> {
    let value = row.get(column).and_then(Value::as_i64);
    value.ok_or_else(|| format!("no whole number {column} in {row:?}"))
}
