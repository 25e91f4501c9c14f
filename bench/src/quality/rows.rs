//! Rows of the benchmark's document: a figure of ours beside what another has.

use serde_json::{Value, json};

/// A figure of ours; `against` is whose it is compared with, and theirs where they have one. A ratio above 1 means that
/// ours is better.
pub fn row(name: &str, ours: Option<f64>, unit: &str, against: Option<(&str, Option<f64>)>) -> Value {
    let theirs = against.and_then(|(_, theirs)| theirs);
    let ratio = theirs.zip(ours).map(|(theirs, ours)| theirs / ours);
    json!({
        "name": name, "ours": ours, "against": against.map(|(against, _)| against), "theirs": theirs, "unit": unit,
        "ratio": ratio
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_nothing_beside_has_no_ratio() {
        let beside = row("a", Some(2.0), "1", Some(("b", Some(3.0))));
        assert_eq!((&beside["against"], &beside["theirs"], &beside["ratio"]), (&"b".into(), &3.0.into(), &1.5.into()));
        let lacking = row("a", Some(2.0), "1", Some(("b", None)));
        assert_eq!(
            (&lacking["against"], &lacking["theirs"], &lacking["ratio"]),
            (&"b".into(), &Value::Null, &Value::Null)
        );
        let alone = row("a", Some(2.0), "s", None);
        assert_eq!((&alone["ours"], &alone["against"], &alone["ratio"]), (&2.0.into(), &Value::Null, &Value::Null));
    }
}
