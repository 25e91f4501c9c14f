//! Stamped rows on a regular grid.

use jiff::tz::TimeZone;
use meterline_schemas::time::format_micros;
use meterline_schemas::{Frequency, Micros};

use super::table::REMEDY;

/// The values of one interval and where they are from.
#[derive(Debug, Clone)]
pub(super) struct Stamped<const N: usize> {
    /// Start of the interval.
    pub at: Micros,
    /// Line of the file.
    pub line: u64,
    /// One value a column, NaN where it is missing.
    pub values: [f32; N],
}

/// Columns on the grid.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Gridded<const N: usize> {
    /// Start of the first interval.
    pub start: Micros,
    /// One value an interval; NaN where the file has no row for it.
    pub columns: [Vec<f32>; N],
}

/// Puts rows in any order on the grid of a fixed `frequency`.
///
/// # Errors
/// No row at all, a stamp off the grid, or two rows with one stamp: none of the files has a reason for that, so nothing
/// is guessed.
pub(super) fn on_grid<const N: usize>(
    file: &str,
    frequency: Frequency,
    rows: &[Stamped<N>],
) -> Result<Gridded<N>, String> {
    let zone = TimeZone::UTC;
    let stamps = rows.iter().map(|row| row.at);
    let (Some(start), Some(last)) = (stamps.clone().min(), stamps.max()) else {
        return Err(format!("{file} has no rows; {REMEDY}"));
    };
    let refuse = |row: &Stamped<N>, what: &str| {
        format!("{file}, line {}: the stamp {} {what}; {REMEDY}", row.line, format_micros(row.at))
    };
    let length = frequency.steps_between(start, last, &zone) as usize + 1;
    let mut columns = [const { Vec::new() }; N];
    columns.iter_mut().for_each(|column| *column = vec![f32::NAN; length]);
    let mut taken = vec![false; length];
    for row in rows {
        if frequency.floor(row.at, &zone) != row.at {
            return Err(refuse(row, &format!("is not on the grid of {frequency}")));
        }
        let step = frequency.steps_between(start, row.at, &zone) as usize;
        if std::mem::replace(&mut taken[step], true) {
            return Err(refuse(row, "occurs twice"));
        }
        for (column, value) in columns.iter_mut().zip(row.values) {
            column[step] = value;
        }
    }
    Ok(Gridded { start, columns })
}

/// Replaces missing values (NaN) on the straight line between their neighbours, at either end by the nearest value.
/// Values that are all missing stay so.
pub(super) fn interpolate(values: &mut [f32]) {
    let mut before: Option<usize> = None;
    for i in 0..values.len() {
        if !values[i].is_finite() {
            continue;
        }
        match before {
            None => {
                let first = values[i];
                values[..i].fill(first);
            }
            Some(known) => {
                let (low, high) = (f64::from(values[known]), f64::from(values[i]));
                let steps = (i - known) as f64;
                for (step, value) in values[known..i].iter_mut().enumerate().skip(1) {
                    *value = (low + (high - low) * step as f64 / steps) as f32;
                }
            }
        }
        before = Some(i);
    }
    if let Some(known) = before {
        let last = values[known];
        values[known..].fill(last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meterline_schemas::time::HOUR;

    const GAP: f32 = f32::NAN;

    fn row(hour: i64, value: f32) -> Stamped<1> {
        Stamped { at: hour * HOUR, line: 1 + hour as u64, values: [value] }
    }

    #[test]
    fn an_hour_without_a_row_is_missing() {
        let found = on_grid("f", Frequency::HOUR, &[row(5, 2.0), row(2, 1.0)]).unwrap();
        assert_eq!(found.start, 2 * HOUR);
        assert_eq!(found.columns[0].iter().map(|v| v.is_nan()).collect::<Vec<_>>(), [false, true, true, false]);
    }

    #[test]
    fn a_stamp_that_is_twice_there_or_off_the_grid_is_refused_with_its_line() {
        let off = Stamped { at: HOUR + 1, line: 7, values: [1.0] };
        for (rows, what) in [
            (vec![row(1, 1.0), row(2, 1.0), row(2, 1.0)], "f, line 3: the stamp 1970-01-01T02:00:00Z occurs twice"),
            (vec![row(1, 1.0), off], "f, line 7: the stamp 1970-01-01T01:00:00.000001Z is not on the grid of PT1H"),
            (vec![], "f has no rows"),
        ] {
            let complaint = on_grid("f", Frequency::HOUR, &rows).unwrap_err();
            assert!(complaint.starts_with(what), "{complaint}");
        }
    }

    #[test]
    fn gaps_lie_on_the_line_between_their_neighbours() {
        for (mut values, expected) in [
            (vec![1.0, GAP, GAP, 4.0], vec![1.0, 2.0, 3.0, 4.0]),
            (vec![GAP, 2.0, GAP], vec![2.0; 3]),
            (vec![1.0, GAP, 0.0, GAP, GAP], vec![1.0, 0.5, 0.0, 0.0, 0.0]),
            (vec![], vec![]),
        ] {
            interpolate(&mut values);
            assert_eq!(values, expected);
        }
        let mut nothing = vec![GAP; 3];
        interpolate(&mut nothing);
        assert!(nothing.iter().all(|v| v.is_nan()));
    }
}
