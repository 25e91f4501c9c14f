//! A run's progress as one line for people: step, share done, loss, time left.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use super::child::{is_terminal, load};
use super::error::RunError;
use super::graph;
use crate::metadata::MetadataStore;
use crate::metadata::records::{MetricRecord, RunRecord, Status, StepRecord};

/// How often the metadata database is looked at.
const POLL: Duration = Duration::from_millis(500);
/// How often a line is written where the output is no terminal and nothing else is new.
const LINE_EVERY: Duration = Duration::from_secs(15);
/// Cells of the bar.
const BAR: usize = 24;

/// Follows a run on standard error until it has ended, and returns its record then.
///
/// On a terminal one line is rewritten; elsewhere a line is written when the step changes and every 15 seconds.
pub async fn follow(metadata: &MetadataStore, run_id: &str) -> Result<RunRecord, RunError> {
    let mut printer = Printer::new(std::io::stderr().is_terminal());
    loop {
        let run = load(metadata, run_id).await?;
        let steps = metadata.steps(run_id).await?;
        let metrics = metadata.metrics(run_id).await?;
        let ended = is_terminal(run.status);
        printer.show(&mut std::io::stderr(), &line(&run, &steps, &metrics), current(&run, &steps), ended);
        if ended {
            return Ok(run);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Writes lines: over each other on a terminal, sparingly elsewhere.
struct Printer {
    terminal: bool,
    last: Option<(String, Instant)>,
}

impl Printer {
    fn new(terminal: bool) -> Printer {
        Printer { terminal, last: None }
    }

    // What cannot be written to standard error is of no use to anybody there: errors are dropped.
    fn show(&mut self, out: &mut impl Write, line: &str, step: &str, ended: bool) {
        if self.terminal {
            let _ = write!(out, "\r\x1b[2K{line}");
            if ended {
                let _ = writeln!(out);
            }
            let _ = out.flush();
            return;
        }
        let due = match &self.last {
            Some((last, at)) => last != step || at.elapsed() >= LINE_EVERY,
            None => true,
        };
        if due || ended {
            let _ = writeln!(out, "{line}");
            self.last = Some((step.to_owned(), Instant::now()));
        }
    }
}

fn current<'a>(run: &RunRecord, steps: &'a [StepRecord]) -> &'a str {
    match run.status {
        Status::Running => {
            let running = steps.iter().find(|s| s.status == Status::Running);
            running.or(steps.last()).map_or("starting", |s| s.step.as_str())
        }
        Status::Queued => "queued",
        Status::Succeeded => "done",
        Status::Failed => "failed",
        Status::Cancelled => "cancelled",
    }
}

/// The line: `PT15M build  train  [######------]  52 %  loss 0.1234  38 s left`.
pub fn line(run: &RunRecord, steps: &[StepRecord], metrics: &[MetricRecord]) -> String {
    let step = current(run, steps);
    let name = format!("{} {}", run.spec.group_id, run.spec.pipeline.as_str());
    match run.status {
        Status::Succeeded => {
            let version = run.model_version.as_deref().unwrap_or("no model");
            return format!("{name}  done in {}, {version}{}", took(run), figures(metrics));
        }
        Status::Failed => return format!("{name}  failed: {}", run.error.as_deref().unwrap_or("no reason recorded")),
        Status::Cancelled => return format!("{name}  cancelled"),
        Status::Queued => return format!("{name}  queued"),
        Status::Running => {}
    }
    let last = |wanted: &str| {
        metrics.iter().filter(|m| m.step == step && m.name == wanted).max_by_key(|m| m.index).map(|m| m.value)
    };
    let inside = last("progress").unwrap_or(0.0).clamp(0.0, 1.0);
    let mut text = format!("{name}  {step:<10}  {}", bar(share(run, step, inside)));
    if let Some(loss) = last("validation_loss").or_else(|| last("train_loss")) {
        text.push_str(&format!("  loss {loss:.4}"));
    }
    if let Some(seconds) = last("seconds_left") {
        text.push_str(&format!("  {} left", duration(seconds)));
    }
    text
}

// Share of the whole run. What holds the device takes most of the time: it counts ten times.
fn share(run: &RunRecord, step: &str, inside: f64) -> f64 {
    let weight = |d: &graph::StepDefinition| if d.holds_device { 10.0 } else { 1.0 };
    let steps = graph::steps(run.spec.pipeline);
    let total: f64 = steps.iter().map(weight).sum();
    let Some(place) = steps.iter().position(|d| d.name == step) else { return 0.0 };
    let before: f64 = steps[..place].iter().map(weight).sum();
    (before + inside * weight(&steps[place])) / total
}

fn bar(share: f64) -> String {
    let full = (share * BAR as f64).round() as usize;
    format!("[{}{}] {:>3.0} %", "#".repeat(full.min(BAR)), "-".repeat(BAR.saturating_sub(full)), share * 100.0)
}

fn took(run: &RunRecord) -> String {
    match (run.started_at, run.finished_at) {
        (Some(began), Some(ended)) => duration((ended - began).max(0) as f64 / 1e6),
        _ => "no time".to_owned(),
    }
}

fn figures(metrics: &[MetricRecord]) -> String {
    let last = |wanted: &str| metrics.iter().rfind(|m| m.name == wanted).map(|m| m.value);
    match (last("wql"), last("naive_wql")) {
        (Some(wql), Some(naive)) => format!(": wQL {wql:.4}, seasonal naive {naive:.4}"),
        _ => String::new(),
    }
}

/// Seconds as `1.5 s`, `38 s` or `12 min 5 s`.
pub fn duration(seconds: f64) -> String {
    if seconds < 10.0 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    match whole / 60 {
        0 => format!("{whole} s"),
        minutes => format!("{minutes} min {} s", whole % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::records::Pipeline;
    use crate::pipelines::spec::tests::spec;

    fn run(status: Status) -> RunRecord {
        let mut spec = spec("r");
        spec.pipeline = Pipeline::Build;
        RunRecord {
            spec,
            cause: "manual".into(),
            decision_id: None,
            status,
            created_at: 0,
            started_at: Some(0),
            finished_at: Some(75_000_000),
            attempts: 1,
            device_seconds: 0.0,
            error: Some("the disk is full".into()),
            model_version: Some("PT1H-0001".into()),
        }
    }

    fn metric(name: &str, index: i64, value: f64) -> MetricRecord {
        MetricRecord { run_id: "r".into(), step: "train".into(), name: name.into(), index, value, at: 0 }
    }

    #[test]
    fn a_line_says_step_share_loss_and_time_left() {
        let step = StepRecord {
            run_id: "r".into(),
            step: "train".into(),
            ordinal: 1,
            status: Status::Running,
            started_at: None,
            finished_at: None,
            output: serde_json::Value::Null,
            error: None,
        };
        let metrics = [
            metric("progress", 1, 0.5),
            metric("progress", 0, 0.1),
            metric("train_loss", 0, 0.25),
            metric("seconds_left", 0, 38.2),
        ];
        assert_eq!(
            line(&run(Status::Running), &[step], &metrics),
            "PT1H build  train       [######------------------]  26 %  loss 0.2500  38 s left"
        );
    }

    #[test]
    fn the_end_is_said_in_words() {
        let metrics = [metric("wql", 0, 0.05), metric("naive_wql", 0, 0.07)];
        for (status, expected) in [
            (Status::Queued, "PT1H build  queued"),
            (Status::Succeeded, "PT1H build  done in 1 min 15 s, PT1H-0001: wQL 0.0500, seasonal naive 0.0700"),
            (Status::Failed, "PT1H build  failed: the disk is full"),
            (Status::Cancelled, "PT1H build  cancelled"),
        ] {
            assert_eq!(line(&run(status), &[], &metrics), expected);
        }
    }

    #[test]
    fn without_a_terminal_lines_are_few() {
        let mut printer = Printer::new(false);
        let mut out = Vec::new();
        for (step, ended) in [("train", false), ("train", false), ("gate", false), ("gate", true)] {
            printer.show(&mut out, step, step, ended);
        }
        assert_eq!(String::from_utf8(out).unwrap(), "train\ngate\ngate\n");
    }
}
