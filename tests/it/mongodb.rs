//! `mongodb` against SecantusDB, and against peers of our own where it takes more than one server.

use std::time::{Duration, Instant};

use conncheck_probes::{Outcome, ResolverChoice};
use conncheck_rig::dns::{Answer, DnsServer};
use conncheck_rig::faults::{self, BlackHole, Peer};
use conncheck_rig::mongodb::{Binary, BinarySubtype, MongoPeer, doc, member, name};
use conncheck_rig::secantus::PREPARED_PASSWORD;
use conncheck_rig::{PASSWORD, PATIENCE, Rig, Secantus, SecantusKind, Shown, need};
use serde_json::{Value, json};

use crate::check::{
    SHARED, SHORT, TIMEOUT, assert_down, attempt, attempt_with, attempt_with_secret,
    attempt_within, client_certificates, down, phases, refuses_every_fault, up, with,
};

crate::trials![
    logs_in_by_every_mechanism_of_scram,
    logs_in_by_certificate,
    the_database_of_the_url_is_that_of_the_user_too,
    a_ping_without_a_login_proves_no_login,
    credentials_of_the_spec_win_over_the_url,
    a_secret_gives_the_password_or_all,
    wrong_logins_are_auth,
    a_server_that_does_not_know_the_password_is_not_believed,
    speaks_tls_and_records_the_certificate,
    every_fault_of_a_certificate,
    every_mode_of_tls,
    client_certificates_missing_wrong_and_right,
    a_plain_url_on_a_tls_port_and_the_reverse,
    errors_of_the_server_have_their_reasons,
    a_member_that_steps_down,
    a_stopped_process_is_a_timeout,
    a_server_without_room_hangs_up,
    the_primary_is_found_from_any_member,
    members_are_reached_by_their_own_names,
    no_primary_is_unavailable,
    a_primary_out_of_reach_is_the_reason,
    a_hard_error_hides_no_host_and_is_not_hidden,
    the_wrong_kind_of_server_is_an_assertion,
    read_preferences_choose_among_members,
    routers_and_load_balancers,
    a_direct_connection_takes_the_host_as_it_is,
    servers_of_before_know_hello_by_its_old_name,
    limits_of_the_url_are_kept,
    the_name_servers_know_the_hosts,
    records_that_no_driver_would_follow,
    a_name_needs_a_resolver_that_knows_records,
    leaves_nothing_behind_and_a_clean_log,
];

macro_rules! need_main {
    () => {
        need!(Rig::shared().get(SecantusKind::Main))
    };
}

fn at(url: impl Into<String>) -> Value {
    json!({"type": "mongodb", "url": url.into()})
}

fn over_tls(kind: &Secantus) -> Value {
    with(
        at(kind.url("probe")),
        json!({"caCert": Rig::shared().pki().ca.cert_pem}),
    )
}

fn message(outcome: &Outcome) -> String {
    let failure = outcome.result.as_ref().expect_err("down");
    format!(
        "{} ({})",
        failure.message,
        failure.hint.as_deref().unwrap_or_default()
    )
}

fn logs_in_by_every_mechanism_of_scram() {
    let mongodb = need_main!();
    let outcome = up(at(mongodb.url("probe")));
    assert_eq!(phases(&outcome), ["resolve", "connect", "auth", "request"]);
    let server = outcome.server.expect("told");
    assert!(
        server.starts_with("MongoDB ") && server.ends_with("primary of secantus"),
        "{server}"
    );
    for mechanism in ["SCRAM-SHA-1", "SCRAM-SHA-256", "DEFAULT"] {
        let url = format!("{}?authMechanism={mechanism}", mongodb.url("probe"));
        up(at(url));
    }
    // Nothing but SHA-1 is kept for this user, and the server says so.
    up(at(mongodb.url("legacy")));
    let prepared = json!({"username": "prepared", "password": PREPARED_PASSWORD});
    up(with(at(mongodb.bare_url()), prepared));
    up(json!({
        "type": "mongo", "url": format!("mongodb://127.0.0.1:{}", mongodb.port()),
        "username": "prepared", "password": "pr\u{e4}pared-A",
    }));
    let open = need!(Rig::shared().get(SecantusKind::Open));
    let outcome = up(at(open.bare_url()));
    assert_eq!(phases(&outcome), ["resolve", "connect", "request"]);
}

fn logs_in_by_certificate() {
    let mongodb = need!(Rig::shared().get(SecantusKind::Tls));
    let pki = Rig::shared().pki();
    let url = format!("{}&authMechanism=MONGODB-X509", mongodb.bare_url());
    let spec = with(
        at(url),
        json!({"caCert": pki.ca.cert_pem, "clientCert": pki.client.cert_pem, "clientKey": pki.client.key_pem}),
    );
    let outcome = up(spec.clone());
    assert_eq!(
        phases(&outcome),
        ["resolve", "connect", "tls", "auth", "request"]
    );
    assert_eq!(
        outcome.credential_expiry.map(|time| time.as_second()),
        Some(pki.client.not_after)
    );
    up(with(spec.clone(), json!({"username": "CN=probe"})));
    let other = with(spec, json!({"username": "CN=other"}));
    let outcome = down(other, "auth", "auth", "18");
    assert!(message(&outcome).contains("$external"), "{outcome:#?}");
    // The certificate and its key in one file, as the drivers have it.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("client.pem");
    std::fs::write(
        &file,
        format!("{}{}", pki.client.cert_pem, pki.client.key_pem),
    )
    .unwrap();
    up(at(format!(
        "{}&authMechanism=MONGODB-X509&authSource=%24external&tlsCAFile={}&tlsCertificateKeyFile={}",
        mongodb.bare_url(),
        pki.ca.cert_path.display(),
        file.display()
    )));
}

