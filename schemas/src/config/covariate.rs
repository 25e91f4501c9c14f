//! `[covariate.NAME]`: what is known beside the series and helps to forecast them, such as the temperature or a tariff.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Config;
use super::load::suggestion;
use super::rollup::is_plain;

/// `[covariate.NAME]`: one number for each interval, of all series or of each. Policies name those that their models
/// are given: `covariates` in `[policy.NAME.model]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CovariateConfig {
    /// CSV or Parquet file with the columns `start` (the start of an interval of the series' frequency), `value` (a
    /// number; an empty cell is a missing one) and, where each series has values of its own, `series_id`. Of two rows
    /// of one interval the later one counts. A relative path is below the configuration's directory; each run reads the
    /// file once, when it begins. Either this or `series` is required.
    #[serde(default)]
    pub file: Option<String>,
    /// Identifier of a series of the same frequency whose intervals are the values, for all series.
    #[serde(default)]
    pub series: Option<String>,
    /// `ahead`: values are known before their intervals begin, over the whole horizon, as a weather forecast or a
    /// tariff. `past`: once their intervals have ended. Default `ahead` for a file; of a `series` always `past`.
    #[serde(default)]
    pub known: Option<KnownWhen>,
    /// What stands in for a value that is missing within the horizon of a forecast: `none` (the run fails and says
    /// which), `last_day` (the value of the newest earlier day that has one at the same local time, by the zone of the
    /// series' feed) or `last_week` (the same of the earlier days on the same weekday). Where intervals are weeks or
    /// months, both are the value of the newest interval before that has one. A series that finds none is forecast by
    /// seasonal naive. Default `none`.
    #[serde(default)]
    pub fallback: Fallback,
    /// IANA time zone of stamps in the file without an offset. Default `UTC`.
    #[serde(default = "utc")]
    pub zone: String,
}

fn utc() -> String {
    "UTC".into()
}

/// When a value is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KnownWhen {
    /// Before its interval begins.
    Ahead,
    /// Once its interval has ended.
    Past,
}

/// What stands in for a value that is missing within a horizon. Of weeks and months it is always the value of the newest
/// interval before that has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fallback {
    /// Nothing.
    #[default]
    None,
    /// The value of the newest earlier day that has one, at the same local time.
    LastDay,
    /// The value of the newest earlier day that has one, of those on the same weekday, at the same local time.
    LastWeek,
}

impl CovariateConfig {
    /// When its values are known.
    pub fn known(&self) -> KnownWhen {
        match self.series {
            Some(_) => KnownWhen::Past,
            None => self.known.unwrap_or(KnownWhen::Ahead),
        }
    }
}

/// What is wrong with covariates, and with what policies say of their models' inputs: the dotted key, the message and
/// the remedy.
pub(super) fn fault(config: &Config) -> Option<(String, String, String)> {
    let of_covariate = |(name, covariate): (&String, &CovariateConfig)| covariate_fault(name, covariate);
    config.covariate.iter().find_map(of_covariate).or_else(|| policy_fault(config))
}

fn found(key: String, message: String, remedy: &str) -> Option<(String, String, String)> {
    Some((key, message, remedy.to_owned()))
}

fn covariate_fault(name: &str, covariate: &CovariateConfig) -> Option<(String, String, String)> {
    let table = format!("covariate.{name}");
    let key = |k: &str| format!("{table}.{k}");
    if !is_plain(name) {
        let message = format!("`{table}` has characters other than letters, digits, _ and -");
        return found(table, message, "rename the covariate");
    }
    if covariate.file.is_some() == covariate.series.is_some() {
        return found(table.clone(), format!("{table} needs either `file` or `series`"), "give one of the two");
    }
    for (k, text) in [("file", &covariate.file), ("series", &covariate.series)] {
        if text.as_ref().is_some_and(|text| text.trim().is_empty()) {
            return found(key(k), format!("{} is empty", key(k)), "name the file or the series");
        }
    }
    if covariate.series.is_some() && covariate.known == Some(KnownWhen::Ahead) {
        let message = format!("{}: the intervals of a series are known once they have ended", key("known"));
        return found(key("known"), message, "leave it out, or give a `file` with values that are known ahead");
    }
    if covariate.known() == KnownWhen::Past && covariate.fallback != Fallback::None {
        let message = format!("{}: of what is known of the past alone nothing can be missing ahead", key("fallback"));
        return found(key("fallback"), message, "leave it out");
    }
    if jiff::tz::TimeZone::get(&covariate.zone).is_err() {
        let message = format!("{} `{}` is no known time zone", key("zone"), covariate.zone);
        return found(key("zone"), message, "use an IANA name such as Europe/Lisbon");
    }
    None
}

