//! Trigger facts: what a policy's predicates can look at.
//!
//! Each fact is defined once, in [`FACTS`]: its name, type and meaning. The SQL table `trigger_facts`, the
//! predicates' schema and the documentation all come from that list. Time in facts is *stream time* (the group's
//! origin), never the wall clock, so that a replay decides as the live stream did; but for `silent_hours`, which says how
//! far the two are apart.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// One fact's definition.
#[derive(Debug, Clone, Copy)]
pub struct FactDefinition {
    /// Column name.
    pub name: &'static str,
    /// Column type.
    pub kind: FactKind,
    /// Meaning, with unit; when it is null.
    pub meaning: &'static str,
}

/// Type of a fact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FactKind {
    /// 64-bit integer.
    Integer,
    /// 64-bit float.
    Number,
    /// Boolean.
    Truth,
}

const fn fact(name: &'static str, kind: FactKind, meaning: &'static str) -> FactDefinition {
    FactDefinition { name, kind, meaning }
}

/// Every fact, in the order of the columns.
pub const FACTS: &[FactDefinition] = &[
    fact("series", FactKind::Integer, "series in the group"),
    fact("history_intervals", FactKind::Integer, "native intervals from the group's first interval to its origin"),
    fact(
        "history_needed",
        FactKind::Integer,
        "native intervals of history that the policy's kind of model needs to be trained on, with what evaluation keeps to itself",
    ),
    fact(
        "new_intervals",
        FactKind::Integer,
        "native intervals closed since the origin of this pipeline's last run that succeeded or is under way; all of the history if there is none, and 1 where only stragglers of closed intervals came",
    ),
    fact(
        "new_corrections",
        FactKind::Integer,
        "records since then that changed intervals of the group's series already written (where the group has roll-ups: of any series, which may be their parts); 1 where a series left the group and took its own along; null if there was no run",
    ),
    fact(
        "hours_since_run",
        FactKind::Number,
        "stream hours since the origin of this pipeline's last run that succeeded or is under way; null if there is none",
    ),
    fact("hours_since_build", FactKind::Number, "the same of the last build, whichever pipeline the row is about"),
    fact("hours_since_infer", FactKind::Number, "the same of the last infer run"),
    fact("has_champion", FactKind::Truth, "an approved model version serves this group"),
    fact(
        "champion_is_new",
        FactKind::Truth,
        "another model serves than the one that made the newest forecast: it was approved, rejected or rolled back since",
    ),
    fact(
        "champion_age_intervals",
        FactKind::Integer,
        "native intervals closed since the champion's training data ended; null without a champion",
    ),
    fact(
        "completeness",
        FactKind::Number,
        "share of the expected intervals of the recent context (up to 96 intervals per series) that are there, 0 to 1",
    ),
    fact(
        "mase_ratio",
        FactKind::Number,
        "MASE of the champion's scored forecasts over its MASE at registration, over the last horizon; null until half a horizon is scored",
    ),
    fact(
        "coverage",
        FactKind::Number,
        "share of scored actuals inside the forecasts' 80 % interval, 0 to 1, over the last horizon; null until half a horizon is scored",
    ),
    fact("coverage_near", FactKind::Number, "the same in the first half of the horizon"),
    fact("coverage_far", FactKind::Number, "the same in the second half of the horizon"),
    fact(
        "substituted_share",
        FactKind::Number,
        "share of the newest forecasts that seasonal naive stood in for; null before the first forecast",
    ),
    fact(
        "input_shift",
        FactKind::Number,
        "population stability index of the values of the last context against those of the context before the champion's training data ended, of each series standardised by the latter, computed once in a season: below 0.1 little has changed, above 0.25 much; null without a champion",
    ),
    fact("lag_records", FactKind::Integer, "records in Kafka that are not yet read"),
    fact("backfilling", FactKind::Truth, "the stream is catching up: lag_records is above ingest.catch_up_records"),
    fact(
        "silent_hours",
        FactKind::Number,
        "hours since the time stamp of the newest record of the group's feeds, by the clock; null where records have none. Looked at when something else changes: a silent stream closes no intervals",
    ),
    fact(
        "device_busy",
        FactKind::Truth,
        "all slots of this pipeline are taken: of builds those of device.slots, of infer runs and corrections the one",
    ),
    fact("failures_in_row", FactKind::Integer, "runs of this pipeline that failed since its last success"),
    fact(
        "retrain_gain",
        FactKind::Number,
        "by what part of the champion's wQL the last five builds were better than it, on average, in their evaluation; a rejected model gained 0; null before the first",
    ),
    fact(
        "retrain_gain_per_device_second",
        FactKind::Number,
        "the sum of these gains by the seconds for which these builds held the device",
    ),
];

/// The value of a fact that is not missing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FactValue {
    /// Of [`FactKind::Integer`].
    Integer(i64),
    /// Of [`FactKind::Number`]; finite.
    Number(f64),
    /// Of [`FactKind::Truth`].
    Truth(bool),
}

impl FactValue {
    /// A number; none where it is not finite, which no comparison would be right about.
    pub fn number(number: f64) -> Option<FactValue> {
        number.is_finite().then_some(FactValue::Number(number))
    }

    /// As a whole number.
    pub fn as_i64(self) -> Option<i64> {
        match self {
            FactValue::Integer(whole) => Some(whole),
            FactValue::Number(_) | FactValue::Truth(_) => None,
        }
    }

    /// As a number.
    pub fn as_f64(self) -> Option<f64> {
        match self {
            FactValue::Integer(whole) => Some(whole as f64),
            FactValue::Number(number) => Some(number),
            FactValue::Truth(_) => None,
        }
    }

