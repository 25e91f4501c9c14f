use meterline_schemas::Frequency;
use meterline_schemas::config::{Predicates, parse, resolve_policy};
use meterline_schemas::time::{DAY, HOUR, MINUTE};
use serde_json::json;

use super::super::next::{Earliest, earliest};
use super::super::testing::{QUARTER, World, compile, configured, utc};
use super::*;
use crate::metadata::records::{Pipeline, Published};

const NOW: Micros = 10 * HOUR;

fn facts(new_intervals: i64) -> FactValues {
    serde_json::from_value(json!({"new_intervals": new_intervals, "backfilling": false})).unwrap()
}

fn after(last_origin: Micros) -> RunHistory {
    RunHistory { last_origin: Some(last_origin), ..RunHistory::default() }
}

fn at(origin: Micros) -> Moment {
    Moment { origin, stream: origin, now: NOW, resumed: false, running: 0 }
}

#[test]
fn a_trigger_fires_only_when_nothing_speaks_against_it() {
    let hourly = configured("when = \"new_intervals >= 4\"\nrequire = \"not backfilling\"\ncooldown = \"0s\"");
    let daily =
        configured("when = \"new_intervals >= 4\"\nrequire = \"\"\ncooldown = \"1d\"\nmax_age = \"672 intervals\"");
    let unknown = configured("when = \"mase_ratio > 1.25\"\nrequire = \"\"\ncooldown = \"0s\"\nmax_age = \"7d\"");
    // All is decided at 10:00 by the clock.
    let failed = |in_row, ago| {
        let failed = Failed { run_id: "r1".into(), in_row, at: NOW - ago };
        RunHistory { failed: Some(failed), ..after(0) }
    };
    let changed = RunHistory { champion_is_new: true, ..after(HOUR) };
    let busy = RunHistory { active: Some("r1".into()), ..after(0) };
    for (name, trigger, new, history, origin, fired, words) in [
        ("first", &hourly, 100, RunHistory::default(), 0, true, "new_intervals = 100"),
        ("not yet", &hourly, 3, after(0), 3 * QUARTER, false, "new_intervals = 3, 1 more needed"),
        ("due", &hourly, 4, after(0), HOUR, true, "new_intervals >= 4 is true"),
        ("busy", &hourly, 4, busy, HOUR, false, "r1 is under way"),
        ("same data", &hourly, 4, after(HOUR), HOUR, false, "same data"),
        ("stragglers", &hourly, 4, RunHistory { stragglers: 1, ..after(HOUR) }, HOUR, true, "new_intervals"),
        ("same data, another model", &hourly, 4, changed, HOUR, true, "new_intervals"),
        ("cooling", &daily, 4, after(0), HOUR, false, "cools down"),
        ("cooled", &daily, 96, after(0), DAY, true, "new_intervals"),
        ("old", &daily, 0, after(0), 7 * DAY, true, "max_age"),
        ("unknown", &unknown, 500, after(0), DAY, false, "mase_ratio is missing"),
        ("unknown but old", &unknown, 700, after(0), 7 * DAY, true, "max_age"),
        ("failed just now", &hourly, 9, failed(1, 29 * SECOND), HOUR, false, "the last run failed"),
        ("failed, told until when", &hourly, 9, failed(1, 0), HOUR, false, "until 1970-01-01T10:00:30Z"),
        ("failed, waited, no news", &hourly, 9, failed(1, 30 * SECOND), HOUR, true, "new_intervals"),
        ("failed thrice", &hourly, 9, failed(3, 119 * SECOND), HOUR, false, "3 runs failed"),
        ("failed thrice, waited", &hourly, 9, failed(3, 120 * SECOND), HOUR, true, "new_intervals"),
        ("failed often", &hourly, 9, failed(40, 59 * MINUTE), HOUR, false, "40 runs failed"),
        ("failed often, waited", &hourly, 9, failed(40, HOUR), HOUR, true, "new_intervals"),
        ("failed, and cooling", &daily, 9, failed(1, HOUR), HOUR, false, "cools down"),
        ("failed when it was old", &daily, 0, failed(1, HOUR), 8 * DAY, true, "max_age"),
        ("failed, but not asked for", &hourly, 3, failed(1, HOUR), HOUR, false, "1 more needed"),
    ] {
        let (verdict, _) = decide(trigger, &facts(new), &history, &Standing::default(), at(origin)).unwrap();
        assert_eq!(verdict.fired, fired, "{name}: {}", verdict.reason);
        assert!(verdict.reason.contains(words), "{name}: {}", verdict.reason);
    }
}

