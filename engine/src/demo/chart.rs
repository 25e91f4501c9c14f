//! A forecast in a terminal: median, 80 % band and actual values, in text. Pure.
//!
//! One column is one or more intervals, or an interval is one or more columns. The vertical axis has two half rows a
//! line, so that a curve looks like one.

/// What a chart shows. All slices have one entry an interval, the forecast's first interval at [`Chart::origin`].
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// Actual values, from before the origin on; `None` where there is none (yet).
    pub actual: Vec<Option<f64>>,
    /// Index in `actual` of the first forecast interval.
    pub origin: usize,
    /// Lower end of the band (the 10 % quantile), from the origin on.
    pub lower: Vec<f64>,
    /// Median, from the origin on.
    pub median: Vec<f64>,
    /// Upper end of the band (the 90 % quantile), from the origin on.
    pub upper: Vec<f64>,
    /// Text below the columns: (index of the interval, text).
    pub labels: Vec<(usize, String)>,
    /// Unit of the values.
    pub unit: String,
}

/// Size of the plot, axis not included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Columns.
    pub width: usize,
    /// Lines.
    pub height: usize,
}

/// What a cell shows; decides its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ink {
    Blank,
    Band,
    Median,
    Actual,
    Origin,
}

/// The intervals that a column shows.
type Spans = dyn Fn(usize) -> std::ops::Range<usize>;

/// Width of the axis at the left, in columns.
const AXIS: usize = 9;

impl Chart {
    /// The chart as lines of `AXIS + size.width` columns, with ANSI colours if `colour`.
    ///
    /// Without any finite value there is nothing to draw: the result is empty.
    pub fn render(&self, size: Size, colour: bool) -> Vec<String> {
        let intervals = self.actual.len().max(self.origin + self.median.len());
        let finite = self
            .actual
            .iter()
            .flatten()
            .chain(&self.lower)
            .chain(&self.upper)
            .chain(&self.median)
            .copied()
            .filter(|v| v.is_finite());
        let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        if intervals == 0 || !low.is_finite() || size.width == 0 || size.height == 0 {
            return Vec::new();
        }
        // Loads read best against zero, unless they are far from it.
        let low = if low > 0.0 && low < 0.3 * high { 0.0 } else { low };
        let scale = Scale { low, high: if high > low { high } else { low + 1.0 }, steps: 2 * size.height };
        let columns = size.width;
        let span = move |column: usize| {
            let first = column * intervals / columns;
            first..((column + 1) * intervals / columns).max(first + 1)
        };
        let mut grid = vec![vec![(' ', Ink::Blank); columns]; size.height];
        for column in 0..columns {
            self.draw(&mut grid, column, &span, &scale);
        }
        let mut lines: Vec<String> = grid
            .iter()
            .enumerate()
            .map(|(row, cells)| format!("{} {}", scale.tick(row, size.height, &self.unit), paint(cells, colour)))
            .collect();
        lines.push(self.label_line(columns, intervals));
        lines
    }

    fn draw(&self, grid: &mut [Vec<(char, Ink)>], column: usize, span_of: &Spans, scale: &Scale) {
        let span = span_of(column);
        let mean = |values: Vec<f64>| {
            let known: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
            (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
        };
        let forecast = |of: &[f64]| {
            mean(span.clone().filter_map(|i| i.checked_sub(self.origin).and_then(|i| of.get(i)).copied()).collect())
        };
        // Where an interval is several columns, the origin is the first of them.
        let first = column == 0 || span_of(column - 1).start != span.start;
        if first && span.contains(&self.origin) && self.origin > 0 {
            for row in grid.iter_mut() {
                row[column] = ('┊', Ink::Origin);
            }
        }
        if let (Some(lower), Some(upper)) = (forecast(&self.lower), forecast(&self.upper)) {
            for row in &mut grid[scale.row(upper)..=scale.row(lower)] {
                row[column] = ('░', Ink::Band);
            }
        }
        let median = forecast(&self.median).map(|v| scale.half(v));
        let actual = mean(span.clone().filter_map(|i| self.actual.get(i).copied().flatten()).collect());
        if let Some(half) = median {
            grid[half / 2][column] = (if half % 2 == 0 { '▀' } else { '▄' }, Ink::Median);
        }
        if let Some(value) = actual {
            grid[scale.row(value)][column] = ('●', Ink::Actual);
        }
    }

    fn label_line(&self, columns: usize, intervals: usize) -> String {
        let mut line: Vec<char> = vec![' '; AXIS + columns];
        let mut free = 0;
        for (interval, text) in &self.labels {
            // The first column whose intervals include this one.
            let at = AXIS + (interval * columns).div_ceil(intervals);
            if at < free || at + text.chars().count() > line.len() {
                continue;
            }
            for (offset, c) in text.chars().enumerate() {
                line[at + offset] = c;
            }
            free = at + text.chars().count() + 1;
        }
        line.into_iter().collect::<String>().trim_end().to_owned()
    }
}

/// Values to half rows, counted from the top.
struct Scale {
    low: f64,
    high: f64,
    steps: usize,
}

impl Scale {
    fn half(&self, value: f64) -> usize {
        let share = ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        let from_bottom = (share * (self.steps - 1) as f64).round() as usize;
        self.steps - 1 - from_bottom
    }

