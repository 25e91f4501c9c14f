//! Records that could not be read or used, on their way to the table `dead_letters`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{
    ArrayRef, BinaryBuilder, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::error::ArrowError;
use meterline_schemas::Micros;
use meterline_schemas::reading::Position;
use meterline_schemas::tables;
use meterline_schemas::time::DAY;
use serde::{Deserialize, Serialize};

/// Bytes of a record that are kept: enough to see what it is.
const PAYLOAD_MAX: usize = 64 << 10;
/// Bytes of its key that are kept.
const KEY_MAX: usize = 1 << 10;
/// 2000-01-01: time stamps before it are mistakes (seconds taken for milliseconds).
const EARLIEST: Micros = 946_684_800_000_000;

/// One record that could not be read, or a reading that could not be used (then without its bytes).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Its feed.
    pub feed: Arc<str>,
    /// Its topic.
    pub topic: Arc<str>,
    /// Where it came from.
    pub position: Position,
    /// Its key, or the beginning of it.
    pub key: Option<Box<[u8]>>,
    /// Its bytes, or the first of them.
    pub payload: Option<Box<[u8]>>,
    /// Short stable code.
    pub reason: Cow<'static, str>,
    /// What is wrong, with the values.
    pub detail: String,
}

impl DeadLetter {
    /// With the key and the bytes of its record, as much of them as is kept; `detail` says what is not.
    pub fn with_bytes(mut self, key: Option<&[u8]>, payload: Option<&[u8]>) -> DeadLetter {
        let mut first = |bytes: &[u8], what: &str, max: usize| {
            if bytes.len() > max {
                self.detail += &format!("; of the {what}, {max} of {} bytes are kept", bytes.len());
            }
            Box::from(&bytes[..bytes.len().min(max)])
        };
        let key = key.map(|bytes| first(bytes, "key", KEY_MAX));
        let payload = payload.map(|bytes| first(bytes, "record", PAYLOAD_MAX));
        DeadLetter { key, payload, ..self }
    }

    /// Bytes of memory that it takes, about.
    pub fn bytes(&self) -> usize {
        let variable = [self.key.as_deref(), self.payload.as_deref(), Some(self.detail.as_bytes())];
        size_of::<DeadLetter>() + variable.into_iter().flatten().map(<[u8]>::len).sum::<usize>()
    }

    // By it letters are kept apart and deleted, so a date that cannot be right must not be in it.
    fn dated(&self, taken_in: Micros) -> Micros {
        let known = self.position.known_at_ms().map(|stamp| stamp.saturating_mul(1_000));
        known.filter(|at| (EARLIEST..taken_in.saturating_add(DAY)).contains(at)).unwrap_or(taken_in)
    }
}

/// Numbers of letters, by feed and reason.
pub type Reasons = BTreeMap<(Arc<str>, Cow<'static, str>), u64>;

/// How many of these letters there are of each feed and reason.
pub fn by_reason<'a>(letters: impl Iterator<Item = &'a DeadLetter>) -> Reasons {
    let mut reasons = Reasons::new();
    for letter in letters {
        *reasons.entry((Arc::clone(&letter.feed), letter.reason.clone())).or_default() += 1;
    }
    reasons
}

/// Letters that were committed since the stream began. Shared by the one who commits and those who want to know; cheap
/// to clone.
#[derive(Debug, Clone, Default)]
pub struct Counted(Arc<Mutex<Reasons>>);

impl Counted {
    fn reasons(&self) -> MutexGuard<'_, Reasons> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// More were committed.
    pub fn add(&self, more: Reasons) {
        let mut reasons = self.reasons();
        for (of, letters) in more {
            *reasons.entry(of).or_default() += letters;
        }
    }

    /// Those so far.
    pub fn so_far(&self) -> Reasons {
        self.reasons().clone()
    }
}

