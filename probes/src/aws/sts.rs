//! STS: who we are, and sessions for roles.

use std::borrow::Cow;

use bytes::Bytes;
use conncheck_config::Secret;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use jiff::{SignedDuration, Timestamp};
use url::{Url, form_urlencoded};

use super::Role;
use crate::attempt::Attempt;
use crate::cause::Cause;
use crate::http::{Client, Conversation, Request, Response};
use crate::outcome::{Failure, Phase, Reason};
use crate::sigv4::{Keys, Scope, sign};
use crate::tls::Tls;

const VERSION: &str = "2011-06-15";

/// An endpoint of STS.
pub(crate) struct Sts {
    client: Client,
    url: Url,
    region: String,
}

/// Whom it takes us for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) account: String,
    pub(crate) arn: String,
}

impl Sts {
    pub(crate) fn new(url: Url, tls: Tls, region: String) -> Self {
        Self {
            client: Client::for_home(&url, tls, None),
            url,
            region,
        }
    }

    /// Where it is in a region: each partition has a domain of its own.
    pub(crate) fn url_in(region: &str) -> Result<Url, url::ParseError> {
        let domain = match region {
            // As some SDKs call the one endpoint that there was before regions.
            "aws-global" => return Url::parse("https://sts.amazonaws.com/"),
            region if region.starts_with("cn-") => "amazonaws.com.cn",
            region if region.starts_with("us-iso-") => "c2s.ic.gov",
            region if region.starts_with("us-isob-") => "sc2s.sgov.gov",
            region if region.starts_with("us-isof-") => "csp.hci.ic.gov",
            region if region.starts_with("eu-isoe-") => "cloud.adc-e.uk",
            region if region.starts_with("eusc-") => "amazonaws.eu",
            _ => "amazonaws.com",
        };
        Url::parse(&format!("https://sts.{region}.{domain}/"))
    }

    /// The region that a host of AWS' own names.
    pub(crate) fn region_in(host: &str) -> Option<&str> {
        if !host.contains(".amazonaws.") {
            return None;
        }
        let mut labels = host
            .split('.')
            .skip_while(|label| !matches!(*label, "sts" | "sts-fips"));
        labels.next()?;
        match labels.next()? {
            "amazonaws" => Some("us-east-1"),
            region => Some(region),
        }
    }

    pub(crate) fn talk(&self) -> Talk<'_> {
        Talk {
            sts: self,
            conversation: self.client.conversation(),
        }
    }

    fn signed_region(&self) -> &str {
        match self.region.as_str() {
            "aws-global" => "us-east-1",
            region => region,
        }
    }
}

/// Several questions over one connection.
pub(crate) struct Talk<'a> {
    sts: &'a Sts,
    conversation: Conversation<'a>,
}

