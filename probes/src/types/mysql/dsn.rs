//! Reads where a MySQL server is: `mysql://user@host:3306/db?option=value`, and the form of Go's
//! driver, `user:password@tcp(host:3306)/db?option=value`, with or without `mysql://` before it.
//!
//! There is no one list of options: MySQL's own clients, Go's, Java's, Python's and Ruby's drivers
//! each have theirs, and a URL is often copied from one to the other. Those of all of them are known:
//! honoured, or of no consequence to a single attempt, or refused by name.

use std::time::Duration;

use conncheck_config::{Field, Secret};
use mysql_common::collations::{Collation, CollationId};
use url::form_urlencoded;

use crate::address::{
    Location, host_and_port, leniently_decoded, options_may_be_password, unknown_option,
};
use crate::attempt::Address;
use crate::probe::{Access, Invalid};
use crate::schema::{words, written};
use crate::tls::Version;

const DEFAULT_PORT: u16 = 3306;

/// All of Unicode, and known to every server since MySQL 5.5.
pub(super) const DEFAULT_COLLATION: u8 = CollationId::UTF8MB4_GENERAL_CI as u8;

/// What a URL says, understood.
#[derive(Debug)]
pub(super) struct Dsn {
    pub(super) address: Address,
    pub(super) user: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) database: Option<String>,
    pub(super) options: Options,
}

/// What may stand behind the `?`.
#[derive(Debug, Default)]
pub(super) struct Options {
    pub(super) tls: Option<TlsMode>,
    /// A bare `ssl=true` or `ssl=false`, which may stand beside a mode.
    ssl: Option<bool>,
    /// Paths.
    pub(super) ssl_ca: Option<String>,
    pub(super) ssl_cert: Option<String>,
    pub(super) ssl_key: Option<String>,
    pub(super) min_version: Option<Version>,
    pub(super) max_version: Option<Version>,
    charset: Option<u8>,
    collation: Option<u8>,
    /// How long it may take until there is a connection.
    pub(super) connect_timeout: Option<Duration>,
    /// How long each answer may take.
    pub(super) read_timeout: Option<Duration>,
    pub(super) multi_statements: bool,
    pub(super) clear_password: bool,
    pub(super) without_native_password: bool,
    /// The file of the RSA key that a password is sent under where there is no TLS.
    pub(super) key_file: Option<String>,
    /// Whether the server may be asked for it.
    asks_for_key: Option<bool>,
    /// What is told about the client, beside what is told anyway.
    pub(super) attributes: Vec<(String, String)>,
    /// Variables of the session, and the SQL that they are set to.
    pub(super) variables: Vec<(String, String)>,
    user: Option<String>,
    password: Option<Secret>,
    socket: Option<String>,
}

/// From the one that asks for least to the one that asks for most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TlsMode {
    Disabled,
    Preferred,
    Required,
    VerifyCa,
    VerifyFull,
}

/// MySQL's names, and what Go's, Java's and MariaDB's drivers call the same.
const TLS_MODES: &[(&str, TlsMode)] = &[
    ("disabled", TlsMode::Disabled),
    ("preferred", TlsMode::Preferred),
    ("required", TlsMode::Required),
    ("verify-ca", TlsMode::VerifyCa),
    ("verify-full", TlsMode::VerifyFull),
    ("verify-identity", TlsMode::VerifyFull),
    ("disable", TlsMode::Disabled),
    ("prefer", TlsMode::Preferred),
    ("require", TlsMode::Required),
    ("trust", TlsMode::Required),
    ("skip-verify", TlsMode::Required),
    ("true", TlsMode::VerifyFull),
    ("false", TlsMode::Disabled),
];

written!(TlsMode: {
    let names: Vec<&str> = TLS_MODES.iter().map(|(name, _)| *name).collect();
    let (ours, others) = names.split_at(5);
    words(ours, others)
});

impl TlsMode {
    /// Reads a mode in whatever spelling; the error is a hint.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let written = text.trim().to_ascii_lowercase().replace('_', "-");
        if let Some((_, mode)) = TLS_MODES.iter().find(|(name, _)| *name == written) {
            return Ok(*mode);
        }
        let names = TLS_MODES.iter().map(|(name, _)| *name);
        Err(match conncheck_config::closest(&written, names) {
            Some(close) => format!("did you mean `{close}`?"),
            None => "it knows disabled, preferred, required, verify-ca and verify-full".to_owned(),
        })
    }
}

/// What is honoured, for suggestions.
const HONOURED: &[&str] = &[
    "tls",
    "sslMode",
    "ssl-mode",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "tls-version",
    "charset",
    "collation",
    "timeout",
    "readTimeout",
    "connectTimeout",
    "connect-timeout",
    "socketTimeout",
    "multiStatements",
    "allowCleartextPasswords",
    "allowNativePasswords",
    "allowPublicKeyRetrieval",
    "server-public-key-path",
    "connectionAttributes",
    "socket",
    "user",
    "password",
];

