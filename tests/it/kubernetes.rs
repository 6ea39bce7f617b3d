//! `kubernetes` against an API server of our own, which answers as a real one does (`apiserver.rs`).

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use conncheck_config::{Documents, Secret};
use conncheck_probes::{Files, Outcome, Probe, ResolverChoice};
use conncheck_rig::apiserver::{ApiServer, ApiServerKind, data, kubeconfig};
use conncheck_rig::faults::{Refused, refused_on};
use conncheck_rig::{Certified, PASSWORD, PATIENCE, Rig, Shown, TunnelProxy, need};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::check::{
    FAULTS, LONGER, SHORT, TIMEOUT, assert_down, attempt, attempt_with_secret, attempt_within,
    down, phases, probe, probe_on, refuses_every_fault, run, up, with,
};
use crate::program::{code, conncheck, document, text, write};
use crate::web::{hint, message, seconds, soon, summary, trusting, with_properties};

crate::trials![
    is_ready_and_knows_the_token,
    without_a_credential_its_readiness_is_all,
    a_token_that_ends_is_told,
    a_client_certificate_is_a_user,
    a_password_is_taken_by_old_servers_only,
    a_secret_s_key_is_a_kubeconfig_or_a_token,
    a_kubeconfig_and_the_files_that_it_names,
    a_context_of_several,
    what_the_definition_says_wins_over_the_kubeconfig,
    older_servers_are_asked_in_their_words,
    the_wrong_credential_is_auth_and_the_wrong_rights_are_permission,
    somebody_who_is_nobody_after_all,
    not_ready_is_unavailable,
    what_is_no_api_server_is_a_protocol_error,
    every_fault_of_a_certificate,
    the_server_name_may_be_another,
    plain_http_to_the_tls_port,
    impersonation_is_honoured,
    a_proxy_opens_the_tunnel,
    a_proxy_that_does_not,
    in_a_pod_as_its_service_account,
    an_exec_plugin_gives_a_token,
    an_exec_plugin_gives_a_client_certificate,
    an_exec_plugin_is_told_of_the_cluster,
    what_a_plugin_gave_is_kept_until_it_expires_or_is_refused,
    a_plugin_that_fails,
    a_plugin_that_hangs_is_killed_with_its_children,
    plugins_can_be_switched_off,
    a_stopped_server_refuses,
    leaves_in_good_order,
];

fn at(server: &ApiServer) -> Value {
    trusting(json!({"type": "kubernetes", "url": server.url()}))
}

fn with_token(server: &ApiServer, token: &str) -> Value {
    with(at(server), json!({"password": token}))
}

fn with_client(server: &ApiServer, client: &Certified) -> Value {
    with(
        at(server),
        json!({"clientCert": client.cert_pem, "clientKey": client.key_pem}),
    )
}

/// A definition that is a kubeconfig and nothing else.
fn by(kubeconfig: &str) -> Value {
    json!({"type": "kubernetes", "properties": {"kubeconfig": kubeconfig}})
}

/// One whose user is this.
fn by_user(server: &ApiServer, user: Value) -> Value {
    by(&server.kubeconfig(Rig::shared().pki(), &user))
}

/// A server of the test's own, whose records nobody else writes.
fn own(kind: ApiServerKind) -> ApiServer {
    ApiServer::start(kind, Rig::shared().pki()).unwrap()
}

fn shared(kind: ApiServerKind) -> Arc<ApiServer> {
    Rig::shared()
        .get(kind)
        .unwrap_or_else(|skipped| panic!("{skipped:?}"))
}

fn paths(server: &ApiServer) -> Vec<String> {
    let audited = server.audited().into_iter();
    audited
        .map(|line| format!("{} {} {}", line.method, line.path, line.status))
        .collect()
}

const USER: &str = "system:serviceaccount:monitoring:conncheck";

fn is_ready_and_knows_the_token() {
    let server = own(ApiServerKind::Main);
    let outcome = up(with_token(&server, ApiServer::TOKEN));
    assert_eq!(
        phases(&outcome),
        ["resolve", "connect", "tls", "auth", "request"]
    );
    assert_eq!(outcome.server.as_deref(), Some("Kubernetes v1.31.2"));
    assert_eq!(outcome.http_status, Some(200));
    let tls = outcome.tls.expect("recorded");
    assert!(tls.verified);
    let pki = Rig::shared().pki();
    assert_eq!(seconds(tls.earliest_expiry), Some(pki.server.not_after));
    assert_eq!(
        paths(&server),
        [
            "GET /readyz 200",
            "POST /apis/authentication.k8s.io/v1/selfsubjectreviews 201",
            "GET /version 200",
        ]
    );
    for line in server.audited() {
        assert_eq!(line.user, USER);
        assert!(line.user_agent.starts_with("conncheck/"), "{line:?}");
    }
    assert_eq!(server.accepted(), 1, "one connection");
    let intermediate = shared(ApiServerKind::Shows(Shown::Intermediate));
    up(with_token(&intermediate, ApiServer::TOKEN));
}

