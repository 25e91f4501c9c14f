//! What reconciliation makes of forecasts of real load: ten clients of protocol P1, two groups of five, and all.

use std::path::Path;

use meterline::ingest::rollup::saved::SavedMember;
use meterline::pipelines::artifacts::Prediction;
use meterline::pipelines::history::History;
use meterline::pipelines::infer::backcast;
use meterline::pipelines::infer::reconcile::hierarchy::{Hierarchy, Scope};
use meterline::pipelines::infer::reconcile::reconcile;
use meterline::pipelines::infer::reconcile::weights::Errors;
use meterline_models::data::{Panel, Series};
use meterline_models::forecaster::{Forecaster, Task};
use meterline_models::metrics::is_decile;
use meterline_schemas::config::Reconcile;
use meterline_schemas::quantiles::LEVELS;
use meterline_schemas::{Frequency, Micros};
use serde_json::Value;

use super::{config, member, prediction, spec};
use crate::quality::models::{Fitted, fit};
use crate::quality::{Protocol, p1};
use crate::report::{alone, compared};

/// Hours that models look at.
const CONTEXT: usize = 28 * 24;
const HOURLY: Frequency = Frequency::HOUR;

/// The levels of the tree, by what identifiers of their series begin with.
const LEVELS_OF_TREE: [(&str, &str); 3] =
    [("all", "rollup.grid:region=all@"), ("groups", "rollup.grid:region=all/"), ("clients", "client_")];

/// Weighted quantile loss of each level as a model of this name forecasts it alone, and after reconciliation.
///
/// # Errors
/// The data cannot be read, or the model cannot be fitted; in words.
pub fn measure(data: &Path, model: &str) -> Result<Vec<Value>, String> {
    let protocol = p1(data)?;
    let members = members(&protocol.panel);
    let panel = with_sums(&protocol.panel, &members)?;
    let task = Task { holidays: protocol.holidays.clone(), ..Task::new(protocol.horizon, CONTEXT, 1) };
    let Fitted { model: fitted, .. } = fit(model, "P1 with sums", &panel.cut(protocol.train_until), &task)?;
    let mut losses = Vec::new();
    for way in [Reconcile::None, Reconcile::BottomUp, Reconcile::MinTrace] {
        let mut of_way = [Loss::default(); LEVELS_OF_TREE.len()];
        for origin in &protocol.origins {
            let found = forecasts(&*fitted, &panel, &members, &protocol, *origin, way)?;
            for (loss, (_, begins)) in of_way.iter_mut().zip(LEVELS_OF_TREE) {
                found.iter().filter(|p| p.series_id.starts_with(begins)).for_each(|p| loss.take(p, &panel));
            }
        }
        losses.push(of_way);
    }
    let [alone_losses, bottom_up, min_trace] = &losses[..] else { return Err("three ways".into()) };
    let mut rows = Vec::new();
    for (level, (name, _)) in LEVELS_OF_TREE.iter().enumerate() {
        let own = alone_losses[level].weighted();
        let of = format!("{model}_{name}");
        rows.push(alone(&of, own, "wQL"));
        for (way, losses) in [("bottom_up", bottom_up), ("min_trace", min_trace)] {
            let loss = losses[level].weighted();
            let mut row = compared(&format!("{of}_{way}"), loss, "each alone", own, "wQL");
            // Less is better.
            row["ratio"] = (own / loss).into();
            rows.push(row);
        }
    }
    Ok(rows)
}

/// Pinball losses and what they are measured by.
#[derive(Debug, Clone, Copy, Default)]
struct Loss {
    pinball: f64,
    actual: f64,
}

