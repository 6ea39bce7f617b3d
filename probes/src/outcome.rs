//! What came of an attempt: how long each phase took, what the peer showed, and why it failed.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

/// A step of an attempt. A phase that was not reached is absent from the outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Asking who has the name.
    Resolve,
    /// Opening the TCP or unix socket.
    Connect,
    /// The TLS handshake, with whatever asks for it in the protocol.
    Tls,
    /// Proving who we are.
    Auth,
    /// The question that proves the peer works, and its answer.
    Request,
}

impl Phase {
    /// Every phase, in the order in which they happen.
    pub const ALL: [Self; 5] = [
        Self::Resolve,
        Self::Connect,
        Self::Tls,
        Self::Auth,
        Self::Request,
    ];

    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Auth => "auth",
            Self::Request => "request",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why an attempt failed. A closed set, since these are label values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The name could not be resolved.
    Dns,
    /// Nobody listens there.
    ConnectRefused,
    /// No route, or a firewall says so.
    ConnectUnreachable,
    /// The peer hung up.
    ConnectReset,
    /// The deadline passed.
    Timeout,
    /// The peer's certificate has expired.
    TlsExpired,
    /// The peer's certificate is not valid yet.
    TlsNotYetValid,
    /// The peer's certificate leads to no authority that we trust (self-signed included).
    TlsUnknownCa,
    /// The peer's certificate is for another name.
    TlsNameMismatch,
    /// Any other failure of TLS.
    TlsOther,
    /// It knows us and says no.
    Auth,
    /// Logged in, not allowed.
    Permission,
    /// Database, vhost, queue, base DN or index is not there.
    NotFound,
    /// It does not speak this protocol.
    Protocol,
    /// An HTTP status that was not expected.
    HttpStatus,
    /// It answered, and not what was wanted.
    Assertion,
    /// It says that it is not ready: starting up, loading, too many connections, 503.
    Unavailable,
    /// A secret is missing or unusable; nothing was attempted.
    Secret,
    /// Ours: a panic, caught.
    Internal,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 19] = [
        Self::Dns,
        Self::ConnectRefused,
        Self::ConnectUnreachable,
        Self::ConnectReset,
        Self::Timeout,
        Self::TlsExpired,
        Self::TlsNotYetValid,
        Self::TlsUnknownCa,
        Self::TlsNameMismatch,
        Self::TlsOther,
        Self::Auth,
        Self::Permission,
        Self::NotFound,
        Self::Protocol,
        Self::HttpStatus,
        Self::Assertion,
        Self::Unavailable,
        Self::Secret,
        Self::Internal,
    ];

    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::ConnectRefused => "connect_refused",
            Self::ConnectUnreachable => "connect_unreachable",
            Self::ConnectReset => "connect_reset",
            Self::Timeout => "timeout",
            Self::TlsExpired => "tls_expired",
            Self::TlsNotYetValid => "tls_not_yet_valid",
            Self::TlsUnknownCa => "tls_unknown_ca",
            Self::TlsNameMismatch => "tls_name_mismatch",
            Self::TlsOther => "tls_other",
            Self::Auth => "auth",
            Self::Permission => "permission",
            Self::NotFound => "not_found",
            Self::Protocol => "protocol",
            Self::HttpStatus => "http_status",
            Self::Assertion => "assertion",
            Self::Unavailable => "unavailable",
            Self::Secret => "secret",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why an attempt failed, for the person who must act. Holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub reason: Reason,
    /// The phase in which it failed; `None` where nothing was attempted.
    pub phase: Option<Phase>,
    /// The server's own code, as text: SQLSTATE, HTTP status, Redis' first word.
    pub code: Option<String>,
    /// One line: what was expected and what came.
    pub message: String,
    /// The usual cause and the way out, where there is one.
    pub hint: Option<Cow<'static, str>>,
}

/// What the peer showed in its TLS handshake, whether or not it was accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFacts {
    /// `TLSv1.3`; absent when the handshake did not come to an agreement.
    pub version: Option<String>,
    /// Whether chain and name were verified and found good.
    pub verified: bool,
    /// The earliest expiry among all certificates that the peer sent.
    pub earliest_expiry: Option<Timestamp>,
    /// Subject of the peer's own certificate.
    pub subject: Option<String>,
    /// Issuer of the peer's own certificate.
    pub issuer: Option<String>,
}

/// What came of one attempt. Holds no secret.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub started_at: Timestamp,
    /// From the start to the verdict; the goodbye is not counted.
    pub duration: Duration,
    /// The phases that were reached, in order, each with its duration.
    pub phases: Vec<(Phase, Duration)>,
    pub tls: Option<TlsFacts>,
    /// The server's name and version, where it tells.
    pub server: Option<String>,
    /// Whom the server takes us for, where that is no secret: an account and an ARN.
    pub identity: Option<String>,
    /// The status of the last HTTP response, for the types over HTTP.
    pub http_status: Option<u16>,
    /// When the credential that was used ends: a client certificate, a token.
    pub credential_expiry: Option<Timestamp>,
    /// What failed on the way to a success, for the types with several hosts: those that were tried
    /// before the one that answered, each with its name. Empty where the attempt failed: its
    /// message has them.
    pub failed_before: Vec<String>,
    pub result: Result<(), Failure>,
}

impl Outcome {
    /// The outcome of an attempt that was not made: its secret is missing.
    pub fn failed_before_start(failure: Failure) -> Self {
        Self {
            started_at: Timestamp::now(),
            duration: Duration::ZERO,
            phases: Vec::new(),
            tls: None,
            server: None,
            identity: None,
            http_status: None,
            credential_expiry: None,
            failed_before: Vec::new(),
            result: Err(failure),
        }
    }

    /// Whether the peer was reached and proved what its type asks for.
    pub fn is_up(&self) -> bool {
        self.result.is_ok()
    }
}
