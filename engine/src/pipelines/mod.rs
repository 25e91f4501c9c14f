//! The two pipelines. A run is a child process that executes the steps of one of them, records what it does, and ends;
//! nothing stays resident between runs.
//!
//! * [`spec`]: what a run is asked to do, complete: the same specification gives the same result;
//! * [`runner`]: in the engine: queue, device slots, child processes, and what to do when one dies;
//! * [`child`]: in the child: executes the steps from the first unfinished one;
//! * [`graph`]: the steps of both pipelines as plain values;
//! * [`build`]: preprocess ▸ train ▸ evaluate ▸ gate ▸ register, one file a step;
//! * [`infer`]: load ▸ context ▸ predict ▸ guard ▸ reconcile ▸ publish, one file a step;
//! * [`history`], [`artifacts`]: what passes between the steps: series on a grid and forecasts, as Parquet in the lake;
//! * [`covariates`], [`labels`]: what is known beside the series, and what is said of each;
//! * [`progress`]: a run's progress as one line for people; [`manual`]: runs that a person asks for.
//!
//! A step's output is a small JSON value in the metadata database; what is big is an artifact that the output names.
//! A step that succeeded is not repeated when a run goes on after a crash. `lock` says who executes a run and who sees
//! to it, `sweep` deletes the artifacts of runs that have ended.

pub mod artifacts;
pub mod build;
pub mod child;
pub mod context;
pub mod correct;
pub mod covariates;
pub mod error;
pub mod graph;
pub mod history;
pub mod infer;
pub mod labels;
mod lock;
pub mod manual;
pub mod members;
mod model;
mod process;
pub mod progress;
pub mod recorder;
pub mod runner;
pub mod spec;
pub mod stop;
mod sweep;

pub use error::{RunError, StepError};
pub use runner::{Runner, cancel};
pub use stop::Stop;

/// What `model_version` says where seasonal naive stands in for a model.
pub const SEASONAL_NAIVE: &str = "seasonal_naive";
