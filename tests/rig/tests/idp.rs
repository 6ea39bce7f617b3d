//! The token endpoints of the clouds give tokens to whom they should, and say no as the clouds do.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use conncheck_rig::{Idp, IdpKind, PATIENCE, Rig, Shown, need};
use rcgen::{KeyPair, SigningKey};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, pem::PemObject},
};
use serde_json::{Value, json};

const MANAGEMENT: &str = "https://management.azure.com/.default";

#[test]
fn entra_gives_a_token_that_opens_the_subscription() {
    let rig = Rig::shared();
    let idp = need!(rig.get(IdpKind::Main));
    for tenant in [Idp::TENANT, Idp::DOMAIN] {
        let (status, answer) = token(rig, &idp, tenant, &form(Idp::APP, MANAGEMENT));
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer["expires_in"], 3599);
        let bearer = format!(
            "Authorization: Bearer {}\r\n",
            answer["access_token"].as_str().unwrap()
        );
        for (subscription, status, code) in [
            (Idp::SUBSCRIPTION, 200, Value::Null),
            (
                Idp::SUBSCRIPTION_FORBIDDEN,
                403,
                json!("AuthorizationFailed"),
            ),
            (
                Idp::SUBSCRIPTION_FOREIGN,
                401,
                json!("InvalidAuthenticationTokenTenant"),
            ),
            (Idp::TENANT, 404, json!("SubscriptionNotFound")),
            ("nonsense", 400, json!("InvalidSubscriptionId")),
        ] {
            let path = format!("/subscriptions/{subscription}?api-version=2022-12-01");
            let (got, answer) = ask(rig, &idp, &format!("GET {path}"), &bearer, "");
            assert_eq!((got, &answer["error"]["code"]), (status, &code), "{answer}");
        }
    }
    let path = format!(
        "/subscriptions/{}?api-version=2022-12-01",
        Idp::SUBSCRIPTION
    );
    let (status, answer) = ask(rig, &idp, &format!("GET {path}"), "", "");
    assert_eq!(
        (status, &answer["error"]["code"]),
        (401, &json!("AuthenticationFailed"))
    );
    let storage = form(Idp::APP, "https://storage.azure.com/.default");
    let (_, answer) = token(rig, &idp, Idp::TENANT, &storage);
    let bearer = format!(
        "Authorization: Bearer {}\r\n",
        answer["access_token"].as_str().unwrap()
    );
    let (status, answer) = ask(rig, &idp, &format!("GET {path}"), &bearer, "");
    assert_eq!(
        (status, &answer["error"]["code"]),
        (401, &json!("InvalidAuthenticationTokenAudience"))
    );
}

#[test]
fn entra_refuses_by_code() {
    let rig = Rig::shared();
    let idp = need!(rig.get(IdpKind::Main));
    let secret = |id: &str| form(id, MANAGEMENT);
    for (tenant, form, status, code) in [
        (Idp::TENANT, secret("nobody"), 400, 700016),
        (Idp::TENANT, secret(Idp::APP_EXPIRED_SECRET), 401, 7000222),
        (Idp::TENANT, secret(Idp::APP_DISABLED), 400, 7000112),
        (Idp::TENANT, secret(Idp::APP_BLOCKED), 400, 53003),
        (
            Idp::TENANT,
            secret(Idp::APP).replace("rig8Q", "x"),
            401,
            7000215,
        ),
        (
            Idp::TENANT,
            secret(Idp::APP).replace("client_secret", "x"),
            401,
            7000216,
        ),
        (
            Idp::TENANT,
            secret(Idp::APP).replace("management.azure", "nowhere"),
            400,
            500011,
        ),
        (
            Idp::TENANT,
            secret(Idp::APP).replace(".default", "x"),
            400,
            1002012,
        ),
        (
            Idp::TENANT,
            secret(Idp::APP).replace("scope=", "x="),
            400,
            900144,
        ),
        (Idp::SUBSCRIPTION, secret(Idp::APP), 400, 90002),
        ("nonsense", secret(Idp::APP), 400, 900023),
    ] {
        let (got, answer) = token(rig, &idp, tenant, &form);
        assert_eq!(
            (got, &answer["error_codes"]),
            (status, &json!([code])),
            "{form}: {answer}"
        );
        let description = answer["error_description"].as_str().unwrap();
        assert!(description.starts_with(&format!("AADSTS{code}: ")));
        assert!(description.contains(" Trace ID: "));
    }
}

