//! Scores candidate, champion and seasonal naive on the same windows, all later than what the candidate trained on.

use std::collections::BTreeMap;

use meterline_models::backtest::{Evaluation, compare_at_cost};
use meterline_models::data::{Covariate, Panel};
use meterline_models::forecaster::{Forecaster, NoForecast, SeriesForecast};
use meterline_models::forecasters::guarded::baseline;
use meterline_models::plausible::rule_in_words;
use meterline_schemas::Micros;
use meterline_schemas::time::format_micros;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{evaluated, evaluation_origins, preprocess, train};
use crate::metadata::records::ModelRecord;
use crate::pipelines::context::{Inputs, StepContext, cost, output};
use crate::pipelines::error::{Doing, StepError};
use crate::pipelines::{artifacts, covariates, history, labels, model};

/// What the step produced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// `wql`, `nd`, `mase`, `coverage`, `coverage_90` of the candidate, and `cost` where the policy has costs; the same
    /// of seasonal naive with the prefix `naive_` and of the
    /// champion with the prefix `champion_`. While there is no champion, seasonal naive is the champion.
    pub figures: BTreeMap<String, Option<f64>>,
    /// Version of the champion; none either where it cannot be loaded.
    pub champion: Option<String>,
    /// Scored (series, origin, step) points.
    pub points: usize,
    /// Scored (series, origin) windows.
    pub windows: usize,
    /// Windows that a model had no forecast for, scored for none.
    pub windows_without_forecast: usize,
    /// Origins of the windows.
    pub origins: Vec<String>,
}

/// Executes the step.
pub async fn execute(ctx: &StepContext, inputs: &Inputs) -> Result<Value, StepError> {
    let dataset: preprocess::Output = inputs.get("preprocess")?;
    let trained: train::Output = inputs.get("train")?;
    let spec = ctx.spec.clone();
    let zone = ctx.zone()?;
    let origins = evaluation_origins(&spec, &zone);
    let candidate = model::load(ctx, "of this run", &trained.weights).await??;
    let champion = champion(ctx, origins.first().copied()).await?;
    let champion_version = champion.as_ref().map(|(record, _)| record.version.clone());
    let bytes = artifacts::get(&ctx.env.lake, &dataset.dataset).await?;
    let (stop, windows) = (ctx.stop.clone(), origins.clone());
    let cost = cost(&spec.policy)?;
    let evaluations = ctx
        .blocking(move || {
            let mut history = artifacts::history_from_parquet(bytes, spec.frequency, zone)?;
            history.keep_last(evaluated(&spec.policy));
            stop.check()?;
            let length = history::shown(&spec.policy);
            let naive = baseline(spec.frequency);
            let all = covariates::of(&spec.covariates);
            let mut models = vec![
                Shown { model: &*candidate, length, covariates: &all },
                Shown { model: &naive, length, covariates: &[] },
            ];
            if let Some((record, model)) = &champion {
                models.push(Shown { model: &**model, length, covariates: &record.covariates });
            }
            let models: Vec<&dyn Forecaster> = models.iter().map(|m| m as &dyn Forecaster).collect();
            Ok(compare_at_cost(&models, &history.panel, &windows, spec.policy.horizon, cost))
        })
        .await?;
    let [candidate, naive, rest @ ..] = &evaluations[..] else {
        return Err(StepError::failed("scoring the candidate", "the comparison gave no figures"));
    };
    let figures = figures(candidate, naive, rest.first(), cost.is_some());
    let by_quality = by_quality(candidate, naive, rest.first());
    for (name, value) in figures.iter().chain(&by_quality) {
        if let Some(value) = value {
            ctx.metric(name, *value);
        }
    }
    if candidate.implausible > 0 {
        ctx.warn(format!("values that are not scored: {}; {}", candidate.implausible, rule_in_words()));
    }
    ctx.metric("implausible_points", candidate.implausible as f64);
    if candidate.estimated.points > 0 {
        ctx.info(format!(
            "{} of the points were estimated or substituted: wQL {}; of the measured ones {}",
            candidate.estimated.points,
            shown(candidate.estimated.wql),
            shown(candidate.measured.wql)
        ));
    }
    ctx.info(format!(
        "on {} points of {} windows: {}",
        candidate.points,
        candidate.windows,
        sentence(&figures, champion_version.as_deref())
    ));
    output(&Output {
        figures,
        champion: champion_version,
        points: candidate.points,
        windows: candidate.windows,
        windows_without_forecast: candidate.windows_without_forecast,
        origins: origins.into_iter().map(format_micros).collect(),
    })
}

/// A model that sees at each origin what an infer run would show it, and not what comes before that.
struct Shown<'a> {
    model: &'a dyn Forecaster,
    length: usize,
    // Those that it was fitted with, of those that there are.
    covariates: &'a [Covariate],
}

