//! Records as they are sent.

use std::io::Write;

use meterline_schemas::time::{DAY, HOUR, MINUTE, SECOND};
use meterline_schemas::{Frequency, Micros};

use super::config::Form;
use super::meter::Meter;

/// One record, in the JSON form that [`Fleet`](super::Fleet) sends.
#[derive(Debug, Clone, PartialEq)]
pub struct FleetRecord {
    /// Simulated time at which it is sent.
    pub send_at: Micros,
    /// Why it is sent.
    pub kind: RecordKind,
    /// Number of the meter.
    pub meter: u32,
    /// What the meter sends.
    pub form: Form,
    /// Its native frequency.
    pub frequency: Frequency,
    /// Start of the interval.
    pub start: Micros,
    /// End of the interval.
    pub end: Micros,
    /// The stamp as the meter's clock has it.
    pub at: Micros,
    /// The value in `form`; `None` in a malformed record.
    pub value: Option<f64>,
    /// Whether the value is an estimate that will be corrected.
    pub estimated: bool,
    /// The series identifier, which is the record's key.
    pub key: String,
    /// The JSON text.
    pub payload: Vec<u8>,
}

/// Why a record is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKind {
    /// A reading, on time.
    Reading,
    /// A reading, late.
    Late,
    /// A record that was sent before.
    Duplicate,
    /// The right value of a reading that was sent as an estimate.
    Correction,
    /// A record that cannot be read.
    Malformed,
}

/// What the next record says, before it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sent {
    pub send_at: Micros,
    /// Keeps the order among records of one moment.
    pub sequence: u64,
    pub rank: u32,
    pub kind: RecordKind,
    pub start: Micros,
    pub end: Micros,
    /// The value in the form's smallest unit; how it is malformed, if it is.
    pub fixed: i64,
    pub estimated: bool,
}

/// Smallest units in one unit: watts, or tenths of a watt-hour.
pub const fn scale(form: Form) -> i64 {
    match form {
        Form::Kw => 1_000,
        Form::Kwh | Form::Register => 10_000,
    }
}

/// Ways in which a record is malformed.
const MALFORMATIONS: i64 = 6;

impl FleetRecord {
    /// A record to be written into.
    pub fn empty() -> FleetRecord {
        FleetRecord {
            send_at: 0,
            kind: RecordKind::Reading,
            meter: 0,
            form: Form::Kw,
            frequency: Frequency::QUARTER_HOUR,
            start: 0,
            end: 0,
            at: 0,
            value: None,
            estimated: false,
            key: String::new(),
            payload: Vec::new(),
        }
    }

    /// Becomes the record of `sent`. `regions` is given when records have labels.
    pub(super) fn write(&mut self, sent: &Sent, meter: &Meter, frequency: Frequency, regions: Option<u32>) {
        let readable = sent.kind != RecordKind::Malformed;
        self.send_at = sent.send_at;
        self.kind = sent.kind;
        self.meter = meter.number;
        self.form = meter.form;
        self.frequency = frequency;
        (self.start, self.end) = (sent.start, sent.end);
        self.at = sent.end + Micros::from(meter.skew_s) * SECOND;
        self.value = readable.then(|| sent.fixed as f64 / scale(meter.form) as f64);
        self.estimated = sent.estimated;
        self.key.clear();
        write_id(&mut self.key, meter.number);

        let broken = if readable { -1 } else { sent.fixed.rem_euclid(MALFORMATIONS) };
        let out = &mut self.payload;
        out.clear();
        let id_field: &[u8] = if broken == 0 { b"{\"meter\":\"" } else { b"{\"meter_id\":\"" };
        out.extend_from_slice(id_field);
        out.extend_from_slice(self.key.as_bytes());
        out.extend_from_slice(b"\",\"ts\":\"");
        match broken {
            1 => out.extend_from_slice(b"0000-00-00 25:61"),
            _ => write_stamp(out, self.at),
        }
        match broken {
            2 => out.extend_from_slice(b"\""),
            3 => out.extend_from_slice(b"\",\"value\":\"n/a\""),
            4 => out.extend_from_slice(b"\",\"value\":null"),
            5 => {
                // Cut off on the way.
                out.extend_from_slice(b"\",\"val");
                return;
            }
            _ => {
                out.extend_from_slice(b"\",\"value\":");
                write_fixed(out, if readable { sent.fixed } else { 0 }, scale(meter.form));
            }
        }
        out.extend_from_slice(b",\"unit\":\"");
        out.extend_from_slice(meter.form.unit().as_bytes());
        out.extend_from_slice(b"\",\"quality\":\"");
        let quality: &[u8] = if sent.estimated { b"estimated" } else { b"measured" };
        out.extend_from_slice(quality);
        if let Some(regions) = regions {
            let (site, feeder, region) = meter.place(regions);
            out.extend_from_slice(b"\",\"site\":\"S");
            write_digits(out, u64::from(site), 6);
            out.extend_from_slice(b"\",\"feeder\":\"F");
            write_digits(out, u64::from(feeder), 4);
            out.extend_from_slice(b"\",\"region\":\"");
            out.extend_from_slice(region.as_bytes());
        }
        out.extend_from_slice(b"\"}");
    }
}

