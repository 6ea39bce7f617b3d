//! `smtp`: greeting, `EHLO`, STARTTLS, a login if credentials are given, `NOOP`, `QUIT`.
//!
//! Proves that the server lets us in, encrypts as wanted, accepts the login and answers. Never sends
//! mail: `MAIL FROM` is not among the commands that this file knows. Whether a mail would be taken and
//! delivered is therefore not proved.
//!
//! The greeting, `EHLO` and `NOOP` are the phase `request`, `STARTTLS` and the handshake are `tls`,
//! `AUTH` is `auth`.
//!
//! Mail servers among themselves encrypt if they can and verify nobody. A probe that did the same
//! would be up while everybody's mail client complains. So certificates are verified in every mode
//! (`insecureSkipVerify` turns that off), and a login, a `caCert` or a `clientCert` insist on TLS: who
//! strips `STARTTLS` from the server's offers is told of, and gets no password. Only `encryption:
//! none`, written out, sends one in plain text.
//!
//! There is no driver. lettre's parts would be the parser of replies, which wants a whole reply first,
//! a list of offers that forgets the logins it does not know, and three SASL responses; what is here
//! is shorter than what would have to stand around them.

mod reply;

use std::net::IpAddr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use conncheck_config::{Field, Secret, SecretKey};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::de::{self, Deserialize, Deserializer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use self::reply::{Growing, Reply, Said, judge_beginning};
use crate::address::{Location, unknown_option};
use crate::attempt::{Address, Attempt, Stream};
use crate::cause::Cause;
use crate::login::{TOKEN, expiry_of, has_ended};
use crate::outcome::{Failure, Phase, Reason};
use crate::probe::{Access, Invalid, ProbeType};
use crate::schema::{words, written};
use crate::tls::Tls;

/// `spec.properties` of an SMTP connection.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Settings {
    /// `auto`: TLS from the start for `smtps://` and port 465, else STARTTLS where it is offered, and
    /// always for a login. `none`: plain text, the login included. `explicitTLS`: STARTTLS, or it is
    /// down. `implicitTLS`: TLS from the start.
    encryption: Option<Mode>,
    /// How to log in: `auto` (`plain` or `login`, as the server offers), `plain`, `login`, `xoauth2`
    /// (the password is an access token), or `none`.
    auth: Option<AuthMode>,
    /// What we call ourselves in `EHLO`; our own address if not given.
    helo_name: Option<String>,
    /// Accept any certificate.
    insecure_skip_verify: Option<bool>,
    /// The name that the certificate must be for, in place of the URL's host.
    server_name: Option<String>,
}

/// `encryption`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Auto,
    None,
    ExplicitTls,
    ImplicitTls,
}

/// `auth`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AuthMode {
    Auto,
    None,
    Only(Mechanism),
}

/// A way of logging in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mechanism {
    Plain,
    Login,
    Xoauth2,
}

impl Mechanism {
    const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
            Self::Xoauth2 => "XOAUTH2",
        }
    }
}

pub(crate) struct Smtp {
    address: Address,
    encryption: Encryption,
    login: Option<Login>,
    helo_name: Option<String>,
    secrets: Vec<Secret>,
}

/// `encryption`, and what it needs.
enum Encryption {
    Never,
    Starttls {
        tls: Tls,
        /// Why it must be, where it must.
        must_because: Option<&'static str>,
    },
    FromTheStart(Tls),
}

/// Who we are.
struct Login {
    username: Secret,
    /// With XOAUTH2 the access token.
    password: Secret,
    /// Best first.
    mechanisms: &'static [Mechanism],
    /// When the access token ends, if it says so.
    expiry: Option<Timestamp>,
}

impl ProbeType for Smtp {
    type Settings = Settings;

    const FURTHER_REASONS: &'static [Reason] = &[Reason::Permission];

    const SECRET_KEYS: &'static [SecretKey] = &[TOKEN];

    fn new(access: Access<'_>, settings: Settings) -> Result<Self, Invalid> {
        let url = access.url()?;
        // `host:587` is a common short form.
        let location = match url.expose().contains("://") {
            true => Location::of(&access, url)?,
            false => Location::of(&access, &Secret::new(format!("smtp://{}", url.expose())))?,
        };
        let is_smtps = match location.scheme.as_str() {
            "smtp" => false,
            "smtps" => true,
            "lmtp" => {
                return Err(access
                    .invalid(Field::Url, "bad `url`: LMTP is not SMTP, and is not probed")
                    .hint("name the SMTP port of the server: `smtp://host:587`"));
            }
            _ => {
                return Err(access
                    .invalid(Field::Url, "bad `url`: this scheme is not SMTP")
                    .hint("use `smtp://` or `smtps://` (TLS from the start)"));
            }
        };
        if !matches!(location.path.as_str(), "" | "/") {
            return Err(access.invalid(Field::Url, "bad `url`: an SMTP URL has no path"));
        }
        let mut options = UrlOptions::default();
        for (option, value) in &location.query {
            options.read(&access, option, value)?;
        }
        let no_starttls = options.no_starttls;
        let settings = options.under(settings);
        let is_chosen = settings.encryption.is_some();
        let mode = settings.encryption.unwrap_or(Mode::Auto);
        let auth = settings.auth.unwrap_or(AuthMode::Auto);
        let from_the_start = match (is_smtps, mode) {
            (true, Mode::None | Mode::ExplicitTls) => {
                return Err(access
                    .invalid(
                        Field::Url,
                        "`smtps://` is TLS from the start, and `encryption` says otherwise",
                    )
                    .hint("write `smtp://`, or leave `encryption` out"));
            }
            (true, _) | (_, Mode::ImplicitTls) => true,
            (false, Mode::Auto) => location.port == Some(465),
            (false, _) => false,
        };
        let login = Login::new(&access, &location, auth)?;
        let mode = match mode {
            Mode::Auto if no_starttls && !from_the_start => {
                without_starttls(&access, login.is_some(), is_chosen)?
            }
            mode => mode,
        };
        let helo_name = settings.helo_name.clone();
        if helo_name.as_deref().is_some_and(|name| !is_helo_name(name)) {
            return Err(access
                .invalid(
                    Field::Properties,
                    "`heloName` is neither a host name nor an address",
                )
                .hint("like `probe.example.com`, or `[192.0.2.1]`"));
        }
        Ok(Self {
            address: location.address(&access, if from_the_start { 465 } else { 25 })?,
            encryption: encryption(&access, settings, mode, from_the_start, login.is_some())?,
            secrets: login.iter().flat_map(Login::encoded).collect(),
            login,
            helo_name,
        })
    }

