//! One file a model.

pub mod seasonal_naive;
