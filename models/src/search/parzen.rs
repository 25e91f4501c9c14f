//! Parzen estimators: densities of where trials were, one parameter at a time.

use rand::Rng;

/// The narrowest kernel is this share of the range at the least.
const NARROWEST: f64 = 0.01;

/// Density over [0, 1] of the values that a number had in some trials (Bergstra et al. 2011): the uniform prior and
/// one kernel at each value, all of equal weight. A kernel is as wide as the greater of the distances to its
/// neighbours, so it is narrow where trials are dense. (The bounds are no neighbours: a cluster away from them stays
/// narrow at its ends.)
///
/// Kernels are logistic, cut off at the bounds, where the paper has normal ones: they can be drawn from and normalised
/// exactly in closed form, and their heavier tails look a little further.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Parzen {
    kernels: Vec<Kernel>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Kernel {
    centre: f64,
    scale: f64,
    /// Cumulative probability of the uncut kernel at 0 and at 1.
    at_zero: f64,
    at_one: f64,
}

impl Parzen {
    /// The density of `values`, all in [0, 1].
    pub(super) fn new(mut values: Vec<f64>) -> Parzen {
        values.sort_unstable_by(f64::total_cmp);
        let narrowest = (1.0 / (1.0 + values.len() as f64)).max(NARROWEST);
        let kernel = |(i, centre): (usize, &f64)| {
            let before = i.checked_sub(1).and_then(|i| values.get(i)).map(|before| centre - before);
            let after = values.get(i + 1).map(|after| after - centre);
            let deviation = before.into_iter().chain(after).reduce(f64::max).unwrap_or(1.0).clamp(narrowest, 1.0);
            Kernel::new(*centre, deviation)
        };
        Parzen { kernels: values.iter().enumerate().map(kernel).collect() }
    }

    /// Density at `x` in [0, 1].
    pub(super) fn density(&self, x: f64) -> f64 {
        let kernels: f64 = self.kernels.iter().map(|kernel| kernel.density(x)).sum();
        (1.0 + kernels) / (1.0 + self.kernels.len() as f64)
    }

    /// A value drawn from the density.
    pub(super) fn draw(&self, random: &mut impl Rng) -> f64 {
        let part = random.random_range(0..=self.kernels.len());
        let level: f64 = random.random();
        // One past the last kernel is the prior.
        self.kernels.get(part).map_or(level, |kernel| kernel.quantile(level))
    }
}

impl Kernel {
    fn new(centre: f64, deviation: f64) -> Kernel {
        // Variance of the logistic distribution: (π × scale)² / 3.
        let scale = deviation * 3.0_f64.sqrt() / std::f64::consts::PI;
        let cumulative = |x: f64| 1.0 / (1.0 + ((centre - x) / scale).exp());
        Kernel { centre, scale, at_zero: cumulative(0.0), at_one: cumulative(1.0) }
    }

    fn density(&self, x: f64) -> f64 {
        // Symmetric in the distance, whose negative exponential cannot overflow.
        let tail = (-(x - self.centre).abs() / self.scale).exp();
        tail / (self.scale * (1.0 + tail) * (1.0 + tail) * (self.at_one - self.at_zero))
    }

    fn quantile(&self, level: f64) -> f64 {
        let p = self.at_zero + level * (self.at_one - self.at_zero);
        (self.centre + self.scale * (p / (1.0 - p)).ln()).clamp(0.0, 1.0)
    }
}

/// Probabilities of the choices that a categorical parameter had in some trials: in proportion to one more than how
/// often each was chosen (Bergstra et al. 2011, with a uniform prior).
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Frequencies {
    weights: Vec<f64>,
    sum: f64,
}

impl Frequencies {
    /// Of `chosen` positions among `choices`.
    pub(super) fn new(choices: usize, chosen: impl Iterator<Item = usize>) -> Frequencies {
        let mut weights = vec![1.0; choices];
        for choice in chosen {
            if let Some(weight) = weights.get_mut(choice) {
                *weight += 1.0;
            }
        }
        let sum = weights.iter().sum();
        Frequencies { weights, sum }
    }

    /// Probabilities in proportion to `weights`.
    pub(super) fn weighted(weights: Vec<f64>) -> Frequencies {
        let sum = weights.iter().sum();
        Frequencies { weights, sum }
    }

    pub(super) fn probability(&self, choice: usize) -> f64 {
        self.weights.get(choice).map_or(0.0, |weight| weight / self.sum)
    }

    pub(super) fn draw(&self, random: &mut impl Rng) -> usize {
        let mut left = random.random::<f64>() * self.sum;
        let reached = |weight: &f64| {
            left -= weight;
            left < 0.0
        };
        self.weights.iter().position(reached).unwrap_or(self.weights.len().saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn integral(parzen: &Parzen, from: f64, to: f64) -> f64 {
        let steps = 20_000;
        let width = (to - from) / f64::from(steps);
        (0..steps).map(|i| parzen.density(from + (f64::from(i) + 0.5) * width) * width).sum()
    }

    #[test]
    fn a_density_integrates_to_one() {
        for values in [vec![], vec![0.0], vec![1.0], vec![0.5; 4], vec![0.1, 0.12, 0.13, 0.9], vec![0.3; 500]] {
            let mass = integral(&Parzen::new(values.clone()), 0.0, 1.0);
            assert!((mass - 1.0).abs() < 1e-4, "{values:?}: {mass}");
        }
    }

    #[test]
    fn draws_follow_the_density() {
        let parzen = Parzen::new(vec![0.1, 0.12, 0.15, 0.7]);
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let draws: Vec<f64> = (0..40_000).map(|_| parzen.draw(&mut random)).collect();
        for (from, to) in [(0.0, 0.1), (0.1, 0.2), (0.2, 0.6), (0.6, 0.8), (0.8, 1.0)] {
            let share = draws.iter().filter(|x| from <= **x && **x < to).count() as f64 / draws.len() as f64;
            let expected = integral(&parzen, from, to);
            assert!((share - expected).abs() < 0.01, "{from} to {to}: {share} for {expected}");
        }
    }

    #[test]
    fn a_density_is_greater_where_values_are() {
        let parzen = Parzen::new(vec![0.2, 0.21, 0.22]);
        assert!(parzen.density(0.21) > 4.0 * parzen.density(0.8));
    }

    #[test]
    fn choices_are_drawn_as_often_as_they_were_chosen() {
        let frequencies = Frequencies::new(3, [0, 0, 0, 2].into_iter());
        assert!((frequencies.probability(0) - 4.0 / 7.0).abs() < 1e-12);
        let mut random = ChaCha8Rng::seed_from_u64(2);
        let mut counts = [0_u32; 3];
        for _ in 0..7000 {
            counts[frequencies.draw(&mut random)] += 1;
        }
        for (count, expected) in counts.iter().zip([4000.0, 1000.0, 2000.0]) {
            assert!((f64::from(*count) - expected).abs() < 150.0, "{counts:?}");
        }
    }
}