#[test]
fn entra_judges_assertions() {
    let rig = Rig::shared();
    let idp = need!(rig.get(IdpKind::Main));
    let audience = format!("{}/{}/oauth2/v2.0/token", idp.url(), Idp::TENANT);
    let certified = |certificate: &conncheck_rig::AppCertificate, issued: i64, audience: &str| {
        let key = KeyPair::from_pem(&certificate.key_pem).expect("a key");
        let der = CertificateDer::from_pem_slice(certificate.cert_pem.as_bytes()).expect("PEM");
        let thumbprint = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der);
        let header = json!({"alg": "RS256", "x5t#S256": BASE64_URL_SAFE_NO_PAD.encode(thumbprint)});
        let claims = json!({
            "aud": audience, "iss": Idp::APP_CERTIFICATE, "sub": Idp::APP_CERTIFICATE,
            "jti": format!("{issued}-{}", thumbprint_of(&header)), "nbf": issued, "exp": issued + 600,
        });
        assertion(Idp::APP_CERTIFICATE, &jwt(&key, &header, &claims))
    };
    let federated = |subject: &str, audience: &str, issued: i64| {
        let token = idp.federated_token(subject, audience, issued);
        assertion(Idp::APP_FEDERATED, &token.expect("a token"))
    };
    let now = now();
    for (form, status, code) in [
        (certified(idp.certificate(), now, &audience), 200, None),
        (
            certified(idp.certificate(), now - 3600, &audience),
            401,
            Some(700024),
        ),
        (
            certified(idp.certificate(), now, "https://other.test"),
            401,
            Some(700023),
        ),
        (
            certified(idp.expired_certificate(), now, &audience),
            401,
            Some(700027),
        ),
        (
            certified(idp.unknown_certificate(), now, &audience),
            401,
            Some(700027),
        ),
        (federated(Idp::SUBJECT, Idp::AUDIENCE, now), 200, None),
        (federated(Idp::SUBJECT, "other", now), 401, Some(700212)),
        (
            federated("system:serviceaccount:a:b", Idp::AUDIENCE, now),
            401,
            Some(700213),
        ),
        (
            federated(Idp::SUBJECT, Idp::AUDIENCE, now - 7200),
            401,
            Some(700024),
        ),
    ] {
        let (got, answer) = token(rig, &idp, Idp::TENANT, &form);
        let codes = code.map_or(Value::Null, |code| json!([code]));
        assert_eq!((got, &answer["error_codes"]), (status, &codes), "{answer}");
    }
}

#[test]
fn a_machine_has_an_identity_if_it_asks_properly() {
    let rig = Rig::shared();
    let idp = need!(rig.get(IdpKind::Main));
    let imds = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fmanagement.azure.com%2F";
    let app = "/msi/token?api-version=2019-08-01&resource=https%3A%2F%2Fmanagement.azure.com%2F";
    let google = "/computeMetadata/v1/instance/service-accounts/default/token";
    for (path, header, status) in [
        (imds, "Metadata: true\r\n", 200),
        (imds, "", 400),
        (app, "X-IDENTITY-HEADER: RIG-IDENTITY-HEADER\r\n", 200),
        (app, "X-IDENTITY-HEADER: guessed\r\n", 401),
        (google, "Metadata-Flavor: Google\r\n", 200),
        (google, "", 403),
    ] {
        let host = idp.plain_url().replace("http://", "");
        let mut stream = TcpStream::connect(&host).expect("a connection");
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{header}\r\n"
        )
        .unwrap();
        let (got, answer) = read(&mut stream);
        assert_eq!(got, status, "{path} {header}: {answer}");
        assert_eq!(answer["access_token"].is_string(), status == 200);
    }
}

