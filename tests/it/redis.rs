//! `redis` against real Redis.

use conncheck_rig::{PASSWORD, RedisKind, Rig, Shown, need};
use serde_json::json;

use crate::check::{
    SHORT, assert_down, attempt_within, client_certificates, down, phases, refuses_every_fault,
    soon, up, with,
};

crate::trials![
    logs_in_as_an_acl_user_and_with_the_password_alone,
    speaks_tls_and_records_the_certificate,
    speaks_over_a_unix_socket,
    selects_a_database,
    credentials_of_the_spec_win_over_the_url,
    wrong_and_missing_credentials,
    a_user_who_may_not_ping,
    every_fault_of_a_certificate,
    client_certificates_missing_wrong_and_right,
    not_ready_is_unavailable,
    a_stopped_process_is_a_timeout,
    a_plain_scheme_on_a_tls_port_and_the_reverse,
    leaves_no_connection_behind,
];

fn logs_in_as_an_acl_user_and_with_the_password_alone() {
    let redis = need!(Rig::shared().redis());
    let outcome = up(json!({"type": "redis", "url": redis.url("probe")}));
    assert_eq!(phases(&outcome), ["resolve", "connect", "auth", "request"]);
    up(json!({"type": "redis", "url": format!("redis://:{PASSWORD}@127.0.0.1:{}", redis.port())}));
    let outcome = up(
        json!({"type": "valkey", "url": format!("127.0.0.1:{}", redis.port()), "password": PASSWORD}),
    );
    assert_eq!(phases(&outcome), ["connect", "auth", "request"]);
}

fn speaks_tls_and_records_the_certificate() {
    let redis = need!(Rig::shared().redis());
    let pki = Rig::shared().pki();
    let outcome = up(json!({
        "type": "redis", "url": redis.tls_url("probe"), "caCert": pki.ca.cert_pem,
    }));
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

    let outcome = up(json!({
        "type": "redis", "url": redis.tls_url("probe"), "insecureSkipVerify": true,
    }));
    assert!(!outcome.tls.expect("recorded").verified);

    let intermediate = need!(Rig::shared().get(RedisKind::Shows(Shown::Intermediate)));
    up(json!({"type": "redis", "url": intermediate.tls_url("probe"), "caCert": pki.ca.cert_pem}));
}

fn speaks_over_a_unix_socket() {
    let redis = need!(Rig::shared().redis());
    let url = format!("unix://{}", redis.socket().display());
    let outcome =
        up(json!({"type": "redis", "url": url, "username": "probe", "password": PASSWORD}));
    assert_eq!(phases(&outcome), ["connect", "auth", "request"]);
    down(
        json!({"type": "redis", "url": "unix:///nowhere/redis.sock"}),
        "connect_refused",
        "connect",
        "",
    );
}

fn selects_a_database() {
    let redis = need!(Rig::shared().redis());
    up(json!({"type": "redis", "url": format!("{}/3", redis.url("probe"))}));
    let spec = json!({"type": "redis", "url": format!("{}/99", redis.url("probe"))});
    down(spec.clone(), "not_found", "auth", "ERR");
    up(with(spec, json!({"properties": {"database": 3}})));
}

fn credentials_of_the_spec_win_over_the_url() {
    let redis = need!(Rig::shared().redis());
    let url = format!("redis://nobody:nothing@localhost:{}", redis.port());
    up(json!({"type": "redis", "url": url, "username": "probe", "password": PASSWORD}));
}

fn wrong_and_missing_credentials() {
    let redis = need!(Rig::shared().redis());
    let bare = format!("redis://localhost:{}", redis.port());
    let wrong = json!({"type": "redis", "url": bare, "username": "probe", "password": "wrong"});
    down(wrong, "auth", "auth", "WRONGPASS");
    let disabled = json!({"type": "redis", "url": redis.url("off1")});
    down(disabled, "auth", "auth", "WRONGPASS");
    let outcome = down(
        json!({"type": "redis", "url": bare}),
        "auth",
        "request",
        "NOAUTH",
    );
    let hint = outcome.result.unwrap_err().hint.expect("a hint");
    assert!(hint.contains("password"), "{hint}");
}

