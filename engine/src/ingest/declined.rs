//! Lookups that were declined in one epoch, in words for the log.

use std::collections::BTreeMap;

use super::names::Names;
use super::recall::Wanted;

/// What was declined, by number of the feed.
#[derive(Debug, Default)]
pub struct Declined(BTreeMap<u16, Share>);

/// Of one feed.
#[derive(Debug, Default)]
struct Share {
    lookups: u64,
    series: u64,
}

impl Declined {
    /// This was not looked up.
    pub fn add(&mut self, wanted: &Wanted) {
        let share = self.0.entry(wanted.feed).or_default();
        share.lookups += 1;
        // They are in the order of their series.
        share.series += wanted.intervals.chunk_by(|a, b| a.series == b.series).count() as u64;
    }

    /// How many lookups they are.
    pub fn lookups(&self) -> u64 {
        self.0.values().map(|share| share.lookups).sum()
    }

    /// The feeds, each with the number of its series that it concerns; `None` where nothing was declined.
    pub fn feeds(&self, names: &Names) -> Option<String> {
        let of = |(feed, share): (&u16, &Share)| format!("{} (at most {} series)", names.name(*feed), share.series);
        (!self.0.is_empty()).then(|| self.0.iter().map(of).collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use meterline_schemas::config::{Config, FeedConfig};

    use super::super::recall::Want;
    use super::*;

    #[test]
    fn what_was_declined_is_told_once_with_its_feeds() {
        let mut config = Config::default();
        for feed in ["gas", "power"] {
            config.feed.insert(feed.into(), FeedConfig::new(feed, "s", "t", "v"));
        }
        let names = Names::of(&config);
        let mut declined = Declined::default();
        assert_eq!((declined.lookups(), declined.feeds(&names)), (0, None));
        let want = |series: u32, from| Want { series, id: series.to_string().into(), from, to: from + 1 };
        let wanted = |feed, intervals| Wanted { feed, intervals, ..Wanted::default() };
        declined.add(&wanted(1, vec![want(0, 0), want(0, 9), want(7, 0)]));
        declined.add(&wanted(1, vec![want(8, 0)]));
        assert_eq!(declined.feeds(&names).unwrap(), "power (at most 3 series)");
        declined.add(&wanted(0, vec![want(0, 0)]));
        assert_eq!(declined.feeds(&names).unwrap(), "gas (at most 1 series), power (at most 3 series)");
        assert_eq!(declined.lookups(), 3);
    }
}
