//! Each server starts, is what it claims to be, and stops without a trace.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    panic,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use conncheck_rig::{
    Elastic, ElasticKind, Exim, MariaDbKind, Mysql8, Nginx, NginxKind, PASSWORD, PATIENCE, Pki,
    Postfix, Postgres, PostgresKind, Process, Prometheus, PrometheusKind, Redis, RedisKind, Rig,
    SecantusKind, Server, Shown, Slapd, SlapdKind, need, plugins, prometheus,
};
use serde_json::json;

#[test]
fn postgres_has_its_roles_and_its_databases() {
    let postgres = need!(Rig::shared().postgres());
    let roles = postgres
        .sql("app", "select string_agg(rolname, ' ' order by rolname) from pg_roles where rolname !~ '^pg_'")
        .expect("the superuser may ask");
    let expected =
        "certonly clear expired lim md5user nologin1 nopw plainonly postgres probe pwcert tlsonly";
    assert_eq!(roles, [[Some(expected.to_owned())]]);
    let err = postgres
        .sql("app", "select * from nowhere")
        .expect_err("there is no such table");
    assert!(err.to_string().contains("42P01"), "{err}");
    assert!(
        !postgres.log().contains("unexpected EOF"),
        "our own client is polite:\n{}",
        postgres.log()
    );
}

#[test]
fn every_kind_of_postgres_starts() {
    let rig = Rig::shared();
    let primary = need!(rig.postgres());
    let others = [
        PostgresKind::NoTls,
        PostgresKind::ReadOnly,
        PostgresKind::Standby,
        PostgresKind::Full,
    ];
    for kind in others
        .into_iter()
        .chain(Shown::ALL.map(PostgresKind::Shows))
    {
        let started = Instant::now();
        let postgres = need!(rig.get(kind));
        eprintln!("{kind:?}: {:?}", started.elapsed());
        let facts = postgres
            .sql("app", "select current_setting('ssl'), pg_is_in_recovery(), current_setting('transaction_read_only')")
            .expect("the superuser may ask");
        let on = |yes: bool| Some(if yes { "on" } else { "off" }.to_owned());
        let standby = kind == PostgresKind::Standby;
        let recovery = Some(if standby { "t" } else { "f" }.to_owned());
        let read_only = on(standby || kind == PostgresKind::ReadOnly);
        assert_eq!(
            facts,
            [[on(kind != PostgresKind::NoTls), recovery, read_only]],
            "{kind:?}"
        );
        assert_ne!(postgres.port(), primary.port());
    }
}

#[test]
fn a_starting_postgres_stays_starting() {
    let postgres = need!(Rig::shared().get(PostgresKind::Starting));
    let err = postgres
        .sql("app", "select 1")
        .expect_err("it lets nobody in");
    assert!(err.to_string().contains("57P03"), "{err}");
}

#[test]
fn postgres_changes_its_certificate_while_it_runs() {
    let rig = Rig::shared();
    need!(rig.postgres());
    let postgres = Postgres::builder(rig.pki(), rig.dir())
        .name("changing")
        .start()
        .expect("one more cluster");
    postgres
        .set_certificate(&rig.pki().expired)
        .expect("a reload");
    assert!(
        !postgres.log().contains("could not load"),
        "{}",
        postgres.log()
    );
}

#[test]
fn rabbitmq_has_its_users_and_its_vhosts() {
    let started = Instant::now();
    let rabbitmq = need!(Rig::shared().rabbitmq());
    eprintln!("a RabbitMQ starts in {:?}", started.elapsed());
    let ask = |expression: &str| rabbitmq.erlang(expression).expect("an expression");
    let names = |table: &str| {
        let names = format!("[binary_to_list(element(2, Row)) || Row <- ets:tab2list({table})]");
        ask(&format!("string:join(lists:sort({names}), \" \")"))
    };
    assert_eq!(
        names("rabbit_user"),
        "\"channelless limited nobody probe stranger\""
    );
    assert_eq!(names("rabbit_vhost"), "\"/ full team/a\"");
    assert_eq!(ask("rabbit_alarm:get_alarms()"), "[]");
    assert_eq!(
        rabbitmq.connections_of("probe").expect("a number"),
        0,
        "nobody is there"
    );
    rabbitmq
        .erlang("nowhere:at_all()")
        .expect_err("no such module");
    let pids: Vec<u32> = rabbitmq
        .processes()
        .iter()
        .flat_map(|process| tree(process.pid()))
        .collect();
    assert!(
        pids.len() > 3,
        "the broker, its helpers, and epmd: {pids:?}"
    );
    let elsewhere = listening_elsewhere(&pids);
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
}

