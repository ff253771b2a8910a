//! The `proteus` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    proteus::cli::main()
}
