//! `prometheus` against real Prometheus: plain, below a prefix, behind TLS and basic authentication,
//! and with nginx in front for what it cannot do itself (bearer tokens, tenants, login pages).

use conncheck_rig::http::{HttpPeer, response};
use conncheck_rig::{
    Nginx, NginxKind, PASSWORD, Prometheus, PrometheusKind, Rig, TokenServer, need,
};
use serde_json::{Value, json};

use crate::check::{
    SHORT, assert_down, attempt, attempt_with_secret, attempt_within, down, phases, up, with,
};
use crate::web::{
    self, agrees_with_check_http, hint, message, own_nginx, seconds, soon, summary, table,
    trusting, with_properties,
};

crate::trials![
    a_query_is_answered,
    it_may_be_below_a_prefix,
    a_query_must_give_something,
    errors_of_the_api_are_told_from_those_of_the_way,
    a_base_that_has_too_much_at_its_end_is_explained,
    a_page_is_no_answer_wherever_it_comes_from,
    each_status_has_its_reason,
    logs_in_over_tls_with_a_password,
    bearer_tokens_and_tenants,
    client_certificates_missing_wrong_and_right,
    verifies_and_records_the_certificate,
    every_fault_of_a_certificate,
    the_server_name_may_be_another,
    client_certificates_that_nginx_asks_for,
    plain_http_to_a_tls_port_and_the_reverse,
    a_stopped_server_is_a_timeout,
    verdicts_agree_with_check_http,
    leaves_no_connection_and_no_complaint_behind,
];

fn prometheus(url: impl Into<String>) -> Value {
    json!({"type": "prometheus", "url": url.into()})
}

/// Through nginx, at one of its origins.
fn proxied(origin: &str) -> Value {
    prometheus(format!("{origin}/prometheus"))
}

fn querying(spec: Value, query: &str) -> Value {
    with_properties(spec, json!({"query": query}))
}

fn a_query_is_answered() {
    let server = need!(Rig::shared().get(PrometheusKind::Main));
    for url in [server.url(), format!("{}/", server.url())] {
        let outcome = up(prometheus(url));
        assert_eq!(phases(&outcome), ["resolve", "connect", "request"]);
        assert_eq!(outcome.http_status, Some(200));
        assert!(outcome.tls.is_none());
    }
}

fn it_may_be_below_a_prefix() {
    let server = need!(Rig::shared().get(PrometheusKind::Prefixed));
    up(prometheus(server.url()));
    up(prometheus(format!("{}/", server.url())));
    let outcome = down(
        prometheus(format!("http://localhost:{}", server.port())),
        "http_status",
        "request",
        "404",
    );
    assert!(hint(&outcome).contains("below a prefix"), "{outcome:#?}");
    let nginx = need!(Rig::shared().get(NginxKind::BeforePrometheus));
    up(proxied(&nginx.url("")));
}

fn a_query_must_give_something() {
    let server = need!(Rig::shared().get(PrometheusKind::Main));
    let nothing = "assertion request -";
    let row = |query: &str| json!({"query": query});
    table(
        &prometheus(server.url()),
        &[
            (row("rig_answer"), "up"),
            (row("rig_answer{source=\"rule\"} == 42"), "up"),
            (row("rig_answer != 42"), nothing),
            (row("rig_answer{source=\"scrape\"}"), nothing),
            (row("rig_answer[1m]"), "up"),
            (row("nothing[1m]"), nothing),
            (row("count(nothing)"), nothing),
            (row("absent(nothing)"), "up"),
            (row("scalar(rig_answer)"), "up"),
            (row("scalar(nothing)"), nothing),
            (row("1"), "up"),
            (row("\"a string\""), "up"),
            // A series is there, whatever its value.
            (row("rig_answer * 0"), "up"),
            (row("vector(0) / 0"), "up"),
        ],
    );
    let spec = querying(prometheus(server.url()), "nothing");
    let outcome = attempt(&spec);
    assert_eq!(
        message(&outcome),
        "expected a result of the query, got an empty vector"
    );
}

