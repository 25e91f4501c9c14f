//! STL: a series as trend, one season and a remainder, by local regression (Cleveland, Cleveland, McRae and Terpenning
//! 1990).

use super::super::quantiles::sample_quantile;
use super::loess::{Degree, Loess};

/// Settings of one decomposition.
#[derive(Debug, Clone, PartialEq)]
pub struct Stl {
    period: usize,
    /// Smooths the values of one phase from period to period.
    seasonal: Loess,
    trend: Loess,
    /// Takes the level out of the smoothed phases.
    low_pass: Loess,
    inner: usize,
    outer: usize,
}

/// What a decomposition found; both as long as the series.
#[derive(Debug, Clone, PartialEq)]
pub struct Parts {
    /// The season.
    pub seasonal: Vec<f64>,
    /// The trend.
    pub trend: Vec<f64>,
}

/// Periods that the phases of the first season are smoothed over, and how many more for each longer one.
const SEASONAL_WINDOW: (usize, usize) = (11, 4);

/// Smoother of the phases of the season at `index`, the shortest first: longer periods have fewer cycles to tell a change
/// from noise, so their windows are wider (as in Bandara, Hyndman and Bergmeir 2021).
fn seasonal_smoother(index: usize) -> Loess {
    Loess::new(SEASONAL_WINDOW.0 + SEASONAL_WINDOW.1 * index, Degree::Constant)
}

/// Weight that a value of a phase has in the smoothed value `distance` cycles away, in the middle of `cycles` of them.
pub fn seasonal_weight(index: usize, cycles: usize, distance: usize) -> f64 {
    let position = cycles / 2;
    let mut unit = vec![0.0; cycles];
    match unit.get_mut(position + distance) {
        Some(value) => *value = 1.0,
        None => return 0.0,
    }
    seasonal_smoother(index).at(&unit, None, position as isize).unwrap_or(0.0)
}

impl Stl {
    /// A season of `period` steps, the one at `index` (0 is the shortest). `robust` times, values are weighed again by
    /// their remainder.
    pub fn new(period: usize, index: usize, robust: usize) -> Stl {
        let window = (SEASONAL_WINDOW.0 + SEASONAL_WINDOW.1 * index) as f64;
        let trend = (1.5 * period as f64 / (1.0 - 1.5 / window)).ceil() as usize;
        Stl {
            period,
            seasonal: seasonal_smoother(index),
            trend: Loess::new(trend, Degree::Linear),
            low_pass: Loess::new(period, Degree::Linear),
            // The paper's choice: two passes, or one in each robust iteration.
            inner: if robust > 0 { 1 } else { 2 },
            outer: robust,
        }
    }

    /// Decomposes `values`, at least two periods of them. `known` has 0 for values that were filled in and 1 for the
    /// others; `None` when nothing was.
    pub fn decompose(&self, values: &[f64], known: Option<&[f64]>) -> Parts {
        let length = values.len();
        let mut parts = Parts { seasonal: vec![0.0; length], trend: vec![0.0; length] };
        if length < 2 * self.period {
            return parts;
        }
        let mut weights = known.map(<[f64]>::to_vec);
        let mut work = Work::new(length, self.period);
        for robust in 0..=self.outer {
            for _ in 0..self.inner {
                self.pass(values, weights.as_deref(), &mut parts, &mut work);
            }
            if robust < self.outer {
                weights = Some(robustness(values, known, &parts));
            }
        }
        parts
    }

    /// One pass of the inner loop: season from the detrended values, trend from the deseasonalised ones.
    fn pass(&self, values: &[f64], weights: Option<&[f64]>, parts: &mut Parts, work: &mut Work) {
        let (length, period) = (values.len(), self.period);
        for ((detrended, value), trend) in work.series.iter_mut().zip(values).zip(&parts.trend) {
            *detrended = value - trend;
        }
        for phase in 0..period {
            self.smooth_phase(phase, weights, work);
        }
        moving_average(&work.extended, period, &mut work.once);
        moving_average(&work.once, period, &mut work.twice);
        moving_average(&work.twice, 3, &mut work.series);
        self.low_pass.smooth(&work.series, None, &mut work.low);
        let smoothed = &work.extended[period..period + length];
        for (i, seasonal) in parts.seasonal.iter_mut().enumerate() {
            *seasonal = smoothed[i] - work.low[i];
            work.series[i] = values[i] - *seasonal;
        }
        self.trend.smooth(&work.series, weights, &mut parts.trend);
    }

