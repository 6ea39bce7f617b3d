//! `http`: one request; its answer has an expected status and, if wanted, an expected body.
//!
//! Proves that the endpoint answers as its owner says it should. The body is read to its end (1 MiB
//! of it at most) whether or not anything is expected of it: an answer that breaks off is none.
//!
//! Sending the request is part of `request`; waiting for an OAuth token is `auth`. With redirects,
//! `resolve`, `connect` and `tls` are the sums over all peers, and the certificate that is shown is
//! the last one's.

use std::fmt;
use std::ops::RangeInclusive;

use bytes::Bytes;
use conncheck_config::{Field, Secret, SecretKey};
use http::{Method, StatusCode};
use regex::{Regex, RegexBuilder};
use schemars::{JsonSchema, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde_json::Value;
use serde_json_path::JsonPath;

use crate::attempt::Attempt;
use crate::aws::{ACCESS_KEY, CREDENTIALS, SECRET_KEY, SESSION_TOKEN, SigV4Settings};
use crate::cause::Cause;
use crate::http::{Request, RequestMethod, Response, body_of};
use crate::login::{
    API_KEY, CLIENT_ID, CLIENT_SECRET, Headers, LoginSettings, Name, OAuthSettings, TOKEN,
};
use crate::outcome::{Failure, Phase, Reason};
use crate::probe::{Access, Invalid, ProbeType};
use crate::schema::written;
use crate::site::Site;

/// `spec.properties` of an HTTP connection.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("dependencies" = { "equals": ["jsonPath"] }))]
pub(crate) struct Settings {
    /// The method of the request; `GET` if not given.
    method: Option<RequestMethod>,
    /// Headers to send: a mapping, or a list of `name` and `value`. They go to the origin of `url`
    /// only, not to where it may redirect.
    headers: Headers,
    /// The body to send, as it is. Say what it is with a `Content-Type` among the headers.
    body: Option<Secret>,
    /// The statuses that are right: `200`, `2xx`, `200-299`, or a list of these. `2xx` if not given.
    /// A redirect that is named here (`302`, `3xx`) is not followed.
    expected_status: Expected,
    /// A text that must be in the body.
    body_contains: Option<String>,
    /// A regular expression that must match somewhere in the body.
    body_regex: Option<BodyRegex>,
    /// A JSONPath (RFC 9535) that must find something in the body: with `equals` that value,
    /// without it anything but `null`, `false` and what is empty.
    json_path: Option<Path>,
    /// What `jsonPath` must find; if it finds several values, each of them. `3` and `"3"` are the
    /// same.
    #[serde(deserialize_with = "given")]
    equals: Option<Scalar>,
    /// Whether redirects are followed, at most ten; `true` if not given.
    follow_redirects: Option<bool>,
    /// A token to send as `Authorization: Bearer …`.
    bearer: Option<Secret>,
    /// The header that the secret's key is sent in, in place of `Authorization: Bearer …`.
    api_key_header: Option<Name>,
    /// Where to get a token from (OAuth 2 client credentials).
    oauth: Option<OAuthSettings>,
    /// Sign the request as AWS wants it: `service`, `region`, and the keys, unless they are given
    /// as `username` and `password` or found where conncheck runs.
    #[serde(rename = "awsSigV4")]
    aws_sig_v4: Option<SigV4Settings>,
    /// Accept any certificate.
    insecure_skip_verify: Option<bool>,
    /// The name that the certificate must be for, in place of the URL's host.
    server_name: Option<String>,
}

pub(crate) struct Http {
    site: Site,
    method: Method,
    body: Bytes,
    follow_redirects: bool,
    expected: Expected,
    assertions: Vec<Assertion>,
}

impl ProbeType for Http {
    type Settings = Settings;

    const FURTHER_REASONS: &'static [Reason] =
        &[Reason::Permission, Reason::HttpStatus, Reason::Assertion];

    const SECRET_KEYS: &'static [SecretKey] = &[
        TOKEN,
        API_KEY,
        CLIENT_ID,
        CLIENT_SECRET,
        ACCESS_KEY,
        SECRET_KEY,
        SESSION_TOKEN,
        CREDENTIALS,
    ];

    fn new(access: Access<'_>, settings: Settings) -> Result<Self, Invalid> {
        let url = access.url()?.expose();
        let tls = access.tls_options(settings.insecure_skip_verify, settings.server_name);
        // A signature is for one URL: where a redirect leads, it is worth nothing.
        let is_signed = settings.aws_sig_v4.is_some();
        if is_signed && settings.follow_redirects == Some(true) {
            return Err(access
                .invalid(Field::Properties, "`followRedirects` with `awsSigV4`")
                .hint("a signature is for one URL: let `url` name where it redirects to"));
        }
        let login = LoginSettings {
            headers: settings.headers,
            bearer: settings.bearer,
            api_key_header: settings.api_key_header,
            oauth: settings.oauth,
            aws_sig_v4: settings.aws_sig_v4,
            ..LoginSettings::default()
        };
        let site = Site::new(&access, url, tls, login)?;
        let method = settings.method.map_or(Method::GET, |method| method.0);
        let mut assertions = Vec::new();
        assertions.extend(settings.body_contains.map(Assertion::Contains));
        assertions.extend(settings.body_regex.map(|regex| Assertion::Matches(regex.0)));
        match (settings.json_path, settings.equals) {
            (Some(Path(path)), Some(Scalar(value))) => {
                assertions.push(Assertion::Equals(path, value));
            }
            (Some(Path(path)), None) => assertions.push(Assertion::Finds(path)),
            (None, None) => {}
            (None, Some(_)) => {
                return Err(access
                    .invalid(Field::Properties, "`equals` without `jsonPath`")
                    .hint("`jsonPath` says which value of the body it is about"));
            }
        }
        if method == Method::HEAD && !assertions.is_empty() {
            return Err(access
                .invalid(
                    Field::Properties,
                    "the answer to `HEAD` has no body to look into",
                )
                .hint("use `GET`"));
        }
        Ok(Self {
            site,
            method,
            body: settings.body.as_ref().map(body_of).unwrap_or_default(),
            follow_redirects: settings.follow_redirects.unwrap_or(!is_signed),
            expected: settings.expected_status,
            assertions,
        })
    }

    fn endpoint(&self) -> String {
        self.site.endpoint()
    }

    fn secrets(&self) -> &[Secret] {
        self.site.secrets()
    }

    async fn probe(&self, attempt: &mut Attempt) -> Result<(), Failure> {
        let mut request = Request {
            method: self.method.clone(),
            url: self.site.url().clone(),
            headers: self.site.log_in(attempt).await?,
            body: self.body.clone(),
        };
        self.site.sign(attempt, &mut request).await?;
        let is_wanted = |status| self.expected.names(status);
        let response = match self.follow_redirects {
            true => self.site.follow(attempt, request, is_wanted).await?,
            false => self.site.send(attempt, &request).await?,
        };
        self.judge_status(&response)
            .map_err(|cause| cause.in_phase(Phase::Request))?;
        response.whole()?;
        self.judge_body(&response)
            .and_then(|()| self.judge_place(&response))
            .map_err(|cause| cause.in_phase(Phase::Request))
    }
}

