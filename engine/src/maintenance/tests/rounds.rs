//! A round does all that is to be done, and what it cannot do is told.

use meterline_connectors::lake::{DataFile, Lake, TableDefinition, TableOwner};
use meterline_schemas::config::Keep;
use meterline_schemas::time::{DAY, Span};

use super::super::MaintenanceError;
use super::super::manual;
use super::super::report::{Kind, Outcome, RoundReport};
use super::super::round::{Commits, Round};
use super::*;
use crate::ingest::commit::Committer;

async fn report(env: &Environment, watermark: i64) -> RoundReport {
    let committer = Committer::claim(&env.lake).await.unwrap();
    let commits = Commits::Own(Box::new(committer));
    let round = Round::new(&env.config, &env.lake, commits, Some(watermark), i64::MAX / 2);
    round.run(|_| ()).await.unwrap()
}

/// Job, outcome, and numbers of files before and after it.
type Did = (Kind, Outcome, u64, u64);

fn done(report: &RoundReport) -> Vec<Did> {
    report.jobs.iter().map(|job| (job.job, job.outcome, job.files_before, job.files_after)).collect()
}

async fn round(env: &Environment, watermark: i64) -> Vec<Did> {
    let report = report(env, watermark).await;
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    done(&report)
}

#[tokio::test]
async fn a_round_folds_merges_and_deletes_and_the_next_has_nothing_to_do() {
    let (_dir, mut env) = environment(|lake| lake).await;
    for n in 0..60 {
        append(&env, &hours(n, n + 1, "base", 5), n + 1).await;
    }
    append(&env, &hours(3, 5, "rev", 9), 61).await;
    append(&env, &hours(4, 5, "rev", 2), 62).await;
    let before = (read(&env, "intervals").await, read(&env, "interval_revisions").await);
    let planned = manual::plan(&env, |_| ()).await.unwrap();
    assert!(planned.jobs.iter().all(|job| job.outcome == Outcome::Planned));
    assert_eq!(planned.jobs.first().map(|job| (job.job, job.files_before)), Some((Kind::Merge, 60)));
    // The month has ended, and files that are no longer used are older than any time to keep them.
    let jobs = round(&env, 40 * DAY).await;
    let rewrites: Vec<_> = jobs.iter().filter(|job| matches!(job.0, Kind::Fold | Kind::Merge)).collect();
    // Only the two base files that revisions concern are folded; what comes of it is one of the small ones.
    assert_eq!(rewrites, [&(Kind::Fold, Outcome::Done, 4, 2), &(Kind::Merge, Outcome::Done, 59, 1)]);
    assert!(jobs.iter().any(|job| job.0 == Kind::Vacuum && job.2 >= 62), "{jobs:?}");
    assert!(jobs.iter().any(|job| job.0 == Kind::Log), "{jobs:?}");
    assert_eq!((read(&env, "intervals").await, read(&env, "interval_revisions").await), before);
    assert_eq!(files(&env.lake).await.len(), 2);
    let again = round(&env, 40 * DAY).await;
    assert!(again.iter().all(|job| matches!(job.0, Kind::Log | Kind::Vacuum)), "{again:?}");
    // History goes earlier than the rest.
    env.config.retention.revisions = Keep(Some(Span(8 * DAY)));
    assert!(!round(&env, 38 * DAY).await.iter().any(|job| job.0 == Kind::Retention));
    assert!(round(&env, 40 * DAY).await.contains(&(Kind::Retention, Outcome::Done, 1, 0)));
    assert_eq!(read(&env, "intervals").await, before.0);
    assert_eq!(read(&env, "interval_revisions").await.len(), 60);
    env.config.retention.intervals = Keep(Some(Span(9 * DAY)));
    assert!(round(&env, 40 * DAY).await.contains(&(Kind::Retention, Outcome::Done, 1, 0)));
    assert!(read(&env, "intervals").await.is_empty());
}

#[tokio::test]
async fn two_hundred_small_commits_leave_few_files() {
    let (_dir, env) = environment(|lake| lake).await;
    let mut most = 0;
    for n in 0..200 {
        append(&env, &hours(n, n + 1, "base", 5), n + 1).await;
        if n % 10 == 9 {
            round(&env, 0).await;
        }
        most = most.max(files(&env.lake).await.len());
    }
    assert!(most <= 40, "{most} files");
    assert_eq!(read(&env, "intervals").await.len(), 200);
}

/// A file of base rows of January that were not sorted before they were written.
async fn unsorted(env: &Environment) -> Vec<DataFile> {
    let mut owner = TableOwner::open(&env.lake, &TableDefinition::intervals()).await.unwrap();
    let rows = batch(&[hours(104, 105, "base", 5), hours(101, 102, "base", 5)].concat());
    let kept: Vec<usize> = (0..rows.num_columns() - 2).collect();
    let rows = rows.project(&kept).unwrap();
    let partition = vec![("month".to_owned(), MONTHS[0].to_owned()), ("layer".to_owned(), "base".to_owned())];
    let files = owner.encode(move |files| files.file(partition, [Ok(rows)])).await.unwrap();
    let files = owner.store(&files).await.unwrap();
    owner.commit(&files, &[("unsorted".into(), 1)], None).await.unwrap();
    files
}

