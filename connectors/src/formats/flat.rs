//! The short way through a JSON record: one flat object without escapes, which is what most meters send.
//!
//! It knows a part of JSON alone and has no opinion about the rest (`None`): what it accepts, the full parser accepts
//! too, with the same fields.

use std::borrow::Cow;

use super::json::Paths;
use super::shape::{self, Shapes};
use super::{Found, Scalar};

/// Digits of a whole number that surely fits `i64`.
const INTEGER_DIGITS_MAX: u32 = 18;
/// Digits of a number that `f64` holds exactly.
const EXACT_DIGITS_MAX: u32 = 15;
/// The powers of ten that `f64` holds exactly: dividing an exact number by one of them rounds once, which is right.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// Where a value stands in a record, and the fields that it is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) fields: u64,
}

/// The fields of a flat record, or `None` where the full parser has to look at it.
pub(super) fn extract<'a>(paths: &Paths, shapes: &mut Shapes, text: &'a str) -> Option<Found<'a>> {
    if let Some(found) = shapes.extract(paths, text) {
        return Some(found);
    }
    shapes.marks.clear();
    let found = walk(paths, text, &mut shapes.marks)?;
    shapes.learn(text);
    Some(found)
}

fn walk<'a>(paths: &Paths, text: &'a str, marks: &mut Vec<Mark>) -> Option<Found<'a>> {
    let mut found = paths.nothing();
    let mut at = Cursor::new(text);
    at.space();
    at.byte(b'{')?;
    at.space();
    if !at.eat(b'}') {
        loop {
            let key = at.string()?;
            at.space();
            at.byte(b':')?;
            at.space();
            let (start, value) = (at.at, at.value()?);
            let fields = paths.fields_of(key);
            marks.push(Mark { start, end: at.at, fields });
            shape::keep(fields, value, &mut found);
            at.space();
            if at.eat(b'}') {
                break;
            }
            at.byte(b',')?;
            at.space();
        }
    }
    at.space();
    at.ended().then_some(found)
}

/// Where reading a record stands.
pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    /// At the beginning.
    pub(super) fn new(text: &'a str) -> Cursor<'a> {
        Cursor { text, at: 0 }
    }

    /// Whether nothing is left.
    pub(super) fn ended(&self) -> bool {
        self.at == self.text.len()
    }

    /// Passes these bytes.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Option<()> {
        let there = self.text.as_bytes().get(self.at..)?.starts_with(bytes);
        self.at += bytes.len();
        there.then_some(())
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    fn eat(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn byte(&mut self, byte: u8) -> Option<()> {
        self.eat(byte).then_some(())
    }

    // A text without escapes; control characters have no place in one.
    fn string(&mut self) -> Option<&'a str> {
        self.byte(b'"')?;
        let start = self.at;
        while let Some(word) = self.text.as_bytes().get(self.at..).and_then(|rest| rest.first_chunk()) {
            let ends = ends_or_odd(u64::from_le_bytes(*word));
            self.at += (ends.trailing_zeros() / 8) as usize;
            if ends != 0 {
                break;
            }
        }
        loop {
            match self.peek()? {
                b'"' => break,
                b'\\' | 0..0x20 => return None,
                _ => self.at += 1,
            }
        }
        let text = self.text.get(start..self.at)?;
        self.at += 1;
        Some(text)
    }

    /// Reads a value that is no object and no array.
    pub(super) fn value(&mut self) -> Option<Scalar<'a>> {
        match self.peek()? {
            b'"' => Some(Scalar::Text(Cow::Borrowed(self.string()?))),
            b't' => self.word("true", Scalar::Other("true")),
            b'f' => self.word("false", Scalar::Other("false")),
            b'n' => self.word("null", Scalar::Missing),
            b'-' | b'0'..=b'9' => self.number(),
            _ => None,
        }
    }

    fn word(&mut self, word: &str, means: Scalar<'a>) -> Option<Scalar<'a>> {
        let there = self.text.get(self.at..)?.starts_with(word);
        self.at += word.len();
        there.then_some(means)
    }

    fn number(&mut self) -> Option<Scalar<'a>> {
        let start = self.at;
        let negative = self.eat(b'-');
        let leading_zero = self.peek() == Some(b'0');
        let (mut digits, mut mantissa) = (0, 0);
        self.digits(&mut digits, &mut mantissa);
        if digits == 0 || (leading_zero && digits > 1) {
            return None;
        }
        let mut places = 0;
        let whole = !self.eat(b'.');
        if !whole {
            let before = digits;
            self.digits(&mut digits, &mut mantissa);
            places = digits - before;
            if places == 0 {
                return None;
            }
        }
        if let Some(b'e' | b'E') = self.peek() {
            return None;
        }
        if whole {
            // Whether -0 is a whole number is left to the parser.
            let plain = digits <= INTEGER_DIGITS_MAX && !(negative && mantissa == 0);
            let value = mantissa as i64;
            return plain.then_some(Scalar::Integer(if negative { -value } else { value }));
        }
        let value = match POWERS.get(places as usize) {
            Some(power) if digits <= EXACT_DIGITS_MAX => {
                let value = mantissa as f64 / power;
                if negative { -value } else { value }
            }
            _ => self.text.get(start..self.at)?.parse().ok()?,
        };
        Some(Scalar::Float(value))
    }

    // Counts digits and collects their value, which is right for as many as fit.
    fn digits(&mut self, count: &mut u32, value: &mut u64) {
        while let Some(digit @ b'0'..=b'9') = self.peek() {
            *value = value.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
            *count += 1;
            self.at += 1;
        }
    }
}