    fn endpoint(&self) -> String {
        match self.encryption {
            Encryption::FromTheStart(_) => format!("smtps://{}", self.address),
            _ => format!("smtp://{}", self.address),
        }
    }

    fn secrets(&self) -> &[Secret] {
        &self.secrets
    }

    async fn probe(&self, attempt: &mut Attempt) -> Result<(), Failure> {
        let mut stream = attempt.dial(&self.address).await?;
        if let Encryption::FromTheStart(tls) = &self.encryption {
            (stream, _) = attempt.tls(stream, tls, self.address.host()).await?;
        }
        let mut server = Server::new(stream);
        let verdict = self.converse(attempt, &mut server).await;
        // A server that has refused us still waits for a word, and logs it when there is none.
        if server.listens {
            attempt.settle(verdict.clone());
            attempt.goodbye(server.quit()).await;
        }
        verdict
    }
}

impl Smtp {
    async fn converse(&self, attempt: &mut Attempt, server: &mut Server) -> Result<(), Failure> {
        let greeting = attempt
            .phase_of(Phase::Request, self.no_greeting(), server.greeting())
            .await?;
        if let Some(software) = software(&greeting) {
            attempt.server(software);
        }
        let name = self.name(attempt);
        let mut offers = attempt.phase(Phase::Request, server.hello(&name)).await?;
        if let Encryption::Starttls { tls, must_because } = &self.encryption {
            match (offers.starttls, must_because) {
                (true, _) => {
                    self.start_tls(attempt, server, tls).await?;
                    offers = attempt.phase(Phase::Request, server.hello(&name)).await?;
                    offers.over_tls = true;
                }
                (false, None) => {}
                (false, Some(why)) => return Err(offers.no_starttls(why).in_phase(Phase::Tls)),
            }
        }
        offers.over_tls |= matches!(self.encryption, Encryption::FromTheStart(_));
        if let Some(login) = &self.login {
            if let Some(expiry) = login.expiry {
                attempt.credential_expires(expiry);
            }
            attempt
                .phase(Phase::Auth, server.log_in(login, &offers))
                .await?;
        }
        attempt.phase(Phase::Request, server.noop()).await
    }

    async fn start_tls(
        &self,
        attempt: &mut Attempt,
        server: &mut Server,
        tls: &Tls,
    ) -> Result<(), Failure> {
        attempt.phase(Phase::Tls, server.ask_for_tls()).await?;
        let stream = server.hand_over();
        let (stream, _) = attempt.tls(stream, tls, self.address.host()).await?;
        *server = Server::new(stream);
        Ok(())
    }

    fn no_greeting(&self) -> &'static str {
        match self.encryption {
            Encryption::FromTheStart(_) => "no greeting",
            _ => "no greeting (a port for `smtps://` gives none before TLS)",
        }
    }

    /// What we call ourselves: where the owner says nothing, our address as a literal, which RFC 5321
    /// has for clients without a name. Many servers refuse `localhost`, and the machine's name is not
    /// ours to look up.
    fn name(&self, attempt: &Attempt) -> String {
        match (&self.helo_name, attempt.local_ip()) {
            (Some(name), _) => name.clone(),
            (None, Some(IpAddr::V4(ip))) => format!("[{ip}]"),
            (None, Some(IpAddr::V6(ip))) => format!("[IPv6:{ip}]"),
            (None, None) => "localhost".to_owned(),
        }
    }
}

/// Nothing that would end the command, or be taken for a parameter.
fn is_helo_name(name: &str) -> bool {
    (1..=255).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic())
}

/// What `useStartTLS=no` comes to where the encryption is `auto`: it does not say that a login may be
/// sent in plain text. Mission Control writes both, and looks at the encryption alone.
fn without_starttls(
    access: &Access<'_>,
    has_login: bool,
    is_chosen: bool,
) -> Result<Mode, Invalid> {
    let resolved = access.resolved();
    let needs_it = [
        (has_login, "a login"),
        (resolved.ca_cert.is_some(), "a `caCert`"),
        (resolved.client_cert.is_some(), "a `clientCert`"),
    ];
    match needs_it.iter().find(|(holds, _)| *holds) {
        None => Ok(Mode::None),
        Some(_) if is_chosen => Ok(Mode::Auto),
        Some((_, what)) => Err(access
            .invalid(
                Field::Url,
                format!("bad `url`: `useStartTLS=no`, and {what}, which wants TLS"),
            )
            .hint("leave the option out; if plain text is meant, write `encryption: none`")),
    }
}

fn encryption(
    access: &Access<'_>,
    settings: Settings,
    mode: Mode,
    from_the_start: bool,
    has_login: bool,
) -> Result<Encryption, Invalid> {
    if mode == Mode::None {
        let resolved = access.resolved();
        let (field, what) = match (&resolved.ca_cert, &resolved.client_cert) {
            (None, None) => return Ok(Encryption::Never),
            (Some(_), _) => (Field::CaCert, "`caCert`"),
            (None, Some(_)) => (Field::ClientCert, "`clientCert`"),
        };
        return Err(access
            .invalid(field, format!("a {what}, and `encryption: none`"))
            .hint("leave one of them out"));
    }
    let options = access.tls_options(settings.insecure_skip_verify, settings.server_name);
    let tls = access.tls(&options)?;
    if from_the_start {
        return Ok(Encryption::FromTheStart(tls));
    }
    let reasons = [
        (mode == Mode::ExplicitTls, "`encryption` is `explicitTLS`"),
        (has_login, "a login is not sent without TLS"),
        (options.ca_cert.is_some(), "a `caCert` is given"),
        (options.client_cert.is_some(), "a `clientCert` is given"),
    ];
    let must_because = reasons.iter().find(|(holds, _)| *holds);
    Ok(Encryption::Starttls {
        tls,
        must_because: must_because.map(|(_, why)| *why),
    })
}

impl Mode {
    const NAMES: &'static [&'static str] = &["auto", "none", "explicitTLS", "implicitTLS"];

    /// Case does not matter: shoutrrr, and so its users, write `ExplicitTLS`.
    fn of(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "auto" => Self::Auto,
            "none" => Self::None,
            "explicittls" => Self::ExplicitTls,
            "implicittls" => Self::ImplicitTls,
            _ => return None,
        })
    }
}

impl AuthMode {
    const NAMES: &'static [&'static str] = &["auto", "none", "plain", "login", "xoauth2"];

    /// shoutrrr's names too (`Unknown`, `OAuth2`).
    fn of(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "auto" | "unknown" => Self::Auto,
            "none" => Self::None,
            "plain" => Self::Only(Mechanism::Plain),
            "login" => Self::Only(Mechanism::Login),
            "xoauth2" | "oauth2" => Self::Only(Mechanism::Xoauth2),
            _ => return None,
        })
    }
}

