//! nginx: one process, a port per kind of certificate, a location per kind of answer.
//!
//! | location | answers |
//! |---|---|
//! | `/health` | 200 `ok` |
//! | `/json`, `/json-array` | `{"status":"ok","version":3,…}`, a list |
//! | `/not-json` | 200, `application/json`, broken |
//! | `/204`, `/404`, `/429`, `/500`, `/503` | that status; 429 and 503 with `Retry-After: 7` |
//! | `/redirect`, `/redirect-loop` | 302 to `/health`, to itself |
//! | `/redirect/301`, `/redirect/303`, `/redirect/307`, `/redirect/308` | that status, to `/echo-method` |
//! | `/redirect-other-origin` | 302 to `/health` on [`Nginx::other_http`] |
//! | `/redirect-to-plain` | 302 from https to [`Nginx::http`] |
//! | `/private/` | 200 with basic auth `probe` and the password, else 401 |
//! | `/bearer` | 200 with `Authorization: Bearer probe-token`, else 401 |
//! | `/oauth` | 200 with a bearer token from `/token`, else 401 |
//! | `/token` | the OAuth2 endpoint, see [`TokenServer`] |
//! | `/apikey` | 200 with `X-Api-Key: probe-key`, else 403 |
//! | `/echo-method`, `/echo-host`, `/protocol` | what was asked with |
//! | `/client` | the client certificate's subject and verdict |
//! | `/post` | 200 to a POST with a body, 400 without one, 405 to other methods |
//! | `/no-head` | 405 to HEAD, 200 to the rest |
//! | `/hook` | 202 to POST, 405 to the rest, as the endpoint of a webhook |
//! | `/hook/private` | the same, with `Authorization: Bearer probe-token`, else 401 |
//! | `/hook/options` | 204 to OPTIONS, 202 to POST, 501 to the rest |
//! | `/hook/unknown` | 202 to POST, 501 to the rest |
//! | `/hook/gone` | 410 |
//! | `/tokeninfo` | what Google's says of a token, whatever the token |
//! | `/page/` | a page of HTML, whatever is asked for below it |
//! | `/big` | 5 MB; compressed if accepted |
//! | `/gzip` | 20 KB of text; compressed if accepted |
//! | `/slow-body` | 20 KB, 1 KB a second |
//! | `/hang` | never |
//! | `/half` | 200 and half of its body; then what is behind it hangs up |
//! | `/empty` | nothing: the connection is closed |
//!
//! Everything is on every port.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::{
    PASSWORD, PATIENCE,
    elastic::{Elastic, ElasticKind},
    error::{Error, Result},
    faults::{Peer, Step},
    http::TokenServer,
    install,
    pki::{Certified, Pki},
    ports,
    process::{Process, Spec},
    prometheus::PrometheusKind,
    rig::{Kind, Rig, Server},
};

/// The running server. Dropping it stops it and removes its data.
pub struct Nginx {
    process: Process,
    /// Plain HTTP.
    pub http: u16,
    /// The same on another port: another origin.
    pub other_http: u16,
    /// TLS with `pki.server`. Speaks HTTP/1.1 and, if asked, HTTP/2.
    pub https: u16,
    /// The same, HTTP/1.1 only.
    pub http1: u16,
    /// The same, at most TLS 1.2.
    pub tls12: u16,
    /// TLS with `pki.intermediate`.
    pub intermediate: u16,
    /// Wants a client certificate of our authority; answers 400 without one.
    pub mtls: u16,
    pub wrong_name: u16,
    pub expired: u16,
    pub not_yet_valid: u16,
    pub unknown_ca: u16,
    pub self_signed: u16,
    tokens: TokenServer,
    dir: TempDir,
    _behind: Behind,
}

/// Each has a port for each variant of TLS.
#[derive(Debug, Clone, Copy)]
pub enum NginxKind {
    Main,
    /// In front of [`Prometheus`](crate::Prometheus), with its locations beside the others.
    BeforePrometheus,
    /// In front of [`Elastic`](crate::Elastic), likewise.
    BeforeElastic,
}

impl Server for Nginx {
    fn processes(&self) -> Vec<&Process> {
        vec![&self.process]
    }
}

impl Kind for NginxKind {
    type Server = Nginx;

    const NAME: &'static str = "nginx";

    fn start(self, rig: &Rig, _: &str) -> Result<Nginx> {
        match self {
            NginxKind::Main => Nginx::start(rig.pki(), rig.dir()),
            NginxKind::BeforePrometheus => {
                let prometheus = rig.get(PrometheusKind::Main)?;
                Nginx::start_with(rig.pki(), rig.dir(), &prometheus.locations())
            }
            NginxKind::BeforeElastic => {
                let elastic = rig.get(ElasticKind::Main)?;
                Nginx::before_elastic(rig.pki(), rig.dir(), &elastic)
            }
        }
    }
}