#[test]
fn mariadb_has_its_accounts_and_its_databases() {
    let mariadb = need!(Rig::shared().mariadb());
    let accounts = mariadb
        .sql(
            "select group_concat(distinct user order by user separator ' ') from mysql.global_priv",
        )
        .expect("the superuser may ask");
    let expected = "certonly ed expired lim locked mariadb.sys nopw onlocal othersubject probe reader root subject tlsonly";
    assert_eq!(accounts, [[Some(expected.to_owned())]]);
    let err = mariadb
        .sql("select * from app.nowhere")
        .expect_err("there is no such table");
    assert!(err.to_string().contains("1146"), "{err}");
    assert!(
        !mariadb.log().contains("Aborted connection"),
        "our own client is polite:\n{}",
        mariadb.log()
    );
}

#[test]
fn every_kind_of_mariadb_starts() {
    let rig = Rig::shared();
    let others = [MariaDbKind::NoTls, MariaDbKind::TlsOnly, MariaDbKind::Full];
    for kind in others.into_iter().chain(Shown::ALL.map(MariaDbKind::Shows)) {
        let started = Instant::now();
        let mariadb = need!(rig.get(kind));
        eprintln!("{kind:?}: {:?}", started.elapsed());
        let facts = mariadb
            .sql("select @@have_ssl, @@require_secure_transport, @@max_connections")
            .expect("the superuser may ask");
        let has_ssl = match kind {
            MariaDbKind::NoTls => "DISABLED",
            _ => "YES",
        };
        let is_full = kind == MariaDbKind::Full;
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(
            facts,
            [[
                text(has_ssl),
                text(if kind == MariaDbKind::TlsOnly {
                    "1"
                } else {
                    "0"
                }),
                text(if is_full { "10" } else { "151" }),
            ]],
            "{kind:?}"
        );
    }
    let full = need!(rig.get(MariaDbKind::FullForAll));
    assert!(greeting(full.port()).contains("Too many connections"));
}

#[test]
fn mariadb_s_own_client_takes_our_mysql_8_for_one() {
    let rig = Rig::shared();
    need!(rig.mariadb());
    let peer = Mysql8::start(&rig.pki().server).expect("a peer");
    let client = |user: &str, password: &str, tls: &str| {
        let output = Command::new("mariadb")
            .args(["--no-defaults", "--protocol=tcp", "--host=127.0.0.1", tls])
            .arg(format!("--port={}", peer.port()))
            .arg(format!("--user={user}"))
            .arg(format!("--password={password}"))
            .args(["--batch", "--execute=select 1"])
            .output()
            .expect("it came with the server");
        let said = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&said).into_owned()
    };
    let (plain, tls) = ("--skip-ssl", "--ssl");
    for (user, way) in [
        // Under the RSA key, by the scramble, and again with the password itself, over TLS.
        ("probe", plain),
        ("probe", plain),
        ("probe", tls),
        ("native", plain),
        ("native", tls),
        ("sha256", plain),
        ("sha256", tls),
    ] {
        assert_eq!(client(user, PASSWORD, way), "1\n1\n", "{user} {way}");
    }
    peer.forget();
    assert_eq!(client("probe", PASSWORD, tls), "1\n1\n");
    assert_eq!(client("nopw", "", plain), "1\n1\n");
    for (user, password, error) in [
        ("probe", "wrong", "1045"),
        ("probe", "", "1045"),
        ("native", "wrong", "1045"),
        ("sha256", "wrong", "1045"),
        ("nobody", PASSWORD, "1045"),
        ("locked", PASSWORD, "3118"),
    ] {
        for way in [plain, tls] {
            let said = client(user, password, way);
            assert!(said.contains(error), "{user} {way}: {said}");
        }
    }
    let counts = peer.counts();
    assert!(counts.fast >= 2, "{counts:?}");
    assert!(counts.full_over_tls >= 1, "{counts:?}");
    assert!(counts.full_under_rsa >= 1, "{counts:?}");
    assert_eq!((counts.quit, counts.left), (9, 0), "{counts:?}");
}

