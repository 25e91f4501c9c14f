//! What models say of themselves, in rows: what they weigh, what they learned, and what their forecasts are made of.
//!
//! [`Forecaster::explain`](crate::forecaster::Forecaster::explain) tells what a fitted model knows without any series at
//! hand, [`Forecaster::explain_forecast`](crate::forecaster::Forecaster::explain_forecast) what its next forecast is made
//! of. Rows of one model, part, series, level and range of steps are a table: one row a term. [`bounded`] keeps the largest
//! of them where there are many.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Parts of the horizon that are told apart: a horizon of two days in six hours each.
pub(crate) const PARTS: usize = 8;
/// Series that a model tells of, one by one; what it says of all together knows the others.
pub(crate) const SERIES_MAX: usize = 200;
/// Terms that are kept of one table, and rows of all.
const TERMS_MAX: usize = 20;
const ROWS_MAX: usize = 5_000;

/// What the value of a row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Weight of a model in a combination, 0 to 1.
    Weight,
    /// Pinball loss of a model on days that it had not seen, by that of the equal mean of all.
    Loss,
    /// Coefficient of a linear model, the mean over the parts of the day and days ahead that have one of their own: by how
    /// much a unit of the feature moves the forecast, in spreads of the series.
    Coefficient,
    /// Share of a feature in all that the splits of trees gained in training, 0 to 1.
    Gain,
    /// What a feature adds to the forecast, in the unit of the series; all of a table add up to it, before it is lifted to
    /// zero where the series was never below.
    Contribution,
    /// What a component (trend, season, covariate) adds to the forecast, in the unit of the series; all of a table add up to
    /// its mean, likewise.
    Component,
    /// How many rows or series are not told of here, because there are too many.
    LeftOut,
}

impl Part {
    /// Name in tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Part::Weight => "weight",
            Part::Loss => "loss",
            Part::Coefficient => "coefficient",
            Part::Gain => "gain",
            Part::Contribution => "contribution",
            Part::Component => "component",
            Part::LeftOut => "left_out",
        }
    }

    // Whether the values of a table add up to something.
    const fn is_sum(self) -> bool {
        matches!(self, Part::Weight | Part::Gain | Part::Contribution | Part::Component)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The model that says it: of several in one its name there, of one below another both with a slash between.
    pub model: String,
    /// What the value says.
    pub part: Part,
    /// The series; `None` for all together.
    pub series: Option<String>,
    /// Quantile level; `None` for all together, or the mean.
    pub level: Option<f64>,
    /// First and last step of the part of the horizon, from 1; `None` for all.
    pub steps: Option<(usize, usize)>,
    /// The feature, component or model.
    pub term: String,
    /// The value.
    pub value: f64,
}

impl Explanation {
    /// A row about all series, levels and steps.
    pub fn new(model: &str, part: Part, term: impl Into<String>, value: f64) -> Explanation {
        Explanation { model: model.to_owned(), part, series: None, level: None, steps: None, term: term.into(), value }
    }

    /// That so many of something are not told of.
    pub(crate) fn left_out(model: &str, what: &str, count: usize) -> Explanation {
        Explanation::new(model, Part::LeftOut, what, count as f64)
    }

    fn is_of_table(&self, other: &Explanation) -> bool {
        (&self.model, self.part, &self.series, self.level, self.steps)
            == (&other.model, other.part, &other.series, other.level, other.steps)
    }
}

/// The parts of a horizon, as ranges of steps from 0.
pub(crate) fn parts(horizon: usize) -> impl Iterator<Item = Range<usize>> {
    let parts = PARTS.min(horizon).max(1);
    let first = move |part: usize| (part * horizon).div_ceil(parts);
    (0..parts).map(move |part| first(part)..first(part + 1))
}

/// Rows of what some terms are at each step: their means over the parts of the horizon. `like` says of what.
pub(crate) fn by_part(like: &Explanation, terms: &[(String, Vec<f64>)]) -> Vec<Explanation> {
    let horizon = terms.first().map_or(0, |(_, values)| values.len());
    let mut rows = Vec::new();
    for part in parts(horizon).filter(|part| !part.is_empty()) {
        for (term, values) in terms {
            let of_part = values.get(part.clone()).unwrap_or_default();
            rows.push(Explanation {
                steps: Some((part.start + 1, part.end)),
                term: term.clone(),
                value: of_part.iter().sum::<f64>() / part.len() as f64,
                ..like.clone()
            });
        }
    }
    rows
}

