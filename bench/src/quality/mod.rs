//! The protocols of the quality benchmark: real series, published origins and horizons, known figures to check the
//! harness by, and the figures of peers. Nothing here is ours to ship: the data stay in a folder of their own.
//!
//! In the order in which data flow:
//!
//! * `table`, `zip`: files as they lie in the data folder, with the line in every complaint; `grid`: stamped rows on a
//!   regular grid;
//! * one file a source, with the traps of its data: [`uci`] (P1 and the published week), [`openstef`] (P2), [`vic`]
//!   (P3), [`gefcom`] (P4), [`m4`] (one origin a series), [`ett`] (stride-1 windows in standardised units);
//! * [`baselines`]: forecasts without any fitting, whose figures on these data are known; [`naive2`]: the one that the
//!   M4 competition measures by;
//! * [`figures`]: metrics, checks and rows of peers; [`published`]: what others reached, as data.
//!
//! * [`models`]: ours by name, fitted; [`competitions`]: what they reach under the protocols of others; [`rows`]: as a
//!   document has it;
//! * `earlier`: the same with windows before those of the tests, to choose by.
//!
//! [`Protocol`] is what the sources with rolling origins share. A harness that does not get every figure of
//! [`Protocol::check_all`] to its last digit measures something else than what is published.

pub mod baselines;
pub mod competitions;
mod earlier;
pub mod ett;
pub mod figures;
pub mod gefcom;
mod grid;
pub mod m4;
pub mod models;
pub mod naive2;
pub mod openstef;
pub mod published;
pub mod rows;
mod table;
#[cfg(test)]
mod tests;
pub mod uci;
pub mod vic;
mod zip;

use std::path::{Path, PathBuf};

use meterline_models::data::{Column, Covariate, Known, Panel};
use meterline_models::holidays::Holidays;
use meterline_schemas::Micros;
use meterline_schemas::time::format_micros;
use meterline_tests::checkout;

pub use baselines::Baseline;
pub use ett::LongHorizon;
pub use figures::{Check, Checked, Metric, PeerRow};
pub use gefcom::p4;
pub use m4::M4Hourly;
pub use openstef::p2;
pub use uci::p1;
pub use vic::p3;

/// One protocol with its data: rolling origins, the whole horizon at once.
///
/// The origin is the start of the first forecast step. Everything that ends at or before it is known, without a delay.
/// Models are trained once, on windows that end at or before [`Protocol::train_until`], and see actual values up to
/// each later origin. No value is missing in a test window; a value that is missing elsewhere (NaN) may be interpolated
/// where it is an input and is never a target of training.
#[derive(Debug, Clone)]
pub struct Protocol {
    /// `P1` … `P4`, or the name of the benchmark that it belongs to.
    pub name: &'static str,
    /// What it is, in one line.
    pub title: &'static str,
    /// History and actuals, in the unit of the source.
    pub panel: Panel,
    /// What is known ahead.
    pub covariates: Vec<CovariateColumn>,
    /// Public holidays, which every calendar has ahead.
    pub holidays: Holidays,
    /// Test origins, oldest first.
    pub origins: Vec<Micros>,
    /// Steps of each forecast, in native intervals.
    pub horizon: usize,
    /// Native intervals in a day: the season of MASE.
    pub season: usize,
    /// Nothing that ends later is trained on, and nothing later chooses anything: the first test origin.
    pub train_until: Micros,
    /// Figures that the harness must reproduce.
    pub checks: Vec<Check>,
    /// What others reached.
    pub peers: Vec<PeerRow>,
}

/// A quantity that is known for the horizon when the forecast is made.
#[derive(Debug, Clone, PartialEq)]
pub struct CovariateColumn {
    /// Snake case, with what it measures.
    pub name: &'static str,
    /// Index of the series of the panel that it belongs to; `None` when it is the same for all of them.
    pub series: Option<usize>,
    /// One value an interval of its series (of the panel's first series, when shared: all start together then) from
    /// that series' start, none missing. As long as the series with its actuals, so it reaches over the horizon of
    /// every origin; a forecaster may use it up to the end of the horizon and no further.
    pub values: Vec<f32>,
}

