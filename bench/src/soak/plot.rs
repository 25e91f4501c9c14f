//! Samples as an SVG: one panel a figure, above each other, with the line through its samples. Pure.

use std::fmt::Write;

use super::trend::Trend;
use super::watch::Samples;

/// One panel.
#[derive(Debug, Clone)]
pub struct Panel<'a> {
    /// What it shows, with its unit.
    pub title: &'a str,
    /// Its samples.
    pub samples: &'a Samples,
    /// The minute from which they count.
    pub from: f64,
    /// The line through those that count.
    pub trend: Option<Trend>,
}

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 170.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 28.0;
const BOTTOM: f64 = 26.0;

/// The picture. What does not count is grey, and `kills` are drawn in every panel.
pub fn svg(panels: &[Panel<'_>], kills: &[f64]) -> String {
    let minutes = panels.iter().flat_map(|panel| panel.samples.last()).map(|sample| sample.0).fold(1.0, f64::max);
    let mut out = String::new();
    // Writing to a text does not fail.
    let _ = writeln!(
        out,
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="#fff"/>"##,
        HEIGHT * panels.len() as f64
    );
    for (number, panel) in panels.iter().enumerate() {
        let _ = writeln!(out, r#"<g transform="translate(0,{})">"#, HEIGHT * number as f64);
        draw(&mut out, panel, minutes, kills);
        out.push_str("</g>\n");
    }
    out.push_str("</svg>\n");
    out
}

fn draw(out: &mut String, panel: &Panel<'_>, minutes: f64, kills: &[f64]) {
    let from = panel.from.min(minutes);
    let top = ceiling(panel.samples.iter().map(|sample| sample.1).fold(0.0, f64::max));
    let x = |minute: f64| LEFT + (WIDTH - LEFT - RIGHT) * minute / minutes;
    let y = |figure: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * figure / top;
    let (floor, roof) = (y(0.0), y(top));
    let _ = writeln!(
        out,
        r##"<text x="{LEFT}" y="16" font-weight="bold">{}</text>
<rect x="{LEFT}" y="{roof:.1}" width="{:.1}" height="{:.1}" fill="#f0f0f0"/>"##,
        panel.title,
        x(from) - LEFT,
        floor - roof
    );
    for part in [0.0, 0.5, 1.0] {
        let at = y(top * part);
        let _ = writeln!(
            out,
            r##"<line x1="{LEFT}" y1="{at:.1}" x2="{:.1}" y2="{at:.1}" stroke="#ccc"/><text x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"##,
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 4.0,
            top * part
        );
    }
    let step = ceiling(minutes / 10.0).max(0.1);
    let ticks = (minutes / step) as usize;
    for tick in 0..=ticks {
        let minute = step * tick as f64;
        let _ = writeln!(
            out,
            r#"<text x="{:.1}" y="{:.1}" text-anchor="middle">{}{}</text>"#,
            x(minute),
            HEIGHT - 8.0,
            (minute * 10.0).round() / 10.0,
            if tick == ticks { " min" } else { "" }
        );
    }
    for kill in kills {
        let _ = writeln!(
            out,
            r##"<line x1="{0:.1}" y1="{roof:.1}" x2="{0:.1}" y2="{floor:.1}" stroke="#d62728" stroke-dasharray="2 3"/>"##,
            x(*kill)
        );
    }
    let points: Vec<String> =
        panel.samples.iter().map(|(minute, figure)| format!("{:.1},{:.1}", x(*minute), y(*figure))).collect();
    let _ = writeln!(out, r##"<polyline points="{}" fill="none" stroke="#1f77b4"/>"##, points.join(" "));
    if let (Some(trend), Some((last, _))) = (&panel.trend, panel.samples.last()) {
        let _ = writeln!(
            out,
            r##"<line x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}" stroke="#ff7f0e" stroke-width="2"/>"##,
            x(from),
            y(trend.start),
            x(*last),
            y(trend.start + trend.drift)
        );
    }
}

// The next of 1, 2, 5, 10, 20, … that is not below.
fn ceiling(figure: f64) -> f64 {
    if figure <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(figure.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    steps.into_iter().map(|step| step * power).find(|round| *round >= figure).unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        let shown = [0.0, 0.3, 1.0, 1.1, 4.0, 60.0, 501.0].map(ceiling);
        assert_eq!(shown, [1.0, 0.5, 1.0, 2.0, 5.0, 100.0, 1000.0]);
    }

    #[test]
    fn every_panel_has_its_samples_and_its_line() {
        let samples: Samples = (0..20).map(|i| (f64::from(i), 5.0)).collect();
        let panel = Panel { title: "memory, MiB", samples: &samples, from: 4.0, trend: Trend::of(&samples[4..]) };
        let picture = svg(&[panel.clone(), panel], &[3.0]);
        assert_eq!(picture.matches("<polyline").count(), 2);
        assert_eq!(picture.matches("#ff7f0e").count(), 2);
        assert_eq!(picture.matches("#d62728").count(), 2);
        assert!(picture.ends_with("</svg>\n"));
    }
}
