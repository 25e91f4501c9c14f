//! The rows of large panels, some series at a time: what a design keeps of a series takes ten times its values.

use meterline_schemas::Frequency;
use meterline_schemas::location::Location;

use super::{Design, Seen, lookback};
use crate::data::Panel;
use crate::forecaster::Task;
use crate::holidays::Holidays;

/// Values of the series that are prepared at once, about.
const VALUES: usize = 1 << 22;

/// Which rows are wanted of series.
#[derive(Clone, Copy)]
pub struct Wanted<'p> {
    /// Newest values of each that they may look at.
    pub newest: usize,
    /// Values of the series that are prepared at once, about.
    pub at_once: usize,
    /// Steps of a forecast.
    pub horizon: usize,
    /// Days off.
    pub holidays: &'p Holidays,
    /// Where the sun is looked at.
    pub location: Option<Location>,
}

/// Some series of a panel, prepared.
pub struct DesignPart {
    /// Their numbers in the panel.
    pub numbers: Vec<usize>,
    /// Themselves.
    pub panel: Panel,
    /// Their rows.
    pub design: Design,
}

impl<'p> Wanted<'p> {
    /// Those that models are trained on.
    pub fn to_learn(task: &'p Task) -> Wanted<'p> {
        let Task { horizon, ref holidays, location, .. } = *task;
        Wanted { newest: usize::MAX, at_once: VALUES, horizon, holidays, location }
    }

    /// Those of the forecasts from the end of the series.
    pub fn to_forecast(frequency: Frequency, horizon: usize, task: &'p Task) -> Wanted<'p> {
        Wanted { newest: lookback(frequency), horizon, ..Wanted::to_learn(task) }
    }
}

impl Seen {
    /// The design of a panel like this one that has no series: names of features, and how many there are.
    pub fn names(&self, panel: &Panel, task: &Task) -> Design {
        Design::with(&panel.with(Vec::new()), Wanted::to_learn(task), self)
    }

    /// The rows of those series of a panel that have these numbers, some series at a time.
    pub fn parts<'p>(
        &'p self,
        panel: &'p Panel,
        numbers: impl Iterator<Item = usize>,
        wanted: Wanted<'p>,
    ) -> impl Iterator<Item = DesignPart> + 'p {
        let at_once = (wanted.at_once / panel.longest().min(wanted.newest).max(1)).max(1);
        let numbers: Vec<usize> = numbers.filter(|number| *number < panel.series.len()).collect();
        (0..numbers.len()).step_by(at_once).map(move |first| {
            let numbers = numbers[first..numbers.len().min(first + at_once)].to_vec();
            let shown = |number: &usize| panel.series[*number].newest(wanted.newest, panel.frequency, &panel.zone);
            let part = panel.with(numbers.iter().map(shown).collect());
            DesignPart { design: Design::with(&part, wanted, self), numbers, panel: part }
        })
    }
}
