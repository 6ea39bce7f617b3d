//! The running set: every target is attempted at its own ticks, one attempt at a time.
//!
//! A target's ticks lie on a grid: `start + offset + k * interval`, where `start` is that of the
//! scheduler and the offset is `hash(identity) mod interval`. So neither a start nor a reload
//! stampedes, the spread survives restarts, and a target that is replaced goes on in step.
//!
//! A tick that cannot be kept is skipped and counted, never made up:
//!
//! - `late`: we were not running. A tick that is late by its interval or more is missed, so that a
//!   program that was stopped for an hour goes on in step instead of attempting everything at
//!   once. The one after it is attempted however late it is, or a program that is starved all the
//!   time would attempt nothing.
//! - `saturated`: all permits were taken. The semaphore is tokio's, which is fair.
//! - `overrun`: the attempt before was still running.
//!
//! Each target is a task in a map; removing the entry stops it, attempt and all. All time is
//! tokio's and monotonic, so a step of the wall clock means nothing here, and tests pause it.

use std::collections::{BTreeMap, HashSet};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use conncheck_config::Identity;
use conncheck_probes::{Failure, Outcome, Reason};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use crate::logging;
use crate::state::{Facts, SkipCause, State};

/// Something that can be attempted; a [`Target`](crate::target::Target) outside of tests.
pub trait Attempt: Send + Sync + 'static {
    /// What the state shows of it.
    fn facts(&self) -> &Arc<Facts>;

    /// Another revision is another target under the same name.
    fn revision(&self) -> u64;

    /// One attempt, which keeps its own deadline.
    fn attempt(&self) -> impl Future<Output = Attempted> + Send;
}

/// What one attempt gave.
#[derive(Clone, Debug)]
pub struct Attempted {
    /// Where it went, as far as that was known.
    pub endpoint: Option<Arc<str>>,
    pub outcome: Outcome,
}

/// The running set.
pub struct Scheduler {
    shared: Arc<Shared>,
    /// A standard mutex: it is held to compare two sets and to start tasks, and never across an
    /// await.
    tasks: Mutex<BTreeMap<Identity, Task>>,
}

struct Shared {
    state: Arc<State>,
    permits: Semaphore,
    start: Instant,
    /// Says that no further attempt may begin. A watch, since every task waits for the same one
    /// value, and one that starts late still sees it.
    stopping: watch::Sender<bool>,
}

