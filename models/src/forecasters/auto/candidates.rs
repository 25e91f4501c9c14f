//! The models among which `auto` chooses: one of each sort, the cheapest first, then others of these sorts. Where time
//! runs out, what is left out is the most like what is there.

use crate::booster::Params;
use crate::data::{Panel, Series};
use crate::forecaster::{FitError, Forecaster, Model, Progress, Task};
use crate::forecasters::adjusted::Adjusted;
use crate::forecasters::boosted_trees::{self, BoostedSpec, BoostedTrees};
use crate::forecasters::classical::{self, Classical};
use crate::forecasters::feature_mlp::FeatureMlp;
use crate::forecasters::linear_quantile::{self, LinearQuantile, LinearSpec, NAME_OF_SHARED};
use crate::forecasters::quantile_mlp::Mlp;
use crate::forecasters::seasonal_naive::Naive;
use crate::forecasters::window_linear::WindowLinear;
use crate::statistics::{Method, croston};

/// The model of demand that comes seldom: of the three that forecast it alike, the one without bias.
const OF_SELDOM_DEMAND: Method = Method::Sba;

/// Rows of lines of each series that take about as long as networks and trees do, which learn from a sample.
const ROWS_OF_SAMPLES: usize = 1_000_000;

/// All of them.
pub(super) fn standard() -> Vec<Box<dyn Model>> {
    let linear = LinearSpec::default();
    let linear_smooth = LinearSpec { parts: 4, penalty: 10.0, ..linear.clone() };
    let linear_plain = LinearSpec { parts: 1, penalty: 100.0, ..linear.clone() };
    let linear_recent = LinearSpec { half_life_days: 90.0, ..linear.clone() };
    // Long histories bear larger trees.
    let deep = Params { feature_fraction: 0.5, bagging_fraction: 0.8, ..Params::default() };
    let deep = BoostedSpec { params: deep, ..BoostedSpec::default() };
    let deep_residuals = BoostedSpec { residuals_of: Some(linear.clone()), ..deep.clone() };
    vec![
        Box::new(Naive),
        Box::new(Classical { method: OF_SELDOM_DEMAND }),
        Box::new(Classical { method: Method::Mstl }),
        Box::new(WindowLinear),
        Box::new(LinearQuantile { spec: LinearSpec::shared() }),
        Box::new(LinearQuantile { spec: linear }),
        Box::new(FeatureMlp::default()),
        Box::new(Mlp::default()),
        Box::new(BoostedTrees::default()),
        Box::new(Named { name: "linear_smooth", model: LinearQuantile { spec: linear_smooth.clone() } }),
        Box::new(Named { name: "linear_plain", model: LinearQuantile { spec: linear_plain } }),
        Box::new(Named { name: "linear_recent", model: LinearQuantile { spec: linear_recent } }),
        Box::new(BoostedTrees::on_residuals()),
        Box::new(Named { name: "boosted_deep", model: BoostedTrees { spec: deep } }),
        Box::new(Adjusted::linear()),
        Box::new(Named { name: "adjusted_smooth", model: Adjusted::linear_of(linear_smooth.clone()) }),
        Box::new(Adjusted::mlp()),
        Box::new(Adjusted::trees()),
        Box::new(Named { name: "residuals_deep", model: BoostedTrees { spec: deep_residuals } }),
    ]
}

/// Those among these that say something of their own of a panel: lines that series share are its own where there is one,
/// and demand that is hardly ever zero needs no model of how often it comes. Lines of each series come after what learns
/// from a sample of all where they take longer.
pub(super) fn of_use<'c>(all: &'c [Box<dyn Model>], panel: &Panel, task: &Task) -> Vec<&'c dyn Model> {
    let is_of_use = |model: &&dyn Model| {
        let name = model.name();
        all.len() == 1
            || (name != NAME_OF_SHARED || panel.series.len() > 1)
                && (name != OF_SELDOM_DEMAND.name() || is_mostly_seldom(panel))
    };
    let mut of_use: Vec<&dyn Model> = all.iter().map(|model| &**model).filter(is_of_use).collect();
    let place = |wanted: &str| of_use.iter().position(|model| model.name() == wanted);
    if let (Some(lines), Some(trees)) = (place(linear_quantile::NAME), place(boosted_trees::NAME))
        && lines < trees
        && linear_quantile::rows_of_each(panel, task) > ROWS_OF_SAMPLES
    {
        of_use[lines..=trees].rotate_left(1);
    }
    of_use
}

