//! What can be chosen: named parameters, their domains, and when they apply.

use std::collections::HashSet;
use std::fmt;

use meterline_schemas::settings::{Settings, Value};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How a number is spread over its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// Equal differences are equally likely.
    #[default]
    Linear,
    /// Equal ratios are equally likely: learning rates, regularisation, sizes.
    Log,
}

/// Values that a parameter can have. Bounds are included.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Domain {
    /// A number, proposed with six significant digits.
    Float {
        /// Least value.
        low: f64,
        /// Greatest value.
        high: f64,
        /// Linear unless said otherwise.
        #[serde(default)]
        scale: Scale,
    },
    /// A whole number.
    Integer {
        /// Least value.
        low: i64,
        /// Greatest value.
        high: i64,
        /// Linear unless said otherwise.
        #[serde(default)]
        scale: Scale,
    },
    /// One of a few names without order.
    Categorical {
        /// The names.
        choices: Vec<String>,
    },
}

/// The choice of another parameter that a parameter depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// A categorical parameter that is declared earlier.
    pub parameter: String,
    /// Its choice.
    pub choice: String,
}

/// One parameter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameter {
    /// Its name, unique in the space.
    pub name: String,
    /// What it can be.
    pub domain: Domain,
    /// It has a value only where this holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only_if: Option<Condition>,
}

impl Parameter {
    /// A parameter that always applies.
    pub fn new(name: &str, domain: Domain) -> Parameter {
        Parameter { name: name.to_owned(), domain, only_if: None }
    }

    /// The same, but it applies only where the categorical `parameter` is `choice`.
    pub fn only_if(mut self, parameter: &str, choice: &str) -> Parameter {
        self.only_if = Some(Condition { parameter: parameter.to_owned(), choice: choice.to_owned() });
        self
    }

    /// Whether the parameter has a value in `configuration`, which has those of all earlier parameters.
    pub(super) fn applies(&self, configuration: &Configuration) -> bool {
        let met = |c: &Condition| configuration.choice(&c.parameter) == Some(c.choice.as_str());
        self.only_if.as_ref().is_none_or(met)
    }
}

/// A value for every parameter that applies.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Configuration(pub Settings);

impl Configuration {
    /// Value of a number; `None` where the parameter does not apply or is none.
    pub fn float(&self, name: &str) -> Option<f64> {
        match self.0.get(name) {
            Some(Value::Float(value)) => Some(*value),
            _ => None,
        }
    }

    /// Value of a whole number; `None` as for [`Configuration::float`].
    pub fn integer(&self, name: &str) -> Option<i64> {
        match self.0.get(name) {
            Some(Value::Integer(value)) => Some(*value),
            _ => None,
        }
    }

    /// Sets `of` to the value of a number, where there is one.
    pub(crate) fn set_float(&self, name: &str, of: &mut f64) {
        *of = self.float(name).unwrap_or(*of);
    }

    /// Sets `of` to the value of a whole number, where there is one that is not negative.
    pub(crate) fn set_count(&self, name: &str, of: &mut usize) {
        *of = self.integer(name).and_then(|value| usize::try_from(value).ok()).unwrap_or(*of);
    }

    /// Choice of a categorical parameter; `None` as for [`Configuration::float`].
    pub fn choice(&self, name: &str) -> Option<&str> {
        match self.0.get(name) {
            Some(Value::Choice(value)) => Some(value),
            _ => None,
        }
    }
}

/// Why a list of parameters is no space. Every message names the parameter.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum SpaceError {
    /// Two parameters of one name.
    #[error("parameter \"{0}\" is declared twice")]
    DeclaredTwice(String),
    /// Bounds that are not finite, or the wrong way round.
    #[error("parameter \"{0}\": bounds must be finite, and the lower one must not be above the upper one")]
    Bounds(String),
    /// A logarithmic scale that reaches 0 or below.
    #[error("parameter \"{0}\": a logarithmic scale needs bounds above 0")]
    LogBounds(String),
    /// A categorical parameter without choices, or with one twice.
    #[error("parameter \"{0}\": choices must be different names, at least one")]
    Choices(String),
    /// A condition on something else than a choice of an earlier categorical parameter.
    #[error(
        "parameter \"{0}\": its condition must name a categorical parameter declared before it, and one of its choices"
    )]
    Condition(String),
}