impl Forecaster for Shown<'_> {
    fn name(&self) -> &str {
        self.model.name()
    }

    fn forecast(&self, panel: &Panel, horizon: usize) -> Vec<Result<SeriesForecast, NoForecast>> {
        match panel.newest(self.length).with_covariates(self.covariates) {
            Some(shown) => self.model.forecast(&shown, horizon),
            // Who chose the models has seen to it that this does not happen.
            None => vec![Err(NoForecast::Unknown); panel.series.len()],
        }
    }
}

// The group's champion, if it can be loaded and shown what it was fitted with. `first` is the origin of the first window.
async fn champion(
    ctx: &StepContext,
    first: Option<Micros>,
) -> Result<Option<(ModelRecord, Box<dyn Forecaster>)>, StepError> {
    let group = &ctx.spec.group_id;
    let record = ctx.env.metadata.champion(group).await.doing(|| format!("finding the champion of {group}"))?;
    let Some(record) = record else { return Ok(None) };
    let there = covariates::of(&ctx.spec.covariates);
    if !record.covariates.iter().all(|covariate| there.contains(covariate)) {
        ctx.warn(format!(
            "the champion {} does not count: it was fitted with {}, and there are {}",
            record.version,
            covariates::in_words(&record.covariates),
            covariates::in_words(&there)
        ));
        return Ok(None);
    }
    if let Some(missing) = labels::missing(&record.labels, &ctx.spec.policy.labels) {
        let there = labels::in_words(&ctx.spec.policy.labels);
        ctx.warn(format!(
            "the champion {} does not count: it was told the label `{missing}`, and there are {there}",
            record.version
        ));
        return Ok(None);
    }
    let model = match model::load(ctx, &record.version, &record.artifact).await? {
        Ok(model) => model,
        // It cannot serve either: a candidate that beats the baseline must be able to replace it.
        Err(reason) => {
            ctx.warn(format!("the champion {} does not count: {reason}", record.version));
            return Ok(None);
        }
    };
    if first.is_some_and(|first| record.trained_until > first) {
        ctx.warn(format!(
            "the champion {} was trained until {}, into the evaluation windows: its figures flatter it",
            record.version,
            format_micros(record.trained_until)
        ));
    }
    Ok(Some((record, model)))
}

/// The figures that a gate sees.
pub fn figures(
    candidate: &Evaluation,
    naive: &Evaluation,
    champion: Option<&Evaluation>,
    with_cost: bool,
) -> BTreeMap<String, Option<f64>> {
    let mut figures = BTreeMap::new();
    for (prefix, e) in [("", candidate), ("naive_", naive), ("champion_", champion.unwrap_or(naive))] {
        let coverage = [("coverage", e.coverage), ("coverage_90", e.coverage_90)];
        let always = [("wql", e.wql), ("nd", e.nd), ("mase", e.mase)].into_iter().chain(coverage);
        for (name, value) in always.chain(with_cost.then_some(("cost", e.cost))) {
            figures.insert(format!("{prefix}{name}"), value);
        }
    }
    figures
}

// The same of the points that were measured and of those that were not, where there are both.
fn by_quality(
    candidate: &Evaluation,
    naive: &Evaluation,
    champion: Option<&Evaluation>,
) -> BTreeMap<String, Option<f64>> {
    let mut figures = BTreeMap::new();
    if candidate.estimated.points == 0 || candidate.measured.points == 0 {
        return figures;
    }
    for (prefix, e) in [("", candidate), ("naive_", naive), ("champion_", champion.unwrap_or(naive))] {
        for (quality, part) in [("measured", &e.measured), ("estimated", &e.estimated)] {
            for (name, value) in [("wql", part.wql), ("nd", part.nd), ("coverage", part.coverage)] {
                figures.insert(format!("{prefix}{quality}_{name}"), value);
            }
        }
    }
    figures
}

fn shown(figure: Option<f64>) -> String {
    figure.map_or_else(|| "none".to_owned(), |figure| format!("{figure:.4}"))
}