    fn row(&self, value: f64) -> usize {
        self.half(value) / 2
    }

    /// The axis at a line: figures at the top, the middle and the bottom.
    fn tick(&self, row: usize, height: usize, unit: &str) -> String {
        let value = match row {
            0 => self.high,
            _ if row + 1 == height => self.low,
            _ if row == height / 2 => self.high - (self.high - self.low) * row as f64 / (height - 1) as f64,
            1 => return format!("{unit:>width$} │", width = AXIS - 3),
            _ => return format!("{:>width$}", "│", width = AXIS - 1),
        };
        format!("{:>width$} ┤", figure(value), width = AXIS - 3)
    }
}

/// Three to four significant digits in at most six columns.
fn figure(value: f64) -> String {
    match value.abs() {
        v if v >= 100_000.0 => format!("{value:.0e}"),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 || v == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn paint(cells: &[(char, Ink)], colour: bool) -> String {
    let end = cells.iter().rposition(|(c, _)| *c != ' ').map_or(0, |i| i + 1);
    let mut text = String::new();
    let mut current = Ink::Blank;
    for &(c, ink) in &cells[..end] {
        if colour && ink != current {
            text.push_str(match ink {
                Ink::Blank => "\x1b[0m",
                Ink::Band => "\x1b[0;34m",
                Ink::Median => "\x1b[0;1;36m",
                Ink::Actual => "\x1b[0;1;33m",
                Ink::Origin => "\x1b[0;2m",
            });
            current = ink;
        }
        text.push(c);
    }
    if current != Ink::Blank {
        text.push_str("\x1b[0m");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart() -> Chart {
        Chart {
            actual: vec![Some(2.0), Some(4.0), Some(6.0), None],
            origin: 2,
            lower: vec![4.0, 4.0, 2.0],
            median: vec![6.0, 6.0, 4.0],
            upper: vec![8.0, 10.0, 6.0],
            labels: vec![(0, "a".into()), (2, "now".into()), (3, "dropped".into())],
            unit: "kWh".into(),
        }
    }

    #[test]
    fn the_band_holds_the_median_and_actuals_go_over_it() {
        let lines = chart().render(Size { width: 8, height: 6 }, false);
        assert_eq!(
            lines,
            [
                "  10.0 ┤     ┊░░",
                "   kWh │     ░░░",
                "       │     ●▀▀░",
                "  4.00 ┤   ●●░░░▄",
                "       │ ●●  ┊  ░",
                "  0.00 ┤     ┊",
                "         a   now",
            ]
        );
    }

    #[test]
    fn every_line_fits_its_width_whatever_the_number_of_intervals() {
        for intervals in [1, 7, 71, 72, 500] {
            let chart = Chart {
                actual: (0..intervals).map(|i| Some((i as f64 * 0.3).sin())).collect(),
                origin: intervals / 2,
                lower: vec![-1.0; intervals],
                median: vec![0.0; intervals],
                upper: vec![1.0; intervals],
                labels: vec![(intervals / 2, "origin".into())],
                unit: "kWh".into(),
            };
            let lines = chart.render(Size { width: 71, height: 12 }, false);
            assert_eq!(lines.len(), 13);
            for line in &lines {
                assert!(line.chars().count() <= 80, "{intervals}: {line}");
            }
        }
    }

    #[test]
    fn values_that_say_nothing_draw_nothing_or_a_flat_line() {
        let mut empty = chart();
        empty.actual = vec![None; 4];
        (empty.lower, empty.median, empty.upper) = (vec![], vec![], vec![]);
        assert!(empty.render(Size { width: 70, height: 10 }, false).is_empty());
        let flat = Chart { actual: vec![Some(0.0); 4], ..empty };
        assert_eq!(flat.render(Size { width: 70, height: 10 }, false).len(), 11);
    }

    #[test]
    fn colours_end_with_every_line() {
        let lines = chart().render(Size { width: 40, height: 6 }, true);
        for line in lines.iter().filter(|l| l.contains('\x1b')) {
            assert!(line.ends_with("\x1b[0m"), "{line:?}");
        }
    }

    #[test]
    fn figures_keep_to_six_columns() {
        for (value, text) in [(0.0, "0.00"), (0.1234, "0.123"), (9.876, "9.88"), (98.76, "98.8"), (12345.6, "12346")] {
            assert_eq!(figure(value), text);
        }
        assert!(figure(-123_456_789.0).len() <= 6);
    }
}
