//! Histories as Parquet: series on their grid, and beside them covariates and labels.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use jiff::tz::TimeZone;
use meterline_models::data::{Column, Covariate, Panel};
use meterline_schemas::{Frequency, Micros, tables};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::statistics::Statistics;
use serde::{Deserialize, Serialize};

use super::{Writer, instants, open, read, reading, writing};
use crate::pipelines::error::{Doing, StepError};
use crate::pipelines::history::{History, HistoryBuilder};

/// Column of a history's Parquet file with the name of the covariate that a row is of.
const COVARIATE: &str = "covariate";
/// What the file says of its covariates, as JSON.
const COVARIATES: &str = "covariates";
/// What the file says of its labels, as JSON.
const LABELS: &str = "labels";
/// What stands before the name of a label in the column of covariates, whose names cannot have it.
const LABEL_PREFIX: &str = "label:";
/// Place of the column `start` in a history's Parquet file.
const START: usize = 1;

// `weight` is null for what counts in full, `covariate` for the series' own values.
fn history_schema(covariates: &[Stored], labels: &[String]) -> Result<SchemaRef, StepError> {
    let fields = vec![
        Field::new("series_id", DataType::Utf8, false),
        Field::new("start", tables::instant(), false),
        Field::new("value", DataType::Float64, false),
        Field::new("unit", DataType::Utf8, false),
        Field::new("weight", DataType::Float64, true),
        Field::new(COVARIATE, DataType::Utf8, true),
    ];
    let covariates = serde_json::to_string(covariates).doing(writing)?;
    let labels = serde_json::to_string(labels).doing(writing)?;
    let metadata = [(COVARIATES.to_owned(), covariates), (LABELS.to_owned(), labels)];
    Ok(Arc::new(Schema::new(fields).with_metadata(metadata.into())))
}

/// A covariate as the file says it.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    #[serde(flatten)]
    covariate: Covariate,
    /// Whether its rows are those of all series; their `series_id` is empty.
    is_shared: bool,
}

impl Stored {
    fn all_of(panel: &Panel) -> Vec<Stored> {
        let is_shared = |place: usize| {
            let mut columns = panel.series.iter().filter_map(|series| series.covariates.get(place));
            columns.next().is_none_or(|first| columns.all(|column| Arc::ptr_eq(&column.values, &first.values)))
        };
        let stored = |(place, covariate): (usize, &Covariate)| Stored {
            covariate: covariate.clone(),
            is_shared: is_shared(place),
        };
        panel.covariates.iter().enumerate().map(stored).collect()
    }
}

/// A history as Parquet, one row an interval that is there; after the series, one row a value of a covariate, and of what
/// all series share only one for all; then one a label of a series, as `unit`.
pub fn history_to_parquet(history: &History) -> Result<Bytes, StepError> {
    let panel = &history.panel;
    let covariates = Stored::all_of(panel);
    let mut writer = Writer::new(history_schema(&covariates, &panel.labels)?)?;
    for (series, unit) in panel.series.iter().zip(&history.units) {
        let weights = (!series.weights.is_empty()).then_some(series.weights.as_slice());
        writer.write(line(panel, &series.id, series.start, &series.values, unit, weights, None))?;
    }
    for (place, Stored { covariate, is_shared }) in covariates.iter().enumerate() {
        for series in panel.series.iter().take(if *is_shared { 1 } else { usize::MAX }) {
            let Some(column) = series.covariates.get(place) else { continue };
            let id = if *is_shared { "" } else { &series.id };
            let start = panel.frequency.advance(series.start, column.offset, &panel.zone);
            writer.write(line(panel, id, start, &column.values, "", None, Some(&covariate.name)))?;
        }
    }
    for (place, name) in panel.labels.iter().enumerate() {
        let there = || panel.series.iter().filter_map(|series| Some((series, series.label(place)?)));
        let rows = there().count();
        writer.write(vec![
            Arc::new(StringArray::from_iter_values(there().map(|(series, _)| &series.id))),
            instants(there().map(|(series, _)| series.start).collect()),
            Arc::new(Float64Array::from(vec![0.0; rows])),
            Arc::new(StringArray::from_iter_values(there().map(|(_, text)| text))),
            Arc::new(Float64Array::new_null(rows)),
            Arc::new(StringArray::from(vec![format!("{LABEL_PREFIX}{name}"); rows])),
        ])?;
    }
    writer.finish()
}

// The columns of one line of values, without what is missing.
fn line(
    panel: &Panel,
    id: &str,
    mut start: Micros,
    values: &[f32],
    unit: &str,
    weights: Option<&[f32]>,
    covariate: Option<&str>,
) -> Vec<ArrayRef> {
    let (mut starts, mut there, mut weighed) = (Vec::new(), Vec::new(), Vec::new());
    for (place, value) in values.iter().enumerate() {
        if !value.is_nan() {
            starts.push(start);
            there.push(f64::from(*value));
            weighed.push(weights.and_then(|weights| weights.get(place)).map(|weight| f64::from(*weight)));
        }
        start = panel.frequency.advance(start, 1, &panel.zone);
    }
    let rows = starts.len();
    vec![
        Arc::new(StringArray::from_iter_values(std::iter::repeat_n(id, rows))),
        instants(starts),
        Arc::new(Float64Array::from(there)),
        Arc::new(StringArray::from_iter_values(std::iter::repeat_n(unit, rows))),
        Arc::new(Float64Array::from(weighed)),
        Arc::new(StringArray::from(vec![covariate; rows])),
    ]
}

