//! Files in the place of other files, in one atomic step.
//!
//! A rewrite needs no transaction of its own to be made only once: a file can be taken away only once. Whatever was
//! answered, the newest version of the log says what happened: the new files are there, or the old ones still are, or
//! somebody else rewrote them first.

use deltalake_core::DeltaTableError;
use deltalake_core::kernel::{Action, Remove};
use deltalake_core::protocol::DeltaOperation;

use super::owner::{Want, add_action};
use super::protocol::End;
use super::{CommitError, DataFile, Fence, TableOwner};

/// New files in the place of old ones.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rewrite {
    /// Files that go. Without any, nothing is done.
    pub removes: Vec<DataFile>,
    /// Files that come; they are stored already.
    pub adds: Vec<DataFile>,
    /// Whether the rows differ: false where the new files hold exactly the rows of the old ones.
    pub changes_rows: bool,
}

/// What became of a [`Rewrite`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rewritten {
    /// It is done; the version of the table that has it, or a later one.
    Done(i64),
    /// Not done, and not to be: this file of the old ones is no longer part of the table. The new ones are left over.
    Overtaken(String),
}

impl TableOwner {
    /// Puts files in the place of others, whole or not at all.
    ///
    /// # Errors
    ///
    /// [`CommitError::Fenced`] if `fence` is no longer the newest claim; [`CommitError::Lake`] if the store failed.
    /// Then it may have happened if the store cannot be read either: nothing is lost or doubled by it, and a new plan
    /// is made from what is there.
    pub async fn rewrite(&mut self, rewrite: &Rewrite, fence: Option<&Fence>) -> Result<Rewritten, CommitError> {
        if rewrite.removes.is_empty() {
            return Ok(Rewritten::Done(self.version()));
        }
        let good = |end: End| match end {
            End::Done(version) => Some(Rewritten::Done(version)),
            End::Overtaken(file) => rewrite.removes.get(file).map(|file| Rewritten::Overtaken(file.path.clone())),
            _ => None,
        };
        self.pursue(&Want::Rewrite { rewrite, fence }, good).await
    }

    pub(super) async fn attempt_rewrite(&mut self, rewrite: &Rewrite) -> Result<(), DeltaTableError> {
        let now_ms = jiff::Timestamp::now().as_millisecond();
        let removes = rewrite.removes.iter().map(|file| Action::Remove(remove_action(file, rewrite, now_ms)));
        let adds = rewrite.adds.iter().map(|file| {
            let mut add = add_action(file, now_ms);
            add.data_change = rewrite.changes_rows;
            Action::Add(add)
        });
        let operation = match rewrite.adds.iter().map(|file| file.size).max() {
            Some(largest) => {
                let target_size = i64::try_from(largest).unwrap_or(i64::MAX);
                DeltaOperation::Optimize { predicate: None, target_size }
            }
            None => DeltaOperation::Delete { predicate: None },
        };
        self.attempt_actions(removes.chain(adds).collect(), operation, &[]).await
    }
}

fn remove_action(file: &DataFile, rewrite: &Rewrite, now_ms: i64) -> Remove {
    Remove {
        path: file.path.clone(),
        data_change: rewrite.changes_rows,
        deletion_timestamp: Some(now_ms),
        extended_file_metadata: Some(true),
        partition_values: Some(file.partition.iter().map(|(k, v)| (k.clone(), Some(v.clone()))).collect()),
        size: Some(i64::try_from(file.size).unwrap_or(i64::MAX)),
        tags: None,
        deletion_vector: None,
        base_row_id: None,
        default_row_commit_version: None,
    }
}
