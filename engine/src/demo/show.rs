//! The demo from its first line to its last.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use meterline_connectors::kafka::mock::MockBroker;
use meterline_connectors::kafka::sink::Sink;
use meterline_models::backtest::Evaluation;

use super::chart::Size;
use super::drive::{Driver, Phase, Plan};
use super::goal::{Milestones, is_by_model, share_known};
use super::narrate::{Narrator, View, better, minute, thousands};
use super::outcome::{Outcome, Scored, peak_memory_bytes};
use super::score::{Published, published};
use super::screen::Screen;
use super::setup::{self, Directory, FEED, Settings};
use super::supply::{self, Supply};
use crate::cli::shutdown::Shutdown;
use crate::cli::{CommandError, CommandResult};
use crate::environment::Environment;
use crate::ingest::groups::{GroupSummary, groups};
use crate::metadata::records::{Pipeline, RunRecord, Status};
use crate::pipelines::progress;
use crate::service::{Service, Standing};

/// How often everything is looked at.
const TICK: Duration = Duration::from_millis(400);
/// Decisions and runs that are looked at; the older ones have been told.
const RECENT: i64 = 100;
/// Partitions of the demo's topic.
const PARTITIONS: i32 = 4;
/// Longest that the end is waited for when the demo is to end by itself.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long nothing may happen after the last reading before nothing more is expected.
const QUIET: Duration = Duration::from_secs(20);
/// How often a forecast is shown after the first two.
const SHOW_EVERY: Duration = Duration::from_secs(60);
/// Columns and lines of the chart.
const CHART: Size = Size { width: 70, height: 12 };

/// What the user asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// End after the first model forecast and a later one that was scored.
    pub exit: bool,
    /// A file in place of the fleet.
    pub data: Option<PathBuf>,
    /// Simulated seconds per second.
    pub speed: f64,
    /// A real cluster in place of the in-process broker.
    pub brokers: Option<String>,
    /// Seed of the fleet.
    pub seed: u64,
    /// Size of the fleet.
    pub meters: u32,
    /// Whether standard output is kept for one JSON document.
    pub json: bool,
}

/// Runs the demo until Ctrl-C, or with `exit` until its goal is reached.
///
/// # Errors
/// Whatever stops the engine or the sending.
pub async fn run(options: &Options, directory: &Directory) -> CommandResult<Outcome> {
    let started = Instant::now();
    let shutdown = Shutdown::install()?;
    // A large file takes its time to look through, and a cluster to answer.
    let Some(stage) = shutdown.unless_requested(Stage::set(options)).await else {
        return Ok(Outcome::nothing(started));
    };
    let stage = stage?;
    let farewell = options.brokers.as_ref().map(|brokers| {
        let topic = &stage.topic;
        format!(
            "the topic {topic} stays on the cluster; to delete it: \
             kafka-topics.sh --bootstrap-server {brokers} --delete --topic {topic}"
        )
    });
    let outcome = perform(options, directory, stage, &shutdown, started).await;
    if let Some(farewell) = farewell {
        Screen::new(options.json).plain(&farewell);
    }
    outcome
}

/// What the demo plays with: readings, and a broker that takes them.
struct Stage {
    supply: Supply,
    // `None`: the cluster is somebody else's.
    broker: Option<MockBroker>,
    brokers: String,
    topic: String,
    sink: Sink,
}

impl Stage {
    async fn set(options: &Options) -> CommandResult<Stage> {
        let supplied = options.clone();
        let supply = tokio::task::spawn_blocking(move || match &supplied.data {
            Some(path) => supply::file(path),
            None => supply::fleet(supplied.meters, supplied.seed),
        })
        .await??;
        // On a cluster of others the topic is the demo's own; an earlier demo's readings must not be in it.
        let (broker, brokers, topic) = match &options.brokers {
            Some(given) => (None, given.clone(), setup::unique_name()),
            None => {
                let topic = "readings".to_owned();
                let broker = MockBroker::start(&[(topic.as_str(), PARTITIONS)])?;
                let brokers = broker.brokers().to_owned();
                (Some(broker), brokers, topic)
            }
        };
        let address = brokers.clone();
        let connecting = move || Sink::connect(&address, &std::collections::BTreeMap::new());
        let sink = tokio::task::spawn_blocking(connecting).await??;
        Ok(Stage { supply, broker, brokers, topic, sink })
    }
}

