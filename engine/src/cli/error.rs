//! How a command ends badly: one line on standard error, and the exit status.

use std::error::Error;
use std::process::ExitCode;

use crate::environment::EnvironmentError;
use crate::ingest::IngestError;
use crate::service::ServiceError;

/// What a command returns.
pub type CommandResult<T = ()> = Result<T, CommandError>;

/// A failure with its exit status. Any error converts into one of status 1 (a fault of configuration or arguments: 2),
/// so commands use `?`.
#[derive(Debug)]
pub struct CommandError {
    status: u8,
    message: String,
}

impl CommandError {
    /// The command could not do its work: exit status 1.
    pub fn failed(message: impl Into<String>) -> CommandError {
        CommandError { status: 1, message: message.into() }
    }

    /// The arguments or the configuration are wrong: exit status 2.
    pub fn usage(message: impl Into<String>) -> CommandError {
        CommandError { status: 2, message: message.into() }
    }

    /// No model group is called `asked`; `known` are those that there are.
    pub fn unknown_group(asked: &str, known: &[String]) -> CommandError {
        CommandError::usage(match known {
            [] => format!(
                "there is no model group `{asked}`, nor any other yet; groups form from readings: start `meterline run`, or \
                 load history with `meterline backfill`"
            ),
            known => format!("there is no model group `{asked}`; there are {}", known.join(", ")),
        })
    }

    /// No model version is called `asked`.
    pub fn unknown_version(asked: &str) -> CommandError {
        CommandError::usage(format!("there is no model version `{asked}`; `meterline models list` shows them"))
    }

    /// No run's id begins with `asked`.
    pub fn unknown_run(asked: &str) -> CommandError {
        CommandError::usage(format!("there is no run `{asked}`; `meterline runs list` shows them"))
    }

    /// Prints it to standard error; the value is the process's exit status. An empty message prints nothing: the
    /// command has said it all.
    pub(super) fn report(&self) -> ExitCode {
        if !self.message.is_empty() {
            eprintln!("error: {}", self.message);
        }
        ExitCode::from(self.status)
    }

    /// What went wrong, with its causes, in one line.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The exit status.
    pub const fn status(&self) -> u8 {
        self.status
    }
}

impl<E: Error + 'static> From<E> for CommandError {
    fn from(error: E) -> CommandError {
        let as_dyn: &(dyn Error + 'static) = &error;
        CommandError { status: if is_usage(as_dyn) { 2 } else { 1 }, message: one_line(as_dyn) }
    }
}

/// Whether the configuration or an argument is at fault, rather than what it points at.
fn is_usage(error: &(dyn Error + 'static)) -> bool {
    if let Some(error) = error.downcast_ref::<EnvironmentError>() {
        return error.is_configuration();
    }
    let ingest = match error.downcast_ref::<ServiceError>() {
        Some(ServiceError::Ingest(inner)) => Some(inner),
        Some(ServiceError::Server(_)) => return true,
        _ => error.downcast_ref::<IngestError>(),
    };
    ingest.is_some_and(IngestError::is_usage)
}

/// The error and its causes in one line. A cause that the text above it already contains is not repeated.
pub fn one_line(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(words.as_str()) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = cause.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Chain {
        text: &'static str,
        source: Option<Box<Chain>>,
    }

    #[test]
    fn causes_are_told_once_and_in_one_line() {
        let inner = Chain { text: "permission\n  denied", source: None };
        let repeated = Chain { text: "cannot write x", source: Some(Box::new(inner)) };
        let outer = Chain { text: "cannot commit: cannot write x", source: Some(Box::new(repeated)) };
        assert_eq!(one_line(&outer), "cannot commit: cannot write x: permission denied");
    }

    #[test]
    fn a_configuration_fault_has_its_own_status() {
        let missing = crate::environment::read_config("/nowhere/meterline.toml".as_ref()).unwrap_err();
        let error = CommandError::from(missing);
        assert_eq!(error.status(), 2);
        assert!(error.message().contains("/nowhere/meterline.toml"), "{}", error.message());
        assert_eq!(CommandError::from(std::io::Error::other("x")).status(), 1);
    }

    #[test]
    fn a_feed_that_does_not_fit_is_a_configuration_fault_of_every_command() {
        let changed = || IngestError::Feed { feed: "meters".into(), reason: "its topic is another".into() };
        assert_eq!(CommandError::from(changed()).status(), 2);
        let error = CommandError::from(ServiceError::from(changed()));
        assert_eq!(error.status(), 2);
        assert!(error.message().contains("`meters`"), "{}", error.message());
        assert_eq!(CommandError::from(ServiceError::from(IngestError::EngineRunning)).status(), 1);
    }

    #[test]
    fn an_unknown_group_is_told_with_those_that_there_are() {
        let known = ["PT15M".to_owned(), "P1D".to_owned()];
        let error = CommandError::unknown_group("PT1H", &known);
        assert_eq!(error.status(), 2);
        assert!(error.message().ends_with("`PT1H`; there are PT15M, P1D"), "{}", error.message());
        let error = CommandError::unknown_group("PT1H", &[]);
        assert!(error.message().contains("meterline backfill"), "{}", error.message());
    }
}
