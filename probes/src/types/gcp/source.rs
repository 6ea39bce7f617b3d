//! From a credential to an access token: who is asked for it, and how.
//!
//! Each attempt asks anew. A token kept from before would hide that the key has been revoked since.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use conncheck_config::Secret;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use jiff::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Value, json};
use url::{Position, Url, form_urlencoded};

use crate::address::{Mistake, mistake};
use crate::attempt::Attempt;
use crate::aws::{Identity, Sts};
use crate::cause::Cause;
use crate::http::{Conversation, Request, Response, below, endpoint_of, target};
use crate::jwt::SigningKey;
use crate::login::{bearer, granted};
use crate::outcome::{Failure, Phase, Reason};
use crate::program::Program;
use crate::sigv4::{Scope, sign};
use crate::tls::Tls;

use super::answer::{self, Asked};
use super::credentials::{Credential, Fields, nowhere};

/// What a service account's key is for: it stands in the assertion whatever `token_uri` says, as with
/// Google's clients.
const AUDIENCE: &str = "https://oauth2.googleapis.com/token";
const CLOUD_PLATFORM: &str = "https://www.googleapis.com/auth/cloud-platform";
const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// How long an assertion is good: the most that Google takes.
const LIFETIME_SECONDS: i64 = 3600;

/// How long the metadata server may take where nobody said that there is one; that of Google's clients.
const METADATA_LIMIT: Duration = Duration::from_secs(3);

/// Where a token comes from.
pub(super) enum Source {
    ServiceAccount(Box<ServiceAccount>),
    RefreshToken(RefreshToken),
    Federated(Box<Federated>),
    Metadata(Metadata),
    /// There is no credential, though one was to be had.
    Absent(Cause),
}

pub(super) struct ServiceAccount {
    pub(super) email: String,
    pub(super) key_id: Option<String>,
    pub(super) key: SigningKey,
    pub(super) url: Url,
    /// In universes other than Google's what it signs is the token.
    pub(super) signs_its_tokens: bool,
}

/// Of a person, whether Google's own or federated.
pub(super) struct RefreshToken {
    pub(super) url: Url,
    pub(super) form: Vec<(&'static str, Secret)>,
    pub(super) authorization: Option<HeaderValue>,
    pub(super) is_federated: bool,
}

/// The token of somebody else's that is exchanged for one of Google's (RFC 8693).
pub(super) struct Federated {
    pub(super) url: Url,
    pub(super) audience: String,
    pub(super) token_type: String,
    pub(super) options: Option<String>,
    pub(super) authorization: Option<HeaderValue>,
    pub(super) subject: SubjectToken,
    /// When the token in the file ends, if it says so.
    pub(super) expiry: Option<Timestamp>,
}

/// Where that token comes from.
pub(super) enum SubjectToken {
    /// A file, read when the probe was built, or why it could not be.
    File {
        token: Result<Secret, String>,
    },
    Url {
        url: Url,
        headers: HeaderMap,
        format: TokenFormat,
    },
    Program {
        program: Program,
        limit: Duration,
    },
    Aws(Box<OfAws>),
}

/// A request of AWS' that proves who we are there: Google sends it to AWS, and believes the answer.
pub(super) struct OfAws {
    pub(super) identity: Identity,
    /// Where AWS tells who somebody is, with `{region}` in the place of it.
    pub(super) url: String,
    pub(super) tls: Tls,
}

/// How the token stands in a file or an answer.
pub(super) enum TokenFormat {
    Text,
    /// JSON, with the token in this field.
    Json(String),
}

pub(super) struct Metadata {
    pub(super) url: Url,
    /// Whether somebody said where it is.
    pub(super) is_given: bool,
    /// Where a credential was looked for before, and what was there.
    pub(super) links: Vec<String>,
}

/// A service account as whom we go on.
pub(super) struct Impersonation {
    pub(super) url: Url,
    pub(super) delegates: Vec<String>,
    pub(super) lifetime_seconds: Option<u64>,
}

/// An access token.
pub(super) struct Token {
    pub(super) value: Secret,
    /// As it is sent.
    pub(super) header: HeaderValue,
    pub(super) shown: Shown,
}

/// To whom a token can be shown where there is no project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    ToTokeninfo,
    ToNobody,
}

