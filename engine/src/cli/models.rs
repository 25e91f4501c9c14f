//! `meterline models`: the registry.

use std::collections::{BTreeMap, BTreeSet};

use meterline_models::registry::{KINDS, Kind};
use meterline_schemas::time::format_micros;
use serde_json::{Value, json};

use super::table::render;
use super::{CommandError, CommandResult, ConfigArg, Context, explanation};
use crate::environment::Environment;
use crate::ingest::groups::groups;
use crate::ingest::load_committed;
use crate::metadata::alias;
use crate::metadata::records::{ApprovalState, ModelRecord};

/// Arguments of `meterline models`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// All versions, newest first
    List {
        #[command(flatten)]
        config: ConfigArg,
    },
    /// One version, with its figures and lineage
    Show {
        /// Version, such as PT15M-0001
        version: String,
        #[command(flatten)]
        config: ConfigArg,
    },
    /// What a version says of itself: what it weighs, and what it learned
    Explain {
        /// Version, such as PT15M-0001
        version: String,
        #[command(flatten)]
        config: ConfigArg,
    },
    /// The kinds of models that there are, for `[policy.NAME.model] kind`, and their settings
    Kinds,
    /// Let a version serve; the newest approved version of a group is its champion
    Approve(Judgement),
    /// Keep a version from serving
    Reject(Judgement),
    /// Reject the champion of a group, so that the version approved before it serves again
    Rollback {
        /// Model group, such as PT15M
        group: String,
        /// Why, for the record
        #[arg(long, default_value = "rolled back by hand")]
        reason: String,
        #[command(flatten)]
        config: ConfigArg,
    },
}

#[derive(Debug, clap::Args)]
struct Judgement {
    /// Version, such as PT15M-0001
    version: String,
    /// Why, for the record
    #[arg(long, default_value = "by hand")]
    reason: String,
    #[command(flatten)]
    config: ConfigArg,
}

/// Runs the command.
///
/// # Errors
/// The configuration or the metadata database cannot be read; the version or group is unknown.
pub async fn run(args: Args, context: &Context) -> CommandResult {
    match args.action {
        Action::Kinds => {
            if context.json {
                let kinds = KINDS.iter().map(|kind| {
                    json!({
                        "kind": kind.name, "about": kind.about, "sees": kind.sees.words(), "settings": settings(kind)
                    })
                });
                return context.print_json(&kinds.collect::<Vec<Value>>());
            }
            let rows: Vec<Vec<String>> =
                KINDS.iter().map(|kind| [kind.name, kind.sees.words(), kind.about].map(str::to_owned).into()).collect();
            let of_settings = KINDS.iter().flat_map(|kind| {
                settings(kind).into_iter().map(|(name, range)| vec![kind.name.to_owned(), name, range])
            });
            let of_settings: Vec<Vec<String>> = of_settings.collect();
            context.print(&format!(
                "{}\n\n{}",
                render(&["kind", "makes use of", "what it is"], &rows),
                render(&["kind", "setting", "what it may be"], &of_settings)
            ))
        }
        Action::List { config } => {
            let env = Environment::open(&config.config).await?;
            let models = env.metadata.models().await?;
            if context.json {
                let shown: Vec<Value> = models.iter().map(|m| with_alias(&models, m)).collect();
                return context.print_json(&shown);
            }
            context.print(&list(&models, &models))
        }
        Action::Show { version, config } => {
            let env = Environment::open(&config.config).await?;
            let models = env.metadata.models().await?;
            let Some(model) = models.iter().find(|m| m.version == version) else {
                return Err(CommandError::unknown_version(&version));
            };
            if context.json {
                return context.print_json(&with_alias(&models, model));
            }
            context.print(&show(&models, model))
        }
        Action::Explain { version, config } => {
            let env = Environment::open(&config.config).await?;
            if env.metadata.model(&version).await?.is_none() {
                return Err(CommandError::unknown_version(&version));
            }
            let rows = env.metadata.explanation(&version).await?;
            if context.json {
                return context.print_json(&rows);
            }
            match rows.is_empty() {
                true => context.print(&format!(
                    "{version} says nothing of itself: its model has nothing to tell, or an earlier release built it"
                )),
                false => context.print(&explanation::table(&rows)),
            }
        }
        Action::Approve(judgement) => judge(judgement, ApprovalState::Approved, context).await,
        Action::Reject(judgement) => judge(judgement, ApprovalState::Rejected, context).await,
        Action::Rollback { group, reason, config } => {
            let env = Environment::open(&config.config).await?;
            let Some(champion) = env.metadata.champion(&group).await? else {
                return Err(nothing_to_roll_back(&env, &group).await?);
            };
            env.metadata.set_approval(&champion.version, ApprovalState::Rejected, &reason).await?;
            let now = env.metadata.champion(&group).await?.map(|m| m.version);
            if context.json {
                return context.print_json(&json!({"group_id": group, "rejected": champion.version, "champion": now}));
            }
            let now = now.unwrap_or_else(|| "seasonal_naive".to_owned());
            context.print(&format!("{} is rejected; from the next forecast on {now} serves {group}", champion.version))
        }
    }
}