fn without_a_credential_its_readiness_is_all() {
    let server = own(ApiServerKind::Main);
    let outcome = up(at(&server));
    assert_eq!(phases(&outcome), ["resolve", "connect", "tls", "request"]);
    assert_eq!(paths(&server), ["GET /readyz 200", "GET /version 200"]);
    let outcome = down(at(&shared(ApiServerKind::Closed)), "auth", "request", "401");
    assert!(hint(&outcome).contains("give a token"), "{outcome:?}");
    up(with_token(&shared(ApiServerKind::Closed), ApiServer::TOKEN));
}

fn a_token_that_ends_is_told() {
    let server = shared(ApiServerKind::Main);
    let soon = jiff::Timestamp::now().as_second() + 3600;
    let outcome = up(with_token(&server, &ApiServer::jwt(soon)));
    assert_eq!(seconds(outcome.credential_expiry), Some(soon));
    let outcome = up(by_user(&server, json!({"token": ApiServer::jwt(soon)})));
    assert_eq!(seconds(outcome.credential_expiry), Some(soon));

    let outcome = down(
        with_token(&server, &ApiServer::jwt(soon - 7200)),
        "auth",
        "auth",
        "401",
    );
    assert_eq!(seconds(outcome.credential_expiry), Some(soon - 7200));
    assert!(
        hint(&outcome).starts_with("the token ended "),
        "{outcome:?}"
    );
}

fn a_client_certificate_is_a_user() {
    let server = own(ApiServerKind::Main);
    let pki = Rig::shared().pki();
    let (certificate, key) = (data(&pki.client.cert_pem), data(&pki.client.key_pem));
    let as_data = json!({"client-certificate-data": certificate, "client-key-data": key});
    let as_files =
        json!({"client-certificate": pki.client.cert_path, "client-key": pki.client.key_path});
    for spec in [
        with_client(&server, &pki.client),
        by_user(&server, as_data),
        by_user(&server, as_files),
    ] {
        let outcome = up(spec);
        assert_eq!(
            seconds(outcome.credential_expiry),
            Some(pki.client.not_after)
        );
        assert_eq!(server.audited().last().unwrap().user, "probe");
    }
    let outcome = down(
        with_client(&server, &pki.client_unknown_ca),
        "auth",
        "auth",
        "401",
    );
    assert!(hint(&outcome).contains("authority that the cluster has for clients"));
    let outcome = down(
        with_client(&server, &pki.client_expired),
        "auth",
        "auth",
        "401",
    );
    assert!(
        hint(&outcome).starts_with("the client certificate ended "),
        "{outcome:?}"
    );
}

fn a_password_is_taken_by_old_servers_only() {
    let old = shared(ApiServerKind::Old);
    let login = json!({"username": "probe", "password": PASSWORD});
    up(with(at(&old), login.clone()));
    up(by_user(&old, login.clone()));
    up(trusting(json!({
        "type": "kubernetes", "url": format!("https://probe:{PASSWORD}@localhost:{}", old.port()),
    })));
    let wrong = with(at(&old), json!({"username": "probe", "password": "wrong"}));
    down(wrong, "auth", "auth", "401");

    let outcome = down(
        with(at(&shared(ApiServerKind::Main)), login),
        "auth",
        "auth",
        "403",
    );
    assert_eq!(
        message(&outcome),
        "the server did not look at the username and password: to it we are `system:anonymous`"
    );
    assert!(hint(&outcome).contains("use a token"));
}

