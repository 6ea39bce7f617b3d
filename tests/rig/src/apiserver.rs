//! A Kubernetes API server of our own: a real one is not to be had here.
//!
//! It speaks HTTP/1.1 over TLS as `kube-apiserver` does: a client certificate is asked for and not
//! demanded, who nobody is known to be is `system:anonymous`, authorization comes before routing (so that a
//! path that does not exist is a 403 to most), errors are `Status` objects, checks are listed with `[+]`
//! and `[-]`. The texts are those of Kubernetes 1.31. What it does not do is everything else: it has five
//! paths, and a table in the place of RBAC.
//!
//! | credential | user | may |
//! |---|---|---|
//! | [`ApiServer::TOKEN`], [`ApiServer::jwt`] until it expires | `system:serviceaccount:monitoring:conncheck` | what every user may |
//! | a client certificate of the rig's authority | `probe` | the same |
//! | `probe` and [`PASSWORD`] | `probe` | the same; only with [`ApiServerKind::Old`], others look at no password |
//! | [`ApiServer::ADMIN`] | `admin` | everything, impersonate others too |
//! | [`ApiServer::BLIND`] | `blind` | ask who it is, and not look at `/readyz` |
//! | [`ApiServer::OUTCAST`] | `outcast` | look at `/readyz`, and not ask who it is |

use std::{
    io::{self, Write},
    net::TcpStream,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use rustls::{
    DigitallySignedStruct, DistinguishedName, ServerConfig, ServerConnection, SignatureScheme,
    StreamOwned,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use serde_json::{Value, json};

use crate::{
    PASSWORD,
    acceptor::{ANY, Acceptor},
    error::Result,
    http::{Request, read_request, response},
    pki::{Pki, Shown},
    process::Process,
    rig::{Kind, Rig, Server},
    tls::{server_config_for, signed_by},
};

/// The running server. Dropping it stops it.
pub struct ApiServer {
    acceptor: Acceptor,
    shared: Arc<Shared>,
}

/// What kind of an API server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiServerKind {
    /// Kubernetes 1.31 with a good certificate.
    Main,
    /// With this certificate in place of the good one.
    Shows(Shown),
    /// 1.27: `SelfSubjectReview` only as `v1beta1`.
    Beta,
    /// 1.15: neither `/readyz` nor `SelfSubjectReview`; takes passwords.
    Old,
    /// `--anonymous-auth=false`
    Closed,
    /// Its etcd does not answer.
    NoEtcd,
    /// Its hooks have not run yet.
    Starting,
    /// Turns everybody away: too many requests (priority and fairness).
    Busy,
    /// Behind something that ends TLS and takes `Authorization` away, as badly made load balancers do.
    Behind,
    /// No API server at all: a login page, whatever is asked.
    LoginPage,
}

/// A request and what came of it.
#[derive(Debug, Clone)]
pub struct Audited {
    pub user: String,
    /// The groups as which somebody was impersonated.
    pub groups: Vec<String>,
    pub method: String,
    pub path: String,
    pub status: u16,
    pub user_agent: String,
}

struct Shared {
    kind: ApiServerKind,
    audited: Mutex<Vec<Audited>>,
    /// Lines of its log: handshakes that failed, connections that were cut.
    complaints: Mutex<Vec<String>>,
    requests: AtomicUsize,
}

impl Server for ApiServer {
    fn processes(&self) -> Vec<&Process> {
        Vec::new()
    }
}

impl Kind for ApiServerKind {
    type Server = ApiServer;

    const NAME: &'static str = "apiserver";

    fn start(self, rig: &Rig, _: &str) -> Result<ApiServer> {
        ApiServer::start(self, rig.pki())
    }
}

impl ApiServer {
    pub const TOKEN: &str = "rig-service-account-token";
    pub const ADMIN: &str = "rig-admin-token";
    pub const BLIND: &str = "rig-blind-token";
    pub const OUTCAST: &str = "rig-outcast-token";

    pub fn start(kind: ApiServerKind, pki: &Pki) -> Result<ApiServer> {
        let certificate = match kind {
            ApiServerKind::Shows(shown) => pki.shown(shown),
            _ => &pki.server,
        };
        let clients = signed_by(&pki.ca)?;
        let asking = Arc::new(Asks(Arc::clone(&clients)));
        let config = Arc::new(server_config_for(
            certificate,
            asking,
            rustls::DEFAULT_VERSIONS,
        )?);
        let shared = Arc::new(Shared {
            kind,
            audited: Mutex::default(),
            complaints: Mutex::default(),
            requests: AtomicUsize::new(0),
        });
        let seen = Arc::clone(&shared);
        let acceptor = Acceptor::start("API server", ANY, move |stream, _| {
            if let Err(error) = serve(stream, &config, &clients, &seen) {
                lock(&seen.complaints).push(error.to_string());
            }
        })?;
        Ok(ApiServer { acceptor, shared })
    }

    pub fn port(&self) -> u16 {
        self.acceptor.addr().port()
    }

    /// `https://localhost:PORT`
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.port())
    }

    /// A token as the API server itself issues them, good until then (seconds since 1970).
    pub fn jwt(expires: i64) -> String {
        let encode = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let head = encode(json!({"alg": "RS256", "kid": "rig"}));
        let claims = encode(json!({
            "aud": ["https://kubernetes.default.svc.cluster.local"],
            "exp": expires,
            "iss": "https://kubernetes.default.svc.cluster.local",
            "kubernetes.io": {"namespace": "monitoring", "serviceaccount": {"name": "conncheck"}},
            "sub": SERVICE_ACCOUNT,
        }));
        format!("{head}.{claims}.{SIGNATURE}")
    }

    /// A kubeconfig for this server, its authority as data, with this `user` (JSON is YAML).
    pub fn kubeconfig(&self, pki: &Pki, user: &Value) -> String {
        let cluster = json!({
            "server": self.url(), "certificate-authority-data": data(&pki.ca.cert_pem),
        });
        kubeconfig(&cluster, user)
    }

    /// What it was asked, in order.
    pub fn audited(&self) -> Vec<Audited> {
        lock(&self.shared.audited).clone()
    }

    /// What a real one would have written into its log.
    pub fn complaints(&self) -> Vec<String> {
        lock(&self.shared.complaints).clone()
    }

    pub fn accepted(&self) -> usize {
        self.acceptor.accepted()
    }

    /// Waits until nobody is connected. False if somebody stayed.
    #[must_use]
    pub fn everybody_left(&self, within: Duration) -> bool {
        self.acceptor.wait(within, |acceptor| acceptor.open() == 0)
    }
}

