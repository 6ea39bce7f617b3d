//! `kubernetes`: the API server is ready, and knows who we are.
//!
//! Proves that `/readyz` answers `ok` (before 1.16 `/healthz`), and that
//! the credential is taken: a `SelfSubjectReview` says whom the server sees in us. Servers before 1.27
//! have none; there a `SelfSubjectAccessReview` is answered to whoever has logged in. To be taken for
//! `system:anonymous` although a credential was sent is a refusal. Without any credential `/readyz` is
//! all that is proved. Then the server's version is asked for, which may be refused without harm.
//!
//! Says nothing about nodes and workloads, nor about what the credential is allowed to do.
//!
//! All of it goes over one connection. `/readyz` and `/version` are part of `request`; running an exec
//! plugin and asking who we are is `auth`, which on this type comes after the first `request`: an API
//! server says that it is not ready before it can know anybody. Who we are is not reported: the name
//! may come from a secret.

mod exec;
mod kubeconfig;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use conncheck_config::{Field, Secret, SecretKey};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use jiff::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use schemars::JsonSchema;
use serde::Deserialize;
use url::Url;

use crate::attempt::Attempt;
use crate::cause::Cause;
use crate::http::{Client, Conversation, Proxy, Request, Response, endpoint_of, shown, target};
use crate::login::{TOKEN, basic, bearer, encoded, expiry_of, has_ended, sendable};
use crate::outcome::{Failure, Phase, Reason};
use crate::probe::{Access, Invalid, ProbeType};
use crate::tls::{Tls, TlsMistake, TlsOptions, TlsPart, Verify};

use self::exec::Plugin;
use self::kubeconfig::{Kubeconfig, Mistake, User, decoded};

/// Where a pod finds what it needs to talk to its own cluster.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// `value` is what Cluster API calls it.
const KUBECONFIG: SecretKey = SecretKey(&["kubeconfig", "config", "value"]);

/// `spec.properties` of a Kubernetes connection.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Settings {
    /// The API server, in place of the one that the kubeconfig names; the same as `url`.
    server: Option<String>,
    /// A kubeconfig: its text, or its absolute path. The secret's `key` is one as well.
    kubeconfig: Option<Secret>,
    /// The context of the kubeconfig to use, in place of its `current-context`.
    context: Option<String>,
    /// Whether to talk to the cluster that conncheck runs in, as the service account of its pod.
    in_cluster: bool,
    /// Accept any certificate.
    insecure_skip_verify: Option<bool>,
    /// The name that the certificate must be for, in place of the server's host.
    server_name: Option<String>,
}

pub(crate) struct Kubernetes {
    /// Nothing while a secret is missing that would tell where it is.
    site: Option<Site>,
    secrets: Vec<Secret>,
}

/// An API server, and who we are there.
struct Site {
    /// Where its paths begin, without a slash at the end.
    server: Url,
    source: Source,
    /// As whom we ask, if not as ourselves.
    impersonation: HeaderMap,
}

/// Where the credential comes from.
enum Source {
    Fixed(Arc<Login>),
    Plugin(Box<PluginSource>),
}

struct PluginSource {
    plugin: Plugin,
    options: TlsOptions,
    proxy: Option<Proxy>,
}

/// What is sent with each request, and over what.
struct Login {
    client: Client,
    headers: HeaderMap,
    proof: Proof,
    expiry: Option<Timestamp>,
}

/// What says who we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    Nothing,
    Token,
    Basic,
    Certificate,
}

impl ProbeType for Kubernetes {
    type Settings = Settings;

    const FURTHER_REASONS: &'static [Reason] = &[Reason::Permission, Reason::HttpStatus];

    const SECRET_KEYS: &'static [SecretKey] = &[KUBECONFIG, TOKEN];

    fn new(access: Access<'_>, settings: Settings) -> Result<Self, Invalid> {
        Definition::read(access, settings)?.build()
    }

    fn endpoint(&self) -> String {
        let server = self.site.as_ref().map(|site| &site.server);
        server.map(endpoint_of).unwrap_or_default()
    }

    fn secrets(&self) -> &[Secret] {
        &self.secrets
    }

    async fn probe(&self, attempt: &mut Attempt) -> Result<(), Failure> {
        let Some(site) = &self.site else {
            let cause = Cause::new(Reason::Internal, "it is not known where the API server is");
            return Err(cause.in_phase(Phase::Resolve));
        };
        let login = site.log_in(attempt).await?;
        let res = site.ask(attempt, &login).await;
        if let (Source::Plugin(source), Err(failure)) = (&site.source, &res)
            && matches!(failure.reason, Reason::Auth | Reason::TlsOther)
        {
            source.plugin.forget();
        }
        res
    }
}

impl Site {
    async fn log_in(&self, attempt: &mut Attempt) -> Result<Arc<Login>, Failure> {
        let login = match &self.source {
            Source::Fixed(login) => Arc::clone(login),
            Source::Plugin(source) => Arc::new(source.log_in(attempt, &self.server).await?),
        };
        if let Some(expiry) = login.expiry {
            attempt.credential_expires(expiry);
        }
        Ok(login)
    }

    async fn ask(&self, attempt: &mut Attempt, login: &Login) -> Result<(), Failure> {
        let mut api = login.client.conversation();
        let readiness = self.is_ready(attempt, &mut api, login).await?;
        if login.proof != Proof::Nothing {
            self.who_am_i(attempt, &mut api, login).await?;
        }
        // It may have kept its readiness from us, whom it knows.
        readiness?;
        // That it does not tell its version is no reason to be down, nor to wait.
        attempt.settle(Ok(()));
        attempt.limit(Some(Duration::from_secs(1)));
        if self.version(attempt, &mut api, login).await.is_ok() {
            api.end().await;
        }
        Ok(())
    }

    /// Whether it is ready. The inner failure is that it would not say so: who we are comes first then.
    async fn is_ready(
        &self,
        attempt: &mut Attempt,
        api: &mut Conversation<'_>,
        login: &Login,
    ) -> Result<Result<(), Failure>, Failure> {
        let request = self.request(login, Method::GET, "/readyz", "");
        let mut path = "/readyz";
        let mut response = api.ask(attempt, Phase::Request, &request).await?;
        // Servers before 1.16 do not have it, and tell most users that they may not see it.
        if is_hidden(response.status) {
            let request = self.request(login, Method::GET, "/healthz", "");
            let older = api.ask(attempt, Phase::Request, &request).await?;
            if !is_hidden(older.status) {
                (path, response) = ("/healthz", older);
            }
        }
        let verdict = self
            .judge_readiness(path, &response, login)
            .map_err(|cause| cause.in_phase(Phase::Request));
        if is_refusal(response.status) {
            return Ok(verdict);
        }
        verdict?;
        response.whole()?;
        Ok(Ok(()))
    }