fn a_secret_s_key_is_a_kubeconfig_or_a_token() {
    let server = own(ApiServerKind::Main);
    let pki = Rig::shared().pki();
    let kubeconfig = server.kubeconfig(pki, &json!({"token": ApiServer::TOKEN}));
    let keyed = json!({"type": "kubernetes", "secretRef": {"name": "any", "key": "config"}});
    let whole = json!({"type": "kubernetes", "secretRef": {"name": "any"}});
    let url = json!({"url": server.url()});
    for (secret, spec) in [
        (vec![("config", kubeconfig.as_str())], keyed.clone()),
        (vec![("kubeconfig", kubeconfig.as_str())], whole.clone()),
        // As Cluster API and Argo CD keep it.
        (vec![("value", kubeconfig.as_str())], whole.clone()),
        (
            vec![("config", ApiServer::TOKEN)],
            trusting(with(keyed.clone(), url.clone())),
        ),
        // As a secret of the type `kubernetes.io/service-account-token`.
        (
            vec![
                ("token", ApiServer::TOKEN),
                ("ca.crt", &pki.ca.cert_pem),
                ("namespace", "x"),
            ],
            with(whole, url),
        ),
        (
            vec![("config", ApiServer::TOKEN)],
            trusting(with_properties(
                keyed,
                json!({"server": format!("localhost:{}", server.port())}),
            )),
        ),
    ] {
        let before = server.audited().len();
        let outcome = attempt_with_secret(&secret, &spec);
        assert_eq!(summary(&outcome), "up", "{spec}: {outcome:#?}");
        assert!(
            server.audited()[before..]
                .iter()
                .all(|line| line.user == USER)
        );
    }
}

fn a_kubeconfig_and_the_files_that_it_names() {
    let server = shared(ApiServerKind::Main);
    let pki = Rig::shared().pki();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("ca.crt"), &pki.ca.cert_pem).unwrap();
    fs::write(dir.path().join("token"), format!("{}\n", ApiServer::TOKEN)).unwrap();
    let cluster = json!({"server": server.url(), "certificate-authority": "ca.crt"});
    // The file wins over the token that stands there.
    let user = json!({"tokenFile": "token", "token": "old"});
    let file = dir.path().join("admin.conf");
    fs::write(&file, kubeconfig(&cluster, &user)).unwrap();
    up(by(file.to_str().unwrap()));
    let keyed = json!({"type": "kubernetes", "secretRef": {"name": "any", "key": "config"}});
    let outcome = attempt_with_secret(&[("config", file.to_str().unwrap())], &keyed);
    assert_eq!(summary(&outcome), "up");
}

fn a_context_of_several() {
    let (main, busy) = (shared(ApiServerKind::Main), shared(ApiServerKind::Busy));
    let authority = data(&Rig::shared().pki().ca.cert_pem);
    // As a person writes it.
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: busy\npreferences: {{colors: true}}\n\
         clusters:\n- name: one\n  cluster:\n    server: {}\n    certificate-authority-data: {authority}\n\
         - name: two\n  cluster:\n    server: {}\n    certificate-authority-data: {authority}\n\
         contexts:\n- name: main\n  context: {{cluster: one, user: me}}\n\
         - name: busy\n  context: {{cluster: two, user: me}}\n\
         users:\n- name: me\n  user:\n    token: {}\n",
        main.url(),
        busy.url(),
        ApiServer::TOKEN
    );
    down(by(&text), "unavailable", "request", "429");
    up(with_properties(by(&text), json!({"context": "main"})));
}

fn what_the_definition_says_wins_over_the_kubeconfig() {
    let (main, closed) = (own(ApiServerKind::Main), shared(ApiServerKind::Closed));
    let spec = by_user(&closed, json!({"token": "wrong"}));
    down(spec.clone(), "auth", "auth", "401");
    up(with(spec.clone(), json!({"password": ApiServer::TOKEN})));
    let pki = Rig::shared().pki();
    up(with(
        spec.clone(),
        json!({"clientCert": pki.client.cert_pem, "clientKey": pki.client.key_pem}),
    ));
    let elsewhere = with_properties(
        with(spec.clone(), json!({"password": ApiServer::TOKEN})),
        json!({"server": main.url()}),
    );
    up(elsewhere);
    assert_eq!(main.accepted(), 1);
    let ca = json!({"caCert": pki.other_ca.cert_pem});
    down(with(spec, ca), "tls_unknown_ca", "tls", "");
}

