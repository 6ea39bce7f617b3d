//! `mysql` against real MariaDB, and against a peer of ours that logs clients in as MySQL 8 does.
//!
//! As with `postgres`, what comes of each mode at each server is a grid, and whether a session is in
//! TLS is asked of the server itself: [`IN_TLS`] fails where it is not.

use std::net::Ipv4Addr;

use conncheck_probes::Outcome;
use conncheck_rig::{
    Certified, MariaDb, MariaDbKind, Mysql8, PASSWORD, PATIENCE, Relay, Rig, Shown, Skipped,
    mariadb, need,
};
use serde_json::{Value, json};

use crate::check::{
    self, ENDLESS_QUERY, LONGER, SHORT, TIMEOUT, assert_down, assert_recorded, attempt,
    attempt_with_secret, attempt_within, check_certificates, check_grid, check_long_answers, down,
    hint_of, phases, soon, summary, up, with,
};

crate::trials![
    logs_in_by_each_method,
    reads_a_url_and_what_go_writes,
    speaks_over_a_unix_socket,
    credentials_of_the_spec_win_over_the_url,
    a_secret_s_single_key_is_the_password,
    each_mode_where_tls_is_a_choice_a_must_and_not_to_be_had,
    each_mode_and_certificate_without_an_authority,
    each_mode_and_certificate_with_a_ca_cert,
    each_mode_and_certificate_with_an_ssl_ca,
    what_else_decides_about_a_certificate,
    client_certificates_missing_wrong_and_right,
    wrong_and_missing_credentials,
    what_the_server_says_no_to,
    no_room_for_us,
    the_query_decides,
    a_query_that_answers_too_much,
    a_query_that_hangs_is_given_up_by_the_server,
    names_itself_and_sets_what_the_url_says,
    a_stopped_process_is_a_timeout,
    mysql_8_takes_the_password_in_each_of_its_ways,
    mysql_8_with_certificates_good_and_bad,
    mysql_8_says_no,
    results_of_every_shape,
    no_password_goes_where_others_can_read_it,
    leaves_no_connection_and_no_complaint_behind,
    never_makes_the_server_block_the_host,
];

const MODES: [&str; 5] = [
    "disabled",
    "preferred",
    "required",
    "verify-ca",
    "verify-full",
];

/// Has two rows where one may be, and so fails with 1242, where the session is not in TLS.
const IN_TLS: &str = "SELECT IF((SELECT variable_value FROM information_schema.session_status \
    WHERE variable_name = 'Ssl_version') = '', (SELECT 1 UNION SELECT 2), 1)";

fn spec(server: &MariaDb, user: &str, options: &str) -> Value {
    json!({"type": "mysql", "url": format!("{}?{options}", without_password(user, server.url(user)))})
}

/// The account that has none is given none.
fn without_password(user: &str, url: String) -> String {
    match user {
        "nopw" => url.replace(&format!(":{PASSWORD}"), ""),
        _ => url,
    }
}

fn query(query: &str) -> Value {
    json!({"properties": {"query": query}})
}

/// One that nobody else talks to, so that it may be paused and its log and counters belong to the
/// test.
fn own<'a>(
    name: &str,
    and: impl FnOnce(mariadb::Builder<'a>) -> mariadb::Builder<'a>,
) -> Result<MariaDb, Skipped> {
    let rig = Rig::shared();
    Ok(and(MariaDb::builder(rig.pki(), rig.dir()).name(name)).start()?)
}

/// The cell of an attempt that asked [`IN_TLS`].
fn cell(outcome: &Outcome) -> String {
    check::cell(outcome, "1242")
}

fn logs_in_by_each_method() {
    let mariadb = need!(Rig::shared().mariadb());
    let version = mariadb.sql("select version()").unwrap();
    let version = version[0][0].as_deref().expect("a version");
    let version = format!("MariaDB {}", version.split('-').next().unwrap());
    for user in ["probe", "ed", "nopw"] {
        let outcome = up(spec(&mariadb, user, "tls=required"));
        assert_eq!(
            phases(&outcome),
            ["resolve", "connect", "tls", "auth", "request"],
            "{user}"
        );
        assert_eq!(outcome.server.as_deref(), Some(version.as_str()));
        let outcome = up(spec(&mariadb, user, "tls=disabled"));
        assert_eq!(
            phases(&outcome),
            ["resolve", "connect", "auth", "request"],
            "{user}"
        );
    }
    // Each was asked for what it is there for.
    let outcome = attempt(&spec(&mariadb, "probe", "allowNativePasswords=false"));
    assert_down(&outcome, "auth", "auth", "");
    up(spec(&mariadb, "ed", "allowNativePasswords=false"));
}

fn reads_a_url_and_what_go_writes() {
    let mariadb = need!(Rig::shared().mariadb());
    let port = mariadb.port();
    for url in [
        format!("mariadb://probe:{PASSWORD}@127.0.0.1:{port}/app"),
        format!("mysql://probe:{PASSWORD}@127.0.0.1:{port}"),
        format!("mysql://127.0.0.1:{port}/app?user=probe&password={PASSWORD}"),
        format!("probe:{PASSWORD}@tcp(127.0.0.1:{port})/app"),
        format!("probe:{PASSWORD}@tcp(127.0.0.1:{port})/"),
        format!("mysql://probe:{PASSWORD}@tcp(127.0.0.1:{port})/app?parseTime=true&loc=UTC"),
        format!("probe:{PASSWORD}@tcp(127.0.0.1:{port})/app?tls=skip-verify&timeout=2s"),
        format!("probe:{PASSWORD}@127.0.0.1:{port}/app?charset=utf8mb4,utf8"),
    ] {
        let outcome = up(json!({"type": "mariadb", "url": url}));
        assert_eq!(
            phases(&outcome),
            ["connect", "tls", "auth", "request"],
            "{url}"
        );
    }
}

