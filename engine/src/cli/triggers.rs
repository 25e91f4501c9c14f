//! `meterline triggers`: what the policies are, and why they did or did not start a run.

use meterline_schemas::config::resolve_policy;
use meterline_schemas::time::format_micros;
use serde::Serialize;
use serde_json::{Value, json};

use super::table::render;
use super::{CommandError, CommandResult, ConfigArg, Context};
use crate::environment::Environment;
use crate::ingest::load_committed;
use crate::metadata::records::DecisionRecord;
use crate::triggers::decide::{CompiledTrigger, Verdict, decide, tell, word};
use crate::triggers::facts::{FactSource, GroupFacts};
use crate::triggers::trigger_of;

/// Arguments of `meterline triggers`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// The policy of every model group, its source, and how its triggers stand
    List {
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Why a group's triggers did or did not start a run
    Explain {
        /// Model group, such as PT15M
        group: String,
        /// Only this trigger
        #[arg(long, value_parser = ["retrain", "reforecast"])]
        trigger: Option<String>,
        #[command(flatten)]
        config: ConfigArg,
    },
}

/// One trigger of one group as it stands now.
#[derive(Debug, Serialize)]
struct Standing {
    group_id: String,
    trigger: &'static str,
    /// `default`, or the policy's name in the configuration.
    source: String,
    when: String,
    require: String,
    cooldown: String,
    max_age: Option<String>,
    origin: String,
    /// What would be decided now.
    would_fire: bool,
    reason: String,
    clauses: Vec<Value>,
    facts: serde_json::Map<String, Value>,
    last_fired: Option<Value>,
    last_decision: Option<Value>,
}

/// Runs the command.
///
/// # Errors
/// The configuration, the lake or the metadata database cannot be read; the group is unknown.
pub async fn run(args: Args, context: &Context) -> CommandResult {
    match args.action {
        Action::List { config } => {
            let env = Environment::open(&config.config).await?;
            let standings = standings(&env, None, None).await?;
            if context.json {
                return context.print_json(&standings);
            }
            if standings.is_empty() {
                return context.print("no model group yet: a group forms when the frequency of a series is known");
            }
            context.print(&list(&standings))
        }
        Action::Explain { group, trigger, config } => {
            let env = Environment::open(&config.config).await?;
            let standings = standings(&env, Some(&group), trigger.as_deref()).await?;
            if context.json {
                return context.print_json(&standings);
            }
            let told: Vec<String> = standings.iter().map(explain).collect();
            context.print(&told.join("\n\n"))
        }
    }
}

async fn standings(env: &Environment, group: Option<&str>, trigger: Option<&str>) -> CommandResult<Vec<Standing>> {
    let all = match load_committed(&env.lake, &env.config).await? {
        Some(committed) => FactSource::default().assemble(env, &committed).await?,
        None => Vec::new(),
    };
    if let Some(group) = group
        && !all.iter().any(|f| f.group.group_id == group)
    {
        let mut known: Vec<String> = all.iter().map(|f| f.group.group_id.clone()).collect();
        // One row a trigger.
        known.dedup();
        return Err(CommandError::unknown_group(group, &known));
    }
    let mut standings = Vec::new();
    for facts in all {
        let wanted =
            group.is_none_or(|g| g == facts.group.group_id) && trigger.is_none_or(|t| t == facts.pipeline.trigger());
        if wanted {
            standings.push(standing(env, facts).await?);
        }
    }
    Ok(standings)
}

async fn standing(env: &Environment, of: GroupFacts) -> CommandResult<Standing> {
    let policy = resolve_policy(of.group.frequency, &env.config.policy);
    let trigger = trigger_of(&policy, of.pipeline);
    let compiled = CompiledTrigger::compile(trigger)?;
    let Verdict { fired, reason, clauses } =
        decide(&compiled, &of.facts.values, &of.history, of.group.origin, jiff::Timestamp::now().as_microsecond())?;
    let last = |fired| env.metadata.last_decision(&of.group.group_id, of.pipeline, fired);
    let (last_fired, last_decision) = (last(true).await?, last(false).await?);
    let clauses = clauses
        .iter()
        .map(|c| json!({"part": c.part, "clause": c.clause, "truth": word(c.truth), "told": tell(c, &of.facts.values)}))
        .collect();
    Ok(Standing {
        group_id: of.group.group_id.clone(),
        trigger: of.pipeline.trigger(),
        source: policy.source.clone(),
        when: trigger.when.clone(),
        require: trigger.require.clone(),
        cooldown: trigger.cooldown.to_string(),
        max_age: trigger.max_age.map(|a| a.to_string()),
        origin: format_micros(of.group.origin),
        would_fire: fired,
        reason,
        clauses,
        facts: of.facts.values,
        last_fired: last_fired.as_ref().map(brief),
        last_decision: last_decision.as_ref().map(brief),
    })
}

fn brief(decision: &DecisionRecord) -> Value {
    json!({
        "at": format_micros(decision.at),
        "origin": format_micros(decision.origin),
        "commit_seq": decision.commit_seq,
        "fired": decision.fired,
        "reason": decision.reason,
        "run_id": decision.run_id,
    })
}

fn list(standings: &[Standing]) -> String {
    let rows: Vec<Vec<String>> = standings
        .iter()
        .map(|s| {
            let fired = s.last_fired.as_ref().and_then(|d| d["origin"].as_str()).unwrap_or("never");
            vec![
                s.group_id.clone(),
                s.trigger.to_owned(),
                s.source.clone(),
                s.when.clone(),
                if s.require.is_empty() { "-".to_owned() } else { s.require.clone() },
                s.cooldown.clone(),
                s.max_age.clone().unwrap_or_else(|| "-".to_owned()),
                fired.to_owned(),
                if s.would_fire { "due".to_owned() } else { s.reason.clone() },
            ]
        })
        .collect();
    let header =
        ["group", "trigger", "policy", "when", "require", "cooldown", "max_age", "last fired (stream time)", "now"];
    render(&header, &rows)
}

fn explain(s: &Standing) -> String {
    let mut lines = vec![format!("{} {} (policy: {}), at stream time {}", s.group_id, s.trigger, s.source, s.origin)];
    lines.push(if s.would_fire { format!("  is due: {}", s.reason) } else { format!("  is not due: {}", s.reason) });
    for clause in &s.clauses {
        let mark = match clause["truth"].as_str() {
            Some("true") => "✓",
            Some("false") => "✗",
            _ => "?",
        };
        let text = |name: &str| clause[name].as_str().unwrap_or_default().to_owned();
        lines.push(format!("    {mark} {:<8} {}", text("part"), text("told")));
    }
    let told = |name: &str, decision: &Option<Value>| match decision {
        Some(d) => {
            let run = d["run_id"].as_str().map_or(String::new(), |r| format!(", run {r}"));
            format!(
                "  {name} at {}: {}{run}",
                d["at"].as_str().unwrap_or_default(),
                d["reason"].as_str().unwrap_or_default()
            )
        }
        None => format!("  {name}: never"),
    };
    lines.push(told("last fired", &s.last_fired));
    lines.push(told("last decision", &s.last_decision));
    lines.join("\n")
}
