//! The heavy part of a rewrite: reads sorted files as one stream and writes new ones, on a thread of its own. Nothing
//! of it is visible until it is committed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch, not};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow::error::ArrowError;
use meterline_connectors::lake::{DataFile, Lake, LakeError, Partition, RollingWriter, SortedMerge, TableDefinition};
use meterline_schemas::reading::Position;
use meterline_schemas::tables::{INTERVALS, INTERVALS_PARTITION, LAYER_BASE, LAYER_OLD};

use super::error::MaintenanceError;
use super::plan::{Fold, Merge};

/// Set when the work is no longer wanted; the thread looks at it after every batch.
#[derive(Debug, Default)]
struct Cancel(Arc<AtomicBool>);

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs the work where it may take the processor for long; dropping the future ends it soon.
async fn aside<F>(work: impl FnOnce(Arc<AtomicBool>) -> F + Send + 'static) -> Result<Vec<DataFile>, MaintenanceError>
where
    F: Future<Output = Result<Vec<DataFile>, MaintenanceError>>,
{
    let cancel = Cancel::default();
    let cancelled = Arc::clone(&cancel.0);
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || runtime.block_on(work(cancelled))).await.map_err(MaintenanceError::Died)?
}

fn go_on(cancelled: &AtomicBool) -> Result<(), MaintenanceError> {
    if cancelled.load(Ordering::Relaxed) { Err(MaintenanceError::Stopped) } else { Ok(()) }
}

/// The rows of files of one partition in files of about `target` bytes.
///
/// # Errors
/// A file cannot be read or written.
pub async fn merge(
    lake: &Lake,
    table: &TableDefinition,
    files: Merge,
    target: u64,
) -> Result<Vec<DataFile>, MaintenanceError> {
    let (lake, table) = (lake.clone(), table.clone());
    aside(move |cancelled| async move {
        let partition = partition_of(&table, &files);
        let mut merge = SortedMerge::new(&lake, &table, files)?;
        let mut writer = RollingWriter::new(&lake, &table, partition, target);
        while let Some(rows) = merge.next().await? {
            go_on(&cancelled)?;
            writer.write(&rows).await?;
        }
        Ok(writer.finish().await?)
    })
    .await
}

/// In the table's order, as all of `files` have them.
fn partition_of(table: &TableDefinition, files: &[DataFile]) -> Partition {
    let Some(first) = files.first() else { return Partition::new() };
    let value = |name: &&str| Some(((*name).to_owned(), first.partition.get(*name)?.clone()));
    table.partition_by.iter().filter_map(value).collect()
}

/// The rows of a month's revisions and of the base files that they may concern: of each interval the row with the
/// greatest position becomes the base, the others history.
///
/// An interval of which only a revision is known becomes part of the base, too. That keeps the base unique, whatever is
/// appended in the meantime: a row of the base is the first row of its interval, and this one has a row already.
///
/// # Errors
/// A file cannot be read or written.
pub async fn fold(lake: &Lake, fold: Fold, target: u64) -> Result<Vec<DataFile>, MaintenanceError> {
    let lake = lake.clone();
    aside(move |cancelled| async move {
        let table = TableDefinition::intervals();
        let partition = |layer: &str| -> Partition {
            let values = [fold.month.clone(), layer.to_owned()];
            INTERVALS_PARTITION.iter().map(|name| (*name).to_owned()).zip(values).collect()
        };
        let mut base = RollingWriter::new(&lake, &table, partition(LAYER_BASE), target);
        let mut old = RollingWriter::new(&lake, &table, partition(LAYER_OLD), target);
        let files = fold.base.iter().chain(&fold.revisions).cloned().collect();
        let mut merge = SortedMerge::new(&lake, &table, files)?;
        // Rows of the last interval so far: more of them may follow.
        let mut open: Option<RecordBatch> = None;
        loop {
            go_on(&cancelled)?;
            let next = merge.next().await?;
            let last = next.is_none();
            let rows = match (open.take(), next) {
                (Some(open), Some(next)) => concat_batches(&next.schema(), [&open, &next]).map_err(fault)?,
                (Some(rows), None) | (None, Some(rows)) => rows,
                (None, None) => break,
            };
            let (won, complete) = winners(&rows).map_err(fault)?;
            let complete = if last { rows.num_rows() } else { complete };
            let (done, won) = (rows.slice(0, complete), won.slice(0, complete));
            base.write(&filter_record_batch(&done, &won).map_err(fault)?).await?;
            old.write(&filter_record_batch(&done, &not(&won).map_err(fault)?).map_err(fault)?).await?;
            if last {
                break;
            }
            open = Some(rows.slice(complete, rows.num_rows() - complete));
        }
        let mut files = base.finish().await?;
        files.extend(old.finish().await?);
        Ok(files)
    })
    .await
}

