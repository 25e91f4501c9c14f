//! The steps of both pipelines as plain values, and which of them a run still has to execute.

use crate::metadata::records::{Pipeline, Status, StepRecord};

/// One step: a node of the pipeline's graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepDefinition {
    /// Name in the table `steps`.
    pub name: &'static str,
    /// Steps whose outputs it reads.
    pub inputs: &'static [&'static str],
    /// Whether its time counts as device time.
    pub holds_device: bool,
    /// What it does, for people.
    pub does: &'static str,
}

const fn step(
    name: &'static str,
    inputs: &'static [&'static str],
    holds_device: bool,
    does: &'static str,
) -> StepDefinition {
    StepDefinition { name, inputs, holds_device, does }
}

/// The steps of a build, in the order of execution.
pub const BUILD: [StepDefinition; 5] = [
    step("preprocess", &[], false, "reads the group's history at the pinned table version onto a regular grid"),
    step("train", &["preprocess"], true, "fits the model to everything before the evaluation windows"),
    step(
        "evaluate",
        &["preprocess", "train"],
        true,
        "scores candidate, champion and seasonal naive on the same windows",
    ),
    step("gate", &["evaluate"], false, "accepts or rejects the candidate by the policy's predicate"),
    step("register", &["preprocess", "train", "evaluate", "gate"], false, "makes the candidate a model version"),
];

/// The steps of an infer run, in the order of execution.
pub const INFER: [StepDefinition; 6] = [
    step("load", &[], false, "finds the group's champion"),
    step("context", &[], false, "reads the end of every series' history at the pinned table version"),
    step("predict", &["load", "context"], true, "forecasts all series in one batch"),
    step("guard", &["context", "predict"], false, "checks the forecasts and substitutes what fails"),
    step(
        "reconcile",
        &["context", "predict", "guard"],
        false,
        "makes the forecasts of roll-ups agree with those of their parts",
    ),
    step("publish", &["reconcile"], false, "commits the forecasts to the lake, all or none"),
];

/// The steps of a correction, in the order of execution: those of an infer run, of some series.
pub const CORRECT: [StepDefinition; 7] = [
    step(
        "find",
        &[],
        false,
        "finds the series whose history is another one than the published forecasts were made from",
    ),
    step("load", &[], false, "finds the group's champion"),
    step("context", &["find"], false, "reads the end of their history at the pinned table version"),
    step("predict", &["find", "load", "context"], true, "forecasts them in one batch"),
    step("guard", &["context", "predict"], false, "checks the forecasts and substitutes what fails"),
    step(
        "reconcile",
        &["find", "context", "predict", "guard"],
        false,
        "makes the forecasts of their roll-ups agree with those of all parts",
    ),
    step("publish", &["reconcile"], false, "commits the forecasts to the lake, all or none"),
];

/// The steps of `pipeline`, each after all of its inputs.
pub const fn steps(pipeline: Pipeline) -> &'static [StepDefinition] {
    match pipeline {
        Pipeline::Build => &BUILD,
        Pipeline::Infer => &INFER,
        Pipeline::Correct => &CORRECT,
    }
}

/// What a run does with one of its steps.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// It succeeded before, and so did all of its inputs: its output is read from its record.
    Reuse(serde_json::Value),
    /// It is executed.
    Execute,
}

/// Decides what to do with each of `steps`, given what the run's earlier processes recorded.
pub fn plan(steps: &[StepDefinition], recorded: &[StepRecord]) -> Vec<Action> {
    let mut reused: Vec<&str> = Vec::new();
    steps
        .iter()
        .map(|step| {
            let done = recorded.iter().find(|r| r.step == step.name && r.status == Status::Succeeded);
            match done {
                Some(record) if step.inputs.iter().all(|input| reused.contains(input)) => {
                    reused.push(step.name);
                    Action::Reuse(record.output.clone())
                }
                _ => Action::Execute,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn record(step: &str, status: Status) -> StepRecord {
        StepRecord {
            run_id: "r".into(),
            step: step.into(),
            ordinal: 0,
            status,
            started_at: None,
            finished_at: None,
            output: json!({ "of": step }),
            error: None,
        }
    }

    #[test]
    fn every_step_comes_after_its_inputs() {
        for pipeline in Pipeline::ALL {
            let steps = steps(pipeline);
            for (i, step) in steps.iter().enumerate() {
                for input in step.inputs {
                    assert!(steps[..i].iter().any(|s| s.name == *input), "{} reads {input}", step.name);
                }
            }
        }
    }

    #[test]
    fn a_run_goes_on_at_its_first_unfinished_step() {
        for done in 0..=BUILD.len() {
            let mut recorded: Vec<StepRecord> =
                BUILD[..done].iter().map(|s| record(s.name, Status::Succeeded)).collect();
            // The process died in the middle of the next one.
            if let Some(next) = BUILD.get(done) {
                recorded.push(record(next.name, Status::Running));
            }
            for (i, action) in plan(&BUILD, &recorded).into_iter().enumerate() {
                if i < done {
                    assert_eq!(action, Action::Reuse(json!({ "of": BUILD[i].name })), "{}", BUILD[i].name);
                } else {
                    assert_eq!(action, Action::Execute, "{}", BUILD[i].name);
                }
            }
        }
    }

    #[test]
    fn a_step_is_not_reused_when_one_of_its_inputs_is_executed_again() {
        let recorded = [
            record("preprocess", Status::Succeeded),
            record("train", Status::Failed),
            record("evaluate", Status::Succeeded),
        ];
        let actions = plan(&BUILD, &recorded);
        assert!(matches!(actions[0], Action::Reuse(_)));
        assert!(actions[1..].iter().all(|a| *a == Action::Execute));
    }
}
