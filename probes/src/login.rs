//! Proving who we are to an HTTP server: headers, Basic, a bearer token, an API key, OAuth.
//!
//! Whatever it is, it becomes headers of a request. Two of them that would claim the same header are
//! a mistake of the definition: one would be sent, and the owner could not know which.

use std::fmt;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use conncheck_config::{Field, Secret};
use http::Method;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use url::{Url, form_urlencoded};

use crate::address::Location;
use crate::attempt::Attempt;
use crate::cause::Cause;
use crate::http::{Client, Request, Response, target};
use crate::outcome::{Failure, Phase, Reason};
use crate::probe::{Access, Invalid};

/// The settings of a type over HTTP that say who we are.
#[derive(Debug, Default)]
pub(crate) struct LoginSettings {
    pub(crate) headers: Headers,
    pub(crate) bearer: Option<Secret>,
    pub(crate) api_key_header: Option<Name>,
    pub(crate) oauth: Option<OAuthSettings>,
}

/// Where to get a token from (OAuth 2 client credentials).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct OAuthSettings {
    /// The address of the token endpoint.
    #[serde(rename = "tokenURL", alias = "tokenUrl")]
    token_url: Secret,
    /// Who we are to the token server.
    #[serde(rename = "clientID", alias = "clientId")]
    client_id: Option<Secret>,
    /// Its password; the secret's single key if it is not given here.
    client_secret: Option<Secret>,
    /// What the token is to allow: one text with blanks, or a list.
    #[serde(default)]
    scope: Scope,
    /// More that the token server wants to know, such as `audience`.
    #[serde(default)]
    params: Params,
    /// How `clientID` and `clientSecret` are sent: in the `header` (Basic) or in the `body`.
    #[serde(default)]
    auth_style: AuthStyle,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum AuthStyle {
    #[default]
    Header,
    Body,
}

/// Who we are.
pub(crate) struct Login {
    headers: HeaderMap,
    oauth: Option<OAuth>,
    /// When the bearer token ends, if it is a JWT that says so.
    expiry: Option<Timestamp>,
    secrets: Vec<Secret>,
}

impl Login {
    /// Reads what `spec`, its secret, the user-info of the URL and the settings say.
    pub(crate) fn new(
        access: Access<'_>,
        url: &Location,
        settings: LoginSettings,
    ) -> Result<Self, Invalid> {
        let given = Given::new(access, url, &settings)?;
        let mut secrets: Vec<Secret> = settings.headers.secrets().cloned().collect();
        let mut headers = settings.headers.map;
        let mut claim = |name: HeaderName, value: HeaderValue, what: &str| {
            if headers.contains_key(&name) {
                let message = format!("{what} and another login both set the header `{name}`");
                return Err(access.invalid(Field::Properties, message).hint("keep one of them"));
            }
            headers.insert(name, value);
            Ok(())
        };
        let mut expiry = None;
        if let Some((name, key)) = given.api_key {
            claim(name, sendable(&access, "the API key", "", &key)?, "`apiKeyHeader`")?;
        }
        if let Some((username, password)) = given.basic {
            let value = basic(&access, username.as_ref(), &password)?;
            secrets.push(encoded(&value));
            claim(header::AUTHORIZATION, value, "`username` and `password`")?;
        }
        if let Some(token) = given.bearer {
            expiry = expiry_of(token.expose());
            let value = sendable(&access, "the bearer token", "Bearer ", &token)?;
            claim(header::AUTHORIZATION, value, "the bearer token")?;
            secrets.push(token);
        }
        let oauth = match settings.oauth {
            None => None,
            Some(_) if headers.contains_key(header::AUTHORIZATION) => {
                return Err(access
                    .invalid(
                        Field::Properties,
                        "`oauth` and another login both set the header `authorization`",
                    )
                    .hint("keep one of them"));
            }
            Some(oauth) => Some(OAuth::new(&access, oauth, given.client_secret)?),
        };
        secrets.extend(oauth.iter().flat_map(OAuth::secrets));
        Ok(Self {
            headers,
            oauth,
            expiry,
            secrets,
        })
    }

    /// The headers that say who we are, for a request to home. Asks for a token where one is
    /// wanted.
    pub(crate) async fn headers(
        &self,
        attempt: &mut Attempt,
        client: &Client,
    ) -> Result<HeaderMap, Failure> {
        let mut res = self.headers.clone();
        if let Some(expiry) = self.expiry {
            attempt.credential_expires(expiry);
        }
        if let Some(oauth) = &self.oauth {
            let token = oauth.token(attempt, client).await?;
            res.insert(header::AUTHORIZATION, token);
        }
        Ok(res)
    }

    /// What must never be printed.
    pub(crate) fn secrets(&self) -> &[Secret] {
        &self.secrets
    }

