//! What readers and rival writers see, on a directory and on S3.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arrow::array::{
    ArrayRef, BinaryArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use async_trait::async_trait;
use meterline_tests::faulty_store::{Fault, FaultyStore, Put, no_answer};
use object_store::path::Path;
use object_store::{PutResult, Result};

use super::*;

const JOB: &str = "meterline/ingest";

pub(super) fn letters(offsets: &[i64]) -> RecordBatch {
    let n = offsets.len();
    let text = |s: &str| Arc::new(StringArray::from(vec![s; n])) as ArrayRef;
    RecordBatch::try_new(
        TableDefinition::dead_letters().schema,
        vec![
            text("meters"),
            text("readings"),
            Arc::new(Int32Array::from(vec![0; n])),
            Arc::new(Int64Array::from(offsets.to_vec())),
            Arc::new(TimestampMicrosecondArray::from(vec![1_500_001; n]).with_timezone("UTC")),
            Arc::new(BinaryArray::from(vec![None; n])),
            Arc::new(BinaryArray::from(vec![Some(b"{".as_slice()); n])),
            text("malformed"),
            text("unexpected end"),
        ],
    )
    .unwrap()
}

/// Places may be called anything.
pub(super) const ODD_NAME: &str = "Zähler & Söhne 100%";

/// Tests of what every store must do: on a directory and on S3.
macro_rules! on_every_store {
    ($($test:ident),* $(,)?) => {
        mod local {
            $(#[tokio::test]
            async fn $test() {
                let dir = tempfile::tempdir().unwrap();
                let place = dir.path().join(super::ODD_NAME);
                super::$test(super::Lake::open(place.to_str().unwrap()).await.unwrap()).await;
            })*
        }
        mod on_s3 {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                let Some(server) = super::s3_tests::server(stringify!($test)) else { return };
                super::$test(super::s3_tests::lake(&server.endpoint()).await.unwrap()).await;
            })*
        }
    };
}

on_every_store!(
    files_are_invisible_until_they_are_committed,
    a_repeated_transaction_commits_once,
    a_newer_claim_fences_the_older_writer,
    writers_of_different_transactions_wait_for_each_other,
    commits_go_on_past_checkpoints,
    a_table_gets_its_checkpoints_although_every_commit_has_a_new_owner,
    a_claim_that_the_store_refuses_says_why,
    an_upload_in_parts_appears_whole_or_not_at_all,
    a_part_of_an_object_is_read_and_one_beyond_its_end_is_no_failure_of_the_store,
    claims_made_at_once_get_different_numbers,
    partition_values_may_be_called_anything,
    a_commit_that_landed_behind_an_error_is_found_and_not_repeated,
    files_are_merged_in_order_and_change_places_in_one_step,
    a_rewrite_behind_an_error_or_a_rival_neither_loses_nor_doubles,
    of_two_rewrites_of_one_file_one_is_made_and_a_fenced_writer_makes_none,
    only_what_no_kept_version_names_is_deleted,
    a_file_that_is_cut_off_is_told_from_a_store_that_fails,
);

/// A lake of its own below the place of another.
fn below(lake: &Lake, name: &str) -> Lake {
    let root_url = lake.root_url.join(&format!("{name}/")).unwrap();
    Lake { prefix: lake.prefix.clone().join(name), root_url, ..lake.clone() }
}

pub(super) async fn owner(lake: &Lake) -> TableOwner {
    TableOwner::open(lake, &TableDefinition::dead_letters()).await.unwrap()
}

pub(super) fn txn(version: i64) -> Vec<(String, i64)> {
    vec![(JOB.to_owned(), version)]
}

pub(super) async fn rows(lake: &Lake) -> u64 {
    snapshot(lake, "dead_letters", None).await.unwrap().unwrap().files.iter().map(|f| f.rows).sum()
}

