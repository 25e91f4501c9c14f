//! One engine that reads two feeds of different frequencies for four weeks: what its policies start for each of them, also
//! where the engine is killed or stopped on the way, what is said of it, and a replay that agrees with all of it.
//!
//! Quarter hours are caught up with `once`: where their runs begin depends on where commits fall, and only what the policy
//! says of any two of them must hold. Hours are caught up with `all`: their runs begin at just these hours, whatever
//! happens.

use std::fs;
use std::time::Instant;

use meterline_tests::wait;
use serde_json::Value;

use crate::harness::{MINUTE, kafka};
use crate::two_feeds::{DAYS, Explained, HOURS, LONG, QUARTERS, QUICK, Run, World};

/// Days on which something else happens than that the readings come.
const BUSY: usize = 14;
const KILLED: usize = 17;
const STOPPED: usize = 20;
const SILENT: usize = 27;

#[test]
fn each_frequency_is_forecast_and_trained_by_its_own_policy_through_a_crash_and_a_stop() {
    let Some(kafka) = kafka("two frequencies") else { return };
    let mut world = World::start(kafka);
    world.days_before(BUSY);
    device_busy(&mut world);
    world.days_before(KILLED);
    killed(&mut world);
    world.days_before(STOPPED);
    stopped_for_a_day(&mut world);
    world.days_before(SILENT);
    silent(&mut world);
    world.days_before(DAYS + 1);

    let failed = world.sandbox.sql("SELECT * FROM runs WHERE status <> 'succeeded' OR cause <> 'trigger'");
    assert!(failed.is_empty(), "{failed:?}");
    assert_hours(&world);
    assert_quarters(&world);
    correction(&mut world);
    assert_replay(&world);
    assert_accuracy(&world);
    world.stop();
}

/// The device has one slot for builds, and a long one of the quarter hours has it when the hours are to be trained.
fn device_busy(world: &mut World) {
    world.reconfigure(QUICK, LONG);
    world.send_day(QUARTERS);
    wait::until("the quarter hours are trained on", MINUTE, || {
        let build = world.runs(QUARTERS, "build").pop()?;
        (build.origin == 96 * BUSY as i64 && build.status == "running").then_some(())
    });

    // The second of these days shows that what waits keeps its hour.
    for _ in 0..2 {
        world.send_day(HOURS);
        world.await_committed();
    }
    let seen = world.explained(HOURS, "retrain");
    let of_quarters = world.runs(QUARTERS, "build").pop().expect("a build");
    assert_eq!(of_quarters.status, "running", "it lasts until all is looked at");
    assert!(seen.told.contains("`require` is false: NOT device_busy is false (device_busy = true)"), "{}", seen.told);
    assert_eq!(seen.document["facts"]["device_busy"], true, "{:#}", seen.document);
    assert_eq!(seen.blockers(), ["require"], "nothing else is in the way: {}", seen.told);
    assert!(seen.told.contains("could start next: once that changes: `require` is false"), "{}", seen.told);

    // The build under way goes on as it was asked for.
    world.reconfigure(LONG, QUICK);
    wait::until("the hours are trained on", 2 * MINUTE, || {
        let last = world.runs(HOURS, "build").pop()?;
        (last.origin == 24 * BUSY as i64 && last.status == "succeeded").then_some(())
    });
    let [quarters, hours] = [QUARTERS, HOURS].map(|feed| world.runs(feed, "build").pop().expect("a build"));
    let trained = quarters.finished_at.expect("it has ended");
    assert!(trained <= hours.created_at, "one after the other: {quarters:?} {hours:?}");
    // Forecasts have a slot of their own.
    let meanwhile =
        |run: &Run| run.created_at > quarters.created_at && run.finished_at.is_some_and(|end| end < trained);
    assert!(
        world.runs(HOURS, "infer").iter().any(meanwhile),
        "the hours are forecast while quarter hours are trained on"
    );
    assert_eq!(world.explained(HOURS, "retrain").document["facts"]["device_busy"], false);
    world.send_day(QUARTERS);
    world.settle();
}

/// The engine is killed as soon as runs of the newest day begin.
fn killed(world: &mut World) {
    let runs = |world: &World| world.sandbox.number("SELECT count(*) FROM runs");
    let before = runs(world);
    world.send_day(QUARTERS);
    world.send_day(HOURS);
    wait::until("a run begins", MINUTE, || (runs(world)? > before?).then_some(()));
    world.kill();
    world.start_again();
    world.settle();
}

/// A whole day comes while the engine is down: `once` makes one run of it, `all` one for each that was due.
fn stopped_for_a_day(world: &mut World) {
    let before = [QUARTERS, HOURS].map(|feed| world.runs(feed, "infer").len());
    world.stop();
    world.send_day(QUARTERS);
    world.send_day(HOURS);
    world.start_again();
    world.settle();
    let since = |feed: usize| -> Vec<i64> {
        world.runs(feed, "infer").iter().skip(before[feed]).map(|run| run.origin).collect()
    };
    let (quarters, hours) = (96 * STOPPED as i64, 24 * STOPPED as i64);
    assert_eq!(since(QUARTERS), [quarters], "one for all that came");
    let first = since(HOURS)[0];
    assert_eq!(since(HOURS), [first, first + 12], "one for each half of the day");
    assert!((hours - 24..=hours).contains(&first), "{first}");
}

