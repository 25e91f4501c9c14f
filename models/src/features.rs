//! What a global model sees of one series at one origin: the window as a whole, and each step of the horizon.
//!
//! All values are normalised by the window's own [`Scale`]. Everything comes from the context, that is from before the
//! origin, and from the calendar. Lags are taken at the phase of the target: "the k-th most recent value at this time
//! of day", "at this time of the week".

use meterline_schemas::Frequency;

use crate::calendar::{CALENDAR_FEATURES, Calendar};
use crate::fill::fill_missing;
use crate::forecaster::NoForecast;
use crate::scaling::Scale;

/// Lags at the phase of the season.
const SEASON_LAGS_MAX: usize = 7;
/// Lags at the phase of the week.
const WEEK_LAGS_MAX: usize = 4;
/// Parts of the last season that a window is summarised in.
const BINS_MAX: usize = 24;
/// Values just before the origin that are given as they are.
const LAST_VALUES: usize = 4;
/// Neighbours of a lag, in units of [`Layout::stride`].
const NEIGHBOURS: [isize; 4] = [-2, -1, 1, 2];
/// Normalised values beyond this are outliers that say no more than "very much".
const CLIP: f32 = 12.0;
/// Leads over which the newest deviation from the season fades, as shares of a season.
const FADING: [f32; 3] = [1.0 / 24.0, 1.0 / 6.0, 1.0];

/// Which features there are, by frequency, context and horizon.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    /// Intervals of context.
    pub context: usize,
    /// Steps of the horizon.
    pub horizon: usize,
    /// Whether the year is a feature: only where at least a whole year is trained on.
    pub with_year: bool,
    season: usize,
    week: Option<usize>,
    season_lags: usize,
    week_lags: usize,
    bins: usize,
    bin: usize,
    stride: usize,
}

impl Layout {
    /// The layout of a frequency; `context` and `horizon` in native intervals.
    pub fn new(frequency: Frequency, context: usize, horizon: usize, with_year: bool) -> Layout {
        let season = frequency.season();
        let context = context.max(season).max(LAST_VALUES);
        let week = match frequency {
            Frequency::Seconds(_) if context >= 7 * season => Some(7 * season),
            _ => None,
        };
        let bin = season.div_ceil(BINS_MAX);
        Layout {
            context,
            horizon: horizon.max(1),
            with_year,
            season,
            week,
            season_lags: (context / season).clamp(1, SEASON_LAGS_MAX),
            week_lags: week.map_or(0, |week| (context / week).min(WEEK_LAGS_MAX)),
            bins: (season / bin).min(context / bin),
            bin,
            stride: (season / 48).max(1),
        }
    }

    /// Features of a window.
    pub fn window_features(&self) -> usize {
        self.bins + self.season_lags + LAST_VALUES + 2 * 3 + 6
    }

    /// Features of one step.
    pub fn step_features(&self) -> usize {
        let neighbours = NEIGHBOURS.len() * if self.week.is_some() { 2 } else { 1 };
        self.season_lags + self.week_lags + neighbours + 5 + 4 + FADING.len() + CALENDAR_FEATURES
    }

    /// Present values that a window needs: a season, and half of its context.
    pub fn needed(&self) -> usize {
        self.season.max(self.context / 2)
    }

    /// Seasons by which gaps are filled, the preferred one first.
    fn seasons(&self) -> Vec<usize> {
        self.week.into_iter().chain([self.season]).collect()
    }

    /// Most recent intervals that level and spread are taken from: a week below a day, else up to four seasons.
    fn scale_length(&self) -> usize {
        self.week.unwrap_or(self.season * (self.context / self.season).clamp(1, 4)).min(self.context)
    }
}

/// One series at one origin.
#[derive(Debug, Clone)]
pub struct Window<'a> {
    layout: &'a Layout,
    /// The context, filled and normalised; exactly `layout.context` long.
    values: Vec<f32>,
    /// Level and spread of the newest part of the context.
    pub scale: Scale,
    /// Mean absolute seasonal difference, normalised.
    seasonal_error: f32,
    missing: f32,
    /// Whether the context has no value below zero.
    pub non_negative: bool,
}