fn the_database_of_the_url_is_that_of_the_user_too() {
    let mongodb = need_main!();
    let url = mongodb.url("clerk");
    up(at(format!("{url}shop")));
    up(at(format!("{url}?authSource=shop")));
    up(at(format!("{url}orders?authSource=shop")));
    let outcome = down(at(url.clone()), "auth", "auth", "18");
    assert!(message(&outcome).contains("`admin`"), "{outcome:#?}");
    // What is pinged is another matter.
    let property = json!({"properties": {"database": "shop"}});
    down(with(at(url), property), "auth", "auth", "18");
    let peer = MongoPeer::greets(doc! { "ok": 1.0, "maxWireVersion": 21 }).unwrap();
    let url = format!("mongodb://127.0.0.1:{}/orders", peer.port());
    up(at(&*url));
    up(with(at(url), json!({"properties": {"database": "shop"}})));
    let pinged: Vec<_> = peer
        .heard()
        .into_iter()
        .filter(|command| name(command) == "ping")
        .map(|command| command.get_str("$db").unwrap().to_owned())
        .collect();
    assert_eq!(pinged, ["orders", "shop"]);
}

fn a_ping_without_a_login_proves_no_login() {
    let mongodb = need_main!();
    // As the README says: this server wants logins, and answers whoever pings.
    let outcome = up(at(mongodb.bare_url()));
    assert_eq!(phases(&outcome), ["resolve", "connect", "request"]);
    // So where there is a login it must have happened.
    let outcome = down(
        at(mongodb.url("probe").replace(PASSWORD, "wrong")),
        "auth",
        "auth",
        "18",
    );
    assert_eq!(phases(&outcome), ["resolve", "connect", "auth"]);
}

fn credentials_of_the_spec_win_over_the_url() {
    let mongodb = need_main!();
    let url = format!("mongodb://nobody:nothing@localhost:{}", mongodb.port());
    up(with(
        at(url),
        json!({"username": "probe", "password": PASSWORD}),
    ));
}

fn a_secret_gives_the_password_or_all() {
    let mongodb = need_main!();
    let url = format!("mongodb://probe@127.0.0.1:{}/", mongodb.port());
    let spec = with(
        at(url),
        json!({"secretRef": {"name": "login", "key": "whatever"}}),
    );
    let outcome = attempt_with_secret(&[("whatever", PASSWORD)], &spec);
    assert!(outcome.is_up(), "{outcome:#?}");
    let whole = json!({"type": "mongodb", "secretRef": {"name": "login"}});
    let url = format!("mongodb://127.0.0.1:{}/", mongodb.port());
    let secret = [
        ("url", url.as_str()),
        ("username", "probe"),
        ("password", PASSWORD),
    ];
    let outcome = attempt_with_secret(&secret, &whole);
    assert!(outcome.is_up(), "{outcome:#?}");
}

fn wrong_logins_are_auth() {
    let mongodb = need_main!();
    let login = |user: &str, password: &str| {
        with(
            at(mongodb.bare_url()),
            json!({"username": user, "password": password}),
        )
    };
    for spec in [
        login("probe", "wrong"),
        login("legacy", "wrong"),
        login("nobody", PASSWORD),
        at(format!("{}?authSource=shop", mongodb.url("probe"))),
        at(format!(
            "{}?authMechanism=SCRAM-SHA-256",
            mongodb.url("legacy")
        )),
    ] {
        let outcome = down(spec, "auth", "auth", "18");
        let said = message(&outcome);
        assert!(said.contains("AuthenticationFailed"), "{said}");
        assert!(said.contains("`authSource`"), "{said}");
    }
    // It says no at once, and not after a search for other servers until the deadline.
    let outcome = attempt_within(PATIENCE, &login("probe", "wrong"));
    assert!(outcome.duration < PATIENCE / 2, "{outcome:#?}");
}

/// A server that lets everybody in and proves nothing.
fn credulous(rounds: u32, last: &'static str) -> MongoPeer {
    let binary = |text: String| Binary {
        subtype: BinarySubtype::Generic,
        bytes: text.into_bytes(),
    };
    MongoPeer::start(move |command| {
        Some(match name(command) {
            "hello" => {
                doc! { "ok": 1.0, "maxWireVersion": 21, "saslSupportedMechs": ["SCRAM-SHA-256"] }
            }
            "saslStart" => {
                let first = command.get_binary_generic("payload").unwrap();
                let first = String::from_utf8_lossy(first);
                let nonce = first.split_once("r=").unwrap().1.to_owned();
                let payload = format!("r={nonce}and-more,s=c2FsdA==,i={rounds}");
                doc! { "ok": 1.0, "conversationId": 1, "done": false, "payload": binary(payload) }
            }
            _ => {
                doc! { "ok": 1.0, "conversationId": 1, "done": true, "payload": binary(last.to_owned()) }
            }
        })
    })
    .unwrap()
}