fn fault(error: ArrowError) -> MaintenanceError {
    LakeError::Encode { table: INTERVALS.to_owned(), reason: error.to_string() }.into()
}

/// Of rows sorted by series and start: which have the greatest position of their interval, and how many rows come
/// before the last start.
fn winners(rows: &RecordBatch) -> Result<(BooleanArray, usize), ArrowError> {
    let column =
        |name: &str| rows.column_by_name(name).ok_or_else(|| ArrowError::SchemaError(format!("no column {name}")));
    let series = column("series_id")?.as_string::<i32>();
    let start = column("start")?.as_primitive::<TimestampMicrosecondType>();
    let end = column("end")?.as_primitive::<TimestampMicrosecondType>();
    let timestamp = column("position_timestamp")?.as_primitive::<Int64Type>();
    let partition = column("partition")?.as_primitive::<Int32Type>();
    let offset = column("offset")?.as_primitive::<Int64Type>();
    let position = |i: usize| Position {
        timestamp_ms: timestamp.value(i),
        partition: partition.value(i),
        offset: offset.value(i),
    };
    let mut won = vec![false; rows.num_rows()];
    let mut first = 0;
    // The best row of each interval that starts there: there are several where the frequency of the series changed.
    let mut best: Vec<usize> = Vec::new();
    for i in 0..rows.num_rows() {
        if start.value(i) != start.value(first) || series.value(i) != series.value(first) {
            best.drain(..).for_each(|best| won[best] = true);
            first = i;
        }
        match best.iter_mut().find(|best| end.value(**best) == end.value(i)) {
            Some(best) if position(i) > position(*best) => *best = i,
            Some(_) => {}
            None => best.push(i),
        }
    }
    best.into_iter().for_each(|best| won[best] = true);
    Ok((won.into(), first))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray};

    use super::*;

    #[test]
    fn rows_of_one_start_and_two_lengths_do_not_compete() {
        // Series, start, end and offset.
        let rows = [("a", 0, 4, 1), ("a", 0, 1, 0), ("a", 0, 4, 2), ("a", 1, 2, 0), ("b", 1, 2, 7), ("b", 1, 2, 6)];
        let instants = |of: fn(&(&str, i64, i64, i64)) -> i64| {
            Arc::new(rows.iter().map(|row| Some(of(row))).collect::<TimestampMicrosecondArray>()) as ArrayRef
        };
        let zeros = || rows.iter().map(|_| Some(0));
        let batch = RecordBatch::try_from_iter([
            ("series_id", Arc::new(rows.iter().map(|row| Some(row.0)).collect::<StringArray>()) as ArrayRef),
            ("start", instants(|row| row.1)),
            ("end", instants(|row| row.2)),
            ("position_timestamp", Arc::new(zeros().map(|n| n.map(i64::from)).collect::<Int64Array>()) as ArrayRef),
            ("partition", Arc::new(zeros().collect::<Int32Array>()) as ArrayRef),
            ("offset", Arc::new(rows.iter().map(|row| Some(row.3)).collect::<Int64Array>()) as ArrayRef),
        ]);
        let (won, complete) = winners(&batch.unwrap()).unwrap();
        let won: Vec<bool> = won.iter().flatten().collect();
        assert_eq!((won, complete), (vec![false, true, true, true, true, false], 4));
    }
}
