//! How long the work takes that grows with the number of connections.
//!
//! `cargo bench --bench bench -- load` runs those whose names contain `load`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "whatever fails here is a bug of the benchmark"
)]

use std::fmt::Write as _;
use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use conncheck::cli::Options;
use conncheck::load::load;
use conncheck::metrics::{Format, View, render};
use conncheck::process::Process;
use conncheck::redact::Redactor;
use conncheck::source;
use conncheck::state::{Facts, Plan, State};
use conncheck_config::{Documents, Identity, Loader, Secret, Trust};
use conncheck_probes::{
    Deadline, Env, Failure, Files, Outcome, Phase, Probe, Reason, ResolverChoice, TlsFacts, types,
};
use conncheck_rig::process::{Process as Server, Spec};
use conncheck_rig::{PASSWORD, Rig, SecantusKind, Slapd, SlapdKind, ports, prometheus, python};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use jiff::Timestamp;
use serde_json::{Value, json};

const CONNECTIONS: u32 = 10_000;

criterion_group!(benches, loading, exposition, attempts);
criterion_main!(benches);

/// One file of definitions in the three forms and of four types, 8 MB of it.
fn definitions() -> tempfile::NamedTempFile {
    let mut text = String::new();
    for n in 0..CONNECTIONS {
        let (kind, url) = match n % 4 {
            0 => (
                "postgres",
                format!("postgres://db-{n}.example.com:5432/orders"),
            ),
            1 => ("http", format!("https://api-{n}.example.com/healthz")),
            2 => ("redis", format!("rediss://cache-{n}.example.com:6380/0")),
            _ => ("mysql", format!("mysql://shop-{n}.example.com:3306/orders")),
        };
        let team = n % 20;
        write!(
            text,
            "---\n# {padding}\n\
             apiVersion: mission-control.flanksource.com/v1\n\
             kind: Connection\n\
             metadata:\n  name: thing-{n}\n  namespace: team-{team}\n  \
             annotations:\n    conncheck/interval: 15s\n    \
             meta.helm.sh/release-name: connections\n    \
             meta.helm.sh/release-namespace: team-{team}\n  \
             labels:\n    app.kubernetes.io/managed-by: Helm\n    environment: production\n    \
             tier: backend\n",
            padding = "what is known of it, and whom to call ".repeat(8),
        )
        .unwrap();
        let (username, password) = ("probe", format!("secret-of-thing-{n}"));
        match n % 3 {
            0 => write!(
                text,
                "spec:\n  type: {kind}\n  url: {url}\n  username: {username}\n  \
                 password: {password}\n",
            ),
            1 => write!(
                text,
                "spec:\n  type: {kind}\n  url:\n    value: {url}\n  \
                 username:\n    value: {username}\n  password:\n    value: {password}\n",
            ),
            _ => write!(
                text,
                "spec:\n  {kind}:\n    url:\n      value: {url}\n    \
                 username:\n      value: {username}\n    \
                 password:\n      value: {password}\n",
            ),
        }
        .unwrap();
    }
    written(&text)
}

/// The same number of definitions, each with a secret of its own beside it.
fn definitions_with_secrets() -> tempfile::NamedTempFile {
    let mut text = String::new();
    for n in 0..CONNECTIONS {
        write!(
            text,
            "---\n\
             apiVersion: mission-control.flanksource.com/v1\n\
             kind: Connection\n\
             metadata:\n  name: cache-{n}\n  namespace: team-{}\n  \
             annotations:\n    conncheck/interval: 15s\n\
             spec:\n  type: redis\n  url: rediss://cache-{n}.example.com:6380/0\n  \
             secretRef:\n    name: cache-{n}\n  \
             labels:\n    environment: production\n    tier: cache\n\
             ---\n\
             apiVersion: v1\nkind: Secret\n\
             metadata:\n  name: cache-{n}\n  namespace: team-{}\n\
             stringData:\n  username: probe\n  password: secret-of-cache-{n}\n",
            n % 20,
            n % 20,
        )
        .unwrap();
    }
    written(&text)
}

