//! Prometheus, and the tools that judge our exposition: `promtool`, and Python's `prometheus_client`.
//!
//! It scrapes nobody; a rule gives it the series `rig_answer{source="rule"}`, whose value is 42.

use std::{
    fs,
    io::Write,
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;

use crate::{
    PASSWORD, PATIENCE,
    error::{Error, Result},
    install,
    pki::Pki,
    ports,
    process::{Process, Spec},
    python,
    rig::{Kind, Rig, Server},
};

/// A running server. Dropping it stops it and removes its data.
pub struct Prometheus {
    process: Process,
    kind: PrometheusKind,
    port: u16,
    _dir: TempDir,
}

/// Which Prometheus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrometheusKind {
    /// Plain HTTP, open to everybody.
    Main,
    /// The same below [`Prometheus::PREFIX`].
    Prefixed,
    /// TLS with `pki.server`, and basic authentication: `probe` and the password.
    Secured,
    /// TLS with `pki.server`, and a client certificate of our authority.
    MutualTls,
}

impl Server for Prometheus {
    fn processes(&self) -> Vec<&Process> {
        vec![&self.process]
    }
}

impl Kind for PrometheusKind {
    type Server = Prometheus;

    const NAME: &'static str = "prometheus";

    fn start(self, rig: &Rig, name: &str) -> Result<Prometheus> {
        Prometheus::start(self, rig.pki(), rig.dir(), name)
    }
}

impl Prometheus {
    /// Where a [`PrometheusKind::Prefixed`] is.
    pub const PREFIX: &str = "/select/0/prometheus";
    /// The tenant that `/tenant` of nginx lets in.
    pub const TENANT: &str = "shop";

    pub fn start(kind: PrometheusKind, pki: &Pki, dir: &Path, name: &str) -> Result<Prometheus> {
        let program = install::find(install::PROMETHEUS)?;
        ports::retrying(1, |ports| {
            Prometheus::start_on(kind, ports[0], pki, dir, name, &program)
        })
    }

    fn start_on(
        kind: PrometheusKind,
        port: u16,
        pki: &Pki,
        dir: &Path,
        name: &str,
        program: &Path,
    ) -> Result<Prometheus> {
        let dir = TempDir::with_prefix_in(format!("{name}-"), dir)
            .map_err(Error::doing(format!("a folder for {name}")))?;
        for (file, text) in [
            ("prometheus.yml", CONFIG.to_owned()),
            ("rules.yml", RULES.to_owned()),
            ("web.yml", web_config(kind, pki)),
        ] {
            fs::write(dir.path().join(file), text)
                .map_err(Error::doing(format!("the files of {name}")))?;
        }
        let prefix = match kind {
            PrometheusKind::Prefixed => Prometheus::PREFIX,
            _ => "/",
        };
        let process = Spec::new(name, program, dir.path())
            .args([
                "--config.file=prometheus.yml".to_owned(),
                "--web.config.file=web.yml".to_owned(),
                "--storage.tsdb.path=data".to_owned(),
                format!("--web.listen-address=127.0.0.1:{port}"),
                format!("--web.route-prefix={prefix}"),
            ])
            .spawn()?;
        let prometheus = Prometheus {
            process,
            kind,
            port,
            _dir: dir,
        };
        prometheus
            .process
            .wait_ready(PATIENCE, || prometheus.poll())?;
        Ok(prometheus)
    }