/// A checked list of parameters. One that depends on another stands after it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Parameter>", into = "Vec<Parameter>")]
pub struct Space(Vec<Parameter>);

impl Space {
    /// The space of `parameters`.
    ///
    /// # Errors
    /// [`SpaceError`] for the first parameter that is wrong.
    pub fn new(parameters: Vec<Parameter>) -> Result<Space, SpaceError> {
        for (i, parameter) in parameters.iter().enumerate() {
            let earlier = parameters.get(..i).unwrap_or_default();
            if earlier.iter().any(|other| other.name == parameter.name) {
                return Err(SpaceError::DeclaredTwice(parameter.name.clone()));
            }
            parameter.domain.check_bounds(&parameter.name)?;
            let offered = |condition: &Condition| {
                earlier.iter().filter(|other| other.name == condition.parameter).any(|other| match &other.domain {
                    Domain::Categorical { choices } => choices.contains(&condition.choice),
                    _ => false,
                })
            };
            if !parameter.only_if.as_ref().is_none_or(offered) {
                return Err(SpaceError::Condition(parameter.name.clone()));
            }
        }
        Ok(Space(parameters))
    }

    /// The parameters, in the order of their declaration.
    pub fn parameters(&self) -> &[Parameter] {
        &self.0
    }

    /// Says what keeps `configuration` from being one of this space.
    pub(super) fn check(&self, configuration: &Configuration) -> Result<(), String> {
        let mut known = Configuration::default();
        for parameter in &self.0 {
            let value = configuration.0.get(&parameter.name);
            match (value, parameter.applies(&known)) {
                (Some(value), true) if parameter.domain.contains(value) => {
                    known.0.insert(parameter.name.clone(), value.clone());
                }
                (Some(_), true) => return Err(format!("\"{}\" is outside its domain", parameter.name)),
                (None, true) => return Err(format!("\"{}\" is missing", parameter.name)),
                (Some(_), false) => return Err(format!("\"{}\" does not apply", parameter.name)),
                (None, false) => {}
            }
        }
        match configuration.0.keys().find(|name| !known.0.contains_key(*name)) {
            Some(name) => Err(format!("\"{name}\" is no parameter of the space")),
            None => Ok(()),
        }
    }
}

impl TryFrom<Vec<Parameter>> for Space {
    type Error = SpaceError;

    fn try_from(parameters: Vec<Parameter>) -> Result<Space, SpaceError> {
        Space::new(parameters)
    }
}

impl From<Space> for Vec<Parameter> {
    fn from(space: Space) -> Vec<Parameter> {
        space.0
    }
}

impl Domain {
    /// A number between `low` and `high`, in equal differences.
    pub fn float(low: f64, high: f64) -> Domain {
        Domain::Float { low, high, scale: Scale::Linear }
    }

    /// A number between `low` and `high`, in equal ratios.
    pub fn log_float(low: f64, high: f64) -> Domain {
        Domain::Float { low, high, scale: Scale::Log }
    }

    /// A whole number from `low` to `high`, in equal differences.
    pub fn integer(low: i64, high: i64) -> Domain {
        Domain::Integer { low, high, scale: Scale::Linear }
    }

    /// A whole number from `low` to `high`, in equal ratios.
    pub fn log_integer(low: i64, high: i64) -> Domain {
        Domain::Integer { low, high, scale: Scale::Log }
    }

    /// One of `choices`.
    pub fn categorical(choices: &[&str]) -> Domain {
        Domain::Categorical { choices: choices.iter().map(|choice| (*choice).to_owned()).collect() }
    }

