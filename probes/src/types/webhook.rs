//! `webhook`: the endpoint is there. It is not fired, unless its owner wants that.
//!
//! Proves that the URL leads to something that takes requests, by asking with methods that deliver
//! nothing: `HEAD`, and `OPTIONS` where that was refused (405, 501) or where only the body of an
//! answer says what is wrong (400). Any answer below 500 shows it, other than 401, 403, 404 and 410;
//! a redirect shows it too and is not followed, since senders of webhooks follow none. Whether the
//! endpoint would take a delivery is known only to who makes one.
//!
//! With `method` it is fired: one delivery in each attempt, and only a 2xx is right.

use std::borrow::Cow;

use bytes::Bytes;
use conncheck_config::{Field, Secret, SecretKey};
use http::{HeaderMap, Method, StatusCode};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::attempt::Attempt;
use crate::cause::Cause;
use crate::http::{Request, RequestMethod, Response, body_of};
use crate::login::{
    API_KEY, CLIENT_ID, CLIENT_SECRET, Headers, LoginSettings, Name, OAuthSettings, TOKEN,
};
use crate::outcome::{Failure, Phase, Reason};
use crate::probe::{Access, Invalid, ProbeType};
use crate::site::Site;

/// `spec.properties` of a webhook.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("dependencies" = { "body": ["method"] }))]
pub(crate) struct Settings {
    /// Without it nothing is fired. `POST`, or another method that delivers: FIRES THE WEBHOOK in
    /// each attempt, and expects a 2xx. `HEAD` or `OPTIONS`: looks with this one alone.
    method: Option<RequestMethod>,
    /// What is delivered, as it is, when `method` fires. Say what it is with a `Content-Type` among
    /// the headers.
    body: Option<Secret>,
    /// Headers to send: a mapping, or a list of `name` and `value`.
    headers: Headers,
    /// A token to send as `Authorization: Bearer …`.
    bearer: Option<Secret>,
    /// The header that the secret's key is sent in, in place of `Authorization: Bearer …`.
    api_key_header: Option<Name>,
    /// Where to get a token from (OAuth 2 client credentials).
    oauth: Option<OAuthSettings>,
    /// Accept any certificate.
    insecure_skip_verify: Option<bool>,
    /// The name that the certificate must be for, in place of the URL's host.
    server_name: Option<String>,
}

pub(crate) struct Webhook {
    site: Site,
    ask: Ask,
}

enum Ask {
    /// Whether it is there. The second method is for where the first one tells too little.
    Look(Method, Option<Method>),
    Fire(Method, Bytes),
}

impl ProbeType for Webhook {
    type Settings = Settings;

    const FURTHER_REASONS: &'static [Reason] =
        &[Reason::Permission, Reason::NotFound, Reason::HttpStatus];

    const SECRET_KEYS: &'static [SecretKey] = &[TOKEN, API_KEY, CLIENT_ID, CLIENT_SECRET];

    fn new(access: Access<'_>, settings: Settings) -> Result<Self, Invalid> {
        let url = of_shoutrrr(&access, access.url()?.expose())?;
        let tls = access.tls_options(settings.insecure_skip_verify, settings.server_name);
        let login = LoginSettings {
            headers: settings.headers,
            bearer: settings.bearer,
            api_key_header: settings.api_key_header,
            oauth: settings.oauth,
            ..LoginSettings::default()
        };
        let site = Site::new(&access, &url, tls, login)?;
        let method = settings.method.map(|method| method.0);
        let ask = match (method, settings.body) {
            (None, None) => Ask::Look(Method::HEAD, Some(Method::OPTIONS)),
            (Some(look @ (Method::HEAD | Method::OPTIONS)), None) => Ask::Look(look, None),
            (Some(Method::HEAD | Method::OPTIONS), Some(_)) => {
                return Err(access
                    .invalid(
                        Field::Properties,
                        "`HEAD` and `OPTIONS` deliver no `body`",
                    )
                    .hint("`method: POST` fires the webhook in each attempt; leave `body` out to only look whether it is there"));
            }
            (None, Some(_)) => {
                return Err(access
                    .invalid(Field::Properties, "a `body` without a `method`")
                    .hint("`method: POST` fires the webhook in each attempt; leave both out to only look whether it is there"));
            }
            (Some(method), body) => {
                Ask::Fire(method, body.as_ref().map(body_of).unwrap_or_default())
            }
        };
        Ok(Self { site, ask })
    }

    fn endpoint(&self) -> String {
        self.site.endpoint()
    }

