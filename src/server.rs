//! HTTP: `/metrics`, and whether the program itself is well.
//!
//! Slow clients cannot wedge it: a request's head must come within [`HEAD`], an answer must be
//! taken at some speed at all ([`STALL`]), and there are never more than [`CONNECTIONS`]. Nothing
//! here waits for a probe.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::extract::State as Shared;
use axum::http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep, timeout};

use crate::metrics::{Format, View, render};
use crate::process::Process;
use crate::state::State;

/// How long a client may take to send the head of a request; the time between two requests on one
/// connection counts.
const HEAD: Duration = Duration::from_secs(30);

/// How long a client may take none of its answer.
const STALL: Duration = Duration::from_secs(15);

/// How many connections may be open. The next ones wait until the kernel hands them over.
const CONNECTIONS: usize = 128;

/// How long answers may go on after we were told to stop.
const GOODBYE: Duration = Duration::from_secs(1);

/// What the handlers know.
pub struct App {
    state: Arc<State>,
    ready: AtomicBool,
    /// One exposition at a time: it takes one core and memory enough.
    rendering: Arc<Semaphore>,
}

impl App {
    /// Not ready yet.
    pub fn new(state: Arc<State>) -> Self {
        Self {
            state,
            ready: AtomicBool::new(false),
            rendering: Arc::new(Semaphore::new(1)),
        }
    }

    /// Whether definitions are loaded and attempts are made.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }
}

fn routes(app: Arc<App>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/-/healthy", get(async || "conncheck is healthy\n"))
        .route("/-/ready", get(is_ready))
        .fallback(async || (StatusCode::NOT_FOUND, "not found\n"))
        .method_not_allowed_fallback(async || {
            (StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n")
        })
        .with_state(app)
}

async fn is_ready(Shared(app): Shared<Arc<App>>) -> Response {
    match app.ready.load(Ordering::Relaxed) {
        true => "conncheck is ready\n".into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, "conncheck is not ready\n").into_response(),
    }
}

async fn metrics(Shared(app): Shared<Arc<App>>, headers: HeaderMap) -> Response {
    let format = match prefers_openmetrics(&list(&headers, ACCEPT)) {
        true => Format::OpenMetrics,
        false => Format::Text,
    };
    let gzip = accepts_gzip(&list(&headers, ACCEPT_ENCODING));
    let Ok(permit) = Arc::clone(&app.rendering).acquire_owned().await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let rendered = tokio::task::spawn_blocking(move || {
        let _until_done = permit;
        let view = Arc::new(View {
            snapshot: app.state.snapshot(),
            process: Process::read(),
        });
        exposition(&view, format, gzip)
    });
    match rendered.await {
        Ok(Ok(body)) => {
            let content_type = [(CONTENT_TYPE, format.content_type())];
            let vary = [(VARY, "accept, accept-encoding")];
            let encoding = gzip.then_some([(CONTENT_ENCODING, "gzip")]);
            match encoding {
                Some(encoding) => (content_type, vary, encoding, body).into_response(),
                None => (content_type, vary, body).into_response(),
            }
        }
        Ok(Err(_)) | Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn exposition(view: &Arc<View>, format: Format, gzip: bool) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if !gzip {
        render(view, format, &mut body)?;
        return Ok(body);
    }
    // Most of it is the same all over: the fastest level leaves a twenty-fifth.
    let mut encoder = GzEncoder::new(body, Compression::fast());
    render(view, format, &mut encoder)?;
    encoder.flush()?;
    encoder.finish()
}

/// All values of a header that is a list, as one.
fn list(headers: &HeaderMap, name: HeaderName) -> String {
    let values = headers.get_all(name).iter();
    let values: Vec<_> = values.filter_map(|value| value.to_str().ok()).collect();
    values.join(",")
}

/// The items of a list with their weights.
fn weighted(list: &str) -> impl Iterator<Item = (String, f32)> {
    list.split(',').map(|item| {
        let mut parts = item.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok());
        (name, weight.unwrap_or(1.0))
    })
}

/// Whether the client asks for OpenMetrics at least as much as for plain text.
fn prefers_openmetrics(accept: &str) -> bool {
    let weight = |wanted: &str| {
        let named = weighted(accept).filter(|(name, _)| name == wanted);
        named.map(|(_, weight)| weight).fold(0.0, f32::max)
    };
    let openmetrics = weight("application/openmetrics-text");
    openmetrics > 0.0 && openmetrics >= weight("text/plain")
}

fn accepts_gzip(accept: &str) -> bool {
    weighted(accept).any(|(name, weight)| (name == "gzip" || name == "*") && weight > 0.0)
}

/// A listener that serves nobody yet.
pub struct Server {
    listener: TcpListener,
}

impl Server {
    /// Takes the address.
    pub async fn bind(addr: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        Ok(Self { listener })
    }

