//! `postgres` against real PostgreSQL.
//!
//! What comes of each `sslmode` at each server is a grid, compared as a whole. A cell is up as
//! `plain`, `tls` or `verified`, or down for its reason. Whether a session is in TLS is asked of the
//! server itself: [`IN_TLS`] fails where it is not.

use conncheck_probes::Outcome;
use conncheck_rig::faults::{self, Peer};
use conncheck_rig::{
    Certified, PASSWORD, PATIENCE, Postgres, PostgresKind, Rig, Shown, Skipped, need,
};
use serde_json::{Value, json};

use crate::check::{
    self, ENDLESS_QUERY, SHARED, SHORT, assert_down, attempt, attempt_within, attempts_within,
    check_certificates, check_grid, check_long_answers, down, phases, soon, summary, up, with,
};

crate::trials![
    logs_in_by_each_method,
    reads_a_url_and_a_keyword_string,
    credentials_of_the_spec_win_over_the_url,
    each_sslmode_where_tls_is_a_choice_a_must_and_not_to_be_had,
    each_sslmode_and_certificate_without_an_authority,
    each_sslmode_and_certificate_with_a_ca_cert,
    each_sslmode_and_certificate_with_an_sslrootcert,
    what_else_decides_about_a_certificate,
    client_certificates_missing_wrong_and_right,
    binds_the_login_to_the_channel,
    direct_tls_at_a_server_that_is_too_old,
    speaks_over_a_unix_socket,
    wrong_missing_and_expired_credentials,
    what_the_server_says_no_to,
    the_query_decides,
    a_query_that_answers_too_much,
    names_itself_and_passes_options_on,
    each_target_session_attrs_and_kind_of_server,
    several_hosts,
    a_stopped_process_is_a_timeout,
    a_query_that_hangs_is_a_timeout_in_the_request,
    leaves_no_session_and_no_complaint_behind,
];

const SSLMODES: [&str; 6] = [
    "disable",
    "allow",
    "prefer",
    "require",
    "verify-ca",
    "verify-full",
];

/// Fails with a division by zero where the session is not in TLS.
const IN_TLS: &str = "SELECT 1 / (SELECT ssl::int FROM pg_stat_ssl WHERE pid = pg_backend_pid())";

/// An authority that is called as the rig's is, with a key of another type (Ed25519).
const NAMESAKE: &str = "\
-----BEGIN CERTIFICATE-----
MIIBSDCB+6ADAgECAhRh+2Z5eCCLDc+QEzfp94J49q37rTAFBgMrZXAwETEPMA0G
A1UEAwwGcmlnIENBMCAXDTI2MTEyMjA5MzYwMloYDzIxMjYxMDI5MDkzNjAyWjAR
MQ8wDQYDVQQDDAZyaWcgQ0EwKjAFBgMrZXADIQCipNSXydSiCJG1qMpzupp0LvnZ
8QfbdHEi0n1MnnOd5aNjMGEwHQYDVR0OBBYEFKqIX0tPF9bzs4O1Z4dyWy9LGQqk
MB8GA1UdIwQYMBaAFKqIX0tPF9bzs4O1Z4dyWy9LGQqkMA8GA1UdEwEB/wQFMAMB
Af8wDgYDVR0PAQH/BAQDAgIEMAUGAytlcANBAGTBHg46BbjCSD6CfGPagVJ5AQB+
oQDK1GHxupCvxi5NWSJ7rOsn38QeuWjHkjTZVzfBN7owVxTCJZcEDeJC9go=
-----END CERTIFICATE-----
";

fn spec(server: &Postgres, user: &str, options: &str) -> Value {
    json!({"type": "postgres", "url": format!("{}?{options}", server.url(user))})
}

fn query(query: &str) -> Value {
    json!({"properties": {"query": query}})
}

/// One that nobody else talks to, so that it may be paused and its log belongs to the test.
fn own(name: &str) -> Result<Postgres, Skipped> {
    let rig = Rig::shared();
    Ok(Postgres::builder(rig.pki(), rig.dir()).name(name).start()?)
}

/// The cell of an attempt that asked [`IN_TLS`].
fn cell(outcome: &Outcome) -> String {
    check::cell(outcome, "22012")
}

/// Options of the URL, and what comes of them: its summary, and words of the message.
#[track_caller]
fn check(server: &Postgres, user: &str, rows: &[(&str, &str, &str)]) {
    for (options, expected, says) in rows {
        let outcome = attempt(&spec(server, user, options));
        assert_eq!(summary(&outcome), *expected, "{options}: {outcome:#?}");
        if let Err(failure) = &outcome.result {
            assert!(failure.message.contains(says), "{options}: {failure:#?}");
        }
    }
}

