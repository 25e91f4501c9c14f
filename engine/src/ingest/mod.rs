//! The stream: raw records → readings → native intervals → one atomic commit.

pub mod state;