    /// More about a 401 or 403, from what we know of the login.
    pub(crate) fn explain(&self, cause: Cause, response: &Response) -> Cause {
        if !matches!(response.status.as_u16(), 401 | 403) {
            return cause;
        }
        let has_login = self.oauth.is_some() || !self.headers.is_empty();
        if let Some(elsewhere) = response.elsewhere.as_ref().filter(|_| has_login) {
            return cause.hint(format!(
                "a redirect led to `{elsewhere}`, where the login of `url` is not sent: name that origin in `url`"
            ));
        }
        if let Some(expiry) = self.expiry.filter(|expiry| *expiry < Timestamp::now()) {
            return cause.hint(format!("the bearer token ended {expiry}: renew it"));
        }
        cause
    }
}

/// Which logins were given, before they become headers.
struct Given {
    api_key: Option<(HeaderName, Secret)>,
    basic: Option<(Option<Secret>, Secret)>,
    bearer: Option<Secret>,
    client_secret: Option<Secret>,
}

impl Given {
    /// The secret's single key has one meaning: the client secret of an `oauth` that has none, the
    /// value of `apiKeyHeader`, the password of a `username` that has none, or else a bearer token.
    fn new(
        access: Access<'_>,
        url: &Location,
        settings: &LoginSettings,
    ) -> Result<Self, Invalid> {
        let resolved = access.resolved();
        let other = |names: &[&str]| {
            let named = names.iter().find_map(|name| resolved.others.get(*name));
            named.cloned()
        };
        let username = access.username(url.username.as_deref());
        let mut password = (resolved.password.clone())
            .or_else(|| url.password.as_deref().map(Secret::new));
        let mut key = resolved.key.clone();
        let mut take_key = |is_meant: bool| if is_meant { key.take() } else { None };

        let wants_secret = settings.oauth.as_ref().is_some_and(|oauth| oauth.client_secret.is_none());
        let client_secret = take_key(wants_secret)
            .or_else(|| other(&["clientSecret", "client-secret", "client_secret"]));
        let api_key = match &settings.api_key_header {
            None => None,
            Some(Name(name)) => {
                let value = take_key(true)
                    .or_else(|| other(&["api-key", "apiKey", "apikey", "api_key", "key", "token"]))
                    .or_else(|| if username.is_none() { password.take() } else { None });
                let Some(value) = value else {
                    return Err(access
                        .invalid(Field::Properties, "`apiKeyHeader` without an API key")
                        .hint("give it as a `secretRef` with its `key`"));
                };
                Some((name.clone(), value))
            }
        };
        if username.is_some() && password.is_none() {
            password = take_key(true);
        }
        let basic = match (username, password) {
            (username, Some(password)) => Some((username, password)),
            (None, None) => None,
            (Some(_), None) => {
                return Err(access
                    .invalid(Field::Username, "a username without a password")
                    .hint("give `password` or a `secretRef`; if it is empty, say `password: \"\"`"));
            }
        };
        let bearer = match (take_key(true), &settings.bearer) {
            (Some(_), Some(_)) => {
                return Err(access
                    .invalid(Field::Properties, "two bearer tokens: `bearer`, and the secret's")
                    .hint("leave `bearer` out, or give `apiKeyHeader` if the secret is an API key"));
            }
            (Some(token), None) => Some(token),
            (None, Some(token)) => Some(token.clone()),
            // An API key without a header to be sent in is a token, as with a single key.
            (None, None) if api_key.is_none() && settings.oauth.is_none() => {
                other(&["token", "bearer", "api-key", "apiKey"])
            }
            (None, None) => None,
        };
        Ok(Self {
            api_key,
            basic,
            bearer,
            client_secret,
        })
    }
}

