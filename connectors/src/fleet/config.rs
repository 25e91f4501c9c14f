//! What a fleet is made of.

use std::fmt;
use std::str::FromStr;

use meterline_schemas::Frequency;
use meterline_schemas::Micros;
use meterline_schemas::time::{DAY, MINUTE, SECOND, Span};

/// 2024-01-01T00:00:00Z.
const START_OF_2024: Micros = 1_704_067_200 * SECOND;

/// A simulated fleet. Equal configurations give equal records.
#[derive(Debug, Clone, PartialEq)]
pub struct FleetConfig {
    /// Number of meters, 1 to 1,000,000. Meter `i` is the same in fleets of every size.
    pub meters: u32,
    /// Everything random follows from it.
    pub seed: u64,
    /// Start of the first intervals.
    pub from: Micros,
    /// No interval ends after it.
    pub to: Micros,
    /// IANA zone in which people live and days begin.
    pub zone: String,
    /// Native frequencies with their weights.
    pub mix: Mix<Frequency>,
    /// What meters send, with weights.
    pub forms: Mix<Form>,
    /// Kinds of meters, with weights.
    pub classes: Mix<Class>,
    /// Regions, each with its own weather.
    pub regions: u32,
    /// Whether records name site, feeder and region.
    pub labels: bool,
    /// What goes wrong, and how often.
    pub dirt: Dirt,
}

impl Default for FleetConfig {
    /// A hundred meters over thirty days of January 2024, a little dirty.
    fn default() -> Self {
        let quarter = (Frequency::QUARTER_HOUR, 0.6);
        let half = (Frequency::Seconds(1800), 0.08);
        FleetConfig {
            meters: 100,
            seed: 1,
            from: START_OF_2024,
            to: START_OF_2024 + 30 * DAY,
            zone: "UTC".into(),
            mix: Mix(vec![
                (Frequency::Seconds(60), 0.02),
                quarter,
                half,
                (Frequency::HOUR, 0.25),
                (Frequency::Day, 0.05),
            ]),
            forms: Mix(vec![(Form::Kw, 0.7), (Form::Kwh, 0.3)]),
            classes: Mix(vec![
                (Class::Household, 0.68),
                (Class::Business, 0.18),
                (Class::Solar, 0.1),
                (Class::Feeder, 0.04),
            ]),
            regions: 4,
            labels: true,
            dirt: Dirt::default(),
        }
    }
}

/// What goes wrong, each with its own rate. A rate is the probability per reading, if nothing else is said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dirt {
    /// A reading that is never sent.
    pub gaps: f64,
    /// Outages of several intervals: probability per meter and day.
    pub outages: f64,
    /// A reading that is sent late.
    pub late: f64,
    /// Mean of the delay of late readings (exponential, at most a day).
    pub late_delay: Span,
    /// A reading that is sent twice.
    pub duplicates: f64,
    /// A reading that is sent as an estimate and corrected hours later.
    pub corrections: f64,
    /// Share of meters whose clock is off, by seconds to minutes but less than a third of their interval.
    pub skewed_clocks: f64,
    /// A record that cannot be read; its reading is lost.
    pub malformed: f64,
}

impl Default for Dirt {
    fn default() -> Self {
        Dirt {
            gaps: 0.003,
            outages: 0.002,
            late: 0.01,
            late_delay: Span(30 * MINUTE),
            duplicates: 0.003,
            corrections: 0.002,
            skewed_clocks: 0.02,
            malformed: 0.000_5,
        }
    }
}

impl Dirt {
    /// Nothing goes wrong.
    pub const NONE: Dirt = Dirt {
        gaps: 0.0,
        outages: 0.0,
        late: 0.0,
        late_delay: Span(30 * MINUTE),
        duplicates: 0.0,
        corrections: 0.0,
        skewed_clocks: 0.0,
        malformed: 0.0,
    };

    fn rates(&self) -> [(&'static str, f64); 7] {
        [
            ("gaps", self.gaps),
            ("outages", self.outages),
            ("late", self.late),
            ("duplicates", self.duplicates),
            ("corrections", self.corrections),
            ("skewed clocks", self.skewed_clocks),
            ("malformed", self.malformed),
        ]
    }
}

/// What a meter sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Form {
    /// Mean power over the interval in kW.
    Kw,
    /// Energy in the interval in kWh.
    Kwh,
    /// The state of a cumulative register in kWh at the interval's end.
    Register,
}

