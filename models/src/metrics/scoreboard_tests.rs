use rayon::prelude::*;

use super::*;

const LEVELS: [f64; 5] = [0.025, 0.1, 0.5, 0.9, 0.975];

fn close(found: Option<f64>, expected: f64) -> bool {
    found.is_some_and(|found| (found - expected).abs() < 1e-9 * expected.abs().max(1.0))
}

fn point(actual: f64, mean: f64, quantiles: &[f64], scale: Option<f64>) -> Point<'_> {
    Point { actual, mean, quantiles, scale }
}

#[test]
fn figures_agree_with_a_calculation_by_hand() {
    let rule = Rule::new(&LEVELS).unwrap().with_cost(Cost::new(9.0, 1.0).unwrap());
    let mut totals = rule.empty();
    rule.add(&mut totals, &point(10.0, 9.0, &[4.0, 6.0, 8.0, 10.0, 12.0], Some(2.0)));
    rule.add(&mut totals, &point(-2.0, 1.0, &[-1.0, -1.0, 0.0, 2.0, 3.0], Some(4.0)));
    let found = rule.figures(&totals);
    assert_eq!((found.points, found.missing, found.failures, found.crossed), (2, 0, 0, 0));
    for (name, figure, expected) in [
        ("mae", found.mae, 2.0),
        ("mse", found.mse, 5.0),
        ("rmse", found.rmse, 5.0_f64.sqrt()),
        ("bias", found.bias, 1.0),
        ("relative bias", found.relative_bias, 2.0 / 12.0),
        ("smape", found.smape, (200.0 * 2.0 / 18.0 + 200.0) / 2.0),
        ("nd", found.nd, 4.0 / 12.0),
        // Pinball at 0.1, 0.5, 0.9: 0.4 + 1 + 0 and 0.9 + 1 + 0.4.
        ("wql", found.wql, 2.0 * 3.7 / 3.0 / 12.0),
        ("mase", found.mase, (2.0 / 2.0 + 2.0 / 4.0) / 2.0),
        ("sql", found.sql, 2.0 / 3.0 * (1.4 / 2.0 + 2.3 / 4.0) / 2.0),
        // The decision is the quantile at 0.9.
        ("cost", found.cost, (0.0 + 4.0) / 2.0),
        ("coverage of 95 %", found.interval(0.95).unwrap().coverage, 0.5),
        ("coverage of 80 %", found.interval(0.8).unwrap().coverage, 0.5),
        ("width of 80 %", found.interval(0.8).unwrap().width, 3.5),
        // 8, and 4 + 40 × 1.
        ("score of 95 %", found.interval(0.95).unwrap().score, 26.0),
        ("msis of 95 %", found.interval(0.95).unwrap().msis, (8.0 / 2.0 + 44.0 / 4.0) / 2.0),
        ("share at 0.9", found.levels[3].1, 1.0),
        ("share at 0.1", found.levels[1].1, 0.5),
    ] {
        assert!(close(figure, expected), "{name}: {figure:?}, not {expected}");
    }
    let crps = [(0.4, [4.0, 6.0, 8.0, 10.0, 12.0], 10.0), (0.0, [-1.0, -1.0, 0.0, 2.0, 3.0], -2.0)];
    let expected: f64 = crps.iter().map(|(_, q, y)| super::super::crps(*y, &LEVELS, q)).sum();
    assert!(close(found.crps, expected / 2.0));
    assert!(found.interval(0.5).is_none());
}

#[test]
fn a_missing_actual_is_skipped_and_a_bad_forecast_is_a_failure() {
    let rule = Rule::new(&[0.5]).unwrap();
    let mut totals = rule.empty();
    for (actual, mean, quantiles) in [
        (f64::NAN, 1.0, &[1.0][..]),
        (f64::INFINITY, f64::NAN, &[1.0]),
        (1.0, f64::NAN, &[1.0]),
        (1.0, 1.0, &[f64::INFINITY]),
        (1.0, 1.0, &[]),
        (1.0, 1.0, &[3.0]),
    ] {
        rule.add(&mut totals, &point(actual, mean, quantiles, None));
    }
    let found = rule.figures(&totals);
    assert_eq!((found.points, found.missing, found.failures), (1, 2, 3));
    assert!(close(found.mae, 2.0));
    assert_eq!((found.mase, found.sql, found.cost), (None, None, None));
}

#[test]
fn nothing_scored_and_zero_actuals_give_no_figure() {
    let rule = Rule::new(&LEVELS).unwrap();
    let found = rule.figures(&rule.empty());
    assert_eq!(Figures { intervals: vec![], levels: vec![], losses: vec![], ..found.clone() }, Figures::default());
    assert!(found.intervals.iter().all(|i| i.coverage.is_none() && i.score.is_none() && i.msis.is_none()));
    let mut totals = rule.empty();
    rule.add(&mut totals, &point(0.0, 0.0, &[0.0; 5], Some(0.0)));
    let found = rule.figures(&totals);
    assert_eq!((found.nd, found.wql, found.mase, found.relative_bias), (None, None, None, None));
    assert_eq!((found.mae, found.smape, found.crps), (Some(0.0), Some(0.0), Some(0.0)));
}