/// Options that change nothing for one attempt: pools, how values are handed to a program, limits of
/// what we never send. Spelt as [`plain`] makes them.
const OF_NO_CONSEQUENCE: &[&str] = &[
    // Go
    "allowallfiles",
    "checkconnliveness",
    "clientfoundrows",
    "columnswithalias",
    "compress",
    "interpolateparams",
    "loc",
    "maxallowedpacket",
    "parsetime",
    "rejectreadonly",
    "timetruncate",
    "writetimeout",
    // MySQL's own connectors
    "compression",
    "compressionalgorithms",
    "compressionlevel",
    // Java
    "autoreconnect",
    "cacheprepstmts",
    "cacheresultsetmetadata",
    "cacheserverconfiguration",
    "characterencoding",
    "maintaintimestats",
    "nullcatalogmeanscurrent",
    "prepstmtcachesize",
    "prepstmtcachesqllimit",
    "rewritebatchedstatements",
    "servertimezone",
    "connectiontimezone",
    "tcpkeepalive",
    "tinyint1isbit",
    "usecompression",
    "usecursorfetch",
    "uselegacydatetimecode",
    "useserverprepstmts",
    "useunicode",
    "zerodatetimebehavior",
    // Pools
    "acquiretimeout",
    "connectionlifetime",
    "connectionlimit",
    "maxidleconns",
    "maxopenconns",
    "maxpoolsize",
    "minpoolsize",
    "maximumpoolsize",
    "minimumpoolsize",
    "pool",
    "poolsize",
    "pooltimeout",
    "pooling",
    "reconnect",
    "statementcachesize",
];

/// Options that ask for what is not done here, and why; spelt as [`plain`] makes them.
const REFUSED: &[(&str, &str)] = &[
    (
        "serverpubkey",
        "it names a key that a Go program has registered; give `server-public-key-path`",
    ),
    ("sslcapath", "give one file as `ssl-ca`, or `caCert`"),
    ("sslcrl", "revocation lists are not read"),
    ("sslcrlpath", "revocation lists are not read"),
    ("sslcipher", "the ciphers are those of rustls"),
    ("tlsciphersuites", "the ciphers are those of rustls"),
    (
        "sslpassword",
        "encrypted keys are not read: decrypt it, and keep it in a secret",
    ),
    ("sslidentity", "give `clientCert` and `clientKey`"),
    ("usessl", "use `sslMode`"),
    ("requiressl", "use `sslMode=REQUIRED`"),
    ("verifyservercertificate", "use `sslMode=VERIFY_CA`"),
    ("sslverifycert", "use `ssl-mode=VERIFY_CA`"),
    ("sslverifyidentity", "use `ssl-mode=VERIFY_IDENTITY`"),
    ("sslverifyservercert", "use `ssl-mode=VERIFY_IDENTITY`"),
    ("ssldisabled", "use `ssl-mode=DISABLED`"),
    (
        "sslaccept",
        "use `ssl-mode=VERIFY_IDENTITY` (strict) or `ssl-mode=REQUIRED`",
    ),
    ("trustcertificatekeystoreurl", "give `caCert`, as PEM"),
    ("clientcertificatekeystoreurl", "give `clientCert`, as PEM"),
    (
        "authmethod",
        "the server says which login method an account has",
    ),
    (
        "defaultauth",
        "the server says which login method an account has",
    ),
    ("readdefaultfile", "option files are not read"),
    ("readdefaultgroup", "option files are not read"),
    ("initcommand", "ask it with `properties.query`"),
    ("sessionvariables", "write each as an option of its own"),
];

/// Variables of the server that Go's driver sets where the URL names them.
const VARIABLES: &[&str] = &[
    "autocommit",
    "character_set_results",
    "collation_connection",
    "foreign_key_checks",
    "group_concat_max_len",
    "innodb_lock_wait_timeout",
    "interactive_timeout",
    "lock_wait_timeout",
    "max_execution_time",
    "max_statement_time",
    "net_read_timeout",
    "net_write_timeout",
    "sql_mode",
    "sql_safe_updates",
    "time_zone",
    "transaction_isolation",
    "transaction_read_only",
    "tx_isolation",
    "tx_read_only",
    "unique_checks",
    "wait_timeout",
    "wsrep_sync_wait",
];

const FORMS: &str = "write `mysql://user@host:3306/database`, or as Go's driver does `user@tcp(host:3306)/database`";

