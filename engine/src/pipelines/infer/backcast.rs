//! Errors of the forecasts that would have been made one horizon earlier: what is known of a model and a series by now,
//! without waiting for published forecasts to come true. (Those that were published are no measure of what a model
//! makes: reconciliation has changed them already.)

use jiff::tz::TimeZone;
use meterline_models::data::{Panel, Series};
use meterline_models::plausible;
use meterline_schemas::Micros;

use crate::metadata::records::RunSpec;
use crate::pipelines::artifacts::Prediction;
use crate::pipelines::history::History;

/// Series that are forecast at once; bounds the memory beside the history itself.
const SERIES_AT_ONCE: usize = 4_096;

/// Where the forecasts of a run begin whose errors are known by now: one horizon before the run's origin.
pub fn origin(spec: &RunSpec, zone: &TimeZone) -> Micros {
    spec.frequency.advance(spec.origin, -(spec.policy.horizon as i64), zone)
}

/// Actual value minus mean, for each series and each interval of the horizon that begins at `origin`; a history of
/// errors in place of values. `forecast` sees what `history` has from before `origin`. Series that have nothing before
/// it, or nothing after it, are left out, and implausible values have no error.
pub fn errors(history: &History, origin: Micros, forecast: impl Fn(&History) -> Vec<Prediction>) -> History {
    let Panel { frequency, zone, series: all, .. } = &history.panel;
    let concerned = |s: &Series| s.start < origin && s.origin(*frequency, zone) > origin;
    let places: Vec<usize> = (0..all.len()).filter(|place| concerned(&all[*place])).collect();
    let (mut series, mut units) = (Vec::with_capacity(places.len()), Vec::with_capacity(places.len()));
    for part in places.chunks(SERIES_AT_ONCE) {
        let unit = |place: usize| history.units.get(place).cloned().unwrap_or_default();
        let shown = History {
            panel: history.panel.with(part.iter().map(|place| all[*place].clone()).collect()).cut(origin),
            units: part.iter().map(|place| unit(*place)).collect(),
        };
        // Forecasts are in the order of the series; some series have none.
        let mut rest = part.iter();
        for prediction in forecast(&shown) {
            let Some(place) = rest.find(|place| all[**place].id == prediction.series_id) else { break };
            let actual = &all[*place];
            let known = frequency.steps_between(actual.start, origin, zone).max(0) as usize;
            let values = plausible::values(&actual.values);
            let later = values.get(known..).unwrap_or_default();
            let errors = later.iter().zip(&prediction.forecast.mean).map(|(value, mean)| value - *mean as f32);
            series.push(Series::new(actual.id.clone(), origin, errors.collect()));
            units.push(unit(*place));
        }
    }
    History { panel: Panel::new(*frequency, zone.clone(), series), units }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use meterline_models::forecaster::SeriesForecast;
    use meterline_schemas::Frequency;
    use meterline_schemas::quantiles::LEVELS;
    use meterline_schemas::time::HOUR;

    use super::*;

    #[test]
    fn what_a_model_would_have_missed_is_told_by_interval() {
        let gap = f32::NAN;
        let series = vec![
            Series::new("a", 0, vec![1.0, 2.0, 3.0, 4.0, 6.0]),
            Series::new("ended", 0, vec![1.0, 1.0]),
            Series::new("gap", HOUR, vec![5.0, 7.0, gap, 9.0]),
            Series::new("none", 0, vec![2.0; 5]),
            Series::new("young", 3 * HOUR, vec![1.0, 1.0]),
        ];
        let panel = Panel::new(Frequency::HOUR, TimeZone::UTC, series);
        let history = History { panel, units: vec!["kWh".into(); 5] };
        // The last value goes on.
        let last = |shown: &History| {
            let of = |s: &Series| Prediction {
                series_id: s.id.clone(),
                origin: s.origin(Frequency::HOUR, &TimeZone::UTC),
                unit: "kWh".into(),
                scale: None,
                model_version: "last".into(),
                substituted: false,
                forecast: SeriesForecast {
                    mean: vec![f64::from(*s.values.last().unwrap()); 2],
                    quantiles: vec![[0.0; LEVELS.len()]; 2],
                },
            };
            let known = |s: &&Series| s.id != "none";
            let found: Vec<Prediction> = shown.panel.series.iter().filter(known).map(of).collect();
            assert!(found.iter().all(|p| p.origin == 3 * HOUR), "nobody sees what comes after");
            found
        };
        let errors = errors(&history, 3 * HOUR, last);
        let found: Vec<(&str, Micros, &[f32])> =
            errors.panel.series.iter().map(|s| (s.id.as_str(), s.start, s.values.as_slice())).collect();
        let [a, gap] = &found[..] else { panic!("{found:?}") };
        assert_eq!(*a, ("a", 3 * HOUR, [1.0, 3.0].as_slice()));
        assert_eq!((gap.0, gap.1, gap.2[0].is_nan(), gap.2[1]), ("gap", 3 * HOUR, true, 2.0));
    }
}
