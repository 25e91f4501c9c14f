//! `/metrics`: how the stream stands, as OpenMetrics text.
//!
//! Every figure is computed when it is asked for, from the newest commit, from what the brokers last said and from how
//! the commit that is being made fares; nobody is asked for it. So an age or a lag goes on rising when Kafka, the store
//! or the stream stands still, which is when it is needed. What is not known has no figure: while the stream starts
//! there is none of what only a commit says.
//!
//! | metric | labels | meaning |
//! | --- | --- | --- |
//! | `meterline_records_total` | feed, partition, outcome | records by what became of them: `accepted`, `corrected`, `duplicate`, `dead` |
//! | `meterline_dead_letters_total` | feed, reason | those `dead` that are kept, since the start, by why they could not be read or used |
//! | `meterline_pending_records` | feed, partition | records that wait for their series' frequency to be known, or certain again |
//! | `meterline_late_records_total` | feed, partition | of the accepted and corrected: came after the watermark had passed |
//! | `meterline_gaps_total` | feed, partition | offsets that hold nothing to read: transactions' marks, aborted and compacted records |
//! | `meterline_expired_records_total` | feed, partition | offsets whose records were gone before they were read |
//! | `meterline_incarnation` | feed, partition | how often the topic was created anew |
//! | `meterline_lag_records` | feed, partition | offsets in Kafka that no commit has reached |
//! | `meterline_partition_silence_seconds` | feed, partition | how long no broker has been able to say where it ends; 0 while one can |
//! | `meterline_partition_watermark_timestamp_seconds` | feed, partition | up to where intervals are closed, as far as it is concerned |
//! | `meterline_partition_freshness_seconds` | feed, partition | age of the end of the newest interval that was committed of the series last seen in it; one in twenty may be ahead; no figure for what is no partition of the topic any more |
//! | `meterline_watermark_timestamp_seconds` | feed | up to where intervals are closed, Unix time |
//! | `meterline_watermark_age_seconds` | feed | age of that instant |
//! | `meterline_freshness_seconds` | feed | age of the end of the newest interval that was committed; one series in twenty may be ahead |
//! | `meterline_records_per_second` | feed | between the last two commits |
//! | `meterline_series` | feed | series seen |
//! | `meterline_evicted_series` | | states of series that left memory for the lake, with those of some that came back since; where it is above 0 and lookups slow commits, raise `ingest.memory_limit` |
//! | `meterline_intervals` | feed | intervals that have a value, of the present frequency of their series |
//! | `meterline_commits_total` | | commits of the stream, ever |
//! | `meterline_commit_age_seconds` | | since the newest of them |
//! | `meterline_table_files` | table | data files of its newest version, after the last housekeeping |
//! | `meterline_table_size_bytes` | table | their size |
//! | `meterline_maintenance_timestamp_seconds` | | when housekeeping last ended, Unix time |
//! | `meterline_maintenance_duration_seconds` | | how long it took |
//! | `meterline_maintenance_errors_total` | job | jobs of it that failed since the start |
//! | `meterline_commit_in_progress_seconds` | | how long the commit, lookup, rewrite or start that the stream waits for has taken; 0 while there is none |
//! | `meterline_store_failures_total` | | failures of the store in the middle of a commit, a lookup or the start of the stream, since then |
//! | `meterline_declined_lookups_total` | | lookups of old intervals that would have taken too long, since the start: what readings concerned them is counted as corrected |
//! | `meterline_broker_silence_seconds` | | since a broker last said where partitions end |

use std::collections::BTreeSet;
use std::fmt;
use std::time::Instant;

use meterline_schemas::Micros;
use meterline_schemas::time::SECOND;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::Subject;
use crate::ingest::Committed;
use crate::ingest::brokers::{Known, unread};
use crate::ingest::census::Census;
use crate::ingest::state::{FeedState, IngestState, PartitionState};
use crate::maintenance::report::Kind;
use crate::maintenance::service::{LastRound, Summary};

pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The text as of `now`.
pub(super) fn text(subject: Subject, now: Micros) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("meterline");
    registry.register_collector(Box::new(Scrape { subject, now }));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

#[derive(Debug)]
struct Scrape {
    subject: Subject,
    now: Micros,
}

