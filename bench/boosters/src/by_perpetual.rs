//! perpetual: it has a budget instead of parameters, and decides itself how many trees of what size it grows.

use std::collections::BTreeMap;
use std::time::Instant;

use cpu_time::ProcessTime;
use perpetual::objective::Objective;
use perpetual::{Matrix, PerpetualBooster};

use crate::Failure;
use crate::job::{Job, Measured, Rows};
use crate::levels::{each_level, joined, spread};

/// Seconds after which a level gets no more trees. One takes some thirty with 28,800 rows.
const LEVEL_SECONDS_MAX: f32 = 60.0;

/// One model a level, with the budget that is its default, 0.5.
///
/// # Errors
/// The rows are refused.
pub fn model_per_level(job: &Job, rows: &Rows) -> Result<BTreeMap<String, Measured>, Failure> {
    eprintln!("perpetual: {} rows, {} levels", job.trained, job.levels.len());
    let wide = |values: &[f32]| -> Vec<f64> { values.iter().map(|value| f64::from(*value)).collect() };
    let (targets, weights) = (wide(&rows.targets), wide(&rows.weights));
    let features = |held_out: bool| rows.columns(held_out).flat_map(wide).collect::<Vec<f64>>();
    let (features, of_held_out) = (features(false), features(true));
    let data = Matrix::new(&features, job.trained, job.features);
    let held_out = Matrix::new(&of_held_out, rows.held_out(), job.features);

    let cpu = ProcessTime::now();
    let models = each_level(&job.levels, |_, level| {
        let begun = Instant::now();
        let objective = Objective::QuantileLoss { quantile: Some(level) };
        let mut model = PerpetualBooster::default()
            .set_objective(objective)
            .set_num_threads(Some(1))
            .set_timeout(Some(LEVEL_SECONDS_MAX));
        model.fit(&data, &targets, Some(&weights), None)?;
        Ok((model, begun.elapsed().as_secs_f64()))
    })?;
    let cpu_s = cpu.elapsed().as_secs_f64();
    let ends: Vec<&[f64]> = models.iter().map(|(_, end)| std::slice::from_ref(end)).collect();
    let predicted: Vec<Vec<f64>> = models.iter().map(|(model, _)| model.predict(&held_out, true)).collect();
    let predicted = joined(rows.held_out(), &predicted);
    Ok(BTreeMap::from([("default".to_owned(), Measured { seconds: spread(&ends), cpu_s, predicted })]))
}
