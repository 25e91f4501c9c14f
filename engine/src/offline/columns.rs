//! Rows of covariates as columns on the grid of their series.

use meterline_models::data::Column;
use meterline_schemas::Micros;
use meterline_schemas::config::Label;

/// What the rows of one series have of the covariates, as they come.
#[derive(Debug, Default)]
pub struct CovariateRows {
    stamps: Vec<(Micros, Label)>,
    /// As many of each row as there are covariates; NaN where it has none.
    cells: Vec<f32>,
}

impl CovariateRows {
    /// Adds a row. One that has nothing is not kept.
    pub fn push(&mut self, at: Micros, label: Label, cells: &[f32]) {
        if !cells.iter().all(|cell| cell.is_nan()) {
            self.stamps.push((at, label));
            self.cells.extend_from_slice(cells);
        }
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.stamps.is_empty()
    }

    /// A column for each covariate, without what belongs to its interval of `ends` or a later one; `place` says to which
    /// interval of the series a stamp belongs. Of two cells of one interval the one with the later stamp counts, of equal
    /// stamps that of the later row; an empty cell takes nothing away.
    ///
    /// # Errors
    /// Those of `place`.
    pub fn columns<E>(&self, ends: &[i64], place: impl Fn(Micros, Label) -> Result<i64, E>) -> Result<Vec<Column>, E> {
        let mut rows: Vec<(Micros, i64, usize)> = Vec::with_capacity(self.stamps.len());
        for (row, (at, label)) in self.stamps.iter().enumerate() {
            rows.push((*at, place(*at, *label)?, row));
        }
        rows.sort_by_key(|(at, ..)| *at);
        let column = |number: usize, end: i64| {
            let cell = |row: usize| self.cells[row * ends.len() + number];
            let there = || {
                let cells = rows.iter().map(|(_, place, row)| (*place, cell(*row)));
                cells.filter(|(place, value)| *place < end && !value.is_nan())
            };
            let from = there().map(|(place, _)| place).min().unwrap_or(0);
            let to = there().map(|(place, _)| place + 1).max().unwrap_or(0);
            let mut values = vec![f32::NAN; (to - from) as usize];
            for (place, value) in there() {
                values[(place - from) as usize] = value;
            }
            Column { offset: from, values: values.into() }
        };
        Ok(ends.iter().enumerate().map(|(number, end)| column(number, *end)).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn the_later_cell_counts_and_an_empty_one_takes_nothing_away() {
        let mut rows = CovariateRows::default();
        for (at, cells) in [
            (40, [4.0, f32::NAN]),
            (-20, [-2.0, f32::NAN]),
            (0, [0.5, 7.0]),
            (0, [f32::NAN, 8.0]),
            // In the same interval, and later, though its row comes first.
            (12, [1.2, f32::NAN]),
            (11, [1.1, 9.0]),
            (30, [f32::NAN, f32::NAN]),
        ] {
            rows.push(at, Label::Begin, &cells);
        }
        let found = rows.columns(&[i64::MAX, 1], |at, _| Ok::<i64, Infallible>(at.div_euclid(10))).unwrap();
        let [ahead, past] = &found[..] else { panic!("{found:?}") };
        let values: Vec<f32> = (-3..6).map(|interval| ahead.at(interval)).collect();
        let nan = f32::NAN;
        assert_eq!(format!("{values:?}"), format!("{:?}", [nan, -2.0, nan, 0.5, 1.2, nan, nan, 4.0, nan]));
        // What belongs to interval 1 is from after its end.
        assert_eq!((past.offset, &past.values[..]), (0, &[8.0][..]));
        let none = CovariateRows::default().columns(&[5], |at, _| Ok::<i64, Infallible>(at)).unwrap();
        assert!(none[0].values.is_empty());
    }
}
