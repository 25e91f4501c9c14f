//! Dense kernels over small blocks of rows: products that read a stored row once and use it for several vectors.
//!
//! Cells are stored as `f32` and summed as `f64`. Columns come in groups of [`LANES`], so that the inner loops have a
//! fixed length, live in registers and become vector instructions without any unsafe code.

/// Columns of a group; also the coefficient vectors that are multiplied at once.
pub(super) const LANES: usize = 4;
/// Rows of a panel: with 128 columns it takes 32 KiB and stays in the first-level cache.
pub(super) const PANEL_ROWS: usize = 32;
/// Rows that one task of the thread pool takes. Sums are made per chunk and added in the order of chunks, so that
/// results do not depend on the number of threads.
pub(super) const CHUNK_ROWS: usize = 64 * PANEL_ROWS;

/// One value for each column of a group, or for each of the vectors that are multiplied at once.
pub(super) type Lanes = [f64; LANES];
/// Stored cells of one row and one group of columns.
pub(super) type Cells = [f32; LANES];
/// A product of two groups: `tile[i][j]` belongs to column i of the first and column j of the second.
type Tile = [Lanes; LANES];

/// Up to [`PANEL_ROWS`] rows in `f64`, one group of columns after the other; rows not set are zero.
pub(super) struct Panel {
    groups: usize,
    cells: Vec<Lanes>,
}

impl Panel {
    /// A panel of zeros with `groups` groups of columns.
    pub(super) fn new(groups: usize) -> Panel {
        Panel { groups, cells: vec![[0.0; LANES]; groups * PANEL_ROWS] }
    }

    /// Sets row `k` to `scale` times the stored `row` of as many groups.
    #[inline]
    pub(super) fn set_row(&mut self, k: usize, row: &[Cells], scale: f64) {
        for (group, cells) in self.cells.chunks_exact_mut(PANEL_ROWS).zip(row) {
            if let Some(to) = group.get_mut(k) {
                *to = cells.map(|cell| f64::from(cell) * scale);
            }
        }
    }

    /// Sets the rows from `first` on to zero.
    pub(super) fn clear_from(&mut self, first: usize) {
        for group in self.cells.chunks_exact_mut(PANEL_ROWS) {
            group.iter_mut().skip(first).for_each(|cells| *cells = [0.0; LANES]);
        }
    }

    /// Loads at most [`PANEL_ROWS`] stored rows as they are and clears the others.
    #[inline]
    pub(super) fn load(&mut self, rows: &[Cells]) {
        let mut loaded = 0;
        for (k, row) in rows.chunks_exact(self.groups.max(1)).enumerate() {
            self.set_row(k, row, 1.0);
            loaded = k + 1;
        }
        if loaded < PANEL_ROWS {
            self.clear_from(loaded);
        }
    }

    /// Groups of columns, each with one entry a row.
    #[inline]
    pub(super) fn groups(&self) -> &[[Lanes; PANEL_ROWS]] {
        self.cells.as_chunks().0
    }

    /// Groups of columns to be overwritten.
    #[inline]
    pub(super) fn groups_mut(&mut self) -> &mut [[Lanes; PANEL_ROWS]] {
        self.cells.as_chunks_mut().0
    }
}

/// The products of the panel's rows with four coefficient vectors at once. `coefficients` holds the four coefficients
/// of each column, columns in the panel's order; columns without coefficients count as zero.
#[inline]
pub(super) fn multiply(panel: &Panel, coefficients: &[Lanes], products: &mut [Lanes; PANEL_ROWS]) {
    let coefficients = coefficients.as_chunks::<LANES>().0;
    // Four rows by four vectors: sixteen sums in eight registers of two.
    for (quarter, products) in products.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        let mut sums: Tile = [[0.0; LANES]; LANES];
        for (group, of_columns) in panel.groups().iter().zip(coefficients) {
            let rows = &group.as_chunks::<LANES>().0[quarter];
            for (column, coefficient) in of_columns.iter().enumerate() {
                for (sum, row) in sums.iter_mut().zip(rows) {
                    for (s, c) in sum.iter_mut().zip(coefficient) {
                        *s += row[column] * c;
                    }
                }
            }
        }
        *products = sums;
    }
}

/// Σ over rows of the outer product of `left` and `right`.
#[inline]
fn outer(left: &[Lanes; PANEL_ROWS], right: &[Lanes; PANEL_ROWS]) -> Tile {
    let mut sums: Tile = [[0.0; LANES]; LANES];
    for (a, b) in left.iter().zip(right) {
        for (sum, x) in sums.iter_mut().zip(a) {
            for (s, y) in sum.iter_mut().zip(b) {
                *s += x * y;
            }
        }
    }
    sums
}

#[inline]
fn add_tile(to: &mut Tile, tile: &Tile) {
    for (to, from) in to.iter_mut().zip(tile) {
        for (to, from) in to.iter_mut().zip(from) {
            *to += from;
        }
    }
}

