//! The simulated meters: realistic load, and the dirt of the real world, deterministic by seed.
//!
//! ```text
//! noise (pure functions) ─▶ weather (calendar, shared by all) ─▶ load (kW of one meter) ─▶ stream (records in send order)
//!                            meter (what makes each differ)  ─┘      dirt (what goes wrong) ─┘  └─▶ record (JSON)
//! ```
//!
//! The value of a meter in an interval is a pure function of the seed, so a million meters need no state but their
//! register. [`Fleet`] is an iterator of records in the order in which they are sent; [`truth`] is what a reader must
//! end up with.

mod config;
mod dirt;
mod load;
mod meter;
mod noise;
mod record;
mod stream;
mod weather;

use std::collections::BTreeMap;

use meterline_schemas::Micros;

pub use config::{Class, Dirt, FleetConfig, FleetError, Form, Mix};
pub use record::{FleetRecord, RecordKind, write_stamp};
pub use stream::{Fleet, FleetCounts, MeterInfo};

/// What the table must hold when all records of the fleet were read: for each series and interval end, the value that
/// was sent last (the one with the greatest position, because records are sent in order).
///
/// # Errors
/// The configuration is wrong.
pub fn truth(config: &FleetConfig) -> Result<BTreeMap<(String, Micros), f64>, FleetError> {
    let mut last = BTreeMap::new();
    for record in Fleet::new(config.clone())? {
        if let Some(value) = record.value {
            last.insert((record.key, record.end), value);
        }
    }
    Ok(last)
}

#[cfg(test)]
mod tests;
