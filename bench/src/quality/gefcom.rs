//! Load track of the Global Energy Forecasting Competition 2014 (Hong et al. 2016), hourly load of one US utility with
//! 25 weather stations.
//!
//! Traps of the archive:
//!
//! * stamps are month, day and year **without separators** and an unpadded hour, `1112010 1:00`, which alone could be
//!   January 11 or November 1. Hours follow each other without a gap, so the only right reading is to count them: every
//!   stamp is compared with the one that its place demands;
//! * the stamp is the **end** of the hour (the first is 1:00 of the first day, the last `112012 0:00`). Here it is moved
//!   back one step, with the temperatures of its row;
//! * `L1-train.csv` starts at 2001-01-01 with temperatures only; its load is empty up to the end of 2004. The series
//!   here starts at 2005-01-01 00:00, where the load does;
//! * training file n holds only what task n added, one month each after the first; the fifteen join without overlap,
//!   and the solution of task 15 is the last month, 2011-12;
//! * the temperatures of that last month are in a file of another form, `date,hour,…` with hours 1 to 24 and the load
//!   once more; `solution15_L.csv` has the load alone. Both must agree;
//! * every day has 24 hours, also where the clocks change;
//! * the files name no unit; temperatures are °F, measured, so as something known ahead they are better than any
//!   forecast of the weather;
//! * the benchmark quantiles in the archive are one number for all 99 levels, the same month of the year before: no peer
//!   worth beating.

use std::path::Path;

use jiff::ToSpan;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use meterline_models::data::{Panel, Series};
use meterline_models::holidays::Holidays;
use meterline_schemas::time::DAY;
use meterline_schemas::{Frequency, Micros};

use super::published;
use super::table::{Row, Table};
use super::zip::Archive;
use super::{Baseline, Check, CovariateColumn, Metric, Protocol};

const STATIONS: usize = 25;
/// End of the first hour of the first file.
const FIRST_STAMP: DateTime = DateTime::constant(2001, 1, 1, 1, 0, 0, 0);
/// 2005-01-01T00:00, where the load starts.
const LOAD_START: Micros = 1_104_537_600_000_000;
/// 2011-11-06T00:00, a Sunday.
const FIRST: Micros = 1_320_537_600_000_000;
const WEEKS: i64 = 8;

/// P4: load a week ahead from eight Sunday midnights, 2011-11-06 … 2011-12-25. The mean temperature of the 25 stations
/// (°F) is known ahead.
///
/// # Errors
/// As [`Protocol::load_all`].
pub fn p4(data: &Path) -> Result<Protocol, String> {
    let hours = hours(data)?;
    let (load, temperature) = hours.into_iter().unzip();
    let check = |baseline, metric, expected, digits| Check { baseline, metric, expected, digits };
    Protocol {
        name: "P4",
        title: "GEFCom2014 load, hourly, a week ahead, temperature known",
        panel: Panel::new(Frequency::HOUR, TimeZone::UTC, vec![Series::new("GEFCom2014-L", LOAD_START, load)]),
        holidays: Holidays::of("United States").map_err(|error| format!("protocol P4: {error}"))?,
        covariates: vec![CovariateColumn { name: "temperature", series: None, values: temperature }],
        origins: (0..WEEKS).map(|week| FIRST + 7 * week * DAY).collect(),
        horizon: 168,
        season: 24,
        train_until: FIRST,
        checks: vec![
            check(Baseline::SeasonalNaiveDay, Metric::Nd, 0.198708, 6),
            check(Baseline::SeasonalNaiveDay, Metric::Mase, 1.603, 3),
            check(Baseline::SeasonalNaiveWeek, Metric::Nd, 0.162570, 6),
            check(Baseline::SeasonalNaiveWeek, Metric::Mase, 1.311, 3),
        ],
        peers: published::load_peers("P4"),
    }
    .validated()
}