fn speaks_over_a_unix_socket() {
    let mariadb = need!(Rig::shared().mariadb());
    let socket = mariadb.socket();
    let socket = socket.display();
    let login = json!({"type": "mysql", "username": "probe", "password": PASSWORD});
    let at = |url: &str| with(login.clone(), json!({"url": url}));
    for url in [
        format!("unix({socket})/app"),
        format!("mysql://unix({socket})/app"),
        format!("nobody:nothing@unix({socket})/app"),
        format!("mysql://localhost/app?socket={socket}"),
    ] {
        // As MySQL's clients, who prefers TLS does not look for it there.
        let outcome = up(at(&url));
        assert_eq!(phases(&outcome), ["connect", "auth", "request"], "{url}");
        assert!(outcome.tls.is_none());
    }
    // Who wants it gets it.
    let ca = &Rig::shared().pki().ca.cert_pem;
    let outcome = up(with(
        at(&format!("unix({socket})/app?tls=verify-full")),
        json!({"caCert": ca}),
    ));
    assert!(outcome.tls.expect("recorded").verified);
    down(
        at("unix(/nowhere/mysqld.sock)/app"),
        "connect_refused",
        "connect",
        "",
    );
}

fn credentials_of_the_spec_win_over_the_url() {
    let mariadb = need!(Rig::shared().mariadb());
    let port = mariadb.port();
    for url in [
        format!("mysql://nobody:nothing@localhost:{port}/app"),
        format!("nobody:nothing@tcp(localhost:{port})/app"),
        format!("mysql://$(username):$(password)@localhost:{port}/app"),
        format!("$(username):$(password)@tcp(localhost:{port})/app"),
        format!("mysql://$(username):$(password)@tcp(localhost:{port})/app"),
    ] {
        up(json!({"type": "mysql", "url": url, "username": "probe", "password": PASSWORD}));
    }
}

fn a_secret_s_single_key_is_the_password() {
    let mariadb = need!(Rig::shared().mariadb());
    let url = format!("mysql://probe@localhost:{}/app", mariadb.port());
    let spec =
        json!({"type": "mysql", "url": url, "secretRef": {"name": "any", "key": "whatever"}});
    let outcome = attempt_with_secret(&[("whatever", PASSWORD)], &spec);
    assert!(outcome.is_up(), "{outcome:#?}");
    let whole = json!({"type": "mysql", "secretRef": {"name": "any"}});
    let url = format!("mysql://localhost:{}/app", mariadb.port());
    let secret = [
        ("url", &*url),
        ("username", "probe"),
        ("password", PASSWORD),
    ];
    let outcome = attempt_with_secret(&secret, &whole);
    assert!(outcome.is_up(), "{outcome:#?}");
}

fn each_mode_where_tls_is_a_choice_a_must_and_not_to_be_had() {
    let main = need!(Rig::shared().mariadb());
    let must = need!(Rig::shared().get(MariaDbKind::TlsOnly));
    let without = need!(Rig::shared().get(MariaDbKind::NoTls));
    check_grid(
        &MODES[..3],
        &[
            ("probe", (&main, "probe")),
            ("tlsonly", (&main, "tlsonly")),
            ("TLS only: probe", (&must, "probe")),
            ("no TLS: probe", (&without, "probe")),
            ("no TLS: tlsonly", (&without, "tlsonly")),
        ],
        |mode, (server, user)| {
            let spec = spec(server, user, &format!("tls={mode}"));
            cell(&attempt(&with(spec, query(IN_TLS))))
        },
        "
                probe               tlsonly             TLS only: probe     no TLS: probe       no TLS: tlsonly
disabled        plain               auth 1045           auth 1045           plain               auth 1045
preferred       tls                 tls                 tls                 plain               auth 1045
required        tls                 tls                 tls                 tls_other           tls_other
",
    );
    for mode in ["required", "verify-ca", "verify-full"] {
        let spec = spec(&without, "probe", &format!("tls={mode}"));
        let outcome = down(spec, "tls_other", "tls", "");
        let message = outcome.result.unwrap_err().message;
        assert!(message.contains("does not offer TLS"), "{message}");
    }
    let hint = hint_of(attempt(&spec(&main, "tlsonly", "tls=disabled")));
    assert!(hint.contains("REQUIRE SSL"), "{hint}");
    let hint = hint_of(attempt(&spec(&must, "probe", "tls=disabled")));
    assert!(hint.contains("require_secure_transport"), "{hint}");
    // The property wins over the URL, which has its own names for the modes.
    for (option, is_in_tls) in [
        ("ssl-mode=DISABLED", false),
        ("sslMode=REQUIRED", true),
        ("tls=false", false),
        ("tls=skip-verify", true),
        ("ssl=true", true),
    ] {
        let asked = with(spec(&main, "probe", option), query(IN_TLS));
        let expected = if is_in_tls { "tls" } else { "plain" };
        assert_eq!(cell(&attempt(&asked)), expected, "{option}");
        let other = if is_in_tls { "disabled" } else { "required" };
        let overruled = with(asked, json!({"properties": {"tls": other}}));
        assert_ne!(cell(&attempt(&overruled)), expected, "{option}");
    }
}

