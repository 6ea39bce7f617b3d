//! `ldap`: bind, anonymously where there are no credentials, then a base search answers with an
//! entry.
//!
//! Proves that the directory lets us in and that the base is there and may be read by us. An
//! anonymous bind proves no more than that the server is a directory and talks to strangers; most
//! let anybody read their root DSE, which is the default base.
//!
//! The conversation is ours, over `asn1-rs`, which writes and reads the elements ([`message`]). Two
//! drivers were looked at. `ldap3` spawns a task that owns the connection and does the handshake
//! itself, so neither phases nor a refused chain could be told. Its codec, `lber`, follows nested
//! elements without a bound: a message of 32 kB ends the process by its stack.
//!
//! Referrals are reported and not followed: an attempt is about the server that the owner named.

mod dn;
mod filter;
mod message;
mod url;

use std::borrow::Cow;
use std::collections::BTreeSet;

use ::url::Url;
use bytes::BytesMut;
use conncheck_config::{Field, Secret};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use self::dn::Mistake;
use self::message::{Entry, LdapResult, Message, Response, Search};
use self::url::{LdapUrl, Scope};
use crate::attempt::{Address, Attempt, Stream};
use crate::cause::Cause;
use crate::outcome::{Failure, Phase, Reason};
use crate::probe::{Access, Invalid, ProbeType};
use crate::tls::Tls;

/// `spec.properties` of an LDAP connection.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Settings {
    /// Ask for TLS on the plain port before anything else is said.
    #[serde(rename = "startTLS")]
    start_tls: Option<bool>,
    /// The entry at which the search begins; wins over the path of the URL. Without either, the
    /// root DSE.
    #[serde(rename = "baseDN")]
    base_dn: Option<String>,
    /// How far below the base to look: `base`, `one` or `sub`. Wins over the URL.
    scope: Option<Scope>,
    /// What the entry must match; wins over the URL.
    filter: Option<String>,
    /// How to log in: `simple`, or `external` for the identity of the client certificate or of the
    /// unix socket.
    auth: Option<Auth>,
    /// Accept any certificate.
    insecure_skip_verify: Option<bool>,
    /// The name that the certificate must be for, in place of the URL's host.
    server_name: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Auth {
    Simple,
    External,
}

pub(crate) struct Ldap {
    address: Address,
    encryption: Encryption,
    login: Login,
    base: String,
    scope: Scope,
    filter: Filter,
    attributes: Vec<String>,
    /// Whether the entry is the root DSE, and tells who the server is.
    is_introduction: bool,
}

enum Encryption {
    None,
    /// `ldaps://`
    AtOnce(Tls),
    StartTls(Tls),
}

enum Login {
    Anonymous,
    Simple { name: Secret, password: Secret },
    External,
}

struct Filter {
    packed: Vec<u8>,
    is_given: bool,
}

/// What the root DSE says of the server. Of other entries nothing is asked but that they are there.
const INTRODUCTION: [&str; 4] = [
    "vendorName",
    "vendorVersion",
    "objectClass",
    "domainControllerFunctionality",
];
const NO_ATTRIBUTES: &str = "1.1";

impl ProbeType for Ldap {
    type Settings = Settings;

    const FURTHER_REASONS: &'static [Reason] =
        &[Reason::Permission, Reason::NotFound, Reason::Assertion];

    fn new(access: Access<'_>, settings: Settings) -> Result<Self, Invalid> {
        let url = access.url()?;
        if !url.expose().contains("://") {
            return Err(access
                .invalid(Field::Url, "bad `url`: it has no scheme")
                .hint("use `ldap://host/base`, `ldaps://host/base` (TLS) or `ldapi://%2Fpath%2Fof%2Fsocket`"));
        }
        let url = LdapUrl::read(&access, url)?;
        let start_tls = settings.start_tls.unwrap_or(url.start_tls);
        let tls = || {
            access.tls(
                &access.tls_options(settings.insecure_skip_verify, settings.server_name.clone()),
            )
        };
        let (address, encryption) = match (url.location.scheme.as_str(), start_tls) {
            ("ldap", false) => {
                access.without_tls("set `startTLS`, use `ldaps://`, or leave it out")?;
                (url.location.address(&access, 389)?, Encryption::None)
            }
            ("ldap", true) => {
                let address = url.location.address(&access, 389)?;
                (address, Encryption::StartTls(tls()?))
            }
            ("ldaps", false) => {
                let address = url.location.address(&access, 636)?;
                (address, Encryption::AtOnce(tls()?))
            }
            ("ldapi", false) => (socket(&access, &url)?, Encryption::None),
            ("ldaps" | "ldapi", true) => {
                return Err(access
                    .invalid(Field::Url, "`startTLS` is for `ldap://` only")
                    .hint("`ldaps://` speaks TLS from the start, `ldapi://` never leaves the machine: leave `startTLS` out"));
            }
            _ => {
                return Err(access
                    .invalid(Field::Url, "bad `url`: this scheme is not LDAP")
                    .hint("use `ldap://`, `ldaps://` (TLS) or `ldapi://` (a unix socket)"));
            }
        };
        access.may_reach(&address)?;
        let login = login(&access, &url, settings.auth, &address, &encryption)?;
        let base = base(&access, settings.base_dn, url.base)?;
        let scope = settings.scope.or(url.scope).unwrap_or_default();
        let is_introduction = base.is_empty() && scope == Scope::Base && url.attributes.is_empty();
        let attributes = match (is_introduction, url.attributes.is_empty()) {
            (true, _) => INTRODUCTION.map(str::to_owned).to_vec(),
            (false, true) => vec![NO_ATTRIBUTES.to_owned()],
            (false, false) => url.attributes,
        };
        Ok(Self {
            filter: filter(&access, settings.filter, url.filter)?,
            address,
            encryption,
            login,
            base,
            scope,
            attributes,
            is_introduction,
        })
    }

    fn endpoint(&self) -> String {
        let scheme = match (&self.address, &self.encryption) {
            (Address::Unix(_), _) => "ldapi",
            (_, Encryption::AtOnce(_)) => "ldaps",
            (_, _) => "ldap",
        };
        format!("{scheme}://{}", self.address)
    }

