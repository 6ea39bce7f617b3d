//! A peer of our own that logs clients in as MySQL 8 does: no package of Debian's has the server.
//!
//! It speaks the real bytes, and it computes what they must be: an answer to `caching_sha2_password` is
//! verified against the password, in the fast way (it remembers who was here), in full over TLS, and in full under
//! its RSA key. Only what comes after the login is thin: a ping, a query with one row or one of [`Mysql8::CANNED`].
//!
//! | account | logs in by |
//! |---|---|
//! | `probe` | `caching_sha2_password` |
//! | `nopw` | the same, without a password |
//! | `native`, `sha256`, `clear` | `mysql_native_password`, `sha256_password`, `mysql_clear_password` |
//! | `old`, `pam` | what nobody should speak: the login before 4.1, MariaDB's for PAM |
//! | `locked`, `expired` | never (3118, 1862) |
//! | `sandbox` | as `probe`, to a ping and a `SET`: the password has expired (`disconnect_on_expired_password=OFF`, 1820) |
//!
//! Anybody else is asked for a password and refused, as in MySQL: it does not tell who exists.

use std::{
    collections::HashSet,
    io::{self, Read, Write},
    net::TcpStream,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
};

use aws_lc_rs::{
    digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest},
    rsa::{OAEP_SHA1_MGF1SHA1, OaepPrivateDecryptingKey, PrivateDecryptingKey},
};
use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use rustls::{ServerConnection, StreamOwned};

use crate::{
    PASSWORD, PATIENCE,
    acceptor::{ANY, Acceptor},
    error::Result,
    packets::{self, Packets, invalid},
    pki::Certified,
    tls,
};

/// A peer that is listening. Dropping it ends it.
pub struct Mysql8 {
    acceptor: Acceptor,
    state: Arc<State>,
}

/// How to start one that differs.
#[must_use]
#[derive(Default)]
pub struct Builder {
    tls: Option<Arc<rustls::ServerConfig>>,
    tls_only: bool,
    /// What it asks for whatever account it is.
    asks_for: Option<&'static str>,
}

/// How a conversation went, by what the server saw of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// `caching_sha2_password` by the scramble alone.
    pub fast: usize,
    /// With the password itself, within TLS.
    pub full_over_tls: usize,
    /// With the password under the RSA key.
    pub full_under_rsa: usize,
    /// How often the key was handed out.
    pub keys: usize,
    pub refused: usize,
    /// Ended before the login was through: what MySQL counts against a host.
    pub aborted: usize,
    /// Ended with `COM_QUIT`.
    pub quit: usize,
    /// Ended after the login and without it.
    pub left: usize,
    /// Bytes of files that a client has sent.
    pub file_bytes: usize,
}

struct State {
    builder: Builder,
    /// Who has shown the password itself, and may show a scramble from now on.
    remembered: Mutex<HashSet<String>>,
    counts: Mutex<Counts>,
    connections: AtomicU32,
    asked: AtomicUsize,
}

impl Mysql8 {
    /// Queries with an answer of their own; any other has one row.
    pub const CANNED: [&str; 5] = [
        // An error in the middle of the rows.
        "rows and an error",
        // Three results: rows, none, rows.
        "three results",
        // Asks the client for a file.
        "load data local",
        // A row of 200 KiB.
        "long row",
        // Never answers.
        "sleep",
    ];

    /// With TLS by choice.
    pub fn start(certificate: &Certified) -> Result<Mysql8> {
        Mysql8::builder().tls(certificate)?.start()
    }

    pub fn builder() -> Builder {
        Builder::default()
    }

    pub fn port(&self) -> u16 {
        self.acceptor.addr().port()
    }

    /// `mysql://USER:PASSWORD@localhost:PORT/app`, to which options may be appended with `?`.
    pub fn url(&self, user: &str) -> String {
        format!("mysql://{user}:{PASSWORD}@127.0.0.1:{}/app", self.port())
    }

    /// Forgets who was here, as a restart and `FLUSH PRIVILEGES` do.
    pub fn forget(&self) {
        lock(&self.state.remembered).clear();
    }

