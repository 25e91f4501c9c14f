//! One file or folder a model.

pub mod quantile_mlp;
pub mod seasonal_naive;
