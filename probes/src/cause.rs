//! From a driver's error to a [`Reason`]: the part that is the same for every type.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::io;

use crate::outcome::{Failure, Phase, Reason};
use crate::tls;

/// Why a step failed, before it is known in which phase.
///
/// Each type ends with one `impl From<driver::Error> for Cause`: its classification, as a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Why.
    pub reason: Reason,
    /// The server's own code, as text.
    pub code: Option<String>,
    /// One line: what was expected and what came.
    pub message: String,
    /// The usual cause and the way out.
    pub hint: Option<Cow<'static, str>>,
    /// The phase that is really to blame where it is not the open one: with TLS 1.3 a refused
    /// client certificate shows only after the handshake.
    pub phase: Option<Phase>,
}

impl Cause {
    /// A cause with a message and nothing else.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            code: None,
            message: message.into(),
            hint: None,
            phase: None,
        }
    }

    /// The peer does not speak this protocol.
    pub fn protocol(message: impl Into<String>) -> Self {
        Self::new(Reason::Protocol, message)
    }

    /// Adds the server's own code.
    #[must_use]
    pub fn code(mut self, code: impl Into<String>) -> Self {
        self.code = Some(code.into());
        self
    }

    /// Adds the way out.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same of a query of the owner's: an answer that is longer than an attempt may be is a matter
    /// of the query, and not of the peer.
    #[must_use]
    pub(crate) fn of_query(self) -> Self {
        match self.message == TooMuch.to_string() {
            true => Self::new(
                Reason::Assertion,
                "the query answers with more than the 16 MiB that are read of a peer",
            )
            .hint(
                "a check needs a row or a few: `SELECT 1 FROM …`, `LIMIT 1`, `TOP 1`, `count(*)`",
            ),
            false => self,
        }
    }

    /// The same, told of whom it is about.
    #[must_use]
    pub(crate) fn about(mut self, whom: impl fmt::Display) -> Self {
        self.message = format!("{whom}: {}", self.message);
        self
    }

    /// Blames another phase than the open one.
    #[must_use]
    pub fn phase(mut self, phase: Phase) -> Self {
        self.phase = Some(phase);
        self
    }

    /// The failure of a step in `phase`.
    pub fn in_phase(self, phase: Phase) -> Failure {
        Failure {
            reason: self.reason,
            phase: Some(self.phase.unwrap_or(phase)),
            code: self.code,
            message: self.message,
            hint: self.hint,
        }
    }

    /// The cause in an error's chain, if an I/O or TLS error stands in it.
    ///
    /// Drivers wrap these; the innermost knows most.
    pub fn from_chain(error: &(dyn Error + 'static)) -> Option<Self> {
        if let Some(tls) = find::<tls::RustlsError>(error) {
            return Some(tls::cause_of(tls));
        }
        find::<io::Error>(error).map(from_io)
    }
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Self {
        Self::from_chain(&error).unwrap_or_else(|| from_io(&error))
    }
}

/// What came of asking: what was heard, and how the sending went. A peer that turns us away may say
/// why and hang up before it reads, so that its words are waiting even when writing failed.
pub(crate) fn heard_or_sent<T>(
    heard: Result<T, Cause>,
    sent: Result<(), Cause>,
) -> Result<T, Cause> {
    match (heard, sent) {
        (Ok(heard), _) => Ok(heard),
        (Err(cause), Ok(())) => Err(cause),
        (Err(cause), Err(_)) if cause.reason != Reason::ConnectReset => Err(cause),
        (Err(_), Err(cause)) => Err(cause),
    }
}

/// The innermost `T` in an error's chain. `io::Error::source()` skips the error it wraps, so that
/// one is looked into by `get_ref`.
pub fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let inner = match error.downcast_ref::<io::Error>().map(io::Error::get_ref) {
        Some(Some(inner)) => Some(inner as &(dyn Error + 'static)),
        _ => error.source(),
    };
    inner
        .and_then(|inner| find::<T>(inner))
        .or_else(|| error.downcast_ref::<T>())
}

/// The peer sends without end, or so it seems.
#[derive(Debug)]
pub(crate) struct TooMuch;

impl fmt::Display for TooMuch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the peer sends more than 16 MiB")
    }
}

impl Error for TooMuch {}

