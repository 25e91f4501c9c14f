//! One series, with what rows need of it: filled, with running sums, its calendar and its covariates.

use std::collections::HashMap;

use jiff::civil::Date;
use meterline_schemas::Micros;
use meterline_schemas::time::DAY;

use super::parts::Wanted;
use super::seen::Seen;
use super::smooth::{PARTS_OF_SEASON, Smooth, exact_mean_of, sums};
use crate::calendar::local;
use crate::data::{Column, Known, Panel, Series};
use crate::fill::fill_missing;
use crate::holidays::{DayType, Holidays};
use crate::sun::{Sunlight, sunlight};

// One series, with what rows need of it.
pub(super) struct Prepared {
    pub filled: Vec<f32>,
    pub sums: Vec<f64>,
    pub squares: Vec<f64>,
    pub days: Vec<Day>,
    // By interval: its day, and the share of the local day that has passed.
    pub of_day: Vec<(u32, f32)>,
    pub covariates: Vec<Smooth>,
    pub sun: Option<Sun>,
    // The same in each row.
    pub labels: Vec<f32>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Day {
    pub weekday: u8,
    pub kind: DayType,
    pub holiday: bool,
    pub beside: (bool, bool),
    // Of the days around it.
    pub holidays_near: f32,
    pub of_year: f32,
    pub year_end: [f32; 3],
}

// What its intervals have of the sun.
pub(super) struct Sun {
    pub on_ground: Smooth,
    pub elevation: Vec<f32>,
}

/// What other series have had of days and intervals: both take long to look up.
#[derive(Default)]
pub(super) struct Found {
    days: HashMap<Date, Day>,
    sunlight: HashMap<Micros, Sunlight>,
}

impl Prepared {
    // A series without a value has no row.
    pub fn none() -> Prepared {
        Prepared {
            filled: Vec::new(),
            sums: vec![0.0],
            squares: vec![0.0],
            days: Vec::new(),
            of_day: Vec::new(),
            covariates: Vec::new(),
            sun: None,
            labels: Vec::new(),
        }
    }

    // Of the `count` values before `end`.
    pub fn spread(&self, end: usize, count: usize) -> f64 {
        let (mean, square) = (exact_mean_of(&self.sums, end, count), exact_mean_of(&self.squares, end, count));
        // A series that stands still has some all the same, to be divided by.
        (square - mean * mean).max(0.0).sqrt().max(0.02 * square.sqrt()).max(1e-6)
    }

    /// `None` of a series without a value.
    pub fn new(panel: &Panel, series: &Series, seen: &Seen, wanted: Wanted<'_>, found: &mut Found) -> Option<Prepared> {
        let Wanted { horizon, holidays, .. } = wanted;
        let season = panel.frequency.season();
        let filled = fill_missing(&series.values, &[7 * season, season])?;
        let (days, of_day) = calendar(panel, series, (holidays, &mut found.days), filled.len() + horizon);
        let sun = wanted.location.map(|location| {
            let at = |interval: usize| panel.frequency.advance(series.start, interval as i64, &panel.zone);
            let of = |interval: usize| {
                let light = found.sunlight.entry(at(interval));
                *light.or_insert_with_key(|start| sunlight(location, *start, at(interval + 1)))
            };
            let light: Vec<Sunlight> = (0..filled.len() + horizon).map(of).collect();
            Sun {
                on_ground: Smooth::new(light.iter().map(|light| light.on_ground).collect(), &[], 1),
                elevation: light.iter().map(|light| light.elevation).collect(),
            }
        });
        let stride = season.div_ceil(PARTS_OF_SEASON).max(1);
        let column = |((known, knots), column): ((Known, &[f32]), &Column)| {
            let end = match known {
                Known::Ahead => filled.len() + horizon,
                Known::Past => filled.len(),
            };
            let raw: Vec<f32> = (0..end as i64).map(|interval| column.at(interval)).collect();
            Smooth::new(fill_missing(&raw, &[season]).unwrap_or(raw), knots, stride)
        };
        let known = panel.covariates.iter().map(|covariate| covariate.known).zip(seen.knots());
        Some(Prepared {
            sums: sums(filled.iter().map(|value| f64::from(*value))),
            squares: sums(filled.iter().map(|value| f64::from(*value).powi(2))),
            days,
            of_day,
            covariates: known.zip(&series.covariates).map(column).collect(),
            sun,
            labels: seen.labels.iter().flat_map(|label| label.features(panel, series)).collect(),
            filled,
        })
    }
}

// How far a day is into the run-up to the end of the year, whether it is one of the days between the years, and how much
// is left of what comes after them: much stands still then that has no public holiday.
fn year_end(date: Date) -> [f32; 3] {
    let day = f32::from(date.day());
    match (date.month(), date.day()) {
        (12, 17..24) => [(day - 16.0) / 8.0, 0.0, 0.0],
        (12, 24..) | (1, 1) => [0.0, 1.0, 0.0],
        (1, 2..16) => [0.0, 0.0, (16.0 - day) / 14.0],
        _ => [0.0; 3],
    }
}

fn calendar(
    panel: &Panel,
    series: &Series,
    (holidays, known): (&Holidays, &mut HashMap<Date, Day>),
    count: usize,
) -> (Vec<Day>, Vec<(u32, f32)>) {
    let mut days: Vec<Day> = Vec::new();
    let mut of_day = Vec::with_capacity(count);
    let mut last: Option<Date> = None;
    for interval in 0..count {
        let at = panel.frequency.advance(series.start, interval as i64, &panel.zone);
        let local = local(at, &panel.zone).unwrap_or_default();
        if last != Some(local.date()) {
            last = Some(local.date());
            days.push(*known.entry(local.date()).or_insert_with(|| Day {
                weekday: local.weekday().to_monday_zero_offset().unsigned_abs(),
                kind: holidays.day_type(local.date()),
                holiday: holidays.contains(local.date()),
                beside: holidays.neighbours(local.date()),
                holidays_near: holidays.near(local.date()),
                of_year: f32::from(local.day_of_year() - 1) / 366.0,
                year_end: year_end(local.date()),
            }));
        }
        let passed = local.time().duration_since(jiff::civil::Time::midnight()).as_micros() as f64 / DAY as f64;
        of_day.push((days.len() as u32 - 1, passed as f32));
    }
    (days, of_day)
}
