//! What the tests of the types over HTTP share. nginx is their peer for certificates of every kind:
//! each type has a location there that is right for it.

use std::time::Duration;

use conncheck_rig::{Certified, Nginx, Rig, need, plugins};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::check::{attempt, attempt_within, down, phases, refuses, seconds_for, up, with};
pub(crate) use crate::check::{hint, message, seconds, soon, summary, trusting};

/// A definition at an origin (`https://localhost:PORT`) of nginx, where everything is right.
pub(crate) type At = fn(&str) -> Value;

pub(crate) fn with_properties(spec: Value, properties: Value) -> Value {
    with(spec, json!({"properties": properties}))
}

/// What comes of `spec` with each of these properties.
#[track_caller]
pub(crate) fn table(spec: &Value, rows: &[(Value, &str)]) {
    for (properties, expected) in rows {
        let outcome = attempt(&with_properties(spec.clone(), properties.clone()));
        assert_eq!(summary(&outcome), *expected, "{properties}: {outcome:#?}");
    }
}

/// An nginx that a test may stop, and whose logs nobody else writes.
pub(crate) fn own_nginx() -> (TempDir, Nginx) {
    let dir = tempfile::tempdir().unwrap();
    let nginx = Nginx::start(Rig::shared().pki(), dir.path()).unwrap();
    (dir, nginx)
}

pub(crate) fn verifies_and_records_the_certificate(nginx: &Nginx, at: At) {
    let pki = Rig::shared().pki();
    let https = |port: u16| trusting(at(&format!("https://localhost:{port}")));
    let outcome = up(https(nginx.https));
    assert_eq!(phases(&outcome), ["resolve", "connect", "tls", "request"]);
    let tls = outcome.tls.expect("recorded");
    assert!(tls.verified);
    assert_eq!(tls.version.as_deref(), Some("TLSv1.3"));
    assert_eq!(seconds(tls.earliest_expiry), Some(pki.server.not_after));
    assert_eq!(tls.subject.as_deref(), Some("CN=localhost"));
    assert_eq!(tls.issuer.as_deref(), Some("CN=rig CA"));

    let tls = up(https(nginx.intermediate)).tls.expect("recorded");
    assert!(tls.verified);
    assert_eq!(tls.issuer.as_deref(), Some("CN=rig intermediate CA"));
    assert_eq!(
        seconds(tls.earliest_expiry),
        Some(pki.intermediate.not_after)
    );

    up(trusting(at(&format!("https://127.0.0.1:{}", nginx.https))));

    // The system's roots know nothing of ours.
    down(at(&nginx.https_url("")), "tls_unknown_ca", "tls", "");
}

pub(crate) fn every_fault_of_a_certificate(nginx: &Nginx, at: At) {
    let pki = Rig::shared().pki();
    let https = |port: u16| trusting(at(&format!("https://localhost:{port}")));
    for (port, certificate, reason) in [
        (nginx.expired, &pki.expired, "tls_expired"),
        (nginx.not_yet_valid, &pki.not_yet_valid, "tls_not_yet_valid"),
        (nginx.wrong_name, &pki.wrong_name, "tls_name_mismatch"),
        (nginx.unknown_ca, &pki.unknown_ca, "tls_unknown_ca"),
        (nginx.self_signed, &pki.self_signed, "tls_unknown_ca"),
    ] {
        let marker = format!("fault-{}-{port}", https(port)["type"]);
        let spec = with_properties(https(port), json!({"headers": {"User-Agent": marker}}));
        let outcome = refuses(certificate, spec.clone(), reason);
        assert_eq!(phases(&outcome), ["resolve", "connect", "tls"]);
        assert_eq!(outcome.http_status, None);

        for skip in [
            json!({"insecureSkipVerify": true}),
            json!({"properties": {"insecureSkipVerify": true}}),
        ] {
            let tls = up(with(spec.clone(), skip)).tls.expect("recorded");
            assert!(!tls.verified);
            assert_eq!(seconds(tls.earliest_expiry), Some(certificate.not_after));
        }
        let heard = || {
            let ours = nginx.requests("").into_iter();
            ours.filter(|logged| logged.user_agent == marker).count()
        };
        assert!(soon(|| heard() >= 2));
        assert_eq!(heard(), 2, "none while it was not trusted");
    }
    let message_of = |port| message(&attempt(&https(port))).to_owned();
    assert_eq!(
        message_of(nginx.wrong_name),
        "the certificate is for `elsewhere.test`, not for `localhost`"
    );
    assert_eq!(
        message_of(nginx.self_signed),
        "the certificate is self-signed and not trusted"
    );
    // A self-signed certificate may be trusted as what it is.
    up(with(
        https(nginx.self_signed),
        json!({"caCert": pki.self_signed.cert_pem}),
    ));
    up(with(
        https(nginx.unknown_ca),
        json!({"caCert": pki.other_ca.cert_pem}),
    ));
}

