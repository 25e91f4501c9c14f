//! Runs and models of all groups, remembered between evaluations: what changed is read again, and nothing else. With a
//! thousand groups, reading everything would take longer than deciding.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use meterline_schemas::Micros;
use meterline_schemas::time::MINUTE;

use crate::metadata::records::{ModelRecord, Pipeline, RunRecord};
use crate::metadata::{MetadataError, MetadataStore};

/// Runs of a pipeline that are looked back at for failures in a row.
const RUNS_LOOKED_AT: i64 = 70;
/// Model versions that are looked back at for what retraining gained.
const MODELS_LOOKED_AT: i64 = 20;
/// How far back new runs are looked for: what was asked for so long before the newest one may have been recorded after it,
/// because each process takes the time before it writes, and may wait for the database.
const OVERLAP: Micros = 2 * MINUTE;

/// What the metadata database says of all groups at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Present {
    /// The runs under way.
    pub active: Vec<RunRecord>,
    /// The version that serves each group.
    pub champions: BTreeMap<String, String>,
}

impl Present {
    /// What it says now.
    ///
    /// # Errors
    ///
    /// [`MetadataError`].
    pub async fn read(metadata: &MetadataStore) -> Result<Present, MetadataError> {
        Ok(Present { active: metadata.active_runs().await?, champions: metadata.champions().await? })
    }
}

/// What there is of one group, newest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct OfGroup {
    pub(super) builds: Vec<RunRecord>,
    pub(super) infers: Vec<RunRecord>,
    pub(super) corrects: Vec<RunRecord>,
    pub(super) models: Vec<ModelRecord>,
    pub(super) champion: Option<ModelRecord>,
}

/// What was read so far.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    groups: HashMap<String, OfGroup>,
    // Groups with a run under way: it ends, and is another one then.
    active: BTreeSet<String>,
    champions: BTreeMap<String, String>,
    // The newest runs that were there at the last look.
    newest: HashSet<String>,
}

impl Remembered {
    /// Reads again what may have changed: of groups that have or had a run under way, that have a new run (of another
    /// process, which may have ended already), or another champion.
    ///
    /// # Errors
    ///
    /// [`MetadataError`]: what was read stays.
    pub(super) async fn refresh(&mut self, metadata: &MetadataStore, present: &Present) -> Result<(), MetadataError> {
        let Present { active, champions } = present;
        let now_active: BTreeSet<String> = active.iter().map(|run| run.spec.group_id.clone()).collect();
        let newest = metadata.newest_runs(OVERLAP).await?;
        let started: BTreeSet<String> =
            newest.iter().filter(|(run, _)| !self.newest.contains(run)).map(|(_, group)| group.clone()).collect();
        let differs = |group: &&String| champions.get(*group) != self.champions.get(*group);
        let others = champions.keys().chain(self.champions.keys()).filter(differs);
        let changed: BTreeSet<&String> = self.active.iter().chain(&now_active).chain(&started).chain(others).collect();
        for group in changed {
            // Those that nobody has asked for yet are read when somebody does.
            if self.groups.contains_key(group) {
                let read = read(metadata, group).await?;
                self.groups.insert(group.clone(), read);
            }
        }
        self.newest = newest.into_iter().map(|(run, _)| run).collect();
        self.active = now_active;
        if self.champions != *champions {
            self.champions.clone_from(champions);
        }
        Ok(())
    }

    /// What there is of a group, as of the last refresh.
    ///
    /// # Errors
    ///
    /// [`MetadataError`].
    pub(super) async fn of(&mut self, metadata: &MetadataStore, group: &str) -> Result<&OfGroup, MetadataError> {
        if !self.groups.contains_key(group) {
            let read = read(metadata, group).await?;
            self.groups.insert(group.to_owned(), read);
        }
        Ok(self.groups.entry(group.to_owned()).or_default())
    }
}

async fn read(metadata: &MetadataStore, group: &str) -> Result<OfGroup, MetadataError> {
    Ok(OfGroup {
        builds: metadata.group_runs(group, Pipeline::Build, RUNS_LOOKED_AT).await?,
        infers: metadata.group_runs(group, Pipeline::Infer, RUNS_LOOKED_AT).await?,
        corrects: metadata.group_runs(group, Pipeline::Correct, RUNS_LOOKED_AT).await?,
        models: metadata.group_models(group, MODELS_LOOKED_AT).await?,
        champion: metadata.champion(group).await?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::records::{ApprovalState, Status};
    use crate::pipelines::spec::tests::{queued, spec};
    use crate::triggers::facts::tests::champion;
    use meterline_schemas::time::HOUR;
    use serde_json::json;

    #[tokio::test]
    async fn what_changed_is_read_again_whoever_changed_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = MetadataStore::open(&format!("sqlite:{}/metadata.db", dir.path().display())).await.unwrap();
        let mut remembered = Remembered::default();
        let mut run = queued(spec("r1"));
        run.created_at = 10 * HOUR;
        store.insert_run(&run).await.unwrap();
        let look = async |remembered: &mut Remembered| {
            remembered.refresh(&store, &Present::read(&store).await.unwrap()).await.unwrap();
            let of = remembered.of(&store, "PT1H").await.unwrap();
            let runs: Vec<_> = of.infers.iter().map(|run| (run.spec.run_id.clone(), run.status)).collect();
            (runs, of.champion.as_ref().map(|champion| champion.version.clone()))
        };
        assert_eq!(look(&mut remembered).await, (vec![("r1".into(), Status::Queued)], None));
        run.status = Status::Succeeded;
        store.update_run(&run).await.unwrap();
        assert_eq!(look(&mut remembered).await.0, [("r1".into(), Status::Succeeded)]);
        // Begun and ended between two looks.
        let mut other = queued(spec("r2"));
        (other.created_at, other.status) = (10 * HOUR - 1, Status::Succeeded);
        store.insert_run(&other).await.unwrap();
        assert_eq!(look(&mut remembered).await.0.len(), 2);
        store.register_model(&champion(HOUR, json!(1.0)), &[]).await.unwrap();
        assert_eq!(look(&mut remembered).await.1, Some("PT1H-0001".into()));
        store.set_approval("PT1H-0001", ApprovalState::Rejected, "no").await.unwrap();
        assert_eq!(look(&mut remembered).await.1, None);
    }
}
