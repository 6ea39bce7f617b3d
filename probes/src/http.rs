//! The HTTP client of every type over HTTP: one request, one connection, one answer.
//!
//! hyper speaks HTTP over a stream of ours. reqwest would be shorter, but it owns its sockets: it
//! can neither say how long resolving, connecting and TLS took, nor show the chain of a handshake
//! that failed, nor be shut when the deadline passes. What it would also bring is what a measuring
//! instrument must not have: a pool, retries, cookies, proxies from the environment.
//!
//! hyper wants to spawn the task that moves the bytes. It is not let: [`Engine`] polls it beside
//! the request, in the attempt's own task, so that dropping the attempt drops it.
//!
//! What the owner wrote to prove who they are (every header of theirs, the client certificate) goes
//! to the origin they named and to no other: a redirect to another scheme, host or port is followed
//! without it, and does not get it back by leading home again.
//!
//! URLs may hold secrets anywhere in their path and query, so messages name origins only.

use std::borrow::Cow;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use conncheck_config::Secret;
use futures_util::stream::{FuturesUnordered, StreamExt};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use serde::Deserialize;
use serde::de::{self, DeserializeOwned, Deserializer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::mpsc;
use url::{Origin, Position, Url};

use crate::address::Location;
use crate::attempt::{Address, Attempt, Stream};
use crate::cause::Cause;
use crate::outcome::{Failure, Phase, Reason};
use crate::probe::{Access, Invalid};
use crate::schema::written;
use crate::tls::{Tls, TlsOptions};

/// How often in a row a redirect is followed.
const REDIRECTS_MAX: usize = 10;

/// The longest status line and headers that are read.
const HEAD_MAX_BYTES: usize = 64 * 1024;

/// How much of a body is read. Health endpoints answer in a few hundred bytes.
const BODY_MAX_BYTES: usize = 1024 * 1024;

const USER_AGENT: &str = concat!("conncheck/", env!("CARGO_PKG_VERSION"));

/// Talks HTTP for one target.
pub(crate) struct Client {
    home: Origin,
    tls: Tls,
    /// For other origins: they are neither shown our certificate nor called by the owner's
    /// `serverName`.
    tls_elsewhere: Tls,
    proxy: Option<Proxy>,
}

/// An HTTP proxy that opens a tunnel (`CONNECT`) to wherever we want.
#[derive(Clone)]
pub(crate) struct Proxy {
    address: Address,
    /// `Basic …`, if it wants a login.
    authorization: Option<HeaderValue>,
}

/// What is asked.
#[derive(Clone)]
pub(crate) struct Request {
    pub(crate) method: Method,
    /// As [`target`] returns it.
    pub(crate) url: Url,
    /// Over the defaults of this client.
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Request {
    /// One that has no body.
    pub(crate) fn get(url: Url, headers: HeaderMap) -> Self {
        Self {
            method: Method::GET,
            url,
            headers,
            body: Bytes::new(),
        }
    }

    /// A form, as token servers take it, that is to be answered in JSON.
    pub(crate) fn form(url: Url, form: String) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded"),
        );
        Self {
            method: Method::POST,
            url,
            headers,
            body: Bytes::from(form),
        }
    }
}

/// What was answered.
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// As much of it as was read.
    pub(crate) body: Bytes,
    /// Whether there was more than is read of a body.
    pub(crate) is_truncated: bool,
    /// Why the body ended too early.
    pub(crate) cut: Option<Failure>,
    /// The origin that answered, if a redirect had led away from home.
    pub(crate) elsewhere: Option<String>,
}

impl Client {
    /// A client that is at home where `home` is. HTTP/2 and HTTP/1.1 are offered, unless the
    /// options offer something else.
    pub(crate) fn new(
        access: &Access<'_>,
        home: &Url,
        mut options: TlsOptions,
    ) -> Result<Self, Invalid> {
        if options.alpn.is_empty() {
            options.alpn = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        }
        let tls = access.tls(&options)?;
        let is_home_only = options.server_name.is_some() || tls.has_client_certificate();
        let tls_elsewhere = match is_home_only {
            true => access.tls(&options.elsewhere())?,
            false => tls.clone(),
        };
        Ok(Self {
            home: home.origin(),
            tls,
            tls_elsewhere,
            proxy: None,
        })
    }

    /// A client for a type that asks nobody but `home`, through a proxy if there is one.
    pub(crate) fn for_home(home: &Url, tls: Tls, proxy: Option<Proxy>) -> Self {
        Self {
            home: home.origin(),
            tls_elsewhere: tls.clone(),
            tls,
            proxy,
        }
    }

    /// Several requests, one after the other, over one connection as long as they go to one origin.
    pub(crate) fn conversation(&self) -> Conversation<'_> {
        Conversation {
            client: self,
            wire: None,
        }
    }

    /// One request and its answer, whatever that is. Nothing is followed.
    pub(crate) async fn send(
        &self,
        attempt: &mut Attempt,
        phase: Phase,
        request: &Request,
    ) -> Result<Response, Failure> {
        let is_home = request.url.origin() == self.home;
        self.exchange(attempt, phase, request, is_home).await
    }

    /// A request, and where redirects lead from it. An answer that `is_wanted` is the last one.
    pub(crate) async fn follow(
        &self,
        attempt: &mut Attempt,
        phase: Phase,
        mut request: Request,
        is_wanted: impl Fn(StatusCode) -> bool,
    ) -> Result<Response, Failure> {
        let mut is_home = request.url.origin() == self.home;
        let mut followed = 0;
        loop {
            let response = self.exchange(attempt, phase, &request, is_home).await?;
            if is_wanted(response.status) {
                return Ok(response);
            }
            let fail = |cause: Cause| cause.code(response.status.as_str()).in_phase(phase);
            let Some(next) = redirected(&request, &response).map_err(fail)? else {
                return Ok(response);
            };
            if followed == REDIRECTS_MAX {
                return Err(fail(too_many_redirects(&next.url)));
            }
            followed += 1;
            is_home &= next.url.origin() == self.home;
            request = next;
        }
    }

    fn tls_at(&self, is_home: bool) -> &Tls {
        match is_home {
            true => &self.tls,
            false => &self.tls_elsewhere,
        }
    }

    async fn exchange(
        &self,
        attempt: &mut Attempt,
        phase: Phase,
        request: &Request,
        is_home: bool,
    ) -> Result<Response, Failure> {
        let elsewhere = (!is_home).then(|| endpoint_of(&request.url));
        attempt.talks_to(elsewhere.clone());
        let (tls, proxy) = (self.tls_at(is_home), self.proxy.as_ref());
        let (stream, is_http2) = connect(attempt, &request.url, tls, proxy).await?;
        let mut wire = attempt
            .phase(phase, Wire::open(stream, is_http2, Use::Once))
            .await?;
        let response = wire.exchange(attempt, phase, request).await?;
        wire.close().await;
        attempt.talks_to(None);
        Ok(Response {
            elsewhere,
            ..response
        })
    }
}

/// Several requests over one connection. A peer that ends it between two of them gets another one, and
/// so does another origin.
pub(crate) struct Conversation<'a> {
    client: &'a Client,
    wire: Option<(Origin, Wire)>,
}

impl Conversation<'_> {
    /// One request and its answer, whatever that is.
    pub(crate) async fn ask(
        &mut self,
        attempt: &mut Attempt,
        phase: Phase,
        request: &Request,
    ) -> Result<Response, Failure> {
        let origin = request.url.origin();
        let is_home = origin == self.client.home;
        attempt.talks_to((!is_home).then(|| endpoint_of(&request.url)));
        let open = match self.wire.take() {
            Some((at, mut wire)) if at == origin => {
                match attempt.phase(phase, wire.is_free()).await? {
                    true => Some(wire),
                    false => None,
                }
            }
            Some((_, elsewhere)) => {
                elsewhere.close().await;
                None
            }
            None => None,
        };
        let mut wire = match open {
            Some(wire) => wire,
            None => {
                let tls = self.client.tls_at(is_home);
                let proxy = self.client.proxy.as_ref();
                let (stream, is_http2) = connect(attempt, &request.url, tls, proxy).await?;
                attempt
                    .phase(phase, Wire::open(stream, is_http2, Use::Again))
                    .await?
            }
        };
        let response = wire.exchange(attempt, phase, request).await?;
        match response.cut.is_some() || response.is_truncated {
            // Where the next answer would begin is not known.
            true => wire.close().await,
            false => self.wire = Some((origin, wire)),
        }
        attempt.talks_to(None);
        Ok(response)
    }

    /// Ends the connection in good order.
    pub(crate) async fn end(self) {
        if let Some((_, wire)) = self.wire {
            wire.close().await;
        }
    }
}

