//! Which series a run has, of those of its frequency and calendar: all, or those that a label policy takes, or all that
//! none takes. One rule for runs and for what is replayed.
//!
//! The labels that hold at an instant (a run's origin) count for all of the history, as those do that models are told.

use std::sync::Arc;

use meterline_schemas::config::{Config, is_of_label, selectors};
use meterline_schemas::{Frequency, Micros};

use super::context::StepContext;
use super::error::{Doing, StepError};
use crate::environment::Environment;
use crate::ingest::classes::{BASE, Classes};
use crate::sql::literals;

/// The series of a model group at an instant.
#[derive(Debug, Clone, Default)]
pub struct Members(Option<Class>);

#[derive(Debug, Clone)]
struct Class {
    classes: Arc<Classes>,
    class: u8,
    frequency: Frequency,
    at: Micros,
}

impl Members {
    /// Those of a group; `None` where no label policy of the frequency makes such a group.
    pub fn of(classes: Arc<Classes>, group: &str, frequency: Frequency, at: Micros) -> Option<Members> {
        let makes = |class: &u8| {
            let selector = classes.selectors().get(usize::from(*class) - 1);
            selector.is_some_and(|selector| selector.frequency == frequency && selector.makes(group))
        };
        let class = if is_of_label(group) { (1..=u8::MAX).find(makes)? } else { BASE };
        let divided = classes.selectors().iter().any(|selector| selector.frequency == frequency);
        Some(Members(divided.then_some(Class { classes, class, frequency, at })))
    }

    /// Whether a series is one of them, if it is of the group's frequency and calendar.
    pub fn has(&self, series: &str) -> bool {
        self.0.as_ref().is_none_or(|of| of.classes.at(series, of.frequency, of.at) == of.class)
    }

    /// All identifiers that may be among them; `None` where these cannot be enumerated, because all series are that nobody
    /// names.
    pub fn named(&self) -> Option<Vec<String>> {
        let of = self.0.as_ref().filter(|of| of.class != BASE)?;
        Some(sorted(of.classes.series().filter(|series| self.has(series))))
    }

    /// All identifiers of series of the frequency that are not among them, where those can be enumerated: of what
    /// [`Members::named`] cannot.
    pub fn others(&self) -> Vec<String> {
        let of = self.0.as_ref().filter(|of| of.class == BASE);
        of.map(|of| sorted(of.classes.series().filter(|series| !self.has(series)))).unwrap_or_default()
    }

    /// The condition, in SQL, that a row of intervals is of one of them, if it is of the group's frequency and calendar.
    pub fn condition(&self) -> String {
        match (self.named(), self.others()) {
            (Some(named), _) if named.is_empty() => "false".to_owned(),
            (Some(named), _) => format!("series_id IN ({})", literals(&named)),
            (None, others) if others.is_empty() => "true".to_owned(),
            (None, others) => format!("series_id NOT IN ({})", literals(&others)),
        }
    }
}

fn sorted<'a>(ids: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut ids: Vec<String> = ids.map(str::to_owned).collect();
    ids.sort_unstable();
    ids
}

/// Those of a group at an instant, by the files of labels as they are now.
///
/// # Errors
/// A file of labels cannot be read, or no policy makes the group.
pub async fn of_group(env: &Environment, group: &str, frequency: Frequency, at: Micros) -> Result<Members, StepError> {
    let doing = || format!("finding the series of {group}");
    // No file that only another frequency needs can fail it.
    let mut config = env.config.clone();
    config.policy.retain(|_, policy| policy.frequency == frequency);
    let classes = Classes::load(&config, env.directory()).await.doing(doing)?;
    let members = Members::of(classes, group, frequency, at);
    members.ok_or_else(|| StepError::failed(doing(), no_such_group(&config, group)))
}

/// Those of a run at its origin.
///
/// # Errors
/// See [`of_group`].
pub async fn of_run(ctx: &StepContext) -> Result<Members, StepError> {
    let spec = &ctx.spec;
    of_group(&ctx.env, &spec.group_id, spec.frequency, spec.origin).await
}

fn no_such_group(config: &Config, group: &str) -> String {
    let all: Vec<String> = selectors(&config.policy).iter().map(|of| format!("{}={}", of.label, of.value)).collect();
    let (_, label) = group.rsplit_once('/').unwrap_or_default();
    let there = if all.is_empty() { "no policy of its frequency has a label".to_owned() } else { all.join(", ") };
    format!("no policy has the label {label} any more (there is: {there}); put it back, or let the run be")
}

#[cfg(test)]
mod tests {
    use meterline_schemas::config::parse;
    use meterline_schemas::time::HOUR;

    use super::*;

    #[test]
    fn each_series_is_in_one_group_of_its_frequency() {
        let directory = tempfile::tempdir().unwrap();
        let rows = "series_id,valid_from,tariff\na,,industry\nb,,household\nc,1970-01-01T05:00:00Z,industry\nd,,farm\n";
        std::fs::write(directory.path().join("meta.csv"), rows).unwrap();
        let text = "[labels.meta]\nfile = \"meta.csv\"\nlabels = { tariff = \"tariff\" }\n\
                    [policy.a]\nfrequency = \"P1D\"\nlabel = { tariff = \"industry\" }\n\
                    [policy.b]\nfrequency = \"P1D\"\nlabel = { tariff = \"farm\" }\n";
        let classes = Arc::new(Classes::read(&parse(text).unwrap(), directory.path()).unwrap());
        let (days, hours) = (Frequency::Day, Frequency::HOUR);
        let of = |group: &str, frequency, at| Members::of(Arc::clone(&classes), group, frequency, at);
        let industry = "P1D@Europe/Lisbon/tariff=industry";
        let groups = [(industry, ["a", "a c"]), ("P1D", ["b c nobody", "b nobody"]), ("P1D/tariff=farm", ["d", "d"])];
        for (group, expected) in groups {
            for (at, expected) in [4 * HOUR, 5 * HOUR].into_iter().zip(expected) {
                let members = of(group, days, at).unwrap();
                let found: Vec<&str> =
                    ["a", "b", "c", "d", "nobody"].into_iter().filter(|id| members.has(id)).collect();
                assert_eq!(found.join(" "), expected, "{group}");
            }
        }
        let members = of(industry, days, 5 * HOUR).unwrap();
        assert_eq!((members.named(), members.others()), (Some(vec!["a".into(), "c".into()]), vec![]));
        let members = of("P1D", days, 5 * HOUR).unwrap();
        assert_eq!((members.named(), members.others()), (None, vec!["a".into(), "c".into(), "d".into()]));
        assert_eq!(members.condition(), "series_id NOT IN ('a', 'c', 'd')");
        // Another frequency is not divided.
        let members = of("PT1H", hours, 5 * HOUR).unwrap();
        assert!(members.has("a") && members.others().is_empty() && members.named().is_none());
        assert!(of("PT1H/tariff=industry", hours, 0).is_none() && of("P1D/tariff=other", days, 0).is_none());
        let text = no_such_group(&parse(text).unwrap(), "P1D/tariff=other");
        assert!(text.contains("tariff=other any more (there is: tariff=industry, tariff=farm)"), "{text}");
    }
}