fn older_servers_are_asked_in_their_words() {
    let beta = own(ApiServerKind::Beta);
    let outcome = up(with_token(&beta, ApiServer::TOKEN));
    assert_eq!(outcome.server.as_deref(), Some("Kubernetes v1.27.16"));
    let review = "POST /apis/authentication.k8s.io";
    assert_eq!(
        paths(&beta)[1..3],
        [
            format!("{review}/v1/selfsubjectreviews 404"),
            format!("{review}/v1beta1/selfsubjectreviews 201"),
        ]
    );
    let old = own(ApiServerKind::Old);
    let outcome = up(with_token(&old, ApiServer::TOKEN));
    assert_eq!(outcome.server.as_deref(), Some("Kubernetes v1.15.12"));
    assert_eq!(
        paths(&old),
        [
            "GET /readyz 403".to_owned(),
            "GET /healthz 200".to_owned(),
            format!("{review}/v1/selfsubjectreviews 403"),
            "POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews 201".to_owned(),
            "GET /version 200".to_owned(),
        ]
    );
    // Who may do everything is told that there is no such thing.
    up(with_token(&old, ApiServer::ADMIN));
    down(with_token(&old, "wrong"), "auth", "auth", "401");
}

fn the_wrong_credential_is_auth_and_the_wrong_rights_are_permission() {
    let server = shared(ApiServerKind::Main);
    let outcome = down(with_token(&server, "wrong"), "auth", "auth", "401");
    assert_eq!(
        message(&outcome),
        "expected the credential to be taken, got 401 Unauthorized"
    );
    assert!(hint(&outcome).starts_with("the token is wrong, has expired or was revoked"));

    let outcome = down(
        with_token(&server, ApiServer::BLIND),
        "permission",
        "request",
        "403",
    );
    assert_eq!(
        message(&outcome),
        "expected `ok` from `/readyz`, got 403 Forbidden: forbidden: User \"blind\" cannot get path \"/readyz\""
    );
    assert!(hint(&outcome).contains("system:public-info-viewer"));

    let outcome = down(
        with_token(&server, ApiServer::OUTCAST),
        "permission",
        "auth",
        "403",
    );
    assert!(
        message(&outcome)
            .contains("User \"outcast\" cannot create resource \"selfsubjectaccessreviews\"")
    );
    assert!(hint(&outcome).contains("system:basic-user"));
}

fn somebody_who_is_nobody_after_all() {
    let behind = shared(ApiServerKind::Behind);
    let pki = Rig::shared().pki();
    let outcome = down(with_token(&behind, ApiServer::TOKEN), "auth", "auth", "403");
    assert!(hint(&outcome).contains("`Authorization`"));
    let outcome = down(with_client(&behind, &pki.client), "auth", "auth", "403");
    assert!(hint(&outcome).contains("ends TLS"));
}

fn not_ready_is_unavailable() {
    for (kind, code, words, way_out) in [
        (
            ApiServerKind::NoEtcd,
            "500",
            "the API server is not ready: its checks `etcd`, `etcd-readiness` failed",
            "its etcd does not answer it: look there first",
        ),
        (
            ApiServerKind::Starting,
            "500",
            "the API server is not ready: its checks `poststarthook/rbac/bootstrap-roles`, `poststarthook/scheduling/bootstrap-system-priority-classes` failed",
            "it is still starting up",
        ),
        (
            ApiServerKind::Busy,
            "429",
            "expected `ok` from `/readyz`, got 429 Too Many Requests",
            "it says to come back in 1 s",
        ),
    ] {
        let server = shared(kind);
        let outcome = down(
            with_token(&server, ApiServer::TOKEN),
            "unavailable",
            "request",
            code,
        );
        assert_eq!((message(&outcome), hint(&outcome)), (words, way_out));
        assert_eq!(outcome.http_status, code.parse().ok());
    }
}

fn what_is_no_api_server_is_a_protocol_error() {
    let page = shared(ApiServerKind::LoginPage);
    let outcome = down(
        with_token(&page, ApiServer::TOKEN),
        "protocol",
        "request",
        "200",
    );
    assert_eq!(
        message(&outcome),
        "expected `ok` from `/readyz`, got 51 bytes of text/html"
    );
    let nginx = need!(Rig::shared().nginx());
    let spec = trusting(json!({"type": "k8s", "url": nginx.https_url(""), "password": "x"}));
    let outcome = down(spec, "protocol", "request", "404");
    assert!(hint(&outcome).contains("path"), "{outcome:?}");
}

fn every_fault_of_a_certificate() {
    let specs = |server: &ApiServer| {
        [
            with_token(server, ApiServer::TOKEN),
            by_user(server, json!({"token": ApiServer::TOKEN})),
        ]
    };
    refuses_every_fault(ApiServerKind::Shows, specs);
    for (shown, _) in FAULTS {
        let server = shared(ApiServerKind::Shows(shown));
        for spec in specs(&server) {
            let outcome = up(with(spec, json!({"insecureSkipVerify": true})));
            assert!(!outcome.tls.expect("recorded").verified);
        }
        let cluster = json!({"server": server.url(), "insecure-skip-tls-verify": true});
        up(by(&kubeconfig(
            &cluster,
            &json!({"token": ApiServer::TOKEN}),
        )));
    }
}

