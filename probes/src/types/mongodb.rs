//! `mongodb`: select a server as a driver would, log in if credentials are given, `ping`.
//!
//! Proves that the deployment that the URL describes has a server of the wanted kind, that it lets us
//! in, and that it answers. Says nothing about its data: a database comes into being with its first
//! document, so that `ping` on one that nobody has written to answers as well. `ping` answers without
//! a login, too: where no credentials are given, *up* only says that the server answers.
//!
//! The URL is that of MongoDB's drivers, with every option of their specifications: honoured, without
//! meaning for one attempt, or refused by name. As in a driver, the members of a replica set are
//! reached by the names that they have in its configuration, whatever the URL calls them; with
//! `directConnection=true` the one host is taken as it is. Unlike a driver's, the search asks each
//! host once, one after the other, each with its share of the time: what is wrong is told at once.
//!
//! The `bson` crate packs and reads documents; messages, topology and logins are here. The `mongodb`
//! crate waits for its whole server selection on every hard error, reads certificates from files only
//! and keeps none of the chain of a handshake that failed.

mod scram;
mod topology;
mod uri;
mod wire;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bson::raw::{RawDocumentBuf, cstr};
use bson::spec::BinarySubtype;
use bson::{Binary, rawdoc};
use conncheck_config::{Field, Secret};
use schemars::JsonSchema;
use serde::Deserialize;

use self::scram::{Conversation, Hash};
use self::topology::{Member, ReadPreference, Role, Search};
use self::uri::{Mechanism, Mode, Seeds, TxtOptions, Uri, is_of_domain};
use self::wire::{Reply, Wire};
use crate::address::Mistake;
use crate::attempt::{Address, Attempt};
use crate::cause::Cause;
use crate::outcome::{Failure, Phase, Reason};
use crate::probe::{Access, Invalid, ProbeType};
use crate::several::{named, together};
use crate::tls::{Tls, TlsPart, Verify};

/// `spec.properties` of a MongoDB connection.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Settings {
    /// The database to ping, in place of the one in the URL.
    database: Option<String>,
    /// Which members of a replica set will do; wins over the URL.
    #[schemars(with = "Option<Mode>")]
    read_preference: Option<String>,
    /// Accept any certificate.
    insecure_skip_verify: Option<bool>,
    /// The name that the certificate must be for, in place of the host's.
    server_name: Option<String>,
}

pub(crate) struct MongoDb {
    seeds: Seeds,
    tls: Option<Tls>,
    login: Option<Login>,
    /// What the URL says; a TXT record is asked where it does not.
    auth_source: Option<String>,
    replica_set: Option<String>,
    load_balanced: Option<bool>,
    direct: bool,
    wanted: ReadPreference,
    limits: Limits,
    app_name: String,
    /// The database of the path, which is the one of the user too where nothing else is said.
    path: Option<String>,
    database: String,
    /// What the password came to at the last login.
    keys: Mutex<Option<scram::Keys>>,
    /// The user, where it goes over the wire in another form.
    secrets: Vec<Secret>,
}

/// How to prove who we are.
enum Login {
    Scram {
        login: scram::Login,
        /// `None`: what the server has for the user.
        hash: Option<Hash>,
    },
    /// By the client certificate.
    X509 { user: Option<Secret> },
    /// The password itself, for a server that asks a directory.
    Plain(scram::Login),
}

impl Login {
    fn user(&self) -> Option<&Secret> {
        match self {
            Self::Scram { login, .. } | Self::Plain(login) => Some(&login.user),
            Self::X509 { user } => user.as_ref(),
        }
    }
}

/// What the owner lets a step take, where less than the attempt's time.
struct Limits {
    connect: Option<Duration>,
    selection: Option<Duration>,
    socket: Option<Duration>,
    all: Option<Duration>,
}

impl ProbeType for MongoDb {
    type Settings = Settings;

    const FURTHER_REASONS: &'static [Reason] =
        &[Reason::Permission, Reason::NotFound, Reason::Assertion];

