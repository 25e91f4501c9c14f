use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::metrics::pinball;

const LEVELS: [f64; 5] = [0.1, 0.3, 0.5, 0.7, 0.9];
const OFFSETS: [f64; 5] = [-1.28, -0.52, 0.0, 0.52, 1.28];

/// Forecasts of `models` for days of 24 steps, the first twelve of which are group 0 and the others group 1.
#[derive(Clone)]
struct Sample {
    quantiles: Vec<Vec<f64>>,
    actuals: Vec<f64>,
    horizon_groups: Vec<u32>,
    blocks: Vec<u32>,
}

impl Sample {
    /// Each model knows the truth but for its own error at each group of steps: the standard deviations `errors`. The
    /// truth itself has a deviation of 0.3.
    fn new(days: u32, errors: &[[f64; 2]]) -> Sample {
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        let mut sample =
            Sample { quantiles: vec![vec![]; errors.len()], actuals: vec![], horizon_groups: vec![], blocks: vec![] };
        for day in 0..days {
            for step in 0..24 {
                let group = u32::from(step >= 12);
                // Sums of uniform numbers are nearly normal.
                let mut noise = || (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0;
                let truth = 50.0 + 10.0 * noise();
                for (quantiles, errors) in sample.quantiles.iter_mut().zip(errors) {
                    let error = errors[group as usize];
                    let centre = truth + error * noise();
                    quantiles.extend(OFFSETS.map(|offset| centre + offset * (error * error + 0.09).sqrt()));
                }
                sample.actuals.push(truth + 0.3 * noise());
                sample.horizon_groups.push(group);
                sample.blocks.push(day);
            }
        }
        sample
    }

    fn combine(&self, options: &Options) -> Result<Combination, CombineError> {
        self.of_series(&[], options).map(|combined| combined.combination)
    }

    fn of_series(&self, series: &[u32], options: &Options) -> Result<Combined, CombineError> {
        let names = ["a", "b", "c", "d"];
        let models = names.iter().zip(&self.quantiles);
        let models: Vec<Candidate> = models.map(|(name, quantiles)| Candidate { name, quantiles }).collect();
        let Sample { actuals, horizon_groups, blocks, .. } = self;
        combine(
            &Validation { levels: &LEVELS, models: &models, actuals, row_weights: &[], horizon_groups, series, blocks },
            options,
        )
    }

    /// Mean pinball loss of what `combination` makes of these rows, when model `i` of it is number `order[i]` here.
    fn loss(&self, combination: &Combination) -> f64 {
        let order: Vec<usize> = combination.models().iter().map(|name| (name.as_bytes()[0] - b'a') as usize).collect();
        let (mut sum, mut out) = (0.0, [0.0; 5]);
        for (row, actual) in self.actuals.iter().enumerate() {
            let forecasts: Vec<Option<&[f64]>> =
                order.iter().map(|i| Some(&self.quantiles[*i][row * 5..row * 5 + 5])).collect();
            combination.apply(0, self.horizon_groups[row], &forecasts, &mut out).unwrap();
            sum += LEVELS.iter().zip(out).map(|(level, q)| pinball(*actual, q, *level)).sum::<f64>() / 5.0;
        }
        sum / self.actuals.len() as f64
    }
}

#[test]
fn planted_weights_are_found() {
    // Independent errors with variances 1 and 4: the best mean has weights 0.8 and 0.2.
    let sample = Sample::new(100, &[[1.0, 1.0], [2.0, 2.0]]);
    let options = Options { level_groups: LevelGroups::Together, ..Options::default() };
    let found = sample.combine(&options).unwrap();
    assert!(matches!(found.choice(), Choice::Weighted { .. }), "{:?} {:?}", found.choice(), found.losses());
    assert!(matches!(found.reason(), Reason::LeastLoss { gain } if gain > 0.01), "{:?}", found.reason());
    let weights = found.weights(0, 0, 2);
    assert!((weights[0] - 0.8).abs() < 0.05, "{weights:?}");
    assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    let losses = found.losses();
    assert!(losses.weighted.unwrap() < losses.equal.min(losses.singles[0].1));
    assert_eq!((losses.rows, losses.blocks), (100 * 24, 100));
}

#[test]
fn groups_of_steps_have_weights_of_their_own_where_that_wins() {
    let sample = Sample::new(40, &[[0.3, 3.0], [3.0, 0.3]]);
    let found = sample.combine(&Options::default()).unwrap();
    assert!(matches!(found.choice(), Choice::Weighted { own: Own::Steps, .. }), "{:?}", found.choice());
    assert!(found.weights(0, 0, 2)[0] > 0.9 && found.weights(0, 1, 2)[0] < 0.1);
    let elsewhere = found.weights(0, 77, 2);
    assert!((elsewhere[0] - 0.5).abs() < 0.2, "a group never seen has the weights of all rows: {elsewhere:?}");
}

#[test]
fn series_have_weights_of_their_own_where_that_wins() {
    // One model knows the first series, another the second, and of the third they know as much.
    let parts = [
        Sample::new(40, &[[0.3; 2], [3.0; 2]]),
        Sample::new(40, &[[3.0; 2], [0.3; 2]]),
        Sample::new(2, &[[1.0; 2]; 2]),
    ];
    let mut all = Sample { quantiles: vec![vec![]; 2], actuals: vec![], horizon_groups: vec![], blocks: vec![] };
    let mut series = Vec::new();
    for (number, part) in (0..).zip(&parts) {
        all.quantiles.iter_mut().zip(&part.quantiles).for_each(|(all, part)| all.extend(part));
        all.actuals.extend(&part.actuals);
        all.horizon_groups.extend(&part.horizon_groups);
        all.blocks.extend(&part.blocks);
        series.extend(part.actuals.iter().map(|_| number));
    }
    let found = all.of_series(&series, &Options::default()).unwrap().combination;
    assert!(matches!(found.choice(), Choice::Weighted { own: Own::Series, .. }), "{:?}", found.choice());
    let first = |series: u32| found.weights(series, 0, 2)[0];
    assert!(first(0) > 0.9 && first(1) < 0.1, "{} {}", first(0), first(1));
    // There is too little of one, and another was never seen.
    assert_eq!([first(2), first(3)], [first(u32::MAX); 2]);
    assert!((first(2) - 0.5).abs() < 0.2, "{}", first(2));
    let shared = all.combine(&Options::default()).unwrap();
    assert!(found.losses().weighted < shared.losses().weighted.map(|loss| 0.7 * loss));
    let wrong = all.of_series(&series[1..], &Options::default());
    assert!(matches!(wrong, Err(CombineError::Length { what, .. }) if what == "series"));
    // A series alone is all there is.
    let alone = parts[0].of_series(&vec![7; parts[0].actuals.len()], &Options::default()).unwrap().combination;
    assert!(!matches!(alone.choice(), Choice::Weighted { own: Own::Series, .. }), "{:?}", alone.choice());
}

#[test]
fn rows_are_combined_by_weights_that_do_not_know_them() {
    let mut sample = Sample::new(40, &[[0.5, 1.0], [1.0, 0.5]]);
    // One row is unknown, and of another one model has no forecast.
    sample.actuals[100] = f64::NAN;
    sample.quantiles[0][200 * 5] = f64::NAN;
    let found = sample.of_series(&[], &Options::default()).unwrap();
    assert!(matches!(found.combination.choice(), Choice::Weighted { .. }));
    assert!(found.unseen.len() == sample.actuals.len() * 5 && found.unseen.iter().all(|quantile| quantile.is_finite()));
    let row = 200 * 5..201 * 5;
    let handed_on = found.unseen[row.clone()].iter().zip(&sample.quantiles[1][row]);
    assert!(handed_on.into_iter().all(|(found, expected)| (found - expected).abs() < 1e-9));
    let of_row = |row: usize| {
        let losses = LEVELS.iter().zip(&found.unseen[row * 5..]);
        losses.map(|(level, q)| pinball(sample.actuals[row], *q, *level)).sum::<f64>() / 5.0
    };
    let rows: Vec<usize> = (0..sample.actuals.len()).filter(|row| ![100, 200].contains(row)).collect();
    let unseen = rows.iter().map(|row| of_row(*row)).sum::<f64>() / rows.len() as f64;
    assert!((unseen / found.combination.losses().weighted.unwrap() - 1.0).abs() < 1e-9);
    // What happens on a day changes nothing of what is made of it.
    let mut other = sample.clone();
    other.actuals[..24].iter_mut().for_each(|actual| *actual += 1.0);
    let other = other.of_series(&[], &Options::default()).unwrap();
    assert_eq!(other.combination.choice(), found.combination.choice());
    assert_eq!(other.unseen[..24 * 5], found.unseen[..24 * 5]);
    assert_ne!(other.unseen[24 * 5 * 20..], found.unseen[24 * 5 * 20..]);
    // What happens the day after may be a part of what is forecast on that day.
    let mut next = sample.clone();
    next.actuals[24 * 8..24 * 9].iter_mut().for_each(|actual| *actual += 1.0);
    let near = next.of_series(&[], &Options::default()).unwrap();
    assert_eq!(near.combination.choice(), found.combination.choice());
    assert_eq!(near.unseen[..24 * 5 * 8], found.unseen[..24 * 5 * 8]);
    assert_ne!(near.unseen[24 * 5 * 20..], found.unseen[24 * 5 * 20..]);
    for blocks in [&mut sample.blocks, &mut next.blocks] {
        blocks.iter_mut().for_each(|block| *block *= 2);
    }
    let [one, other] = [&sample, &next].map(|sample| sample.of_series(&[], &Options::default()).unwrap());
    assert_ne!(one.unseen[..24 * 5 * 8], other.unseen[..24 * 5 * 8], "blocks that have nothing in common");
    // The mean of all, and a model alone, know nothing of any row.
    let few = Sample::new(2, &[[1.0; 2], [1.0; 2]]);
    let mean = few.of_series(&[], &Options::default()).unwrap();
    let expected = few.quantiles[0].iter().zip(&few.quantiles[1]).map(|(a, b)| (a + b) / 2.0);
    assert!(mean.unseen.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-9));
}