impl Dsn {
    /// Reads either form.
    pub(super) fn read(access: &Access<'_>, url: &Secret) -> Result<Self, Invalid> {
        let text = url.expose().trim();
        if text.to_ascii_lowercase().starts_with("jdbc:") {
            return Err(bad(access, "this is a JDBC URL").hint("leave `jdbc:` out"));
        }
        let parts = match text.split_once("://") {
            Some((scheme, rest)) if is_scheme(scheme) => {
                match scheme.to_ascii_lowercase().as_str() {
                    "mysql" | "mariadb" if names_a_network(before_options(rest)) => {
                        Parts::as_go(access, rest, true)?
                    }
                    "mysql" | "mariadb" => Parts::of_url(access, url)?,
                    "mysqlx" => {
                        return Err(bad(access, "`mysqlx://` is MySQL's other protocol")
                            .hint("use `mysql://` and the port of the classic one, 3306"));
                    }
                    // No scheme but a user, whose password begins with `//`.
                    _ if rest
                        .rsplit_once('/')
                        .is_some_and(|(rest, _)| names_a_network(rest)) =>
                    {
                        Parts::as_go(access, text, false)?
                    }
                    _ => return Err(bad(access, "this scheme is not MySQL").hint(FORMS)),
                }
            }
            _ => Parts::as_go(access, text, false)?,
        };
        parts.understand(access)
    }
}

fn bad(access: &Access<'_>, what: impl std::fmt::Display) -> Invalid {
    access.invalid(Field::Url, format!("bad `url`: {what}"))
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

fn before_options(rest: &str) -> &str {
    rest.split_once('?').map_or(rest, |(before, _)| before)
}

/// Whether a network stands before the host: `tcp(host:3306)`.
fn names_a_network(rest: &str) -> bool {
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    host.split_once('(').is_some_and(|(network, _)| {
        network
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '-')
    })
}

/// What either form consists of, decoded.
struct Parts {
    user: Option<String>,
    password: Option<String>,
    address: Option<Address>,
    database: String,
    options: Vec<(String, String)>,
}

impl Parts {
    /// `mysql://user:password@host:port/database?option=value`
    fn of_url(access: &Access<'_>, url: &Secret) -> Result<Self, Invalid> {
        let location = Location::of(access, url)?;
        if location
            .host
            .as_deref()
            .is_some_and(|host| host.contains(','))
        {
            return Err(bad(access, "it has several hosts")
                .hint("write a connection for each of them: each is up or down by itself"));
        }
        Ok(Self {
            address: match location.host {
                Some(_) => Some(location.address(access, DEFAULT_PORT)?),
                None => None,
            },
            user: location.username,
            password: location.password,
            database: location.path.trim_start_matches('/').to_owned(),
            options: location.query,
        })
    }

    /// `user:password@network(address)/database?option=value`, cut where Go's driver cuts it: at the
    /// last `/`, and at the last `@` before that; so a password may have either in it. What stands
    /// behind a scheme is percent-encoded, as in a URL.
    fn as_go(access: &Access<'_>, text: &str, is_encoded: bool) -> Result<Self, Invalid> {
        // Where no database is named, a `/` of the password must not be taken for the one before it.
        let is_whole =
            |(before, behind): &(&str, &str)| before.contains('@') || !behind.contains('@');
        let Some((before, behind)) = text.rsplit_once('/').filter(is_whole) else {
            return Err(
                bad(access, "there is no `/` before the database").hint(format!(
                    "{FORMS}; the `/` stands also where no database is named"
                )),
            );
        };
        let (login, host) = match before.rsplit_once('@') {
            Some((login, host)) => (Some(login), host),
            None => (None, before),
        };
        let decoded = |text: &str| match is_encoded {
            true => decode(access, text),
            false => Ok(text.to_owned()),
        };
        let (user, password) = match login.map(|login| login.split_once(':').ok_or(login)) {
            Some(Ok((user, password))) => (Some(decoded(user)?), Some(decoded(password)?)),
            Some(Err(user)) => (Some(decoded(user)?), None),
            None => (None, None),
        };
        let (database, options) = behind.split_once('?').unwrap_or((behind, ""));
        Ok(Self {
            user: user.filter(|user| !user.is_empty()),
            password,
            address: Some(address(access, host)?),
            database: decode(access, database)?,
            options: form_urlencoded::parse(options.as_bytes())
                .into_owned()
                .collect(),
        })
    }

    fn understand(self, access: &Access<'_>) -> Result<Dsn, Invalid> {
        let mut options = Options::default();
        for (option, value) in &self.options {
            options.read(access, option, value)?;
        }
        options.tls = options.mode(access)?;
        let address = match (options.socket.take(), self.address) {
            (Some(path), _) => Address::Unix(path.into()),
            (None, Some(address)) => address,
            (None, None) => return Err(bad(access, "it has no host")),
        };
        if self.database.contains('\0') {
            return Err(bad(access, "there is a NUL character in the database"));
        }
        Ok(Dsn {
            address,
            user: self.user.or(options.user.take()),
            password: self.password.map(Secret::new).or(options.password.take()),
            database: (!self.database.is_empty()).then_some(self.database),
            options,
        })
    }
}

