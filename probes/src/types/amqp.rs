//! `amqp`: log in to a RabbitMQ, open the vhost, then open and close a channel.
//!
//! Proves that the broker lets us in, that the vhost is there for us, and that channels are opened;
//! where a `queue` is named, that it exists. Nothing is published, nothing is consumed.
//!
//! A broker whose memory or disk runs low goes on greeting, opening and closing, and takes no more
//! messages. RabbitMQ says so (`connection.blocked`) only to a connection that publishes, and it says
//! so as soon as it has read the header of a message, before it looks at anything else. So we announce
//! a message, on a channel of its own, and close the connection in place of sending it: without its
//! body it is none, no permission is asked for and no exchange hears of it. Either the answer is that we
//! are blocked, or that the connection is closed. Only of RabbitMQ is this known, so only RabbitMQ is
//! asked. A connection that it has blocked it does not read any more, so from that one we cannot part in
//! order: it notices by the heartbeat that we are gone, after ten seconds at most.
//!
//! `amq-protocol`, the codec of `lapin`, packs and reads the frames; the conversation itself is here.
//! lapin runs it in a thread of its own, which outlives an attempt that is cut.

mod wire;

use std::time::Duration;

use amq_protocol::auth::{Credentials as Encoder, SASLMechanism};
use amq_protocol::frame::{AMQPContentHeader, AMQPFrame};
use amq_protocol::protocol::{AMQPClass, BasicProperties, basic, channel, connection, queue};
use amq_protocol::types::{AMQPValue, FieldTable, ShortString};
use bytes::{Buf, BytesMut};
use conncheck_config::{Field, Secret};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::coop::consume_budget;

use self::wire::{FRAME_MAX_BYTES, FRAME_MIN_BYTES, PROTOCOL_HEADER, Refusal, Start, Word};
use crate::address::{Location, NO_PASSWORD, unknown_option};
use crate::attempt::{Address, Attempt, Stream};
use crate::cause::{Cause, heard_or_sent};
use crate::outcome::{Failure, Phase, Reason};
use crate::probe::{Access, Invalid, ProbeType};
use crate::tls::{Tls, TlsOptions, TlsPart, Verify};

/// `spec.properties` of an AMQP connection.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Settings {
    /// The virtual host; wins over the one in the URL.
    vhost: Option<String>,
    /// A queue that must exist.
    queue: Option<String>,
    /// Whether a RabbitMQ that blocks publishers, since its memory or disk runs low, is *unavailable*.
    /// `false` for a connection that only consumes.
    resource_alarms: Option<bool>,
    /// Accept any certificate.
    insecure_skip_verify: Option<bool>,
    /// The name that the certificate must be for, in place of the URL's host.
    server_name: Option<String>,
}

pub(crate) struct Amqp {
    address: Address,
    tls: Option<Tls>,
    login: Login,
    vhost: ShortString,
    queue: Option<ShortString>,
    resource_alarms: bool,
    limits: Limits,
    connection_timeout: Option<Duration>,
}

/// How we say who we are.
struct Login {
    /// Those that we are content with, best first.
    mechanisms: Vec<Mechanism>,
    username: Secret,
    password: Secret,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mechanism {
    Plain,
    /// The same in another form.
    Amqplain,
    /// By the certificate that we have shown.
    External,
    Anonymous,
}

/// What we ask for when the connection is tuned; zero is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limits {
    channel_max: u16,
    frame_max: u32,
    heartbeat: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            channel_max: 0,
            frame_max: FRAME_MAX_BYTES,
            heartbeat: HEARTBEAT_SECONDS,
        }
    }
}

/// Nobody waits so long for us; it is for the broker, which misses a connection that it has blocked
/// only by this.
const HEARTBEAT_SECONDS: u16 = 10;

/// What a broker lets everybody in as, from its own machine.
const GUEST: &str = "guest";

/// The one channel that there is at a time.
const CHANNEL: u16 = 1;

impl ProbeType for Amqp {
    type Settings = Settings;

    const FURTHER_REASONS: &'static [Reason] = &[Reason::Permission, Reason::NotFound];

    fn new(access: Access<'_>, settings: Settings) -> Result<Self, Invalid> {
        let location = Location::of(&access, access.url()?)?;
        let with_tls = match location.scheme.as_str() {
            "amqp" => false,
            "amqps" => true,
            _ => {
                return Err(access
                    .invalid(Field::Url, "bad `url`: this scheme is not AMQP")
                    .hint("use `amqp://` or `amqps://` (TLS)"));
            }
        };
        let mut options = UrlOptions::default();
        for (option, value) in &location.query {
            options.read(&access, option, value, with_tls)?;
        }
        let tls = match with_tls {
            true => Some(tls(&access, &settings, &options)?),
            false => {
                access.without_tls("use `amqps://`, or leave it out")?;
                None
            }
        };
        Ok(Self {
            address: location.address(&access, if with_tls { 5671 } else { 5672 })?,
            login: login(&access, &location, options.mechanisms, tls.as_ref())?,
            tls,
            vhost: match settings.vhost {
                Some(vhost) => short(&access, Field::Properties, "vhost", vhost)?,
                None => vhost(&access, &location)?,
            },
            queue: settings
                .queue
                .map(|queue| short(&access, Field::Properties, "queue", queue))
                .transpose()?,
            resource_alarms: settings.resource_alarms.unwrap_or(true),
            limits: options.limits,
            connection_timeout: options.connection_timeout,
        })
    }

    fn endpoint(&self) -> String {
        match &self.tls {
            Some(_) => format!("amqps://{}", self.address),
            None => format!("amqp://{}", self.address),
        }
    }

    async fn probe(&self, attempt: &mut Attempt) -> Result<(), Failure> {
        attempt.limit(self.connection_timeout);
        let mut stream = attempt.dial(&self.address).await?;
        if let Some(tls) = &self.tls {
            (stream, _) = attempt.tls(stream, tls, self.address.host()).await?;
        }
        let mut broker = Broker::new(stream);
        let res = self.converse(attempt, &mut broker).await;
        if let Err(failure) = &res {
            attempt.settle(Err(failure.clone()));
        }
        attempt.goodbye(broker.part()).await;
        res
    }
}

/// The vhost of the URL, as RabbitMQ's URI specification has it: none is `/`, an empty one is the one
/// with the empty name, and a slash in it is encoded.
fn vhost(access: &Access<'_>, location: &Location) -> Result<ShortString, Invalid> {
    match location.raw_path.strip_prefix('/') {
        None => short(access, Field::Url, "vhost", "/".to_owned()),
        Some(rest) if rest.contains('/') => Err(access
            .invalid(Field::Url, "bad `url`: there is more than one segment in its path")
            .hint("the path is the vhost; a slash in its name is written `%2f`: `amqp://host/%2fteam`")),
        Some(_) => short(access, Field::Url, "vhost", location.path[1..].to_owned()),
    }
}

/// A name, which AMQP holds to 255 bytes.
fn short(
    access: &Access<'_>,
    field: Field,
    what: &str,
    name: String,
) -> Result<ShortString, Invalid> {
    ShortString::try_new(name).map_err(|_| {
        access.invalid(
            field,
            format!("`{what}`: a name in AMQP has at most 255 bytes"),
        )
    })
}

