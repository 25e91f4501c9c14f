//! When a trial that does worse than others is not worth finishing.

use serde::{Deserialize, Serialize};

use super::trial::{Decision, Trial};

/// Rule that ends trials early by the values they report. It decides on the records alone.
///
/// The median rule spares about half of the work and is hard to get wrong; successive halving spares more where many
/// cheap trials are started and early values order trials well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Pruning {
    /// Every trial runs to its end.
    #[default]
    Never,
    /// A trial ends when its best value so far is worse than the median of what complete trials had on average up to
    /// the same step (Golovin et al. 2017).
    Median {
        /// Complete trials that the median is taken from at the least.
        trials_min: usize,
        /// Steps before which nothing is ended.
        warmup_steps: u64,
    },
    /// At steps f, f η, f η² … a trial goes on only if its value is among the best 1 / η of all that got there (at
    /// least one) so far: asynchronous successive halving (Li et al. 2020).
    SuccessiveHalving {
        /// f, at least 1.
        first_step: u64,
        /// η, at least 2.
        reduction_factor: u64,
    },
}

impl Pruning {
    /// What to do after a trial's reports `own`, the last of which has just come, with the `others` before it.
    pub(super) fn decide(&self, others: &[Trial], own: &[(u64, f64)]) -> Decision {
        let worse = match *self {
            Pruning::Never => false,
            Pruning::Median { trials_min, warmup_steps } => {
                own.last().is_some_and(|(step, _)| *step >= warmup_steps) && below_median(others, own, trials_min)
            }
            Pruning::SuccessiveHalving { first_step, reduction_factor } => {
                not_promoted(others, own, first_step, reduction_factor)
            }
        };
        if worse { Decision::Prune } else { Decision::Continue }
    }
}

/// The median rule.
fn below_median(others: &[Trial], own: &[(u64, f64)], trials_min: usize) -> bool {
    let Some(&(step, _)) = own.last() else { return false };
    let best = own.iter().map(|(_, value)| *value).fold(f64::INFINITY, f64::min);
    let mut averages: Vec<f64> = others
        .iter()
        .filter(|trial| trial.loss().is_some())
        .filter_map(|trial| {
            let reached = trial.intermediate.iter().filter(|(s, _)| *s <= step);
            let (count, sum) = reached.fold((0_usize, 0.0), |(count, sum), (_, value)| (count + 1, sum + value));
            (count > 0).then(|| sum / count as f64)
        })
        .collect();
    if averages.len() < trials_min.max(1) {
        return false;
    }
    averages.sort_unstable_by(f64::total_cmp);
    best > median(&averages)
}

/// Median of sorted values; the mean of the middle two.
fn median(sorted: &[f64]) -> f64 {
    let middle = |i: usize| sorted.get(i).copied().unwrap_or(f64::INFINITY);
    (middle((sorted.len() - 1) / 2) + middle(sorted.len() / 2)) / 2.0
}

/// Successive halving: true when the last report reached a rung and is not among its best.
fn not_promoted(others: &[Trial], own: &[(u64, f64)], first_step: u64, reduction_factor: u64) -> bool {
    let Some(&(step, value)) = own.last() else { return false };
    let before = own.iter().rev().nth(1).map(|(step, _)| *step);
    let Some(rung) = highest_rung(step, first_step, reduction_factor) else { return false };
    if before.is_some_and(|before| before >= rung) {
        return false;
    }
    let reached = others.iter().filter_map(|t| t.intermediate.iter().find(|(s, _)| *s >= rung).map(|(_, v)| *v));
    let (count, better) = reached.fold((1_u64, 0_u64), |(count, better), v| (count + 1, better + u64::from(v < value)));
    better >= (count / reduction_factor.max(2)).max(1)
}

/// The highest rung at or below `step`.
fn highest_rung(step: u64, first_step: u64, reduction_factor: u64) -> Option<u64> {
    let first = first_step.max(1);
    let rungs = std::iter::successors(Some(first), |rung| rung.checked_mul(reduction_factor.max(2)));
    rungs.take_while(|rung| *rung <= step).last()
}

#[cfg(test)]
mod tests {
    use super::super::space::Configuration;
    use super::super::trial::Outcome;
    use super::*;

    fn trial(values: &[f64], complete: bool) -> Trial {
        let intermediate = (1..).zip(values.iter().copied()).collect();
        let outcome = if complete { Outcome::Complete(values[values.len() - 1]) } else { Outcome::Pruned };
        Trial { number: 0, configuration: Configuration::default(), intermediate, outcome }
    }

    #[test]
    fn the_median_rule_compares_the_best_with_running_means() {
        let others = [trial(&[4.0, 2.0], true), trial(&[6.0, 4.0], true), trial(&[10.0, 8.0], true)];
        let rule = Pruning::Median { trials_min: 3, warmup_steps: 0 };
        // The medians are 6 after one step and 5 after two.
        for (own, expected) in [
            (vec![(1, 6.0)], Decision::Continue),
            (vec![(1, 6.1)], Decision::Prune),
            (vec![(1, 5.5), (2, 5.1)], Decision::Prune),
            (vec![(1, 5.0), (2, 9.0)], Decision::Continue),
        ] {
            assert_eq!(rule.decide(&others, &own), expected, "{own:?}");
        }
    }

    #[test]
    fn the_median_rule_waits_for_trials_and_steps() {
        let others = [trial(&[1.0, 1.0], true), trial(&[1.0], false)];
        let bad = [(1, 9.0)];
        let decide = |trials_min, warmup_steps| Pruning::Median { trials_min, warmup_steps }.decide(&others, &bad);
        assert_eq!(decide(1, 0), Decision::Prune);
        assert_eq!(decide(2, 0), Decision::Continue, "pruned trials do not count");
        assert_eq!(decide(1, 2), Decision::Continue);
        assert_eq!(Pruning::Median { trials_min: 0, warmup_steps: 0 }.decide(&[], &bad), Decision::Continue);
    }

    #[test]
    fn successive_halving_keeps_the_best_of_each_rung() {
        let rule = Pruning::SuccessiveHalving { first_step: 1, reduction_factor: 3 };
        let others: Vec<Trial> = [5.0, 6.0, 7.0, 8.0, 9.0].iter().map(|v| trial(&[*v], false)).collect();
        // Six values at the first rung, of which two go on.
        for (value, expected) in [(4.0, Decision::Continue), (5.5, Decision::Continue), (6.5, Decision::Prune)] {
            assert_eq!(rule.decide(&others, &[(1, value)]), expected, "{value}");
        }
        // Nothing is decided between rungs, and nobody else reached the second one.
        assert_eq!(rule.decide(&others, &[(1, 4.0), (2, 99.0)]), Decision::Continue);
        assert_eq!(rule.decide(&others, &[(1, 4.0), (2, 99.0), (3, 99.0)]), Decision::Continue);
        assert_eq!(rule.decide(&[], &[(1, 99.0)]), Decision::Continue);
    }

    #[test]
    fn rungs_are_powers_of_the_factor() {
        for (step, rung) in [(0, None), (1, None), (2, Some(2)), (7, Some(6)), (17, Some(6)), (18, Some(18))] {
            assert_eq!(highest_rung(step, 2, 3), rung, "{step}");
        }
        assert!(highest_rung(u64::MAX, 1, 2).is_some());
    }
}
