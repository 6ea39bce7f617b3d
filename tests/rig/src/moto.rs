//! A stand-in for AWS: `moto`, which answers as IAM, STS and S3 do. It checks signatures, keys, the tokens of
//! sessions and policies as AWS does; it looks at no clock, so no request is too old for it, and no session ends.
//!
//! | identity | may |
//! |---|---|
//! | [`Moto::user`] | assume roles, list users and buckets |
//! | [`Moto::outcast`] | nothing |
//! | [`Moto::session`], of the role `auditor` | the same as the user |
//!
//! Who it is may ask everybody, as with AWS.
//!
//! Its account is [`Moto::ACCOUNT`]. TLS is ended before it by us, with any certificate (`tls.rs`).

use std::path::Path;

use tempfile::TempDir;

use crate::{
    PATIENCE,
    error::{Error, Result},
    http,
    pki::Shown,
    ports,
    process::{Process, Spec},
    python,
    rig::{Kind, Rig, Server},
    tls::{Front, server_config_with},
};

/// A running server. Dropping it stops it.
pub struct Moto {
    process: Process,
    port: u16,
    front: Front,
    /// Wants a certificate of the client's.
    mutual: Front,
    user: AccessKey,
    outcast: AccessKey,
    session: AccessKey,
    _dir: TempDir,
}

/// What somebody is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessKey {
    pub id: String,
    pub secret: String,
    /// Of a session: its token, and when it ends.
    pub session: Option<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MotoKind {
    /// Checks what it is sent.
    Main,
    /// Checks nothing: what checks there trips over `AssumeRoleWithWebIdentity`, which nobody signs.
    Lenient,
}

impl Server for Moto {
    fn processes(&self) -> Vec<&Process> {
        vec![&self.process]
    }
}

impl Kind for MotoKind {
    type Server = Moto;

    const NAME: &'static str = "moto";

    fn start(self, rig: &Rig, name: &str) -> Result<Moto> {
        Moto::begin(self, rig, name)
    }
}

/// The main one behind TLS with another certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MotoFront(pub Shown);

impl Kind for MotoFront {
    type Server = Front;

    const NAME: &'static str = "moto-front";

    fn start(self, rig: &Rig, _: &str) -> Result<Front> {
        Front::start(rig.pki().shown(self.0), rig.get(MotoKind::Main)?.port())
    }
}

impl Moto {
    pub const ACCOUNT: &str = "123456789012";

    /// One of its own for a test that stops it.
    pub fn start(rig: &Rig, name: &str) -> Result<Moto> {
        Moto::begin(MotoKind::Main, rig, name)
    }

    fn begin(kind: MotoKind, rig: &Rig, name: &str) -> Result<Moto> {
        let program = python::program("moto_server")?;
        ports::retrying(1, |ports| {
            Moto::start_on(kind, rig, ports[0], name, &program)
        })
    }

    fn start_on(kind: MotoKind, rig: &Rig, port: u16, name: &str, program: &Path) -> Result<Moto> {
        let dir = TempDir::with_prefix_in(format!("{name}-"), rig.dir())
            .map_err(Error::doing(format!("a folder for {name}")))?;
        let process = Spec::new(name, program, dir.path())
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            // It keeps a configuration nobody needs there.
            .env("HOME", dir.path())
            .spawn()?;
        process.wait_ready(PATIENCE, || {
            http::ask(port, "GET", "/moto-api/", &[], "")
                .map(drop)
                .map_err(|err| err.to_string())
        })?;
        let admin = Admin { port, name };
        let user = admin.user("probe", Some(POLICY))?;
        let outcast = admin.user("outcast", None)?;
        admin.role("auditor", POLICY)?;
        let session = admin.session("auditor")?;
        if kind == MotoKind::Main {
            // From here on it checks.
            let plain = [("Content-Type", "text/plain")];
            admin.ask("POST", "/moto-api/reset-auth", &plain, "0")?;
        }
        let pki = rig.pki();
        let mutual = server_config_with(&pki.server, Some(&pki.ca), rustls::DEFAULT_VERSIONS)?;
        Ok(Moto {
            process,
            port,
            front: Front::start(&pki.server, port)?,
            mutual: Front::with(mutual, port)?,
            user,
            outcast,
            session,
            _dir: dir,
        })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The port of TLS.
    pub fn tls_port(&self) -> u16 {
        self.front.port()
    }

    /// The port of TLS where a certificate of the client's is wanted.
    pub fn mutual_tls_port(&self) -> u16 {
        self.mutual.port()
    }

    /// `http://localhost:PORT`.
    pub fn url(&self) -> String {
        format!("http://localhost:{}", self.port)
    }

    /// `https://localhost:PORT`.
    pub fn https_url(&self) -> String {
        format!("https://localhost:{}", self.tls_port())
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    pub fn user(&self) -> &AccessKey {
        &self.user
    }

    pub fn outcast(&self) -> &AccessKey {
        &self.outcast
    }

    pub fn session(&self) -> &AccessKey {
        &self.session
    }

    /// The ARN of a role of its account.
    pub fn role(name: &str) -> String {
        format!("arn:aws:iam::{}:role/{name}", Moto::ACCOUNT)
    }
}

const POLICY: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["sts:AssumeRole","iam:ListUsers","s3:ListAllMyBuckets"],"Resource":"*"}]}"#;
const TRUST: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"*"},"Action":"sts:AssumeRole"}]}"#;

