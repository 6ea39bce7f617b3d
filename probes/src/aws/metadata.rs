//! Credentials of the machine that we run on: its container (ECS, EKS), or its instance (EC2).

use std::net::IpAddr;
use std::time::Duration;

use conncheck_config::{Field, Secret};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;
use url::Url;

use crate::attempt::Attempt;
use crate::cause::Cause;
use crate::http::{Client, Conversation, Request, Response, endpoint_of, target};
use crate::outcome::{Failure, Phase, Reason};
use crate::probe::{Access, Invalid};
use crate::several::named;
use crate::sigv4::Keys;
use crate::tls::{Tls, TlsOptions};

/// Who answers at all does so in milliseconds; where nobody is there, packets to it vanish.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is asked for lasts longer than an attempt.
const TOKEN_SECONDS: &str = "60";

/// The credentials of a container: `AWS_CONTAINER_CREDENTIALS_…`.
pub(super) struct Container {
    url: Url,
    tls: Tls,
    authorization: Option<HeaderValue>,
}

impl Container {
    /// What the environment says; nothing if we are in no such container.
    pub(super) fn of(
        access: &Access<'_>,
        field: Field,
        secrets: &mut Vec<Secret>,
    ) -> Result<Option<Self>, Invalid> {
        let variable = |name| access.variable(field, name);
        let relative = variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")?;
        let full = variable("AWS_CONTAINER_CREDENTIALS_FULL_URI")?;
        let (name, text) = match (relative, full) {
            (Some(path), _) => (
                "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
                format!("http://169.254.170.2{path}"),
            ),
            (None, Some(url)) => ("AWS_CONTAINER_CREDENTIALS_FULL_URI", url),
            (None, None) => return Ok(None),
        };
        let (_, url) = target(&text)
            .map_err(|error| access.invalid(field, format!("bad `{name}`: {error}")))?;
        if !may_be_asked(&url) {
            return Err(access
                .invalid(
                    field,
                    format!("`{name}` leads neither to this machine nor to a container's own address, and is not `https://`"),
                )
                .hint("a token would be sent there in plain text"));
        }
        let token = match variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")? {
            Some(path) => Some(access.file(field, &path)?.trimmed()),
            None => variable("AWS_CONTAINER_AUTHORIZATION_TOKEN")?.map(Secret::new),
        };
        let authorization = match token {
            None => None,
            Some(token) => {
                let mut value = HeaderValue::from_str(token.expose()).map_err(|_| {
                    access.invalid(
                        field,
                        "the container's authorization token has characters that no header may have",
                    )
                })?;
                value.set_sensitive(true);
                secrets.push(token);
                Some(value)
            }
        };
        Ok(Some(Self {
            url,
            tls: access.tls(&TlsOptions::default())?,
            authorization,
        }))
    }

    pub(super) async fn keys(&self, attempt: &mut Attempt) -> Result<Keys, Failure> {
        let client = Client::for_home(&self.url, self.tls.clone(), None);
        let mut talk = client.conversation();
        attempt.talks_to(Some(endpoint_of(&self.url)));
        let mut request = Request::get(self.url.clone(), HeaderMap::new());
        if let Some(value) = &self.authorization {
            let value = value.clone();
            request.headers.insert(header::AUTHORIZATION, value);
        }
        let response = talk.ask(attempt, Phase::Auth, &request).await?;
        attempt.talks_to(None);
        let whole = response.whole();
        whole.map_err(|failure| named(&endpoint_of(&self.url), failure))?;
        let keys = self.read(&response).map_err(|cause| {
            let server = endpoint_of(&self.url);
            (cause.about(format_args!("container credentials at `{server}`"))).in_phase(Phase::Auth)
        })?;
        talk.end().await;
        Ok(keys)
    }

    fn read(&self, response: &Response) -> Result<Keys, Cause> {
        if response.status == StatusCode::OK {
            return granted(response);
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Refused {
            code: String,
            message: String,
        }
        let cause = response.unexpected("credentials");
        let refused: Refused = response.json().unwrap_or_default();
        let cause = match refused {
            Refused { code, message } if !code.is_empty() => Cause {
                message: format!("{}: {code}: {message}", cause.message),
                code: Some(code),
                ..cause
            },
            _ => cause,
        };
        let reason = match response.status.as_u16() {
            400 | 401 | 403 | 404 => Reason::Auth,
            _ => cause.reason,
        };
        Err(Cause { reason, ..cause }.hint(
            "has the task a role (ECS), the service account an association (EKS Pod Identity)?",
        ))
    }
}

