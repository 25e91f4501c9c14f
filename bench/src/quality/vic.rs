//! Half-hourly electricity demand of Victoria, Australia, 2012 … 2014 (`vic_elec` of R's tsibbledata, here from
//! skforecast-datasets, BSD-3), with temperature and holidays.
//!
//! Traps of the file:
//!
//! * stamps are UTC and mark the **start** of the half hour, unlike those of P1, P2 and P4; they are regular in UTC, so
//!   local days have 46, 48 or 50 half hours. The file starts and ends at a Melbourne midnight (13:00 UTC in summer);
//! * Melbourne's summer time runs from October to April: the window of P3 lies wholly in it, half of the training data
//!   does not. Seasonal naive counts 48 half hours back, not a local day;
//! * `Date` is the local date and `Holiday` (`TRUE`, `FALSE`) is that of the local day, so a UTC day has two;
//! * the source calls demand MWh, yet its size (3 to 9 thousand) is that of Victoria's mean MW: treat it as a power and
//!   do not double it. No figure here depends on that;
//! * temperature is °C in Melbourne, measured, so as something known ahead it is better than any forecast of the weather.

use std::path::Path;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use meterline_models::data::{Panel, Series};
use meterline_models::holidays::Holidays;
use meterline_schemas::{Frequency, Micros};

use super::grid::{Stamped, interpolate, on_grid};
use super::published;
use super::table::{Row, Table};
use super::{Baseline, Check, CovariateColumn, Metric, Protocol};

const HALF_HOUR: Frequency = Frequency::Seconds(1800);
/// Local dates of the origins: 2014-11-06 … 2014-12-31.
const FIRST: Date = Date::constant(2014, 11, 6);
const DAYS: i64 = 56;

/// P3: demand a day ahead from 56 Melbourne midnights. Temperature (°C, measured) and holidays (0 or 1) are known
/// ahead.
///
/// # Errors
/// As [`Protocol::load_all`], and when the time zone database has no Melbourne.
pub fn p3(data: &Path) -> Result<Protocol, String> {
    let zone = TimeZone::get("Australia/Melbourne").map_err(|e| {
        format!("protocol P3: {e}; install the system's time zone database or build with a bundled one")
    })?;
    let table = Table::open(&data.join("vic_electricity/vic_electricity.csv"))?;
    let [stamp, demand, temperature, holiday] =
        [table.column("Time")?, table.column("Demand")?, table.column("Temperature")?, table.column("Holiday")?];
    let mut rows = Vec::new();
    for row in table.rows() {
        let values = [row.number(demand)?, row.number_or_missing(temperature)?, flag(row, holiday)?];
        rows.push(Stamped { at: row.stamp(stamp)?, line: row.line(), values });
    }
    let found = on_grid(table.file(), HALF_HOUR, &rows)?;
    let [demand, mut temperature, mut holiday] = found.columns;
    interpolate(&mut temperature);
    interpolate(&mut holiday);
    let local = |place: usize| {
        let at = HALF_HOUR.advance(found.start, place as i64, &zone);
        Timestamp::from_microsecond(at).map(|at| zone.to_datetime(at).date()).unwrap_or_default()
    };
    let holidays: Vec<Date> = (0..holiday.len()).filter(|place| holiday[*place] == 1.0).map(local).collect();
    let origins = origins(&zone).map_err(|e| format!("protocol P3: midnights of Melbourne: {e}"))?;
    let check = |baseline, metric, expected, digits| Check { baseline, metric, expected, digits };
    Protocol {
        name: "P3",
        title: "demand of Victoria, half-hourly, a day ahead, temperature and holidays known",
        panel: Panel::new(HALF_HOUR, zone, vec![Series::new("Victoria", found.start, demand)]),
        holidays: Holidays::none().with(holidays),
        covariates: vec![
            CovariateColumn { name: "temperature", series: None, values: temperature },
            CovariateColumn { name: "holiday", series: None, values: holiday },
        ],
        train_until: origins.first().copied().unwrap_or(found.start),
        origins,
        horizon: 48,
        season: 48,
        checks: vec![
            check(Baseline::SeasonalNaiveDay, Metric::Nd, 0.074443, 6),
            check(Baseline::SeasonalNaiveDay, Metric::Mase, 0.872, 3),
            check(Baseline::SeasonalNaiveWeek, Metric::Nd, 0.072563, 6),
            check(Baseline::SeasonalNaiveWeek, Metric::Mase, 0.850, 3),
        ],
        peers: published::load_peers("P3"),
    }
    .validated()
}

fn flag(row: Row<'_>, column: usize) -> Result<f32, String> {
    match row.text(column)? {
        "TRUE" => Ok(1.0),
        "FALSE" => Ok(0.0),
        other => Err(row.refuse(&format!("`{other}` is neither TRUE nor FALSE"))),
    }
}

fn origins(zone: &TimeZone) -> Result<Vec<Micros>, jiff::Error> {
    let midnight = |day: i64| -> Result<Timestamp, jiff::Error> {
        Ok(FIRST.checked_add(day.days())?.to_zoned(zone.clone())?.timestamp())
    };
    (0..DAYS).map(|day| Ok(midnight(day)?.as_microsecond())).collect()
}

/// How many half hours have another local date in the zone of the panel than the column `Date` has.
#[cfg(test)]
pub(super) fn dates_that_differ(data: &Path) -> Result<usize, String> {
    let zone = TimeZone::get("Australia/Melbourne").map_err(|e| e.to_string())?;
    let table = Table::open(&data.join("vic_electricity/vic_electricity.csv"))?;
    let [stamp, date] = [table.column("Time")?, table.column("Date")?];
    let mut differ = 0;
    for row in table.rows() {
        let at = Timestamp::from_microsecond(row.stamp(stamp)?).map_err(|e| row.refuse(&e.to_string()))?;
        differ += usize::from(at.to_zoned(zone.clone()).date().to_string() != row.text(date)?);
    }
    Ok(differ)
}
