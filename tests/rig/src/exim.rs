//! Exim: the other mail server, with another TLS (GnuTLS) and other manners. It runs as whoever runs the tests.
//!
//! | login | is |
//! |---|---|
//! | `probe` and the password, by PLAIN or LOGIN | accepted |
//! | `probe` and [`Exim::TOKEN`], by XOAUTH2 | accepted |
//! | `later`, by PLAIN | put off (435) |
//! | any other | refused (535) |
//!
//! Logins are offered over TLS, and on [`Exim::plain`] and [`Exim::cram`] without. It never delivers: mails would
//! stay in its queue, and there is nobody to send them to.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    PASSWORD, PATIENCE,
    error::{Error, Result},
    pki::{Pki, Shown},
    ports,
    process::{Process, Spec},
    rig::{Kind, Rig, Server},
    unpacked,
    user::{User, give},
};

/// The running server. Dropping it stops it and removes its data.
pub struct Exim {
    process: Process,
    /// STARTTLS with `pki.server`.
    pub smtp: u16,
    /// TLS from the start, with `pki.server`; so are those with the other certificates.
    pub smtps: u16,
    pub intermediate: u16,
    pub wrong_name: u16,
    pub expired: u16,
    pub not_yet_valid: u16,
    pub unknown_ca: u16,
    pub self_signed: u16,
    /// TLS from the start, and wants a client certificate of our authority.
    pub mutual_tls: u16,
    /// No TLS; logins in plain text.
    pub plain: u16,
    /// The same; the only login is CRAM-MD5.
    pub cram: u16,
    /// Its greeting has three lines.
    pub talkative: u16,
    /// Refuses clients in its greeting: 550.
    pub refuses: u16,
    /// Puts clients off in its greeting: 451.
    pub defers: u16,
    /// Knows no `EHLO`: 502.
    pub helo_only: u16,
    dir: TempDir,
}

/// There is one, with a port for each variant.
#[derive(Debug, Clone, Copy)]
pub enum EximKind {
    Main,
}

impl Server for Exim {
    fn processes(&self) -> Vec<&Process> {
        vec![&self.process]
    }
}

impl Kind for EximKind {
    type Server = Exim;

    const NAME: &'static str = "exim";

    fn start(self, rig: &Rig, name: &str) -> Result<Exim> {
        Exim::start(rig.pki(), rig.dir(), name)
    }
}

/// How many ports it takes.
const PORTS: usize = 15;

impl Exim {
    /// The access token that XOAUTH2 accepts.
    pub const TOKEN: &str = "probe-token";

    /// Starts one below `dir`.
    pub fn start(pki: &Pki, dir: &Path, name: &str) -> Result<Exim> {
        let program = unpacked::exim()?;
        ports::retrying(PORTS, |ports| {
            Exim::start_on(ports, pki, dir, name, &program)
        })
    }