/// The dead letters of a commit, made at `taken_in`, as a batch of their table. The time stamp of a letter is that of
/// its record; `taken_in` where that has none, or a wild one.
pub fn batch(letters: &[DeadLetter], taken_in: Micros) -> Result<RecordBatch, ArrowError> {
    let texts = |text: fn(&DeadLetter) -> &str| StringArray::from_iter_values(letters.iter().map(text));
    let bytes = |of: fn(&DeadLetter) -> Option<&[u8]>| {
        let mut column = BinaryBuilder::new();
        for letter in letters {
            column.append_option(of(letter));
        }
        column.finish()
    };
    let at = letters.iter().map(|letter| letter.dated(taken_in));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(texts(|letter| &letter.feed)),
        Arc::new(texts(|letter| &letter.topic)),
        Arc::new(Int32Array::from_iter_values(letters.iter().map(|letter| letter.position.partition))),
        Arc::new(Int64Array::from_iter_values(letters.iter().map(|letter| letter.position.offset))),
        Arc::new(TimestampMicrosecondArray::from_iter_values(at).with_timezone("UTC")),
        Arc::new(bytes(|letter| letter.key.as_deref())),
        Arc::new(bytes(|letter| letter.payload.as_deref())),
        Arc::new(texts(|letter| &letter.reason)),
        Arc::new(texts(|letter| &letter.detail)),
    ];
    RecordBatch::try_new(tables::dead_letters(), columns)
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::TimestampMicrosecondType;
    use meterline_schemas::time::HOUR;
    use proptest::prelude::*;

    use super::*;

    const NOW: Micros = 1_717_200_000_000_000; // 2024-06-01T00:00:00Z

    fn letter(position: Position) -> DeadLetter {
        let (feed, topic, reason) = ("f".into(), "t".into(), "malformed_record".into());
        DeadLetter { feed, topic, position, key: None, payload: None, reason, detail: "what is wrong".into() }
    }

    fn dated(timestamp_ms: i64) -> Micros {
        letter(Position { timestamp_ms, partition: 0, offset: 7 }).dated(NOW)
    }

    #[test]
    fn a_letter_has_the_date_of_its_record_or_of_the_commit() {
        for at in [NOW, NOW - 8_000 * DAY, NOW + DAY - HOUR] {
            assert_eq!(dated(at / 1_000), at);
        }
        // None; seconds in place of milliseconds; microseconds in their place; a clock two days ahead.
        for wild in [-1, NOW / 1_000_000, NOW, (NOW + 2 * DAY) / 1_000, i64::MAX, i64::MIN] {
            assert_eq!(dated(wild), NOW, "{wild}");
        }
        let started_ms = (NOW - HOUR) / 1_000;
        assert_eq!(letter(Position::backfill(started_ms, 3)).dated(NOW), NOW - HOUR);
    }

    #[test]
    fn of_a_large_record_the_beginning_is_kept_and_the_rest_is_told() {
        let (key, payload) = (vec![1; KEY_MAX + 1], vec![2; 5 << 20]);
        let position = Position { timestamp_ms: 0, partition: 0, offset: 0 };
        let kept = letter(position).with_bytes(Some(&key), Some(&payload));
        assert_eq!(kept.payload.as_deref(), Some(&payload[..PAYLOAD_MAX]));
        assert_eq!(kept.key.as_deref(), Some(&key[..KEY_MAX]));
        assert!(kept.detail.contains("1024 of 1025 bytes") && kept.detail.contains("65536 of 5242880"), "{kept:?}");
        assert!(kept.bytes() < PAYLOAD_MAX + 2 * KEY_MAX);
        let whole = letter(position).with_bytes(None, Some(b"[]"));
        assert_eq!((whole.payload.as_deref(), whole.detail.as_str()), (Some(&b"[]"[..]), "what is wrong"));
    }

    #[test]
    fn what_is_committed_is_counted_by_feed_and_reason() {
        let of = |feed: &str, reason: &'static str| DeadLetter {
            feed: feed.into(),
            reason: reason.into(),
            ..letter(Position { timestamp_ms: 0, partition: 0, offset: 0 })
        };
        let committed = Counted::default();
        let first = [of("a", "x"), of("a", "y"), of("a", "x")];
        committed.add(by_reason(first.iter()));
        committed.add(by_reason([of("b", "x"), of("a", "y")].iter()));
        let so_far = committed.so_far();
        let told: Vec<(&str, &str, u64)> = so_far.iter().map(|((feed, why), n)| (&**feed, &**why, *n)).collect();
        assert_eq!(told, [("a", "x", 2), ("a", "y", 2), ("b", "x", 1)]);
    }

    proptest! {
        #[test]
        fn no_stamp_makes_a_wild_date(timestamp_ms in any::<i64>(), partition in 0..3i32) {
            let letters = [letter(Position { timestamp_ms, partition, offset: 0 })];
            let batch = batch(&letters, NOW).unwrap();
            let at = batch.column_by_name("timestamp").unwrap().as_primitive::<TimestampMicrosecondType>().value(0);
            prop_assert!((EARLIEST..NOW + DAY).contains(&at));
        }
    }
}
