//! Redis, plain and over TLS, with an ACL user for each answer.
//!
//! | user | may |
//! |---|---|
//! | `default` | everything, with the password (`requirepass`) |
//! | `probe` | say hello, ping, select |
//! | `noping` | log in, and nothing more (NOPERM) |
//! | `off1` | nothing: switched off (WRONGPASS) |
//!
//! Every password is [`PASSWORD`].

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::{
    PASSWORD, PATIENCE,
    error::{Error, Result},
    install,
    pki::{Certified, Pki, Shown},
    ports::{self, Refused},
    process::{Process, Spec},
    rig::{Kind, Rig, Server},
};

/// A running server. Dropping it stops it and removes its data.
pub struct Redis {
    // Let go before the server is stopped, and that before its folder goes.
    _holding: Vec<UnixStream>,
    process: Process,
    port: u16,
    tls_port: u16,
    dir: TempDir,
    _no_master: Option<Refused>,
}

/// Which Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedisKind {
    Main,
    /// With this certificate in place of the good one.
    Shows(Shown),
    /// Wants a client certificate.
    MutualTls,
    /// `max number of clients reached`.
    Full,
    /// `MASTERDOWN`.
    MasterDown,
    /// `LOADING`.
    Loading,
}

impl Server for Redis {
    fn processes(&self) -> Vec<&Process> {
        vec![&self.process]
    }
}

impl Kind for RedisKind {
    type Server = Redis;

    const NAME: &'static str = "redis";

    fn start(self, rig: &Rig, name: &str) -> Result<Redis> {
        let pki = rig.pki();
        let builder = Redis::builder(pki, rig.dir()).name(name);
        match self {
            RedisKind::Main => builder,
            RedisKind::Shows(shown) => builder.certificate(pki.shown(shown)),
            RedisKind::MutualTls => builder.mutual_tls(),
            RedisKind::Full => builder.full(),
            RedisKind::MasterDown => builder.master_down(),
            RedisKind::Loading => builder.loading(),
        }
        .start()
    }
}

/// How to start one that differs.
#[must_use]
pub struct Builder<'a> {
    pki: &'a Pki,
    dir: &'a Path,
    name: String,
    certificate: &'a Certified,
    client_certificates: bool,
    state: State,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Serving,
    Full,
    MasterDown,
    Loading,
}

impl Redis {
    /// The ordinary one: a plain port, a TLS port with `pki.server`, a unix socket. Its data is below `dir`.
    pub fn start(pki: &Pki, dir: &Path) -> Result<Redis> {
        Redis::builder(pki, dir).start()
    }

    pub fn builder<'a>(pki: &'a Pki, dir: &'a Path) -> Builder<'a> {
        Builder {
            pki,
            dir,
            name: "redis".into(),
            certificate: &pki.server,
            client_certificates: false,
            state: State::Serving,
        }
    }

    /// The plain port.
    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn tls_port(&self) -> u16 {
        self.tls_port
    }

    /// The unix socket, open to everybody with the password.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("redis.sock")
    }

    /// `redis://USER:PASSWORD@localhost:PORT`.
    pub fn url(&self, user: &str) -> String {
        format!("redis://{user}:{PASSWORD}@localhost:{}", self.port)
    }

    /// `rediss://USER:PASSWORD@localhost:PORT`.
    pub fn tls_url(&self, user: &str) -> String {
        format!("rediss://{user}:{PASSWORD}@localhost:{}", self.tls_port)
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Runs one command as `default` and returns the reply as text; an error reply is an error.
    pub fn command(&self, words: &[&str]) -> Result<String> {
        ask(UnixStream::connect(self.socket()), words).map_err(|why| {
            Error::new(format!(
                "{}: `{}`: {why}",
                self.process.name(),
                words.join(" ")
            ))
        })
    }
}