/// PEM as it stands in a kubeconfig's `…-data`.
pub fn data(pem: &str) -> String {
    BASE64_STANDARD.encode(pem)
}

/// A kubeconfig with one context, called `rig`.
pub fn kubeconfig(cluster: &Value, user: &Value) -> String {
    let document = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "preferences": {},
        "current-context": "rig",
        "clusters": [{"name": "rig", "cluster": cluster}],
        "contexts": [{"name": "rig", "context": {"cluster": "rig", "user": "rig", "namespace": "default"}}],
        "users": [{"name": "rig", "user": user}],
    });
    document.to_string()
}

/// Stands for a signature.
const SIGNATURE: &str = "cmlnLXNpZ25hdHVyZQ";
const SERVICE_ACCOUNT: &str = "system:serviceaccount:monitoring:conncheck";
const ANONYMOUS: &str = "system:anonymous";

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks for a certificate, and takes any or none: what it is worth is found out later, as
/// `kube-apiserver` does it.
#[derive(Debug)]
struct Asks(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Asks {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> std::result::Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Whether a certificate was shown, and a good one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ClientCertificate {
    Nothing,
    Bad,
    Good,
}

fn serve(
    stream: &mut TcpStream,
    config: &Arc<ServerConfig>,
    clients: &Arc<dyn ClientCertVerifier>,
    shared: &Shared,
) -> io::Result<()> {
    let mut first = [0];
    // What Go's server says to a request in plain text.
    if stream.peek(&mut first)? == 1 && first[0].is_ascii_uppercase() {
        let _ = read_request(stream);
        let head = "HTTP/1.0 400 Bad Request\r\n\r\n";
        let body = "Client sent an HTTP request to an HTTPS server.\n";
        return stream.write_all(format!("{head}{body}").as_bytes());
    }
    let mut tls = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
    while tls.is_handshaking() {
        let (read, written) = tls
            .complete_io(stream)
            .map_err(|error| io::Error::other(format!("http: TLS handshake error: {error}")))?;
        if (read, written) == (0, 0) {
            return Err(io::Error::other("http: TLS handshake error: EOF"));
        }
    }
    let shown = match tls.peer_certificates() {
        None | Some([]) => ClientCertificate::Nothing,
        Some([certificate, others @ ..]) => {
            match clients.verify_client_cert(certificate, others, UnixTime::now()) {
                Ok(_) => ClientCertificate::Good,
                Err(_) => ClientCertificate::Bad,
            }
        }
    };
    let mut tls = StreamOwned::new(tls, &mut *stream);
    while let Some(request) = read_request(&mut tls) {
        let answer = shared.answer(&request, shown);
        tls.write_all(&answer)?;
        tls.flush()?;
        if String::from_utf8_lossy(&answer).contains("Connection: close") {
            break;
        }
    }
    // `read_request` has met the end: in good order, or cut.
    let left = tls.conn.process_new_packets().map_err(io::Error::other)?;
    if !left.peer_has_closed() {
        return Err(io::Error::other("a connection was cut without a goodbye"));
    }
    tls.conn.send_close_notify();
    tls.flush()
}

impl Shared {
    fn answer(&self, request: &Request, shown: ClientCertificate) -> Vec<u8> {
        let asker = self.authenticate(request, shown);
        let (user, reply) = match &asker {
            Err(()) => (String::new(), status(401, "Unauthorized", "Unauthorized")),
            Ok(asker) => (asker.user.clone(), self.route(request, asker)),
        };
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        lock(&self.audited).push(Audited {
            user,
            groups: asker.map(|asker| asker.groups).unwrap_or_default(),
            method: request.method.clone(),
            path: request.target.clone(),
            status: reply.status,
            user_agent: request.header("user-agent").unwrap_or_default().into(),
        });
        let audit = format!("00000000-0000-4000-8000-{number:012}");
        let mut headers = vec![
            ("Audit-Id", audit.as_str()),
            ("Cache-Control", "no-cache, private"),
            ("Content-Type", reply.content_type),
            ("X-Content-Type-Options", "nosniff"),
        ];
        headers.extend(reply.retry_after.map(|seconds| ("Retry-After", seconds)));
        response(reply.status, &headers, &reply.body)
    }

    /// Who asks, or nobody who is let in.
    fn authenticate(
        &self,
        request: &Request,
        shown: ClientCertificate,
    ) -> std::result::Result<Asker, ()> {
        let behind = self.kind == ApiServerKind::Behind;
        let authorization = request.header("authorization").filter(|_| !behind);
        let user = match (shown, authorization.and_then(|value| value.split_once(' '))) {
            _ if behind => ANONYMOUS,
            (ClientCertificate::Good, _) => "probe",
            (_, Some(("Bearer", token))) => user_of(token).ok_or(())?,
            (ClientCertificate::Bad, _) => return Err(()),
            (_, Some(("Basic", login))) if self.kind == ApiServerKind::Old => {
                let right = BASE64_STANDARD.encode(format!("probe:{PASSWORD}"));
                if login == right {
                    "probe"
                } else {
                    return Err(());
                }
            }
            _ => ANONYMOUS,
        };
        if user == ANONYMOUS && self.kind == ApiServerKind::Closed {
            return Err(());
        }
        let impersonated = request.header("impersonate-user");
        let groups = request.headers.iter();
        let groups = groups.filter(|(name, _)| name.eq_ignore_ascii_case("impersonate-group"));
        Ok(Asker {
            user: impersonated.unwrap_or(user).to_owned(),
            groups: groups.map(|(_, group)| group.clone()).collect(),
            may_not_impersonate: match impersonated {
                Some(other) if user != "admin" => Some(format!(
                    "users \"{other}\" is forbidden: User \"{user}\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope"
                )),
                _ => None,
            },
        })
    }

    fn route(&self, request: &Request, asker: &Asker) -> Reply {
        use ApiServerKind as Kind;

        let user = asker.user.as_str();
        match self.kind {
            Kind::LoginPage => return LOGIN_PAGE,
            Kind::Busy => return BUSY,
            _ => {}
        }
        if let Some(message) = &asker.may_not_impersonate {
            return status(403, "Forbidden", message);
        }
        let path = request.target.split('?').next().unwrap_or_default();
        let is_old = self.kind == Kind::Old;
        match (request.method.as_str(), path) {
            ("GET", "/readyz" | "/livez") if is_old && user != "admin" => {
                forbidden_path(user, path)
            }
            ("GET", "/readyz" | "/livez") if is_old => NOT_FOUND,
            ("GET", "/readyz" | "/livez" | "/healthz") if user == "blind" => {
                forbidden_path(user, path)
            }
            ("GET", "/readyz") => self.readiness("readyz"),
            ("GET", "/livez") => text(200, "ok"),
            ("GET", "/healthz") => self.readiness("healthz"),
            ("GET", "/version") if user == "blind" => forbidden_path(user, path),
            ("GET", "/version") => self.version(),
            ("POST", path) => match path.strip_prefix("/apis/") {
                Some("authorization.k8s.io/v1/selfsubjectaccessreviews") => {
                    access_review(request, user)
                }
                Some(rest) if rest.ends_with("/selfsubjectreviews") => {
                    self.review(request, asker, rest)
                }
                _ => forbidden_path(user, path),
            },
            (_, path) => forbidden_path(user, path),
        }
    }

    fn readiness(&self, name: &str) -> Reply {
        let failing: &[&str] = match self.kind {
            ApiServerKind::NoEtcd => &["etcd", "etcd-readiness"],
            ApiServerKind::Starting => &[
                "poststarthook/rbac/bootstrap-roles",
                "poststarthook/scheduling/bootstrap-system-priority-classes",
            ],
            _ => return text(200, "ok"),
        };
        let mut list = String::new();
        for check in [
            "ping",
            "log",
            "etcd",
            "etcd-readiness",
            "informer-sync",
            "poststarthook/start-apiserver-admission-initializer",
            "poststarthook/rbac/bootstrap-roles",
            "poststarthook/scheduling/bootstrap-system-priority-classes",
            "shutdown",
        ] {
            list += &match failing.contains(&check) {
                true => format!("[-]{check} failed: reason withheld\n"),
                false => format!("[+]{check} ok\n"),
            };
        }
        text(500, &format!("{list}{name} check failed\n"))
    }

    fn version(&self) -> Reply {
        let (minor, version) = match self.kind {
            ApiServerKind::Old => ("15", "v1.15.12"),
            ApiServerKind::Beta => ("27", "v1.27.16"),
            _ => ("31", "v1.31.2"),
        };
        object(
            200,
            &json!({
                "major": "1", "minor": minor, "gitVersion": version,
                "gitCommit": "5864a4677267e6adeae276ad85882a8714d69d9d", "gitTreeState": "clean",
                "buildDate": "2024-10-22T20:28:14Z", "goVersion": "go1.22.8", "compiler": "gc",
                "platform": "linux/amd64",
            }),
        )
    }

    fn review(&self, request: &Request, asker: &Asker, rest: &str) -> Reply {
        let user = asker.user.as_str();
        // Every user has the right to ask, if the server knows the question.
        let knows = self.kind != ApiServerKind::Old;
        let may = match user {
            "admin" => true,
            ANONYMOUS | "outcast" => false,
            _ => knows,
        };
        if !may {
            return forbidden_resource(user, "selfsubjectreviews", "authentication.k8s.io");
        }
        let versions: &[&str] = match self.kind {
            ApiServerKind::Old => &[],
            ApiServerKind::Beta => &["v1beta1"],
            _ => &["v1"],
        };
        let version = rest
            .strip_prefix("authentication.k8s.io/")
            .and_then(|rest| rest.strip_suffix("/selfsubjectreviews"));
        let Some(version) = version.filter(|version| versions.contains(version)) else {
            return NOT_FOUND;
        };
        let api_version = format!("authentication.k8s.io/{version}");
        if let Err(reply) = asked_for(request, &api_version, "SelfSubjectReview") {
            return reply;
        }
        let mut groups = asker.groups.clone();
        groups.push("system:authenticated".into());
        object(
            201,
            &json!({
                "kind": "SelfSubjectReview", "apiVersion": api_version,
                "metadata": {"creationTimestamp": "2026-11-24T12:00:00Z"},
                "status": {"userInfo": {"username": user, "groups": groups}},
            }),
        )
    }
}

/// Who asks.
struct Asker {
    user: String,
    groups: Vec<String>,
    may_not_impersonate: Option<String>,
}

fn user_of(token: &str) -> Option<&'static str> {
    Some(match token {
        ApiServer::TOKEN => SERVICE_ACCOUNT,
        ApiServer::ADMIN => "admin",
        ApiServer::BLIND => "blind",
        ApiServer::OUTCAST => "outcast",
        jwt => {
            let mut parts = jwt.split('.');
            let (_, claims, signature) = (parts.next()?, parts.next()?, parts.next()?);
            let claims = BASE64_URL_SAFE_NO_PAD.decode(claims).ok()?;
            let claims: Value = serde_json::from_slice(&claims).ok()?;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
            let lives = claims["exp"].as_u64()? > now.as_secs();
            (signature == SIGNATURE && lives).then_some(SERVICE_ACCOUNT)?
        }
    })
}

struct Reply {
    status: u16,
    content_type: &'static str,
    retry_after: Option<&'static str>,
    body: std::borrow::Cow<'static, str>,
}

const TEXT: &str = "text/plain; charset=utf-8";

const NOT_FOUND: Reply = Reply {
    status: 404,
    content_type: TEXT,
    retry_after: None,
    body: std::borrow::Cow::Borrowed("404 page not found\n"),
};

const BUSY: Reply = Reply {
    status: 429,
    content_type: TEXT,
    retry_after: Some("1"),
    body: std::borrow::Cow::Borrowed("Too many requests, please try again later.\n"),
};

const LOGIN_PAGE: Reply = Reply {
    status: 200,
    content_type: "text/html; charset=utf-8",
    retry_after: None,
    body: std::borrow::Cow::Borrowed("<!DOCTYPE html><title>Sign in</title><form></form>\n"),
};

fn text(status: u16, body: &str) -> Reply {
    Reply {
        status,
        content_type: TEXT,
        retry_after: None,
        body: body.to_owned().into(),
    }
}

fn object(status: u16, value: &Value) -> Reply {
    Reply {
        status,
        content_type: "application/json",
        retry_after: None,
        body: format!("{value}\n").into(),
    }
}

fn status(code: u16, reason: &str, message: &str) -> Reply {
    object(
        code,
        &json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason, "code": code,
        }),
    )
}

