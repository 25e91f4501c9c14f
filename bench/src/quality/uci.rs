//! UCI LD2011_2014 electricity (Trindade 2015, CC BY 4.0): ten clients of a Portuguese supplier, 2014, hourly mean kW.
//!
//! Traps of the file:
//!
//! * no header; columns `timestamp,target,item_id`; all clients of one hour stand together;
//! * the stamp is the **end** of the hour: the first is 2014-01-01 01:00, the last 2015-01-01 00:00. Here it is moved
//!   back one step, and P1's origin at "midnight" is that of the starts;
//! * the file is named after clients 002 to 011, its identifiers are `client_1` to `client_10`;
//! * stamps are Portuguese wall-clock time without an offset, and every day has 24 of them. So the day in spring lacks
//!   its hour: the one that ends at 2014-03-30 02:00 holds about a third of its neighbours, or exactly 0; and the one
//!   that ends at 2014-10-26 02:00 holds about one and a half. Both are before the test window of P1. The panel's zone
//!   is UTC, so that a day of the panel is a day of these stamps, which is a local day;
//! * zeros are common (`client_2` starts with one) and are values, not gaps.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::tz::TimeZone;
use meterline_models::data::{Panel, Series};
use meterline_models::holidays::Holidays;
use meterline_schemas::time::DAY;
use meterline_schemas::{Frequency, Micros};

use super::grid::{Stamped, on_grid};
use super::published;
use super::table::Table;
use super::{Baseline, Check, Metric, Protocol};

/// 2014-11-06T00:00, start of the first hour of P1's test window.
const P1_FIRST: Micros = 1_415_232_000_000_000;
const P1_DAYS: i64 = 56;
/// 2014-09-01T00:00, a Monday.
const WEEK_FIRST: Micros = 1_409_529_600_000_000;

/// P1: a day ahead from 56 midnights, 2014-11-06 … 2014-12-31. No covariate.
///
/// # Errors
/// As [`Protocol::load_all`].
pub fn p1(data: &Path) -> Result<Protocol, String> {
    Protocol {
        name: "P1",
        title: "10 clients of UCI LD2011_2014, hourly, a day ahead",
        checks: vec![
            check(Baseline::SeasonalNaiveDay, Metric::Nd, 0.115608, 6),
            check(Baseline::SeasonalNaiveDay, Metric::Mase, 1.067, 3),
            check(Baseline::SeasonalNaiveWeek, Metric::Nd, 0.103105, 6),
            check(Baseline::SeasonalNaiveWeek, Metric::Mase, 0.884, 3),
        ],
        peers: published::load_peers("P1"),
        ..midnights(data, P1_FIRST, P1_DAYS)?
    }
    .validated()
}

/// The published protocol of the whole data set on the ten clients that are here: a day ahead from the seven midnights
/// of the week of 2014-09-01.
///
/// The peers' figures are of all 370 clients and of models that see a context of 168 hours: they compare with one
/// another and not with what is measured here, where the seasonal naive of a day has 1.7 times its figure on all
/// clients. The checks were recomputed for this benchmark, twice and apart; the "about .13" that is told of these ten
/// clients is neither: a season of a week comes nearest to it.
///
/// # Errors
/// As [`Protocol::load_all`].
pub fn published_week(data: &Path) -> Result<Protocol, String> {
    Protocol {
        name: "UCI",
        title: "10 clients of UCI LD2011_2014, hourly, a day ahead, week of 2014-09-01",
        checks: vec![
            check(Baseline::SeasonalNaiveDay, Metric::Nd, 0.117420, 6),
            check(Baseline::SeasonalNaiveWeek, Metric::Nd, 0.125578, 6),
        ],
        peers: published::uci_week(),
        ..midnights(data, WEEK_FIRST, 7)?
    }
    .validated()
}

fn check(baseline: Baseline, metric: Metric, expected: f64, digits: usize) -> Check {
    Check { baseline, metric, expected, digits }
}

/// A day ahead from `days` midnights, with neither checks nor peers.
fn midnights(data: &Path, first: Micros, days: i64) -> Result<Protocol, String> {
    Ok(Protocol {
        name: "",
        title: "",
        panel: Panel::new(Frequency::HOUR, TimeZone::UTC, clients(data)?),
        covariates: vec![],
        holidays: Holidays::of("Portugal").map_err(|error| format!("protocol P1: {error}"))?,
        origins: (0..days).map(|day| first + day * DAY).collect(),
        horizon: 24,
        season: 24,
        train_until: first,
        checks: vec![],
        peers: vec![],
    })
}

/// The series, by identifier.
fn clients(data: &Path) -> Result<Vec<Series>, String> {
    let path = data.join("uci_electricity/clients_002_to_011_2014_hourly.csv");
    let table = Table::without_header(&path, &["timestamp", "target", "item_id"])?;
    let [stamp, target, id] = [table.column("timestamp")?, table.column("target")?, table.column("item_id")?];
    let mut clients: BTreeMap<&str, Vec<Stamped<1>>> = BTreeMap::new();
    for row in table.rows() {
        let start = row.stamp(stamp)? - Frequency::HOUR.nominal_micros();
        let stamped = Stamped { at: start, line: row.line(), values: [row.number(target)?] };
        clients.entry(row.text(id)?).or_default().push(stamped);
    }
    clients
        .into_iter()
        .map(|(id, rows)| {
            let found = on_grid(table.file(), Frequency::HOUR, &rows)?;
            let [values] = found.columns;
            Ok(Series::new(id.to_owned(), found.start, values))
        })
        .collect()
}
