use std::cell::Cell;
use std::collections::BTreeSet;

use super::*;

fn never() -> bool {
    false
}

/// Runs a search whose objective reports nothing.
fn search(space: &Space, settings: &Settings, loss: impl Fn(&Configuration) -> f64) -> Study {
    minimise(space, settings, Vec::new(), &never, &mut |c, _| Ok(loss(c)), &mut |_| ()).unwrap()
}

fn settings(trials_max: usize, seed: u64) -> Settings {
    Settings { trials_max, seed, ..Settings::default() }
}

/// A learning rate, a size, and a kind of which one has a parameter of its own.
fn mixed() -> Space {
    Space::new(vec![
        Parameter::new("rate", Domain::log_float(1e-5, 1e-1)),
        Parameter::new("size", Domain::log_integer(8, 512)),
        Parameter::new("kind", Domain::categorical(&["plain", "dropout", "none"])),
        Parameter::new("share", Domain::float(0.0, 0.5)).only_if("kind", "dropout"),
    ])
    .unwrap()
}

/// Best at rate 0.002, size 100, dropout with share 0.2.
fn mixed_loss(c: &Configuration) -> f64 {
    let rate = (c.float("rate").unwrap() / 2e-3).ln() / 3.0;
    let size = (c.integer("size").unwrap() as f64 / 100.0).ln();
    let kind = match (c.choice("kind"), c.float("share")) {
        (Some("dropout"), Some(share)) => (share - 0.2).powi(2) * 4.0,
        (Some("plain"), None) => 0.3,
        (Some("none"), None) => 0.6,
        other => panic!("{other:?}"),
    };
    rate * rate + size * size + kind
}

#[test]
fn proposals_fit_the_space() {
    let space = mixed();
    let study = search(&space, &settings(60, 1), mixed_loss);
    assert_eq!((study.trials.len(), study.ended), (60, Ended::Trials));
    for (number, trial) in study.trials.iter().enumerate() {
        assert_eq!(trial.number, number);
        space.check(&trial.configuration).unwrap();
    }
}

#[test]
fn estimates_find_more_than_even_spreading() {
    let space = mixed();
    let mean_best = |settings: &dyn Fn(u64) -> Settings| {
        let best = |seed| search(&space, &settings(seed), mixed_loss).best().unwrap().loss().unwrap();
        (0..20).map(best).sum::<f64>() / 20.0
    };
    let estimated = mean_best(&|seed| settings(60, seed));
    let spread = mean_best(&|seed| Settings { startup_trials: 60, ..settings(60, seed) });
    assert!(estimated < 0.5 * spread, "{estimated} {spread}");
    assert!(estimated < 0.1, "{estimated}");
}

#[test]
fn parameters_of_one_range_are_not_taken_for_each_other() {
    let range = || Domain::float(0.0, 1.0);
    let space = Space::new(vec![Parameter::new("a", range()), Parameter::new("b", range())]).unwrap();
    let study =
        search(&space, &settings(80, 2), |c| (c.float("a").unwrap() - 0.1).abs() + (c.float("b").unwrap() - 0.9).abs());
    let best = &study.best().unwrap().configuration;
    let (a, b) = (best.float("a").unwrap(), best.float("b").unwrap());
    assert!((a - 0.1).abs() < 0.06 && (b - 0.9).abs() < 0.06, "{a} {b}");
}

#[test]
fn the_first_trials_are_spread_evenly() {
    let space = Space::new(vec![
        Parameter::new("x", Domain::float(0.0, 10.0)),
        Parameter::new("k", Domain::integer(0, 9)),
        Parameter::new("c", Domain::categorical(&["a", "b"])),
    ])
    .unwrap();
    let study = search(&space, &settings(10, 3), |_| 1.0);
    let parts: BTreeSet<u64> = study.trials.iter().map(|t| t.configuration.float("x").unwrap() as u64).collect();
    assert_eq!(parts.len(), 10);
    let integers: BTreeSet<i64> = study.trials.iter().map(|t| t.configuration.integer("k").unwrap()).collect();
    assert_eq!(integers.len(), 10);
    let a = study.trials.iter().filter(|t| t.configuration.choice("c") == Some("a")).count();
    assert_eq!(a, 5);
}

