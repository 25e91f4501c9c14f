//! A place on the earth, in degrees.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A place on the earth: latitude from −90 to 90 degrees, north positive; longitude from −180 to 180 degrees, east
/// positive. As a text `LATITUDE,LONGITUDE`, in a configuration `{ latitude = 52.1, longitude = 5.3 }`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Degrees", into = "Degrees")]
pub struct Location {
    latitude: f64,
    longitude: f64,
}

/// As it is written in a configuration.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Degrees {
    latitude: f64,
    longitude: f64,
}

/// Why there is no such [`Location`].
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LocationError {
    /// The text is not two numbers.
    #[error("`{0}` is no location; write its latitude and longitude in degrees, like 52.1,5.3")]
    Text(String),
    /// There is no such latitude.
    #[error("the latitude {0} is not between -90 and 90 degrees, north positive")]
    Latitude(f64),
    /// There is no such longitude.
    #[error("the longitude {0} is not between -180 and 180 degrees, east positive")]
    Longitude(f64),
}

impl Location {
    /// The place at this latitude (north positive) and longitude (east positive), in degrees.
    ///
    /// # Errors
    /// One of them is out of its range.
    pub fn new(latitude: f64, longitude: f64) -> Result<Location, LocationError> {
        match (latitude, longitude) {
            _ if !(-90.0..=90.0).contains(&latitude) => Err(LocationError::Latitude(latitude)),
            _ if !(-180.0..=180.0).contains(&longitude) => Err(LocationError::Longitude(longitude)),
            _ => Ok(Location { latitude, longitude }),
        }
    }

    /// Degrees north of the equator.
    pub fn latitude(&self) -> f64 {
        self.latitude
    }

    /// Degrees east of Greenwich.
    pub fn longitude(&self) -> f64 {
        self.longitude
    }
}

impl TryFrom<Degrees> for Location {
    type Error = LocationError;

    fn try_from(degrees: Degrees) -> Result<Location, LocationError> {
        Location::new(degrees.latitude, degrees.longitude)
    }
}

impl From<Location> for Degrees {
    fn from(location: Location) -> Degrees {
        Degrees { latitude: location.latitude, longitude: location.longitude }
    }
}

impl FromStr for Location {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Location, LocationError> {
        let degrees = |text: &str| text.trim().parse::<f64>().ok();
        let both = text.split_once(',').and_then(|(north, east)| Some((degrees(north)?, degrees(east)?)));
        let (latitude, longitude) = both.ok_or_else(|| LocationError::Text(text.to_owned()))?;
        Location::new(latitude, longitude)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.latitude, self.longitude)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_read_and_written() {
        for (text, latitude, longitude, shown) in [
            ("52.1,5.3", 52.1, 5.3, "52.1,5.3"),
            (" -33.9, 18.4", -33.9, 18.4, "-33.9,18.4"),
            ("90,-180", 90.0, -180.0, "90,-180"),
        ] {
            let location: Location = text.parse().unwrap();
            assert_eq!(
                (location.latitude(), location.longitude(), location.to_string()),
                (latitude, longitude, shown.into())
            );
            assert_eq!(location.to_string().parse(), Ok(location));
            let kept = serde_json::to_string(&location).unwrap();
            assert_eq!(serde_json::from_str::<Location>(&kept).unwrap(), location);
        }
    }

    #[test]
    fn what_is_no_location_is_refused_by_its_value() {
        for (text, words) in [
            ("", "`` is no location"),
            ("52.1", "`52.1` is no location; write its latitude and longitude in degrees, like 52.1,5.3"),
            ("52.1,5.3,7", "is no location"),
            ("52.1;5.3", "is no location"),
            ("90.1,5.3", "the latitude 90.1 is not between -90 and 90 degrees, north positive"),
            ("NaN,5.3", "the latitude NaN is not between"),
            ("52.1,-180.5", "the longitude -180.5 is not between -180 and 180 degrees, east positive"),
            ("52.1,inf", "the longitude inf is not between"),
        ] {
            let error = text.parse::<Location>().unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
        assert!(serde_json::from_str::<Location>(r#"{"latitude": 52.1}"#).is_err());
        assert!(serde_json::from_str::<Location>(r#"{"latitude": 99, "longitude": 5}"#).is_err());
    }
}
