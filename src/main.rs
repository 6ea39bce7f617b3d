//! Reads what is asked, picks a mode, and says with the exit code what came of it.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use conncheck::cli::{Mode, NoOptions, Options};
use conncheck::redact::Redactor;
use conncheck::report::Verdict;
use conncheck::{check, daemon, load, logging, once, schema};
use conncheck_probes::Env;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A scrape allocates and frees tens of megabytes at once beside thousands of small attempts.
/// glibc keeps such memory in the arena of whichever thread rendered; mimalloc gives it back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long threads may take to end after the work is done.
const LAST_THREADS: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    // Everything that speaks TLS takes the process' provider, so it comes first.
    conncheck_probes::install_crypto_provider();
    let options = match Options::read(std::env::args_os()) {
        Ok(options) => options,
        Err(NoOptions::Clap(err)) => {
            let code = err.exit_code();
            // Help may go to a pipe that is closed.
            let _ = err.print();
            return ExitCode::from(u8::try_from(code).unwrap_or(2));
        }
        Err(NoOptions::Settings(errors)) => {
            for err in errors {
                complain(&err.to_string());
            }
            return ExitCode::from(Verdict::Invalid as u8);
        }
    };
    let redactor = Arc::new(Redactor::default());
    logging::init(
        options.log_format,
        options.log_level,
        options.colour,
        Arc::clone(&redactor),
    );
    raise_descriptor_limit();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(err) => {
            complain(&format!("cannot start: {err}"));
            return ExitCode::from(Verdict::Down as u8);
        }
    };
    let verdict = runtime.block_on(run(&options, &redactor));
    // Long enough for every thread that can end, which are then joined; one that hangs in a read of
    // some dead mount is not waited for. (`shutdown_background` joins none, but detaches them while
    // they end, and glibc before 2.41 may crash there: its bug 19951.)
    runtime.shutdown_timeout(LAST_THREADS);
    ExitCode::from(verdict as u8)
}

async fn run(options: &Options, redactor: &Arc<Redactor>) -> Verdict {
    let env = match Env::new(&options.resolver) {
        Ok(env) => env,
        Err(err) => {
            complain(&err);
            return Verdict::Down;
        }
    };
    match options.mode {
        Mode::Daemon => match daemon::run(options, &env, redactor).await {
            Ok(()) => Verdict::Up,
            Err(err) => {
                complain(&err);
                Verdict::Down
            }
        },
        Mode::CheckOnce => {
            let report = once::check(options, &env, redactor).await;
            let colour = options.colour && io::stdout().is_terminal();
            let written = print(|out| report.write(options.output, colour, out));
            written.unwrap_or(report.verdict())
        }
        Mode::CheckConfig => {
            let loaded = load::load(options, &env, redactor).await;
            let written = print(|out| check::write(&loaded, options.output, out));
            written.unwrap_or(check::verdict(&loaded))
        }
        Mode::Schema => print(schema::write).unwrap_or(Verdict::Up),
    }
}

/// Writes to standard output. A reader that has gone away has read enough; any other failure is
/// one of ours.
fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Option<Verdict> {
    let mut out = BufWriter::new(io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Ok(()) => None,
        Err(err) if err.kind() == io::ErrorKind::BrokenPipe => None,
        Err(err) => {
            complain(&format!("cannot write the report: {err}"));
            Some(Verdict::Down)
        }
    }
}

/// Says why we stop, where the log goes.
fn complain(message: &str) {
    // If nobody listens there either, the exit code has to do.
    let _ = writeln!(io::stderr(), "conncheck: {message}");
}

/// Each attempt needs a descriptor or two, and the usual soft limit is 1,024 for old programs'
/// sake.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(err) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%err, "cannot raise the limit of open files");
    }
}
