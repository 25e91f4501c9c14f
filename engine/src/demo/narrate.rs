//! What is worth telling: compares what is recorded with what was told, and returns the new lines. Pure.

use std::collections::{BTreeMap, BTreeSet};

use meterline_schemas::Micros;
use meterline_schemas::time::format_micros;

use super::drive::{Phase, Sent};
use crate::metadata::records::{ApprovalState, DecisionRecord, ModelRecord, Pipeline, RunRecord, Status};
use crate::pipelines::SEASONAL_NAIVE;
use crate::service::Standing;

/// Everything that the narrative can be about, as it stands now.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// What was sent.
    pub sent: Sent,
    /// What was committed.
    pub standing: Standing,
    /// Model groups with their number of series.
    pub groups: BTreeMap<String, usize>,
    /// Trigger decisions, in any order.
    pub decisions: Vec<DecisionRecord>,
    /// Runs, in any order.
    pub runs: Vec<RunRecord>,
    /// Model versions, in any order.
    pub models: Vec<ModelRecord>,
}

/// One line of the narrative.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// What it is about: one word.
    pub topic: &'static str,
    /// What happened.
    pub text: String,
}

fn line(topic: &'static str, text: String) -> Line {
    Line { topic, text }
}

/// Remembers what was told.
#[derive(Debug, Default)]
pub struct Narrator {
    groups: BTreeMap<String, usize>,
    history_told: bool,
    end_told: bool,
    decisions: BTreeSet<String>,
    models: BTreeSet<String>,
    runs: BTreeMap<String, Status>,
    published: BTreeSet<String>,
    reforecast: BTreeSet<String>,
    failures: BTreeSet<String>,
}

impl Narrator {
    /// The lines that are new since the last call, in the order in which things happen.
    pub fn tell(&mut self, view: &View) -> Vec<Line> {
        let mut lines = Vec::new();
        self.tell_stream(view, &mut lines);
        self.tell_decisions(view, &mut lines);
        self.tell_models(view, &mut lines);
        self.tell_runs(view, &mut lines);
        lines
    }

    fn tell_stream(&mut self, view: &View, lines: &mut Vec<Line>) {
        if view.groups.len() > self.groups.len() {
            let names: Vec<String> =
                view.groups.iter().map(|(id, series)| format!("{series} series at {id}")).collect();
            lines.push(line("frequency", format!("detected from the readings: {}", names.join(", "))));
            self.groups.clone_from(&view.groups);
        }
        if view.sent.phase != Phase::History && !self.history_told {
            self.history_told = true;
            let Standing { records, intervals, dead, .. } = view.standing;
            let dead = if dead > 0 { format!("; {dead} unreadable, kept in dead_letters") } else { String::new() };
            lines.push(line(
                "history",
                format!("complete: {} readings became {} intervals{dead}", thousands(records), thousands(intervals)),
            ));
            if view.sent.phase == Phase::Live {
                lines.push(line("live", "from here on, readings arrive as the simulated clock runs".to_owned()));
            }
        }
        if view.sent.phase == Phase::Ended && !self.end_told {
            self.end_told = true;
            lines.push(line("live", "the last reading is sent".to_owned()));
        }
    }

    fn tell_decisions(&mut self, view: &View, lines: &mut Vec<Line>) {
        let mut fired: Vec<&DecisionRecord> = view.decisions.iter().filter(|d| d.fired).collect();
        fired.sort_by(|a, b| (a.commit_seq, &a.decision_id).cmp(&(b.commit_seq, &b.decision_id)));
        for decision in fired {
            let new = self.decisions.insert(decision.decision_id.clone());
            // Re-forecasts come often: the first of a group is told, of the later ones the forecast alone.
            let worth = decision.pipeline == Pipeline::Build || !self.reforecast.contains(&decision.group_id);
            if decision.pipeline == Pipeline::Infer {
                self.reforecast.insert(decision.group_id.clone());
            }
            if new && worth {
                lines.push(line(
                    "trigger",
                    format!("{} {}: {}", decision.group_id, decision.pipeline.trigger(), decision.reason),
                ));
            }
        }
    }

    fn tell_models(&mut self, view: &View, lines: &mut Vec<Line>) {
        let mut models: Vec<&ModelRecord> = view.models.iter().collect();
        models.sort_by(|a, b| (a.created_at, &a.version).cmp(&(b.created_at, &b.version)));
        for model in models {
            if !self.models.insert(model.version.clone()) {
                continue;
            }
            if let Some(text) = evaluation(model) {
                lines.push(line("evaluate", text));
            }
            let version = &model.version;
            lines.push(line(
                "model",
                match model.approval {
                    ApprovalState::Approved => format!("{version} registered, and serves from now on"),
                    ApprovalState::Pending => format!("{version} registered, waits for approval"),
                    ApprovalState::Rejected => format!("{version} {}", model.approval_reason),
                },
            ));
        }
    }

