//! Reads what libpq reads: connection URIs and keyword strings, with every parameter it has.
//!
//! Each parameter is honoured or refused by name. The environment (`PGHOST` …), `~/.pgpass` and
//! service files are not looked at: a definition says all by itself.

use std::net::IpAddr;
use std::time::Duration;

use conncheck_config::Secret;
use tokio_postgres::config::ChannelBinding;

use crate::address::{Mistake, decode, host_and_port, mistake, one_of};
use crate::attempt::Address;
use crate::tls::Version;

const DEFAULT_PORT: u16 = 5432;
const DEFAULT_HOST: &str = "localhost";

/// What a URI or keyword string says, understood.
#[derive(Debug, PartialEq)]
pub(super) struct Dsn {
    /// In the order in which they are tried. Never empty.
    pub(super) hosts: Vec<Host>,
    pub(super) user: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) dbname: Option<String>,
    /// How long one host may take.
    pub(super) connect_timeout: Option<Duration>,
    pub(super) options: Option<String>,
    pub(super) application_name: Option<String>,
    pub(super) fallback_application_name: Option<String>,
    pub(super) ssl: Ssl,
    pub(super) target_session_attrs: TargetSessionAttrs,
    /// Whether the hosts are tried in a random order.
    pub(super) load_balance: bool,
    pub(super) channel_binding: ChannelBinding,
    pub(super) require_auth: RequireAuth,
}

/// One server to try.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Host {
    /// What a certificate must be for.
    pub(super) name: String,
    /// Where to connect to: `hostaddr` if it is given, else `name`.
    pub(super) address: Address,
}

/// The parameters that begin with `ssl`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ssl {
    pub(super) mode: SslMode,
    /// Whether TLS starts without asking (`sslnegotiation=direct`).
    pub(super) direct: bool,
    pub(super) cert: Option<String>,
    pub(super) key: Option<String>,
    pub(super) root_cert: RootCert,
    pub(super) sni: bool,
    pub(super) min_version: Option<Version>,
    pub(super) max_version: Option<Version>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// `sslrootcert`.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum RootCert {
    Absent,
    /// The authorities that this machine trusts.
    System,
    File(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TargetSessionAttrs {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

impl TargetSessionAttrs {
    pub(super) fn as_str(self) -> &'static str {
        SESSION_ATTRS
            .iter()
            .find(|(_, attrs)| *attrs == self)
            .map_or("any", |(name, _)| name)
    }
}

const SESSION_ATTRS: &[(&str, TargetSessionAttrs)] = &[
    ("any", TargetSessionAttrs::Any),
    ("read-write", TargetSessionAttrs::ReadWrite),
    ("read-only", TargetSessionAttrs::ReadOnly),
    ("primary", TargetSessionAttrs::Primary),
    ("standby", TargetSessionAttrs::Standby),
    ("prefer-standby", TargetSessionAttrs::PreferStandby),
];

/// A way of the server's to ask who we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    None,
    Password,
    Md5,
    ScramSha256,
    Gss,
    Sspi,
    OAuth,
}

impl Method {
    pub(super) fn as_str(self) -> &'static str {
        METHODS
            .iter()
            .find(|(_, method)| *method == self)
            .map_or("none", |(name, _)| name)
    }
}

const METHODS: &[(&str, Method)] = &[
    ("none", Method::None),
    ("password", Method::Password),
    ("md5", Method::Md5),
    ("scram-sha-256", Method::ScramSha256),
    ("gss", Method::Gss),
    ("sspi", Method::Sspi),
    ("oauth", Method::OAuth),
];

/// `require_auth`: which methods the server may use.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum RequireAuth {
    /// Any but these.
    Not(Vec<Method>),
    /// One of these.
    OneOf(Vec<Method>),
}

impl RequireAuth {
    pub(super) fn allows(&self, method: Method) -> bool {
        match self {
            Self::Not(methods) => !methods.contains(&method),
            Self::OneOf(methods) => methods.contains(&method),
        }
    }
}

