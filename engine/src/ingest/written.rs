//! Which intervals of a series were surely not written yet: the question that decides between the layers. Pure.
//!
//! The state of a series remembers the first and the last interval, the last 128 ones as bits, and the longest holes
//! before them. That is enough to never write two base rows of one interval, and to take almost nothing new for a
//! correction; what it cannot tell goes to the layer of revisions, where it is right too. Of earlier eras, and of
//! what was written again at the beginning of the present one, nothing is sure.

use jiff::tz::TimeZone;
use meterline_schemas::{Frequency, Micros};

use super::series::SeriesState;

/// Intervals that `SeriesState::recent` covers.
const RECENT: i64 = u128::BITS as i64;
/// Holes that are remembered.
const HOLES_MAX: usize = 4;

/// Whether no row of the interval that starts at `start` was ever written.
pub fn surely_unwritten(state: &SeriesState, start: Micros, frequency: Frequency, zone: &TimeZone) -> bool {
    let extra = state.extra();
    if extra.rewritten_to.is_some_and(|to| start < to) || extra.eras.last().is_some_and(|era| start < era.to) {
        return false;
    }
    let (Some(first), Some(last)) = (state.first_start, state.last_start) else { return true };
    if start > last || start < first {
        return true;
    }
    if state.extra().unwritten.iter().any(|(from, to)| (*from..*to).contains(&start)) {
        return true;
    }
    let back = frequency.steps_between(start, last, zone);
    (0..RECENT).contains(&back) && state.recent & (1 << back) == 0
}

/// Starts of the intervals of the present era, of those that start at `from` or later, that were written as far as the
/// state tells. What is surely empty is stepped over: a hole of years is one step.
pub fn starts<'s>(
    state: &'s SeriesState,
    from: Micros,
    frequency: Frequency,
    zone: &'s TimeZone,
) -> impl Iterator<Item = Micros> + 's {
    let mut next = state.first_start.map_or(Micros::MAX, |first| first.max(from));
    std::iter::from_fn(move || {
        let last = state.last_start?;
        while next <= last {
            let start = next;
            if let Some((_, to)) = state.extra().unwritten.iter().find(|(from, to)| (*from..*to).contains(&start)) {
                next = *to;
                continue;
            }
            next = frequency.advance(start, 1, zone);
            let back = frequency.steps_between(start, last, zone);
            if back >= RECENT || state.recent & (1 << back) != 0 {
                return Some(start);
            }
        }
        None
    })
}

/// Records that the first row of the interval that starts at `start` was written. Only for intervals that are
/// [`surely_unwritten`].
pub fn mark(state: &mut SeriesState, start: Micros, frequency: Frequency, zone: &TimeZone) {
    state.intervals += 1;
    let (Some(first), Some(last)) = (state.first_start, state.last_start) else {
        state.first_start = Some(start);
        state.last_start = Some(start);
        state.recent = 1;
        return;
    };
    if start > last {
        let steps = frequency.steps_between(last, start, zone);
        state.recent = if steps < RECENT { state.recent << steps } else { 0 } | 1;
        state.last_start = Some(start);
        if steps > 1 {
            remember_hole(state, (frequency.advance(last, 1, zone), start));
        }
        return;
    }
    let back = frequency.steps_between(start, last, zone);
    if (0..RECENT).contains(&back) {
        state.recent |= 1 << back;
    }
    let next = frequency.advance(start, 1, zone);
    if start < first {
        state.first_start = Some(start);
        remember_hole(state, (next, first));
    } else if let Some(index) = state.extra().unwritten.iter().position(|(from, to)| (*from..*to).contains(&start)) {
        let (from, to) = state.extra_mut().unwritten.swap_remove(index);
        remember_hole(state, (from, start));
        remember_hole(state, (next, to));
    }
}

fn remember_hole(state: &mut SeriesState, hole: (Micros, Micros)) {
    let length = |(from, to): &(Micros, Micros)| to - from;
    if length(&hole) <= 0 {
        return;
    }
    let holes = &mut state.extra_mut().unwritten;
    holes.push(hole);
    if holes.len() > HOLES_MAX
        && let Some(shortest) = (0..holes.len()).min_by_key(|i| length(&holes[*i]))
    {
        holes.swap_remove(shortest);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use meterline_schemas::unit::Unit;
    use proptest::prelude::*;

    use super::*;

    const HOUR: Frequency = Frequency::HOUR;

    fn write(state: &mut SeriesState, slots: impl IntoIterator<Item = i64>) -> usize {
        let zone = TimeZone::UTC;
        let mut revisions = 0;
        for slot in slots {
            let start = slot * HOUR.nominal_micros();
            match surely_unwritten(state, start, HOUR, &zone) {
                true => mark(state, start, HOUR, &zone),
                false => revisions += 1,
            }
        }
        revisions
    }

    #[test]
    fn history_read_after_newer_data_is_new() {
        for history in [(0..5000).collect::<Vec<i64>>(), (0..5000).rev().collect()] {
            let mut state = SeriesState::new("f", "s", Unit::KWH);
            assert_eq!(write(&mut state, 10_000..10_500), 0);
            assert_eq!(write(&mut state, history), 0);
            // An outage that is filled later, while newer data goes on.
            assert_eq!(write(&mut state, 11_000..11_300), 0);
            assert_eq!(write(&mut state, 10_500..11_000), 0);
            assert_eq!(state.intervals, 6300);
        }
    }

    #[test]
    fn a_hole_of_years_is_one_step() {
        let zone = TimeZone::UTC;
        let mut state = SeriesState::new("f", "s", Unit::KWH);
        let length = HOUR.nominal_micros();
        assert_eq!(starts(&state, Micros::MIN, HOUR, &zone).next(), None);
        // 1990, and 36 years later.
        let later = 36 * 365 * 24;
        write(&mut state, (0..3).chain(later..later + 2).chain(later + 5..later + 6));
        let found =
            |from: i64| starts(&state, from * length, HOUR, &zone).map(|start| start / length).collect::<Vec<_>>();
        assert_eq!(found(-9), [0, 1, 2, later, later + 1, later + 5]);
        assert_eq!(found(2), [2, later, later + 1, later + 5]);
        assert_eq!(found(later - 9), [later, later + 1, later + 5]);
        assert_eq!(found(later + 6), [0; 0]);
    }

    proptest! {
        #[test]
        fn no_interval_is_new_twice(slots in proptest::collection::vec(0..600i64, 0..300)) {
            let zone = TimeZone::UTC;
            let mut state = SeriesState::new("f", "s", Unit::KWH);
            let mut written = BTreeSet::new();
            for slot in slots {
                let start = slot * HOUR.nominal_micros();
                if surely_unwritten(&state, start, HOUR, &zone) {
                    prop_assert!(written.insert(slot), "slot {} was new twice", slot);
                    mark(&mut state, start, HOUR, &zone);
                }
            }
        }
    }
}
