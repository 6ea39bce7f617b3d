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

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use url::{Origin, Position, Url};

use crate::address::Location;
use crate::attempt::{Address, Attempt, Stream};
use crate::cause::Cause;
use crate::outcome::{Failure, Phase, Reason};
use crate::probe::{Access, Invalid};
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
    /// The origin that a redirect led to, if it did lead away from home.
    pub(crate) elsewhere: Option<String>,
}

impl Client {
    /// A client that is at home where `home` is. HTTP/2 and HTTP/1.1 are offered, unless the
    /// options offer something else.
    pub(crate) fn new(
        access: &Access<'_>,
        home: &Url,
        options: TlsOptions,
    ) -> Result<Self, Invalid> {
        Self::with(home, options, |options| access.tls(options))
    }

    fn with<E>(
        home: &Url,
        mut options: TlsOptions,
        build: impl Fn(&TlsOptions) -> Result<Tls, E>,
    ) -> Result<Self, E> {
        if options.alpn.is_empty() {
            options.alpn = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        }
        let tls = build(&options)?;
        let is_home_only = options.server_name.is_some() || tls.has_client_certificate();
        let tls_elsewhere = match is_home_only {
            true => build(&TlsOptions {
                client_cert: None,
                client_key: None,
                server_name: None,
                ..options
            })?,
            false => tls.clone(),
        };
        Ok(Self {
            home: home.origin(),
            tls,
            tls_elsewhere,
        })
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

    async fn exchange(
        &self,
        attempt: &mut Attempt,
        phase: Phase,
        request: &Request,
        is_home: bool,
    ) -> Result<Response, Failure> {
        let elsewhere = (request.url.origin() != self.home).then(|| endpoint_of(&request.url));
        attempt.talks_to(elsewhere.clone());
        let tls = match is_home {
            true => &self.tls,
            false => &self.tls_elsewhere,
        };
        let (stream, is_http2) = connect(attempt, &request.url, tls).await?;
        let mut wire = attempt.phase(phase, Wire::open(stream, is_http2)).await?;
        let (head, body) = attempt.phase(phase, wire.ask(request)).await?.into_parts();
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
            .phase_of(phase, &unfinished, wire.read(&mut body))
            .await
            .err();
        wire.close().await;
        attempt.talks_to(None);
        Ok(Response {
            status: head.status,
            headers: head.headers,
            body: body.read.into(),
            is_truncated: body.is_truncated,
            cut,
            elsewhere,
        })
    }
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
            return Err(Cause::protocol("the answer is longer than the 1 MiB that is read"));
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

    /// The ways to log in that a 401 names: `Basic` (realm "status").
    fn challenges(&self) -> Option<String> {
        let challenges: Vec<String> = self
            .headers
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            .map(|value| {
                let value = text_of(value);
                let scheme = value.split([' ', ',']).next().unwrap_or_default();
                let realm = value.split_once("realm=\"").and_then(|(_, rest)| rest.split('"').next());
                match realm {
                    Some(realm) if !realm.is_empty() => format!("`{scheme}` (realm `{realm}`)"),
                    _ => format!("`{scheme}`"),
                }
            })
            .collect();
        (!challenges.is_empty()).then(|| challenges.join(" or "))
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
            return Some((Reason::Protocol, "the peer speaks TLS on that port: use `https://`"));
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

/// Reads a URL that can be asked at. User-info and fragment are left out: they are never sent. No
/// message quotes it.
pub(crate) fn target(text: &str) -> Result<Url, String> {
    // For its messages.
    Location::parse(text)?;
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    sendable(url).map_err(str::to_owned)
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
        let why = format!("leads out of TLS, to `{}`, is not followed", endpoint_of(&url));
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
) -> Result<(Stream, bool), Failure> {
    let host = url.host_str().unwrap_or_default();
    let address = Address::Tcp {
        host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
        port: url.port_or_known_default().unwrap_or_default(),
    };
    let stream = attempt.dial(&address).await?;
    if url.scheme() != "https" {
        return Ok((stream, false));
    }
    let (stream, handshake) = attempt.tls(stream, tls, address.host()).await?;
    Ok((stream, handshake.alpn.as_deref() == Some(b"h2")))
}

/// A connection that one request is sent over.
struct Wire {
    sender: Sender,
    engine: Engine,
    first_bytes: Arc<OnceLock<Vec<u8>>>,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Wire {
    async fn open(stream: Stream, is_http2: bool) -> Result<Self, Cause> {
        let first_bytes = Arc::new(OnceLock::new());
        let io = TokioIo::new(Listening {
            stream,
            first_bytes: Arc::clone(&first_bytes),
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
            engine,
            first_bytes,
        })
    }

    async fn ask(&mut self, request: &Request) -> Result<http::Response<Incoming>, Cause> {
        let res = match &mut self.sender {
            Sender::Http1(sender) => {
                let request = packed(request, false)?;
                self.engine.beside(sender.send_request(request)).await
            }
            Sender::Http2(sender) => {
                let request = packed(request, true)?;
                self.engine.beside(sender.send_request(request)).await
            }
        };
        res.map_err(|error| {
            let cause = Cause::from(error);
            match self.first_bytes.get().and_then(|bytes| speaks(bytes)) {
                Some((message, hint)) if cause.phase.is_none() => Cause {
                    message: message.to_owned(),
                    ..Cause::protocol("").hint(hint)
                },
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
fn packed(request: &Request, is_http2: bool) -> Result<http::Request<Full<Bytes>>, Cause> {
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
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
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
struct Listening {
    stream: Stream,
    first_bytes: Arc<OnceLock<Vec<u8>>>,
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
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let new = &buffer.filled()[before..];
        if !new.is_empty() {
            self.first_bytes
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
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
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
        // A request that was given up tells why, one level down.
        let inner = crate::cause::find::<hyper::Error>(&error).unwrap_or(&error);
        // hyper asks for its server half before it lets one ask `is_parse_too_large`.
        if inner.to_string() == "message head is too large" {
            return Self::protocol("the head of the answer is larger than 64 KiB");
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
