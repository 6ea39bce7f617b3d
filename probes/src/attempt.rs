//! One attempt: resolve, dial, time each phase, and leave nothing behind.
//!
//! The deadline is hard. When it passes, the probe's future is dropped and every socket that the
//! attempt opened is shut, so that whatever a driver may have spawned finds its peer gone.
//! [`Attempt`]'s record outlives the probe's future, so a deadline that cuts it still knows which
//! phase was open.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use conncheck_config::Secret;
use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use jiff::Timestamp;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

use crate::cause::{Cause, TooMuch};
use crate::dns::{Resolver, ResolverChoice};
use crate::outcome::{Failure, Outcome, Phase, Reason};
use crate::probe::Probe;
use crate::program::Program;
use crate::scrub::Scrubber;
use crate::tls::{Handshake, Seen, Tls};

/// How long the next address waits for the one before it (RFC 8305).
const CONNECTION_ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// How long a goodbye may take at most. The verdict is not touched by it.
const GOODBYE: Duration = Duration::from_secs(1);

/// The longest message that is kept: some servers send pages.
const MESSAGE_MAX_CHARS: usize = 500;

/// What all attempts share.
#[derive(Clone)]
pub struct Env {
    resolver: Resolver,
}

impl Env {
    /// Sets up name resolution. The error is for the person who chose the resolver.
    pub fn new(resolver: &ResolverChoice) -> Result<Self, String> {
        Ok(Self {
            resolver: Resolver::new(resolver)?,
        })
    }
}

/// Where a peer is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A host name or an IP address (without brackets), and a port.
    Tcp {
        /// A name, or an address without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// A unix socket.
    Unix(PathBuf),
}

