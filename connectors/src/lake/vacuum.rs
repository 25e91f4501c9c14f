//! What a table no longer needs: entries of its log before an old checkpoint, and data files that no version to be kept
//! names.

use std::collections::{BTreeMap, HashSet};

use futures::{StreamExt, TryStreamExt};
use object_store::ObjectMeta;
use object_store::path::Path as ObjectPath;

use super::snapshot::{data_file, delta, load};
use super::{DataFile, Lake, LakeError};

const LOG: &str = "_delta_log";
/// Digits of a version in the names of the log.
const VERSION_DIGITS: usize = 20;
/// Longest time for which Delta's checkpoints remember that a file was taken away, in milliseconds: 7 days.
pub const REMEMBERED_MS: i64 = 7 * 24 * 60 * 60 * 1000;

/// An object of the lake that may be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unneeded {
    /// Below the lake's root.
    pub path: ObjectPath,
    /// Its size.
    pub bytes: u64,
    /// When it was written, in milliseconds since 1970.
    pub modified_ms: i64,
}

impl From<ObjectMeta> for Unneeded {
    fn from(meta: ObjectMeta) -> Unneeded {
        Unneeded { path: meta.location, bytes: meta.size, modified_ms: meta.last_modified.timestamp_millis() }
    }
}

/// The entries of the log of `table` that no version since `before_ms` needs: all before the newest checkpoint that is
/// older than that. Versions from that checkpoint on can still be read.
///
/// # Errors
///
/// [`LakeError::Store`].
pub async fn expired_log(lake: &Lake, table: &str, before_ms: i64) -> Result<Vec<Unneeded>, LakeError> {
    Ok(expired(list(lake, &format!("{table}/{LOG}")).await?, before_ms))
}

fn expired(log: Vec<Unneeded>, before_ms: i64) -> Vec<Unneeded> {
    // When each version was committed, and which have a checkpoint.
    let mut written: BTreeMap<u64, i64> = BTreeMap::new();
    let mut checkpoints = Vec::new();
    for entry in &log {
        let (Some(version), Some(name)) = (version(entry), entry.path.filename()) else { continue };
        if name.ends_with(".checkpoint.parquet") {
            checkpoints.push(version);
        }
        // A checkpoint may be written long after its version; the version is as old as its commit.
        let at = written.entry(version).or_insert(entry.modified_ms);
        *at = (*at).min(entry.modified_ms);
    }
    let old = |version: &u64| written.get(version).is_some_and(|at| *at < before_ms);
    let Some(kept) = checkpoints.into_iter().filter(old).max() else { return Vec::new() };
    let mut expired: Vec<Unneeded> = log
        .into_iter()
        .filter(|entry| version(entry).is_some_and(|version| version < kept) && entry.modified_ms < before_ms)
        .collect();
    // The oldest first: what is left if this is interrupted has no gaps.
    expired.sort_by(|a, b| a.path.cmp(&b.path));
    expired
}

fn version(entry: &Unneeded) -> Option<u64> {
    entry.path.filename()?.get(..VERSION_DIGITS)?.parse().ok()
}

/// All data files below the directory of `table`, whether a version names them or not.
///
/// # Errors
///
/// [`LakeError::Store`].
pub async fn stored_files(lake: &Lake, table: &str) -> Result<Vec<Unneeded>, LakeError> {
    let log = ObjectPath::from(table).join(LOG);
    let mut stored = list(lake, table).await?;
    stored.retain(|file| !file.path.prefix_matches(&log) && file.path.as_ref().ends_with(".parquet"));
    Ok(stored)
}

/// Those of the files in `stored` that neither the newest version of `table` names, nor one that was the newest since
/// `removed_before_ms` (at most [`REMEMBERED_MS`] ago), and of those that no version is known to have named only the
/// ones written before `written_before_ms`. Every commit that was being made when `stored` was listed must have been
/// made, or given up, before this is called.
///
/// # Errors
///
/// [`LakeError::Delta`] if the log cannot be read.
pub async fn unnamed_files(
    lake: &Lake,
    table: &str,
    mut stored: Vec<Unneeded>,
    removed_before_ms: i64,
    written_before_ms: i64,
) -> Result<Vec<Unneeded>, LakeError> {
    let failed = |source| delta("reading the files of", table, source);
    let Some(loaded) = load(lake, table, None).await? else { return Ok(Vec::new()) };
    let state = loaded.snapshot().map_err(failed)?;
    let path = |file: &DataFile| Lake::data_path(table, file);
    let named: HashSet<ObjectPath> = state.log_data().iter().map(|view| path(&data_file(&view))).collect();
    let mut removed = BTreeMap::new();
    let mut tombstones = state.all_tombstones(loaded.log_store().as_ref());
    while let Some(tombstone) = tombstones.try_next().await.map_err(failed)? {
        let path = tombstone.path().split('/').fold(ObjectPath::from(table), |path, segment| path.join(segment));
        // One without a time is taken to be new.
        removed.insert(path, tombstone.deletion_timestamp().unwrap_or(i64::MAX));
    }
    stored.retain(|file| {
        !named.contains(&file.path)
            && match removed.get(&file.path) {
                Some(at) => *at < removed_before_ms,
                None => file.modified_ms < written_before_ms,
            }
    });
    Ok(stored)
}

/// Deletes objects, and returns how many and their bytes; those that are gone already count too.
///
/// # Errors
///
/// [`LakeError::Store`]; some may be deleted.
pub async fn delete(lake: &Lake, objects: &[Unneeded]) -> Result<(u64, u64), LakeError> {
    let paths = objects.iter().map(|object| Ok(object.path.clone())).collect::<Vec<_>>();
    let mut deleted = lake.store().delete_stream(futures::stream::iter(paths).boxed());
    while let Some(result) = deleted.next().await {
        match result {
            Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
            Err(source) => return Err(LakeError::Store { doing: "deleting what is no longer needed".into(), source }),
        }
    }
    Ok((objects.len() as u64, objects.iter().map(|object| object.bytes).sum()))
}

async fn list(lake: &Lake, prefix: &str) -> Result<Vec<Unneeded>, LakeError> {
    lake.store()
        .list(Some(&ObjectPath::from(prefix)))
        .map_ok(Unneeded::from)
        .try_collect()
        .await
        .map_err(|source| LakeError::Store { doing: format!("listing `{prefix}`"), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_goes_up_to_the_newest_checkpoint_that_is_old_enough() {
        let entry = |version: u64, kind: &str, modified_ms: i64| Unneeded {
            path: ObjectPath::from(format!("t/_delta_log/{version:020}.{kind}")),
            bytes: 1,
            modified_ms,
        };
        let mut log: Vec<Unneeded> = (0..=30).map(|v| entry(v, "json", v as i64 * 10)).collect();
        log.extend([10, 20, 30].map(|v| entry(v, "checkpoint.parquet", v as i64 * 10 + 1)));
        log.push(Unneeded { path: "t/_delta_log/_last_checkpoint".into(), bytes: 1, modified_ms: 301 });
        let gone = |before_ms| {
            let expired = expired(log.clone(), before_ms);
            let newest = expired.iter().filter_map(version).max();
            (expired.len(), newest)
        };
        assert_eq!(gone(100), (0, None));
        assert_eq!(gone(101), (10, Some(9)));
        assert_eq!(gone(200), (10, Some(9)));
        // Of the second checkpoint's predecessors the first checkpoint goes, too.
        assert_eq!(gone(201), (21, Some(19)));
        assert_eq!(gone(10_000), (32, Some(29)));
    }
}
