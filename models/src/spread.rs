//! Choosing some of many evenly. Pure.

/// Share of a line that is as much to it as the rest is to that share: its multiples leave no part of what lies between two
/// whole numbers out for long.
const GOLDEN: f64 = 0.618_033_988_749_895;
/// Reciprocal of the plastic number: so do its multiples, and none that counts days or times of day of whole weeks is close
/// to a whole number, as 21 times the golden section is.
const PLASTIC: f64 = 0.754_877_666_246_692_8;

/// One of so many places for the series of this number: series in a row have places everywhere.
pub(crate) fn place_of_series(number: usize, places: usize) -> usize {
    place(GOLDEN, number, places)
}

/// One of so many places for the origin of this number: origins in a row have places everywhere, and so have those of one
/// weekday.
pub(crate) fn place_of_origin(number: usize, places: usize) -> usize {
    place(PLASTIC, number, places)
}

fn place(share: f64, number: usize, places: usize) -> usize {
    ((number as f64 * share).fract() * places as f64) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn all_places_come_about_equally_often_on_each_day_of_the_week() {
        // A week has so many origins at one to 24 times of day.
        for week in [1, 2, 3, 4, 6, 12, 24].map(|times| 7 * times) {
            for (places, first) in [1, 2, 4, 7, 10, 24].into_iter().flat_map(|places| [(places, 0), (places, 5)]) {
                let mut counts = vec![0_usize; places];
                (0..120).for_each(|number| counts[place_of_origin(week * number + first, places)] += 1);
                let even = 120 / places;
                assert!(
                    counts.iter().all(|count| count.abs_diff(even) <= 3 + even / 4),
                    "{week}, {places}: {counts:?}"
                );
                // No year's half is without a place.
                let half: BTreeSet<usize> =
                    (0..26).map(|number| place_of_origin(week * number + first, places.min(10))).collect();
                assert!(2 * half.len() >= places.min(10), "{week}, {places}: {half:?}");
            }
        }
        for place in [place_of_origin, place_of_series] {
            assert!((0..10_000).all(|number| place(number, 3) < 3));
            assert_eq!(place(5, 0), 0);
        }
    }
}