/// A line of the access log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    pub method: String,
    /// With the query.
    pub uri: String,
    /// `HTTP/1.1`, `HTTP/2.0`.
    pub protocol: String,
    pub status: u16,
    pub port: u16,
    /// Empty when it was not sent, as all that follow.
    pub host: String,
    pub authorization: String,
    pub api_key: String,
    pub user_agent: String,
    pub content_type: String,
    pub cookie: String,
    /// Only at `/post`.
    pub body: String,
}

/// Faulty peers that it is a proxy for.
struct Behind {
    hang: Peer,
    half: Peer,
}

impl Behind {
    fn start() -> Result<Behind> {
        let half = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf!";
        Ok(Behind {
            hang: Peer::silent()?,
            half: Peer::script([Step::Receive, Step::Send(half.to_vec()), Step::Close])?,
        })
    }
}

/// How many ports it takes.
const PORTS: usize = 12;

impl Nginx {
    /// Bearer token of `/bearer`.
    pub const BEARER: &str = "probe-token";
    /// `X-Api-Key` of `/apikey`.
    pub const API_KEY: &str = "probe-key";

    pub fn start(pki: &Pki, dir: &Path) -> Result<Nginx> {
        Nginx::start_with(pki, dir, "")
    }

    /// In front of `elastic`.
    pub fn before_elastic(pki: &Pki, dir: &Path, elastic: &Elastic) -> Result<Nginx> {
        Nginx::start_with(pki, dir, &elastic.locations())
    }

    /// The same with further locations on every port. `$no_bearer`, `@bearer@` and `@other@` stand for
    /// there what they stand for here.
    fn start_with(pki: &Pki, dir: &Path, locations: &str) -> Result<Nginx> {
        let program = install::find(install::NGINX)?;
        ports::retrying(PORTS, |ports| {
            Nginx::start_on(ports, pki, dir, &program, locations)
        })
    }

    fn start_on(
        ports: &[u16],
        pki: &Pki,
        dir: &Path,
        program: &Path,
        locations: &str,
    ) -> Result<Nginx> {
        let dir =
            TempDir::with_prefix_in("nginx-", dir).map_err(Error::doing("a folder for nginx"))?;
        let (tokens, behind) = (TokenServer::start()?, Behind::start()?);
        let conf = conf(ports, pki, dir.path(), &tokens, &behind, locations);
        write_files(dir.path(), &conf)?;
        let args = [
            "-p".into(),
            dir.path().into(),
            "-e".into(),
            "stderr".into(),
            "-c".into(),
            dir.path().join("nginx.conf").into_os_string(),
        ];
        let process = Spec::new("nginx", program, dir.path())
            .args(args)
            .when_orphaned(Signal::KILL)
            .spawn()?;
        process.wait_ready(PATIENCE, || health(ports[0]))?;
        let &[
            http,
            other_http,
            https,
            http1,
            tls12,
            intermediate,
            mtls,
            wrong_name,
            expired,
            not_yet_valid,
            unknown_ca,
            self_signed,
        ] = ports
        else {
            return Err(Error::new("nginx: the wrong number of ports"));
        };
        Ok(Nginx {
            process,
            http,
            other_http,
            https,
            http1,
            tls12,
            intermediate,
            mtls,
            wrong_name,
            expired,
            not_yet_valid,
            unknown_ca,
            self_signed,
            tokens,
            dir,
            _behind: behind,
        })
    }

    /// `http://localhost:PORT` and the path.
    pub fn url(&self, path: &str) -> String {
        format!("http://localhost:{}{path}", self.http)
    }