#[test]
fn a_small_discrete_space_is_tried_whole() {
    let space = Space::new(vec![
        Parameter::new("k", Domain::integer(1, 4)),
        Parameter::new("c", Domain::categorical(&["a", "b", "c"])),
    ])
    .unwrap();
    let study = search(&space, &Settings { startup_trials: 4, ..settings(25, 4) }, |c| {
        c.integer("k").unwrap() as f64 + if c.choice("c") == Some("b") { 0.0 } else { 1.0 }
    });
    let tried: Vec<&Configuration> = study.trials.iter().map(|t| &t.configuration).collect();
    let different = (0..tried.len()).filter(|i| !tried[..*i].contains(&tried[*i])).count();
    assert_eq!(different, 12);
    assert_eq!(study.best().unwrap().loss(), Some(1.0));
}

/// Reports a falling curve that ends at the loss.
fn curve(c: &Configuration, report: &mut dyn FnMut(u64, f64) -> Decision, steps: &Cell<usize>) -> Result<f64, Stop> {
    let loss = mixed_loss(c);
    for step in 1..=9 {
        steps.set(steps.get() + 1);
        report(step, loss + 1.0 / step as f64).go_on()?;
    }
    Ok(loss)
}

#[test]
fn a_search_resumed_at_any_trial_takes_the_same_course() {
    let space = mixed();
    for pruning in [
        Pruning::Never,
        Pruning::Median { trials_min: 3, warmup_steps: 2 },
        Pruning::SuccessiveHalving { first_step: 1, reduction_factor: 3 },
    ] {
        let settings = Settings { pruning, ..settings(30, 5) };
        let steps = Cell::new(0);
        let run = |recorded| {
            minimise(&space, &settings, recorded, &never, &mut |c, r| curve(c, r, &steps), &mut |_| ()).unwrap()
        };
        let whole = run(Vec::new());
        for kept in [0, 1, 9, 10, 17, 29, 30] {
            // Through the form in which records are kept.
            let text = serde_json::to_string(&whole.trials[..kept]).unwrap();
            let again = run(serde_json::from_str(&text).unwrap());
            let numbers = |study: &Study| study.trials.iter().map(|t| t.configuration.clone()).collect::<Vec<_>>();
            assert_eq!(numbers(&again), numbers(&whole), "{pruning:?} {kept}");
        }
        assert_eq!(run(whole.trials.clone()), whole);
    }
    let other = search(&space, &settings(30, 6), mixed_loss);
    assert_ne!(other.trials, search(&space, &settings(30, 5), mixed_loss).trials, "another seed, another course");
}

#[test]
fn pruning_spares_steps_and_keeps_good_trials() {
    let space = mixed();
    let run = |pruning| {
        let steps = Cell::new(0);
        let settings = Settings { pruning, ..settings(60, 7) };
        let study =
            minimise(&space, &settings, Vec::new(), &never, &mut |c, r| curve(c, r, &steps), &mut |_| ()).unwrap();
        (study, steps.get())
    };
    let (_, all) = run(Pruning::Never);
    assert_eq!(all, 60 * 9);
    for pruning in [
        Pruning::Median { trials_min: 5, warmup_steps: 0 },
        Pruning::SuccessiveHalving { first_step: 1, reduction_factor: 3 },
    ] {
        let (study, steps) = run(pruning);
        assert!(steps < all * 3 / 4, "{pruning:?}: {steps} of {all}");
        assert!(study.best().unwrap().loss().unwrap() < 0.25, "{pruning:?}");
        let pruned: Vec<&Trial> = study.trials.iter().filter(|t| t.outcome == Outcome::Pruned).collect();
        assert!(pruned.len() > 10);
        assert!(pruned.iter().all(|t| !t.intermediate.is_empty() && t.intermediate.len() <= 9));
    }
}

