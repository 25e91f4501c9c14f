//! Clauses and facts in words.

use meterline_schemas::facts::{FACTS, FactValue, FactValues};

use crate::metadata::records::{ClauseTruth, Truth};

/// A truth value in words.
pub fn word(truth: Truth) -> &'static str {
    match truth {
        Truth::True => "true",
        Truth::False => "false",
        Truth::Unknown => "unknown",
    }
}

/// The clauses with their truth and the facts that they look at.
pub(super) fn tell_all(clauses: &[ClauseTruth], facts: &FactValues) -> String {
    clauses.iter().map(|clause| tell(clause, facts)).collect::<Vec<_>>().join("; ")
}

/// How much a fact of a false clause `fact >= number` or `fact > number` lacks: `1 more needed`.
fn lack(clause: &ClauseTruth, facts: &FactValues) -> Option<String> {
    let [name, comparison, bound] = clause.clause.split_whitespace().collect::<Vec<_>>()[..] else { return None };
    if clause.truth != Truth::False || !matches!(comparison, ">=" | ">") {
        return None;
    }
    let (value, bound) = (facts.get(name)?, bound.parse::<f64>().ok()?);
    match (value, comparison) {
        (FactValue::Integer(value), ">=") => Some(format!("{} more needed", bound.ceil() - value as f64)),
        (FactValue::Integer(value), _) => Some(format!("{} more needed", bound.floor() + 1.0 - value as f64)),
        (FactValue::Number(value), _) => Some(format!("{:.3} more needed", bound - value)),
        (FactValue::Truth(_), _) => None,
    }
}

/// One clause with its truth, the facts that it looks at and what is lacking:
/// `new_intervals >= 4 is false (new_intervals = 3, 1 more needed)`.
pub fn tell(clause: &ClauseTruth, facts: &FactValues) -> String {
    let words = clause.clause.split(|c: char| !c.is_alphanumeric() && c != '_');
    let mut places: Vec<usize> = words.filter_map(FactValues::place).collect();
    places.sort_unstable();
    places.dedup();
    let mut seen: Vec<String> = places
        .into_iter()
        .filter_map(|place| FACTS.get(place))
        .map(|fact| match facts.get(fact.name) {
            None => format!("{} is missing", fact.name),
            Some(value) => format!("{} = {value}", fact.name),
        })
        .collect();
    seen.extend(lack(clause, facts));
    let name = clause.name.as_ref().map_or_else(String::new, |name| format!("{name}: "));
    match seen.as_slice() {
        [] => format!("{name}{} is {}", clause.clause, word(clause.truth)),
        seen => format!("{name}{} is {} ({})", clause.clause, word(clause.truth), seen.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_clause_is_told_with_what_it_lacks() {
        let facts: FactValues = serde_json::from_value(json!({"new_intervals": 96, "completeness": 0.85})).unwrap();
        for (clause, truth, told) in [
            ("new_intervals >= 672", Truth::False, "is false (new_intervals = 96, 576 more needed)"),
            ("new_intervals > 96", Truth::False, "is false (new_intervals = 96, 1 more needed)"),
            ("new_intervals >= 4", Truth::True, "is true (new_intervals = 96)"),
            ("new_intervals < 4", Truth::False, "is false (new_intervals = 96)"),
            ("completeness >= 0.9", Truth::False, "is false (completeness = 0.850, 0.050 more needed)"),
            ("mase_ratio > 1.25", Truth::Unknown, "is unknown (mase_ratio is missing)"),
            ("new_intervals >= 4 * series", Truth::Unknown, "is unknown (series is missing, new_intervals = 96)"),
            ("true", Truth::True, "is true"),
        ] {
            let clause = ClauseTruth { part: "when".into(), name: None, clause: clause.into(), truth };
            assert_eq!(tell(&clause, &facts), format!("{} {told}", clause.clause));
        }
        let named = ClauseTruth {
            part: "when".into(),
            name: Some("weekly".into()),
            clause: "new_intervals >= 672".into(),
            truth: Truth::False,
        };
        assert!(tell(&named, &facts).starts_with("weekly: new_intervals >= 672 is false (new_intervals = 96"));
    }
}
