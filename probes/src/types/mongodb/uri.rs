//! Reads MongoDB's connection strings, with every option that the specifications of its drivers have.
//!
//! Each option is honoured, or known and without meaning for one attempt (the size of a pool), or
//! refused by name. What the specifications call a conflict is a mistake here, as in the drivers;
//! where they only want a warning, an option that is not understood is a mistake too.

use std::net::IpAddr;
use std::time::Duration;

use conncheck_config::Secret;

use crate::address::{ENCODE, Mistake, decode, host_and_port, may_be_password, mistake, one_of};
use crate::attempt::Address;
use crate::schema::{words, written};

const DEFAULT_PORT: u16 = 27017;

/// How often a driver looks at each member, where nothing else is said.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(10);
/// How often a primary writes to its log when it has nothing to write.
const IDLE_WRITE: Duration = Duration::from_secs(10);

/// What a connection string says, understood.
#[derive(Debug, PartialEq)]
pub(super) struct Uri {
    pub(super) seeds: Seeds,
    pub(super) user: Option<String>,
    pub(super) password: Option<Secret>,
    /// The database of the path.
    pub(super) database: Option<String>,
    pub(super) options: Options,
}

/// Where to begin.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Seeds {
    /// `mongodb://`. Never empty.
    Hosts(Vec<Address>),
    /// `mongodb+srv://`: the name servers know the hosts.
    Srv {
        host: String,
        service: String,
        /// How many of the hosts to take; 0 for all.
        max_hosts: usize,
    },
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct Options {
    pub(super) app_name: Option<String>,
    pub(super) auth_source: Option<String>,
    pub(super) mechanism: Option<Mechanism>,
    pub(super) replica_set: Option<String>,
    pub(super) direct: bool,
    pub(super) load_balanced: Option<bool>,
    pub(super) read_mode: Option<Mode>,
    /// The sets of tags of which a member must have one, best first.
    pub(super) tags: Vec<Tags>,
    pub(super) max_staleness: Option<Duration>,
    pub(super) heartbeat: Option<Duration>,
    /// How long one host may take.
    pub(super) connect_timeout: Option<Duration>,
    pub(super) selection_timeout: Option<Duration>,
    pub(super) socket_timeout: Option<Duration>,
    /// How long everything may take.
    pub(super) timeout: Option<Duration>,
    pub(super) tls: TlsOptions,
}

/// The options that begin with `tls`.
#[derive(Debug, Default, PartialEq)]
pub(super) struct TlsOptions {
    /// Whether to speak it; `None` leaves it to the others.
    pub(super) enabled: Option<bool>,
    pub(super) any_certificate: bool,
    pub(super) any_name: bool,
    pub(super) ca_file: Option<String>,
    /// A certificate and its key in one file.
    pub(super) key_file: Option<String>,
    /// An option that says how TLS is spoken, and not whether.
    pub(super) adverb: Option<&'static str>,
}

pub(super) type Tags = Vec<(String, String)>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mechanism {
    ScramSha1,
    ScramSha256,
    X509,
    Plain,
}

/// Which members of a replica set will do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    #[default]
    Primary,
    PrimaryPreferred,
    Secondary,
    SecondaryPreferred,
    Nearest,
}

const MODES: &[(&str, Mode)] = &[
    ("primary", Mode::Primary),
    ("primaryPreferred", Mode::PrimaryPreferred),
    ("secondary", Mode::Secondary),
    ("secondaryPreferred", Mode::SecondaryPreferred),
    ("nearest", Mode::Nearest),
];

written!(Mode: {
    let names: Vec<&str> = MODES.iter().map(|(name, _)| *name).collect();
    words(&names, &[])
});

impl Mode {
    /// Case does not matter, as in most drivers.
    pub(super) fn read(text: &str) -> Result<Self, Mistake> {
        let written = MODES
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(text))
            .map_or(text, |(name, _)| name);
        one_of("readPreference", written, MODES)
    }

    pub(super) fn as_str(self) -> &'static str {
        MODES
            .iter()
            .find(|(_, mode)| *mode == self)
            .map_or("primary", |(name, _)| name)
    }
}

impl Uri {
    pub(super) fn read(text: &str) -> Result<Self, Mistake> {
        let (is_srv, rest) = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("mongodb") => (false, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("mongodb+srv") => (true, rest),
            Some(_) => {
                return Err(mistake("this scheme is not MongoDB").hint(SCHEMES));
            }
            None => return Err(mistake("it has no scheme").hint(SCHEMES)),
        };
        let (authority, tail) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        // Then no part of what is taken for hosts, path and options is quoted.
        let is_cut = may_be_password(authority, tail)?;
        let read = || {
            let (user, password, hosts) = user_info(authority)?;
            let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
            let database = match decode(path.strip_prefix('/').unwrap_or(path))? {
                empty if empty.is_empty() => None,
                name => Some(database(&name)?),
            };
            let mut given = Given::default();
            for option in query.split('&').filter(|option| !option.is_empty()) {
                let (name, value) = option.split_once('=').ok_or_else(|| {
                    mistake("an option of the URL has no `=`")
                        .hint("write `?option=value&option=value`")
                })?;
                given.put(&decode(name)?, decode(value)?, is_cut)?;
            }
            let seeds = given.seeds(hosts, is_srv)?;
            Ok(Self {
                options: given.options(&seeds)?,
                seeds,
                user,
                password,
                database,
            })
        };
        read().map_err(|wrong: Mistake| match is_cut {
            true => Mistake {
                hint: Some(ENCODE.to_owned()),
                ..wrong
            },
            false => wrong,
        })
    }
}