fn logs_in_by_each_method() {
    let postgres = need!(Rig::shared().postgres());
    let version = postgres.sql("app", "show server_version").unwrap();
    let version = version[0][0]
        .as_deref()
        .and_then(|text| text.split(' ').next());
    let version = format!("PostgreSQL {}", version.expect("a version"));
    for user in ["probe", "md5user", "clear", "nopw"] {
        let outcome = up(spec(&postgres, user, "sslmode=require"));
        assert_eq!(
            phases(&outcome),
            ["resolve", "connect", "tls", "auth", "request"],
            "{user}"
        );
        assert_eq!(outcome.server.as_deref(), Some(version.as_str()));
        let outcome = up(spec(&postgres, user, "sslmode=disable"));
        assert_eq!(
            phases(&outcome),
            ["resolve", "connect", "auth", "request"],
            "{user}"
        );
    }
    // Each was asked for what it is there for.
    for (user, method) in [
        ("probe", "scram-sha-256"),
        ("md5user", "md5"),
        ("clear", "password"),
        ("nopw", "none"),
    ] {
        up(spec(&postgres, user, &format!("require_auth={method}")));
        let outcome = attempt(&spec(&postgres, user, &format!("require_auth=!{method}")));
        assert_down(&outcome, "auth", "auth", "");
        let message = outcome.result.unwrap_err().message;
        assert!(message.contains(&format!("`{method}`")), "{message}");
    }
}

fn reads_a_url_and_a_keyword_string() {
    let postgres = need!(Rig::shared().postgres());
    let port = postgres.port();
    for url in [
        format!("postgresql://probe:{PASSWORD}@127.0.0.1:{port}/app"),
        format!("postgres://127.0.0.1:{port}/app?user=probe&password={PASSWORD}"),
        format!("postgres:///app?hostaddr=127.0.0.1&port={port}&user=probe&password={PASSWORD}"),
        format!("host=127.0.0.1 port={port} user=probe password='{PASSWORD}' dbname=app"),
        format!("hostaddr=127.0.0.1 port = {port} user=probe password={PASSWORD} dbname='app'"),
    ] {
        let outcome = up(json!({"type": "postgresql", "url": url}));
        assert_eq!(
            phases(&outcome),
            ["connect", "tls", "auth", "request"],
            "{url}"
        );
    }
    // As in libpq, a database that is not named is called as the user is.
    let url = format!("postgres://probe:{PASSWORD}@localhost:{port}");
    let outcome = down(
        json!({"type": "postgres", "url": url}),
        "not_found",
        "auth",
        "3D000",
    );
    let hint = outcome.result.unwrap_err().hint.expect("a hint");
    assert!(hint.contains("end of the URL"), "{hint}");
}

fn credentials_of_the_spec_win_over_the_url() {
    let postgres = need!(Rig::shared().postgres());
    let port = postgres.port();
    for url in [
        format!("postgres://nobody:nothing@localhost:{port}/app"),
        format!("host=localhost port={port} user=nobody password=nothing dbname=app"),
        format!("postgres://$(username):$(password)@localhost:{port}/app"),
        format!("host=localhost port={port} user=$(username) password=$(password) dbname=app"),
    ] {
        up(json!({"type": "postgres", "url": url, "username": "probe", "password": PASSWORD}));
    }
}

fn each_sslmode_where_tls_is_a_choice_a_must_and_not_to_be_had() {
    let main = need!(Rig::shared().postgres());
    let without = need!(Rig::shared().get(PostgresKind::NoTls));
    check_grid(
        &SSLMODES[..4],
        &[
            ("probe", (&main, "probe")),
            ("tlsonly", (&main, "tlsonly")),
            ("plainonly", (&main, "plainonly")),
            ("no TLS: probe", (&without, "probe")),
            ("no TLS: tlsonly", (&without, "tlsonly")),
        ],
        |mode, (server, user)| {
            let spec = spec(server, user, &format!("sslmode={mode}"));
            cell(&attempt(&with(spec, query(IN_TLS))))
        },
        "
                probe               tlsonly             plainonly           no TLS: probe       no TLS: tlsonly
disable         plain               auth 28000          plain               plain               auth 28000
allow           plain               tls                 plain               plain               auth 28000
prefer          tls                 tls                 plain               plain               auth 28000
require         tls                 tls                 auth 28000          tls_other           tls_other
",
    );
    let ca = Rig::shared().pki().ca.cert_path.display();
    for options in [
        "sslmode=require",
        &format!("sslmode=verify-ca&sslrootcert={ca}"),
        &format!("sslmode=verify-full&sslrootcert={ca}"),
    ] {
        check(
            &without,
            "probe",
            &[(options, "tls_other tls -", "does not offer TLS")],
        );
    }
    let outcome = attempt(&spec(&main, "tlsonly", "sslmode=disable"));
    let hint = outcome.result.unwrap_err().hint.expect("a hint");
    assert!(hint.contains("sslmode=require"), "{hint}");
}

