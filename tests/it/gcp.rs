//! `gcp` against token endpoints in Google's shape (`idp.rs`): a certified library judges its assertions.
//! The metadata server is the rig's as well: the real one's address is never asked here.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use conncheck_config::{Documents, Secret};
use conncheck_probes::{Files, Outcome, ResolverChoice};
use conncheck_rig::dns::{Answer, DnsServer};
use conncheck_rig::faults::{self, Peer};
use conncheck_rig::http::{HttpPeer, response};
use conncheck_rig::{Certified, Idp, IdpKind, PATIENCE, Rig, Shown, need};
use serde_json::{Value, json};

use crate::check::{
    FAULTS, LONGER, SHORT, TIMEOUT, assert_down, attempt, attempt_with_secret, attempt_within,
    attempts_within, down, hint, message, phases, probe_on, refuses_every_fault, run, seconds,
    summary, trusting, up, with,
};
use crate::program::{Daemon, code, conncheck, document, text, write};
use crate::web::{soon, with_properties};

crate::trials![
    a_service_account_s_key,
    an_authorized_user,
    a_token_of_a_file_is_exchanged,
    a_token_of_a_url_is_exchanged,
    a_token_of_a_program_is_exchanged,
    an_aws_identity_is_exchanged,
    an_exchanged_token_becomes_a_service_account_s,
    an_account_is_impersonated,
    a_machine_of_google_s_has_its_token,
    where_a_credential_may_stand,
    a_project_is_read,
    why_a_key_is_refused,
    why_a_login_is_refused,
    why_another_s_token_is_refused,
    a_chain_that_finds_nothing_names_each_link,
    where_nobody_knows_the_metadata_server_this_is_no_machine_of_google_s,
    what_is_no_metadata_server,
    every_fault_of_a_certificate,
    what_the_definition_says_of_tls_holds_everywhere,
    a_client_certificate_is_shown_to_the_endpoint,
    plain_http_to_the_tls_port,
    what_is_not_google_is_a_protocol_error,
    a_stopped_server_refuses_and_a_paused_one_is_a_timeout,
    a_program_that_hangs_is_killed,
    programs_run_where_it_is_allowed_twice,
    the_daemon_s_own_environment_is_the_default,
    the_expiry_of_a_token_that_is_fetched_anew_is_not_exported,
    leaves_in_good_order,
];

/// A definition with this credential, at the endpoint of the rig.
fn by(idp: &Idp, credential: &Value) -> Value {
    trusting(json!({"type": "gcp", "url": idp.url(), "password": credential.to_string()}))
}

fn by_key(idp: &Idp) -> Value {
    by(idp, &idp.account_key(Idp::ACCOUNT))
}

fn main() -> Arc<Idp> {
    Rig::shared()
        .get(IdpKind::Main)
        .unwrap_or_else(|skipped| panic!("{skipped:?}"))
}

