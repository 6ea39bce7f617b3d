//! `http` against real nginx, and peers of ours for what nginx would never say.
//!
//! nginx serves all tests at once: what it was sent is looked up by a query of the test's own.

use conncheck_probes::ResolverChoice;
use conncheck_rig::dns::{Answer, DnsServer};
use conncheck_rig::faults;
use conncheck_rig::http::{HttpPeer, TokenServer, response};
use conncheck_rig::{Nginx, PASSWORD, Rig, need};
use serde_json::{Value, json};

use crate::check::{
    LONGER, SHORT, TIMEOUT, assert_down, attempt, attempt_with, attempt_with_secret,
    attempt_within, attempts_within, down, phases, up, with,
};
use crate::web::{self, hint, message, own_nginx, soon, summary, table, trusting, with_properties};

crate::trials![
    tells_phases_status_and_server,
    speaks_http2_where_it_is_agreed_on,
    sends_the_method_that_is_set,
    sends_headers_as_a_map_and_as_a_list,
    sends_the_body_over_both_versions,
    each_status_has_its_reason,
    the_expected_statuses_decide,
    the_body_is_looked_into,
    redirects_are_followed_as_browsers_do,
    a_redirect_that_is_not_to_be_followed_is_not,
    a_redirect_loop_ends_after_ten,
    a_redirect_to_the_same_origin_keeps_the_credentials,
    a_redirect_to_another_origin_gets_no_credentials,
    a_redirect_out_of_tls_is_refused,
    a_redirect_to_a_name_that_is_gone_names_its_peer,
    basic_from_the_spec_the_url_and_a_secret,
    a_secrets_single_key_is_a_token_or_an_api_key,
    wrong_and_missing_credentials,
    an_oauth_token_is_asked_for_and_sent,
    an_oauth_token_that_is_refused_is_explained,
    a_token_server_that_is_down_is_named,
    verifies_and_records_the_certificate,
    every_fault_of_a_certificate,
    the_server_name_may_be_another,
    client_certificates_missing_wrong_and_right,
    plain_http_to_a_tls_port_and_the_reverse,
    names_are_resolved_and_sent_as_host,
    a_stopped_server_is_a_timeout,
    a_hang_and_a_slow_body_are_timeouts_and_leave_nothing_open,
    an_answer_that_breaks_off_is_a_reset,
    of_a_long_body_a_mebibyte_is_read,
    leaves_no_connection_and_no_complaint_behind,
];

fn http(url: impl Into<String>) -> Value {
    json!({"type": "http", "url": url.into()})
}

/// On a TLS port of nginx, with the authority that issued most of its certificates.
fn https(port: u16, path: &str) -> Value {
    trusting(http(format!("https://localhost:{port}{path}")))
}

fn health(origin: &str) -> Value {
    http(format!("{origin}/health"))
}

fn tells_phases_status_and_server() {
    let nginx = need!(Rig::shared().nginx());
    let outcome = up(http(nginx.url("/health")));
    assert_eq!(phases(&outcome), ["resolve", "connect", "request"]);
    assert_eq!(outcome.http_status, Some(200));
    assert!(outcome.tls.is_none());
    let server = outcome.server.expect("its name");
    assert!(server.starts_with("nginx/1."), "{server}");

    let outcome = up(http(format!("http://127.0.0.1:{}/204", nginx.http)));
    assert_eq!(phases(&outcome), ["connect", "request"]);
    assert_eq!(outcome.http_status, Some(204));

    let outcome = up(https(nginx.https, "/health"));
    assert_eq!(phases(&outcome), ["resolve", "connect", "tls", "request"]);
}

fn speaks_http2_where_it_is_agreed_on() {
    let nginx = need!(Rig::shared().nginx());
    for (port, protocol, version) in [
        (nginx.http, "HTTP/1.1", ""),
        (nginx.http1, "HTTP/1.1", "TLSv1.3"),
        (nginx.https, "HTTP/2.0", "TLSv1.3"),
        (nginx.tls12, "HTTP/2.0", "TLSv1.2"),
    ] {
        let marker = format!("/protocol?{port}");
        let spec = match version {
            "" => http(nginx.url(&marker)),
            _ => https(port, &marker),
        };
        let said = format!("^{protocol} {version}$");
        let outcome = up(with_properties(spec, json!({"bodyRegex": said})));
        let known = outcome.tls.and_then(|tls| tls.version);
        assert_eq!(known.unwrap_or_default(), version);
        let logged = nginx.wait_for_requests(&marker, 1);
        let [logged] = &logged[..] else {
            panic!("{logged:?}");
        };
        assert_eq!((logged.port, &*logged.protocol), (port, protocol));
        assert!(logged.user_agent.starts_with("conncheck/"), "{logged:?}");
    }
}