#[test]
fn trials_that_fail_are_recorded_and_avoided() {
    let space = Space::new(vec![Parameter::new("x", Domain::float(0.0, 1.0))]).unwrap();
    let mut objective = |c: &Configuration, report: &mut dyn FnMut(u64, f64) -> Decision| {
        let x = c.float("x").unwrap();
        if x > 0.9 {
            return Err(Stop::Failed("out of memory".to_owned()));
        }
        if x > 0.8 {
            report(3, f64::NAN).go_on()?;
        }
        if x > 0.7 { Ok(f64::INFINITY) } else { Ok(1.0 - x) }
    };
    let settings = Settings { startup_trials: 20, ..settings(60, 8) };
    let study = minimise(&space, &settings, Vec::new(), &never, &mut objective, &mut |_| ()).unwrap();
    for trial in &study.trials {
        let x = trial.configuration.float("x").unwrap();
        let expected = match x {
            x if x > 0.9 => Outcome::Failed("out of memory".to_owned()),
            x if x > 0.8 => Outcome::Failed("the value at step 3 is NaN".to_owned()),
            x if x > 0.7 => Outcome::Failed("the loss is inf".to_owned()),
            x => Outcome::Complete(1.0 - x),
        };
        assert_eq!(trial.outcome, expected);
    }
    let failed = |trials: &[Trial]| trials.iter().filter(|t| matches!(t.outcome, Outcome::Failed(_))).count();
    assert_eq!(failed(&study.trials[..20]), 6);
    assert!(failed(&study.trials[20..]) < 20, "{}", failed(&study.trials[20..]));
    assert!(study.best().unwrap().loss().unwrap() < 0.33);
}

#[test]
fn nothing_but_failures_is_no_end() {
    let space = Space::new(vec![Parameter::new("x", Domain::float(0.0, 1.0))]).unwrap();
    let mut objective = |_: &Configuration, _: &mut dyn FnMut(u64, f64) -> Decision| Err(Stop::Told);
    let study = minimise(&space, &settings(30, 9), Vec::new(), &never, &mut objective, &mut |_| ()).unwrap();
    assert_eq!((study.trials.len(), study.best()), (30, None));
    assert!(matches!(&study.trials[0].outcome, Outcome::Failed(reason) if reason.contains("not told")));
}

#[test]
fn time_that_is_up_ends_the_search_and_the_trial_under_way() {
    let space = mixed();
    let settings = settings(20, 10);
    let steps = Cell::new(0);
    let whole = minimise(&space, &settings, Vec::new(), &never, &mut |c, r| curve(c, r, &steps), &mut |_| ()).unwrap();
    let asked = Cell::new(0);
    // Each trial asks once before and nine times on its way: the 126th question is in trial 12.
    let deadline = || asked.replace(asked.get() + 1) >= 125;
    let mut kept = Vec::new();
    let cut = minimise(&space, &settings, Vec::new(), &deadline, &mut |c, r| curve(c, r, &steps), &mut |t| {
        kept.push(t.clone())
    })
    .unwrap();
    assert_eq!((cut.ended, cut.trials.len()), (Ended::Deadline, 13));
    assert_eq!((&kept, &cut.trials[12].outcome), (&cut.trials, &Outcome::Interrupted));
    let resumed = minimise(&space, &settings, kept, &never, &mut |c, r| curve(c, r, &steps), &mut |_| ()).unwrap();
    assert_eq!(resumed, whole);
    let none = minimise(&space, &settings, Vec::new(), &|| true, &mut |_, _| Ok(1.0), &mut |_| ()).unwrap();
    assert_eq!((none.trials.len(), none.ended, none.best()), (0, Ended::Deadline, None));
}