    fn secrets(&self) -> &[Secret] {
        self.site.secrets()
    }

    async fn probe(&self, attempt: &mut Attempt) -> Result<(), Failure> {
        let headers = self.site.log_in(attempt).await?;
        match &self.ask {
            Ask::Look(first, second) => self.look(attempt, headers, first, second.as_ref()).await,
            Ask::Fire(method, body) => self.fire(attempt, headers, method, body).await,
        }
    }
}

impl Webhook {
    async fn look(
        &self,
        attempt: &mut Attempt,
        headers: HeaderMap,
        first: &Method,
        second: Option<&Method>,
    ) -> Result<(), Failure> {
        let mut method = first;
        let mut response = self.ask(attempt, &headers, method, &Bytes::new()).await?;
        match second {
            // It is there, unless the body says that the port wants TLS, or a client certificate;
            // `HEAD` has no body. Nothing else of the second answer counts, nor that there is none.
            Some(second) if response.status == StatusCode::BAD_REQUEST => {
                attempt.limit(Some(attempt.time_left() / 2));
                let further = self.ask(attempt, &headers, second, &Bytes::new()).await;
                attempt.limit(None);
                if let Ok(further) = further
                    && further.status == StatusCode::BAD_REQUEST
                {
                    (method, response) = (second, further);
                }
            }
            Some(second) if tells_too_little(response.status) => {
                let further = self.ask(attempt, &headers, second, &Bytes::new()).await?;
                // A server that does not know the second one has taken back nothing.
                if further.status != StatusCode::NOT_IMPLEMENTED {
                    (method, response) = (second, further);
                }
            }
            _ => {}
        }
        self.judge_look(method, &response)
            .map_err(|cause| cause.in_phase(Phase::Request))
    }

    async fn fire(
        &self,
        attempt: &mut Attempt,
        headers: HeaderMap,
        method: &Method,
        body: &Bytes,
    ) -> Result<(), Failure> {
        let response = self.ask(attempt, &headers, method, body).await?;
        self.judge_delivery(&response)
            .map_err(|cause| cause.in_phase(Phase::Request))?;
        response.whole()
    }

    async fn ask(
        &self,
        attempt: &mut Attempt,
        headers: &HeaderMap,
        method: &Method,
        body: &Bytes,
    ) -> Result<Response, Failure> {
        let request = Request {
            method: method.clone(),
            url: self.site.url().clone(),
            headers: headers.clone(),
            body: body.clone(),
        };
        self.site.send(attempt, &request).await
    }

    fn judge_look(&self, method: &Method, response: &Response) -> Result<(), Cause> {
        let is_there = match response.status.as_u16() {
            401 | 403 | 404 | 410 => false,
            400 => !response.explains_itself(),
            status => status < 500,
        };
        if is_there {
            return Ok(());
        }
        let cause = self.site.unexpected(response, "an endpoint that is there");
        let cause = Cause {
            message: format!("{} to `{method}`", cause.message),
            ..cause
        };
        Err(match response.status.as_u16() {
            410 => gone(cause),
            404 => not_found(cause).hint(
                "is the path of `url` right? a server that knows it for `POST` alone may say this too: try `method: OPTIONS`",
            ),
            501 => cause.hint(
                "it knows neither `HEAD` nor `OPTIONS`: only a delivery would tell (`method` fires the webhook)",
            ),
            _ => cause,
        })
    }

    fn judge_delivery(&self, response: &Response) -> Result<(), Cause> {
        let cause = self.site.unexpected(response, "2xx to the delivery");
        match response.status.as_u16() {
            200..=299 => Ok(()),
            410 => Err(gone(cause)),
            404 => Err(not_found(cause).hint("is the path of `url` right?")),
            _ => Err(cause),
        }
    }
}

/// Whether another method may say more.
fn tells_too_little(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED
    )
}

fn gone(cause: Cause) -> Cause {
    not_found(cause).hint("it was taken away for good, says the server")
}

fn not_found(cause: Cause) -> Cause {
    Cause {
        reason: Reason::NotFound,
        ..cause
    }
}