fn a_server_that_does_not_know_the_password_is_not_believed() {
    let spec = |peer: &MongoPeer| at(format!("mongodb://probe:secret@{}/", peer.addr()));
    for last in ["", "v=", "v=c29tZXRoaW5nIGVsc2U="] {
        let peer = credulous(15_000, last);
        let outcome = down(spec(&peer), "protocol", "auth", "");
        assert!(message(&outcome).contains("prove"), "{outcome:#?}");
    }
    let peer = credulous(1000, "");
    let outcome = down(spec(&peer), "protocol", "auth", "");
    assert!(message(&outcome).contains("1000"), "{outcome:#?}");
    let said = peer.heard();
    assert!(
        said.iter().all(|command| name(command) != "saslContinue"),
        "nothing of the password was given away"
    );
}

fn speaks_tls_and_records_the_certificate() {
    let mongodb = need!(Rig::shared().get(SecantusKind::Tls));
    let pki = Rig::shared().pki();
    let outcome = up(over_tls(&mongodb));
    assert_eq!(
        phases(&outcome),
        ["resolve", "connect", "tls", "auth", "request"]
    );
    let tls = outcome.tls.expect("recorded");
    assert!(tls.verified);
    assert_eq!(tls.version.as_deref(), Some("TLSv1.3"));
    assert_eq!(
        tls.earliest_expiry.map(|time| time.as_second()),
        Some(pki.server.not_after)
    );
    for skip in [
        json!({"insecureSkipVerify": true}),
        json!({"properties": {"insecureSkipVerify": true}}),
    ] {
        let outcome = up(with(at(mongodb.url("probe")), skip));
        assert!(!outcome.tls.expect("recorded").verified);
    }
    let intermediate = need!(Rig::shared().get(SecantusKind::Shows(Shown::Intermediate)));
    up(over_tls(&intermediate));
}

fn every_fault_of_a_certificate() {
    refuses_every_fault(SecantusKind::Shows, |mongodb| [over_tls(mongodb)]);
    let mongodb = need!(Rig::shared().get(SecantusKind::Shows(Shown::WrongName)));
    let named = json!({"properties": {"serverName": "elsewhere.test"}});
    up(with(over_tls(&mongodb), named));
}

/// Every option of TLS that the URL has, on servers that are right and wrong.
fn every_mode_of_tls() {
    let pki = Rig::shared().pki();
    let ca_file = format!("tlsCAFile={}", pki.ca.cert_path.display());
    let plain = need_main!();
    let good = need!(Rig::shared().get(SecantusKind::Tls));
    let wrong_name = need!(Rig::shared().get(SecantusKind::Shows(Shown::WrongName)));
    let unknown_ca = need!(Rig::shared().get(SecantusKind::Shows(Shown::UnknownCa)));
    let login = |server: &Secantus, options: &str| {
        at(format!(
            "mongodb://probe:{PASSWORD}@localhost:{}/?{options}",
            server.port()
        ))
    };
    let ca = json!({"caCert": pki.ca.cert_pem});
    let none = json!({});
    let ca_and = |option: &str| format!("{ca_file}&{option}");
    for (server, options, more, expected) in [
        // Off, on, and meant.
        (&plain, String::new(), &none, ""),
        (&plain, "tls=false".to_owned(), &ca, ""),
        (&plain, "ssl=false".to_owned(), &none, ""),
        (&good, "tls=true".to_owned(), &ca, ""),
        (&good, "ssl=true".to_owned(), &ca, ""),
        (&good, String::new(), &ca, ""),
        (&good, ca_file.clone(), &none, ""),
        (&good, ca_and("tls=true"), &none, ""),
        (&good, "tls=true".to_owned(), &none, "tls_unknown_ca"),
        (
            &good,
            "tlsDisableOCSPEndpointCheck=true".to_owned(),
            &ca,
            "",
        ),
        // Any name, of a known authority.
        (&wrong_name, ca_file.clone(), &none, "tls_name_mismatch"),
        (
            &wrong_name,
            ca_and("tlsAllowInvalidHostnames=false"),
            &none,
            "tls_name_mismatch",
        ),
        (
            &wrong_name,
            ca_and("tlsAllowInvalidHostnames=true"),
            &none,
            "",
        ),
        (
            &unknown_ca,
            ca_and("tlsAllowInvalidHostnames=true"),
            &none,
            "tls_unknown_ca",
        ),
        // Any certificate.
        (
            &unknown_ca,
            "tls=true&tlsInsecure=true".to_owned(),
            &none,
            "",
        ),
        (
            &unknown_ca,
            "tls=true&tlsInsecure=false".to_owned(),
            &none,
            "tls_unknown_ca",
        ),
        (
            &unknown_ca,
            "tls=true&tlsAllowInvalidCertificates=true".to_owned(),
            &none,
            "",
        ),
        (
            &unknown_ca,
            ca_and("tlsAllowInvalidCertificates=true"),
            &none,
            "",
        ),
        // But a `caCert` is there to be verified against.
        (
            &unknown_ca,
            "tlsInsecure=true".to_owned(),
            &ca,
            "tls_unknown_ca",
        ),
        (&wrong_name, "tlsInsecure=true".to_owned(), &ca, ""),
    ] {
        let spec = with(login(server, &options), more.clone());
        match expected {
            "" => {
                up(spec);
            }
            reason => {
                down(spec, reason, "tls", "");
            }
        }
    }
}

