//! TLS: built once per target, the peer's chain recorded before it is judged.
//!
//! The only file that names rustls.
//!
//! rustls asks its verifier for a yes or no and then forgets the certificates of a handshake that
//! failed. So every attempt gets a verifier of its own, which first writes down what the peer sent
//! and then judges it: an expired certificate still shows when it expired.

use std::fmt::Write as _;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex};
use std::task::{Context, Poll, ready};

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use conncheck_config::Secret;
use jiff::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;
use x509_parser::oid_registry::{self, Oid};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use x509_parser::signature_algorithm::SignatureAlgorithm;

pub(crate) use rustls::Error as RustlsError;

use crate::attempt::Stream;
use crate::cause::Cause;
use crate::outcome::{Phase, Reason, TlsFacts};

/// How much of the peer's certificate must be right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// The chain leads to a trusted authority and the certificate is for the right name.
    #[default]
    Full,
    /// The chain leads to a trusted authority; the name may be any (libpq's `verify-ca`).
    CaOnly,
    /// Anything goes: encrypted, and nothing known about who answers.
    Nothing,
}

/// The oldest or newest protocol version that may be spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// TLS 1.2.
    V1_2,
    /// TLS 1.3.
    V1_3,
}

/// What a target's TLS is built from.
#[derive(Clone, Debug, Default)]
pub struct TlsOptions {
    /// The authorities to trust, as PEM. They replace the system's.
    pub ca_cert: Option<Secret>,
    /// Our own certificate and what leads from it to its authority, as PEM.
    pub client_cert: Option<Secret>,
    /// The private key of `client_cert`, as PEM.
    pub client_key: Option<Secret>,
    /// How much must be right.
    pub verify: Verify,
    /// The name that the certificate must be for, and that is asked for (SNI), in place of the host.
    pub server_name: Option<String>,
    /// Whether to tell the server which name is wanted.
    pub without_sni: bool,
    /// Protocols to offer by ALPN, best first.
    pub alpn: Vec<Vec<u8>>,
    /// The oldest version to speak.
    pub min_version: Option<Version>,
    /// The newest version to speak.
    pub max_version: Option<Version>,
}

impl TlsOptions {
    /// What of it holds for other peers than the one that it is about.
    pub(crate) fn elsewhere(&self) -> Self {
        Self {
            client_cert: None,
            client_key: None,
            server_name: None,
            ..self.clone()
        }
    }
}

/// Which part of [`TlsOptions`] is wrong, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsMistake {
    /// The part.
    pub part: TlsPart,
    /// What is wrong with it.
    pub message: String,
    /// The way out.
    pub hint: Option<String>,
}

/// A part of [`TlsOptions`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsPart {
    /// `ca_cert`
    CaCert,
    /// `client_cert`
    ClientCert,
    /// `client_key`
    ClientKey,
    /// `server_name`
    ServerName,
    /// Nothing that the owner wrote.
    System,
}

/// A target's TLS, built once and used by every attempt.
#[derive(Clone)]
pub struct Tls {
    config: ClientConfig,
    judge: Arc<Judge>,
    server_name: Option<ServerName<'static>>,
    client_key: Option<Arc<CertifiedKey>>,
    client_expiry: Option<Timestamp>,
}

/// What a finished handshake agreed on.
#[derive(Debug)]
pub struct Handshake {
    /// The protocol that ALPN chose.
    pub alpn: Option<Vec<u8>>,
    /// The peer's own certificate, DER.
    pub peer_certificate: Option<Vec<u8>>,
}

impl Handshake {
    /// The channel binding `tls-server-end-point` (RFC 5929): a hash of the peer's certificate, by
    /// the hash that it was signed with, or SHA-256 where that is weaker. There is none for a
    /// signature without a separate hash (Ed25519).
    pub fn server_end_point(&self) -> Option<Vec<u8>> {
        let der = self.peer_certificate.as_ref()?;
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let signed_with = &certificate.signature_algorithm;
        let params = match SignatureAlgorithm::try_from(signed_with) {
            Ok(SignatureAlgorithm::RSASSA_PSS(params)) => Some(params),
            _ => None,
        };
        let algorithm = match &params {
            Some(params) => params.hash_algorithm_oid(),
            None => &signed_with.algorithm,
        };
        let hash = END_POINT_HASHES
            .iter()
            .find(|(oids, _)| oids.contains(algorithm))
            .map(|(_, hash)| *hash)?;
        Some(digest::digest(hash, der).as_ref().to_vec())
    }
}