/// The URL that a shoutrrr URL (`generic+https://…`, `generic://…`) leads to. What it says of the
/// message, which is not sent, is taken out.
fn of_shoutrrr<'a>(access: &Access<'_>, url: &'a str) -> Result<Cow<'a, str>, Invalid> {
    const OF_THE_MESSAGE: [&str; 7] = [
        "contenttype",
        "messagekey",
        "method",
        "requestmethod",
        "template",
        "title",
        "titlekey",
    ];
    let Some((scheme, rest)) = url.trim().split_once("://") else {
        return Ok(url.into());
    };
    let own_scheme = match scheme.to_ascii_lowercase().as_str() {
        "generic" => None,
        "generic+https" => Some("https"),
        "generic+http" => Some("http"),
        _ => return Ok(url.into()),
    };
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut without_tls = false;
    let mut kept = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let lower = name.to_ascii_lowercase();
        match lower.as_str() {
            "disabletls" => {
                without_tls = matches!(value.to_ascii_lowercase().as_str(), "yes" | "true" | "1");
            }
            _ if OF_THE_MESSAGE.contains(&lower.as_str()) || lower.starts_with('$') => {}
            _ if lower.starts_with('@') || lower.starts_with("%40") => {
                return Err(access
                    .invalid(Field::Url, "bad `url`: a header in the query of a URL")
                    .hint("give it among `properties.headers`"));
            }
            // How shoutrrr tells an option of the endpoint from one of its own.
            _ => kept.push(pair.strip_prefix("__").unwrap_or(pair)),
        }
    }
    let scheme = own_scheme.unwrap_or(if without_tls { "http" } else { "https" });
    let query = match kept.as_slice() {
        [] => String::new(),
        kept => format!("?{}", kept.join("&")),
    };
    Ok(format!("{scheme}://{place}{query}").into())
}

#[cfg(test)]
mod tests {
    use crate::testing::{
        LONG, Peer, Script, answer, build, build_or_say, run, status, with_access,
    };

    #[test]
    fn a_url_of_shoutrrr_leads_where_its_message_would_go() {
        for (url, expected) in [
            ("https://a/b?method=x", "https://a/b?method=x"),
            ("generic+https://a/b", "https://a/b"),
            (
                "generic+http://a:81/b?ContentType=text/plain&MessageKey=m&TitleKey=t&RequestMethod=POST&DisableTLS=no",
                "http://a:81/b",
            ),
            (
                "Generic+HTTPS://a/b?token=x&template=JSON&__title=y&$extra=z&DisableTLS=yes",
                "https://a/b?token=x&title=y",
            ),
            ("generic://a/b", "https://a/b"),
            ("generic://a/b?disableTLS=Yes", "http://a/b"),
        ] {
            let read = with_access("webhook", "", |access| {
                super::of_shoutrrr(access, url).map(|url| url.into_owned())
            });
            assert_eq!(read.unwrap(), expected);
        }
        let probe = build("webhook", "url: generic+https://a/b?MessageKey=m", &[]).unwrap();
        assert_eq!(probe.endpoint(), "https://a:443");
        let refused = build_or_say("webhook", "url: generic+https://a/b?@X-Key=hunter2").err();
        assert_eq!(
            refused.unwrap(),
            "bad `url`: a header in the query of a URL (give it among `properties.headers`)"
        );
    }

    /// What comes of these answers, and what the peer was asked with.
    async fn ask(scripts: Vec<Script>, lines: &str) -> (String, Vec<String>) {
        let peer = Peer::new(scripts).await;
        let spec = format!("url: http://127.0.0.1:{}/hook\n{lines}", peer.port);
        let outcome = run(&build("webhook", &spec, &[]).unwrap(), LONG).await;
        let verdict = match outcome.result {
            Ok(()) => "up".to_owned(),
            Err(failure) => format!("{}: {}", failure.reason, failure.message),
        };
        let methods = peer.heard().into_iter();
        let methods = methods.map(|heard| heard.split(' ').next().unwrap().to_owned());
        (verdict, methods.collect())
    }

    #[tokio::test]
    async fn any_answer_below_500_shows_that_it_is_there_other_than_four() {
        for (line, expected) in [
            ("200 OK", "up"),
            ("204 No Content", "up"),
            ("301 Moved Permanently", "up"),
            ("302 Found", "up"),
            ("402 Payment Required", "up"),
            ("409 Conflict", "up"),
            ("415 Unsupported Media Type", "up"),
            ("422 Unprocessable Entity", "up"),
            ("429 Too Many Requests", "up"),
            ("499", "up"),
            (
                "401 Unauthorized",
                "auth: expected an endpoint that is there, got 401 Unauthorized to `HEAD`",
            ),
            (
                "403 Forbidden",
                "permission: expected an endpoint that is there, got 403 Forbidden to `HEAD`",
            ),
            (
                "404 Not Found",
                "not_found: expected an endpoint that is there, got 404 Not Found to `HEAD`",
            ),
            (
                "410 Gone",
                "not_found: expected an endpoint that is there, got 410 Gone to `HEAD`",
            ),
            (
                "500 Internal Server Error",
                "http_status: expected an endpoint that is there, got 500 Internal Server Error to `HEAD`",
            ),
            (
                "502 Bad Gateway",
                "http_status: expected an endpoint that is there, got 502 Bad Gateway to `HEAD`",
            ),
            (
                "503 Service Unavailable",
                "unavailable: expected an endpoint that is there, got 503 Service Unavailable to `HEAD`",
            ),
        ] {
            let (verdict, methods) = ask(vec![status(line, &["Location: /x"])], "").await;
            assert_eq!(verdict, expected, "{line}");
            assert_eq!(methods, ["HEAD"], "{line}");
        }
    }