written!(Mode: words(Self::NAMES, &[]));
written!(AuthMode: words(Self::NAMES, &["unknown", "oauth2"]));

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::of(&name).ok_or_else(|| de::Error::unknown_variant(&name, Self::NAMES))
    }
}

impl<'de> Deserialize<'de> for AuthMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::of(&name).ok_or_else(|| de::Error::unknown_variant(&name, Self::NAMES))
    }
}

/// What may stand behind the `?` of the URL: what shoutrrr has there, in any case.
#[derive(Default)]
struct UrlOptions {
    encryption: Option<Mode>,
    no_starttls: bool,
    auth: Option<AuthMode>,
    helo_name: Option<String>,
    insecure: Option<bool>,
}

impl UrlOptions {
    const KNOWN: &'static [&'static str] = &[
        "auth",
        "encryption",
        "starttls",
        "useStartTLS",
        "clientHost",
        "skipTLSVerify",
        "from",
        "fromAddress",
        "fromName",
        "to",
        "toAddresses",
        "subject",
        "title",
        "useHTML",
    ];

    fn read(&mut self, access: &Access<'_>, option: &str, value: &str) -> Result<(), Invalid> {
        let bad = |expected: &str| {
            access.invalid(
                Field::Url,
                format!("bad `url`: `{option}` is not {expected}"),
            )
        };
        let yes_or_no = || match value.to_ascii_lowercase().as_str() {
            "yes" | "true" | "1" => Ok(true),
            "no" | "false" | "0" => Ok(false),
            _ => Err(bad("`yes` or `no`")),
        };
        match option.to_ascii_lowercase().as_str() {
            "auth" if value.eq_ignore_ascii_case("crammd5") => {
                return Err(access
                    .invalid(
                        Field::Url,
                        "bad `url`: a login by CRAM-MD5 is not supported",
                    )
                    .hint("`auth=plain` over TLS, or leave `auth` out"));
            }
            "auth" => {
                self.auth =
                    Some(AuthMode::of(value).ok_or_else(|| {
                        bad("one of `none`, `plain`, `login`, `oauth2`, `unknown`")
                    })?);
            }
            "encryption" => {
                self.encryption =
                    Some(Mode::of(value).ok_or_else(|| {
                        bad("one of `auto`, `none`, `explicitTLS`, `implicitTLS`")
                    })?);
            }
            "starttls" | "usestarttls" => {
                // Yes is what `auto` does.
                self.no_starttls = !yes_or_no()?;
            }
            "clienthost" if value.eq_ignore_ascii_case("auto") => {
                return Err(access
                    .invalid(
                        Field::Url,
                        "bad `url`: `clientHost=auto` is the name of the machine, which is not looked up",
                    )
                    .hint("write the name, or leave it out: then it is our address"));
            }
            "clienthost" => self.helo_name = Some(value.to_owned()),
            "skiptlsverify" => self.insecure = Some(yes_or_no()?),
            // Of the mail that is never sent.
            "from" | "fromaddress" | "fromname" | "to" | "toaddresses" | "subject" | "title"
            | "usehtml" => {}
            _ => return Err(unknown_option(access, option, Self::KNOWN)),
        }
        Ok(())
    }

    /// The settings, which win, and for what they do not say the URL's.
    fn under(self, settings: Settings) -> Settings {
        Settings {
            encryption: settings.encryption.or(self.encryption),
            auth: settings.auth.or(self.auth),
            helo_name: settings.helo_name.or(self.helo_name),
            insecure_skip_verify: settings.insecure_skip_verify.or(self.insecure),
            server_name: settings.server_name,
        }
    }
}

impl Login {
    fn new(
        access: &Access<'_>,
        location: &Location,
        auth: AuthMode,
    ) -> Result<Option<Self>, Invalid> {
        let mechanisms: &'static [Mechanism] = match auth {
            AuthMode::None => return Ok(None),
            AuthMode::Auto => &[Mechanism::Plain, Mechanism::Login],
            AuthMode::Only(Mechanism::Plain) => &[Mechanism::Plain],
            AuthMode::Only(Mechanism::Login) => &[Mechanism::Login],
            AuthMode::Only(Mechanism::Xoauth2) => &[Mechanism::Xoauth2],
        };
        let is_token = mechanisms == [Mechanism::Xoauth2];
        let username = access.username(location.username.as_deref());
        let token = match is_token {
            true => access.resolved().own_key(TOKEN).cloned(),
            false => None,
        };
        // A secret may hold both, and a password is no token.
        let password = token.or_else(|| access.password(location.password.as_deref()));
        let (username, password) = match (username, password) {
            (Some(username), Some(password)) => (username, password),
            // What the secret brings is judged when it is there.
            _ if access.resolved().is_partial => return Ok(None),
            (None, None) if auth == AuthMode::Auto => return Ok(None),
            (Some(_), None) => {
                return Err(access
                    .invalid(Field::Username, "a username without a password")
                    .hint("give `password` or a `secretRef`, or `auth: none`"));
            }
            (None, _) => {
                return Err(access
                    .invalid(Field::Password, "a login without a username")
                    .hint("give `username`, or `auth: none`"));
            }
        };
        for (field, value) in [(Field::Username, &username), (Field::Password, &password)] {
            // They part the fields of what is sent.
            if value.expose().contains(['\0', '\x01']) {
                return Err(access.invalid(field, "there is a control character in it"));
            }
        }
        Ok(Some(Self {
            expiry: is_token.then(|| expiry_of(password.expose())).flatten(),
            username,
            password,
            mechanisms,
        }))
    }

    /// What is sent for it, in turn.
    fn responses(&self, mechanism: Mechanism) -> Vec<Secret> {
        let (username, password) = (self.username.expose(), self.password.expose());
        let responses = match mechanism {
            Mechanism::Plain => vec![format!("\0{username}\0{password}")],
            Mechanism::Login => vec![username.to_owned(), password.to_owned()],
            Mechanism::Xoauth2 => {
                vec![format!("user={username}\x01auth=Bearer {password}\x01\x01")]
            }
        };
        let encode = |response: String| Secret::new(BASE64_STANDARD.encode(response));
        responses.into_iter().map(encode).collect()
    }

    /// The login as it is sent, which a server may repeat.
    fn encoded(&self) -> Vec<Secret> {
        let mechanisms = self.mechanisms.iter();
        mechanisms
            .flat_map(|mechanism| self.responses(*mechanism))
            .collect()
    }

    /// The best way that the server offers.
    fn choose(&self, offers: &Offers) -> Result<Mechanism, Cause> {
        let offered = |mechanism: &&Mechanism| {
            let mut names = offers.logins.iter();
            names.any(|name| name.eq_ignore_ascii_case(mechanism.name()))
        };
        match self.mechanisms.iter().find(offered) {
            Some(mechanism) => Ok(*mechanism),
            None => Err(offers.no_login(self.mechanisms)),
        }
    }
}

