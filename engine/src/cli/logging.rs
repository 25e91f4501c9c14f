//! Logs go to standard error, or to a file; `METERLINE_LOG` selects what, in the syntax of `tracing`'s environment
//! filter.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Mutex;

use tracing_subscriber::EnvFilter;

/// Name of the environment variable with the filter.
pub const VARIABLE: &str = "METERLINE_LOG";

/// The Delta kernel logs a missing table as an error; whether that is one, its caller decides and says.
const SERVICE: &str = "warn,meterline=info,meterline_connectors=info,meterline_models=info,buoyant_kernel=off";

/// What is logged where [`VARIABLE`] is not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Default {
    /// The service: what it does.
    Service,
    /// A short command: what needs attention.
    Quiet,
    /// Nothing yet: the command sets up its own with [`start_file`].
    Own,
}

fn filter(fallback: &str) -> EnvFilter {
    match EnvFilter::try_from_env(VARIABLE) {
        Ok(filter) => filter,
        Err(_) => {
            if std::env::var_os(VARIABLE).is_some_and(|v| !v.is_empty()) {
                eprintln!("warning: {VARIABLE} is no valid filter; using `{fallback}` (example: info,meterline=debug)");
            }
            EnvFilter::new(fallback)
        }
    }
}

/// Starts logging to standard error, without colour codes where that is no terminal.
pub fn start(default: Default) {
    let fallback = match default {
        Default::Service => SERVICE,
        Default::Quiet => "error,meterline=warn,meterline_connectors=warn,meterline_models=warn,buoyant_kernel=off",
        Default::Own => return,
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter(fallback))
        .with_writer(std::io::stderr)
        // Where standard error is a pipe whose reader died, reporting that on standard error would panic.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}

/// Starts logging to a file.
///
/// # Errors
/// The file cannot be created.
pub fn start_file(path: &Path) -> std::io::Result<()> {
    let file = std::fs::File::options().create(true).append(true).open(path)?;
    tracing_subscriber::fmt()
        .with_env_filter(filter(SERVICE))
        .with_writer(Mutex::new(file))
        .with_ansi(false)
        .with_target(false)
        .init();
    Ok(())
}
