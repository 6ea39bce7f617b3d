//! MariaDB, with an account for each way of logging in.
//!
//! | account | gets in |
//! |---|---|
//! | `probe` | by `mysql_native_password`, with and without TLS; may read database `app` and nothing else |
//! | `reader` | likewise, and may read everything: to others, a database that is not there is one that is forbidden |
//! | `ed` | by `ed25519` |
//! | `nopw` | without a password |
//! | `tlsonly` | over TLS (`REQUIRE SSL`) |
//! | `certonly`, `subject` | with a certificate of our authority; with that of `CN=probe` |
//! | `othersubject` | never with ours: its subject is another (1045) |
//! | `lim` | once at a time (1226) |
//! | `locked` | never (4151) |
//! | `expired` | to nothing but a new password (1820) |
//! | `onlocal` | by who it is on the server's own machine (`unix_socket`, 1698) |
//!
//! Every password is [`PASSWORD`]. The log tells of every login that failed and every connection that ended
//! without a goodbye. InnoDB is left out: the server starts in a tenth of a second and takes a third of the memory.

use std::{
    fs::{self, DirBuilder},
    io::{self, Read, Write},
    os::unix::{
        fs::{DirBuilderExt, PermissionsExt},
        net::UnixStream,
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
};

use tempfile::TempDir;

use crate::{
    PASSWORD, PATIENCE,
    error::{Error, Result},
    install,
    packets::{self, Packets},
    pki::{Certified, Pki, Shown},
    ports,
    process::{Process, Spec},
    rig::{Kind, Rig, Server},
    user::{User, give},
};

/// A running server. Dropping it stops it and removes its data.
pub struct MariaDb {
    /// The clients that a full one has room for.
    _holding: Vec<Session<UnixStream>>,
    // Stopped before its folder goes.
    process: Process,
    port: u16,
    dir: TempDir,
}

/// Which MariaDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MariaDbKind {
    Main,
    /// With this certificate in place of the good one.
    Shows(Shown),
    /// No TLS at all.
    NoTls,
    /// Nobody gets in without TLS (`require_secure_transport`): 1045, as for a wrong password.
    TlsOnly,
    /// No room for anybody but the superuser: 1040, once it is known who wants in.
    Full,
    /// Not for the superuser either: 1040 in place of a greeting.
    FullForAll,
}

impl Server for MariaDb {
    fn processes(&self) -> Vec<&Process> {
        vec![&self.process]
    }
}

impl Kind for MariaDbKind {
    type Server = MariaDb;

    const NAME: &'static str = "mariadb";

