//! `mysql`: log in to MySQL or MariaDB, then a ping or a query is answered.
//!
//! Proves that the server lets us in, to the database that is named, and answers. Without a `query`
//! that is `COM_PING`, which says nothing of the data: a proxy answers it by itself, and a Galera node
//! outside of the majority does too. One thing that it hides is looked for: a server may let an account
//! with an expired password in, to nothing but a new password (MariaDB does, MySQL where
//! `disconnect_on_expired_password` is off), so it is told to `DO 1` besides.
//!
//! `mysql_common` packs and reads the packets and computes the scrambles; the conversation is here.
//! The drivers above it open sockets of their own, spawn tasks, and forget the chain of a handshake
//! that failed.
//!
//! A server counts the connections that end before the login is through, and when an address has had
//! `max_connect_errors` of them in a row it lets nobody in from there, the owner's application
//! included. So whenever the protocol allows it the conversation is brought to its end: a login that
//! we do not go along with is answered with nothing, which the server refuses as it does a wrong
//! password, and where TLS is a must and not offered, a login as nobody is refused. Only a handshake
//! that we break off (a certificate that is not good) and a peer that takes too long are counted.
//!
//! A password goes over the wire as it is only within TLS or a unix socket. Without them
//! `caching_sha2_password` and `sha256_password` send it under the server's RSA key, which the server
//! itself is asked for, as Go's driver does and `allowPublicKeyRetrieval=false` forbids: whoever can
//! stand in for the server could send a key of his own, and `tls=preferred` protects against him as
//! little.

mod dsn;

use std::collections::HashMap;
use std::time::Duration;

use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPublicEncryptingKey, PublicEncryptingKey};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use conncheck_config::{Field, Secret};
use mysql_common::auth::plugins::caching_sha2_password::scramble_sha256;
use mysql_common::auth::plugins::client_ed25519::ClientEd25519;
use mysql_common::auth::plugins::mysql_native_password::scramble_native;
use mysql_common::auth::plugins::{ChallengeResponsePlugin, Context, Response};
use mysql_common::constants::{CapabilityFlags, Command, StatusFlags};
use mysql_common::io::ParseBuf;
use mysql_common::packets::{
    AuthPlugin, AuthSwitchRequest, CommonOkPacket, ErrPacket, HandshakePacket, HandshakeResponse,
    OkPacket, OkPacketDeserializer, OldEofPacket, SslRequest,
};
use mysql_common::proto::MySerialize;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use self::dsn::{Dsn, Options, TlsMode};
use crate::attempt::{Address, Attempt, Stream};
use crate::cause::Cause;
use crate::outcome::{Failure, Phase, Reason};
use crate::probe::{Access, Invalid, ProbeType};
use crate::scrub::hidden;
use crate::tls::{Tls, TlsPart, Verify};

/// `spec.properties` of a MySQL connection.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Settings {
    /// The query that must not fail, in place of a ping. What it answers does not matter.
    query: Option<String>,
    /// `disabled`, `preferred`, `required`, `verify-ca` or `verify-full`; wins over the URL.
    #[schemars(with = "Option<TlsMode>")]
    tls: Option<String>,
    /// Accept any certificate, whatever `tls` says.
    insecure_skip_verify: Option<bool>,
    /// The name that the certificate must be for, in place of the URL's host.
    server_name: Option<String>,
}

pub(crate) struct Mysql {
    address: Address,
    encryption: Encryption,
    connect_timeout: Option<Duration>,
    read_timeout: Option<Duration>,
    login: Login,
    /// The statement that sets what the URL wants set.
    set: Option<String>,
    query: Option<String>,
    /// The password that is used, and the user if the URL names it: from some forms of a URL they come
    /// out otherwise than they stand in it.
    secrets: Vec<Secret>,
}

/// `tls`, and what it needs.
enum Encryption {
    /// `disabled`
    Never,
    /// `preferred`
    IfOffered(Tls),
    /// `required` and above
    Always(Tls),
}

/// Who we are, and what we go along with to prove it.
struct Login {
    user: Secret,
    password: Secret,
    database: Option<String>,
    collation: u8,
    multi_statements: bool,
    attributes: HashMap<String, String>,
    takes_native: bool,
    takes_clear: bool,
    /// The key that a password is sent under where there is no TLS, PEM.
    server_key: Option<Secret>,
    /// Whether the server may be asked for it.
    asks_for_key: bool,
}

impl ProbeType for Mysql {
    type Settings = Settings;

    const FURTHER_REASONS: &'static [Reason] =
        &[Reason::Permission, Reason::NotFound, Reason::Assertion];

    fn new(access: Access<'_>, settings: Settings) -> Result<Self, Invalid> {
        let dsn = Dsn::read(&access, access.url()?)?;
        access.may_reach(&dsn.address)?;
        let options = dsn.options;
        let user = access.username(dsn.user.as_deref()).ok_or_else(|| {
            access
                .invalid(Field::Username, "there is no user to log in as")
                .hint("write `mysql://user@host/database`, or give `username`")
        })?;
        let password = access
            .password(dsn.password.as_ref().map(Secret::expose))
            .unwrap_or_else(|| Secret::new(""));
        for (field, what, text) in [
            (Field::Username, "user", &user),
            (Field::Password, "password", &password),
        ] {
            if text.expose().contains('\0') {
                let message = format!("there is a NUL character in the {what}");
                return Err(access.invalid(field, message));
            }
        }
        let mut attributes: HashMap<String, String> = [
            ("program_name", "conncheck"),
            ("_client_name", "conncheck"),
            ("_client_version", env!("CARGO_PKG_VERSION")),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        attributes.extend(options.attributes.iter().cloned());
        let set: Vec<_> = (options.variables.iter())
            .map(|(name, value)| format!("{name} = {value}"))
            .collect();
        let endpoint = endpoint(&dsn.address);
        let secrets = [
            Some(password.clone()),
            // Unless it is called as the place is.
            (dsn.user.as_ref())
                .filter(|named| *named == user.expose() && !endpoint.contains(*named))
                .map(Secret::new),
        ];
        Ok(Self {
            secrets: hidden(secrets.into_iter().flatten()),
            address: dsn.address,
            encryption: encryption(&access, &settings, &options)?,
            connect_timeout: options.connect_timeout,
            read_timeout: options.read_timeout,
            login: Login {
                user,
                password,
                database: dsn.database,
                collation: options.collation(),
                multi_statements: options.multi_statements,
                attributes,
                takes_native: !options.without_native_password,
                takes_clear: options.clear_password,
                asks_for_key: options.asks_for_key(),
                server_key: (options.key_file.as_ref())
                    .map(|path| access.file(Field::Url, path))
                    .transpose()?,
            },
            set: (!set.is_empty()).then(|| format!("SET {}", set.join(", "))),
            query: settings.query,
        })
    }

    fn endpoint(&self) -> String {
        endpoint(&self.address)
    }

    fn secrets(&self) -> &[Secret] {
        &self.secrets
    }

    async fn probe(&self, attempt: &mut Attempt) -> Result<(), Failure> {
        let mut server = self.connect(attempt).await?;
        let verdict = self.prove(attempt, &mut server).await;
        part(attempt, server, verdict.clone()).await;
        verdict
    }
}

fn endpoint(address: &Address) -> String {
    match address {
        Address::Unix(path) => format!("mysql://unix({})", path.display()),
        tcp @ Address::Tcp { .. } => format!("mysql://{tcp}"),
    }
}

impl Mysql {
    /// Connects, is greeted, and encrypts what follows.
    async fn connect(&self, attempt: &mut Attempt) -> Result<Server, Failure> {
        attempt.limit(self.connect_timeout);
        let stream = attempt.dial(&self.address).await?;
        attempt.limit(self.read_timeout);
        let mut server = Server::new(stream, &self.address);
        let what = "the server sent no greeting";
        let greeted = server.be_greeted();
        attempt.phase_of(Phase::Auth, what, greeted).await?;
        attempt.server(server.name());
        let tls = match (&self.encryption, &self.address) {
            // MySQL's own clients do not look for it there either.
            (Encryption::Never, _) | (Encryption::IfOffered(_), Address::Unix(_)) => {
                return Ok(server);
            }
            (Encryption::IfOffered(_), _) if !server.offers(CapabilityFlags::CLIENT_SSL) => {
                return Ok(server);
            }
            (Encryption::Always(_), _) if !server.offers(CapabilityFlags::CLIENT_SSL) => {
                let failure = Cause::new(Reason::TlsOther, "the server does not offer TLS")
                    .hint("give the server a certificate (`ssl_cert`, `ssl_key`), or do without: `tls: preferred`, and no `caCert`")
                    .in_phase(Phase::Tls);
                part(attempt, server, Err(failure.clone())).await;
                return Err(failure);
            }
            (Encryption::IfOffered(tls) | Encryption::Always(tls), _) => tls,
        };
        let asked = server.ask_for_tls(&self.login);
        let stream = attempt.phase(Phase::Tls, asked).await?;
        let (stream, _) = attempt.tls(stream, tls, self.address.host()).await?;
        server.go_on_within(stream, tls.has_client_certificate());
        Ok(server)
    }