impl Http {
    /// A login that is refused by a redirect to the login page of somebody else, which is there for all.
    fn judge_place(&self, response: &Response) -> Result<(), Cause> {
        match &response.elsewhere {
            Some(elsewhere)
                if response.is_html() && self.assertions.is_empty() && self.site.has_login() =>
            {
                Err(Cause::new(
                    Reason::Auth,
                    format!("a redirect led to a page of `{elsewhere}`, where the login was not sent: a login page?"),
                )
                .hint("if that page is right, name it in `url`, or say what it holds with `bodyContains`"))
            }
            _ => Ok(()),
        }
    }

    fn judge_status(&self, response: &Response) -> Result<(), Cause> {
        match self.expected.contains(response.status) {
            true => Ok(()),
            false => Err(self.site.unexpected(response, &self.expected.to_string())),
        }
    }

    fn judge_body(&self, response: &Response) -> Result<(), Cause> {
        self.assertions
            .iter()
            .try_for_each(|assertion| assertion.judge(response))
    }
}

/// What a body must be like.
enum Assertion {
    Contains(String),
    Matches(Regex),
    Finds(JsonPath),
    Equals(JsonPath, Value),
}

impl Assertion {
    /// Says what was expected and what kind of body came. Not the body: it may hold secrets.
    fn judge(&self, response: &Response) -> Result<(), Cause> {
        let failed = |message: String| Err(Cause::new(Reason::Assertion, message));
        let body = response.describe();
        match self {
            Self::Contains(text) if response.text().contains(text) => Ok(()),
            Self::Contains(text) => failed(format!("the body ({body}) does not contain `{text}`")),
            Self::Matches(regex) if regex.is_match(&response.text()) => Ok(()),
            Self::Matches(regex) => failed(format!("the body ({body}) does not match `{regex}`")),
            Self::Finds(path) => {
                let json = json_of(response)?;
                let found = path.query(&json).all();
                match found.iter().any(|value| !is_nothing(value)) {
                    true => Ok(()),
                    false if found.is_empty() => {
                        failed(format!("`{path}` finds nothing in the body ({body})"))
                    }
                    false => failed(format!("`{path}` finds only `{}`", brief(found[0]))),
                }
            }
            Self::Equals(path, wanted) => {
                let json = json_of(response)?;
                let found = path.query(&json).all();
                match found.iter().find(|value| !is_same(value, wanted)) {
                    None if found.is_empty() => {
                        failed(format!("`{path}` finds nothing in the body ({body})"))
                    }
                    None => Ok(()),
                    Some(other) => failed(format!(
                        "`{path}` is `{}`, not `{}`",
                        brief(other),
                        brief(wanted)
                    )),
                }
            }
        }
    }
}

