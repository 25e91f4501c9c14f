use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

const LEVELS: [f64; 5] = [0.1, 0.3, 0.5, 0.7, 0.9];
/// Standard normal quantiles at [`LEVELS`].
const NORMAL: [f64; 5] = [-1.281_551_565_5, -0.524_400_512_7, 0.0, 0.524_400_512_7, 1.281_551_565_5];

/// Two standard normal numbers (Box and Muller 1958).
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

#[derive(Default)]
struct Sample {
    quantiles: Vec<f64>,
    actuals: Vec<f64>,
    groups: Vec<u32>,
    steps: Vec<u32>,
    blocks: Vec<u32>,
}

impl Sample {
    fn push(&mut self, quantiles: &[f64], actual: f64, group: u32, step: u32, block: u32) {
        self.quantiles.extend_from_slice(quantiles);
        self.actuals.push(actual);
        self.groups.push(group);
        self.steps.push(step);
        self.blocks.push(block);
    }

    fn rows(&self) -> Rows<'_> {
        Rows {
            quantiles: &self.quantiles,
            actuals: &self.actuals,
            groups: &self.groups,
            steps: &self.steps,
            blocks: &self.blocks,
            ..Rows::default()
        }
    }
}

/// Rows whose truth is normal with a deviation between 1 and 3 that the forecast knows, but stretched by `stretch`.
fn sample(rng: &mut ChaCha8Rng, rows: u32, stretch: f64) -> Sample {
    let mut sample = Sample::default();
    for block in 0..rows {
        let deviation = 1.0 + 2.0 * rng.random::<f64>();
        let centre = 100.0 * rng.random::<f64>();
        let quantiles = NORMAL.map(|z| centre + stretch * deviation * z);
        sample.push(&quantiles, centre + deviation * normal(rng), 0, 0, block);
    }
    sample
}

fn trusting(score: Score) -> Options {
    Options { score: Some(score), shrinkage: 0.0, ..Options::default() }
}

fn shifts(conformal: &Conformal, group: u32, step: u32) -> Vec<f64> {
    conformal.corrections(group, step).iter().map(|c| c.shift).collect()
}

#[test]
fn corrections_are_order_statistics_of_the_scores() {
    // The forecast is always 0, the actual values are 1 … 9.
    let mut sample = Sample::default();
    (1..=9).for_each(|i| sample.push(&[0.0; 3], f64::from(i), 0, 0, i));
    let options = Options { rows_min: 1, outside_min: 0.0, ..trusting(Score::Additive) };
    let found = Conformal::fit(&[0.1, 0.5, 0.9], &sample.rows(), &options).unwrap();
    // Rank ⌈10 × 0.9⌉ = 9 above and its mirror image, rank 1, below: this one would narrow, and nine rows are too few to
    // be sure.
    assert_eq!(shifts(&found, 0, 0), [0.0, 5.0, 9.0]);
    let bold = Options { narrowing_z: 0.0, ..options };
    let found = Conformal::fit(&[0.1, 0.5, 0.9], &sample.rows(), &bold).unwrap();
    assert_eq!(shifts(&found, 0, 0), [1.0, 5.0, 9.0]);
    let mut quantiles = [0.0; 3];
    found.apply(0, 0, &mut quantiles).unwrap();
    assert_eq!(quantiles, [1.0, 5.0, 9.0]);
    // Eight rows cannot speak for nine tenths.
    let few = Sample { quantiles: vec![0.0; 24], actuals: sample.actuals[..8].to_vec(), ..Sample::default() };
    let few = Sample { groups: vec![0; 8], steps: vec![0; 8], blocks: (0..8).collect(), ..few };
    let found = Conformal::fit(&[0.1, 0.5, 0.9], &few.rows(), &bold).unwrap();
    assert_eq!(shifts(&found, 0, 0), [0.0, 4.5, 0.0]);
}

#[test]
fn the_next_exchangeable_row_is_covered_as_promised() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (repetitions, n) = (3000, 59);
    for score in [Score::Additive, Score::Scaled] {
        let mut not_above = [0.0; 5];
        for _ in 0..repetitions {
            let found = Conformal::fit(&LEVELS, &sample(&mut rng, n, 0.3).rows(), &trusting(score)).unwrap();
            let mut next = sample(&mut rng, 1, 0.3);
            found.apply(0, 0, &mut next.quantiles).unwrap();
            (0..5).for_each(|i| not_above[i] += f64::from(u8::from(next.actuals[0] <= next.quantiles[i])));
        }
        for (level, count) in LEVELS.iter().zip(not_above) {
            let share = count / f64::from(repetitions);
            let error = 4.0 * (level * (1.0 - level) / f64::from(repetitions)).sqrt();
            let slack = 1.0 / f64::from(n + 1);
            // Outwards at least as promised, and at most one rank more.
            let (low, high) = match level {
                l if *l < 0.5 => (level - slack - error, level + error),
                l if *l > 0.5 => (level - error, level + slack + error),
                _ => (level - error, level + error),
            };
            assert!((low..=high).contains(&share), "{score:?} {level}: {share} not in {low} … {high}");
        }
    }
}