fn errors_of_the_api_are_told_from_those_of_the_way() {
    let server = need!(Rig::shared().get(PrometheusKind::Main));
    let outcome = down(
        querying(prometheus(server.url()), "rig_answer{"),
        "assertion",
        "request",
        "bad_data",
    );
    assert_eq!(outcome.http_status, Some(400));
    assert!(message(&outcome).contains("parse error"), "{outcome:#?}");
    assert_eq!(hint(&outcome), "is `properties.query` right?");

    // Two series for one label of the other side.
    let many = r#"vector(1) * on() (label_replace(vector(1), "a", "1", "", "") or label_replace(vector(1), "a", "2", "", ""))"#;
    let outcome = down(
        querying(prometheus(server.url()), many),
        "assertion",
        "request",
        "execution",
    );
    assert_eq!(outcome.http_status, Some(422));
    assert!(message(&outcome).contains("matching"), "{outcome:#?}");

    // The query of the URL is sent too: here, how long the server lets ours take.
    let url = format!("{}?timeout=1ms", server.url());
    let outcome = down(
        querying(
            prometheus(url),
            "sum(count_over_time(vector(time())[1h:10ms]))",
        ),
        "unavailable",
        "request",
        "timeout",
    );
    assert_eq!(outcome.http_status, Some(503));
}

fn a_base_that_has_too_much_at_its_end_is_explained() {
    let server = need!(Rig::shared().get(PrometheusKind::Main));
    for surplus in ["/graph", "/api/v1", "/api/v1/query", "/metrics"] {
        let spec = prometheus(format!("{}{surplus}", server.url()));
        let outcome = down(spec, "http_status", "request", "404");
        let said = format!("leave `{surplus}` out");
        assert!(hint(&outcome).ends_with(&said), "{outcome:#?}");
    }
}

