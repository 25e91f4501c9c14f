//! Which part of the history chooses between models. Pure.

use meterline_schemas::{Frequency, Micros};

use crate::data::Panel;
use crate::forecaster::Task;

/// Parts of the end of the history that are forecast by models that have not seen them.
const FOLDS: usize = 4;
/// Days of one fold: at most, and so many of the whole history.
const DAYS_MAX: usize = 28;
const DAYS_OF: usize = 14;
/// Days from the end of one fold to that of the next, at most: four of them see all seasons of a year.
const APART_MAX: usize = 91;
/// The same, of the whole history.
const APART_OF: usize = 16;
/// Days of a fold at the least, and of a history that bears folds of so few.
const DAYS_MIN: usize = 2;
const HISTORY_MIN: usize = 21;

/// Origins whose forecasts can be compared with all that came after them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fold {
    /// The end of what models are fitted to.
    pub cut: Micros,
    /// Origins, the oldest first; that is `cut`.
    pub origins: Vec<Micros>,
}

/// Intervals that the longest series has to have for there to be folds.
pub(crate) fn needed(frequency: Frequency, horizon: usize) -> usize {
    let season = frequency.season().max(1);
    (HISTORY_MIN + horizon.div_ceil(season)) * season
}

/// The folds of a panel, the oldest first; none where the history is too short to keep anything from a model. Origins
/// are a season (a day, where there are several intervals in one) apart, and at each time of day that the task is about in
/// turn.
pub(crate) fn folds(panel: &Panel, task: &Task) -> Vec<Fold> {
    let (horizon, times) = (task.horizon, task.origins_a_day.max(1));
    let (frequency, zone) = (panel.frequency, &panel.zone);
    let Some(end) = panel.origin() else { return Vec::new() };
    let season = frequency.season().max(1);
    let longest = panel.longest();
    let days = (longest / season).saturating_sub(horizon.div_ceil(season));
    if days < HISTORY_MIN {
        return Vec::new();
    }
    let of_fold = (days / DAYS_OF).clamp(DAYS_MIN, DAYS_MAX);
    let apart = (days / APART_OF).min(APART_MAX).max(of_fold);
    // Evenly: forecasts of a season must not overlap.
    let gap = season + if times > 1 { season / times } else { 0 };
    let earlier = |back: usize| back * gap;
    let origin = |back: usize| frequency.advance(end, -((horizon + earlier(back)) as i64), zone);
    let fold = |number: usize| {
        let last = number * apart;
        let origins: Vec<Micros> = (last..last + of_fold).rev().map(origin).collect();
        Fold { cut: origin(last + of_fold - 1), origins }
    };
    (0..FOLDS).rev().map(fold).collect()
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use meterline_schemas::time::{DAY, HOUR};

    use super::*;
    use crate::data::Series;

    fn of(days: i64, horizon: usize) -> Vec<Fold> {
        let values = vec![1.0; 24 * days as usize];
        folds(
            &Panel::new(Frequency::HOUR, TimeZone::UTC, vec![Series::new("a", 0, values)]),
            &Task::new(horizon, horizon, 1),
        )
    }

    #[test]
    fn folds_end_before_what_is_not_known_and_see_all_seasons_of_long_histories() {
        for (days, horizon) in [(22, 24), (29, 48), (43, 24), (100, 24), (200, 48), (400, 24), (1500, 36), (4000, 168)]
        {
            let folds = of(days, horizon);
            assert_eq!(folds.len(), FOLDS, "{days}");
            let mut before = 0;
            for fold in &folds {
                assert_eq!(fold.cut, fold.origins[0]);
                assert!(fold.cut > before, "{days}");
                before = *fold.origins.last().unwrap();
            }
            assert_eq!(before, days * DAY - horizon as i64 * HOUR);
            assert!(folds[0].cut >= days * DAY / 2, "{days}: {}", folds[0].cut / DAY);
        }
        let long = of(1500, 24);
        assert_eq!(long[3].cut - long[0].cut, 3 * 91 * DAY);
        assert_eq!(long[0].origins.len(), 28);
    }

    #[test]
    fn all_times_of_day_have_origins_where_forecasts_begin_at_all() {
        let panel = Panel::new(Frequency::HOUR, TimeZone::UTC, vec![Series::new("a", 0, vec![1.0; 24 * 400])]);
        let folds = folds(&panel, &Task { origins_a_day: 4, ..Task::new(24, 24, 1) });
        for fold in &folds {
            assert_eq!(fold.cut, fold.origins[0]);
            assert!(fold.origins.is_sorted());
            let at = |hour: i64| fold.origins.iter().filter(|origin| **origin % DAY == hour * HOUR).count();
            assert!([0, 6, 12, 18].into_iter().all(|hour| at(hour) >= 6), "{fold:?}");
        }
    }

    #[test]
    fn a_short_history_is_not_divided() {
        assert_eq!(of(21, 24), []);
        assert_eq!(needed(Frequency::HOUR, 24), 22 * 24);
        assert_eq!(folds(&Panel::new(Frequency::HOUR, TimeZone::UTC, Vec::new()), &Task::new(24, 24, 1)), []);
    }
}