fn sends_the_method_that_is_set() {
    let nginx = need!(Rig::shared().nginx());
    for spec in [
        http(nginx.url("/echo-method?method")),
        https(nginx.https, "/echo-method?method"),
    ] {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            let properties = json!({"method": method, "bodyRegex": format!("^{method}$")});
            up(with_properties(spec.clone(), properties));
        }
        up(with_properties(spec.clone(), json!({"method": "head"})));
    }
    let logged = nginx.wait_for_requests("?method", 14);
    assert_eq!(logged.len(), 14);
    assert_eq!((&*logged[6].method, &*logged[13].method), ("HEAD", "HEAD"));
}

fn sends_headers_as_a_map_and_as_a_list() {
    let nginx = need!(Rig::shared().nginx());
    for (marker, headers) in [
        (
            "?headers-map",
            json!({"X-Api-Key": "probe-key", "cookie": "a=b", "User-Agent": "me", "Host": "virtual.test"}),
        ),
        (
            "?headers-list",
            json!([
                {"name": "X-Api-Key", "value": "probe-key"},
                {"name": "cookie", "value": "a=b"},
                {"name": "User-Agent", "value": "me"},
                {"name": "Host", "value": "virtual.test"},
            ]),
        ),
    ] {
        let path = format!("/apikey{marker}");
        for spec in [http(nginx.url(&path)), https(nginx.https, &path)] {
            up(with_properties(spec, json!({"headers": headers})));
        }
        let logged = nginx.wait_for_requests(marker, 2);
        assert_eq!(logged.len(), 2);
        for logged in logged {
            assert_eq!(
                (
                    &*logged.api_key,
                    &*logged.cookie,
                    &*logged.user_agent,
                    &*logged.host
                ),
                ("probe-key", "a=b", "me", "virtual.test"),
            );
        }
    }
}

fn sends_the_body_over_both_versions() {
    let nginx = need!(Rig::shared().nginx());
    let body = r#"{"ping": "päng"}"#;
    for spec in [
        http(nginx.url("/post?body")),
        https(nginx.http1, "/post?body"),
        https(nginx.https, "/post?body"),
    ] {
        let properties = json!({
            "method": "POST", "body": body, "headers": {"Content-Type": "application/json"},
            "bodyContains": "posted",
        });
        up(with_properties(spec, properties));
    }
    let logged = nginx.wait_for_requests("?body", 3);
    assert_eq!(logged.len(), 3);
    for logged in logged {
        assert_eq!(
            (&*logged.content_type, &*logged.body),
            ("application/json", body)
        );
    }
    table(
        &http(nginx.url("/post?none")),
        &[
            (json!({}), "http_status request 405"),
            (json!({"method": "POST"}), "http_status request 400"),
        ],
    );
}

fn each_status_has_its_reason() {
    let nginx = need!(Rig::shared().nginx());
    for (path, reason, code, said) in [
        (
            "/bearer",
            "auth",
            "401",
            "it wants a login: `Bearer` (realm `rig`)",
        ),
        (
            "/private/",
            "auth",
            "401",
            "it wants a login: `Basic` (realm `rig`)",
        ),
        ("/apikey", "permission", "403", ""),
        ("/404", "http_status", "404", ""),
        ("/429", "unavailable", "429", "it says to come back in 7 s"),
        ("/500", "http_status", "500", ""),
        ("/503", "unavailable", "503", "it says to come back in 7 s"),
    ] {
        for spec in [http(nginx.url(path)), https(nginx.https, path)] {
            let outcome = down(spec, reason, "request", code);
            assert_eq!(outcome.http_status, code.parse().ok());
            assert!(outcome.server.is_some(), "{path}");
            let expected = format!("expected 2xx, got {code} ");
            assert!(message(&outcome).starts_with(&expected), "{outcome:#?}");
            let failure = outcome.result.unwrap_err();
            assert_eq!(failure.hint.unwrap_or_default(), said, "{path}");
        }
    }
}

