//! What holds for any sequence of events.

use proptest::prelude::*;
use serde_json::json;

use super::super::testing::{QUARTER, World, configured};

#[derive(Debug, Clone)]
enum Event {
    Closes(i64),
    Drifts(bool),
    Ends(bool),
    Restarts,
    Evaluates,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (1_i64..7).prop_map(Event::Closes),
        prop::bool::ANY.prop_map(Event::Drifts),
        prop::bool::weighted(0.8).prop_map(Event::Ends),
        Just(Event::Restarts),
        Just(Event::Evaluates),
        Just(Event::Evaluates),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// Whatever comes in whatever order: no run without a cause of its own, no cause without a run that saw it and
    /// succeeded, and nothing silent past `max_age`.
    #[test]
    fn every_cause_starts_one_run(events in prop::collection::vec(event(), 1..150), most in 1_i64..13) {
        let toml = format!(
            "when = \"new_intervals >= 8 or mase_ratio > 1.25\"\nrequire = \"\"\ncooldown = \"0s\"\nmax_age = \"{most} intervals\""
        );
        let most = most.min(8) * QUARTER;
        let mut world = World::at(0, configured(&toml));
        world.set("mase_ratio", json!(1.0));
        let mut drifts = false;
        // When the error was seen to rise and no run that began later has succeeded; when the last run began.
        let (mut seen, mut unseen_rise, mut began) = (false, false, false);
        for event in events {
            match event {
                Event::Closes(intervals) => world.origin += intervals * QUARTER,
                Event::Drifts(now) => {
                    drifts = now;
                    world.set("mase_ratio", json!(if now { 1.5 } else { 1.0 }));
                }
                Event::Ends(succeeds) => {
                    let was = world.history.active.is_some();
                    world.end(succeeds);
                    if was && succeeds { began = false } else if was { unseen_rise |= began; began = false }
                }
                Event::Restarts => world.resumed = true,
                Event::Evaluates => {
                    let busy = world.history.active.is_some();
                    let last = world.history.last_origin.unwrap();
                    let waits = world.history.failed.as_ref().is_some_and(|failed| world.origin < failed.retry_at());
                    if drifts && (!seen || !busy) { unseen_rise = true }
                    seen = drifts;
                    let verdict = world.evaluate();
                    let new = world.origin - last;
                    if verdict.fired {
                        prop_assert!(!busy && new > 0);
                        prop_assert!(new >= most || unseen_rise, "without a cause: {}", verdict.reason);
                        (began, unseen_rise) = (unseen_rise, false);
                    } else if !busy && !waits && new > 0 {
                        prop_assert!(!unseen_rise, "lost: {:?}", verdict.blockers);
                        prop_assert!(new < most, "silent: {:?}", verdict.blockers);
                    }
                }
            }
        }
    }

    /// What happens between two evaluations may happen in any order.
    #[test]
    fn the_order_within_a_tick_changes_nothing(intervals in 1_i64..12, drifts: bool, succeeds: bool, before in 0_i64..9) {
        let begin = || {
            let mut world = World::at(0, configured("when = \"new_intervals >= 4 or mase_ratio > 1.25\"\nrequire = \"\"\ncooldown = \"30m\""));
            world.origin = before * QUARTER;
            world.evaluate();
            world
        };
        let steps: [&dyn Fn(&mut World); 3] = [
            &|world| world.origin += intervals * QUARTER,
            &|world| world.set("mase_ratio", json!(if drifts { 1.5 } else { 1.0 })),
            &|world| {
                // By the clock a run fails when it fails.
                let at = before * QUARTER;
                world.end(succeeds);
                if let Some(failed) = &mut world.history.failed { failed.at = at }
            },
        ];
        let mut outcomes = Vec::new();
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let mut world = begin();
            for step in order { steps[step](&mut world) }
            let verdict = world.evaluate();
            outcomes.push((verdict, world.standing));
        }
        prop_assert!(outcomes.windows(2).all(|pair| pair[0] == pair[1]));
    }
}