/// A server of the test's own, whose log nobody else writes.
fn own(name: &str) -> Idp {
    Idp::start(Rig::shared().pki(), Rig::shared().dir(), name).unwrap()
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// Expects it to have been asked these (`POST /token 200`), and nothing else. It writes its log after its
/// answer.
#[track_caller]
fn was_asked(idp: &Idp, expected: &[&str]) {
    soon(|| idp.requests().len() >= expected.len());
    let line = |request: &Value| {
        let text = |name: &str| request[name].as_str().unwrap_or_default().to_owned();
        format!("{} {} {}", text("method"), text("path"), request["status"])
    };
    let asked: Vec<String> = idp.requests().iter().map(line).collect();
    assert_eq!(asked, expected);
}

/// A machine of the test's own, with the files of this one.
#[derive(Default)]
struct Machine(BTreeMap<&'static str, String>);

impl Machine {
    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.0.insert(name, value.into());
        self
    }

    fn attempt(&self, spec: &Value) -> Outcome {
        self.attempt_within(TIMEOUT, spec)
    }

    fn attempt_within(&self, timeout: Duration, spec: &Value) -> Outcome {
        let probe = probe_on(self, &Documents::default(), spec);
        run(timeout, &ResolverChoice::Auto, &probe)
    }
}

impl Files for Machine {
    fn read(&self, path: &str) -> Result<Secret, String> {
        fs::read_to_string(path)
            .map(Secret::new)
            .map_err(|_| format!("`{path}` does not exist"))
    }

    fn variable(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }

    fn environment(&self) -> Result<Vec<(OsString, OsString)>, String> {
        Ok(vec![("PATH".into(), "/usr/bin:/bin".into())])
    }
}

#[track_caller]
fn is_up(outcome: &Outcome) {
    assert_eq!(summary(outcome), "up", "{outcome:#?}");
}

fn a_service_account_s_key() {
    let idp = own("idp-gcp-key");
    let outcome = up(by_key(&idp));
    assert_eq!(
        phases(&outcome),
        ["resolve", "connect", "tls", "auth", "request"]
    );
    assert_eq!(outcome.http_status, Some(200));
    assert_eq!(outcome.credential_expiry, None, "a key has no end");
    assert_eq!(outcome.identity.as_deref(), Some(Idp::ACCOUNT));
    let tls = outcome.tls.expect("recorded");
    assert!(tls.verified);
    let pki = Rig::shared().pki();
    assert_eq!(seconds(tls.earliest_expiry), Some(pki.server.not_after));
    // The token is in no URL, and so in no log of URLs.
    was_asked(&idp, &["POST /token 200", "POST /tokeninfo 200"]);
    let request = idp.requests().remove(0);
    let agent = request["header"]["user-agent"].as_str().unwrap();
    assert!(agent.starts_with("conncheck/"), "{agent}");
    let assertion = &request["assertion"];
    assert_eq!(
        assertion["header"],
        json!({"alg": "RS256", "typ": "JWT", "kid": "rig"})
    );
    let claims = &assertion["claims"];
    assert_eq!(claims["iss"], Idp::ACCOUNT);
    assert_eq!(claims["aud"], "https://oauth2.googleapis.com/token");
    let issued = claims["iat"].as_i64().unwrap();
    assert!((now() - 60..=now()).contains(&issued));
    assert_eq!(claims["exp"], issued + 3600);
}

fn an_authorized_user() {
    let idp = main();
    let outcome = up(by(&idp, &idp.user_file(Idp::USER_REFRESH_TOKEN)));
    assert_eq!(
        phases(&outcome),
        ["resolve", "connect", "tls", "auth", "request"]
    );
}

/// A token of a cluster, as a projected volume has it.
fn token_file(idp: &Idp, subject: &str, audience: &str, issued: i64) -> tempfile::NamedTempFile {
    let token = idp.federated_token(subject, audience, issued).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), format!("{token}\n")).unwrap();
    file
}

fn a_token_of_a_file_is_exchanged() {
    let idp = own("idp-gcp-file");
    let issued = now();
    let file = token_file(&idp, Idp::SUBJECT, Idp::POOL_AUDIENCE, issued);
    let credential = idp.federation_file(&json!({"file": file.path()}));
    let outcome = up(by(&idp, &credential));
    // `tokeninfo` knows no such token.
    assert_eq!(phases(&outcome), ["resolve", "connect", "tls", "auth"]);
    was_asked(&idp, &["POST /v1/token 200"]);
    assert_eq!(seconds(outcome.credential_expiry), Some(issued + 3600));
    // A project does.
    let spec = with_properties(by(&idp, &credential), json!({"project": Idp::PROJECT}));
    let outcome = up(spec);
    assert!(phases(&outcome).contains(&"request"));
    let as_json = tempfile::NamedTempFile::new().unwrap();
    let token = fs::read_to_string(file.path()).unwrap();
    fs::write(as_json.path(), json!({"value": token.trim()}).to_string()).unwrap();
    up(by(
        &idp,
        &idp.federation_file(&json!({
            "file": as_json.path(),
            "format": {"type": "json", "subject_token_field_name": "value"},
        })),
    ));
}

fn a_token_of_a_url_is_exchanged() {
    let idp = main();
    let token = idp
        .federated_token(Idp::SUBJECT, Idp::POOL_AUDIENCE, now())
        .unwrap();
    let peer = HttpPeer::start(move |request| match request.header("metadata") {
        Some("True") => response(200, &[], &token),
        _ => response(403, &[], "no"),
    })
    .unwrap();
    let source = |headers: Value| json!({"url": peer.url("/identity"), "headers": headers});
    let credential = idp.federation_file(&source(json!({"Metadata": "True"})));
    let outcome = up(by(&idp, &credential));
    assert_eq!(outcome.credential_expiry, None, "it is fetched anew");
    let credential = idp.federation_file(&source(json!({})));
    let outcome = down(by(&idp, &credential), "permission", "auth", "403");
    assert!(hint(&outcome).contains("`credential_source`"));
}

const ALLOWED: &str = "GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES";