impl<'a> Builder<'a> {
    /// What it is called in messages; the log is `NAME.log`.
    pub fn name(mut self, name: &str) -> Builder<'a> {
        self.name = name.into();
        self
    }

    /// Shows this certificate instead of `pki.server`.
    pub fn certificate(mut self, certificate: &'a Certified) -> Builder<'a> {
        self.certificate = certificate;
        self
    }

    /// Wants a client certificate of our authority on the TLS port.
    pub fn mutual_tls(mut self) -> Builder<'a> {
        self.client_certificates = true;
        self
    }

    /// Has room for nobody: `max number of clients reached`.
    pub fn full(mut self) -> Builder<'a> {
        self.state = State::Full;
        self
    }

    /// A replica that has lost its master and will not serve what it has: `MASTERDOWN`.
    pub fn master_down(mut self) -> Builder<'a> {
        self.state = State::MasterDown;
        self
    }

    /// Reads its data for the next ten minutes: `LOADING`. It answers five times a second meanwhile.
    pub fn loading(mut self) -> Builder<'a> {
        self.state = State::Loading;
        self
    }

    pub fn start(self) -> Result<Redis> {
        let program = install::find(install::REDIS)?;
        ports::retrying(2, |ports| self.start_on(ports[0], ports[1], &program))
    }

    fn start_on(&self, port: u16, tls_port: u16, program: &Path) -> Result<Redis> {
        let dir = TempDir::with_prefix_in(format!("{}-", self.name), self.dir)
            .map_err(Error::doing(format!("a folder for {}", self.name)))?;
        let no_master = if self.state == State::MasterDown {
            Some(ports::refused()?)
        } else {
            None
        };
        let conf = self.conf(port, tls_port, dir.path(), no_master.as_ref());
        let file = dir.path().join("redis.conf");
        fs::write(&file, conf).map_err(Error::doing(format!("cannot write {}", file.display())))?;
        if self.state == State::Loading {
            let dump = dir.path().join("dump.rdb");
            fs::write(&dump, slow_dump())
                .map_err(Error::doing(format!("cannot write {}", dump.display())))?;
        }
        let process = Spec::new(&self.name, program, dir.path())
            .args([file.into_os_string()])
            .spawn()?;
        let socket = dir.path().join("redis.sock");
        process.wait_ready(PATIENCE, || self.poll(port, &socket))?;
        let holding = if self.state == State::Full {
            hold(&socket)?
        } else {
            Vec::new()
        };
        Ok(Redis {
            _holding: holding,
            process,
            port,
            tls_port,
            dir,
            _no_master: no_master,
        })
    }

    fn poll(&self, port: u16, socket: &Path) -> Result<(), String> {
        let tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map_err(|err| err.to_string())?;
        drop(tcp);
        let reply = ask(UnixStream::connect(socket), &["PING"]);
        match (self.state, reply) {
            (State::Serving | State::Full, Ok(_)) => Ok(()),
            (State::MasterDown, Err(why)) if why.starts_with("MASTERDOWN") => Ok(()),
            (State::Loading, Err(why)) if why.starts_with("LOADING") => Ok(()),
            (_, reply) => Err(format!("it answers {reply:?}")),
        }
    }

    fn conf(&self, port: u16, tls_port: u16, dir: &Path, no_master: Option<&Refused>) -> String {
        let certificate = self.certificate;
        let mut conf = format!(
            "bind 127.0.0.1\n\
             port {port}\n\
             tls-port {tls_port}\n\
             tls-cert-file {}\n\
             tls-key-file {}\n\
             tls-ca-cert-file {}\n\
             tls-auth-clients {}\n\
             unixsocket {}\n\
             unixsocketperm 777\n\
             dir {}\n\
             save \"\"\n\
             appendonly no\n\
             user default on >{PASSWORD} ~* &* +@all\n\
             user probe on >{PASSWORD} ~* &* -@all +hello +auth +ping +select +quit +client|setname\n\
             user noping on >{PASSWORD} ~* &* -@all +hello +auth +select +client|setname\n\
             user off1 off >{PASSWORD} ~* &* +@all\n",
            certificate.cert_path.display(),
            certificate.key_path.display(),
            self.pki.ca.cert_path.display(),
            if self.client_certificates {
                "yes"
            } else {
                "optional"
            },
            dir.join("redis.sock").display(),
            dir.display(),
        );
        match self.state {
            State::Serving => {}
            State::Full => conf.push_str("maxclients 1\n"),
            State::MasterDown => {
                let port = no_master.map_or(1, Refused::port);
                conf.push_str(&format!("replicaof 127.0.0.1 {port}\nreplica-serve-stale-data no\n"));
            }
            State::Loading => conf.push_str(
                // It looks up from its work once per kilobyte, that is, once per key.
                "dbfilename dump.rdb\nkey-load-delay 100000\nloading-process-events-interval-bytes 1024\n",
            ),
        }
        conf
    }
}

/// Takes the only place there is, and makes sure that it was taken.
fn hold(socket: &Path) -> Result<Vec<UnixStream>> {
    let mut holding = Vec::new();
    for _ in 0..8 {
        let mut stream =
            UnixStream::connect(socket).map_err(Error::doing("a full Redis: its only client"))?;
        let refused = exchange(&mut stream, &["PING"])
            .is_err_and(|why| why.contains("max number of clients"));
        if refused {
            return Ok(holding);
        }
        holding.push(stream);
    }
    Err(Error::new("a full Redis is never full"))
}

/// A dump that takes Redis ten minutes to read: 6,000 keys of a kilobyte, without checksum.
fn slow_dump() -> Vec<u8> {
    let mut dump = b"REDIS0009\xfe\x00".to_vec();
    for number in 0..6000 {
        let key = format!("key:{number:05}");
        // A string: its key (6-bit length), its value (14-bit length).
        dump.extend([0, key.len() as u8]);
        dump.extend(key.as_bytes());
        dump.extend([0x44, 0x00]);
        dump.extend([b'x'; 1024]);
    }
    dump.push(0xff);
    dump.extend([0; 8]);
    dump
}

fn ask(stream: std::io::Result<UnixStream>, words: &[&str]) -> Result<String, String> {
    let mut stream = stream.map_err(|err| err.to_string())?;
    exchange(&mut stream, &["AUTH", PASSWORD])?;
    exchange(&mut stream, words)
}

/// One command, one reply.
fn exchange(stream: &mut UnixStream, words: &[&str]) -> Result<String, String> {
    let mut talk = || -> std::io::Result<Result<String, String>> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        // One that has no room says so unasked and closes, perhaps before we have written.
        let _ = stream.write_all(request.as_bytes());
        // Nothing is lost with the reader: the server sends one reply and waits.
        read_reply(&mut BufReader::new(&mut *stream))
    };
    talk().map_err(|err| err.to_string())?
}

fn read_reply(reader: &mut impl BufRead) -> std::io::Result<Result<String, String>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let line = line.trim_end();
    let Some((kind, rest)) = line.split_at_checked(1) else {
        return Err(std::io::ErrorKind::InvalidData.into());
    };
    let count = rest.parse::<i64>().unwrap_or(-1);
    Ok(match kind {
        "-" => Err(rest.into()),
        "$" => {
            let mut text = vec![0; usize::try_from(count).map_or(0, |count| count + 2)];
            reader.read_exact(&mut text)?;
            Ok(String::from_utf8_lossy(&text)
                .trim_end_matches("\r\n")
                .into())
        }
        "*" => {
            let mut items = Vec::new();
            for _ in 0..count {
                items.push(read_reply(reader)?.unwrap_or_else(|error| error));
            }
            Ok(items.join("\n"))
        }
        _ => Ok(rest.into()),
    })
}