fn a_page_is_no_answer_wherever_it_comes_from() {
    let nginx = need!(Rig::shared().get(NginxKind::BeforePrometheus));
    let outcome = down(prometheus(nginx.url("/page")), "protocol", "request", "");
    assert!(message(&outcome).contains("text/html"), "{outcome:#?}");
    assert_eq!(outcome.http_status, Some(200));
    let secret = json!({"bearer": "t0ken"});
    let spec = with_properties(prometheus(nginx.url("/sso?sent-on")), secret);
    let outcome = down(spec, "protocol", "request", "");
    let place = format!("`http://localhost:{}`", nginx.other_http);
    assert!(hint(&outcome).contains(&place), "{outcome:#?}");
    // The login went home and nowhere else.
    assert!(soon(|| !nginx.requests("/page/").is_empty()));
    for logged in nginx.requests("/page/") {
        assert_eq!(logged.authorization, "", "{logged:?}");
    }
    // Text, and JSON of somebody else.
    for path in ["/health", "/json", "/not-json"] {
        let peer = HttpPeer::answers(match path {
            "/health" => response(200, &[], "ok"),
            "/json" => response(200, &[], r#"{"status":"ok"}"#),
            _ => response(200, &[], r#"{"status":"#),
        })
        .unwrap();
        down(prometheus(peer.url("/")), "protocol", "request", "");
    }
}

fn each_status_has_its_reason() {
    for (status, reason) in [
        (401, "auth"),
        (403, "permission"),
        (404, "http_status"),
        (429, "unavailable"),
        (500, "http_status"),
        (502, "http_status"),
        (503, "unavailable"),
    ] {
        let peer = HttpPeer::answers(response(status, &[], "no")).unwrap();
        let spec = prometheus(peer.url("/"));
        let outcome = down(spec, reason, "request", &status.to_string());
        assert_eq!(outcome.http_status, Some(status));
    }
}

fn logs_in_over_tls_with_a_password() {
    let server = need!(Rig::shared().get(PrometheusKind::Secured));
    let pki = Rig::shared().pki();
    let spec = trusting(prometheus(server.url()));
    let login = json!({"username": "probe", "password": PASSWORD});
    let outcome = up(with(spec.clone(), login.clone()));
    assert_eq!(phases(&outcome), ["resolve", "connect", "tls", "request"]);
    let tls = outcome.tls.expect("recorded");
    assert!(tls.verified);
    assert_eq!(tls.version.as_deref(), Some("TLSv1.3"));
    assert_eq!(seconds(tls.earliest_expiry), Some(pki.server.not_after));

    let url = |user: &str, password: &str| {
        let url = format!("https://{user}:{password}@localhost:{}", server.port());
        with(spec.clone(), json!({"url": url}))
    };
    up(url("probe", PASSWORD));
    up(with(url("nobody", "nothing"), login));
    let whole = with(spec.clone(), json!({"secretRef": {"name": "login"}}));
    let secret = [("username", "probe"), ("password", PASSWORD)];
    assert_eq!(summary(&attempt_with_secret(&secret, &whole)), "up");

    let wants = "it wants a login: `Basic`";
    let refused = "it refused the login that was sent; it accepts `Basic`";
    for (spec, said) in [
        (spec.clone(), wants),
        (url("probe", "wrong"), refused),
        (url("nobody", PASSWORD), refused),
    ] {
        let outcome = down(spec, "auth", "request", "401");
        assert_eq!(hint(&outcome), said);
    }
    down(prometheus(server.url()), "tls_unknown_ca", "tls", "");
    // Go answers plain text on a TLS port.
    let plain = format!("http://localhost:{}", server.port());
    let outcome = down(prometheus(plain), "protocol", "request", "400");
    assert_eq!(
        hint(&outcome),
        "the peer speaks TLS on that port: use `https://`"
    );
}

fn bearer_tokens_and_tenants() {
    let nginx = need!(Rig::shared().get(NginxKind::BeforePrometheus));
    let bearer = prometheus(nginx.url("/bearer"));
    table(
        &bearer,
        &[
            (json!({"bearer": Nginx::BEARER}), "up"),
            (json!({"bearer": "wrong"}), "auth request 401"),
            (json!({}), "auth request 401"),
        ],
    );
    let keyed = with(
        bearer,
        json!({"secretRef": {"name": "login", "key": "anything"}}),
    );
    let secret = [("anything", Nginx::BEARER)];
    assert_eq!(summary(&attempt_with_secret(&secret, &keyed)), "up");

    let tenant = |name: &str| json!({"headers": {"X-Scope-OrgID": name}});
    table(
        &prometheus(nginx.url("/tenant")),
        &[
            (tenant(Prometheus::TENANT), "up"),
            (tenant("nobody"), "auth request 401"),
        ],
    );
    let outcome = attempt(&prometheus(nginx.url("/tenant")));
    assert_eq!(summary(&outcome), "auth request 401");
    assert!(hint(&outcome).contains("X-Scope-OrgID"), "{outcome:#?}");

    let oauth = json!({"oauth": {
        "tokenURL": nginx.tokens().url(),
        "clientID": TokenServer::CLIENT_ID,
        "clientSecret": TokenServer::CLIENT_SECRET,
    }});
    let outcome = up(with_properties(proxied(&nginx.url("")), oauth));
    assert_eq!(phases(&outcome), ["resolve", "connect", "auth", "request"]);
}

fn client_certificates_missing_wrong_and_right() {
    let server = need!(Rig::shared().get(PrometheusKind::MutualTls));
    let pki = Rig::shared().pki();
    let spec = trusting(prometheus(server.url()));
    let with_client = |client: &conncheck_rig::Certified| {
        with(
            spec.clone(),
            json!({"clientCert": client.cert_pem, "clientKey": client.key_pem}),
        )
    };
    for spec in [
        spec.clone(),
        with_client(&pki.client_unknown_ca),
        with_client(&pki.client_expired),
    ] {
        let outcome = attempt(&spec);
        let failure = outcome.result.expect_err("not let in");
        assert_eq!(failure.reason.as_str(), "tls_other", "{failure:?}");
        assert_eq!(
            failure.phase.map(|phase| phase.as_str()),
            Some("tls"),
            "{failure:?}"
        );
        assert!(failure.code.is_some(), "{failure:?}");
    }
    let outcome = up(with_client(&pki.client));
    assert_eq!(
        seconds(outcome.credential_expiry),
        Some(pki.client.not_after)
    );
}

fn verifies_and_records_the_certificate() {
    let nginx = need!(Rig::shared().get(NginxKind::BeforePrometheus));
    web::verifies_and_records_the_certificate(&nginx, proxied);
}

fn every_fault_of_a_certificate() {
    let nginx = need!(Rig::shared().get(NginxKind::BeforePrometheus));
    web::every_fault_of_a_certificate(&nginx, proxied);
}

fn the_server_name_may_be_another() {
    let nginx = need!(Rig::shared().get(NginxKind::BeforePrometheus));
    web::the_server_name_may_be_another(&nginx, proxied);
}

fn client_certificates_that_nginx_asks_for() {
    let nginx = need!(Rig::shared().get(NginxKind::BeforePrometheus));
    web::client_certificates_missing_wrong_and_right(&nginx, proxied);
}

fn plain_http_to_a_tls_port_and_the_reverse() {
    let nginx = need!(Rig::shared().get(NginxKind::BeforePrometheus));
    web::plain_http_to_a_tls_port_and_the_reverse(&nginx, proxied);
}

/// One that a test may stop.
fn own(kind: PrometheusKind) -> (tempfile::TempDir, Prometheus) {
    let dir = tempfile::tempdir().unwrap();
    let pki = Rig::shared().pki();
    let server = Prometheus::start(kind, pki, dir.path(), "own-prometheus").unwrap();
    (dir, server)
}

fn a_stopped_server_is_a_timeout() {
    need!(Rig::shared().get(PrometheusKind::Main));
    let (_dir, plain) = own(PrometheusKind::Main);
    let (_dir, secured) = own(PrometheusKind::Secured);
    let spec = prometheus(plain.url());
    plain.process().pause();
    assert_down(&attempt_within(SHORT, &spec), "timeout", "request", "");
    plain.process().resume();
    up(spec.clone());
    secured.process().pause();
    let over_tls = trusting(prometheus(secured.url()));
    assert_down(&attempt_within(SHORT, &over_tls), "timeout", "tls", "");
    drop(plain);
    down(spec, "connect_refused", "connect", "");
}

fn verdicts_agree_with_check_http() {
    need!(Rig::shared().get(PrometheusKind::Main));
    let (_dir, plain) = own(PrometheusKind::Main);
    let (_dir, secured) = own(PrometheusKind::Secured);
    let query = |query: &str| format!("/api/v1/query?query={query}");
    let success = "\"status\":\"success\"";
    let port = plain.port().to_string();
    let agree = |state: &str, is_up: bool| {
        let (path, spec) = (query("vector(1)"), prometheus(plain.url()));
        let args = ["-p", &port, "-u", &path, "-s", success];
        agrees_with_check_http(state, is_up, &spec, &args);
    };
    agree("up", true);
    let path = query("rig_answer%7B");
    let args = ["-p", &port, "-u", &path, "-s", success];
    let spec = querying(prometheus(plain.url()), "rig_answer{");
    agrees_with_check_http("a query that is none", false, &spec, &args);

    let secured_port = secured.port().to_string();
    for (state, is_up, password) in [
        ("the right password", true, PASSWORD),
        ("a wrong password", false, "wrong"),
    ] {
        let login = format!("probe:{password}");
        let path = query("vector(1)");
        let args = [
            "-p",
            &secured_port,
            "-S",
            "--sni",
            "-u",
            &path,
            "-a",
            &login,
            "-s",
            success,
        ];
        let login = json!({"username": "probe", "password": password});
        let spec = with(trusting(prometheus(secured.url())), login);
        agrees_with_check_http(state, is_up, &spec, &args);
    }
    let (_dir, nginx) = own_nginx();
    let expired = nginx.expired.to_string();
    let args = ["-p", &expired, "-S", "--sni", "-C", "1"];
    let spec = trusting(proxied(&format!("https://localhost:{expired}")));
    agrees_with_check_http("an expired certificate", false, &spec, &args);
    plain.process().pause();
    agree("SIGSTOPped", false);
    plain.process().resume();
    plain.process().stop();
    agree("stopped", false);
}

fn leaves_no_connection_and_no_complaint_behind() {
    need!(Rig::shared().get(PrometheusKind::Main));
    let (_dir, server) = own(PrometheusKind::Secured);
    let login = json!({"username": "probe", "password": PASSWORD});
    let spec = trusting(prometheus(server.url()));
    let complaints = || {
        let log = server.log();
        let lines = log
            .lines()
            .filter(|line| line.contains("TLS handshake error"));
        lines.count()
    };
    let sockets = || {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", server.process().pid()));
        let fds = fds.into_iter().flatten().flatten();
        fds.filter_map(|entry| std::fs::read_link(entry.path()).ok())
            .filter(|target| target.to_string_lossy().starts_with("socket:"))
            .count()
    };
    let before = sockets();
    for _ in 0..5 {
        up(with(spec.clone(), login.clone()));
        down(spec.clone(), "auth", "request", "401");
    }
    assert!(soon(|| sockets() <= before), "{} sockets", sockets());
    assert_eq!(complaints(), 0, "{}", server.log());
    // It would have told.
    down(prometheus(server.url()), "tls_unknown_ca", "tls", "");
    assert!(soon(|| complaints() > 0));
}