fn a_token_of_a_program_is_exchanged() {
    let idp = main();
    let file = token_file(&idp, Idp::SUBJECT, Idp::POOL_AUDIENCE, now());
    let script = format!(
        r#"printf '{{"version":1,"success":true,"token_type":"%s","id_token":"%s"}}' "$GOOGLE_EXTERNAL_ACCOUNT_TOKEN_TYPE" "$(cat {})""#,
        file.path().display()
    );
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("get token.sh");
    fs::write(&path, script).unwrap();
    let command = format!("/bin/sh '{}'", path.display());
    let credential = idp.federation_file(&json!({"executable": {"command": command}}));
    let machine = Machine::default().with(ALLOWED, "1");
    is_up(&machine.attempt(&by(&idp, &credential)));
    let says = |script: &str| {
        let command = format!("/bin/sh -c '{script}'");
        let credential = idp.federation_file(&json!({"executable": {"command": command}}));
        machine.attempt(&by(&idp, &credential))
    };
    let outcome = says("echo no login >&2; exit 3");
    assert_down(&outcome, "auth", "auth", "exit 3");
    assert_eq!(
        message(&outcome),
        "the program `sh` failed (exit 3): no login"
    );
    let outcome =
        says(r#"echo "{\"version\":1,\"success\":false,\"code\":\"E1\",\"message\":\"ask IT\"}""#);
    assert_down(&outcome, "auth", "auth", "E1");
    assert_down(&says("echo"), "protocol", "auth", "");
}

fn an_aws_identity_is_exchanged() {
    let idp = main();
    let mut credential = idp.federation_file(&json!({
        "environment_id": "aws1",
        "region_url": "http://169.254.169.254/latest/meta-data/placement/availability-zone",
        "url": "http://169.254.169.254/latest/meta-data/iam/security-credentials",
        "regional_cred_verification_url":
            "https://sts.{region}.amazonaws.com?Action=GetCallerIdentity&Version=2011-06-15",
    }));
    credential["subject_token_type"] = "urn:ietf:params:aws:token-type:aws4_request".into();
    // The metadata service that the credential names is not asked: the environment has keys.
    let with_keys = |secret: &str| {
        Machine::default()
            .with("AWS_REGION", "eu-west-1")
            .with("AWS_ACCESS_KEY_ID", Idp::AWS_ACCESS_KEY)
            .with("AWS_SECRET_ACCESS_KEY", secret)
    };
    let machine = with_keys(Idp::AWS_SECRET_KEY);
    let outcome = machine.attempt(&by(&idp, &credential));
    is_up(&outcome);
    assert_eq!(outcome.credential_expiry, None);
    let spec = with_properties(by(&idp, &credential), json!({"project": Idp::PROJECT}));
    is_up(&machine.attempt(&spec));
    let outcome = with_keys("wrong").attempt(&by(&idp, &credential));
    assert_down(&outcome, "auth", "auth", "invalid_grant");
    assert!(
        hint(&outcome).contains("AWS does not know the keys"),
        "{outcome:#?}"
    );
    let nobody = Machine::default().with("AWS_EC2_METADATA_DISABLED", "true");
    let outcome = nobody.attempt(&by(&idp, &credential));
    let failure = outcome.result.as_ref().unwrap_err();
    assert_eq!(failure.reason.as_str(), "secret", "{outcome:#?}");
}

fn an_exchanged_token_becomes_a_service_account_s() {
    let idp = own("idp-gcp-becomes");
    let file = token_file(&idp, Idp::SUBJECT, Idp::POOL_AUDIENCE, now());
    let at = |account: &str| {
        let mut credential = idp.federation_file(&json!({"file": file.path()}));
        credential["service_account_impersonation_url"] = idp.impersonation_url(account).into();
        by(&idp, &credential)
    };
    let outcome = up(at(Idp::ACCOUNT_TARGET));
    assert!(phases(&outcome).contains(&"request"));
    let target = format!(
        "POST /v1/projects/-/serviceAccounts/{}:generateAccessToken 200",
        Idp::ACCOUNT_TARGET
    );
    was_asked(
        &idp,
        &["POST /v1/token 200", &target, "POST /tokeninfo 200"],
    );
    let outcome = down(
        at("nobody@x.test"),
        "permission",
        "auth",
        "PERMISSION_DENIED",
    );
    assert!(message(&outcome).contains("iam.serviceAccounts.getAccessToken"));
    assert!(hint(&outcome).contains("roles/iam.serviceAccountTokenCreator"));
}

fn an_account_is_impersonated() {
    let idp = main();
    let credential = |source: Value| {
        json!({
            "type": "impersonated_service_account", "source_credentials": source,
            "service_account_impersonation_url": idp.impersonation_url(Idp::ACCOUNT_TARGET),
        })
    };
    up(by(&idp, &credential(idp.account_key(Idp::ACCOUNT))));
    let user = idp.user_file(Idp::USER_REFRESH_TOKEN);
    let spec = by(&idp, &credential(user));
    down(spec, "permission", "auth", "PERMISSION_DENIED");
    let stale = idp.stale_account_key(Idp::ACCOUNT);
    down(
        by(&idp, &credential(stale)),
        "auth",
        "auth",
        "invalid_grant",
    );
}

/// What stands behind `http://`.
fn authority(url: &str) -> String {
    url.trim_start_matches("http://").to_owned()
}

fn without_credential(idp: &Idp) -> Value {
    trusting(json!({"type": "gcp", "url": idp.url()}))
}

fn a_machine_of_google_s_has_its_token() {
    let idp = own("idp-gcp-metadata");
    let machine = Machine::default().with("GCE_METADATA_HOST", authority(&idp.plain_url()));
    let outcome = machine.attempt(&without_credential(&idp));
    is_up(&outcome);
    assert_eq!(outcome.credential_expiry, None);
    let spec = with_properties(without_credential(&idp), json!({"project": Idp::PROJECT}));
    is_up(&machine.attempt(&spec));
    let metadata = "GET /computeMetadata/v1/instance/service-accounts/default/token 200";
    let project = format!("GET /v1/projects/{} 200", Idp::PROJECT);
    was_asked(&idp, &[metadata, "POST /tokeninfo 200", metadata, &project]);
    assert_eq!(idp.requests()[0]["header"]["metadata-flavor"], "Google");
}

fn where_a_credential_may_stand() {
    let idp = main();
    let json = idp.account_key(Idp::ACCOUNT).to_string();
    let at = without_credential(&idp);
    for key in ["key", "credentials.json", "password"] {
        let spec = with(
            at.clone(),
            json!({"secretRef": {"name": "any", "key": key}}),
        );
        is_up(&attempt_with_secret(&[(key, &json)], &spec));
    }
    for key in ["credentials", "credentials.json", "key.json", "password"] {
        let spec = with(at.clone(), json!({"secretRef": {"name": "any"}}));
        is_up(&attempt_with_secret(&[(key, &json)], &spec));
    }
    up(with_properties(at.clone(), json!({"credentials": json})));
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &json).unwrap();
    let path = file.path().to_str().unwrap();
    up(with_properties(at.clone(), json!({"credentials": path})));
    // And where Google's clients look.
    let chosen = Machine::default().with("GOOGLE_APPLICATION_CREDENTIALS", path);
    is_up(&chosen.attempt(&at));
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join(".config/gcloud");
    fs::create_dir_all(&folder).unwrap();
    let well_known = folder.join("application_default_credentials.json");
    fs::write(
        &well_known,
        idp.user_file(Idp::USER_REFRESH_TOKEN).to_string(),
    )
    .unwrap();
    let machine = || Machine::default().with("HOME", home.path().to_str().unwrap());
    is_up(&machine().attempt(&at));
    let elsewhere = machine().with("CLOUDSDK_CONFIG", folder.to_str().unwrap());
    is_up(&elsewhere.with("HOME", "/no/such").attempt(&at));
}