/// Reads what [`history_to_parquet`] wrote.
pub fn history_from_parquet(bytes: Bytes, frequency: Frequency, zone: TimeZone) -> Result<History, StepError> {
    let reader = open(bytes)?;
    let schema = reader.schema();
    let said = |key: &str| schema.metadata().get(key).map_or("[]", String::as_str);
    let stored: Vec<Stored> = serde_json::from_str(said(COVARIATES)).doing(reading)?;
    let labels: Vec<String> = serde_json::from_str(said(LABELS)).doing(reading)?;
    let of_labels = labels.iter().map(|label| format!("{LABEL_PREFIX}{label}"));
    let names: Vec<String> = stored.iter().map(|stored| stored.covariate.name.clone()).chain(of_labels).collect();
    let from = least_start(reader.metadata())?;
    let begun = || HistoryBuilder::new(frequency, zone.clone(), from);
    let mut series = begun();
    let mut columns: Vec<HistoryBuilder> = names.iter().map(|_| begun()).collect();
    // One batch at a time: the rows of a whole group take several times the memory of its values.
    for rows in read(reader)? {
        let rows = rows?;
        for (covariate, part) in by_covariate(&rows)? {
            let place = covariate.map(|name| names.iter().position(|known| *known == name));
            match place {
                None => series.add(&part)?,
                Some(place) => match place.and_then(|place| columns.get_mut(place)) {
                    Some(column) => column.add(&part)?,
                    None => {
                        return Err(StepError::failed(
                            reading(),
                            "it has a covariate or label that it does not declare",
                        ));
                    }
                },
            }
        }
    }
    let mut history = series.finish().0;
    let mut columns = columns.into_iter().map(|column| column.finish().0);
    for (Stored { covariate, is_shared }, column) in stored.into_iter().zip(&mut columns) {
        attach(&mut history.panel, covariate, is_shared, column.panel);
    }
    for (label, column) in labels.into_iter().zip(columns) {
        attach_label(&mut history.panel, label, column);
    }
    Ok(history)
}

// Gives a label, whose values stand as units in a history of their own, to the series of a panel.
fn attach_label(panel: &mut Panel, label: String, of_label: History) {
    let mut texts: HashSet<Arc<str>> = HashSet::new();
    let mut shared = |text: String| match texts.get(text.as_str()) {
        Some(known) => Arc::clone(known),
        None => {
            let text: Arc<str> = text.into();
            texts.insert(Arc::clone(&text));
            text
        }
    };
    let ids = of_label.panel.series.into_iter().map(|series| series.id);
    let values: HashMap<String, Arc<str>> = ids.zip(of_label.units.into_iter().map(&mut shared)).collect();
    for series in &mut panel.series {
        series.labels.push(values.get(&series.id).cloned());
    }
    panel.labels.push(label);
}

// The rows of a batch in parts of one covariate, or none, each.
fn by_covariate(rows: &RecordBatch) -> Result<Vec<(Option<String>, RecordBatch)>, StepError> {
    let Some(names) = rows.column_by_name(COVARIATE) else { return Ok(vec![(None, rows.clone())]) };
    let names = names
        .as_string_opt::<i32>()
        .ok_or_else(|| StepError::failed(reading(), format!("its column {COVARIATE} has an unexpected type")))?;
    let name = |row: usize| names.is_valid(row).then(|| names.value(row));
    let mut parts = Vec::new();
    let mut first = 0;
    for row in 1..=rows.num_rows() {
        if row == rows.num_rows() || name(row) != name(first) {
            parts.push((name(first).map(str::to_owned), rows.slice(first, row - first)));
            first = row;
        }
    }
    Ok(parts)
}

// Gives the values of a covariate, which are lines of a panel of their own, to the series of another one.
fn attach(panel: &mut Panel, covariate: Covariate, is_shared: bool, lines: Panel) {
    let Panel { frequency, zone, series: lines, .. } = lines;
    let lines: HashMap<String, (Micros, Arc<[f32]>)> =
        lines.into_iter().map(|line| (line.id, (line.start, line.values.into()))).collect();
    for series in &mut panel.series {
        let column = match lines.get(if is_shared { "" } else { series.id.as_str() }) {
            Some((start, values)) => {
                Column { offset: frequency.steps_between(series.start, *start, &zone), values: Arc::clone(values) }
            }
            None => Column { offset: 0, values: Arc::default() },
        };
        series.covariates.push(column);
    }
    panel.covariates.push(covariate);
}

