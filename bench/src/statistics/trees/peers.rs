//! Boosters of others on the same rows: what they are asked, and what they answer.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use meterline_models::booster::Params;
use meterline_schemas::quantiles::LEVELS;
use meterline_tests::sandbox::Sandbox;
use serde_json::{Map, Value, json};

use super::super::Failure;
use super::super::handover::{ask, floats, write};
use super::super::work::Took;
use super::rows::{Rows, loss};
use super::{EVERY, Mark, Trained};

/// Of a booster that has no parameters in common with ours: its only setting.
const DEFAULT: &str = "default";

/// A booster beside ours.
pub struct Peer {
    /// What it is called: with its version.
    pub label: String,
    trained: BTreeMap<String, Trained>,
}

impl Peer {
    /// What it made of a setting of ours, or of its only one.
    pub fn with(&self, setting: &str) -> Option<&Trained> {
        self.trained.get(setting).or_else(|| self.trained.get(DEFAULT))
    }
}

/// What a program makes of the rows with each of `settings`.
///
/// # Errors
/// It fails, or what it says cannot be read.
pub fn train(
    program: Command,
    trained: &Rows,
    held_out: &Rows,
    settings: &[(&'static str, Params)],
) -> Result<Peer, Failure> {
    let place = Sandbox::new();
    let file = |name: &str| place.path().join(name);
    write(&file("features"), trained.columns.iter().zip(&held_out.columns).flat_map(|(a, b)| a.iter().chain(b)))?;
    write(&file("targets"), trained.targets.iter().chain(&held_out.targets))?;
    write(&file("weights"), trained.weights.iter().chain(&held_out.weights))?;
    let mut asked = Map::new();
    for (name, params) in settings {
        asked.insert((*name).to_owned(), serde_json::to_value(params)?);
    }
    let job = json!({
        "trained": trained.targets.len(), "features": trained.columns.len(), "levels": LEVELS, "every": EVERY,
        "settings": asked,
    });
    read(&ask(program, place.path(), &job)?, place.path(), held_out)
}

fn read(answer: &Value, folder: &Path, held_out: &Rows) -> Result<Peer, Failure> {
    let mut trained = BTreeMap::new();
    for (name, of) in answer["settings"].as_object().ok_or("no settings")? {
        let seconds: Vec<f64> = of["seconds"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        let predicted = floats(&folder.join(name))?;
        let of_mark = held_out.targets.len() * LEVELS.len();
        if seconds.is_empty() || predicted.len() != seconds.len() * of_mark {
            return Err(format!("{} times and {} predictions of {name}", seconds.len(), predicted.len()).into());
        }
        let losses = predicted.chunks_exact(of_mark).map(|predicted| loss(held_out, predicted.iter().copied()));
        let marks: Vec<Mark> =
            seconds.iter().zip(losses).map(|(seconds, loss)| Mark { seconds: *seconds, loss }).collect();
        let cpu_s = of["cpu_s"].as_f64().ok_or_else(|| format!("no cpu_s of {name}"))?;
        let took = Took { seconds: seconds.last().copied().unwrap_or(f64::NAN), cpu_s };
        let loss = marks.last().map_or(f64::NAN, |mark| mark.loss);
        trained.insert(name.clone(), Trained { took, loss, marks });
    }
    Ok(Peer { label: answer["version"].as_str().ok_or("no version")?.to_owned(), trained })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_booster_without_our_settings_is_beside_each_of_them() {
        let place = Sandbox::new();
        let held_out = Rows { targets: vec![1.0, 2.0], weights: vec![1.0, 3.0], ..Rows::default() };
        let predicted: Vec<f64> = [[0.0, 2.0], [1.0, 2.0]].concat().repeat(LEVELS.len());
        let bytes: Vec<u8> = predicted.iter().flat_map(|value| value.to_le_bytes()).collect();
        fs::write(place.path().join(DEFAULT), &bytes).unwrap();
        let answer = json!({"version": "other 1", "settings": {DEFAULT: {"seconds": [1.0, 3.0], "cpu_s": 5.0}}});
        let peer = read(&answer, place.path(), &held_out).unwrap();
        let found = peer.with("gentle").unwrap();
        assert_eq!((peer.label.as_str(), found.took), ("other 1", Took { seconds: 3.0, cpu_s: 5.0 }));
        assert_eq!((found.marks.len(), found.marks[1].loss), (2, found.loss));

        fs::write(place.path().join(DEFAULT), &bytes[8..]).unwrap();
        assert!(read(&answer, place.path(), &held_out).is_err(), "a value is missing");
        assert!(read(&json!({}), place.path(), &held_out).is_err());
    }
}