    /// How it went so far. Waits until nobody is connected.
    pub fn counts(&self) -> Counts {
        self.acceptor
            .wait(PATIENCE, |acceptor| acceptor.open() == 0);
        *lock(&self.state.counts)
    }

    /// Its RSA key, PEM.
    pub fn public_key() -> String {
        rsa_key().1.clone()
    }
}

impl Builder {
    /// Speaks TLS to whoever asks for it.
    pub fn tls(mut self, certificate: &Certified) -> Result<Builder> {
        self.tls = Some(Arc::new(tls::server_config(certificate)?));
        Ok(self)
    }

    /// Lets nobody in without TLS (3159).
    pub fn tls_only(mut self) -> Builder {
        self.tls_only = true;
        self
    }

    /// Asks everybody for this login, as somebody does who has put himself between.
    pub fn asks_for(mut self, plugin: &'static str) -> Builder {
        self.asks_for = Some(plugin);
        self
    }

    pub fn start(self) -> Result<Mysql8> {
        let state = Arc::new(State {
            builder: self,
            remembered: Mutex::default(),
            counts: Mutex::default(),
            connections: AtomicU32::new(8),
            asked: AtomicUsize::new(0),
        });
        let shared = Arc::clone(&state);
        let acceptor = Acceptor::start("mysql8", ANY, move |stream, _| serve(stream, &shared))?;
        Ok(Mysql8 { acceptor, state })
    }
}

/// The private key, and the public one as PEM. Made once: it takes a while.
fn rsa_key() -> &'static (OaepPrivateDecryptingKey, String) {
    static KEY: OnceLock<(OaepPrivateDecryptingKey, String)> = OnceLock::new();
    KEY.get_or_init(|| {
        let made = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048);
        let made = made.unwrap_or_else(|err| panic!("no RSA key: {err}"));
        let key = PrivateDecryptingKey::from_pkcs8(&made.serialize_der())
            .ok()
            .and_then(|key| OaepPrivateDecryptingKey::new(key).ok());
        let key = key.unwrap_or_else(|| panic!("no RSA key to decrypt with"));
        (key, made.public_key_pem())
    })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

const SSL: u32 = 0x800;
const CONNECT_WITH_DB: u32 = 0x8;
const LENENC_ANSWER: u32 = 0x20_0000;
const PLUGIN_AUTH: u32 = 0x8_0000;

/// What MySQL 8.0 says that it can, without compression and without the short end of results.
const CAPABILITIES: u32 = 0xdaff_f7ff & !(SSL | 0x20 | 0x0100_0000 | 0x0400_0000);

/// How a conversation ended.
enum End {
    Refused,
    Quit,
    Left,
}

fn serve(stream: &mut TcpStream, state: &State) {
    let end = greet(stream, state);
    let mut counts = lock(&state.counts);
    match end {
        Ok(End::Refused) => counts.refused += 1,
        Ok(End::Quit) => counts.quit += 1,
        Ok(End::Left) => counts.left += 1,
        Err(_) => counts.aborted += 1,
    }
}

fn greet(stream: &mut TcpStream, state: &State) -> io::Result<End> {
    let number = state.connections.fetch_add(1, Ordering::Relaxed);
    let nonce = fresh_nonce(number, state);
    let offered = match state.builder.tls {
        Some(_) => CAPABILITIES | SSL,
        None => CAPABILITIES,
    };
    let [a, b, c, d] = offered.to_le_bytes();
    let mut greeting = b"\x0a8.0.36\0".to_vec();
    greeting.extend(number.to_le_bytes());
    greeting.extend(&nonce[..8]);
    // utf8mb4_0900_ai_ci, autocommit, and that the nonce has 21 bytes.
    greeting.extend([0, a, b, 255, 2, 0, c, d, 21]);
    greeting.extend([0; 10]);
    greeting.extend(&nonce[8..]);
    greeting.extend(b"\0caching_sha2_password\0");
    let mut packets = Packets::new(&mut *stream);
    packets.send(&greeting)?;
    let response = packets.receive()?;
    let capabilities = response.get(..4).map_or(0, |flags| {
        u32::from_le_bytes([flags[0], flags[1], flags[2], flags[3]])
    });
    let sequence = packets.sequence;
    if capabilities & SSL == 0 {
        return Login::new(&mut packets, state, nonce, false).take(&response);
    }
    if response.len() != 32 {
        return Err(invalid("a request for TLS has 32 bytes"));
    }
    let config = state.builder.tls.clone();
    let config = config.ok_or_else(|| invalid("TLS was not offered"))?;
    let tls = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut packets = Packets::new(StreamOwned::new(tls, &mut *stream));
    packets.sequence = sequence;
    let response = packets.receive()?;
    if response.get(..4) != Some(&capabilities.to_le_bytes()) {
        return Err(invalid(
            "other capabilities than those of the request for TLS",
        ));
    }
    let end = Login::new(&mut packets, state, nonce, true).take(&response);
    packets.stream.conn.send_close_notify();
    let _ = packets.stream.flush();
    end
}