/// In plain text only to this machine and to the addresses that ECS and EKS have for it.
fn may_be_asked(url: &Url) -> bool {
    const OF_CONTAINERS: [&str; 3] = ["169.254.170.2", "169.254.170.23", "fd00:ec2::23"];
    if url.scheme() == "https" {
        return true;
    }
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match host.parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback() || OF_CONTAINERS.contains(&host),
        Err(_) => host == "localhost",
    }
}

/// The metadata service of an instance, version 2.
pub(super) struct Instance {
    url: Url,
    tls: Tls,
}

/// What an instance gave.
pub(super) struct OfInstance {
    pub(super) keys: Keys,
    pub(super) region: Option<String>,
}

impl Instance {
    /// Where the environment says that it is; nothing if it is not to be asked.
    pub(super) fn of(access: &Access<'_>, field: Field) -> Result<Option<Self>, Invalid> {
        let variable = |name| access.variable(field, name);
        let disabled = variable("AWS_EC2_METADATA_DISABLED")?;
        if disabled.is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let mode = variable("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE")?;
        let is_ipv6 = mode.is_some_and(|mode| mode.eq_ignore_ascii_case("ipv6"));
        let endpoint = match variable("AWS_EC2_METADATA_SERVICE_ENDPOINT")? {
            Some(endpoint) => endpoint,
            None if is_ipv6 => "http://[fd00:ec2::254]".to_owned(),
            None => "http://169.254.169.254".to_owned(),
        };
        let (_, url) = target(&endpoint).map_err(|error| {
            access.invalid(
                field,
                format!("bad `AWS_EC2_METADATA_SERVICE_ENDPOINT`: {error}"),
            )
        })?;
        Ok(Some(Self {
            url,
            tls: access.tls(&TlsOptions::default())?,
        }))
    }

    /// The credentials of its role, and its region if it is wanted.
    pub(super) async fn ask(
        &self,
        attempt: &mut Attempt,
        wants_region: bool,
    ) -> Result<OfInstance, Failure> {
        let client = Client::for_home(&self.url, self.tls.clone(), None);
        let mut talk = client.conversation();
        attempt.talks_to(Some(endpoint_of(&self.url)));
        attempt.limit(Some(PATIENCE));
        let res = self.conversation(attempt, &mut talk, wants_region).await;
        attempt.limit(None);
        attempt.talks_to(None);
        let given = res.map_err(|failure| match failure.reason {
            Reason::Timeout if failure.phase == Some(Phase::Auth) => Failure {
                hint: Some("from within a container the answer may be one hop too far: raise the instance's hop limit to 2".into()),
                ..failure
            },
            Reason::Timeout | Reason::ConnectRefused | Reason::ConnectUnreachable => Failure {
                hint: Some("only an EC2 instance has one: is this one, and is its metadata service on?".into()),
                ..failure
            },
            _ => failure,
        })?;
        talk.end().await;
        Ok(given)
    }

