//! The `leasefs` binary: arguments, then a command, then an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    leasefs::cli::main(std::env::args_os())
}
