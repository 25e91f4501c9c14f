//! From labels to forecasts that add up.

use std::sync::Arc;

use jiff::tz::TimeZone;
use meterline_models::data::Series;
use meterline_models::forecaster::SeriesForecast;
use meterline_schemas::Frequency;
use meterline_schemas::config::{FeedConfig, RollupConfig, RollupFrequency};
use meterline_schemas::quantiles::LEVELS;
use meterline_schemas::time::HOUR;
use meterline_schemas::unit::Unit;
use proptest::prelude::*;

use super::*;
use crate::ingest::rollup::saved::SavedMember;
use crate::metadata::records::RunSpec;
use crate::pipelines::spec::tests::spec;

const HORIZON: usize = 30;
/// Origin of the runs, in hours.
const NOW: i64 = 1_000;

/// Hours of two feeds, one of meters and one of others, by region, feeder and site.
fn config(reconcile: Reconcile, frequencies: &[RollupFrequency]) -> meterline_schemas::config::Config {
    let mut config = meterline_schemas::config::Config::default();
    let labels = ["class", "feeder", "region", "site"].map(|label| (label.to_owned(), label.to_owned()));
    for name in ["meters", "others"] {
        let feed = FeedConfig { labels: labels.clone().into(), ..FeedConfig::new(name, "s", "t", "v") };
        config.feed.insert(name.into(), feed);
    }
    let mut rollup = RollupConfig::new(&["region", "feeder", "site"]);
    (rollup.reconcile, rollup.frequencies) = (Some(reconcile), frequencies.to_vec());
    config.rollup.insert("grid".into(), rollup);
    config
}

fn run() -> RunSpec {
    RunSpec { origin: NOW * HOUR, ..spec("r") }
}

/// A series that has had these labels (`region=north feeder=f1`), each from an hour on.
fn member(series: &str, frequency: Frequency, labels: &[(i64, &str)]) -> SavedMember {
    let named = |text: &str| {
        let pairs = text.split_whitespace().map(|pair| pair.split_once('=').unwrap());
        pairs.map(|(label, value)| (Arc::from(label), Arc::from(value))).collect()
    };
    SavedMember {
        series: series.into(),
        feed: Some("meters".into()),
        unit: Some(Unit::KWH),
        began: vec![(0, frequency)],
        runs: labels.iter().map(|(from, text)| (from * HOUR, (from + 1) * HOUR, named(text))).collect(),
        given: Vec::new(),
    }
}

fn hierarchy(config: &meterline_schemas::config::Config, members: &[SavedMember]) -> (Scope, Hierarchy) {
    let scope = Scope::new(config, &run()).unwrap().expect("something to be reconciled");
    let mut hierarchy = Hierarchy::default();
    for member in members {
        hierarchy.take(&scope, member);
    }
    (scope, hierarchy)
}

fn grid(group: &str) -> String {
    format!("rollup.grid:{group}@PT1H")
}

/// A forecast whose intervals have this mean, and deciles to either side, from an hour on.
fn forecast(series: &str, origin: i64, means: Vec<f64>) -> Prediction {
    let spread = |mean: &f64| LEVELS.map(|level| mean + 2.0 * (level - 0.5));
    Prediction {
        series_id: series.into(),
        origin: origin * HOUR,
        unit: "kWh".into(),
        scale: None,
        model_version: "m".into(),
        substituted: false,
        forecast: SeriesForecast { quantiles: means.iter().map(spread).collect(), mean: means },
    }
}

fn context(predictions: &[Prediction], more: &[(&str, i64)]) -> Panel {
    let of = predictions.iter().map(|p| (p.series_id.as_str(), p.origin / HOUR));
    let series = of.chain(more.iter().copied()).map(|(id, origin)| Series::new(id, (origin - 2) * HOUR, vec![1.0; 2]));
    Panel::new(Frequency::HOUR, TimeZone::UTC, series.collect())
}

