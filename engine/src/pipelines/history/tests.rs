//! Rows in any order, of series of several groups, with what they count.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array};
use arrow::datatypes::{Field, Schema};
use datafusion::prelude::SessionContext;
use meterline_models::data::{Column, Known};
use meterline_schemas::time::HOUR;
use proptest::prelude::*;

use super::*;
use crate::ingest::classes::Classes;

fn rows(of: &[(&str, Micros, f64)]) -> RecordBatch {
    let schema = Schema::new(vec![
        Field::new("series_id", DataType::Utf8, false),
        Field::new("start", tables::instant(), false),
        Field::new("value", DataType::Float64, false),
        Field::new("unit", DataType::Utf8, false),
    ]);
    RecordBatch::try_new(
        Arc::new(schema),
        vec![
            Arc::new(StringArray::from_iter_values(of.iter().map(|r| r.0))),
            Arc::new(TimestampMicrosecondArray::from_iter_values(of.iter().map(|r| r.1)).with_timezone("UTC")),
            Arc::new(Float64Array::from_iter_values(of.iter().map(|r| r.2))),
            Arc::new(StringArray::from_iter_values(of.iter().map(|_| "kWh"))),
        ],
    )
    .unwrap()
}

#[test]
fn each_series_starts_and_ends_with_an_interval_that_is_there() {
    let mut builder = HistoryBuilder::new(Frequency::HOUR, TimeZone::UTC, 0);
    builder
        .add(&rows(&[("b", 5 * HOUR, 5.0), ("a", 2 * HOUR, 2.0), ("b", 3 * HOUR, 3.0), ("b", HOUR / 2, 9.0)]))
        .unwrap();
    let (history, off_grid) = builder.finish();
    assert_eq!(off_grid, 1);
    assert_eq!(history.intervals(), 3);
    let [a, b] = &history.panel.series[..] else { panic!("two series") };
    assert_eq!((a.id.as_str(), a.start, &a.values[..]), ("a", 2 * HOUR, &[2.0][..]));
    assert_eq!((b.id.as_str(), b.start, b.values.len()), ("b", 3 * HOUR, 3));
    assert!(b.values[1].is_nan());
    assert_eq!(b.origin(Frequency::HOUR, &TimeZone::UTC), 6 * HOUR);
}

#[test]
fn keeping_the_last_intervals_keeps_the_origin() {
    let mut series = Series::new("a", 0, vec![1.0, 2.0, 3.0]);
    series.weights = vec![0.1, 0.2, 0.3];
    series.covariates = vec![Column { offset: 0, values: [10.0, 20.0, 30.0, 40.0].into() }];
    keep_last(&mut series, 2, Frequency::HOUR, &TimeZone::UTC);
    assert_eq!((series.start, &series.values[..]), (HOUR, &[2.0, 3.0][..]));
    assert_eq!(series.origin(Frequency::HOUR, &TimeZone::UTC), 3 * HOUR);
    assert_eq!((&series.weights[..], series.covariates[0].at(2)), (&[0.2, 0.3][..], 40.0));
}

#[test]
fn keeping_from_an_instant_forgets_what_is_earlier() {
    let series = |id: &str, start| Series::new(id, start, vec![1.0, 2.0, 3.0]);
    let panel =
        Panel::new(Frequency::HOUR, TimeZone::UTC, vec![series("a", 0), series("b", 5 * HOUR), series("c", -9 * HOUR)]);
    let mut history = History { panel, units: vec!["kWh".into(); 3] };
    history.panel.covariates = vec![Covariate { name: "temperature".into(), known: Known::Ahead }];
    for (number, series) in (0u8..).zip(&mut history.panel.series) {
        series.weights = vec![0.5, 0.6, 0.7];
        series.covariates = vec![Column { offset: 0, values: vec![f32::from(number); 4].into() }];
    }
    history.keep_from(2 * HOUR);
    let found: Vec<(Micros, usize)> = history.panel.series.iter().map(|s| (s.start, s.values.len())).collect();
    assert_eq!(found, [(2 * HOUR, 1), (5 * HOUR, 3), (-6 * HOUR, 0)]);
    assert_eq!(history.retain(|series| series.id != "b"), 1);
    let [a, c] = &history.panel.series[..] else { panic!("two series") };
    assert_eq!((a.weight(0), c.weights.len()), (0.7, 0));
    // Interval 1 of `a` is what was 3.
    assert_eq!((a.covariates[0].at(1), a.covariates[0].at(2).is_nan(), c.covariates[0].at(0)), (0.0, true, 2.0));
}

#[test]
fn series_names_cannot_end_the_query() {
    let query = query(Frequency::HOUR, "1.0", 0, HOUR, Some(&["o'brien".to_owned()]), &["a'b".to_owned()]);
    assert!(query.ends_with("AND series_id IN ('o''brien') AND feed NOT IN ('a''b')"), "{query}");
}

