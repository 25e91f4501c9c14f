//! The step `reconcile` of infer runs: how long it takes ([`speed`]), and what it makes of forecasts of real load
//! ([`accuracy`]).

pub mod accuracy;
pub mod speed;

use std::collections::BTreeMap;
use std::sync::Arc;

use meterline::ingest::rollup::saved::SavedMember;
use meterline::metadata::records::{Pipeline, RunSpec};
use meterline::pipelines::artifacts::Prediction;
use meterline_models::forecaster::SeriesForecast;
use meterline_schemas::config::{Config, FeedConfig, Reconcile, RollupConfig, resolve_policy};
use meterline_schemas::unit::Unit;
use meterline_schemas::{Frequency, Micros};

/// A roll-up by region and feeder, of one feed.
fn config(way: Reconcile) -> Config {
    let mut config = Config::default();
    let labels = ["feeder", "region"].map(|label| (label.to_owned(), label.to_owned()));
    config.feed.insert("meters".into(), FeedConfig { labels: labels.into(), ..FeedConfig::new("t", "s", "t", "v") });
    let rollup = RollupConfig { reconcile: Some(way), ..RollupConfig::new(&["region", "feeder"]) };
    config.rollup.insert("grid".into(), rollup);
    config
}

/// An infer run with the default policy.
fn spec(frequency: Frequency, origin: Micros) -> RunSpec {
    RunSpec {
        run_id: "bench".into(),
        pipeline: Pipeline::Infer,
        published: None,
        group_id: frequency.to_string(),
        frequency,
        zone: "UTC".into(),
        origin,
        closed_intervals: 0,
        corrections: None,
        watermark: 0,
        intervals_version: 0,
        covariates: Vec::new(),
        policy: resolve_policy(frequency, &BTreeMap::new()),
        device: "cpu".into(),
    }
}

/// What roll-ups know of a meter.
fn member(series: &str, frequency: Frequency, region: &str, feeder: &str) -> SavedMember {
    let labels = [("feeder", feeder), ("region", region)].map(|(label, value)| (Arc::from(label), Arc::from(value)));
    SavedMember {
        series: series.into(),
        feed: Some("meters".into()),
        unit: Some(Unit::KWH),
        began: vec![(0, frequency)],
        runs: vec![(0, 1, labels.into())],
        given: Vec::new(),
    }
}

fn prediction(series: &str, origin: Micros, forecast: SeriesForecast) -> Prediction {
    Prediction {
        series_id: series.to_owned(),
        origin,
        unit: "kWh".into(),
        scale: None,
        model_version: "bench".into(),
        substituted: false,
        forecast,
    }
}
