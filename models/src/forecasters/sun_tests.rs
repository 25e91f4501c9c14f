//! Where the sun stands reaches the models of rows: what feeds in by it is forecast as days grow shorter.

use std::ops::ControlFlow;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use meterline_schemas::Frequency;
use meterline_schemas::location::Location;
use meterline_schemas::quantiles::MEDIAN;
use meterline_schemas::time::{DAY, HOUR};

use super::adjusted::Adjusted;
use super::boosted_trees::{BoostedSpec, BoostedTrees};
use super::feature_mlp::{FeatureMlp, FeatureSpec};
use super::linear_quantile::{LinearQuantile, LinearSpec};
use crate::data::{Panel, Series};
use crate::device::Device;
use crate::forecaster::{Forecaster, Model, Task};
use crate::registry;
use crate::sun::sunlight;

const DAYS: i64 = 140;
const HORIZON: usize = 7 * 24;

fn location() -> Location {
    Location::new(52.1, 5.3).unwrap()
}

// What modules feed in, of which clouds take a part on some days, from May to October, and how many days of it are known.
fn panel(days: i64) -> Panel {
    let start = "2024-05-20T00:00:00Z".parse::<Timestamp>().unwrap().as_microsecond();
    let value = |hour: i64| {
        let from = start + hour * HOUR;
        let clear = 1.0 - 0.02 * ((hour / 24 * 7919) % 11) as f32;
        10.0 * clear * sunlight(location(), from, from + HOUR).on_ground
    };
    let series = Series::new("a", start, (0..24 * days).map(value).collect());
    Panel::new(Frequency::HOUR, TimeZone::UTC, vec![series])
}

fn task(location: Option<Location>, horizon: usize) -> Task {
    Task { location, ..Task::new(horizon, horizon, 1) }
}

fn fitted(model: &dyn Model, panel: &Panel, task: &Task) -> Box<dyn Forecaster> {
    model.fit(panel, task, &mut |_| ControlFlow::Continue(())).unwrap()
}

fn trees() -> BoostedTrees {
    let spec = BoostedSpec::default();
    BoostedTrees { spec: BoostedSpec { params: crate::booster::Params { rounds: 100, ..spec.params }, ..spec } }
}

#[test]
fn what_feeds_in_is_forecast_better_where_the_place_is_known() {
    let whole = panel(DAYS + 7);
    let known = whole.cut(whole.series[0].start + DAYS * DAY);
    let error = |model: &dyn Model, location: Option<Location>| {
        let forecast = fitted(model, &known, &task(location, HORIZON)).forecast(&known, HORIZON).remove(0).unwrap();
        let actuals = &whole.series[0].values[24 * DAYS as usize..];
        let errors =
            forecast.quantiles.iter().zip(actuals).map(|(row, actual)| (row[MEDIAN] - f64::from(*actual)).abs());
        errors.sum::<f64>() / HORIZON as f64
    };
    // Clouds, which nobody knows, are a large part of what is left of the errors.
    let models: [(&dyn Model, f64); 2] = [(&LinearQuantile::default(), 0.8), (&trees(), 0.95)];
    for (model, share) in models {
        let (with, without) = (error(model, Some(location())), error(model, None));
        assert!(with < share * without, "{}: {with} with the sun, {without} without", model.name());
    }
}

#[test]
fn a_model_of_a_place_is_kept_with_it() {
    let network = FeatureMlp { spec: FeatureSpec { members: 1, hidden: 8, batches: 50, ..FeatureSpec::default() } };
    let residuals = BoostedTrees {
        spec: BoostedSpec { residuals_of: BoostedTrees::on_residuals().spec.residuals_of, ..trees().spec },
    };
    let shared = LinearQuantile { spec: LinearSpec::shared() };
    let adjusted = Adjusted::linear();
    let models: [(&dyn Model, i64); 6] = [
        (&LinearQuantile::default(), 80),
        (&shared, 80),
        (&trees(), 80),
        (&residuals, 80),
        (&network, 80),
        (&adjusted, 400),
    ];
    for (model, days) in models {
        let panel = panel(days);
        let fitted_to = |location| fitted(model, &panel, &task(location, 24));
        let (with, without) = (fitted_to(Some(location())), fitted_to(None));
        let forecasts = with.forecast(&panel, 24);
        assert!(forecasts[0].is_ok() && forecasts != without.forecast(&panel, 24), "{}", model.name());
        let bytes = with.artifact().unwrap();
        let kept = registry::load_part(&bytes, Device::Cpu).unwrap();
        assert_eq!(kept.forecast(&panel, 24), forecasts, "{}", model.name());
        assert_eq!(kept.explain_forecast(&panel, 24), with.explain_forecast(&panel, 24), "{}", model.name());
        assert_eq!(kept.artifact().as_ref(), Some(&bytes), "{}", model.name());
        let first = |bytes: &[u8]| String::from_utf8_lossy(bytes).lines().next().unwrap().to_owned();
        assert_eq!(first(&bytes), first(&without.artifact().unwrap()) + " 52.1,5.3", "{}", model.name());
    }
}