/// Twenty bytes that nobody has seen before, none of them NUL.
fn fresh_nonce(number: u32, state: &State) -> [u8; 20] {
    let asked = state.asked.fetch_add(1, Ordering::Relaxed);
    let seed = format!("{number} {asked} {:p} {}", state, std::process::id());
    let hash = digest(&SHA256, seed.as_bytes());
    std::array::from_fn(|at| hash.as_ref()[at] % 127 + 1)
}

struct Login<'a, S> {
    packets: &'a mut Packets<S>,
    state: &'a State,
    nonce: [u8; 20],
    is_encrypted: bool,
}

impl<'a, S: Read + Write> Login<'a, S> {
    fn new(
        packets: &'a mut Packets<S>,
        state: &'a State,
        nonce: [u8; 20],
        is_encrypted: bool,
    ) -> Self {
        Login {
            packets,
            state,
            nonce,
            is_encrypted,
        }
    }

    /// Takes the packet that says who wants in, and all that follows.
    fn take(mut self, response: &[u8]) -> io::Result<End> {
        let mut rest = response;
        let flags = packets::bytes(&mut rest, 32)?;
        let capabilities = u32::from_le_bytes([flags[0], flags[1], flags[2], flags[3]]);
        let user = String::from_utf8_lossy(packets::text(&mut rest)?).into_owned();
        let answer = match capabilities & LENENC_ANSWER {
            0 => {
                let length = packets::bytes(&mut rest, 1)?[0];
                packets::bytes(&mut rest, usize::from(length))?
            }
            _ => packets::value(&mut rest)?.unwrap_or_default(),
        };
        let mut answer = answer.to_vec();
        let mut database = None;
        if capabilities & CONNECT_WITH_DB != 0 {
            database = Some(String::from_utf8_lossy(packets::text(&mut rest)?).into_owned());
        }
        let mut announced = String::new();
        if capabilities & PLUGIN_AUTH != 0 {
            announced = String::from_utf8_lossy(packets::text(&mut rest)?).into_owned();
        }
        if self.state.builder.tls_only && !self.is_encrypted {
            let text = "Connections using insecure transport are prohibited while --require_secure_transport=ON.";
            return self.refuse(3159, "HY000", text);
        }
        let plugin = match self.state.builder.asks_for {
            Some(plugin) => plugin,
            None => plugin_of(&user),
        };
        if announced != plugin {
            let mut switch = vec![0xfe];
            if plugin == "mysql_old_password" {
                self.packets.send(&switch)?;
            } else {
                self.nonce = fresh_nonce(0, self.state);
                switch.extend(plugin.as_bytes());
                switch.push(0);
                switch.extend(self.nonce);
                switch.push(0);
                self.packets.send(&switch)?;
            }
            answer = self.packets.receive()?;
        }
        let password = match user.as_str() {
            "nopw" => "",
            _ => PASSWORD,
        };
        let is_right = match plugin {
            "caching_sha2_password" => self.caching_sha2(&user, password, &answer)?,
            "sha256_password" => self.sha256(password, &answer)?,
            "mysql_native_password" => answer == native_scramble(&self.nonce, password),
            "mysql_clear_password" => answer == terminated(password),
            _ => false,
        };
        let (using, user) = (if answer.len() > 1 { "YES" } else { "NO" }, user.as_str());
        if !is_right || !ACCOUNTS.iter().any(|(name, _)| *name == user) {
            let text =
                format!("Access denied for user '{user}'@'localhost' (using password: {using})");
            return self.refuse(1045, "28000", &text);
        }
        match user {
            "locked" => {
                let text =
                    format!("Access denied for user '{user}'@'localhost'. Account is locked.");
                return self.refuse(3118, "HY000", &text);
            }
            "expired" => {
                let text = "Your password has expired. To log in you must change it using a client that supports expired passwords.";
                return self.refuse(1862, "HY000", text);
            }
            _ => {}
        }
        if database.is_some_and(|database| database != "app") {
            return self.refuse(1049, "42000", "Unknown database 'nowhere'");
        }
        self.packets.send(OK)?;
        self.answer_commands(user == "sandbox")
    }