fn client_certificates_missing_wrong_and_right() {
    let mongodb = need!(Rig::shared().get(SecantusKind::MutualTls));
    client_certificates(&over_tls(&mongodb));
}

fn a_plain_url_on_a_tls_port_and_the_reverse() {
    let mongodb = need!(Rig::shared().get(SecantusKind::Tls));
    let outcome = attempt(&at(format!("mongodb://localhost:{}", mongodb.port())));
    let failure = outcome
        .result
        .as_ref()
        .expect_err("plain text to a TLS port");
    assert!(
        ["protocol", "connect_reset"].contains(&failure.reason.as_str()),
        "{failure:?}"
    );
    assert!(message(&outcome).contains("`tls=true`"), "{failure:?}");
    let tells = Peer::script([
        faults::Step::Receive,
        faults::Step::Send(vec![0x15, 3, 3, 0, 2, 2, 70]),
        faults::Step::Close,
    ])
    .unwrap();
    let outcome = down(
        at(format!("mongodb://{}/", tells.addr())),
        "protocol",
        "request",
        "",
    );
    assert!(message(&outcome).contains("TLS"), "{outcome:#?}");
    let plain = need_main!();
    let url = format!("{}?tls=true", plain.url("probe"));
    let failure = attempt_within(SHORT, &at(url))
        .result
        .expect_err("TLS to a plain port");
    assert_eq!(
        failure.phase.map(|phase| phase.as_str()),
        Some("tls"),
        "{failure:?}"
    );
    assert!(
        ["timeout", "protocol", "connect_reset"].contains(&failure.reason.as_str()),
        "{failure:?}"
    );
}

fn errors_of_the_server_have_their_reasons() {
    let mongodb = need_main!();
    let fail = |mode: &str, command: &str, code: i32| {
        let data = json!({"failCommands": [command], "errorCode": code, "appName": "failing"});
        let more = json!({"mode": mode, "data": data});
        mongodb
            .command("configureFailPoint", "failCommand", more)
            .unwrap();
    };
    let spec = at(format!("{}?appName=failing", mongodb.url("probe")));
    for (command, code, reason, phase) in [
        ("ping", 13, "permission", "request"),
        ("ping", 91, "unavailable", "request"),
        ("ping", 10107, "unavailable", "request"),
        ("ping", 26, "not_found", "request"),
        ("ping", 59, "protocol", "request"),
        ("saslStart", 334, "auth", "auth"),
        ("hello", 11600, "unavailable", "auth"),
    ] {
        fail("alwaysOn", command, code);
        // Every other application is served all the while.
        up(at(mongodb.url("probe")));
        down(spec.clone(), reason, phase, &code.to_string());
        fail("off", command, code);
    }
    up(spec);
}

fn a_member_that_steps_down() {
    need_main!();
    let mongodb = Secantus::alone(Rig::shared(), "stepping-down", false).unwrap();
    let spec = at(mongodb.url("probe"));
    up(spec.clone());
    let forced = json!({"force": true, "secondaryCatchUpPeriodSecs": 0});
    mongodb.command("replSetStepDown", 600, forced).unwrap();
    let outcome = down(spec.clone(), "unavailable", "auth", "");
    assert!(
        message(&outcome).contains("a secondary of `secantus` that knows no primary"),
        "{outcome:#?}"
    );
    for preference in [
        "secondary",
        "secondaryPreferred",
        "primaryPreferred",
        "nearest",
    ] {
        let outcome = up(with(
            spec.clone(),
            json!({"properties": {"readPreference": preference}}),
        ));
        let server = outcome.server.expect("told");
        assert!(server.ends_with("secondary of secantus"), "{server}");
    }
    up(at(format!(
        "{}?directConnection=true",
        mongodb.url("probe")
    )));
}

fn a_stopped_process_is_a_timeout() {
    need_main!();
    let rig = Rig::shared();
    let plain = Secantus::alone(rig, "paused", false).unwrap();
    let tls = Secantus::alone(rig, "paused-tls", true).unwrap();
    plain.process().pause();
    tls.process().pause();
    let spec = at(plain.url("probe"));
    assert_down(&attempt_within(SHORT, &spec), "timeout", "auth", "");
    assert_down(
        &attempt_within(SHORT, &at(plain.bare_url())),
        "timeout",
        "request",
        "",
    );
    assert_down(
        &attempt_within(SHORT, &over_tls(&tls)),
        "timeout",
        "tls",
        "",
    );
    plain.process().resume();
    up(spec.clone());
    drop(plain);
    down(spec, "connect_refused", "connect", "");
}

fn a_server_without_room_hangs_up() {
    // It says no more than that, and neither does mongod.
    let full = Peer::closes().unwrap();
    let outcome = down(
        at(format!("mongodb://probe:secret@{}/", full.addr())),
        "connect_reset",
        "auth",
        "",
    );
    assert!(
        message(&outcome).contains("maxIncomingConnections"),
        "{outcome:#?}"
    );
}

/// Two members of a replica set that know each other.
fn pair() -> (MongoPeer, MongoPeer) {
    let nothing = || MongoPeer::greets(doc! { "ok": 1.0 }).unwrap();
    (nothing(), nothing())
}

fn primary() -> conncheck_rig::mongodb::Document {
    doc! { "isWritablePrimary": true }
}

fn secondary() -> conncheck_rig::mongodb::Document {
    doc! { "isWritablePrimary": false, "secondary": true }
}