#[test]
fn on_the_rows_it_learned_from_it_is_not_worse_than_the_best_single_model() {
    for errors in [[[1.0, 1.0], [1.1, 0.9], [2.0, 0.5]], [[0.1, 0.1], [5.0, 5.0], [9.0, 9.0]], [[1.0; 2]; 3]] {
        for days in [1, 3, 6, 20] {
            let sample = Sample::new(days, &errors);
            for level_groups in [LevelGroups::Together, LevelGroups::Tails, LevelGroups::Each] {
                let found = sample.combine(&Options { level_groups, ..Options::default() }).unwrap();
                let best = found.losses().singles.iter().map(|(_, loss)| *loss).fold(f64::INFINITY, f64::min);
                let limit = if days < 5 { found.losses().equal.max(best) } else { best };
                let loss = sample.loss(&found);
                assert!(loss <= limit * 1.01, "{errors:?} {days} {level_groups:?}: {loss} {limit}");
            }
        }
    }
}

#[test]
fn equally_good_models_are_averaged() {
    let found = Sample::new(60, &[[1.0; 2], [1.0; 2], [1.0; 2]]).combine(&Options::default()).unwrap();
    assert_eq!(found.choice(), &Choice::Equal);
    assert!(found.weights(0, 0, 0).iter().all(|w| (w - 1.0 / 3.0).abs() < 1e-12));
    assert!(matches!(found.reason(), Reason::GainTooSmall { .. } | Reason::LeastLoss { .. }));
}

