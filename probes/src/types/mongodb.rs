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
mod uri;
mod wire;

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bson::raw::{RawDocumentBuf, cstr};
use bson::spec::BinarySubtype;
use bson::{Binary, rawdoc};
use conncheck_config::{Field, Secret};
use serde::Deserialize;

use self::scram::{Conversation, Hash};
use self::uri::{Mechanism, Mode, Seeds, Tags, TxtOptions, Uri, is_of_domain};
use self::wire::{Reply, Wire};
use crate::address::Mistake;
use crate::attempt::{Address, Attempt};
use crate::cause::Cause;
use crate::outcome::{Failure, Phase, Reason};
use crate::probe::{Access, Invalid, ProbeType};
use crate::several::{named, together};
use crate::tls::{Tls, TlsPart, Verify};

/// `spec.properties` of a MongoDB connection.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Settings {
    /// The database to ping, in place of the one in the URL.
    database: Option<String>,
    /// Which members of a replica set will do; wins over the URL.
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

struct ReadPreference {
    mode: Mode,
    tags: Vec<Tags>,
    max_staleness: Option<Duration>,
    heartbeat: Duration,
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
                heartbeat: options.heartbeat.unwrap_or(Duration::from_secs(10)),
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

/// What `tls` and everything around it come to. As in the drivers, whoever gives an option of TLS
/// means TLS; so does whoever gives a certificate.
fn tls(
    access: &Access<'_>,
    settings: &Settings,
    in_url: &uri::TlsOptions,
) -> Result<Option<Tls>, Invalid> {
    let mut options =
        access.tls_options(settings.insecure_skip_verify, settings.server_name.clone());
    let is_meant = in_url.is_meant || options.ca_cert.is_some() || options.client_cert.is_some();
    if !in_url.enabled.unwrap_or(is_meant) {
        return Ok(None);
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

const NO_ROOM: &str =
    "it does so to whom it has no room for (`net.maxIncomingConnections`), without a word";
const NO_ROOM_OR_TLS: &str = "it does so to whom does not speak TLS where it is wanted (`tls=true`), and to whom it has no room for (`net.maxIncomingConnections`), without a word";

/// How many hosts are asked at most: a replica set has fifty members.
const HOSTS_MAX: usize = 64;

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
            search.follow(&server.member);
            match self.judge(deployment, &server.member) {
                Verdict::Taken => return Ok(server),
                Verdict::Kept(cause) => {
                    search.kept.push(server.member);
                    let failure = cause.in_phase(self.greeting_phase());
                    search
                        .failed
                        .push((address.clone(), named(&address, failure)));
                }
                Verdict::Refused(cause) => {
                    let failure = self.told_of(&address, cause.in_phase(self.greeting_phase()));
                    search.failed.push((address, failure));
                }
            }
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
        match (&self.tls, address) {
            // A socket file is not encrypted.
            (None, _) | (_, Address::Unix(_)) => {}
            (Some(tls), _) => (stream, _) = attempt.tls(stream, tls, address.host()).await?,
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
            let members: Vec<_> = member
                .members
                .iter()
                .map(|name| format!("`{name}`"))
                .collect();
            return refused(
                Reason::Unavailable,
                format!(
                    "a member of `{set}`, whose members are called {}",
                    members.join(", ")
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
                let mut failure = failure.clone();
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

/// Who is still to be asked, and what was seen so far.
struct Search {
    waiting: VecDeque<Address>,
    asked: Vec<Address>,
    kept: Vec<Member>,
    failed: Vec<(Address, Failure)>,
    /// Whom a member has named as the primary.
    primaries: Vec<Address>,
}

impl Search {
    fn new(seeds: &[Address]) -> Self {
        let mut waiting = VecDeque::new();
        for seed in seeds {
            if !waiting.contains(seed) {
                waiting.push_back(seed.clone());
            }
        }
        Self {
            waiting,
            asked: Vec::new(),
            kept: Vec::new(),
            failed: Vec::new(),
            primaries: Vec::new(),
        }
    }

    fn next(&mut self) -> Option<Address> {
        let address = self.waiting.pop_front()?;
        self.asked.push(address.clone());
        Some(address)
    }

    /// The primary that a member names is asked next, the others after everybody else.
    fn follow(&mut self, member: &Member) {
        if let Some(primary) = &member.primary {
            self.primaries.push(primary.clone());
            if !self.asked.contains(primary) {
                self.waiting.retain(|waiting| waiting != primary);
                self.waiting.push_front(primary.clone());
            }
        }
        for address in &member.members {
            let is_known = self.asked.contains(address) || self.waiting.contains(address);
            if !is_known && self.asked.len() + self.waiting.len() < HOSTS_MAX {
                self.waiting.push_back(address.clone());
            }
        }
    }
}

impl ReadPreference {
    /// Whether this member is as good as any can be.
    fn takes(&self, member: &Member) -> bool {
        let has_tags = || {
            self.tags.first().is_none_or(|wanted| member.has(wanted))
                && self.max_staleness.is_none()
        };
        match self.mode {
            Mode::Primary | Mode::PrimaryPreferred => member.role == Role::Primary,
            Mode::Secondary | Mode::SecondaryPreferred => {
                member.role == Role::Secondary && has_tags()
            }
            Mode::Nearest => has_tags(),
        }
    }

    /// The best of those that there are, once everybody was asked.
    fn second_best<'m>(&self, members: &'m [Member]) -> Option<&'m Member> {
        let of = |role: Role| members.iter().filter(move |member| member.role == role);
        let primary = of(Role::Primary).next();
        let newest = members.iter().filter_map(|member| member.last_write).max();
        let is_fresh = |member: &&Member| match (self.max_staleness, newest, member.last_write) {
            (Some(limit), Some(newest), Some(last)) => {
                Duration::from_millis(newest.abs_diff(last)) + self.heartbeat <= limit
            }
            (Some(_), ..) => member.role == Role::Primary,
            (None, ..) => true,
        };
        let tagged = |candidates: Vec<&'m Member>| match &self.tags[..] {
            [] => candidates.first().copied(),
            sets => sets
                .iter()
                .find_map(|set| candidates.iter().copied().find(|member| member.has(set))),
        };
        let secondary = || tagged(of(Role::Secondary).filter(is_fresh).collect());
        match self.mode {
            Mode::Primary => None,
            Mode::PrimaryPreferred | Mode::Secondary => secondary(),
            Mode::SecondaryPreferred => secondary().or(primary),
            Mode::Nearest => tagged(members.iter().filter(is_fresh).collect()),
        }
    }
}

/// What a server is, by its own word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Standalone,
    /// `mongos`: the router of a sharded cluster.
    Router,
    Primary,
    Secondary,
    Arbiter,
    /// A member that starts up, recovers, or is hidden.
    Other,
    /// Started as a member of a set, and not told which.
    Uninitiated,
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Self::Standalone => "a standalone server",
            Self::Router => "a router of a sharded cluster",
            Self::Primary => "a primary",
            Self::Secondary => "a secondary",
            Self::Arbiter => "an arbiter",
            Self::Other | Self::Uninitiated => "a member of a replica set",
        }
    }
}

