//! One deployment in a temporary folder: a configuration, a lake, and the real `meterline` binary as a process.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value};
use tempfile::TempDir;

use crate::checkout;
use crate::guard::{self, Guarded};
use crate::s3::{ACCESS_KEY_ID, BUCKET, S3, SECRET_ACCESS_KEY};
use crate::skip::note;
use crate::wait::{self, Finished};

/// Longest time for one query or another short command.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);

/// The `meterline` binary: `METERLINE_BIN`, else the one beside this program, brought up to date first.
pub fn meterline() -> PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY
        .get_or_init(|| {
            if let Some(named) = std::env::var_os("METERLINE_BIN") {
                return named.into();
            }
            // target/release/deps/end_to_end-… or target/release/ingest → target/release/meterline
            let program = std::env::current_exe().expect("the path of this program");
            let profile = program.ancestors().skip(1).find(|folder| !folder.ends_with("deps")).expect("a folder");
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let mut build = Command::new(cargo);
            build.args(["build", "--locked", "-p", "meterline", "--bin", "meterline"]);
            if profile.ends_with("release") {
                build.arg("--release");
            }
            let target = profile.parent().expect("the profile's folder lies in the target folder");
            build.env("CARGO_TARGET_DIR", target).current_dir(checkout::root());
            assert!(build.status().is_ok_and(|s| s.success()), "could not build meterline");
            profile.join("meterline")
        })
        .clone()
}

/// A configuration, a lake and logs in a temporary folder; gone when dropped.
#[derive(Debug)]
pub struct Sandbox {
    // Engines that were killed: pipeline runs that survived them go with the sandbox.
    killed: Mutex<Vec<Guarded>>,
    folder: TempDir,
    lake: PathBuf,
    // What the environment says beside what it says to this process.
    environment: Vec<(&'static str, &'static str)>,
}

impl Sandbox {
    /// An empty sandbox.
    pub fn new() -> Sandbox {
        let folder = tempfile::Builder::new().prefix("meterline-test-").tempdir().expect("make a sandbox");
        guard::remove_at_exit(folder.path());
        let lake = folder.path().join("lake");
        Sandbox { killed: Mutex::new(Vec::new()), folder, lake, environment: Vec::new() }
    }

    /// Settings by which series of this frequency start no pipeline.
    pub fn no_pipelines(frequency: &str) -> String {
        let never = "when = \"false\"";
        // Each frequency has a policy of its own.
        let name = format!("policy.quiet-{frequency}");
        format!("\n[{name}]\nfrequency = \"{frequency}\"\n[{name}.retrain]\n{never}\n[{name}.reforecast]\n{never}\n")
    }

    /// A sandbox whose configuration reads the records of `replay` and `generate` from `topic`, with a lake in
    /// `lake` beside it; `more` is further TOML.
    pub fn reading(brokers: &str, topic: &str, more: &str) -> Sandbox {
        let sandbox = Sandbox::new();
        let lake = format!("[lake]\nurl = \"{}\"\n", sandbox.lake().display());
        sandbox.configure(&feed(brokers, topic, &lake, more));
        sandbox
    }

    /// As [`Sandbox::reading`], with a lake of its own on `server`, which is spoken to at `endpoint`: its own, or that
    /// of a proxy before it. The credentials are in the environment of all processes.
    pub fn reading_on_s3(brokers: &str, topic: &str, server: &S3, endpoint: &str, more: &str) -> Sandbox {
        let mut sandbox = Sandbox::new();
        let name =
            sandbox.path().file_name().and_then(|name| name.to_str()).expect("the sandbox has a name").to_owned();
        let lake = format!(
            "[lake]\nurl = \"s3://{BUCKET}/{name}\"\n[lake.s3]\nendpoint = \"{endpoint}\"\n\
             [metadata]\nurl = \"sqlite:{}\"\n",
            sandbox.path().join("metadata.db").display()
        );
        sandbox.configure(&feed(brokers, topic, &lake, more));
        sandbox.lake = server.folder().join(name);
        sandbox.environment = vec![
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID),
            ("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY),
            // What else this process knows of S3 does not belong to it.
            ("AWS_SESSION_TOKEN", ""),
            // Where there is a proxy for the world outside, it is not for this machine.
            ("NO_PROXY", "127.0.0.1"),
        ];
        sandbox
    }

