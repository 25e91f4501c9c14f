use std::collections::HashMap;

use meterline_schemas::time::{DAY, HOUR, MINUTE, SECOND};
use meterline_schemas::{Frequency, Micros};
use proptest::prelude::*;

use super::*;

fn days(meters: u32, days: i64) -> FleetConfig {
    let config = FleetConfig { meters, ..FleetConfig::default() };
    FleetConfig { to: config.from + days * DAY, ..config }
}

fn fleet(config: &FleetConfig) -> Fleet {
    Fleet::new(config.clone()).unwrap()
}

#[test]
fn equal_configurations_give_equal_records_and_other_seeds_do_not() {
    let config = days(20, 2);
    let all: Vec<FleetRecord> = fleet(&config).collect();
    assert!(all.len() > 1_000);
    assert_eq!(fleet(&config).collect::<Vec<_>>(), all);
    let other = FleetConfig { seed: 2, ..config };
    assert_ne!(fleet(&other).collect::<Vec<_>>(), all);
}

#[test]
fn a_meter_is_the_same_in_a_fleet_of_any_size_and_can_be_read_at_any_time() {
    let small = FleetConfig { dirt: Dirt::NONE, forms: Mix::only(Form::Kw), ..days(10, 1) };
    let large = FleetConfig { meters: 200, ..small.clone() };
    let by_key = |config: &FleetConfig| truth(config).unwrap();
    let large_truth = by_key(&large);
    for (key, value) in by_key(&small) {
        assert_eq!(large_truth[&key], value, "{key:?}");
    }
    let reader = fleet(&small);
    for record in fleet(&small) {
        let power = reader.power(record.meter, record.start, record.end).unwrap();
        assert_eq!((power * 1_000.0).round() / 1_000.0, record.value.unwrap(), "{}", record.key);
    }
}

#[test]
fn every_clean_record_is_the_json_that_a_feed_reads() {
    for record in fleet(&FleetConfig { dirt: Dirt::NONE, ..days(30, 1) }) {
        let json: serde_json::Value = serde_json::from_slice(&record.payload).unwrap();
        assert_eq!(json["meter_id"], record.key.as_str());
        assert_eq!(json["ts"], meterline_schemas::time::format_micros(record.end));
        assert_eq!(json["value"].as_f64(), record.value);
        assert_eq!(json["unit"], record.form.unit());
        assert_eq!(json["quality"], "measured");
        for label in ["site", "feeder", "region"] {
            assert!(json[label].is_string(), "{label}");
        }
        assert_eq!(record.end - record.start, record.frequency.nominal_micros());
    }
}

#[test]
fn the_mix_is_kept_in_fleets_of_every_size() {
    let mix: Mix<Frequency> = "PT15M=0.7,PT1H=0.25,P1D=0.05".parse().unwrap();
    for meters in [10, 40, 1_000, 20_000] {
        let found = fleet(&FleetConfig { mix: mix.clone(), ..days(meters, 1) }).frequencies();
        for (frequency, share) in &mix.0 {
            let n = found.iter().find(|(f, _)| f == frequency).map_or(0, |(_, n)| *n);
            assert!(
                (n as f64 - share * f64::from(meters)).abs() < 1.5 + 0.01 * f64::from(meters),
                "{frequency}: {n} of {meters}"
            );
        }
    }
}