impl Dsn {
    /// Reads either form. A later value of a parameter wins over an earlier one, as in libpq.
    pub(super) fn read(text: &str) -> Result<Self, Mistake> {
        let text = text.trim();
        let pairs = match text.split_once("://") {
            Some((scheme, rest)) if is_scheme(scheme) => match scheme.to_ascii_lowercase().as_str()
            {
                "postgres" | "postgresql" => uri(rest)?,
                _ => {
                    return Err(mistake("this scheme is not Postgres")
                        .hint("use `postgres://user@host:5432/database`"));
                }
            },
            _ if text.starts_with("jdbc:") => {
                return Err(mistake("this is a JDBC URL").hint("leave `jdbc:` out"));
            }
            _ if text.contains('=') => keywords(text)?,
            _ => {
                return Err(mistake("it is neither a URL nor a keyword string").hint(
                    "write `postgres://user@host:5432/database` or `host=… user=… dbname=…`",
                ));
            }
        };
        Parameters::of(&pairs)?.understand()
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

type Pairs = Vec<(String, String)>;

/// `user:password@host:port,host:port/dbname?parameter=value&…`
///
/// User and password end at the last `@`, not at the first: a host has none, and most drivers do
/// the same.
fn uri(rest: &str) -> Result<Pairs, Mistake> {
    let mut pairs = Pairs::new();
    let (authority, tail) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let hosts = match authority.rsplit_once('@') {
        None => authority,
        Some((credentials, hosts)) => {
            let (user, password) = match credentials.split_once(':') {
                Some((user, password)) => (user, password),
                None => (credentials, ""),
            };
            put(&mut pairs, "user", decode(user)?);
            put(&mut pairs, "password", decode(password)?);
            hosts
        }
    };
    if !hosts.is_empty() {
        let mut names = Vec::new();
        let mut ports = Vec::new();
        for host in hosts.split(',') {
            let (name, port) = host_and_port(host)?;
            names.push(decode(name)?);
            ports.push(port.to_owned());
        }
        pairs.push(("host".to_owned(), names.join(",")));
        if ports.iter().any(|port| !port.is_empty()) {
            pairs.push(("port".to_owned(), ports.join(",")));
        }
    }
    let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
    put(
        &mut pairs,
        "dbname",
        decode(path.strip_prefix('/').unwrap_or(path))?,
    );
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (keyword, value) = parameter.split_once('=').ok_or_else(|| {
            mistake("an option of the URL has no `=`").hint("write `?option=value&option=value`")
        })?;
        match (decode(keyword)?, decode(value)?) {
            // What JDBC calls it.
            (keyword, value) if keyword == "ssl" && value == "true" => {
                pairs.push(("sslmode".to_owned(), "require".to_owned()));
            }
            pair => pairs.push(pair),
        }
    }
    Ok(pairs)
}

fn put(pairs: &mut Pairs, keyword: &str, value: String) {
    if !value.is_empty() {
        pairs.push((keyword.to_owned(), value));
    }
}

/// `host=localhost password='with \' and space'`
fn keywords(text: &str) -> Result<Pairs, Mistake> {
    let mut pairs = Pairs::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c.is_whitespace());
        let (keyword, tail) = rest.split_at(end.unwrap_or(rest.len()));
        let tail = tail.trim_start().strip_prefix('=');
        let Some(tail) = tail.filter(|_| !keyword.is_empty()) else {
            return Err(mistake("it is not a series of `keyword=value`").hint(
                "a value with a space in it stands in quotes: `password='two words'`; \\' and \\\\ within them",
            ));
        };
        let (value, tail) = keyword_value(tail.trim_start())?;
        pairs.push((keyword.to_owned(), value));
        rest = tail.trim_start();
    }
    Ok(pairs)
}

/// The value at the beginning of `text`, and what follows it.
fn keyword_value(text: &str) -> Result<(String, &str), Mistake> {
    let (quoted, text) = match text.strip_prefix('\'') {
        Some(text) => (true, text),
        None => (false, text),
    };
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Ok((value, &text[at + 1..])),
            c if !quoted && c.is_whitespace() => return Ok((value, &text[at..])),
            c => value.push(c),
        }
    }
    match quoted {
        true => Err(mistake("a quoted value has no closing `'`")),
        false => Ok((value, "")),
    }
}

/// libpq's parameters, each as it was written.
#[derive(Default)]
struct Parameters<'a> {
    host: Option<&'a str>,
    hostaddr: Option<&'a str>,
    port: Option<&'a str>,
    dbname: Option<&'a str>,
    user: Option<&'a str>,
    password: Option<&'a str>,
    connect_timeout: Option<&'a str>,
    options: Option<&'a str>,
    application_name: Option<&'a str>,
    fallback_application_name: Option<&'a str>,
    sslmode: Option<&'a str>,
    sslnegotiation: Option<&'a str>,
    sslcert: Option<&'a str>,
    sslkey: Option<&'a str>,
    sslcertmode: Option<&'a str>,
    sslrootcert: Option<&'a str>,
    sslsni: Option<&'a str>,
    ssl_min_protocol_version: Option<&'a str>,
    ssl_max_protocol_version: Option<&'a str>,
    target_session_attrs: Option<&'a str>,
    load_balance_hosts: Option<&'a str>,
    channel_binding: Option<&'a str>,
    require_auth: Option<&'a str>,
}

