//! Lookups find what was written, whatever files it is in by now, and whatever the store does meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use async_trait::async_trait;
use meterline_schemas::time::DAY;
use meterline_tests::faulty_store::{Fault, FaultyStore, no_answer};
use object_store::path::Path;
use object_store::{GetOptions, Result};

use super::super::round::{Commits, Round};
use super::*;
use crate::ingest::commit::Committer;
use crate::ingest::patience::Patience;
use crate::ingest::pulse::Pulse;
use crate::ingest::recall::{Want, Wanted};
use crate::ingest::rollup::lake as wants;

/// The definition of `intervals` from before there were roll-ups.
fn without_rollups() -> TableDefinition {
    let table = TableDefinition::intervals();
    let new = ["present", "expected", "measured", "estimated", "substituted"];
    let kept: Vec<usize> =
        (0..table.schema.fields().len()).filter(|i| !new.contains(&table.schema.field(*i).name().as_str())).collect();
    TableDefinition { schema: Arc::new(table.schema.project(&kept).unwrap()), ..table }
}

async fn append_old(env: &Environment, rows: &[Row], txn: i64) {
    let table = without_rollups();
    let mut owner = TableOwner::open(&env.lake, &table).await.unwrap();
    let rows = batch(rows);
    let kept: Vec<usize> =
        table.schema.fields().iter().map(|field| rows.schema().index_of(field.name()).unwrap()).collect();
    let files = owner.write(&rows.project(&kept).unwrap()).await.unwrap();
    owner.commit(&files, &[("test".into(), txn)], None).await.unwrap();
}

/// All that there is of two series.
fn all() -> Wanted {
    let want = |number, id: &str| Want { series: number, id: id.into(), from: i64::MIN, to: i64::MAX };
    let mut wanted = Wanted { intervals: vec![want(0, SERIES[0]), want(3, SERIES[3])], ..Wanted::default() };
    wanted.tidy();
    wanted
}

/// What a lookup finds, as a query tells it.
async fn looked_up(committer: &Committer) -> Vec<Told> {
    let found = committer.look_up(&all()).await.unwrap();
    let told = found.intervals.into_iter().map(|(number, (start, _), content)| {
        (SERIES[number as usize].to_owned(), start / HOUR, content.value, content.position.offset)
    });
    let mut told: Vec<Told> = told.collect();
    told.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
    let want = |series: usize| wants::Want { series: SERIES[series].into(), from: i64::MIN, to: i64::MAX };
    let (series, groups) = ([want(0), want(3)], [want(0), want(3)]);
    assert_eq!(committer.series_rows(&series).await.unwrap().len(), told.len());
    let groups = committer.group_rows(&groups).await.unwrap();
    // A row that is no roll-up's is made of nothing.
    assert!(groups.len() == told.len() && groups.iter().all(|row| row.sums.present == 0), "{groups:?}");
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_without_the_newest_columns_are_looked_up_queried_folded_and_merged() {
    let (_dir, env) = environment(|lake| lake).await;
    let mut rows = Vec::new();
    for n in 0..12 {
        let mut part = hours(3 * n, 3 * n + 3, "base", 5);
        part.extend(hours(3 * n, 3 * n + 3, "base", 5).into_iter().map(|row| Row {
            series: 3,
            offset: row.hour + 1000,
            ..row
        }));
        match n {
            0..8 => append_old(&env, &part, n + 1).await,
            _ => append(&env, &part, n + 1).await,
        }
        rows.extend(part);
    }
    for (n, from) in [(13, 2), (14, 20)] {
        let part: Vec<Row> = hours(from, from + 2, "rev", 9)
            .into_iter()
            .map(|row| Row { offset: row.hour + 2000, value: 0.5, ..row })
            .collect();
        match n {
            13 => append_old(&env, &part, n).await,
            _ => append(&env, &part, n).await,
        }
        rows.extend(part);
    }
    for rewritten in [false, true] {
        if rewritten {
            let committer = Committer::claim(&env.lake).await.unwrap();
            let round =
                Round::new(&env.config, &env.lake, Commits::Own(Box::new(committer)), Some(40 * DAY), i64::MAX / 2);
            let report = round.run(|_| ()).await.unwrap();
            assert!(report.failures.is_empty() && report.jobs.len() >= 2, "{report:?}");
        }
        check(&env, &rows, 0).await;
        let nulls = "interval_revisions WHERE present IS NULL AND expected IS NULL AND substituted IS NULL";
        assert_eq!(read(&env, nulls).await.len(), rows.len());
        let committer = Committer::claim(&env.lake).await.unwrap();
        assert_eq!(looked_up(&committer).await, oracle(&rows, i64::MAX), "rewritten: {rewritten}");
    }
    assert!(files(&env.lake).await.len() <= 3, "{:?}", files(&env.lake).await);
}

/// So many reads of data files fail.
#[derive(Debug)]
struct Failing(Arc<AtomicU64>);

#[async_trait]
impl Fault for Failing {
    async fn before_get(&self, location: &Path, options: &GetOptions) -> Result<()> {
        let data = location.as_ref().ends_with(".parquet") && !options.head;
        let fails = data && self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        if fails { Err(no_answer()) } else { Ok(()) }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lookup_waits_for_a_store_that_fails_and_ends_at_a_damaged_file() {
    let failures = Arc::new(AtomicU64::new(0));
    let (_dir, env) =
        environment(|lake| lake.with_root_store(|inner| FaultyStore::around(inner, Failing(Arc::clone(&failures)))))
            .await;
    let rows = hours(0, 9, "base", 5);
    append(&env, &rows, 1).await;
    let pulse = Pulse::default();
    let committer = Committer::claim_with(&env.lake, Patience::new(Arc::default(), pulse.clone())).await.unwrap();
    failures.store(2, Ordering::SeqCst);
    let seen = async {
        while pulse.waiting(Instant::now()).is_none() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        pulse.waiting(Instant::now()).unwrap()
    };
    let (found, waiting) = tokio::join!(looked_up(&committer), seen);
    assert_eq!(found, oracle(&rows, i64::MAX));
    assert!(waiting.contains("looking up") && waiting.contains("no answer"), "{waiting}");
    assert!(pulse.failures() >= 1 && pulse.waiting(Instant::now()).is_none());

    let bad = files(&env.lake).await.remove(0);
    let path = Lake::data_path("intervals", &bad).to_string();
    env.lake.put_object(&path, vec![7u8; 100]).await.unwrap();
    let error = committer.look_up(&all()).await.unwrap_err().to_string();
    assert!(
        [path.as_str(), "100 bytes", "series `a` to `z`", "backup"].iter().all(|word| error.contains(word)),
        "{error}"
    );
    env.lake.delete_object(&path).await.unwrap();
    let error = committer.look_up(&all()).await.unwrap_err().to_string();
    assert!(error.contains(&path) && error.contains("backup"), "{error}");
}