fn the_expected_statuses_decide() {
    let nginx = need!(Rig::shared().nginx());
    let expecting = |status: Value| json!({"expectedStatus": status});
    table(
        &http(nginx.url("/404")),
        &[
            (expecting(json!(404)), "up"),
            (expecting(json!("4xx")), "up"),
            (expecting(json!("400-404")), "up"),
            (expecting(json!([200, "401-404"])), "up"),
            (expecting(json!("2xx, 404")), "up"),
            (expecting(json!([200, 403])), "http_status request 404"),
            (expecting(json!("200-403")), "http_status request 404"),
        ],
    );
    table(
        &http(nginx.url("/503")),
        &[
            (expecting(json!("5xx")), "up"),
            (expecting(json!(500)), "unavailable request 503"),
        ],
    );
    table(
        &http(nginx.url("/health")),
        &[(expecting(json!([401, 403])), "http_status request 200")],
    );
}

fn the_body_is_looked_into() {
    let nginx = need!(Rig::shared().nginx());
    let wrong = "assertion request -";
    table(
        &http(nginx.url("/health")),
        &[
            (json!({"bodyContains": "ok"}), "up"),
            (json!({"bodyContains": "OK"}), wrong),
            (json!({"bodyRegex": "^o.$"}), "up"),
            (json!({"bodyRegex": "^.$"}), wrong),
            (json!({"jsonPath": "$.status"}), wrong),
            // The status counts more than the body.
            (
                json!({"bodyContains": "ok", "expectedStatus": 500}),
                "http_status request 200",
            ),
        ],
    );
    table(
        &https(nginx.https, "/json"),
        &[
            (json!({"jsonPath": "$.status", "equals": "ok"}), "up"),
            (json!({"jsonPath": "$.status", "equals": "down"}), wrong),
            (json!({"jsonPath": "$.version", "equals": 3}), "up"),
            (json!({"jsonPath": "$.version", "equals": "3"}), "up"),
            (json!({"jsonPath": "$.version", "equals": 4}), wrong),
            (json!({"jsonPath": "$.checks[0].up", "equals": true}), "up"),
            (json!({"jsonPath": "$.checks[*].up", "equals": true}), wrong),
            (
                json!({"jsonPath": "$.checks[?@.name == 'cache'].up", "equals": false}),
                "up",
            ),
            (json!({"jsonPath": "$.checks[0].up"}), "up"),
            (json!({"jsonPath": "$.checks[1].up"}), wrong),
            (json!({"jsonPath": "$.nothing"}), wrong),
            (
                json!({"jsonPath": "$.status", "equals": "ok", "bodyContains": "cache", "bodyRegex": "\"name\":\"db\""}),
                "up",
            ),
        ],
    );
    table(
        &http(nginx.url("/json-array")),
        &[(json!({"jsonPath": "$[2]", "equals": 3}), "up")],
    );
    let outcome = down(
        with_properties(http(nginx.url("/not-json")), json!({"jsonPath": "$.a"})),
        "assertion",
        "request",
        "",
    );
    assert_eq!(
        message(&outcome),
        "the answer (10 bytes of application/json) is not JSON"
    );
    // It would be compressed if we said that we could read it.
    let plain = json!({"bodyRegex": "^(needle in a haystack\n){1000}$"});
    up(with_properties(http(nginx.url("/gzip")), plain));
}

fn redirects_are_followed_as_browsers_do() {
    let nginx = need!(Rig::shared().nginx());
    for spec in [
        http(nginx.url("/redirect")),
        https(nginx.https, "/redirect"),
    ] {
        let outcome = up(with_properties(spec, json!({"bodyContains": "ok"})));
        assert_eq!(outcome.http_status, Some(200));
    }
    for (status, method) in [(301, "GET"), (303, "GET"), (307, "POST"), (308, "POST")] {
        let path = format!("/redirect/{status}");
        let properties = json!({"method": "POST", "body": "x", "bodyRegex": format!("^{method}$")});
        for spec in [http(nginx.url(&path)), https(nginx.https, &path)] {
            up(with_properties(spec, properties.clone()));
        }
    }
}

