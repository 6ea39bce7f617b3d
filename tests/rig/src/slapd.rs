//! OpenLDAP's slapd: plain with StartTLS, over TLS, on a unix socket.
//!
//! Below [`BASE`] are these users, each with its answer:
//!
//! | user | may |
//! |---|---|
//! | `probe` | read |
//! | `barred` | log in, and know what is there without reading it (insufficientAccessRights) |
//! | `blind` | log in, and nothing more: nothing exists for it (noSuchObject) |
//! | `limited` | read, and not look through more than one entry for it (adminLimitExceeded) |
//!
//! and `ou=elsewhere`, which only says where it really is (referral).
//!
//! Other bases have other answers: [`CLOSED`] may not be searched (unwillingToPerform), [`AWAY`] is on a server
//! behind this one that is down (unavailable), and whatever it does not know it refers to `other.test`.
//!
//! Every password is [`PASSWORD`]. SASL EXTERNAL makes `probe` of a client certificate for `CN=probe`, and of
//! whoever comes by the unix socket.

use std::{
    fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    thread,
    time::Duration,
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

/// Where everything is.
pub const BASE: &str = "dc=rig,dc=test";
/// A base that may not be searched.
pub const CLOSED: &str = "dc=closed,dc=test";
/// A base whose own server is down.
pub const AWAY: &str = "dc=away,dc=test";

/// A running server. Dropping it stops it and removes its data.
pub struct Slapd {
    // Let go before the server is stopped, and that before its folder goes.
    _holding: Vec<TcpStream>,
    process: Process,
    port: u16,
    tls_port: u16,
    dir: TempDir,
    _away: Refused,
}

/// Which slapd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlapdKind {
    Main,
    /// With this certificate in place of the good one.
    Shows(Shown),
    /// Wants a client certificate.
    MutualTls,
    /// Answers nothing in plain text (confidentialityRequired).
    TlsRequired,
    /// Has no certificate, and refuses StartTLS.
    NoTls,
    /// Lets no strangers in (inappropriateAuthentication).
    NoAnonymous,
    /// Has no descriptors left, and takes no connection that comes.
    Full,
}

impl Server for Slapd {
    fn processes(&self) -> Vec<&Process> {
        vec![&self.process]
    }
}

impl Kind for SlapdKind {
    type Server = Slapd;

    const NAME: &'static str = "slapd";

