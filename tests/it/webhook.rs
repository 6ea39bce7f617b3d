//! `webhook` against real nginx, which counts by its access log what it was asked with.
//!
//! nginx serves all tests at once: what it was sent is looked up by a query of the test's own.

use conncheck_rig::http::{HttpPeer, response};
use conncheck_rig::{Nginx, PASSWORD, Rig, TokenServer, need};
use serde_json::{Value, json};

use crate::check::{
    SHORT, assert_down, attempt, attempt_with_secret, attempt_within, down, phases, up, with,
};
use crate::web::{
    self, agrees_with_check_http, hint, message, own_nginx, soon, summary, table, trusting,
    with_properties,
};

crate::trials![
    looks_and_fires_nothing,
    the_second_look_is_where_the_first_tells_too_little,
    each_status_has_its_reason,
    fires_once_and_on_purpose_only,
    a_redirect_is_not_followed,
    logs_in_as_http_does,
    wrong_and_missing_credentials,
    verifies_and_records_the_certificate,
    every_fault_of_a_certificate,
    the_server_name_may_be_another,
    client_certificates_missing_wrong_and_right,
    plain_http_to_a_tls_port_and_the_reverse,
    a_stopped_server_is_a_timeout,
    verdicts_agree_with_check_http,
    leaves_no_connection_and_no_complaint_behind,
];

fn webhook(url: impl Into<String>) -> Value {
    json!({"type": "webhook", "url": url.into()})
}

fn hook(origin: &str) -> Value {
    webhook(format!("{origin}/health"))
}

/// The methods that came with a marker, in order.
fn methods(nginx: &Nginx, marker: &str, count: usize) -> Vec<String> {
    let logged = nginx.wait_for_requests(marker, count).into_iter();
    logged.map(|logged| logged.method).collect()
}

fn looks_and_fires_nothing() {
    let nginx = need!(Rig::shared().nginx());
    let outcome = up(webhook(nginx.url("/hook?looks")));
    assert_eq!(phases(&outcome), ["resolve", "connect", "request"]);
    assert_eq!(outcome.http_status, Some(405));
    up(webhook(nginx.url("/health?looks")));
    up(trusting(webhook(nginx.https_url("/hook?looks"))));
    let asked = methods(&nginx, "?looks", 5);
    assert_eq!(asked, ["HEAD", "OPTIONS", "HEAD", "HEAD", "OPTIONS"]);
    for logged in nginx.requests("?looks") {
        assert_eq!(logged.body, "");
        assert!(logged.user_agent.starts_with("conncheck/"), "{logged:?}");
    }
}

fn the_second_look_is_where_the_first_tells_too_little() {
    let nginx = need!(Rig::shared().nginx());
    for (path, marker, properties, expected, asked) in [
        (
            "/no-head",
            "?second-a",
            json!({}),
            "up",
            &["HEAD", "OPTIONS"][..],
        ),
        (
            "/hook/options",
            "?second-b",
            json!({}),
            "up",
            &["HEAD", "OPTIONS"],
        ),
        (
            "/hook/unknown",
            "?second-c",
            json!({}),
            "http_status request 501",
            &["HEAD", "OPTIONS"],
        ),
        (
            "/hook/options",
            "?second-d",
            json!({"method": "OPTIONS"}),
            "up",
            &["OPTIONS"],
        ),
        (
            "/hook/options",
            "?second-e",
            json!({"method": "HEAD"}),
            "http_status request 501",
            &["HEAD"],
        ),
        (
            "/404",
            "?second-f",
            json!({}),
            "not_found request 404",
            &["HEAD"],
        ),
        ("/204", "?second-g", json!({}), "up", &["HEAD"]),
    ] {
        let spec = webhook(nginx.url(&format!("{path}{marker}")));
        let outcome = attempt(&with_properties(spec, properties));
        assert_eq!(summary(&outcome), expected, "{path}: {outcome:#?}");
        assert_eq!(methods(&nginx, marker, asked.len()), asked, "{path}");
    }
}

fn each_status_has_its_reason() {
    let nginx = need!(Rig::shared().nginx());
    for (path, reason, code) in [
        ("/hook/private", "auth", "401"),
        ("/private/", "auth", "401"),
        ("/apikey", "permission", "403"),
        ("/404", "not_found", "404"),
        ("/hook/gone", "not_found", "410"),
        ("/500", "http_status", "500"),
        ("/503", "unavailable", "503"),
    ] {
        for spec in [
            webhook(nginx.url(path)),
            trusting(webhook(nginx.https_url(path))),
        ] {
            let outcome = down(spec, reason, "request", code);
            assert_eq!(outcome.http_status, code.parse().ok());
            let start = format!("expected an endpoint that is there, got {code} ");
            assert!(message(&outcome).starts_with(&start), "{outcome:#?}");
        }
    }
    // These are there, whatever they think of the request.
    for path in ["/429", "/redirect", "/redirect-loop", "/not-json"] {
        up(webhook(nginx.url(path)));
    }
}

