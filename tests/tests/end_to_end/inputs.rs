//! What models know beside values, from its sources to forecasts: a covariate of a file that is known ahead, and a label
//! of each meter, which says what the covariate does to it. No broker.

use std::fmt::Write;
use std::fs;

use meterline_tests::sandbox::Sandbox;

use crate::faults::NOBODY;

const SETTINGS: &str = r#"
[covariate.temperature]
file = "temperature.csv"
[labels.meta]
file = "meters.csv"
labels = { heating = "heating" }
[policy.hours]
frequency = "PT1H"
horizon = "PT12H"
context = "P2D"
[policy.hours.gate]
accept_if = "wql <= naive_wql"
[policy.hours.model]
kind = "feature_mlp"
covariates = ["temperature"]
labels = ["heating"]
train_time = "2m"
"#;
const START: i64 = 1_704_067_200; // 2024-01-01, in seconds
const HOURS: i64 = 70 * 24;
const METERS: [&str; 6] = ["e1", "e2", "e3", "g1", "g2", "g3"];

// Does not come again by days or weeks.
fn temperature(hour: i64) -> f64 {
    f64::from((31 * hour * hour + 17 * hour).rem_euclid(41) as u32) / 2.0
}

// Those that are heated by electricity follow the temperature, the others do not.
fn load(meter: &str, hour: i64) -> f64 {
    let by_day = (hour.rem_euclid(24) as f64 / 24.0 * std::f64::consts::TAU).sin();
    40.0 + 3.0 * by_day - if meter.starts_with('e') { temperature(hour) } else { 0.0 }
}

fn write(sandbox: &Sandbox, hours_of_temperature: i64) {
    let mut readings = "meter_id,ts,value,unit\n".to_owned();
    // The last meter began when the others were half way through.
    let begins = |meter: &str| if meter == "g3" { HOURS / 2 } else { 0 };
    for meter in METERS {
        for hour in begins(meter)..HOURS {
            // Stamped at the end of its hour.
            writeln!(readings, "{meter},{},{},kWh", START + 3_600 * (hour + 1), load(meter, hour)).unwrap();
        }
    }
    let mut temperatures = "start,value\n".to_owned();
    for hour in 0..hours_of_temperature {
        writeln!(temperatures, "{},{}", START + 3_600 * hour, temperature(hour)).unwrap();
    }
    let heating = |meter: &&str| format!("{meter},{}\n", if meter.starts_with('e') { "electric" } else { "gas" });
    let labels: String = METERS.iter().map(heating).collect();
    for (file, text) in [("readings.csv", readings), ("temperature.csv", temperatures)] {
        fs::write(sandbox.path().join(file), text).unwrap();
    }
    fs::write(sandbox.path().join("meters.csv"), format!("series_id,heating\n{labels}")).unwrap();
}

#[test]
fn covariates_and_labels_of_files_reach_the_model_and_its_forecasts() {
    let sandbox = Sandbox::reading(NOBODY, "readings", SETTINGS);
    forecasts_know_them(&sandbox, METERS.len());

    // What the model was told is asked for again, and what it must know ahead.
    let refused = |words: [&str; 2]| {
        let refused = sandbox.run(&["reforecast"]);
        assert_ne!(refused.code, Some(0));
        let told = refused.stdout + &refused.stderr;
        assert!(words.iter().all(|word| told.contains(word)), "{told}");
    };
    let with = "labels = [\"heating\"]\n";
    sandbox.replace(with, "");
    refused(["it was told `heating`", "meterline retrain --group PT1H"]);
    sandbox.replace("train_time", &format!("{with}train_time"));
    fs::write(sandbox.path().join("meters.csv"), "series_id,heating\nothers,gas\n").unwrap();
    refused(["no series has it", "labels.meta (meters.csv)"]);
    write(&sandbox, HOURS + 6);
    refused(["`temperature` is missing within the horizon", "covariate.temperature.fallback"]);
}

#[test]
fn where_there_is_a_roll_up_labels_come_from_the_stream() {
    let rollup = "[rollup.all]\nby = [\"heating\"]\nfrequencies = [\"native\"]\nreconcile = \"none\"\n";
    let sandbox = Sandbox::reading(NOBODY, "readings", &format!("{SETTINGS}{rollup}"));
    // The two sums are series of the group, too.
    forecasts_know_them(&sandbox, METERS.len() + 2);
}

// Builds and forecasts, of so many series, and compares with what is true.
fn forecasts_know_them(sandbox: &Sandbox, series: usize) {
    write(sandbox, HOURS + 12);
    // There is no broker; the files are looked at.
    let checked = sandbox.run(&["validate"]).stdout;
    assert!(checked.contains("temperature.csv: 1692 values") && checked.contains("6 rows of 6 series"), "{checked}");
    sandbox.run(&["backfill", "--feed", "meters", "readings.csv"]).succeeded();
    let built = sandbox.run(&["retrain", "--group", "PT1H"]).succeeded().stdout;
    assert!(built.contains("PT1H-0001"), "{built}");
    let run = sandbox.sql("SELECT run_id FROM runs WHERE pipeline = 'build'").remove(0);
    let logs = sandbox.run(&["runs", "logs", run["run_id"].as_str().unwrap()]).succeeded().stdout;
    let labelled = format!("the label `heating`: 6 of {series} series have one of 2 values");
    assert!(logs.contains(&labelled) && logs.contains("the covariate `temperature` has"), "{logs}");
    sandbox.run(&["reforecast"]).succeeded();
    let rows = sandbox.sql("SELECT series_id, model_version, q50 FROM forecasts_latest ORDER BY series_id, start");
    assert_eq!(rows.len(), series * 12);
    let mut error = 0.0;
    let of_meters = rows.iter().filter(|row| METERS.contains(&row["series_id"].as_str().unwrap()));
    for (place, row) in of_meters.enumerate() {
        assert_eq!(row["model_version"], "PT1H-0001", "{row:?}");
        let (meter, hour) = (row["series_id"].as_str().unwrap(), HOURS + place as i64 % 12);
        error += (row["q50"].as_f64().unwrap() - load(meter, hour)).abs() / (12 * METERS.len()) as f64;
    }
    // The temperature of an hour is worth 10 kWh either way.
    assert!(error < 1.0, "{error}");
}

#[test]
fn a_label_that_is_nowhere_is_refused_before_anything_runs() {
    let sandbox = Sandbox::reading(NOBODY, "readings", &SETTINGS.replace("[\"heating\"]", "[\"heatin\"]"));
    write(&sandbox, HOURS);
    let refused = sandbox.run(&["validate"]);
    assert_eq!(refused.code, Some(2), "{}{}", refused.stdout, refused.stderr);
    assert!((refused.stdout + &refused.stderr).contains("did you mean `heating`?"));
}
