//! The one place that knows the API: a definition in, an outcome out.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use conncheck_config::{
    Connection, Documents, Found, Loader, Lookup, NotFound, RefKind, Secret, Trust,
};
use conncheck_probes::{Deadline, Env, Files, Outcome, Probe, ResolverChoice, types};
use conncheck_rig::{Certified, Kind, PATIENCE, Rig, Shown, need};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::program::document;

/// Longer than any loopback conversation, on a busy machine too: whatever ends before costs nothing of
/// it.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(15);

/// For peers that never say a word.
pub(crate) const SHORT: Duration = Duration::from_millis(400);

/// For peers that hang once they have spoken: their words have to fit in, on a busy machine too.
pub(crate) const LONGER: Duration = Duration::from_secs(3);

/// For hosts that share the time, of which the first hangs: half of it is left for the next.
pub(crate) const SHARED: Duration = Duration::from_secs(6);

/// For queries that do not end: the tenth that is kept back to have one taken back is half a second.
pub(crate) const ENDLESS_QUERY: Duration = Duration::from_secs(5);

/// How late a busy machine may be. Without a deadline a silent peer is waited for for ever.
const LATE: Duration = Duration::from_secs(10);

/// Where all attempts of these tests run.
pub(crate) static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
});

/// Files that a definition names, read as they are.
pub(crate) struct OnDisk;

impl Files for OnDisk {
    fn read(&self, path: &str) -> Result<Secret, String> {
        std::fs::read_to_string(path)
            .map(Secret::new)
            .map_err(|error| format!("`{path}` cannot be read: {error}"))
    }

    fn environment(&self) -> Result<Vec<(OsString, OsString)>, String> {
        Ok(vec![("PATH".into(), "/usr/bin:/bin".into())])
    }
}

/// One attempt of the connection with this `spec`.
pub(crate) fn attempt(spec: &Value) -> Outcome {
    attempt_within(TIMEOUT, spec)
}

/// One attempt with a deadline of its own.
pub(crate) fn attempt_within(timeout: Duration, spec: &Value) -> Outcome {
    attempt_with(timeout, &ResolverChoice::Auto, spec)
}

/// Such attempts, all at the same time.
pub(crate) fn attempts_within<const N: usize>(
    timeout: Duration,
    specs: [Value; N],
) -> [Outcome; N] {
    std::thread::scope(|scope| {
        let attempts = specs.map(|spec| scope.spawn(move || attempt_within(timeout, &spec)));
        attempts.map(|attempt| attempt.join().unwrap())
    })
}

/// One attempt with a resolver of its own.
pub(crate) fn attempt_with(timeout: Duration, resolver: &ResolverChoice, spec: &Value) -> Outcome {
    run(timeout, resolver, &probe(spec))
}

/// One attempt of a connection whose every secret holds this.
pub(crate) fn attempt_with_secret(secret: &[(&str, &str)], spec: &Value) -> Outcome {
    let probe = probe_with(&OneSecret(secret), spec);
    run(TIMEOUT, &ResolverChoice::Auto, &probe)
}

pub(crate) fn run(timeout: Duration, resolver: &ResolverChoice, probe: &Arc<dyn Probe>) -> Outcome {
    let outcome = RUNTIME.block_on(async {
        let env = Env::new(resolver).expect("a resolver");
        conncheck_probes::run(probe, Deadline::after(timeout), &env).await
    });
    assert!(
        outcome.duration <= timeout + LATE,
        "within the deadline: {outcome:?}"
    );
    outcome
}

/// The probe that a `spec` describes.
pub(crate) fn probe(spec: &Value) -> Arc<dyn Probe> {
    probe_with(&Documents::default(), spec)
}

fn probe_with(lookup: &dyn Lookup, spec: &Value) -> Arc<dyn Probe> {
    probe_on(&OnDisk, lookup, spec)
}

/// The same on a machine of the test's own.
pub(crate) fn probe_on(files: &dyn Files, lookup: &dyn Lookup, spec: &Value) -> Arc<dyn Probe> {
    let name = spec["type"].as_str().expect("a type");
    let info = types::find(name).expect("a known type");
    let connection = connection(spec)
        .of_type(info.name)
        .expect("one of its type");
    let resolved = info
        .resolve(&connection, lookup)
        .unwrap_or_else(|unresolved| panic!("{unresolved:?}"));
    info.build(&resolved, files)
        .unwrap_or_else(|invalid| panic!("{invalid:?}"))
}

fn connection(spec: &Value) -> Connection {
    let document = document("under-test", spec.clone());
    let mut loader = Loader::default();
    loader.add("test.yaml", &document.to_string(), Trust::Local);
    let mut loaded = loader.finish();
    assert!(loaded.errors.is_empty(), "{:?}", loaded.errors);
    loaded.connections.pop().expect("a connection")
}

/// Keys and their values, whatever the name of the secret.
struct OneSecret<'a>(&'a [(&'a str, &'a str)]);