    fn new(access: Access<'_>, settings: Settings) -> Result<Self, Invalid> {
        let in_url = |mistake| misread(&access, Field::Url, "bad `url`: ", mistake);
        let in_properties = |name| {
            move |mistake| misread(&access, Field::Properties, &format!("`{name}`: "), mistake)
        };
        let uri = Uri::read(access.url()?.expose()).map_err(in_url)?;
        if let Seeds::Hosts(hosts) = &uri.seeds {
            for host in hosts {
                access.may_reach(host)?;
            }
        }
        let tls = tls(&access, &settings, &uri.options.tls)?;
        let login = login(&access, &uri, tls.as_ref())?;
        let options = uri.options;
        let mode = match &settings.read_preference {
            Some(mode) => Some(Mode::read(mode).map_err(in_properties("readPreference"))?),
            None => options.read_mode,
        };
        let mode = mode.unwrap_or_default();
        let is_narrowed =
            options.max_staleness.is_some() || options.tags.iter().any(|set| !set.is_empty());
        if mode == Mode::Primary && is_narrowed {
            return Err(access
                .invalid(Field::Url, "bad `url`: `readPreferenceTags` and `maxStalenessSeconds` say nothing of the primary")
                .hint("there is one primary: leave them out, or choose another `readPreference`"));
        }
        let database = match &settings.database {
            Some(name) => Some(uri::database(name).map_err(in_properties("database"))?),
            None => uri.database.clone(),
        };
        let secrets = match &login {
            Some(Login::Scram { login, .. }) => {
                let as_sent = scram::escaped(login.user.expose());
                (as_sent != login.user).then_some(as_sent)
            }
            _ => None,
        };
        Ok(Self {
            seeds: uri.seeds,
            tls,
            login,
            auth_source: options.auth_source,
            replica_set: options.replica_set,
            load_balanced: options.load_balanced,
            direct: options.direct,
            wanted: ReadPreference {
                mode,
                tags: options.tags,
                max_staleness: options.max_staleness,
                heartbeat: options.heartbeat.unwrap_or(uri::HEARTBEAT),
            },
            limits: Limits {
                connect: options.connect_timeout,
                selection: options.selection_timeout,
                socket: options.socket_timeout,
                all: options.timeout,
            },
            app_name: options.app_name.unwrap_or_else(|| "conncheck".to_owned()),
            path: uri.database,
            database: database.unwrap_or_else(|| "admin".to_owned()),
            keys: Mutex::new(None),
            secrets: secrets.into_iter().collect(),
        })
    }

    fn endpoint(&self) -> String {
        match &self.seeds {
            Seeds::Srv { host, .. } => format!("mongodb+srv://{host}"),
            Seeds::Hosts(hosts) => {
                let hosts: Vec<_> = hosts.iter().map(Address::to_string).collect();
                format!("mongodb://{}", hosts.join(","))
            }
        }
    }

    fn secrets(&self) -> &[Secret] {
        &self.secrets
    }

    async fn probe(&self, attempt: &mut Attempt) -> Result<(), Failure> {
        let clock = Clock::new(attempt);
        attempt.limit(least([self.limits.selection, self.limits.all]));
        let deployment = self.look_up(attempt).await?;
        let mut server = self.select(attempt, &deployment, &clock).await?;
        attempt.server(server.member.to_string());
        let left = clock.left(attempt, self.limits.all);
        attempt.limit(least([self.limits.connect, left]));
        self.log_in(attempt, &deployment, &mut server).await?;
        let left = clock.left(attempt, self.limits.all);
        attempt.limit(least([self.limits.socket, left]));
        attempt
            .phase(Phase::Request, ping(&mut server.wire, &self.database))
            .await
            .map_err(|failure| self.told_of(&server.member.address, failure))?;
        attempt.goodbye(server.wire.leave()).await;
        Ok(())
    }
}

fn misread(access: &Access<'_>, field: Field, prefix: &str, mistake: Mistake) -> Invalid {
    Invalid {
        hint: mistake.hint,
        ..access.invalid(field, format!("{prefix}{}", mistake.message))
    }
}

/// What `tls` and everything around it come to. Whoever gives a certificate means TLS.
fn tls(
    access: &Access<'_>,
    settings: &Settings,
    in_url: &uri::TlsOptions,
) -> Result<Option<Tls>, Invalid> {
    let mut options =
        access.tls_options(settings.insecure_skip_verify, settings.server_name.clone());
    let is_meant = options.ca_cert.is_some() || options.client_cert.is_some();
    match (in_url.enabled, in_url.adverb) {
        (None, Some(option)) if !is_meant => {
            return Err(access
                .invalid(Field::Url, format!("bad `url`: {option} without `tls`"))
                .hint("some drivers speak TLS then, and some do not: add `tls=true`"));
        }
        (enabled, _) if !enabled.unwrap_or(is_meant) => return Ok(None),
        _ => {}
    }
    let file = |path: &Option<String>| {
        path.as_ref()
            .map(|path| access.file(Field::Url, path))
            .transpose()
    };
    options.verify = match options.verify {
        Verify::Nothing => Verify::Nothing,
        // A `caCert` is there to be verified against.
        _ if in_url.any_certificate && options.ca_cert.is_none() => Verify::Nothing,
        _ if in_url.any_certificate || in_url.any_name => Verify::CaOnly,
        verify => verify,
    };
    if options.ca_cert.is_none() {
        options.ca_cert = file(&in_url.ca_file)?;
    }
    if options.client_cert.is_none() {
        options.client_cert = file(&in_url.key_file)?;
    }
    let tls = access.tls_with_files(&options, |part| match part {
        TlsPart::CaCert => Some("tlsCAFile"),
        TlsPart::ClientCert | TlsPart::ClientKey => Some("tlsCertificateKeyFile"),
        TlsPart::ServerName | TlsPart::System => None,
    })?;
    Ok(Some(tls))
}

