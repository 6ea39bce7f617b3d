//! Token endpoints as Entra's and Google's, with the small APIs behind the tokens (`idp/idp.mjs`).
//!
//! Every token of Entra's half is issued by `oidc-provider`, a certified OAuth2 server, which also judges secrets
//! and assertions; what is ours is the shape: paths, error texts and codes. Neither cloud can be had here.
//!
//! | application of [`Idp::TENANT`] | has |
//! |---|---|
//! | [`Idp::APP`] | the secret [`Idp::SECRET`] |
//! | [`Idp::APP_EXPIRED_SECRET`] | the same secret, which ended (7000222) |
//! | [`Idp::APP_CERTIFICATE`] | [`Idp::certificate`] and [`Idp::expired_certificate`] (700027) |
//! | [`Idp::APP_FEDERATED`] | the trust in [`Idp::federated_token`] |
//! | [`Idp::APP_DISABLED`], [`Idp::APP_BLOCKED`] | the secret, and no right to use it (7000112, 53003) |
//!
//! Over plain HTTP it is what a machine in either cloud asks for the token of its own identity.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_RSA_SHA256, RsaKeySize, SigningKey,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use time::OffsetDateTime;

use crate::{
    PATIENCE,
    error::{Error, Result},
    install, node,
    pki::{Pki, Shown},
    ports,
    process::{Process, Spec},
    rig::{Kind, Rig, Server},
};

/// A running server, by one of its TLS ports. Dropping it stops it, unless others have it too.
pub struct Idp {
    running: Arc<Running>,
    port: u16,
}

struct Running {
    process: Process,
    plain: u16,
    /// One for each of [`Shown::ALL`].
    tls: Vec<u16>,
    keys: Keys,
    _dir: TempDir,
}

/// Which of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdpKind {
    /// With a good certificate.
    Main,
    /// The same process by another port, with this certificate in place of the good one.
    Shows(Shown),
    /// Another process, for a test that stops it.
    Stopped,
    /// Another process, for a test that stops its clock.
    Paused,
}

/// An application's certificate and its key, RSA: Entra takes no other.
#[derive(Clone)]
pub struct AppCertificate {
    pub cert_pem: String,
    pub key_pem: String,
    /// The end of its validity, seconds since 1970.
    pub not_after: i64,
}

struct Keys {
    certificate: AppCertificate,
    expired_certificate: AppCertificate,
    /// Registered nowhere.
    unknown_certificate: AppCertificate,
    /// What a Kubernetes cluster signs service account tokens with.
    cluster: KeyPair,
    /// Of Google's service accounts.
    account: KeyPair,
    /// Of nobody.
    stranger: KeyPair,
}

impl Server for Idp {
    fn processes(&self) -> Vec<&Process> {
        vec![&self.running.process]
    }
}

impl Kind for IdpKind {
    type Server = Idp;

    const NAME: &'static str = "idp";

    fn start(self, rig: &Rig, name: &str) -> Result<Idp> {
        match self {
            IdpKind::Main | IdpKind::Stopped | IdpKind::Paused => {
                Idp::start(rig.pki(), rig.dir(), name)
            }
            IdpKind::Shows(shown) => {
                let running = Arc::clone(&rig.get(IdpKind::Main)?.running);
                let mut ports = Shown::ALL.into_iter().zip(&running.tls);
                let port = ports.find(|(other, _)| *other == shown);
                let port = port.map_or(running.tls[0], |(_, port)| *port);
                Ok(Idp { running, port })
            }
        }
    }
}

/// Entra's half.
impl Idp {
    pub const TENANT: &str = "11111111-1111-4111-8111-111111111111";
    /// The same tenant by a name of its.
    pub const DOMAIN: &str = "rig.onmicrosoft.test";
    pub const APP: &str = "22222222-2222-4222-8222-222222222222";
    pub const APP_EXPIRED_SECRET: &str = "22222222-2222-4222-8222-222222222223";
    pub const APP_CERTIFICATE: &str = "22222222-2222-4222-8222-222222222224";
    pub const APP_FEDERATED: &str = "22222222-2222-4222-8222-222222222225";
    pub const APP_DISABLED: &str = "22222222-2222-4222-8222-222222222226";
    pub const APP_BLOCKED: &str = "22222222-2222-4222-8222-222222222227";
    /// The client ID of the managed identity.
    pub const IDENTITY: &str = "22222222-2222-4222-8222-222222222228";
    pub const SECRET: &str = "rig8Q~Client.Secret-value";
    /// What App Service hands to a program in `IDENTITY_HEADER`.
    pub const IDENTITY_HEADER: &str = "RIG-IDENTITY-HEADER";
    pub const SUBSCRIPTION: &str = "33333333-3333-4333-8333-333333333333";
    /// Nobody has a role on it.
    pub const SUBSCRIPTION_FORBIDDEN: &str = "33333333-3333-4333-8333-333333333334";
    /// Belongs to another tenant.
    pub const SUBSCRIPTION_FOREIGN: &str = "33333333-3333-4333-8333-333333333335";
    /// The service account whose tokens are trusted, by Google's half too.
    pub const SUBJECT: &str = "system:serviceaccount:monitoring:conncheck";
    /// What Azure wants as audience of such a token.
    pub const AUDIENCE: &str = "api://AzureADTokenExchange";

