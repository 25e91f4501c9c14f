//! Forecasts and backtests of plain files, without a broker, a lake or a configuration.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use meterline_tests::sandbox::meterline;
use meterline_tests::wait::{self, Finished};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(240);

fn run(directory: &Path, arguments: &[&str]) -> Finished {
    wait::run(Command::new(meterline()).current_dir(directory).args(arguments), LIMIT)
}

#[test]
fn a_file_becomes_forecasts_and_a_backtest_says_how_good_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let fleet = "generate --meters 3 --days 60 --mix PT1H=1 --forms kWh=1 --classes household=1 --clean --out old.csv";
    run(directory, &fleet.split(' ').collect::<Vec<_>>()).succeeded();

    // People get a table, programs a document.
    let arguments = ["backtest", "--models", "linear_quantile,mstl", "--windows", "4", "--horizon", "24h", "old.csv"];
    let table = run(directory, &arguments).succeeded().stdout;
    assert!(["seasonal_naive", "linear_quantile", "mstl", "wQL"].iter().all(|word| table.contains(word)), "{table}");
    let more = [&arguments[..], &["--refit-every", "2", "--delay", "6h", "--json"]].concat();
    let found: Value = serde_json::from_str(&run(directory, &more).succeeded().stdout).unwrap();
    let wql = |model: &str| {
        let of = found.as_array().unwrap().iter().find(|one| one["model"] == model).unwrap();
        assert_eq!(of["report"]["overall"]["points"], 3 * 4 * 24, "{of}");
        of["report"]["overall"]["wql"].as_f64().unwrap()
    };
    assert!(wql("linear_quantile") < wql("seasonal_naive"), "{found}");

    let forecast = ["forecast", "--model", "linear_quantile", "--horizon", "2d", "-o", "next.csv", "old.csv"];
    run(directory, &forecast).succeeded();
    let written = std::fs::read_to_string(directory.join("next.csv")).unwrap();
    let lines: Vec<&str> = written.lines().collect();
    assert_eq!(lines.len(), 1 + 3 * 48, "{written}");
    assert!(lines[0].starts_with("series_id,start,end,mean,q2_5,q5,q10,"), "{}", lines[0]);
    let of: Vec<f64> = lines[1].split(',').skip(4).map(|number| number.parse().unwrap()).collect();
    assert!(of.len() == 13 && of.is_sorted(), "{}", lines[1]);

    for (arguments, words) in [
        (vec!["forecast", "--model", "crystal_ball", "old.csv"], "`meterline models kinds` lists all"),
        (vec!["forecast", "--holidays", "Portugul", "old.csv"], "did you mean `Portugal`?"),
        (vec!["backtest", "--windows", "400", "old.csv"], "use fewer --windows"),
        (vec!["forecast", "none.csv"], "none.csv"),
    ] {
        let refused = run(directory, &arguments);
        assert_ne!(refused.code, Some(0), "{arguments:?}");
        assert!(refused.stderr.contains(words), "{arguments:?}: {}", refused.stderr);
    }
    let kinds = run(directory, &["models", "kinds", "--json"]).succeeded().stdout;
    let kinds: Value = serde_json::from_str(&kinds).unwrap();
    assert!(kinds.as_array().unwrap().iter().any(|kind| kind["kind"] == "auto"), "{kinds}");
}