/// Every mode at a server with each of the certificates, with `more` in the URL or the definition.
#[track_caller]
fn each_certificate(more: &dyn Fn(&str) -> (String, Value), expected: &str) {
    check_certificates(
        &SSLMODES,
        |shown| match shown {
            Shown::Server => PostgresKind::Main,
            other => PostgresKind::Shows(other),
        },
        |mode, server| {
            let (options, more) = more(mode);
            let spec = with(spec(server, "nopw", &options), query(IN_TLS));
            attempt(&with(spec, more))
        },
        cell,
        expected,
    );
}

fn each_sslmode_and_certificate_without_an_authority() {
    each_certificate(
        &|mode| (format!("sslmode={mode}"), json!({})),
        "
                server              intermediate        wrong_name          unknown_ca          self_signed         expired             not_yet_valid
disable         plain               plain               plain               plain               plain               plain               plain
allow           plain               plain               plain               plain               plain               plain               plain
prefer          tls                 tls                 tls                 tls                 tls                 tls                 tls
require         tls                 tls                 tls                 tls                 tls                 tls                 tls
verify-ca       tls_unknown_ca      tls_unknown_ca      tls_unknown_ca      tls_unknown_ca      tls_unknown_ca      tls_expired         tls_not_yet_valid
verify-full     tls_unknown_ca      tls_unknown_ca      tls_unknown_ca      tls_unknown_ca      tls_unknown_ca      tls_expired         tls_not_yet_valid
",
    );
}

/// A `caCert` is always verified against, so every mode but `disable` then wants TLS.
fn each_sslmode_and_certificate_with_a_ca_cert() {
    let ca = &Rig::shared().pki().ca.cert_pem;
    each_certificate(
        &|mode| (format!("sslmode={mode}"), json!({"caCert": ca})),
        "
                server              intermediate        wrong_name          unknown_ca          self_signed         expired             not_yet_valid
disable         plain               plain               plain               plain               plain               plain               plain
allow           tls                 tls                 tls                 tls_unknown_ca      tls_unknown_ca      tls_expired         tls_not_yet_valid
prefer          tls                 tls                 tls                 tls_unknown_ca      tls_unknown_ca      tls_expired         tls_not_yet_valid
require         tls                 tls                 tls                 tls_unknown_ca      tls_unknown_ca      tls_expired         tls_not_yet_valid
verify-ca       tls                 tls                 tls                 tls_unknown_ca      tls_unknown_ca      tls_expired         tls_not_yet_valid
verify-full     verified            verified            tls_name_mismatch   tls_unknown_ca      tls_unknown_ca      tls_expired         tls_not_yet_valid
",
    );
}

/// As in libpq: `prefer` goes on without TLS where the certificate is bad.
fn each_sslmode_and_certificate_with_an_sslrootcert() {
    let ca = Rig::shared().pki().ca.cert_path.display();
    each_certificate(
        &|mode| (format!("sslmode={mode}&sslrootcert={ca}"), json!({})),
        "
                server              intermediate        wrong_name          unknown_ca          self_signed         expired             not_yet_valid
disable         plain               plain               plain               plain               plain               plain               plain
allow           plain               plain               plain               plain               plain               plain               plain
prefer          tls                 tls                 tls                 plain               plain               plain               plain
require         tls                 tls                 tls                 tls_unknown_ca      tls_unknown_ca      tls_expired         tls_not_yet_valid
verify-ca       tls                 tls                 tls                 tls_unknown_ca      tls_unknown_ca      tls_expired         tls_not_yet_valid
verify-full     verified            verified            tls_name_mismatch   tls_unknown_ca      tls_unknown_ca      tls_expired         tls_not_yet_valid
",
    );
}

