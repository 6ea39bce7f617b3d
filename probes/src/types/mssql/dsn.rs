//! Reads URLs (`sqlserver://`, `mssql://`) and ADO connection strings, with every keyword that
//! SqlClient and go-mssqldb have.
//!
//! Each keyword is honoured, or refused by name, or known to make no difference to one attempt.

use std::net::Ipv6Addr;
use std::time::Duration;

use conncheck_config::{Field, Secret, closest};

use super::tds::PACKET_MAX_BYTES;
use crate::address::{ENCODE, Location, options_may_be_password};
use crate::attempt::Address;
use crate::probe::{Access, Invalid};
use crate::schema::{words, written};
use crate::tls::Version;

const DEFAULT_PORT: u16 = 1433;

/// What a URL or connection string says, understood.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Dsn {
    pub(super) host: String,
    pub(super) port: Option<u16>,
    /// The named instance that must be behind that port.
    pub(super) instance: Option<String>,
    pub(super) user: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) database: Option<String>,
    pub(super) encrypt: Option<Encrypt>,
    pub(super) trust_server_certificate: Option<bool>,
    pub(super) host_name_in_certificate: Option<String>,
    pub(super) min_version: Option<Version>,
    pub(super) app_name: Option<String>,
    pub(super) workstation: Option<String>,
    pub(super) language: Option<String>,
    pub(super) read_only: bool,
    pub(super) packet_bytes: Option<u32>,
    /// How long it may take until we are logged in.
    pub(super) connect_timeout: Option<Duration>,
    /// How long the query may take.
    pub(super) command_timeout: Option<Duration>,
}

/// How much is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encrypt {
    /// Nothing, not even the login.
    Disable,
    /// The login, where the server can; all of it where the server wants that.
    Optional,
    /// All of it.
    Mandatory,
    /// All of it, from the first byte (TDS 8.0).
    Strict,
}

written!(Encrypt: words(
    &["true", "false", "strict", "disable"],
    &[
        "disabled", "optional", "off", "no", "f", "0", "mandatory", "required", "on", "yes", "t", "1",
    ],
));

impl Encrypt {
    pub(super) const EXPECTED: &str =
        "`true` (mandatory), `false` (optional), `strict` or `disable`";

