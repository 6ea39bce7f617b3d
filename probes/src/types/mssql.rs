//! `mssql`: log in to SQL Server (TDS 7.4, or 8.0 with `encrypt=strict`), then a query answers.
//!
//! Proves that the server lets us in, to the database that is named, and answers a query. Says
//! nothing about its data beyond what that query asks.
//!
//! Two cells of the contract are not as wide as elsewhere. Logins are those of SQL Server itself:
//! Windows' and Entra's are refused by name. And a named instance needs its port: the SQL Server
//! Browser, who knows it, speaks UDP and is not asked. Up to TDS 7.4 TLS is 1.2 at most, as in
//! Microsoft's own clients; 1.3 takes `encrypt=strict`.
//!
//! There is no driver. tiberius was read and left out: it keeps the server's version to itself and
//! makes text of I/O and TLS errors, so that a client certificate that is refused under TLS 1.3 looks
//! like a hang-up. What a probe needs of the protocol is PRELOGIN, LOGIN7, a batch and the passing
//! over of rows; it is in [`tds`]. No real SQL Server was to be had either: the rig's peer speaks the
//! bytes, and FreeTDS vouches for the peer.

mod dsn;
mod tds;
mod wrap;

use std::borrow::Cow;
use std::time::Duration;

use conncheck_config::{Field, Secret};
use schemars::JsonSchema;
use serde::Deserialize;

use self::dsn::{Dsn, Encrypt};
use self::tds::{Answer, Login, LoginAck, Offer, ServerError, Wire};
use crate::address::NO_PASSWORD;
use crate::attempt::{Address, Attempt, Stream};
use crate::cause::Cause;
use crate::outcome::{Failure, Phase, Reason};
use crate::probe::{Access, Invalid, ProbeType};
use crate::scrub::hidden;
use crate::tls::{Tls, TlsOptions, Verify, Version};

/// `spec.properties` of a SQL Server connection.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Settings {
    /// The query that must not fail, in place of `SELECT 1`. What it answers does not matter.
    query: Option<String>,
    /// How much is encrypted: `true` (mandatory), `false` (optional), `strict`, `disable`. Wins over
    /// the URL; without either, all of it.
    #[schemars(with = "Option<Encrypt>")]
    encrypt: Option<String>,
    /// Accept any certificate, unless a `caCert` is given. Wins over the URL.
    trust_server_certificate: Option<bool>,
    /// The name that the certificate must be for, in place of the URL's host.
    host_name_in_certificate: Option<String>,
    /// The same.
    server_name: Option<String>,
    /// Accept any certificate, whatever else is said.
    insecure_skip_verify: Option<bool>,
}

/// How much of an attempt's time is kept at most, to take back a query that does not end.
const CANCEL_MAX: Duration = Duration::from_millis(500);

/// The longest text that a login may hold, of each kind.
const LOGIN_TEXT_MAX: usize = 128;

pub(crate) struct Mssql {
    address: Address,
    dsn: Dsn,
    encryption: Encryption,
    username: Secret,
    password: Secret,
    query: String,
    /// The password as a login spells it.
    secrets: Vec<Secret>,
}

/// `encrypt`, and what it needs.
enum Encryption {
    /// `disable`
    Never,
    /// `false`
    Optional {
        /// For the login alone: whoever answers, as in Microsoft's clients, unless a `caCert` is given.
        for_login: Box<Tls>,
        /// Where the server wants all of it.
        for_all: Box<Tls>,
        /// Whether it has to be encrypted: there is something to verify against.
        must: bool,
    },
    /// `true`
    Mandatory(Tls),
    /// `strict`
    Strict(Tls),
}

impl ProbeType for Mssql {
    type Settings = Settings;

    const FURTHER_REASONS: &'static [Reason] =
        &[Reason::Permission, Reason::NotFound, Reason::Assertion];