/// What a server says of itself.
#[derive(Clone, Debug)]
struct Member {
    /// As it was reached.
    address: Address,
    role: Role,
    set: Option<String>,
    /// By the names in the set's configuration, arbiters included.
    members: Vec<Address>,
    primary: Option<Address>,
    tags: Tags,
    /// Milliseconds since 1970.
    last_write: Option<i64>,
    wire_version: i64,
    /// The ways to log in that there are for our user.
    mechanisms: Option<Vec<String>>,
    is_behind_load_balancer: bool,
}

/// Since 3.6 servers speak `OP_MSG`.
const OLDEST_WIRE_VERSION: i64 = 6;

impl Member {
    fn read(address: &Address, reply: &Reply) -> Result<Self, Cause> {
        let is_primary = reply.is("isWritablePrimary") || reply.is("ismaster");
        let set = reply.text("setName").map(str::to_owned);
        let role = match &set {
            _ if reply.text("msg") == Some("isdbgrid") => Role::Router,
            None if reply.is("isreplicaset") => Role::Uninitiated,
            None => Role::Standalone,
            Some(_) if reply.is("hidden") => Role::Other,
            Some(_) if is_primary => Role::Primary,
            Some(_) if reply.is("secondary") => Role::Secondary,
            Some(_) if reply.is("arbiterOnly") => Role::Arbiter,
            Some(_) => Role::Other,
        };
        let wire_version = reply
            .number("maxWireVersion")
            .ok_or_else(|| Cause::protocol("the answer to `hello` is not that of MongoDB"))?;
        if wire_version < OLDEST_WIRE_VERSION {
            return Err(Cause::protocol(format!(
                "the server is too old: it speaks wire version {wire_version}, and {OLDEST_WIRE_VERSION} (MongoDB 3.6) is needed"
            )));
        }
        // What cannot be read cannot be reached either.
        let host = |text: &str| uri::host(text).ok();
        Ok(Self {
            address: address.clone(),
            role,
            set,
            members: ["hosts", "passives", "arbiters"]
                .into_iter()
                .filter_map(|key| reply.texts(key))
                .flatten()
                .filter_map(|text| host(&text))
                .collect(),
            primary: reply.text("primary").and_then(host),
            tags: reply.pairs("tags"),
            last_write: reply
                .document("lastWrite")
                .and_then(|last| last.get_datetime("lastWriteDate").ok())
                .map(|date| date.timestamp_millis()),
            wire_version,
            mechanisms: reply.texts("saslSupportedMechs"),
            is_behind_load_balancer: reply.has("serviceId"),
        })
    }

