//! Settings of a kind of model, as configuration files and records of searches have them.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

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

/// As it is written in TOML, but that a text needs no quotes, which a shell takes away.
impl FromStr for Value {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Value, Infallible> {
        let read = toml::from_str::<Settings>(&format!("value = {text}")).ok();
        let alone = read.filter(|read| read.len() == 1).and_then(|mut read| read.remove("value"));
        Ok(alone.unwrap_or_else(|| Value::Choice(text.to_owned())))
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
            assert_eq!(value.to_string().parse(), Ok(value));
        }
        for name in ["huber", "true", "1 2", "1\ny = 2", ""] {
            assert_eq!(name.parse(), Ok(Value::Choice(name.to_owned())), "{name}");
        }
        let error = toml::from_str::<Settings>("x = true").unwrap_err().to_string();
        assert!(error.contains("expected a number or a text"), "{error}");
    }
}