fn a_project_is_read() {
    let idp = main();
    let at = |project: &str| with_properties(by_key(&idp), json!({"project": project}));
    let outcome = up(at(Idp::PROJECT));
    assert_eq!(outcome.http_status, Some(200));
    let outcome = down(at("other"), "permission", "request", "PERMISSION_DENIED");
    assert_eq!(
        message(&outcome),
        "expected the project `other`, got 403 Forbidden: The caller does not have permission"
    );
    assert!(hint(&outcome).contains("there is no such project, or the credential may not read it"));
    let outcome = down(
        at(Idp::PROJECT_SWITCHED_OFF),
        "permission",
        "request",
        "SERVICE_DISABLED",
    );
    assert_eq!(
        hint(&outcome),
        "that API is not enabled in the project of the credential: `gcloud services enable cloudresourcemanager.googleapis.com --project=100000000002`"
    );
    let outcome = down(
        at(Idp::PROJECT_DELETED),
        "unavailable",
        "request",
        "DELETE_REQUESTED",
    );
    assert!(hint(&outcome).contains("gcloud projects undelete rig-deleted"));
    let narrow = with_properties(
        at(Idp::PROJECT),
        json!({"scopes": ["https://www.googleapis.com/auth/userinfo.email"]}),
    );
    let code = "ACCESS_TOKEN_SCOPE_INSUFFICIENT";
    let outcome = down(narrow, "permission", "request", code);
    assert!(hint(&outcome).contains("widen `scopes`"));
    let unknown = with_properties(at(Idp::PROJECT), json!({"scopes": "cloud-platform"}));
    let outcome = down(unknown, "permission", "auth", "invalid_scope");
    assert!(hint(&outcome).contains("is `scopes` spelled as Google knows it"));
}

