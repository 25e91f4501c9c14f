//! Days off: the public holidays of a country, and what users add to them or take away.
//!
//! Loads of a holiday are those of a Sunday rather than of its weekday, and the days around it differ too.

use std::collections::BTreeSet;

use holidays_rs::{Calendar, Country};
use jiff::ToSpan;
use jiff::civil::{Date, Weekday};
use serde::{Deserialize, Serialize};

/// Days off of one place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct Holidays {
    country: Option<Country>,
    added: BTreeSet<Date>,
    removed: BTreeSet<Date>,
}

/// As they are kept: names and dates as texts.
#[derive(Serialize, Deserialize)]
struct Stored {
    country: Option<String>,
    added: Vec<String>,
    removed: Vec<String>,
}

impl From<Holidays> for Stored {
    fn from(holidays: Holidays) -> Stored {
        let texts = |days: BTreeSet<Date>| days.into_iter().map(|day| day.to_string()).collect();
        Stored {
            country: holidays.country.map(|country| country.name().to_owned()),
            added: texts(holidays.added),
            removed: texts(holidays.removed),
        }
    }
}

impl TryFrom<Stored> for Holidays {
    type Error = String;

    fn try_from(stored: Stored) -> Result<Holidays, String> {
        let dates = |texts: Vec<String>| -> Result<Vec<Date>, String> {
            texts.iter().map(|text| text.parse().map_err(|error| format!("the day off `{text}`: {error}"))).collect()
        };
        let all = match stored.country {
            Some(country) => Holidays::of(&country).map_err(|error| error.to_string())?,
            None => Holidays::none(),
        };
        Ok(all.with(dates(stored.added)?).without(dates(stored.removed)?))
    }
}

/// What kind of day a date is, by the load that is usual on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DayType {
    /// Monday to Friday.
    Workday,
    /// Saturday that is no holiday.
    Saturday,
    /// Sunday, or a holiday on any day.
    DayOff,
}

/// A country whose holidays are not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no public holidays are known of `{country}`{}; add them as days of your own", meant(.nearest))]
pub struct UnknownCountry {
    /// What was asked for.
    pub country: String,
    /// A name that is like it.
    pub nearest: Option<String>,
}

fn meant(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!(" (did you mean `{name}`?)")).unwrap_or_default()
}

impl Holidays {
    /// No day off but Sundays.
    pub fn none() -> Holidays {
        Holidays::default()
    }

    /// Those of a country by its English name, whole nation only: those of a region are to be [added](Self::with).
    ///
    /// # Errors
    /// There is no such country, or nothing is known of it.
    pub fn of(country: &str) -> Result<Holidays, UnknownCountry> {
        let plain = |text: &str| text.to_lowercase().replace(['_', '-'], " ");
        let wanted = plain(country);
        let found = Country::ALL.iter().copied().find(|known| plain(known.name()) == wanted);
        let begins = || {
            Country::ALL.iter().find(|known| {
                wanted.len() > 2 && plain(known.name()).starts_with(&wanted[..wanted.floor_char_boundary(3)])
            })
        };
        match found {
            Some(known) => Ok(Holidays { country: Some(known), ..Holidays::default() }),
            None => Err(UnknownCountry {
                country: country.to_owned(),
                nearest: begins().map(|known| known.name().to_owned()),
            }),
        }
    }

    /// With further days off.
    pub fn with(mut self, days: impl IntoIterator<Item = Date>) -> Holidays {
        self.added.extend(days);
        self
    }

    /// Without these, which are worked on here.
    pub fn without(mut self, days: impl IntoIterator<Item = Date>) -> Holidays {
        self.removed.extend(days);
        self
    }

    /// Whether a date is a holiday.
    pub fn contains(&self, date: Date) -> bool {
        if self.removed.contains(&date) {
            return false;
        }
        self.added.contains(&date) || self.country.is_some_and(|country| is_holiday(country, date))
    }

