//! HTTP peers of our own, for answers that a real server would never give, and an OAuth2 token endpoint.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::{
    PATIENCE,
    acceptor::{ANY, Acceptor},
    error::Result,
};

/// A request as it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    /// The first header of that name; case does not matter.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub fn body_text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// An HTTP/1.1 server that sends whatever bytes a test wants and remembers what it was asked.
pub struct HttpPeer {
    acceptor: Acceptor,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl HttpPeer {
    /// Answers each request with what `answer` makes of it.
    pub fn start(answer: impl Fn(&Request) -> Vec<u8> + Send + Sync + 'static) -> Result<HttpPeer> {
        HttpPeer::start_on(ANY, answer)
    }

    pub fn start_on(
        addr: SocketAddr,
        answer: impl Fn(&Request) -> Vec<u8> + Send + Sync + 'static,
    ) -> Result<HttpPeer> {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let acceptor = Acceptor::start("http peer", addr, move |stream, _| {
            while let Some(request) = read_request(stream) {
                let reply = answer(&request);
                lock(&seen).push(request);
                if stream.write_all(&reply).is_err() || !delimited(&reply) {
                    return;
                }
            }
        })?;
        Ok(HttpPeer { acceptor, requests })
    }

    /// Answers every request with these bytes, whatever they are.
    pub fn answers(reply: impl Into<Vec<u8>>) -> Result<HttpPeer> {
        HttpPeer::script([reply.into()])
    }

    /// Answers the first request with the first reply and so on; the last one is for all that follow.
    pub fn script(replies: impl Into<Vec<Vec<u8>>>) -> Result<HttpPeer> {
        let (replies, count) = (replies.into(), AtomicUsize::new(0));
        HttpPeer::start(move |_| {
            let number = count.fetch_add(1, Ordering::Relaxed);
            replies
                .get(number)
                .or(replies.last())
                .cloned()
                .unwrap_or_default()
        })
    }

    pub fn addr(&self) -> SocketAddr {
        self.acceptor.addr()
    }

    pub fn port(&self) -> u16 {
        self.addr().port()
    }

    /// `http://127.0.0.1:PORT` and the path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr())
    }

    pub fn requests(&self) -> Vec<Request> {
        lock(&self.requests).clone()
    }

    pub fn accepted(&self) -> usize {
        self.acceptor.accepted()
    }

    pub fn open(&self) -> usize {
        self.acceptor.open()
    }

    /// Waits until nobody is connected. False if somebody stayed.
    #[must_use]
    pub fn everybody_left(&self, within: Duration) -> bool {
        self.acceptor.wait(within, |acceptor| acceptor.open() == 0)
    }
}

/// One request to a server of this machine, and the whole of its answer as text.
pub fn ask(
    port: u16,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let headers: String = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    )?;
    io::read_to_string(stream)
}

/// A text as a value of a form.
pub(crate) fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// A complete response with `Content-Length`.
pub fn response(status: u16, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut head = format!(
        "HTTP/1.1 {status} {}\r\nContent-Length: {}\r\n",
        phrase(status),
        body.len()
    );
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    format!("{head}\r\n{body}").into_bytes()
}

fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        _ => "Status",
    }
}

/// Whether the reader can tell where this response ends, so that the connection may live on.
fn delimited(reply: &[u8]) -> bool {
    let text = String::from_utf8_lossy(reply).to_ascii_lowercase();
    let head = text.split("\r\n\r\n").next().unwrap_or_default();
    (head.contains("\r\ncontent-length:") || head.contains("\r\ntransfer-encoding:"))
        && !head.contains("\r\nconnection: close")
}

/// A head, and the body that its length promises; nothing at the end of the stream.
pub(crate) fn read_request(stream: &mut impl Read) -> Option<Request> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > 1 << 20 || stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.into(), first.next()?.into());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().into(), value.trim().into()))
        .collect();
    let mut request = Request {
        method,
        target,
        headers,
        body: Vec::new(),
    };
    let length: usize = request
        .header("content-length")
        .and_then(|length| length.parse().ok())
        .unwrap_or(0);
    request.body.resize(length.min(1 << 20), 0);
    stream.read_exact(&mut request.body).ok()?;
    Some(request)
}

/// An OAuth2 token endpoint (RFC 6749, section 4.4: client credentials) over plain HTTP.
///
/// Takes the id and secret by `Authorization: Basic` or in the form body. A token is `rig-token-` and a number.
pub struct TokenServer {
    peer: HttpPeer,
}

impl TokenServer {
    pub const CLIENT_ID: &str = "probe";
    pub const CLIENT_SECRET: &str = "probe-secret";

    pub fn start() -> Result<TokenServer> {
        let issued = AtomicUsize::new(0);
        let peer = HttpPeer::start(move |request| token_reply(request, &issued))?;
        Ok(TokenServer { peer })
    }

    /// What goes into `oauth.tokenURL`.
    pub fn url(&self) -> String {
        self.peer.url("/token")
    }

    pub fn addr(&self) -> SocketAddr {
        self.peer.addr()
    }

    pub fn requests(&self) -> Vec<Request> {
        self.peer.requests()
    }
}

fn token_reply(request: &Request, issued: &AtomicUsize) -> Vec<u8> {
    let error = |status, code: &str| {
        let headers = [
            ("Content-Type", "application/json"),
            ("WWW-Authenticate", "Basic realm=\"rig\""),
        ];
        response(status, &headers, &format!("{{\"error\":\"{code}\"}}"))
    };
    let body = request.body_text();
    let form = |name: &str| {
        body.split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    };
    if request.method != "POST" {
        return error(405, "invalid_request");
    }
    if form("grant_type") != Some("client_credentials") {
        return error(400, "unsupported_grant_type");
    }
    // base64 of `probe:probe-secret`.
    let by_header = request.header("authorization") == Some("Basic cHJvYmU6cHJvYmUtc2VjcmV0");
    let by_body = form("client_id") == Some(TokenServer::CLIENT_ID)
        && form("client_secret") == Some(TokenServer::CLIENT_SECRET);
    if !by_header && !by_body {
        return error(401, "invalid_client");
    }
    if form("scope") == Some("forbidden") {
        return error(400, "invalid_scope");
    }
    let number = issued.fetch_add(1, Ordering::Relaxed);
    let token = format!(
        "{{\"access_token\":\"rig-token-{number}\",\"token_type\":\"Bearer\",\"expires_in\":3600}}"
    );
    response(
        200,
        &[
            ("Content-Type", "application/json"),
            ("Cache-Control", "no-store"),
        ],
        &token,
    )
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
