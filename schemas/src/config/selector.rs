//! Model groups by a label: which policies make one, what it is called, and what may be wrong with them.
//!
//! A group of a label is called as the group whose series it takes, with label and value behind it:
//! `PT15M/tariff=industry`, `P1D@Europe/Lisbon/tariff=industry`. Neither names of zones nor values have what would make
//! two groups one: a zone has no `=`, and a value no `/`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::load::suggestion;
use super::{Config, PolicyConfig};
use crate::frequency::Frequency;

/// Policies that may have a label: a series knows by a byte which of them takes it.
pub const SELECTORS_MAX: usize = u8::MAX as usize;

/// Most bytes of a label and its value, each letter of which may take three in the name of a directory: these have 255.
const NAME_MAX: usize = 240;

/// The series of one frequency whose label has one value: a model group of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selector {
    /// The frequency.
    pub frequency: Frequency,
    /// Name of the label.
    pub label: String,
    /// Its value.
    pub value: String,
}

impl Selector {
    /// The name of its group within the group `of` all series of a frequency and calendar.
    pub fn group(&self, of: &str) -> String {
        format!("{of}/{}={}", self.label, self.value)
    }

    /// Whether a group is one of those that it makes: one for each calendar.
    pub fn makes(&self, group: &str) -> bool {
        group.strip_suffix(&self.group("")).is_some_and(|of| !of.is_empty())
    }
}

/// Whether a model group is one of a label.
pub fn is_of_label(group: &str) -> bool {
    group.contains('=')
}

/// The name of the group of all series of the frequency and calendar of a group.
pub fn without_label(group: &str) -> &str {
    match group.rsplit_once('/') {
        Some((of, label)) if is_of_label(label) => of,
        _ => group,
    }
}

/// The selectors of a configuration, in the order of the names of their policies: of two that take a series of one
/// frequency the first counts.
pub fn selectors(policies: &BTreeMap<String, PolicyConfig>) -> Vec<Selector> {
    policies.values().filter_map(PolicyConfig::selector).collect()
}

/// What is wrong with the labels of policies: the dotted key, the message and the remedy.
pub(super) fn fault(config: &Config) -> Option<(String, String, String)> {
    let labelled = config.policy.iter().filter_map(|(name, policy)| Some((name, policy, policy.label.as_ref()?)));
    for (number, (name, policy, labels)) in labelled.enumerate() {
        let key = format!("policy.{name}.label");
        let found = |message: String, remedy: &str| Some((key.clone(), message, remedy.to_owned()));
        if policy.group.is_some() {
            let message = format!("policy.{name} has both `group` and `label`");
            return found(message, "give one of the two: with `label` the group follows from label and frequency");
        }
        let (Some((label, value)), 1) = (labels.first_key_value(), labels.len()) else {
            let remedy = "name one label with one value, such as { tariff = \"industry\" }";
            return found(format!("{key} names {} labels", labels.len()), remedy);
        };
        if value.is_empty() || value.trim() != value || value.contains('/') || value.chars().any(char::is_control) {
            let message =
                format!("{key}: the value `{}` of `{label}` cannot be part of a group's name", value.escape_debug());
            return found(message, "use one that is not empty, without `/` and without spaces around it");
        }
        if label.len() + 3 * value.len() > NAME_MAX {
            let message = format!("{key}: `{label}` and its value are too long for the name of a group");
            return found(message, "use shorter ones: models are kept below that name");
        }
        if let Some((message, remedy)) = source_fault(config, &key, label) {
            return found(message, &remedy);
        }
        if number >= SELECTORS_MAX {
            return found(format!("more than {SELECTORS_MAX} policies have a label"), "keep those that matter most");
        }
    }
    None
}