    async fn conversation(
        &self,
        attempt: &mut Attempt,
        talk: &mut Conversation<'_>,
        wants_region: bool,
    ) -> Result<OfInstance, Failure> {
        const ROLES: &str = "latest/meta-data/iam/security-credentials/";
        let mut request = Request::get(self.at("latest/api/token"), HeaderMap::new());
        request.method = Method::PUT;
        request.headers.insert(
            HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds"),
            HeaderValue::from_static(TOKEN_SECONDS),
        );
        let response = talk.ask(attempt, Phase::Auth, &request).await?;
        let token = self.text(&response, "a token (IMDSv2)", |status| match status {
            StatusCode::FORBIDDEN => Some("the instance's metadata service is switched off"),
            _ => Some("is it the metadata service of an instance?"),
        })?;
        attempt.keeps_secret(&token);
        let mut token = HeaderValue::from_str(token.expose()).map_err(|_| {
            self.wrong(Cause::protocol(
                "the token has characters that no header may have",
            ))
        })?;
        token.set_sensitive(true);
        let about = |path: &str| {
            let mut request = Request::get(self.at(path), HeaderMap::new());
            let name = HeaderName::from_static("x-aws-ec2-metadata-token");
            request.headers.insert(name, token.clone());
            request
        };
        let response = talk.ask(attempt, Phase::Auth, &about(ROLES)).await?;
        let roles = self.text(&response, "the name of the instance's role", |status| {
            let is_missing = status == StatusCode::NOT_FOUND;
            is_missing.then_some("the instance has no role: attach an instance profile")
        })?;
        let role = roles.expose().lines().next().unwrap_or_default().trim();
        if role.is_empty() {
            let cause = Cause::new(Reason::Auth, "the instance has no role")
                .hint("attach an instance profile");
            return Err(self.wrong(cause));
        }
        let response = talk
            .ask(attempt, Phase::Auth, &about(&format!("{ROLES}{role}")))
            .await?;
        self.text(&response, "the credentials of the instance's role", |_| {
            None
        })?;
        let keys = granted(&response).map_err(|cause| self.wrong(cause))?;
        let region = match wants_region {
            false => None,
            true => {
                let path = "latest/meta-data/placement/region";
                let response = talk.ask(attempt, Phase::Auth, &about(path)).await?;
                let region =
                    self.text(&response, "the instance's region", |_| Some("set `region`"))?;
                Some(region.expose().to_owned())
            }
        };
        Ok(OfInstance { keys, region })
    }

    fn at(&self, path: &str) -> Url {
        let mut url = self.url.clone();
        url.set_path(&format!("{}/{path}", url.path().trim_end_matches('/')));
        url
    }

    /// The text of an answer that is a success.
    fn text(
        &self,
        response: &Response,
        expected: &str,
        hint: impl Fn(StatusCode) -> Option<&'static str>,
    ) -> Result<Secret, Failure> {
        if response.status == StatusCode::OK && response.is_html() {
            let got = response.describe();
            let cause = Cause::protocol(format!("expected {expected}, got {got}"))
                .hint("does a proxy answer in its place?");
            return Err(self.wrong(cause));
        }
        if response.status == StatusCode::OK {
            let whole = response.whole();
            whole.map_err(|failure| named(&endpoint_of(&self.url), failure))?;
            return Ok(Secret::new(response.text().trim()));
        }
        let cause = response.unexpected(expected);
        let reason = match response.status.as_u16() {
            400 | 401 | 403 | 404 => Reason::Auth,
            _ => cause.reason,
        };
        let cause = Cause { reason, ..cause };
        Err(self.wrong(match hint(response.status) {
            Some(hint) => cause.hint(hint),
            None => cause,
        }))
    }

    fn wrong(&self, cause: Cause) -> Failure {
        let server = endpoint_of(&self.url);
        (cause.about(format_args!("instance metadata at `{server}`"))).in_phase(Phase::Auth)
    }
}

/// What both services answer, and programs likewise.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Granted {
    version: Option<u32>,
    code: Option<String>,
    message: Option<String>,
    access_key_id: Option<Secret>,
    secret_access_key: Option<Secret>,
    #[serde(alias = "SessionToken")]
    token: Option<Secret>,
    expiration: Option<String>,
}

