//! SecantusDB: MongoDB's wire protocol, users and roles, over WiredTiger. A stand-in, and to be called one: MongoDB's
//! own server is in no registry that we install from. It presents itself as the one member of the replica set
//! `secantus`, and its primary.
//!
//! | user | database | logs in by |
//! |---|---|---|
//! | `probe` | `admin` | SCRAM-SHA-256 and SCRAM-SHA-1 |
//! | `legacy` | `admin` | SCRAM-SHA-1 only |
//! | `prepared` | `admin` | SCRAM-SHA-256, with [`PREPARED_PASSWORD`] |
//! | `clerk` | `shop` | SCRAM-SHA-256 |
//! | `CN=probe` | `$external` | the client certificate `pki.client` |
//!
//! Every other password is [`PASSWORD`]. It has one port: TLS or not.

use std::{
    ffi::OsStr,
    fs,
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    PASSWORD, PATIENCE,
    error::{Error, Result},
    install,
    pki::{Certified, Pki, Shown},
    ports,
    process::{Process, Spec},
    python,
    rig::{Kind, Rig, Server},
};

/// A password that SASLprep changes: a soft hyphen goes, a full-width letter becomes a plain one.
pub const PREPARED_PASSWORD: &str = "pr\u{e4}p\u{ad}ared-\u{ff21}";

/// A running server. Dropping it stops it and removes its data.
pub struct Secantus {
    process: Process,
    port: u16,
    ca: PathBuf,
    over_tls: bool,
    dir: TempDir,
}

/// Which SecantusDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecantusKind {
    /// Wants a login.
    Main,
    /// Wants none, and is no replica set.
    Open,
    /// Over TLS, with a login; a client certificate is looked at.
    Tls,
    /// With this certificate in place of the good one.
    Shows(Shown),
    /// Wants a client certificate.
    MutualTls,
    /// What the others begin with: the users. Stopped once it has them.
    Users,
}

impl Server for Secantus {
    fn processes(&self) -> Vec<&Process> {
        vec![&self.process]
    }
}

impl Kind for SecantusKind {
    type Server = Secantus;

    const NAME: &'static str = "secantus";

    fn start(self, rig: &Rig, name: &str) -> Result<Secantus> {
        let pki = rig.pki();
        let certificate = match self {
            SecantusKind::Users => {
                let secantus = Secantus::begin(pki, rig.dir(), name, None, &[], None)?;
                secantus.make_users()?;
                secantus.process.stop();
                return Ok(secantus);
            }
            SecantusKind::Main | SecantusKind::Open => None,
            SecantusKind::Tls | SecantusKind::MutualTls => Some(&pki.server),
            SecantusKind::Shows(shown) => Some(pki.shown(shown)),
        };
        let ca = pki.ca.cert_path.to_string_lossy();
        let flags: &[&str] = match self {
            SecantusKind::Open => &["--standalone"],
            SecantusKind::Tls => &["--auth", "--tls-ca-file", &ca],
            SecantusKind::MutualTls => {
                &["--auth", "--tls-ca-file", &ca, "--tls-require-client-cert"]
            }
            _ => &["--auth", "--enable-test-commands"],
        };
        let users = rig.get(SecantusKind::Users)?;
        Secantus::begin(
            pki,
            rig.dir(),
            name,
            certificate,
            flags,
            Some(&users.data()),
        )
    }
}

impl Secantus {
    /// One of its own for a test that stops or pauses it, with the users of `rig`.
    pub fn alone(rig: &Rig, name: &str, over_tls: bool) -> Result<Secantus> {
        let users = rig.get(SecantusKind::Users)?;
        let pki = rig.pki();
        let certificate = over_tls.then_some(&pki.server);
        let flags = ["--auth", "--enable-test-commands"];
        Secantus::begin(
            pki,
            rig.dir(),
            name,
            certificate,
            &flags,
            Some(&users.data()),
        )
    }