/// The hash for each signature algorithm, and for each hash that RSA-PSS names.
static END_POINT_HASHES: &[(&[Oid<'static>], &digest::Algorithm)] = &[
    (
        &[
            oid_registry::OID_PKCS1_MD5WITHRSAENC,
            oid_registry::OID_PKCS1_SHA1WITHRSA,
            oid_registry::OID_SHA1_WITH_RSA,
            oid_registry::OID_HASH_SHA1,
            oid_registry::OID_PKCS1_SHA256WITHRSA,
            oid_registry::OID_SIG_ECDSA_WITH_SHA256,
            oid_registry::OID_NIST_HASH_SHA256,
        ],
        &digest::SHA256,
    ),
    (
        &[
            oid_registry::OID_PKCS1_SHA384WITHRSA,
            oid_registry::OID_SIG_ECDSA_WITH_SHA384,
            oid_registry::OID_NIST_HASH_SHA384,
        ],
        &digest::SHA384,
    ),
    (
        &[
            oid_registry::OID_PKCS1_SHA512WITHRSA,
            oid_registry::OID_SIG_ECDSA_WITH_SHA512,
            oid_registry::OID_NIST_HASH_SHA512,
        ],
        &digest::SHA512,
    ),
];

/// What a handshake left behind, whether or not it succeeded.
pub(crate) struct Seen {
    pub(crate) facts: TlsFacts,
    pub(crate) asked_for_client_certificate: bool,
}

/// Makes aws-lc-rs the provider of the whole process. First thing in `main`; a second call does
/// nothing.
pub fn install_crypto_provider() {
    // It fails only where a provider is installed already.
    let _ = default_provider().install_default();
}

/// Comes back when there are random numbers, and must before the first attempt. The first one of a
/// process takes 40 ms of gathering entropy, on the thread that wants it, and in an attempt that would
/// be measured as the peer's time, of every target that waits meanwhile.
pub fn gather_entropy() {
    let _ = PROVIDER.secure_random.fill(&mut [0; 32]);
}

/// Reads the authorities that this machine trusts, so that who needs them does not. Blocks.
pub fn read_system_roots() {
    LazyLock::force(&SYSTEM_ROOTS);
}

/// The authorities that this machine trusts. Read once: building the store for each attempt costs
/// 1.8 ms.
static SYSTEM_ROOTS: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    Arc::new(roots)
});

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(default_provider()));

impl Tls {
    /// Builds the configuration that every attempt uses.
    pub fn new(options: &TlsOptions) -> Result<Self, TlsMistake> {
        let wrong = |part, message: String| TlsMistake {
            part,
            message,
            hint: None,
        };
        let roots = match &options.ca_cert {
            Some(pem) => Arc::new(roots_of(pem)?),
            None => Arc::clone(&SYSTEM_ROOTS),
        };
        let judge = Arc::new(Judge {
            roots,
            roots_are_given: options.ca_cert.is_some(),
            verify: options.verify,
            algorithms: PROVIDER.signature_verification_algorithms,
        });
        if options.client_cert.as_ref().is_some_and(is_pkcs12) {
            return Err(TlsMistake {
                part: TlsPart::ClientCert,
                message: "it is PKCS#12 (`.pfx`, `.p12`), and PEM text is wanted".to_owned(),
                hint: Some("`openssl pkcs12 -in FILE.pfx -nodes -out FILE.pem` turns it into certificate and key in one PEM text".into()),
            });
        }
        let client_key = match (&options.client_cert, &options.client_key) {
            (Some(cert), Some(key)) => Some(Arc::new(client_key_of(cert, key)?)),
            (None, None) => None,
            (Some(cert), None) if has_key(cert) => Some(Arc::new(client_key_of(cert, cert)?)),
            (Some(_), None) => {
                return Err(TlsMistake {
                    part: TlsPart::ClientCert,
                    message: "a client certificate without its key".to_owned(),
                    hint: Some("give the private key as `clientKey`".into()),
                });
            }
            (None, Some(_)) => {
                return Err(TlsMistake {
                    part: TlsPart::ClientKey,
                    message: "a client key without its certificate".to_owned(),
                    hint: Some("give the certificate as `clientCert`".into()),
                });
            }
        };
        let server_name = options
            .server_name
            .as_ref()
            .map(|name| {
                ServerName::try_from(name.clone()).map_err(|_| {
                    wrong(
                        TlsPart::ServerName,
                        "the server name is neither a host name nor an IP address".to_owned(),
                    )
                })
            })
            .transpose()?;
        let versions: Vec<&'static SupportedProtocolVersion> = [
            (Version::V1_3, &rustls::version::TLS13),
            (Version::V1_2, &rustls::version::TLS12),
        ]
        .into_iter()
        .filter(|(version, _)| {
            options.min_version.is_none_or(|min| *version >= min)
                && options.max_version.is_none_or(|max| *version <= max)
        })
        .map(|(_, version)| version)
        .collect();
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&PROVIDER))
            .with_protocol_versions(&versions)
            .map_err(|error| wrong(TlsPart::System, format!("TLS cannot be set up: {error}")))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Recorder::new(&judge)))
            .with_no_client_auth();
        // A resumed session shows no certificate, and an attempt is to measure a whole handshake.
        config.resumption = Resumption::disabled();
        config.alpn_protocols.clone_from(&options.alpn);
        config.enable_sni = !options.without_sni;
        let client_expiry = client_key
            .as_ref()
            .and_then(|key| earliest_expiry(key.cert.first().into_iter()));
        Ok(Self {
            config,
            judge,
            server_name,
            client_key,
            client_expiry,
        })
    }

    /// When our own certificate ends, if we have one.
    pub fn client_certificate_expiry(&self) -> Option<Timestamp> {
        self.client_expiry
    }

    /// Our own certificate and those that lead from it to its authority, DER.
    pub(crate) fn client_certificates(&self) -> impl Iterator<Item = &[u8]> {
        let chain = self.client_key.iter().flat_map(|key| &key.cert);
        chain.map(|certificate| &**certificate)
    }

    /// Whether the key of our own certificate signs as `PS256`: whether it is an RSA key.
    pub(crate) fn signs_ps256(&self) -> bool {
        self.ps256().is_some()
    }

    /// Signs by the key of our own certificate as `PS256` (RSASSA-PSS with SHA-256, RFC 7518). Nothing
    /// if that is no RSA key.
    pub(crate) fn sign_ps256(&self, message: &[u8]) -> Option<Vec<u8>> {
        self.ps256()?.sign(message).ok()
    }

    fn ps256(&self) -> Option<Box<dyn rustls::sign::Signer>> {
        let key = &self.client_key.as_ref()?.key;
        key.choose_scheme(&[SignatureScheme::RSA_PSS_SHA256])
    }

    /// Whether we have a certificate of our own to show.
    pub fn has_client_certificate(&self) -> bool {
        self.client_key.is_some()
    }

    /// Shakes hands over `stream` with the server called `host`.
    pub(crate) async fn connect(
        &self,
        stream: Stream,
        host: &str,
        seen: &Mutex<Option<Seen>>,
    ) -> Result<(Stream, Handshake), Cause> {
        let server_name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned()).map_err(|_| {
                Cause::new(
                    Reason::TlsOther,
                    format!("no certificate can be for `{host}`: it is not a host name"),
                )
                .hint("name the server with `properties.serverName`")
            })?,
        };
        let recorder = Arc::new(Recorder::new(&self.judge));
        let client_auth = Arc::new(ClientAuth {
            key: self.client_key.clone(),
            asked: Mutex::new(false),
        });
        let mut config = self.config.clone();
        config
            .dangerous()
            .set_certificate_verifier(Arc::clone(&recorder) as Arc<dyn ServerCertVerifier>);
        config.client_auth_cert_resolver = Arc::clone(&client_auth) as Arc<dyn ResolvesClientCert>;

        // Filled in also when this future is dropped by the deadline.
        let note = Note {
            recorder: &recorder,
            client_auth: &client_auth,
            seen,
            version: None,
        };
        let res = TlsConnector::from(Arc::new(config))
            .connect(server_name, stream)
            .await;
        match res {
            Ok(tls) => {
                let (_, session) = tls.get_ref();
                let mut note = note;
                note.version = session.protocol_version().and_then(version_name);
                let handshake = Handshake {
                    alpn: session.alpn_protocol().map(<[u8]>::to_vec),
                    peer_certificate: session
                        .peer_certificates()
                        .and_then(|chain| chain.first())
                        .map(|certificate| certificate.to_vec()),
                };
                drop(note);
                Ok((Stream::new(AlertFirst(tls)), handshake))
            }
            Err(error) => {
                drop(note);
                Err(recorder
                    .take_fault()
                    .unwrap_or_else(|| handshake_cause(error)))
            }
        }
    }
}

