//! `mssql` against a peer of ours that speaks SQL Server's bytes, and that FreeTDS takes for one.

use std::net::{Ipv4Addr, SocketAddr};

use conncheck_rig::mssql::{Encryption, Login};
use conncheck_rig::{Mssql, MssqlKind, PASSWORD, PATIENCE, Rig, Shown, faults, need};
use serde_json::{Value, json};

use crate::check::{
    ENDLESS_QUERY, assert_down, attempt, attempt_with_secret, attempts_within, check_long_answers,
    down, phases, refuses_every_fault, soon, up, with,
};

crate::trials![
    logs_in_and_asks,
    every_form_of_the_address,
    credentials_of_the_spec_win_over_the_url,
    the_secret_s_single_key_is_the_password,
    says_what_it_was_told_to_say,
    every_refusal_of_a_login,
    an_instance_that_is_another,
    every_cell_of_the_grid_of_encryption,
    only_the_login_is_encrypted,
    a_server_that_knows_strict_only_or_not_at_all,
    every_fault_of_a_certificate,
    names_and_trust,
    client_certificates_missing_wrong_and_right,
    follows_one_step_to_another_server,
    not_ready_is_unavailable,
    failing_queries,
    rows_of_every_layout_are_passed_over,
    a_query_that_answers_too_much,
    a_query_that_does_not_end_is_taken_back,
    timeouts_of_the_url,
    a_stopped_server_refuses,
    a_plain_port_and_a_web_server,
    leaves_no_connection_behind_and_says_goodbye,
];

/// A server of this test's own, whose journal nobody else writes.
fn own() -> Mssql {
    Mssql::builder(Rig::shared().pki()).start().unwrap()
}

fn spec(mssql: &Mssql) -> Value {
    json!({
        "type": "mssql", "url": mssql.url("probe"), "caCert": Rig::shared().pki().ca.cert_pem,
    })
}

fn last_login(mssql: &Mssql) -> Login {
    mssql.logins().last().cloned().expect("a login")
}

/// Expects every connection to have ended in order.
#[track_caller]
fn assert_polite(mssql: &Mssql) {
    assert!(mssql.everybody_left(PATIENCE));
    let ends = mssql.ends();
    assert!(ends.iter().all(|end| end == "in order"), "{ends:?}");
}

fn logs_in_and_asks() {
    let mssql = own();
    let outcome = up(spec(&mssql));
    assert_eq!(
        phases(&outcome),
        ["resolve", "connect", "tls", "auth", "request"]
    );
    assert_eq!(
        outcome.server.as_deref(),
        Some("Microsoft SQL Server 2022 (16.0.4135)")
    );
    let tls = outcome.tls.expect("recorded");
    assert!(tls.verified);
    assert_eq!(tls.version.as_deref(), Some("TLSv1.2"));
    let pki = Rig::shared().pki();
    assert_eq!(
        tls.earliest_expiry.map(|time| time.as_second()),
        Some(pki.server.not_after)
    );
    let login = last_login(&mssql);
    assert_eq!(login.tds_version, 0x7400_0004);
    assert_eq!(login.app_name, "conncheck");
    assert!(login.encrypted);

    let outcome = up(with(
        spec(&mssql),
        json!({"properties": {"encrypt": "strict"}}),
    ));
    assert_eq!(
        phases(&outcome),
        ["resolve", "connect", "tls", "auth", "request"]
    );
    assert_eq!(
        outcome.tls.expect("recorded").version.as_deref(),
        Some("TLSv1.3")
    );
    assert_eq!(last_login(&mssql).tds_version, 0x0800_0000);

    let outcome = up(with(
        json!({"type": "mssql", "url": mssql.url("probe")}),
        json!({"properties": {"encrypt": "disable"}}),
    ));
    assert_eq!(phases(&outcome), ["resolve", "connect", "auth", "request"]);
    assert!(outcome.tls.is_none());
    assert!(!last_login(&mssql).encrypted);

    let intermediate = need!(Rig::shared().get(MssqlKind::Shows(Shown::Intermediate)));
    up(spec(&intermediate));
    up(with(
        spec(&intermediate),
        json!({"properties": {"encrypt": "strict"}}),
    ));
    assert_polite(&mssql);
}