fn secondary_of(peer: &MongoPeer) -> conncheck_rig::mongodb::Document {
    doc! { "isWritablePrimary": false, "secondary": true, "primary": peer.addr().to_string() }
}

fn the_primary_is_found_from_any_member() {
    let (one, two) = pair();
    one.greet(member(&[&one, &two], secondary_of(&two)));
    two.greet(member(&[&one, &two], primary()));
    for seeds in [
        one.addr().to_string(),
        two.addr().to_string(),
        format!("{},{}", one.addr(), two.addr()),
    ] {
        let outcome = up(at(format!("mongodb://{seeds}/?replicaSet=rs0")));
        assert_eq!(
            outcome.server.as_deref(),
            Some("MongoDB 7.0 protocol, primary of rs0")
        );
    }
    let pinged = |peer: &MongoPeer| peer.heard().iter().any(|command| name(command) == "ping");
    assert!(pinged(&two) && !pinged(&one), "the primary is asked");
    assert!(one.everybody_left(PATIENCE) && two.everybody_left(PATIENCE));
}

fn members_are_reached_by_their_own_names() {
    let peer = MongoPeer::greets(doc! {
        "ok": 1.0, "maxWireVersion": 21, "setName": "rs0", "isWritablePrimary": true,
        "hosts": ["db-0.cluster.invalid:27017"], "primary": "db-0.cluster.invalid:27017",
    })
    .unwrap();
    let names = DnsServer::start().unwrap();
    let resolver = ResolverChoice::Servers(vec![names.addr()]);
    let url = format!("mongodb://{}/", peer.addr());
    let outcome = attempt_with(TIMEOUT, &resolver, &at(&*url));
    assert_down(&outcome, "dns", "resolve", "NXDOMAIN");
    let said = message(&outcome);
    for part in [
        "whose members are called `db-0.cluster.invalid:27017`",
        "`db-0.cluster.invalid:27017`: `db-0.cluster.invalid` does not exist",
        "rs.conf()",
        "directConnection=true",
    ] {
        assert!(said.contains(part), "{said}");
    }
    up(at(format!("{url}?directConnection=true")));
}

fn no_primary_is_unavailable() {
    let (one, two) = pair();
    one.greet(member(&[&one, &two], secondary()));
    two.greet(member(&[&one, &two], doc! { "isWritablePrimary": false }));
    let spec = at(format!("mongodb://probe:secret@{}/", one.addr()));
    let outcome = attempt_within(PATIENCE, &spec);
    assert_down(&outcome, "unavailable", "auth", "");
    assert!(
        outcome.duration < PATIENCE / 2,
        "told at once: {outcome:#?}"
    );
    let said = message(&outcome);
    for peer in [&one, &two] {
        assert!(said.contains(&format!("`{}`", peer.addr())), "{said}");
    }
    assert!(said.contains("neither primary nor secondary"), "{said}");
    let arbiter = MongoPeer::greets(member(&[], doc! { "arbiterOnly": true })).unwrap();
    let outcome = down(
        at(format!("mongodb://{}/", arbiter.addr())),
        "unavailable",
        "request",
        "",
    );
    assert!(message(&outcome).contains("an arbiter"), "{outcome:#?}");
    let bare = doc! { "ok": 1.0, "maxWireVersion": 21, "isreplicaset": true };
    let bare = MongoPeer::greets(bare).unwrap();
    let outcome = down(
        at(format!("mongodb://{}/?replicaSet=rs0", bare.addr())),
        "unavailable",
        "request",
        "",
    );
    assert!(message(&outcome).contains("rs.initiate()"), "{outcome:#?}");
}

fn a_primary_out_of_reach_is_the_reason() {
    let (one, two) = pair();
    let gone = faults::refused().unwrap();
    let hello = doc! { "secondary": true, "primary": gone.addr().to_string() };
    let mut hosts = member(&[&one, &two], hello);
    hosts
        .get_array_mut("hosts")
        .unwrap()
        .push(gone.addr().to_string().into());
    one.greet(hosts.clone());
    two.greet(hosts);
    let outcome = down(
        at(format!("mongodb://{},{}/", one.addr(), two.addr())),
        "connect_refused",
        "connect",
        "",
    );
    assert!(
        message(&outcome).contains(&gone.addr().to_string()),
        "{outcome:#?}"
    );
    up(at(format!(
        "mongodb://{}/?readPreference=primaryPreferred",
        one.addr()
    )));
}

fn a_hard_error_hides_no_host_and_is_not_hidden() {
    let mongodb = need_main!();
    let gone = faults::refused().unwrap();
    let nonsense = Peer::nonsense().unwrap();
    let login = format!("probe:{PASSWORD}");
    // The one that is well is found behind those that are not.
    up(at(format!(
        "mongodb://{login}@{},{},127.0.0.1:{}/",
        gone.addr(),
        nonsense.addr(),
        mongodb.port()
    )));
    let outcome = down(
        at(format!(
            "mongodb://{login}@{},{}/",
            gone.addr(),
            nonsense.addr()
        )),
        "protocol",
        "auth",
        "",
    );
    let said = message(&outcome);
    for addr in [gone.addr(), nonsense.addr()] {
        assert!(said.contains(&format!("`{addr}`")), "{said}");
    }
    // One that hangs has its share of the time only.
    let silent = Peer::silent().unwrap();
    let url = format!(
        "mongodb://{login}@{},127.0.0.1:{}/",
        silent.addr(),
        mongodb.port()
    );
    let outcome = attempt_within(SHARED, &at(url));
    assert!(outcome.is_up(), "{outcome:#?}");
    // A wrong password is told of the host that said so.
    let url = format!(
        "mongodb://probe:wrong@{},127.0.0.1:{}/",
        gone.addr(),
        mongodb.port()
    );
    let outcome = down(at(url), "auth", "auth", "18");
    let name = format!("`127.0.0.1:{}`", mongodb.port());
    assert!(message(&outcome).contains(&name), "{outcome:#?}");
}