fn sentence(figures: &BTreeMap<String, Option<f64>>, champion: Option<&str>) -> String {
    let show = |name: &str| shown(figures.get(name).copied().flatten());
    let against = match champion {
        Some(version) => format!(", champion {version} {}", show("champion_wql")),
        None => ", no champion to compare with".to_owned(),
    };
    let cost = match figures.contains_key("cost") {
        true => format!("; cost of an interval {}, of seasonal naive's {}", show("cost"), show("naive_cost")),
        false => String::new(),
    };
    format!(
        "wQL {}, seasonal naive {}{against}; ND {}, MASE {}, coverage of the 80 % interval {}, of the 90 % interval {}{cost}",
        show("wql"),
        show("naive_wql"),
        show("nd"),
        show("mase"),
        show("coverage"),
        show("coverage_90")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipelines::history::History;
    use jiff::tz::TimeZone;
    use meterline_models::backtest::PartScore;
    use meterline_models::data::{Column, Known, Series};
    use meterline_schemas::Frequency;
    use meterline_schemas::config::resolve_policy;
    use meterline_schemas::time::HOUR;

    fn evaluation(wql: Option<f64>) -> Evaluation {
        Evaluation {
            model: "m".into(),
            wql,
            nd: None,
            mase: None,
            coverage: None,
            coverage_90: None,
            cost: wql.map(|wql| 10.0 * wql),
            points: 0,
            windows: 0,
            windows_without_forecast: 0,
            implausible: 0,
            steps: Vec::new(),
            measured: PartScore::default(),
            estimated: PartScore::default(),
        }
    }

    #[test]
    fn without_a_champion_seasonal_naive_is_the_champion() {
        let found = figures(&evaluation(Some(0.1)), &evaluation(Some(0.2)), None, false);
        assert!(!found.contains_key("cost"), "a policy without costs has no such figure");
        assert_eq!((found["wql"], found["naive_wql"], found["champion_wql"]), (Some(0.1), Some(0.2), Some(0.2)));
        let found = figures(&evaluation(Some(0.1)), &evaluation(Some(0.2)), Some(&evaluation(None)), true);
        assert_eq!(found["champion_wql"], None, "a champion that was not scored is a missing figure");
        assert_eq!((found["cost"], found["naive_cost"], found["champion_cost"]), (Some(1.0), Some(2.0), None));
        assert!(sentence(&found, Some("a-1")).contains("cost of an interval 1.0000, of seasonal naive's 2.0000"));
    }

    #[test]
    fn figures_by_quality_are_there_where_there_are_both() {
        let part = |points, wql| PartScore { points, wql: Some(wql), ..PartScore::default() };
        let mixed = |measured, estimated| Evaluation { measured, estimated, ..evaluation(Some(0.1)) };
        let candidate = mixed(part(9, 0.1), part(3, 0.2));
        let found = by_quality(&candidate, &mixed(part(9, 0.3), part(3, 0.4)), None);
        assert_eq!((found["measured_wql"], found["estimated_wql"]), (Some(0.1), Some(0.2)));
        assert_eq!((found["naive_measured_wql"], found["champion_estimated_wql"]), (Some(0.3), Some(0.4)));
        assert!(by_quality(&mixed(part(9, 0.1), part(0, 0.0)), &candidate, None).is_empty());
    }

    #[test]
    fn a_model_is_shown_the_covariates_that_it_was_fitted_with() {
        struct Names;
        impl Forecaster for Names {
            fn name(&self) -> &str {
                "names"
            }

            fn forecast(&self, panel: &Panel, _: usize) -> Vec<Result<SeriesForecast, NoForecast>> {
                let names: Vec<&str> = panel.covariates.iter().map(|covariate| covariate.name.as_str()).collect();
                assert_eq!(panel.series[0].covariates.len(), names.len());
                vec![Err(NoForecast::MissingCovariate(names.join(" ")))]
            }
        }
        let covariate = |name: &str| Covariate { name: name.into(), known: Known::Ahead };
        let mut series = Series::new("a", 0, vec![1.0; 9]);
        series.covariates = vec![Column { offset: 0, values: Default::default() }; 2];
        let mut panel = Panel::new(Frequency::HOUR, TimeZone::UTC, vec![series]);
        panel.covariates = vec![covariate("wind"), covariate("temperature")];
        for wanted in [vec![], vec!["temperature"], vec!["temperature", "wind"]] {
            let covariates: Vec<Covariate> = wanted.iter().map(|name| covariate(name)).collect();
            let found = Shown { model: &Names, length: 5, covariates: &covariates }.forecast(&panel, 3);
            assert_eq!(found, [Err(NoForecast::MissingCovariate(wanted.join(" ")))]);
        }
    }

    #[test]
    fn at_each_origin_a_model_sees_what_an_infer_run_would_show_it() {
        let policy = resolve_policy(Frequency::HOUR, &Default::default());
        let (length, horizon) = (history::shown(&policy), policy.horizon);
        assert!(length >= 2 * 7 * 24, "naive must be able to choose the season of a week");
        // Two years whose level changes from week to week, so that every bit more of history makes a difference.
        let values = (0..2 * 365 * 24).map(|h| ((h * 7919) % 101 + h / 168) as f32).collect();
        let series = vec![Series::new("a", 0, values)];
        let panel = Panel::new(Frequency::HOUR, TimeZone::UTC, series);
        let naive = baseline(Frequency::HOUR);
        let shown = Shown { model: &naive, length, covariates: &[] };
        let mut evaluated_history = History { panel: panel.clone(), units: vec!["kWh".into()] };
        evaluated_history.keep_last(evaluated(&policy));
        let end = panel.series[0].origin(Frequency::HOUR, &TimeZone::UTC);
        for window in 0..=policy.evaluate_windows {
            let origin = end - (window * horizon) as i64 * HOUR;
            let mut inferred = History { panel: panel.cut(origin), units: vec!["kWh".into()] };
            inferred.keep_last(length);
            let expected = naive.forecast(&inferred.panel, horizon);
            assert_eq!(shown.forecast(&evaluated_history.panel.cut(origin), horizon), expected, "{window}");
        }
    }
}