/// What an I/O error without TLS in it means.
fn from_io(error: &io::Error) -> Cause {
    use io::ErrorKind as Kind;
    if find::<TooMuch>(error).is_some() {
        return Cause::protocol(TooMuch.to_string())
            .hint("no answer that is waited for is nearly as long: is it the right port?");
    }
    match error.kind() {
        Kind::ConnectionRefused => Cause::new(Reason::ConnectRefused, "connection refused")
            .hint("nothing listens on that port: is the server running, and is the port right?"),
        Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe | Kind::NotConnected => {
            Cause::new(Reason::ConnectReset, "the peer reset the connection")
        }
        Kind::UnexpectedEof => Cause::new(
            Reason::ConnectReset,
            "the peer closed the connection in the middle of the conversation",
        ),
        Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown => Cause::new(
            Reason::ConnectUnreachable,
            format!("no route to it: {error}"),
        ),
        Kind::PermissionDenied => Cause::new(
            Reason::ConnectUnreachable,
            "this machine does not permit the connection",
        )
        .hint("a local firewall rule, or the permissions of the socket file"),
        Kind::AddrNotAvailable => Cause::new(
            Reason::ConnectUnreachable,
            "no address of this machine can reach it, or its ports are used up",
        ),
        Kind::TimedOut => Cause::new(Reason::Timeout, "the operating system gave up waiting"),
        Kind::NotFound => Cause::new(Reason::ConnectRefused, "the socket file does not exist")
            .hint("is the server running, and is the path right?"),
        Kind::InvalidData | Kind::InvalidInput => Cause::protocol(format!(
            "the peer sent something that is not this protocol: {error}"
        )),
        _ => match error.raw_os_error() {
            // EMFILE and ENFILE.
            Some(23 | 24) => Cause::new(Reason::Internal, "conncheck has no file descriptors left")
                .hint("raise its limit (`LimitNOFILE`, `ulimit -n`) or lower `--concurrency`"),
            _ => Cause::new(Reason::Internal, format!("input/output error: {error}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_io_error_is_found() {
        let inner = io::Error::from(io::ErrorKind::ConnectionRefused);
        let outer = io::Error::other(io::Error::other(inner));
        assert_eq!(Cause::from(outer).reason, Reason::ConnectRefused);
    }

    #[test]
    fn io_kinds_have_their_reasons() {
        for (kind, reason) in [
            (io::ErrorKind::ConnectionRefused, Reason::ConnectRefused),
            (io::ErrorKind::ConnectionReset, Reason::ConnectReset),
            (io::ErrorKind::BrokenPipe, Reason::ConnectReset),
            (io::ErrorKind::UnexpectedEof, Reason::ConnectReset),
            (io::ErrorKind::HostUnreachable, Reason::ConnectUnreachable),
            (
                io::ErrorKind::NetworkUnreachable,
                Reason::ConnectUnreachable,
            ),
            (io::ErrorKind::TimedOut, Reason::Timeout),
            (io::ErrorKind::InvalidData, Reason::Protocol),
        ] {
            assert_eq!(Cause::from(io::Error::from(kind)).reason, reason, "{kind}");
        }
    }

    #[test]
    fn a_query_that_answers_too_much_is_the_owners() {
        let flood = || Cause::from(io::Error::new(io::ErrorKind::InvalidData, TooMuch));
        assert_eq!(flood().reason, Reason::Protocol);
        let cause = flood().of_query();
        assert_eq!(cause.reason, Reason::Assertion);
        assert!(cause.hint.unwrap().contains("LIMIT"));
        let other = Cause::protocol("nonsense");
        assert_eq!(other.clone().of_query(), other);
    }

    #[test]
    fn what_was_heard_says_more_than_that_nobody_listens() {
        let reset = |text: &str| Cause::new(Reason::ConnectReset, text);
        assert_eq!(heard_or_sent(Ok(1), Err(reset("sent"))), Ok(1));
        let heard = Cause::protocol("heard");
        assert_eq!(
            heard_or_sent::<()>(Err(heard.clone()), Err(reset("sent"))),
            Err(heard)
        );
        assert_eq!(
            heard_or_sent::<()>(Err(reset("heard")), Err(reset("sent"))),
            Err(reset("sent"))
        );
    }

    #[test]
    fn running_out_of_descriptors_is_ours() {
        let cause = Cause::from(io::Error::from_raw_os_error(24));
        assert_eq!(cause.reason, Reason::Internal);
    }
}
