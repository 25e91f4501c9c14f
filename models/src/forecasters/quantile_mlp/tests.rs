//! What the trained network promises.

use std::sync::OnceLock;

use jiff::tz::TimeZone;

use super::*;
use crate::backtest::compare;
use crate::data::Series;
use crate::forecasters::seasonal_naive::SeasonalNaive;
use meterline_schemas::quantiles::MEDIAN;

/// Deterministic noise in -1 .. 1.
fn noise(i: usize) -> f32 {
    let hashed = (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23).wrapping_mul(0xd134_2543_de82_ef95);
    (hashed >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
}

/// `days` of a daily shape with weekends, size and noise by series.
fn panel(frequency: Frequency, seasons: usize, series: usize) -> Panel {
    let season = frequency.season();
    let series = (0..series).map(|k| {
        let value = |i: usize| {
            let phase = i as f32 / season as f32;
            let weekend = if (i / season + 3) % 7 >= 5 { 0.6 } else { 1.0 };
            let shape = 2.0 + (std::f32::consts::TAU * phase).sin() * weekend;
            shape * (1.0 + 0.2 * noise(i + 10_007 * k)) * 3.0_f32.powi(k as i32 % 4)
        };
        Series::new(format!("s{k}"), 0, (0..seasons * season).map(value).collect())
    });
    Panel::new(frequency, TimeZone::UTC, series.collect())
}

fn small(horizon: usize, context: usize) -> TrainSpec {
    TrainSpec {
        epochs: 6,
        batches_per_epoch: 15,
        windows_per_batch: 64,
        steps_per_window: 8,
        members: 1,
        hidden: 32,
        learning_rate: 4e-3,
        ..TrainSpec::new(horizon, context, 1)
    }
}

fn go_on(_: TrainProgress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

const TRAINED_DAYS: usize = 40;

/// Trained on 40 days of 6 hourly series.
fn trained() -> &'static (Panel, QuantileMlp) {
    static TRAINED: OnceLock<(Panel, QuantileMlp)> = OnceLock::new();
    TRAINED.get_or_init(|| {
        let all = panel(Frequency::HOUR, TRAINED_DAYS + 7, 6);
        let known = all.cut(TRAINED_DAYS as i64 * meterline_schemas::time::DAY);
        let model = train(&known, &small(24, 7 * 24), &mut go_on).unwrap();
        (all, model)
    })
}

#[test]
fn it_beats_seasonal_naive_on_later_data() {
    let (all, model) = trained();
    let origins: Vec<i64> = (0..7).map(|d| (TRAINED_DAYS as i64 + d) * meterline_schemas::time::DAY).collect();
    let naive = SeasonalNaive::for_frequency(Frequency::HOUR);
    let found = compare(&[&naive, model], all, &origins, 24);
    let (naive, ours) = (&found[0], &found[1]);
    assert!(ours.wql.unwrap() < 0.85 * naive.wql.unwrap(), "{:?} against {:?}", ours.wql, naive.wql);
    assert!((0.65..0.95).contains(&ours.coverage.unwrap()), "{:?}", ours.coverage);
}

#[test]
fn quantiles_never_cross_and_the_mean_lies_among_them() {
    let (all, model) = trained();
    for forecast in model.forecast(all, 24) {
        let forecast = forecast.unwrap();
        assert_eq!((forecast.mean.len(), forecast.quantiles.len()), (24, 24));
        for (mean, q) in forecast.mean.iter().zip(&forecast.quantiles) {
            assert!(q.windows(2).all(|w| w[0] <= w[1]), "{q:?}");
            assert!(q[0] <= *mean && *mean <= q[OUTPUTS - 1] && q[0] >= 0.0);
        }
    }
}

#[test]
fn an_artifact_read_back_forecasts_the_same() {
    let (all, model) = trained();
    let bytes = model.to_bytes();
    let read = QuantileMlp::from_bytes(&bytes, &Device::Cpu).unwrap();
    assert_eq!(model.forecast(all, 24), read.forecast(all, 24));
    assert_eq!(read.spec(), model.spec());
    assert_eq!(read.to_bytes(), bytes);
}

#[test]
fn a_damaged_artifact_is_refused_with_its_reason() {
    let bytes = trained().1.to_bytes();
    let newer = String::from_utf8_lossy(&bytes[..40]).replace("mlp 1", "mlp 9").into_bytes();
    let mut poisoned = bytes.clone();
    let end = poisoned.len();
    poisoned[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    for (bytes, reason) in [
        (&b""[..], "no first line"),
        (b"PAR1....\n{}\n", "not that of a model"),
        (&newer, "format 9"),
        (&bytes[..30], "no header"),
        (&bytes[..bytes.len() - 8], "not whole networks"),
        (&poisoned, "not finite"),
    ] {
        let error = QuantileMlp::from_bytes(bytes, &Device::Cpu).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn the_same_seed_gives_the_same_network() {
    let (all, _) = trained();
    let spec = TrainSpec { epochs: 2, batches_per_epoch: 5, ..small(24, 7 * 24) };
    let first = train(all, &spec, &mut go_on).unwrap().to_bytes();
    assert!(first == train(all, &spec, &mut go_on).unwrap().to_bytes());
    assert!(first != train(all, &TrainSpec { seed: 2, ..spec }, &mut go_on).unwrap().to_bytes());
}

#[test]
fn no_value_from_after_the_origin_reaches_training_or_forecast() {
    let (all, model) = trained();
    let origin = TRAINED_DAYS as i64 * meterline_schemas::time::DAY;
    let mut poisoned = all.clone();
    for series in &mut poisoned.series {
        series.values[TRAINED_DAYS * 24..].iter_mut().for_each(|v| *v = 1e30);
    }
    assert_eq!(model.forecast(&all.cut(origin), 24), model.forecast(&poisoned.cut(origin), 24));
    let spec = TrainSpec { epochs: 1, batches_per_epoch: 3, ..small(24, 7 * 24) };
    let clean = train(&all.cut(origin), &spec, &mut go_on).unwrap();
    assert!(clean.to_bytes() == train(&poisoned.cut(origin), &spec, &mut go_on).unwrap().to_bytes());
}

#[test]
fn a_window_is_the_same_whatever_else_the_panel_holds() {
    let (all, model) = trained();
    let together = model.forecast(all, 24);
    for (i, series) in all.series.iter().enumerate() {
        let alone = Panel { series: vec![series.clone()], ..all.clone() };
        let alone = model.forecast(&alone, 24).remove(0).unwrap();
        let expected = together[i].as_ref().unwrap();
        for (a, b) in alone.quantiles.iter().flatten().zip(expected.quantiles.iter().flatten()) {
            assert!((a - b).abs() <= 1e-4 * b.abs().max(1.0), "{a} against {b}");
        }
    }
}

#[test]
fn a_gap_is_bridged_and_a_missing_context_is_said() {
    let (all, model) = trained();
    let mut panel = all.clone();
    let end = panel.series[0].values.len();
    panel.series[0].values[end - 30..end - 6].fill(f32::NAN);
    panel.series[1].values[end - 100..].fill(f32::NAN);
    panel.series[2].values.truncate(10);
    let found = model.forecast(&panel, 24);
    assert!(found[0].is_ok() && found[3].is_ok());
    assert_eq!(found[1], Err(NoForecast::MissingContext { present: 68, needed: 84 }));
    assert_eq!(found[2], Err(NoForecast::MissingContext { present: 10, needed: 84 }));
}

#[test]
fn series_that_never_change_or_are_always_zero_stay_what_they_are() {
    let (all, model) = trained();
    for value in [0.0_f32, 7.5, -3.0] {
        let constant = Series::new("constant", 0, vec![value; 10 * 24]);
        let forecast = model.forecast(&Panel { series: vec![constant], ..all.clone() }, 24).remove(0).unwrap();
        let allowed = 0.1 * f64::from(value.abs()) + 1e-4;
        assert!(forecast.quantiles.iter().all(|q| (q[MEDIAN] - f64::from(value)).abs() <= allowed), "{value}");
    }
}

#[test]
fn every_native_frequency_trains_and_forecasts() {
    for (frequency, seasons, context, horizon) in [
        ("PT1M", 12, 7 * 1440, 120),
        ("PT15M", 16, 672, 192),
        ("P1D", 30, 56, 14),
        ("P1W", 5, 104, 8),
        ("P1M", 12, 48, 12),
    ] {
        let frequency: Frequency = frequency.parse().unwrap();
        let panel = panel(frequency, seasons, 3);
        let spec = TrainSpec { epochs: 2, batches_per_epoch: 4, windows_per_batch: 32, ..small(horizon, context) };
        let model = train(&panel, &spec, &mut go_on).unwrap();
        for forecast in model.forecast(&panel, horizon) {
            let forecast = forecast.unwrap();
            assert!(forecast.quantiles.iter().flatten().all(|q| q.is_finite()), "{frequency}");
            assert_eq!(forecast.mean.len(), horizon);
        }
    }
}

#[test]
fn the_caller_can_stop_training_at_any_batch_and_keeps_a_usable_network() {
    let (all, _) = trained();
    for last in [0, 1, 20] {
        let mut calls = 0;
        let spec = small(24, 7 * 24);
        let model = train(all, &spec, &mut |progress| {
            calls += 1;
            assert!((0.0..1.0).contains(&progress.done()));
            if calls > last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
        assert_eq!(calls, last + 1);
        assert!(model.forecast(all, 24).iter().all(Result::is_ok));
    }
}

#[test]
fn too_little_history_is_an_error_that_says_what_is_needed() {
    let short = panel(Frequency::HOUR, 3, 2);
    let error = train(&short, &small(24, 7 * 24), &mut go_on).err();
    assert_eq!(error, Some(TrainError::NoWindows { needed: 84, longest: 72, series: 2 }));
    let empty = Panel { series: Vec::new(), ..short };
    assert!(matches!(train(&empty, &small(24, 7 * 24), &mut go_on), Err(TrainError::NoWindows { .. })));
}

#[test]
fn missing_targets_are_not_trained_on() {
    let mut panel = panel(Frequency::HOUR, 30, 4);
    for series in &mut panel.series {
        for (i, value) in series.values.iter_mut().enumerate() {
            if noise(i) > 0.6 {
                *value = f32::NAN;
            }
        }
    }
    let model = train(&panel, &small(24, 7 * 24), &mut go_on).unwrap();
    assert!(model.forecast(&panel, 24).iter().all(Result::is_ok));
    let layout = Layout::new(Frequency::HOUR, 7 * 24, 24, false);
    let grid = Grid::new(&panel, &layout, 24);
    let pick = Pick { series: 0, origin: 400, steps: (0..24).collect() };
    let batch = grid.batch(&[pick], &[1.0]);
    for (step, weight) in batch.weight.iter().enumerate() {
        assert_eq!(*weight > 0.0, panel.series[0].values[400 + step].is_finite());
    }
}

#[test]
fn what_counts_less_weighs_less() {
    let mut panel = panel(Frequency::HOUR, 30, 1);
    panel.series[0].weights = (0..panel.series[0].values.len()).map(|i| if i % 2 == 0 { 0.25 } else { 1.0 }).collect();
    let layout = Layout::new(Frequency::HOUR, 7 * 24, 24, false);
    let pick = Pick { series: 0, origin: 400, steps: (0..4).collect() };
    let batch = Grid::new(&panel, &layout, 24).batch(&[pick], &[2.0]);
    assert_eq!(batch.weight, [0.5, 2.0, 0.5, 2.0]);
}

#[test]
fn calibration_stretches_what_was_too_narrow() {
    let rows = vec![LEVELS.map(|level| (level - 0.5) * 0.1); 400];
    let actuals: Vec<f32> = (0..400).map(noise).collect();
    let found = Calibration::fit(&rows, &actuals, &[1.0; 400]);
    assert_eq!((found.below, found.above), (1.4, 1.4), "as far as it goes");
    let mut row = rows[0];
    found.apply(&mut row);
    assert!((row[0] - 1.4 * rows[0][0]).abs() < 1e-12 && row[MEDIAN] == 0.0);
}
