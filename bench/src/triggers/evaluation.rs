//! How long it takes to look at the triggers of many groups: days, weeks and months of many time zones, which are groups of
//! their own, with runs and models behind them.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use meterline::environment::Environment;
use meterline::ingest::Committed;
use meterline::ingest::census::Taking;
use meterline::ingest::classes::Classes;
use meterline::ingest::series::SeriesState;
use meterline::ingest::state::{FeedState, IngestState};
use meterline::metadata::MetadataStore;
use meterline::metadata::records::{ApprovalState, ModelRecord, Pipeline, RunRecord, RunSpec, Status};
use meterline::pipelines::Runner;
use meterline::pipelines::spec::of_group;
use meterline::triggers::service::Evaluator;
use meterline_connectors::lake::Lake;
use meterline_schemas::config::{Config, FeedConfig, parse, resolve_group_policy};
use meterline_schemas::time::DAY;
use meterline_schemas::unit::Unit;
use meterline_schemas::{Frequency, Micros};
use serde_json::{Map, Value, json};

use crate::report::alone;

const FREQUENCIES: [Frequency; 3] = [Frequency::Day, Frequency::Week, Frequency::Month];
/// Infer runs and builds that each group has behind it.
const INFERS: i64 = 20;
const BUILDS: i64 = 3;
/// Time between two commits; 10 s by default, of which they take none of ours.
const BETWEEN: std::time::Duration = std::time::Duration::from_secs(8);
/// Days from the epoch at which the first of the commits is.
const FIRST: i64 = 7_300;
/// Nothing is due, but everything is looked at.
const POLICIES: &str = r#"
[policy.days]
frequency = "P1D"
[policy.days.retrain]
when = "new_intervals >= 99999 or mase_ratio > 1.25 or coverage < 0.5"
[policy.days.reforecast]
when = "new_intervals >= 99999 or substituted_share > 0.5"
[policy.weeks]
frequency = "P1W"
[policy.weeks.retrain]
when = "new_intervals >= 99999 or mase_ratio > 1.25 or coverage < 0.5"
[policy.weeks.reforecast]
when = "new_intervals >= 99999 or substituted_share > 0.5"
[policy.months]
frequency = "P1M"
[policy.months.retrain]
when = "new_intervals >= 99999 or mase_ratio > 1.25 or coverage < 0.5"
[policy.months.reforecast]
when = "new_intervals >= 99999 or substituted_share > 0.5"
"#;

/// Looks at the triggers of `groups` groups of `series` series in all, at `commits` commits, each a day after the one before.
///
/// # Errors
/// A disk that is full, or a fault of ours; in words.
pub async fn measure(directory: &Path, groups: usize, series: usize, commits: usize) -> Result<Vec<Value>, String> {
    let words = |error: &dyn std::error::Error| error.to_string();
    let zones = groups.div_ceil(FREQUENCIES.len());
    let mut config: Config = parse(POLICIES).map_err(|e| words(&e))?;
    let names = jiff::tz::db().available().map(|name| name.as_str().to_owned());
    // Names in the database that no configuration would have.
    let names = names.filter(|name| name.contains('/') && !name.starts_with("Etc/") && !name.starts_with("posix"));
    for (number, zone) in names.take(zones).enumerate() {
        let mut feed = FeedConfig::new(&format!("readings-{number}"), "id", "ts", "v");
        feed.zone = zone;
        config.feed.insert(format!("f{number:04}"), feed);
    }
    let lake = Lake::open(&directory.display().to_string()).await.map_err(|e| words(&e))?;
    let url = format!("sqlite:{}", directory.join("metadata.db").display());
    let metadata = MetadataStore::open(&url).await.map_err(|e| words(&e))?;
    let env = Arc::new(Environment { config, config_path: directory.join("meterline.toml"), lake, metadata });
    let found = remember(&env).await.map_err(|e| words(&e))?;
    let (mut evaluator, _news) = Evaluator::in_background(Arc::clone(&env), Runner::new(Arc::clone(&env)));
    let mut seconds = Vec::new();
    for commit in 0..commits as i64 {
        let committed = commit_at(&env.config, series, commit + 1, (FIRST + commit) * DAY);
        // What came true of forecasts is read meanwhile, as between the commits of a stream.
        tokio::time::sleep(BETWEEN).await;
        let began = Instant::now();
        let all = evaluator.evaluate_if_changed(&committed, (FIRST + commit) * DAY).await.map_err(|e| words(&e))?;
        seconds.push(began.elapsed().as_secs_f64());
        if !all {
            return Err("a trigger could not be evaluated".into());
        }
    }
    let first = seconds.remove(0);
    seconds.sort_by(f64::total_cmp);
    let at = |share: f64| seconds.get((share * (seconds.len() - 1) as f64) as usize).copied().unwrap_or(f64::NAN);
    let name = |what: &str| format!("evaluate_{found}_groups_{series}_series_{what}");
    Ok(vec![
        alone(&name("first"), first * 1e3, "ms"),
        alone(&name("p50"), at(0.5) * 1e3, "ms"),
        alone(&name("max"), at(1.0) * 1e3, "ms"),
    ])
}

