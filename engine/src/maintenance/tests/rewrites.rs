//! Appends, corrections, merges, folds, retention and vacuums in any order, on a store that fails and lies, with
//! crashes in between, against a model.
//!
//! `METERLINE_SEED` repeats one case.

use std::sync::atomic::{AtomicU64, Ordering};

use meterline_connectors::lake::{Rewrite, Rewritten, delete, stored_files, unnamed_files};
use meterline_tests::dice::{Dice, seeds};
use meterline_tests::faulty_store::FaultyStore;

use super::super::plan::Fold;
use super::super::work;
use super::*;
use crate::ingest::commit_tests::Unreliable;
use crate::sql::layers::Layers;

const CASES: u64 = 24;
const HOURS: u64 = 6;

/// Any of a month's files, merged by layer or folded.
async fn rewrite(env: &Environment, owner: &mut TableOwner, stale: &[DataFile], dice: &Dice) {
    let month = MONTHS[dice.roll(2) as usize];
    let layer = ["base", "rev", "old", "fold"][dice.roll(4) as usize];
    // Sometimes from a list that is no longer true.
    let mut known = if dice.roll(4) == 0 { stale.to_vec() } else { files(&env.lake).await };
    known.retain(|file| file.partition["month"] == month);
    let table = TableDefinition::intervals();
    let (removes, done) = if layer == "fold" {
        let (others, revisions): (Vec<DataFile>, Vec<DataFile>) =
            known.into_iter().partition(|file| file.partition["layer"] != "rev" || dice.roll(3) == 0);
        let base: Vec<DataFile> = others.into_iter().filter(|file| file.partition["layer"] == "base").collect();
        let layers = Layers::of(&[base, revisions].concat(), false);
        let fold = Fold { month: month.into(), base: layers.revised, revisions: layers.revisions };
        ([fold.base.clone(), fold.revisions.clone()].concat(), work::fold(&env.lake, fold, 4_000).await)
    } else {
        let chosen: Vec<DataFile> =
            known.into_iter().filter(|file| file.partition["layer"] == layer && dice.roll(4) > 0).collect();
        (chosen.clone(), work::merge(&env.lake, &table, chosen, 4_000).await)
    };
    // The store failed: nothing happened.
    let Ok(adds) = done else { return };
    // A crash: the files are left over.
    if dice.roll(8) == 0 || removes.is_empty() {
        return;
    }
    let rewrite = Rewrite { removes, adds, changes_rows: layer == "fold" };
    // Whatever it says: what is read must be the same. Some ask again.
    for _ in 0..=dice.roll(2) {
        match owner.rewrite(&rewrite, None).await {
            Ok(Rewritten::Done(_) | Rewritten::Overtaken(_)) | Err(_) => {}
        }
    }
}

/// Deletes what retention no longer keeps, for `rows` too: all of January, or what was folded away in it.
async fn retain(env: &Environment, owner: &mut TableOwner, rows: &mut Vec<Row>, dice: &Dice) {
    let all = dice.roll(3) == 0;
    let old = "interval_revisions WHERE layer = 'old'";
    let lost: Vec<Told> = if all { Vec::new() } else { read(env, old).await };
    let goes = |file: &DataFile| file.partition["month"] == MONTHS[0] && (all || file.partition["layer"] == "old");
    let removes: Vec<DataFile> = files(&env.lake).await.into_iter().filter(goes).collect();
    let rewrite = Rewrite { removes: removes.clone(), adds: Vec::new(), changes_rows: true };
    let answer = owner.rewrite(&rewrite, None).await;
    // Whatever it says, all of it went or none.
    let left = files(&env.lake).await.iter().filter(|file| removes.contains(file)).count();
    let done = left == 0;
    assert!(done || left == removes.len(), "{left} of {}", removes.len());
    assert!(done || !matches!(answer, Ok(Rewritten::Done(_))), "{answer:?}");
    if done {
        let winners = oracle(rows, i64::MAX);
        let gone = |row: &Row| row.month() == MONTHS[0] && (all || lost.contains(&row.told()));
        assert!(
            all || !rows.iter().any(|row| gone(row) && winners.contains(&row.told())),
            "a value that counts is gone"
        );
        rows.retain(|row| !gone(row));
    }
}

