//! `postgres` against real PostgreSQL.

use conncheck_probes::Outcome;
use conncheck_rig::{PASSWORD, Postgres, PostgresKind, Rig, need};
use serde_json::json;

use crate::check::{SHORT, assert_down, attempt, attempt_within, down, phases, up, with};

crate::trials![
    logs_in_by_each_method,
    each_sslmode_with_tls_by_choice_by_force_and_without,
    each_sslmode_and_the_authority,
    a_ca_cert_is_always_verified_against,
    every_fault_of_a_certificate,
    client_certificates_missing_wrong_and_right,
    binds_the_login_to_the_channel,
    speaks_over_a_unix_socket,
    wrong_missing_and_expired_credentials,
    what_the_server_says_no_to,
    the_query_decides,
    several_hosts,
    a_stopped_process_is_a_timeout,
    leaves_no_connection_and_no_complaint_behind,
];

/// `up`, `up tls` or `up tls verified`; or reason, phase and code.
fn summary(outcome: &Outcome) -> String {
    match (&outcome.result, &outcome.tls) {
        (Ok(()), None) => "up".to_owned(),
        (Ok(()), Some(tls)) if tls.verified => "up tls verified".to_owned(),
        (Ok(()), Some(_)) => "up tls".to_owned(),
        (Err(failure), _) => format!(
            "{} {} {}",
            failure.reason,
            failure.phase.map_or("-", |phase| phase.as_str()),
            failure.code.as_deref().unwrap_or("-"),
        ),
    }
}

/// Attempts at `server` with these options in the URL.
fn with_options(server: &Postgres, user: &str, options: &str) -> Outcome {
    attempt(&json!({"type": "postgres", "url": format!("{}?{options}", server.url(user))}))
}

#[track_caller]
fn table(server: &Postgres, user: &str, rows: &[(&str, &str)]) {
    for (options, expected) in rows {
        let outcome = with_options(server, user, options);
        println!("{user:<10} {options:<40} {}", summary(&outcome));
        if let Err(failure) = &outcome.result {
            println!(
                "           {} | {}",
                failure.message,
                failure.hint.as_deref().unwrap_or("-")
            );
        }
        assert_eq!(
            summary(&outcome),
            *expected,
            "{user} {options}: {outcome:#?}"
        );
    }
}

fn logs_in_by_each_method() {
    let postgres = need!(Rig::shared().postgres());
    for user in ["probe", "md5user", "clear", "nopw"] {
        let outcome = up(json!({"type": "postgres", "url": postgres.url(user)}));
        assert_eq!(
            phases(&outcome),
            ["resolve", "connect", "tls", "auth", "request"],
            "{user}"
        );
        let server = outcome.server.expect("its version");
        assert!(server.starts_with("PostgreSQL 1"), "{server}");
        assert!(!server.contains('('), "{server}");
    }
    let outcome = with_options(postgres, "probe", "sslmode=disable");
    assert_eq!(phases(&outcome), ["resolve", "connect", "auth", "request"]);
    let keywords = format!(
        "host=127.0.0.1 port={} user=nobody password=nothing dbname=app sslmode=require",
        postgres.port()
    );
    let spec =
        json!({"type": "postgresql", "url": keywords, "username": "probe", "password": PASSWORD});
    assert_eq!(phases(&up(spec)), ["connect", "tls", "auth", "request"]);
}

fn each_sslmode_with_tls_by_choice_by_force_and_without() {
    let postgres = need!(Rig::shared().postgres());
    table(
        postgres,
        "probe",
        &[
            ("", "up tls"),
            ("sslmode=disable", "up"),
            ("sslmode=allow", "up"),
            ("sslmode=prefer", "up tls"),
            ("sslmode=require", "up tls"),
        ],
    );
    table(
        postgres,
        "tlsonly",
        &[
            ("sslmode=disable", "auth auth 28000"),
            ("sslmode=allow", "up tls"),
            ("sslmode=prefer", "up tls"),
            ("sslmode=require", "up tls"),
        ],
    );
    table(
        postgres,
        "plainonly",
        &[
            ("sslmode=disable", "up"),
            ("sslmode=allow", "up"),
            // What TLS showed is kept, though the login went without it in the end.
            ("sslmode=prefer", "up tls"),
            ("sslmode=require", "auth auth 28000"),
        ],
    );
    let without = need!(Rig::shared().postgres_of(PostgresKind::NoTls));
    table(
        without,
        "probe",
        &[
            ("sslmode=disable", "up"),
            ("sslmode=allow", "up"),
            ("sslmode=prefer", "up"),
            ("sslmode=require", "tls_other tls -"),
            ("sslmode=verify-ca", "tls_other tls -"),
            ("sslmode=verify-full", "tls_other tls -"),
        ],
    );
    table(
        without,
        "tlsonly",
        &[
            ("sslmode=prefer", "auth auth 28000"),
            ("sslmode=allow", "auth auth 28000"),
        ],
    );
}