fn why_a_key_is_refused() {
    let idp = main();
    let refused = |credential: Value, code: &str| {
        let outcome = down(by(&idp, &credential), "auth", "auth", code);
        let (said, hint) = (message(&outcome), hint(&outcome));
        assert_eq!(outcome.http_status, None, "it is not the endpoint's");
        let server = format!("token server `{}`: ", idp.url());
        let said = said.strip_prefix(&server).expect("who said it");
        (said.to_owned(), hint.to_owned())
    };
    let (said, hint) = refused(idp.stale_account_key(Idp::ACCOUNT), "invalid_grant");
    assert_eq!(said, "invalid_grant: Invalid JWT Signature.");
    assert!(
        hint.starts_with("the key was deleted or disabled"),
        "{hint}"
    );
    let (said, hint) = refused(idp.account_key("gone@x.test"), "invalid_grant");
    assert_eq!(said, "invalid_grant: Invalid grant: account not found");
    assert!(
        hint.contains("gcloud iam service-accounts undelete"),
        "{hint}"
    );
    let (said, hint) = refused(idp.account_key(Idp::ACCOUNT_DISABLED), "disabled_client");
    assert_eq!(said, "disabled_client: The OAuth client was disabled.");
    assert!(
        hint.contains("gcloud iam service-accounts enable"),
        "{hint}"
    );
    let (said, hint) = refused(idp.account_key(Idp::ACCOUNT_LATER), "invalid_grant");
    assert!(said.contains("short-lived token"), "{said}");
    let behind = ["1 h 59 min", "2 h 0 min"].map(|time| {
        format!("the clock of this machine is {time} behind the token server's: set it right (NTP)")
    });
    assert!(behind.contains(&hint), "{hint}");
}

fn why_a_login_is_refused() {
    let idp = main();
    let refused = |credential: Value, code: &str| {
        let outcome = down(by(&idp, &credential), "auth", "auth", code);
        hint(&outcome).to_owned()
    };
    let hint = refused(idp.user_file("1//revoked"), "invalid_grant");
    assert!(
        hint.starts_with("the login has ended or was revoked"),
        "{hint}"
    );
    assert!(
        hint.contains("gcloud auth application-default login"),
        "{hint}"
    );
    let hint = refused(idp.user_file(Idp::USER_TOO_OLD_TOKEN), "invalid_rapt");
    assert!(hint.contains("session control"), "{hint}");
    for name in ["client_id", "client_secret"] {
        let credential = with(
            idp.user_file(Idp::USER_REFRESH_TOKEN),
            json!({name: "wrong"}),
        );
        let hint = refused(credential, "invalid_client");
        assert!(hint.contains("those of no OAuth client"), "{hint}");
    }
}

fn why_another_s_token_is_refused() {
    let idp = main();
    let refused = |subject: &str, audience: &str, issued: i64, more: Value| {
        let file = token_file(&idp, subject, audience, issued);
        let credential = idp.federation_file(&json!({"file": file.path()}));
        attempt(&by(&idp, &with(credential, more)))
    };
    let outcome = refused(Idp::SUBJECT, "api://other", now(), json!({}));
    assert_down(&outcome, "auth", "auth", "invalid_grant");
    assert!(hint(&outcome).contains("allowed audiences"));
    let outcome = refused("system:a", Idp::POOL_AUDIENCE, now(), json!({}));
    assert_down(&outcome, "auth", "auth", "unauthorized_client");
    assert!(hint(&outcome).contains("attribute condition"));
    let outcome = refused(Idp::SUBJECT, Idp::POOL_AUDIENCE, now() - 7200, json!({}));
    assert_down(&outcome, "auth", "auth", "invalid_grant");
    assert!(hint(&outcome).contains("does whoever keeps it new still run?"));
    assert_eq!(
        seconds(outcome.credential_expiry).map(|at| at < now()),
        Some(true)
    );
    let outcome = refused(
        Idp::SUBJECT,
        Idp::POOL_AUDIENCE,
        now(),
        json!({"audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/gone/providers/x"}),
    );
    assert_down(&outcome, "not_found", "auth", "invalid_target");
    assert!(hint(&outcome).contains("the pool or provider"));
    let missing = idp.federation_file(&json!({"file": "/no/such/token"}));
    let outcome = down(by(&idp, &missing), "secret", "", "");
    assert!(message(&outcome).contains("/no/such/token"));
}

