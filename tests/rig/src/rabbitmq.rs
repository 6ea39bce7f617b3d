//! RabbitMQ: plain and over TLS, with a user, a vhost and a queue for each answer.
//!
//! | user | may |
//! |---|---|
//! | `probe` | go to every vhost and read there; logs in by password, or by the client certificate |
//! | `stranger` | log in, and go to no vhost |
//! | `nobody` | go to `/`, and do nothing there |
//! | `limited` | not connect: its limit is no connection at all |
//! | `channelless` | connect, and open no channel: its limit is none at all |
//!
//! | vhost | |
//! |---|---|
//! | `/`, `team/a` | with the queue `orders` |
//! | `full` | lets nobody in: its limit is no connection at all |
//!
//! Every password is [`PASSWORD`]. There is no user `guest`.

use std::{
    fs,
    io::Write,
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    PASSWORD,
    error::{Error, Result},
    install,
    pki::{Pki, Shown},
    ports,
    process::{Process, Spec},
    rig::{Kind, Rig, Server},
    tls::Front,
};

/// A running broker. Dropping it stops it and removes its data.
pub struct RabbitMq {
    process: Process,
    // After the broker, which has registered there; and both before the folder.
    names: Process,
    port: u16,
    tls_port: u16,
    names_port: u16,
    dir: TempDir,
}

/// Which broker. A second one costs four seconds and 150 MB, so there are no more than that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RabbitMqKind {
    Main,
    /// Wants a client certificate on the TLS port, and is there to be paused and put into alarm: one
    /// test at a time.
    Own,
}

impl Server for RabbitMq {
    fn processes(&self) -> Vec<&Process> {
        vec![&self.process, &self.names]
    }
}

impl Kind for RabbitMqKind {
    type Server = RabbitMq;

    const NAME: &'static str = "rabbitmq";

    fn start(self, rig: &Rig, name: &str) -> Result<RabbitMq> {
        RabbitMq::start(self, rig.pki(), rig.dir(), name)
    }
}

/// The main broker behind TLS with another certificate: a broker has one for all its ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RabbitMqFront(pub Shown);

impl Kind for RabbitMqFront {
    type Server = Front;

    const NAME: &'static str = "rabbitmq-front";

    fn start(self, rig: &Rig, _: &str) -> Result<Front> {
        Front::start(rig.pki().shown(self.0), rig.rabbitmq()?.port())
    }
}

impl RabbitMq {
    /// One called `name`, with its data below `dir`.
    pub fn start(kind: RabbitMqKind, pki: &Pki, dir: &Path, name: &str) -> Result<RabbitMq> {
        let program = program()?;
        ports::retrying(4, |ports| {
            Builder {
                pki,
                name,
                client_certificates: kind == RabbitMqKind::Own,
                port: ports[0],
                tls_port: ports[1],
                nodes_port: ports[2],
                names_port: ports[3],
            }
            .start(dir, &program)
        })
    }

    /// The plain port.
    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn tls_port(&self) -> u16 {
        self.tls_port
    }

    /// `amqp://USER:PASSWORD@localhost:PORT`, without a vhost.
    pub fn url(&self, user: &str) -> String {
        format!("amqp://{user}:{PASSWORD}@localhost:{}", self.port)
    }

    /// `amqps://USER:PASSWORD@localhost:PORT`, without a vhost.
    pub fn tls_url(&self, user: &str) -> String {
        format!("amqps://{user}:{PASSWORD}@localhost:{}", self.tls_port)
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    /// With a line for every connection that comes and goes.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// How many connections of that user there are.
    pub fn connections_of(&self, user: &str) -> Result<usize> {
        let count = self.erlang(&format!(
            "length(rabbit_connection_tracking:list_of_user(<<\"{user}\">>))"
        ))?;
        count.parse().map_err(Error::doing(format!(
            "the number of connections is `{count}`"
        )))
    }

    /// Evaluates an expression in the broker and returns what it comes to, as Erlang prints it. What
    /// `rabbitmqctl` does, which takes a second each time; this takes five milliseconds.
    pub fn erlang(&self, expression: &str) -> Result<String> {
        erlang(self.dir.path(), self.names_port, expression)
    }
}

struct Builder<'a> {
    pki: &'a Pki,
    name: &'a str,
    client_certificates: bool,
    port: u16,
    tls_port: u16,
    /// Where it would listen for other nodes of a cluster.
    nodes_port: u16,
    /// Where Erlang's port mapper listens, one of its own.
    names_port: u16,
}