/// A commit up to which every series is closed.
fn commit_at(config: &Config, series: usize, seq: i64, until: Micros) -> Committed {
    let nobody = Classes::default();
    let mut taking = Taking::new(config, &nobody);
    let feeds: Vec<&String> = config.feed.keys().collect();
    for number in 0..series {
        let (feed, frequency) = (feeds[number % feeds.len()], FREQUENCIES[(number / feeds.len()) % FREQUENCIES.len()]);
        let mut state = SeriesState::new(feed, &format!("s{number}"), Unit::KWH);
        let zone = jiff::tz::TimeZone::get(&config.feed[feed].zone).unwrap_or(jiff::tz::TimeZone::UTC);
        state.frequency = Some(frequency);
        let closed = frequency.floor(until, &zone);
        state.first_start = Some(frequency.advance(closed, -200, &zone));
        state.last_start = Some(frequency.advance(closed, -1, &zone));
        state.recent = u128::MAX;
        taking.take(&state);
    }
    let feed = |name: &&String| ((*name).clone(), FeedState { watermark: Some(until), ..FeedState::default() });
    let state = IngestState { seq, feeds: feeds.iter().map(feed).collect(), ..IngestState::default() };
    Committed { state: Arc::new(state), census: Arc::new(taking.finish()), intervals_version: seq }
}

/// Writes runs and models of each group; says how many groups there are.
async fn remember(env: &Environment) -> Result<usize, meterline::metadata::MetadataError> {
    let committed = commit_at(&env.config, env.config.feed.len() * FREQUENCIES.len(), 1, FIRST * DAY);
    let groups = meterline::ingest::groups::groups(&committed.state, &committed.census, &env.config);
    for group in &groups {
        let policy = resolve_group_policy(&group.group_id, group.frequency, &env.config.policy);
        for number in 0..INFERS + BUILDS {
            let pipeline = if number < BUILDS { Pipeline::Build } else { Pipeline::Infer };
            let run_id = format!("{}-{number:04}", group.group_id);
            let spec = RunSpec {
                run_id: run_id.clone(),
                origin: group.origin - (INFERS + BUILDS - number) * DAY,
                ..of_group(group, pipeline, Vec::new(), policy.clone())
            };
            let version = format!("{}-{:04}", group.group_id, BUILDS);
            let run = RunRecord {
                status: Status::Succeeded,
                finished_at: Some(FIRST * DAY),
                device_seconds: 10.0,
                model_version: Some(version),
                ..RunRecord::queued(spec, "trigger", None, (FIRST - (INFERS + BUILDS - number)) * DAY)
            };
            env.metadata.insert_run(&run).await?;
            if pipeline == Pipeline::Build {
                let metrics = json!({"mase": 0.8, "wql": 0.1, "champion_wql": 0.11});
                let model = ModelRecord {
                    version: format!("{}-{:04}", group.group_id, number + 1),
                    group_id: group.group_id.clone(),
                    run_id,
                    forecaster: policy.model.clone(),
                    artifact: String::new(),
                    covariates: Vec::new(),
                    labels: Vec::new(),
                    metrics: metrics.as_object().cloned().unwrap_or_else(Map::new),
                    trained_until: group.origin - 30 * DAY,
                    intervals_version: 1,
                    approval: ApprovalState::Approved,
                    approval_reason: String::new(),
                    created_at: FIRST * DAY + number,
                };
                env.metadata.register_model(&model, &[]).await?;
            }
        }
    }
    Ok(groups.len())
}