    /// Logs in, and gets an answer.
    async fn prove(&self, attempt: &mut Attempt, server: &mut Server) -> Result<(), Failure> {
        attempt.limit(self.read_timeout);
        let logged_in = server.log_in(&self.login);
        attempt.phase(Phase::Auth, logged_in).await?;
        attempt.limit(self.read_timeout);
        if self.query.is_some() {
            let left = attempt.time_left();
            let limit = left.saturating_sub((left / 10).min(QUERY_MARGIN_MAX));
            let limit = self.read_timeout.map_or(limit, |other| limit.min(other));
            let limited = server.limit_queries(limit);
            attempt.phase(Phase::Request, limited).await?;
        }
        // After ours: it may be shorter.
        if let Some(set) = &self.set {
            let what = "the server did not set the variables of the URL";
            server.statement = Statement::Variables;
            let is_set = server.ask(set);
            attempt.phase_of(Phase::Request, what, is_set).await?;
        }
        match &self.query {
            None => attempt.phase(Phase::Request, server.ping()).await,
            Some(query) => {
                let what = "no answer to the query";
                server.statement = Statement::Query;
                let answer = async { server.ask(query).await.map_err(Cause::of_query) };
                attempt.phase_of(Phase::Request, what, answer).await
            }
        }
    }
}

/// Ends the conversation as the server expects it at this point; the verdict stands.
async fn part(attempt: &mut Attempt, mut server: Server, verdict: Result<(), Failure>) {
    attempt.settle(verdict);
    attempt.goodbye(server.leave()).await;
}

/// How much of an attempt's time is left at most to a server that gives up a query.
const QUERY_MARGIN_MAX: Duration = Duration::from_millis(500);

/// What `tls` and everything around it come to.
fn encryption(
    access: &Access<'_>,
    settings: &Settings,
    url: &Options,
) -> Result<Encryption, Invalid> {
    let mode = match &settings.tls {
        Some(text) => TlsMode::read(text).map_err(|hint| {
            access
                .invalid(Field::Properties, "unknown value of `tls`")
                .hint(hint)
        })?,
        None => url.tls.unwrap_or(TlsMode::Preferred),
    };
    if mode == TlsMode::Disabled {
        return Ok(Encryption::Never);
    }
    let mut options =
        access.tls_options(settings.insecure_skip_verify, settings.server_name.clone());
    for (part, path) in [
        (&mut options.ca_cert, &url.ssl_ca),
        (&mut options.client_cert, &url.ssl_cert),
        (&mut options.client_key, &url.ssl_key),
    ] {
        if let (None, Some(path)) = (&part, path) {
            *part = Some(access.file(Field::Url, path)?);
        }
    }
    options.min_version = url.min_version;
    options.max_version = url.max_version;
    // With an authority to verify against every mode verifies: MySQL's clients do where no mode is
    // given. Who names the server means that its name is verified, too.
    options.verify = match (options.verify, mode) {
        (Verify::Nothing, _) => Verify::Nothing,
        (_, TlsMode::VerifyFull) => Verify::Full,
        (_, TlsMode::VerifyCa) if options.server_name.is_some() => Verify::Full,
        (_, TlsMode::VerifyCa) => Verify::CaOnly,
        _ if options.ca_cert.is_none() => Verify::Nothing,
        _ if options.server_name.is_some() => Verify::Full,
        _ => Verify::CaOnly,
    };
    let tls = access.tls_with_files(&options, |part| match part {
        TlsPart::CaCert => Some("ssl-ca"),
        TlsPart::ClientCert => Some("ssl-cert"),
        TlsPart::ClientKey => Some("ssl-key"),
        TlsPart::ServerName | TlsPart::System => None,
    })?;
    let must_verify = options.ca_cert.is_some() && options.verify != Verify::Nothing;
    Ok(match mode {
        TlsMode::Preferred if !must_verify => Encryption::IfOffered(tls),
        _ => Encryption::Always(tls),
    })
}

/// The conversation with a server: a packet, and what comes back.
struct Server {
    stream: BufReader<Stream>,
    /// The number that the next packet has, whoever sends it.
    sequence: u8,
    greeting: Greeting,
    expects: Expects,
    is_local: bool,
    is_encrypted: bool,
    shows_certificate: bool,
    has_password: bool,
    is_logged_in: bool,
    /// What it is told once we are logged in.
    statement: Statement,
}

/// Whose a statement is: the same error means another thing of each.
#[derive(Clone, Copy, PartialEq)]
enum Statement {
    Ours,
    /// The `SET` of the URL's variables.
    Variables,
    /// The owner's `query`.
    Query,
}

/// What the server waits for, which decides how it is left.
#[derive(Clone, Copy, PartialEq)]
enum Expects {
    /// Nothing more: it has hung up, or will.
    Nothing,
    Login,
    /// The next step of a login.
    Answer,
    Command,
    /// The file that it has asked for.
    File,
}

/// What a server says of itself before it is asked.
#[derive(Clone, Default)]
struct Greeting {
    version: String,
    offers: CapabilityFlags,
    nonce: Vec<u8>,
    plugin: Vec<u8>,
}

/// Longer than any packet of a login. What comes after it is not kept beyond this either.
const PACKET_MAX_BYTES: usize = 64 * 1024;

/// What we say that we take; packets from us are small.
const OUR_PACKET_MAX_BYTES: u32 = 16 * 1024 * 1024;

/// More steps than any login has.
const LOGIN_STEPS_MAX: usize = 8;

/// The user that does not exist, as whom a server is left that does not offer the TLS that is a must.
/// It shows in the server's log.
const NOBODY: &str = "conncheck-wants-tls";

/// What we ask of the protocol, as far as the server offers it.
const CAPABILITIES: CapabilityFlags = CapabilityFlags::CLIENT_LONG_PASSWORD
    .union(CapabilityFlags::CLIENT_PROTOCOL_41)
    .union(CapabilityFlags::CLIENT_TRANSACTIONS)
    .union(CapabilityFlags::CLIENT_SECURE_CONNECTION)
    .union(CapabilityFlags::CLIENT_MULTI_RESULTS)
    .union(CapabilityFlags::CLIENT_PLUGIN_AUTH)
    .union(CapabilityFlags::CLIENT_PLUGIN_AUTH_LENENC_CLIENT_DATA)
    .union(CapabilityFlags::CLIENT_CONNECT_ATTRS);

impl Greeting {
    fn read(packet: &[u8]) -> Result<Self, Cause> {
        match packet.first() {
            Some(10) => {}
            // MySQL's other protocol greets with a packet that could be one of this.
            Some(11) if packet.len() < 16 => {
                return Err(Cause::protocol("the server speaks MySQL's X protocol")
                    .hint("use the port of the classic one, 3306 unless it was changed"));
            }
            Some(version @ 1..=9) => {
                return Err(Cause::protocol(format!(
                    "the server speaks version {version} of the protocol, and MySQL has spoken 10 since 1998"
                )));
            }
            _ => return Err(not_mysql()),
        }
        // `mysql_common` reads the length of the nonce as a signed byte, and computes with it.
        let nonce_length = packet
            .iter()
            .position(|byte| *byte == 0)
            .and_then(|end| packet.get(end + 21));
        if nonce_length.is_some_and(|length| *length > 127) {
            return Err(not_mysql());
        }
        let greeting: HandshakePacket<'_> = ParseBuf(packet).parse(()).map_err(|_| not_mysql())?;
        Ok(Self {
            version: greeting.server_version_str().into_owned(),
            offers: greeting.capabilities(),
            nonce: greeting.nonce(),
            plugin: greeting.auth_plugin_name_ref().unwrap_or_default().to_vec(),
        })
    }