#[test]
fn google_gives_tokens_and_says_what_they_are() {
    let rig = Rig::shared();
    let idp = need!(rig.get(IdpKind::Main));
    let grant = |key: &Value| {
        let private = KeyPair::from_pem(key["private_key"].as_str().unwrap()).expect("a key");
        let claims = json!({
            "iss": key["client_email"], "aud": key["token_uri"], "iat": now(), "exp": now() + 3600,
            "scope": "https://www.googleapis.com/auth/cloud-platform",
        });
        let assertion = jwt(&private, &json!({"alg": "RS256", "kid": "rig"}), &claims);
        let form = format!(
            "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={assertion}"
        );
        ask(rig, &idp, "POST /token", FORM, &form)
    };
    let (status, answer) = grant(&idp.account_key(Idp::ACCOUNT));
    assert_eq!(status, 200, "{answer}");
    let given = answer["access_token"].as_str().unwrap();
    let info = |token: &str| {
        ask(
            rig,
            &idp,
            &format!("GET /tokeninfo?access_token={token}"),
            "",
            "",
        )
    };
    assert_eq!(info(given).1["email"], Idp::ACCOUNT);
    assert_eq!(info("ya29.other").0, 400);
    let bearer = format!("Authorization: Bearer {given}\r\n");
    for (path, status) in [
        (format!("GET /v1/projects/{}", Idp::PROJECT), 200),
        (format!("GET /v3/projects/{}", Idp::PROJECT), 200),
        ("GET /v1/projects/other".to_owned(), 403),
        (
            format!("GET /v1/projects/{}", Idp::PROJECT_SWITCHED_OFF),
            403,
        ),
    ] {
        let (got, answer) = ask(rig, &idp, &path, &bearer, "");
        assert_eq!(got, status, "{path}: {answer}");
    }
    for (account, status) in [(Idp::ACCOUNT_TARGET, 200), (Idp::ACCOUNT_DISABLED, 403)] {
        let path = format!("POST /v1/projects/-/serviceAccounts/{account}:generateAccessToken");
        let headers = format!("{bearer}Content-Type: application/json\r\n");
        let body = json!({"scope": ["https://www.googleapis.com/auth/cloud-platform"]});
        let (got, answer) = ask(rig, &idp, &path, &headers, &body.to_string());
        assert_eq!(got, status, "{answer}");
    }
    for (key, error, says) in [
        (
            idp.stale_account_key(Idp::ACCOUNT),
            "invalid_grant",
            "Invalid JWT Signature.",
        ),
        (
            idp.account_key("nobody@x.test"),
            "invalid_grant",
            "Invalid grant: account not found",
        ),
        (
            idp.account_key(Idp::ACCOUNT_DISABLED),
            "disabled_client",
            "The OAuth client was disabled.",
        ),
    ] {
        let (_, answer) = grant(&key);
        assert_eq!(
            (&answer["error"], &answer["error_description"]),
            (&json!(error), &json!(says))
        );
    }
    let refresh = |token: &str| {
        let form = format!(
            "grant_type=refresh_token&client_id={}&client_secret={}&refresh_token={token}",
            Idp::USER_CLIENT_ID,
            Idp::USER_CLIENT_SECRET
        );
        ask(rig, &idp, "POST /token", FORM, &form)
    };
    assert_eq!(refresh(Idp::USER_REFRESH_TOKEN).0, 200);
    assert_eq!(refresh("revoked").1["error"], "invalid_grant");
    let exchange = |subject: &str| {
        let token = idp
            .federated_token(subject, Idp::POOL_AUDIENCE, now())
            .expect("a token");
        let form = format!(
            "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&audience={}&scope=x&subject_token_type=urn:ietf:params:oauth:token-type:jwt&subject_token={token}",
            Idp::POOL
        );
        ask(rig, &idp, "POST /v1/token", FORM, &form)
    };
    assert_eq!(exchange(Idp::SUBJECT).0, 200);
    assert_eq!(
        exchange("system:serviceaccount:a:b").1["error"],
        "unauthorized_client"
    );
}

