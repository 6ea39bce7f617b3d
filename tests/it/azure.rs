//! `azure` against token endpoints as Entra's (`idp.rs`): a certified OAuth2 server in Entra's shape.

use std::sync::Arc;

use conncheck_config::{Documents, Secret};
use conncheck_probes::{Files, Outcome, ResolverChoice};
use conncheck_rig::http::{HttpPeer, response};
use conncheck_rig::{Idp, IdpKind, Rig, Shown, faults};
use serde_json::{Value, json};

use crate::check::{
    SHORT, TIMEOUT, assert_down, assert_recorded, attempt_with_secret, attempt_within, down, hint,
    hint_of, message, phases, probe_on, refuses_every_fault, run, seconds, summary, trusting, up,
    with,
};
use crate::web::{soon, with_properties};

crate::trials![
    a_client_secret_gives_a_token,
    wherever_the_secret_stands,
    a_subscription_must_be_readable,
    a_subscription_beside_another_resource_wants_a_token_of_its_own,
    a_client_certificate_is_asserted_and_its_end_is_told,
    a_certificate_that_the_application_does_not_trust,
    a_federated_token_is_asserted,
    a_federated_token_that_is_not_trusted,
    the_environment_has_a_secret_or_a_certificate,
    a_virtual_machine_has_an_identity,
    an_app_service_has_an_identity,
    a_metadata_service_that_has_no_token,
    the_default_chain_takes_the_first_that_is_there,
    a_chain_that_found_nothing_names_each_link,
    nobody_asks_for_metadata_without_need,
    every_refusal_has_its_code_and_a_way_out,
    a_wrong_clock_is_told,
    what_is_no_authority,
    what_is_no_resource_manager,
    every_fault_of_a_certificate,
    the_resource_manager_s_certificate_is_judged_too,
    the_server_name_may_be_another,
    a_stopped_server_refuses,
    a_paused_server_times_out,
    leaves_in_good_order,
];

fn idp() -> Arc<Idp> {
    shared(IdpKind::Main)
}

fn shared(kind: IdpKind) -> Arc<Idp> {
    Rig::shared()
        .get(kind)
        .unwrap_or_else(|skipped| panic!("{skipped:?}"))
}

/// One of the test's own, whose log nobody else writes.
fn own() -> Idp {
    let dir = Rig::shared().dir();
    Idp::start(Rig::shared().pki(), dir, "idp-own").unwrap()
}

/// At that authority, as nobody yet.
fn at(idp: &Idp) -> Value {
    let properties = json!({"tenantID": Idp::TENANT, "managementEndpoint": idp.url()});
    trusting(json!({"type": "azure", "url": idp.url(), "properties": properties}))
}

fn with_secret(idp: &Idp) -> Value {
    with(
        at(idp),
        json!({"username": Idp::APP, "password": Idp::SECRET}),
    )
}

fn with_certificate(idp: &Idp, certificate: &conncheck_rig::AppCertificate) -> Value {
    with(
        at(idp),
        json!({
            "username": Idp::APP_CERTIFICATE,
            "clientCert": certificate.cert_pem, "clientKey": certificate.key_pem,
        }),
    )
}

fn reading(spec: Value, subscription: &str) -> Value {
    with_properties(spec, json!({"subscriptionID": subscription}))
}