/// Who we are, by `authMechanism` and by what was given.
fn login(access: &Access<'_>, uri: &Uri, tls: Option<&Tls>) -> Result<Option<Login>, Invalid> {
    // What a secret brings is judged when it is there.
    if access.resolved().is_partial {
        return Ok(None);
    }
    let invalid = |field, message: &str, hint: &str| Err(access.invalid(field, message).hint(hint));
    let user = access.username(uri.user.as_deref());
    let password = access.password(uri.password.as_ref().map(Secret::expose));
    let external_only =
        |source: &Option<String>| source.as_deref().is_none_or(|source| source == "$external");
    if user
        .as_ref()
        .is_some_and(|user| user.expose().contains('\0'))
    {
        return Err(access.invalid(Field::Username, "there is a NUL character in the user"));
    }
    let mechanism = uri.options.mechanism;
    if mechanism == Some(Mechanism::X509) {
        if !tls.is_some_and(Tls::has_client_certificate) {
            return invalid(
                Field::Url,
                "bad `url`: `authMechanism=MONGODB-X509` needs TLS and a client certificate",
                "give `clientCert` and `clientKey`, or `tlsCertificateKeyFile` in the URL",
            );
        }
        if password.is_some() {
            return invalid(
                Field::Password,
                "a password, and `authMechanism=MONGODB-X509`, which takes none",
                "leave one of them out",
            );
        }
        if !external_only(&uri.options.auth_source) {
            return invalid(
                Field::Url,
                "bad `url`: the users of certificates are in `$external`, and `authSource` says otherwise",
                "leave `authSource` out",
            );
        }
        return Ok(Some(Login::X509 { user }));
    }
    let (user, password) = match (user, password) {
        (Some(user), Some(password)) => (user, password),
        (None, None) if mechanism.is_none() => return Ok(None),
        (None, None) => {
            return invalid(
                Field::Url,
                "bad `url`: `authMechanism` without a user",
                "give `username` and `password`, or a `secretRef`",
            );
        }
        (Some(_), None) => {
            return invalid(
                Field::Username,
                "a user without a password",
                "give `password` or a `secretRef`; a login by certificate is `authMechanism=MONGODB-X509`",
            );
        }
        (None, Some(_)) => {
            return invalid(
                Field::Password,
                "a password without a user",
                "write `mongodb://user@host/`, or give `username`",
            );
        }
    };
    let login = scram::Login::new(user, password);
    if mechanism == Some(Mechanism::Plain) {
        if tls.is_none() {
            return invalid(
                Field::Url,
                "bad `url`: `authMechanism=PLAIN` is refused without TLS: it sends the password as it is",
                "use `tls=true` with it",
            );
        }
        return Ok(Some(Login::Plain(login)));
    }
    let hash = match mechanism {
        Some(Mechanism::ScramSha1) => Some(Hash::Sha1),
        Some(Mechanism::ScramSha256) => Some(Hash::Sha256),
        _ => None,
    };
    if hash == Some(Hash::Sha256) && !login.is_prepared() {
        return invalid(
            Field::Password,
            "the password has a character that SCRAM-SHA-256 does not allow",
            "a control character, perhaps, or a line break in the middle of the secret",
        );
    }
    Ok(Some(Login::Scram { login, hash }))
}

/// What is left of limits of the owner's own that run from the beginning.
struct Clock {
    at_start: Duration,
}

impl Clock {
    fn new(attempt: &Attempt) -> Self {
        Self {
            at_start: attempt.time_left(),
        }
    }

    fn left(&self, attempt: &Attempt, limit: Option<Duration>) -> Option<Duration> {
        let used = self.at_start.saturating_sub(attempt.time_left());
        limit.map(|limit| limit.saturating_sub(in_milliseconds(used)))
    }
}

fn least<const N: usize>(limits: [Option<Duration>; N]) -> Option<Duration> {
    limits.into_iter().flatten().min().map(in_milliseconds)
}

/// As exact as a message wants it.
fn in_milliseconds(exact: Duration) -> Duration {
    Duration::from_millis(exact.as_millis().try_into().unwrap_or(u64::MAX))
}

/// What the URL and the name servers say of where to begin.
struct Deployment {
    hosts: Vec<Address>,
    replica_set: Option<String>,
    load_balanced: bool,
    auth_source: Option<String>,
}

const NO_ROOM: &str = "a server that has no room for more connections does so, and says nothing (`net.maxIncomingConnections`)";
const NO_ROOM_OR_TLS: &str = "a server that wants TLS does so (`tls=true`), and one that has no room for more connections (`net.maxIncomingConnections`); neither says a word";