impl Talk<'_> {
    /// Who we are with these keys.
    pub(crate) async fn who_am_i(
        &mut self,
        attempt: &mut Attempt,
        keys: &Keys,
    ) -> Result<Caller, Failure> {
        let phase = Phase::Request;
        let response = self
            .ask(
                attempt,
                phase,
                &[("Action", "GetCallerIdentity")],
                Some(keys),
            )
            .await?;
        let expected = "to be told who we are (`GetCallerIdentity`)";
        let text = self.judge(
            &response,
            phase,
            expected,
            Some(keys),
            "`sts:GetCallerIdentity`",
        )?;
        match (element(&text, "Account"), element(&text, "Arn")) {
            (Some(account), Some(arn)) => Ok(Caller {
                account: account.into_owned(),
                arn: arn.into_owned(),
            }),
            _ => Err(not_of_sts(&response, expected).in_phase(phase)),
        }
    }

    /// A session for a role.
    pub(crate) async fn assume(
        &mut self,
        attempt: &mut Attempt,
        keys: &Keys,
        role: &Role,
    ) -> Result<Keys, Failure> {
        let mut form = role.form("AssumeRole");
        if let Some(id) = &role.external_id {
            form.push(("ExternalId", id.expose()));
        }
        let response = self.ask(attempt, Phase::Auth, &form, Some(keys)).await?;
        let expected = format!("a session of the role `{}` (`AssumeRole`)", role.name());
        self.session(attempt, &response, &expected, Some(keys), ASSUME)
    }

    /// The same for whom an identity provider vouches.
    pub(crate) async fn assume_with_token(
        &mut self,
        attempt: &mut Attempt,
        token: &Secret,
        role: &Role,
    ) -> Result<Keys, Failure> {
        let mut form = role.form("AssumeRoleWithWebIdentity");
        form.push(("WebIdentityToken", token.expose()));
        let response = self.ask(attempt, Phase::Auth, &form, None).await?;
        let expected = format!(
            "a session of the role `{}` (`AssumeRoleWithWebIdentity`)",
            role.name()
        );
        self.session(attempt, &response, &expected, None, ASSUME_WITH_TOKEN)
    }

    pub(crate) async fn end(self) {
        self.conversation.end().await;
    }

    async fn ask(
        &mut self,
        attempt: &mut Attempt,
        phase: Phase,
        form: &[(&str, &str)],
        keys: Option<&Keys>,
    ) -> Result<Response, Failure> {
        let body = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(form)
            .append_pair("Version", VERSION)
            .finish();
        let mut request = Request {
            method: Method::POST,
            url: self.sts.url.clone(),
            headers: HeaderMap::from_iter([(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/x-www-form-urlencoded; charset=utf-8"),
            )]),
            body: Bytes::from(body),
        };
        if let Some(keys) = keys {
            let scope = Scope {
                region: self.sts.signed_region(),
                service: "sts",
            };
            sign(&mut request, keys, scope, Timestamp::now())
                .map_err(|cause| cause.in_phase(phase))?;
        }
        self.conversation.ask(attempt, phase, &request).await
    }

    fn session(
        &self,
        attempt: &mut Attempt,
        response: &Response,
        expected: &str,
        keys: Option<&Keys>,
        allow: &str,
    ) -> Result<Keys, Failure> {
        let phase = Phase::Auth;
        let text = self.judge(response, phase, expected, keys, allow)?;
        let part = |name| element(&text, name).map(Secret::new);
        let parts = (
            part("AccessKeyId"),
            part("SecretAccessKey"),
            part("SessionToken"),
        );
        let (Some(access_key), Some(secret_key), Some(token)) = parts else {
            return Err(not_of_sts(response, expected).in_phase(phase));
        };
        let mut keys = Keys::new(&access_key, &secret_key, Some(&token)).map_err(|what| {
            Cause::protocol(format!("STS gave a session of no use: {what}")).in_phase(phase)
        })?;
        keys.expiry = element(&text, "Expiration").and_then(|time| time.parse().ok());
        keys.secrets()
            .for_each(|secret| attempt.keeps_secret(secret));
        if let Some(expiry) = keys.expiry {
            attempt.credential_expires(expiry);
        }
        Ok(keys)
    }

    /// The whole text of a success, or what else it is.
    fn judge<'r>(
        &self,
        response: &'r Response,
        phase: Phase,
        expected: &str,
        keys: Option<&Keys>,
        allow: &str,
    ) -> Result<Cow<'r, str>, Failure> {
        if response.status == StatusCode::OK {
            response.whole()?;
            return Ok(response.text());
        }
        let region = self.sts.signed_region();
        let about = About {
            keys,
            allow,
            region,
        };
        Err(about
            .explain(response, expected, Timestamp::now())
            .in_phase(phase))
    }
}

const ASSUME: &str = "`sts:AssumeRole`";
const ASSUME_WITH_TOKEN: &str = "`sts:AssumeRoleWithWebIdentity`";

fn not_of_sts(response: &Response, expected: &str) -> Cause {
    let got = response.describe();
    Cause::protocol(format!("expected {expected}, got {got} of another kind"))
        .code(response.status.as_str())
        .hint("is it the endpoint of STS?")
}

/// What a refusal is about.
pub(crate) struct About<'a> {
    pub(crate) keys: Option<&'a Keys>,
    /// The right that was needed.
    pub(crate) allow: &'a str,
    pub(crate) region: &'a str,
}

