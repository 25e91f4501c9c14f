//! Boosters in Rust that others maintain: a crate of its own below `bench`, which is built when it is needed.

use std::path::PathBuf;
use std::process::Command;

use super::handover::made_by;

/// Boosters of `bench/boosters`: as its program knows them, and as they are called where they cannot be measured.
pub const NAMES: [(&str, &str); 3] = [
    ("hessboost", "hessboost, one model of all levels"),
    ("hessboost_levels", "hessboost, one model a level"),
    ("perpetual", "perpetual"),
];

/// The program that runs them.
#[derive(Debug)]
pub struct Boosters {
    program: PathBuf,
}

impl Boosters {
    /// Builds it with `bench/boosters/build`. `None`, and a line that says why, where that cannot be.
    pub fn build() -> Option<Boosters> {
        match made_by("boosters/build") {
            Ok(program) => Some(Boosters { program }),
            Err(reason) => {
                eprintln!("SKIPPED hessboost and perpetual, ours is measured without them: {reason}");
                None
            }
        }
    }

    /// The program for one of [`NAMES`].
    pub fn command(&self, name: &str) -> Command {
        let mut program = Command::new(&self.program);
        program.arg(name);
        program
    }
}
