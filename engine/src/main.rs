//! The `meterline` binary; everything is in [`meterline::cli`].
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    meterline::cli::main()
}