async fn files_are_invisible_until_they_are_committed(lake: Lake) {
    assert!(snapshot(&lake, "dead_letters", None).await.unwrap().is_none());
    let mut owner = owner(&lake).await;
    let files = owner.write(&letters(&[3, 1, 2])).await.unwrap();
    assert_eq!(rows(&lake).await, 0);
    let version = owner.commit(&files, &txn(7), None).await.unwrap();
    let seen = snapshot(&lake, "dead_letters", None).await.unwrap().unwrap();
    assert_eq!((seen.version, rows(&lake).await), (version, 3));
    assert_eq!(seen.transaction(JOB).await.unwrap(), Some(7));
    assert_eq!(seen.files[0].range("offset"), Some((Bound::Integer(1), Bound::Integer(3))));
    assert_eq!(seen.files[0].range("timestamp"), Some((Bound::Integer(1_500_000), Bound::Integer(1_501_000))));
    let before = snapshot(&lake, "dead_letters", Some(0)).await.unwrap().unwrap();
    assert!(before.files.is_empty());
}

async fn a_repeated_transaction_commits_once(lake: Lake) {
    let mut owner = owner(&lake).await;
    let files = owner.write(&letters(&[1])).await.unwrap();
    let first = owner.commit(&files, &txn(1), None).await.unwrap();
    assert_eq!(owner.commit(&files, &txn(1), None).await.unwrap(), first);
    assert_eq!(rows(&lake).await, 1);
}

