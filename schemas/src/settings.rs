//! Settings of a kind of model, as configuration files and records of searches have them.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Settings by name. Those that are not there have their usual value.
pub type Settings = BTreeMap<String, Value>;

/// One value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number or a text")]
pub enum Value {
    /// Of a whole number.
    Integer(i64),
    /// Of a number.
    Float(f64),
    /// One of a few names.
    Choice(String),
}

/// As it is written in TOML.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Integer(value) => write!(f, "{value}"),
            // With a point or an exponent, by which TOML tells it from a whole number.
            Value::Float(value) => write!(f, "{value:?}"),
            Value::Choice(name) => write!(f, "{name:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_read_as_it_is_written() {
        for value in [Value::Integer(-3), Value::Float(2.0), Value::Float(1e-5), Value::Choice("a \"b\"".into())] {
            let read: Settings = toml::from_str(&format!("x = {value}\n")).unwrap();
            assert_eq!(read["x"], value);
        }
        let error = toml::from_str::<Settings>("x = true").unwrap_err().to_string();
        assert!(error.contains("expected a number or a text"), "{error}");
    }
}