/// What the answer to `EHLO` offers.
#[derive(Debug, Default)]
struct Offers {
    starttls: bool,
    /// The mechanisms, as the server spells them.
    logins: Vec<String>,
    /// Its words, where it knows only `HELO`: that offers nothing.
    refused_ehlo: Option<String>,
    over_tls: bool,
}

impl Offers {
    fn of(reply: &Reply) -> Self {
        let mut offers = Self::default();
        // The first line is the server's name.
        for line in reply.lines.iter().skip(1) {
            // `AUTH=` is how it was written before there was a standard; some still say both.
            let mut words = line.split([' ', '=', '\t']).filter(|word| !word.is_empty());
            let keyword = words.next().unwrap_or_default();
            if keyword.eq_ignore_ascii_case("STARTTLS") {
                offers.starttls = true;
            } else if keyword.eq_ignore_ascii_case("AUTH") {
                for login in words {
                    if !offers.logins.iter().any(|known| known == login) {
                        offers.logins.push(login.to_owned());
                    }
                }
            }
        }
        offers
    }

    fn no_starttls(&self, why: &str) -> Cause {
        let server = match &self.refused_ehlo {
            Some(words) => {
                format!("the server knows only `HELO` and so no STARTTLS (it said {words})")
            }
            None => "the server offers no STARTTLS".to_owned(),
        };
        Cause::new(Reason::TlsOther, format!("{server}, and {why}")).hint(
            "does it have a certificate? if it does, something on the way takes the offer out; if plain text is what you want, `encryption: none`",
        )
    }

    fn no_login(&self, wanted: &[Mechanism]) -> Cause {
        if let Some(words) = &self.refused_ehlo {
            return Cause::new(
                Reason::Auth,
                format!("the server knows only `HELO` and so no login (it said {words})"),
            );
        }
        if self.logins.is_empty() {
            let cause = Cause::new(Reason::Auth, "the server offers no login (`AUTH`)");
            return match self.over_tls {
                true => cause.hint(
                    "is it the port for clients (587, or 465 with `smtps://`)? on port 25 few servers offer one",
                ),
                false => {
                    cause.hint("many servers offer it only after TLS: leave `encryption: none` out")
                }
            };
        }
        let named = |names: Vec<&str>| names.join("`, `");
        let has = named(self.logins.iter().map(String::as_str).collect());
        let wants = named(wanted.iter().map(|mechanism| mechanism.name()).collect());
        let cause = Cause::new(
            Reason::Auth,
            format!("the server offers the logins `{has}`, and not `{wants}`"),
        );
        let has_oauth = (self.logins.iter()).any(|name| name.eq_ignore_ascii_case("XOAUTH2"));
        match (has_oauth, wanted) {
            (true, [Mechanism::Plain | Mechanism::Login, ..]) => {
                cause.hint("with an access token as the password: `auth: xoauth2`")
            }
            _ => cause.hint("`auth` may be `plain`, `login` or `xoauth2`"),
        }
    }
}

/// The conversation with a server: a command, its reply.
struct Server {
    stream: Stream,
    received: Vec<u8>,
    /// Whether it waits for a command.
    listens: bool,
}

impl Server {
    /// The longest command that may bring the login with it (RFC 5321, and RFC 4954 on longer ones).
    const COMMAND_MAX_BYTES: usize = 510;

    fn new(stream: Stream) -> Self {
        Self {
            stream,
            received: Vec::new(),
            listens: false,
        }
    }

    async fn greeting(&mut self) -> Result<Reply, Cause> {
        let reply = match self.reply().await {
            Err(cause) if cause.reason == Reason::ConnectReset => {
                return Err(cause.hint(
                    "it hung up before its greeting: an access list, or a limit of connections",
                ));
            }
            reply => reply?,
        };
        match reply.code {
            220 => Ok(reply),
            _ => Err(reply.refusal(Said::Nothing, "")),
        }
    }

    async fn hello(&mut self, name: &str) -> Result<Offers, Cause> {
        let reply = self.ask(&format!("EHLO {name}")).await?;
        if reply.is_done() {
            return Ok(Offers::of(&reply));
        }
        if !(500..600).contains(&reply.code) {
            return Err(reply.refusal(Said::Hello, "EHLO"));
        }
        let second = self.ask(&format!("HELO {name}")).await?;
        match second.is_done() {
            true => Ok(Offers {
                refused_ehlo: Some(reply.to_string()),
                ..Offers::default()
            }),
            false => Err(second.refusal(Said::Hello, "HELO")),
        }
    }

    async fn ask_for_tls(&mut self) -> Result<(), Cause> {
        let reply = self.ask("STARTTLS").await?;
        if !reply.is_done() {
            return Err(reply.refusal(Said::StartTls, "STARTTLS"));
        }
        match self.received.is_empty() {
            true => Ok(()),
            // It would be read as if it had come over TLS (CVE-2011-0411).
            false => {
                self.listens = false;
                Err(
                    Cause::protocol("more than the answer to `STARTTLS` came before TLS had begun")
                        .hint("something on the way adds to what the server says"),
                )
            }
        }
    }

    /// Gives the stream away; nobody is here to listen then.
    fn hand_over(&mut self) -> Stream {
        self.listens = false;
        std::mem::replace(&mut self.stream, Stream::new(tokio::io::empty()))
    }