    fn is_mariadb(&self) -> bool {
        self.version.to_ascii_lowercase().contains("mariadb")
    }
}

impl Server {
    fn new(stream: Stream, address: &Address) -> Self {
        Self {
            stream: BufReader::new(stream),
            sequence: 0,
            greeting: Greeting::default(),
            expects: Expects::Nothing,
            is_local: matches!(address, Address::Unix(_)),
            is_encrypted: false,
            shows_certificate: false,
            has_password: false,
            is_logged_in: false,
            statement: Statement::Ours,
        }
    }

    fn offers(&self, capability: CapabilityFlags) -> bool {
        self.greeting.offers.contains(capability)
    }

    /// `MariaDB 10.11.14`, `MySQL 8.0.36`: the version without the packager's words. MariaDB 10 has
    /// put a version of MySQL before its own, for replicas of old.
    fn name(&self) -> String {
        let version = &self.greeting.version;
        let is_mariadb = self.greeting.is_mariadb();
        let version = match is_mariadb {
            true => version.strip_prefix("5.5.5-").unwrap_or(version),
            false => version,
        };
        let end = version.find(|c: char| !c.is_ascii_digit() && c != '.');
        let number = &version[..end.unwrap_or(version.len())];
        match is_mariadb {
            true => format!("MariaDB {number}"),
            false => format!("MySQL {number}"),
        }
    }

    async fn be_greeted(&mut self) -> Result<(), Cause> {
        let packet = self.receive().await?;
        if packet.first() == Some(&0xff) {
            return Err(self.refusal(&packet));
        }
        self.greeting = Greeting::read(&packet)?;
        self.expects = Expects::Login;
        let needed =
            CapabilityFlags::CLIENT_PROTOCOL_41.union(CapabilityFlags::CLIENT_SECURE_CONNECTION);
        match self.offers(needed) {
            true => Ok(()),
            false => Err(Cause::protocol(format!(
                "the server ({}) knows only the login of MySQL before 4.1",
                self.name()
            ))),
        }
    }

    /// Says that TLS begins, and gives the stream out for it.
    async fn ask_for_tls(&mut self, login: &Login) -> Result<Stream, Cause> {
        // Whoever says more than the greeting could smuggle it into the encrypted conversation.
        if !self.stream.buffer().is_empty() {
            return Err(
                Cause::protocol("there is more behind the greeting than MySQL says")
                    .hint("is it a MySQL server? if so, something on the way adds to what it says"),
            );
        }
        let capabilities = self.capabilities(login) | CapabilityFlags::CLIENT_SSL;
        let request = SslRequest::new(capabilities, OUR_PACKET_MAX_BYTES, login.collation);
        self.send_packet(&request).await?;
        let nobody = Stream::new(tokio::io::empty());
        let stream = std::mem::replace(&mut self.stream, BufReader::new(nobody));
        Ok(stream.into_inner())
    }

    fn go_on_within(&mut self, tls: Stream, shows_certificate: bool) {
        self.stream = BufReader::new(tls);
        self.is_encrypted = true;
        self.shows_certificate = shows_certificate;
    }

    /// Whether nobody can listen in.
    fn is_private(&self) -> bool {
        self.is_encrypted || self.is_local
    }

    fn capabilities(&self, login: &Login) -> CapabilityFlags {
        let mut wanted = CAPABILITIES;
        if login.multi_statements {
            wanted |= CapabilityFlags::CLIENT_MULTI_STATEMENTS;
        }
        // MariaDB goes by those that came with the request for TLS.
        if login.database.is_some() {
            wanted |= CapabilityFlags::CLIENT_CONNECT_WITH_DB;
        }
        wanted & self.greeting.offers
    }

    async fn log_in(&mut self, login: &Login) -> Result<(), Cause> {
        self.has_password = !login.password.is_empty();
        // What the server proposes is what most of its accounts have. Where that is nothing for a
        // first answer, it says so again when it knows whose account it is.
        let proposed = AuthPlugin::from_bytes(&self.greeting.plugin);
        let plugin = match proposed {
            AuthPlugin::CachingSha2Password => AuthPlugin::CachingSha2Password,
            _ if login.takes_native => AuthPlugin::MysqlNativePassword,
            _ => AuthPlugin::CachingSha2Password,
        };
        let mut method = Method::of(&plugin)?;
        let mut nonce = self.greeting.nonce.clone();
        let answer = method.answer(login, &nonce, self.is_private())?;
        let response = self.response(login, answer, plugin);
        self.expects = Expects::Answer;
        self.send(&response).await?;
        for _ in 0..LOGIN_STEPS_MAX {
            let packet = self.receive().await?;
            let answer = match packet[..] {
                [0, ..] => {
                    self.expects = Expects::Command;
                    self.is_logged_in = true;
                    return Ok(());
                }
                [0xff, ..] => return Err(self.refusal(&packet)),
                [0xfe] => return Err(unknown_method(&AuthPlugin::MysqlOldPassword)),
                [0xfe, ..] => {
                    let switch: AuthSwitchRequest<'_> =
                        ParseBuf(&packet).parse(()).map_err(|_| not_mysql())?;
                    method = Method::of(&switch.auth_plugin())?;
                    nonce = switch.plugin_data().to_vec();
                    Some(method.answer(login, &nonce, self.is_private())?)
                }
                [1, ref more @ ..] => method.go_on(more, login, &nonce, self.is_private())?,
                _ => return Err(not_mysql()),
            };
            if let Some(answer) = answer {
                self.send(&answer).await?;
            }
        }
        Err(Cause::protocol(
            "the server never comes to an end of the login",
        ))
    }

    /// The packet that says who we are.
    fn response(&self, login: &Login, answer: Vec<u8>, plugin: AuthPlugin<'_>) -> Vec<u8> {
        let names_plugins = self.offers(CapabilityFlags::CLIENT_PLUGIN_AUTH);
        let takes_attributes = self.offers(CapabilityFlags::CLIENT_CONNECT_ATTRS);
        let mut capabilities = self.capabilities(login);
        if self.is_encrypted {
            capabilities |= CapabilityFlags::CLIENT_SSL;
        }
        let response = HandshakeResponse::new(
            Some(answer),
            // Decides about the collation, which is set below.
            (8, 0, 0),
            Some(login.user.expose().as_bytes()),
            login.database.as_deref().map(str::as_bytes),
            names_plugins.then_some(plugin),
            capabilities,
            takes_attributes.then(|| login.attributes.clone()),
            OUR_PACKET_MAX_BYTES,
        );
        let mut packet = Vec::new();
        response.serialize(&mut packet);
        // Behind the capabilities and the length of our packets.
        if let Some(collation) = packet.get_mut(8) {
            *collation = login.collation;
        }
        packet
    }

    async fn ping(&mut self) -> Result<(), Cause> {
        self.command(Command::COM_PING, "").await?;
        let packet = self.receive().await?;
        match packet.first() {
            Some(0) => {}
            Some(0xff) => return Err(self.refusal(&packet)),
            _ => {
                return Err(Cause::protocol(
                    "the answer to the ping is not what MySQL answers",
                ));
            }
        }
        // Whoever it is refuses everything while the password has expired. Beside that, what speaks
        // MySQL's protocol need not know `DO`.
        match self.ask("DO 1").await {
            Err(cause) if self.greeting.is_mariadb() => Err(cause),
            Err(cause) if matches!(cause.code.as_deref(), None | Some("1820")) => Err(cause),
            _ => Ok(()),
        }
    }

    /// Lets the server itself give up what takes longer. It does not notice that a client is gone
    /// until it has an answer for it: without this, a query that hangs goes on, and the next
    /// attempts' queries beside it. Servers that do not know the variable are left alone.
    async fn limit_queries(&mut self, limit: Duration) -> Result<(), Cause> {
        let millis = limit.as_millis().max(1);
        let set = match self.greeting.is_mariadb() {
            true => format!("SET SESSION max_statement_time = {}e-3", millis),
            false => format!("SET SESSION max_execution_time = {millis}"),
        };
        match self.ask(&set).await {
            Err(cause) if cause.code.is_none() => Err(cause),
            _ => Ok(()),
        }
    }

    /// Runs a query to its end, with all its results.
    async fn ask(&mut self, query: &str) -> Result<(), Cause> {
        self.command(Command::COM_QUERY, query).await?;
        while self.result().await? {}
        Ok(())
    }