#[test]
fn what_is_required_but_missing_blocks() {
    let hourly = configured("when = \"new_intervals >= 4\"\nrequire = \"completeness >= 0.9\"");
    let (verdict, _) = decide(&hourly, &facts(9), &RunHistory::default(), &Standing::default(), at(0)).unwrap();
    assert!(!verdict.fired && verdict.reason.contains("completeness is missing"), "{}", verdict.reason);
}

#[test]
fn of_named_predicates_one_is_enough_and_all_are_required() {
    let named = |pairs: &[(&str, &str)]| {
        Predicates::Named(pairs.iter().map(|(name, sql)| ((*name).to_owned(), (*sql).to_owned())).collect())
    };
    for (when, require, fired, words) in [
        (&[("new", "new_intervals >= 4"), ("drift", "mase_ratio > 1.25")][..], &[][..], true, "drift: mase_ratio"),
        (&[("drift", "mase_ratio > 1.25")], &[], false, "`when` is unknown: drift: mase_ratio > 1.25 is unknown"),
        (&[("new", "new_intervals >= 9"), ("none", "series > 3 and false")], &[], false, "`when` is false"),
        (
            &[("new", "true")],
            &[("live", "not backfilling"), ("full", "completeness > 0.9")],
            false,
            "is unknown: full:",
        ),
        (&[("new", "true")], &[("no", "backfilling"), ("full", "completeness > 0.9")], false, "`require` is false"),
        (&[("new", "true")], &[("live", "not backfilling")], true, "new: true is true"),
    ] {
        let mut retrain = resolve_policy(Frequency::QUARTER_HOUR, &Default::default()).retrain;
        (retrain.when, retrain.require) = (named(when), named(require));
        let (verdict, _) =
            decide(&compile(&retrain), &facts(4), &RunHistory::default(), &Standing::default(), at(0)).unwrap();
        assert_eq!(verdict.fired, fired, "{}", verdict.reason);
        assert!(verdict.reason.contains(words), "{}", verdict.reason);
    }
}

#[test]
fn what_became_true_while_a_run_was_under_way_starts_one_more_and_the_cause_of_a_run_none() {
    let trigger = "when = \"new_intervals >= 96 or mase_ratio > 1.25\"\nrequire = \"\"\ncooldown = \"0s\"";
    let mut world = World::at(0, configured(trigger));
    world.set("mase_ratio", json!(1.0));
    world.origin = DAY;
    assert!(world.evaluate().fired);
    // The error rises and falls while the run is under way: it is due when that ends, once.
    for ratio in [1.3, 1.4, 1.1] {
        world.origin += QUARTER;
        world.set("mase_ratio", json!(ratio));
        let verdict = world.evaluate();
        assert!(
            verdict
                .blockers
                .iter()
                .any(|b| b.kind == if ratio < 1.2 && world.standing.due.is_none() { "when" } else { "run" })
        );
    }
    world.end(true);
    world.origin += QUARTER;
    let verdict = world.evaluate();
    assert!(verdict.fired && verdict.reason.contains("mase_ratio = 1.3"), "{}", verdict.reason);
    world.end(true);
    for _ in 0..8 {
        world.origin += QUARTER;
        assert!(!world.evaluate().fired);
    }
    // What is true when a run starts is its cause, also while it is under way: it starts no other one meanwhile.
    world.set("mase_ratio", json!(1.5));
    world.origin += QUARTER;
    assert!(world.evaluate().fired);
    world.origin += QUARTER;
    let verdict = world.evaluate();
    assert!(!verdict.fired && world.standing.due.is_none(), "{:?}", verdict.blockers);
    // A failure leaves it open, though it is true no more.
    world.set("mase_ratio", json!(1.0));
    world.end(false);
    assert!(!world.evaluate().fired, "it waits");
    world.origin += QUARTER;
    let verdict = world.evaluate();
    assert!(verdict.fired && verdict.reason.contains("mase_ratio = 1.5"), "{}", verdict.reason);
}

