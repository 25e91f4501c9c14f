//! What the configuration says of feeds and what was committed of them: whether the two fit, and how series are
//! restored.

use meterline_schemas::Micros;
use meterline_schemas::config::{BadRecords, Config, FeedConfig};
use meterline_schemas::time::DAY;

use super::aggregate::Rules;
use super::dataflow::ReadTopic;
use super::error::IngestError;
use super::load::{Kept, States, each_series};
use super::names::labels_feed;
use super::rollup;
use super::series::SeriesState;
use super::shard::{FeedRules, NOT_CONFIGURED};
use super::state::IngestState;

/// The feeds by number, which is their place in the configuration's order.
pub(super) fn feed_rules(config: &Config) -> Result<Vec<FeedRules>, IngestError> {
    let rules = |(name, feed): (&String, &FeedConfig)| {
        let rules = Rules::new(feed, config.ingest.remembered_intervals)
            .map_err(|error| IngestError::Feed { feed: name.clone(), reason: error.to_string() })?;
        let (name, topic) = (name.as_str().into(), feed.topic.as_str().into());
        Ok(FeedRules { name, topic, rules, bad_records: feed.bad_records })
    };
    config.feed.iter().map(rules).collect()
}

/// Offsets mean nothing in another topic or under another feed's name, and intervals nothing at another frequency.
pub(super) fn check_feeds(config: &Config, state: &IngestState) -> Result<(), IngestError> {
    let read = read_topics(config);
    for ReadTopic { name, topic, .. } in &read {
        let configured = |known: &str| read.iter().any(|feed| *feed.name == *known);
        let gone = state.feeds.iter().find(|(known, read)| *read.topic == **topic && !configured(known));
        if let (Some((gone, _)), false) = (gone, state.feeds.contains_key(&**name)) {
            let reason = format!(
                "its topic `{topic}` was read by the feed `{gone}`, which is no longer configured; a feed keeps its name: \
                 call it `{gone}` again"
            );
            return Err(IngestError::Feed { feed: name.to_string(), reason });
        }
        if let Some(known) = state.feeds.get(&**name)
            && *known.topic != **topic
        {
            let reason = format!(
                "its topic is `{topic}`, but it was `{}` when records of it were committed; give a new topic a feed of its \
                 own",
                known.topic
            );
            return Err(IngestError::Feed { feed: name.to_string(), reason });
        }
    }
    rollup::coordinate::check(config, state)
}

/// How far a record of labels may be stamped after the wall clock: as far as readings may by default.
const LABELS_AHEAD: Micros = DAY;

/// The topics of feeds, and then those of labels, by number.
pub(super) fn read_topics(config: &Config) -> Vec<ReadTopic> {
    let feeds = config.feed.iter().map(|(name, feed)| ReadTopic {
        name: name.as_str().into(),
        topic: feed.topic.as_str().into(),
        bad_records: feed.bad_records,
        max_ahead: feed.max_ahead.micros(),
    });
    let labels = config.labels.iter().filter_map(|(name, source)| {
        let (name, topic) = (labels_feed(name).into(), source.topic.as_deref()?.into());
        Some(ReadTopic { name, topic, bad_records: BadRecords::DeadLetter, max_ahead: LABELS_AHEAD })
    });
    feeds.chain(labels).collect()
}

// A series has one frequency.
fn check_series(config: &Config, series: &SeriesState) -> Result<(), IngestError> {
    let declared = config.feed.get(&*series.feed).and_then(|feed| feed.frequency);
    match (declared, series.frequency) {
        (Some(declared), Some(known)) if declared != known => {
            let reason = format!(
                "frequency {declared} is declared, but series `{}` was committed at {known}; leave the declaration out",
                series.id
            );
            Err(IngestError::Feed { feed: series.feed.to_string(), reason })
        }
        _ => Ok(()),
    }
}

/// A series on its way into a shard: the number of its feed, its state, and where that is kept.
pub(super) type Restored = (u16, SeriesState, Kept);

/// Hands every series of a state to `take`.
pub(super) async fn restore(
    config: &Config,
    from: States<'_>,
    state: &IngestState,
    feeds: &[FeedRules],
    mut take: impl FnMut(Restored),
) -> Result<(), IngestError> {
    let mut refused = None;
    each_series(from, state, |series, kept| {
        if let Err(error) = check_series(config, &series) {
            refused.get_or_insert(error);
        }
        let feed = feeds.iter().position(|feed| *feed.name == *series.feed);
        take((feed.map_or(NOT_CONFIGURED, |number| number as u16), series, kept));
    })
    .await?;
    refused.map_or(Ok(()), Err)
}

/// Adds the feeds that a state does not have yet, and forgets roll-ups that are no longer computed.
pub(super) fn keep_configured(config: &Config, state: &mut IngestState) {
    rollup::coordinate::forget(config, state);
    for ReadTopic { name, topic, .. } in read_topics(config) {
        state.feeds.entry(name.to_string()).or_default().topic = topic.to_string();
    }
}