/// What a server says before it is asked.
fn greeting(port: u16) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a listener");
    let mut greeting = [0; 1024];
    let length = stream.read(&mut greeting).expect("a greeting");
    String::from_utf8_lossy(&greeting[..length]).into_owned()
}

#[test]
fn redis_has_its_users() {
    let redis = need!(Rig::shared().redis());
    let users = redis
        .command(&["ACL", "USERS"])
        .expect("the default user may ask");
    assert_eq!(users, "default\nnoping\noff1\nprobe");
    let say = |words: &str| exchange(redis.port(), words);
    assert_eq!(say("PING\r\n"), "-NOAUTH Authentication required.\r\n");
    assert_eq!(say(&format!("AUTH probe {PASSWORD}\r\n")), "+OK\r\n");
    assert!(say("AUTH probe wrong\r\n").starts_with("-WRONGPASS"));
    assert!(say(&format!("AUTH off1 {PASSWORD}\r\n")).starts_with("-WRONGPASS"));
}

#[test]
fn every_kind_of_redis_starts() {
    let rig = Rig::shared();
    let others = [RedisKind::MutualTls];
    for kind in others.into_iter().chain(Shown::ALL.map(RedisKind::Shows)) {
        let redis = need!(rig.get(kind));
        assert_eq!(
            redis.command(&["PING"]).expect("a reply"),
            "PONG",
            "{kind:?}"
        );
    }
    for (kind, error) in [
        (RedisKind::Full, "max number of clients"),
        (RedisKind::MasterDown, "MASTERDOWN"),
        (RedisKind::Loading, "LOADING"),
    ] {
        let started = Instant::now();
        let redis = need!(rig.get(kind));
        eprintln!("{kind:?}: {:?}", started.elapsed());
        let err = redis.command(&["PING"]).expect_err("it is not ready");
        assert!(err.to_string().contains(error), "{kind:?}: {err}");
    }
    let full = need!(rig.get(RedisKind::Full));
    assert!(exchange(full.port(), "PING\r\n").contains("max number of clients"));
}

#[test]
fn every_kind_of_prometheus_starts() {
    let rig = Rig::shared();
    let answer = |port: u16, path: &str| get(port, path, "");
    let main = need!(rig.get(PrometheusKind::Main));
    assert!(answer(main.port(), "/api/v1/query?query=rig_answer").contains("\"42\""));
    let prefixed = need!(rig.get(PrometheusKind::Prefixed));
    let path = format!("{}/api/v1/query?query=1", Prometheus::PREFIX);
    assert!(answer(prefixed.port(), &path).contains("success"));
    assert!(answer(prefixed.port(), "/api/v1/query?query=1").starts_with("HTTP/1.1 404"));
    for kind in [PrometheusKind::Secured, PrometheusKind::MutualTls] {
        let server = need!(rig.get(kind));
        assert!(answer(server.port(), "/").contains("HTTP request to an HTTPS server"));
        assert!(server.url().starts_with("https://"));
    }
    let nginx = need!(rig.get(NginxKind::BeforePrometheus));
    let query = "api/v1/query?query=rig_answer";
    for (path, headers, part) in [
        ("/prometheus/", "", "\"42\""),
        (
            "/bearer/",
            "Authorization: Bearer probe-token\r\n",
            "\"42\"",
        ),
        ("/bearer/", "", " 401 "),
        ("/tenant/", "X-Scope-OrgID: shop\r\n", "\"42\""),
        ("/tenant/", "", "no org id"),
        ("/page/", "", "text/html"),
        ("/sso/", "", "/page/"),
    ] {
        let reply = get(nginx.http, &format!("{path}{query}"), headers);
        assert!(reply.contains(part), "{path}: {reply}");
    }
}

#[test]
fn secantus_has_its_users_and_tells_who_came() {
    let secantus = need!(Rig::shared().get(SecantusKind::Main));
    let reply = secantus
        .command("usersInfo", 1, json!({}))
        .expect("`probe` may ask");
    let users = reply["users"].to_string();
    for user in ["probe", "legacy", "prepared"] {
        assert!(users.contains(&format!("\"{user}\"")), "{users}");
    }
    secantus
        .command("nothing", 1, json!({}))
        .expect_err("there is no such command");
    let log = secantus.log();
    assert!(log.contains(" connected from"), "{log}");
}

