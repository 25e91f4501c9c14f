//! Metrics by name, figures that must come out again, and figures of peers.

use std::fmt;

use super::Baseline;

/// A figure of merit, with its definition. `y` is an actual value, `ŷ` the forecast median (or the point forecast).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Metric {
    /// Normalised deviation Σ|y − ŷ| / Σ|y| over all points (Salinas et al. 2020); WAPE is the same.
    Nd,
    /// Weighted quantile loss 2 Σ pinball / Σ|y|, the mean over q = 0.1 … 0.9.
    Wql,
    /// Weighted quantile loss at q = 0.9 alone, 2 Σ pinball / Σ|y|: "P90 risk" (Salinas et al. 2020).
    P90Risk,
    /// Mean absolute error by the in-sample mean absolute seasonal difference (Hyndman and Koehler 2006); per series,
    /// then the mean.
    Mase,
    /// Share of the actual values within [q0.1, q0.9]: 0.8 is right.
    Coverage,
    /// Share of the actual values within [q0.05, q0.95]: 0.9 is right.
    Coverage90,
    /// Share of the actual values within [q0.025, q0.975]: 0.95 is right.
    Coverage95,
    /// Symmetric mean absolute percentage error in percent, 200 |y − ŷ| / (|y| + |ŷ|); per series, then the mean
    /// (Makridakis et al. 2020).
    Smape,
    /// Mean of the ratios of sMAPE and MASE to those of Naive2 (Makridakis et al. 2020).
    Owa,
    /// Mean scaled interval score at 95 % (Gneiting and Raftery 2007; Makridakis et al. 2020).
    Msis,
    /// Scaled quantile loss: twice the pinball loss averaged over q = 0.1 … 0.9, by the in-sample seasonal error of the
    /// series.
    Sql,
    /// Mean squared error in standardised units, over all windows, steps and channels.
    Mse,
    /// Mean absolute error in standardised units, over all windows, steps and channels.
    Mae,
}

impl Metric {
    /// Name as in papers.
    pub const fn name(self) -> &'static str {
        match self {
            Metric::Nd => "ND",
            Metric::Wql => "wQL",
            Metric::P90Risk => "P90 risk",
            Metric::Mase => "MASE",
            Metric::Coverage => "coverage",
            Metric::Coverage90 => "coverage of 90 %",
            Metric::Coverage95 => "coverage of 95 %",
            Metric::Smape => "sMAPE",
            Metric::Owa => "OWA",
            Metric::Msis => "MSIS",
            Metric::Sql => "SQL",
            Metric::Mse => "MSE",
            Metric::Mae => "MAE",
        }
    }

    /// The share of actual values that is right, where it is one.
    pub const fn nominal(self) -> Option<f64> {
        match self {
            Metric::Coverage => Some(0.8),
            Metric::Coverage90 => Some(0.9),
            Metric::Coverage95 => Some(0.95),
            _ => None,
        }
    }

    /// Heading of its column in a table.
    pub fn heading(self) -> String {
        self.nominal().map_or_else(|| self.name().to_owned(), |nominal| format!("{:.0} %", 100.0 * nominal))
    }

    /// Its name in a document.
    pub const fn key(self) -> &'static str {
        match self {
            Metric::Coverage => "coverage_q10_q90",
            Metric::Coverage90 => "coverage_q5_q95",
            Metric::Coverage95 => "coverage_q2_5_q97_5",
            Metric::P90Risk => "P90_risk",
            _ => self.name(),
        }
    }

    /// Its unit in a document.
    pub fn unit(self) -> String {
        self.nominal().map_or_else(|| "1".to_owned(), |nominal| format!("share, {nominal} is right"))
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A figure that is known for these data: who computes another one reads or measures them differently.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Check {
    /// What forecasts.
    pub baseline: Baseline,
    /// What is measured.
    pub metric: Metric,
    /// The known figure.
    pub expected: f64,
    /// Decimals that it is known to.
    pub digits: usize,
}

impl Check {
    /// What it is a check of, such as `seasonal naive, day: ND`.
    pub fn what(&self) -> String {
        format!("{}: {}", self.baseline, self.metric)
    }

    /// The check with what was found for it.
    pub fn beside(&self, found: Option<f64>) -> Checked {
        Checked { check: *self, found }
    }
}

/// A check and what was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Checked {
    /// The known figure.
    pub check: Check,
    /// What these data give; `None` where it has no value.
    pub found: Option<f64>,
}

impl Checked {
    /// Whether both are the same number when written with the digits of the known one.
    pub fn holds(&self) -> bool {
        let written = |figure: f64| format!("{figure:.digits$}", digits = self.check.digits);
        self.found.is_some_and(|found| found.is_finite() && written(found) == written(self.check.expected))
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.check.digits;
        write!(f, "{}: known {:.digits$}, found ", self.check.what(), self.check.expected)?;
        match self.found {
            // Two digits more show a near miss.
            Some(found) => write!(f, "{found:.digits$}", digits = digits + 2),
            None => f.write_str("nothing"),
        }
    }
}

/// What another model reached under the same protocol, measured elsewhere.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerRow {
    /// Name of the model, as its source has it.
    pub model: String,
    /// Its figures, in the order of the source.
    pub figures: Vec<(Metric, f64)>,
    /// Where the figures are from, and what they do not compare with.
    pub source: String,
    /// Whether they are of the same series, and so compare with ours.
    pub same_series: bool,
}

impl PeerRow {
    /// A row of figures.
    pub fn new(model: &str, figures: &[(Metric, f64)], source: &str) -> PeerRow {
        let (model, figures, source) = (model.to_owned(), figures.to_vec(), source.to_owned());
        PeerRow { model, figures, source, same_series: true }
    }

    /// The same, of other series than those that are here.
    pub fn of_other_series(self) -> PeerRow {
        PeerRow { same_series: false, ..self }
    }

    /// One figure; `None` where the source has none.
    pub fn get(&self, metric: Metric) -> Option<f64> {
        self.figures.iter().find(|(of, _)| *of == metric).map(|(_, figure)| *figure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_holds_to_its_last_digit_and_no_further() {
        let check = Check { baseline: Baseline::RepeatLast, metric: Metric::Mse, expected: 1.214, digits: 3 };
        for (found, holds) in
            [(Some(1.2138), true), (Some(1.21449), true), (Some(1.2146), false), (Some(f64::NAN), false), (None, false)]
        {
            assert_eq!(check.beside(found).holds(), holds, "{found:?}");
        }
        assert_eq!(check.beside(Some(1.2)).to_string(), "repeat last: MSE: known 1.214, found 1.20000");
        assert_eq!(check.beside(None).to_string(), "repeat last: MSE: known 1.214, found nothing");
    }

    #[test]
    fn a_share_says_what_is_right() {
        for (metric, heading, unit) in [
            (Metric::Coverage, "80 %", "share, 0.8 is right"),
            (Metric::Coverage90, "90 %", "share, 0.9 is right"),
            (Metric::Coverage95, "95 %", "share, 0.95 is right"),
            (Metric::Owa, "OWA", "1"),
        ] {
            assert_eq!((metric.heading().as_str(), metric.unit().as_str()), (heading, unit));
        }
    }

    #[test]
    fn a_peer_has_the_figures_of_its_source() {
        let row = PeerRow::new("TFT", &[(Metric::Nd, 0.055), (Metric::P90Risk, 0.027)], "somewhere");
        assert_eq!((row.get(Metric::Nd), row.get(Metric::Mase)), (Some(0.055), None));
    }
}