/// The quarter hours fall silent, and the hours go on.
fn silent(world: &mut World) {
    let quarters_sent = Instant::now();
    let before = world.runs(QUARTERS, "infer").len();
    let origin = world.explained(QUARTERS, "reforecast").document["origin"].clone();
    world.send_day(HOURS);
    world.settle();
    let hours_went_on = Instant::now();
    world.send_day(HOURS);
    world.settle();
    let silence = |seen: &Explained| seen.document["facts"]["silent_hours"].as_f64().expect("a number") * 3600.0;

    let at_least = quarters_sent.elapsed().as_secs_f64();
    let seen = world.explained(QUARTERS, "reforecast");
    assert!(silence(&seen) > at_least, "{:#}", seen.document);
    let told = "ago by the clock; where none comes, nothing closes and nothing is due";
    assert!(seen.told.contains("newest record: ") && seen.told.contains(told), "{}", seen.told);
    assert_eq!((seen.blockers(), &seen.document["origin"]), (vec!["when"], &origin), "its time stands still");
    let next = format!("could start next: when the readings reach {}", after_six_hours(&origin));
    assert!(seen.told.contains(&next), "{next}: {}", seen.told);
    assert_eq!(world.runs(QUARTERS, "infer").len(), before, "nothing was started");

    let seen = world.explained(HOURS, "reforecast");
    let at_most = hours_went_on.elapsed().as_secs_f64();
    assert!(silence(&seen) < at_most, "{at_most}: {:#}", seen.document);
}

/// An instant at midnight, six hours later.
fn after_six_hours(midnight: &Value) -> String {
    let midnight = midnight.as_str().expect("an instant");
    assert!(midnight.ends_with("T00:00:00Z"), "{midnight}");
    midnight.replace("T00:", "T06:")
}

/// Each run begins at just its hour: that of the first depends on the first commit, which was of the first day.
fn assert_hours(world: &World) {
    let origins = |pipeline| -> Vec<i64> { world.runs(HOURS, pipeline).iter().map(|run| run.origin).collect() };
    let forecasts = origins("infer");
    assert!((12..=24).contains(&forecasts[0]), "{forecasts:?}");
    let each_half_day: Vec<i64> = (forecasts[0]..=24 * DAYS as i64).step_by(12).collect();
    assert_eq!(forecasts, each_half_day);
    assert_eq!(origins("build"), [168, 336, 504, 672]);
}

/// What the policy says of any two runs, wherever commits fell. All was settled at the end of each day.
fn assert_quarters(world: &World) {
    let (forecasts, builds) = (world.runs(QUARTERS, "infer"), world.runs(QUARTERS, "build"));
    let early = |pair: &&[Run]| pair[1].origin - pair[0].origin < 24;
    for pair in forecasts.windows(2).filter(early) {
        assert_ne!(pair[0].model, pair[1].model, "less than six hours later, and no other model: {pair:?}");
    }
    assert!(forecasts.windows(2).filter(early).count() <= builds.len(), "{forecasts:?}");
    for end in (1..=DAYS as i64).map(|day| 96 * day) {
        let of_the_end = |run: &Run| end - 24 < run.origin && run.origin <= end;
        assert!(forecasts.iter().any(of_the_end), "no forecast of the last six hours before {end}: {forecasts:?}");
    }
    // Due at the end of a week, which is that of a day: there no commit falls otherwise.
    assert_eq!(builds.iter().map(|run| run.origin).collect::<Vec<_>>(), [672, 1344, 2016, 2688]);
}

/// The replay of what was evaluated starts what was started, run by run; also one that begins in the middle, because it
/// begins with how the triggers stood then.
fn assert_replay(world: &World) {
    for feed in [QUARTERS, HOURS] {
        let started = ["build", "infer", "correct"].map(|pipeline| world.runs(feed, pipeline).len());
        let id = world.feeds[feed].group;
        let replay = |arguments: &[&str]| {
            let of_group = ["triggers", "simulate", "--json", "--group", id];
            let told = world.sandbox.run(&[&of_group, arguments].concat()).succeeded().stdout;
            let document: Value = serde_json::from_str(&told).expect("a document");
            let group = document["groups"][0].clone();
            assert_eq!(group["evaluations_of"], "recorded", "{group:#}");
            assert_eq!(group["policies"][0]["agrees"], true, "{arguments:?} {group:#}");
            group
        };
        let whole = replay(&[]);
        let happened = whole["happened"].as_array().expect("events");
        assert_eq!(happened.len(), started.iter().sum::<usize>(), "it knows of each run: {whole:#}");
        let policy = &whole["policies"][0];
        let of = |what: &str| policy[what].as_u64().expect("a number") as usize;
        assert_eq!((["retrains", "reforecasts", "corrections"].map(of), of("failed")), (started, 0), "{id}");
        for quarter in 1..4 {
            let from = happened[happened.len() * quarter / 4]["origin"].as_str().expect("an instant");
            let rest = replay(&["--from", from])["happened"].as_array().map_or(0, Vec::len);
            assert!(0 < rest && rest < happened.len(), "{from}: {rest}");
        }
    }
}