    fn judge_readiness(&self, path: &str, response: &Response, login: &Login) -> Result<(), Cause> {
        let text = response.text();
        let failing = failing_checks(&text);
        let expected = format!("`ok` from `{path}`");
        match response.status {
            StatusCode::OK if is_ok(&text) => Ok(()),
            StatusCode::OK => Err(Cause::protocol(format!(
                "expected {expected}, got {}",
                response.describe()
            ))
            .code("200")
            .hint("is it an API server? a login page or a dashboard may answer there")),
            StatusCode::INTERNAL_SERVER_ERROR if !failing.is_empty() => Err(not_ready(&failing)),
            StatusCode::NOT_FOUND => Err(Cause::protocol(
                "expected an API server, which has `/readyz` or `/healthz`, got 404 Not Found",
            )
            .code("404")
            .hint("is the path of the server's URL right?")),
            StatusCode::UNAUTHORIZED => Err(self.not_known(response, login)),
            StatusCode::FORBIDDEN => Err(unexpected(response, &expected).hint(
                "bind the credential to the ClusterRole `system:public-info-viewer`, which allows `get` on `/readyz`",
            )),
            _ => Err(unexpected(response, &expected)),
        }
    }

    async fn who_am_i(
        &self,
        attempt: &mut Attempt,
        api: &mut Conversation<'_>,
        login: &Login,
    ) -> Result<(), Failure> {
        let mut refused = None;
        for review in &REVIEWS {
            // What one version refuses the others do, but not what asks for access.
            if refused.is_some() && review.kind == SUBJECT {
                continue;
            }
            let request = self.request(login, Method::POST, review.path, review.body);
            let response = api.ask(attempt, Phase::Auth, &request).await?;
            match response.status {
                StatusCode::NOT_FOUND => continue,
                // A server that does not know the question says to most users that they may not ask.
                StatusCode::FORBIDDEN
                    if review.kind == SUBJECT && !status_of(&response).is_about_anonymous() =>
                {
                    refused = Some(response);
                    continue;
                }
                _ => {}
            }
            self.judge_review(&response, login)
                .map_err(|cause| cause.in_phase(Phase::Auth))?;
            return response.whole();
        }
        if let Some(response) = refused {
            return self
                .judge_review(&response, login)
                .map_err(|cause| cause.in_phase(Phase::Auth));
        }
        let cause = Cause::protocol("it has neither `SelfSubjectReview` nor `SelfSubjectAccessReview`: expected an API server")
            .code("404")
            .hint("is the path of the server's URL right?");
        Err(cause.in_phase(Phase::Auth))
    }

    fn judge_review(&self, response: &Response, login: &Login) -> Result<(), Cause> {
        let expected = "to be told who we are (`SelfSubjectReview`)";
        match response.status {
            StatusCode::OK | StatusCode::CREATED => {
                let review: Review = response.json()?;
                if !REVIEWS.iter().any(|known| known.kind == review.kind) {
                    return Err(Cause::protocol(format!(
                        "expected {expected}, got {} of another kind",
                        response.describe()
                    ))
                    .code(response.status.as_str()));
                }
                match review.status.user_info.username.as_deref() {
                    Some(ANONYMOUS) if self.impersonation.is_empty() => {
                        Err(self.not_looked_at(response, login))
                    }
                    // What asks for access answers only to who has logged in.
                    None if review.kind == SUBJECT => Err(Cause::protocol(format!(
                        "expected {expected}, got a review without a user"
                    ))
                    .code(response.status.as_str())),
                    _ => Ok(()),
                }
            }
            StatusCode::UNAUTHORIZED => Err(self.not_known(response, login)),
            StatusCode::FORBIDDEN => {
                let status = status_of(response);
                if status.is_about_anonymous() && self.impersonation.is_empty() {
                    return Err(self.not_looked_at(response, login));
                }
                Err(unexpected(response, expected).hint(match self.impersonation.is_empty() {
                    true => "bind the credential to the ClusterRole `system:basic-user`, which every user has by default",
                    false => "allow the credential the verb `impersonate` on whom the kubeconfig names with `as`",
                }))
            }
            _ => Err(unexpected(response, expected)),
        }
    }

    /// It asks for the version, where that is told to us.
    async fn version(
        &self,
        attempt: &mut Attempt,
        api: &mut Conversation<'_>,
        login: &Login,
    ) -> Result<(), Failure> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Version {
            git_version: String,
        }
        let request = self.request(login, Method::GET, "/version", "");
        let response = api.ask(attempt, Phase::Request, &request).await?;
        // That of `/readyz` is the one that counts.
        attempt.http_status(StatusCode::OK.as_u16());
        if response.status == StatusCode::OK
            && let Ok(version) = response.json::<Version>()
        {
            attempt.server(format!("Kubernetes {}", version.git_version));
        }
        Ok(())
    }

    fn request(&self, login: &Login, method: Method, path: &str, body: &'static str) -> Request {
        let mut url = self.server.clone();
        url.set_path(&format!("{}{path}", url.path().trim_end_matches('/')));
        let mut headers = login.headers.clone();
        headers.extend(self.impersonation.clone());
        if !body.is_empty() {
            let json = HeaderValue::from_static("application/json");
            headers.insert(header::CONTENT_TYPE, json.clone());
            headers.insert(header::ACCEPT, json);
        }
        Request {
            method,
            url,
            headers,
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    /// 401.
    fn not_known(&self, response: &Response, login: &Login) -> Cause {
        if login.proof == Proof::Nothing {
            return unexpected(response, "an answer without a credential").hint(
                "it answers nobody whom it does not know: give a token (`password`), a client certificate or a kubeconfig",
            );
        }
        let cause = unexpected(response, "the credential to be taken");
        if let Some(expiry) = login.expiry.filter(|expiry| *expiry < Timestamp::now()) {
            return cause.hint(format!("{} ended {expiry}: renew it", login.proof.name()));
        }
        if let Source::Plugin(source) = &self.source {
            return cause.hint(format!(
                "the exec plugin `{}` gave it: is it for this cluster, and is its user known there? the next attempt gets another one",
                source.plugin.name()
            ));
        }
        cause.hint(match login.proof {
            Proof::Certificate => {
                "the client certificate is not signed by the authority that the cluster has for clients, or has expired"
            }
            Proof::Basic => {
                "wrong username or password, or a server since Kubernetes 1.19, which takes none: use a token"
            }
            Proof::Token | Proof::Nothing => {
                "the token is wrong, has expired or was revoked (its service account deleted), or is for another cluster"
            }
        })
    }

    /// A credential was sent, and we are still nobody.
    fn not_looked_at(&self, response: &Response, login: &Login) -> Cause {
        let cause = Cause::new(
            Reason::Auth,
            format!(
                "the server did not look at {}: to it we are `{ANONYMOUS}`",
                login.proof.name()
            ),
        )
        .code(response.status.as_str());
        cause.hint(match login.proof {
            Proof::Certificate => {
                "is there a proxy or load balancer in between that ends TLS? it does not hand the client certificate on"
            }
            Proof::Basic => "Kubernetes has removed basic authentication (1.19): use a token",
            Proof::Token | Proof::Nothing => "does a proxy in between take the header `Authorization` away?",
        })
    }
}

impl Proof {
    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Token => "the token",
            Self::Basic => "the username and password",
            Self::Certificate => "the client certificate",
        }
    }
}

