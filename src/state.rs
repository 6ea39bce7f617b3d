//! What is known of every target: its last outcome, its totals, and whether it counts as up.
//!
//! The state calls nobody. The scheduler writes into it, and whoever shows something (`/metrics`,
//! later the API and the page) takes a [`Snapshot`] and reads that at leisure.
//!
//! One standard mutex around everything, held for a few lines. A record is copied on write: a
//! snapshot shares the records, and only a record that changes while a snapshot is alive is
//! copied. So ten thousand records cost a scrape ten thousand reference counts under the lock,
//! and what it renders is the state of one moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use conncheck_config::Identity;
use conncheck_probes::{Outcome, Reason};
use jiff::Timestamp;

use crate::histogram::Histogram;

/// When a target is probed, and when it counts as up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    pub interval: Duration,
    pub timeout: Duration,
    /// Successes in a row that make a target up that was down.
    pub rise: u32,
    /// Failures in a row that make a target down that was up.
    pub fall: u32,
    /// Listed, and not probed.
    pub paused: bool,
}

/// What is known of a target before it is probed.
#[derive(Clone, Debug)]
pub struct Facts {
    pub id: Identity,
    /// The canonical name of its type.
    pub type_name: &'static str,
    /// The reasons with which its type can fail.
    pub reasons: &'static [Reason],
    pub plan: Plan,
    /// Where its attempts go, `scheme://host:port` only; unknown while the URL is a missing secret.
    pub endpoint: Option<Arc<str>>,
    /// The owner's labels, as written.
    pub labels: BTreeMap<String, String>,
}

/// Whose ticks were missed by whom. A closed set, since these are label values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipCause {
    /// The program was not running: stopped, starved of CPU, or the machine was suspended.
    Late,
    /// As many attempts as allowed were in flight already.
    Saturated,
    /// The attempt before was still running.
    Overrun,
}

impl SkipCause {
    /// Every cause.
    pub const ALL: [Self; 3] = [Self::Late, Self::Saturated, Self::Overrun];

    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Late => "late",
            Self::Saturated => "saturated",
            Self::Overrun => "overrun",
        }
    }
}

/// One target and everything that came of it so far.
#[derive(Clone, Debug)]
pub struct Record {
    pub facts: Arc<Facts>,
    /// Where its last attempt went: `scheme://host:port` only.
    pub endpoint: Option<Arc<str>>,
    pub last: Option<Arc<Outcome>>,
    /// The server's name and version, from the last attempt that was told.
    pub server: Option<String>,
    pub last_success: Option<Timestamp>,
    /// Finished attempts.
    pub attempts: u64,
    /// Failed attempts by reason; has every reason that the type can give from the start.
    pub failures: BTreeMap<Reason, u64>,
    /// Durations of the successful attempts.
    pub latency: Histogram,
    pub consecutive_failures: u64,
    consecutive_successes: u64,
    /// After rise and fall; unknown before the first outcome.
    pub up: Option<bool>,
    pub changes: u64,
    /// When `up` became what it is.
    pub since: Option<Timestamp>,
}

impl Record {
    fn new(facts: Arc<Facts>) -> Self {
        let failures = facts.reasons.iter().map(|reason| (*reason, 0)).collect();
        Self {
            endpoint: facts.endpoint.clone(),
            facts,
            last: None,
            server: None,
            last_success: None,
            attempts: 0,
            failures,
            latency: Histogram::default(),
            consecutive_failures: 0,
            consecutive_successes: 0,
            up: None,
            changes: 0,
            since: None,
        }
    }

    fn replace_facts(&mut self, facts: Arc<Facts>) {
        if facts.plan.paused {
            // What it was when it was paused says nothing about now, and must not alert.
            self.last = None;
            self.up = None;
            self.since = None;
            self.consecutive_failures = 0;
            self.consecutive_successes = 0;
        }
        if facts.endpoint.is_some() {
            self.endpoint.clone_from(&facts.endpoint);
        }
        self.facts = facts;
    }

    /// Takes in one outcome. If `up` is now something else than before, returns how long it was
    /// what it was.
    fn take_in(
        &mut self,
        endpoint: Option<Arc<str>>,
        outcome: Arc<Outcome>,
    ) -> Option<Option<Duration>> {
        self.attempts += 1;
        match &outcome.result {
            Ok(()) => {
                self.consecutive_successes += 1;
                self.consecutive_failures = 0;
                self.latency.observe(outcome.duration);
                self.last_success = Some(finished_at(&outcome));
            }
            Err(failure) => {
                self.consecutive_failures += 1;
                self.consecutive_successes = 0;
                *self.failures.entry(failure.reason).or_insert(0) += 1;
            }
        }
        let plan = &self.facts.plan;
        let up = match self.up {
            None => outcome.is_up(),
            Some(true) => self.consecutive_failures < u64::from(plan.fall),
            Some(false) => self.consecutive_successes >= u64::from(plan.rise),
        };
        let mut changed = None;
        if self.up != Some(up) {
            let now = finished_at(&outcome);
            let lasted = self.since.map(|since| now.duration_since(since));
            changed = Some(lasted.and_then(|lasted| lasted.try_into().ok()));
            // The first outcome tells where it starts and is no change of anything.
            self.changes += u64::from(self.up.is_some());
            self.since = Some(now);
            self.up = Some(up);
        }
        if endpoint.is_some() {
            self.endpoint = endpoint;
        }
        if outcome.server.is_some() {
            self.server.clone_from(&outcome.server);
        }
        self.last = Some(outcome);
        changed
    }
}