fn what_else_decides_about_a_certificate() {
    let postgres = need!(Rig::shared().postgres());
    let wrong_name = need!(Rig::shared().get(PostgresKind::Shows(Shown::WrongName)));
    let pki = Rig::shared().pki();
    let tls_of = |server: &Postgres, options: &str, more: Value| {
        let spec = with(spec(server, "nopw", options), query(IN_TLS));
        cell(&attempt(&with(spec, more)))
    };
    let full = |more: Value| tls_of(&wrong_name, "sslmode=verify-full", more);
    let (ca, other) = (&pki.ca.cert_pem, &pki.other_ca.cert_pem);
    let named = json!({"caCert": ca, "properties": {"serverName": "elsewhere.test"}});
    assert_eq!(full(named), "verified");
    let careless = json!({"caCert": other, "insecureSkipVerify": true});
    assert_eq!(full(careless), "tls");
    let careless = json!({"caCert": other, "properties": {"insecureSkipVerify": true}});
    assert_eq!(full(careless), "tls");

    // The definition's authority wins over the URL's.
    let other_path = pki.other_ca.cert_path.display();
    let options = format!("sslmode=verify-full&sslrootcert={other_path}");
    assert_eq!(tls_of(&postgres, &options, json!({})), "tls_unknown_ca");
    assert_eq!(
        tls_of(&postgres, &options, json!({"caCert": ca})),
        "verified"
    );
    let options = "sslmode=verify-ca";
    let namesake = with(
        spec(&postgres, "nopw", options),
        json!({"caCert": NAMESAKE}),
    );
    let outcome = down(namesake, "tls_unknown_ca", "tls", "");
    let message = outcome.result.unwrap_err().message;
    assert!(
        message.contains("not signed by the `CN=rig CA`"),
        "{message}"
    );
    // libpq's short way to say `verify-full` and nobody of our own.
    let system = tls_of(&postgres, "sslrootcert=system", json!({}));
    assert_eq!(system, "tls_unknown_ca");
    assert_eq!(
        tls_of(&postgres, "sslmode=require&sslsni=0", json!({})),
        "tls"
    );
    for version in ["TLSv1.2", "TLSv1.3"] {
        let options = format!(
            "sslmode=require&ssl_min_protocol_version={version}&ssl_max_protocol_version={version}"
        );
        let outcome = up(spec(&postgres, "nopw", &options));
        let tls = outcome.tls.expect("recorded");
        assert_eq!(tls.version.as_deref(), Some(version));
        assert_eq!(tls.subject.as_deref(), Some("CN=localhost"));
        assert_eq!(tls.issuer.as_deref(), Some("CN=rig CA"));
    }
}

fn client_certificates_missing_wrong_and_right() {
    let postgres = need!(Rig::shared().postgres());
    let pki = Rig::shared().pki();
    for user in ["certonly", "pwcert"] {
        let bare = spec(&postgres, user, "sslmode=require");
        let with_client = |client: &Certified| {
            let more = json!({"clientCert": client.cert_pem, "clientKey": client.key_pem});
            with(bare.clone(), more)
        };
        let outcome = down(bare.clone(), "auth", "auth", "28000");
        let hint = outcome.result.unwrap_err().hint.expect("a hint");
        assert!(hint.contains("clientCert"), "{hint}");
        let unknown = with_client(&pki.client_unknown_ca);
        down(unknown, "tls_other", "tls", "unknown_ca");
        let expired = with_client(&pki.client_expired);
        let outcome = down(expired, "tls_other", "tls", "certificate_expired");
        let expiry = |outcome: &Outcome| outcome.credential_expiry.map(|time| time.as_second());
        assert_eq!(expiry(&outcome), Some(pki.client_expired.not_after));
        let outcome = up(with_client(&pki.client));
        assert_eq!(expiry(&outcome), Some(pki.client.not_after));

        let cert = pki.client.cert_path.display();
        let key = pki.client.key_path.display();
        let paths = format!("sslmode=require&sslcert={cert}&sslkey={key}");
        let outcome = up(spec(&postgres, user, &paths));
        assert_eq!(expiry(&outcome), Some(pki.client.not_after));
        let kept_back = format!("{paths}&sslcertmode=disable");
        let outcome = attempt(&spec(&postgres, user, &kept_back));
        assert_down(&outcome, "auth", "auth", "28000");
        assert_eq!(expiry(&outcome), None);
    }
    let client = json!({"clientCert": pki.client.cert_pem, "clientKey": pki.client.key_pem});
    // The certificate alone is enough for one, and not for the other.
    let url = |user: &str| format!("postgres://{user}@localhost:{}/app", postgres.port());
    let spec = |user: &str| {
        with(
            json!({"type": "postgres", "url": url(user)}),
            client.clone(),
        )
    };
    up(spec("certonly"));
    down(spec("pwcert"), "auth", "auth", "");
    let wrong = with(spec("pwcert"), json!({"password": "wrong"}));
    down(wrong, "auth", "auth", "28P01");
}

fn binds_the_login_to_the_channel() {
    let postgres = need!(Rig::shared().postgres());
    let unbound = "not bound to the TLS channel";
    check(
        &postgres,
        "probe",
        &[
            ("sslmode=require&channel_binding=require", "up", ""),
            ("sslmode=require&channel_binding=prefer", "up", ""),
            ("sslmode=require&channel_binding=disable", "up", ""),
            (
                "sslmode=require&channel_binding=require&ssl_max_protocol_version=TLSv1.2",
                "up",
                "",
            ),
            (
                "sslmode=allow&channel_binding=require",
                "auth auth -",
                unbound,
            ),
        ],
    );
    let bound = (
        "sslmode=require&channel_binding=require",
        "auth auth -",
        unbound,
    );
    for user in ["md5user", "clear", "nopw"] {
        check(&postgres, user, &[bound]);
    }
    let without = need!(Rig::shared().get(PostgresKind::NoTls));
    let plain = (
        "sslmode=prefer&channel_binding=require",
        "auth auth -",
        unbound,
    );
    check(&without, "probe", &[plain]);
}