    #[tokio::test]
    async fn options_is_asked_where_head_tells_too_little() {
        const REFUSED: &str = "405 Method Not Allowed";
        const UNKNOWN: &str = "501 Not Implemented";
        for (head, options, expected) in [
            (REFUSED, "204 No Content", "up"),
            (UNKNOWN, "200 OK", "up"),
            (REFUSED, REFUSED, "up"),
            (UNKNOWN, REFUSED, "up"),
            (REFUSED, UNKNOWN, "up"),
            ("400 Bad Request", "400 Bad Request", "up"),
            (
                UNKNOWN,
                UNKNOWN,
                "http_status: expected an endpoint that is there, got 501 Not Implemented to `HEAD`",
            ),
            (
                REFUSED,
                "404 Not Found",
                "not_found: expected an endpoint that is there, got 404 Not Found to `OPTIONS`",
            ),
            (
                UNKNOWN,
                "401 Unauthorized",
                "auth: expected an endpoint that is there, got 401 Unauthorized to `OPTIONS`",
            ),
            (
                REFUSED,
                "500 Internal Server Error",
                "http_status: expected an endpoint that is there, got 500 Internal Server Error to `OPTIONS`",
            ),
        ] {
            let scripts = vec![status(head, &[]), status(options, &[])];
            let (verdict, methods) = ask(scripts, "").await;
            assert_eq!(verdict, expected, "{head}, then {options}");
            assert_eq!(methods, ["HEAD", "OPTIONS"], "{head}, then {options}");
        }
    }