/// A target whose `up` is now something else.
#[derive(Debug)]
pub struct Changed {
    pub record: Arc<Record>,
    /// How long it was what it was; unknown for the first outcome.
    pub lasted: Option<Duration>,
}

/// When an attempt ended, by the wall clock.
pub fn finished_at(outcome: &Outcome) -> Timestamp {
    let duration = jiff::SignedDuration::try_from(outcome.duration).unwrap_or_default();
    outcome
        .started_at
        .checked_add(duration)
        .unwrap_or(outcome.started_at)
}

/// Totals of the scheduler.
#[derive(Clone, Debug, Default)]
pub struct SchedulerTotals {
    pub in_flight: u64,
    /// From the planned to the real start.
    pub lag: Histogram,
    skipped: [u64; SkipCause::ALL.len()],
}

impl SchedulerTotals {
    /// Ticks that were skipped for this cause.
    pub fn skipped(&self, cause: SkipCause) -> u64 {
        self.skipped[cause as usize]
    }
}

/// What came of the last reading of the definitions.
#[derive(Clone, Debug, Default)]
pub struct ConfigStatus {
    /// Whether the last one had no mistake in it.
    pub successful: bool,
    /// When one last had no mistake in it.
    pub last_success: Option<Timestamp>,
    /// Definitions that are wrong and therefore not probed.
    pub invalid: u64,
}

/// The state of one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// In the order of their identities.
    pub records: Vec<Arc<Record>>,
    pub scheduler: SchedulerTotals,
    pub config: ConfigStatus,
}

#[derive(Debug, Default)]
struct Inner {
    records: BTreeMap<Identity, Arc<Record>>,
    scheduler: SchedulerTotals,
    config: ConfigStatus,
}

/// The state of all targets.
#[derive(Debug, Default)]
pub struct State(Mutex<Inner>);

impl State {
    /// The desired set: records of other identities go, with every series of theirs; those that
    /// stay keep their totals, unless they are now of another type.
    pub fn apply(&self, desired: impl IntoIterator<Item = Arc<Facts>>) {
        let mut inner = self.lock();
        let mut wanted = BTreeSet::new();
        for facts in desired {
            wanted.insert(facts.id.clone());
            match inner.records.get_mut(&facts.id) {
                Some(record) if record.facts.type_name == facts.type_name => {
                    Arc::make_mut(record).replace_facts(facts);
                }
                _ => {
                    let id = facts.id.clone();
                    inner.records.insert(id, Arc::new(Record::new(facts)));
                }
            }
        }
        inner.records.retain(|id, _| wanted.contains(id));
    }

    /// Takes in what came of an attempt. Tells if `up` has changed by that (the first outcome
    /// included), for whoever tells people. An outcome of a target that has been removed in the
    /// meantime is dropped.
    pub fn record(
        &self,
        id: &Identity,
        endpoint: Option<Arc<str>>,
        outcome: Outcome,
    ) -> Option<Changed> {
        let mut inner = self.lock();
        let record = inner.records.get_mut(id)?;
        let lasted = Arc::make_mut(record).take_in(endpoint, Arc::new(outcome))?;
        Some(Changed {
            record: Arc::clone(record),
            lasted,
        })
    }

    /// An attempt begins, so long after it was planned. It is in flight until the guard is
    /// dropped.
    pub fn attempt_begins(self: &Arc<Self>, lag: Duration) -> InFlight {
        let mut inner = self.lock();
        inner.scheduler.in_flight += 1;
        inner.scheduler.lag.observe(lag);
        InFlight(Arc::clone(self))
    }

    /// Counts ticks that were missed.
    pub fn skipped(&self, cause: SkipCause, ticks: u64) {
        if ticks > 0 {
            self.lock().scheduler.skipped[cause as usize] += ticks;
        }
    }

    /// Notes what came of reading the definitions.
    pub fn config_loaded(&self, invalid: u64, successful: bool) {
        let mut inner = self.lock();
        inner.config.successful = successful;
        inner.config.invalid = invalid;
        if successful {
            inner.config.last_success = Some(Timestamp::now());
        }
    }

    /// The state of this moment.
    pub fn snapshot(&self) -> Snapshot {
        let inner = self.lock();
        Snapshot {
            records: inner.records.values().cloned().collect(),
            scheduler: inner.scheduler.clone(),
            config: inner.config.clone(),
        }
    }