/// A server before 17 takes the handshake for a very long message, and hangs up.
fn direct_tls_at_a_server_that_is_too_old() {
    let postgres = need!(Rig::shared().postgres());
    let outcome = attempt(&spec(
        &postgres,
        "probe",
        "sslmode=require&sslnegotiation=direct",
    ));
    let failure = outcome.result.expect_err("too old for it");
    assert_eq!(failure.reason.as_str(), "connect_reset", "{failure:?}");
    assert_eq!(failure.phase.map(|phase| phase.as_str()), Some("tls"));
    let hint = failure.hint.expect("a hint");
    assert!(hint.contains("PostgreSQL 17"), "{hint}");
}

fn speaks_over_a_unix_socket() {
    let postgres = need!(Rig::shared().postgres());
    let (dir, port) = (postgres.socket_dir(), postgres.port());
    let dir = dir.display();
    let encoded = dir.to_string().replace('/', "%2F");
    let ca = &Rig::shared().pki().ca.cert_pem;
    let login = json!({"type": "postgres", "username": "probe", "password": PASSWORD});
    let at = |url: &str| with(login.clone(), json!({"url": url}));
    for url in [
        format!("postgres:///app?host={dir}&port={port}"),
        format!("postgres://{encoded}:{port}/app"),
        format!("postgres://probe@{encoded}:{port}/app?sslmode=require"),
        format!("host={dir} port={port} dbname=app"),
    ] {
        let outcome = up(at(&url));
        assert_eq!(phases(&outcome), ["connect", "auth", "request"], "{url}");
        assert!(outcome.tls.is_none());
    }
    // There is no TLS on a socket, and nothing to verify.
    let url = format!("postgres://{encoded}:{port}/app?sslmode=verify-full");
    up(with(at(&url), json!({"caCert": ca})));
    let wrong = with(at(&url), json!({"password": "wrong"}));
    down(wrong, "auth", "auth", "28P01");
    let outcome = down(
        at("postgres://%2Fnowhere/app"),
        "connect_refused",
        "connect",
        "",
    );
    let message = outcome.result.unwrap_err().message;
    assert!(message.contains("/nowhere/.s.PGSQL.5432"), "{message}");
}

fn wrong_missing_and_expired_credentials() {
    let postgres = need!(Rig::shared().postgres());
    for user in ["probe", "md5user", "clear"] {
        for mode in ["disable", "require"] {
            let spec = spec(&postgres, user, &format!("sslmode={mode}"));
            let wrong = with(spec, json!({"password": "wrong"}));
            down(wrong, "auth", "auth", "28P01");
        }
    }
    let bare = format!("postgres://probe@localhost:{}/app", postgres.port());
    let outcome = down(json!({"type": "postgres", "url": bare}), "auth", "auth", "");
    let hint = outcome.result.unwrap_err().hint.expect("a hint");
    assert!(hint.contains("secretRef"), "{hint}");
    check(&postgres, "expired", &[("", "auth auth 28P01", "password")]);
    check(
        &postgres,
        "nologin1",
        &[("", "auth auth 28000", "not permitted to log in")],
    );
    let stranger = "no pg_hba.conf entry";
    check(
        &postgres,
        "stranger",
        &[
            ("sslmode=disable", "auth auth 28000", stranger),
            ("sslmode=prefer", "auth auth 28000", stranger),
        ],
    );
    // Over the socket the server asks a stranger for a password, and does not tell that there is no
    // such role.
    let url = format!(
        "host={} port={} user=stranger password={PASSWORD} dbname=app",
        postgres.socket_dir().display(),
        postgres.port()
    );
    let outcome = down(
        json!({"type": "postgres", "url": url}),
        "auth",
        "auth",
        "28P01",
    );
    let hint = outcome.result.unwrap_err().hint.expect("a hint");
    assert!(hint.contains("no such user"), "{hint}");
}