/// Every mode at a server with each of the certificates, with `more` in the URL or the definition.
#[track_caller]
fn each_certificate(more: &dyn Fn(&str) -> (String, Value), expected: &str) {
    check_certificates(
        &MODES,
        |shown| match shown {
            Shown::Server => MariaDbKind::Main,
            other => MariaDbKind::Shows(other),
        },
        |mode, server| {
            let (options, more) = more(mode);
            let spec = with(spec(server, "probe", &options), query(IN_TLS));
            attempt(&with(spec, more))
        },
        cell,
        expected,
    );
}

fn each_mode_and_certificate_without_an_authority() {
    each_certificate(
        &|mode| (format!("tls={mode}"), json!({})),
        "
                server              intermediate        wrong_name          unknown_ca          self_signed         expired             not_yet_valid
disabled        plain               plain               plain               plain               plain               plain               plain
preferred       tls                 tls                 tls                 tls                 tls                 tls                 tls
required        tls                 tls                 tls                 tls                 tls                 tls                 tls
verify-ca       tls_unknown_ca      tls_unknown_ca      tls_unknown_ca      tls_unknown_ca      tls_unknown_ca      tls_expired         tls_not_yet_valid
verify-full     tls_unknown_ca      tls_unknown_ca      tls_unknown_ca      tls_unknown_ca      tls_unknown_ca      tls_expired         tls_not_yet_valid
",
    );
}

/// An authority that is given is always verified against, so every mode but `disabled` then wants
/// TLS.
const WITH_AN_AUTHORITY: &str = "
                server              intermediate        wrong_name          unknown_ca          self_signed         expired             not_yet_valid
disabled        plain               plain               plain               plain               plain               plain               plain
preferred       tls                 tls                 tls                 tls_unknown_ca      tls_unknown_ca      tls_expired         tls_not_yet_valid
required        tls                 tls                 tls                 tls_unknown_ca      tls_unknown_ca      tls_expired         tls_not_yet_valid
verify-ca       tls                 tls                 tls                 tls_unknown_ca      tls_unknown_ca      tls_expired         tls_not_yet_valid
verify-full     verified            verified            tls_name_mismatch   tls_unknown_ca      tls_unknown_ca      tls_expired         tls_not_yet_valid
";

fn each_mode_and_certificate_with_a_ca_cert() {
    let ca = &Rig::shared().pki().ca.cert_pem;
    each_certificate(
        &|mode| (format!("tls={mode}"), json!({"caCert": ca})),
        WITH_AN_AUTHORITY,
    );
}

fn each_mode_and_certificate_with_an_ssl_ca() {
    let ca = Rig::shared().pki().ca.cert_path.display();
    each_certificate(
        &|mode| (format!("ssl-mode={mode}&ssl-ca={ca}"), json!({})),
        WITH_AN_AUTHORITY,
    );
}

fn what_else_decides_about_a_certificate() {
    let mariadb = need!(Rig::shared().mariadb());
    let without = need!(Rig::shared().get(MariaDbKind::NoTls));
    let wrong_name = need!(Rig::shared().get(MariaDbKind::Shows(Shown::WrongName)));
    let pki = Rig::shared().pki();
    let tls_of = |server: &MariaDb, options: &str, more: Value| {
        let spec = with(spec(server, "probe", options), query(IN_TLS));
        cell(&attempt(&with(spec, more)))
    };
    let (ca, other) = (&pki.ca.cert_pem, &pki.other_ca.cert_pem);
    // Who names the server means the name, in every mode that verifies.
    for mode in &MODES[1..] {
        let options = format!("tls={mode}");
        let named = json!({"caCert": ca, "properties": {"serverName": "elsewhere.test"}});
        assert_eq!(tls_of(&wrong_name, &options, named.clone()), "verified");
        assert_eq!(tls_of(&mariadb, &options, named), "tls_name_mismatch");
    }
    for careless in [
        json!({"caCert": other, "insecureSkipVerify": true}),
        json!({"caCert": other, "properties": {"insecureSkipVerify": true}}),
    ] {
        assert_eq!(tls_of(&wrong_name, "tls=verify-full", careless), "tls");
    }
    // An authority to verify against makes TLS a must.
    assert_eq!(tls_of(&without, "", json!({"caCert": ca})), "tls_other");
    // The definition's authority wins over the URL's.
    let options = format!(
        "tls=verify-full&ssl-ca={}",
        pki.other_ca.cert_path.display()
    );
    assert_eq!(tls_of(&mariadb, &options, json!({})), "tls_unknown_ca");
    assert_eq!(
        tls_of(&mariadb, &options, json!({"caCert": ca})),
        "verified"
    );
    for version in ["TLSv1.2", "TLSv1.3"] {
        let outcome = up(spec(&mariadb, "probe", &format!("tls-version={version}")));
        let tls = outcome.tls.expect("recorded");
        assert_eq!(tls.version.as_deref(), Some(version));
    }
}

