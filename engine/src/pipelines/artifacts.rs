//! Intermediate results of a run: Parquet below `artifacts/<run_id>/` in the lake, named in the steps' outputs. They
//! are deleted once the run has succeeded, or a week after it ended otherwise.

mod history;

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int32Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Float64Type, Int32Type, Schema, SchemaRef, TimestampMicrosecondType};
use bytes::Bytes;
use meterline_connectors::lake::Lake;
use meterline_models::forecaster::SeriesForecast;
use meterline_schemas::quantiles::{COLUMNS, LEVELS};
use meterline_schemas::{Micros, tables};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

pub use self::history::{history_from_parquet, history_to_parquet};

use super::error::{Doing, StepError};

/// Folder below the lake's root that has one folder a run.
pub const FOLDER: &str = "artifacts";
/// Rows of one Arrow batch on the way to and from Parquet; bounds the memory beside the values themselves.
const BATCH_ROWS: usize = 65_536;

/// The forecast of one series, with what the table `forecasts` says about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// Series identifier.
    pub series_id: String,
    /// End of the last interval that the forecast knows.
    pub origin: Micros,
    /// Unit of its values.
    pub unit: String,
    /// In-sample mean absolute error of seasonal naive over the context, where the context is long enough.
    pub scale: Option<f64>,
    /// Model version, or `seasonal_naive`.
    pub model_version: String,
    /// Whether seasonal naive stands in for a model.
    pub substituted: bool,
    /// The values.
    pub forecast: SeriesForecast,
}

/// Writes bytes as an artifact.
pub async fn put(lake: &Lake, path: &str, bytes: Bytes) -> Result<(), StepError> {
    lake.put_object(path, bytes).await.doing(|| format!("writing the artifact {path}"))
}

/// Reads an artifact's bytes.
pub async fn get(lake: &Lake, path: &str) -> Result<Bytes, StepError> {
    lake.get_object(path).await.doing(|| format!("reading the artifact {path}"))
}

fn predictions_schema() -> SchemaRef {
    let mut fields = vec![
        Field::new("series_id", DataType::Utf8, false),
        Field::new("origin", tables::instant(), false),
        Field::new("step", DataType::Int32, false),
        Field::new("unit", DataType::Utf8, false),
        Field::new("scale", DataType::Float64, true),
        Field::new("model_version", DataType::Utf8, false),
        Field::new("substituted", DataType::Boolean, false),
        Field::new("mean", DataType::Float64, false),
    ];
    fields.extend(COLUMNS.map(|name| Field::new(name, DataType::Float64, false)));
    Arc::new(Schema::new(fields))
}

/// Predictions as Parquet, one row a series and step.
pub fn predictions_to_parquet(predictions: &[Prediction]) -> Result<Bytes, StepError> {
    let mut writer = Writer::new(predictions_schema())?;
    for p in predictions {
        let rows = p.forecast.mean.len();
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(std::iter::repeat_n(&p.series_id, rows))),
            instants(vec![p.origin; rows]),
            Arc::new(Int32Array::from_iter_values((1..).take(rows))),
            Arc::new(StringArray::from_iter_values(std::iter::repeat_n(&p.unit, rows))),
            Arc::new(Float64Array::from(vec![p.scale; rows])),
            Arc::new(StringArray::from_iter_values(std::iter::repeat_n(&p.model_version, rows))),
            Arc::new(BooleanArray::from(vec![p.substituted; rows])),
            Arc::new(Float64Array::from_iter_values(p.forecast.mean.iter().copied())),
        ];
        for level in 0..LEVELS.len() {
            columns.push(Arc::new(Float64Array::from_iter_values(p.forecast.quantiles.iter().map(|q| q[level]))));
        }
        writer.write(columns)?;
    }
    writer.finish()
}

