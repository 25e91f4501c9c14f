//! What is known beside the series of a run: read once, in its first step, and put on the grid of its panel.
//!
//! * [`mod@file`]: the values in a file;
//! * [`grid`]: values of any source as columns of a panel;
//! * [`horizon`]: what becomes of series where they do not reach as far as a forecast; what stands in is decided in
//!   [`known_ahead`](crate::known_ahead).

pub mod file;
pub mod grid;
pub mod horizon;

use meterline_models::data::{Covariate, Known, Panel};
use meterline_schemas::config::{Config, CovariateConfig, KnownWhen, ResolvedPolicy};

use self::file::Values;
use self::grid::{OffGrid, Placed};
use super::context::{StepContext, blocking};
use super::error::{Doing, StepError};
use super::history::{self, History, Of};
use crate::environment::Environment;

/// The covariates that a policy names, in its order, as they are configured.
pub fn configured(config: &Config, policy: &ResolvedPolicy) -> Vec<(String, CovariateConfig)> {
    let of = |name: &String| Some((name.clone(), config.covariate.get(name)?.clone()));
    policy.covariates.iter().filter_map(of).collect()
}

/// Configured covariates as models see them, in their order.
pub fn of(configured: &[(String, CovariateConfig)]) -> Vec<Covariate> {
    let covariate = |(name, config): &(String, CovariateConfig)| {
        let known = match config.known() {
            KnownWhen::Ahead => Known::Ahead,
            KnownWhen::Past => Known::Past,
        };
        Covariate { name: name.clone(), known }
    };
    configured.iter().map(covariate).collect()
}

/// Covariates in words.
pub fn in_words(covariates: &[Covariate]) -> String {
    let word = |covariate: &Covariate| match covariate.known {
        Known::Ahead => format!("`{}` (known ahead)", covariate.name),
        Known::Past => format!("`{}` (known of the past)", covariate.name),
    };
    let words: Vec<String> = covariates.iter().map(word).collect();
    if words.is_empty() { "no covariates".to_owned() } else { words.join(", ") }
}

/// Where the values of a covariate come from, in words.
pub fn source_of(config: &CovariateConfig) -> String {
    match (&config.file, &config.series) {
        (Some(file), _) => file.clone(),
        (None, series) => format!("the series `{}`", series.as_deref().unwrap_or_default()),
    }
}

/// Reads the run's covariates and gives them to the series of a history. Of what is known of the past nothing reaches
/// beyond the newest series. Returns the names of those that have no value in the time of the history.
pub async fn attach(ctx: &StepContext, mut history: History) -> Result<(History, Vec<String>), StepError> {
    let mut without = Vec::new();
    for (covariate, (name, config)) in of(&ctx.spec.covariates).into_iter().zip(&ctx.spec.covariates) {
        let values = match (&config.file, grid::first_start(&history.panel)) {
            (Some(file), _) => of_file(&ctx.env, name, file, config).await?,
            (None, None) => Values::OfAll(Vec::new()),
            (None, Some(from)) => {
                let id = [config.series.clone().unwrap_or_default()];
                of_panel(&history::read(ctx, from, ctx.spec.origin, Of::Series(&id)).await?.panel)
            }
        };
        let (doing, horizon) = (doing(name, config), ctx.spec.policy.horizon);
        let (grown, placed) = ctx
            .blocking(move || {
                let placed = put(&mut history.panel, covariate, &values, horizon).doing(|| doing)?;
                Ok((history, placed))
            })
            .await?;
        history = grown;
        ctx.info(format!("the covariate `{name}` has {} from {}", placed.in_words(), source_of(config)));
        if placed.values == 0 && !history.panel.series.is_empty() {
            without.push(name.clone());
        }
    }
    Ok((history, without))
}

/// What reading a covariate is called where it fails.
pub fn doing(name: &str, config: &CovariateConfig) -> String {
    format!("reading the covariate `{name}` from {}", source_of(config))
}

/// The values in the file of a covariate.
///
/// # Errors
/// It cannot be read, or is of another form.
pub async fn of_file(env: &Environment, name: &str, file: &str, config: &CovariateConfig) -> Result<Values, StepError> {
    let (path, zone, doing) = (env.directory().join(file), config.zone.clone(), doing(name, config));
    blocking("reading a covariate", move || file::read(&path, &zone).doing(|| doing)).await
}

/// Gives a covariate to the series of a panel; of what is known ahead, `horizon` intervals more than the newest of them.
///
/// # Errors
/// A value is about no interval of the panel's frequency.
pub fn put(panel: &mut Panel, covariate: Covariate, values: &Values, horizon: usize) -> Result<Placed, OffGrid> {
    let ahead = match covariate.known {
        Known::Ahead => horizon,
        Known::Past => 0,
    };
    let placed = grid::place(values, panel, ahead)?;
    for (series, column) in panel.series.iter_mut().zip(&placed.columns) {
        series.covariates.push(column.clone());
    }
    panel.covariates.push(covariate);
    Ok(placed)
}

/// The intervals of one series as values of a covariate.
pub fn of_panel(found: &Panel) -> Values {
    let mut rows = Vec::new();
    for series in &found.series {
        for (step, value) in (0..).zip(&series.values).filter(|(_, value)| value.is_finite()) {
            rows.push((found.frequency.advance(series.start, step, &found.zone), *value));
        }
    }
    Values::OfAll(rows)
}

#[cfg(test)]
mod tests;
