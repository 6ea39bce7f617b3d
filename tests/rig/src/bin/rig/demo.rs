//! `cargo demo`: the main job on real servers, and a check of itself.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use conncheck_rig::{
    ApiServer, ApiServerKind, BlackHole, Elastic, ElasticKind, Error, Idp, IdpKind, MariaDbKind,
    Moto, MotoKind, MssqlKind, NginxKind, PASSWORD, Postgres, PrometheusKind, Result, Rig,
    SecantusKind, SlapdKind, TokenServer,
    faults::{Refused, refused_on},
    ports,
    process::Spec,
};
use serde_json::{Value, json};

use crate::{cargo, install};

/// When to stop.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// After the report.
    Reported,
    CtrlC,
}

/// What the report must say of a connection of `demo.yaml`.
struct Expected {
    name: &'static str,
    /// Reason, phase, code; `None` for up.
    down: Option<(&'static str, Option<&'static str>, Option<&'static str>)>,
}

const fn up(name: &'static str) -> Expected {
    Expected { name, down: None }
}

const fn down(
    name: &'static str,
    reason: &'static str,
    phase: Option<&'static str>,
    code: Option<&'static str>,
) -> Expected {
    Expected {
        name,
        down: Some((reason, phase, code)),
    }
}

const EXPECTED: &[Expected] = &[
    up("orders-db"),
    up("session-cache"),
    up("customer-profiles"),
    up("order-events"),
    up("invoices-db"),
    up("catalog-api"),
    up("payment-gateway"),
    up("deploy-hook"),
    up("metrics"),
    up("staff-directory"),
    up("product-db"),
    up("product-search"),
    up("shop-cluster"),
    up("outgoing-mail"),
    up("cloud-project"),
    up("cloud-login"),
    up("shop-account"),
    up("billing-account"),
    up("vault-account"),
    up("deploy-account"),
    up("inventory-account"),
    down("billing-db", "auth", Some("auth"), Some("28P01")),
    down("recommendations", "auth", Some("auth"), Some("18")),
    down("reporting-db", "connect_refused", Some("connect"), None),
    down("warehouse-db", "timeout", Some("connect"), None),
    down("ledger-db", "not_found", Some("auth"), Some("4060")),
    down("archive-db", "secret", None, None),
    down("audit-trail", "not_found", Some("request"), Some("404")),
    down("customer-db", "not_found", Some("auth"), Some("1049")),
    down("shipping-db", "unavailable", Some("auth"), Some("1040")),
    down("job-queue", "permission", Some("request"), Some("NOPERM")),
    down("badge-directory", "not_found", Some("request"), Some("32")),
    down("partner-api", "tls_expired", Some("tls"), None),
    down("legacy-api", "tls_name_mismatch", Some("tls"), None),
    down("vendor-api", "tls_unknown_ca", Some("tls"), None),
    down("search-api", "unavailable", Some("request"), Some("503")),
    down("feature-flags", "assertion", Some("request"), None),
    down("order-search", "assertion", Some("request"), Some("yellow")),
    down("order-metrics", "assertion", Some("request"), None),
    down("edge-cluster", "unavailable", Some("request"), Some("500")),
    down("cloud-backup", "auth", Some("auth"), Some("invalid_grant")),
    down(
        "cloud-archive",
        "permission",
        Some("request"),
        Some("SERVICE_DISABLED"),
    ),
    down(
        "photo-account",
        "auth",
        Some("request"),
        Some("SignatureDoesNotMatch"),
    ),
    down(
        "backup-account",
        "permission",
        Some("auth"),
        Some("AccessDenied"),
    ),
    down("alert-mail", "tls_other", Some("tls"), None),
    down(
        "reports-account",
        "auth",
        Some("auth"),
        Some("AADSTS7000222"),
    ),
    down("chat-hook", "not_found", Some("request"), Some("410")),
];

/// The variable by which Azure's own clients are led to it.
const METADATA: &str = "AZURE_POD_IDENTITY_AUTHORITY_HOST";

/// Builds conncheck, and then shows it.
pub fn run(until: Until) -> Result<()> {
    install::servers()?;
    println!("building conncheck and starting real servers …");
    // Side by side: one waits for the compiler, the other for the servers.
    let (conncheck, stage) = thread::scope(|scope| {
        let conncheck = scope.spawn(cargo::conncheck);
        let stage = Stage::set();
        (
            conncheck
                .join()
                .unwrap_or_else(|_| Err(Error::new("building conncheck panicked"))),
            stage,
        )
    });
    stage?.show(&conncheck?, until)
}

/// The same with a conncheck that is already built.
pub fn run_with(conncheck: &Path) -> Result<()> {
    install::servers()?;
    Stage::set()?.show(conncheck, Until::Reported)
}

/// The servers, the peers and the documents.
struct Stage {
    rig: &'static Rig,
    connections: PathBuf,
    /// What a machine in Azure has at a link-local address.
    metadata: String,
    _black_hole: BlackHole,
    _stopped: Refused,
}

impl Stage {
    fn set() -> Result<Stage> {
        let rig = Rig::shared();
        thread::scope(|scope| {
            let secantus = scope.spawn(|| rig.get(SecantusKind::Tls).map(drop));
            let moto = scope.spawn(|| rig.get(MotoKind::Main).map(drop));
            scope.spawn(|| rig.get(IdpKind::Main).map(drop));
            rig.start_all()?;
            moto.join()
                .unwrap_or_else(|_| panic!("starting moto panicked"))
                .map_err(Error::from)?;
            secantus
                .join()
                .unwrap_or_else(|_| panic!("starting SecantusDB panicked"))
                .map_err(Error::from)
        })?;
        let black_hole = BlackHole::start()?;
        let stopped = stopped_postgres(rig)?;
        let connections = rig.dir().join("connections");
        let yaml = documents(rig, &black_hole, &stopped)?;
        fs::create_dir_all(&connections)
            .and_then(|()| fs::write(connections.join("demo.yaml"), yaml))
            .map_err(|err| Error::new(format!("cannot write {}: {err}", connections.display())))?;
        Ok(Stage {
            rig,
            connections,
            metadata: rig.get(IdpKind::Main)?.plain_url(),
            _black_hole: black_hole,
            _stopped: stopped,
        })
    }