fn each_sslmode_and_the_authority() {
    let postgres = need!(Rig::shared().postgres());
    let pki = Rig::shared().pki();
    let ca = pki.ca.cert_path.display();
    let other = pki.other_ca.cert_path.display();
    table(
        postgres,
        "probe",
        &[
            ("sslmode=verify-ca", "tls_unknown_ca tls -"),
            ("sslmode=verify-full", "tls_unknown_ca tls -"),
            ("sslrootcert=system", "tls_unknown_ca tls -"),
            (&format!("sslmode=verify-ca&sslrootcert={ca}"), "up tls"),
            (
                &format!("sslmode=verify-full&sslrootcert={ca}"),
                "up tls verified",
            ),
            (&format!("sslmode=require&sslrootcert={ca}"), "up tls"),
            (
                &format!("sslmode=require&sslrootcert={other}"),
                "tls_unknown_ca tls -",
            ),
            // As in libpq: it falls back to plain text.
            (&format!("sslmode=prefer&sslrootcert={other}"), "up tls"),
            ("sslmode=require&ssl_max_protocol_version=TLSv1.2", "up tls"),
            ("sslmode=require&sslsni=0", "up tls"),
        ],
    );
    let outcome = with_options(
        postgres,
        "probe",
        "sslmode=require&ssl_max_protocol_version=TLSv1.2",
    );
    assert_eq!(outcome.tls.unwrap().version.as_deref(), Some("TLSv1.2"));
    let intermediate = need!(Rig::shared().postgres_of(PostgresKind::Intermediate));
    table(
        intermediate,
        "probe",
        &[(
            &format!("sslmode=verify-full&sslrootcert={ca}"),
            "up tls verified",
        )],
    );
}

fn a_ca_cert_is_always_verified_against() {
    let pki = Rig::shared().pki();
    let postgres = need!(Rig::shared().postgres());
    let without = need!(Rig::shared().postgres_of(PostgresKind::NoTls));
    let spec = |server: &Postgres, mode: &str, ca: &str| json!({"type": "postgres", "url": format!("{}?sslmode={mode}", server.url("probe")), "caCert": ca});
    for mode in ["allow", "prefer", "require", "verify-ca"] {
        assert_eq!(
            summary(&up(spec(postgres, mode, &pki.ca.cert_pem))),
            "up tls"
        );
        down(
            spec(postgres, mode, &pki.other_ca.cert_pem),
            "tls_unknown_ca",
            "tls",
            "",
        );
        down(
            spec(without, mode, &pki.ca.cert_pem),
            "tls_other",
            "tls",
            "",
        );
        let careless = json!({"insecureSkipVerify": true});
        up(with(spec(postgres, mode, &pki.other_ca.cert_pem), careless));
    }
    let full = spec(postgres, "verify-full", &pki.ca.cert_pem);
    assert_eq!(summary(&up(full)), "up tls verified");
    up(spec(without, "disable", &pki.ca.cert_pem));
}