    fn new(access: Access<'_>, settings: Settings) -> Result<Self, Invalid> {
        let dsn = Dsn::read(&access, access.url()?)?;
        let username = access
            .username(dsn.user.as_deref())
            .filter(|user| !user.is_empty())
            .ok_or_else(|| {
                access
                    .invalid(Field::Username, "there is no user to log in as")
                    .hint("write `sqlserver://user@host`, or give `username`; Windows logins are not supported")
            })?;
        if username.expose().contains('\\') {
            return Err(access
                .invalid(
                    Field::Username,
                    "a Windows login (`DOMAIN\\user`) is not supported",
                )
                .hint("give conncheck a SQL Server login (`CREATE LOGIN … WITH PASSWORD`)"));
        }
        let password = access
            .password(dsn.password.as_ref().map(Secret::expose))
            .ok_or_else(|| {
                access
                    .invalid(Field::Password, "a username without a password")
                    .hint(NO_PASSWORD)
            })?;
        let texts = [
            (Field::Username, "user", Some(username.expose())),
            (Field::Password, "password", Some(password.expose())),
            (Field::Url, "database's name", dsn.database.as_deref()),
            (Field::Url, "application's name", dsn.app_name.as_deref()),
            (Field::Url, "workstation's name", dsn.workstation.as_deref()),
            (Field::Url, "language's name", dsn.language.as_deref()),
        ];
        for (field, what, text) in texts {
            if text.is_some_and(|text| text.encode_utf16().count() > LOGIN_TEXT_MAX) {
                return Err(access.invalid(
                    field,
                    format!("the {what} is longer than the {LOGIN_TEXT_MAX} characters of a login"),
                ));
            }
        }
        Ok(Self {
            address: dsn.address(),
            encryption: encryption(&access, &settings, &dsn)?,
            secrets: hidden([
                password.clone(),
                Secret::new(tds::text(&tds::disguised(password.expose()))),
            ]),
            username,
            password,
            query: settings.query.unwrap_or_else(|| "SELECT 1".to_owned()),
            dsn,
        })
    }

    fn endpoint(&self) -> String {
        format!("sqlserver://{}", self.address)
    }

    fn secrets(&self) -> &[Secret] {
        &self.secrets
    }

    async fn probe(&self, attempt: &mut Attempt) -> Result<(), Failure> {
        attempt.limit(self.dsn.connect_timeout);
        let mut session = self.log_in(attempt).await?;
        attempt.keep_back((attempt.time_left() / 10).min(CANCEL_MAX));
        if let Some(limit) = self.dsn.command_timeout
            && limit < attempt.time_left()
        {
            attempt.limit(Some(limit));
        }
        let answer = attempt
            .phase(Phase::Request, ask(&mut session, &self.query))
            .await;
        attempt.limit(None);
        match answer {
            Ok(()) => attempt.goodbye(session.close()).await,
            // The server has not noticed: it would go on until it next writes to us.
            Err(failure) if failure.reason == Reason::Timeout && failure.code.is_none() => {
                attempt.settle(Err(failure.clone()));
                // It may hang altogether; nothing more can be done then.
                let _ = attempt.phase(Phase::Request, session.cancel()).await;
                return Err(failure);
            }
            Err(failure) => return Err(failure),
        }
        Ok(())
    }
}

/// What `encrypt` and everything around it come to.
fn encryption(access: &Access<'_>, settings: &Settings, dsn: &Dsn) -> Result<Encryption, Invalid> {
    let encrypt = match &settings.encrypt {
        None => dsn.encrypt.unwrap_or(Encrypt::Mandatory),
        Some(text) => Encrypt::parse(text).ok_or_else(|| {
            let message = format!("`encrypt` must be {}", Encrypt::EXPECTED);
            access.invalid(Field::Properties, message)
        })?,
    };
    let server_name = (settings.server_name.clone())
        .or_else(|| settings.host_name_in_certificate.clone())
        .or_else(|| dsn.host_name_in_certificate.clone());
    let mut options = access.tls_options(settings.insecure_skip_verify, server_name);
    let trust = (settings.trust_server_certificate)
        .or(dsn.trust_server_certificate)
        .unwrap_or(false);
    if trust && encrypt == Encrypt::Strict {
        let field = match settings.trust_server_certificate {
            Some(_) => Field::Properties,
            None => Field::Url,
        };
        return Err(access
            .invalid(field, "`encrypt=strict` verifies always, whatever `trustServerCertificate` says")
            .hint("leave `trustServerCertificate` out and give a `caCert`, or set `insecureSkipVerify` if it must be"));
    }
    options.min_version = dsn.min_version;
    let verifies_against_ca = options.ca_cert.is_some() && options.verify == Verify::Full;
    if trust && !verifies_against_ca {
        options.verify = Verify::Nothing;
    }
    if encrypt == Encrypt::Strict {
        options.alpn = vec![b"tds/8.0".to_vec()];
        return Ok(Encryption::Strict(access.tls(&options)?));
    }
    if dsn.min_version == Some(Version::V1_3) && encrypt != Encrypt::Disable {
        return Err(access
            .invalid(Field::Url, "bad `url`: TLS 1.3 needs `encrypt=strict`")
            .hint("up to TDS 7.4, SQL Server speaks TLS 1.2 at most"));
    }
    options.max_version = Some(Version::V1_2);
    Ok(match encrypt {
        Encrypt::Disable => Encryption::Never,
        Encrypt::Optional => {
            let for_login = TlsOptions {
                verify: match verifies_against_ca {
                    true => Verify::Full,
                    false => Verify::Nothing,
                },
                ..options.clone()
            };
            Encryption::Optional {
                for_login: Box::new(access.tls(&for_login)?),
                for_all: Box::new(access.tls(&options)?),
                must: verifies_against_ca,
            }
        }
        Encrypt::Mandatory | Encrypt::Strict => Encryption::Mandatory(access.tls(&options)?),
    })
}