const SCHEMES: &str = "use `mongodb://host:27017/database` or `mongodb+srv://name/database`";

type UserInfo<'a> = (Option<String>, Option<Secret>, &'a str);

/// `user:password@` and what follows it.
fn user_info(authority: &str) -> Result<UserInfo<'_>, Mistake> {
    let Some((credentials, hosts)) = authority.rsplit_once('@') else {
        return Ok((None, None, authority));
    };
    let (user, password) = match credentials.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (credentials, None),
    };
    if user.contains('@') || password.is_some_and(|password| password.contains([':', '@'])) {
        return Err(mistake("user and password have a `:` or `@` of their own").hint(ENCODE));
    }
    if user.is_empty() {
        return Err(mistake("there is an `@` without a user before it"));
    }
    let password = password.map(decode).transpose()?.map(Secret::new);
    Ok((Some(decode(user)?), password, hosts))
}

/// The name of a database, if it can be one.
pub(super) fn database(name: &str) -> Result<String, Mistake> {
    match name.is_empty() || name.contains(['/', '\\', ' ', '"', '$', '.', '\0']) {
        false => Ok(name.to_owned()),
        true => Err(
            mistake("the name of the database has a character that none may have")
                .hint("none of `/ \\ . \" $`, no space; a collection is not part of it"),
        ),
    }
}

/// `host:port`, as it stands in a connection string and in what members say of each other.
pub(super) fn host(text: &str) -> Result<Address, Mistake> {
    let (name, port) = host_and_port(text)?;
    let name = decode(name)?;
    if name.is_empty() {
        return Err(mistake("a host has no name"));
    }
    if name.contains('/') {
        return match name.ends_with(".sock") && port.is_empty() {
            true => Ok(Address::Unix(name.into())),
            false => Err(mistake("the path of a socket does not end in `.sock`")
                .hint("write `mongodb://%2Ftmp%2Fmongodb-27017.sock/`")),
        };
    }
    let port = match port {
        "" if text.ends_with(':') => Err(mistake("there is no port after the `:`"))?,
        "" => DEFAULT_PORT,
        text => text
            .parse()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| mistake("a port is not a number from 1 to 65535").hint(ENCODE))?,
    };
    Ok(Address::Tcp {
        host: name.to_ascii_lowercase(),
        port,
    })
}

/// The options as they were written: each once, and understood one by one.
#[derive(Default)]
struct Given {
    seen: Vec<String>,
    options: Options,
    tls: Option<bool>,
    insecure: Option<bool>,
    any_certificate: Option<bool>,
    any_name: Option<bool>,
    without_ocsp: Option<bool>,
    without_revocation: Option<bool>,
    direct: Option<bool>,
    srv_service: Option<String>,
    srv_max_hosts: Option<usize>,
}

/// What is honoured or without meaning for one attempt, for suggestions.
const KNOWN: &[&str] = &[
    "appName",
    "authMechanism",
    "authSource",
    "compressors",
    "connectTimeoutMS",
    "directConnection",
    "heartbeatFrequencyMS",
    "journal",
    "loadBalanced",
    "localThresholdMS",
    "maxConnecting",
    "maxIdleTimeMS",
    "maxPoolSize",
    "maxStalenessSeconds",
    "minPoolSize",
    "readConcernLevel",
    "readPreference",
    "readPreferenceTags",
    "replicaSet",
    "retryReads",
    "retryWrites",
    "serverMonitoringMode",
    "serverSelectionTimeoutMS",
    "serverSelectionTryOnce",
    "socketTimeoutMS",
    "srvMaxHosts",
    "srvServiceName",
    "ssl",
    "timeoutMS",
    "tls",
    "tlsAllowInvalidCertificates",
    "tlsAllowInvalidHostnames",
    "tlsCAFile",
    "tlsCertificateKeyFile",
    "tlsDisableCertificateRevocationCheck",
    "tlsDisableOCSPEndpointCheck",
    "tlsInsecure",
    "uuidRepresentation",
    "w",
    "waitQueueMultiple",
    "waitQueueTimeoutMS",
    "wtimeoutMS",
    "zlibCompressionLevel",
];