#[test]
fn too_wide_intervals_are_narrowed_without_breaking_the_promise() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let found = Conformal::fit(&LEVELS, &sample(&mut rng, 2000, 3.0).rows(), &Options::default()).unwrap();
    assert_eq!((found.score(), found.why()), (Score::Scaled, Why::CrossValidated));
    let test = sample(&mut rng, 20_000, 3.0);
    let (mut covered, mut width, mut width_before) = (0, 0.0, 0.0);
    for (quantiles, actual) in test.quantiles.chunks_exact(5).zip(&test.actuals) {
        let mut corrected = quantiles.to_vec();
        found.apply(0, 0, &mut corrected).unwrap();
        covered += usize::from(corrected[0] <= *actual && *actual <= corrected[4]);
        width += corrected[4] - corrected[0];
        width_before += quantiles[4] - quantiles[0];
    }
    let coverage = covered as f64 / 20_000.0;
    assert!((0.79..0.85).contains(&coverage), "{coverage}");
    assert!(width < 0.45 * width_before, "{width} {width_before}");
}

#[test]
fn good_forecasts_stay_nearly_as_they_are() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let found = Conformal::fit(&LEVELS, &sample(&mut rng, 1000, 1.0).rows(), &Options::default()).unwrap();
    let mut quantiles = NORMAL;
    found.apply(0, 0, &mut quantiles).unwrap();
    assert!(quantiles.iter().zip(NORMAL).all(|(a, b)| (a - b).abs() < 0.2), "{quantiles:?}");
}

#[test]
fn each_group_and_step_has_its_own_corrections_where_there_is_enough() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let mut all = Sample::default();
    for block in 0..300 {
        for (group, step) in [(7, 0), (7, 1), (9, 0)] {
            let bias = f64::from(group * 10 + step);
            all.push(&NORMAL, bias + normal(&mut rng), group, step, block);
        }
        if block < 3 {
            all.push(&NORMAL, 500.0, 11, 0, block);
        }
    }
    let found = Conformal::fit(&LEVELS, &all.rows(), &trusting(Score::Additive)).unwrap();
    for (group, step, expected) in [(7, 0, 70.0), (7, 1, 71.0), (7, 99, 71.0), (9, 0, 90.0), (9, 1, 90.0)] {
        let shift = shifts(&found, group, step)[2];
        assert!((shift - expected).abs() < 0.3, "{group} {step}: {shift}");
    }
    assert_eq!(found.corrections(9, 1)[2].radius, 1, "pooled with the step before");
    assert_eq!(shifts(&found, 11, 0), shifts(&found, 1234, 0), "too few blocks: what all groups say");
    assert_eq!(found.corrections(11, 0)[2].rows, 0);
    assert_eq!(found.corrections(1234, 0).len(), 5);
}

#[test]
fn thin_evidence_is_shrunk_towards_no_correction() {
    let rows = |days: u32, per_day: u32| {
        let mut sample = Sample::default();
        // A day's errors are all the same.
        (0..days * per_day)
            .for_each(|i| sample.push(&[-1.0, 0.0, 1.0], f64::from(i / per_day % 7) - 3.0, 0, 0, i / per_day));
        sample
    };
    let options = Options { score: Some(Score::Additive), ..Options::default() };
    let at = |days: u32, per_day: u32| {
        let found = Conformal::fit(&[0.1, 0.5, 0.9], &rows(days, per_day).rows(), &options).unwrap();
        found.corrections(0, 0)[2]
    };
    let (few, repeated, many) = (at(35, 1), at(35, 24), at(840, 1));
    assert!(few.shift < repeated.shift + 0.2 && repeated.shift < many.shift, "{few:?} {repeated:?} {many:?}");
    assert_eq!((repeated.rows, many.rows), (840, 840));
    assert!(repeated.effective_rows < 40.0, "24 equal rows of a day are one: {repeated:?}");
    assert!((many.shift - 2.0).abs() < 0.1);
}

#[test]
fn series_of_different_size_are_corrected_in_units_of_their_spread() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut all = Sample::default();
    for block in 0..400 {
        for size in [1.0, 100.0] {
            all.push(&NORMAL.map(|z| 0.5 * size * z), size * normal(&mut rng), 0, 0, block);
        }
    }
    let found = Conformal::fit(&LEVELS, &all.rows(), &Options::default()).unwrap();
    assert_eq!(found.score(), Score::Scaled);
    let mut small = NORMAL.map(|z| 0.5 * z);
    found.apply(0, 0, &mut small).unwrap();
    assert!((small[4] - NORMAL[4]).abs() < 0.2, "{small:?}");
    let mut flat = [5.0; 5];
    found.apply(0, 0, &mut flat).unwrap();
    assert_eq!(flat, [5.0; 5], "no spread, no unit");
}

