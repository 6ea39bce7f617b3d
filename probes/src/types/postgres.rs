//! `postgres`: log in as libpq would, then a query answers.
//!
//! Proves that a server of the wanted kind lets us in, to the database that is named, and answers a
//! query. Says nothing about its data beyond what that query asks.
//!
//! The URL is libpq's, with every option that libpq has: honoured, or refused by name. Two things
//! differ. A `caCert` of the connection is always verified against, so `sslmode` `allow` and
//! `prefer` then mean that TLS there must be (`disable` still means none). And where several hosts
//! are given without `connect_timeout`, each gets its share of the attempt's time, so that one that
//! hangs does not hide the others.
//!
//! `tokio-postgres` speaks the protocol from the start-up message on. TLS is ours, so that the chain
//! is recorded and the six modes of libpq are what they are there. The driver believes whatever it
//! reads, and waits for the two gigabytes that the `HTTP` of a web server announces; so its stream is
//! looked through on the way ([`Line`]).

mod dsn;

use std::fmt;
use std::future::{Ready, ready};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use conncheck_config::{Field, Secret};
use futures_util::{FutureExt, StreamExt};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_postgres::config::{ChannelBinding, SslMode, SslNegotiation};
use tokio_postgres::error::Severity;
use tokio_postgres::tls::{ChannelBinding as BindingOf, TlsConnect, TlsStream};
use tokio_postgres::{Client, Config, Connection, SimpleQueryMessage};

use self::dsn::{Dsn, Host, Method, RequireAuth, RootCert, Ssl, TargetSessionAttrs};
use crate::address::Mistake;
use crate::attempt::{Address, Attempt, Stream};
use crate::cause::{Cause, find};
use crate::outcome::{Failure, Phase, Reason};
use crate::probe::{Access, Invalid, ProbeType};
use crate::several::{named, together};
use crate::tls::{Tls, TlsPart, Verify};

/// `spec.properties` of a Postgres connection.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Settings {
    /// The query that must not fail, in place of `SELECT 1`. What it answers does not matter.
    query: Option<String>,
    /// Accept any certificate, whatever `sslmode` says.
    insecure_skip_verify: Option<bool>,
    /// The name that the certificate must be for, in place of the URL's host.
    server_name: Option<String>,
}

/// How much of an attempt's time is kept at most, to take back a query that does not end.
const CANCEL_MAX: Duration = Duration::from_millis(500);

pub(crate) struct Postgres {
    hosts: Vec<Host>,
    load_balance: bool,
    target_session_attrs: TargetSessionAttrs,
    connect_timeout: Option<Duration>,
    encryption: Encryption,
    /// Whether TLS starts without asking (`sslnegotiation=direct`).
    direct_tls: bool,
    login: Config,
    terms: Terms,
    query: String,
}

/// `sslmode`, and what it needs.
enum Encryption {
    /// `disable`
    Never,
    /// `allow`
    IfRefusedWithout(Tls),
    /// `prefer`
    IfOffered(Tls),
    /// `require` and above
    Always(Tls),
}

/// What we go along with when the server asks who we are.
#[derive(Clone)]
struct Terms {
    has_password: bool,
    require_auth: RequireAuth,
}

impl ProbeType for Postgres {
    type Settings = Settings;

    const FURTHER_REASONS: &'static [Reason] =
        &[Reason::Permission, Reason::NotFound, Reason::Assertion];

    fn new(access: Access<'_>, settings: Settings) -> Result<Self, Invalid> {
        let dsn =
            Dsn::read(access.url()?.expose()).map_err(|Mistake { message, hint }| Invalid {
                hint,
                ..access.invalid(Field::Url, format!("bad `url`: {message}"))
            })?;
        for host in &dsn.hosts {
            access.may_reach(&host.address)?;
        }
        let user = access.username(dsn.user.as_deref()).ok_or_else(|| {
            access
                .invalid(Field::Username, "there is no user to log in as")
                .hint("write `postgres://user@host/database`, or give `username`")
        })?;
        let password = access
            .password(dsn.password.as_ref().map(Secret::expose))
            .filter(|password| !password.is_empty());
        if user.expose().contains('\0') {
            return Err(access.invalid(Field::Username, "there is a NUL character in the user"));
        }
        let mut login = Config::new();
        login
            .user(user.expose())
            .dbname(dsn.dbname.as_deref().unwrap_or(user.expose()))
            .application_name(
                (dsn.application_name.as_deref())
                    .or(dsn.fallback_application_name.as_deref())
                    .unwrap_or("conncheck"),
            )
            .channel_binding(dsn.channel_binding)
            // The driver is handed a stream on which TLS is done with.
            .ssl_mode(SslMode::Require)
            .ssl_negotiation(SslNegotiation::Direct);
        if let Some(password) = &password {
            login.password(password.expose());
        }
        if let Some(options) = &dsn.options {
            login.options(options.as_str());
        }
        if dsn.channel_binding == ChannelBinding::Require && dsn.ssl.mode == dsn::SslMode::Disable {
            return Err(access
                .invalid(Field::Url, "bad `url`: `channel_binding=require` needs TLS")
                .hint("leave `sslmode=disable` out"));
        }
        Ok(Self {
            encryption: encryption(&access, &settings, &dsn.ssl)?,
            direct_tls: dsn.ssl.direct,
            hosts: dsn.hosts,
            load_balance: dsn.load_balance,
            target_session_attrs: dsn.target_session_attrs,
            connect_timeout: dsn.connect_timeout,
            login,
            terms: Terms {
                has_password: password.is_some(),
                require_auth: dsn.require_auth,
            },
            query: settings.query.unwrap_or_else(|| "SELECT 1".to_owned()),
        })
    }

    fn endpoint(&self) -> String {
        let hosts: Vec<_> = self
            .hosts
            .iter()
            .map(|host| host.address.to_string())
            .collect();
        format!("postgres://{}", hosts.join(","))
    }

    async fn probe(&self, attempt: &mut Attempt) -> Result<(), Failure> {
        let mut session = self.find_session(attempt).await?;
        attempt.keep_back((attempt.time_left() / 10).min(CANCEL_MAX));
        let answer = attempt
            .phase(Phase::Request, async {
                session.ask(&self.query).await.map_err(Cause::of_query)
            })
            .await;
        attempt.limit(None);
        match answer {
            Ok(_) => attempt.goodbye(session.terminate()).await,
            // The server has not noticed: it would go on, and the next attempts' queries beside it.
            Err(failure) if failure.reason == Reason::Timeout && failure.code.is_none() => {
                attempt.settle(Err(failure.clone()));
                // It may hang altogether; nothing more can be done then.
                let _ = self.cancel(attempt, session).await;
                return Err(failure);
            }
            Err(failure) => return Err(failure),
        }
        Ok(())
    }
}

