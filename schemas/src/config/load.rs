//! Reads the configuration, and says precisely what is wrong with it: key, line, nearest known key, remedy.

use std::fmt;

use super::Config;
use super::trigger::CORRECTIONS_MAX;
use crate::names;

/// What is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub struct ConfigError {
    /// Line in the file, from 1, where the fault can be placed.
    pub line: Option<usize>,
    /// What is wrong, with the key.
    pub message: String,
    /// What to do.
    pub remedy: Option<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        f.write_str(&self.message)?;
        match &self.remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

impl ConfigError {
    /// What is wrong with the value of the dotted `key` in the configuration `text`; the message says the key and the
    /// remedy.
    pub fn of_key(text: &str, key: &str, message: &str) -> ConfigError {
        ConfigError { line: find_key(text, key), message: format!("{key}: {message}"), remedy: None }
    }
}

/// Parses and checks a configuration.
pub fn parse(text: &str) -> Result<Config, ConfigError> {
    let config: Config = toml::from_str(text).map_err(|e| from_toml(text, &e))?;
    check(text, &config)?;
    Ok(config)
}

/// Checks a configuration that was put together of parts, each of which was read.
///
/// # Errors
/// What is wrong, with the key and the remedy; without a line.
pub fn recheck(config: &Config) -> Result<(), ConfigError> {
    check("", config)
}

fn from_toml(text: &str, error: &toml::de::Error) -> ConfigError {
    let line = error.span().map(|span| line_of(text, span.start));
    let message = error.message().trim().to_owned();
    if let Some((name, known)) = unknown_field(&message) {
        let remedy = Some(suggestion(name, &known));
        return ConfigError { line, message, remedy };
    }
    let message = match line.and_then(|line| key_of(text, line)) {
        Some(key) => format!("{key}: {message}"),
        None => message,
    };
    // serde words it: invalid type: integer `3`, expected a string
    let expected = message.rsplit_once("expected ").map(|(_, expected)| expected);
    let remedy = match expected {
        Some("a string") => Some("put it in quotes"),
        Some("u16" | "u32" | "u64" | "usize" | "i64") => Some("use a whole number, without quotes"),
        Some("a boolean") => Some("use true or false, without quotes"),
        _ => None,
    };
    ConfigError { line, message, remedy: remedy.map(str::to_owned) }
}

/// The dotted key that is set in a line, where it is written plainly.
fn key_of(text: &str, line: usize) -> Option<String> {
    let before: Vec<&str> = text.lines().take(line).map(str::trim).collect();
    let (name, _) = before.last()?.split_once('=')?;
    let table = before.iter().rev().find_map(|line| line.strip_prefix('[')?.split(']').next());
    let name = name.trim();
    Some(table.map_or_else(|| name.to_owned(), |table| format!("{table}.{name}")))
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|b| **b == b'\n').count() + 1
}

// serde words it: unknown field `brokrs`, expected one of `brokers`, `group_id`
fn unknown_field(message: &str) -> Option<(&str, Vec<&str>)> {
    let rest = message.strip_prefix("unknown field `").or_else(|| message.strip_prefix("unknown variant `"))?;
    let (name, rest) = rest.split_once('`')?;
    let known = rest.split('`').skip(1).step_by(2).collect();
    Some((name, known))
}

/// What was meant by a name that is not known.
pub(super) fn suggestion(name: &str, known: &[&str]) -> String {
    match names::nearest(name, known.iter().copied()) {
        Some(key) => format!("did you mean `{key}`?"),
        None => "remove it, or choose a known one".into(),
    }
}

/// A key with a value that cannot be used, why, and the remedy.
pub(super) type Refusal = (&'static str, String, &'static str);

/// Refuses the value of a key.
pub(super) fn refusal(key: &'static str, message: String, remedy: &'static str) -> Result<(), Refusal> {
    Err((key, message, remedy))
}

