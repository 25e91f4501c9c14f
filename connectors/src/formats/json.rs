//! JSON records: picks the configured fields out of one object, and checks that the whole record is valid JSON.
//!
//! No tree of the record is built. The paths form a trie; the parser walks the record once, and what no path leads to
//! is skipped (but still checked). Skipping is a walk with no paths, because the library's own skipping recurses
//! without a limit: a record of a million brackets would end the process.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::shape::{self, Shapes};
use super::{FIELDS, Found, Refusal, Scalar, flat, reason, shortened};

/// The paths to the fields of a record, as a trie.
#[derive(Debug, Default)]
pub(super) struct Paths {
    children: Vec<(Box<str>, Paths)>,
    // Which of the fields end here; a bit each. Labels come after the fields that every record has.
    fields: u64,
    // At the root: number of labels.
    labels: usize,
}

impl Paths {
    /// One dot-separated path a field; `None` where the feed does not configure it. Labels beyond the 59th are not
    /// looked for; a checked configuration has fewer.
    pub(super) fn new<'p>(
        paths: [Option<&'p str>; FIELDS],
        labels: impl ExactSizeIterator<Item = &'p String>,
    ) -> Paths {
        let mut root = Paths { labels: labels.len().min(u64::BITS as usize - FIELDS), ..Paths::default() };
        let paths = paths.into_iter().chain(labels.map(|path| Some(path.as_str())));
        for (field, path) in (0..u64::BITS).zip(paths) {
            let Some(path) = path else { continue };
            let mut node = &mut root;
            for name in path.split('.') {
                let index = match node.children.iter().position(|(known, _)| **known == *name) {
                    Some(index) => index,
                    None => {
                        node.children.push((name.into(), Paths::default()));
                        node.children.len() - 1
                    }
                };
                node = &mut node.children[index].1;
            }
            node.fields |= 1 << field;
        }
        root
    }

    /// Where the fields of one record will be.
    pub(super) fn nothing<'a>(&self) -> Found<'a> {
        let labels = if self.labels == 0 { Vec::new() } else { vec![Scalar::Missing; self.labels] };
        Found { fields: [const { Scalar::Missing }; FIELDS], labels }
    }

    /// The fields of one record.
    pub(super) fn extract<'a>(&self, shapes: &mut Shapes, record: &'a [u8]) -> Result<Found<'a>, Refusal> {
        let malformed = |what: &dyn fmt::Display| {
            let shown = shortened(&String::from_utf8_lossy(&record[..record.len().min(256)]));
            Refusal::new(reason::MALFORMED_RECORD, format!("the record is not valid JSON: {what}; it begins `{shown}`"))
        };
        let text = std::str::from_utf8(record).map_err(|error| malformed(&error))?;
        if let Some(found) = flat::extract(self, shapes, text) {
            return Ok(found);
        }
        let found = self.parse(text).map_err(|error| {
            // The library prints the place and then the text around it on further lines.
            malformed(&error.to_string().lines().next().unwrap_or_default())
        })?;
        if text.trim_ascii_start().as_bytes().first() != Some(&b'{') {
            return Err(Refusal::new(
                reason::MALFORMED_RECORD,
                format!("the record is no JSON object but `{}`", shortened(text)),
            ));
        }
        Ok(found)
    }

    /// The full parser.
    pub(super) fn parse<'a>(&self, text: &'a str) -> Result<Found<'a>, sonic_rs::Error> {
        let mut found = self.nothing();
        let mut parser = sonic_rs::Deserializer::from_str(text);
        let walk = Walk { paths: self, found: &mut found };
        walk.deserialize(&mut parser)?;
        parser.end()?;
        Ok(found)
    }

    /// The fields that are the value of a key of the outermost object; a bit each.
    pub(super) fn fields_of(&self, key: &str) -> u64 {
        self.children.iter().find(|(name, _)| **name == *key).map_or(0, |(_, paths)| paths.fields)
    }
}

static NO_PATHS: Paths = Paths { children: Vec::new(), fields: 0, labels: 0 };

struct Walk<'p, 'f, 'a> {
    paths: &'p Paths,
    found: &'f mut Found<'a>,
}

impl<'a> Walk<'_, '_, 'a> {
    fn keep(self, scalar: Scalar<'a>) {
        shape::keep(self.paths.fields, scalar, self.found);
    }
}

impl<'a> DeserializeSeed<'a> for Walk<'_, '_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for Walk<'_, '_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_borrowed_str<E>(self, text: &'a str) -> Result<(), E> {
        self.keep(Scalar::Text(Cow::Borrowed(text)));
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        if self.paths.fields != 0 {
            self.keep(Scalar::Text(Cow::Owned(text.to_owned())));
        }
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.keep(Scalar::Integer(value));
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.keep(match i64::try_from(value) {
            Ok(value) => Scalar::Integer(value),
            Err(_) => Scalar::Float(value as f64),
        });
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.keep(Scalar::Float(value));
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.keep(Scalar::Other(if value { "true" } else { "false" }));
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.keep(Scalar::Missing);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(Walk { paths: &NO_PATHS, found: &mut *self.found })?.is_some() {}
        self.keep(Scalar::Other("an array"));
        Ok(())
    }

    fn visit_map<A: MapAccess<'a>>(self, mut entries: A) -> Result<(), A::Error> {
        while let Some(child) = entries.next_key_seed(Key { paths: self.paths })? {
            let paths = child.map_or(&NO_PATHS, |index| &self.paths.children[index].1);
            entries.next_value_seed(Walk { paths, found: &mut *self.found })?;
        }
        self.keep(Scalar::Other("an object"));
        Ok(())
    }
}

/// Finds a key among the children of a node, without copying it.
struct Key<'p> {
    paths: &'p Paths,
}

impl<'a> DeserializeSeed<'a> for Key<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<Option<usize>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'a> Visitor<'a> for Key<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Option<usize>, E> {
        Ok(self.paths.children.iter().position(|(name, _)| **name == *key))
    }
}