/// What `sslmode` and everything around it come to.
fn encryption(access: &Access<'_>, settings: &Settings, ssl: &Ssl) -> Result<Encryption, Invalid> {
    use dsn::SslMode;
    if ssl.mode == SslMode::Disable {
        return Ok(Encryption::Never);
    }
    let mut options =
        access.tls_options(settings.insecure_skip_verify, settings.server_name.clone());
    let file = |path: &Option<String>| {
        path.as_ref()
            .map(|path| access.file(Field::Url, path))
            .transpose()
    };
    let has_ca_cert = options.ca_cert.is_some();
    if let (None, RootCert::File(path)) = (&options.ca_cert, &ssl.root_cert) {
        options.ca_cert = Some(access.file(Field::Url, path)?);
    }
    if options.client_cert.is_none() {
        options.client_cert = file(&ssl.cert)?;
    }
    if options.client_key.is_none() {
        options.client_key = file(&ssl.key)?;
    }
    options.without_sni = !ssl.sni;
    options.min_version = ssl.min_version;
    options.max_version = ssl.max_version;
    if ssl.direct {
        options.alpn = vec![ALPN.to_vec()];
    }
    // With an authority to verify against, libpq verifies in every mode; the name it leaves to
    // `verify-full`.
    options.verify = match (options.verify, ssl.mode) {
        (Verify::Nothing, _) => Verify::Nothing,
        (_, SslMode::VerifyFull) => Verify::Full,
        (_, SslMode::VerifyCa) => Verify::CaOnly,
        _ if options.ca_cert.is_some() => Verify::CaOnly,
        _ => Verify::Nothing,
    };
    let tls = access.tls_with_files(&options, |part| match part {
        TlsPart::CaCert => Some("sslrootcert"),
        TlsPart::ClientCert => Some("sslcert"),
        TlsPart::ClientKey => Some("sslkey"),
        TlsPart::ServerName | TlsPart::System => None,
    })?;
    let must_verify = has_ca_cert && options.verify != Verify::Nothing;
    Ok(match ssl.mode {
        SslMode::Allow if !must_verify => Encryption::IfRefusedWithout(tls),
        SslMode::Prefer if !must_verify => Encryption::IfOffered(tls),
        _ => Encryption::Always(tls),
    })
}

/// What is spoken inside TLS that starts without asking.
const ALPN: &[u8] = b"postgresql";

const DIRECT_TLS_HINT: &str =
    "`sslnegotiation=direct` needs PostgreSQL 17, and nothing that ends TLS before it";

/// What a server answers to the request for TLS.
enum Answer {
    Encrypted(Line),
    Plain(Line),
    /// It has TLS, and the handshake has failed.
    Broken(Failure),
}

impl Postgres {
    /// Logs in at the first host that is of the wanted kind. As in libpq, the next one is tried
    /// where a host cannot be reached, is slow, starts up or is of another kind; a host that says no
    /// ends it.
    async fn find_session(&self, attempt: &mut Attempt) -> Result<Session, Failure> {
        if self.target_session_attrs == TargetSessionAttrs::PreferStandby {
            match self.find(attempt, TargetSessionAttrs::Standby).await {
                Err(failure) if failure.reason == Reason::Assertion => {}
                res => return res,
            }
            return self.find(attempt, TargetSessionAttrs::Any).await;
        }
        self.find(attempt, self.target_session_attrs).await
    }

    async fn find(
        &self,
        attempt: &mut Attempt,
        wanted: TargetSessionAttrs,
    ) -> Result<Session, Failure> {
        let mut failures = Vec::new();
        for (index, host) in self.in_order().into_iter().enumerate() {
            let left = (self.hosts.len() - index) as u32;
            attempt.limit(
                self.connect_timeout
                    .or_else(|| (left > 1).then(|| attempt.time_left() / left)),
            );
            let res = self.session_at(attempt, host, wanted).await;
            attempt.limit(None);
            match res {
                Ok(session) => return Ok(session),
                Err(failure) if self.hosts.len() == 1 => return Err(failure),
                Err(failure) => {
                    let failure = named(&written(host), failure);
                    attempt.failed_before(&failure.message);
                    let ends_it = !goes_on(&failure);
                    failures.push((rank(&failure), failure));
                    if ends_it {
                        break;
                    }
                }
            }
        }
        Err(together(failures))
    }

    fn in_order(&self) -> Vec<&Host> {
        let mut hosts: Vec<_> = self.hosts.iter().collect();
        if self.load_balance {
            let random = RandomState::new();
            hosts.sort_by_cached_key(|host| random.hash_one(host.address.to_string()));
        }
        hosts
    }

    async fn session_at(
        &self,
        attempt: &mut Attempt,
        host: &Host,
        wanted: TargetSessionAttrs,
    ) -> Result<Session, Failure> {
        let mut session = self.log_in_at(attempt, host).await?;
        if let Some(server) = session.server() {
            attempt.server(server);
        }
        if wanted == TargetSessionAttrs::Any {
            return Ok(session);
        }
        let is_wanted = session.is(wanted);
        attempt.phase(Phase::Request, is_wanted).await?;
        Ok(session)
    }

    /// Logs in at one host, with TLS or without as `sslmode` says.
    async fn log_in_at(&self, attempt: &mut Attempt, host: &Host) -> Result<Session, Failure> {
        let tls = match (&self.encryption, &host.address) {
            // libpq does not speak TLS over a unix socket, whatever the mode.
            (_, Address::Unix(_)) | (Encryption::Never, _) => {
                return self.log_in_plainly(attempt, host).await;
            }
            (Encryption::IfRefusedWithout(tls), _) => {
                match self.log_in_plainly(attempt, host).await {
                    Err(refused) if is_refusal(&refused) => {
                        let second = self.log_in_encrypted(attempt, host, tls).await;
                        return second.map_err(|second| more_telling(refused, second));
                    }
                    res => return res,
                }
            }
            (Encryption::Always(tls), _) => return self.log_in_encrypted(attempt, host, tls).await,
            (Encryption::IfOffered(tls), _) => tls,
        };
        let first = match self.ask_for_tls(attempt, host, tls).await {
            Ok(Answer::Plain(line)) => return self.log_in(attempt, line, host, None).await,
            Ok(Answer::Encrypted(line)) => {
                match self.log_in(attempt, line, host, Some(tls)).await {
                    Err(failure) if is_refusal(&failure) => failure,
                    res => return res,
                }
            }
            Ok(Answer::Broken(failure)) if failure.reason != Reason::Timeout => failure,
            Ok(Answer::Broken(failure)) | Err(failure) => return Err(failure),
        };
        let second = self.log_in_plainly(attempt, host).await;
        second.map_err(|second| more_telling(first, second))
    }

