//! Parse, dispatch, print the error chain, pick the exit code: all of it in [`kylo::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    kylo::cli::main()
}
