//! What `intervals` holds, as SQL tells it, beside what it must hold.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::oracle::{Expected, Interval, Key};

/// The query whose rows [`Found::of`] understands, with a condition.
pub fn query(condition: &str) -> String {
    format!(
        "SELECT series_id, CAST(start AS BIGINT) AS start_us, CAST(\"end\" AS BIGINT) AS end_us, value, quality, unit, \
         frequency FROM intervals WHERE {condition}"
    )
}

/// The intervals that are there.
#[derive(Debug, Default)]
pub struct Found {
    /// Each once.
    pub intervals: BTreeMap<Key, Interval>,
    /// Those that are there more than once.
    pub twice: Vec<Key>,
}

impl Found {
    /// Reads the rows of [`query`]. Panics where one breaks a rule of its own, such as its unit.
    pub fn of(rows: &[Map<String, Value>]) -> Found {
        let mut found = Found::default();
        for row in rows {
            let text = |column: &str| row[column].as_str().unwrap_or_else(|| panic!("{column} is no text in {row:?}"));
            let integer = |column: &str| row[column].as_i64().unwrap_or_else(|| panic!("{column} in {row:?}"));
            let value = row["value"].as_f64().unwrap_or_else(|| panic!("no value in {row:?}"));
            let (start_us, end_us) = (integer("start_us"), integer("end_us"));
            let seconds = (end_us - start_us) / 1_000_000;
            assert_eq!(text("unit"), "kWh", "{row:?}");
            let frequency =
                if seconds % 3600 == 0 { format!("PT{}H", seconds / 3600) } else { format!("PT{}M", seconds / 60) };
            assert_eq!(text("frequency"), frequency, "{row:?}");
            let key = (text("series_id").to_owned(), start_us / 1_000_000);
            let interval = Interval { seconds, value, quality: text("quality").to_owned() };
            if found.intervals.insert(key.clone(), interval).is_some() {
                found.twice.push(key);
            }
        }
        found
    }

    /// Each interval that is missing, wrong, or not to be there, in words.
    pub fn differences(&self, expected: &Expected) -> Vec<String> {
        let keys: BTreeSet<&Key> = expected.intervals.keys().chain(self.intervals.keys()).collect();
        keys.into_iter()
            .filter_map(|key| match (expected.intervals.get(key), self.intervals.get(key)) {
                (Some(e), Some(f)) if e.seconds == f.seconds && e.quality == f.quality && same(e.value, f.value) => {
                    None
                }
                (e, f) => Some(format!("{key:?}: expected {e:?}, found {f:?}")),
            })
            .collect()
    }
}

/// Equal but for the last digits that two JSON readers may disagree about.
fn same(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-12 * a.abs().max(b.abs()).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(series: &str, start: i64, value: f64) -> Map<String, Value> {
        let row = serde_json::json!({
            "series_id": series, "start_us": start * 1_000_000, "end_us": (start + 900) * 1_000_000, "value": value,
            "quality": "measured", "unit": "kWh", "frequency": "PT15M",
        });
        row.as_object().cloned().unwrap_or_default()
    }

    #[test]
    fn what_is_missing_wrong_too_much_or_there_twice_is_told() {
        let interval = |value| Interval { seconds: 900, value, quality: "measured".into() };
        let key = |series: &str, start| (series.to_owned(), start);
        let expected = Expected {
            intervals: [(key("a", 0), interval(1.0)), (key("a", 900), interval(2.0)), (key("b", 0), interval(3.0))]
                .into(),
            ..Expected::default()
        };
        let rows = [row("a", 0, 1.0), row("a", 0, 1.0), row("a", 900, 2.5), row("d", 0, 4.0)];
        let found = Found::of(&rows);
        assert_eq!(found.twice, [key("a", 0)]);
        let told = found.differences(&expected);
        assert_eq!(told.len(), 3, "wrong, missing, too much: {told:?}");
        assert!(Found::of(&rows[..1]).differences(&expected).len() == 2);
    }
}