fn granted(response: &Response) -> Result<Keys, Cause> {
    let granted: Granted = response.json()?;
    if let Some(code) = granted.code.as_deref().filter(|code| *code != "Success") {
        let message = match &granted.message {
            Some(message) => format!("it has no credentials: {code}: {message}"),
            None => format!("it has no credentials: {code}"),
        };
        return Err(Cause::new(Reason::Auth, message)
            .code(code)
            .hint("does the role still exist, and may the service assume it?"));
    }
    granted
        .keys()
        .map_err(|what| Cause::protocol(format!("its credentials are of no use: {what}")))
}

/// What a program (`credential_process`) wrote.
pub(super) fn of_program(name: &str, output: &Secret) -> Result<Keys, Cause> {
    let wrong = |what: &str| {
        Cause::protocol(format!("the program `{name}` {what}")).hint(
            "run it by hand: it must write what `credential_process` is to write, and nothing else",
        )
    };
    let granted: Granted = serde_json::from_str(output.expose())
        .map_err(|_| wrong("wrote what is not JSON with credentials"))?;
    if granted.version != Some(1) {
        return Err(wrong("wrote no `\"Version\": 1`"));
    }
    granted
        .keys()
        .map_err(|what| wrong(&format!("gave keys of no use: {what}")))
}

impl Granted {
    fn keys(&self) -> Result<Keys, String> {
        let empty = Secret::default();
        let access_key = self.access_key_id.as_ref().unwrap_or(&empty);
        let secret_key = self.secret_access_key.as_ref().unwrap_or(&empty);
        let mut keys = Keys::new(access_key, secret_key, self.token.as_ref())?;
        keys.expiry = match self.expiration.as_deref() {
            None | Some("") => None,
            Some(time) => Some(
                time.parse::<Timestamp>()
                    .map_err(|_| "`Expiration` is no time".to_owned())?,
            ),
        };
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_goes_to_this_machine_alone() {
        for (url, expected) in [
            ("http://127.0.0.1:51679/x", true),
            ("http://[::1]/x", true),
            ("http://localhost/x", true),
            ("http://169.254.170.2/v2", true),
            ("http://169.254.170.23/v1", true),
            ("http://[fd00:ec2::23]/v1", true),
            ("https://vault.test/x", true),
            ("http://169.254.169.254/x", false),
            ("http://vault.test/x", false),
            ("http://10.0.0.1/x", false),
        ] {
            assert_eq!(may_be_asked(&Url::parse(url).unwrap()), expected, "{url}");
        }
    }

    #[test]
    fn what_a_program_writes() {
        let read = |text: &str| of_program("p", &Secret::new(text));
        let keys = read(r#"{"Version":1,"AccessKeyId":"A","SecretAccessKey":"M4RK3R","SessionToken":"t","Expiration":"2026-11-25T12:00:00Z"}"#).unwrap();
        assert_eq!(keys.expiry, "2026-11-25T12:00:00Z".parse().ok());
        assert!(keys.have_a_token());
        for (text, message) in [
            ("", "wrote what is not JSON with credentials"),
            ("M4RK3R", "wrote what is not JSON with credentials"),
            (r#"{"AccessKeyId":"M4RK3R"}"#, "wrote no `\"Version\": 1`"),
            (
                r#"{"Version":1,"AccessKeyId":"M4RK3R"}"#,
                "gave keys of no use: the secret key is empty",
            ),
            (
                r#"{"Version":1,"AccessKeyId":"A","SecretAccessKey":"B","Expiration":"M4RK3R"}"#,
                "gave keys of no use: `Expiration` is no time",
            ),
        ] {
            let Err(cause) = read(text) else {
                panic!("{text}");
            };
            assert_eq!(cause.reason, Reason::Protocol);
            assert_eq!(cause.message, format!("the program `p` {message}"));
        }
    }
}
