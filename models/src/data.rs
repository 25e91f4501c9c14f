//! Series on a regular grid.

use jiff::tz::TimeZone;
use meterline_schemas::{Frequency, Micros};

/// One series: the value of every native interval from `start` on, without holes in the grid.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Series identifier.
    pub id: String,
    /// Start of the first interval; on the frequency's grid.
    pub start: Micros,
    /// One value an interval, NaN where it is missing. Its length sets the origin: nothing later is known.
    pub values: Vec<f32>,
}

/// The series of one model group.
#[derive(Debug, Clone)]
pub struct Panel {
    /// Their common native frequency.
    pub frequency: Frequency,
    /// Zone of calendar features and calendar frequencies.
    pub zone: TimeZone,
    /// The series, each with its own start and origin.
    pub series: Vec<Series>,
}

impl Series {
    /// End of the last interval: the origin of a forecast made from this series as it stands.
    pub fn origin(&self, frequency: Frequency, zone: &TimeZone) -> Micros {
        frequency.advance(self.start, self.values.len() as i64, zone)
    }
}

impl Panel {
    /// The same panel, knowing nothing that ends after `origin`.
    pub fn cut(&self, origin: Micros) -> Panel {
        let series = self
            .series
            .iter()
            .map(|s| {
                let known = self.frequency.steps_between(s.start, origin, &self.zone).max(0) as usize;
                Series { id: s.id.clone(), start: s.start, values: s.values[..known.min(s.values.len())].to_vec() }
            })
            .collect();
        Panel { frequency: self.frequency, zone: self.zone.clone(), series }
    }

    /// The newest `count` values of every series, each with its own start moved accordingly.
    pub fn newest(&self, count: usize) -> Panel {
        let series = self
            .series
            .iter()
            .map(|s| {
                let skipped = s.values.len().saturating_sub(count);
                Series {
                    id: s.id.clone(),
                    start: self.frequency.advance(s.start, skipped as i64, &self.zone),
                    values: s.values[skipped..].to_vec(),
                }
            })
            .collect();
        Panel { frequency: self.frequency, zone: self.zone.clone(), series }
    }
}
