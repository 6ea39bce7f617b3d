//! Proving who we are to an HTTP server: headers, Basic, a bearer token, an API key, OAuth.
//!
//! Whatever it is, it becomes headers of a request. Two of them that would claim the same header are
//! a mistake of the definition: one would be sent, and the owner could not know which.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use conncheck_config::{Field, Secret, SecretKey};
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use schemars::{JsonSchema, Schema, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::json;
use url::form_urlencoded;

use crate::address::Location;
use crate::attempt::Attempt;
use crate::aws::{SigV4Settings, Signer};
use crate::cause::Cause;
use crate::http::{Client, Request, Response, target};
use crate::outcome::{Failure, Phase, Reason};
use crate::probe::{Access, Invalid};
use crate::schema::written;

/// The keys of a whole secret, as they are called in the field.
pub(crate) const TOKEN: SecretKey = SecretKey(&["token", "bearer"]);
pub(crate) const API_KEY: SecretKey = SecretKey(&["api-key", "apiKey"]);
pub(crate) const CLIENT_ID: SecretKey = SecretKey(&["clientID", "client-id"]);
pub(crate) const CLIENT_SECRET: SecretKey = SecretKey(&["clientSecret", "client-secret"]);

/// The settings of a type over HTTP that say who we are.
#[derive(Debug, Default)]
pub(crate) struct LoginSettings {
    pub(crate) headers: Headers,
    pub(crate) bearer: Option<Secret>,
    pub(crate) api_key_header: Option<Name>,
    pub(crate) oauth: Option<OAuthSettings>,
    pub(crate) aws_sig_v4: Option<SigV4Settings>,
    pub(crate) key_is: KeyIs,
}

/// What the secret's single key is where it is nothing else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum KeyIs {
    #[default]
    BearerToken,
    /// Elasticsearch's: `id:api_key`, or the same in base64 as it gives it out (`encoded`).
    ElasticApiKey,
}

/// Where to get a token from (OAuth 2 client credentials).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(transform = with_other_names)]
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
    #[serde(default, alias = "scopes")]
    scope: Scope,
    /// More that the token server wants to know, such as `audience`.
    #[serde(default)]
    params: BTreeMap<String, Secret>,
    /// How `clientID` and `clientSecret` are sent: in the `header` (Basic) or in the `body`.
    #[serde(default)]
    auth_style: AuthStyle,
}

/// The other names of these fields, of which a schema that is derived knows nothing.
fn with_other_names(schema: &mut Schema) {
    const OTHERS: [(&str, &str); 3] = [
        ("tokenURL", "tokenUrl"),
        ("clientID", "clientId"),
        ("scope", "scopes"),
    ];
    if let Some(fields) = schema
        .get_mut("properties")
        .and_then(|fields| fields.as_object_mut())
    {
        for (name, other) in OTHERS {
            if let Some(field) = fields.get(name).cloned() {
                fields.insert(other.to_owned(), field);
            }
        }
    }
    schema.remove("required");
    let either = json!([{ "required": ["tokenURL"] }, { "required": ["tokenUrl"] }]);
    schema.insert("anyOf".to_owned(), either);
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
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
    /// Who signs each request, if that is how we say who we are.
    signer: Option<Signer>,
    /// When the bearer token ends, if it is a JWT that says so.
    expiry: Option<Timestamp>,
    /// Those that the definition does not hold in the form in which they are sent.
    secrets: Vec<Secret>,
}