    /// Writes the configuration.
    pub fn configure(&self, toml: &str) {
        fs::write(self.config(), toml).expect("write the configuration");
    }

    /// Replaces a part of the configuration, which has to be there.
    pub fn replace(&self, from: &str, to: &str) {
        let toml = fs::read_to_string(self.config()).expect("read the configuration");
        assert!(toml.contains(from), "{from} is not in {toml}");
        self.configure(&toml.replace(from, to));
    }

    /// The folder of everything.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The configuration's path.
    pub fn config(&self) -> PathBuf {
        self.path().join("meterline.toml")
    }

    /// The lake's folder; that of the server's objects where it is on S3.
    pub fn lake(&self) -> PathBuf {
        self.lake.clone()
    }

    /// The engine's log so far, of all engines of this sandbox.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.path().join("engine.log")).unwrap_or_default()).into_owned()
    }

    /// Starts `meterline run`.
    pub fn engine(&self) -> Engine {
        self.start(Command::new(meterline()), &[])
    }

    /// Starts `meterline run` as one process of a cluster.
    pub fn process(&self, number: usize) -> Engine {
        self.start(Command::new(meterline()), &["--process", &number.to_string()])
    }

    /// As [`Sandbox::process`], for one other than process 0, whose health [`Sandbox::answer_of_member`] asks for.
    pub fn member(&self, number: usize) -> Engine {
        self.start(Command::new(meterline()), &["--process", &number.to_string(), "--http-listen", "127.0.0.1:0"])
    }

    /// As [`Sandbox::process`], with more in its environment.
    pub fn process_with(&self, number: usize, environment: &[(&str, String)]) -> Engine {
        let mut command = Command::new(meterline());
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        self.start(command, &["--process", &number.to_string()])
    }

    /// Starts `meterline run` where no file may grow beyond `kib` KiB, which a full disk looks like: writing fails. It
    /// needs no privileges; [`Engine::lift_file_limit`] is the space that comes back.
    pub fn engine_without_space(&self, kib: u32) -> Engine {
        // The limit comes with a signal that would end the process; a full disk has none. Blocks are of 512 bytes.
        let script = "trap '' XFSZ; ulimit -S -f \"$1\"; shift; exec \"$@\"";
        let mut shell = Command::new("sh");
        shell.args(["-c", script, "sh", &(2 * kib).to_string()]).arg(meterline());
        self.start(shell, &[])
    }

    fn start(&self, mut command: Command, more: &[&str]) -> Engine {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path().join("engine.log"))
            .expect("open the engine's log");
        let errors = log.try_clone().expect("share the engine's log");
        command.arg("run").arg("-c").arg(self.config()).args(more).current_dir(self.path());
        command.envs(self.environment.iter().copied());
        command.stdin(std::process::Stdio::null()).stdout(log).stderr(errors);
        Engine { process: Guarded::spawn(&mut command).expect("start meterline run") }
    }

    /// SIGKILL to the engine alone: a pipeline run that it started lives on, as it would in a crash.
    pub fn kill(&self, mut engine: Engine) {
        engine.process.signal("KILL");
        engine.wait(Duration::from_secs(10));
        self.killed.lock().unwrap_or_else(PoisonError::into_inner).push(engine.process);
    }

    /// `meterline` with `arguments`, in this sandbox.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(meterline());
        command.args(arguments).current_dir(self.path()).envs(self.environment.iter().copied());
        command
    }

    /// Runs `meterline` with `arguments` to its end.
    pub fn run(&self, arguments: &[&str]) -> Finished {
        wait::run(&mut self.command(arguments), COMMAND_LIMIT)
    }

    /// The rows that `meterline sql --json` answers. Panics if it fails.
    pub fn sql(&self, query: &str) -> Vec<Map<String, Value>> {
        self.try_sql(query).unwrap_or_else(|finished| panic!("{query}\n{}{}", finished.stdout, finished.stderr))
    }

    /// The rows that `meterline sql --json` answers, or what it left behind.
    pub fn try_sql(&self, query: &str) -> Result<Vec<Map<String, Value>>, Finished> {
        let config = self.config();
        let finished = self.run(&["sql", "-c", &config.display().to_string(), "--json", query]);
        if finished.code != Some(0) {
            return Err(finished);
        }
        let answer: Value = serde_json::from_str(&finished.stdout).expect("sql --json prints one JSON document");
        let rows = answer.get("rows").and_then(Value::as_array);
        Ok(rows
            .expect("sql --json prints rows")
            .iter()
            .map(|row| row.as_object().expect("a row is an object").clone())
            .collect())
    }

    /// One number that a query answers; `None` where the query fails, answers no row, or null.
    pub fn number(&self, query: &str) -> Option<i64> {
        let rows = self.try_sql(query).ok()?;
        rows.first()?.values().next()?.as_i64()
    }

    /// What the newest engine with `[http] listen = "127.0.0.1:0"` answers at `path`; `None` while it does not.
    pub fn http(&self, path: &str) -> Option<String> {
        Some(self.answer(path)?.1)
    }

    /// As [`Sandbox::http`], with the status before it.
    pub fn answer(&self, path: &str) -> Option<(u16, String)> {
        self.answer_where("metrics at /metrics", path)
    }

    /// What the newest [`Sandbox::member`] answers.
    pub fn answer_of_member(&self, path: &str) -> Option<(u16, String)> {
        self.answer_where("health of this process", path)
    }

    // Of the newest endpoints that the log announces so.
    fn answer_where(&self, announced: &str, path: &str) -> Option<(u16, String)> {
        let log = self.log();
        let line = log.lines().rev().find(|line| line.contains(announced))?;
        let address = line.split("127.0.0.1:").nth(1)?;
        let port: u16 = address.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()?;
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
    }

    /// One figure of `/metrics`, named with its labels.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let text = self.http("/metrics")?;
        let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    /// Number of commits of the table `intervals`, looked up without the engine.
    pub fn commits(&self) -> usize {
        let log = self.lake().join("intervals/_delta_log");
        fs::read_dir(log).map_or(0, |entries| {
            entries.filter_map(Result::ok).filter(|e| e.path().extension().is_some_and(|x| x == "json")).count()
        })
    }
}