impl Proxy {
    /// Reads a proxy's URL. No message quotes it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let location = Location::parse(text)?;
        match location.scheme.as_str() {
            "http" => {}
            "https" | "socks5" | "socks5h" => {
                return Err(format!(
                    "proxies by `{}://` are not supported: use one by `http://`",
                    location.scheme
                ));
            }
            _ => return Err("a proxy's URL begins with `http://`".to_owned()),
        }
        let authorization = match (&location.username, &location.password) {
            (None, None) => None,
            (username, password) => {
                let pair = [username, password].map(|part| part.as_deref().unwrap_or_default());
                let encoded = BASE64_STANDARD.encode(pair.join(":"));
                let mut value = HeaderValue::from_str(&format!("Basic {encoded}"))
                    .map_err(|error| error.to_string())?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        Ok(Self {
            address: Address::Tcp {
                host: location.host.ok_or("it has no host")?,
                port: location.port.unwrap_or(80),
            },
            authorization,
        })
    }

    /// The login in the form in which it is sent.
    pub(crate) fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }

    /// Dials it, and has it open a tunnel to `to`. Its failures name it.
    async fn tunnel(&self, attempt: &mut Attempt, to: &Address) -> Result<Stream, Failure> {
        attempt.talks_to(Some(format!("http://{}", self.address)));
        let mut stream = attempt.dial(&self.address).await?;
        attempt
            .phase_of(
                Phase::Connect,
                "the proxy opened no tunnel",
                self.ask(&mut stream, to),
            )
            .await?;
        attempt.talks_to(None);
        Ok(stream)
    }

    async fn ask(&self, stream: &mut Stream, to: &Address) -> Result<(), Cause> {
        let mut head =
            format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\nUser-Agent: {USER_AGENT}\r\n");
        if let Some(value) = &self.authorization {
            head.push_str(&format!("Proxy-Authorization: {}\r\n", text_of(value)));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).await?;
        stream.flush().await?;
        // Byte by byte: what follows the head is the peer's.
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() > HEAD_MAX_BYTES {
                return Err(Cause::protocol(
                    "the head of the proxy's answer is larger than 64 KiB",
                ));
            }
            head.push(stream.read_u8().await?);
            if !b"HTTP/".starts_with(&head[..head.len().min(5)]) {
                return Err(Cause::protocol("it does not speak HTTP").hint("is it a proxy?"));
            }
        }
        let head = String::from_utf8_lossy(&head);
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        match status {
            Some(200..=299) => Ok(()),
            Some(status) => Err(no_tunnel(status)),
            None => Err(Cause::protocol("its answer has no status")),
        }
    }
}

fn no_tunnel(status: u16) -> Cause {
    let (reason, hint) = match status {
        407 => (
            Reason::Auth,
            "the proxy wants a login: give it in the proxy's URL",
        ),
        403 => (
            Reason::Permission,
            "the proxy opens no tunnel to that host and port: have its owner allow it",
        ),
        502..=504 => (
            Reason::Unavailable,
            "the proxy cannot reach the server behind it",
        ),
        _ => (
            Reason::HttpStatus,
            "is it a proxy that opens tunnels (`CONNECT`)?",
        ),
    };
    let status = match StatusCode::from_u16(status) {
        Ok(status) => shown(status),
        Err(_) => status.to_string(),
    };
    let code = status.split(' ').next().unwrap_or_default().to_owned();
    Cause::new(reason, format!("the proxy opened no tunnel: {status}"))
        .code(code)
        .hint(hint)
}

impl Response {
    /// Fails if the peer hung up before the body was over: what came of it proves nothing.
    pub(crate) fn whole(&self) -> Result<(), Failure> {
        self.cut.clone().map_or(Ok(()), Err)
    }

    /// The body as text; bytes that are not UTF-8 are replaced.
    pub(crate) fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }

    /// The body as a `T`. The error does not quote it.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, Cause> {
        if self.is_truncated {
            return Err(Cause::protocol(
                "the answer is longer than the 1 MiB that is read",
            ));
        }
        serde_json::from_slice(&self.body).map_err(|error| {
            let what = match error.classify() {
                serde_json::error::Category::Data => "is JSON, but not what was expected",
                _ => "is not JSON",
            };
            Cause::protocol(format!("the answer ({}) {what}", self.describe()))
        })
    }

    /// A header as text, if it is there.
    pub(crate) fn header(&self, name: HeaderName) -> Option<Cow<'_, str>> {
        self.headers.get(name).map(text_of)
    }

    /// What time it is there, if it tells.
    pub(crate) fn date(&self) -> Option<Timestamp> {
        let date = self.header(header::DATE)?;
        Some(rfc2822::parse(&date).ok()?.timestamp())
    }

    /// Whether it is a page for people.
    pub(crate) fn is_html(&self) -> bool {
        self.header(header::CONTENT_TYPE)
            .is_some_and(|content_type| content_type.trim_start().starts_with("text/html"))
    }

    /// The kind and size of the body: `412 bytes of text/html`.
    pub(crate) fn describe(&self) -> String {
        let size = match (self.body.len(), self.is_truncated) {
            (_, true) => "more than 1 MiB".to_owned(),
            (0, _) => return "an empty body".to_owned(),
            (1, _) => "1 byte".to_owned(),
            (size, _) => format!("{size} bytes"),
        };
        let content_type = self.header(header::CONTENT_TYPE);
        let compressed = self
            .header(header::CONTENT_ENCODING)
            .filter(|encoding| encoding != "identity");
        match (content_type, compressed) {
            (_, Some(encoding)) => format!("{size}, compressed ({encoding}) although not asked to"),
            (Some(content_type), None) => {
                let bare = content_type.split(';').next().unwrap_or_default().trim();
                format!("{size} of {bare}")
            }
            (None, None) => size,
        }
    }

    /// What it means that this status came where `expected` was expected.
    pub(crate) fn unexpected(&self, expected: &str) -> Cause {
        let reason = match self.status.as_u16() {
            401 | 407 => Reason::Auth,
            403 => Reason::Permission,
            429 | 503 => Reason::Unavailable,
            _ => Reason::HttpStatus,
        };
        let cause = Cause::new(
            reason,
            format!("expected {expected}, got {}", shown(self.status)),
        )
        .code(self.status.as_str());
        if let Some((reason, hint)) = self.words_of_known_servers() {
            return Cause { reason, ..cause }.hint(hint);
        }
        match self.hint() {
            Some(hint) => cause.hint(hint),
            None => cause,
        }
    }

    fn hint(&self) -> Option<String> {
        let res = match self.status.as_u16() {
            300..=399 => {
                let to = self.header(header::LOCATION)?;
                match Url::parse(&to) {
                    Ok(to) => format!("it redirects to `{}`", endpoint_of(&to)),
                    Err(_) => "it redirects to another path of the same server".to_owned(),
                }
            }
            401 => format!("it wants a login: {}", self.challenges()?),
            407 => "a proxy in between wants a login".to_owned(),
            429 | 503 => {
                let when = self.header(header::RETRY_AFTER)?;
                match when.parse::<u64>() {
                    Ok(seconds) => format!("it says to come back in {seconds} s"),
                    Err(_) => format!("it says to come back at {when}"),
                }
            }
            502 | 504 => "a gateway answered, and what is behind it did not".to_owned(),
            _ => return None,
        };
        Some(res)
    }

    /// The ways to log in that a 401 names: `Basic` (realm "status"). Only those that are known: a
    /// peer that repeats what it was sent would have us print the first word of a secret.
    pub(crate) fn challenges(&self) -> Option<String> {
        const SCHEMES: [&str; 9] = [
            "ApiKey",
            "AWS4-HMAC-SHA256",
            "Basic",
            "Bearer",
            "Digest",
            "DPoP",
            "Negotiate",
            "NTLM",
            "Token",
        ];
        let challenges: Vec<String> = self
            .headers
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| {
                let value = text_of(value);
                let scheme = value.split([' ', ',']).next()?;
                let scheme = SCHEMES
                    .iter()
                    .find(|known| known.eq_ignore_ascii_case(scheme))?;
                let realm = value
                    .split_once("realm=\"")
                    .and_then(|(_, rest)| rest.split('"').next());
                Some(match realm {
                    Some(realm) if !realm.is_empty() => format!("`{scheme}` (realm `{realm}`)"),
                    _ => format!("`{scheme}`"),
                })
            })
            .collect();
        (!challenges.is_empty()).then(|| challenges.join(" or "))
    }

    /// Whether its body says that it is no answer to the request, but to how we came.
    pub(crate) fn explains_itself(&self) -> bool {
        self.words_of_known_servers().is_some()
    }

    /// Servers that explain themselves in the body of a 400 only.
    fn words_of_known_servers(&self) -> Option<(Reason, &'static str)> {
        if self.status != StatusCode::BAD_REQUEST {
            return None;
        }
        let text = self.text().to_ascii_lowercase();
        let says = |words: &[&str]| words.iter().any(|words| text.contains(words));
        if says(&[
            "plain http request was sent to https port",
            "speaking plain http to an ssl-enabled server port",
            "client sent an http request to an https server",
            "requires tls",
        ]) {
            return Some((
                Reason::Protocol,
                "the peer speaks TLS on that port: use `https://`",
            ));
        }
        if says(&["no required ssl certificate was sent"]) {
            return Some((
                Reason::HttpStatus,
                "it wants a client certificate: set `clientCert` and `clientKey`",
            ));
        }
        if says(&["the ssl certificate error"]) {
            return Some((
                Reason::HttpStatus,
                "it refused our client certificate: is `clientCert` still valid, and for this server?",
            ));
        }
        None
    }
}