    fn begin(
        pki: &Pki,
        dir: &Path,
        name: &str,
        certificate: Option<&Certified>,
        flags: &[&str],
        data: Option<&Path>,
    ) -> Result<Secantus> {
        let program = python::program("secantusd-py")?;
        ports::retrying(1, |ports| {
            let port = ports[0];
            let dir = TempDir::with_prefix_in(format!("{name}-"), dir)
                .map_err(Error::doing(format!("a folder for {name}")))?;
            let storage = dir.path().join("data");
            if let Some(data) = data {
                copy(data, &storage)
                    .map_err(Error::doing(format!("cannot copy the data of {name}")))?;
            }
            let mut spec = Spec::new(name, &program, dir.path())
                .args(["--host", "127.0.0.1", "--port", &port.to_string()])
                .args(["--log-level", "DEBUG", "--cache-size", "64M"])
                .args([OsStr::new("--storage-path"), storage.as_os_str()])
                .args(flags);
            if let Some(certificate) = certificate {
                spec = spec
                    .args([
                        OsStr::new("--tls-cert-file"),
                        certificate.cert_path.as_os_str(),
                    ])
                    .args([
                        OsStr::new("--tls-key-file"),
                        certificate.key_path.as_os_str(),
                    ]);
            }
            let process = spec.spawn()?;
            process.wait_ready(PATIENCE, || {
                TcpStream::connect((Ipv4Addr::LOCALHOST, port))
                    .map(drop)
                    .map_err(|err| err.to_string())
            })?;
            Ok(Secantus {
                process,
                port,
                ca: pki.ca.cert_path.clone(),
                over_tls: certificate.is_some(),
                dir,
            })
        })
    }

    fn make_users(&self) -> Result<()> {
        let user = |database, name, password, mechanisms: &[&str], role| {
            let more = json!({"pwd": password, "mechanisms": mechanisms, "roles": [role]});
            json!([database, "createUser", name, more])
        };
        let (sha1, sha256) = ("SCRAM-SHA-1", "SCRAM-SHA-256");
        let by_certificate = json!({"mechanisms": ["MONGODB-X509"], "roles": []});
        let commands = json!([
            user("admin", "probe", PASSWORD, &[sha256, sha1], "root"),
            user("admin", "legacy", PASSWORD, &[sha1], "readWrite"),
            user(
                "admin",
                "prepared",
                PREPARED_PASSWORD,
                &[sha256],
                "readWrite"
            ),
            user("shop", "clerk", PASSWORD, &[sha256], "readWrite"),
            ["$external", "createUser", "CN=probe", by_certificate],
        ]);
        self.run("", &commands).map(drop)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `mongodb://USER:PASSWORD@localhost:PORT/`, with `tls=true` where it speaks TLS.
    pub fn url(&self, user: &str) -> String {
        self.url_as(&format!("{user}:{PASSWORD}@"))
    }

    /// The same without a user.
    pub fn bare_url(&self) -> String {
        self.url_as("")
    }

    fn url_as(&self, user_info: &str) -> String {
        let tls = if self.over_tls { "?tls=true" } else { "" };
        format!("mongodb://{user_info}localhost:{}/{tls}", self.port)
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Everything it has said so far: who came and who left, and every complaint.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Runs `{name: value, …more}` on `admin` as `probe`, and returns the reply; an error reply is an error.
    pub fn command(&self, name: &str, value: impl Into<Value>, more: Value) -> Result<Value> {
        let login = format!("probe:{PASSWORD}@");
        let replies = self.run(&login, &json!([["admin", name, value.into(), more]]))?;
        Ok(replies[0].clone())
    }

    /// By pymongo, which SecantusDB brings along.
    fn run(&self, login: &str, commands: &Value) -> Result<Value> {
        let url = format!(
            "mongodb://{login}127.0.0.1:{}/?directConnection=true",
            self.port
        );
        let url = if self.over_tls {
            format!("{url}&tls=true&tlsCAFile={}", self.ca.display())
        } else {
            url
        };
        let python = python::program("python")?;
        let commands = commands.to_string();
        let said = install::run(&python, &["-c", SCRIPT, &url, &commands].map(OsStr::new))?;
        serde_json::from_str(said.trim()).map_err(Error::doing(format!(
            "{}: the replies to its commands",
            self.process.name()
        )))
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }
}

const SCRIPT: &str = "
import json, sys, pymongo
client = pymongo.MongoClient(sys.argv[1], serverSelectionTimeoutMS=10000)
replies = [client[db].command(name, value, **more) for db, name, value, more in json.loads(sys.argv[2])]
print(json.dumps(replies, default=str))
";

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