/// What drivers have and a health check does not do, and why.
const REFUSED: &[(&str, &str)] = &[
    (
        "authMechanismProperties",
        "no login that is spoken here has any",
    ),
    ("gssapiServiceName", "GSSAPI (Kerberos) is not spoken"),
    (
        "tlsCertificateKeyFilePassword",
        "encrypted keys are not read: decrypt it, and keep it in a secret",
    ),
    ("tlsCRLFile", "revocation lists are not read"),
    ("proxyHost", "no proxy is gone through"),
    ("proxyPort", "no proxy is gone through"),
    ("proxyUsername", "no proxy is gone through"),
    ("proxyPassword", "no proxy is gone through"),
    ("ssl_ca_certs", "use `tlsCAFile`"),
    ("ssl_certfile", "use `tlsCertificateKeyFile`"),
    ("ssl_keyfile", "use `tlsCertificateKeyFile`"),
    ("ssl_cert_reqs", "use `tlsAllowInvalidCertificates`"),
    ("ssl_match_hostname", "use `tlsAllowInvalidHostnames`"),
    (
        "sslInvalidHostNameAllowed",
        "use `tlsAllowInvalidHostnames`",
    ),
    ("slaveOk", "use `readPreference`"),
    ("safe", "use `w`"),
];

impl Given {
    fn put(&mut self, name: &str, value: String, is_cut: bool) -> Result<(), Mistake> {
        let lower = name.to_ascii_lowercase();
        let known = KNOWN.iter().find(|known| known.eq_ignore_ascii_case(name));
        let Some(&name) = known else {
            return Err(not_honoured(name, is_cut));
        };
        // Tags are a list, one option for each set.
        if self.seen.contains(&lower) && lower != "readpreferencetags" {
            return Err(mistake(format!("option `{name}` is given twice")));
        }
        self.seen.push(lower.clone());
        if value.is_empty() && !matches!(lower.as_str(), "readpreferencetags" | "compressors") {
            return Err(mistake(format!("option `{name}` has no value")));
        }
        if value.contains('\0') {
            return Err(mistake(format!("there is a NUL character in `{name}`")));
        }
        let options = &mut self.options;
        match lower.as_str() {
            "appname" => match value.len() {
                0..=128 => options.app_name = Some(value),
                _ => return Err(mistake("`appName` is longer than 128 bytes")),
            },
            "authsource" => {
                options.auth_source = Some(match value.as_str() {
                    "$external" => value,
                    name => database(name)?,
                });
            }
            "authmechanism" => options.mechanism = mechanism(&value)?,
            "replicaset" => options.replica_set = Some(value),
            "directconnection" => self.direct = Some(boolean(name, &value)?),
            "loadbalanced" => options.load_balanced = Some(boolean(name, &value)?),
            "readpreference" => options.read_mode = Some(Mode::read(&value)?),
            "readpreferencetags" => options.tags.push(tags(&value)?),
            "maxstalenessseconds" if value == "-1" => {}
            "maxstalenessseconds" => {
                let seconds = number(name, &value)?;
                if seconds < 90 {
                    return Err(mistake(
                        "`maxStalenessSeconds` is below 90, the least there is",
                    ));
                }
                options.max_staleness = Some(Duration::from_secs(seconds));
            }
            "heartbeatfrequencyms" => options.heartbeat = milliseconds(name, &value)?,
            "connecttimeoutms" => options.connect_timeout = milliseconds(name, &value)?,
            "serverselectiontimeoutms" => options.selection_timeout = milliseconds(name, &value)?,
            "sockettimeoutms" => options.socket_timeout = milliseconds(name, &value)?,
            "timeoutms" => options.timeout = milliseconds(name, &value)?,
            "srvservicename" => self.srv_service = Some(value),
            "srvmaxhosts" => {
                self.srv_max_hosts =
                    Some(usize::try_from(number(name, &value)?).unwrap_or(usize::MAX));
            }
            "tls" | "ssl" => {
                let enabled = boolean(name, &value)?;
                if self.tls.is_some_and(|other| other != enabled) {
                    return Err(mistake("`tls` and `ssl` say different things")
                        .hint("they are the same option; keep `tls`"));
                }
                self.tls = Some(enabled);
            }
            "tlsinsecure" => self.insecure = Some(boolean(name, &value)?),
            "tlsallowinvalidcertificates" => self.any_certificate = Some(boolean(name, &value)?),
            "tlsallowinvalidhostnames" => self.any_name = Some(boolean(name, &value)?),
            "tlscafile" => options.tls.ca_file = Some(value),
            "tlscertificatekeyfile" => options.tls.key_file = Some(value),
            // Nobody is asked whether a certificate was revoked: neither of them changes anything.
            "tlsdisableocspendpointcheck" => self.without_ocsp = Some(boolean(name, &value)?),
            "tlsdisablecertificaterevocationcheck" => {
                self.without_revocation = Some(boolean(name, &value)?);
            }
            // What the rest is about does not happen in an attempt: it has one connection, monitors
            // nobody, and neither reads nor writes data.
            "journal" | "retryreads" | "retrywrites" | "serverselectiontryonce" => {
                boolean(name, &value)?;
            }
            "localthresholdms" | "maxconnecting" | "maxidletimems" | "maxpoolsize"
            | "minpoolsize" | "waitqueuemultiple" | "waitqueuetimeoutms" | "wtimeoutms" => {
                number(name, &value)?;
            }
            "zlibcompressionlevel" if value == "-1" => {}
            "zlibcompressionlevel" => {
                number(name, &value)?;
            }
            // `compressors`, `readConcernLevel`, `serverMonitoringMode`, `uuidRepresentation`, `w`.
            _ => {}
        }
        Ok(())
    }

