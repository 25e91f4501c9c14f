//! The identifier that a topic has beside its name, since Kafka 2.8: a topic that is deleted and created again has
//! another.
//!
//! The client library knows it and does not hand it out (not without `unsafe`), but it logs each change with its
//! category `topic`. Where that line is not understood no identifier is known, and offsets alone tell one topic from
//! another.

use serde::{Deserialize, Serialize};

/// A topic's identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TopicId(u64, u64);

impl TopicId {
    /// From 16 bytes in base64; `None` for anything else, and for all zeros, which stand for no identifier.
    fn parse(text: &str) -> Option<TopicId> {
        let text = text.trim_end_matches('=');
        if text.len() != 22 {
            return None;
        }
        let mut bits: u128 = 0;
        for (place, byte) in text.bytes().enumerate() {
            let six = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' | b'-' => 62,
                b'/' | b'_' => 63,
                _ => return None,
            };
            // Of the last one, four bits are only there to fill up.
            bits = if place == 21 { (bits << 2) | u128::from(six >> 4) } else { (bits << 6) | u128::from(six) };
        }
        (bits != 0).then_some(TopicId((bits >> 64) as u64, bits as u64))
    }
}

/// A topic got an identifier, or another one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change<'a> {
    pub(super) topic: &'a str,
    pub(super) before: Option<TopicId>,
    pub(super) now: Option<TopicId>,
}

/// What a line of the client's log says about a topic's identifier, if it does.
pub(super) fn change(line: &str) -> Option<Change<'_>> {
    let (_, rest) = line.split_once("Topic ")?;
    let (topic, ids) = rest.split_once(" changed id from ")?;
    let (before, now) = ids.split_once(" to ")?;
    Some(Change { topic, before: TopicId::parse(before), now: TopicId::parse(now) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_words_are_understood() {
        let none = "AAAAAAAAAAAAAAAAAAAAAA";
        let (a, b) = ("7lE1h8dNQ8WcVvnUgV4Lzg", "AAAAAAAAAAAAAAAAAAAAAB");
        let line = format!("[thrd:main]: Topic my.topic changed id from {none} to {a}");
        let found = change(&line).unwrap();
        assert_eq!((found.topic, found.before, found.now), ("my.topic", None, TopicId::parse(a)));
        assert!(found.now.is_some());
        let line = format!("Topic t changed id from {a} to {b}");
        let found = change(&line).unwrap();
        assert!(found.before.is_some() && found.now.is_none(), "{found:?}: only bits that fill up");
        assert_ne!(TopicId::parse(a), TopicId::parse("7lE1h8dNQ8WcVvnUgV4Lzw"));
        for other in ["Topic t partition count changed from 0 to 2", "", "changed id from a to b", "Topic t"] {
            assert_eq!(change(other), None, "{other}");
        }
        assert_eq!(TopicId::parse("not an identifier at all"), None);
    }
}