    #[tokio::test]
    async fn a_400_that_explains_itself_shows_nothing() {
        for (body, reason) in [
            (
                "<title>400 The plain HTTP request was sent to HTTPS port</title>",
                "protocol",
            ),
            (
                "Client sent an HTTP request to an HTTPS server.\n",
                "protocol",
            ),
            (
                "<title>400 No required SSL certificate was sent</title>",
                "http_status",
            ),
        ] {
            let text = format!(
                "HTTP/1.1 400 Bad Request\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            let (verdict, _) = ask(vec![answer(text)], "").await;
            assert!(verdict.starts_with(&format!("{reason}: ")), "{verdict}");
        }
    }

    #[tokio::test]
    async fn one_method_alone_may_be_chosen_to_look_with() {
        for method in ["HEAD", "options"] {
            let scripts = vec![status("405 Method Not Allowed", &[])];
            let lines = format!("properties: {{method: {method}}}");
            let (verdict, methods) = ask(scripts, &lines).await;
            assert_eq!(verdict, "up");
            assert_eq!(methods, [method.to_uppercase()]);
        }
    }

    #[tokio::test]
    async fn a_delivery_is_right_with_2xx_only_and_made_once() {
        for (line, expected) in [
            ("200 OK", "up"),
            ("202 Accepted", "up"),
            ("299", "up"),
            (
                "302 Found",
                "http_status: expected 2xx to the delivery, got 302 Found",
            ),
            (
                "307 Temporary Redirect",
                "http_status: expected 2xx to the delivery, got 307 Temporary Redirect",
            ),
            (
                "400 Bad Request",
                "http_status: expected 2xx to the delivery, got 400 Bad Request",
            ),
            (
                "401 Unauthorized",
                "auth: expected 2xx to the delivery, got 401 Unauthorized",
            ),
            (
                "403 Forbidden",
                "permission: expected 2xx to the delivery, got 403 Forbidden",
            ),
            (
                "404 Not Found",
                "not_found: expected 2xx to the delivery, got 404 Not Found",
            ),
            (
                "405 Method Not Allowed",
                "http_status: expected 2xx to the delivery, got 405 Method Not Allowed",
            ),
            (
                "429 Too Many Requests",
                "unavailable: expected 2xx to the delivery, got 429 Too Many Requests",
            ),
            (
                "503 Service Unavailable",
                "unavailable: expected 2xx to the delivery, got 503 Service Unavailable",
            ),
        ] {
            let scripts = vec![status(line, &["Location: /x"])];
            let lines = "properties: {method: POST, body: '{}'}";
            let (verdict, methods) = ask(scripts, lines).await;
            assert_eq!(verdict, expected);
            assert_eq!(methods, ["POST"], "{line}");
        }
    }

    #[tokio::test]
    async fn the_delivery_is_what_the_owner_wrote() {
        let peer = Peer::new([status("202 Accepted", &[])]).await;
        let spec = format!(
            "url: http://127.0.0.1:{}/hook\nproperties:\n  method: post\n  body: '{{\"event\": \"ping\"}}'\n  headers: {{Content-Type: application/json}}\n  bearer: t0ken",
            peer.port
        );
        let outcome = run(&build("webhook", &spec, &[]).unwrap(), LONG).await;
        assert_eq!(outcome.result, Ok(()));
        let heard = peer.heard().pop().unwrap();
        assert!(heard.starts_with("POST /hook HTTP/1.1\r\n"), "{heard}");
        assert!(
            heard.contains("Content-Type: application/json\r\n"),
            "{heard}"
        );
        assert!(heard.contains("Authorization: Bearer t0ken\r\n"), "{heard}");
        assert!(heard.ends_with("\r\n\r\n{\"event\": \"ping\"}"), "{heard}");
    }

    #[tokio::test]
    async fn what_goes_wrong_has_its_way_out() {
        for (lines, script, hint) in [
            (
                "",
                status("404 Not Found", &[]),
                "is the path of `url` right? a server that knows it for `POST` alone may say this too: try `method: OPTIONS`",
            ),
            (
                "",
                status("501 Not Implemented", &[]),
                "it knows neither `HEAD` nor `OPTIONS`: only a delivery would tell (`method` fires the webhook)",
            ),
            (
                "properties: {bearer: abcdef}",
                status(
                    "401 Unauthorized",
                    &["WWW-Authenticate: Bearer realm=\"hooks\""],
                ),
                "it refused the login that was sent; it accepts `Bearer` (realm `hooks`)",
            ),
            (
                "properties: {method: POST}",
                status("308 Permanent Redirect", &["Location: https://h.test/x?y"]),
                "it redirects to `https://h.test:443`",
            ),
        ] {
            let peer = Peer::new([script]).await;
            let spec = format!("url: http://127.0.0.1:{}/hook\n{lines}", peer.port);
            let failure =
                crate::testing::failure(&build("webhook", &spec, &[]).unwrap(), LONG).await;
            assert_eq!(failure.hint.as_deref(), Some(hint));
        }
    }

    /// 400 says that it is there, whatever becomes of the second look.
    #[tokio::test]
    async fn the_look_after_a_400_takes_nothing_back() {
        let hangs_up = crate::testing::answer("");
        for second in [
            status("403 Forbidden", &[]),
            status("404 Not Found", &[]),
            status("503 Service Unavailable", &[]),
            hangs_up,
        ] {
            let peer = Peer::new([status("400 Bad Request", &[]), second]).await;
            let spec = format!("url: http://127.0.0.1:{}/hook", peer.port);
            let outcome = run(&build("webhook", &spec, &[]).unwrap(), LONG).await;
            assert_eq!(outcome.result, Ok(()));
        }
    }

    #[test]
    fn a_definition_that_cannot_be_meant_is_refused() {
        for (properties, message) in [
            ("body: '{}'", "a `body` without a `method`"),
            (
                "body: '{}', method: HEAD",
                "`HEAD` and `OPTIONS` deliver no `body`",
            ),
            (
                "method: CONNECT",
                "`properties.method`: expected a method such as `GET`, `HEAD`, `POST` or `OPTIONS`",
            ),
            ("expectedStatus: 200", "unknown property `expectedStatus`"),
            ("apiKeyHeader: X-Key", "`apiKeyHeader` without an API key"),
        ] {
            let spec = format!("url: http://h.test\nproperties: {{{properties}}}");
            let invalid = build("webhook", &spec, &[]).err().unwrap();
            assert_eq!(invalid[0].message, message);
        }
        let invalid = build("webhook", "properties: {}", &[]).err().unwrap();
        assert_eq!(invalid[0].message, "there is no `url`");
        let probe = build("generic_webhook", "url: https://h.test/T0/B0/s3cret", &[]).unwrap();
        assert_eq!(probe.endpoint(), "https://h.test:443");
    }
}
