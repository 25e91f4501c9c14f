//! From a panel to batches: which windows and steps are trained on, and their features side by side.

use meterline_schemas::Micros;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::calendar::Calendar;
use crate::data::Panel;
use crate::features::{Layout, Window};

/// A panel with its calendar.
pub struct Grid<'a> {
    panel: &'a Panel,
    layout: &'a Layout,
    calendar: Calendar,
    /// Index of each series' first interval in the calendar.
    offsets: Vec<usize>,
    length: usize,
}

/// One window and the steps of it that are looked at.
#[derive(Debug, Clone)]
pub struct Pick {
    /// Index of the series.
    pub series: usize,
    /// Number of values that are known: the index of the first step.
    pub origin: usize,
    /// Steps, each below the horizon.
    pub steps: Vec<usize>,
}

/// The features of a batch. Rows are (window, step) pairs, window by window.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Windows.
    pub windows: usize,
    /// Steps of each window.
    pub steps: usize,
    /// `windows × window_features`
    pub window: Vec<f32>,
    /// `rows × step_features`
    pub step: Vec<f32>,
    /// Normalised seasonal base of each row.
    pub base: Vec<f32>,
    /// Normalised spread of each row.
    pub spread: Vec<f32>,
    /// Normalised actual of each row; 0 where it is missing.
    pub target: Vec<f32>,
    /// Weight of each row in the loss; 0 where the actual or the context is missing.
    pub weight: Vec<f32>,
}

/// Weight of a window in the loss by its spread relative to the mean spread of the panel. Between the two extremes,
/// 0 (every series counts the same, as in MASE) and 1 (every kWh counts the same, as in wQL).
const SIZE_EXPONENT: f32 = 0.5;

impl<'a> Grid<'a> {
    /// The grid of `panel` and `horizon` steps beyond its end.
    pub fn new(panel: &'a Panel, layout: &'a Layout, horizon: usize) -> Grid<'a> {
        let (frequency, zone) = (panel.frequency, &panel.zone);
        let base: Micros = panel.series.iter().map(|s| s.start).min().unwrap_or(0);
        let offset = |start| frequency.steps_between(base, start, zone).max(0) as usize;
        let offsets: Vec<usize> = panel.series.iter().map(|s| offset(s.start)).collect();
        let ends = offsets.iter().zip(&panel.series).map(|(offset, s)| offset + s.values.len());
        let length = ends.max().unwrap_or(0);
        let calendar = Calendar::new(frequency, zone, base, length + horizon);
        Grid { panel, layout, calendar, offsets, length }
    }

    /// Intervals from the first to the last of the panel.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The windows of a series: its known values and the index of the first step on the grid.
    pub fn window(&self, series: usize, origin: usize) -> (&'a [f32], i64) {
        let values = &self.panel.series[series].values;
        (&values[..origin.min(values.len())], (self.offsets[series] + origin) as i64)
    }

    /// Draws windows whose origins and targets lie in `from..until` on the grid (targets may begin at the origin).
    pub fn sampler(&self, from: usize, until: usize) -> Sampler {
        let needed = self.layout.needed();
        let mut ranges = Vec::new();
        let mut total = 0_u64;
        for (series, offset) in self.offsets.iter().enumerate() {
            let first = from.saturating_sub(*offset).max(needed);
            let last = until.saturating_sub(*offset).min(self.panel.series[series].values.len());
            if first < last {
                total += (last - first) as u64;
                ranges.push(OriginRange { series, last, cumulative: total });
            }
        }
        Sampler { ranges, total, horizon: self.layout.horizon }
    }

    /// What each series weighs in the loss, by its mean absolute change from interval to interval.
    pub fn sizes(&self) -> Vec<f32> {
        let size = |values: &[f32]| {
            let scale = |w: &[f32]| f64::from((w[1] - w[0]).abs());
            let differences: Vec<f64> = values.windows(2).map(scale).filter(|d| d.is_finite()).collect();
            if differences.is_empty() { 0.0 } else { differences.iter().sum::<f64>() / differences.len() as f64 }
        };
        let sizes: Vec<f64> = self.panel.series.par_iter().map(|s| size(&s.values)).collect();
        let mean = (sizes.iter().sum::<f64>() / sizes.len().max(1) as f64).max(1e-12);
        sizes.iter().map(|s| ((s / mean) as f32).clamp(0.01, 30.0).powf(SIZE_EXPONENT)).collect()
    }

    /// The features of `picks`, all with the same number of steps.
    pub fn batch(&self, picks: &[Pick], sizes: &[f32]) -> Batch {
        let layout = self.layout;
        let (width, step_width) = (layout.window_features(), layout.step_features());
        let steps = picks.first().map_or(0, |p| p.steps.len());
        let rows = picks.len() * steps;
        let mut batch = Batch {
            windows: picks.len(),
            steps,
            window: vec![0.0; picks.len() * width],
            step: vec![0.0; rows * step_width],
            base: vec![0.0; rows],
            spread: vec![0.0; rows],
            target: vec![0.0; rows],
            weight: vec![0.0; rows],
        };
        if rows == 0 {
            return batch;
        }
        let parts = batch
            .window
            .par_chunks_mut(width)
            .zip(batch.step.par_chunks_mut(step_width * steps))
            .zip(batch.base.par_chunks_mut(steps).zip(batch.spread.par_chunks_mut(steps)))
            .zip(batch.target.par_chunks_mut(steps).zip(batch.weight.par_chunks_mut(steps)));
        parts.zip(picks).for_each(|((((window_out, step_out), (base, spread)), (target, weight)), pick)| {
            let (known, origin) = self.window(pick.series, pick.origin);
            let Ok(window) = Window::new(layout, known) else { return };
            window.write_window(window_out);
            let series = &self.panel.series[pick.series];
            for (i, step) in pick.steps.iter().enumerate() {
                let out = &mut step_out[i * step_width..(i + 1) * step_width];
                let row = window.write_step(*step, &self.calendar, origin, out);
                base[i] = row.base;
                spread[i] = row.spread;
                let interval = pick.origin + step;
                if let Some(actual) = series.values.get(interval).filter(|v| v.is_finite()) {
                    target[i] = window.scale.normalise(*actual).clamp(-20.0, 20.0);
                    weight[i] = sizes.get(pick.series).copied().unwrap_or(1.0) * series.weight(interval);
                }
            }
        });
        batch
    }
}

struct OriginRange {
    series: usize,
    last: usize,
    cumulative: u64,
}

/// Draws windows, every (series, origin) pair with the same probability.
pub struct Sampler {
    ranges: Vec<OriginRange>,
    total: u64,
    horizon: usize,
}

impl Sampler {
    /// Number of (series, origin) pairs.
    pub fn windows(&self) -> u64 {
        self.total
    }

    /// One window with `steps` steps spread over its horizon, as far as that lies in the range; `None` without any.
    pub fn draw(&self, steps: usize, random: &mut ChaCha8Rng) -> Option<Pick> {
        if self.total == 0 {
            return None;
        }
        let at = random.random_range(0..self.total);
        let range = self.ranges.get(self.ranges.partition_point(|r| r.cumulative <= at))?;
        let origin = range.last - (range.cumulative - at) as usize;
        let reach = self.horizon.min(range.last - origin);
        // One step from each of equal parts, so that every window shows its whole horizon.
        let part = reach as f64 / steps.max(1) as f64;
        let step = |i: usize| (((i as f64 + random.random::<f64>()) * part) as usize).min(reach - 1);
        Some(Pick { series: range.series, origin, steps: (0..steps).map(step).collect() })
    }
}
