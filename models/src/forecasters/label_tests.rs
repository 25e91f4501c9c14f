//! What labels say reaches the models of all series: a series that is new is forecast as those are that it is labelled as.

use std::ops::ControlFlow;

use jiff::tz::TimeZone;
use meterline_schemas::Frequency;
use meterline_schemas::quantiles::MEDIAN;

use super::boosted_trees::BoostedTrees;
use super::feature_mlp::{FeatureMlp, FeatureSpec};
use super::linear_quantile::{LinearQuantile, LinearSpec};
use crate::data::{Column, Covariate, Known, Panel, Series};
use crate::forecaster::{Model, NoForecast, Task};

const DAYS: usize = 60;
const SERIES: usize = 12;

// On some days, known ahead, meters of one tariff take 10 more, on as many 10 less; those of the other do so on other days,
// which nobody knows: level and spread do not tell them apart.
fn panel() -> Panel {
    let of_day = |day: usize| match day * 7919 % 13 {
        0..3 => 1.0,
        3..6 => -1.0,
        _ => 0.0,
    };
    let signal: Vec<f32> = (0..(DAYS + 1) * 24).map(|hour| of_day(hour / 24)).collect();
    let of = |number: usize| {
        let is_day = number.is_multiple_of(2);
        let value = |hour: usize| {
            let noise = ((hour * 7919 + number * 31) % 17) as f32 / 17.0;
            let extra = if is_day { signal[hour] } else { of_day(hour / 24 * 31 + number) };
            50.0 + (hour % 24) as f32 / 4.0 + noise + 10.0 * extra
        };
        let mut series = Series::new(format!("s{number}"), 0, (0..DAYS * 24).map(value).collect());
        series.covariates = vec![Column { offset: 0, values: signal.clone().into() }];
        series.labels = vec![Some(if is_day { "day" } else { "night" }.into())];
        series
    };
    Panel {
        covariates: vec![Covariate { name: "event".into(), known: Known::Ahead }],
        labels: vec!["tariff".into()],
        ..Panel::new(Frequency::HOUR, TimeZone::UTC, (0..SERIES).map(of).collect())
    }
}

// The median of a new series with this label at noon of a day on which its tariff decides. Its history, in which such days
// were now as of one tariff and now as of the other, does not tell which it has.
fn forecast(model: &dyn Model, label: Option<&str>) -> f64 {
    let panel = panel();
    let task = Task::new(24, 24, 1);
    let fitted = model.fit(&panel, &task, &mut |_| ControlFlow::Continue(())).unwrap();
    let mut new = panel.clone();
    let (up, down) = (panel.series[0].values.clone(), panel.series[1].values.clone());
    new.series.truncate(1);
    let series = &mut new.series[0];
    series.id = "new".into();
    series.labels = vec![label.map(Into::into)];
    series.values.iter_mut().enumerate().for_each(|(hour, value)| {
        *value = if hour / 24 % 2 == 0 { up[hour] } else { down[hour] };
    });
    let mut signal = series.covariates[0].values.to_vec();
    signal[DAYS * 24..].fill(1.0);
    series.covariates[0].values = signal.into();
    fitted.forecast(&new, 24).remove(0).unwrap().quantiles[12][MEDIAN]
}

#[test]
fn what_is_not_linear_in_a_label_is_learned_by_trees_and_networks() {
    let network = FeatureMlp { spec: FeatureSpec { members: 2, hidden: 24, batches: 600, ..FeatureSpec::default() } };
    let models: [&dyn Model; 2] = [&BoostedTrees::default(), &network];
    for model in models {
        let (day, night) = (forecast(model, Some("day")), forecast(model, Some("night")));
        assert!(day - night > 4.0, "{}: {day} {night}", model.name());
        assert!((day - forecast(model, None)).abs() > 1.0, "{}", model.name());
    }
}

#[test]
fn lines_that_all_series_share_forecast_new_ones_and_have_coefficients_of_labels() {
    let (panel, task) = (panel(), Task::new(24, 24, 1));
    let fitted =
        |spec: LinearSpec| LinearQuantile { spec }.fit(&panel, &task, &mut |_| ControlFlow::Continue(())).unwrap();
    let (shared, of_each) = (fitted(LinearSpec::shared()), fitted(LinearSpec::default()));
    assert_eq!((shared.name(), of_each.name()), ("global_linear", "linear_quantile"));
    let mut new = panel.clone();
    new.series[0].id = "new".into();
    let forecasts = shared.forecast(&new, 24);
    assert_eq!(forecasts, shared.forecast(&panel, 24), "they know series by what they are");
    assert!(forecasts.iter().all(Result::is_ok));
    assert_eq!(of_each.forecast(&new, 24)[0], Err(NoForecast::Unknown));
    let terms = |explained: &[crate::explain::Explanation]| {
        explained.iter().filter(|row| row.term.starts_with("tariff=")).map(|row| row.term.clone()).collect::<Vec<_>>()
    };
    assert_eq!(terms(&shared.explain()), ["tariff=day", "tariff=night"]);
    assert!(!terms(&shared.explain_forecast(&new, 24)).is_empty());
    assert!(terms(&of_each.explain()).is_empty(), "of one series there is nothing to be told apart");
}