fn a_chain_that_finds_nothing_names_each_link() {
    let idp = main();
    let refused = faults::refused().unwrap();
    let machine = Machine::default()
        .with("HOME", "/no/such/home")
        .with("GCE_METADATA_HOST", refused.addr().to_string());
    let outcome = machine.attempt(&without_credential(&idp));
    assert_down(&outcome, "connect_refused", "connect", "");
    let said = message(&outcome);
    for link in [
        "`GOOGLE_APPLICATION_CREDENTIALS` is not set",
        "`/no/such/home/.config/gcloud/application_default_credentials.json` does not exist",
        "connection refused",
    ] {
        assert!(said.contains(link), "{said}");
    }
    assert!(hint(&outcome).contains("`secretRef`"));
    // One that is silent is waited for until the deadline, and named.
    let silent = Peer::silent().unwrap();
    let machine = Machine::default().with("GCE_METADATA_HOST", silent.addr().to_string());
    let outcome = machine.attempt_within(SHORT, &without_credential(&idp));
    assert_down(&outcome, "timeout", "auth", "");
    assert!(
        message(&outcome).contains(&silent.addr().to_string()),
        "{outcome:#?}"
    );
    assert!(silent.everybody_left(PATIENCE));
}

/// Only our own name server is asked for it, which knows nothing.
fn where_nobody_knows_the_metadata_server_this_is_no_machine_of_google_s() {
    let attempt = |server: &DnsServer| {
        let probe = probe_on(
            &Machine::default(),
            &Documents::default(),
            &json!({"type": "gcp"}),
        );
        let resolver = ResolverChoice::Servers(vec![server.addr()]);
        run(TIMEOUT, &resolver, &probe)
    };
    let outcome = attempt(&DnsServer::start().unwrap());
    assert_down(&outcome, "secret", "resolve", "NXDOMAIN");
    let said = message(&outcome);
    assert!(said.starts_with("there is no credential: "), "{said}");
    assert!(said.contains("`metadata.google.internal"), "{said}");
    // A name server that is silent is given up before all of the time is gone.
    let silent = DnsServer::start()
        .unwrap()
        .with("metadata.google.internal", Answer::Silence);
    let outcome = attempt(&silent);
    assert_down(&outcome, "timeout", "resolve", "");
    let said = message(&outcome);
    assert!(
        said.contains("`GOOGLE_APPLICATION_CREDENTIALS` is not set"),
        "{said}"
    );
    assert!(outcome.duration < TIMEOUT, "{outcome:#?}");
}

fn what_is_no_metadata_server() {
    let idp = main();
    let google = [("Metadata-Flavor", "Google")];
    for (reply, reason, code, says) in [
        (
            response(
                200,
                &[("Content-Type", "text/html")],
                "<title>Hotel</title>",
            ),
            "protocol",
            "200",
            "got 200 OK without it (20 bytes of text/html)",
        ),
        (
            response(302, &[("Location", "http://login.test/")], ""),
            "protocol",
            "302",
            "got 302 Found without it (an empty body)",
        ),
        (
            response(404, &google, "404 page not found"),
            "auth",
            "404",
            "no service account is attached to this machine",
        ),
        (
            response(200, &google, "nonsense"),
            "protocol",
            "",
            "is not JSON",
        ),
        (response(503, &google, ""), "unavailable", "503", "got 503"),
    ] {
        let peer = HttpPeer::answers(reply).unwrap();
        let machine = Machine::default().with("GCE_METADATA_HOST", peer.addr().to_string());
        let outcome = machine.attempt(&without_credential(&idp));
        assert_down(&outcome, reason, "auth", code);
        assert!(message(&outcome).contains(says), "{outcome:#?}");
    }
}

fn every_fault_of_a_certificate() {
    // The endpoint shows it, or the server that gives the token.
    let good = main();
    let specs = |idp: &Idp| {
        let here = trusting(json!({
            "type": "gcp", "url": idp.url(),
            "password": good.account_key(Idp::ACCOUNT).to_string(),
        }));
        let there = with(
            by(&good, &idp.account_key(Idp::ACCOUNT)),
            json!({"url": good.url()}),
        );
        [here, there]
    };
    refuses_every_fault(IdpKind::Shows, specs);
    for (shown, _) in FAULTS {
        let idp = need!(Rig::shared().get(IdpKind::Shows(shown)));
        for spec in specs(&idp) {
            up(with(spec, json!({"insecureSkipVerify": true})));
        }
    }
    let idp = need!(Rig::shared().get(IdpKind::Shows(Shown::Intermediate)));
    let tls = up(by_key(&idp)).tls.expect("recorded");
    assert_eq!(
        seconds(tls.earliest_expiry),
        Some(Rig::shared().pki().intermediate.not_after)
    );
}