fn written(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

fn loading(c: &mut Criterion) {
    conncheck_probes::install_crypto_provider();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let env = runtime.block_on(async { Env::new(&ResolverChoice::Auto).unwrap() });
    for (name, file) in [
        ("load 10,000 documents", definitions()),
        (
            "load 10,000 documents and as many secrets",
            definitions_with_secrets(),
        ),
    ] {
        let path = file.path().to_str().unwrap();
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Bytes(file.as_file().metadata().unwrap().len()));
        group.sample_size(10);
        group.bench_function("read", |b| {
            let paths = [path.to_owned()];
            b.iter(|| {
                let snapshot = source::read(&paths);
                assert_eq!(snapshot.connections.len(), CONNECTIONS as usize);
                snapshot
            });
        });
        let options = Options::read(["conncheck".into(), path.into()]).unwrap();
        group.bench_function("read, resolve and build", |b| {
            b.to_async(&runtime).iter(|| async {
                let loaded = load(&options, &env, &Arc::new(Redactor::default())).await;
                assert_eq!(loaded.targets.len(), CONNECTIONS as usize);
                loaded
            });
        });
        // Programs from their start to their end: ours, and one that only parses.
        let parse =
            "import sys, yaml\nfor _ in yaml.load_all(open(sys.argv[1]), yaml.CSafeLoader): pass";
        let python = python::program("python").unwrap();
        for (name, program, args) in [
            (
                "conncheck --check-config",
                Path::new(env!("CARGO_BIN_EXE_conncheck")),
                ["--check-config", path].as_slice(),
            ),
            ("PyYAML's C loader", &*python, &["-c", parse, path]),
        ] {
            group.bench_function(name, |b| {
                b.iter(|| {
                    let done = Command::new(program).args(args).output().unwrap();
                    assert!(done.status.success(), "{done:?}");
                });
            });
        }
        group.finish();
    }
}

/// A state as after some time: nine of ten are up, all have TLS and labels.
fn state() -> State {
    let state = State::default();
    let facts = (0..CONNECTIONS).map(|n| {
        Arc::new(Facts {
            id: Identity {
                namespace: format!("team-{}", n % 20),
                name: format!("connection-{n}"),
            },
            type_name: "postgres",
            reasons: &Reason::ALL,
            plan: Plan {
                interval: Duration::from_secs(30),
                timeout: Duration::from_secs(10),
                rise: 1,
                fall: 1,
                paused: false,
            },
            endpoint: Some(format!("postgres://db-{n}.example.com:5432").into()),
            labels: [("environment", "production"), ("tier", "database")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        })
    });
    let facts: Vec<_> = facts.collect();
    state.apply(facts.iter().cloned());
    for (n, facts) in facts.iter().enumerate() {
        let outcome = Outcome {
            started_at: Timestamp::now(),
            duration: Duration::from_micros(12_345),
            phases: Phase::ALL
                .map(|phase| (phase, Duration::from_micros(2_469)))
                .into(),
            tls: Some(TlsFacts {
                version: Some("TLSv1.3".to_owned()),
                verified: true,
                earliest_expiry: Some(Timestamp::now()),
                ..TlsFacts::default()
            }),
            server: Some("PostgreSQL 15.18".to_owned()),
            identity: None,
            http_status: None,
            credential_expiry: None,
            failed_before: Vec::new(),
            result: match n % 10 {
                0 => Err(Failure {
                    reason: Reason::Timeout,
                    phase: Some(Phase::Auth),
                    code: None,
                    message: "no answer".to_owned(),
                    hint: None,
                }),
                _ => Ok(()),
            },
        };
        state.record(&facts.id, None, outcome);
    }
    state
}

fn exposition(c: &mut Criterion) {
    let state = state();
    let view = Arc::new(View {
        snapshot: state.snapshot(),
        process: Process::read(),
    });
    let mut group = c.benchmark_group("/metrics of 10,000 connections");
    group.throughput(Throughput::Elements(u64::from(CONNECTIONS)));
    group.sample_size(20);
    group.bench_function("snapshot", |b| b.iter(|| black_box(state.snapshot())));
    for (name, format) in [("text", Format::Text), ("openmetrics", Format::OpenMetrics)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut out = Vec::new();
                render(&view, format, &mut out).unwrap();
                out
            });
        });
    }
    group.bench_function("text, gzip", |b| {
        b.iter(|| {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            render(&view, Format::Text, &mut out).unwrap();
            out.finish().unwrap()
        });
    });
    let mut out = Vec::new();
    render(&view, Format::Text, &mut out).unwrap();
    let series = out
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.starts_with(b"#"))
        .count();
    eprintln!("{series} series, {:.1} MB", out.len() as f64 / 1e6);
    group.finish();
}