/// What PRELOGIN has led to.
enum Agreed<'a> {
    Plain,
    /// Only the login is encrypted.
    Login(&'a Tls),
    All(&'a Tls),
}

impl Encryption {
    /// What we ask for, up to TDS 7.4.
    fn wants(&self) -> Offer {
        match self {
            Self::Never => Offer::NotSupported,
            Self::Optional { .. } => Offer::Off,
            Self::Mandatory(_) | Self::Strict(_) => Offer::On,
        }
    }

    /// What we do, once the server has said what it does.
    fn agree(&self, server: Offer) -> Result<Agreed<'_>, Cause> {
        let refuse = |what: &str, hint: &'static str| {
            Err(Cause::new(Reason::TlsOther, what)
                .phase(Phase::Tls)
                .hint(hint))
        };
        match (self, server) {
            // `strict` has come to it before.
            (Self::Never | Self::Strict(_), Offer::NotSupported | Offer::Off) => Ok(Agreed::Plain),
            (Self::Strict(_), _) => Ok(Agreed::Plain),
            (Self::Never, Offer::On | Offer::Required) => refuse(
                "the server wants everything encrypted, and `encrypt=disable` rules that out",
                "set `encrypt` to `true`",
            ),
            (Self::Optional { for_all, .. }, Offer::On | Offer::Required) => {
                Ok(Agreed::All(for_all))
            }
            (Self::Optional { for_login, .. }, Offer::Off) => Ok(Agreed::Login(for_login)),
            (Self::Optional { must: false, .. }, Offer::NotSupported) => Ok(Agreed::Plain),
            (Self::Optional { .. }, Offer::NotSupported) => refuse(
                "the server does not offer TLS, and there is a `caCert` to verify it against",
                "give the server a certificate, or leave `caCert` out",
            ),
            (Self::Mandatory(tls), Offer::On | Offer::Required) => Ok(Agreed::All(tls)),
            (Self::Mandatory(_), Offer::NotSupported) => refuse(
                "the server does not offer TLS",
                "give the server a certificate, or set `encrypt` to `false` (and no `caCert`)",
            ),
            (Self::Mandatory(_), Offer::Off) => refuse(
                "the server would encrypt the login only, and `encrypt=true` wants all of it",
                "is it a SQL Server, and not something between that speaks for it?",
            ),
        }
    }
}

/// What came of a login.
enum LoggedIn {
    Here(Wire),
    /// Another server is to be asked.
    There(Address),
}

impl Mssql {
    /// Logs in at the server, or at the one that it sends us to: a replica that only reads, the node
    /// of Azure's that has the database.
    async fn log_in(&self, attempt: &mut Attempt) -> Result<Wire, Failure> {
        let address = match self.log_in_at(attempt, &self.address).await? {
            LoggedIn::Here(session) => return Ok(session),
            LoggedIn::There(address) => address,
        };
        attempt.talks_to(Some(format!("sqlserver://{address}")));
        match self.log_in_at(attempt, &address).await? {
            LoggedIn::Here(session) => Ok(session),
            LoggedIn::There(further) => Err(Cause::protocol(format!(
                "`sqlserver://{address}`: `{}` has sent us there, and it sends us on to `{further}`; only one such step is taken",
                self.address
            ))
            .hint("read-only routing or a redirect of the server's goes in circles")
            .in_phase(Phase::Auth)),
        }
    }

    async fn log_in_at(
        &self,
        attempt: &mut Attempt,
        address: &Address,
    ) -> Result<LoggedIn, Failure> {
        let stream = attempt.dial(address).await?;
        let stream = match &self.encryption {
            Encryption::Strict(tls) => {
                let encrypted = attempt.tls(stream, tls, address.host()).await;
                encrypted.map_err(without_tds8)?.0
            }
            _ => stream,
        };
        let mut wire = Wire::new(stream);
        let agreed = self.negotiate(attempt, &mut wire).await?;
        let (mut wire, plain) = match agreed {
            Agreed::Plain => (wire, None),
            Agreed::Login(tls) => {
                let (wire, plain) = encrypt(attempt, wire, tls, address).await?;
                (wire, Some(plain))
            }
            Agreed::All(tls) => (encrypt(attempt, wire, tls, address).await?.0, None),
        };
        let login = self.login(address);
        let step = async {
            let sent = wire.send_login(&login).await;
            if let Some(plain) = plain {
                plain.tls_is_over();
                wire.switch_to(Stream::new(plain));
            }
            let answer = wire.login_answer(sent).await?;
            what_came_of_the_login(answer)
        };
        match attempt.phase(Phase::Auth, step).await? {
            (ack, None) => {
                attempt.server(server(&ack.name, ack.version));
                Ok(LoggedIn::Here(wire))
            }
            (_, Some(address)) => {
                wire.close().await;
                Ok(LoggedIn::There(address))
            }
        }
    }

