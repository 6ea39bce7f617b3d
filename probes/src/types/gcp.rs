//! `gcp`: Google gives a token for the credential, and takes it.
//!
//! Proves that the credential is good: a new access token is asked for with it, as Google's own clients
//! do, and then shown to `tokeninfo`, or with `project` to the Resource Manager, which must let us read
//! that project. Says nothing about what else the credential is allowed to do.
//!
//! Getting the token is `auth` (and `resolve`, `connect`, `tls` of the servers that are asked for it);
//! showing it is `request`. Whom Google sees in us is reported where `tokeninfo` tells.
//!
//! `tokeninfo` knows no token of a workforce or workload identity federation that was not exchanged for
//! one of a service account: without a `project` it is Google's exchange of it that proves such a
//! credential, and there is no `request`. Which service account a metadata server speaks for is its
//! machine's owner's to say; a token of it is asked for like any other.
//!
//! The connection's TLS settings hold for every server that is asked; `serverName` and a client
//! certificate for the endpoint alone.

mod answer;
mod credentials;
mod source;

use conncheck_config::{Field, Secret, SecretKey};
use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use url::{Url, form_urlencoded};

use crate::attempt::Attempt;
use crate::cause::Cause;
use crate::http::{Client, Conversation, Request, Response, below, endpoint_of, target};
use crate::login::Scope;
use crate::outcome::{Failure, Phase, Reason};
use crate::probe::{Access, Invalid, ProbeType};

use self::credentials::{CREDENTIAL, Credential, GOOGLE, Given};
use self::source::{Shown, Token};

/// `spec.properties` of a Google Cloud connection.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Settings {
    /// The ID or number of a project that the credential must be able to read. Without it, Google's
    /// `tokeninfo` is asked about the token.
    project: Option<String>,
    /// What the token is to allow: one text with blanks, or a list. Without it, `cloud-platform`.
    scopes: Scope,
    /// The credential: the JSON, or its absolute path. `password` and the secret's `key` are one as
    /// well.
    credentials: Option<Secret>,
    /// Accept any certificate.
    insecure_skip_verify: Option<bool>,
    /// The name that the certificate must be for, in place of the endpoint's host.
    server_name: Option<String>,
}

pub(crate) struct Gcp {
    /// Where `tokeninfo` or the project is asked for.
    base: Url,
    client: Client,
    project: Option<String>,
    /// As the owner wants them.
    scopes: Option<String>,
    /// Nothing while a secret is missing that would tell.
    credential: Option<Credential>,
}

impl ProbeType for Gcp {
    type Settings = Settings;

    const FURTHER_REASONS: &'static [Reason] =
        &[Reason::Permission, Reason::NotFound, Reason::HttpStatus];

    const SECRET_KEYS: &'static [SecretKey] = &[CREDENTIAL];

    fn new(access: Access<'_>, settings: Settings) -> Result<Self, Invalid> {
        let invalid = |message: &str| access.invalid(Field::Properties, message);
        let project = match settings.project {
            None => None,
            Some(project) => Some(read_project(&project).map_err(|error| invalid(&error))?),
        };
        let scopes = settings.scopes.0.split_whitespace().collect::<Vec<_>>();
        let scopes = (!scopes.is_empty()).then(|| scopes.join(" "));
        let resolved = access.resolved();
        if resolved.username.is_some() && !resolved.is_partial {
            return Err(access
                .invalid(Field::Username, "a `username` means nothing here")
                .hint("the credential's JSON says who we are: leave `username` out"));
        }
        let tls = access.tls_options(settings.insecure_skip_verify, settings.server_name);
        // What a secret brings is judged when it is there.
        let credential = match resolved.is_partial {
            true => None,
            false => {
                Some(Given::find(&access, settings.credentials)?.read(&access, &tls.elsewhere())?)
            }
        };
        let universe = credential.as_ref().map_or(GOOGLE, |known| &known.universe);
        let base = match &resolved.url {
            Some(url) => read_endpoint(&access, url)?,
            None => {
                if universe != GOOGLE && project.is_none() {
                    return Err(invalid(
                        "the credential is of another universe than Google's (`universe_domain`), which has no `tokeninfo`",
                    )
                    .hint("give `project`, which the credential must be able to read"));
                }
                let service = match project {
                    Some(_) => "cloudresourcemanager",
                    None => "oauth2",
                };
                Url::parse(&format!("https://{service}.{universe}/"))
                    .map_err(|_| invalid("`universe_domain` of the credential is not a domain"))?
            }
        };
        Ok(Self {
            client: Client::new(&access, &base, tls)?,
            base,
            project,
            scopes,
            credential,
        })
    }

    fn endpoint(&self) -> String {
        endpoint_of(&self.base)
    }

    fn secrets(&self) -> &[Secret] {
        let credential = self.credential.as_ref();
        credential.map_or(&[], |credential| &credential.secrets)
    }

    async fn probe(&self, attempt: &mut Attempt) -> Result<(), Failure> {
        let Some(credential) = &self.credential else {
            let cause = Cause::new(Reason::Internal, "it is not known who we are");
            return Err(cause.in_phase(Phase::Auth));
        };
        let mut google = self.client.conversation();
        let scopes = self.scopes.as_deref();
        let token = credential.token(attempt, &mut google, scopes).await?;
        match (&self.project, token.shown) {
            (Some(project), _) => {
                let quota = credential.quota_project.as_ref();
                let request = self.project_request(&token, project, quota);
                let response = ask(attempt, &mut google, request).await?;
                judge_project(&response, project)
                    .map_err(|cause| cause.in_phase(Phase::Request))?;
            }
            (None, Shown::ToTokeninfo) => {
                let request = self.tokeninfo_request(&token);
                let response = ask(attempt, &mut google, request).await?;
                let email = judge_tokeninfo(&response, credential)
                    .map_err(|cause| cause.in_phase(Phase::Request))?;
                if let Some(email) = email {
                    attempt.identity(email);
                }
            }
            (None, Shown::ToNobody) => {}
        }
        google.end().await;
        Ok(())
    }
}

impl Gcp {
    /// The token stands in the body: a URL may end up in an access log.
    fn tokeninfo_request(&self, token: &Token) -> Result<Request, Cause> {
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("access_token", token.value.expose())
            .finish();
        Ok(Request::form(
            below(&self.base, &["tokeninfo"], &[]).map_err(not_sendable)?,
            form,
        ))
    }

    fn project_request(
        &self,
        token: &Token,
        project: &str,
        quota: Option<&HeaderValue>,
    ) -> Result<Request, Cause> {
        let mut headers = HeaderMap::new();
        headers.insert(http::header::AUTHORIZATION, token.header.clone());
        let json = HeaderValue::from_static("application/json");
        headers.insert(http::header::ACCEPT, json);
        if let Some(quota) = quota {
            headers.insert(
                HeaderName::from_static("x-goog-user-project"),
                quota.clone(),
            );
        }
        let url = below(&self.base, &["v1", "projects", project], &[]).map_err(not_sendable)?;
        Ok(Request::get(url, headers))
    }
}

fn not_sendable(error: &str) -> Cause {
    Cause::new(
        Reason::Internal,
        format!("the endpoint's URL cannot be asked at: {error}"),
    )
}

async fn ask(
    attempt: &mut Attempt,
    google: &mut Conversation<'_>,
    request: Result<Request, Cause>,
) -> Result<Response, Failure> {
    let request = request.map_err(|cause| cause.in_phase(Phase::Request))?;
    let response = google.ask(attempt, Phase::Request, &request).await?;
    response.whole()?;
    Ok(response)
}