/// The configuration of a feed that reads the records of `replay` and `generate`.
fn feed(brokers: &str, topic: &str, lake: &str, more: &str) -> String {
    format!(
        r#"
[kafka]
brokers = "{brokers}"

{lake}
[feed.meters]
topic = "{topic}"
series = "meter_id"
time = "ts"
value = "value"
unit_field = "unit"
quality = "quality"
label = "end"
{more}
"#
    )
}

impl Default for Sandbox {
    fn default() -> Self {
        Sandbox::new()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            note(&format!("the engine's log ends with\n{}", lines[lines.len().saturating_sub(60)..].join("\n")));
        }
    }
}

/// A running `meterline run`; killed with its children when dropped.
#[derive(Debug)]
pub struct Engine {
    process: Guarded,
}

impl Engine {
    /// SIGTERM, and the exit status. Panics if it takes longer than a minute.
    pub fn stop(mut self) -> ExitStatus {
        self.process.signal("TERM");
        self.wait(Duration::from_secs(60))
    }

    /// SIGINT, as Ctrl-C sends it, and the exit status. Panics if it takes longer than a minute.
    pub fn interrupt(mut self) -> ExitStatus {
        self.process.signal("INT");
        self.wait(Duration::from_secs(60))
    }

    /// Waits until it ends by itself. Panics after `limit`.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        self.process.wait_for(limit).unwrap_or_else(|| panic!("the engine did not end within {limit:?}"))
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.ended().is_none()
    }

    /// The exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.ended()
    }

    /// It stands still until [`Engine::resume`].
    pub fn pause(&self) {
        self.process.signal("STOP");
    }

    /// It goes on.
    pub fn resume(&self) {
        self.process.signal("CONT");
    }

    /// Lets files grow again; whether this system has a way to do so for a running process.
    pub fn lift_file_limit(&self) -> bool {
        let id = self.id().to_string();
        Command::new("prlimit").args(["--pid", &id, "--fsize=unlimited:"]).status().is_ok_and(|s| s.success())
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }
}