    /// Reads one result; whether another one follows.
    async fn result(&mut self) -> Result<bool, Cause> {
        let packet = self.receive().await?;
        let columns = match packet[..] {
            [0, ..] => {
                let ok: Result<OkPacketDeserializer<'_, CommonOkPacket>, _> =
                    ParseBuf(&packet).parse(CAPABILITIES);
                return more_follows(ok.map(OkPacket::from));
            }
            [0xff, ..] => return Err(self.refusal(&packet)),
            [0xfb, ..] => {
                self.expects = Expects::File;
                return Err(Cause::new(
                    Reason::Assertion,
                    "the server asks for a file of this machine",
                )
                .hint("`query` is a `LOAD DATA LOCAL`, or the server is not to be trusted: conncheck sends no file"));
            }
            _ => ParseBuf(&packet)
                .checked_eat_lenenc_int()
                .ok_or_else(not_an_answer)?,
        };
        for _ in 0..columns {
            let column = self.receive().await?;
            if column.first() == Some(&0xff) {
                return Err(self.refusal(&column));
            }
        }
        // The end of the columns, the rows, and the end of these.
        let mut ends = 0;
        loop {
            let packet = self.receive().await?;
            match packet[..] {
                [0xff, ..] => return Err(self.refusal(&packet)),
                [0xfe, ..] if packet.len() < 9 => {
                    ends += 1;
                    if ends == 2 {
                        let end: Result<OkPacketDeserializer<'_, OldEofPacket>, _> =
                            ParseBuf(&packet).parse(CAPABILITIES);
                        return more_follows(end.map(OkPacket::from));
                    }
                }
                _ if ends == 0 => return Err(not_an_answer()),
                _ => {}
            }
        }
    }

    async fn command(&mut self, command: Command, argument: &str) -> Result<(), Cause> {
        self.sequence = 0;
        let mut packet = vec![command as u8];
        packet.extend_from_slice(argument.as_bytes());
        self.send(&packet).await
    }

    /// Leaves as the server expects it at this point, so that it has nothing to complain of and
    /// nothing to count against us.
    async fn leave(&mut self) {
        // Whether it was heard is not our business.
        let _ = self.say_goodbye().await;
        let _ = self.stream.shutdown().await;
    }

    async fn say_goodbye(&mut self) -> Result<(), Cause> {
        match self.expects {
            Expects::Nothing => return Ok(()),
            Expects::Command => {}
            Expects::Login => {
                let plugin = AuthPlugin::MysqlNativePassword;
                let response = self.response(&Login::nobody(), Vec::new(), plugin);
                self.send(&response).await?;
                self.be_refused().await?;
            }
            Expects::Answer => {
                self.send(&[]).await?;
                self.be_refused().await?;
            }
            Expects::File => {
                self.send(&[]).await?;
                self.receive().await?;
            }
        }
        self.command(Command::COM_QUIT, "").await
    }

    /// Answers with an empty password until the server has said no, or yes. With one in the form that
    /// is due: what has another length than it should is a broken handshake to some methods.
    async fn be_refused(&mut self) -> Result<(), Cause> {
        let nobody = Login::nobody();
        for _ in 0..LOGIN_STEPS_MAX {
            let packet = self.receive().await?;
            let answer = match packet[..] {
                [0, ..] => return Ok(()),
                [0xff, ..] => return Err(self.refusal(&packet)),
                [0xfe, _, ..] => {
                    let switch = ParseBuf(&packet).parse::<AuthSwitchRequest<'_>>(());
                    switch.map_or_else(
                        |_| Vec::new(),
                        |switch| {
                            Method::of(&switch.auth_plugin())
                                .and_then(|method| {
                                    method.answer(&nobody, switch.plugin_data(), false)
                                })
                                .unwrap_or_default()
                        },
                    )
                }
                _ => Vec::new(),
            };
            self.send(&answer).await?;
        }
        Ok(())
    }

    async fn send_packet(&mut self, packet: &impl MySerialize) -> Result<(), Cause> {
        let mut bytes = Vec::new();
        packet.serialize(&mut bytes);
        self.send(&bytes).await
    }

    async fn send(&mut self, packet: &[u8]) -> Result<(), Cause> {
        let [low, middle, high, ..] = packet.len().to_le_bytes();
        // As long as its length can say, it would be continued in the next one.
        if packet.len() >= 0xff_ffff {
            return Err(Cause::new(Reason::Assertion, "the query is too long"));
        }
        let mut bytes = vec![low, middle, high, self.sequence];
        self.sequence = self.sequence.wrapping_add(1);
        bytes.extend_from_slice(packet);
        self.stream.write_all(&bytes).await?;
        Ok(self.stream.flush().await?)
    }

    /// The next packet, without what is beyond [`PACKET_MAX_BYTES`] of it. Never empty. One that is
    /// continued in the next is longer than all that we take of a peer.
    async fn receive(&mut self) -> Result<Vec<u8>, Cause> {
        if self.stream.fill_buf().await?.is_empty() {
            return Err(Cause::new(
                Reason::ConnectReset,
                "the server hung up without an answer",
            ));
        }
        let mut head = [0; 4];
        self.stream.read_exact(&mut head).await?;
        let [low, middle, high, sequence] = head;
        let length = u32::from_le_bytes([low, middle, high, 0]) as usize;
        if length == 0 || length > PACKET_MAX_BYTES && !self.is_logged_in {
            return Err(not_mysql());
        }
        // A server that throws us out may not have counted.
        if sequence != self.sequence && self.stream.fill_buf().await?.first() != Some(&0xff) {
            return Err(not_mysql());
        }
        self.sequence = sequence.wrapping_add(1);
        let mut packet = vec![0; length.min(PACKET_MAX_BYTES)];
        self.stream.read_exact(&mut packet).await?;
        let mut rest = (&mut self.stream).take((length - packet.len()) as u64);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
        Ok(packet)
    }

    /// What the server says no with.
    fn refusal(&mut self, packet: &[u8]) -> Cause {
        if !self.is_logged_in {
            self.expects = Expects::Nothing;
        }
        // Before the login some say it with an SQLSTATE and some without.
        let form = match packet.get(3) {
            Some(b'#') => CapabilityFlags::CLIENT_PROTOCOL_41,
            _ => CapabilityFlags::empty(),
        };
        match ParseBuf(packet).parse::<ErrPacket<'_>>(form) {
            Ok(ErrPacket::Error(error)) => {
                let (code, message) = (error.error_code(), error.message_str());
                let (reason, hint) = classify(code, &message, self);
                let cause = Cause::new(reason, message.trim()).code(code.to_string());
                match hint {
                    "" => cause,
                    hint => cause.hint(hint),
                }
            }
            _ => not_an_answer(),
        }
    }
}

impl Login {
    /// Of no account.
    fn nobody() -> Self {
        Self {
            user: Secret::new(NOBODY),
            password: Secret::new(""),
            database: None,
            collation: dsn::DEFAULT_COLLATION,
            multi_statements: false,
            attributes: HashMap::new(),
            takes_native: true,
            takes_clear: false,
            server_key: None,
            asks_for_key: false,
        }
    }
}

/// A way of the server's to ask for a password.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Method {
    Native,
    CachingSha2,
    Sha256,
    Ed25519,
    Clear,
}

impl Method {
    fn of(plugin: &AuthPlugin<'_>) -> Result<Self, Cause> {
        match plugin {
            AuthPlugin::MysqlNativePassword => Ok(Self::Native),
            AuthPlugin::CachingSha2Password => Ok(Self::CachingSha2),
            AuthPlugin::Sha256Password => Ok(Self::Sha256),
            AuthPlugin::Ed25519 => Ok(Self::Ed25519),
            AuthPlugin::MysqlClearPassword => Ok(Self::Clear),
            other => Err(unknown_method(other)),
        }
    }