#[test]
fn nothing_to_learn_from_corrects_nothing() {
    let all_missing = Sample {
        quantiles: vec![1.0; 50],
        actuals: vec![f64::NAN; 10],
        groups: vec![0; 10],
        steps: vec![0; 10],
        blocks: (0..10).collect(),
    };
    let mut not_finite = sample(&mut ChaCha8Rng::seed_from_u64(6), 10, 1.0);
    not_finite.quantiles.iter_mut().for_each(|q| *q = f64::INFINITY);
    let one = sample(&mut ChaCha8Rng::seed_from_u64(6), 1, 1.0);
    for (sample, blocks) in [(&Sample::default(), 0), (&all_missing, 0), (&not_finite, 0), (&one, 1)] {
        let found = Conformal::fit(&LEVELS, &sample.rows(), &Options::default()).unwrap();
        assert_eq!(found.why(), Why::TooFewBlocks { found: blocks, needed: 5 });
        let mut quantiles = NORMAL;
        found.apply(0, 3, &mut quantiles).unwrap();
        assert_eq!(quantiles, NORMAL);
        for score in [Score::Additive, Score::Scaled] {
            let found = Conformal::fit(&LEVELS, &sample.rows(), &trusting(score)).unwrap();
            found.apply(0, 3, &mut quantiles).unwrap();
            assert_eq!(quantiles, NORMAL, "{score:?}");
        }
    }
}

#[test]
fn wrong_input_is_refused_by_name() {
    let sample = sample(&mut ChaCha8Rng::seed_from_u64(7), 10, 1.0);
    let short = Rows { steps: &[0], ..sample.rows() };
    let expected = CalibrateError::Length { what: "steps", found: 1, expected: 10 };
    assert_eq!(Conformal::fit(&LEVELS, &short, &Options::default()), Err(expected));
    let negative = Rows { row_weights: &[1.0, -1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], ..sample.rows() };
    assert_eq!(Conformal::fit(&LEVELS, &negative, &Options::default()), Err(CalibrateError::RowWeight(1)));
    let bad = Options { shrinkage: f64::NAN, ..Options::default() };
    assert_eq!(Conformal::fit(&LEVELS, &sample.rows(), &bad), Err(CalibrateError::Option("shrinkage")));
    assert!(matches!(Conformal::fit(&[], &sample.rows(), &Options::default()), Err(CalibrateError::Levels(_))));
    let found = Conformal::fit(&LEVELS, &sample.rows(), &Options::default()).unwrap();
    let mut bad = [0.0, f64::NAN, 1.0, 2.0, 3.0];
    assert_eq!(found.apply(0, 0, &mut bad), Err(CalibrateError::NotFinite));
    assert_eq!(bad[4], 3.0);
    assert!(matches!(found.apply(0, 0, &mut [0.0]), Err(CalibrateError::Length { .. })));
}

#[test]
fn what_was_learned_survives_storage_and_is_the_same_on_any_number_of_threads() {
    let sample = sample(&mut ChaCha8Rng::seed_from_u64(8), 500, 0.7);
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| Conformal::fit(&LEVELS, &sample.rows(), &Options::default()).unwrap())
    };
    let one = on(1);
    assert_eq!(one, on(4));
    let stored = serde_json::to_string(&one).unwrap();
    let restored: Conformal = serde_json::from_str(&stored).unwrap();
    let (mut before, mut after) = (NORMAL, NORMAL);
    one.apply(0, 0, &mut before).unwrap();
    restored.apply(0, 0, &mut after).unwrap();
    assert!(before.iter().zip(after).all(|(a, b)| (a - b).abs() < 1e-12), "JSON may lose the last digit of a number");
}

#[test]
fn no_input_makes_a_quantile_that_is_not_finite() {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let values = [0.0, -0.0, 1.0, -1.0, 1e-300, 1e300, -1e300, f64::MAX, f64::MIN, f64::NAN, f64::INFINITY, 7.5];
    for case in 0..72 {
        // Later cases know fewer of the wild values.
        let mut pick = || values[rng.random_range(0..12 - case % 12)];
        let mut sample = Sample::default();
        for i in 0..60_u32 {
            let quantiles = [pick(), pick(), pick()];
            sample.push(&quantiles, pick(), i % 3, i % 7, i / 4);
        }
        for score in [None, Some(Score::Additive), Some(Score::Scaled)] {
            let options = Options { score, rows_min: 1, outside_min: 0.1, shrinkage: 0.0, ..Options::default() };
            let found = Conformal::fit(&[0.1, 0.5, 0.9], &sample.rows(), &options).unwrap();
            assert!((0..3).all(|g| (0..9).all(|s| found.corrections(g, s).iter().all(|c| c.shift.is_finite()))));
            for row in sample.quantiles.chunks_exact(3) {
                let mut corrected = row.to_vec();
                match found.apply(1, 2, &mut corrected) {
                    Ok(()) => assert!(corrected.is_sorted() && corrected.iter().all(|q| q.is_finite())),
                    Err(error) => assert_eq!(error, CalibrateError::NotFinite),
                }
            }
        }
    }
}
