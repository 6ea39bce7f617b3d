//! What the tests of several types share: a definition becomes a probe, and a peer that says what it
//! is told to.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use conncheck_config::{
    Connection, Found, Loaded, Loader, Lookup, NotFound, RefKind, Resolved, Secret, Trust,
    Unresolved,
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::outcome::{Failure, Outcome, Phase, Reason};
use crate::probe::{self, Access, Files, Invalid, Probe, ProbeType};
use crate::{Env, ResolverChoice};

/// Long enough for anything that works.
pub(crate) const LONG: Duration = Duration::from_secs(10);

/// For peers that hang once they have spoken: their words have to fit in, on a busy machine too.
pub(crate) const UNTIL_THEY_HANG: Duration = Duration::from_secs(2);

struct NoFiles;

impl Files for NoFiles {
    fn read(&self, path: &str) -> Result<Secret, String> {
        Err(format!("`{path}` does not exist"))
    }

    fn environment(&self) -> Result<Vec<(OsString, OsString)>, String> {
        Ok(vec![("PATH".into(), "/usr/bin:/bin".into())])
    }
}

/// The probe of a `spec`, or everything that is wrong with it. `secret` is the content of a secret
/// called `login`.
pub(crate) fn build(
    ty: &str,
    spec: &str,
    secret: &[(&str, &str)],
) -> Result<Arc<dyn Probe>, Vec<Invalid>> {
    build_as(Trust::Local, ty, spec, secret)
}

/// The same of a definition from elsewhere.
pub(crate) fn build_remote(
    ty: &str,
    spec: &str,
    secret: &[(&str, &str)],
) -> Result<Arc<dyn Probe>, Vec<Invalid>> {
    build_as(Trust::Remote, ty, spec, secret)
}

/// The same on a machine of the test's own.
pub(crate) fn build_on(
    files: &dyn Files,
    ty: &str,
    spec: &str,
) -> Result<Arc<dyn Probe>, Vec<Invalid>> {
    build_as_on(files, Trust::Local, ty, spec, &[])
}

fn build_as(
    trust: Trust,
    ty: &str,
    spec: &str,
    secret: &[(&str, &str)],
) -> Result<Arc<dyn Probe>, Vec<Invalid>> {
    build_as_on(&NoFiles, trust, ty, spec, secret)
}

fn build_as_on(
    files: &dyn Files,
    trust: Trust,
    ty: &str,
    spec: &str,
    secret: &[(&str, &str)],
) -> Result<Arc<dyn Probe>, Vec<Invalid>> {
    let resolved = resolve(trust, ty, spec, secret).unwrap_or_else(|missing| panic!("{missing:?}"));
    crate::types::find(ty).unwrap().build(&resolved, files)
}

/// What a `spec` of a type comes to with the secret.
pub(crate) fn resolve(
    trust: Trust,
    ty: &str,
    spec: &str,
    secret: &[(&str, &str)],
) -> Result<Resolved, Vec<Unresolved>> {
    let loaded = load(trust, ty, spec, secret);
    let info = crate::types::find(ty).unwrap();
    info.resolve(&loaded.connections[0], &loaded.documents)
}

/// The probe of a `spec`, or what is wrong with it first, with the way out in brackets.
pub(crate) fn build_or_say(ty: &str, spec: &str) -> Result<Arc<dyn Probe>, String> {
    build(ty, spec, &[]).map_err(|mut invalid| {
        let Invalid { message, hint, .. } = invalid.remove(0);
        match hint {
            Some(hint) => format!("{message} ({hint})"),
            None => message,
        }
    })
}

/// Expects a definition to be refused, for this first of all.
#[track_caller]
pub(crate) fn check_refused(res: Result<Arc<dyn Probe>, Vec<Invalid>>, expected: &str) {
    let mistakes = res.err().unwrap_or_else(|| panic!("accepted: {expected}"));
    assert_eq!(mistakes[0].message, expected);
}