impl Protocol {
    /// The protocols P1 to P4.
    ///
    /// # Errors
    /// The first file that cannot be read or is not what it should be, with its line and what to do.
    pub fn load_all(data: &Path) -> Result<Vec<Protocol>, String> {
        Ok(vec![p1(data)?, p2(data)?, p3(data)?, p4(data)?])
    }

    /// The panel with what is known ahead beside its series.
    pub fn panel_with_covariates(&self) -> Panel {
        let mut panel = self.panel.clone();
        let mut names: Vec<&str> = self.covariates.iter().map(|column| column.name).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            panel.covariates.push(Covariate { name: name.to_owned(), known: Known::Ahead });
            for (number, series) in panel.series.iter_mut().enumerate() {
                let of_series = self.covariates_of(number).find(|column| column.name == name);
                let values = of_series.map(|column| column.values.as_slice()).unwrap_or_default();
                series.covariates.push(Column { offset: 0, values: values.into() });
            }
        }
        panel
    }

    /// The covariates of one series of the panel: its own and the shared ones.
    pub fn covariates_of(&self, series: usize) -> impl Iterator<Item = &CovariateColumn> {
        self.covariates.iter().filter(move |column| column.series.is_none_or(|of| of == series))
    }

    /// The row of a peer by its name.
    pub fn peer(&self, model: &str) -> Option<&PeerRow> {
        self.peers.iter().find(|row| row.model == model)
    }

    /// (series, origin, step) points that a forecast of the whole protocol is scored on.
    pub fn points(&self) -> usize {
        self.panel.series.len() * self.origins.len() * self.horizon
    }

    /// Index of the first forecast step of `origin` in the values of one series. `None` where the series starts later
    /// or does not reach to the end of the horizon.
    pub fn first_step(&self, series: usize, origin: Micros) -> Option<usize> {
        let of = self.panel.series.get(series)?;
        let known = usize::try_from(self.panel.frequency.steps_between(of.start, origin, &self.panel.zone)).ok()?;
        (known + self.horizon <= of.values.len()).then_some(known)
    }

    /// Every known figure beside the one that these data give.
    pub fn check_all(&self) -> Vec<Checked> {
        self.checks.iter().map(|check| check.beside(baselines::figure(self, check.baseline, check.metric))).collect()
    }

    /// The protocol, if it keeps what its documentation promises.
    ///
    /// # Errors
    /// Says which promise is broken.
    fn validated(self) -> Result<Protocol, String> {
        let refuse = |what: String| Err(format!("protocol {}: {what}; {}", self.name, table::REMEDY));
        let first = self.panel.series.first().map(|s| (s.start, s.values.len()));
        for origin in &self.origins {
            let at = format_micros(*origin);
            if self.panel.frequency.floor(*origin, &self.panel.zone) != *origin {
                return refuse(format!("the origin {at} is not on the grid"));
            }
            for (i, series) in self.panel.series.iter().enumerate() {
                let Some(known) = self.first_step(i, *origin) else {
                    return refuse(format!("series {} does not reach over the horizon from {at}", series.id));
                };
                let actuals = &series.values[known..known + self.horizon];
                if let Some(step) = actuals.iter().position(|v| !v.is_finite()) {
                    return refuse(format!("series {} misses step {step} of the test window from {at}", series.id));
                }
            }
        }
        for column in &self.covariates {
            let of = column.series.unwrap_or(0);
            let Some(series) = self.panel.series.get(of) else {
                return refuse(format!("covariate {} belongs to series {of}, which is not there", column.name));
            };
            if column.series.is_none() && self.panel.series.iter().any(|s| Some((s.start, s.values.len())) != first) {
                return refuse(format!("covariate {} is shared by series of different extent", column.name));
            }
            if column.values.len() != series.values.len() || column.values.iter().any(|v| !v.is_finite()) {
                return refuse(format!("covariate {} of series {} has missing values", column.name, series.id));
            }
        }
        Ok(self)
    }
}

/// The folder with the data: `METERLINE_DATA`, else `../shared/data` beside the project.
///
/// # Errors
/// Says where it was looked for, and what to set.
pub fn data_folder() -> Result<PathBuf, String> {
    let beside = || checkout::root().join("../shared/data");
    let folder = std::env::var_os("METERLINE_DATA").map_or_else(beside, PathBuf::from);
    if folder.is_dir() {
        return Ok(folder);
    }
    Err(format!("no data in {}: name their folder by METERLINE_DATA", folder.display()))
}