    fn show(&self, conncheck: &Path, until: Until) -> Result<()> {
        println!("connections: {}/demo.yaml\n", self.connections.display());
        println!("$ conncheck --check-once {}", self.connections.display());
        let cannot = |err| Error::new(format!("cannot run {}: {err}", conncheck.display()));
        let status = self.check_once(conncheck).status().map_err(cannot)?;
        if status.code() != Some(1) {
            return Err(Error::new(format!(
                "some are down, so conncheck must exit with 1, but: {status}"
            )));
        }
        let output = self
            .check_once(conncheck)
            .args(["--output", "json"])
            .output()
            .map_err(cannot)?;
        let report: Value = serde_json::from_slice(&output.stdout).map_err(|err| {
            let (stdout, stderr) = (lossy(&output.stdout), lossy(&output.stderr));
            Error::new(format!(
                "`--output json` is no JSON: {err}\n{stdout}{stderr}"
            ))
        })?;
        let wrong = compare(&report, self.rig.pki().expired.not_after);
        if !wrong.is_empty() {
            let wrong = wrong.join("\n  ");
            return Err(Error::new(format!(
                "the report is not what it must be:\n  {wrong}\nit is: {report:#}"
            )));
        }
        println!(
            "\n{} connections, each with the outcome it must have",
            EXPECTED.len()
        );
        match until {
            Until::Reported => Ok(()),
            Until::CtrlC => self.serve(conncheck),
        }
    }

    fn check_once(&self, conncheck: &Path) -> Command {
        let mut command = Command::new(conncheck);
        command
            .arg("--check-once")
            .arg(&self.connections)
            .env(METADATA, &self.metadata)
            .stdin(Stdio::null());
        command
    }