fn what_the_server_says_no_to() {
    let postgres = need!(Rig::shared().postgres());
    let limit = "too many connections for role";
    check(&postgres, "lim", &[("", "unavailable auth 53300", limit)]);
    check(
        &postgres,
        "probe",
        &[
            (
                "dbname=nowhere",
                "not_found auth 3D000",
                "database \"nowhere\" does not exist",
            ),
            (
                "dbname=closed",
                "permission auth 42501",
                "permission denied for database \"closed\"",
            ),
            (
                "options=-c%20no_such_setting%3D1",
                "assertion auth 42704",
                "\"no_such_setting\"",
            ),
            (
                "options=-c%20statement_timeout%3Dx",
                "assertion auth 22023",
                "\"statement_timeout\"",
            ),
        ],
    );
    let starting = need!(Rig::shared().get(PostgresKind::Starting));
    let full = need!(Rig::shared().get(PostgresKind::Full));
    for mode in ["disable", "prefer", "require"] {
        let options = format!("sslmode={mode}");
        let not_yet = "not accepting connections";
        check(
            &starting,
            "probe",
            &[(&options, "unavailable auth 57P03", not_yet)],
        );
        let slots = "connection slots are reserved";
        check(
            &full,
            "probe",
            &[(&options, "unavailable auth 53300", slots)],
        );
    }
}

fn the_query_decides() {
    let postgres = need!(Rig::shared().postgres());
    let ask = |text: &str| with(spec(&postgres, "nopw", ""), query(text));
    for answers in [
        "SELECT generate_series(1, 10000)",
        "SELECT 1; SELECT 2",
        "SELECT NULL",
        "SELECT 1 WHERE false",
        "",
    ] {
        up(ask(answers));
    }
    for (text, reason, code) in [
        ("SELECT * FROM locked", "permission", "42501"),
        ("SELECT * FROM nowhere", "assertion", "42P01"),
        ("SELEC 1", "assertion", "42601"),
        ("SELECT 1 / 0", "assertion", "22012"),
        ("SELECT 1; SELECT 1 / 0", "assertion", "22012"),
        ("COPY (SELECT 1) TO STDOUT", "protocol", ""),
        (
            "SELECT pg_terminate_backend(pg_backend_pid())",
            "unavailable",
            "57P01",
        ),
    ] {
        down(ask(text), reason, "request", code);
    }
    let limited = spec(&postgres, "nopw", "options=-c%20statement_timeout%3D200ms");
    let sleeps = with(limited, query("SELECT pg_sleep(60)"));
    down(sleeps, "timeout", "request", "57014");
}

fn a_query_that_answers_too_much() {
    let postgres = need!(Rig::shared().postgres());
    check_long_answers(
        |text| with(spec(&postgres, "nopw", "sslmode=disable"), query(text)),
        &[
            "SELECT repeat('x', 16000000)",
            "SELECT repeat('x', 1000000) FROM generate_series(1, 16)",
        ],
        &[
            "SELECT repeat('x', 17000000)",
            "SELECT repeat('x', 1000000) FROM generate_series(1, 17)",
            "SELECT repeat('x', 10000), generate_series(1, 2000000000)",
            "DO $$ BEGIN RAISE NOTICE '%', repeat('x', 17000000); END $$",
            "DO $$ BEGIN RAISE EXCEPTION '%', repeat('x', 17000000); END $$",
        ],
    );
}

fn names_itself_and_passes_options_on() {
    let postgres = need!(Rig::shared().postgres());
    let shown = |options: &str, setting: &str, expected: &str| {
        let text = format!("SELECT 1 / (current_setting('{setting}') = '{expected}')::int");
        up(with(spec(&postgres, "nopw", options), query(&text)));
    };
    shown("", "application_name", "conncheck");
    shown("application_name=orders", "application_name", "orders");
    shown("fallback_application_name=f", "application_name", "f");
    shown("options=-c%20work_mem%3D123kB", "work_mem", "123kB");
    let two = "options=-c%20work_mem%3D123kB%20-c%20search_path%3Dorders";
    shown(two, "work_mem", "123kB");
    shown(two, "search_path", "orders");
    shown("dbname=app", "client_encoding", "UTF8");
    let log = postgres.log();
    for name in ["conncheck", "orders"] {
        let line = format!("user=nopw db=app app={name} ");
        assert!(log.contains(&line), "no `{line}`");
    }
}