/// Marks (by their highest bit) the bytes of a text that end it, or that have no place in one: quotes, backslashes and
/// control characters. Of the bytes above the first one that is marked it says nothing.
fn ends_or_odd(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES << 7;
    // A byte below `bound`, at most 128, borrows from its highest bit.
    let below = |word: u64, bound: u64| word.wrapping_sub(ONES * bound) & !word & HIGH;
    below(word, 0x20) | below(word ^ (ONES * u64::from(b'"')), 1) | below(word ^ (ONES * u64::from(b'\\')), 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn paths() -> Paths {
        let labels = ["other".to_owned(), "nested.site".to_owned(), "id".to_owned()];
        Paths::new([Some("id"), Some("ts"), Some("v"), Some("nested.unit"), None], labels.iter())
    }

    #[test]
    fn what_meters_send_is_read_here() {
        let text = r#" {"id": "m1", "ts":"2024-05-01T00:15:00Z","v":-12.50, "n":null,"x":true , "v2":17}  "#;
        let found = extract(&paths(), &mut Shapes::default(), text).unwrap();
        let id = |text| Scalar::Text(Cow::Borrowed(text));
        assert_eq!(found.fields[..3], [id("m1"), id("2024-05-01T00:15:00Z"), Scalar::Float(-12.5)]);
        assert_eq!(found.labels, [Scalar::Missing, Scalar::Missing, id("m1")]);
        assert_eq!(extract(&paths(), &mut Shapes::default(), "{}").unwrap(), paths().nothing());
    }

    #[test]
    fn what_is_not_flat_plain_and_valid_is_left_to_the_parser() {
        for text in [
            "",
            "[]",
            "1",
            "{",
            "{\"id\"}",
            "{\"id\":}",
            "{\"id\":\"a\"",
            "{\"id\":\"a\",}",
            "{\"id\":\"a\"} x",
            "{\"id\":\"\\u0041\"}",
            "{\"id\":\"a\nb\"}",
            "{\"id\":{}}",
            "{\"id\":[]}",
            "{\"v\":01}",
            "{\"v\":1.}",
            "{\"v\":.5}",
            "{\"v\":+1}",
            "{\"v\":1e5}",
            "{\"v\":-}",
            "{\"v\":-0}",
            "{\"v\":1234567890123456789}",
            "{\"v\":nul}",
            "{\"v\":truth}",
            "{id:1}",
            "{\"id\":'a'}",
        ] {
            assert!(extract(&paths(), &mut Shapes::default(), text).is_none(), "{text}");
        }
    }

    /// A record that is mostly flat and valid.
    fn record() -> impl Strategy<Value = String> {
        let key = prop_oneof![Just("id"), Just("ts"), Just("v"), Just("nested"), Just("other")];
        let number = prop_oneof![
            any::<f64>().prop_map(|x| format!("{x}")),
            (any::<i32>(), 0..9usize).prop_map(|(x, places)| format!("{:.places$}", f64::from(x) / 1e4)),
            any::<i64>().prop_map(|x| x.to_string()),
            "-?[0-9]{1,22}(\\.[0-9]{1,22})?([eE][+-]?[0-9]{1,2})?",
        ];
        let value = prop_oneof![
            4 => number,
            4 => "[a-zA-Zäß0-9:\\-]{0,12}".prop_map(|text| format!("\"{text}\"")),
            1 => prop_oneof![Just("true"), Just("false"), Just("null"), Just("{\"unit\":\"kW\"}"), Just("[1]"), Just("\"\\n\"")]
                .prop_map(str::to_owned),
        ];
        let entry = (key, value, "[ \t]{0,2}")
            .prop_map(|(key, value, space)| format!("{space}\"{key}\"{space}:{space}{value}"));
        prop::collection::vec(entry, 0..6).prop_map(|entries| format!("{{{}}}", entries.join(",")))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn what_is_read_here_the_full_parser_reads_too(record in record(), cut in any::<prop::sample::Index>(), junk in "[\"{}:,0-9.\\-]{0,2}", damaged in prop::bool::weighted(0.3)) {
            let (whole, mut record) = (record.clone(), record);
            if damaged {
                let at = cut.index(record.len() + 1);
                let at = (0..=at).rev().find(|at| record.is_char_boundary(*at)).unwrap_or(0);
                record.insert_str(at, &junk);
            }
            // Without a known shape, then with its own; and with that of the record before it was damaged.
            for knows in [false, true] {
                let mut shapes = Shapes::default();
                if knows {
                    let _ = extract(&paths(), &mut shapes, &whole);
                }
                for _ in 0..2 {
                    if let Some(found) = extract(&paths(), &mut shapes, &record) {
                        let parsed = paths().parse(&record);
                        prop_assert_eq!(Some(found), parsed.ok(), "{}", record);
                    }
                }
            }
        }
    }
}