#[test]
fn every_kind_of_secantus_starts() {
    let rig = Rig::shared();
    let others = [
        SecantusKind::Open,
        SecantusKind::Tls,
        SecantusKind::MutualTls,
    ];
    for kind in others
        .into_iter()
        .chain(Shown::ALL.map(SecantusKind::Shows))
    {
        let secantus = need!(rig.get(kind));
        assert!(secantus.process().is_running(), "{kind:?}");
        assert_eq!(
            secantus.bare_url().contains("tls=true"),
            kind != SecantusKind::Open
        );
    }
}

#[test]
fn every_kind_of_slapd_starts() {
    let rig = Rig::shared();
    let others = [
        SlapdKind::Main,
        SlapdKind::MutualTls,
        SlapdKind::TlsRequired,
        SlapdKind::NoTls,
        SlapdKind::NoAnonymous,
        SlapdKind::Full,
    ];
    for kind in others.into_iter().chain(Shown::ALL.map(SlapdKind::Shows)) {
        let started = Instant::now();
        let slapd = need!(rig.get(kind));
        eprintln!("{kind:?}: {:?}", started.elapsed());
        assert!(slapd.process().is_running());
        assert!(slapd.log().contains("slapd starting"), "{}", slapd.log());
    }
}

#[test]
fn the_stand_in_for_opensearch_answers_as_its_tables_say() {
    let rig = Rig::shared();
    let server = need!(rig.get(ElasticKind::Main));
    let health = |index: &str| {
        let path = format!("/_cluster/health{index}?timeout=1ms");
        get(server.port(), &path, "")
    };
    assert!(health("").contains("\"status\":\"yellow\""));
    assert!(health("/orders").contains("\"status\":\"yellow\""));
    assert!(health("/catalog").contains("\"status\":\"green\""));
    assert!(health("/nothing").starts_with("HTTP/1.1 408"));
    let empty = need!(rig.get(ElasticKind::Empty));
    let green = empty
        .request("GET", "/_cluster/health", "")
        .expect("a health");
    assert!(green.contains("\"status\":\"green\""));

    let nginx = need!(rig.get(NginxKind::BeforeElastic));
    let key = |key: &str| format!("Authorization: ApiKey {key}\r\n");
    for (path, headers, part) in [
        ("/open", String::new(), "\"yellow\""),
        ("/secured", String::new(), " 401 "),
        ("/secured", key("wrong"), "security_exception"),
        ("/secured", key(Elastic::API_KEY_ENCODED), "\"yellow\""),
        (
            "/secured",
            "Authorization: Basic cHJvYmU6cHJvYmUtcGFzc3dvcmQ=\r\n".to_owned(),
            "\"yellow\"",
        ),
        ("/secured", key("Z3Vlc3Q6cHJvYmUtcGFzc3dvcmQ="), " 403 "),
        ("/opensearch3", String::new(), "OpenSearch/3.0.0"),
        ("/red", String::new(), "\"red\""),
        ("/late", String::new(), " 408 "),
        (
            "/masterless",
            String::new(),
            "master_not_discovered_exception",
        ),
        ("/blocked", String::new(), "cluster_block_exception"),
        ("/uninitialized", String::new(), "not initialized"),
        ("/dashboards", String::new(), "kbn-name"),
    ] {
        let reply = get(nginx.http, &format!("{path}/_cluster/health"), &headers);
        assert!(reply.contains(part), "{path}: {reply}");
    }
}

#[test]
fn a_plugin_of_nagios_has_its_verdict() {
    let nginx = need!(Rig::shared().nginx());
    let port = nginx.http.to_string();
    let ask = |path: &str| {
        let args = [
            "-H",
            "localhost",
            "-I",
            "127.0.0.1",
            "-p",
            &port,
            "-u",
            path,
        ];
        plugins::run("check_http", &args)
    };
    let well = need!(ask("/health"));
    assert!(well.is_ok() && well.said.contains("200 OK"), "{well:?}");
    let broken = need!(ask("/500"));
    assert_eq!(broken.code, 2, "{broken:?}");
}