/// Reads a URL that can be asked at: its parts, and what is sent. User-info and fragment are left
/// out of the latter. No message quotes it.
pub(crate) fn target(text: &str) -> Result<(Location, Url), String> {
    let location = Location::parse(text)?;
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    Ok((location, sendable(url)?))
}

fn sendable(mut url: Url) -> Result<Url, &'static str> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err("this scheme is not HTTP: use `http://` or `https://`");
    }
    url.set_fragment(None);
    // These fail only on a URL without a host.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    match Uri::try_from(url.as_str()) {
        Ok(_) => Ok(url),
        Err(_) => Err("it cannot be sent: a character in it is not allowed, or it is too long"),
    }
}

/// A place below a base of the owner's, with more in its query than they wrote.
pub(crate) fn below(
    base: &Url,
    path: &[&str],
    query: &[(&str, &str)],
) -> Result<Url, &'static str> {
    let mut url = base.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(path);
    }
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
    sendable(url)
}

/// The method that the owner wants.
#[derive(Debug)]
pub(crate) struct RequestMethod(pub(crate) Method);

impl<'de> Deserialize<'de> for RequestMethod {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?
            .trim()
            .to_ascii_uppercase();
        match Method::from_bytes(text.as_bytes()) {
            // It asks a proxy for a tunnel.
            Ok(Method::CONNECT) | Err(_) => Err(de::Error::custom(
                "expected a method such as `GET`, `HEAD`, `POST` or `OPTIONS`",
            )),
            Ok(method) => Ok(Self(method)),
        }
    }
}

written!(RequestMethod: schemars::json_schema!({
    "enum": ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"],
    "type": ["string", "number", "boolean"],
    "pattern": r"^\s*[-!#$%&'*+.^_`|~0-9A-Za-z]+\s*$",
}));

/// The body that the owner wants.
pub(crate) fn body_of(text: &Secret) -> Bytes {
    Bytes::copy_from_slice(text.expose().as_bytes())
}

/// `scheme://host:port` and nothing else.
pub(crate) fn endpoint_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port_or_known_default() {
        Some(port) => format!("{}://{host}:{port}", url.scheme()),
        None => format!("{}://{host}", url.scheme()),
    }
}

/// `503 Service Unavailable`
pub(crate) fn shown(status: StatusCode) -> String {
    match status.canonical_reason() {
        Some(reason) => format!("{} {reason}", status.as_str()),
        None => status.as_str().to_owned(),
    }
}

fn text_of(value: &HeaderValue) -> Cow<'_, str> {
    String::from_utf8_lossy(value.as_bytes())
}

/// Where a redirect leads, or nothing if the answer is none.
fn redirected(request: &Request, response: &Response) -> Result<Option<Request>, Cause> {
    // As browsers do; only 307 and 308 were ever kept to.
    let becomes_get = match (response.status.as_u16(), &request.method) {
        (303, method) => *method != Method::HEAD,
        (301 | 302, method) => *method == Method::POST,
        (307 | 308, _) => false,
        _ => return Ok(None),
    };
    let Some(location) = response.header(header::LOCATION) else {
        return Ok(None);
    };
    let refused = |why: &str| Cause::new(Reason::HttpStatus, format!("a redirect that {why}"));
    let url = request
        .url
        .join(&location)
        .map_err(|_| refused("leads to something that is not a URL"))?;
    let url = sendable(url).map_err(|_| refused("leads to something that is not HTTP"))?;
    if request.url.scheme() == "https" && url.scheme() == "http" {
        let why = format!(
            "leads out of TLS, to `{}`, is not followed",
            endpoint_of(&url)
        );
        return Err(refused(&why).hint("let the server redirect to `https://`"));
    }
    let mut next = Request {
        url,
        ..request.clone()
    };
    if becomes_get {
        next.method = Method::GET;
        next.body = Bytes::new();
        next.headers.remove(header::CONTENT_TYPE);
    }
    if next.url.origin() != request.url.origin() {
        if !next.body.is_empty() {
            let to = endpoint_of(&next.url);
            let why = format!("would send the body to another origin, `{to}`, is not followed");
            return Err(refused(&why).hint("name that origin in `url` if it is the right one"));
        }
        next.headers = harmless(&next.headers);
    }
    Ok(Some(next))
}

/// Of the owner's headers those that prove nothing.
fn harmless(headers: &HeaderMap) -> HeaderMap {
    [header::ACCEPT, header::ACCEPT_LANGUAGE, header::USER_AGENT]
        .into_iter()
        .filter_map(|name| headers.get(&name).map(|value| (name, value.clone())))
        .collect()
}

fn too_many_redirects(to: &Url) -> Cause {
    Cause::new(
        Reason::HttpStatus,
        format!(
            "redirected {REDIRECTS_MAX} times, and once more to `{}`",
            endpoint_of(to)
        ),
    )
    .hint("it goes in a circle, perhaps because it waits for a cookie or a login")
}

/// Dials, and shakes hands if the URL says so. Tells whether HTTP/2 was agreed on.
async fn connect(
    attempt: &mut Attempt,
    url: &Url,
    tls: &Tls,
    proxy: Option<&Proxy>,
) -> Result<(Stream, bool), Failure> {
    let host = url.host_str().unwrap_or_default();
    let address = Address::Tcp {
        host: host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned(),
        port: url.port_or_known_default().unwrap_or_default(),
    };
    let stream = match proxy {
        Some(proxy) => proxy.tunnel(attempt, &address).await?,
        None => attempt.dial(&address).await?,
    };
    if url.scheme() != "https" {
        return Ok((stream, false));
    }
    let (stream, handshake) = attempt.tls(stream, tls, address.host()).await?;
    Ok((stream, handshake.alpn.as_deref() == Some(b"h2")))
}

/// How many requests a connection is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Once,
    Again,
}

/// A connection that requests are sent over.
struct Wire {
    sender: Sender,
    usage: Use,
    engine: Engine,
    heard: Arc<Heard>,
}

