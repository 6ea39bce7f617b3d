//! `OP_MSG`: a command as a BSON document, its reply, and what the errors in replies mean.
//!
//! Every length is checked before it is believed, and documents are looked into without being
//! unfolded, so that no reply makes us allocate or recurse more than it is long.

use std::fmt;

use bson::raw::{RawBsonRef, RawDocument, RawDocumentBuf};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::attempt::Stream;
use crate::cause::{Cause, heard_or_sent};
use crate::outcome::Reason;

const OP_MSG: u32 = 2013;
const HEADER_BYTES: usize = 16;
/// A `hello` of a set of fifty members is a few kilobytes. What is kept of each member that is asked
/// is no longer than its reply.
const REPLY_MAX_BYTES: usize = 256 * 1024;

/// How many texts are read of one list: small ones take more room with us than they do in a reply.
pub(super) const TEXTS_MAX: usize = 256;

const CHECKSUM_PRESENT: u32 = 1;
const CHECKSUM_BYTES: usize = 4;
/// Flags that must be understood by whoever reads the message.
const REQUIRED_FLAGS: u32 = 0xffff;

/// One connection: a command, its reply.
pub(super) struct Wire {
    stream: Stream,
    request: u32,
}

/// A reply that says `ok`.
pub(super) struct Reply(RawDocumentBuf);

impl Wire {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, request: 0 }
    }

    /// Sends a command and reads its reply. A reply that says that it failed is an error.
    pub(super) async fn ask(&mut self, command: &RawDocument) -> Result<Reply, Cause> {
        self.request += 1;
        let message = message(self.request, command);
        let sent = async {
            self.stream.write_all(&message).await?;
            self.stream.flush().await
        };
        let sent = sent.await.map_err(Cause::from);
        let reply = heard_or_sent(self.receive().await, sent)?;
        let reply = parse(&reply, self.request)?;
        match reply.is_ok() {
            true => Ok(reply),
            false => Err(reply.error()),
        }
    }

    async fn receive(&mut self) -> Result<Vec<u8>, Cause> {
        let mut received = Vec::with_capacity(1024);
        loop {
            let whole = length(&received)?;
            if whole.is_some_and(|whole| received.len() >= whole) {
                return Ok(received);
            }
            if self.stream.read_buf(&mut received).await? == 0 {
                return Err(hung_up(&received));
            }
        }
    }

    /// The end of TLS, and of the connection.
    pub(super) async fn leave(&mut self) {
        let _ = self.stream.shutdown().await;
    }
}

fn message(request: u32, command: &RawDocument) -> Vec<u8> {
    let body = command.as_bytes();
    let length = HEADER_BYTES + 4 + 1 + body.len();
    let mut message = Vec::with_capacity(length);
    for number in [length as u32, request, 0, OP_MSG, 0] {
        message.extend(number.to_le_bytes());
    }
    message.push(0);
    message.extend(body);
    message
}