fn the_server_name_may_be_another() {
    let server = shared(ApiServerKind::Shows(Shown::WrongName));
    let spec = with_token(&server, ApiServer::TOKEN);
    up(with_properties(
        spec,
        json!({"serverName": "elsewhere.test"}),
    ));
    let authority = data(&Rig::shared().pki().ca.cert_pem);
    let cluster = json!({
        "server": server.url(), "certificate-authority-data": authority,
        "tls-server-name": "elsewhere.test",
    });
    up(by(&kubeconfig(
        &cluster,
        &json!({"token": ApiServer::TOKEN}),
    )));
}

fn plain_http_to_the_tls_port() {
    let server = shared(ApiServerKind::Main);
    let url = format!("http://localhost:{}", server.port());
    let spec = json!({"type": "kubernetes", "url": url, "password": "x"});
    let outcome = down(spec, "protocol", "request", "400");
    assert!(hint(&outcome).contains("https://"), "{outcome:?}");
}

fn impersonation_is_honoured() {
    let server = own(ApiServerKind::Main);
    let user = json!({"token": ApiServer::ADMIN, "as": "jane", "as-groups": ["ops", "dev"]});
    up(by_user(&server, user));
    let line = server.audited().pop().unwrap();
    assert_eq!(
        (line.user.as_str(), line.groups),
        ("jane", vec!["ops".to_owned(), "dev".to_owned()])
    );
    let user = json!({"token": ApiServer::TOKEN, "as": "jane"});
    let outcome = down(by_user(&server, user), "permission", "auth", "403");
    assert!(message(&outcome).contains("cannot impersonate"));
    assert!(hint(&outcome).contains("impersonate"));
}

/// Whose port it was, nobody else gets it.
fn stopped(server: ApiServer) -> Refused {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, server.port()));
    drop(server);
    refused_on(addr).unwrap()
}

fn through(server: &ApiServer, proxy: &str) -> Value {
    let authority = data(&Rig::shared().pki().ca.cert_pem);
    let cluster = json!({
        "server": server.url(), "certificate-authority-data": authority, "proxy-url": proxy,
    });
    by(&kubeconfig(&cluster, &json!({"token": ApiServer::TOKEN})))
}

fn a_proxy_opens_the_tunnel() {
    let server = own(ApiServerKind::Main);
    let open = TunnelProxy::start().unwrap();
    let outcome = up(through(
        &server,
        &format!("http://localhost:{}", open.port()),
    ));
    assert!(outcome.tls.unwrap().verified);
    assert_eq!(open.asked(), [format!("localhost:{}", server.port())]);
    let closed = TunnelProxy::with_login("me", "s3cret").unwrap();
    up(through(
        &server,
        &format!("http://me:s3cret@127.0.0.1:{}", closed.port()),
    ));
    assert!(server.everybody_left(PATIENCE));
    assert_eq!(server.complaints(), [""; 0]);
}

fn a_proxy_that_does_not() {
    let server = own(ApiServerKind::Main);
    let closed = TunnelProxy::with_login("me", "s3cret").unwrap();
    let url = format!("http://127.0.0.1:{}", closed.port());
    let outcome = down(through(&server, &url), "auth", "connect", "407");
    assert!(
        message(&outcome).starts_with(&format!("`{url}`: ")),
        "{outcome:?}"
    );

    let nobody = conncheck_rig::faults::refused().unwrap();
    let url = format!("http://{}", nobody.addr());
    let outcome = down(through(&server, &url), "connect_refused", "connect", "");
    assert!(
        message(&outcome).starts_with(&format!("`{url}`: ")),
        "{outcome:?}"
    );

    let open = TunnelProxy::start().unwrap();
    let url = format!("http://127.0.0.1:{}", open.port());
    let gone = through(&server, &url);
    let _nobody = stopped(server);
    down(gone, "unavailable", "connect", "502");

    let silent = conncheck_rig::Peer::silent().unwrap();
    let main = shared(ApiServerKind::Main);
    let outcome = attempt_within(SHORT, &through(&main, &format!("http://{}", silent.addr())));
    assert_down(&outcome, "timeout", "connect", "");
    assert!(
        message(&outcome).starts_with("the proxy opened no tunnel"),
        "{outcome:?}"
    );
    assert!(silent.everybody_left(PATIENCE));
    let nonsense = conncheck_rig::Peer::nonsense().unwrap();
    let through_nonsense = through(&main, &format!("http://{}", nonsense.addr()));
    down(through_nonsense, "protocol", "connect", "");
}