async fn a_newer_claim_fences_the_older_writer(lake: Lake) {
    let mut old = owner(&lake).await;
    let old_fence = old.claim(JOB).await.unwrap();
    let mut new = owner(&lake).await;
    let new_fence = new.claim(JOB).await.unwrap();
    assert_eq!((old_fence.value(), new_fence.value()), (1, 2));
    let files = old.write(&letters(&[1])).await.unwrap();
    for _ in 0..2 {
        // The second time, the old writer knows the newest version of the log: it is refused all the same.
        match old.commit(&files, &txn(1), Some(&old_fence)).await {
            Err(CommitError::Fenced { ours: 1, theirs: 2, .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    let files = new.write(&letters(&[1, 2])).await.unwrap();
    new.commit(&files, &txn(1), Some(&new_fence)).await.unwrap();
    assert_eq!(rows(&lake).await, 2);
    // The newer writer used the same transaction version: that does not make the older one's commit done.
    let late = old.write(&letters(&[3])).await.unwrap();
    assert!(matches!(old.commit(&late, &txn(1), Some(&old_fence)).await, Err(CommitError::Fenced { .. })));
}

async fn claims_made_at_once_get_different_numbers(lake: Lake) {
    owner(&lake).await;
    let claims = (0..6).map(|_| {
        let lake = lake.clone();
        tokio::spawn(async move { owner(&lake).await.claim(JOB).await.unwrap().value() })
    });
    let mut numbers = Vec::new();
    for claim in claims.collect::<Vec<_>>() {
        numbers.push(claim.await.unwrap());
    }
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 6, "{numbers:?}");
    assert_eq!(owner(&lake).await.transaction("meterline/ingest/fence").await.unwrap(), numbers.last().copied());
}

async fn writers_of_different_transactions_wait_for_each_other(lake: Lake) {
    let (mut a, mut b) = (owner(&lake).await, owner(&lake).await);
    for i in 0..4 {
        let files = a.write(&letters(&[i])).await.unwrap();
        a.commit(&files, &[(format!("a/{i}"), 1)], None).await.unwrap();
        let files = b.write(&letters(&[100 + i])).await.unwrap();
        b.commit(&files, &[(format!("b/{i}"), 1)], None).await.unwrap();
    }
    assert_eq!(rows(&lake).await, 8);
}

async fn commits_go_on_past_checkpoints(lake: Lake) {
    let mut owner = owner(&lake).await;
    let fence = owner.claim(JOB).await.unwrap();
    for i in 1..=60 {
        let files = owner.write(&letters(&[i])).await.unwrap();
        owner.commit(&files, &txn(i), Some(&fence)).await.unwrap();
    }
    assert_eq!(rows(&lake).await, 60);
    assert_eq!(checkpoints(&lake).await, 1);
    let seen = snapshot(&lake, "dead_letters", None).await.unwrap().unwrap();
    assert_eq!(seen.transaction(JOB).await.unwrap(), Some(60));
    // What the checkpoint says about the first file is what its commit said.
    let range = (Bound::Integer(1_500_000), Bound::Integer(1_501_000));
    assert!(seen.files.iter().all(|f| f.rows == 1 && f.range("timestamp") == Some(range.clone())), "{:?}", seen.files);
}

async fn checkpoints(lake: &Lake) -> usize {
    let log = lake.list_objects("dead_letters/_delta_log").await.unwrap();
    log.iter().filter(|path| path.ends_with("checkpoint.parquet")).count()
}

async fn a_table_gets_its_checkpoints_although_every_commit_has_a_new_owner(lake: Lake) {
    for i in 1..=51 {
        let mut owner = owner(&lake).await;
        owner.commit(&[], &txn(i), None).await.unwrap();
    }
    assert_eq!(checkpoints(&lake).await, 1);
    assert_eq!(owner(&lake).await.transaction(JOB).await.unwrap(), Some(51));
}

async fn a_claim_that_the_store_refuses_says_why(lake: Lake) {
    let lies = Arc::new(AtomicU32::new(0));
    let lying =
        lake.with_root_store(|inner| FaultyStore::around(inner, Lying { lies: Arc::clone(&lies), lands: false }));
    let mut owner = owner(&lying).await;
    lies.store(1, Ordering::SeqCst);
    let error = owner.claim(JOB).await.unwrap_err().to_string();
    assert!(error.contains("claiming") && error.contains("no answer"), "{error}");
    assert_eq!(owner.claim(JOB).await.unwrap().value(), 1);
}

async fn partition_values_may_be_called_anything(lake: Lake) {
    let schema = Arc::new(arrow::datatypes::Schema::new(vec![
        arrow::datatypes::Field::new("n", arrow::datatypes::DataType::Int64, false),
        arrow::datatypes::Field::new("kind", arrow::datatypes::DataType::Utf8, false),
    ]));
    let kinds = ["a/b c=d%20é", "a_b_c_d_20_"];
    let rows = RecordBatch::try_new(
        Arc::clone(&schema),
        vec![Arc::new(Int64Array::from(vec![1, 2])), Arc::new(StringArray::from(kinds.to_vec()))],
    )
    .unwrap();
    let table = TableDefinition { name: "odd", schema, partition_by: &["kind"], sort_by: &["n"] };
    let mut owner = TableOwner::open(&lake, &table).await.unwrap();
    let files = owner.write(&rows).await.unwrap();
    owner.commit(&files, &txn(1), None).await.unwrap();
    let seen = snapshot(&lake, "odd", None).await.unwrap().unwrap();
    let mut found: Vec<&str> = seen.files.iter().map(|f| f.partition["kind"].as_str()).collect();
    found.sort_unstable();
    assert_eq!(found, kinds);
    for file in &seen.files {
        let bytes = lake.get_object(&format!("odd/{}", file.path)).await.unwrap();
        assert_eq!(bytes.len() as u64, file.size);
    }
}

async fn an_upload_in_parts_appears_whole_or_not_at_all(lake: Lake) {
    let (store, path) = (lake.store(), Path::from("state/large"));
    let mut upload = store.put_multipart(&path).await.unwrap();
    // No part but the last may be smaller on S3.
    let first = vec![b'1'; 5 << 20];
    upload.put_part(first.clone().into()).await.unwrap();
    upload.put_part("second".into()).await.unwrap();
    assert!(lake.list_objects("state").await.unwrap().is_empty());
    upload.complete().await.unwrap();
    assert!(lake.get_object("state/large").await.unwrap() == [first, b"second".to_vec()].concat());
}

async fn a_part_of_an_object_is_read_and_one_beyond_its_end_is_no_failure_of_the_store(lake: Lake) {
    lake.put_object("state/some", "0123456789").await.unwrap();
    for (range, bytes) in [(0..10, "0123456789"), (3..5, "34"), (9..10, "9"), (4..4, "")] {
        assert_eq!(lake.get_range("state/some", range).await.unwrap(), bytes);
    }
    for range in [0..11, 9..12, 10..11, 100..200] {
        let error = lake.get_range("state/some", range).await.unwrap_err();
        assert!(!error.may_pass() && error.to_string().contains("it has 10 bytes"), "{error}");
    }
    let gone = lake.get_range("state/other", 0..1).await.unwrap_err();
    assert!(matches!(gone, LakeError::NotFound { .. }), "{gone}");
}

/// The next `lies` puts into the log are answered with an error, whether they land or not.
#[derive(Debug)]
struct Lying {
    lies: Arc<AtomicU32>,
    lands: bool,
}

#[async_trait]
impl Fault for Lying {
    async fn put(&self, location: &Path, put: Put) -> Result<PutResult> {
        let log = location.as_ref().contains("_delta_log");
        let lie = log && self.lies.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        if lie && !self.lands {
            return Err(no_answer());
        }
        let result = put.await;
        if lie { Err(no_answer()) } else { result }
    }
}

async fn a_commit_that_landed_behind_an_error_is_found_and_not_repeated(lake: Lake) {
    for (number, lands) in [(1, true), (2, false)] {
        let lies = Arc::new(AtomicU32::new(0));
        let lying = lake.with_root_store(|inner| FaultyStore::around(inner, Lying { lies: Arc::clone(&lies), lands }));
        let mut owner = owner(&lying).await;
        let files = owner.write(&letters(&[1])).await.unwrap();
        lies.store(1, Ordering::SeqCst);
        let result = owner.commit(&files, &txn(number), None).await;
        assert_eq!(result.is_ok(), lands, "{result:?}");
        // Trying again is right in both cases.
        owner.commit(&files, &txn(number), None).await.unwrap();
        assert_eq!(rows(&lake).await, number as u64);
    }
}

#[tokio::test]
async fn a_place_that_cannot_be_written_is_refused_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    let below = file.join("lake");
    let error = Lake::open(below.to_str().unwrap()).await.unwrap_err().to_string();
    assert!(error.contains("cannot be written") && error.contains("lake"), "{error}");
    let error = Lake::open("gopher://x").await.unwrap_err().to_string();
    assert!(error.contains("gopher"), "{error}");
}

async fn files(lake: &Lake) -> Vec<DataFile> {
    snapshot(lake, "dead_letters", None).await.unwrap().unwrap().files
}

async fn append(owner: &mut TableOwner, offsets: &[i64], version: i64) -> Vec<DataFile> {
    let files = owner.write(&letters(offsets)).await.unwrap();
    owner.commit(&files, &txn(version), None).await.unwrap();
    files
}

/// The files' rows in one file, which nobody sees yet.
async fn merged(lake: &Lake, files: Vec<DataFile>) -> Vec<DataFile> {
    let table = TableDefinition::dead_letters();
    let mut writer = RollingWriter::new(lake, &table, Vec::new(), 1 << 20);
    let mut merge = SortedMerge::new(lake, &table, files).unwrap();
    while let Some(rows) = merge.next().await.unwrap() {
        writer.write(&rows).await.unwrap();
    }
    writer.finish().await.unwrap()
}

async fn files_are_merged_in_order_and_change_places_in_one_step(lake: Lake) {
    let mut owner = owner(&lake).await;
    let mut old = append(&mut owner, &[9, 1, 5], 1).await;
    old.extend(append(&mut owner, &(100..9_000).collect::<Vec<i64>>(), 2).await);
    old.extend(append(&mut owner, &[2, 5, 8_000, 20_000], 3).await);
    let new = merged(&lake, old.clone()).await;
    assert_eq!((new.len(), new[0].rows), (1, 8_907));
    assert_eq!(new[0].range("offset"), Some((Bound::Integer(1), Bound::Integer(20_000))));
    let mut merge = SortedMerge::new(&lake, &TableDefinition::dead_letters(), new.clone()).unwrap();
    let mut offsets = Vec::new();
    while let Some(rows) = merge.next().await.unwrap() {
        let column = rows.column_by_name("offset").unwrap();
        offsets.extend(column.as_any().downcast_ref::<Int64Array>().unwrap().values().iter().copied());
    }
    assert!(offsets.is_sorted() && offsets.len() == 8_907, "{} rows", offsets.len());
    let version = owner.version();
    let rewrite = Rewrite { removes: old.clone(), adds: new.clone(), changes_rows: false };
    assert_eq!(owner.rewrite(&rewrite, None).await.unwrap(), Rewritten::Done(version + 1));
    let seen: Vec<(String, u64)> = files(&lake).await.into_iter().map(|file| (file.path, file.rows)).collect();
    assert_eq!(seen, [(new[0].path.clone(), 8_907)]);
    // Nothing is done twice, whoever asks.
    assert_eq!(owner.rewrite(&rewrite, None).await.unwrap(), Rewritten::Overtaken(old[0].path.clone()));
    assert_eq!(rows(&lake).await, 8_907);
    // Earlier versions and the transactions are still there.
    let before = snapshot(&lake, "dead_letters", Some(version)).await.unwrap().unwrap();
    assert_eq!(before.files.len(), old.len());
    assert_eq!(snapshot(&lake, "dead_letters", None).await.unwrap().unwrap().transaction(JOB).await.unwrap(), Some(3));
}

async fn a_rewrite_behind_an_error_or_a_rival_neither_loses_nor_doubles(place: Lake) {
    for (number, (lands, rival)) in [(true, false), (false, false), (true, true), (false, true)].into_iter().enumerate()
    {
        let lake = below(&place, &format!("{number}"));
        let lies = Arc::new(AtomicU32::new(0));
        let lying = lake.with_root_store(|inner| FaultyStore::around(inner, Lying { lies: Arc::clone(&lies), lands }));
        let mut first = owner(&lying).await;
        let mut old = append(&mut first, &[1, 2], 1).await;
        old.extend(append(&mut first, &[3], 2).await);
        let new = merged(&lake, old.clone()).await;
        let mut appended = 0;
        if rival {
            // An append that this owner does not know of.
            append(&mut owner(&lake).await, &[4], 3).await;
            appended = 1;
        }
        lies.store(1, Ordering::SeqCst);
        let rewrite = Rewrite { removes: old, adds: new.clone(), changes_rows: false };
        let result = first.rewrite(&rewrite, None).await;
        let done = matches!(result, Ok(Rewritten::Done(_)));
        assert!(done || result.is_err(), "{result:?}");
        // With a rival, the put that is lied about may be one that was refused anyway.
        assert!(rival || done == lands, "{result:?}");
        assert_eq!(rows(&lake).await, 3 + appended);
        let again = first.rewrite(&rewrite, None).await.unwrap();
        assert_eq!(matches!(again, Rewritten::Done(_)), !done, "{again:?}");
        assert_eq!(rows(&lake).await, 3 + appended);
        assert!(files(&lake).await.iter().any(|file| file.path == new[0].path));
    }
}

async fn of_two_rewrites_of_one_file_one_is_made_and_a_fenced_writer_makes_none(lake: Lake) {
    let (mut a, mut b) = (owner(&lake).await, owner(&lake).await);
    let fence = a.claim(JOB).await.unwrap();
    let mut old = append(&mut a, &[1], 1).await;
    old.extend(append(&mut a, &[2], 2).await);
    let one = Rewrite { removes: old.clone(), adds: merged(&lake, old.clone()).await, changes_rows: false };
    let other =
        Rewrite { removes: old[..1].to_vec(), adds: merged(&lake, old[..1].to_vec()).await, changes_rows: false };
    // It has not seen the files yet.
    assert!(matches!(b.rewrite(&one, None).await.unwrap(), Rewritten::Done(_)));
    assert!(matches!(a.rewrite(&other, Some(&fence)).await.unwrap(), Rewritten::Overtaken(_)));
    assert_eq!(rows(&lake).await, 2);
    b.claim(JOB).await.unwrap();
    let all = files(&lake).await;
    let late = Rewrite { removes: all.clone(), adds: merged(&lake, all).await, changes_rows: false };
    assert!(matches!(a.rewrite(&late, Some(&fence)).await, Err(CommitError::Fenced { ours: 1, theirs: 2, .. })));
    assert_eq!(rows(&lake).await, 2);
}

async fn only_what_no_kept_version_names_is_deleted(lake: Lake) {
    let mut owner = owner(&lake).await;
    let mut old = Vec::new();
    for i in 1..=60 {
        old.extend(append(&mut owner, &[i], i).await);
    }
    let new = merged(&lake, old.clone()).await;
    let rewrite = Rewrite { removes: old, adds: new, changes_rows: false };
    owner.rewrite(&rewrite, None).await.unwrap();
    // The left-over of a crash.
    owner.write(&letters(&[99])).await.unwrap();
    let unneeded = async |removed_before, written_before| {
        let stored = stored_files(&lake, "dead_letters").await.unwrap();
        assert!(stored.iter().all(|file| file.path.as_ref().ends_with(".parquet")));
        unnamed_files(&lake, "dead_letters", stored, removed_before, written_before).await.unwrap()
    };
    let (past, future) = (0, i64::MAX);
    assert_eq!(unneeded(past, past).await.len(), 0);
    assert_eq!(unneeded(past, future).await.len(), 1);
    assert_eq!(unneeded(future, past).await.len(), 60);
    // What was taken away is remembered across checkpoints, too.
    for i in 61..=120 {
        owner.commit(&[], &txn(i), None).await.unwrap();
    }
    assert_eq!(checkpoints(&lake).await, 2);
    assert_eq!((unneeded(past, past).await.len(), unneeded(future, past).await.len()), (0, 60));
    let log = lake.list_objects("dead_letters/_delta_log").await.unwrap().len();
    let expired = expired_log(&lake, "dead_letters", i64::MAX).await.unwrap();
    // Versions 0 to 99, and the first checkpoint.
    assert_eq!(expired.len(), 101);
    delete(&lake, &expired).await.unwrap();
    assert_eq!(lake.list_objects("dead_letters/_delta_log").await.unwrap().len(), log - 101);
    let all = unneeded(future, future).await;
    assert_eq!(delete(&lake, &all).await.unwrap().0, 61);
    // Twice does no harm.
    delete(&lake, &all).await.unwrap();
    let stored = stored_files(&lake, "dead_letters").await.unwrap();
    assert_eq!((stored.len(), rows(&lake).await), (1, 60));
    let seen = snapshot(&lake, "dead_letters", None).await.unwrap().unwrap();
    assert_eq!(seen.transaction(JOB).await.unwrap(), Some(120));
    assert_eq!(snapshot(&lake, "dead_letters", Some(110)).await.unwrap().unwrap().files.len(), 1);
    // Without a log, the library takes it for a table that is not there.
    assert!(!matches!(snapshot(&lake, "dead_letters", Some(60)).await, Ok(Some(_))));
    owner.commit(&[], &txn(121), None).await.unwrap();
}

/// What reading a whole file says.
async fn read_through(lake: &Lake, file: &DataFile) -> Result<usize, LakeError> {
    let mut merge = SortedMerge::new(lake, &TableDefinition::dead_letters(), vec![file.clone()]).unwrap();
    let mut rows = 0;
    while let Some(batch) = merge.next().await? {
        rows += batch.num_rows();
    }
    Ok(rows)
}

async fn a_file_that_is_cut_off_is_told_from_a_store_that_fails(lake: Lake) {
    let mut owner = owner(&lake).await;
    let file = append(&mut owner, &(0..500).collect::<Vec<i64>>(), 1).await.remove(0);
    assert_eq!(read_through(&lake, &file).await.unwrap(), 500);
    let path = Lake::data_path("dead_letters", &file).to_string();
    let whole = lake.get_object(&path).await.unwrap();
    for bytes in [0, 100, whole.len() - 1] {
        lake.put_object(&path, whole.slice(..bytes)).await.unwrap();
        let error = read_through(&lake, &file).await.unwrap_err();
        let words = [path.clone(), format!("it has {bytes} bytes, and {}", whole.len()), "from a backup".to_owned()];
        assert!(!error.may_pass() && words.iter().all(|word| error.to_string().contains(word)), "{bytes}: {error}");
    }
    // Another program's file in its place.
    let mut other = whole.to_vec();
    other[whole.len() / 2..].reverse();
    lake.put_object(&path, other).await.unwrap();
    let error = read_through(&lake, &file).await.unwrap_err();
    assert!(matches!(error, LakeError::Unreadable { .. }) && !error.may_pass(), "{error}");
    lake.delete_object(&path).await.unwrap();
    let error = read_through(&lake, &file).await.unwrap_err();
    assert!(matches!(error, LakeError::NotFound { .. }) && !error.may_pass(), "{error}");
}
