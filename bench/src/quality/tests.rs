//! Every known figure, from the real data, where they are.

use std::path::PathBuf;

use meterline_models::statistics::{Method, Request};
use meterline_schemas::time::{DAY, format_micros};
use meterline_tests::skip::note;

use super::*;

/// The data, or `None` with a visible line. Absent data fail no test: licences keep them out of the project, and so out
/// of every checkout.
fn data(test: &str) -> Option<PathBuf> {
    match data_folder() {
        Ok(folder) => Some(folder),
        Err(reason) => {
            note(&format!("SKIPPED {test}: {reason}"));
            None
        }
    }
}

fn assert_all_hold(name: &str, checked: &[Checked]) {
    assert!(!checked.is_empty(), "{name} has no check");
    let broken: Vec<String> = checked.iter().filter(|c| !c.holds()).map(Checked::to_string).collect();
    assert!(broken.is_empty(), "{name}: {broken:#?}");
}

#[test]
fn load_protocols_give_the_known_figures_of_both_seasonal_naives() {
    let Some(data) = data("known figures of P1 to P4") else { return };
    for protocol in Protocol::load_all(&data).unwrap() {
        assert_all_hold(protocol.name, &protocol.check_all());
        // A peer of the same name has the same figures.
        for check in &protocol.checks {
            let peer = protocol.peer(&check.baseline.to_string()).and_then(|row| row.get(check.metric));
            assert_eq!(peer, Some(check.expected), "{} {}", protocol.name, check.what());
        }
    }
}

#[test]
fn load_protocols_have_their_series_origins_and_points() {
    let Some(data) = data("extent of P1 to P4") else { return };
    let found: Vec<_> = Protocol::load_all(&data)
        .unwrap()
        .iter()
        .map(|p| {
            let [first, last] = [p.origins[0], p.origins[p.origins.len() - 1]].map(format_micros);
            let length = p.panel.series[0].values.len();
            assert_eq!(p.train_until, p.origins[0]);
            assert!(p.panel.series.iter().all(|s| s.start == p.panel.series[0].start && s.values.len() == length));
            (p.name, p.panel.series.len(), length, first, last, p.origins.len(), p.points(), p.covariates_of(0).count())
        })
        .collect();
    let row = |name, series, length, first: &str, last: &str, origins, points, covariates| {
        (name, series, length, first.to_owned(), last.to_owned(), origins, points, covariates)
    };
    assert_eq!(
        found,
        [
            row("P1", 10, 8_760, "2014-11-06T00:00:00Z", "2014-12-31T00:00:00Z", 56, 13_440, 0),
            row("P2", 9, 8_832, "2021-10-10T00:00:00Z", "2021-10-30T00:00:00Z", 21, 18_144, 2),
            row("P3", 1, 52_608, "2014-11-05T13:00:00Z", "2014-12-30T13:00:00Z", 56, 2_688, 2),
            row("P4", 1, 61_344, "2011-11-06T00:00:00Z", "2011-12-25T00:00:00Z", 8, 1_344, 1),
        ]
    );
}

#[test]
fn the_published_week_of_uci_is_as_hard_as_known() {
    let Some(data) = data("the published week of UCI") else { return };
    let week = uci::published_week(&data).unwrap();
    assert_all_hold(week.name, &week.check_all());
    assert_eq!((week.origins.len(), week.points()), (7, 1_680));
}

#[test]
fn portuguese_stamps_lose_an_hour_in_spring_and_double_one_in_autumn() {
    let Some(data) = data("the clocks of UCI") else { return };
    let panel = p1(&data).unwrap().panel;
    let total = |at: &str| -> f32 {
        let at = at.parse::<jiff::Timestamp>().unwrap().as_microsecond();
        let step = |s: &meterline_models::data::Series| panel.frequency.steps_between(s.start, at, &panel.zone);
        panel.series.iter().map(|s| s.values[step(s) as usize]).sum()
    };
    let beside = |day: &str| (total(&format!("{day}T00:00:00Z")) + total(&format!("{day}T02:00:00Z"))) / 2.0;
    let spring = total("2014-03-30T01:00:00Z") / beside("2014-03-30");
    let autumn = total("2014-10-26T01:00:00Z") / beside("2014-10-26");
    assert!((0.2..0.4).contains(&spring), "{spring}");
    assert!((1.3..1.8).contains(&autumn), "{autumn}");
}

