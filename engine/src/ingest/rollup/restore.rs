//! What roll-ups start with: what the last commit remembers, and the files of labels.

use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use meterline_connectors::files::labels;
use meterline_schemas::config::Config;

use super::super::error::IngestError;
use super::super::load::{States, each_member, load_said};
use super::super::state::IngestState;
use super::LabelChange;
use super::coordinate::groups_state;
use super::member::MemberState;
use super::parents::GroupsState;
use super::plan::Plan;
use super::saved::Givers;

/// What the roll-ups of a stream start with.
pub struct Start {
    /// The roll-ups.
    pub plan: Arc<Plan>,
    /// Names behind numbers.
    pub givers: Arc<Givers>,
    /// Series, each with the commit whose segment holds it.
    pub members: Vec<(MemberState, i64)>,
    /// Labels that hold from the first epoch on.
    pub labels: Vec<LabelChange>,
    /// The groups.
    pub groups: GroupsState,
}

/// What a configuration starts with after a commit; `None` where it has no roll-ups. Relative paths of files are below
/// `directory`.
///
/// # Errors
/// A segment or a file of labels cannot be read.
pub async fn start(
    config: &Config,
    directory: &Path,
    from: States<'_>,
    state: &IngestState,
) -> Result<Option<Start>, IngestError> {
    let zone = |error| IngestError::Fault(format!("the zone of a roll-up: {error}"));
    let plan = Arc::new(Plan::new(config).map_err(zone)?);
    if plan.is_empty() {
        return Ok(None);
    }
    let givers = Arc::new(Givers::new(config));
    let mut members = Vec::new();
    each_member(from, state, |saved, written| members.push((givers.restore(&saved), written))).await?;
    let said = load_said(from, state).await?;
    let mut labels: Vec<LabelChange> = said.into_iter().filter_map(|saved| givers.restore_said(saved)).collect();
    let (config, directory) = (config.clone(), directory.to_owned());
    let reading = tokio::task::spawn_blocking(move || files(&config, &directory));
    labels.extend(reading.await.map_err(|error| IngestError::Fault(format!("reading the files of labels: {error}")))??);
    let groups = groups_state(&plan, state);
    Ok(Some(Start { plan, givers, members, labels, groups }))
}

/// What the files of labels of a configuration say; relative paths are below `directory`. Of two that say something of the
/// same instant the newer one counts.
///
/// # Errors
/// One cannot be read.
pub fn files(config: &Config, directory: &Path) -> Result<Vec<LabelChange>, IngestError> {
    let mut all = Vec::new();
    for (number, (name, source)) in (0..).zip(&config.labels) {
        let Some(file) = &source.file else { continue };
        let path = directory.join(file);
        let records =
            labels::read(&path, source).map_err(|source| IngestError::Labels { name: name.clone(), source })?;
        // A file system that does not tell is one whose files never change.
        let modified = std::fs::metadata(&path).and_then(|about| about.modified()).unwrap_or(UNIX_EPOCH);
        let modified_ms = modified.duration_since(UNIX_EPOCH).map_or(0, |age| age.as_millis() as i64);
        tracing::info!(source = name, path = %path.display(), rows = records.len(), "read a file of labels");
        all.extend(LabelChange::of_file(number, records, modified_ms));
    }
    Ok(all)
}
