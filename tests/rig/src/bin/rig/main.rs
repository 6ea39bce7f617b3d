//! `rig`: what the project's two commands run. `cargo demo` and `cargo verify` are aliases of it.

use std::{env, process::ExitCode};

mod install;

const HELP: &str = "\
Real servers for conncheck, without Docker.

usage: rig install          install the Debian packages and the Python parser that the tests need
";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args[..] {
        ["install"] => install::run(),
        ["-h" | "--help" | "help"] => {
            print!("{HELP}");
            Ok(())
        }
        _ => {
            eprint!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("error: {err}");
            ExitCode::FAILURE
        }
    }
}
