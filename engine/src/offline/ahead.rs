//! Covariates that are known ahead must be there over a horizon: the error that says which is not, and the remedy.

use std::ops::Range;

use meterline_models::data::{Panel, Series};
use meterline_schemas::Micros;
use meterline_schemas::config::Fallback;
use meterline_schemas::time::format_micros;

use crate::known_ahead::{self, Filled};

/// A covariate that is known ahead is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "covariate `{covariate}` of series `{series}` is missing for {missing} of the intervals that are to be forecast, the \
     first of which begins at {}{}",
    format_micros(*.at),
    remedy(*.tried)
)]
pub struct MissingAhead {
    /// The covariate.
    pub covariate: String,
    /// The series.
    pub series: String,
    /// Start of the first interval that lacks it.
    pub at: Micros,
    /// Intervals that lack it.
    pub missing: usize,
    /// What was to be taken in its place, and is missing, too.
    pub tried: Fallback,
}

fn remedy(tried: Fallback) -> &'static str {
    match tried {
        Fallback::None => {
            ": add rows with it (a row needs no value), or take that of the last day or week by --covariate-fallback last_day \
             or last_week"
        }
        Fallback::LastDay | Fallback::LastWeek => {
            ", and there is none of an earlier day to be taken: add rows with it (a row needs no value)"
        }
    }
}

/// Sees to it that every covariate that is known ahead has a value in those intervals of each series that `within` says,
/// and says what was filled for it.
///
/// # Errors
/// The first that is missing, where there is no fallback, or where it finds nothing.
pub fn complete(
    panel: &mut Panel,
    fallback: Fallback,
    within: impl Fn(&Series) -> Range<usize>,
) -> Result<Vec<Filled>, MissingAhead> {
    let mut filled = Vec::new();
    for found in known_ahead::complete(panel, |_| fallback, within) {
        if let Some(lacking) = found.lacking.first() {
            return Err(MissingAhead {
                covariate: found.covariate,
                series: panel.series.get(lacking.series).map(|series| series.id.clone()).unwrap_or_default(),
                at: lacking.from,
                missing: lacking.intervals,
                tried: fallback,
            });
        }
        filled.extend(found.filled);
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use meterline_models::data::{Column, Covariate, Known};
    use meterline_schemas::Frequency;
    use meterline_schemas::time::{DAY, HOUR};

    use super::*;

    // Ten days of hours from a Thursday on, and a covariate with the value 100 · day + hour where `known` says so.
    fn panel(known: impl Fn(i64) -> bool) -> Panel {
        let mut series = Series::new("m1", 0, vec![1.0; 240]);
        let value = |i: i64| if known(i) { (i / 24 * 100 + i % 24) as f32 } else { f32::NAN };
        series.covariates = vec![Column { offset: 0, values: (0..300).map(value).collect() }];
        let covariates = vec![Covariate { name: "tariff".into(), known: Known::Ahead }];
        Panel { covariates, ..Panel::new(Frequency::HOUR, TimeZone::UTC, vec![series]) }
    }

    fn horizon(series: &Series) -> Range<usize> {
        series.values.len()..series.values.len() + 48
    }

    #[test]
    fn what_is_missing_is_named_with_the_remedy_or_taken_from_the_last_day_or_week() {
        let lacking = |i: i64| i < 250;
        let error = complete(&mut panel(lacking), Fallback::None, horizon).unwrap_err().to_string();
        for words in ["`tariff`", "`m1`", "1970-01-11T10:00:00Z", "for 38", "add rows", "--covariate-fallback last_day"]
        {
            assert!(error.contains(words), "{error}");
        }
        for (fallback, first, last, day) in
            [(Fallback::LastDay, 910.0, 923.0, 9), (Fallback::LastWeek, 310.0, 423.0, 3)]
        {
            let mut panel = panel(lacking);
            let filled = complete(&mut panel, fallback, horizon).unwrap();
            let oldest = day * DAY + 10 * HOUR;
            assert_eq!(filled, [Filled { covariate: "tariff".into(), values: 38, oldest }]);
            let at = |interval| panel.series[0].covariates[0].at(interval);
            assert_eq!((at(249), at(250), at(287)), (1009.0, first, last));
            assert!(at(288).is_nan());
        }
    }

    #[test]
    fn where_there_is_nothing_to_be_taken_no_other_fallback_is_advised() {
        for (known, missing) in [(-1, 48), (245, 47)] {
            let error = complete(&mut panel(|i| i == known), Fallback::LastWeek, horizon).unwrap_err();
            assert_eq!((error.at, error.missing), (240 * HOUR, missing));
            assert!(!error.to_string().contains("fallback"), "{error}");
        }
    }
}