fn decode(access: &Access<'_>, text: &str) -> Result<String, Invalid> {
    leniently_decoded(text).map_err(|error| bad(access, error))
}

/// `tcp(host:3306)`, `unix(/path)`, or a host alone.
fn address(access: &Access<'_>, text: &str) -> Result<Address, Invalid> {
    let (network, at) = match text.split_once('(') {
        None if matches!(text, "tcp" | "unix") => (text, ""),
        None => return tcp(access, text),
        Some((network, rest)) => match rest.strip_suffix(')') {
            Some(at) => (network, at),
            None => {
                return Err(bad(access, "there is no `)` behind the address").hint(FORMS));
            }
        },
    };
    match network {
        "tcp" => tcp(access, at),
        "unix" => Ok(Address::Unix(
            match at {
                "" => "/tmp/mysql.sock",
                path => path,
            }
            .into(),
        )),
        _ => Err(bad(
            access,
            "this network is one that a Go program has registered",
        )
        .hint("conncheck knows `tcp(host:3306)` and `unix(/path)`")),
    }
}

/// `host`, `host:3306`, `[::1]:3306`; nothing is this machine, as in Go's driver.
fn tcp(access: &Access<'_>, text: &str) -> Result<Address, Invalid> {
    let (host, port) = host_and_port(text).map_err(|mistake| {
        bad(access, mistake.message).hint("an IPv6 address stands in brackets: `tcp([::1]:3306)`")
    })?;
    let port = match port {
        "" => DEFAULT_PORT,
        port => port
            .parse()
            .map_err(|_| bad(access, "the port is not a number below 65536").hint(FORMS))?,
    };
    let host = match host {
        "" => "127.0.0.1",
        host => host,
    };
    if host.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(bad(access, "there is white space in the host").hint(FORMS));
    }
    Ok(Address::Tcp {
        host: host.to_owned(),
        port,
    })
}

/// The name of an option, however it is spelt: `ssl-ca`, `ssl_ca` and `sslCa` are one.
fn plain(option: &str) -> String {
    let mut plain = option.to_ascii_lowercase();
    plain.retain(|c| !matches!(c, '-' | '_'));
    plain
}

impl Options {
    fn read(&mut self, access: &Access<'_>, option: &str, value: &str) -> Result<(), Invalid> {
        let wrong = |what: &str| bad(access, format!("`{option}` {what}"));
        let truth = || match value {
            "true" | "TRUE" | "True" | "1" => Ok(true),
            "false" | "FALSE" | "False" | "0" => Ok(false),
            _ => Err(wrong("is neither `true` nor `false`")),
        };
        match plain(option).as_str() {
            "ssl" if value.eq_ignore_ascii_case("true") => {
                agree(access, &mut self.ssl, true)?;
            }
            "ssl" if value.eq_ignore_ascii_case("false") => {
                agree(access, &mut self.ssl, false)?;
            }
            "tls" | "sslmode" | "ssl" => {
                let mode = TlsMode::read(value).map_err(|hint| {
                    bad(access, format!("unknown value of `{option}`")).hint(hint)
                })?;
                agree(access, &mut self.tls, mode)?;
            }
            "sslca" => self.ssl_ca = Some(value.to_owned()),
            "sslcert" => self.ssl_cert = Some(value.to_owned()),
            "sslkey" => self.ssl_key = Some(value.to_owned()),
            "tlsversion" | "tlsversions" | "enabledtlsprotocols" => {
                self.versions(value).map_err(|what| wrong(&what))?;
            }
            "charset" | "encoding" => {
                let known = value.split(',').find_map(|name| charset(name.trim()));
                let unknown = || wrong("is not a character set that is known here");
                self.charset = Some(known.ok_or_else(unknown)?);
            }
            "collation" | "connectioncollation" => {
                let unknown = || wrong("is not a collation that a login can ask for");
                self.collation = Some(collation(value).ok_or_else(unknown)?);
            }
            "timeout" | "connecttimeout" => {
                let limit = duration(option, value).map_err(|what| wrong(&what))?;
                self.connect_timeout = limit;
            }
            "readtimeout" | "sockettimeout" => {
                let limit = duration(option, value).map_err(|what| wrong(&what))?;
                self.read_timeout = limit;
            }
            "multistatements" | "allowmultiqueries" => self.multi_statements = truth()?,
            "allowcleartextpasswords" | "enablecleartextplugin" => self.clear_password = truth()?,
            "allownativepasswords" => self.without_native_password = !truth()?,
            "allowoldpasswords" if truth()? => {
                return Err(
                    wrong("is refused: the login of MySQL before 4.1 is not spoken")
                        .hint("give the account a new password at the server"),
                );
            }
            "allowoldpasswords" => {}
            "allowfallbacktoplaintext" if truth()? => {
                return Err(wrong("is refused: a mode that verifies is not given up")
                    .hint("`tls=preferred` goes on without TLS where there is none"));
            }
            "allowfallbacktoplaintext" => {}
            "allowpublickeyretrieval" | "getserverpublickey" => self.asks_for_key = Some(truth()?),
            "serverpublickeypath" | "serverrsapublickeyfile" => {
                self.key_file = Some(value.to_owned());
            }
            "connectionattributes" => {
                let list = value.trim_start_matches('[').trim_end_matches(']');
                for pair in list.split(',').filter(|pair| !pair.trim().is_empty()) {
                    let (name, value) = pair
                        .split_once([':', '='])
                        .ok_or_else(|| wrong("is not a list of `name:value,name:value`"))?;
                    let pair = (name.trim().to_owned(), value.trim().to_owned());
                    self.attributes.push(pair);
                }
            }
            "socket" | "unixsocket" => self.socket = Some(value.to_owned()),
            "user" | "username" => self.user = Some(value.to_owned()),
            "password" => self.password = Some(Secret::new(value)),
            name => {
                if VARIABLES.contains(&option) {
                    self.variables.push((option.to_owned(), value.to_owned()));
                } else if let Some((_, why)) = REFUSED.iter().find(|(known, _)| *known == name) {
                    return Err(bad(access, format!("option `{option}` is refused: {why}")));
                } else if !OF_NO_CONSEQUENCE.contains(&name) {
                    let known = HONOURED.iter().chain(VARIABLES).copied();
                    let unknown = unknown_option(access, option, HONOURED);
                    return Err(match conncheck_config::closest(option, known) {
                        Some(close) if !options_may_be_password(access) => {
                            unknown.hint(format!("did you mean `{close}`?"))
                        }
                        _ => unknown,
                    });
                }
            }
        }
        Ok(())
    }

