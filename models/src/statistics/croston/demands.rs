//! Smoothing from one demand to the next, for all parameters of the grid in one pass: the steps between two demands say
//! nothing that is not known at the second.

use super::{GRID, Smoothed};

/// Parameters that are tried.
const TRIED: usize = GRID.len();

/// The demands of a series. Missing values are stepped over: they are neither a demand nor a step without one.
#[derive(Debug, Default)]
pub struct Demands {
    all: Vec<Demand>,
    /// Steps after the last one.
    rest: usize,
}

#[derive(Debug, Clone, Copy)]
struct Demand {
    /// Steps since the one before it, or since the start, its own left out.
    without: usize,
    /// Its size.
    size: f64,
}

impl Demands {
    /// Those in `values`, none of which is below zero.
    pub fn of(values: &[f64]) -> Demands {
        let mut demands = Demands::default();
        for value in values.iter().copied().filter(|value| value.is_finite()) {
            if value > 0.0 {
                demands.all.push(Demand { without: demands.rest, size: value });
                demands.rest = 0;
            } else {
                demands.rest += 1;
            }
        }
        demands
    }

    /// From what the smoothing of sizes begins.
    fn first(&self) -> f64 {
        self.all.first().map_or(0.0, |demand| demand.size)
    }

    /// Mean steps from one to the next, its own included; infinite where there is no demand.
    fn mean_interval(&self) -> f64 {
        let steps = self.all.iter().map(|demand| demand.without + 1).sum::<usize>() + self.rest;
        steps as f64 / self.all.len() as f64
    }

    /// Croston's smoothing of sizes and intervals, both with the same parameter of the grid: the sum of squared one-step
    /// errors and the state after the last value. `unbiased` is what the ratio is multiplied by.
    pub fn by_intervals(&self, unbiased: [f64; TRIED]) -> [(f64, Smoothed); TRIED] {
        struct At {
            size: f64,
            interval: f64,
            squares: f64,
        }
        // Never below one step, but for rounding.
        let probability = |at: &At, unbiased: f64| (1.0 / at.interval).min(1.0) * unbiased;
        let mut all: [At; TRIED] =
            std::array::from_fn(|_| At { size: self.first(), interval: self.mean_interval(), squares: 0.0 });
        for demand in &self.all {
            let without = demand.without as f64;
            for ((at, alpha), unbiased) in all.iter_mut().zip(GRID).zip(unbiased) {
                let expected = at.size * probability(at, unbiased);
                at.squares += without * expected * expected + (demand.size - expected).powi(2);
                at.size += alpha * (demand.size - at.size);
                at.interval += alpha * (without + 1.0 - at.interval);
            }
        }
        std::array::from_fn(|i| {
            let found = Smoothed { size: all[i].size, probability: probability(&all[i], unbiased[i]) };
            (all[i].squares + self.rest as f64 * (found.size * found.probability).powi(2), found)
        })
    }

    /// TSB's smoothing of sizes (first index) and occurrences (second index), each with any parameter of the grid. Of the
    /// squared errors Σ (y − z p)² the part Σ y², which is the same for all, is left out.
    pub fn by_occurrences(&self) -> [[(f64, Smoothed); TRIED]; TRIED] {
        let longest = self.all.iter().map(|demand| demand.without).max().unwrap_or(0).max(self.rest);
        let mut kept = vec![[1.0; TRIED]];
        for steps in 0..longest {
            kept.push(std::array::from_fn(|i| kept[steps][i] * (1.0 - GRID[i])));
        }
        let mut size = [self.first(); TRIED];
        let mut probability = [1.0 / self.mean_interval(); TRIED];
        let mut squares = [[0.0; TRIED]; TRIED];
        // Without a demand the probability falls as powers do; so does its square, whose sum is known.
        let fade = |probability: &mut [f64; TRIED], steps: usize| -> [f64; TRIED] {
            std::array::from_fn(|i| {
                let (before, kept, keep) = (probability[i], kept[steps][i], 1.0 - GRID[i]);
                probability[i] = before * kept;
                before * before * (1.0 - kept * kept) / (1.0 - keep * keep)
            })
        };
        for demand in &self.all {
            let faded = fade(&mut probability, demand.without);
            for (squares, z) in squares.iter_mut().zip(size) {
                for ((squares, p), faded) in squares.iter_mut().zip(probability).zip(faded) {
                    *squares += z * (z * (faded + p * p) - 2.0 * demand.size * p);
                }
            }
            size.iter_mut().zip(GRID).for_each(|(size, alpha)| *size += alpha * (demand.size - *size));
            probability.iter_mut().zip(GRID).for_each(|(p, beta)| *p += beta * (1.0 - *p));
        }
        let faded = fade(&mut probability, self.rest);
        let found = |of_size: usize, of_occurrence: usize| {
            let found = Smoothed { size: size[of_size], probability: probability[of_occurrence] };
            (squares[of_size][of_occurrence] + found.size * found.size * faded[of_occurrence], found)
        };
        std::array::from_fn(|of_size| std::array::from_fn(|of_occurrence| found(of_size, of_occurrence)))
    }
}
