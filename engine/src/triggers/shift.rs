//! How far what comes in now is from what the champion was trained on: the population stability index of the intervals of
//! the last context against those of the context before the champion's training data ended.
//!
//! Values are standardised series by series, by the mean and the deviation of the earlier context, and counted in ten bins
//! that a normal distribution fills evenly. So a fleet that grows is no change, and meters that all read a quarter more are.

use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use jiff::tz::TimeZone;
use meterline_models::data::Panel;
use meterline_schemas::Micros;
use meterline_schemas::config::resolve_group_policy;

use crate::environment::Environment;
use crate::ingest::Committed;
use crate::ingest::groups::GroupSummary;
use crate::metadata::records::ModelRecord;
use crate::pipelines::{StepError, history, members};
use crate::sql::{SqlError, TableVersions, query_batches};

/// Upper ends of the bins but the last, in deviations from the mean: the deciles of a normal distribution.
const EDGES: [f64; 9] = [-1.2816, -0.8416, -0.5244, -0.2533, 0.0, 0.2533, 0.5244, 0.8416, 1.2816];
const BINS: usize = EDGES.len() + 1;
/// Intervals of either context over all series that are read at most, as long as that leaves a season of each.
const VALUES_MAX: usize = 20_000_000;
/// A share that is taken for one of nothing: the index has the logarithm of shares.
const SHARE_MIN: f64 = 1e-4;

/// Why the index cannot be computed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ShiftError {
    /// Which series the group has is not known.
    #[error(transparent)]
    Members(#[from] StepError),
    /// The intervals cannot be read.
    #[error(transparent)]
    Sql(#[from] SqlError),
}

/// What the index is of: it is computed again where another champion serves, and once in a season.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ShiftKey {
    champion: String,
    season: i64,
}

impl ShiftKey {
    pub(super) fn of(group: &GroupSummary, champion: &ModelRecord) -> ShiftKey {
        let season = group.frequency.season().max(1) as i64 * group.frequency.nominal_micros();
        ShiftKey { champion: champion.version.clone(), season: group.origin.div_euclid(season.max(1)) }
    }
}

/// The index of a group as of a commit; `None` where the earlier context has nothing that varies.
pub(super) async fn read(
    env: &Environment,
    committed: &Committed,
    group: &GroupSummary,
    champion: &ModelRecord,
) -> Result<Option<f64>, ShiftError> {
    let policy = resolve_group_policy(&group.group_id, group.frequency, &env.config.policy);
    let most = (VALUES_MAX / group.series.max(1)).max(group.frequency.season());
    let intervals = policy.context.min(most) as i64;
    let zone = TimeZone::get(&group.zone).unwrap_or(TimeZone::UTC);
    let others = history::other_feeds(&env.config, group.frequency, &group.group_id);
    let members = members::of_group(env, &group.group_id, group.frequency, group.origin).await?.condition();
    let context = |until: Micros| {
        let from = group.frequency.advance(until, -intervals, &zone);
        history::within(group.frequency, from, until, None, &others)
    };
    let (before, now) = (context(champion.trained_until), context(group.origin));
    let bins = (0..).zip(EDGES).map(|(bin, edge)| format!("WHEN z <= {edge} THEN {bin}"));
    let query = format!(
        "SELECT bin, CAST(sum(before) AS BIGINT), CAST(sum(now) AS BIGINT) FROM \
           (SELECT CASE {} ELSE {} END AS bin, before, now FROM \
             (SELECT (i.value - r.mean) / r.deviation AS z, \
                CASE WHEN {before} THEN 1 ELSE 0 END AS before, CASE WHEN {now} THEN 1 ELSE 0 END AS now \
              FROM intervals i JOIN \
                (SELECT series_id AS id, avg(value) AS mean, stddev_pop(value) AS deviation FROM intervals \
                 WHERE {before} AND {members} GROUP BY series_id) r \
              ON i.series_id = r.id WHERE r.deviation > 0 AND (({before}) OR ({now})))) \
         GROUP BY bin",
        bins.collect::<Vec<_>>().join(" "),
        BINS - 1
    );
    let versions = TableVersions { intervals: Some(committed.intervals_version) };
    let mut counts = [[0_u64; BINS]; 2];
    for rows in query_batches(env, &query, versions).await? {
        let column = |place: usize| rows.column(place).as_primitive_opt::<Int64Type>();
        let (Some(bins), Some(before), Some(now)) = (column(0), column(1), column(2)) else { continue };
        for row in 0..rows.num_rows() {
            let Some(bin) = usize::try_from(bins.value(row)).ok().filter(|bin| *bin < BINS) else { continue };
            for (counts, of) in counts.iter_mut().zip([before, now]) {
                counts[bin] += if of.is_valid(row) { of.value(row).unsigned_abs() } else { 0 };
            }
        }
    }
    let [before, now] = counts;
    Ok(stability_index(&before, &now))
}

