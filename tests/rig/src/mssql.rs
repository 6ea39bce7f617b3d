//! SQL Server, as far as it can be had without Microsoft: a peer of our own that speaks the real bytes.
//!
//! TDS 7.4 with PRELOGIN and TLS inside of its packets, TDS 8.0 with TLS before them, LOGIN7, batches,
//! attention, and the errors by which the real one is told apart. FreeTDS, a client by others, vouches for
//! it (`tests/mssql.rs`); the real one is in `docker-compose.yml`.
//!
//! | user | may |
//! |---|---|
//! | `probe` | everything there is |
//! | `disabled` | nothing (18470) |
//! | `locked` | nothing, after too many wrong passwords (18486) |
//! | `expired` | nothing: the password is too old (18487) |
//! | `mustchange` | nothing before it has another password (18488) |
//! | `windows` | nothing: a Windows login (18452) |
//! | `nodefault` | nothing: its default database is gone (4064) |
//! | `trigger` | nothing: a trigger says no (17892) |
//! | `firewalled` | nothing: Azure's firewall says no (40615) |
//! | `parrot` | hear its own password in the refusal (18456, state 8) |
//!
//! Databases: `master`, `orders`; any other is 4060. Every password is [`PASSWORD`].

mod wire;

use std::{
    io,
    net::TcpStream,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustls::ServerConfig;

pub use self::wire::Login;
use self::wire::{Line, Prelogin, Tokens};
use crate::{
    PASSWORD,
    acceptor::{ANY, Acceptor},
    error::Result,
    pki::{Certified, Pki, Shown},
    process::Process,
    rig::{Kind, Rig, Server},
    tls,
};

/// A running server. Dropping it stops it.
pub struct Mssql {
    acceptor: Acceptor,
    journal: Arc<Mutex<Journal>>,
}

/// Which SQL Server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MssqlKind {
    /// 2022: has TLS and does not insist on it.
    Main,
    /// With this certificate in place of the good one.
    Shows(Shown),
    /// Wants a client certificate, as something in front of it may.
    MutualTls,
    /// Has no TLS at all.
    NoTls,
    /// `Force Encryption`.
    ForcesTls,
    /// `Force Strict Encryption`.
    ForcesStrict,
    /// 2019: hangs up on TDS 8.0.
    Old,
    /// As many users as it takes (17809).
    Full,
    /// Azure, moving its database (40613).
    Moving,
    /// Sends everybody to the main one.
    Routes,
    /// Sends everybody to itself.
    RoutesInCircles,
}

impl Server for Mssql {
    fn processes(&self) -> Vec<&Process> {
        Vec::new()
    }
}

impl Kind for MssqlKind {
    type Server = Mssql;

    const NAME: &'static str = "mssql";

    fn start(self, rig: &Rig, _: &str) -> Result<Mssql> {
        let pki = rig.pki();
        let builder = Mssql::builder(pki);
        match self {
            MssqlKind::Main => builder,
            MssqlKind::Shows(shown) => builder.certificate(pki.shown(shown)),
            MssqlKind::MutualTls => builder.mutual_tls(),
            MssqlKind::NoTls => builder.encryption(Encryption::NotSupported),
            MssqlKind::ForcesTls => builder.encryption(Encryption::On),
            MssqlKind::ForcesStrict => builder.encryption(Encryption::Strict),
            MssqlKind::Old => builder.old(),
            MssqlKind::Full => builder.refuses(
                17809,
                20,
                "Could not connect because the maximum number of '10' user connections has already been \
                 reached. The system administrator can use sp_configure to increase the maximum value. The \
                 connection has been closed.",
            ),
            MssqlKind::Moving => builder.azure().refuses(
                40613,
                17,
                "Database 'orders' on server 'rig' is not currently available.  Please retry the connection \
                 later.  If the problem persists, contact customer support, and provide them the session \
                 tracing ID of '{00000000-0000-0000-0000-000000000000}'.",
            ),
            MssqlKind::Routes => {
                builder.azure().routes_to(rig.get(MssqlKind::Main)?.port())
            }
            MssqlKind::RoutesInCircles => builder.azure().routes_to(0),
        }
        .start()
    }
}