fn what_the_definition_says_of_tls_holds_everywhere() {
    let wrong_name = need!(Rig::shared().get(IdpKind::Shows(Shown::WrongName)));
    let named = json!({"serverName": "elsewhere.test"});
    let outcome = up(with_properties(by_key(&wrong_name), named.clone()));
    assert!(outcome.tls.expect("recorded").verified);
    // The name is the endpoint's: the token server has its own.
    let good = main();
    let elsewhere = by(&good, &wrong_name.account_key(Idp::ACCOUNT));
    let outcome = down(
        with_properties(elsewhere, named),
        "tls_name_mismatch",
        "tls",
        "",
    );
    let server = format!("`https://localhost:{}`: ", good.port());
    assert!(!message(&outcome).contains(&server), "{outcome:#?}");
    down(
        with(
            by_key(&good),
            json!({"caCert": Rig::shared().pki().other_ca.cert_pem}),
        ),
        "tls_unknown_ca",
        "tls",
        "",
    );
}

fn a_client_certificate_is_shown_to_the_endpoint() {
    let (idp, pki) = (main(), Rig::shared().pki());
    let nginx = need!(Rig::shared().nginx());
    let url = format!("https://localhost:{}", nginx.mtls);
    let spec = with(by_key(&idp), json!({"url": url}));
    let shows = |client: &Certified| {
        let client = json!({"clientCert": client.cert_pem, "clientKey": client.key_pem});
        with(spec.clone(), client)
    };
    // nginx tells of it by HTTP.
    let outcome = down(spec.clone(), "http_status", "request", "400");
    assert!(hint(&outcome).contains("set `clientCert` and `clientKey`"));
    let outcome = down(
        shows(&pki.client_unknown_ca),
        "http_status",
        "request",
        "400",
    );
    assert!(hint(&outcome).contains("refused our client certificate"));
    let outcome = up(shows(&pki.client));
    assert_eq!(
        seconds(outcome.credential_expiry),
        Some(pki.client.not_after)
    );
}

fn plain_http_to_the_tls_port() {
    let (idp, nginx) = (main(), need!(Rig::shared().nginx()));
    let url = format!("http://localhost:{}", nginx.https);
    let outcome = down(
        with(by_key(&idp), json!({"url": url})),
        "protocol",
        "request",
        "400",
    );
    assert!(hint(&outcome).contains("https://"), "{outcome:#?}");
}

fn what_is_not_google_is_a_protocol_error() {
    let (idp, nginx) = (main(), need!(Rig::shared().nginx()));
    let at = |path: &str| {
        let url = format!("https://localhost:{}{path}", nginx.https);
        with(by_key(&idp), json!({"url": url}))
    };
    down(at("/page"), "protocol", "request", "");
    let outcome = down(at("/nothing"), "protocol", "request", "404");
    assert!(hint(&outcome).contains("is `url` right?"));
    let token_at = |path: &str| {
        let mut key = idp.account_key(Idp::ACCOUNT);
        key["token_uri"] = format!("https://localhost:{}{path}", nginx.https).into();
        by(&idp, &key)
    };
    down(token_at("/page/x"), "protocol", "auth", "");
    down(token_at("/json"), "protocol", "auth", "");
    down(token_at("/503"), "unavailable", "auth", "503");
}

fn a_stopped_server_refuses_and_a_paused_one_is_a_timeout() {
    let idp = own("idp-gcp-stopped");
    let good = main();
    let at_token_server = by(&good, &idp.account_key(Idp::ACCOUNT));
    let at_endpoint = with(by_key(&good), json!({"url": idp.url()}));
    idp.process().pause();
    // One signs before it asks, and the other gets a token first.
    for outcome in attempts_within(LONGER, [at_token_server.clone(), at_endpoint.clone()]) {
        assert_down(&outcome, "timeout", "tls", "");
    }
    idp.process().resume();
    up(by_key(&idp));
    idp.process().stop();
    let outcome = down(at_token_server, "connect_refused", "connect", "");
    assert!(message(&outcome).contains(&idp.url()), "{outcome:#?}");
    let outcome = down(at_endpoint, "connect_refused", "connect", "");
    assert!(phases(&outcome).contains(&"auth"), "the token was there");
    // One that takes the request and never answers.
    let hang = need!(Rig::shared().nginx());
    let mut key = good.account_key(Idp::ACCOUNT);
    key["token_uri"] = format!("https://localhost:{}/hang", hang.https).into();
    let outcome = attempt_within(LONGER, &by(&good, &key));
    assert_down(&outcome, "timeout", "auth", "");
}

fn a_program_that_hangs_is_killed() {
    let idp = main();
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let command = format!("/bin/sh -c 'echo $$ > {}; sleep 600'", pid.display());
    let credential = idp.federation_file(&json!({"executable": {"command": command}}));
    let machine = Machine::default().with(ALLOWED, "1");
    let outcome = machine.attempt_within(LONGER, &by(&idp, &credential));
    assert_down(&outcome, "timeout", "auth", "");
    assert!(
        message(&outcome).contains("the program `sh`"),
        "{outcome:#?}"
    );
    let pid = fs::read_to_string(pid).unwrap();
    let state = || fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    let gone = || state().is_empty() || state().contains(") Z");
    assert!(soon(gone), "it lives on");
}