/// What is honoured, for suggestions.
const HONOURED: &[&str] = &[
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "connect_timeout",
    "client_encoding",
    "options",
    "application_name",
    "fallback_application_name",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "sslmode",
    "sslnegotiation",
    "sslcert",
    "sslkey",
    "sslcertmode",
    "sslrootcert",
    "sslsni",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
    "target_session_attrs",
    "load_balance_hosts",
    "channel_binding",
    "require_auth",
];

/// What libpq has and a health check has no use for, and why.
const REFUSED: &[(&str, &str)] = &[
    ("passfile", "give `password` or a `secretRef`"),
    ("service", "write the service's parameters here"),
    ("servicefile", "write the service's parameters here"),
    (
        "sslpassword",
        "encrypted keys are not read: decrypt it, and keep it in a secret",
    ),
    ("sslcrl", "revocation lists are not read"),
    ("sslcrldir", "revocation lists are not read"),
    ("sslkeylogfile", "conncheck writes no key log"),
    (
        "requirepeer",
        "the owner of a unix socket's server is not looked at",
    ),
    ("krbsrvname", "GSSAPI is not spoken"),
    ("gsslib", "GSSAPI is not spoken"),
    ("gssdelegation", "GSSAPI is not spoken"),
    ("requiressl", "use `sslmode=require`"),
    ("replication", "what is checked is an ordinary session"),
    ("scram_client_key", "give `password` or a `secretRef`"),
    ("scram_server_key", "give `password` or a `secretRef`"),
    ("oauth_issuer", "OAuth logins are not spoken"),
    ("oauth_client_id", "OAuth logins are not spoken"),
    ("oauth_client_secret", "OAuth logins are not spoken"),
    ("oauth_scope", "OAuth logins are not spoken"),
];

impl<'a> Parameters<'a> {
    fn of(pairs: &'a Pairs) -> Result<Self, Mistake> {
        let mut res = Self::default();
        let mut before = "";
        for (keyword, value) in pairs {
            if value.contains('\0') {
                return Err(mistake("there is a NUL character in a value"));
            }
            res.put(keyword, value, before)?;
            before = keyword;
        }
        Ok(res)
    }

    fn put(&mut self, keyword: &str, value: &'a str, before: &str) -> Result<(), Mistake> {
        let slot = match keyword {
            "host" => &mut self.host,
            "hostaddr" => &mut self.hostaddr,
            "port" => &mut self.port,
            "dbname" => &mut self.dbname,
            "user" => &mut self.user,
            "password" => &mut self.password,
            "connect_timeout" => &mut self.connect_timeout,
            "options" => &mut self.options,
            "application_name" => &mut self.application_name,
            "fallback_application_name" => &mut self.fallback_application_name,
            "sslmode" => &mut self.sslmode,
            "sslnegotiation" => &mut self.sslnegotiation,
            "sslcert" => &mut self.sslcert,
            "sslkey" => &mut self.sslkey,
            "sslcertmode" => &mut self.sslcertmode,
            "sslrootcert" => &mut self.sslrootcert,
            "sslsni" => &mut self.sslsni,
            "ssl_min_protocol_version" => &mut self.ssl_min_protocol_version,
            "ssl_max_protocol_version" => &mut self.ssl_max_protocol_version,
            "target_session_attrs" => &mut self.target_session_attrs,
            "load_balance_hosts" => &mut self.load_balance_hosts,
            "channel_binding" => &mut self.channel_binding,
            "require_auth" => &mut self.require_auth,
            // They only matter to a connection that lives longer than an attempt.
            "keepalives"
            | "keepalives_idle"
            | "keepalives_interval"
            | "keepalives_count"
            | "tcp_user_timeout" => return integer(keyword, value).map(|_| ()),
            // Texts are asked for, and come, in UTF-8.
            "client_encoding" => {
                let known = ["auto", "UTF8", "UTF-8", "unicode"];
                return match known.iter().any(|name| name.eq_ignore_ascii_case(value)) {
                    true => Ok(()),
                    false => Err(mistake("`client_encoding` must be `auto` or `UTF8`")),
                };
            }
            // What these ask for is so anyway.
            "sslcompression" if value == "0" => return Ok(()),
            "gssencmode" if matches!(value, "disable" | "prefer") => return Ok(()),
            "min_protocol_version" if value == "3.0" => return Ok(()),
            "max_protocol_version" => return Ok(()),
            "sslcompression" => {
                return Err(
                    mistake("`sslcompression` is refused: nobody compresses TLS any more")
                        .hint("use `sslcompression=0`, or leave it out"),
                );
            }
            "gssencmode" => {
                return Err(mistake("`gssencmode` is refused: GSSAPI is not spoken")
                    .hint("use `gssencmode=disable`, or leave it out"));
            }
            "min_protocol_version" => {
                return Err(mistake(
                    "`min_protocol_version` is refused: protocol 3.0 is spoken",
                ));
            }
            _ => return Err(not_honoured(keyword, before)),
        };
        // An empty value is as good as none.
        *slot = Some(value).filter(|value| !value.is_empty());
        Ok(())
    }