/// What the server is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    NotSupported,
    /// There for who wants it, and for every login.
    Off,
    /// For everybody.
    On,
    /// TDS 8.0 and nothing else.
    Strict,
}

/// How to start one that differs.
#[must_use]
pub struct Builder<'a> {
    pki: &'a Pki,
    certificate: &'a Certified,
    client_certificates: bool,
    settings: Settings,
}

#[derive(Clone)]
struct Settings {
    /// Major, minor, build.
    version: [u8; 4],
    encryption: Encryption,
    /// Whether it knows TDS 8.0.
    knows_strict: bool,
    /// The error that every login gets.
    refusal: Option<(i32, u8, &'static str)>,
    /// The port on localhost where everybody is sent, 0 for its own.
    routing: Option<u16>,
    /// The named instance that it is, if it is one.
    instance: &'static str,
    /// TLS up to TDS 7.4, and in TDS 8.0.
    tls: Option<[Arc<ServerConfig>; 2]>,
}

impl Mssql {
    pub fn builder(pki: &Pki) -> Builder<'_> {
        Builder {
            pki,
            certificate: &pki.server,
            client_certificates: false,
            settings: Settings {
                version: [16, 0, 0x10, 0x27],
                encryption: Encryption::Off,
                knows_strict: true,
                refusal: None,
                routing: None,
                instance: "RIG",
                tls: None,
            },
        }
    }

    pub fn port(&self) -> u16 {
        self.acceptor.addr().port()
    }

    /// `sqlserver://USER:PASSWORD@localhost:PORT?database=orders`
    pub fn url(&self, user: &str) -> String {
        format!(
            "sqlserver://{user}:{PASSWORD}@localhost:{}?database=orders",
            self.port()
        )
    }

    /// Every login that came in, with the password that it had.
    pub fn logins(&self) -> Vec<Login> {
        self.journal().logins.clone()
    }

    /// Every batch that came in.
    pub fn queries(&self) -> Vec<String> {
        self.journal().queries.clone()
    }

    /// How each connection ended: `in order`, or how else.
    pub fn ends(&self) -> Vec<String> {
        self.journal().ends.clone()
    }

    /// How many queries were taken back.
    pub fn attentions(&self) -> usize {
        self.journal().attentions
    }

    /// How many connections are open right now.
    pub fn open(&self) -> usize {
        self.acceptor.open()
    }

    /// Waits until nobody is connected. False if somebody stayed.
    #[must_use]
    pub fn everybody_left(&self, within: Duration) -> bool {
        self.acceptor.wait(within, |acceptor| acceptor.open() == 0)
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        lock(&self.journal)
    }
}

impl<'a> Builder<'a> {
    pub fn certificate(mut self, certificate: &'a Certified) -> Self {
        self.certificate = certificate;
        self
    }

    pub fn mutual_tls(mut self) -> Self {
        self.client_certificates = true;
        self
    }

    pub fn encryption(mut self, encryption: Encryption) -> Self {
        self.settings.encryption = encryption;
        self
    }

    fn old(mut self) -> Self {
        self.settings.version = [15, 0, 0x08, 0x69];
        self.settings.knows_strict = false;
        self
    }

    fn azure(mut self) -> Self {
        self.settings.version = [12, 0, 0x07, 0xd0];
        self
    }

    fn refuses(mut self, number: i32, class: u8, message: &'static str) -> Self {
        self.settings.refusal = Some((number, class, message));
        self
    }

    fn routes_to(mut self, port: u16) -> Self {
        self.settings.routing = Some(port);
        self
    }

    pub fn start(mut self) -> Result<Mssql> {
        if self.settings.encryption != Encryption::NotSupported {
            self.settings.tls = Some([self.tls(false)?, self.tls(true)?]);
        }
        let journal = Arc::new(Mutex::new(Journal::default()));
        let (kept, settings) = (Arc::clone(&journal), self.settings);
        let acceptor = Acceptor::start("mssql peer", ANY, move |tcp, _| {
            let own_port = tcp.local_addr().map_or(0, |addr| addr.port());
            let mut session = Session {
                settings: &settings,
                journal: &kept,
                own_port,
            };
            let end = session
                .serve(tcp)
                .unwrap_or_else(|err| wire::how_it_ended(&err));
            lock(&kept).ends.push(end);
        })?;
        Ok(Mssql { acceptor, journal })
    }

