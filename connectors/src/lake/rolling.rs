//! A sorted stream of rows as files of a certain size. A file is stored as soon as it is full, so memory holds one of
//! them.

use arrow::array::RecordBatch;

use super::files::FileWriter;
use super::{DataFile, Lake, LakeError, Partition, TableDefinition};

/// Writes rows of one partition as data files. They are durable, and invisible until they are committed.
pub struct RollingWriter {
    lake: Lake,
    table: TableDefinition,
    partition: Partition,
    target: u64,
    open: Option<FileWriter>,
    done: Vec<DataFile>,
}

impl RollingWriter {
    /// Files of `partition` of about `target` bytes.
    pub fn new(lake: &Lake, table: &TableDefinition, partition: Partition, target: u64) -> RollingWriter {
        RollingWriter { lake: lake.clone(), table: table.clone(), partition, target, open: None, done: Vec::new() }
    }

    /// Adds rows, without the partition's columns, in the order in which files of the table are sorted.
    ///
    /// # Errors
    ///
    /// [`LakeError::Encode`] or [`LakeError::Store`].
    pub async fn write(&mut self, rows: &RecordBatch) -> Result<(), LakeError> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let writer = match &mut self.open {
            Some(writer) => writer,
            None => self.open.insert(FileWriter::new(&self.table, self.partition.clone(), rows)?),
        };
        writer.write(rows)?;
        if writer.bytes() >= self.target { self.close().await } else { Ok(()) }
    }

    /// Stores the last file, and returns them all.
    ///
    /// # Errors
    ///
    /// [`LakeError::Encode`] or [`LakeError::Store`].
    pub async fn finish(mut self) -> Result<Vec<DataFile>, LakeError> {
        self.close().await?;
        Ok(self.done)
    }

    async fn close(&mut self) -> Result<(), LakeError> {
        if let Some(writer) = self.open.take() {
            let encoded = writer.finish()?;
            self.done.push(self.lake.put_data_file(self.table.name, encoded.file, encoded.payload).await?);
        }
        Ok(())
    }
}