fn every_form_of_the_address() {
    let mssql = own();
    let port = mssql.port();
    for url in [
        format!("sqlserver://probe:{PASSWORD}@localhost:{port}?database=orders"),
        format!("sqlserver://probe:{PASSWORD}@localhost:{port}/RIG?database=orders"),
        format!("mssql://probe:{PASSWORD}@127.0.0.1:{port}/orders"),
        format!("Server=tcp:localhost,{port};Database=orders;User Id=probe;Password={PASSWORD}"),
        format!(
            "data source=127.0.0.1\\rig,{port};initial catalog=orders;uid=probe;PWD=\"{PASSWORD}\";"
        ),
        format!(
            "Addr=(local),{port};User=probe;Password='{PASSWORD}';Database=orders;Max Pool Size=10;MultipleActiveResultSets=true;Persist Security Info=False"
        ),
    ] {
        let spec = json!({
            "type": "sqlserver", "url": url, "caCert": Rig::shared().pki().ca.cert_pem,
        });
        up(spec);
        assert_eq!(last_login(&mssql).database, "orders", "{url}");
    }
    // Without a database, the login's own.
    let url = format!("sqlserver://probe:{PASSWORD}@localhost:{port}");
    up(with(spec(&mssql), json!({"url": url})));
    assert_eq!(last_login(&mssql).database, "");
}

fn credentials_of_the_spec_win_over_the_url() {
    let mssql = own();
    for url in [
        format!("sqlserver://nobody:nothing@localhost:{}", mssql.port()),
        format!(
            "Server=localhost,{};User Id=nobody;Password=nothing",
            mssql.port()
        ),
    ] {
        up(with(
            spec(&mssql),
            json!({"url": url, "username": "probe", "password": PASSWORD}),
        ));
    }
}

fn the_secret_s_single_key_is_the_password() {
    let mssql = own();
    let spec = with(
        spec(&mssql),
        json!({
            "url": format!("sqlserver://probe@localhost:{}", mssql.port()),
            "secretRef": {"name": "login", "key": "password"},
        }),
    );
    let outcome = attempt_with_secret(&[("password", PASSWORD)], &spec);
    assert!(outcome.is_up(), "{outcome:#?}");
    let whole = with(spec, json!({"secretRef": {"name": "login", "key": null}}));
    let outcome = attempt_with_secret(&[("username", "probe"), ("password", PASSWORD)], &whole);
    assert!(outcome.is_up(), "{outcome:#?}");
}

fn says_what_it_was_told_to_say() {
    let mssql = own();
    let options = "app+name=health&workstation+id=here&ApplicationIntent=ReadOnly&language=Deutsch&packet+size=512";
    let url = format!("{}&{options}", mssql.url("probe"));
    up(with(
        spec(&mssql),
        json!({"url": url, "properties": {"query": "SELECT * FROM big"}}),
    ));
    let login = last_login(&mssql);
    assert_eq!(login.app_name, "health");
    assert_eq!(login.workstation, "here");
    assert_eq!(login.language, "Deutsch");
    assert_eq!(login.server_name, "localhost");
    assert_eq!(login.packet_bytes, 512);
    assert!(login.read_only);
    assert_eq!(mssql.queries(), ["SELECT * FROM big"]);
}

fn every_refusal_of_a_login() {
    let mssql = own();
    let at_login = |user: &str| with(spec(&mssql), json!({"url": mssql.url(user)}));
    down(
        with(at_login("probe"), json!({"password": "wrong"})),
        "auth",
        "auth",
        "18456",
    );
    for (user, reason, code) in [
        ("nobody", "auth", "18456"),
        ("disabled", "auth", "18470"),
        ("locked", "auth", "18486"),
        ("expired", "auth", "18487"),
        ("mustchange", "auth", "18488"),
        ("windows", "auth", "18452"),
        ("nodefault", "not_found", "4064"),
        ("trigger", "permission", "17892"),
        ("firewalled", "permission", "40615"),
    ] {
        let outcome = down(at_login(user), reason, "auth", code);
        let failure = outcome.result.unwrap_err();
        assert!(failure.hint.is_some(), "{failure:?}");
        // Whom it says no to is known all the same.
        assert!(outcome.server.is_some());
    }
    let url = format!(
        "mssql://probe:{PASSWORD}@localhost:{}/nowhere",
        mssql.port()
    );
    let outcome = down(
        with(spec(&mssql), json!({"url": url})),
        "not_found",
        "auth",
        "4060",
    );
    let hint = outcome.result.unwrap_err().hint.expect("a hint");
    assert!(hint.contains("no such database, or"), "{hint}");
    let outcome = down(at_login("parrot"), "auth", "auth", "18456");
    let message = outcome.result.unwrap_err().message;
    assert!(!message.contains(PASSWORD), "{message}");
    assert!(message.ends_with("(state 8)"), "{message}");
    assert_polite(&mssql);
}