    /// What `tls`, `sslMode` and `ssl` come to, in whatever order. Those who write `ssl=true` alone
    /// mean TLS and no more, and take back nothing that a mode asks for.
    fn mode(&self, access: &Access<'_>) -> Result<Option<TlsMode>, Invalid> {
        match (self.ssl, self.tls) {
            (None, mode) => Ok(mode),
            (Some(true), Some(TlsMode::Disabled)) => Err(contradiction(access)),
            (Some(true), Some(mode)) => Ok(Some(mode.max(TlsMode::Required))),
            (Some(true), None) => Ok(Some(TlsMode::Required)),
            (Some(false), None | Some(TlsMode::Disabled)) => Ok(Some(TlsMode::Disabled)),
            (Some(false), Some(_)) => Err(contradiction(access)),
        }
    }

    /// `TLSv1.2`, or a list of such, with or without brackets.
    fn versions(&mut self, text: &str) -> Result<(), String> {
        let list = text.trim_start_matches('[').trim_end_matches(']');
        let mut spoken = Vec::new();
        for name in list.split(',').map(str::trim) {
            match name.to_ascii_lowercase().as_str() {
                "tlsv1" | "tlsv1.0" | "tlsv1.1" => {}
                "tlsv1.2" => spoken.push(Version::V1_2),
                "tlsv1.3" => spoken.push(Version::V1_3),
                _ => return Err("knows `TLSv1.2` and `TLSv1.3`".to_owned()),
            }
        }
        self.min_version = spoken.iter().min().copied();
        self.max_version = spoken.iter().max().copied();
        match spoken.is_empty() {
            true => Err("names no version above TLS 1.1, and others are not spoken".to_owned()),
            false => Ok(()),
        }
    }

    /// Whether the server may be asked for the RSA key that the password is then sent under.
    pub(super) fn asks_for_key(&self) -> bool {
        self.asks_for_key.unwrap_or(true)
    }

    /// The number of the collation to ask for. It decides about the character set too.
    pub(super) fn collation(&self) -> u8 {
        let default = DEFAULT_COLLATION;
        self.collation.or(self.charset).unwrap_or(default)
    }
}

/// Sets what may be said more than once, if it is the same each time.
fn agree<T: Copy + PartialEq>(
    access: &Access<'_>,
    known: &mut Option<T>,
    value: T,
) -> Result<(), Invalid> {
    match known.get_or_insert(value) == &value {
        true => Ok(()),
        false => Err(contradiction(access)),
    }
}

fn contradiction(access: &Access<'_>) -> Invalid {
    bad(
        access,
        "`tls`, `sslMode` and `ssl` in it contradict each other",
    )
    .hint("leave one of them; `tls=verify-full` verifies the server and its name")
}

/// The login has one byte for it, so what came later than that is not to be had.
fn collation(name: &str) -> Option<u8> {
    let mut name = name.to_ascii_lowercase();
    if let Some(rest) = name.strip_prefix("utf8_") {
        name = format!("utf8mb3_{rest}");
    }
    match CollationId::from(name.as_str()) {
        CollationId::UNKNOWN_COLLATION_ID => None,
        id => u8::try_from(id as u16).ok(),
    }
}

