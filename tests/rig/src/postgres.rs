//! PostgreSQL, with a role for each way of logging in.
//!
//! | role | gets in |
//! |---|---|
//! | `probe` | SCRAM, with and without TLS |
//! | `md5user`, `clear` | MD5, the password in clear |
//! | `nopw` | without a password |
//! | `tlsonly`, `plainonly` | SCRAM, only with / only without TLS |
//! | `pwcert` | SCRAM over TLS, and a client certificate of our authority |
//! | `certonly` | the client certificate `CN=probe` and nothing else |
//! | `lim` | never: connection limit 0 (53300) |
//! | `expired` | never: password valid until 2020 (28P01) |
//! | `nologin1` | never: may not log in (28000) |
//!
//! Every password is [`PASSWORD`]. Database `app` has a table `locked` that nobody but the superuser may read
//! (42501); database `closed` lets nobody connect (42501).

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    os::unix::{
        fs::{DirBuilderExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::{
    PASSWORD, PATIENCE,
    error::{Error, Result},
    install,
    pki::{Certified, Pki, Shown},
    ports,
    process::{Process, Spec},
    rig::{Kind, Rig, Server},
    user::{User, give},
};

/// A running cluster. Dropping it stops it and removes its data.
pub struct Postgres {
    /// The only client that a full one has room for.
    _holding: Option<Session<TcpStream>>,
    // Stopped before its folder goes.
    process: Process,
    port: u16,
    user: Option<User>,
    dir: TempDir,
}

/// Which Postgres.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PostgresKind {
    Main,
    /// With this certificate in place of the good one.
    Shows(Shown),
    /// No TLS at all.
    NoTls,
    /// `default_transaction_read_only`.
    ReadOnly,
    /// A hot standby of `Main`.
    Standby,
    /// Never finishes starting: 57P03.
    Starting,
    /// Room for one client, who is there: 53300.
    Full,
}

impl Server for Postgres {
    fn processes(&self) -> Vec<&Process> {
        vec![&self.process]
    }
}

impl Kind for PostgresKind {
    type Server = Postgres;

    const NAME: &'static str = "postgres";

    fn start(self, rig: &Rig, name: &str) -> Result<Postgres> {
        let pki = rig.pki();
        let builder = Postgres::builder(pki, rig.dir()).name(name);
        match self {
            PostgresKind::Main => builder,
            PostgresKind::Shows(shown) => builder.certificate(pki.shown(shown)),
            PostgresKind::NoTls => builder.without_tls(),
            PostgresKind::ReadOnly => builder.read_only(),
            PostgresKind::Standby => {
                return builder.standby_of(&*rig.postgres()?).start();
            }
            PostgresKind::Starting => builder.forever_starting(),
            PostgresKind::Full => builder.full(),
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
    certificate: Option<&'a Certified>,
    settings: Vec<(String, String)>,
    standby_of: Option<&'a Postgres>,
    expect: Expect,
    full: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Expect {
    LogsIn,
    IsStarting,
}

impl Postgres {
    /// The ordinary one: TLS by choice, certificate `pki.server`. Its data is below `dir`.
    pub fn start(pki: &Pki, dir: &Path) -> Result<Postgres> {
        Postgres::builder(pki, dir).start()
    }

    pub fn builder<'a>(pki: &'a Pki, dir: &'a Path) -> Builder<'a> {
        Builder {
            pki,
            dir,
            name: "postgres".into(),
            certificate: Some(&pki.server),
            settings: Vec::new(),
            standby_of: None,
            expect: Expect::LogsIn,
            full: false,
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of the unix socket: what a libpq URL has as its host. `probe` needs the password there too.
    pub fn socket_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// `postgres://USER:PASSWORD@localhost:PORT/app`, to which options may be appended with `?`.
    pub fn url(&self, user: &str) -> String {
        format!("postgres://{user}:{PASSWORD}@localhost:{}/app", self.port)
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The server's log, with a line for each connection, authentication and disconnection. Each line carries
    /// `user=`, `db=`, `app=`; a client that went without a goodbye leaves `unexpected EOF on client connection`.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Runs SQL as the superuser and returns the rows, `NULL` as `None`.
    pub fn sql(&self, database: &str, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        let path = self.socket_dir().join(format!(".s.PGSQL.{}", self.port));
        let talk = || -> std::result::Result<_, Failed> {
            let mut session = Session::start(UnixStream::connect(&path)?, "postgres", database)?;
            session.query(sql)
        };
        talk()
            .map_err(|err| Error::new(format!("{}: `{sql}`: {}", self.process.name(), err.message)))
    }

    /// Shows another certificate from now on.
    pub fn set_certificate(&self, certificate: &Certified) -> Result<()> {
        write_certificate(&self.dir.path().join("data"), certificate, self.user)?;
        // The reload is asynchronous: the log says when it has begun, and no connection is accepted within it.
        let reloads = || self.log().matches("received SIGHUP, reloading").count();
        let before = reloads();
        self.process.signal(Signal::HUP);
        self.process.wait_ready(PATIENCE, || {
            if reloads() > before {
                Ok(())
            } else {
                Err("it does not reload its certificate".into())
            }
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
        self.certificate = Some(certificate);
        self
    }

    /// Speaks no TLS at all.
    pub fn without_tls(mut self) -> Builder<'a> {
        self.certificate = None;
        self
    }

    /// A line of `postgresql.conf`.
    pub fn setting(mut self, name: &str, value: &str) -> Builder<'a> {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// Every transaction is read-only unless it says otherwise.
    pub fn read_only(self) -> Builder<'a> {
        self.setting("default_transaction_read_only", "on")
    }

    /// Room for one, which is taken: everybody but the superuser hears 53300.
    pub fn full(mut self) -> Builder<'a> {
        self.full = true;
        // Those who were refused may not have left yet: beyond all of the places other words are said.
        self.setting("max_connections", "10")
            .setting("superuser_reserved_connections", "9")
            .setting("max_wal_senders", "0")
    }

    /// A hot standby of `primary`: read-only, `pg_is_in_recovery()`.
    pub fn standby_of(mut self, primary: &'a Postgres) -> Builder<'a> {
        self.standby_of = Some(primary);
        self
    }

    /// One that never finishes starting: whoever connects hears 57P03.
    pub fn forever_starting(mut self) -> Builder<'a> {
        self.expect = Expect::IsStarting;
        self.setting("hot_standby", "off")
    }

    pub fn start(self) -> Result<Postgres> {
        let bin = install::find(install::POSTGRES)?;
        let user = User::instead_of_root("postgres")?;
        let template = template(&bin, self.dir, user)?;
        ports::retrying(1, |ports| self.start_on(ports[0], &bin, &template, user))
    }

    fn start_on(
        &self,
        port: u16,
        bin: &Path,
        template: &Path,
        user: Option<User>,
    ) -> Result<Postgres> {
        let dir = TempDir::with_prefix_in(format!("{}-", self.name), self.dir)
            .map_err(Error::doing(format!("a folder for {}", self.name)))?;
        let doing = |what: &str| Error::doing(format!("{}: {what}", self.name));
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))
            .map_err(doing("its folder"))?;
        let (data, run) = (dir.path().join("data"), dir.path().join("run"));
        fs::create_dir(&run).map_err(doing("the folder of its socket"))?;
        give(&run, user)?;
        install::run(
            Path::new("cp"),
            &["-a".as_ref(), template.as_os_str(), data.as_os_str()],
        )?;
        self.configure(port, &data, &run, user)?;

        let process = Spec::new(&self.name, bin, dir.path())
            .args(["-D".into(), data.into_os_string()])
            .user(user)
            // Fast shutdown: ends the sessions, does not wait for them.
            .stop_with(Signal::INT)
            // SIGKILL would leave its children for a while; SIGQUIT ends them all at once.
            .when_orphaned(Signal::QUIT)
            .spawn()?;
        let mut session = None;
        process.wait_ready(PATIENCE, || {
            session = self.poll(port)?;
            Ok(())
        })?;
        Ok(Postgres {
            _holding: session.filter(|_| self.full),
            process,
            port,
            user,
            dir,
        })
    }

    fn poll(&self, port: u16) -> std::result::Result<Option<Session<TcpStream>>, String> {
        let session = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            .map_err(Failed::from)
            .and_then(|stream| Session::start(stream, "nopw", "app"));
        match (session, self.expect) {
            (Ok(session), Expect::LogsIn) => Ok(Some(session)),
            (Err(failed), Expect::IsStarting) if failed.message.contains("57P03") => Ok(None),
            (Ok(_), Expect::IsStarting) => Err("it lets clients in".into()),
            (Err(failed), _) => Err(failed.message),
        }
    }

    fn configure(&self, port: u16, data: &Path, run: &Path, user: Option<User>) -> Result<()> {
        let mut conf = format!(
            "listen_addresses = '127.0.0.1'\n\
             port = {port}\n\
             unix_socket_directories = '{}'\n\
             max_connections = 100\n\
             shared_buffers = 16MB\n\
             fsync = off\n\
             log_connections = on\n\
             log_disconnections = on\n\
             log_min_messages = debug1\n\
             log_line_prefix = '%m [%p] user=%u db=%d app=%a '\n\
             logging_collector = off\n",
            run.display()
        );
        if let Some(certificate) = self.certificate {
            conf.push_str(
                "ssl = on\nssl_cert_file = 'server.crt'\nssl_key_file = 'server.key'\nssl_ca_file = 'ca.crt'\n",
            );
            write(&data.join("ca.crt"), &self.pki.ca.cert_pem, user)?;
            write_certificate(data, certificate, user)?;
        }
        if let Some(primary) = self.standby_of {
            let (host, port) = (primary.socket_dir(), primary.port);
            conf.push_str(&format!(
                "primary_conninfo = 'host={} port={port} user=postgres'\n",
                host.display()
            ));
        }
        if self.standby_of.is_some() || self.expect == Expect::IsStarting {
            write(&data.join("standby.signal"), "", user)?;
        }
        for (name, value) in &self.settings {
            conf.push_str(&format!("{name} = '{value}'\n"));
        }
        write(&data.join("postgresql.auto.conf"), &conf, user)?;
        write(&data.join("pg_hba.conf"), HBA, user)?;
        write(
            &data.join("pg_ident.conf"),
            "certificate probe certonly\n",
            user,
        )
    }
}

const HBA: &str = "\
local     all         postgres                trust
local     replication postgres                trust
local     all         nopw                    trust
local     all         all                     scram-sha-256
hostssl   all         certonly  127.0.0.1/32  cert map=certificate
hostssl   all         pwcert    127.0.0.1/32  scram-sha-256 clientcert=verify-ca
hostssl   all         tlsonly   127.0.0.1/32  scram-sha-256
hostnossl all         tlsonly   127.0.0.1/32  reject
hostssl   all         plainonly 127.0.0.1/32  reject
hostnossl all         plainonly 127.0.0.1/32  scram-sha-256
host      all         md5user   127.0.0.1/32  md5
host      all         clear     127.0.0.1/32  password
host      all         nopw      127.0.0.1/32  trust
host      all         probe     127.0.0.1/32  scram-sha-256
host      all         lim       127.0.0.1/32  scram-sha-256
host      all         expired   127.0.0.1/32  scram-sha-256
host      all         nologin1  127.0.0.1/32  scram-sha-256
host      all         postgres  127.0.0.1/32  scram-sha-256
";

/// One statement a line: the single-user server takes them so. `app` is a copy of what came before it. Fewer
/// databases are faster to copy.
fn roles() -> String {
    let mut sql = String::new();
    for role in ["probe", "tlsonly", "plainonly", "pwcert", "clear"] {
        sql.push_str(&format!("create role {role} login password '{PASSWORD}'\n"));
    }
    sql.push_str(&format!(
        "create role nopw login\n\
         create role certonly login\n\
         create role lim login password '{PASSWORD}' connection limit 0\n\
         create role expired login password '{PASSWORD}' valid until '2020-01-01'\n\
         create role nologin1 nologin password '{PASSWORD}'\n\
         set password_encryption = 'md5'\n\
         create role md5user login password '{PASSWORD}'\n\
         create table locked (id int)\n\
         create database app\n\
         alter database postgres rename to closed\n\
         revoke connect on database closed from public\n\
         update pg_database set datistemplate = false where datname = 'template0'\n\
         drop database template0\n"
    ));
    sql
}

/// A stopped cluster in `dir` to copy from, made by the first who asks.
fn template(bin: &Path, dir: &Path, user: Option<User>) -> Result<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let parent = dir.join("postgres-template");
    let (data, done) = (parent.join("data"), parent.join("done"));
    if done.exists() {
        return Ok(data);
    }
    let _one = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    // Somebody may have made it while we waited.
    if done.exists() {
        return Ok(data);
    }
    let _ = fs::remove_dir_all(&parent);
    fs::DirBuilder::new()
        .mode(0o755)
        .create(&parent)
        .map_err(Error::doing("a folder for the Postgres template"))?;
    give(&parent, user)?;
    let initdb = bin.with_file_name("initdb");
    let log = feed(
        &initdb,
        &[
            "-U",
            "postgres",
            "--auth=reject",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "-N",
            "--wal-segsize=1",
            "-D",
        ],
        &data,
        "",
        user,
    )?;
    let made = feed(bin, &["--single", "-F", "-D"], &data, &roles(), user)?;
    if made.contains("ERROR") || made.contains("FATAL") {
        return Err(Error::new(format!(
            "the Postgres template cannot be made:\n{log}{made}"
        )));
    }
    fs::write(&done, "").map_err(Error::doing("the Postgres template"))?;
    Ok(data)
}

/// Runs one of Postgres' programs over `data` as the server's user, `input` on its standard input.
fn feed(
    program: &Path,
    args: &[&str],
    data: &Path,
    input: &str,
    user: Option<User>,
) -> Result<String> {
    use std::os::unix::process::CommandExt;
    let doing = || format!("cannot run {}", program.display());
    let mut command = Command::new(program);
    command
        .args(args)
        .arg(data)
        .current_dir("/")
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if program.ends_with("postgres") {
        command.arg("template1");
    }
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
    let mut child = command.spawn().map_err(Error::doing(doing()))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(input.as_bytes())
            .map_err(Error::doing(doing()))?;
    }
    let output = child.wait_with_output().map_err(Error::doing(doing()))?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    Err(Error::new(format!(
        "{} failed ({}):\n{said}",
        program.display(),
        output.status
    )))
}

fn write_certificate(data: &Path, certificate: &Certified, user: Option<User>) -> Result<()> {
    write(&data.join("server.crt"), &certificate.cert_pem, user)?;
    write(&data.join("server.key"), &certificate.key_pem, user)
}

/// A file that only the server may read, as it demands of keys.
fn write(path: &Path, text: &str, user: Option<User>) -> Result<()> {
    let doing = || format!("cannot write {}", path.display());
    fs::write(path, text).map_err(Error::doing(doing()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(Error::doing(doing()))?;
    give(path, user)
}

/// As much of the protocol as it takes to ask a question without a password.
struct Session<S: Read + Write> {
    stream: S,
}

struct Failed {
    message: String,
}

impl From<std::io::Error> for Failed {
    fn from(err: std::io::Error) -> Failed {
        Failed {
            message: err.to_string(),
        }
    }
}

impl<S: Read + Write> Drop for Session<S> {
    /// Says goodbye, or the log would show us among the impolite.
    fn drop(&mut self) {
        let _ = self.send(b'X', &[]);
    }
}

impl<S: Read + Write> Session<S> {
    fn start(stream: S, user: &str, database: &str) -> Result<Session<S>, Failed> {
        let mut session = Session { stream };
        let body = format!("user\0{user}\0database\0{database}\0application_name\0rig\0\0");
        let mut message = (8 + body.len() as u32).to_be_bytes().to_vec();
        message.extend(196_608_u32.to_be_bytes());
        message.extend(body.as_bytes());
        session.stream.write_all(&message)?;
        session.until_ready()?;
        Ok(session)
    }

    fn query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, Failed> {
        self.send(b'Q', format!("{sql}\0").as_bytes())?;
        self.until_ready()
    }

    fn send(&mut self, kind: u8, body: &[u8]) -> Result<(), Failed> {
        let mut message = vec![kind];
        message.extend((4 + body.len() as u32).to_be_bytes());
        message.extend(body);
        Ok(self.stream.write_all(&message)?)
    }

    /// Reads up to ReadyForQuery and keeps the rows on the way.
    fn until_ready(&mut self) -> Result<Vec<Vec<Option<String>>>, Failed> {
        let (mut rows, mut error) = (Vec::new(), None);
        loop {
            let mut head = [0; 5];
            self.stream
                .read_exact(&mut head)
                .map_err(|err| error.take().unwrap_or(Failed::from(err)))?;
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            let mut body = vec![0; length.saturating_sub(4)];
            self.stream.read_exact(&mut body)?;
            match head[0] {
                b'D' => rows.push(row(&body)),
                b'E' => {
                    error = Some(Failed {
                        message: fields(&body),
                    })
                }
                b'R' if body[..] != [0; 4] => {
                    return Err(Failed {
                        message: "it asks for a password".into(),
                    });
                }
                b'Z' => return error.map_or(Ok(rows), Err),
                _ => {}
            }
        }
    }
}

/// The columns of a DataRow.
fn row(body: &[u8]) -> Vec<Option<String>> {
    let mut rest = body.get(2..).unwrap_or_default();
    let mut columns = Vec::new();
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let length = i32::from_be_bytes(*length);
        let size = usize::try_from(length).unwrap_or(0).min(tail.len());
        let (value, tail) = tail.split_at(size);
        columns.push((length >= 0).then(|| String::from_utf8_lossy(value).into_owned()));
        rest = tail;
    }
    columns
}

/// Code and text of an ErrorResponse.
fn fields(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    text.split('\0')
        .filter(|field| field.starts_with(['C', 'M', 'D']))
        .map(|field| &field[1..])
        .collect::<Vec<_>>()
        .join(" ")
}