    fn start_on(ports: &[u16], pki: &Pki, dir: &Path, name: &str, program: &Path) -> Result<Exim> {
        let &[
            smtp,
            smtps,
            intermediate,
            wrong_name,
            expired,
            not_yet_valid,
            unknown_ca,
            self_signed,
            mutual_tls,
            plain,
            cram,
            talkative,
            refuses,
            defers,
            helo_only,
        ] = ports
        else {
            return Err(Error::new("exim: the wrong number of ports"));
        };
        let dir = TempDir::with_prefix_in(format!("{name}-"), dir)
            .map_err(Error::doing("a folder for Exim"))?;
        let user = User::instead_of_root("nobody")?;
        let mut conf = CONF
            .replace("@dir@", &dir.path().display().to_string())
            .replace("@password@", PASSWORD)
            .replace("@token@", Exim::TOKEN);
        for (mark, port) in [
            ("@mutual_tls@", mutual_tls),
            ("@plain@", plain),
            ("@cram@", cram),
            ("@talkative@", talkative),
            ("@refuses@", refuses),
            ("@defers@", defers),
            ("@helo_only@", helo_only),
        ] {
            conf = conf.replace(mark, &port.to_string());
        }
        let listed = |ports: &[u16]| -> String {
            let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
            ports.join(" : ")
        };
        let certificates = [
            (intermediate, &pki.intermediate),
            (wrong_name, &pki.wrong_name),
            (expired, &pki.expired),
            (not_yet_valid, &pki.not_yet_valid),
            (unknown_ca, &pki.unknown_ca),
            (self_signed, &pki.self_signed),
        ]
        .map(|(port, certificate)| format!("port-{port}={}", certificate.name));
        conf = conf
            .replace("@ports@", &listed(ports))
            .replace("@from_the_start@", &listed(&ports[1..9]))
            .replace("@certificates@", &certificates.join(" "));
        write_files(dir.path(), pki, user, &conf)?;
        let libraries = unpacked::libraries()?;
        let process = Spec::new(name, program, dir.path())
            .args(["-C".into(), dir.path().join("exim.conf").into_os_string()])
            .args(["-bdf"])
            .env("LD_PRELOAD", libraries.join("libnss_wrapper.so"))
            .env("LD_LIBRARY_PATH", libraries)
            .env("NSS_WRAPPER_PASSWD", dir.path().join("passwd"))
            .env("NSS_WRAPPER_GROUP", dir.path().join("group"))
            .user(user)
            .spawn()?;
        process.wait_ready(PATIENCE, || greets(smtp))?;
        Ok(Exim {
            process,
            smtp,
            smtps,
            intermediate,
            wrong_name,
            expired,
            not_yet_valid,
            unknown_ca,
            self_signed,
            mutual_tls,
            plain,
            cram,
            talkative,
            refuses,
            defers,
            helo_only,
            dir,
        })
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    /// What it has logged so far: connections, refusals, and whoever left without a goodbye.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("spool/mainlog")).unwrap_or_default()
    }

    /// The commands of each connection that has ended without a mail, once there are at least `count`:
    /// `EHLO,STARTTLS,EHLO,AUTH,NOOP,QUIT`. Gives what there is when nobody waits any longer.
    pub fn wait_for_goodbyes(&self, count: usize) -> Vec<String> {
        wait_for(count, || {
            let log = self.log();
            log.lines()
                .filter(|line| line.contains(" no MAIL in SMTP connection from "))
                .filter_map(|line| Some(line.rsplit_once(" C=")?.1.to_owned()))
                .collect()
        })
    }
}