/// Whether at least half of the series are a demand that comes seldom, by as much of their end as the model of it looks at.
fn is_mostly_seldom(panel: &Panel) -> bool {
    let lookback = classical::lookback(panel.frequency);
    let is_seldom = |series: &&Series| {
        let newest = &series.values[series.values.len().saturating_sub(lookback)..];
        let values: Vec<f64> = newest.iter().map(|value| f64::from(*value)).collect();
        !values.iter().any(|value| *value < 0.0) && croston::is_intermittent(&values)
    };
    !panel.series.is_empty() && 2 * panel.series.iter().filter(is_seldom).count() >= panel.series.len()
}

/// A model under another name: with other settings it is another candidate.
struct Named<M> {
    name: &'static str,
    model: M,
}

impl<M: Model> Model for Named<M> {
    fn name(&self) -> &str {
        self.name
    }

    fn fit(&self, panel: &Panel, task: &Task, progress: Progress<'_>) -> Result<Box<dyn Forecaster>, FitError> {
        self.model.fit(panel, task, progress)
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use meterline_schemas::Frequency;

    use super::*;
    use crate::forecasters::auto::Auto;

    #[test]
    fn a_model_of_seldom_demand_is_tried_where_half_of_the_series_are_one() {
        let seldom = |hour: usize| if hour.is_multiple_of(4) { 2.0 } else { 0.0 };
        let smooth = |hour: usize| 5.0 + (hour % 24) as f32;
        // It was seldom once, before what the model looks at.
        let begun = |hour: usize| if hour < 5000 { seldom(hour) } else { smooth(hour) };
        let below = |hour: usize| if hour == 8000 { -1.0 } else { seldom(hour) };
        let all: [&dyn Fn(usize) -> f32; 4] = [&seldom, &smooth, &begun, &below];
        let all = all.map(|value| Series::new("a", 0, (0..9000).map(value).collect()));
        let candidates = standard();
        let task = Task::new(24, 24, 1);
        for (places, expected) in [
            (&[0][..], true),
            (&[1], false),
            (&[2], false),
            (&[3], false),
            (&[0, 1], true),
            (&[0, 1, 2], false),
            (&[], false),
        ] {
            let series = places.iter().map(|place| all[*place].clone()).collect();
            let panel = Panel::new(Frequency::HOUR, TimeZone::UTC, series);
            let found = of_use(&candidates, &panel, &task);
            assert_eq!(found.iter().any(|model| model.name() == "sba"), expected, "{places:?}");
            let shared = found.iter().any(|model| model.name() == NAME_OF_SHARED);
            assert_eq!((shared, found[0].name()), (places.len() > 1, "seasonal_naive"), "{places:?}");
        }
        let alone = Auto::calibrated(Classical { method: OF_SELDOM_DEMAND });
        let panel = Panel::new(Frequency::HOUR, TimeZone::UTC, all[1..2].to_vec());
        assert_eq!(of_use(&alone.candidates, &panel, &task).len(), 1);
    }

    #[test]
    fn where_lines_of_each_series_take_long_others_are_tried_before_them() {
        let candidates = standard();
        let names = |count: usize| -> Vec<String> {
            let series = (0..count).map(|number| Series::new(format!("s{number}"), 0, vec![1.0; 20_000])).collect();
            let panel = Panel::new(Frequency::HOUR, TimeZone::UTC, series);
            let found = of_use(&candidates, &panel, &Task::new(24, 24, 1));
            found.into_iter().map(|model| model.name().to_owned()).collect()
        };
        let (few, many) = (names(2), names(60));
        assert_eq!(few[4..8], ["linear_quantile", "feature_mlp", "quantile_mlp", "boosted_trees"]);
        assert_eq!(many[4..8], ["feature_mlp", "quantile_mlp", "boosted_trees", "linear_quantile"]);
        assert_eq!((few[8..].to_vec(), &few[8]), (many[8..].to_vec(), &"linear_smooth".to_owned()));
    }
}
