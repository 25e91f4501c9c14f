//! The `meterline` binary; everything is in [`meterline::cli`].
#![deny(unsafe_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::todo)]

use std::ffi::{c_int, c_long};

// Readings and rows are allocated in one thread and freed in another, by the million.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Number of the allocator's option `mi_option_purge_delay`, from its header.
const PURGE_DELAY: c_int = 15;
/// Milliseconds for which memory that was freed is kept before the operating system gets it back. An epoch frees what
/// the next one needs: by default that would be given back meanwhile, and cleared page by page when it comes again.
const KEPT_MS: c_long = 1_000;

#[allow(unsafe_code)]
fn keep_freed_memory() {
    unsafe extern "C" {
        fn mi_option_set(option: c_int, value: c_long);
    }
    // SAFETY: the function is the allocator's, with these types; it takes any number, and there is one thread yet.
    unsafe { mi_option_set(PURGE_DELAY, KEPT_MS) }
}

fn main() -> std::process::ExitCode {
    keep_freed_memory();
    meterline::cli::main()
}
