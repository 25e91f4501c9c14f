//! What a process costs, as `/proc` says it.

use std::fs;

/// Parts of a second in which `/proc` counts processor time, on every Linux in use.
const TICKS: f64 = 100.0;

/// What a process has cost so far. Threads count, children do not.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// Processor time in seconds, user and system.
    pub cpu_s: f64,
    /// Highest resident memory in MiB.
    pub peak_mib: f64,
    /// Resident memory now, in MiB.
    pub rss_mib: f64,
}

/// Usage of a process; `None` once it is gone.
pub fn usage(id: u32) -> Option<Usage> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    // A zombie has times, but no memory.
    Some(Usage { cpu_s: cpu_s(&stat)?, peak_mib: mib(&status, "VmHWM:")?, rss_mib: mib(&status, "VmRSS:")? })
}

/// Processor time of this process in seconds.
pub fn own_cpu_s() -> f64 {
    usage(std::process::id()).map_or(f64::NAN, |usage| usage.cpu_s)
}

fn cpu_s(stat: &str) -> Option<f64> {
    // The command's name may hold spaces; the numbers begin behind its bracket with the third field.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
    Some((ticks(14)? + ticks(15)?) / TICKS)
}

fn mib(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_whitespace().next()?.parse::<f64>().ok()? / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_behind_any_name() {
        let stat = "12 (a b) c) S 1 12 12 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 9 0 1 2 3";
        assert_eq!(cpu_s(stat), Some(3.0));
        assert_eq!(mib("VmPeak:\t 9 kB\nVmHWM:\t 2048 kB\n", "VmHWM:"), Some(2.0));
        assert!(usage(std::process::id()).is_some_and(|usage| usage.peak_mib > 0.0));
    }
}