fn programs_run_where_it_is_allowed_twice() {
    let idp = main();
    let dir = tempfile::tempdir().unwrap();
    let ran = dir.path().join("ran");
    let command = format!("/bin/sh -c 'echo x >> {}'", ran.display());
    let credential = idp.federation_file(&json!({"executable": {"command": command}}));
    let file = dir.path().join("a.yaml");
    write(&file, &[document("federated", by(&idp, &credential))]);
    let file = file.to_str().unwrap();
    for (args, allowed, says) in [
        (&["--check-once", file][..], "", "only when allowed"),
        (
            &["--check-once", "--no-exec-plugins", file],
            "1",
            "`--no-exec-plugins` says to run none",
        ),
        (&["--check-once", file], "1", "wrote what is no answer"),
    ] {
        let output = conncheck(args).env(ALLOWED, allowed).output().unwrap();
        let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
        assert_ne!(code(&output), 0, "{said}");
        assert!(said.contains(says), "{said}");
        assert_eq!(ran.exists(), says.starts_with("wrote"), "{says}");
    }
}

fn the_daemon_s_own_environment_is_the_default() {
    let idp = main();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.yaml");
    write(&file, &[document("google", without_credential(&idp))]);
    let check = |variables: &[(&str, &str)]| {
        let mut command = conncheck(&["--check-once", file.to_str().unwrap()]);
        command.env_remove("GOOGLE_APPLICATION_CREDENTIALS");
        // Never the real metadata server.
        command.env("NO_GCE_CHECK", "true");
        command.env("HOME", "/no/such/home");
        command.envs(variables.iter().copied());
        let output = command.output().unwrap();
        (code(&output), text(&output.stdout))
    };
    let (code, said) = check(&[]);
    assert_eq!(code, 1, "{said}");
    for link in [
        "secret",
        "`GOOGLE_APPLICATION_CREDENTIALS` is not set",
        "/no/such/home/.config/gcloud/application_default_credentials.json",
        "`NO_GCE_CHECK`",
    ] {
        assert!(said.contains(link), "{said}");
    }
    let host = authority(&idp.plain_url());
    let (code, said) = check(&[("GCE_METADATA_HOST", &host), ("NO_GCE_CHECK", "false")]);
    assert_eq!(code, 0, "{said}");
    let key = dir.path().join("key.json");
    fs::write(&key, idp.account_key(Idp::ACCOUNT).to_string()).unwrap();
    let (code, said) = check(&[("GOOGLE_APPLICATION_CREDENTIALS", key.to_str().unwrap())]);
    assert_eq!(code, 0, "{said}");
}

fn the_expiry_of_a_token_that_is_fetched_anew_is_not_exported() {
    let idp = main();
    let file = token_file(&idp, Idp::SUBJECT, Idp::POOL_AUDIENCE, now());
    let federated = idp.federation_file(&json!({"file": file.path()}));
    let dir = tempfile::tempdir().unwrap();
    write(
        &dir.path().join("a.yaml"),
        &[
            document("by-key", by_key(&idp)),
            document("federated", by(&idp, &federated)),
        ],
    );
    let daemon = Daemon::start(dir.path(), &["--interval", "1s", "--timeout", "30s"]);
    let metrics = daemon.wait_for("both are up", |metrics| {
        let up = |name: &str| {
            metrics.lines().any(|line| {
                line.starts_with("probe_success{")
                    && line.contains(&format!("connection=\"{name}\""))
                    && line.ends_with(" 1")
            })
        };
        up("by-key") && up("federated")
    });
    let expiry: Vec<&str> = metrics
        .lines()
        .filter(|line| line.starts_with("probe_credential_expiry_timestamp_seconds{"))
        .collect();
    assert_eq!(expiry.len(), 1, "{expiry:?}");
    assert!(expiry[0].contains("federated"), "{expiry:?}");
}

fn leaves_in_good_order() {
    let idp = own("idp-gcp-order");
    for _ in 0..5 {
        up(by_key(&idp));
        up(with_properties(
            by_key(&idp),
            json!({"project": Idp::PROJECT}),
        ));
        attempt(&by(&idp, &idp.stale_account_key(Idp::ACCOUNT)));
        attempt(&with_properties(by_key(&idp), json!({"project": "other"})));
    }
    assert!(soon(|| idp.requests().len() >= 35));
    assert_eq!(idp.complaints(), [""; 0]);
}