/// What the stream knows of the peer and hyper does not show.
#[derive(Default)]
struct Heard {
    /// How it began.
    first_bytes: OnceLock<Vec<u8>>,
    /// What TLS said at the end, such as an alert about our certificate. Of an error, hyper's HTTP/2
    /// keeps the text alone.
    end_of_tls: OnceLock<Cause>,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Wire {
    async fn open(stream: Stream, is_http2: bool, usage: Use) -> Result<Self, Cause> {
        let heard = Arc::new(Heard::default());
        let io = TokioIo::new(Listening {
            stream,
            heard: Arc::clone(&heard),
            nobody_listens: false,
        });
        let (jobs, new_jobs) = mpsc::unbounded_channel();
        let mut engine = Engine {
            running: FuturesUnordered::new(),
            new_jobs,
        };
        // What a connection says at its end, it says to the request as well.
        let sender = match is_http2 {
            true => {
                let mut builder = http2::Builder::new(Spawner(jobs.clone()));
                builder.max_header_list_size(HEAD_MAX_BYTES as u32);
                let (sender, connection) = engine.beside(builder.handshake(io)).await?;
                engine.run(async { drop(connection.await) });
                Sender::Http2(sender)
            }
            false => {
                let mut builder = http1::Builder::new();
                builder
                    // Small devices compare header names by letter.
                    .title_case_headers(true)
                    .allow_obsolete_multiline_headers_in_responses(true)
                    .max_header_size(HEAD_MAX_BYTES)
                    .max_buf_size(2 * HEAD_MAX_BYTES);
                let (sender, connection) = engine.beside(builder.handshake(io)).await?;
                engine.run(async { drop(connection.await) });
                Sender::Http1(sender)
            }
        };
        Ok(Self {
            sender,
            usage,
            engine,
            heard,
        })
    }

    /// Whether another request can be sent. Waits until it is known.
    async fn is_free(&mut self) -> Result<bool, Cause> {
        let res = match &mut self.sender {
            Sender::Http1(sender) => self.engine.beside(sender.ready()).await,
            Sender::Http2(sender) => self.engine.beside(sender.ready()).await,
        };
        Ok(res.is_ok())
    }

    /// A request, and the whole of its answer.
    async fn exchange(
        &mut self,
        attempt: &mut Attempt,
        phase: Phase,
        request: &Request,
    ) -> Result<Response, Failure> {
        let (head, body) = attempt.phase(phase, self.ask(request)).await?.into_parts();
        // What a token server answers is not the target's answer.
        if phase == Phase::Request {
            attempt.http_status(head.status.as_u16());
            if let Some(server) = head.headers.get(header::SERVER) {
                attempt.server(text_of(server));
            }
        }
        let unfinished = format!("its answer ({}) began and did not end", shown(head.status));
        let mut body = Body::new(body);
        let cut = attempt
            .phase_of(phase, &unfinished, self.read(&mut body))
            .await
            .err();
        Ok(Response {
            status: head.status,
            headers: head.headers,
            body: body.read.into(),
            is_truncated: body.is_truncated,
            cut,
            elsewhere: None,
        })
    }

    async fn ask(&mut self, request: &Request) -> Result<http::Response<Incoming>, Cause> {
        let res = match &mut self.sender {
            Sender::Http1(sender) => {
                let request = packed(request, false, self.usage)?;
                self.engine.beside(sender.send_request(request)).await
            }
            Sender::Http2(sender) => {
                let request = packed(request, true, self.usage)?;
                self.engine.beside(sender.send_request(request)).await
            }
        };
        let first_bytes = match &self.sender {
            Sender::Http1(_) => self.heard.first_bytes.get(),
            // It was agreed on, and does begin like this.
            Sender::Http2(_) => None,
        };
        res.map_err(|error| {
            if let Some(cause) = self.heard.end_of_tls.get() {
                return cause.clone();
            }
            let cause = Cause::from(error);
            match first_bytes.and_then(|bytes| speaks(bytes)) {
                Some((message, hint)) if cause.phase.is_none() => {
                    Cause::protocol(message).hint(hint)
                }
                None if cause.reason == Reason::ConnectReset && request.url.scheme() == "http" => {
                    cause.hint("does it speak TLS on that port? then use `https://`")
                }
                _ => cause,
            }
        })
    }

    async fn read(&mut self, body: &mut Body) -> Result<(), Cause> {
        self.engine.beside(body.read_to_end()).await
    }

    /// Lets the connection end itself in good order (`GOAWAY`, TLS' close), which takes no answer.
    async fn close(self) {
        let Self {
            sender, mut engine, ..
        } = self;
        drop(sender);
        poll_fn(|context| {
            while let Poll::Ready(Some(())) = engine.running.poll_next_unpin(context) {}
            Poll::Ready(())
        })
        .await;
    }
}

/// The request as hyper takes it.
fn packed(
    request: &Request,
    is_http2: bool,
    usage: Use,
) -> Result<http::Request<Full<Bytes>>, Cause> {
    let url = &request.url;
    let mut headers = HeaderMap::new();
    let host = HeaderValue::from_str(&url[Position::BeforeHost..Position::AfterPort])
        .map_err(|_| Cause::new(Reason::Internal, "the host cannot be sent"))?;
    headers.insert(header::HOST, host);
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(
        header::ACCEPT_ENCODING,
        HeaderValue::from_static("identity"),
    );
    headers.extend(request.headers.clone());
    let wants_length = [Method::POST, Method::PUT, Method::PATCH].contains(&request.method);
    if request.body.is_empty() && wants_length {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    let path = &url[Position::BeforePath..Position::AfterQuery];
    let uri = match is_http2 {
        true => {
            let authority = headers.remove(header::HOST);
            let authority = authority.as_ref().map(text_of).unwrap_or_default();
            Uri::try_from(format!("{}://{authority}{path}", url.scheme()))
        }
        false => {
            if usage == Use::Once {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Uri::try_from(path)
        }
    };
    let mut res = http::Request::new(Full::new(request.body.clone()));
    *res.method_mut() = request.method.clone();
    *res.uri_mut() = uri.map_err(|_| Cause::new(Reason::Internal, "the URL cannot be sent"))?;
    *res.headers_mut() = headers;
    Ok(res)
}

/// A body that is being read.
struct Body {
    incoming: Incoming,
    read: Vec<u8>,
    is_truncated: bool,
}

impl Body {
    fn new(incoming: Incoming) -> Self {
        Self {
            incoming,
            read: Vec::new(),
            is_truncated: false,
        }
    }

    async fn read_to_end(&mut self) -> Result<(), Cause> {
        while let Some(frame) = self.incoming.frame().await {
            let frame = frame.map_err(|error| {
                let cause = Cause::from(error);
                match cause.reason {
                    Reason::ConnectReset => Cause {
                        message: format!(
                            "the peer hung up in the middle of its answer, after {} bytes of the body",
                            self.read.len()
                        ),
                        ..cause
                    },
                    _ => cause,
                }
            })?;
            // Trailers are not data.
            let Ok(data) = frame.into_data() else {
                continue;
            };
            let room = BODY_MAX_BYTES - self.read.len();
            self.read.extend_from_slice(&data[..data.len().min(room)]);
            if data.len() > room {
                self.is_truncated = true;
                return Ok(());
            }
        }
        Ok(())
    }
}

type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs what hyper would have others run, in the task of the attempt.
struct Engine {
    running: FuturesUnordered<Job>,
    new_jobs: mpsc::UnboundedReceiver<Job>,
}

impl Engine {
    fn run(&mut self, job: impl Future<Output = ()> + Send + 'static) {
        self.running.push(Box::pin(job));
    }

    async fn beside<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                res = &mut work => return res,
                Some(job) = self.new_jobs.recv() => self.running.push(job),
                Some(()) = self.running.next() => {}
            }
        }
    }
}

/// What hyper's HTTP/2 takes for an executor. A channel, since hyper keeps clones of it inside the
/// very jobs that it hands over.
#[derive(Clone)]
struct Spawner(mpsc::UnboundedSender<Job>);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Spawner {
    fn execute(&self, job: F) {
        // Without a receiver the attempt is over, and so is its work.
        let _ = self.0.send(Box::pin(job));
    }
}