impl MongoDb {
    /// Asks the name servers, where they are to know the hosts.
    async fn look_up(&self, attempt: &mut Attempt) -> Result<Deployment, Failure> {
        let (host, service, max_hosts) = match &self.seeds {
            Seeds::Hosts(hosts) => {
                return Ok(Deployment {
                    hosts: hosts.clone(),
                    replica_set: self.replica_set.clone(),
                    load_balanced: self.load_balanced == Some(true),
                    auth_source: self.auth_source.clone(),
                });
            }
            Seeds::Srv {
                host,
                service,
                max_hosts,
            } => (host, service, *max_hosts),
        };
        let mut services = attempt.services(&format!("_{service}._tcp.{host}")).await?;
        let wrong = |message: String| Cause::new(Reason::Dns, message).in_phase(Phase::Resolve);
        if let Some((stranger, _)) = services
            .iter()
            .find(|(found, _)| !is_of_domain(host, found))
        {
            let failure = wrong(format!(
                "an SRV record of `{host}` leads to `{stranger}`, which is not of the same domain"
            ));
            return Err(Failure {
                hint: Some(
                    "no driver follows it: whoever owns the record could take the logins".into(),
                ),
                ..failure
            });
        }
        let texts = attempt.texts(host).await?;
        let said = match &texts[..] {
            [] => TxtOptions::default(),
            [text] => TxtOptions::read(text).map_err(|mistake| {
                wrong(format!("the TXT record of `{host}`: {}", mistake.message))
            })?,
            _ => {
                return Err(wrong(format!(
                    "`{host}` has several TXT records, and one is allowed"
                )));
            }
        };
        let replica_set = self.replica_set.clone().or(said.replica_set);
        let load_balanced = self.load_balanced.or(said.load_balanced) == Some(true);
        if load_balanced && (services.len() > 1 || replica_set.is_some() || max_hosts > 0) {
            return Err(wrong(format!(
                "`loadBalanced` is given for `{host}`, and goes with one host alone, without `replicaSet` and `srvMaxHosts`"
            )));
        }
        if max_hosts > 0 && replica_set.is_some() {
            return Err(wrong(format!(
                "`srvMaxHosts` is given, and the TXT record of `{host}` names a `replicaSet`: they exclude each other"
            )));
        }
        if max_hosts > 0 {
            services.truncate(max_hosts);
        }
        Ok(Deployment {
            hosts: services
                .into_iter()
                .map(|(host, port)| Address::Tcp { host, port })
                .collect(),
            replica_set,
            load_balanced,
            auth_source: self.auth_source.clone().or(said.auth_source),
        })
    }

    /// Asks one host after the other who it is, until one is what is wanted. What one member says of
    /// the others is followed.
    async fn select(
        &self,
        attempt: &mut Attempt,
        deployment: &Deployment,
        clock: &Clock,
    ) -> Result<Server, Failure> {
        let mut search = Search::new(&deployment.hosts);
        while let Some(address) = search.next() {
            let hosts = search.waiting.len() as u32 + 1;
            let share = (hosts > 1).then(|| attempt.time_left() / hosts);
            let limit = least([share, self.limit_of_a_host(attempt, clock)]);
            if limit == Some(Duration::ZERO) && !search.failed.is_empty() {
                break;
            }
            attempt.limit(limit);
            let met = self.meet(attempt, deployment, &address).await;
            attempt.limit(None);
            let server = match met {
                Ok(server) => server,
                Err(failure) => {
                    let failure = self.told_of(&address, failure);
                    attempt.failed_before(&failure.message);
                    search.failed.push((address, failure));
                    continue;
                }
            };
            let verdict = self.judge(deployment, &server.member);
            // Whoever is of another deployment knows nobody that we look for.
            if !matches!(&verdict, Verdict::Refused(cause) if cause.reason == Reason::Assertion) {
                search.follow(&server.member);
            }
            let cause = match verdict {
                Verdict::Taken => return Ok(server),
                Verdict::Refused(cause) => cause,
                Verdict::Kept(cause) => {
                    search.kept.push(server.member);
                    cause
                }
            };
            let failure = self.told_of(&address, cause.in_phase(self.greeting_phase()));
            attempt.failed_before(&failure.message);
            search.failed.push((address, failure));
        }
        // Nobody was right at once; is one of them second best?
        match self.wanted.second_best(&search.kept) {
            Some(member) => {
                attempt.limit(self.limit_of_a_host(attempt, clock));
                let met = self.meet(attempt, deployment, &member.address).await;
                attempt.limit(None);
                met.map_err(|failure| self.told_of(&member.address, failure))
            }
            None => Err(self.nobody(&deployment.hosts, search)),
        }
    }

    fn limit_of_a_host(&self, attempt: &Attempt, clock: &Clock) -> Option<Duration> {
        least([
            self.limits.connect,
            clock.left(attempt, self.limits.selection),
            clock.left(attempt, self.limits.all),
        ])
    }

    /// Connects, and asks who it is.
    async fn meet(
        &self,
        attempt: &mut Attempt,
        deployment: &Deployment,
        address: &Address,
    ) -> Result<Server, Failure> {
        let mut stream = attempt.dial(address).await?;
        if let Some(tls) = &self.tls {
            (stream, _) = attempt.tls(stream, tls, address.host()).await?;
        }
        let mut wire = Wire::new(stream);
        let what = "the server did not answer `hello`";
        let member = attempt
            .phase_of(
                self.greeting_phase(),
                what,
                self.greet(&mut wire, deployment, address),
            )
            .await
            .map_err(|failure| self.hung_up_on(failure))?;
        Ok(Server { wire, member })
    }

    /// What is known of servers that hang up on the first words.
    fn hung_up_on(&self, failure: Failure) -> Failure {
        if failure.reason != Reason::ConnectReset || failure.hint.is_some() {
            return failure;
        }
        let hint = match self.tls {
            Some(_) => NO_ROOM,
            None => NO_ROOM_OR_TLS,
        };
        Failure {
            hint: Some(hint.into()),
            ..failure
        }
    }

