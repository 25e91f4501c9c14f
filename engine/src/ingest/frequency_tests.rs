//! Detection: what is known of single cases, and random meters with all their dirt.

use std::collections::BTreeSet;

use meterline_schemas::time::{HOUR, MINUTE, SECOND};
use proptest::prelude::*;

use super::*;

fn regular(n: i64, gap: Micros) -> Vec<Micros> {
    (0..n).map(|i| i * gap).collect()
}

fn settled(stamps: &[Micros]) -> Option<Frequency> {
    settle(stamps, &TimeZone::UTC).map(|found| found.frequency)
}

#[test]
fn sub_daily_data_needs_twelve_stamps_and_daily_data_five() {
    assert_eq!(settled(&regular(11, 15 * MINUTE)), None);
    assert_eq!(settled(&regular(12, 15 * MINUTE)), Some(Frequency::QUARTER_HOUR));
    assert_eq!(settled(&regular(4, DAY)), None);
    assert_eq!(settled(&regular(5, DAY)), Some(Frequency::Day));
    assert_eq!(settled(&regular(5, 7 * DAY)), Some(Frequency::Week));
}

#[test]
fn confidence_is_what_the_rule_of_succession_says() {
    let sure = |stamps: &[Micros]| detect(stamps, &TimeZone::UTC).unwrap();
    let found = Found { frequency: Frequency::HOUR, confidence: 92, phase: 0, spread: 0 };
    assert_eq!(sure(&regular(12, HOUR)), found);
    assert_eq!(sure(&regular(98, HOUR)).confidence, 99);
    let mut one_wrong = regular(12, HOUR);
    one_wrong[6] += 20 * MINUTE;
    assert_eq!(sure(&one_wrong), Found { confidence: 85, ..found });
    // Half a tenth of a step beside the boundaries.
    let late: Vec<Micros> = regular(12, HOUR).iter().map(|at| at + 3 * MINUTE).collect();
    assert_eq!(sure(&late), Found { phase: 13, ..found });
    let half: Vec<Micros> = regular(12, HOUR).iter().map(|at| at + 30 * MINUTE).collect();
    assert_eq!(sure(&half), Found { phase: -128, ..found });
}

#[test]
fn after_two_hundred_stamps_the_best_guess_is_taken() {
    // Of the quarter hours four in ten are there, at uneven places.
    let unclear: Vec<Micros> = (0..800).filter(|i| [0, 1, 3, 6].contains(&(i % 10))).map(|i| i * 15 * MINUTE).collect();
    assert_eq!(settled(&unclear[..PENDING_MAX - 1]), None);
    assert_eq!(settled(&unclear[..PENDING_MAX]), Some(Frequency::QUARTER_HOUR));
}

#[test]
fn a_meter_that_loses_all_but_every_third_reading_is_taken_for_a_coarser_one() {
    assert_eq!(settled(&regular(12, 3 * HOUR)), Some(Frequency::Seconds(3 * 3_600)));
    let mut heard_again = regular(12, 3 * HOUR);
    heard_again.extend((1..=24).map(|hour| 33 * HOUR + hour * HOUR));
    assert_eq!(detect(&heard_again, &TimeZone::UTC).map(|found| found.frequency), Some(Frequency::HOUR));
}

#[test]
fn gaps_of_no_standard_length_take_the_next_finer_one() {
    assert_eq!(settled(&regular(200, 7 * MINUTE)), Some(Frequency::Seconds(300)));
    assert_eq!(settled(&regular(200, SECOND / 10)), Some(Frequency::Seconds(1)));
    let guessed = settle(&regular(200, 7 * MINUTE), &TimeZone::UTC).unwrap();
    assert!(guessed.confidence < 40, "{guessed:?}");
}

#[test]
fn days_weeks_and_months_go_by_the_local_clock() {
    for (zone, at) in [("Europe/Berlin", "2024-03-20T23:00:00Z"), ("America/New_York", "2024-10-20T04:00:00Z")] {
        let zone = TimeZone::get(zone).unwrap();
        let begin = at.parse::<jiff::Timestamp>().unwrap().as_microsecond();
        for frequency in [Frequency::Day, Frequency::Week, Frequency::Month] {
            // Over a change of clocks.
            let first = frequency.floor(begin, &zone);
            let stamps: Vec<Micros> = (0..14).map(|i| frequency.advance(first, i, &zone)).collect();
            let found = detect(&stamps, &zone).unwrap();
            assert_eq!((found.frequency, found.phase, found.spread), (frequency, 0, 0), "{zone:?}");
            // At eight in the morning, for the day, week or month before.
            let later = detect(&stamps.iter().map(|at| at + 8 * HOUR).collect::<Vec<_>>(), &zone).unwrap();
            assert_eq!(later.frequency, frequency, "{zone:?}");
        }
    }
}