/// Who sets it up, before it checks anything.
struct Admin<'a> {
    port: u16,
    name: &'a str,
}

impl Admin<'_> {
    fn user(&self, name: &str, policy: Option<&str>) -> Result<AccessKey> {
        self.iam(&[("Action", "CreateUser"), ("UserName", name)])?;
        if let Some(policy) = policy {
            self.iam(&[
                ("Action", "PutUserPolicy"),
                ("UserName", name),
                ("PolicyName", "rig"),
                ("PolicyDocument", policy),
            ])?;
        }
        let reply = self.iam(&[("Action", "CreateAccessKey"), ("UserName", name)])?;
        Ok(AccessKey {
            id: self.element(&reply, "AccessKeyId")?,
            secret: self.element(&reply, "SecretAccessKey")?,
            session: None,
        })
    }

    fn role(&self, name: &str, policy: &str) -> Result<()> {
        self.iam(&[
            ("Action", "CreateRole"),
            ("RoleName", name),
            ("AssumeRolePolicyDocument", TRUST),
        ])?;
        self.iam(&[
            ("Action", "PutRolePolicy"),
            ("RoleName", name),
            ("PolicyName", "rig"),
            ("PolicyDocument", policy),
        ])
        .map(drop)
    }

    fn session(&self, role: &str) -> Result<AccessKey> {
        let reply = self.call(
            "sts",
            &[
                ("Action", "AssumeRole"),
                ("RoleArn", &Moto::role(role)),
                ("RoleSessionName", "rig"),
            ],
        )?;
        Ok(AccessKey {
            id: self.element(&reply, "AccessKeyId")?,
            secret: self.element(&reply, "SecretAccessKey")?,
            session: Some((
                self.element(&reply, "SessionToken")?,
                self.element(&reply, "Expiration")?,
            )),
        })
    }

    fn iam(&self, form: &[(&str, &str)]) -> Result<String> {
        self.call("iam", form)
    }

    /// Which service is meant it takes from the signature, which is none.
    fn call(&self, service: &str, form: &[(&str, &str)]) -> Result<String> {
        let form: Vec<String> = form
            .iter()
            .map(|(name, value)| format!("{name}={}", http::encoded(value)))
            .collect();
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential=rig/20200101/us-east-1/{service}/aws4_request, SignedHeaders=host, Signature=0"
        );
        let headers = [
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("Authorization", &authorization),
        ];
        self.ask("POST", "/", &headers, &form.join("&"))
    }

    fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<String> {
        let what = format!("{}: {method} {path}", self.name);
        let reply = http::ask(self.port, method, path, headers, body)
            .map_err(Error::doing(what.clone()))?;
        match reply.split_once(" 200 OK\r\n") {
            Some(_) => Ok(reply),
            None => Err(Error::new(format!("{what}: {reply}"))),
        }
    }

    fn element(&self, reply: &str, name: &str) -> Result<String> {
        let (_, rest) = reply.split_once(&format!("<{name}>")).unwrap_or_default();
        match rest.split_once("</") {
            Some((text, _)) => Ok(text.into()),
            None => Err(Error::new(format!(
                "{}: there is no `{name}` in {reply}",
                self.name
            ))),
        }
    }
}