/// A stream that remembers how the peer began: hyper does not show what it could not read.
///
/// A peer that hangs up while we still talk may have said why, and hyper would not look: a write
/// that fails ends it. With TLS 1.3 that is how a server refuses a client certificate, whose alert
/// comes when the request is already on its way. So once nobody listens, what is written goes
/// nowhere, and it is the reading that tells.
struct Listening {
    stream: Stream,
    heard: Arc<Heard>,
    nobody_listens: bool,
}

impl Listening {
    /// What a write comes to, `otherwise` if nobody listens any more.
    fn written<T>(&mut self, res: io::Result<T>, otherwise: T) -> io::Result<T> {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected};
        match res {
            Err(error)
                if [BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected]
                    .contains(&error.kind()) =>
            {
                self.nobody_listens = true;
                Ok(otherwise)
            }
            res => res,
        }
    }
}

/// Who answers where HTTP was expected, and what to do.
fn speaks(first_bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    match first_bytes {
        // A TLS alert.
        [0x15, 3, ..] => Some((
            "the peer speaks TLS on that port",
            "use `https://`, or its plain port",
        )),
        // A SETTINGS frame.
        [0, _, _, 4, 0, ..] => Some((
            "the peer speaks HTTP/2 without TLS only",
            "is it a gRPC port? conncheck speaks HTTP/2 over TLS",
        )),
        [b'S', b'S', b'H', b'-', ..] => Some(("an SSH server answers there", "is the port right?")),
        [b'2', b'2', b'0', b' ' | b'-', ..] => Some((
            "a mail or file server (SMTP, FTP) answers there",
            "is the port right?",
        )),
        _ => None,
    }
}

