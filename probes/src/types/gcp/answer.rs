//! What Google's refusals mean: those of its token servers (RFC 6749, with words of its own), and those of
//! its APIs.

use std::borrow::Cow;

use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::Value;

use crate::cause::Cause;
use crate::http::Response;
use crate::outcome::Reason;

/// How a token was asked for: the same code means different things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Key,
    RefreshToken,
    Federation { expiry: Option<Timestamp> },
}

/// A difference between two clocks that nobody would call wrong.
const SAME_TIME: SignedDuration = SignedDuration::from_secs(60);

/// Why a token server gave none.
pub(super) fn no_token(response: &Response, asked: Asked) -> Cause {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Refused {
        error: Value,
        error_description: Option<String>,
        error_subtype: Option<String>,
    }
    let refused = response.json::<Refused>().unwrap_or_default();
    let Value::String(error) = refused.error else {
        return self::refused(response, "a token");
    };
    let said = refused.error_description.unwrap_or_default();
    let message = match said.trim() {
        "" => error.clone(),
        said => format!("{error}: {said}"),
    };
    let subtype = refused.error_subtype.unwrap_or_default();
    let wants_login = subtype == "invalid_rapt" || said.contains("invalid_rapt");
    let code = match wants_login {
        true => "invalid_rapt".to_owned(),
        false => error.clone(),
    };
    let (reason, hint) = match (code.as_str(), asked) {
        ("invalid_grant", Asked::Key) => (Reason::Auth, by_key(&said, response)),
        ("invalid_grant", Asked::RefreshToken) => (Reason::Auth, by_refresh_token(&said)),
        ("invalid_grant", Asked::Federation { expiry }) => {
            (Reason::Auth, by_federation(&said, expiry))
        }
        ("unauthorized_client", Asked::Federation { expiry }) => {
            (Reason::Auth, by_federation(&said, expiry))
        }
        ("disabled_client", Asked::Key) => (Reason::Auth, DISABLED.into()),
        ("deleted_client", Asked::Key) => (Reason::Auth, DELETED.into()),
        (code, _) => match known(code) {
            Some((reason, hint)) => (reason, hint.into()),
            None => {
                let cause = response.unexpected("a token");
                let message = format!("{}: {message}", cause.message);
                return Cause { message, ..cause }.code(code);
            }
        },
    };
    let cause = Cause::new(reason, message).code(code);
    match hint.is_empty() {
        true => cause,
        false => cause.hint(hint),
    }
}

/// The codes that mean the same whoever asks.
fn known(code: &str) -> Option<(Reason, &'static str)> {
    let (reason, hint) = match code {
        "invalid_rapt" => (
            Reason::Auth,
            "the organisation wants its people to log in anew at intervals (session control): `gcloud auth application-default login`; for what runs unattended use a service account",
        ),
        "invalid_client" => (
            Reason::Auth,
            "`client_id` and `client_secret` of the credential are those of no OAuth client: was it deleted, or its secret made anew?",
        ),
        "deleted_client" => (
            Reason::Auth,
            "the OAuth client was deleted: log in anew with another (`gcloud auth application-default login`)",
        ),
        "disabled_client" => (
            Reason::Auth,
            "the OAuth client was disabled, by its owner or by Google for a violation of its terms: see `APIs & Services > Credentials` of its project",
        ),
        "unauthorized_client" => (
            Reason::Auth,
            "the client may not have tokens in this way or for these scopes: with domain-wide delegation an administrator allows them in the Admin console",
        ),
        "account_disabled" | "account_restricted" => (
            Reason::Auth,
            "the account is disabled: an administrator can enable it again; a service account by `gcloud iam service-accounts enable`",
        ),
        "admin_policy_enforced" => (
            Reason::Auth,
            "an administrator of the organisation does not allow this app these scopes: Admin console, `Security > API controls`",
        ),
        "org_internal" => (
            Reason::Auth,
            "the OAuth client is for accounts of its own organisation alone",
        ),
        "access_denied" => (
            Reason::Permission,
            "a policy of the organisation or of the account forbids it",
        ),
        "invalid_scope" => (
            Reason::Permission,
            "is `scopes` spelled as Google knows it (`https://www.googleapis.com/auth/…`), and granted to the credential?",
        ),
        "invalid_target" => (
            Reason::NotFound,
            "the pool or provider in the credential's `audience` does not exist, or is disabled or deleted: `gcloud iam workload-identity-pools providers describe`",
        ),
        "unsupported_grant_type" => (
            Reason::Protocol,
            "is the token server's URL in the credential right?",
        ),
        "invalid_request" => (
            Reason::Protocol,
            "something in the credential is not as it was given out: make it anew",
        ),
        "internal_failure"
        | "server_error"
        | "temporarily_unavailable"
        | "rate_limit_exceeded"
        | "slow_down" => (Reason::Unavailable, ""),
        _ => return None,
    };
    Some((reason, hint))
}

