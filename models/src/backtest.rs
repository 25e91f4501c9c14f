//! Rolling-origin evaluation: every model forecasts from the same origins, is shown nothing later, and is scored on
//! the same points.

use std::borrow::Cow;
use std::collections::BTreeMap;

use meterline_schemas::Micros;
use meterline_schemas::quantiles::LEVELS;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::cost::{Cost, quantile_at};
use crate::data::{Panel, Series};
use crate::forecaster::{Forecaster, SeriesForecast};
use crate::metrics::scoreboard::{Place, Point, Report, Rule, Scoreboard};
use crate::metrics::{Sums, seasonal_scale};
use crate::plausible;

/// What a model scored. A figure that cannot be computed is `None`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Name of the model.
    pub model: String,
    /// Weighted quantile loss over the published levels.
    pub wql: Option<f64>,
    /// Normalised deviation of the median.
    pub nd: Option<f64>,
    /// Mean absolute scaled error of the median: per series, then the mean over series. The scale is the mean absolute
    /// seasonal difference before the first origin.
    pub mase: Option<f64>,
    /// Share of actuals within the central 80 % interval; 0.8 is right.
    pub coverage: Option<f64>,
    /// Share of actuals within the central 90 % interval; 0.9 is right.
    pub coverage_90: Option<f64>,
    /// Mean cost of a point, in cost × unit, of deciding for the quantile that costs least; where there are costs.
    pub cost: Option<f64>,
    /// Scored (series, origin, step) points: those with an actual value for which every compared model had a forecast.
    pub points: usize,
    /// Scored (series, origin) windows.
    pub windows: usize,
    /// Windows that were left out because a compared model had no forecast.
    pub windows_without_forecast: usize,
    /// [Implausible values](crate::plausible) of those windows, which are not scored: no model can have known them.
    pub implausible: usize,
    /// The figures by forecast step, first step first.
    pub steps: Vec<PartScore>,
    /// The figures of points that were measured.
    pub measured: PartScore,
    /// The figures of points whose value counts less than others ([`Series::weight`](crate::data::Series::weight)),
    /// because it was estimated or substituted.
    pub estimated: PartScore,
}

/// Figures of some of the points.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PartScore {
    /// Scored points.
    pub points: usize,
    /// Weighted quantile loss.
    pub wql: Option<f64>,
    /// Normalised deviation of the median.
    pub nd: Option<f64>,
    /// Share of actuals within the central 80 % interval.
    pub coverage: Option<f64>,
}

/// Scores one model; see [`compare`].
pub fn evaluate(model: &dyn Forecaster, panel: &Panel, origins: &[Micros], horizon: usize) -> Evaluation {
    let actual = Actual::of(panel);
    let mut scores = Scores::new(panel, origins, horizon, None);
    let mut left_out = 0;
    for origin in origins {
        let shown = Shown { panel, actual: &actual, origin: *origin, horizon };
        left_out += score_origin(&[model], &shown, std::slice::from_mut(&mut scores));
    }
    scores.finish(model.name(), left_out)
}

/// Scores several models on identical windows, in the order of `models`.
///
/// `panel` holds history and actuals; a model sees it cut at each origin. `horizon` is in native intervals. A window
/// for which any model has no forecast is scored for none of them, but counted. One origin's history is in memory
/// twice at a time.
pub fn compare(models: &[&dyn Forecaster], panel: &Panel, origins: &[Micros], horizon: usize) -> Vec<Evaluation> {
    compare_at_cost(models, panel, origins, horizon, None)
}

/// The same, with what each model's decisions cost ([`Evaluation::cost`]).
pub fn compare_at_cost(
    models: &[&dyn Forecaster],
    panel: &Panel,
    origins: &[Micros],
    horizon: usize,
    cost: Option<Cost>,
) -> Vec<Evaluation> {
    let actual = Actual::of(panel);
    let mut scores: Vec<Scores> = models.iter().map(|_| Scores::new(panel, origins, horizon, cost)).collect();
    let mut left_out = 0;
    for origin in origins {
        let shown = Shown { panel, actual: &actual, origin: *origin, horizon };
        left_out += score_origin(models, &shown, &mut scores);
    }
    models.iter().zip(scores).map(|(model, scores)| scores.finish(model.name(), left_out)).collect()
}

