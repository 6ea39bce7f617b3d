//! Postfix: one master, a port for each way of encrypting, each certificate, and each way of saying no.
//!
//! Nothing that would take a mail runs: a client that begins one finds no queue, and the log has it. Users are in
//! Cyrus' own database: `probe`, with the password.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpStream},
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::{
    PASSWORD, PATIENCE,
    error::{Error, Result},
    exim::{greets, wait_for},
    install::{self, Package},
    pki::{Certified, Pki},
    ports,
    process::{Process, Spec},
    rig::{Kind, Rig, Server},
    user::User,
};

/// The running server. Dropping it stops it and removes its data.
pub struct Postfix {
    // Let go before the server is stopped, and that before its folder goes.
    _holding: TcpStream,
    process: Process,
    /// STARTTLS with `pki.server`; logins only after it.
    pub smtp: u16,
    /// TLS from the start, with `pki.server`.
    pub smtps: u16,
    /// STARTTLS, and no other command before it.
    pub must_encrypt: u16,
    /// No TLS; logins in plain text.
    pub plain: u16,
    pub intermediate: u16,
    pub wrong_name: u16,
    pub expired: u16,
    pub not_yet_valid: u16,
    pub unknown_ca: u16,
    pub self_signed: u16,
    /// STARTTLS, and wants a client certificate of our authority.
    pub mutual_tls: u16,
    /// Offers STARTTLS and cannot do it: 454.
    pub broken_tls: u16,
    /// One connection at a time, and that is taken: 421.
    pub full: u16,
    /// Refuses clients in its greeting: 554.
    pub refuses: u16,
    /// Puts clients off in its greeting: 450.
    pub defers: u16,
    /// Refuses a client that does not introduce itself by a full name or an address: 504.
    pub strict: u16,
    dir: TempDir,
}

/// There is one, with a port for each variant.
#[derive(Debug, Clone, Copy)]
pub enum PostfixKind {
    Main,
}

impl Server for Postfix {
    fn processes(&self) -> Vec<&Process> {
        vec![&self.process]
    }
}

impl Kind for PostfixKind {
    type Server = Postfix;

    const NAME: &'static str = "postfix";

    fn start(self, rig: &Rig, name: &str) -> Result<Postfix> {
        Postfix::start(rig.pki(), rig.dir(), name)
    }
}

/// How many ports it takes.
const PORTS: usize = 16;

/// Debian's place for Postfix' own programs.
const DAEMONS: &str = "/usr/lib/postfix/sbin";

/// The kernel forgets whom to tell of our death when a process changes its user, as the master does now and then. So a
/// shell is told, and asks the master to end; and that must lead its group, since it ends its parts by that.
const SUPERVISE: &str = r#"
trap 'kill -TERM $master' TERM
setsid "$1" -d -c "$2" &
master=$!
wait $master
wait $master
kill -KILL -$master
"#;

impl Postfix {
    /// Starts one below `dir`. Its parts change their user, so only root can.
    pub fn start(pki: &Pki, dir: &Path, name: &str) -> Result<Postfix> {
        install::find(install::POSTFIX)?;
        if !install::is_there(install::SASL_MODULES) {
            let Package { name, program } = install::SASL_MODULES;
            return Err(Error::missing(program, name));
        }
        let saslpasswd = install::find(install::SASL)?;
        let Some(user) = User::instead_of_root("postfix")? else {
            return Err(Error::not_here("Postfix is started by root only"));
        };
        ports::retrying(PORTS, |ports| {
            Postfix::start_on(ports, pki, dir, name, user, &saslpasswd)
        })
    }