const DISABLED: &str =
    "the service account is disabled: `gcloud iam service-accounts enable ACCOUNT`";
const DELETED: &str = "the service account was deleted, or never was: within 30 days `gcloud iam service-accounts undelete UNIQUE_ID` has it back";

/// `invalid_grant` for a service account's key.
fn by_key(said: &str, response: &Response) -> Cow<'static, str> {
    let has = |words: &str| said.contains(words);
    if has("JWT Signature") {
        return "the key was deleted or disabled, or is another account's: `gcloud iam service-accounts keys list --iam-account=ACCOUNT` shows those that there are, `keys create` makes one".into();
    }
    if has("short-lived token") || has("reasonable timeframe") {
        return clock(response);
    }
    if has("account not found") {
        return DELETED.into();
    }
    if has("disabled") {
        return DISABLED.into();
    }
    if has("deleted") {
        return "the account was deleted: use another".into();
    }
    "was the service account's key revoked? `gcloud iam service-accounts keys list --iam-account=ACCOUNT` shows those that there are".into()
}

/// Whose clock is wrong, and by how much: the server says what time it has.
fn clock(response: &Response) -> Cow<'static, str> {
    let Some(theirs) = response.date() else {
        return "is the clock of this machine right? (`timedatectl`)".into();
    };
    let ahead = Timestamp::now().duration_since(theirs);
    match ahead {
        ahead if ahead > SAME_TIME => format!(
            "the clock of this machine is {} ahead of the token server's: set it right (NTP)",
            rough(ahead)
        )
        .into(),
        ahead if ahead < -SAME_TIME => format!(
            "the clock of this machine is {} behind the token server's: set it right (NTP)",
            rough(-ahead)
        )
        .into(),
        _ => "the clock of this machine agrees with the token server's: is there a proxy in between that holds requests back?".into(),
    }
}

/// `2 h 5 min`
fn rough(duration: SignedDuration) -> String {
    let minutes = duration.as_mins();
    match (minutes / (24 * 60), minutes / 60 % 24, minutes % 60) {
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

/// `invalid_grant` for a refresh token.
fn by_refresh_token(said: &str) -> Cow<'static, str> {
    let has = |words: &str| said.contains(words);
    if has("deleted") || has("not found") {
        return "the account was deleted: log in with another (`gcloud auth application-default login`)".into();
    }
    if has("Bad Request") {
        return "the refresh token is not one of this OAuth client, or not whole: log in anew (`gcloud auth application-default login`)".into();
    }
    "the login has ended or was revoked (a changed password does that; those of an app in testing end after a week): `gcloud auth application-default login`".into()
}

/// A token of somebody else's that Google does not take.
fn by_federation(said: &str, expiry: Option<Timestamp>) -> Cow<'static, str> {
    let has = |words: &str| said.contains(words);
    if let Some(expiry) = expiry.filter(|expiry| *expiry < Timestamp::now()) {
        return format!(
            "the token in the file of `credential_source` ended {expiry}: does whoever keeps it new still run?"
        )
        .into();
    }
    if has("AWS response") {
        return "AWS does not know the keys by which the request was signed, or they have ended: is the AWS identity of this machine the right one?".into();
    }
    if has("attribute condition") || has("attribute-condition") {
        return "the provider's attribute condition refuses the token: `gcloud iam workload-identity-pools providers describe` shows it".into();
    }
    if has("audience") {
        return "the token is for another audience than the provider allows: compare its `aud` with the provider's allowed audiences".into();
    }
    if has("issuer") {
        return "Google cannot get, or does not know, the keys of the token's issuer: is the provider's `issuer` right, and open to the internet?".into();
    }
    if has("stale") || has("expired") || has("exp") {
        return "the token has ended, or this machine's clock is wrong".into();
    }
    "the pool's provider refuses the token: are its issuer, audience and subject those that the provider expects?".into()
}

