//! What goes wrong with one reading: a pure function of the meter and the interval.

use meterline_schemas::Micros;
use meterline_schemas::time::{DAY, HOUR, MINUTE, SECOND};

use super::config::Dirt;
use super::noise::{between, hash, uniform};

/// The fate of one reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is never sent.
    Lost,
    /// It is sent as a record that nobody can read; the number says how.
    Malformed(u64),
    /// It is sent.
    Sent {
        /// By how much later than on time.
        delay: Micros,
        /// How long after that it is sent again.
        duplicate: Option<Micros>,
        /// How long after that the estimate that is sent first is corrected, and the source of the estimate's error.
        correction: Option<(Micros, u64)>,
    },
}

const LONGEST_OUTAGE: Micros = 36 * HOUR;

/// The fate of the reading that the meter with this seed takes of the interval.
pub fn fate(dirt: &Dirt, seed: u64, start: Micros, end: Micros) -> Fate {
    let base = hash(hash(seed, 40), end as u64);
    let happens = |salt: u64, rate: f64| rate > 0.0 && uniform(hash(base, salt)) < rate;
    if happens(1, dirt.gaps) || in_outage(dirt.outages, seed, start) {
        return Fate::Lost;
    }
    if happens(2, dirt.malformed) {
        return Fate::Malformed(hash(base, 3));
    }
    let span = |salt: u64, low: Micros, high: Micros| between(hash(base, salt), low as f64, high as f64) as Micros;
    let delay = if happens(4, dirt.late) {
        let mean = dirt.late_delay.micros() as f64;
        let exponential = -mean * (1.0 - uniform(hash(base, 5))).ln();
        (exponential as Micros).clamp(MINUTE, DAY)
    } else {
        0
    };
    Fate::Sent {
        delay,
        duplicate: happens(6, dirt.duplicates).then(|| span(7, SECOND, 10 * MINUTE)),
        // Later than any duplicate, so that the last record is the right one.
        correction: happens(8, dirt.corrections).then(|| (span(9, HOUR, 2 * DAY), hash(base, 10))),
    }
}

fn in_outage(rate: f64, seed: u64, at: Micros) -> bool {
    if rate <= 0.0 {
        return false;
    }
    let today = at.div_euclid(DAY);
    (today - 2..=today).any(|day| {
        let draw = hash(hash(seed, 41), day as u64);
        if uniform(draw) >= rate {
            return false;
        }
        let begin = day * DAY + between(hash(draw, 1), 0.0, DAY as f64) as Micros;
        let length = between(hash(draw, 2), 2.0 * HOUR as f64, LONGEST_OUTAGE as f64) as Micros;
        (begin..begin + length).contains(&at)
    })
}