#[test]
fn a_figure_that_is_too_great_is_none_and_not_infinite() {
    let rule = Rule::new(&[0.5]).unwrap();
    let mut totals = rule.empty();
    rule.add(&mut totals, &point(1e300, -1e300, &[1e300], None));
    let found = rule.figures(&totals);
    assert_eq!((found.mse, found.rmse), (None, None));
    assert_eq!(found.mae, Some(0.0));
}

#[test]
fn crossed_quantiles_are_counted() {
    let rule = Rule::new(&[0.1, 0.5]).unwrap();
    let mut totals = rule.empty();
    rule.add(&mut totals, &point(1.0, 1.0, &[2.0, 1.0], None));
    rule.add(&mut totals, &point(1.0, 1.0, &[1.0, 1.0], None));
    assert_eq!(rule.figures(&totals).crossed, 1);
}

#[test]
fn scaled_figures_of_all_points_are_means_over_series() {
    let rule = Rule::new(&[0.5]).unwrap();
    let mut board = Scoreboard::new(&rule);
    // Series 1 has three points with error 1, series 2 one with error 5, both of scale 1; series 3 has no scale.
    for (series, step, error, scale) in [
        (1, 0, 1.0, Some(1.0)),
        (1, 1, 1.0, Some(1.0)),
        (1, 2, 1.0, Some(1.0)),
        (2, 0, 5.0, Some(1.0)),
        (3, 0, 9.0, None),
    ] {
        let groups: &[&str] = if series == 2 { &["estimated", "north"] } else { &["north"] };
        board.add(&Place { series, step, groups }, &point(10.0, 10.0 + error, &[10.0 + error], scale));
    }
    let report = board.report();
    assert!(close(report.overall.mase, 3.0));
    assert!(close(report.overall.mae, 17.0 / 5.0), "every point counts the same");
    assert_eq!(report.by_series.iter().map(|(s, f)| (*s, f.points)).collect::<Vec<_>>(), [(1, 3), (2, 1), (3, 1)]);
    assert!(close(report.by_step[0].1.mase, 3.0));
    let groups: Vec<(&str, usize)> = report.by_group.iter().map(|(g, f)| (g.as_str(), f.points)).collect();
    assert_eq!(groups, [("estimated", 1), ("north", 5)]);
}

#[test]
fn merged_boards_say_the_same_on_any_number_of_threads() {
    let rule = Rule::new(&LEVELS).unwrap();
    let part = |series: u64| {
        let mut board = Scoreboard::new(&rule);
        for step in 0..40_u32 {
            let noise = ((series * 7919 + u64::from(step) * 104_729) % 1013) as f64 / 97.0;
            let quantiles = [-1.0, 0.3, 1.1, 2.7, 5.0].map(|q| q * noise);
            let groups: &[&str] = if series.is_multiple_of(3) { &["third"] } else { &[] };
            board.add(&Place { series, step, groups }, &point(noise.sin() * 9.0, noise, &quantiles, Some(noise + 0.1)));
        }
        board
    };
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let boards: Vec<Scoreboard> = pool.install(|| (0..50_u64).into_par_iter().map(part).collect());
        let mut all = Scoreboard::new(&rule);
        boards.iter().for_each(|board| all.merge(board));
        all.report()
    };
    let one = on(1);
    assert_eq!(one, on(4));
    assert_eq!(one.overall.points, 2000);
    assert_eq!(one.by_step.iter().map(|(_, f)| f.points).sum::<usize>(), 2000);
}

#[test]
fn totals_survive_storage() {
    let rule = Rule::new(&LEVELS).unwrap();
    let mut totals = rule.empty();
    rule.add(&mut totals, &point(0.5, 0.25, &[0.0, 0.125, 0.25, 0.5, 0.75], None));
    totals.merge(&totals.clone());
    let stored = serde_json::to_string(&totals).unwrap();
    let restored: Totals = serde_json::from_str(&stored).unwrap();
    let (restored, totals) = (rule.figures(&restored), rule.figures(&totals));
    assert_eq!((restored.points, restored.levels), (2, totals.levels));
    assert!(close(restored.crps, totals.crps.unwrap()), "JSON may lose the last digit of a number");
}

#[test]
fn a_level_that_no_published_figure_averages_over_counts_where_there_are_no_others() {
    let rule = Rule::new(&[0.25, 0.5, 0.75]).unwrap();
    let mut totals = rule.empty();
    rule.add(&mut totals, &point(1.0, 1.0, &[0.0, 1.0, 1.0], None));
    assert!(close(rule.figures(&totals).wql, 2.0 * 0.25 / 3.0));
}