/// Who we are, and how we say so. Without any credentials a client certificate speaks for us, or else
/// it is `guest`, as RabbitMQ's URI specification has it.
fn login(
    access: &Access<'_>,
    location: &Location,
    mechanisms: Vec<Mechanism>,
    tls: Option<&Tls>,
) -> Result<Login, Invalid> {
    let username = access.username(location.username.as_deref());
    let password = access.password(location.password.as_deref());
    let has_certificate = tls.is_some_and(Tls::has_client_certificate);
    let mechanisms = match (mechanisms.is_empty(), &username, &password) {
        (false, _, _) => mechanisms,
        (true, None, None) if has_certificate => vec![Mechanism::External],
        (true, _, _) => vec![Mechanism::Plain, Mechanism::Amqplain],
    };
    if mechanisms.contains(&Mechanism::External) && !has_certificate {
        return Err(access
            .invalid(Field::Url, "`auth_mechanism=external` without a client certificate")
            .hint("the certificate says who we are: use `amqps://`, and give `clientCert` and `clientKey`"));
    }
    let by_password = [Mechanism::Plain, Mechanism::Amqplain];
    let needs_password = mechanisms
        .iter()
        .any(|mechanism| by_password.contains(mechanism));
    if needs_password && username.is_some() && password.is_none() {
        return Err(access
            .invalid(Field::Username, "a username without a password")
            .hint(NO_PASSWORD));
    }
    for (field, text) in [(Field::Username, &username), (Field::Password, &password)] {
        if text
            .as_ref()
            .is_some_and(|text| text.expose().contains('\0'))
        {
            return Err(access.invalid(field, "there is a NUL character in it"));
        }
    }
    let or_guest = |text: Option<Secret>| text.unwrap_or_else(|| Secret::new(GUEST));
    Ok(Login {
        mechanisms,
        username: or_guest(username),
        password: or_guest(password),
    })
}

fn tls(access: &Access<'_>, settings: &Settings, url: &UrlOptions) -> Result<Tls, Invalid> {
    let mut options: TlsOptions =
        access.tls_options(settings.insecure_skip_verify, settings.server_name.clone());
    // A `caCert` is always verified against, unless the owner says otherwise in so many words.
    if url.verify_none && options.ca_cert.is_none() {
        options.verify = Verify::Nothing;
    }
    for (path, part) in [
        (&url.cacertfile, &mut options.ca_cert),
        (&url.certfile, &mut options.client_cert),
        (&url.keyfile, &mut options.client_key),
    ] {
        if let (None, Some(path)) = (&*part, path) {
            *part = Some(access.file(Field::Url, path)?);
        }
    }
    if options.server_name.is_none() {
        options.server_name.clone_from(&url.server_name);
        options.without_sni = url.without_sni;
    }
    access.tls_with_files(&options, |part| match part {
        TlsPart::CaCert => Some("cacertfile"),
        TlsPart::ClientCert => Some("certfile"),
        TlsPart::ClientKey => Some("keyfile"),
        TlsPart::ServerName | TlsPart::System => None,
    })
}

/// What may stand behind the `?` of the URL: RabbitMQ's query parameters, and lapin's.
#[derive(Default)]
struct UrlOptions {
    cacertfile: Option<String>,
    certfile: Option<String>,
    keyfile: Option<String>,
    verify_none: bool,
    server_name: Option<String>,
    without_sni: bool,
    mechanisms: Vec<Mechanism>,
    limits: Limits,
    connection_timeout: Option<Duration>,
}

impl UrlOptions {
    const KNOWN: &'static [&'static str] = &[
        "cacertfile",
        "certfile",
        "keyfile",
        "verify",
        "fail_if_no_peer_cert",
        "server_name_indication",
        "auth_mechanism",
        "heartbeat",
        "connection_timeout",
        "channel_max",
        "frame_max",
    ];

    fn read(
        &mut self,
        access: &Access<'_>,
        option: &str,
        value: &str,
        with_tls: bool,
    ) -> Result<(), Invalid> {
        let bad = |expected: &str| {
            access.invalid(
                Field::Url,
                format!("bad `url`: `{option}` is not {expected}"),
            )
        };
        match option {
            "cacertfile"
            | "certfile"
            | "keyfile"
            | "verify"
            | "fail_if_no_peer_cert"
            | "server_name_indication"
                if !with_tls =>
            {
                return Err(access
                    .invalid(Field::Url, format!("bad `url`: `{option}` without TLS"))
                    .hint("use `amqps://`"));
            }
            "cacertfile" => self.cacertfile = Some(value.to_owned()),
            "certfile" => self.certfile = Some(value.to_owned()),
            "keyfile" => self.keyfile = Some(value.to_owned()),
            "verify" => match value {
                "verify_peer" => self.verify_none = false,
                "verify_none" => self.verify_none = true,
                _ => return Err(bad("`verify_peer` or `verify_none`")),
            },
            // What a server asks of its clients: nothing that a client could do.
            "fail_if_no_peer_cert" => match value {
                "true" | "false" => {}
                _ => return Err(bad("`true` or `false`")),
            },
            "server_name_indication" => match value {
                "disable" => self.without_sni = true,
                name => self.server_name = Some(name.to_owned()),
            },
            // May stand there more than once: any of them will do.
            "auth_mechanism" => {
                let mechanism = Mechanism::ALL
                    .into_iter()
                    .find(|mechanism| mechanism.name().eq_ignore_ascii_case(value));
                self.mechanisms.push(
                    mechanism
                        .ok_or_else(|| bad("`plain`, `amqplain`, `external` or `anonymous`"))?,
                );
            }
            "heartbeat" => {
                self.limits.heartbeat = value
                    .parse()
                    .map_err(|_| bad("a number of seconds (0: none)"))?;
            }
            "connection_timeout" => {
                let milliseconds = value
                    .parse()
                    .map_err(|_| bad("a number of milliseconds (0: none)"))?;
                self.connection_timeout =
                    Some(Duration::from_millis(milliseconds)).filter(|limit| !limit.is_zero());
            }
            "channel_max" => {
                self.limits.channel_max = value
                    .parse()
                    .map_err(|_| bad("a number of channels (0: no limit)"))?;
            }
            "frame_max" => {
                let bytes = value.parse().ok();
                self.limits.frame_max = bytes
                    .filter(|bytes| *bytes == 0 || *bytes >= FRAME_MIN_BYTES)
                    .ok_or_else(|| bad("a number of bytes, at least 4096 (0: no limit)"))?;
            }
            "password" => {
                return Err(access
                    .invalid(
                        Field::Url,
                        "bad `url`: the option `password`, of an encrypted key, is not honoured",
                    )
                    .hint(
                        "decrypt the key (`openssl pkey -in … -out …`), and leave `password` out",
                    ));
            }
            _ => return Err(unknown_option(access, option, Self::KNOWN)),
        }
        Ok(())
    }
}

impl Mechanism {
    const ALL: [Self; 4] = [Self::Plain, Self::Amqplain, Self::External, Self::Anonymous];