impl Login {
    /// Reads what `spec`, its secret, the user-info of the URL and the settings say.
    pub(crate) fn new(
        access: Access<'_>,
        url: &Location,
        settings: LoginSettings,
    ) -> Result<Self, Invalid> {
        // What the secret brings is judged when it is there.
        if access.resolved().is_partial {
            return Ok(Self {
                headers: settings.headers.0,
                oauth: None,
                signer: None,
                expiry: None,
                secrets: Vec::new(),
            });
        }
        if let Some(sig_v4) = settings.aws_sig_v4 {
            let others = [
                (settings.bearer.is_some(), "`bearer`"),
                (settings.api_key_header.is_some(), "`apiKeyHeader`"),
                (settings.oauth.is_some(), "`oauth`"),
                (
                    settings.headers.0.contains_key(header::AUTHORIZATION),
                    "the header `authorization`",
                ),
            ];
            if let Some((_, other)) = others.iter().find(|(is_given, _)| *is_given) {
                return Err(access
                    .invalid(Field::Properties, format!("both `awsSigV4` and {other}"))
                    .hint("keep one of them"));
            }
            let signer = Signer::new(&access, url, sig_v4)?;
            return Ok(Self {
                headers: settings.headers.0,
                oauth: None,
                expiry: None,
                secrets: signer.secrets().to_vec(),
                signer: Some(signer),
            });
        }
        let given = Given::new(access, url, &settings)?;
        let mut headers = settings.headers.0;
        // A password that the owner has encoded.
        let mut secrets: Vec<Secret> = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| {
                BASE64_STANDARD
                    .decode(value.to_str().ok()?.strip_prefix("Basic ")?)
                    .ok()
            })
            .and_then(|login| String::from_utf8(login).ok())
            .and_then(|login| Some(Secret::new(login.split_once(':')?.1)))
            .into_iter()
            .collect();
        let mut claim = |name: HeaderName, value: HeaderValue, what: &str| {
            if headers.contains_key(&name) {
                let message = format!("{what} and another login both set the header `{name}`");
                return Err(access
                    .invalid(Field::Properties, message)
                    .hint("keep one of them"));
            }
            headers.insert(name, value);
            Ok(())
        };
        let mut expiry = None;
        if let Some((name, key)) = given.api_key {
            claim(
                name,
                sendable(&access, "the API key", "", &key)?,
                "`apiKeyHeader`",
            )?;
        }
        if let Some((username, password)) = given.basic {
            let value = basic(&access, username.as_ref(), &password)?;
            secrets.push(encoded(&value));
            claim(header::AUTHORIZATION, value, "`username` and `password`")?;
        }
        if let Some(key) = given.elastic_api_key {
            let (encoded, forms) = elastic_api_key(&key);
            let value = sendable(&access, "the API key", "ApiKey ", &encoded)?;
            secrets.extend(forms);
            claim(header::AUTHORIZATION, value, "the API key")?;
        }
        if let Some(token) = given.bearer {
            expiry = expiry_of(token.expose());
            let value = sendable(&access, "the bearer token", "Bearer ", &token)?;
            claim(header::AUTHORIZATION, value, "the bearer token")?;
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
        secrets.extend(oauth.iter().flat_map(|oauth| oauth.secrets.clone()));
        Ok(Self {
            headers,
            oauth,
            signer: None,
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

    /// Signs a request to home as it will be sent, where that is wanted.
    pub(crate) async fn sign(
        &self,
        attempt: &mut Attempt,
        request: &mut Request,
    ) -> Result<(), Failure> {
        match &self.signer {
            Some(signer) => signer.sign(attempt, request).await,
            None => Ok(()),
        }
    }

    /// What must not be printed either: credentials in the form in which they are sent.
    pub(crate) fn secrets(&self) -> &[Secret] {
        &self.secrets
    }

    pub(crate) fn sends_authorization(&self) -> bool {
        self.oauth.is_some() || self.headers.contains_key(header::AUTHORIZATION)
    }

    /// More about a 401 or 403, from what we know of the login.
    pub(crate) fn explain(&self, cause: Cause, response: &Response) -> Cause {
        if let Some(signer) = &self.signer {
            return signer.explain(cause, response);
        }
        if !matches!(response.status.as_u16(), 401 | 403) {
            return cause;
        }
        let has_login = self.oauth.is_some() || !self.headers.is_empty();
        if let Some(elsewhere) = response.elsewhere.as_ref().filter(|_| has_login) {
            return cause.hint(format!(
                "a redirect led away, so the login was not sent to `{elsewhere}`: let `url` name where it leads"
            ));
        }
        if let Some(hint) = has_ended(self.expiry) {
            return cause.hint(hint);
        }
        if response.status == StatusCode::UNAUTHORIZED && self.sends_authorization() {
            let accepts = match response.challenges() {
                Some(challenges) => format!("; it accepts {challenges}"),
                None => String::new(),
            };
            return cause.hint(format!("it refused the login that was sent{accepts}"));
        }
        cause
    }
}

/// Which logins were given, before they become headers.
struct Given {
    api_key: Option<(HeaderName, Secret)>,
    basic: Option<(Option<Secret>, Secret)>,
    elastic_api_key: Option<Secret>,
    bearer: Option<Secret>,
    client_secret: Option<Secret>,
}

impl Given {
    /// The secret's single key has one meaning: the client secret of an `oauth` that has none, the
    /// value of `apiKeyHeader`, the password of a `username` that has none, or else a bearer token.
    fn new(access: Access<'_>, url: &Location, settings: &LoginSettings) -> Result<Self, Invalid> {
        let resolved = access.resolved();
        let own = |key: SecretKey| resolved.own_key(key).cloned();
        let username = access.username(url.username.as_deref());
        let mut password =
            (resolved.password.clone()).or_else(|| url.password.as_deref().map(Secret::new));
        let mut key = resolved.key.clone();
        let mut take_key = |is_meant: bool| if is_meant { key.take() } else { None };

        let wants_secret = settings
            .oauth
            .as_ref()
            .is_some_and(|oauth| oauth.client_secret.is_none());
        let client_secret = match wants_secret {
            true => take_key(true).or_else(|| own(CLIENT_SECRET)),
            false => None,
        };
        let api_key = match &settings.api_key_header {
            None => None,
            Some(Name(name)) => {
                let value = take_key(true)
                    .or_else(|| own(API_KEY))
                    .or_else(|| own(TOKEN))
                    .or_else(|| {
                        if username.is_none() {
                            password.take()
                        } else {
                            None
                        }
                    });
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
                    .hint("give `password` or a `secretRef`"));
            }
        };
        let elastic_api_key = match settings.key_is {
            KeyIs::BearerToken => None,
            KeyIs::ElasticApiKey => take_key(true).or_else(|| {
                let has_login = basic.is_some() || settings.bearer.is_some();
                if has_login { None } else { own(API_KEY) }
            }),
        };
        let bearer = match (take_key(true), &settings.bearer) {
            (Some(_), Some(_)) => {
                return Err(access
                    .invalid(
                        Field::Properties,
                        "two bearer tokens: `bearer`, and the secret's",
                    )
                    .hint(
                        "leave `bearer` out, or give `apiKeyHeader` if the secret is an API key",
                    ));
            }
            (Some(token), None) => Some(token),
            (None, Some(token)) => Some(token.clone()),
            // An API key without a header to be sent in is a token, as with a single key.
            (None, None) if settings.key_is == KeyIs::ElasticApiKey => match elastic_api_key {
                Some(_) => None,
                None => own(TOKEN),
            },
            (None, None) if api_key.is_none() && settings.oauth.is_none() => {
                own(TOKEN).or_else(|| own(API_KEY))
            }
            (None, None) => None,
        };
        Ok(Self {
            api_key,
            basic,
            elastic_api_key,
            bearer,
            client_secret,
        })
    }
}

/// A credential as the value of a header.
pub(crate) fn sendable(
    access: &Access<'_>,
    what: &str,
    prefix: &str,
    secret: &Secret,
) -> Result<HeaderValue, Invalid> {
    let secret = secret.trimmed();
    if secret.is_empty() {
        return Err(access.invalid(Field::SecretRef, format!("{what} is empty")));
    }
    let mut value =
        HeaderValue::from_str(&format!("{prefix}{}", secret.expose())).map_err(|_| {
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

pub(crate) fn basic(
    access: &Access<'_>,
    username: Option<&Secret>,
    password: &Secret,
) -> Result<HeaderValue, Invalid> {
    let username = username.map(Secret::expose).unwrap_or_default();
    if username.contains(':') {
        return Err(access.invalid(
            Field::Username,
            "a username cannot have a `:` in it over HTTP",
        ));
    }
    let pair = Secret::new(format!("{username}:{}", password.expose()));
    sendable(
        access,
        "the login",
        "Basic ",
        &Secret::new(BASE64_STANDARD.encode(pair.expose())),
    )
}

/// Elasticsearch's API key as it is sent, and the forms of it that a peer may echo.
fn elastic_api_key(key: &Secret) -> (Secret, Vec<Secret>) {
    let key = key.trimmed();
    let (encoded, pair) = match key.expose().contains(':') {
        true => (
            BASE64_STANDARD.encode(key.expose()),
            key.expose().to_owned(),
        ),
        false => {
            let decoded = BASE64_STANDARD.decode(key.expose()).unwrap_or_default();
            let pair = String::from_utf8_lossy(&decoded).into_owned();
            (key.expose().to_owned(), pair)
        }
    };
    let password = pair.split_once(':').map(|(_, password)| password);
    let forms = [Some(&*encoded), Some(&*pair), password];
    let forms = forms.into_iter().flatten().map(Secret::new).collect();
    (Secret::new(encoded), forms)
}

/// The part of an `Authorization` behind its scheme: a server may echo it.
pub(crate) fn encoded(value: &HeaderValue) -> Secret {
    let text = value.to_str().unwrap_or_default();
    let text = text.split_once(' ').map_or(text, |(_, encoded)| encoded);
    // Whoever echoes base64 may leave its padding out.
    Secret::new(text.trim_end_matches('='))
}

/// How a form has it: a peer may repeat that as well.
pub(crate) fn form_encoded(secret: &Secret) -> Secret {
    let bytes = secret.expose().as_bytes();
    Secret::new(form_urlencoded::byte_serialize(bytes).collect::<String>())
}

/// What a refused token's owner should know first.
pub(crate) fn has_ended(expiry: Option<Timestamp>) -> Option<String> {
    let expiry = expiry.filter(|expiry| *expiry < Timestamp::now())?;
    Some(format!("the bearer token ended {expiry}: renew it"))
}

/// When a token ends, if it is a JWT that tells.
pub(crate) fn expiry_of(token: &str) -> Option<Timestamp> {
    #[derive(Deserialize)]
    struct Claims {
        exp: f64,
    }
    let mut parts = token.trim().split('.');
    let (_, payload, _, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next()) else {
        return None;
    };
    let payload = BASE64_URL_SAFE_NO_PAD
        .decode(payload.trim_end_matches('='))
        .ok()?;
    let claims: Claims = serde_json::from_slice(&payload).ok()?;
    Timestamp::from_second(claims.exp as i64).ok()
}

/// OAuth 2 client credentials (RFC 6749, 4.4). Asked anew by each attempt: a token kept from
/// yesterday would hide that the token server is down today.
struct OAuth {
    request: Request,
    /// As it is sent, if it is sent in the header.
    secrets: Vec<Secret>,
}

impl OAuth {
    fn new(
        access: &Access<'_>,
        settings: OAuthSettings,
        from_secret: Option<Secret>,
    ) -> Result<Self, Invalid> {
        let invalid = |message: &str| access.invalid(Field::Properties, message);
        let (_, url) = target(settings.token_url.expose())
            .map_err(|error| invalid(&format!("bad `oauth.tokenURL`: {error}")))?;
        let client_id = settings
            .client_id
            .or_else(|| access.resolved().own_key(CLIENT_ID).cloned())
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
        for (name, value) in &settings.params {
            form.append_pair(name, value.expose());
        }
        let mut authorization = None;
        match settings.auth_style {
            AuthStyle::Header => {
                // Both are form-encoded first (RFC 6749, 2.3.1).
                let (id, secret) = (form_encoded(&client_id), form_encoded(&client_secret));
                let value = basic(access, Some(&id), &secret)?;
                authorization = Some(value);
            }
            AuthStyle::Body => {
                form.append_pair("client_id", client_id.expose());
                form.append_pair("client_secret", client_secret.expose());
            }
        }
        let mut request = Request::form(url, form.finish());
        let mut secrets = vec![form_encoded(&client_secret)];
        secrets.extend(authorization.as_ref().map(encoded));
        request
            .headers
            .extend(authorization.map(|value| (header::AUTHORIZATION, value)));
        Ok(Self { request, secrets })
    }

    async fn token(&self, attempt: &mut Attempt, client: &Client) -> Result<HeaderValue, Failure> {
        let response = client.send(attempt, Phase::Auth, &self.request).await?;
        let (value, token) = read_token(&response).map_err(|cause| {
            let server = crate::http::endpoint_of(&self.request.url);
            (cause.about(format_args!("token server `{server}`"))).in_phase(Phase::Auth)
        })?;
        attempt.keeps_secret(&token);
        Ok(value)
    }
}

fn read_token(response: &Response) -> Result<(HeaderValue, Secret), Cause> {
    if !response.status.is_success() {
        return Err(refusal(response));
    }
    granted(response)
}

/// The token of an answer that grants one, and as it is sent.
pub(crate) fn granted(response: &Response) -> Result<(HeaderValue, Secret), Cause> {
    #[derive(Deserialize)]
    struct Granted {
        access_token: Secret,
        token_type: Option<String>,
    }
    let granted: Granted = response.json()?;
    // Some leave it out, though RFC 6749 asks for it.
    if let Some(other) = granted
        .token_type
        .filter(|ty| !ty.eq_ignore_ascii_case("bearer"))
    {
        return Err(Cause::protocol(format!(
            "the token is not a bearer token but `{other}`"
        )));
    }
    if granted.access_token.is_empty() {
        return Err(Cause::protocol("the token is empty"));
    }
    Ok((bearer(&granted.access_token)?, granted.access_token))
}

/// A token that was given on the way, as it is sent.
pub(crate) fn bearer(token: &Secret) -> Result<HeaderValue, Cause> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
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
pub(crate) struct Headers(HeaderMap);

impl Headers {
    fn add<E: de::Error>(&mut self, Name(name): Name, value: Secret) -> Result<(), E> {
        // Blanks around it are not part of a value (RFC 9110, 5.5); a line end would be another header.
        let value = value.expose().trim_matches([' ', '\t']);
        let mut sent = HeaderValue::from_str(value).map_err(|_| {
            E::custom(format!(
                "the value of header `{name}` has line ends or other characters that no header may have"
            ))
        })?;
        if name == header::HOST && value.parse::<http::uri::Authority>().is_err() {
            return Err(E::custom("the header `host` is not a host name"));
        }
        sent.set_sensitive(true);
        // More than 24,576 have no room there.
        (self.0.try_append(name, sent)).map_err(|_| E::custom("too many headers"))?;
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

written!(Headers: json_schema!({
    "anyOf": [
        { "type": "object", "additionalProperties": { "type": "string" } },
        {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "name": { "type": "string" },
                    "value": { "type": "string" },
                    "valueFrom": { "type": "object" },
                },
                "required": ["name"],
                "anyOf": [{ "required": ["value"] }, { "required": ["valueFrom"] }],
                "additionalProperties": false,
            },
        },
    ],
}));

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

written!(Name: json_schema!({
    "type": ["string", "number", "boolean"],
    "pattern": r"^\s*[-!#$%&'*+.^_`|~0-9A-Za-z]+\s*$",
}));

/// What a token is to allow: one text with blanks, or a list.
#[derive(Debug, Default)]
pub(crate) struct Scope(pub(crate) String);

written!(Scope: json_schema!({
    "anyOf": [
        { "type": ["string", "null"] },
        { "type": "array", "items": { "type": "string" } },
    ],
}));

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{LONG, Peer, answer, build, build_partly, failure, ok, run, status};

    /// The header that a definition makes of its login.
    async fn sent(lines: &str, secret: &[(&str, &str)], header: &str) -> Option<String> {
        let peer = Peer::new([ok("")]).await;
        let at = format!("127.0.0.1:{}", peer.port);
        let spec = match lines.contains("url:") {
            true => lines.replace("HOST", &at),
            false => format!("url: http://{at}\n{lines}"),
        };
        let outcome = run(&build("http", &spec, secret).unwrap(), LONG).await;
        assert_eq!(outcome.result, Ok(()));
        let prefix = format!("{header}: ");
        let heard = peer.heard();
        let mut lines = heard[0].lines();
        lines.find_map(|line| line.strip_prefix(&prefix).map(str::to_owned))
    }

    #[tokio::test]
    async fn each_login_is_sent_as_it_should_be() {
        const KEY: &str = "secretRef: {name: login, key: api-key}\n";
        const WHOLE: &str = "secretRef: {name: login}\n";
        let basic = "Basic cHJvYmU6cMOkc3M6dw=="; // probe:päss:w
        for (lines, secret, header, value) in [
            (
                "username: probe\npassword: päss:w",
                &[][..],
                "Authorization",
                basic,
            ),
            (
                "url: http://probe:p%C3%A4ss%3Aw@HOST/",
                &[],
                "Authorization",
                basic,
            ),
            (
                &format!("url: http://other:thing@HOST/\n{WHOLE}"),
                &[("username", "probe"), ("password", "päss:w\n")],
                "Authorization",
                basic,
            ),
            (
                &format!("username: probe\n{KEY}"),
                &[("api-key", "päss:w")],
                "Authorization",
                basic,
            ),
            (
                "properties: {bearer: abc}",
                &[],
                "Authorization",
                "Bearer abc",
            ),
            (KEY, &[("api-key", "k3y\n")], "Authorization", "Bearer k3y"),
            (WHOLE, &[("token", "k3y")], "Authorization", "Bearer k3y"),
            (
                &format!("{KEY}properties: {{apiKeyHeader: X-Api-Key}}"),
                &[("api-key", "k3y")],
                "X-Api-Key",
                "k3y",
            ),
            (
                &format!("{WHOLE}properties: {{apiKeyHeader: X-Api-Key}}"),
                &[("apiKey", "k3y")],
                "X-Api-Key",
                "k3y",
            ),
            (
                "password: k3y\nproperties: {apiKeyHeader: X-Api-Key}",
                &[],
                "X-Api-Key",
                "k3y",
            ),
            (
                &format!("{KEY}properties: {{apiKeyHeader: X-Api-Key, bearer: abc}}"),
                &[("api-key", "k3y")],
                "Authorization",
                "Bearer abc",
            ),
            (
                "properties: {headers: [{name: x-a, value: 1}, {name: X-B, value: two}]}",
                &[],
                "X-B",
                "two",
            ),
            (
                "properties: {headers: {x-a: secret://login/h}}",
                &[("h", "from a secret\n")],
                "X-A",
                "from a secret",
            ),
            (
                "properties: {headers: {User-Agent: me}}",
                &[],
                "User-Agent",
                "me",
            ),
        ] {
            assert_eq!(
                sent(lines, secret, header).await.as_deref(),
                Some(value),
                "{lines}"
            );
        }
    }

    #[test]
    fn a_login_that_cannot_be_meant_is_refused() {
        const URL: &str = "url: http://h.test\n";
        for (lines, message) in [
            ("username: probe", "a username without a password"),
            (
                "username: 'pro:be'\npassword: pass",
                "a username cannot have a `:` in it over HTTP",
            ),
            (
                "username: probe\npassword: pass\nproperties: {bearer: abc}",
                "the bearer token and another login both set the header `authorization`",
            ),
            (
                "properties: {bearer: abc, headers: {authorization: Basic x}}",
                "the bearer token and another login both set the header `authorization`",
            ),
            (
                "properties: {bearer: abc, oauth: {tokenURL: 'http://t.test', clientID: a, clientSecret: b}}",
                "`oauth` and another login both set the header `authorization`",
            ),
            (
                "secretRef: {name: login, key: k}\nproperties: {bearer: abc}",
                "two bearer tokens: `bearer`, and the secret's",
            ),
            (
                "properties: {apiKeyHeader: X-Key}",
                "`apiKeyHeader` without an API key",
            ),
            (
                "properties: {bearer: 'a\u{1}b'}",
                "the bearer token has line ends or other characters that no header may have",
            ),
            (
                "properties: {oauth: {tokenURL: 'http://t.test', clientID: a}}",
                "`oauth` has no `clientSecret`",
            ),
            (
                "properties: {oauth: {tokenURL: 'http://t.test', clientSecret: a}}",
                "`oauth` has no `clientID`",
            ),
            (
                "properties: {oauth: {tokenURL: t.test, clientID: a, clientSecret: b}}",
                "bad `oauth.tokenURL`: it has no scheme (`redis://`, `https://` …)",
            ),
            (
                "properties: {headers: {'a b': c}}",
                "`properties.headers.a b`: not a header name: letters, digits and `-` only",
            ),
            (
                "properties: {headers: {Content-Length: 1}}",
                "`properties.headers.Content-Length`: this header is conncheck's to set",
            ),
            (
                "properties: {headers: {X-A: \"hun\\nter2\"}}",
                "`properties.headers`: the value of header `x-a` has line ends or other characters that no header may have",
            ),
            (
                "properties: {headers: {host: a b}}",
                "`properties.headers`: the header `host` is not a host name",
            ),
            (
                "properties: {headers: nothing}",
                "`properties.headers`: expected a mapping of headers, or a list of `name` and `value`, found text",
            ),
            (
                "properties: {headers: [{name: a, valu: b}]}",
                "unknown field `valu` in `properties.headers[0]`",
            ),
            (
                "properties: {oauth: {tokenURL: 'http://t.test', authStyle: both}}",
                "`properties.oauth.authStyle`: expected `header` or `body`",
            ),
        ] {
            let spec = format!(
                "{URL}{}",
                lines
                    .replace('\u{1}', "\\u0001")
                    .replace("'a\\u0001b'", "\"a\\u0001b\"")
            );
            let Err(invalid) = build("http", &spec, &[("k", "k3y")]) else {
                panic!("{lines}: nothing is wrong");
            };
            assert!(
                invalid.iter().any(|invalid| invalid.message == message),
                "{lines}: {invalid:?}"
            );
        }
    }

    #[test]
    fn nothing_is_said_against_a_secret_that_is_not_there_yet() {
        for properties in [
            "apiKeyHeader: X-Key",
            "bearer: abc",
            "oauth: {tokenURL: 'http://t.test'}",
            "headers: {Authorization: abc}",
        ] {
            let spec = format!(
                "url: http://h.test\nsecretRef: {{name: elsewhere}}\nproperties: {{{properties}}}"
            );
            assert!(build_partly("http", &spec).is_ok(), "{properties}");
        }
    }

    #[tokio::test]
    async fn what_the_peer_echoes_of_a_login_is_not_printed() {
        let peer = Peer::new([ok(
            r#"{"auth": "Basic cHJvYmU6aHVudGVyMg==", "pass": "hunter2"}"#,
        )])
        .await;
        for path in ["$.auth", "$.pass"] {
            let spec = format!(
                "url: http://probe:hunter2@127.0.0.1:{}\nproperties: {{jsonPath: {path}, equals: x}}",
                peer.port
            );
            let failure = failure(&build("http", &spec, &[]).unwrap(), LONG).await;
            assert_eq!(failure.reason, Reason::Assertion);
            assert!(
                failure.message.contains("[redacted]"),
                "{}",
                failure.message
            );
        }
    }

    #[tokio::test]
    async fn a_jwt_says_when_it_ends() {
        let jwt = |exp: i64| {
            let payload =
                BASE64_URL_SAFE_NO_PAD.encode(format!(r#"{{"sub":"probe","exp":{exp}}}"#));
            format!("eyJhbGciOiJub25lIn0.{payload}.c2lnbmF0dXJl")
        };
        let peer = Peer::new([status("401 Unauthorized", &[])]).await;
        let spec = format!(
            "url: http://127.0.0.1:{}\nproperties: {{bearer: {}}}",
            peer.port,
            jwt(1_600_000_000)
        );
        let outcome = run(&build("http", &spec, &[]).unwrap(), LONG).await;
        assert_eq!(
            outcome.credential_expiry.unwrap().as_second(),
            1_600_000_000
        );
        assert_eq!(
            outcome.result.unwrap_err().hint.as_deref(),
            Some("the bearer token ended 2020-09-13T12:26:40Z: renew it")
        );
        for other in ["abc", "a.b", "a.b.c", "a.b.c.d"] {
            assert_eq!(expiry_of(other), None);
        }
    }

    #[tokio::test]
    async fn a_login_that_is_refused_is_told_from_one_that_is_missing() {
        for (lines, hint) in [
            ("", "it wants a login: `Basic` (realm `x`)"),
            (
                "properties: {bearer: abcdef}",
                "it refused the login that was sent; it accepts `Basic` (realm `x`)",
            ),
        ] {
            let script = status("401 Unauthorized", &["WWW-Authenticate: Basic realm=\"x\""]);
            let peer = Peer::new([script]).await;
            let spec = format!("url: http://127.0.0.1:{}\n{lines}", peer.port);
            let failure = failure(&build("http", &spec, &[]).unwrap(), LONG).await;
            assert_eq!(failure.hint.as_deref(), Some(hint));
        }
    }

    fn json(status: &str, body: &str) -> crate::testing::Script {
        answer(format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
    }

    fn oauth(home: &Peer, idp: &Peer, more: &str) -> std::sync::Arc<dyn crate::Probe> {
        let spec = format!(
            "url: http://127.0.0.1:{}\nproperties:\n  oauth: {{tokenURL: 'http://127.0.0.1:{}/token?tenant=x', clientID: 'pro be', clientSecret: 's3cr&t'{more}}}",
            home.port, idp.port
        );
        build("http", &spec, &[]).unwrap()
    }

    #[tokio::test]
    async fn a_token_is_asked_for_and_sent() {
        let home = Peer::new([ok("")]).await;
        for token_type in [r#""token_type": "bearer","#, ""] {
            let idp = Peer::new([json(
                "200 OK",
                &format!(r#"{{"access_token": "t0ken", {token_type} "expires_in": 300}}"#),
            )])
            .await;
            let outcome = run(
                &oauth(
                    &home,
                    &idp,
                    ", scope: [a, b], params: {audience: 'api://x'}",
                ),
                LONG,
            )
            .await;
            assert_eq!(outcome.result, Ok(()));
            let phases: Vec<Phase> = outcome.phases.iter().map(|(phase, _)| *phase).collect();
            assert_eq!(phases, [Phase::Connect, Phase::Auth, Phase::Request]);
            let asked = &idp.heard()[0];
            assert!(
                asked.starts_with("POST /token?tenant=x HTTP/1.1\r\n"),
                "{asked}"
            );
            assert!(
                asked.contains("Authorization: Basic cHJvK2JlOnMzY3IlMjZ0\r\n"),
                "{asked}"
            ); // pro+be:s3cr%26t
            assert!(asked.contains("Content-Type: application/x-www-form-urlencoded\r\n"));
            assert!(
                asked.ends_with(
                    "\r\n\r\ngrant_type=client_credentials&scope=a+b&audience=api%3A%2F%2Fx"
                ),
                "{asked}"
            );
            assert!(
                home.heard()
                    .pop()
                    .unwrap()
                    .contains("Authorization: Bearer t0ken\r\n")
            );
        }
        let idp = Peer::new([json("200 OK", r#"{"access_token": "t0ken"}"#)]).await;
        assert_eq!(
            run(&oauth(&home, &idp, ", authStyle: body"), LONG)
                .await
                .result,
            Ok(())
        );
        let asked = &idp.heard()[0];
        assert!(!asked.contains("Authorization"), "{asked}");
        assert!(
            asked.ends_with("client_id=pro+be&client_secret=s3cr%26t"),
            "{asked}"
        );
    }

    #[tokio::test]
    async fn a_token_that_is_not_given_has_its_reason() {
        let home = Peer::new([ok("")]).await;
        for (script, reason, code, message) in [
            (
                json(
                    "401 Unauthorized",
                    r#"{"error": "invalid_client", "error_description": "wrong s3cr&t"}"#,
                ),
                Reason::Auth,
                Some("invalid_client"),
                "invalid_client: wrong [redacted]",
            ),
            (
                json("400 Bad Request", r#"{"error": "invalid_scope"}"#),
                Reason::Permission,
                Some("invalid_scope"),
                "invalid_scope",
            ),
            (
                json("401 Unauthorized", "no"),
                Reason::Auth,
                Some("401"),
                "expected a token, got 401 Unauthorized",
            ),
            (
                status("503 Service Unavailable", &[]),
                Reason::Unavailable,
                Some("503"),
                "expected a token, got 503 Service Unavailable",
            ),
            (
                status("302 Found", &["Location: /login"]),
                Reason::HttpStatus,
                Some("302"),
                "expected a token, got 302 Found",
            ),
            (
                json("200 OK", "<html>"),
                Reason::Protocol,
                None,
                "the answer (6 bytes of application/json) is not JSON",
            ),
            (
                json("200 OK", "{}"),
                Reason::Protocol,
                None,
                "the answer (2 bytes of application/json) is JSON, but not what was expected",
            ),
            (
                json("200 OK", r#"{"access_token": "t", "token_type": "DPoP"}"#),
                Reason::Protocol,
                None,
                "the token is not a bearer token but `DPoP`",
            ),
        ] {
            let idp = Peer::new([script]).await;
            let outcome = run(&oauth(&home, &idp, ""), LONG).await;
            assert_eq!(outcome.http_status, None);
            let failure = outcome.result.unwrap_err();
            assert_eq!(
                (failure.reason, failure.phase),
                (reason, Some(Phase::Auth)),
                "{}",
                failure.message
            );
            assert_eq!(failure.code.as_deref(), code);
            let server = format!("token server `http://127.0.0.1:{}`: ", idp.port);
            assert_eq!(failure.message.strip_prefix(&server), Some(message));
        }
        assert!(home.heard().is_empty());
    }

    #[tokio::test]
    async fn a_token_server_that_is_down_is_named() {
        let home = Peer::new([ok("")]).await;
        let idp = Peer::new([ok("")]).await;
        let probe = oauth(&home, &idp, "");
        let port = idp.port;
        drop(idp);
        tokio::task::yield_now().await;
        let failure = failure(&probe, LONG).await;
        assert_eq!(
            (failure.reason, failure.phase),
            (Reason::ConnectRefused, Some(Phase::Connect))
        );
        assert!(
            failure
                .message
                .starts_with(&format!("`http://127.0.0.1:{port}`: ")),
            "{}",
            failure.message
        );
    }
}