/// Who answers, of the servers whose first letters are given.
fn each_target_session_attrs_and_kind_of_server() {
    let main = need!(Rig::shared().postgres());
    let read_only = need!(Rig::shared().get(PostgresKind::ReadOnly));
    let standby = need!(Rig::shared().get(PostgresKind::Standby));
    let ports = [
        ('m', main.port()),
        ('r', read_only.port()),
        ('s', standby.port()),
    ];
    let columns = [
        "m", "r", "s", "mr", "rm", "ms", "sm", "rs", "sr", "mrs", "srm",
    ];
    check_grid(
        &[
            "any",
            "read-write",
            "read-only",
            "primary",
            "standby",
            "prefer-standby",
        ],
        &columns.map(|letters| (letters, letters)),
        |attrs, letters| {
            let hosts: Vec<_> = letters
                .chars()
                .filter_map(|letter| ports.iter().find(|(known, _)| *known == letter))
                .map(|(_, port)| format!("127.0.0.1:{port}"))
                .collect();
            let url = format!(
                "postgres://nopw@{}/app?sslmode=disable&target_session_attrs={attrs}",
                hosts.join(",")
            );
            // The port comes back in the error.
            let who = query("SELECT ('port ' || current_setting('port'))::int");
            let outcome = attempt(&with(json!({"type": "postgres", "url": url}), who));
            let failure = outcome.result.expect_err("not a number");
            match failure.code.as_deref() {
                Some("22P02") => ports
                    .iter()
                    .find(|(_, port)| failure.message.contains(&format!("\"port {port}\"")))
                    .map_or_else(|| panic!("{failure:?}"), |(letter, _)| letter.to_string()),
                _ => {
                    assert!(failure.message.contains(&format!("wants `{attrs}`")));
                    assert_eq!(failure.phase.map(|phase| phase.as_str()), Some("request"));
                    failure.reason.to_string()
                }
            }
        },
        "
                m                   r                   s                   mr                  rm                  ms                  sm                  rs                  sr                  mrs                 srm
any             m                   r                   s                   m                   r                   m                   s                   r                   s                   m                   s
read-write      m                   assertion           assertion           m                   m                   m                   m                   assertion           assertion           m                   m
read-only       assertion           r                   s                   r                   r                   s                   s                   r                   s                   r                   s
primary         m                   r                   assertion           m                   r                   m                   m                   r                   r                   m                   r
standby         assertion           assertion           s                   assertion           assertion           s                   s                   s                   s                   s                   s
prefer-standby  m                   r                   s                   m                   r                   s                   s                   s                   s                   s                   s
",
    );
}

fn several_hosts() {
    let main = need!(Rig::shared().postgres());
    let read_only = need!(Rig::shared().get(PostgresKind::ReadOnly));
    let starting = need!(Rig::shared().get(PostgresKind::Starting));
    let full = need!(Rig::shared().get(PostgresKind::Full));
    let (nobody, no_one) = (faults::refused().unwrap(), faults::refused().unwrap());
    let (nobody, no_one) = (nobody.addr().port(), no_one.addr().port());
    let (main, read_only) = (main.port(), read_only.port());
    let spec = |ports: &[u16], options: &str| {
        let hosts: Vec<_> = ports
            .iter()
            .map(|port| format!("127.0.0.1:{port}"))
            .collect();
        let url = format!(
            "postgres://probe:{PASSWORD}@{}/app?{options}",
            hosts.join(",")
        );
        json!({"type": "postgres", "url": url})
    };
    let at = |ports: &[u16], options: &str| attempt(&spec(ports, options));
    for (ports, options) in [
        (&[nobody, main][..], ""),
        (&[nobody, no_one, main], ""),
        (&[nobody, main], "load_balance_hosts=random"),
        (&[starting.port(), main], ""),
        (&[main, nobody], ""),
    ] {
        let outcome = at(ports, options);
        assert!(outcome.is_up(), "{ports:?} {options}: {outcome:#?}");
        assert_eq!(phases(&outcome), ["connect", "tls", "auth", "request"]);
    }
    let refused = |port: u16| format!("`127.0.0.1:{port}`: connection refused");
    let wrong_kind = format!("`127.0.0.1:{read_only}`: the server is read-only");
    let no_database = format!("`127.0.0.1:{main}`: database \"nowhere\" does not exist");
    let slots = format!("`127.0.0.1:{}`: remaining connection slots", full.port());
    for (ports, options, expected, says) in [
        (
            &[nobody, no_one][..],
            "",
            "connect_refused connect -",
            &[&refused(nobody), &refused(no_one)][..],
        ),
        (
            &[nobody, read_only],
            "target_session_attrs=read-write",
            "assertion request -",
            &[&refused(nobody), &wrong_kind],
        ),
        (
            &[read_only, nobody],
            "target_session_attrs=read-write",
            "assertion request -",
            &[&wrong_kind, &refused(nobody)],
        ),
        // A host that says no ends it.
        (
            &[main, nobody],
            "dbname=nowhere",
            "not_found auth 3D000",
            &[&no_database],
        ),
        (
            &[full.port(), main],
            "",
            "unavailable auth 53300",
            &[&slots],
        ),
    ] {
        let outcome = at(ports, options);
        assert_eq!(summary(&outcome), expected, "{ports:?}: {outcome:#?}");
        let message = outcome.result.unwrap_err().message;
        let parts: Vec<_> = message.split("; ").collect();
        assert_eq!(parts.len(), says.len(), "{message}");
        for (part, says) in parts.iter().zip(says) {
            assert!(part.starts_with(says.as_str()), "{message}");
        }
    }
    // One that hangs does not hide the next.
    let silent = Peer::silent().unwrap();
    let outcome = attempt_within(SHARED, &spec(&[silent.port(), main], ""));
    assert!(outcome.is_up(), "{outcome:#?}");
    assert!(silent.everybody_left(PATIENCE));
    let sockets = need!(Rig::shared().postgres()).socket_dir();
    let url = format!(
        "postgres:///app?host=/nowhere,{}&port={main}&user=probe&password={PASSWORD}",
        sockets.display()
    );
    up(json!({"type": "postgres", "url": url}));
}