/// Past errors of the forecasts: numbers that differ from series to series.
fn errors(predictions: &[Prediction]) -> Errors {
    let of = |(number, p): (usize, &Prediction)| {
        let error = |hour: usize| (((hour * 7 + number * 13) % 11) as f32 - 5.0) * (1.0 + (number % 3) as f32);
        Series::new(p.series_id.clone(), (NOW - HORIZON as i64) * HOUR, (0..HORIZON).map(error).collect())
    };
    let series = predictions.iter().enumerate().map(of).collect();
    Errors::new(Panel::new(Frequency::HOUR, TimeZone::UTC, series), (NOW - HORIZON as i64) * HOUR, HORIZON)
}

/// Mean of a series in an hour, where it has a forecast of it.
fn mean(predictions: &[Prediction], series: &str, hour: i64) -> Option<f64> {
    let found = predictions.iter().find(|p| p.series_id == series)?;
    found.forecast.mean.get(usize::try_from(hour - found.origin / HOUR).ok()?).copied()
}

fn assert_sum(predictions: &[Prediction], whole: &str, parts: &[&str], hours: std::ops::Range<i64>) {
    for hour in hours {
        let of = |series: &str| mean(predictions, series, hour).unwrap_or_else(|| panic!("{series} at {hour}"));
        let sum: f64 = parts.iter().map(|part| of(part)).sum();
        assert!((of(whole) - sum).abs() <= 1e-9 * sum.abs().max(1.0), "{whole} at {hour}: {} and {sum}", of(whole));
    }
}

fn left(done: &Done) -> Vec<(Why, usize)> {
    done.assembly.left.iter().map(|(why, (count, _))| (*why, *count)).collect()
}

#[test]
fn series_belong_where_their_labels_name_at_the_origin() {
    let config = config(Reconcile::MinTrace, &[RollupFrequency::Native]);
    let mut gauge = member("gauge", Frequency::HOUR, &[(0, "region=n")]);
    gauge.unit = Some("degC".parse().unwrap());
    let members = [
        member("stays", Frequency::HOUR, &[(0, "region=n feeder=f1 site=s1")]),
        member("moved", Frequency::HOUR, &[(0, "region=n feeder=f1"), (NOW, "region=n feeder=f2")]),
        member("moves later", Frequency::HOUR, &[(0, "region=n"), (NOW + 1, "region=s")]),
        member("quarters", Frequency::QUARTER_HOUR, &[(0, "region=n feeder=f1 site=s1")]),
        member("nowhere", Frequency::HOUR, &[(0, "feeder=f1")]),
        gauge,
    ];
    let (scope, found) = hierarchy(&config, &members);
    let shown: Vec<(&str, Option<usize>, Vec<&str>)> = found
        .groups
        .iter()
        .map(|group| (&*group.series, group.above, group.members.iter().map(|member| &**member).collect()))
        .collect();
    let [n, f1, s1, f2] =
        ["region=n", "region=n/feeder=f1", "region=n/feeder=f1/site=s1", "region=n/feeder=f2"].map(grid);
    assert_eq!(
        shown,
        [
            (n.as_str(), None, vec!["moves later"]),
            (&f1, Some(0), vec![]),
            (&s1, Some(1), vec!["stays"]),
            (&f2, Some(0), vec!["moved"]),
        ]
    );
    assert!(found.groups.iter().all(|group| group.elsewhere == 0), "native lengths are of one frequency");
    assert!(scope.makes(&n) && !scope.makes("rollup.gridiron:region=n@PT1H") && !scope.makes("stays"));
}

#[test]
fn what_a_run_does_not_forecast_is_known_to_be_missing() {
    let hours = RollupFrequency::Every(Frequency::HOUR);
    let config = config(Reconcile::MinTrace, &[hours]);
    let mut away = member("away", Frequency::HOUR, &[(0, "region=n")]);
    away.feed = Some("gone".into());
    let members = [
        member("hours", Frequency::HOUR, &[(0, "region=n feeder=f1")]),
        member("quarters", Frequency::QUARTER_HOUR, &[(0, "region=n feeder=f1")]),
        // A day lies within no hour: it adds nothing.
        member("days", Frequency::Day, &[(0, "region=n feeder=f1")]),
        away,
    ];
    let (_, found) = hierarchy(&config, &members);
    let [region, feeder] = &found.groups[..] else { panic!("{found:?}") };
    assert_eq!((region.members.len(), region.elsewhere, feeder.members.len(), feeder.elsewhere), (0, 0, 1, 1));
    // Other runs and other ways.
    let mut other = run();
    (other.frequency, other.group_id) = (Frequency::QUARTER_HOUR, "PT15M".into());
    assert!(Scope::new(&config, &other).unwrap().is_none());
    assert!(Scope::new(&self::config(Reconcile::None, &[hours]), &run()).unwrap().is_none());
    let parts_alone = Scope::new(&self::config(Reconcile::BottomUp, &[hours]), &run()).unwrap().unwrap();
    assert!(!parts_alone.weighs_by_errors());
}

