//! What happened since the fit: intervals are made wider or narrower as days that nobody could have learned from say.
//!
//! What was right when a model was fitted is not by and by: load moves with the seasons, and with it what a model misses.
//! So the forecasts of the last weeks are made again, each from what was known at its origin, and compared with what came
//! ([`Adaptive`]). Nothing is kept for that between one forecast and the next, so that the same panel has the same forecast
//! wherever it is made; and the weeks before the end of the fit say nothing, because models know them.

use meterline_schemas::quantiles::{CENTRAL_80, LEVELS};
use meterline_schemas::{Frequency, Micros};

use crate::calibrate::adaptive::{Adaptive, Options};
use crate::data::{Panel, Series};
use crate::forecaster::{NoForecast, SeriesForecast};
use crate::metrics::mean_of_quantiles;

/// Earlier origins that are looked at, at most, a season (a day, where there are several intervals in one, else a week or a
/// year) apart.
const ORIGINS_MAX: usize = 28;
/// Series that are, at most: those of a day err alike, and each costs a forecast an origin.
const SERIES_MAX: usize = 24;
/// Steps a season of the stretch of all intervals, and of each level.
const STRETCH_RATE: f64 = 0.4;
const LEVEL_RATE: f64 = 0.1;
/// Greatest stretch. What is further out is no matter of widths.
const STRETCH_MAX: f64 = 3.0;
/// Nothing is done while what is done would have lost more than nothing, by this factor.
const WORST_RATIO: f64 = 1.02;
/// Part of the mean width of a forecast below which one of its steps says nothing of widths: the sun does not shine by
/// night, whatever an interval is multiplied by.
const NARROW: f64 = 0.1;

/// Intervals of the past that are looked at beside those that a forecast takes.
pub(crate) fn lookback(frequency: Frequency, horizon: usize) -> usize {
    (ORIGINS_MAX - 1) * frequency.season().max(1) + horizon
}

/// What the days since `until`, the end of the fit, say about forecasts of so many steps; `forecast` makes them. `None`
/// where there is no whole horizon between.
pub(super) fn follow(
    panel: &Panel,
    horizon: usize,
    until: Micros,
    forecast: impl Fn(&Panel) -> Vec<Result<SeriesForecast, NoForecast>>,
) -> Option<Adaptive> {
    let (frequency, zone) = (panel.frequency, &panel.zone);
    let season = frequency.season().max(1);
    let end = panel.origin()?;
    let sample = sample(panel, until);
    let origin = |back: usize| frequency.advance(end, -((horizon + back * season) as i64), zone);
    let origins: Vec<Micros> = (0..ORIGINS_MAX).map(origin).take_while(|origin| *origin >= until).collect();
    // Forecasts that overlap err alike: a day of them is a part of one.
    let share = 1.0 / horizon.div_ceil(season).max(1) as f64;
    let options = Options {
        rate: share * LEVEL_RATE,
        stretch_rate: share * STRETCH_RATE,
        location_rates: vec![0.0],
        limit: STRETCH_MAX,
        worst_ratio: Some(WORST_RATIO),
        ..Options::default()
    };
    let mut adaptive = Adaptive::new(&LEVELS, options).ok()?;
    let mut learned = 0;
    for origin in origins.into_iter().rev() {
        let known = sample.cut(origin);
        let (mut steps, mut quantiles, mut actuals) = (Vec::new(), Vec::new(), Vec::new());
        for (found, (series, known)) in forecast(&known).into_iter().zip(sample.series.iter().zip(&known.series)) {
            let Ok(found) = found else { continue };
            // One that begins later: what comes next of it is not what comes first.
            let Some(last) = known.values.last() else { continue };
            let happened = series.values.get(known.values.len()..).unwrap_or_default();
            let happened = &happened[..happened.len().min(found.quantiles.len())];
            // What stands still is within any interval.
            if happened.iter().all(|actual| actual.is_nan() || actual == last) {
                continue;
            }
            let widths: f64 = found.quantiles.iter().map(width).sum();
            let narrow = NARROW * widths / found.quantiles.len() as f64;
            for (step, (row, actual)) in (0..).zip(found.quantiles.iter().zip(happened)) {
                if width(row) < narrow {
                    continue;
                }
                steps.push(step);
                quantiles.extend_from_slice(row);
                actuals.push(f64::from(*actual));
            }
        }
        learned += adaptive.update(&steps, &quantiles, &actuals).ok()?.rows;
    }
    (learned > 0).then_some(adaptive)
}

fn width(quantiles: &[f64; LEVELS.len()]) -> f64 {
    quantiles[CENTRAL_80.1] - quantiles[CENTRAL_80.0]
}

/// Corrects a forecast. One that cannot be corrected stays as it is.
pub(super) fn apply(adaptive: &Adaptive, forecast: &mut SeriesForecast) {
    for (step, (quantiles, mean)) in (0..).zip(forecast.quantiles.iter_mut().zip(&mut forecast.mean)) {
        if adaptive.apply(step, quantiles).is_ok() {
            *mean = mean_of_quantiles(quantiles);
        }
    }
}