fn check(text: &str, config: &Config) -> Result<(), ConfigError> {
    let refuse = |key: &str, message: String, remedy: &str| {
        Err(ConfigError { line: find_key(text, key), message, remedy: Some(remedy.to_owned()) })
    };
    if config.kafka.brokers.trim().is_empty() {
        return refuse("kafka.brokers", "kafka.brokers is empty".into(), "name at least one host:port");
    }
    if config.ingest.workers == 0 || config.ingest.workers > 256 {
        return refuse(
            "ingest.workers",
            "ingest.workers must be 1 to 256".into(),
            "leave it out for one per processor",
        );
    }
    if config.ingest.commit_interval.micros() < 100_000 {
        return refuse("ingest.commit_interval", "ingest.commit_interval is below 100ms".into(), "use at least 100ms");
    }
    if config.ingest.remembered_intervals < 2 {
        return refuse(
            "ingest.remembered_intervals",
            "ingest.remembered_intervals is below 2".into(),
            "use at least 2, better a day's worth",
        );
    }
    if let Some((message, remedy)) = config.cluster.fault() {
        return refuse("cluster.addresses", message, remedy);
    }
    if config.device.slots == 0 {
        return refuse("device.slots", "device.slots is 0: nothing could ever train".into(), "use at least 1");
    }
    let device = config.device.device.as_str();
    let cuda = device.strip_prefix("cuda:").is_some_and(|n| n.parse::<u32>().is_ok());
    if !(device == "auto" || device == "cpu" || cuda) {
        return refuse("device.device", format!("device.device `{device}` is unknown"), "use auto, cpu or cuda:N");
    }
    if let Some((message, remedy)) = config.http.fault() {
        return refuse("http.listen", message, remedy);
    }
    if let Some((key, wrong, remedy)) = config.maintenance.fault() {
        let key = format!("maintenance.{key}");
        return refuse(&key, format!("{key} {wrong}"), remedy);
    }
    if let Err((key, message, remedy)) = super::lake::check(&config.lake, config.metadata.url.is_some()) {
        return refuse(key, message, remedy);
    }
    let mut topics = std::collections::BTreeMap::new();
    for (name, feed) in &config.feed {
        let key = |k: &str| format!("feed.{name}.{k}");
        if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') {
            return refuse(
                &format!("feed.{name}"),
                format!("feed name `{name}` has characters other than letters, digits, _ and -"),
                "rename the feed",
            );
        }
        for (k, v) in [("topic", &feed.topic), ("series", &feed.series), ("time", &feed.time), ("value", &feed.value)] {
            if v.trim().is_empty() {
                return refuse(&key(k), format!("feed.{name}.{k} is empty"), "name the topic or the field");
            }
        }
        if jiff::tz::TimeZone::get(&feed.zone).is_err() {
            return refuse(
                &key("zone"),
                format!("feed.{name}.zone `{}` is no known time zone", feed.zone),
                "use an IANA name such as Europe/Lisbon",
            );
        }
        if let Err(remedy) = feed.unit.check(feed.kind) {
            return refuse(&key("unit"), format!("feed.{name}: unit `{}` does not fit its kind", feed.unit), &remedy);
        }
        if let Some(other) = topics.insert(feed.topic.as_str(), name) {
            return refuse(
                &key("topic"),
                format!("feeds `{other}` and `{name}` read the same topic `{}`", feed.topic),
                "keep one feed a topic",
            );
        }
    }
    let faults = [super::rollup::fault, super::covariate::fault, super::selector::fault];
    if let Some((key, message, remedy)) = faults.into_iter().find_map(|fault| fault(config)) {
        return refuse(&key, message, &remedy);
    }
    let mut taken: std::collections::BTreeMap<String, &String> = std::collections::BTreeMap::new();
    for (name, policy) in &config.policy {
        let of_frequency = policy.frequency.to_string();
        let (key, of) = match (&policy.group, policy.selector()) {
            (Some(group), _) => ("group", group.clone()),
            (None, Some(selector)) => ("label", selector.group(&of_frequency)),
            (None, None) => ("frequency", of_frequency),
        };
        // The group of a frequency in UTC has its name.
        if let Some(other) = taken.insert(format!("{key} {of}"), name) {
            return refuse(
                &format!("policy.{name}.{key}"),
                format!("policies `{other}` and `{name}` are both for {of}"),
                &format!("keep one policy a {key}"),
            );
        }
        let triggers = [("reforecast", &policy.reforecast), ("retrain", &policy.retrain), ("correct", &policy.correct)];
        for (trigger, of) in triggers {
            if of.max_concurrent == Some(0) {
                return refuse(
                    &format!("policy.{name}.{trigger}.max_concurrent"),
                    format!("policy.{name}.{trigger}.max_concurrent is 0: nothing would ever run"),
                    "use at least 1, or pause = true",
                );
            }
            for (key, value, most) in
                [("max_series", of.max_series, usize::MAX), ("max_runs", of.max_runs, CORRECTIONS_MAX)]
            {
                if value.is_some_and(|value| !(1..=most).contains(&value)) {
                    let upper = if most == usize::MAX { String::new() } else { format!(" and at most {most}") };
                    return refuse(
                        &format!("policy.{name}.{trigger}.{key}"),
                        format!("policy.{name}.{trigger}.{key} is out of range"),
                        &format!("use at least 1{upper}, or pause = true"),
                    );
                }
            }
        }
    }
    Ok(())
}

