//! Nothing outlives an attempt: no descriptor, no task, no thread.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use conncheck_probes::{Deadline, Env, Probe, ResolverChoice};
use conncheck_rig::PATIENCE;
use conncheck_rig::faults::{BlackHole, Peer};
use tokio::runtime::Runtime;

use crate::check::{probe, soon};
use crate::faults::TALKS;

crate::trials![a_black_hole_leaves_nothing, a_silent_peer_leaves_nothing,];

/// How many attempts: a hundred of each type. `CONNCHECK_LEAK_ATTEMPTS=10000` for the long run.
fn attempts() -> usize {
    std::env::var("CONNCHECK_LEAK_ATTEMPTS")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(100 * TALKS.len())
}

fn a_black_hole_leaves_nothing() {
    let hole = BlackHole::start().unwrap();
    leave_nothing(&hole.addr().to_string());
}

fn a_silent_peer_leaves_nothing() {
    let peer = Peer::silent().unwrap();
    leave_nothing(&peer.addr().to_string());
    assert!(peer.everybody_left(PATIENCE));
}

/// Every type, many attempts at once, all of them cut by the deadline; then counts what is left.
///
/// In a process of its own, since other tests open descriptors and start threads at the same time.
fn leave_nothing(at: &str) {
    let me = std::env::current_exe().unwrap();
    let status = std::process::Command::new(me)
        .env("CONNCHECK_LEAK_PEER", at)
        .status()
        .unwrap();
    assert!(status.success(), "something was left; it says so above");
}

/// The child's part; see [`leave_nothing`]. Whether this process is such a child.
pub(crate) fn run_as_child() -> bool {
    let Ok(at) = std::env::var("CONNCHECK_LEAK_PEER") else {
        return false;
    };
    let probes: Vec<Arc<dyn Probe>> = TALKS
        .iter()
        .flat_map(|talk| [(talk.spec)(&at), (talk.spec_with_tls)(&at)])
        .map(|spec| probe(&spec))
        .collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let env = runtime
        .block_on(async { Env::new(&ResolverChoice::Auto) })
        .unwrap();
    // Whatever starts once and stays (resolver, runtime, trust store) has started after these.
    round(&runtime, &probes, &env, probes.len());
    settle(&runtime, |(_, _, tasks)| tasks == 0);
    let before = left(&runtime);
    let total = attempts();
    for done in (0..total).step_by(100) {
        round(&runtime, &probes, &env, 100.min(total - done));
    }
    settle(&runtime, |now| now == before);
    assert_eq!(left(&runtime), before, "after {total} attempts");
    true
}

/// Dropped tasks are gone when the runtime comes to them: soon, and not at once.
fn settle(runtime: &Runtime, done: impl Fn((usize, usize, usize)) -> bool) {
    // Whoever waited counts once more, and says what is left.
    soon(|| done(left(runtime)));
}

fn round(runtime: &Runtime, probes: &[Arc<dyn Probe>], env: &Env, count: usize) {
    runtime.block_on(async {
        let attempts: Vec<_> = (0..count)
            .map(|index| {
                let (probe, env) = (Arc::clone(&probes[index % probes.len()]), env.clone());
                tokio::spawn(async move {
                    let deadline = Deadline::after(Duration::from_millis(100));
                    conncheck_probes::run(&probe, deadline, &env).await
                })
            })
            .collect();
        for attempt in attempts {
            let failure = attempt.await.unwrap().result.expect_err("nobody answers");
            assert_eq!(failure.reason.as_str(), "timeout", "{failure:?}");
        }
    });
}

/// Descriptors, threads, tasks.
fn left(runtime: &Runtime) -> (usize, usize, usize) {
    let entries = |path| fs::read_dir(path).unwrap().count();
    (
        entries("/proc/self/fd"),
        entries("/proc/self/task"),
        runtime.metrics().num_alive_tasks(),
    )
}
