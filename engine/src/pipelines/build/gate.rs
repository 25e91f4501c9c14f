//! Accepts or rejects the candidate by the policy's predicate over the evaluation's figures.

use std::collections::BTreeMap;

use meterline_schemas::facts::FactValue;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::evaluate;
use crate::metadata::records::{ClauseTruth, Truth};
use crate::pipelines::context::{Inputs, StepContext, output};
use crate::pipelines::error::{Doing, StepError};
use crate::triggers::predicate::{Predicate, gate_schema};

/// What the step decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// Whether the predicate is true and every figure that it looks at is there. False and unknown reject alike.
    pub accepted: bool,
    /// In one sentence: why.
    pub reason: String,
    /// Each clause of the predicate with its truth.
    pub clauses: Vec<ClauseTruth>,
}

/// Executes the step.
pub async fn execute(ctx: &StepContext, inputs: &Inputs) -> Result<Value, StepError> {
    let evaluated: evaluate::Output = inputs.get("evaluate")?;
    let decided = decide(&ctx.spec.policy.accept_if, &evaluated.figures)?;
    ctx.info(decided.reason.clone());
    output(&decided)
}

/// Decides by `accept_if` over `figures`. A missing figure rejects wherever the predicate looks at it, also where SQL
/// would come to an answer without it: in one branch of an OR, or in a CASE.
pub fn decide(accept_if: &str, figures: &BTreeMap<String, Option<f64>>) -> Result<Output, StepError> {
    let doing = || format!("evaluating the gate's accept_if = \"{accept_if}\"");
    let figure = |name: &str| figures.get(name).copied().flatten().and_then(FactValue::number);
    let predicate = Predicate::compile(accept_if, &gate_schema()).doing(doing)?;
    let (truth, clauses) = predicate.evaluate(&figure).doing(doing)?;
    let clauses: Vec<ClauseTruth> = clauses
        .into_iter()
        .map(|(clause, truth)| ClauseTruth { part: "accept_if".to_owned(), name: None, clause, truth })
        .collect();
    let mut missing = predicate.columns().to_vec();
    missing.retain(|name| !figures.get(name).copied().flatten().is_some_and(f64::is_finite));
    let accepted = truth == Truth::True && missing.is_empty();
    Ok(Output { accepted, reason: reason(accepted, &clauses, &missing), clauses })
}

fn reason(accepted: bool, clauses: &[ClauseTruth], missing: &[String]) -> String {
    let named = |wanted: Truth| {
        let found: Vec<&str> = clauses.iter().filter(|c| c.truth == wanted).map(|c| c.clause.as_str()).collect();
        (!found.is_empty()).then(|| found.join(", "))
    };
    if accepted {
        return format!("accepted: {}", named(Truth::True).unwrap_or_else(|| "the gate asks for nothing".to_owned()));
    }
    let not_true = named(Truth::False).map(|c| format!("not true: {c}"));
    let unknown = named(Truth::Unknown).map(|c| format!("unknown: {c}"));
    let missing = (!missing.is_empty())
        .then(|| format!("a missing figure never approves, and missing is {}", missing.join(", ")));
    let parts: Vec<String> = not_true.into_iter().chain(unknown).chain(missing).collect();
    format!("rejected: {}", parts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: &str = "wql <= naive_wql and wql <= 1.02 * champion_wql";

    fn figures(of: &[(&str, Option<f64>)]) -> BTreeMap<String, Option<f64>> {
        of.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }

    #[test]
    fn a_candidate_is_accepted_only_where_the_predicate_is_true() {
        for (accept_if, wql, naive, champion, accepted) in [
            (DEFAULT, Some(0.10), Some(0.12), Some(0.11), true),
            (DEFAULT, Some(0.10), Some(0.09), Some(0.11), false),
            (DEFAULT, Some(0.12), Some(0.13), Some(0.10), false),
            // A missing figure rejects, on whichever side it is missing.
            (DEFAULT, None, Some(0.12), Some(0.11), false),
            (DEFAULT, Some(0.10), None, Some(0.11), false),
            (DEFAULT, Some(0.10), Some(0.12), None, false),
            ("not (wql > naive_wql)", None, Some(0.12), None, false),
            ("wql <= naive_wql or wql <= champion_wql", Some(0.10), Some(0.09), Some(0.11), true),
            ("wql <= naive_wql or wql <= champion_wql", Some(0.10), None, Some(0.11), false),
            ("case when wql > naive_wql then false else true end", Some(0.10), Some(0.12), None, true),
            ("case when wql > naive_wql then false else true end", None, Some(0.12), None, false),
            ("case when wql > naive_wql then false else true end", Some(f64::NAN), Some(0.12), None, false),
            ("champion_wql is null or wql <= champion_wql", Some(0.10), None, Some(0.11), true),
            ("champion_wql is null or wql <= champion_wql", Some(0.10), None, None, false),
            ("wql < 0.2", Some(0.10), None, None, true),
            ("true", None, None, None, true),
            // A policy without costs has no such figure.
            ("cost <= naive_cost", Some(0.10), Some(0.12), Some(0.11), false),
        ] {
            let found =
                decide(accept_if, &figures(&[("wql", wql), ("naive_wql", naive), ("champion_wql", champion)])).unwrap();
            assert_eq!(found.accepted, accepted, "{accept_if} {wql:?} {naive:?} {champion:?}");
            assert!(found.reason.starts_with(if accepted { "accepted: " } else { "rejected: " }), "{}", found.reason);
        }
    }

    #[test]
    fn the_reason_names_the_clause_that_is_not_true() {
        let found =
            decide(DEFAULT, &figures(&[("wql", Some(0.2)), ("naive_wql", Some(0.1)), ("champion_wql", None)])).unwrap();
        assert_eq!(found.clauses.len(), 2);
        assert!(found.reason.contains("not true: wql <= naive_wql"), "{}", found.reason);
        assert!(found.reason.contains("missing is champion_wql"), "{}", found.reason);
    }
}