/// The default collation of a character set.
fn charset(name: &str) -> Option<u8> {
    let name = match name.to_ascii_lowercase().as_str() {
        // MySQL's default for it is one that MariaDB does not know.
        "utf8mb4" => return Some(DEFAULT_COLLATION),
        "utf8" => "utf8mb3".to_owned(),
        name => name.to_owned(),
    };
    (1..=u8::MAX).find(|id| {
        let collation = Collation::resolve(u16::from(*id).into());
        collation.is_default() && collation.charset() == name
    })
}

/// How long an option lasts. Go's are written with their unit; of the others, those that are one
/// word are counted in milliseconds and those with a `_` in seconds, as in the drivers that have
/// them. Zero is no limit.
fn duration(option: &str, text: &str) -> Result<Option<Duration>, String> {
    let unit = match option {
        _ if option.contains('_') => Some(1.0),
        "timeout" | "readTimeout" => None,
        _ => Some(0.001),
    };
    let seconds = match (text.parse::<f64>(), unit) {
        (Ok(0.0), _) => Some(0.0),
        (Ok(count), Some(unit)) => Some(count * unit),
        (Ok(_), None) => return Err("has no unit: write `5s` or `500ms`".to_owned()),
        (Err(_), _) => go_duration(text),
    };
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .map(|limit| Some(limit).filter(|limit| !limit.is_zero()))
        .ok_or_else(|| "is not a duration such as `5s` or `500ms`".to_owned())
}