impl Loss {
    fn take(&mut self, p: &Prediction, panel: &Panel) {
        let Some(series) = panel.series.iter().find(|s| s.id == p.series_id) else { return };
        let first = HOURLY.steps_between(series.start, p.origin, &panel.zone).max(0) as usize;
        for (quantiles, actual) in p.forecast.quantiles.iter().zip(&series.values[first..]) {
            let actual = f64::from(*actual);
            let deciles: Vec<(&f64, &f64)> =
                LEVELS.iter().zip(quantiles).filter(|(level, _)| is_decile(**level)).collect();
            let losses = deciles.iter().map(|(level, q)| (*level * (actual - *q)).max((*level - 1.0) * (actual - *q)));
            self.pinball += 2.0 * losses.sum::<f64>() / deciles.len() as f64;
            self.actual += actual.abs();
        }
    }

    fn weighted(&self) -> f64 {
        self.pinball / self.actual
    }
}

fn members(panel: &Panel) -> Vec<SavedMember> {
    let half = panel.series.len() / 2;
    let feeder = |number: usize| if number < half { "first" } else { "second" };
    panel.series.iter().enumerate().map(|(number, s)| member(&s.id, HOURLY, "all", feeder(number))).collect()
}

fn hierarchy(members: &[SavedMember], way: Reconcile, origin: Micros) -> Result<Option<(Scope, Hierarchy)>, String> {
    let scope = Scope::new(&config(way), &spec(HOURLY, origin)).map_err(|error| error.to_string())?;
    Ok(scope.map(|scope| {
        let mut hierarchy = Hierarchy::default();
        members.iter().for_each(|member| hierarchy.take(&scope, member));
        (scope, hierarchy)
    }))
}

/// The clients, which all start together, and the series of the groups.
fn with_sums(panel: &Panel, members: &[SavedMember]) -> Result<Panel, String> {
    let (_, hierarchy) = hierarchy(members, Reconcile::BottomUp, 0)?.ok_or("no roll-ups")?;
    let mut sums: Vec<Vec<f32>> = vec![vec![0.0; panel.series[0].values.len()]; hierarchy.groups.len()];
    for (number, group) in hierarchy.groups.iter().enumerate().rev() {
        for s in panel.series.iter().filter(|s| group.members.iter().any(|member| **member == *s.id)) {
            sums[number].iter_mut().zip(&s.values).for_each(|(sum, value)| *sum += value);
        }
        if let Some(above) = group.above {
            let sum = sums[number].clone();
            sums[above].iter_mut().zip(sum).for_each(|(above, value)| *above += value);
        }
    }
    let groups = hierarchy.groups.iter().zip(sums);
    let groups = groups.map(|(group, sum)| Series::new(group.series.to_string(), panel.series[0].start, sum));
    Ok(panel.with(panel.series.iter().cloned().chain(groups).collect()))
}

fn forecasts(
    model: &dyn Forecaster,
    panel: &Panel,
    members: &[SavedMember],
    protocol: &Protocol,
    origin: Micros,
    way: Reconcile,
) -> Result<Vec<Prediction>, String> {
    let horizon = protocol.horizon;
    let forecast = |shown: &Panel, origin: Micros| -> Vec<Prediction> {
        let found = shown.series.iter().zip(model.forecast(shown, horizon));
        found.filter_map(|(s, forecast)| Some(prediction(&s.id, origin, forecast.ok()?))).collect()
    };
    let known = panel.cut(origin);
    let mut predictions = forecast(&known, origin);
    if let Some((scope, hierarchy)) = hierarchy(members, way, origin)? {
        let before = HOURLY.advance(origin, -(horizon as i64), &panel.zone);
        let history = History { units: vec!["kWh".into(); known.series.len()], panel: known };
        let errors = backcast::errors(&history, before, |shown| forecast(&shown.panel, before));
        let errors = Errors::new(errors.panel, before, horizon);
        let done = reconcile(&mut predictions, &scope, &hierarchy, &history.panel, &errors, horizon);
        if done.reconciled != hierarchy.groups.len() {
            return Err(format!("{} of {} roll-ups agree: {done:?}", done.reconciled, hierarchy.groups.len()));
        }
    }
    Ok(predictions)
}
