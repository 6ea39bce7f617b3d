//! The table of faults that every type meets, on peers of ours that do it wrong.
//!
//! It walks the table of types: a type without a row in [`TALKS`] fails the tests.

use std::time::Duration;

use conncheck_probes::{Outcome, ResolverChoice, types};
use conncheck_rig::PATIENCE;
use conncheck_rig::dns::{Answer, DnsServer};
use conncheck_rig::faults::{self, BlackHole, Peer, Step};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::check::{LONGER, TIMEOUT, assert_down, attempt_with, attempt_within};

/// How a type talks: enough to cross its conversation at each point.
pub(crate) struct Talk {
    pub(crate) type_name: &'static str,
    /// A definition at `host:port`, without TLS.
    pub(crate) spec: fn(&str) -> Value,
    /// One that speaks TLS, at once where the type can.
    pub(crate) spec_with_tls: fn(&str) -> Value,
    /// What the peer says and hears before the handshake of `spec_with_tls`.
    before_tls: fn() -> Vec<Step>,
    /// What the peer greets with before it hears anything, in the types whose servers do.
    greeting: Option<&'static [u8]>,
    /// The phase in which it first waits for the peer.
    first: &'static str,
    /// An answer to its first words, after which it waits again, and the phase in which it does.
    reply: (&'static [u8], &'static str),
}

