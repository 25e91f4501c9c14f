//! Choosing some of many evenly, without a period that days of the week could have in common with it. Pure.

/// Share of a line that is as much to it as the rest is to that share.
const GOLDEN: f64 = 0.618_033_988_749_895;

/// One of so many places for each number: any few numbers in a row, or at the same distance from each other, have places
/// everywhere, because multiples of the golden section leave no part of what lies between two of them out for long.
pub(crate) fn spread(number: usize, places: usize) -> usize {
    ((number as f64 * GOLDEN).fract() * places as f64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_places_come_about_equally_often_on_each_day_of_the_week() {
        for places in [1, 2, 4, 7, 24, 50] {
            for day in 0..7 {
                let mut counts = vec![0_usize; places];
                (0..200).for_each(|week| counts[spread(7 * week + day, places)] += 1);
                let even = 200 / places;
                assert!(counts.iter().all(|count| count.abs_diff(even) <= 2 + even / 4), "{places}, {day}: {counts:?}");
            }
        }
        assert!((0..10_000).all(|number| spread(number, 3) < 3));
        assert_eq!(spread(5, 0), 0);
    }
}