#[test]
fn a_run_by_hand_settles_what_was_due() {
    let mut world =
        World::at(0, configured("when = \"new_intervals >= 4\"\nrequire = \"completeness > 0.9\"\ncooldown = \"0s\""));
    world.origin = HOUR;
    world.set("completeness", json!(0.5));
    assert!(!world.evaluate().fired && world.standing.due.is_some());
    (world.history.last_origin, world.history.last_done) = (Some(HOUR), Some("r900".into()));
    world.set("completeness", json!(1.0));
    world.origin += QUARTER;
    assert!(!world.evaluate().fired, "one new interval alone");
}

#[test]
fn what_was_due_by_another_policy_is_not_due_by_this_one() {
    let toml = "when = \"new_intervals >= 4\"\nrequire = \"completeness > 0.9\"\ncooldown = \"0s\"";
    let mut world = World::at(0, configured(toml));
    world.origin = HOUR;
    assert!(!world.evaluate().fired && world.standing.due.is_some());
    world.set("completeness", json!(1.0));
    let mut other = World { trigger: configured(&toml.replace("4", "40")), ..world };
    assert!(!other.evaluate().fired && other.standing.due.is_none());
    other.origin += 36 * QUARTER;
    assert!(other.evaluate().fired);
}

#[test]
fn a_condition_holds_without_a_break() {
    let mut world =
        World::at(0, configured("when = \"mase_ratio > 1.25\"\nrequire = \"\"\nhold_for = \"30m\"\ncooldown = \"0s\""));
    let mut told = String::new();
    for (ratio, fired) in [(1.3, false), (1.3, false), (1.2, false), (1.3, false), (1.4, false), (1.3, true)] {
        world.origin += QUARTER;
        world.set("mase_ratio", json!(ratio));
        let verdict = world.evaluate();
        assert_eq!(verdict.fired, fired, "{} at {}", verdict.reason, world.origin / QUARTER);
        told.push_str(&verdict.reason);
    }
    assert!(told.contains("`when` is true, and must be so until 1970-01-01T00:45:00Z"), "{told}");
}

#[test]
fn what_is_due_waits_for_the_next_tick_by_the_clock_on_the_wall() {
    // The clock in Lisbon is put forward on 29 March 2026, at one.
    let mut world = World::at(
        utc("2026-03-27T00:00:00Z"),
        configured("when = \"new_intervals >= 48\"\nrequire = \"\"\ncooldown = \"0s\"\nschedule = \"0 3 * * *\""),
    );
    let starts = world.run_to(utc("2026-03-31T00:00:00Z"));
    let expected = ["2026-03-28T03:00:00Z", "2026-03-29T02:00:00Z", "2026-03-30T02:00:00Z"].map(utc);
    assert_eq!(starts, expected);
    let verdict = world.evaluate();
    assert!(verdict.reason.contains("it is due, and waits for 2026-03-31T02:00:00Z"), "{}", verdict.reason);
    assert_eq!(world.earliest(), Earliest::Stream(utc("2026-03-31T02:00:00Z")));
}

#[test]
fn no_run_starts_in_a_window_or_while_as_many_as_may_be_are_under_way_or_while_it_is_paused() {
    let mut world = World::at(
        utc("2026-03-27T00:00:00Z"),
        configured(
            "when = \"new_intervals >= 1\"\nrequire = \"\"\ncooldown = \"0s\"\nmax_concurrent = 2\n\
             blackout = [{ start = \"0 7 * * MON-FRI\", length = \"12h\" }, { start = \"0 18 * * FRI\", length = \"2h\" }]",
        ),
    );
    let starts = world.run_to(utc("2026-03-28T00:00:00Z"));
    let hours = |text: &str| utc(&format!("2026-03-27T{text}:00Z"));
    assert!(starts.iter().all(|at| *at < hours("07:00") || *at >= hours("20:00")));
    assert_eq!(starts.len(), 27 + 17, "until seven, and from eight in the evening");
    world.running = 2;
    world.origin += QUARTER;
    let verdict = world.evaluate();
    assert!(verdict.reason.contains("2 runs of the policy are under way, of 2"), "{}", verdict.reason);
    world.running = 1;
    assert!(world.evaluate().fired);

    let mut world = World::at(0, configured("when = \"new_intervals >= 1\"\nrequire = \"\"\npause = true"));
    world.origin = HOUR;
    let verdict = world.evaluate();
    assert!(!verdict.fired && verdict.reason.contains("paused"), "{}", verdict.reason);
    assert!(matches!(world.earliest(), Earliest::Once(told) if told.contains("pause = true")));
}

