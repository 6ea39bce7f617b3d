//! `smtp` against real Postfix and real Exim.
//!
//! Why a large provider refuses an access token, neither of them says; a peer of ours does, in the real words.

use std::time::Duration;

use conncheck_probes::Outcome;
use conncheck_rig::{Certified, Exim, PASSWORD, PATIENCE, Postfix, Rig, SmtpPeer, need, plugins};
use serde_json::{Value, json};

use crate::check::{
    SHORT, TIMEOUT, assert_down, attempt, attempt_with_secret, attempt_within, down, hint, message,
    phases, refuses, seconds_for, soon, up, with,
};

crate::trials![
    logs_in_over_starttls_and_records_the_certificate,
    logs_in_over_tls_from_the_start,
    logs_in_in_every_way,
    credentials_of_the_spec_win_over_the_url_and_a_single_key_is_the_password,
    each_encryption_at_each_kind_of_server,
    verifies_even_where_nothing_insists_on_tls,
    wrong_credentials,
    logins_that_are_not_offered,
    a_login_that_is_put_off_is_unavailable,
    a_refused_token_is_explained,
    greetings_that_refuse_or_put_off,
    greetings_of_many_lines_and_servers_without_ehlo,
    introduces_itself_by_its_address_or_as_the_owner_says,
    every_fault_of_a_certificate,
    an_intermediate_certificate_another_name_and_no_verification,
    client_certificates_missing_wrong_and_right,
    starttls_that_is_offered_and_does_not_work,
    a_stopped_process_is_a_timeout,
    a_plain_scheme_on_a_tls_port_and_the_reverse,
    says_goodbye_and_never_sends_a_mail,
    leaves_no_connection_behind,
    agrees_with_check_smtp,
];

/// A login at this URL, with our authority.
fn login(url: &str) -> Value {
    json!({
        "type": "smtp", "url": url, "username": "probe", "password": PASSWORD,
        "caCert": Rig::shared().pki().ca.cert_pem,
    })
}

/// STARTTLS on this port.
fn smtp(port: u16) -> Value {
    login(&format!("smtp://localhost:{port}"))
}

/// TLS from the start on this port.
fn smtps(port: u16) -> Value {
    login(&format!("smtps://localhost:{port}"))
}

/// In plain text on this port, the login too.
fn plain(port: u16) -> Value {
    json!({
        "type": "smtp", "url": format!("smtp://localhost:{port}"), "username": "probe",
        "password": PASSWORD, "properties": {"encryption": "none"},
    })
}

fn nobody(url: &str) -> Value {
    json!({"type": "smtp", "url": url})
}

fn logs_in_over_starttls_and_records_the_certificate() {
    let postfix = need!(Rig::shared().postfix());
    let exim = need!(Rig::shared().exim());
    let pki = Rig::shared().pki();
    for (port, software) in [(postfix.smtp, "Postfix"), (exim.smtp, "Exim 4.")] {
        let outcome = up(smtp(port));
        assert_eq!(
            phases(&outcome),
            ["resolve", "connect", "tls", "auth", "request"]
        );
        let server = outcome.server.as_deref().unwrap_or_default();
        assert!(server.starts_with(software), "{server}");
        let tls = outcome.tls.expect("recorded");
        assert!(tls.verified);
        assert_eq!(tls.version.as_deref(), Some("TLSv1.3"));
        assert_eq!(
            tls.earliest_expiry.map(|time| time.as_second()),
            Some(pki.server.not_after)
        );
    }
}

fn logs_in_over_tls_from_the_start() {
    let postfix = need!(Rig::shared().postfix());
    let exim = need!(Rig::shared().exim());
    for port in [postfix.smtps, exim.smtps] {
        let outcome = up(smtps(port));
        assert_eq!(
            phases(&outcome),
            ["resolve", "connect", "tls", "auth", "request"]
        );
        assert!(outcome.tls.expect("recorded").verified);
        up(with(
            smtp(port),
            json!({"properties": {"encryption": "implicitTLS"}}),
        ));
    }
}