/// One attempt over loopback, against real servers, beside what others need for the same.
fn attempts(c: &mut Criterion) {
    conncheck_probes::install_crypto_provider();
    conncheck_probes::gather_entropy();
    let rig = Rig::start().unwrap();
    let (nginx, postgres) = (rig.nginx().unwrap(), rig.postgres().unwrap());
    let (redis, mariadb) = (rig.redis().unwrap(), rig.mariadb().unwrap());
    let (rabbitmq, slapd) = (rig.rabbitmq().unwrap(), rig.get(SlapdKind::Main).unwrap());
    let (mongodb, postfix) = (rig.get(SecantusKind::Main).unwrap(), rig.postfix().unwrap());
    let ca = &rig.pki().ca.cert_pem;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let env = runtime.block_on(async { Env::new(&ResolverChoice::Auto).unwrap() });
    let mut group = c.benchmark_group("one attempt");
    group.sample_size(50);
    // By address on both sides: names are another matter.
    let http = format!("http://127.0.0.1:{}/health", nginx.http);
    let https = format!("https://127.0.0.1:{}/health", nginx.https);
    let login = postgres.url("probe").replace("localhost", "127.0.0.1");
    let by_address = |url: String| url.replace("localhost", "127.0.0.1");
    let of = |kind: &str, url: String| json!({"type": kind, "url": by_address(url), "caCert": ca});
    let mysql = |mode: &str| of("mysql", format!("{}?tls={mode}", mariadb.url("probe")));
    let ldap = |url: String| {
        let mut spec = of("ldap", url);
        spec["username"] = Slapd::dn("probe").into();
        spec["password"] = PASSWORD.into();
        spec
    };
    let smtp = |encryption: &str| {
        let mut spec = of("smtp", format!("smtp://localhost:{}", postfix.smtp));
        spec["properties"] = json!({"encryption": encryption});
        spec
    };
    let without_ca = |mut spec: Value| {
        spec.as_object_mut().unwrap().remove("caCert");
        spec
    };
    for (name, spec) in [
        ("http", of("http", http.clone())),
        ("https", of("http", https.clone())),
        (
            "postgres, scram",
            of("postgres", format!("{login}?sslmode=disable")),
        ),
        (
            "postgres, scram, tls",
            of("postgres", format!("{login}?sslmode=verify-full")),
        ),
        ("redis", without_ca(of("redis", redis.url("probe")))),
        ("redis, tls", of("redis", redis.tls_url("probe"))),
        ("mysql", without_ca(mysql("disabled"))),
        ("mysql, tls", mysql("verify-full")),
        ("mongodb, scram", of("mongodb", mongodb.url("probe"))),
        ("amqp", without_ca(of("amqp", rabbitmq.url("probe")))),
        ("amqp, tls", of("amqp", rabbitmq.tls_url("probe"))),
        ("ldap", without_ca(ldap(slapd.url()))),
        ("ldap, tls", ldap(slapd.tls_url())),
        ("smtp", without_ca(smtp("none"))),
        ("smtp, starttls", smtp("explicitTLS")),
    ] {
        let probe = probe(&spec);
        group.bench_function(name, |b| {
            b.to_async(&runtime).iter(|| async {
                let deadline = Deadline::after(Duration::from_secs(5));
                let outcome = conncheck_probes::run(&probe, deadline, &env).await;
                assert!(outcome.is_up(), "{outcome:?}");
            });
        });
    }
    let (_exporter, at) = blackbox_exporter(rig.dir(), ca);
    for (name, module, target) in [
        ("http, by blackbox_exporter's /probe", "http", &http),
        ("https, by blackbox_exporter's /probe", "https", &https),
    ] {
        let path = format!("/probe?module={module}&target={target}");
        group.bench_function(name, |b| {
            b.iter(|| assert!(get(at, &path).contains("\nprobe_success 1\n")));
        });
    }
    group.sample_size(10);
    // What a check that starts a program pays.
    let login = format!("{login}?sslmode=disable");
    let (redis_port, mariadb_port, slapd_port) = (
        redis.port().to_string(),
        mariadb.port().to_string(),
        slapd.port().to_string(),
    );
    let (uri, dn) = (by_address(slapd.url()), Slapd::dn("probe"));
    let password = format!("-p{PASSWORD}");
    for (name, program) in [
        (
            "postgres, scram, by psql",
            vec!["psql", "-X", "-c", "SELECT 1", &login],
        ),
        (
            "redis, by redis-cli",
            vec![
                "redis-cli",
                "-p",
                &redis_port,
                "--user",
                "probe",
                "--pass",
                PASSWORD,
                "--no-auth-warning",
                "PING",
            ],
        ),
        (
            "mysql, by mariadb-admin",
            vec![
                "mariadb-admin",
                "--no-defaults",
                "-h127.0.0.1",
                "-P",
                &mariadb_port,
                "-uprobe",
                &password,
                "ping",
            ],
        ),
        (
            "ldap, by ldapwhoami",
            vec!["ldapwhoami", "-x", "-H", &uri, "-D", &dn, "-w", PASSWORD],
        ),
        (
            "ldap, by check_ldap",
            vec![
                "/usr/lib/nagios/plugins/check_ldap",
                "-H",
                "127.0.0.1",
                "-p",
                &slapd_port,
                "-3",
                "-b",
                "",
                "-D",
                &dn,
                "-P",
                PASSWORD,
            ],
        ),
    ] {
        let Ok(_) = Command::new(program[0]).arg("--help").output() else {
            eprintln!("{name}: `{}` is not here", program[0]);
            continue;
        };
        group.bench_function(name, |b| {
            b.iter(|| {
                let done = Command::new(program[0])
                    .args(&program[1..])
                    .output()
                    .unwrap();
                assert!(done.status.success(), "{done:?}");
            });
        });
    }
    group.finish();
}

