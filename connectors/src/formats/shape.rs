//! Records of one meter model are alike but for their values. What stands between the values is learned from the
//! records themselves, so that the next one is a few comparisons and its values.

use super::flat::{Cursor, Mark};
use super::json::Paths;
use super::{Found, Scalar};

/// Shapes that are known at a time.
const SHAPES_MAX: usize = 4;
/// Values of a record that is worth learning.
const VALUES_MAX: usize = 64;
/// Bytes between the values of such a record.
const BYTES_MAX: usize = 4096;
/// Records of unknown shape after which one of them is learned in place of another.
const PATIENCE: usize = 1024;

/// The shapes of a feed's records.
#[derive(Debug, Default)]
pub(super) struct Shapes {
    known: Vec<Shape>,
    // The one that fitted last.
    last: usize,
    misses: usize,
    /// Where the values of the record that is read now stand, for [`Shapes::learn`]; kept for its memory.
    pub(super) marks: Vec<Mark>,
}

#[derive(Debug)]
struct Shape {
    values: Vec<Place>,
    end: Box<[u8]>,
}

/// Where a value stands, and the fields that it is for.
#[derive(Debug)]
struct Place {
    before: Box<[u8]>,
    fields: u64,
}

impl Shapes {
    /// The fields of a record of a known shape.
    pub(super) fn extract<'a>(&mut self, paths: &Paths, text: &'a str) -> Option<Found<'a>> {
        if let Some(found) = self.known.get(self.last)?.extract(paths, text) {
            return Some(found);
        }
        for (number, shape) in self.known.iter().enumerate().filter(|(number, _)| *number != self.last) {
            if let Some(found) = shape.extract(paths, text) {
                self.last = number;
                return Some(found);
            }
        }
        None
    }

    /// Learns the shape of a record that is valid and has its values at the marks.
    pub(super) fn learn(&mut self, text: &str) {
        self.misses = self.misses.wrapping_add(1);
        let room = self.known.len() < SHAPES_MAX;
        if (room || self.misses.is_multiple_of(PATIENCE))
            && let Some(shape) = Shape::of(text.as_bytes(), &self.marks)
        {
            self.last = if room { self.known.len() } else { (self.last + 1) % SHAPES_MAX };
            match self.known.get_mut(self.last) {
                Some(known) => *known = shape,
                None => self.known.push(shape),
            }
        }
    }
}

impl Shape {
    fn of(text: &[u8], marks: &[Mark]) -> Option<Shape> {
        let of_values: usize = marks.iter().map(|mark| mark.end - mark.start).sum();
        if marks.len() > VALUES_MAX || text.len().saturating_sub(of_values) > BYTES_MAX {
            return None;
        }
        let mut at = 0;
        let mut values = Vec::with_capacity(marks.len());
        for mark in marks {
            values.push(Place { before: text.get(at..mark.start)?.into(), fields: mark.fields });
            at = mark.end;
        }
        Some(Shape { values, end: text.get(at..)?.into() })
    }

    fn extract<'a>(&self, paths: &Paths, text: &'a str) -> Option<Found<'a>> {
        let mut found = paths.nothing();
        let mut at = Cursor::new(text);
        for Place { before, fields } in &self.values {
            at.bytes(before)?;
            let value = at.value()?;
            keep(*fields, value, &mut found);
        }
        at.bytes(&self.end)?;
        at.ended().then_some(found)
    }
}

/// Keeps a value for these fields; a bit each, labels after the fields that every record has.
pub(super) fn keep<'a>(fields: u64, value: Scalar<'a>, found: &mut Found<'a>) {
    let mut rest = fields;
    while rest != 0 {
        let field = rest.trailing_zeros() as usize;
        rest &= rest - 1;
        let of_labels = field.wrapping_sub(found.fields.len());
        let slot = match found.fields.get_mut(field) {
            Some(slot) => Some(slot),
            None => found.labels.get_mut(of_labels),
        };
        if let Some(slot) = slot {
            *slot = value.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::flat;
    use super::*;

    fn paths() -> Paths {
        let labels = ["site".to_owned()];
        Paths::new([Some("id"), Some("ts"), Some("v"), None, None], labels.iter())
    }

    fn record(n: usize, spaces: usize) -> String {
        let space = " ".repeat(spaces);
        format!("{{\"id\":{space}\"m{n}\",\"ts\":{n},\"v\":-{n}.5,\"x\":null,\"site\":\"s\"}}")
    }

    #[test]
    fn a_shape_is_learned_once_and_fits_records_with_other_values() {
        let (paths, mut shapes) = (paths(), Shapes::default());
        for n in 1..100 {
            let text = record(n, 0);
            assert_eq!(shapes.extract(&paths, &text).is_some(), n > 1, "{text}");
            let found = flat::extract(&paths, &mut shapes, &text).unwrap();
            assert_eq!(found, flat::extract(&paths, &mut Shapes::default(), &text).unwrap());
        }
        assert_eq!((shapes.known.len(), shapes.misses), (1, 1));
        // A value of another kind fits too; what is damaged or goes on does not.
        assert!(shapes.extract(&paths, r#"{"id":7,"ts":"2024-01-01","v":null,"x":1,"site":true}"#).is_some());
        for wrong in [
            r#"{"id":"a","ts":1,"v":1,"x":1,"site":"s"}}"#,
            r#"{"id":"a","ts":1,"v":1,"x":1"#,
            r#"{"id":"a","tz":1"#,
            "",
        ] {
            assert!(shapes.extract(&paths, wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn many_shapes_take_turns_and_a_new_one_is_learned_in_time() {
        let (paths, mut shapes) = (paths(), Shapes::default());
        for n in 0..9 * PATIENCE {
            flat::extract(&paths, &mut shapes, &record(n, n % 7)).unwrap();
        }
        assert_eq!(shapes.known.len(), SHAPES_MAX);
        for n in 0..2 * PATIENCE {
            flat::extract(&paths, &mut shapes, &record(n, 9)).unwrap();
        }
        assert!(shapes.extract(&paths, &record(1, 9)).is_some());
    }

    #[test]
    fn what_is_too_long_is_not_learned() {
        let (paths, mut shapes) = (paths(), Shapes::default());
        let many: Vec<String> = (0..=VALUES_MAX).map(|n| format!("\"k{n}\":1")).collect();
        let long = format!("{{\"{}\":1}}", "k".repeat(BYTES_MAX));
        for text in [format!("{{{}}}", many.join(",")), long] {
            assert!(flat::extract(&paths, &mut shapes, &text).is_some());
        }
        assert!(shapes.known.is_empty());
    }
}
