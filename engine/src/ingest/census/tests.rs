//! What came and went, against a census that is taken anew.

use meterline_schemas::time::format_micros;
use meterline_schemas::unit::Unit;
use proptest::prelude::*;

use super::super::classes::tests::classes;
use super::super::eras;
use super::super::written::{mark, surely_unwritten};
use super::*;

proptest! {
    /// What came and went adds up to what a census of the same series says, whatever their labels are when.
    #[test]
    fn changes_add_up(
        steps in proptest::collection::vec((0..4usize, 0..400i64, 0..3i32, any::<bool>()), 1..120),
        labels in proptest::collection::vec((0..4usize, 0..400i64, 0..3usize, any::<bool>()), 0..9),
        day in any::<bool>(),
    ) {
        let zone = TimeZone::get("Europe/Lisbon").unwrap();
        let frequency = if day { Frequency::Day } else { Frequency::HOUR };
        let base = frequency.floor(0, &zone);
        let rows: String = labels
            .iter()
            .map(|(series, slot, tariff, three)| {
                let from = frequency.advance(base, *slot, &zone);
                let tariff = ["", "industry", "household"][*tariff];
                format!("{series},{},{tariff},{}\n", format_micros(from), if *three { "3" } else { "1" })
            })
            .collect();
        let (config, classes) = classes(&rows);
        let mut states: Vec<SeriesState> =
            (0..4).map(|i| SeriesState::new("f", &i.to_string(), Unit::KWH)).collect();
        let mut stands: Vec<Option<Stand>> = vec![None; 4];
        let mut census = Census::new(&config);
        let taken = |states: &[SeriesState]| {
            let mut taking = Taking::new(&config, &classes);
            states.iter().filter(|state| state.frequency.is_some()).for_each(|state| taking.take(state));
            taking.finish()
        };
        for (series, slot, partition, ends) in steps {
            let state = &mut states[series];
            state.frequency = Some(frequency);
            state.partition = partition;
            let start = frequency.advance(base, slot, &zone);
            // Each in its time: another frequency and back, of which one interval is left; what is no interval yet.
            if slot % 37 == 0 {
                eras::end(state, start, 0);
                mark(state, start, frequency, &zone);
            } else if slot % 41 != 0 && surely_unwritten(state, start, frequency, &zone) {
                mark(state, start, frequency, &zone);
            } else {
                state.corrections += 1;
            }
            if ends {
                let mut changes = Changes::default();
                for (state, stand) in states.iter().zip(&mut stands) {
                    if state.frequency.is_some() {
                        let now = Stand::of(state, classes.counted(state, &zone));
                        changes.moved(0, &zone, stand.as_ref(), &now);
                        *stand = Some(now);
                    }
                }
                census.change(&mut changes);
                prop_assert_eq!(&census, &taken(&states));
                // Classes split what there is, and lose nothing of it.
                let known: Vec<&SeriesState> = states.iter().filter(|state| state.frequency.is_some()).collect();
                let whole = Census::of(&config, known.iter().copied());
                prop_assert_eq!(census.ends_by_partition(0), whole.ends_by_partition(0));
                prop_assert_eq!((census.series(0), census.intervals(0)), (whole.series(0), whole.intervals(0)));
                let corrections: u64 = census.cohorts(0).map(|of| census.count(of, Fact::Correction)).sum();
                prop_assert_eq!(corrections, known.iter().map(|state| u64::from(state.corrections)).sum::<u64>());
            }
        }
    }
}
