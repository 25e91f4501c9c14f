//! Gradient-boosted trees that predict many quantiles at once (or the mean).
//!
//! In the order in which data flows:
//!
//! * `matrix`: a table of features, and the rows to learn from;
//! * `params`: what to learn, and how;
//! * `bins`: each value becomes the number of its bin, one byte;
//! * `gradients`: what a split is chosen by: two gradients and a curvature a row that speak for all levels;
//! * `histogram`, `split`: their sums per bin, and the best split by them;
//! * `grow`: one tree, best leaf first;
//! * `leaves`: values of a tree's leaves, exact quantiles of the residuals, one a level;
//! * `train`: tree after tree, and when to stop;
//! * `tree`, `model`: what is kept, predictions and explanations.
//!
//! **One structure, many levels.** Usual boosters learn one model a level. Here a tree's structure is shared, only leaf
//! values differ: nine levels cost little more than one, splits have the support of all levels, and quantiles cross
//! rarely (they are sorted where they do).
//!
//! **Deterministic.** Sums over rows are sums of integers, or of floats in fixed chunks; random choices depend on the
//! seed. The same input gives the same booster, bit by bit, for any number of threads.

mod bins;
mod error;
mod gradients;
mod grow;
mod histogram;
mod leaves;
mod matrix;
mod model;
mod params;
mod split;
mod train;
mod tree;

#[cfg(test)]
mod tests;

pub use error::BoosterError;
pub use matrix::{Dataset, Matrix};
pub use model::{Booster, Contributions};
pub use params::{Objective, Params};
pub use train::{Progress, train};