/// A policy with another model and a covariate is tried on the past, beside the one that is configured.
fn assert_accuracy(world: &World) {
    let (sandbox, id) = (&world.sandbox, world.feeds[HOURS].group);
    let of_group = format!("FROM intervals WHERE frequency = '{id}'");
    let rows = sandbox.sql(&format!("SELECT DISTINCT start {of_group} ORDER BY start"));
    let starts = rows.iter().map(|row| row["start"].as_str().expect("an instant"));
    // Of the next day nothing is known: the last one stands in.
    let weather: String = starts.enumerate().map(|(hour, start)| format!("{start},{}\n", hour % 7)).collect();
    fs::write(sandbox.path().join("weather.csv"), format!("start,value\n{weather}")).expect("write the weather");
    let toml = fs::read_to_string(sandbox.config()).expect("read the configuration");
    let (before, hours) = toml.split_once("[policy.hours.model]").expect("hours have a model");
    let hours = hours.replace("kind = \"seasonal_naive\"", "kind = \"boosted_trees\"\ncovariates = [\"weather\"]");
    let weather = "[covariate.weather]\nfile = \"weather.csv\"\nfallback = \"last_day\"\n";
    let other = format!("{before}[policy.hours.model]{hours}{weather}");
    fs::write(sandbox.path().join("weather.toml"), other).expect("write another configuration");
    // Trees need three weeks.
    let from = sandbox.sql(&format!("SELECT min(start) + INTERVAL '24 days' AS at {of_group}"));
    let from = from[0]["at"].as_str().expect("an instant");
    let arguments =
        ["triggers", "simulate", "--json", "--accuracy", "--policy", "weather.toml", "--group", id, "--from", from];
    let told = sandbox.run(&arguments).succeeded().stdout;
    let document: Value = serde_json::from_str(&told).expect("a document");
    let policies = document["groups"][0]["policies"].as_array().expect("policies");
    let found = |name: &str| policies.iter().map(|of| of["accuracy"][name].as_f64().expect("a number")).collect();
    let (points, wql, naive): (Vec<f64>, Vec<f64>, Vec<f64>) = (found("points"), found("wql"), found("naive_wql"));
    assert!(points.len() == 2 && points[0] > 0.0 && points[0] == points[1], "{document:#}");
    assert!(wql[0] == naive[0] && wql[1] != naive[1], "one is seasonal naive, the other is not: {document:#}");
    assert!(policies.iter().all(|of| of["failed"] == 0 && of["retrains"] != 0), "{document:#}");
}

/// A corrected reading replaces the forecasts of its series, and of the roll-up above it, and no others.
fn correction(world: &mut World) {
    let (series, parent) = world.substation();
    let both = format!("'{series}', '{parent}'");
    let of_two = format!(
        "SELECT series_id, run_id, origin, count(*) AS steps FROM forecasts_latest \
         WHERE series_id IN ({both}) GROUP BY series_id, run_id, origin ORDER BY series_id"
    );
    let published = world.sandbox.sql(&of_two);
    assert_eq!(published.len(), 2, "{published:?}");
    let superseded = published[0]["run_id"].as_str().expect("a run").to_owned();

    world.correct(&series);
    let done = "SELECT max(run_id) AS run FROM runs \
         WHERE pipeline = 'correct' AND group_id = 'PT15M' AND status = 'succeeded'";
    let run = wait::until("the correction is forecast from", 2 * MINUTE, || {
        Some(world.sandbox.sql(done).first()?["run"].as_str()?.to_owned())
    });

    let others = format!("SELECT count(*) FROM forecasts WHERE run_id = '{run}' AND series_id NOT IN ({both})");
    assert_eq!(world.sandbox.number(&others), Some(0), "only these are forecast again");
    let renewed = world.sandbox.sql(&of_two);
    for (new, old) in renewed.iter().zip(&published) {
        assert_eq!(new["run_id"], run.as_str(), "{renewed:?}");
        assert_eq!((&new["origin"], &new["steps"]), (&old["origin"], &old["steps"]), "{renewed:?} {published:?}");
    }
    let kept = format!("SELECT count(*) FROM forecasts WHERE run_id = '{superseded}' AND series_id IN ({both})");
    let steps: i64 = published.iter().filter_map(|row| row["steps"].as_i64()).sum();
    assert_eq!(world.sandbox.number(&kept), Some(steps), "what was superseded is still there");
    let rest =
        format!("SELECT DISTINCT run_id FROM forecasts_latest WHERE group_id = 'PT15M' AND series_id NOT IN ({both})");
    let rest = world.sandbox.sql(&rest);
    assert!(rest.len() == 1 && rest[0]["run_id"] == superseded.as_str(), "{rest:?}");
}