#[test]
fn the_dates_of_victoria_are_those_of_melbourne() {
    let Some(data) = data("dates of Victoria") else { return };
    assert_eq!(vic::dates_that_differ(&data), Ok(0));
    let protocol = p3(&data).unwrap();
    let holiday = &protocol.covariates[1].values;
    let christmas = protocol.first_step(0, protocol.origins[49]).unwrap();
    assert_eq!(format_micros(protocol.origins[49]), "2014-12-24T13:00:00Z");
    assert_eq!(holiday[christmas - 1..christmas + 96], [vec![0.0], vec![1.0; 96]].concat(), "Christmas, Boxing Day");
    assert_eq!(holiday[christmas + 96], 0.0);
}

#[test]
fn the_missing_radiation_lies_on_a_line() {
    let Some(data) = data("missing radiation") else { return };
    let protocol = p2(&data).unwrap();
    let of = protocol.panel.series.iter().position(|s| s.id == "LLS").unwrap();
    let radiation = &protocol.covariates_of(of).find(|c| c.name == "radiation").unwrap().values;
    let start = protocol.panel.series[of].start;
    let begun = jiff::Timestamp::from_microsecond(start).unwrap();
    assert_eq!(begun.to_string(), "2021-07-31T00:00:00Z");
    // 62 days and 10:15 later, less the one step that labels at the end are moved back.
    let first = 62 * 96 + 40;
    let slopes: Vec<f32> = (first..first + 366).map(|i| radiation[i] - radiation[i - 1]).collect();
    assert!(slopes.iter().all(|s| (s - slopes[0]).abs() < 0.05 * slopes[0].abs() + 0.1), "{slopes:?}");
    assert!(start + (first + 366) as i64 * (DAY / 96) < protocol.train_until, "outside the test window");
}

#[test]
fn m4_gives_the_figures_of_the_official_tables() {
    let Some(data) = data("known figures of M4") else { return };
    let m4 = M4Hourly::load(&data).unwrap();
    assert_all_hold("M4 Hourly", &m4.check_all());
    let count = |n: usize| m4.panel.series.iter().filter(|s| s.values.len() == n).count();
    assert_eq!((count(700), count(960), m4.panel.series.len()), (169, 245, 414));
    assert_eq!(m4.panel.series[1].id, "H2");
    let ends = m4.panel.series.iter().map(|s| s.origin(m4.panel.frequency, &m4.panel.zone));
    let [first, last] = [ends.clone().min(), ends.max()].map(|end| format_micros(end.unwrap()));
    assert_eq!((first.as_str(), last.as_str()), ("2009-06-30T16:00:00Z", "2017-12-10T12:00:00Z"), "years apart");
}

#[test]
fn figures_written_down_for_m4_are_those_of_the_files() {
    let Some(data) = data("official tables of M4") else { return };
    let official = published::m4_official(&data).unwrap();
    assert_eq!(official.len(), 61);
    let zero_shot = published::gift_eval(&data, "m4_hourly/H/short").unwrap();
    let names = [
        ("entry 238, the best at this frequency", "238"),
        ("ES-RNN, entry 118, the winner", "118"),
        ("seasonal naive, day", "sNaive"),
        ("Naive2", "Naive2"),
        ("Theta", "Theta"),
        ("ARIMA", "ARIMA"),
        ("ETS", "ETS"),
        ("TiRex, zero-shot", "TiRex"),
        ("Chronos-2, zero-shot", "Chronos-2"),
    ];
    for row in published::m4_hourly() {
        // The one whose file is not here.
        let Some((_, name)) = names.iter().find(|(ours, _)| *ours == row.model) else {
            assert_eq!(row.model, "N-BEATS-G");
            continue;
        };
        let rows = if row.source == "GIFT-Eval" { &zero_shot } else { &official };
        assert_agrees(&row, rows.iter().find(|r| r.model == *name).unwrap());
    }
    let naive2 = official.iter().find(|r| r.model == "Naive2").unwrap();
    assert_eq!([Metric::Smape, Metric::Mase].map(|m| naive2.get(m)), m4::NAIVE2.map(Some));
}