impl Credential {
    /// A new access token.
    pub(super) async fn token(
        &self,
        attempt: &mut Attempt,
        google: &mut Conversation<'_>,
        scopes: Option<&str>,
    ) -> Result<Token, Failure> {
        let of_source = match self.impersonations.is_empty() {
            true => scopes,
            // To become another is all that the first token is for.
            false => Some(CLOUD_PLATFORM),
        };
        let mut token = self.source.token(attempt, google, of_source).await?;
        for (index, impersonation) in self.impersonations.iter().enumerate() {
            let is_last = index + 1 == self.impersonations.len();
            let scopes = scopes.filter(|_| is_last).unwrap_or(CLOUD_PLATFORM);
            token = impersonation.token(attempt, google, &token, scopes).await?;
        }
        Ok(token)
    }

    /// What it may mean that a token is not known that was given a moment ago.
    pub(super) fn unknown_token(&self) -> &'static str {
        match &self.source {
            Source::Metadata(_) if self.impersonations.is_empty() => {
                "on GKE a workload identity without a service account has tokens that `tokeninfo` does not know: give `project`"
            }
            _ => "it was given a moment ago: is `url` the same Google that gave it?",
        }
    }
}

impl Source {
    async fn token(
        &self,
        attempt: &mut Attempt,
        google: &mut Conversation<'_>,
        scopes: Option<&str>,
    ) -> Result<Token, Failure> {
        match self {
            Self::ServiceAccount(account) => account.token(attempt, google, scopes).await,
            Self::RefreshToken(token) => token.token(attempt, google, scopes).await,
            Self::Federated(federated) => federated.token(attempt, google, scopes).await,
            Self::Metadata(metadata) => metadata.token(attempt, google, scopes).await,
            Self::Absent(cause) => Err(Failure {
                phase: None,
                ..cause.clone().in_phase(Phase::Auth)
            }),
        }
    }
}

/// Asks a token server. What it says of a refusal is told with its address.
async fn ask(
    attempt: &mut Attempt,
    google: &mut Conversation<'_>,
    request: &Request,
    read: impl FnOnce(&Response) -> Result<Token, Cause>,
) -> Result<Token, Failure> {
    let response = google.ask(attempt, Phase::Auth, request).await?;
    response.whole()?;
    let token = read(&response).map_err(|cause| {
        let server = endpoint_of(&request.url);
        (cause.about(format_args!("token server `{server}`"))).in_phase(Phase::Auth)
    })?;
    attempt.keeps_secret(&token.value);
    Ok(token)
}

/// The token of a token server's answer.
fn read_token(response: &Response, asked: Asked, shown: Shown) -> Result<Token, Cause> {
    if response.status != StatusCode::OK {
        return Err(answer::no_token(response, asked));
    }
    let (header, value) = granted(response)?;
    Ok(Token {
        value,
        header,
        shown,
    })
}

fn form<'a>(
    url: &Url,
    pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    authorization: Option<&HeaderValue>,
) -> Request {
    let form = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(pairs)
        .finish();
    let mut request = Request::form(url.clone(), form);
    let login = authorization.map(|value| (header::AUTHORIZATION, value.clone()));
    request.headers.extend(login);
    request
}

impl ServiceAccount {
    async fn token(
        &self,
        attempt: &mut Attempt,
        google: &mut Conversation<'_>,
        scopes: Option<&str>,
    ) -> Result<Token, Failure> {
        let failed = |cause: Cause| cause.in_phase(Phase::Auth);
        let assertion = self
            .assertion(scopes.unwrap_or(CLOUD_PLATFORM), Timestamp::now())
            .map_err(failed)?;
        attempt.keeps_secret(&assertion);
        if self.signs_its_tokens {
            return Ok(Token {
                header: bearer(&assertion).map_err(failed)?,
                value: assertion,
                shown: Shown::ToNobody,
            });
        }
        let assertion = assertion.expose();
        let request = form(
            &self.url,
            [("grant_type", JWT_BEARER), ("assertion", assertion)],
            None,
        );
        ask(attempt, google, &request, |response| {
            read_token(response, Asked::Key, Shown::ToTokeninfo)
        })
        .await
    }