/// What [`score`] says of one model.
#[derive(Debug, Clone, PartialEq)]
pub struct Scoring {
    /// The figures of the scored points.
    pub report: Report,
    /// Scored (series, origin) windows: those with an actual value for which every compared model has a forecast.
    pub windows: usize,
    /// Windows with an actual value for which this model has no forecast. They are scored for none of the models.
    pub windows_missed: usize,
    /// [Implausible values](crate::plausible) of all windows, which are not scored: no model can have known them.
    pub implausible: usize,
}

/// Scores several models by every figure of `rule`, on identical points, in the order of `models`: those of windows for
/// which each of them has a forecast of every step; how many windows a model has none for is counted. Series have the
/// numbers of their places in the panel; a series' scale is that of MASE in [`compare`]. `group` names the group of a
/// point, such as the quality of its value, by that place and the interval of the series.
pub fn score(
    models: &[&dyn Forecaster],
    panel: &Panel,
    origins: &[Micros],
    horizon: usize,
    rule: &Rule,
    group: &dyn Fn(usize, usize) -> &'static str,
) -> Vec<Scoring> {
    let actual = Actual::of(panel);
    let scales = Scores::new(panel, origins, horizon, None).scales;
    let mut boards: Vec<Scoreboard> = models.iter().map(|_| Scoreboard::new(rule)).collect();
    let (mut windows, mut hidden, mut missed) = (0, 0, vec![0; models.len()]);
    for origin in origins {
        each_window(models, &Shown { panel, actual: &actual, origin: *origin, horizon }, &mut |window| {
            let Window { series, from, actuals, implausible, forecasts } = window;
            hidden += implausible;
            let counts = usize::from(has_values(actuals));
            for (missed, _) in missed.iter_mut().zip(&forecasts).filter(|(_, forecast)| forecast.is_none()) {
                *missed += counts;
            }
            let Some(found) = forecasts.into_iter().collect::<Option<Vec<&SeriesForecast>>>() else { return };
            windows += counts;
            for (board, forecast) in boards.iter_mut().zip(found) {
                let steps = actuals.iter().zip(&forecast.mean).zip(&forecast.quantiles).enumerate();
                for (step, ((actual, mean), quantiles)) in steps {
                    let groups = &[group(series, from + step)];
                    let place = Place { series: series as u64, step: step as u32 + 1, groups };
                    let actual = f64::from(*actual);
                    board.add(&place, &Point { actual, mean: *mean, quantiles, scale: scales[series] });
                }
            }
        });
    }
    let scoring = |(board, windows_missed): (&Scoreboard, usize)| Scoring {
        report: board.report(),
        windows,
        windows_missed,
        implausible: hidden,
    };
    boards.iter().zip(missed).map(scoring).collect()
}

/// What came true, without what is implausible: the values of those series that have such.
struct Actual(BTreeMap<usize, Vec<f32>>);

impl Actual {
    fn of(panel: &Panel) -> Actual {
        let of_series = |(place, series): (usize, &Series)| match plausible::values(&series.values) {
            Cow::Owned(values) => Some((place, values)),
            Cow::Borrowed(_) => None,
        };
        Actual(panel.series.par_iter().enumerate().filter_map(of_series).collect())
    }

    fn values<'a>(&'a self, panel: &'a Panel, series: usize) -> &'a [f32] {
        self.0.get(&series).unwrap_or(&panel.series[series].values)
    }
}

/// An origin that models are asked at.
struct Shown<'a> {
    /// What they are shown, up to the origin.
    panel: &'a Panel,
    /// What came true.
    actual: &'a Actual,
    origin: Micros,
    horizon: usize,
}

