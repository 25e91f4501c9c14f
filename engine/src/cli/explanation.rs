//! What models say of themselves, as a table for people.

use meterline_models::explain::Explanation;

use super::table::render;

/// The rows, in their order; what is said of all series, levels or steps has a dash there.
pub fn table(rows: &[Explanation]) -> String {
    let dash = || "-".to_owned();
    let cells = |row: &Explanation| {
        vec![
            row.model.clone(),
            row.part.to_string(),
            row.series.clone().unwrap_or_else(dash),
            row.level.map_or_else(dash, |level| level.to_string()),
            row.steps.map_or_else(dash, |(first, last)| format!("{first} to {last}")),
            row.term.clone(),
            format!("{:.4}", row.value),
        ]
    };
    let cells: Vec<Vec<String>> = rows.iter().map(cells).collect();
    render(&["model", "part", "series", "level", "steps", "term", "value"], &cells)
}