impl AsyncRead for Listening {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        const KEPT: usize = 8;
        let before = buffer.filled().len();
        let res = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        if let Err(error) = &res {
            // Only an alert after the handshake is to blame on another phase than the open one.
            let cause = Cause::from_chain(error).filter(|cause| cause.phase.is_some());
            cause.map(|cause| self.heard.end_of_tls.get_or_init(|| cause));
        }
        res?;
        let new = &buffer.filled()[before..];
        if !new.is_empty() {
            self.heard
                .first_bytes
                .get_or_init(|| new[..new.len().min(KEPT)].to_vec());
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Listening {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.nobody_listens {
            return Poll::Ready(Ok(bytes.len()));
        }
        let res = ready!(Pin::new(&mut self.stream).poll_write(context, bytes));
        Poll::Ready(self.written(res, bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.nobody_listens {
            return Poll::Ready(Ok(()));
        }
        let res = ready!(Pin::new(&mut self.stream).poll_flush(context));
        Poll::Ready(self.written(res, ()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl From<hyper::Error> for Cause {
    /// An I/O or TLS error inside is the better one; what hyper itself finds wrong is in how the
    /// peer speaks.
    fn from(error: hyper::Error) -> Self {
        if let Some(cause) = Self::from_chain(&error) {
            return cause;
        }
        if let Some(cause) = crate::cause::find(&error).and_then(ended_by_peer) {
            return cause;
        }
        // A request that was given up tells why, one level down.
        let inner = crate::cause::find::<hyper::Error>(&error).unwrap_or(&error);
        // hyper asks for its server half before it lets one ask `is_parse_too_large`.
        if inner.to_string() == "message head is too large" {
            return Self::protocol(
                "the head of the answer is larger than 64 KiB, or has more than 100 headers",
            );
        }
        if inner.is_parse() {
            return Self::protocol(format!("the answer is not HTTP ({inner})"))
                .hint("is the port right?");
        }
        if inner.is_incomplete_message() || inner.is_canceled() || inner.is_closed() {
            return Self::new(Reason::ConnectReset, "the peer hung up without an answer");
        }
        let detail = std::error::Error::source(inner).map(ToString::to_string);
        Self::protocol(match detail {
            Some(detail) => format!("the peer broke HTTP: {inner}: {detail}"),
            None => format!("the peer broke HTTP: {inner}"),
        })
    }
}

/// A request that the peer ended by itself, as HTTP/2 does it without hanging up.
fn ended_by_peer(error: &h2::Error) -> Option<Cause> {
    let reason = error.reason().filter(|_| error.is_remote())?;
    let code = format!("{reason:?}");
    Some(
        match reason {
            h2::Reason::HTTP_1_1_REQUIRED => Cause::protocol(
                "the peer agreed on HTTP/2 and then wants HTTP/1.1 for this request",
            )
            .hint("do not offer `h2` on that server: its way of logging in needs HTTP/1.1"),
            _ => Cause::new(
                Reason::ConnectReset,
                format!("the peer ended the request without an answer (`{code}`)"),
            ),
        }
        .code(code),
    )
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use hyper_util::rt::TokioExecutor;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::outcome::Outcome;
    use crate::testing::{
        Authority, LONG, Peer, Script, UNTIL_THEY_HANG, answer, build, failure, hold, ok, quoted,
        run, status,
    };

    /// Asks `peer` at `/` by a connection with these further lines.
    async fn ask(peer: &Peer, lines: &str) -> Outcome {
        ask_within(peer, lines, LONG).await
    }

    async fn ask_within(peer: &Peer, lines: &str, timeout: Duration) -> Outcome {
        let spec = format!("url: http://127.0.0.1:{}/\n{lines}", peer.port);
        run(&build("http", &spec, &[]).unwrap(), timeout).await
    }

    /// Why an answer is not good enough.
    async fn refused(script: Script) -> Failure {
        let peer = Peer::new([script]).await;
        let failure = ask(&peer, "").await.result.unwrap_err();
        assert_eq!(failure.phase, Some(Phase::Request));
        failure
    }

    #[tokio::test]
    async fn the_request_is_plain_and_closes_its_connection() {
        let peer = Peer::new([hold("HTTP/1.1 204 No Content\r\nServer: tiny/1\r\n\r\n")]).await;
        let url = format!("http://127.0.0.1:{}/v1/health?deep=1#part", peer.port);
        let probe = build("http", &format!("url: {url}"), &[]).unwrap();
        let outcome = run(&probe, LONG).await;
        assert_eq!(outcome.result, Ok(()));
        assert_eq!(outcome.http_status, Some(204));
        assert_eq!(outcome.server.as_deref(), Some("tiny/1"));
        let phases: Vec<Phase> = outcome.phases.iter().map(|(phase, _)| *phase).collect();
        assert_eq!(phases, [Phase::Connect, Phase::Request]);
        assert_eq!(
            peer.heard(),
            [format!(
                "GET /v1/health?deep=1 HTTP/1.1\r\n\
                 Host: 127.0.0.1:{}\r\n\
                 User-Agent: {USER_AGENT}\r\n\
                 Accept: */*\r\n\
                 Accept-Encoding: identity\r\n\
                 Connection: close\r\n\r\n",
                peer.port
            )]
        );
        peer.is_left(1).await;
    }

    #[tokio::test]
    async fn a_body_may_come_in_chunks_or_until_the_end() {
        for text in [
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nal\r\n3\r\nive\r\n0\r\nX-End: 1\r\n\r\n",
            "HTTP/1.0 200 OK\r\n\r\nalive",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nalive",
            "HTTP/1.1 200 OK\r\nX-Folded: a\r\n b\r\nContent-Length: 5\r\n\r\nalive",
            "HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nalive",
        ] {
            let peer = Peer::new([answer(text)]).await;
            let outcome = ask(&peer, "properties: {bodyContains: alive}").await;
            assert_eq!(outcome.result, Ok(()), "{text}");
        }
    }

    #[tokio::test]
    async fn the_answer_to_head_has_no_body_whatever_it_promises() {
        let peer = Peer::new([hold("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")]).await;
        let outcome = ask(&peer, "properties: {method: head}").await;
        assert_eq!(outcome.result, Ok(()));
        assert!(peer.heard()[0].starts_with("HEAD / HTTP/1.1\r\n"));
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_is_none() {
        for text in [
            "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nhalf",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        ] {
            let failure = refused(answer(text)).await;
            assert_eq!(failure.reason, Reason::ConnectReset, "{text}");
            assert_eq!(
                failure.message,
                "the peer hung up in the middle of its answer, after 4 bytes of the body"
            );
        }
        for text in ["", "HTTP/1.1 200 OK\r\nContent-Le"] {
            let failure = refused(answer(text)).await;
            assert_eq!(failure.reason, Reason::ConnectReset, "{text}");
            assert_eq!(failure.message, "the peer hung up without an answer");
        }
    }

    #[tokio::test]
    async fn an_unexpected_status_counts_more_than_where_its_body_ends() {
        let failure = refused(answer("HTTP/1.1 500 Oh\r\nContent-Length: 500\r\n\r\nhalf")).await;
        assert_eq!(failure.reason, Reason::HttpStatus);
    }

    #[tokio::test]
    async fn what_is_not_http_is_a_protocol_error() {
        let too_long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(70_000));
        for (text, message) in [
            (
                "hello there\r\n\r\n",
                "the answer is not HTTP (invalid HTTP version parsed)",
            ),
            (
                "HTTP/1.1 yes\r\n\r\n",
                "the answer is not HTTP (invalid HTTP status-code parsed)",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
                "the answer is not HTTP (invalid content-length parsed)",
            ),
            (
                &too_long,
                "the head of the answer is larger than 64 KiB, or has more than 100 headers",
            ),
            (
                "\x15\x03\x01\x00\x02\x02\x46",
                "the peer speaks TLS on that port",
            ),
            (
                "\0\0\x12\x04\0\0\0\0\0",
                "the peer speaks HTTP/2 without TLS only",
            ),
        ] {
            let failure = refused(answer(text)).await;
            assert_eq!(failure.reason, Reason::Protocol, "{text}");
            assert_eq!(failure.message, message);
        }
        let failure = refused(answer(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnumber\r\n",
        ))
        .await;
        assert_eq!(failure.reason, Reason::Protocol);
    }

    #[tokio::test]
    async fn a_peer_that_speaks_first_is_not_http() {
        let failure = refused(Script::First(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec())).await;
        assert_eq!(failure.reason, Reason::Protocol);
        assert_eq!(failure.message, "an SSH server answers there");
    }

    #[tokio::test]
    async fn a_server_that_wants_tls_is_understood() {
        let text = "<title>400 The plain HTTP request was sent to HTTPS port</title>";
        let head = format!(
            "HTTP/1.1 400 Bad Request\r\nContent-Length: {}\r\n\r\n",
            text.len()
        );
        let failure = refused(answer(head + text)).await;
        assert_eq!(failure.reason, Reason::Protocol);
        assert_eq!(failure.code.as_deref(), Some("400"));
        assert_eq!(
            failure.hint.as_deref(),
            Some("the peer speaks TLS on that port: use `https://`")
        );
    }

    #[tokio::test]
    async fn statuses_have_their_reasons() {
        for (line, reason, hint) in [
            (
                "401 Unauthorized",
                Reason::Auth,
                Some("it wants a login: `Basic` (realm `x y`) or `Bearer`"),
            ),
            ("403 Forbidden", Reason::Permission, None),
            ("404 Not Found", Reason::HttpStatus, None),
            ("101 Switching Protocols", Reason::HttpStatus, None),
            (
                "429 Too Many Requests",
                Reason::Unavailable,
                Some("it says to come back in 120 s"),
            ),
            (
                "502 Bad Gateway",
                Reason::HttpStatus,
                Some("a gateway answered, and what is behind it did not"),
            ),
            (
                "503 Service Unavailable",
                Reason::Unavailable,
                Some("it says to come back in 120 s"),
            ),
            ("302 Found", Reason::HttpStatus, None),
        ] {
            let headers = [
                "Retry-After: 120",
                "WWW-Authenticate: Basic realm=\"x y\", charset=\"UTF-8\"",
                "WWW-Authenticate: Bearer",
            ];
            let failure = refused(status(line, &headers)).await;
            assert_eq!(failure.reason, reason, "{line}");
            assert_eq!(failure.code.as_deref(), line.get(..3));
            assert_eq!(failure.message, format!("expected 2xx, got {line}"));
            assert_eq!(failure.hint.as_deref(), hint);
        }
    }

    #[tokio::test]
    async fn a_challenge_that_nobody_knows_is_not_repeated() {
        let echoed = status(
            "401 Unauthorized",
            &["WWW-Authenticate: hunter2 x, realm=1"],
        );
        assert_eq!(refused(echoed).await.hint, None);
        let headers = ["WWW-Authenticate: hunter2", "WWW-Authenticate: bearer"];
        let failure = refused(status("401 Unauthorized", &headers)).await;
        assert_eq!(failure.hint.as_deref(), Some("it wants a login: `Bearer`"));
    }

    #[tokio::test]
    async fn no_more_than_a_mebibyte_of_a_body_is_read() {
        let endless = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(2 << 20));
        let peer = Peer::new([hold(endless)]).await;
        assert_eq!(ask(&peer, "").await.result, Ok(()));
        let failure = ask(&peer, "properties: {bodyContains: y}")
            .await
            .result
            .unwrap_err();
        assert_eq!(failure.reason, Reason::Assertion);
        assert_eq!(
            failure.message,
            "the body (more than 1 MiB) does not contain `y`"
        );
        let failure = ask(&peer, "properties: {jsonPath: $.a}")
            .await
            .result
            .unwrap_err();
        assert_eq!(
            failure.message,
            "the answer is longer than the 1 MiB that is read"
        );
    }

    #[tokio::test]
    async fn a_hang_says_what_had_come_and_leaves_nothing_open() {
        let hangs = async |text, message| {
            let peer = Peer::new([hold(text)]).await;
            let outcome = ask_within(&peer, "", UNTIL_THEY_HANG).await;
            let failure = outcome.result.unwrap_err();
            assert_eq!(failure.reason, Reason::Timeout);
            assert_eq!(failure.phase, Some(Phase::Request));
            let endpoint = format!("http://127.0.0.1:{}", peer.port);
            assert_eq!(
                failure.message,
                format!("{message} within 2s (`{endpoint}`)")
            );
            peer.is_left(1).await;
        };
        let unavailable = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 9\r\n\r\nhalf";
        let half = "its answer (503 Service Unavailable) began and did not end";
        tokio::join!(
            hangs("", "the peer did not answer the request"),
            hangs("HTTP/1.1 200", "the peer did not answer the request"),
            hangs(unavailable, half),
        );
    }

    #[tokio::test]
    async fn a_redirect_is_followed_as_browsers_do() {
        for (line, method) in [
            ("301 Moved Permanently", "GET"),
            ("302 Found", "GET"),
            ("303 See Other", "GET"),
            ("307 Temporary Redirect", "POST"),
            ("308 Permanent Redirect", "POST"),
        ] {
            let peer = Peer::new([status(line, &["Location: ../there?a=1"]), ok("")]).await;
            let lines = "properties: {method: POST, body: hello, headers: {Content-Type: text/plain, X-Key: k}}";
            assert_eq!(ask(&peer, lines).await.result, Ok(()), "{line}");
            let heard = &peer.heard()[1];
            assert!(
                heard.starts_with(&format!("{method} /there?a=1 HTTP/1.1\r\n")),
                "{heard}"
            );
            assert_eq!(heard.contains("hello"), method == "POST");
            assert_eq!(heard.contains("text/plain"), method == "POST");
            assert!(heard.contains("X-Key: k\r\n"));
        }
    }

    #[tokio::test]
    async fn another_origin_gets_no_credentials_and_home_does_not_get_them_back() {
        let away = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let away_port = away.local_addr().unwrap().port();
        let home = Peer::new([
            status(
                "302 Found",
                &[&format!("Location: http://127.0.0.1:{away_port}/x")],
            ),
            ok(""),
        ])
        .await;
        let back = format!(
            "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{}/y\r\nContent-Length: 0\r\n\r\n",
            home.port
        );
        let elsewhere = tokio::spawn(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let (mut stream, _) = away.accept().await.unwrap();
            let mut heard = vec![0; 4096];
            let size = stream.read(&mut heard).await.unwrap();
            stream.write_all(back.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&heard[..size]).into_owned()
        });
        let lines = "username: probe\npassword: hunter2\nproperties: {headers: {X-Key: k, Cookie: c=1, Accept: text/x, Host: virtual.test}}";
        assert_eq!(ask(&home, lines).await.result, Ok(()));
        let first = &home.heard()[0];
        for sent in [
            "Authorization: Basic cHJvYmU6aHVudGVyMg==\r\n",
            "X-Key: k\r\n",
            "Cookie: c=1\r\n",
            "Host: virtual.test\r\n",
        ] {
            assert!(first.contains(sent), "{first}");
        }
        for (heard, port) in [
            (elsewhere.await.unwrap(), away_port),
            (home.heard()[1].clone(), home.port),
        ] {
            assert!(
                heard.contains(&format!("Host: 127.0.0.1:{port}\r\n")),
                "{heard}"
            );
            assert!(heard.contains("Accept: text/x\r\n"), "{heard}");
            for kept in ["Authorization", "X-Key", "Cookie"] {
                assert!(!heard.contains(kept), "{heard}");
            }
        }
    }

    #[tokio::test]
    async fn a_login_that_a_redirect_left_behind_is_explained() {
        let away = Peer::new([status("401 Unauthorized", &[])]).await;
        let to = format!("Location: http://127.0.0.1:{}/secret-path", away.port);
        let home = Peer::new([status("302 Found", &[&to])]).await;
        let outcome = ask(&home, "properties: {bearer: abcdef}").await;
        assert_eq!(outcome.http_status, Some(401));
        let failure = outcome.result.unwrap_err();
        assert_eq!(failure.reason, Reason::Auth);
        let hint = failure.hint.unwrap();
        assert!(
            hint.contains(&format!("`http://127.0.0.1:{}`", away.port)),
            "{hint}"
        );
        assert!(!hint.contains("secret-path"));
    }

    #[tokio::test]
    async fn a_failure_behind_a_redirect_names_its_peer() {
        let away = Peer::new([hold("")]).await;
        let to = format!("Location: http://127.0.0.1:{}/", away.port);
        let home = Peer::new([status("302 Found", &[&to])]).await;
        let failure = ask_within(&home, "", UNTIL_THEY_HANG)
            .await
            .result
            .unwrap_err();
        assert!(
            failure
                .message
                .ends_with(&format!("(`http://127.0.0.1:{}`)", away.port))
        );

        let port = away.port;
        drop(away);
        tokio::task::yield_now().await;
        let failure = ask(&home, "").await.result.unwrap_err();
        assert_eq!(failure.reason, Reason::ConnectRefused);
        assert!(
            failure
                .message
                .starts_with(&format!("`http://127.0.0.1:{port}`: ")),
            "{}",
            failure.message
        );
    }

    #[tokio::test]
    async fn redirects_that_are_not_followed_say_why() {
        for (location, message) in [
            (
                "/again?token=x",
                "redirected 10 times, and once more to `http://127.0.0.1:PORT`",
            ),
            (
                "ftp://files.test/x",
                "a redirect that leads to something that is not HTTP",
            ),
            (
                "http://[",
                "a redirect that leads to something that is not a URL",
            ),
        ] {
            let peer = Peer::new([status("302 Found", &[&format!("Location: {location}")])]).await;
            let failure = ask(&peer, "").await.result.unwrap_err();
            assert_eq!(failure.reason, Reason::HttpStatus);
            assert_eq!(failure.code.as_deref(), Some("302"));
            assert_eq!(
                failure.message.replace(&peer.port.to_string(), "PORT"),
                message
            );
        }
        let peer = Peer::new([status(
            "308 Permanent Redirect",
            &["Location: http://b.test/"],
        )])
        .await;
        let failure = ask(&peer, "properties: {method: PUT, body: b}")
            .await
            .result
            .unwrap_err();
        assert_eq!(
            failure.message,
            "a redirect that would send the body to another origin, `http://b.test:80`, is not followed"
        );
        let peer = Peer::new([status("302 Found", &["Location: https://b.test/?x"])]).await;
        let failure = ask(&peer, "properties: {followRedirects: false}")
            .await
            .result
            .unwrap_err();
        assert_eq!(failure.message, "expected 2xx, got 302 Found");
        assert_eq!(
            failure.hint.as_deref(),
            Some("it redirects to `https://b.test:443`")
        );
    }

    fn https(port: u16, authority: &Authority, lines: &str) -> String {
        let ca = quoted(&authority.pem);
        format!("url: https://localhost:{port}/\ncaCert: {ca}\n{lines}")
    }

    #[tokio::test]
    async fn https_is_left_in_good_order() {
        let authority = Authority::new("test authority");
        let server = Authority::server(&authority.leaf("localhost", 2040), None, &[]);
        let peer = Peer::tls(
            [hold("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")],
            server,
        )
        .await;
        let probe = build("http", &https(peer.port, &authority, ""), &[]).unwrap();
        let outcome = run(&probe, LONG).await;
        assert_eq!(outcome.result, Ok(()));
        assert!(outcome.tls.unwrap().verified);
        peer.is_left(1).await;
    }

    #[tokio::test]
    async fn a_certificate_that_is_not_good_enough_is_told_apart() {
        let authority = Authority::new("test authority");
        let other = Authority::new("other authority");
        for (leaf, reason) in [
            (authority.leaf("localhost", 2021), Reason::TlsExpired),
            (
                authority.leaf("elsewhere.test", 2040),
                Reason::TlsNameMismatch,
            ),
            (other.leaf("localhost", 2040), Reason::TlsUnknownCa),
        ] {
            let peer = Peer::tls([ok("")], Authority::server(&leaf, None, &[])).await;
            let probe = build("http", &https(peer.port, &authority, ""), &[]).unwrap();
            let outcome = run(&probe, LONG).await;
            assert!(outcome.tls.unwrap().earliest_expiry.is_some());
            let failure = outcome.result.unwrap_err();
            assert_eq!((failure.reason, failure.phase), (reason, Some(Phase::Tls)));

            let lines = "properties: {insecureSkipVerify: true}";
            let probe = build("http", &https(peer.port, &authority, lines), &[]).unwrap();
            assert_eq!(run(&probe, LONG).await.result, Ok(()));
        }
    }

    #[tokio::test]
    async fn a_client_certificate_is_shown_to_home_only() {
        let authority = Authority::new("test authority");
        let server = || {
            let leaf = authority.leaf("localhost", 2040);
            Authority::server(&leaf, Some(&authority), &[])
        };
        let away = Peer::tls([ok("")], server()).await;
        let to = format!("Location: https://localhost:{}/", away.port);
        let home = Peer::tls([ok(""), status("302 Found", &[&to])], server()).await;
        let client = authority.leaf("probe", 2039);
        let lines = format!(
            "clientCert: {}\nclientKey: {}",
            quoted(&client.cert),
            quoted(&client.key)
        );
        let probe = build("http", &https(home.port, &authority, &lines), &[]).unwrap();
        let outcome = run(&probe, LONG).await;
        assert_eq!(outcome.result, Ok(()));
        assert_eq!(
            outcome.credential_expiry.unwrap().to_string(),
            "2039-01-01T00:00:00Z"
        );

        let failure = failure(&probe, LONG).await;
        assert_eq!(
            (failure.reason, failure.phase),
            (Reason::TlsOther, Some(Phase::Tls))
        );
        assert_eq!(failure.code.as_deref(), Some("certificate_required"));
        assert!(
            failure
                .message
                .starts_with(&format!("`https://localhost:{}`: ", away.port))
        );
    }

    #[tokio::test]
    async fn a_refused_client_certificate_is_told_however_the_peer_hangs_up() {
        let authority = Authority::new("test authority");
        for alpn in [&["h2"][..], &["http/1.1"]] {
            let leaf = authority.leaf("localhost", 2040);
            let server = Authority::server(&leaf, Some(&authority), alpn);
            let peer = Peer::tls([ok("")], server).await;
            let probe = build("http", &https(peer.port, &authority, ""), &[]).unwrap();
            // Whether our request or its alert comes first is chance.
            for _ in 0..20 {
                let failure = failure(&probe, LONG).await;
                assert_eq!(failure.code.as_deref(), Some("certificate_required"));
                assert_eq!(
                    (failure.reason, failure.phase),
                    (Reason::TlsOther, Some(Phase::Tls))
                );
            }
        }
    }

    #[tokio::test]
    async fn a_redirect_out_of_tls_is_not_followed() {
        let authority = Authority::new("test authority");
        let server = Authority::server(&authority.leaf("localhost", 2040), None, &[]);
        let peer = Peer::tls([status("302 Found", &["Location: http://b.test/"])], server).await;
        let probe = build("http", &https(peer.port, &authority, ""), &[]).unwrap();
        assert_eq!(
            failure(&probe, LONG).await.message,
            "a redirect that leads out of TLS, to `http://b.test:80`, is not followed"
        );
    }

    #[tokio::test]
    async fn https_to_a_plain_port_is_a_protocol_error() {
        let script = Script::First(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec());
        let peer = Peer::new([script]).await;
        let spec = format!("url: https://127.0.0.1:{}", peer.port);
        let probe = build("http", &spec, &[]).unwrap();
        let failure = failure(&probe, LONG).await;
        assert_eq!(
            (failure.reason, failure.phase),
            (Reason::Protocol, Some(Phase::Tls))
        );
    }

    /// An HTTP/2 server that answers with what it was asked.
    async fn http2_server(authority: &Authority) -> u16 {
        let server = Authority::server(&authority.leaf("localhost", 2040), None, &["h2"]);
        let tls = TlsAcceptor::from(Arc::new(server));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let tls = tls.clone();
                tokio::spawn(async move {
                    let stream = tls.accept(stream).await.unwrap();
                    let echo =
                        hyper::service::service_fn(|request: http::Request<Incoming>| async {
                            let (head, body) = request.into_parts();
                            let body = body.collect().await.unwrap().to_bytes();
                            let text = format!(
                                "{} {} {:?} {}",
                                head.method,
                                head.uri,
                                head.headers,
                                String::from_utf8_lossy(&body)
                            );
                            let mut response = http::Response::new(Full::new(Bytes::from(text)));
                            response
                                .headers_mut()
                                .insert("server", HeaderValue::from_static("two/2"));
                            Ok::<_, Infallible>(response)
                        });
                    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), echo)
                        .await;
                });
            }
        });
        port
    }