/// `1m30s`, `1.5s`, `300ms`, as seconds.
fn go_duration(text: &str) -> Option<f64> {
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (count, tail) = rest.split_at(end);
        let end = tail
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let unit = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        seconds += count.parse::<f64>().ok()? * unit;
        rest = tail;
    }
    (!text.is_empty()).then_some(seconds)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{self, quoted};

    fn read(url: &str) -> Result<Dsn, String> {
        let spec = format!("url: {}", quoted(url));
        let read = |access: &Access<'_>| Dsn::read(access, access.url()?);
        testing::with_access("mysql", &spec, read).map_err(|invalid| match invalid.hint {
            Some(hint) => format!("{} ({hint})", invalid.message),
            None => invalid.message,
        })
    }

    /// Reads any text as it is: in a definition, some of them are templates.
    fn read_any(url: &str) -> Result<Dsn, Invalid> {
        let url = Secret::new(url);
        testing::with_access("mysql", "url: x", |access| Dsn::read(access, &url))
    }

    fn options(options: &str) -> Result<Options, String> {
        read(&format!("mysql://u:pw@h/db?{options}")).map(|dsn| dsn.options)
    }

    /// User, password, address and database, in one line.
    fn glance(url: &str) -> String {
        read(url).map_or_else(|mistake| mistake, |dsn| in_one_line(&dsn))
    }

    fn in_one_line(dsn: &Dsn) -> String {
        format!(
            "{} {} {} {}",
            dsn.user.as_deref().unwrap_or("-"),
            dsn.password.as_ref().map_or("-", Secret::expose),
            dsn.address,
            dsn.database.as_deref().unwrap_or("-"),
        )
    }

    #[test]
    fn both_forms_are_read() {
        for (url, expected) in [
            ("mysql://u:p@h:3307/db", "u p h:3307 db"),
            ("mariadb://u@h", "u - h:3306 -"),
            ("MySQL://h/", "- - h:3306 -"),
            ("mysql://u:p%40%2F%3A@h/d%62", "u p@/: h:3306 db"),
            ("mysql://u:@h/db", "u - h:3306 db"),
            ("mysql://[::1]:3307/db", "- - [::1]:3307 db"),
            ("mysql://h/db?user=u&password=p%26", "u p& h:3306 db"),
            ("mysql://a:b@h/db?user=u&password=p", "a b h:3306 db"),
            ("mysql://localhost/db?socket=/run/s", "- - /run/s db"),
            // What Go's driver documents.
            ("u:p@tcp(h:3307)/db", "u p h:3307 db"),
            ("u:p@tcp(h)/db?tls=true", "u p h:3306 db"),
            ("u:p@tcp([de:ad::ca:fe]:80)/db", "u p [de:ad::ca:fe]:80 db"),
            ("u:p@tcp([::1])/", "u p [::1]:3306 -"),
            ("u@unix(/path/to/socket)/db", "u - /path/to/socket db"),
            ("u@unix/db", "u - /tmp/mysql.sock db"),
            ("u@unix()/db", "u - /tmp/mysql.sock db"),
            ("u:p@/db", "u p 127.0.0.1:3306 db"),
            ("/", "- - 127.0.0.1:3306 -"),
            ("u:p@tcp/db", "u p 127.0.0.1:3306 db"),
            ("u:p@tcp()/d%62", "u p 127.0.0.1:3306 db"),
            ("u:p:w@/@tcp(h:1)/db", "u p:w@/ h:1 db"),
            ("u:p?w#x@tcp(h:1)/db", "u p?w#x h:1 db"),
            ("u:p%41@tcp(h:1)/db", "u p%41 h:1 db"),
            ("u:a://b@tcp(h:1)/db", "u a://b h:1 db"),
            ("u://a?b@tcp(h:1)/db", "u //a?b h:1 db"),
            ("u:p@h:3307/db", "u p h:3307 db"),
            // And with the scheme, as which it is a URL.
            ("mysql://u:p%41%40@tcp(h:3307)/db", "u pA@ h:3307 db"),
            ("mysql://tcp(h:3307)/db?timeout=5s", "- - h:3307 db"),
            ("mariadb://u:p@unix(/run/s)/db", "u p /run/s db"),
        ] {
            assert_eq!(glance(url), expected, "{url}");
        }
    }

    #[test]
    fn mistakes_name_the_way_out() {
        let mut said = String::new();
        for url in [
            "",
            "localhost",
            "localhost:3306",
            "jdbc:mysql://h:3306/db",
            "mysqlx://h:33060/db",
            "mysql+pymysql://u:pw@h/db",
            "postgres://u:pw@h/db",
            "mysql://u:pw@h1,h2/db",
            "mysql:///db",
            "mysql://u:p/w@h/db",
            "mysql://u:pw@h:99999/db",
            "mysql://u:pw@h/%ff",
            "mysql://u:pw@h/%00",
            "u:pw@tcp(h:3306)",
            "u:12/3?4=5@tcp(h:3306)",
            "u:pw@tcp(h:3306/db",
            "u:pw@tcp(h:port)/db",
            "u:pw@tcp(::1)/db",
            "u:pw@tcp([::1)/db",
            "u:pw@tcp(h h)/db",
            "u:pw@cloudsql(project:region:name)/db",
            "u:pw@tcp(h)/db?tls=custom",
        ] {
            said += &format!("{url}\n    {}\n", glance(url));
        }
        insta::assert_snapshot!(said);
    }

    #[test]
    fn every_option_is_honoured_or_refused_by_name() {
        let mut said = String::new();
        for option in [
            "tls=maybe",
            "sslMode=VERIFY-IDENTIY",
            "ssl-mode=",
            "ssmode=REQUIRED",
            "tls-version=TLSv1.1",
            "tls-version=SSLv3",
            "charset=klingon",
            "collation=utf8mb4_klingon_ci",
            "collation=utf8mb4_de_pb_0900_as_cs",
            "timeout=5",
            "timeout=5x",
            "timeout=-5s",
            "connectTimeout=soon",
            "readTimeout=1e400s",
            "multiStatements=yes",
            "allowOldPasswords=true",
            "allowFallbackToPlaintext=true",
            "allowCleartextPasswords=",
            "connectionAttributes=novalue",
            "serverPubKey=name",
            "ssl-crl=/crl.pem",
            "useSSL=true",
            "requireSSL=true",
            "verifyServerCertificate=true",
            "ssl_verify_cert=true",
            "defaultAuth=mysql_native_password",
            "init_command=SELECT 1",
            "sqlmode=ANSI",
            "xyzzy=1",
        ] {
            let mistake = options(option).expect_err(option);
            said += &format!("{option}\n    {mistake}\n");
        }
        insta::assert_snapshot!(said);
        for (name, _) in REFUSED {
            assert_eq!(*name, plain(name));
            assert!(options(&format!("{name}=1")).unwrap_err().contains(name));
        }
        for name in OF_NO_CONSEQUENCE {
            assert_eq!(*name, plain(name));
            options(&format!("{name}=1")).expect(name);
        }
        for name in VARIABLES {
            let read = options(&format!("{name}=%271%27")).expect(name);
            assert_eq!(read.variables, [((*name).to_owned(), "'1'".to_owned())]);
        }
        for name in HONOURED {
            // Whatever is wrong with the value, the name is known.
            if let Err(mistake) = options(&format!("{name}=xyzzy")) {
                assert!(!mistake.contains("unknown option"), "{mistake}");
            }
        }
    }

    #[test]
    fn a_mode_has_many_names() {
        for (option, mode) in [
            ("tls=disabled", TlsMode::Disabled),
            ("tls=false", TlsMode::Disabled),
            ("sslMode=DISABLE", TlsMode::Disabled),
            ("ssl-mode=PREFERRED", TlsMode::Preferred),
            ("ssl_mode=REQUIRED", TlsMode::Required),
            ("ssl=true", TlsMode::Required),
            ("tls=skip-verify", TlsMode::Required),
            ("sslMode=trust", TlsMode::Required),
            ("sslMode=VERIFY_CA", TlsMode::VerifyCa),
            ("ssl-mode=verify-ca", TlsMode::VerifyCa),
            ("tls=true", TlsMode::VerifyFull),
            ("ssl-mode=VERIFY_IDENTITY", TlsMode::VerifyFull),
            ("tls=verify-full", TlsMode::VerifyFull),
        ] {
            assert_eq!(options(option).unwrap().tls, Some(mode), "{option}");
        }
        assert_eq!(options("").unwrap().tls, None);
    }

    #[test]
    fn nothing_takes_back_a_mode_that_verifies() {
        for (mode, with_true) in [
            ("tls=verify-full", TlsMode::VerifyFull),
            ("sslMode=VERIFY_CA", TlsMode::VerifyCa),
            ("sslMode=REQUIRED", TlsMode::Required),
            ("tls=preferred", TlsMode::Required),
            (
                "tls=verify-full&sslMode=VERIFY_IDENTITY",
                TlsMode::VerifyFull,
            ),
        ] {
            for text in [format!("{mode}&ssl=true"), format!("ssl=TRUE&{mode}")] {
                assert_eq!(options(&text).unwrap().tls, Some(with_true), "{text}");
            }
        }
        assert_eq!(
            options("ssl=false&tls=false").unwrap().tls,
            Some(TlsMode::Disabled)
        );
        for (one, other) in [
            ("tls=verify-full", "sslMode=PREFERRED"),
            ("tls=true", "ssl-mode=VERIFY_CA"),
            ("tls=disabled", "ssl=true"),
            ("tls=preferred", "ssl=false"),
            ("sslMode=VERIFY_CA", "ssl=VERIFY_IDENTITY"),
            ("ssl=true", "ssl=false"),
        ] {
            for text in [format!("{one}&{other}"), format!("{other}&{one}")] {
                let mistake = options(&text).expect_err(&text);
                assert!(mistake.contains("contradict"), "{text}: {mistake}");
            }
        }
    }

    #[test]
    fn durations_have_the_units_of_their_drivers() {
        let seconds = Duration::from_secs_f64;
        for (option, connect, read) in [
            ("timeout=1m1.5s", Some(seconds(61.5)), None),
            ("timeout=0", None, None),
            ("connectTimeout=2500", Some(seconds(2.5)), None),
            ("connect-timeout=2500", Some(seconds(2.5)), None),
            ("connect_timeout=3", Some(seconds(3.0)), None),
            ("connect_timeout=300ms", Some(seconds(0.3)), None),
            ("readTimeout=300ms", None, Some(seconds(0.3))),
            ("socketTimeout=4000", None, Some(seconds(4.0))),
            ("read_timeout=4", None, Some(seconds(4.0))),
        ] {
            let read_options = options(option).unwrap();
            assert_eq!(read_options.connect_timeout, connect, "{option}");
            assert_eq!(read_options.read_timeout, read, "{option}");
        }
    }

    #[test]
    fn a_collation_decides_over_a_character_set() {
        for (option, expected) in [
            ("", 45),
            ("charset=utf8mb4", 45),
            ("charset=utf8", 33),
            ("encoding=UTF8MB3", 33),
            ("charset=nonsense,latin1", 8),
            ("collation=utf8mb4_bin", 46),
            ("collation=utf8_bin&charset=latin1", 83),
            ("connectionCollation=utf8mb4_0900_ai_ci", 255),
        ] {
            assert_eq!(options(option).unwrap().collation(), expected, "{option}");
        }
    }

    #[test]
    fn lists_are_read_in_both_spellings() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        for option in [
            "connectionAttributes=a:1,b:2",
            "connection-attributes=[a=1,b=2]",
        ] {
            let read = options(option).unwrap().attributes;
            assert_eq!(read, [pair("a", "1"), pair("b", "2")]);
        }
        let read = options("tls-versions=[TLSv1.1,TLSv1.2]").unwrap();
        assert_eq!(read.min_version, Some(Version::V1_2));
        assert_eq!(read.max_version, Some(Version::V1_2));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in "\\PC*", form in "[a-z_=&%,!'@:/?\\[\\]()0-9.]*") {
            for url in [text.clone(), format!("mysql://{text}"), form.clone(), format!("mysql://{form}")] {
                let _ = read_any(&url);
            }
            let _ = read_any(&format!("mysql://u:pw@h/db?{form}"));
        }

        #[test]
        fn what_go_writes_is_read_back(
            user in "[^:@/\\pC\\s]{1,9}",
            password in "[^\\pC\\s]{1,12}",
            port in 1..=u16::MAX,
            database in "[a-z0-9_]{1,9}",
        ) {
            let url = format!("{user}:{password}@tcp(h:{port})/{database}");
            let read = in_one_line(&read_any(&url).unwrap());
            prop_assert_eq!(read, format!("{user} {password} h:{port} {database}"));
        }
    }
}