    fn understand(self) -> Result<Dsn, Mistake> {
        Ok(Dsn {
            hosts: hosts(self.host, self.hostaddr, self.port)?,
            user: self.user.map(str::to_owned),
            password: self.password.map(Secret::new),
            dbname: self.dbname.map(str::to_owned),
            connect_timeout: match self.connect_timeout {
                None => None,
                Some(text) => u64::try_from(integer("connect_timeout", text)?)
                    .ok()
                    .filter(|seconds| *seconds > 0)
                    .map(Duration::from_secs),
            },
            options: self.options.map(str::to_owned),
            application_name: self.application_name.map(str::to_owned),
            fallback_application_name: self.fallback_application_name.map(str::to_owned),
            ssl: self.ssl()?,
            target_session_attrs: match self.target_session_attrs {
                None => TargetSessionAttrs::Any,
                Some(text) => one_of("target_session_attrs", text, SESSION_ATTRS)?,
            },
            load_balance: match self.load_balance_hosts {
                None => false,
                Some(text) => one_of(
                    "load_balance_hosts",
                    text,
                    &[("disable", false), ("random", true)],
                )?,
            },
            channel_binding: match self.channel_binding {
                None => ChannelBinding::Prefer,
                Some(text) => one_of(
                    "channel_binding",
                    text,
                    &[
                        ("disable", ChannelBinding::Disable),
                        ("prefer", ChannelBinding::Prefer),
                        ("require", ChannelBinding::Require),
                    ],
                )?,
            },
            require_auth: match self.require_auth {
                None => RequireAuth::Not(Vec::new()),
                Some(text) => require_auth(text)?,
            },
        })
    }

    fn ssl(&self) -> Result<Ssl, Mistake> {
        let root_cert = match self.sslrootcert {
            None => RootCert::Absent,
            Some("system") => RootCert::System,
            Some(path) => RootCert::File(path.to_owned()),
        };
        let mode = match (self.sslmode, &root_cert) {
            (None, RootCert::System) => SslMode::VerifyFull,
            (None, _) => SslMode::Prefer,
            (Some(text), _) => one_of(
                "sslmode",
                text,
                &[
                    ("disable", SslMode::Disable),
                    ("allow", SslMode::Allow),
                    ("prefer", SslMode::Prefer),
                    ("require", SslMode::Require),
                    ("verify-ca", SslMode::VerifyCa),
                    ("verify-full", SslMode::VerifyFull),
                ],
            )?,
        };
        if root_cert == RootCert::System && mode != SslMode::VerifyFull {
            return Err(
                mistake("`sslrootcert=system` goes with `sslmode=verify-full` only").hint(
                    "anybody can get a certificate from a public authority, for a name of theirs",
                ),
            );
        }
        let direct = match self.sslnegotiation {
            None => false,
            Some(text) => one_of(
                "sslnegotiation",
                text,
                &[("postgres", false), ("direct", true)],
            )?,
        };
        if direct && mode < SslMode::Require {
            return Err(mistake("`sslnegotiation=direct` needs TLS for certain")
                .hint("use `sslmode=require`, `verify-ca` or `verify-full` with it"));
        }
        let shows_certificate = match self.sslcertmode {
            None => true,
            Some(text) => one_of("sslcertmode", text, &[("disable", false), ("allow", true)])
                .map_err(|mistake| match text {
                    "require" => Mistake {
                        message: "`sslcertmode=require` is refused: a server that does not ask for our certificate is as good"
                            .to_owned(),
                        ..mistake
                    },
                    _ => mistake,
                })?,
        };
        let own = |path: Option<&str>| path.filter(|_| shows_certificate).map(str::to_owned);
        let min_version = version("ssl_min_protocol_version", self.ssl_min_protocol_version)?;
        let max_version = version("ssl_max_protocol_version", self.ssl_max_protocol_version)?;
        if max_version == Some(None) {
            return Err(mistake("`ssl_max_protocol_version` is below TLS 1.2")
                .hint("conncheck speaks TLS 1.2 and 1.3 only"));
        }
        let (min_version, max_version) = (min_version.flatten(), max_version.flatten());
        if min_version
            .zip(max_version)
            .is_some_and(|(min, max)| min > max)
        {
            return Err(mistake(
                "`ssl_min_protocol_version` is above `ssl_max_protocol_version`",
            ));
        }
        Ok(Ssl {
            mode,
            direct,
            cert: own(self.sslcert),
            key: own(self.sslkey),
            root_cert,
            sni: match self.sslsni {
                None => true,
                Some(text) => one_of("sslsni", text, &[("0", false), ("1", true)])?,
            },
            min_version,
            max_version,
        })
    }
}