/// A machine that is a pod of that cluster.
struct Pod<'a> {
    server: &'a ApiServer,
    token: String,
}

impl Files for Pod<'_> {
    fn read(&self, path: &str) -> Result<Secret, String> {
        match path {
            "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt" => {
                Ok(Secret::new(&*Rig::shared().pki().ca.cert_pem))
            }
            "/var/run/secrets/kubernetes.io/serviceaccount/token" => Ok(Secret::new(&*self.token)),
            path => Err(format!("`{path}` does not exist")),
        }
    }

    fn variable(&self, name: &str) -> Option<String> {
        match name {
            "KUBERNETES_SERVICE_HOST" => Some("127.0.0.1".to_owned()),
            "KUBERNETES_SERVICE_PORT" => Some(self.server.port().to_string()),
            _ => None,
        }
    }
}

fn in_a_pod_as_its_service_account() {
    let server = own(ApiServerKind::Main);
    let expires = jiff::Timestamp::now().as_second() + 3600;
    let pod = Pod {
        server: &server,
        token: ApiServer::jwt(expires),
    };
    let spec = json!({"type": "kubernetes", "properties": {"inCluster": true}});
    let probe = probe_on(&pod, &Documents::default(), &spec);
    assert_eq!(
        probe.endpoint(),
        format!("https://127.0.0.1:{}", server.port())
    );
    let outcome = run(TIMEOUT, &ResolverChoice::Auto, &probe);
    assert!(outcome.is_up(), "{outcome:#?}");
    assert_eq!(seconds(outcome.credential_expiry), Some(expires));
    assert_eq!(server.audited().last().unwrap().user, USER);
}

/// An exec plugin: a shell script in a folder of its own.
struct Plugin {
    dir: TempDir,
}

impl Plugin {
    fn new(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("rig-plugin");
        let text = format!("#!/bin/sh\ncd {}\n{script}\n", dir.path().display());
        // Not by us: a process that some other thread starts meanwhile would hold it open for writing,
        // and what is open for writing cannot be run.
        let written = Command::new("sh")
            .args(["-c", "printf %s \"$1\" >\"$0\" && chmod 755 \"$0\""])
            .args([file.as_os_str(), text.as_ref()])
            .status()
            .unwrap();
        assert!(written.success());
        Self { dir }
    }

    /// One that gives this, and counts how often it was run.
    fn giving(status: &Value) -> Self {
        let plugin = Self::new("echo . >>runs; cat credential.json");
        plugin.gives(status);
        plugin
    }

    fn gives(&self, status: &Value) {
        let credential = json!({
            "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status,
        });
        fs::write(self.file("credential.json"), credential.to_string()).unwrap();
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap_or_default()
    }

    fn runs(&self) -> usize {
        self.read("runs").lines().count()
    }

    fn user(&self) -> Value {
        json!({"exec": {
            "apiVersion": "client.authentication.k8s.io/v1", "command": self.file("rig-plugin"),
            "interactiveMode": "Never",
        }})
    }
}

fn an_exec_plugin_gives_a_token() {
    let server = shared(ApiServerKind::Main);
    let expires = jiff::Timestamp::now().as_second() + 3600;
    let plugin = Plugin::giving(&json!({
        "token": ApiServer::TOKEN,
        "expirationTimestamp": jiff::Timestamp::from_second(expires).unwrap().to_string(),
    }));
    let outcome = up(by_user(&server, plugin.user()));
    assert_eq!(
        phases(&outcome),
        ["resolve", "connect", "tls", "auth", "request"]
    );
    assert_eq!(seconds(outcome.credential_expiry), Some(expires));

    // By its name, relative to the kubeconfig, as YAML, and in the older version.
    let plugin = Plugin::new(
        "printf 'apiVersion: client.authentication.k8s.io/v1beta1\\nkind: ExecCredential\\nstatus:\\n  token: %s\\n' \"$GIVEN$1\"",
    );
    let (first, second) = ApiServer::TOKEN.split_at(5);
    let user = json!({"exec": {
        "apiVersion": "client.authentication.k8s.io/v1beta1", "command": "./rig-plugin",
        "args": [second], "env": [{"name": "GIVEN", "value": first}],
    }});
    let file = plugin.file("kubeconfig");
    fs::write(&file, server.kubeconfig(Rig::shared().pki(), &user)).unwrap();
    up(by(file.to_str().unwrap()));
}

