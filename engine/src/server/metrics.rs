//! `/metrics`: how the stream stands, as OpenMetrics text.
//!
//! Every figure is computed when it is asked for, from the newest commit and from what the brokers last said. So an age or
//! a lag goes on rising when the stream stands still, which is when it is needed.
//!
//! | metric | labels | meaning |
//! | --- | --- | --- |
//! | `meterline_records_total` | feed, partition, outcome | records by what became of them: `accepted`, `corrected`, `duplicate`, `dead` |
//! | `meterline_pending_records` | feed, partition | records that wait for the native frequency of their series |
//! | `meterline_late_records_total` | feed, partition | of the accepted and corrected: came after the watermark had passed |
//! | `meterline_lag_records` | feed, partition | records in Kafka that no commit holds |
//! | `meterline_watermark_timestamp_seconds` | feed | up to where intervals are closed, Unix time |
//! | `meterline_freshness_seconds` | feed | age of that instant |
//! | `meterline_partition_watermark_timestamp_seconds` | feed, partition | the same of one partition |
//! | `meterline_series` | feed | series seen |
//! | `meterline_intervals` | feed | intervals that have a value |
//! | `meterline_commits_total` | | commits of the stream, ever |
//! | `meterline_commit_age_seconds` | | since the newest of them |
//! | `meterline_broker_silence_seconds` | | since a broker last said where the partitions end |
//! | `meterline_table_files` | table | data files of its newest version, after the last housekeeping |
//! | `meterline_table_size_bytes` | table | their size |
//! | `meterline_maintenance_timestamp_seconds` | | when housekeeping last ended, Unix time |
//! | `meterline_maintenance_duration_seconds` | | how long it took |
//! | `meterline_maintenance_errors` | | tables for which it failed |

use std::fmt;

use meterline_schemas::Micros;
use meterline_schemas::time::SECOND;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::Subject;
use crate::ingest::Committed;
use crate::ingest::census::Census;
use crate::ingest::state::{FeedState, IngestState, PartitionState};
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
        if let Some(silence) = self.subject.brokers.silence() {
            let mut metric =
                gauge(&mut encoder, "broker_silence", "since a broker last said where partitions end", SECONDS)?;
            metric.encode_gauge(&silence.as_secs_f64())?;
        }
        self.housekeeping(&mut encoder)?;
        let committed = self.subject.committed.borrow().clone();
        match &committed {
            Some(committed) => self.stream(committed, &mut encoder),
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

impl Scrape {
    fn housekeeping(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let Summary { tables, last } = self.subject.maintenance.borrow().clone();
        let mut metric = gauge(encoder, "table_files", "data files after the last housekeeping", None)?;
        for size in &tables {
            metric.encode_family(&[("table", size.table.as_str())])?.encode_gauge(&size.files)?;
        }
        let mut metric = gauge(encoder, "table_size", "bytes of its data files", Some(&Unit::Bytes))?;
        for size in &tables {
            metric.encode_family(&[("table", size.table.as_str())])?.encode_gauge(&size.bytes)?;
        }
        let Some(LastRound { at, seconds: took, errors }) = last else { return Ok(()) };
        let help = "when housekeeping last ended, Unix time";
        gauge(encoder, "maintenance_timestamp", help, SECONDS)?.encode_gauge(&seconds(at))?;
        gauge(encoder, "maintenance_duration", "how long it took", SECONDS)?.encode_gauge(&took)?;
        gauge(encoder, "maintenance_errors", "tables for which it failed", None)?.encode_gauge(&errors)
    }

    fn stream(&self, committed: &Committed, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let state = &*committed.state;
        self.partitions(state, encoder)?;
        self.feeds(state, &committed.census, encoder)?;
        counter(encoder, "commits", "commits of the stream, ever")?
            .encode_counter::<NoLabelSet, _, u64>(&u64::try_from(state.seq).unwrap_or_default(), None)?;
        gauge(encoder, "commit_age", "since the newest commit", SECONDS)?.encode_gauge(&self.age(state.committed_at))
    }

    fn partitions(&self, state: &IngestState, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let all: Vec<(&str, String, i32, &PartitionState)> = state
            .feeds
            .iter()
            .flat_map(|(name, feed)| feed.partitions.iter().map(move |(p, s)| (name.as_str(), p.to_string(), *p, s)))
            .collect();
        let mut metric = counter(encoder, "records", "records by what became of them")?;
        for (feed, partition, _, of) in &all {
            for (outcome, value) in [
                ("accepted", of.counts.accepted),
                ("corrected", of.counts.corrected),
                ("duplicate", of.counts.duplicate),
                ("dead", of.counts.dead),
            ] {
                count(&mut metric, &[("feed", feed), ("partition", partition), ("outcome", outcome)], value)?;
            }
        }
        let mut metric = counter(encoder, "late_records", "accepted or corrected after the watermark had passed")?;
        for (feed, partition, _, of) in &all {
            count(&mut metric, &[("feed", feed), ("partition", partition)], of.counts.late)?;
        }
        let mut metric = gauge(encoder, "pending_records", "records that wait for their series' frequency", None)?;
        for (feed, partition, _, of) in &all {
            let labels = [("feed", *feed), ("partition", partition.as_str())];
            metric.encode_family(&labels)?.encode_gauge(&of.counts.pending)?;
        }
        let mut metric = gauge(encoder, "lag_records", "records in Kafka that no commit holds", None)?;
        for (feed, partition, number, of) in &all {
            let end = self.subject.brokers.end(feed, *number).unwrap_or(of.end_offset).max(of.end_offset);
            let labels = [("feed", *feed), ("partition", partition.as_str())];
            metric.encode_family(&labels)?.encode_gauge(&(end - of.next_offset).max(0))?;
        }
        let help = "up to where intervals are closed, as far as one partition is concerned; Unix time";
        let mut metric = gauge(encoder, "partition_watermark_timestamp", help, SECONDS)?;
        for (feed, partition, _, of) in &all {
            if let Some(watermark) = of.watermark {
                let labels = [("feed", *feed), ("partition", partition.as_str())];
                metric.encode_family(&labels)?.encode_gauge(&seconds(watermark))?;
            }
        }
        Ok(())
    }

    fn feeds(&self, state: &IngestState, census: &Census, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let with =
            |name: &'static str, help: &str, value: &dyn Fn(&FeedState) -> Option<f64>, e: &mut DescriptorEncoder| {
                let mut metric = gauge(e, name, help, SECONDS)?;
                for (feed, of) in &state.feeds {
                    if let Some(value) = value(of) {
                        metric.encode_family(&[("feed", feed.as_str())])?.encode_gauge(&value)?;
                    }
                }
                Ok::<(), fmt::Error>(())
            };
        let closed = "up to where intervals are closed, Unix time";
        with("watermark_timestamp", closed, &|feed| feed.watermark.map(seconds), encoder)?;
        let age = "age of the instant up to which intervals are closed";
        with("freshness", age, &|feed| feed.watermark.map(|at| self.age(at)), encoder)?;
        let mut metric = gauge(encoder, "series", "series seen", None)?;
        for (number, feed) in census.feeds() {
            metric.encode_family(&[("feed", feed)])?.encode_gauge(&census.series(number))?;
        }
        let mut metric = gauge(encoder, "intervals", "intervals that have a value", None)?;
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