fn a_redirect_that_is_not_to_be_followed_is_not() {
    let nginx = need!(Rig::shared().nginx());
    let spec = http(nginx.url("/redirect"));
    table(
        &spec,
        &[
            (json!({"followRedirects": false}), "http_status request 302"),
            (
                json!({"followRedirects": false, "expectedStatus": 302}),
                "up",
            ),
            (json!({"expectedStatus": 302}), "up"),
            (json!({"expectedStatus": "3xx"}), "up"),
        ],
    );
    let away = http(nginx.url("/redirect-other-origin?stay"));
    let outcome = attempt(&with_properties(away, json!({"followRedirects": false})));
    assert_eq!(
        hint(&outcome),
        format!("it redirects to `http://localhost:{}`", nginx.other_http)
    );
    let logged = nginx.wait_for_requests("?stay", 1);
    assert_eq!(logged.len(), 1, "{logged:?}");
}

fn a_redirect_loop_ends_after_ten() {
    let nginx = need!(Rig::shared().nginx());
    for spec in [
        http(nginx.url("/redirect-loop")),
        https(nginx.https, "/redirect-loop"),
    ] {
        let outcome = down(spec, "http_status", "request", "302");
        assert!(message(&outcome).starts_with("redirected 10 times, and once more to "));
    }
    let peer = HttpPeer::answers(response(302, &[("Location", "/again")], "")).unwrap();
    down(http(peer.url("/")), "http_status", "request", "302");
    assert_eq!(peer.requests().len(), 11);
}

fn a_redirect_to_the_same_origin_keeps_the_credentials() {
    let nginx = need!(Rig::shared().nginx());
    for (marker, spec) in [
        ("same-origin-1", http(nginx.url("/redirect/307"))),
        ("same-origin-2", https(nginx.https, "/redirect/307")),
    ] {
        // The redirect drops the query, so the user agent tells whose request it is.
        let properties =
            json!({"bearer": "t0ken", "headers": {"User-Agent": marker, "X-Api-Key": "k"}});
        up(with_properties(spec, properties));
        let arrived = || {
            let mut logged = nginx.requests("/echo-method").into_iter();
            logged.find(|logged| logged.user_agent == marker)
        };
        assert!(soon(|| arrived().is_some()));
        let logged = arrived().expect("it is there");
        assert_eq!(
            (&*logged.authorization, &*logged.api_key),
            ("Bearer t0ken", "k")
        );
    }
}

fn a_redirect_to_another_origin_gets_no_credentials() {
    let nginx = need!(Rig::shared().nginx());
    let login = json!({"username": "probe", "password": PASSWORD});
    let oauth = json!({
        "tokenURL": nginx.tokens().url(),
        "clientID": TokenServer::CLIENT_ID,
        "clientSecret": TokenServer::CLIENT_SECRET,
    });
    for (marker, more) in [
        ("?away-basic", login),
        ("?away-bearer", json!({"properties": {"bearer": "t0ken"}})),
        ("?away-oauth", json!({"properties": {"oauth": oauth}})),
        (
            "?away-headers",
            json!({"properties": {"headers": {
                "Authorization": "x", "X-Api-Key": "k", "Cookie": "a=b", "User-Agent": "me", "Host": "virtual.test",
            }}}),
        ),
    ] {
        let url = nginx.url(&format!("/redirect-other-origin{marker}"));
        up(with(http(url), more));
        let logged = nginx.wait_for_requests(marker, 2);
        let [home, away] = &logged[..] else {
            panic!("{logged:?}");
        };
        assert_eq!((home.port, away.port), (nginx.http, nginx.other_http));
        assert!(!home.authorization.is_empty(), "{home:?}");
        assert_eq!(
            (&*away.authorization, &*away.api_key, &*away.cookie),
            ("", "", ""),
            "{marker}"
        );
        assert_eq!(away.host, format!("localhost:{}", nginx.other_http));
        assert_eq!(away.user_agent, home.user_agent);
    }
}

fn a_redirect_out_of_tls_is_refused() {
    let nginx = need!(Rig::shared().nginx());
    let outcome = down(
        https(nginx.https, "/redirect-to-plain?downgrade"),
        "http_status",
        "request",
        "302",
    );
    assert_eq!(
        message(&outcome),
        format!(
            "a redirect that leads out of TLS, to `http://localhost:{}`, is not followed",
            nginx.http
        )
    );
    assert_eq!(outcome.http_status, Some(302));
    let logged = nginx.wait_for_requests("?downgrade", 1);
    assert_eq!(logged.len(), 1, "{logged:?}");
}

