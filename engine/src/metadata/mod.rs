//! Runs, steps, logs, metrics, the model registry and trigger decisions, in SQLite.

pub mod records;