    /// Asks what the server has, and decides.
    async fn negotiate(
        &self,
        attempt: &mut Attempt,
        wire: &mut Wire,
    ) -> Result<Agreed<'_>, Failure> {
        // Where there is nothing to encrypt (any more), this is the beginning of the login.
        let phase = match &self.encryption {
            Encryption::Never | Encryption::Strict(_) => Phase::Auth,
            Encryption::Optional { .. } | Encryption::Mandatory(_) => Phase::Tls,
        };
        let instance = self.dsn.instance.as_deref().unwrap_or_default();
        let step = async {
            let answer = wire
                .prelogin(self.encryption.wants(), instance)
                .await
                .map_err(|cause| match (&self.encryption, cause.reason) {
                    (Encryption::Strict(_), _) => cause,
                    (_, Reason::ConnectReset) if cause.hint.is_none() => cause.hint(
                        "a server that is set to strict encryption wants `encrypt=strict`; one that is overloaded hangs up too",
                    ),
                    _ => cause,
                })?;
            if !answer.is_instance {
                return Err(Cause::new(
                    Reason::NotFound,
                    format!("the server behind that port is not the instance `{instance}`"),
                )
                .hint("check the instance's port; if it is a database, write `?database=name`"));
            }
            let agreed = self.encryption.agree(answer.encryption)?;
            Ok((answer.version, agreed))
        };
        let what = "the server did not answer the PRELOGIN";
        let (version, agreed) = attempt.phase_of(phase, what, step).await?;
        if let Some(version) = version {
            attempt.server(server("Microsoft SQL Server", version));
        }
        Ok(agreed)
    }

    fn login<'a>(&'a self, address: &'a Address) -> Login<'a> {
        let text = |text: &'a Option<String>| text.as_deref().unwrap_or_default();
        Login {
            strict: matches!(self.encryption, Encryption::Strict(_)),
            username: self.username.expose(),
            password: self.password.expose(),
            server: address.host(),
            database: text(&self.dsn.database),
            app_name: self.dsn.app_name.as_deref().unwrap_or("conncheck"),
            workstation: text(&self.dsn.workstation),
            language: text(&self.dsn.language),
            read_only: self.dsn.read_only,
            packet_bytes: self.dsn.packet_bytes.unwrap_or(4096),
        }
    }
}

/// Shakes hands inside of packets. Gives the encrypted conversation, and the connection below it.
async fn encrypt(
    attempt: &mut Attempt,
    wire: Wire,
    tls: &Tls,
    address: &Address,
) -> Result<(Wire, wrap::Plain), Failure> {
    let stream = wire
        .into_stream()
        .map_err(|cause| cause.in_phase(Phase::Tls))?;
    let (under_tls, plain) = wrap::wrap(stream);
    let (stream, _) = attempt
        .tls(Stream::new(under_tls), tls, address.host())
        .await
        .map_err(untrusted)?;
    plain.handshake_is_over();
    Ok((Wire::new(stream), plain))
}

/// A server that has no certificate makes itself one, which nobody trusts.
fn untrusted(failure: Failure) -> Failure {
    match failure.reason {
        Reason::TlsUnknownCa => Failure {
            hint: Some(
                "give the authority as `caCert`; a server without a certificate makes itself one, which only `trustServerCertificate: true` accepts"
                    .into(),
            ),
            ..failure
        },
        _ => failure,
    }
}

fn without_tds8(failure: Failure) -> Failure {
    match failure.reason {
        Reason::ConnectReset | Reason::Protocol => Failure {
            hint: Some(
                "`encrypt=strict` (TDS 8.0) needs SQL Server 2022 or Azure SQL; use `encrypt=true` for an older one"
                    .into(),
            ),
            ..failure
        },
        _ => failure,
    }
}