fn policy_fault(config: &Config) -> Option<(String, String, String)> {
    for (policy, of) in &config.policy {
        let key = |k: &str| format!("policy.{policy}.model.{k}");
        let mut seen = BTreeSet::new();
        for name in &of.model.covariates {
            let key = key("covariates");
            if !config.covariate.contains_key(name) {
                let known: Vec<&str> = config.covariate.keys().map(String::as_str).collect();
                let remedy = match known.as_slice() {
                    [] => format!("say where its values are: [covariate.{name}] file = \"…\""),
                    _ => suggestion(name, &known),
                };
                return found(key.clone(), format!("{key}: there is no covariate `{name}`"), &remedy);
            }
            if !seen.insert(name) {
                return found(key.clone(), format!("{key} names `{name}` twice"), "name each once");
            }
        }
        if let Some(found) = label_fault(config, &key("labels"), &of.model.labels) {
            return Some(found);
        }
        if let Some(day) = of.model.workdays.iter().find(|day| of.model.days_off.contains(day)) {
            let message = format!("{}: {day} is among `days_off` too", key("workdays"));
            return found(key("workdays"), message, "keep it in one of them");
        }
        if of.model.estimated_weight.is_some_and(|weight| !(0.0..=1.0).contains(&weight)) {
            let message = format!("{} is not between 0 and 1", key("estimated_weight"));
            return found(key("estimated_weight"), message, "use a share, such as 0.5");
        }
        if of.model.origins_a_day.is_some_and(|times| !(1..=24).contains(&times)) {
            let message = format!("{} is not between 1 and 24", key("origins_a_day"));
            return found(key("origins_a_day"), message, "use a number of times of day, such as 4");
        }
    }
    None
}