/// A machine with these variables and these files.
#[derive(Default)]
struct Machine {
    variables: Vec<(&'static str, String)>,
    files: Vec<(&'static str, String)>,
}

impl Machine {
    fn with<const N: usize>(variables: [(&'static str, &str); N]) -> Machine {
        let variables = variables.map(|(name, value)| (name, value.to_owned()));
        Machine {
            variables: variables.into(),
            files: Vec::new(),
        }
    }

    fn and_file(mut self, path: &'static str, text: impl Into<String>) -> Machine {
        self.files.push((path, text.into()));
        self
    }

    /// What comes of `spec` there.
    fn attempt(&self, spec: &Value) -> Outcome {
        let probe = probe_on(self, &Documents::default(), spec);
        run(TIMEOUT, &ResolverChoice::Auto, &probe)
    }

    #[track_caller]
    fn up(&self, spec: &Value) -> Outcome {
        let outcome = self.attempt(spec);
        assert!(outcome.is_up(), "{outcome:#?}");
        outcome
    }

    #[track_caller]
    fn down(&self, spec: &Value, reason: &str, phase: &str, code: &str) -> Outcome {
        let outcome = self.attempt(spec);
        assert_down(&outcome, reason, phase, code);
        outcome
    }
}

impl Files for Machine {
    fn read(&self, path: &str) -> Result<Secret, String> {
        let found = self.files.iter().find(|(known, _)| *known == path);
        found
            .map(|(_, text)| Secret::new(text.as_str()))
            .ok_or_else(|| format!("`{path}` does not exist"))
    }

    fn variable(&self, name: &str) -> Option<String> {
        let found = self.variables.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.clone())
    }
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// The last request, once it has come to so many there. It is written down after it is answered.
#[track_caller]
fn last(idp: &Idp, count: usize) -> Value {
    assert!(soon(|| idp.requests().len() >= count), "{count} requests");
    let mut requests = idp.requests();
    assert_eq!(requests.len(), count);
    requests.pop().expect("a request")
}

fn a_client_secret_gives_a_token() {
    let idp = own();
    let outcome = up(with_secret(&idp));
    assert_eq!(phases(&outcome), ["resolve", "connect", "tls", "auth"]);
    assert_eq!(outcome.http_status, Some(200));
    assert_eq!(outcome.credential_expiry, None, "not the access token's");
    let pki = Rig::shared().pki();
    assert_recorded(&outcome, &pki.server);
    assert!(outcome.tls.unwrap().verified);
    let asked = last(&idp, 1);
    assert_eq!(asked["path"], format!("/{}/oauth2/v2.0/token", Idp::TENANT));
    assert_eq!(
        asked["form"]["scope"],
        "https://management.azure.com/.default"
    );
    assert_eq!(asked["form"]["grant_type"], "client_credentials");
    up(with_secret(&shared(IdpKind::Shows(Shown::Intermediate))));
}

fn wherever_the_secret_stands() {
    let idp = idp();
    let url = idp.url();
    let app = json!({"clientID": Idp::APP});
    let keyed = json!({"secretRef": {"name": "any", "key": "anything"}});
    let whole = json!({"secretRef": {"name": "any"}});
    let by_path = trusting(json!({"type": "azure", "url": format!("{url}/{}", Idp::DOMAIN)}));
    for (spec, secret) in [
        (
            with(
                with_properties(at(&idp), app.clone()),
                json!({"password": Idp::SECRET}),
            ),
            vec![],
        ),
        (
            with(with_properties(at(&idp), app.clone()), keyed.clone()),
            vec![("anything", Idp::SECRET)],
        ),
        (
            with(at(&idp), whole.clone()),
            vec![("username", Idp::APP), ("password", Idp::SECRET)],
        ),
        (
            trusting(with(json!({"type": "azure", "url": url}), whole)),
            vec![
                ("clientID", Idp::APP),
                ("clientSecret", Idp::SECRET),
                ("tenantID", Idp::TENANT),
            ],
        ),
        (
            with(
                by_path,
                json!({"username": Idp::APP, "password": Idp::SECRET}),
            ),
            vec![],
        ),
        (
            trusting(json!({
                "type": "azure",
                "url": format!("https://{}:{}@localhost:{}/{}", Idp::APP, Idp::SECRET, idp.port(), Idp::TENANT),
            })),
            vec![],
        ),
        // What the secret says wins over what the URL says.
        (
            trusting(with(
                json!({"type": "azure", "url": format!("https://{}:old@localhost:{}/{}", Idp::APP, idp.port(), Idp::TENANT)}),
                keyed,
            )),
            vec![("anything", Idp::SECRET)],
        ),
        (
            with_properties(with_secret(&idp), json!({"credential": "clientSecret"})),
            vec![],
        ),
    ] {
        let outcome = attempt_with_secret(&secret, &spec);
        assert_eq!(summary(&outcome), "up", "{spec}: {outcome:#?}");
    }
}

fn a_subscription_must_be_readable() {
    let idp = idp();
    let outcome = up(reading(with_secret(&idp), Idp::SUBSCRIPTION));
    assert_eq!(
        phases(&outcome),
        ["resolve", "connect", "tls", "auth", "request"]
    );
    assert_eq!(outcome.http_status, Some(200));
    up(reading(
        with_certificate(&idp, idp.certificate()),
        Idp::SUBSCRIPTION,
    ));
    for (subscription, reason, code, says, advises) in [
        (
            Idp::SUBSCRIPTION_FORBIDDEN,
            "permission",
            "AuthorizationFailed",
            "does not have authorization to perform action 'Microsoft.Resources/subscriptions/read'",
            "`Reader`",
        ),
        (
            Idp::TENANT,
            "not_found",
            "SubscriptionNotFound",
            "SubscriptionNotFound: The subscription '11111111-1111-4111-8111-111111111111' could not be found",
            "is `subscriptionID` right",
        ),
        (
            Idp::SUBSCRIPTION_FOREIGN,
            "auth",
            "InvalidAuthenticationTokenTenant",
            "wrong issuer",
            "another tenant",
        ),
    ] {
        let outcome = down(
            reading(with_secret(&idp), subscription),
            reason,
            "request",
            code,
        );
        assert!(message(&outcome).contains(says), "{outcome:#?}");
        assert!(hint(&outcome).contains(advises), "{outcome:#?}");
    }
}

fn a_subscription_beside_another_resource_wants_a_token_of_its_own() {
    let idp = own();
    for (number, resource) in [
        "https://storage.azure.com",
        "https://storage.azure.com/",
        "https://storage.azure.com/.default",
    ]
    .iter()
    .enumerate()
    {
        let spec = with_properties(with_secret(&idp), json!({"resource": resource}));
        up(reading(spec.clone(), Idp::SUBSCRIPTION));
        up(spec);
        let asked = last(&idp, 4 * (number + 1));
        assert_eq!(asked["form"]["scope"], "https://storage.azure.com/.default");
    }
    let spec = with_properties(
        with_secret(&idp),
        json!({"resource": "https://nowhere.test"}),
    );
    let outcome = down(spec, "not_found", "auth", "AADSTS500011");
    assert_eq!(
        message(&outcome),
        "AADSTS500011: The resource principal named https://nowhere.test was not found in the tenant named Rig"
    );
    assert!(hint(&outcome).contains("is `resource` right"));
}

fn a_client_certificate_is_asserted_and_its_end_is_told() {
    let idp = own();
    let certificate = idp.certificate();
    let spec = with_certificate(&idp, certificate);
    let outcome = up(spec.clone());
    assert_eq!(
        seconds(outcome.credential_expiry),
        Some(certificate.not_after)
    );
    assert_eq!(phases(&outcome), ["resolve", "connect", "tls", "auth"]);
    let asked = last(&idp, 1);
    let assertion = &asked["assertion"];
    assert_eq!(assertion["header"]["alg"], "PS256");
    assert_eq!(assertion["header"].get("x5c"), None);
    let claims = &assertion["claims"];
    assert_eq!(
        (&claims["iss"], &claims["sub"]),
        (&json!(Idp::APP_CERTIFICATE), &json!(Idp::APP_CERTIFICATE))
    );
    let lives = claims["exp"].as_i64().unwrap() - claims["nbf"].as_i64().unwrap();
    assert_eq!(lives, 600, "minutes, and not the certificate's life");
    // Each is used once, and certificate and key may stand in one text.
    let both = format!("{}{}", certificate.key_pem, certificate.cert_pem);
    let both = json!({"username": Idp::APP_CERTIFICATE, "clientCert": both});
    let both = with_properties(
        with(at(&idp), both),
        json!({"credential": "clientCertificate", "sendCertificateChain": true}),
    );
    up(both);
    let asked = last(&idp, 2);
    assert_ne!(asked["assertion"]["claims"]["jti"], claims["jti"]);
    assert_eq!(
        asked["assertion"]["header"]["x5c"].as_array().map(Vec::len),
        Some(1)
    );
}

fn a_certificate_that_the_application_does_not_trust() {
    let idp = idp();
    let outcome = down(
        with_certificate(&idp, idp.unknown_certificate()),
        "auth",
        "auth",
        "AADSTS700027",
    );
    assert!(
        message(&outcome).contains("is not registered on application. [Reason - The key was not found., Thumbprint of key used by client: '"),
        "{outcome:#?}"
    );
    assert!(message(&outcome).ends_with("']"), "{outcome:#?}");
    assert!(hint(&outcome).starts_with("upload the certificate in use"));
    let expired = idp.expired_certificate();
    let outcome = down(
        with_certificate(&idp, expired),
        "auth",
        "auth",
        "AADSTS700027",
    );
    assert_eq!(seconds(outcome.credential_expiry), Some(expired.not_after));
    assert!(
        hint(&outcome).starts_with("the certificate ended 2"),
        "{outcome:#?}"
    );
    // The application that has a secret has no certificate.
    let spec = with(
        with_certificate(&idp, idp.certificate()),
        json!({"username": Idp::APP}),
    );
    down(spec, "auth", "auth", "AADSTS700027");
}

const TOKEN_FILE: &str = "/var/run/secrets/azure/tokens/azure-identity-token";

/// A pod that Azure's webhook has prepared, with this token.
fn pod(idp: &Idp, token: &str) -> Machine {
    Machine::with([
        ("AZURE_TENANT_ID", Idp::TENANT),
        ("AZURE_CLIENT_ID", Idp::APP_FEDERATED),
        ("AZURE_FEDERATED_TOKEN_FILE", TOKEN_FILE),
        ("AZURE_AUTHORITY_HOST", &format!("{}/", idp.url())),
    ])
    .and_file(TOKEN_FILE, format!("{token}\n"))
}

fn a_federated_token_is_asserted() {
    let idp = idp();
    let token = idp
        .federated_token(Idp::SUBJECT, Idp::AUDIENCE, now())
        .unwrap();
    let pod = pod(&idp, &token);
    let bare = trusting(json!({"type": "azure", "properties": {"managementEndpoint": idp.url()}}));
    let outcome = pod.up(&reading(bare.clone(), Idp::SUBSCRIPTION));
    assert_eq!(
        phases(&outcome),
        ["resolve", "connect", "tls", "auth", "request"]
    );
    assert_eq!(outcome.credential_expiry, None, "somebody renews it");
    pod.up(&with_properties(
        bare,
        json!({"credential": "workloadIdentity"}),
    ));
    // All of it may stand in the definition.
    let spec = with_properties(
        at(&idp),
        json!({"clientID": Idp::APP_FEDERATED, "federatedTokenFile": TOKEN_FILE}),
    );
    Machine::default().and_file(TOKEN_FILE, token).up(&spec);
}

fn a_federated_token_that_is_not_trusted() {
    let idp = idp();
    let spec = trusting(json!({"type": "azure"}));
    let down = |subject: &str, audience: &str, issued: i64, code: &str| {
        let token = idp.federated_token(subject, audience, issued).unwrap();
        pod(&idp, &token).down(&spec, "auth", "auth", code)
    };
    let other = "system:serviceaccount:default:default";
    let outcome = down(other, Idp::AUDIENCE, now(), "AADSTS700213");
    assert!(message(&outcome).contains(other), "{outcome:#?}");
    assert!(hint(&outcome).contains("issuer, subject and audience"));
    down(
        Idp::SUBJECT,
        "https://kubernetes.default.svc",
        now(),
        "AADSTS700212",
    );
    let outcome = down(Idp::SUBJECT, Idp::AUDIENCE, now() - 7200, "AADSTS700024");
    assert!(
        hint(&outcome).starts_with("the federated token ended 2"),
        "{outcome:#?}"
    );
    assert!(
        !message(&outcome).contains("Current time"),
        "the same each time: {outcome:#?}"
    );
}

fn the_environment_has_a_secret_or_a_certificate() {
    let idp = idp();
    let url = idp.url();
    let spec = trusting(json!({"type": "azure"}));
    let by_name = with_properties(spec.clone(), json!({"credential": "environment"}));
    let secret = Machine::with([
        ("AZURE_TENANT_ID", Idp::TENANT),
        ("AZURE_CLIENT_ID", Idp::APP),
        ("AZURE_CLIENT_SECRET", Idp::SECRET),
        ("AZURE_AUTHORITY_HOST", &url),
    ]);
    secret.up(&spec);
    secret.up(&by_name);
    let certificate = idp.certificate();
    let pem = format!("{}{}", certificate.key_pem, certificate.cert_pem);
    let machine = Machine::with([
        ("AZURE_TENANT_ID", Idp::TENANT),
        ("AZURE_CLIENT_ID", Idp::APP_CERTIFICATE),
        ("AZURE_CLIENT_CERTIFICATE_PATH", "/etc/app.pem"),
        ("AZURE_AUTHORITY_HOST", &url),
    ])
    .and_file("/etc/app.pem", pem);
    let outcome = machine.up(&by_name);
    assert_eq!(
        seconds(outcome.credential_expiry),
        Some(certificate.not_after)
    );
    // What the definition says wins.
    let other = with(spec, json!({"properties": {"clientID": "nobody"}}));
    secret.down(&other, "auth", "auth", "AADSTS700016");
    let wrong = Machine::with([
        ("AZURE_TENANT_ID", Idp::TENANT),
        ("AZURE_CLIENT_ID", Idp::APP),
        ("AZURE_CLIENT_SECRET", "wrong"),
        ("AZURE_AUTHORITY_HOST", &url),
    ]);
    wrong.down(&by_name, "auth", "auth", "AADSTS7000215");
}

fn vm(idp: &Idp) -> Machine {
    Machine::with([("AZURE_POD_IDENTITY_AUTHORITY_HOST", &idp.plain_url())])
}

fn managed(idp: &Idp) -> Value {
    trusting(json!({
        "type": "azure",
        "properties": {"credential": "managedIdentity", "managementEndpoint": idp.url()},
    }))
}

fn a_virtual_machine_has_an_identity() {
    let idp = idp();
    let outcome = vm(&idp).up(&managed(&idp));
    assert_eq!(phases(&outcome), ["connect", "auth"]);
    assert!(outcome.tls.is_none());
    let outcome = vm(&idp).up(&reading(managed(&idp), Idp::SUBSCRIPTION));
    assert_eq!(
        phases(&outcome),
        ["resolve", "connect", "tls", "auth", "request"]
    );
    let user_assigned = with_properties(managed(&idp), json!({"clientID": Idp::IDENTITY}));
    vm(&idp).up(&user_assigned);
    let path = format!(
        "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fmanagement.azure.com&client_id={}",
        Idp::IDENTITY
    );
    let is_it = |asked: &Value| asked["path"] == path && asked["header"]["metadata"] == "true";
    assert!(soon(|| idp.requests().iter().any(is_it)));
    let other = with_properties(managed(&idp), json!({"clientID": Idp::APP}));
    let outcome = vm(&idp).down(&other, "auth", "auth", "invalid_request");
    assert_eq!(message(&outcome), "invalid_request: Identity not found");
    assert!(hint(&outcome).contains("assign an identity with that `clientID`"));
    let resource = with_properties(managed(&idp), json!({"resource": "https://nowhere.test"}));
    vm(&idp).down(&resource, "not_found", "auth", "AADSTS500011");
    down_everywhere(&idp);
}

/// The service says so in a text, without the codes beside it.
fn down_everywhere(idp: &Idp) {
    let forbidden = reading(managed(idp), Idp::SUBSCRIPTION_FORBIDDEN);
    vm(idp).down(&forbidden, "permission", "request", "AuthorizationFailed");
}

fn app_service(idp: &Idp, header: &str) -> Machine {
    let endpoint = format!("{}/msi/token", idp.plain_url());
    Machine::with([
        ("IDENTITY_ENDPOINT", &endpoint),
        ("IDENTITY_HEADER", header),
        // It has none of these.
        ("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:1"),
    ])
}

fn an_app_service_has_an_identity() {
    let idp = idp();
    let app = app_service(&idp, Idp::IDENTITY_HEADER);
    app.up(&reading(managed(&idp), Idp::SUBSCRIPTION));
    app.up(&with_properties(
        managed(&idp),
        json!({"clientID": Idp::IDENTITY}),
    ));
    let other = with_properties(managed(&idp), json!({"clientID": Idp::APP}));
    let outcome = app.down(&other, "auth", "auth", "400");
    assert_eq!(
        message(&outcome),
        "no token: No User Assigned or Delegated Managed Identity found for specified ClientId/ResourceId/PrincipalId"
    );
    let outcome = app_service(&idp, "guessed").down(&managed(&idp), "auth", "auth", "401");
    assert!(hint(&outcome).contains("`IDENTITY_HEADER`"), "{outcome:#?}");
}

fn a_metadata_service_that_has_no_token() {
    let idp = idp();
    for (status, body, reason, code) in [
        (404, "", "unavailable", "404"),
        (410, "", "unavailable", "410"),
        (
            429,
            "{\"error\":\"Too many requests\"}",
            "unavailable",
            "Too many requests",
        ),
        (
            500,
            "{\"error\":\"unknown\",\"error_description\":\"Failed to retrieve token\"}",
            "unavailable",
            "unknown",
        ),
        (503, "", "unavailable", "503"),
        (
            400,
            "{\"error\":\"invalid_request\",\"error_description\":\"Identity not found\"}",
            "auth",
            "invalid_request",
        ),
        (200, "<html>", "protocol", ""),
        (200, "{\"access_token\":\"\"}", "protocol", ""),
    ] {
        let peer = HttpPeer::answers(response(status, &[], body)).unwrap();
        let vm = Machine::with([("AZURE_POD_IDENTITY_AUTHORITY_HOST", &peer.url(""))]);
        vm.down(&managed(&idp), reason, "auth", code);
    }
}

fn the_default_chain_takes_the_first_that_is_there() {
    let idp = idp();
    let token = idp
        .federated_token(Idp::SUBJECT, Idp::AUDIENCE, now())
        .unwrap();
    let all = |secret: Option<&str>, file: Option<&str>| {
        let mut machine = pod(&idp, &token);
        machine
            .variables
            .retain(|(name, _)| file.is_some() || *name != "AZURE_FEDERATED_TOKEN_FILE");
        machine
            .variables
            .extend(secret.map(|secret| ("AZURE_CLIENT_SECRET", secret.to_owned())));
        machine
            .variables
            .push(("AZURE_POD_IDENTITY_AUTHORITY_HOST", idp.plain_url()));
        machine
    };
    let spec = trusting(json!({"type": "azure"}));
    // The federated application has no such secret: that is how the first is known to have been taken.
    all(Some("wrong"), Some("")).down(&spec, "auth", "auth", "AADSTS7000215");
    assert_eq!(
        phases(&all(None, Some("")).up(&spec)),
        ["resolve", "connect", "tls", "auth"]
    );
    // Its client ID is none that the machine has.
    all(None, None).down(&spec, "auth", "auth", "invalid_request");
    let identity = with_properties(spec.clone(), json!({"clientID": Idp::IDENTITY}));
    assert_eq!(phases(&all(None, None).up(&identity)), ["connect", "auth"]);
    // What the definition holds comes before all of it.
    let secret = with(with_secret(&idp), json!({}));
    all(Some("wrong"), Some("")).up(&secret);
}

fn a_chain_that_found_nothing_names_each_link() {
    let refused = faults::refused().unwrap();
    let address = refused.addr();
    let host = format!("http://{address}");
    let machine = Machine::with([
        ("AZURE_POD_IDENTITY_AUTHORITY_HOST", &host),
        ("AZURE_TENANT_ID", Idp::TENANT),
        ("AZURE_CLIENT_ID", Idp::APP),
    ]);
    let outcome = machine.down(&json!({"type": "azure"}), "connect_refused", "connect", "");
    assert_eq!(
        message(&outcome),
        format!(
            "no credential was found: environment: neither `AZURE_CLIENT_SECRET` nor `AZURE_CLIENT_CERTIFICATE_PATH` is set; \
             workload identity: `AZURE_FEDERATED_TOKEN_FILE` is not set; managed identity: `{address}`: connection refused"
        )
    );
    assert!(
        hint(&outcome).starts_with("give `tenantID`, `clientID`"),
        "{outcome:#?}"
    );
    // Where nobody answers, the whole timeout is not waited for.
    let hole = faults::BlackHole::start().unwrap();
    let host = format!("http://{}", hole.addr());
    let machine = Machine::with([("AZURE_POD_IDENTITY_AUTHORITY_HOST", &host)]);
    let outcome = machine.down(&json!({"type": "azure"}), "timeout", "connect", "");
    assert!(outcome.duration < TIMEOUT, "{outcome:#?}");
    assert!(message(&outcome).contains("environment: `AZURE_TENANT_ID` is not set"));
}

fn nobody_asks_for_metadata_without_need() {
    let idp = idp();
    let metadata = HttpPeer::answers(response(404, &[], "")).unwrap();
    let machine = Machine::with([
        ("AZURE_POD_IDENTITY_AUTHORITY_HOST", &metadata.url("")),
        ("IDENTITY_ENDPOINT", &metadata.url("/msi")),
        ("IDENTITY_HEADER", "x"),
    ]);
    machine.up(&reading(with_secret(&idp), Idp::SUBSCRIPTION));
    machine.up(&with_certificate(&idp, idp.certificate()));
    let wrong = with(with_secret(&idp), json!({"password": "wrong"}));
    machine.down(&wrong, "auth", "auth", "AADSTS7000215");
    assert_eq!(metadata.accepted(), 0);
}

fn every_refusal_has_its_code_and_a_way_out() {
    let idp = idp();
    let app = |id: &str| with(with_secret(&idp), json!({"username": id}));
    let tenant = |id: &str| with_properties(with_secret(&idp), json!({"tenantID": id}));
    let secret = |secret: &str| with(with_secret(&idp), json!({"password": secret}));
    for (spec, reason, code, says, advises) in [
        (
            secret("wrong"),
            "auth",
            "7000215",
            "Invalid client secret provided",
            "the value of the client secret",
        ),
        (
            secret(Idp::SUBSCRIPTION),
            "auth",
            "7000215",
            "Invalid client secret provided",
            "that is the client secret's ID",
        ),
        (
            app(Idp::APP_EXPIRED_SECRET),
            "auth",
            "7000222",
            "are expired",
            "make a new client secret",
        ),
        (
            app(Idp::SUBSCRIPTION),
            "auth",
            "700016",
            "was not found in the directory 'Rig'",
            "application (client) ID",
        ),
        (
            app(Idp::APP_DISABLED),
            "auth",
            "7000112",
            "is disabled",
            "switched the application off",
        ),
        (
            app(Idp::APP_BLOCKED),
            "permission",
            "53003",
            "blocked by Conditional Access",
            "sign-in log",
        ),
        (
            tenant(Idp::SUBSCRIPTION),
            "not_found",
            "90002",
            "Tenant '33333333-3333-4333-8333-333333333333' not found",
            "is `tenantID` right",
        ),
        (
            tenant("nonsense"),
            "not_found",
            "900023",
            "is neither a valid DNS name",
            "is `tenantID` right",
        ),
    ] {
        let outcome = down(spec, reason, "auth", &format!("AADSTS{code}"));
        let said = message(&outcome);
        assert!(said.starts_with(&format!("AADSTS{code}: ")), "{said}");
        assert!(said.contains(says), "{said}");
        assert!(!said.contains("Trace ID"), "the same each time: {said}");
        assert!(hint(&outcome).contains(advises), "{outcome:#?}");
        assert!(outcome.http_status.is_some());
    }
}

fn a_wrong_clock_is_told() {
    let body = json!({
        "error": "invalid_client", "error_codes": [700024],
        "error_description": "AADSTS700024: Client assertion is not within its valid time range. Current time: x",
    });
    let certificate = idp();
    let certificate = certificate.certificate();
    let hint_at = |offset: i64| {
        let then = jiff::Timestamp::from_second(now() + offset).unwrap();
        let date = then.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let headers = [
            ("Content-Type", "application/json"),
            ("Date", date.as_str()),
        ];
        let peer = HttpPeer::answers(response(401, &headers, &body.to_string())).unwrap();
        let spec = json!({
            "type": "azure", "url": peer.url(""), "username": Idp::APP,
            "clientCert": certificate.cert_pem, "clientKey": certificate.key_pem,
            "properties": {"tenantID": Idp::TENANT},
        });
        hint_of(down(spec, "auth", "auth", "AADSTS700024"))
    };
    assert_eq!(
        hint_at(-7210),
        "the clock of this machine is 120 minutes ahead of the server's: set it right"
    );
    assert!(hint_at(7270).contains("minutes behind the server's"));
    assert_eq!(hint_at(0), "is the clock of this machine right?");
}

fn what_is_no_authority() {
    let spec = |url: String| {
        json!({
            "type": "azure", "url": url, "username": Idp::APP, "password": Idp::SECRET,
            "properties": {"tenantID": Idp::TENANT},
        })
    };
    let html = [("Content-Type", "text/html")];
    for (status, headers, body, reason, code) in [
        (404, &html[..], "<html>", "http_status", "404"),
        (200, &html[..], "<html>", "protocol", ""),
        (200, &[], "{}", "protocol", ""),
        (
            302,
            &[("Location", "https://elsewhere.test/")],
            "",
            "http_status",
            "302",
        ),
        (429, &[], "", "unavailable", "429"),
        (503, &[], "", "unavailable", "503"),
        (
            400,
            &[],
            "{\"error\":\"invalid_request\"}",
            "protocol",
            "invalid_request",
        ),
        (
            400,
            &[],
            "{\"error\":\"temporarily_unavailable\",\"error_codes\":[90033],\"error_description\":\"AADSTS90033: A transient error has occurred. Please try again.\"}",
            "unavailable",
            "AADSTS90033",
        ),
    ] {
        let peer = HttpPeer::answers(response(status, headers, body)).unwrap();
        let outcome = down(spec(peer.url("")), reason, "auth", code);
        assert!(!message(&outcome).contains(Idp::SECRET));
        assert_eq!(
            peer.requests().len(),
            1,
            "asked once, and nothing is followed"
        );
    }
}

fn what_is_no_resource_manager() {
    let idp = idp();
    for (status, body, reason, code) in [
        (200, "<html>", "protocol", ""),
        (200, "{\"subscriptionId\":\"other\"}", "protocol", ""),
        (404, "", "http_status", "404"),
        (403, "", "permission", "403"),
        (
            429,
            "{\"error\":{\"code\":\"SubscriptionRequestsThrottled\",\"message\":\"Number of requests exceeded. Try again.\"}}",
            "unavailable",
            "SubscriptionRequestsThrottled",
        ),
        (
            503,
            "{\"error\":{\"code\":\"ServerTimeout\",\"message\":\"x\"}}",
            "unavailable",
            "ServerTimeout",
        ),
        (
            401,
            "{\"error\":{\"code\":\"InvalidAuthenticationTokenAudience\",\"message\":\"x\"}}",
            "auth",
            "InvalidAuthenticationTokenAudience",
        ),
    ] {
        let peer = HttpPeer::answers(response(status, &[], body)).unwrap();
        let spec = with_properties(
            reading(with_secret(&idp), Idp::SUBSCRIPTION),
            json!({"managementEndpoint": peer.url("")}),
        );
        let outcome = down(spec, reason, "request", code);
        assert_eq!(outcome.http_status, Some(status));
        let asked = peer.requests();
        let path = format!(
            "/subscriptions/{}?api-version=2022-12-01",
            Idp::SUBSCRIPTION
        );
        assert_eq!(asked[0].target, path);
        let bearer = asked[0].header("authorization").unwrap();
        assert!(bearer.starts_with("Bearer eyJ"), "{bearer}");
    }
}

fn every_fault_of_a_certificate() {
    refuses_every_fault(IdpKind::Shows, |idp| {
        [with_secret(idp), with_certificate(idp, idp.certificate())]
    });
}

fn the_resource_manager_s_certificate_is_judged_too() {
    let idp = idp();
    let other = shared(IdpKind::Shows(Shown::Expired));
    let spec = with_properties(
        reading(with_secret(&idp), Idp::SUBSCRIPTION),
        json!({"managementEndpoint": other.url()}),
    );
    let outcome = down(spec, "tls_expired", "tls", "");
    assert_recorded(&outcome, &Rig::shared().pki().expired);
    let named = format!("`{}`: ", other.url());
    assert!(message(&outcome).starts_with(&named), "{outcome:#?}");
}

fn the_server_name_may_be_another() {
    let other = shared(IdpKind::Shows(Shown::WrongName));
    up(with_properties(
        with_secret(&other),
        json!({"serverName": "elsewhere.test"}),
    ));
    // It is the authority's alone.
    let spec = with_properties(
        reading(with_secret(&other), Idp::SUBSCRIPTION),
        json!({"serverName": "elsewhere.test", "managementEndpoint": idp().url()}),
    );
    up(spec);
    for shown in [Shown::Expired, Shown::SelfSigned, Shown::WrongName] {
        let idp = shared(IdpKind::Shows(shown));
        let outcome = up(with_properties(
            reading(with_secret(&idp), Idp::SUBSCRIPTION),
            json!({"insecureSkipVerify": true}),
        ));
        assert!(!outcome.tls.unwrap().verified);
    }
}

fn a_stopped_server_refuses() {
    let idp = shared(IdpKind::Stopped);
    up(with_secret(&idp));
    idp.process().stop();
    down(with_secret(&idp), "connect_refused", "connect", "");
}

fn a_paused_server_times_out() {
    let idp = shared(IdpKind::Paused);
    up(with_secret(&idp));
    idp.process().pause();
    let outcome = attempt_within(SHORT, &with_secret(&idp));
    idp.process().resume();
    assert_down(&outcome, "timeout", "tls", "");
    up(with_secret(&idp));
}

fn leaves_in_good_order() {
    let idp = own();
    for _ in 0..5 {
        up(reading(with_secret(&idp), Idp::SUBSCRIPTION));
        up(with_certificate(&idp, idp.certificate()));
        down(
            with(with_secret(&idp), json!({"password": "wrong"})),
            "auth",
            "auth",
            "AADSTS7000215",
        );
        vm(&idp).up(&managed(&idp));
    }
    assert!(soon(|| idp.requests().len() == 25));
    assert_eq!(idp.complaints(), [""; 0]);
    let log = idp.process().log();
    assert!(
        !log.contains(Idp::SECRET),
        "the rig's log tells no secret either"
    );
}