impl Scheduler {
    /// An empty set that allows `concurrency` attempts in flight. Its grid starts now.
    pub fn new(state: Arc<State>, concurrency: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                state,
                permits: Semaphore::new(concurrency),
                start: Instant::now(),
                stopping: watch::Sender::new(false),
            }),
            tasks: Mutex::default(),
        }
    }

    /// Makes `targets` the running set. Those that run already in the same revision are left
    /// alone; those of another revision go on with their totals and in step; the rest is stopped.
    pub fn apply<T: Attempt>(&self, targets: impl IntoIterator<Item = Arc<T>>) {
        let targets: Vec<_> = targets.into_iter().collect();
        let mut tasks = self.lock();
        let wanted: HashSet<_> = targets.iter().map(|target| &target.facts().id).collect();
        tasks.retain(|id, _| wanted.contains(id));
        let facts = targets.iter().map(|target| Arc::clone(target.facts()));
        self.shared.state.apply(facts);
        for target in targets {
            let id = &target.facts().id;
            let running = tasks.get(id).map(|task| task.revision);
            if running == Some(target.revision()) {
                continue;
            }
            tasks.remove(id);
            if target.facts().plan.paused {
                continue;
            }
            let task = Task {
                revision: target.revision(),
                handle: tokio::spawn(keep_attempting(
                    Arc::clone(&target),
                    Arc::clone(&self.shared),
                )),
            };
            tasks.insert(id.clone(), task);
        }
    }

    /// Begins no further attempt, gives the running ones `grace` to end, and stops the rest.
    /// Returns how many had to be stopped.
    pub async fn shut_down(&self, grace: Duration) -> usize {
        self.shared.stopping.send_replace(true);
        let mut tasks = std::mem::take(&mut *self.lock());
        let all_ended = async {
            for task in tasks.values_mut() {
                // A task that panicked has ended, too.
                let _ = (&mut task.handle).await;
            }
        };
        match timeout(grace, all_ended).await {
            Ok(()) => 0,
            Err(_) => {
                let running = tasks.values().filter(|task| !task.handle.is_finished());
                running.count()
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Identity, Task>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task of one target; dropping it stops the target.
struct Task {
    revision: u64,
    handle: JoinHandle<()>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

/// Attempts `target` at its ticks until the scheduler stops.
async fn keep_attempting<T: Attempt>(target: Arc<T>, shared: Arc<Shared>) {
    let facts = target.facts();
    let state = &shared.state;
    let mut stopping = shared.stopping.subscribe();
    let interval = facts.plan.interval;
    let ticks = Ticks {
        first: shared.start + offset(&facts.id, interval),
        interval,
    };
    let mut planned = ticks.at_or_after(Instant::now());
    let mut missed_last = false;
    loop {
        tokio::select! {
            biased;
            _ = stopping.wait_for(|stopping| *stopping) => return,
            () = sleep_until(planned) => {}
        }
        let woken = Instant::now();
        let late = ticks.count_after(planned, woken);
        if woken.duration_since(planned) >= interval && !missed_last {
            state.skipped(SkipCause::Late, late + 1);
            planned = ticks.after(woken);
            missed_last = true;
            continue;
        }
        state.skipped(SkipCause::Late, late);
        missed_last = false;
        let permit = tokio::select! {
            biased;
            _ = stopping.wait_for(|stopping| *stopping) => return,
            permit = shared.permits.acquire() => permit,
        };
        let started = Instant::now();
        state.skipped(SkipCause::Saturated, ticks.count_after(woken, started));
        let in_flight = state.attempt_begins(started.duration_since(planned));
        let attempted = attempt(&*target).await;
        drop((in_flight, permit));

        logging::attempted(facts, &attempted.outcome);
        if let Some(changed) = state.record(&facts.id, attempted.endpoint, attempted.outcome) {
            logging::state_changed(&changed);
        }
        planned = ticks.at_or_after(Instant::now()).max(ticks.after(started));
        let missed = ticks.count_after(started, planned) - 1;
        state.skipped(SkipCause::Overrun, missed);
    }
}

/// One attempt; a panic in it is its outcome.
pub async fn attempt<T: Attempt>(target: &T) -> Attempted {
    let started_at = jiff::Timestamp::now();
    let started = Instant::now();
    match caught(target.attempt()).await {
        Some(attempted) => attempted,
        None => {
            let mut outcome = Outcome::failed_before_start(Failure {
                reason: Reason::Internal,
                phase: None,
                code: None,
                message: "the probe panicked".to_owned(),
                hint: Some("this is a bug of conncheck; its log says where".into()),
            });
            outcome.started_at = started_at;
            outcome.duration = started.elapsed();
            Attempted {
                endpoint: None,
                outcome,
            }
        }
    }
}

/// Polls to the end, or to a panic.
async fn caught<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| {
        // The future is not polled again after a panic, so nobody sees it half done.
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(poll) => poll.map(Some),
            Err(_) => Poll::Ready(None),
        }
    })
    .await
}

/// Where on the grid a target stands: `hash(identity) mod interval`.
///
/// The hash is FNV-1a over namespace, a zero byte and name, finished as in MurmurHash3 so that
/// names that differ in their last digit lie far apart. It is our own because it must stay: the
/// standard library's differs from run to run.
pub fn offset(id: &Identity, interval: Duration) -> Duration {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let bytes = id.namespace.bytes().chain([0]).chain(id.name.bytes());
    for byte in bytes {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^= hash >> 33;
    Duration::from_nanos(hash % nanos(interval))
}

/// Intervals are checked when they are read: at least a second and far below 584 years.
fn nanos(interval: Duration) -> u64 {
    u64::try_from(interval.as_nanos())
        .unwrap_or(u64::MAX)
        .max(1)
}

/// The grid of one target.
struct Ticks {
    first: Instant,
    interval: Duration,
}

impl Ticks {
    /// How many ticks there are up to `time` and at it.
    fn count(&self, time: Instant) -> u64 {
        match time.checked_duration_since(self.first) {
            None => 0,
            Some(since) => nanos_of(since) / nanos(self.interval) + 1,
        }
    }

    /// How many ticks lie after `from`, up to `to` and at it.
    fn count_after(&self, from: Instant, to: Instant) -> u64 {
        self.count(to).saturating_sub(self.count(from))
    }

    /// The first tick after `time`.
    fn after(&self, time: Instant) -> Instant {
        let past = self.count(time);
        self.first + Duration::from_nanos(past.saturating_mul(nanos(self.interval)))
    }

    /// The tick at `time`, or the first after it.
    fn at_or_after(&self, time: Instant) -> Instant {
        match time.checked_sub(Duration::from_nanos(1)) {
            Some(just_before) => self.after(just_before),
            None => self.after(time),
        }
    }
}

fn nanos_of(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::time::{advance, sleep};

    use super::*;
    use crate::state::tests::{down, facts, up};
    use crate::state::{Plan, Snapshot};

    const INTERVAL: Duration = Duration::from_secs(30);

    /// What a fake probe does.
    #[derive(Clone, Copy)]
    enum Does {
        Answer,
        Fail,
        Panic,
        Take(Duration),
    }

    struct Fake {
        facts: Arc<Facts>,
        revision: u64,
        does: Does,
        log: Arc<Log>,
    }

    /// What happened, over all fakes of a test.
    #[derive(Default)]
    struct Log {
        starts: Mutex<Vec<(String, Instant)>>,
        running: AtomicUsize,
        most: AtomicUsize,
    }

    impl Log {
        fn starts_of(&self, name: &str) -> Vec<Instant> {
            let starts = self.starts.lock().unwrap();
            let of_name = starts.iter().filter(|(who, _)| who == name);
            of_name.map(|(_, when)| *when).collect()
        }
    }

    struct Running<'a>(&'a Log);

    impl Drop for Running<'_> {
        fn drop(&mut self) {
            self.0.running.fetch_sub(1, Ordering::SeqCst);
        }
    }

    impl Attempt for Fake {
        fn facts(&self) -> &Arc<Facts> {
            &self.facts
        }

        fn revision(&self) -> u64 {
            self.revision
        }

        async fn attempt(&self) -> Attempted {
            let name = self.facts.id.name.clone();
            self.log.starts.lock().unwrap().push((name, Instant::now()));
            let running = self.log.running.fetch_add(1, Ordering::SeqCst) + 1;
            self.log.most.fetch_max(running, Ordering::SeqCst);
            let _running = Running(&self.log);
            let outcome = match self.does {
                Does::Answer => up(),
                Does::Fail => down(Reason::Timeout),
                Does::Panic => panic!("as told"),
                Does::Take(time) => {
                    sleep(time).await;
                    up()
                }
            };
            Attempted {
                endpoint: None,
                outcome,
            }
        }
    }

    struct Bench {
        scheduler: Scheduler,
        state: Arc<State>,
        log: Arc<Log>,
        start: Instant,
    }

    impl Bench {
        fn new(concurrency: usize) -> Self {
            let state = Arc::new(State::default());
            Self {
                scheduler: Scheduler::new(Arc::clone(&state), concurrency),
                state,
                log: Arc::default(),
                start: Instant::now(),
            }
        }

        fn fake(&self, name: &str, does: Does) -> Arc<Fake> {
            Arc::new(Fake {
                facts: facts(name, 1, 1),
                revision: 1,
                does,
                log: Arc::clone(&self.log),
            })
        }

        fn snapshot(&self) -> Snapshot {
            self.state.snapshot()
        }

        fn skipped(&self) -> [u64; 3] {
            let scheduler = self.snapshot().scheduler;
            SkipCause::ALL.map(|cause| scheduler.skipped(cause))
        }
    }

    fn offset_of(name: &str) -> Duration {
        offset(&facts(name, 1, 1).id, INTERVAL)
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_every_interval_until_removed() {
        let bench = Bench::new(8);
        bench.scheduler.apply([bench.fake("a", Does::Answer)]);
        sleep(INTERVAL * 10).await;
        bench.scheduler.apply::<Fake>([]);
        sleep(INTERVAL * 10).await;
        let starts = bench.log.starts_of("a");
        assert_eq!(starts.len(), 10);
        for (tick, start) in (0..).zip(&starts) {
            let planned = bench.start + offset_of("a") + INTERVAL * tick;
            let lag = start.duration_since(planned);
            assert!(lag <= Duration::from_millis(2), "{lag:?}");
        }
        assert_eq!(bench.skipped(), [0, 0, 0]);
        assert!(bench.snapshot().records.is_empty());
    }

    #[test]
    fn the_spread_is_even_and_stays() {
        let mut tenths = [0; 10];
        for n in 0..1000 {
            let tenth = offset_of(&format!("db-{n}")).as_millis() / 3000;
            tenths[usize::try_from(tenth).unwrap()] += 1;
        }
        assert!(tenths.iter().all(|n| (70..130).contains(n)), "{tenths:?}");
        // Another number here means that every restart after the upgrade shifts every target.
        assert_eq!(offset_of("production-db").as_millis(), 4_352);
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_overruns_is_never_overlapped() {
        let bench = Bench::new(8);
        let slow = Does::Take(INTERVAL * 5 / 2);
        bench.scheduler.apply([bench.fake("a", slow)]);
        sleep(offset_of("a") + INTERVAL * 9 - Duration::from_secs(1)).await;
        // Starts at ticks 0, 3 and 6; ticks 1, 2, 4, 5 (and later 7, 8) are missed.
        assert_eq!(bench.log.starts_of("a").len(), 3);
        assert_eq!(bench.log.most.load(Ordering::SeqCst), 1);
        assert_eq!(bench.skipped(), [0, 0, 6]);
        assert_eq!(bench.snapshot().scheduler.in_flight, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_cap_holds_and_is_fair() {
        let bench = Bench::new(2);
        let names = ["a", "b", "c", "d", "e", "f"];
        // Six attempts of 20 s for two permits: a minute of work for each half minute.
        let slow = Does::Take(Duration::from_secs(20));
        let fakes = names.map(|name| bench.fake(name, slow));
        bench.scheduler.apply(fakes);
        sleep(Duration::from_secs(1200)).await;
        assert_eq!(bench.log.most.load(Ordering::SeqCst), 2);
        let counts = names.map(|name| bench.log.starts_of(name).len());
        assert!(counts.iter().all(|n| (18..=21).contains(n)), "{counts:?}");
        let [late, saturated, overrun] = bench.skipped();
        assert_eq!(late, 0);
        // Each target gets every second tick.
        assert!(saturated > 0, "{saturated}");
        let missed = saturated + overrun;
        assert!((100..=125).contains(&missed), "{saturated} + {overrun}");
        let lag = bench.snapshot().scheduler.lag;
        assert!(lag.sum() > 60.0, "waiting for a permit is lag");
    }

    #[tokio::test(start_paused = true)]
    async fn a_suspended_clock_makes_up_nothing() {
        let bench = Bench::new(8);
        bench.scheduler.apply([bench.fake("a", Does::Answer)]);
        sleep(offset_of("a") + Duration::from_secs(1)).await;
        assert_eq!(bench.log.starts_of("a").len(), 1);
        advance(INTERVAL * 20).await;
        sleep(Duration::from_secs(1)).await;
        assert_eq!(bench.log.starts_of("a").len(), 1);
        assert_eq!(bench.skipped(), [20, 0, 0]);
        sleep(INTERVAL).await;
        assert_eq!(bench.log.starts_of("a").len(), 2, "and goes on in step");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_always_late_is_attempted_all_the_same() {
        let bench = Bench::new(8);
        bench.scheduler.apply([bench.fake("a", Does::Answer)]);
        tokio::task::yield_now().await;
        for _ in 0..10 {
            advance(INTERVAL * 3).await;
            tokio::task::yield_now().await;
        }
        let attempts = bench.snapshot().records[0].attempts;
        let [late, ..] = bench.skipped();
        assert_eq!(attempts + late, 30);
        assert!((4..=6).contains(&attempts), "{attempts}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_an_internal_outcome_and_nothing_else() {
        let bench = Bench::new(1);
        let fakes = [bench.fake("a", Does::Panic), bench.fake("b", Does::Answer)];
        bench.scheduler.apply(fakes);
        sleep(INTERVAL * 3).await;
        let snapshot = bench.snapshot();
        assert_eq!(snapshot.records[0].failures[&Reason::Internal], 3);
        assert_eq!(snapshot.records[0].up, Some(false));
        assert_eq!(snapshot.records[1].attempts, 3);
        assert_eq!(snapshot.records[1].up, Some(true));
        assert_eq!(snapshot.scheduler.in_flight, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn removing_a_target_ends_its_attempt() {
        let bench = Bench::new(1);
        let hang = Does::Take(Duration::from_secs(86_400));
        bench.scheduler.apply([bench.fake("a", hang)]);
        sleep(INTERVAL).await;
        assert_eq!(bench.log.running.load(Ordering::SeqCst), 1);
        bench.scheduler.apply([bench.fake("b", Does::Answer)]);
        sleep(INTERVAL).await;
        assert_eq!(bench.log.running.load(Ordering::SeqCst), 0);
        assert_eq!(
            bench.log.starts_of("b").len(),
            1,
            "the permit is free again"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_revision_goes_on_in_step_and_keeps_the_totals() {
        let bench = Bench::new(8);
        bench.scheduler.apply([bench.fake("a", Does::Answer)]);
        sleep(INTERVAL * 2).await;
        let same = bench.fake("a", Does::Fail);
        bench.scheduler.apply([same]);
        sleep(INTERVAL).await;
        assert_eq!(bench.snapshot().records[0].up, Some(true), "left alone");
        let mut other = Arc::into_inner(bench.fake("a", Does::Fail)).unwrap();
        other.revision = 2;
        bench.scheduler.apply([Arc::new(other)]);
        sleep(INTERVAL).await;
        let snapshot = bench.snapshot();
        assert_eq!(snapshot.records[0].up, Some(false));
        assert_eq!(snapshot.records[0].attempts, 4);
        assert_eq!(bench.log.starts_of("a").len(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_paused_target_is_listed_and_not_attempted() {
        let bench = Bench::new(8);
        let mut paused = Arc::into_inner(bench.fake("a", Does::Answer)).unwrap();
        let mut facts = Facts::clone(&paused.facts);
        facts.plan = Plan {
            paused: true,
            ..facts.plan
        };
        paused.facts = Arc::new(facts);
        bench.scheduler.apply([Arc::new(paused)]);
        sleep(INTERVAL * 3).await;
        assert_eq!(bench.snapshot().records.len(), 1);
        assert!(bench.log.starts_of("a").is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn shutting_down_waits_for_what_runs_and_cuts_what_hangs() {
        let bench = Bench::new(8);
        let fakes = [
            bench.fake("quick", Does::Take(Duration::from_secs(40))),
            bench.fake("hangs", Does::Take(Duration::from_secs(86_400))),
            bench.fake("idle", Does::Answer),
        ];
        bench.scheduler.apply(fakes);
        sleep(INTERVAL).await;
        let cut = bench.scheduler.shut_down(Duration::from_secs(45)).await;
        assert_eq!(cut, 1);
        assert_eq!(bench.log.starts_of("idle").len(), 1);
        let quick = &bench.snapshot().records[2];
        assert_eq!(quick.attempts, 1);
    }
}