fn the_wrong_kind_of_server_is_an_assertion() {
    let mongodb = need_main!();
    let open = need!(Rig::shared().get(SecantusKind::Open));
    up(at(format!("{}?replicaSet=secantus", mongodb.url("probe"))));
    for (url, phase, says) in [
        (
            format!("{}?replicaSet=other", mongodb.url("probe")),
            "auth",
            "`secantus`",
        ),
        (
            format!(
                "{}?replicaSet=other&directConnection=true",
                mongodb.url("probe")
            ),
            "auth",
            "`secantus`",
        ),
        (
            format!("{}?replicaSet=rs0", open.bare_url()),
            "request",
            "standalone",
        ),
        (
            format!("{}?loadBalanced=true", open.bare_url()),
            "request",
            "load balancer",
        ),
        (
            format!("mongodb://127.0.0.1:{0},localhost:{0}/", open.port()),
            "request",
            "several hosts",
        ),
    ] {
        let outcome = down(at(url), "assertion", phase, "");
        assert!(message(&outcome).contains(says), "{outcome:#?}");
    }
}

fn read_preferences_choose_among_members() {
    let (one, two) = pair();
    let at_second = |seconds: i64| {
        doc! { "lastWriteDate": conncheck_rig::mongodb::DateTime::from_millis(1_000_000 + 1000 * seconds) }
    };
    let mut first = member(&[&one, &two], primary());
    first.extend(doc! { "tags": { "dc": "east" }, "lastWrite": at_second(200) });
    one.greet(first);
    let mut second = member(&[&one, &two], secondary_of(&one));
    second.extend(doc! { "tags": { "dc": "west", "rack": "1" }, "lastWrite": at_second(100) });
    two.greet(second);
    let url = format!("mongodb://{}/?", one.addr());
    for (options, role) in [
        ("", "primary"),
        ("readPreference=primary", "primary"),
        ("readPreference=primaryPreferred", "primary"),
        ("readPreference=secondary", "secondary"),
        ("readPreference=secondaryPreferred", "secondary"),
        ("readPreference=nearest", "primary"),
        (
            "readPreference=nearest&readPreferenceTags=dc:west",
            "secondary",
        ),
        (
            "readPreference=secondary&readPreferenceTags=dc:north&readPreferenceTags=dc:west,rack:1",
            "secondary",
        ),
        (
            "readPreference=secondaryPreferred&readPreferenceTags=dc:east",
            "primary",
        ),
        (
            "readPreference=secondaryPreferred&maxStalenessSeconds=90",
            "primary",
        ),
        (
            "readPreference=secondary&maxStalenessSeconds=120",
            "secondary",
        ),
    ] {
        let outcome = up(at(format!("{url}{options}")));
        let server = outcome.server.expect("told");
        assert!(
            server.ends_with(&format!("{role} of rs0")),
            "{options}: {server}"
        );
    }
    for options in [
        "readPreference=secondary&readPreferenceTags=dc:east",
        "readPreference=secondary&maxStalenessSeconds=90",
    ] {
        let outcome = down(at(format!("{url}{options}")), "unavailable", "request", "");
        assert!(message(&outcome).contains("`secondary`"), "{outcome:#?}");
    }
}

fn routers_and_load_balancers() {
    let router =
        doc! { "ok": 1.0, "maxWireVersion": 25, "msg": "isdbgrid", "isWritablePrimary": true };
    let (one, two) = (
        MongoPeer::greets(router.clone()).unwrap(),
        MongoPeer::greets(router.clone()).unwrap(),
    );
    let outcome = up(at(format!("mongodb://{},{}/", one.addr(), two.addr())));
    assert_eq!(
        outcome.server.as_deref(),
        Some("MongoDB 8.0 protocol, router")
    );
    assert_eq!(two.accepted(), 0, "one is enough");
    down(
        at(format!("mongodb://{}/?replicaSet=rs0", one.addr())),
        "assertion",
        "request",
        "",
    );
    let mut behind = router;
    behind.insert("serviceId", conncheck_rig::mongodb::ObjectId::new());
    let balanced = MongoPeer::greets(behind).unwrap();
    up(at(format!(
        "mongodb://{}/?loadBalanced=true",
        balanced.addr()
    )));
    let hello = &balanced.heard()[0];
    assert!(hello.get_bool("loadBalanced").unwrap());
}

fn a_direct_connection_takes_the_host_as_it_is() {
    for more in [
        secondary(),
        doc! { "arbiterOnly": true },
        doc! { "hidden": true, "secondary": true },
        doc! {},
    ] {
        let peer = MongoPeer::greets(member(&[], more)).unwrap();
        let url = format!(
            "mongodb://{}/?directConnection=true&replicaSet=rs0",
            peer.addr()
        );
        up(at(url));
        assert_eq!(peer.accepted(), 1);
    }
}