    fn sasl(self) -> SASLMechanism {
        match self {
            Self::Plain => SASLMechanism::Plain,
            Self::Amqplain => SASLMechanism::AMQPlain,
            Self::External => SASLMechanism::External,
            Self::Anonymous => SASLMechanism::Anonymous,
        }
    }

    fn name(self) -> &'static str {
        self.sasl().name()
    }
}

impl Limits {
    /// What both sides can live with.
    ///
    /// Who looks for alarms may leave a connection that a blocking broker does not read any more, and
    /// such a broker has no memory to spare: it must notice by the heartbeat, and soon.
    fn agreed(self, tune: &connection::Tune, resource_alarms: bool) -> Self {
        // Zero is no limit.
        fn lower<T: Ord + Default>(ours: T, theirs: T) -> T {
            match (ours == T::default(), theirs == T::default()) {
                (true, _) => theirs,
                (_, true) => ours,
                _ => ours.min(theirs),
            }
        }
        Self {
            channel_max: lower(self.channel_max, tune.channel_max),
            frame_max: lower(self.frame_max, tune.frame_max),
            heartbeat: match (self.heartbeat, resource_alarms) {
                // None at all is the owner's choice alone.
                (0, false) => 0,
                (0, true) => lower(HEARTBEAT_SECONDS, tune.heartbeat),
                (ours, true) => lower(ours.min(HEARTBEAT_SECONDS), tune.heartbeat),
                (ours, false) => lower(ours, tune.heartbeat),
            },
        }
    }
}

impl Amqp {
    async fn converse(&self, attempt: &mut Attempt, broker: &mut Broker) -> Result<(), Failure> {
        let start = attempt
            .phase_of(Phase::Auth, "the broker did not greet us", broker.greet())
            .await?;
        if let Some(server) = start.server() {
            attempt.server(server);
        }
        let tune = attempt
            .phase_of(
                Phase::Auth,
                "the broker did not answer the login",
                broker.log_in(&self.login, &start),
            )
            .await?;
        attempt
            .phase_of(
                Phase::Auth,
                "the broker did not open the vhost",
                broker.open(self.limits.agreed(&tune, self.resource_alarms), &self.vhost),
            )
            .await?;
        attempt.limit(None);
        attempt
            .phase_of(
                Phase::Request,
                "the broker did not open a channel",
                broker.open_channel(),
            )
            .await?;
        if let Some(queue) = &self.queue {
            attempt
                .phase_of(
                    Phase::Request,
                    "the broker did not say whether the queue is there",
                    broker.find_queue(queue),
                )
                .await?;
        }
        attempt
            .phase_of(
                Phase::Request,
                "the broker did not close the channel",
                broker.close_channel(),
            )
            .await?;
        if self.resource_alarms {
            attempt
                .phase_of(
                    Phase::Request,
                    "the broker did not close the connection",
                    broker.find_alarm(&start),
                )
                .await?;
        }
        Ok(())
    }
}

/// The conversation with a broker: a method or two, then its answer.
struct Broker {
    stream: Stream,
    received: BytesMut,
    /// Whether there is a connection in the sense of AMQP, to be closed by a method.
    is_open: bool,
    channel_is_open: bool,
    /// Why it takes no messages.
    blocked: Option<String>,
}

/// What the broker was asked for when it said no: the same code means another thing each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Login,
    Vhost,
    Channel,
    Queue,
}

impl Broker {
    fn new(stream: Stream) -> Self {
        Self {
            stream,
            received: BytesMut::new(),
            is_open: false,
            channel_is_open: false,
            blocked: None,
        }
    }

    async fn greet(&mut self) -> Result<Start, Cause> {
        let sent = self.send(PROTOCOL_HEADER).await;
        match self.answer(sent).await? {
            Word::Start(start) => Ok(start),
            word => Err(unexpected(word, Asked::Login, "connection.start")),
        }
    }

    async fn log_in(&mut self, login: &Login, start: &Start) -> Result<connection::Tune, Cause> {
        let mechanism = login.mechanism(&start.mechanisms)?;
        let encoder = Encoder::new(
            login.username.expose().to_owned().into(),
            login.password.expose().to_owned().into(),
        );
        let start_ok = connection::AMQPMethod::StartOk(connection::StartOk {
            client_properties: client_properties(),
            mechanism: mechanism.name().into(),
            response: encoder.sasl_auth_string(mechanism.sasl()),
            locale: "en_US".into(),
        });
        match self.ask(&[of_connection(start_ok)]).await {
            Ok(Word::Tune(tune)) => Ok(tune),
            Ok(Word::Secure) => Err(Cause::protocol(format!(
                "the broker wants to hear more than `{}` has to say (a challenge), and we know no more",
                mechanism.name()
            ))),
            Ok(word) => Err(login.explain(unexpected(word, Asked::Login, "connection.tune"))),
            Err(cause) if cause.reason == Reason::ConnectReset => Err(cause.hint(
                match start.can("authentication_failure_close") {
                    true => "it hung up on the login; its log says why",
                    false => "such a broker hangs up on a login that it refuses: are username and password right?",
                },
            )),
            Err(cause) => Err(cause),
        }
    }

    async fn open(&mut self, limits: Limits, vhost: &ShortString) -> Result<(), Cause> {
        let tune_ok = connection::AMQPMethod::TuneOk(connection::TuneOk {
            channel_max: limits.channel_max,
            frame_max: limits.frame_max,
            heartbeat: limits.heartbeat,
        });
        let open = connection::AMQPMethod::Open(connection::Open {
            virtual_host: vhost.clone(),
        });
        match self
            .ask(&[of_connection(tune_ok), of_connection(open)])
            .await?
        {
            Word::Opened => {
                self.is_open = true;
                Ok(())
            }
            word => {
                let cause = unexpected(word, Asked::Vhost, "connection.open-ok");
                Err(match (cause.reason, vhost.as_str()) {
                    (Reason::NotFound, "") => cause.hint(
                        "a URL that ends in `/` names the vhost with the empty name; without it the vhost is `/`",
                    ),
                    _ => cause,
                })
            }
        }
    }

    async fn open_channel(&mut self) -> Result<(), Cause> {
        match self.ask(&[open_channel()]).await? {
            Word::ChannelOpened => {
                self.channel_is_open = true;
                Ok(())
            }
            word => Err(unexpected(word, Asked::Channel, "channel.open-ok")),
        }
    }

    async fn find_queue(&mut self, name: &ShortString) -> Result<(), Cause> {
        let declare = queue::AMQPMethod::Declare(queue::Declare {
            queue: name.clone(),
            passive: true,
            ..queue::Declare::default()
        });
        match self.ask(&[on_channel(AMQPClass::Queue(declare))]).await? {
            Word::QueueFound => Ok(()),
            // It is there, and another connection has it for itself.
            Word::ChannelClose(Refusal { code: 405, .. }) => Ok(()),
            word => Err(unexpected(word, Asked::Queue, "queue.declare-ok")),
        }
    }

