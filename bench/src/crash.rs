//! What `bench/run crash` tells: progress, a table by fault, and the line that sums it up. Pure.

use std::collections::BTreeMap;

use meterline_tests::crash::cell::Cell;
use meterline_tests::crash::run::Outcome;

/// Sums over runs.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Runs that were judged or failed.
    pub runs: u64,
    /// Records in their topics.
    pub records: u64,
    /// Intervals that had to be there.
    pub intervals: u64,
    /// Intervals that were missing, wrong, or not to be there.
    pub lost: u64,
    /// Rows that were there twice.
    pub doubled: u64,
    /// Counts that did not agree with the offsets or with each other.
    pub miscounted: u64,
    /// Runs that did not come to their end.
    pub failed: u64,
    /// Runs that this machine cannot do.
    pub skipped: u64,
}

impl Tally {
    /// Counts a run.
    pub fn add(&mut self, outcome: &Outcome) {
        self.runs += u64::from(!matches!(outcome, Outcome::Skipped(_)));
        match outcome {
            Outcome::Judged(verdict) => {
                self.records += verdict.records;
                self.intervals += verdict.intervals;
                self.lost += verdict.lost;
                self.doubled += verdict.doubled;
                self.miscounted += verdict.miscounted;
            }
            Outcome::Failed(_) => self.failed += 1,
            Outcome::Skipped(_) => self.skipped += 1,
        }
    }

    /// Whether nothing went wrong, and something was done.
    pub fn is_clean(&self) -> bool {
        self.runs > 0 && self.lost + self.doubled + self.miscounted + self.failed == 0
    }

    /// The line that sums it up, as JSON.
    pub fn line(&self) -> String {
        let Tally { runs, records, intervals, lost, doubled, miscounted, failed, skipped } = self;
        // By hand, for the order: the most important first.
        format!(r#"{{"runs":{runs},"lost":{lost},"doubled":{doubled},"miscounted":{miscounted},"failed":{failed},"#)
            + &format!(r#""skipped":{skipped},"records":{records},"intervals":{intervals}}}"#)
    }

    fn figures(&self) -> [u64; 8] {
        [self.runs, self.records, self.intervals, self.lost, self.doubled, self.miscounted, self.failed, self.skipped]
    }
}

/// What is told of one run.
pub fn told(cell: &Cell, outcome: &Outcome, seconds: f64) -> String {
    let what = match outcome {
        Outcome::Judged(verdict) if verdict.is_clean() => {
            format!("{} records, {} intervals, nothing lost or doubled", verdict.records, verdict.intervals)
        }
        Outcome::Judged(verdict) => format!(
            "LOST {} DOUBLED {} MISCOUNTED {} of {} intervals\n  {}",
            verdict.lost,
            verdict.doubled,
            verdict.miscounted,
            verdict.intervals,
            verdict.examples.join("\n  ")
        ),
        Outcome::Failed(failure) => format!("FAILED: {failure}"),
        Outcome::Skipped(skip) => format!("SKIPPED: {skip}"),
    };
    format!("{cell} ({seconds:.1} s): {what}")
}

/// Sums over all runs, and by fault.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tallies {
    /// Of all of them.
    pub all: Tally,
    by_fault: BTreeMap<&'static str, Tally>,
}

impl Tallies {
    /// Counts the run of a cell.
    pub fn add(&mut self, cell: &Cell, outcome: &Outcome) {
        self.all.add(outcome);
        self.by_fault.entry(cell.fault.name()).or_default().add(outcome);
    }

    /// One row a fault, and one for all.
    pub fn table(&self) -> String {
        let titles = ["runs", "records", "intervals", "lost", "doubled", "miscounted", "failed", "skipped"];
        let mut lines = vec![row("fault", titles.map(str::to_owned))];
        let rows = self.by_fault.iter().map(|(name, tally)| (*name, tally)).chain([("all", &self.all)]);
        lines.extend(rows.map(|(name, tally)| row(name, tally.figures().map(|figure| figure.to_string()))));
        lines.join("\n")
    }
}

fn row(name: &str, columns: [String; 8]) -> String {
    columns.iter().fold(format!("{name:17}"), |line, column| format!("{line} {column:>10}"))
}

#[cfg(test)]
mod tests {
    use meterline_tests::crash::verdict::Verdict;
    use meterline_tests::skip::Skip;

    use super::*;

    #[test]
    fn what_is_lost_in_one_run_is_lost_in_all() {
        let mut tally = Tally::default();
        assert!(!tally.is_clean(), "nothing was done");
        tally.add(&Outcome::Judged(Verdict { records: 5, intervals: 3, ..Verdict::default() }));
        tally.add(&Outcome::Skipped(Skip("no disk".into())));
        assert!(tally.is_clean());
        tally.add(&Outcome::Judged(Verdict { lost: 2, ..Verdict::default() }));
        tally.add(&Outcome::Failed("it hangs".into()));
        assert!(!tally.is_clean());
        assert_eq!(tally.figures(), [3, 5, 3, 2, 0, 0, 1, 1]);
        let line: serde_json::Value = serde_json::from_str(&tally.line()).unwrap();
        assert_eq!((&line["runs"], &line["lost"], &line["failed"]), (&3.into(), &2.into(), &1.into()));
    }
}