/// The index of a panel: of the `intervals` that end at `now` against those that end at `before`.
pub(super) fn of_panel(panel: &Panel, intervals: usize, before: Micros, now: Micros) -> Option<f64> {
    let mut counts = [[0_u64; BINS]; 2];
    for one in &panel.series {
        let context = |until: Micros| {
            let end = panel.frequency.steps_between(one.start, until, &panel.zone).clamp(0, one.values.len() as i64);
            let values = &one.values[(end as usize).saturating_sub(intervals)..end as usize];
            values.iter().filter(|value| !value.is_nan()).map(|value| f64::from(*value))
        };
        let (count, sum) = context(before).fold((0.0, 0.0), |(count, sum), value| (count + 1.0, sum + value));
        let mean = sum / count;
        let squares: f64 = context(before).map(|value| (value - mean).powi(2)).sum();
        let deviation = (squares / count).sqrt();
        if deviation.is_nan() || deviation <= 0.0 {
            continue;
        }
        for (counts, until) in counts.iter_mut().zip([before, now]) {
            for value in context(until) {
                counts[EDGES.partition_point(|edge| (value - mean) / deviation > *edge)] += 1;
            }
        }
    }
    let [before, now] = counts;
    stability_index(&before, &now)
}

/// Σ (now − before) ln(now / before) over the shares of the bins; `None` where either has nothing.
fn stability_index(before: &[u64; BINS], now: &[u64; BINS]) -> Option<f64> {
    let all = |counts: &[u64; BINS]| Some(counts.iter().sum::<u64>()).filter(|all| *all > 0).map(|all| all as f64);
    let (all_before, all_now) = (all(before)?, all(now)?);
    let terms = before.iter().zip(now).map(|(before, now)| {
        let before = (*before as f64 / all_before).max(SHARE_MIN);
        let now = (*now as f64 / all_now).max(SHARE_MIN);
        (now - before) * (now / before).ln()
    });
    Some(terms.sum())
}

#[cfg(test)]
mod tests {
    use meterline_connectors::lake::snapshot;
    use meterline_models::data::Series;
    use meterline_schemas::Frequency;
    use meterline_schemas::tables::INTERVALS;
    use meterline_schemas::time::HOUR;
    use serde_json::json;

    use super::*;
    use crate::ingest::load_committed;
    use crate::pipelines::infer::reconcile::run_tests::{DAYS, START, lake};
    use crate::triggers::facts::tests::{champion, hourly};

    #[test]
    fn the_index_is_none_of_the_same_shares_and_grows_with_their_difference() {
        let even = [10; BINS];
        assert_eq!(stability_index(&even, &[1000; BINS]), Some(0.0));
        // One share is half as much again, another half as much.
        let mut other = [10; BINS];
        (other[0], other[9]) = (15, 5);
        let expected = 0.05 * (1.5_f64).ln() - 0.05 * (0.5_f64).ln();
        assert!((stability_index(&even, &other).unwrap() - expected).abs() < 1e-12);
        let mut one = [0; BINS];
        one[9] = 7;
        assert!(stability_index(&even, &one).unwrap() > 2.0);
        assert_eq!((stability_index(&even, &[0; BINS]), stability_index(&[0; BINS], &even)), (None, None));
    }

    #[test]
    fn a_panel_is_compared_series_by_series_whatever_their_size() {
        let day = |scale: f32, more: f32| (0..24).map(move |hour| scale * ((hour % 12) as f32 + more));
        let of = |id: &str, scale: f32, more: f32| {
            Series::new(id, 0, day(scale, 0.0).chain(day(scale, more)).collect::<Vec<f32>>())
        };
        let index = |more: f32| {
            let panel = Panel::new(Frequency::HOUR, TimeZone::UTC, vec![of("a", 1.0, more), of("b", 1000.0, more)]);
            of_panel(&panel, 24, 24 * HOUR, 48 * HOUR)
        };
        assert_eq!(index(0.0), Some(0.0));
        assert!(index(3.0).unwrap() > 0.25 && index(9.0) > index(3.0));
        let flat = Panel::new(Frequency::HOUR, TimeZone::UTC, vec![Series::new("c", 0, vec![1.0; 48])]);
        assert_eq!(of_panel(&flat, 24, 24 * HOUR, 48 * HOUR), None);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_comes_in_is_compared_with_what_the_champion_was_trained_on() {
        let directory = tempfile::tempdir().unwrap();
        let env = lake(directory.path()).await;
        let committed = load_committed(&env.lake, &env.config, env.directory()).await.unwrap().unwrap();
        let version = snapshot(&env.lake, INTERVALS, None).await.unwrap().unwrap().version;
        assert_eq!(committed.intervals_version, version);
        let end = START + 24 * DAYS * HOUR;
        let group = GroupSummary { origin: end, ..hourly(0) };
        let champion = champion(end - 240 * HOUR, json!(1.0));
        // The same days over and over, but for noise, and for a meter that went from one roll-up to another.
        let same = read(&env, &committed, &group, &champion).await.unwrap().unwrap();
        assert!((0.01..0.25).contains(&same), "{same}");
        // Where nothing has come for a context there is nothing to compare.
        let later = GroupSummary { origin: end + 400 * HOUR, ..group.clone() };
        assert_eq!(read(&env, &committed, &later, &champion).await.unwrap(), None);
        let key = |hours: i64| ShiftKey::of(&GroupSummary { origin: hours * HOUR, ..group.clone() }, &champion);
        assert!(key(24) == key(47) && key(47) != key(48));
    }
}