    async fn greet(
        &self,
        wire: &mut Wire,
        deployment: &Deployment,
        address: &Address,
    ) -> Result<Member, Cause> {
        let reply = match wire.ask(&self.hello("hello", deployment)).await {
            // Servers before 4.4 may know it by its old name only.
            Err(cause) if cause.code.as_deref() == Some("59") => {
                wire.ask(&self.hello("isMaster", deployment)).await?
            }
            res => res?,
        };
        Member::read(address, &reply)
    }

    fn hello(&self, command: &str, deployment: &Deployment) -> RawDocumentBuf {
        let mut hello = RawDocumentBuf::new();
        let key = match command {
            "isMaster" => cstr!("isMaster"),
            _ => cstr!("hello"),
        };
        hello.append(key, 1);
        hello.append(cstr!("helloOk"), true);
        if deployment.load_balanced {
            hello.append(cstr!("loadBalanced"), true);
        }
        // Which mechanisms there are for the user.
        if let Some(Login::Scram { login, hash: None }) = &self.login {
            let source = self.source(deployment);
            hello.append(
                cstr!("saslSupportedMechs"),
                format!("{source}.{}", login.user.expose()),
            );
        }
        hello.append(
            cstr!("client"),
            rawdoc! {
                "application": { "name": self.app_name.as_str() },
                "driver": { "name": "conncheck", "version": env!("CARGO_PKG_VERSION") },
                "os": { "type": "Linux" },
            },
        );
        hello.append(cstr!("$db"), "admin");
        hello
    }

    /// `hello` is the beginning of a login, where there is one.
    fn greeting_phase(&self) -> Phase {
        match self.login {
            Some(_) => Phase::Auth,
            None => Phase::Request,
        }
    }

    /// Whether this is the server to talk to.
    fn judge(&self, deployment: &Deployment, member: &Member) -> Verdict {
        let refused = |reason, message: String| Verdict::Refused(Cause::new(reason, message));
        match (&deployment.replica_set, &member.set) {
            (Some(wanted), Some(set)) if wanted != set => {
                return Verdict::Refused(
                    Cause::new(
                        Reason::Assertion,
                        format!("it is of replica set `{set}`, and `replicaSet` wants `{wanted}`"),
                    )
                    .hint("is it the right server? if so, correct `replicaSet`"),
                );
            }
            (Some(wanted), None) if member.role != Role::Uninitiated => {
                let role = member.role.as_str();
                return Verdict::Refused(
                    Cause::new(
                        Reason::Assertion,
                        format!("it is {role}, and `replicaSet` wants a member of `{wanted}`"),
                    )
                    .hint("leave `replicaSet` out, or start the server with `--replSet`"),
                );
            }
            _ => {}
        }
        if deployment.load_balanced {
            return match member.is_behind_load_balancer {
                true => Verdict::Taken,
                false => Verdict::Refused(
                    Cause::new(
                        Reason::Assertion,
                        "it is not behind a load balancer, and `loadBalanced=true` wants one",
                    )
                    .hint("leave `loadBalanced` out: its answer to `hello` has no `serviceId`"),
                ),
            };
        }
        if self.direct {
            return Verdict::Taken;
        }
        if let (Some(set), false) = (&member.set, member.goes_by(&member.address)) {
            return refused(
                Reason::Unavailable,
                format!(
                    "a member of `{set}`, whose members are called {}",
                    member.names()
                ),
            );
        }
        let set = member.set.as_deref().unwrap_or_default();
        let mode = self.wanted.mode.as_str();
        match member.role {
            Role::Router => Verdict::Taken,
            Role::Standalone if deployment.hosts.len() == 1 => Verdict::Taken,
            Role::Standalone => Verdict::Refused(
                Cause::new(
                    Reason::Assertion,
                    "it is a standalone server, and the URL has several hosts",
                )
                .hint("several hosts are members of one replica set, or routers of one cluster"),
            ),
            Role::Primary | Role::Secondary if self.wanted.takes(member) => Verdict::Taken,
            Role::Primary => Verdict::Kept(Cause::new(
                Reason::Unavailable,
                format!("the primary of `{set}`, and `readPreference` wants `{mode}`"),
            )),
            Role::Secondary => {
                let primary = match &member.primary {
                    Some(primary) => format!("knows `{primary}` as the primary"),
                    None => "knows no primary".to_owned(),
                };
                Verdict::Kept(
                    Cause::new(
                        Reason::Unavailable,
                        format!("a secondary of `{set}` that {primary}, and `readPreference` wants `{mode}`"),
                    )
                    .hint("`rs.status()` shows the members and why there is no primary; a majority of them must see each other"),
                )
            }
            Role::Arbiter => refused(
                Reason::Unavailable,
                format!("an arbiter of `{set}`, which has no data"),
            ),
            Role::Uninitiated => Verdict::Refused(
                Cause::new(
                    Reason::Unavailable,
                    "it is to be a member of a replica set and has no configuration yet",
                )
                .hint("`rs.initiate()`, or it was removed from its set"),
            ),
            Role::Other => refused(
                Reason::Unavailable,
                format!(
                    "a member of `{set}` that is neither primary nor secondary: it starts up, recovers, or is hidden"
                ),
            ),
        }
    }