    /// `http(s)://localhost:PORT`, with the prefix where there is one.
    pub fn url(&self) -> String {
        match self.kind {
            PrometheusKind::Main => format!("http://localhost:{}", self.port),
            PrometheusKind::Prefixed => {
                format!("http://localhost:{}{}", self.port, Prometheus::PREFIX)
            }
            PrometheusKind::Secured | PrometheusKind::MutualTls => {
                format!("https://localhost:{}", self.port)
            }
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    pub fn log(&self) -> String {
        self.process.log()
    }

    /// What nginx has in front of it:
    ///
    /// | location | is |
    /// |---|---|
    /// | `/prometheus/` | it |
    /// | `/bearer/` | it, with `Authorization: Bearer probe-token`, else 401 |
    /// | `/tenant/` | it, with `X-Scope-OrgID: shop`, else 401 in Mimir's words |
    /// | `/sso/` | 302 to `/page/` at another origin |
    pub(crate) fn locations(&self) -> String {
        LOCATIONS
            .replace("@prometheus@", &format!("127.0.0.1:{}", self.port))
            .replace("@tenant@", Prometheus::TENANT)
    }

    /// It can be asked, and its rule has given something.
    fn poll(&self) -> Result<(), String> {
        if !self
            .log()
            .contains("Server is ready to receive web requests")
        {
            return Err("it is not ready".into());
        }
        if self.kind != PrometheusKind::Main {
            return Ok(());
        }
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(b"GET /api/v1/query?query=rig_answer HTTP/1.0\r\n\r\n")?;
            std::io::read_to_string(stream)
        };
        match ask() {
            Ok(answer) if answer.contains("\"42\"") => Ok(()),
            other => Err(format!("it answers {other:?}")),
        }
    }
}

const CONFIG: &str = "rule_files: [rules.yml]\n";

const RULES: &str = "\
groups:
- name: rig
  interval: 100ms
  rules:
  - record: rig_answer
    expr: vector(42)
    labels: {source: rule}
";

const LOCATIONS: &str = r#"
  location /prometheus/ { proxy_pass http://@prometheus@/; }
  location /bearer/ { if ($no_bearer) { add_header WWW-Authenticate 'Bearer realm="rig"' always; return 401 "who are you?\n"; } proxy_pass http://@prometheus@/; }
  location /tenant/ { if ($http_x_scope_orgid != "@tenant@") { return 401 "no org id\n"; } proxy_pass http://@prometheus@/; }
  location /sso/ { return 302 http://localhost:@other@/page/; }
"#;

/// What `--web.config.file` holds.
fn web_config(kind: PrometheusKind, pki: &Pki) -> String {
    // bcrypt of the password, with the lowest cost there is.
    const HASH: &str = "$2y$04$KbtjWJ3YgogDuYE/1MgV4OBvkD.9sIfkmtPmcojEG3eAF9VNz6nfy";
    debug_assert_eq!(PASSWORD, "probe-password");
    let tls = format!(
        "tls_server_config:\n  cert_file: {}\n  key_file: {}\n",
        pki.server.cert_path.display(),
        pki.server.key_path.display()
    );
    match kind {
        PrometheusKind::Main | PrometheusKind::Prefixed => String::new(),
        PrometheusKind::Secured => format!("{tls}basic_auth_users: {{probe: '{HASH}'}}\n"),
        PrometheusKind::MutualTls => format!(
            "{tls}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: {}\n",
            pki.ca.cert_path.display()
        ),
    }
}

/// The path of `promtool`.
pub fn promtool() -> Result<PathBuf> {
    install::program("promtool").ok_or_else(|| Error::missing("promtool", install::PROMETHEUS.name))
}

/// The path of `prometheus-blackbox-exporter`.
pub fn blackbox_exporter() -> Result<PathBuf> {
    install::find(install::BLACKBOX)
}

/// `promtool check metrics` over an exposition; the error is what it complains of.
pub fn check_metrics(exposition: &str) -> Result<()> {
    let tool = promtool()?;
    let complaint = feed(&tool, &["check", "metrics"], exposition)?;
    if complaint.trim().is_empty() {
        Ok(())
    } else {
        Err(Error::new(format!("promtool complains:\n{complaint}")))
    }
}

/// `promtool check config` over a configuration of Prometheus.
pub fn check_config(file: &Path) -> Result<()> {
    install::run(
        &promtool()?,
        &["check".as_ref(), "config".as_ref(), file.as_os_str()],
    )
    .map(drop)
}

/// Python's parser of the classic text format: every sample as `name{labels} value`, one a line.
pub fn parse_text(exposition: &str) -> Result<String> {
    parse("prometheus_client.parser", exposition)
}

/// Python's parser of OpenMetrics, the strictest there is.
pub fn parse_openmetrics(exposition: &str) -> Result<String> {
    parse("prometheus_client.openmetrics.parser", exposition)
}

fn parse(module: &str, exposition: &str) -> Result<String> {
    let script = format!(
        "import json, sys\n\
         from {module} import text_string_to_metric_families as parse\n\
         text = sys.stdin.buffer.read().decode('utf-8')\n\
         for family in parse(text):\n\
         \x20   for s in family.samples:\n\
         \x20       print(s.name + json.dumps(s.labels, sort_keys=True, ensure_ascii=False), s.value)\n"
    );
    feed(&python::program("python")?, &["-c", &script], exposition)
}

fn feed(program: &Path, args: &[&str], input: &str) -> Result<String> {
    let doing = || format!("cannot run {}", program.display());
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .env("PYTHONIOENCODING", "utf-8")
        .spawn()
        .map_err(Error::doing(doing()))?;
    let mut stdin = child.stdin.take().ok_or_else(|| Error::new(doing()))?;
    let input = input.to_owned();
    // Beside the reading: a long exposition and a long answer would wait for each other.
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().map_err(Error::doing(doing()))?;
    let _ = writer.join();
    let said = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    Err(Error::new(format!(
        "{} says ({}):\n{said}",
        program.display(),
        output.status
    )))
}