#[test]
fn a_part_that_a_label_policy_takes_is_forecast_elsewhere() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("meta.csv"), "series_id,tariff\na,industry\n").unwrap();
    let text = "[labels.meta]\nfile = \"meta.csv\"\nlabels = { tariff = \"tariff\" }\n\
                [policy.a]\nfrequency = \"PT1H\"\nlabel = { tariff = \"industry\" }\n";
    let labelled = meterline_schemas::config::parse(text).unwrap();
    let classes = Arc::new(crate::ingest::classes::Classes::read(&labelled, directory.path()).unwrap());
    let of_run = members::Members::of(classes, "PT1H", Frequency::HOUR, NOW * HOUR).unwrap();
    let config = config(Reconcile::BottomUp, &[RollupFrequency::Every(Frequency::HOUR)]);
    let scope = Scope::new(&config, &run()).unwrap().unwrap().among(of_run);
    let mut found = Hierarchy::default();
    for series in ["a", "b"] {
        found.take(&scope, &member(series, Frequency::HOUR, &[(0, "region=n feeder=f1")]));
    }
    let [_, feeder] = &found.groups[..] else { panic!("{found:?}") };
    assert_eq!((feeder.members.as_slice(), feeder.elsewhere), ([Arc::from("b")].as_slice(), 1));
    // The group of the label has no roll-ups.
    let other = RunSpec { group_id: "PT1H/tariff=industry".into(), ..run() };
    assert!(Scope::new(&config, &other).unwrap().is_none());
}

/// North has two feeders, of which one has two sites with a meter or two each.
fn north() -> Vec<SavedMember> {
    let of = |series: &str, labels: &str| member(series, Frequency::HOUR, &[(0, labels)]);
    vec![
        of("a", "region=n feeder=f1 site=s1"),
        of("b", "region=n feeder=f1 site=s1"),
        of("c", "region=n feeder=f1 site=s2"),
        of("d", "region=n feeder=f2"),
    ]
}

fn names() -> [String; 5] {
    ["region=n", "region=n/feeder=f1", "region=n/feeder=f1/site=s1", "region=n/feeder=f1/site=s2", "region=n/feeder=f2"]
        .map(grid)
}

/// Forecasts of the meters of [`north`] and of its roll-ups, each of another size.
fn forecasts() -> Vec<Prediction> {
    let meters = ["a", "b", "c", "d"].map(str::to_owned);
    let sizes = [1.0, 2.0, 3.0, 4.0, 14.0, 8.0, 2.0, 4.0, 3.0];
    let of = |(series, size): (String, f64)| {
        forecast(&series, NOW, (0..HORIZON).map(|hour| size + (hour % 5) as f64 / 10.0).collect())
    };
    meters.into_iter().chain(names()).zip(sizes).map(of).collect()
}

fn reconciled(way: Reconcile, members: &[SavedMember], predictions: &mut [Prediction], more: &[(&str, i64)]) -> Done {
    let (scope, hierarchy) = hierarchy(&config(way, &[RollupFrequency::Native]), members);
    let (context, errors) = (context(predictions, more), errors(predictions));
    reconcile(predictions, &scope, &hierarchy, &context, &errors, HORIZON)
}