    /// Up to TDS 7.4 the real one speaks TLS 1.2 at most.
    fn tls(&self, strict: bool) -> Result<Arc<ServerConfig>> {
        let clients = self.client_certificates.then_some(&self.pki.ca);
        let versions: &[_] = match strict {
            true => rustls::DEFAULT_VERSIONS,
            false => &[&rustls::version::TLS12],
        };
        let mut config = tls::server_config_with(self.certificate, clients, versions)?;
        if strict {
            config.alpn_protocols = vec![b"tds/8.0".to_vec()];
        }
        Ok(Arc::new(config))
    }
}

/// What has happened.
#[derive(Default)]
struct Journal {
    logins: Vec<Login>,
    queries: Vec<String>,
    ends: Vec<String>,
    attentions: usize,
}

fn lock(journal: &Mutex<Journal>) -> MutexGuard<'_, Journal> {
    journal.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How much of a TDS 7.4 conversation is encrypted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Agreed {
    Nothing,
    Login,
    Everything,
}

/// One connection.
struct Session<'a> {
    settings: &'a Settings,
    journal: &'a Mutex<Journal>,
    own_port: u16,
}

impl Session<'_> {
    /// The whole conversation. Gives how it ended.
    fn serve(&mut self, tcp: &mut TcpStream) -> io::Result<String> {
        let mut line = Line::new(tcp);
        let Some(first) = line.first_byte()? else {
            return Ok("before a word".into());
        };
        let begins_with_tls = first == 0x16;
        let only_strict = self.settings.encryption == Encryption::Strict;
        match &self.settings.tls {
            Some([_, tls]) if begins_with_tls && self.settings.knows_strict => {
                line.shake_hands(tls)?;
            }
            _ if begins_with_tls || only_strict => return Ok("turned away".into()),
            _ => {}
        }
        let Some(agreed) = self.prelogin(&mut line)? else {
            return Ok(line.hang_up());
        };
        if let (Agreed::Login | Agreed::Everything, Some([tls, _])) = (agreed, &self.settings.tls) {
            line.shake_hands_in_packets(tls)?;
        }
        let (kind, message) = line.message()?;
        if kind != wire::LOGIN7 {
            return Ok(format!("a message of the type 0x{kind:02x} for a login"));
        }
        let login = match Login::parse(&message) {
            Ok(login) => Login {
                encrypted: line.is_encrypted(),
                ..login
            },
            Err(wrong) => return Ok(format!("a bad login: {wrong}")),
        };
        if agreed == Agreed::Login {
            line.forget_tls();
        }
        lock(self.journal).logins.push(login.clone());
        let (answer, goes_on) = self.log_in(&login);
        line.send(wire::RESPONSE, &answer.0)?;
        if !goes_on {
            return Ok(line.hang_up());
        }
        if (512..=32_767).contains(&login.packet_bytes) {
            line.packet_bytes = login.packet_bytes as usize;
        }
        self.answer(&mut line)
    }

    /// What comes of PRELOGIN: `None` when there is nothing more to say.
    fn prelogin(&self, line: &mut Line) -> io::Result<Option<Agreed>> {
        let (kind, message) = line.message()?;
        if kind != wire::PRELOGIN {
            return Err(io::Error::other(format!(
                "a message of the type 0x{kind:02x} for a PRELOGIN"
            )));
        }
        let client = Prelogin::parse(&message).ok_or_else(|| io::Error::other("a bad PRELOGIN"))?;
        let (says, agreed) = match line.is_encrypted() {
            true => (client.encryption, Some(Agreed::Nothing)),
            false => self.negotiate(client.encryption),
        };
        let is_instance = client.instance.is_empty()
            || client.instance.eq_ignore_ascii_case("MSSQLSERVER")
            || client.instance.eq_ignore_ascii_case(self.settings.instance);
        let answer = wire::prelogin(self.settings.version, says, is_instance);
        line.send(wire::RESPONSE, &answer)?;
        Ok(agreed)
    }

    /// The table of MS-TDS, section 2.2.6.5.
    fn negotiate(&self, client: u8) -> (u8, Option<Agreed>) {
        use wire::{NOT_SUPPORTED, OFF, ON, REQUIRED};
        match (client, self.settings.encryption) {
            (OFF, Encryption::Off) => (OFF, Some(Agreed::Login)),
            (OFF, Encryption::On) => (REQUIRED, Some(Agreed::Everything)),
            (OFF, _) => (NOT_SUPPORTED, Some(Agreed::Nothing)),
            (NOT_SUPPORTED, Encryption::On) => (REQUIRED, None),
            (NOT_SUPPORTED, _) => (NOT_SUPPORTED, Some(Agreed::Nothing)),
            (_, Encryption::NotSupported) => (NOT_SUPPORTED, None),
            (_, _) => (ON, Some(Agreed::Everything)),
        }
    }

    /// The answer to a login, and whether there is more to say after it.
    fn log_in(&self, login: &Login) -> (Tokens, bool) {
        let user = &login.username;
        let tokens = Tokens::default();
        let failed = |tokens: Tokens| (tokens.done(wire::ERROR, 0), false);
        let login_failed = format!("Login failed for user '{user}'.");
        if let Some((number, class, message)) = self.settings.refusal {
            return failed(tokens.error(number, 1, class, message));
        }
        if user == "parrot" {
            let message = format!("{login_failed} {} is not the password.", login.password);
            return failed(tokens.error(18456, 8, 14, &message));
        }
        let refusal = REFUSALS.iter().find(|(name, ..)| name == user);
        if login.password != PASSWORD || (user != "probe" && refusal.is_none()) {
            return failed(tokens.error(18456, 1, 14, &login_failed));
        }
        if let Some((_, number, class, message)) = refusal {
            return failed(tokens.error(*number, 1, *class, message));
        }
        let database = match login.database.as_str() {
            "" => "master",
            name @ ("master" | "orders") => name,
            name => {
                let message = format!(
                    "Cannot open database \"{name}\" requested by the login. The login failed."
                );
                let tokens = tokens.error(4060, 1, 11, &message);
                return failed(tokens.error(18456, 1, 14, &login_failed));
            }
        };
        let packet_bytes = login.packet_bytes.clamp(512, 32_767).to_string();
        let tokens = tokens
            .env_change(1, database)
            .info(5701, &format!("Changed database context to '{database}'."))
            .collation()
            .env_change(2, "us_english")
            .info(5703, "Changed language setting to us_english.")
            .login_ack(login.tds_version, self.settings.version);
        let tokens = match self.settings.routing {
            None => tokens,
            Some(0) => tokens.routing("localhost", self.own_port),
            Some(port) => tokens.routing("localhost", port),
        };
        (tokens.env_change(4, &packet_bytes).done(0, 0), true)
    }

    /// Answers batches until the other side leaves.
    fn answer(&self, line: &mut Line) -> io::Result<String> {
        loop {
            let (kind, message) = line.message()?;
            let text = match kind {
                wire::SQL_BATCH => wire::batch_text(&message),
                wire::ATTENTION => {
                    self.heed(line)?;
                    continue;
                }
                _ => return Ok(format!("a message of the type 0x{kind:02x}")),
            };
            lock(self.journal).queries.push(text.clone());
            match text.trim().trim_end_matches(';') {
                // Until it is taken back, or its connection ends.
                query if query.starts_with("WAITFOR") => match line.message()? {
                    (wire::ATTENTION, _) => self.heed(line)?,
                    (kind, _) => return Ok(format!("0x{kind:02x} while it waited")),
                },
                query if query.starts_with("RAISERROR") => {
                    let tokens = Tokens::default().error(50000, 1, 20, "the end is near");
                    line.send(wire::RESPONSE, &tokens.done(wire::ERROR, 0).0)?;
                    return Ok(line.hang_up());
                }
                query => line.send(wire::RESPONSE, &batch(query).0)?,
            }
        }
    }

    fn heed(&self, line: &mut Line) -> io::Result<()> {
        lock(self.journal).attentions += 1;
        let tokens = Tokens::default().done(wire::ATTENTION_HEARD, 0);
        line.send(wire::RESPONSE, &tokens.0)
    }
}