    async fn log_in_plainly(&self, attempt: &mut Attempt, host: &Host) -> Result<Session, Failure> {
        let stream = attempt.dial(&host.address).await?;
        let line = Line::new(stream, None, &self.terms);
        self.log_in(attempt, line, host, None).await
    }

    async fn log_in_encrypted(
        &self,
        attempt: &mut Attempt,
        host: &Host,
        tls: &Tls,
    ) -> Result<Session, Failure> {
        match self.ask_for_tls(attempt, host, tls).await? {
            Answer::Encrypted(line) => self.log_in(attempt, line, host, Some(tls)).await,
            Answer::Broken(failure) => Err(failure),
            Answer::Plain(_) => Err(
                Cause::new(Reason::TlsOther, "the server does not offer TLS")
                    .hint("turn `ssl` on at the server, or use `sslmode=disable` (and no `caCert`)")
                    .in_phase(Phase::Tls),
            ),
        }
    }

    /// Connects, asks for TLS, and shakes hands if the server has it.
    async fn ask_for_tls(
        &self,
        attempt: &mut Attempt,
        host: &Host,
        tls: &Tls,
    ) -> Result<Answer, Failure> {
        let mut stream = attempt.dial(&host.address).await?;
        if !self.direct_tls {
            let what = "the server did not answer the request for TLS";
            let offered = attempt
                .phase_of(Phase::Tls, what, ssl_request(&mut stream))
                .await?;
            if !offered {
                return Ok(Answer::Plain(Line::new(stream, None, &self.terms)));
            }
        }
        let (stream, handshake) = match attempt.tls(stream, tls, &host.name).await {
            Ok(encrypted) => encrypted,
            // A server before 17 takes the handshake for a message of its own, and hangs up.
            Err(failure) if self.direct_tls && failure.reason == Reason::ConnectReset => {
                return Ok(Answer::Broken(Failure {
                    hint: Some(DIRECT_TLS_HINT.into()),
                    ..failure
                }));
            }
            Err(failure) => return Ok(Answer::Broken(failure)),
        };
        if self.direct_tls && handshake.alpn.as_deref() != Some(ALPN) {
            return Err(Cause::protocol(
                "the server does not say that it speaks Postgres inside TLS",
            )
            .hint(DIRECT_TLS_HINT)
            .in_phase(Phase::Tls));
        }
        let binding = handshake.server_end_point();
        Ok(Answer::Encrypted(Line::new(stream, binding, &self.terms)))
    }

    async fn log_in(
        &self,
        attempt: &mut Attempt,
        line: Line,
        host: &Host,
        tls: Option<&Tls>,
    ) -> Result<Session, Failure> {
        let (client, connection) = attempt
            .phase(Phase::Auth, self.login.connect_raw(line, PassOn))
            .await?;
        Ok(Session {
            client,
            connection,
            host: host.clone(),
            tls: tls.cloned(),
        })
    }

    /// Asks the server to give up the query that a session is waiting for: over a connection of its
    /// own, encrypted if that of the session is.
    async fn cancel(&self, attempt: &mut Attempt, session: Session) -> Result<(), Failure> {
        let line = match &session.tls {
            None => {
                let stream = attempt.dial(&session.host.address).await?;
                Line::new(stream, None, &self.terms)
            }
            Some(tls) => match self.ask_for_tls(attempt, &session.host, tls).await? {
                Answer::Encrypted(line) => line,
                Answer::Plain(_) => return Ok(()),
                Answer::Broken(failure) => return Err(failure),
            },
        };
        let token = session.client.cancel_token();
        attempt
            .phase(Phase::Request, token.cancel_query_raw(line, PassOn))
            .await
    }
}

/// Whether libpq would try the next host.
fn goes_on(failure: &Failure) -> bool {
    matches!(failure.phase, Some(Phase::Resolve | Phase::Connect))
        || matches!(failure.reason, Reason::Timeout | Reason::Assertion)
        || failure.code.as_deref() == Some("57P03")
}

/// Whether the server said no to who we are: there may be another rule with TLS, or without it.
fn is_refusal(failure: &Failure) -> bool {
    (failure.code.as_deref()).is_some_and(|code| code.starts_with("28"))
}

/// Which of two failures at the same host says more. `no pg_hba.conf entry` only says that one of
/// the two ways is closed.
fn more_telling(first: Failure, second: Failure) -> Failure {
    match second.code.as_deref() {
        None | Some("28000") => first,
        code if code == first.code.as_deref() => first,
        _ => second,
    }
}

/// As the owner wrote it: not the address that `hostaddr` gives.
fn written(host: &Host) -> Address {
    match &host.address {
        Address::Tcp { port, .. } => Address::Tcp {
            host: host.name.clone(),
            port: *port,
        },
        unix => unix.clone(),
    }
}

/// What ended the search says most, then a host of the wrong kind.
fn rank(failure: &Failure) -> u8 {
    match failure.reason {
        _ if !goes_on(failure) => 0,
        Reason::Assertion => 1,
        _ => 2,
    }
}

/// The message that asks for TLS: its length, and a version number that is none.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Asks whether the server has TLS.
async fn ssl_request(stream: &mut Stream) -> Result<bool, Cause> {
    stream.write_all(&SSL_REQUEST).await?;
    stream.flush().await?;
    let mut answer = vec![0; 1024];
    let length = stream.read(&mut answer).await?;
    answer.truncate(length);
    match answer[..] {
        [] => Err(hung_up()),
        [b'S'] => Ok(true),
        [b'N'] => Ok(false),
        // Whoever sends more than the letter could smuggle it into the encrypted conversation
        // (CVE-2021-23222).
        [b'S' | b'N', ..] => Err(Cause::protocol(
            "the answer to the request for TLS is longer than the one letter of Postgres",
        )
        .hint("is it a Postgres server? if so, something on the way adds to what it says")),
        [b'E', ..] => Err(error_before_start(stream, answer).await),
        _ => Err(not_postgres()),
    }
}