    /// As a truth value.
    pub fn as_bool(self) -> Option<bool> {
        match self {
            FactValue::Truth(truth) => Some(truth),
            FactValue::Integer(_) | FactValue::Number(_) => None,
        }
    }

    // A JSON scalar as a value of a kind.
    fn of(kind: FactKind, value: &Value) -> Option<FactValue> {
        match kind {
            FactKind::Integer => value.as_i64().map(FactValue::Integer),
            FactKind::Number => value.as_f64().and_then(FactValue::number),
            FactKind::Truth => value.as_bool().map(FactValue::Truth),
        }
    }
}

impl fmt::Display for FactValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FactValue::Integer(whole) => write!(f, "{whole}"),
            FactValue::Number(number) => write!(f, "{number:.3}"),
            FactValue::Truth(truth) => write!(f, "{truth}"),
        }
    }
}

/// A value of each of [`FACTS`], or none where it is missing: a row without a heap, because thousands are made with each
/// commit. As JSON it is an object of scalars by name, with null for what is missing; names that are no longer known are
/// left out when it is read.
#[derive(Debug, Clone, PartialEq)]
pub struct FactValues([Option<FactValue>; FACTS.len()]);

impl Default for FactValues {
    fn default() -> FactValues {
        FactValues([None; FACTS.len()])
    }
}

impl FactValues {
    /// The place of a fact among [`FACTS`].
    pub fn place(name: &str) -> Option<usize> {
        static PLACES: LazyLock<HashMap<&str, usize>> =
            LazyLock::new(|| FACTS.iter().enumerate().map(|(place, fact)| (fact.name, place)).collect());
        PLACES.get(name).copied()
    }

    /// The value of a fact; none of one that is missing, or that there is not.
    pub fn get(&self, name: &str) -> Option<FactValue> {
        self.0.get(FactValues::place(name)?).copied().flatten()
    }

    /// Gives a fact its value; nothing where there is no such fact.
    pub fn set(&mut self, name: &str, value: Option<FactValue>) {
        if let Some(place) = FactValues::place(name).and_then(|place| self.0.get_mut(place)) {
            *place = value;
        }
    }

    /// The values, in the order of [`FACTS`].
    pub fn iter(&self) -> impl Iterator<Item = (&'static FactDefinition, Option<FactValue>)> + '_ {
        FACTS.iter().zip(self.0)
    }

    /// These, each with its name: fastest in the order of [`FACTS`].
    pub fn of(named: [(&str, Option<FactValue>); FACTS.len()]) -> FactValues {
        let mut values = FactValues::default();
        for ((fact, place), (name, value)) in FACTS.iter().zip(0..).zip(named) {
            match values.0.get_mut(place).filter(|_| fact.name == name) {
                Some(place) => *place = value,
                None => values.set(name, value),
            }
        }
        values
    }
}

impl Serialize for FactValues {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(FACTS.len()))?;
        for (fact, value) in self.iter() {
            match value {
                None => map.serialize_entry(fact.name, &())?,
                Some(FactValue::Integer(whole)) => map.serialize_entry(fact.name, &whole)?,
                Some(FactValue::Number(number)) => map.serialize_entry(fact.name, &number)?,
                Some(FactValue::Truth(truth)) => map.serialize_entry(fact.name, &truth)?,
            }
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for FactValues {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<FactValues, D::Error> {
        let found: HashMap<String, Value> = HashMap::deserialize(deserializer)?;
        let mut values = FactValues::default();
        for (fact, value) in FACTS.iter().zip(&mut values.0) {
            *value = found.get(fact.name).and_then(|found| FactValue::of(fact.kind, found));
        }
        Ok(values)
    }
}

/// Identity and values of one evaluation's facts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Model group.
    pub group_id: String,
    /// Trigger that the facts are about: `retrain`, `reforecast` or `correct`.
    pub pipeline: String,
    /// Values.
    pub values: FactValues,
}

/// Schema of [`FACTS`] alone, all nullable: what predicates are planned against.
pub fn fact_schema() -> SchemaRef {
    Arc::new(Schema::new(
        FACTS
            .iter()
            .map(|f| {
                let data_type = match f.kind {
                    FactKind::Integer => DataType::Int64,
                    FactKind::Number => DataType::Float64,
                    FactKind::Truth => DataType::Boolean,
                };
                Field::new(f.name, data_type, true)
            })
            .collect::<Vec<_>>(),
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_read_as_they_are_written_and_unknown_names_are_left_out() {
        let written = json!({
            "series": 3, "completeness": 1.0, "backfilling": false, "mase_ratio": null, "of_another_release": 1,
            "lag_records": "many"
        });
        let values: FactValues = serde_json::from_value(written).unwrap();
        assert_eq!(values.get("series"), Some(FactValue::Integer(3)));
        assert_eq!(values.get("completeness"), Some(FactValue::Number(1.0)));
        assert_eq!(values.get("backfilling"), Some(FactValue::Truth(false)));
        for missing in ["mase_ratio", "lag_records", "coverage", "of_another_release"] {
            assert_eq!(values.get(missing), None, "{missing}");
        }
        let again = serde_json::to_value(&values).unwrap();
        assert_eq!((again.as_object().unwrap().len(), &again["mase_ratio"]), (FACTS.len(), &Value::Null));
        assert_eq!(serde_json::from_value::<FactValues>(again).unwrap(), values);
        assert_eq!(FactValue::number(f64::NAN), None);
    }
}
