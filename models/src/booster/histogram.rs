//! Sums of gradients per bin: all that a split needs to know of the rows of a leaf.

use super::bins::{BLOCK_WIDTH, Block};
use super::gradients::Cell;

/// Bins of one feature, [`super::bins::MISSING`] among them.
pub(super) type FeatureHistogram = [Cell; 256];

/// Histograms of the features of one block, by place.
pub(super) type BlockHistogram = Vec<FeatureHistogram>;

pub(super) fn empty(blocks: &[Block]) -> Vec<BlockHistogram> {
    blocks.iter().map(|block| vec![[Cell::default(); 256]; block.features.len()]).collect()
}

/// Replaces the histograms of the features at `places` (ascending) by those of `rows`, whose cells are given in the
/// same order.
pub(super) fn fill(histogram: &mut BlockHistogram, block: &Block, places: &[usize], rows: &[u32], cells: &[Cell]) {
    for place in places {
        histogram[*place].fill(Cell::default());
    }
    if places.len() < block.features.len() {
        for place in places {
            fill_one(&mut histogram[*place], block, *place, rows, cells);
        }
        return;
    }
    match histogram.len() {
        1 => fill_all::<1>(histogram, block, rows, cells),
        2 => fill_all::<2>(histogram, block, rows, cells),
        3 => fill_all::<3>(histogram, block, rows, cells),
        4 => fill_all::<4>(histogram, block, rows, cells),
        5 => fill_all::<5>(histogram, block, rows, cells),
        6 => fill_all::<6>(histogram, block, rows, cells),
        7 => fill_all::<7>(histogram, block, rows, cells),
        _ => fill_all::<BLOCK_WIDTH>(histogram, block, rows, cells),
    }
}

/// The width as a constant unrolls the inner loop, and an u8 can't be outside an array of 256: no check is left in it.
fn fill_all<const WIDTH: usize>(histogram: &mut [FeatureHistogram], block: &Block, rows: &[u32], cells: &[Cell]) {
    let Ok(histogram) = <&mut [FeatureHistogram; WIDTH]>::try_from(histogram) else { return };
    for (row, cell) in rows.iter().zip(cells) {
        let bins = &block.rows[*row as usize];
        for place in 0..WIDTH {
            histogram[place][usize::from(bins[place])].add(cell);
        }
    }
}

fn fill_one(histogram: &mut FeatureHistogram, block: &Block, place: usize, rows: &[u32], cells: &[Cell]) {
    for (row, cell) in rows.iter().zip(cells) {
        histogram[usize::from(block.rows[*row as usize][place])].add(cell);
    }
}

/// Takes `part` out of `whole`: the histogram of a leaf's second child costs no pass over its rows.
pub(super) fn subtract(whole: &mut BlockHistogram, part: &BlockHistogram, places: &[usize]) {
    for place in places {
        for (whole, part) in whole[*place].iter_mut().zip(&part[*place]) {
            *whole = whole.minus(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_hold_the_sums_of_each_bin_whatever_features_are_asked_for() {
        for width in 1..=BLOCK_WIDTH {
            let rows: Vec<[u8; BLOCK_WIDTH]> =
                (0..500_usize).map(|r| std::array::from_fn(|f| ((r * (f + 7)) % 256) as u8)).collect();
            let block = Block { features: (0..width).collect(), rows };
            let chosen: Vec<u32> = (0..500).filter(|r| r % 3 != 0).collect();
            let cells: Vec<Cell> = chosen.iter().map(|r| Cell([*r as i32, -(*r as i32), 2, 1])).collect();
            for places in [(0..width).collect::<Vec<_>>(), vec![width - 1]] {
                let mut whole = empty(std::slice::from_ref(&block)).remove(0);
                fill(&mut whole, &block, &places, &chosen, &cells);
                for place in &places {
                    for (bin, found) in whole[*place].iter().enumerate() {
                        let mut expected = Cell::default();
                        for (row, cell) in chosen.iter().zip(&cells) {
                            if usize::from(block.rows[*row as usize][*place]) == bin {
                                expected.add(cell);
                            }
                        }
                        assert_eq!(*found, expected);
                    }
                }
                let mut part = whole.clone();
                fill(&mut part, &block, &places, &chosen[..100], &cells[..100]);
                subtract(&mut whole, &part, &places);
                let mut rest = part.clone();
                fill(&mut rest, &block, &places, &chosen[100..], &cells[100..]);
                assert!(places.iter().all(|place| whole[*place] == rest[*place]));
            }
        }
    }
}
