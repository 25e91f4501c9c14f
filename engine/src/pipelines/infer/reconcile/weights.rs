//! What forecasts are weighed by: how far those from one horizon earlier were off. Pure.

use std::collections::HashMap;

use meterline_models::data::{Panel, Series};
use meterline_models::reconcile::{MinTrace, ReconcileError, ShrunkCovariance, Structure};
use meterline_schemas::Micros;

/// Errors a series at the most: weighing takes time with the square of it, and errors of neighbouring intervals say
/// nearly the same. Of a longer horizon every second, third, … interval is taken.
const ERRORS_MAX: usize = 192;
/// Errors of all series together at the most; each takes memory some times over.
const ALL_ERRORS_MAX: usize = 8_000_000;

/// Past errors of the series of a run.
pub struct Errors {
    // Of each series its errors, and the place of the first interval that was forecast among them.
    series: HashMap<String, (Vec<f32>, i64)>,
    horizon: usize,
}

impl Errors {
    /// Those of the `horizon` intervals from `from` on, NaN where one is missing.
    pub fn new(panel: Panel, from: Micros, horizon: usize) -> Errors {
        let Panel { frequency, zone, series, .. } = panel;
        let of = |s: Series| (s.id, (s.values, frequency.steps_between(s.start, from, &zone)));
        Errors { series: series.into_iter().map(of).collect(), horizon }
    }

    /// No errors at all.
    pub fn none() -> Errors {
        Errors { series: HashMap::new(), horizon: 0 }
    }

    // The intervals that are taken where there are this many nodes.
    fn taken(&self, nodes: usize) -> Vec<i64> {
        let most = (ALL_ERRORS_MAX / nodes.max(1)).clamp(2, ERRORS_MAX);
        (0..self.horizon as i64).step_by(self.horizon.div_ceil(most).max(1)).collect()
    }

    fn of(&self, series: &str, taken: &[i64]) -> Vec<f64> {
        let known = self.series.get(series);
        let error = |interval: &i64| {
            let (errors, from) = known?;
            errors.get(usize::try_from(from + interval).ok()?).map(|error| f64::from(*error))
        };
        taken.iter().map(|interval| error(interval).unwrap_or(f64::NAN)).collect()
    }
}

/// How forecasts are weighed.
#[derive(Debug, Clone, PartialEq)]
pub enum Weighed {
    /// By past errors: how far their correlations were shrunk (1: they are not used), and of how many nodes there were
    /// none, so that a variance was assumed.
    ByErrors {
        /// From 0 to 1.
        shrinkage: f64,
        /// Nodes.
        assumed: usize,
    },
    /// By the number of leaves: there are no past errors.
    ByLeaves,
}

/// What reconciles the nodes of `structure`.
///
/// # Errors
/// Numbers are too far apart.
pub fn reconciler<'a>(structure: &'a Structure, errors: &Errors) -> Result<(MinTrace<'a>, Weighed), ReconcileError> {
    let taken = errors.taken(structure.nodes());
    let past: Vec<Vec<f64>> = structure.names().iter().map(|name| errors.of(name, &taken)).collect();
    match ShrunkCovariance::estimate(structure, &past) {
        Ok(covariance) => {
            let (shrinkage, assumed) = (covariance.shrinkage(), covariance.variances().assumed.len());
            Ok((MinTrace::shrunk(structure, &covariance)?, Weighed::ByErrors { shrinkage, assumed }))
        }
        Err(ReconcileError::NoErrors) => Ok((MinTrace::structural(structure), Weighed::ByLeaves)),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use meterline_schemas::Frequency;
    use meterline_schemas::time::HOUR;

    use super::*;

    #[test]
    fn errors_of_all_series_are_of_the_same_intervals() {
        let series = vec![Series::new("a", 5 * HOUR, vec![1.0, 2.0, 3.0]), Series::new("b", 7 * HOUR, vec![4.0])];
        let panel = Panel::new(Frequency::HOUR, TimeZone::UTC, series);
        let errors = Errors::new(panel, 5 * HOUR, 4);
        let shown = |id: &str| format!("{:?}", errors.of(id, &errors.taken(3)));
        assert_eq!(shown("a"), "[1.0, 2.0, 3.0, NaN]");
        assert_eq!(shown("b"), "[NaN, NaN, 4.0, NaN]");
        assert_eq!(shown("c"), "[NaN, NaN, NaN, NaN]");
    }

    #[test]
    fn of_many_errors_some_are_taken() {
        for (horizon, nodes, taken) in [(48, 3, 48), (2 * ERRORS_MAX, 3, ERRORS_MAX), (193, 3, 97), (192, 1_000_000, 8)]
        {
            let errors = Errors { horizon, ..Errors::none() };
            assert_eq!(errors.taken(nodes).len(), taken, "{horizon} of {nodes}");
        }
    }

    #[test]
    fn what_was_never_off_keeps_its_forecast_and_without_errors_all_leaves_move_alike() {
        let structure = Structure::new(&["a", "b"], &[("top", vec!["a", "b"])]).unwrap();
        let base = [1.0, 0.0, 4.0];
        let (none, how) = reconciler(&structure, &Errors::none()).unwrap();
        let found = none.reconcile(&base, meterline_models::reconcile::Range::Any).unwrap();
        assert_eq!((found[0] - 1.0, how), (found[1], Weighed::ByLeaves));
        let hours = |id: &str, values: [f32; 4]| Series::new(id, 0, values.to_vec());
        let series =
            vec![hours("a", [1.0, -1.0, 2.0, -2.0]), hours("b", [0.0; 4]), hours("top", [1.0, -2.0, 1.0, 2.0])];
        let errors = Errors::new(Panel::new(Frequency::HOUR, TimeZone::UTC, series), 0, 4);
        let (weighed, how) = reconciler(&structure, &errors).unwrap();
        let found = weighed.reconcile(&base, meterline_models::reconcile::Range::Any).unwrap();
        assert!(found[1].abs() < 1e-3 && found[0] > 1.5, "{found:?}");
        assert!(matches!(how, Weighed::ByErrors { assumed: 1, .. }), "{how:?}");
    }
}
