//! `bench/run reconcile`: how long the step `reconcile` of a run takes: from what is known of the meters' labels to
//! forecasts that add up, without reading and writing them.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use jiff::tz::TimeZone;
use meterline::ingest::rollup::saved::SavedMember;
use meterline::metadata::records::{Pipeline, RunSpec};
use meterline::pipelines::artifacts::Prediction;
use meterline::pipelines::infer::backcast;
use meterline::pipelines::infer::reconcile::hierarchy::{Hierarchy, Scope};
use meterline::pipelines::infer::reconcile::reconcile;
use meterline::pipelines::infer::reconcile::weights::Errors;
use meterline_bench::report::{alone, print};
use meterline_models::data::{Panel, Series};
use meterline_models::forecaster::SeriesForecast;
use meterline_schemas::config::{Config, FeedConfig, Reconcile, RollupConfig, resolve_policy};
use meterline_schemas::quantiles::LEVELS;
use meterline_schemas::unit::Unit;
use meterline_schemas::{Frequency, Micros};
use serde_json::Value;

const FREQUENCY: Frequency = Frequency::QUARTER_HOUR;
/// Intervals that are known of each series.
const CONTEXT: usize = 96;

/// Time of the step that makes forecasts of roll-ups agree with those of their parts
#[derive(Debug, Parser)]
struct Args {
    /// Meters
    #[arg(long, default_value_t = 30_000)]
    meters: usize,
    /// Feeders that they are of
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    feeders: u64,
    /// Regions that the feeders are of
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    regions: u64,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let mut rows = Vec::new();
    for (way, name) in [(Reconcile::BottomUp, "bottom_up"), (Reconcile::MinTrace, "min_trace")] {
        rows.extend(measure(&args, way, name)?);
    }
    print("reconcile", &rows, args.json);
    Ok(())
}

fn measure(args: &Args, way: Reconcile, name: &str) -> Result<Vec<Value>, Box<dyn Error>> {
    let spec = spec();
    let horizon = spec.policy.horizon;
    let members: Vec<SavedMember> = (0..args.meters).map(|number| member(args, number)).collect();
    let began = Instant::now();
    let scope = Scope::new(&config(way), &spec)?.ok_or("nothing to be reconciled")?;
    let mut hierarchy = Hierarchy::default();
    for member in &members {
        hierarchy.take(&scope, member);
    }
    let assembled = began.elapsed().as_secs_f64();

    let meters = members.iter().map(|member| member.series.to_string());
    let all: Vec<String> = meters.chain(hierarchy.groups.iter().map(|group| group.series.to_string())).collect();
    let sizes: Vec<f32> = (0..args.meters).map(|_| 1.0).chain(sizes(&hierarchy)).collect();
    let value = |number: usize, interval: usize| 1.0 + noise(number, interval);
    // The forecasts of roll-ups are a few per cent off what their parts add up to.
    let forecast = |number: usize, interval: usize| match number < args.meters {
        true => value(number, interval),
        false => sizes[number] * (1.4 + 0.2 * noise(number, interval)),
    };
    let error = |number: usize, interval: usize| sizes[number].sqrt() * (noise(number, interval + horizon) - 0.5);
    let mut predictions: Vec<Prediction> = (0..all.len())
        .map(|number| prediction(&all[number], spec.origin, (0..horizon).map(|i| forecast(number, i).into()).collect()))
        .collect();
    let from = FREQUENCY.advance(spec.origin, -(CONTEXT as i64), &TimeZone::UTC);
    let context = panel(&all, from, CONTEXT, value);
    let backcast = backcast::origin(&spec, &TimeZone::UTC);
    let errors = Errors::new(panel(&all, backcast, horizon, error), backcast, horizon);
    let began = Instant::now();
    let done = reconcile(&mut predictions, &scope, &hierarchy, &context, &errors, horizon);
    let seconds = began.elapsed().as_secs_f64();
    if done.reconciled != hierarchy.groups.len() {
        return Err(format!("{} of {} roll-ups agree: {done:?}", done.reconciled, hierarchy.groups.len()).into());
    }
    Ok(vec![alone(&format!("{name}_assemble"), assembled, "s"), alone(&format!("{name}_reconcile"), seconds, "s")])
}

fn config(way: Reconcile) -> Config {
    let mut config = Config::default();
    let labels = ["feeder", "region"].map(|label| (label.to_owned(), label.to_owned()));
    config.feed.insert("meters".into(), FeedConfig { labels: labels.into(), ..FeedConfig::new("t", "s", "t", "v") });
    config
        .rollup
        .insert("grid".into(), RollupConfig { reconcile: Some(way), ..RollupConfig::new(&["region", "feeder"]) });
    config
}

fn spec() -> RunSpec {
    RunSpec {
        run_id: "bench".into(),
        pipeline: Pipeline::Infer,
        group_id: FREQUENCY.to_string(),
        frequency: FREQUENCY,
        zone: "UTC".into(),
        origin: FREQUENCY.floor(1_704_067_200_000_000, &TimeZone::UTC),
        closed_intervals: 0,
        watermark: 0,
        intervals_version: 0,
        covariates: Vec::new(),
        policy: resolve_policy(FREQUENCY, &BTreeMap::new()),
        device: "cpu".into(),
    }
}

fn member(args: &Args, number: usize) -> SavedMember {
    let feeder = number as u64 % args.feeders;
    let label = |name: &str, value: u64| (Arc::from(name), Arc::from(format!("{name}{value}")));
    SavedMember {
        series: format!("meter{number}").into(),
        feed: Some("meters".into()),
        unit: Some(Unit::KWH),
        began: vec![(0, FREQUENCY)],
        runs: vec![(0, 1, vec![label("feeder", feeder), label("region", feeder % args.regions)])],
        given: Vec::new(),
    }
}

/// Numbers between 0 and 1 that differ from series to series and from interval to interval.
fn noise(number: usize, interval: usize) -> f32 {
    let mixed = (number as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)
        ^ (interval as u64 + 1).wrapping_mul(0xD1B5_4A32_D192_ED03);
    (mixed.wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40) as f32 / (1 << 24) as f32
}

fn prediction(id: &str, origin: Micros, mean: Vec<f64>) -> Prediction {
    let quantiles = mean.iter().map(|mean| LEVELS.map(|level| mean * (0.5 + level))).collect();
    Prediction {
        series_id: id.to_owned(),
        origin,
        unit: "kWh".into(),
        scale: None,
        model_version: "bench".into(),
        substituted: false,
        forecast: SeriesForecast { mean, quantiles },
    }
}

/// Meters of each group.
fn sizes(hierarchy: &Hierarchy) -> Vec<f32> {
    let mut sizes: Vec<f32> = hierarchy.groups.iter().map(|group| group.members.len() as f32).collect();
    for (number, group) in hierarchy.groups.iter().enumerate().rev() {
        if let Some(above) = group.above {
            sizes[above] += sizes[number];
        }
    }
    sizes
}

fn panel(ids: &[String], from: Micros, intervals: usize, of: impl Fn(usize, usize) -> f32) -> Panel {
    let values = |number: usize| (0..intervals).map(|interval| of(number, interval)).collect();
    let series = ids.iter().enumerate().map(|(number, id)| Series::new(id.clone(), from, values(number)));
    Panel::new(FREQUENCY, TimeZone::UTC, series.collect())
}
