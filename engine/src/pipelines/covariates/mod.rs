//! What is known beside the series of a run: read once, in its first step, and put on the grid of its panel.
//!
//! * [`mod@file`]: the values in a file;
//! * [`grid`]: values of any source as columns of a panel;
//! * [`horizon`]: what becomes of series where they do not reach as far as a forecast; what stands in is decided in
//!   [`known_ahead`](crate::known_ahead).

pub mod file;
pub mod grid;
pub mod horizon;

use meterline_models::data::{Covariate, Known};
use meterline_schemas::config::{Config, CovariateConfig, KnownWhen, ResolvedPolicy};

use self::file::Values;
use super::context::StepContext;
use super::error::{Doing, StepError};
use super::history::{self, History, Of};

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
        let doing = format!("reading the covariate `{name}` from {}", source_of(config));
        let values = match &config.file {
            Some(file) => {
                let (path, zone) = (ctx.env.directory().join(file), config.zone.clone());
                let what = doing.clone();
                ctx.blocking(move || file::read(&path, &zone).doing(|| what)).await?
            }
            None => of_series(ctx, config.series.clone().unwrap_or_default(), &history).await?,
        };
        let ahead = match covariate.known {
            Known::Ahead => ctx.spec.policy.horizon,
            Known::Past => 0,
        };
        let (grown, placed) = ctx
            .blocking(move || {
                let placed = grid::place(&values, &history.panel, ahead).doing(|| doing)?;
                for (series, column) in history.panel.series.iter_mut().zip(&placed.columns) {
                    series.covariates.push(column.clone());
                }
                history.panel.covariates.push(covariate);
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

// The intervals of one series of the lake, over the time of the history.
async fn of_series(ctx: &StepContext, id: String, history: &History) -> Result<Values, StepError> {
    let Some(from) = grid::first_start(&history.panel) else { return Ok(Values::OfAll(Vec::new())) };
    let found = history::read(ctx, from, ctx.spec.origin, Of::Series(&[id])).await?.panel;
    let mut rows = Vec::new();
    for series in &found.series {
        for (step, value) in (0..).zip(&series.values).filter(|(_, value)| value.is_finite()) {
            rows.push((found.frequency.advance(series.start, step, &found.zone), *value));
        }
    }
    Ok(Values::OfAll(rows))
}

#[cfg(test)]
mod tests;