fn what_came_of_the_login(answer: Answer) -> Result<(LoginAck, Option<Address>), Cause> {
    if let Some(error) = answer.error {
        return Err(cause_of(&error, true));
    }
    let ack = answer.login.filter(|_| !answer.failed).ok_or_else(|| {
        Cause::protocol("the server neither let us in nor said why")
            .hint("is it a SQL Server, and not something that only begins like one?")
    })?;
    let address = answer.routing.map(|(host, port)| Address::Tcp {
        // An instance may be named, but the port has found it already.
        host: match host.split_once('\\') {
            Some((host, _)) => host.to_owned(),
            None => host,
        },
        port,
    });
    Ok((ack, address))
}

async fn ask(session: &mut Wire, query: &str) -> Result<(), Cause> {
    let answer = session.query(query).await.map_err(Cause::of_query)?;
    match answer.error {
        Some(error) => Err(cause_of(&error, false)),
        None if answer.failed => Err(Cause::new(
            Reason::Assertion,
            "the server says that the query failed, and not why",
        )),
        None => Ok(()),
    }
}

/// `Microsoft SQL Server 2022 (16.0.4135)`
fn server(name: &str, version: tds::Version) -> String {
    let tds::Version(major, minor, build) = version;
    let year = match (major, minor) {
        (17, _) => " 2025",
        (16, _) => " 2022",
        (15, _) => " 2019",
        (14, _) => " 2017",
        (13, _) => " 2016",
        // Azure SQL says this for ever.
        (12, _) => " 2014 or Azure SQL",
        (11, _) => " 2012",
        (10, 50) => " 2008 R2",
        (10, _) => " 2008",
        (9, _) => " 2005",
        _ => "",
    };
    format!("{name}{year} ({major}.{minor}.{build})")
}

/// What a server's error means.
fn cause_of(error: &ServerError, at_login: bool) -> Cause {
    let (reason, hint) = classify(error, at_login);
    // A server that tells the state of a refused login (most tell 1) tells why by it.
    let message = match (error.number, error.state) {
        (18456, 0 | 1) => Cow::Borrowed(error.message.as_str()),
        (18456, state) => Cow::Owned(format!("{} (state {state})", error.message)),
        _ => Cow::Borrowed(error.message.as_str()),
    };
    let cause = Cause::new(reason, message).code(error.number.to_string());
    match hint {
        "" => cause,
        hint => cause.hint(hint),
    }
}

