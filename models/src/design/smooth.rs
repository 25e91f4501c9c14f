//! A covariate, and sums of it by which means of any length cost the same.

/// Parts of a season by which sums above levels are kept.
pub(super) const PARTS_OF_SEASON: usize = 6;

// A covariate from the first interval of the series on: values, and sums of those before each.
pub(super) struct Smooth {
    values: Vec<f32>,
    sums: Vec<f64>,
    above: Vec<Above>,
}

// By how much values lie above a knot: sums of those before each `stride`-th.
struct Above {
    knot: f32,
    stride: usize,
    sums: Vec<f64>,
}

impl Above {
    fn new(values: &[f32], knot: f32, stride: usize) -> Above {
        let sums = sums(values.chunks(stride).map(|part| part.iter().map(|v| above(*v, knot)).sum::<f64>()));
        Above { knot, stride, sums }
    }

    // Of those before `end`.
    fn sum(&self, values: &[f32], end: usize) -> f64 {
        let part = end / self.stride;
        let rest = values.get(part * self.stride..end).unwrap_or_default();
        self.sums.get(part).copied().unwrap_or(f64::NAN) + rest.iter().map(|v| above(*v, self.knot)).sum::<f64>()
    }
}

fn above(value: f32, knot: f32) -> f64 {
    // What is missing stays missing.
    let beyond = f64::from(value - knot);
    if beyond < 0.0 { 0.0 } else { beyond }
}

impl Smooth {
    pub fn new(values: Vec<f32>, knots: &[f32], stride: usize) -> Smooth {
        Smooth {
            sums: sums(values.iter().map(|value| f64::from(*value))),
            above: knots.iter().map(|knot| Above::new(&values, *knot, stride)).collect(),
            values,
        }
    }

    // Means of what is above each knot, of the `count` intervals before `end`; of fewer at the beginning.
    pub fn means_above(&self, end: usize, count: usize) -> impl Iterator<Item = f32> {
        let (begin, end) = (end.saturating_sub(count), end.min(self.values.len()));
        let mean = move |above: &Above| {
            let sum = above.sum(&self.values, end) - above.sum(&self.values, begin);
            (sum / end.saturating_sub(begin) as f64) as f32
        };
        self.above.iter().map(mean)
    }

    pub fn at(&self, interval: i64) -> f32 {
        usize::try_from(interval).ok().and_then(|i| self.values.get(i)).copied().unwrap_or(f32::NAN)
    }

    // Mean of so many intervals up to this one; of fewer at the beginning.
    pub fn mean(&self, last: i64, count: usize) -> f32 {
        let end = usize::try_from(last + 1).unwrap_or(0).min(self.values.len());
        mean_of(&self.sums, end, count)
    }
}

// Sums of those before each.
pub(super) fn sums(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut sum = 0.0;
    let sums = values.map(|value| {
        sum += value;
        sum
    });
    std::iter::once(0.0).chain(sums).collect()
}

// Mean of the `count` values before `end`; of fewer at the beginning.
pub(super) fn mean_of(sums: &[f64], end: usize, count: usize) -> f32 {
    exact_mean_of(sums, end, count) as f32
}

pub(super) fn exact_mean_of(sums: &[f64], end: usize, count: usize) -> f64 {
    let begin = end.saturating_sub(count);
    match (sums.get(begin), sums.get(end)) {
        (Some(from), Some(to)) if end > begin => (to - from) / (end - begin) as f64,
        _ => f64::NAN,
    }
}