fn a_redirect_to_a_name_that_is_gone_names_its_peer() {
    let to = [("Location", "http://gone.conncheck.test:8080/path?token=x")];
    let peer = HttpPeer::answers(response(302, &to, "")).unwrap();
    let server = DnsServer::start().unwrap();
    let resolver = ResolverChoice::Servers(vec![server.addr()]);
    let outcome = attempt_with(TIMEOUT, &resolver, &http(peer.url("/")));
    assert_down(&outcome, "dns", "resolve", "NXDOMAIN");
    let start = "`http://gone.conncheck.test:8080`: ";
    assert!(message(&outcome).starts_with(start), "{outcome:#?}");
}

fn basic_from_the_spec_the_url_and_a_secret() {
    let nginx = need!(Rig::shared().nginx());
    let spec = http(nginx.url("/private/?basic"));
    let login = json!({"username": "probe", "password": PASSWORD});
    up(with(spec.clone(), login.clone()));
    up(with(https(nginx.https, "/private/?basic"), login.clone()));

    let authority = format!("probe:{PASSWORD}@localhost:{}", nginx.http);
    up(http(format!("http://{authority}/private/?basic")));
    // `spec` wins over the URL.
    let stranger = format!(
        "http://nobody:nothing@localhost:{}/private/?basic",
        nginx.http
    );
    up(with(http(stranger), login));

    let whole = with(spec.clone(), json!({"secretRef": {"name": "login"}}));
    let secret = [("username", "probe\n"), ("password", PASSWORD)];
    assert_eq!(summary(&attempt_with_secret(&secret, &whole)), "up");
    let keyed = json!({"username": "probe", "secretRef": {"name": "login", "key": "pass"}});
    let outcome = attempt_with_secret(&[("pass", PASSWORD)], &with(spec, keyed));
    assert_eq!(summary(&outcome), "up");

    let logged = nginx.wait_for_requests("?basic", 6);
    assert_eq!(logged.len(), 6);
    for logged in logged {
        // base64 of `probe:probe-password`.
        assert_eq!(logged.authorization, "Basic cHJvYmU6cHJvYmUtcGFzc3dvcmQ=");
        assert_eq!(logged.uri, "/private/?basic");
    }
}

fn a_secrets_single_key_is_a_token_or_an_api_key() {
    let nginx = need!(Rig::shared().nginx());
    let keyed = json!({"secretRef": {"name": "login", "key": "value"}});
    let bearer = with(http(nginx.url("/bearer?single")), keyed.clone());
    let outcome = attempt_with_secret(&[("value", "probe-token\n")], &bearer);
    assert_eq!(summary(&outcome), "up");
    let api_key = with_properties(
        with(http(nginx.url("/apikey?single")), keyed),
        json!({"apiKeyHeader": "X-Api-Key"}),
    );
    let outcome = attempt_with_secret(&[("value", Nginx::API_KEY)], &api_key);
    assert_eq!(summary(&outcome), "up");

    let logged = nginx.wait_for_requests("?single", 2);
    assert_eq!(
        (&*logged[0].authorization, &*logged[0].api_key),
        ("Bearer probe-token", "")
    );
    assert_eq!(
        (&*logged[1].authorization, &*logged[1].api_key),
        ("", "probe-key")
    );

    let outcome = attempt_with_secret(&[("value", "old-token")], &bearer);
    assert_down(&outcome, "auth", "request", "401");
    let outcome = attempt_with_secret(&[("value", "old-key")], &api_key);
    assert_down(&outcome, "permission", "request", "403");
}

fn wrong_and_missing_credentials() {
    let nginx = need!(Rig::shared().nginx());
    let spec = http(nginx.url("/private/"));
    let outcome = down(
        with(spec, json!({"username": "probe", "password": "wrong"})),
        "auth",
        "request",
        "401",
    );
    assert_eq!(
        hint(&outcome),
        "it refused the login that was sent; it accepts `Basic` (realm `rig`)"
    );
    up(with_properties(
        http(nginx.url("/bearer")),
        json!({"bearer": Nginx::BEARER}),
    ));
    let outcome = down(
        with_properties(https(nginx.https, "/bearer"), json!({"bearer": "wrong"})),
        "auth",
        "request",
        "401",
    );
    assert_eq!(
        hint(&outcome),
        "it refused the login that was sent; it accepts `Bearer` (realm `rig`)"
    );
}

