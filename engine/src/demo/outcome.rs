//! What came of a demo.

use std::time::Instant;

use serde::Serialize;

/// What came of it: the demo's JSON document.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Readings sent.
    pub readings: u64,
    /// Intervals with a value.
    pub intervals: u64,
    /// Cells and rows of the file left out because they could not be read.
    pub skipped: u64,
    /// Seconds from the start to the first forecast by a model; null without one.
    pub first_forecast_seconds: Option<f64>,
    /// Seconds from the start to the score of a later forecast; null without one.
    pub scored_seconds: Option<f64>,
    /// The re-forecast that was scored against actuals; null without one.
    pub scored: Option<Scored>,
    /// Seconds from start to end.
    pub seconds: f64,
    /// Highest resident memory of this process (broker, fleet and engine; runs are processes of their own); null where
    /// the system does not say.
    pub peak_memory_bytes: Option<u64>,
}

/// Figures of one forecast beside seasonal naive's, on the same series and steps.
#[derive(Debug, Clone, Serialize)]
pub struct Scored {
    /// Model group.
    pub group_id: String,
    /// The forecast's run.
    pub run_id: String,
    /// Version that made it.
    pub model_version: String,
    /// Steps with an actual value.
    pub points: usize,
    /// Weighted quantile loss.
    pub wql: Option<f64>,
    /// Seasonal naive's.
    pub naive_wql: Option<f64>,
    /// Mean absolute scaled error.
    pub mase: Option<f64>,
    /// Seasonal naive's.
    pub naive_mase: Option<f64>,
    /// Share of the actual values within the 80 % interval.
    pub coverage: Option<f64>,
}

impl Outcome {
    /// The end was asked for before anything was sent.
    pub(super) fn nothing(started: Instant) -> Outcome {
        Outcome {
            readings: 0,
            intervals: 0,
            skipped: 0,
            first_forecast_seconds: None,
            scored_seconds: None,
            scored: None,
            seconds: started.elapsed().as_secs_f64(),
            peak_memory_bytes: peak_memory_bytes(),
        }
    }
}

/// Highest resident memory of this process so far; Linux alone says it.
pub(super) fn peak_memory_bytes() -> Option<u64> {
    peak_in(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn peak_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_from_what_linux_says() {
        let status = "Name:\tmeterline\nVmPeak:\t  900000 kB\nVmHWM:\t  123456 kB\nVmRSS:\t  100000 kB\n";
        assert_eq!(peak_in(status), Some(123_456 * 1024));
        assert_eq!(peak_in("Name:\tmeterline\n"), None);
    }
}
