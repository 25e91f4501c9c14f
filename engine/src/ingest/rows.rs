//! The rows of one epoch in columns, before they become a batch of the table `intervals`.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, StringBuilder, TimestampMicrosecondArray,
};
use arrow::error::ArrowError;
use meterline_schemas::Micros;
use meterline_schemas::reading::{Position, Quality};
use meterline_schemas::tables::{self, LAYER_BASE, LAYER_REVISION};

use super::state::SeriesState;

/// Where a row goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// It is the first of its interval.
    Base,
    /// It may revise another one.
    Revision,
}

/// What a later reading can change in a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Content {
    /// In the stored unit of the series.
    pub value: f64,
    /// Readings that it is made of.
    pub count: i32,
    /// The least trusted of them.
    pub quality: Quality,
    /// Of two rows of one interval the one with the greater position counts.
    pub position: Position,
}

/// One row; `series` is the number of the series in its shard.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    /// Number of the series in its shard.
    pub series: u32,
    /// Start of the interval.
    pub start: Micros,
    /// End of the interval.
    pub end: Micros,
    /// Layer.
    pub layer: Layer,
    /// The rest.
    pub content: Content,
}

/// Rows of one epoch and shard.
#[derive(Debug, Default)]
pub struct Rows {
    series: Vec<u32>,
    start: Vec<Micros>,
    end: Vec<Micros>,
    value: Vec<f64>,
    count: Vec<i32>,
    quality: Vec<Quality>,
    timestamp: Vec<i64>,
    partition: Vec<i32>,
    offset: Vec<i64>,
    layer: Vec<Layer>,
}

impl Rows {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.start.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.start.is_empty()
    }

    /// Adds a row; the result is its number in this epoch.
    pub fn push(&mut self, row: Row) -> u32 {
        let number = self.start.len() as u32;
        self.series.push(row.series);
        self.start.push(row.start);
        self.end.push(row.end);
        self.value.push(row.content.value);
        self.count.push(row.content.count);
        self.quality.push(row.content.quality);
        self.timestamp.push(row.content.position.timestamp_ms);
        self.partition.push(row.content.position.partition);
        self.offset.push(row.content.position.offset);
        self.layer.push(row.layer);
        number
    }

    /// Replaces the content of a row of this epoch.
    pub fn revise(&mut self, number: u32, content: Content) {
        let i = number as usize;
        self.value[i] = content.value;
        self.count[i] = content.count;
        self.quality[i] = content.quality;
        self.timestamp[i] = content.position.timestamp_ms;
        self.partition[i] = content.position.partition;
        self.offset[i] = content.position.offset;
    }

    /// The rows one by one.
    pub fn iter(&self) -> impl Iterator<Item = Row> + '_ {
        (0..self.len()).map(|i| Row {
            series: self.series[i],
            start: self.start[i],
            end: self.end[i],
            layer: self.layer[i],
            content: Content {
                value: self.value[i],
                count: self.count[i],
                quality: self.quality[i],
                position: Position {
                    timestamp_ms: self.timestamp[i],
                    partition: self.partition[i],
                    offset: self.offset[i],
                },
            },
        })
    }

    /// The rows as a batch of the table `intervals`; `series` says what the numbers of series mean.
    pub fn into_batch<'a>(self, series: impl Fn(u32) -> &'a SeriesState) -> Result<RecordBatch, ArrowError> {
        let n = self.len();
        let text = |bytes: usize| StringBuilder::with_capacity(n, n * bytes);
        let (mut id, mut feed, mut unit, mut frequency) = (text(16), text(8), text(3), text(5));
        // Series come in runs: their texts are made once a run.
        let mut known: Option<(u32, &SeriesState, String, String)> = None;
        for number in &self.series {
            if known.as_ref().is_none_or(|(last, ..)| last != number) {
                let state = series(*number);
                let frequency = state.frequency.map(|f| f.to_string()).unwrap_or_default();
                known = Some((*number, state, state.unit.to_string(), frequency));
            }
            if let Some((_, state, unit_text, frequency_text)) = &known {
                id.append_value(&state.id);
                feed.append_value(&state.feed);
                unit.append_value(unit_text);
                frequency.append_value(frequency_text);
            }
        }
        let mut month = text(7);
        let mut months = Months::default();
        for start in &self.start {
            month.append_value(months.of(*start));
        }
        let quality = StringArray::from_iter_values(self.quality.iter().map(|quality| quality.as_str()));
        let layer = StringArray::from_iter_values(self.layer.iter().map(|layer| match layer {
            Layer::Base => LAYER_BASE,
            Layer::Revision => LAYER_REVISION,
        }));
        let instants = |at: Vec<Micros>| TimestampMicrosecondArray::from(at).with_timezone("UTC");
        let columns: Vec<ArrayRef> = vec![
            Arc::new(id.finish()),
            Arc::new(instants(self.start)),
            Arc::new(instants(self.end)),
            Arc::new(frequency.finish()),
            Arc::new(Float64Array::from(self.value)),
            Arc::new(unit.finish()),
            Arc::new(Int32Array::from(self.count)),
            Arc::new(quality),
            Arc::new(feed.finish()),
            Arc::new(Int64Array::from(self.timestamp)),
            Arc::new(Int32Array::from(self.partition)),
            Arc::new(Int64Array::from(self.offset)),
            Arc::new(month.finish()),
            Arc::new(layer),
        ];
        RecordBatch::try_new(tables::intervals(), columns)
    }
}

/// UTC months as text, with the last one remembered.
#[derive(Default)]
struct Months {
    from: Micros,
    to: Micros,
    text: String,
}

impl Months {
    fn of(&mut self, at: Micros) -> &str {
        if !(self.from..self.to).contains(&at) {
            let utc = jiff::tz::TimeZone::UTC;
            self.from = meterline_schemas::Frequency::Month.floor(at, &utc);
            self.to = meterline_schemas::Frequency::Month.advance(self.from, 1, &utc);
            self.text = meterline_schemas::time::format_micros(self.from).chars().take(7).collect();
        }
        &self.text
    }
}