    /// One failure for everybody that was asked.
    fn nobody(&self, seeds: &[Address], search: Search) -> Failure {
        let primary = |address: &Address| search.primaries.contains(address);
        let was_told = |address: &Address| !seeds.contains(address);
        let is_alone = search.failed.len() == 1;
        let ranked = search
            .failed
            .iter()
            .map(|(address, failure)| {
                let out_of_reach = matches!(failure.phase, Some(Phase::Resolve | Phase::Connect))
                    || failure.reason == Reason::Timeout;
                let rank = match failure.reason {
                    Reason::Unavailable => 2,
                    _ if !out_of_reach => 0,
                    _ if primary(address) || was_told(address) => 1,
                    _ => 3,
                };
                let mut failure = match is_alone {
                    true => failure.clone(),
                    false => named(address, failure.clone()),
                };
                if out_of_reach && was_told(address) {
                    failure.hint = Some(
                        "members are reached by the names in the replica set's configuration (`rs.conf()`), which must lead there from here too; `directConnection=true` asks the host of the URL alone"
                            .into(),
                    );
                }
                (rank, failure)
            })
            .collect();
        together(ranked)
    }

    /// A failure, told of its host where the URL does not say which that is.
    fn told_of(&self, address: &Address, failure: Failure) -> Failure {
        match &self.seeds {
            Seeds::Hosts(hosts) if *hosts == [address.clone()] => failure,
            _ => named(address, failure),
        }
    }

    /// The database that the user belongs to.
    fn source(&self, deployment: &Deployment) -> String {
        let default = match &self.login {
            Some(Login::X509 { .. }) => return "$external".to_owned(),
            Some(Login::Plain(_)) => "$external",
            _ => "admin",
        };
        (deployment.auth_source.clone())
            .or_else(|| self.path.clone())
            .unwrap_or_else(|| default.to_owned())
    }

    async fn log_in(
        &self,
        attempt: &mut Attempt,
        deployment: &Deployment,
        server: &mut Server,
    ) -> Result<(), Failure> {
        let Some(login) = &self.login else {
            return Ok(());
        };
        let source = self.source(deployment);
        let Server { wire, member } = server;
        let res = attempt
            .phase(Phase::Auth, async {
                match login {
                    Login::Scram { login, hash } => {
                        let hash = hash.unwrap_or_else(|| member.best_hash());
                        self.scram(wire, login, hash, &source).await
                    }
                    Login::X509 { user } => x509(wire, user.as_ref()).await,
                    Login::Plain(login) => plain(wire, login, &source).await,
                }
            })
            .await;
        res.map_err(|failure| {
            // A user of the URL is taken out of messages, and so would be a database of that name.
            let names_user = login.user().is_some_and(|user| user.expose() == source);
            let failure = match failure.reason {
                Reason::Auth if !names_user => Failure {
                    message: format!("{} (as a user of `{source}`)", failure.message),
                    ..failure
                },
                _ => failure,
            };
            self.told_of(&member.address, failure)
        })
    }