/// What a type makes of a `spec`.
pub(crate) fn with_access<T>(ty: &str, spec: &str, make: impl FnOnce(&Access<'_>) -> T) -> T {
    let resolved =
        resolve(Trust::Local, ty, spec, &[]).unwrap_or_else(|missing| panic!("{missing:?}"));
    make(&Access::new(&resolved, &NoFiles))
}

/// The same as far as it is known without any secret.
pub(crate) fn build_partly(ty: &str, spec: &str) -> Result<Arc<dyn Probe>, Vec<Invalid>> {
    let info = crate::types::find(ty).unwrap();
    let partial = info.resolve_partly(&load(Trust::Local, ty, spec, &[]).connections[0]);
    info.build(&partial.resolved, &NoFiles)
}

fn load(trust: Trust, ty: &str, spec: &str, secret: &[(&str, &str)]) -> Loaded {
    let indented: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    let mut text = format!(
        "apiVersion: mission-control.flanksource.com/v1\nkind: Connection\nmetadata:\n  name: test\nspec:\n  type: {ty}\n{indented}"
    );
    if !secret.is_empty() {
        text.push_str("---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: login\nstringData:\n");
        for (key, value) in secret {
            text.push_str(&format!("  {key}: {}\n", quoted(value)));
        }
    }
    let mut loader = Loader::default();
    loader.add("test.yaml", &text, trust);
    let mut loaded = loader.finish();
    assert!(loaded.errors.is_empty(), "{:?}", loaded.errors);
    let name = crate::types::find(ty).unwrap().name;
    let typed = |connection: Connection| connection.of_type(name).unwrap();
    loaded.connections = loaded.connections.into_iter().map(typed).collect();
    loaded
}

/// A text as YAML, whatever is in it.
pub(crate) fn quoted(text: &str) -> String {
    let escape = |c: char| match c {
        '"' | '\\' => format!("\\{c}"),
        ' '..='~' => c.to_string(),
        c => format!("\\U{:08X}", u32::from(c)),
    };
    format!("\"{}\"", text.chars().map(escape).collect::<String>())
}

/// A text as it stands in a URL, whatever is in it.
pub(crate) fn percent_encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// Any name of a user, or password: white space around one is never part of it.
fn word(never: &'static str) -> impl Strategy<Value = String> {
    const PIECES: &[&str] = &[
        "@",
        ":",
        "/",
        "//",
        "://",
        "#",
        "?",
        "&",
        "=",
        ";",
        ",",
        "%",
        "%2",
        "%41",
        "%zz",
        "+",
        "'",
        "\"",
        "\\",
        " ",
        "\n",
        "\r\n",
        "\t",
        "\u{1}",
        "\u{7f}",
        "\u{85}",
        "\u{a0}",
        "\u{feff}",
        "\u{ffff}",
        "ü",
        "u\u{308}",
        "💥",
        "$(password)",
        "{{username}}",
        "{{- end }}",
        "$$(",
        "[",
        "]",
        "(",
        ")",
        "tcp(h)/",
        "null",
    ];
    let piece = prop_oneof![
        prop::sample::select(PIECES).prop_map(str::to_owned),
        "[^\\x00]{1,4}",
        "[a-z0-9]{1,4}",
    ];
    prop::collection::vec(piece, 1..8).prop_map(move |pieces| {
        let text = pieces.concat().replace(|c| never.contains(c), "");
        match text.trim() {
            "" => "x".to_owned(),
            text => text.to_owned(),
        }
    })
}

/// A login that a secret holds.
struct Login<'a> {
    username: &'a str,
    password: &'a str,
}

impl Lookup for Login<'_> {
    fn find(&self, _: RefKind, _: &str, _: &str, _: &[&str]) -> Result<Found, NotFound> {
        let values = [("username", self.username), ("password", self.password)];
        Ok(Found {
            source: "here".to_owned(),
            values: values
                .map(|(key, value)| (key.to_owned(), Secret::new(value)))
                .into(),
        })
    }

    fn file(&self, _: &str) -> Result<Secret, NotFound> {
        Err(NotFound::default())
    }

    fn env(&self, _: &str) -> Result<Secret, NotFound> {
        Err(NotFound::default())
    }
}