#[test]
fn a_model_that_adds_nothing_is_left_out() {
    let mut sample = Sample::new(60, &[[0.1; 2], [8.0; 2]]);
    sample.quantiles.push(vec![f64::NAN; sample.actuals.len() * 5]);
    let found = sample.combine(&Options::default()).unwrap();
    assert_eq!(found.models(), ["a"]);
    let left_out = |model: &str, present: f64, too_few: bool| LeftOut { model: model.to_owned(), present, too_few };
    assert_eq!(found.left_out(), [left_out("c", 0.0, true), left_out("b", 1.0, false)]);
}

#[test]
fn one_model_has_all_the_weight() {
    for days in [1, 30] {
        let found = Sample::new(days, &[[1.0; 2]]).combine(&Options::default()).unwrap();
        assert_eq!((found.choice(), found.reason()), (&Choice::Single("a".to_owned()), Reason::OnlyModel));
        assert!((0..5).all(|level| found.weights(0, 0, level) == [1.0]));
        assert!(found.weights(0, 0, 5).is_empty());
    }
}

#[test]
fn with_few_days_the_mean_is_used() {
    let mut sample = Sample::new(1, &[[1.0; 2], [2.0; 2]]);
    let few = Reason::TooFewBlocks { found: 1, needed: 5 };
    let found = sample.combine(&Options::default()).unwrap();
    assert_eq!((found.choice(), found.reason(), found.losses().weighted), (&Choice::Equal, few, None));
    sample.actuals.truncate(1);
    sample.quantiles.iter_mut().for_each(|q| q.truncate(5));
    sample.horizon_groups.truncate(1);
    sample.blocks.truncate(1);
    let found = sample.combine(&Options::default()).unwrap();
    assert_eq!((found.choice(), found.reason()), (&Choice::Equal, few), "a single row");
}

