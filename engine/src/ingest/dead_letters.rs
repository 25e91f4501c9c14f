//! Records that could not be read or used, on their way to the table `dead_letters`.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::error::ArrowError;
use meterline_schemas::reading::Position;
use meterline_schemas::tables;
use serde::{Deserialize, Serialize};

/// One record that could not be read, or a reading that could not be used (then without its bytes).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Its feed.
    pub feed: Arc<str>,
    /// Its topic.
    pub topic: Arc<str>,
    /// Where it came from.
    pub position: Position,
    /// Its key.
    pub key: Option<Box<[u8]>>,
    /// Its bytes.
    pub payload: Option<Box<[u8]>>,
    /// Short stable code.
    pub reason: Cow<'static, str>,
    /// What is wrong, with the values.
    pub detail: String,
}

/// The dead letters as a batch of their table.
pub fn batch(letters: &[DeadLetter]) -> Result<RecordBatch, ArrowError> {
    let texts = |text: fn(&DeadLetter) -> &str| StringArray::from_iter_values(letters.iter().map(text));
    let bytes = |of: fn(&DeadLetter) -> Option<&[u8]>| {
        let mut column = BinaryBuilder::new();
        for letter in letters {
            column.append_option(of(letter));
        }
        column.finish()
    };
    let at = letters.iter().map(|letter| letter.position.timestamp_ms.saturating_mul(1_000));
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