/// At `/oauth`, with a token from here.
fn oauth(nginx: &Nginx, token_url: &str, more: Value) -> Value {
    let oauth = json!({
        "tokenURL": token_url,
        "clientID": TokenServer::CLIENT_ID,
        "clientSecret": TokenServer::CLIENT_SECRET,
    });
    let spec = with_properties(http(nginx.url("/oauth")), json!({"oauth": oauth}));
    with_properties(spec, json!({"oauth": more}))
}

fn an_oauth_token_is_asked_for_and_sent() {
    let nginx = need!(Rig::shared().nginx());
    let tokens = TokenServer::start().unwrap();
    let outcome = up(oauth(&nginx, &tokens.url(), json!({"scope": ["a", "b:c"]})));
    assert_eq!(phases(&outcome), ["resolve", "connect", "auth", "request"]);
    assert!(outcome.server.expect("its name").starts_with("nginx"));
    up(oauth(&nginx, &tokens.url(), json!({"authStyle": "body"})));
    let asked = tokens.requests();
    assert_eq!(
        asked[0].body_text(),
        "grant_type=client_credentials&scope=a+b%3Ac"
    );
    assert_eq!(
        asked[1].body_text(),
        "grant_type=client_credentials&client_id=probe&client_secret=probe-secret"
    );
    assert_eq!(asked[1].header("authorization"), None);

    // Over TLS, where the authority that is trusted is the same.
    let token_url = nginx.https_url("/token");
    let ca = json!({"caCert": Rig::shared().pki().ca.cert_pem});
    let outcome = up(with(oauth(&nginx, &token_url, json!({})), ca));
    assert_eq!(
        phases(&outcome),
        ["resolve", "connect", "tls", "auth", "request"]
    );

    let mut keyed = oauth(&nginx, &tokens.url(), json!({}));
    keyed["properties"]["oauth"]
        .as_object_mut()
        .unwrap()
        .remove("clientSecret");
    keyed["secretRef"] = json!({"name": "login", "key": "value"});
    let secret = [("value", TokenServer::CLIENT_SECRET)];
    assert_eq!(summary(&attempt_with_secret(&secret, &keyed)), "up");
}

fn an_oauth_token_that_is_refused_is_explained() {
    let nginx = need!(Rig::shared().nginx());
    let tokens = nginx.tokens().url();
    for (more, reason, code) in [
        (json!({"clientSecret": "wrong"}), "auth", "invalid_client"),
        (json!({"clientID": "nobody"}), "auth", "invalid_client"),
        (json!({"scope": "forbidden"}), "permission", "invalid_scope"),
    ] {
        let outcome = down(oauth(&nginx, &tokens, more), reason, "auth", code);
        assert!(
            message(&outcome).starts_with("token server `http://127.0.0.1:"),
            "{outcome:#?}"
        );
        assert_eq!(outcome.http_status, None, "the target was not asked");
    }
    // Not a token server at all.
    for (path, reason, code) in [
        ("/health", "protocol", ""),
        ("/404", "http_status", "404"),
        ("/503", "unavailable", "503"),
    ] {
        let spec = oauth(&nginx, &nginx.url(path), json!({}));
        down(spec, reason, "auth", code);
    }
}

fn a_token_server_that_is_down_is_named() {
    let nginx = need!(Rig::shared().nginx());
    let refused = faults::refused().unwrap();
    let origin = format!("http://{}", refused.addr());
    let spec = oauth(&nginx, &format!("{origin}/token"), json!({}));
    let outcome = down(spec, "connect_refused", "connect", "");
    let start = format!("`{origin}`: ");
    assert!(message(&outcome).starts_with(&start), "{outcome:#?}");

    let spec = oauth(&nginx, &nginx.url("/hang"), json!({}));
    let outcome = attempt_within(LONGER, &spec);
    assert_down(&outcome, "timeout", "auth", "");
    assert!(
        message(&outcome).contains(&format!("(`http://localhost:{}`)", nginx.http)),
        "{outcome:#?}"
    );
}