/// Reads what [`predictions_to_parquet`] wrote.
pub fn predictions_from_parquet(bytes: Bytes) -> Result<Vec<Prediction>, StepError> {
    let mut predictions: Vec<Prediction> = Vec::new();
    for rows in read(open(bytes)?)? {
        let rows = rows?;
        let shape = || StepError::failed("reading predictions", "a column has an unexpected type");
        let text = |i: usize| rows.column(i).as_string_opt::<i32>().ok_or_else(shape);
        let number = |i: usize| rows.column(i).as_primitive_opt::<Float64Type>().ok_or_else(shape);
        let (ids, units, versions) = (text(0)?, text(3)?, text(5)?);
        let origins = rows.column(1).as_primitive_opt::<TimestampMicrosecondType>().ok_or_else(shape)?;
        let steps = rows.column(2).as_primitive_opt::<Int32Type>().ok_or_else(shape)?;
        let substituted = rows.column(6).as_boolean_opt().ok_or_else(shape)?;
        let (scales, means) = (number(4)?, number(7)?);
        let levels = (0..LEVELS.len()).map(|l| number(8 + l)).collect::<Result<Vec<_>, _>>()?;
        for row in 0..rows.num_rows() {
            if steps.value(row) == 1 {
                predictions.push(Prediction {
                    series_id: ids.value(row).to_owned(),
                    origin: origins.value(row),
                    unit: units.value(row).to_owned(),
                    scale: (!scales.is_null(row)).then(|| scales.value(row)),
                    model_version: versions.value(row).to_owned(),
                    substituted: substituted.value(row),
                    forecast: SeriesForecast { mean: Vec::new(), quantiles: Vec::new() },
                });
            }
            let Some(p) = predictions.last_mut() else { return Err(shape()) };
            p.forecast.mean.push(means.value(row));
            p.forecast.quantiles.push(std::array::from_fn(|l| levels[l].value(row)));
        }
    }
    Ok(predictions)
}

pub(super) fn instants(values: Vec<Micros>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC"))
}

struct Writer {
    schema: SchemaRef,
    inner: ArrowWriter<Vec<u8>>,
}

impl Writer {
    fn new(schema: SchemaRef) -> Result<Writer, StepError> {
        let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
        let inner = ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties)).doing(writing)?;
        Ok(Writer { schema, inner })
    }

    fn write(&mut self, columns: Vec<ArrayRef>) -> Result<(), StepError> {
        let rows = RecordBatch::try_new(self.schema.clone(), columns).doing(writing)?;
        self.inner.write(&rows).doing(writing)
    }

    fn finish(self) -> Result<Bytes, StepError> {
        Ok(self.inner.into_inner().doing(writing)?.into())
    }
}

fn writing() -> String {
    "writing Parquet".to_owned()
}

fn reading() -> String {
    "reading Parquet".to_owned()
}

fn open(bytes: Bytes) -> Result<ParquetRecordBatchReaderBuilder<Bytes>, StepError> {
    Ok(ParquetRecordBatchReaderBuilder::try_new(bytes).doing(reading)?.with_batch_size(BATCH_ROWS))
}

fn read(
    reader: ParquetRecordBatchReaderBuilder<Bytes>,
) -> Result<impl Iterator<Item = Result<RecordBatch, StepError>>, StepError> {
    Ok(reader.build().doing(reading)?.map(|rows| rows.doing(reading)))
}

#[cfg(test)]
mod tests {
    use meterline_schemas::time::HOUR;

    use super::*;

    #[test]
    fn predictions_survive_the_way_through_parquet() {
        let one = |id: &str, scale, substituted, steps: usize| Prediction {
            series_id: id.into(),
            origin: HOUR,
            unit: "kWh".into(),
            scale,
            model_version: "seasonal_naive".into(),
            substituted,
            forecast: SeriesForecast {
                mean: (0..steps).map(|s| s as f64).collect(),
                quantiles: (0..steps).map(|s| std::array::from_fn(|l| (s + l) as f64)).collect(),
            },
        };
        let predictions = vec![one("a", Some(0.5), false, 3), one("b", None, true, 2)];
        let bytes = predictions_to_parquet(&predictions).unwrap();
        assert_eq!(predictions_from_parquet(bytes).unwrap(), predictions);
    }
}