    async fn probe(&self, attempt: &mut Attempt) -> Result<(), Failure> {
        let stream = attempt.dial(&self.address).await?;
        let mut server = match &self.encryption {
            Encryption::None => Server::new(stream),
            Encryption::AtOnce(tls) => self.encrypted(attempt, stream, tls).await?,
            Encryption::StartTls(tls) => {
                let mut server = Server::new(stream);
                let what = "the server did not answer the request for TLS";
                let offered = attempt.phase_of(Phase::Tls, what, server.start_tls()).await;
                if offered.is_err() {
                    return server.part(attempt, offered).await;
                }
                self.encrypted(attempt, server.stream, tls).await?
            }
        };
        let res = self.ask(attempt, &mut server).await;
        server.part(attempt, res).await
    }
}

impl Ldap {
    async fn encrypted(
        &self,
        attempt: &mut Attempt,
        stream: Stream,
        tls: &Tls,
    ) -> Result<Server, Failure> {
        let (stream, _) = attempt.tls(stream, tls, self.address.host()).await?;
        Ok(Server::new(stream))
    }

    async fn ask(&self, attempt: &mut Attempt, server: &mut Server) -> Result<(), Failure> {
        attempt.phase(Phase::Auth, server.bind(&self.login)).await?;
        let entry = attempt.phase(Phase::Request, self.find(server)).await?;
        if self.is_introduction
            && let Some(name) = name_of(&entry)
        {
            attempt.server(name);
        }
        Ok(())
    }

    /// The search, and the entry that it must find.
    async fn find(&self, server: &mut Server) -> Result<Entry, Cause> {
        let found = server
            .search(&Search {
                base: &self.base,
                scope: self.scope as u8,
                filter: &self.filter.packed,
                attributes: &self.attributes,
                types_only: !self.is_introduction,
            })
            .await?;
        match (found.entry, found.result.code) {
            // One entry is all that we asked for, and the server says that there are more.
            (Some(entry), SUCCESS | SIZE_LIMIT_EXCEEDED) => Ok(entry),
            (None, SUCCESS) => Err(self.nothing_found(&found.references)),
            _ => {
                let asked = match self.login {
                    Login::Anonymous => Asked::SearchByStranger(&self.base),
                    _ => Asked::Search(&self.base),
                };
                Err(refusal(&asked, &found.result))
            }
        }
    }

    fn nothing_found(&self, references: &BTreeSet<String>) -> Cause {
        let base = shown(&self.base);
        let hint = match (self.scope, self.filter.is_given, self.base.as_str()) {
            (Scope::Base, false, "") => {
                "the server hides it from this user: log in, or name a `baseDN` that it may read"
            }
            (Scope::Base, false, _) => "it is there, and this user may not read it",
            (Scope::Base, true, _) => {
                "the entry does not match `filter`, or this user may not read it; to look further down, set `scope`"
            }
            _ => "nothing there matches `filter`, or this user may not read it",
        };
        let mut message = format!("expected an entry, and the search at {base} found none");
        if !references.is_empty() {
            message = format!("{message}; it refers to {}", places(references));
        }
        Cause::new(Reason::Assertion, message).hint(hint)
    }
}

fn socket(access: &Access<'_>, url: &LdapUrl) -> Result<Address, Invalid> {
    match (&url.location.host, url.location.port) {
        (Some(path), None) if path.starts_with('/') => Ok(Address::Unix(path.into())),
        _ => Err(access
            .invalid(Field::Url, "bad `url`: it does not name a socket")
            .hint(
                "the path stands where the host would, encoded: `ldapi://%2Frun%2Fslapd%2Fldapi`",
            )),
    }
}

/// What `auth`, the credentials and the way to the server come to.
fn login(
    access: &Access<'_>,
    url: &LdapUrl,
    auth: Option<Auth>,
    address: &Address,
    encryption: &Encryption,
) -> Result<Login, Invalid> {
    // What the secret brings is judged when it is there.
    if access.resolved().is_partial {
        return Ok(Login::Anonymous);
    }
    let is_there = |secret: &Secret| !secret.is_empty();
    let name = access.username(url.username.as_deref()).filter(is_there);
    let password = access
        .password(url.location.password.as_deref())
        .filter(is_there);
    if auth == Some(Auth::External) {
        if name.is_some() || password.is_some() {
            return Err(access
                .invalid(
                    Field::Username,
                    "`auth: external` goes without `username` and `password`",
                )
                .hint("the client certificate, or the unix socket, says who we are"));
        }
        let has_certificate = access.resolved().client_cert.is_some();
        return match (address, encryption) {
            (Address::Unix(_), _) => Ok(Login::External),
            (_, Encryption::None) => Err(access
                .invalid(Field::Properties, "`auth: external` needs TLS")
                .hint("use `ldaps://`, or set `startTLS`")),
            _ if !has_certificate => Err(access
                .invalid(
                    Field::Properties,
                    "`auth: external` needs a client certificate",
                )
                .hint("give `clientCert` and `clientKey`")),
            _ => Ok(Login::External),
        };
    }
    match (name, password) {
        (Some(name), Some(password)) => {
            if name.expose().contains('=') {
                dn::check(name.expose()).map_err(|mistake| {
                    let message = at("the bind DN is none", &mistake);
                    access.invalid(Field::Username, message)
                })?;
            }
            Ok(Login::Simple { name, password })
        }
        (None, None) if auth == Some(Auth::Simple) => Err(access
            .invalid(Field::Properties, "`auth: simple` without credentials")
            .hint("give `username` (the bind DN) and `password`; without `auth` the bind is anonymous")),
        (None, None) => Ok(Login::Anonymous),
        // RFC 4513, 5.1.2: servers take it for an anonymous bind and say "success".
        (Some(_), None) => Err(access
            .invalid(
                Field::Username,
                "a bind DN without a password, which many servers let in without looking",
            )
            .hint("give `password` or a `secretRef`, or leave `username` out for an anonymous bind")),
        (None, Some(_)) => Err(access
            .invalid(Field::Password, "a password without a bind DN")
            .hint("give the DN as `username`; Active Directory takes `user@domain` as well")),
    }
}

fn base(
    access: &Access<'_>,
    property: Option<String>,
    in_url: Option<String>,
) -> Result<String, Invalid> {
    let (field, what, base) = match (property, in_url) {
        (Some(base), _) => (Field::Properties, "`baseDN` is no DN", base),
        (None, Some(base)) => (Field::Url, "bad `url`: the base is no DN", base),
        (None, None) => return Ok(String::new()),
    };
    let base = base.trim().to_owned();
    dn::check(&base).map_err(|mistake| {
        access
            .invalid(field, at(what, &mistake))
            .hint("it looks like `dc=example,dc=com`")
    })?;
    Ok(base)
}