#[test]
fn identical_models_share_the_weight() {
    let mut sample = Sample::new(30, &[[1.0; 2]]);
    sample.quantiles = vec![sample.quantiles[0].clone(); 3];
    let found = sample.combine(&Options::default()).unwrap();
    assert_eq!(found.choice(), &Choice::Equal);
    assert!((sample.loss(&found) - found.losses().singles[0].1).abs() < 1e-12);
}

#[test]
fn a_free_sum_answers_a_common_bias() {
    let mut sample = Sample::new(60, &[[0.3; 2], [0.3; 2]]);
    sample.quantiles.iter_mut().flatten().for_each(|q| *q /= 1.2);
    let free = Options { sum_to_one: false, ..Options::default() };
    let found = sample.combine(&free).unwrap();
    let sum: f64 = found.weights(0, 0, 2).iter().sum();
    assert!((sum - 1.2).abs() < 0.01, "{sum}");
    assert!(sample.loss(&found) < 0.2 * found.losses().equal);
}

#[test]
fn rows_that_cannot_be_scored_do_not_count() {
    let clean = Sample::new(40, &[[1.0; 2], [2.0; 2]]);
    let mut dirty = clean.clone();
    dirty.actuals.extend([f64::NAN, 3.0, f64::INFINITY]);
    dirty.quantiles[0].extend([[1.0; 5], [f64::NAN; 5], [1.0; 5]].as_flattened());
    dirty.quantiles[1].extend([[1.0; 5]; 3].as_flattened());
    dirty.horizon_groups.extend([0, 1, 2]);
    dirty.blocks.extend([0, 1, 2]);
    let (clean, dirty) = (clean.combine(&Options::default()).unwrap(), dirty.combine(&Options::default()).unwrap());
    assert_eq!((clean.losses(), clean.choice()), (dirty.losses(), dirty.choice()));
}

#[test]
fn rows_count_by_their_weight() {
    let sample = Sample::new(40, &[[0.3, 3.0], [3.0, 0.3]]);
    let row_weights: Vec<f64> = sample.horizon_groups.iter().map(|group| f64::from(1 - group)).collect();
    let models = [("a", &sample.quantiles[0]), ("b", &sample.quantiles[1])]
        .map(|(name, quantiles)| Candidate { name, quantiles });
    let Sample { actuals, horizon_groups, blocks, .. } = &sample;
    let row_weights = &row_weights;
    let validation =
        Validation { levels: &LEVELS, models: &models, actuals, row_weights, horizon_groups, series: &[], blocks };
    let found = combine(&validation, &Options::default()).unwrap().combination;
    assert_eq!(found.losses().rows, 40 * 12);
    assert!(found.weights(0, 0, 2)[0] > 0.9);
    let mut bad = row_weights.clone();
    bad[3] = -1.0;
    let refused = combine(&Validation { row_weights: &bad, ..validation }, &Options::default());
    assert_eq!(refused.err(), Some(CombineError::RowWeight(3)));
}