/// The refusal of a parameter. Its name is not repeated where it may be the rest of a password.
fn not_honoured(keyword: &str, before: &str) -> Mistake {
    if let Some((_, why)) = REFUSED.iter().find(|(name, _)| *name == keyword) {
        return mistake(format!("option `{keyword}` is refused: {why}"));
    }
    match conncheck_config::closest(keyword, HONOURED.iter().copied()) {
        Some(close) => {
            mistake(format!("unknown option `{keyword}`")).hint(format!("did you mean `{close}`?"))
        }
        None if before == "password" => {
            mistake("what follows the password is not an option of Postgres").hint(
                "is it still the password? percent-encode it in a URL, quote it in a keyword string, or give it as `password`",
            )
        }
        None => mistake(format!("unknown option `{keyword}`")).hint(
            "libpq's options are known; a setting of the server goes into `options`: `options=-c%20search_path%3Dapp` in a URL, `options='-c search_path=app'` in a keyword string",
        ),
    }
}

fn integer(keyword: &str, text: &str) -> Result<i64, Mistake> {
    text.trim()
        .parse::<i32>()
        .map(i64::from)
        .map_err(|_| mistake(format!("`{keyword}` is not a whole number")))
}

/// A version of TLS: `Some(None)` is one that is older than what we speak.
fn version(keyword: &str, text: Option<&str>) -> Result<Option<Option<Version>>, Mistake> {
    let known = [
        ("TLSv1", None),
        ("TLSv1.1", None),
        ("TLSv1.2", Some(Version::V1_2)),
        ("TLSv1.3", Some(Version::V1_3)),
    ];
    text.map(|text| {
        // libpq does not mind case here.
        let written = known
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(text))
            .map_or(text, |(name, _)| name);
        one_of(keyword, written, &known)
    })
    .transpose()
}

/// `password,scram-sha-256`, or what it must not be: `!password,!md5`.
fn require_auth(text: &str) -> Result<RequireAuth, Mistake> {
    let mut named = Vec::new();
    let mut negated = None;
    for item in text.split(',').map(str::trim) {
        let (is_negated, name) = match item.strip_prefix('!') {
            Some(name) => (true, name),
            None => (false, item),
        };
        if *negated.get_or_insert(is_negated) != is_negated {
            return Err(mistake("`require_auth` has methods with and without `!`"));
        }
        named.push(one_of("require_auth", name, METHODS)?);
    }
    Ok(match negated {
        Some(true) => RequireAuth::Not(named),
        _ => RequireAuth::OneOf(named),
    })
}

/// Puts the lists of names, addresses and ports together.
fn hosts(
    host: Option<&str>,
    hostaddr: Option<&str>,
    port: Option<&str>,
) -> Result<Vec<Host>, Mistake> {
    let list = |text: Option<&str>| -> Vec<String> {
        text.map(|text| text.split(',').map(|item| item.trim().to_owned()).collect())
            .unwrap_or_default()
    };
    let (names, addresses, ports) = (list(host), list(hostaddr), list(port));
    let count = names.len().max(addresses.len()).max(1);
    if !addresses.is_empty() && !names.is_empty() && names.len() != addresses.len() {
        return Err(mistake("there are not as many in `host` as in `hostaddr`"));
    }
    if ports.len() > 1 && ports.len() != count {
        return Err(mistake("there are not as many ports as hosts")
            .hint("give one port for all of them, or one for each"));
    }
    (0..count)
        .map(|index| {
            let port = match ports.get(index).or(ports.first()).map(String::as_str) {
                None | Some("") => DEFAULT_PORT,
                Some(text) => port_number(text)?,
            };
            let name = names.get(index).map_or("", String::as_str);
            let address = addresses.get(index).map_or("", String::as_str);
            one_host(name, address, port)
        })
        .collect()
}

fn port_number(text: &str) -> Result<u16, Mistake> {
    text.parse().ok().filter(|port| *port > 0).ok_or_else(|| {
        mistake("a port is not a number from 1 to 65535").hint(
            "if the password has a `/`, `?` or `%` in it, percent-encode it or give it as `password`",
        )
    })
}

