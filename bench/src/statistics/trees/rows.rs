//! Rows of features as `boosted_trees` makes them of series, and the loss of what is predicted of them.

use jiff::tz::TimeZone;
use meterline_models::booster::{BoosterError, Dataset, Matrix};
use meterline_models::data::{Panel, Series};
use meterline_models::design::Design;
use meterline_models::forecaster::Task;
use meterline_models::metrics::pinball;
use meterline_schemas::Frequency;
use meterline_schemas::quantiles::LEVELS;

use super::super::{DAY, HORIZON, series};

/// Origins of each series that are held out: a week of days.
pub const HELD_OUT: usize = 7;

/// Rows of features, and what is to be predicted of them.
#[derive(Default)]
pub struct Rows {
    /// A column a feature.
    pub columns: Vec<Vec<f32>>,
    /// Values, relative to what is normal of each: in spreads.
    pub targets: Vec<f32>,
    /// Spreads of the rows, relative to those of their series.
    pub weights: Vec<f32>,
    /// Rows of the same forecast have the same number.
    pub groups: Vec<u32>,
}

impl Rows {
    /// The features as our booster takes them.
    ///
    /// # Errors
    /// There are no columns.
    pub fn matrix(&self) -> Result<Matrix, BoosterError> {
        Matrix::from_columns(&self.columns)
    }

    /// All of them as our booster takes them; `matrix` is that of these rows.
    pub fn dataset<'a>(&'a self, matrix: &'a Matrix) -> Dataset<'a> {
        Dataset::new(matrix, &self.targets).with_weights(&self.weights).with_groups(&self.groups)
    }
}

/// The rows of `count` series of `points` values that are trained on, and those that are held out.
pub fn rows(count: usize, points: usize) -> (Rows, Rows) {
    let series = series::loads(count, points).into_iter().enumerate();
    let series = series.map(|(number, values)| Series::new(format!("load-{number}"), 0, values)).collect();
    let panel = Panel::new(Frequency::HOUR, TimeZone::UTC, series);
    let design = Design::new(&panel, &Task::new(HORIZON, HORIZON, 1));
    let empty = || Rows { columns: vec![Vec::new(); design.width() + 1], ..Rows::default() };
    let (mut trained, mut held_out) = (empty(), empty());
    let mut features = vec![0.0; design.width()];
    let mut group = 0;
    for (number, series) in panel.series.iter().enumerate() {
        let origins = points.saturating_sub(design.first_origin()) / DAY;
        for back in (1..=origins).rev() {
            let origin = points - back * DAY;
            let rows = if back <= HELD_OUT { &mut held_out } else { &mut trained };
            for (step, value) in series.values[origin..].iter().take(HORIZON).enumerate() {
                let Some(normal) = design.row(number, origin, step, &mut features) else { continue };
                let all = features.iter().copied().chain([number as f32]);
                rows.columns.iter_mut().zip(all).for_each(|(column, feature)| column.push(feature));
                rows.targets.push(((f64::from(*value) - normal.level) / normal.spread) as f32);
                rows.weights.push((normal.spread / design.spread(number)) as f32);
                rows.groups.push(group);
            }
            group += 1;
        }
    }
    (trained, held_out)
}

/// Mean over rows, by weight, and levels of the pinball loss of `predicted`, rows × levels. That of our booster while it
/// trains is the same, but for levels that cross, which are sorted in what it predicts.
pub fn loss(rows: &Rows, mut predicted: impl Iterator<Item = f64>) -> f64 {
    let (mut losses, mut weights) = (0.0, 0.0);
    for (target, weight) in rows.targets.iter().zip(&rows.weights) {
        let quantiles = predicted.by_ref().take(LEVELS.len()).zip(LEVELS);
        let of_row: f64 = quantiles.map(|(quantile, level)| pinball(f64::from(*target), quantile, level)).sum();
        losses += f64::from(*weight) * of_row / LEVELS.len() as f64;
        weights += f64::from(*weight);
    }
    losses / weights
}