fn logs_in_in_every_way() {
    let postfix = need!(Rig::shared().postfix());
    let exim = need!(Rig::shared().exim());
    for port in [postfix.smtp, exim.smtp] {
        for auth in ["auto", "plain", "login"] {
            up(with(smtp(port), json!({"properties": {"auth": auth}})));
        }
        // Then it does not matter that there is a password, nor that it is wrong.
        let none = json!({"password": "wrong", "properties": {"auth": "none"}});
        let outcome = up(with(smtp(port), none));
        assert_eq!(phases(&outcome), ["resolve", "connect", "tls", "request"]);
    }
    let token = json!({"password": Exim::TOKEN, "properties": {"auth": "xoauth2"}});
    up(with(smtp(exim.smtp), token.clone()));
    up(with(plain(exim.plain), token));
    for port in [postfix.plain, exim.plain] {
        for auth in ["auto", "plain", "login"] {
            let outcome = up(with(plain(port), json!({"properties": {"auth": auth}})));
            assert_eq!(phases(&outcome), ["resolve", "connect", "auth", "request"]);
        }
    }
}

fn credentials_of_the_spec_win_over_the_url_and_a_single_key_is_the_password() {
    let postfix = need!(Rig::shared().postfix());
    let at = format!("localhost:{}", postfix.plain);
    let spec = json!({"type": "email", "url": format!("smtp://probe:{PASSWORD}@{at}?encryption=None&from=a@b")});
    up(spec);
    let wrong = format!("smtp://nobody:nothing@{at}");
    up(with(plain(postfix.plain), json!({"url": wrong})));
    let spec = json!({
        "type": "smtp", "url": at, "username": "probe", "properties": {"encryption": "none"},
        "secretRef": {"name": "login", "key": "smtp-password"},
    });
    let outcome = attempt_with_secret(&[("smtp-password", PASSWORD)], &spec);
    assert!(outcome.is_up(), "{outcome:#?}");
    let exim = need!(Rig::shared().exim());
    let spec = json!({
        "type": "smtp", "url": format!("localhost:{}", exim.plain), "username": "probe",
        "properties": {"encryption": "none", "auth": "xoauth2"}, "secretRef": {"name": "login"},
    });
    let outcome = attempt_with_secret(&[("token", Exim::TOKEN)], &spec);
    assert!(outcome.is_up(), "{outcome:#?}");
}

/// What comes of it: up with TLS, up without, or the reason and phase.
fn came(outcome: &Outcome) -> String {
    match (&outcome.result, &outcome.tls) {
        (Ok(()), Some(_)) => "up, TLS".to_owned(),
        (Ok(()), None) => "up, plain".to_owned(),
        (Err(failure), _) => {
            let phase = failure.phase.map_or("", |phase| phase.as_str());
            format!("{} in {phase}", failure.reason)
        }
    }
}

fn each_encryption_at_each_kind_of_server() {
    let postfix = need!(Rig::shared().postfix());
    let exim = need!(Rig::shared().exim());
    let starttls = [postfix.smtp, exim.smtp];
    let without = [postfix.plain, exim.plain];
    let from_the_start = [postfix.smtps, exim.smtps];
    let only_after = [postfix.must_encrypt, postfix.must_encrypt];
    for (ports, encryption, with_nobody, with_login) in [
        (starttls, "auto", "up, TLS", "up, TLS"),
        (starttls, "none", "up, plain", "auth in auth"),
        (starttls, "explicitTLS", "up, TLS", "up, TLS"),
        (
            starttls,
            "implicitTLS",
            "protocol in tls",
            "protocol in tls",
        ),
        (without, "auto", "up, plain", "tls_other in tls"),
        (without, "none", "up, plain", "up, plain"),
        (
            without,
            "explicitTLS",
            "tls_other in tls",
            "tls_other in tls",
        ),
        (without, "implicitTLS", "protocol in tls", "protocol in tls"),
        (
            from_the_start,
            "auto",
            "timeout in request",
            "timeout in request",
        ),
        (
            from_the_start,
            "none",
            "timeout in request",
            "timeout in request",
        ),
        (
            from_the_start,
            "explicitTLS",
            "timeout in request",
            "timeout in request",
        ),
        (from_the_start, "implicitTLS", "up, TLS", "up, TLS"),
        (only_after, "auto", "up, TLS", "up, TLS"),
        (only_after, "none", "up, plain", "auth in auth"),
        (only_after, "explicitTLS", "up, TLS", "up, TLS"),
        (
            only_after,
            "implicitTLS",
            "protocol in tls",
            "protocol in tls",
        ),
    ] {
        for port in ports {
            let spec = with(
                nobody(&format!("localhost:{port}")),
                json!({"insecureSkipVerify": true, "properties": {"encryption": encryption}}),
            );
            let credentials = json!({"username": "probe", "password": PASSWORD});
            for (spec, expected) in [
                (spec.clone(), with_nobody),
                (with(spec, credentials), with_login),
            ] {
                let within = match expected.starts_with("timeout") {
                    true => SHORT,
                    false => TIMEOUT,
                };
                let outcome = attempt_within(within, &spec);
                assert_eq!(came(&outcome), expected, "{spec}: {outcome:#?}");
            }
        }
    }
    // An authority insists on TLS as a login does.
    let ca = json!({"caCert": Rig::shared().pki().ca.cert_pem});
    let outcome = attempt(&with(
        nobody(&format!("smtp://localhost:{}", postfix.plain)),
        ca,
    ));
    assert_down(&outcome, "tls_other", "tls", "");
    assert!(
        message(&outcome).contains("a `caCert` is given"),
        "{outcome:#?}"
    );
}