type Labels<'a, const N: usize> = [(&'static str, &'a str); N];

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let encoder = &mut encoder;
        if let Some(silence) = self.subject.brokers.silence() {
            let help = "since a broker last said where partitions end";
            gauge(encoder, "broker_silence", help, SECONDS)?.encode_gauge(&silence.as_secs_f64())?;
        }
        self.housekeeping(encoder)?;
        let taken = self.subject.pulse.committing(Instant::now()).map_or(0.0, |(taken, _)| taken.as_secs_f64());
        let help =
            "how long the commit, lookup, rewrite or start that the stream waits for has taken; 0 while there is none";
        gauge(encoder, "commit_in_progress", help, SECONDS)?.encode_gauge(&taken)?;
        let help = "failures of the store in the middle of a commit, a lookup or the start of the stream, since then";
        counter(encoder, "store_failures", help)?
            .encode_counter::<NoLabelSet, _, u64>(&self.subject.pulse.failures(), None)?;
        let help = "lookups of old intervals that would have taken too long, since the start";
        counter(encoder, "declined_lookups", help)?
            .encode_counter::<NoLabelSet, _, u64>(&self.subject.pulse.declined_lookups(), None)?;
        let mut metric = counter(encoder, "dead_letters", "records that became dead letters since the start")?;
        for ((feed, reason), letters) in self.subject.letters.so_far() {
            count(&mut metric, &[("feed", &*feed), ("reason", &*reason)], letters)?;
        }
        let committed = self.subject.committed.borrow().clone();
        let nothing = IngestState::default();
        let state = committed.as_ref().map_or(&nothing, |committed| &committed.state);
        self.partitions(state, encoder)?;
        match &committed {
            Some(committed) => self.stream(committed, encoder),
            None => Ok(()),
        }
    }
}

const SECONDS: Option<&Unit> = Some(&Unit::Seconds);

fn gauge<'s>(
    encoder: &'s mut DescriptorEncoder,
    name: &'s str,
    help: &str,
    unit: Option<&'s Unit>,
) -> Result<MetricEncoder<'s>, fmt::Error> {
    encoder.encode_descriptor(name, help, unit, MetricType::Gauge)
}

fn counter<'s>(encoder: &'s mut DescriptorEncoder, name: &'s str, help: &str) -> Result<MetricEncoder<'s>, fmt::Error> {
    encoder.encode_descriptor(name, help, None, MetricType::Counter)
}

fn count<const N: usize>(metric: &mut MetricEncoder, labels: &Labels<'_, N>, value: u64) -> fmt::Result {
    metric.encode_family(labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)
}

/// One partition, as the newest commit and the brokers know it.
struct Partition<'a> {
    feed: &'a str,
    number: String,
    // `None` where nothing of it was committed yet.
    read: Option<&'a PartitionState>,
    known: Option<Known>,
}

impl Partition<'_> {
    fn labels(&self) -> Labels<'_, 2> {
        [("feed", self.feed), ("partition", &self.number)]
    }

    fn lag(&self) -> i64 {
        unread(self.read, self.known.as_ref())
    }

    fn silence(&self) -> f64 {
        self.known.and_then(|known| known.unknown_for).unwrap_or_default().as_secs_f64()
    }
}