impl About<'_> {
    /// What a refusal means: AWS' code, its words, and the way out.
    pub(crate) fn explain(&self, response: &Response, expected: &str, now: Timestamp) -> Cause {
        let Some(refusal) = Refusal::of(response) else {
            let cause = response.unexpected(expected);
            return match cause.hint {
                Some(_) => cause,
                None => cause
                    .hint("is it an endpoint of AWS, and nothing in between that answers for it?"),
            };
        };
        let (reason, hint) = self.meaning(&refusal, clock(response, now));
        let status = response.status;
        let reason = reason.unwrap_or_else(|| match status.as_u16() {
            500.. | 429 => Reason::Unavailable,
            401 => Reason::Auth,
            403 => Reason::Permission,
            _ => Reason::HttpStatus,
        });
        let said = refusal.said();
        let cause =
            Cause::new(reason, format!("expected {expected}, got {said}")).code(refusal.code);
        match hint {
            Some(hint) => cause.hint(hint),
            None => cause,
        }
    }

    /// A status that was not expected, with what AWS says of it.
    pub(super) fn refine(&self, cause: Cause, response: &Response, now: Timestamp) -> Cause {
        let Some(refusal) = Refusal::of(response) else {
            return cause;
        };
        let (reason, hint) = self.meaning(&refusal, clock(response, now));
        let said = refusal.said();
        Cause {
            reason: reason.unwrap_or(cause.reason),
            message: format!("{}: {said}", cause.message),
            code: Some(refusal.code),
            hint: hint.or(cause.hint),
            phase: cause.phase,
        }
    }

    fn meaning(
        &self,
        refusal: &Refusal,
        clock: Option<String>,
    ) -> (Option<Reason>, Option<Cow<'static, str>>) {
        let (code, message) = (refusal.code.as_str(), refusal.message.as_str());
        let fixed = |reason, hint: &'static str| (Some(reason), Some(Cow::Borrowed(hint)));
        let text = |reason, hint: String| (Some(reason), Some(Cow::Owned(hint)));
        let is_late = message.starts_with("Signature expired")
            || message.starts_with("Signature not yet current");
        match code {
            "RequestTimeTooSkewed" | "RequestExpired" => skewed(clock),
            "SignatureDoesNotMatch" | "InvalidSignatureException" | "AccessDenied" if is_late => {
                skewed(clock)
            }
            "SignatureDoesNotMatch" | "InvalidSignatureException"
                if message.contains("scoped to a valid region") =>
            {
                let region = self.region;
                text(
                    Reason::Auth,
                    format!(
                        "it was signed for the region `{region}`: set `region` to that of the endpoint"
                    ),
                )
            }
            "SignatureDoesNotMatch" | "InvalidSignatureException" => fixed(
                Reason::Auth,
                "the secret key is not that of this access key, or a proxy in between changes the request",
            ),
            "InvalidClientTokenId"
            | "UnrecognizedClientException"
            | "InvalidAccessKeyId"
            | "AuthFailure" => match self.keys {
                Some(keys) if keys.lack_a_token() => fixed(
                    Reason::Auth,
                    "it is the access key of a session: give its `sessionToken` too",
                ),
                Some(keys) if keys.have_a_token() => fixed(
                    Reason::Auth,
                    "the session token is not that of this access key, or of another partition (`region`)",
                ),
                _ => fixed(
                    Reason::Auth,
                    "the access key does not exist (any more), is inactive, or is of another partition (`region`)",
                ),
            },
            "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" => {
                match self.allow == ASSUME_WITH_TOKEN {
                    false => fixed(
                        Reason::Auth,
                        "the session has ended: get new keys, or use what renews itself (`assumeRole`, a role of the machine)",
                    ),
                    true => fixed(
                        Reason::Auth,
                        "the web identity token has ended: who writes its file must renew it",
                    ),
                }
            }
            "InvalidIdentityToken" | "IDPRejectedClaim" => fixed(
                Reason::Auth,
                "does the role trust this identity provider, with this audience and subject?",
            ),
            "IDPCommunicationError" => fixed(
                Reason::Unavailable,
                "AWS cannot reach the identity provider to look at its keys",
            ),
            "MissingAuthenticationToken" | "MissingAuthenticationTokenException" => fixed(
                Reason::Auth,
                "does a proxy in between take the header `Authorization` away?",
            ),
            "IncompleteSignature" | "IncompleteSignatureException" => fixed(
                Reason::Protocol,
                "does a proxy in between change the headers?",
            ),
            "AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation" => {
                match self.allow {
                    ASSUME => fixed(
                        Reason::Permission,
                        "the role must trust this identity, which must be allowed `sts:AssumeRole` on it; an `externalID` may be wanted",
                    ),
                    ASSUME_WITH_TOKEN => fixed(
                        Reason::Permission,
                        "the role must trust this identity provider for this subject",
                    ),
                    allow => text(
                        Reason::Permission,
                        format!(
                            "a policy denies {allow}: look at the identity's policies and the organization's"
                        ),
                    ),
                }
            }
            "RegionDisabledException" | "OptInRequired" => fixed(
                Reason::Permission,
                "activate STS in that region (IAM, account settings), or set another `region`",
            ),
            "Throttling"
            | "ThrottlingException"
            | "RequestLimitExceeded"
            | "TooManyRequestsException"
            | "SlowDown" => fixed(
                Reason::Unavailable,
                "the account asks too often: let `interval` be longer",
            ),
            "ServiceUnavailable" | "InternalFailure" | "InternalError" => {
                (Some(Reason::Unavailable), None)
            }
            "ValidationError" if [ASSUME, ASSUME_WITH_TOKEN].contains(&self.allow) => fixed(
                Reason::Auth,
                "look at `assumeRole`: the ARN, the length of the session's name, `durationSeconds`",
            ),
            "InvalidAction" if self.allow.starts_with("`sts:") => {
                fixed(Reason::Protocol, "is it the endpoint of STS?")
            }
            _ => (None, None),
        }
    }
}

