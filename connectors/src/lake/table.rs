//! The tables that the lake holds.

use arrow::datatypes::SchemaRef;
use meterline_schemas::tables;

/// What a table is: its schema, how its files are laid out.
#[derive(Debug, Clone)]
pub struct TableDefinition {
    /// Name, and directory below the lake's root.
    pub name: &'static str,
    /// All columns, partition columns included.
    pub schema: SchemaRef,
    /// Columns whose values name directories instead of being stored.
    pub partition_by: &'static [&'static str],
    /// Columns by which the rows of a file are sorted.
    pub sort_by: &'static [&'static str],
}

impl TableDefinition {
    /// The table of truth.
    pub fn intervals() -> TableDefinition {
        TableDefinition {
            name: tables::INTERVALS,
            schema: tables::intervals(),
            partition_by: &tables::INTERVALS_PARTITION,
            sort_by: &["series_id", "start"],
        }
    }

    /// What intervals of gauges and counters are computed from.
    pub fn samples() -> TableDefinition {
        TableDefinition {
            name: tables::SAMPLES,
            schema: tables::samples(),
            partition_by: &tables::SAMPLES_PARTITION,
            sort_by: &["series_id", "at"],
        }
    }

    /// Published forecasts.
    pub fn forecasts() -> TableDefinition {
        TableDefinition {
            name: tables::FORECASTS,
            schema: tables::forecasts(),
            partition_by: &tables::FORECASTS_PARTITION,
            sort_by: &["series_id", "origin", "start"],
        }
    }

    /// Records that could not be read.
    pub fn dead_letters() -> TableDefinition {
        TableDefinition {
            name: tables::DEAD_LETTERS,
            schema: tables::dead_letters(),
            partition_by: &[],
            sort_by: &["partition", "offset"],
        }
    }

    /// All of them.
    pub fn all() -> [TableDefinition; 4] {
        [
            TableDefinition::intervals(),
            TableDefinition::samples(),
            TableDefinition::forecasts(),
            TableDefinition::dead_letters(),
        ]
    }
}