/// How long the message is that begins so, once that is known.
fn length(received: &[u8]) -> Result<Option<usize>, Cause> {
    let Some(length) = number(received, 0) else {
        return Ok(None);
    };
    let length = length as usize;
    // A message, its flags, a section, and the shortest document.
    if !(HEADER_BYTES + 4 + 1 + 5..=REPLY_MAX_BYTES).contains(&length)
        || number(received, 12).is_some_and(|code| code != OP_MSG)
    {
        return Err(not_mongodb(received));
    }
    Ok(Some(length))
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// The document in a whole message.
fn parse(received: &[u8], request: u32) -> Result<Reply, Cause> {
    let malformed = || Cause::protocol("the answer is not a well-formed message of MongoDB");
    let whole = length(received)?.ok_or_else(malformed)?;
    if received.len() != whole {
        return Err(malformed());
    }
    if number(received, 8) != Some(request) {
        return Err(Cause::protocol(
            "the answer is to another question than the one that was asked",
        ));
    }
    let flags = number(received, HEADER_BYTES).ok_or_else(malformed)?;
    if flags & REQUIRED_FLAGS & !CHECKSUM_PRESENT != 0 {
        return Err(malformed());
    }
    let end = match flags & CHECKSUM_PRESENT {
        0 => whole,
        _ => whole - CHECKSUM_BYTES,
    };
    let mut sections = received.get(HEADER_BYTES + 4..end).ok_or_else(malformed)?;
    let mut document = None;
    while let [kind, rest @ ..] = sections {
        let length = number(rest, 0).ok_or_else(malformed)? as usize;
        let section = rest.get(..length).ok_or_else(malformed)?;
        match kind {
            0 if document.is_none() => document = Some(section),
            // A series of further documents; no command of ours is answered with one.
            1 if length >= 4 => {}
            _ => return Err(malformed()),
        }
        sections = &rest[length..];
    }
    let document = document.ok_or_else(malformed)?;
    RawDocumentBuf::from_bytes(document.to_vec())
        .map(Reply)
        .map_err(|_| malformed())
}

impl Reply {
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.0.get_str(key).ok()
    }

    pub(super) fn is(&self, key: &str) -> bool {
        self.0.get_bool(key).is_ok_and(|value| value)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        matches!(self.0.get(key), Ok(Some(_)))
    }

    pub(super) fn number(&self, key: &str) -> Option<i64> {
        match self.0.get(key).ok()?? {
            RawBsonRef::Int32(number) => Some(number.into()),
            RawBsonRef::Int64(number) => Some(number),
            RawBsonRef::Double(number) => Some(number as i64),
            _ => None,
        }
    }

    /// The first [`TEXTS_MAX`] texts of an array; anything else in it is passed over.
    pub(super) fn texts(&self, key: &str) -> Option<Vec<String>> {
        let array = self.0.get_array(key).ok()?;
        Some(
            array
                .into_iter()
                .take(TEXTS_MAX)
                .filter_map(|item| Some(item.ok()?.as_str()?.to_owned()))
                .collect(),
        )
    }

    /// The first [`TEXTS_MAX`] texts of a document, by key.
    pub(super) fn pairs(&self, key: &str) -> Vec<(String, String)> {
        self.document(key)
            .into_iter()
            .flatten()
            .take(TEXTS_MAX)
            .filter_map(Result::ok)
            .filter_map(|(key, value)| Some((key.to_string(), value.as_str()?.to_owned())))
            .collect()
    }

    pub(super) fn document(&self, key: &str) -> Option<&RawDocument> {
        self.0.get_document(key).ok()
    }

    pub(super) fn bytes(&self, key: &str) -> Option<&[u8]> {
        self.0.get_binary(key).ok().map(|binary| binary.bytes)
    }

    fn is_ok(&self) -> bool {
        self.number("ok") == Some(1) || self.is("ok")
    }

    /// What it says of a command that failed.
    fn error(&self) -> Cause {
        let Some(message) = self.text("errmsg").or_else(|| self.text("$err")) else {
            return Cause::protocol("the answer says neither that it worked nor what failed");
        };
        error(
            self.number("code"),
            self.text("codeName").unwrap_or_default(),
            message,
        )
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}

fn hung_up(received: &[u8]) -> Cause {
    match received {
        [] => Cause::new(Reason::ConnectReset, "the server hung up without an answer"),
        _ if speaks_tls(received) => not_mongodb(received),
        _ => Cause::protocol("the server hung up in the middle of its answer"),
    }
}

/// An alert: whoever says it was expecting a handshake.
fn speaks_tls(received: &[u8]) -> bool {
    matches!(received, [0x15, 3, 1..=4, ..])
}

fn not_mongodb(received: &[u8]) -> Cause {
    match received {
        _ if speaks_tls(received) => {
            Cause::protocol("the server speaks TLS on that port").hint("use `tls=true`")
        }
        [b'H', b'T', b'T', b'P', ..] => {
            Cause::protocol("the answer is HTTP, not MongoDB's protocol")
                .hint("is it the right port?")
        }
        _ => Cause::protocol("the answer is not in MongoDB's protocol")
            .hint("is it the right port? servers older than 3.6 do not speak it as it is today"),
    }
}

/// What an error of the server is, by its code; where an old server gives none, by its text.
pub(super) fn error(code: Option<i64>, name: &str, message: &str) -> Cause {
    let (reason, hint) = classify(code, message);
    let text = match name {
        "" => message.to_owned(),
        name => format!("{name}: {message}"),
    };
    let cause = Cause::new(reason, text);
    let cause = match code {
        Some(code) => cause.code(code.to_string()),
        None => cause,
    };
    match hint {
        "" => cause,
        hint => cause.hint(hint),
    }
}

fn classify(code: Option<i64>, message: &str) -> (Reason, &'static str) {
    let says = |text: &str| message.to_ascii_lowercase().contains(text);
    match code {
        Some(18) => (Reason::Auth, WRONG_LOGIN),
        Some(8000) if says("auth") => (Reason::Auth, WRONG_LOGIN),
        Some(11) => (Reason::Auth, WRONG_LOGIN),
        Some(391) => (
            Reason::Auth,
            "the server wants the login anew: it has ended, or the user has changed meanwhile",
        ),
        Some(279) => (
            Reason::Unavailable,
            "the server has taken the connection for closed, and given up the request",
        ),
        Some(13) if says("requires authentication") => (
            Reason::Auth,
            "the server wants a login: give `username` and `password`, or a `secretRef`",
        ),
        Some(13) => (
            Reason::Permission,
            "the login is right; a role that allows this is missing (`db.getUser()` shows which there are)",
        ),
        Some(334) => (Reason::Auth, NO_MECHANISM),
        Some(2) if says("mechanism") => (Reason::Auth, NO_MECHANISM),
        Some(91 | 11600) => (Reason::Unavailable, "it is shutting down"),
        Some(10107 | 10058 | 13435 | 13436 | 189 | 11602) => (
            Reason::Unavailable,
            "the replica set is choosing another primary, or this member is starting up or recovering",
        ),
        Some(133) => (
            Reason::Unavailable,
            "a router that finds no member of a shard to read from",
        ),
        Some(6 | 7 | 89 | 94 | 202 | 262 | 9001) => (Reason::Unavailable, ""),
        Some(462 | 16500) => (Reason::Unavailable, "it has too much to do, and says so"),
        Some(26) => (Reason::NotFound, ""),
        None if says("auth") => (Reason::Auth, WRONG_LOGIN),
        _ => (Reason::Protocol, ""),
    }
}

const WRONG_LOGIN: &str = "wrong user or password, or not those of the database that `authSource` names: a user belongs to the one it was created in, and the server does not tell these apart";

const NO_MECHANISM: &str = "the server does not offer this way to log in (`authenticationMechanisms`), or the user has no credentials for it";

#[cfg(test)]
pub(super) mod tests {
    use bson::rawdoc;

    use super::*;

    /// A message with this body, as a server would send it.
    pub(crate) fn reply_to(request: u32, body: &RawDocument) -> Vec<u8> {
        let mut message = message(77, body);
        message[8..12].copy_from_slice(&request.to_le_bytes());
        message
    }

    /// What is read of it.
    pub(crate) fn reply(body: &RawDocument) -> Reply {
        parse(&reply_to(1, body), 1).unwrap()
    }

    #[test]
    fn each_error_has_its_reason() {
        for (code, name, message, reason) in [
            (
                18,
                "AuthenticationFailed",
                "Authentication failed.",
                Reason::Auth,
            ),
            (
                8000,
                "AtlasError",
                "bad auth : authentication failed",
                Reason::Auth,
            ),
            (11, "UserNotFound", "Could not find user", Reason::Auth),
            (334, "MechanismUnavailable", "Unsupported", Reason::Auth),
            (2, "BadValue", "Unsupported mechanism PLAIN", Reason::Auth),
            (2, "BadValue", "of something else", Reason::Protocol),
            (
                13,
                "Unauthorized",
                "command ping requires authentication",
                Reason::Auth,
            ),
            (
                13,
                "Unauthorized",
                "not authorized on app to execute command",
                Reason::Permission,
            ),
            (391, "ReauthenticationRequired", "", Reason::Auth),
            (279, "ClientDisconnect", "", Reason::Unavailable),
            (91, "ShutdownInProgress", "", Reason::Unavailable),
            (11600, "InterruptedAtShutdown", "", Reason::Unavailable),
            (
                11602,
                "InterruptedDueToReplStateChange",
                "",
                Reason::Unavailable,
            ),
            (
                10107,
                "NotWritablePrimary",
                "not primary",
                Reason::Unavailable,
            ),
            (13435, "NotPrimaryNoSecondaryOk", "", Reason::Unavailable),
            (13436, "NotPrimaryOrSecondary", "", Reason::Unavailable),
            (189, "PrimarySteppedDown", "", Reason::Unavailable),
            (
                133,
                "FailedToSatisfyReadPreference",
                "",
                Reason::Unavailable,
            ),
            (26, "NamespaceNotFound", "", Reason::NotFound),
            (
                59,
                "CommandNotFound",
                "no such command: 'ping'",
                Reason::Protocol,
            ),
        ] {
            let cause = error(Some(code), name, message);
            assert_eq!(cause.reason, reason, "{name}");
            assert_eq!(cause.code, Some(code.to_string()));
            assert!(cause.message.starts_with(name), "{}", cause.message);
        }
        let cause = error(None, "", "auth failed");
        assert_eq!((cause.reason, cause.code), (Reason::Auth, None));
    }

    #[test]
    fn a_reply_is_read_with_a_checksum_and_with_further_sections() {
        let body = rawdoc! { "ok": 1.0, "setName": "rs0", "maxWireVersion": 21 };
        let plain = reply_to(1, &body);
        assert_eq!(parse(&plain, 1).unwrap().text("setName"), Some("rs0"));
        let mut summed = plain.clone();
        summed[16] = 1;
        summed.extend([1, 2, 3, 4]);
        let length = summed.len() as u32;
        summed[..4].copy_from_slice(&length.to_le_bytes());
        assert_eq!(
            parse(&summed, 1).unwrap().number("maxWireVersion"),
            Some(21)
        );
        let mut longer = plain;
        longer.extend([1, 6, 0, 0, 0, b'a', 0]);
        let length = longer.len() as u32;
        longer[..4].copy_from_slice(&length.to_le_bytes());
        assert!(parse(&longer, 1).unwrap().is_ok());
    }

    #[test]
    fn ok_may_be_any_kind_of_number() {
        for body in [
            rawdoc! { "ok": 1.0 },
            rawdoc! { "ok": 1 },
            rawdoc! { "ok": 1_i64 },
            rawdoc! { "ok": true },
        ] {
            assert!(parse(&reply_to(1, &body), 1).unwrap().is_ok());
        }
        for body in [rawdoc! { "ok": 0.0 }, rawdoc! { "ok": "1" }, rawdoc! {}] {
            let reply = parse(&reply_to(1, &body), 1).unwrap();
            assert!(!reply.is_ok());
            assert_eq!(reply.error().reason, Reason::Protocol);
        }
    }

    #[test]
    fn a_reply_may_be_so_long_and_no_longer() {
        let head = |bytes: u32| {
            let mut head = reply_to(1, &rawdoc! {});
            head[..4].copy_from_slice(&bytes.to_le_bytes());
            head.truncate(HEADER_BYTES);
            head
        };
        let most = REPLY_MAX_BYTES as u32;
        assert_eq!(length(&head(most)).unwrap(), Some(REPLY_MAX_BYTES));
        for bytes in [most + 1, u32::MAX] {
            let cause = length(&head(bytes)).unwrap_err();
            assert_eq!(cause.reason, Reason::Protocol);
        }
    }

    #[test]
    fn what_is_malformed_is_a_protocol_error() {
        let good = reply_to(1, &rawdoc! { "ok": 1.0 });
        let mut bad = vec![good[..good.len() - 1].to_vec()];
        for (at, value) in [
            // Length, the question, the operation, a flag, the kind of section, the document's length.
            (0, 5),
            (3, 0x7f),
            (8, 2),
            (12, 1),
            (16, 2),
            (20, 2),
            (21, 200),
            (24, 0xff),
        ] {
            let mut message = good.clone();
            message[at] = value;
            bad.push(message);
        }
        for message in bad {
            let cause = parse(&message, 1).unwrap_err();
            assert_eq!(cause.reason, Reason::Protocol, "{message:?}");
        }
        for text in [
            &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
            b"220 mail ESMTP\r\n",
            &[0xff; 40],
        ] {
            assert_eq!(length(text).unwrap_err().reason, Reason::Protocol);
        }
        let alert = hung_up(&[0x15, 3, 3, 0, 2, 2, 40]);
        assert_eq!(alert.reason, Reason::Protocol);
        assert!(alert.message.contains("TLS"), "{}", alert.message);
        assert_eq!(hung_up(&[]).reason, Reason::ConnectReset);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, cut in 0_usize..64, flip in 0_usize..64, value: u8) {
            let _ = length(&bytes);
            let _ = parse(&bytes, 1);
            let mut message = reply_to(1, &rawdoc! { "ok": 0.0, "hosts": ["a", "b"], "errmsg": "no", "code": 18 });
            let at = flip % message.len();
            message[at] = value;
            message.truncate(message.len() - cut % message.len());
            if let Ok(reply) = parse(&message, 1) {
                let _ = (reply.is_ok(), reply.error(), reply.texts("hosts"), reply.pairs("hosts"));
            }
        }
    }
}