#[test]
fn nginx_answers_as_its_table_says() {
    let nginx = need!(Rig::shared().nginx());
    let check = |path: &str, headers: &str, status: &str, part: &str| {
        let reply = get(nginx.http, path, headers);
        assert!(
            reply.starts_with(&format!("HTTP/1.1 {status}")),
            "{path}: {reply}"
        );
        assert!(reply.contains(part), "{path}: {reply}");
    };
    check("/health", "", "200", "\r\n\r\nok");
    check("/json", "", "200", "application/json");
    check("/204", "", "204", "");
    check("/429", "", "429", "Retry-After: 7");
    check("/503", "", "503", "Retry-After: 7");
    check("/hook", "", "405", "");
    check("/hook/private", "", "401", "Bearer");
    check("/hook/options", "", "501", "");
    check("/hook/unknown", "", "501", "");
    check("/hook/gone", "", "410", "");
    check("/redirect", "", "302", "Location: /health");
    check("/redirect-loop", "", "302", "Location: /redirect-loop");
    check("/redirect/307", "", "307", "Location: /echo-method");
    check(
        "/redirect-other-origin",
        "",
        "302",
        &format!("Location: http://localhost:{}/health", nginx.other_http),
    );
    check("/private/", "", "401", "WWW-Authenticate: Basic");
    // base64 of `probe:probe-password`.
    check(
        "/private/",
        "Authorization: Basic cHJvYmU6cHJvYmUtcGFzc3dvcmQ=\r\n",
        "200",
        "ok",
    );
    check("/bearer", "", "401", "WWW-Authenticate: Bearer");
    check(
        "/bearer",
        "Authorization: Bearer probe-token\r\n",
        "200",
        "ok",
    );
    check(
        "/oauth",
        "Authorization: Bearer probe-token\r\n",
        "401",
        "invalid_token",
    );
    check(
        "/oauth",
        "Authorization: Bearer rig-token-7\r\n",
        "200",
        "ok",
    );
    check("/apikey", "", "403", "");
    check("/apikey", "X-Api-Key: probe-key\r\n", "200", "ok");
    check("/post", "", "405", "");
    check("/big", "", "200", "Content-Length: 5000000");
    check(
        "/gzip",
        "Accept-Encoding: gzip\r\n",
        "200",
        "Content-Encoding: gzip",
    );
    assert_eq!(get(nginx.http, "/empty", ""), "");
    let body = "grant_type=client_credentials&client_id=probe&client_secret=probe-secret";
    let reply = request(
        nginx.http,
        "POST",
        "/token",
        &format!("Content-Length: {}\r\n", body.len()),
        body,
    );
    assert!(reply.contains("rig-token-"), "{reply}");
    let reply = request(
        nginx.http,
        "POST",
        "/token",
        "Content-Length: 29\r\n",
        "grant_type=client_credentials",
    );
    assert!(
        reply.starts_with("HTTP/1.1 401") && reply.contains("invalid_client"),
        "{reply}"
    );
}

#[test]
fn nginx_tells_what_it_was_sent() {
    let nginx = need!(Rig::shared().nginx());
    let reply = request(
        nginx.http,
        "POST",
        "/post?told",
        "Content-Length: 5\r\nAuthorization: x\r\n",
        "hello",
    );
    assert!(reply.ends_with("posted"), "{reply}");
    let logged = nginx.wait_for_requests("?told", 1);
    let [logged] = &logged[..] else {
        panic!("{logged:?}")
    };
    assert_eq!(
        (logged.method.as_str(), logged.uri.as_str(), logged.status),
        ("POST", "/post?told", 200)
    );
    assert_eq!(
        (
            logged.authorization.as_str(),
            logged.body.as_str(),
            logged.port
        ),
        ("x", "hello", nginx.http)
    );
}