const NODE: &str = "rig@localhost";
const COOKIE: &str = "rig";

impl Builder<'_> {
    fn start(&self, dir: &Path, program: &Path) -> Result<RabbitMq> {
        let dir = TempDir::with_prefix_in(format!("{}-", self.name), dir)
            .map_err(Error::doing(format!("a folder for {}", self.name)))?;
        let path = dir.path();
        let definitions = path.join("definitions.json");
        self.write(&definitions, &definitions_of_users().to_string())?;
        self.write(&path.join("rabbitmq.conf"), &self.conf(&definitions))?;
        self.write(&path.join("plugins"), "[rabbitmq_auth_mechanism_ssl].\n")?;
        // Erlang would start this by itself, as a daemon on every address that outlives the broker.
        let names = Spec::new(&format!("{}-epmd", self.name), &epmd()?, path)
            .args([
                "-address",
                "127.0.0.1",
                "-port",
                &self.names_port.to_string(),
            ])
            .spawn()?;
        let process = self.spec(program, path).spawn()?;
        process.wait_ready(Duration::from_secs(60), || {
            // Of its listeners this one comes last, after the definitions.
            TcpStream::connect((Ipv4Addr::LOCALHOST, self.tls_port))
                .map(drop)
                .map_err(|err| err.to_string())
        })?;
        Ok(RabbitMq {
            process,
            names,
            port: self.port,
            tls_port: self.tls_port,
            names_port: self.names_port,
            dir,
        })
    }

    fn write(&self, path: &Path, text: &str) -> Result<()> {
        fs::write(path, text).map_err(Error::doing(format!("cannot write {}", path.display())))
    }

    fn spec(&self, program: &Path, dir: &Path) -> Spec {
        let erlang = format!(
            "-setcookie {COOKIE} -kernel inet_dist_use_interface {{127,0,0,1}} \
             +S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none"
        );
        let mut spec = Spec::new(self.name, program, dir)
            // It keeps nothing that is worth an orderly end, which would take seconds.
            .stop_with(Signal::KILL)
            // With it the script becomes the broker, instead of starting it: one process to look after.
            .env("NOTIFY_SOCKET", dir.join("nobody"))
            .env("HOME", dir)
            .env("RABBITMQ_NODENAME", NODE)
            .env("RABBITMQ_DIST_PORT", self.nodes_port.to_string())
            .env("ERL_EPMD_PORT", self.names_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_LOGS", "-")
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", erlang);
        for (name, path) in [
            ("RABBITMQ_BASE", ""),
            ("RABBITMQ_MNESIA_BASE", "mnesia"),
            ("RABBITMQ_LOG_BASE", "log"),
            ("RABBITMQ_PID_FILE", "pid"),
            ("RABBITMQ_CONFIG_FILE", "rabbitmq.conf"),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", "plugins"),
        ] {
            spec = spec.env(name, dir.join(path));
        }
        spec
    }

    fn conf(&self, definitions: &Path) -> String {
        let certificate = &self.pki.server;
        format!(
            "listeners.tcp.local = 127.0.0.1:{}\n\
             listeners.ssl.local = 127.0.0.1:{}\n\
             ssl_options.cacertfile = {}\n\
             ssl_options.certfile = {}\n\
             ssl_options.keyfile = {}\n\
             ssl_options.verify = verify_peer\n\
             ssl_options.fail_if_no_peer_cert = {}\n\
             ssl_cert_login_from = common_name\n\
             auth_mechanisms.1 = PLAIN\n\
             auth_mechanisms.2 = AMQPLAIN\n\
             auth_mechanisms.3 = EXTERNAL\n\
             load_definitions = {}\n\
             log.console.level = info\n\
             disk_free_limit.absolute = 1MB\n\
             vm_memory_high_watermark.absolute = 400MB\n",
            self.port,
            self.tls_port,
            self.pki.ca.cert_path.display(),
            certificate.cert_path.display(),
            certificate.key_path.display(),
            self.client_certificates,
            definitions.display(),
        )
    }
}