#[test]
fn records_of_another_search_are_refused() {
    let space = mixed();
    let study = search(&space, &settings(3, 11), mixed_loss);
    let resume = |change: &dyn Fn(&mut Vec<Trial>)| {
        let mut trials = study.trials.clone();
        change(&mut trials);
        minimise(&space, &settings(3, 11), trials, &never, &mut |_, _| Ok(0.0), &mut |_| ()).map(|_| ()).unwrap_err()
    };
    let set = |name: &str, value: Value| {
        let name = name.to_owned();
        move |trials: &mut Vec<Trial>| {
            trials[1].configuration.0.insert(name.clone(), value.clone());
        }
    };
    assert_eq!(resume(&|trials| trials.swap(0, 1)), SearchError::Number { place: 0, number: 1 });
    assert_eq!(resume(&|trials| trials[2].outcome = Outcome::Complete(f64::NAN)), SearchError::NotFinite { number: 2 });
    for (name, value, part) in [
        ("rate", Value::Float(5.0), "outside its domain"),
        ("rate", Value::Integer(1), "outside its domain"),
        ("kind", Value::Choice("other".to_owned()), "outside its domain"),
        ("colour", Value::Float(1.0), "no parameter"),
    ] {
        let error = resume(&set(name, value)).to_string();
        assert!(error.contains(part) && error.contains(name), "{error}");
    }
    let missing = resume(&|trials| {
        trials[0].configuration.0.remove("size");
    });
    assert!(missing.to_string().contains("\"size\" is missing"), "{missing}");
}

#[test]
fn spaces_that_make_no_sense_are_refused_by_name() {
    let x = |domain| Space::new(vec![Parameter::new("x", domain)]).unwrap_err();
    let name = || "x".to_owned();
    for domain in [
        Domain::float(2.0, 1.0),
        Domain::float(f64::NAN, 1.0),
        Domain::float(0.0, f64::INFINITY),
        Domain::float(f64::MIN, f64::MAX),
        Domain::integer(2, 1),
    ] {
        assert_eq!(x(domain), SpaceError::Bounds(name()));
    }
    for domain in [Domain::log_float(0.0, 1.0), Domain::log_integer(0, 4)] {
        assert_eq!(x(domain), SpaceError::LogBounds(name()));
    }
    for choices in [&[][..], &["a", "a"][..]] {
        assert_eq!(x(Domain::categorical(choices)), SpaceError::Choices(name()));
    }
    let kind = || Parameter::new("kind", Domain::categorical(&["a", "b"]));
    let dependent = |parameter, choice| Parameter::new("x", Domain::float(0.0, 1.0)).only_if(parameter, choice);
    for parameters in [
        vec![dependent("kind", "a"), kind()],
        vec![kind(), dependent("kind", "c")],
        vec![Parameter::new("k", Domain::integer(1, 2)), dependent("k", "1")],
    ] {
        assert_eq!(Space::new(parameters), Err(SpaceError::Condition(name())));
    }
    let twice = SpaceError::DeclaredTwice("kind".to_owned());
    assert_eq!(Space::new(vec![kind(), kind()]), Err(twice));
}

#[test]
fn conditions_follow_one_another() {
    let space = Space::new(vec![
        Parameter::new("model", Domain::categorical(&["tree", "net"])),
        Parameter::new("cell", Domain::categorical(&["gru", "lstm"])).only_if("model", "net"),
        Parameter::new("width", Domain::integer(1, 1000)).only_if("cell", "gru"),
    ])
    .unwrap();
    let study = search(&space, &settings(40, 12), |c| if c.integer("width").is_some() { 0.0 } else { 1.0 });
    for trial in &study.trials {
        let c = &trial.configuration;
        assert_eq!(c.choice("cell").is_some(), c.choice("model") == Some("net"));
        assert_eq!(c.integer("width").is_some(), c.choice("cell") == Some("gru"));
    }
    let last = study.trials.iter().rev().take(10).filter(|t| t.loss() == Some(0.0)).count();
    assert!(last >= 5, "{last} of the last ten");
}