/// Writes down what was seen of a handshake when it ends, however it ends.
struct Note<'a> {
    recorder: &'a Recorder,
    client_auth: &'a ClientAuth,
    seen: &'a Mutex<Option<Seen>>,
    version: Option<String>,
}

impl Drop for Note<'_> {
    fn drop(&mut self) {
        let facts = self.recorder.facts();
        if facts.is_none() && self.version.is_none() {
            return;
        }
        let mut facts = facts.unwrap_or_default();
        facts.version = self.version.take();
        let seen = Seen {
            facts,
            asked_for_client_certificate: self.client_auth.was_asked(),
        };
        if let Ok(mut slot) = self.seen.lock() {
            *slot = Some(seen);
        }
    }
}

fn version_name(version: rustls::ProtocolVersion) -> Option<String> {
    match version {
        rustls::ProtocolVersion::TLSv1_2 => Some("TLSv1.2".to_owned()),
        rustls::ProtocolVersion::TLSv1_3 => Some("TLSv1.3".to_owned()),
        _ => None,
    }
}

fn handshake_cause(error: io::Error) -> Cause {
    let cause = Cause::from(error);
    match cause.reason {
        Reason::ConnectReset => Cause {
            message: "the peer hung up during the TLS handshake".to_owned(),
            hint: Some("does it speak TLS on that port?".into()),
            ..cause
        },
        _ => cause,
    }
}

/// What a TLS error means that is not a judgement on the peer's chain.
pub(crate) fn cause_of(error: &RustlsError) -> Cause {
    match error {
        RustlsError::InvalidCertificate(_) => Cause::new(
            Reason::TlsOther,
            format!("the certificate is not good: {error}"),
        ),
        RustlsError::AlertReceived(alert) => alert_cause(*alert),
        RustlsError::InvalidMessage(_) => Cause::protocol("the peer does not speak TLS there")
            .hint(
                "is it a plain-text port? then use the plain scheme, or the port that speaks TLS",
            ),
        RustlsError::PeerIncompatible(detail) => Cause::new(
            Reason::TlsOther,
            format!("the peer and we have no TLS version or cipher in common: {detail:?}"),
        )
        .hint("conncheck speaks TLS 1.2 and 1.3 with current ciphers only"),
        RustlsError::NoApplicationProtocol => Cause::new(
            Reason::TlsOther,
            "the peer speaks none of the application protocols that were offered",
        ),
        error => Cause::new(Reason::TlsOther, format!("TLS failed: {error}")),
    }
    .phase(Phase::Tls)
}