    /// What the key's holder says of itself. The time is that of our clock, right or wrong: Google
    /// refuses a wrong one, and the owner's own clients would be refused as well.
    fn assertion(&self, scopes: &str, now: Timestamp) -> Result<Secret, Cause> {
        let mut header = json!({"alg": "RS256", "typ": "JWT"});
        if let Some(id) = &self.key_id {
            header["kid"] = id.as_str().into();
        }
        let now = now.as_second();
        let mut claims = json!({
            "iss": self.email,
            "scope": scopes,
            "iat": now,
            "exp": now + LIFETIME_SECONDS,
        });
        match self.signs_its_tokens {
            true => claims["sub"] = self.email.as_str().into(),
            false => claims["aud"] = AUDIENCE.into(),
        }
        self.key.sign(&header, &claims)
    }
}

impl RefreshToken {
    async fn token(
        &self,
        attempt: &mut Attempt,
        google: &mut Conversation<'_>,
        scopes: Option<&str>,
    ) -> Result<Token, Failure> {
        #[derive(Deserialize)]
        struct Ends {
            refresh_token_expires_in: i64,
        }
        let given = self.form.iter().map(|(name, text)| (*name, text.expose()));
        // What was granted to it at the login is what it has, unless the owner wants less.
        let scopes = scopes.map(|scopes| ("scope", scopes));
        let pairs = [("grant_type", "refresh_token")].into_iter().chain(given);
        let request = form(&self.url, pairs.chain(scopes), self.authorization.as_ref());
        let shown = match self.is_federated {
            true => Shown::ToNobody,
            false => Shown::ToTokeninfo,
        };
        let mut ends = None;
        let token = ask(attempt, google, &request, |response| {
            ends = response.json::<Ends>().ok();
            read_token(response, Asked::RefreshToken, shown)
        })
        .await?;
        // Those of an app that is being tested end after a week, and some organisations end all.
        if let Some(Ends {
            refresh_token_expires_in: seconds @ 1..,
        }) = ends
            && let Ok(at) =
                Timestamp::from_second(Timestamp::now().as_second().saturating_add(seconds))
        {
            attempt.credential_expires(at);
        }
        Ok(token)
    }
}

impl Federated {
    async fn token(
        &self,
        attempt: &mut Attempt,
        google: &mut Conversation<'_>,
        scopes: Option<&str>,
    ) -> Result<Token, Failure> {
        if let Some(expiry) = self.expiry {
            attempt.credential_expires(expiry);
        }
        let subject = self.subject(attempt, google).await?;
        let mut pairs = vec![
            ("grant_type", TOKEN_EXCHANGE),
            ("audience", self.audience.as_str()),
            ("scope", scopes.unwrap_or(CLOUD_PLATFORM)),
            ("requested_token_type", ACCESS_TOKEN),
            ("subject_token", subject.expose()),
            ("subject_token_type", self.token_type.as_str()),
        ];
        pairs.extend(self.options.as_deref().map(|options| ("options", options)));
        let request = form(&self.url, pairs, self.authorization.as_ref());
        let asked = Asked::Federation {
            expiry: self.expiry,
        };
        ask(attempt, google, &request, |response| {
            read_token(response, asked, Shown::ToNobody)
        })
        .await
    }

    async fn subject(
        &self,
        attempt: &mut Attempt,
        google: &mut Conversation<'_>,
    ) -> Result<Secret, Failure> {
        let token = match &self.subject {
            SubjectToken::File { token } => token.clone().map_err(|what| Failure {
                phase: None,
                ..Cause::new(
                    Reason::Secret,
                    format!("there is no token to exchange: {what}"),
                )
                .hint("it is the file that `credential_source` of the credential names: does whoever writes it run?")
                .in_phase(Phase::Auth)
            })?,
            SubjectToken::Url {
                url,
                headers,
                format,
            } => {
                let request = Request::get(url.clone(), headers.clone());
                let response = google.ask(attempt, Phase::Auth, &request).await?;
                response.whole()?;
                read_subject(&response, format).map_err(|cause| {
                    let server = endpoint_of(url);
                    (cause.about(format_args!("`{server}`"))).in_phase(Phase::Auth)
                })?
            }
            SubjectToken::Aws(aws) => aws.token(attempt, &self.audience).await?,
            SubjectToken::Program { program, limit } => {
                attempt.limit(Some(*limit));
                let output = attempt.program(Phase::Auth, program, &[]).await;
                attempt.limit(None);
                let output = output?;
                read_output(program.name(), &output, Timestamp::now())
                    .map_err(|cause| cause.in_phase(Phase::Auth))?
            }
        };
        attempt.keeps_secret(&token);
        Ok(token)
    }
}

