//! Four weeks of readings at two frequencies, day by day: quarter hours of substations and hours of clients. They are real
//! where there is real data, and else made up in files of the same shape; `meterline replay` sends them either way.

use std::f64::consts::TAU;
use std::fs;
use std::path::Path;

use meterline_tests::data::RealData;
use meterline_tests::sandbox::Sandbox;
use meterline_tests::skip::note;

/// Whole days that there are of each feed.
pub const DAYS: usize = 28;
/// Series of each feed.
const SERIES: usize = 4;
/// Those of hours.
const CLIENTS: [&str; SERIES] = ["client_1", "client_3", "client_4", "client_5"];

/// What one feed has to send, and how far that is sent.
pub struct Feed {
    pub topic: &'static str,
    /// Its model group, which is called as its frequency.
    pub group: &'static str,
    /// Length of an interval.
    pub minutes: i64,
    /// Days sent so far.
    pub sent: usize,
    files: Vec<File>,
    arguments: &'static [&'static str],
}

/// The rows of a file in the order of time, as many each day.
struct File {
    name: String,
    header: Option<String>,
    rows: Vec<String>,
}

/// Substations, and clients.
pub fn feeds() -> [Feed; 2] {
    let data = RealData::find();
    let which = if data.is_some() { "real readings" } else { "simulated readings of the shape" };
    note(&format!("two frequencies: {which} of openstef_substations and uci_electricity"));
    let (substations, clients) = match &data {
        Some(data) => {
            let files = data.substation_files();
            (files.iter().take(SERIES).map(|path| real_substation(path)).collect(), real_clients(&data.hourly()))
        }
        None => ((0..SERIES).map(simulated_substation).collect(), simulated_clients()),
    };
    let feed = |topic, group, minutes, files, arguments| Feed { topic, group, minutes, sent: 0, files, arguments };
    let wide: &[&str] = &["--time-column", "datetime", "--columns", "total_substation"];
    [
        feed("two-feeds-substations", "PT15M", 15, substations, wide),
        feed("two-feeds-clients", "PT1H", 60, vec![clients], &[]),
    ]
}

impl Feed {
    /// Replays the next day.
    pub fn send_day(&mut self, sandbox: &Sandbox, brokers: &str) {
        let folder = sandbox.path().join("day");
        fs::create_dir_all(&folder).expect("make a folder for the day");
        let paths = self.files.iter().map(|file| {
            let path = folder.join(&file.name);
            fs::write(&path, file.day(self.sent)).expect("write a day");
            path.display().to_string()
        });
        let paths: Vec<String> = paths.collect();
        let mut arguments =
            vec!["replay", "--brokers", brokers, "--topic", self.topic, "--unit", "kW", "--label", "end"];
        arguments.extend(self.arguments.iter().copied().chain(paths.iter().map(String::as_str)));
        sandbox.run(&arguments).succeeded();
        self.sent += 1;
    }

    /// Names of its series, where each has a file of its own.
    pub fn series(&self) -> Vec<String> {
        self.files.iter().map(|file| file.name.trim_end_matches(".csv").to_owned()).collect()
    }
}

impl File {
    fn day(&self, day: usize) -> String {
        let of_a_day = self.rows.len() / DAYS;
        let rows = self.rows.iter().skip(day * of_a_day).take(of_a_day);
        self.header.iter().chain(rows).map(|line| format!("{line}\n")).collect()
    }
}

fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()));
    text.lines().map(str::to_owned).collect()
}

// The first row is of the first quarter of an hour of a day, and none is missing.
fn real_substation(path: &Path) -> File {
    let mut rows = lines(path);
    let header = Some(rows.remove(0));
    rows.truncate(DAYS * 96);
    let name = path.file_name().and_then(|name| name.to_str()).expect("a substation has a name").to_owned();
    File { name, header, rows }
}

// Hour by hour from the first one of a year on, with a row for each client.
fn real_clients(path: &Path) -> File {
    let is_ours = |row: &String| row.rsplit(',').next().is_some_and(|client| CLIENTS.contains(&client));
    let rows = lines(path).into_iter().filter(is_ours).take(DAYS * 24 * SERIES).collect();
    File { name: "clients.csv".into(), header: None, rows }
}

fn simulated_substation(series: usize) -> File {
    let row = |quarter: usize| {
        let value = load(series, quarter as f64 / 4.0);
        format!("{}+00:00,{value:.3}", stamp("2021-08", 15 * (quarter + 1)))
    };
    let header = Some("datetime,total_substation".to_owned());
    File { name: format!("S{series}.csv"), header, rows: (0..DAYS * 96).map(row).collect() }
}

fn simulated_clients() -> File {
    let row = |row: usize| {
        let (hour, series) = (row / SERIES, row % SERIES);
        format!("{},{:.3},{}", stamp("2014-01", 60 * (hour + 1)), load(series, hour as f64), CLIENTS[series])
    };
    File { name: "clients.csv".into(), header: None, rows: (0..DAYS * 24 * SERIES).map(row).collect() }
}

// So many minutes after a month began.
fn stamp(month: &str, minutes: usize) -> String {
    format!("{month}-{:02} {:02}:{:02}:00", 1 + minutes / 1440, minutes / 60 % 24, minutes % 60)
}

// It comes again by the day and by the week, but for a part that no season explains: forecasts must be able to err.
fn load(series: usize, hour: f64) -> f64 {
    let level = 20.0 + 10.0 * series as f64;
    let week = if (hour / 24.0) as usize % 7 < 5 { 1.0 } else { 0.7 };
    let day = 1.0 + 0.4 * (TAU * (hour - 9.0) / 24.0).sin();
    let rest = 0.1 * (0.37 * hour + series as f64).sin();
    level * week * (day + rest)
}