#[test]
fn every_tls_port_shows_its_own_certificate() {
    let rig = Rig::shared();
    let nginx = need!(rig.nginx());
    let pki = rig.pki();
    // What is behind the ports is what the probes' tests look at; here, only that a handshake begins.
    for port in [
        nginx.https,
        nginx.http1,
        nginx.tls12,
        nginx.intermediate,
        nginx.mtls,
        nginx.wrong_name,
    ] {
        assert!(
            get(port, "/health", "").contains("400 Bad Request"),
            "a TLS port takes no plain HTTP"
        );
    }
    let end = |not_after: i64| not_after - pki.server.not_after;
    assert!(end(pki.expired.not_after) < -80 * 86400);
    assert_eq!(
        pki.intermediate
            .cert_pem
            .matches("BEGIN CERTIFICATE")
            .count(),
        2
    );
    assert!(
        Shown::ALL
            .map(|shown| pki.shown(shown))
            .iter()
            .all(|certified| certified.key_path.exists() && certified.cert_path.exists())
    );
}

#[test]
fn postfix_greets_on_each_port_as_it_says() {
    let rig = Rig::shared();
    need!(rig.postfix());
    let started = Instant::now();
    let postfix = Postfix::start(rig.pki(), rig.dir(), "greeting").expect("one more");
    eprintln!("Postfix starts in {:?}", started.elapsed());
    for port in [postfix.smtp, postfix.must_encrypt, postfix.mutual_tls] {
        let said = exchange_after_greeting(port, "EHLO [127.0.0.1]\r\nQUIT\r\n");
        assert!(said.contains("250-STARTTLS"), "{said}");
        assert!(!said.contains("AUTH"), "only over TLS: {said}");
    }
    let plain = exchange_after_greeting(postfix.plain, "EHLO a\r\nQUIT\r\n");
    assert!(!plain.contains("STARTTLS"), "{plain}");
    assert!(plain.contains("250-AUTH "), "{plain}");
    for (port, words, code) in [
        (postfix.full, "QUIT\r\n", "421 4.7.0"),
        (postfix.refuses, "QUIT\r\n", "554 5.7.1"),
        (postfix.defers, "QUIT\r\n", "450 4.3.2"),
        (postfix.strict, "EHLO localhost\r\nQUIT\r\n", "504 5.5.2"),
        (
            postfix.broken_tls,
            "EHLO a\r\nSTARTTLS\r\nQUIT\r\n",
            "454 4.7.0",
        ),
        (
            postfix.must_encrypt,
            "EHLO a\r\nMAIL FROM:<>\r\nQUIT\r\n",
            "530 5.7.0",
        ),
    ] {
        let said = exchange_after_greeting(port, words);
        assert!(said.contains(code), "{words:?}: {said}");
    }
    let goodbyes = postfix.wait_for_goodbyes(12);
    assert!(
        goodbyes.iter().any(|line| line.contains("mail=0/1")),
        "it counts mails: {goodbyes:?}"
    );
}

#[test]
fn exim_greets_on_each_port_as_it_says() {
    let rig = Rig::shared();
    need!(rig.exim());
    let started = Instant::now();
    let exim = Exim::start(rig.pki(), rig.dir(), "greeting").expect("one more");
    eprintln!("Exim starts in {:?}", started.elapsed());
    let hello = "EHLO [127.0.0.1]\r\nQUIT\r\n";
    let said = exchange_after_greeting(exim.smtp, hello);
    assert!(
        said.contains("250-STARTTLS") && !said.contains("AUTH"),
        "{said}"
    );
    let said = exchange_after_greeting(exim.plain, hello);
    assert!(!said.contains("STARTTLS"), "{said}");
    assert!(said.contains("250-AUTH PLAIN LOGIN XOAUTH2"), "{said}");
    let said = exchange_after_greeting(exim.cram, hello);
    assert!(said.contains("250-AUTH CRAM-MD5\r\n"), "{said}");
    let said = exchange_after_greeting(exim.talkative, "QUIT\r\n");
    assert!(
        said.contains("\r\n220 before you have a word\r\n"),
        "{said}"
    );
    let said = exchange_after_greeting(exim.helo_only, "EHLO a\r\nHELO a\r\nQUIT\r\n");
    assert!(
        said.contains("502 command not implemented\r\n250 rig.test"),
        "{said}"
    );
    for (port, code) in [(exim.refuses, "550 "), (exim.defers, "451 ")] {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a listener");
        let mut begin = [0; 4];
        stream.read_exact(&mut begin).expect("a greeting");
        assert_eq!(begin, code.as_bytes());
    }
    let login = "EHLO a\r\nAUTH PLAIN AHByb2JlAHByb2JlLXBhc3N3b3Jk\r\nQUIT\r\n";
    let said = exchange_after_greeting(exim.plain, login);
    assert!(said.contains("235 Authentication succeeded"), "{said}");
    assert!(
        exim.wait_for_goodbyes(7)
            .contains(&"EHLO,AUTH,QUIT".to_owned()),
        "{}",
        exim.log()
    );
}

