//! Registered models as forecasters again.

use meterline_models::device;
use meterline_models::forecasters::quantile_mlp::QuantileMlp;

use super::artifacts;
use super::context::StepContext;
use super::error::{Doing, StepError};

/// Loads the weights at `artifact` onto the run's device. `version` names them in the error.
pub async fn load(ctx: &StepContext, version: &str, artifact: &str) -> Result<QuantileMlp, StepError> {
    let bytes = artifacts::get(&ctx.env.lake, artifact).await?;
    let (version, artifact, wanted) = (version.to_owned(), artifact.to_owned(), ctx.spec.device.clone());
    ctx.blocking(move || {
        let device = device::resolve(&wanted).doing(|| format!("taking the device `{wanted}`"))?;
        QuantileMlp::from_bytes(&bytes, &device).doing(|| {
            format!(
                "loading the model {version} from {artifact} (`meterline models reject` takes it out of service if it \
                 is damaged)"
            )
        })
    })
    .await
}