fn alert_cause(alert: rustls::AlertDescription) -> Cause {
    use rustls::AlertDescription as Alert;
    let name = snake_case(&format!("{alert:?}"));
    let cause = |message: &str| Cause::new(Reason::TlsOther, message).code(name.clone());
    match alert {
        Alert::CertificateRequired => {
            cause("the peer wants a client certificate").hint("set `clientCert` and `clientKey`")
        }
        Alert::UnknownCA => cause("the peer does not trust our client certificate")
            .hint("is `clientCert` issued by the authority that the server knows?"),
        Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::AccessDenied => cause(&format!(
            "the peer refused our client certificate ({})",
            name.replace('_', " ")
        ))
        .hint("is `clientCert` given, still valid, and for this server?"),
        Alert::HandshakeFailure => cause("the peer broke off the TLS handshake").hint(
            "no cipher in common, or it wants a client certificate (`clientCert`, `clientKey`)",
        ),
        Alert::ProtocolVersion => cause("the peer speaks no TLS version that we speak")
            .hint("conncheck speaks TLS 1.2 and 1.3 only"),
        Alert::UnrecognisedName => {
            cause("the peer does not know the server name that was asked for")
                .hint("`properties.serverName` sets another")
        }
        _ => cause(&format!("the peer sent the TLS alert `{name}`")),
    }
}

fn snake_case(camel: &str) -> String {
    let mut res = String::new();
    let mut after_lower = false;
    for c in camel.chars() {
        if c.is_ascii_uppercase() && after_lower {
            res.push('_');
        }
        after_lower = c.is_ascii_lowercase() || c.is_ascii_digit();
        res.push(c.to_ascii_lowercase());
    }
    res
}

/// Decides about a chain.
#[derive(Debug)]
struct Judge {
    roots: Arc<RootCertStore>,
    roots_are_given: bool,
    verify: Verify,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Judge {
    fn judge(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), RustlsError> {
        if self.verify == Verify::Nothing {
            return Ok(());
        }
        let parsed = ParsedCertificate::try_from(end_entity)?;
        match rustls::client::verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        ) {
            Err(error) if self.is_pinned(end_entity) => within_validity(end_entity, now, error)?,
            res => res?,
        }
        match self.verify {
            Verify::Full => rustls::client::verify_server_name(&parsed, server_name),
            _ => Ok(()),
        }
    }

    /// Whether the peer's own certificate is itself one of the authorities given: a self-signed
    /// server certificate used as its own `caCert`, as OpenSSL and so most clients accept it.
    fn is_pinned(&self, end_entity: &CertificateDer<'_>) -> bool {
        if !self.roots_are_given {
            return false;
        }
        let Ok((_, certificate)) = X509Certificate::from_der(end_entity) else {
            return false;
        };
        let subject = contents(certificate.subject().as_raw());
        let key = contents(certificate.public_key().raw);
        self.roots.roots.iter().any(|root| {
            root.subject.as_ref() == subject && root.subject_public_key_info.as_ref() == key
        })
    }
}

/// What stands inside a DER sequence: trust anchors are kept without the outer header.
fn contents(der: &[u8]) -> &[u8] {
    match der {
        [_, length, rest @ ..] if *length < 0x80 => rest,
        [_, length, rest @ ..] => rest.get(usize::from(length & 0x7f)..).unwrap_or_default(),
        _ => &[],
    }
}

fn within_validity(
    certificate: &CertificateDer<'_>,
    now: UnixTime,
    error: RustlsError,
) -> Result<(), RustlsError> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return Err(error);
    };
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now > parsed.validity().not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    if now < parsed.validity().not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    Ok(())
}

/// Writes down the chain, then asks the judge.
#[derive(Debug)]
struct Recorder {
    judge: Arc<Judge>,
    noted: Mutex<(Option<TlsFacts>, Option<Cause>)>,
}

impl Recorder {
    fn new(judge: &Arc<Judge>) -> Self {
        Self {
            judge: Arc::clone(judge),
            noted: Mutex::default(),
        }
    }

    fn facts(&self) -> Option<TlsFacts> {
        self.noted.lock().ok()?.0.clone()
    }

    fn take_fault(&self) -> Option<Cause> {
        self.noted.lock().ok()?.1.take()
    }
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, RustlsError> {
        let verdict = self
            .judge
            .judge(end_entity, intermediates, server_name, now);
        let mut facts = facts_of(end_entity, intermediates);
        facts.verified = verdict.is_ok() && self.judge.verify == Verify::Full;
        let fault = verdict.as_ref().err().map(|error| {
            let system_trusts_nobody = !self.judge.roots_are_given && self.judge.roots.is_empty();
            fault_of(error, end_entity, server_name, system_trusts_nobody)
        });
        if let Ok(mut noted) = self.noted.lock() {
            *noted = (Some(facts), fault);
        }
        verdict.map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        // rustls' own check refuses to read an X.509 v1 certificate, which is what one who verifies
        // nothing may well meet.
        if self.judge.verify == Verify::Nothing {
            return Ok(HandshakeSignatureValid::assertion());
        }
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.judge.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        if self.judge.verify == Verify::Nothing {
            return Ok(HandshakeSignatureValid::assertion());
        }
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.judge.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judge.algorithms.supported_schemes()
    }
}