/// Expects type `P` to find any login as it was given: by the templates of `url`, in a URL whose owner
/// has written it with `by_hand`, and in `spec` beside a URL that has another. `never` are the
/// characters that a user's name, and a password, cannot have there.
pub(crate) fn check_logins<P: ProbeType>(
    ty: &str,
    url: &str,
    by_hand: fn(&str) -> String,
    never: (&'static str, &'static str),
    login_of: impl Fn(&P) -> (String, String),
) {
    let (before, rest) = url.split_once("$(username)").unwrap();
    let (between, behind) = rest.split_once("$(password)").unwrap();
    let with_login = |username: &str, password: &str| {
        let (username, password) = (by_hand(username), by_hand(password));
        Some(Secret::new(format!(
            "{before}{username}{between}{password}{behind}"
        )))
    };
    let found = |resolved: &Resolved| {
        let settings = probe::settings::<P>(resolved).unwrap();
        login_of(&P::new(Access::new(resolved, &NoFiles), settings).unwrap())
    };
    let info = crate::types::find(ty).unwrap();
    let in_a_secret = format!("url: {}\nsecretRef: {{name: login}}", quoted(url));
    let in_a_secret = load(Trust::Local, ty, &in_a_secret, &[]);
    let config = Config {
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&(word(never.0), word(never.1)), |(username, password)| {
            let login = Login {
                username: &username,
                password: &password,
            };
            let mut resolved = info.resolve(&in_a_secret.connections[0], &login).unwrap();
            // They would win over those of the URL.
            (resolved.username, resolved.password) = (None, None);
            let by_template = found(&resolved);
            resolved.url = with_login(&username, &password);
            let by_hand = found(&resolved);
            let in_spec = format!(
                "url: x\nusername: {}\npassword: {}",
                quoted(&username),
                quoted(&password)
            );
            let mut resolved = resolve(Trust::Local, ty, &in_spec, &[]).unwrap();
            resolved.url = with_login("someone", "else");
            let in_spec = found(&resolved);
            let login = (username, password);
            prop_assert_eq!(by_template, login.clone());
            prop_assert_eq!(by_hand, login.clone());
            prop_assert_eq!(in_spec, login);
            Ok(())
        })
        .unwrap();
}

/// The login of a Basic `Authorization`, which is among what must not be printed.
pub(crate) fn basic_login(secrets: &[Secret]) -> (String, String) {
    let login = BASE64_STANDARD_NO_PAD.decode(secrets[0].expose()).unwrap();
    let login = String::from_utf8(login).unwrap();
    let (username, password) = login.split_once(':').unwrap();
    (username.to_owned(), password.to_owned())
}

/// One attempt.
pub(crate) async fn run(probe: &Arc<dyn Probe>, timeout: Duration) -> Outcome {
    crate::install_crypto_provider();
    let env = Env::new(&ResolverChoice::Auto).unwrap();
    crate::run(probe, crate::Deadline::after(timeout), &env).await
}

/// One attempt that is expected to fail.
pub(crate) async fn failure(probe: &Arc<dyn Probe>, timeout: Duration) -> Failure {
    run(probe, timeout).await.result.unwrap_err()
}

/// Expects it to be down, for this reason, in this phase, with these words.
#[track_caller]
pub(crate) fn check(outcome: &Outcome, reason: Reason, phase: Phase, message: &str) {
    let failure = outcome.result.as_ref().expect_err("down");
    assert_eq!(
        (failure.reason, failure.phase),
        (reason, Some(phase)),
        "{failure:?}"
    );
    assert!(failure.message.contains(message), "{failure:?}");
}

/// What a peer does on one connection.
#[derive(Clone)]
pub(crate) enum Script {
    /// Reads a request, says this, and hangs up.
    Answer(Vec<u8>),
    /// Reads a request, says this, and waits for the other side to hang up.
    Hold(Vec<u8>),
    /// Says this at once, and listens until the other side hangs up.
    First(Vec<u8>),
}

pub(crate) fn answer(text: impl AsRef<[u8]>) -> Script {
    Script::Answer(text.as_ref().to_vec())
}

pub(crate) fn hold(text: impl AsRef<[u8]>) -> Script {
    Script::Hold(text.as_ref().to_vec())
}

/// `200 OK` with a body.
pub(crate) fn ok(body: &str) -> Script {
    answer(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ))
}

/// Any status, with headers.
pub(crate) fn status(status: &str, headers: &[&str]) -> Script {
    let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    answer(format!(
        "HTTP/1.1 {status}\r\nContent-Length: 0\r\n{headers}\r\n"
    ))
}

/// A peer on this machine that plays one script for each connection, the last one again and again.
pub(crate) struct Peer {
    pub(crate) port: u16,
    heard: Arc<Mutex<Vec<String>>>,
    closed: Arc<Mutex<usize>>,
    task: JoinHandle<()>,
}

impl Peer {
    pub(crate) async fn new(scripts: impl Into<Vec<Script>>) -> Self {
        Self::start(scripts.into(), None).await
    }

    /// Behind TLS.
    pub(crate) async fn tls(scripts: impl Into<Vec<Script>>, tls: ServerConfig) -> Self {
        Self::start(scripts.into(), Some(TlsAcceptor::from(Arc::new(tls)))).await
    }