/// `M0000042`.
pub fn write_id(out: &mut String, number: u32) {
    use std::fmt::Write;
    // Writing to a string cannot fail.
    let _ = write!(out, "M{number:07}");
}

/// `2024-01-01T00:15:00Z`, to the second. About ten times as fast as a general formatter.
pub fn write_stamp(out: &mut Vec<u8>, at: Micros) {
    let days = at.div_euclid(DAY);
    let rest = at.rem_euclid(DAY);
    // Years begin in March, so that the leap day is the last of its year.
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let m = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * m + 2) / 5 + 1;
    let month = if m < 10 { m + 3 } else { m - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    if !(0..=9999).contains(&year) {
        // Never from a checked configuration; still a true text.
        let _ = write!(out, "{}", meterline_schemas::time::format_micros(at));
        return;
    }
    let mut part = |value: i64, width: usize, end: u8| {
        write_digits(out, value as u64, width);
        out.push(end);
    };
    part(year, 4, b'-');
    part(month, 2, b'-');
    part(day, 2, b'T');
    part(rest / HOUR, 2, b':');
    part(rest % HOUR / MINUTE, 2, b':');
    part(rest % MINUTE / SECOND, 2, b'Z');
}

fn write_digits(out: &mut Vec<u8>, mut value: u64, width: usize) {
    let mut digits = [b'0'; 20];
    let mut n = digits.len();
    while value > 0 {
        n -= 1;
        digits[n] = b'0' + (value % 10) as u8;
        value /= 10;
    }
    let from = n.min(digits.len() - width.min(digits.len()));
    out.extend_from_slice(&digits[from..]);
}

/// `fixed / scale` as a decimal number without trailing zeros.
fn write_fixed(out: &mut Vec<u8>, fixed: i64, scale: i64) {
    if fixed < 0 {
        out.push(b'-');
    }
    let (whole, mut rest) = (fixed.unsigned_abs() / scale as u64, fixed.unsigned_abs() % scale as u64);
    write_digits(out, whole, 1);
    if rest == 0 {
        return;
    }
    out.push(b'.');
    let mut unit = scale as u64 / 10;
    while rest > 0 {
        out.push(b'0' + (rest / unit) as u8);
        rest %= unit;
        unit /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_agree_with_the_calendar() {
        for text in ["1970-01-01T00:00:00Z", "2024-02-29T23:59:59Z", "2100-03-01T12:00:07Z", "1999-12-31T00:00:00Z"] {
            let at = text.parse::<jiff::Timestamp>().unwrap().as_microsecond();
            let mut out = Vec::new();
            write_stamp(&mut out, at);
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }

    #[test]
    fn numbers_read_back_as_they_are() {
        for fixed in [0, 1, -1, 10, 999, 1_000, 1_250, -12_345, 1_234_567_890_123] {
            for scale in [1_000, 10_000] {
                let mut out = Vec::new();
                write_fixed(&mut out, fixed, scale);
                let text = String::from_utf8(out).unwrap();
                assert_eq!(text.parse::<f64>().unwrap(), fixed as f64 / scale as f64, "{text}");
            }
        }
    }
}