/// Shows our certificate, and remembers whether it was asked for.
#[derive(Debug)]
struct ClientAuth {
    key: Option<Arc<CertifiedKey>>,
    asked: Mutex<bool>,
}

impl ClientAuth {
    fn was_asked(&self) -> bool {
        self.asked.lock().is_ok_and(|asked| *asked)
    }
}

impl ResolvesClientCert for ClientAuth {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        if let Ok(mut asked) = self.asked.lock() {
            *asked = true;
        }
        self.key.clone()
    }

    fn has_certs(&self) -> bool {
        // rustls answers a request with an empty list all by itself when this is false, and then we
        // would not learn that there was one.
        true
    }
}

fn facts_of(end_entity: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> TlsFacts {
    let parsed = X509Certificate::from_der(end_entity).ok();
    TlsFacts {
        version: None,
        verified: false,
        earliest_expiry: earliest_expiry(std::iter::once(end_entity).chain(intermediates)),
        subject: parsed.as_ref().map(|(_, cert)| cert.subject().to_string()),
        issuer: parsed.as_ref().map(|(_, cert)| cert.issuer().to_string()),
    }
}

fn earliest_expiry<'a>(chain: impl Iterator<Item = &'a CertificateDer<'a>>) -> Option<Timestamp> {
    chain
        .filter_map(|der| X509Certificate::from_der(der).ok())
        .filter_map(|(_, cert)| Timestamp::from_second(cert.validity().not_after.timestamp()).ok())
        .min()
}

/// Which fault of the chain it is, in words that name the certificate.
fn fault_of(
    error: &RustlsError,
    end_entity: &CertificateDer<'_>,
    server_name: &ServerName<'_>,
    system_trusts_nobody: bool,
) -> Cause {
    let parsed = X509Certificate::from_der(end_entity)
        .ok()
        .map(|(_, cert)| cert);
    let time = |pick: fn(&X509Certificate<'_>) -> i64| {
        parsed
            .as_ref()
            .and_then(|cert| Timestamp::from_second(pick(cert)).ok())
            .map_or_else(|| "an unknown time".to_owned(), |time| time.to_string())
    };
    let issuer = parsed
        .as_ref()
        .map_or_else(String::new, |cert| cert.issuer().to_string());
    let is_self_signed = parsed
        .as_ref()
        .is_some_and(|cert| cert.issuer().as_raw() == cert.subject().as_raw());
    let RustlsError::InvalidCertificate(fault) = error else {
        return cause_of(error);
    };
    match fault {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            let not_after = time(|cert| cert.validity().not_after.timestamp());
            Cause::new(
                Reason::TlsExpired,
                format!("a certificate of the peer has expired (its own ended {not_after})"),
            )
            .hint("renew it on the server; if it was renewed, the server has not loaded it")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            let not_before = time(|cert| cert.validity().not_before.timestamp());
            Cause::new(
                Reason::TlsNotYetValid,
                format!("the certificate is not valid before {not_before}"),
            )
            .hint("is the clock of this machine right?")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            let names = parsed.as_ref().map(names_of).unwrap_or_default();
            let names = match names.is_empty() {
                true => "no name at all".to_owned(),
                false => names,
            };
            Cause::new(
                Reason::TlsNameMismatch,
                format!(
                    "the certificate is for {names}, not for `{}`",
                    server_name.to_str()
                ),
            )
            .hint("use a name that it is for, or set `properties.serverName`")
        }
        CertificateError::UnknownIssuer if system_trusts_nobody => Cause::new(
            Reason::TlsUnknownCa,
            "this machine trusts no certificate authority at all",
        )
        .hint("install `ca-certificates`, or give the authority as `caCert`"),
        CertificateError::UnknownIssuer if is_self_signed => Cause::new(
            Reason::TlsUnknownCa,
            "the certificate is self-signed and not trusted",
        )
        .hint("give it as `caCert` if it is the right one"),
        CertificateError::UnknownIssuer => Cause::new(
            Reason::TlsUnknownCa,
            format!("the certificate leads to no trusted authority (issued by `{issuer}`)"),
        )
        .hint(
            "give the authority as `caCert`, or let the server send its intermediate certificates",
        ),
        // The second: the authority of that name has a key of another type.
        CertificateError::BadSignature
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => Cause::new(
            Reason::TlsUnknownCa,
            format!("the certificate was not signed by the `{issuer}` that is trusted"),
        )
        .hint("another authority of the same name signed it: is `caCert` an old one?"),
        // A self-signed certificate that is marked as an authority is refused as such.
        CertificateError::Other(_) if is_self_signed => Cause::new(
            Reason::TlsUnknownCa,
            "the certificate is self-signed and not trusted",
        )
        .hint("give it as `caCert` if it is the right one"),
        _ => Cause::new(
            Reason::TlsOther,
            format!("the certificate is not good: {error}"),
        ),
    }
    .phase(Phase::Tls)
}

