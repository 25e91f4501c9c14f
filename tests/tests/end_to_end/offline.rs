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
    assert!(of.len() == 9 && of.is_sorted(), "{}", lines[1]);

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