    /// The first answer.
    fn answer(self, login: &Login, nonce: &[u8], is_private: bool) -> Result<Vec<u8>, Cause> {
        let password = login.password.expose().as_bytes();
        match self {
            Self::Native if !login.takes_native => Err(Cause::new(
                Reason::Auth,
                "the server asks for `mysql_native_password`, which `allowNativePasswords=false` rules out",
            )),
            Self::Native => {
                let _: [u8; 20] = exactly(nonce)?;
                let scramble = scramble_native(nonce, password);
                Ok(scramble.map_or_else(Vec::new, Vec::from))
            }
            Self::CachingSha2 => {
                let scramble = scramble_sha256(&exactly(nonce)?, password);
                Ok(scramble.map_or_else(Vec::new, Vec::from))
            }
            Self::Ed25519 => {
                let _: [u8; 32] = exactly(nonce)?;
                match ClientEd25519::default().run(Password(password), nonce) {
                    Ok(Response::Last {
                        packet: Some(signature),
                    }) => Ok(signature),
                    _ => Err(Cause::new(Reason::Internal, "the login cannot be signed")),
                }
            }
            Self::Sha256 if password.is_empty() => Ok(vec![0]),
            Self::Sha256 => Self::Sha256.password(login, nonce, is_private),
            Self::Clear if !login.takes_clear => Err(Cause::new(
                Reason::Auth,
                "the server asks for the password as it is (`mysql_clear_password`)",
            )
            .hint("if the account logs in by PAM or LDAP that is so: `?allowCleartextPasswords=true` in the URL allows it, within TLS")),
            Self::Clear if !is_private => Err(Cause::new(
                Reason::Auth,
                "the server asks for the password as it is (`mysql_clear_password`), and there is no TLS",
            )
            .hint("use `tls: verify-full`; who asks for that in clear need not be the server")),
            Self::Clear => Ok(terminated(password)),
        }
    }

    /// The answer to more than the first question, if one is waited for.
    fn go_on(
        self,
        more: &[u8],
        login: &Login,
        nonce: &[u8],
        is_private: bool,
    ) -> Result<Option<Vec<u8>>, Cause> {
        match (self, more) {
            // It remembers the password, and is about to say yes.
            (Self::CachingSha2, [3]) => Ok(None),
            (Self::CachingSha2, [4]) => self.password(login, nonce, is_private).map(Some),
            (Self::CachingSha2 | Self::Sha256, [b'-', ..]) if !is_private && login.asks_for_key => {
                under_key(more, login, nonce).map(Some)
            }
            _ => Err(Cause::protocol(
                "the server goes on with the login in a way that MySQL does not",
            )),
        }
    }

    /// The password itself, or what asks for a key to send it under.
    fn password(self, login: &Login, nonce: &[u8], is_private: bool) -> Result<Vec<u8>, Cause> {
        if is_private {
            return Ok(terminated(login.password.expose().as_bytes()));
        }
        if let Some(key) = &login.server_key {
            return under_key(key.expose().as_bytes(), login, nonce);
        }
        match self {
            _ if !login.asks_for_key => Err(Cause::new(
                Reason::Auth,
                "the server wants the password itself, there is no TLS, and it is not to be asked for its key",
            )
            .hint("use `tls: required`, or give the server's key by `server-public-key-path` in the URL")),
            Self::Sha256 => Ok(vec![1]),
            _ => Ok(vec![2]),
        }
    }
}

fn unknown_method(plugin: &AuthPlugin<'_>) -> Cause {
    let name = String::from_utf8_lossy(plugin.as_bytes()).into_owned();
    let cause = Cause::new(
        Reason::Auth,
        format!("the account logs in by `{name}`, which conncheck does not speak"),
    );
    match name.as_str() {
        "mysql_old_password" => cause.hint(
            "that is the login of MySQL before 4.1, and no secret: give the account a new password at the server",
        ),
        "dialog" => cause.hint(
            "for PAM in MariaDB, `pam_use_cleartext_plugin=ON` at the server and `?allowCleartextPasswords=true` in the URL do",
        ),
        _ => cause.hint(
            "give conncheck an account with `caching_sha2_password`, `mysql_native_password` or `ed25519`",
        ),
    }
}

/// A nonce of the length that its method has.
fn exactly<const N: usize>(nonce: &[u8]) -> Result<[u8; N], Cause> {
    nonce.try_into().map_err(|_| {
        Cause::protocol(format!(
            "the server's challenge has {} bytes, and {N} are due",
            nonce.len()
        ))
    })
}

fn terminated(password: &[u8]) -> Vec<u8> {
    [password, &[0]].concat()
}

/// The password under the server's RSA key.
fn under_key(pem: &[u8], login: &Login, nonce: &[u8]) -> Result<Vec<u8>, Cause> {
    let bad_key = || {
        Cause::protocol("the server's RSA key cannot be used")
            .hint("it is expected as PEM, with 2048 bits or more")
    };
    let pem = std::str::from_utf8(pem).map_err(|_| bad_key())?;
    let body: String = pem
        .trim_matches(['\0', '\n', ' '])
        .strip_prefix("-----BEGIN PUBLIC KEY-----")
        .and_then(|pem| pem.strip_suffix("-----END PUBLIC KEY-----"))
        .ok_or_else(bad_key)?
        .split_whitespace()
        .collect();
    let der = BASE64_STANDARD.decode(body).map_err(|_| bad_key())?;
    let key = PublicEncryptingKey::from_der(&der)
        .map_err(|_| bad_key())
        .and_then(|key| OaepPublicEncryptingKey::new(key).map_err(|_| bad_key()))?;
    let mut password = terminated(login.password.expose().as_bytes());
    for (byte, nonce) in password.iter_mut().zip(nonce.iter().cycle()) {
        *byte ^= nonce;
    }
    let mut sealed = vec![0; key.ciphertext_size()];
    let sealed = key
        .encrypt(&OAEP_SHA1_MGF1SHA1, &password, &mut sealed, None)
        .map_err(|_| {
            Cause::new(
                Reason::Auth,
                "the password is too long for the server's RSA key",
            )
        })?;
    Ok(sealed.to_vec())
}

/// What `mysql_common` asks a password of.
struct Password<'a>(&'a [u8]);

impl Context for Password<'_> {
    fn pass(&self) -> &[u8] {
        self.0
    }

    fn is_ipc_transport(&self) -> bool {
        false
    }

    fn is_tls_transport(&self) -> bool {
        false
    }

    fn scramble(&self) -> &[u8] {
        &[]
    }

    fn server_key_pem(&self) -> Option<&[u8]> {
        None
    }
}

fn more_follows(end: std::io::Result<OkPacket<'_>>) -> Result<bool, Cause> {
    let end = end.map_err(|_| not_an_answer())?;
    Ok(end
        .status_flags()
        .contains(StatusFlags::SERVER_MORE_RESULTS_EXISTS))
}

fn not_mysql() -> Cause {
    Cause::protocol("the answer is not in MySQL's protocol")
        .hint("is it the port of a MySQL or MariaDB server?")
}

fn not_an_answer() -> Cause {
    Cause::protocol("the answer cannot be read: it is not what MySQL answers")
}