fn json_of(response: &Response) -> Result<Value, Cause> {
    response.json().map_err(|cause| Cause {
        reason: Reason::Assertion,
        ..cause
    })
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) | Value::Number(_) => false,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

/// Whether two scalars are the same to a person: `3`, `3.0` and `"3"` are.
fn is_same(found: &Value, wanted: &Value) -> bool {
    let number = |value: &Value| match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    let is_number = found.is_number() || wanted.is_number();
    match (found, wanted) {
        (Value::Array(_) | Value::Object(_), _) => false,
        _ if found == wanted => true,
        _ if is_number => number(found).is_some() && number(found) == number(wanted),
        _ => !found.is_null() && !wanted.is_null() && plain(found) == plain(wanted),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A scalar if it is short. Anything longer may be a document, or a secret.
fn brief(value: &Value) -> String {
    const SHORT: usize = 38;
    match value {
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(fields) => format!("an object with {} fields", fields.len()),
        // As it is, not as JSON writes it: a secret is known by its own letters.
        scalar => match plain(scalar) {
            text if text.chars().count() <= SHORT => text,
            text => format!("a text of {} characters", text.chars().count()),
        },
    }
}

/// The statuses that are right.
#[derive(Debug)]
struct Expected(Vec<RangeInclusive<u16>>);

impl Default for Expected {
    fn default() -> Self {
        Self(vec![200..=299])
    }
}

impl Expected {
    fn contains(&self, status: StatusCode) -> bool {
        self.0.iter().any(|range| range.contains(&status.as_u16()))
    }

    /// Whether a redirect is expected as such, and not as part of `200-399`.
    fn names(&self, status: StatusCode) -> bool {
        let mut named = self.0.iter().filter(|range| *range.start() >= 300);
        named.any(|range| range.contains(&status.as_u16()))
    }

    /// Reads `200`, `2xx`, `200-299`, and several of these with commas between them.
    fn parse(text: &str) -> Result<Self, &'static str> {
        const WRONG: &str =
            "expected a status such as `200`, `2xx` or `200-299`, or a list of these";
        let status = |text: &str| match text.trim().parse() {
            Ok(status @ 100..=599) => Ok(status),
            Ok(_) => Err("a status is from 100 to 599"),
            Err(_) => Err(WRONG),
        };
        let range = |text: &str| match (text.as_bytes(), text.split_once('-')) {
            ([class @ b'1'..=b'5', b'x' | b'X', b'x' | b'X'], _) => {
                let start = u16::from(class - b'0') * 100;
                Ok(start..=start + 99)
            }
            (_, Some((first, last))) => match (status(first)?, status(last)?) {
                (first, last) if first <= last => Ok(first..=last),
                _ => Err("a range of statuses goes from the lower to the higher"),
            },
            (_, None) => status(text).map(|status| status..=status),
        };
        let ranges = text.split(',').map(|part| range(part.trim()));
        Ok(Self(ranges.collect::<Result<_, _>>()?))
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, range) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str(", ")?;
            }
            match (range.start(), range.end()) {
                (first, last) if first == last => write!(f, "{first}")?,
                (first, last) if first % 100 == 0 && *last == first + 99 => {
                    write!(f, "{}xx", first / 100)?;
                }
                (first, last) => write!(f, "{first}-{last}")?,
            }
        }
        Ok(())
    }
}