    fn serve(&self, conncheck: &Path) -> Result<()> {
        let listen = free_address()?;
        let daemon = Spec::new("conncheck", conncheck, self.rig.dir())
            .args(["--interval", "5s", "--listen", &listen.to_string()])
            .args([self.connections.as_os_str()])
            .env(METADATA, &self.metadata)
            .aloud()
            .spawn()?;
        let daemon = self.rig.adopt(daemon);
        crate::serving();
        println!(
            "\nthe daemon serves on http://{listen}, probing every 5 s, until Ctrl-C:\n  \
             curl http://{listen}/metrics\n  \
             curl -s http://{listen}/metrics | grep -E '^probe_(success|failure_reason|ssl_earliest_cert_expiry)'\n  \
             curl http://{listen}/-/ready\n"
        );
        loop {
            if let Some(status) = daemon.wait(Duration::from_secs(3600)) {
                return Err(Error::new(format!("the daemon ended by itself ({status})")));
            }
        }
    }
}

/// A Postgres that ran and was stopped; the port is kept, so that it goes on refusing.
fn stopped_postgres(rig: &Rig) -> Result<Refused> {
    let postgres = Postgres::builder(rig.pki(), rig.dir())
        .name("postgres-stopped")
        .start()?;
    let port = postgres.port();
    drop(postgres);
    refused_on(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

fn documents(rig: &Rig, black_hole: &BlackHole, stopped: &Refused) -> Result<String> {
    let (postgres, redis, nginx) = (rig.postgres()?, rig.redis()?, rig.nginx()?);
    let prometheus = rig.get(PrometheusKind::Main)?;
    let prometheus_tls = rig.get(PrometheusKind::Secured)?;
    let elastic = rig.get(ElasticKind::Main)?;
    let before_elastic = rig.get(NginxKind::BeforeElastic)?;
    let secantus = rig.get(SecantusKind::Tls)?;
    let rabbitmq = rig.rabbitmq()?;
    let slapd = rig.get(SlapdKind::Main)?;
    let (mariadb, full) = (rig.mariadb()?, rig.get(MariaDbKind::FullForAll)?);
    let mssql = rig.get(MssqlKind::Main)?;
    let cluster = rig.get(ApiServerKind::Main)?;
    let without_etcd = rig.get(ApiServerKind::NoEtcd)?;
    let user = json!({"token": ApiServer::TOKEN});
    let exim = rig.exim()?;
    let idp = rig.get(IdpKind::Main)?;
    let google = [
        ("@google_key@", idp.account_key(Idp::ACCOUNT)),
        ("@google_old_key@", idp.stale_account_key(Idp::ACCOUNT)),
        ("@google_login@", idp.user_file(Idp::USER_REFRESH_TOKEN)),
    ];
    let moto = rig.get(MotoKind::Main)?;
    let federated_token = federated_token(rig, &idp)?;
    let application = idp.certificate();
    let application = format!("{}{}", application.cert_pem, application.key_pem);
    let mut yaml = include_str!("demo.yaml").to_owned();
    for (name, port) in [
        ("@postgres@", postgres.port()),
        ("@amqp@", rabbitmq.port()),
        ("@amqps@", rabbitmq.tls_port()),
        ("@mariadb@", mariadb.port()),
        ("@mariadb_full@", full.port()),
        ("@redis@", redis.port()),
        ("@rediss@", redis.tls_port()),
        ("@mongodb@", secantus.port()),
        ("@ldap@", slapd.port()),
        ("@mssql@", mssql.port()),
        ("@http@", nginx.http),
        ("@https@", nginx.https),
        ("@expired@", nginx.expired),
        ("@wrong_name@", nginx.wrong_name),
        ("@unknown_ca@", nginx.unknown_ca),
        ("@prometheus@", prometheus.port()),
        ("@prometheus_tls@", prometheus_tls.port()),
        ("@elastic@", elastic.port()),
        ("@elastic_tls@", before_elastic.https),
        ("@idp@", idp.port()),
        ("@smtp@", exim.smtp),
        ("@smtp_plain@", exim.plain),
        ("@blackhole@", black_hole.port()),
        ("@stopped@", stopped.port()),
        ("@without_etcd@", without_etcd.port()),
        ("@idp@", idp.port()),
        ("@aws@", moto.tls_port()),
    ] {
        yaml = yaml.replace(name, &port.to_string());
    }
    for (name, credential) in google {
        yaml = yaml.replace(name, &credential.to_string());
    }
    yaml = yaml
        .replace("@password@", PASSWORD)
        .replace("@elastic_key@", Elastic::API_KEY)
        .replace("@kubeconfig@", &cluster.kubeconfig(rig.pki(), &user))
        .replace("@token@", ApiServer::TOKEN)
        .replace("@access_key@", &moto.user().id)
        .replace("@secret_key@", &moto.user().secret)
        .replace("@access_key_of_outcast@", &moto.outcast().id)
        .replace("@secret_key_of_outcast@", &moto.outcast().secret)
        .replace("@role@", &Moto::role("auditor"))
        .replace("@tenant@", Idp::TENANT)
        .replace("@app@", Idp::APP)
        .replace("@app_certificate@", Idp::APP_CERTIFICATE)
        .replace("@app_federated@", Idp::APP_FEDERATED)
        .replace("@app_expired_secret@", Idp::APP_EXPIRED_SECRET)
        .replace("@subscription@", Idp::SUBSCRIPTION)
        .replace("@client_secret@", Idp::SECRET)
        .replace("@federated_token@", &federated_token.to_string_lossy())
        .replace("@app_pem@", &indented(&application))
        .replace("@oauth_secret@", TokenServer::CLIENT_SECRET);
    Ok(yaml.replace("@ca@", &indented(&rig.pki().ca.cert_pem)))
}

/// A text as a block of YAML.
fn indented(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| format!("    {line}")).collect();
    lines.join("\n")
}

/// A file with what a cluster says of a pod. It is renewed there by the hour; here it is good for one.
fn federated_token(rig: &Rig, idp: &Idp) -> Result<PathBuf> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_secs()).cast_signed();
    let token = idp.federated_token(Idp::SUBJECT, Idp::AUDIENCE, now)?;
    let path = rig.dir().join("federated-token");
    fs::write(&path, token)
        .map_err(|err| Error::new(format!("cannot write {}: {err}", path.display())))?;
    Ok(path)
}

