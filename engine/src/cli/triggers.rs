//! `meterline triggers`: what the policies are, and why they did or did not start a run.

use std::collections::BTreeMap;
use std::sync::Arc;

use meterline_schemas::Micros;
use meterline_schemas::config::{ResolvedTrigger, resolve_group_policy};
use meterline_schemas::facts::{FactValue, FactValues};
use meterline_schemas::length::Length;
use meterline_schemas::time::{HOUR, SECOND, Span, format_micros};
use serde::Serialize;
use serde_json::{Value, json};

use super::table::render;
use super::{CommandError, CommandResult, ConfigArg, Context, simulate};
use crate::environment::Environment;
use crate::ingest::load_committed;
use crate::metadata::records::{DecisionRecord, RunRecord, Standing};
use crate::triggers::decide::{Until, Verdict};
use crate::triggers::facts::{FactSource, GroupFacts};
use crate::triggers::next::Earliest;
use crate::triggers::now::look;
use crate::triggers::remembered::Present;
use crate::triggers::trigger_of;
use crate::triggers::words::{tell, word};

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
        #[arg(long, value_parser = ["retrain", "reforecast", "correct"])]
        trigger: Option<String>,
        #[command(flatten)]
        config: ConfigArg,
    },
    /// What the policies would have done, replayed over the past
    Simulate(simulate::Args),
}

/// One trigger of one group as it stands now.
#[derive(Debug, Serialize)]
struct Shown {
    group_id: String,
    trigger: &'static str,
    /// `default`, or the names of the policies in the configuration, the most specific first.
    source: String,
    settings: Vec<Setting>,
    origin: String,
    watermark: String,
    /// What would be decided now.
    would_fire: bool,
    reason: String,
    /// All that keeps a run from starting.
    blockers: Vec<Value>,
    /// When a run could start next.
    next: Value,
    clauses: Vec<Value>,
    facts: FactValues,
    last_fired: Option<Value>,
    last_decision: Option<Value>,
}

/// One key of a trigger's policy.
#[derive(Debug, Serialize)]
struct Setting {
    key: &'static str,
    value: String,
    /// `default` or `config`.
    source: &'static str,
}

/// Runs the command.
///
/// # Errors
/// The configuration, the lake or the metadata database cannot be read; the group is unknown.
pub async fn run(args: Args, context: &Context) -> CommandResult {
    match args.action {
        Action::Simulate(args) => simulate::run(args, context).await,
        Action::List { config } => {
            let env = Environment::open(&config.config).await?;
            let standings = shown(&env, None, None).await?;
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
            let standings = shown(&env, Some(&group), trigger.as_deref()).await?;
            if context.json {
                return context.print_json(&standings);
            }
            let told: Vec<String> = standings.iter().map(explain).collect();
            context.print(&told.join("\n\n"))
        }
    }
}