/// The names that a certificate is for, at most five of them.
fn names_of(certificate: &X509Certificate<'_>) -> String {
    const SHOWN: usize = 5;
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return String::new();
    };
    let names: Vec<String> = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(format!("`{name}`")),
            GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
                Ok(v4) => Some(format!("`{}`", std::net::Ipv4Addr::from(v4))),
                Err(_) => <[u8; 16]>::try_from(*bytes)
                    .ok()
                    .map(|v6| format!("`{}`", std::net::Ipv6Addr::from(v6))),
            },
            _ => None,
        })
        .collect();
    let mut res = names
        .iter()
        .take(SHOWN)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > SHOWN {
        let _ = write!(res, " and {} more", names.len() - SHOWN);
    }
    res
}

fn roots_of(pem: &Secret) -> Result<RootCertStore, TlsMistake> {
    let wrong = |message: String| TlsMistake {
        part: TlsPart::CaCert,
        message,
        hint: Some("it must be PEM text: `-----BEGIN CERTIFICATE-----` …".into()),
    };
    let certificates = certificates_of(pem).map_err(&wrong)?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots
            .add(certificate)
            .map_err(|_| wrong("a certificate in it cannot be read".to_owned()))?;
    }
    Ok(roots)
}

fn certificates_of(pem: &Secret) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_slice_iter(pem.expose().as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| "it is not PEM".to_owned())?;
    match certificates.is_empty() {
        true => Err("there is no certificate in it".to_owned()),
        false => Ok(certificates),
    }
}

/// Whether it is a PKCS#12 file in base64: a sequence of two-byte length, whose first item is version 3.
fn is_pkcs12(text: &Secret) -> bool {
    let is_base64 = |c: &char| !c.is_whitespace();
    let start: String = text.expose().chars().filter(is_base64).take(12).collect();
    let start = BASE64_STANDARD.decode(start).unwrap_or_default();
    start.starts_with(&[0x30, 0x82]) && start.get(4..7) == Some(&[0x02, 0x01, 0x03])
}

/// Whether a PEM text holds a private key beside its certificates.
fn has_key(pem: &Secret) -> bool {
    PrivateKeyDer::from_pem_slice(pem.expose().as_bytes()).is_ok()
}

/// The first private key in a PEM text, in DER: `PKCS#8`, or what is of its algorithm alone.
pub(crate) fn private_key_der(pem: &Secret) -> Option<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(pem.expose().as_bytes()).ok()
}

fn client_key_of(cert: &Secret, key: &Secret) -> Result<CertifiedKey, TlsMistake> {
    let wrong = |part, message: &str, hint: &str| TlsMistake {
        part,
        message: message.to_owned(),
        hint: Some(hint.to_owned()),
    };
    let chain = certificates_of(cert).map_err(|message| {
        wrong(
            TlsPart::ClientCert,
            &message,
            "it must be PEM text: `-----BEGIN CERTIFICATE-----` …",
        )
    })?;
    if key.expose().contains("ENCRYPTED") {
        return Err(wrong(
            TlsPart::ClientKey,
            "the key is encrypted",
            "decrypt it, for instance with `openssl pkey`, and keep it in a secret",
        ));
    }
    let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes()).map_err(|_| {
        wrong(
            TlsPart::ClientKey,
            "there is no private key in it",
            "it must be PEM text: `-----BEGIN PRIVATE KEY-----` …",
        )
    })?;
    let res = CertifiedKey::from_der(chain, key, &PROVIDER).map_err(|error| match error {
        RustlsError::InconsistentKeys(_) => wrong(
            TlsPart::ClientKey,
            "the key does not belong to the client certificate",
            "give the key that the certificate was made for",
        ),
        _ => wrong(
            TlsPart::ClientKey,
            "the key cannot be used",
            "RSA, ECDSA (P-256, P-384, P-521) and Ed25519 keys can",
        ),
    })?;
    Ok(res)
}