    fn check_bounds(&self, name: &str) -> Result<(), SpaceError> {
        let (low, high, scale) = match self {
            Domain::Float { low, high, scale } => (*low, *high, *scale),
            Domain::Integer { low, high, .. } if low > high => return Err(SpaceError::Bounds(name.to_owned())),
            Domain::Integer { low, high, scale } => (*low as f64, *high as f64, *scale),
            Domain::Categorical { choices } => {
                let different: HashSet<&String> = choices.iter().collect();
                let usable = !choices.is_empty() && different.len() == choices.len();
                return if usable { Ok(()) } else { Err(SpaceError::Choices(name.to_owned())) };
            }
        };
        if !(low.is_finite() && high.is_finite() && low <= high && (high - low).is_finite()) {
            Err(SpaceError::Bounds(name.to_owned()))
        } else if scale == Scale::Log && low <= 0.0 {
            Err(SpaceError::LogBounds(name.to_owned()))
        } else {
            Ok(())
        }
    }

    /// Whether a value is one of the domain.
    pub fn contains(&self, value: &Value) -> bool {
        match (self, value) {
            (Domain::Float { low, high, .. }, Value::Float(value)) => low <= value && value <= high,
            (Domain::Integer { low, high, .. }, Value::Integer(value)) => low <= value && value <= high,
            (Domain::Categorical { choices }, Value::Choice(value)) => choices.contains(value),
            _ => false,
        }
    }

    /// The value at `unit` of the way through the domain, from 0 to 1; whole numbers and choices take equal parts of it
    /// (on their scale).
    pub(crate) fn at(&self, unit: f64) -> Value {
        match self {
            Domain::Float { low, high, scale } => {
                let (from, to) = (scale.apply(*low), scale.apply(*high));
                let value = six_digits(scale.undo(from + unit * (to - from)));
                Value::Float(value.clamp(*low, *high))
            }
            Domain::Integer { low, high, scale } => {
                let (from, to) = integer_ends(*low, *high, *scale);
                let value = scale.undo(from + unit * (to - from)).round() as i64;
                Value::Integer(value.clamp(*low, *high))
            }
            Domain::Categorical { choices } => {
                let position = (unit * choices.len() as f64) as usize;
                let choice = choices.get(position.min(choices.len().saturating_sub(1)));
                Value::Choice(choice.cloned().unwrap_or_default())
            }
        }
    }

    /// Where in the domain a number is, from 0 to 1. `None` for a choice, or a value of another kind.
    pub(super) fn unit(&self, value: &Value) -> Option<f64> {
        let (from, to, at) = match (self, value) {
            (Domain::Float { low, high, scale }, Value::Float(value)) => {
                (scale.apply(*low), scale.apply(*high), scale.apply(*value))
            }
            (Domain::Integer { low, high, scale }, Value::Integer(value)) => {
                let (from, to) = integer_ends(*low, *high, *scale);
                (from, to, scale.apply(*value as f64))
            }
            _ => return None,
        };
        Some(if to > from { ((at - from) / (to - from)).clamp(0.0, 1.0) } else { 0.5 })
    }
}

/// What the value of a parameter may be, in words.
impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Domain::Float { low, high, .. } => write!(f, "a number from {low} to {high}"),
            Domain::Integer { low, high, .. } => write!(f, "a whole number from {low} to {high}"),
            Domain::Categorical { choices } => write!(f, "one of {}", choices.join(", ")),
        }
    }
}

impl Scale {
    fn apply(self, value: f64) -> f64 {
        match self {
            Scale::Linear => value,
            Scale::Log => value.ln(),
        }
    }

    fn undo(self, value: f64) -> f64 {
        match self {
            Scale::Linear => value,
            Scale::Log => value.exp(),
        }
    }
}

/// Ends of the range that rounds to `low` … `high`.
fn integer_ends(low: i64, high: i64, scale: Scale) -> (f64, f64) {
    (scale.apply(low as f64 - 0.5), scale.apply(high as f64 + 0.5))
}

/// `value` with six significant digits: records stay readable, and survive any JSON reader bit for bit.
fn six_digits(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}