#[test]
fn each_certificate_is_shown_by_one_process() {
    let rig = Rig::shared();
    let idp = need!(rig.get(IdpKind::Main));
    let expired = need!(rig.get(IdpKind::Shows(Shown::Expired)));
    assert_eq!(idp.process().pid(), expired.process().pid());
    assert_ne!(idp.port(), expired.port());
    let intermediate = need!(rig.get(IdpKind::Shows(Shown::Intermediate)));
    let (status, _) = token(rig, &intermediate, Idp::TENANT, &form(Idp::APP, MANAGEMENT));
    assert_eq!(status, 200);
    let trusts = RootCertStore::empty();
    let mut stranger = tls(&idp, trusts);
    stranger
        .write_all(b"GET / HTTP/1.1\r\n\r\n")
        .expect_err("an unknown authority");
    drop(stranger);
    let started = std::time::Instant::now();
    while idp.complaints().is_empty() {
        assert!(
            started.elapsed() < PATIENCE,
            "it tells of handshakes that fail"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    let asked = idp.requests();
    let asked = asked
        .iter()
        .find(|asked| asked["form"]["client_id"] == Idp::APP);
    assert_eq!(asked.expect("it tells what it was asked")["method"], "POST");
    assert!(!idp.process().log().contains(Idp::SECRET));
}

const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";

fn form(id: &str, scope: &str) -> String {
    format!(
        "grant_type=client_credentials&client_id={id}&client_secret={}&scope={scope}",
        Idp::SECRET
    )
}

fn assertion(id: &str, jwt: &str) -> String {
    format!(
        "grant_type=client_credentials&client_id={id}&scope={MANAGEMENT}&client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer&client_assertion={jwt}"
    )
}

fn jwt(key: &KeyPair, header: &Value, claims: &Value) -> String {
    let parts = [header, claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part.to_string()));
    let signed = parts.join(".");
    let signature = key.sign(signed.as_bytes()).expect("a signature");
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

fn thumbprint_of(header: &Value) -> String {
    BASE64_STANDARD.encode(header.to_string())
}

fn token(rig: &Rig, idp: &Idp, tenant: &str, form: &str) -> (u16, Value) {
    ask(
        rig,
        idp,
        &format!("POST /{tenant}/oauth2/v2.0/token"),
        FORM,
        form,
    )
}

/// A request whose first line and headers are these, and what is answered.
fn ask(rig: &Rig, idp: &Idp, line: &str, headers: &str, body: &str) -> (u16, Value) {
    let mut trusts = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(rig.pki().ca.cert_pem.as_bytes());
    trusts.add(ca.expect("PEM")).expect("an authority");
    let mut stream = tls(idp, trusts);
    write!(
        stream,
        "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("a request");
    read(&mut stream)
}

fn read(stream: &mut impl Read) -> (u16, Value) {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (
        status.unwrap_or(0),
        serde_json::from_str(body).unwrap_or_default(),
    )
}

fn tls(idp: &Idp, trusts: RootCertStore) -> StreamOwned<ClientConnection, TcpStream> {
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(trusts)
        .with_no_client_auth();
    let name = "localhost".try_into().expect("a name");
    let connection = ClientConnection::new(Arc::new(config), name).expect("a client");
    let stream = TcpStream::connect(("127.0.0.1", idp.port())).expect("a connection");
    StreamOwned::new(connection, stream)
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("after 1970").as_secs().cast_signed()
}