    fn seeds(&self, hosts: &str, is_srv: bool) -> Result<Seeds, Mistake> {
        if hosts.is_empty() {
            return Err(mistake("it has no host"));
        }
        if !is_srv {
            for (given, name) in [
                (self.srv_service.is_some(), "srvServiceName"),
                (self.srv_max_hosts.is_some(), "srvMaxHosts"),
            ] {
                if given {
                    return Err(mistake(format!("`{name}` goes with `mongodb+srv://` only")));
                }
            }
            return Ok(Seeds::Hosts(
                hosts.split(',').map(host).collect::<Result<_, _>>()?,
            ));
        }
        let name = decode(hosts)?.to_ascii_lowercase();
        let name = name.trim_end_matches('.');
        if name.contains([',', ':', '/', '[']) {
            return Err(mistake("`mongodb+srv://` takes one name, and no port")
                .hint("the name servers know the hosts and their ports; `mongodb://` names them"));
        }
        if name.is_empty() || name.parse::<IpAddr>().is_ok() {
            return Err(mistake("`mongodb+srv://` takes a name, not an address")
                .hint("write `mongodb+srv://cluster.example.com/`"));
        }
        let service = self.srv_service.as_deref().unwrap_or("mongodb");
        if service.len() > 62 || service.contains('.') {
            return Err(mistake("`srvServiceName` is not the name of a service"));
        }
        Ok(Seeds::Srv {
            host: name.to_owned(),
            service: service.to_owned(),
            max_hosts: self.srv_max_hosts.unwrap_or(0),
        })
    }

    fn options(self, seeds: &Seeds) -> Result<Options, Mistake> {
        let mut options = self.options;
        let conflict =
            |one: &str, other: &str| Err(mistake(format!("{one} and {other} exclude each other")));
        for (one, others) in [
            (
                (self.insecure, "`tlsInsecure`"),
                &[
                    (self.any_certificate, "`tlsAllowInvalidCertificates`"),
                    (self.any_name, "`tlsAllowInvalidHostnames`"),
                    (self.without_ocsp, "`tlsDisableOCSPEndpointCheck`"),
                    (
                        self.without_revocation,
                        "`tlsDisableCertificateRevocationCheck`",
                    ),
                ][..],
            ),
            (
                (self.any_certificate, "`tlsAllowInvalidCertificates`"),
                &[
                    (self.without_ocsp, "`tlsDisableOCSPEndpointCheck`"),
                    (
                        self.without_revocation,
                        "`tlsDisableCertificateRevocationCheck`",
                    ),
                ],
            ),
            (
                (
                    self.without_revocation,
                    "`tlsDisableCertificateRevocationCheck`",
                ),
                &[(self.without_ocsp, "`tlsDisableOCSPEndpointCheck`")],
            ),
        ] {
            for other in others {
                if let ((Some(_), one), (Some(_), other)) = (one, *other) {
                    return conflict(one, other);
                }
            }
        }
        options.direct = self.direct == Some(true);
        if options.direct {
            match seeds {
                Seeds::Srv { .. } => return conflict("`directConnection`", "`mongodb+srv://`"),
                Seeds::Hosts(hosts) if hosts.len() > 1 => {
                    return conflict("`directConnection`", "several hosts");
                }
                Seeds::Hosts(_) => {}
            }
        }
        // Between two looks at a member it may fall behind by as much, and more while nobody writes.
        let heartbeat = options.heartbeat.unwrap_or(HEARTBEAT);
        if (options.max_staleness).is_some_and(|staleness| staleness < heartbeat + IDLE_WRITE) {
            return Err(mistake(
                "`maxStalenessSeconds` is not 10 seconds more than `heartbeatFrequencyMS`",
            ));
        }
        let max_hosts = match seeds {
            Seeds::Srv { max_hosts, .. } => *max_hosts,
            Seeds::Hosts(_) => 0,
        };
        if max_hosts > 0 && options.replica_set.is_some() {
            return conflict("`srvMaxHosts`", "`replicaSet`");
        }
        if options.load_balanced == Some(true) {
            if options.direct {
                return conflict("`loadBalanced`", "`directConnection`");
            }
            if options.replica_set.is_some() {
                return conflict("`loadBalanced`", "`replicaSet`");
            }
            if max_hosts > 0 {
                return conflict("`loadBalanced`", "`srvMaxHosts`");
            }
            if matches!(seeds, Seeds::Hosts(hosts) if hosts.len() > 1) {
                return conflict("`loadBalanced`", "several hosts");
            }
        }
        let file = [
            (options.tls.ca_file.is_some(), "`tlsCAFile`"),
            (options.tls.key_file.is_some(), "`tlsCertificateKeyFile`"),
        ]
        .into_iter()
        .find_map(|(given, name)| given.then_some(name));
        let adverb = [
            (self.insecure, "`tlsInsecure`"),
            (self.any_certificate, "`tlsAllowInvalidCertificates`"),
            (self.any_name, "`tlsAllowInvalidHostnames`"),
            (self.without_ocsp, "`tlsDisableOCSPEndpointCheck`"),
            (
                self.without_revocation,
                "`tlsDisableCertificateRevocationCheck`",
            ),
        ]
        .into_iter()
        .find_map(|(given, name)| given.map(|_| name));
        if let (Some(false), Some(name)) = (self.tls, file.or(adverb)) {
            return conflict("`tls=false`", name);
        }
        let is_srv = matches!(seeds, Seeds::Srv { .. });
        options.tls.enabled = self.tls.or((is_srv || file.is_some()).then_some(true));
        options.tls.adverb = adverb;
        options.tls.any_certificate =
            self.insecure == Some(true) || self.any_certificate == Some(true);
        options.tls.any_name = self.any_name == Some(true);
        Ok(options)
    }
}