fn filter(
    access: &Access<'_>,
    property: Option<String>,
    in_url: Option<String>,
) -> Result<Filter, Invalid> {
    let (field, what, text) = match (property, in_url) {
        (Some(text), _) => (Field::Properties, "bad `filter`", text),
        (None, Some(text)) => (Field::Url, "bad `url`: its filter", text),
        (None, None) => {
            return Ok(Filter {
                packed: filter::any_entry(),
                is_given: false,
            });
        }
    };
    let packed = filter::parse(&text).map_err(|mistake| {
        access
            .invalid(field, at(what, &mistake))
            .hint("a filter looks like `(&(objectClass=person)(uid=probe))`")
    })?;
    Ok(Filter {
        packed,
        is_given: true,
    })
}

/// Quotes nothing: what the owner wrote may hold a secret.
fn at(what: &str, mistake: &Mistake) -> String {
    format!("{what}: at character {}: {}", mistake.at, mistake.what)
}

/// The conversation with a server: a request, its answer.
struct Server {
    stream: Stream,
    /// Taken from its front in no time, however many small messages wait behind.
    received: BytesMut,
    requests: u8,
}

/// What a search brought.
struct Found {
    entry: Option<Entry>,
    /// The hosts that may know more.
    references: BTreeSet<String>,
    result: LdapResult,
}

impl Server {
    fn new(stream: Stream) -> Self {
        Self {
            stream,
            received: BytesMut::new(),
            requests: 0,
        }
    }

    async fn start_tls(&mut self) -> Result<(), Cause> {
        match self.ask(message::start_tls()).await? {
            Response::Extended(result) if result.code == SUCCESS => {}
            Response::Extended(result) => return Err(refusal(&Asked::StartTls, &result)),
            _ => return Err(unexpected("the request for TLS")),
        }
        // Whoever sits in between would have them taken for words that came through TLS.
        match self.received.is_empty() {
            true => Ok(()),
            false => Err(
                Cause::protocol("more came in plain text after the server agreed to TLS")
                    .hint("somebody in between may be adding words of its own"),
            ),
        }
    }

    async fn bind(&mut self, login: &Login) -> Result<(), Cause> {
        let (request, asked) = match login {
            Login::Anonymous => (message::simple_bind("", ""), Asked::AnonymousBind),
            Login::Simple { name, password } => (
                message::simple_bind(name.expose(), password.expose()),
                Asked::SimpleBind,
            ),
            Login::External => (message::external_bind(), Asked::ExternalBind),
        };
        match self.ask(request).await? {
            Response::Bind(result) if result.code == SUCCESS => Ok(()),
            Response::Bind(result) => Err(refusal(&asked, &result)),
            _ => Err(unexpected("the bind")),
        }
    }

    async fn search(&mut self, search: &Search<'_>) -> Result<Found, Cause> {
        let mut response = self.ask(message::search(search)).await?;
        let (mut entry, mut references) = (None, BTreeSet::new());
        loop {
            match response {
                Response::Entry(found) => entry = entry.or(Some(found)),
                Response::Reference(urls) => {
                    for url in &urls {
                        if references.len() < MOST_PLACES {
                            references.insert(place(url));
                        }
                    }
                }
                Response::SearchDone(result) => {
                    return Ok(Found {
                        entry,
                        references,
                        result,
                    });
                }
                _ => return Err(unexpected("the search")),
            }
            response = self.receive().await?;
        }
    }

    /// Unbinds, also from a server that has said no: it is still there, and its log would have a
    /// lost connection. One that does not speak, or not this, is left alone.
    async fn part(
        mut self,
        attempt: &mut Attempt,
        res: Result<(), Failure>,
    ) -> Result<(), Failure> {
        attempt.settle(res.clone());
        let listens = match &res {
            Ok(()) => true,
            Err(failure) => failure.code.is_some() || failure.reason == Reason::Assertion,
        };
        if listens {
            attempt
                .goodbye(async {
                    let _ = self.send(message::unbind()).await;
                    let _ = self.stream.shutdown().await;
                })
                .await;
        }
        res
    }

    /// Sends a request and reads the first answer to it.
    async fn ask(&mut self, request: Vec<u8>) -> Result<Response, Cause> {
        let sent = self.send(request).await;
        // A server that is about to hang up may say why, and its words are waiting even when writing
        // failed.
        match (self.receive().await, sent) {
            (Ok(response), _) => Ok(response),
            (Err(cause), Ok(())) => Err(cause),
            (Err(cause), Err(_)) if cause.reason != Reason::ConnectReset => Err(cause),
            (Err(_), Err(cause)) => Err(cause),
        }
    }

    async fn send(&mut self, request: Vec<u8>) -> Result<(), Cause> {
        self.requests += 1;
        let bytes = message::message(self.requests, request);
        self.stream.write_all(&bytes).await?;
        Ok(self.stream.flush().await?)
    }

    /// The next answer to the last request. What the server says unasked is passed over, but for
    /// its goodbye.
    async fn receive(&mut self) -> Result<Response, Cause> {
        loop {
            let Message { id, response } = self.message().await?;
            match response {
                Response::Disconnection(result) => return Err(disconnected(&result)),
                Response::Other => {}
                _ if id != u32::from(self.requests) => {
                    return Err(Cause::protocol(
                        "the answer is to a question that was not asked",
                    ));
                }
                response => return Ok(response),
            }
        }
    }

    async fn message(&mut self) -> Result<Message, Cause> {
        loop {
            if let Some(message) = message::take(&mut self.received)? {
                return Ok(message);
            }
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(match self.received.is_empty() {
                    true => {
                        Cause::new(Reason::ConnectReset, "the server hung up without an answer")
                    }
                    false => Cause::protocol("the server hung up in the middle of its answer"),
                });
            }
        }
    }
}

fn unexpected(request: &str) -> Cause {
    Cause::protocol(format!(
        "the answer to {request} is an answer to something else"
    ))
}

/// Who answers, as far as its root DSE says.
fn name_of(root: &Entry) -> Option<String> {
    let first = |name: &str| root.values(name).first();
    if let Some(vendor) = first("vendorName") {
        return Some(match first("vendorVersion") {
            Some(version) => format!("{vendor} {version}"),
            None => vendor.clone(),
        });
    }
    if let Some(level) = first("domainControllerFunctionality") {
        return Some(match windows(level) {
            Some(windows) => format!("Active Directory ({windows})"),
            None => "Active Directory".to_owned(),
        });
    }
    let is_openldap = root
        .values("objectClass")
        .iter()
        .any(|class| class == "OpenLDAProotDSE");
    is_openldap.then(|| "OpenLDAP".to_owned())
}

