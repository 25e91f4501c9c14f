//! How long the step takes, from what is known of the meters' labels to forecasts that add up, without reading and
//! writing them.

use std::error::Error;
use std::time::Instant;

use jiff::tz::TimeZone;
use meterline::ingest::rollup::saved::SavedMember;
use meterline::pipelines::artifacts::Prediction;
use meterline::pipelines::infer::backcast;
use meterline::pipelines::infer::reconcile::hierarchy::{Hierarchy, Scope};
use meterline::pipelines::infer::reconcile::reconcile;
use meterline::pipelines::infer::reconcile::weights::Errors;
use meterline_models::data::{Panel, Series};
use meterline_models::forecaster::SeriesForecast;
use meterline_schemas::config::Reconcile;
use meterline_schemas::quantiles::LEVELS;
use meterline_schemas::{Frequency, Micros};
use serde_json::Value;

use super::{config, member, prediction, spec};
use crate::report::alone;

const FREQUENCY: Frequency = Frequency::QUARTER_HOUR;
/// 2024-01-01T00:00:00Z.
const ORIGIN: Micros = 1_704_067_200_000_000;
/// Intervals that are known of each series.
const CONTEXT: usize = 96;

/// How many there are; each feeder is of one region, and each meter of one feeder.
#[derive(Debug, Clone, Copy)]
pub struct Fleet {
    /// Meters.
    pub meters: usize,
    /// Feeders, at least 1.
    pub feeders: usize,
    /// Regions, at least 1.
    pub regions: usize,
}

impl Fleet {
    fn member(&self, number: usize) -> SavedMember {
        let feeder = number % self.feeders;
        member(&format!("meter{number}"), FREQUENCY, &format!("r{}", feeder % self.regions), &format!("f{feeder}"))
    }
}

/// Seconds of both parts of the step, for one way.
///
/// # Errors
/// Some roll-ups do not agree with their parts afterwards.
pub fn measure(fleet: Fleet, way: Reconcile, name: &str) -> Result<Vec<Value>, Box<dyn Error>> {
    let spec = spec(FREQUENCY, ORIGIN);
    let horizon = spec.policy.horizon;
    let members: Vec<SavedMember> = (0..fleet.meters).map(|number| fleet.member(number)).collect();
    let began = Instant::now();
    let scope = Scope::new(&config(way), &spec)?.ok_or("nothing to be reconciled")?;
    let mut hierarchy = Hierarchy::default();
    for member in &members {
        hierarchy.take(&scope, member);
    }
    let assembled = began.elapsed().as_secs_f64();

    let meters = members.iter().map(|member| member.series.to_string());
    let all: Vec<String> = meters.chain(hierarchy.groups.iter().map(|group| group.series.to_string())).collect();
    let sizes: Vec<f32> = (0..fleet.meters).map(|_| 1.0).chain(sizes(&hierarchy)).collect();
    let value = |number: usize, interval: usize| 1.0 + noise(number, interval);
    // The forecasts of roll-ups are a few per cent off what their parts add up to.
    let forecast = |number: usize, interval: usize| match number < fleet.meters {
        true => value(number, interval),
        false => sizes[number] * (1.4 + 0.2 * noise(number, interval)),
    };
    let error = |number: usize, interval: usize| sizes[number].sqrt() * (noise(number, interval + horizon) - 0.5);
    let mut predictions: Vec<Prediction> = (0..all.len())
        .map(|number| prediction(&all[number], spec.origin, spread((0..horizon).map(|i| forecast(number, i).into()))))
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

/// Numbers between 0 and 1 that differ from series to series and from interval to interval.
fn noise(number: usize, interval: usize) -> f32 {
    let mixed = (number as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)
        ^ (interval as u64 + 1).wrapping_mul(0xD1B5_4A32_D192_ED03);
    (mixed.wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40) as f32 / (1 << 24) as f32
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

fn spread(means: impl Iterator<Item = f64>) -> SeriesForecast {
    let mean: Vec<f64> = means.collect();
    let quantiles = mean.iter().map(|mean| LEVELS.map(|level| mean * (0.5 + level))).collect();
    SeriesForecast { mean, quantiles }
}