    fn start(self, rig: &Rig, name: &str) -> Result<Slapd> {
        let pki = rig.pki();
        let builder = Slapd::builder(pki, rig.dir()).name(name);
        match self {
            SlapdKind::Main => builder,
            SlapdKind::Shows(shown) => builder.certificate(pki.shown(shown)),
            SlapdKind::MutualTls => builder.mutual_tls(),
            SlapdKind::TlsRequired => builder.with("security tls=1"),
            SlapdKind::NoTls => builder.without_tls(),
            SlapdKind::NoAnonymous => builder.with("disallow bind_anon"),
            SlapdKind::Full => builder.full(),
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
    client_certificates: &'static str,
    further: &'static str,
    full: bool,
}

impl Slapd {
    /// The ordinary one: a plain port, a TLS port with `pki.server`, a unix socket. Its data is below `dir`.
    pub fn start(pki: &Pki, dir: &Path) -> Result<Slapd> {
        Slapd::builder(pki, dir).start()
    }

    pub fn builder<'a>(pki: &'a Pki, dir: &'a Path) -> Builder<'a> {
        Builder {
            pki,
            dir,
            name: "slapd".into(),
            certificate: Some(&pki.server),
            client_certificates: "try",
            further: "",
            full: false,
        }
    }

    /// The plain port.
    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn tls_port(&self) -> u16 {
        self.tls_port
    }

    /// `ldap://localhost:PORT/BASE`.
    pub fn url(&self) -> String {
        format!("ldap://localhost:{}/{BASE}", self.port)
    }

    /// `ldaps://localhost:PORT/BASE`.
    pub fn tls_url(&self) -> String {
        format!("ldaps://localhost:{}/{BASE}", self.tls_port)
    }

    /// `ldapi://SOCKET/BASE`.
    pub fn socket_url(&self) -> String {
        format!("{}/{BASE}", encoded(&self.socket()))
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("ldapi")
    }

    /// The DN of a user.
    pub fn dn(user: &str) -> String {
        format!("uid={user},{BASE}")
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Who came, what was asked, how it ended.
    pub fn log(&self) -> String {
        self.process.log()
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

    /// Speaks no TLS.
    pub fn without_tls(mut self) -> Builder<'a> {
        self.certificate = None;
        self
    }

    /// Wants a client certificate of our authority.
    pub fn mutual_tls(mut self) -> Builder<'a> {
        self.client_certificates = "demand";
        self
    }

    /// One more line of its configuration.
    pub fn with(mut self, line: &'static str) -> Builder<'a> {
        self.further = line;
        self
    }

    /// Has room for nobody. slapd knows no limit of connections but that of its descriptors.
    pub fn full(mut self) -> Builder<'a> {
        self.full = true;
        self
    }

    pub fn start(self) -> Result<Slapd> {
        let program = install::find(install::SLAPD)?;
        ports::retrying(2, |ports| self.start_on(ports[0], ports[1], &program))
    }

    fn start_on(&self, port: u16, tls_port: u16, program: &Path) -> Result<Slapd> {
        let dir = TempDir::with_prefix_in(format!("{}-", self.name), self.dir)
            .map_err(Error::doing(format!("a folder for {}", self.name)))?;
        let away = ports::refused()?;
        let (conf, ldif) = (dir.path().join("slapd.conf"), dir.path().join("base.ldif"));
        fs::create_dir(dir.path().join("data"))
            .and_then(|()| fs::write(&conf, self.conf(dir.path(), &away)))
            .and_then(|()| fs::write(&ldif, entries()))
            .map_err(Error::doing(format!(
                "cannot write below {}",
                dir.path().display()
            )))?;
        install::run(
            &program.with_file_name("slapadd"),
            &[
                "-q".as_ref(),
                "-f".as_ref(),
                conf.as_os_str(),
                "-l".as_ref(),
                ldif.as_os_str(),
            ],
        )?;
        let socket = dir.path().join("ldapi");
        let mut urls = format!("ldap://127.0.0.1:{port} {}", encoded(&socket));
        if self.certificate.is_some() {
            urls = format!("{urls} ldaps://127.0.0.1:{tls_port}");
        }
        // The level `stats` keeps it in the foreground, and tells each connection.
        let args = ["-f", "slapd.conf", "-h", &urls, "-d", "stats"].map(String::from);
        let spec = match self.full {
            false => Spec::new(&self.name, program, dir.path()).args(args),
            true => Spec::new(&self.name, Path::new("/bin/sh"), dir.path())
                .args(["-c", "ulimit -n 32; exec \"$0\" \"$@\""])
                .args([program.as_os_str()])
                .args(args),
        };
        let process = spec.spawn()?;
        process.wait_ready(PATIENCE, || answers(port))?;
        let holding = if self.full {
            hold(port, &process)?
        } else {
            Vec::new()
        };
        Ok(Slapd {
            _holding: holding,
            process,
            port,
            tls_port,
            dir,
            _away: away,
        })
    }

    fn conf(&self, dir: &Path, away: &Refused) -> String {
        let dir = dir.display();
        let tls = match self.certificate {
            None => String::new(),
            Some(certificate) => format!(
                "TLSCertificateFile {}\n\
                 TLSCertificateKeyFile {}\n\
                 TLSCACertificateFile {}\n\
                 TLSVerifyClient {}\n",
                certificate.cert_path.display(),
                certificate.key_path.display(),
                self.pki.ca.cert_path.display(),
                self.client_certificates,
            ),
        };
        format!(
            "include /etc/ldap/schema/core.schema\n\
             include /etc/ldap/schema/cosine.schema\n\
             include /etc/ldap/schema/inetorgperson.schema\n\
             modulepath /usr/lib/ldap\n\
             moduleload back_mdb\n\
             moduleload back_ldap\n\
             moduleload back_null\n\
             pidfile {dir}/pid\n\
             argsfile {dir}/args\n\
             referral ldap://other.test:1389\n\
             {tls}\
             {further}\n\
             authz-regexp \"^cn=probe$\" \"uid=probe,{BASE}\"\n\
             authz-regexp \"^gidNumber=.*,cn=peercred,cn=external,cn=auth$\" \"uid=probe,{BASE}\"\n\
             access to dn.base=\"\" by * read\n\
             access to attrs=userPassword by anonymous auth\n\
             access to * by dn.exact=\"uid=blind,{BASE}\" none\n  \
               by dn.exact=\"uid=barred,{BASE}\" disclose by users read by * none\n\
             \n\
             database mdb\n\
             maxsize 16777216\n\
             suffix {BASE}\n\
             directory {dir}/data\n\
             index objectClass eq\n\
             limits dn.exact=\"uid=limited,{BASE}\" size.unchecked=1\n\
             \n\
             database null\n\
             suffix {CLOSED}\n\
             restrict search\n\
             \n\
             database ldap\n\
             suffix {AWAY}\n\
             uri ldap://{}\n",
            away.addr(),
            further = self.further,
        )
    }
}

/// A unix socket as a URL has it.
fn encoded(socket: &Path) -> String {
    format!(
        "ldapi://{}",
        socket.display().to_string().replace('/', "%2F")
    )
}

fn entries() -> String {
    let mut ldif = format!(
        "dn: {BASE}\nobjectClass: dcObject\nobjectClass: organization\no: rig\ndc: rig\n\n\
         dn: ou=elsewhere,{BASE}\nobjectClass: referral\nobjectClass: extensibleObject\nou: elsewhere\n\
         ref: ldap://elsewhere.test/ou=elsewhere,{BASE}\n\n"
    );
    for user in ["probe", "barred", "blind", "limited"] {
        ldif.push_str(&format!(
            "dn: uid={user},{BASE}\nobjectClass: inetOrgPerson\nuid: {user}\ncn: {user}\nsn: {user}\n\
             userPassword: {PASSWORD}\n\n"
        ));
    }
    ldif
}

/// Whether an anonymous bind is answered, whatever the answer.
fn answers(port: u16) -> Result<(), String> {
    let mut first = [0];
    let res = anonymous(port).and_then(|mut stream| stream.read_exact(&mut first));
    match (res, first) {
        (Ok(()), [0x30]) => Ok(()),
        (Ok(()), [byte]) => Err(format!("its answer begins with {byte:#x}")),
        (Err(err), _) => Err(err.to_string()),
    }
}

/// A connection on which an anonymous bind was sent.
fn anonymous(port: u16) -> io::Result<TcpStream> {
    const BIND: &[u8] = b"\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\x00\x80\x00";
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(BIND)?;
    Ok(stream)
}

/// Takes every place that there is, and has it find out.
///
/// Who comes alone when one descriptor is left is hung up on: slapd needs a second one to see whether he may come
/// in. Of two who come at once the second finds none, and slapd, as it tells its log, accepts nobody from then on
/// until somebody leaves: what a full server is like. So they come in bursts until it says so, and all of them stay.
fn hold(port: u16, process: &Process) -> Result<Vec<TcpStream>> {
    const BURST: usize = 8;
    const BURSTS: usize = 30;
    let mut holding = Vec::new();
    for _ in 0..BURSTS {
        for _ in 0..BURST {
            holding.push(anonymous(port).map_err(Error::doing("cannot fill slapd"))?);
        }
        for _ in 0..10 {
            // EMFILE
            if process.log().contains("failed errno=24") {
                return Ok(holding);
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
    Err(Error::new("a full slapd is never full"))
}