#[test]
fn groups_have_their_parts_of_the_jitter_and_wait_for_them() {
    let retrain = resolve_policy(
        Frequency::HOUR,
        &parse("[policy.a]\nfrequency = \"PT1H\"\n[policy.a.retrain]\njitter = \"10h\"\n").unwrap().policy,
    )
    .retrain;
    let delay = |group: &str, pipeline| {
        CompiledTrigger::compile(&retrain, pipeline, group, Frequency::HOUR, "UTC").unwrap().delay
    };
    let delays: Vec<_> = (0..100).map(|n| delay(&format!("g{n}"), Pipeline::Build)).collect();
    assert!(delays.iter().all(|delay| (0..10 * HOUR).contains(delay)));
    assert!(delays.iter().filter(|delay| **delay < 5 * HOUR).count() > 30);
    assert_eq!(delays[0], delay("g0", Pipeline::Build));
    assert_ne!(delays[0], delay("g0", Pipeline::Infer));
    let mut world = World::at(
        0,
        configured("when = \"new_intervals >= 4\"\nrequire = \"\"\njitter = \"8 intervals\"\ncooldown = \"0s\""),
    );
    let starts = world.run_to(DAY);
    let wait = world.trigger.delay;
    assert!((0..2 * HOUR).contains(&wait));
    assert_eq!(starts[0], (HOUR + wait).div_euclid(QUARTER) * QUARTER + if wait % QUARTER > 0 { QUARTER } else { 0 });
}

#[test]
fn what_came_due_while_the_engine_was_down_is_made_good_as_configured() {
    let catch_up = |catch_up: &str| {
        let mut world = World::at(
            0,
            configured(&format!(
                "when = \"new_intervals >= 4\"\nrequire = \"\"\ncooldown = \"0s\"\ncatch_up = \"{catch_up}\""
            )),
        );
        world.run_to(2 * HOUR);
        // Down for a day.
        world.origin += DAY + QUARTER;
        world.resumed = true;
        let before = world.runs.len();
        for _ in 0..40 {
            world.evaluate();
            world.end(true);
        }
        let mut starts: Vec<_> = world.runs[before..].iter().map(|(_, origin)| *origin).collect();
        starts.extend(world.run_to(27 * HOUR + 3 * QUARTER).into_iter().take(2));
        starts
    };
    // Down from 2:00 to 26:15.
    assert_eq!(catch_up("once"), [26 * HOUR + QUARTER, 27 * HOUR + QUARTER]);
    assert_eq!(catch_up("skip"), [27 * HOUR + QUARTER]);
    let all: Vec<_> = (3..=27).map(|hour| hour * HOUR).collect();
    assert_eq!(catch_up("all"), all);
}

#[test]
fn with_all_the_decisions_do_not_depend_on_where_commits_fall() {
    let starts = |commits: &[i64]| {
        let mut world = World::at(
            0,
            configured("when = \"new_intervals >= 4\"\nrequire = \"\"\ncooldown = \"0s\"\ncatch_up = \"all\""),
        );
        for intervals in commits {
            world.origin += intervals * QUARTER;
            for _ in 0..40 {
                world.evaluate();
                world.end(true);
            }
        }
        world.runs.iter().map(|(_, origin)| *origin).collect::<Vec<_>>()
    };
    let one_by_one = starts(&[1; 40]);
    assert_eq!(one_by_one, (1..=10).map(|hour| hour * HOUR).collect::<Vec<_>>());
    for commits in [&[40][..], &[7, 0, 13, 20], &[3, 3, 3, 31]] {
        assert_eq!(starts(commits), one_by_one, "{commits:?}");
    }
}