impl PluginSource {
    async fn log_in(&self, attempt: &mut Attempt, server: &Url) -> Result<Login, Failure> {
        let granted = self.plugin.credential(attempt).await?;
        let wrong = |what: &str| {
            Cause::protocol(format!(
                "the exec plugin `{}` gave {what}",
                self.plugin.name()
            ))
            .in_phase(Phase::Auth)
        };
        let mut options = self.options.clone();
        let mut headers = HeaderMap::new();
        let mut proof = Proof::Certificate;
        if let Some((certificate, key)) = &granted.client {
            attempt.keeps_secret(key);
            options.client_cert = Some(certificate.clone());
            options.client_key = Some(key.clone());
        }
        if let Some(token) = &granted.token {
            attempt.keeps_secret(token);
            let value = bearer(token)
                .map_err(|_| wrong("a token with characters that no header may have"))?;
            headers.insert(header::AUTHORIZATION, value);
            proof = Proof::Token;
        }
        let tls = Tls::new(&options).map_err(|mistake| {
            wrong(&format!(
                "a client certificate of no use: {}",
                mistake.message
            ))
        })?;
        let expiry = [granted.expiry, tls.client_certificate_expiry()];
        let expiry = expiry.into_iter().flatten().min();
        if has_ended(expiry).is_some() {
            // It was kept too long: the next attempt gets another one.
            self.plugin.forget();
        }
        Ok(Login {
            client: Client::for_home(server, tls, self.proxy.clone()),
            headers,
            proof,
            expiry,
        })
    }
}

const ANONYMOUS: &str = "system:anonymous";
const SUBJECT: &str = "SelfSubjectReview";

/// A question about ourselves.
struct Question {
    kind: &'static str,
    path: &'static str,
    body: &'static str,
}