impl Lookup for OneSecret<'_> {
    fn find(&self, _: RefKind, _: &str, _: &str, _: &[&str]) -> Result<Found, NotFound> {
        let values = self.0.iter();
        Ok(Found {
            source: "the test".to_owned(),
            values: values
                .map(|(key, value)| ((*key).to_owned(), Secret::new(*value)))
                .collect(),
        })
    }

    fn file(&self, _: &str) -> Result<Secret, NotFound> {
        Err(NotFound::default())
    }

    fn env(&self, _: &str) -> Result<Secret, NotFound> {
        Err(NotFound::default())
    }
}

/// Waits until `done`. False if it never is.
pub(crate) fn soon(done: impl Fn() -> bool) -> bool {
    let started = Instant::now();
    while !done() {
        if started.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// How many seconds to give a plugin of Nagios, and ourselves, at a server in this state: an answer
/// may take its time on a busy machine, and of a process that stands still none comes.
pub(crate) fn seconds_for(state: &str) -> u64 {
    match state.ends_with("SIGSTOPped") {
        true => 1,
        false => 10,
    }
}

/// Expects it to be up.
pub(crate) fn up(spec: Value) -> Outcome {
    let outcome = attempt(&spec);
    assert!(outcome.is_up(), "{outcome:#?}");
    outcome
}

/// Expects it to be down, for this reason, in this phase, with this code (`""` for none).
#[track_caller]
pub(crate) fn down(spec: Value, reason: &str, phase: &str, code: &str) -> Outcome {
    let outcome = attempt(&spec);
    assert_down(&outcome, reason, phase, code);
    outcome
}

/// Expects a query that answers with nearly as much as is read of a peer to be answered, and one that
/// answers with more to be the owner's to mend.
pub(crate) fn check_long_answers(ask: impl Fn(&str) -> Value, taken: &[&str], too_long: &[&str]) {
    for query in taken {
        let outcome = attempt_within(PATIENCE, &ask(query));
        assert!(outcome.is_up(), "{query}: {outcome:#?}");
    }
    for query in too_long {
        let outcome = attempt_within(PATIENCE, &ask(query));
        assert_eq!(summary(&outcome), "assertion request -", "{query}");
        let hint = hint(&outcome);
        assert!(hint.contains("a row or a few"), "{query}: {hint}");
    }
}

#[track_caller]
pub(crate) fn assert_down(outcome: &Outcome, reason: &str, phase: &str, code: &str) {
    let Err(failure) = &outcome.result else {
        panic!("up, though it should be down for {reason}: {outcome:#?}");
    };
    let got = (
        failure.reason.as_str(),
        failure.phase.map_or("", |phase| phase.as_str()),
        failure.code.as_deref().unwrap_or_default(),
    );
    assert_eq!(got, (reason, phase, code), "{outcome:#?}");
    assert!(!failure.message.is_empty());
}

/// Expects the server's certificate to be refused, and yet to be recorded.
#[track_caller]
pub(crate) fn refuses(certificate: &Certified, spec: Value, reason: &str) -> Outcome {
    let outcome = down(spec, reason, "tls", "");
    assert_recorded(&outcome, certificate);
    assert!(outcome.tls.as_ref().is_some_and(|tls| !tls.verified));
    outcome
}

/// What may be wrong with a certificate, and the reason that says so.
pub(crate) const FAULTS: [(Shown, &str); 5] = [
    (Shown::Expired, "tls_expired"),
    (Shown::NotYetValid, "tls_not_yet_valid"),
    (Shown::WrongName, "tls_name_mismatch"),
    (Shown::UnknownCa, "tls_unknown_ca"),
    (Shown::SelfSigned, "tls_unknown_ca"),
];

/// Expects each fault of a certificate to be told, by every definition that leads to its server.
#[track_caller]
pub(crate) fn refuses_every_fault<K: Kind, const N: usize>(
    kind: impl Fn(Shown) -> K,
    specs: impl Fn(&K::Server) -> [Value; N],
) {
    for (shown, reason) in FAULTS {
        let server = need!(Rig::shared().get(kind(shown)));
        for spec in specs(&server) {
            refuses(Rig::shared().pki().shown(shown), spec, reason);
        }
    }
}

/// A server that wants a certificate of ours: none, those that it does not trust, and the right one.
pub(crate) fn client_certificates(spec: &Value) {
    let pki = Rig::shared().pki();
    let with_client = |client: &Certified| {
        let client = json!({"clientCert": client.cert_pem, "clientKey": client.key_pem});
        with(spec.clone(), client)
    };
    down(spec.clone(), "tls_other", "tls", "certificate_required");
    for (client, alert) in [
        (&pki.client_unknown_ca, "unknown_ca"),
        (&pki.client_expired, "certificate_expired"),
    ] {
        down(with_client(client), "tls_other", "tls", alert);
    }
    let outcome = up(with_client(&pki.client));
    assert_eq!(
        outcome.credential_expiry.map(|time| time.as_second()),
        Some(pki.client.not_after)
    );
}

/// A `spec` with more in it.
pub(crate) fn with(mut spec: Value, more: Value) -> Value {
    merge(&mut spec, more);
    spec
}

fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more,
    }
}

