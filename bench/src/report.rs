//! What benchmarks print: rows of `{"bench": NAME, "rows": […]}`.

use serde_json::{Value, json};

/// Our figure beside another one of the same run; `ratio` is above 1 where ours is better.
pub fn compared(name: &str, ours: f64, against: &str, theirs: f64, unit: &str) -> Value {
    json!({"name": name, "ours": ours, "against": against, "theirs": theirs, "unit": unit, "ratio": ours / theirs})
}

/// As [`compared`], of a figure that is the better the smaller it is: time, memory, a loss.
pub fn smaller(name: &str, ours: f64, against: &str, theirs: f64, unit: &str) -> Value {
    json!({"name": name, "ours": ours, "against": against, "theirs": theirs, "unit": unit, "ratio": theirs / ours})
}

/// A figure that is no comparison.
pub fn alone(name: &str, ours: f64, unit: &str) -> Value {
    json!({"name": name, "ours": ours, "against": null, "theirs": null, "unit": unit, "ratio": null})
}

/// Prints the document as JSON, or its rows for people.
pub fn print(bench: &str, rows: &[Value], as_json: bool) {
    if as_json {
        return println!("{:#}", json!({"bench": bench, "rows": rows}));
    }
    for row in rows {
        let (name, unit) = (text(&row["name"]), text(&row["unit"]));
        println!("{name:38} {:>14.3} {unit:24} {}", number(&row["ours"]), against(row));
    }
}

fn against(row: &Value) -> String {
    match row["theirs"].as_f64() {
        Some(theirs) => {
            let digits = if theirs.abs() < 100.0 { 3 } else { 1 };
            format!("{}: {theirs:.digits$}, ratio {:.2}", text(&row["against"]), number(&row["ratio"]))
        }
        None => String::new(),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}