#[test]
fn naive2_of_the_models_is_that_of_the_baselines() {
    let Some(data) = data("M4 Hourly") else { return };
    let m4 = m4::M4Hourly::load(&data).unwrap();
    for series in &m4.panel.series {
        let values: Vec<f64> = series.values.iter().map(|value| f64::from(*value)).collect();
        let request =
            Request { values: &values, periods: &[m4::SEASON], regressors: &[], horizon: m4::HORIZON, levels: &[0.5] };
        let found = Method::Naive2.forecast(&request).unwrap().mean;
        let expected = Baseline::Naive2.forecast(&series.values, m4::SEASON, m4::HORIZON).unwrap();
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() <= 1e-9 * expected.abs(), "{}: {found} {expected}", series.id);
        }
    }
}

#[test]
fn figures_written_down_for_fev_are_those_of_the_files() {
    let Some(data) = data("result files of fev-bench") else { return };
    for (task, written) in [("ETT_15T", published::fev_ett_15t()), ("proenfo_gfc14", published::fev_gefcom())] {
        let rows = published::fev(&data, task).unwrap();
        assert!(rows.len() >= 20, "{task}: {} rows", rows.len());
        for row in written {
            assert_agrees(&row, rows.iter().find(|r| r.model == row.model).unwrap());
        }
        let lightgbm = rows.iter().find(|r| r.model == "LightGBM").unwrap();
        assert_eq!(lightgbm.get(Metric::Sql), lightgbm.get(Metric::Mase), "{task}: it has no quantiles");
    }
}

/// Every figure of `row` is that of `file` to three digits.
fn assert_agrees(row: &PeerRow, file: &PeerRow) {
    for (metric, figure) in &row.figures {
        let found = file.get(*metric).unwrap();
        assert_eq!(format!("{found:.3}"), format!("{figure:.3}"), "{} {metric}", row.model);
    }
}

#[test]
fn the_long_horizon_protocol_gives_the_known_figures() {
    let Some(data) = data("known figures of ETT") else { return };
    let ettm1 = LongHorizon::ettm1(&data).unwrap();
    assert_all_hold("ETTm1", &ettm1.check_all());
    assert_eq!((ettm1.train.len(), ettm1.test.clone(), ettm1.windows(96).len()), (34_560, 46_080..57_600, 11_425));
    for (check, what) in [(Baseline::SeasonalNaiveDay, "seasonal naive, day"), (Baseline::RepeatLast, "repeat last")] {
        let peers = ettm1.peers(96);
        let row = peers.iter().find(|row| row.model == what).unwrap();
        for (_, known) in ettm1.checks.iter().filter(|(_, known)| known.baseline == check) {
            assert_eq!(row.get(known.metric), Some(known.expected));
        }
    }
    let etth1 = LongHorizon::etth1(&data).unwrap();
    assert_eq!((etth1.train.len(), etth1.test.clone(), etth1.windows(720).len()), (8_640, 11_520..14_400, 2_161));
    for data in [&ettm1, &etth1] {
        assert!(ett::HORIZONS.iter().all(|h| !data.peers(*h).is_empty()), "{}", data.name);
        for series in &data.panel.series {
            let train = &series.values[data.train.clone()];
            let n = train.len() as f64;
            let mean = train.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
            let variance = train.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / n;
            assert!(mean.abs() < 1e-5 && (variance - 1.0).abs() < 1e-5, "{} {}", data.name, series.id);
        }
    }
}

#[test]
fn the_windows_of_fev_end_with_the_file() {
    let Some(data) = data("windows of fev-bench") else { return };
    let protocol = ett::fev_ett_15t(&data).unwrap();
    let origin = protocol.panel.series[0].origin(protocol.panel.frequency, &protocol.panel.zone);
    assert_eq!((protocol.origins.len(), protocol.points()), (20, 13_440));
    assert_eq!(protocol.origins[19] + DAY, origin);
}

#[test]
fn an_absent_folder_is_named_with_what_to_do() {
    let nowhere = Path::new("/absent/data");
    let complaints = [
        p1(nowhere).unwrap_err(),
        p2(nowhere).unwrap_err(),
        p3(nowhere).unwrap_err(),
        p4(nowhere).unwrap_err(),
        M4Hourly::load(nowhere).unwrap_err(),
        LongHorizon::ettm1(nowhere).unwrap_err(),
        published::fev(nowhere, "ETT_15T").unwrap_err(),
    ];
    for complaint in complaints {
        assert!(complaint.contains("/absent/data/") && complaint.contains("METERLINE_DATA"), "{complaint}");
    }
}