#[test]
fn each_kind_of_dirt_comes_at_its_own_rate() {
    let dirt = Dirt {
        gaps: 0.02,
        late: 0.03,
        duplicates: 0.01,
        corrections: 0.015,
        malformed: 0.005,
        skewed_clocks: 0.1,
        ..Dirt::NONE
    };
    let mut all = fleet(&FleetConfig { dirt, mix: Mix::only(Frequency::QUARTER_HOUR), ..days(200, 7) });
    let mut kinds: HashMap<RecordKind, u64> = HashMap::new();
    let mut record = FleetRecord::empty();
    let mut unreadable = 0;
    while all.next_into(&mut record) {
        *kinds.entry(record.kind).or_default() += 1;
        let value = serde_json::from_slice::<serde_json::Value>(&record.payload).ok();
        let readable = value.is_some_and(|v| {
            v["value"].is_number()
                && v["meter_id"].is_string()
                && v["ts"].as_str().is_some_and(|t| !t.starts_with("0000"))
        });
        assert_eq!(readable, record.kind != RecordKind::Malformed, "{}", String::from_utf8_lossy(&record.payload));
        unreadable += u64::from(!readable);
    }
    let counts = all.counts();
    let intervals = 200 * 96 * 7;
    assert_eq!(counts.readings + counts.lost + counts.malformed, intervals);
    assert_eq!(counts.malformed, unreadable);
    assert_eq!(counts.records, kinds.values().sum::<u64>());
    assert_eq!(counts.records, counts.readings + counts.duplicates + counts.corrections + counts.malformed);
    assert_eq!(kinds[&RecordKind::Late], counts.late);
    for (name, count, rate) in [
        ("gaps", counts.lost, 0.02),
        ("late", counts.late, 0.03),
        ("duplicates", counts.duplicates, 0.01),
        ("corrections", counts.corrections, 0.015),
        ("malformed", counts.malformed, 0.005),
    ] {
        let found = count as f64 / intervals as f64;
        assert!((found - rate).abs() < 0.1 * rate, "{name}: {found} instead of {rate}");
    }
    let skewed = all.meters().filter(|m| m.skew != 0).count();
    assert!((10..=32).contains(&skewed), "{skewed} of 200 clocks");
    assert!(all.meters().all(|m| m.skew.abs() <= 5 * MINUTE && m.skew.abs() * 3 <= 15 * MINUTE));
}

#[test]
fn an_outage_takes_several_intervals_in_a_row() {
    let dirt = Dirt { outages: 0.05, ..Dirt::NONE };
    let config = FleetConfig { dirt, mix: Mix::only(Frequency::HOUR), ..days(50, 20) };
    let mut by_meter: HashMap<u32, Vec<Micros>> = HashMap::new();
    for record in fleet(&config) {
        by_meter.entry(record.meter).or_default().push(record.end);
    }
    let holes: Vec<i64> = by_meter
        .values()
        .flat_map(|ends| ends.windows(2).map(|w| (w[1] - w[0]) / HOUR - 1))
        .filter(|n| *n > 0)
        .collect();
    assert!((20..100).contains(&holes.len()), "{}", holes.len());
    assert!(holes.iter().all(|n| (2..=73).contains(n)), "{holes:?}");
}

#[test]
fn registers_only_rise_and_their_differences_are_the_energy() {
    let energy = FleetConfig { dirt: Dirt::NONE, forms: Mix::only(Form::Kwh), ..days(20, 2) };
    let registers = FleetConfig { forms: Mix::only(Form::Register), ..energy.clone() };
    let energy = truth(&energy).unwrap();
    let mut last: HashMap<String, f64> = HashMap::new();
    for record in fleet(&registers) {
        let state = record.value.unwrap();
        if let Some(before) = last.insert(record.key.clone(), state) {
            let expected = energy[&(record.key, record.end)].max(0.0);
            assert!((state - before - expected).abs() < 1e-6, "{state} - {before} is not {expected}");
        }
    }
}

#[test]
fn days_follow_the_zone() {
    let from = "2024-03-30T23:00:00Z".parse::<jiff::Timestamp>().unwrap().as_microsecond();
    let config = FleetConfig {
        zone: "Europe/Berlin".into(),
        mix: Mix::only(Frequency::Day),
        dirt: Dirt::NONE,
        from,
        to: from + 3 * DAY,
        ..days(1, 1)
    };
    let lengths: Vec<i64> = fleet(&config).map(|r| (r.end - r.start) / HOUR).collect();
    assert_eq!(lengths, [23, 24, 24]);
}