/// The functional level of a domain controller.
fn windows(level: &str) -> Option<&'static str> {
    Some(match level {
        "0" => "Windows 2000",
        "2" => "Windows Server 2003",
        "3" => "Windows Server 2008",
        "4" => "Windows Server 2008 R2",
        "5" => "Windows Server 2012",
        "6" => "Windows Server 2012 R2",
        "7" => "Windows Server 2016",
        "10" => "Windows Server 2025",
        _ => return None,
    })
}

fn shown(base: &str) -> String {
    match base {
        "" => "the root DSE".to_owned(),
        base => format!("`{base}`"),
    }
}

/// Where a referral leads, and nothing of it that may be secret.
fn place(url: &str) -> String {
    match Url::parse(url) {
        Ok(url) if url.has_host() => {
            let host = url.host_str().unwrap_or_default();
            let port = url.port().map(|port| format!(":{port}"));
            format!("{}://{host}{}", url.scheme(), port.unwrap_or_default())
        }
        _ => "a place that it does not name".to_owned(),
    }
}

/// How many of the places that a server refers to are told: it may name a million.
const MOST_PLACES: usize = 5;

fn places(hosts: &BTreeSet<String>) -> String {
    let hosts: Vec<_> = hosts.iter().map(|host| format!("`{host}`")).collect();
    format!("{}, where conncheck does not go", hosts.join(", "))
}