    async fn scram(
        &self,
        wire: &mut Wire,
        login: &scram::Login,
        hash: Hash,
        source: &str,
    ) -> Result<(), Cause> {
        let mut conversation = Conversation::new(hash, login.user.expose())?;
        let first = conversation.first();
        let reply = wire
            .ask(&rawdoc! {
                "saslStart": 1,
                "mechanism": hash.mechanism(),
                "payload": binary(first.as_bytes()),
                "autoAuthorize": 1,
                "options": { "skipEmptyExchange": true },
                "$db": source,
            })
            .await?;
        let known = lock(&self.keys).clone();
        let server_first = reply.bytes("payload").unwrap_or_default();
        let (answer, keys) = conversation.answer(login, server_first, known)?;
        *lock(&self.keys) = Some(keys);
        let reply = sasl_continue(wire, &reply, answer.as_bytes(), source).await?;
        conversation.finish(reply.bytes("payload").unwrap_or_default())?;
        match reply.is("done") {
            true => Ok(()),
            // Servers before 4.4 want a last empty word.
            false => match sasl_continue(wire, &reply, b"", source).await?.is("done") {
                true => Ok(()),
                false => Err(Cause::protocol("the login does not come to an end")),
            },
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn binary(bytes: &[u8]) -> Binary {
    Binary {
        subtype: BinarySubtype::Generic,
        bytes: bytes.to_vec(),
    }
}

async fn sasl_continue(
    wire: &mut Wire,
    before: &Reply,
    payload: &[u8],
    source: &str,
) -> Result<Reply, Cause> {
    let conversation = before
        .number("conversationId")
        .and_then(|id| i32::try_from(id).ok())
        .ok_or_else(|| Cause::protocol("the server's answer to the login has no number"))?;
    wire.ask(&rawdoc! {
        "saslContinue": 1,
        "conversationId": conversation,
        "payload": binary(payload),
        "$db": source,
    })
    .await
}

/// The certificate has been shown in the handshake; the server knows whose it is.
async fn x509(wire: &mut Wire, user: Option<&Secret>) -> Result<(), Cause> {
    let mut command = rawdoc! { "authenticate": 1, "mechanism": "MONGODB-X509" };
    if let Some(user) = user {
        command.append(cstr!("user"), user.expose());
    }
    command.append(cstr!("$db"), "$external");
    match wire.ask(&command).await {
        Ok(_) => Ok(()),
        Err(cause) if cause.reason == Reason::Auth => Err(cause.hint(
            "is there a user in `$external` whose name is the subject of the client certificate, and does the server trust its authority?",
        )),
        Err(cause) => Err(cause),
    }
}

async fn plain(wire: &mut Wire, login: &scram::Login, source: &str) -> Result<(), Cause> {
    let payload = format!("\0{}\0{}", login.user.expose(), login.password().expose());
    let reply = wire
        .ask(&rawdoc! {
            "saslStart": 1,
            "mechanism": "PLAIN",
            "payload": binary(payload.as_bytes()),
            "autoAuthorize": 1,
            "$db": source,
        })
        .await?;
    match reply.is("done") {
        true => Ok(()),
        false => Err(Cause::protocol("the login does not come to an end")),
    }
}

async fn ping(wire: &mut Wire, database: &str) -> Result<(), Cause> {
    let command = rawdoc! { "ping": 1, "$db": database };
    wire.ask(&command).await.map(|_| ())
}

/// A server that was asked who it is.
struct Server {
    wire: Wire,
    member: Member,
}

enum Verdict {
    Taken,
    /// Not what is wanted, but it may be second best.
    Kept(Cause),
    Refused(Cause),
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use bson::Document;
    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
    use tokio::net::{TcpListener, UnixListener};
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::testing::{
        Authority, LONG, build, build_partly, check, check_logins, percent_encoded, quoted, run,
        saying,
    };

    fn message(spec: &str) -> String {
        let invalid = build("mongodb", spec, &[])
            .err()
            .unwrap_or_else(|| panic!("{spec}"));
        let invalid = &invalid[0];
        format!(
            "{} {}",
            invalid.message,
            invalid.hint.as_deref().unwrap_or_default()
        )
    }

    fn url(rest: &str) -> String {
        format!("url: {}", quoted(&format!("mongodb://{rest}")))
    }

    #[test]
    fn any_login_is_what_was_given() {
        let url = "mongodb://$(username):$(password)@h/db";
        check_logins(
            "mongodb",
            url,
            percent_encoded,
            ("", ""),
            |probe: &MongoDb| {
                let Some(Login::Scram { login, .. }) = &probe.login else {
                    panic!("no login by password");
                };
                (
                    login.user.expose().to_owned(),
                    login.password().expose().to_owned(),
                )
            },
        );
    }

    #[test]
    fn the_endpoint_has_hosts_and_nothing_else() {
        for (url, endpoint) in [
            ("mongodb://u:p@a,b:2/app?w=1", "mongodb://a:27017,b:2"),
            (
                "mongodb+srv://u:p@c.example.com/app",
                "mongodb+srv://c.example.com",
            ),
            ("mongodb://%2Ftmp%2Fm.sock/", "mongodb:///tmp/m.sock"),
        ] {
            let probe = build("mongo", &format!("url: {}", quoted(url)), &[]).unwrap();
            assert_eq!(probe.endpoint(), endpoint);
        }
    }

    #[test]
    fn half_a_login_is_a_mistake() {
        for (spec, says) in [
            (url("u@h"), "without a password"),
            (format!("{}\npassword: p", url("h")), "without a user"),
            (url("h/?authMechanism=SCRAM-SHA-256"), "without a user"),
            (url("u:p@h/?authMechanism=PLAIN"), "without TLS"),
            (url("h/?authMechanism=MONGODB-X509"), "client certificate"),
            (
                url("h/?tls=true&authMechanism=MONGODB-X509"),
                "client certificate",
            ),
            (url("u:%07@h/?authMechanism=SCRAM-SHA-256"), "SCRAM-SHA-256"),
            (url("u%00:p@h"), "NUL"),
            (url("h/?readPreferenceTags=a:b"), "primary"),
            (url("h/?maxStalenessSeconds=90"), "primary"),
            (url("h/?tlsCAFile=/nowhere"), "/nowhere"),
            (url("h/?tlsInsecure=true"), "`tls=true`"),
        ] {
            let said = message(&spec);
            assert!(said.contains(says), "{spec}: {said}");
        }
        for property in ["database: a.b", "readPreference: first"] {
            let spec = format!("{}\nproperties:\n  {property}", url("h"));
            let said = message(&spec);
            assert!(said.contains(property.split(':').next().unwrap()), "{said}");
        }
        build("mongodb", &url("h/?authSource=users"), &[]).unwrap();
        build("mongodb", &url("u:p@h/?tls=true&authMechanism=PLAIN"), &[]).unwrap();
        build_partly(
            "mongodb",
            &format!("{}\nsecretRef:\n  name: login", url("u@h")),
        )
        .unwrap();
    }

    #[test]
    fn certificates_are_logins_of_their_own() {
        let authority = Authority::new("test CA");
        let leaf = authority.leaf("probe", 2100);
        let certificate = format!(
            "clientCert: {}\nclientKey: {}",
            quoted(&leaf.cert),
            quoted(&leaf.key)
        );
        let spec = |rest: &str| format!("{}\n{certificate}", url(rest));
        build("mongodb", &spec("h/?authMechanism=MONGODB-X509"), &[]).unwrap();
        build(
            "mongodb",
            &spec("CN=probe@h/?authMechanism=MONGODB-X509&authSource=$external"),
            &[],
        )
        .unwrap();
        for rest in [
            "u:p@h/?authMechanism=MONGODB-X509",
            "h/?authMechanism=MONGODB-X509&authSource=admin",
            "h/?authMechanism=MONGODB-X509&tls=false",
        ] {
            message(&spec(rest));
        }
    }

    /// Reads a command.
    async fn command(stream: &mut (impl AsyncRead + Unpin)) -> Document {
        let length = stream.read_u32_le().await.unwrap() as usize;
        let mut rest = vec![0; length - 4];
        stream.read_exact(&mut rest).await.unwrap();
        Document::from_reader(&rest[12 + 5..]).unwrap()
    }

    /// Answers one command after the other, and waits for their goodbye. Gives what it heard.
    async fn play(
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        answers: &[RawDocumentBuf],
    ) -> Vec<Document> {
        let mut heard = Vec::new();
        for (request, answer) in answers.iter().enumerate() {
            heard.push(command(&mut stream).await);
            let message = wire::tests::reply_to(request as u32 + 1, answer);
            stream.write_all(&message).await.unwrap();
        }
        let rest = stream.read_to_end(&mut Vec::new()).await;
        assert_eq!(rest.unwrap(), 0, "nothing more is asked");
        heard
    }

    /// Nobody waits for what would not be read.
    #[tokio::test]
    async fn a_reply_that_is_announced_too_long_is_told_at_once() {
        let mut announced = wire::tests::reply_to(1, &hello());
        announced[..4].copy_from_slice(&(256 * 1024 + 1_u32).to_le_bytes());
        let (port, peer) = saying(&[Some(&announced)], false).await;
        let probe = build("mongodb", &url(&format!("u:p@127.0.0.1:{port}")), &[]).unwrap();
        let outcome = run(&probe, LONG).await;
        check(
            &outcome,
            Reason::Protocol,
            Phase::Auth,
            "not in MongoDB's protocol",
        );
        peer.await.unwrap();
    }

    fn hello() -> RawDocumentBuf {
        rawdoc! { "ok": 1.0, "maxWireVersion": 21 }
    }

    #[tokio::test]
    async fn a_plain_login_sends_the_password_inside_tls() {
        let authority = Authority::new("test CA");
        let leaf = authority.leaf("localhost", 2100);
        let acceptor = TlsAcceptor::from(Arc::new(Authority::server(&leaf, None, &[])));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let spec = format!(
            "{}\ncaCert: {}",
            url(&format!(
                "clerk:p%20w@localhost:{port}/?authMechanism=PLAIN"
            )),
            quoted(&authority.pem)
        );
        let probe = build("mongodb", &spec, &[]).unwrap();
        let answer = |done: bool| rawdoc! { "ok": 1.0, "conversationId": 1, "done": done };
        for (answers, reason) in [
            (vec![hello(), answer(true), rawdoc! { "ok": 1.0 }], None),
            (vec![hello(), answer(false)], Some(Reason::Protocol)),
            (
                vec![hello(), rawdoc! { "ok": 0.0, "code": 18, "errmsg": "no" }],
                Some(Reason::Auth),
            ),
        ] {
            let server = async {
                let (stream, _) = listener.accept().await.unwrap();
                play(acceptor.accept(stream).await.unwrap(), &answers).await
            };
            let (heard, outcome) = tokio::join!(server, run(&probe, LONG));
            assert_eq!(outcome.result.err().map(|failure| failure.reason), reason);
            let login = &heard[1];
            assert_eq!(login.get_str("mechanism").unwrap(), "PLAIN");
            assert_eq!(login.get_str("$db").unwrap(), "$external");
            let payload = login.get_binary_generic("payload").unwrap();
            assert_eq!(payload, b"\0clerk\0p w");
        }
    }

    #[tokio::test]
    async fn a_socket_file_is_a_host() {
        let dir = std::env::temp_dir().join(format!("conncheck-mongodb-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("m.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let host = path.to_str().unwrap().replace('/', "%2F");
        let probe = build("mongodb", &url(&format!("{host}/app")), &[]).unwrap();
        let server = async {
            let (stream, _) = listener.accept().await.unwrap();
            play(stream, &[hello(), rawdoc! { "ok": 1.0 }]).await
        };
        let (heard, outcome) = tokio::join!(server, run(&probe, LONG));
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(outcome.is_up(), "{outcome:?}");
        assert_eq!(heard[1].get_str("$db").unwrap(), "app");
        assert_eq!(outcome.phases[0].0, Phase::Connect);
    }
}
