//! Labels of series at an instant: one rule for runs and for plain files. Pure.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use meterline_models::data::Panel;
use meterline_schemas::Micros;

use crate::ingest::rollup::LabelChange;
use crate::ingest::rollup::history::Given;
use crate::ingest::rollup::member::MemberState;
use crate::ingest::rollup::plan::Label;

/// What labels say of each series, in their order.
pub type Values = HashMap<Arc<str>, Vec<Option<Arc<str>>>>;

/// What labels are at an instant, by what was said.
pub fn at_instant(labels: &[Label], said: impl IntoIterator<Item = LabelChange>, at: Micros) -> Values {
    let mut members: HashMap<Arc<str>, MemberState> = HashMap::new();
    for LabelChange { source, series, valid_from, labels, position } in said {
        let member = members.entry(Arc::clone(&series)).or_insert_with(|| MemberState::new(series));
        member.history.say(Given { source, valid_from, labels, position });
    }
    members.into_iter().map(|(series, member)| (series, of_member(labels, &member, at))).collect()
}

/// What labels are of one series at an instant.
pub fn of_member(labels: &[Label], member: &MemberState, at: Micros) -> Vec<Option<Arc<str>>> {
    labels.iter().map(|label| member.history.value(label, member.feed, at)).collect()
}

/// What a panel has of one label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Series that have it.
    pub series: usize,
    /// Different values.
    pub values: usize,
}

/// Gives labels to the series of a panel, and says what it has of each.
pub fn set(panel: &mut Panel, names: &[String], values: &Values) -> Vec<Found> {
    panel.labels = names.to_vec();
    for series in &mut panel.series {
        series.labels = values.get(series.id.as_str()).cloned().unwrap_or_default();
    }
    let found = |place: usize| {
        let there = || panel.series.iter().filter_map(move |series| series.label(place));
        Found { series: there().count(), values: there().collect::<BTreeSet<&str>>().len() }
    };
    (0..names.len()).map(found).collect()
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use meterline_models::data::Series;
    use meterline_schemas::Frequency;
    use meterline_schemas::config::parse;
    use meterline_schemas::time::HOUR;

    use super::*;
    use crate::ingest::rollup;

    #[test]
    fn what_holds_at_the_origin_counts_and_series_may_have_none() {
        let directory = tempfile::tempdir().unwrap();
        let text = "[labels.meta]\nfile = \"meters.csv\"\nlabels = { tariff = \"tariff\", region = \"area\" }\n\
                    series_prefix = \"p-\"\n";
        std::fs::write(
            directory.path().join("meters.csv"),
            "series_id,valid_from,tariff,area\na,,day,north\na,1970-01-01T05:00:00Z,night,north\nb,,day,\nx,,day,south\n",
        )
        .unwrap();
        let config = parse(text).unwrap();
        let names = ["region".to_owned(), "tariff".to_owned()];
        let labels: Vec<Label> = names.iter().map(|name| Label::of(&config, name)).collect();
        let series = |id: &str| Series::new(id, 0, vec![1.0]);
        let all = vec![series("p-a"), series("p-b"), series("p-c")];
        let mut panel = Panel::new(Frequency::HOUR, TimeZone::UTC, all);
        for (at, tariff) in [(4 * HOUR, "day"), (5 * HOUR, "night")] {
            let said = rollup::restore::files(&config, directory.path()).unwrap();
            let found = set(&mut panel, &names, &at_instant(&labels, said, at));
            assert_eq!(
                found,
                [Found { series: 1, values: 1 }, Found { series: 2, values: if at < 5 * HOUR { 1 } else { 2 } }]
            );
            let shown: Vec<[Option<&str>; 2]> = panel.series.iter().map(|of| [of.label(0), of.label(1)]).collect();
            assert_eq!(shown, [[Some("north"), Some(tariff)], [None, Some("day")], [None, None]]);
        }
    }
}