fn skewed(clock: Option<String>) -> (Option<Reason>, Option<Cow<'static, str>>) {
    let hint = match clock {
        Some(clock) => format!("{clock}: set it right (NTP)"),
        None => "the clocks agree by its `Date`: something in between holds requests back, or its clock is two clocks".to_owned(),
    };
    (Some(Reason::Auth), Some(hint.into()))
}

/// By how much our clock is off, going by the answer's `Date`; nothing below a minute.
fn clock(response: &Response, now: Timestamp) -> Option<String> {
    let off = now.duration_since(response.date()?);
    let way = match off.is_negative() {
        true => "behind",
        false => "ahead of",
    };
    let off = off.abs();
    (off >= SignedDuration::from_secs(60)).then(|| {
        let minutes = (off.as_secs() + 30) / 60;
        let off = match minutes {
            1..120 => format!("{minutes} min"),
            120..2880 => format!("{} h", (minutes + 30) / 60),
            _ => format!("{} days", (minutes + 720) / 1440),
        };
        format!("our clock is {off} {way} the server's")
    })
}

/// What AWS says when it says no.
struct Refusal {
    code: String,
    /// Its first line: behind it may stand the whole request once more.
    message: String,
}

impl Refusal {
    fn said(&self) -> String {
        match self.message.is_empty() {
            true => self.code.clone(),
            false => format!("{}: {}", self.code, self.message),
        }
    }

    /// As XML (`<Code>`), or as JSON (`__type` or a header).
    fn of(response: &Response) -> Option<Self> {
        let text = response.text();
        let (code, message) = match text.trim_start().starts_with('{') {
            true => {
                let value: serde_json::Value = response.json().ok()?;
                let field = |names: &[&str]| {
                    let found = names.iter().find_map(|name| value.get(*name)?.as_str());
                    found.map(str::to_owned)
                };
                let named = response.headers.get("x-amzn-errortype");
                let named = named
                    .and_then(|value| value.to_str().ok())
                    .map(str::to_owned);
                let code = named.or_else(|| field(&["__type", "code", "Code"]))?;
                (code, field(&["message", "Message"]).unwrap_or_default())
            }
            false => (
                element(&text, "Code")?.into_owned(),
                element(&text, "Message").unwrap_or_default().into_owned(),
            ),
        };
        // `com.amazonaws.…#Code:http://…`
        let code = code.rsplit('#').next()?.split(':').next()?.trim();
        let is_code = !code.is_empty() && code.len() <= 64;
        let is_code = is_code
            && code
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._".contains(&byte));
        let message = message.trim().lines().next().unwrap_or_default().trim();
        is_code.then(|| Self {
            code: code.to_owned(),
            message: message.to_owned(),
        })
    }
}

