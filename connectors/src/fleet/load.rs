//! Power of one meter at one moment.
//!
//! What can be learnt is large (time of day, day of week, season, temperature, sun, slow drift of habits); what cannot
//! is small beside it, and smaller the larger the meter. Seasonal naive repeats yesterday's noise and misses weather
//! and weekends, so a good model is clearly better.

use meterline_schemas::time::{DAY, HOUR};

use super::config::Class;
use super::meter::Meter;
use super::noise::{between, hash, normal, smooth, uniform};
use super::weather::{DayKind, Moment, Weather};

/// Degrees Celsius below which buildings are heated, and above which they are cooled.
const HEATING_LIMIT: f64 = 15.0;
const COOLING_LIMIT: f64 = 22.0;
const STEPS_PER_HOUR: usize = 4;
const STEPS: usize = 24 * STEPS_PER_HOUR;

/// Daily shapes, computed once.
#[derive(Debug)]
pub struct Shapes {
    home: [[f32; STEPS]; 3],
}

/// Bumps of activity: hour, width in hours, height.
const HOME: [&[(f64, f64, f64)]; 3] = [
    &[(7.2, 1.0, 0.55), (12.7, 1.6, 0.28), (19.2, 2.0, 1.0)],
    &[(9.6, 1.7, 0.55), (13.2, 1.8, 0.45), (19.6, 2.2, 0.9)],
    &[(10.4, 1.8, 0.6), (13.2, 1.7, 0.6), (19.0, 2.1, 0.95)],
];

impl Shapes {
    /// The shapes of every fleet.
    pub fn new() -> Shapes {
        let shape = |bumps: &[(f64, f64, f64)]| {
            std::array::from_fn(|step| {
                let hour = step as f64 / STEPS_PER_HOUR as f64;
                let near = |mid: f64| (hour - mid + 36.0).rem_euclid(24.0) - 12.0;
                let bump =
                    |&(mid, width, height): &(f64, f64, f64)| height * (-0.5 * (near(mid) / width).powi(2)).exp();
                (0.1 + bumps.iter().map(bump).sum::<f64>()) as f32
            })
        };
        Shapes { home: HOME.map(shape) }
    }

    fn home(&self, day: DayKind, hour: f64) -> f64 {
        let table = &self.home[day as usize];
        let place = hour.rem_euclid(24.0) * STEPS_PER_HOUR as f64;
        let below = place as usize % STEPS;
        let part = place - place.floor();
        f64::from(table[below]) * (1.0 - part) + f64::from(table[(below + 1) % STEPS]) * part
    }

    /// kW at the meter; negative while it feeds in.
    pub fn power(&self, meter: &Meter, moment: &Moment) -> f64 {
        let Some(weather) = moment.weather.get(usize::from(meter.region)) else { return 0.0 };
        match meter.class {
            Class::Household => self.household(meter, moment, weather),
            Class::Business => business(meter, moment, weather),
            Class::Solar if meter.generation => panels(meter, moment, weather),
            Class::Solar => self.household(meter, moment, weather) - panels(meter, moment, weather),
            Class::Feeder => self.feeder(meter, moment, weather),
        }
    }

    fn household(&self, meter: &Meter, moment: &Moment, weather: &Weather) -> f64 {
        let days = moment.at as f64 / DAY as f64;
        let active = self.home(moment.day, moment.hour - f64::from(meter.shift));
        let habits = f64::from(meter.scale) * active * (1.0 + 0.18 * moment.winter);
        let drift =
            (0.18 * smooth(hash(meter.seed, 30), days / 3.0) + 0.1 * smooth(hash(meter.seed, 31), days * 5.0)).exp();
        let noise = 1.0 + 0.08 * normal(hash(hash(meter.seed, 32), moment.at as u64));
        let away = if is_away(meter, days) { 0.15 } else { 1.0 };
        let people = (habits * drift * noise + appliance(meter, moment, active)) * away;
        f64::from(meter.standby) + people + climate_control(meter, weather)
    }

    fn feeder(&self, meter: &Meter, moment: &Moment, weather: &Weather) -> f64 {
        let days = moment.at as f64 / DAY as f64;
        let homes = self.home(moment.day, moment.hour - f64::from(meter.shift));
        let shops = opening(moment.hour, 7.5, 18.5) * weekend(meter, moment.day);
        let drift =
            (0.03 * smooth(hash(meter.seed, 30), days / 4.0) + 0.015 * smooth(hash(meter.seed, 31), days * 4.0)).exp();
        let noise = 1.0 + 0.008 * normal(hash(hash(meter.seed, 32), moment.at as u64));
        let load = f64::from(meter.standby)
            + f64::from(meter.scale) * (0.45 * homes + 0.35 * shops) * (1.0 + 0.1 * moment.winter);
        (load + climate_control(meter, weather)) * drift * noise - f64::from(meter.panels) * weather.solar
    }
}

fn business(meter: &Meter, moment: &Moment, weather: &Weather) -> f64 {
    let days = moment.at as f64 / DAY as f64;
    let shift = f64::from(meter.shift);
    let open = opening(moment.hour, 7.5 + shift, 17.5 + 1.5 * shift) * weekend(meter, moment.day);
    let drift =
        (0.08 * smooth(hash(meter.seed, 30), days / 5.0) + 0.04 * smooth(hash(meter.seed, 31), days * 4.0)).exp();
    let noise = 1.0 + 0.03 * normal(hash(hash(meter.seed, 32), moment.at as u64));
    f64::from(meter.standby)
        + (f64::from(meter.scale) * open * drift + climate_control(meter, weather) * (0.3 + 0.7 * open)) * noise
}

fn panels(meter: &Meter, moment: &Moment, weather: &Weather) -> f64 {
    if weather.solar <= 0.0 {
        return 0.0;
    }
    let passing = 1.0 + 0.06 * normal(hash(hash(meter.seed, 33), moment.at as u64));
    f64::from(meter.panels) * weather.solar * passing.max(0.0)
}

fn climate_control(meter: &Meter, weather: &Weather) -> f64 {
    f64::from(meter.heating) * (HEATING_LIMIT - weather.felt).max(0.0)
        + f64::from(meter.cooling) * (weather.temperature - COOLING_LIMIT).max(0.0)
}

/// 1 between the hours, with an hour's slope at both ends.
fn opening(hour: f64, from: f64, to: f64) -> f64 {
    (hour - from + 1.0).min(to + 1.0 - hour).clamp(0.0, 1.0)
}

fn weekend(meter: &Meter, day: DayKind) -> f64 {
    match day {
        DayKind::Workday => 1.0,
        DayKind::Saturday => f64::from(meter.weekend[0]),
        DayKind::Sunday => f64::from(meter.weekend[1]),
    }
}

/// Kettle, oven, washing machine: on or off for half an hour, more often when people are up.
fn appliance(meter: &Meter, moment: &Moment, active: f64) -> f64 {
    let draw = hash(hash(meter.seed, 34), (moment.at / (HOUR / 2)) as u64);
    if uniform(draw) < 0.015 + 0.09 * active { between(hash(draw, 1), 0.3, 1.3) * f64::from(meter.scale) } else { 0.0 }
}

/// About two weeks a year, as a whole week or a long weekend.
fn is_away(meter: &Meter, days: f64) -> bool {
    let seed = hash(meter.seed, 35);
    let week = (days / 7.0).floor();
    let draw = hash(seed, week as u64);
    if uniform(draw) >= 0.05 {
        return false;
    }
    let length = between(hash(draw, 1), 3.0, 7.0);
    days - week * 7.0 < length
}