#[tokio::test]
async fn what_was_estimated_counts_less_and_of_a_roll_up_the_part_that_was() {
    let texts = |of: &[&str]| Arc::new(StringArray::from(of.to_vec())) as ArrayRef;
    let counts = |of: [Option<i64>; 6]| Arc::new(Int64Array::from(of.to_vec())) as ArrayRef;
    let hours = |of: [i64; 6]| {
        let starts = TimestampMicrosecondArray::from_iter_values(of.map(|hour| hour * HOUR));
        Arc::new(starts.with_timezone("UTC")) as ArrayRef
    };
    let columns = [
        ("series_id", texts(&["a", "a", "a", "b", "sum", "sum"])),
        ("start", hours([0, 1, 2, 0, 0, 1])),
        ("end", hours([1, 2, 3, 1, 1, 2])),
        ("frequency", texts(&["PT1H"; 6])),
        ("value", Arc::new(Float64Array::from(vec![1.0; 6])) as ArrayRef),
        ("unit", texts(&["kWh"; 6])),
        ("quality", texts(&["measured", "estimated", "substituted", "measured", "estimated", "measured"])),
        ("feed", texts(&["m"; 6])),
        ("measured", counts([None, None, None, None, Some(3), Some(4)])),
        ("estimated", counts([None, None, None, None, Some(1), Some(0)])),
        ("substituted", counts([None, None, None, None, Some(0), Some(0)])),
    ];
    let context = SessionContext::new();
    context.register_batch("intervals", RecordBatch::try_from_iter(columns).unwrap()).unwrap();
    let query = query(Frequency::HOUR, &weight(0.25), 0, 9 * HOUR, None, &[]);
    let mut builder = HistoryBuilder::new(Frequency::HOUR, TimeZone::UTC, 0);
    for rows in context.sql(&query).await.unwrap().collect().await.unwrap() {
        builder.add(&rows).unwrap();
    }
    let found: Vec<Vec<f32>> = builder.finish().0.panel.series.into_iter().map(|s| s.weights).collect();
    // Where all count alike there is nothing to remember.
    assert_eq!(found, [vec![1.0, 0.25, 0.25], vec![], vec![0.8125, 1.0]]);
}

#[test]
fn feeds_of_another_calendar_are_others_whatever_the_label() {
    let feed = |name: &str, zone: &str| {
        format!("[feed.{name}]\ntopic = \"{name}\"\nseries = \"s\"\ntime = \"t\"\nvalue = \"v\"\nzone = \"{zone}\"\n")
    };
    let text = feed("a", "UTC") + &feed("b", "Europe/Lisbon");
    let config = meterline_schemas::config::parse(&text).unwrap();
    for (frequency, group, others) in [
        (Frequency::HOUR, "PT1H", vec![]),
        (Frequency::HOUR, "PT1H/tariff=x", vec![]),
        (Frequency::Day, "P1D/tariff=x", vec!["b"]),
        (Frequency::Day, "P1D@Europe/Lisbon", vec!["a"]),
        (Frequency::Day, "P1D@Europe/Lisbon/tariff=x", vec!["a"]),
    ] {
        assert_eq!(other_feeds(&config, frequency, group), others, "{group}");
    }
}

#[test]
fn rows_of_series_of_other_groups_are_left_out() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("meta.csv"), "series_id,tariff\na,industry\nc,industry\n").unwrap();
    let text = "[labels.meta]\nfile = \"meta.csv\"\nlabels = { tariff = \"tariff\" }\n\
                [policy.a]\nfrequency = \"PT1H\"\nlabel = { tariff = \"industry\" }\n";
    let config = meterline_schemas::config::parse(text).unwrap();
    let classes = Arc::new(Classes::read(&config, directory.path()).unwrap());
    let all = rows(&[("a", 0, 1.0), ("b", 0, 2.0), ("b", HOUR, 3.0), ("", 0, 4.0), ("c", 0, 5.0), ("a", HOUR, 6.0)]);
    for (group, expected) in [("PT1H", vec!["", "b"]), ("PT1H/tariff=industry", vec!["a", "c"])] {
        let members = Members::of(Arc::clone(&classes), group, Frequency::HOUR, 0).unwrap();
        let mut builder = HistoryBuilder::new(Frequency::HOUR, TimeZone::UTC, 0).only(members);
        builder.add(&all).unwrap();
        let (found, off_grid) = builder.finish();
        let ids: Vec<&str> = found.panel.series.iter().map(|series| series.id.as_str()).collect();
        assert_eq!((ids, off_grid), (expected, 0), "{group}");
    }
}

proptest! {
    #[test]
    fn the_order_of_rows_does_not_matter(steps in proptest::collection::btree_set(0i64..200, 1..60), seed in any::<u64>()) {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let base = Frequency::Day.floor(1_700_000_000_000_000, &zone);
        let in_order: Vec<(&str, Micros, f64)> =
            steps.iter().map(|s| ("a", Frequency::Day.advance(base, *s, &zone), *s as f64)).collect();
        let mut shuffled = in_order.clone();
        let mut state = seed | 1;
        for i in (1..shuffled.len()).rev() {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            shuffled.swap(i, (state >> 33) as usize % (i + 1));
        }
        let mut builder = HistoryBuilder::new(Frequency::Day, zone.clone(), base);
        for chunk in shuffled.chunks(7) {
            builder.add(&rows(chunk)).unwrap();
        }
        let (history, off_grid) = builder.finish();
        prop_assert_eq!(off_grid, 0);
        let series = &history.panel.series[0];
        for (i, value) in series.values.iter().enumerate() {
            let start = Frequency::Day.advance(series.start, i as i64, &zone);
            let there = in_order.iter().find(|r| r.1 == start).map(|r| r.2 as f32);
            prop_assert_eq!((!value.is_nan()).then_some(*value), there);
        }
    }
}