fn verifies_even_where_nothing_insists_on_tls() {
    let postfix = need!(Rig::shared().postfix());
    let spec = nobody(&format!("smtp://localhost:{}", postfix.smtp));
    let outcome = down(spec.clone(), "tls_unknown_ca", "tls", "");
    assert!(!outcome.tls.expect("recorded").verified);
    up(with(
        spec,
        json!({"properties": {"insecureSkipVerify": true}}),
    ));
}

fn wrong_credentials() {
    let postfix = need!(Rig::shared().postfix());
    let exim = need!(Rig::shared().exim());
    for port in [postfix.smtp, exim.smtp] {
        for auth in ["plain", "login"] {
            for wrong in [json!({"password": "wrong"}), json!({"username": "nobody"})] {
                let spec = with(smtp(port), json!({"properties": {"auth": auth}}));
                let outcome = down(with(spec, wrong), "auth", "auth", "535");
                assert!(hint(&outcome).contains("wrong username or password"));
            }
        }
    }
    let token = json!({"password": "another", "properties": {"auth": "xoauth2"}});
    down(with(smtp(exim.smtp), token), "auth", "auth", "535");
}

fn logins_that_are_not_offered() {
    let postfix = need!(Rig::shared().postfix());
    let exim = need!(Rig::shared().exim());
    for port in [postfix.smtp, exim.smtp] {
        let outcome = down(plain(port), "auth", "auth", "");
        assert!(hint(&outcome).contains("after TLS"), "{outcome:#?}");
    }
    let outcome = down(plain(exim.cram), "auth", "auth", "");
    assert!(
        message(&outcome).contains("the logins `CRAM-MD5`, and not `PLAIN`, `LOGIN`"),
        "{outcome:#?}"
    );
    let xoauth2 = json!({"properties": {"auth": "xoauth2"}});
    let outcome = down(with(smtp(postfix.smtp), xoauth2), "auth", "auth", "");
    assert!(
        message(&outcome).contains("`PLAIN`, `LOGIN`"),
        "{outcome:#?}"
    );
}

fn a_login_that_is_put_off_is_unavailable() {
    let exim = need!(Rig::shared().exim());
    let later = json!({"username": "later"});
    down(with(smtp(exim.smtp), later), "unavailable", "auth", "435");
}