    /// `https://localhost:PORT` and the path, on the port with the good certificate.
    pub fn https_url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.https)
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The endpoint behind `/token`.
    pub fn tokens(&self) -> &TokenServer {
        &self.tokens
    }

    /// Whatever it complained of.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The same and lesser matters, such as clients that hung up in the middle.
    pub fn info_log(&self) -> String {
        fs::read_to_string(self.dir.path().join("info.log")).unwrap_or_default()
    }

    /// How many sockets it holds: listening ones, clients, and peers behind it.
    pub fn sockets(&self) -> usize {
        let fds = fs::read_dir(format!("/proc/{}/fd", self.process.pid()));
        fds.into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .filter(|target| target.to_string_lossy().starts_with("socket:"))
            .count()
    }

    /// All requests so far whose URI contains `part`. Tests run at the same time: ask with a query of your own,
    /// like `/health?my-test`.
    pub fn requests(&self, part: &str) -> Vec<Logged> {
        let text = fs::read_to_string(self.access_log()).unwrap_or_default();
        text.lines()
            .filter_map(parse)
            .filter(|logged| logged.uri.contains(part))
            .collect()
    }

    /// The same, once there are at least `count`: a request is logged a moment after its answer. Gives what
    /// there is when nobody waits any longer.
    pub fn wait_for_requests(&self, part: &str, count: usize) -> Vec<Logged> {
        let started = Instant::now();
        loop {
            let requests = self.requests(part);
            if requests.len() >= count || started.elapsed() > PATIENCE {
                return requests;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn access_log(&self) -> PathBuf {
        self.dir.path().join("access.log")
    }
}

fn parse(line: &str) -> Option<Logged> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    Some(Logged {
        method: text("method"),
        uri: text("uri"),
        protocol: text("protocol"),
        status: text("status").parse().ok()?,
        port: text("port").parse().ok()?,
        host: text("host"),
        authorization: text("authorization"),
        api_key: text("api_key"),
        user_agent: text("user_agent"),
        content_type: text("content_type"),
        cookie: text("cookie"),
        body: text("body"),
    })
}

fn health(port: u16) -> Result<(), String> {
    let mut reply = String::new();
    TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .and_then(|mut stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(b"GET /health?rig HTTP/1.0\r\n\r\n")?;
            stream.read_to_string(&mut reply)
        })
        .map_err(|err| err.to_string())?;
    if reply.starts_with("HTTP/1.1 200") {
        Ok(())
    } else {
        Err(format!("it answers {reply:?}"))
    }
}

fn write_files(dir: &Path, conf: &str) -> Result<()> {
    let doing = || Error::doing("the files of nginx");
    fs::write(dir.join("nginx.conf"), conf).map_err(doing())?;
    fs::write(dir.join("htpasswd"), format!("probe:{{PLAIN}}{PASSWORD}\n")).map_err(doing())?;
    let html = dir.join("html");
    fs::create_dir_all(html.join("private")).map_err(doing())?;
    fs::write(html.join("private/index.html"), "ok\n").map_err(doing())?;
    fs::write(html.join("big"), "x".repeat(5_000_000)).map_err(doing())?;
    fs::write(html.join("gzip"), "needle in a haystack\n".repeat(1000)).map_err(doing())?;
    fs::write(html.join("slow-body"), "x".repeat(20_000)).map_err(doing())
}

fn conf(
    ports: &[u16],
    pki: &Pki,
    dir: &Path,
    tokens: &TokenServer,
    behind: &Behind,
    locations: &str,
) -> String {
    let good = &pki.server;
    let mut servers = String::new();
    for (index, &port) in ports.iter().enumerate() {
        servers.push_str(&match index {
            0 | 1 => server(port, "", None, ""),
            2 => server(port, "ssl http2", Some(good), ""),
            3 => server(port, "ssl", Some(good), ""),
            4 => server(port, "ssl http2", Some(good), "ssl_protocols TLSv1.2;"),
            5 => server(port, "ssl http2", Some(&pki.intermediate), ""),
            6 => {
                let verify = format!(
                    "ssl_client_certificate {}; ssl_verify_client on;",
                    pki.ca.cert_path.display()
                );
                server(port, "ssl http2", Some(good), &verify)
            }
            7 => server(port, "ssl http2", Some(&pki.wrong_name), ""),
            8 => server(port, "ssl http2", Some(&pki.expired), ""),
            9 => server(port, "ssl http2", Some(&pki.not_yet_valid), ""),
            10 => server(port, "ssl http2", Some(&pki.unknown_ca), ""),
            _ => server(port, "ssl http2", Some(&pki.self_signed), ""),
        });
    }
    let fill = |text: &str| {
        text.replace("@dir@", &dir.display().to_string())
            .replace("@http@", &ports[0].to_string())
            .replace("@other@", &ports[1].to_string())
            .replace("@tokens@", &tokens.addr().to_string())
            .replace("@hang@", &behind.hang.addr().to_string())
            .replace("@half@", &behind.half.addr().to_string())
            .replace("@bearer@", Nginx::BEARER)
            .replace("@apikey@", Nginx::API_KEY)
    };
    let servers = servers.replace("@locations@", &format!("{LOCATIONS}{locations}"));
    fill(&HTTP.replace("@servers@", &servers))
}

fn server(port: u16, options: &str, certificate: Option<&Certified>, more: &str) -> String {
    let certificate = certificate.map_or(String::new(), |certificate| {
        format!(
            "ssl_certificate {}; ssl_certificate_key {};",
            certificate.cert_path.display(),
            certificate.key_path.display()
        )
    });
    format!("server {{ listen 127.0.0.1:{port} {options}; {certificate} {more}\n@locations@}}\n")
}

