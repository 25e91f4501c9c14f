//! The load protocols of the quality benchmark: real series, rolling daily origins, no tuning on the test window.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use meterline_models::data::{Panel, Series};
use meterline_schemas::time::DAY;
use meterline_schemas::{Frequency, Micros};

/// One protocol with its data.
pub struct Protocol {
    /// `P1`, `P2`
    pub name: &'static str,
    /// History and actuals.
    pub panel: Panel,
    /// Test origins, oldest first.
    pub origins: Vec<Micros>,
    /// Steps of each forecast.
    pub horizon: usize,
    /// Published ND of seasonal naive with the season of a day and of a week: our harness must give the same.
    pub naive_nd: [f64; 2],
    /// Published figures of LightGBM, measured elsewhere on two cores.
    pub lightgbm: Published,
}

/// Figures of a peer that does not run here.
pub struct Published {
    /// Normalised deviation of the median.
    pub nd: f64,
    /// Weighted quantile loss.
    pub wql: f64,
    /// Mean absolute scaled error.
    pub mase: f64,
    /// Share of actuals within the deciles 0.1 and 0.9.
    pub coverage: f64,
}

/// P1: ten clients of the UCI electricity data, hourly, a day ahead from 56 midnights.
pub fn p1(data: &Path) -> Result<Protocol, String> {
    let path = data.join("uci_electricity/clients_002_to_011_2014_hourly.csv");
    let mut series: BTreeMap<String, Vec<(Micros, f32)>> = BTreeMap::new();
    for line in lines(&path)? {
        let line = line?;
        let fields: Vec<&str> = line.split(',').collect();
        let [stamp, value, id] = fields[..] else { return Err(format!("{}: bad line `{line}`", path.display())) };
        // The stamp marks the hour's end.
        let start = utc(&stamp.replace(' ', "T"))? - Frequency::HOUR.nominal_micros();
        series.entry(id.to_owned()).or_default().push((start, number(value)?));
    }
    Ok(Protocol {
        name: "P1",
        panel: panel(Frequency::HOUR, series)?,
        // Midnights of the starts; a day ahead.
        origins: days(utc("2014-11-06T00:00:00")?, 56),
        horizon: 24,
        naive_nd: [0.115608, 0.103105],
        lightgbm: Published { nd: 0.0831, wql: 0.0661, mase: 0.711, coverage: 0.788 },
    })
}

/// P2: nine Dutch substations, quarter-hourly, a day ahead from 21 midnights. The weather is known ahead in the
/// protocol: LightGBM uses it, our models do not yet.
pub fn p2(data: &Path) -> Result<Protocol, String> {
    let mut series: BTreeMap<String, Vec<(Micros, f32)>> = BTreeMap::new();
    for id in ["HAL", "HFDP", "LLS", "MNZL", "NRYN", "OWD", "WEW", "WHF", "WWF"] {
        let path = data.join(format!("openstef_substations/{id}.csv"));
        let values = series.entry(id.to_owned()).or_default();
        for line in lines(&path)?.skip(1) {
            let line = line?;
            let mut fields = line.split(',').skip(1);
            let (Some(stamp), Some(value)) = (fields.next(), fields.nth(2)) else {
                return Err(format!("{}: bad line `{line}`", path.display()));
            };
            let stamp = utc(&stamp.trim_end_matches("+00:00").replace(' ', "T"))?;
            values.push((stamp - Frequency::QUARTER_HOUR.nominal_micros(), number(value)?));
        }
    }
    Ok(Protocol {
        name: "P2",
        panel: panel(Frequency::QUARTER_HOUR, series)?,
        origins: days(utc("2021-10-10T00:00:00")?, 21),
        horizon: 96,
        naive_nd: [0.582266, 0.599132],
        lightgbm: Published { nd: 0.4177, wql: 0.3269, mase: 0.781, coverage: 0.652 },
    })
}

fn lines(path: &Path) -> Result<impl Iterator<Item = Result<String, String>> + use<>, String> {
    let shown = path.display().to_string();
    let file = File::open(path).map_err(|e| format!("reading {shown}: {e}"))?;
    Ok(BufReader::new(file).lines().map(move |line| line.map_err(|e| format!("reading {shown}: {e}"))))
}

fn utc(text: &str) -> Result<Micros, String> {
    let local: DateTime = text.parse().map_err(|e| format!("time stamp `{text}`: {e}"))?;
    let stamp: Timestamp = TimeZone::UTC.to_timestamp(local).map_err(|e| format!("time stamp `{text}`: {e}"))?;
    Ok(stamp.as_microsecond())
}

fn number(text: &str) -> Result<f32, String> {
    text.parse().map_err(|_| format!("`{text}` is not a number"))
}

fn days(first: Micros, count: i64) -> Vec<Micros> {
    (0..count).map(|day| first + day * DAY).collect()
}

/// Puts stamped values on the grid; what is not there is missing.
fn panel(frequency: Frequency, series: BTreeMap<String, Vec<(Micros, f32)>>) -> Result<Panel, String> {
    let zone = TimeZone::UTC;
    let mut all = Vec::with_capacity(series.len());
    for (id, points) in series {
        let bounds = points.iter().map(|(at, _)| *at);
        let (Some(start), Some(last)) = (bounds.clone().min(), bounds.max()) else { continue };
        let length = frequency.steps_between(start, last, &zone) + 1;
        let mut values = vec![f32::NAN; usize::try_from(length).map_err(|_| format!("series {id} is too long"))?];
        for (at, value) in points {
            values[frequency.steps_between(start, at, &zone) as usize] = value;
        }
        all.push(Series::new(id, start, values));
    }
    Ok(Panel::new(frequency, zone, all))
}