written!(Expected: {
    let one = r"\s*([1-5][0-9]{2}(\s*-\s*[1-5][0-9]{2})?|[1-5][xX]{2})\s*";
    let status = json_schema!({
        "type": ["integer", "string"],
        "minimum": 100,
        "maximum": 599,
        "pattern": format!("^{one}(,{one})*$"),
        "patternErrorMessage": "A status (204), a class (2xx) or a range (200-299).",
    });
    json_schema!({ "anyOf": [status, { "type": "array", "minItems": 1, "items": status }] })
});

impl<'de> Deserialize<'de> for Expected {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Expected;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a status such as `200`, `2xx` or `200-299`, or a list of these")
            }

            fn visit_u64<E: de::Error>(self, status: u64) -> Result<Expected, E> {
                self.visit_str(&status.to_string())
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Expected, E> {
                Expected::parse(text).map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Expected, A::Error> {
                let mut res = Expected(Vec::new());
                while let Some(Expected(ranges)) = seq.next_element()? {
                    res.0.extend(ranges);
                }
                match res.0.is_empty() {
                    true => Err(de::Error::custom("no status at all can be right")),
                    false => Ok(res),
                }
            }
        }

        deserializer.deserialize_any(Any)
    }
}

/// A regular expression.
#[derive(Debug)]
struct BodyRegex(Regex);

/// How large a regular expression may become: it is matched in one go, whatever the deadline says.
const MOST_REGEX_BYTES: usize = 1 << 20;

impl<'de> Deserialize<'de> for BodyRegex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let built = RegexBuilder::new(&text)
            .size_limit(MOST_REGEX_BYTES)
            .build();
        built.map(Self).map_err(|error| {
            // The crate draws the expression with a caret under it; its last line says what is wrong.
            let error = error.to_string();
            let what = error.lines().last().unwrap_or_default();
            let what = what.trim().trim_start_matches("error: ");
            de::Error::custom(format!("not a regular expression: {what}"))
        })
    }
}

written!(BodyRegex: json_schema!({ "type": "string" }));

/// A JSONPath.
#[derive(Debug)]
struct Path(JsonPath);

impl<'de> Deserialize<'de> for Path {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let text = text.trim();
        // Each further one multiplies what is found by the depth of a body that is not ours.
        if text.matches("..").count() > 1 {
            return Err(de::Error::custom(
                "a JSONPath with more than one `..` takes too long on a large body",
            ));
        }
        JsonPath::parse(text).map(Self).map_err(|error| {
            de::Error::custom(match text.starts_with('$') {
                true => format!(
                    "not a JSONPath: it is wrong from character {} on",
                    error.position()
                ),
                false => "not a JSONPath: one starts with `$`".to_owned(),
            })
        })
    }
}