fn every_fault_of_a_certificate() {
    let pki = Rig::shared().pki();
    for (kind, certificate, reason) in [
        (PostgresKind::Expired, &pki.expired, "tls_expired"),
        (
            PostgresKind::NotYetValid,
            &pki.not_yet_valid,
            "tls_not_yet_valid",
        ),
        (
            PostgresKind::WrongName,
            &pki.wrong_name,
            "tls_name_mismatch",
        ),
        (PostgresKind::UnknownCa, &pki.unknown_ca, "tls_unknown_ca"),
        (PostgresKind::SelfSigned, &pki.self_signed, "tls_unknown_ca"),
    ] {
        let postgres = need!(Rig::shared().postgres_of(kind));
        let url = format!("{}?sslmode=verify-full", postgres.url("probe"));
        let spec = json!({"type": "postgres", "url": url, "caCert": pki.ca.cert_pem});
        let outcome = down(spec.clone(), reason, "tls", "");
        let tls = outcome.tls.expect("recorded before it was judged");
        assert!(!tls.verified);
        assert_eq!(
            tls.earliest_expiry.map(|time| time.as_second()),
            Some(certificate.not_after)
        );
        let careless = up(with(
            spec,
            json!({"properties": {"insecureSkipVerify": true}}),
        ));
        assert!(!careless.tls.expect("recorded").verified);
        // `prefer` does not look at it.
        let outcome = up(json!({"type": "postgres", "url": postgres.url("probe")}));
        assert_eq!(
            outcome
                .tls
                .expect("recorded")
                .earliest_expiry
                .map(|time| time.as_second()),
            Some(certificate.not_after)
        );
    }
    let postgres = need!(Rig::shared().postgres_of(PostgresKind::WrongName));
    let url = |mode: &str| format!("{}?sslmode={mode}", postgres.url("probe"));
    up(json!({"type": "postgres", "url": url("verify-ca"), "caCert": pki.ca.cert_pem}));
    up(json!({
        "type": "postgres", "url": url("verify-full"), "caCert": pki.ca.cert_pem,
        "properties": {"serverName": "elsewhere.test"},
    }));
}

fn client_certificates_missing_wrong_and_right() {
    let postgres = need!(Rig::shared().postgres());
    let pki = Rig::shared().pki();
    for user in ["certonly", "pwcert"] {
        let url = format!("{}?sslmode=require", postgres.url(user));
        let spec = json!({"type": "postgres", "url": url});
        let with_client = |client: &conncheck_rig::Certified| {
            with(
                spec.clone(),
                json!({"clientCert": client.cert_pem, "clientKey": client.key_pem}),
            )
        };
        let outcome = down(spec.clone(), "auth", "auth", "28000");
        let hint = outcome.result.unwrap_err().hint.expect("a hint");
        assert!(hint.contains("clientCert"), "{hint}");
        down(
            with_client(&pki.client_unknown_ca),
            "tls_other",
            "tls",
            "unknown_ca",
        );
        down(
            with_client(&pki.client_expired),
            "tls_other",
            "tls",
            "certificate_expired",
        );
        let outcome = up(with_client(&pki.client));
        assert_eq!(
            outcome.credential_expiry.map(|time| time.as_second()),
            Some(pki.client.not_after)
        );
        let (cert, key) = (
            pki.client.cert_path.display(),
            pki.client.key_path.display(),
        );
        let paths = format!("sslmode=require&sslcert={cert}&sslkey={key}");
        table(
            postgres,
            user,
            &[
                (&paths, "up tls"),
                (&format!("{paths}&sslcertmode=disable"), "auth auth 28000"),
            ],
        );
    }
}

fn binds_the_login_to_the_channel() {
    let postgres = need!(Rig::shared().postgres());
    table(
        postgres,
        "probe",
        &[
            ("sslmode=require&channel_binding=require", "up tls"),
            ("sslmode=require&channel_binding=disable", "up tls"),
            (
                "sslmode=require&channel_binding=require&ssl_max_protocol_version=TLSv1.2",
                "up tls",
            ),
            ("sslmode=allow&channel_binding=require", "auth auth -"),
            ("require_auth=scram-sha-256", "up tls"),
            ("require_auth=md5,password", "auth auth -"),
        ],
    );
    table(
        postgres,
        "md5user",
        &[
            ("sslmode=require&channel_binding=require", "auth auth -"),
            ("require_auth=!md5", "auth auth -"),
            ("require_auth=md5", "up tls"),
        ],
    );
    table(
        postgres,
        "nopw",
        &[
            ("require_auth=none", "up tls"),
            ("require_auth=!none", "auth auth -"),
        ],
    );
}

fn speaks_over_a_unix_socket() {
    let postgres = need!(Rig::shared().postgres());
    let socket = postgres.socket_dir();
    let spec = |mode: &str| {
        json!({
            "type": "postgres", "username": "probe", "password": PASSWORD,
            "url": format!("postgres:///app?host={}&port={}&sslmode={mode}", socket.display(), postgres.port()),
        })
    };
    for mode in ["prefer", "require"] {
        assert_eq!(phases(&up(spec(mode))), ["connect", "auth", "request"]);
    }
    let url = "postgres://probe@%2Fnowhere/app";
    down(
        json!({"type": "postgres", "url": url}),
        "connect_refused",
        "connect",
        "",
    );
}