async fn shown(env: &Environment, group: Option<&str>, trigger: Option<&str>) -> CommandResult<Vec<Shown>> {
    let present = Present::read(&env.metadata).await?;
    let now = jiff::Timestamp::now().as_microsecond();
    let all = match load_committed(&env.lake, &env.config, env.directory()).await? {
        Some(committed) => {
            let env = Arc::new(env.clone());
            FactSource::default().assemble(&env, &committed, &present, now).await?
        }
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
    let standings: BTreeMap<_, _> = env.metadata.standings().await?.into_iter().collect();
    let mut shown = Vec::new();
    for facts in all {
        let wanted =
            group.is_none_or(|g| g == facts.group.group_id) && trigger.is_none_or(|t| t == facts.pipeline.trigger());
        if wanted {
            let standing = standings.get(&(facts.group.group_id.clone(), facts.pipeline));
            shown.push(show(env, facts, standing.cloned().unwrap_or_default(), &present.active, now).await?);
        }
    }
    Ok(shown)
}

async fn show(
    env: &Environment,
    of: GroupFacts,
    standing: Standing,
    active: &[RunRecord],
    now: Micros,
) -> CommandResult<Shown> {
    let group = &of.group;
    let policy = resolve_group_policy(&group.group_id, group.frequency, &env.config.policy);
    let (verdict, next) = look(&of, &policy, &standing, active, now)?;
    let last = |fired| env.metadata.last_decision(&group.group_id, of.pipeline, fired);
    let (last_fired, last_decision) = (last(true).await?, last(false).await?);
    let Verdict { fired, reason, clauses, blockers, facts, .. } = verdict;
    let facts = facts.unwrap_or_else(|| of.facts.values.clone());
    let clauses = clauses
        .iter()
        .map(|c| {
            let told = tell(c, &facts);
            json!({"part": c.part, "name": c.name, "clause": c.clause, "truth": word(c.truth), "told": told})
        })
        .collect();
    Ok(Shown {
        group_id: group.group_id.clone(),
        trigger: of.pipeline.trigger(),
        source: policy.source.clone(),
        settings: settings(trigger_of(&policy, of.pipeline)),
        origin: format_micros(group.origin),
        watermark: format_micros(group.watermark),
        would_fire: fired,
        reason,
        blockers: blockers
            .iter()
            .map(|blocker| json!({"kind": blocker.kind, "told": blocker.told, "until": until(blocker.until)}))
            .collect(),
        next: json!({"told": next.told(), "at": at(&next)}),
        clauses,
        facts,
        last_fired: last_fired.as_ref().map(brief),
        last_decision: last_decision.as_ref().map(brief),
    })
}

/// The keys of a trigger that say anything, and where they come from.
fn settings(trigger: &ResolvedTrigger) -> Vec<Setting> {
    let length = |length: Length| if length.is_zero() { String::new() } else { length.to_string() };
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let windows: Vec<String> =
        trigger.blackout.iter().map(|window| format!("{} from {}", window.length, window.start)).collect();
    let values = [
        ("when", trigger.when.to_string()),
        ("require", trigger.require.to_string()),
        ("hold_for", length(trigger.hold_for)),
        ("cooldown", length(trigger.cooldown)),
        ("max_age", text(&trigger.max_age.map(|age| age.to_string()))),
        ("schedule", text(&trigger.schedule.as_ref().map(ToString::to_string))),
        ("jitter", length(trigger.jitter)),
        ("max_concurrent", text(&trigger.max_concurrent.map(|most| most.to_string()))),
        ("blackout", windows.join(", ")),
        ("catch_up", trigger.catch_up.as_str().to_owned()),
        ("max_series", text(&trigger.max_series.map(|most| most.to_string()))),
        ("max_runs", text(&trigger.max_runs.map(|most| most.to_string()))),
        ("pause", if trigger.pause { "true".to_owned() } else { String::new() }),
    ];
    let is_said = |key: &str| trigger.configured.iter().any(|said| said == key);
    values
        .into_iter()
        .filter(|(key, value)| !value.is_empty() || is_said(key))
        .map(|(key, value)| Setting { key, value, source: if is_said(key) { "config" } else { "default" } })
        .collect()
}

/// What ends a blocker, in words.
fn until(until: Until) -> String {
    match until {
        Until::Stream(at) => format!("the readings reach {}", format_micros(at)),
        Until::Clock(at) => format_micros(at),
        Until::Run => "a run ends".to_owned(),
        Until::Facts => "the facts change".to_owned(),
        Until::Operator => "the configuration changes".to_owned(),
    }
}

fn at(next: &Earliest) -> Option<String> {
    match next {
        Earliest::Stream(at) | Earliest::Clock(at) => Some(format_micros(*at)),
        Earliest::Now | Earliest::Once(_) => None,
    }
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

fn list(all: &[Shown]) -> String {
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|s| {
            let fired = s.last_fired.as_ref().and_then(|d| d["origin"].as_str()).unwrap_or("never");
            let next = s.next["at"].as_str().or_else(|| s.next["told"].as_str()).unwrap_or_default();
            let row = [&s.group_id, s.trigger, &s.source, fired, next];
            row.map(str::to_owned).to_vec()
        })
        .collect();
    let mut text =
        render(&["group", "trigger", "policy", "last fired (stream time)", "could start next (stream time)"], &rows);
    for s in all {
        text.push_str(&format!("\n\n{} {}\n", s.group_id, s.trigger));
        let settings = s.settings.iter();
        let rows: Vec<Vec<String>> =
            settings.map(|of| vec![format!("  {}", of.key), of.value.clone(), of.source.to_owned()]).collect();
        text.push_str(&render(&["  key", "value", "source"], &rows));
    }
    text
}

fn explain(s: &Shown) -> String {
    let mut lines = vec![format!("{} {} (policy: {}), at stream time {}", s.group_id, s.trigger, s.source, s.origin)];
    if s.would_fire {
        lines.push(format!("  is due: {}", s.reason));
    } else {
        lines.push("  starts no run:".to_owned());
        for blocker in &s.blockers {
            let text = |name: &str| blocker[name].as_str().unwrap_or_default();
            lines.push(format!("    - {} (until {})", text("told"), text("until")));
        }
        lines.push(format!("  could start next: {}", s.next["told"].as_str().unwrap_or_default()));
    }
    for clause in &s.clauses {
        let mark = match clause["truth"].as_str() {
            Some("true") => "✓",
            Some("false") => "✗",
            _ => "?",
        };
        let text = |name: &str| clause[name].as_str().unwrap_or_default().to_owned();
        lines.push(format!("    {mark} {:<8} {}", text("part"), text("told")));
    }
    if let Some(hours) = s.facts.get("silent_hours").and_then(FactValue::as_f64) {
        let ago = Span((hours * HOUR as f64) as Micros / SECOND * SECOND);
        lines.push(format!(
            "  newest record: {ago} ago by the clock; where none comes, nothing closes and nothing is due"
        ));
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
