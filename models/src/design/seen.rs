//! What rows have to know of the panel that a model was fitted to.

use meterline_schemas::Frequency;
use meterline_schemas::time::DAY;
use serde::{Deserialize, Serialize};

use super::labels::SeenLabel;
use crate::data::{Covariate, Known, Panel, Series};
use crate::metrics::empirical_quantile;

/// History from which on the time of year says something, in days.
const YEAR_DAYS_MIN: i64 = 380;
/// Levels of what training saw of a covariate, above which its mean over the last week is told: what heating or cooling
/// the level of that week holds already.
const KNOTS: [f64; 6] = [0.05, 0.2, 0.4, 0.6, 0.8, 0.95];
/// Values of a covariate that its levels are taken from, about.
const KNOT_VALUES: usize = 20_000;

/// What rows have to know of the panel that a model was fitted to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    // Whether some series had a whole year: of less, a line through the time of year leads anywhere.
    pub(super) with_year: bool,
    // Levels of each covariate that is known ahead, ascending; of a few weeks none: they know too little of what moves so
    // slowly.
    knots: Vec<Vec<f32>>,
    // What series are told apart by, beside their values.
    pub(super) labels: Vec<SeenLabel>,
}

/// Intervals of a year, and some days, from which on the time of year says something.
pub fn year(frequency: Frequency) -> usize {
    (YEAR_DAYS_MIN * DAY).div_euclid(frequency.nominal_micros()).unsigned_abs() as usize
}

impl Seen {
    /// Whether it was a year or more.
    pub fn has_year(&self) -> bool {
        self.with_year
    }

    // By covariate; a model of before the panel had it knows none.
    pub(super) fn knots(&self) -> impl Iterator<Item = &[f32]> {
        self.knots.iter().map(Vec::as_slice).chain(std::iter::repeat(&[][..]))
    }

    /// What rows have to know of a panel.
    pub fn of(panel: &Panel) -> Seen {
        let longest = panel.longest();
        let with_year = longest >= year(panel.frequency);
        let of = |(number, covariate): (usize, &Covariate)| match covariate.known {
            Known::Ahead if with_year => knots(panel, number),
            Known::Ahead | Known::Past => Vec::new(),
        };
        Seen {
            with_year,
            knots: panel.covariates.iter().enumerate().map(of).collect(),
            labels: SeenLabel::all_of(panel),
        }
    }
}

// Of the values of a covariate up to the end of each series.
fn knots(panel: &Panel, number: usize) -> Vec<f32> {
    let all: usize = panel.series.iter().map(|series| series.values.len()).sum();
    // Coprime to any season, or only some times of day would count.
    let every = (all / KNOT_VALUES).max(1) | 1;
    let of = |series: &Series| -> Vec<f64> {
        let column = series.covariates.get(number);
        let intervals = (0..series.values.len() as i64).step_by(every);
        intervals.filter_map(|interval| Some(f64::from(column?.at(interval)))).filter(|v| v.is_finite()).collect()
    };
    let mut values: Vec<f64> = panel.series.iter().flat_map(of).collect();
    values.sort_unstable_by(f64::total_cmp);
    let mut knots = KNOTS.map(|level| empirical_quantile(&values, level) as f32).to_vec();
    knots.retain(|knot| knot.is_finite());
    knots.dedup();
    knots
}