    fn start(self, rig: &Rig, name: &str) -> Result<MariaDb> {
        let pki = rig.pki();
        let builder = MariaDb::builder(pki, rig.dir()).name(name);
        match self {
            MariaDbKind::Main => builder,
            MariaDbKind::Shows(shown) => builder.certificate(pki.shown(shown)),
            MariaDbKind::NoTls => builder.without_tls(),
            MariaDbKind::TlsOnly => builder.setting("require-secure-transport", "ON"),
            MariaDbKind::Full => builder.full(),
            MariaDbKind::FullForAll => builder.full_for_all(),
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
    /// Who holds every place there is.
    holders: Vec<&'static str>,
}

/// The smallest `max_connections` there is. The superuser has one more.
const FULL: usize = 10;

impl MariaDb {
    /// The ordinary one: TLS by choice, certificate `pki.server`. Its data is below `dir`.
    pub fn start(pki: &Pki, dir: &Path) -> Result<MariaDb> {
        MariaDb::builder(pki, dir).start()
    }

    pub fn builder<'a>(pki: &'a Pki, dir: &'a Path) -> Builder<'a> {
        Builder {
            pki,
            dir,
            name: "mariadb".into(),
            certificate: Some(&pki.server),
            settings: Vec::new(),
            holders: Vec::new(),
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The unix socket, open to everybody with an account.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("run/mariadb.sock")
    }

    /// `mysql://USER:PASSWORD@localhost:PORT/app`, to which options may be appended with `?`.
    pub fn url(&self, user: &str) -> String {
        format!("mysql://{user}:{PASSWORD}@localhost:{}/app", self.port)
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    /// A login that failed is `Access denied`; a client that went without a goodbye is `Aborted connection`.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Runs SQL as the superuser and returns the rows, `NULL` as `None`.
    pub fn sql(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        let talk = || Session::start(UnixStream::connect(self.socket())?, "root")?.query(sql);
        talk().map_err(|err| Error::new(format!("{}: `{sql}`: {err}", self.process.name())))
    }

    /// A counter of the server, such as `Aborted_connects`.
    pub fn status(&self, name: &str) -> Result<u64> {
        let rows = self.sql(&format!(
            "show global status where variable_name = '{name}'"
        ))?;
        rows.first()
            .and_then(|row| row.get(1)?.as_deref()?.parse().ok())
            .ok_or_else(|| Error::new(format!("there is no counter `{name}`")))
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

    /// A setting, as on the command line: `max-connect-errors`.
    pub fn setting(mut self, name: &str, value: &str) -> Builder<'a> {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// Room for ten, which is taken: everybody but the superuser hears 1040.
    pub fn full(mut self) -> Builder<'a> {
        self.holders = vec!["nopw"; FULL];
        self.setting("max-connections", &FULL.to_string())
    }

    /// The superuser's own place is taken too, so that [`MariaDb::sql`] hears 1040 as everybody does.
    pub fn full_for_all(self) -> Builder<'a> {
        let mut builder = self.full();
        builder.holders.push("root");
        builder
    }

    pub fn start(self) -> Result<MariaDb> {
        let program = install::find(install::MARIADB)?;
        let user = User::instead_of_root("mysql")?;
        let template = template(self.dir, user)?;
        ports::retrying(1, |ports| {
            self.start_on(ports[0], &program, &template, user)
        })
    }

    fn start_on(
        &self,
        port: u16,
        program: &Path,
        template: &Path,
        user: Option<User>,
    ) -> Result<MariaDb> {
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
        let accounts = run.join("accounts.sql");
        write(&accounts, &accounts_sql(), user)?;
        let option = |name: &str, path: &Path| format!("--{name}={}", path.display());
        let socket = run.join("mariadb.sock");
        let mut args = vec![
            "--no-defaults".to_owned(),
            option("datadir", &data),
            option("socket", &socket),
            option("pid-file", &run.join("pid")),
            option("init-file", &accounts),
            format!("--port={port}"),
            "--bind-address=127.0.0.1".to_owned(),
            // Tells of every login that fails and of every connection that breaks off.
            "--log-warnings=4".to_owned(),
            "--plugin-load-add=auth_ed25519".to_owned(),
            "--performance-schema=ON".to_owned(),
            "--aria-pagecache-buffer-size=1M".to_owned(),
            "--key-buffer-size=1M".to_owned(),
        ];
        args.extend(WITHOUT_INNODB.map(str::to_owned));
        match self.certificate {
            None => args.push("--skip-ssl".to_owned()),
            Some(certificate) => {
                for (name, file, text) in [
                    ("ssl-ca", "ca.crt", &self.pki.ca.cert_pem),
                    ("ssl-cert", "server.crt", &certificate.cert_pem),
                    ("ssl-key", "server.key", &certificate.key_pem),
                ] {
                    write(&run.join(file), text, user)?;
                    args.push(option(name, &run.join(file)));
                }
            }
        }
        for (name, value) in &self.settings {
            args.push(format!("--{name}={value}"));
        }
        let process = Spec::new(&self.name, program, dir.path())
            .args(args)
            .user(user)
            .spawn()?;
        process.wait_ready(PATIENCE, || {
            let root =
                UnixStream::connect(&socket).and_then(|stream| Session::start(stream, "root"));
            root.map(drop).map_err(|err| err.to_string())
        })?;
        let mut holding = Vec::new();
        for user in &self.holders {
            // Whoever asked whether it is ready may not have been counted out yet.
            process.wait_ready(PATIENCE, || {
                let session = UnixStream::connect(&socket)
                    .and_then(|stream| Session::start(stream, user))
                    .map_err(|err| err.to_string())?;
                holding.push(session);
                Ok(())
            })?;
        }
        Ok(MariaDb {
            _holding: holding,
            process,
            port,
            dir,
        })
    }
}

const WITHOUT_INNODB: [&str; 3] = [
    "--innodb=OFF",
    "--default-storage-engine=Aria",
    "--aria-log-file-size=8M",
];

fn accounts_sql() -> String {
    let password = format!("identified by '{PASSWORD}'");
    format!(
        "create database app;\n\
         create table app.numbers (n int);\n\
         insert into app.numbers values (1), (2);\n\
         create database closed;\n\
         create user probe@'%' {password};\n\
         create user reader@'%' {password};\n\
         grant select on *.* to reader@'%';\n\
         create user ed@'%' identified via ed25519 using password('{PASSWORD}');\n\
         create user nopw@'%';\n\
         create user tlsonly@'%' {password} require ssl;\n\
         create user certonly@'%' {password} require x509;\n\
         create user subject@'%' {password} require subject '/CN=probe';\n\
         create user othersubject@'%' {password} require subject '/CN=somebody else';\n\
         create user lim@'%' {password} with max_user_connections 1;\n\
         create user locked@'%' {password} account lock;\n\
         create user expired@'%' {password} password expire;\n\
         create user onlocal@'%' identified via unix_socket;\n\
         grant select on app.* to probe@'%', ed@'%', nopw@'%', tlsonly@'%', certonly@'%', subject@'%',\n\
         othersubject@'%', lim@'%', locked@'%', expired@'%', onlocal@'%';\n"
    )
    // The server reads it line by line.
    .replace(",\n", ", ")
}

/// The system tables in `dir` to copy from, made by the first who asks.
fn template(dir: &Path, user: Option<User>) -> Result<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let parent = dir.join("mariadb-template");
    let (data, done) = (parent.join("data"), parent.join("done"));
    let _one = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if done.exists() {
        return Ok(data);
    }
    let _ = fs::remove_dir_all(&parent);
    let doing = || Error::doing("the MariaDB template");
    DirBuilder::new()
        .mode(0o755)
        .create(&parent)
        .and_then(|()| DirBuilder::new().mode(0o700).create(&data))
        .map_err(doing())?;
    give(&parent, user)?;
    give(&data, user)?;
    let installer = install::program("mariadb-install-db")
        .ok_or_else(|| Error::missing("mariadb-install-db", install::MARIADB.name))?;
    let mut command = Command::new(&installer);
    command
        .args([
            "--no-defaults",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--skip-name-resolve",
        ])
        .args(WITHOUT_INNODB)
        .arg(format!("--datadir={}", data.display()))
        .current_dir("/")
        .stdin(Stdio::null())
        .env("LC_ALL", "C.UTF-8");
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
    let output = command.output().map_err(doing())?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        return Err(Error::new(format!(
            "the MariaDB template cannot be made ({}):\n{}",
            output.status,
            String::from_utf8_lossy(&said)
        )));
    }
    fs::write(&done, "").map_err(doing())?;
    Ok(data)
}

/// A file that only the server may read.
fn write(path: &Path, text: &str, user: Option<User>) -> Result<()> {
    let doing = || Error::doing(format!("cannot write {}", path.display()));
    fs::write(path, text).map_err(doing())?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(doing())?;
    give(path, user)
}

/// As much of the protocol as it takes to ask a question without a password.
struct Session<S: Read + Write> {
    packets: Packets<S>,
}

impl<S: Read + Write> Drop for Session<S> {
    /// Says goodbye, or the log would show us among the impolite.
    fn drop(&mut self) {
        self.packets.sequence = 0;
        let _ = self.packets.send(&[1]);
    }
}

impl<S: Read + Write> Session<S> {
    fn start(stream: S, user: &str) -> io::Result<Session<S>> {
        let mut packets = Packets::new(stream);
        no_error(packets.receive()?)?;
        // Long passwords, the protocol of 4.1, transactions, and scrambles of 20 bytes.
        let mut response = 0x0000_a201_u32.to_le_bytes().to_vec();
        response.extend(0x0100_0000_u32.to_le_bytes());
        response.push(45);
        response.extend([0; 23]);
        response.extend(user.as_bytes());
        // No password.
        response.extend([0, 0]);
        packets.send(&response)?;
        no_error(packets.receive()?)?;
        Ok(Session { packets })
    }