/// With the authority that issued most certificates of the rig.
pub(crate) fn trusting(spec: Value) -> Value {
    with(spec, json!({"caCert": Rig::shared().pki().ca.cert_pem}))
}

/// The phases that were reached, in order.
pub(crate) fn phases(outcome: &Outcome) -> Vec<&'static str> {
    outcome
        .phases
        .iter()
        .map(|(phase, _)| phase.as_str())
        .collect()
}

#[track_caller]
pub(crate) fn message(outcome: &Outcome) -> &str {
    &outcome.result.as_ref().expect_err("a failure").message
}

#[track_caller]
pub(crate) fn hint(outcome: &Outcome) -> &str {
    let failure = outcome.result.as_ref().expect_err("a failure");
    failure.hint.as_deref().expect("a hint")
}

/// The same of an outcome that nobody needs any more.
#[track_caller]
pub(crate) fn hint_of(outcome: Outcome) -> String {
    hint(&outcome).to_owned()
}

pub(crate) fn seconds(time: Option<jiff::Timestamp>) -> Option<i64> {
    time.map(|time| time.as_second())
}

/// `up`, or reason, phase and code.
pub(crate) fn summary(outcome: &Outcome) -> String {
    match &outcome.result {
        Ok(()) => "up".to_owned(),
        Err(failure) => format!(
            "{} {} {}",
            failure.reason,
            failure.phase.map_or("-", |phase| phase.as_str()),
            failure.code.as_deref().unwrap_or("-"),
        ),
    }
}

/// Compares a grid with what it should be, as text.
#[track_caller]
pub(crate) fn check_grid<C>(
    rows: &[&str],
    columns: &[(&str, C)],
    cell: impl Fn(&str, &C) -> String,
    expected: &str,
) {
    let mut grid = String::new();
    let mut line = |row: &str, cells: Vec<String>| {
        let cells: String = cells.iter().map(|cell| format!("{cell:<20}")).collect();
        writeln!(grid, "{}", format!("{row:<16}{cells}").trim_end()).unwrap();
    };
    line(
        "",
        columns.iter().map(|(name, _)| (*name).to_owned()).collect(),
    );
    for row in rows {
        line(
            row,
            columns
                .iter()
                .map(|(_, column)| cell(row, column))
                .collect(),
        );
    }
    assert!(grid == expected.trim_start_matches('\n'), "it is\n{grid}");
}

/// The cell of an attempt with a query that fails with this code where the session is not in TLS:
/// `plain`, `tls` or `verified`, or the reason why it is down.
pub(crate) fn cell(outcome: &Outcome, not_in_tls: &str) -> String {
    match (&outcome.result, &outcome.tls) {
        (Ok(()), Some(tls)) if tls.verified => "verified".to_owned(),
        (Ok(()), Some(_)) => "tls".to_owned(),
        (Ok(()), None) => panic!("in TLS, and nothing recorded: {outcome:#?}"),
        (Err(failure), _) => match failure.code.as_deref() {
            Some(code) if code == not_in_tls => "plain".to_owned(),
            Some(code) => format!("{} {code}", failure.reason),
            None => failure.reason.to_string(),
        },
    }
}

/// Expects this certificate to have been recorded.
#[track_caller]
pub(crate) fn assert_recorded(outcome: &Outcome, certificate: &Certified) {
    let tls = outcome.tls.as_ref().expect("recorded");
    assert_eq!(
        tls.earliest_expiry.map(|time| time.as_second()),
        Some(certificate.not_after),
        "{outcome:#?}"
    );
    assert!(tls.subject.is_some() && tls.issuer.is_some(), "{tls:?}");
}

/// Compares a grid of modes and servers of a kind that each show another certificate.
#[track_caller]
pub(crate) fn check_certificates<K: Kind>(
    modes: &[&str],
    kind: impl Fn(Shown) -> K,
    attempt: impl Fn(&str, &K::Server) -> Outcome,
    cell: impl Fn(&Outcome) -> String,
    expected: &str,
) {
    let rig = Rig::shared();
    let mut servers = Vec::new();
    for shown in Shown::ALL {
        let certificate = rig.pki().shown(shown);
        let server = need!(rig.get(kind(shown)));
        servers.push((certificate.name, (server, certificate)));
    }
    check_grid(
        modes,
        &servers,
        |mode, (server, certificate)| {
            let outcome = attempt(mode, server);
            let cell = cell(&outcome);
            match (mode, cell.as_str()) {
                ("disable" | "disabled" | "allow", "plain") => {
                    assert!(outcome.tls.is_none(), "{mode}: {outcome:#?}");
                }
                // Recorded before it is judged.
                _ => assert_recorded(&outcome, certificate),
            }
            assert_eq!(
                outcome.tls.is_some_and(|tls| tls.verified),
                cell == "verified"
            );
            cell
        },
        expected,
    );
}
