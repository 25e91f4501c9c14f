//! The models among which `auto` chooses, the cheapest first.

use crate::booster::Params;
use crate::data::Panel;
use crate::forecaster::{FitError, Forecaster, Model, Progress, Task};
use crate::forecasters::adjusted::Adjusted;
use crate::forecasters::boosted_trees::{BoostedSpec, BoostedTrees};
use crate::forecasters::classical::Classical;
use crate::forecasters::feature_mlp::FeatureMlp;
use crate::forecasters::linear_quantile::{LinearQuantile, LinearSpec, NAME_OF_SHARED};
use crate::forecasters::quantile_mlp::Mlp;
use crate::forecasters::seasonal_naive::Naive;
use crate::forecasters::window_linear::WindowLinear;
use crate::statistics::Method;

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
        Box::new(Classical { method: Method::Mstl }),
        Box::new(WindowLinear),
        Box::new(LinearQuantile { spec: LinearSpec::shared() }),
        Box::new(LinearQuantile { spec: linear }),
        Box::new(Named { name: "linear_smooth", model: LinearQuantile { spec: linear_smooth.clone() } }),
        Box::new(Named { name: "linear_plain", model: LinearQuantile { spec: linear_plain } }),
        Box::new(Named { name: "linear_recent", model: LinearQuantile { spec: linear_recent } }),
        Box::new(FeatureMlp::default()),
        Box::new(Mlp::default()),
        Box::new(BoostedTrees::default()),
        Box::new(BoostedTrees::on_residuals()),
        Box::new(Named { name: "boosted_deep", model: BoostedTrees { spec: deep } }),
        Box::new(Adjusted::linear()),
        Box::new(Named { name: "adjusted_smooth", model: Adjusted::linear_of(linear_smooth.clone()) }),
        Box::new(Adjusted::mlp()),
        Box::new(Adjusted::trees()),
        Box::new(Named { name: "residuals_deep", model: BoostedTrees { spec: deep_residuals } }),
    ]
}

/// Those among these that say something of their own of a panel: lines that series share are its own where there is one.
pub(super) fn of_use<'c>(all: &'c [Box<dyn Model>], panel: &Panel) -> Vec<&'c dyn Model> {
    let is_of_use = |model: &&dyn Model| model.name() != NAME_OF_SHARED || panel.series.len() > 1 || all.len() == 1;
    all.iter().map(|model| &**model).filter(is_of_use).collect()
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