/// The newest first. Nothing of it is stored.
const REVIEWS: [Question; 4] = [
    Question {
        kind: SUBJECT,
        path: "/apis/authentication.k8s.io/v1/selfsubjectreviews",
        body: r#"{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}"#,
    },
    Question {
        kind: SUBJECT,
        path: "/apis/authentication.k8s.io/v1beta1/selfsubjectreviews",
        body: r#"{"apiVersion":"authentication.k8s.io/v1beta1","kind":"SelfSubjectReview"}"#,
    },
    Question {
        kind: SUBJECT,
        path: "/apis/authentication.k8s.io/v1alpha1/selfsubjectreviews",
        body: r#"{"apiVersion":"authentication.k8s.io/v1alpha1","kind":"SelfSubjectReview"}"#,
    },
    Question {
        kind: "SelfSubjectAccessReview",
        path: "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        body: r#"{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview","spec":{"nonResourceAttributes":{"path":"/readyz","verb":"get"}}}"#,
    },
];

#[derive(Deserialize)]
struct Review {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    status: ReviewStatus,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ReviewStatus {
    user_info: UserInfo,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct UserInfo {
    username: Option<String>,
}

/// What an API server says of an error.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    kind: String,
    message: String,
}

impl Status {
    fn is_about_anonymous(&self) -> bool {
        self.message.contains(&format!("\"{ANONYMOUS}\""))
    }
}

/// Empty if it is no API server's.
fn status_of(response: &Response) -> Status {
    let status = response.json::<Status>().ok();
    status
        .filter(|status| status.kind == "Status")
        .unwrap_or_default()
}

/// What it means that this came, with the words of the server.
fn unexpected(response: &Response, expected: &str) -> Cause {
    let cause = response.unexpected(expected);
    let status = status_of(response);
    let words = status.message.trim();
    if words.is_empty() || shown(response.status).ends_with(words) {
        return cause;
    }
    Cause {
        message: format!("{}: {words}", cause.message),
        ..cause
    }
}

fn is_hidden(status: StatusCode) -> bool {
    matches!(status, StatusCode::FORBIDDEN | StatusCode::NOT_FOUND)
}

fn is_refusal(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

/// `ok`, or with `?verbose` a list that ends well.
fn is_ok(text: &str) -> bool {
    let last = text.trim().lines().next_back().unwrap_or_default();
    last == "ok" || last.ends_with(" check passed")
}

/// The names behind `[-]` in the list of checks.
fn failing_checks(text: &str) -> Vec<&str> {
    let failed = text.lines().filter_map(|line| line.strip_prefix("[-]"));
    failed
        .filter_map(|line| line.split(" failed").next())
        .map(str::trim)
        .collect()
}

fn not_ready(failing: &[&str]) -> Cause {
    /// More tell nobody more.
    const MOST: usize = 8;
    let named: Vec<String> = failing
        .iter()
        .take(MOST)
        .map(|name| format!("`{name}`"))
        .collect();
    let more = match failing.len().saturating_sub(MOST) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let checks = match failing {
        [_] => "check",
        _ => "checks",
    };
    let cause = Cause::new(
        Reason::Unavailable,
        format!(
            "the API server is not ready: its {checks} {}{more} failed",
            named.join(", ")
        ),
    )
    .code("500");
    match failing {
        names if names.iter().any(|name| name.starts_with("etcd")) => {
            cause.hint("its etcd does not answer it: look there first")
        }
        ["shutdown"] => cause.hint("it is shutting down"),
        names if names.iter().all(|name| name.starts_with("poststarthook/")) => {
            cause.hint("it is still starting up")
        }
        _ => cause.hint("its log has the reasons, which it withholds here"),
    }
}

/// A definition that is being read.
struct Definition<'a> {
    access: Access<'a>,
    /// The API server, as it is written, and where.
    server: Option<(Field, String)>,
    kubeconfig: Kubeconfig,
    /// Where the kubeconfig came from.
    field: Field,
    /// Where the kubeconfig is, if it is a file.
    directory: Option<String>,
    options: TlsOptions,
    /// Whether the definition itself says if the certificate is verified.
    says_verify: bool,
    /// Which of them the kubeconfig gave.
    options_of_kubeconfig: Vec<TlsPart>,
    token: Option<Secret>,
    basic: Option<(Secret, Secret)>,
}

/// What a secret's single value is.
enum Meaning {
    Kubeconfig,
    Path,
    Token,
}

/// A kubeconfig is a mapping; a token is one word.
fn meaning(text: &Secret) -> Meaning {
    let text = text.expose().trim();
    match text {
        path if path.starts_with('/') && path.lines().count() == 1 => Meaning::Path,
        word if !word.contains([' ', '\n', ':', '{']) => Meaning::Token,
        _ => Meaning::Kubeconfig,
    }
}

impl<'a> Definition<'a> {
    fn read(access: Access<'a>, settings: Settings) -> Result<Self, Invalid> {
        let resolved = access.resolved();
        let server = match (&resolved.url, settings.server) {
            (None, None) => None,
            (Some(url), None) => Some((Field::Url, url.expose().to_owned())),
            (None, Some(server)) => Some((Field::Properties, server)),
            (Some(_), Some(_)) => {
                return Err(access
                    .invalid(Field::Properties, "both `url` and `properties.server`")
                    .hint("they mean the same; keep one of them"));
            }
        };
        let mut res = Self {
            access,
            server,
            kubeconfig: Kubeconfig::default(),
            field: Field::SecretRef,
            directory: None,
            says_verify: resolved
                .insecure_skip_verify
                .or(settings.insecure_skip_verify)
                .is_some(),
            options: access.tls_options(settings.insecure_skip_verify, settings.server_name),
            options_of_kubeconfig: Vec::new(),
            token: None,
            basic: None,
        };
        // What a secret brings is judged when it is there.
        if !resolved.is_partial {
            let given = res.given(settings.kubeconfig, settings.in_cluster)?;
            match given {
                Some(text) => res.read_kubeconfig(&text, settings.context.as_deref())?,
                None if settings.context.is_some() => {
                    return Err(access
                        .invalid(Field::Properties, "a `context` without a kubeconfig")
                        .hint(
                            "give the kubeconfig as a `secretRef`, or as `properties.kubeconfig`",
                        ));
                }
                None => {}
            }
            if settings.in_cluster {
                res.read_service_account()?;
            }
        }
        Ok(res)
    }

    /// Which logins were given, and the kubeconfig if there is one.
    fn given(
        &mut self,
        property: Option<Secret>,
        in_cluster: bool,
    ) -> Result<Option<Secret>, Invalid> {
        let resolved = self.access.resolved();
        let mut kubeconfig = None;
        let mut token = None;
        let mut password = resolved.password.clone();
        match resolved.key.clone() {
            None => {}
            Some(key) => match meaning(&key) {
                Meaning::Token if resolved.username.is_some() && password.is_none() => {
                    password = Some(key);
                }
                Meaning::Token => token = Some(key),
                Meaning::Kubeconfig | Meaning::Path => kubeconfig = Some(key),
            },
        }
        kubeconfig = kubeconfig.or_else(|| resolved.own_key(KUBECONFIG).cloned());
        if kubeconfig.is_none() {
            token = token.or_else(|| resolved.own_key(TOKEN).cloned());
        }
        if let Some(property) = property {
            if kubeconfig.is_some() {
                return Err(self
                    .access
                    .invalid(
                        Field::Properties,
                        "two kubeconfigs: `kubeconfig`, and the secret's",
                    )
                    .hint("keep one of them"));
            }
            self.field = Field::Properties;
            kubeconfig = Some(property);
        }
        if kubeconfig.is_some() && in_cluster {
            return Err(self
                .access
                .invalid(Field::Properties, "both `inCluster` and a kubeconfig")
                .hint("keep one of them"));
        }
        match (resolved.username.clone(), password) {
            // What a secret says wins.
            (Some(username), Some(password)) if token.is_none() => {
                self.basic = Some((username, password));
            }
            (Some(_), None) if token.is_none() => {
                return Err(self
                    .access
                    .invalid(Field::Username, "a username without a password")
                    .hint("give `password`; for a token, leave `username` out"));
            }
            (_, password) => self.token = token.or(password),
        }
        let Some(text) = kubeconfig else {
            return Ok(None);
        };
        if !matches!(meaning(&text), Meaning::Path) {
            return Ok(Some(text));
        }
        let path = text.trimmed();
        let parent = path.expose().rsplit_once('/').map(|(parent, _)| parent);
        self.directory = parent.map(str::to_owned);
        self.access.file(self.field, path.expose()).map(Some)
    }

    fn mistake(&self, (message, hint): Mistake) -> Invalid {
        let invalid = self.access.invalid(self.field, message);
        match hint {
            Some(hint) => invalid.hint(hint),
            None => invalid,
        }
    }

    /// A file that the kubeconfig names, relative to itself.
    fn file(&self, name: &str, path: &str) -> Result<Secret, Invalid> {
        let path = match (path.starts_with('/'), &self.directory) {
            (true, _) => path.to_owned(),
            (false, Some(directory)) => format!("{directory}/{path}"),
            (false, None) => {
                return Err(self
                    .access
                    .invalid(
                        self.field,
                        format!("`{name}` is a path relative to the kubeconfig, which is not a file"),
                    )
                    .hint("`kubectl config view --raw --flatten` writes a kubeconfig that needs no other file"));
            }
        };
        self.access.file(self.field, &path)
    }

    /// What stands there itself, or in a file.
    fn data_or_file(
        &self,
        name: &str,
        data: &Option<Secret>,
        path: &Option<String>,
    ) -> Result<Option<Secret>, Invalid> {
        let is_given = |text: &&Secret| !text.is_empty();
        if let Some(data) = data.as_ref().filter(is_given) {
            let pem = decoded(&format!("{name}-data"), data);
            return pem.map(Some).map_err(|mistake| self.mistake(mistake));
        }
        match path.as_deref().filter(|path| !path.is_empty()) {
            Some(path) => self.file(name, path).map(Some),
            None => Ok(None),
        }
    }

    fn read_kubeconfig(&mut self, text: &Secret, context: Option<&str>) -> Result<(), Invalid> {
        self.kubeconfig =
            Kubeconfig::read(text, context).map_err(|mistake| self.mistake(mistake))?;
        let has_login = self.has_login();
        let Kubeconfig { cluster, user } = &self.kubeconfig;
        let authority = self.data_or_file(
            "certificate-authority",
            &cluster.certificate_authority_data,
            &cluster.certificate_authority,
        )?;
        let insecure = cluster.insecure_skip_tls_verify == Some(true);
        if insecure && authority.is_some() {
            return Err(self.mistake((
                "the cluster of the kubeconfig has both a `certificate-authority` and `insecure-skip-tls-verify`"
                    .to_owned(),
                Some("keep the authority"),
            )));
        }
        let mut options = self.options.clone();
        let mut from_here = Vec::new();
        if insecure && !self.says_verify && options.ca_cert.is_none() {
            options.verify = Verify::Nothing;
        }
        if options.ca_cert.is_none() && authority.is_some() {
            options.ca_cert = authority;
            from_here.push(TlsPart::CaCert);
        }
        if options.server_name.is_none() {
            options.server_name = (cluster.tls_server_name.clone()).filter(|name| !name.is_empty());
            from_here.push(TlsPart::ServerName);
        }
        let (mut token, mut basic) = (self.token.clone(), self.basic.clone());
        // What the definition says of who we are is all that counts then.
        if !has_login {
            let certificate = self.data_or_file(
                "client-certificate",
                &user.client_certificate_data,
                &user.client_certificate,
            )?;
            if certificate.is_some() {
                options.client_cert = certificate;
                options.client_key =
                    self.data_or_file("client-key", &user.client_key_data, &user.client_key)?;
                from_here.extend([TlsPart::ClientCert, TlsPart::ClientKey]);
            }
            token = match user.token_file.as_deref() {
                Some(path) => Some(self.file("tokenFile", path)?),
                None => user.token.clone(),
            };
            basic = (user.username.clone()).zip(user.password.clone());
        }
        if self.server.is_none() {
            let server = cluster.server.clone().filter(|server| !server.is_empty());
            self.server = server.map(|server| (self.field, server));
        }
        self.options = options;
        self.options_of_kubeconfig = from_here;
        (self.token, self.basic) = (token, basic);
        Ok(())
    }

    /// What every pod is given.
    fn read_service_account(&mut self) -> Result<(), Invalid> {
        self.field = Field::Properties;
        if self.server.is_none() {
            let variable = |name| {
                let value = self.access.variable(Field::Properties, name)?;
                value.ok_or_else(|| {
                    self.access
                        .invalid(
                            Field::Properties,
                            format!("`inCluster`, and `{name}` is not set: this is no pod"),
                        )
                        .hint("give `server` or a kubeconfig; the kubelet sets the variable in every pod")
                })
            };
            let host = variable("KUBERNETES_SERVICE_HOST")?;
            let port = variable("KUBERNETES_SERVICE_PORT")?;
            let host = match host.contains(':') {
                true => format!("[{host}]"),
                false => host,
            };
            self.server = Some((Field::Properties, format!("https://{host}:{port}")));
        }
        if self.options.ca_cert.is_none() {
            self.options.ca_cert = Some(self.file("ca.crt", &format!("{SERVICE_ACCOUNT}/ca.crt"))?);
        }
        if !self.has_login() {
            self.token = Some(self.file("token", &format!("{SERVICE_ACCOUNT}/token"))?);
        }
        Ok(())
    }

    /// Whether the definition itself says who we are.
    fn has_login(&self) -> bool {
        self.token.is_some() || self.basic.is_some() || self.options.client_cert.is_some()
    }

    fn build(mut self) -> Result<Kubernetes, Invalid> {
        let Some((field, server)) = self.server.take() else {
            return match self.access.resolved().is_partial {
                true => Ok(Kubernetes {
                    site: None,
                    secrets: Vec::new(),
                }),
                false => Err(self
                    .access
                    .invalid(Field::Type, "neither a server nor a kubeconfig that names one")
                    .hint("give `url`, a kubeconfig (`secretRef` with its `key`), or `properties.inCluster`")),
            };
        };
        let server = self.server_url(field, &server)?;
        let mut secrets = self.secrets();
        let mut headers = HeaderMap::new();
        let mut proof = match self.options.client_cert {
            Some(_) => Proof::Certificate,
            None => Proof::Nothing,
        };
        let mut expiry = None;
        if let Some((username, password)) = &self.basic {
            let value = basic(&self.access, Some(username), password)?;
            secrets.push(encoded(&value));
            headers.insert(header::AUTHORIZATION, value);
            proof = Proof::Basic;
        }
        if let Some(token) = &self.token {
            let value = sendable(&self.access, "the token", "Bearer ", token)?;
            headers.insert(header::AUTHORIZATION, value);
            expiry = expiry_of(token.expose());
            proof = Proof::Token;
        }
        let impersonation = self.impersonation()?;
        let proxy = self.proxy(&mut secrets)?;
        let tls = self.tls()?;
        let source = match self.kubeconfig.user.exec.take() {
            Some(exec) if !self.has_login() && !self.kubeconfig.user.is_complete() => {
                let environment = self.access.environment(self.field)?;
                let (cluster, directory) = (&self.kubeconfig.cluster, self.directory.as_deref());
                let origin = server.as_str().trim_end_matches('/');
                let authority = self.options.ca_cert.as_ref();
                let plugin = Plugin::new(exec, cluster, origin, authority, directory, environment)
                    .map_err(|mistake| self.mistake(mistake))?;
                Source::Plugin(Box::new(PluginSource {
                    plugin,
                    options: self.alpn(),
                    proxy,
                }))
            }
            _ => {
                let expiry = [expiry, tls.client_certificate_expiry()];
                Source::Fixed(Arc::new(Login {
                    client: Client::for_home(&server, tls, proxy),
                    headers,
                    proof,
                    expiry: expiry.into_iter().flatten().min(),
                }))
            }
        };
        Ok(Kubernetes {
            site: Some(Site {
                server,
                source,
                impersonation,
            }),
            secrets,
        })
    }

    /// The server's URL as its paths are appended to it; user-info in it is a login.
    fn server_url(&mut self, field: Field, server: &str) -> Result<Url, Invalid> {
        let name = match field {
            Field::Url => "`url`",
            Field::Properties => "`server`",
            _ => "`server` of the kubeconfig",
        };
        let wrong = |error: &str| self.access.invalid(field, format!("bad {name}: {error}"));
        // As `kubectl` reads it.
        let text = match server.contains("://") {
            true => server.to_owned(),
            false => format!("https://{server}"),
        };
        let (location, mut url) = target(&text).map_err(|error| wrong(&error))?;
        if url.query().is_some() {
            return Err(wrong("a server has no query (`?`)"));
        }
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&path);
        if !self.has_login()
            && let (Some(username), Some(password)) = (location.username, location.password)
        {
            self.basic = Some((Secret::new(username), Secret::new(password)));
        }
        Ok(url)
    }

    /// What the kubeconfig holds that a peer may repeat.
    fn secrets(&self) -> Vec<Secret> {
        let User {
            token,
            username,
            password,
            client_key_data,
            ..
        } = &self.kubeconfig.user;
        let mut res: Vec<Secret> = [token, username, password, client_key_data]
            .into_iter()
            .flatten()
            .chain(&self.token)
            .map(Secret::trimmed)
            .collect();
        if let Some((username, password)) = &self.basic {
            res.extend([username.clone(), password.clone()]);
        }
        if let Some(exec) = &self.kubeconfig.user.exec {
            res.extend(exec.secrets());
        }
        res
    }

    fn impersonation(&self) -> Result<HeaderMap, Invalid> {
        let mut res = HeaderMap::new();
        if self.kubeconfig.user.impersonate.is_none() {
            return Ok(res);
        }
        let User {
            impersonate,
            as_uid,
            as_groups,
            as_user_extra,
            ..
        } = &self.kubeconfig.user;
        let value = |name: &str, text: &Secret| {
            let mut value = HeaderValue::from_str(text.expose()).map_err(|_| {
                self.mistake((
                    format!("`{name}` of the kubeconfig has characters that no header may have"),
                    None,
                ))
            })?;
            value.set_sensitive(true);
            Ok(value)
        };
        for (name, header, text) in [
            ("as", "impersonate-user", impersonate),
            ("as-uid", "impersonate-uid", as_uid),
        ] {
            if let Some(text) = text {
                res.insert(HeaderName::from_static(header), value(name, text)?);
            }
        }
        for group in as_groups.iter().flatten() {
            let name = HeaderName::from_static("impersonate-group");
            self.append(&mut res, name, value("as-groups", group)?)?;
        }
        for (key, texts) in as_user_extra.iter().flatten() {
            let key = utf8_percent_encode(key, NON_ALPHANUMERIC).to_string();
            let name = format!("impersonate-extra-{}", key.to_ascii_lowercase());
            let name = HeaderName::try_from(name).map_err(|_| {
                self.mistake(("a key of `as-user-extra` cannot be sent".to_owned(), None))
            })?;
            for text in texts {
                self.append(&mut res, name.clone(), value("as-user-extra", text)?)?;
            }
        }
        Ok(res)
    }

    /// Adds a header, for which there may be no room.
    fn append(
        &self,
        headers: &mut HeaderMap,
        name: HeaderName,
        value: HeaderValue,
    ) -> Result<(), Invalid> {
        let full = |_| self.mistake(("the user has too many groups and extras".to_owned(), None));
        headers.try_append(name, value).map(|_| ()).map_err(full)
    }

    fn proxy(&self, secrets: &mut Vec<Secret>) -> Result<Option<Proxy>, Invalid> {
        let url = self.kubeconfig.cluster.proxy_url.as_ref();
        let Some(url) = url.filter(|url| !url.is_empty()) else {
            return Ok(None);
        };
        let proxy = Proxy::parse(url.expose()).map_err(|error| {
            self.mistake((format!("`proxy-url` of the kubeconfig: {error}"), None))
        })?;
        secrets.extend(proxy.authorization().map(encoded));
        Ok(Some(proxy))
    }

    /// What is offered in the handshake, best first.
    fn alpn(&self) -> TlsOptions {
        TlsOptions {
            alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            ..self.options.clone()
        }
    }

    fn tls(&self) -> Result<Tls, Invalid> {
        let options = self.alpn();
        Tls::new(&options).map_err(|mistake| {
            match self.options_of_kubeconfig.contains(&mistake.part) {
                true => self.tls_mistake(mistake),
                // Placed where the owner wrote it.
                false => self.access.tls_mistake(mistake),
            }
        })
    }

    fn tls_mistake(&self, mistake: TlsMistake) -> Invalid {
        let name = match mistake.part {
            TlsPart::CaCert => "`certificate-authority`",
            TlsPart::ClientCert => "`client-certificate`",
            TlsPart::ClientKey => "`client-key`",
            TlsPart::ServerName => "`tls-server-name`",
            TlsPart::System => "TLS",
        };
        let message = format!("{name} of the kubeconfig: {}", mistake.message);
        self.access.invalid(self.field, message)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{
        LONG, Peer, Script, answer, build, build_partly, build_remote, check_refused, hold, ok,
        quoted, run,
    };

    const CLUSTER: &str = "server: 'https://k8s.test:6443'";

    fn kubeconfig(cluster: &str, user: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: a\nclusters:\n- name: a\n  cluster: {{{cluster}}}\n\
             contexts:\n- name: a\n  context: {{cluster: a, user: a}}\nusers:\n- name: a\n  user: {{{user}}}\n"
        )
    }

    fn by(kubeconfig: &str) -> Result<std::sync::Arc<dyn crate::Probe>, Vec<Invalid>> {
        build("kubernetes", KEYED, &[("config", kubeconfig)])
    }

    const KEYED: &str = "secretRef: {name: login, key: config}";

    #[test]
    fn where_it_is_comes_from_the_definition_or_the_kubeconfig() {
        let of_kubeconfig = kubeconfig(CLUSTER, "token: abcdef");
        for (spec, endpoint) in [
            ("url: https://h.test", "https://h.test:443"),
            ("url: h.test:6443", "https://h.test:6443"),
            ("url: http://127.0.0.1:8001/", "http://127.0.0.1:8001"),
            (
                "url: https://rancher.test/k8s/clusters/c-1",
                "https://rancher.test:443",
            ),
            (
                "properties: {server: 'https://h.test:1'}",
                "https://h.test:1",
            ),
        ] {
            let spec = format!("{spec}\npassword: abcdef");
            assert_eq!(build("k8s", &spec, &[]).unwrap().endpoint(), endpoint);
        }
        assert_eq!(
            by(&of_kubeconfig).unwrap().endpoint(),
            "https://k8s.test:6443"
        );
        let spec = format!("{KEYED}\nproperties: {{server: 'https://other.test'}}");
        let probe = build("kubernetes", &spec, &[("config", &of_kubeconfig)]).unwrap();
        assert_eq!(probe.endpoint(), "https://other.test:443");
    }

    #[test]
    fn without_its_secret_a_definition_is_judged_as_far_as_it_is_known() {
        assert_eq!(build_partly("kubernetes", KEYED).unwrap().endpoint(), "");
        let spec = format!("{KEYED}\nproperties: {{server: 'https://h.test', context: a}}");
        assert_eq!(
            build_partly("kubernetes", &spec).unwrap().endpoint(),
            "https://h.test:443"
        );
        let spec = format!("{KEYED}\nurl: 'ftp://h.test'");
        assert!(build_partly("kubernetes", &spec).is_err());
    }

    #[test]
    fn a_definition_that_cannot_be_meant_is_refused() {
        for (spec, message) in [
            (
                "password: a",
                "neither a server nor a kubeconfig that names one",
            ),
            (
                "url: https://a.test\nproperties: {server: b}",
                "both `url` and `properties.server`",
            ),
            (
                "url: https://a.test/?x=1",
                "bad `url`: a server has no query (`?`)",
            ),
            ("url: https://", "bad `url`: empty host"),
            (
                "url: https://a.test\nproperties: {context: x}",
                "a `context` without a kubeconfig",
            ),
            (
                "url: https://a.test\nusername: a",
                "a username without a password",
            ),
            (
                "properties: {inCluster: true}",
                "`inCluster`, and `KUBERNETES_SERVICE_HOST` is not set: this is no pod",
            ),
            (
                "properties: {inCluster: true, kubeconfig: 'clusters: []'}",
                "both `inCluster` and a kubeconfig",
            ),
            (
                "properties: {kubeconfig: /nowhere}",
                "`/nowhere` does not exist",
            ),
            (
                "url: https://a.test\nproperties: {user: x}",
                "unknown property `user`",
            ),
        ] {
            check_refused(build("kubernetes", spec, &[]), message);
        }
    }

    #[test]
    fn a_kubeconfig_that_is_not_right_says_what_is_wrong_and_quotes_nothing() {
        let exec = |more: &str| {
            kubeconfig(
                CLUSTER,
                &format!("exec: {{apiVersion: client.authentication.k8s.io/v1, command: x{more}}}"),
            )
        };
        for (text, message) in [
            (
                "M4RK3R: [".to_owned(),
                "line 1 of the kubeconfig: `[` is not closed",
            ),
            (
                "{}".to_owned(),
                "it is not a kubeconfig: it has neither `clusters` nor `contexts`",
            ),
            (
                "kind: Secret\ndata: {M4RK3R: x}".to_owned(),
                "it is a Kubernetes document, but not a kubeconfig (`kind: Config`)",
            ),
            (
                "clusters: M4RK3R x".to_owned(),
                "line 1 of the kubeconfig: `clusters`: expected a list, found text",
            ),
            (
                "clusters: null\ncontexts: null".to_owned(),
                "it is not a kubeconfig: it has neither `clusters` nor `contexts`",
            ),
            (
                "clusters: []\ncontexts: []".to_owned(),
                "the kubeconfig has no `current-context`; it has 0 contexts",
            ),
            (
                "clusters: []\ncurrent-context: M4RK3R".to_owned(),
                "the kubeconfig has no context of the name that its `current-context` says; it has 0 contexts",
            ),
            (
                "current-context: a\ncontexts: [{name: a, context: {cluster: M4RK3R}}]".to_owned(),
                "the context of the kubeconfig names a cluster that is not in it",
            ),
            (
                "current-context: a\ncontexts: [{name: a, context: {user: M4RK3R}}]".to_owned(),
                "the context of the kubeconfig names a user that is not in it",
            ),
            (
                kubeconfig("server: 'ftp://M4RK3R'", ""),
                "bad `server` of the kubeconfig: this scheme is not HTTP: use `http://` or `https://`",
            ),
            (
                kubeconfig(
                    &format!("{CLUSTER}, certificate-authority-data: M4RK3R!"),
                    "",
                ),
                "`certificate-authority-data` of the kubeconfig is not base64 of PEM text",
            ),
            (
                kubeconfig(
                    &format!("{CLUSTER}, certificate-authority-data: TTRSSzNS"),
                    "",
                ),
                "`certificate-authority` of the kubeconfig: there is no certificate in it",
            ),
            (
                kubeconfig(&format!("{CLUSTER}, certificate-authority: M4RK3R.pem"), ""),
                "`certificate-authority` is a path relative to the kubeconfig, which is not a file",
            ),
            (
                kubeconfig(&format!("{CLUSTER}, tls-server-name: 'M4RK3R M'"), ""),
                "`tls-server-name` of the kubeconfig: the server name is neither a host name nor an IP address",
            ),
            (
                kubeconfig(&format!("{CLUSTER}, proxy-url: 'socks5://M4RK3R:1'"), ""),
                "`proxy-url` of the kubeconfig: proxies by `socks5://` are not supported: use one by `http://`",
            ),
            (
                kubeconfig(CLUSTER, "token: [M4RK3R]"),
                "line 12 of the kubeconfig: `users[0].user.token`: expected text, found a list",
            ),
            (
                kubeconfig(CLUSTER, "token: M4RK3R, username: M4RK3R"),
                "the user of the kubeconfig has both a token and a username or password",
            ),
            (
                kubeconfig(
                    &format!(
                        "{CLUSTER}, certificate-authority-data: TTRSSzNS, insecure-skip-tls-verify: true"
                    ),
                    "",
                ),
                "the cluster of the kubeconfig has both a `certificate-authority` and `insecure-skip-tls-verify`",
            ),
            (
                kubeconfig(CLUSTER, "client-key-data: TTRSSzNS"),
                "the user of the kubeconfig has a client key without a certificate",
            ),
            (
                kubeconfig(CLUSTER, "username: M4RK3R"),
                "the user of the kubeconfig has one of `username` and `password`, and not the other",
            ),
            (
                kubeconfig(
                    CLUSTER,
                    "auth-provider: {name: gcp, config: {access-token: M4RK3R}}",
                ),
                "the user of the kubeconfig has an `auth-provider`, which Kubernetes has removed (1.26)",
            ),
            (
                kubeconfig(CLUSTER, "token: M4RK3R, as-groups: [M4RK3R]"),
                "the user of the kubeconfig has `as-uid`, `as-groups` or `as-user-extra` without `as`",
            ),
            (
                kubeconfig(CLUSTER, "client-certificate-data: TTRSSzNS"),
                "`client-certificate` of the kubeconfig: a client certificate without its key",
            ),
            (
                exec(", interactiveMode: Always"),
                "the exec plugin wants to talk with somebody (`interactiveMode: Always`), and nobody is there",
            ),
            (
                exec(", interactiveMode: M4RK3R"),
                "`interactiveMode` of the exec plugin is none of `Never`, `IfAvailable` and `Always`",
            ),
            (
                kubeconfig(
                    CLUSTER,
                    "exec: {apiVersion: client.authentication.k8s.io/v1alpha1, command: x}",
                ),
                "the exec plugin speaks `client.authentication.k8s.io/v1alpha1`, which Kubernetes has removed (1.24)",
            ),
            (
                kubeconfig(CLUSTER, "exec: {apiVersion: M4RK3R, command: x}"),
                "`apiVersion` of the exec plugin is neither `client.authentication.k8s.io/v1` nor `client.authentication.k8s.io/v1beta1`",
            ),
            (
                kubeconfig(
                    CLUSTER,
                    "exec: {apiVersion: client.authentication.k8s.io/v1}",
                ),
                "the exec plugin has no `command`",
            ),
            (
                kubeconfig(
                    CLUSTER,
                    "exec: {apiVersion: client.authentication.k8s.io/v1, command: ./x}",
                ),
                "the `command` of the exec plugin is a path relative to the kubeconfig, which is not a file",
            ),
        ] {
            let mistakes = by(&text)
                .err()
                .unwrap_or_else(|| panic!("accepted: {message}"));
            assert_eq!(mistakes[0].message, message);
            assert!(!format!("{mistakes:?}").contains("M4RK3R"), "{mistakes:?}");
        }
        let spec = format!("{KEYED}\nproperties: {{context: b}}");
        check_refused(
            build("kubernetes", &spec, &[("config", &kubeconfig(CLUSTER, ""))]),
            "the kubeconfig has no context `b`; it has one context",
        );
    }

    /// A template whose variable was not set writes nothing there, and kubectl runs the plugin then.
    #[test]
    fn what_is_empty_in_a_kubeconfig_is_not_there() {
        const EXEC: &str = "exec: {apiVersion: client.authentication.k8s.io/v1alpha1, command: x}";
        for empty in [
            "token: ''",
            "tokenFile: ''",
            "username: '', password: ''",
            "client-certificate-data: ''",
        ] {
            let text = kubeconfig(CLUSTER, &format!("{empty}, {EXEC}"));
            let message = by(&text).err().unwrap().remove(0).message;
            assert!(message.starts_with("the exec plugin speaks"), "{message}");
        }
        assert!(by(&kubeconfig(CLUSTER, "token: t0ken-0, username: ''")).is_ok());
    }

    #[tokio::test]
    async fn the_secret_s_token_wins_over_a_password() {
        for login in ["password: 0ld-pass", "username: u\npassword: 0ld-pass"] {
            let peer = Peer::new([json("429 Too Many Requests", "{}")]).await;
            let spec = format!("url: http://127.0.0.1:{}\n{login}\n{KEYED}", peer.port);
            let probe = build("kubernetes", &spec, &[("config", "n3w-token")]).unwrap();
            crate::testing::failure(&probe, LONG).await;
            assert!(peer.heard()[0].contains("Authorization: Bearer n3w-token\r\n"));
        }
    }

    /// That it keeps its version to itself, or is slow to tell, does not make it down.
    #[tokio::test]
    async fn the_version_is_no_part_of_the_verdict() {
        let peer = Peer::new([hold("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")]).await;
        let spec = format!("url: http://127.0.0.1:{}", peer.port);
        let outcome = run(&build("kubernetes", &spec, &[]).unwrap(), LONG).await;
        assert_eq!(outcome.result, Ok(()));
        assert_eq!(outcome.server, None);
    }

    #[test]
    fn who_wrote_it_elsewhere_gets_nothing_of_our_machine() {
        const FILES: &str =
            "files of ours are not read for a connection that came from the Kubernetes API";
        let remote = |spec: &str, kubeconfig: &str| {
            build_remote("kubernetes", spec, &[("config", kubeconfig)])
        };
        for (cluster, user) in [
            (format!("{CLUSTER}, certificate-authority: /ca.pem"), ""),
            (CLUSTER.to_owned(), "tokenFile: /token"),
            (
                CLUSTER.to_owned(),
                "client-certificate: /crt, client-key: /key",
            ),
        ] {
            check_refused(remote(KEYED, &kubeconfig(&cluster, user)), FILES);
        }
        check_refused(remote(KEYED, "/etc/kubernetes/admin.conf"), FILES);
        let exec = "exec: {apiVersion: client.authentication.k8s.io/v1, command: x}";
        check_refused(
            remote(KEYED, &kubeconfig(CLUSTER, exec)),
            "programs are not run for a connection that came from the Kubernetes API",
        );
        check_refused(
            remote("properties: {inCluster: true}", ""),
            "our environment is not read for a connection that came from the Kubernetes API",
        );
        check_refused(
            remote(
                "properties: {inCluster: true, server: 'https://evil.test'}",
                "",
            ),
            FILES,
        );
        assert!(remote(KEYED, &kubeconfig(CLUSTER, "token: abcdef")).is_ok());
    }

    #[test]
    fn what_a_peer_may_repeat_is_known_to_be_secret() {
        let user = "exec: {apiVersion: client.authentication.k8s.io/v1, command: x, \
                    args: [get-token, --client-secret=s3cr3t-1, --flag], env: [{name: A, value: s3cr3t-2}]}";
        let cluster = format!("{CLUSTER}, proxy-url: 'http://me:s3cr3t-3@p.test'");
        for (kubeconfig, secrets) in [
            (kubeconfig(CLUSTER, "token: s3cr3t-0"), vec!["s3cr3t-0"]),
            (
                kubeconfig(CLUSTER, "username: probe, password: s3cr3t-0"),
                // base64 of `probe:s3cr3t-0`
                vec!["s3cr3t-0", "cHJvYmU6czNjcjN0LTA"],
            ),
            (
                kubeconfig(&cluster, user),
                // base64 of `me:s3cr3t-3`
                vec!["s3cr3t-1", "s3cr3t-2", "bWU6czNjcjN0LTM"],
            ),
        ] {
            let probe = by(&kubeconfig).unwrap();
            for secret in secrets {
                assert_eq!(probe.scrubber().scrub(secret), "[redacted]", "{secret}");
            }
            assert_eq!(probe.scrubber().scrub("--flag"), "--flag");
        }
    }

    #[test]
    fn the_list_of_checks_is_read() {
        for text in ["ok", "ok\n", "[+]ping ok\nreadyz check passed\n"] {
            assert!(is_ok(text), "{text}");
        }
        for text in ["", "<html>ok</html>", "not ok", "readyz check failed"] {
            assert!(!is_ok(text), "{text}");
        }
        let list =
            "[+]ping ok\n[-]etcd failed: reason withheld\n[-]a/b failed: x\nreadyz check failed\n";
        assert_eq!(failing_checks(list), ["etcd", "a/b"]);
        let many = ["x"; 10];
        assert!(not_ready(&many).message.ends_with(" and 2 more failed"));
        assert_eq!(
            not_ready(&["shutdown"]).message,
            "the API server is not ready: its check `shutdown` failed"
        );
    }

    /// What comes of a server that answers so, one script for each connection.
    async fn ask(scripts: Vec<Script>) -> String {
        let peer = Peer::new(scripts).await;
        let spec = format!("url: http://127.0.0.1:{}\npassword: abcdef", peer.port);
        let outcome = run(&build("kubernetes", &spec, &[]).unwrap(), LONG).await;
        match outcome.result {
            Ok(()) => format!("up {}", outcome.server.unwrap_or_default()),
            Err(failure) => {
                let phase = failure.phase.map_or("", Phase::as_str);
                format!("{} in {phase}: {}", failure.reason, failure.message)
            }
        }
    }

    fn json(status: &str, body: &str) -> Script {
        answer(format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
    }

    const ME: &str = r#"{"kind":"SelfSubjectReview","status":{"userInfo":{"username":"me"}}}"#;

    #[tokio::test]
    async fn a_server_that_ends_each_connection_gets_another_one() {
        let version = r#"{"gitVersion":"v1.2.3"}"#;
        let scripts = vec![ok("ok"), json("201 Created", ME), json("200 OK", version)];
        assert_eq!(ask(scripts).await, "up Kubernetes v1.2.3");
        // The version may be kept from us, or be nonsense.
        for version in [json("403 Forbidden", "{}"), json("200 OK", "[1"), ok("")] {
            let scripts = vec![ok("ok"), json("201 Created", ME), version];
            assert_eq!(ask(scripts).await, "up ");
        }
    }

    #[tokio::test]
    async fn an_answer_that_proves_nothing_is_no_success() {
        let cut = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok";
        let cut = answer(cut);
        for (scripts, expected) in [
            (
                vec![ok("")],
                "protocol in request: expected `ok` from `/readyz`, got an empty body",
            ),
            (
                vec![cut],
                "connect_reset in request: the peer hung up in the middle of its answer, after 2 bytes of the body",
            ),
            (
                vec![ok("ok"), json("200 OK", "<html>")],
                "protocol in auth: the answer (6 bytes of application/json) is not JSON",
            ),
            (
                vec![ok("ok"), json("200 OK", "{}")],
                "protocol in auth: expected to be told who we are (`SelfSubjectReview`), got 2 bytes of application/json of another kind",
            ),
            (
                vec![
                    ok("ok"),
                    json("201 Created", r#"{"kind":"SelfSubjectReview"}"#),
                ],
                "protocol in auth: expected to be told who we are (`SelfSubjectReview`), got a review without a user",
            ),
            (
                vec![
                    ok("ok"),
                    json(
                        "201 Created",
                        r#"{"kind":"SelfSubjectReview","status":{"userInfo":{"username":"system:anonymous"}}}"#,
                    ),
                ],
                "auth in auth: the server did not look at the token: to it we are `system:anonymous`",
            ),
            (
                vec![
                    ok("ok"),
                    json(
                        "500 Internal Server Error",
                        r#"{"kind":"Status","message":"etcdserver: request timed out"}"#,
                    ),
                ],
                "http_status in auth: expected to be told who we are (`SelfSubjectReview`), got 500 Internal Server Error: etcdserver: request timed out",
            ),
            (
                vec![ok("ok"), json("404 Not Found", "{}")],
                "protocol in auth: it has neither `SelfSubjectReview` nor `SelfSubjectAccessReview`: expected an API server",
            ),
            (
                vec![json("302 Found", "")],
                "http_status in request: expected `ok` from `/readyz`, got 302 Found",
            ),
        ] {
            assert_eq!(ask(scripts).await, expected);
        }
        let held = hold("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        let peer = Peer::new([held]).await;
        let spec = format!("url: http://127.0.0.1:{}\npassword: abcdef", peer.port);
        let probe = build("kubernetes", &spec, &[]).unwrap();
        let failure = crate::testing::failure(&probe, std::time::Duration::from_millis(200)).await;
        assert_eq!(
            (failure.reason, failure.phase),
            (Reason::Timeout, Some(Phase::Auth))
        );
        peer.is_left(1).await;
    }

    #[tokio::test]
    async fn a_token_that_a_plugin_gave_is_told_by_nobody() {
        let echo = r#"{"kind":"Status","message":"s3cr3t-token is wrong"}"#;
        let peer = Peer::new([json("429 Too Many Requests", echo)]).await;
        let credential = r#"{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"s3cr3t-token"}}"#;
        let user = format!(
            "exec: {{apiVersion: client.authentication.k8s.io/v1, command: echo, args: [{}]}}",
            quoted(credential)
        );
        let cluster = format!("server: 'http://127.0.0.1:{}'", peer.port);
        let probe = by(&kubeconfig(&cluster, &user)).unwrap();
        let failure = crate::testing::failure(&probe, LONG).await;
        assert_eq!(
            failure.message,
            "expected `ok` from `/readyz`, got 429 Too Many Requests: [redacted] is wrong"
        );
        assert!(peer.heard()[0].contains("Authorization: Bearer s3cr3t-token\r\n"));
    }

    #[test]
    fn a_path_prefix_is_kept() {
        crate::install_crypto_provider();
        let url = |text: &str| Url::parse(text).unwrap();
        let tls = Tls::new(&TlsOptions::default()).unwrap();
        for (server, expected) in [
            ("https://h.test", "https://h.test/readyz"),
            (
                "https://h.test/k8s/clusters/c-1",
                "https://h.test/k8s/clusters/c-1/readyz",
            ),
        ] {
            let login = Arc::new(Login {
                client: Client::for_home(&url(server), tls.clone(), None),
                headers: HeaderMap::new(),
                proof: Proof::Nothing,
                expiry: None,
            });
            let site = Site {
                server: url(server),
                source: Source::Fixed(Arc::clone(&login)),
                impersonation: HeaderMap::new(),
            };
            let request = site.request(&login, Method::GET, "/readyz", "");
            assert_eq!(request.url.as_str(), expected);
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,200}") {
            prop_assume!(!text.trim().is_empty());
            let _ = by(&text);
            let _ = by(&format!("clusters: {text}"));
            failing_checks(&text);
            is_ok(&text);
        }
    }
}