fn an_instance_that_is_another() {
    let mssql = own();
    let url = format!(
        "sqlserver://probe:{PASSWORD}@localhost:{}/orders",
        mssql.port()
    );
    let outcome = down(
        with(spec(&mssql), json!({"url": url})),
        "not_found",
        "tls",
        "",
    );
    let hint = outcome.result.unwrap_err().hint.expect("a hint");
    assert!(hint.contains("?database=name"), "{hint}");
    assert!(mssql.logins().is_empty());
    assert_polite(&mssql);
}

/// What is asked for and what the server is set to: whether the login goes out encrypted, or why it does not.
fn every_cell_of_the_grid_of_encryption() {
    const PLAIN: Result<bool, &str> = Ok(false);
    const LOGIN: Result<bool, &str> = Ok(true);
    const ALL: Result<bool, &str> = Ok(true);
    let servers = [
        Encryption::NotSupported,
        Encryption::Off,
        Encryption::On,
        Encryption::Strict,
    ];
    let wants_all = Err("the server wants everything encrypted");
    let no_tls = Err("the server does not offer TLS");
    let hangs_up = Err("");
    for (encrypt, with_ca, cells) in [
        ("disable", false, [PLAIN, PLAIN, wants_all, hangs_up]),
        ("optional", false, [PLAIN, LOGIN, ALL, hangs_up]),
        ("false", true, [no_tls, LOGIN, ALL, hangs_up]),
        ("true", true, [no_tls, ALL, ALL, hangs_up]),
        ("strict", true, [hangs_up, ALL, ALL, ALL]),
    ] {
        for (server, expected) in servers.into_iter().zip(cells) {
            let mssql = Mssql::builder(Rig::shared().pki())
                .encryption(server)
                .start()
                .unwrap();
            let url = format!("{}&encrypt={encrypt}", mssql.url("probe"));
            let mut spec = json!({"type": "mssql", "url": url});
            match with_ca {
                true => spec["caCert"] = Rig::shared().pki().ca.cert_pem.clone().into(),
                // Where all of it is encrypted, an unknown authority would not do.
                false if server == Encryption::On => {
                    spec["properties"] = json!({"trustServerCertificate": true});
                }
                false => {}
            }
            let outcome = attempt(&spec);
            let cell = format!("{encrypt} at {server:?}: {outcome:#?}");
            match (expected, &outcome.result) {
                (Ok(encrypted), Ok(())) => {
                    assert_eq!(last_login(&mssql).encrypted, encrypted, "{cell}");
                    assert_eq!(outcome.tls.is_some(), encrypted, "{cell}");
                    if let Some(facts) = &outcome.tls {
                        assert_eq!(facts.verified, with_ca, "{cell}");
                    }
                }
                (Err(words), Err(failure)) => {
                    let reason = match words {
                        "" => "connect_reset",
                        _ => "tls_other",
                    };
                    assert_eq!(failure.reason.as_str(), reason, "{cell}");
                    assert!(failure.message.contains(words), "{cell}");
                    assert!(failure.hint.is_some(), "{cell}");
                    assert!(mssql.logins().is_empty(), "{cell}");
                }
                _ => panic!("{cell}"),
            }
        }
    }
}