    async fn close_channel(&mut self) -> Result<(), Cause> {
        if !self.channel_is_open {
            return Ok(());
        }
        let close = channel::AMQPMethod::Close(channel::Close {
            reply_code: 200,
            reply_text: FAREWELL.into(),
            class_id: 0,
            method_id: 0,
        });
        match self.ask(&[on_channel(AMQPClass::Channel(close))]).await? {
            Word::ChannelCloseOk => {
                self.channel_is_open = false;
                Ok(())
            }
            word => Err(unexpected(word, Asked::Channel, "channel.close-ok")),
        }
    }

    /// Announces a message and closes the connection instead of sending it; see the top of this file.
    async fn find_alarm(&mut self, start: &Start) -> Result<(), Cause> {
        let is_known =
            start.product.as_deref() == Some("RabbitMQ") && start.can("connection.blocked");
        if is_known && self.blocked.is_none() {
            let publish = basic::AMQPMethod::Publish(basic::Publish::default());
            let header = AMQPContentHeader {
                class_id: 60,
                body_size: 1,
                properties: BasicProperties::default(),
            };
            let frames = [
                open_channel(),
                on_channel(AMQPClass::Basic(publish)),
                AMQPFrame::Header(CHANNEL, header),
                close_connection(),
            ];
            // From a broker that blocks there is no parting in order, and from another this is it.
            self.is_open = false;
            self.send(&wire::pack(&frames)?).await?;
            loop {
                match self.hear().await? {
                    Word::ChannelOpened => {}
                    Word::CloseOk | Word::Blocked(_) => break,
                    word => return Err(unexpected(word, Asked::Channel, "connection.close-ok")),
                }
            }
        }
        match &self.blocked {
            None => Ok(()),
            Some(why) => Err(Cause::new(
                Reason::Unavailable,
                format!("the broker lets us in and takes no messages: {why}"),
            )
            .code("connection.blocked")
            .hint(
                "a resource alarm: `rabbitmq-diagnostics alarms` says where; free memory or disk, or raise \
                 `vm_memory_high_watermark` or lower `disk_free_limit`",
            )),
        }
    }

    /// Takes leave in order, as far as there is something to leave.
    async fn part(&mut self) {
        // Whether it answers is not our business.
        if self.is_open {
            let mut word = self.ask(&[close_connection()]).await;
            while let Ok(other) = word {
                if matches!(other, Word::CloseOk | Word::Close(_)) {
                    break;
                }
                word = self.answer(Ok(())).await;
            }
        }
        let _ = self.stream.shutdown().await;
    }

    async fn ask(&mut self, frames: &[AMQPFrame]) -> Result<Word, Cause> {
        let bytes = wire::pack(frames)?;
        let sent = self.send(&bytes).await;
        self.answer(sent).await
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), Cause> {
        self.stream.write_all(bytes).await?;
        Ok(self.stream.flush().await?)
    }

    /// What the broker says to what was sent.
    async fn answer(&mut self, sent: Result<(), Cause>) -> Result<Word, Cause> {
        let heard = loop {
            match self.hear().await {
                Ok(Word::Blocked(_)) => {}
                heard => break heard,
            }
        };
        heard_or_sent(heard, sent)
    }

    /// The next word that says something. A heartbeat is returned, so that a slow broker does not
    /// miss us; and an end that the broker sets is confirmed, as it must be.
    async fn hear(&mut self) -> Result<Word, Cause> {
        loop {
            let word = self.receive().await?;
            match &word {
                Word::Heartbeat => {
                    // Should this not arrive, the next word will not come either.
                    let _ = self.send(&wire::pack(&[AMQPFrame::Heartbeat])?).await;
                }
                Word::Unblocked => self.blocked = None,
                Word::Blocked(why) => {
                    self.blocked = Some(why.clone());
                    return Ok(word);
                }
                Word::Close(_) => {
                    self.is_open = false;
                    let close_ok = connection::AMQPMethod::CloseOk(connection::CloseOk {});
                    // Its reason is what matters, whether or not it hears of our consent.
                    let _ = self.send(&wire::pack(&[of_connection(close_ok)])?).await;
                    return Ok(word);
                }
                Word::ChannelClose(_) => {
                    self.channel_is_open = false;
                    let close_ok = channel::AMQPMethod::CloseOk(channel::CloseOk {});
                    let frame = on_channel(AMQPClass::Channel(close_ok));
                    let _ = self.send(&wire::pack(&[frame])?).await;
                    return Ok(word);
                }
                _ => return Ok(word),
            }
        }
    }

    async fn receive(&mut self) -> Result<Word, Cause> {
        // The shortest of which nothing comes has eight bytes, and there may be millions of them.
        consume_budget().await;
        loop {
            if let Some((word, length)) = wire::parse(&self.received)? {
                self.received.advance(length);
                return Ok(word);
            }
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(match self.received.is_empty() {
                    true => {
                        Cause::new(Reason::ConnectReset, "the broker hung up without an answer")
                    }
                    false => Cause::protocol("the broker hung up in the middle of its answer"),
                });
            }
        }
    }
}

/// What is written for the broker's log where a reason must be given.
const FAREWELL: &str = "conncheck has seen enough";

/// What the broker shows of us (`rabbitmqctl list_connections client_properties`), and what we
/// understand: `authentication_failure_close` makes it say why it refuses a login.
fn client_properties() -> FieldTable {
    let text = |text: &str| AMQPValue::LongString(text.into());
    let mut capabilities = FieldTable::default();
    for capability in ["authentication_failure_close", "connection.blocked"] {
        capabilities.insert(capability.into(), AMQPValue::Boolean(true));
    }
    let mut properties = FieldTable::default();
    properties.insert("product".into(), text("conncheck"));
    properties.insert("version".into(), text(env!("CARGO_PKG_VERSION")));
    properties.insert("connection_name".into(), text("conncheck"));
    properties.insert("capabilities".into(), AMQPValue::FieldTable(capabilities));
    properties
}

fn of_connection(method: connection::AMQPMethod) -> AMQPFrame {
    AMQPFrame::Method(0, AMQPClass::Connection(method))
}

fn on_channel(method: AMQPClass) -> AMQPFrame {
    AMQPFrame::Method(CHANNEL, method)
}

fn open_channel() -> AMQPFrame {
    let open = channel::AMQPMethod::Open(channel::Open {});
    on_channel(AMQPClass::Channel(open))
}

fn close_connection() -> AMQPFrame {
    of_connection(connection::AMQPMethod::Close(connection::Close {
        reply_code: 200,
        reply_text: FAREWELL.into(),
        class_id: 0,
        method_id: 0,
    }))
}

impl Login {
    /// The first of ours that the broker offers.
    fn mechanism(&self, offered: &[String]) -> Result<Mechanism, Cause> {
        let is_offered =
            |mechanism: &&Mechanism| offered.iter().any(|name| name == mechanism.name());
        if let Some(mechanism) = self.mechanisms.iter().find(is_offered) {
            return Ok(*mechanism);
        }
        let ours: Vec<_> = self
            .mechanisms
            .iter()
            .map(|mechanism| mechanism.name())
            .collect();
        let cause = Cause::new(
            Reason::Auth,
            format!(
                "we would log in by {}, and the broker offers {}",
                ours.join(" or "),
                match offered {
                    [] => "nothing".to_owned(),
                    offered => offered.join(", "),
                }
            ),
        );
        Err(match self.mechanisms[..] {
            [Mechanism::External] => cause.hint(
                "RabbitMQ offers `EXTERNAL` with the plugin `rabbitmq_auth_mechanism_ssl`, `EXTERNAL` among its \
                 `auth_mechanisms`, and `ssl_options.verify = verify_peer`",
            ),
            _ => cause.hint("`auth_mechanisms` of the broker says which it offers"),
        })
    }