/// The line of a dotted key, where it is written plainly.
fn find_key(text: &str, dotted: &str) -> Option<usize> {
    let (table, key) = dotted.rsplit_once('.')?;
    let mut current = String::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.split(']').next()) {
            current = name.trim().to_owned();
            if current == dotted {
                return Some(index + 1);
            }
        } else if current == table && line.split('=').next().is_some_and(|k| k.trim() == key) {
            return Some(index + 1);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_name_the_line_the_key_and_the_remedy() {
        for (text, line, words) in [
            ("[kafka]\nbrokrs = \"x\"\n", 2, "did you mean `brokers`?"),
            (
                "[feed.m]\ntopic = \"t\"\nseries = \"s\"\ntime = \"t\"\nvalue = \"v\"\nzone = \"Europe/Lisabon\"\n",
                6,
                "zone",
            ),
            ("\n[ingest]\nworkers = 0\n", 3, "ingest.workers"),
            ("[lake]\nurl = 3\n", 2, "lake.url: invalid type: integer `3`, expected a string; put it in quotes"),
            ("[ingest]\n\nworkers = \"4\"\n", 3, "ingest.workers: invalid type: string \"4\", expected usize; use a"),
            ("[device]\ndevice = \"gpu\"\n", 2, "cuda:N"),
            ("[http]\nlisten = \"9464\"\n", 2, "127.0.0.1:9464"),
            ("[cluster]\naddresses = [\"a:1\", \"a\"]\n", 2, "`a` is no host and port"),
            ("[cluster]\nsecret = \"x\"\n", 2, "did you mean `secret_file`?"),
            ("[http]\nlisten = \"0.0.0.0:9464\"\n", 2, "set http.password_file"),
            ("[maintenance]\nfile_retention = \"30d\"\n", 2, "1h to 7d"),
            ("[maintenance]\nevery = \"never\"\n", 2, "or off"),
            ("[retention]\nforecasts = \"always\"\n", 2, "forever"),
            ("[policy.a]\nfrequency = \"PT7M\"\n", 2, "PT15M"),
            ("[policy.a]\nfrequency = \"PT15M\"\n[policy.a.retrain]\nwen = \"true\"\n", 4, "did you mean `when`?"),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.line, Some(line), "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn an_empty_configuration_is_valid() {
        assert_eq!(parse("").unwrap(), Config::default());
    }
}
