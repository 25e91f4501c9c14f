//! One file or folder a model.

pub mod adjusted;
pub mod auto;
mod basis;
pub mod boosted_trees;
pub mod classical;
pub(crate) mod direct;
pub mod feature_mlp;
pub mod guarded;
#[cfg(test)]
mod label_tests;
pub mod linear_quantile;
mod neural;
pub mod non_negative;
pub mod quantile_mlp;
pub mod seasonal_naive;
#[cfg(test)]
mod sun_tests;
pub mod window_linear;