#[test]
fn domains_at_their_limits_give_values_within() {
    for (domain, number) in [
        (Domain::float(2.5, 2.5), 0),
        (Domain::log_float(1e-300, 1e300), 1),
        (Domain::integer(3, 3), 2),
        (Domain::integer(i64::MIN, i64::MAX), 3),
        (Domain::log_integer(1, i64::MAX), 4),
        (Domain::categorical(&["only"]), 5),
        (Domain::float(0.1234567891, 0.1234567892), 6),
    ] {
        let space = Space::new(vec![Parameter::new("x", domain.clone())]).unwrap();
        let study = search(&space, &settings(20, number), |_| 0.0);
        assert!(study.trials.iter().all(|t| space.check(&t.configuration).is_ok()), "{domain:?}");
        for unit in [0.0, 0.5, 1.0] {
            let value = domain.at(unit);
            let back = domain.unit(&value);
            assert!(back.is_none_or(|back| (0.0..=1.0).contains(&back)), "{domain:?}");
        }
    }
    let empty = search(&Space::new(vec![]).unwrap(), &settings(3, 0), |_| 0.0);
    assert_eq!(empty.trials.len(), 3);
}

#[test]
fn positions_in_a_domain_lead_back_to_their_value() {
    for domain in
        [Domain::float(-3.0, 7.0), Domain::log_float(1e-6, 1.0), Domain::integer(-5, 5), Domain::log_integer(1, 1000)]
    {
        for i in 0..=20 {
            let value = domain.at(f64::from(i) / 20.0);
            assert_eq!(domain.at(domain.unit(&value).unwrap()), value, "{domain:?} {i}");
        }
    }
}

#[test]
fn spaces_settings_and_trials_are_plain_text() {
    let text = r#"[
        {"name": "kind", "domain": {"type": "categorical", "choices": ["a", "b"]}},
        {"name": "rate", "domain": {"type": "float", "low": 0.001, "high": 1.0, "scale": "log"},
         "only_if": {"parameter": "kind", "choice": "a"}},
        {"name": "depth", "domain": {"type": "integer", "low": 1, "high": 8}}
    ]"#;
    let space: Space = serde_json::from_str(text).unwrap();
    let expected = Space::new(vec![
        Parameter::new("kind", Domain::categorical(&["a", "b"])),
        Parameter::new("rate", Domain::log_float(0.001, 1.0)).only_if("kind", "a"),
        Parameter::new("depth", Domain::integer(1, 8)),
    ]);
    assert_eq!(Ok(&space), expected.as_ref());
    assert_eq!(serde_json::from_str::<Space>(&serde_json::to_string(&space).unwrap()).unwrap(), space);
    let wrong = r#"[{"name": "x", "domain": {"type": "float", "low": 2, "high": 1}}]"#;
    assert!(serde_json::from_str::<Space>(wrong).unwrap_err().to_string().contains("bounds"));

    let settings: Settings =
        serde_json::from_str(r#"{"trials_max": 9, "pruning": {"type": "median", "trials_min": 2, "warmup_steps": 1}}"#)
            .unwrap();
    assert_eq!(settings.pruning, Pruning::Median { trials_min: 2, warmup_steps: 1 });
    assert_eq!((settings.trials_max, settings.candidates), (9, 24));

    let values = [("depth", Value::Integer(3)), ("kind", Value::Choice("a".into())), ("rate", Value::Float(1.0))];
    let configuration = Configuration(values.into_iter().map(|(k, v)| (k.to_owned(), v)).collect());
    let trial = Trial { number: 4, configuration, intermediate: vec![(1, 0.5)], outcome: Outcome::Complete(0.25) };
    let text = serde_json::to_string(&trial).unwrap();
    assert_eq!(
        text,
        r#"{"number":4,"configuration":{"depth":3,"kind":"a","rate":1.0},"intermediate":[[1,0.5]],"outcome":{"complete":0.25}}"#
    );
    assert_eq!(serde_json::from_str::<Trial>(&text).unwrap(), trial);
}