fn fires_once_and_on_purpose_only() {
    let nginx = need!(Rig::shared().nginx());
    let body = r#"{"event": "päng"}"#;
    let fire = json!({
        "method": "POST", "body": body, "headers": {"Content-Type": "application/json"},
    });
    for spec in [
        webhook(nginx.url("/post?fired")),
        trusting(webhook(nginx.https_url("/post?fired"))),
    ] {
        let outcome = up(with_properties(spec, fire.clone()));
        assert_eq!(outcome.http_status, Some(200));
    }
    let logged = nginx.wait_for_requests("?fired", 2);
    assert_eq!(logged.len(), 2, "{logged:?}");
    for logged in logged {
        assert_eq!(
            (&*logged.method, &*logged.content_type, &*logged.body),
            ("POST", "application/json", body)
        );
    }
    let table_of = |path: &str, expected: &str| {
        let spec = webhook(nginx.url(path));
        table(&spec, &[(json!({"method": "POST"}), expected)]);
    };
    table_of("/hook", "up");
    table_of("/post", "http_status request 400");
    table_of("/hook/private", "auth request 401");
    table_of("/apikey", "permission request 403");
    table_of("/404", "not_found request 404");
    table_of("/hook/gone", "not_found request 410");
    table_of("/429", "unavailable request 429");
    table_of("/503", "unavailable request 503");
    // A refusal is no reason to try again.
    let peer = HttpPeer::answers(response(500, &[], "boom")).unwrap();
    let spec = with_properties(webhook(peer.url("/")), json!({"method": "POST"}));
    down(spec, "http_status", "request", "500");
    assert_eq!(peer.requests().len(), 1);
    // Nor is one that hangs up in the middle.
    let peer =
        HttpPeer::answers("HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nhalf")
            .unwrap();
    let spec = with_properties(webhook(peer.url("/")), json!({"method": "POST"}));
    down(spec, "connect_reset", "request", "");
    assert_eq!(peer.requests().len(), 1);
}

fn a_redirect_is_not_followed() {
    let nginx = need!(Rig::shared().nginx());
    let spec = webhook(nginx.url("/redirect-other-origin?hooked"));
    up(spec.clone());
    let outcome = attempt(&with_properties(spec, json!({"method": "POST"})));
    assert_eq!(summary(&outcome), "http_status request 302");
    assert_eq!(
        hint(&outcome),
        format!("it redirects to `http://localhost:{}`", nginx.other_http)
    );
    assert_eq!(methods(&nginx, "?hooked", 2), ["HEAD", "POST"]);
}

fn logs_in_as_http_does() {
    let nginx = need!(Rig::shared().nginx());
    let basic = json!({"username": "probe", "password": PASSWORD});
    up(with(webhook(nginx.url("/private/")), basic));
    let url = format!("http://probe:{PASSWORD}@localhost:{}/private/", nginx.http);
    up(webhook(url));
    let wrong = format!("http://nobody:nothing@localhost:{}/private/", nginx.http);
    up(with(
        webhook(wrong),
        json!({"username": "probe", "password": PASSWORD}),
    ));
    let bearer = json!({"bearer": Nginx::BEARER});
    up(with_properties(webhook(nginx.url("/hook/private")), bearer));
    let headers = json!({"headers": {"X-Api-Key": Nginx::API_KEY}});
    up(with_properties(webhook(nginx.url("/apikey")), headers));

    let keyed = |path: &str| {
        let key = json!({"secretRef": {"name": "hook", "key": "value"}});
        with(webhook(nginx.url(path)), key)
    };
    let token = [("value", Nginx::BEARER)];
    let outcome = attempt_with_secret(&token, &keyed("/hook/private"));
    assert_eq!(summary(&outcome), "up");
    let api_key = [("value", Nginx::API_KEY)];
    let spec = with_properties(keyed("/apikey"), json!({"apiKeyHeader": "X-Api-Key"}));
    assert_eq!(summary(&attempt_with_secret(&api_key, &spec)), "up");
    // Such a URL is itself a secret.
    let spec = json!({"type": "webhook", "secretRef": {"name": "hook", "key": "url"}});
    let url = nginx.url("/hook?from-a-secret");
    let outcome = attempt_with_secret(&[("url", &*url)], &spec);
    assert_eq!(summary(&outcome), "up");

    // One token does for both looks.
    let oauth = json!({"oauth": {
        "tokenURL": nginx.tokens().url(),
        "clientID": TokenServer::CLIENT_ID,
        "clientSecret": TokenServer::CLIENT_SECRET,
    }});
    let outcome = up(with_properties(webhook(nginx.url("/hook?oauth")), oauth));
    assert_eq!(phases(&outcome), ["resolve", "connect", "auth", "request"]);
    let logged = nginx.wait_for_requests("/hook?oauth", 2);
    assert_eq!(logged.len(), 2);
    assert!(logged[0].authorization.starts_with("Bearer rig-token-"));
    assert_eq!(logged[0].authorization, logged[1].authorization);
}