/// What came true of one series from one origin on, and what models said.
struct Window<'a> {
    /// The series' place in the panel.
    series: usize,
    /// Its interval that the window begins with.
    from: usize,
    /// The values of at most a horizon, one at least; NaN where one is missing, or implausible.
    actuals: &'a [f32],
    /// So many of these are implausible.
    implausible: usize,
    /// Of each model, where it has one for all of them.
    forecasts: Vec<Option<&'a SeriesForecast>>,
}

fn has_values(actuals: &[f32]) -> bool {
    actuals.iter().any(|actual| actual.is_finite())
}

// Every window from an origin, of the series that have begun by then.
fn each_window(models: &[&dyn Forecaster], shown: &Shown<'_>, visit: &mut dyn FnMut(Window<'_>)) {
    let Shown { panel, actual, origin, horizon } = *shown;
    let known = panel.cut(origin);
    let all: Vec<_> = models.iter().map(|model| model.forecast(&known, horizon)).collect();
    for (i, series) in panel.series.iter().enumerate() {
        let from = known.series[i].values.len();
        let place = from..series.values.len().min(from + horizon);
        let (raw, actuals) = (&series.values[place.clone()], &actual.values(panel, i)[place]);
        let implausible =
            raw.iter().zip(actuals).filter(|(raw, actual)| raw.is_finite() && !actual.is_finite()).count();
        let starts_later = panel.frequency.steps_between(series.start, origin, &panel.zone) < 0;
        if starts_later || actuals.is_empty() {
            continue;
        }
        let is_whole = |f: &&SeriesForecast| f.mean.len().min(f.quantiles.len()) >= actuals.len();
        let forecasts = all.iter().map(|of_model| of_model.get(i)?.as_ref().ok().filter(is_whole));
        visit(Window { series: i, from, actuals, implausible, forecasts: forecasts.collect() });
    }
}

fn score_origin(models: &[&dyn Forecaster], shown: &Shown<'_>, scores: &mut [Scores]) -> usize {
    let mut left_out = 0;
    each_window(models, shown, &mut |window| {
        let Window { series, from, actuals, implausible, forecasts } = window;
        scores.iter_mut().for_each(|scores| scores.implausible += implausible);
        if !has_values(actuals) {
            return;
        }
        let Some(found) = forecasts.into_iter().collect::<Option<Vec<&SeriesForecast>>>() else {
            left_out += 1;
            return;
        };
        let weights = &shown.panel.series[series];
        for (scores, forecast) in scores.iter_mut().zip(found) {
            scores.add(series, actuals, |step| weights.weight(from + step) < 1.0, forecast);
        }
    });
    left_out
}

/// The sums of one model.
struct Scores {
    by_series: Vec<Sums>,
    by_step: Vec<Sums>,
    measured: Sums,
    estimated: Sums,
    scales: Vec<Option<f64>>,
    windows: usize,
    implausible: usize,
    // With the sum over points.
    cost: Option<(Cost, f64)>,
}

impl Scores {
    fn new(panel: &Panel, origins: &[Micros], horizon: usize, cost: Option<Cost>) -> Scores {
        let first = origins.iter().copied().min().unwrap_or(Micros::MIN);
        let season = panel.frequency.season();
        let scales = panel.series.iter().map(|s| {
            let known = panel.frequency.steps_between(s.start, first, &panel.zone).max(0) as usize;
            seasonal_scale(&plausible::values(&s.values[..known.min(s.values.len())]), season)
        });
        Scores {
            by_series: vec![Sums::default(); panel.series.len()],
            by_step: vec![Sums::default(); horizon],
            measured: Sums::default(),
            estimated: Sums::default(),
            scales: scales.collect(),
            windows: 0,
            implausible: 0,
            cost: cost.map(|cost| (cost, 0.0)),
        }
    }