/// So many lines of a log, or what there is when nobody waits any longer.
pub(crate) fn wait_for(count: usize, lines: impl Fn() -> Vec<String>) -> Vec<String> {
    let started = Instant::now();
    loop {
        let lines = lines();
        if lines.len() >= count || started.elapsed() > PATIENCE {
            return lines;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether it greets. Says goodbye.
pub(crate) fn greets(port: u16) -> Result<(), String> {
    let mut line = String::new();
    TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .and_then(|stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut stream = BufReader::new(stream);
            stream.read_line(&mut line)?;
            stream.get_mut().write_all(b"QUIT\r\n")?;
            stream.read_line(&mut String::new())
        })
        .map_err(|err| err.to_string())?;
    match line.starts_with("220 ") {
        true => Ok(()),
        false => Err(format!("it greets with {line:?}")),
    }
}

fn write_files(dir: &Path, pki: &Pki, user: Option<User>, conf: &str) -> Result<()> {
    let doing = || Error::doing("the files of Exim");
    let (uid, gid) = match user {
        Some(user) => (user.uid, user.gid),
        None => (
            rustix::process::getuid().as_raw(),
            rustix::process::getgid().as_raw(),
        ),
    };
    let fill = |text: &str| {
        text.replace("@uid@", &uid.to_string())
            .replace("@gid@", &gid.to_string())
    };
    let mut made: Vec<PathBuf> = vec![dir.into(), dir.join("spool")];
    fs::create_dir_all(dir.join("spool")).map_err(doing())?;
    for (name, text) in [
        ("exim.conf", conf),
        // The user that its package would have made is the one that it runs as.
        (
            "passwd",
            "root:x:0:0::/:/bin/sh\nDebian-exim:x:@uid@:@gid@::/:/bin/sh\n",
        ),
        ("group", "root:x:0:\nDebian-exim:x:@gid@:\n"),
    ] {
        fs::write(dir.join(name), fill(text)).map_err(doing())?;
        made.push(dir.join(name));
    }
    for certificate in Shown::ALL.map(|shown| pki.shown(shown)) {
        for (ending, from) in [
            ("crt", &certificate.cert_path),
            ("key", &certificate.key_path),
        ] {
            let to = dir.join(format!("{}.{ending}", certificate.name));
            fs::copy(from, &to).map_err(doing())?;
            made.push(to);
        }
    }
    fs::copy(&pki.ca.cert_path, dir.join("ca.crt")).map_err(doing())?;
    made.push(dir.join("ca.crt"));
    made.iter().try_for_each(|path| give(path, user))
}

const CONF: &str = r#"
exim_user = @uid@
exim_group = @gid@
keep_environment =
spool_directory = @dir@/spool
log_file_path = @dir@/spool/%slog
log_selector = +smtp_connection +smtp_no_mail +smtp_protocol_error +tls_cipher
primary_hostname = rig.test
local_interfaces = 127.0.0.1
daemon_smtp_ports = @ports@
tls_on_connect_ports = @from_the_start@
tls_certificate = @dir@/${extract{port-$received_port}{@certificates@}{$value}{server}}.crt
tls_privatekey = @dir@/${extract{port-$received_port}{@certificates@}{$value}{server}}.key
tls_verify_certificates = @dir@/ca.crt
tls_verify_hosts = ${if eq{$received_port}{@mutual_tls@}{*}{}}
tls_advertise_hosts = ${if or{{eq{$received_port}{@plain@}}{eq{$received_port}{@cram@}}}{}{*}}
auth_advertise_hosts = ${if or{{def:tls_in_cipher}{eq{$received_port}{@plain@}}{eq{$received_port}{@cram@}}}{*}{}}
smtp_banner = rig.test ESMTP Exim $version_number${if eq{$received_port}{@talkative@}{\nwe have much to say\nbefore you have a word}{}}
acl_smtp_connect = a_connect
acl_smtp_helo = a_helo
smtp_accept_max = 500
queue_only
host_lookup =
helo_lookup_domains =
rfc1413_query_timeout = 0s
begin acl
a_connect:
  deny condition = ${if eq{$received_port}{@refuses@}}
       message = your address is listed in our blocklist
  defer condition = ${if eq{$received_port}{@defers@}}
        message = 451 come back later
  accept
a_helo:
  deny condition = ${if and{{eq{$received_port}{@helo_only@}}{match{$smtp_command}{\N^(?i)EHLO\N}}}}
       message = 502 command not implemented
  accept
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${if eq{$auth2}{later}{later}{${if and{{eq{$auth2}{probe}}{eq{$auth3}{@password@}}}}}}
  server_advertise_condition = ${if !eq{$received_port}{@cram@}}
  server_set_id = $auth2
login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = <| Username: | Password:
  server_condition = ${if and{{eq{$auth1}{probe}}{eq{$auth2}{@password@}}}}
  server_advertise_condition = ${if !eq{$received_port}{@cram@}}
  server_set_id = $auth1
xoauth2:
  driver = plaintext
  public_name = XOAUTH2
  server_prompts = :
  server_condition = ${if eq{$auth1}{user=probe\x01auth=Bearer @token@\x01\x01}}
  server_advertise_condition = ${if !eq{$received_port}{@cram@}}
cram:
  driver = cram_md5
  public_name = CRAM-MD5
  server_secret = @password@
  server_advertise_condition = ${if eq{$received_port}{@cram@}}
  server_set_id = $auth1
"#;