impl Address {
    /// The name that a certificate is expected to be for.
    pub fn host(&self) -> &str {
        match self {
            Self::Tcp { host, .. } => host,
            Self::Unix(_) => "localhost",
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// How much a peer may send in one attempt. Every answer that a probe waits for is far shorter; a
/// peer that sends without end is cut off here, and not by our memory.
const RECEIVED_MAX_BYTES: u64 = 16 * 1024 * 1024;

/// A connection to a peer: TCP, unix, or TLS over either.
pub struct Stream {
    io: Pin<Box<dyn Io>>,
    may_receive_bytes: u64,
}

trait Io: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Io for T {}

impl Stream {
    pub(crate) fn new(io: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        Self {
            io: Box::pin(io),
            may_receive_bytes: RECEIVED_MAX_BYTES,
        }
    }
}

impl Drop for Stream {
    /// Ends it in order, whatever cut the conversation short: over TLS the peer hears
    /// `close_notify`, without which some servers log a reset. One try, nothing is waited for.
    fn drop(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        let _ = self.io.as_mut().poll_shutdown(&mut cx);
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        std::task::ready!(self.io.as_mut().poll_read(cx, buf))?;
        let received = buf.filled().len() - before;
        match self.may_receive_bytes.checked_sub(received as u64) {
            Some(left) => self.may_receive_bytes = left,
            None => {
                let error = io::Error::new(io::ErrorKind::InvalidData, TooMuch);
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.io.as_mut().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.as_mut().poll_shutdown(cx)
    }
}

/// What is known of an attempt so far.
struct Record {
    open: Option<(Phase, Instant, String)>,
    phases: Vec<(Phase, Duration)>,
    /// Whom the steps talk to, where it is not the probe's endpoint.
    peer: Option<String>,
    server: Option<String>,
    identity: Option<String>,
    http_status: Option<u16>,
    credential_expiry: Option<Timestamp>,
    /// What came of it and when, once that stands; only farewells come after it.
    verdict: Option<(Instant, Result<(), Failure>)>,
    /// What failed before something else was tried.
    failed_before: Vec<String>,
    /// The program that is waited for, and not the peer.
    program: Option<String>,
    /// Secrets that came up on the way.
    secrets: Vec<Secret>,
    sockets: Vec<OwnedFd>,
}

impl Record {
    fn close_phase(&mut self) {
        if let Some((phase, since, _)) = self.open.take() {
            // What a farewell takes is no part of what was measured.
            if self.verdict.is_some() {
                return;
            }
            let took = since.elapsed();
            match self.phases.iter_mut().find(|(known, _)| *known == phase) {
                Some((_, total)) => *total += took,
                None => self.phases.push((phase, took)),
            }
        }
    }
}

/// One attempt, as a probe sees it.
pub struct Attempt {
    record: Arc<Mutex<Record>>,
    seen: Arc<Mutex<Option<Seen>>>,
    env: Env,
    deadline: Instant,
    timeout: Duration,
    /// Until when the steps may take, and what it is called in a message.
    limit: Option<(Instant, Duration)>,
}

impl Attempt {
    /// Times a step as part of `phase`, tags its failure, and lets a deadline that cuts it blame
    /// the right one. Steps of the same phase add up.
    pub async fn phase<T, E: Into<Cause>>(
        &mut self,
        phase: Phase,
        step: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Failure> {
        self.phase_of(phase, waiting_for(phase), step).await
    }

    /// Like [`Attempt::phase`], saying what is waited for, should it never come: `no answer to the
    /// query`.
    pub async fn phase_of<T, E: Into<Cause>>(
        &mut self,
        phase: Phase,
        waiting_for: &str,
        step: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Failure> {
        lock(&self.record).open = Some((phase, Instant::now(), waiting_for.to_owned()));
        let res = match self.limit {
            None => step.await.map_err(Into::into),
            Some((until, limit)) => match tokio::time::timeout_at(until, step).await {
                Ok(res) => res.map_err(Into::into),
                Err(_) => Err(timed_out(
                    Some(phase),
                    &format!("{waiting_for} within {limit:?}"),
                )),
            },
        };
        lock(&self.record).close_phase();
        res.map_err(|cause| self.blame(cause).in_phase(phase))
    }

    /// Lets no step wait longer than `limit` from now on, all of them together; `None` lifts it.
    /// For a limit of the owner's own such as libpq's `connect_timeout`, after which there may be
    /// something else to try. The attempt's deadline stands beside it.
    pub fn limit(&mut self, limit: Option<Duration>) {
        // One that is longer than time goes is none.
        self.limit = limit.and_then(|limit| Some((Instant::now().checked_add(limit)?, limit)));
    }

    /// Keeps the last part of the attempt's time back from the steps to come, for a farewell that
    /// matters: they end that much earlier, and a message still names the whole timeout.
    pub fn keep_back(&mut self, last: Duration) {
        let until = self.deadline.checked_sub(last).unwrap_or(self.deadline);
        self.limit = Some((until, self.timeout));
    }

    /// What is left until the attempt's deadline.
    pub fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Notes what has failed and was not the end: the outcome tells of it, and so does a deadline
    /// that comes later.
    pub fn failed_before(&mut self, message: &str) {
        lock(&self.record).failed_before.push(message.to_owned());
    }

    /// Resolves `address` and connects to it. Where a name has several addresses they are raced
    /// once, as the owner's own client would.
    pub async fn dial(&mut self, address: &Address) -> Result<Stream, Failure> {
        let (host, port) = match address {
            Address::Unix(path) => {
                let path = path.clone();
                let stream = self
                    .phase(Phase::Connect, async move {
                        UnixStream::connect(&path)
                            .await
                            .map_err(|error| connect_cause(&path.display().to_string(), error))
                    })
                    .await?;
                self.own(&stream);
                return Ok(Stream::new(stream));
            }
            Address::Tcp { host, port } => (host, *port),
        };
        let addresses = match host.parse() {
            Ok(ip) => vec![SocketAddr::new(ip, port)],
            Err(_) => {
                let resolver = self.env.resolver.clone();
                let ips = self
                    .phase(Phase::Resolve, async move { resolver.resolve(host).await })
                    .await?;
                ips.into_iter()
                    .map(|ip| SocketAddr::new(ip, port))
                    .collect()
            }
        };
        let stream = self.phase(Phase::Connect, race(&addresses)).await?;
        self.own(&stream);
        Ok(Stream::new(stream))
    }

    /// The hosts and ports that the SRV records of `name` lead to, best first. Never empty.
    pub async fn services(&mut self, name: &str) -> Result<Vec<(String, u16)>, Failure> {
        let resolver = self.env.resolver.clone();
        let services = async move { resolver.services(name).await };
        self.phase(Phase::Resolve, services).await
    }

    /// The TXT records of `name`; a name that has none is as good.
    pub async fn texts(&mut self, name: &str) -> Result<Vec<String>, Failure> {
        let resolver = self.env.resolver.clone();
        let texts = async move { resolver.texts(name).await };
        self.phase(Phase::Resolve, texts).await
    }

    /// Shakes hands over `stream`. The chain is recorded, whatever comes of it.
    pub async fn tls(
        &mut self,
        stream: Stream,
        tls: &Tls,
        host: &str,
    ) -> Result<(Stream, Handshake), Failure> {
        if let Some(expiry) = tls.client_certificate_expiry() {
            self.credential_expires(expiry);
        }
        let seen = Arc::clone(&self.seen);
        let res = self
            .phase(Phase::Tls, async { tls.connect(stream, host, &seen).await })
            .await;
        res.map_err(
            |failure| match (failure.code.as_deref(), tls.has_client_certificate()) {
                (Some("handshake_failure"), true) => Failure {
                    hint: Some("no cipher in common, or it refuses our client certificate".into()),
                    ..failure
                },
                _ => failure,
            },
        )
    }

    /// From here on the verdict stands, whatever else is said: neither an error nor the deadline
    /// changes it, and the time that it takes is not counted.
    pub fn settle(&mut self, verdict: Result<(), Failure>) {
        let now = Instant::now();
        lock(&self.record).verdict.get_or_insert((now, verdict));
    }

    /// Says goodbye to a peer that has proved itself. Whether it answers is not our business.
    pub async fn goodbye(&mut self, farewell: impl Future) {
        self.settle(Ok(()));
        let until = self.deadline.min(Instant::now() + GOODBYE);
        // The verdict stands.
        let _ = tokio::time::timeout_at(until, farewell).await;
    }

    /// From here on the steps talk to `peer`, where that is not the probe's endpoint: a token
    /// server, the other end of a redirect. Failures name it.
    pub fn talks_to(&mut self, peer: Option<String>) {
        lock(&self.record).peer = peer;
    }

    /// Runs a program on this machine as a step of `phase`. However the attempt ends, the program and
    /// its children end with it.
    pub(crate) async fn program(
        &mut self,
        phase: Phase,
        program: &Program,
        input: &[(&str, &str)],
    ) -> Result<Secret, Failure> {
        let name = program.name();
        lock(&self.record).program = Some(name.to_owned());
        let waiting_for = format!("the program `{name}` did not end");
        let res = self.phase_of(phase, &waiting_for, program.run(input)).await;
        lock(&self.record).program = None;
        res
    }

    /// Keeps a secret that came up on the way (a token that was granted) out of the outcome.
    pub(crate) fn keeps_secret(&mut self, secret: &Secret) {
        lock(&self.record).secrets.push(secret.clone());
    }

    /// Notes the server's name and version: `PostgreSQL 15.18`.
    pub fn server(&mut self, server: impl Into<String>) {
        lock(&self.record).server = Some(server.into());
    }

    /// Notes whom the server takes us for, where that is no secret.
    pub fn identity(&mut self, identity: impl Into<String>) {
        lock(&self.record).identity = Some(identity.into());
    }

    /// Notes the status of an HTTP response.
    pub fn http_status(&mut self, status: u16) {
        lock(&self.record).http_status = Some(status);
    }

    /// Notes when a credential that is used ends; the earliest is kept.
    pub fn credential_expires(&mut self, at: Timestamp) {
        let mut record = lock(&self.record);
        record.credential_expiry = Some(record.credential_expiry.map_or(at, |known| known.min(at)));
    }

    /// Our own address on the connection that was dialled last, where it has one.
    pub fn local_ip(&self) -> Option<IpAddr> {
        let record = lock(&self.record);
        let address = SockRef::from(record.sockets.last()?).local_addr().ok()?;
        Some(address.as_socket()?.ip().to_canonical())
    }

    /// Keeps a duplicate of a socket, so that it can be shut however the attempt ends.
    fn own(&self, socket: &impl AsFd) {
        // Only without descriptors does this fail, and then the next dial says so.
        if let Ok(duplicate) = socket.as_fd().try_clone_to_owned() {
            lock(&self.record).sockets.push(duplicate);
        }
    }

    /// Names a peer that is not the probe's endpoint, and says more about a hang-up that comes right
    /// after a handshake in which the server asked for a certificate of ours.
    fn blame(&self, mut cause: Cause) -> Cause {
        if let Some(peer) = &lock(&self.record).peer {
            cause.message = format!("`{peer}`: {}", cause.message);
        }
        let asked = lock(&self.seen)
            .as_ref()
            .is_some_and(|seen| seen.asked_for_client_certificate);
        if cause.reason != Reason::ConnectReset || !asked || cause.hint.is_some() {
            return cause;
        }
        cause.hint(
            "it asked for a client certificate before: are `clientCert` and `clientKey` right?",
        )
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        for socket in lock(&self.record).sockets.drain(..) {
            // One that is closed already is as good.
            let _ = SockRef::from(&socket).shutdown(std::net::Shutdown::Both);
        }
    }
}

/// When an attempt must have ended.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    at: Instant,
    /// As the owner set it, for messages.
    timeout: Duration,
}

impl Deadline {
    /// `timeout` from now.
    pub fn after(timeout: Duration) -> Self {
        Self {
            at: Instant::now() + timeout,
            timeout,
        }
    }

    /// The moment itself.
    pub fn at(&self) -> Instant {
        self.at
    }
}

/// Runs one attempt under a hard deadline.
///
/// Never panics and never outlasts `deadline`; when it returns, nothing of the attempt is left. The
/// outcome holds no secret of the target.
pub async fn run(probe: &Arc<dyn Probe>, deadline: Deadline, env: &Env) -> Outcome {
    let started_at = Timestamp::now();
    let start = Instant::now();
    let record = Arc::new(Mutex::new(Record {
        open: None,
        phases: Vec::new(),
        peer: None,
        server: None,
        identity: None,
        http_status: None,
        credential_expiry: None,
        verdict: None,
        failed_before: Vec::new(),
        program: None,
        secrets: Vec::new(),
        sockets: Vec::new(),
    }));
    let seen = Arc::new(Mutex::new(None));
    let mut attempt = Attempt {
        record: Arc::clone(&record),
        seen: Arc::clone(&seen),
        env: env.clone(),
        deadline: deadline.at,
        timeout: deadline.timeout,
        limit: None,
    };
    let conversation = AssertUnwindSafe(probe.run(&mut attempt)).catch_unwind();
    let res = match tokio::time::timeout_at(deadline.at, conversation).await {
        Ok(Ok(res)) => res,
        Ok(Err(_panic)) => Err(panicked(lock(&record).open.as_ref().map(|open| open.0))),
        Err(_) => {
            let record = lock(&record);
            match &record.verdict {
                // The deadline cut a farewell.
                Some((_, verdict)) => verdict.clone(),
                None => Err(deadline_passed(&record, probe.endpoint(), deadline.timeout)),
            }
        }
    };
    drop(attempt);

    let mut record = lock(&record);
    record.close_phase();
    let mut outcome = Outcome {
        started_at,
        duration: record
            .verdict
            .as_ref()
            .map_or_else(Instant::now, |(at, _)| *at)
            - start,
        phases: std::mem::take(&mut record.phases),
        tls: lock(&seen).take().map(|seen| seen.facts),
        server: record.server.take(),
        identity: record.identity.take(),
        http_status: record.http_status,
        credential_expiry: record.credential_expiry,
        failed_before: match res {
            Ok(()) => std::mem::take(&mut record.failed_before),
            Err(_) => Vec::new(),
        },
        result: res,
    };
    outcome.phases.sort_by_key(|(phase, _)| *phase);
    let on_the_way = Scrubber::new(&record.secrets);
    scrub(&mut outcome, &[&on_the_way, probe.scrubber()]);
    outcome
}

/// Takes the target's own secrets out of every text in the outcome, and makes each one short line.
fn scrub(outcome: &mut Outcome, scrubbers: &[&Scrubber]) {
    let mut clean = |text: &mut String| {
        for scrubber in scrubbers {
            scrubber.scrub_in_place(text);
        }
        *text = one_line(text);
    };
    if let Err(failure) = &mut outcome.result {
        clean(&mut failure.message);
        failure.code.iter_mut().for_each(&mut clean);
        // A hint of ours that says the same of every target holds no secret, whatever a user is called.
        if let Some(Cow::Owned(hint)) = &mut failure.hint {
            clean(hint);
        }
    }
    outcome.server.iter_mut().for_each(&mut clean);
    outcome.identity.iter_mut().for_each(&mut clean);
    outcome.failed_before.iter_mut().for_each(&mut clean);
    if let Some(tls) = &mut outcome.tls {
        tls.subject.iter_mut().for_each(&mut clean);
        tls.issuer.iter_mut().for_each(&mut clean);
    }
}

/// A text without line ends, control characters and runs of spaces, and not longer than a person will read.
fn one_line(text: &str) -> String {
    let mut res = String::with_capacity(text.len().min(MESSAGE_MAX_CHARS));
    for (count, c) in text.trim().chars().enumerate() {
        if count == MESSAGE_MAX_CHARS {
            res.push('…');
            break;
        }
        match c.is_control() || c.is_whitespace() {
            false => res.push(c),
            true if res.ends_with(' ') => {}
            true => res.push(' '),
        }
    }
    res
}

fn panicked(phase: Option<Phase>) -> Failure {
    Failure {
        reason: Reason::Internal,
        phase,
        code: None,
        message: "conncheck itself failed: the probe panicked".to_owned(),
        hint: Some("this is a bug of conncheck; its log has the place".into()),
    }
}

fn deadline_passed(record: &Record, endpoint: &str, timeout: Duration) -> Failure {
    let (phase, what) = match &record.open {
        Some((phase, _, waiting_for)) => (Some(*phase), waiting_for.as_str()),
        None => (None, "the attempt did not end"),
    };
    let endpoint = record.peer.as_deref().unwrap_or(endpoint);
    let mut message = match record.program {
        // It is no word of the peer's that is missing.
        Some(_) => format!("{what} within {timeout:?}"),
        None => format!("{what} within {timeout:?} (`{endpoint}`)"),
    };
    for earlier in &record.failed_before {
        message = format!("{message}; before that {earlier}");
    }
    let mut cause = timed_out(phase, &message);
    if record.program.is_some() {
        cause = cause.hint("does it wait for somebody to log in, or for a network that is not there? run it by hand as the user that conncheck runs as");
    }
    Failure {
        reason: cause.reason,
        phase,
        code: None,
        message: cause.message,
        hint: cause.hint,
    }
}

fn timed_out(phase: Option<Phase>, message: &str) -> Cause {
    let cause = Cause::new(Reason::Timeout, message);
    match phase {
        Some(Phase::Resolve) => {
            cause.hint("are the name servers of this machine reachable?")
        }
        Some(Phase::Connect) => cause.hint(
            "packets are dropped on the way: a firewall, a security group, a wrong address, or a host that is down",
        ),
        Some(Phase::Tls) => {
            cause.hint("something listens there and does not speak TLS, or is overloaded")
        }
        Some(Phase::Auth | Phase::Request) => {
            cause.hint("it accepts connections and does not answer: overloaded, or hung")
        }
        None => cause,
    }
}

/// What did not come, for the message of a timeout.
fn waiting_for(phase: Phase) -> &'static str {
    match phase {
        Phase::Resolve => "no name server answered",
        Phase::Connect => "nobody answered the connection request",
        Phase::Tls => "the TLS handshake did not end",
        Phase::Auth => "the peer did not answer the login",
        Phase::Request => "the peer did not answer the request",
    }
}

/// The first of several addresses that answers. Each gets a head start on the next; one that fails
/// at once hands over at once.
async fn race(addresses: &[SocketAddr]) -> Result<TcpStream, Cause> {
    let mut waiting = addresses.iter();
    let mut running = FuturesUnordered::new();
    let mut failed: Vec<(SocketAddr, io::Error)> = Vec::new();
    let connect = |address: SocketAddr| async move { (address, TcpStream::connect(address).await) };
    running.extend(waiting.next().map(|address| connect(*address)));
    loop {
        let more_to_start = !waiting.as_slice().is_empty();
        tokio::select! {
            biased;
            Some((address, res)) = running.next() => match res {
                Ok(stream) => {
                    // Probes send small messages and wait for the answer to each.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Err(error) => {
                    failed.push((address, error));
                    running.extend(waiting.next().map(|address| connect(*address)));
                }
            },
            () = tokio::time::sleep(CONNECTION_ATTEMPT_DELAY), if more_to_start => {
                running.extend(waiting.next().map(|address| connect(*address)));
            }
            else => return Err(nobody_answered(failed)),
        }
    }
}

/// The first address is the one that a client would prefer, so its error is the reason; the message
/// names them all.
fn nobody_answered(mut failed: Vec<(SocketAddr, io::Error)>) -> Cause {
    let rest = failed.split_off(failed.len().min(1));
    let Some((address, error)) = failed.pop() else {
        return Cause::new(Reason::Dns, "there is no address to connect to");
    };
    let mut cause = connect_cause(&address.to_string(), error);
    for (address, error) in rest {
        let also = connect_cause(&address.to_string(), error);
        cause.message = format!("{}; {}", cause.message, also.message);
    }
    cause
}

fn connect_cause(to: &str, error: io::Error) -> Cause {
    let cause = Cause::from(error);
    Cause {
        message: format!("`{to}`: {}", cause.message),
        ..cause
    }
}

/// A panic while the record is held loses nothing that we need.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::scrub::Scrubber;

    /// A probe that does what a test says.
    struct Scripted<F> {
        conversation: F,
        scrubber: Scrubber,
    }

    impl<F> Probe for Scripted<F>
    where
        F: for<'a> Fn(&'a mut Attempt) -> Conversation<'a> + Send + Sync,
    {
        fn endpoint(&self) -> &str {
            "test://peer:1"
        }

        fn scrubber(&self) -> &Scrubber {
            &self.scrubber
        }

        fn run<'a>(&'a self, attempt: &'a mut Attempt) -> Conversation<'a> {
            (self.conversation)(attempt)
        }
    }

    type Conversation<'a> = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>>;

    async fn outcome_of<F>(timeout: Duration, conversation: F) -> Outcome
    where
        F: for<'a> Fn(&'a mut Attempt) -> Conversation<'a> + Send + Sync + 'static,
    {
        let probe: Arc<dyn Probe> = Arc::new(Scripted {
            conversation,
            scrubber: Scrubber::new(&[conncheck_config::Secret::new("hunter2")]),
        });
        let env = Env::new(&ResolverChoice::Auto).unwrap();
        run(&probe, Deadline::after(timeout), &env).await
    }

    async fn listener() -> (TcpListener, Address) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let host = Ipv4Addr::LOCALHOST.to_string();
        (listener, Address::Tcp { host, port })
    }

    /// Waits for a word from the peer in `phase`.
    async fn wait_for_a_word(attempt: &mut Attempt, address: &Address) -> Result<(), Failure> {
        let mut stream = attempt.dial(address).await?;
        attempt
            .phase(Phase::Auth, async {
                stream.read_u8().await.map_err(Cause::from)
            })
            .await?;
        Ok(())
    }

    #[tokio::test]
    async fn a_hang_is_a_timeout_in_the_open_phase_and_the_socket_is_shut() {
        let (listener, address) = listener().await;
        let peer = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read(&mut [0; 8]).await.unwrap()
        });
        let outcome = outcome_of(Duration::from_secs(1), move |attempt| {
            let address = address.clone();
            Box::pin(async move { wait_for_a_word(attempt, &address).await })
        })
        .await;
        let failure = outcome.result.unwrap_err();
        assert_eq!(failure.reason, Reason::Timeout);
        assert_eq!(failure.phase, Some(Phase::Auth));
        assert_eq!(
            failure.message,
            "the peer did not answer the login within 1s (`test://peer:1`)"
        );
        let phases: Vec<_> = outcome.phases.iter().map(|(phase, _)| *phase).collect();
        assert_eq!(phases, [Phase::Connect, Phase::Auth]);
        assert_eq!(
            peer.await.unwrap(),
            0,
            "the peer sees the end of the connection"
        );
    }

    #[tokio::test]
    async fn a_duplicate_kept_by_a_driver_does_not_keep_the_connection() {
        let (listener, address) = listener().await;
        let peer = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read(&mut [0; 8]).await.unwrap()
        });
        outcome_of(Duration::from_secs(5), move |attempt| {
            let address = address.clone();
            Box::pin(async move {
                let stream = attempt.dial(&address).await?;
                // A driver's task that outlives the probe.
                tokio::spawn(async move {
                    let _stream = stream;
                    std::future::pending::<()>().await;
                });
                Ok(())
            })
        })
        .await
        .result
        .unwrap();
        let read = tokio::time::timeout(Duration::from_secs(5), peer).await;
        assert_eq!(read.expect("shut in time").unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_cuts_a_step_and_not_the_attempt() {
        let outcome = outcome_of(Duration::from_millis(200), |attempt| {
            Box::pin(async move {
                attempt.limit(Some(Duration::from_millis(50)));
                let silence = std::future::pending::<Result<(), Cause>>();
                let failure = attempt.phase(Phase::Auth, silence).await.unwrap_err();
                assert_eq!(failure.reason, Reason::Timeout);
                attempt.failed_before(&failure.message);
                attempt.limit(None);
                let silence = std::future::pending::<Result<(), Cause>>();
                attempt.phase(Phase::Request, silence).await
            })
        })
        .await;
        let failure = outcome.result.unwrap_err();
        assert_eq!(failure.phase, Some(Phase::Request));
        assert_eq!(
            failure.message,
            "the peer did not answer the request within 200ms (`test://peer:1`); \
             before that the peer did not answer the login within 50ms"
        );
        let [(Phase::Auth, auth), (Phase::Request, request)] = outcome.phases[..] else {
            panic!("{:?}", outcome.phases);
        };
        assert_eq!(auth, Duration::from_millis(50));
        assert_eq!(request, Duration::from_millis(150));
    }

    /// A driver's option may be any number of seconds.
    #[tokio::test]
    async fn a_limit_longer_than_time_goes_is_none() {
        let outcome = outcome_of(Duration::from_secs(5), |attempt| {
            Box::pin(async move {
                attempt.limit(Some(Duration::MAX));
                let step = async { Ok::<(), Cause>(()) };
                attempt.phase(Phase::Request, step).await
            })
        })
        .await;
        assert!(outcome.is_up(), "{outcome:?}");
    }

    #[tokio::test]
    async fn a_panic_is_an_outcome() {
        let outcome = outcome_of(Duration::from_secs(5), |attempt| {
            Box::pin(async move {
                attempt
                    .phase(Phase::Request, async {
                        match true {
                            true => panic!("on purpose"),
                            false => Ok::<(), Cause>(()),
                        }
                    })
                    .await
            })
        })
        .await;
        let failure = outcome.result.unwrap_err();
        assert_eq!(failure.reason, Reason::Internal);
        assert_eq!(failure.phase, Some(Phase::Request));
    }

    #[tokio::test(start_paused = true)]
    async fn a_goodbye_that_hangs_does_not_change_the_verdict() {
        let outcome = outcome_of(Duration::from_millis(200), |attempt| {
            Box::pin(async move {
                attempt.goodbye(std::future::pending::<()>()).await;
                Ok(())
            })
        })
        .await;
        assert!(outcome.is_up());
        assert!(outcome.duration < Duration::from_millis(200));
    }

    #[tokio::test]
    async fn texts_are_scrubbed_and_are_one_line() {
        let outcome = outcome_of(Duration::from_secs(5), |attempt| {
            Box::pin(async move {
                attempt.server("Server\r\n  hunter2");
                Err(Cause::protocol("no\nuse for hunter2\u{1b}[31m")
                    .code("hunter2")
                    .hint("not hunter2".to_owned())
                    .in_phase(Phase::Request))
            })
        })
        .await;
        let failure = outcome.result.unwrap_err();
        assert_eq!(failure.message, "no use for [redacted] [31m");
        assert_eq!(failure.code.as_deref(), Some("[redacted]"));
        assert_eq!(failure.hint.as_deref(), Some("not [redacted]"));
        assert_eq!(outcome.server.as_deref(), Some("Server [redacted]"));
    }

    #[tokio::test(start_paused = true)]
    async fn steps_of_one_phase_add_up_and_phases_stand_in_order() {
        let outcome = outcome_of(Duration::from_secs(5), |attempt| {
            Box::pin(async move {
                for phase in [Phase::Request, Phase::Auth, Phase::Request] {
                    attempt
                        .phase(phase, async {
                            tokio::time::sleep(Duration::from_millis(20)).await;
                            Ok::<(), Cause>(())
                        })
                        .await?;
                }
                Ok(())
            })
        })
        .await;
        let [(Phase::Auth, auth), (Phase::Request, request)] = outcome.phases[..] else {
            panic!("{:?}", outcome.phases);
        };
        assert_eq!(auth, Duration::from_millis(20));
        assert_eq!(request, Duration::from_millis(40));
        assert_eq!(outcome.duration, auth + request);
    }

    #[tokio::test]
    async fn a_refused_port_is_refused_at_once() {
        let (listener, address) = listener().await;
        drop(listener);
        let outcome = outcome_of(Duration::from_secs(5), move |attempt| {
            let address = address.clone();
            Box::pin(async move { wait_for_a_word(attempt, &address).await })
        })
        .await;
        let failure = outcome.result.unwrap_err();
        assert_eq!(failure.reason, Reason::ConnectRefused);
        assert_eq!(failure.phase, Some(Phase::Connect));
    }

    #[tokio::test]
    async fn the_second_address_is_tried_when_the_first_refuses() {
        let (listener, address) = listener().await;
        let Address::Tcp { port, .. } = address else {
            unreachable!()
        };
        // Nobody listens on 127.0.0.2.
        let addresses = [
            SocketAddr::from(([127, 0, 0, 2], port)),
            SocketAddr::from(([127, 0, 0, 1], port)),
        ];
        let stream = race(&addresses).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), addresses[1]);
        drop(listener);
        let cause = race(&addresses).await.unwrap_err();
        assert_eq!(cause.reason, Reason::ConnectRefused);
        assert_eq!(
            cause.message,
            format!(
                "`127.0.0.2:{port}`: connection refused; `127.0.0.1:{port}`: connection refused"
            )
        );
    }

    #[tokio::test]
    async fn a_peer_that_never_stops_sending_is_cut_off() {
        let (listener, address) = listener().await;
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let chunk = vec![b'x'; 64 * 1024];
            while stream.write_all(&chunk).await.is_ok() {}
        });
        let outcome = outcome_of(Duration::from_secs(20), move |attempt| {
            let address = address.clone();
            Box::pin(async move {
                let mut stream = attempt.dial(&address).await?;
                attempt
                    .phase(Phase::Request, async {
                        tokio::io::copy(&mut stream, &mut tokio::io::sink())
                            .await
                            .map_err(Cause::from)
                    })
                    .await?;
                Ok(())
            })
        })
        .await;
        assert_eq!(outcome.result.unwrap_err().reason, Reason::Protocol);
    }
}