// Where groups come from has to be known of each series at any time, whatever was read of it: files have it.
fn source_fault(config: &Config, key: &str, label: &str) -> Option<(String, String)> {
    let of_sources = || config.labels.values().flat_map(|source| source.labels.keys());
    let of_feeds = || config.feed.values().flat_map(|feed| feed.labels.keys());
    let known: Vec<&str> = of_sources().chain(of_feeds()).map(String::as_str).collect();
    if !known.contains(&label) {
        let remedy = match known.as_slice() {
            [] => format!("say where it comes from: [labels.NAME] file = \"…\", labels = {{ {label} = \"{label}\" }}"),
            _ => suggestion(label, &known),
        };
        return Some((format!("{key}: there is no label `{label}`"), remedy));
    }
    let mut of_files = config.labels.values().filter(|source| source.file.is_some());
    if !of_files.any(|source| source.labels.contains_key(label)) {
        let message =
            format!("{key}: `{label}` comes from readings or a topic; model groups follow labels of files alone");
        return Some((message, "give it in a file of [labels.*]".to_owned()));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::{parse, resolve_group_policy};
    use super::*;

    const LABELS: &str = "[labels.meta]\nfile = \"meta.csv\"\nlabels = { tariff = \"tariff\", phases = \"p\" }\n";

    #[test]
    fn a_group_of_a_label_has_its_own_policy_and_the_rest_from_that_of_the_frequency() {
        let text = format!(
            "{LABELS}[policy.days]\nfrequency = \"P1D\"\nhorizon = \"7d\"\n[policy.days.model]\nseed = 7\n\
             [policy.industry]\nfrequency = \"P1D\"\nlabel = {{ tariff = \"industry\" }}\n[policy.industry.model]\nkind = \
             \"auto\"\n[policy.porto]\nfrequency = \"P1D\"\ngroup = \"P1D@Europe/Lisbon/tariff=industry\"\n\
             [policy.porto.model]\nseed = 9\n[policy.three]\nfrequency = \"PT1H\"\nlabel = {{ phases = \"3\" }}\n"
        );
        let policies = parse(&text).unwrap().policy;
        let shown = |frequency, group: &str| {
            let policy = resolve_group_policy(group, frequency, &policies);
            (policy.source, policy.model, policy.seed, policy.horizon)
        };
        let is = |source: &str, model: &str, seed, horizon| (source.to_owned(), model.to_owned(), seed, horizon);
        let day = Frequency::Day;
        assert_eq!(shown(day, "P1D"), is("policy.days", "quantile_mlp", 7, 7));
        assert_eq!(shown(day, "P1D@Europe/Lisbon"), is("policy.days", "quantile_mlp", 7, 7));
        assert_eq!(shown(day, "P1D/tariff=industry"), is("policy.industry, policy.days", "auto", 7, 7));
        assert_eq!(
            shown(day, "P1D@Europe/Lisbon/tariff=industry"),
            is("policy.porto, policy.industry, policy.days", "auto", 9, 7)
        );
        let three = resolve_group_policy("PT1H/phases=3", Frequency::HOUR, &policies);
        assert_eq!((three.source.as_str(), three.horizon), ("policy.three", 48));
        assert_eq!(resolve_group_policy("PT1H", Frequency::HOUR, &policies).source, "default");
        let names: Vec<String> = selectors(&policies).iter().map(|of| of.group(&of.frequency.to_string())).collect();
        assert_eq!(names, ["P1D/tariff=industry", "PT1H/phases=3"]);
        let industry = &selectors(&policies)[0];
        for (group, made) in [
            ("P1D/tariff=industry", true),
            ("P1D@Europe/Lisbon/tariff=industry", true),
            ("P1D", false),
            ("P1D@Europe/Lisbon", false),
            ("P1D/tariff=industry2", false),
            ("P1D/subtariff=industry", false),
        ] {
            assert_eq!(industry.makes(group), made, "{group}");
        }
        for (group, of) in [
            ("P1D", "P1D"),
            ("P1D@Europe/Lisbon", "P1D@Europe/Lisbon"),
            ("P1D/tariff=industry", "P1D"),
            ("P1D@Europe/Lisbon/tariff=a=b", "P1D@Europe/Lisbon"),
        ] {
            assert_eq!(without_label(group), of);
        }
        assert!(is_of_label("P1D/tariff=industry") && !is_of_label("P1D@Europe/Lisbon"));
    }

    #[test]
    fn faults_name_the_line_the_key_and_the_remedy() {
        let policy = "[policy.a]\nfrequency = \"PT1H\"\n";
        let feed = "[feed.m]\ntopic = \"t\"\nseries = \"s\"\ntime = \"t\"\nvalue = \"v\"\nlabels = { site = \"s\" }\n";
        let topic = "[labels.t]\ntopic = \"meta\"\nlabels = { region = \"r\" }\n";
        for (text, line, words) in [
            (
                format!("{policy}label = {{ tariff = \"x\" }}\n"),
                3,
                "policy.a.label: there is no label `tariff`; say where",
            ),
            (format!("{policy}label = {{ tarif = \"x\" }}\n{LABELS}"), 3, "did you mean `tariff`?"),
            (format!("{policy}label = {{ site = \"x\" }}\n{feed}"), 3, "give it in a file of [labels.*]"),
            (format!("{policy}label = {{ region = \"x\" }}\n{topic}"), 3, "give it in a file of [labels.*]"),
            (format!("{policy}label = {{}}\n{LABELS}"), 3, "names 0 labels; name one label with one value"),
            (format!("{policy}label = {{ tariff = \"x\", phases = \"3\" }}\n{LABELS}"), 3, "names 2 labels"),
            (format!("{policy}label = {{ tariff = \"\" }}\n{LABELS}"), 3, "use one that is not empty"),
            (format!("{policy}label = {{ tariff = \"a/b\" }}\n{LABELS}"), 3, "without `/`"),
            (format!("{policy}label = {{ tariff = \" a\" }}\n{LABELS}"), 3, "without spaces around it"),
            (format!("{policy}label = {{ tariff = \"{}\" }}\n{LABELS}", "x".repeat(80)), 3, "use shorter ones"),
            (format!("{policy}label = {{ phases = 3 }}\n{LABELS}"), 3, "put it in quotes"),
            (format!("{policy}group = \"PT1H\"\nlabel = {{ tariff = \"x\" }}\n{LABELS}"), 4, "give one of the two"),
            (
                format!(
                    "{LABELS}{policy}label = {{ tariff = \"x\" }}\n[policy.b]\nfrequency = \"PT1H\"\nlabel = {{ tariff = \
                     \"x\" }}\n"
                ),
                9,
                "policies `a` and `b` are both for PT1H/tariff=x; keep one policy a label",
            ),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
            assert_eq!(error.line, Some(line), "{error}");
        }
    }
}