    /// The address that was taken: the port was chosen by the kernel if 0 was asked for.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stopping` says so, and then lets answers that are under way end.
    pub async fn serve(self, app: Arc<App>, mut stopping: watch::Receiver<bool>) {
        let routes = routes(app);
        let permits = Arc::new(Semaphore::new(CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let accepted = async {
                let permit = Arc::clone(&permits).acquire_owned().await;
                (permit, self.listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                () = told(&mut stopping) => break,
                Some(_) = connections.join_next() => continue,
                accepted = accepted => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (routes, stopping) = (routes.clone(), stopping.clone());
                    connections.spawn(async move {
                        let _until_closed = permit;
                        serve_connection(stream, routes, stopping).await;
                    });
                }
                Err(err) => {
                    // Without descriptors the next try fails as well: let some be closed.
                    tracing::warn!(%err, "cannot accept a connection");
                    sleep(Duration::from_millis(200)).await;
                }
            }
        }
        let all_closed = async { while connections.join_next().await.is_some() {} };
        // Those who have not taken their answer by now will not get it.
        let _ = timeout(GOODBYE, all_closed).await;
    }
}

/// Waits until we are to stop. (What `wait_for` gives is a lock, which must not be kept.)
async fn told(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

async fn serve_connection(stream: TcpStream, routes: Router, mut stopping: watch::Receiver<bool>) {
    // Only delays an answer by some milliseconds if it fails.
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(
            TokioIo::new(Impatient {
                stream,
                stalled: None,
            }),
            TowerToHyperService::new(routes),
        );
    let mut connection = pin!(connection);
    let res = tokio::select! {
        res = connection.as_mut() => res,
        () = told(&mut stopping) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(err) = res {
        tracing::debug!(%err, "a client went away");
    }
}

/// A stream that fails when its peer takes nothing for [`STALL`].
struct Impatient {
    stream: TcpStream,
    /// Runs while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Impatient {
    fn watch<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.stalled = None;
            return poll;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(STALL)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Impatient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Impatient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::state::tests::facts;

    struct Running {
        addr: SocketAddr,
        app: Arc<App>,
        stop: watch::Sender<bool>,
        server: tokio::task::JoinHandle<()>,
    }

    async fn running() -> Running {
        let state = Arc::new(State::default());
        state.apply([facts("db", 1, 1)]);
        let app = Arc::new(App::new(state));
        let server = Server::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let addr = server.local_addr().unwrap();
        let (stop, stopping) = watch::channel(false);
        let server = tokio::spawn(server.serve(Arc::clone(&app), stopping));
        Running {
            addr,
            app,
            stop,
            server,
        }
    }

    impl Running {
        /// The head and the body of the answer.
        async fn ask(&self, method: &str, path: &str, headers: &str) -> (String, Vec<u8>) {
            let mut stream = TcpStream::connect(self.addr).await.unwrap();
            let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n");
            let request = format!("{head}{headers}\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            let end = answer
                .windows(4)
                .position(|window| window == b"\r\n\r\n")
                .unwrap();
            let head = String::from_utf8(answer[..end].to_vec()).unwrap();
            (head, answer[end + 4..].to_vec())
        }

        async fn status(&self, method: &str, path: &str) -> String {
            let (head, _) = self.ask(method, path, "").await;
            head.split(' ').nth(1).unwrap().to_owned()
        }
    }

    #[tokio::test]
    async fn paths_and_methods() {
        let running = running().await;
        assert_eq!(running.status("GET", "/-/healthy").await, "200");
        assert_eq!(running.status("GET", "/-/ready").await, "503");
        running.app.set_ready(true);
        assert_eq!(running.status("GET", "/-/ready").await, "200");
        assert_eq!(running.status("HEAD", "/metrics").await, "200");
        assert_eq!(running.status("POST", "/metrics").await, "405");
        assert_eq!(running.status("GET", "/nope").await, "404");
        assert_eq!(running.status("GET", "/-/reload").await, "404");
    }

    #[tokio::test]
    async fn metrics_come_as_they_are_asked_for() {
        let running = running().await;
        let (head, body) = running.ask("GET", "/metrics", "").await;
        assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"));
        let body = String::from_utf8(body).unwrap();
        assert!(body.contains("# TYPE probe_attempts_total counter\n"));
        assert!(body.contains("process_open_fds "));

        let prometheus = "accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;\
                          version=0.0.4;q=0.3,*/*;q=0.2\r\naccept-encoding: gzip\r\n";
        let (head, body) = running.ask("GET", "/metrics", prometheus).await;
        assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"));
        assert!(head.contains("content-encoding: gzip"));
        let mut text = String::new();
        GzDecoder::new(&body[..]).read_to_string(&mut text).unwrap();
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn what_a_client_prefers() {
        let openmetrics = [
            "application/openmetrics-text",
            "application/openmetrics-text; version=1.0.0, text/plain",
            "text/plain;q=0.5, application/openmetrics-text;q=0.6",
        ];
        assert!(openmetrics.iter().all(|accept| prefers_openmetrics(accept)));
        let text = [
            "",
            "*/*",
            "text/html",
            "application/openmetrics-text;q=0",
            "text/plain",
        ];
        assert!(!text.iter().any(|accept| prefers_openmetrics(accept)));
        assert!(accepts_gzip("br;q=1.0, gzip;q=0.5") && accepts_gzip("*"));
        assert!(!accepts_gzip("gzip;q=0, br") && !accepts_gzip(""));
    }

    #[tokio::test]
    async fn clients_that_say_nothing_hold_nobody_up() {
        let running = running().await;
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS - 1 {
            silent.push(TcpStream::connect(running.addr).await.unwrap());
        }
        assert_eq!(running.status("GET", "/-/healthy").await, "200");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_is_let_go() {
        let running = running().await;
        let mut silent = TcpStream::connect(running.addr).await.unwrap();
        silent.write_all(b"GET /metr").await.unwrap();
        let mut answer = Vec::new();
        let res = timeout(HEAD * 2, silent.read_to_end(&mut answer)).await;
        assert!(res.is_ok(), "still open");
    }

    #[tokio::test]
    async fn stopping_ends_idle_connections() {
        let running = running().await;
        let _idle = TcpStream::connect(running.addr).await.unwrap();
        running.stop.send_replace(true);
        timeout(GOODBYE * 3, running.server).await.unwrap().unwrap();
    }
}