/// A TLS stream that tells of an alert even when writing fails first.
///
/// With TLS 1.3 a server refuses a client certificate after the handshake is over for the client:
/// it sends an alert and closes. The client's next write then fails with a broken pipe, though the
/// alert that says why is waiting to be read.
struct AlertFirst<S>(tokio_rustls::client::TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> AlertFirst<S> {
    fn reason_of(&mut self, cx: &mut Context<'_>, error: io::Error) -> io::Error {
        if !matches!(
            error.kind(),
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
        ) {
            return error;
        }
        let mut scratch = [0; 64];
        match Pin::new(&mut self.0).poll_read(cx, &mut ReadBuf::new(&mut scratch)) {
            Poll::Ready(Err(alert)) => alert,
            _ => error,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for AlertFirst<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for AlertFirst<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let res = ready!(Pin::new(&mut self.0).poll_write(cx, buf));
        Poll::Ready(res.map_err(|error| self.reason_of(cx, error)))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let res = ready!(Pin::new(&mut self.0).poll_flush(cx));
        Poll::Ready(res.map_err(|error| self.reason_of(cx, error)))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::testing::{Authority, Leaf};

    /// The years in which a certificate is valid.
    const NOW: (i32, i32) = (2020, 2040);

    fn self_signed(is_ca: IsCa) -> Leaf {
        let mut params = CertificateParams::new(vec!["db.test".to_owned()]).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, "db.test");
        params.is_ca = is_ca;
        let key = KeyPair::generate().unwrap();
        Leaf {
            cert: params.self_signed(&key).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    fn trusting(pem: &str) -> TlsOptions {
        TlsOptions {
            ca_cert: Some(Secret::new(pem)),
            ..TlsOptions::default()
        }
    }

    /// Shakes hands with a server that shows `leaf`, exchanges a byte, and says what was seen.
    async fn shake(
        leaf: &Leaf,
        clients: Option<&Authority>,
        options: &TlsOptions,
    ) -> (Result<(), Cause>, TlsFacts) {
        let config = Authority::server(leaf, clients, &[]);
        let (ours, theirs) = duplex(64 * 1024);
        tokio::spawn(async move {
            let mut stream = TlsAcceptor::from(Arc::new(config)).accept(theirs).await?;
            stream.write_all(b"x").await
        });
        let seen = Mutex::new(None);
        let tls = Tls::new(options).unwrap();
        let res = async {
            let (mut stream, _) = tls.connect(Stream::new(ours), "db.test", &seen).await?;
            stream.read_u8().await?;
            Ok(())
        }
        .await;
        let facts = seen.into_inner().unwrap().map(|seen| seen.facts);
        (res, facts.unwrap_or_default())
    }

    /// A server whose certificate is not good enough: why, and whether its chain was recorded.
    async fn refused(leaf: &Leaf, options: &TlsOptions) -> Cause {
        let (res, facts) = shake(leaf, None, options).await;
        assert!(!facts.verified);
        assert!(
            facts.earliest_expiry.is_some(),
            "recorded before it is judged"
        );
        assert!(facts.subject.is_some());
        let cause = res.unwrap_err();
        assert_eq!(cause.phase, Some(Phase::Tls));
        cause
    }

    #[tokio::test]
    async fn a_good_certificate_is_verified_and_recorded() {
        let ca = Authority::new("ca");
        let (res, facts) = shake(&ca.leaf_of_years("db.test", NOW), None, &trusting(&ca.pem)).await;
        res.unwrap();
        assert!(facts.verified);
        assert_eq!(facts.version.as_deref(), Some("TLSv1.3"));
        assert_eq!(
            facts.earliest_expiry,
            Some("2040-01-01T00:00:00Z".parse().unwrap())
        );
        assert_eq!(facts.subject.as_deref(), Some("CN=db.test"));
        assert_eq!(facts.issuer.as_deref(), Some("CN=ca"));
    }

    #[tokio::test]
    async fn each_fault_of_a_certificate_has_its_reason() {
        let ca = Authority::new("ca");
        let trust = trusting(&ca.pem);
        for (leaf, reason, message) in [
            (
                ca.leaf_of_years("db.test", (2020, 2021)),
                Reason::TlsExpired,
                "a certificate of the peer has expired (its own ended 2021-01-01T00:00:00Z)",
            ),
            (
                ca.leaf_of_years("db.test", (2039, 2040)),
                Reason::TlsNotYetValid,
                "the certificate is not valid before 2039-01-01T00:00:00Z",
            ),
            (
                ca.leaf_of_years("elsewhere.test", NOW),
                Reason::TlsNameMismatch,
                "the certificate is for `elsewhere.test`, not for `db.test`",
            ),
            (
                Authority::new("other").leaf_of_years("db.test", NOW),
                Reason::TlsUnknownCa,
                "the certificate leads to no trusted authority (issued by `CN=other`)",
            ),
            (
                Authority::new("ca").leaf_of_years("db.test", NOW),
                Reason::TlsUnknownCa,
                "the certificate was not signed by the `CN=ca` that is trusted",
            ),
            (
                self_signed(IsCa::NoCa),
                Reason::TlsUnknownCa,
                "the certificate is self-signed and not trusted",
            ),
            (
                self_signed(IsCa::Ca(BasicConstraints::Unconstrained)),
                Reason::TlsUnknownCa,
                "the certificate is self-signed and not trusted",
            ),
        ] {
            let cause = refused(&leaf, &trust).await;
            assert_eq!((cause.reason, cause.message.as_str()), (reason, message));
        }
    }

    #[tokio::test]
    async fn a_self_signed_certificate_may_be_its_own_authority() {
        for is_ca in [IsCa::NoCa, IsCa::Ca(BasicConstraints::Unconstrained)] {
            let leaf = self_signed(is_ca);
            let (res, facts) = shake(&leaf, None, &trusting(&leaf.cert)).await;
            res.unwrap();
            assert!(facts.verified);
        }
    }

    #[tokio::test]
    async fn verify_ca_does_not_look_at_the_name_and_nothing_looks_at_nothing() {
        let (ca, other) = (Authority::new("ca"), Authority::new("other"));
        let with = |verify| TlsOptions {
            verify,
            ..trusting(&ca.pem)
        };
        let misnamed = ca.leaf_of_years("elsewhere.test", NOW);
        let (res, facts) = shake(&misnamed, None, &with(Verify::CaOnly)).await;
        res.unwrap();
        assert!(!facts.verified, "the name was not");
        let foreign = other.leaf_of_years("elsewhere.test", NOW);
        let cause = refused(&foreign, &with(Verify::CaOnly)).await;
        assert_eq!(cause.reason, Reason::TlsUnknownCa);
        let foreign = other.leaf_of_years("elsewhere.test", (2020, 2021));
        let (res, facts) = shake(&foreign, None, &with(Verify::Nothing)).await;
        res.unwrap();
        assert!(!facts.verified);
        assert_eq!(
            facts.earliest_expiry,
            Some("2021-01-01T00:00:00Z".parse().unwrap())
        );
    }

    #[tokio::test]
    async fn a_server_name_of_its_own_is_asked_for() {
        let ca = Authority::new("ca");
        let options = TlsOptions {
            server_name: Some("elsewhere.test".to_owned()),
            ..trusting(&ca.pem)
        };
        let (res, _) = shake(&ca.leaf_of_years("elsewhere.test", NOW), None, &options).await;
        res.unwrap();
    }

    #[tokio::test]
    async fn client_certificates_missing_wrong_and_right() {
        let (ca, other) = (Authority::new("ca"), Authority::new("other"));
        let server = ca.leaf_of_years("db.test", NOW);
        let (res, _) = shake(&server, Some(&ca), &trusting(&ca.pem)).await;
        let missing = res.unwrap_err();
        assert_eq!(missing.reason, Reason::TlsOther);
        assert_eq!(missing.code.as_deref(), Some("certificate_required"));
        assert_eq!(missing.phase, Some(Phase::Tls));
        let with = |client: Leaf| TlsOptions {
            client_cert: Some(Secret::new(client.cert)),
            client_key: Some(Secret::new(client.key)),
            ..trusting(&ca.pem)
        };
        let wrong = with(other.leaf_of_years("probe", NOW));
        let (res, _) = shake(&server, Some(&ca), &wrong).await;
        let wrong = res.unwrap_err();
        assert_eq!(wrong.reason, Reason::TlsOther);
        assert_eq!(wrong.code.as_deref(), Some("unknown_ca"));
        let right = with(ca.leaf_of_years("probe", NOW));
        let (res, _) = shake(&server, Some(&ca), &right).await;
        res.unwrap();
        let expiry = Tls::new(&right).unwrap().client_certificate_expiry();
        assert_eq!(expiry, Some("2040-01-01T00:00:00Z".parse().unwrap()));
    }

    #[test]
    fn mistakes_name_the_part_and_never_quote_it() {
        let ca = Authority::new("ca");
        let (one, two) = (ca.leaf_of_years("one", NOW), ca.leaf_of_years("two", NOW));
        let secret = |text: &str| Some(Secret::new(text));
        let client = |cert: Option<Secret>, key: Option<Secret>| TlsOptions {
            client_cert: cert,
            client_key: key,
            ..TlsOptions::default()
        };
        let encrypted =
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMARKER\n-----END ENCRYPTED PRIVATE KEY-----\n";
        for (options, part, message) in [
            (
                trusting("MARKER"),
                TlsPart::CaCert,
                "there is no certificate in it",
            ),
            (
                trusting(&one.key),
                TlsPart::CaCert,
                "there is no certificate in it",
            ),
            (
                client(secret(&one.cert), None),
                TlsPart::ClientCert,
                "a client certificate without its key",
            ),
            (
                client(None, secret(&one.key)),
                TlsPart::ClientKey,
                "a client key without its certificate",
            ),
            (
                client(secret(&one.cert), secret(&two.key)),
                TlsPart::ClientKey,
                "the key does not belong to the client certificate",
            ),
            (
                client(secret(&one.cert), secret(encrypted)),
                TlsPart::ClientKey,
                "the key is encrypted",
            ),
            (
                client(secret(&one.cert), secret("MARKER")),
                TlsPart::ClientKey,
                "there is no private key in it",
            ),
        ] {
            let mistake = Tls::new(&options).err().expect(message);
            assert_eq!((mistake.part, mistake.message.as_str()), (part, message));
            assert!(!format!("{mistake:?}").contains("MARKER"));
        }
        let both_in_one = client(secret(&format!("{}{}", one.cert, one.key)), None);
        assert!(Tls::new(&both_in_one).is_ok());
    }

    #[test]
    fn the_end_point_is_hashed_as_the_certificate_was_signed() {
        for (algorithm, bytes) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, Some(32)),
            (&rcgen::PKCS_ECDSA_P384_SHA384, Some(48)),
            (&rcgen::PKCS_ED25519, None),
        ] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let params = CertificateParams::new(vec!["db.test".to_owned()]).unwrap();
            let certificate = params.self_signed(&key).unwrap();
            let handshake = Handshake {
                alpn: None,
                peer_certificate: Some(certificate.der().to_vec()),
            };
            assert_eq!(handshake.server_end_point().map(|hash| hash.len()), bytes);
        }
    }
}
