//! What makes one meter differ from the next. All of it follows from the fleet's seed and the meter's number.

use meterline_schemas::Frequency;
use meterline_schemas::time::{MINUTE, Micros, SECOND};

use super::config::{Class, FleetConfig, Form};
use super::noise::{between, hash, normal, uniform};

/// Meters that share a site, and sites that share a feeder.
const METERS_PER_SITE: u32 = 8;
const SITES_PER_FEEDER: u32 = 25;
const REGION_NAMES: [&str; 8] = ["north", "south", "east", "west", "centre", "coast", "hills", "valley"];

/// One meter.
#[derive(Debug, Clone, Copy)]
pub struct Meter {
    /// Source of its noise.
    pub seed: u64,
    /// Its number in the fleet.
    pub number: u32,
    /// Index of its region.
    pub region: u8,
    /// Kind of meter.
    pub class: Class,
    /// What it sends.
    pub form: Form,
    /// Solar: the panels alone, as positive generation.
    pub generation: bool,
    /// Seconds by which its clock is ahead.
    pub skew_s: i16,
    /// Hours by which its habits are later.
    pub shift: f32,
    /// kW that habits add at their peak.
    pub scale: f32,
    /// kW that always flow.
    pub standby: f32,
    /// kW per degree below the heating limit.
    pub heating: f32,
    /// kW per degree above the cooling limit.
    pub cooling: f32,
    /// Rated kW of its solar panels.
    pub panels: f32,
    /// Business: share of the workday's load on Saturdays and on Sundays.
    pub weekend: [f32; 2],
}

/// Numbers spread evenly over [0, 1), so that even small fleets get their shares.
fn even(number: u32, step: f64, offset: f64) -> f64 {
    (f64::from(number) * step + offset).fract()
}

/// The meter's native frequency.
pub fn frequency(config: &FleetConfig, number: u32) -> Frequency {
    let share = even(number, 0.754_877_666_246_693, uniform(hash(config.seed, 0xf0)));
    config.mix.at(share).unwrap_or(Frequency::QUARTER_HOUR)
}

impl Meter {
    /// Meter `number` of the fleet, sending every `interval`.
    pub fn new(config: &FleetConfig, number: u32, interval: Micros) -> Meter {
        let seed = hash(hash(config.seed, 0x3e7e_4000), u64::from(number));
        let draw = |salt: u64| uniform(hash(seed, salt));
        let range = |salt: u64, low: f64, high: f64| between(hash(seed, salt), low, high) as f32;
        let class_share = even(number, 0.569_840_290_998_053, uniform(hash(config.seed, 0xc1)));
        let class = config.classes.at(class_share).unwrap_or(Class::Household);
        let form = config.forms.at(draw(1)).unwrap_or(Form::Kw);
        let size = (0.45 * normal(hash(seed, 2))).exp() as f32;
        let electric_heating = draw(3) < 0.45;
        let cooled = draw(4) < 0.35;
        let mut meter = Meter {
            seed,
            number,
            region: (number / METERS_PER_SITE % config.regions) as u8,
            class,
            form,
            generation: false,
            skew_s: skew(config.dirt.skewed_clocks, seed, interval),
            shift: range(5, -1.25, 1.25),
            scale: size * 0.9,
            standby: size * range(6, 0.08, 0.3),
            heating: if electric_heating { size * range(7, 0.03, 0.12) } else { size * range(7, 0.0, 0.012) },
            cooling: if cooled { size * range(8, 0.03, 0.1) } else { 0.0 },
            panels: 0.0,
            weekend: [1.0, 1.0],
        };
        match class {
            Class::Household => {}
            Class::Business => {
                let size = size * size * 12.0;
                meter.scale = size;
                meter.standby = size * range(6, 0.1, 0.35);
                meter.heating = size * range(7, 0.0, 0.015);
                meter.cooling = size * range(8, 0.005, 0.03);
                meter.weekend = [range(9, 0.1, 0.9), range(10, 0.02, 0.3)];
            }
            Class::Solar => {
                meter.panels = size * range(11, 3.0, 9.0);
                meter.generation = draw(12) < 0.3;
            }
            Class::Feeder => {
                let size = size * 400.0;
                meter.shift *= 0.3;
                meter.scale = size;
                meter.standby = size * range(6, 0.3, 0.5);
                meter.heating = size * range(7, 0.005, 0.02);
                meter.cooling = size * range(8, 0.005, 0.02);
                meter.panels = size * range(11, 0.0, 0.9);
                meter.weekend = [range(9, 0.6, 0.9), range(10, 0.4, 0.7)];
            }
        }
        meter
    }

    /// Index of its site, feeder and region.
    pub fn place(&self, regions: u32) -> (u32, u32, &'static str) {
        let site = self.number / METERS_PER_SITE;
        let feeder = site / regions / SITES_PER_FEEDER * regions + site % regions;
        (site, feeder, region_name(u32::from(self.region)))
    }
}

/// The name of a region in records.
pub fn region_name(region: u32) -> &'static str {
    REGION_NAMES.get(region as usize).copied().unwrap_or("other")
}

// A clock that is off by half an interval or more would put readings into the wrong interval, which no reader can mend.
fn skew(share: f64, seed: u64, interval: Micros) -> i16 {
    if uniform(hash(seed, 20)) >= share {
        return 0;
    }
    let most = (5 * MINUTE).min(interval / 3) as f64 / SECOND as f64;
    let seconds = between(hash(seed, 21), 1.0, most.max(2.0));
    let sign = if hash(seed, 22) & 1 == 0 { 1.0 } else { -1.0 };
    (sign * seconds) as i16
}