/// The refusal of an option. It is not named where it may be the rest of a password.
fn not_honoured(name: &str, is_cut: bool) -> Mistake {
    let refused = REFUSED
        .iter()
        .find(|(refused, _)| refused.eq_ignore_ascii_case(name));
    if let Some((name, why)) = refused {
        return mistake(format!("option `{name}` is refused: {why}"));
    }
    if is_cut || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return mistake("something in it is no option of MongoDB").hint(ENCODE);
    }
    let unknown = mistake(format!("unknown option `{name}`"));
    match conncheck_config::closest(name, KNOWN.iter().copied()) {
        Some(close) => unknown.hint(format!("did you mean `{close}`?")),
        None => unknown.hint("the options of MongoDB's connection strings are known"),
    }
}

fn mechanism(text: &str) -> Result<Option<Mechanism>, Mistake> {
    let refused = |why: &str| {
        Err(mistake(format!("`authMechanism={text}` is refused: {why}")).hint(
            "`SCRAM-SHA-256`, `SCRAM-SHA-1`, `MONGODB-X509` and `PLAIN` are spoken: give the check a user of its own with one of these",
        ))
    };
    match text {
        "DEFAULT" => Ok(None),
        "GSSAPI" => refused("Kerberos is not spoken"),
        "MONGODB-AWS" => refused("logins by AWS IAM are not spoken"),
        "MONGODB-OIDC" => refused("logins by OpenID Connect are not spoken"),
        "MONGODB-CR" => refused("servers since 4.0 do not have it any more"),
        _ => one_of(
            "authMechanism",
            text,
            &[
                ("SCRAM-SHA-1", Mechanism::ScramSha1),
                ("SCRAM-SHA-256", Mechanism::ScramSha256),
                ("MONGODB-X509", Mechanism::X509),
                ("PLAIN", Mechanism::Plain),
            ],
        )
        .map(Some),
    }
}

/// `dc:ny,rack:1`; an empty one is had by every member.
fn tags(text: &str) -> Result<Tags, Mistake> {
    text.split(',')
        .filter(|tag| !tag.is_empty())
        .map(|tag| {
            tag.split_once(':')
                .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
                .ok_or_else(|| {
                    mistake("a tag of `readPreferenceTags` has no `:`")
                        .hint("write `readPreferenceTags=dc:ny,rack:1`")
                })
        })
        .collect()
}

fn boolean(name: &str, text: &str) -> Result<bool, Mistake> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(mistake(format!("`{name}` is neither `true` nor `false`"))),
    }
}

fn number(name: &str, text: &str) -> Result<u64, Mistake> {
    text.parse::<u32>()
        .map(u64::from)
        .map_err(|_| mistake(format!("`{name}` is not a whole number from 0 on")))
}

/// 0 is no limit.
fn milliseconds(name: &str, text: &str) -> Result<Option<Duration>, Mistake> {
    let milliseconds = number(name, text)?;
    Ok((milliseconds > 0).then(|| Duration::from_millis(milliseconds)))
}

/// What a TXT record may say of a `mongodb+srv://` name. The URL wins over it.
#[derive(Debug, Default, PartialEq)]
pub(super) struct TxtOptions {
    pub(super) auth_source: Option<String>,
    pub(super) replica_set: Option<String>,
    pub(super) load_balanced: Option<bool>,
}