#[test]
fn a_value_that_no_meter_can_have_meant_spoils_nothing_and_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    // Forty days; one such value the day before the last, and one in the last, which is scored.
    let glitches = [40 * 24 - 40, 40 * 24 - 10];
    let mut text = "time,house\n".to_owned();
    for hour in 0..40 * 24 {
        let value = if glitches.contains(&hour) { 999_999 } else { 10 + hour % 24 + hour % 7 };
        text.push_str(&format!("{},{value}\n", 1_704_067_200 + 3_600 * hour));
    }
    std::fs::write(directory.join("glitches.csv"), text).unwrap();
    let file = ["--label", "begin", "--unit", "kWh", "--horizon", "24h", "glitches.csv"];
    let backtest = ["backtest", "--models", "mstl,linear_quantile", "--windows", "1", "--json"];
    let found = run(directory, &[&backtest[..], &file].concat()).succeeded();
    assert!(found.stderr.contains("values that are not scored: 1; they are more than 20 times"), "{}", found.stderr);
    assert!(found.stderr.contains("Values that models see as missing: 1, of 1 series, such as `house`"));
    let scored: Value = serde_json::from_str(&found.stdout).unwrap();
    for one in scored.as_array().unwrap() {
        let (overall, hidden) = (&one["report"]["overall"], &one["implausible"]);
        assert!(overall["wql"].as_f64().unwrap() < 0.3 && overall["points"] == 23 && *hidden == 1, "{one}");
    }
    let forecast = run(directory, &[&["forecast", "--model", "linear_quantile", "--json"][..], &file].concat());
    let rows: Value = serde_json::from_str(&forecast.succeeded().stdout).unwrap();
    assert!(rows.as_array().unwrap().iter().all(|row| row["mean"].as_f64().unwrap() < 100.0), "{rows}");
}

// Sixty days of a load that the temperature of its hour decides, every tenth of which was estimated, and temperatures for
// so many hours more.
fn heating(ahead: usize) -> String {
    let start = 1_704_067_200; // 2024-01-01, in seconds
    let mut text = "series_id,timestamp,value,quality,temperature,note\n".to_owned();
    for hour in 1..=60 * 24 + ahead {
        let at = start + 3_600 * hour;
        // Does not come again by days or weeks.
        let temperature = ((31 * hour * hour + 17 * hour) % 41) as f64 / 2.0;
        let value = if hour <= 60 * 24 { format!("{}", 50.0 - 2.0 * temperature) } else { String::new() };
        let quality = if hour % 10 == 0 { "estimated" } else { "" };
        text.push_str(&format!("house,{at},{value},{quality},{temperature},-\n"));
    }
    text
}

#[test]
fn covariates_of_a_long_file_make_forecasts_better_and_must_reach_over_the_horizon() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    std::fs::write(directory.join("heating.csv"), heating(24)).unwrap();
    let model = ["--horizon", "24h", "heating.csv"];
    let with = ["--covariates", "temperature"];

    let backtest = |more: &[&str]| {
        let arguments = [&["backtest", "--models", "linear_quantile", "--windows", "3"], &model[..], more].concat();
        run(directory, &arguments).succeeded().stdout
    };
    let wql = |json: &str| {
        let found: Value = serde_json::from_str(json).unwrap();
        let of = found.as_array().unwrap().iter().find(|one| one["model"] == "linear_quantile").unwrap();
        of["report"]["overall"]["wql"].as_f64().unwrap()
    };
    let (known, unknown) = (wql(&backtest(&[&with[..], &["--json"]].concat())), wql(&backtest(&["--json"])));
    assert!(known < 0.5 * unknown, "{known} {unknown}");
    let table = backtest(&["--by", "quality"]);
    assert!(["MSIS", "coverage 80 %", "measured", "estimated"].iter().all(|word| table.contains(word)), "{table}");

    let forecast =
        |more: &[&str]| run(directory, &[&["forecast", "--model", "linear_quantile"], &model[..], more].concat());
    let written = forecast(&with).succeeded().stdout;
    // The series ends with its last value, not with its last temperature.
    assert!(written.lines().nth(1).unwrap().starts_with("house,2024-03-01T00:00:00Z,"), "{written}");
    let misspelt = forecast(&["--covariates", "temprature"]);
    assert_eq!(misspelt.code, Some(2), "{}", misspelt.stderr);
    assert!(misspelt.stderr.contains("did you mean `temperature`?"), "{}", misspelt.stderr);

    std::fs::write(directory.join("heating.csv"), heating(20)).unwrap();
    let refused = forecast(&with);
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("2024-03-01T20:00:00Z") && refused.stderr.contains("`house`"),
        "{}",
        refused.stderr
    );
    let filled = forecast(&[&with[..], &["--covariate-fallback", "last_day"]].concat()).succeeded();
    assert!(filled.stderr.contains("4 values"), "{}", filled.stderr);
}
