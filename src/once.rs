//! `--check-once`: one attempt of every selected connection, then a report.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

use conncheck_probes::Env;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant};

use crate::cli::Options;
use crate::load::{Loaded, load};
use crate::logging;
use crate::redact::Redactor;
use crate::report::{Entry, Report};
use crate::schedule::{Attempt, Attempted, attempt};
use crate::target::Target;

/// Attempts everything once, all at once within the concurrency that is allowed.
pub async fn check(options: &Options, env: &Env, redactor: &Arc<Redactor>) -> Report {
    let start = Instant::now();
    let entropy = tokio::task::spawn_blocking(conncheck_probes::gather_entropy);
    let loaded = load(options, env, redactor).await;
    // Whatever came of it: who needs some has it, or gathers it himself.
    let _ = entropy.await;
    for warning in &loaded.warnings {
        logging::definition_warned(warning);
    }
    let mut report = Report {
        invalid: loaded.invalid(),
        not_selected: loaded.valid - loaded.targets.len(),
        ..Report::default()
    };
    let Loaded {
        targets, errors, ..
    } = loaded;
    report.errors = errors;
    let (paused, targets): (Vec<_>, Vec<_>) = targets
        .into_iter()
        .partition(|target| target.facts().plan.paused);
    report.paused = paused
        .iter()
        .map(|target| target.facts().id.clone())
        .collect();
    report.paused.sort();

    let mut progress = Progress::new(targets.len());
    let permits = Arc::new(Semaphore::new(options.concurrency));
    let mut attempts: JoinSet<_> = targets
        .into_iter()
        .map(|target| attempt_in_turn(target, Arc::clone(&permits)))
        .collect();
    while let Some(res) = attempts.join_next().await {
        // `attempt` catches the panics of a probe, and nothing here is cancelled.
        let Ok((target, attempted)) = res else {
            continue;
        };
        let facts = target.facts();
        let mut entry = Entry {
            id: facts.id.clone(),
            type_name: facts.type_name,
            endpoint: attempted.endpoint.or_else(|| facts.endpoint.clone()),
            outcome: attempted.outcome,
        };
        logging::attempted(facts, &entry.outcome);
        entry.redact(redactor);
        progress.add(entry.outcome.is_up());
        report.entries.push(entry);
    }
    progress.clear();
    report.entries.sort_by(|a, b| a.id.cmp(&b.id));
    report.took = start.elapsed();
    report
}

async fn attempt_in_turn(target: Arc<Target>, permits: Arc<Semaphore>) -> (Arc<Target>, Attempted) {
    let _permit = permits.acquire().await;
    let attempted = attempt(&*target).await;
    (target, attempted)
}

/// How often the line is written again.
const PROGRESS: Duration = Duration::from_millis(100);

/// A line on standard error that says how far it has come, if somebody looks.
struct Progress {
    looked_at: bool,
    all: usize,
    done: usize,
    down: usize,
    written: Option<Instant>,
}

impl Progress {
    fn new(all: usize) -> Self {
        let mut progress = Self {
            looked_at: io::stderr().is_terminal(),
            all,
            done: 0,
            down: 0,
            written: None,
        };
        progress.write();
        progress
    }

    fn add(&mut self, is_up: bool) {
        self.done += 1;
        self.down += usize::from(!is_up);
        if self
            .written
            .is_none_or(|written| written.elapsed() >= PROGRESS)
        {
            self.write();
        }
    }

    fn write(&mut self) {
        if !self.looked_at || self.all == 0 {
            return;
        }
        let Self {
            all, done, down, ..
        } = self;
        let down = if *down > 0 {
            format!(", {down} down")
        } else {
            String::new()
        };
        // Nobody is waiting for this line in particular.
        let _ = write!(io::stderr(), "\r\x1b[Kprobed {done} of {all}{down}");
        self.written = Some(Instant::now());
    }

    fn clear(&mut self) {
        if self.written.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