fn client_certificates_missing_wrong_and_right() {
    let mariadb = need!(Rig::shared().mariadb());
    let pki = Rig::shared().pki();
    let spec_of = |user: &str| {
        with(
            spec(&mariadb, user, "tls=verify-full"),
            json!({"caCert": pki.ca.cert_pem}),
        )
    };
    let with_client = |user: &str, client: &Certified| {
        with(
            spec_of(user),
            json!({"clientCert": client.cert_pem, "clientKey": client.key_pem}),
        )
    };
    for user in ["certonly", "subject"] {
        let hint = hint_of(down(spec_of(user), "auth", "auth", "1045"));
        assert!(hint.contains("REQUIRE X509"), "{hint}");
        down(
            with_client(user, &pki.client_unknown_ca),
            "tls_other",
            "tls",
            "unknown_ca",
        );
        down(
            with_client(user, &pki.client_expired),
            "tls_other",
            "tls",
            "certificate_expired",
        );
        let outcome = up(with_client(user, &pki.client));
        assert_eq!(
            outcome.credential_expiry.map(|time| time.as_second()),
            Some(pki.client.not_after)
        );
    }
    let hint = hint_of(down(
        with_client("othersubject", &pki.client),
        "auth",
        "auth",
        "1045",
    ));
    assert!(hint.contains("REQUIRE SUBJECT"), "{hint}");
    // By paths in the URL.
    let options = format!(
        "tls=verify-full&ssl-ca={}&ssl-cert={}&ssl-key={}",
        pki.ca.cert_path.display(),
        pki.client.cert_path.display(),
        pki.client.key_path.display()
    );
    up(spec(&mariadb, "subject", &options));
}

fn wrong_and_missing_credentials() {
    let mariadb = need!(Rig::shared().mariadb());
    for user in ["probe", "ed", "nobody"] {
        for mode in ["disabled", "required"] {
            let spec = spec(&mariadb, user, &format!("tls={mode}"));
            let wrong = with(spec, json!({"password": "wrong"}));
            let hint = hint_of(down(wrong, "auth", "auth", "1045"));
            assert!(hint.starts_with("wrong password"), "{hint}");
        }
    }
    let bare = format!("mysql://probe@localhost:{}/app", mariadb.port());
    let hint = hint_of(down(
        json!({"type": "mysql", "url": bare}),
        "auth",
        "auth",
        "1045",
    ));
    assert!(hint.contains("secretRef"), "{hint}");
    for (user, code) in [("locked", "4151"), ("onlocal", "1698")] {
        down(spec(&mariadb, user, ""), "auth", "auth", code);
    }
    // It is let in to a new password, and a ping.
    let expired = spec(&mariadb, "expired", "");
    down(expired.clone(), "auth", "request", "1820");
    down(with(expired, query("SELECT 1")), "auth", "request", "1820");
    let strict = need!(own("mariadb-expired", |builder| {
        builder.setting("disconnect-on-expired-password", "ON")
    }));
    down(spec(&strict, "expired", ""), "auth", "auth", "1862");
}

fn what_the_server_says_no_to() {
    let mariadb = need!(Rig::shared().mariadb());
    let at = |login: &str, database: &str| {
        let url = format!("mysql://{login}@localhost:{}/{database}", mariadb.port());
        json!({"type": "mysql", "url": url})
    };
    let probe = format!("probe:{PASSWORD}");
    let reader = format!("reader:{PASSWORD}");
    down(at(&reader, "nowhere"), "not_found", "auth", "1049");
    // To whom nothing is granted there, it does not tell that there is no such database.
    let hint = hint_of(down(at(&probe, "nowhere"), "permission", "auth", "1044"));
    assert!(hint.contains("does not exist"), "{hint}");
    down(at(&probe, "closed"), "permission", "auth", "1044");
    up(at(&probe, ""));

    // From another address than the accounts are for.
    let own = need!(own("mariadb-elsewhere", |builder| builder
        // It would ask in the midst of a login whose name that address is.
        .setting("skip-name-resolve", "ON")));
    own.sql("rename user probe@'%' to probe@'127.0.0.1'")
        .unwrap();
    let relay = Relay::start(own.port(), Ipv4Addr::new(127, 0, 0, 2)).unwrap();
    let url = format!("mysql://probe:{PASSWORD}@127.0.0.1:{}/app", relay.port());
    let elsewhere = json!({"type": "mysql", "url": url});
    down(elsewhere.clone(), "auth", "auth", "1045");
    for row in own
        .sql("select user from mysql.global_priv where host = '%'")
        .unwrap()
    {
        let user = row[0].as_deref().unwrap();
        own.sql(&format!("drop user {user}@'%'")).unwrap();
    }
    own.sql("flush privileges").unwrap();
    let hint = hint_of(down(elsewhere, "auth", "auth", "1130"));
    assert!(hint.contains("CREATE USER"), "{hint}");
}

fn no_room_for_us() {
    for kind in [MariaDbKind::Full, MariaDbKind::FullForAll] {
        let full = need!(Rig::shared().get(kind));
        for mode in ["disabled", "preferred", "required"] {
            let spec = spec(&full, "probe", &format!("tls={mode}"));
            let hint = hint_of(down(spec, "unavailable", "auth", "1040"));
            assert!(hint.contains("max_connections"), "{hint}");
        }
    }
    // One account that is full.
    let mariadb = need!(Rig::shared().mariadb());
    let sleeps = with(spec(&mariadb, "lim", ""), query("SELECT SLEEP(60)"));
    std::thread::scope(|scope| {
        let holder = scope.spawn(|| attempt_within(2 * PATIENCE, &sleeps));
        let holds = "select id from information_schema.processlist
            where user = 'lim' and info like 'SELECT SLEEP%'";
        let held = || mariadb.sql(holds).unwrap();
        assert!(soon(|| !held().is_empty()), "nobody holds the place");
        down(spec(&mariadb, "lim", ""), "unavailable", "auth", "1226");
        let id = held()[0][0].clone().unwrap();
        mariadb.sql(&format!("kill query {id}")).unwrap();
        let outcome = holder.join().unwrap();
        assert_down(&outcome, "timeout", "request", "1317");
    });
}