fn a_refused_token_is_explained() {
    let peer = SmtpPeer::refuses_tokens().unwrap();
    let spec = json!({
        "type": "smtp", "url": peer.addr().to_string(), "username": "probe", "password": "a-token",
        "properties": {"encryption": "none", "auth": "xoauth2"},
    });
    let outcome = down(spec, "auth", "auth", "535");
    assert!(
        message(&outcome).contains(r#"it says why: {"status":"400","schemes":"Bearer""#),
        "{outcome:#?}"
    );
    let heard = peer.heard();
    assert_eq!(heard[2..], ["", "QUIT"], "the empty line that it waits for");
    assert!(peer.everybody_left(PATIENCE));
}

fn greetings_that_refuse_or_put_off() {
    let postfix = need!(Rig::shared().postfix());
    let exim = need!(Rig::shared().exim());
    for (port, reason, code) in [
        (postfix.full, "unavailable", "421"),
        (postfix.defers, "unavailable", "450"),
        (postfix.refuses, "permission", "554"),
        (exim.defers, "unavailable", "451"),
        (exim.refuses, "permission", "550"),
    ] {
        let outcome = down(smtp(port), reason, "request", code);
        assert!(message(&outcome).contains("expected the greeting `220`, got"));
    }
    let outcome = attempt(&smtp(postfix.full));
    assert!(
        hint(&outcome).contains("limit of connections"),
        "{outcome:#?}"
    );
    assert!(message(&outcome).contains("4.7.0"), "{outcome:#?}");
}

fn greetings_of_many_lines_and_servers_without_ehlo() {
    let exim = need!(Rig::shared().exim());
    let outcome = up(smtp(exim.talkative));
    assert!(outcome.server.unwrap_or_default().starts_with("Exim 4."));
    up(nobody(&format!("smtp://localhost:{}", exim.helo_only)));
    let outcome = down(smtp(exim.helo_only), "tls_other", "tls", "");
    assert!(
        message(&outcome).contains("knows only `HELO` and so no STARTTLS (it said 502"),
        "{outcome:#?}"
    );
    let outcome = down(plain(exim.helo_only), "auth", "auth", "");
    assert!(message(&outcome).contains("so no login"), "{outcome:#?}");
}

fn introduces_itself_by_its_address_or_as_the_owner_says() {
    let postfix = need!(Rig::shared().postfix());
    up(smtp(postfix.strict));
    let named = |name: &str| {
        with(
            smtp(postfix.strict),
            json!({"properties": {"heloName": name}}),
        )
    };
    up(named("probe.example.com"));
    let outcome = down(named("localhost"), "permission", "request", "504");
    assert!(hint(&outcome).contains("`heloName`"), "{outcome:#?}");
}

fn every_fault_of_a_certificate() {
    let postfix = need!(Rig::shared().postfix());
    let exim = need!(Rig::shared().exim());
    let pki = Rig::shared().pki();
    for (starttls, from_the_start, certificate, reason) in [
        (postfix.expired, exim.expired, &pki.expired, "tls_expired"),
        (
            postfix.not_yet_valid,
            exim.not_yet_valid,
            &pki.not_yet_valid,
            "tls_not_yet_valid",
        ),
        (
            postfix.wrong_name,
            exim.wrong_name,
            &pki.wrong_name,
            "tls_name_mismatch",
        ),
        (
            postfix.unknown_ca,
            exim.unknown_ca,
            &pki.unknown_ca,
            "tls_unknown_ca",
        ),
        (
            postfix.self_signed,
            exim.self_signed,
            &pki.self_signed,
            "tls_unknown_ca",
        ),
    ] {
        refuses(certificate, smtp(starttls), reason);
        refuses(certificate, smtps(from_the_start), reason);
    }
}

fn an_intermediate_certificate_another_name_and_no_verification() {
    let postfix = need!(Rig::shared().postfix());
    let exim = need!(Rig::shared().exim());
    for spec in [smtp(postfix.intermediate), smtps(exim.intermediate)] {
        assert!(up(spec).tls.expect("recorded").verified);
    }
    for spec in [smtp(postfix.wrong_name), smtps(exim.wrong_name)] {
        let named = json!({"properties": {"serverName": "elsewhere.test"}});
        assert!(up(with(spec, named)).tls.expect("recorded").verified);
    }
    for spec in [smtp(postfix.self_signed), smtps(exim.expired)] {
        let outcome = up(with(spec, json!({"insecureSkipVerify": true})));
        assert!(!outcome.tls.expect("recorded").verified);
    }
}

fn client_certificates_missing_wrong_and_right() {
    let postfix = need!(Rig::shared().postfix());
    let exim = need!(Rig::shared().exim());
    let pki = Rig::shared().pki();
    for (spec, missing, wrong) in [
        // It shakes hands first, and then says what it thinks of it.
        (smtp(postfix.mutual_tls), "421", "421"),
        (
            smtps(exim.mutual_tls),
            "certificate_required",
            "bad_certificate",
        ),
    ] {
        let with_client = |client: &Certified| {
            with(
                spec.clone(),
                json!({"clientCert": client.cert_pem, "clientKey": client.key_pem}),
            )
        };
        for (spec, code) in [
            (spec.clone(), missing),
            (with_client(&pki.client_unknown_ca), wrong),
            (with_client(&pki.client_expired), wrong),
        ] {
            let outcome = down(spec, "tls_other", "tls", code);
            assert!(hint(&outcome).contains("`clientCert`"), "{outcome:#?}");
        }
        let outcome = up(with_client(&pki.client));
        assert_eq!(
            outcome.credential_expiry.map(|time| time.as_second()),
            Some(pki.client.not_after)
        );
    }
}

fn starttls_that_is_offered_and_does_not_work() {
    let postfix = need!(Rig::shared().postfix());
    let outcome = down(smtp(postfix.broken_tls), "unavailable", "tls", "454");
    assert!(
        hint(&outcome).contains("certificate and key"),
        "{outcome:#?}"
    );
    // It is broken also for those who would do without.
    let spec = nobody(&format!("smtp://localhost:{}", postfix.broken_tls));
    down(spec, "unavailable", "tls", "454");
}

fn a_stopped_process_is_a_timeout() {
    let rig = Rig::shared();
    let pause_and_stop = |specs: [Value; 2], server: Box<dyn conncheck_rig::Server>| {
        let [starttls, from_the_start] = specs;
        for process in server.processes() {
            process.pause();
        }
        assert_down(&attempt_within(SHORT, &starttls), "timeout", "request", "");
        assert_down(
            &attempt_within(SHORT, &from_the_start),
            "timeout",
            "tls",
            "",
        );
        for process in server.processes() {
            process.resume();
        }
        up(starttls.clone());
        drop(server);
        down(starttls, "connect_refused", "connect", "");
    };
    need!(rig.postfix());
    let postfix = Postfix::start(rig.pki(), rig.dir(), "paused").unwrap();
    pause_and_stop(
        [smtp(postfix.smtp), smtps(postfix.smtps)],
        Box::new(postfix),
    );
    need!(rig.exim());
    let exim = Exim::start(rig.pki(), rig.dir(), "paused").unwrap();
    pause_and_stop([smtp(exim.smtp), smtps(exim.smtps)], Box::new(exim));
}

fn a_plain_scheme_on_a_tls_port_and_the_reverse() {
    let postfix = need!(Rig::shared().postfix());
    let exim = need!(Rig::shared().exim());
    for port in [postfix.smtps, exim.smtps] {
        let outcome = attempt_within(SHORT, &smtp(port));
        assert_down(&outcome, "timeout", "request", "");
        assert!(message(&outcome).contains("`smtps://`"), "{outcome:#?}");
    }
    for port in [postfix.smtp, exim.smtp] {
        let outcome = down(smtps(port), "protocol", "tls", "");
        assert!(hint(&outcome).contains("plain"), "{outcome:#?}");
    }
}

/// Both logs tell the commands of each connection.
fn says_goodbye_and_never_sends_a_mail() {
    let rig = Rig::shared();
    need!(rig.postfix());
    let postfix = Postfix::start(rig.pki(), rig.dir(), "goodbye").unwrap();
    up(smtp(postfix.smtp));
    up(smtps(postfix.smtps));
    up(plain(postfix.plain));
    let wrong = json!({"password": "wrong"});
    down(
        with(smtp(postfix.smtp), wrong.clone()),
        "auth",
        "auth",
        "535",
    );
    down(smtp(postfix.plain), "tls_other", "tls", "");
    down(plain(postfix.smtp), "auth", "auth", "");
    down(smtp(postfix.refuses), "permission", "request", "554");
    down(smtp(postfix.broken_tls), "unavailable", "tls", "454");
    // Its own start asked twice.
    let goodbyes = postfix.wait_for_goodbyes(9);
    assert!(goodbyes.len() >= 9, "{}", postfix.log());
    for goodbye in &goodbyes {
        assert!(goodbye.contains("quit=1"), "{goodbye}");
        assert!(!goodbye.contains("mail="), "{goodbye}");
    }
    let all = "ehlo=2 starttls=1 auth=1 noop=1 quit=1 commands=6";
    assert!(goodbyes.iter().any(|line| line == all), "{goodbyes:?}");
    let log = postfix.log();
    assert!(!log.contains("lost connection"), "{log}");

    need!(rig.exim());
    let exim = Exim::start(rig.pki(), rig.dir(), "goodbye").unwrap();
    up(smtp(exim.smtp));
    up(smtps(exim.smtps));
    up(nobody(&format!("smtp://localhost:{}", exim.helo_only)));
    let outcome = attempt(&with(smtp(exim.smtp), wrong));
    assert_down(&outcome, "auth", "auth", "535");
    let token = json!({"password": "another", "properties": {"auth": "xoauth2"}});
    down(with(smtp(exim.smtp), token), "auth", "auth", "535");
    down(plain(exim.smtp), "auth", "auth", "");
    let mut goodbyes = exim.wait_for_goodbyes(7);
    goodbyes.sort();
    assert_eq!(
        goodbyes,
        [
            "EHLO,AUTH,NOOP,QUIT",
            "EHLO,HELO,NOOP,QUIT",
            "EHLO,QUIT",
            "EHLO,STARTTLS,EHLO,AUTH,NOOP,QUIT",
            "EHLO,STARTTLS,EHLO,AUTH,QUIT",
            "EHLO,STARTTLS,EHLO,AUTH,QUIT",
            "QUIT",
        ],
        "the last is its own start"
    );
    let log = exim.log();
    for complaint in [" lost", "unexpected", "TLS error", "synchronization"] {
        let is_of_a_connection = |line: &&str| line.contains("connection");
        let mut complaints = log.lines().filter(is_of_a_connection);
        assert!(!complaints.any(|line| line.contains(complaint)), "{log}");
    }
}

fn leaves_no_connection_behind() {
    let rig = Rig::shared();
    need!(rig.exim());
    let exim = Exim::start(rig.pki(), rig.dir(), "alone").unwrap();
    for _ in 0..20 {
        up(smtp(exim.smtp));
    }
    // It has a process for each connection, and its own start was one.
    assert_eq!(exim.wait_for_goodbyes(21).len(), 21);
    let pid = exim.process().pid();
    let left = || {
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        children.unwrap().split_whitespace().count()
    };
    // One ends a moment after it has logged its end.
    assert!(soon(|| left() == 0), "{} are left", left());
}

/// Our verdict on `spec`, and that of `check_smtp` with these arguments: both up, or both down.
#[track_caller]
fn agrees(state: &str, is_up: bool, spec: &Value, port: u16, args: &[&str]) {
    let seconds = seconds_for(state);
    let ours = attempt_within(Duration::from_secs(seconds), spec);
    assert_eq!(ours.is_up(), is_up, "{state}: {ours:#?}");
    let (port, seconds) = (port.to_string(), seconds.to_string());
    let common = [
        "-H",
        "127.0.0.1",
        "-p",
        &port,
        "-F",
        "probe.example.com",
        "-t",
        &seconds,
    ];
    let theirs = need!(plugins::run("check_smtp", &[&common, args].concat()));
    assert_eq!(theirs.is_ok(), is_up, "{state}: {theirs:?}");
}

fn agrees_with_check_smtp() {
    let rig = Rig::shared();
    need!(rig.postfix());
    need!(rig.exim());
    let postfix = Postfix::start(rig.pki(), rig.dir(), "judged").unwrap();
    let exim = Exim::start(rig.pki(), rig.dir(), "judged").unwrap();
    let expired = [postfix.expired, need!(rig.postfix()).expired];
    let login = |password: &'static str| ["-S", "-A", "LOGIN", "-U", "probe", "-P", password];
    let wrong = json!({"password": "wrong"});
    for (name, port, server) in [
        ("Postfix", postfix.smtp, postfix.process()),
        ("Exim", exim.smtp, exim.process()),
    ] {
        let spec = smtp(port);
        let state = |state: &str| format!("{name} {state}");
        let url = format!("smtp://localhost:{port}?encryption=none");
        agrees(&state("up, plain"), true, &nobody(&url), port, &[]);
        agrees(&state("up"), true, &spec, port, &login(PASSWORD));
        let wrong = with(spec.clone(), wrong.clone());
        agrees(
            &state("wrong password"),
            false,
            &wrong,
            port,
            &login("wrong"),
        );
        server.pause();
        agrees(&state("SIGSTOPped"), false, &spec, port, &login(PASSWORD));
        server.resume();
        agrees(&state("up again"), true, &spec, port, &login(PASSWORD));
    }
    // What it asks of a certificate is that it has not ended.
    let ends = ["-S", "-D", "1"];
    agrees(
        "good certificate",
        true,
        &smtp(postfix.smtp),
        postfix.smtp,
        &ends,
    );
    for port in expired {
        agrees("expired certificate", false, &smtp(port), port, &ends);
    }
    // It knows neither names nor authorities: up is what it says there, and so do we where nothing is verified.
    for port in [postfix.wrong_name, postfix.unknown_ca, postfix.self_signed] {
        let unverified = with(smtp(port), json!({"insecureSkipVerify": true}));
        agrees(
            "a certificate for or by others",
            true,
            &unverified,
            port,
            &ends,
        );
        assert!(!attempt(&smtp(port)).is_up());
    }
    let refuses = (postfix.refuses, smtp(postfix.refuses));
    agrees("greets with 554", false, &refuses.1, refuses.0, &[]);
    let full = (postfix.full, smtp(postfix.full));
    agrees("greets with 421", false, &full.1, full.0, &[]);
    let stopped = [postfix.smtp, exim.smtp];
    drop((postfix, exim));
    for port in stopped {
        agrees("stopped", false, &smtp(port), port, &login(PASSWORD));
    }
}