/// The settings of a kind, each with what it may be.
fn settings(kind: &Kind) -> BTreeMap<String, String> {
    let parameters = kind.tuning.as_ref().map(|tuning| (tuning.parameters)()).unwrap_or_default();
    parameters.into_iter().map(|parameter| (parameter.name, parameter.domain.to_string())).collect()
}

async fn judge(judgement: Judgement, approval: ApprovalState, context: &Context) -> CommandResult {
    let env = Environment::open(&judgement.config.config).await?;
    let Some(model) = env.metadata.set_approval(&judgement.version, approval, &judgement.reason).await? else {
        return Err(CommandError::unknown_version(&judgement.version));
    };
    if context.json {
        return context.print_json(&with_alias(&env.metadata.models().await?, &model));
    }
    context.print(&format!("{} is {} ({})", model.version, approval.as_str(), judgement.reason))
}

/// Why a group without a champion cannot be rolled back: it has no approved version, or does not exist.
async fn nothing_to_roll_back(env: &Environment, group: &str) -> CommandResult<CommandError> {
    let mut known: BTreeSet<String> = env.metadata.models().await?.into_iter().map(|m| m.group_id).collect();
    if let Some(committed) = load_committed(&env.lake, &env.config, env.directory()).await? {
        known.extend(groups(&committed.state, &committed.census, &env.config).into_iter().map(|g| g.group_id));
    }
    if known.contains(group) {
        return Ok(CommandError::failed(format!(
            "group `{group}` has no approved version to roll back; `meterline models list` shows its versions"
        )));
    }
    Ok(CommandError::unknown_group(group, &known.into_iter().collect::<Vec<_>>()))
}

fn with_alias(models: &[ModelRecord], model: &ModelRecord) -> Value {
    let mut value = json!(model);
    value["alias"] = json!(alias(models, model));
    value
}

fn figure(model: &ModelRecord, name: &str) -> String {
    model.metrics.get(name).and_then(Value::as_f64).map_or_else(|| "-".to_owned(), |v| format!("{v:.4}"))
}

/// The versions `shown`, of all `models`: which of them serves depends on the others.
fn list(models: &[ModelRecord], shown: &[ModelRecord]) -> String {
    let rows: Vec<Vec<String>> = shown
        .iter()
        .map(|m| {
            vec![
                m.version.clone(),
                m.group_id.clone(),
                alias(models, m).unwrap_or("-").to_owned(),
                m.approval.as_str().to_owned(),
                figure(m, "wql"),
                figure(m, "naive_wql"),
                figure(m, "mase"),
                figure(m, "coverage"),
                format_micros(m.trained_until),
                m.approval_reason.clone(),
            ]
        })
        .collect();
    let header =
        ["version", "group", "alias", "approval", "wql", "naive wql", "mase", "coverage", "trained until", "reason"];
    render(&header, &rows)
}

fn show(models: &[ModelRecord], model: &ModelRecord) -> String {
    let mut lines = vec![list(models, std::slice::from_ref(model)), String::new()];
    lines.push(format!("forecaster         {}", model.forecaster));
    lines.push(format!("built by run       {}", model.run_id));
    lines.push(format!("artifact           {}", model.artifact));
    lines.push(format!("intervals version  {}", model.intervals_version));
    lines.push(format!("registered         {}", format_micros(model.created_at)));
    lines.extend(model.metrics.iter().map(|(name, value)| format!("  {name} = {value}")));
    lines.join("\n")
}
