//! Readings as the JSON records that are sent to Kafka.

use meterline_schemas::time::{SECOND, format_micros};

use super::FileReading;
use crate::fleet::write_stamp;

/// Appends the record of a reading: `{"meter_id": …, "ts": …, "value": …, "unit": …, "quality": …}`, the unit where it
/// is known. A value that JSON cannot express (not a number, infinite) becomes `null`.
pub fn write_json(out: &mut Vec<u8>, reading: &FileReading) {
    out.extend_from_slice(b"{\"meter_id\":");
    text(out, &reading.series);
    out.extend_from_slice(b",\"ts\":\"");
    if reading.at % SECOND == 0 {
        write_stamp(out, reading.at);
    } else {
        out.extend_from_slice(format_micros(reading.at).as_bytes());
    }
    out.extend_from_slice(b"\",\"value\":");
    // Writing a number or a text to memory cannot fail.
    let _ = serde_json::to_writer(&mut *out, &reading.value);
    if let Some(unit) = &reading.unit {
        out.extend_from_slice(b",\"unit\":");
        text(out, &unit.to_string());
    }
    out.extend_from_slice(b",\"quality\":\"");
    out.extend_from_slice(reading.quality.as_str().as_bytes());
    out.extend_from_slice(b"\"}");
}

fn text(out: &mut Vec<u8>, text: &str) {
    let _ = serde_json::to_writer(out, text);
}

#[cfg(test)]
mod tests {
    use meterline_schemas::config::Label;
    use meterline_schemas::reading::Quality;
    use meterline_schemas::unit::Unit;

    use super::*;

    #[test]
    fn records_have_the_form_that_feeds_read() {
        let reading = FileReading {
            series: "a \"b\"/c".into(),
            at: 1_704_067_200_500_000,
            value: 5.56e-11,
            unit: Some(Unit::KW),
            quality: Quality::Estimated,
            label: Label::End,
            covariates: Box::default(),
        };
        let mut out = Vec::new();
        write_json(&mut out, &reading);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"{"meter_id":"a \"b\"/c","ts":"2024-01-01T00:00:00.5Z","value":5.56e-11,"unit":"kW","quality":"estimated"}"#
        );
        let mut out = Vec::new();
        write_json(&mut out, &FileReading { at: 0, unit: None, value: 3.0, ..reading });
        assert!(String::from_utf8(out).unwrap().contains(r#""ts":"1970-01-01T00:00:00Z","value":3.0,"quality""#));
    }
}