#[test]
fn mail_servers_take_their_parts_with_them() {
    let rig = Rig::shared();
    need!(rig.postfix());
    need!(rig.exim());
    let postfix = Postfix::start(rig.pki(), rig.dir(), "ending").expect("one more");
    let exim = Exim::start(rig.pki(), rig.dir(), "ending").expect("one more");
    let held = TcpStream::connect(("127.0.0.1", exim.smtp)).expect("a listener");
    thread::sleep(Duration::from_millis(100));
    let parts = [tree(postfix.process().pid()), tree(exim.process().pid())].concat();
    assert!(
        parts.len() > 4,
        "Postfix' smtpd, anvil and log; Exim's one connection: {parts:?}"
    );
    drop((postfix, exim));
    for pid in parts {
        assert!(gone(pid, PATIENCE), "{pid} still runs");
    }
    drop(held);
}

/// One word at a time, each after the answer to the one before; gives all that was answered.
fn exchange_after_greeting(port: u16, words: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a listener");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut all = String::new();
    for word in std::iter::once("").chain(words.split_inclusive('\n')) {
        // It may have hung up after its greeting.
        let _ = stream.write_all(word.as_bytes());
        let mut buffer = [0; 4096];
        let mut answer = String::new();
        while !answer.ends_with("\r\n")
            || answer
                .lines()
                .last()
                .is_some_and(|line| line.as_bytes().get(3) == Some(&b'-'))
        {
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(count) => answer.push_str(&String::from_utf8_lossy(&buffer[..count])),
            }
        }
        all.push_str(&answer);
    }
    all
}