    #[tokio::test]
    async fn http2_is_spoken_where_it_is_agreed_on() {
        let authority = Authority::new("test authority");
        let port = http2_server(&authority).await;
        let regex = "^POST https://virtual.test/ \\{.*\"x-key\": \"k\".*\\} hello$";
        let lines = format!(
            "properties: {{method: POST, body: hello, headers: {{X-Key: k, Host: virtual.test}}, bodyRegex: {}}}",
            quoted(regex)
        );
        let probe = build("http", &https(port, &authority, &lines), &[]).unwrap();
        let outcome = run(&probe, LONG).await;
        assert_eq!(outcome.result, Ok(()));
        assert_eq!(outcome.server.as_deref(), Some("two/2"));
    }

    #[tokio::test]
    async fn several_requests_go_over_one_connection() {
        crate::install_crypto_provider();
        let authority = Authority::new("test authority");
        let h2 = http2_server(&authority).await;
        // Both answers at once would be wrong; this one waits for the second request.
        let both = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        let server = Authority::server(&authority.leaf("localhost", 2040), None, &["http/1.1"]);
        let h1 = Peer::tls([hold(both)], server).await;
        for (port, timeout, second) in [
            (h2, LONG, Ok(())),
            (h1.port, UNTIL_THEY_HANG, Err(Reason::Timeout)),
        ] {
            let home = Url::parse(&format!("https://localhost:{port}/")).unwrap();
            let tls = Tls::new(&TlsOptions {
                ca_cert: Some(Secret::new(&*authority.pem)),
                alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
                ..TlsOptions::default()
            });
            let client = Client::for_home(&home, tls.unwrap(), None);
            let probe: Arc<dyn crate::Probe> = Arc::new(Twice { client, home });
            let outcome = run(&probe, timeout).await;
            assert_eq!(outcome.result.map_err(|failure| failure.reason), second);
            let connects = outcome
                .phases
                .iter()
                .filter(|(phase, _)| *phase == Phase::Tls);
            assert_eq!(connects.count(), 1);
        }
        assert_eq!(h1.heard().len(), 1, "and not a second connection");
    }