fn a_user_who_may_not_ping() {
    let redis = need!(Rig::shared().redis());
    down(
        json!({"type": "redis", "url": redis.url("noping")}),
        "permission",
        "request",
        "NOPERM",
    );
}

fn every_fault_of_a_certificate() {
    let pki = Rig::shared().pki();
    refuses_every_fault(RedisKind::Shows, |redis| {
        [json!({"type": "redis", "url": redis.tls_url("probe"), "caCert": pki.ca.cert_pem})]
    });
    let redis = need!(Rig::shared().get(RedisKind::Shows(Shown::WrongName)));
    up(json!({
        "type": "redis", "url": redis.tls_url("probe"), "caCert": pki.ca.cert_pem,
        "properties": {"serverName": "elsewhere.test"},
    }));
}

fn client_certificates_missing_wrong_and_right() {
    let redis = need!(Rig::shared().get(RedisKind::MutualTls));
    let pki = Rig::shared().pki();
    client_certificates(
        &json!({"type": "redis", "url": redis.tls_url("probe"), "caCert": pki.ca.cert_pem}),
    );
}

fn not_ready_is_unavailable() {
    for (kind, code) in [
        (RedisKind::Full, "ERR"),
        (RedisKind::MasterDown, "MASTERDOWN"),
        (RedisKind::Loading, "LOADING"),
    ] {
        let redis = need!(Rig::shared().get(kind));
        let outcome = crate::check::attempt(&json!({"type": "redis", "url": redis.url("probe")}));
        let failure = outcome.result.expect_err("not ready");
        assert_eq!(
            failure.reason.as_str(),
            "unavailable",
            "{kind:?}: {failure:?}"
        );
        assert_eq!(failure.code.as_deref(), Some(code), "{failure:?}");
    }
}

fn a_stopped_process_is_a_timeout() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Rig::shared().pki();
    need!(Rig::shared().redis());
    let redis = conncheck_rig::Redis::builder(pki, dir.path())
        .name("paused")
        .start()
        .unwrap();
    redis.process().pause();
    let outcome = attempt_within(SHORT, &json!({"type": "redis", "url": redis.url("probe")}));
    assert_down(&outcome, "timeout", "auth", "");
    let spec = json!({"type": "redis", "url": redis.tls_url("probe"), "caCert": pki.ca.cert_pem});
    assert_down(&attempt_within(SHORT, &spec), "timeout", "tls", "");
    redis.process().resume();
    up(json!({"type": "redis", "url": redis.url("probe")}));
    let url = redis.url("probe");
    drop(redis);
    down(
        json!({"type": "redis", "url": url}),
        "connect_refused",
        "connect",
        "",
    );
}

fn a_plain_scheme_on_a_tls_port_and_the_reverse() {
    let redis = need!(Rig::shared().redis());
    let spec = json!({"type": "redis", "url": format!("redis://localhost:{}", redis.tls_port())});
    let outcome = crate::check::attempt(&spec);
    let failure = outcome.result.expect_err("plain text to a TLS port");
    assert!(
        ["protocol", "connect_reset"].contains(&failure.reason.as_str()),
        "{failure:?}"
    );
    let spec = json!({"type": "redis", "url": format!("rediss://localhost:{}", redis.port())});
    // Redis takes the handshake for a command that does not end, or for a wrong one.
    let failure = attempt_within(SHORT, &spec)
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

fn leaves_no_connection_behind() {
    need!(Rig::shared().redis());
    // Nobody else comes and goes there.
    let dir = tempfile::tempdir().unwrap();
    let redis = conncheck_rig::Redis::builder(Rig::shared().pki(), dir.path())
        .name("left")
        .start()
        .unwrap();
    let clients = || redis.command(&["CLIENT", "LIST"]).unwrap();
    for _ in 0..20 {
        up(json!({"type": "redis", "url": redis.url("probe")}));
    }
    // Only who asks for it is on the list.
    assert!(soon(|| clients().lines().count() <= 1), "{}", clients());
}