    fn tell_runs(&mut self, view: &View, lines: &mut Vec<Line>) {
        let mut runs: Vec<&RunRecord> = view.runs.iter().collect();
        runs.sort_by(|a, b| a.spec.run_id.cmp(&b.spec.run_id));
        for run in runs {
            if self.runs.insert(run.spec.run_id.clone(), run.status) == Some(run.status) {
                continue;
            }
            let name = format!("{} {}", run.spec.group_id, run.spec.pipeline.as_str());
            match (run.status, run.spec.pipeline) {
                (Status::Running, Pipeline::Build) if run.attempts <= 1 => lines.push(line(
                    "train",
                    format!(
                        "{}: a process of its own trains on history up to {}",
                        run.spec.group_id,
                        minute(run.spec.origin)
                    ),
                )),
                (Status::Succeeded, Pipeline::Infer) => {
                    lines.push(line("forecast", self.forecast(run, &view.groups)));
                }
                (Status::Failed, _) => {
                    let text = format!("{name}: {}", run.error.as_deref().unwrap_or("no reason was recorded"));
                    // What fails again for the same reason is told once.
                    if self.failures.insert(text.clone()) {
                        lines.push(line("failed", text));
                    }
                }
                (Status::Cancelled, _) => lines.push(line("cancelled", name)),
                _ => {}
            }
        }
    }

    fn forecast(&mut self, run: &RunRecord, groups: &BTreeMap<String, usize>) -> String {
        let group = run.spec.group_id.as_str();
        let by = match run.model_version.as_deref() {
            None | Some(SEASONAL_NAIVE) => "seasonal naive, until a model passes".to_owned(),
            Some(version) => version.to_owned(),
        };
        let series = groups.get(group).map_or(String::new(), |n| format!("{n} series x "));
        // The first of a group is told in full.
        let rest = if self.published.insert(group.to_owned()) { ", in one commit" } else { "" };
        format!("{group}: {series}{} steps from {} by {by}{rest}", run.spec.policy.horizon, minute(run.spec.origin))
    }
}

/// `PT15M: wQL 0.0812 beside 0.1120 of seasonal naive: 27 % better`, where both figures are there.
fn evaluation(model: &ModelRecord) -> Option<String> {
    let figure = |name: &str| model.metrics.get(name).and_then(serde_json::Value::as_f64);
    let (ours, naive) = (figure("wql")?, figure("naive_wql")?);
    Some(format!(
        "{}: wQL {ours:.4} on later, unseen data; seasonal naive {naive:.4}: {}",
        model.group_id,
        better(ours, naive)
    ))
}

/// How an error compares with the baseline's, in words.
pub fn better(ours: f64, baseline: f64) -> String {
    let percent = 100.0 * (1.0 - ours / baseline);
    if !percent.is_finite() {
        return "no comparison".to_owned();
    }
    if percent >= 0.0 { format!("{percent:.0} % better") } else { format!("{:.0} % worse", -percent) }
}

/// An instant to the minute: `2024-01-29 12:00`.
pub fn minute(at: Micros) -> String {
    format_micros(at).chars().take(16).map(|c| if c == 'T' { ' ' } else { c }).collect()
}

/// `92112` as `92,112`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> View {
        View {
            sent: Sent { records: 0, simulated: 0, phase: Phase::History },
            standing: Standing::default(),
            groups: BTreeMap::new(),
            decisions: Vec::new(),
            runs: Vec::new(),
            models: Vec::new(),
        }
    }

    fn texts(lines: &[Line]) -> Vec<String> {
        lines.iter().map(|l| format!("{} {}", l.topic, l.text)).collect()
    }

    #[test]
    fn everything_is_told_once() {
        let mut narrator = Narrator::default();
        let mut view = view();
        assert!(narrator.tell(&view).is_empty());

        view.groups = [("PT15M".to_owned(), 30), ("PT1H".to_owned(), 17)].into();
        view.standing = Standing { records: 92_112, intervals: 92_000, dead: 4, ..Standing::default() };
        view.sent.phase = Phase::Live;
        let told = texts(&narrator.tell(&view));
        assert_eq!(told[0], "frequency detected from the readings: 30 series at PT15M, 17 series at PT1H");
        assert_eq!(
            told[1],
            "history complete: 92,112 readings became 92,000 intervals; 4 unreadable, kept in dead_letters"
        );
        assert_eq!(told.len(), 3);
        assert!(narrator.tell(&view).is_empty());

        view.sent.phase = Phase::Ended;
        assert_eq!(texts(&narrator.tell(&view)), ["live the last reading is sent"]);
    }

    #[test]
    fn a_model_is_told_with_its_comparison() {
        let mut view = view();
        let metrics = serde_json::json!({"wql": 0.06, "naive_wql": 0.08});
        view.models.push(ModelRecord {
            version: "PT15M-0001".into(),
            group_id: "PT15M".into(),
            run_id: "r".into(),
            forecaster: "quantile_mlp".into(),
            artifact: "a".into(),
            covariates: Vec::new(),
            labels: Vec::new(),
            metrics: metrics.as_object().unwrap().clone(),
            trained_until: 0,
            intervals_version: 1,
            approval: ApprovalState::Approved,
            approval_reason: "accepted".into(),
            created_at: 0,
        });
        assert_eq!(
            texts(&Narrator::default().tell(&view)),
            [
                "evaluate PT15M: wQL 0.0600 on later, unseen data; seasonal naive 0.0800: 25 % better",
                "model PT15M-0001 registered, and serves from now on",
            ]
        );
    }

    #[test]
    fn figures_read_well() {
        for (n, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(n), text);
        }
        assert_eq!(minute(1_706_529_600_000_000), "2024-01-29 12:00");
        for (ours, naive, words) in [(0.5, 1.0, "50 % better"), (1.1, 1.0, "10 % worse"), (1.0, 0.0, "no comparison")] {
            assert_eq!(better(ours, naive), words);
        }
    }
}