    fn query(&mut self, sql: &str) -> io::Result<Vec<Vec<Option<String>>>> {
        self.packets.sequence = 0;
        self.packets.send(&[&[3], sql.as_bytes()].concat())?;
        let columns = match no_error(self.packets.receive()?)?[..] {
            [0, ..] => return Ok(Vec::new()),
            [columns, ..] => usize::from(columns),
            [] => return Err(packets::invalid("an empty answer")),
        };
        // The columns, and their end.
        for _ in 0..=columns {
            self.packets.receive()?;
        }
        let mut rows = Vec::new();
        loop {
            let packet = no_error(self.packets.receive()?)?;
            if packet.first() == Some(&0xfe) && packet.len() < 9 {
                return Ok(rows);
            }
            let mut rest = &packet[..];
            let mut row = Vec::new();
            while !rest.is_empty() {
                let value = packets::value(&mut rest)?;
                row.push(value.map(|value| String::from_utf8_lossy(value).into_owned()));
            }
            rows.push(row);
        }
    }
}

fn no_error(packet: Vec<u8>) -> io::Result<Vec<u8>> {
    match packet.first() {
        Some(0xff) => {
            let code = packet
                .get(1..3)
                .map_or(0, |code| u16::from_le_bytes([code[0], code[1]]));
            let text = String::from_utf8_lossy(packet.get(3..).unwrap_or_default()).into_owned();
            Err(io::Error::other(format!("{code} {text}")))
        }
        _ => Ok(packet),
    }
}