/// Whom it takes us for, where it says so.
fn judge_tokeninfo(response: &Response, credential: &Credential) -> Result<Option<String>, Cause> {
    let expected = "to be told of the token (`tokeninfo`)";
    if response.status != StatusCode::OK {
        let cause = answer::refused(response, expected);
        return Err(match (response.status, &cause.hint) {
            (StatusCode::NOT_FOUND, _) => Cause {
                reason: Reason::Protocol,
                ..cause
            }
            .hint("it has no `tokeninfo`: is `url` right? without it, Google's own is asked"),
            (_, None) if cause.reason == Reason::Auth => cause.hint(credential.unknown_token()),
            _ => cause,
        });
    }
    let info: Value = response.json()?;
    let is_info = ["expires_in", "exp", "aud", "azp", "scope"]
        .iter()
        .any(|name| info.get(name).is_some());
    let email = info.get("email").and_then(Value::as_str);
    match is_info {
        true => Ok(email.map(str::to_owned)),
        false => Err(another_kind(response, expected)),
    }
}

fn judge_project(response: &Response, project: &str) -> Result<(), Cause> {
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Project {
        project_id: String,
        project_number: Value,
        lifecycle_state: String,
    }
    let expected = format!("the project `{project}`");
    if response.status != StatusCode::OK {
        let cause = answer::refused(response, &expected);
        return Err(match (cause.reason, cause.code.as_deref()) {
            (Reason::Permission, Some("PERMISSION_DENIED")) => cause.hint(format!(
                "there is no such project, or the credential may not read it (Google does not say which): \
                 `gcloud projects add-iam-policy-binding {project} --role=roles/browser --member=serviceAccount:ACCOUNT`"
            )),
            (Reason::NotFound, _) => cause.hint(
                "is the ID spelled right, and the project not deleted? `gcloud projects list` shows those that there are",
            ),
            _ => cause,
        });
    }
    let read: Project = response.json()?;
    let number = match &read.project_number {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if read.project_id != project && number != project {
        return Err(another_kind(response, &expected));
    }
    match read.lifecycle_state.as_str() {
        "" | "ACTIVE" | "LIFECYCLE_STATE_UNSPECIFIED" => Ok(()),
        state => Err(Cause::new(
            Reason::Unavailable,
            format!("the project `{project}` is to be deleted: its state is `{state}`"),
        )
        .code(state)
        .hint(format!(
            "for 30 days it can be had back: `gcloud projects undelete {project}`"
        ))),
    }
}

fn another_kind(response: &Response, expected: &str) -> Cause {
    Cause::protocol(format!(
        "expected {expected}, got {} of another kind",
        response.describe()
    ))
    .code(response.status.as_str())
    .hint("is it Google? a proxy or a login page may answer there")
}

/// An ID (`shop-1234`, once also `example.com:shop`) or a number. It becomes a part of a path.
fn read_project(text: &str) -> Result<String, String> {
    let text = text.trim();
    let bare = text.strip_prefix("projects/").unwrap_or(text);
    let is_known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':');
    match bare {
        "" => Err("`project` is empty".to_owned()),
        "." | ".." => Err("`project` is no project".to_owned()),
        _ if bare.chars().all(is_known) => Ok(bare.to_owned()),
        _ => Err(
            "`project` is neither the ID of a project (lower case letters, digits, `-`) nor its number"
                .to_owned(),
        ),
    }
}

