//! Boosters of crates.io on rows of features: how long training took, and what they predict.
//!
//! The argument is one of [`PEERS`]. Standard input, files and standard output are those of
//! `bench/python/lightgbm_trees.py`; a booster that knows none of our parameters answers with one setting, `default`.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::todo))]

mod by_hessboost;
mod by_perpetual;
mod job;
mod levels;

use std::collections::BTreeMap;
use std::error::Error;
use std::io;

use job::{Job, Measured, Rows};
use serde_json::json;

/// What can go wrong: the program ends with it.
type Failure = Box<dyn Error + Send + Sync>;

/// Trains a booster on the rows and predicts the others, setting by setting.
type Peer = fn(&Job, &Rows) -> Result<BTreeMap<String, Measured>, Failure>;

/// What can be measured: its name, the crate it is of, what is said of it beside its version, and how it is run.
const PEERS: [(&str, &str, &str, Peer); 3] = [
    ("hessboost", "hessboost", ", one model", by_hessboost::one_model),
    ("hessboost_levels", "hessboost", ", one a level", by_hessboost::model_per_level),
    ("perpetual", "perpetual", "", by_perpetual::model_per_level),
];

fn main() -> Result<(), Failure> {
    let named = std::env::args().nth(1).unwrap_or_default();
    let peer = PEERS.iter().find(|(name, ..)| *name == named);
    let Some((_, package, how, run)) = peer else {
        let names = PEERS.map(|(name, ..)| name).join(", ");
        return Err(format!("no booster {named:?}: it is one of {names}").into());
    };
    let job: Job = serde_json::from_reader(io::stdin().lock())?;
    let rows = Rows::read(&job)?;
    let mut settings = BTreeMap::new();
    for (name, measured) in run(&job, &rows)? {
        job::write(&name, &measured.predicted)?;
        settings.insert(name, json!({"seconds": measured.seconds, "cpu_s": measured.cpu_s}));
    }
    let version = locked_version(package).ok_or_else(|| format!("Cargo.lock has no {package}"))?;
    println!("{}", json!({"version": format!("{package} {version}{how}"), "settings": settings}));
    Ok(())
}

/// The version of a package that this program was built with.
fn locked_version(package: &str) -> Option<&'static str> {
    let (_, rest) = include_str!("../Cargo.lock").split_once(&format!("name = \"{package}\"\nversion = \""))?;
    rest.split('"').next()
}