#[test]
fn bad_configurations_are_refused_with_a_reason() {
    let good = days(10, 1);
    for (config, reason) in [
        (FleetConfig { meters: 0, ..good.clone() }, "1 to 1000000"),
        (FleetConfig { to: good.from, ..good.clone() }, "not after the start"),
        (FleetConfig { zone: "Berlin".into(), ..good.clone() }, "time zone"),
        (FleetConfig { mix: Mix::only(Frequency::Seconds(10)), ..good.clone() }, "PT1M"),
        (FleetConfig { dirt: Dirt { late: 1.5, ..Dirt::NONE }, ..good.clone() }, "rate of late"),
    ] {
        let error = Fleet::new(config).err().unwrap().to_string();
        assert!(error.contains(reason), "{error}");
    }
    for text in ["PT15M=x", "PT7M=1", "PT15M=0", ""] {
        assert!(text.parse::<Mix<Frequency>>().is_err(), "{text}");
    }
}

/// Mean absolute error of repeating the value of `lag` intervals ago, over the mean absolute value.
fn naive_error(values: &[f64], lag: usize) -> f64 {
    let errors: f64 = values.iter().skip(lag).zip(values).map(|(a, b)| (a - b).abs()).sum();
    errors / values.iter().skip(lag).map(|v| v.abs()).sum::<f64>()
}

#[test]
fn load_has_days_and_weeks_and_noise_that_can_be_beaten() {
    let config =
        FleetConfig { dirt: Dirt::NONE, mix: Mix::only(Frequency::HOUR), forms: Mix::only(Form::Kw), ..days(40, 56) };
    let mut series: HashMap<u32, Vec<f64>> = HashMap::new();
    for record in fleet(&config) {
        series.entry(record.meter).or_default().extend(record.value);
    }
    for meter in fleet(&config).meters() {
        let values = &series[&meter.number];
        let (day, week, hour) = (naive_error(values, 24), naive_error(values, 168), naive_error(values, 1));
        let odd = naive_error(values, 17);
        let about = format!("{:?} {}: day {day:.3} week {week:.3} hour {hour:.3} odd {odd:.3}", meter.class, meter.id);
        match meter.class {
            Class::Household => assert!((0.08..0.7).contains(&day) && day < odd, "{about}"),
            Class::Business => assert!(week < day && week < 0.3, "{about}"),
            Class::Feeder => assert!(day < 0.35 && hour < 0.3, "{about}"),
            Class::Solar => assert!(day < odd, "{about}"),
        }
        if meter.class == Class::Solar {
            assert!(values.iter().any(|v| *v <= 0.0), "{about}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn records_come_in_send_order_and_the_last_of_an_interval_is_the_right_one(
        seed in any::<u64>(),
        meters in 1_u32..40,
        rate in 0.0_f64..0.3,
    ) {
        let dirt = Dirt {
            gaps: rate, outages: rate, late: rate, duplicates: rate, corrections: rate, skewed_clocks: rate, malformed: rate,
            ..Dirt::default()
        };
        let forms: Mix<Form> = "kW=1,kWh=1,register=1".parse().unwrap();
        let dirty = FleetConfig { seed, dirt, forms, ..days(meters, 1) };
        let clean = truth(&FleetConfig { dirt: Dirt::NONE, ..dirty.clone() }).unwrap();
        let mut sent_at = Micros::MIN;
        for record in fleet(&dirty) {
            prop_assert!(record.send_at >= sent_at);
            prop_assert!(record.send_at > record.end);
            prop_assert!((record.at - record.end).abs() * 3 <= record.end - record.start + 3 * SECOND);
            sent_at = record.send_at;
        }
        for (key, value) in truth(&dirty).unwrap() {
            prop_assert_eq!(clean[&key], value, "{:?}", key);
        }
    }
}
