//! `meterline plan`: what a configuration would change, before it does.

use serde_json::json;

use super::table::render;
use super::{CommandResult, ConfigArg, Context};
use crate::environment::Environment;
use crate::triggers::plan::{GroupPlan, ModelPlan, plan};

/// Arguments of `meterline plan`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: ConfigArg,
}

/// Compares a configuration with what the last runs of each group went by, and says what it would do now.
///
/// # Errors
/// The configuration, the lake or the metadata database cannot be read.
pub async fn run(args: Args, context: &Context) -> CommandResult {
    let env = Environment::open(&args.config.config).await?;
    let plans = plan(&env, jiff::Timestamp::now().as_microsecond()).await?;
    if context.json {
        return context.print_json(&json!({ "groups": plans }));
    }
    if plans.is_empty() {
        return context.print("no model group yet: a group forms when the frequency of a series is known");
    }
    let told: Vec<String> = plans.iter().map(tell).collect();
    context.print(&told.join("\n\n"))?;
    let series: usize = plans.iter().map(|plan| plan.series_to_reforecast).sum();
    let runs = plans.iter().flat_map(|plan| &plan.triggers).filter(|trigger| trigger.fires).count();
    let seconds: Option<f64> = plans.iter().map(|plan| plan.device_seconds).sum();
    let device = seconds.map_or("time on the device not known".to_owned(), |s| format!("about {s:.0} s on the device"));
    context.print(&format!("\nRuns that would start at once: {runs}; series that would be forecast anew: {series}; {device}. Nothing was changed."))
}

fn tell(plan: &GroupPlan) -> String {
    let mut lines = vec![format!("{} (policy: {})", plan.group_id, plan.source)];
    if !plan.had_runs {
        lines.push("  policy: it had no run yet to compare with".to_owned());
    } else if plan.changes.is_empty() {
        lines.push("  policy: as in its last runs".to_owned());
    } else {
        let rows: Vec<Vec<String>> = plan
            .changes
            .iter()
            .map(|change| vec![format!("  {}", change.key), change.was.to_string(), change.is.to_string()])
            .collect();
        lines.push(render(&["  key", "in its last runs", "would be"], &rows));
    }
    lines.push(match &plan.model {
        ModelPlan::None => "  model: there is none; seasonal naive stands in".to_owned(),
        ModelPlan::Serves { version, waits } if waits.is_empty() => format!("  model: {version} goes on serving"),
        ModelPlan::Serves { version, waits } => {
            format!("  model: {version} goes on serving; from the next model on count {}", waits.join(", "))
        }
        ModelPlan::Invalid { version, why } => format!("  model: {version} could not serve any more: {why}"),
    });
    for trigger in &plan.triggers {
        let what = if trigger.fires { "starts a run at once" } else { "starts no run now" };
        lines.push(format!("  {}: {what}: {}", trigger.trigger, trigger.reason));
        if !trigger.fires {
            lines.push(format!("    could start next: {}", trigger.next));
        }
    }
    lines.join("\n")
}