impl OfAws {
    async fn token(&self, attempt: &mut Attempt, audience: &str) -> Result<Secret, Failure> {
        let failed = |cause: Cause| cause.in_phase(Phase::Auth);
        let internal = |error: &dyn fmt::Display| {
            failed(Cause::new(
                Reason::Internal,
                format!("the request to AWS cannot be written: {error}"),
            ))
        };
        let begun = self.identity.begin(attempt).await?;
        let region = begun.region.clone();
        let url = Sts::url_in(&region).map_err(|error| internal(&error))?;
        let sts = Sts::new(url, self.tls.clone(), region.clone());
        let mut talk = sts.talk();
        let keys = self.identity.keys(attempt, begun, &mut talk).await?;
        talk.end().await;
        let (_, url) =
            target(&self.url.replace("{region}", &region)).map_err(|error| internal(&error))?;
        let mut request = Request {
            method: Method::POST,
            url,
            headers: HeaderMap::new(),
            body: Bytes::new(),
        };
        // It is for this provider, and for no other that would like to be us.
        let meant = HeaderValue::from_str(audience).map_err(|error| internal(&error))?;
        let name = HeaderName::from_static("x-goog-cloud-target-resource");
        request.headers.insert(name, meant);
        let scope = Scope {
            region: &region,
            service: "sts",
        };
        sign(&mut request, &keys, scope, Timestamp::now()).map_err(failed)?;
        let host = &request.url[Position::BeforeHost..Position::AfterPort];
        let header = |name: &str, value: &str| json!({"key": name, "value": value});
        let signed = request.headers.iter().map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes());
            header(name.as_str(), &value)
        });
        let headers: Vec<Value> = [header("host", host)].into_iter().chain(signed).collect();
        let token = json!({"url": request.url.as_str(), "method": "POST", "headers": headers});
        let token = utf8_percent_encode(&token.to_string(), NON_ALPHANUMERIC).to_string();
        Ok(Secret::new(token))
    }
}

/// The token in the answer of the URL that `credential_source` names.
fn read_subject(response: &Response, format: &TokenFormat) -> Result<Secret, Cause> {
    const HINT: &str = "it is the URL that `credential_source` of the credential names";
    if response.status != StatusCode::OK {
        let cause = response.unexpected("a token to exchange");
        return Err(match cause.hint {
            Some(_) => cause,
            None => cause.hint(HINT),
        });
    }
    if response.is_truncated {
        return Err(Cause::protocol("the answer is longer than the 1 MiB that is read").hint(HINT));
    }
    let text = Secret::new(response.text());
    format
        .token_of(&text)
        .map_err(|what| Cause::protocol(format!("the answer {what}")).hint(HINT))
}