/// The part of a step's features that the network treats apart.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct StepBase {
    /// A plain seasonal forecast, normalised: the network learns what to add to it.
    pub base: f32,
    /// How much the values at this phase usually differ, normalised: the unit in which the network states its spread.
    pub spread: f32,
}

impl<'a> Window<'a> {
    /// `known`: the values before the origin, the newest last; NaN is missing. Only the last `layout.context` count.
    pub fn new(layout: &'a Layout, known: &[f32]) -> Result<Window<'a>, NoForecast> {
        let recent = &known[known.len().saturating_sub(layout.context)..];
        let present = recent.iter().filter(|v| v.is_finite()).count();
        let needed = layout.needed();
        if present < needed {
            return Err(NoForecast::MissingContext { present, needed });
        }
        let mut padded = vec![f32::NAN; layout.context - recent.len()];
        padded.extend_from_slice(recent);
        let Some(mut values) = fill_missing(&padded, &layout.seasons()) else {
            return Err(NoForecast::MissingContext { present: 0, needed });
        };
        let non_negative = values.iter().all(|v| *v >= 0.0);
        let scale = Scale::of(&values[values.len() - layout.scale_length()..]);
        for value in &mut values {
            *value = scale.normalise(*value).clamp(-CLIP, CLIP);
        }
        let pairs = values.iter().zip(values.iter().skip(layout.season));
        let (sum, count) = pairs.fold((0.0, 0.0), |(s, n), (past, now)| (s + (now - past).abs(), n + 1.0_f32));
        Ok(Window {
            layout,
            scale,
            seasonal_error: sum / count.max(1.0),
            missing: 1.0 - present as f32 / layout.context as f32,
            non_negative,
            values,
        })
    }

    /// Value `back` intervals before the origin, 1 being the newest; the oldest one beyond the context.
    fn back(&self, back: usize) -> f32 {
        let index = self.values.len().saturating_sub(back.max(1));
        self.values.get(index).copied().unwrap_or(0.0)
    }

    /// Mean of the `count` values that end `back` intervals before the origin.
    fn mean(&self, back: usize, count: usize) -> f32 {
        let end = self.values.len().saturating_sub(back);
        let part = &self.values[end.saturating_sub(count)..end];
        if part.is_empty() { 0.0 } else { part.iter().sum::<f32>() / part.len() as f32 }
    }

    /// Writes the [`Layout::window_features`] of the window.
    pub fn write_window(&self, out: &mut [f32]) {
        let layout = self.layout;
        let mut put = Writer::new(out);
        for i in 0..layout.bins {
            put.push(self.mean(i * layout.bin, layout.bin));
        }
        for k in 0..layout.season_lags {
            put.push(self.mean(k * layout.season, layout.season));
        }
        for back in 1..=LAST_VALUES {
            put.push(self.back(back));
        }
        // How the newest values compare with the same time a season and a week ago.
        for count in [1, (layout.season / 8).max(1), (layout.season / 2).max(1)] {
            let newest = self.mean(0, count);
            put.push(newest - self.mean(layout.season, count));
            put.push(newest - self.mean(layout.week.unwrap_or(layout.season), count));
        }
        let size = self.scale.level / self.scale.spread;
        put.push(size.asinh());
        put.push(self.seasonal_error);
        put.push((self.seasonal_error + 1e-3).ln());
        put.push(self.missing);
        put.push(if self.non_negative { 1.0 } else { 0.0 });
        put.push((self.values.iter().map(|v| v * v).sum::<f32>() / self.values.len().max(1) as f32).sqrt());
    }

    /// Writes the [`Layout::step_features`] of forecast step `step` (from 0). `origin` is the index of the first step
    /// in `calendar`.
    pub fn write_step(&self, step: usize, calendar: &Calendar, origin: i64, out: &mut [f32]) -> StepBase {
        let layout = self.layout;
        let target = calendar.step(origin + step as i64);
        let mut put = Writer::new(out);
        // Intervals from the most recent value at the target's phase to the origin; 1 is the newest value.
        let first = layout.season * (step / layout.season + 1) - step;
        let seasons_ahead = step / layout.season + 1;
        let (mut sum, mut squares, mut same_sum, mut same_count) = (0.0, 0.0, 0.0, 0.0_f32);
        let mut lags = 0.0_f32;
        for k in 0..layout.season_lags {
            let back = first + k * layout.season;
            if back > layout.context {
                // The oldest lag lies before the context; the mean of the others says most about it.
                put.push(sum / lags.max(1.0));
                continue;
            }
            let value = self.back(back);
            put.push(value);
            lags += 1.0;
            sum += value;
            squares += value * value;
            let day = calendar.step(origin + step as i64 - ((k + seasons_ahead) * layout.season) as i64);
            if day.is_weekend() == target.is_weekend() {
                same_sum += value;
                same_count += 1.0;
            }
        }
        let mean = sum / lags.max(1.0);
        let deviation = (squares / lags.max(1.0) - mean * mean).max(0.0).sqrt();
        let same = if same_count > 0.0 { same_sum / same_count } else { mean };
        let (mut week_sum, mut week_count, mut week_first) = (0.0, 0.0_f32, first);
        if let Some(week) = layout.week {
            week_first = week * (step / week + 1) - step;
            for j in 0..layout.week_lags {
                let back = week_first + j * week;
                let value = if back <= layout.context { self.back(back) } else { week_sum / week_count.max(1.0) };
                put.push(value);
                week_sum += value;
                week_count += 1.0;
            }
        }
        let week_mean = if week_count > 0.0 { week_sum / week_count } else { mean };
        let mut around = 0.0;
        for anchor in [Some(first), layout.week.map(|_| week_first)].into_iter().flatten() {
            let centre = self.back(anchor);
            for offset in NEIGHBOURS {
                // Towards the origin, but never beyond it.
                let back = anchor.saturating_add_signed(-offset * layout.stride as isize).max(1);
                let value = self.mean(back - 1, layout.stride);
                put.push(value);
                around += (value - centre).abs();
            }
        }
        let neighbours = (NEIGHBOURS.len() * if layout.week.is_some() { 2 } else { 1 }) as f32;
        let base = if layout.week.is_some() { 0.5 * same + 0.5 * week_mean } else { same };
        let spread = 0.05 + 0.5 * deviation + 0.2 * around / neighbours + 0.2 * self.seasonal_error;
        for value in [mean, deviation, same, base, spread] {
            put.push(value);
        }
        let lead = step as f32 / layout.season as f32;
        put.push(step as f32 / layout.horizon as f32);
        put.push((step as f32 + 1.0).ln() / (layout.horizon as f32 + 1.0).ln());
        put.push(seasons_ahead as f32 - 1.0);
        put.push(if step < layout.season { 1.0 } else { 0.0 });
        let newest = self.mean(0, layout.stride) - self.mean(layout.season, layout.stride);
        for share in FADING {
            put.push(newest * (-lead / share).exp());
        }
        put.with(CALENDAR_FEATURES, |out| target.write(layout.with_year, out));
        StepBase { base, spread }
    }
}

/// Fills a slice from its beginning; what does not fit is left out.
struct Writer<'a> {
    out: &'a mut [f32],
    at: usize,
}

impl<'a> Writer<'a> {
    fn new(out: &'a mut [f32]) -> Writer<'a> {
        Writer { out, at: 0 }
    }

    fn push(&mut self, value: f32) {
        if let Some(slot) = self.out.get_mut(self.at) {
            *slot = value.clamp(-CLIP, CLIP);
        }
        self.at += 1;
    }

    fn with(&mut self, count: usize, write: impl FnOnce(&mut [f32])) {
        if let Some(part) = self.out.get_mut(self.at..self.at + count) {
            write(part);
        }
        self.at += count;
    }
}