#[test]
fn with_all_each_interval_has_its_run_whatever_fails_or_takes_long() {
    let toml = "when = \"new_intervals >= 1\"\nrequire = \"\"\ncooldown = \"0s\"\ncatch_up = \"all\"";
    let mut world = World::at(0, configured(toml));
    // Commits of several intervals fall into runs, each third of which fails; a retry waits for its pause.
    let mut done = Vec::new();
    for step in 0..200_i64 {
        world.origin += (step % 4) * QUARTER;
        for _ in 0..6 {
            world.evaluate();
        }
        let fails = step % 3 == 0;
        if world.history.active.is_some() && !fails {
            done.push(world.runs.last().unwrap().1 / QUARTER);
        }
        world.end(!fails);
    }
    assert_eq!(done, (1..=done.len() as i64).collect::<Vec<_>>(), "none is left out, none comes twice");
    assert!(done.len() > 50);
    // What has to be longer than the cooldown is so from run to run.
    let mut world = World::at(0, configured(&toml.replace("cooldown = \"0s\"", "cooldown = \"6h\"")));
    world.origin = 3 * DAY;
    for _ in 0..40 {
        world.evaluate();
        world.end(true);
    }
    let starts: Vec<_> = world.runs.iter().map(|(_, origin)| *origin / HOUR).collect();
    assert_eq!(starts, (1..=12).map(|n| n * 6).collect::<Vec<_>>());
}

#[test]
fn by_another_schedule_what_is_due_waits_for_another_tick() {
    let toml = "when = \"new_intervals >= 4\"\nrequire = \"\"\ncooldown = \"0s\"\nschedule = \"0 3 1 1 *\"";
    let mut world = World::at(utc("2026-03-27T00:00:00Z"), configured(toml));
    world.run_to(utc("2026-03-27T12:00:00Z"));
    assert_eq!(world.standing.due.as_ref().unwrap().from, utc("2027-01-01T03:00:00Z"));
    let mut world = World { trigger: configured(&toml.replace("0 3 1 1 *", "0 3 * * *")), ..world };
    assert_eq!(world.run_to(utc("2026-03-28T12:00:00Z")), [utc("2026-03-28T03:00:00Z")]);
}

#[test]
fn a_failure_beside_a_run_by_hand_leaves_its_cause() {
    let mut world = World::at(0, configured("when = \"mase_ratio > 1.25\"\nrequire = \"\"\ncooldown = \"0s\""));
    world.origin = HOUR;
    world.set("mase_ratio", json!(1.5));
    assert!(world.evaluate().fired);
    // Somebody starts another one, for an earlier time, and both fail.
    world.history.active = Some("r500".into());
    world.set("mase_ratio", json!(1.0));
    world.origin += QUARTER;
    assert!(!world.evaluate().fired);
    world.history.active = None;
    world.history.failed = Some(Failed { run_id: "r500".into(), in_row: 2, at: 0 });
    world.origin += QUARTER;
    let verdict = world.evaluate();
    assert!(verdict.fired && verdict.reason.contains("mase_ratio = 1.5"), "{}", verdict.reason);
}

#[test]
fn a_tick_that_passed_while_the_engine_was_down_counts_unless_it_is_skipped() {
    for (catch_up, expected) in [("once", "2026-03-29T10:00:00Z"), ("skip", "2026-03-30T02:00:00Z")] {
        let mut world = World::at(
            utc("2026-03-27T00:00:00Z"),
            configured(&format!(
                "when = \"new_intervals >= 48\"\nrequire = \"\"\ncooldown = \"0s\"\nschedule = \"0 3 * * *\"\ncatch_up = \"{catch_up}\""
            )),
        );
        world.run_to(utc("2026-03-28T23:00:00Z"));
        world.origin = utc("2026-03-29T10:00:00Z");
        world.resumed = true;
        world.evaluate();
        world.end(true);
        world.run_to(utc("2026-03-30T12:00:00Z"));
        let starts: Vec<_> = world.runs.iter().map(|(_, origin)| *origin).collect();
        assert_eq!(starts[1], utc(expected), "{catch_up}: {starts:?}");
    }
}