fn servers_of_before_know_hello_by_its_old_name() {
    let old = |version: i32| {
        MongoPeer::start(move |command| {
            Some(match name(command) {
                "hello" => doc! { "ok": 0.0, "errmsg": "no such command: 'hello'", "code": 59, "codeName": "CommandNotFound" },
                "isMaster" => doc! { "ok": 1.0, "maxWireVersion": version, "ismaster": true },
                _ => doc! { "ok": 1.0 },
            })
        })
        .unwrap()
    };
    let peer = old(8);
    let outcome = up(at(format!("mongodb://{}/", peer.addr())));
    assert_eq!(outcome.server.as_deref(), Some("MongoDB 4.2 protocol"));
    let older = old(5);
    let outcome = down(
        at(format!("mongodb://{}/", older.addr())),
        "protocol",
        "request",
        "",
    );
    assert!(message(&outcome).contains("too old"), "{outcome:#?}");
    let other = MongoPeer::greets(doc! { "ok": 1.0 }).unwrap();
    down(
        at(format!("mongodb://{}/", other.addr())),
        "protocol",
        "request",
        "",
    );
}

fn limits_of_the_url_are_kept() {
    let is_kept = |option: &str, outcome: &Outcome| {
        let kept = Duration::from_millis(200)..TIMEOUT / 2;
        assert!(kept.contains(&outcome.duration), "{option}: {outcome:#?}");
        // Of those that are for several steps, what the steps before left is named.
        if ["connectTimeoutMS", "socketTimeoutMS"].contains(&option) {
            assert!(message(outcome).contains("within 200ms"), "{outcome:#?}");
        }
    };
    let hole = BlackHole::start().unwrap();
    let silent = Peer::silent().unwrap();
    for (addr, option, phase) in [
        (hole.addr(), "connectTimeoutMS", "connect"),
        (hole.addr(), "serverSelectionTimeoutMS", "connect"),
        (hole.addr(), "timeoutMS", "connect"),
        (silent.addr(), "connectTimeoutMS", "request"),
        (silent.addr(), "serverSelectionTimeoutMS", "request"),
    ] {
        let outcome = down(
            at(format!("mongodb://{addr}/?{option}=200")),
            "timeout",
            phase,
            "",
        );
        is_kept(option, &outcome);
    }
    // One that greets, and then hangs.
    let slow = MongoPeer::start(|command| match name(command) {
        "hello" => Some(doc! { "ok": 1.0, "maxWireVersion": 21 }),
        _ => {
            std::thread::sleep(PATIENCE);
            None
        }
    })
    .unwrap();
    for option in ["socketTimeoutMS", "timeoutMS"] {
        let url = format!("mongodb://{}/?{option}=200", slow.addr());
        is_kept(option, &down(at(url), "timeout", "request", ""));
    }
}

const NAME: &str = "cluster.conncheck.test";
const SERVICE: &str = "_mongodb._tcp.cluster.conncheck.test";

/// A name server that leads `NAME` to these ports of this machine.
fn names(ports: &[u16]) -> DnsServer {
    let services = ports
        .iter()
        .map(|port| ("db-0.conncheck.test".to_owned(), *port));
    DnsServer::start()
        .unwrap()
        .with(SERVICE, Answer::Services(services.collect()))
        .with(NAME, Answer::NoData)
        .with("db-0.conncheck.test", Answer::address([127, 0, 0, 1]))
}

fn by_name(names: &DnsServer, spec: &Value) -> Outcome {
    attempt_with(TIMEOUT, &ResolverChoice::Servers(vec![names.addr()]), spec)
}

fn the_name_servers_know_the_hosts() {
    let mongodb = need!(Rig::shared().get(SecantusKind::Tls));
    let ca = json!({"caCert": Rig::shared().pki().ca.cert_pem});
    let servers = names(&[mongodb.port()]);
    // TLS is the default here, and the certificate is not for `db-0.conncheck.test`.
    let login = json!({"username": "probe", "password": PASSWORD});
    let spec = with(at(format!("mongodb+srv://{NAME}/")), login);
    let outcome = by_name(&servers, &with(spec.clone(), ca.clone()));
    assert_down(&outcome, "tls_name_mismatch", "tls", "");
    let named = json!({"properties": {"serverName": "localhost"}});
    let spec = with(with(spec, ca), named);
    let outcome = by_name(&servers, &spec);
    assert!(outcome.is_up(), "{outcome:#?}");
    assert_eq!(
        phases(&outcome),
        ["resolve", "connect", "tls", "auth", "request"]
    );
    let asked: Vec<_> = servers
        .questions()
        .into_iter()
        .map(|question| (question.record_type, question.name))
        .collect();
    for (record_type, name) in [("SRV", SERVICE), ("TXT", NAME)] {
        assert!(
            asked.contains(&(record_type.to_owned(), name.to_owned())),
            "{asked:?}"
        );
    }
    // What the TXT record says counts, unless the URL says otherwise.
    let text = |text: &str| {
        let (head, tail) = text.split_at(5);
        Answer::Texts(vec![vec![head.to_owned(), tail.to_owned()]])
    };
    servers.set(NAME, text("replicaSet=other&authSource=admin"));
    assert_down(&by_name(&servers, &spec), "assertion", "auth", "");
    let url = json!({"url": format!("mongodb+srv://{NAME}/?replicaSet=secantus")});
    let outcome = by_name(&servers, &with(spec.clone(), url));
    assert!(outcome.is_up(), "{outcome:#?}");
    servers.set(NAME, text("authSource=shop"));
    assert_down(&by_name(&servers, &spec), "auth", "auth", "18");
    let url = json!({"url": format!("mongodb+srv://{NAME}/?authSource=admin")});
    let outcome = by_name(&servers, &with(spec, url));
    assert!(outcome.is_up(), "{outcome:#?}");
    // Without TLS, with a service of another name, and with one host of two.
    let gone = faults::refused().unwrap();
    let plain = need_main!();
    let servers = names(&[]);
    servers.set(
        "_shop._tcp.cluster.conncheck.test",
        Answer::Services(vec![
            ("db-0.conncheck.test".to_owned(), plain.port()),
            ("db-0.conncheck.test".to_owned(), gone.port()),
        ]),
    );
    let url = format!(
        "mongodb+srv://probe:{PASSWORD}@{NAME}/?tls=false&srvServiceName=shop&srvMaxHosts=1"
    );
    let outcome = by_name(&servers, &at(url));
    assert!(outcome.is_up(), "{outcome:#?}");
}