#[test]
fn every_level_is_the_sum_of_the_one_below() {
    let [n, f1, s1, s2, f2] = names();
    let all = NOW..NOW + HORIZON as i64;
    for way in [Reconcile::BottomUp, Reconcile::MinTrace] {
        let (before, mut predictions) = (forecasts(), forecasts());
        let done = reconciled(way, &north(), &mut predictions, &[]);
        assert_eq!((done.reconciled, left(&done), done.late), (5, vec![], 0), "{way:?}");
        assert_sum(&predictions, &n, &[&f1, &f2], all.clone());
        assert_sum(&predictions, &f1, &[&s1, &s2], all.clone());
        assert_sum(&predictions, &s1, &["a", "b"], all.clone());
        assert_sum(&predictions, &s2, &["c"], all.clone());
        assert_sum(&predictions, &f2, &["d"], all.clone());
        for (p, before) in predictions.iter().zip(&before) {
            assert!(p.forecast.quantiles.iter().all(|q| q.is_sorted()), "{}", p.series_id);
            let meter = !p.series_id.starts_with("rollup.");
            assert_eq!(p.forecast == before.forecast, way == Reconcile::BottomUp && meter, "{way:?} {}", p.series_id);
        }
        assert!(done.off().is_some_and(|off| off > 0.1), "{done:?}");
    }
}

#[test]
fn roll_ups_that_cannot_agree_are_left_counted_and_still_parts() {
    let [n, f1, s1, s2, f2] = names();
    let all = NOW..NOW + HORIZON as i64;
    let without = |series: &str| forecasts().into_iter().filter(|p| p.series_id != series).collect::<Vec<_>>();
    // A meter that is too young: its site keeps its forecast, the feeder is the sum of its sites.
    let mut predictions = without("b");
    let done = reconciled(Reconcile::BottomUp, &north(), &mut predictions, &[("b", NOW)]);
    assert_eq!((done.reconciled, left(&done)), (4, vec![(Why::PartWithoutForecast, 1)]));
    assert_eq!(mean(&predictions, &s1, NOW), Some(2.0));
    assert_sum(&predictions, &f1, &[&s1, &s2], all.clone());
    assert_sum(&predictions, &n, &[&f1, &f2], all.clone());

    // One that fell silent long ago is in no figure of its site either.
    let mut predictions = without("b");
    let done = reconciled(Reconcile::BottomUp, &north(), &mut predictions, &[("b", NOW - HORIZON as i64)]);
    assert_eq!((done.reconciled, left(&done), done.assembly.ended), (5, vec![], 1));
    assert_sum(&predictions, &s1, &["a"], all.clone());

    // A site without a forecast: the feeder is the sum of what the site is the sum of.
    let mut predictions = without(&s1);
    let done = reconciled(Reconcile::MinTrace, &north(), &mut predictions, &[]);
    assert_eq!((done.reconciled, left(&done)), (4, vec![]));
    assert_sum(&predictions, &f1, &["a", "b", &s2], all.clone());

    // Another unit.
    let mut predictions = forecasts();
    predictions[3].unit = "MJ".into();
    let done = reconciled(Reconcile::MinTrace, &north(), &mut predictions, &[]);
    assert_eq!((done.reconciled, left(&done)), (4, vec![(Why::PartOfAnotherUnit, 1)]));
    assert_sum(&predictions, &n, &[&f1, &f2], all.clone());

    // Nothing belongs to the other feeder any more; a broken forecast stops nobody else.
    let mut predictions = forecasts();
    predictions[0].forecast.quantiles[3][0] = 9.0;
    let done = reconciled(Reconcile::MinTrace, &north()[..3], &mut predictions, &[]);
    assert_eq!((done.reconciled, left(&done)), (0, vec![(Why::NoParts, 1), (Why::Failed, 4)]));
    assert!(done.failure.is_some_and(|reason| reason.contains("quantiles of a")));
    assert_eq!(mean(&predictions, &n, NOW), mean(&forecasts(), &n, NOW));
}

#[test]
fn parts_of_other_runs_leave_the_lowest_level_alone() {
    let mut members = north();
    members.push(member("quarters", Frequency::QUARTER_HOUR, &[(0, "region=n feeder=f2")]));
    let config = config(Reconcile::MinTrace, &[RollupFrequency::Every(Frequency::HOUR)]);
    let (scope, hierarchy) = hierarchy(&config, &members);
    let mut predictions = forecasts();
    let (context, errors) = (context(&predictions, &[]), errors(&predictions));
    let done = reconcile(&mut predictions, &scope, &hierarchy, &context, &errors, HORIZON);
    assert_eq!((done.reconciled, left(&done)), (4, vec![(Why::PartElsewhere, 1)]));
    let [n, f1, _, _, f2] = names();
    assert_sum(&predictions, &n, &[&f1, &f2], NOW..NOW + HORIZON as i64);
}