#[test]
fn nothing_is_corrected_before_anything_is_published() {
    let policies =
        parse("[policy.a]\nfrequency = \"PT15M\"\n[policy.a.correct]\nwhen = \"new_intervals >= 4\"\n").unwrap();
    let correct = resolve_policy(Frequency::QUARTER_HOUR, &policies.policy).correct;
    let correct =
        CompiledTrigger::compile(&correct, Pipeline::Correct, "PT15M", Frequency::QUARTER_HOUR, "UTC").unwrap();
    let (verdict, standing) =
        decide(&correct, &facts(4), &RunHistory::default(), &Standing::default(), at(HOUR)).unwrap();
    assert_eq!(verdict.reason, "there are no forecasts to correct yet");
    let next = earliest(&correct, &facts(4), &RunHistory::default(), &standing, at(HOUR), &verdict).unwrap();
    assert_eq!(next, Earliest::Once("once a run has ended: there are no forecasts to correct yet".to_owned()));
}

#[test]
fn corrections_are_bounded_by_how_often_the_same_forecasts_were_corrected() {
    let correct = configured("when = \"new_corrections >= 1\"\nrequire = \"\"\ncooldown = \"0s\"\nmax_runs = 2");
    let look = |new: i64, corrections: usize, origin: Micros| {
        let published = Published {
            of_all: "r1".into(),
            run_id: "r1".into(),
            origin: HOUR,
            reached: HOUR,
            intervals_version: 1,
            corrections,
            corrected_by: Vec::new(),
        };
        let history = RunHistory { stragglers: new, published: Some(published), ..after(HOUR) };
        let facts = serde_json::from_value(json!({"new_corrections": new})).unwrap();
        decide(&correct, &facts, &history, &Standing::default(), at(origin)).unwrap().0
    };
    for (new, corrections, origin, fired) in
        [(0, 0, HOUR, false), (3, 0, HOUR, true), (1, 1, HOUR, true), (1, 2, HOUR, false), (1, 1, 2 * HOUR, true)]
    {
        assert_eq!(look(new, corrections, origin).fired, fired, "{new} after {corrections} runs");
    }
    let told = look(1, 2, HOUR);
    assert_eq!(told.blockers.len(), 1);
    assert_eq!(told.blockers[0].until, Until::Run);
    assert!(told.reason.contains("2 runs have corrected these forecasts, of 2 (max_runs)"), "{}", told.reason);
}

#[test]
fn with_all_a_requirement_that_time_brings_is_met_at_its_interval() {
    let toml =
        "when = \"new_intervals >= 1\"\nrequire = \"history_intervals >= 5\"\ncooldown = \"0s\"\ncatch_up = \"all\"";
    // Wherever it is looked at before and after.
    for (first, then) in [(3, 8), (1, 8), (4, 9), (2, 5)] {
        let mut world = World::at(0, configured(toml));
        let look = |world: &mut World, at: i64| {
            world.origin = at * QUARTER;
            world.set("history_intervals", json!(at));
            while world.evaluate().fired {
                world.end(true);
            }
        };
        look(&mut world, first);
        assert!(world.runs.is_empty());
        look(&mut world, then);
        let origins: Vec<i64> = world.runs.iter().map(|(_, origin)| origin / QUARTER).collect();
        assert_eq!(origins, (5..=then).collect::<Vec<_>>());
    }
}

#[test]
fn a_run_that_waits_for_a_slot_is_told_as_that() {
    let trigger = configured("when = \"new_intervals >= 4\"\nrequire = \"\"\ncooldown = \"0s\"");
    let history = RunHistory { active: Some("r7".into()), queued: true, ..after(0) };
    let told = decide(&trigger, &facts(4), &history, &Standing::default(), at(HOUR)).unwrap().0.reason;
    assert!(told.contains("run r7 waits for a slot, because others have them"), "{told}");
}
