//! Registered models as forecasters again.

use meterline_connectors::lake::LakeError;
use meterline_models::artifact::ArtifactError;
use meterline_models::forecaster::Forecaster;
use meterline_models::{device, registry};

use super::context::StepContext;
use super::error::{Doing, StepError};

/// Loads the weights at `artifact` onto the run's device. `version` names them in the error.
///
/// The outer error is that of the run: the lake or the device. The inner one is that of the artifact itself: it is
/// missing, damaged, or in the format of another release, and will be the next time.
pub async fn load(
    ctx: &StepContext,
    version: &str,
    artifact: &str,
) -> Result<Result<Box<dyn Forecaster>, StepError>, StepError> {
    let doing = format!(
        "loading the model {version} from {artifact} (`meterline models reject` takes it out of service if it is damaged)"
    );
    let bytes = match ctx.env.lake.get_object(artifact).await {
        Ok(bytes) => bytes,
        Err(missing @ LakeError::NotFound { .. }) => return Ok(Err(StepError::failed(doing, missing))),
        Err(error) => return Err(StepError::failed(doing, error)),
    };
    let wanted = ctx.spec.device.clone();
    ctx.blocking(move || {
        let device = device::resolve(&wanted).doing(|| format!("taking the device `{wanted}`"))?;
        match registry::load(&bytes, device) {
            Err(error @ ArtifactError::Device(_)) => Err(StepError::failed(doing, error)),
            loaded => Ok(loaded.doing(|| doing)),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::pipelines::context::tests::step_context;
    use crate::pipelines::spec::tests::environment;

    #[tokio::test]
    async fn an_artifact_of_no_use_is_told_from_a_device_that_is_not_there() {
        let directory = tempfile::tempdir().unwrap();
        let env = environment(directory.path()).await;
        env.lake.put_object("damaged", "meterline").await.unwrap();
        env.lake.put_object("newer", "meterline quantile_mlp 999\n{}\n").await.unwrap();
        let mut ctx = step_context(env, "predict").await;
        for (artifact, words) in [("none", "no object"), ("damaged", "is damaged"), ("newer", "has format 999")] {
            let error = load(&ctx, "PT1H-0001", artifact).await.unwrap().err().unwrap().to_string();
            assert!(error.contains("PT1H-0001") && error.contains(words), "{error}");
        }
        Arc::make_mut(&mut ctx.spec).device = "abacus".into();
        let error = load(&ctx, "PT1H-0001", "newer").await.err().unwrap().to_string();
        assert!(error.contains("`abacus`"), "{error}");
    }
}