/// The table of error numbers. The severity decides about those that are not in it.
fn classify(error: &ServerError, at_login: bool) -> (Reason, &'static str) {
    match error.number {
        18456 => match error.state {
            5 => (Reason::Auth, "there is no such login"),
            7 => (
                Reason::Auth,
                "the login is disabled, and the password is wrong",
            ),
            8 => (Reason::Auth, "wrong password"),
            11 | 12 => (
                Reason::Auth,
                "the login is right, and may not connect to the server",
            ),
            58 => (
                Reason::Auth,
                "the server takes Windows logins only: set it to mixed mode",
            ),
            _ => (
                Reason::Auth,
                "wrong user or password, or the server takes Windows logins only; its error log has the state that tells which",
            ),
        },
        18452 => (
            Reason::Auth,
            "the server took it for a Windows login: it takes no others, or has no such login of its own",
        ),
        18470 => (Reason::Auth, "`ALTER LOGIN … ENABLE`"),
        18486 => (
            Reason::Auth,
            "too many wrong passwords, perhaps ours: `ALTER LOGIN … WITH PASSWORD = '…' UNLOCK`",
        ),
        18487 => (
            Reason::Auth,
            "the password has expired: `ALTER LOGIN … WITH PASSWORD = '…'`, and `CHECK_EXPIRATION = OFF` for a login of a machine",
        ),
        18488 => (
            Reason::Auth,
            "the login was made with `MUST_CHANGE`, which a machine cannot: `ALTER LOGIN … WITH PASSWORD = '…'`",
        ),
        // The server is shutting down, in single-user mode, out of licences, paused, being upgraded.
        18401 | 18451 | 18458 | 18459 | 18460 | 18461 | 17142 | 17187 | 17188 | 17189 | 17190
        | 17191 | 17197 | 17198 | 17200 => (
            Reason::Unavailable,
            "it is starting, stopping, being upgraded, or kept for its administrator",
        ),
        // What we have sent is broken in its eyes.
        17828 | 17832 => (Reason::Protocol, ""),
        18450..=18499 | 17806 | 33155 => (Reason::Auth, ""),
        17892 => (
            Reason::Permission,
            "a logon trigger of the server's turned the login away",
        ),

        4060 => (
            Reason::NotFound,
            "there is no such database, or the login has no user in it; the server does not tell which",
        ),
        4063 | 4064 => (
            Reason::NotFound,
            "the login's default database is not there, or it may not use it: name another one (`database=`), or `ALTER LOGIN … WITH DEFAULT_DATABASE`",
        ),
        911 => (Reason::NotFound, "there is no such database"),
        40532 => (
            Reason::NotFound,
            "Azure SQL does not know this server: check the host's name, or write the user as `user@server`",
        ),
        40531 => (
            Reason::NotFound,
            "Azure SQL needs the name of the server: connect by it and not by an address, or write the user as `user@server`",
        ),
        916 => (
            Reason::Permission,
            "the login has no user in that database: `CREATE USER … FOR LOGIN …`",
        ),
        229 | 230 | 262 | 297 | 300 | 378 | 1088 | 2760 | 6004 | 15247 | 15517 => (
            Reason::Permission,
            "the user may log in, and may not do what `query` asks for",
        ),
        40615 | 40914 | 47073 => (
            Reason::Permission,
            "the firewall of Azure SQL does not let this machine's address in",
        ),

        40613 => (
            Reason::Unavailable,
            "the database is being moved or resumed; that takes a minute, and if not, look at Azure's status",
        ),
        40197 | 40143 | 40166 | 40540 | 4221 | 42108 | 42109 | 615 => (
            Reason::Unavailable,
            "Azure SQL is moving or upgrading something: mostly over in a minute",
        ),
        40501 | 49918 | 49919 | 49920 | 40549 | 40550 | 40551 | 40552 | 40553 => {
            (Reason::Unavailable, "Azure SQL is out of resources for us")
        }
        40544 => (Reason::Unavailable, "the database has reached its size"),
        17809 | 17300 => (
            Reason::Unavailable,
            "`user connections` is reached: who holds the connections?",
        ),
        10928 | 10929 | 10936 | 40508 => (
            Reason::Unavailable,
            "the limit of sessions or workers of this tier is reached: who holds the connections?",
        ),
        // The database is being recovered, restored, is offline, suspect, or kept for one.
        904 | 921 | 922 | 924 | 926 | 927 | 942 | 945 | 946 | 952 | 954 | 983 => (
            Reason::Unavailable,
            "the database is not open: restoring, offline, or kept for one user",
        ),
        976 | 978 | 979 | 981 | 982 => (
            Reason::Unavailable,
            "a secondary replica that takes no reader, or readers only (`ApplicationIntent=ReadOnly`)",
        ),
        701 | 802 | 845 | 1105 | 1204 | 3967 | 8645 | 8651 | 9002 => {
            (Reason::Unavailable, "the server is out of memory or space")
        }
        1205 | 1222 | 3960 => (
            Reason::Unavailable,
            "the query waited for a lock, or others waited for it",
        ),
        596 | 3980 | 6001..=6003 | 6005 => (
            Reason::Unavailable,
            "the session was ended by an administrator, or the server is shutting down",
        ),
        _ if at_login || error.class >= 17 => (Reason::Unavailable, ""),
        // The query has failed: syntax, no such table, division by zero.
        _ => (Reason::Assertion, ""),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::outcome::Outcome;
    use crate::probe::Probe;
    use crate::testing::{self, Peer, Script, check, hold, percent_encoded};

    fn build(spec: &str) -> Result<Arc<dyn Probe>, String> {
        testing::build_or_say("mssql", spec)
    }

    const URL: &str = "url: sqlserver://u:pw@db.example.com";

    #[test]
    fn any_login_is_what_was_given() {
        let login = |probe: &Mssql| {
            let Mssql {
                username, password, ..
            } = probe;
            (username.expose().to_owned(), password.expose().to_owned())
        };
        let url = "sqlserver://$(username):$(password)@h?database=db";
        testing::check_logins("mssql", url, percent_encoded, ("\\", ""), login);
        let keywords = "Server=h;User Id=$(username);Password=$(password);Database=db";
        let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
        testing::check_logins("mssql", keywords, quoted, ("\\", ""), login);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (spec, message) in [
            ("url: sqlserver://db.example.com", "there is no user"),
            ("url: sqlserver://u@db.example.com", "without a password"),
            (
                "url: sqlserver://u:@db.example.com",
                "an empty one (`user:@host`) cannot be given",
            ),
            ("url: Server=h;User Id=D\\u;Password=x", "Windows login"),
            (
                &format!("{URL}\nproperties: {{encrypt: maybe}}"),
                "`encrypt` must be `true`",
            ),
            (
                &format!("{URL}?encrypt=strict&trustServerCertificate=true"),
                "verifies always",
            ),
            (
                &format!("{URL}?encrypt=strict\nproperties: {{trustServerCertificate: true}}"),
                "verifies always",
            ),
            (&format!("{URL}?tlsmin=1.3"), "needs `encrypt=strict`"),
            (
                &format!("{URL}?database={}", "x".repeat(129)),
                "longer than the 128",
            ),
            (
                &format!("{URL}\npassword: {}", "x".repeat(129)),
                "longer than the 128",
            ),
            (
                &format!("{URL}\nproperties: {{serverName: 'a b'}}"),
                "`serverName`",
            ),
        ] {
            let error = build(spec).err().unwrap_or_else(|| panic!("{spec}"));
            assert!(error.contains(message), "{spec}: {error}");
        }
    }

    #[test]
    fn encrypt_may_be_a_bare_word_of_yaml() {
        for encrypt in ["true", "false", "strict", "'off'", "disable"] {
            let spec = format!("{URL}\nproperties: {{encrypt: {encrypt}}}");
            let probe = build(&spec).unwrap();
            assert_eq!(probe.endpoint(), "sqlserver://db.example.com:1433");
        }
        build(&format!("{URL}?encrypt=strict&tlsmin=1.3")).unwrap();
    }

    /// A packet that ends its message.
    fn packet(payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u16 + 8).to_be_bytes();
        [&[4, 1, length[0], length[1], 0, 0, 1, 0], payload].concat()
    }

    /// The answer to PRELOGIN of a server that has no TLS.
    fn no_tls() -> Vec<u8> {
        packet(b"\x01\0\x06\0\x01\xff\x02")
    }

    /// One attempt at a peer that says this when it is first spoken to.
    async fn at_peer(script: Script, encrypt: &str) -> Outcome {
        at_peer_within(testing::LONG, script, encrypt).await
    }

    async fn at_peer_within(timeout: Duration, script: Script, encrypt: &str) -> Outcome {
        let peer = Peer::new([script]).await;
        let url = format!(
            "url: sqlserver://u:pw@127.0.0.1:{}?encrypt={encrypt}",
            peer.port
        );
        testing::run(&build(&url).unwrap(), timeout).await
    }

    #[tokio::test]
    async fn peers_that_are_no_sql_server() {
        for words in [
            &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
            b"220 mail.example.com ESMTP\r\n",
            b"\x15\x03\x01\0\x02\x02\x46",
            b"J\0\0\0\x0a8.0.36\0",
            b"\x04\x01\0\x07\0\0\0\0",
            &packet(b""),
            &packet(b"\x01\0\x06\0\x01\xff\x09"),
            &packet(b"\0\0\x06\0\x02\xff\0\0"),
            // A PRELOGIN without an end.
            &[&[4, 0, 0x7F, 0xFF, 0, 0, 1, 0][..], &[0; 0x7FF7][..]]
                .concat()
                .repeat(2),
        ] {
            for (encrypt, phase) in [("disable", Phase::Auth), ("true", Phase::Tls)] {
                // The peer waits for the end of a web request, which never comes: it speaks first.
                let outcome = at_peer(Script::First(words.to_vec()), encrypt).await;
                check(
                    &outcome,
                    Reason::Protocol,
                    phase,
                    "not in SQL Server's protocol",
                );
            }
        }
    }

    #[tokio::test]
    async fn peers_that_say_too_little_or_too_much() {
        let first = |words: &[u8]| Script::First(words.to_vec());
        let has_tls = packet(b"\x01\0\x06\0\x01\xff\x01");
        let hangs = |script, encrypt| at_peer_within(testing::UNTIL_THEY_HANG, script, encrypt);
        let (half, in_the_login, in_the_handshake, silent) = tokio::join!(
            hangs(first(&no_tls()[..5]), "true"),
            hangs(first(&no_tls()), "disable"),
            hangs(first(&has_tls), "true"),
            // Until a request ends that is none of ours.
            hangs(hold(no_tls()), "disable"),
        );
        let no_prelogin = "did not answer the PRELOGIN";
        check(&half, Reason::Timeout, Phase::Tls, no_prelogin);
        check(&in_the_login, Reason::Timeout, Phase::Auth, "login");
        check(&in_the_handshake, Reason::Timeout, Phase::Tls, "handshake");
        check(&silent, Reason::Timeout, Phase::Auth, "PRELOGIN");
        let outcome = at_peer(first(&no_tls()), "true").await;
        check(&outcome, Reason::TlsOther, Phase::Tls, "does not offer TLS");
        let only_login = packet(b"\x01\0\x06\0\x01\xff\x00");
        let outcome = at_peer(first(&only_login), "true").await;
        check(&outcome, Reason::TlsOther, Phase::Tls, "the login only");
        // Something is stuffed behind the answer, to be taken for what comes encrypted.
        let stuffed = [&has_tls[..], &no_tls()].concat();
        let outcome = at_peer(first(&stuffed), "true").await;
        check(
            &outcome,
            Reason::Protocol,
            Phase::Tls,
            "more behind the answer",
        );
        // A welcome without a word of who says it.
        let done = packet(&[0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let outcome = at_peer(first(&[no_tls(), done].concat()), "disable").await;
        check(
            &outcome,
            Reason::Protocol,
            Phase::Auth,
            "neither let us in nor said why",
        );
    }

    #[test]
    fn each_error_has_its_reason() {
        let error = |number, class| ServerError {
            number,
            state: 1,
            class,
            message: "text".to_owned(),
        };
        for (number, class, at_login, reason) in [
            (18456, 14, true, Reason::Auth),
            (18452, 14, true, Reason::Auth),
            (18470, 14, true, Reason::Auth),
            (18486, 14, true, Reason::Auth),
            (18487, 14, true, Reason::Auth),
            (18488, 14, true, Reason::Auth),
            (18489, 14, true, Reason::Auth),
            (17828, 20, true, Reason::Protocol),
            (17832, 20, true, Reason::Protocol),
            (18401, 14, true, Reason::Unavailable),
            (18451, 14, true, Reason::Unavailable),
            (18461, 14, true, Reason::Unavailable),
            (17142, 14, true, Reason::Unavailable),
            (4060, 11, true, Reason::NotFound),
            (4064, 11, true, Reason::NotFound),
            (40532, 11, true, Reason::NotFound),
            (40615, 14, true, Reason::Permission),
            (17892, 14, true, Reason::Permission),
            (40613, 17, true, Reason::Unavailable),
            (40197, 17, true, Reason::Unavailable),
            (40501, 20, true, Reason::Unavailable),
            (49918, 16, true, Reason::Unavailable),
            (10928, 20, true, Reason::Unavailable),
            (10929, 20, true, Reason::Unavailable),
            (17809, 20, true, Reason::Unavailable),
            (927, 14, true, Reason::Unavailable),
            (233, 16, true, Reason::Unavailable),
            (916, 14, false, Reason::Permission),
            (229, 14, false, Reason::Permission),
            (911, 16, false, Reason::NotFound),
            (208, 16, false, Reason::Assertion),
            (102, 15, false, Reason::Assertion),
            (8134, 16, false, Reason::Assertion),
            (50000, 16, false, Reason::Assertion),
            (1205, 13, false, Reason::Unavailable),
            (701, 17, false, Reason::Unavailable),
            (596, 21, false, Reason::Unavailable),
            (50000, 20, false, Reason::Unavailable),
        ] {
            let cause = cause_of(&error(number, class), at_login);
            assert_eq!(cause.reason, reason, "{number}");
            assert_eq!(cause.code.as_deref(), Some(number.to_string().as_str()));
            assert_eq!(cause.message, "text");
        }
        let told = ServerError {
            state: 38,
            ..error(18456, 14)
        };
        assert_eq!(cause_of(&told, true).message, "text (state 38)");
    }

    #[tokio::test]
    async fn a_short_password_is_not_taken_out_of_everything() {
        let error = [
            &b"\xAA\x1e\0\x18\x48\0\0\x08\x0e\x08\0"[..],
            &"a 18456!"
                .encode_utf16()
                .flat_map(u16::to_le_bytes)
                .collect::<Vec<_>>(),
            b"\0\0\x01\0\0\0",
        ]
        .concat();
        let peer = Peer::new([Script::First([no_tls(), packet(&error)].concat())]).await;
        let url = format!(
            "url: sqlserver://u:1@127.0.0.1:{}?encrypt=disable",
            peer.port
        );
        let outcome = testing::run(&build(&url).unwrap(), testing::LONG).await;
        let failure = outcome.result.unwrap_err();
        assert_eq!(failure.code.as_deref(), Some("18456"), "{failure:?}");
        assert_eq!(failure.message, "a 18456! (state 8)");
    }

    #[test]
    fn servers_have_their_names() {
        for (version, name) in [
            (tds::Version(16, 0, 4135), "S 2022 (16.0.4135)"),
            (tds::Version(12, 0, 2000), "S 2014 or Azure SQL (12.0.2000)"),
            (tds::Version(10, 50, 6000), "S 2008 R2 (10.50.6000)"),
            (tds::Version(18, 0, 1), "S (18.0.1)"),
        ] {
            assert_eq!(server("S", version), name);
        }
    }

    #[test]
    fn who_sends_us_on_may_name_an_instance() {
        let answer = Answer {
            login: Some(LoginAck {
                name: "S".to_owned(),
                version: tds::Version(16, 0, 1),
            }),
            routing: Some(("node\\SQL".to_owned(), 11_000)),
            ..Answer::default()
        };
        let (_, address) = what_came_of_the_login(answer).unwrap();
        assert_eq!(address.unwrap().to_string(), "node:11000");
    }
}