type Figure<'f> = &'f dyn Fn(&Partition<'_>) -> Option<f64>;
type OfFeed<'f> = &'f dyn Fn(&FeedState) -> Option<f64>;
type Total<'f> = &'f dyn Fn(&PartitionState) -> u64;

impl Scrape {
    fn housekeeping(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let Summary { tables, last, failures } = self.subject.maintenance.borrow().clone();
        let mut metric = gauge(encoder, "table_files", "data files after the last housekeeping", None)?;
        for size in &tables {
            metric.encode_family(&[("table", size.table.as_str())])?.encode_gauge(&size.files)?;
        }
        let mut metric =
            gauge(encoder, "table_size", "bytes of the data files after the last housekeeping", Some(&Unit::Bytes))?;
        for size in &tables {
            metric.encode_family(&[("table", size.table.as_str())])?.encode_gauge(&size.bytes)?;
        }
        let mut metric = counter(encoder, "maintenance_errors", "jobs of housekeeping that failed since the start")?;
        for job in Kind::ALL {
            count(&mut metric, &[("job", job.as_str())], failures.get(&job).copied().unwrap_or_default())?;
        }
        let Some(LastRound { at, seconds: took }) = last else { return Ok(()) };
        let help = "when housekeeping last ended, Unix time";
        gauge(encoder, "maintenance_timestamp", help, SECONDS)?.encode_gauge(&seconds(at))?;
        gauge(encoder, "maintenance_duration", "how long the last housekeeping took", SECONDS)?.encode_gauge(&took)
    }

    fn stream(&self, committed: &Committed, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let state = &*committed.state;
        self.feeds(state, &committed.census, encoder)?;
        counter(encoder, "commits", "commits of the stream, ever")?
            .encode_counter::<NoLabelSet, _, u64>(&u64::try_from(state.seq).unwrap_or_default(), None)?;
        gauge(encoder, "commit_age", "since the newest commit", SECONDS)?.encode_gauge(&self.age(state.committed_at))
    }

    fn partitions(&self, state: &IngestState, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let brokers = self.subject.brokers.all(Instant::now());
        let names: BTreeSet<&String> = state.feeds.keys().chain(brokers.keys()).collect();
        let mut all = Vec::new();
        for feed in names {
            let read = state.feeds.get(feed).map(|feed| &feed.partitions);
            let known = brokers.get(feed);
            let numbers: BTreeSet<i32> = read
                .into_iter()
                .flat_map(|p| p.keys())
                .chain(known.into_iter().flat_map(|p| p.keys()))
                .copied()
                .collect();
            all.extend(numbers.into_iter().map(|number| Partition {
                feed,
                number: number.to_string(),
                read: read.and_then(|read| read.get(&number)),
                known: known.and_then(|known| known.get(&number).copied()),
            }));
        }
        let read = || all.iter().filter_map(|partition| Some((partition, partition.read?)));
        let mut metric = counter(encoder, "records", "records by what became of them, but for those that wait")?;
        for (partition, of) in read() {
            for (outcome, value) in [
                ("accepted", of.counts.accepted),
                ("corrected", of.counts.corrected),
                ("duplicate", of.counts.duplicate),
                ("dead", of.counts.dead),
            ] {
                let [feed, number] = partition.labels();
                count(&mut metric, &[feed, number, ("outcome", outcome)], value)?;
            }
        }
        let totals: [(&str, &str, Total<'_>); 3] = [
            ("late_records", "records accepted or corrected after the watermark had passed", &|of| of.counts.late),
            ("gaps", "offsets that hold nothing to read", &|of| of.gaps),
            ("expired_records", "offsets whose records were gone before they were read", &|of| of.expired),
        ];
        for (name, help, value) in totals {
            let mut metric = counter(encoder, name, help)?;
            for (partition, of) in read() {
                count(&mut metric, &partition.labels(), value(of))?;
            }
        }
        let closed = "up to where intervals are closed, as far as one partition is concerned; Unix time";
        let silence = "how long no broker has been able to say where the partition ends; 0 while one can";
        let fresh = "age of the end of the newest interval that was committed of a partition's series";
        let figures: [(&str, &str, Option<&Unit>, Figure<'_>); 6] = [
            (
                "pending_records",
                "records that wait for their series' frequency to be known, or certain again",
                None,
                &|p| Some(p.read?.counts.pending as f64),
            ),
            ("incarnation", "how often the topic was created anew", None, &|p| Some(f64::from(p.read?.incarnation))),
            ("lag_records", "offsets in Kafka that no commit has reached", None, &|p| Some(p.lag() as f64)),
            ("partition_silence", silence, SECONDS, &|p| Some(p.silence())),
            ("partition_watermark_timestamp", closed, SECONDS, &|p| p.read?.watermark.map(seconds)),
            // Nothing more comes of a backfill, and of what is gone.
            ("partition_freshness", fresh, SECONDS, &|p| {
                p.read?.newest.filter(|_| p.known.is_some()).map(|at| self.age(at))
            }),
        ];
        for (name, help, unit, value) in figures {
            let mut metric = gauge(encoder, name, help, unit)?;
            for partition in &all {
                if let Some(value) = value(partition) {
                    metric.encode_family(&partition.labels())?.encode_gauge(&value)?;
                }
            }
        }
        Ok(())
    }

    fn feeds(&self, state: &IngestState, census: &Census, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let figures: [(&str, &str, Option<&Unit>, OfFeed<'_>); 4] = [
            ("watermark_timestamp", "up to where intervals are closed, Unix time", SECONDS, &|feed| {
                feed.watermark.map(seconds)
            }),
            ("watermark_age", "age of the instant up to which intervals are closed", SECONDS, &|feed| {
                feed.watermark.map(|at| self.age(at))
            }),
            (
                "freshness",
                "age of the end of the newest interval that was committed; one series in twenty may be ahead",
                SECONDS,
                &|feed| feed.newest.map(|at| self.age(at)),
            ),
            ("records_per_second", "records a second between the last two commits", None, &|feed| {
                Some(feed.records_per_second)
            }),
        ];
        for (name, help, unit, value) in figures {
            let mut metric = gauge(encoder, name, help, unit)?;
            for (feed, of) in &state.feeds {
                if let Some(value) = value(of) {
                    metric.encode_family(&[("feed", feed.as_str())])?.encode_gauge(&value)?;
                }
            }
        }
        let mut metric = gauge(encoder, "series", "series seen", None)?;
        for (number, feed) in census.feeds() {
            metric.encode_family(&[("feed", feed)])?.encode_gauge(&census.series(number))?;
        }
        let evicted: u64 = state.evicted.iter().map(|run| run.series).sum();
        gauge(encoder, "evicted_series", "states of series that left memory for the lake", None)?
            .encode_gauge(&evicted)?;
        let mut metric =
            gauge(encoder, "intervals", "intervals that have a value, of the present frequency of their series", None)?;
        for (number, feed) in census.feeds() {
            metric.encode_family(&[("feed", feed)])?.encode_gauge(&census.intervals(number))?;
        }
        Ok(())
    }

    fn age(&self, at: Micros) -> f64 {
        seconds(self.now.saturating_sub(at))
    }
}

fn seconds(at: Micros) -> f64 {
    at as f64 / SECOND as f64
}