#[test]
fn late_series_go_on_as_a_season_before_and_agree_before_the_others_begin() {
    let [n, f1, s1, s2, f2] = names();
    for way in [Reconcile::BottomUp, Reconcile::MinTrace] {
        let mut predictions = forecasts();
        // The meters of the first site, and the site, are three and five hours late.
        for (place, hours) in [(0, 5), (1, 3), (6, 3)] {
            predictions[place].origin -= hours * HOUR;
        }
        let done = reconciled(way, &north(), &mut predictions, &[]);
        assert_eq!((done.reconciled, left(&done), done.late), (5, vec![], 3), "{way:?}");
        let end = NOW + HORIZON as i64;
        assert_sum(&predictions, &n, &[&f1, &f2], NOW..end);
        // Before the others begin the site has a forecast, and is the sum of its meters from its own beginning on.
        assert_sum(&predictions, &s1, &["a", "b"], NOW - 3..end - 5);
        assert_sum(&predictions, &f1, &[&s1, &s2], NOW..end - 3);
        assert!(predictions.iter().all(|p| p.forecast.mean.len() == HORIZON));
        // The first meter has no forecast of the last hours: its feeder has what it forecast for a day before.
        if way == Reconcile::BottomUp {
            let day_before = mean(&forecasts(), "a", end - 4 + 5 - 24).unwrap();
            let others: f64 = ["b", "c"].iter().map(|m| mean(&predictions, m, end - 4).unwrap()).sum();
            let assumed = mean(&predictions, &f1, end - 4).unwrap() - others;
            assert!((assumed - day_before).abs() < 1e-9, "{assumed} {day_before}");
        }
    }
}

#[test]
fn two_ways_across_the_same_meters_agree_with_each_other() {
    let mut config = config(Reconcile::MinTrace, &[RollupFrequency::Native]);
    let mut classes = RollupConfig::new(&["class"]);
    classes.reconcile = Some(Reconcile::BottomUp);
    config.rollup.insert("class".into(), classes);
    let of = |series: &str, labels: &str| member(series, Frequency::HOUR, &[(0, labels)]);
    let members = [of("a", "region=n class=x"), of("b", "region=n class=y"), of("c", "region=n class=x")];
    let (n, x) = (grid("region=n"), "rollup.class:class=x@PT1H".to_owned());
    let (scope, hierarchy) = hierarchy(&config, &members);
    let mut predictions: Vec<Prediction> = [("a", 1.0), ("b", 2.0), ("c", 3.0), (&n, 9.0), (&x, 1.0)]
        .map(|(series, size)| forecast(series, NOW, vec![size; HORIZON]))
        .into();
    let (context, errors) = (context(&predictions, &[]), errors(&predictions));
    let done = reconcile(&mut predictions, &scope, &hierarchy, &context, &errors, HORIZON);
    assert_eq!((done.reconciled, left(&done)), (2, vec![]));
    assert_sum(&predictions, &n, &["a", "b", "c"], NOW..NOW + HORIZON as i64);
    assert_sum(&predictions, &x, &["a", "c"], NOW..NOW + HORIZON as i64);
    assert!(mean(&predictions, "a", NOW).is_some_and(|a| a > 1.0), "the region said more");
}