/// An error of Google's APIs.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ApiError {
    error: ApiStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ApiStatus {
    message: String,
    status: String,
    details: Vec<Detail>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Detail {
    reason: Option<String>,
    metadata: Option<Value>,
}

/// What it means that an API, or `tokeninfo`, refuses.
pub(super) fn refused(response: &Response, expected: &str) -> Cause {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Plain {
        error: String,
        error_description: Option<String>,
    }
    let cause = response.unexpected(expected);
    if let Ok(plain) = response.json::<Plain>()
        && !plain.error.is_empty()
    {
        let said = plain.error_description.unwrap_or_default();
        let words = match said.as_str() {
            "" => plain.error.clone(),
            said => format!("{}: {said}", plain.error),
        };
        let reason = match plain.error.as_str() {
            "invalid_token" => Reason::Auth,
            _ => cause.reason,
        };
        let message = format!("{}: {words}", cause.message);
        return Cause {
            reason,
            message,
            ..cause
        }
        .code(plain.error);
    }
    let Ok(ApiError { error }) = response.json::<ApiError>() else {
        return cause;
    };
    if error.status.is_empty() {
        return cause;
    }
    let message = match error.message.trim() {
        "" => cause.message.clone(),
        words => format!("{}: {words}", cause.message),
    };
    let detail = error.details.iter().find(|detail| detail.reason.is_some());
    let why = detail.and_then(|detail| detail.reason.as_deref());
    // What a missing permission is called depends on who is asked.
    let code = match why {
        None | Some("IAM_PERMISSION_DENIED") => error.status.as_str(),
        Some(why) => why,
    };
    let reason = match (response.status, error.status.as_str()) {
        (StatusCode::NOT_FOUND, _) | (_, "NOT_FOUND") => Reason::NotFound,
        (_, "UNAVAILABLE" | "RESOURCE_EXHAUSTED" | "DEADLINE_EXCEEDED" | "ABORTED") => {
            Reason::Unavailable
        }
        _ => cause.reason,
    };
    let of = |name: &str| -> Option<&str> {
        let metadata = detail?.metadata.as_ref()?;
        let text = metadata.get(name)?.as_str()?;
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '/' | ':');
        Some(text).filter(|text| text.chars().all(is_plain))
    };
    let res = Cause {
        reason,
        message,
        ..cause
    }
    .code(code);
    let hint: Cow<'static, str> = match code {
        "SERVICE_DISABLED" => {
            let service = of("service").unwrap_or("SERVICE");
            let consumer = of("consumer").and_then(|consumer| consumer.strip_prefix("projects/"));
            format!(
                "that API is not enabled in the project of the credential: `gcloud services enable {service} --project={}`",
                consumer.unwrap_or("PROJECT")
            )
            .into()
        }
        "ACCESS_TOKEN_SCOPE_INSUFFICIENT" => {
            "the token's scopes do not allow it: widen `scopes`; on a machine of Google's its access scopes (`gcloud compute instances set-service-account --scopes=cloud-platform`)".into()
        }
        "USER_PROJECT_DENIED" => {
            "the credential may not charge its `quota_project_id`: grant it `roles/serviceusage.serviceUsageConsumer` there, or `gcloud auth application-default set-quota-project`".into()
        }
        "CONSUMER_INVALID" | "CONSUMER_SUSPENDED" => {
            "the project of the credential (or its `quota_project_id`) does not exist, is suspended or was deleted".into()
        }
        "BILLING_DISABLED" => "enable billing in the project of the credential".into(),
        "ACCOUNT_STATE_INVALID" => {
            "the account is disabled or deleted: `gcloud iam service-accounts enable ACCOUNT`".into()
        }
        "UNAUTHENTICATED" | "ACCESS_TOKEN_EXPIRED" | "ACCESS_TOKEN_TYPE_UNSUPPORTED"
        | "CREDENTIALS_MISSING" => {
            "the token was given a moment ago: is `url` the same Google that gave it, and does no proxy in between take `Authorization` away?".into()
        }
        _ => return res,
    };
    res.hint(hint)
}