// Some of the series of which anything is known since then, evenly spread.
fn sample(panel: &Panel, until: Micros) -> Panel {
    let lives = |series: &&Series| series.origin(panel.frequency, &panel.zone) > until;
    let living: Vec<&Series> = panel.series.iter().filter(lives).collect();
    let every = living.len().div_ceil(SERIES_MAX).max(1);
    panel.with(living.into_iter().step_by(every).cloned().collect())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use jiff::tz::TimeZone;
    use meterline_schemas::quantiles::MEDIAN;
    use meterline_schemas::time::{DAY, HOUR};

    use super::*;

    // Hours that are evenly spread over 0 to 1 and follow no order that anyone could see.
    fn panel(days: usize, series: usize) -> Panel {
        let value = |hour: usize| ((hour * 7919) % 101) as f32 / 101.0;
        let values: Vec<f32> = (0..days * 24).map(value).collect();
        let series = (0..series).map(|number| Series::new(number.to_string(), 0, values.clone())).collect();
        Panel::new(Frequency::HOUR, TimeZone::UTC, series)
    }

    // Says that they are, in intervals that are too narrow by a factor.
    fn forecast(panel: &Panel, horizon: usize, factor: f64) -> Vec<Result<SeriesForecast, NoForecast>> {
        let row = LEVELS.map(|level| 0.5 + factor * (level - 0.5));
        let one = SeriesForecast { mean: vec![0.5; horizon], quantiles: vec![row; horizon] };
        vec![Ok(one); panel.series.len()]
    }

    fn followed(adaptive: &Adaptive, factor: f64) -> f64 {
        let mut found = forecast(&panel(1, 1), 24, factor).remove(0).unwrap();
        apply(adaptive, &mut found);
        assert!(found.quantiles[3].is_sorted() && (found.quantiles[3][MEDIAN] - 0.5).abs() < 0.2);
        width(&found.quantiles[3])
    }

    #[test]
    fn intervals_that_were_too_narrow_or_too_wide_since_the_fit_are_no_longer() {
        for factor in [0.6, 1.4] {
            let found = follow(&panel(100, 3), 24, 60 * DAY, |known| forecast(known, 24, factor)).unwrap();
            assert!((followed(&found, factor) - 0.8).abs() < 0.1, "{factor}: {}", followed(&found, factor));
        }
    }

    #[test]
    fn what_stands_still_does_not_make_the_intervals_of_the_rest_narrow() {
        // One series, and every night of the other: within any interval.
        let mut panel = panel(100, 2);
        panel.series[0].values.iter_mut().enumerate().filter(|(hour, _)| hour % 24 < 12).for_each(|(_, v)| *v = 0.5);
        panel.series[1].values.fill(0.5);
        let narrow = |known: &Panel| forecast(known, 24, 1e-3).remove(0).unwrap();
        let found = follow(&panel, 24, 60 * DAY, |known| {
            let mut by_day = forecast(known, 24, 1.0).remove(0).unwrap();
            by_day.quantiles[..12].copy_from_slice(&narrow(known).quantiles[..12]);
            vec![Ok(by_day), Ok(narrow(known))]
        });
        let found = found.unwrap();
        assert!((followed(&found, 1.0) - 0.8).abs() < 0.15, "{}", followed(&found, 1.0));
    }

    #[test]
    fn only_what_nobody_could_have_learned_is_looked_at_and_not_more_than_that_takes() {
        let origins = RefCell::new(Vec::new());
        let spy = |known: &Panel| {
            let end = known.origin().unwrap();
            origins.borrow_mut().push((end / DAY, known.series.len()));
            forecast(known, 48, 1.0)
        };
        // A fit until day 90 of 100; forecasts of two days.
        assert!(follow(&panel(100, 50), 48, 90 * DAY, spy).is_some());
        assert_eq!(origins.take(), (90..=98).map(|day| (day, 17)).collect::<Vec<_>>());
        assert!(follow(&panel(100, 2), 48, 10 * DAY, spy).is_some());
        assert_eq!(origins.take(), (71..=98).map(|day| (day, 2)).collect::<Vec<_>>());
        // Nothing has come true since.
        assert!(follow(&panel(100, 2), 48, 98 * DAY + HOUR, spy).is_none());
        assert!(follow(&panel(0, 2), 48, 0, spy).is_none());
        assert!(origins.take().is_empty());
        // Series that are silent teach nothing, and take nobody's place.
        let mut some = panel(100, 60);
        some.series.iter_mut().take(50).for_each(|series| series.values.truncate(80 * 24));
        assert!(follow(&some, 48, 90 * DAY, spy).is_some());
        assert_eq!(origins.take().first(), Some(&(90, 10)));
        let none = |known: &Panel| vec![Err(NoForecast::NotFinite); known.series.len()];
        assert!(follow(&panel(100, 2), 48, 0, none).is_none());
    }
}