    async fn log_in(&mut self, login: &Login, offers: &Offers) -> Result<(), Cause> {
        let mechanism = login.choose(offers)?;
        let name = format!("AUTH {}", mechanism.name());
        let mut responses = login.responses(mechanism).into_iter();
        let mut command = Secret::new(name.clone());
        if let (Mechanism::Plain | Mechanism::Xoauth2, [only]) = (mechanism, responses.as_slice()) {
            let with_login = Secret::new(format!("{name} {}", only.expose()));
            if with_login.expose().len() <= Self::COMMAND_MAX_BYTES {
                command = with_login;
                responses.next();
            }
        }
        let mut reply = self.ask(command.expose()).await?;
        while let (334, Some(response)) = (reply.code, responses.next()) {
            reply = self.ask(response.expose()).await?;
        }
        let mut why = None;
        if reply.code == 334 {
            // It wants more than there is. With XOAUTH2 that is how it tells why not; the refusal
            // comes for an empty line, and for `*` in the others.
            why = BASE64_STANDARD.decode(reply.text()).ok();
            let more = if mechanism == Mechanism::Xoauth2 {
                ""
            } else {
                "*"
            };
            reply = self.ask(more).await?;
        }
        if reply.code == 235 {
            return Ok(());
        }
        if reply.is_done() {
            let code = reply.code;
            return Err(Cause::protocol(format!(
                "expected 235 to `{name}`, got {code}"
            )));
        }
        let mut cause = reply.refusal(Said::Auth, &name);
        if let (Mechanism::Xoauth2, Some(why)) = (mechanism, why) {
            let why = String::from_utf8_lossy(&why);
            cause.message = format!("{} (it says why: {why})", cause.message);
        }
        match has_ended(login.expiry) {
            Some(hint) => Err(cause.hint(hint)),
            None => Err(cause),
        }
    }

    async fn noop(&mut self) -> Result<(), Cause> {
        let reply = self.ask("NOOP").await?;
        match reply.is_done() {
            true => Ok(()),
            false => Err(reply.refusal(Said::Noop, "NOOP")),
        }
    }

    async fn quit(&mut self) {
        // The server closes after its answer; whether it gives one is not our business.
        let _ = self.ask("QUIT").await;
        let _ = self.stream.shutdown().await;
    }

    /// Sends a command and reads its reply.
    async fn ask(&mut self, command: &str) -> Result<Reply, Cause> {
        self.listens = false;
        if !self.received.is_empty() {
            // Unasked it says only that it goes away. Anything else would pass for the next answer.
            let early = self.reply().await?;
            return match early.code {
                421 => Ok(early),
                code => Err(Cause::protocol(format!(
                    "it said {code} before it was asked"
                ))),
            };
        }
        let line = Secret::new(format!("{command}\r\n"));
        let sent = self.send(line.expose().as_bytes()).await;
        // A server that turns us away says so and hangs up before it reads: its words are waiting
        // even when writing failed.
        match (self.reply().await, sent) {
            (Err(cause), Err(unsent)) if cause.reason == Reason::ConnectReset => Err(unsent),
            (reply, _) => reply,
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), Cause> {
        self.stream.write_all(bytes).await?;
        Ok(self.stream.flush().await?)
    }

    /// The next reply.
    async fn reply(&mut self) -> Result<Reply, Cause> {
        let mut growing = Growing::default();
        loop {
            let line = self.line(growing.is_begun()).await?;
            if let Some(reply) = growing.push(&line)? {
                // After 421 it hangs up.
                self.listens = reply.code != 421;
                return Ok(reply);
            }
        }
    }

    /// The next line, without its end.
    async fn line(&mut self, is_within_reply: bool) -> Result<Vec<u8>, Cause> {
        let mut looked_at = 0;
        loop {
            let new = self.received.get(looked_at..).unwrap_or_default();
            if let Some(end) = new.iter().position(|byte| *byte == b'\n') {
                let rest = self.received.split_off(looked_at + end + 1);
                let mut line = std::mem::replace(&mut self.received, rest);
                line.truncate(looked_at + end);
                if line.ends_with(b"\r") {
                    line.pop();
                }
                return Ok(line);
            }
            judge_beginning(&self.received)?;
            looked_at = self.received.len();
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(match is_within_reply || !self.received.is_empty() {
                    false => {
                        Cause::new(Reason::ConnectReset, "the server hung up without an answer")
                    }
                    true => Cause::protocol("the server hung up in the middle of its answer"),
                });
            }
        }
    }
}

/// Programs that name themselves in their greeting; the version is theirs to give or not. Others'
/// greetings have names and times in them that change.
const SOFTWARE: [&str; 14] = [
    "Axigen",
    "Dovecot",
    "Exim",
    "Haraka",
    "hMailServer",
    "Kerio",
    "MailEnable",
    "Mailpit",
    "MDaemon",
    "OpenSMTPD",
    "Postfix",
    "Sendmail",
    "Stalwart",
    "Zimbra",
];