async fn perform(
    options: &Options,
    directory: &Directory,
    stage: Stage,
    shutdown: &Shutdown,
    started: Instant,
) -> CommandResult<Outcome> {
    let Stage { supply, broker, brokers, topic, sink } = stage;
    let mut screen = Screen::new(options.json);
    let opening = async {
        let partitions = sink.ensure_topic(&topic, PARTITIONS).await?;
        let settings = Settings {
            brokers: &brokers,
            topic: &topic,
            lake: &directory.lake(),
            label: supply.label,
            history: supply.history,
        };
        std::fs::write(directory.config(), setup::config(&settings))
            .map_err(|e| CommandError::failed(format!("cannot write {}: {e}", directory.config().display())))?;
        introduce(&mut screen, options, directory, &supply, &brokers, &topic, broker.is_some());
        let env = Arc::new(Environment::open(&directory.config()).await?);
        let service = Service::start(env.clone()).await?;
        Ok::<_, CommandError>((partitions, env, service))
    };
    let Some(opened) = shutdown.unless_requested(opening).await else { return Ok(Outcome::nothing(started)) };
    let (partitions, env, mut service) = opened?;
    let plan = Plan {
        records: supply.records,
        topic,
        feed: FEED.to_owned(),
        partitions,
        live_from: supply.live_from,
        speed: options.speed,
        forgetful: broker.is_some(),
    };
    let mut driver = Driver::start(plan, sink, service.committed())?;
    let mut show = Show::new(options.exit, env, directory.config(), screen, started);
    let outcome = show.play(&mut service, &driver, shutdown).await;
    show.screen.clear();
    show.screen.event("end", "committing what was read, stopping the runs");
    tokio::task::block_in_place(|| driver.stop());
    let stopped = service.stop().await;
    let mut outcome = outcome?;
    stopped?;
    outcome.skipped = supply.skipped.load(Ordering::Relaxed);
    if outcome.skipped > 0 {
        let skipped = thousands(outcome.skipped);
        show.screen.event("readings", &format!("{skipped} cells or rows could not be read and were left out"));
    }
    outcome.seconds = started.elapsed().as_secs_f64();
    outcome.peak_memory_bytes = peak_memory_bytes();
    Ok(outcome)
}

fn introduce(
    screen: &mut Screen,
    options: &Options,
    directory: &Directory,
    supply: &Supply,
    brokers: &str,
    topic: &str,
    in_process: bool,
) {
    let broker = if in_process { "in this process, speaks the Kafka protocol at" } else { "the cluster at" };
    let stays = if directory.stays() { "kept" } else { "removed at the end; --dir DIR keeps it" };
    screen.plain(&format!("\nMeterline {}: from meter readings to forecasts\n", env!("CARGO_PKG_VERSION")));
    screen.plain(&format!("  readings   {}", supply.description));
    screen.plain(&format!("  broker     {broker} {brokers}, topic {topic}"));
    screen.plain(&format!("  directory  {} ({stays})", directory.path().display()));
    screen.plain("             meterline.toml, meterline.log, lake/");
    screen.plain(&format!("  clock      after the history, one second is {} simulated minutes", options.speed / 60.0));
    let end = if options.exit {
        "  end        after a forecast by a model, and a later one that was scored"
    } else {
        "  end        Ctrl-C"
    };
    screen.plain(&format!("{end}\n"));
}

/// The running demo.
struct Show {
    exit: bool,
    env: Arc<Environment>,
    config: PathBuf,
    screen: Screen,
    narrator: Narrator,
    started: Instant,
    first_forecast_seconds: Option<f64>,
    shown_first: bool,
    scored_seconds: Option<f64>,
    scored: Option<Scored>,
    shown_at: Instant,
    queries_shown: bool,
    last: (Standing, Instant),
    rate: f64,
    changed_at: Instant,
}

impl Show {
    fn new(exit: bool, env: Arc<Environment>, config: PathBuf, screen: Screen, started: Instant) -> Show {
        let now = Instant::now();
        Show {
            exit,
            env,
            config,
            screen,
            narrator: Narrator::default(),
            started,
            first_forecast_seconds: None,
            shown_first: false,
            scored_seconds: None,
            scored: None,
            shown_at: now,
            queries_shown: false,
            last: (Standing::default(), now),
            rate: 0.0,
            changed_at: now,
        }
    }