fn definitions_of_users() -> Value {
    let user = |name: &str, limits: Value| json!({"name": name, "password": PASSWORD, "tags": "", "limits": limits});
    let may = |user: &str, vhost: &str, read: &str| json!({"user": user, "vhost": vhost, "configure": "^$", "write": "^$", "read": read});
    let orders = |vhost: &str| json!({"name": "orders", "vhost": vhost, "durable": true, "auto_delete": false, "arguments": {}});
    json!({
        "users": [
            user("probe", json!({})),
            user("stranger", json!({})),
            user("nobody", json!({})),
            user("limited", json!({"max-connections": 0})),
            user("channelless", json!({"max-channels": 0})),
        ],
        "vhosts": [{"name": "/"}, {"name": "team/a"}, {"name": "full"}],
        "permissions": [
            may("probe", "/", ".*"),
            may("probe", "team/a", ".*"),
            may("probe", "full", ".*"),
            may("nobody", "/", "^$"),
            may("limited", "/", ".*"),
            may("channelless", "/", ".*"),
        ],
        "parameters": [{
            "component": "vhost-limits", "name": "limits", "vhost": "full",
            "value": {"max-connections": 0},
        }],
        "queues": [orders("/"), orders("team/a")],
    })
}

/// Debian's script in the `PATH` changes to another user, who cannot read our folder.
fn program() -> Result<PathBuf> {
    let found = install::find(install::RABBITMQ)?;
    let own = PathBuf::from("/usr/lib/rabbitmq/bin/rabbitmq-server");
    Ok(if own.exists() { own } else { found })
}

fn epmd() -> Result<PathBuf> {
    of_erlang("epmd")
}

/// A program that came with Erlang, and so with the broker.
fn of_erlang(name: &str) -> Result<PathBuf> {
    install::program(name)
        .or_else(|| {
            let own = Path::new("/usr/lib/erlang/bin").join(name);
            own.exists().then_some(own)
        })
        .ok_or_else(|| Error::missing(name, install::RABBITMQ.name))
}

fn erlang(dir: &Path, names_port: u16, expression: &str) -> Result<String> {
    let doing = || Error::doing(format!("`{expression}` in RabbitMQ"));
    // The second of two that are called the same is refused, and the name that `-r` takes is the second of the
    // clock.
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let caller = format!(
        "caller{}x{}",
        std::process::id(),
        CALLS.fetch_add(1, Ordering::Relaxed)
    );
    let mut child = Command::new(of_erlang("erl_call")?)
        .args(["-h", &caller, "-c", COOKIE, "-n", NODE, "-e"])
        .env("ERL_EPMD_PORT", names_port.to_string())
        .env("HOME", dir)
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(doing())?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(format!("{expression}.\n").as_bytes())
            .map_err(doing())?;
    }
    let output = child.wait_with_output().map_err(doing())?;
    let said = String::from_utf8_lossy(&output.stdout);
    match said.trim().strip_prefix("{ok, ") {
        Some(value) => Ok(value.strip_suffix('}').unwrap_or(value).to_owned()),
        None => Err(Error::new(format!(
            "`{expression}` in RabbitMQ: {said}{}",
            String::from_utf8_lossy(&output.stderr)
        ))),
    }
}
