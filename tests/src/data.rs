//! The real data of the end-to-end tests, where it is there.

use std::path::PathBuf;

use crate::checkout;
use crate::skip::note;

/// Where the real data lies.
#[derive(Debug, Clone)]
pub struct RealData {
    folder: PathBuf,
}

impl RealData {
    /// The folder `METERLINE_DATA`, else `../shared/data` beside the project. `None`, with a visible line, where it
    /// is absent: the fleet then takes its place.
    pub fn find() -> Option<RealData> {
        let beside = || checkout::root().join("../shared/data");
        let folder = std::env::var_os("METERLINE_DATA").map_or_else(beside, PathBuf::from);
        let found = RealData { folder };
        if found.hourly().exists() && found.substations().is_dir() {
            return Some(found);
        }
        note(&format!(
            "no real data in {} (name its folder by METERLINE_DATA): the simulated fleet takes its place",
            found.folder.display()
        ));
        None
    }

    /// `uci_electricity`: hourly mean kW of ten clients, stamped at the hour's end; `timestamp,target,item_id`.
    pub fn hourly(&self) -> PathBuf {
        self.folder.join("uci_electricity/clients_002_to_011_2014_hourly.csv")
    }

    /// `openstef_substations`: the column `total_substation` of one file a substation, every quarter of an hour.
    pub fn substation_files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.substations()).expect("list the substations");
        let mut files: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
        files.retain(|f| f.extension().is_some_and(|x| x == "csv"));
        files.sort();
        files
    }

    fn substations(&self) -> PathBuf {
        self.folder.join("openstef_substations")
    }
}