fn the_query_decides() {
    let mariadb = need!(Rig::shared().mariadb());
    let ask = |text: &str| with(spec(&mariadb, "probe", ""), query(text));
    for answers in [
        "SELECT n FROM numbers",
        "SELECT NULL",
        "SELECT 1 WHERE false",
        "SELECT REPEAT('x', 1000000)",
        "SELECT seq FROM app.numbers JOIN (SELECT 1 AS seq) AS one",
        "DO 1",
        "SET @a = 1",
        "SELECT 'ein Umlaut: ä'",
    ] {
        up(ask(answers));
    }
    for (text, reason, code) in [
        ("INSERT INTO numbers VALUES (3)", "permission", "1142"),
        ("SELECT * FROM mysql.user", "permission", "1142"),
        ("SHUTDOWN", "permission", "1227"),
        ("SELECT * FROM app.nowhere", "assertion", "1146"),
        ("SELECT nothing FROM numbers", "assertion", "1054"),
        ("SELEC 1", "assertion", "1064"),
        ("SELECT 1; SELECT 2", "assertion", "1064"),
        ("", "assertion", "1065"),
        ("KILL CONNECTION_ID()", "unavailable", "1927"),
        (
            "SELECT SLEEP(1) FROM (SELECT 1) AS t WHERE (SELECT 1 UNION SELECT 2)",
            "assertion",
            "1242",
        ),
        // We do not say that we would send a file, so the server does not ask for one.
        (
            "LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE numbers",
            "assertion",
            "4166",
        ),
    ] {
        let outcome = attempt(&ask(text));
        let expected = format!("{reason} request {code}");
        assert_eq!(summary(&outcome), expected, "{text}: {outcome:#?}");
    }
    // Two statements are to be allowed, and both must work.
    let two = |text: &str| with(spec(&mariadb, "probe", "multiStatements=true"), query(text));
    up(two("SELECT 1; SELECT 2; DO 3"));
    down(two("SELECT 1; SELEC 2"), "assertion", "request", "1064");
}

fn a_query_that_answers_too_much() {
    let mariadb = need!(Rig::shared().mariadb());
    check_long_answers(
        |text| with(spec(&mariadb, "probe", "tls=disabled"), query(text)),
        &[
            "SELECT REPEAT('x', 16000000)",
            "SELECT REPEAT('x', 1000000) FROM seq_1_to_16",
        ],
        &[
            "SELECT REPEAT('x', 16777210)",
            // In more than one packet.
            "SELECT REPEAT('x', 16000000), REPEAT('x', 16000000)",
            "SELECT REPEAT('x', 1000000) FROM seq_1_to_17",
            "SELECT REPEAT('x', 10000) FROM seq_1_to_2000000000",
        ],
    );
}

fn a_query_that_hangs_is_given_up_by_the_server() {
    let mariadb = need!(own("mariadb-hung", |builder| builder));
    let spec = with(spec(&mariadb, "probe", ""), query("SELECT SLEEP(30)"));
    let outcome = attempt_within(ENDLESS_QUERY, &spec);
    assert_down(&outcome, "timeout", "request", "1969");
    // It is not running any more, and we have left in order.
    let running = "select count(*) from information_schema.processlist where user = 'probe'";
    let is_over = || mariadb.sql(running).unwrap()[0][0].as_deref() == Some("0");
    assert!(soon(is_over), "it goes on");
    assert_eq!(mariadb.status("Aborted_clients").unwrap(), 0);
    // The owner's own limits are shorter.
    let variable = with(
        self::spec(&mariadb, "probe", "max_statement_time=0.1"),
        query("SELECT SLEEP(30)"),
    );
    let outcome = down(variable, "timeout", "request", "1969");
    assert!(outcome.duration < TIMEOUT / 2, "{outcome:?}");
    let url = "readTimeout=200ms";
    let spec = with(
        self::spec(&mariadb, "probe", url),
        query("SELECT SLEEP(30)"),
    );
    let outcome = attempt(&spec);
    let failure = outcome.result.expect_err("it takes longer");
    assert_eq!(failure.reason.as_str(), "timeout", "{failure:?}");
    assert!(outcome.duration < TIMEOUT / 2, "{failure:?}");
}