fn forbidden_path(user: &str, path: &str) -> Reply {
    let message = format!("forbidden: User \"{user}\" cannot get path \"{path}\"");
    status(403, "Forbidden", &message)
}

fn forbidden_resource(user: &str, resource: &str, group: &str) -> Reply {
    let message = format!(
        "{resource}.{group} is forbidden: User \"{user}\" cannot create resource \"{resource}\" in API group \"{group}\" at the cluster scope"
    );
    status(403, "Forbidden", &message)
}

/// A body that is not the object that belongs there is refused, as by the real one.
fn asked_for(
    request: &Request,
    api_version: &str,
    kind: &str,
) -> std::result::Result<Value, Reply> {
    if request.header("content-type") != Some("application/json") {
        let message = "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf";
        return Err(status(415, "UnsupportedMediaType", message));
    }
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    match body["apiVersion"] == api_version && body["kind"] == kind {
        true => Ok(body),
        false => Err(status(
            400,
            "BadRequest",
            "the object provided is unrecognized",
        )),
    }
}

fn access_review(request: &Request, user: &str) -> Reply {
    if matches!(user, ANONYMOUS | "outcast") {
        return forbidden_resource(user, "selfsubjectaccessreviews", "authorization.k8s.io");
    }
    match asked_for(
        request,
        "authorization.k8s.io/v1",
        "SelfSubjectAccessReview",
    ) {
        Err(reply) => reply,
        Ok(mut review) => {
            review["metadata"] = json!({"creationTimestamp": null});
            review["status"] = json!({"allowed": user != "blind"});
            object(201, &review)
        }
    }
}