/// `Postfix`, `Exim 4.96`
fn software(greeting: &Reply) -> Option<String> {
    let text = greeting.text();
    if text.contains("Microsoft ESMTP MAIL Service") {
        return Some("Microsoft ESMTP".to_owned());
    }
    // The first word is the name of the host.
    let mut words = text.split_whitespace().skip(1);
    let name = words.find_map(|word| {
        let word = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        SOFTWARE
            .into_iter()
            .find(|name| name.eq_ignore_ascii_case(word))
    })?;
    let version = words.next().unwrap_or_default();
    let is_part = |c: char| c.is_ascii_digit() || c == '.';
    let end = version.find(|c| !is_part(c)).unwrap_or(version.len());
    Some(match version.starts_with(|c: char| c.is_ascii_digit()) {
        true => format!("{name} {}", &version[..end]),
        false => name.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncBufReadExt, BufReader};
    use tokio::net::TcpListener;

    use super::*;
    use crate::outcome::Outcome;
    use crate::probe::Probe;
    use crate::testing;

    fn build_with(spec: &str, secret: &[(&str, &str)]) -> Result<Arc<dyn Probe>, String> {
        testing::build("smtp", spec, secret).map_err(|mut invalid| {
            let Invalid { message, hint, .. } = invalid.remove(0);
            match hint {
                Some(hint) => format!("{message} ({hint})"),
                None => message,
            }
        })
    }

    fn build(spec: &str) -> Result<Arc<dyn Probe>, String> {
        build_with(spec, &[])
    }

    /// One attempt at a server that greets with the first of these words, and says the next one to
    /// each line that it hears; after the last one it only listens. Gives what it heard.
    async fn talk_to(words: &[&str], spec: &str) -> (Outcome, Vec<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let probe = build(&spec.replace("PEER", &format!("127.0.0.1:{port}"))).unwrap();
        let words: Vec<_> = words.iter().map(|word| format!("{word}\r\n")).collect();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            let mut heard = Vec::new();
            let mut words = words.into_iter();
            loop {
                if let Some(word) = words.next() {
                    stream.write_all(word.as_bytes()).await.unwrap();
                }
                let mut line = String::new();
                match stream.read_line(&mut line).await {
                    Ok(0) | Err(_) => return heard,
                    Ok(_) => heard.push(line.trim_end_matches("\r\n").to_owned()),
                }
                if line == "QUIT\r\n" {
                    return heard;
                }
            }
        });
        let outcome = testing::run(&probe, testing::LONG).await;
        (outcome, server.await.unwrap())
    }

    const PLAIN: &str =
        "url: smtp://PEER\nusername: u\npassword: pw\nproperties: {encryption: none}";

    #[track_caller]
    fn check(outcome: &Outcome, reason: Reason, phase: Phase, message: &str) {
        let failure = outcome.result.as_ref().expect_err("down");
        assert_eq!(
            (failure.reason, failure.phase),
            (reason, Some(phase)),
            "{failure:?}"
        );
        let told = format!(
            "{} ({})",
            failure.message,
            failure.hint.as_deref().unwrap_or_default()
        );
        assert!(told.contains(message), "{told}");
    }

    #[test]
    fn any_login_is_what_was_given() {
        let url = "smtp://$(username):$(password)@h";
        let never = ("\u{1}", "\u{1}");
        testing::check_logins(
            "smtp",
            url,
            testing::percent_encoded,
            never,
            |probe: &Smtp| {
                let Login {
                    username, password, ..
                } = probe.login.as_ref().unwrap();
                (username.expose().to_owned(), password.expose().to_owned())
            },
        );
    }

    #[test]
    fn the_url_decides_port_and_encryption() {
        for (spec, endpoint) in [
            ("url: smtp://mail.example.com", "smtp://mail.example.com:25"),
            (
                "url: smtp://mail.example.com/",
                "smtp://mail.example.com:25",
            ),
            ("url: mail.example.com:587", "smtp://mail.example.com:587"),
            ("url: mail.example.com", "smtp://mail.example.com:25"),
            (
                "url: smtps://mail.example.com",
                "smtps://mail.example.com:465",
            ),
            (
                "url: smtps://mail.example.com:2465",
                "smtps://mail.example.com:2465",
            ),
            ("url: mail.example.com:465", "smtps://mail.example.com:465"),
            (
                "url: smtp://mail.example.com:465\nproperties: {encryption: explicitTLS}",
                "smtp://mail.example.com:465",
            ),
            (
                "url: smtp://mail.example.com\nproperties: {encryption: ImplicitTLS}",
                "smtps://mail.example.com:465",
            ),
            ("url: smtp://[2001:db8::1]:587", "smtp://[2001:db8::1]:587"),
            (
                "url: smtp://user%40example.com:pw@mail.example.com:587/?encryption=ExplicitTLS&auth=Plain&useStartTLS=Yes&from=a@b&to=c@d&subject=x&useHTML=no&fromname=y",
                "smtp://mail.example.com:587",
            ),
            (
                "url: smtp://u:p@mail.example.com:465?useStartTLS=no",
                "smtps://mail.example.com:465",
            ),
            ("url: smtp://a?useStartTLS=no", "smtp://a:25"),
            (
                "url: smtp://u:p@a:587/?UseStartTLS=false&Encryption=Auto",
                "smtp://a:587",
            ),
        ] {
            assert_eq!(build(spec).unwrap().endpoint(), endpoint, "{spec}");
        }
    }

    #[test]
    fn what_contradicts_itself_or_is_not_honoured_is_refused_by_name() {
        for (spec, message) in [
            ("url: lmtp://a", "LMTP is not SMTP"),
            ("url: http://a", "this scheme is not SMTP"),
            ("url: smtp://a/inbox", "an SMTP URL has no path"),
            ("url: smtp://a?auth=CRAMMD5", "CRAM-MD5 is not supported"),
            ("url: smtp://a?auth=ntlm", "`auth` is not one of"),
            ("url: smtp://a?encryption=ssl", "`encryption` is not one of"),
            (
                "url: smtp://u:p@a:587?useStartTLS=no",
                "`useStartTLS=no`, and a login, which wants TLS",
            ),
            (
                "url: smtp://a?useStartTLS=perhaps",
                "`useStartTLS` is not `yes` or `no`",
            ),
            (
                "url: smtp://a?clientHost=auto",
                "`clientHost=auto` is the name of the machine",
            ),
            (
                "url: smtp://a?encrption=none",
                "unknown option `encrption` (did you mean `encryption`?)",
            ),
            ("url: smtp://a?timeout=3s", "unknown option `timeout`"),
            (
                "url: smtps://a\nproperties: {encryption: none}",
                "`smtps://` is TLS from the start",
            ),
            (
                "url: smtps://a\nproperties: {encryption: explicitTLS}",
                "`smtps://` is TLS from the start",
            ),
            (
                "url: smtp://a\nproperties: {encryption: starttls}",
                "expected `auto`, `none`, `explicitTLS` or `implicitTLS`",
            ),
            (
                "url: smtp://a\nproperties: {auth: ntlm}",
                "expected `auto`, `none`, `plain`, `login` or `xoauth2`",
            ),
            (
                "url: smtp://a\nproperties: {heloName: 'a b'}",
                "`heloName` is neither",
            ),
            (
                "url: smtp://a\nproperties: {heloName: \"a\\r\\nMAIL FROM:<>\"}",
                "`heloName` is neither",
            ),
            (
                "url: smtp://a\nusername: u",
                "a username without a password",
            ),
            ("url: smtp://a\npassword: pw", "a login without a username"),
            (
                "url: smtp://a\nproperties: {auth: xoauth2}",
                "a login without a username",
            ),
            (
                "url: smtp://a\nusername: u\npassword: \"p\\0w\"",
                "a control character",
            ),
        ] {
            let error = build(spec).err().unwrap_or_else(|| panic!("{spec}"));
            assert!(error.contains(message), "{spec}: {error}");
        }
        let authority = testing::Authority::new("ca");
        let spec = format!(
            "url: smtp://a\nproperties: {{encryption: none}}\ncaCert: {}",
            testing::quoted(&authority.pem)
        );
        let error = build(&spec).err().expect("a contradiction");
        assert!(
            error.contains("a `caCert`, and `encryption: none`"),
            "{error}"
        );
    }

    #[test]
    fn a_secret_that_is_not_there_yet_is_no_mistake() {
        let spec = "url: smtp://u@a\nsecretRef: {name: login, key: password}";
        assert!(testing::build_partly("smtp", spec).is_ok());
        assert!(build_with(spec, &[("password", "pw")]).is_ok());
        let token = "url: smtp://u@a\nsecretRef: {name: login}\nproperties: {auth: xoauth2}";
        assert!(build_with(token, &[("token", "t")]).is_ok());
    }

    #[tokio::test]
    async fn the_whole_conversation_and_no_mail() {
        let words = [
            "220-peer ESMTP Postfix\r\n220 and a second line",
            "250-peer\r\n250-AUTH=LOGIN PLAIN\r\n250-AUTH PLAIN LOGIN\r\n250 8BITMIME",
            "235 2.7.0 ok",
            "250 2.0.0 ok",
            "221 bye",
        ];
        let (outcome, heard) = talk_to(&words, PLAIN).await;
        assert!(outcome.is_up(), "{outcome:?}");
        assert_eq!(outcome.server.as_deref(), Some("Postfix"));
        assert_eq!(
            heard,
            ["EHLO [127.0.0.1]", "AUTH PLAIN AHUAcHc=", "NOOP", "QUIT"]
        );
        let phases: Vec<_> = outcome.phases.iter().map(|(phase, _)| *phase).collect();
        assert_eq!(phases, [Phase::Connect, Phase::Auth, Phase::Request]);
    }

    #[tokio::test]
    async fn login_where_plain_is_not_offered_or_not_wanted() {
        let login = ["334 VXNlcm5hbWU6", "334 UGFzc3dvcmQ6", "235 ok", "250 ok"];
        for (offer, spec) in [
            ("250-peer\r\n250 AUTH LOGIN CRAM-MD5", PLAIN.to_owned()),
            (
                "250-peer\r\n250 AUTH PLAIN LOGIN",
                PLAIN.replace("none}", "none, auth: login, heloName: probe.example.com}"),
            ),
        ] {
            let words = [&["220 peer", offer][..], &login].concat();
            let (outcome, heard) = talk_to(&words, &spec).await;
            assert!(outcome.is_up(), "{outcome:?}");
            assert_eq!(heard[1..4], ["AUTH LOGIN", "dQ==", "cHc="]);
            if spec.contains("heloName") {
                assert_eq!(heard[0], "EHLO probe.example.com");
            }
        }
    }

    #[tokio::test]
    async fn logins_that_are_not_to_be_had() {
        for (offer, more, message) in [
            (
                "250 peer",
                "",
                "offers no login (`AUTH`) (many servers offer it only after TLS",
            ),
            (
                "250-peer\r\n250 AUTH CRAM-MD5",
                "",
                "offers the logins `CRAM-MD5`, and not `PLAIN`, `LOGIN`",
            ),
            ("250-peer\r\n250 AUTH XOAUTH2", "", "`auth: xoauth2`"),
            (
                "250-peer\r\n250 AUTH PLAIN",
                ", auth: xoauth2",
                "and not `XOAUTH2`",
            ),
        ] {
            let spec = PLAIN.replace("none}", &format!("none{more}}}"));
            let (outcome, heard) = talk_to(&["220 peer", offer, "221 bye"], &spec).await;
            check(&outcome, Reason::Auth, Phase::Auth, message);
            assert_eq!(heard[1..], ["QUIT"], "no login was sent, and the end said");
        }
    }

    #[tokio::test]
    async fn a_refusal_is_told_and_the_end_is_said() {
        let hello = "250-peer\r\n250 AUTH PLAIN";
        for (answers, reason, message, quits) in [
            (
                &["535 5.7.8 no"][..],
                Reason::Auth,
                "`AUTH PLAIN` was answered 535 5.7.8 no",
                true,
            ),
            (
                &["454 4.7.0 later"],
                Reason::Unavailable,
                "454 4.7.0 later",
                true,
            ),
            (
                &["421 4.3.2 down"],
                Reason::Unavailable,
                "421 4.3.2 down",
                false,
            ),
            (&["334 ", "501 what"], Reason::Protocol, "501 what", true),
            (
                &["250 what was asked before"],
                Reason::Protocol,
                "expected 235 to `AUTH PLAIN`, got 250",
                true,
            ),
        ] {
            let words = [&["220 peer", hello][..], answers].concat();
            let (outcome, heard) = talk_to(&words, PLAIN).await;
            check(&outcome, reason, Phase::Auth, message);
            assert_eq!(
                heard.last().is_some_and(|last| last == "QUIT"),
                quits,
                "{heard:?}"
            );
        }
    }

    #[test]
    fn a_certificate_means_tls() {
        let pem = testing::quoted(&testing::Authority::new("test authority").pem);
        for (option, message) in [
            ("useStartTLS=no", "`useStartTLS=no`, and a `caCert`"),
            ("encryption=none", "a `caCert`, and `encryption: none`"),
        ] {
            let mistake = build(&format!("url: smtp://a?{option}\ncaCert: {pem}")).err();
            assert!(mistake.unwrap().contains(message), "{option}");
        }
    }

    /// Each of its answers would pass for the next one's.
    #[tokio::test]
    async fn what_is_said_before_it_is_asked_for_is_no_answer() {
        let doubled = "220 peer\r\n220 peer";
        let (outcome, _) = talk_to(&[doubled, "250-peer\r\n250 AUTH PLAIN"], PLAIN).await;
        check(
            &outcome,
            Reason::Protocol,
            Phase::Request,
            "it said 220 before it was asked",
        );
        let goes = "250-peer\r\n250 AUTH PLAIN\r\n421 4.3.2 shutting down";
        let (outcome, _) = talk_to(&["220 peer", goes], PLAIN).await;
        check(&outcome, Reason::Unavailable, Phase::Auth, "421 4.3.2");
    }

    #[test]
    fn of_a_secret_that_holds_both_the_token_is_the_token() {
        let secret = [("username", "u"), ("password", "pw"), ("token", "t0ken-0")];
        let spec = "url: smtp://a\nsecretRef: {name: login}\nproperties: {auth: xoauth2}";
        let probe = build_with(spec, &secret).unwrap();
        let sent = BASE64_STANDARD.encode("user=u\x01auth=Bearer t0ken-0\x01\x01");
        assert_eq!(probe.scrubber().scrub(&sent), "[redacted]");
    }

    const TOKEN: &str = "url: smtp://PEER\nusername: u\npassword: TOKEN\nproperties: {encryption: none, auth: xoauth2}";

    #[tokio::test]
    async fn an_access_token_is_sent_and_its_refusal_explained() {
        let hello = "250-peer\r\n250 AUTH XOAUTH2 PLAIN";
        let sent = BASE64_STANDARD.encode("user=u\x01auth=Bearer TOKEN\x01\x01");
        let (outcome, heard) = talk_to(&["220 peer", hello, "235 ok", "250 ok"], TOKEN).await;
        assert!(outcome.is_up(), "{outcome:?}");
        assert_eq!(heard[1], format!("AUTH XOAUTH2 {sent}"));

        let json = r#"{"status":"401","schemes":"bearer","scope":"https://mail.example.com/","saw":"TOKEN"}"#;
        let challenge = format!("334 {}", BASE64_STANDARD.encode(json));
        let refused = ["220 peer", hello, &challenge, "535 5.7.8 not accepted"];
        let (outcome, heard) = talk_to(&refused, TOKEN).await;
        check(
            &outcome,
            Reason::Auth,
            Phase::Auth,
            r#"535 5.7.8 not accepted (it says why: {"status":"401","schemes":"bearer""#,
        );
        let failure = outcome.result.unwrap_err();
        assert!(!failure.message.contains("TOKEN"), "{failure:?}");
        assert_eq!(heard[2..], ["", "QUIT"]);
    }

    #[tokio::test]
    async fn a_long_token_is_sent_when_it_is_asked_for() {
        let token = "t".repeat(2000);
        let words = [
            "220 peer",
            "250-peer\r\n250 AUTH XOAUTH2",
            "334 ",
            "235 ok",
            "250 ok",
        ];
        let (outcome, heard) = talk_to(&words, &TOKEN.replace("TOKEN", &token)).await;
        assert!(outcome.is_up(), "{outcome:?}");
        assert_eq!(heard[1], "AUTH XOAUTH2");
        assert!(heard[2].len() > 2000);
    }

    #[tokio::test]
    async fn the_end_of_a_token_is_recorded_and_blamed() {
        let part = |json: &str| base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(json);
        let token = format!(
            "{}.{}.x",
            part(r#"{"alg":"none"}"#),
            part(r#"{"exp":1000000000}"#)
        );
        let words = ["220 peer", "250-peer\r\n250 AUTH XOAUTH2", "535 no"];
        let (outcome, _) = talk_to(&words, &TOKEN.replace("TOKEN", &token)).await;
        check(
            &outcome,
            Reason::Auth,
            Phase::Auth,
            "the bearer token ended 2001-09-09",
        );
        assert_eq!(
            outcome.credential_expiry.map(|at| at.as_second()),
            Some(1_000_000_000)
        );
    }

    #[tokio::test]
    async fn a_server_that_knows_only_helo() {
        let words = ["220 peer", "502 what", "250 peer", "250 ok"];
        let (outcome, heard) = talk_to(&words, "url: smtp://PEER").await;
        assert!(outcome.is_up(), "{outcome:?}");
        assert_eq!(heard[..2], ["EHLO [127.0.0.1]", "HELO [127.0.0.1]"]);

        let (outcome, _) = talk_to(&words, PLAIN).await;
        check(
            &outcome,
            Reason::Auth,
            Phase::Auth,
            "knows only `HELO` and so no login (it said 502 what)",
        );
        let (outcome, _) = talk_to(&words, "url: smtp://u:pw@PEER").await;
        check(
            &outcome,
            Reason::TlsOther,
            Phase::Tls,
            "knows only `HELO` and so no STARTTLS",
        );
    }

    #[tokio::test]
    async fn without_starttls_nothing_secret_is_sent() {
        let words = ["220 peer", "250-peer\r\n250 AUTH PLAIN", "221 bye"];
        for (spec, why) in [
            ("url: smtp://u:pw@PEER", "a login is not sent without TLS"),
            (
                "url: smtp://PEER\nproperties: {encryption: explicitTLS}",
                "`encryption` is `explicitTLS`",
            ),
        ] {
            let (outcome, heard) = talk_to(&words, spec).await;
            check(&outcome, Reason::TlsOther, Phase::Tls, why);
            assert_eq!(heard, ["EHLO [127.0.0.1]", "QUIT"]);
        }
        let authority = testing::Authority::new("ca");
        let spec = format!(
            "url: smtp://PEER\ncaCert: {}",
            testing::quoted(&authority.pem)
        );
        let (outcome, _) = talk_to(&words, &spec).await;
        check(
            &outcome,
            Reason::TlsOther,
            Phase::Tls,
            "a `caCert` is given",
        );
        // Nothing insists on it here.
        let words = ["220 peer", "250 peer", "250 ok", "221 bye"];
        let (outcome, _) = talk_to(&words, "url: smtp://PEER").await;
        assert!(outcome.is_up(), "{outcome:?}");
    }

    #[tokio::test]
    async fn words_that_were_put_before_the_handshake_are_refused() {
        let words = [
            "220 peer",
            "250-peer\r\n250 STARTTLS",
            "220 go on\r\n250-peer\r\n250 AUTH PLAIN",
        ];
        let (outcome, heard) = talk_to(&words, "url: smtp://u:pw@PEER").await;
        check(
            &outcome,
            Reason::Protocol,
            Phase::Tls,
            "before TLS had begun",
        );
        assert_eq!(heard.len(), 2, "{heard:?}");
    }

    #[tokio::test]
    async fn greetings_that_are_none() {
        for (greeting, reason, message) in [
            (
                "421 4.7.0 too many connections",
                Reason::Unavailable,
                "expected the greeting `220`, got 421",
            ),
            (
                "554-5.7.1 blocked\r\n554 5.7.1 see https://a",
                Reason::Permission,
                "554 5.7.1 blocked see https://a",
            ),
            ("SSH-2.0-OpenSSH_9.2", Reason::Protocol, "it looks like SSH"),
            (
                "220-peer\r\n250 peer",
                Reason::Protocol,
                "have different codes",
            ),
            (&"*".repeat(100_000), Reason::Protocol, "not SMTP's"),
            (
                &format!("220 {}", "x".repeat(100_000)),
                Reason::Protocol,
                "does not end",
            ),
            (&"220-x\r\n".repeat(1000), Reason::Protocol, "does not end"),
        ] {
            let (outcome, _) = talk_to(&[greeting], "url: smtp://PEER").await;
            check(&outcome, reason, Phase::Request, message);
        }
    }

    #[test]
    fn only_programs_that_are_known_are_named() {
        for (greeting, name) in [
            ("rig.test ESMTP Postfix (Debian/GNU)", Some("Postfix")),
            (
                "rig.test ESMTP Exim 4.96 Tue, 24 Nov 2026 21:41:00 +0000",
                Some("Exim 4.96"),
            ),
            (
                "a ESMTP Sendmail 8.15.2/8.15.2; Tue, 24 Nov",
                Some("Sendmail 8.15.2"),
            ),
            (
                "a.outlook.com Microsoft ESMTP MAIL Service ready at Tue",
                Some("Microsoft ESMTP"),
            ),
            ("postfix.example.com ESMTP", None),
            ("mx.example.com ESMTP x12-20020a - gsmtp", None),
            ("", None),
        ] {
            let greeting = Reply {
                code: 220,
                lines: vec![greeting.to_owned()],
            };
            assert_eq!(software(&greeting).as_deref(), name);
        }
    }
}
