//! How long readings took from being produced to being committed.
//!
//! A row of `intervals` holds the time stamp of its record, which the producer sets when the reading is handed to it;
//! its commit has the time at which it became visible. The difference is taken for every row, on the one clock of the
//! machine.

use std::fs::File;
use std::path::Path;
use std::time::SystemTime;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::Failure;
use super::delta::Commit;

/// Latencies, counted by the millisecond.
#[derive(Debug, Clone, Default)]
pub struct Latencies {
    counts: Vec<u64>,
    total: u64,
}

/// The longest that is told apart, in ms: an hour.
const LONGEST_MS: usize = 3_600_000;

impl Latencies {
    /// Those of the readings that were produced from `from` to `until`, in these commits.
    pub fn of(commits: &[Commit], from: SystemTime, until: SystemTime) -> Result<Latencies, Failure> {
        let (from, until) = (millis(from), millis(until));
        let mut latencies = Latencies::default();
        for commit in commits {
            for file in &commit.added {
                each_timestamp(&file.path, |produced| {
                    if (from..until).contains(&produced) {
                        latencies.count(millis(commit.at) - produced);
                    }
                })?;
            }
        }
        Ok(latencies)
    }

    fn count(&mut self, ms: i64) {
        let ms = (ms.max(0) as usize).min(LONGEST_MS);
        if self.counts.len() <= ms {
            self.counts.resize(ms + 1, 0);
        }
        self.counts[ms] += 1;
        self.total += 1;
    }

    /// Number of readings.
    pub fn len(&self) -> u64 {
        self.total
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// Seconds that this part of the readings took at most; `None` without readings.
    pub fn quantile_s(&self, part: f64) -> Option<f64> {
        let wanted = (part * self.total as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let ms = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        Some(ms as f64 / 1e3)
    }
}

fn millis(at: SystemTime) -> i64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

fn each_timestamp(path: &Path, mut take: impl FnMut(i64)) -> Result<(), Failure> {
    let cannot = |error: &dyn std::fmt::Display| format!("cannot read {}: {error}", path.display());
    let file = File::open(path).map_err(|error| cannot(&error))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| cannot(&error))?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), ["position_timestamp"]);
    for batch in builder.with_projection(mask).with_batch_size(65_536).build().map_err(|error| cannot(&error))? {
        let batch = batch.map_err(|error| cannot(&error))?;
        let column = batch.column(0).as_primitive_opt::<Int64Type>().ok_or_else(|| cannot(&"no time stamps"))?;
        column.values().iter().for_each(|produced| take(*produced));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_all_readings() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantile_s(0.5), None);
        (1..=100).for_each(|ms| latencies.count(ms));
        let shown = [0.0, 0.5, 0.99, 1.0].map(|part| latencies.quantile_s(part));
        assert_eq!(shown, [Some(0.001), Some(0.05), Some(0.099), Some(0.1)]);
    }
}