/// Load and mean temperature of every hour from [`LOAD_START`] on.
fn hours(data: &Path) -> Result<Vec<(f32, f32)>, String> {
    let archive = Archive::open(&data.join("gefcom2014_load/GEFCom2014-L_V2.zip"))?;
    let mut hours = Vec::new();
    let mut clock = Clock { ended: 0 };
    for task in 1..=15 {
        let table = entry(&archive, &format!("Load/Task {task}/L{task}-train.csv"))?;
        let [stamp, load, station] = [table.column("TIMESTAMP")?, table.column("LOAD")?, table.column("w1")?];
        for row in table.rows() {
            clock.check(row, row.text(stamp)?)?;
            let load = row.number_or_missing(load)?;
            if load.is_finite() {
                hours.push((load, mean_temperature(row, station)?));
            } else if !hours.is_empty() {
                return Err(row.refuse("the load is empty after its first value"));
            }
        }
    }
    // 35,064 hours of temperature alone: the years 2001 to 2004.
    if clock.ended - hours.len() as i64 != 35_064 {
        return Err(format!("{}: the load does not start at 2005-01-01; {}", "L1-train.csv", super::table::REMEDY));
    }
    hours.extend(solution(&archive, &mut clock)?);
    Ok(hours)
}

/// The hours of the last month, from the solution of task 15.
fn solution(archive: &Archive, clock: &mut Clock) -> Result<Vec<(f32, f32)>, String> {
    let folder = "Load/Solution to Task 15";
    let loads = entry(archive, &format!("{folder}/solution15_L.csv"))?;
    let weather = entry(archive, &format!("{folder}/solution15_L_temperature.csv"))?;
    let [stamp, load] = [loads.column("TIMESTAMP")?, loads.column("LOAD")?];
    let [load_again, station] = [weather.column("LOAD")?, weather.column("w1")?];
    let mut hours = Vec::new();
    let mut weather_rows = weather.rows();
    for row in loads.rows() {
        clock.check(row, row.text(stamp)?)?;
        let beside =
            weather_rows.next().ok_or_else(|| row.refuse("its hour is not in solution15_L_temperature.csv"))?;
        if row.number(load)? != beside.number(load_again)? {
            return Err(beside.refuse("its load differs from that of solution15_L.csv"));
        }
        hours.push((row.number(load)?, mean_temperature(beside, station)?));
    }
    Ok(hours)
}

fn entry(archive: &Archive, name: &str) -> Result<Table, String> {
    Table::from_bytes(&format!("GEFCom2014-L_V2.zip, {name}"), &archive.read(name)?)
}

/// Mean of the stations `w1` … `w25`, which stand beside each other.
fn mean_temperature(row: Row<'_>, first: usize) -> Result<f32, String> {
    let mut sum = 0.0;
    for station in first..first + STATIONS {
        sum += f64::from(row.number(station)?);
    }
    Ok((sum / STATIONS as f64) as f32)
}

/// Counts the hours through all files.
struct Clock {
    /// Hours that have ended since the start of the first file.
    ended: i64,
}

impl Clock {
    /// Refuses a stamp that does not end the next hour.
    fn check(&mut self, row: Row<'_>, stamp: &str) -> Result<(), String> {
        let expected = written(self.ended).map_err(|e| row.refuse(&e.to_string()))?;
        if stamp != expected {
            return Err(row.refuse(&format!("the stamp is `{stamp}`, and the next hour ends at `{expected}`")));
        }
        self.ended += 1;
        Ok(())
    }
}

/// How the archive writes the end of an hour, counted from the first of its files.
fn written(hour: i64) -> Result<String, jiff::Error> {
    let end = FIRST_STAMP.checked_add(hour.hours())?;
    Ok(format!("{}{}{} {}:00", end.month(), end.day(), end.year(), end.hour()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_written_without_separators_or_zeros() {
        for (hour, expected) in [
            (0, "112001 1:00"),
            (22, "112001 23:00"),
            (23, "122001 0:00"),
            (35_063, "112005 0:00"),
            (35_064, "112005 1:00"),
            (85_439, "1012010 0:00"),
        ] {
            assert_eq!(written(hour).unwrap(), expected, "{hour}");
        }
    }

    #[test]
    fn an_hour_that_does_not_follow_is_refused_with_its_line() {
        let table = Table::from_bytes("L1", b"TIMESTAMP\n112001 1:00\n112001 3:00\n").unwrap();
        let mut clock = Clock { ended: 0 };
        let found: Vec<_> = table.rows().map(|row| clock.check(row, row.text(0).unwrap())).collect();
        assert_eq!(found[0], Ok(()));
        let complaint = found[1].clone().unwrap_err();
        assert!(
            complaint.starts_with("L1, line 3: the stamp is `112001 3:00`, and the next hour ends at `112001 2:00`")
        );
    }
}