#[test]
fn nothing_is_left_after_a_panic() {
    let dir = tempfile::tempdir().expect("a folder");
    fs::set_permissions(
        dir.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .expect("a folder");
    let pki = Pki::new(&dir.path().join("pki")).expect("certificates");
    let pids = std::sync::Mutex::new(Vec::new());
    let note = |process: &Process| pids.lock().expect("no panic").extend(tree(process.pid()));
    let result = panic::catch_unwind(panic::AssertUnwindSafe(|| {
        let (_postgres, _redis, _nginx, _slapd);
        if let Ok(postgres) = Postgres::start(&pki, dir.path()) {
            note(postgres.process());
            _postgres = postgres;
        }
        if let Ok(redis) = Redis::start(&pki, dir.path()) {
            note(redis.process());
            _redis = redis;
        }
        if let Ok(nginx) = Nginx::start(&pki, dir.path()) {
            note(nginx.process());
            _nginx = nginx;
        }
        if let Ok(slapd) = Slapd::start(&pki, dir.path()) {
            note(slapd.process());
            _slapd = slapd;
        }
        panic!("a test fails");
    }));
    assert!(result.is_err());
    for pid in pids.into_inner().expect("no panic") {
        assert!(gone(pid, Duration::ZERO), "{pid} still runs");
    }
    let left: Vec<_> = fs::read_dir(dir.path())
        .expect("a folder")
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert!(
        left.iter()
            .all(|name| name == "pki" || name == "postgres-template"),
        "{left:?}"
    );
}

#[test]
fn a_rig_takes_everything_with_it() {
    let started = Instant::now();
    let rig = Rig::start().expect("a rig, or skipped servers");
    eprintln!("a rig starts in {:?}", started.elapsed());
    let dir = rig.dir().to_owned();
    let mut pids: Vec<u32> = rig
        .postgres()
        .map(|postgres| tree(postgres.process().pid()))
        .unwrap_or_default();
    if let Ok(rabbitmq) = rig.rabbitmq() {
        let processes = rabbitmq.processes();
        pids.extend(processes.iter().flat_map(|process| tree(process.pid())));
    }
    let started = Instant::now();
    drop(rig);
    eprintln!("a rig stops in {:?}", started.elapsed());
    assert!(!dir.exists());
    // RabbitMQ's helpers are its children, and end when they see that it is gone.
    assert!(pids.iter().all(|&pid| gone(pid, PATIENCE)));
}

#[test]
fn a_paused_server_accepts_and_does_not_answer() {
    let rig = Rig::shared();
    need!(rig.redis());
    let redis = Redis::builder(rig.pki(), rig.dir())
        .name("paused")
        .start()
        .expect("one more");
    redis.process().pause();
    let mut stream = TcpStream::connect(("127.0.0.1", redis.port())).expect("the kernel accepts");
    stream
        .set_read_timeout(Some(Duration::from_millis(100)))
        .expect("a timeout");
    stream.write_all(b"PING\r\n").expect("the kernel takes it");
    assert!(stream.read(&mut [0; 64]).is_err());
    redis.process().resume();
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    assert!(stream.read(&mut [0; 64]).expect("an answer") > 0);
    redis.process().stop();
    assert!(!redis.process().is_running());
    assert!(
        TcpStream::connect(("127.0.0.1", redis.port())).is_err(),
        "a stopped server refuses"
    );
}

#[test]
fn the_judges_of_an_exposition_are_there() {
    let good = "# HELP up Whether.\n# TYPE up gauge\nup 1\n";
    need!(prometheus::check_metrics(good).map_err(skip));
    prometheus::check_metrics("up{ 1\n").expect_err("promtool objects");
    let parsed = need!(prometheus::parse_text(good).map_err(skip));
    assert_eq!(parsed, "up{} 1\n");
    prometheus::parse_openmetrics(good).expect_err("there is no `# EOF`");
    prometheus::parse_openmetrics(&format!("{good}# EOF\n")).expect("it is OpenMetrics");
}

#[test]
fn prometheus_takes_the_scrape_configuration() {
    let file = conncheck_rig::install::workspace().join("config/prometheus/prometheus.yml");
    need!(prometheus::promtool().map_err(skip));
    prometheus::check_config(&file).expect("a valid configuration");
}

fn skip(err: conncheck_rig::Error) -> conncheck_rig::Skipped {
    err.into()
}

fn get(port: u16, path: &str, headers: &str) -> String {
    request(port, "GET", path, headers, "")
}

fn request(port: u16, method: &str, path: &str, headers: &str, body: &str) -> String {
    let text = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n{body}"
    );
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a listener");
    stream.write_all(text.as_bytes()).expect("a reader");
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).expect("a reply");
    String::from_utf8_lossy(&reply).into_owned()
}

fn exchange(port: u16, line: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a listener");
    let _ = stream.write_all(line.as_bytes());
    let mut buffer = [0; 512];
    let length = stream.read(&mut buffer).expect("a reply");
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

/// The process, its children and theirs.
fn tree(pid: u32) -> Vec<u32> {
    let children =
        fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children
        .split_whitespace()
        .filter_map(|child| child.parse().ok());
    [pid].into_iter().chain(children.flat_map(tree)).collect()
}

/// The addresses, as the kernel writes them, on which one of `pids` listens and that other machines could reach.
fn listening_elsewhere(pids: &[u32]) -> Vec<String> {
    let sockets: Vec<String> = pids
        .iter()
        .filter_map(|pid| fs::read_dir(format!("/proc/{pid}/fd")).ok())
        .flatten()
        .flatten()
        .filter_map(|fd| Some(fs::read_link(fd.path()).ok()?.to_str()?.to_owned()))
        .collect();
    let mut elsewhere = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in fs::read_to_string(table).unwrap_or_default().lines() {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // Its address, its state (0A: listening), its inode.
            let [_, address, _, "0A", _, _, _, _, _, inode, ..] = fields[..] else {
                continue;
            };
            let is_theirs = sockets.contains(&format!("socket:[{inode}]"));
            // 127.0.0.1 and ::1.
            let is_local = address.starts_with("0100007F:")
                || address.starts_with("00000000000000000000000001000000:");
            if is_theirs && !is_local {
                elsewhere.push(address.to_owned());
            }
        }
    }
    elsewhere
}

/// Whether it has ended; one that nobody has asked about yet has, too.
fn gone(pid: u32, within: Duration) -> bool {
    let started = Instant::now();
    loop {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if stat.is_empty() || stat.contains(") Z ") {
            return true;
        }
        if started.elapsed() >= within {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
}