    /// Smooths one phase of the detrended series and continues it by one period at both ends.
    fn smooth_phase(&self, phase: usize, weights: Option<&[f64]>, work: &mut Work) {
        let every = |series: &[f64], into: &mut Vec<f64>| {
            into.clear();
            into.extend(series.iter().skip(phase).step_by(self.period));
        };
        every(&work.series, &mut work.phase);
        if let Some(weights) = weights {
            every(weights, &mut work.phase_weights);
        }
        let weights = weights.is_some().then_some(&work.phase_weights[..]);
        let count = work.phase.len();
        work.smoothed.resize(count + 2, 0.0);
        self.seasonal.smooth(&work.phase, weights, &mut work.smoothed[1..=count]);
        let beyond =
            |position: isize, nearest: f64| self.seasonal.at(&work.phase, weights, position).unwrap_or(nearest);
        let ends = (beyond(-1, work.smoothed[1]), beyond(count as isize, work.smoothed[count]));
        (work.smoothed[0], work.smoothed[count + 1]) = ends;
        for (target, value) in work.extended.iter_mut().skip(phase).step_by(self.period).zip(&work.smoothed) {
            *target = *value;
        }
    }
}

/// Buffers of a decomposition.
struct Work {
    /// As long as the series: detrended, then low-passed, then deseasonalised.
    series: Vec<f64>,
    low: Vec<f64>,
    /// Smoothed phases, one period longer than the series at both ends; and its moving averages.
    extended: Vec<f64>,
    once: Vec<f64>,
    twice: Vec<f64>,
    phase: Vec<f64>,
    phase_weights: Vec<f64>,
    smoothed: Vec<f64>,
}

impl Work {
    fn new(length: usize, period: usize) -> Work {
        Work {
            series: vec![0.0; length],
            low: vec![0.0; length],
            extended: vec![0.0; length + 2 * period],
            once: vec![0.0; length + period + 1],
            twice: vec![0.0; length + 2],
            phase: Vec::new(),
            phase_weights: Vec::new(),
            smoothed: Vec::new(),
        }
    }
}

/// Means of each `window` consecutive values.
fn moving_average(values: &[f64], window: usize, out: &mut [f64]) {
    let mut sum: f64 = values[..window].iter().sum();
    let share = 1.0 / window as f64;
    for (i, out) in out.iter_mut().enumerate() {
        *out = sum * share;
        if let Some(next) = values.get(i + window) {
            sum += next - values[i];
        }
    }
}