pub(crate) const TALKS: &[Talk] = &[
    Talk {
        type_name: "amqp",
        spec: |at| json!({"type": "amqp", "url": format!("amqp://probe:secret@{at}")}),
        spec_with_tls: |at| json!({"type": "amqp", "url": format!("amqps://probe:secret@{at}")}),
        before_tls: Vec::new,
        greeting: None,
        first: "auth",
        // `connection.start`: version 0-9, no properties, `PLAIN`, `en_US`.
        reply: (
            b"\x01\0\0\0\0\0\x1c\0\x0a\0\x0a\0\x09\0\0\0\0\0\0\0\x05PLAIN\0\0\0\x05en_US\xce",
            "auth",
        ),
    },
    Talk {
        type_name: "aws",
        spec: |at| json!({"type": "aws", "url": format!("http://AKIARIG:secret@{at}")}),
        spec_with_tls: |at| json!({"type": "aws", "url": format!("https://AKIARIG:secret@{at}")}),
        before_tls: Vec::new,
        greeting: None,
        first: "request",
        reply: (
            b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n<GetCallerIdentityResponse",
            "request",
        ),
    },
    Talk {
        type_name: "azure",
        spec: |at| json!({"type": "azure", "url": format!("http://app:secret@{at}/tenant.test")}),
        spec_with_tls: |at| json!({"type": "azure", "url": format!("https://app:secret@{at}/tenant.test")}),
        before_tls: Vec::new,
        greeting: None,
        first: "auth",
        reply: (
            b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{\"access_token\":",
            "auth",
        ),
    },
    Talk {
        type_name: "elastic",
        spec: |at| json!({"type": "elastic", "url": format!("http://probe:secret@{at}")}),
        spec_with_tls: |at| json!({"type": "elastic", "url": format!("https://probe:secret@{at}")}),
        before_tls: Vec::new,
        greeting: None,
        first: "request",
        reply: (
            b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{\"cluster_name\":",
            "request",
        ),
    },
    Talk {
        type_name: "gcp",
        spec: |at| {
            let credential = google_user(&format!("http://{at}/token"));
            json!({"type": "gcp", "url": format!("http://{at}"), "password": credential})
        },
        spec_with_tls: |at| {
            let credential = google_user(&format!("https://{at}/token"));
            json!({"type": "gcp", "url": format!("https://{at}"), "password": credential})
        },
        before_tls: Vec::new,
        greeting: None,
        first: "auth",
        reply: (
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 30\r\n\r\n{\"access_token\": \"ya29.token\"}",
            "request",
        ),
    },
    Talk {
        type_name: "http",
        spec: |at| json!({"type": "http", "url": format!("http://{at}/health")}),
        spec_with_tls: |at| json!({"type": "http", "url": format!("https://{at}/health")}),
        before_tls: Vec::new,
        greeting: None,
        first: "request",
        reply: (
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
            "request",
        ),
    },
    Talk {
        type_name: "kubernetes",
        spec: |at| json!({"type": "kubernetes", "url": format!("http://{at}"), "password": "secret"}),
        spec_with_tls: |at| json!({"type": "kubernetes", "url": format!("https://{at}"), "password": "secret"}),
        before_tls: Vec::new,
        greeting: None,
        first: "request",
        reply: (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "auth"),
    },
    Talk {
        type_name: "ldap",
        spec: |at| json!({"type": "ldap", "url": format!("ldap://{at}"), "username": "cn=probe", "password": "secret"}),
        spec_with_tls: |at| json!({"type": "ldap", "url": format!("ldaps://{at}"), "username": "cn=probe", "password": "secret"}),
        before_tls: Vec::new,
        greeting: None,
        first: "auth",
        // The bind is a success.
        reply: (
            b"\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\x00\x04\x00\x04\x00",
            "request",
        ),
    },
    Talk {
        type_name: "mongodb",
        spec: |at| json!({"type": "mongodb", "url": format!("mongodb://probe:secret@{at}/app")}),
        spec_with_tls: |at| json!({"type": "mongodb", "url": format!("mongodb://probe:secret@{at}/app?tls=true")}),
        before_tls: Vec::new,
        greeting: None,
        first: "auth",
        reply: (MONGODB_HELLO, "auth"),
    },
    Talk {
        type_name: "mssql",
        spec: |at| json!({"type": "mssql", "url": format!("sqlserver://probe:secret@{at}?encrypt=disable")}),
        spec_with_tls: |at| json!({"type": "mssql", "url": format!("sqlserver://probe:secret@{at}?encrypt=strict")}),
        before_tls: Vec::new,
        greeting: None,
        first: "auth",
        // To PRELOGIN: a version, and no encryption to be had.
        reply: (
            b"\x04\x01\0\x1a\0\0\x01\0\0\0\x0b\0\x06\x01\0\x11\0\x01\xff\x10\0\x10\x27\0\0\x02",
            "auth",
        ),
    },
    Talk {
        type_name: "mysql",
        spec: |at| json!({"type": "mysql", "url": format!("mysql://probe:secret@{at}/app?tls=disabled")}),
        spec_with_tls: |at| json!({"type": "mysql", "url": format!("mysql://probe:secret@{at}/app?tls=required")}),
        before_tls: || {
            vec![
                Step::Send(MYSQL_GREETING.to_vec()),
                Step::ReceiveExactly(36),
            ]
        },
        greeting: Some(MYSQL_GREETING),
        first: "auth",
        reply: (b"\x07\0\0\x02\0\0\0\x02\0\0\0", "request"),
    },
    Talk {
        type_name: "postgres",
        spec: |at| json!({"type": "postgres", "url": format!("postgres://probe:secret@{at}/app")}),
        spec_with_tls: |at| {
            let options = "sslmode=require&sslnegotiation=direct";
            json!({"type": "postgres", "url": format!("postgres://probe:secret@{at}/app?{options}")})
        },
        before_tls: Vec::new,
        greeting: None,
        first: "tls",
        reply: (b"N", "auth"),
    },
    Talk {
        type_name: "prometheus",
        spec: |at| json!({"type": "prometheus", "url": format!("http://{at}/prometheus")}),
        spec_with_tls: |at| json!({"type": "prometheus", "url": format!("https://{at}/prometheus")}),
        before_tls: Vec::new,
        greeting: None,
        first: "request",
        reply: (
            b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{\"status\":\"success\",",
            "request",
        ),
    },
    Talk {
        type_name: "redis",
        spec: |at| json!({"type": "redis", "url": format!("redis://probe:secret@{at}")}),
        spec_with_tls: |at| json!({"type": "redis", "url": format!("rediss://probe:secret@{at}")}),
        before_tls: Vec::new,
        greeting: None,
        first: "auth",
        reply: (b"+OK\r\n", "request"),
    },
    Talk {
        type_name: "smtp",
        spec: |at| json!({"type": "smtp", "url": format!("smtp://probe:secret@{at}?encryption=none")}),
        spec_with_tls: |at| json!({"type": "smtp", "url": format!("smtp://probe:secret@{at}?encryption=explicitTLS")}),
        before_tls: || {
            vec![
                Step::Send(b"220 peer ESMTP\r\n".to_vec()),
                Step::Receive,
                Step::Send(b"250-peer\r\n250 STARTTLS\r\n".to_vec()),
                Step::Receive,
                Step::Send(b"220 go ahead\r\n".to_vec()),
            ]
        },
        greeting: Some(b"220 peer ESMTP\r\n"),
        first: "request",
        reply: (b"250-peer\r\n250 AUTH PLAIN\r\n", "auth"),
    },
    Talk {
        type_name: "webhook",
        spec: |at| json!({"type": "webhook", "url": format!("http://{at}/hook")}),
        spec_with_tls: |at| json!({"type": "webhook", "url": format!("https://{at}/hook")}),
        before_tls: Vec::new,
        greeting: None,
        first: "request",
        // An answer to `HEAD` is over with its head.
        reply: (b"HTTP/1.1 200 OK\r\nContent-", "request"),
    },
];

/// What `gcloud auth application-default login` writes.
fn google_user(token_uri: &str) -> String {
    let credential = json!({
        "type": "authorized_user", "client_id": "probe", "client_secret": "secret",
        "refresh_token": "secret", "token_uri": token_uri,
    });
    credential.to_string()
}

/// The answer to the first message: `{ok: 1.0, maxWireVersion: 21}`, a standalone server.
const MONGODB_HELLO: &[u8] = b"\x3a\0\0\0\x01\0\0\0\x01\0\0\0\xdd\x07\0\0\0\0\0\0\0\x25\0\0\0\x01ok\0\0\0\0\0\0\0\xf0\x3f\x10maxWireVersion\0\x15\0\0\0\0";
/// Of MySQL 8, with TLS.
const MYSQL_GREETING: &[u8] =
    b"\x4a\0\0\0\x0a8.0.36\0\x08\0\0\0abcdefgh\0\xff\xff\xff\x02\0\xff\xdf\x15\
    \0\0\0\0\0\0\0\0\0\0ijklmnopqrst\0caching_sha2_password\0";

type Fault = (&'static str, fn(&Talk));

const FAULTS: &[Fault] = &[
    ("refuses", refuses),
    ("resets", resets),
    ("hangs_up", hangs_up),
    ("talks_nonsense", talks_nonsense),
    ("never_stops_talking", never_stops_talking),
    ("hangs_up_on_a_handshake", hangs_up_on_a_handshake),
    (
        "answers_a_handshake_in_plain_text",
        answers_a_handshake_in_plain_text,
    ),
    ("sends_an_alert", sends_an_alert),
    ("name_does_not_exist", name_does_not_exist),
    ("name_server_fails", name_server_fails),
    ("hangs", hangs),
];

/// Those that wait out a deadline. They do so together, and so it can be long enough for a busy machine.
const HANGS: &[Fault] = &[
    ("black_hole", black_hole),
    ("says_nothing", says_nothing),
    ("hangs_after_its_first_words", hangs_after_its_first_words),
    (
        "hangs_up_after_its_first_words",
        hangs_up_after_its_first_words,
    ),
    ("trickles", trickles),
    ("says_nothing_to_a_handshake", says_nothing_to_a_handshake),
    ("name_server_is_silent", name_server_is_silent),
    ("one_address_of_two_is_dead", one_address_of_two_is_dead),
];

pub(crate) fn trials() -> Vec<Trial> {
    let rows = types::all().iter().map(|info| {
        let talk = TALKS.iter().find(|talk| talk.type_name == info.name);
        (info.name, talk)
    });
    rows.flat_map(|(type_name, talk)| {
        FAULTS.iter().map(move |(fault, test)| {
            Trial::test(format!("faults::{type_name}::{fault}"), move || {
                let talk = talk.ok_or_else(|| format!("`{type_name}` has no row in `TALKS`"))?;
                test(talk);
                Ok(())
            })
        })
    })
    .collect()
}

fn hangs(talk: &Talk) {
    std::thread::scope(|scope| {
        for (fault, test) in HANGS {
            std::thread::Builder::new()
                .name(format!("{}::{fault}", talk.type_name))
                .spawn_scoped(scope, || test(talk))
                .unwrap();
        }
    });
}

fn at(peer: &Peer, timeout: Duration, talk: &Talk) -> Outcome {
    let outcome = attempt_within(timeout, &(talk.spec)(&peer.addr().to_string()));
    assert!(peer.everybody_left(PATIENCE), "a connection was left open");
    outcome
}

fn refuses(talk: &Talk) {
    let refused = faults::refused().unwrap();
    let outcome = attempt_within(TIMEOUT, &(talk.spec)(&refused.addr().to_string()));
    assert_down(&outcome, "connect_refused", "connect", "");
}

fn black_hole(talk: &Talk) {
    let hole = BlackHole::start().unwrap();
    let outcome = attempt_within(LONGER, &(talk.spec)(&hole.addr().to_string()));
    assert_down(&outcome, "timeout", "connect", "");
    assert!(outcome.duration >= LONGER);
}

fn resets(talk: &Talk) {
    let peer = Peer::reset().unwrap();
    let outcome = at(&peer, TIMEOUT, talk);
    let failure = outcome.result.expect_err("reset");
    assert_eq!(failure.reason.as_str(), "connect_reset", "{failure:?}");
}

/// A peer that has this to say: when it is asked, or at once where the type's servers speak first.
fn says(talk: &Talk, words: impl IntoIterator<Item = Step>) -> Peer {
    let first = match talk.greeting {
        Some(_) => None,
        None => Some(Step::Receive),
    };
    Peer::script(first.into_iter().chain(words).collect::<Vec<_>>()).unwrap()
}

/// A peer whose first words are right, which then does this.
fn goes_on(talk: &Talk, steps: impl IntoIterator<Item = Step>) -> Peer {
    let (reply, _) = talk.reply;
    let greeting = talk.greeting.map(|greeting| Step::Send(greeting.to_vec()));
    let first = greeting
        .into_iter()
        .chain([Step::Receive, Step::Send(reply.to_vec())]);
    Peer::script(first.chain(steps).collect::<Vec<_>>()).unwrap()
}

/// A peer that does this where a handshake is expected of it.
fn instead_of_a_handshake(talk: &Talk, steps: impl IntoIterator<Item = Step>) -> Peer {
    let before = (talk.before_tls)().into_iter();
    Peer::script(before.chain(steps).collect::<Vec<_>>()).unwrap()
}

fn hangs_up(talk: &Talk) {
    let peer = says(talk, [Step::Close]);
    assert_down(&at(&peer, TIMEOUT, talk), "connect_reset", talk.first, "");
}

fn says_nothing(talk: &Talk) {
    let peer = Peer::silent().unwrap();
    assert_down(&at(&peer, LONGER, talk), "timeout", talk.first, "");
}

fn hangs_after_its_first_words(talk: &Talk) {
    let (_, phase) = talk.reply;
    let peer = goes_on(talk, []);
    assert_down(&at(&peer, LONGER, talk), "timeout", phase, "");
}

fn hangs_up_after_its_first_words(talk: &Talk) {
    let (_, phase) = talk.reply;
    let peer = goes_on(talk, [Step::Receive, Step::Close]);
    // A peer that waits for the next words is left waiting where there are none.
    let outcome = at(&peer, LONGER, talk);
    let failure = outcome.result.expect_err("hung up");
    assert_eq!(
        failure.phase.map(|phase| phase.as_str()),
        Some(phase),
        "{failure:?}"
    );
    assert!(
        ["connect_reset", "timeout"].contains(&failure.reason.as_str()),
        "{failure:?}"
    );
}

fn trickles(talk: &Talk) {
    let peer = Peer::trickles(&b" "[..], Duration::from_millis(50)).unwrap();
    let outcome = at(&peer, LONGER, talk);
    let failure = outcome.result.expect_err("trickled");
    assert!(
        ["timeout", "protocol"].contains(&failure.reason.as_str()),
        "{failure:?}"
    );
    assert_eq!(failure.phase.map(|phase| phase.as_str()), Some(talk.first));
}

fn talks_nonsense(talk: &Talk) {
    let peer = match talk.greeting {
        Some(_) => Peer::nonsense_greeting(),
        None => Peer::nonsense(),
    };
    assert_down(
        &at(&peer.unwrap(), TIMEOUT, talk),
        "protocol",
        talk.first,
        "",
    );
}

fn never_stops_talking(talk: &Talk) {
    let peer = says(talk, [Step::Send(vec![b'*'; 32 * 1024 * 1024])]);
    let outcome = at(&peer, TIMEOUT, talk);
    let failure = outcome.result.expect_err("nonsense without end");
    assert_eq!(failure.reason.as_str(), "protocol", "{failure:?}");
}

fn over_tls(peer: &Peer, timeout: Duration, talk: &Talk) -> Outcome {
    let outcome = attempt_within(timeout, &(talk.spec_with_tls)(&peer.addr().to_string()));
    assert!(peer.everybody_left(PATIENCE), "a connection was left open");
    assert!(
        outcome.tls.is_none(),
        "no certificate was seen: {outcome:#?}"
    );
    outcome
}

fn says_nothing_to_a_handshake(talk: &Talk) {
    let peer = instead_of_a_handshake(talk, []);
    assert_down(&over_tls(&peer, LONGER, talk), "timeout", "tls", "");
}

fn hangs_up_on_a_handshake(talk: &Talk) {
    let peer = instead_of_a_handshake(talk, [Step::Receive, Step::Close]);
    assert_down(&over_tls(&peer, TIMEOUT, talk), "connect_reset", "tls", "");
}

fn answers_a_handshake_in_plain_text(talk: &Talk) {
    let words = b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec();
    let peer = instead_of_a_handshake(talk, [Step::Receive, Step::Send(words)]);
    assert_down(&over_tls(&peer, TIMEOUT, talk), "protocol", "tls", "");
}

fn sends_an_alert(talk: &Talk) {
    // Fatal, handshake_failure.
    let alert = vec![0x15, 3, 3, 0, 2, 2, 40];
    let peer = instead_of_a_handshake(talk, [Step::Receive, Step::Send(alert)]);
    assert_down(
        &over_tls(&peer, TIMEOUT, talk),
        "tls_other",
        "tls",
        "handshake_failure",
    );
}

fn resolved_by(server: &DnsServer, timeout: Duration, talk: &Talk, port: u16) -> Outcome {
    let resolver = ResolverChoice::Servers(vec![server.addr()]);
    let spec = (talk.spec)(&format!("{NAME}:{port}"));
    attempt_with(timeout, &resolver, &spec)
}

const NAME: &str = "peer.conncheck.test";

fn name_does_not_exist(talk: &Talk) {
    let server = DnsServer::start().unwrap();
    let outcome = resolved_by(&server, TIMEOUT, talk, 1);
    assert_down(&outcome, "dns", "resolve", "NXDOMAIN");
}

fn name_server_fails(talk: &Talk) {
    let server = DnsServer::start()
        .unwrap()
        .with(NAME, Answer::ServerFailure);
    let outcome = resolved_by(&server, TIMEOUT, talk, 1);
    assert_down(&outcome, "dns", "resolve", "SERVFAIL");
}

fn name_server_is_silent(talk: &Talk) {
    let server = DnsServer::start().unwrap().with(NAME, Answer::Silence);
    let outcome = resolved_by(&server, LONGER, talk, 1);
    assert_down(&outcome, "timeout", "resolve", "");
}

fn one_address_of_two_is_dead(talk: &Talk) {
    let peer = Peer::silent().unwrap();
    let server = DnsServer::start().unwrap().with(
        NAME,
        Answer::Addresses(vec![
            "127.0.0.9".parse().unwrap(),
            "127.0.0.1".parse().unwrap(),
        ]),
    );
    let outcome = resolved_by(&server, LONGER, talk, peer.port());
    // It got through to the one that is alive, and that one says nothing.
    assert_down(&outcome, "timeout", talk.first, "");
}