    fn refuse(&mut self, code: u16, state: &str, text: &str) -> io::Result<End> {
        self.packets.send(&error(code, state, text))?;
        Ok(End::Refused)
    }

    /// `caching_sha2_password`: the scramble is believed of whom it remembers; others show the password.
    fn caching_sha2(&mut self, user: &str, password: &str, answer: &[u8]) -> io::Result<bool> {
        if password.is_empty() || answer.is_empty() || answer == [0] {
            return Ok(password.is_empty() && matches!(answer, [] | [0]));
        }
        let is_remembered = lock(&self.state.remembered).contains(user);
        if is_remembered && answer == sha2_scramble(&self.nonce, password) {
            lock(&self.state.counts).fast += 1;
            self.packets.send(&[1, 3])?;
            return Ok(true);
        }
        self.packets.send(&[1, 4])?;
        let shown = self.packets.receive()?;
        let is_right = self.is_password(&shown, password, 2)?;
        if is_right {
            lock(&self.state.remembered).insert(user.to_owned());
        }
        Ok(is_right)
    }

    /// `sha256_password`: the first answer is the password over TLS, or asks for the key.
    fn sha256(&mut self, password: &str, answer: &[u8]) -> io::Result<bool> {
        self.is_password(answer, password, 1)
    }

    /// Whether this is the password, or what asks for the key and is followed by it.
    fn is_password(&mut self, shown: &[u8], password: &str, asks: u8) -> io::Result<bool> {
        if self.is_encrypted {
            lock(&self.state.counts).full_over_tls += 1;
            return Ok(shown == terminated(password));
        }
        let mut shown = shown.to_vec();
        let (key, pem) = rsa_key();
        if shown == [asks] {
            lock(&self.state.counts).keys += 1;
            self.packets.send(&[&[1], pem.as_bytes()].concat())?;
            shown = self.packets.receive()?;
        }
        let mut opened = vec![0; key.min_output_size()];
        let Ok(opened) = key.decrypt(&OAEP_SHA1_MGF1SHA1, &shown, &mut opened, None) else {
            return Ok(false);
        };
        for (byte, nonce) in opened.iter_mut().zip(self.nonce.iter().cycle()) {
            *byte ^= nonce;
        }
        lock(&self.state.counts).full_under_rsa += 1;
        Ok(*opened == terminated(password)[..])
    }