// Where the grid of a history begins, by the statistics that its writer left.
fn least_start(metadata: &ParquetMetaData) -> Result<Micros, StepError> {
    let mut least = None;
    for group in metadata.row_groups() {
        let Some(Statistics::Int64(starts)) = group.column(START).statistics() else {
            return Err(StepError::failed(
                reading(),
                "it has no statistics of its starts, so it is no history of ours",
            ));
        };
        least = least.into_iter().chain(starts.min_opt().copied()).min();
    }
    Ok(least.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use meterline_models::data::{Known, Series};
    use meterline_schemas::time::HOUR;

    use super::super::BATCH_ROWS;
    use super::*;

    #[test]
    fn a_history_survives_the_way_through_parquet() {
        let history = History {
            panel: Panel::new(
                Frequency::HOUR,
                TimeZone::UTC,
                vec![
                    Series::new("a", 7 * HOUR, vec![1.5, f32::NAN, 2.5]),
                    Series { signed: true, ..Series::new("b", 2 * HOUR, vec![-1.0]) },
                ],
            ),
            units: vec!["kWh".into(), "degC".into()],
        };
        let bytes = history_to_parquet(&history).unwrap();
        let back = history_from_parquet(bytes, Frequency::HOUR, TimeZone::UTC).unwrap();
        assert_eq!(back.units, history.units);
        assert_eq!(back.panel.series[1], history.panel.series[1]);
        let a = &back.panel.series[0];
        assert_eq!((a.start, a.values[0], a.values[1].is_nan(), a.values[2]), (7 * HOUR, 1.5, true, 2.5));

        let none = History { panel: Panel { series: Vec::new(), ..history.panel }, units: Vec::new() };
        let bytes = history_to_parquet(&none).unwrap();
        assert!(history_from_parquet(bytes, Frequency::HOUR, TimeZone::UTC).unwrap().panel.series.is_empty());
    }

    #[test]
    fn covariates_weights_and_labels_survive_the_way_through_parquet() {
        let shared: Arc<[f32]> = (0..BATCH_ROWS).map(|hour| hour as f32).collect();
        let series = |id: &str, start: i64, own: Option<f32>| {
            let mut series = Series::new(id, start * HOUR, vec![1.5, f32::NAN, 2.5]);
            // The shared column begins at hour 2; each other one an interval before its series.
            series.covariates = vec![
                Column { offset: 2 - start, values: Arc::clone(&shared) },
                Column { offset: -1, values: own.map(|own| vec![own, f32::NAN, own]).unwrap_or_default().into() },
                Column { offset: 0, values: Arc::default() },
            ];
            series
        };
        let covariate = |name: &str, known| Covariate { name: name.into(), known };
        let mut panel =
            Panel::new(Frequency::HOUR, TimeZone::UTC, vec![series("a", 3, Some(7.0)), series("b", 5, None)]);
        panel.covariates =
            vec![covariate("tariff", Known::Ahead), covariate("voltage", Known::Past), covariate("none", Known::Past)];
        panel.series[1].weights = vec![1.0, 1.0, 0.25];
        panel.labels = vec!["region".into(), "tariff".into()];
        panel.series[0].labels = vec![Some("north".into()), Some("day".into())];
        panel.series[1].labels = vec![None, Some("day".into())];
        let history = History { panel, units: vec!["kWh".into(); 2] };
        let bytes = history_to_parquet(&history).unwrap();
        let back = history_from_parquet(bytes, Frequency::HOUR, TimeZone::UTC).unwrap().panel;
        assert_eq!(back.covariates, history.panel.covariates, "in their order");
        for (found, expected) in back.series.iter().zip(&history.panel.series) {
            assert_eq!((&found.id, found.start, found.weight(2)), (&expected.id, expected.start, expected.weight(2)));
            for (found, expected) in found.covariates.iter().zip(&expected.covariates) {
                for interval in -5..BATCH_ROWS as i64 + 5 {
                    let (found, expected) = (found.at(interval), expected.at(interval));
                    assert!(found == expected || (found.is_nan() && expected.is_nan()), "{interval}");
                }
            }
        }
        assert_eq!(back.labels, history.panel.labels);
        for (found, expected) in back.series.iter().zip(&history.panel.series) {
            assert_eq!(found.labels, expected.labels);
        }
        assert!(back.series[0].weights.is_empty());
        assert!(Arc::ptr_eq(&back.series[0].covariates[0].values, &back.series[1].covariates[0].values));
    }

    #[test]
    fn a_history_of_many_batches_begins_at_its_least_start() {
        let values: Vec<f32> = (0..2 * BATCH_ROWS + 1).map(|i| (i % 1000) as f32).collect();
        let series = |id: &str, start| Series::new(id, start, values.clone());
        // The earliest start is that of neither the first nor the last row.
        let series = vec![series("a", 7 * HOUR), series("b", -2 * HOUR), series("c", 3 * HOUR)];
        let panel = Panel::new(Frequency::HOUR, TimeZone::UTC, series);
        let history = History { panel, units: vec!["kWh".into(); 3] };
        let bytes = history_to_parquet(&history).unwrap();
        let back = history_from_parquet(bytes, Frequency::HOUR, TimeZone::UTC).unwrap();
        assert_eq!(back.panel.series, history.panel.series);
    }
}
