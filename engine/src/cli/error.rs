//! How a command ends badly: one line on standard error, and the exit status.

use std::error::Error;
use std::process::ExitCode;

use crate::environment::EnvironmentError;

/// What a command returns.
pub type CommandResult<T = ()> = Result<T, CommandError>;

/// A failure with its exit status. Any error converts into one of status 1 (a configuration fault: 2), so commands use `?`.
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
        let configuration = as_dyn.downcast_ref::<EnvironmentError>().is_some_and(EnvironmentError::is_configuration);
        CommandError { status: if configuration { 2 } else { 1 }, message: one_line(as_dyn) }
    }
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
}