fn wrong_missing_and_expired_credentials() {
    let postgres = need!(Rig::shared().postgres());
    let spec = json!({"type": "postgres", "url": postgres.url("probe")});
    down(
        with(spec, json!({"password": "wrong"})),
        "auth",
        "auth",
        "28P01",
    );
    let bare = format!("postgres://probe@localhost:{}/app", postgres.port());
    let outcome = down(json!({"type": "postgres", "url": bare}), "auth", "auth", "");
    let hint = outcome.result.unwrap_err().hint.expect("a hint");
    assert!(hint.contains("secretRef"), "{hint}");
    table(postgres, "expired", &[("", "auth auth 28P01")]);
    table(postgres, "nologin1", &[("", "auth auth 28000")]);
    table(
        postgres,
        "stranger",
        &[
            ("sslmode=disable", "auth auth 28000"),
            ("sslmode=prefer", "auth auth 28000"),
        ],
    );
}

fn what_the_server_says_no_to() {
    let postgres = need!(Rig::shared().postgres());
    table(postgres, "lim", &[("", "unavailable auth 53300")]);
    table(
        postgres,
        "probe",
        &[
            ("dbname=nowhere", "not_found auth 3D000"),
            ("dbname=closed", "permission auth 42501"),
            ("options=-c%20statement_timeout%3D2s", "up tls"),
            ("options=-c%20no_such_setting%3D1", "assertion auth 42704"),
            ("options=-c%20statement_timeout%3Dx", "assertion auth 22023"),
        ],
    );
    let starting = need!(Rig::shared().postgres_of(PostgresKind::Starting));
    table(starting, "probe", &[("", "unavailable auth 57P03")]);
    let full = need!(Rig::shared().postgres_of(PostgresKind::Full));
    table(full, "probe", &[("", "unavailable auth 53300")]);
}

fn the_query_decides() {
    let postgres = need!(Rig::shared().postgres());
    let spec = |query: &str| {
        json!({
            "type": "postgres", "properties": {"query": query},
            "url": format!("{}?options=-c%20statement_timeout%3D200ms", postgres.url("probe")),
        })
    };
    up(spec("SELECT generate_series(1, 10000)"));
    up(spec("SELECT 1; SELECT 2"));
    up(spec(""));
    down(
        spec("SELECT * FROM locked"),
        "permission",
        "request",
        "42501",
    );
    down(
        spec("SELECT * FROM nowhere"),
        "assertion",
        "request",
        "42P01",
    );
    down(spec("SELEC 1"), "assertion", "request", "42601");
    down(spec("SELECT 1 / 0"), "assertion", "request", "22012");
    down(spec("SELECT pg_sleep(5)"), "timeout", "request", "57014");
    down(spec("COPY (SELECT 1) TO STDOUT"), "protocol", "request", "");
    let kill = "SELECT pg_terminate_backend(pg_backend_pid())";
    down(spec(kill), "unavailable", "request", "57P01");
}

fn several_hosts() {
    let postgres = need!(Rig::shared().postgres());
    let read_only = need!(Rig::shared().postgres_of(PostgresKind::ReadOnly));
    let standby = need!(Rig::shared().postgres_of(PostgresKind::Standby));
    let starting = need!(Rig::shared().postgres_of(PostgresKind::Starting));
    let at = |ports: &[u16], options: &str| {
        let hosts: Vec<_> = ports
            .iter()
            .map(|port| format!("127.0.0.1:{port}"))
            .collect();
        let url = format!(
            "postgres://probe:{PASSWORD}@{}/app?{options}",
            hosts.join(",")
        );
        let outcome = attempt(&json!({"type": "postgres", "url": url}));
        println!("{ports:?} {options} {}", summary(&outcome));
        if let Err(failure) = &outcome.result {
            println!("    {}", failure.message);
        }
        outcome
    };
    let (main, read_only, standby) = (postgres.port(), read_only.port(), standby.port());
    for (ports, options, expected) in [
        (
            &[read_only, main][..],
            "target_session_attrs=read-write",
            "up tls",
        ),
        (
            &[main, read_only],
            "target_session_attrs=read-only",
            "up tls",
        ),
        (
            &[read_only],
            "target_session_attrs=read-write",
            "assertion request -",
        ),
        (
            &[main],
            "target_session_attrs=read-only",
            "assertion request -",
        ),
        (&[standby, main], "target_session_attrs=primary", "up tls"),
        (&[read_only], "target_session_attrs=primary", "up tls"),
        (&[main, standby], "target_session_attrs=standby", "up tls"),
        (
            &[main, read_only],
            "target_session_attrs=standby",
            "assertion request -",
        ),
        (
            &[main, standby],
            "target_session_attrs=prefer-standby",
            "up tls",
        ),
        (&[main], "target_session_attrs=prefer-standby", "up tls"),
        (
            &[standby, read_only],
            "target_session_attrs=read-write",
            "assertion request -",
        ),
        (&[1, main], "", "up tls"),
        (&[1, main], "load_balance_hosts=random", "up tls"),
        (&[starting.port(), main], "", "up tls"),
        (
            &[1, read_only],
            "target_session_attrs=read-write",
            "assertion request -",
        ),
        // A host that says no ends it.
        (&[main, main], "dbname=nowhere", "not_found auth 3D000"),
        (&[1, 2], "", "connect_refused connect -"),
    ] {
        let outcome = at(ports, options);
        assert_eq!(
            summary(&outcome),
            expected,
            "{ports:?} {options}: {outcome:#?}"
        );
    }
}