    pub(super) fn parse(text: &str) -> Option<Self> {
        match text.trim().to_ascii_lowercase().as_str() {
            "disable" | "disabled" => Some(Self::Disable),
            "optional" | "off" | "false" | "no" | "f" | "0" => Some(Self::Optional),
            "mandatory" | "required" | "on" | "true" | "yes" | "t" | "1" => Some(Self::Mandatory),
            "strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

/// What a keyword means.
#[derive(Clone, Copy, PartialEq)]
enum Keyword {
    Server,
    Port,
    User,
    Password,
    Database,
    Encrypt,
    TrustServerCertificate,
    HostNameInCertificate,
    TlsMin,
    AppName,
    Workstation,
    Language,
    Intent,
    PacketSize,
    ConnectTimeout,
    CommandTimeout,
    IntegratedSecurity,
    Authentication,
    Protocol,
    /// Pools, retries, what a driver makes of rows: nothing that one attempt could tell.
    Harmless,
    /// Not honoured, and what to do instead.
    Refused(&'static str),
}

const NO_WINDOWS: &str =
    "conncheck logs in with a SQL Server login: give it one (`CREATE LOGIN … WITH PASSWORD`)";
const GIVE_CA_CERT: &str = "give the certificate as `caCert` (`file:///path` reads a file)";

/// Keywords in lower case, without the spaces that some are also written with.
const KEYWORDS: &[(&str, Keyword)] = &[
    ("server", Keyword::Server),
    ("datasource", Keyword::Server),
    ("address", Keyword::Server),
    ("addr", Keyword::Server),
    ("networkaddress", Keyword::Server),
    ("port", Keyword::Port),
    ("userid", Keyword::User),
    ("user", Keyword::User),
    ("uid", Keyword::User),
    ("username", Keyword::User),
    ("password", Keyword::Password),
    ("pwd", Keyword::Password),
    ("database", Keyword::Database),
    ("databasename", Keyword::Database),
    ("initialcatalog", Keyword::Database),
    ("encrypt", Keyword::Encrypt),
    ("trustservercertificate", Keyword::TrustServerCertificate),
    ("hostnameincertificate", Keyword::HostNameInCertificate),
    ("tlsmin", Keyword::TlsMin),
    ("applicationname", Keyword::AppName),
    ("appname", Keyword::AppName),
    ("app", Keyword::AppName),
    ("workstationid", Keyword::Workstation),
    ("wsid", Keyword::Workstation),
    ("language", Keyword::Language),
    ("currentlanguage", Keyword::Language),
    ("applicationintent", Keyword::Intent),
    ("packetsize", Keyword::PacketSize),
    ("connecttimeout", Keyword::ConnectTimeout),
    ("connectiontimeout", Keyword::ConnectTimeout),
    ("timeout", Keyword::ConnectTimeout),
    ("logintimeout", Keyword::ConnectTimeout),
    ("dialtimeout", Keyword::ConnectTimeout),
    ("commandtimeout", Keyword::CommandTimeout),
    ("integratedsecurity", Keyword::IntegratedSecurity),
    ("trustedconnection", Keyword::IntegratedSecurity),
    ("authentication", Keyword::Authentication),
    ("fedauth", Keyword::Authentication),
    ("protocol", Keyword::Protocol),
    ("networklibrary", Keyword::Protocol),
    ("network", Keyword::Protocol),
    ("net", Keyword::Protocol),
    ("pooling", Keyword::Harmless),
    ("maxpoolsize", Keyword::Harmless),
    ("minpoolsize", Keyword::Harmless),
    ("poolblockingperiod", Keyword::Harmless),
    ("connectionlifetime", Keyword::Harmless),
    ("loadbalancetimeout", Keyword::Harmless),
    ("connectionreset", Keyword::Harmless),
    ("enlist", Keyword::Harmless),
    ("connectretrycount", Keyword::Harmless),
    ("connectretryinterval", Keyword::Harmless),
    ("disableretry", Keyword::Harmless),
    ("multipleactiveresultsets", Keyword::Harmless),
    ("multisubnetfailover", Keyword::Harmless),
    ("transparentnetworkipresolution", Keyword::Harmless),
    ("ipaddresspreference", Keyword::Harmless),
    ("persistsecurityinfo", Keyword::Harmless),
    ("asynchronousprocessing", Keyword::Harmless),
    ("async", Keyword::Harmless),
    ("replication", Keyword::Harmless),
    ("transactionbinding", Keyword::Harmless),
    ("typesystemversion", Keyword::Harmless),
    ("columnencryptionsetting", Keyword::Harmless),
    ("columnencryption", Keyword::Harmless),
    ("enclaveattestationurl", Keyword::Harmless),
    ("attestationprotocol", Keyword::Harmless),
    ("keepalive", Keyword::Harmless),
    ("log", Keyword::Harmless),
    ("guidconversion", Keyword::Harmless),
    ("timezone", Keyword::Harmless),
    // For Kerberos.
    ("serverspn", Keyword::Harmless),
    ("failoverpartnerspn", Keyword::Harmless),
    ("servercertificate", Keyword::Refused(GIVE_CA_CERT)),
    ("certificate", Keyword::Refused(GIVE_CA_CERT)),
    ("authenticator", Keyword::Refused(NO_WINDOWS)),
    (
        "failoverpartner",
        Keyword::Refused("one attempt is of one server: write a connection for the partner"),
    ),
    (
        "failoverport",
        Keyword::Refused("one attempt is of one server: write a connection for the partner"),
    ),
    (
        "attachdbfilename",
        Keyword::Refused("a check must not attach a file: name the `Database`"),
    ),
    (
        "extendedproperties",
        Keyword::Refused("a check must not attach a file: name the `Database`"),
    ),
    (
        "initialfilename",
        Keyword::Refused("a check must not attach a file: name the `Database`"),
    ),
    (
        "userinstance",
        Keyword::Refused("a user's own instance is on Windows only; leave it out"),
    ),
    (
        "contextconnection",
        Keyword::Refused("there is no context to connect in; leave it out"),
    ),
    (
        "changepassword",
        Keyword::Refused("a check must not change the password; leave it out"),
    ),
    (
        "pipe",
        Keyword::Refused("conncheck connects by TCP; leave it out"),
    ),
    (
        "driver",
        Keyword::Refused(
            "this is an ODBC string; without `Driver`, and with `User Id` and `Password`, it is one of ADO.NET",
        ),
    ),
    (
        "dsn",
        Keyword::Refused("a data source of ODBC's is not looked up: name the `Server`"),
    ),
];

fn meaning(keyword: &str) -> Option<Keyword> {
    let plain: String = (keyword.chars())
        .filter(|c| !matches!(c, ' ' | '_'))
        .flat_map(char::to_lowercase)
        .collect();
    let (_, meaning) = KEYWORDS.iter().find(|(name, _)| *name == plain)?;
    Some(*meaning)
}

impl Dsn {
    /// Reads either form. A later value of a keyword wins over an earlier one, as in ADO.NET.
    pub(super) fn read(access: &Access<'_>, url: &Secret) -> Result<Self, Invalid> {
        let text = url.expose().trim();
        let reader = Reader { access };
        let is_url = text
            .find("://")
            .is_some_and(|scheme| !text[..scheme].contains(['=', ';']));
        match (is_url, text.contains('=')) {
            (true, _) => reader.url(url),
            (false, true) => reader.ado(text),
            (false, false) => Err(reader
                .bad("it is neither a URL nor a series of `Keyword=value;`")
                .hint("write `sqlserver://user@host:1433?database=name` or `Server=host,1433;Database=name;User Id=user`")),
        }
    }

    pub(super) fn address(&self) -> Address {
        Address::Tcp {
            host: self.host.clone(),
            port: self.port.unwrap_or(DEFAULT_PORT),
        }
    }
}

struct Reader<'a> {
    access: &'a Access<'a>,
}

impl Reader<'_> {
    /// A mistake. Its text must not quote a value.
    fn bad(&self, message: &str) -> Invalid {
        let message = format!("bad `url`: {message}");
        self.access.invalid(Field::Url, message)
    }

    fn url(&self, url: &Secret) -> Result<Dsn, Invalid> {
        let location = Location::of(self.access, url)?;
        let mut dsn = Dsn {
            host: location.host.clone().unwrap_or_default(),
            port: location.port,
            user: location.username,
            password: location.password.map(Secret::new),
            ..Dsn::default()
        };
        let path = location.path.trim_matches('/');
        let path = (!path.is_empty()).then(|| path.to_owned());
        match location.scheme.as_str() {
            "sqlserver" => dsn.instance = path,
            "mssql" => dsn.database = path,
            "jdbc" => {
                return Err(self.bad("this is a JDBC URL").hint(
                    "write `sqlserver://user@host:1433?database=name&encrypt=true`, without `jdbc:` and `;`",
                ));
            }
            _ => {
                return Err(self.bad("this scheme is not SQL Server").hint(
                    "use `sqlserver://user@host:1433?database=name` or `mssql://user@host:1433/name`",
                ));
            }
        }
        if dsn.host.contains(';') || dsn.host.is_empty() {
            return Err(self.bad("it has no host, or what is no host's name").hint(
                "options stand behind a `?`: `sqlserver://user@host:1433?database=name&encrypt=true`",
            ));
        }
        for (option, value) in &location.query {
            let keyword = meaning(option).filter(|keyword| {
                // The host and port have their own place.
                !matches!(keyword, Keyword::Server | Keyword::Port)
            });
            match keyword {
                Some(keyword) => self.put(&mut dsn, option, keyword, value)?,
                None if options_may_be_password(self.access) => {
                    return Err(self.bad("it has an option that is not known").hint(ENCODE));
                }
                None => return Err(self.unknown("option", option)),
            }
        }
        self.find_instance(&mut dsn)?;
        Ok(dsn)
    }

    fn ado(&self, text: &str) -> Result<Dsn, Invalid> {
        let mut dsn = Dsn::default();
        let mut after_password = false;
        let mut rest = text;
        while let Some((keyword, value, behind)) = self.ado_pair(rest, after_password)? {
            rest = behind;
            let Some(meaning) = meaning(&keyword) else {
                return Err(match after_password {
                    // It may be the rest of the password.
                    true => self.behind_password(),
                    false => self.unknown("keyword", &keyword),
                });
            };
            after_password = meaning == Keyword::Password;
            // A keyword without a value is one that is not there.
            if !value.is_empty() {
                self.put(&mut dsn, &keyword, meaning, &value)?;
            }
        }
        if dsn.host.is_empty() {
            return Err(self
                .bad("it names no server")
                .hint("write `Server=host,1433;…`"));
        }
        self.find_instance(&mut dsn)?;
        Ok(dsn)
    }

    /// The next `Keyword=value`, and what stands behind it.
    fn ado_pair<'t>(
        &self,
        text: &'t str,
        after_password: bool,
    ) -> Result<Option<(String, String, &'t str)>, Invalid> {
        let text = text.trim_start_matches(|c: char| c == ';' || c.is_whitespace());
        if text.is_empty() {
            return Ok(None);
        }
        let (keyword, value) = match text.split_once('=') {
            Some((keyword, value)) if !keyword.contains(';') => {
                (keyword.trim(), value.trim_start())
            }
            _ if after_password => return Err(self.behind_password()),
            _ => return Err(self.bad("a part of it is not `Keyword=value`")),
        };
        let Some(quote @ ('\'' | '"')) = value.chars().next() else {
            let end = value.find(';').unwrap_or(value.len());
            let (value, behind) = value.split_at(end);
            return Ok(Some((
                keyword.to_owned(),
                value.trim_end().to_owned(),
                behind,
            )));
        };
        let mut bare = String::new();
        let mut chars = value.char_indices().skip(1).peekable();
        while let Some((at, c)) = chars.next() {
            if c != quote {
                bare.push(c);
                continue;
            }
            if chars.next_if(|(_, next)| *next == quote).is_some() {
                bare.push(quote);
                continue;
            }
            let behind = value[at + 1..].trim_start();
            return match behind.is_empty() || behind.starts_with(';') {
                true => Ok(Some((keyword.to_owned(), bare, behind))),
                false => Err(self.bad("there is something between a closing quote and the `;`").hint(
                    "a quote within a quoted value is written twice, or the value stands in the other quotes",
                )),
            };
        }
        Err(self.bad("a quote is not closed").hint(
            "a quote within a quoted value is written twice, or the value stands in the other quotes",
        ))
    }

    fn put(
        &self,
        dsn: &mut Dsn,
        written: &str,
        keyword: Keyword,
        value: &str,
    ) -> Result<(), Invalid> {
        if value.contains('\0') {
            return Err(self.bad("there is a NUL character in a value"));
        }
        let text = || Some(value.to_owned());
        match keyword {
            Keyword::Server => self.server(dsn, value)?,
            Keyword::Port => {
                let port = value.parse().map_err(|_| self.no_port())?;
                dsn.port = Some(port);
            }
            Keyword::User => dsn.user = text(),
            Keyword::Password => dsn.password = Some(Secret::new(value)),
            Keyword::Database => dsn.database = text(),
            Keyword::Encrypt => {
                let encrypt = Encrypt::parse(value).ok_or_else(|| {
                    self.bad(&format!("`{written}` must be {}", Encrypt::EXPECTED))
                })?;
                dsn.encrypt = Some(encrypt);
            }
            Keyword::TrustServerCertificate => {
                dsn.trust_server_certificate = Some(self.boolean(written, value)?);
            }
            Keyword::HostNameInCertificate => dsn.host_name_in_certificate = text(),
            Keyword::TlsMin => {
                dsn.min_version = match value {
                    "1.0" | "1.1" => None,
                    "1.2" => Some(Version::V1_2),
                    "1.3" => Some(Version::V1_3),
                    _ => {
                        let message = format!("`{written}` must be `1.2` or `1.3`");
                        return Err(self.bad(&message));
                    }
                }
            }
            Keyword::AppName => dsn.app_name = text(),
            Keyword::Workstation => dsn.workstation = text(),
            Keyword::Language => dsn.language = text(),
            Keyword::Intent => {
                dsn.read_only = match value.to_ascii_lowercase().as_str() {
                    "readonly" => true,
                    "readwrite" => false,
                    _ => {
                        let message = format!("`{written}` must be `ReadWrite` or `ReadOnly`");
                        return Err(self.bad(&message));
                    }
                }
            }
            Keyword::PacketSize => {
                let bytes = value
                    .parse()
                    .ok()
                    .filter(|bytes| (512..=PACKET_MAX_BYTES as u32).contains(bytes));
                dsn.packet_bytes = Some(bytes.ok_or_else(|| {
                    self.bad(&format!(
                        "`{written}` must be between 512 and {PACKET_MAX_BYTES}"
                    ))
                })?);
            }
            Keyword::ConnectTimeout => dsn.connect_timeout = self.seconds(written, value)?,
            Keyword::CommandTimeout => dsn.command_timeout = self.seconds(written, value)?,
            Keyword::IntegratedSecurity => {
                let is_on = match value.to_ascii_lowercase().as_str() {
                    "sspi" => true,
                    _ => self.boolean(written, value)?,
                };
                if is_on {
                    let message = format!("`{written}`: a Windows login is not supported");
                    return Err(self.bad(&message).hint(NO_WINDOWS));
                }
            }
            Keyword::Authentication => {
                let plain = value.replace(' ', "").to_ascii_lowercase();
                if !matches!(plain.as_str(), "sqlpassword" | "notspecified") {
                    let message = format!("`{written}`: only `Sql Password` is supported");
                    return Err(self.bad(&message).hint(NO_WINDOWS));
                }
            }
            Keyword::Protocol => {
                if !matches!(value.to_ascii_lowercase().as_str(), "tcp" | "dbmssocn") {
                    let message = format!("`{written}`: conncheck connects by TCP");
                    return Err(self.bad(&message).hint("leave it out"));
                }
            }
            Keyword::Harmless => {}
            Keyword::Refused(instead) => {
                let message = format!("`{written}` is not supported");
                return Err(self.bad(&message).hint(instead));
            }
        }
        Ok(())
    }

    /// `tcp:host\instance,port`
    fn server(&self, dsn: &mut Dsn, value: &str) -> Result<(), Invalid> {
        let lower = value.to_ascii_lowercase();
        let value = match lower.starts_with("tcp:") {
            true => value["tcp:".len()..].trim(),
            false => value,
        };
        let by_tcp = !["np:", "lpc:", "admin:", "\\\\", "(localdb)"]
            .iter()
            .any(|other| lower.starts_with(other));
        if !by_tcp {
            return Err(self
                .bad("conncheck connects by TCP, not by named pipe, shared memory, LocalDB or the administrator's own port")
                .hint("write `Server=host,1433`"));
        }
        let (name, port) = match value.rsplit_once(',') {
            None => (value, None),
            Some((name, port)) => {
                let port = port.trim().parse().map_err(|_| self.no_port())?;
                (name.trim(), Some(port))
            }
        };
        let (host, instance) = match name.split_once('\\') {
            None => (name, None),
            Some((host, instance)) => (host, Some(instance.to_owned())),
        };
        let host = match host {
            "." | "(local)" => "localhost",
            host => host
                .strip_prefix('[')
                .and_then(|host| host.strip_suffix(']'))
                .unwrap_or(host),
        };
        let is_name = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
        match host.parse::<Ipv6Addr>() {
            Ok(_) => {}
            Err(_) if host.contains(':') => {
                return Err(self
                    .bad("the port stands behind a comma, not a colon")
                    .hint("write `Server=host,1433`"));
            }
            Err(_) if host.is_empty() || !host.chars().all(is_name) => {
                return Err(self
                    .bad("the server's name is no host name")
                    .hint("write `Server=host,1433`"));
            }
            Err(_) => {}
        }
        host.clone_into(&mut dsn.host);
        dsn.instance = instance;
        // `Port` may stand before it.
        dsn.port = port.or(dsn.port);
        Ok(())
    }

    /// A named instance listens on a port of its own, which only the SQL Server Browser knows.
    fn find_instance(&self, dsn: &mut Dsn) -> Result<(), Invalid> {
        let Some(instance) = &dsn.instance else {
            return Ok(());
        };
        let is_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$' | '#' | '&');
        if instance.is_empty() || !instance.chars().all(is_name) {
            return Err(self
                .bad("what stands behind the host is no name of an instance")
                .hint("a database is `?database=name`, or `mssql://host:1433/name`"));
        }
        if instance.eq_ignore_ascii_case("MSSQLSERVER") {
            // The default instance. It has the default port, and is not asked for by name.
            dsn.instance = None;
            return Ok(());
        }
        match dsn.port {
            Some(_) => Ok(()),
            None => Err(self
                .bad(&format!(
                    "the port of the named instance `{instance}` is known to the SQL Server Browser only (UDP 1434), which is not asked"
                ))
                .hint(
                    "write the port: `sqlserver://host:PORT` or `Server=host,PORT` (SQL Server Configuration Manager, TCP/IP, IPAll); if it is a database, write `?database=name`",
                )),
        }
    }

    fn boolean(&self, written: &str, value: &str) -> Result<bool, Invalid> {
        match value.to_ascii_lowercase().as_str() {
            "true" | "yes" | "t" | "1" => Ok(true),
            "false" | "no" | "f" | "0" => Ok(false),
            _ => Err(self.bad(&format!("`{written}` must be `true` or `false`"))),
        }
    }

    /// A number of seconds; 0 is no limit.
    fn seconds(&self, written: &str, value: &str) -> Result<Option<Duration>, Invalid> {
        match value.parse::<u32>() {
            Ok(0) => Ok(None),
            Ok(seconds) => Ok(Some(Duration::from_secs(seconds.into()))),
            Err(_) => Err(self.bad(&format!("`{written}` must be a number of seconds"))),
        }
    }

    fn no_port(&self) -> Invalid {
        self.bad("the port is not a number below 65536")
            .hint("write `Server=host,1433`")
    }

    fn unknown(&self, what: &str, written: &str) -> Invalid {
        let invalid = self.bad(&format!("unknown {what} `{written}`"));
        let plain = written.replace([' ', '_'], "").to_ascii_lowercase();
        match closest(&plain, KEYWORDS.iter().map(|(name, _)| *name)) {
            Some(close) => invalid.hint(format!("did you mean `{close}`?")),
            None => invalid.hint(
                "known: database, user id, password, encrypt, trustServerCertificate, hostNameInCertificate, app name, application intent, connect timeout",
            ),
        }
    }

    fn behind_password(&self) -> Invalid {
        self.bad("what stands behind the password is not `Keyword=value`")
            .hint("a password with a `;` in it stands in quotes: `Password=\"a;b\"`; a `\"` within them is written twice")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn read(url: &str) -> Result<Dsn, Invalid> {
        let spec = format!("url: {}", testing::quoted(url));
        testing::with_access("mssql", &spec, |access| {
            Dsn::read(access, access.url().unwrap())
        })
    }

    #[track_caller]
    fn ok(url: &str) -> Dsn {
        read(url).unwrap_or_else(|invalid| panic!("{url}: {invalid:?}"))
    }

    /// What is wrong with it, and the way out.
    #[track_caller]
    fn wrong(url: &str) -> (String, String) {
        let invalid = read(url).map(|dsn| panic!("{url}: {dsn:?}")).unwrap_err();
        (invalid.message, invalid.hint.unwrap_or_default())
    }

    #[test]
    fn urls() {
        let dsn =
            ok("sqlserver://us%40er:p%3Aw@db.example.com:1500?database=orders&encrypt=strict");
        assert_eq!(dsn.host, "db.example.com");
        assert_eq!(dsn.port, Some(1500));
        assert_eq!(dsn.user.as_deref(), Some("us@er"));
        assert_eq!(dsn.password, Some(Secret::new("p:w")));
        assert_eq!(dsn.database.as_deref(), Some("orders"));
        assert_eq!(dsn.encrypt, Some(Encrypt::Strict));
        let dsn = ok("mssql://h/my%20db");
        assert_eq!(dsn.database.as_deref(), Some("my db"));
        assert_eq!(dsn.instance, None);
        assert_eq!(dsn.address().to_string(), "h:1433");
        let dsn = ok("sqlserver://h:1500/SQLEXPRESS?database=orders");
        assert_eq!(dsn.instance.as_deref(), Some("SQLEXPRESS"));
        assert_eq!(ok("sqlserver://h/MSSQLSERVER").instance, None);
        assert_eq!(ok("mssql://[::1]:9/db").address().to_string(), "[::1]:9");
        let dsn = ok("sqlserver://h?User+Id=u&PASSWORD=p%26q&Initial%20Catalog=d&app name=a+b");
        assert_eq!(dsn.user.as_deref(), Some("u"));
        assert_eq!(dsn.password, Some(Secret::new("p&q")));
        assert_eq!(dsn.app_name.as_deref(), Some("a b"));
        assert_eq!(dsn.database.as_deref(), Some("d"));
    }

    #[test]
    fn ado_strings() {
        let dsn =
            ok(" Data Source = tcp:db\\SQLEXPRESS, 1500 ;; UID=sa;Pwd=p w ;Initial Catalog=o;");
        assert_eq!(dsn.address().to_string(), "db:1500");
        assert_eq!(dsn.instance.as_deref(), Some("SQLEXPRESS"));
        assert_eq!(dsn.user.as_deref(), Some("sa"));
        assert_eq!(dsn.password, Some(Secret::new("p w")));
        assert_eq!(dsn.database.as_deref(), Some("o"));
        for (written, meant) in [
            ("plain", "plain"),
            ("a=b", "a=b"),
            ("it's", "it's"),
            ("\"a;b\"", "a;b"),
            ("\"a\"\"b\"", "a\"b"),
            ("'a''b'", "a'b"),
            ("'a\"b'", "a\"b"),
            ("\" padded \"  ", " padded "),
            ("http://x", "http://x"),
        ] {
            let dsn = ok(&format!("Server=h;Password={written};User Id=u"));
            assert_eq!(dsn.password, Some(Secret::new(meant)), "{written}");
        }
        for server in [".", "(local)", "localhost", "tcp:.", "TCP:(local)"] {
            assert_eq!(ok(&format!("Server={server}")).host, "localhost");
        }
        assert_eq!(ok("Server=::1,9").address().to_string(), "[::1]:9");
        assert_eq!(ok("Server=[::1],9").address().to_string(), "[::1]:9");
        assert_eq!(ok("Port=9;Server=h").port, Some(9));
        // The last one wins, and one without a value is not there.
        assert_eq!(ok("Server=a;Server=b;Database=").host, "b");
        assert_eq!(ok("Server=a;Database=").database, None);
    }

    #[test]
    fn options_that_are_honoured() {
        let dsn = ok(
            "Server=h;Trust Server Certificate=yes;HostNameInCertificate=n;ApplicationIntent=ReadOnly;\
             Packet Size=8000;Connect Timeout=5;Command Timeout=7;Current Language=Deutsch;WSID=w;TLSMin=1.2",
        );
        assert_eq!(dsn.trust_server_certificate, Some(true));
        assert_eq!(dsn.host_name_in_certificate.as_deref(), Some("n"));
        assert!(dsn.read_only);
        assert_eq!(dsn.packet_bytes, Some(8000));
        assert_eq!(dsn.connect_timeout, Some(Duration::from_secs(5)));
        assert_eq!(dsn.command_timeout, Some(Duration::from_secs(7)));
        assert_eq!(dsn.language.as_deref(), Some("Deutsch"));
        assert_eq!(dsn.workstation.as_deref(), Some("w"));
        assert_eq!(dsn.min_version, Some(Version::V1_2));
        assert_eq!(ok("Server=h;Timeout=0").connect_timeout, None);
        for (text, encrypt) in [
            ("disable", Encrypt::Disable),
            ("false", Encrypt::Optional),
            ("No", Encrypt::Optional),
            ("Optional", Encrypt::Optional),
            ("TRUE", Encrypt::Mandatory),
            ("Mandatory", Encrypt::Mandatory),
            ("required", Encrypt::Mandatory),
            ("Strict", Encrypt::Strict),
        ] {
            assert_eq!(
                ok(&format!("Server=h;Encrypt={text}")).encrypt,
                Some(encrypt)
            );
        }
        ok(
            "Server=h;Integrated Security=false;Authentication=Sql Password;Network Library=dbmssocn",
        );
    }

    #[test]
    fn what_is_refused_is_named() {
        for (url, message, hint) in [
            ("db.example.com", "neither a URL nor", "sqlserver://"),
            ("ftp://h", "this scheme is not SQL Server", "sqlserver://"),
            (
                "jdbc:sqlserver://h:1433;databaseName=x",
                "JDBC",
                "without `jdbc:`",
            ),
            ("sqlserver://h;database=x", "no host", "behind a `?`"),
            ("sqlserver://h?Server=x", "unknown option `Server`", ""),
            (
                "sqlserver://h?databse=x",
                "unknown option `databse`",
                "did you mean `database`?",
            ),
            (
                "Server=h;Pasword=x",
                "unknown keyword `Pasword`",
                "did you mean `password`?",
            ),
            ("User Id=x", "names no server", "Server=host,1433"),
            ("Server=h:1433", "comma, not a colon", "Server=host,1433"),
            ("Server=h,x", "not a number", ""),
            ("Server=h,99999", "not a number", ""),
            ("Server=a b", "no host name", ""),
            ("Server=np:h", "by TCP", ""),
            ("Server=\\\\.\\pipe\\sql", "by TCP", ""),
            ("Server=(localdb)\\v11", "by TCP", ""),
            (
                "Server=h\\SQLEXPRESS",
                "instance `SQLEXPRESS`",
                "Server=host,PORT",
            ),
            (
                "sqlserver://h/SQLEXPRESS",
                "instance `SQLEXPRESS`",
                "?database=name",
            ),
            (
                "sqlserver://h:1/a.b",
                "no name of an instance",
                "?database=name",
            ),
            (
                "Server=h;Integrated Security=SSPI",
                "Windows login",
                "CREATE LOGIN",
            ),
            (
                "Server=h;Trusted_Connection=yes",
                "Windows login",
                "CREATE LOGIN",
            ),
            (
                "Server=h;Authentication=Active Directory Default",
                "Sql Password",
                "CREATE LOGIN",
            ),
            (
                "sqlserver://h?fedauth=ActiveDirectoryMSI",
                "Sql Password",
                "CREATE LOGIN",
            ),
            (
                "Server=h;Driver={ODBC Driver 18 for SQL Server}",
                "`Driver`",
                "ODBC",
            ),
            (
                "Server=h;AttachDbFilename=x",
                "`AttachDbFilename`",
                "must not attach",
            ),
            (
                "Server=h;Failover Partner=x",
                "`Failover Partner`",
                "a connection for the partner",
            ),
            (
                "Server=h;ServerCertificate=/x",
                "`ServerCertificate`",
                "caCert",
            ),
            ("sqlserver://h?certificate=/x", "`certificate`", "caCert"),
            (
                "sqlserver://h?change+password=x",
                "`change password`",
                "must not change",
            ),
            ("Server=h;Encrypt=maybe", "`Encrypt` must be", ""),
            (
                "Server=h;TrustServerCertificate=maybe",
                "must be `true` or `false`",
                "",
            ),
            (
                "Server=h;Application Intent=x",
                "`ReadWrite` or `ReadOnly`",
                "",
            ),
            ("Server=h;Packet Size=100", "between 512 and", ""),
            ("Server=h;Connect Timeout=-1", "number of seconds", ""),
            ("Server=h;tlsmin=2", "`1.2` or `1.3`", ""),
            ("Server=h;Network Library=dbnmpntw", "by TCP", ""),
            ("Server=h;nonsense", "not `Keyword=value`", ""),
            ("Server=h;Password=a;b", "behind the password", "in quotes"),
            (
                "Server=h;Password=a;b=c",
                "behind the password",
                "in quotes",
            ),
            ("Server=h;Password=\"a", "not closed", "twice"),
            ("Server=h;Password=\"a\"b;x=y", "closing quote", "twice"),
            ("Server=h;Database=a\0b", "NUL", ""),
        ] {
            let (said, way_out) = wrong(url);
            assert!(said.starts_with("bad `url`: "), "{said}");
            assert!(said.contains(message), "{url}: {said}");
            assert!(way_out.contains(hint), "{url}: {way_out}");
        }
    }

    #[test]
    fn what_makes_no_difference_is_known() {
        for (keyword, meaning) in KEYWORDS {
            if *meaning == Keyword::Harmless {
                ok(&format!("Server=h;{keyword}=1"));
                ok(&format!("sqlserver://h?{keyword}=1"));
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,60}") {
            let secret = Secret::new(text.clone());
            testing::with_access("mssql", "url: x", |access| {
                let _ = Dsn::read(access, &secret);
                let _ = Dsn::read(access, &Secret::new(format!("Server=h;{text}")));
                let _ = Dsn::read(access, &Secret::new(format!("sqlserver://{text}")));
            });
        }

        #[test]
        fn a_quoted_password_is_what_it_was(password in "[^\\x00]{1,40}") {
            let url = format!("Server=h;Password=\"{}\"", password.replace('"', "\"\""));
            testing::with_access("mssql", "url: x", |access| {
                let dsn = Dsn::read(access, &Secret::new(url)).unwrap();
                assert_eq!(dsn.password, Some(Secret::new(password)));
            });
        }
    }
}