/// What a result is an answer to.
enum Asked<'a> {
    StartTls,
    AnonymousBind,
    SimpleBind,
    ExternalBind,
    /// With its base.
    Search(&'a str),
    /// The same after an anonymous bind.
    SearchByStranger(&'a str),
}

const SUCCESS: u32 = 0;
const SIZE_LIMIT_EXCEEDED: u32 = 4;
const REFERRAL: u32 = 10;
const NO_SUCH_OBJECT: u32 = 32;

/// What a result other than success means, once it is known what was asked.
fn refusal(asked: &Asked<'_>, result: &LdapResult) -> Cause {
    let name = name_of_result(result.code);
    let what = match asked {
        Asked::StartTls => format!("the server refused StartTLS: {name}"),
        Asked::AnonymousBind => format!("the server refused the anonymous bind: {name}"),
        Asked::SimpleBind => format!("the server refused the bind: {name}"),
        Asked::ExternalBind => format!("the server refused the bind by SASL EXTERNAL: {name}"),
        Asked::Search(base) | Asked::SearchByStranger(base) => {
            let base = shown(base);
            match (result.code, result.matched_dn.as_str()) {
                (NO_SUCH_OBJECT, "") => format!("{base} does not exist ({name})"),
                (NO_SUCH_OBJECT, nearest) => format!(
                    "{base} does not exist; the nearest entry above it is `{nearest}` ({name})"
                ),
                (REFERRAL, _) => format!("{base} is not on this server ({name})"),
                _ => format!("the search at {base} failed: {name}"),
            }
        }
    };
    let mut message = match result.text.trim() {
        "" => what,
        text => format!("{what}: {text}"),
    };
    if !result.referrals.is_empty() {
        let hosts = result
            .referrals
            .iter()
            .take(MOST_PLACES)
            .map(|url| place(url))
            .collect();
        message = format!("{message}; it refers to {}", places(&hosts));
    }
    let (reason, hint) = classify(asked, result.code, &result.text);
    let cause = Cause::new(reason, message).code(result.code.to_string());
    match hint.as_ref() {
        "" => cause,
        _ => cause.hint(hint),
    }
}

/// The server hangs up of its own accord, with its reason.
fn disconnected(result: &LdapResult) -> Cause {
    let name = name_of_result(result.code);
    let message = match result.text.trim() {
        "" => format!("the server ended the connection: {name}"),
        text => format!("the server ended the connection: {name}: {text}"),
    };
    let (reason, hint) = match result.code {
        2 => (
            Reason::Protocol,
            "it did not understand us: is it an LDAPv3 server?",
        ),
        8 => (
            Reason::Auth,
            "it no longer trusts this connection: use `ldaps://`, or set `startTLS`",
        ),
        _ => (
            Reason::Unavailable,
            "it shuts down, or has no room for this connection",
        ),
    };
    Cause::new(reason, message)
        .code(result.code.to_string())
        .hint(hint)
}

const USE_TLS: &str = "the server wants TLS first: use `ldaps://`, or set `startTLS`";
const LIMITED: &str = "a limit that the server sets for this user: ask for less by `filter` and `scope`, or raise it there";
const ELSEWHERE: &str = "ask the server that holds it; conncheck follows no referral";

/// What a result code means, by what was asked and the server's own words.
fn classify(asked: &Asked<'_>, code: u32, text: &str) -> (Reason, Cow<'static, str>) {
    let is_bind = matches!(
        asked,
        Asked::AnonymousBind | Asked::SimpleBind | Asked::ExternalBind
    );
    let says = |words: &[&str]| {
        let text = text.to_ascii_lowercase();
        words.iter().any(|word| text.contains(word))
    };
    let (reason, hint) = match (asked, code) {
        (_, 51) => (Reason::Unavailable, "it is overloaded"),
        (Asked::StartTls, _) => (
            Reason::TlsOther,
            "no certificate is set up there, or it cannot be read; or the port for TLS is another (`ldaps://`)",
        ),
        // Active Directory, to whoever is anonymous.
        (_, 1) if says(&["successful bind must be completed"]) => (
            Reason::Auth,
            "the server answers nothing to strangers: give `username` and `password`",
        ),
        (_, 1) => (
            Reason::Unavailable,
            "the server failed by itself: its log says more",
        ),
        (_, 3 | 4 | 11) => (Reason::Unavailable, LIMITED),
        (Asked::ExternalBind, 7) => (
            Reason::Auth,
            "the server has not asked for, or not accepted, our client certificate (`TLSVerifyClient` in OpenLDAP)",
        ),
        (_, 7) => (
            Reason::Auth,
            "the server does not let in by name and password",
        ),
        (_, 8) => (
            Reason::Auth,
            "the server wants a stronger login, or TLS first: use `ldaps://`, or set `startTLS`",
        ),
        (_, 10) => (Reason::NotFound, ELSEWHERE),
        (_, 13) => (Reason::Auth, USE_TLS),
        (_, 14) => (
            Reason::Auth,
            "the server wants a login of several steps, which conncheck does not speak",
        ),
        (_, 19) if is_bind => (
            Reason::Auth,
            "too many wrong passwords: the account is locked for a while",
        ),
        (Asked::SearchByStranger(_), 32) => (
            Reason::NotFound,
            "is the base right? or strangers may not see it: give `username` and `password`",
        ),
        (Asked::Search(_), 32) => (
            Reason::NotFound,
            "is the base right? a server may also say so of what this user may not see",
        ),
        (_, 34) if is_bind => (
            Reason::Auth,
            "this server wants a DN as user name: `uid=probe,ou=people,dc=example,dc=com`",
        ),
        (_, 33 | 34 | 36) => (Reason::NotFound, "is the base right?"),
        (Asked::AnonymousBind, 48) => (
            Reason::Auth,
            "the server does not let strangers in: give `username` and `password`",
        ),
        (_, 48) => (
            Reason::Auth,
            "this entry has no password, or may not log in this way",
        ),
        (_, 49) => return (Reason::Auth, invalid_credentials(asked, text)),
        (_, 50) if says(&["restricted to bind"]) => (
            Reason::Auth,
            "the password must be changed before anything else",
        ),
        (Asked::SearchByStranger(_), 50) => (
            Reason::Permission,
            "strangers may not read it: give `username` and `password`",
        ),
        (_, 50) => (
            Reason::Permission,
            "logged in, and may not read it: the access rules of the server say so",
        ),
        (_, 52) => (
            Reason::Unavailable,
            "it shuts down, or what it stands before is down",
        ),
        (_, 53) if says(&["inactivated", "locked", "disabled", "expired"]) => {
            (Reason::Auth, "an administrator must unlock the account")
        }
        (_, 53) if says(&["ssf", "confidential", "encrypt", "tls", "ssl"]) => {
            (Reason::Auth, USE_TLS)
        }
        (_, 53)
            if says(&[
                "busy",
                "limit",
                "maintenance",
                "not ready",
                "overload",
                "shutting down",
                "shutdown",
                "starting",
                "too many",
            ]) =>
        {
            (Reason::Unavailable, "")
        }
        (_, 53) => (
            Reason::Permission,
            "the server will not do this, for this user or for anybody",
        ),
        (_, 54 | 80) => (
            Reason::Unavailable,
            "the server failed by itself: its log says more",
        ),
        // Some say so of a user that they do not know.
        (_, 32 | 123) => (Reason::Auth, ""),
        _ => (Reason::Protocol, ""),
    };
    (reason, hint.into())
}

/// Active Directory says in its text what the code does not tell apart.
fn invalid_credentials(asked: &Asked<'_>, text: &str) -> Cow<'static, str> {
    match windows_error(text) {
        Some("525") => "there is no such user".into(),
        Some("52e") => "wrong password, or no such user".into(),
        Some("52f") => "the account is restricted: an empty password, or a policy against this login".into(),
        Some("530") => "this user may not log in at this hour".into(),
        Some("531") => "this user may not log in from this machine".into(),
        Some("532") => "the password has expired".into(),
        Some("533") => "the account is disabled".into(),
        Some("568") => "the user is in too many groups to log in".into(),
        Some("701") => "the account has expired".into(),
        Some("773") => "the password must be changed before the first login".into(),
        Some("775") => "the account is locked: too many wrong passwords".into(),
        _ => match asked {
            Asked::ExternalBind => {
                "the server knows nobody by our client certificate (`authz-regexp` in OpenLDAP)".into()
            }
            _ => "wrong bind DN or password, which the server does not tell apart; or the account is locked, or has expired".into(),
        },
    }
}

/// `52e` of `80090308: LdapErr: DSID-0C090447, comment: AcceptSecurityContext error, data 52e, v4563`.
fn windows_error(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("AcceptSecurityContext")?;
    let (_, rest) = rest.split_once("data ")?;
    rest.split([',', ' ']).next()
}

fn name_of_result(code: u32) -> Cow<'static, str> {
    let name = match code {
        1 => "operationsError",
        2 => "protocolError",
        3 => "timeLimitExceeded",
        4 => "sizeLimitExceeded",
        7 => "authMethodNotSupported",
        8 => "strongerAuthRequired",
        10 => "referral",
        11 => "adminLimitExceeded",
        12 => "unavailableCriticalExtension",
        13 => "confidentialityRequired",
        14 => "saslBindInProgress",
        16 => "noSuchAttribute",
        17 => "undefinedAttributeType",
        18 => "inappropriateMatching",
        19 => "constraintViolation",
        21 => "invalidAttributeSyntax",
        32 => "noSuchObject",
        33 => "aliasProblem",
        34 => "invalidDNSyntax",
        36 => "aliasDereferencingProblem",
        48 => "inappropriateAuthentication",
        49 => "invalidCredentials",
        50 => "insufficientAccessRights",
        51 => "busy",
        52 => "unavailable",
        53 => "unwillingToPerform",
        54 => "loopDetect",
        80 => "other",
        123 => "authorizationDenied",
        code => return format!("result {code}").into(),
    };
    name.into()
}

#[cfg(test)]
mod tests {
    use super::message::sent::{entry, reference, result, sent};
    use super::*;
    use crate::testing::{
        LONG, Peer, Script, build, build_partly, check_logins, failure, percent_encoded, run,
    };

    const BIND: u32 = 1;
    const DONE: u32 = 5;
    const EXTENDED: u32 = 24;

    /// What is wrong with a definition, and the way out.
    fn mistake(spec: &str) -> (String, String) {
        let Err(mut invalid) = build("ldap", spec, &[]) else {
            panic!("{spec}: nothing is wrong");
        };
        let invalid = invalid.remove(0);
        (invalid.message, invalid.hint.unwrap_or_default())
    }

    #[test]
    fn any_login_is_what_was_given() {
        let url = "ldap://$(username):$(password)@h/dc=example?cn";
        // What has a `=` must be a DN.
        check_logins("ldap", url, percent_encoded, ("=", ""), |probe: &Ldap| {
            let Login::Simple { name, password } = &probe.login else {
                panic!("no login by password");
            };
            (name.expose().to_owned(), password.expose().to_owned())
        });
    }

    #[test]
    fn urls_are_read() {
        for (url, endpoint) in [
            ("ldap://h", "ldap://h:389"),
            ("ldap://h/", "ldap://h:389"),
            ("LDAPS://h/dc=a", "ldaps://h:636"),
            ("ldap://h:1389/dc=a,dc=b", "ldap://h:1389"),
            ("ldap://[::1]/dc=a?cn,mail?sub?(cn=*)", "ldap://[::1]:389"),
            ("ldap://h/dc=a??one", "ldap://h:389"),
            ("ldap://h/ou=a%20b%3Fc,dc=d???(cn=%28x)?!StartTLS", ""),
            (
                "ldap://h/ou=a%20b%3Fc,dc=d???(cn=%5c28x)?!StartTLS",
                "ldap://h:389",
            ),
            ("ldap://h/????1.3.6.1.4.1.1466.20037", "ldap://h:389"),
            ("ldapi://%2Frun%2Fslapd%2Fldapi", "ldapi:///run/slapd/ldapi"),
            ("ldapi://%2Frun%2Fldapi/dc=a?*,+,1.1", "ldapi:///run/ldapi"),
        ] {
            match build("ldap", &format!("url: {url}"), &[]) {
                Ok(probe) => assert_eq!(probe.endpoint(), endpoint, "{url}"),
                Err(invalid) => assert_eq!(endpoint, "", "{url}: {invalid:?}"),
            }
        }
    }

    #[test]
    fn what_the_url_cannot_mean_is_refused_by_name() {
        for (url, message) in [
            ("h:389", "bad `url`: it has no scheme"),
            ("ftp://h", "bad `url`: this scheme is not LDAP"),
            ("ldap:///dc=a", "bad `url`: it has no host"),
            ("ldapi://h/dc=a", "bad `url`: it does not name a socket"),
            (
                "ldap://h/example.com",
                "bad `url`: the base is no DN: at character 1: expected `attribute=value`",
            ),
            ("'ldap://h/dc=a#x'", "bad `url`: a `#` has no meaning in it"),
            (
                "ldap://h/dc=a?a b",
                "bad `url`: an attribute behind the first `?` is not the name of one",
            ),
            (
                "ldap://h/dc=a??everything",
                "bad `url`: the scope, behind the second `?`, is not known",
            ),
            (
                "ldap://h/dc=a???(cn=a",
                "bad `url`: its filter: at character 6: expected `)`",
            ),
            (
                "ldap://h/dc=a????x-tls",
                "bad `url`: an extension is not known",
            ),
            (
                "ldap://h/dc=a????1.2.3",
                "bad `url`: unknown option `1.2.3`",
            ),
            (
                "ldap://h/dc=a????starttsl=1",
                "bad `url`: unknown option `starttsl`",
            ),
            (
                "ldap://h/dc=a????bindname=cn=a,dc=b",
                "bad `url`: unknown option `dc`",
            ),
            (
                "ldap://h/dc=a????bindname=a,x-bindpw=b,c",
                "bad `url`: a password is not taken from its extensions",
            ),
            (
                "ldap://h/dc=a?????x",
                "bad `url`: there are more than four `?` in it",
            ),
            (
                "ldap://h/%ff",
                "bad `url`: a percent-encoded part of it is not UTF-8 text",
            ),
            (
                "ldap://h/dc=a???%ff",
                "bad `url`: a percent-encoded part of it is not UTF-8 text",
            ),
        ] {
            assert_eq!(mistake(&format!("url: {url}")).0, message, "{url}");
        }
    }

    #[test]
    fn credentials_that_would_prove_nothing_are_refused() {
        let unauthenticated =
            "a bind DN without a password, which many servers let in without looking";
        let exclusive = "`auth: external` goes without `username` and `password`";
        for (lines, message) in [
            ("username: cn=a", unauthenticated),
            ("username: cn=a\npassword: ''", unauthenticated),
            ("username: cn=a\npassword: ' '", unauthenticated),
            ("url: ldap://cn=a@h", unauthenticated),
            ("url: ldap://h/????bindname=cn=a", unauthenticated),
            ("password: x", "a password without a bind DN"),
            ("username: ''\npassword: x", "a password without a bind DN"),
            (
                "username: cn=a,b\npassword: x",
                "the bind DN is none: at character 6: expected `attribute=value`",
            ),
            (
                "properties: {auth: simple}",
                "`auth: simple` without credentials",
            ),
            ("properties: {auth: external}", "`auth: external` needs TLS"),
            (
                "url: ldaps://h\nproperties: {auth: external}",
                "`auth: external` needs a client certificate",
            ),
            (
                "properties: {auth: external, startTLS: true}",
                "`auth: external` needs a client certificate",
            ),
            ("username: a\nproperties: {auth: external}", exclusive),
            ("password: a\nproperties: {auth: external}", exclusive),
            (
                "url: ldaps://h\nproperties: {startTLS: true}",
                "`startTLS` is for `ldap://` only",
            ),
            (
                "url: ldapi://%2Fx/????StartTLS",
                "`startTLS` is for `ldap://` only",
            ),
            (
                "properties: {baseDN: example.com}",
                "`baseDN` is no DN: at character 1: expected `attribute=value`",
            ),
            (
                "properties: {filter: '(a=b'}",
                "bad `filter`: at character 5: expected `)`",
            ),
        ] {
            let spec = match lines.contains("url:") {
                true => lines.to_owned(),
                false => format!("url: ldap://h\n{lines}"),
            };
            assert_eq!(mistake(&spec).0, message, "{lines}");
        }
    }

    #[test]
    fn names_of_every_kind_may_log_in() {
        for name in [
            "cn=a,dc=b",
            "probe@example.com",
            "EXAMPLE\\probe",
            "probe",
            "uid=a+cn=b,dc=c",
        ] {
            let spec = format!("url: ldap://h\nusername: {name}\npassword: x");
            assert!(build("ldap", &spec, &[]).is_ok(), "{name}");
        }
        let missing = "url: ldap://h\nusername: cn=a\nsecretRef: {name: login, key: password}";
        assert!(build_partly("ldap", missing).is_ok());
        assert!(build("ldap", missing, &[("password", "x")]).is_ok());
    }

    fn all(messages: &[Vec<u8>]) -> Vec<u8> {
        messages.concat()
    }

    fn ok(id: u8, tag: u32) -> Vec<u8> {
        sent(id, tag, &result(0, "", ""))
    }

    /// What comes of a server that has said all this before it was asked.
    async fn verdict(path_and_more: &str, said: Vec<u8>) -> String {
        let peer = Peer::new([Script::First(said)]).await;
        let spec = format!("url: ldap://127.0.0.1:{}/{path_and_more}", peer.port);
        let outcome = run(&build("ldap", &spec, &[]).unwrap(), LONG).await;
        peer.is_left(1).await;
        match outcome.result {
            Ok(()) => format!("up: {}", outcome.server.unwrap_or_default()),
            Err(failure) => {
                let phase = failure.phase.unwrap();
                format!("{} in {phase}: {}", failure.reason, failure.message)
            }
        }
    }

    #[tokio::test]
    async fn a_server_introduces_itself_by_its_root_dse() {
        for (attributes, name) in [
            (
                &[
                    ("vendorName", "389 Project"),
                    ("vendorVersion", "389-Directory/2.3.1"),
                ][..],
                "389 Project 389-Directory/2.3.1",
            ),
            (&[("VENDORNAME", "Example")], "Example"),
            (
                &[("domainControllerFunctionality", "7")],
                "Active Directory (Windows Server 2016)",
            ),
            (
                &[("domainControllerFunctionality", "99")],
                "Active Directory",
            ),
            (&[("objectClass", "OpenLDAProotDSE")], "OpenLDAP"),
            (&[("objectClass", "top")], ""),
        ] {
            let said = all(&[ok(1, BIND), entry(2, attributes), ok(2, DONE)]);
            assert_eq!(verdict("", said).await, format!("up: {name}"));
        }
        // An entry that is not the root DSE may say what it likes.
        let said = all(&[
            ok(1, BIND),
            entry(2, &[("vendorName", "Example")]),
            ok(2, DONE),
        ]);
        assert_eq!(verdict("dc=a", said).await, "up: ");
    }

    #[tokio::test]
    async fn one_entry_is_enough_and_none_is_not() {
        let more = sent(2, DONE, &result(4, "", ""));
        let found = entry(2, &[]);
        let elsewhere = reference(2, "ldap://probe:s3cret@other.test:390/dc=b??sub");
        for (messages, is) in [
            (vec![found.clone(), more.clone()], "up: "),
            (
                vec![elsewhere.clone(), found.clone(), found, ok(2, DONE)],
                "up: ",
            ),
            (
                vec![more],
                "unavailable in request: the search at `dc=a` failed: sizeLimitExceeded",
            ),
            (
                vec![ok(2, DONE)],
                "assertion in request: expected an entry, and the search at `dc=a` found none",
            ),
            (
                vec![elsewhere, reference(2, "nonsense"), ok(2, DONE)],
                "assertion in request: expected an entry, and the search at `dc=a` found none; it refers to \
                 `a place that it does not name`, `ldap://other.test:390`, where conncheck does not go",
            ),
        ] {
            let said = all(&[ok(1, BIND), all(&messages)]);
            assert_eq!(verdict("dc=a??sub", said).await, is);
        }
    }

    #[tokio::test]
    async fn a_goodbye_that_nobody_asked_for_is_told() {
        let notice = super::message::sent::notice;
        let by_and_by = all(&[ok(1, BIND), notice(52, "shutting down")]);
        for (said, is) in [
            (
                notice(52, ""),
                "unavailable in auth: the server ended the connection: unavailable",
            ),
            (
                by_and_by,
                "unavailable in request: the server ended the connection: unavailable: shutting down",
            ),
            (
                notice(2, "decoding error"),
                "protocol in auth: the server ended the connection: protocolError: decoding error",
            ),
            (
                notice(8, ""),
                "auth in auth: the server ended the connection: strongerAuthRequired",
            ),
        ] {
            assert_eq!(verdict("", said).await, is);
        }
    }

    #[tokio::test]
    async fn answers_that_do_not_fit_are_a_protocol_error() {
        let other = "protocol in auth: the answer to the bind is an answer to something else";
        for (said, is) in [
            (ok(1, DONE), other),
            (entry(1, &[]), other),
            (
                ok(2, BIND),
                "protocol in auth: the answer is to a question that was not asked",
            ),
            (
                all(&[ok(1, BIND), ok(2, BIND)]),
                "protocol in request: the answer to the search is an answer to something else",
            ),
            (
                b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
                "protocol in auth: the answer is not LDAP: it does not begin as every message does",
            ),
        ] {
            assert_eq!(verdict("", said).await, is);
        }
        // What nobody asked for and means nothing is passed over.
        let unsolicited = sent(0, EXTENDED, &result(0, "", ""));
        let said = all(&[
            unsolicited.clone(),
            ok(1, BIND),
            unsolicited,
            entry(2, &[]),
            ok(2, DONE),
        ]);
        assert_eq!(verdict("", said).await, "up: ");
    }

    #[tokio::test]
    async fn words_behind_the_agreement_to_tls_are_refused() {
        let said = all(&[ok(1, EXTENDED), ok(1, BIND)]);
        assert_eq!(
            verdict("????StartTLS", said).await,
            "protocol in tls: more came in plain text after the server agreed to TLS"
        );
        for (code, is) in [
            (
                2,
                "tls_other in tls: the server refused StartTLS: protocolError",
            ),
            (
                52,
                "tls_other in tls: the server refused StartTLS: unavailable",
            ),
            (51, "unavailable in tls: the server refused StartTLS: busy"),
        ] {
            let said = sent(1, EXTENDED, &result(code, "", ""));
            assert_eq!(verdict("????StartTLS", said).await, is);
        }
    }

    #[tokio::test]
    async fn the_server_s_words_are_told_without_our_secrets() {
        let said = sent(1, BIND, &result(49, "", "no user cn=a with s3cret-s3cret"));
        let peer = Peer::new([Script::First(said)]).await;
        let spec = format!(
            "url: ldap://127.0.0.1:{}\nusername: cn=a\npassword: s3cret-s3cret",
            peer.port
        );
        let failure = failure(&build("ldap", &spec, &[]).unwrap(), LONG).await;
        assert_eq!(failure.code.as_deref(), Some("49"));
        assert_eq!(
            failure.message,
            "the server refused the bind: invalidCredentials: no user cn=a with [redacted]"
        );
    }

    #[test]
    fn each_result_has_its_reason() {
        const SEARCH: Asked<'static> = Asked::Search("dc=a");
        const STRANGER: Asked<'static> = Asked::SearchByStranger("dc=a");
        for (asked, code, text, reason, hint) in [
            (
                Asked::SimpleBind,
                49,
                "",
                Reason::Auth,
                "wrong bind DN or password",
            ),
            (
                Asked::ExternalBind,
                49,
                "",
                Reason::Auth,
                "the server knows nobody by our client certificate",
            ),
            (
                Asked::ExternalBind,
                7,
                "",
                Reason::Auth,
                "the server has not asked for",
            ),
            (
                Asked::SimpleBind,
                7,
                "",
                Reason::Auth,
                "the server does not let in by name",
            ),
            (
                Asked::SimpleBind,
                8,
                "",
                Reason::Auth,
                "the server wants a stronger login",
            ),
            (
                Asked::SimpleBind,
                13,
                "",
                Reason::Auth,
                "the server wants TLS first",
            ),
            (
                Asked::ExternalBind,
                14,
                "",
                Reason::Auth,
                "the server wants a login of several steps",
            ),
            (
                Asked::SimpleBind,
                19,
                "Exceed password retry limit",
                Reason::Auth,
                "too many wrong passwords",
            ),
            (Asked::SimpleBind, 32, "", Reason::Auth, ""),
            (
                Asked::SimpleBind,
                34,
                "invalid DN",
                Reason::Auth,
                "this server wants a DN as user name",
            ),
            (
                Asked::AnonymousBind,
                48,
                "",
                Reason::Auth,
                "the server does not let strangers in",
            ),
            (
                Asked::SimpleBind,
                48,
                "",
                Reason::Auth,
                "this entry has no password",
            ),
            (
                Asked::SimpleBind,
                10,
                "",
                Reason::NotFound,
                "ask the server that holds it",
            ),
            (
                SEARCH,
                10,
                "",
                Reason::NotFound,
                "ask the server that holds it",
            ),
            (SEARCH, 13, "", Reason::Auth, "the server wants TLS first"),
            (
                SEARCH,
                32,
                "",
                Reason::NotFound,
                "is the base right? a server",
            ),
            (
                STRANGER,
                32,
                "",
                Reason::NotFound,
                "is the base right? or strangers",
            ),
            (
                STRANGER,
                50,
                "",
                Reason::Permission,
                "strangers may not read it",
            ),
            (SEARCH, 34, "", Reason::NotFound, "is the base right?"),
            (
                SEARCH,
                50,
                "",
                Reason::Permission,
                "logged in, and may not read it",
            ),
            (
                SEARCH,
                50,
                "Operations are restricted to bind/unbind",
                Reason::Auth,
                "the password must be changed",
            ),
            (SEARCH, 3, "", Reason::Unavailable, "a limit"),
            (SEARCH, 11, "", Reason::Unavailable, "a limit"),
            (SEARCH, 51, "", Reason::Unavailable, "it is overloaded"),
            (SEARCH, 52, "", Reason::Unavailable, "it shuts down"),
            (
                SEARCH,
                80,
                "",
                Reason::Unavailable,
                "the server failed by itself",
            ),
            (
                SEARCH,
                1,
                "",
                Reason::Unavailable,
                "the server failed by itself",
            ),
            (
                SEARCH,
                1,
                "000004DC: LdapErr: DSID-0C090A5C, comment: In order to perform this operation a successful bind must be completed on the connection., data 0, v4563",
                Reason::Auth,
                "the server answers nothing to strangers",
            ),
            (
                SEARCH,
                53,
                "operation restricted",
                Reason::Permission,
                "the server will not do this",
            ),
            (SEARCH, 53, "server shutting down", Reason::Unavailable, ""),
            (
                Asked::SimpleBind,
                53,
                "Account inactivated. Contact system administrator.",
                Reason::Auth,
                "an administrator",
            ),
            (
                Asked::SimpleBind,
                53,
                "Minimum SSF not met.",
                Reason::Auth,
                "the server wants TLS first",
            ),
            (
                Asked::SimpleBind,
                2,
                "historical protocol version requested",
                Reason::Protocol,
                "",
            ),
            (SEARCH, 12, "", Reason::Protocol, ""),
            (
                Asked::StartTls,
                53,
                "",
                Reason::TlsOther,
                "no certificate is set up there",
            ),
            (
                Asked::StartTls,
                51,
                "",
                Reason::Unavailable,
                "it is overloaded",
            ),
        ] {
            let result = LdapResult {
                code,
                text: text.to_owned(),
                ..LdapResult::default()
            };
            let cause = refusal(&asked, &result);
            assert_eq!(cause.reason, reason, "{code} {text}");
            assert_eq!(cause.code, Some(code.to_string()));
            let told = cause.hint.unwrap_or_default();
            assert!(told.starts_with(hint), "{code} {text}: {told}");
            assert_eq!(told.is_empty(), hint.is_empty(), "{code} {text}: {told}");
            assert!(cause.message.ends_with(text), "{}", cause.message);
        }
    }

    #[test]
    fn active_directory_says_more_in_its_text() {
        for (data, hint) in [
            ("525", "there is no such user"),
            ("52e", "wrong password, or no such user"),
            ("530", "this user may not log in at this hour"),
            ("531", "this user may not log in from this machine"),
            ("532", "the password has expired"),
            ("533", "the account is disabled"),
            ("701", "the account has expired"),
            ("773", "the password must be changed before the first login"),
            ("775", "the account is locked: too many wrong passwords"),
        ] {
            let text = format!(
                "80090308: LdapErr: DSID-0C090447, comment: AcceptSecurityContext error, data {data}, v4563"
            );
            assert_eq!(invalid_credentials(&Asked::SimpleBind, &text), hint);
        }
    }

    #[test]
    fn what_is_not_there_is_told_with_what_is() {
        let result = LdapResult {
            code: 32,
            matched_dn: "dc=a".to_owned(),
            ..LdapResult::default()
        };
        assert_eq!(
            refusal(&Asked::Search("ou=b,dc=a"), &result).message,
            "`ou=b,dc=a` does not exist; the nearest entry above it is `dc=a` (noSuchObject)"
        );
        let result = LdapResult {
            code: 10,
            referrals: vec![
                "ldap://u:p@b.test/dc=c".to_owned(),
                "ldaps://[::1]:6360".to_owned(),
                "ldap:///dc=d".to_owned(),
            ],
            ..LdapResult::default()
        };
        assert_eq!(
            refusal(&Asked::Search("dc=c"), &result).message,
            "`dc=c` is not on this server (referral); it refers to `a place that it does not name`, \
             `ldap://b.test`, `ldaps://[::1]:6360`, where conncheck does not go"
        );
    }
}