    /// A refused login, with what is known of it here.
    fn explain(&self, cause: Cause) -> Cause {
        match cause.reason {
            Reason::Auth if self.mechanisms[..] == [Mechanism::External] => cause.hint(
                "is there a user of the name that is in the client certificate (`ssl_cert_login_from` says where)?",
            ),
            Reason::Auth if self.username.expose() == GUEST => cause.hint(
                "RabbitMQ lets `guest` in from its own machine only (`loopback_users`): give `username` and `password`",
            ),
            _ => cause,
        }
    }
}

/// An answer that is not the one that was wanted.
fn unexpected(word: Word, asked: Asked, wanted: &str) -> Cause {
    match word {
        Word::Close(refusal) | Word::ChannelClose(refusal) => refusal.into_cause(asked),
        word => Cause::protocol(format!(
            "`{wanted}` was expected, and the broker says `{}`",
            word.name()
        )),
    }
}

impl Refusal {
    fn into_cause(self, asked: Asked) -> Cause {
        let (reason, hint) = classify(self.code, &self.text, asked);
        let cause = Cause::new(reason, format!("{} {}", self.code, self.text).trim_end())
            .code(self.code.to_string());
        match hint {
            "" => cause,
            hint => cause.hint(hint),
        }
    }
}

/// What a reply code means, by what was asked for and by RabbitMQ's words.
fn classify(code: u16, text: &str, asked: Asked) -> (Reason, &'static str) {
    // Names of the owner's stand in the middle of a text, so only its ends are looked at.
    let ends = |end: &str| text.trim_end().ends_with(end);
    // Behind the last name.
    let tail = text.rsplit_once('\'').map_or(text, |(_, tail)| tail);
    match (code, asked) {
        (403, Asked::Login) => (
            Reason::Auth,
            "wrong username or password; the broker's log says which",
        ),
        (403, Asked::Queue) => (
            Reason::Permission,
            "allow the user to read the queue: `rabbitmqctl set_permissions`",
        ),
        (403, _) => (Reason::Permission, ""),
        (404, _)
            if ends("is down or inaccessible")
                || ends("due to timeout")
                || tail.contains("process is stopped")
                || tail.contains("has crashed") =>
        {
            (
                Reason::Unavailable,
                "the queue is known, and the node that holds it does not answer",
            )
        }
        (404, Asked::Queue) => (
            Reason::NotFound,
            "nobody has declared the queue in this vhost: `rabbitmqctl list_queues -p VHOST`",
        ),
        (402 | 404, _) => (Reason::NotFound, ""),
        // The limits of a user, a vhost, a node.
        (530, _) if ends("is reached") || tail.contains("has reached the") => (
            Reason::Unavailable,
            "who holds all the connections? (`rabbitmqctl list_connections`)",
        ),
        (530, Asked::Vhost) if ends("not found") => (
            Reason::NotFound,
            "`rabbitmqctl list_vhosts` names those there are",
        ),
        (530, Asked::Vhost) if text.contains("access to vhost") => (
            Reason::Permission,
            "allow the user in: `rabbitmqctl set_permissions -p VHOST USER …`",
        ),
        (320, _) => (
            Reason::Unavailable,
            "the broker is shut down or drained, or somebody has closed the connection",
        ),
        (506 | 541, _) => (Reason::Unavailable, "the broker's log says more"),
        _ => (Reason::Protocol, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::wire::tests::{close, frame, greeting, method, short, start};
    use super::*;
    use crate::outcome::Outcome;
    use crate::testing::{LONG, Peer, Script, build, build_or_say, check_logins, percent_encoded};

    const LOGIN: &str = "username: probe\npassword: secret";

    fn tune() -> Vec<u8> {
        let mut arguments = 2047_u16.to_be_bytes().to_vec();
        arguments.extend(131_072_u32.to_be_bytes());
        arguments.extend(60_u16.to_be_bytes());
        method(0, 10, 30, &arguments)
    }

    fn opened() -> Vec<u8> {
        method(0, 10, 41, &[0])
    }

    fn channel_opened() -> Vec<u8> {
        method(1, 20, 11, &[0; 4])
    }

    fn channel_closed() -> Vec<u8> {
        method(1, 20, 41, &[])
    }

    fn queue_found() -> Vec<u8> {
        method(1, 50, 11, &[short("orders"), vec![0; 8]].concat())
    }

    fn blocked() -> Vec<u8> {
        method(0, 10, 60, &short("low on memory"))
    }

    fn unblocked() -> Vec<u8> {
        method(0, 10, 61, &[])
    }

    fn closed() -> Vec<u8> {
        method(0, 10, 51, &[])
    }

    fn heartbeat() -> Vec<u8> {
        frame(8, 0, &[])
    }

    /// One attempt at a broker that says these words, and what it hears meanwhile. `url` is what
    /// stands behind the port.
    async fn attempt(words: &[Vec<u8>], url: &str, spec: &str) -> (Outcome, String) {
        let peer = Peer::new([Script::First(words.concat())]).await;
        let url = format!("url: amqp://127.0.0.1:{}{url}\n{spec}", peer.port);
        let probe = build("amqp", &url, &[]).unwrap();
        let outcome = crate::testing::run(&probe, LONG).await;
        peer.is_left(1).await;
        (outcome, peer.heard().remove(0))
    }

    async fn failure(words: &[Vec<u8>], spec: &str) -> Failure {
        attempt(words, "", spec).await.0.result.unwrap_err()
    }

    /// The words of a broker that has nothing to complain of, but for `alarm`.
    fn healthy(alarm: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut words = vec![
            greeting(),
            tune(),
            opened(),
            channel_opened(),
            channel_closed(),
            channel_opened(),
        ];
        words.extend_from_slice(alarm);
        words
    }

    /// The header of a message of one byte.
    const ANNOUNCED: &str = "\0\x3c\0\0\0\0\0\0\0\0\0\x01\0\0";

    /// What the broker hears of a method: its class and its number.
    fn said(class: u8, method: u8) -> String {
        String::from_utf8(vec![0, class, 0, method]).unwrap()
    }

    #[tokio::test]
    async fn a_conversation_from_the_greeting_to_the_end() {
        let (outcome, heard) = attempt(&healthy(&[closed()]), "", LOGIN).await;
        assert!(outcome.is_up(), "{outcome:?}");
        assert_eq!(outcome.server.as_deref(), Some("RabbitMQ 3.10.8"));
        let phases: Vec<_> = outcome.phases.iter().map(|(phase, _)| *phase).collect();
        assert_eq!(phases, [Phase::Connect, Phase::Auth, Phase::Request]);
        assert!(heard.starts_with("AMQP\0\0\t\x01"));
        assert!(heard.contains("\0probe\0secret"));
        let order = [
            said(10, 11),
            said(10, 31),
            said(10, 40),
            said(20, 10),
            said(20, 40),
            said(60, 40),
            ANNOUNCED.to_owned(),
            said(10, 50),
        ];
        let mut rest = heard.as_str();
        for words in order {
            let (_, after) = rest
                .split_once(&words)
                .unwrap_or_else(|| panic!("{heard:?}"));
            rest = after;
        }
    }

    #[tokio::test]
    async fn a_broker_in_alarm_is_unavailable_and_gets_no_message() {
        let (outcome, heard) = attempt(&healthy(&[blocked()]), "", LOGIN).await;
        let failure = outcome.result.unwrap_err();
        assert_eq!(failure.reason, Reason::Unavailable);
        assert_eq!(failure.phase, Some(Phase::Request));
        assert_eq!(failure.code.as_deref(), Some("connection.blocked"));
        assert_eq!(
            failure.message,
            "the broker lets us in and takes no messages: low on memory"
        );
        // Behind the header comes the end of the connection, not the body.
        let (_, after) = heard.split_once(ANNOUNCED).unwrap();
        assert!(
            after.contains(&format!("\x01\0\0\0\0\0\x24{}", said(10, 50))),
            "{after:?}"
        );
    }

    #[tokio::test]
    async fn only_a_rabbitmq_that_tells_of_alarms_is_asked() {
        let quiet = start(b"", "PLAIN");
        for (greeting, spec) in [
            (quiet, ""),
            (greeting(), "\nproperties: {resourceAlarms: false}"),
        ] {
            let words = [
                greeting,
                tune(),
                opened(),
                channel_opened(),
                channel_closed(),
                closed(),
            ];
            let (outcome, heard) = attempt(&words, "", &format!("{LOGIN}{spec}")).await;
            assert!(outcome.is_up(), "{outcome:?}");
            assert!(!heard.contains(&said(60, 40)), "{heard:?}");
            assert!(heard.contains(&said(10, 50)), "{heard:?}");
        }
    }

    #[tokio::test]
    async fn a_broker_that_tells_of_an_alarm_unasked_is_believed_until_it_is_over() {
        let words = |more: &[Vec<u8>]| {
            let mut words = vec![greeting(), tune(), opened(), blocked()];
            words.extend_from_slice(more);
            words
        };
        let failure = failure(&words(&[channel_opened(), channel_closed()]), LOGIN).await;
        assert_eq!(failure.reason, Reason::Unavailable);
        let over = [
            channel_opened(),
            unblocked(),
            channel_closed(),
            channel_opened(),
            closed(),
        ];
        let (outcome, _) = attempt(&words(&over), "", LOGIN).await;
        assert!(outcome.is_up(), "{outcome:?}");
    }

    #[tokio::test]
    async fn heartbeats_are_returned_wherever_they_come() {
        let mut words = vec![heartbeat()];
        for word in healthy(&[closed()]) {
            words.extend([word, heartbeat()]);
        }
        // After the end nobody listens.
        words.pop();
        let (outcome, heard) = attempt(&words, "", LOGIN).await;
        assert!(outcome.is_up(), "{outcome:?}");
        let pulse = "\x08\0\0\0\0\0\0";
        assert_eq!(heard.matches(pulse).count(), words.len() / 2, "{heard:?}");
    }

    #[tokio::test]
    async fn a_queue_must_be_there() {
        let spec = &format!("{LOGIN}\nproperties: {{queue: orders}}");
        let words = |answer| vec![greeting(), tune(), opened(), channel_opened(), answer];
        let mut there = words(queue_found());
        there.extend([channel_closed(), channel_opened(), closed()]);
        let (outcome, heard) = attempt(&there, "", spec).await;
        assert!(outcome.is_up(), "{outcome:?}");
        assert!(heard.contains("\x06orders\x01"), "passively: {heard:?}");

        let locked = close(1, 405, b"RESOURCE_LOCKED - cannot obtain exclusive access");
        let mut exclusive = words(locked);
        exclusive.extend([channel_opened(), closed()]);
        let (outcome, heard) = attempt(&exclusive, "", spec).await;
        assert!(outcome.is_up(), "{outcome:?}");
        assert!(
            heard.contains(&said(20, 41)),
            "its end is confirmed: {heard:?}"
        );

        let mut missing = words(close(1, 404, b"NOT_FOUND - no queue 'orders' in vhost '/'"));
        missing.push(closed());
        let (outcome, heard) = attempt(&missing, "", spec).await;
        let failure = outcome.result.unwrap_err();
        assert_eq!(
            (failure.reason, failure.phase, failure.code.as_deref()),
            (Reason::NotFound, Some(Phase::Request), Some("404"))
        );
        assert_eq!(
            failure.message,
            "404 NOT_FOUND - no queue 'orders' in vhost '/'"
        );
        let confirmed = heard.find(&said(20, 41)).expect("confirmed");
        assert!(heard[confirmed..].contains(&said(10, 50)), "{heard:?}");
    }

    #[tokio::test]
    async fn what_the_broker_refuses_is_confirmed() {
        for (words, reason, phase, code) in [
            (
                vec![
                    greeting(),
                    close(0, 403, b"ACCESS_REFUSED - Login was refused"),
                ],
                Reason::Auth,
                Phase::Auth,
                "403",
            ),
            (
                vec![
                    greeting(),
                    tune(),
                    close(0, 530, b"NOT_ALLOWED - vhost x not found"),
                ],
                Reason::NotFound,
                Phase::Auth,
                "530",
            ),
            (
                vec![
                    greeting(),
                    tune(),
                    opened(),
                    close(
                        0,
                        320,
                        b"CONNECTION_FORCED - broker forced connection closure",
                    ),
                ],
                Reason::Unavailable,
                Phase::Request,
                "320",
            ),
        ] {
            let (outcome, heard) = attempt(&words, "", LOGIN).await;
            let failure = outcome.result.unwrap_err();
            assert_eq!((failure.reason, failure.phase), (reason, Some(phase)));
            assert_eq!(failure.code.as_deref(), Some(code));
            assert!(
                heard.ends_with(&format!("{}\u{fffd}", said(10, 51))),
                "{heard:?}"
            );
        }
    }

    #[tokio::test]
    async fn another_answer_than_the_right_one_is_not_this_protocol() {
        for words in [
            vec![tune()],
            vec![greeting(), opened()],
            // A challenge: nothing that we offer has an answer to one.
            vec![greeting(), method(0, 10, 20, &[0; 4])],
            vec![greeting(), tune(), channel_opened()],
            vec![greeting(), tune(), opened(), closed()],
            vec![greeting(), tune(), opened(), channel_opened(), opened()],
            healthy(&[tune()]),
        ] {
            let failure = failure(&words, LOGIN).await;
            assert_eq!(failure.reason, Reason::Protocol, "{failure:?}");
        }
    }

    #[tokio::test]
    async fn a_broker_that_hangs_up_on_a_login_has_probably_refused_it() {
        // One that says nothing and has hung up.
        let silence = tokio::io::join(tokio::io::empty(), tokio::io::sink());
        let mut broker = Broker::new(Stream::new(silence));
        let login = Login {
            mechanisms: vec![Mechanism::Plain],
            username: Secret::new("probe"),
            password: Secret::new("wrong"),
        };
        let old = Start {
            mechanisms: vec!["PLAIN".to_owned()],
            ..Start::default()
        };
        let cause = broker.log_in(&login, &old).await.unwrap_err();
        assert_eq!(cause.reason, Reason::ConnectReset);
        let hint = cause.hint.unwrap();
        assert!(hint.contains("username and password"), "{hint}");
    }

    #[tokio::test]
    async fn the_mechanism_is_one_of_ours_that_the_broker_offers() {
        for (offered, url, mechanism) in [
            ("PLAIN AMQPLAIN", "", "PLAIN"),
            ("AMQPLAIN PLAIN", "", "PLAIN"),
            ("AMQPLAIN", "", "AMQPLAIN"),
            ("PLAIN AMQPLAIN", "?auth_mechanism=amqplain", "AMQPLAIN"),
            (
                "PLAIN",
                "?auth_mechanism=AMQPLAIN&auth_mechanism=plain",
                "PLAIN",
            ),
            ("PLAIN ANONYMOUS", "?auth_mechanism=anonymous", "ANONYMOUS"),
        ] {
            let words = [
                vec![start(b"", offered)],
                healthy(&[])[1..5].to_vec(),
                vec![closed()],
            ];
            let (outcome, heard) = attempt(&words.concat(), url, LOGIN).await;
            assert!(outcome.is_up(), "{outcome:?}");
            let length = char::from(mechanism.len() as u8);
            assert!(
                heard.contains(&format!("{length}{mechanism}\0")),
                "{heard:?}"
            );
            assert_eq!(heard.contains("secret"), mechanism != "ANONYMOUS");
        }
        let words = [start(b"", "EXTERNAL SCRAM")];
        let failure = failure(&words, LOGIN).await;
        assert_eq!(failure.reason, Reason::Auth);
        assert_eq!(
            failure.message,
            "we would log in by PLAIN or AMQPLAIN, and the broker offers EXTERNAL, SCRAM"
        );
    }

    #[tokio::test]
    async fn without_credentials_it_is_guest() {
        let (outcome, heard) = attempt(&healthy(&[closed()]), "", "").await;
        assert!(outcome.is_up(), "{outcome:?}");
        assert!(heard.contains("\0guest\0guest"), "{heard:?}");
        let refused = [
            greeting(),
            close(0, 403, b"ACCESS_REFUSED - Login was refused"),
        ];
        let hint = failure(&refused, "").await.hint.unwrap();
        assert!(hint.contains("loopback_users"), "{hint}");
    }

    #[tokio::test]
    async fn each_url_names_its_vhost() {
        for (path, properties, vhost) in [
            ("", "", "/"),
            ("?heartbeat=5", "", "/"),
            ("/%2f", "", "/"),
            ("/%2Fteam%2fa", "", "/team/a"),
            ("/team", "", "team"),
            ("/", "", ""),
            ("/t%C3%A9am", "", "téam"),
            ("/team", "properties: {vhost: other}", "other"),
            ("", "properties: {vhost: ''}", ""),
        ] {
            let spec = format!("{LOGIN}\n{properties}");
            let (outcome, heard) = attempt(&healthy(&[closed()]), path, &spec).await;
            assert!(outcome.is_up(), "{outcome:?}");
            let length = char::from(vhost.len() as u8);
            let open = format!("{}{length}{vhost}\0\0", said(10, 40));
            assert!(heard.contains(&open), "{path}: {heard:?}");
        }
    }

    #[tokio::test]
    async fn a_vhost_with_an_empty_name_is_most_likely_a_slash_too_many() {
        let words = [
            greeting(),
            tune(),
            close(0, 530, b"NOT_ALLOWED - vhost  not found"),
        ];
        let (outcome, _) = attempt(&words, "/", LOGIN).await;
        let hint = outcome.result.unwrap_err().hint.unwrap();
        assert!(hint.contains("ends in `/`"), "{hint}");
    }

    #[test]
    fn any_login_is_what_was_given() {
        let url = "amqp://$(username):$(password)@h/vhost";
        check_logins("amqp", url, percent_encoded, ("", ""), |probe: &Amqp| {
            let Login {
                username, password, ..
            } = &probe.login;
            (username.expose().to_owned(), password.expose().to_owned())
        });
    }

    #[test]
    fn the_lower_limit_is_agreed_on_and_zero_is_none() {
        let tune = |channel_max, frame_max, heartbeat| connection::Tune {
            channel_max,
            frame_max,
            heartbeat,
        };
        let limits = |channel_max, frame_max, heartbeat| Limits {
            channel_max,
            frame_max,
            heartbeat,
        };
        let default = Limits::default();
        for looks_for_alarms in [true, false] {
            let agreed = |theirs| default.agreed(&theirs, looks_for_alarms);
            assert_eq!(agreed(tune(2047, 131_072, 60)), limits(2047, 131_072, 10));
            assert_eq!(agreed(tune(0, 0, 0)), limits(0, 131_072, 10));
            assert_eq!(agreed(tune(8, 4096, 3)), limits(8, 4096, 3));
        }
        // Who may leave a connection behind that is blocked does not leave it for long.
        for (ours, theirs, plain, looking_for_alarms) in [
            (0, 60, 0, 10),
            (0, 0, 0, 10),
            (0, 5, 0, 5),
            (600, 60, 60, 10),
            (600, 0, 600, 10),
            (7, 60, 7, 7),
        ] {
            let ours = limits(4, 8192, ours);
            let theirs = tune(2047, 131_072, theirs);
            assert_eq!(ours.agreed(&theirs, false), limits(4, 8192, plain));
            let agreed = ours.agreed(&theirs, true);
            assert_eq!(agreed, limits(4, 8192, looking_for_alarms));
        }
    }

    #[tokio::test]
    async fn limits_of_the_url_reach_the_broker() {
        let options = "?channel_max=3&frame_max=8192&heartbeat=7&connection_timeout=5000";
        let (outcome, heard) = attempt(&healthy(&[closed()]), options, LOGIN).await;
        assert!(outcome.is_up(), "{outcome:?}");
        let tune_ok = format!("{}\0\x03\0\0\x20\0\0\x07", said(10, 31));
        assert!(heard.contains(&tune_ok), "{heard:?}");
    }

    #[tokio::test]
    async fn words_without_end_are_cut_at_the_deadline() {
        for piece in [heartbeat(), unblocked()] {
            let bytes = piece.repeat(8 * 1024 * 1024 / piece.len());
            // Never pending, so that nothing but the budget of a task makes it let go.
            let mut broker = Broker::new(Stream::new(tokio::io::join(
                std::io::Cursor::new(bytes),
                tokio::io::sink(),
            )));
            let start = tokio::time::Instant::now();
            let heard = tokio::time::timeout(Duration::from_millis(50), broker.hear()).await;
            assert!(heard.is_err(), "{heard:?}");
            assert!(start.elapsed() < Duration::from_secs(2));
        }
    }

    #[tokio::test]
    async fn a_connection_timeout_of_the_url_is_kept() {
        let url = "?connection_timeout=50";
        let (outcome, _) = attempt(&[greeting()], url, LOGIN).await;
        let failure = outcome.result.unwrap_err();
        assert_eq!(failure.reason, Reason::Timeout);
        assert_eq!(
            failure.message,
            "the broker did not answer the login within 50ms"
        );
    }

    #[test]
    fn an_endpoint_is_an_address_and_no_more() {
        for (url, endpoint) in [
            ("amqp://u:p@host", "amqp://host:5672"),
            ("amqps://u:p@host/v?verify=verify_none", "amqps://host:5671"),
            ("amqp://[::1]:99/v", "amqp://[::1]:99"),
        ] {
            let probe = build("amqp", &format!("url: {url}"), &[]).unwrap();
            assert_eq!(probe.endpoint(), endpoint);
        }
    }

    #[test]
    fn mistakes_name_the_way_out() {
        let long = "x".repeat(256);
        for (url, more, message) in [
            ("http://h", "", "this scheme is not AMQP"),
            ("amqp:///v", "", "no host"),
            ("amqp://h/a/b", "", "more than one segment"),
            ("amqp://h//", "", "more than one segment"),
            (&format!("amqp://h/{long}"), "", "at most 255 bytes"),
            (
                "amqp://h",
                &format!("properties: {{queue: {long}}}"),
                "at most 255 bytes",
            ),
            ("amqp://u@h", "", "a username without a password"),
            ("amqp://u%00:p@h", "", "NUL"),
            (
                "amqp://h?heartbeat=x",
                "",
                "`heartbeat` is not a number of seconds",
            ),
            (
                "amqp://h?connection_timeout=5s",
                "",
                "a number of milliseconds",
            ),
            ("amqp://h?channel_max=70000", "", "a number of channels"),
            ("amqp://h?frame_max=4095", "", "at least 4096"),
            (
                "amqp://h?auth_mechanism=rabbit-cr-demo",
                "",
                "`auth_mechanism` is not",
            ),
            (
                "amqp://h?auth_mechanism=external",
                "",
                "without a client certificate",
            ),
            (
                "amqps://h?auth_mechanism=external",
                "",
                "without a client certificate",
            ),
            ("amqp://h?verify=verify_none", "", "`verify` without TLS"),
            ("amqp://h?cacertfile=/x", "", "`cacertfile` without TLS"),
            (
                "amqps://h?verify=none",
                "",
                "`verify_peer` or `verify_none`",
            ),
            ("amqps://h?fail_if_no_peer_cert=1", "", "`true` or `false`"),
            ("amqps://h?cacertfile=/nowhere/ca.pem", "", "does not exist"),
            ("amqps://h?password=x", "", "encrypted key"),
            ("amqps://h?depth=3", "", "unknown option `depth`"),
            ("amqp://h?frameMax=8192", "", "unknown option `frameMax`"),
        ] {
            let spec = format!("url: '{url}'\n{more}");
            let Err(mistakes) = build("amqp", &spec, &[]) else {
                panic!("{url} is taken");
            };
            let said = &mistakes[0].message;
            assert!(said.contains(message), "{url}: {said}");
        }
    }

    #[test]
    fn an_empty_password_has_a_hint_of_its_own() {
        for url in ["amqp://u:@h", "amqps://u:@h/vhost"] {
            let said = build_or_say("amqp", &format!("url: {url}")).err();
            let said = said.expect(url);
            assert!(
                said.contains("an empty one (`user:@host`) cannot be given"),
                "{said}"
            );
        }
    }

    #[test]
    fn each_refusal_has_its_reason() {
        use Asked::{Channel, Login, Queue, Vhost};
        use Reason::{Auth, NotFound, Permission, Protocol, Unavailable};
        for (code, text, asked, reason) in [
            (
                403,
                "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker logfile.",
                Login,
                Auth,
            ),
            (403, "ACCESS_REFUSED - access to vhost", Vhost, Permission),
            (
                403,
                "ACCESS_REFUSED - access to queue 'orders' in vhost '/' refused for user 'probe'",
                Queue,
                Permission,
            ),
            (
                404,
                "NOT_FOUND - no queue 'orders' in vhost '/'",
                Queue,
                NotFound,
            ),
            (
                404,
                "NOT_FOUND - no queue 'is down or inaccessible' in vhost '/'",
                Queue,
                NotFound,
            ),
            (
                404,
                "NOT_FOUND - home node 'rabbit@b' of durable queue 'orders' in vhost '/' is down or inaccessible",
                Queue,
                Unavailable,
            ),
            (
                404,
                "NOT_FOUND - failed to perform operation on queue 'orders' in vhost '/' due to timeout",
                Queue,
                Unavailable,
            ),
            (
                404,
                "NOT_FOUND - queue 'orders' in vhost '/' process is stopped by supervisor",
                Queue,
                Unavailable,
            ),
            (
                404,
                "NOT_FOUND - queue 'orders' in vhost '/' has crashed and failed to restart",
                Queue,
                Unavailable,
            ),
            (
                530,
                "NOT_ALLOWED - vhost nowhere not found",
                Vhost,
                NotFound,
            ),
            (
                530,
                "NOT_ALLOWED - access to vhost '/' refused for user 'probe'",
                Vhost,
                Permission,
            ),
            (
                530,
                "NOT_ALLOWED - access to vhost 'limit is reached' refused for user 'x'",
                Vhost,
                Permission,
            ),
            (
                530,
                "NOT_ALLOWED - access to vhost '/' refused for user 'probe': connection limit (0) is reached",
                Vhost,
                Unavailable,
            ),
            (
                530,
                "NOT_ALLOWED - connection refused for user 'probe': user connection limit (0) is reached",
                Vhost,
                Unavailable,
            ),
            (
                530,
                "NOT_ALLOWED - number of channels opened for user 'probe' has reached the maximum allowed user limit of (0)",
                Channel,
                Unavailable,
            ),
            (
                530,
                "NOT_ALLOWED - negotiated frame_max = 1 is lower than the minimum allowed value (4096)",
                Vhost,
                Protocol,
            ),
            (
                541,
                "INTERNAL_ERROR - access to vhost 'a' refused for user 'probe': vhost 'a' is down",
                Vhost,
                Unavailable,
            ),
            (
                320,
                "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'",
                Channel,
                Unavailable,
            ),
            (402, "INVALID_PATH", Vhost, NotFound),
            (501, "FRAME_ERROR - type 1, all octets", Login, Protocol),
            (505, "UNEXPECTED_FRAME", Channel, Protocol),
            (999, "", Channel, Protocol),
        ] {
            let cause = Refusal {
                code,
                text: text.to_owned(),
            }
            .into_cause(asked);
            assert_eq!(cause.reason, reason, "{text}");
            assert_eq!(cause.code, Some(code.to_string()), "{text}");
            assert_eq!(cause.message, format!("{code} {text}").trim_end(), "{text}");
        }
    }
}
