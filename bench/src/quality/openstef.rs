//! Dutch substations of the OpenSTEF offline example (MPL-2.0): 2021-07-31 … 2021-10-30, quarter hours, UTC.
//!
//! Traps of the files:
//!
//! * the stamp is the **end** of the quarter hour: the first is 00:15, the last 2021-10-31 00:00. Here it is moved back
//!   one step;
//! * the first column has no name and numbers the rows; `HAL.csv` writes `Lat,Lon`, the others `lat,lon`;
//! * the files name no unit. Loads are negative where a substation feeds in, so ND divides by Σ|y|, not by Σy, and
//!   percentages make no sense;
//! * `WLS` is a dead meter, 0 throughout: left out;
//! * `LLS` has no `radiation` in the 365 quarter hours that end at 2021-10-01 10:15 … 2021-10-05 05:15, before the test
//!   window. It is interpolated linearly there, nights included;
//! * `radiation` is never quite 0 at night (about 5e-11): no logarithms of it;
//! * WEW and WHF, close to each other, share their weather.

use std::path::Path;

use jiff::tz::TimeZone;
use meterline_models::data::{Panel, Series};
use meterline_models::holidays::Holidays;
use meterline_schemas::time::DAY;
use meterline_schemas::{Frequency, Micros};

use super::grid::{Stamped, interpolate, on_grid};
use super::published;
use super::table::Table;
use super::{Baseline, Check, CovariateColumn, Metric, Protocol};

/// The substations of P2: all but the dead meter `WLS`.
pub const SUBSTATIONS: [&str; 9] = ["HAL", "HFDP", "LLS", "MNZL", "NRYN", "OWD", "WEW", "WHF", "WWF"];

/// 2021-10-10T00:00Z
const FIRST: Micros = 1_633_824_000_000_000;
const DAYS: i64 = 21;

/// P2: `total_substation` of nine substations, a day ahead from 21 midnights UTC, 2021-10-10 … 2021-10-30. `radiation`
/// and `windspeed_100m` of each are known ahead.
///
/// # Errors
/// As [`Protocol::load_all`].
pub fn p2(data: &Path) -> Result<Protocol, String> {
    let mut series = Vec::with_capacity(SUBSTATIONS.len());
    let mut covariates = Vec::with_capacity(2 * SUBSTATIONS.len());
    for (i, id) in SUBSTATIONS.iter().enumerate() {
        let (start, [load, radiation, wind]) = substation(data, id)?;
        series.push(Series::new((*id).to_owned(), start, load));
        for (name, mut values) in [("radiation", radiation), ("windspeed_100m", wind)] {
            interpolate(&mut values);
            covariates.push(CovariateColumn { name, series: Some(i), values });
        }
    }
    let check = |baseline, metric, expected, digits| Check { baseline, metric, expected, digits };
    Protocol {
        name: "P2",
        title: "9 Dutch substations, quarter-hourly, a day ahead, weather known",
        panel: Panel::new(Frequency::QUARTER_HOUR, TimeZone::UTC, series),
        holidays: Holidays::of("Netherlands").map_err(|error| format!("protocol P2: {error}"))?,
        covariates,
        origins: (0..DAYS).map(|day| FIRST + day * DAY).collect(),
        horizon: 96,
        season: 96,
        train_until: FIRST,
        checks: vec![
            check(Baseline::SeasonalNaiveDay, Metric::Nd, 0.582266, 6),
            check(Baseline::SeasonalNaiveDay, Metric::Mase, 1.049, 3),
            check(Baseline::SeasonalNaiveWeek, Metric::Nd, 0.599132, 6),
            check(Baseline::SeasonalNaiveWeek, Metric::Mase, 1.123, 3),
        ],
        peers: published::load_peers("P2"),
    }
    .validated()
}

/// Load, radiation and wind speed of one substation on the grid, and its start.
fn substation(data: &Path, id: &str) -> Result<(Micros, [Vec<f32>; 3]), String> {
    let table = Table::open(&data.join(format!("openstef_substations/{id}.csv")))?;
    let [stamp, load, radiation, wind] = [
        table.column("datetime")?,
        table.column("total_substation")?,
        table.column("radiation")?,
        table.column("windspeed_100m")?,
    ];
    let mut rows = Vec::new();
    for row in table.rows() {
        let start = row.stamp(stamp)? - Frequency::QUARTER_HOUR.nominal_micros();
        let values = [row.number(load)?, row.number_or_missing(radiation)?, row.number_or_missing(wind)?];
        rows.push(Stamped { at: start, line: row.line(), values });
    }
    let found = on_grid(table.file(), Frequency::QUARTER_HOUR, &rows)?;
    Ok((found.start, found.columns))
}
