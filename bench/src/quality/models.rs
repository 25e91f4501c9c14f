//! Models by name, fitted with their progress shown.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::Instant;

use meterline_models::data::Panel;
use meterline_models::forecaster::{Done, Forecaster, Model, Task};
use meterline_models::forecasters::classical::Classical;
use meterline_models::registry;
use meterline_models::statistics::Method;

/// A fitted model.
pub struct Fitted {
    /// It.
    pub model: Box<dyn Forecaster>,
    /// How long that took.
    pub seconds: f64,
}

/// Fits a kind of the registry, or a classical model, which fits itself anew at each origin; `on` is what it is fitted
/// to, for whoever waits.
///
/// # Errors
/// There is no such model, or it cannot be fitted to this.
pub fn fit(name: &str, on: &str, known: &Panel, task: &Task) -> Result<Fitted, String> {
    let model = find(name)?;
    let begun = Instant::now();
    let mut shown = -1;
    let mut progress = |done: Done<'_>| {
        let tenths = (10.0 * done.share) as i32;
        if tenths > shown {
            shown = tenths;
            eprint!("\r{on} {name} {:3} % ", 10 * tenths);
        }
        ControlFlow::Continue(())
    };
    let fitted = model.fit(known, task, &mut progress).map_err(|error| format!("{on}: {error}"))?;
    eprintln!();
    if let Some(report) = fitted.report() {
        eprintln!("{on} {name}: {report}");
    }
    Ok(Fitted { model: fitted, seconds: begun.elapsed().as_secs_f64() })
}

fn find(name: &str) -> Result<Box<dyn Model>, String> {
    let kind = registry::find(name).map(registry::Kind::model);
    let method = || Method::ALL.into_iter().find(|method| method.name() == name);
    kind.or_else(|| Some(Box::new(Classical { method: method()? }))).ok_or_else(|| {
        let mut names: BTreeSet<&str> = Method::ALL.map(Method::name).into();
        names.extend(registry::KINDS.iter().map(|kind| kind.name));
        let names: Vec<&str> = names.into_iter().collect();
        format!("there is no model `{name}`: choose among {}", names.join(", "))
    })
}
