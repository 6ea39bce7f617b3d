//! The built program: run it, or keep it running.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use conncheck_rig::PATIENCE;
use serde_json::{Value, json};

/// A command line of the built program, free of whatever this process has in its environment.
pub(crate) fn conncheck(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_conncheck"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CONNCHECK_")) {
        command.env_remove(name);
    }
    command.args(args).env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

/// Runs it to its end.
pub(crate) fn run(args: &[&str]) -> Output {
    conncheck(args).output().expect("conncheck runs")
}

/// The exit code, and standard output as JSON.
pub(crate) fn report(args: &[&str]) -> (i32, Value) {
    let output = run(args);
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", text(&output.stdout)));
    (code(&output), report)
}

pub(crate) fn code(output: &Output) -> i32 {
    output.status.code().expect("it ended by itself")
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// One `Connection` document; JSON is YAML.
pub(crate) fn document(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "mission-control.flanksource.com/v1",
        "kind": "Connection",
        "metadata": {"name": name},
        "spec": spec,
    })
}

/// Documents as one file.
pub(crate) fn write(path: &Path, documents: &[Value]) {
    let texts: Vec<String> = documents.iter().map(Value::to_string).collect();
    std::fs::write(path, texts.join("\n---\n")).unwrap();
}

/// A running daemon. Dropping it kills it.
pub(crate) struct Daemon {
    child: Child,
    port: u16,
    log: std::path::PathBuf,
}

impl Daemon {
    /// Starts it over `dir` and waits until it is ready.
    pub(crate) fn start(dir: &Path, more: &[&str]) -> Self {
        let mut command = conncheck(&[dir.to_str().unwrap()]);
        command.args(more);
        Self::start_command(dir, command)
    }

    pub(crate) fn start_command(dir: &Path, mut command: Command) -> Self {
        let port = conncheck_rig::ports::reserve(1).unwrap().release()[0];
        let log = dir.with_extension("log");
        let child = command
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .stderr(std::fs::File::create(&log).unwrap())
            .stdout(Stdio::null())
            .spawn()
            .expect("conncheck runs");
        let mut daemon = Self { child, port, log };
        let patience = Instant::now() + PATIENCE;
        while !daemon.is_ready() {
            assert!(
                daemon.child.try_wait().unwrap().is_none(),
                "it ended: {}",
                daemon.log()
            );
            assert!(Instant::now() < patience, "not ready: {}", daemon.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        daemon
    }

    fn is_ready(&self) -> bool {
        TcpStream::connect(("127.0.0.1", self.port)).is_ok()
            && self.get("/-/ready", &[]).status == 200
    }

    /// What it said on standard error so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn get(&self, path: &str, headers: &[&str]) -> Answer {
        self.request("GET", path, headers)
    }

    pub(crate) fn request(&self, method: &str, path: &str, headers: &[&str]) -> Answer {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut request =
            format!("{method} {path} HTTP/1.1\r\nHost: conncheck\r\nConnection: close\r\n");
        for header in headers {
            request += header;
            request += "\r\n";
        }
        stream
            .write_all(format!("{request}\r\n").as_bytes())
            .unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        Answer::parse(&bytes)
    }

    /// The exposition in the classic text format.
    pub(crate) fn metrics(&self) -> String {
        self.get("/metrics", &[]).text()
    }

    /// Waits until the exposition says so.
    pub(crate) fn wait_for(&self, what: &str, done: impl Fn(&str) -> bool) -> String {
        let patience = Instant::now() + PATIENCE;
        loop {
            let metrics = self.metrics();
            if done(&metrics) {
                return metrics;
            }
            assert!(
                Instant::now() < patience,
                "no {what}:\n{metrics}\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args([signal, &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// Waits for its end.
    pub(crate) fn exit_code(&mut self, within: Duration) -> Option<i32> {
        let patience = Instant::now() + within;
        while Instant::now() < patience {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An HTTP answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Self {
        let end = bytes
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .unwrap_or_else(|| panic!("no head: {}", text(bytes)));
        let head = text(&bytes[..end]).to_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut body = bytes[end + 4..].to_vec();
        if head.contains("transfer-encoding: chunked") {
            body = dechunked(&body);
        }
        Self { status, head, body }
    }

    pub(crate) fn text(&self) -> String {
        text(&self.body)
    }
}

fn dechunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = bytes.windows(2).position(|window| window == b"\r\n") {
        let size = usize::from_str_radix(&text(&bytes[..end]), 16).unwrap();
        if size == 0 {
            break;
        }
        body.extend_from_slice(&bytes[end + 2..end + 2 + size]);
        bytes = &bytes[end + 4 + size..];
    }
    body
}
