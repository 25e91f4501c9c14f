//! Test windows that are moved back in time. What is tried out is chosen there, so that the windows of the protocols
//! stay unseen: only what lies before the first of *them* is looked at.

use meterline_schemas::Frequency;
use meterline_schemas::time::format_micros;

use super::m4::{HORIZON, M4Hourly, SEASON};
use super::{Protocol, table};

impl Protocol {
    /// The protocol with every origin moved back by as many days of its zone, and with no figures of others: those are
    /// of other windows. Nothing of the protocol's own windows is left in the panel.
    ///
    /// # Errors
    /// Moved windows would overlap those of the protocol, or miss values, or lie before the data.
    pub fn earlier(mut self, days: u32) -> Result<Protocol, String> {
        let (Some(first), Some(last)) = (self.origins.first().copied(), self.origins.last().copied()) else {
            return Ok(self);
        };
        let refuse = |what: String| Err(format!("protocol {}: {what}", self.name));
        let back = |origin| Frequency::Day.advance(origin, -i64::from(days), &self.panel.zone);
        let end = self.panel.frequency.advance(back(last), self.horizon as i64, &self.panel.zone);
        if end > first {
            return refuse(format!(
                "windows moved back by {days} days end at {}, after the protocol's own begin ({}): move them back by more",
                format_micros(end),
                format_micros(first)
            ));
        }
        let begin = self.panel.series.iter().map(|series| series.start).max().unwrap_or(first);
        if back(first) <= begin {
            return refuse(format!(
                "windows moved back by {days} days begin at {}, where not all series have: at {}; move them back by less",
                format_micros(back(first)),
                format_micros(begin)
            ));
        }
        self.origins = self.origins.iter().copied().map(back).collect();
        self.train_until = back(first);
        self.panel = self.panel.cut(end);
        for column in &mut self.covariates {
            let of = &self.panel.series[column.series.unwrap_or(0)];
            column.values.truncate(of.values.len());
        }
        self.checks.clear();
        self.peers.clear();
        self.validated()
    }
}

impl M4Hourly {
    /// The series without their last hours, the last [`HORIZON`] of what is left being what is to be forecast; with no
    /// figures of others. The competition's test part is not there any more.
    ///
    /// # Errors
    /// A season of history would not be left of some series, or fewer days than a horizon.
    pub fn earlier(mut self, days: u32) -> Result<M4Hourly, String> {
        let hours = SEASON * days as usize;
        if hours < HORIZON {
            return Err(format!(
                "M4: windows moved back by {days} days overlap those of the test: move them back by {} at least",
                HORIZON / SEASON
            ));
        }
        for (series, actuals) in self.panel.series.iter_mut().zip(&mut self.actuals) {
            let known = series.values.len().saturating_sub(hours);
            if known < SEASON {
                return Err(format!(
                    "M4: series {} has {} values: nothing is known {days} days before; {}",
                    series.id,
                    series.values.len(),
                    table::REMEDY
                ));
            }
            *actuals = series.values[known..known + HORIZON].to_vec();
            series.values.truncate(known);
        }
        self.checks.clear();
        self.peers.clear();
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use meterline_models::data::{Panel, Series};
    use meterline_models::holidays::Holidays;
    use meterline_schemas::Micros;
    use meterline_schemas::time::{DAY, HOUR};

    use super::super::CovariateColumn;
    use super::*;

    /// Thirty days of one series, each hour its number, with origins at the midnights of the last three.
    fn small() -> Protocol {
        let values: Vec<f32> = (0..720).map(|hour| hour as f32).collect();
        let origins: Vec<Micros> = (27..30).map(|day| day * DAY).collect();
        Protocol {
            name: "small",
            title: "",
            panel: Panel::new(Frequency::HOUR, TimeZone::UTC, vec![Series::new("a", 0, values.clone())]),
            covariates: vec![CovariateColumn { name: "number", series: None, values }],
            holidays: Holidays::none(),
            train_until: origins[0],
            origins,
            horizon: 24,
            season: 24,
            checks: vec![],
            peers: vec![],
        }
    }

    #[test]
    fn windows_are_moved_back_and_nothing_later_is_left() {
        let moved = small().earlier(5).unwrap();
        assert_eq!(moved.origins, [22 * DAY, 23 * DAY, 24 * DAY]);
        assert_eq!(moved.train_until, 22 * DAY);
        assert_eq!(moved.panel.series[0].values.len(), 25 * 24);
        assert_eq!(moved.covariates[0].values.len(), 25 * 24);
        assert_eq!(moved.first_step(0, 24 * DAY), Some(24 * 24));
    }

    #[test]
    fn windows_that_would_overlap_or_begin_before_the_data_are_refused() {
        let overlap = small().earlier(2).unwrap_err();
        assert!(overlap.contains("move them back by more"), "{overlap}");
        assert!(small().earlier(3).is_ok());
        let before = small().earlier(27).unwrap_err();
        assert!(before.contains("move them back by less"), "{before}");
    }

    #[test]
    fn midnights_stay_midnights_when_clocks_change() {
        let zone = TimeZone::get("Europe/Amsterdam").unwrap();
        // From 1 March 2023 on; clocks are put forward on the 26th.
        let start = 1_677_625_200 * 1_000_000;
        let values = vec![1.0; 35 * 24];
        let origin = Frequency::Day.advance(start, 30, &zone);
        let moved = Protocol {
            panel: Panel::new(Frequency::HOUR, zone, vec![Series::new("a", start, values)]),
            covariates: vec![],
            origins: vec![origin],
            train_until: origin,
            ..small()
        }
        .earlier(10)
        .unwrap();
        assert_eq!(moved.origins, [start + 20 * DAY]);
        assert_eq!(origin, start + 30 * DAY - HOUR);
    }

    #[test]
    fn series_of_the_competition_end_earlier() {
        let values: Vec<f32> = (0..120).map(|hour| hour as f32).collect();
        let data = || M4Hourly {
            panel: Panel::new(Frequency::HOUR, TimeZone::UTC, vec![Series::new("H1", 0, values.clone())]),
            actuals: vec![vec![-1.0; HORIZON]],
            checks: vec![],
            peers: vec![],
        };
        let moved = data().earlier(3).unwrap();
        assert_eq!(moved.panel.series[0].values, values[..48]);
        assert_eq!(moved.actuals[0], values[48..96]);
        assert!(data().earlier(1).unwrap_err().contains("by 2 at least"));
        assert!(data().earlier(5).unwrap_err().contains("nothing is known"));
    }
}
