//! The quantile levels that every forecast carries.

/// Levels of the published quantiles, ascending: the deciles 0.1 … 0.9, which scores are averaged over, and the ends of
/// the central intervals of 90 % and 95 %.
pub const LEVELS: [f64; 13] = [0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975];

/// Column names of [`LEVELS`] in the table `forecasts`: per cent, with an underscore for the point.
pub const COLUMNS: [&str; 13] =
    ["q2_5", "q5", "q10", "q20", "q30", "q40", "q50", "q60", "q70", "q80", "q90", "q95", "q97_5"];

/// Index of the median in [`LEVELS`].
pub const MEDIAN: usize = 6;

/// Indices in [`LEVELS`] of the ends of the central 80 % interval.
pub const CENTRAL_80: (usize, usize) = (2, 10);

/// Indices in [`LEVELS`] of the ends of the central 90 % interval.
pub const CENTRAL_90: (usize, usize) = (1, 11);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_places_are_those_of_the_levels() {
        for (level, name) in LEVELS.iter().zip(COLUMNS) {
            let named: f64 = name[1..].replace('_', ".").parse().unwrap();
            assert!((named / 100.0 - level).abs() < 1e-12, "{name}");
        }
        assert_eq!(LEVELS[MEDIAN], 0.5);
        for ((low, high), share) in [(CENTRAL_80, 0.8), (CENTRAL_90, 0.9)] {
            assert!((LEVELS[high] - LEVELS[low] - share).abs() < 1e-12);
        }
        // What is above a level is as much as what is below its mirror image.
        assert!(LEVELS.iter().zip(LEVELS.iter().rev()).all(|(low, high)| (low + high - 1.0).abs() < 1e-12));
    }
}