fn only_the_login_is_encrypted() {
    let mssql = own();
    // Nobody vouches for it, and nobody is asked.
    let spec = json!({"type": "mssql", "url": format!("{}&encrypt=false", mssql.url("probe"))});
    let outcome = up(spec.clone());
    assert_eq!(
        phases(&outcome),
        ["resolve", "connect", "tls", "auth", "request"]
    );
    let tls = outcome.tls.expect("recorded");
    assert!(!tls.verified);
    assert!(tls.earliest_expiry.is_some());
    assert!(last_login(&mssql).encrypted);
    let wrong = with(spec, json!({"password": "wrong"}));
    down(wrong, "auth", "auth", "18456");
    // After the login a packet came, and no goodbye of TLS'.
    assert_polite(&mssql);

    let unknown = need!(Rig::shared().get(MssqlKind::Shows(Shown::UnknownCa)));
    let url = format!("{}&encrypt=false", unknown.url("probe"));
    up(json!({"type": "mssql", "url": url}));
    let pki = Rig::shared().pki();
    down(
        json!({"type": "mssql", "url": url, "caCert": pki.ca.cert_pem}),
        "tls_unknown_ca",
        "tls",
        "",
    );
    // Where the server wants it all, it is as with `true`.
    let forces = need!(Rig::shared().get(MssqlKind::ForcesTls));
    let url = format!("{}&encrypt=false", forces.url("probe"));
    let spec = json!({"type": "mssql", "url": url});
    down(spec.clone(), "tls_unknown_ca", "tls", "");
    up(with(
        spec,
        json!({"properties": {"trustServerCertificate": true}}),
    ));
}

fn a_server_that_knows_strict_only_or_not_at_all() {
    let only = need!(Rig::shared().get(MssqlKind::ForcesStrict));
    let outcome = down(spec(&only), "connect_reset", "tls", "");
    let hint = outcome.result.unwrap_err().hint.expect("a hint");
    assert!(hint.contains("`encrypt=strict`"), "{hint}");
    let strict = json!({"properties": {"encrypt": "strict"}});
    up(with(spec(&only), strict.clone()));

    let old = need!(Rig::shared().get(MssqlKind::Old));
    let outcome = down(with(spec(&old), strict), "connect_reset", "tls", "");
    let hint = outcome.result.unwrap_err().hint.expect("a hint");
    assert!(hint.contains("SQL Server 2022"), "{hint}");
    let outcome = up(spec(&old));
    assert_eq!(
        outcome.server.as_deref(),
        Some("Microsoft SQL Server 2019 (15.0.2153)")
    );
}

fn every_fault_of_a_certificate() {
    refuses_every_fault(MssqlKind::Shows, |mssql| {
        ["true", "strict"]
            .map(|encrypt| with(spec(mssql), json!({"properties": {"encrypt": encrypt}})))
    });
    let unknown = need!(Rig::shared().get(MssqlKind::Shows(Shown::SelfSigned)));
    let failure = attempt(&spec(&unknown)).result.unwrap_err();
    let hint = failure.hint.expect("a hint");
    assert!(hint.contains("trustServerCertificate"), "{hint}");
}

fn names_and_trust() {
    let wrong_name = need!(Rig::shared().get(MssqlKind::Shows(Shown::WrongName)));
    for (properties, option) in [
        (json!({"serverName": "elsewhere.test"}), ""),
        (json!({"hostNameInCertificate": "elsewhere.test"}), ""),
        (json!({}), "&hostNameInCertificate=elsewhere.test"),
    ] {
        let url = format!("{}{option}", wrong_name.url("probe"));
        up(with(
            spec(&wrong_name),
            json!({"url": url, "properties": properties}),
        ));
    }
    let self_signed = need!(Rig::shared().get(MssqlKind::Shows(Shown::SelfSigned)));
    let bare = json!({"type": "mssql", "url": self_signed.url("probe")});
    down(bare.clone(), "tls_unknown_ca", "tls", "");
    for (more, option) in [
        (json!({"insecureSkipVerify": true}), ""),
        (json!({"properties": {"insecureSkipVerify": true}}), ""),
        (json!({"properties": {"trustServerCertificate": true}}), ""),
        (json!({}), "&TrustServerCertificate=true"),
        (
            json!({"properties": {"encrypt": "strict", "insecureSkipVerify": true}}),
            "",
        ),
        // A certificate that is its own authority.
        (
            json!({"caCert": Rig::shared().pki().self_signed.cert_pem}),
            "",
        ),
    ] {
        let url = format!("{}{option}", self_signed.url("probe"));
        let outcome = up(with(with(bare.clone(), more), json!({"url": url})));
        assert!(outcome.tls.is_some());
    }
    // A `caCert` is verified against, whoever is trusted.
    let trusting = with(
        spec(&self_signed),
        json!({"properties": {"trustServerCertificate": true}}),
    );
    down(trusting, "tls_unknown_ca", "tls", "");
}