#[tokio::test]
async fn a_file_that_is_not_sorted_is_left_as_it_is_and_told_and_the_others_are_merged() {
    let (_dir, env) = environment(|lake| lake).await;
    for n in 0..20 {
        append(&env, &hours(n, n + 1, "base", 5), n + 1).await;
    }
    let left = unsorted(&env).await;
    append(&env, &hours(101, 102, "rev", 9), 21).await;
    let before = (read(&env, "intervals").await, read(&env, "interval_revisions").await);
    for _ in 0..2 {
        let report = report(&env, 40 * DAY).await;
        let told: Vec<String> = report.failures.iter().map(ToString::to_string).collect();
        // Its month cannot be folded; where there is nothing else to merge, nobody comes upon it.
        assert!(!told.is_empty() && told.iter().all(|told| told.contains(&left[0].path)), "{told:?}");
        assert!(told[0].starts_with("fold of intervals (1970-01)") && told[0].contains("not sorted by"), "{told:?}");
        assert_eq!((read(&env, "intervals").await, read(&env, "interval_revisions").await), before);
    }
    let files = files(&env.lake).await;
    assert!(files.len() == 3 && files.contains(&left[0]), "{files:?}");
}

#[tokio::test]
async fn a_damaged_file_is_named_with_the_remedy_and_the_others_are_merged() {
    for damage in ["shorter", "other bytes", "gone"] {
        let (_dir, env) = environment(|lake| lake).await;
        for n in 0..20 {
            append(&env, &hours(n, n + 1, "base", 5), n + 1).await;
        }
        let bad = files(&env.lake).await.swap_remove(7);
        let path = Lake::data_path("intervals", &bad).to_string();
        let mut bytes = env.lake.get_object(&path).await.unwrap().to_vec();
        match damage {
            "shorter" => bytes.truncate(100),
            "other bytes" => bytes.iter_mut().for_each(|byte| *byte ^= 0x55),
            _ => env.lake.delete_object(&path).await.unwrap(),
        }
        if damage != "gone" {
            env.lake.put_object(&path, bytes).await.unwrap();
        }
        let report = report(&env, 0).await;
        let told: Vec<String> = report.failures.iter().map(ToString::to_string).collect();
        assert!(told.len() == 1 && told[0].contains(&path) && told[0].contains("backup"), "{damage}: {told:?}");
        assert!(done(&report).contains(&(Kind::Merge, Outcome::Done, 19, 1)), "{damage}: {:?}", report.jobs);
        assert!(files(&env.lake).await.contains(&bad), "{damage}");
    }
}

#[tokio::test]
async fn housekeeping_that_was_fenced_out_deletes_nothing() {
    let (_dir, env) = environment(|lake| lake).await;
    append(&env, &hours(0, 1, "base", 5), 1).await;
    // What another engine has written and not committed yet, for longer than any left-over is kept.
    let owner = TableOwner::open(&env.lake, &TableDefinition::intervals()).await.unwrap();
    let written = owner.write(&batch(&hours(1, 2, "base", 5))).await.unwrap();
    let old = Committer::claim(&env.lake).await.unwrap();
    let _new = Committer::claim(&env.lake).await.unwrap();
    let round = Round::new(&env.config, &env.lake, Commits::Own(Box::new(old)), None, i64::MAX / 2);
    let error = round.run(|_| ()).await.unwrap_err();
    assert!(matches!(error, MaintenanceError::Commit(_)) && error.to_string().contains("taken over"), "{error}");
    let path = Lake::data_path("intervals", &written[0]).to_string();
    assert!(env.lake.get_object(&path).await.is_ok());
}

#[tokio::test]
async fn where_too_many_files_overlap_they_are_merged_before_they_are_folded() {
    let (_dir, env) = environment(|lake| lake).await;
    let all = |hour: i64, layer| (0..4).map(move |series| Row { series, ..hours(hour, hour + 1, layer, 5).remove(0) });
    let mut rows = Vec::new();
    for n in 0..40 {
        let part: Vec<Row> = all(n, "base").collect();
        append(&env, &part, n + 1).await;
        rows.extend(part);
    }
    // One file of revisions that concerns them all.
    let part: Vec<Row> = [0, 39]
        .into_iter()
        .flat_map(|hour| all(hour, "rev"))
        .map(|row| Row { timestamp: 9, offset: row.hour + 100, ..row })
        .collect();
    append(&env, &part, 41).await;
    rows.extend(part);
    let jobs = round(&env, 40 * DAY).await;
    let rewrites: Vec<_> = jobs.iter().filter(|job| matches!(job.0, Kind::Fold | Kind::Merge)).collect();
    let done = Outcome::Done;
    assert_eq!(
        rewrites,
        [&(Kind::Merge, done, 32, 1), &(Kind::Merge, done, 8, 1), &(Kind::Fold, done, 3, 2)],
        "{jobs:?}"
    );
    check(&env, &rows, 0).await;
}