    async fn start(scripts: Vec<Script>, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let closed: Arc<Mutex<usize>> = Arc::default();
        let (all_heard, all_closed) = (Arc::clone(&heard), Arc::clone(&closed));
        let task = tokio::spawn(async move {
            let mut connections = 0;
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let script = scripts[connections.min(scripts.len() - 1)].clone();
                connections += 1;
                let (heard, closed) = (Arc::clone(&all_heard), Arc::clone(&all_closed));
                let tls = tls.clone();
                tokio::spawn(async move {
                    match tls {
                        None => play(stream, script, &heard, &closed).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => play(stream, script, &heard, &closed).await,
                            Err(_) => *closed.lock().unwrap() += 1,
                        },
                    }
                });
            }
        });
        Self {
            port,
            heard,
            closed,
            task,
        }
    }

    /// What it was sent, one text for each connection.
    pub(crate) fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }

    /// Waits until the other side has hung up on `count` connections.
    pub(crate) async fn is_left(&self, count: usize) {
        let left = async {
            while *self.closed.lock().unwrap() < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LONG, left)
            .await
            .expect("the connection is still open");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A peer that takes one connection and says these words in turn: each after it was spoken to, but
/// for the first where servers `speak_first`. `None` hangs up at once; after the last word it is
/// silent.
pub(crate) async fn saying(
    words: &[Option<&[u8]>],
    speaks_first: bool,
) -> (u16, JoinHandle<Vec<Vec<u8>>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let words: Vec<_> = words.iter().map(|word| word.map(<[u8]>::to_vec)).collect();
    let peer = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = Vec::new();
        for (turn, word) in words.into_iter().enumerate() {
            let Some(word) = word else { return heard };
            if turn > 0 || !speaks_first {
                heard.push(hear(&mut stream).await);
            }
            let _ = stream.write_all(&word).await;
        }
        loop {
            match hear(&mut stream).await {
                word if word.is_empty() => return heard,
                word => heard.push(word),
            }
        }
    });
    (port, peer)
}

async fn hear(stream: &mut TcpStream) -> Vec<u8> {
    let mut word = vec![0; 64 * 1024];
    let length = stream.read(&mut word).await.unwrap_or(0);
    word.truncate(length);
    word
}

async fn play(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    script: Script,
    heard: &Mutex<Vec<String>>,
    closed: &Mutex<usize>,
) {
    if let Script::First(text) = &script {
        let _ = stream.write_all(text).await;
    } else if let Some(request) = request(&mut stream).await {
        heard.lock().unwrap().push(request);
    }
    match &script {
        Script::Answer(text) => {
            let _ = stream.write_all(text).await;
            let _ = stream.shutdown().await;
        }
        Script::Hold(text) => {
            let _ = stream.write_all(text).await;
            let _ = stream.flush().await;
        }
        Script::First(_) => {}
    }
    // An end without TLS' own goodbye is an error here, and not counted.
    let mut rest = Vec::new();
    let left = stream.read_to_end(&mut rest).await.is_ok();
    if let Script::First(_) = &script {
        let said = String::from_utf8_lossy(&rest).into_owned();
        heard.lock().unwrap().push(said);
    }
    if left {
        *closed.lock().unwrap() += 1;
    }
}

/// A head, and the body that its length promises.
async fn request(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut read = Vec::new();
    loop {
        if stream.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
        let text = String::from_utf8_lossy(&read).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .lines()
            .filter_map(|line| line.strip_prefix("Content-Length: "))
            .find_map(|length| length.parse().ok())
            .unwrap_or(0);
        if body.len() >= length {
            return Some(text);
        }
    }
}

/// An authority of a test, and what it signs.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

/// A certificate and its key, as PEM.
pub(crate) struct Leaf {
    pub(crate) cert: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { issuer, pem }
    }

    /// A certificate for `name` until the year `to`.
    pub(crate) fn leaf(&self, name: &str, to: i32) -> Leaf {
        self.leaf_of_years(name, (2020, to))
    }

    /// A certificate for `name`, valid from the beginning of one year to that of the other.
    pub(crate) fn leaf_of_years(&self, name: &str, (from, to): (i32, i32)) -> Leaf {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(to, 1, 1);
        let key = KeyPair::generate().unwrap();
        Leaf {
            cert: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    /// A server that shows `leaf` and, given `clients`, wants a certificate signed by that.
    pub(crate) fn server(leaf: &Leaf, clients: Option<&Self>, alpn: &[&str]) -> ServerConfig {
        crate::install_crypto_provider();
        let chain = CertificateDer::pem_slice_iter(leaf.cert.as_bytes())
            .collect::<Result<_, _>>()
            .unwrap();
        let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
        let builder = ServerConfig::builder();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots
                    .add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap())
                    .unwrap();
                let verifier = rustls::server::WebPkiClientVerifier::builder(Arc::new(roots));
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }
}