fn probe(spec: &serde_json::Value) -> Arc<dyn Probe> {
    struct NoFiles;
    impl Files for NoFiles {
        fn read(&self, _: &str) -> Result<Secret, String> {
            Err("no files here".to_owned())
        }
    }
    let document = serde_json::json!({"apiVersion": "mission-control.flanksource.com/v1", "kind": "Connection", "metadata": {"name": "a"}, "spec": spec});
    let mut loader = Loader::default();
    loader.add("bench.yaml", &document.to_string(), Trust::Local);
    let info = types::find(spec["type"].as_str().unwrap()).unwrap();
    let connection = loader.finish().connections.remove(0);
    let resolved = info.resolve(&connection, &Documents::default()).unwrap();
    info.build(&resolved, &NoFiles).unwrap()
}

/// The exporter on a port of its own, and that port.
fn blackbox_exporter(dir: &Path, ca: &str) -> (Server, u16) {
    std::fs::write(dir.join("blackbox-ca.pem"), ca).unwrap();
    let config = dir.join("blackbox.yml");
    let tls = format!(
        "tls_config: {{ca_file: {}}}",
        dir.join("blackbox-ca.pem").display()
    );
    let modules = format!(
        "modules:\n  http: {{prober: http, http: {{preferred_ip_protocol: ip4}}}}\n  \
         https: {{prober: http, http: {{preferred_ip_protocol: ip4, {tls}}}}}\n"
    );
    std::fs::write(&config, modules).unwrap();
    let program = prometheus::blackbox_exporter().unwrap();
    let port = ports::reserve(1).unwrap().release()[0];
    let server = Spec::new("blackbox", &program, dir)
        .args([
            format!("--config.file={}", config.display()),
            format!("--web.listen-address=127.0.0.1:{port}"),
        ])
        .spawn()
        .unwrap();
    server
        .wait_ready(Duration::from_secs(10), || {
            match TcpStream::connect(("127.0.0.1", port)) {
                Ok(_) => Ok(()),
                Err(error) => Err(error.to_string()),
            }
        })
        .unwrap();
    (server, port)
}

fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
