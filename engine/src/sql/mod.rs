//! The tables as people query them, in SQL through DataFusion.
//!
//! `session` answers statements; `catalog` finds the tables, one snapshot of each a session; `provider` turns a Delta
//! snapshot into a table, `layers`, `views` and `as_of` compute tables from others, `memory` makes those of the
//! committed state and of the metadata database. [`query`] opens a session of its own for every statement: what it sees
//! is one commit of each table, whole, however long it runs.

mod as_of;
mod catalog;
mod error;
pub mod labels;
pub(crate) mod layers;
mod memory;
mod provider;
mod session;
#[cfg(test)]
mod tests;
mod views;

pub use catalog::TABLES;
pub use error::SqlError;
pub use session::{TableVersions, over_revisions, plan, query, query_batches};

/// A text as SQL has it.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Texts as a list in SQL has them.
pub fn literals(texts: &[String]) -> String {
    texts.iter().map(|text| literal(text)).collect::<Vec<_>>().join(", ")
}