/// The text of the first `<name>`. AWS' answers are flat, and have no attributes there.
fn element<'t>(text: &'t str, name: &str) -> Option<Cow<'t, str>> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (content, _) = rest.split_once(&format!("</{name}>"))?;
    if content.contains('<') {
        return None;
    }
    match content.contains('&') {
        false => Some(Cow::Borrowed(content)),
        true => {
            let entities = [
                ("&lt;", "<"),
                ("&gt;", ">"),
                ("&quot;", "\""),
                ("&apos;", "'"),
                ("&#39;", "'"),
                ("&amp;", "&"),
            ];
            let content = entities
                .iter()
                .fold(content.to_owned(), |text, (entity, c)| {
                    text.replace(entity, c)
                });
            Some(Cow::Owned(content))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(access_key: &str, token: Option<&str>) -> Keys {
        let token = token.map(Secret::new);
        Keys::new(&Secret::new(access_key), &Secret::new("s"), token.as_ref()).unwrap()
    }

    fn response(status: u16, date: Option<&str>, body: &str) -> Response {
        let date = date.map(|date| (header::DATE, date.parse().unwrap()));
        Response {
            status: StatusCode::from_u16(status).unwrap(),
            headers: date.into_iter().collect(),
            body: Bytes::copy_from_slice(body.as_bytes()),
            is_truncated: false,
            cut: None,
            elsewhere: None,
        }
    }

    /// As STS writes it.
    fn refusal(code: &str, message: &str) -> String {
        format!(
            "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\n  <Error>\n    <Type>Sender</Type>\n    \
             <Code>{code}</Code>\n    <Message>{message}</Message>\n  </Error>\n  <RequestId>c</RequestId>\n</ErrorResponse>\n"
        )
    }

    fn explain(keys: Option<&Keys>, allow: &str, response: &Response) -> Cause {
        let about = About {
            keys,
            allow,
            region: "eu-west-1",
        };
        about.explain(response, "x", "2026-11-25T12:00:00Z".parse().unwrap())
    }

    #[test]
    fn each_code_has_its_reason_and_a_way_out() {
        let long = keys("AKIA1", None);
        let session = keys("ASIA1", Some("t"));
        let tokenless = keys("ASIA1", None);
        let with = |keys| (Some(keys), "`sts:GetCallerIdentity`");
        for ((keys, allow), code, reason, hint) in [
            (
                with(&long),
                "SignatureDoesNotMatch",
                Reason::Auth,
                "the secret key is not that",
            ),
            (
                with(&long),
                "InvalidClientTokenId",
                Reason::Auth,
                "does not exist (any more)",
            ),
            (
                with(&session),
                "InvalidClientTokenId",
                Reason::Auth,
                "the session token is not",
            ),
            (
                with(&tokenless),
                "InvalidClientTokenId",
                Reason::Auth,
                "give its `sessionToken` too",
            ),
            (
                with(&session),
                "ExpiredToken",
                Reason::Auth,
                "the session has ended",
            ),
            (
                (None, ASSUME_WITH_TOKEN),
                "ExpiredTokenException",
                Reason::Auth,
                "the web identity token has ended",
            ),
            (
                (None, ASSUME_WITH_TOKEN),
                "InvalidIdentityToken",
                Reason::Auth,
                "does the role trust",
            ),
            (
                (None, ASSUME_WITH_TOKEN),
                "AccessDenied",
                Reason::Permission,
                "for this subject",
            ),
            (
                (None, ASSUME_WITH_TOKEN),
                "IDPCommunicationError",
                Reason::Unavailable,
                "cannot reach",
            ),
            (
                (Some(&long), ASSUME),
                "AccessDenied",
                Reason::Permission,
                "the role must trust",
            ),
            (
                with(&long),
                "AccessDenied",
                Reason::Permission,
                "a policy denies `sts:GetCallerIdentity`",
            ),
            (
                with(&long),
                "RegionDisabledException",
                Reason::Permission,
                "activate STS",
            ),
            (with(&long), "Throttling", Reason::Unavailable, "`interval`"),
            (with(&long), "ServiceUnavailable", Reason::Unavailable, ""),
            (
                (Some(&long), ASSUME),
                "ValidationError",
                Reason::Auth,
                "look at `assumeRole`",
            ),
            (
                with(&long),
                "InvalidAction",
                Reason::Protocol,
                "is it the endpoint of STS?",
            ),
            (with(&long), "SomethingNew", Reason::Permission, ""),
        ] {
            let cause = explain(
                keys,
                allow,
                &response(403, None, &refusal(code, "it says why\nPOST\n/")),
            );
            assert_eq!(cause.reason, reason, "{cause:?}");
            assert_eq!(cause.code.as_deref(), Some(code));
            assert_eq!(
                cause.message,
                format!("expected x, got {code}: it says why")
            );
            assert!(cause.hint.unwrap_or_default().contains(hint), "{code}");
        }
    }

    #[test]
    fn a_clock_that_is_wrong_is_told_by_how_much() {
        let keys = keys("AKIA1", None);
        let expired = "Signature expired: 20261125T120000Z is now earlier than 20261125T124500Z (20261125T130000Z - 15 min.)";
        let early = "Signature not yet current: 20261125T120000Z is still later than 20261125T104500Z (20261125T103000Z + 15 min.)";
        for (code, message, date, hint) in [
            (
                "SignatureDoesNotMatch",
                expired,
                "Wed, 25 Nov 2026 13:00:00 GMT",
                "our clock is 60 min behind the server's: set it right (NTP)",
            ),
            (
                "SignatureDoesNotMatch",
                early,
                "Wed, 25 Nov 2026 10:30:00 GMT",
                "our clock is 90 min ahead of the server's: set it right (NTP)",
            ),
            (
                "RequestTimeTooSkewed",
                "x",
                "Mon, 23 Nov 2026 12:00:00 GMT",
                "our clock is 2 days ahead of the server's: set it right (NTP)",
            ),
            (
                "RequestTimeTooSkewed",
                "x",
                "Wed, 25 Nov 2026 12:00:10 GMT",
                "the clocks agree by its `Date`",
            ),
        ] {
            let response = response(403, Some(date), &refusal(code, message));
            let cause = explain(Some(&keys), "", &response);
            assert_eq!(
                (cause.reason, cause.code.as_deref()),
                (Reason::Auth, Some(code))
            );
            assert!(cause.hint.as_ref().unwrap().starts_with(hint), "{cause:?}");
        }
        // A wrong key is not the clock's fault.
        let response = response(
            403,
            Some("Wed, 25 Nov 2026 13:00:00 GMT"),
            &refusal("SignatureDoesNotMatch", "no"),
        );
        let cause = explain(Some(&keys), "", &response);
        assert!(cause.hint.unwrap().starts_with("the secret key"));
    }

    #[test]
    fn other_services_say_it_in_other_words() {
        let json = r#"{"__type":"com.amazon.coral.service#UnrecognizedClientException","message":"The security token included in the request is invalid."}"#;
        let cause = explain(None, "", &response(400, None, json));
        assert_eq!(
            (cause.reason, cause.code.as_deref()),
            (Reason::Auth, Some("UnrecognizedClientException"))
        );
        let s3 = "<?xml version=\"1.0\"?><Error><Code>InvalidAccessKeyId</Code><Message>The AWS &quot;key&quot; does not exist</Message></Error>";
        let cause = explain(None, "", &response(403, None, s3));
        assert_eq!(
            cause.message,
            "expected x, got InvalidAccessKeyId: The AWS \"key\" does not exist"
        );
        for (status, body, reason) in [
            (502, "<html>Bad gateway</html>", Reason::HttpStatus),
            (503, "", Reason::Unavailable),
            (403, "<Code>not a code</Code>", Reason::Permission),
            (403, "{\"message\": 1", Reason::Permission),
        ] {
            let cause = explain(None, "", &response(status, None, body));
            assert_eq!(cause.reason, reason, "{body}");
            assert_eq!(cause.code, Some(status.to_string()));
            assert!(cause.hint.is_some());
        }
    }

    #[test]
    fn each_partition_has_its_domain() {
        for (region, url) in [
            ("eu-west-1", "https://sts.eu-west-1.amazonaws.com/"),
            ("cn-north-1", "https://sts.cn-north-1.amazonaws.com.cn/"),
            ("us-gov-west-1", "https://sts.us-gov-west-1.amazonaws.com/"),
            (
                "us-isob-east-1",
                "https://sts.us-isob-east-1.sc2s.sgov.gov/",
            ),
            ("aws-global", "https://sts.amazonaws.com/"),
        ] {
            assert_eq!(Sts::url_in(region).unwrap().as_str(), url);
        }
        for (host, region) in [
            ("sts.eu-west-1.amazonaws.com", Some("eu-west-1")),
            ("sts-fips.us-east-2.amazonaws.com", Some("us-east-2")),
            ("sts.cn-north-1.amazonaws.com.cn", Some("cn-north-1")),
            (
                "vpce-1-a.sts.eu-west-1.vpce.amazonaws.com",
                Some("eu-west-1"),
            ),
            ("sts.amazonaws.com", Some("us-east-1")),
            ("sts.evil.test", None),
            ("localhost", None),
        ] {
            assert_eq!(Sts::region_in(host), region, "{host}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(text in "(<|>|/|Code|Message|Arn|&amp;|&|\\{|\"|:|\\PC){0,40}") {
            element(&text, "Code");
            explain(None, "", &response(403, Some(&"x".repeat(3)), &text));
        }
    }
}
