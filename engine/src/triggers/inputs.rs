//! What a model is given beside the values of its series, and which kinds make use of it: one rule for policies and for
//! commands on plain files.

use meterline_models::registry::{self, Kind, Sees};

/// Something that a model is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// Labels of series.
    Labels,
    /// Covariates, of which some at least are known ahead.
    Covariates,
    /// Covariates that are known once their interval has ended.
    PastCovariates,
    /// Holidays of a country.
    Holidays,
    /// Dates that are days off.
    DaysOff,
    /// Dates that are worked on.
    Workdays,
    /// Where the series are, which tells where the sun stands.
    Location,
}

impl Input {
    /// The key that gives it in the table `model` of a policy.
    pub const fn key(self) -> &'static str {
        match self {
            Input::Labels => "labels",
            Input::Covariates | Input::PastCovariates => "covariates",
            Input::Holidays => "holidays",
            Input::DaysOff => "days_off",
            Input::Workdays => "workdays",
            Input::Location => "location",
        }
    }

    const fn what(self) -> &'static str {
        match self {
            Input::Labels => "labels",
            Input::Covariates => "covariates",
            Input::PastCovariates => "covariates that are known of the past alone",
            Input::Holidays | Input::DaysOff | Input::Workdays => "days off",
            Input::Location => "the place of the sun",
        }
    }

    /// What a kind sees at least that makes use of it.
    const fn least(self) -> Sees {
        match self {
            Input::Labels => Sees::All,
            Input::PastCovariates | Input::Location => Sees::Covariates,
            Input::Covariates => Sees::Ahead,
            Input::Holidays | Input::DaysOff | Input::Workdays => Sees::DaysOff,
        }
    }

    /// Whether a kind makes use of it.
    pub fn is_seen_by(self, kind: &Kind) -> bool {
        kind.sees >= self.least()
    }

    /// That a kind makes no use of it.
    pub fn of_no_use(self, kind: &Kind) -> String {
        format!("the model `{}` makes no use of {}", kind.name, self.what())
    }

    /// What to do about that.
    pub fn remedy(self) -> String {
        let others = registry::KINDS.iter().filter(|kind| self.is_seen_by(kind)).map(|kind| kind.name);
        format!("choose a kind that does ({}), or leave them out", others.collect::<Vec<_>>().join(", "))
    }
}