/// One process, no master and workers: what is killed is gone.
const HTTP: &str = r#"
daemon off;
master_process off;
pid @dir@/nginx.pid;
error_log stderr warn;
error_log @dir@/info.log info;
events { worker_connections 4096; }
http {
  log_format rig escape=json '{"method":"$request_method","uri":"$request_uri","protocol":"$server_protocol","status":"$status","port":"$server_port","host":"$http_host","authorization":"$http_authorization","api_key":"$http_x_api_key","user_agent":"$http_user_agent","content_type":"$content_type","cookie":"$http_cookie","body":"$request_body"}';
  access_log @dir@/access.log rig;
  client_body_temp_path @dir@/body;
  proxy_temp_path @dir@/proxy;
  fastcgi_temp_path @dir@/fastcgi;
  uwsgi_temp_path @dir@/uwsgi;
  scgi_temp_path @dir@/scgi;
  default_type text/plain;
  root @dir@/html;
  absolute_redirect off;
  keepalive_requests 1000000;
  ssl_protocols TLSv1.2 TLSv1.3;
  map $http_authorization $no_bearer { default 1; "Bearer @bearer@" 0; }
  map $http_authorization $no_oauth { default 1; "~^Bearer rig-token-[0-9]+$" 0; }
  map $http_x_api_key $no_apikey { default 1; "@apikey@" 0; }
  map $http_content_length $no_body { default 0; "" 1; "0" 1; }
@servers@}
"#;

const LOCATIONS: &str = r#"
  location = /health { return 200 "ok"; }
  location = /json { default_type application/json; return 200 '{"status":"ok","version":3,"checks":[{"name":"db","up":true},{"name":"cache","up":false}]}'; }
  location = /json-array { default_type application/json; return 200 '[1,2,3]'; }
  location = /not-json { default_type application/json; return 200 '{"status":'; }
  location = /204 { return 204; }
  location = /404 { return 404 "no such thing\n"; }
  location = /429 { add_header Retry-After 7 always; return 429 "slow down\n"; }
  location = /500 { return 500 "boom\n"; }
  location = /503 { add_header Retry-After 7 always; return 503 "closed for repairs\n"; }
  location = /redirect { return 302 /health; }
  location = /redirect-loop { return 302 /redirect-loop; }
  location = /redirect/301 { return 301 /echo-method; }
  location = /redirect/303 { return 303 /echo-method; }
  location = /redirect/307 { return 307 /echo-method; }
  location = /redirect/308 { return 308 /echo-method; }
  location = /redirect-other-origin { return 302 http://localhost:@other@/health?$args; }
  location = /redirect-to-plain { return 302 http://localhost:@http@/health?$args; }
  location /private/ { auth_basic rig; auth_basic_user_file @dir@/htpasswd; }
  location = /bearer { if ($no_bearer) { add_header WWW-Authenticate 'Bearer realm="rig"' always; return 401 "who are you?\n"; } return 200 "ok"; }
  location = /oauth { if ($no_oauth) { add_header WWW-Authenticate 'Bearer realm="rig", error="invalid_token"' always; return 401 "who are you?\n"; } return 200 "ok"; }
  location = /token { proxy_pass http://@tokens@/token; }
  location = /apikey { if ($no_apikey) { return 403 "no\n"; } return 200 "ok"; }
  location = /echo-method { return 200 "$request_method"; }
  location = /echo-host { return 200 "$http_host"; }
  location = /protocol { return 200 "$server_protocol $ssl_protocol"; }
  location = /client { return 200 "$ssl_client_s_dn $ssl_client_verify"; }
  location = /post { if ($request_method != POST) { return 405 "POST, please\n"; } if ($no_body) { return 400 "a body, please\n"; } proxy_pass http://127.0.0.1:@http@/posted; }
  location = /posted { access_log off; return 200 "posted"; }
  location = /no-head { if ($request_method = HEAD) { return 405; } return 200 "ok"; }
  location = /hook { if ($request_method != POST) { return 405; } return 202 "accepted\n"; }
  location = /hook/private { if ($no_bearer) { add_header WWW-Authenticate 'Bearer realm="rig"' always; return 401 "who are you?\n"; } if ($request_method != POST) { return 405; } return 202 "accepted\n"; }
  location = /hook/options { if ($request_method = OPTIONS) { return 204; } if ($request_method = POST) { return 202 "accepted\n"; } return 501; }
  location = /hook/unknown { if ($request_method = POST) { return 202 "accepted\n"; } return 501; }
  location = /hook/gone { return 410; }
  location = /tokeninfo { default_type application/json; return 200 '{"aud":"rig","scope":"any","expires_in":"3599"}'; }
  location /page/ { default_type text/html; return 200 "<!DOCTYPE html><title>Sign in</title>"; }
  location = /big { gzip on; gzip_types text/plain; }
  location = /gzip { gzip on; gzip_types text/plain; }
  location = /slow-body { limit_rate 1k; }
  location = /hang { proxy_read_timeout 600s; proxy_pass http://@hang@/; }
  location = /half { proxy_pass http://@half@/; }
  location = /empty { return 444; }
"#;