    fn answer_commands(&mut self, is_expired: bool) -> io::Result<End> {
        loop {
            self.packets.sequence = 0;
            let Ok(command) = self.packets.receive() else {
                return Ok(End::Left);
            };
            match command.split_first() {
                Some((1, _)) => return Ok(End::Quit),
                Some((14, _)) => self.packets.send(OK)?,
                Some((3, query)) => match &*String::from_utf8_lossy(query) {
                    "rows and an error" => {
                        self.send_all(&[COLUMNS, ROW])?;
                        let text = "Query execution was interrupted";
                        self.packets.send(&error(1317, "70100", text))?;
                    }
                    "three results" => {
                        self.send_all(&[COLUMNS, ROW])?;
                        self.packets.send(&[0xfe, 0, 0, 10, 0])?;
                        self.packets.send(&[0, 0, 0, 10, 0, 0, 0])?;
                        self.send_all(&[COLUMNS, ROW, END])?;
                    }
                    "load data local" => {
                        self.packets.send(b"\xfb/etc/passwd")?;
                        let mut sent = self.packets.receive()?;
                        while !sent.is_empty() {
                            lock(&self.state.counts).file_bytes += sent.len();
                            sent = self.packets.receive()?;
                        }
                        self.packets.send(OK)?;
                    }
                    "long row" => {
                        self.send_all(&[COLUMNS])?;
                        let long = [&[0xfd, 0, 0x20, 3][..], &vec![b'x'; 0x3_2000]].concat();
                        self.packets.send(&long)?;
                        self.send_all(&[END])?;
                    }
                    "sleep" => {
                        let _ = self.packets.receive();
                        return Ok(End::Left);
                    }
                    set if set.starts_with("SET ") => self.packets.send(OK)?,
                    _ if is_expired => {
                        let text = "You must reset your password using ALTER USER statement before executing this statement.";
                        self.packets.send(&error(1820, "HY000", text))?;
                    }
                    "DO 1" => self.packets.send(OK)?,
                    _ => self.send_all(&[COLUMNS, ROW, END])?,
                },
                _ => self
                    .packets
                    .send(&error(1047, "08S01", "Unknown command"))?,
            }
        }
    }

    fn send_all(&mut self, parts: &[&[&[u8]]]) -> io::Result<()> {
        let mut packets = parts.iter().copied().flatten();
        packets.try_for_each(|packet| self.packets.send(packet))
    }
}

/// Each account, and how it logs in.
const ACCOUNTS: &[(&str, &str)] = &[
    ("probe", "caching_sha2_password"),
    ("nopw", "caching_sha2_password"),
    ("locked", "caching_sha2_password"),
    ("expired", "caching_sha2_password"),
    ("sandbox", "caching_sha2_password"),
    ("native", "mysql_native_password"),
    ("sha256", "sha256_password"),
    ("clear", "mysql_clear_password"),
    ("old", "mysql_old_password"),
    ("pam", "dialog"),
];

fn plugin_of(user: &str) -> &'static str {
    let known = ACCOUNTS.iter().find(|(name, _)| *name == user);
    known.map_or("caching_sha2_password", |(_, plugin)| plugin)
}

const OK: &[u8] = &[0, 0, 0, 2, 0, 0, 0];

/// One column, `1`, a number.
const COLUMNS: &[&[u8]] = &[
    &[1],
    b"\x03def\0\0\0\x011\0\x0c\x3f\0\x01\0\0\0\x08\x81\0\0\0\0",
    &[0xfe, 0, 0, 2, 0],
];
const ROW: &[&[u8]] = &[b"\x011"];
const END: &[&[u8]] = &[&[0xfe, 0, 0, 2, 0]];

fn error(code: u16, state: &str, text: &str) -> Vec<u8> {
    let [low, high] = code.to_le_bytes();
    let mut packet = vec![0xff, low, high, b'#'];
    packet.extend(state.as_bytes());
    packet.extend(text.as_bytes());
    packet
}

fn terminated(password: &str) -> Vec<u8> {
    [password.as_bytes(), &[0]].concat()
}

/// SHA256(password) XOR SHA256(SHA256(SHA256(password)), nonce)
fn sha2_scramble(nonce: &[u8], password: &str) -> Vec<u8> {
    let once = digest(&SHA256, password.as_bytes());
    let twice = digest(&SHA256, once.as_ref());
    let mask = digest(&SHA256, &[twice.as_ref(), nonce].concat());
    xor(once.as_ref(), mask.as_ref())
}

/// SHA1(password) XOR SHA1(nonce, SHA1(SHA1(password)))
fn native_scramble(nonce: &[u8], password: &str) -> Vec<u8> {
    let sha1 = &SHA1_FOR_LEGACY_USE_ONLY;
    let once = digest(sha1, password.as_bytes());
    let twice = digest(sha1, once.as_ref());
    let mask = digest(sha1, &[nonce, twice.as_ref()].concat());
    xor(once.as_ref(), mask.as_ref())
}

fn xor(left: &[u8], right: &[u8]) -> Vec<u8> {
    left.iter().zip(right).map(|(a, b)| a ^ b).collect()
}
