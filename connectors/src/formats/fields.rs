//! What fields mean that records of every kind have: the series, and an instant.

use compact_str::{CompactString, format_compact};
use jiff::tz::TimeZone;
use meterline_schemas::Micros;
use meterline_schemas::config::ClockChange;
use meterline_schemas::labels::ROLLUP_PREFIX;

use super::{Refusal, SERIES_BYTES_MAX, Scalar, reason, reserved, shortened};
use crate::stamp::{self, Stamp};

/// The identifier of a series, behind the prefix of its feed or source: a text or a whole number.
pub(super) fn series(scalar: &Scalar<'_>, field: &str, prefix: &str) -> Result<CompactString, Refusal> {
    let id = match scalar {
        Scalar::Missing => return Err(missing(reason::SERIES_MISSING, "series", field)),
        Scalar::Text(text) if text.is_empty() || prefix.is_empty() => CompactString::from(&**text),
        Scalar::Text(text) => format_compact!("{prefix}{text}"),
        Scalar::Integer(number) => format_compact!("{prefix}{number}"),
        Scalar::Float(_) | Scalar::Other(_) => {
            let detail = format!("series field `{field}` is {scalar}; it must be a text or a whole number");
            return Err(Refusal::new(reason::SERIES_INVALID, detail));
        }
    };
    if id.is_empty() || id.len() > SERIES_BYTES_MAX {
        let wanted = format!("it must have 1 to {SERIES_BYTES_MAX} bytes");
        let detail = format!("series field `{field}` is `{}`; {wanted}", shortened(&id));
        return Err(Refusal::new(reason::SERIES_INVALID, detail));
    }
    if id.starts_with(ROLLUP_PREFIX) {
        return Err(reserved(&id));
    }
    Ok(id)
}

/// An instant in any form of [`Stamp`], or a number since the epoch; `change` says which one it is where a clock shows it
/// twice. A field that is absent is refused with what is [missing].
pub(super) fn instant(
    scalar: &Scalar<'_>,
    field: &str,
    zone: &TimeZone,
    change: ClockChange,
) -> Result<Micros, Refusal> {
    let at = match scalar {
        Scalar::Missing => return Err(missing(reason::TIME_MISSING, "time", field)),
        Scalar::Text(text) => match (Stamp::parse(text).and_then(|stamp| stamp.instants(zone)), change) {
            (Some((_, Some(_))), ClockChange::Refuse) => return Err(ambiguous(scalar, field, zone)),
            (Some((_, Some(second))), ClockChange::Second) => Some(second),
            (found, _) => found.map(|(first, _)| first),
        },
        Scalar::Integer(value) => stamp::from_integer(*value),
        Scalar::Float(value) => stamp::from_float(*value),
        Scalar::Other(_) => None,
    };
    let Some(at) = at else {
        let wanted = "use RFC 3339, a local date and time, or an epoch number";
        return Err(Refusal::new(reason::TIME_INVALID, format!("time field `{field}` is {scalar}; {wanted}")));
    };
    if !(stamp::EARLIEST..stamp::LATEST).contains(&at) {
        let detail = format!("time field `{field}` is {scalar}, which is not between the years 1900 and 2199");
        return Err(Refusal::new(reason::TIME_OUT_OF_RANGE, detail));
    }
    Ok(at)
}

fn ambiguous(scalar: &Scalar<'_>, field: &str, zone: &TimeZone) -> Refusal {
    let detail = format!(
        "time field `{field}` is {scalar}, which a clock of {} shows twice, or never, because it is put back or forward: \
         send stamps with their offset, or say by `clock_change` of the feed which one is meant",
        zone.iana_name().unwrap_or("the feed's zone")
    );
    Refusal::new(reason::TIME_AMBIGUOUS, detail)
}

/// A field is absent or null.
pub(super) fn missing(reason: &'static str, role: &str, field: &str) -> Refusal {
    Refusal::new(reason, format!("{role} field `{field}` is absent or null"))
}