/// A credential as the value of a header.
fn sendable(
    access: &Access<'_>,
    what: &str,
    prefix: &str,
    secret: &Secret,
) -> Result<HeaderValue, Invalid> {
    let secret = secret.trimmed();
    if secret.is_empty() {
        return Err(access.invalid(Field::SecretRef, format!("{what} is empty")));
    }
    let mut value = HeaderValue::from_str(&format!("{prefix}{}", secret.expose())).map_err(|_| {
        access
            .invalid(
                Field::SecretRef,
                format!("{what} has line ends or other characters that no header may have"),
            )
            .hint("is it the right key of the secret?")
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn basic(
    access: &Access<'_>,
    username: Option<&Secret>,
    password: &Secret,
) -> Result<HeaderValue, Invalid> {
    let username = username.map(Secret::expose).unwrap_or_default();
    if username.contains(':') {
        return Err(access.invalid(Field::Username, "a username cannot have a `:` in it over HTTP"));
    }
    let pair = Secret::new(format!("{username}:{}", password.expose()));
    sendable(
        access,
        "the login",
        "Basic ",
        &Secret::new(BASE64_STANDARD.encode(pair.expose())),
    )
}

/// The part of an `Authorization` behind its scheme: a server may echo it.
fn encoded(value: &HeaderValue) -> Secret {
    let text = value.to_str().unwrap_or_default();
    Secret::new(text.split_once(' ').map_or(text, |(_, encoded)| encoded))
}

/// When a token ends, if it is a JWT that tells.
fn expiry_of(token: &str) -> Option<Timestamp> {
    #[derive(Deserialize)]
    struct Claims {
        exp: f64,
    }
    let mut parts = token.trim().split('.');
    let (_, payload, _, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next()) else {
        return None;
    };
    let payload = BASE64_URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    let claims: Claims = serde_json::from_slice(&payload).ok()?;
    Timestamp::from_second(claims.exp as i64).ok()
}

/// OAuth 2 client credentials (RFC 6749, 4.4). Asked anew by each attempt: a token kept from
/// yesterday would hide that the token server is down today.
struct OAuth {
    request: Request,
    client_secret: Secret,
    authorization: Option<Secret>,
}

impl OAuth {
    fn new(
        access: &Access<'_>,
        settings: OAuthSettings,
        from_secret: Option<Secret>,
    ) -> Result<Self, Invalid> {
        let invalid = |message: &str| access.invalid(Field::Properties, message);
        let url = target(settings.token_url.expose())
            .map_err(|error| invalid(&format!("bad `oauth.tokenURL`: {error}")))?;
        let client_id = settings
            .client_id
            .or_else(|| {
                let others = &access.resolved().others;
                ["clientID", "clientId", "client-id", "client_id"]
                    .iter()
                    .find_map(|name| others.get(*name).cloned())
            })
            .ok_or_else(|| invalid("`oauth` has no `clientID`"))?;
        let client_secret = settings
            .client_secret
            .or(from_secret)
            .ok_or_else(|| {
                invalid("`oauth` has no `clientSecret`")
                    .hint("give it there, or as a `secretRef` with its `key`")
            })?
            .trimmed();
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        if !settings.scope.0.is_empty() {
            form.append_pair("scope", &settings.scope.0);
        }
        for (name, value) in &settings.params.0 {
            form.append_pair(name, value.expose());
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded"),
        );
        let mut authorization = None;
        match settings.auth_style {
            AuthStyle::Header => {
                // Both are form-encoded first (RFC 6749, 2.3.1).
                let encode = |secret: &Secret| -> Secret {
                    let bytes = secret.expose().as_bytes();
                    Secret::new(form_urlencoded::byte_serialize(bytes).collect::<String>())
                };
                let value = basic(access, Some(&encode(&client_id)), &encode(&client_secret))?;
                authorization = Some(encoded(&value));
                headers.insert(header::AUTHORIZATION, value);
            }
            AuthStyle::Body => {
                form.append_pair("client_id", client_id.expose());
                form.append_pair("client_secret", client_secret.expose());
            }
        }
        Ok(Self {
            request: Request {
                method: Method::POST,
                url,
                headers,
                body: Bytes::from(form.finish()),
            },
            client_secret,
            authorization,
        })
    }

    fn secrets(&self) -> impl Iterator<Item = Secret> {
        [Some(self.client_secret.clone()), self.authorization.clone()]
            .into_iter()
            .flatten()
    }

    async fn token(&self, attempt: &mut Attempt, client: &Client) -> Result<HeaderValue, Failure> {
        let response = client.send(attempt, Phase::Auth, &self.request).await?;
        read_token(&response).map_err(|cause| {
            let server = crate::http::endpoint_of(&self.request.url);
            let message = format!("token server `{server}`: {}", cause.message);
            Cause { message, ..cause }.in_phase(Phase::Auth)
        })
    }
}

fn read_token(response: &Response) -> Result<HeaderValue, Cause> {
    #[derive(Deserialize)]
    struct Granted {
        access_token: Secret,
        token_type: Option<String>,
    }
    if !response.status.is_success() {
        return Err(refusal(response));
    }
    let granted: Granted = response.json()?;
    // Some leave it out, though RFC 6749 asks for it.
    if let Some(other) = granted.token_type.filter(|ty| !ty.eq_ignore_ascii_case("bearer")) {
        return Err(Cause::protocol(format!("the token is not a bearer token but `{other}`")));
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {}", granted.access_token.expose()))
        .map_err(|_| Cause::protocol("the token cannot be sent in a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Why there is no token: the error codes of RFC 6749, 5.2.
fn refusal(response: &Response) -> Cause {
    #[derive(Deserialize)]
    struct Refused {
        error: String,
        error_description: Option<String>,
    }
    let Ok(refused) = response.json::<Refused>() else {
        return response.unexpected("a token");
    };
    let (reason, hint) = match refused.error.as_str() {
        "invalid_client" => (
            Reason::Auth,
            "wrong `clientID` or `clientSecret`, or the server wants them in the body (`oauth.authStyle: body`)",
        ),
        "unauthorized_client" => (
            Reason::Auth,
            "allow the client the grant `client_credentials` (a service account) on the token server",
        ),
        "invalid_grant" => (Reason::Auth, ""),
        "access_denied" => (Reason::Permission, ""),
        "invalid_scope" => (
            Reason::Permission,
            "is `oauth.scope` spelled as the token server knows it, and granted to the client?",
        ),
        "unsupported_grant_type" => (
            Reason::Protocol,
            "the server knows no client credentials: is `oauth.tokenURL` right?",
        ),
        "temporarily_unavailable" | "server_error" | "slow_down" => (Reason::Unavailable, ""),
        "invalid_request" => (Reason::Protocol, ""),
        _ => return response.unexpected("a token").code(refused.error),
    };
    let message = match refused.error_description {
        Some(description) => format!("{}: {description}", refused.error),
        None => refused.error.clone(),
    };
    let cause = Cause::new(reason, message).code(refused.error);
    match hint {
        "" => cause,
        hint => cause.hint(hint),
    }
}

/// Headers as the owner writes them: a mapping, or a list of `{name, value}`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Headers {
    map: HeaderMap,
    values: Vec<Secret>,
}

impl Headers {
    /// The values that may be secret: what everybody sends is not.
    fn secrets(&self) -> impl Iterator<Item = &Secret> {
        const SHORTEST: usize = 6;
        self.values
            .iter()
            .filter(|value| value.expose().len() >= SHORTEST)
    }

    fn add<E: de::Error>(&mut self, Name(name): Name, value: Secret) -> Result<(), E> {
        let value = value.trimmed();
        let mut sent = HeaderValue::from_str(value.expose()).map_err(|_| {
            E::custom(format!(
                "the value of header `{name}` has line ends or other characters that no header may have"
            ))
        })?;
        if name == header::HOST && value.expose().parse::<http::uri::Authority>().is_err() {
            return Err(E::custom("the header `host` is not a host name"));
        }
        let is_public = [
            header::ACCEPT,
            header::ACCEPT_ENCODING,
            header::ACCEPT_LANGUAGE,
            header::CACHE_CONTROL,
            header::CONTENT_TYPE,
            header::HOST,
            header::USER_AGENT,
        ]
        .contains(&name);
        if !is_public {
            sent.set_sensitive(true);
            self.values.push(value);
        }
        self.map.append(name, sent);
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Item {
            name: Name,
            value: Secret,
        }

        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Headers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping of headers, or a list of `name` and `value`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers, A::Error> {
                let mut res = Headers::default();
                while let Some((name, value)) = map.next_entry()? {
                    res.add(name, value)?;
                }
                Ok(res)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Headers, A::Error> {
                let mut res = Headers::default();
                while let Some(Item { name, value }) = seq.next_element()? {
                    res.add(name, value)?;
                }
                Ok(res)
            }
        }

        deserializer.deserialize_any(Either)
    }
}

/// The name of a header that the owner may set.
#[derive(Clone, Debug)]
pub(crate) struct Name(HeaderName);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let name: HeaderName = (text.trim().parse())
            .map_err(|_| de::Error::custom("not a header name: letters, digits and `-` only"))?;
        let is_ours = [
            header::CONNECTION,
            header::CONTENT_LENGTH,
            header::TE,
            header::TRAILER,
            header::TRANSFER_ENCODING,
            header::UPGRADE,
        ]
        .contains(&name);
        match is_ours {
            true => Err(de::Error::custom("this header is conncheck's to set")),
            false => Ok(Self(name)),
        }
    }
}

#[derive(Debug, Default)]
struct Scope(String);

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Scope;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, or a list of texts")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Scope, E> {
                Ok(Scope(text.to_owned()))
            }

            fn visit_unit<E: de::Error>(self) -> Result<Scope, E> {
                Ok(Scope::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Scope, A::Error> {
                let mut scopes: Vec<String> = Vec::new();
                while let Some(scope) = seq.next_element()? {
                    scopes.push(scope);
                }
                Ok(Scope(scopes.join(" ")))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

/// Names and values, in the owner's order.
#[derive(Debug, Default)]
struct Params(Vec<(String, Secret)>);

impl<'de> Deserialize<'de> for Params {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let map = std::collections::BTreeMap::<String, Secret>::deserialize(deserializer)?;
        Ok(Self(map.into_iter().collect()))
    }
}