fn one_host(name: &str, address: &str, port: u16) -> Result<Host, Mistake> {
    if !address.is_empty() {
        let ip: IpAddr = address
            .parse()
            .map_err(|_| mistake("`hostaddr` is not an IP address"))?;
        let name = match name {
            "" => address,
            name => name,
        };
        return Ok(tcp(name, &ip.to_string(), port));
    }
    match name {
        "" => Ok(tcp(DEFAULT_HOST, DEFAULT_HOST, port)),
        directory if directory.starts_with('/') => {
            let directory = directory.trim_end_matches('/');
            let path = format!("{directory}/.s.PGSQL.{port}");
            Ok(Host {
                name: DEFAULT_HOST.to_owned(),
                address: Address::Unix(path.into()),
            })
        }
        abstract_name if abstract_name.starts_with('@') => Err(mistake(
            "unix sockets in the abstract namespace (`@…`) are not dialled",
        )
        .hint("name the directory of the socket: `host=/run/postgresql`")),
        name if name.contains(':') && name.parse::<IpAddr>().is_err() => {
            Err(mistake("there is a `:` in a host").hint("in a keyword string write `host=… port=…`"))
        }
        name if name.contains(|c: char| c.is_whitespace() || "@/?#%".contains(c)) => {
            Err(mistake("a host has characters in it that no host name has").hint(
                "if the password has an `@`, `/` or `?` in it, percent-encode it or give it as `password`",
            ))
        }
        name => Ok(tcp(name, name, port)),
    }
}