fn wrong_and_missing_credentials() {
    let nginx = need!(Rig::shared().nginx());
    let outcome = down(webhook(nginx.url("/private/")), "auth", "request", "401");
    assert_eq!(hint(&outcome), "it wants a login: `Basic` (realm `rig`)");
    let wrong = json!({"username": "probe", "password": "wrong"});
    let spec = with(webhook(nginx.url("/private/")), wrong);
    let outcome = down(spec, "auth", "request", "401");
    assert_eq!(
        hint(&outcome),
        "it refused the login that was sent; it accepts `Basic` (realm `rig`)"
    );
}

fn verifies_and_records_the_certificate() {
    let nginx = need!(Rig::shared().nginx());
    web::verifies_and_records_the_certificate(&nginx, hook);
}

fn every_fault_of_a_certificate() {
    let nginx = need!(Rig::shared().nginx());
    web::every_fault_of_a_certificate(&nginx, hook);
}

fn the_server_name_may_be_another() {
    let nginx = need!(Rig::shared().nginx());
    web::the_server_name_may_be_another(&nginx, hook);
}

fn client_certificates_missing_wrong_and_right() {
    let nginx = need!(Rig::shared().nginx());
    web::client_certificates_missing_wrong_and_right(&nginx, hook);
}

fn plain_http_to_a_tls_port_and_the_reverse() {
    let nginx = need!(Rig::shared().nginx());
    web::plain_http_to_a_tls_port_and_the_reverse(&nginx, hook);
}

fn a_stopped_server_is_a_timeout() {
    need!(Rig::shared().nginx());
    let (_dir, nginx) = own_nginx();
    let plain = webhook(nginx.url("/hook"));
    nginx.process().pause();
    assert_down(&attempt_within(SHORT, &plain), "timeout", "request", "");
    let spec = trusting(webhook(nginx.https_url("/hook")));
    assert_down(&attempt_within(SHORT, &spec), "timeout", "tls", "");
    nginx.process().resume();
    up(plain.clone());
    drop(nginx);
    down(plain, "connect_refused", "connect", "");
}

fn verdicts_agree_with_check_http() {
    need!(Rig::shared().nginx());
    let (_dir, nginx) = own_nginx();
    let (http, expired) = (nginx.http.to_string(), nginx.expired.to_string());
    let plain = ["-p", &http, "-j", "HEAD", "-u"];
    let agree = |state: &str, is_up: bool, path: &str, more: &[&str]| {
        let mut spec = webhook(nginx.url(path));
        if let [.., login] = more {
            let (username, password) = login.split_once(':').unwrap();
            spec = with(spec, json!({"username": username, "password": password}));
        }
        let args = [&plain[..], &[path], more].concat();
        agrees_with_check_http(state, is_up, &spec, &args);
    };
    agree("up", true, "/health", &[]);
    agree("not found", false, "/404", &[]);
    agree("an error", false, "/500", &[]);
    let right = format!("probe:{PASSWORD}");
    agree("the right password", true, "/private/", &["-a", &right]);
    agree(
        "a wrong password",
        false,
        "/private/",
        &["-a", "probe:wrong"],
    );
    let spec = trusting(webhook(format!("https://localhost:{expired}/health")));
    let args = ["-p", &expired, "-S", "--sni", "-C", "1"];
    agrees_with_check_http("an expired certificate", false, &spec, &args);
    nginx.process().pause();
    agree("SIGSTOPped", false, "/health", &[]);
    nginx.process().resume();
    nginx.process().stop();
    agree("stopped", false, "/health", &[]);
}

fn leaves_no_connection_and_no_complaint_behind() {
    need!(Rig::shared().nginx());
    let (_dir, nginx) = own_nginx();
    let before = nginx.sockets();
    for path in ["/health", "/hook", "/hook/options"] {
        for spec in [
            webhook(nginx.url(path)),
            trusting(webhook(nginx.https_url(path))),
        ] {
            for _ in 0..3 {
                up(spec.clone());
            }
        }
    }
    assert!(
        soon(|| nginx.sockets() <= before),
        "{} sockets, and {before} before",
        nginx.sockets()
    );
    assert_eq!(nginx.log(), "");
}