    /// The one registered certificate that is valid.
    pub fn certificate(&self) -> &AppCertificate {
        &self.running.keys.certificate
    }

    /// Registered, and ended yesterday.
    pub fn expired_certificate(&self) -> &AppCertificate {
        &self.running.keys.expired_certificate
    }

    pub fn unknown_certificate(&self) -> &AppCertificate {
        &self.running.keys.unknown_certificate
    }

    /// A service account token of a cluster, good for an hour from `issued` (seconds since 1970).
    pub fn federated_token(&self, subject: &str, audience: &str, issued: i64) -> Result<String> {
        let claims = json!({
            "iss": CLUSTER, "sub": subject, "aud": [audience],
            "iat": issued, "nbf": issued, "exp": issued + 3600,
        });
        sign(&self.running.keys.cluster, &claims)
    }
}

/// Google's half.
impl Idp {
    pub const PROJECT: &str = "rig-project";
    /// Where the Resource Manager's API is switched off.
    pub const PROJECT_SWITCHED_OFF: &str = "rig-switched-off";
    /// Was deleted, and can be had back.
    pub const PROJECT_DELETED: &str = "rig-deleted";
    pub const ACCOUNT: &str = "probe@rig-project.iam.gserviceaccount.test";
    pub const ACCOUNT_DISABLED: &str = "disabled@rig-project.iam.gserviceaccount.test";
    /// To it the server's clock is two hours ahead of ours.
    pub const ACCOUNT_LATER: &str = "later@rig-project.iam.gserviceaccount.test";
    /// [`Idp::ACCOUNT`] and [`Idp::SUBJECT`] may be it.
    pub const ACCOUNT_TARGET: &str = "target@rig-project.iam.gserviceaccount.test";
    /// Of an authorised user (`gcloud auth application-default login`).
    pub const USER_CLIENT_ID: &str = "rig.apps.googleusercontent.test";
    pub const USER_CLIENT_SECRET: &str = "GOCSPX-rig-client-secret";
    pub const USER_REFRESH_TOKEN: &str = "1//rig-refresh-token";
    /// Its organisation wants a login anew.
    pub const USER_TOO_OLD_TOKEN: &str = "1//rig-too-old-token";
    /// Keys of AWS, whose requests the pool's provider takes.
    pub const AWS_ACCESS_KEY: &str = "AKIARIGRIGRIGRIGRIG1";
    pub const AWS_SECRET_KEY: &str = "rig/aws+secret";
    /// The provider of a workload identity pool.
    pub const POOL: &str = "//iam.googleapis.com/projects/100000000001/locations/global/workloadIdentityPools/rig/providers/cluster";
    /// What it wants as audience of a [`Idp::federated_token`].
    pub const POOL_AUDIENCE: &str = "https://iam.googleapis.com/projects/100000000001/locations/global/workloadIdentityPools/rig/providers/cluster";

    /// The key file of a service account.
    pub fn account_key(&self, email: &str) -> Value {
        self.key_file(email, &self.running.keys.account)
    }

    /// The same with a key that is not (any more) the account's.
    pub fn stale_account_key(&self, email: &str) -> Value {
        self.key_file(email, &self.running.keys.stranger)
    }

    /// What `gcloud auth application-default login` writes.
    pub fn user_file(&self, refresh_token: &str) -> Value {
        json!({
            "type": "authorized_user", "client_id": Idp::USER_CLIENT_ID,
            "client_secret": Idp::USER_CLIENT_SECRET, "refresh_token": refresh_token,
            "token_uri": format!("{}/token", self.url()),
        })
    }