fn tcp(name: &str, host: &str, port: u16) -> Host {
    Host {
        name: name.to_owned(),
        address: Address::Tcp {
            host: host.to_owned(),
            port,
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::percent_encoded;

    /// What there is to see of a text at a glance: `user:password@hosts/dbname`, and `!` with the
    /// message and the hint for a mistake.
    fn glance(text: &str) -> String {
        match Dsn::read(text) {
            Ok(dsn) => {
                let hosts: Vec<_> = dsn
                    .hosts
                    .iter()
                    .map(|host| host.address.to_string())
                    .collect();
                let password = dsn.password.as_ref().map_or("-", Secret::expose);
                format!(
                    "{}:{password}@{}/{}",
                    dsn.user.as_deref().unwrap_or("-"),
                    hosts.join(","),
                    dsn.dbname.as_deref().unwrap_or("-"),
                )
            }
            Err(Mistake { message, hint }) => {
                format!("! {message} ({})", hint.unwrap_or_default())
            }
        }
    }

    fn check(cases: &[(&str, &str)]) {
        for (text, expected) in cases {
            assert_eq!(glance(text), *expected, "{text}");
        }
    }

    #[test]
    fn uris_of_libpqs_documentation() {
        check(&[
            ("postgresql://", "-:-@localhost:5432/-"),
            ("postgresql://localhost", "-:-@localhost:5432/-"),
            ("postgresql://localhost:5433", "-:-@localhost:5433/-"),
            ("postgresql://localhost/mydb", "-:-@localhost:5432/mydb"),
            ("postgresql://user@localhost", "user:-@localhost:5432/-"),
            (
                "postgresql://user:secret@localhost",
                "user:secret@localhost:5432/-",
            ),
            (
                "postgresql://other@localhost/otherdb?connect_timeout=10&application_name=myapp",
                "other:-@localhost:5432/otherdb",
            ),
            (
                "postgresql://host1:123,host2:456/somedb?target_session_attrs=any&application_name=myapp",
                "-:-@host1:123,host2:456/somedb",
            ),
            (
                "postgresql://user@localhost:5433/mydb?options=-c%20synchronous_commit%3Doff",
                "user:-@localhost:5433/mydb",
            ),
            (
                "postgresql:///mydb?host=localhost&port=5433",
                "-:-@localhost:5433/mydb",
            ),
            (
                "postgresql://[2001:db8::1234]/database",
                "-:-@[2001:db8::1234]:5432/database",
            ),
            (
                "postgresql:///dbname?host=/var/lib/postgresql",
                "-:-@/var/lib/postgresql/.s.PGSQL.5432/dbname",
            ),
            (
                "postgresql://%2Fvar%2Flib%2Fpostgresql/dbname",
                "-:-@/var/lib/postgresql/.s.PGSQL.5432/dbname",
            ),
        ]);
    }

    #[test]
    fn uris_of_libpqs_own_tests() {
        check(&[
            (
                "postgresql://uri-user:secret@host:12345/db",
                "uri-user:secret@host:12345/db",
            ),
            ("postgresql://uri-user@host/", "uri-user:-@host:5432/-"),
            (
                "postgresql://uri-%75ser@host:12345/db",
                "uri-user:-@host:12345/db",
            ),
            (
                "postgresql://host:12345/db?user=uri-user",
                "uri-user:-@host:12345/db",
            ),
            (
                "postgresql://host:12345/?user=uri-user",
                "uri-user:-@host:12345/-",
            ),
            ("postgresql://host?user=uri-user", "uri-user:-@host:5432/-"),
            ("postgresql://?hostaddr=127.0.0.1", "-:-@127.0.0.1:5432/-"),
            (
                "postgresql://example.com?hostaddr=63.1.2.4",
                "-:-@63.1.2.4:5432/-",
            ),
            ("postgresql://%68ost/", "-:-@host:5432/-"),
            ("postgresql://[::1]:12345/db", "-:-@[::1]:12345/db"),
            ("postgresql://[2001:db8::1]/", "-:-@[2001:db8::1]:5432/-"),
            ("postgres://", "-:-@localhost:5432/-"),
            ("postgres:///tmp", "-:-@localhost:5432/tmp"),
            (
                "postgresql:///?host=/path/to/socket/dir",
                "-:-@/path/to/socket/dir/.s.PGSQL.5432/-",
            ),
            (
                "postgresql://otheruser@?host=/no/such/directory",
                "otheruser:-@/no/such/directory/.s.PGSQL.5432/-",
            ),
            (
                "postgres://otheruser:no-such-dir@:12345?host=/no",
                "otheruser:no-such-dir@/no/.s.PGSQL.12345/-",
            ),
            (
                "postgresql://%2Fvar%2Flib/dbname?port=1",
                "-:-@/var/lib/.s.PGSQL.1/dbname",
            ),
            ("postgresql://host:12345/db?ssl=true", "-:-@host:12345/db"),
            (
                "postgre://",
                "! this scheme is not Postgres (use `postgres://user@host:5432/database`)",
            ),
            ("postgres://[::1", "! an IPv6 address has no closing `]` ()"),
            (
                "postgres://[::1]x",
                "! there is something between `]` and the port ()",
            ),
            (
                "postgresql://%",
                "! a `%` is not followed by two hexadecimal digits (a `%` itself is written `%25`)",
            ),
            (
                "postgres://host?zzz",
                "! an option of the URL has no `=` (write `?option=value&option=value`)",
            ),
            (
                "postgresql://localhost?client_encoding%",
                "! an option of the URL has no `=` (write `?option=value&option=value`)",
            ),
        ]);
    }

    #[test]
    fn keyword_strings() {
        check(&[
            (
                "host=localhost port=5432 dbname=mydb connect_timeout=10",
                "-:-@localhost:5432/mydb",
            ),
            (
                "host = h user = 'u' password = 'it\\'s \\\\ here'",
                "u:it's \\ here@h:5432/-",
            ),
            (
                "host=h password=with\\ space user=u",
                "u:with space@h:5432/-",
            ),
            ("host=a,b,c port=1,2,3 user=u", "u:-@a:1,b:2,c:3/-"),
            ("host=a,b port=7 user=u", "u:-@a:7,b:7/-"),
            ("host=a,,b user=u", "u:-@a:5432,localhost:5432,b:5432/-"),
            ("hostaddr=::1 user=u", "u:-@[::1]:5432/-"),
            (
                "host=/run/postgresql user=u",
                "u:-@/run/postgresql/.s.PGSQL.5432/-",
            ),
            ("user=u password=''", "u:-@localhost:5432/-"),
            ("user=a user=b", "b:-@localhost:5432/-"),
            ("password=a://b user=u", "u:a://b@localhost:5432/-"),
            (
                "host=h password=two words",
                "! it is not a series of `keyword=value` (a value with a space in it stands in quotes: `password='two words'`; \\' and \\\\ within them)",
            ),
            ("password='open", "! a quoted value has no closing `'` ()"),
            (
                "host=db:5432 user=u",
                "! there is a `:` in a host (in a keyword string write `host=… port=…`)",
            ),
            (
                "host=a,b port=1,2,3",
                "! there are not as many ports as hosts (give one port for all of them, or one for each)",
            ),
            (
                "host=a,b hostaddr=::1",
                "! there are not as many in `host` as in `hostaddr` ()",
            ),
            (
                "db.example.com",
                "! it is neither a URL nor a keyword string (write `postgres://user@host:5432/database` or `host=… user=… dbname=…`)",
            ),
        ]);
    }

    #[test]
    fn awkward_passwords() {
        check(&[
            ("postgres://u:p@ss@h/db", "u:p@ss@h:5432/db"),
            ("postgres://u:p:w@h/db", "u:p:w@h:5432/db"),
            ("postgres://u:p%2Fw%3F%25@h/db", "u:p/w?%@h:5432/db"),
            ("postgres://u:p+w@h/db", "u:p+w@h:5432/db"),
            ("postgres://u:p#w@h/db", "u:p#w@h:5432/db"),
            (
                "postgres://u:p/w@h/db",
                "! a port is not a number from 1 to 65535 (if the password has a `/`, `?` or `%` in it, percent-encode it or give it as `password`)",
            ),
            (
                "postgres://h/db?password=first&second=x",
                "! what follows the password is not an option of Postgres (is it still the password? percent-encode it in a URL, quote it in a keyword string, or give it as `password`)",
            ),
        ]);
    }

    #[test]
    fn hostaddr_keeps_the_name_for_the_certificate() {
        let dsn = Dsn::read("host=db.example.com hostaddr=192.0.2.1").unwrap();
        assert_eq!(dsn.hosts[0].name, "db.example.com");
        assert_eq!(dsn.hosts[0].address.to_string(), "192.0.2.1:5432");
    }

    /// The mistake in a URL with these options, or nothing.
    fn mistake_in(options: &str) -> String {
        match Dsn::read(&format!("postgres://u@h/db?{options}")) {
            Ok(_) => String::new(),
            Err(Mistake { message, hint }) => match hint {
                Some(hint) => format!("{message} ({hint})"),
                None => message,
            },
        }
    }

    #[test]
    fn every_option_is_honoured_or_refused_by_name() {
        for options in [
            "sslmode=disable",
            "sslmode=verify-full&sslrootcert=system",
            "sslrootcert=system",
            "sslmode=require&sslnegotiation=direct",
            "sslcompression=0&sslsni=0&sslcertmode=disable",
            "ssl_min_protocol_version=TLSv1.1&ssl_max_protocol_version=tlsv1.3",
            "gssencmode=prefer",
            "keepalives=1&keepalives_idle=30&tcp_user_timeout=1000",
            "client_encoding=utf8",
            "target_session_attrs=prefer-standby&load_balance_hosts=random",
            "channel_binding=require&require_auth=scram-sha-256",
            "require_auth=!password,!md5",
            "connect_timeout=0",
        ] {
            assert_eq!(mistake_in(options), "", "{options}");
        }
        for name in HONOURED {
            let message = mistake_in(&format!("{name}=nonsense"));
            assert!(!message.contains("unknown option"), "{name}: {message}");
        }
        for (name, _) in REFUSED {
            let message = mistake_in(&format!("{name}=x"));
            assert!(
                message.starts_with(&format!("option `{name}` is refused: ")),
                "{message}"
            );
        }
    }

    #[test]
    fn mistakes_name_the_way_out() {
        let messages: String = [
            "sslmod=require",
            "search_path=app",
            "sslmode=verfy-full",
            "sslmode=1",
            "sslmode=require&sslrootcert=system",
            "sslnegotiation=direct",
            "sslcertmode=require",
            "sslcompression=1",
            "gssencmode=require",
            "service=prod",
            "sslpassword=x",
            "connect_timeout=soon",
            "target_session_attrs=master",
            "require_auth=scram-sha-256,!md5",
            "require_auth=scram",
            "ssl_max_protocol_version=TLSv1.1",
            "ssl_min_protocol_version=TLSv1.3&ssl_max_protocol_version=TLSv1.2",
            "client_encoding=LATIN1",
            "host=@abstract",
            "host=a%20b",
            "hostaddr=localhost",
            "port=0",
            "options=%00",
        ]
        .iter()
        .map(|options| format!("{options}\n    {}\n", mistake_in(options)))
        .collect();
        insta::assert_snapshot!(messages);
    }

    fn quoted(text: &str) -> String {
        format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in "\\PC*", options in "[a-z_=&%,!'@:/?\\[\\] 0-9\\\\]*") {
            let _ = Dsn::read(&text);
            let _ = Dsn::read(&format!("postgres://{options}"));
            let _ = Dsn::read(&format!("user=u {options}"));
        }

        #[test]
        fn what_is_written_by_the_rules_is_read_back(
            user in "[^\\x00]{1,12}", password in "[^\\x00]{1,12}", dbname in "[^\\x00]{1,12}",
        ) {
            let uri = format!("postgres://{}:{}@h/{}", percent_encoded(&user), percent_encoded(&password), percent_encoded(&dbname));
            let pairs = format!(
                "user={} password = {} dbname={}", quoted(&user), quoted(&password), quoted(&dbname),
            );
            for text in [uri, pairs] {
                let dsn = Dsn::read(&text).unwrap();
                prop_assert_eq!(dsn.user.as_deref(), Some(user.as_str()));
                prop_assert_eq!(dsn.password.as_ref().map(Secret::expose), Some(password.as_str()));
                prop_assert_eq!(dsn.dbname.as_deref(), Some(dbname.as_str()));
            }
        }
    }
}
