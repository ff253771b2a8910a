//! The `proteus` command.

use std::process::ExitCode;

/// Requests allocate and free small pieces on different threads, which is what the C library's
/// allocator is slowest at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    proteus::cli::main()
}