fn client_certificates_missing_wrong_and_right() {
    let mssql = need!(Rig::shared().get(MssqlKind::MutualTls));
    let pki = Rig::shared().pki();
    for (encrypt, codes) in [
        (
            "true",
            ["certificate_required", "unknown_ca", "certificate_expired"],
        ),
        (
            "strict",
            ["certificate_required", "unknown_ca", "certificate_expired"],
        ),
    ] {
        let spec = with(spec(&mssql), json!({"properties": {"encrypt": encrypt}}));
        let with_client = |client: &conncheck_rig::Certified| {
            with(
                spec.clone(),
                json!({"clientCert": client.cert_pem, "clientKey": client.key_pem}),
            )
        };
        let specs = [
            spec.clone(),
            with_client(&pki.client_unknown_ca),
            with_client(&pki.client_expired),
        ];
        for (spec, code) in specs.into_iter().zip(codes) {
            down(spec, "tls_other", "tls", code);
        }
        let outcome = up(with_client(&pki.client));
        assert_eq!(
            outcome.credential_expiry.map(|time| time.as_second()),
            Some(pki.client.not_after)
        );
    }
}

fn follows_one_step_to_another_server() {
    let routes = need!(Rig::shared().get(MssqlKind::Routes));
    let there = need!(Rig::shared().get(MssqlKind::Main));
    for encrypt in ["true", "false", "strict", "disable"] {
        let before = there.logins().len();
        let url = format!("{}&encrypt={encrypt}", routes.url("probe"));
        let outcome = up(with(spec(&routes), json!({"url": url})));
        assert_eq!(
            outcome.server.as_deref(),
            Some("Microsoft SQL Server 2022 (16.0.4135)"),
            "of the one that answers"
        );
        assert!(there.logins().len() > before);
        assert_eq!(last_login(&there).server_name, "localhost");
    }
    assert_polite(&routes);

    let circle = need!(Rig::shared().get(MssqlKind::RoutesInCircles));
    let outcome = down(spec(&circle), "protocol", "auth", "");
    let message = outcome.result.unwrap_err().message;
    assert!(message.contains("only one such step"), "{message}");
    assert_eq!(circle.logins().len(), 2);
    assert_polite(&circle);
}

fn not_ready_is_unavailable() {
    for (kind, code) in [(MssqlKind::Full, "17809"), (MssqlKind::Moving, "40613")] {
        let mssql = need!(Rig::shared().get(kind));
        down(spec(&mssql), "unavailable", "auth", code);
        assert_polite(&mssql);
    }
    let azure = need!(Rig::shared().get(MssqlKind::Moving));
    let server = attempt(&spec(&azure)).server;
    assert_eq!(
        server.as_deref(),
        Some("Microsoft SQL Server 2014 or Azure SQL (12.0.2000)")
    );
}

fn asks(mssql: &Mssql, query: &str) -> Value {
    with(spec(mssql), json!({"properties": {"query": query}}))
}

fn failing_queries() {
    let mssql = own();
    for (query, reason, code) in [
        ("SELECT * FROM nowhere", "assertion", "208"),
        ("SELECT 1; SELECT * FROM nowhere", "assertion", "208"),
        ("SELECT 1/0", "assertion", "8134"),
        ("SELEKT", "assertion", "102"),
        ("SELECT * FROM secrets", "permission", "229"),
        ("USE restricted", "permission", "916"),
        ("EXEC deadlock", "unavailable", "1205"),
        ("RAISERROR('end', 20, 1) WITH LOG", "unavailable", "50000"),
    ] {
        down(asks(&mssql, query), reason, "request", code);
    }
    assert_polite(&mssql);
}

