//! A roll-up of all meters of a run, by region and site, and what it must hold: sums of the intervals that the oracle
//! says its members have. Regions come from a file, and sites, which move, from the readings of [`Kind::Energy`] and of
//! the others from a topic.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::Failure;
use super::feed::{Kind, SECONDS, Topic, region, site};
use super::verdict::{Row, integer};
use crate::oracle::{Expected, instant_ms};
use crate::topic::Record;

/// Lengths of the roll-up's intervals, with their names: that of the meters, and a longer one.
const LENGTHS: [(i64, &str); 2] = [(SECONDS, "PT15M"), (3600, "PT1H")];
/// The qualities, and the columns that count them; the less trusted, the later.
const QUALITIES: [&str; 3] = ["measured", "estimated", "substituted"];

/// The roll-up; little of it is remembered, so that stragglers and corrections find it in the lake.
pub fn section(run: &str) -> String {
    let sites = Topic::Sites.name(run);
    format!(
        r#"
[labels.regions]
file = "regions.csv"
labels = {{ region = "region" }}
[labels.sites]
topic = "{sites}"
labels = {{ site = "site" }}
[rollup.grid]
by = ["region", "site"]
frequencies = ["native", "PT1H"]
remembered = "2h"
"#
    )
}

/// What the feed of a kind says of labels.
pub fn labels_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Energy => "labels = { site = \"site\" }\n",
        Kind::Power | Kind::Register => "",
    }
}

/// Writes the file that [`section`] names.
///
/// # Errors
/// The disk refuses.
pub fn write_labels(folder: &Path) -> Result<(), Failure> {
    let mut regions = "series_id,region\n".to_owned();
    for kind in Kind::ALL {
        for meter in 0..kind.meters_max() {
            regions += &format!("{}-{meter},{}\n", kind.name(), region(kind, meter));
        }
    }
    fs::write(folder.join("regions.csv"), regions).map_err(|error| format!("writing regions.csv: {error}"))
}

/// By series the sites that were said of it, and from when on each holds, in seconds since the epoch.
pub type Sites = BTreeMap<String, BTreeMap<i64, String>>;

/// What the records of [`Topic::Sites`] say: of two about one series and instant the one with the greater position
/// counts.
///
/// # Errors
/// A record says nothing.
pub fn sites(records: &[Record]) -> Result<Sites, Failure> {
    let mut records: Vec<&Record> = records.iter().collect();
    records.sort_by_key(|record| (record.timestamp_ms, record.partition, record.offset));
    let mut sites = Sites::new();
    for record in records {
        let said: Option<Value> = record.payload.as_deref().and_then(|payload| serde_json::from_slice(payload).ok());
        let text = |name: &str| Some(said.as_ref()?.get(name)?.as_str()?.to_owned());
        let place = || Some((text("series_id")?, instant_ms(&text("valid_from")?)? / 1000, text("site")?));
        let (series, from, site) = place().ok_or_else(|| format!("a record of sites is {record:?}"))?;
        sites.entry(series).or_default().insert(from, site);
    }
    Ok(sites)
}

/// What one interval of the roll-up adds up to.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Sum {
    /// Millionths of a kWh, to which roll-ups round.
    micros: i64,
    /// Seconds for which there is a value, over all members.
    present: i64,
    /// Seconds for which there should be one. `None`: it is not judged.
    expected: Option<i64>,
    /// Intervals of each quality.
    of_quality: [i64; 3],
    /// The least trusted of these.
    quality: String,
}

/// By series of the roll-up and start in seconds since the epoch.
pub type Sums = BTreeMap<(String, i64), Sum>;