/// The base of `tokeninfo` or the Resource Manager, in place of Google's.
fn read_endpoint(access: &Access<'_>, url: &Secret) -> Result<Url, Invalid> {
    let wrong = |error: &str| access.invalid(Field::Url, format!("bad `url`: {error}"));
    let (location, url) = target(url.expose()).map_err(|error| wrong(&error))?;
    if location.username.is_some() || location.password.is_some() {
        return Err(wrong("an endpoint has no user and no password")
            .hint("the credential's JSON says who we are"));
    }
    match url.query() {
        None => Ok(url),
        Some(_) => Err(wrong("an endpoint has no query (`?`)")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ffi::OsString;
    use std::sync::{Arc, LazyLock};

    use aws_lc_rs::encoding::AsDer;
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::RsaKeyPair;
    use base64::Engine as _;
    use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::outcome::Outcome;
    use crate::probe::{Files, Probe};
    use crate::testing::{
        LONG, Peer, Script, answer, build, build_on, build_partly, build_remote, check, ok, quoted,
        run,
    };

    static KEY: LazyLock<String> = LazyLock::new(|| {
        let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let der = AsDer::as_der(&key).unwrap();
        let text = BASE64_STANDARD.encode(der.as_ref());
        format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n")
    });

    const ACCOUNT: &str = "probe@shop.iam.gserviceaccount.com";
    const KEYED: &str = "secretRef: {name: login, key: json}";

    /// A service account's key as Google gives it out.
    fn key(at: &str) -> Value {
        json!({
            "type": "service_account", "project_id": "shop", "private_key_id": "k1d",
            "private_key": *KEY, "client_email": ACCOUNT, "client_id": "1",
            "token_uri": format!("{at}/token"),
        })
    }

    fn user(at: &str) -> Value {
        json!({
            "type": "authorized_user", "client_id": "1.apps", "client_secret": "cl/ent-s3cret",
            "refresh_token": "1//r3fresh", "token_uri": format!("{at}/token"),
            "quota_project_id": "quota-1",
        })
    }

    fn federated(at: &str, source: Value) -> Value {
        json!({
            "type": "external_account", "audience": "//iam.googleapis.com/projects/1/pools/p",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": format!("{at}/v1/token"), "credential_source": source,
        })
    }

    fn with(mut json: Value, name: &str, value: Value) -> Value {
        json[name] = value;
        json
    }

    /// A credential, and more of the definition.
    fn by(credential: &Value, spec: &str) -> Result<Arc<dyn Probe>, Vec<Invalid>> {
        let spec = format!("{KEYED}\n{spec}");
        build("gcp", &spec, &[("json", &credential.to_string())])
    }

    fn json_of(status: &str, body: &str) -> Script {
        answer(format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
    }

    const GRANTED: &str =
        r#"{"access_token": "ya29.t0ken", "expires_in": 3599, "token_type": "Bearer"}"#;
    const INFO: &str =
        r#"{"azp": "1", "aud": "1", "scope": "a", "exp": "1", "expires_in": "3598"}"#;

    /// What comes of a credential where these are the answers.
    async fn asked(
        credential: impl Fn(&str) -> Value,
        spec: &str,
        scripts: Vec<Script>,
    ) -> (Outcome, Vec<String>) {
        let peer = Peer::new(scripts).await;
        let at = format!("http://127.0.0.1:{}", peer.port);
        let spec = format!("url: {at}\n{spec}");
        let probe = by(&credential(&at), &spec).unwrap_or_else(|invalid| panic!("{invalid:?}"));
        let outcome = run(&probe, LONG).await;
        (outcome, peer.heard())
    }

    fn summary(outcome: &Outcome) -> String {
        match &outcome.result {
            Ok(()) => "up".to_owned(),
            Err(failure) => format!(
                "{} in {} ({}): {}",
                failure.reason,
                failure.phase.map_or("-", |phase| phase.as_str()),
                failure.code.as_deref().unwrap_or("-"),
                failure.message
            ),
        }
    }

    fn hint(outcome: &Outcome) -> String {
        let failure = outcome.result.as_ref().unwrap_err();
        failure.hint.as_deref().unwrap_or_default().to_owned()
    }

    fn form_of(request: &str) -> BTreeMap<String, String> {
        let (_, body) = request.split_once("\r\n\r\n").unwrap();
        form_urlencoded::parse(body.as_bytes())
            .into_owned()
            .collect()
    }

    fn part(token: &str, index: usize) -> Value {
        let part = token.split('.').nth(index).unwrap();
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn a_key_signs_for_a_token_which_tokeninfo_knows() {
        let scripts = vec![json_of("200 OK", GRANTED), json_of("200 OK", INFO)];
        let (outcome, heard) = asked(key, "", scripts).await;
        assert_eq!(summary(&outcome), "up");
        let phases: Vec<_> = outcome.phases.iter().map(|(phase, _)| *phase).collect();
        assert_eq!(phases, [Phase::Connect, Phase::Auth, Phase::Request]);
        assert_eq!(outcome.credential_expiry, None);
        assert!(
            heard[0].starts_with("POST /token HTTP/1.1\r\n"),
            "{}",
            heard[0]
        );
        let form = form_of(&heard[0]);
        assert_eq!(
            form["grant_type"],
            "urn:ietf:params:oauth:grant-type:jwt-bearer"
        );
        let assertion = &form["assertion"];
        assert_eq!(
            part(assertion, 0),
            json!({"alg": "RS256", "typ": "JWT", "kid": "k1d"})
        );
        let claims = part(assertion, 1);
        assert_eq!(claims["iss"], ACCOUNT);
        assert_eq!(claims["aud"], "https://oauth2.googleapis.com/token");
        assert_eq!(
            claims["scope"],
            "https://www.googleapis.com/auth/cloud-platform"
        );
        let [issued, ends] = ["iat", "exp"].map(|name| claims[name].as_i64().unwrap());
        assert_eq!(ends - issued, 3600);
        let now = jiff::Timestamp::now().as_second();
        assert!((now - 10..=now).contains(&issued), "neither back nor ahead");
        // In the body, and in no log of URLs.
        assert!(
            heard[1].starts_with("POST /tokeninfo HTTP/1.1\r\n"),
            "{}",
            heard[1]
        );
        assert_eq!(form_of(&heard[1])["access_token"], "ya29.t0ken");
    }

    #[tokio::test]
    async fn a_project_is_read_with_the_token() {
        for (project, body) in [
            (
                "shop-1",
                r#"{"projectId": "shop-1", "projectNumber": "12", "lifecycleState": "ACTIVE"}"#,
            ),
            ("projects/shop-1", r#"{"projectId": "shop-1"}"#),
            ("12", r#"{"projectId": "shop-1", "projectNumber": "12"}"#),
            ("12", r#"{"projectId": "shop-1", "projectNumber": 12}"#),
        ] {
            let spec = format!("properties: {{project: '{project}', scopes: [a, b]}}");
            let scripts = vec![json_of("200 OK", GRANTED), json_of("200 OK", body)];
            let (outcome, heard) = asked(user, &spec, scripts).await;
            assert_eq!(summary(&outcome), "up", "{project}");
            let form = form_of(&heard[0]);
            assert_eq!(form["grant_type"], "refresh_token");
            assert_eq!(form["refresh_token"], "1//r3fresh");
            assert_eq!(form["scope"], "a b");
            let bare = project.trim_start_matches("projects/");
            let line = format!("GET /v1/projects/{bare} HTTP/1.1\r\n");
            assert!(heard[1].starts_with(&line), "{}", heard[1]);
            let head = heard[1].to_ascii_lowercase();
            assert!(head.contains("authorization: bearer ya29.t0ken\r\n"));
            assert!(head.contains("x-goog-user-project: quota-1\r\n"));
        }
    }

    #[tokio::test]
    async fn what_a_project_s_answer_means() {
        let denied = |status: &str, reason: &str| {
            format!(
                r#"{{"error": {{"code": 403, "message": "words of Google's", "status": "{status}", "details": [{{"@type": "x", "reason": "{reason}", "metadata": {{"service": "cloudresourcemanager.googleapis.com", "consumer": "projects/123"}}}}]}}}}"#
            )
        };
        for (status, body, expected, way_out) in [
            (
                "403 Forbidden",
                r#"{"error": {"code": 403, "message": "The caller does not have permission", "status": "PERMISSION_DENIED"}}"#.to_owned(),
                "permission in request (PERMISSION_DENIED): expected the project `shop-1`, got 403 Forbidden: The caller does not have permission",
                "gcloud projects add-iam-policy-binding shop-1",
            ),
            (
                "403 Forbidden",
                denied("PERMISSION_DENIED", "IAM_PERMISSION_DENIED"),
                "permission in request (PERMISSION_DENIED): expected the project `shop-1`, got 403 Forbidden: words of Google's",
                "there is no such project, or",
            ),
            (
                "403 Forbidden",
                denied("PERMISSION_DENIED", "SERVICE_DISABLED"),
                "permission in request (SERVICE_DISABLED): expected the project `shop-1`, got 403 Forbidden: words of Google's",
                "gcloud services enable cloudresourcemanager.googleapis.com --project=123",
            ),
            (
                "403 Forbidden",
                denied("PERMISSION_DENIED", "ACCESS_TOKEN_SCOPE_INSUFFICIENT"),
                "permission in request (ACCESS_TOKEN_SCOPE_INSUFFICIENT): expected the project `shop-1`, got 403 Forbidden: words of Google's",
                "widen `scopes`",
            ),
            (
                "403 Forbidden",
                denied("PERMISSION_DENIED", "USER_PROJECT_DENIED"),
                "permission in request (USER_PROJECT_DENIED): expected the project `shop-1`, got 403 Forbidden: words of Google's",
                "set-quota-project",
            ),
            (
                "404 Not Found",
                denied("NOT_FOUND", "X"),
                "not_found in request (X): expected the project `shop-1`, got 404 Not Found: words of Google's",
                "gcloud projects list",
            ),
            (
                "401 Unauthorized",
                denied("UNAUTHENTICATED", "ACCESS_TOKEN_EXPIRED"),
                "auth in request (ACCESS_TOKEN_EXPIRED): expected the project `shop-1`, got 401 Unauthorized: words of Google's",
                "take `Authorization` away",
            ),
            (
                "429 Too Many Requests",
                denied("RESOURCE_EXHAUSTED", "RATE_LIMIT_EXCEEDED"),
                "unavailable in request (RATE_LIMIT_EXCEEDED): expected the project `shop-1`, got 429 Too Many Requests: words of Google's",
                "",
            ),
            (
                "500 Internal Server Error",
                "<html>".to_owned(),
                "http_status in request (500): expected the project `shop-1`, got 500 Internal Server Error",
                "",
            ),
            (
                "200 OK",
                r#"{"projectId": "shop-1", "lifecycleState": "DELETE_REQUESTED"}"#.to_owned(),
                "unavailable in request (DELETE_REQUESTED): the project `shop-1` is to be deleted: its state is `DELETE_REQUESTED`",
                "gcloud projects undelete shop-1",
            ),
            (
                "200 OK",
                r#"{"projectId": "another"}"#.to_owned(),
                "protocol in request (200): expected the project `shop-1`, got 24 bytes of application/json of another kind",
                "is it Google?",
            ),
            (
                "200 OK",
                "1".to_owned(),
                "protocol in request (-): the answer (1 byte of application/json) is JSON, but not what was expected",
                "",
            ),
        ] {
            let scripts = vec![json_of("200 OK", GRANTED), json_of(status, &body)];
            let spec = "properties: {project: shop-1}";
            let (outcome, _) = asked(key, spec, scripts).await;
            assert_eq!(summary(&outcome), expected);
            assert!(hint(&outcome).contains(way_out), "{expected}: {}", hint(&outcome));
        }
    }

    #[tokio::test]
    async fn what_tokeninfo_s_answer_means() {
        for (status, body, expected, way_out) in [
            (
                "400 Bad Request",
                r#"{"error": "invalid_token", "error_description": "Invalid Value"}"#,
                "auth in request (invalid_token): expected to be told of the token (`tokeninfo`), got 400 Bad Request: invalid_token: Invalid Value",
                "is `url` the same Google that gave it?",
            ),
            (
                "404 Not Found",
                "",
                "protocol in request (404): expected to be told of the token (`tokeninfo`), got 404 Not Found",
                "is `url` right?",
            ),
            (
                "200 OK",
                "{}",
                "protocol in request (200): expected to be told of the token (`tokeninfo`), got 2 bytes of application/json of another kind",
                "is it Google?",
            ),
            (
                "200 OK",
                "<html>",
                "protocol in request (-): the answer (6 bytes of application/json) is not JSON",
                "",
            ),
            (
                "503 Service Unavailable",
                "",
                "unavailable in request (503): expected to be told of the token (`tokeninfo`), got 503 Service Unavailable",
                "",
            ),
        ] {
            let scripts = vec![json_of("200 OK", GRANTED), json_of(status, body)];
            let (outcome, _) = asked(key, "", scripts).await;
            assert_eq!(summary(&outcome), expected);
            assert!(
                hint(&outcome).contains(way_out),
                "{expected}: {}",
                hint(&outcome)
            );
        }
    }

    /// What comes of a refusal of the token, without what all of them have.
    async fn refused(credential: fn(&str) -> Value, status: &str, body: &str) -> (String, String) {
        let (outcome, heard) = asked(credential, "", vec![json_of(status, body)]).await;
        assert_eq!(heard.len(), 1, "one attempt is one attempt");
        let said = summary(&outcome);
        let (before, rest) = said.split_once("token server `http://127.0.0.1:").unwrap();
        let (_, rest) = rest.split_once("`: ").unwrap();
        (format!("{before}{rest}"), hint(&outcome))
    }

    #[tokio::test]
    async fn why_a_key_gets_no_token() {
        for (said, way_out) in [
            ("Invalid JWT Signature.", "the key was deleted or disabled"),
            (
                "Invalid grant: account not found",
                "gcloud iam service-accounts undelete",
            ),
            ("Account disabled", "gcloud iam service-accounts enable"),
            ("Something new", "was the service account's key revoked?"),
        ] {
            let body = json!({"error": "invalid_grant", "error_description": said}).to_string();
            let (summary, hint) = refused(key, "400 Bad Request", &body).await;
            assert_eq!(
                summary,
                format!("auth in auth (invalid_grant): invalid_grant: {said}")
            );
            assert!(hint.contains(way_out), "{said}: {hint}");
        }
    }

    #[tokio::test]
    async fn a_wrong_clock_is_told_with_what_it_is_wrong_by() {
        let said = "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim.";
        let body = json!({"error": "invalid_grant", "error_description": said}).to_string();
        let now = jiff::Timestamp::now();
        for (date, expected) in [
            (Some(7530), "is 2 h 5 min behind the token server's"),
            (Some(-90), "is 1 min ahead of the token server's"),
            (Some(-200_000), "is 2 d 7 h ahead of the token server's"),
            (Some(3), "agrees with the token server's"),
            (None, "is the clock of this machine right?"),
        ] {
            let date = match date {
                None => String::new(),
                Some(seconds) => {
                    let at = now + jiff::SignedDuration::from_secs(seconds);
                    let at = at.to_zoned(jiff::tz::TimeZone::UTC);
                    format!("Date: {}\r\n", at.strftime("%a, %d %b %Y %H:%M:%S GMT"))
                }
            };
            let script = answer(format!(
                "HTTP/1.1 400 Bad Request\r\n{date}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ));
            let (outcome, _) = asked(key, "", vec![script]).await;
            check(&outcome, Reason::Auth, Phase::Auth, "short-lived token");
            assert!(hint(&outcome).contains(expected), "{}", hint(&outcome));
        }
    }

    #[tokio::test]
    async fn why_a_refresh_token_gets_no_token() {
        for (body, expected, way_out) in [
            (
                r#"{"error": "invalid_grant", "error_description": "Token has been expired or revoked."}"#,
                "auth in auth (invalid_grant): invalid_grant: Token has been expired or revoked.",
                "gcloud auth application-default login",
            ),
            (
                r#"{"error": "invalid_grant", "error_description": "Bad Request"}"#,
                "auth in auth (invalid_grant): invalid_grant: Bad Request",
                "not whole",
            ),
            (
                r#"{"error": "invalid_grant", "error_description": "Account has been deleted"}"#,
                "auth in auth (invalid_grant): invalid_grant: Account has been deleted",
                "the account was deleted",
            ),
            (
                r#"{"error": "invalid_grant", "error_description": "reauth related error (invalid_rapt)", "error_subtype": "invalid_rapt"}"#,
                "auth in auth (invalid_rapt): invalid_grant: reauth related error (invalid_rapt)",
                "session control",
            ),
            (
                r#"{"error": "invalid_client", "error_description": "The OAuth client was not found."}"#,
                "auth in auth (invalid_client): invalid_client: The OAuth client was not found.",
                "`client_id` and `client_secret`",
            ),
            (
                r#"{"error": "disabled_client", "error_description": "The OAuth client was disabled."}"#,
                "auth in auth (disabled_client): disabled_client: The OAuth client was disabled.",
                "APIs & Services",
            ),
            (
                r#"{"error": "deleted_client"}"#,
                "auth in auth (deleted_client): deleted_client",
                "log in anew",
            ),
            (
                r#"{"error": "unauthorized_client", "error_description": "Unauthorized"}"#,
                "auth in auth (unauthorized_client): unauthorized_client: Unauthorized",
                "domain-wide delegation",
            ),
            (
                r#"{"error": "account_disabled"}"#,
                "auth in auth (account_disabled): account_disabled",
                "the account is disabled",
            ),
            (
                r#"{"error": "admin_policy_enforced"}"#,
                "auth in auth (admin_policy_enforced): admin_policy_enforced",
                "Admin console",
            ),
            (
                r#"{"error": "invalid_scope", "error_description": "Bad scope"}"#,
                "permission in auth (invalid_scope): invalid_scope: Bad scope",
                "`scopes`",
            ),
            (
                r#"{"error": "internal_failure"}"#,
                "unavailable in auth (internal_failure): internal_failure",
                "",
            ),
            (
                r#"{"error": "brand_new", "error_description": "words"}"#,
                "auth in auth (brand_new): expected a token, got 401 Unauthorized: brand_new: words",
                "",
            ),
            (
                r#"{"error": {"code": 401, "status": "UNAUTHENTICATED", "message": "words"}}"#,
                "auth in auth (UNAUTHENTICATED): expected a token, got 401 Unauthorized: words",
                "",
            ),
            (
                "<html>",
                "auth in auth (401): expected a token, got 401 Unauthorized",
                "",
            ),
        ] {
            let (summary, hint) = refused(user, "401 Unauthorized", body).await;
            assert_eq!(summary, expected);
            assert!(hint.contains(way_out), "{expected}: {hint}");
        }
        // What is no answer of a token server at all.
        for (status, body, expected) in [
            (
                "200 OK",
                "{}",
                "protocol in auth (-): the answer (2 bytes of application/json) is JSON, but not what was expected",
            ),
            (
                "200 OK",
                "",
                "protocol in auth (-): the answer (an empty body) is not JSON",
            ),
            (
                "302 Found",
                "",
                "http_status in auth (302): expected a token, got 302 Found",
            ),
            (
                "200 OK",
                r#"{"access_token": "a\nb"}"#,
                "protocol in auth (-): the token cannot be sent in a header",
            ),
        ] {
            let (summary, _) = refused(user, status, body).await;
            assert_eq!(summary, expected);
        }
    }

    #[tokio::test]
    async fn a_login_that_ends_is_told() {
        let granted = r#"{"access_token": "t", "refresh_token_expires_in": 86400}"#;
        let scripts = vec![json_of("200 OK", granted), json_of("200 OK", INFO)];
        let (outcome, _) = asked(user, "", scripts).await;
        let in_a_day = jiff::Timestamp::now().as_second() + 86400;
        let told = outcome.credential_expiry.unwrap().as_second();
        assert!((in_a_day - 10..=in_a_day).contains(&told), "{told}");
        // Later than there are dates.
        let granted = format!(
            r#"{{"access_token": "t", "refresh_token_expires_in": {}}}"#,
            i64::MAX
        );
        let scripts = vec![json_of("200 OK", &granted), json_of("200 OK", INFO)];
        let (outcome, _) = asked(user, "", scripts).await;
        assert!(outcome.is_up(), "{outcome:?}");
        assert_eq!(outcome.credential_expiry, None);
    }

    #[tokio::test]
    async fn what_a_peer_echoes_is_redacted() {
        let echo = "1//r3fresh 1%2F%2Fr3fresh cl/ent-s3cret cl%2Fent-s3cret";
        let body = json!({"error": "invalid_grant", "error_description": echo}).to_string();
        let (said, _) = refused(user, "400 Bad Request", &body).await;
        assert_eq!(
            said,
            "auth in auth (invalid_grant): invalid_grant: [redacted] [redacted] [redacted] [redacted]"
        );
        let echo = r#"{"error": {"status": "INTERNAL", "message": "ya29.t0ken"}}"#;
        let scripts = vec![json_of("200 OK", GRANTED), json_of("500 Oops", echo)];
        let (outcome, _) = asked(user, "", scripts).await;
        assert!(
            summary(&outcome).ends_with(": [redacted]"),
            "{}",
            summary(&outcome)
        );
    }

    #[tokio::test]
    async fn another_s_token_is_exchanged() {
        let dir = tempfile::tempdir().unwrap();
        let (text, json) = (dir.path().join("text"), dir.path().join("json"));
        std::fs::write(&text, "ey.subj3ct.x\n").unwrap();
        std::fs::write(&json, r#"{"token": "ey.subj3ct.x"}"#).unwrap();
        let machine = Machine::default().file(&text).file(&json);
        let format = json!({"type": "json", "subject_token_field_name": "token"});
        for source in [
            json!({"file": text}),
            json!({"file": json, "format": format}),
        ] {
            let peer = Peer::new([json_of("200 OK", GRANTED)]).await;
            let at = format!("http://127.0.0.1:{}", peer.port);
            let outcome = run(&machine.by(&federated(&at, source), ""), LONG).await;
            assert_eq!(summary(&outcome), "up");
            // Nobody else knows such a token.
            assert_eq!(peer.heard().len(), 1);
            let form = form_of(&peer.heard()[0]);
            assert_eq!(
                form["grant_type"],
                "urn:ietf:params:oauth:grant-type:token-exchange"
            );
            assert_eq!(form["subject_token"], "ey.subj3ct.x");
            assert_eq!(
                form["subject_token_type"],
                "urn:ietf:params:oauth:token-type:jwt"
            );
            assert_eq!(form["audience"], "//iam.googleapis.com/projects/1/pools/p");
            assert_eq!(
                form["requested_token_type"],
                "urn:ietf:params:oauth:token-type:access_token"
            );
        }
        // A URL of it is asked with its headers, and the token becomes a service account's.
        let source = |at: &str| json!({"url": format!("{at}/subject"), "headers": {"Metadata": "True"}, "format": format});
        let impersonating = |at: &str| {
            let url = format!("{at}/v1/projects/-/serviceAccounts/a@b:generateAccessToken");
            let res = federated(at, source(at));
            let res = with(res, "service_account_impersonation_url", url.into());
            let res = with(res, "client_id", "c".into());
            with(
                res,
                "service_account_impersonation",
                json!({"token_lifetime_seconds": 600}),
            )
        };
        let scripts = vec![
            json_of("200 OK", r#"{"token": "ey.subj3ct.x"}"#),
            json_of("200 OK", GRANTED),
            json_of(
                "200 OK",
                r#"{"accessToken": "ya29.acc0unt", "expireTime": "2026-01-01T00:00:00Z"}"#,
            ),
            json_of("200 OK", INFO),
        ];
        let (outcome, heard) = asked(impersonating, "properties: {scopes: s}", scripts).await;
        assert_eq!(summary(&outcome), "up");
        assert!(heard[0].starts_with("GET /subject HTTP/1.1\r\n"));
        assert!(heard[0].contains("Metadata: True\r\n"));
        let form = form_of(&heard[1]);
        assert_eq!(
            form["scope"],
            "https://www.googleapis.com/auth/cloud-platform"
        );
        assert!(
            heard[1].contains("Authorization: Basic Yzo=\r\n"),
            "{}",
            heard[1]
        );
        assert!(heard[2].contains("Authorization: Bearer ya29.t0ken\r\n"));
        let (_, body) = heard[2].split_once("\r\n\r\n").unwrap();
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(
            body,
            json!({"delegates": [], "scope": ["s"], "lifetime": "600s"})
        );
        assert_eq!(form_of(&heard[3])["access_token"], "ya29.acc0unt");
    }

    #[tokio::test]
    async fn why_another_s_token_is_not_exchanged() {
        let source = |at: &str| json!({"url": format!("{at}/subject")});
        let credential = |at: &str| federated(at, source(at));
        let subject = || json_of("200 OK", "ey.subj3ct.x");
        for (error, said, expected, way_out) in [
            (
                "invalid_target",
                "The target service indicated by the \"audience\" parameters is invalid.",
                "not_found in auth (invalid_target)",
                "pool or provider",
            ),
            (
                "unauthorized_client",
                "The given credential is rejected by the attribute condition.",
                "auth in auth (unauthorized_client)",
                "attribute condition refuses",
            ),
            (
                "invalid_grant",
                "The audience in ID Token [x] does not match the expected audience.",
                "auth in auth (invalid_grant)",
                "allowed audiences",
            ),
            (
                "invalid_grant",
                "ID Token issued at 1 is stale to sign-in.",
                "auth in auth (invalid_grant)",
                "has ended",
            ),
            (
                "invalid_grant",
                "Error connecting to the given credential's issuer.",
                "auth in auth (invalid_grant)",
                "the keys of the token's issuer",
            ),
        ] {
            let body = json!({"error": error, "error_description": said}).to_string();
            let scripts = vec![subject(), json_of("400 Bad Request", &body)];
            let (outcome, _) = asked(credential, "", scripts).await;
            assert!(
                summary(&outcome).starts_with(expected),
                "{}",
                summary(&outcome)
            );
            assert!(summary(&outcome).contains(said));
            assert!(
                hint(&outcome).contains(way_out),
                "{said}: {}",
                hint(&outcome)
            );
        }
        for (script, expected) in [
            (json_of("500 Oops", ""), "http_status in auth (500)"),
            (json_of("200 OK", " "), "protocol in auth (-)"),
        ] {
            let (outcome, _) = asked(credential, "", vec![script]).await;
            assert!(
                summary(&outcome).starts_with(expected),
                "{}",
                summary(&outcome)
            );
            assert!(hint(&outcome).contains("`credential_source`"));
        }
    }

    #[tokio::test]
    async fn a_file_that_is_not_there_or_ended_is_told() {
        let missing = Machine::default().by(
            &federated("http://127.0.0.1:1", json!({"file": "/no/such/token"})),
            "",
        );
        let outcome = run(&missing, LONG).await;
        assert_eq!(
            summary(&outcome),
            "secret in - (-): there is no token to exchange: `/no/such/token` does not exist"
        );
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        let claims = BASE64_URL_SAFE_NO_PAD.encode(r#"{"exp": 1000000000}"#);
        std::fs::write(&file, format!("e30.{claims}.c2ln")).unwrap();
        let refusal = r#"{"error": "invalid_grant", "error_description": "expired"}"#;
        let peer = Peer::new([json_of("400 Bad Request", refusal)]).await;
        let at = format!("http://127.0.0.1:{}", peer.port);
        let credential = federated(&at, json!({"file": file}));
        let probe = Machine::default().file(&file).by(&credential, "");
        let outcome = run(&probe, LONG).await;
        assert_eq!(
            outcome.credential_expiry.map(|at| at.as_second()),
            Some(1_000_000_000)
        );
        assert!(
            hint(&outcome).contains("ended 2001-09-09T01:46:40Z"),
            "{}",
            hint(&outcome)
        );
    }

    #[tokio::test]
    async fn a_program_gives_the_token_where_that_is_allowed() {
        let said = |json: Value| json!({"executable": {"command": format!("/bin/echo '{json}'")}});
        let good = json!({
            "version": 1, "success": true, "token_type": "urn:ietf:params:oauth:token-type:jwt",
            "id_token": "ey.subj3ct.x",
        });
        let probe = |at: &str, source: Value| {
            let machine =
                Machine::default().variable("GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES", "1");
            machine.by(&federated(at, source), "")
        };
        let peer = Peer::new([json_of("200 OK", GRANTED)]).await;
        let at = format!("http://127.0.0.1:{}", peer.port);
        let outcome = run(&probe(&at, said(good.clone())), LONG).await;
        assert_eq!(summary(&outcome), "up");
        assert_eq!(form_of(&peer.heard()[0])["subject_token"], "ey.subj3ct.x");
        let told = r#"sh -c 'printf %s "{\"version\":1,\"success\":true,\"token_type\":\"urn:ietf:params:oauth:token-type:jwt\",\"id_token\":\"$GOOGLE_EXTERNAL_ACCOUNT_TOKEN_TYPE\"}"'"#;
        let outcome = run(&probe(&at, json!({"executable": {"command": told}})), LONG).await;
        assert_eq!(summary(&outcome), "up");
        assert_eq!(
            form_of(&peer.heard()[1])["subject_token"],
            "urn:ietf:params:oauth:token-type:jwt"
        );
        for (json, expected) in [
            (
                json!({"version": 1, "success": false, "code": "401", "message": "not logged in"}),
                "auth in auth (401): the program `echo` got no token: 401: not logged in",
            ),
            (
                with(good.clone(), "expiration_time", 1.into()),
                "auth in auth (-): the program `echo` gave a token that has ended",
            ),
            (
                with(good.clone(), "version", 2.into()),
                "protocol in auth (-): the program `echo` answered in a version other than 1",
            ),
            (
                with(good.clone(), "token_type", "x".into()),
                "protocol in auth (-): the program `echo` gave a token of a type that is not known",
            ),
            (
                with(good.clone(), "id_token", "".into()),
                "protocol in auth (-): the program `echo` gave no token",
            ),
            (
                json!("nonsense"),
                "protocol in auth (-): the program `echo` wrote what is no answer of an `executable`",
            ),
        ] {
            let outcome = run(&probe(&at, said(json)), LONG).await;
            assert_eq!(summary(&outcome), expected);
        }
        assert_eq!(
            peer.heard().len(),
            2,
            "nothing was asked with what is no token"
        );

        let invalid = Machine::default()
            .build(&federated(&at, said(good)), "")
            .err()
            .unwrap();
        assert!(
            invalid[0].message.contains("only when allowed"),
            "{invalid:?}"
        );
    }

    #[tokio::test]
    async fn an_account_is_impersonated() {
        let credential = |at: &str| {
            json!({
                "type": "impersonated_service_account", "delegates": ["d"],
                "source_credentials": user(at),
                "service_account_impersonation_url": format!("{at}/v1/projects/-/serviceAccounts/a@b:generateAccessToken"),
            })
        };
        let scripts = |last: Script| vec![json_of("200 OK", GRANTED), last];
        for (status, body, expected, way_out) in [
            (
                "403 Forbidden",
                r#"{"error": {"code": 403, "status": "PERMISSION_DENIED", "message": "Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist)."}}"#,
                "permission in auth (PERMISSION_DENIED): ",
                "roles/iam.serviceAccountTokenCreator",
            ),
            (
                "404 Not Found",
                r#"{"error": {"code": 404, "status": "NOT_FOUND", "message": "Not found; Gaia id not found for email a@b"}}"#,
                "not_found in auth (NOT_FOUND): ",
                "does not exist or was deleted",
            ),
            (
                "403 Forbidden",
                r#"{"error": {"code": 403, "status": "PERMISSION_DENIED", "message": "x", "details": [{"reason": "SERVICE_DISABLED", "metadata": {"service": "iamcredentials.googleapis.com", "consumer": "projects/9"}}]}}"#,
                "permission in auth (SERVICE_DISABLED): ",
                "gcloud services enable iamcredentials.googleapis.com --project=9",
            ),
            ("200 OK", "{}", "protocol in auth (-): ", ""),
        ] {
            let (outcome, heard) = asked(credential, "", scripts(json_of(status, body))).await;
            assert!(
                summary(&outcome).starts_with(expected),
                "{}",
                summary(&outcome)
            );
            assert!(hint(&outcome).contains(way_out), "{}", hint(&outcome));
            assert!(heard[1].contains(r#""delegates":["d"]"#));
        }
    }

    /// A machine of the test's own.
    #[derive(Default)]
    struct Machine {
        variables: BTreeMap<&'static str, String>,
        files: BTreeMap<String, String>,
    }

    impl Machine {
        fn variable(mut self, name: &'static str, value: impl Into<String>) -> Self {
            self.variables.insert(name, value.into());
            self
        }

        fn file(self, path: &std::path::Path) -> Self {
            let text = std::fs::read_to_string(path).unwrap();
            self.with_file(path.to_str().unwrap(), &text)
        }

        fn with_file(mut self, path: &str, text: &str) -> Self {
            self.files.insert(path.to_owned(), text.to_owned());
            self
        }

        fn build(&self, credential: &Value, spec: &str) -> Result<Arc<dyn Probe>, Vec<Invalid>> {
            let spec = format!("password: {}\n{spec}", quoted(&credential.to_string()));
            build_on(self, "gcp", &spec)
        }

        fn by(&self, credential: &Value, spec: &str) -> Arc<dyn Probe> {
            self.build(credential, spec)
                .unwrap_or_else(|invalid| panic!("{invalid:?}"))
        }

        /// Without a credential in the definition.
        async fn by_default(&self, spec: &str) -> Outcome {
            let probe = build_on(self, "gcp", spec).unwrap_or_else(|invalid| panic!("{invalid:?}"));
            run(&probe, LONG).await
        }
    }

    impl Files for Machine {
        fn read(&self, path: &str) -> Result<Secret, String> {
            let text = self.files.get(path).map(Secret::new);
            text.ok_or_else(|| format!("`{path}` does not exist"))
        }

        fn variable(&self, name: &str) -> Option<String> {
            self.variables.get(name).cloned()
        }

        fn environment(&self) -> Result<Vec<(OsString, OsString)>, String> {
            Ok(vec![("PATH".into(), "/usr/bin:/bin".into())])
        }
    }

    const CHOSEN: &str = "GOOGLE_APPLICATION_CREDENTIALS";
    const OF_GCLOUD: &str = "/home/me/.config/gcloud/application_default_credentials.json";

    #[tokio::test]
    async fn without_a_credential_it_is_looked_for_where_google_s_clients_look() {
        let scripts = || [json_of("200 OK", GRANTED), json_of("200 OK", INFO)];
        for (variables, file) in [
            (vec![(CHOSEN, "/a.json")], "/a.json"),
            (vec![("HOME", "/home/me")], OF_GCLOUD),
            (
                vec![("HOME", "/home/me"), ("CLOUDSDK_CONFIG", "/sdk")],
                "/sdk/application_default_credentials.json",
            ),
        ] {
            let peer = Peer::new(scripts()).await;
            let at = format!("http://127.0.0.1:{}", peer.port);
            let mut machine = Machine::default().with_file(file, &user(&at).to_string());
            for (name, value) in variables {
                machine = machine.variable(name, value);
            }
            let outcome = machine.by_default(&format!("url: {at}")).await;
            assert_eq!(summary(&outcome), "up", "{file}");
        }
        let peer = Peer::new(scripts().map(|script| match script {
            Script::Answer(text) => {
                let text = String::from_utf8(text).unwrap();
                answer(text.replacen("\r\n", "\r\nMetadata-Flavor: Google\r\n", 1))
            }
            other => other,
        }))
        .await;
        let machine =
            Machine::default().variable("GCE_METADATA_HOST", format!("127.0.0.1:{}", peer.port));
        let spec = format!(
            "url: http://127.0.0.1:{}\nproperties: {{scopes: [a, b]}}",
            peer.port
        );
        let outcome = machine.by_default(&spec).await;
        assert_eq!(summary(&outcome), "up");
        let first = &peer.heard()[0];
        assert!(
            first.starts_with("GET /computeMetadata/v1/instance/service-accounts/default/token?scopes=a%2Cb HTTP/1.1\r\n"),
            "{first}"
        );
        assert!(first.contains("Metadata-Flavor: Google\r\n"), "{first}");
    }

    #[tokio::test]
    async fn a_chain_that_finds_nothing_names_each_link() {
        let outcome = Machine::default()
            .variable("HOME", "/home/me")
            .variable("GCE_METADATA_HOST", "127.0.0.1:1")
            .by_default("")
            .await;
        assert_eq!(
            summary(&outcome),
            "connect_refused in connect (-): there is no credential: `GOOGLE_APPLICATION_CREDENTIALS` is not set; \
             `/home/me/.config/gcloud/application_default_credentials.json` does not exist; \
             `http://127.0.0.1:1`: `127.0.0.1:1`: connection refused"
        );
        assert!(hint(&outcome).contains("by a `secretRef`"));
        let outcome = Machine::default()
            .variable("NO_GCE_CHECK", "true")
            .by_default("")
            .await;
        assert_eq!(
            summary(&outcome),
            "secret in - (-): there is no credential: `GOOGLE_APPLICATION_CREDENTIALS` is not set; \
             neither `CLOUDSDK_CONFIG` nor `HOME` is set; `NO_GCE_CHECK` says to ask no metadata server"
        );
        for host in ["http://127.0.0.1:1", "127.0.0.1:x", "a@b", "a/b"] {
            let outcome = Machine::default()
                .variable("GCE_METADATA_HOST", host)
                .by_default("")
                .await;
            let said = summary(&outcome);
            assert!(said.starts_with("secret in - (-): "), "{said}");
            assert!(
                said.ends_with("is not of the form `host` or `host:port`"),
                "{said}"
            );
        }
        // What is named and is not there is not looked for elsewhere.
        let outcome = Machine::default()
            .variable(CHOSEN, "/no/such.json")
            .by_default("")
            .await;
        assert_eq!(
            summary(&outcome),
            "secret in - (-): `GOOGLE_APPLICATION_CREDENTIALS` names `/no/such.json`: `/no/such.json` does not exist"
        );
        let outcome = Machine::default()
            .variable("HOME", "/home/me")
            .with_file(OF_GCLOUD, "s3cret nonsense")
            .by_default("")
            .await;
        let said = summary(&outcome);
        assert!(
            said.starts_with("secret in - (-): gcloud's `/home/me/"),
            "{said}"
        );
        assert!(said.ends_with("the credential is not JSON"), "{said}");
    }

    #[tokio::test]
    async fn what_is_no_metadata_server_is_a_protocol_error() {
        let metadata = |status: &str, body: &str| {
            answer(format!(
                "HTTP/1.1 {status}\r\nMetadata-Flavor: Google\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ))
        };
        for (script, expected, way_out) in [
            (
                ok("<html>log in to the hotel"),
                "protocol in auth (200): metadata server `AT`: expected a metadata server, which answers with `Metadata-Flavor: Google`, got 200 OK without it (25 bytes)",
                "captive portal",
            ),
            (
                metadata("404 Not Found", "<html>"),
                "auth in auth (404): metadata server `AT`: no service account is attached to this machine: got 404 Not Found where its token should be",
                "attach one",
            ),
            (
                metadata("403 Forbidden", "x"),
                "permission in auth (403): metadata server `AT`: expected a token, got 403 Forbidden",
                "roles/iam.workloadIdentityUser",
            ),
            (
                metadata("503 Service Unavailable", "x"),
                "unavailable in auth (503): metadata server `AT`: expected a token, got 503 Service Unavailable",
                "",
            ),
            (
                metadata("200 OK", "{}"),
                "protocol in auth (-): metadata server `AT`: the answer (2 bytes of application/json) is JSON, but not what was expected",
                "",
            ),
        ] {
            let peer = Peer::new([script]).await;
            let at = format!("127.0.0.1:{}", peer.port);
            let outcome = Machine::default()
                .variable("GCE_METADATA_HOST", &*at)
                .by_default("")
                .await;
            let said = summary(&outcome).replace(&format!("http://{at}"), "AT");
            assert_eq!(said, expected);
            assert!(hint(&outcome).contains(way_out), "{}", hint(&outcome));
        }
    }

    #[test]
    fn a_definition_from_elsewhere_gets_nothing_of_ours() {
        let remote = |credential: &Value| {
            let secret = credential.to_string();
            let res = build_remote("gcp", KEYED, &[("json", &secret)]);
            res.map_err(|invalid| invalid[0].message.clone())
        };
        assert!(remote(&key("https://h.test")).is_ok());
        assert!(remote(&user("https://h.test")).is_ok());
        for source in [
            json!({"file": "/var/run/secrets/kubernetes.io/serviceaccount/token"}),
            json!({"url": "http://169.254.169.254/metadata/identity"}),
            json!({"executable": {"command": "/bin/id"}}),
            json!({"environment_id": "aws1", "regional_cred_verification_url": "https://a.test"}),
        ] {
            let error = remote(&federated("https://h.test", source)).err().unwrap();
            assert!(error.contains("came from the Kubernetes API"), "{error}");
        }
        let invalid = build_remote("gcp", "", &[]).err().unwrap();
        assert!(
            invalid[0].message.contains("conncheck's own is not used"),
            "{invalid:?}"
        );
        let spec = "properties: {credentials: /etc/shadow}";
        let invalid = build_remote("gcp", spec, &[]).err().unwrap();
        assert!(
            invalid[0].message.contains("files of ours are not read"),
            "{invalid:?}"
        );
    }

    #[test]
    fn where_it_is() {
        for (spec, universe, endpoint) in [
            ("", None, "https://oauth2.googleapis.com:443"),
            (
                "properties: {project: shop}",
                None,
                "https://cloudresourcemanager.googleapis.com:443",
            ),
            (
                "properties: {project: shop}",
                Some("apis-tpc.test"),
                "https://cloudresourcemanager.apis-tpc.test:443",
            ),
            (
                "url: https://psc.test:8443/base/",
                None,
                "https://psc.test:8443",
            ),
        ] {
            let credential = with(key("https://h.test"), "universe_domain", universe.into());
            let probe = by(&credential, spec).unwrap_or_else(|invalid| panic!("{invalid:?}"));
            assert_eq!(probe.endpoint(), endpoint);
        }
        // Without its secret as well.
        let probe = build_partly("gcp", KEYED).unwrap();
        assert_eq!(probe.endpoint(), "https://oauth2.googleapis.com:443");
    }

    #[tokio::test]
    async fn in_another_universe_the_key_signs_the_token_itself() {
        let credential = |at: &str| with(key(at), "universe_domain", "apis-tpc.test".into());
        let body = r#"{"projectId": "shop"}"#;
        let spec = "properties: {project: shop}";
        let (outcome, heard) = asked(credential, spec, vec![json_of("200 OK", body)]).await;
        assert_eq!(summary(&outcome), "up");
        let (_, rest) = heard[0].split_once("Authorization: Bearer ").unwrap();
        let token = rest.split("\r\n").next().unwrap();
        let claims = part(token, 1);
        assert_eq!(
            (&claims["iss"], &claims["sub"]),
            (&json!(ACCOUNT), &json!(ACCOUNT))
        );
        assert_eq!(claims.get("aud"), None);
        let invalid = by(&credential("https://h.test"), "").err().unwrap();
        assert!(
            invalid[0].message.contains("another universe"),
            "{invalid:?}"
        );
    }

    #[test]
    fn what_is_wrong_with_a_credential_is_told_without_quoting_it() {
        let elliptic = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let at = "https://h.test";
        let without = |mut json: Value, name: &str| {
            json.as_object_mut().unwrap().remove(name);
            json
        };
        let source = |source: Value| federated(at, source).to_string();
        for (text, expected, way_out) in [
            ("s3cret".to_owned(), "the credential is not JSON", "right key of the secret"),
            (KEY.clone(), "the credential is not JSON, but a bare private key", "the whole JSON"),
            ("AIzaS3cret".to_owned(), "the credential is not JSON, but an API key", "JSON of a service"),
            ("ya29.s3cret".to_owned(), "the credential is not JSON, but an access token", "JSON of a service"),
            (
                BASE64_STANDARD.encode(key(at).to_string()),
                "the credential is not JSON, but JSON in base64",
                "once too often",
            ),
            (r#"["s3cret"]"#.to_owned(), "the credential is JSON, but no object", "keys create"),
            (r#"{"a": "s3cret"}"#.to_owned(), "the credential has no `type`", "`service_account`"),
            (
                r#"{"type": "s3cret"}"#.to_owned(),
                "the credential has a `type` that is not known",
                "`service_account`",
            ),
            (
                r#"{"type": "gdch_service_account"}"#.to_owned(),
                "the credential is a `gdch_service_account`",
                "`service_account`",
            ),
            (
                r#"{"installed": {"client_secret": "s3cret"}}"#.to_owned(),
                "that is the OAuth client of an app, and no credential",
                "gcloud auth application-default login",
            ),
            (
                without(key(at), "private_key").to_string(),
                "the credential has no `private_key`",
                "all of it",
            ),
            (
                without(key(at), "client_email").to_string(),
                "the credential has no `client_email`",
                "all of it",
            ),
            (
                with(key(at), "client_email", json!(["s3cret"])).to_string(),
                "`client_email` of the credential is not text",
                "",
            ),
            (
                with(key(at), "private_key", "s3cret".into()).to_string(),
                "`private_key` of the credential is not a private key in PEM",
                "keys create",
            ),
            (
                with(key(at), "private_key", KEY.replace('\n', "\\n").into()).to_string(),
                "`private_key` of the credential is not a private key in PEM",
                "escaped once too often",
            ),
            (
                with(key(at), "private_key", elliptic.into()).to_string(),
                "`private_key` of the credential is not an RSA key of 2048 bits or more",
                "keys create",
            ),
            (
                with(key(at), "token_uri", "s3cret".into()).to_string(),
                "bad `token_uri` of the credential: it has no scheme",
                "",
            ),
            (
                with(key(at), "universe_domain", "s3cret/x".into()).to_string(),
                "`universe_domain` of the credential is not a domain",
                "",
            ),
            (
                without(user(at), "refresh_token").to_string(),
                "the credential has no `refresh_token`",
                "",
            ),
            (
                without(federated(at, json!({})), "audience").to_string(),
                "the credential has no `audience`",
                "",
            ),
            (
                without(federated(at, json!({})), "credential_source").to_string(),
                "the credential has no `credential_source`",
                "",
            ),
            (
                source(json!({})),
                "`credential_source` of the credential has neither `file`, `url` nor `executable`",
                "",
            ),
            (
                source(json!({"environment_id": "aws2"})),
                "`environment_id` of `credential_source` is not `aws1`",
                "create-cred-config",
            ),
            (
                source(json!({"environment_id": "aws1"})),
                "`credential_source` of the credential has no `regional_cred_verification_url`",
                "",
            ),
            (
                source(json!({"environment_id": "aws1", "url": "http://s3cret.test/"})),
                "`url` of `credential_source` is not at the metadata service of AWS",
                "AWS_EC2_METADATA_SERVICE_ENDPOINT",
            ),
            (
                source(json!({"environment_id": "aws1", "regional_cred_verification_url": "s3cret"})),
                "`regional_cred_verification_url` of `credential_source` is not a URL",
                "",
            ),
            (
                source(json!({"certificate": {}})),
                "the credential federates an X.509 certificate",
                "a service account's key",
            ),
            (
                source(json!({"url": "s3cret"})),
                "bad `url` of `credential_source` of the credential: it has no scheme",
                "",
            ),
            (
                source(json!({"url": at, "headers": {"a": "s3cret\n"}})),
                "`headers` of `credential_source` cannot be sent",
                "",
            ),
            (
                source(json!({"file": "/a", "format": {"type": "xml"}})),
                "`type` of the `format` of `credential_source` is neither `text` nor `json`",
                "",
            ),
            (
                source(json!({"file": "/a", "format": {"type": "json"}})),
                "`format` of `credential_source` is `json` and has no `subject_token_field_name`",
                "",
            ),
            (
                source(json!({"executable": {"command": "a 'b"}})),
                "bad `command` of the credential's `executable`: a quote in it is not closed",
                "",
            ),
            (
                source(json!({"executable": {"command": "a", "timeout_millis": 1}})),
                "`timeout_millis` of the credential's `executable` is not between 5000 and 120000",
                "",
            ),
            (
                source(json!({"executable": {"command": "a"}})),
                "the credential has a program run (`executable`), which Google's clients do only when allowed",
                "GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES=1",
            ),
            (
                json!({"type": "impersonated_service_account"}).to_string(),
                "the credential has no `source_credentials`",
                "",
            ),
            (
                json!({"type": "impersonated_service_account", "source_credentials": {"type": "x"}}).to_string(),
                "the credential has a `type` that is not known",
                "",
            ),
        ] {
            let invalid = build("gcp", KEYED, &[("json", &text)])
                .err()
                .unwrap_or_else(|| panic!("{expected}"))
                .remove(0);
            let said = invalid.message;
            let hint = invalid.hint.unwrap_or_default();
            assert!(said.starts_with(expected), "{said}, not {expected}");
            assert!(hint.contains(way_out), "{expected}: {hint}");
            assert!(!format!("{said}{hint}").contains("s3cret"), "{said} {hint}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_definition_is_told() {
        let json = quoted(&user("https://h.test").to_string());
        for (spec, expected) in [
            (
                format!("username: me\npassword: {json}"),
                "a `username` means nothing here",
            ),
            (
                format!("password: {json}\nproperties: {{credentials: {json}}}"),
                "two credentials: `properties.credentials`, and the password or secret",
            ),
            (
                format!("password: {json}\nproperties: {{project: a/b}}"),
                "`project` is neither the ID of a project",
            ),
            (
                format!("password: {json}\nproperties: {{project: ..}}"),
                "`project` is no project",
            ),
            (
                format!("password: {json}\nurl: https://me:s3cret@h.test"),
                "bad `url`: an endpoint has no user",
            ),
            (
                format!("password: {json}\nurl: https://h.test?key=s3cret"),
                "bad `url`: an endpoint has no query",
            ),
            (
                format!("password: {json}\nurl: ftp://h.test"),
                "bad `url`: this scheme is not HTTP",
            ),
            (
                "properties: {credentials: /no/such.json}".to_owned(),
                "`/no/such.json` does not exist",
            ),
        ] {
            let invalid = build("gcp", &spec, &[])
                .err()
                .unwrap_or_else(|| panic!("{spec}"));
            assert!(invalid[0].message.starts_with(expected), "{invalid:?}");
        }
        let spec = format!("password: {json}\nproperties: {{project: secret://login/project}}");
        let invalid = build("gcp", &spec, &[("project", " ")]).err().unwrap();
        assert_eq!(invalid[0].message, "`project` is empty");
        for spec in [
            format!("password: {json}"),
            format!("properties: {{credentials: {json}}}"),
        ] {
            assert!(build("gcp", &spec, &[]).is_ok(), "{spec}");
        }
        for name in ["credentials", "credentials.json", "key.json"] {
            let secret = user("https://h.test").to_string();
            let spec = "secretRef: {name: login}";
            assert!(build("gcp", spec, &[(name, &secret)]).is_ok(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,200}", json in arbitrary_json()) {
            let _ = build("gcp", KEYED, &[("json", &format!("x{text}"))]);
            for ty in ["service_account", "authorized_user", "external_account", "impersonated_service_account"] {
                let mut fields = json.clone();
                fields["type"] = ty.into();
                let _ = build("gcp", KEYED, &[("json", &fields.to_string())]);
            }
        }
    }

    /// An object with fields that mean something, and values of every kind.
    fn arbitrary_json() -> impl Strategy<Value = Value> {
        const NAMES: [&str; 8] = [
            "private_key",
            "client_email",
            "token_uri",
            "audience",
            "subject_token_type",
            "credential_source",
            "source_credentials",
            "universe_domain",
        ];
        let value = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,20}".prop_map(Value::from),
            Just(json!({"file": "/a", "url": "http://h", "executable": {"command": "a \\"}})),
        ];
        proptest::collection::btree_map(prop::sample::select(&NAMES[..]), value, 0..8)
            .prop_map(|map| json!(map))
    }
}