fn an_exec_plugin_gives_a_client_certificate() {
    let server = own(ApiServerKind::Main);
    let client = &Rig::shared().pki().client;
    let plugin = Plugin::giving(&json!({
        "clientCertificateData": client.cert_pem, "clientKeyData": client.key_pem,
    }));
    let outcome = up(by_user(&server, plugin.user()));
    assert_eq!(seconds(outcome.credential_expiry), Some(client.not_after));
    assert_eq!(server.audited().last().unwrap().user, "probe");
}

fn an_exec_plugin_is_told_of_the_cluster() {
    let server = shared(ApiServerKind::Main);
    let plugin = Plugin::new(&format!(
        "printf %s \"$KUBERNETES_EXEC_INFO\" >info; echo '{}'",
        json!({
            "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
            "status": {"token": ApiServer::TOKEN},
        })
    ));
    let info = || serde_json::from_str::<Value>(&plugin.read("info")).unwrap();
    up(by_user(&server, plugin.user()));
    let bare = json!({
        "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
        "spec": {"interactive": false},
    });
    assert_eq!(info(), bare);

    let pki = Rig::shared().pki();
    let cluster = json!({
        "server": server.url(), "certificate-authority": pki.ca.cert_path,
        "extensions": [{"name": "client.authentication.k8s.io/exec", "extension": {"audience": "x", "n": 1}}],
    });
    let user = with(plugin.user(), json!({"exec": {"provideClusterInfo": true}}));
    up(by(&kubeconfig(&cluster, &user)));
    let told = json!({
        "server": server.url(), "certificate-authority-data": data(&pki.ca.cert_pem),
        "config": {"audience": "x", "n": 1},
    });
    assert_eq!(
        info()["spec"],
        json!({"interactive": false, "cluster": told})
    );
}

fn again(probe: &Arc<dyn Probe>) -> Outcome {
    run(TIMEOUT, &ResolverChoice::Auto, probe)
}

fn what_a_plugin_gave_is_kept_until_it_expires_or_is_refused() {
    let server = shared(ApiServerKind::Main);
    let in_time = |time: Duration| (jiff::Timestamp::now() + time).to_string();
    let plugin = Plugin::giving(&json!({
        "token": ApiServer::TOKEN, "expirationTimestamp": in_time(Duration::from_secs(3600)),
    }));
    let probe = probe(&by_user(&server, plugin.user()));
    for _ in 0..3 {
        assert_eq!(summary(&again(&probe)), "up");
    }
    assert_eq!(plugin.runs(), 1);

    // Expired at once, and so run each time.
    let short = Plugin::giving(&json!({
        "token": ApiServer::TOKEN, "expirationTimestamp": in_time(Duration::ZERO),
    }));
    let probe = crate::check::probe(&by_user(&server, short.user()));
    for runs in 1..3 {
        assert_eq!(summary(&again(&probe)), "up");
        assert_eq!(short.runs(), runs);
    }

    // Without a time, until it is refused.
    let revoked = Plugin::giving(&json!({"token": "revoked"}));
    let probe = crate::check::probe(&by_user(&server, revoked.user()));
    let outcome = again(&probe);
    assert_eq!(summary(&outcome), "auth auth 401");
    assert!(
        hint(&outcome).contains("the exec plugin `rig-plugin` gave it"),
        "{outcome:?}"
    );
    revoked.gives(&json!({"token": ApiServer::TOKEN}));
    assert_eq!(summary(&again(&probe)), "up");
    assert_eq!(summary(&again(&probe)), "up");
    assert_eq!(revoked.runs(), 2);
}