/// Who is refused though the password is right: number, severity, message.
const REFUSALS: &[(&str, i32, u8, &str)] = &[
    (
        "disabled",
        18470,
        14,
        "Login failed for user 'disabled'. Reason: The account is disabled.",
    ),
    (
        "locked",
        18486,
        14,
        "Login failed for user 'locked' because the account is currently locked out. The system administrator can unlock it.",
    ),
    (
        "expired",
        18487,
        14,
        "Login failed for user 'expired'.  Reason: The password of the account has expired.",
    ),
    (
        "mustchange",
        18488,
        14,
        "Login failed for user 'mustchange'.  Reason: The password of the account must be changed.",
    ),
    (
        "windows",
        18452,
        14,
        "Login failed. The login is from an untrusted domain and cannot be used with Integrated authentication.",
    ),
    (
        "nodefault",
        4064,
        11,
        "Cannot open user default database. Login failed.",
    ),
    (
        "trigger",
        17892,
        14,
        "Logon failed for login 'trigger' due to trigger execution.",
    ),
    (
        "firewalled",
        40615,
        14,
        "Cannot open server 'rig' requested by the login. Client with IP address '127.0.0.1' is not allowed to access the server.",
    ),
];

/// The answer to a batch.
fn batch(query: &str) -> Tokens {
    let tokens = Tokens::default();
    let failed = |number, class, message: &str| {
        Tokens::default()
            .error(number, 1, class, message)
            .done(wire::ERROR, 0)
    };
    match query {
        "SELECT 1" | "select 1" => tokens.number(1).done(wire::COUNT, 1),
        "SELECT 1; SELECT 2" => tokens
            .number(1)
            .done(wire::COUNT | wire::MORE, 1)
            .number(2)
            .done(wire::COUNT, 1),
        "SELECT 1; SELECT * FROM nowhere" => tokens
            .number(1)
            .done(wire::COUNT | wire::MORE, 1)
            .error(208, 1, 16, "Invalid object name 'nowhere'.")
            .done(wire::ERROR, 0),
        "SELECT * FROM everything" => everything(),
        "SELECT * FROM big" => rows(200),
        // A little less than 16 MiB, and more.
        "SELECT * FROM large" => rows(4000),
        "SELECT * FROM huge" => rows(4500),
        "EXEC greet" => tokens
            .info(0, "hello")
            .raw(&wire::done(0xff, wire::MORE, 0))
            .raw(&[0x79, 0, 0, 0, 0])
            .raw(&wire::done(0xfe, 0, 0)),
        "SELECT * FROM nowhere" => failed(208, 16, "Invalid object name 'nowhere'."),
        "SELECT 1/0" => failed(8134, 16, "Divide by zero error encountered."),
        "SELECT * FROM secrets" => failed(
            229,
            14,
            "The SELECT permission was denied on the object 'secrets', database 'orders', schema 'dbo'.",
        ),
        "USE restricted" => failed(
            916,
            14,
            "The server principal \"probe\" is not able to access the database \"restricted\" under the current security context.",
        ),
        "EXEC deadlock" => failed(
            1205,
            13,
            "Transaction (Process ID 51) was deadlocked on lock resources with another process and has been chosen as the deadlock victim. Rerun the transaction.",
        ),
        query if query.to_ascii_lowercase().starts_with("set ") => tokens.done(0, 0),
        _ => failed(102, 15, "Incorrect syntax near the beginning."),
    }
}