    async fn play(&mut self, service: &mut Service, driver: &Driver, shutdown: &Shutdown) -> CommandResult<Outcome> {
        let committed = service.committed();
        let mut timer = tokio::time::interval(TICK);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                error = service.failed() => return Err(error.into()),
                () = shutdown.requested() => break,
                _ = timer.tick() => {}
            }
            if let Some(reason) = driver.failure() {
                return Err(CommandError::failed(format!("sending readings: {reason}")));
            }
            let newest = committed.borrow().clone();
            let (standing, groups) = match &newest {
                Some(c) => (Standing::of(c), groups(&c.state, &c.census, &self.env.config)),
                None => (Standing::default(), Vec::new()),
            };
            let view = self.look(driver, standing, &groups).await?;
            for line in self.narrator.tell(&view) {
                self.screen.event(line.topic, &line.text);
            }
            self.show_live(&view).await?;
            self.show_forecasts(&view, &groups).await?;
            if self.exit && self.scored.is_some() {
                break;
            }
            self.check_hope(&view)?;
        }
        let standing = committed.borrow().as_ref().map(|c| Standing::of(c)).unwrap_or_default();
        Ok(Outcome {
            readings: driver.sent().records,
            intervals: standing.intervals,
            first_forecast_seconds: self.first_forecast_seconds,
            scored_seconds: self.scored_seconds,
            scored: self.scored.clone(),
            ..Outcome::nothing(self.started)
        })
    }

    async fn look(&mut self, driver: &Driver, standing: Standing, groups: &[GroupSummary]) -> CommandResult<View> {
        let metadata = &self.env.metadata;
        if standing != self.last.0 {
            let seconds = self.last.1.elapsed().as_secs_f64();
            self.rate = standing.rate(&self.last.0, seconds);
            self.last = (standing, Instant::now());
            self.changed_at = Instant::now();
        }
        Ok(View {
            sent: driver.sent(),
            standing,
            groups: groups.iter().map(|g| (g.group_id.clone(), g.series)).collect(),
            decisions: metadata.decisions(RECENT).await?,
            runs: metadata.runs(RECENT).await?,
            models: metadata.models().await?,
        })
    }

    /// The changing line: training, if there is any, else the stream.
    async fn show_live(&mut self, view: &View) -> CommandResult {
        let active = |r: &&RunRecord| matches!(r.status, Status::Running | Status::Queued);
        let active: Vec<&RunRecord> = view.runs.iter().filter(active).collect();
        if !active.is_empty() {
            self.changed_at = Instant::now();
        }
        let build = active.iter().find(|r| r.spec.pipeline == Pipeline::Build && r.status == Status::Running);
        if let Some(run) = build {
            let steps = self.env.metadata.steps(&run.spec.run_id).await?;
            let metrics = self.env.metadata.metrics(&run.spec.run_id).await?;
            self.screen.live("training", &progress::line(run, &steps, &metrics));
            return Ok(());
        }
        let text = format!(
            "{} sent, {} committed ({}/s), {} intervals, clock {}",
            thousands(view.sent.records),
            thousands(view.standing.records),
            thousands(self.rate.round() as u64),
            thousands(view.standing.intervals),
            minute(view.sent.simulated)
        );
        self.screen.live("readings", &text);
        Ok(())
    }

    async fn show_forecasts(&mut self, view: &View, groups: &[GroupSummary]) -> CommandResult {
        let milestones = Milestones::of(&view.runs);
        let Some(first) = milestones.first else { return Ok(()) };
        if self.first_forecast_seconds.is_none() {
            self.first_forecast_seconds = Some(self.started.elapsed().as_secs_f64());
        }
        let ended = view.sent.phase == Phase::Ended && self.changed_at.elapsed() > QUIET / 2;
        if !self.shown_first && (share_known(first, groups) >= 0.25 || ended) {
            self.shown_first = true;
            self.show(first, "The first forecast by a model").await?;
        }
        if self.scored.is_none() {
            if let Some(later) = milestones.later
                && (share_known(later, groups) >= 1.0 || ended)
            {
                self.scored = self.show(later, "A later forecast, after all of it came true").await?;
                self.scored_seconds = self.scored.as_ref().map(|_| self.started.elapsed().as_secs_f64());
                self.shown_at = Instant::now();
            }
        } else if self.shown_at.elapsed() >= SHOW_EVERY {
            self.shown_at = Instant::now();
            let known = |r: &&RunRecord| is_by_model(r) && share_known(r, groups) >= 1.0;
            if let Some(newest) = view.runs.iter().filter(known).max_by(|a, b| a.spec.run_id.cmp(&b.spec.run_id)) {
                self.show(newest, "The newest forecast that came true").await?;
            }
        }
        Ok(())
    }

    /// Shows one run's forecast: table, chart, score, and the SQL to look further. `None` where nothing can be scored.
    async fn show(&mut self, run: &RunRecord, title: &str) -> CommandResult<Option<Scored>> {
        let published = published(&self.env, run).await?;
        let Some(series) = published.showcase().map(str::to_owned) else { return Ok(None) };
        let version = run.model_version.clone().unwrap_or_default();
        self.screen.plain(&format!("\n  {title}: series {series}, from {}, by {version}\n", minute(published.origin)));
        for line in published.table(&series) {
            self.screen.plain(&line);
        }
        self.screen.plain("");
        if let Some(chart) = published.chart(&series) {
            for line in chart.render(CHART, self.screen.is_terminal()) {
                self.screen.plain(&line);
            }
            self.screen.plain("         ● actual   ▀▄ median   ░ 80 % of the probability   ┊ origin");
        }
        let scored = self.show_score(run, &published);
        if !std::mem::replace(&mut self.queries_shown, true) {
            self.show_queries(&series);
        }
        self.screen.plain("");
        Ok(scored)
    }

    fn show_score(&mut self, run: &RunRecord, published: &Published) -> Option<Scored> {
        let (ours, naive) = published.scores()?;
        let figure = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.3}"));
        let compared = |of: fn(&Evaluation) -> Option<f64>| match (of(&ours), of(&naive)) {
            (Some(a), Some(b)) => better(a, b),
            _ => String::new(),
        };
        self.screen.plain(&format!(
            "\n  Score over all {} series, {} points that came true:",
            published.panel.series.len(),
            thousands(ours.points as u64)
        ));
        self.screen.plain(&format!("  {:<28} {:>8} {:>16}", "", "forecast", "seasonal naive"));
        for (name, of) in
            [("weighted quantile loss (wQL)", (|e| e.wql) as fn(&Evaluation) -> Option<f64>), ("MASE", |e| e.mase)]
        {
            self.screen.plain(&format!(
                "  {name:<28} {:>8} {:>16}   {}",
                figure(of(&ours)),
                figure(of(&naive)),
                compared(of)
            ));
        }
        let coverage = figure(ours.coverage);
        self.screen.plain(&format!("  {:<28} {coverage:>8} {:>16}", "in the 80 % interval", figure(naive.coverage)));
        Some(Scored {
            group_id: run.spec.group_id.clone(),
            run_id: run.spec.run_id.clone(),
            model_version: run.model_version.clone().unwrap_or_default(),
            points: ours.points,
            wql: ours.wql,
            naive_wql: naive.wql,
            mase: ours.mase,
            naive_mase: naive.mase,
            coverage: ours.coverage,
        })
    }

    fn show_queries(&mut self, series: &str) {
        let command = format!("{} sql -c {}", program(), self.config.display());
        self.screen.plain("\n  Look further, while it runs, in another terminal:");
        for query in [
            format!("SELECT start, q10, q50, q90 FROM forecasts_latest WHERE series_id = '{series}' ORDER BY start"),
            "SELECT model_version, sum(pinball) / sum(abs(actual)) AS wql FROM forecast_scores GROUP BY model_version"
                .to_owned(),
            "SELECT group_id, pipeline, reason FROM trigger_decisions WHERE fired ORDER BY at DESC LIMIT 10".to_owned(),
        ] {
            self.screen.plain(&format!("    {command} \"{query}\""));
        }
    }

    /// Ends a demo that was to end by itself but cannot reach its goal any more.
    fn check_hope(&self, view: &View) -> CommandResult {
        if !self.exit {
            return Ok(());
        }
        let what = match (self.first_forecast_seconds, view.models.is_empty()) {
            (Some(_), _) => "no later forecast could be scored",
            (None, true) => "no model was trained",
            (None, false) => "no model passed its gate",
        };
        let ended = view.sent.phase == Phase::Ended && self.changed_at.elapsed() > QUIET;
        if ended {
            return Err(CommandError::failed(format!(
                "the readings ended before the goal: {what}; a longer file helps (a model needs about two weeks), and \
                 `{} triggers list -c {}` says what each trigger waits for",
                program(),
                self.config.display()
            )));
        }
        if self.started.elapsed() > PATIENCE {
            return Err(CommandError::failed(format!("gave up after {} s: {what}", PATIENCE.as_secs())));
        }
        Ok(())
    }
}

/// How this program is called: through cargo, where it was built by it.
fn program() -> &'static str {
    let built = std::env::current_exe().is_ok_and(|path| path.ends_with(Path::new("release/meterline")));
    if built { "cargo run --release --" } else { "meterline" }
}