    fn start_on(
        ports: &[u16],
        pki: &Pki,
        dir: &Path,
        name: &str,
        user: User,
        saslpasswd: &Path,
    ) -> Result<Postfix> {
        let dir = TempDir::with_prefix_in(format!("{name}-"), dir)
            .map_err(Error::doing("a folder for Postfix"))?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))
            .map_err(Error::doing("the folder of Postfix"))?;
        let &[
            smtp,
            smtps,
            must_encrypt,
            plain,
            intermediate,
            wrong_name,
            expired,
            not_yet_valid,
            unknown_ca,
            self_signed,
            mutual_tls,
            broken_tls,
            full,
            refuses,
            defers,
            strict,
        ] = ports
        else {
            return Err(Error::new("postfix: the wrong number of ports"));
        };
        let with = |certificate: &Certified| {
            format!(
                "-o smtpd_tls_cert_file={} -o smtpd_tls_key_file={}",
                certificate.cert_path.display(),
                certificate.key_path.display()
            )
        };
        let text = |options: &str| options.to_owned();
        let services = [
            (smtp, String::new()),
            (smtps, text("-o smtpd_tls_wrappermode=yes")),
            (must_encrypt, text("-o smtpd_tls_security_level=encrypt")),
            (
                plain,
                text("-o smtpd_tls_security_level=none -o smtpd_tls_auth_only=no"),
            ),
            (intermediate, with(&pki.intermediate)),
            (wrong_name, with(&pki.wrong_name)),
            (expired, with(&pki.expired)),
            (not_yet_valid, with(&pki.not_yet_valid)),
            (unknown_ca, with(&pki.unknown_ca)),
            (self_signed, with(&pki.self_signed)),
            (
                mutual_tls,
                text("-o smtpd_tls_security_level=encrypt -o smtpd_tls_req_ccert=yes"),
            ),
            (broken_tls, text("-o smtpd_tls_key_file=/nowhere.key")),
            (full, text("-o smtpd_client_connection_count_limit=1")),
            (
                refuses,
                text("-o smtpd_delay_reject=no -o smtpd_client_restrictions=reject"),
            ),
            (
                defers,
                text("-o smtpd_delay_reject=no -o smtpd_client_restrictions=defer"),
            ),
            (
                strict,
                text(
                    "-o smtpd_delay_reject=no -o smtpd_helo_restrictions=reject_invalid_helo_hostname,reject_non_fqdn_helo_hostname",
                ),
            ),
        ];
        write_files(dir.path(), pki, user, &services)?;
        add_user(dir.path(), user, saslpasswd)?;
        let args = [
            "-c".into(),
            SUPERVISE.into(),
            "postfix".into(),
            Path::new(DAEMONS).join("master").into_os_string(),
            dir.path().join("etc").into_os_string(),
        ];
        let process = Spec::new(name, Path::new("/bin/sh"), dir.path())
            .args(args)
            .when_orphaned(Signal::TERM)
            .spawn()?;
        process
            .wait_ready(PATIENCE, || greets(smtp))
            .map_err(|err| explained(err, &dir.path().join(LOG)))?;
        Ok(Postfix {
            _holding: hold(full)?,
            process,
            smtp,
            smtps,
            must_encrypt,
            plain,
            intermediate,
            wrong_name,
            expired,
            not_yet_valid,
            unknown_ca,
            self_signed,
            mutual_tls,
            broken_tls,
            full,
            refuses,
            defers,
            strict,
            dir,
        })
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join(LOG)).unwrap_or_default()
    }

    /// The commands of each connection that has ended, as the log counts them, once there are at least `count`:
    /// `ehlo=2 starttls=1 auth=1 noop=1 quit=1 commands=6`. Gives what there is when nobody waits any longer.
    pub fn wait_for_goodbyes(&self, count: usize) -> Vec<String> {
        wait_for(count, || {
            let log = self.log();
            log.lines()
                .filter_map(|line| line.split_once(": disconnect from "))
                .filter_map(|(_, rest)| Some(rest.split_once("] ")?.1.to_owned()))
                .collect()
        })
    }
}

impl Drop for Postfix {
    /// Its parts end a moment after it, and accept connections until then.
    fn drop(&mut self) {
        self.process.stop();
        let started = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.smtp)).is_ok()
            && started.elapsed() < PATIENCE
        {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

const LOG: &str = "mail.log";

/// What Postfix' own log says of a failed start: the output of `master` is empty mostly.
fn explained(err: Error, log: &Path) -> Error {
    let log = fs::read_to_string(log).unwrap_or_default();
    let in_use = err.address_in_use || log.contains("Address already in use");
    Error::new(format!("{err}\n{log}")).with_address_in_use(in_use)
}

/// Takes the only place there is, and makes sure that it was taken.
fn hold(port: u16) -> Result<TcpStream> {
    let mut line = String::new();
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .and_then(|stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            BufReader::new(&stream).read_line(&mut line)?;
            Ok(stream)
        })
        .map_err(Error::doing("a full Postfix: its only client"))?;
    match line.starts_with("220 ") {
        true => Ok(stream),
        false => Err(Error::new(format!(
            "a full Postfix greets its first client with {line:?}"
        ))),
    }
}