    /// A panic while the lock is held leaves nothing half done that would matter more than the
    /// rest of the state, so poison is ignored.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One attempt in flight.
#[derive(Debug)]
pub struct InFlight(Arc<State>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.lock().scheduler.in_flight -= 1;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use conncheck_probes::{Failure, Phase};

    use super::*;

    pub(crate) fn facts(name: &str, rise: u32, fall: u32) -> Arc<Facts> {
        Arc::new(Facts {
            id: Identity {
                namespace: "default".to_owned(),
                name: name.to_owned(),
            },
            type_name: "http",
            reasons: &[Reason::Dns, Reason::Timeout],
            plan: Plan {
                interval: Duration::from_secs(30),
                timeout: Duration::from_secs(10),
                rise,
                fall,
                paused: false,
            },
            endpoint: None,
            labels: BTreeMap::new(),
        })
    }

    pub(crate) fn up() -> Outcome {
        let mut outcome = down(Reason::Internal);
        outcome.result = Ok(());
        outcome
    }

    pub(crate) fn down(reason: Reason) -> Outcome {
        let mut outcome = Outcome::failed_before_start(Failure {
            reason,
            phase: Some(Phase::Connect),
            code: None,
            message: "no".to_owned(),
            hint: None,
        });
        outcome.started_at = Timestamp::UNIX_EPOCH;
        outcome.duration = Duration::from_millis(20);
        outcome
    }

    /// Feeds outcomes (`+` and `-`) and gives `up` after each (`U` and `D`).
    fn check(rise: u32, fall: u32, outcomes: &str, expected: &str, changes: u64) {
        let state = State::default();
        let facts = facts("a", rise, fall);
        state.apply([Arc::clone(&facts)]);
        let mut seen = String::new();
        let mut told = 0;
        for outcome in outcomes.chars() {
            let outcome = match outcome {
                '+' => up(),
                _ => down(Reason::Timeout),
            };
            told += u64::from(state.record(&facts.id, None, outcome).is_some());
            seen.push(match state.snapshot().records[0].up {
                Some(true) => 'U',
                Some(false) => 'D',
                None => '?',
            });
        }
        assert_eq!(seen, expected);
        assert_eq!(state.snapshot().records[0].changes, changes);
        assert_eq!(told, changes + 1, "the first outcome is told as well");
    }

    #[test]
    fn without_thresholds_up_is_the_raw_result() {
        check(1, 1, "+-+--+", "UDUDDU", 4);
    }

    #[test]
    fn up_follows_rise_and_fall_in_a_row() {
        check(2, 3, "+--+---+-++", "UUUUUUDDDDU", 2);
    }

    #[test]
    fn the_first_outcome_decides_the_start() {
        check(3, 3, "-", "D", 0);
        check(3, 3, "+", "U", 0);
    }

    #[test]
    fn totals_count_what_happened() {
        let state = State::default();
        let facts = facts("a", 1, 1);
        state.apply([Arc::clone(&facts)]);
        state.record(&facts.id, Some("http://a:80".into()), up());
        state.record(&facts.id, None, down(Reason::Timeout));
        state.record(&facts.id, None, down(Reason::Secret));
        let snapshot = state.snapshot();
        let record = &snapshot.records[0];
        assert_eq!(record.attempts, 3);
        assert_eq!(record.consecutive_failures, 2);
        assert_eq!(record.latency.count(), 1);
        assert_eq!(record.endpoint.as_deref(), Some("http://a:80"));
        let failures: Vec<_> = record
            .failures
            .iter()
            .map(|(r, n)| (r.as_str(), *n))
            .collect();
        assert_eq!(failures, [("dns", 0), ("timeout", 1), ("secret", 1)]);
    }

    #[test]
    fn a_removed_target_leaves_nothing_and_one_that_stays_keeps_its_totals() {
        let state = State::default();
        let (a, b) = (facts("a", 1, 1), facts("b", 1, 1));
        state.apply([Arc::clone(&a), Arc::clone(&b)]);
        state.record(&a.id, None, up());
        state.record(&b.id, None, up());
        state.apply([facts("b", 2, 2)]);
        let snapshot = state.snapshot();
        assert_eq!(snapshot.records.len(), 1);
        assert_eq!(snapshot.records[0].attempts, 1);
        assert_eq!(snapshot.records[0].facts.plan.rise, 2);
        assert!(state.record(&a.id, None, up()).is_none());
        assert_eq!(state.snapshot().records.len(), 1);
    }

    #[test]
    fn a_snapshot_does_not_change_any_more() {
        let state = State::default();
        let facts = facts("a", 1, 1);
        state.apply([Arc::clone(&facts)]);
        let before = state.snapshot();
        state.record(&facts.id, None, up());
        assert_eq!(before.records[0].attempts, 0);
        assert_eq!(state.snapshot().records[0].attempts, 1);
    }
}