fn verifies_and_records_the_certificate() {
    let nginx = need!(Rig::shared().nginx());
    web::verifies_and_records_the_certificate(&nginx, health);
}

fn every_fault_of_a_certificate() {
    let nginx = need!(Rig::shared().nginx());
    web::every_fault_of_a_certificate(&nginx, health);
}

fn the_server_name_may_be_another() {
    let nginx = need!(Rig::shared().nginx());
    web::the_server_name_may_be_another(&nginx, health);
}

fn client_certificates_missing_wrong_and_right() {
    let nginx = need!(Rig::shared().nginx());
    web::client_certificates_missing_wrong_and_right(&nginx, |origin| {
        // Only with a certificate is there a body; whose it is, nginx says there.
        with_properties(
            http(format!("{origin}/client")),
            json!({"bodyContains": "CN=probe SUCCESS"}),
        )
    });
}

fn plain_http_to_a_tls_port_and_the_reverse() {
    let nginx = need!(Rig::shared().nginx());
    web::plain_http_to_a_tls_port_and_the_reverse(&nginx, health);
}

fn names_are_resolved_and_sent_as_host() {
    let nginx = need!(Rig::shared().nginx());
    let server = DnsServer::start()
        .unwrap()
        .with("elsewhere.test", Answer::address([127, 0, 0, 1]))
        .with("alias.test", Answer::Alias("elsewhere.test".to_owned()));
    let resolver = ResolverChoice::Servers(vec![server.addr()]);
    for (host, expected) in [
        ("elsewhere.test", "up"),
        ("ELSEWHERE.test", "up"),
        // An alias is for the dialing, not for the certificate.
        ("alias.test", "tls_name_mismatch tls -"),
        ("nowhere.test", "dns resolve NXDOMAIN"),
    ] {
        let url = format!("https://{host}:{}/health?resolved", nginx.wrong_name);
        let spec = with(https(0, ""), json!({"url": url}));
        let outcome = attempt_with(TIMEOUT, &resolver, &spec);
        assert_eq!(summary(&outcome), expected, "{host}: {outcome:#?}");
    }
    let logged = nginx.wait_for_requests("?resolved", 2);
    assert_eq!(logged.len(), 2);
    for logged in logged {
        assert_eq!(
            (&*logged.host, &*logged.protocol),
            (&*format!("elsewhere.test:{}", nginx.wrong_name), "HTTP/2.0")
        );
    }
}

fn a_stopped_server_is_a_timeout() {
    let shared = need!(Rig::shared().nginx());
    let (_dir, nginx) = own_nginx();
    let plain = http(nginx.url("/health"));
    nginx.process().pause();
    assert_down(&attempt_within(SHORT, &plain), "timeout", "request", "");
    let spec = https(nginx.https, "/health");
    assert_down(&attempt_within(SHORT, &spec), "timeout", "tls", "");
    let spec = oauth(&shared, &nginx.url("/token"), json!({}));
    assert_down(&attempt_within(SHORT, &spec), "timeout", "auth", "");
    nginx.process().resume();
    up(plain.clone());
    drop(nginx);
    down(plain, "connect_refused", "connect", "");
}

fn a_hang_and_a_slow_body_are_timeouts_and_leave_nothing_open() {
    need!(Rig::shared().nginx());
    let (_dir, nginx) = own_nginx();
    let before = nginx.sockets();
    for (path, said) in [
        ("/hang?gone", "the peer did not answer the request"),
        (
            "/slow-body?gone",
            "its answer (200 OK) began and did not end",
        ),
    ] {
        let specs = [
            http(nginx.url(path)),
            https(nginx.http1, path),
            https(nginx.https, path),
        ];
        for outcome in attempts_within(LONGER, specs) {
            assert_down(&outcome, "timeout", "request", "");
            assert!(message(&outcome).starts_with(said), "{outcome:#?}");
            let status = path.starts_with("/slow").then_some(200);
            assert_eq!(outcome.http_status, status);
        }
    }
    // A request is logged when it is over: nginx has seen us go.
    let logged = nginx.wait_for_requests("?gone", 6);
    assert_eq!(logged.len(), 6, "{logged:#?}");
    assert!(
        soon(|| nginx.sockets() <= before),
        "{} sockets, and {before} before",
        nginx.sockets()
    );
}