/// Adds panelᵀ · `factors` to `sums`, which has the layout of the coefficients of [`multiply`].
#[inline]
pub(super) fn multiply_transposed(panel: &Panel, factors: &[Lanes; PANEL_ROWS], sums: &mut [Lanes]) {
    for (group, sums) in panel.groups().iter().zip(sums.as_chunks_mut::<LANES>().0) {
        add_tile(sums, &outer(group, factors));
    }
}

/// A Gram matrix Σ xᵢ xᵢᵀ under construction: the tiles on and above the diagonal.
#[derive(Clone)]
pub(super) struct Gram {
    groups: usize,
    tiles: Vec<Tile>,
}

impl Gram {
    /// A matrix of zeros for rows of `groups` groups of columns.
    pub(super) fn new(groups: usize) -> Gram {
        Gram { groups, tiles: vec![[[0.0; LANES]; LANES]; groups * (groups + 1) / 2] }
    }

    /// Adds the outer products of the panel's rows with themselves.
    pub(super) fn add_panel(&mut self, panel: &Panel) {
        let groups = panel.groups();
        let mut tiles = self.tiles.iter_mut();
        for (i, left) in groups.iter().enumerate() {
            for (right, tile) in groups.iter().skip(i).zip(tiles.by_ref()) {
                add_tile(tile, &outer(left, right));
            }
        }
    }

    /// Adds another matrix of the same size.
    pub(super) fn add(&mut self, other: &Gram) {
        for (to, from) in self.tiles.iter_mut().zip(&other.tiles) {
            add_tile(to, from);
        }
    }

    /// Visits the cells on and above the diagonal, and some just below it, as (row, column, value).
    pub(super) fn for_each_upper(&self, mut visit: impl FnMut(usize, usize, f64)) {
        let mut tiles = self.tiles.iter();
        for i in 0..self.groups {
            for (j, tile) in (i..self.groups).zip(tiles.by_ref()) {
                for (row, values) in tile.iter().enumerate() {
                    for (column, value) in values.iter().enumerate() {
                        visit(i * LANES + row, j * LANES + column, *value);
                    }
                }
            }
        }
    }
}

/// Whether a row belongs to a sample that holds about `share` of all rows. The choice hashes the row's number, so that
/// a season of the rows cannot fall into step with the sample, and is the same at every call.
#[inline]
pub(super) fn in_sample(row: usize, share: f64) -> bool {
    if share >= 1.0 {
        return true;
    }
    // The finaliser of SplitMix64 (Steele, Lea and Flood 2014).
    let mut z = (row as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    ((z >> 11) as f64) < share * (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(row: usize, column: usize) -> f32 {
        ((row * 31 + column * 17) % 23) as f32 - 11.0
    }

    fn rows(n: usize, groups: usize) -> Vec<Cells> {
        (0..n * groups).map(|i| std::array::from_fn(|lane| cell(i / groups, (i % groups) * LANES + lane))).collect()
    }

    #[test]
    fn products_are_those_of_the_textbook() {
        let groups = 3;
        for n in [0, 1, 7, PANEL_ROWS] {
            let mut panel = Panel::new(groups);
            panel.load(&rows(PANEL_ROWS, groups));
            panel.load(&rows(n, groups));
            let coefficients: Vec<Lanes> =
                (0..groups * LANES).map(|j| std::array::from_fn(|v| (j * 3 + v) as f64 - 4.0)).collect();
            let mut products = [[0.0; LANES]; PANEL_ROWS];
            multiply(&panel, &coefficients, &mut products);
            let mut transposed = vec![[0.0; LANES]; groups * LANES];
            multiply_transposed(&panel, &products, &mut transposed);
            let mut gram = Gram::new(groups);
            gram.add_panel(&panel);
            let x = |k: usize, j: usize| if k < n { f64::from(cell(k, j)) } else { 0.0 };
            for (k, product) in products.iter().enumerate() {
                for v in 0..LANES {
                    let expected: f64 = (0..groups * LANES).map(|j| x(k, j) * coefficients[j][v]).sum();
                    assert_eq!(product[v], expected, "{n} rows, row {k}");
                }
            }
            for (j, column) in transposed.iter().enumerate() {
                let expected: f64 = (0..PANEL_ROWS).map(|k| x(k, j) * products[k][1]).sum();
                assert_eq!(column[1], expected, "{n} rows, column {j}");
            }
            gram.for_each_upper(|i, j, value| {
                let expected: f64 = (0..n).map(|k| x(k, i) * x(k, j)).sum();
                assert_eq!(value, expected, "{n} rows, cell {i} {j}");
            });
        }
    }

    #[test]
    fn a_sample_holds_its_share_of_rows_at_every_phase_of_a_day() {
        for share in [0.01, 0.2, 0.7] {
            for phase in 0..24 {
                let taken = (0..10_000).filter(|day| in_sample(day * 24 + phase, share)).count() as f64;
                assert!((taken / 10_000.0 - share).abs() < 0.03, "{share}: {taken}");
            }
        }
        assert!((0..1000).all(|row| in_sample(row, 1.0)));
    }
}