#[test]
fn consumption_stays_at_or_above_zero_and_net_load_need_not() {
    let members = [member("a", Frequency::HOUR, &[(0, "region=n")]), member("b", Frequency::HOUR, &[(0, "region=n")])];
    for (generates, least) in [(false, 0.0), (true, -9.0)] {
        let n = grid("region=n");
        let mut predictions: Vec<Prediction> =
            [("a", 0.2), ("b", 5.0), (&n, 0.5)].map(|(series, size)| forecast(series, NOW, vec![size; HORIZON])).into();
        let (scope, hierarchy) = hierarchy(&config(Reconcile::MinTrace, &[RollupFrequency::Native]), &members);
        let mut context = context(&predictions, &[]);
        if generates {
            context.series[0].values[0] = -1.0;
        }
        let errors = errors(&predictions);
        reconcile(&mut predictions, &scope, &hierarchy, &context, &errors, HORIZON);
        assert_sum(&predictions, &n, &["a", "b"], NOW..NOW + HORIZON as i64);
        let lowest = |p: &Prediction| p.forecast.quantiles[0][0].min(p.forecast.mean[0]);
        let found = predictions.iter().map(lowest).fold(f64::INFINITY, f64::min);
        assert!(found >= least && (found < 0.0) == generates, "{generates}: {found}");
    }
}

/// A tree: the sites of feeders, and the meters of sites, as numbers; some without a site or a feeder.
fn tree() -> impl Strategy<Value = Vec<(u8, Option<u8>, Option<u8>)>> {
    let meter = (0..3_u8, prop::option::weighted(0.9, 0..3_u8), prop::option::weighted(0.8, 0..4_u8));
    prop::collection::vec(meter, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    /// Whatever the tree, the forecasts, who is late and who has none: a roll-up that is not left is the sum of what is
    /// below it.
    #[test]
    fn sums_of_any_tree_add_up(
        meters in tree(),
        sizes in prop::collection::vec(-20.0..100.0_f64, 1..20),
        late in prop::collection::vec(0..4_i64, 1..7),
        missing in prop::collection::vec(prop::bool::weighted(0.1), 1..11),
        by_parts in any::<bool>(),
    ) {
        let way = if by_parts { Reconcile::BottomUp } else { Reconcile::MinTrace };
        let label = |name: &str, value: Option<u8>| value.map(|value| format!(" {name}={value}")).unwrap_or_default();
        let members: Vec<SavedMember> = meters.iter().enumerate().map(|(number, (region, feeder, site))| {
            let labels = format!("region={region}{}{}", label("feeder", *feeder), label("site", *site));
            member(&format!("m{number:02}"), Frequency::HOUR, &[(0, &labels)])
        }).collect();
        let (scope, hierarchy) = hierarchy(&config(way, &[RollupFrequency::Native]), &members);
        let groups = hierarchy.groups.iter().map(|group| group.series.to_string());
        let series: Vec<String> = members.iter().map(|member| member.series.to_string()).chain(groups).collect();
        // Meters are late, roll-ups never are: with any of their parts they have an interval.
        let mut predictions: Vec<Prediction> = series.iter().enumerate().filter(|(number, _)| {
            !missing[number % missing.len()]
        }).map(|(number, series)| {
            let late = if series.starts_with('m') { late[number % late.len()] } else { 0 };
            let size = |hour: usize| sizes[(number * 5 + hour) % sizes.len()];
            forecast(series, NOW - late, (0..HORIZON).map(size).collect())
        }).collect();
        let (context, errors) = (context(&predictions, &[]), errors(&predictions));
        let sums = assemble(&hierarchy, &Known::new(&predictions, &context, HORIZON)).sums;
        let done = reconcile(&mut predictions, &scope, &hierarchy, &context, &errors, HORIZON);
        let with_forecast = predictions.iter().filter(|p| scope.makes(&p.series_id)).count();
        let left: usize = left(&done).iter().map(|(_, count)| count).sum();
        prop_assert_eq!(done.reconciled + left, with_forecast);
        prop_assert_eq!(done.reconciled, sums.len());
        for sum in &sums {
            // The last hours are those of which late meters have no forecast.
            for hour in NOW..NOW + HORIZON as i64 - 3 {
                let of = |place: &usize| mean(&predictions, &predictions[*place].series_id, hour).unwrap();
                let (whole, parts): (f64, f64) = (of(&sum.whole), sum.parts.iter().map(of).sum());
                prop_assert!((whole - parts).abs() <= 1e-7, "{} at {}: {} {}", predictions[sum.whole].series_id, hour, whole, parts);
            }
        }
        let sorted = predictions.iter().all(|p| p.forecast.quantiles.iter().all(|q| q.is_sorted()));
        prop_assert!(sorted);
    }
}