    /// What `gcloud iam workload-identity-pools create-cred-config` writes.
    pub fn federation_file(&self, source: &Value) -> Value {
        json!({
            "type": "external_account", "audience": Idp::POOL,
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": format!("{}/v1/token", self.url()), "credential_source": source,
        })
    }

    /// Where a service account is impersonated.
    pub fn impersonation_url(&self, email: &str) -> String {
        format!(
            "{}/v1/projects/-/serviceAccounts/{email}:generateAccessToken",
            self.url()
        )
    }

    fn key_file(&self, email: &str, key: &KeyPair) -> Value {
        json!({
            "type": "service_account", "project_id": Idp::PROJECT, "private_key_id": "rig",
            "private_key": key.serialize_pem(), "client_email": email,
            "client_id": "100000000000000000001", "token_uri": format!("{}/token", self.url()),
        })
    }
}

impl Idp {
    pub fn start(pki: &Pki, dir: &Path, name: &str) -> Result<Idp> {
        let program = install::find(install::NODE)?;
        let modules = node::modules()?;
        ports::retrying(1 + Shown::ALL.len(), |ports| {
            Idp::start_on(ports, pki, dir, name, &program, &modules)
        })
    }

    fn start_on(
        ports: &[u16],
        pki: &Pki,
        dir: &Path,
        name: &str,
        program: &Path,
        modules: &Path,
    ) -> Result<Idp> {
        let keys = Keys::new()
            .map_err(|err| Error::new(format!("{name}: cannot make its keys: {err}")))?;
        let doing = || Error::doing(format!("the files of {name}"));
        let dir = TempDir::with_prefix_in(format!("{name}-"), dir).map_err(doing())?;
        let (plain, tls) = (ports[0], ports[1..].to_vec());
        fs::write(dir.path().join("idp.mjs"), PROGRAM).map_err(doing())?;
        let state = keys.state(pki, plain, &tls).to_string();
        fs::write(dir.path().join("state.json"), state).map_err(doing())?;
        // Node looks for packages beside the program.
        symlink(modules, dir.path().join("node_modules")).map_err(doing())?;
        let process = Spec::new(name, program, dir.path())
            .args(["idp.mjs", "state.json"])
            .spawn()?;
        process.wait_ready(PATIENCE, || {
            if process.log().lines().any(|line| line == "ready") {
                Ok(())
            } else {
                Err("it is not ready".into())
            }
        })?;
        let port = tls[0];
        let running = Arc::new(Running {
            process,
            plain,
            tls,
            keys,
            _dir: dir,
        });
        Ok(Idp { running, port })
    }

    /// `https://localhost:PORT`
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// `http://127.0.0.1:PORT`: the metadata of a machine.
    pub fn plain_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.running.plain)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn process(&self) -> &Process {
        &self.running.process
    }

    /// What it was asked so far, by all its ports: `method`, `path`, `status`, `header`, `form`, and of an
    /// `assertion` the `header` and the `claims`. Secrets are left out.
    pub fn requests(&self) -> Vec<Value> {
        let log = self.running.process.log();
        log.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// What it did not like: handshakes that failed, requests that were cut, and its own faults.
    pub fn complaints(&self) -> Vec<String> {
        let log = self.running.process.log();
        let complaints = log.lines().filter(|line| line.starts_with("complaint"));
        complaints.map(str::to_owned).collect()
    }
}

const PROGRAM: &str = include_str!("idp/idp.mjs");

/// The issuer of [`Idp::federated_token`].
const CLUSTER: &str = "https://oidc.cluster.test";

type Made<T> = std::result::Result<T, Box<dyn std::error::Error>>;

