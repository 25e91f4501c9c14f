//! One child process of a run: started, listened to, asked to end, and its end put into words.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use meterline_schemas::config::Config;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, Command};

use super::error::RunError;
use super::stop::Stop;
use crate::metadata::records::RunSpec;

/// How long a child may take to reach a safe point and end once it was asked to.
const END_PATIENCE: Duration = Duration::from_secs(15);
/// Last lines of its error output that are kept.
const STDERR_LINES: usize = 40;

/// Runs one child to its end; `None` as program is this very one. Returns how it ended, in words, and the last lines of
/// its error output. The child is told `config`, which came from the file `config_path`: whatever becomes of that
/// meanwhile, all processes of an engine go by the same.
pub(super) async fn run(
    program: Option<&Path>,
    config_path: &Path,
    config: &Config,
    spec: &RunSpec,
    stop: &Stop,
) -> Result<(String, Vec<String>), RunError> {
    let config = serde_json::to_vec(config)
        .map_err(|e| RunError::io("putting the configuration into words for the run's process", e.into()))?;
    let path = match program {
        Some(program) => program.to_owned(),
        None => this_program().map_err(|e| RunError::io("finding this program's own file", e))?,
    };
    let mut command = Command::new(&path);
    #[cfg(unix)]
    if let (None, Some(name)) = (program, std::env::args_os().next()) {
        // Lists of processes should not show how the file was found.
        command.arg0(name);
    }
    command
        .arg("execute-run")
        .arg("-c")
        .arg(config_path)
        .arg("--run")
        .arg(&spec.run_id)
        .arg("--parent-pipe")
        // Kept open by this process alone: its end tells the child that the engine died, however it died.
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|e| RunError::io(format!("starting {} for the run", path.display()), e))?;
    tracing::info!(
        run = %spec.run_id,
        group = %spec.group_id,
        pipeline = spec.pipeline.as_str(),
        process = child.id(),
        "the run's process starts"
    );
    let stderr = child.stderr.take();
    let tail = tokio::spawn(read_tail(spec.run_id.clone(), stderr));
    let ended = watch(&mut child, &config, stop).await;
    let tail = tail.await.unwrap_or_default();
    let status = ended.map_err(|e| RunError::io("waiting for the run's process", e))?;
    Ok((describe_end(status), tail))
}

async fn watch(child: &mut Child, config: &[u8], stop: &Stop) -> std::io::Result<ExitStatus> {
    // `wait` would close the pipe at once.
    let mut pipe = child.stdin.take();
    if let Some(pipe) = &mut pipe {
        // A child that ended without having listened tells why by its end; one that hangs can be asked to stop.
        tokio::select! {
            _ = tell(pipe, config) => {}
            () = stop.requested() => {}
        }
    }
    tokio::select! {
        status = child.wait() => return status,
        () = stop.requested() => {}
    }
    drop(pipe);
    match tokio::time::timeout(END_PATIENCE, child.wait()).await {
        Ok(status) => status,
        Err(_) => {
            tracing::warn!(process = child.id(), "the run's process did not stop in time and is killed");
            child.kill().await?;
            child.wait().await
        }
    }
}

// How many bytes, as a line, and these.
async fn tell(pipe: &mut ChildStdin, config: &[u8]) -> std::io::Result<()> {
    pipe.write_all(format!("{}\n", config.len()).as_bytes()).await?;
    pipe.write_all(config).await?;
    pipe.flush().await
}

// On Linux by its open file, which stays this very program after an update has replaced the file of its name.
fn this_program() -> std::io::Result<PathBuf> {
    if cfg!(target_os = "linux") { Ok(PathBuf::from("/proc/self/exe")) } else { std::env::current_exe() }
}

async fn read_tail(run_id: String, stderr: Option<ChildStderr>) -> Vec<String> {
    let mut tail = VecDeque::new();
    let Some(stderr) = stderr else { return Vec::new() };
    let mut reader = BufReader::new(stderr);
    let mut bytes = Vec::new();
    while matches!(reader.read_until(b'\n', &mut bytes).await, Ok(n) if n > 0) {
        let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        bytes.clear();
        tracing::debug!(run = run_id, "{line}");
        if tail.len() == STDERR_LINES {
            tail.pop_front();
        }
        tail.push_back(line);
    }
    tail.into()
}

/// How a process ended, in words.
fn describe_end(status: ExitStatus) -> String {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        let name = match signal {
            2 => "SIGINT",
            4 => "SIGILL",
            6 => "SIGABRT",
            7 => "SIGBUS",
            8 => "SIGFPE",
            9 => return "was killed by SIGKILL (often: out of memory; the kernel's log tells)".to_owned(),
            11 => "SIGSEGV",
            15 => "SIGTERM",
            _ => return format!("was killed by signal {signal}"),
        };
        return format!("was killed by {name}");
    }
    match status.code() {
        Some(0) => "ended without a result".to_owned(),
        Some(code) => format!("ended with exit status {code}"),
        None => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn this_program_starts_under_its_own_name() {
        let program = this_program().unwrap();
        let mut command = Command::new(program);
        let output = command.arg("--list").output().await.unwrap();
        assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("pipelines::runner"));
    }
}