    fn add(&mut self, series: usize, actuals: &[f32], is_estimated: impl Fn(usize) -> bool, forecast: &SeriesForecast) {
        self.windows += 1;
        let rows = actuals.iter().zip(&forecast.quantiles).zip(&mut self.by_step).enumerate();
        for (step, ((actual, quantiles), by_step)) in rows.filter(|(_, ((actual, _), _))| actual.is_finite()) {
            let by_quality = if is_estimated(step) { &mut self.estimated } else { &mut self.measured };
            for sums in [&mut self.by_series[series], by_step, by_quality] {
                sums.add(f64::from(*actual), quantiles);
            }
            if let Some((cost, sum)) = &mut self.cost {
                let decision = quantile_at(&LEVELS, quantiles, cost.bounded_level());
                // Too large for a number: then so is the sum, which is no figure.
                *sum += cost.of(decision, f64::from(*actual)).unwrap_or(f64::INFINITY);
            }
        }
    }

    fn finish(self, model: &str, windows_without_forecast: usize) -> Evaluation {
        let mut total = Sums::default();
        self.by_series.iter().for_each(|sums| total.merge(sums));
        let scaled: Vec<f64> =
            self.by_series.iter().zip(&self.scales).filter_map(|(sums, scale)| Some(sums.mae()? / (*scale)?)).collect();
        let part = |s: &Sums| PartScore { points: s.points, wql: s.wql(), nd: s.nd(), coverage: s.coverage() };
        Evaluation {
            model: model.to_owned(),
            wql: total.wql(),
            nd: total.nd(),
            mase: (!scaled.is_empty()).then(|| scaled.iter().sum::<f64>() / scaled.len() as f64),
            coverage: total.coverage(),
            coverage_90: total.coverage_90(),
            cost: self.cost.map(|(_, sum)| sum / total.points as f64).filter(|cost| cost.is_finite()),
            points: total.points,
            windows: self.windows,
            windows_without_forecast,
            implausible: self.implausible,
            steps: self.by_step.iter().map(part).collect(),
            measured: part(&self.measured),
            estimated: part(&self.estimated),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forecaster::NoForecast;
    use crate::forecasters::seasonal_naive::SeasonalNaive;
    use jiff::tz::TimeZone;
    use meterline_schemas::Frequency;
    use meterline_schemas::time::{DAY, HOUR};

    fn panel(days: usize) -> Panel {
        let values = |k: usize| (0..days * 24).map(|h| ((h * (k + 3)) % 24 + h % 5) as f32).collect();
        let series = (0..3).map(|k| Series::new(format!("s{k}"), 0, values(k))).collect();
        Panel::new(Frequency::HOUR, TimeZone::UTC, series)
    }

    /// Poisons every value at or after `origin`, so that a model that saw one of them could not answer the same.
    fn poisoned(panel: &Panel, origin: Micros) -> Panel {
        let mut poisoned = panel.clone();
        for series in &mut poisoned.series {
            let known = panel.frequency.steps_between(series.start, origin, &panel.zone).max(0) as usize;
            series.values.iter_mut().skip(known).for_each(|v| *v = 1e30);
        }
        poisoned
    }

    /// Remembers the greatest value that it was shown.
    struct Spy(std::sync::Mutex<f32>);

    impl Forecaster for Spy {
        fn name(&self) -> &str {
            "spy"
        }

        fn forecast(&self, panel: &Panel, horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>> {
            let greatest = panel.series.iter().flat_map(|s| &s.values).fold(0.0_f32, |a, b| a.max(*b));
            *self.0.lock().unwrap() = greatest;
            SeasonalNaive::short(panel.frequency).forecast(panel, horizon)
        }
    }

    #[test]
    fn every_figure_is_of_the_points_that_a_comparison_scores_and_groups_are_told_apart() {
        let mut panel = panel(30);
        // Every second value of the first series was estimated.
        panel.series[0].weights = (0..30 * 24).map(|hour| if hour % 2 == 0 { 0.5 } else { 1.0 }).collect();
        let quality = |series: usize, hour: usize| match (series, hour % 2) {
            (0, 0) => "estimated",
            _ => "measured",
        };
        let origins = [27 * DAY, 28 * DAY, 29 * DAY];
        let rule = Rule::new(&meterline_schemas::quantiles::LEVELS).unwrap();
        let (short, long) = (SeasonalNaive::short(panel.frequency), SeasonalNaive::long(panel.frequency));
        let models: [&dyn Forecaster; 2] = [&short, &long];
        let compared = compare(&models, &panel, &origins, 24);
        for (evaluation, scoring) in compared.iter().zip(score(&models, &panel, &origins, 24, &rule, &quality)) {
            let Scoring { report, windows, windows_missed, .. } = scoring;
            assert_eq!((windows, windows_missed), (evaluation.windows, 0));
            assert_eq!(report.overall.points, evaluation.points);
            for (one, other) in [(report.overall.wql, evaluation.wql), (report.overall.mase, evaluation.mase)] {
                assert!((one.unwrap() - other.unwrap()).abs() < 1e-9, "{one:?} {other:?}");
            }
            let points: Vec<(&str, usize)> =
                report.by_group.iter().map(|(group, figures)| (group.as_str(), figures.points)).collect();
            assert_eq!(points, [("estimated", 3 * 12), ("measured", 3 * 24 * 3 - 3 * 12)]);
            for (part, (_, figures)) in [&evaluation.estimated, &evaluation.measured].into_iter().zip(&report.by_group)
            {
                assert_eq!(part.points, figures.points);
                assert!((part.wql.unwrap() - figures.wql.unwrap()).abs() < 1e-9, "{part:?}");
            }
            assert_eq!((report.by_series.len(), report.by_step.len()), (3, 24));
        }
    }

    #[test]
    fn a_decision_costs_the_same_in_a_comparison_and_in_a_report() {
        let (panel, origins) = (panel(30), [28 * DAY, 29 * DAY]);
        let naive = SeasonalNaive::short(panel.frequency);
        let of = |under: f64, over: f64| {
            let cost = Cost::new(under, over).unwrap();
            let rule = Rule::new(&LEVELS).unwrap().with_cost(cost);
            let reported = score(&[&naive], &panel, &origins, 24, &rule, &|_, _| "all")[0].report.overall.cost.unwrap();
            let compared = compare_at_cost(&[&naive], &panel, &origins, 24, Some(cost))[0].cost.unwrap();
            assert!((compared - reported).abs() < 1e-9, "{compared} {reported}");
            compared
        };
        assert!((of(6.0, 2.0) - 2.0 * of(3.0, 1.0)).abs() < 1e-9);
        assert_eq!(evaluate(&naive, &panel, &origins, 24).cost, None);
    }

    #[test]
    fn no_value_from_after_the_origin_reaches_a_model() {
        let panel = panel(20);
        let origin = 15 * DAY + 7 * HOUR;
        let spy = Spy(std::sync::Mutex::new(0.0));
        evaluate(&spy, &poisoned(&panel, origin), &[origin], 24);
        assert!(*spy.0.lock().unwrap() < 1e3);
        let naive = SeasonalNaive::for_frequency(Frequency::HOUR);
        assert_eq!(naive.forecast(&panel.cut(origin), 48), naive.forecast(&poisoned(&panel, origin).cut(origin), 48));
    }

    #[test]
    fn the_scale_of_mase_knows_nothing_after_the_first_origin() {
        let panel = panel(20);
        let origins = [16 * DAY, 18 * DAY];
        let naive = SeasonalNaive::short(Frequency::HOUR);
        let plain = evaluate(&naive, &panel, &origins, 24);
        let mut later = panel.clone();
        later.series[0].values[19 * 24..].iter_mut().for_each(|v| *v += 1000.0);
        assert_eq!(plain.mase, evaluate(&naive, &later, &origins, 24).mase, "no point of day 19 is scored");
        assert_eq!((plain.points, plain.windows), (3 * 2 * 24, 3 * 2));
    }

    #[test]
    fn what_no_meter_can_have_meant_is_not_scored_but_counted_and_shown_to_models_all_the_same() {
        let panel = panel(20);
        let origins = [15 * DAY, 16 * DAY];
        let naive = SeasonalNaive::short(Frequency::HOUR);
        let plain = evaluate(&naive, &panel, &origins, 24);
        let mut dirty = panel.clone();
        dirty.series[1].values[16 * 24 + 5] = 1e6;
        let found = evaluate(&naive, &dirty, &origins, 24);
        assert_eq!((found.implausible, found.points, found.windows), (1, plain.points - 1, plain.windows));
        assert!(found.wql.unwrap() < 2.0 * plain.wql.unwrap());
        let rule = Rule::new(&LEVELS).unwrap();
        let scored = score(&[&naive], &dirty, &origins, 24, &rule, &|_, _| "").remove(0);
        assert_eq!((scored.implausible, scored.report.overall.points), (1, found.points));
        // Two days later it is a day ago for a model that looks at everything.
        let spy = Spy(std::sync::Mutex::new(0.0));
        assert_eq!(evaluate(&spy, &dirty, &[17 * DAY], 24).implausible, 0);
        assert_eq!(*spy.0.lock().unwrap(), 1e6);
    }

    struct Picky;

    impl Forecaster for Picky {
        fn name(&self) -> &str {
            "picky"
        }

        fn forecast(&self, panel: &Panel, horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>> {
            let mut all = SeasonalNaive::short(panel.frequency).forecast(panel, horizon);
            all[1] = Err(NoForecast::NotFinite);
            all
        }
    }

    #[test]
    fn compared_models_are_scored_on_identical_windows() {
        let panel = panel(20);
        let naive = SeasonalNaive::short(Frequency::HOUR);
        let origins = [18 * DAY, 19 * DAY];
        let found = compare(&[&naive, &Picky], &panel, &origins, 24);
        assert_eq!((found[0].windows, found[0].windows_without_forecast), (4, 2));
        assert_eq!((found[0].nd, found[0].points), (found[1].nd, found[1].points));
        assert_eq!(found[1].model, "picky");
        assert_eq!(evaluate(&naive, &panel, &origins, 24).windows, 6);
    }

    // Forgets the last step.
    struct Short;

    impl Forecaster for Short {
        fn name(&self) -> &str {
            "short"
        }

        fn forecast(&self, panel: &Panel, horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>> {
            SeasonalNaive::short(panel.frequency).forecast(panel, horizon - 1)
        }
    }

    #[test]
    fn each_model_s_missing_forecasts_are_counted_and_no_model_is_scored_there() {
        let mut panel = panel(20);
        // One window has nothing to be scored, and lacks no forecast.
        panel.series[1].values[19 * 24..].fill(f32::NAN);
        let naive = SeasonalNaive::short(Frequency::HOUR);
        let (origins, rule) = ([17 * DAY, 18 * DAY, 19 * DAY], Rule::new(&LEVELS).unwrap());
        let found = |models: &[&dyn Forecaster]| {
            let found = score(models, &panel, &origins, 24, &rule, &|_, _| "all");
            let of = |of: &Scoring| (of.windows, of.windows_missed, of.report.overall.points);
            found.iter().map(of).collect::<Vec<_>>()
        };
        assert_eq!(found(&[&naive]), [(8, 0, 8 * 24)]);
        assert_eq!(found(&[&naive, &Picky]), [(6, 0, 6 * 24), (6, 2, 6 * 24)]);
        // A forecast that ends before the window is none.
        assert_eq!(found(&[&Short, &naive]), [(0, 8, 0), (0, 0, 0)]);
        let compared = compare(&[&naive, &Short], &panel, &origins, 24);
        assert!(compared.iter().all(|of| (of.points, of.windows_without_forecast) == (0, 8)), "{compared:?}");
    }

    #[test]
    fn missing_actuals_are_not_scored_and_nothing_scored_is_no_figure() {
        let mut panel = panel(20);
        panel.series[0].values[19 * 24 + 3] = f32::NAN;
        let naive = SeasonalNaive::short(Frequency::HOUR);
        assert_eq!(evaluate(&naive, &panel, &[19 * DAY], 24).points, 3 * 24 - 1);
        let none = evaluate(&naive, &panel, &[30 * DAY], 24);
        assert_eq!((none.points, none.wql, none.mase), (0, None, None));
    }
}