fn names_itself_and_sets_what_the_url_says() {
    let mariadb = need!(Rig::shared().mariadb());
    let shows = |options: &str, what: &str, expected: &str| {
        let text = format!("SELECT IF(({what}) <=> {expected}, 1, (SELECT 1 UNION SELECT 2))");
        let outcome = attempt(&with(spec(&mariadb, "probe", options), query(&text)));
        assert!(outcome.is_up(), "{options}: {what}: {outcome:#?}");
    };
    // Root may look at what each connection says of itself.
    let attribute = |options: &str, name: &str, value: &str| {
        let url = format!("mysql://root@localhost:{}/?{options}", mariadb.port());
        let text = format!(
            "SELECT IF((SELECT attr_value FROM performance_schema.session_connect_attrs \
             WHERE processlist_id = CONNECTION_ID() AND attr_name = '{name}') = '{value}', 1, (SELECT 1 UNION SELECT 2))"
        );
        up(with(json!({"type": "mysql", "url": url}), query(&text)));
    };
    attribute("", "program_name", "conncheck");
    attribute(
        "connectionAttributes=program_name:orders,team:shop",
        "program_name",
        "orders",
    );
    attribute(
        "connectionAttributes=program_name:orders,team:shop",
        "team",
        "shop",
    );
    shows("", "SELECT DATABASE()", "'app'");
    shows("", "SELECT @@collation_connection", "'utf8mb4_general_ci'");
    shows(
        "collation=utf8mb4_bin",
        "SELECT @@collation_connection",
        "'utf8mb4_bin'",
    );
    shows(
        "charset=latin1",
        "SELECT @@character_set_client",
        "'latin1'",
    );
    shows(
        "charset=latin1&collation=latin1_bin",
        "SELECT @@collation_connection",
        "'latin1_bin'",
    );
    let set = "sql_mode=%27ANSI_QUOTES%27&wait_timeout=77&time_zone=%27%2B03:00%27";
    shows(set, "SELECT @@sql_mode", "'ANSI_QUOTES'");
    shows(set, "SELECT @@wait_timeout", "77");
    shows(set, "SELECT @@time_zone", "'+03:00'");
    for (option, code) in [
        ("sql_mode=nonsense", "1231"),
        ("wait_timeout=%27x%27", "1232"),
    ] {
        let spec = spec(&mariadb, "probe", option);
        down(spec, "assertion", "request", code);
    }
}

fn a_stopped_process_is_a_timeout() {
    let mariadb = need!(own("mariadb-paused", |builder| builder));
    mariadb.process().pause();
    for mode in ["disabled", "required"] {
        let outcome = attempt_within(SHORT, &spec(&mariadb, "probe", &format!("tls={mode}")));
        assert_down(&outcome, "timeout", "auth", "");
        let message = outcome.result.unwrap_err().message;
        assert!(message.contains("no greeting"), "{message}");
    }
    mariadb.process().resume();
    let spec = spec(&mariadb, "probe", "");
    up(spec.clone());
    drop(mariadb);
    down(spec, "connect_refused", "connect", "");
}

/// How a peer was talked to, as far as a row of a test says it.
fn counts(peer: &Mysql8) -> (usize, usize, usize, usize) {
    let counts = peer.counts();
    assert_eq!(
        (counts.aborted, counts.left, counts.file_bytes),
        (0, 0, 0),
        "{counts:?}"
    );
    (
        counts.fast,
        counts.full_over_tls,
        counts.full_under_rsa,
        counts.keys,
    )
}

fn at(peer: &Mysql8, user: &str, options: &str) -> Value {
    json!({"type": "mysql", "url": format!("{}?{options}", without_password(user, peer.url(user)))})
}

fn mysql_8_takes_the_password_in_each_of_its_ways() {
    let pki = Rig::shared().pki();
    let peer = Mysql8::start(&pki.server).unwrap();
    // In full within TLS; then it is remembered, with TLS and without.
    let outcome = up(at(&peer, "probe", ""));
    assert_eq!(phases(&outcome), ["connect", "tls", "auth", "request"]);
    assert_eq!(outcome.server.as_deref(), Some("MySQL 8.0.36"));
    assert_eq!(counts(&peer), (0, 1, 0, 0));
    up(at(&peer, "probe", "tls=required"));
    let outcome = up(at(&peer, "probe", "tls=disabled"));
    assert_eq!(phases(&outcome), ["connect", "auth", "request"]);
    assert_eq!(counts(&peer), (2, 1, 0, 0));
    // In full without TLS: under the key that it gives, and under one that we have.
    peer.forget();
    up(at(&peer, "probe", "tls=disabled"));
    assert_eq!(counts(&peer), (2, 1, 1, 1));
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("public_key.pem");
    std::fs::write(&key, Mysql8::public_key()).unwrap();
    let with_key = format!("tls=disabled&server-public-key-path={}", key.display());
    peer.forget();
    up(at(&peer, "probe", &with_key));
    assert_eq!(counts(&peer), (2, 1, 2, 1));
    // It is not to be asked: that says how to go on, and sends nothing that is of use to anybody.
    peer.forget();
    for never in [
        "allowPublicKeyRetrieval=false",
        "get-server-public-key=false",
    ] {
        let spec = at(&peer, "probe", &format!("tls=disabled&{never}"));
        let hint = hint_of(down(spec, "auth", "auth", ""));
        assert!(hint.contains("server-public-key-path"), "{hint}");
    }
    let spec = at(
        &peer,
        "probe",
        &format!("{with_key}&allowPublicKeyRetrieval=false"),
    );
    up(spec);

    // Accounts that log in otherwise than the server proposes.
    let peer = Mysql8::start(&pki.server).unwrap();
    for mode in ["disabled", "required"] {
        up(at(&peer, "native", &format!("tls={mode}")));
        up(at(&peer, "sha256", &format!("tls={mode}")));
        up(at(&peer, "nopw", &format!("tls={mode}")));
    }
    up(at(&peer, "sha256", &with_key));
    up(at(&peer, "clear", "allowCleartextPasswords=true"));
    assert_eq!(counts(&peer), (0, 1, 2, 1));
    assert_eq!(peer.counts().refused, 0);
    assert_eq!(peer.counts().quit, 8);
}