/// What a server says that fails before a session has started: an error of the protocol, or one line
/// of text from a server that cannot even start a process.
async fn error_before_start(stream: &mut Stream, mut received: Vec<u8>) -> Cause {
    let is_whole = |received: &[u8]| match received {
        [_, a, b, c, d, rest @ ..] => match u32::from_be_bytes([*a, *b, *c, *d]) {
            length @ 8..=SHORT_MESSAGE_MAX_BYTES => rest.len() + 4 >= length as usize,
            _ => received.contains(&0) || received.len() > SHORT_MESSAGE_MAX_BYTES as usize,
        },
        _ => false,
    };
    while !is_whole(&received) {
        match stream.read_buf(&mut received).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    match received.get(1) {
        Some(0) => {
            let field = |wanted: u8| {
                received
                    .get(5..)
                    .unwrap_or_default()
                    .split(|byte| *byte == 0)
                    .find_map(|field| field.strip_prefix(&[wanted]))
                    .map(|text| String::from_utf8_lossy(text).into_owned())
            };
            match (field(b'C'), field(b'M')) {
                (Some(code), Some(message)) => server_error(&code, true, &message),
                _ => not_postgres(),
            }
        }
        _ => cannot_start(),
    }
}

/// A session that is logged in. The driver's connection is polled beside what is asked of it, and
/// by nobody else.
struct Session {
    client: Client,
    connection: Connection<Line, Line>,
    host: Host,
    /// How it is encrypted, if it is.
    tls: Option<Tls>,
}

impl Session {
    /// `PostgreSQL 15.18`: the version without the packager's words.
    fn server(&self) -> Option<String> {
        let version = self.connection.parameter("server_version")?;
        let number = version.split_whitespace().next()?;
        Some(format!("PostgreSQL {number}"))
    }

    /// Whether this server is of the wanted kind. Since version 14 it says so unasked.
    async fn is(&mut self, wanted: TargetSessionAttrs) -> Result<(), Cause> {
        let (fits, found) = match wanted {
            TargetSessionAttrs::Any | TargetSessionAttrs::PreferStandby => return Ok(()),
            TargetSessionAttrs::ReadWrite => (!self.is_read_only().await?, "read-only"),
            TargetSessionAttrs::ReadOnly => (self.is_read_only().await?, "not read-only"),
            TargetSessionAttrs::Primary => (!self.is_standby().await?, "a standby"),
            TargetSessionAttrs::Standby => (self.is_standby().await?, "not a standby"),
        };
        match fits {
            true => Ok(()),
            false => Err(Cause::new(
                Reason::Assertion,
                format!(
                    "the server is {found}, and `target_session_attrs` wants `{}`",
                    wanted.as_str()
                ),
            )),
        }
    }

    async fn is_read_only(&mut self) -> Result<bool, Cause> {
        let by_default = self.is_on("default_transaction_read_only");
        match by_default.zip(self.is_on("in_hot_standby")) {
            Some((by_default, standby)) => Ok(by_default || standby),
            None => {
                let answer = self.ask("SHOW transaction_read_only").await?;
                Ok(answer.as_deref() == Some("on"))
            }
        }
    }

    async fn is_standby(&mut self) -> Result<bool, Cause> {
        match self.is_on("in_hot_standby") {
            Some(standby) => Ok(standby),
            None => {
                let answer = self.ask("SELECT pg_catalog.pg_is_in_recovery()").await?;
                Ok(answer.as_deref() == Some("t"))
            }
        }
    }

    /// A setting that the server has told of.
    fn is_on(&self, setting: &str) -> Option<bool> {
        let value = self.connection.parameter(setting)?;
        Some(value == "on")
    }

    /// Runs a query to its end. Gives the first value of the first row.
    async fn ask(&mut self, query: &str) -> Result<Option<String>, Cause> {
        let client = &self.client;
        let mut conversation = pin!(async {
            let mut first = None;
            let mut answers = pin!(client.simple_query_raw(query).await?);
            while let Some(answer) = answers.next().await {
                if let (SimpleQueryMessage::Row(row), None) = (answer?, &first) {
                    first = row.try_get(0)?.map(str::to_owned);
                }
            }
            Ok(first)
        });
        let ended: Result<(), tokio_postgres::Error> = tokio::select! {
            biased;
            res = &mut conversation => return res.map_err(|error: tokio_postgres::Error| error.into()),
            ended = &mut self.connection => ended,
        };
        // What the server said before it hung up says more than that it did.
        match (conversation.now_or_never(), ended) {
            (Some(Ok(first)), _) => Ok(first),
            (Some(Err(error)), _) if error.as_db_error().is_some() => Err(error.into()),
            (_, Err(error)) => Err(error.into()),
            (_, Ok(())) => Err(hung_up()),
        }
    }

    /// `Terminate`, and the end of TLS.
    async fn terminate(self) {
        drop(self.client);
        // The driver says `Terminate` when nobody can ask any more. Whether it was heard is not our
        // business.
        let _ = self.connection.await;
    }
}

/// The driver's stream. The head of each message that comes is looked at before the driver sees it:
/// a peer that is no Postgres server is told by it, and so is a login that we do not go along with.
struct Line {
    stream: Stream,
    binding: Option<Vec<u8>>,
    watch: Watch,
    is_terminated: bool,
}

/// The message that ends a session in order.
const TERMINATE: &[u8] = b"X\0\0\0\x04";

impl Line {
    fn new(stream: Stream, binding: Option<Vec<u8>>, terms: &Terms) -> Self {
        Self {
            stream,
            binding,
            watch: Watch {
                terms: terms.clone(),
                head: Vec::new(),
                body_bytes: 0,
                was_asked: false,
                is_logged_in: false,
            },
            is_terminated: false,
        }
    }
}

impl Drop for Line {
    /// A session that is cut short hears `Terminate` too, so that the server has nothing to complain
    /// of. One try, nothing is waited for.
    fn drop(&mut self) {
        if self.watch.is_logged_in && !self.is_terminated {
            let _ = self.stream.write_all(TERMINATE).now_or_never();
        }
    }
}

/// What was seen of the server's messages so far.
struct Watch {
    terms: Terms,
    /// The beginning of the message that comes next.
    head: Vec<u8>,
    /// How much of the message before it is still to come.
    body_bytes: usize,
    /// Whether the server wanted more of us than a name.
    was_asked: bool,
    is_logged_in: bool,
}

/// Messages of most kinds are no longer than this, says libpq.
const SHORT_MESSAGE_MAX_BYTES: u32 = 30_000;

impl Watch {
    fn look(&mut self, mut received: &[u8]) -> Result<(), Cause> {
        while let [first, rest @ ..] = received {
            if self.body_bytes > 0 {
                let passed = self.body_bytes.min(received.len());
                self.body_bytes -= passed;
                received = &received[passed..];
                continue;
            }
            self.head.push(*first);
            received = rest;
            self.judge_head()?;
        }
        Ok(())
    }

    fn judge_head(&mut self) -> Result<(), Cause> {
        let may_come: &[u8] = match self.is_logged_in {
            false => b"REN",
            true => b"RENSKZTDCIAGHdcn",
        };
        let (tag, length) = match self.head[..] {
            [tag, ..] if !may_come.contains(&tag) => return Err(not_postgres()),
            [tag, a, b, c, d, ..] => (tag, u32::from_be_bytes([a, b, c, d])),
            _ => return Ok(()),
        };
        let is_possible = match tag {
            b'E' if !self.is_logged_in && length > SHORT_MESSAGE_MAX_BYTES => {
                return Err(cannot_start());
            }
            b'R' => (8..=SHORT_MESSAGE_MAX_BYTES).contains(&length),
            b'T' | b'D' | b'd' | b'E' | b'N' | b'A' => length >= 4,
            _ => (4..=SHORT_MESSAGE_MAX_BYTES).contains(&length),
        };
        if !is_possible {
            return Err(not_postgres());
        }
        match self.head[..] {
            [b'R', _, _, _, _, a, b, c, d] => {
                self.judge_request(u32::from_be_bytes([a, b, c, d]))?;
            }
            [b'R', ..] => return Ok(()),
            _ => {}
        }
        self.body_bytes = length as usize + 1 - self.head.len();
        self.head.clear();
        Ok(())
    }

    /// Whether we go along with what the server asks of us.
    fn judge_request(&mut self, request: u32) -> Result<(), Cause> {
        let method = match request {
            0 if self.was_asked => {
                self.is_logged_in = true;
                return Ok(());
            }
            0 => {
                self.is_logged_in = true;
                Method::None
            }
            3 => Method::Password,
            5 => Method::Md5,
            10 => Method::ScramSha256,
            // More of the same.
            11 | 12 => return Ok(()),
            _ => {
                let name = match request {
                    2 => "Kerberos 5",
                    7 | 8 => "GSSAPI",
                    9 => "SSPI",
                    _ => "an unknown method",
                };
                return Err(
                    Cause::new(Reason::Auth, format!("the server asks for a login by {name}"))
                        .hint("give conncheck a user with a password or a certificate, by a line of its own in `pg_hba.conf`"),
                );
            }
        };
        self.was_asked = true;
        if !self.terms.require_auth.allows(method) {
            return Err(Cause::new(
                Reason::Auth,
                format!(
                    "the server asks for the login method `{}`, which `require_auth` rules out",
                    method.as_str()
                ),
            ));
        }
        match method != Method::None && !self.terms.has_password {
            true => Err(Cause::new(
                Reason::Auth,
                "the server asks for a password, and none is given",
            )
            .hint("give `password` or a `secretRef`")),
            false => Ok(()),
        }
    }

    fn is_within_message(&self) -> bool {
        self.body_bytes > 0 || !self.head.is_empty()
    }
}

impl AsyncRead for Line {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let line = self.get_mut();
        let before = buf.filled().len();
        std::task::ready!(Pin::new(&mut line.stream).poll_read(cx, buf))?;
        let received = &buf.filled()[before..];
        if received.is_empty() && line.watch.is_within_message() {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        Poll::Ready(
            line.watch
                .look(received)
                .map_err(|cause| io::Error::other(Seen(cause))),
        )
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.is_terminated |= buf.ends_with(TERMINATE);
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl TlsStream for Line {
    fn channel_binding(&self) -> BindingOf {
        match &self.binding {
            Some(hash) => BindingOf::tls_server_end_point(hash.clone()),
            None => BindingOf::none(),
        }
    }
}

/// Hands the driver a stream on which TLS is done with, or is not wanted.
struct PassOn;

impl TlsConnect<Line> for PassOn {
    type Stream = Line;
    type Error = io::Error;
    type Future = Ready<io::Result<Line>>;

    fn connect(self, line: Line) -> Self::Future {
        ready(Ok(line))
    }
}

/// What a [`Line`] saw, on its way through the driver.
#[derive(Debug)]
struct Seen(Cause);

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Seen {}

fn not_postgres() -> Cause {
    Cause::protocol("the answer is not in Postgres' protocol")
        .hint("is it the port of a Postgres server? one that begins with TLS wants `sslnegotiation=direct`")
}

fn cannot_start() -> Cause {
    Cause::new(Reason::Unavailable, "the server cannot start a session")
        .hint("it is out of processes or memory: its log says more")
}

fn hung_up() -> Cause {
    Cause::new(Reason::ConnectReset, "the server hung up without an answer")
}

impl From<tokio_postgres::Error> for Cause {
    /// What the server says goes by its SQLSTATE.
    fn from(error: tokio_postgres::Error) -> Self {
        if let Some(error) = error.as_db_error() {
            let message = match error.detail() {
                Some(detail) => format!("{} ({detail})", error.message()),
                None => error.message().to_owned(),
            };
            let is_fatal = matches!(
                error.parsed_severity(),
                Some(Severity::Fatal | Severity::Panic)
            );
            let cause = server_error(error.code().code(), is_fatal, &message);
            return match (&cause.hint, error.hint()) {
                (None, Some(hint)) => cause.hint(hint.to_owned()),
                _ => cause,
            };
        }
        if let Some(Seen(cause)) = find::<Seen>(&error) {
            return cause.clone();
        }
        if error.is_closed() {
            return hung_up();
        }
        // The driver keeps its kinds to itself, but for their names.
        let source = std::error::Error::source(&error).map(ToString::to_string);
        let source = source.unwrap_or_default();
        match error.to_string().as_str() {
            "authentication error" => login_error(&source),
            "unexpected message from server" => {
                Self::protocol("the server answered with a message that does not belong there")
                    .hint("if `query` is a `COPY`, use another")
            }
            "error encoding message to server" => Self::new(
                Reason::Internal,
                format!("the message cannot be sent: {source}"),
            ),
            _ => Self::from_chain(&error).unwrap_or_else(|| {
                Self::protocol(format!("the answer cannot be read: {error}: {source}"))
            }),
        }
    }
}

/// Why the driver broke a login off.
fn login_error(why: &str) -> Cause {
    match why {
        "server did not use channel binding" => Cause::new(
            Reason::Auth,
            "the login was not bound to the TLS channel, as `channel_binding=require` demands",
        )
        .hint("that takes TLS up to the server itself, and a password kept as `scram-sha-256`"),
        "SCRAM verification error" => Cause::new(
            Reason::Auth,
            "the server let us in without proof that it knows the password",
        )
        .hint("it may not be the server that it says it is"),
        why => Cause::new(Reason::Auth, format!("the login broke off: {why}")),
    }
}

/// What a server's error means. `is_fatal`: it ended the session, so it is about the login or the
/// session, and not about a query.
fn server_error(code: &str, is_fatal: bool, message: &str) -> Cause {
    let (reason, hint) = classify(code, is_fatal, message);
    let cause = Cause::new(reason, message).code(code);
    match hint {
        "" => cause,
        hint => cause.hint(hint),
    }
}

/// The table of SQLSTATEs. Texts are looked at where a code says too little, which helps only with
/// servers that speak English.
fn classify(code: &str, is_fatal: bool, message: &str) -> (Reason, &'static str) {
    let says = |text: &str| message.contains(text);
    match code {
        "28P01" => (
            Reason::Auth,
            "wrong password; or there is no such user, which the server does not tell apart, or the password has expired (`VALID UNTIL`)",
        ),
        "28000" if says("no pg_hba.conf entry") && says("no encryption") => (
            Reason::Auth,
            "`pg_hba.conf` has no line for this user, database, address and a connection without TLS: does it want `sslmode=require`?",
        ),
        "28000" if says("no pg_hba.conf entry") => (
            Reason::Auth,
            "`pg_hba.conf` has no line for this user, database and address (and TLS or not)",
        ),
        "28000" if says("pg_hba.conf rejects") && says("no encryption") => (
            Reason::Auth,
            "a `reject` line of `pg_hba.conf` turns this user, database and address away without TLS: does it want `sslmode=require`?",
        ),
        "28000" if says("pg_hba.conf rejects") => (
            Reason::Auth,
            "a `reject` line of `pg_hba.conf` turns this user, database and address away",
        ),
        "28000" if says("valid client certificate") => (
            Reason::Auth,
            "the server wants a client certificate: give `clientCert` and `clientKey`",
        ),
        "28000" if says("certificate authentication failed") => (
            Reason::Auth,
            "the name in the client certificate is not this user's (`pg_ident.conf` maps them)",
        ),
        "28000" if says("not permitted to log in") => (
            Reason::Auth,
            "the role has no `LOGIN`: `ALTER ROLE … LOGIN`",
        ),
        _ if code.starts_with("28") => (Reason::Auth, ""),

        "3D000" => (
            Reason::NotFound,
            "the database is named at the end of the URL; without one, it is called as the user is",
        ),
        "3F000" => (Reason::NotFound, ""),
        "57P04" => (Reason::NotFound, "the database was dropped"),
        "42501" if is_fatal => (
            Reason::Permission,
            "`GRANT CONNECT ON DATABASE … TO …` lets the user in",
        ),
        "42501" => (
            Reason::Permission,
            "the user may log in, and may not do what `query` asks for",
        ),

        "53300" if says("for role") => (
            Reason::Unavailable,
            "the role's `CONNECTION LIMIT` is reached: who holds the connections?",
        ),
        "53300" => (
            Reason::Unavailable,
            "`max_connections` is reached: who holds the connections?",
        ),
        "57P01" | "57P02" => (
            Reason::Unavailable,
            "it is shutting down, or an administrator ended the session",
        ),
        "57P03" => (
            Reason::Unavailable,
            "it is starting up, shutting down or recovering",
        ),
        "57P05" => (Reason::Unavailable, "`idle_session_timeout` is very short"),
        "57014" => (
            Reason::Timeout,
            "the server gave the query up: `statement_timeout`, or someone cancelled it",
        ),
        // Not accepting connections at all, or an invalid database.
        "55000" if is_fatal => (Reason::Unavailable, ""),
        "55P03" => (
            Reason::Unavailable,
            "the query waited for a lock (`lock_timeout`)",
        ),
        "40001" | "40P01" => (Reason::Unavailable, ""),
        // PgBouncer says most of what it has to say with this code.
        "08P01" if says("no such database") => {
            (Reason::NotFound, "the pooler does not know this database")
        }
        "08P01" if says("no such user") || says("auth") => {
            (Reason::Auth, "the pooler does not let this user in")
        }
        "08P01" if says("no more connections") || says("query_wait_timeout") || says("login") => (
            Reason::Unavailable,
            "the pooler has no connection to the server to give",
        ),
        "08P01" => (Reason::Protocol, ""),
        "0A000" if is_fatal => (
            Reason::Protocol,
            "the server does not speak version 3.0 of the protocol",
        ),

        // A setting that we ask for at the start of the session.
        "42704" | "22023" | "42602" | "55P02" if is_fatal => (
            Reason::Assertion,
            "the server refuses a setting that `options` asks for",
        ),
        _ => match code.get(..2) {
            // Out of something, or on its own errors.
            Some("08" | "53" | "57" | "58" | "F0" | "XX") => (Reason::Unavailable, ""),
            _ if is_fatal => (Reason::Unavailable, ""),
            // The query has failed: syntax, no such table, division by zero.
            _ => (Reason::Assertion, ""),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::net::TcpListener;

    use super::*;
    use crate::outcome::Outcome;
    use crate::probe::Probe;
    use crate::testing::{self, check, percent_encoded};

    /// Builds the probe of a connection with these lines in its `spec`.
    fn build(spec: &str) -> Result<Arc<dyn Probe>, String> {
        testing::build_or_say("postgres", spec)
    }

    /// Attempts what comes to an end.
    async fn attempt(spec: &str) -> Outcome {
        testing::run(&build(spec).unwrap(), testing::LONG).await
    }

    /// Attempts what hangs.
    async fn attempt_in_vain(spec: &str) -> Outcome {
        testing::run(&build(spec).unwrap(), testing::UNTIL_THEY_HANG).await
    }

    /// Attempts a login as `u`, with the password `pw`, at a peer that is [`testing::saying`] these
    /// words.
    async fn at_peer(words: &[Option<&[u8]>], options: &str) -> Outcome {
        let (port, peer) = testing::saying(words, false).await;
        let outcome = attempt(&login_at(port, options)).await;
        peer.abort();
        outcome
    }

    /// The same at one that hangs in the end.
    async fn at_hanging_peer(words: &[Option<&[u8]>], options: &str) -> Outcome {
        let (port, peer) = testing::saying(words, false).await;
        let outcome = attempt_in_vain(&login_at(port, options)).await;
        peer.abort();
        outcome
    }

    fn login_at(port: u16, options: &str) -> String {
        format!("url: postgres://u:pw@127.0.0.1:{port}/db?{options}")
    }

    const MD5: &[u8] = b"R\0\0\0\x0c\0\0\0\x05salt";
    const OK: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";
    const ONE_ROW: &[&[u8]] = &[
        b"T\0\x01one\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0",
        b"D\0\x01\0\0\0\x011",
        b"CSELECT 1\0",
        b"ZI",
    ];

    /// Puts the length behind the first letter of each message.
    fn messages(messages: &[&[u8]]) -> Vec<u8> {
        let with_length = |message: &&[u8]| {
            let length = (message.len() as u32 + 3).to_be_bytes();
            [&message[..1], &length, &message[1..]].concat()
        };
        messages.iter().flat_map(with_length).collect()
    }

    #[tokio::test]
    async fn the_conversation_of_a_server_without_tls() {
        let outcome = at_peer(
            &[Some(b"N"), Some(MD5), Some(OK), Some(&messages(ONE_ROW))],
            "",
        )
        .await;
        assert!(outcome.is_up(), "{outcome:?}");
        let phases: Vec<_> = outcome
            .phases
            .iter()
            .map(|(phase, _)| phase.as_str())
            .collect();
        assert_eq!(phases, ["connect", "tls", "auth", "request"]);
    }

    #[tokio::test]
    async fn peers_that_do_not_want_tls() {
        let outcome = at_peer(&[Some(b"N")], "sslmode=require").await;
        check(&outcome, Reason::TlsOther, Phase::Tls, "does not offer TLS");
        let error = messages(&[b"ESFATAL\0C53300\0Msorry, too many clients\0\0"]);
        let outcome = at_peer(&[Some(&error)], "sslmode=require").await;
        check(
            &outcome,
            Reason::Unavailable,
            Phase::Tls,
            "sorry, too many clients",
        );
        let no_process = b"Ecould not fork new process for connection\n\0";
        let outcome = at_peer(&[Some(no_process)], "").await;
        check(
            &outcome,
            Reason::Unavailable,
            Phase::Tls,
            "cannot start a session",
        );
        let outcome = at_peer(&[Some(b"E\0\0\0\x2eSFATAL\0C53"), None], "").await;
        check(
            &outcome,
            Reason::Protocol,
            Phase::Tls,
            "not in Postgres' protocol",
        );
    }

    #[tokio::test]
    async fn words_stuffed_behind_the_answer_are_refused() {
        for stuffed in [
            &b"SR\0\0\0\x08\0\0\0\0"[..],
            b"NR",
            b"SSH-2.0-OpenSSH_9.2\r\n",
        ] {
            let outcome = at_peer(&[Some(stuffed)], "sslmode=prefer").await;
            check(
                &outcome,
                Reason::Protocol,
                Phase::Tls,
                "longer than the one letter",
            );
        }
    }

    #[tokio::test]
    async fn peers_that_are_no_postgres() {
        let http = b"HTTP/1.1 400 Bad Request\r\n\r\n";
        check(
            &at_peer(&[Some(http)], "").await,
            Reason::Protocol,
            Phase::Tls,
            "protocol",
        );
        for words in [
            &http[..],
            b"220 mail.example.com ESMTP\r\n",
            b"\x15\x03\x01\0\x02\x02\x46",
            b"J\0\0\0\x0a8.0.36\0",
            b"R\0\0\0\x04",
            b"R\x7f\0\0\0\0\0\0\0",
            b"Z\0\0\0\x05I",
            b"S\0\0\0\x08a\0b\0",
        ] {
            let outcome = at_peer(&[Some(words)], "sslmode=disable").await;
            check(
                &outcome,
                Reason::Protocol,
                Phase::Auth,
                "not in Postgres' protocol",
            );
        }
    }

    #[tokio::test]
    async fn peers_that_hang() {
        let half_a_login = [Some(&b"R\0\0\0\x0c\0\0"[..])];
        let row = messages(ONE_ROW);
        let half_a_row = [Some(OK), Some(&row[..9])];
        let (silent, agrees, declines, in_the_login, in_the_answer) = tokio::join!(
            at_hanging_peer(&[], ""),
            at_hanging_peer(&[Some(b"S")], ""),
            at_hanging_peer(&[Some(b"N")], ""),
            at_hanging_peer(&half_a_login, "sslmode=disable"),
            at_hanging_peer(&half_a_row, "sslmode=disable"),
        );
        let is_silent = "the server did not answer the request for TLS within 2s";
        check(&silent, Reason::Timeout, Phase::Tls, is_silent);
        check(&agrees, Reason::Timeout, Phase::Tls, "handshake");
        check(&declines, Reason::Timeout, Phase::Auth, "login");
        check(&in_the_login, Reason::Timeout, Phase::Auth, "login");
        check(&in_the_answer, Reason::Timeout, Phase::Request, "request");
    }

    #[tokio::test]
    async fn peers_that_hang_up() {
        check(
            &at_peer(&[Some(b""), None], "").await,
            Reason::ConnectReset,
            Phase::Tls,
            "",
        );
        check(
            &at_peer(&[Some(b""), None], "sslmode=disable").await,
            Reason::ConnectReset,
            Phase::Auth,
            "hung up",
        );
        let outcome = at_peer(&[Some(&MD5[..7]), None], "sslmode=disable").await;
        check(&outcome, Reason::ConnectReset, Phase::Auth, "in the middle");
        let outcome = at_peer(&[Some(OK), Some(b""), None], "sslmode=disable").await;
        check(&outcome, Reason::ConnectReset, Phase::Request, "hung up");
        let outcome = at_peer(
            &[Some(OK), Some(&messages(ONE_ROW)[..9]), None],
            "sslmode=disable",
        )
        .await;
        check(&outcome, Reason::ConnectReset, Phase::Request, "");
    }

    #[tokio::test]
    async fn last_words_count_more_than_the_hang_up() {
        let words = messages(&[b"ESFATAL\0VFATAL\0C57P01\0Mgoing down\0\0"]);
        let outcome = at_peer(&[Some(OK), Some(&words), None], "sslmode=disable").await;
        check(&outcome, Reason::Unavailable, Phase::Request, "going down");
    }

    #[tokio::test]
    async fn terms_of_the_login() {
        let outcome = at_peer(&[Some(MD5)], "sslmode=disable&require_auth=scram-sha-256").await;
        check(
            &outcome,
            Reason::Auth,
            Phase::Auth,
            "`md5`, which `require_auth` rules out",
        );
        let outcome = at_peer(&[Some(OK)], "sslmode=disable&require_auth=!none").await;
        check(
            &outcome,
            Reason::Auth,
            Phase::Auth,
            "`none`, which `require_auth` rules out",
        );
        let outcome = at_peer(&[Some(MD5)], "sslmode=disable&password=").await;
        check(
            &outcome,
            Reason::Auth,
            Phase::Auth,
            "asks for a password, and none is given",
        );
        let outcome = at_peer(&[Some(b"R\0\0\0\x08\0\0\0\x07")], "sslmode=disable").await;
        check(&outcome, Reason::Auth, Phase::Auth, "GSSAPI");
        let outcome = at_peer(&[Some(b"N"), Some(OK)], "channel_binding=require").await;
        check(
            &outcome,
            Reason::Auth,
            Phase::Auth,
            "not bound to the TLS channel",
        );
    }

    #[tokio::test]
    async fn a_server_before_14_is_asked_what_it_is() {
        let answer = |value: &[u8]| {
            let row = [b"D\0\x01\0\0\0", &[value.len() as u8][..], value].concat();
            messages(&[ONE_ROW[0], &row, b"CSHOW\0", b"ZI"])
        };
        for (wanted, value, is_wanted) in [
            ("read-write", "off", true),
            ("read-write", "on", false),
            ("read-only", "on", true),
            ("primary", "f", true),
            ("standby", "f", false),
            ("standby", "t", true),
        ] {
            let (first, second) = (answer(value.as_bytes()), messages(ONE_ROW));
            let words = [Some(OK), Some(&first[..]), Some(&second[..])];
            let options = format!("sslmode=disable&target_session_attrs={wanted}");
            let outcome = at_peer(&words, &options).await;
            match is_wanted {
                true => assert!(outcome.is_up(), "{outcome:?}"),
                false => check(&outcome, Reason::Assertion, Phase::Request, wanted),
            }
        }
    }

    #[tokio::test]
    async fn a_host_that_hangs_leaves_time_for_the_next() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = silent.local_addr().unwrap().port();
        let outcome = attempt_in_vain(&format!(
            "url: postgres://u:pw@127.0.0.1:{port},127.0.0.1:1/db?sslmode=disable"
        ))
        .await;
        check(
            &outcome,
            Reason::Timeout,
            Phase::Auth,
            &format!("`127.0.0.1:{port}`: "),
        );
        check(
            &outcome,
            Reason::Timeout,
            Phase::Auth,
            "; `127.0.0.1:1`: connection refused",
        );
    }

    #[tokio::test]
    async fn a_deadline_tells_of_the_hosts_before() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = silent.local_addr().unwrap().port();
        let outcome = attempt_in_vain(&format!(
            "url: postgres://u:pw@127.0.0.1:1,127.0.0.1:{port}/db"
        ))
        .await;
        check(
            &outcome,
            Reason::Timeout,
            Phase::Tls,
            &format!(
                "within 2s (`postgres://127.0.0.1:1,127.0.0.1:{port}`); before that `127.0.0.1:1`: connection refused"
            ),
        );
    }

    #[test]
    fn any_login_is_what_was_given() {
        let login = |probe: &Postgres| {
            let password = probe.login.get_password().unwrap().to_vec();
            (
                probe.login.get_user().unwrap().to_owned(),
                String::from_utf8(password).unwrap(),
            )
        };
        let url = "postgres://$(username):$(password)@h/db";
        testing::check_logins("postgres", url, percent_encoded, ("", ""), login);
        let keywords = "host=h user=$(username) password=$(password)";
        let quoted = |text: &str| {
            let text = text.replace('\\', r"\\").replace('\'', r"\'");
            format!("'{text}'")
        };
        testing::check_logins("postgres", keywords, quoted, ("", ""), login);
    }

    #[test]
    fn endpoints_have_no_user_and_no_database() {
        for (url, endpoint) in [
            (
                "postgres://u:pw@db.example.com/app",
                "postgres://db.example.com:5432",
            ),
            ("postgresql://u@[::1]:1,b/app", "postgres://[::1]:1,b:5432"),
            (
                "host=/run/postgresql user=u",
                "postgres:///run/postgresql/.s.PGSQL.5432",
            ),
        ] {
            assert_eq!(
                build(&format!("url: '{url}'")).unwrap().endpoint(),
                endpoint
            );
        }
    }

    #[test]
    fn mistakes_in_a_definition() {
        for (spec, message) in [
            (
                "url: postgres://h/db",
                "there is no user to log in as (write `postgres://user@host/database`, or give `username`)",
            ),
            (
                "url: postgres://u@h/db?sslmode=requir",
                "bad `url`: unknown value of `sslmode` (did you mean `require`? it knows disable, allow, prefer, require, verify-ca, verify-full)",
            ),
            (
                "url: postgres://u@h/db?sslmode=disable&channel_binding=require",
                "bad `url`: `channel_binding=require` needs TLS (leave `sslmode=disable` out)",
            ),
            (
                "url: postgres://u@h/db?sslrootcert=/ca.pem",
                "`/ca.pem` does not exist",
            ),
        ] {
            assert_eq!(build(spec).err().as_deref(), Some(message), "{spec}");
        }
        // Nothing is read that is not used.
        assert!(build("url: postgres://u@h/db?sslmode=disable&sslrootcert=/ca.pem").is_ok());
    }

    #[test]
    fn each_sqlstate_has_its_reason() {
        let fatal = |code, message| classify(code, true, message).0;
        let query = |code, message| classify(code, false, message).0;
        for (code, message, reason) in [
            (
                "28P01",
                "password authentication failed for user \"u\"",
                Reason::Auth,
            ),
            (
                "28000",
                "no pg_hba.conf entry for host \"::1\", user \"u\", database \"d\", no encryption",
                Reason::Auth,
            ),
            (
                "28000",
                "role \"u\" is not permitted to log in",
                Reason::Auth,
            ),
            ("3D000", "database \"d\" does not exist", Reason::NotFound),
            ("57P04", "database \"d\" was dropped", Reason::NotFound),
            (
                "42501",
                "permission denied for database \"d\"",
                Reason::Permission,
            ),
            (
                "53300",
                "sorry, too many clients already",
                Reason::Unavailable,
            ),
            ("53200", "out of memory", Reason::Unavailable),
            (
                "57P01",
                "terminating connection due to administrator command",
                Reason::Unavailable,
            ),
            (
                "57P03",
                "the database system is starting up",
                Reason::Unavailable,
            ),
            (
                "55000",
                "database \"d\" is not currently accepting connections",
                Reason::Unavailable,
            ),
            ("58P01", "could not open file", Reason::Unavailable),
            ("XX000", "cache lookup failed", Reason::Unavailable),
            ("08P01", "invalid startup packet", Reason::Protocol),
            ("08P01", "no such database: d", Reason::NotFound),
            (
                "08P01",
                "no more connections allowed (max_client_conn)",
                Reason::Unavailable,
            ),
            (
                "0A000",
                "unsupported frontend protocol 3.0",
                Reason::Protocol,
            ),
            (
                "42704",
                "unrecognized configuration parameter \"x\"",
                Reason::Assertion,
            ),
        ] {
            assert_eq!(fatal(code, message), reason, "{code} {message}");
        }
        for (code, message, reason) in [
            ("42P01", "relation \"x\" does not exist", Reason::Assertion),
            ("42601", "syntax error", Reason::Assertion),
            ("22012", "division by zero", Reason::Assertion),
            (
                "25006",
                "cannot execute INSERT in a read-only transaction",
                Reason::Assertion,
            ),
            ("0A000", "not supported", Reason::Assertion),
            ("42501", "permission denied for table x", Reason::Permission),
            (
                "57014",
                "canceling statement due to statement timeout",
                Reason::Timeout,
            ),
            ("3F000", "schema \"x\" does not exist", Reason::NotFound),
            (
                "53100",
                "could not extend file: No space left on device",
                Reason::Unavailable,
            ),
            ("XX001", "invalid page in block 0", Reason::Unavailable),
        ] {
            assert_eq!(query(code, message), reason, "{code} {message}");
        }
    }
}