// Labels of readings and topics are kept where there is a roll-up, which needs them; files can be read at any time.
fn label_fault(config: &Config, key: &str, labels: &[String]) -> Option<(String, String, String)> {
    let of_files =
        || config.labels.values().filter(|source| source.file.is_some()).flat_map(|source| source.labels.keys());
    let of_sources = || config.labels.values().flat_map(|source| source.labels.keys());
    let of_feeds = || config.feed.values().flat_map(|feed| feed.labels.keys());
    let mut seen = BTreeSet::new();
    for label in labels {
        let is_of_file = of_files().any(|known| known == label);
        let is_of_stream = of_sources().chain(of_feeds()).any(|known| known == label);
        if !is_of_stream {
            let known: Vec<&str> = of_sources().chain(of_feeds()).map(String::as_str).collect();
            let remedy = match known.as_slice() {
                [] => {
                    format!("say where it comes from: [labels.NAME] file = \"…\", labels = {{ {label} = \"{label}\" }}")
                }
                _ => suggestion(label, &known),
            };
            return found(key.to_owned(), format!("{key}: there is no label `{label}`"), &remedy);
        }
        let takes =
            |feed: &String| config.rollup.values().any(|rollup| rollup.feeds.is_empty() || rollup.feeds.contains(feed));
        let is_of_topic = of_sources().any(|known| known == label) && !config.rollup.is_empty();
        let is_kept = config.feed.iter().any(|(feed, of)| of.labels.contains_key(label) && takes(feed));
        if !is_of_file && !is_of_topic && !is_kept {
            let message = format!("{key}: `{label}` comes from the stream, where it is kept for roll-ups alone");
            return found(
                key.to_owned(),
                message,
                "give it in a file of [labels.*], or configure a roll-up of its feed",
            );
        }
        if !seen.insert(label) {
            return found(key.to_owned(), format!("{key} names `{label}` twice"), "name each once");
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::{parse, resolve_policy};
    use super::*;
    use crate::frequency::Frequency;
    use crate::location::Location;

    const POLICY: &str = "[policy.a]\nfrequency = \"PT1H\"\n[policy.a.model]\n";

    #[test]
    fn a_covariate_has_defaults_and_a_policy_its_inputs() {
        let text = format!(
            "[covariate.temperature]\nfile = \"weather.csv\"\n\
             [covariate.voltage]\nseries = \"v1\"\n\
             [covariate.wind]\nfile = \"wind.parquet\"\nknown = \"past\"\nzone = \"Europe/Lisbon\"\n\
             [covariate.tariff]\nfile = \"tariff.csv\"\nfallback = \"last_week\"\n\
             {POLICY}covariates = [\"wind\", \"temperature\", \"voltage\", \"tariff\"]\nholidays = \"Netherlands\"\n\
             days_off = [\"2026-05-05\"]\nworkdays = [\"2026-12-26\"]\nestimated_weight = 0.25\n\
             location = {{ latitude = 52.1, longitude = 5.3 }}\norigins_a_day = 2\nlabels = [\"tariff\"]\n[labels.meta]\nfile = \"meters.csv\"\nlabels = {{ tariff = \"t\" }}\n"
        );
        let config = parse(&text).unwrap();
        let known = |name: &str| config.covariate[name].known();
        assert_eq!((known("temperature"), known("voltage")), (KnownWhen::Ahead, KnownWhen::Past));
        assert_eq!((known("wind"), known("tariff")), (KnownWhen::Past, KnownWhen::Ahead));
        assert_eq!(config.covariate["temperature"].fallback, Fallback::None);
        let policy = resolve_policy(Frequency::HOUR, &config.policy);
        assert_eq!(policy.covariates, ["wind", "temperature", "voltage", "tariff"], "the order is the policy's");
        assert_eq!(policy.labels, ["tariff"]);
        assert_eq!((policy.holidays.as_deref(), policy.estimated_weight), (Some("Netherlands"), 0.25));
        assert_eq!((policy.origins_a_day, resolve_policy(Frequency::Day, &config.policy).origins_a_day), (2, 4));
        assert_eq!(policy.days_off[0].to_string() + " " + &policy.workdays[0].to_string(), "2026-05-05 2026-12-26");
        assert_eq!(policy.location, Location::new(52.1, 5.3).ok());
        // As a run that goes on reads it.
        let kept = serde_json::to_string(&policy).unwrap();
        assert_eq!(serde_json::from_str::<super::super::ResolvedPolicy>(&kept).unwrap(), policy);
    }

    #[test]
    fn faults_name_the_line_the_key_and_the_remedy() {
        let file = "[covariate.temperature]\nfile = \"weather.csv\"\n";
        let used = format!("{POLICY}covariates = [\"temperature\"]\n");
        let labels = "[labels.meta]\nfile = \"meters\"\nlabels = { tariff = \"tariff\" }\n";
        for (text, line, words) in [
            (format!("[covariate.temperature]\n{used}"), 1, "needs either `file` or `series`; give one of the two"),
            (format!("{file}series = \"v1\"\n{used}"), 1, "needs either `file` or `series`"),
            (format!("{file}fallbak = \"last_day\"\n{used}"), 3, "did you mean `fallback`?"),
            (format!("{file}fallback = \"last_dya\"\n{used}"), 3, "did you mean `last_day`?"),
            (format!("{file}known = \"past\"\nfallback = \"last_day\"\n{used}"), 4, "nothing can be missing ahead"),
            (format!("{file}zone = \"Europe/Lisabon\"\n{used}"), 3, "is no known time zone"),
            (format!("[covariate.temperature]\nfile = \" \"\n{used}"), 2, "covariate.temperature.file is empty"),
            (
                format!("[covariate.temperature]\nseries = \"v1\"\nknown = \"ahead\"\n{used}"),
                3,
                "known once they have ended; leave it out",
            ),
            (
                format!("{file}{POLICY}covariates = [\"temprature\", \"temperature\"]\n"),
                6,
                "there is no covariate `temprature`; did you mean `temperature`?",
            ),
            (used.clone(), 4, "say where its values are: [covariate.temperature]"),
            (format!("{file}{POLICY}covariates = [\"temperature\", \"temperature\"]\n"), 6, "twice"),
            (
                format!("{POLICY}labels = [\"tariff\"]\n"),
                4,
                "[labels.NAME] file = \"…\", labels = { tariff = \"tariff\" }",
            ),
            (format!("{labels}{POLICY}labels = [\"tarif\"]\n"), 7, "no label `tarif`; did you mean `tariff`?"),
            (format!("{labels}{POLICY}labels = [\"tariff\", \"tariff\"]\n"), 7, "twice"),
            (
                format!("{}{POLICY}labels = [\"tariff\"]\n", labels.replace("file", "topic")),
                7,
                "is kept for roll-ups alone; give it in a file of [labels.*], or configure a roll-up of its feed",
            ),
            (format!("{POLICY}estimated_weight = 1.5\n"), 4, "is not between 0 and 1; use a share"),
            (format!("{POLICY}origins_a_day = 0\n"), 4, "is not between 1 and 24; use a number of times"),
            (format!("{POLICY}days_off = [\"5.5.2026\"]\n"), 4, "write it like 2026-05-05"),
            (format!("{POLICY}days_off = [\"2026-05-05\"]\nworkdays = [\"2026-05-05\"]\n"), 5, "keep it in one of"),
            (format!("{POLICY}holiday = \"Portugal\"\n"), 4, "did you mean `holidays`?"),
            (
                format!("{POLICY}location = {{ latitude = 91, longitude = 5.3 }}\n"),
                4,
                "policy.a.model.location: the latitude 91 is not between -90 and 90",
            ),
            (format!("{POLICY}location = {{ latitude = 52.1, longitude = 181.5 }}\n"), 4, "the longitude 181.5 is not"),
            (format!("{POLICY}location = {{ latitude = 52.1, longitud = 5.3 }}\n"), 4, "did you mean `longitude`?"),
            (format!("{POLICY}location = {{ latitude = 52.1 }}\n"), 4, "missing field `longitude`"),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
            assert_eq!(error.line, Some(line), "{error}");
        }
    }
}