fn mysql_8_with_certificates_good_and_bad() {
    let pki = Rig::shared().pki();
    for (certificate, cell) in [
        (&pki.server, "up"),
        (&pki.intermediate, "up"),
        (&pki.wrong_name, "tls_name_mismatch tls -"),
        (&pki.unknown_ca, "tls_unknown_ca tls -"),
        (&pki.self_signed, "tls_unknown_ca tls -"),
        (&pki.expired, "tls_expired tls -"),
        (&pki.not_yet_valid, "tls_not_yet_valid tls -"),
    ] {
        let peer = Mysql8::start(certificate).unwrap();
        let spec = at(&peer, "probe", "sslMode=VERIFY_IDENTITY");
        let outcome = attempt(&with(spec, json!({"caCert": pki.ca.cert_pem})));
        assert_eq!(summary(&outcome), cell, "{outcome:#?}");
        assert_recorded(&outcome, certificate);
    }
}

fn mysql_8_says_no() {
    let pki = Rig::shared().pki();
    let peer = Mysql8::start(&pki.server).unwrap();
    let modes = ["disabled", "required"];
    for mode in modes {
        let options = format!("tls={mode}");
        for user in ["probe", "native", "sha256", "nopw", "nobody"] {
            let wrong = with(at(&peer, user, &options), json!({"password": "wrong"}));
            down(wrong, "auth", "auth", "1045");
        }
        down(at(&peer, "locked", &options), "auth", "auth", "3118");
        down(at(&peer, "expired", &options), "auth", "auth", "1862");
        let sandbox = at(&peer, "sandbox", &options);
        down(sandbox.clone(), "auth", "request", "1820");
        down(with(sandbox, query("SELECT 1")), "auth", "request", "1820");
        let nowhere = format!("mysql://probe:{PASSWORD}@127.0.0.1:{}/nowhere", peer.port());
        down(
            json!({"type": "mysql", "url": nowhere, "properties": {"tls": mode}}),
            "not_found",
            "auth",
            "1049",
        );
    }
    assert_eq!(peer.counts().refused, 2 * 8);
    // What we do not go along with is left as politely.
    for (user, says) in [("old", "mysql_old_password"), ("pam", "`dialog`")] {
        let outcome = down(at(&peer, user, ""), "auth", "auth", "");
        let failure = outcome.result.unwrap_err();
        assert!(failure.message.contains(says), "{failure:?}");
        assert!(failure.hint.is_some(), "{failure:?}");
    }
    let failure = attempt(&at(&peer, "native", "allowNativePasswords=false")).result;
    assert_eq!(failure.unwrap_err().reason.as_str(), "auth");
    assert_eq!(peer.counts().refused, 2 * 8 + 3);
    counts(&peer);

    let only = Mysql8::builder().tls(&pki.server).unwrap().tls_only();
    let only = only.start().unwrap();
    up(at(&only, "probe", ""));
    let hint = hint_of(down(
        at(&only, "probe", "tls=disabled"),
        "auth",
        "auth",
        "3159",
    ));
    assert!(hint.contains("tls: required"), "{hint}");
    let without = Mysql8::builder().start().unwrap();
    up(at(&without, "probe", ""));
    down(
        at(&without, "probe", "tls=required"),
        "tls_other",
        "tls",
        "",
    );
    counts(&without);
    assert_eq!(
        without.counts().refused,
        1,
        "as somebody who does not exist"
    );
}

fn results_of_every_shape() {
    let peer = Mysql8::builder().start().unwrap();
    let ask = |text: &str| with(at(&peer, "probe", ""), query(text));
    up(ask("SELECT 1"));
    up(ask("three results"));
    up(ask("long row"));
    down(ask("rows and an error"), "timeout", "request", "1317");
    let outcome = down(ask("load data local"), "assertion", "request", "");
    let message = outcome.result.unwrap_err().message;
    assert!(message.contains("asks for a file"), "{message}");
    counts(&peer);
    // It does not give up the query by itself as it was told.
    let outcome = attempt_within(LONGER, &ask("sleep"));
    assert_down(&outcome, "timeout", "request", "");
}

/// Somebody who stands between could ask for anything.
fn no_password_goes_where_others_can_read_it() {
    let pki = Rig::shared().pki();
    for plugin in ["mysql_clear_password", "mysql_old_password", "dialog"] {
        let peer = Mysql8::builder().asks_for(plugin).start().unwrap();
        for options in ["", "allowCleartextPasswords=true"] {
            let outcome = attempt(&at(&peer, "probe", options));
            assert_down(&outcome, "auth", "auth", "");
            let message = outcome.result.unwrap_err().message;
            assert!(message.contains(plugin), "{message}");
        }
        assert_eq!(peer.counts().refused, 2);
    }
    let peer = Mysql8::builder()
        .tls(&pki.server)
        .unwrap()
        .asks_for("mysql_clear_password");
    let peer = peer.start().unwrap();
    let hint = hint_of(down(at(&peer, "probe", ""), "auth", "auth", ""));
    assert!(hint.contains("allowCleartextPasswords"), "{hint}");
    up(at(&peer, "probe", "allowCleartextPasswords=true"));
}

