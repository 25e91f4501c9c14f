//! Units of measure. Power and energy become kWh per interval; everything else stays as it is.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::reading::ValueKind;
use crate::time::{DAY, HOUR, Micros};

/// A unit of measure.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Unit {
    /// Power; the factor gives kW.
    Power(PowerUnit),
    /// Energy; the factor gives kWh.
    Energy(PowerUnit),
    /// Anything else, kept as it is.
    Other(Arc<str>),
}

/// How a value in some unit becomes one in the unit that it is stored in; all that is left of a [`Unit`] once that is
/// known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Scale {
    /// Power becomes kWh of an interval.
    Power(PowerUnit),
    /// Energy becomes kWh.
    Energy(PowerUnit),
    /// The unit is kept.
    AsIs,
}

/// Greatest magnitude of a value in the stored unit: sums of a hundred million such values are still numbers.
const STORED_MAX: f64 = 1e300;
/// At least as long as every interval.
const LONGEST: Micros = 32 * DAY;

impl Scale {
    /// The unit of power or energy that is scaled so; `None` where the unit is kept.
    pub fn unit(self) -> Option<Unit> {
        match self {
            Scale::Power(prefix) => Some(Unit::Power(prefix)),
            Scale::Energy(prefix) => Some(Unit::Energy(prefix)),
            Scale::AsIs => None,
        }
    }

    /// `value` in the stored unit, for an interval of `length`: 4 kW over 15 minutes are 1 kWh.
    pub fn store(self, value: f64, length: Micros) -> f64 {
        match self {
            Scale::Power(prefix) => prefix.to_kilo(value) * (length as f64 / HOUR as f64),
            Scale::Energy(prefix) => prefix.to_kilo(value),
            Scale::AsIs => value,
        }
    }

    /// Whether `value` can be stored, whatever the length of its interval: it is a number, and stays one where it is
    /// scaled and summed.
    pub fn can_store(self, value: f64) -> bool {
        self.store(value, LONGEST).abs() <= STORED_MAX
    }
}

/// Metric prefix of a power or energy unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PowerUnit {
    /// W, Wh
    One,
    /// kW, kWh
    Kilo,
    /// MW, MWh
    Mega,
    /// GW, GWh
    Giga,
}

impl PowerUnit {
    const fn prefix(self) -> &'static str {
        match self {
            PowerUnit::One => "",
            PowerUnit::Kilo => "k",
            PowerUnit::Mega => "M",
            PowerUnit::Giga => "G",
        }
    }

    fn to_kilo(self, value: f64) -> f64 {
        match self {
            PowerUnit::One => value / 1e3,
            PowerUnit::Kilo => value,
            PowerUnit::Mega => value * 1e3,
            PowerUnit::Giga => value * 1e6,
        }
    }
}

impl Unit {
    /// Kilowatt-hours, the unit of stored energy.
    pub const KWH: Unit = Unit::Energy(PowerUnit::Kilo);
    /// Kilowatts.
    pub const KW: Unit = Unit::Power(PowerUnit::Kilo);

    /// The unit in which intervals of readings in this unit are stored: kWh for power and energy (a gauge of
    /// power is integrated by its mean), else the unit itself.
    pub fn stored(&self) -> Unit {
        match self {
            Unit::Power(_) | Unit::Energy(_) => Unit::KWH,
            Unit::Other(_) => self.clone(),
        }
    }

    /// Whether values in this unit can be stored in `stored`.
    pub fn is_stored_as(&self, stored: &Unit) -> bool {
        match self {
            Unit::Power(_) | Unit::Energy(_) => *stored == Unit::KWH,
            Unit::Other(_) => self == stored,
        }
    }

    /// How values in this unit become values in the stored unit.
    pub fn scale(&self) -> Scale {
        match self {
            Unit::Power(prefix) => Scale::Power(*prefix),
            Unit::Energy(prefix) => Scale::Energy(*prefix),
            Unit::Other(_) => Scale::AsIs,
        }
    }

    /// Whether a value of this kind can have this unit; the text is the remedy. A known unit in other letters is
    /// refused: taken for an unknown one, power would be stored unconverted.
    pub fn check(&self, kind: ValueKind) -> Result<(), String> {
        match (kind, self) {
            (ValueKind::Counter, Unit::Power(_)) => {
                Err(format!("a counter accumulates energy, not power: use `{self}h` instead of `{self}`"))
            }
            (ValueKind::Gauge, Unit::Energy(_)) => {
                Err(format!("a gauge samples power, not energy: use kind = \"interval\" or \"counter\" for `{self}`"))
            }
            (_, Unit::Other(name)) => match Unit::known().find(|known| known.to_string().eq_ignore_ascii_case(name)) {
                Some(near) => Err(format!("unit `{name}` is unknown; did you mean `{near}`?")),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// The units that are converted.
    fn known() -> impl Iterator<Item = Unit> {
        let prefixes = [PowerUnit::One, PowerUnit::Kilo, PowerUnit::Mega, PowerUnit::Giga];
        prefixes.into_iter().flat_map(|p| [Unit::Power(p), Unit::Energy(p)])
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unit::Power(p) => write!(f, "{}W", p.prefix()),
            Unit::Energy(p) => write!(f, "{}Wh", p.prefix()),
            Unit::Other(name) => f.write_str(name),
        }
    }
}

impl FromStr for Unit {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Unit::known().find(|unit| unit.to_string() == text).unwrap_or_else(|| Unit::Other(text.into())))
    }
}

impl Serialize for Unit {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Unit {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let Ok(unit) = String::deserialize(d)?.parse();
        Ok(unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::MINUTE;

    #[test]
    fn a_known_unit_in_other_letters_is_refused_with_the_right_ones() {
        for (text, near) in [("kw", Some("`kW`")), ("KWH", Some("`kWh`")), ("mwh", Some("`MWh`")), ("m3", None)] {
            let Ok(unit) = text.parse::<Unit>();
            let checked = unit.check(ValueKind::Interval);
            assert_eq!(checked.is_err(), near.is_some(), "{text}");
            assert!(near.is_none_or(|near| checked.is_err_and(|e| e.contains(near))), "{text}");
        }
    }

    #[test]
    fn what_is_no_number_once_it_is_scaled_cannot_be_stored() {
        for (unit, value, can) in [
            ("GW", 1e305, false),
            ("GW", -1e305, false),
            ("GW", 1e290, true),
            ("kW", 1e299, false),
            ("kWh", -1e299, true),
            ("degC", 1e301, false),
            ("degC", f64::NAN, false),
            ("Wh", f64::INFINITY, false),
            ("Wh", 0.0, true),
        ] {
            let Ok(parsed) = unit.parse::<Unit>();
            assert_eq!(parsed.scale().can_store(value), can, "{value} {unit}");
        }
        assert!(crate::frequency::STANDARD.iter().all(|frequency| frequency.nominal_micros() < LONGEST));
    }

    #[test]
    fn power_becomes_energy_of_the_interval() {
        for (unit, value, length, stored) in [
            ("kW", 4.0, 15 * MINUTE, 1.0),
            ("kW", 4.0, HOUR, 4.0),
            ("W", 500.0, 30 * MINUTE, 0.25),
            ("MWh", 0.5, 15 * MINUTE, 500.0),
            ("degC", 21.5, HOUR, 21.5),
        ] {
            let Ok(unit) = unit.parse::<Unit>();
            assert_eq!(unit.scale().store(value, length), stored, "{unit}");
        }
    }
}