/// Deletes every file that the newest version does not name.
async fn vacuum(env: &Environment) {
    let stored = stored_files(&env.lake, "intervals").await.unwrap();
    let unnamed = unnamed_files(&env.lake, "intervals", stored, i64::MAX, i64::MAX).await.unwrap();
    delete(&env.lake, &unnamed).await.unwrap();
    let left = stored_files(&env.lake, "intervals").await.unwrap().len();
    assert_eq!(left, files(&env.lake).await.len(), "what is left over is gone, and nothing else");
}

async fn case(seed: u64) -> u64 {
    let dice = Arc::new(Dice::new(seed));
    let odds = Arc::new(AtomicU64::new(0));
    let (_dir, env) = environment(|lake| {
        lake.with_root_store(|inner| {
            // What is compared is read from the same store.
            FaultyStore::around(inner, Unreliable { dice: Arc::clone(&dice), odds: Arc::clone(&odds), gets: false })
        })
    })
    .await;
    let table = TableDefinition::intervals();
    let mut rows: Vec<Row> = Vec::new();
    // The stream's owner, and one that does not hear of its commits.
    let mut owners =
        [TableOwner::open(&env.lake, &table).await.unwrap(), TableOwner::open(&env.lake, &table).await.unwrap()];
    let (mut stale, mut next) = (Vec::new(), 0);
    for txn in 1..=4 + dice.roll(10) as i64 {
        let mut part: Vec<Row> = Vec::new();
        for _ in 0..1 + dice.roll(12) {
            let (series, hour) = (dice.roll(4) as usize, dice.roll(HOURS) as i64 + FEBRUARY * dice.roll(2) as i64);
            let known = |row: &Row| row.series == series && row.hour == hour;
            // A row of the base is the first of its interval; where that is not known, a first row is a revision, too.
            let first = !rows.iter().chain(&part).any(known);
            let layer = if first && dice.roll(4) > 0 { "base" } else { "rev" };
            let offset = next;
            next += 1;
            part.push(Row { series, hour, value: offset as f64, timestamp: dice.roll(24) as i64, offset, layer });
        }
        odds.store(0, Ordering::Relaxed);
        let mut written = owners[0].write(&batch(&part)).await.unwrap();
        odds.store(6, Ordering::Relaxed);
        if dice.roll(8) == 0 {
            // A crash before the commit: the readings come again, in files of other names.
            written = owners[0].write(&batch(&part)).await.unwrap_or(written);
        }
        while owners[0].commit(&written, &[("test".into(), txn)], None).await.is_err() {}
        rows.extend(part);
        for _ in 0..dice.roll(4) {
            let owner = &mut owners[dice.roll(2) as usize];
            rewrite(&env, owner, &stale, &dice).await;
        }
        if dice.roll(6) == 0 {
            let owner = &mut owners[dice.roll(2) as usize];
            retain(&env, owner, &mut rows, &dice).await;
        }
        if dice.roll(3) == 0 {
            stale = files(&env.lake).await;
        }
        if dice.roll(4) == 0 {
            vacuum(&env).await;
        }
        odds.store(0, Ordering::Relaxed);
        if dice.roll(3) == 0 {
            check(&env, &rows, seed).await;
        }
    }
    check(&env, &rows, seed).await;
    files(&env.lake).await.iter().filter(|file| file.partition["layer"] == "old").map(|file| file.rows).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_housekeeping_does_in_any_order_what_is_read_is_what_was_committed_and_kept() {
    let cases: Vec<_> = seeds(CASES).map(|seed| tokio::spawn(case(seed))).collect();
    let (all, mut folded) = (cases.len() as u64, 0);
    for case in cases {
        folded += case.await.unwrap();
    }
    assert!(all < CASES || folded > 0, "nothing was ever folded: the cases are too tame");
}