    /// Whether `address` is what the set calls one of its members.
    fn goes_by(&self, address: &Address) -> bool {
        self.members.is_empty() || self.members.contains(address) || self.role == Role::Other
    }

    fn has(&self, wanted: &Tags) -> bool {
        wanted.iter().all(|tag| self.tags.contains(tag))
    }

    /// A server that does not say knows SHA-1 only.
    fn best_hash(&self) -> Hash {
        match &self.mechanisms {
            Some(known) if known.iter().any(|name| name == Hash::Sha256.mechanism()) => {
                Hash::Sha256
            }
            _ => Hash::Sha1,
        }
    }
}

/// `hello` does not say the version, but which it speaks as.
const VERSIONS: &[(i64, &str)] = &[
    (6, "3.6"),
    (7, "4.0"),
    (8, "4.2"),
    (9, "4.4"),
    (13, "5.0"),
    (17, "6.0"),
    (21, "7.0"),
    (25, "8.0"),
];

impl std::fmt::Display for Member {
    /// `MongoDB 8.0 protocol, primary of rs0`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let version = VERSIONS
            .iter()
            .rev()
            .find(|(wire, _)| *wire <= self.wire_version)
            .map_or("3.6", |(_, version)| version);
        write!(f, "MongoDB {version} protocol")?;
        let set = self.set.as_deref().unwrap_or_default();
        match self.role {
            Role::Standalone | Role::Uninitiated => Ok(()),
            Role::Router => write!(f, ", router"),
            Role::Primary => write!(f, ", primary of {set}"),
            Role::Secondary => write!(f, ", secondary of {set}"),
            Role::Arbiter => write!(f, ", arbiter of {set}"),
            Role::Other => write!(f, ", member of {set}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use bson::Document;
    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::testing::{Authority, LONG, build, build_partly, quoted, run};

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
        for (done, reason) in [
            (
                rawdoc! { "ok": 1.0, "conversationId": 1, "done": true },
                None,
            ),
            (
                rawdoc! { "ok": 1.0, "conversationId": 1, "done": false },
                Some(Reason::Protocol),
            ),
            (
                rawdoc! { "ok": 0.0, "code": 18, "errmsg": "no" },
                Some(Reason::Auth),
            ),
        ] {
            let server = async {
                let (stream, _) = listener.accept().await.unwrap();
                let mut stream = acceptor.accept(stream).await.unwrap();
                let mut heard = Vec::new();
                let hello = rawdoc! { "ok": 1.0, "maxWireVersion": 21 };
                let ok = rawdoc! { "ok": 1.0 };
                let answers = match reason {
                    None => vec![&hello, &done, &ok],
                    Some(_) => vec![&hello, &done],
                };
                for (request, answer) in answers.into_iter().enumerate() {
                    heard.push(command(&mut stream).await);
                    let message = wire::tests::reply_to(request as u32 + 1, answer);
                    stream.write_all(&message).await.unwrap();
                }
                // Their goodbye.
                let _ = stream.read_to_end(&mut Vec::new()).await;
                heard
            };
            let (heard, outcome) = tokio::join!(server, run(&probe, LONG));
            let given = outcome.result.err().map(|failure| failure.reason);
            assert_eq!(given, reason);
            let login = &heard[1];
            assert_eq!(login.get_str("mechanism").unwrap(), "PLAIN");
            assert_eq!(login.get_str("$db").unwrap(), "$external");
            let payload = login.get_binary_generic("payload").unwrap();
            assert_eq!(payload, b"\0clerk\0p w");
        }
    }

    fn member(name: &str, role: Role) -> Member {
        Member {
            address: uri::host(name).unwrap(),
            role,
            set: Some("rs0".to_owned()),
            members: Vec::new(),
            primary: None,
            tags: vec![("dc".to_owned(), name.to_owned())],
            last_write: Some(1_000_000),
            wire_version: 21,
            mechanisms: None,
            is_behind_load_balancer: false,
        }
    }

    fn wanted(mode: Mode) -> ReadPreference {
        ReadPreference {
            mode,
            tags: Vec::new(),
            max_staleness: None,
            heartbeat: Duration::from_secs(10),
        }
    }

    #[test]
    fn the_second_best_is_what_the_mode_allows() {
        let all = [member("a", Role::Primary), member("b", Role::Secondary)];
        for (mode, best, without_primary, without_secondary) in [
            (Mode::Primary, None, None, None),
            (Mode::PrimaryPreferred, Some("b"), Some("b"), None),
            (Mode::Secondary, Some("b"), Some("b"), None),
            (Mode::SecondaryPreferred, Some("b"), Some("b"), Some("a")),
            (Mode::Nearest, Some("a"), Some("b"), Some("a")),
        ] {
            for (members, expected) in [
                (&all[..], best),
                (&all[1..], without_primary),
                (&all[..1], without_secondary),
            ] {
                let found = wanted(mode).second_best(members);
                let found = found.map(|member| member.address.host());
                assert_eq!(found, expected, "{mode:?} of {} members", members.len());
            }
        }
    }

    #[test]
    fn tags_and_staleness_narrow_the_choice() {
        let tag = |value: &str| vec![("dc".to_owned(), value.to_owned())];
        let mut old = member("b", Role::Secondary);
        old.last_write = Some(1_000_000 - 85_000);
        let all = [
            member("a", Role::Primary),
            old,
            member("c", Role::Secondary),
        ];
        let best = |wanted: &ReadPreference| {
            let found = wanted.second_best(&all);
            found.map(|member| member.address.host().to_owned())
        };
        let mut secondary = wanted(Mode::Secondary);
        secondary.tags = vec![tag("nowhere"), tag("c")];
        assert_eq!(best(&secondary).as_deref(), Some("c"));
        assert!(!secondary.takes(&all[2]));
        secondary.tags = vec![tag("c")];
        assert!(secondary.takes(&all[2]) && !secondary.takes(&all[1]));
        secondary.tags = vec![tag("nowhere")];
        assert_eq!(best(&secondary), None);
        secondary.tags = Vec::new();
        secondary.max_staleness = Some(Duration::from_secs(90));
        // 85 s behind, and what may have happened since it was last seen.
        assert_eq!(best(&secondary).as_deref(), Some("c"));
        secondary.max_staleness = Some(Duration::from_secs(95));
        assert_eq!(best(&secondary).as_deref(), Some("b"));
    }

    #[test]
    fn the_primary_is_asked_next_and_nobody_twice() {
        let address = |name: &str| uri::host(name).unwrap();
        let mut search = Search::new(&[address("a"), address("b"), address("a")]);
        assert_eq!(search.next(), Some(address("a")));
        let mut a = member("a", Role::Secondary);
        a.primary = Some(address("c"));
        a.members = ["a", "b", "c", "d"].map(address).to_vec();
        search.follow(&a);
        for name in ["c", "b", "d"] {
            assert_eq!(search.next(), Some(address(name)));
        }
        search.follow(&a);
        assert_eq!(search.next(), None);
    }

    #[test]
    fn a_peer_cannot_send_us_round_for_ever() {
        let mut search = Search::new(&[uri::host("a").unwrap()]);
        let mut a = member("a", Role::Secondary);
        a.members = (0..1000)
            .map(|n| uri::host(&format!("h{n}")).unwrap())
            .collect();
        search.follow(&a);
        assert_eq!(search.waiting.len(), HOSTS_MAX);
    }
}