impl TxtOptions {
    pub(super) fn read(text: &str) -> Result<Self, Mistake> {
        let mut res = Self::default();
        for option in text.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option
                .split_once('=')
                .ok_or_else(|| mistake("it is not a series of `option=value`"))?;
            let value = decode(value)?;
            match name.to_ascii_lowercase().as_str() {
                _ if value.is_empty() => return Err(mistake("an option has no value")),
                "authsource" => res.auth_source = Some(value),
                "replicaset" => res.replica_set = Some(value),
                "loadbalanced" => res.load_balanced = Some(boolean("loadBalanced", &value)?),
                _ => {
                    return Err(mistake(
                        "it holds an option other than `authSource`, `replicaSet` and `loadBalanced`",
                    ));
                }
            }
        }
        Ok(res)
    }
}

/// Whether an SRV record of `name` may lead to `host`: both are of one domain. A name of one or two
/// parts is a domain itself.
pub(super) fn is_of_domain(name: &str, host: &str) -> bool {
    let domain = match name.split('.').count() {
        0..=2 => name,
        _ => name.split_once('.').map_or(name, |(_, domain)| domain),
    };
    host.strip_suffix(domain)
        .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Uri {
        Uri::read(text).unwrap_or_else(|mistake| panic!("{text}: {mistake:?}"))
    }

    fn options(text: &str) -> Options {
        read(&format!("mongodb://h/?{text}")).options
    }

    fn refused(text: &str) -> Mistake {
        match Uri::read(text) {
            Ok(uri) => panic!("{text}: {uri:?}"),
            Err(mistake) => mistake,
        }
    }

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp {
            host: host.to_owned(),
            port,
        }
    }

    #[test]
    fn hosts_are_read_in_every_form() {
        for (text, hosts) in [
            ("mongodb://db", vec![tcp("db", 27017)]),
            ("mongodb://db/", vec![tcp("db", 27017)]),
            ("mongodb://db?w=1", vec![tcp("db", 27017)]),
            ("MongoDB://DB.example.com:1", vec![tcp("db.example.com", 1)]),
            (
                "mongodb://a,b:2,[::1],[::1]:3/app",
                vec![
                    tcp("a", 27017),
                    tcp("b", 2),
                    tcp("::1", 27017),
                    tcp("::1", 3),
                ],
            ),
            (
                "mongodb://%2Ftmp%2Fmongodb-27017.sock,a",
                vec![
                    Address::Unix("/tmp/mongodb-27017.sock".into()),
                    tcp("a", 27017),
                ],
            ),
        ] {
            assert_eq!(read(text).seeds, Seeds::Hosts(hosts), "{text}");
        }
        for text in [
            "mongodb://",
            "mongodb:///app",
            "mongodb://a,,b",
            "mongodb://:27017",
            "mongodb://a:",
            "mongodb://a:0",
            "mongodb://a:65536",
            "mongodb://a:port",
            "mongodb://::1",
            "mongodb://[::1",
            "mongodb://%2Ftmp%2Fmongodb",
            "mongodb://a%zz",
            "redis://a",
            "a:27017",
        ] {
            refused(text);
        }
    }

    #[test]
    fn user_password_and_database_are_decoded() {
        let uri = read("mongodb://u%40x:p%3A%2F%40%25@h/app?w=1");
        assert_eq!(uri.user.as_deref(), Some("u@x"));
        assert_eq!(uri.password, Some(Secret::new("p:/@%")));
        assert_eq!(uri.database.as_deref(), Some("app"));
        let uri = read("mongodb://u:@h");
        assert_eq!(uri.password, Some(Secret::new("")));
        assert_eq!(read("mongodb://u@h").password, None);
        for text in [
            "mongodb://u:p:q@h",
            "mongodb://u@x:p@h",
            "mongodb://@h",
            "mongodb://:p@h",
            "mongodb://h/a.b",
            "mongodb://h/a%20b",
            "mongodb://h/$external",
            "mongodb://h/a%2Fb",
        ] {
            refused(text);
        }
    }

    #[test]
    fn no_part_of_a_password_that_was_not_encoded_is_quoted() {
        for text in [
            "mongodb://u:s3cr3t/s3cr3t@h/app",
            "mongodb://u:1?s3cr3t@h/app",
            "mongodb://u:1?s3cr3t=s3cr3t@h/app",
            "mongodb://u:1/s3cr3t?s3cr3t=1&x@h/app",
            "mongodb://u:s3cr3t:s3cr3t@h/app",
            "mongodb://u:s3cr3t@s3cr3t@h/app",
            "mongodb://u:s3cr3t%@h/app",
        ] {
            let mistake = refused(text);
            let said = format!("{} {:?}", mistake.message, mistake.hint);
            assert!(!said.contains("s3cr3t"), "{text}: {said}");
            assert!(
                said.contains("encode") || said.contains("%25"),
                "{text}: {said}"
            );
        }
    }

    #[test]
    fn options_are_read_whatever_their_case() {
        let read = options(
            "APPNAME=shop&authsource=users&AuthMechanism=SCRAM-SHA-1&replicaset=rs0&READPREFERENCE=secondarypreferred&readPreferenceTags=dc:ny,rack:1&readPreferenceTags=&maxStalenessSeconds=120&heartbeatFrequencyMS=5000&connectTimeoutMS=1000&serverSelectionTimeoutMS=2000&socketTimeoutMS=0&timeoutMS=3000",
        );
        let ms = |number| Some(Duration::from_millis(number));
        assert_eq!(
            read,
            Options {
                app_name: Some("shop".to_owned()),
                auth_source: Some("users".to_owned()),
                mechanism: Some(Mechanism::ScramSha1),
                replica_set: Some("rs0".to_owned()),
                read_mode: Some(Mode::SecondaryPreferred),
                tags: vec![
                    vec![
                        ("dc".to_owned(), "ny".to_owned()),
                        ("rack".to_owned(), "1".to_owned())
                    ],
                    Vec::new()
                ],
                max_staleness: ms(120_000),
                heartbeat: ms(5000),
                connect_timeout: ms(1000),
                selection_timeout: ms(2000),
                timeout: ms(3000),
                ..Options::default()
            }
        );
        assert_eq!(
            options("authSource=$external").auth_source.as_deref(),
            Some("$external")
        );
        assert_eq!(options("maxStalenessSeconds=-1").max_staleness, None);
        assert_eq!(options("authMechanism=DEFAULT").mechanism, None);
    }

    #[test]
    fn what_has_no_meaning_for_one_attempt_is_known() {
        let read = options(
            "retryWrites=true&retryReads=false&w=majority&wtimeoutMS=1&journal=true&readConcernLevel=majority&compressors=zstd,zlib&zlibCompressionLevel=-1&maxPoolSize=10&minPoolSize=0&maxIdleTimeMS=1&maxConnecting=2&waitQueueTimeoutMS=1&waitQueueMultiple=1&localThresholdMS=15&serverSelectionTryOnce=false&serverMonitoringMode=poll&uuidRepresentation=standard",
        );
        assert_eq!(read, Options::default());
        // Each name that is suggested is one that is read.
        for name in KNOWN {
            let mistake = refused(&format!("mongodb://h/?{name}=%00")).message;
            assert!(mistake.contains("NUL"), "{name}: {mistake}");
        }
    }

    #[test]
    fn options_that_are_refused_say_so_by_name() {
        for (text, names) in [
            ("authMechanism=GSSAPI", "Kerberos"),
            ("authMechanism=MONGODB-AWS", "IAM"),
            ("authMechanism=MONGODB-OIDC", "OpenID"),
            ("authMechanism=MONGODB-CR", "4.0"),
            ("authMechanism=SCRAM-SHA-512", "`authMechanism`"),
            ("authMechanismProperties=A:b", "`authMechanismProperties`"),
            (
                "tlsCertificateKeyFilePassword=x",
                "`tlsCertificateKeyFilePassword`",
            ),
            ("proxyHost=p", "`proxyHost`"),
            ("SSL_CA_CERTS=x", "`ssl_ca_certs`"),
            ("replicaSett=x", "`replicaSett`"),
            ("tls=yes", "`tls`"),
            ("tls=true&ssl=false", "`ssl`"),
            ("replicaSet=a&replicaset=b", "twice"),
            ("replicaSet=", "no value"),
            ("replicaSet", "`=`"),
            ("connectTimeoutMS=-1", "`connectTimeoutMS`"),
            ("maxStalenessSeconds=89", "90"),
            (
                "maxStalenessSeconds=90&heartbeatFrequencyMS=80001",
                "`heartbeatFrequencyMS`",
            ),
            ("readPreference=first", "`readPreference`"),
            ("readPreferenceTags=dc", "`:`"),
            ("srvServiceName=x", "mongodb+srv"),
            ("srvMaxHosts=1", "mongodb+srv"),
            ("authSource=a.b", "database"),
        ] {
            let mistake = refused(&format!("mongodb://h/?{text}"));
            assert!(
                mistake.message.contains(names),
                "{text}: {}",
                mistake.message
            );
        }
        let long = "a".repeat(129);
        refused(&format!("mongodb://h/?appName={long}"));
    }

    #[test]
    fn what_excludes_each_other_is_a_mistake() {
        for text in [
            "mongodb://a,b/?directConnection=true",
            "mongodb+srv://c.example.com/?directConnection=true",
            "mongodb://a,b/?loadBalanced=true",
            "mongodb://a/?loadBalanced=true&directConnection=true",
            "mongodb://a/?loadBalanced=true&replicaSet=rs0",
            "mongodb+srv://c.example.com/?loadBalanced=true&srvMaxHosts=1",
            "mongodb+srv://c.example.com/?replicaSet=rs0&srvMaxHosts=1",
            "mongodb://a/?tls=false&tlsCAFile=/ca",
            "mongodb+srv://c.example.com/?tls=false&tlsInsecure=true",
            "mongodb://a/?tlsInsecure=true&tlsAllowInvalidCertificates=true",
            "mongodb://a/?tlsInsecure=false&tlsAllowInvalidHostnames=false",
            "mongodb://a/?tlsInsecure=true&tlsDisableOCSPEndpointCheck=true",
            "mongodb://a/?tlsAllowInvalidCertificates=true&tlsDisableCertificateRevocationCheck=true",
            "mongodb://a/?tlsDisableOCSPEndpointCheck=true&tlsDisableCertificateRevocationCheck=true",
        ] {
            let mistake = refused(text);
            assert!(mistake.message.contains("exclude"), "{text}: {mistake:?}");
        }
        assert!(!options("directConnection=false").direct);
        assert!(options("tls=true&ssl=true").tls.enabled == Some(true));
        assert!(
            read("mongodb://a,b/?directConnection=false&loadBalanced=false")
                .database
                .is_none()
        );
    }

    #[test]
    fn srv_takes_one_name() {
        let uri =
            read("mongodb+srv://u:p@Cluster.Example.com/app?srvServiceName=shop&srvMaxHosts=2");
        assert_eq!(
            uri.seeds,
            Seeds::Srv {
                host: "cluster.example.com".to_owned(),
                service: "shop".to_owned(),
                max_hosts: 2,
            }
        );
        assert_eq!(uri.options.tls.enabled, Some(true));
        let plain = read("mongodb+srv://cluster.example.com/?tls=false");
        assert_eq!(plain.options.tls.enabled, Some(false));
        for text in [
            "mongodb+srv://a.example.com,b.example.com/",
            "mongodb+srv://a.example.com:27017/",
            "mongodb+srv://10.0.0.1/",
            "mongodb+srv://[::1]/",
            "mongodb+srv:///app",
        ] {
            refused(text);
        }
    }

    #[test]
    fn hosts_are_of_the_domain_of_their_name() {
        for (name, host, is_of) in [
            ("cluster.example.com", "a.example.com", true),
            ("cluster.example.com", "a.b.example.com", true),
            ("cluster.example.com", "example.com", false),
            ("cluster.example.com", "a.badexample.com", false),
            ("cluster.example.com", "a.example.org", false),
            ("cluster.example.com", "cluster.example.com", true),
            ("mongo.local", "a.mongo.local", true),
            ("mongo.local", "mongo.local", false),
            ("mongo.local", "b.local", false),
            ("mongo", "a.mongo", true),
            ("mongo", "mongo", false),
        ] {
            assert_eq!(is_of_domain(name, host), is_of, "{name} {host}");
        }
    }

    #[test]
    fn a_txt_record_may_say_three_things() {
        assert_eq!(
            TxtOptions::read("authSource=admin&replicaSet=rs0").unwrap(),
            TxtOptions {
                auth_source: Some("admin".to_owned()),
                replica_set: Some("rs0".to_owned()),
                load_balanced: None,
            }
        );
        assert_eq!(
            TxtOptions::read("loadBalanced=true").unwrap().load_balanced,
            Some(true)
        );
        for text in ["tls=false", "authSource", "authSource=", "loadBalanced=1"] {
            TxtOptions::read(text).unwrap_err();
        }
    }

    #[test]
    fn tls_options_come_together() {
        let tls = |text: &str| options(text).tls;
        assert_eq!(tls("w=1"), TlsOptions::default());
        assert!(tls("tlsInsecure=true").any_certificate);
        assert!(tls("tlsAllowInvalidCertificates=true").any_certificate);
        assert!(tls("tlsAllowInvalidHostnames=true").any_name);
        // A file is only there for TLS; the others do not say whether it is spoken.
        for (text, enabled) in [
            ("tls=true", Some(true)),
            ("tls=false", Some(false)),
            ("tlsCAFile=/ca", Some(true)),
            ("tlsCertificateKeyFile=/k", Some(true)),
            ("tlsInsecure=true", None),
            ("tlsDisableOCSPEndpointCheck=false", None),
        ] {
            assert_eq!(tls(text).enabled, enabled, "{text}");
        }
        assert_eq!(tls("tlsInsecure=true").adverb, Some("`tlsInsecure`"));
        assert_eq!(
            tls("tlsCertificateKeyFile=/k").key_file.as_deref(),
            Some("/k")
        );
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text: String, rest in "[a-z:@/?&=%,.\\[\\]]{0,40}") {
            let _ = Uri::read(&text);
            let _ = Uri::read(&format!("mongodb://{rest}"));
            let _ = Uri::read(&format!("mongodb+srv://{rest}"));
            let _ = (TxtOptions::read(&text), is_of_domain(&text, &rest), host(&rest));
        }
    }
}