    /// Asks twice in one conversation.
    struct Twice {
        client: Client,
        home: Url,
    }

    impl crate::Probe for Twice {
        fn endpoint(&self) -> &str {
            "twice"
        }

        fn scrubber(&self) -> &crate::Scrubber {
            static NONE: std::sync::OnceLock<crate::Scrubber> = std::sync::OnceLock::new();
            NONE.get_or_init(crate::Scrubber::default)
        }

        fn run<'a>(
            &'a self,
            attempt: &'a mut Attempt,
        ) -> Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>> {
            Box::pin(async move {
                let mut conversation = self.client.conversation();
                for _ in 0..2 {
                    let request = Request {
                        method: Method::GET,
                        url: self.home.clone(),
                        headers: HeaderMap::new(),
                        body: Bytes::new(),
                    };
                    conversation
                        .ask(attempt, Phase::Request, &request)
                        .await?
                        .whole()?;
                }
                conversation.end().await;
                Ok(())
            })
        }
    }

    #[tokio::test]
    async fn http2_that_is_not_spoken_after_all_is_a_protocol_error() {
        let authority = Authority::new("test authority");
        for (script, reason) in [
            (
                Script::First(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
                Reason::Protocol,
            ),
            (answer(""), Reason::ConnectReset),
        ] {
            let server = Authority::server(&authority.leaf("localhost", 2040), None, &["h2"]);
            let peer = Peer::tls([script], server).await;
            let probe = build("http", &https(peer.port, &authority, ""), &[]).unwrap();
            let failure = failure(&probe, LONG).await;
            assert_eq!(failure.reason, reason, "{}", failure.message);
        }
    }

    #[tokio::test]
    async fn an_http2_request_that_the_peer_ends_has_its_code() {
        let authority = Authority::new("test authority");
        for (number, code, reason) in [
            (0, "NO_ERROR", Reason::ConnectReset),
            (11, "ENHANCE_YOUR_CALM", Reason::ConnectReset),
            (13, "HTTP_1_1_REQUIRED", Reason::Protocol),
        ] {
            // An empty SETTINGS frame, then a GOAWAY.
            let frames = [
                &[0, 0, 0, 4, 0, 0, 0, 0, 0][..],
                &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, number],
            ];
            let text = String::from_utf8(frames.concat()).unwrap();
            let server = Authority::server(&authority.leaf("localhost", 2040), None, &["h2"]);
            let peer = Peer::tls([hold(text)], server).await;
            let probe = build("http", &https(peer.port, &authority, ""), &[]).unwrap();
            let failure = failure(&probe, LONG).await;
            assert_eq!(
                (failure.reason, failure.code.as_deref()),
                (reason, Some(code)),
                "{}",
                failure.message
            );
        }
    }

    #[tokio::test]
    async fn a_hang_in_http2_leaves_nothing_open() {
        let authority = Authority::new("test authority");
        let server = Authority::server(&authority.leaf("localhost", 2040), None, &["h2"]);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let tls = TlsAcceptor::from(Arc::new(server));
        let left = tokio::spawn(async move {
            use tokio::io::AsyncReadExt;
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = tls.accept(stream).await.unwrap();
            let mut heard = Vec::new();
            // Whether it ends well or badly: it ends.
            let _ = stream.read_to_end(&mut heard).await;
        });
        let probe = build("http", &https(port, &authority, ""), &[]).unwrap();
        let failure = failure(&probe, UNTIL_THEY_HANG).await;
        assert_eq!(
            (failure.reason, failure.phase),
            (Reason::Timeout, Some(Phase::Request))
        );
        tokio::time::timeout(LONG, left).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_silent_peer_is_a_timeout_in_the_handshake() {
        let peer = Peer::new([hold("")]).await;
        let spec = format!("url: https://127.0.0.1:{}", peer.port);
        let probe = build("http", &spec, &[]).unwrap();
        let failure = failure(&probe, UNTIL_THEY_HANG).await;
        assert_eq!(
            (failure.reason, failure.phase),
            (Reason::Timeout, Some(Phase::Tls))
        );
    }
}