/// Bisquare weights of the remainders, 0 beyond six medians of their size.
fn robustness(values: &[f64], known: Option<&[f64]>, parts: &Parts) -> Vec<f64> {
    let remainder = |i: usize| (values[i] - parts.trend[i] - parts.seasonal[i]).abs();
    let is_known = |i: usize| known.is_none_or(|known| known[i] > 0.0);
    let mut sizes: Vec<f64> = (0..values.len()).filter(|i| is_known(*i)).map(remainder).collect();
    sizes.sort_unstable_by(f64::total_cmp);
    let limit = if sizes.is_empty() { 0.0 } else { 6.0 * sample_quantile(&sizes, 0.5) };
    let weight = |i: usize| {
        if !is_known(i) {
            0.0
        } else if limit <= 0.0 {
            // Where more than half are exact, those are all that counts.
            f64::from(remainder(i) <= 0.0)
        } else {
            let share = (remainder(i) / limit).min(1.0);
            (1.0 - share * share).powi(2)
        }
    };
    (0..values.len()).map(weight).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::testing::gaussian_noise;

    fn wave(t: usize, period: usize) -> f64 {
        (std::f64::consts::TAU * t as f64 / period as f64).sin()
    }

    #[test]
    fn agrees_with_another_implementation() {
        // Step, season and trend: statsmodels 0.15, the same windows and jumps; two inner passes, or five robust ones.
        const PLAIN: [(usize, f64, f64); 8] = [
            (0, -1.424_173_414, -1.188_018_762),
            (1, 5.177_097_550, -0.739_223_330),
            (7, -4.169_653_928, 1.837_677_686),
            (23, -6.233_422_708, 6.943_147_428),
            (30, 0.814_266_140, 8.966_515_891),
            (37, 5.406_630_838, 11.109_929_913),
            (48, -1.139_431_187, 14.403_091_439),
            (59, -5.875_037_718, 17.201_330_583),
        ];
        const ROBUST: [(usize, f64, f64); 8] = [
            (0, -1.278_334_646, -1.393_675_435),
            (1, 5.424_099_733, -0.925_400_199),
            (7, -4.215_441_898, 1.765_191_420),
            (23, -6.425_488_454, 6.964_219_549),
            (30, 0.754_303_229, 8.969_952_313),
            (37, 5.627_060_372, 11.070_884_065),
            (48, -1.017_834_700, 14.419_707_712),
            (59, -6.091_205_853, 17.361_325_000),
        ];
        let value = |t: usize| 0.3 * t as f64 + 10.0 * wave(t, 12) + (t * 37 % 11) as f64 - 5.0;
        let values: Vec<f64> = (0..60).map(value).collect();
        for (robust, expected) in [(0, PLAIN), (5, ROBUST)] {
            let parts = Stl::new(12, 0, robust).decompose(&values, None);
            for (t, seasonal, trend) in expected {
                let (s, r) = (parts.seasonal[t], parts.trend[t]);
                assert!((s - seasonal).abs() < 1e-6 && (r - trend).abs() < 1e-6, "{robust} {t} {s} {r}");
            }
        }
    }

    #[test]
    fn a_season_on_a_line_is_taken_apart_exactly() {
        let values: Vec<f64> = (0..120).map(|t| 0.5 * t as f64 + 10.0 * wave(t, 12)).collect();
        let parts = Stl::new(12, 0, 0).decompose(&values, None);
        for t in 12..108 {
            assert!((parts.seasonal[t] - 10.0 * wave(t, 12)).abs() < 0.3, "{t} {}", parts.seasonal[t]);
            assert!((parts.trend[t] - 0.5 * t as f64).abs() < 0.3, "{t} {}", parts.trend[t]);
        }
    }

    #[test]
    fn outliers_bend_only_the_decomposition_that_is_not_robust() {
        let mut values: Vec<f64> =
            gaussian_noise(1, 240).into_iter().enumerate().map(|(t, e)| 10.0 * wave(t, 12) + 0.1 * e).collect();
        values[100] += 30.0;
        let error = |robust: usize| {
            let parts = Stl::new(12, 0, robust).decompose(&values, None);
            (12..228).map(|t| (parts.seasonal[t] - 10.0 * wave(t, 12)).abs()).fold(0.0, f64::max)
        };
        assert!(error(0) > 3.0 && error(10) < 0.3, "{} {}", error(0), error(10));
    }

    #[test]
    fn filled_values_do_not_matter() {
        let values: Vec<f64> = (0..240).map(|t| 10.0 * wave(t, 12)).collect();
        let mut spoilt = values.clone();
        let mut known = vec![1.0; 240];
        for t in 100..112 {
            spoilt[t] = 1e4;
            known[t] = 0.0;
        }
        let parts = Stl::new(12, 0, 0).decompose(&spoilt, Some(&known));
        assert!((0..240).all(|t| (parts.seasonal[t] + parts.trend[t] - values[t]).abs() < 0.5));
    }

    #[test]
    fn constants_and_short_series() {
        let parts = Stl::new(7, 0, 3).decompose(&[5.0; 30], None);
        assert!(parts.trend.iter().all(|t| (t - 5.0).abs() < 1e-9));
        assert!(parts.seasonal.iter().all(|s| s.abs() < 1e-9));
        assert_eq!(Stl::new(7, 0, 0).decompose(&[5.0; 13], None).seasonal, vec![0.0; 13]);
    }
}