pub(crate) fn the_server_name_may_be_another(nginx: &Nginx, at: At) {
    let named = |port: u16| {
        let spec = trusting(at(&format!("https://localhost:{port}")));
        with_properties(spec, json!({"serverName": "elsewhere.test"}))
    };
    let outcome = up(named(nginx.wrong_name));
    assert!(outcome.tls.expect("recorded").verified);
    down(named(nginx.https), "tls_name_mismatch", "tls", "");
}

/// nginx tells of a certificate that is missing or wrong by HTTP, not by TLS.
pub(crate) fn client_certificates_missing_wrong_and_right(nginx: &Nginx, at: At) {
    let pki = Rig::shared().pki();
    let spec = trusting(at(&format!("https://localhost:{}", nginx.mtls)));
    let with_client = |client: &Certified| {
        with(
            spec.clone(),
            json!({"clientCert": client.cert_pem, "clientKey": client.key_pem}),
        )
    };
    let outcome = down(spec.clone(), "http_status", "request", "400");
    assert_eq!(
        hint(&outcome),
        "it wants a client certificate: set `clientCert` and `clientKey`"
    );
    for client in [&pki.client_unknown_ca, &pki.client_expired] {
        let outcome = down(with_client(client), "http_status", "request", "400");
        assert!(hint(&outcome).contains("refused our client certificate"));
        assert_eq!(seconds(outcome.credential_expiry), Some(client.not_after));
    }
    let outcome = up(with_client(&pki.client));
    assert!(outcome.tls.expect("recorded").verified);
    assert_eq!(
        seconds(outcome.credential_expiry),
        Some(pki.client.not_after)
    );
    // Certificate and key may stand in one text.
    let both = format!("{}{}", pki.client.cert_pem, pki.client.key_pem);
    up(with(spec, json!({"clientCert": both})));
}

pub(crate) fn plain_http_to_a_tls_port_and_the_reverse(nginx: &Nginx, at: At) {
    let spec = at(&format!("http://localhost:{}", nginx.https));
    let outcome = down(spec, "protocol", "request", "400");
    assert_eq!(
        hint(&outcome),
        "the peer speaks TLS on that port: use `https://`"
    );
    let spec = trusting(at(&format!("https://localhost:{}", nginx.http)));
    let outcome = down(spec, "protocol", "tls", "");
    assert!(hint(&outcome).contains("plain"), "{outcome:#?}");
    assert!(outcome.tls.is_none(), "there was none to record");
}

/// Our verdict on `spec`, and that of `check_http` with these arguments: both up, or both down.
#[track_caller]
pub(crate) fn agrees_with_check_http(state: &str, is_up: bool, spec: &Value, args: &[&str]) {
    let seconds = seconds_for(state);
    let ours = attempt_within(Duration::from_secs(seconds), spec);
    assert_eq!(ours.is_up(), is_up, "{state}: {ours:#?}");
    let seconds = seconds.to_string();
    let common = ["-H", "localhost", "-I", "127.0.0.1", "-t", &seconds];
    let theirs = need!(plugins::run("check_http", &[&common, args].concat()));
    assert_eq!(theirs.is_ok(), is_up, "{state}: {theirs:?}");
}
