//! What every command gets beside its own arguments.

use std::io::Write;
use std::path::PathBuf;

use serde::Serialize;

use super::error::{CommandError, CommandResult};

/// The configuration file, as every command takes it.
#[derive(Debug, Clone, clap::Args)]
pub struct ConfigArg {
    /// Configuration file
    #[arg(short = 'c', long = "config", value_name = "FILE", default_value = "meterline.toml")]
    pub config: PathBuf,
}

/// Options of the whole command line.
#[derive(Debug, Clone, Copy)]
pub struct Context {
    /// Print one JSON document to standard output.
    pub json: bool,
}

impl Context {
    /// Prints the command's one JSON document.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn print_json<T: Serialize>(&self, document: &T) -> CommandResult {
        let text = serde_json::to_string_pretty(document)?;
        self.print(&text)
    }

    /// Prints text and a line end to standard output. A reader that went away (`| head`) is no error.
    ///
    /// # Errors
    /// Standard output cannot be written, such as to a full disk.
    pub fn print(&self, text: &str) -> CommandResult {
        let mut out = std::io::stdout().lock();
        match writeln!(out, "{text}").and_then(|()| out.flush()) {
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            Err(e) => Err(CommandError::failed(format!("cannot write to standard output: {e}"))),
            Ok(()) => Ok(()),
        }
    }
}
