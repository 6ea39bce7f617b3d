//! The daemon: listen, load, attempt on schedule, and end in good order.

use std::io;
use std::sync::Arc;

use conncheck_probes::Env;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::cli::Options;
use crate::load::load;
use crate::logging;
use crate::redact::Redactor;
use crate::schedule::Scheduler;
use crate::server::{App, Server};
use crate::state::State;

/// Runs until SIGTERM or SIGINT. An error is why it could not start.
pub async fn run(options: &Options, env: &Env, redactor: &Arc<Redactor>) -> Result<(), String> {
    let mut signals = Signals::new().map_err(|err| format!("cannot wait for signals: {err}"))?;
    let state = Arc::new(State::default());
    let app = Arc::new(App::new(Arc::clone(&state)));
    let listen = options.listen;
    let server = Server::bind(listen)
        .await
        .map_err(|err| cannot_listen(options, &err))?;
    let addr = server.local_addr().unwrap_or(listen);
    let (stop_serving, stopping) = watch::channel(false);
    let serving = tokio::spawn(server.serve(Arc::clone(&app), stopping));

    let entropy = tokio::task::spawn_blocking(conncheck_probes::gather_entropy);
    let loaded = tokio::select! {
        loaded = load(options, env, redactor) => loaded,
        signal = signals.next() => {
            info!(signal, "stopped while loading");
            return Ok(());
        }
    };
    // Whatever came of it: who needs some has it, or gathers it himself.
    let _ = entropy.await;
    for warning in &loaded.warnings {
        logging::definition_warned(warning);
    }
    for error in &loaded.errors {
        logging::definition_refused(error);
    }
    let invalid = loaded.invalid();
    state.config_loaded(invalid as u64, loaded.errors.is_empty());
    let scheduler = Scheduler::new(state, options.concurrency);
    let connections = loaded.targets.len();
    let version = env!("CARGO_PKG_VERSION");
    info!(version, connections, invalid, listen = %addr, "conncheck is running");
    if connections == 0 {
        warn!("there is nothing to probe");
    }
    scheduler.apply(loaded.targets);
    app.set_ready(true);

    let first = signals.next().await;
    app.set_ready(false);
    let grace = humantime::format_duration(options.shutdown_grace);
    info!(signal = first, %grace, "stopping: no further attempt begins");
    tokio::select! {
        cut = scheduler.shut_down(options.shutdown_grace) => match cut {
            0 => info!("every running attempt has ended"),
            cut => warn!(attempts = cut, "cut off what was still running"),
        },
        second = signals.next() => warn!(signal = second, "ending at once"),
    }
    stop_serving.send_replace(true);
    tokio::select! {
        _ = serving => {}
        _ = signals.next() => {}
    }
    Ok(())
}

fn cannot_listen(options: &Options, err: &io::Error) -> String {
    let hint = match err.kind() {
        io::ErrorKind::AddrInUse => {
            "\nhint: does another conncheck run? `--listen` chooses another address"
        }
        _ => "",
    };
    format!("cannot listen on {}: {err}{hint}", options.listen)
}

/// The signals that mean the end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on they do not kill us any more.
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
