//! Choosing some of many evenly, without a period that weeks could have in common with it. Pure.

/// Share of which no multiple that counts days or times of day of whole weeks is close to a whole number, as 21 times the
/// golden section is: the reciprocal of the plastic number.
const SHARE: f64 = 0.754_877_666_246_692_8;

/// One of so many places for each number of an origin: those of origins in a row have places everywhere, and so have those
/// of one weekday.
pub(crate) fn spread(number: usize, places: usize) -> usize {
    ((number as f64 * SHARE).fract() * places as f64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_places_come_about_equally_often_on_each_day_of_the_week() {
        // A week has so many origins at one to 24 times of day.
        for week in [1, 2, 3, 4, 6, 12, 24].map(|times| 7 * times) {
            for (places, first) in [1, 2, 4, 7, 10, 24].into_iter().flat_map(|places| [(places, 0), (places, 5)]) {
                let mut counts = vec![0_usize; places];
                (0..120).for_each(|number| counts[spread(week * number + first, places)] += 1);
                let even = 120 / places;
                assert!(
                    counts.iter().all(|count| count.abs_diff(even) <= 3 + even / 4),
                    "{week}, {places}: {counts:?}"
                );
                // No year's half is without a place.
                let half: std::collections::BTreeSet<usize> =
                    (0..26).map(|number| spread(week * number + first, places.min(10))).collect();
                assert!(2 * half.len() >= places.min(10), "{week}, {places}: {half:?}");
            }
        }
        assert!((0..10_000).all(|number| spread(number, 3) < 3));
        assert_eq!(spread(5, 0), 0);
    }
}