/// The type of a column, a value, and null if that may be.
type Column = (Vec<u8>, Vec<u8>, Option<Vec<u8>>);

/// A row with a value of each layout that there is, the same with every second one null, and one that says so
/// in front.
fn everything() -> Tokens {
    let text = wire::COLLATION;
    let columns: Vec<Column> = vec![
        (vec![0x38], vec![1, 0, 0, 0], None),
        (vec![0x26, 8], [vec![8], vec![7; 8]].concat(), Some(vec![0])),
        (vec![0x68, 1], vec![1, 1], Some(vec![0])),
        (
            vec![0x6a, 17, 38, 10],
            [vec![5, 1], vec![9; 4]].concat(),
            Some(vec![0]),
        ),
        (vec![0x28], vec![3, 1, 2, 3], Some(vec![0])),
        (vec![0x2a, 7], [vec![8], vec![1; 8]].concat(), Some(vec![0])),
        (
            vec![0x24, 16],
            [vec![16], vec![5; 16]].concat(),
            Some(vec![0]),
        ),
        (
            [&[0xe7, 40, 0][..], &text].concat(),
            [&[6, 0][..], &wire::utf16("abc")].concat(),
            Some(vec![0xff, 0xff]),
        ),
        (
            [&[0xa7, 40, 0][..], &text].concat(),
            vec![2, 0, b'h', b'i'],
            Some(vec![0xff, 0xff]),
        ),
        (
            vec![0xa5, 40, 0],
            vec![2, 0, 0xaa, 0xd1],
            Some(vec![0xff, 0xff]),
        ),
        // varbinary(max), in two parts.
        (
            vec![0xa5, 0xff, 0xff],
            [
                &5_u64.to_le_bytes()[..],
                &[2, 0, 0, 0, 0xaa, 0xaa, 3, 0, 0, 0, 1, 2, 3, 0, 0, 0, 0],
            ]
            .concat(),
            Some(vec![0xff; 8]),
        ),
        // xml, without a schema, of a length that is not said.
        (
            vec![0xf1, 0],
            [
                &(u64::MAX - 1).to_le_bytes()[..],
                &[2, 0, 0, 0, b'<', 0, 0, 0, 0, 0],
            ]
            .concat(),
            Some(vec![0xff; 8]),
        ),
        // sql_variant, an int inside.
        (
            vec![0x62, 0x49, 0x1f, 0, 0],
            vec![6, 0, 0, 0, 0x38, 0, 1, 0, 0, 0],
            Some(vec![0; 4]),
        ),
        // text, of the table dbo.old.
        (
            [&[0x23, 0xff, 0xff, 0xff, 0x7f][..], &text].concat(),
            [&[16][..], &[1; 16], &[2; 8], &[2, 0, 0, 0, b'h', b'i']].concat(),
            Some(vec![0]),
        ),
        // geography
        (
            [
                &[0xf0, 0xff, 0xff][..],
                &wire::text8("orders"),
                &wire::text8("sys"),
                &wire::text8("geography"),
                &wire::text16("Microsoft.SqlServer.Types"),
            ]
            .concat(),
            [&1_u64.to_le_bytes()[..], &[1, 0, 0, 0, 0x16, 0, 0, 0, 0]].concat(),
            Some(vec![0xff; 8]),
        ),
    ];
    let mut bytes = vec![0x81];
    bytes.extend((columns.len() as u16).to_le_bytes());
    for (kind, ..) in &columns {
        bytes.extend([0, 0, 0, 0, 9, 0]);
        bytes.extend(kind);
        if kind[0] == 0x23 {
            bytes.push(2);
            bytes.extend(wire::text16("dbo"));
            bytes.extend(wire::text16("old"));
        }
        bytes.extend(wire::text8("column"));
    }
    // In the order of the first column.
    bytes.extend([0xa9, 2, 0, 1, 0]);
    for nulls in [false, true] {
        bytes.push(0xd1);
        for (index, (_, value, null)) in columns.iter().enumerate() {
            match (null, nulls && index % 2 == 1) {
                (Some(null), true) => bytes.extend(null),
                _ => bytes.extend(value),
            }
        }
    }
    bytes.push(0xd2);
    let mut bitmap = vec![0_u8; columns.len().div_ceil(8)];
    let mut values: Vec<u8> = Vec::new();
    for (index, (_, value, null)) in columns.iter().enumerate() {
        match null.is_some() && index % 3 == 0 {
            true => bitmap[index / 8] |= 1 << (index % 8),
            false => values.extend(value),
        }
    }
    bytes.extend(bitmap);
    bytes.extend(values);
    Tokens::default().raw(&bytes).done(wire::COUNT, 3)
}

/// More than a packet holds, in rows that end anywhere in one: 4 kB each on average.
fn rows(count: u64) -> Tokens {
    let mut bytes = vec![0x81, 1, 0, 0, 0, 0, 0, 9, 0, 0xe7, 0x40, 0x1f];
    bytes.extend(wire::COLLATION);
    bytes.push(0);
    for row in 0..count {
        let value = "x".repeat((row * 13 % 4000) as usize);
        bytes.push(0xd1);
        bytes.extend(((value.len() * 2) as u16).to_le_bytes());
        bytes.extend(wire::utf16(&value));
    }
    Tokens::default().raw(&bytes).done(wire::COUNT, count)
}