fn write_files(dir: &Path, pki: &Pki, user: User, services: &[(u16, String)]) -> Result<()> {
    let doing = || Error::doing("the files of Postfix");
    fs::create_dir_all(dir.join("etc/sasl")).map_err(doing())?;
    // What `postfix check` would make, and take two seconds for.
    for folder in ["data", "queue/pid", "queue/private", "queue/public"] {
        let folder = dir.join(folder);
        fs::create_dir_all(&folder).map_err(doing())?;
        if !folder.ends_with("pid") {
            chown(&folder, Some(user.uid), None).map_err(doing())?;
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).map_err(doing())?;
        }
    }
    let main = MAIN
        .replace("@dir@", &dir.display().to_string())
        .replace("@daemons@", DAEMONS)
        .replace("@cert@", &pki.server.cert_path.display().to_string())
        .replace("@key@", &pki.server.key_path.display().to_string())
        .replace("@ca@", &pki.ca.cert_path.display().to_string());
    let file = dir.join("etc/main.cf");
    fs::write(&file, main).map_err(doing())?;
    // A file that has just changed may still be changing, thinks Postfix, and waits two seconds.
    fs::File::options()
        .write(true)
        .open(&file)
        .and_then(|file| file.set_modified(SystemTime::now() - Duration::from_secs(60)))
        .map_err(doing())?;
    let mut master = MASTER.to_owned();
    for (port, options) in services {
        master.push_str(&format!(
            "127.0.0.1:{port} inet n - n - - smtpd {options}\n"
        ));
    }
    fs::write(dir.join("etc/master.cf"), master).map_err(doing())?;
    // Debian's Postfix looks for it here, whatever `cyrus_sasl_config_path` says.
    let sasl = format!(
        "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nmech_list: PLAIN LOGIN CRAM-MD5\nsasldb_path: {}\n",
        users(dir).display()
    );
    fs::write(dir.join("etc/sasl/smtpd.conf"), sasl).map_err(doing())
}

fn users(dir: &Path) -> PathBuf {
    dir.join("etc/sasl/sasldb2")
}

fn add_user(dir: &Path, user: User, saslpasswd: &Path) -> Result<()> {
    let doing = || Error::doing("a user for Postfix");
    let mut child = std::process::Command::new(saslpasswd)
        .args(["-p", "-c", "-u", "rig.test", "-f"])
        .arg(users(dir))
        .arg("probe")
        .stdin(std::process::Stdio::piped())
        .spawn()
        .map_err(doing())?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(PASSWORD.as_bytes()).map_err(doing())?;
    }
    let status = child.wait().map_err(doing())?;
    match status.success() {
        true => chown(users(dir), Some(user.uid), Some(user.gid)).map_err(doing()),
        false => Err(Error::new(format!("saslpasswd2 failed: {status}"))),
    }
}

const MAIN: &str = "\
compatibility_level = 3.6
queue_directory = @dir@/queue
data_directory = @dir@/data
command_directory = /usr/sbin
daemon_directory = @daemons@
mail_owner = postfix
setgid_group = postdrop
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = rig.test
mydestination =
mynetworks =
alias_maps =
alias_database =
local_recipient_maps =
default_transport = error:nothing leaves
relay_transport = error:nothing leaves
smtpd_relay_restrictions = reject
smtpd_tls_cert_file = @cert@
smtpd_tls_key_file = @key@
smtpd_tls_CAfile = @ca@
smtpd_tls_ask_ccert = yes
smtpd_tls_security_level = may
smtpd_tls_auth_only = yes
smtpd_tls_loglevel = 1
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = cyrus
smtpd_sasl_path = smtpd
smtpd_sasl_local_domain = rig.test
smtpd_peername_lookup = no
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
maillog_file = @dir@/mail.log
maillog_file_prefixes = @dir@
";

const MASTER: &str = "\
postlog unix-dgram n - n - 1 postlogd
tlsmgr unix - - n 1000? 1 tlsmgr
anvil unix - - n - 1 anvil
proxymap unix - - n - - proxymap
rewrite unix - - n - - trivial-rewrite
";
