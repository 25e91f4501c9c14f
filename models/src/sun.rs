//! Where the sun stands, at any place and time.
//!
//! The apparent place of the sun by its mean elements and the equation of the centre, with the largest term of nutation,
//! and sidereal time: J. Meeus, "Astronomical Algorithms", second edition (1998), chapters 12, 13, 22 and 25; the same
//! equations as those of the solar calculator of NOAA. Good to about 0.01 degrees from 1900 to 2100, where a hundredth would
//! do. Elevations are geometric: of the centre of the sun, without the refraction that lifts it by half a degree at the
//! horizon.

use meterline_schemas::Micros;
use meterline_schemas::location::Location;
use meterline_schemas::time::{DAY, MINUTE};

/// Noon of the first of January 2000.
const J2000: Micros = 946_728_000_000_000;
/// Days of a Julian century.
const CENTURY: f64 = 36_525.0;
/// From one look at the sun to the next within an interval.
const LOOK_EVERY: Micros = 15 * MINUTE;
/// Looks at the sun within an interval, at most: each quarter of an hour of a day.
const LOOKS_MAX: i64 = 96;

/// The place of the sun among the stars, in radians.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Equatorial {
    right_ascension: f64,
    declination: f64,
}

/// What an interval has of the sun.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sunlight {
    /// Mean of the sine of the elevation while the sun is up, and of 0 while it is not, 0 to 1: what would fall on level
    /// ground without an atmosphere, as a share of what falls on a surface that faces the sun.
    pub on_ground: f32,
    /// Mean elevation in right angles: −1 to 1.
    pub elevation: f32,
}

/// Sine of the elevation of the sun, at a place and an instant; −1 to 1.
fn sine_of_elevation(location: Location, at: Micros) -> f64 {
    let days = days(at);
    let Equatorial { right_ascension, declination } = equatorial(days / CENTURY);
    let hour_angle = sidereal(days) + location.longitude().to_radians() - right_ascension;
    let (sin_latitude, cos_latitude) = location.latitude().to_radians().sin_cos();
    let (sin_declination, cos_declination) = declination.sin_cos();
    (sin_latitude * sin_declination + cos_latitude * cos_declination * hour_angle.cos()).clamp(-1.0, 1.0)
}

/// What the interval between two instants has of the sun: means over the middles of its quarters of an hour, or, of one
/// longer than a day, over as many parts as a day has of these.
pub fn sunlight(location: Location, from: Micros, to: Micros) -> Sunlight {
    let length = to.saturating_sub(from).max(1);
    let looks = (length / LOOK_EVERY).clamp(1, LOOKS_MAX);
    let (mut on_ground, mut elevation) = (0.0, 0.0);
    for look in 0..looks {
        let part = (look as f64 + 0.5) / looks as f64;
        let sine = sine_of_elevation(location, from.saturating_add((part * length as f64) as Micros));
        on_ground += sine.max(0.0);
        elevation += sine.asin();
    }
    let mean = |sum: f64| (sum / looks as f64) as f32;
    Sunlight { on_ground: mean(on_ground), elevation: mean(elevation / std::f64::consts::FRAC_PI_2) }
}

// Since J2000. Universal time stands for the time of the ephemeris: the sun moves a twentieth of a degree an hour, and
// they differ by a minute or two.
fn days(at: Micros) -> f64 {
    (at as f64 - J2000 as f64) / DAY as f64
}

// Chapters 22 and 25, by Julian centuries since J2000.
fn equatorial(t: f64) -> Equatorial {
    let mean_longitude = 280.46646 + t * (36_000.769_83 + t * 0.000_303_2);
    let anomaly = (357.52911 + t * (35_999.050_29 - t * 0.000_153_7)).to_radians();
    let centre = anomaly.sin() * (1.914_602 - t * (0.004_817 + t * 0.000_014))
        + (2.0 * anomaly).sin() * (0.019_993 - t * 0.000_101)
        + (3.0 * anomaly).sin() * 0.000_289;
    // Aberration, and the nutation by the node of the moon's orbit.
    let node = (125.04 - 1_934.136 * t).to_radians();
    let longitude = (mean_longitude + centre - 0.005_69 - 0.004_78 * node.sin()).to_radians();
    let mean_obliquity = 84_381.448 - t * (46.8150 + t * (0.000_59 - t * 0.001_813));
    let obliquity = (mean_obliquity / 3_600.0 + 0.002_56 * node.cos()).to_radians();
    let (sin, cos) = longitude.sin_cos();
    Equatorial {
        right_ascension: (obliquity.cos() * sin).atan2(cos),
        declination: (obliquity.sin() * sin).clamp(-1.0, 1.0).asin(),
    }
}