/// What an error of the server means, by its number. Texts are looked at where a number says too
/// little, which helps only with servers that speak English.
fn classify(code: u16, message: &str, server: &Server) -> (Reason, &'static str) {
    let says = |text: &str| message.contains(text);
    match code {
        // No login: a file, mostly.
        1045 if server.is_logged_in => (
            Reason::Permission,
            "the user may log in, and may not do what `query` asks for; files take the privilege `FILE`",
        ),
        1045 if !server.has_password => (
            Reason::Auth,
            "no password is given: give `password` or a `secretRef`",
        ),
        1045 if !server.is_encrypted => (
            Reason::Auth,
            "wrong password, no such account for the address that we come from, or it wants TLS (`REQUIRE SSL`, `require_secure_transport`): the server does not tell these apart",
        ),
        1045 if !server.shows_certificate => (
            Reason::Auth,
            "wrong password, no such account for the address that we come from, or it wants a client certificate (`REQUIRE X509`): the server does not tell these apart",
        ),
        1045 => (
            Reason::Auth,
            "wrong password, no such account for the address that we come from, or it wants another client certificate (`REQUIRE SUBJECT`): the server does not tell these apart",
        ),
        1698 => (
            Reason::Auth,
            "the account logs in by other means than a password: `unix_socket` and `auth_socket` take its user on the server's own machine",
        ),
        1130 => (
            Reason::Auth,
            "there is no account for the address that we come from: `CREATE USER 'name'@'address'`",
        ),
        4151 | 3118 => (
            Reason::Auth,
            "`ALTER USER … ACCOUNT UNLOCK` lets it in again",
        ),
        4150 | 3955 => (
            Reason::Auth,
            "too many wrong passwords in a row (`FLUSH PRIVILEGES` or `ALTER USER … ACCOUNT UNLOCK` lets it in again): who has an old one?",
        ),
        1820 | 1862 => (
            Reason::Auth,
            "the password has expired: `ALTER USER … IDENTIFIED BY …`, or `PASSWORD EXPIRE NEVER`",
        ),
        1524 => (
            Reason::Auth,
            "the server has not loaded the plugin that the account logs in by",
        ),
        1251 | 1275 => (
            Reason::Auth,
            "the account has a password from before MySQL 4.1: set it anew",
        ),
        3159 => (
            Reason::Auth,
            "the server takes nobody without TLS (`require_secure_transport`): use `tls: required` or above",
        ),

        1049 if server.is_logged_in => (
            Reason::NotFound,
            "`query` names a database that is not there; case matters on most servers",
        ),
        1049 => (
            Reason::NotFound,
            "the database is named at the end of the URL; its case matters on most servers",
        ),
        1044 if server.is_logged_in => (Reason::Permission, ""),
        1044 => (
            Reason::Permission,
            "`GRANT … ON database.* TO …` lets the user in; to whom nothing is granted, a database that does not exist looks the same",
        ),
        1142 | 1143 | 1227 | 1370 | 1410 | 1419 => (
            Reason::Permission,
            "the user may log in, and may not do what `query` asks for",
        ),

        1040 => (
            Reason::Unavailable,
            "`max_connections` is reached: who holds the connections (`SHOW PROCESSLIST`)?",
        ),
        1203 => (
            Reason::Unavailable,
            "the account's `max_user_connections` is reached: who holds the connections?",
        ),
        1226 => (
            Reason::Unavailable,
            "a limit of the account is reached (`SHOW GRANTS` tells them)",
        ),
        1129 => (
            Reason::Unavailable,
            "too many connections from this address broke off before the login (`max_connect_errors`): `FLUSH HOSTS`, and look for what breaks them off",
        ),
        1047 if says("WSREP") => (
            Reason::Unavailable,
            "a Galera node that is not part of the cluster's majority, or still joins it",
        ),
        1037 | 1038 | 1041 | 1135 => (
            Reason::Unavailable,
            "the server is out of memory or threads",
        ),
        1053 | 1077 | 1079 => (Reason::Unavailable, "it is shutting down"),
        1927 => (
            Reason::Unavailable,
            "an administrator or a proxy has ended the connection",
        ),
        1205 => (
            Reason::Unavailable,
            "the query waited for a lock (`innodb_lock_wait_timeout`)",
        ),
        1213 => (Reason::Unavailable, ""),
        // Proxies that have nobody to send us on to.
        2002 | 2003 | 2006 | 2013 | 9001 => (
            Reason::Unavailable,
            "a proxy answers, and does not reach the server behind it",
        ),
        1969 | 3024 => (
            Reason::Timeout,
            "the query takes longer than an attempt may, and the server has given it up",
        ),
        1317 => (
            Reason::Timeout,
            "the server gave the query up: somebody killed it",
        ),

        1043 | 1047 | 1156..=1161 | 1835 => (Reason::Protocol, ""),
        1193 | 1231 | 1232 if server.statement == Statement::Variables => (
            Reason::Assertion,
            "the server refuses a variable that the URL sets",
        ),
        // The query has failed: syntax, no such table, division by zero.
        _ if server.is_logged_in => (Reason::Assertion, ""),
        _ => (Reason::Unavailable, ""),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::outcome::Outcome;
    use crate::testing::{self, check, percent_encoded};

    fn mistake(spec: &str) -> String {
        let mut invalid = match testing::build("mysql", spec, &[]) {
            Ok(probe) => panic!("it is right: {}", probe.endpoint()),
            Err(invalid) => invalid,
        };
        let Invalid { message, hint, .. } = invalid.remove(0);
        format!("{message} ({})", hint.unwrap_or_default())
    }

    #[test]
    fn any_login_is_what_was_given() {
        let login = |probe: &Mysql| {
            let Login { user, password, .. } = &probe.login;
            (user.expose().to_owned(), password.expose().to_owned())
        };
        for url in [
            "mysql://$(username):$(password)@h/db",
            "mysql://$(username):$(password)@tcp(h:3306)/db",
        ] {
            testing::check_logins("mysql", url, percent_encoded, ("", ""), login);
        }
        // Nothing of it is encoded, so the first `:` ends the user.
        let url = "$(username):$(password)@tcp(h:3306)/db";
        testing::check_logins("mysql", url, str::to_owned, (":", ""), login);
    }

    #[test]
    fn an_endpoint_says_where_and_nothing_else() {
        for (url, endpoint) in [
            ("mysql://u:pw@h:3307/db?charset=utf8", "mysql://h:3307"),
            ("u:pw@tcp([::1]:3307)/db", "mysql://[::1]:3307"),
            ("u:pw@unix(/run/s)/db", "mysql://unix(/run/s)"),
        ] {
            let probe = testing::build("mysql", &format!("url: {url}"), &[]).unwrap();
            assert_eq!(probe.endpoint(), endpoint);
        }
    }

    #[test]
    fn mistakes_of_a_definition_are_told() {
        for (spec, says) in [
            ("url: mysql://h/db", "there is no user"),
            ("url: mysql://u%00@h/db", "NUL character in the user"),
            ("url: mysql://u:p%00w@h/db", "NUL character in the password"),
            (
                "url: mysql://u@h/db\nproperties: {tls: verify-fll}",
                "unknown value of `tls` (did you mean `verify-full`?",
            ),
            (
                "url: mysql://u@h/db?ssl-ca=/ca.pem",
                "`/ca.pem` does not exist",
            ),
            (
                "url: mysql://u@h/db?server-public-key-path=/key.pem",
                "`/key.pem` does not exist",
            ),
            ("url: mysql://u@h/db\ncaCert: nonsense", "`caCert`"),
            ("url: mysql://u@h/db\nproperties: {schema: app}", "unknown"),
        ] {
            let mistake = mistake(spec);
            assert!(mistake.contains(says), "{spec}: {mistake}");
        }
        testing::build("mysql", "url: mysql://u@h/db\nproperties: {tls: true}", &[]).unwrap();
        // Who logs in may be in the secret.
        let whole = "url: mysql://h/db\nsecretRef: {name: login}";
        let secret = [("username", "u"), ("password", "pw")];
        testing::build("mysql", whole, &secret).unwrap();
    }

    /// A packet with this number.
    fn packet(number: u8, payload: &[u8]) -> Vec<u8> {
        let [low, middle, high, ..] = payload.len().to_le_bytes();
        [&[low, middle, high, number], payload].concat()
    }

    fn greeting(version: &str) -> Vec<u8> {
        let mut greeting = vec![10];
        greeting.extend(version.as_bytes());
        greeting.extend(b"\0\x08\0\0\0abcdefgh\0\xff\xf7\xff\x02\0\xff\xdf\x15");
        greeting.extend(b"\0\0\0\0\0\0\0\0\0\0ijklmnopqrst\0caching_sha2_password\0");
        greeting
    }

    const OK: &[u8] = &[0, 0, 0, 2, 0, 0, 0];

    /// One attempt at a peer that says these packets: the first at once, each other one after it was
    /// spoken to, with the number that is due.
    async fn at_peer(packets: &[&[u8]], query: Option<&str>) -> (Outcome, Vec<Vec<u8>>) {
        let numbers = [0, 2, 1, 1, 1];
        let words: Vec<_> = packets
            .iter()
            .zip(numbers)
            .map(|(payload, number)| packet(number, payload))
            .collect();
        let words: Vec<_> = words.iter().map(|word| Some(&**word)).collect();
        talk(&words, query).await
    }

    async fn talk(words: &[Option<&[u8]>], query: Option<&str>) -> (Outcome, Vec<Vec<u8>>) {
        let (port, peer) = testing::saying(words, true).await;
        let mut spec = format!("url: mysql://u:pw@127.0.0.1:{port}/db");
        if let Some(query) = query {
            spec += &format!("\nproperties: {{query: {query}}}");
        }
        let probe = testing::build("mysql", &spec, &[]).unwrap();
        let outcome = testing::run(&probe, testing::LONG).await;
        (outcome, peer.await.unwrap())
    }

    #[tokio::test]
    async fn a_server_is_called_by_its_name() {
        for (version, name) in [
            ("8.0.36", "MySQL 8.0.36"),
            ("8.0.36-0ubuntu0.22.04.1", "MySQL 8.0.36"),
            ("5.7.44-log", "MySQL 5.7.44"),
            ("5.5.5-10.11.14-MariaDB-0+deb12u2", "MariaDB 10.11.14"),
            ("11.8.3-MariaDB-ubu2404", "MariaDB 11.8.3"),
        ] {
            let refusal = b"\xff\x15\x04#28000no";
            let (outcome, _) = at_peer(&[&greeting(version), refusal], None).await;
            assert_eq!(outcome.server.as_deref(), Some(name));
        }
    }

    #[tokio::test]
    async fn a_conversation_ends_with_a_goodbye() {
        let (outcome, heard) = at_peer(&[&greeting("8.0.36"), OK, OK, OK], None).await;
        assert!(outcome.is_up(), "{outcome:?}");
        // Who we are, the ping, the statement, and the end.
        assert_eq!(heard.len(), 4);
        assert!(heard[0].windows(2).any(|text| text == b"u\0"));
        assert_eq!(heard[1], packet(0, &[14]));
        assert_eq!(heard[2], packet(0, b"\x03DO 1"));
        assert_eq!(heard[3], packet(0, &[1]));
    }

    #[tokio::test]
    async fn what_is_not_mysql_is_told() {
        let http = b"HTTP/1.1 400 Bad Request\r\n\r\n";
        let ssh = b"SSH-2.0-OpenSSH_9.2p1\r\n";
        let smtp = b"220 mail.example.com ESMTP\r\n";
        for word in [&http[..], ssh, smtp, b"\x15\x03\x03\0\x02\x02\x28"] {
            let (outcome, _) = talk(&[Some(word)], None).await;
            check(
                &outcome,
                Reason::Protocol,
                Phase::Auth,
                "not in MySQL's protocol",
            );
        }
        let mut with_a_long_nonce = greeting("8.0.36");
        with_a_long_nonce[7 + 21] = 0x80;
        let mut of_old = greeting("4.0.30");
        // Neither the protocol of 4.1 nor its scrambles.
        of_old[7 + 14] = 0;
        of_old[7 + 15] = 0;
        for (payload, message) in [
            (&b"\x09 3.20"[..], "version 9 of the protocol"),
            (b"\x0b\x08\x05\x1a\0", "X protocol"),
            (b"\x0a8.0.36", "not in MySQL's protocol"),
            (b"\x0a8.0.36\0\x08\0", "not in MySQL's protocol"),
            (&with_a_long_nonce, "not in MySQL's protocol"),
            (&of_old, "before 4.1"),
            (b"\xff", "cannot be read"),
            (b"\xff\x10", "cannot be read"),
        ] {
            let (outcome, _) = at_peer(&[payload], None).await;
            check(&outcome, Reason::Protocol, Phase::Auth, message);
        }
    }

    #[tokio::test]
    async fn what_is_wrong_in_a_login_is_told() {
        for (payload, reason, message) in [
            (&b"\x07"[..], Reason::Protocol, "not in MySQL's protocol"),
            (b"\x01", Reason::Protocol, "goes on with the login"),
            (b"\x01\x05", Reason::Protocol, "goes on with the login"),
            (
                b"\x01-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
                Reason::Protocol,
                "RSA key cannot be used",
            ),
            (
                b"\x01-----BEGIN",
                Reason::Protocol,
                "RSA key cannot be used",
            ),
            (b"\xfe", Reason::Auth, "`mysql_old_password`"),
            (b"\xfeunheard_of\0data", Reason::Auth, "`unheard_of`"),
            (
                b"\xfemysql_native_password\0short\0",
                Reason::Protocol,
                "challenge has 5 bytes, and 20 are due",
            ),
            (
                b"\xfeclient_ed25519\0abc",
                Reason::Protocol,
                "challenge has 3 bytes, and 32 are due",
            ),
            (
                b"\xfenever ends",
                Reason::Protocol,
                "not in MySQL's protocol",
            ),
        ] {
            let (outcome, _) = at_peer(&[&greeting("8.0.36"), payload], None).await;
            check(&outcome, reason, Phase::Auth, message);
        }
        // A login that goes round in circles.
        let switch = b"\xfemysql_native_password\0abcdefghijklmnopqrst\0";
        let words: Vec<_> = std::iter::once(packet(0, &greeting("8.0.36")))
            .chain((1..20).map(|turn| packet(turn * 2, switch)))
            .collect();
        let words: Vec<_> = words.iter().map(|word| Some(&**word)).collect();
        let (outcome, _) = talk(&words, None).await;
        check(
            &outcome,
            Reason::Protocol,
            Phase::Auth,
            "never comes to an end",
        );
    }

    #[tokio::test]
    async fn hanging_up_is_a_reset() {
        let hello = packet(0, &greeting("8.0.36"));
        let ok = packet(2, OK);
        for (words, phase) in [
            (&[None][..], Phase::Auth),
            (&[Some(&hello[..9]), None], Phase::Auth),
            (&[Some(&hello), None], Phase::Auth),
            (&[Some(&hello), Some(&ok), None], Phase::Request),
        ] {
            let (outcome, _) = talk(words, None).await;
            let failure = outcome.result.expect_err("it hung up");
            // A peer that waits for nothing hangs up before it has heard us.
            assert_eq!(failure.reason, Reason::ConnectReset, "{failure:?}");
            assert_eq!(failure.phase, Some(phase), "{failure:?}");
        }
    }

    #[tokio::test]
    async fn what_is_wrong_in_an_answer_is_told() {
        let column = b"\x03def\0\0\0\x011\0\x0c\x3f\0\x01\0\0\0\x08\x81\0\0\0\0";
        let result = |parts: &[&[u8]]| -> Vec<u8> {
            let numbered = parts.iter().zip(1..);
            numbered
                .flat_map(|(part, number)| packet(number, part))
                .collect()
        };
        let end = &[0xfe, 0, 0, 2, 0][..];
        for (answer, reason, message) in [
            (result(&[&[0]]), Reason::Protocol, "cannot be read"),
            (result(&[&[0xfe]]), Reason::Protocol, "cannot be read"),
            (
                result(&[&[1], column, column]),
                Reason::Protocol,
                "cannot be read",
            ),
            (
                result(&[&[1], column, end, b"\x011", &[0xfe]]),
                Reason::Protocol,
                "cannot be read",
            ),
            (
                result(&[&[1], b"\xff\x28\x04#42000bad column"]),
                Reason::Assertion,
                "bad column",
            ),
            (
                result(&[&[1], column, end, b"\x011", b"\xff\xd3\x04#HY000too long"]),
                Reason::Assertion,
                "too long",
            ),
            (
                result(&[b"\xfb/etc/passwd"]),
                Reason::Assertion,
                "asks for a file",
            ),
            (packet(7, OK), Reason::Protocol, "not in MySQL's protocol"),
            (packet(1, &[]), Reason::Protocol, "not in MySQL's protocol"),
        ] {
            let words = [
                packet(0, &greeting("8.0.36")),
                packet(2, OK),
                packet(1, OK),
                answer,
            ];
            let words: Vec<_> = words.iter().map(|word| Some(&**word)).collect();
            let (outcome, _) = talk(&words, Some("SELECT 1")).await;
            check(&outcome, reason, Phase::Request, message);
        }
    }

    /// A server in the middle of a conversation.
    fn server(is_logged_in: bool) -> Server {
        let mut server = Server::new(
            Stream::new(tokio::io::empty()),
            &Address::Unix("/run/s".into()),
        );
        server.has_password = true;
        server.is_logged_in = is_logged_in;
        server
    }

    #[test]
    fn each_error_has_its_reason() {
        use Reason::{Assertion, Auth, NotFound, Permission, Protocol, Timeout, Unavailable};
        for (code, message, at_login, later) in [
            (1040, "Too many connections", Unavailable, Unavailable),
            (1043, "Bad handshake", Protocol, Protocol),
            (1044, "Access denied … to database", Permission, Permission),
            (1045, "Access denied …", Auth, Permission),
            (1047, "Unknown command", Protocol, Protocol),
            (
                1047,
                "WSREP has not yet prepared node",
                Unavailable,
                Unavailable,
            ),
            (1049, "Unknown database", NotFound, NotFound),
            (
                1053,
                "Server shutdown in progress",
                Unavailable,
                Unavailable,
            ),
            (
                1064,
                "You have an error in your SQL",
                Unavailable,
                Assertion,
            ),
            (1129, "Host … is blocked", Unavailable, Unavailable),
            (1130, "Host … is not allowed", Auth, Auth),
            (1142, "SELECT command denied", Permission, Permission),
            (1146, "Table … doesn't exist", Unavailable, Assertion),
            (1193, "Unknown system variable", Unavailable, Assertion),
            (1203, "max_user_connections", Unavailable, Unavailable),
            (1205, "Lock wait timeout exceeded", Unavailable, Unavailable),
            (1226, "max_user_connections", Unavailable, Unavailable),
            (1227, "you need SUPER", Permission, Permission),
            (1251, "Client does not support", Auth, Auth),
            (1317, "Query execution was interrupted", Timeout, Timeout),
            (1524, "Plugin is not loaded", Auth, Auth),
            (1698, "Access denied", Auth, Auth),
            (1820, "You must SET PASSWORD", Auth, Auth),
            (1862, "Your password has expired", Auth, Auth),
            (1927, "Connection was killed", Unavailable, Unavailable),
            (1969, "max_statement_time exceeded", Timeout, Timeout),
            (3024, "maximum statement execution time", Timeout, Timeout),
            (3118, "Account is locked", Auth, Auth),
            (3159, "insecure transport", Auth, Auth),
            (4150, "User is blocked", Auth, Auth),
            (4151, "this account is locked", Auth, Auth),
            (
                9001,
                "Max connect timeout reached",
                Unavailable,
                Unavailable,
            ),
        ] {
            for (is_logged_in, reason) in [(false, at_login), (true, later)] {
                let [low, high] = u16::to_le_bytes(code);
                let text = [&[0xff, low, high], &b"#HY000"[..], message.as_bytes()].concat();
                let cause = server(is_logged_in).refusal(&text);
                assert_eq!(cause.reason, reason, "{code} {is_logged_in}");
                assert_eq!(cause.code, Some(code.to_string()));
                assert_eq!(cause.message, message);
            }
        }
        // Without an SQLSTATE, as before the login.
        let cause = server(false).refusal(b"\xff\x10\x04Too many connections");
        assert_eq!(cause.message, "Too many connections");
    }

    #[test]
    fn the_hint_to_a_refusal_goes_by_what_was_tried() {
        let mut server = server(false);
        let mut hint = |change: fn(&mut Server)| {
            change(&mut server);
            let (_, hint) = classify(1045, "Access denied", &server);
            hint
        };
        assert!(hint(|_| {}).contains("`REQUIRE SSL`"));
        assert!(hint(|server| server.is_encrypted = true).contains("`REQUIRE X509`"));
        assert!(hint(|server| server.shows_certificate = true).contains("`REQUIRE SUBJECT`"));
        assert!(hint(|server| server.has_password = false).contains("`secretRef`"));
    }

    #[test]
    fn an_error_is_explained_by_whose_statement_it_refuses() {
        let hint = |code, statement| {
            let mut server = server(true);
            server.statement = statement;
            classify(code, "text", &server).1
        };
        assert!(hint(1231, Statement::Variables).contains("variable that the URL sets"));
        assert_eq!(hint(1231, Statement::Query), "");
        assert!(hint(1049, Statement::Query).contains("`query` names a database"));
        assert!(hint(1045, Statement::Query).contains("`FILE`"));
        assert!(
            classify(1049, "text", &server(false))
                .1
                .contains("end of the URL")
        );
    }

    #[tokio::test]
    async fn a_password_that_has_expired_shows_in_a_statement() {
        let hello = greeting("8.0.36");
        let expired = b"\xff\x1c\x07#HY000You must reset your password";
        let (outcome, heard) = at_peer(&[&hello, OK, OK, expired], None).await;
        check(
            &outcome,
            Reason::Auth,
            Phase::Request,
            "reset your password",
        );
        assert_eq!(heard[2], packet(0, b"\x03DO 1"));
        // Who does not know the statement has answered the ping.
        let unknown = b"\xff\x28\x04#42000You have an error";
        let (outcome, _) = at_peer(&[&hello, OK, OK, unknown], None).await;
        assert!(outcome.is_up(), "{outcome:?}");
        let (outcome, _) = at_peer(&[&hello, OK, OK, b"\xff\x28"], None).await;
        check(&outcome, Reason::Protocol, Phase::Request, "cannot be read");
        let mariadb = greeting("11.8.3-MariaDB");
        let (outcome, _) = at_peer(&[&mariadb, OK, OK, unknown], None).await;
        check(&outcome, Reason::Assertion, Phase::Request, "an error");
    }

    #[tokio::test]
    async fn what_a_login_is_made_of_is_in_no_message() {
        let refused = |text: &str| [b"\xff\x48\x04#HY000", text.as_bytes()].concat();
        for (login, options, said) in [
            // Form-decoded; cut by config at another `@` than here.
            ("", "?user=app+user&password=my+pass1", "app user my pass1"),
            (
                "appuser:hunter2pass@",
                "?connectionAttributes=team:a@b",
                "appuser hunter2pass",
            ),
        ] {
            let hello = packet(0, &greeting("8.0.36"));
            let no = packet(2, &refused(said));
            let (port, _peer) = testing::saying(&[Some(&hello), Some(&no)], true).await;
            let spec = format!("url: '{login}tcp(127.0.0.1:{port})/db{options}'");
            let probe = testing::build("mysql", &spec, &[]).unwrap();
            let outcome = testing::run(&probe, testing::LONG).await;
            check(
                &outcome,
                Reason::Unavailable,
                Phase::Auth,
                "[redacted] [redacted]",
            );
        }
        // Too short to be told from other texts.
        let (port, _peer) = testing::saying(
            &[
                Some(&packet(0, &greeting("8.0.36"))),
                Some(&packet(2, &refused("11 of them"))),
            ],
            true,
        )
        .await;
        let spec = format!("url: 'u:1@tcp(127.0.0.1:{port})/db'");
        let probe = testing::build("mysql", &spec, &[]).unwrap();
        let outcome = testing::run(&probe, testing::LONG).await;
        check(&outcome, Reason::Unavailable, Phase::Auth, "11 of them");
    }

    #[test]
    fn a_password_is_nowhere_in_what_is_sent() {
        let login = Login {
            password: Secret::new("hunter2"),
            asks_for_key: true,
            ..Login::nobody()
        };
        let nonce = *b"abcdefghijklmnopqrstuvwxyzabcdef";
        for (method, length) in [
            (Method::Native, 20),
            (Method::CachingSha2, 32),
            (Method::Ed25519, 64),
        ] {
            let nonce = match method {
                Method::Ed25519 => &nonce[..],
                _ => &nonce[..20],
            };
            let answer = method.answer(&login, nonce, false).unwrap();
            assert_eq!(answer.len(), length, "{method:?}");
            // Another challenge, another answer.
            let other: Vec<u8> = nonce.iter().map(|byte| byte ^ 1).collect();
            assert_ne!(answer, method.answer(&login, &other, false).unwrap());
        }
        assert_eq!(Method::Sha256.answer(&login, &nonce, false).unwrap(), [1]);
        Method::Clear.answer(&login, &nonce, true).unwrap_err();
        assert_eq!(
            Method::CachingSha2
                .go_on(&[4], &login, &nonce, false)
                .unwrap(),
            Some(vec![2])
        );
    }

    proptest! {
        #[test]
        fn no_packet_makes_it_panic(packet in proptest::collection::vec(any::<u8>(), 1..200)) {
            let login = Login { password: Secret::new("pw"), ..Login::nobody() };
            let as_greeting = [&[10], &packet[..]].concat();
            let _ = Greeting::read(&as_greeting);
            let after_the_version = [&b"\x0a8.0.36\0"[..], &packet].concat();
            let _ = Greeting::read(&after_the_version);
            let _ = server(true).refusal(&[&[0xff], &packet[..]].concat());
            for method in [Method::CachingSha2, Method::Sha256, Method::Native] {
                let _ = method.answer(&login, &packet, false);
                let _ = method.go_on(&packet, &login, b"abcdefghijklmnopqrst", false);
            }
            let _ = under_key(&packet, &login, b"abcdefghijklmnopqrst");
        }
    }
}