#[test]
fn a_missing_forecast_hands_its_weight_to_the_others() {
    let found = Sample::new(60, &[[1.0; 2], [1.0; 2]]).combine(&Options::default()).unwrap();
    let (a, b, bad) = ([1.0, 2.0, 3.0, 4.0, 5.0], [3.0, 4.0, 5.0, 6.0, 7.0], [1.0, f64::NAN, 3.0, 4.0, 5.0]);
    let mut out = [0.0; 5];
    for (forecasts, expected) in
        [([Some(&a[..]), Some(&b)], [2.0, 3.0, 4.0, 5.0, 6.0]), ([None, Some(&b)], b), ([Some(&a), Some(&bad)], a)]
    {
        found.apply(0, 0, &forecasts, &mut out).unwrap();
        assert!(out.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{out:?}");
    }
    assert_eq!(found.apply(0, 0, &[None, Some(&bad)], &mut out), Err(CombineError::NoForecast));
    assert!(matches!(found.apply(0, 0, &[None], &mut out), Err(CombineError::Length { .. })));
    assert!(matches!(found.apply(0, 0, &[Some(&a[..2]), None], &mut out), Err(CombineError::Length { .. })));
}

#[test]
fn combined_quantiles_ascend() {
    let sample = Sample::new(40, &[[0.4, 2.0], [2.0, 0.4]]);
    let found = sample.combine(&Options { level_groups: LevelGroups::Each, ..Options::default() }).unwrap();
    let mut out = [0.0; 5];
    found.apply(0, 0, &[Some(&[0.0; 5]), Some(&[9.0, 9.1, 9.2, 9.3, 9.4])], &mut out).unwrap();
    assert!(out.is_sorted());
}

#[test]
fn what_cannot_be_combined_is_an_error_with_a_name() {
    let sample = Sample::new(10, &[[1.0; 2], [1.0; 2]]);
    let options = Options::default();
    let none = Sample { quantiles: vec![], ..sample.clone() };
    assert_eq!(none.combine(&options).err(), Some(CombineError::NoModel { rows: 240 }));
    let missing = Sample { actuals: vec![f64::NAN; 240], ..sample.clone() };
    assert_eq!(missing.combine(&options).err(), Some(CombineError::NoRow));
    let no_forecast = Sample { quantiles: vec![vec![f64::NAN; 1200]; 2], ..sample.clone() };
    assert_eq!(no_forecast.combine(&options).err(), Some(CombineError::NoModel { rows: 240 }));
    let huge = Sample { actuals: vec![f64::MAX; 240], quantiles: vec![vec![-f64::MAX; 1200]; 2], ..sample.clone() };
    assert_eq!(huge.combine(&options).err(), Some(CombineError::NotFinite));
    let short = Sample { blocks: vec![1], ..sample.clone() };
    let expected = CombineError::Length { what: "blocks".to_owned(), found: 1, expected: 240 };
    assert_eq!(short.combine(&options).err(), Some(expected));
    let bad = Options { shrinkage: vec![], ..options };
    assert_eq!(sample.combine(&bad).err(), Some(CombineError::Option("shrinkage")));
}

#[test]
fn groups_of_levels_have_no_gaps() {
    for (levels, groups, expected) in [
        (&[0.1, 0.2, 0.5, 0.8, 0.9][..], LevelGroups::Tails, vec![0, 0, 1, 2, 2]),
        (&[0.5], LevelGroups::Tails, vec![0]),
        (&[0.5, 0.9], LevelGroups::Tails, vec![0, 1]),
        (&[0.1, 0.5, 0.9], LevelGroups::Each, vec![0, 1, 2]),
        (&[0.1, 0.5, 0.9], LevelGroups::Together, vec![0, 0, 0]),
    ] {
        assert_eq!(groups.of(levels), expected);
    }
}

#[test]
fn the_number_of_threads_changes_nothing_and_storage_changes_nothing() {
    let sample = Sample::new(30, &[[1.0, 2.0], [2.0, 1.0], [1.5, 1.5]]);
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| sample.combine(&Options::default()).unwrap())
    };
    let one = on(1);
    assert_eq!(one, on(4));
    let stored = serde_json::to_string(&one).unwrap();
    let restored: Combination = serde_json::from_str(&stored).unwrap();
    assert!((sample.loss(&restored) - sample.loss(&one)).abs() < 1e-12);
}

#[test]
fn no_input_makes_a_quantile_or_a_loss_that_is_not_finite() {
    let values = [1.0, 0.0, -1.0, 7.5, 1e-300, -0.0, f64::NAN, 1e150, -1e150, 1e300, f64::MAX, f64::INFINITY];
    let mut rng = ChaCha8Rng::seed_from_u64(13);
    for case in 0..36 {
        let mut pick = || values[rng.random_range(0..1 + case % 12)];
        let rows = 60;
        let sample = Sample {
            quantiles: (0..3).map(|_| (0..rows * 5).map(|_| pick()).collect()).collect(),
            actuals: (0..rows).map(|_| pick()).collect(),
            horizon_groups: (0..rows as u32).map(|i| i % 2).collect(),
            blocks: (0..rows as u32).map(|i| i / 4).collect(),
        };
        for sum_to_one in [true, false] {
            let options = Options { sum_to_one, rows_min: 5, present_min: 0.01, gain_min: 0.0, ..Options::default() };
            let Ok(found) = sample.combine(&options) else { continue };
            let losses = found.losses();
            assert!(losses.equal.is_finite() && losses.weighted.is_none_or(f64::is_finite));
            for (group, level) in [(0, 0), (1, 2), (9, 4)] {
                let weights = found.weights(0, group, level);
                assert!(weights.iter().all(|w| w.is_finite() && *w >= 0.0), "{weights:?}");
                assert!(!sum_to_one || (weights.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{weights:?}");
            }
            let (row, mut out) = ([1.0, 2.0, 3.0, 4.0, 5.0], [0.0; 5]);
            found.apply(0, 0, &vec![Some(&row[..]); found.models().len()], &mut out).unwrap();
            assert!(out.is_sorted() && out.iter().all(|q| q.is_finite()));
        }
    }
}