// Mean sidereal time at Greenwich, chapter 12, in radians, by days since J2000.
fn sidereal(days: f64) -> f64 {
    let t = days / CENTURY;
    // Whole turns first: what is left keeps its digits.
    let turns = (days.rem_euclid(1.0) + 0.002_737_909_350_795 * days).rem_euclid(1.0);
    (280.460_618_37 + 360.0 * turns + 0.000_387_933 * t * t).to_radians()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use meterline_schemas::time::{HOUR, SECOND};
    use proptest::prelude::*;

    use super::*;

    // In degrees above the horizon.
    fn elevation(location: Location, at: Micros) -> f64 {
        sine_of_elevation(location, at).asin().to_degrees()
    }

    fn at(text: &str) -> Micros {
        text.parse::<Timestamp>().unwrap().as_microsecond()
    }

    fn place(latitude: f64, longitude: f64) -> Location {
        Location::new(latitude, longitude).unwrap()
    }

    // The minute at which the upper edge of the sun is seen at the horizon for the first time after `from`: 50 minutes of
    // arc below it, with the refraction that almanacs go by.
    fn crossing(location: Location, from: &str) -> Micros {
        let is_up = |at: Micros| elevation(location, at) > -50.0 / 60.0;
        let begun = at(from);
        (1..24 * 60).map(|minute| begun + minute * MINUTE).find(|at| is_up(*at) != is_up(begun)).unwrap()
    }

    #[test]
    fn the_place_among_the_stars_is_that_of_the_book() {
        // Meeus, example 25.a: the 13th of October 1992, 0h.
        let sun = equatorial(-0.072_183_436);
        assert!((sun.right_ascension.to_degrees().rem_euclid(360.0) - 198.38083).abs() < 1e-4, "{sun:?}");
        assert!((sun.declination.to_degrees() + 7.78507).abs() < 1e-4, "{sun:?}");
        // Example 12.b: the 10th of April 1987, 19h 21m: 8h 34m 57.0896s.
        let found = sidereal(days(at("1987-04-10T19:21:00Z"))).to_degrees().rem_euclid(360.0);
        assert!((found - 128.737_873_4).abs() < 1e-5, "{found}");
    }

    #[test]
    fn the_elevation_is_that_of_the_reference() {
        // The example of I. Reda and A. Andreas, "Solar position algorithm for solar radiation applications" (NREL, 2008):
        // 39.87 degrees without refraction.
        let found = elevation(place(39.742476, -105.1786), at("2003-10-17T19:30:30Z"));
        assert!((found - 39.872).abs() < 0.01, "{found}");
    }

    #[test]
    fn the_sun_crosses_the_equator_at_the_equinoxes_of_a_century_and_a_half() {
        for equinox in ["1950-03-21T04:35:00Z", "2000-03-20T07:35:00Z", "2050-03-20T10:19:00Z", "2100-03-20T13:04:00Z"]
        {
            let found = equatorial(days(at(equinox)) / CENTURY).declination.to_degrees();
            assert!(found.abs() < 0.01, "{equinox}: {found}");
        }
        // At noon of such a day it stands as far from the zenith as the place is from the equator.
        for latitude in [-60.0, -20.0, 0.0, 35.0, 52.0, 89.0_f64] {
            let highest = (0..24 * 60)
                .map(|minute| elevation(place(latitude, 0.0), at("2024-03-20T00:00:00Z") + minute * MINUTE))
                .fold(-90.0, f64::max);
            assert!((highest - (90.0 - latitude.abs())).abs() < 0.2, "{latitude}: {highest}");
        }
    }

    #[test]
    fn beyond_the_polar_circle_it_is_day_all_summer_and_night_all_winter() {
        let tromso = place(69.65, 18.96);
        for hour in 0..24 {
            assert!(elevation(tromso, at("2024-06-21T00:00:00Z") + hour * HOUR) > 0.0, "{hour}");
            assert!(elevation(tromso, at("2024-12-21T00:00:00Z") + hour * HOUR) < 0.0, "{hour}");
        }
        let light = |day: &str| sunlight(tromso, at(day), at(day) + DAY);
        assert_eq!(light("2024-12-21T00:00:00Z").on_ground, 0.0);
        assert!(light("2024-12-21T00:00:00Z").elevation < -0.2 && light("2024-06-21T00:00:00Z").elevation > 0.2);
    }

    #[test]
    fn it_rises_and_sets_when_almanacs_say() {
        let (london, sydney) = (place(51.5074, -0.1278), place(-33.8688, 151.2093));
        for (city, from, expected) in [
            (london, "2024-06-20T00:00:00Z", "2024-06-20T03:43:00Z"),
            (london, "2024-06-20T12:00:00Z", "2024-06-20T20:21:00Z"),
            (london, "2024-12-21T00:00:00Z", "2024-12-21T08:04:00Z"),
            (london, "2024-12-21T12:00:00Z", "2024-12-21T15:53:00Z"),
            // 5:41 in the morning, and 20:05 in the evening, of the 21st there.
            (sydney, "2024-12-20T12:00:00Z", "2024-12-20T18:41:00Z"),
            (sydney, "2024-12-21T02:00:00Z", "2024-12-21T09:05:00Z"),
        ] {
            let found = crossing(city, from);
            assert!((found - at(expected)).abs() <= 2 * MINUTE, "{expected}: {}", (found - at(expected)) / SECOND);
        }
    }

    #[test]
    fn a_day_is_even_around_its_noon() {
        let city = place(52.1, 5.3);
        let begun = at("2025-06-21T00:00:00Z");
        let all = (0..24 * 60).map(|minute| begun + minute * MINUTE);
        let noon = all.max_by(|a, b| elevation(city, *a).total_cmp(&elevation(city, *b))).unwrap();
        // 5.3 degrees are 21 minutes, and in June sundials are two late.
        assert!((noon - at("2025-06-21T11:41:00Z")).abs() <= 2 * MINUTE, "{}", (noon - begun) / MINUTE);
        for hours in 1..12 {
            let (before, after) = (elevation(city, noon - hours * HOUR), elevation(city, noon + hours * HOUR));
            assert!((before - after).abs() < 0.2, "{hours}: {before} {after}");
        }
    }

    #[test]
    fn what_an_interval_has_is_the_mean_of_its_parts() {
        let city = place(52.1, 5.3);
        for (hour, from) in (0..24).map(|hour| (hour, at("2025-04-01T00:00:00Z") + hour * HOUR)) {
            let whole = sunlight(city, from, from + HOUR);
            let parts = (0..4).map(|part| from + part * LOOK_EVERY).map(|from| sunlight(city, from, from + LOOK_EVERY));
            let (on_ground, elevation) = parts
                .fold((0.0, 0.0), |(ground, high), part| (ground + part.on_ground / 4.0, high + part.elevation / 4.0));
            assert!((whole.on_ground - on_ground).abs() < 1e-6 && (whole.elevation - elevation).abs() < 1e-6, "{hour}");
            // Of each minute of it: in the hours in which it rises and sets, one look more or less counts.
            let minutes = (0..60).map(|minute| sine_of_elevation(city, from + minute * MINUTE + MINUTE / 2).max(0.0));
            assert!((f64::from(whole.on_ground) - minutes.sum::<f64>() / 60.0).abs() < 2e-3, "{hour}");
        }
        let month = sunlight(city, at("2025-06-01T00:00:00Z"), at("2025-07-01T00:00:00Z"));
        let days = (1..=30).map(|day| at(&format!("2025-06-{day:02}T00:00:00Z")));
        let mean = days.map(|day| sunlight(city, day, day + DAY).on_ground / 30.0).sum::<f32>();
        assert!((month.on_ground - mean).abs() < 0.01, "{} {mean}", month.on_ground);
    }

    proptest! {
        #[test]
        fn it_stands_between_nadir_and_zenith_and_never_leaps(
            latitude in -90.0..=90.0_f64,
            longitude in -180.0..=180.0_f64,
            at in any::<Micros>(),
            of_our_time in -631_152_000_000_000..4_133_980_800_000_000_i64,
        ) {
            let city = place(latitude, longitude);
            prop_assert!((-90.0..=90.0).contains(&elevation(city, at)));
            let light = sunlight(city, at, at.saturating_add(HOUR));
            prop_assert!((0.0..=1.0).contains(&light.on_ground) && (-1.0..=1.0).contains(&light.elevation));
            // A turn a day is a quarter of a degree a minute.
            let moved = elevation(city, of_our_time + MINUTE) - elevation(city, of_our_time);
            prop_assert!(moved.abs() < 0.26, "{moved}");
        }
    }
}