fn rows_of_every_layout_are_passed_over() {
    let mssql = own();
    for query in [
        "SELECT * FROM everything",
        "SELECT * FROM big",
        "SELECT 1; SELECT 2",
        "EXEC greet",
    ] {
        for encrypt in ["disable", "true", "strict"] {
            let properties = json!({"properties": {"encrypt": encrypt}});
            up(with(asks(&mssql, query), properties));
        }
    }
    // In packets of every length, so that they end anywhere.
    for bytes in [512, 513, 600, 4095, 32_767] {
        let url = format!("{}&packet+size={bytes}", mssql.url("probe"));
        for query in ["SELECT * FROM everything", "SELECT * FROM big"] {
            up(with(asks(&mssql, query), json!({"url": url})));
        }
    }
    assert_polite(&mssql);
}

fn a_query_that_answers_too_much() {
    let mssql = own();
    check_long_answers(
        |text| {
            with(
                asks(&mssql, text),
                json!({"properties": {"encrypt": "disable"}}),
            )
        },
        &["SELECT * FROM large"],
        &["SELECT * FROM huge"],
    );
}

fn a_query_that_does_not_end_is_taken_back() {
    let servers = ["disable", "false", "true", "strict"].map(|encrypt| (encrypt, own()));
    let specs = servers.each_ref().map(|(encrypt, mssql)| {
        with(
            asks(mssql, "WAITFOR DELAY '01:00'"),
            json!({"properties": {"encrypt": encrypt}}),
        )
    });
    let outcomes = attempts_within(ENDLESS_QUERY, specs);
    for (outcome, (encrypt, mssql)) in outcomes.iter().zip(&servers) {
        assert_down(outcome, "timeout", "request", "");
        assert!(soon(|| mssql.attentions() == 1), "{encrypt}");
        assert_polite(mssql);
    }
}

fn timeouts_of_the_url() {
    let mssql = own();
    let url = format!("{}&command+timeout=1", mssql.url("probe"));
    let spec = with(asks(&mssql, "WAITFOR DELAY '01:00'"), json!({"url": url}));
    let outcome = attempt(&spec);
    assert_down(&outcome, "timeout", "request", "");
    let message = outcome.result.unwrap_err().message;
    assert!(message.contains("within 1s"), "{message}");
    assert!(soon(|| mssql.attentions() == 1));

    let silent = faults::Peer::silent().unwrap();
    let url = format!(
        "Server=127.0.0.1,{};User Id=a;Password=b;Connect Timeout=1",
        silent.port()
    );
    let outcome = attempt(&json!({"type": "mssql", "url": url}));
    assert_down(&outcome, "timeout", "tls", "");
    let message = outcome.result.unwrap_err().message;
    assert!(message.contains("within 1s"), "{message}");
}

fn a_stopped_server_refuses() {
    let mssql = own();
    let spec = spec(&mssql);
    up(spec.clone());
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, mssql.port()));
    drop(mssql);
    // Nobody else gets its port.
    let _nobody = faults::refused_on(addr).unwrap();
    down(spec, "connect_refused", "connect", "");
}

fn a_plain_port_and_a_web_server() {
    let nginx = need!(Rig::shared().nginx());
    for (port, encrypt, phase) in [
        (nginx.http, "true", "tls"),
        (nginx.http, "disable", "auth"),
        (nginx.http, "strict", "tls"),
        (nginx.https, "true", "tls"),
    ] {
        let url = format!("sqlserver://probe:{PASSWORD}@localhost:{port}?encrypt={encrypt}");
        let outcome = attempt(&json!({"type": "mssql", "url": url}));
        let failure = outcome.result.expect_err("no SQL Server");
        assert_eq!(
            failure.phase.map(|phase| phase.as_str()),
            Some(phase),
            "{failure:?}"
        );
        assert!(
            ["protocol", "connect_reset"].contains(&failure.reason.as_str()),
            "{failure:?}"
        );
    }
}

fn leaves_no_connection_behind_and_says_goodbye() {
    let mssql = own();
    for encrypt in ["disable", "false", "true", "strict"] {
        for _ in 0..5 {
            up(with(
                spec(&mssql),
                json!({"properties": {"encrypt": encrypt}}),
            ));
            down(
                with(
                    spec(&mssql),
                    json!({"password": "wrong", "properties": {"encrypt": encrypt}}),
                ),
                "auth",
                "auth",
                "18456",
            );
        }
    }
    assert_polite(&mssql);
    assert_eq!(mssql.ends().len(), 40);
    assert_eq!(mssql.open(), 0);
}