#[test]
fn a_meter_that_was_off_for_weeks_keeps_its_frequency() {
    let mut stamps: Vec<Micros> = (0..6).chain(3000..3006).map(|i| i * 15 * MINUTE).collect();
    assert_eq!(settled(&stamps), Some(Frequency::QUARTER_HOUR));
    stamps.truncate(11);
    assert_eq!(settled(&stamps), None);
}

/// What is wrong with a meter's readings.
#[derive(Debug, Clone)]
struct Dirt {
    phase: f64,
    jitter: f64,
    missing: f64,
    outage: i64,
    bursts: usize,
}

fn dirt() -> impl Strategy<Value = Dirt> {
    (prop_oneof![Just(0.0), 0.0..1.0f64], 0.0..0.03f64, 0.0..0.3f64, 0..2000i64, 0..4usize)
        .prop_map(|(phase, jitter, missing, outage, bursts)| Dirt { phase, jitter, missing, outage, bursts })
}

/// Stamps of a meter: `noise` are random numbers in 0..1.
fn stamps(frequency: Frequency, zone: &TimeZone, steps: usize, dirt: &Dirt, noise: &[f64]) -> Vec<Micros> {
    let mut noise = noise.iter().copied().cycle();
    let mut random = move || noise.next().unwrap_or(0.5);
    let length = frequency.nominal_micros() as f64;
    let origin = frequency.floor(1_711_000_000_000_000, zone);
    let mut stamps = BTreeSet::new();
    let outage_from = (steps as f64 * random()) as usize;
    for step in 0..steps {
        let number =
            step as i64 + if step >= outage_from { dirt.outage.min(40_000_000 / (length as i64 / SECOND)) } else { 0 };
        let boundary = frequency.advance(origin, number, zone);
        if random() >= dirt.missing {
            let shift = dirt.phase + (random() * 2.0 - 1.0) * dirt.jitter;
            stamps.insert(boundary + (shift * length) as Micros);
        }
        // Bursts come in at most one step in thirteen.
        if dirt.bursts > 0 && step % 13 == 5 {
            let at = random();
            stamps.extend((0..dirt.bursts).map(|i| boundary + ((at + i as f64 * 0.002) * length) as Micros));
        }
    }
    stamps.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn the_true_frequency_is_found_in_spite_of_all_dirt(
        (number, steps) in (0..STANDARD.len(), 60..160usize),
        dirt in dirt(),
        noise in proptest::collection::vec(0.0..1.0f64, 997),
        zone in prop_oneof![Just("UTC"), Just("Europe/Berlin"), Just("Asia/Kathmandu")],
    ) {
        let (frequency, zone) = (STANDARD[number], TimeZone::get(zone).unwrap());
        let stamps = stamps(frequency, &zone, steps, &dirt, &noise);
        let found = detect(&stamps, &zone);
        prop_assert_eq!(found.map(|found| found.frequency), Some(frequency), "{:?}", found);
    }

    #[test]
    fn where_there_is_too_little_to_tell_nothing_else_is_found(
        (number, steps) in (0..STANDARD.len(), 0..30usize),
        dirt in dirt(),
        noise in proptest::collection::vec(0.0..1.0f64, 997),
    ) {
        let (frequency, zone) = (STANDARD[number], TimeZone::get("Europe/Lisbon").unwrap());
        // With more gaps, five half days that come once a day are nothing unusual.
        let dirt = Dirt { bursts: dirt.bursts.min(1), missing: dirt.missing / 3.0, ..dirt };
        let stamps = stamps(frequency, &zone, steps, &dirt, &noise);
        for count in 0..=stamps.len() {
            let found = settle(&stamps[..count], &zone);
            if let Some(found) = found {
                prop_assert_eq!(found.frequency, frequency, "{} stamps", count);
            }
        }
    }
}