/// 9797 as documented, or another one when it is taken.
fn free_address() -> Result<SocketAddr> {
    let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, 9797));
    if TcpListener::bind(usual).is_ok() {
        return Ok(usual);
    }
    let port = ports::reserve(1)?.release();
    Ok(SocketAddr::from((
        Ipv4Addr::LOCALHOST,
        port.first().copied().unwrap_or_default(),
    )))
}

/// Everything in the report that is not as expected.
fn compare(report: &Value, expired_at: i64) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut expect = |what: String, is: &Value, should: Value| {
        if *is != should {
            wrong.push(format!("{what} is {is}, not {should}"));
        }
    };
    let ups = EXPECTED
        .iter()
        .filter(|expected| expected.down.is_none())
        .count();
    for (name, should) in [
        ("total", EXPECTED.len()),
        ("up", ups),
        ("down", EXPECTED.len() - ups),
        ("invalid", 0),
    ] {
        expect(
            format!("summary.{name}"),
            &report["summary"][name],
            should.into(),
        );
    }
    expect("errors".into(), &report["errors"], Value::Array(Vec::new()));
    for Expected { name, down } in EXPECTED {
        let found = report["connections"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|found| found["name"] == *name);
        let Some(found) = found else {
            expect(
                format!("connection {name}"),
                &Value::Null,
                "reported".into(),
            );
            continue;
        };
        let (reason, phase, code) = match down {
            Some((reason, phase, code)) => (Some(*reason), *phase, *code),
            None => (None, None, None),
        };
        expect(format!("{name}: up"), &found["up"], reason.is_none().into());
        expect(format!("{name}: reason"), &found["reason"], reason.into());
        expect(format!("{name}: phase"), &found["phase"], phase.into());
        if code.is_some() {
            expect(format!("{name}: code"), &found["code"], code.into());
        }
        if reason.is_none() {
            // All the healthy ones speak TLS.
            expect(
                format!("{name}: tls.verified"),
                &found["tls"]["verified"],
                true.into(),
            );
            for phase in ["connect", "tls", "request"] {
                let timed = found["phases"][phase].is_number();
                expect(
                    format!("{name}: phases.{phase} is a number"),
                    &timed.into(),
                    true.into(),
                );
            }
        }
        if reason == Some("tls_expired") {
            // It was refused, and still we know since when it has been over.
            let expiry = rfc3339(expired_at);
            expect(
                format!("{name}: tls.earliestExpiry"),
                &found["tls"]["earliestExpiry"],
                expiry.into(),
            );
        }
    }
    wrong
}

/// Seconds since 1970 as the report writes them.
fn rfc3339(seconds: i64) -> String {
    let time = time::OffsetDateTime::from_unix_timestamp(seconds)
        .unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let ((year, month, day), (hour, minute, second)) = (time.to_calendar_date(), time.to_hms());
    let month = u8::from(month);
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
