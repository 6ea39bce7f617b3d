//! `rig`: what the project's two commands run. `cargo demo` and `cargo verify` are aliases of it.

use std::{
    env, io,
    process::{ExitCode, exit},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use conncheck_rig::{Error, Result};
use tokio::signal::unix::{SignalKind, signal};

mod cargo;
mod demo;
mod install;
mod up;
mod verify;

const HELP: &str = "\
Real servers for conncheck, without Docker: PostgreSQL, MariaDB, RabbitMQ, Redis, nginx and Exim on free ports
of 127.0.0.1, with certificates made for the occasion. Everything that is started is stopped again, also by
Ctrl-C.

usage: rig COMMAND

  demo [--once]   start the servers, check connections to them, some of them broken on purpose, compare the
                  report with what it must say, and keep the daemon serving until Ctrl-C; with --once stop
                  after the comparison
  verify          everything that must hold before a change lands: format, lints, dependencies, all tests
                  against real servers, and the demo
  up              start the servers and say where they are, until Ctrl-C
  install         install what all this needs: Debian packages, and some of PyPI and npm in target/rig

`cargo demo` and `cargo verify` are short for the first two. CONNCHECK_BIN names a conncheck to show instead
of the one that is built here.
";

/// Whether the work is done and only Ctrl-C is awaited: then it is no failure.
static SERVING: AtomicBool = AtomicBool::new(false);
/// Whether a signal came and everything is being stopped.
static STOPPING: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args[..] {
        ["demo"] => stop_on_signals().and_then(|()| demo::run(demo::Until::CtrlC)),
        ["demo", "--once"] => stop_on_signals().and_then(|()| demo::run(demo::Until::Reported)),
        ["verify"] => stop_on_signals().and_then(|()| verify::run()),
        ["up"] => stop_on_signals().and_then(|()| up::run()),
        ["install"] => install::run(),
        ["-h" | "--help" | "help", ..] | [_, "-h" | "--help"] => {
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
            // Ctrl-C goes to our children too, and what they make of it is no news.
            thread::sleep(Duration::from_millis(100));
            if STOPPING.load(Ordering::Acquire) {
                wait_for_signal();
            }
            eprintln!("error: {err}");
            ExitCode::FAILURE
        }
    }
}

/// Leaves by `exit` on SIGINT and SIGTERM. The shared rig stops its servers at exit, and what has no handle yet is
/// stopped by the kernel when we are gone.
fn stop_on_signals() -> Result<()> {
    let doing = |err: io::Error| Error::new(format!("cannot wait for signals: {err}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(doing)?;
    let context = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt()).map_err(doing)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(doing)?;
    drop(context);
    thread::spawn(move || {
        let number = runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => 2,
                _ = terminate.recv() => 15,
            }
        });
        STOPPING.store(true, Ordering::Release);
        exit(if SERVING.load(Ordering::Acquire) {
            0
        } else {
            128 + number
        });
    });
    Ok(())
}

/// From now on a signal is what is waited for. To be said before the terminal says so.
fn serving() {
    SERVING.store(true, Ordering::Release);
}

fn wait_for_signal() -> ! {
    loop {
        thread::park();
    }
}