/// The token in what an executable of `credential_source` wrote.
fn read_output(name: &str, output: &Secret, now: Timestamp) -> Result<Secret, Cause> {
    #[derive(Deserialize)]
    struct Output {
        version: u64,
        success: bool,
        #[serde(default)]
        token_type: String,
        id_token: Option<Secret>,
        saml_response: Option<Secret>,
        expiration_time: Option<i64>,
        code: Option<Value>,
        message: Option<String>,
    }
    let wrong = |what: &str| {
        Cause::protocol(format!("the program `{name}` {what}")).hint(
            "run it by hand: it must write the JSON that Google's clients expect of an `executable`, and nothing else",
        )
    };
    let read: Output = serde_json::from_str(output.expose())
        .map_err(|_| wrong("wrote what is no answer of an `executable`"))?;
    if read.version != 1 {
        return Err(wrong("answered in a version other than 1"));
    }
    if !read.success {
        let code = match &read.code {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => String::new(),
        };
        let said = read.message.unwrap_or_default();
        let what = match (code.as_str(), said.as_str()) {
            ("", "") => "and did not say why".to_owned(),
            (code, "") => code.to_owned(),
            ("", said) => said.to_owned(),
            (code, said) => format!("{code}: {said}"),
        };
        let cause = Cause::new(
            Reason::Auth,
            format!("the program `{name}` got no token: {what}"),
        )
        .hint("run it by hand as the user that conncheck runs as");
        return Err(match code.is_empty() {
            true => cause,
            false => cause.code(code),
        });
    }
    if read.expiration_time.is_some_and(|at| at < now.as_second()) {
        return Err(Cause::new(
            Reason::Auth,
            format!("the program `{name}` gave a token that has ended"),
        )
        .hint("run it by hand as the user that conncheck runs as"));
    }
    let token = match read.token_type.as_str() {
        "urn:ietf:params:oauth:token-type:jwt" | "urn:ietf:params:oauth:token-type:id_token" => {
            read.id_token
        }
        "urn:ietf:params:oauth:token-type:saml2" => read.saml_response,
        _ => return Err(wrong("gave a token of a type that is not known")),
    };
    token
        .filter(|token| !token.is_empty())
        .ok_or_else(|| wrong("gave no token"))
}

impl TokenFormat {
    pub(super) fn read(source: &Fields<'_>) -> Result<Self, Mistake> {
        let Some(format) = source.section("format", "`format` of `credential_source`")? else {
            return Ok(Self::Text);
        };
        match format.optional("type")?.as_deref() {
            None | Some("text") => Ok(Self::Text),
            Some("json") => match format.optional("subject_token_field_name")? {
                Some(name) => Ok(Self::Json(name)),
                None => Err(mistake(
                    "`format` of `credential_source` is `json` and has no `subject_token_field_name`",
                )),
            },
            Some(_) => Err(mistake(
                "`type` of the `format` of `credential_source` is neither `text` nor `json`",
            )),
        }
    }

    /// The token, or what is wrong with the text. Quotes nothing of it.
    pub(super) fn token_of(&self, text: &Secret) -> Result<Secret, String> {
        let token = match self {
            Self::Text => text.trimmed(),
            Self::Json(name) => {
                let json: Value = serde_json::from_str(text.expose())
                    .map_err(|_| "is not JSON, as `format` says".to_owned())?;
                match json.get(name).and_then(Value::as_str) {
                    Some(token) => Secret::new(token),
                    None => return Err("has no token in the field that `format` names".to_owned()),
                }
            }
        };
        match token.is_empty() {
            true => Err("is empty".to_owned()),
            false => Ok(token),
        }
    }
}

const FLAVOR: HeaderName = HeaderName::from_static("metadata-flavor");

impl Metadata {
    async fn token(
        &self,
        attempt: &mut Attempt,
        google: &mut Conversation<'_>,
        scopes: Option<&str>,
    ) -> Result<Token, Failure> {
        let scopes = scopes.map(|scopes| scopes.replace(' ', ","));
        let query: Vec<_> = scopes
            .iter()
            .map(|scopes| ("scopes", scopes.as_str()))
            .collect();
        let path = [
            "computeMetadata",
            "v1",
            "instance",
            "service-accounts",
            "default",
            "token",
        ];
        let url = below(&self.url, &path, &query)
            .map_err(|error| Cause::new(Reason::Internal, error).in_phase(Phase::Auth))?;
        let flavor = HeaderMap::from_iter([(FLAVOR, HeaderValue::from_static("Google"))]);
        let request = Request::get(url, flavor);
        if !self.is_given {
            let half = attempt.time_left() / 2;
            attempt.limit(Some(METADATA_LIMIT.min(half)));
        }
        let res = google.ask(attempt, Phase::Auth, &request).await;
        attempt.limit(None);
        let response = res.map_err(|failure| self.not_there(failure))?;
        response.whole()?;
        let token = self.read(&response).map_err(|cause| {
            let server = endpoint_of(&self.url);
            (cause.about(format_args!("metadata server `{server}`"))).in_phase(Phase::Auth)
        })?;
        attempt.keeps_secret(&token.value);
        Ok(token)
    }