fn leaves_no_connection_and_no_complaint_behind() {
    let mariadb = need!(own("mariadb-log", |builder| builder));
    let without = need!(own("mariadb-log-plain", |builder| builder.without_tls()));
    let before = mariadb.status("Threads_connected").unwrap();
    let socket = mariadb.socket();
    for _ in 0..10 {
        up(spec(&mariadb, "probe", "tls=disabled"));
        up(spec(&mariadb, "ed", "tls=required"));
        up(with(
            spec(&mariadb, "probe", ""),
            query("SELECT n FROM numbers"),
        ));
        down(
            with(spec(&mariadb, "probe", ""), query("SELEC 1")),
            "assertion",
            "request",
            "1064",
        );
        up(json!({
            "type": "mysql", "url": format!("unix({})/app", socket.display()),
            "username": "probe", "password": PASSWORD,
        }));
    }
    assert_eq!(mariadb.status("Aborted_connects").unwrap(), 0);
    for mode in ["disabled", "required"] {
        let options = format!("tls={mode}");
        let wrong = json!({"password": "wrong"});
        for user in ["probe", "ed"] {
            down(
                with(spec(&mariadb, user, &options), wrong.clone()),
                "auth",
                "auth",
                "1045",
            );
        }
        down(spec(&mariadb, "locked", &options), "auth", "auth", "4151");
        let url = format!(
            "mysql://reader:{PASSWORD}@localhost:{}/nowhere?{options}",
            mariadb.port()
        );
        down(
            json!({"type": "mysql", "url": url}),
            "not_found",
            "auth",
            "1049",
        );
    }
    let not_native = spec(&mariadb, "probe", "allowNativePasswords=false");
    down(not_native, "auth", "auth", "");
    down(
        spec(&without, "probe", "tls=required"),
        "tls_other",
        "tls",
        "",
    );
    for server in [&mariadb, &without] {
        assert_eq!(server.status("Aborted_clients").unwrap(), 0);
        assert_eq!(server.status("Aborted_connects_preauth").unwrap(), 0);
        let log = server.log();
        for complaint in [
            "Aborted connection",
            "Could not read packet",
            "Bad handshake",
        ] {
            assert!(!log.contains(complaint), "{log}");
        }
    }
    let log = without.log();
    assert!(log.contains("'conncheck-wants-tls'@"), "{log}");
    let is_left = || mariadb.status("Threads_connected").unwrap() <= before;
    assert!(soon(is_left), "a connection was left");
}

/// The server lets nobody in from an address that has had two connections broken off in a row.
fn never_makes_the_server_block_the_host() {
    let strict = |builder: mariadb::Builder<'static>| builder.setting("max-connect-errors", "2");
    let mariadb = need!(own("mariadb-strict", strict));
    let without = need!(own("mariadb-strict-plain", |builder| strict(builder)
        .without_tls()));
    let from = Ipv4Addr::new(127, 0, 0, 2);
    let relay = Relay::start(mariadb.port(), from).unwrap();
    let relay_without = Relay::start(without.port(), from).unwrap();
    let at = |relay: &Relay, login: &str, rest: &str| {
        let url = format!("mysql://{login}@127.0.0.1:{}/{rest}", relay.port());
        json!({"type": "mysql", "url": url})
    };
    let errors = |server: &MariaDb| {
        let counted = "select sum_connect_errors, count_authentication_errors + count_auth_plugin_errors \
            from performance_schema.host_cache where ip = '127.0.0.2'";
        let rows = server.sql(counted).unwrap();
        let row = rows
            .first()
            .expect("the server keeps no count of 127.0.0.2: does its name resolution fail?");
        (row[0].clone().unwrap(), row[1].clone().unwrap())
    };
    let right = format!("probe:{PASSWORD}");
    // Whose name that is, a server asks in the midst of the first login; a name server may take its time.
    for relay in [&relay, &relay_without] {
        let outcome = attempt_within(2 * PATIENCE, &at(relay, &right, "app"));
        assert!(outcome.is_up(), "{outcome:#?}");
    }
    for _ in 0..3 {
        for mode in ["disabled", "required"] {
            let rest = |database: &str, more: &str| format!("{database}?tls={mode}{more}");
            down(
                at(&relay, "probe:wrong", &rest("app", "")),
                "auth",
                "auth",
                "1045",
            );
            down(
                at(&relay, "ed:wrong", &rest("app", "")),
                "auth",
                "auth",
                "1045",
            );
            down(
                at(&relay, "nobody:wrong", &rest("app", "")),
                "auth",
                "auth",
                "1045",
            );
            down(
                at(&relay, &right, &rest("nowhere", "")),
                "permission",
                "auth",
                "1044",
            );
            let native = rest("app", "&allowNativePasswords=false");
            down(at(&relay, &right, &native), "auth", "auth", "");
        }
        down(
            at(&relay_without, &right, "app?tls=required"),
            "tls_other",
            "tls",
            "",
        );
    }
    assert_eq!(errors(&mariadb).0, "0");
    assert_eq!(errors(&without), ("0".to_owned(), "3".to_owned()));
    // Whom it does not know the server asks as it would some other account, whichever. This method
    // takes an answer that is too short for a broken handshake.
    for number in 0..30 {
        let create =
            format!("create user ed{number}@'%' identified via ed25519 using password('x')");
        without.sql(&create).unwrap();
        down(
            at(&relay_without, &right, "app?tls=required"),
            "tls_other",
            "tls",
            "",
        );
    }
    assert_eq!(errors(&without).0, "0");
    up(at(&relay, &right, "app"));
    up(at(&relay_without, &right, "app"));

    // What cannot be helped, so that it is known that the count would have shown the rest.
    let ca = json!({"caCert": Rig::shared().pki().other_ca.cert_pem});
    for _ in 0..2 {
        let spec = with(at(&relay, &right, "app"), ca.clone());
        down(spec, "tls_unknown_ca", "tls", "");
    }
    assert!(soon(|| errors(&mariadb).0 == "2"));
    let hint = hint_of(down(
        at(&relay, &right, "app"),
        "unavailable",
        "auth",
        "1129",
    ));
    assert!(hint.contains("FLUSH HOSTS"), "{hint}");
    mariadb.sql("flush hosts").unwrap();
    up(at(&relay, &right, "app"));
}