fn a_stopped_process_is_a_timeout() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(
        dir.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    need!(Rig::shared().postgres());
    let postgres = Postgres::builder(Rig::shared().pki(), dir.path())
        .name("paused")
        .start()
        .unwrap();
    let spec = |mode: &str| json!({"type": "postgres", "url": format!("{}?sslmode={mode}", postgres.url("probe"))});
    postgres.process().pause();
    assert_down(
        &attempt_within(SHORT, &spec("prefer")),
        "timeout",
        "tls",
        "",
    );
    assert_down(
        &attempt_within(SHORT, &spec("disable")),
        "timeout",
        "auth",
        "",
    );
    let limited = format!(
        "{}?sslmode=disable&connect_timeout=1",
        postgres.url("probe")
    );
    let outcome = down(
        json!({"type": "postgres", "url": limited}),
        "timeout",
        "auth",
        "",
    );
    assert!(outcome.result.unwrap_err().message.contains("within 1s"));
    postgres.process().resume();
    up(spec("prefer"));
    let spec = spec("prefer");
    drop(postgres);
    down(spec, "connect_refused", "connect", "");
}

fn leaves_no_connection_and_no_complaint_behind() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(
        dir.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    need!(Rig::shared().postgres());
    let pki = Rig::shared().pki();
    let postgres = Postgres::builder(pki, dir.path())
        .name("clean")
        .start()
        .unwrap();
    let url = |user: &str, options: &str| format!("{}?{options}", postgres.url(user));
    for mode in ["disable", "prefer"] {
        let spec = json!({"type": "postgres", "url": url("probe", &format!("sslmode={mode}"))});
        for _ in 0..3 {
            up(spec.clone());
        }
        for (more, reason) in [
            (json!({"password": "wrong"}), "auth"),
            (
                json!({"properties": {"query": "SELECT 1 / 0"}}),
                "assertion",
            ),
        ] {
            let outcome = attempt(&with(spec.clone(), more));
            assert_eq!(outcome.result.unwrap_err().reason.as_str(), reason);
        }
        for options in [
            "target_session_attrs=standby",
            "require_auth=md5",
            "dbname=nowhere",
        ] {
            let options = format!("sslmode={mode}&{options}");
            attempt(&json!({"type": "postgres", "url": url("probe", &options)}));
        }
        let bare = format!(
            "postgres://probe@localhost:{}/app?sslmode={mode}",
            postgres.port()
        );
        attempt(&json!({"type": "postgres", "url": bare}));
    }
    let count = "select count(*) from pg_stat_activity where usename = 'probe'";
    let clients = || postgres.sql("app", count).unwrap()[0][0].clone();
    for _ in 0..50 {
        if clients().as_deref() == Some("0") {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(clients().as_deref(), Some("0"));
    let log = postgres.log();
    for complaint in [
        "unexpected EOF",
        "could not receive",
        "could not send",
        "incomplete",
        "reset by peer",
        "invalid",
    ] {
        let lines: Vec<_> = log
            .lines()
            .filter(|line| line.contains(complaint))
            .collect();
        assert!(lines.is_empty(), "{lines:#?}");
    }
}