    /// Whether there are none at all.
    pub fn is_none(&self) -> bool {
        self.country.is_none() && self.added.is_empty()
    }

    /// Whether a date would be worked on, were it no holiday.
    pub fn is_workday_off(&self, date: Date) -> bool {
        !matches!(date.weekday(), Weekday::Saturday | Weekday::Sunday) && self.contains(date)
    }

    /// What kind of day a date is.
    pub fn day_type(&self, date: Date) -> DayType {
        match date.weekday() {
            _ if self.contains(date) => DayType::DayOff,
            Weekday::Sunday => DayType::DayOff,
            Weekday::Saturday => DayType::Saturday,
            _ => DayType::Workday,
        }
    }

    /// How many workdays of the week before and of the week after a date are holidays, those nearby in full and those a
    /// week away hardly: between Christmas and the new year even a workday is none.
    pub fn near(&self, date: Date) -> f32 {
        let weight = |days: i64| {
            let near = date.checked_add(days.days()).ok().filter(|near| self.is_workday_off(*near));
            near.map_or(0.0, |_| 1.0 - days.abs() as f32 / 8.0)
        };
        (-7..=7).filter(|days| *days != 0).map(weight).sum()
    }

    /// Whether the day before and the day after are holidays.
    pub fn neighbours(&self, date: Date) -> (bool, bool) {
        let beside = |days: i64| date.checked_add(days.days()).is_ok_and(|date| self.contains(date));
        (beside(-1), beside(1))
    }
}

fn is_holiday(country: Country, date: Date) -> bool {
    let parts = (i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs());
    holidays_rs::Date::new(parts.0, parts.1, parts.2).is_some_and(|date| Calendar::new(country).is_holiday(date))
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    #[test]
    fn a_country_has_its_days_off_and_users_have_theirs() {
        let portugal = Holidays::of("portugal").unwrap();
        for (day, expected) in [
            (date(2014, 12, 8), DayType::DayOff),
            (date(2014, 12, 9), DayType::Workday),
            (date(2014, 12, 13), DayType::Saturday),
            (date(2014, 12, 14), DayType::DayOff),
            (date(2014, 4, 18), DayType::DayOff),
        ] {
            assert_eq!(portugal.day_type(day), expected, "{day}");
        }
        assert_eq!(portugal.neighbours(date(2014, 12, 9)), (true, false));
        // The 25th of December 2014 is a Thursday, the 1st of January, too; the Sundays among holidays do not count.
        assert_eq!(portugal.near(date(2014, 12, 29)), (1.0 - 3.0 / 8.0) + (1.0 - 4.0 / 8.0));
        assert_eq!((portugal.near(date(2014, 12, 25)), portugal.near(date(2014, 11, 12))), (1.0 / 8.0, 0.0));
        let here = portugal.with([date(2014, 6, 13)]).without([date(2014, 12, 8)]);
        assert!(here.contains(date(2014, 6, 13)) && !here.contains(date(2014, 12, 8)));
        assert_eq!(Holidays::none().day_type(date(2014, 12, 25)), DayType::Workday);
        assert!(Holidays::none().is_none() && !here.is_none() && !Holidays::none().with([date(2014, 6, 13)]).is_none());
        // The 25th of April 2015 is a Saturday, on which few work anyway.
        assert!(here.contains(date(2015, 4, 25)) && !here.is_workday_off(date(2015, 4, 25)));
        assert!(here.is_workday_off(date(2014, 6, 13)) && !here.is_workday_off(date(2014, 6, 12)));
    }

    #[test]
    fn an_unknown_country_is_named_with_one_that_is_like_it() {
        let error = Holidays::of("Portugul").unwrap_err();
        assert_eq!(error.nearest.as_deref(), Some("Portugal"));
        assert!(error.to_string().contains("`Portugul`") && error.to_string().contains("did you mean `Portugal`"));
        assert_eq!(Holidays::of("").unwrap_err().nearest, None);
    }
}