impl Form {
    /// The name on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Form::Kw => "kW",
            Form::Kwh => "kWh",
            Form::Register => "register",
        }
    }

    /// The unit in records.
    pub const fn unit(self) -> &'static str {
        match self {
            Form::Kw => "kW",
            Form::Kwh | Form::Register => "kWh",
        }
    }
}

/// Kind of meter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// A home: evening peaks, appliances, holidays away, perhaps a heat pump.
    Household,
    /// A business: opening hours, closed on some weekends and on public holidays.
    Business,
    /// A roof with solar panels: a home's net (negative while it feeds in), or the panels alone.
    Solar,
    /// A feeder: the smooth sum of many.
    Feeder,
}

impl Class {
    /// The name on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Class::Household => "household",
            Class::Business => "business",
            Class::Solar => "solar",
            Class::Feeder => "feeder",
        }
    }
}

macro_rules! names {
    ($type:ty: $($variant:expr),+) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                let all = [$($variant),+];
                all.into_iter().find(|v| v.as_str().eq_ignore_ascii_case(text)).ok_or_else(|| {
                    format!("`{text}` is none of {}", all.map(|v| v.as_str()).join(", "))
                })
            }
        }
    };
}

names!(Form: Form::Kw, Form::Kwh, Form::Register);
names!(Class: Class::Household, Class::Business, Class::Solar, Class::Feeder);

/// Things with weights, written `PT15M=0.7,PT1H=0.3`; a thing alone has weight 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Mix<T>(pub Vec<(T, f64)>);

impl<T: Copy> Mix<T> {
    /// One thing only.
    pub fn only(thing: T) -> Mix<T> {
        Mix(vec![(thing, 1.0)])
    }

    /// The thing at `share`, 0 to 1, of all the weight. `None` without any weight.
    pub fn at(&self, share: f64) -> Option<T> {
        let mut rest = share * self.0.iter().map(|(_, w)| w).sum::<f64>();
        for (thing, weight) in &self.0 {
            if rest < *weight {
                return Some(*thing);
            }
            rest -= weight;
        }
        self.0.iter().rev().find(|(_, w)| *w > 0.0).map(|(thing, _)| *thing)
    }
}

impl<T: FromStr<Err: fmt::Display>> FromStr for Mix<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        for part in text.split(',') {
            let (name, weight) = part.split_once('=').unwrap_or((part, "1"));
            let thing = name.trim().parse().map_err(|e: T::Err| e.to_string())?;
            let weight = weight.trim().parse().ok().filter(|w: &f64| w.is_finite() && *w >= 0.0);
            let weight = weight.ok_or_else(|| format!("`{part}`: the weight must be a number of at least 0"))?;
            parts.push((thing, weight));
        }
        if parts.iter().map(|(_, w)| w).sum::<f64>() <= 0.0 {
            return Err(format!("`{text}`: all weights are 0"));
        }
        Ok(Mix(parts))
    }
}

impl<T: fmt::Display> fmt::Display for Mix<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (thing, weight)) in self.0.iter().enumerate() {
            write!(f, "{}{thing}={weight}", if i > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

/// What is wrong with a [`FleetConfig`].
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("a fleet cannot be made: {0}")]
pub struct FleetError(pub(super) String);

impl FleetConfig {
    pub(super) fn check(&self) -> Result<jiff::tz::TimeZone, FleetError> {
        let refuse = |reason: String| Err(FleetError(reason));
        if self.meters == 0 || self.meters > 1_000_000 {
            return refuse(format!("{} meters; use 1 to 1000000", self.meters));
        }
        if self.to <= self.from {
            return refuse("the end is not after the start".into());
        }
        if self.regions == 0 || self.regions > 64 {
            return refuse(format!("{} regions; use 1 to 64", self.regions));
        }
        if self.mix.at(0.0).is_none() || self.forms.at(0.0).is_none() || self.classes.at(0.0).is_none() {
            return refuse("frequencies, forms and classes each need one with a weight above 0".into());
        }
        if let Some((f, _)) = self.mix.0.iter().find(|(f, _)| f.nominal_micros() < MINUTE) {
            return refuse(format!("frequency {f}; the finest is PT1M"));
        }
        if let Some((name, rate)) = self.dirt.rates().into_iter().find(|(_, rate)| !(0.0..=1.0).contains(rate)) {
            return refuse(format!("the rate of {name} is {rate}; use 0 to 1"));
        }
        jiff::tz::TimeZone::get(&self.zone)
            .map_err(|_| FleetError(format!("`{}` is no known time zone; use an IANA name", self.zone)))
    }
}