fn a_stopped_process_is_a_timeout() {
    let postgres = need!(own("paused"));
    let spec = |options: &str| spec(&postgres, "nopw", options);
    postgres.process().pause();
    for (mode, phase) in [
        ("disable", "auth"),
        ("allow", "auth"),
        ("prefer", "tls"),
        ("verify-full", "tls"),
    ] {
        let outcome = attempt_within(SHORT, &spec(&format!("sslmode={mode}")));
        assert_down(&outcome, "timeout", phase, "");
        assert!(outcome.duration >= SHORT, "{mode}: {outcome:?}");
    }
    let limited = spec("sslmode=disable&connect_timeout=1");
    let outcome = down(limited, "timeout", "auth", "");
    let message = outcome.result.unwrap_err().message;
    assert!(message.contains("within 1s"), "{message}");
    postgres.process().resume();
    up(spec("sslmode=prefer"));
    let socket = format!(
        "host={} port={} user=nopw dbname=app",
        postgres.socket_dir().display(),
        postgres.port()
    );
    let socket = json!({"type": "postgres", "url": socket});
    up(socket.clone());
    postgres.process().stop();
    down(spec("sslmode=prefer"), "connect_refused", "connect", "");
    down(socket, "connect_refused", "connect", "");
}

fn a_query_that_hangs_is_a_timeout_in_the_request() {
    let postgres = need!(own("slow"));
    let specs = ["disable", "require"].map(|mode| {
        let spec = spec(&postgres, "nopw", &format!("sslmode={mode}"));
        with(spec, query("SELECT pg_sleep(600)"))
    });
    for outcome in attempts_within(ENDLESS_QUERY, specs) {
        assert_down(&outcome, "timeout", "request", "");
        assert!(outcome.server.is_some());
    }
    // The server was told: no query goes on without us.
    let asking = "SELECT query FROM pg_stat_activity \
                  WHERE query LIKE '%sleep(600)%' AND pid <> pg_backend_pid()";
    let is_over = || postgres.sql("app", asking).unwrap().is_empty();
    assert!(soon(is_over), "a query goes on");
}

fn leaves_no_session_and_no_complaint_behind() {
    const LOGINS: usize = 5;
    let postgres = need!(own("clean"));
    let attempt = |user: &str, options: &str, more: Value| {
        attempt(&with(spec(&postgres, user, options), more))
    };
    for mode in ["disable", "prefer", "require"] {
        let mode = format!("sslmode={mode}");
        for _ in 0..LOGINS {
            assert!(attempt("probe", &mode, json!({})).is_up());
            let wrong = attempt("probe", &mode, json!({"password": "wrong"}));
            assert_down(&wrong, "auth", "auth", "28P01");
        }
        for text in [
            "SELECT 1 / 0",
            "SELECT repeat('x', 999999)",
            "COPY (SELECT 1) TO STDOUT",
        ] {
            attempt("nopw", &mode, query(text));
        }
        for options in [
            "target_session_attrs=standby",
            "target_session_attrs=prefer-standby",
            "dbname=nowhere",
            "dbname=closed",
        ] {
            attempt("nopw", &format!("{mode}&{options}"), json!({}));
        }
        for options in ["require_auth=md5", "channel_binding=disable", "password="] {
            attempt("probe", &format!("{mode}&{options}"), json!({}));
        }
        for user in ["lim", "nologin1", "md5user", "certonly"] {
            attempt(user, &mode, json!({}));
        }
    }
    let sessions = "select from pg_stat_activity
        where backend_type = 'client backend' and pid <> pg_backend_pid()";
    let sessions = || postgres.sql("app", sessions).unwrap().len();
    let goodbye = "user=probe db=app app=conncheck LOG:  disconnection";
    let goodbyes = || postgres.log().matches(goodbye).count();
    let is_over = || sessions() == 0 && goodbyes() >= 3 * LOGINS;
    assert!(
        soon(is_over),
        "{} sessions are left, {} have said goodbye",
        sessions(),
        goodbyes()
    );
    for complaint in [
        "unexpected EOF",
        "could not receive",
        "could not send",
        "could not accept SSL",
        "connection to client lost",
        "incomplete",
        "reset by peer",
        "invalid",
    ] {
        let log = postgres.log();
        let lines: Vec<_> = log
            .lines()
            .filter(|line| line.contains(complaint))
            .collect();
        assert!(lines.is_empty(), "{lines:#?}");
    }
}