written!(Path: json_schema!({ "type": "string", "pattern": r"^\s*\$", "patternErrorMessage": "A JSONPath starts with $." }));

/// A text, a number, `true`, `false` or `null`.
#[derive(Debug)]
struct Scalar(Value);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl Visitor<'_> for Any {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, a number, `true`, `false` or `null`")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Scalar, E> {
                Ok(Scalar(Value::Null))
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Scalar, E> {
                Ok(Scalar(value.into()))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Scalar, E> {
                Ok(Scalar(value.into()))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Scalar, E> {
                Ok(Scalar(value.into()))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Scalar, E> {
                Ok(Scalar(value.into()))
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Scalar, E> {
                Ok(Scalar(value.into()))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

written!(Scalar: json_schema!({ "type": ["string", "number", "boolean", "null"] }));

/// `equals: null` is a value, not the absence of one.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Scalar>, D::Error> {
    Scalar::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{
        LONG, Peer, answer, basic_login, build, check_logins, ok, percent_encoded, run, status,
    };

    #[test]
    fn any_login_is_what_was_given() {
        let url = "https://$(username):$(password)@h/path?a=b";
        check_logins("http", url, percent_encoded, (":", ""), |probe: &Http| {
            basic_login(probe.secrets())
        });
    }

    #[test]
    fn the_endpoint_is_the_origin_alone() {
        for (url, endpoint) in [
            (
                "https://user:pass@h.test/path?token=x#y",
                "https://h.test:443",
            ),
            ("http://h.test", "http://h.test:80"),
            ("HTTP://H.test:8080/", "http://h.test:8080"),
            ("https://[::1]:8443/x", "https://[::1]:8443"),
            ("https://münchen.test", "https://xn--mnchen-3ya.test:443"),
        ] {
            let probe = build("http", &format!("url: '{url}'"), &[]).unwrap();
            assert_eq!(probe.endpoint(), endpoint);
        }
    }

    #[test]
    fn a_definition_that_cannot_be_meant_is_refused() {
        for (lines, place, message) in [
            ("properties: {}", "4:9", "there is no `url`"),
            (
                "url: ftp://h.test",
                "7:8",
                "bad `url`: this scheme is not HTTP: use `http://` or `https://`",
            ),
            (
                "url: h.test/health",
                "7:8",
                "bad `url`: it has no scheme (`redis://`, `https://` …)",
            ),
            ("url: 'http://:80/'", "7:8", "bad `url`: empty host"),
            (
                "url: 'http://u:p/w@h.test/'",
                "7:8",
                "bad `url`: the port is not a number below 65536; if the password has a `:`, `/`, `@` or `#` in it, percent-encode it or give it as `password`",
            ),
            (
                "method: 'GE T'",
                "8:24",
                "`properties.method`: expected a method such as `GET`, `HEAD`, `POST` or `OPTIONS`",
            ),
            (
                "expectedStatus: 20",
                "8:32",
                "`properties.expectedStatus`: a status is from 100 to 599",
            ),
            (
                "expectedStatus: 2x",
                "8:32",
                "`properties.expectedStatus`: expected a status such as `200`, `2xx` or `200-299`, or a list of these",
            ),
            (
                "expectedStatus: 299-200",
                "8:32",
                "`properties.expectedStatus`: a range of statuses goes from the lower to the higher",
            ),
            (
                "expectedStatus: []",
                "8:32",
                "`properties.expectedStatus`: no status at all can be right",
            ),
            (
                "expectedStatus: [200, ok]",
                "8:38",
                "`properties.expectedStatus[1]`: expected a status such as `200`, `2xx` or `200-299`, or a list of these",
            ),
            (
                "expectedStatus: {a: b}",
                "8:32",
                "`properties.expectedStatus`: expected a status such as `200`, `2xx` or `200-299`, or a list of these, found a mapping",
            ),
            (
                "bodyRegex: '(a'",
                "8:27",
                "`properties.bodyRegex`: not a regular expression: unclosed group",
            ),
            (
                "jsonPath: status",
                "8:26",
                "`properties.jsonPath`: not a JSONPath: one starts with `$`",
            ),
            (
                "jsonPath: '$.a['",
                "8:26",
                "`properties.jsonPath`: not a JSONPath: it is wrong from character 3 on",
            ),
            ("equals: 1", "8:15", "`equals` without `jsonPath`"),
            (
                "jsonPath: $.a, equals: [1]",
                "8:39",
                "`properties.equals`: expected text, a number, `true`, `false` or `null`, found a list",
            ),
            (
                "method: HEAD, bodyContains: ok",
                "8:15",
                "the answer to `HEAD` has no body to look into",
            ),
            (
                "expectStatus: 200",
                "8:16",
                "unknown property `expectStatus`",
            ),
        ] {
            let spec = match lines.contains("url:") || lines.contains("properties") {
                true => lines.to_owned(),
                false => format!("url: http://h.test\nproperties: {{{lines}}}"),
            };
            let Err(invalid) = build("http", &spec, &[]) else {
                panic!("{lines}: nothing is wrong");
            };
            assert_eq!(invalid[0].message, message, "{lines}");
            let found = &invalid[0].place;
            assert_eq!(format!("{}:{}", found.line, found.column), place, "{lines}");
        }
    }

    #[test]
    fn statuses_are_read_and_shown() {
        for (text, shown, right, wrong) in [
            ("200", "200", 200, 201),
            ("2xx", "2xx", 299, 300),
            ("200-299", "2xx", 204, 199),
            ("2XX, 401,403-404", "2xx, 401, 403-404", 404, 405),
        ] {
            let expected = Expected::parse(text).unwrap();
            assert_eq!(expected.to_string(), shown);
            assert!(expected.contains(StatusCode::from_u16(right).unwrap()));
            assert!(!expected.contains(StatusCode::from_u16(wrong).unwrap()));
        }
        for text in [
            "", "200,", "600", "99", "abc", "x2x", "6xx", "-1", "200-", "2é",
        ] {
            assert!(Expected::parse(text).is_err(), "{text}");
        }
    }

    /// What comes of an answer, as one line.
    async fn verdict(script: crate::testing::Script, properties: &str) -> String {
        let peer = Peer::new([script]).await;
        let spec = format!(
            "url: http://127.0.0.1:{}\nproperties: {{{properties}}}",
            peer.port
        );
        match run(&build("http", &spec, &[]).unwrap(), LONG).await.result {
            Ok(()) => "up".to_owned(),
            Err(failure) => format!("{}: {}", failure.reason, failure.message),
        }
    }

    #[tokio::test]
    async fn the_expected_status_is_the_right_one() {
        for (line, expected, verdict_is) in [
            ("201 Created", "[200, 201]", "up"),
            ("401 Unauthorized", "401", "up"),
            ("401 Unauthorized", "'2xx, 401'", "up"),
            (
                "200 OK",
                "[401, 403]",
                "http_status: expected 401, 403, got 200 OK",
            ),
            ("599", "5xx", "up"),
            ("304 Not Modified", "200-399", "up"),
        ] {
            let properties = format!("expectedStatus: {expected}");
            assert_eq!(verdict(status(line, &[]), &properties).await, verdict_is);
        }
    }

    #[tokio::test]
    async fn a_redirect_that_is_expected_by_name_is_not_followed() {
        for (expected, followed) in [("302", 1), ("3xx", 1), ("[200, 302]", 1), ("200-399", 2)] {
            let peer = Peer::new([status("302 Found", &["Location: /x"]), ok("")]).await;
            let spec = format!(
                "url: http://127.0.0.1:{}\nproperties: {{expectedStatus: {expected}}}",
                peer.port
            );
            let outcome = run(&build("http", &spec, &[]).unwrap(), LONG).await;
            assert_eq!(outcome.result, Ok(()));
            assert_eq!(peer.heard().len(), followed, "{expected}");
        }
    }

    /// Whoever is not let in is often sent to a login page, and that is there for all.
    #[tokio::test]
    async fn a_login_page_of_somebody_else_is_not_up() {
        let page = || {
            answer("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>")
        };
        for (more, content, is_up) in [
            ("bearer: t0ken-0", page(), false),
            ("bearer: t0ken-0, bodyContains: html", page(), true),
            ("headers: {User-Agent: x}", page(), true),
            ("bearer: t0ken-0", ok("an archive"), true),
        ] {
            let away = Peer::new([content]).await;
            let location = format!("Location: http://127.0.0.1:{}/login", away.port);
            let peer = Peer::new([status("302 Found", &[&location])]).await;
            let spec = format!(
                "url: http://127.0.0.1:{}\nproperties: {{{more}}}",
                peer.port
            );
            let outcome = run(&build("http", &spec, &[]).unwrap(), LONG).await;
            assert_eq!(outcome.is_up(), is_up, "{more}: {outcome:?}");
            if let Err(failure) = outcome.result {
                assert_eq!(failure.reason, Reason::Auth);
                assert!(failure.message.contains("a login page?"), "{failure:?}");
            }
        }
    }

    #[test]
    fn what_no_deadline_would_cut_is_refused() {
        for (properties, message) in [
            ("jsonPath: $..a..b", "more than one `..`"),
            ("bodyRegex: '(?:\\w{100}){100}'", "not a regular expression"),
        ] {
            let spec = format!("url: http://h.test\nproperties: {{{properties}}}");
            let mistakes = build("http", &spec, &[]).err().unwrap();
            assert!(mistakes[0].message.contains(message), "{mistakes:?}");
        }
        let headers: String = (0..30_000).map(|n| format!("X-{n}: y, ")).collect();
        let spec = format!("url: http://h.test\nproperties: {{headers: {{{headers}}}}}");
        let mistakes = build("http", &spec, &[]).err().unwrap();
        assert!(
            mistakes[0].message.contains("too many headers"),
            "{mistakes:?}"
        );
    }

    #[tokio::test]
    async fn a_secret_in_json_is_known_by_its_own_letters() {
        let peer = Peer::new([ok(r#"{"a": "it is pa\"ss0rd"}"#)]).await;
        let spec = format!(
            "url: http://127.0.0.1:{}\nsecretRef: {{name: login, key: k}}\nproperties: {{jsonPath: $.a, equals: b}}",
            peer.port
        );
        let probe = build("http", &spec, &[("k", r#"pa"ss0rd"#)]).unwrap();
        let failure = run(&probe, LONG).await.result.unwrap_err();
        assert_eq!(failure.message, "`$.a` is `it is [redacted]`, not `b`");
    }

    #[tokio::test]
    async fn bodies_are_looked_into() {
        let body = r#"{"status": "ok", "n": 3, "version": "3.10", "on": true, "off": false, "none": null, "empty": [], "long": "0123456789012345678901234567890123456789",
            "checks": [{"status": "UP"}, {"status": "UP"}, {"status": "DOWN"}]}"#;
        for (properties, expected) in [
            ("bodyContains: '\"status\": \"ok\"'", "up"),
            (
                "bodyContains: degraded",
                "assertion: the body (228 bytes) does not contain `degraded`",
            ),
            ("bodyRegex: '\"n\": [0-9]+'", "up"),
            (
                "bodyRegex: '^ok$'",
                "assertion: the body (228 bytes) does not match `^ok$`",
            ),
            ("jsonPath: $.status", "up"),
            ("jsonPath: $.off", "assertion: `$.off` finds only `false`"),
            ("jsonPath: $.none", "assertion: `$.none` finds only `null`"),
            (
                "jsonPath: $.empty",
                "assertion: `$.empty` finds only `a list of 0`",
            ),
            (
                "jsonPath: $.missing",
                "assertion: `$.missing` finds nothing in the body (228 bytes)",
            ),
            (
                "jsonPath: $.missing, equals: null",
                "assertion: `$.missing` finds nothing in the body (228 bytes)",
            ),
            ("jsonPath: $.none, equals: null", "up"),
            ("jsonPath: $.status, equals: ok", "up"),
            (
                "jsonPath: $.status, equals: null",
                "assertion: `$.status` is `ok`, not `null`",
            ),
            ("jsonPath: $.n, equals: 3", "up"),
            ("jsonPath: $.n, equals: '3'", "up"),
            ("jsonPath: $.n, equals: 3.0", "up"),
            (
                "jsonPath: $.n, equals: 4",
                "assertion: `$.n` is `3`, not `4`",
            ),
            ("jsonPath: $.version, equals: '3.10'", "up"),
            (
                "jsonPath: $.version, equals: '3.1'",
                "assertion: `$.version` is `3.10`, not `3.1`",
            ),
            ("jsonPath: $.on, equals: true", "up"),
            ("jsonPath: $.on, equals: 'true'", "up"),
            ("jsonPath: $.off, equals: false", "up"),
            (
                "jsonPath: $.long, equals: short",
                "assertion: `$.long` is `a text of 40 characters`, not `short`",
            ),
            (
                "jsonPath: '$.checks[*].status', equals: UP",
                "assertion: `$.checks[*].status` is `DOWN`, not `UP`",
            ),
            ("jsonPath: '$.checks[:2].status', equals: UP", "up"),
            ("jsonPath: '$.checks[?@.status == \"DOWN\"]'", "up"),
            (
                "jsonPath: $.checks, equals: UP",
                "assertion: `$.checks` is `a list of 3`, not `UP`",
            ),
        ] {
            assert_eq!(
                verdict(ok(body), properties).await,
                expected,
                "{properties}"
            );
        }
        let html = "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 6\r\n\r\n<html>";
        assert_eq!(
            verdict(answer(html), "jsonPath: $.a").await,
            "assertion: the answer (6 bytes of text/html) is not JSON"
        );
        let gzip = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f!";
        assert_eq!(
            verdict(answer(gzip), "bodyContains: ok").await,
            "assertion: the body (2 bytes, compressed (gzip) although not asked to) does not contain `ok`"
        );
        assert_eq!(
            verdict(status("204 No Content", &[]), "bodyContains: ok").await,
            "assertion: the body (an empty body) does not contain `ok`"
        );
    }

    #[tokio::test]
    async fn a_body_is_sent() {
        let peer = Peer::new([ok("")]).await;
        for (method, length) in [("POST", 0), ("POST", 5), ("GET", 5), ("DELETE", 0)] {
            let spec = format!(
                "url: http://127.0.0.1:{}\nproperties: {{method: {method}, body: '{}'}}",
                peer.port,
                "x".repeat(length)
            );
            let outcome = run(&build("http", &spec, &[]).unwrap(), LONG).await;
            assert_eq!(outcome.result, Ok(()));
            let heard = peer.heard().pop().unwrap();
            assert!(
                heard.ends_with(&format!("\r\n\r\n{}", "x".repeat(length))),
                "{heard}"
            );
            assert_eq!(
                heard.contains(&format!("Content-Length: {length}\r\n")),
                length > 0 || method == "POST",
                "{heard}"
            );
        }
    }

    #[test]
    fn the_reference_page_s_example_is_read() {
        let spec = "url: https://api.payment-gateway.com/v1\nsecretRef: {name: login, key: api-key}\nproperties:\n  headers:\n    Content-Type: application/json\n    Accept: application/json\n  insecureSkipVerify: false";
        let probe = build("http", spec, &[("api-key", "k3y")]).unwrap();
        assert_eq!(probe.endpoint(), "https://api.payment-gateway.com:443");
    }
}