    /// Nobody answers there: nothing is left to try.
    fn not_there(&self, failure: Failure) -> Failure {
        if !matches!(failure.phase, Some(Phase::Resolve | Phase::Connect)) {
            return failure;
        }
        let links: Vec<String> = self
            .links
            .iter()
            .cloned()
            .chain([failure.message])
            .collect();
        let cause = nowhere(&links);
        // A name that nobody has means that this is no machine of Google's. One that has it, and where
        // nobody answers, is one whose metadata server is down.
        let reason = match failure.code.as_deref() {
            Some("NXDOMAIN") if !self.is_given => Reason::Secret,
            _ => failure.reason,
        };
        Failure {
            reason,
            message: cause.message,
            hint: cause.hint,
            ..failure
        }
    }

    fn read(&self, response: &Response) -> Result<Token, Cause> {
        let flavor = response.header(FLAVOR);
        if flavor.as_deref() != Some("Google") {
            return Err(Cause::protocol(format!(
                "expected a metadata server, which answers with `Metadata-Flavor: Google`, got {} without it ({})",
                crate::http::shown(response.status),
                response.describe()
            ))
            .code(response.status.as_str())
            .hint("something else answers there: a captive portal, a proxy, or another cloud's metadata server"));
        }
        match response.status {
            StatusCode::OK => {
                let (header, value) = granted(response)?;
                Ok(Token {
                    value,
                    header,
                    shown: Shown::ToTokeninfo,
                })
            }
            StatusCode::NOT_FOUND => Err(Cause::new(
                Reason::Auth,
                "no service account is attached to this machine: got 404 Not Found where its token should be",
            )
            .code("404")
            .hint("attach one (`gcloud compute instances set-service-account`), or on GKE bind one to the pod's workload identity; or give a credential")),
            _ => {
                let cause = answer::refused(response, "a token");
                Err(match (response.status, &cause.hint) {
                    (StatusCode::FORBIDDEN, None) => cause.hint(
                        "on GKE: may the pod's Kubernetes service account act as the service account (`roles/iam.workloadIdentityUser`)?",
                    ),
                    _ => cause,
                })
            }
        }
    }
}

impl Impersonation {
    async fn token(
        &self,
        attempt: &mut Attempt,
        google: &mut Conversation<'_>,
        source: &Token,
        scopes: &str,
    ) -> Result<Token, Failure> {
        let scopes: Vec<&str> = scopes.split_whitespace().collect();
        let lifetime = self.lifetime_seconds.unwrap_or(3600);
        let body = json!({
            "delegates": self.delegates,
            "scope": scopes,
            "lifetime": format!("{lifetime}s"),
        });
        let json = HeaderValue::from_static("application/json");
        let request = Request {
            method: Method::POST,
            url: self.url.clone(),
            headers: HeaderMap::from_iter([
                (header::AUTHORIZATION, source.header.clone()),
                (header::CONTENT_TYPE, json.clone()),
                (header::ACCEPT, json),
            ]),
            body: Bytes::from(body.to_string()),
        };
        ask(attempt, google, &request, read_impersonated).await
    }
}

fn read_impersonated(response: &Response) -> Result<Token, Cause> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Generated {
        access_token: Secret,
    }
    if response.status != StatusCode::OK {
        let cause = answer::refused(response, "a token of the service account");
        return Err(match (cause.reason, cause.code.as_deref()) {
            (Reason::Permission, Some("PERMISSION_DENIED")) => cause.hint(
                "the account does not exist, or the credential may not act as it: grant it `roles/iam.serviceAccountTokenCreator` (or `workloadIdentityUser`) on that account by `gcloud iam service-accounts add-iam-policy-binding`",
            ),
            (Reason::NotFound, _) => cause.hint(
                "the service account in `service_account_impersonation_url` does not exist or was deleted: `gcloud iam service-accounts list`",
            ),
            _ => cause,
        });
    }
    let generated: Generated = response.json()?;
    Ok(Token {
        header: bearer(&generated.access_token)?,
        value: generated.access_token,
        shown: Shown::ToTokeninfo,
    })
}