fn an_answer_that_breaks_off_is_a_reset() {
    let nginx = need!(Rig::shared().nginx());
    let nothing = "the peer hung up without an answer";
    let half = "the peer hung up in the middle of its answer, after 5 bytes of the body";
    // HTTP/2 ends the request, not the connection, and says why.
    let ended = "the peer ended the request without an answer (`PROTOCOL_ERROR`)";
    for (spec, code, said) in [
        (http(nginx.url("/empty")), "", nothing),
        (https(nginx.https, "/empty"), "PROTOCOL_ERROR", ended),
        (http(nginx.url("/half")), "", half),
        (https(nginx.http1, "/half"), "", half),
        (https(nginx.https, "/half"), "INTERNAL_ERROR", half),
    ] {
        let outcome = down(spec, "connect_reset", "request", code);
        assert_eq!(message(&outcome), said);
        assert_eq!(outcome.http_status, (said == half).then_some(200));
    }
    down(https(nginx.http1, "/empty"), "connect_reset", "request", "");
    for broken in [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 500\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let peer = HttpPeer::answers(broken).unwrap();
        // What was looked for had come: that proves nothing.
        let spec = with_properties(http(peer.url("/")), json!({"bodyContains": "half"}));
        let outcome = down(spec, "connect_reset", "request", "");
        assert_eq!(outcome.http_status, Some(200));
        assert!(message(&outcome).contains("after 4 bytes"), "{outcome:#?}");
    }
    let whole = HttpPeer::answers("HTTP/1.0 200 OK\r\n\r\nalive").unwrap();
    let spec = with_properties(http(whole.url("/")), json!({"bodyRegex": "^alive$"}));
    up(spec);
}

fn of_a_long_body_a_mebibyte_is_read() {
    let nginx = need!(Rig::shared().nginx());
    for spec in [
        http(nginx.url("/big")),
        https(nginx.http1, "/big"),
        https(nginx.https, "/big"),
    ] {
        up(spec.clone());
        up(with_properties(
            spec.clone(),
            json!({"bodyContains": "xxx"}),
        ));
        let spec = with_properties(spec, json!({"bodyContains": "y"}));
        let outcome = down(spec, "assertion", "request", "");
        assert_eq!(
            message(&outcome),
            "the body (more than 1 MiB of text/plain) does not contain `y`"
        );
    }
}

fn leaves_no_connection_and_no_complaint_behind() {
    need!(Rig::shared().nginx());
    let (_dir, nginx) = own_nginx();
    let token = json!({"tokenURL": nginx.url("/token"), "clientID": TokenServer::CLIENT_ID, "clientSecret": TokenServer::CLIENT_SECRET});
    let client = &Rig::shared().pki().client;
    let post = json!({"method": "POST", "body": "x"});
    let specs = [
        http(nginx.url("/health")),
        http(nginx.url("/204")),
        http(nginx.url("/redirect")),
        with_properties(http(nginx.url("/oauth")), json!({"oauth": token})),
        with_properties(http(nginx.url("/post")), post.clone()),
        https(nginx.http1, "/gzip"),
        https(nginx.https, "/health"),
        https(nginx.https, "/204"),
        https(nginx.https, "/gzip"),
        https(nginx.https, "/redirect"),
        with_properties(https(nginx.https, "/health"), json!({"method": "HEAD"})),
        with_properties(https(nginx.https, "/post"), post),
        https(nginx.tls12, "/health"),
        with(
            https(nginx.mtls, "/health"),
            json!({"clientCert": client.cert_pem, "clientKey": client.key_pem}),
        ),
    ];
    let before = nginx.sockets();
    for spec in specs {
        for _ in 0..3 {
            up(spec.clone());
        }
    }
    assert!(
        soon(|| nginx.sockets() <= before),
        "{} sockets, and {before} before",
        nginx.sockets()
    );
    assert_eq!(nginx.log(), "");
    let complaints = || {
        let log = nginx.info_log();
        let lines = log.lines().filter(|line| !line.contains("[notice]"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(complaints(), [""; 0]);
    // It would have told: this is one who leaves without a word.
    drop(std::net::TcpStream::connect(("127.0.0.1", nginx.https)));
    assert!(soon(|| !complaints().is_empty()));
}