fn a_plugin_that_fails() {
    let server = own(ApiServerKind::Main);
    let ask = |script: &str| {
        let plugin = Plugin::new(script);
        attempt(&by_user(&server, plugin.user()))
    };
    let outcome =
        ask("echo 'some progress' >&2; echo 'token refresh failed: login again' >&2; exit 1");
    assert_eq!(summary(&outcome), "auth auth exit 1");
    assert_eq!(phases(&outcome), ["auth"]);
    assert_eq!(
        message(&outcome),
        "the program `rig-plugin` failed (exit 1): token refresh failed: login again"
    );
    for (script, what) in [
        ("", "ended well, and wrote no credential"),
        ("echo Success", "wrote what is not an `ExecCredential`"),
        (
            "echo '{\"apiVersion\": \"v1\", \"kind\": \"Pod\"}'",
            "wrote what is not an `ExecCredential`",
        ),
        (
            "echo '{\"apiVersion\": \"client.authentication.k8s.io/v1\", \"kind\": \"ExecCredential\"}'",
            "wrote a credential without `status`",
        ),
        (
            "echo '{\"apiVersion\": \"client.authentication.k8s.io/v1\", \"kind\": \"ExecCredential\", \"status\": {}}'",
            "gave neither a token nor a client certificate",
        ),
    ] {
        let outcome = ask(script);
        assert_eq!(summary(&outcome), "protocol auth -");
        assert_eq!(
            message(&outcome),
            format!("the exec plugin `rig-plugin` {what}")
        );
    }
    let user = json!({"exec": {
        "apiVersion": "client.authentication.k8s.io/v1", "command": "no-such-plugin",
    }});
    let outcome = attempt(&by_user(&server, user));
    assert_eq!(summary(&outcome), "secret auth -");
    assert_eq!(
        message(&outcome),
        "the program `no-such-plugin` is not there"
    );
    assert_eq!(server.accepted(), 0, "without a credential nobody is asked");
}

fn lives(pid: &str) -> bool {
    fs::read_to_string(Path::new("/proc").join(pid).join("stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .starts_with(" Z")
    })
}

fn a_plugin_that_hangs_is_killed_with_its_children() {
    let server = own(ApiServerKind::Main);
    let plugin = Plugin::new("sleep 600 & echo $$ $! >pids; wait");
    let outcome = attempt_within(LONGER, &by_user(&server, plugin.user()));
    assert_down(&outcome, "timeout", "auth", "");
    assert_eq!(
        message(&outcome),
        "the program `rig-plugin` did not end within 3s"
    );
    assert!(hint(&outcome).contains("run it by hand"), "{outcome:?}");
    let pids = plugin.read("pids");
    assert_eq!(pids.split_whitespace().count(), 2);
    for pid in pids.split_whitespace() {
        assert!(soon(|| !lives(pid)), "{pid} lives on");
    }
}

fn plugins_can_be_switched_off() {
    let server = shared(ApiServerKind::Main);
    let plugin = Plugin::giving(&json!({"token": ApiServer::TOKEN}));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.yaml");
    write(
        &file,
        &[document("cluster", by_user(&server, plugin.user()))],
    );
    let file = file.to_str().unwrap();
    let output = conncheck(&["--check-once", file]).output().unwrap();
    assert_eq!(code(&output), 0, "{}", text(&output.stdout));
    assert_eq!(plugin.runs(), 1);
    let settings = dir.path().join("conncheck.yml");
    fs::write(&settings, "execPlugins: false\n").unwrap();
    let in_settings = ["--check-once", "--config", settings.to_str().unwrap(), file];
    let in_flag = ["--check-once", "--no-exec-plugins", file];
    for (args, variable) in [
        (&in_flag[..], "false"),
        (&in_settings[..], "false"),
        (&["--check-once", file], "true"),
    ] {
        let mut command = conncheck(args);
        command.env("CONNCHECK_NO_EXEC_PLUGINS", variable);
        let output = command.output().unwrap();
        let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
        assert_eq!(code(&output), 2, "{said}");
        assert!(
            said.contains("`--no-exec-plugins` says to run none"),
            "{said}"
        );
        assert_eq!(plugin.runs(), 1);
    }
}

fn a_stopped_server_refuses() {
    let server = own(ApiServerKind::Main);
    let spec = with_token(&server, ApiServer::TOKEN);
    up(spec.clone());
    let _nobody = stopped(server);
    down(spec, "connect_refused", "connect", "");
}

fn leaves_in_good_order() {
    let server = own(ApiServerKind::Main);
    let pki = Rig::shared().pki();
    for _ in 0..10 {
        up(with_token(&server, ApiServer::TOKEN));
        up(with_client(&server, &pki.client));
        up(at(&server));
        attempt(&with_token(&server, "wrong"));
        attempt(&with_token(&server, ApiServer::BLIND));
    }
    assert!(server.everybody_left(PATIENCE));
    assert_eq!(server.complaints(), [""; 0]);
    assert_eq!(server.accepted(), 50);
}
