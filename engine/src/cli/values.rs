//! Values of options, as more than one command reads them.

use jiff::tz::TimeZone;
use meterline_connectors::stamp::Stamp;
use meterline_schemas::Micros;
use meterline_schemas::config::{Fallback, Label};
use meterline_schemas::settings::Value;

/// An instant in any form that readings have. Without an offset it is UTC, and a date alone is its midnight.
///
/// # Errors
/// It is in no known form.
pub fn instant(text: &str) -> Result<Micros, String> {
    Stamp::parse(text)
        .and_then(|stamp| stamp.instant(&TimeZone::UTC))
        .ok_or_else(|| format!("`{text}` is no instant; write it like 2024-03-01T12:00:00Z or 2024-03-01"))
}

/// `begin` or `end`: which end of the interval a stamp marks.
///
/// # Errors
/// It is neither.
pub fn label(text: &str) -> Result<Label, String> {
    match text {
        "begin" => Ok(Label::Begin),
        "end" => Ok(Label::End),
        _ => Err("use begin or end".into()),
    }
}

/// `last_day` or `last_week`: what stands in for a covariate that is missing ahead. That nothing does is said by leaving
/// the option out.
///
/// # Errors
/// It is neither.
pub fn fallback(text: &str) -> Result<Fallback, String> {
    match text {
        "last_day" => Ok(Fallback::LastDay),
        "last_week" => Ok(Fallback::LastWeek),
        _ => Err("use last_day or last_week".into()),
    }
}

/// `NAME=VALUE`: a setting of a model, as a configuration has it. A text needs no quotes.
///
/// # Errors
/// It has no name or no value.
pub fn setting(text: &str) -> Result<(String, Value), String> {
    let whole = text.split_once('=').map(|(name, value)| (name.trim(), value.trim()));
    match whole.filter(|(name, value)| !name.is_empty() && !value.is_empty()) {
        Some((name, value)) => {
            let Ok(value) = value.parse();
            Ok((name.to_owned(), value))
        }
        None => Err("write it as NAME=VALUE".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_keeps_its_time_of_day() {
        for (text, expected) in [
            ("1970-01-02", Some(86_400_000_000)),
            ("1970-01-01T01:00:00+01:00", Some(0)),
            ("1970-01-01T00:00:01Z", Some(1_000_000)),
            ("1970-01-01T00:01", Some(60_000_000)),
            ("1970-01-01 00:00:01", Some(1_000_000)),
            ("1970-01-01T", None),
            ("1970-13-01", None),
            ("yesterday", None),
        ] {
            assert_eq!(instant(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn a_label_is_one_of_two_words() {
        assert_eq!((label("begin"), label("end")), (Ok(Label::Begin), Ok(Label::End)));
        assert!(label("middle").is_err());
    }

    #[test]
    fn a_setting_is_written_as_in_the_configuration() {
        let named = |value| Ok(("leaves_max".to_owned(), value));
        for text in ["leaves_max=31", "leaves_max = 31"] {
            assert_eq!(setting(text), named(Value::Integer(31)), "{text}");
        }
        assert_eq!(setting("leaves_max=2.5e-1"), named(Value::Float(0.25)));
        for text in ["leaves_max=many", "leaves_max = \"many\""] {
            assert_eq!(setting(text), named(Value::Choice("many".into())), "{text}");
        }
        for text in ["leaves_max", "=31", "leaves_max="] {
            assert_eq!(setting(text).unwrap_err(), "write it as NAME=VALUE", "{text}");
        }
    }

    #[test]
    fn a_fallback_is_called_as_in_the_configuration() {
        for each in [Fallback::LastDay, Fallback::LastWeek] {
            assert_eq!(serde_json::to_value(each).unwrap().as_str().map(fallback), Some(Ok(each)));
        }
        assert_eq!(fallback("last_dya").unwrap_err(), "use last_day or last_week");
    }
}
