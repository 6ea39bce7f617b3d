//! A stand-in for Elasticsearch and OpenSearch: `osmem-server`, which keeps its indices in memory and answers as
//! OpenSearch does, health and its waits included. It knows no logins and is never red; what nginx has in front of
//! it does, see [`Elastic::locations`], and that part is canned.
//!
//! | index | is |
//! |---|---|
//! | `catalog` | green |
//! | `orders` | yellow: its replica is unassigned, since there is one node |
//!
//! So the cluster is yellow. [`ElasticKind::Empty`] has no index and is green.

use std::path::Path;

use tempfile::TempDir;

use crate::{
    PASSWORD, PATIENCE,
    error::{Error, Result},
    http, ports,
    process::{Process, Spec},
    python,
    rig::{Kind, Rig, Server},
};

/// A running server. Dropping it stops it.
pub struct Elastic {
    process: Process,
    port: u16,
    _dir: TempDir,
}

/// Which stand-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElasticKind {
    Main,
    /// Without an index.
    Empty,
}

impl Server for Elastic {
    fn processes(&self) -> Vec<&Process> {
        vec![&self.process]
    }
}

impl Kind for ElasticKind {
    type Server = Elastic;

    const NAME: &'static str = "elastic";

    fn start(self, rig: &Rig, name: &str) -> Result<Elastic> {
        Elastic::start(self, rig.dir(), name)
    }
}

impl Elastic {
    /// An API key that `/secured` lets in: its id and secret, as `id:api_key`.
    pub const API_KEY: &str = "rig:probe-password";
    /// The same as Elasticsearch gives it out, and as it is sent.
    pub const API_KEY_ENCODED: &str = "cmlnOnByb2JlLXBhc3N3b3Jk";
    /// One that `/secured` knows, and that may not ask for health.
    pub const API_KEY_OF_GUEST: &str = "guest:probe-password";

    pub fn start(kind: ElasticKind, dir: &Path, name: &str) -> Result<Elastic> {
        let program = python::file("osmem_server/bin/osmem-server")?;
        ports::retrying(1, |ports| {
            Elastic::start_on(kind, ports[0], dir, name, &program)
        })
    }

    fn start_on(
        kind: ElasticKind,
        port: u16,
        dir: &Path,
        name: &str,
        program: &Path,
    ) -> Result<Elastic> {
        let dir = TempDir::with_prefix_in(format!("{name}-"), dir)
            .map_err(Error::doing(format!("a folder for {name}")))?;
        let process = Spec::new(name, program, dir.path())
            .args(["-addr", &format!("127.0.0.1:{port}"), "-no-stdin-watch"])
            .spawn()?;
        let elastic = Elastic {
            process,
            port,
            _dir: dir,
        };
        elastic.process.wait_ready(PATIENCE, || {
            elastic
                .request("GET", "/_cluster/health", "")
                .map(drop)
                .map_err(|err| err.to_string())
        })?;
        if kind == ElasticKind::Main {
            for (index, replicas) in [("catalog", 0), ("orders", 1)] {
                let settings = format!("{{\"settings\":{{\"number_of_replicas\":{replicas}}}}}");
                elastic.request("PUT", &format!("/{index}"), &settings)?;
            }
        }
        Ok(elastic)
    }

    /// `http://localhost:PORT`.
    pub fn url(&self) -> String {
        format!("http://localhost:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    /// One request; an answer that is no 200 is an error.
    pub fn request(&self, method: &str, path: &str, body: &str) -> Result<String> {
        let headers = [("Content-Type", "application/json")];
        let ask = || http::ask(self.port, method, path, &headers, body);
        let name = self.process.name();
        let reply = ask().map_err(Error::doing(format!("{name}: {method} {path}")))?;
        match reply.split_once(" 200 OK\r\n") {
            Some(_) => Ok(reply),
            None => Err(Error::new(format!("{name}: {method} {path}: {reply}"))),
        }
    }

    /// What nginx has in front of it, and what it says in its place:
    ///
    /// | location | is |
    /// |---|---|
    /// | `/open/` | it |
    /// | `/secured/` | it, with `probe` and the password, or an API key, else 401; 403 to the guest's key |
    /// | `/opensearch3/` | it, with the header that tells OpenSearch 3's version |
    /// | `/red/` | a red cluster, canned, whatever is asked for |
    /// | `/late/` | 408 and a yellow cluster, canned |
    /// | `/masterless/`, `/blocked/` | 503 with the servers' own error, canned |
    /// | `/uninitialized/` | 503 as OpenSearch's security plugin says it |
    /// | `/dashboards/` | 404 as from Kibana |
    pub(crate) fn locations(&self) -> String {
        debug_assert_eq!(PASSWORD, "probe-password");
        LOCATIONS
            .replace("@elastic@", &format!("127.0.0.1:{}", self.port))
            .replace("@encoded@", Elastic::API_KEY_ENCODED)
    }
}

const LOCATIONS: &str = r#"
  location /open/ { proxy_pass http://@elastic@/; }
  location /opensearch3/ { proxy_hide_header X-Elastic-Product; add_header X-OpenSearch-Version "OpenSearch/3.0.0 (opensearch)"; proxy_pass http://@elastic@/; }
  location /secured/ {
    default_type application/json;
    set $login "";
    if ($http_authorization = "Basic cHJvYmU6cHJvYmUtcGFzc3dvcmQ=") { set $login yes; }
    if ($http_authorization = "ApiKey @encoded@") { set $login yes; }
    if ($http_authorization = "Bearer @bearer@") { set $login yes; }
    if ($http_authorization = "ApiKey Z3Vlc3Q6cHJvYmUtcGFzc3dvcmQ=") {
      return 403 '{"error":{"root_cause":[{"type":"security_exception","reason":"action [cluster:monitor/health] is unauthorized for API key id [guest]"}],"type":"security_exception","reason":"action [cluster:monitor/health] is unauthorized for API key id [guest]"},"status":403}';
    }
    if ($login = "") {
      add_header WWW-Authenticate 'Basic realm="security", charset="UTF-8"' always;
      add_header WWW-Authenticate 'ApiKey' always;
      return 401 '{"error":{"root_cause":[{"type":"security_exception","reason":"missing or wrong authentication credentials"}],"type":"security_exception","reason":"missing or wrong authentication credentials"},"status":401}';
    }
    proxy_pass http://@elastic@/;
  }
  location /red/ { default_type application/json; return 200 '{"cluster_name":"rig","status":"red","timed_out":false,"number_of_nodes":1,"number_of_data_nodes":1,"active_primary_shards":2,"active_shards":2,"relocating_shards":0,"initializing_shards":1,"unassigned_shards":3}'; }
  location /late/ { default_type application/json; return 408 '{"cluster_name":"rig","status":"yellow","timed_out":true}'; }
  location /masterless/ { default_type application/json; return 503 '{"error":{"root_cause":[{"type":"master_not_discovered_exception","reason":null}],"type":"master_not_discovered_exception","reason":null},"status":503}'; }
  location /blocked/ { default_type application/json; return 503 '{"error":{"root_cause":[],"type":"cluster_block_exception","reason":"blocked by: [SERVICE_UNAVAILABLE/1/state not recovered / initialized];"},"status":503}'; }
  location /uninitialized/ { return 503 "OpenSearch Security not initialized."; }
  location /dashboards/ { default_type application/json; add_header kbn-name rig always; return 404 '{"statusCode":404,"error":"Not Found","message":"Not Found"}'; }
"#;