/// The roll-up of the intervals of meters that are at these sites.
///
/// # Errors
/// A series is no meter of the feed, or nothing is said of where it is.
pub fn expected(of: &Expected, sites: &Sites) -> Result<Sums, Failure> {
    let mut series: BTreeMap<&str, BTreeMap<i64, (i64, usize)>> = BTreeMap::new();
    for ((name, start), interval) in &of.intervals {
        let micros = (interval.value * 1e6).round() as i64;
        let quality = QUALITIES.iter().position(|quality| *quality == interval.quality).unwrap_or(0);
        series.entry(name).or_default().insert(*start, (micros, quality));
    }
    let last = series.values().filter_map(|intervals| intervals.keys().next_back()).max().copied();
    // The whole of the longer interval is expected, also where it has just begun.
    let end = last.map_or(0, |last| last - last.rem_euclid(3600) + 3600);
    let mut groups: BTreeMap<(&'static str, Option<String>, usize, i64), Sum> = BTreeMap::new();
    for (name, intervals) in &series {
        let (kind, meter) = meter(name).ok_or_else(|| format!("no meter of the feed is called {name}"))?;
        let Some(first) = intervals.keys().next().copied() else { continue };
        let (region, mut place) = (region(kind, meter), site(meter, first));
        for start in (first..end).step_by(SECONDS as usize) {
            let interval = intervals.get(&start);
            match kind {
                // Between two intervals it stays where the one before was.
                Kind::Energy if interval.is_some() => place = site(meter, start),
                Kind::Energy => {}
                Kind::Power | Kind::Register => {
                    let said = sites.get(*name).and_then(|said| said.range(..=start).next_back());
                    place =
                        said.map(|(_, site)| site.clone()).ok_or_else(|| format!("nothing says where {name} is"))?;
                }
            }
            for (number, (length, _)) in LENGTHS.iter().enumerate() {
                for of_site in [None, Some(place.clone())] {
                    let key = (region, of_site, number, start - start.rem_euclid(*length));
                    let sum = groups.entry(key).or_default();
                    sum.expected = Some(sum.expected.unwrap_or(0) + SECONDS);
                    if let Some((micros, quality)) = interval {
                        sum.micros += micros;
                        sum.present += SECONDS;
                        sum.of_quality[*quality] += 1;
                    }
                }
            }
        }
    }
    let there = groups.into_iter().filter(|(_, sum)| sum.present > 0);
    let sums = there.map(|((region, site, number, start), mut sum)| {
        let site = site.map_or_else(String::new, |site| format!("/site={site}"));
        let least = sum.of_quality.iter().rposition(|count| *count > 0).unwrap_or(0);
        sum.quality = QUALITIES[least].to_owned();
        // A register whose first interval was taken away again is expected from there on all the same.
        if region == "south" {
            sum.expected = None;
        }
        ((format!("rollup.grid:region={region}{site}@{}", LENGTHS[number].1), start), sum)
    });
    Ok(sums.collect())
}

/// The kind and number of a meter, by its name.
fn meter(name: &str) -> Option<(Kind, i64)> {
    let (kind, number) = name.rsplit_once('-')?;
    let kind = Kind::ALL.into_iter().find(|known| known.name() == kind)?;
    Some((kind, number.parse().ok()?))
}

/// The query whose rows [`found`] understands.
pub fn query() -> String {
    let counts = QUALITIES.join(", ");
    format!(
        "SELECT series_id, CAST(start AS BIGINT) AS start_us, CAST(\"end\" AS BIGINT) AS end_us, value, quality, unit, \
         frequency, present, expected, {counts} FROM intervals WHERE feed LIKE 'rollup.%'"
    )
}

/// What the roll-up holds, and what of it is there more than once.
///
/// # Errors
/// A row is none of a roll-up, or breaks a rule of its own.
pub fn found(rows: &[Row]) -> Result<(Sums, Vec<(String, i64)>), Failure> {
    let (mut sums, mut twice) = (Sums::new(), Vec::new());
    for row in rows {
        let text = |column: &str| {
            let text = row.get(column).and_then(Value::as_str);
            text.map(str::to_owned).ok_or_else(|| format!("no text {column} in {row:?}"))
        };
        let value = row.get("value").and_then(Value::as_f64).ok_or_else(|| format!("no value in {row:?}"))?;
        let (series, start, end) = (text("series_id")?, integer(row, "start_us")?, integer(row, "end_us")?);
        let length = LENGTHS.iter().find(|(length, _)| length * 1_000_000 == end - start);
        let is_sound = length.is_some_and(|(_, name)| series.ends_with(&format!("@{name}")));
        if !is_sound || text("unit")? != "kWh" || !series.ends_with(&text("frequency")?) {
            return Err(format!("a row of a roll-up is {row:?}"));
        }
        let mut of_quality = [0; 3];
        for (count, column) in of_quality.iter_mut().zip(QUALITIES) {
            *count = integer(row, column)?;
        }
        let sum = Sum {
            micros: (value * 1e6).round() as i64,
            present: integer(row, "present")?,
            expected: Some(integer(row, "expected")?),
            of_quality,
            quality: text("quality")?,
        };
        let key = (series, start / 1_000_000);
        if sums.insert(key.clone(), sum).is_some() {
            twice.push(key);
        }
    }
    Ok((sums, twice))
}

/// Each interval of the roll-up that is missing, wrong, or not to be there, in words.
pub fn differences(expected: &Sums, found: &Sums) -> Vec<String> {
    let keys: BTreeSet<&(String, i64)> = expected.keys().chain(found.keys()).collect();
    let pairs = keys.into_iter().map(|key| (key, expected.get(key), found.get(key)));
    pairs
        .filter(|(_, expected, found)| match (expected, found) {
            (Some(expected), Some(found)) => {
                let judged = Sum { expected: expected.expected.and(found.expected), ..(*found).clone() };
                judged != **expected
            }
            _ => true,
        })
        .map(|(key, expected, found)| format!("{key:?}: expected {expected:?}, found {found:?}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::Interval;

    /// 2024-02-01T00:00:00Z.
    const DAY: i64 = 1_706_745_600;

    fn of_meters(intervals: &[(&str, i64, f64, &str)]) -> Expected {
        let interval = |value: f64, quality: &str| Interval { seconds: SECONDS, value, quality: quality.to_owned() };
        let intervals = intervals
            .iter()
            .map(|(series, start, value, quality)| (((*series).to_owned(), *start), interval(*value, quality)));
        Expected { intervals: intervals.collect(), ..Expected::default() }
    }

    /// All of them at one site.
    fn at_s0() -> Sites {
        let meters =
            [Kind::Power, Kind::Register].map(|kind| (0..2).map(move |meter| format!("{}-{meter}", kind.name())));
        meters.into_iter().flatten().map(|name| (name, BTreeMap::from([(0, "s0".to_owned())]))).collect()
    }

    #[test]
    fn of_what_is_said_of_an_instant_the_greatest_position_counts() {
        let said = |timestamp_ms, offset, from: &str, site: &str| Record {
            timestamp_ms,
            partition: 0,
            offset,
            payload: Some(format!(r#"{{"series_id":"power-0","valid_from":"{from}","site":"{site}"}}"#).into()),
        };
        let (first, then) = ("1970-01-01T00:00:00Z", "1970-01-01T00:15:00Z");
        let found = sites(&[said(5, 0, first, "s1"), said(9, 1, then, "s2"), said(4, 2, first, "s0")]).unwrap();
        assert_eq!(found["power-0"], BTreeMap::from([(0, "s1".to_owned()), (900, "s2".to_owned())]));
        assert!(sites(&[said(5, 0, "soon", "s1")]).is_err());
        let of = of_meters(&[("power-0", 0, 1.0, "measured"), ("power-0", 900, 2.0, "measured")]);
        let sums = expected(&of, &found).unwrap();
        let at = |site: &str, start| &sums[&(format!("rollup.grid:region=north/site={site}@PT15M"), start)];
        assert_eq!((at("s1", 0).micros, at("s2", 900).micros), (1_000_000, 2_000_000));
        assert!(expected(&of, &Sites::new()).is_err());
    }

    #[test]
    fn a_sum_has_its_members_their_worst_quality_and_what_is_missing() {
        let sums = expected(
            &of_meters(&[
                ("meters-0", DAY - SECONDS, 1.0, "measured"),
                ("meters-0", DAY, 2.0, "measured"),
                ("power-1", DAY, 0.5, "estimated"),
                ("power-1", DAY + 2 * SECONDS, 0.25, "measured"),
                ("register-1", DAY, 4.0, "measured"),
            ]),
            &at_s0(),
        )
        .unwrap();
        let north = |start, name: &str| sums[&(format!("rollup.grid:region=north@{name}"), start)].clone();
        let (quarter, hour) = (north(DAY, "PT15M"), north(DAY, "PT1H"));
        assert_eq!((quarter.micros, quarter.present, quarter.expected), (2_500_000, 1800, Some(1800)));
        assert_eq!((quarter.of_quality, &*quarter.quality), ([1, 1, 0], "estimated"));
        // An hour of two meters; three quarters are there.
        assert_eq!((hour.micros, hour.present, hour.expected), (2_750_000, 2700, Some(7200)));
        assert_eq!(north(DAY - SECONDS, "PT15M").expected, Some(900));
        // The meter has moved at midnight, and is gone from where it was.
        let sites: Vec<&str> = sums.keys().filter_map(|(series, _)| Some(series.split_once("/site=")?.1)).collect();
        assert!(sites.contains(&"s1@PT15M"), "{sites:?}");
        let (before, after) = (site(0, DAY - SECONDS), site(0, DAY));
        assert_ne!(before, after);
        let at = |site: &str, start| sums.get(&(format!("rollup.grid:region=north/site={site}@PT15M"), start));
        assert_eq!(at(&after, DAY).map(|sum| sum.micros >= 2_000_000), Some(true));
        assert_eq!(at(&before, DAY).map_or(0, |sum| sum.micros / 1_000_000), 0);
        let south = &sums[&("rollup.grid:region=south@PT15M".to_owned(), DAY)];
        assert_eq!((south.micros, south.expected), (4_000_000, None));
    }

    #[test]
    fn a_difference_is_told_but_not_in_what_is_not_judged() {
        let wanted =
            expected(&of_meters(&[("power-0", DAY, 1.0, "measured"), ("register-0", DAY, 2.0, "measured")]), &at_s0())
                .unwrap();
        let mut found = wanted.clone();
        assert!(differences(&wanted, &found).is_empty());
        for sum in found.values_mut() {
            sum.expected = Some(7200);
        }
        // Two levels of two lengths, of the region that is judged.
        assert_eq!(differences(&wanted, &found).len(), 4);
        let mut found = wanted.clone();
        found.pop_first();
        assert_eq!(differences(&wanted, &found).len(), 1);
        assert_eq!(differences(&found, &wanted).len(), 1);
    }
}