/// Rows of a model that is known by another name where it is a part of something.
pub(crate) fn renamed(mut rows: Vec<Explanation>, from: &str, to: &str) -> Vec<Explanation> {
    for row in &mut rows {
        if let Some(rest) = row.model.strip_prefix(from) {
            row.model = format!("{to}{rest}");
        }
    }
    rows
}

/// At most 20 terms of each table, those of the greatest magnitude first, and at most some 5,000 rows. The rest of a table
/// whose values add up to something is one row with their sum; how many others were left out is said by a last row
/// ([`Part::LeftOut`]); so are those whose value is not finite.
pub fn bounded(rows: Vec<Explanation>) -> Vec<Explanation> {
    let mut kept: Vec<Explanation> = Vec::new();
    // What is no number tells nothing, and no document can hold it.
    let (rows, none): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.value.is_finite());
    let mut left_out = none.len();
    for table in rows.chunk_by(Explanation::is_of_table) {
        if kept.len() >= ROWS_MAX {
            left_out += table.len();
            continue;
        }
        let mut table = table.to_vec();
        table.sort_by(|a, b| b.value.abs().total_cmp(&a.value.abs()));
        let rest = table.split_off(TERMS_MAX.min(table.len()));
        let others = table.first().filter(|row| row.part.is_sum() && !rest.is_empty()).map(|row| Explanation {
            term: format!("{} others", rest.len()),
            value: rest.iter().map(|row| row.value).sum(),
            ..row.clone()
        });
        left_out += if others.is_some() { 0 } else { rest.len() };
        kept.extend(table.into_iter().chain(others));
    }
    let model = kept.first().map(|row| row.model.clone()).unwrap_or_default();
    kept.extend((left_out > 0).then(|| Explanation::left_out(&model, "rows", left_out)));
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(part: Part, count: usize) -> Vec<Explanation> {
        (1..=count).map(|value| Explanation::new("m", part, format!("f{value}"), -(value as f64))).collect()
    }

    #[test]
    fn the_largest_terms_are_kept_and_the_others_are_told() {
        let found = bounded([rows(Part::Gain, 22), rows(Part::Coefficient, 22)].concat());
        assert_eq!((found[0].term.as_str(), found[19].term.as_str()), ("f22", "f3"));
        assert_eq!((found[20].term.as_str(), found[20].value), ("2 others", -3.0));
        assert_eq!(found.len(), 21 + 20 + 1);
        let last = found.last().unwrap();
        assert_eq!((last.part, last.term.as_str(), last.value), (Part::LeftOut, "rows", 2.0));
        assert_eq!(bounded(rows(Part::Gain, 20)).len(), 20);
        let none = Explanation::new("m", Part::Gain, "f", f64::NAN);
        assert_eq!(bounded(vec![none])[0].part, Part::LeftOut);
        assert!(bounded(Vec::new()).is_empty());
    }

    #[test]
    fn there_are_not_more_rows_than_somebody_can_look_at() {
        let of = |series: usize| Explanation { series: Some(series.to_string()), ..rows(Part::Gain, 1).remove(0) };
        let found = bounded((0..ROWS_MAX + 7).map(of).collect());
        assert_eq!((found.len(), found[ROWS_MAX].value), (ROWS_MAX + 1, 7.0));
    }

    #[test]
    fn terms_are_averaged_over_the_parts_of_the_horizon() {
        let like = Explanation::new("m", Part::Component, "", 0.0);
        let found = by_part(&like, &[("a".into(), (0..16).map(f64::from).collect()), ("b".into(), vec![1.0; 16])]);
        assert_eq!(found.len(), 2 * PARTS);
        assert_eq!((found[2].steps, found[2].term.as_str(), found[2].value), (Some((3, 4)), "a", 2.5));
        for horizon in [1, 5, 8, 9, 48] {
            let all: Vec<usize> = parts(horizon).flatten().collect();
            assert_eq!(all, (0..horizon).collect::<Vec<_>>());
        }
        assert!(by_part(&like, &[]).is_empty());
    }
}
