//! The rows of large panels, some series at a time: what a design keeps of a series takes ten times its values.

use super::{Design, Seen};
use crate::data::Panel;
use crate::holidays::Holidays;

/// Values of the series that are prepared at once, about.
const VALUES: usize = 1 << 22;

/// Some series of a panel, prepared.
pub struct DesignPart {
    /// Their numbers in the panel.
    pub numbers: Vec<usize>,
    /// Themselves.
    pub panel: Panel,
    /// Their rows.
    pub design: Design,
}

impl Seen {
    /// The design of a panel like this one that has no series: names of features, and how many there are.
    pub fn names(&self, panel: &Panel, horizon: usize) -> Design {
        Design::with(&panel.with(Vec::new()), horizon, &Holidays::none(), self)
    }

    /// The rows of forecasts of `horizon` steps of those series of a panel that have these numbers, each with its newest
    /// `count` values, some series at a time.
    pub fn parts<'p>(
        &'p self,
        panel: &'p Panel,
        numbers: impl Iterator<Item = usize>,
        count: usize,
        horizon: usize,
        holidays: &'p Holidays,
    ) -> impl Iterator<Item = DesignPart> + 'p {
        let at_once = (VALUES / panel.longest().min(count).max(1)).max(1);
        self.parts_of(at_once, panel, numbers, count, horizon, holidays)
    }

    pub(super) fn parts_of<'p>(
        &'p self,
        at_once: usize,
        panel: &'p Panel,
        numbers: impl Iterator<Item = usize>,
        count: usize,
        horizon: usize,
        holidays: &'p Holidays,
    ) -> impl Iterator<Item = DesignPart> + 'p {
        let numbers: Vec<usize> = numbers.filter(|number| *number < panel.series.len()).collect();
        (0..numbers.len()).step_by(at_once).map(move |first| {
            let numbers = numbers[first..numbers.len().min(first + at_once)].to_vec();
            let newest = |number: &usize| panel.series[*number].newest(count, panel.frequency, &panel.zone);
            let part = panel.with(numbers.iter().map(newest).collect());
            DesignPart { design: Design::with(&part, horizon, holidays, self), numbers, panel: part }
        })
    }
}