impl Keys {
    fn new() -> Made<Keys> {
        let rsa = || KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048);
        Ok(Keys {
            certificate: AppCertificate::new(&rsa()?, -1, 90)?,
            expired_certificate: AppCertificate::new(&rsa()?, -60, -1)?,
            unknown_certificate: AppCertificate::new(&rsa()?, -1, 90)?,
            cluster: rsa()?,
            account: rsa()?,
            stranger: rsa()?,
        })
    }

    /// What `idp.mjs` reads.
    fn state(&self, pki: &Pki, plain: u16, tls: &[u16]) -> Value {
        let tls = Shown::ALL.into_iter().zip(tls);
        let tls = tls.map(|(shown, port)| {
            let certified = pki.shown(shown);
            json!({"port": port, "certificate": certified.cert_path, "key": certified.key_path})
        });
        let app = |id: &str| json!({"clientId": id, "secret": Idp::SECRET});
        let with = |id: &str, name: &str, value: Value| {
            let mut app = app(id);
            app[name] = value;
            app
        };
        json!({
            "plain": plain,
            "tls": tls.collect::<Vec<_>>(),
            "tenant": Idp::TENANT,
            "domain": Idp::DOMAIN,
            "apps": [
                app(Idp::APP),
                with(Idp::APP_EXPIRED_SECRET, "secretExpiresAt", json!(1_600_000_000)),
                {"clientId": Idp::APP_CERTIFICATE, "hasCertificates": true},
                {"clientId": Idp::APP_FEDERATED, "federated": true},
                with(Idp::APP_DISABLED, "disabled", json!(true)),
                with(Idp::APP_BLOCKED, "blocked", json!(true)),
            ],
            "certificates": [self.certificate.cert_pem, self.expired_certificate.cert_pem],
            "federation": {
                "issuer": CLUSTER, "subject": Idp::SUBJECT, "audience": Idp::AUDIENCE,
                "publicKey": self.cluster.public_key_pem(),
            },
            "identity": Idp::IDENTITY,
            "identityHeader": Idp::IDENTITY_HEADER,
            "subscriptions": [
                {"id": Idp::SUBSCRIPTION, "readable": true},
                {"id": Idp::SUBSCRIPTION_FORBIDDEN},
                {"id": Idp::SUBSCRIPTION_FOREIGN, "foreign": true},
            ],
            "google": {
                "project": Idp::PROJECT,
                "switchedOff": Idp::PROJECT_SWITCHED_OFF,
                "deleted": Idp::PROJECT_DELETED,
                "accounts": [
                    {"email": Idp::ACCOUNT, "publicKey": self.account.public_key_pem()},
                    {
                        "email": Idp::ACCOUNT_DISABLED, "disabled": true,
                        "publicKey": self.account.public_key_pem(),
                    },
                    {
                        "email": Idp::ACCOUNT_LATER, "clockSeconds": 7200,
                        "publicKey": self.account.public_key_pem(),
                    },
                    {
                        "email": Idp::ACCOUNT_TARGET, "publicKey": self.account.public_key_pem(),
                        "impersonatedBy": [
                            Idp::ACCOUNT,
                            format!("principal://iam.googleapis.com/rig/subject/{}", Idp::SUBJECT),
                        ],
                    },
                ],
                "user": {
                    "clientId": Idp::USER_CLIENT_ID, "clientSecret": Idp::USER_CLIENT_SECRET,
                    "refreshToken": Idp::USER_REFRESH_TOKEN,
                    "tooOldToken": Idp::USER_TOO_OLD_TOKEN, "email": "somebody@rig.test",
                },
                "aws": {
                    "accessKey": Idp::AWS_ACCESS_KEY, "secretKey": Idp::AWS_SECRET_KEY,
                    "arn": "arn:aws:iam::123456789012:user/probe",
                },
                "pool": {
                    "audience": Idp::POOL, "issuer": CLUSTER, "subject": Idp::SUBJECT,
                    "subjectAudience": Idp::POOL_AUDIENCE,
                    "publicKey": self.cluster.public_key_pem(),
                },
            },
        })
    }
}

impl AppCertificate {
    /// Signed by itself, as most are; valid between these days from now.
    fn new(key: &KeyPair, from: i64, until: i64) -> Made<AppCertificate> {
        let now = OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(now());
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, "rig application");
        params.not_before = now + time::Duration::days(from);
        params.not_after = now + time::Duration::days(until);
        Ok(AppCertificate {
            cert_pem: params.self_signed(key)?.pem(),
            key_pem: key.serialize_pem(),
            not_after: params.not_after.unix_timestamp(),
        })
    }
}

/// A JWT, by RS256.
fn sign(key: &KeyPair, claims: &Value) -> Result<String> {
    let header = json!({"alg": "RS256", "kid": "rig"});
    let parts = [&header, claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part.to_string()));
    let signed = parts.join(".");
    let signature = key
        .sign(signed.as_bytes())
        .map_err(Error::doing("cannot sign a token"))?;
    let signature = BASE64_URL_SAFE_NO_PAD.encode(signature);
    Ok(format!("{signed}.{signature}"))
}

/// Whole seconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs()).cast_signed()
}