fn records_that_no_driver_would_follow() {
    let servers = names(&[1]);
    let spec = at(format!("mongodb+srv://{NAME}/?tls=false"));
    let text = |text: &str| Answer::Texts(vec![vec![text.to_owned()]]);
    for (texts, says) in [
        (text("tls=false"), "other than"),
        (text("authSource"), "TXT record"),
        (
            Answer::Texts(vec![
                vec!["authSource=a".to_owned()],
                vec!["authSource=b".to_owned()],
            ]),
            "several TXT records",
        ),
        (text("loadBalanced=true&replicaSet=rs0"), "`loadBalanced`"),
    ] {
        servers.set(NAME, texts);
        let outcome = by_name(&servers, &spec);
        assert_down(&outcome, "dns", "resolve", "");
        assert!(message(&outcome).contains(says), "{outcome:#?}");
    }
    servers.set(NAME, Answer::ServerFailure);
    assert_down(&by_name(&servers, &spec), "dns", "resolve", "SERVFAIL");
    for (answer, code, says) in [
        (Answer::NoSuchName, "NXDOMAIN", SERVICE),
        (Answer::NoData, "NODATA", "SRV record"),
        (Answer::Refused, "REFUSED", SERVICE),
        (
            Answer::Services(vec![("db-0.elsewhere.test".to_owned(), 1)]),
            "",
            "`db-0.elsewhere.test`",
        ),
    ] {
        servers.set(SERVICE, answer);
        let outcome = by_name(&servers, &spec);
        assert_down(&outcome, "dns", "resolve", code);
        assert!(message(&outcome).contains(says), "{outcome:#?}");
    }
    servers.set(SERVICE, Answer::Silence);
    let resolver = ResolverChoice::Servers(vec![servers.addr()]);
    let outcome = attempt_with(SHORT, &resolver, &spec);
    assert_down(&outcome, "timeout", "resolve", "");
}

fn a_name_needs_a_resolver_that_knows_records() {
    let spec = at(format!("mongodb+srv://{NAME}/"));
    let outcome = attempt_with(TIMEOUT, &ResolverChoice::System, &spec);
    assert_down(&outcome, "dns", "resolve", "");
    assert!(
        message(&outcome).contains("--resolver auto"),
        "{outcome:#?}"
    );
}

fn leaves_nothing_behind_and_a_clean_log() {
    need_main!();
    let rig = Rig::shared();
    let plain = Secantus::alone(rig, "left", false).unwrap();
    let tls = Secantus::alone(rig, "left-tls", true).unwrap();
    for _ in 0..10 {
        up(at(plain.url("probe")));
        up(over_tls(&tls));
        let wrong = json!({"password": "wrong"});
        down(
            with(at(plain.url("probe")), wrong.clone()),
            "auth",
            "auth",
            "18",
        );
        down(with(over_tls(&tls), wrong), "auth", "auth", "18");
    }
    for server in [&plain, &tls] {
        let count = |log: &str, what: &str| log.lines().filter(|line| line.contains(what)).count();
        let patience = Instant::now() + PATIENCE;
        loop {
            let log = server.log();
            let (came, left) = (count(&log, " connected from"), count(&log, " disconnected"));
            // Each attempt meets the member under its own name too.
            if came >= 40 && came == left {
                break;
            }
            assert!(Instant::now() < patience, "{came} came, {left} left: {log}");
            std::thread::sleep(Duration::from_millis(20));
        }
        // Whoever started it looked whether its port is open, and hung up on it.
        let log: Vec<_> = server.log().lines().map(str::to_owned).collect();
        let knock = log.iter().position(|line| line.contains("UNEXPECTED_EOF"));
        let log: String = log
            .iter()
            .enumerate()
            .filter(|(index, _)| Some(*index) != knock)
            .map(|(_, line)| format!("{line}\n"))
            .collect();
        for complaint in [
            "WARNING",
            "ERROR",
            "reset",
            "connection closed:",
            "Traceback",
        ] {
            assert!(!log.contains(complaint), "{complaint}: {log}");
        }
    }
}
