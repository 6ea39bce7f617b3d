//! AMQP 0-9-1 on the wire: frames out of bytes, and what stands in those that a broker sends to us.
//!
//! `amq-protocol` packs what we say and reads what it can. Two methods are read here: `start`, since
//! the crate goes down into the tables of its properties as deep as the peer has nested them, and our
//! stack is not without end; and `close`, since a broker cuts its text at 255 bytes wherever that is,
//! and the crate wants whole characters.

use std::borrow::Cow;

use amq_protocol::frame::{AMQPFrame, WriteContext, gen_frame};
use amq_protocol::protocol::constants::{
    FRAME_BODY, FRAME_END, FRAME_HEADER, FRAME_HEARTBEAT, FRAME_METHOD,
};
use amq_protocol::protocol::{AMQPClass, channel, connection, parse_class, queue};

use crate::cause::Cause;
use crate::outcome::Reason;

/// What both sides say first, if they speak AMQP 0-9-1.
pub(super) const PROTOCOL_HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";

/// The longest frame that is taken, and the most that we agree on: what RabbitMQ proposes. Those that
/// are waited for are far shorter.
pub(super) const FRAME_MAX_BYTES: u32 = 128 * 1024;

/// The shortest limit on frames that the standard allows.
pub(super) const FRAME_MIN_BYTES: u32 = 4096;

/// What stands before the payload of a frame: its type, its channel, its length.
const FRAME_HEAD_BYTES: usize = 7;

/// A word of the broker.
#[derive(Debug, PartialEq)]
pub(super) enum Word {
    Start(Start),
    /// It wants to hear more before it decides on the login.
    Secure,
    Tune(connection::Tune),
    Opened,
    Blocked(String),
    Unblocked,
    /// The connection ends, because it says so.
    Close(Refusal),
    CloseOk,
    ChannelOpened,
    /// The channel ends, because it says so.
    ChannelClose(Refusal),
    ChannelCloseOk,
    QueueFound,
    Heartbeat,
}

impl Word {
    /// What it is called in the standard.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Start(_) => "connection.start",
            Self::Secure => "connection.secure",
            Self::Tune(_) => "connection.tune",
            Self::Opened => "connection.open-ok",
            Self::Blocked(_) => "connection.blocked",
            Self::Unblocked => "connection.unblocked",
            Self::Close(_) => "connection.close",
            Self::CloseOk => "connection.close-ok",
            Self::ChannelOpened => "channel.open-ok",
            Self::ChannelClose(_) => "channel.close",
            Self::ChannelCloseOk => "channel.close-ok",
            Self::QueueFound => "queue.declare-ok",
            Self::Heartbeat => "a heartbeat",
        }
    }
}

/// How the broker introduces itself.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Start {
    pub(super) product: Option<String>,
    pub(super) version: Option<String>,
    /// What it can do beyond the standard.
    pub(super) capabilities: Vec<String>,
    pub(super) mechanisms: Vec<String>,
}

impl Start {
    pub(super) fn can(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|known| known == capability)
    }

    /// `RabbitMQ 3.10.8`.
    pub(super) fn server(&self) -> Option<String> {
        let product = self.product.as_ref()?;
        Some(match &self.version {
            Some(version) => format!("{product} {version}"),
            None => product.clone(),
        })
    }
}

/// Why the broker ends a channel or a connection: its reply code and its words.
#[derive(Debug, PartialEq)]
pub(super) struct Refusal {
    pub(super) code: u16,
    pub(super) text: String,
}

/// The bytes of frames.
pub(super) fn pack(frames: &[AMQPFrame]) -> Result<Vec<u8>, Cause> {
    let mut bytes = WriteContext::from(Vec::new());
    for frame in frames {
        bytes = gen_frame(frame)(bytes).map_err(|error| {
            Cause::new(
                Reason::Internal,
                format!("a frame cannot be written: {error}"),
            )
        })?;
    }
    Ok(bytes.into_inner().0)
}

/// The first word in `received` and its length, or nothing while it is not whole.
pub(super) fn parse(received: &[u8]) -> Result<Option<(Word, usize)>, Cause> {
    let Some(&first) = received.first() else {
        return Ok(None);
    };
    if first == PROTOCOL_HEADER[0] {
        return parse_header(received);
    }
    if ![FRAME_METHOD, FRAME_HEADER, FRAME_BODY, FRAME_HEARTBEAT].contains(&first) {
        return Err(not_amqp(received));
    }
    let Some(head) = received.get(..FRAME_HEAD_BYTES) else {
        return Ok(None);
    };
    let channel = u16::from_be_bytes([head[1], head[2]]);
    let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
    if length > FRAME_MAX_BYTES {
        return Err(Cause::protocol(format!(
            "the broker announces a frame of {length} bytes, and at most {FRAME_MAX_BYTES} are expected"
        )));
    }
    let end = FRAME_HEAD_BYTES + length as usize;
    let Some(marker) = received.get(end) else {
        return Ok(None);
    };
    if *marker != FRAME_END {
        return Err(Cause::protocol(
            "a frame does not end where the broker has said: this is not AMQP",
        ));
    }
    let payload = &received[FRAME_HEAD_BYTES..end];
    let word = match first {
        FRAME_METHOD => parse_method(channel, payload)?,
        FRAME_HEARTBEAT => Word::Heartbeat,
        _ => return Err(Cause::protocol("the broker sends a message, unasked")),
    };
    Ok(Some((word, end + 1)))
}

/// A broker that does not speak our version answers with the header of its own, and hangs up.
fn parse_header(received: &[u8]) -> Result<Option<(Word, usize)>, Cause> {
    let (name, version) = received.split_at(received.len().min(4));
    if !PROTOCOL_HEADER.starts_with(name) {
        return Err(not_amqp(received));
    }
    let Some(version) = version.get(..4) else {
        return Ok(None);
    };
    let spoken = match version {
        [0 | 2 | 3, 1, 0, 0] => "AMQP 1.0".to_owned(),
        [0, 0, 9, 1] => "AMQP 0-9-1, and did not understand our greeting".to_owned(),
        [1, 1, 9, 1] | [1, 1, 8, 0] => "AMQP 0-8".to_owned(),
        [1, 1, major, minor] => format!("AMQP {major}-{minor}"),
        [a, b, c, d] => format!("AMQP {a}-{b}-{c}-{d}"),
        _ => return Ok(None),
    };
    let cause = Cause::protocol(format!(
        "AMQP 0-9-1 was expected, and the broker speaks {spoken}"
    ));
    Err(match spoken.as_str() {
        "AMQP 1.0" => cause.hint(
            "AMQP 1.0 is another protocol (Azure Service Bus, ActiveMQ, Qpid); this type is for RabbitMQ",
        ),
        _ => cause,
    })
}

fn not_amqp(received: &[u8]) -> Cause {
    let cause = Cause::protocol("the answer is not AMQP");
    match received {
        // The records of TLS: an alert, a handshake.
        [0x15 | 0x16, 3, ..] | [0x15 | 0x16] => {
            cause.hint("TLS is spoken on that port: use `amqps://`")
        }
        [b'H', b'T', ..] => {
            cause.hint("a web server answers there: RabbitMQ's management has a port of its own")
        }
        _ => cause,
    }
}

fn parse_method(channel: u16, payload: &[u8]) -> Result<Word, Cause> {
    let mut rest = Reader(payload);
    let (Some(class), Some(method)) = (rest.u16(), rest.u16()) else {
        return Err(unreadable("a method without a name"));
    };
    match (class, method) {
        (10, 10) => return parse_start(&mut rest),
        (10, 50) => return Ok(Word::Close(parse_close(&mut rest)?)),
        (20, 40) => return Ok(Word::ChannelClose(parse_close(&mut rest)?)),
        // Only those below are for the crate: the others that hold tables would be nested at will.
        (10, 20 | 30 | 41 | 51 | 60 | 61) | (20, 11 | 41) | (50, 11) => {}
        _ => {
            return Err(Cause::protocol(format!(
                "the broker sends a method that nobody has asked for ({class}.{method} on channel {channel})"
            )));
        }
    }
    let parsed = match parse_class(payload) {
        Ok((_, parsed)) => parsed,
        Err(_) => return Err(unreadable("one of the broker's methods cannot be read")),
    };
    Ok(match parsed {
        AMQPClass::Connection(method) => match method {
            connection::AMQPMethod::Secure(_) => Word::Secure,
            connection::AMQPMethod::Tune(tune) => Word::Tune(tune),
            connection::AMQPMethod::OpenOk(_) => Word::Opened,
            connection::AMQPMethod::CloseOk(_) => Word::CloseOk,
            connection::AMQPMethod::Blocked(blocked) => Word::Blocked(blocked.reason.to_string()),
            connection::AMQPMethod::Unblocked(_) => Word::Unblocked,
            _ => return Err(unreadable("one of the broker's methods cannot be read")),
        },
        AMQPClass::Channel(channel::AMQPMethod::OpenOk(_)) => Word::ChannelOpened,
        AMQPClass::Channel(channel::AMQPMethod::CloseOk(_)) => Word::ChannelCloseOk,
        AMQPClass::Queue(queue::AMQPMethod::DeclareOk(_)) => Word::QueueFound,
        _ => return Err(unreadable("one of the broker's methods cannot be read")),
    })
}

fn unreadable(what: &str) -> Cause {
    Cause::protocol(format!("{what}: this is not AMQP 0-9-1"))
}

fn parse_start(rest: &mut Reader<'_>) -> Result<Word, Cause> {
    let cut_short = || unreadable("the broker's greeting is cut short");
    let (Some(major), Some(minor)) = (rest.u8(), rest.u8()) else {
        return Err(cut_short());
    };
    if (major, minor) != (0, 9) {
        return Err(Cause::protocol(format!(
            "AMQP 0-9-1 was expected, and the broker speaks {major}-{minor}"
        )));
    }
    let (Some(properties), Some(mechanisms)) = (rest.long(), rest.long()) else {
        return Err(cut_short());
    };
    let mut start = Start {
        mechanisms: lossy(mechanisms)
            .split_whitespace()
            .map(str::to_owned)
            .collect(),
        ..Start::default()
    };
    for (name, value) in entries(properties) {
        match (name, value) {
            (b"product", Value::Text(text)) => start.product = Some(lossy(text).into_owned()),
            (b"version", Value::Text(text)) => start.version = Some(lossy(text).into_owned()),
            (b"capabilities", Value::Table(table)) => {
                let can = entries(table).filter(|(_, value)| *value == Value::Yes);
                start.capabilities = can.map(|(name, _)| lossy(name).into_owned()).collect();
            }
            _ => {}
        }
    }
    Ok(Word::Start(start))
}

fn parse_close(rest: &mut Reader<'_>) -> Result<Refusal, Cause> {
    match (rest.u16(), rest.short()) {
        (Some(code), Some(text)) => Ok(Refusal {
            code,
            text: lossy(text).into_owned(),
        }),
        _ => Err(unreadable(
            "the broker ends it with a method that is cut short",
        )),
    }
}

fn lossy(text: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(text)
}

/// A value of a table, as far as we are interested.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Value<'a> {
    Yes,
    Text(&'a [u8]),
    Table(&'a [u8]),
    Other,
}

/// The entries of a table. One of a kind that nobody knows ends it, since nobody knows its length.
fn entries(table: &[u8]) -> impl Iterator<Item = (&[u8], Value<'_>)> {
    let mut rest = Reader(table);
    std::iter::from_fn(move || {
        let name = rest.short()?;
        let value = match rest.u8()? {
            b't' => match rest.u8()? {
                0 => Value::Other,
                _ => Value::Yes,
            },
            b'S' => Value::Text(rest.long()?),
            b'F' => Value::Table(rest.long()?),
            b'A' | b'x' => {
                rest.long()?;
                Value::Other
            }
            kind => {
                let length = match kind {
                    b'V' => 0,
                    b'b' | b'B' => 1,
                    b's' | b'u' | b'U' => 2,
                    b'I' | b'i' | b'f' => 4,
                    b'D' => 5,
                    b'l' | b'L' | b'd' | b'T' => 8,
                    _ => return None,
                };
                rest.take(length)?;
                Value::Other
            }
        };
        Some((name, value))
    })
}

/// Bytes, read from the front; nothing where there are too few.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)
            .map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// With its length in one byte before it.
    fn short(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(usize::from(length))
    }

    /// With its length in four bytes before it.
    fn long(&mut self) -> Option<&'a [u8]> {
        let bytes = self.take(4)?;
        let length = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        self.take(usize::try_from(length).ok()?)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame of a method.
    pub(crate) fn method(channel: u16, class: u16, method: u16, arguments: &[u8]) -> Vec<u8> {
        let mut payload = [class.to_be_bytes(), method.to_be_bytes()].concat();
        payload.extend(arguments);
        frame(FRAME_METHOD, channel, &payload)
    }

    pub(crate) fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![kind];
        frame.extend(channel.to_be_bytes());
        frame.extend((payload.len() as u32).to_be_bytes());
        frame.extend(payload);
        frame.push(FRAME_END);
        frame
    }

    pub(crate) fn short(text: &str) -> Vec<u8> {
        [&[text.len() as u8], text.as_bytes()].concat()
    }

    fn long(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat()
    }

    fn text(name: &str, text: &str) -> Vec<u8> {
        [short(name), b"S".to_vec(), long(text.as_bytes())].concat()
    }

    fn flag(name: &str, yes: bool) -> Vec<u8> {
        [short(name), vec![b't', u8::from(yes)]].concat()
    }

    /// A greeting with these properties.
    pub(crate) fn start(properties: &[u8], mechanisms: &str) -> Vec<u8> {
        let arguments = [
            vec![0, 9],
            long(properties),
            long(mechanisms.as_bytes()),
            long(b"en_US"),
        ];
        method(0, 10, 10, &arguments.concat())
    }

    /// The greeting of a RabbitMQ.
    pub(crate) fn greeting() -> Vec<u8> {
        let capabilities = [
            flag("connection.blocked", true),
            flag("authentication_failure_close", true),
            flag("basic.nack", false),
        ]
        .concat();
        let properties = [
            short("capabilities"),
            b"F".to_vec(),
            long(&capabilities),
            text("product", "RabbitMQ"),
            text("version", "3.10.8"),
        ];
        start(&properties.concat(), "PLAIN AMQPLAIN")
    }

    /// A `close` of the connection (class 10, method 50) or of a channel (20, 40).
    pub(crate) fn close(channel: u16, code: u16, text: &[u8]) -> Vec<u8> {
        let mut arguments = code.to_be_bytes().to_vec();
        arguments.push(text.len() as u8);
        arguments.extend(text);
        arguments.extend([0; 4]);
        match channel {
            0 => method(0, 10, 50, &arguments),
            _ => method(channel, 20, 40, &arguments),
        }
    }

    #[test]
    fn a_greeting_is_read() {
        let bytes = greeting();
        let (word, length) = parse(&bytes).unwrap().unwrap();
        assert_eq!(length, bytes.len());
        let Word::Start(start) = word else {
            panic!("{word:?}")
        };
        assert_eq!(start.server().as_deref(), Some("RabbitMQ 3.10.8"));
        assert!(start.can("connection.blocked"));
        assert!(!start.can("basic.nack"));
        assert_eq!(start.mechanisms, ["PLAIN", "AMQPLAIN"]);
        for cut in 0..bytes.len() {
            assert_eq!(parse(&bytes[..cut]).unwrap(), None, "{cut} bytes");
        }
    }

    #[test]
    fn every_kind_of_value_in_a_greeting_has_its_length() {
        let mut properties = Vec::new();
        for (kind, length) in [
            (b'V', 0),
            (b'b', 1),
            (b'B', 1),
            (b's', 2),
            (b'u', 2),
            (b'U', 2),
            (b'I', 4),
            (b'i', 4),
            (b'f', 4),
            (b'D', 5),
            (b'l', 8),
            (b'L', 8),
            (b'd', 8),
            (b'T', 8),
        ] {
            properties.extend(short("x"));
            properties.push(kind);
            properties.extend(vec![0xff; length]);
        }
        for kind in [b'A', b'x', b'F', b'S'] {
            properties.extend(short("x"));
            properties.push(kind);
            properties.extend(long(b"12345"));
        }
        properties.extend(text("product", "Other"));
        let (word, _) = parse(&start(&properties, "PLAIN")).unwrap().unwrap();
        let Word::Start(start) = word else {
            panic!("{word:?}")
        };
        assert_eq!(start.server().as_deref(), Some("Other"));
    }

    #[test]
    fn tables_as_deep_as_a_frame_do_no_harm() {
        let levels = 18_000_u32;
        let mut nested = Vec::new();
        for inner in (0..levels).rev() {
            nested.extend([1, b'x', b'F']);
            nested.extend((inner * 7).to_be_bytes());
        }
        assert!(matches!(
            parse(&start(&nested, "PLAIN")),
            Ok(Some((Word::Start(_), _)))
        ));
        // In a method that the crate would read, table and all: `queue.declare`.
        let arguments = [vec![0; 4], long(&nested)].concat();
        assert!(parse(&method(1, 50, 10, &arguments)).is_err());
    }

    #[test]
    fn another_version_is_named() {
        for (header, message) in [
            (&b"AMQP\x03\x01\x00\x00"[..], "speaks AMQP 1.0"),
            (b"AMQP\x00\x01\x00\x00", "speaks AMQP 1.0"),
            (b"AMQP\x01\x01\x00\x0a", "speaks AMQP 0-10"),
            (b"AMQP\x01\x01\x08\x00", "speaks AMQP 0-8"),
            (b"AMQP\x00\x00\x09\x01", "did not understand our greeting"),
            (b"AMQP\x07\x00\x09\x00", "speaks AMQP 7-0-9-0"),
        ] {
            let cause = parse(header).unwrap_err();
            assert_eq!(cause.reason, Reason::Protocol);
            assert!(cause.message.ends_with(message), "{}", cause.message);
            assert_eq!(parse(&header[..6]).unwrap(), None);
        }
        let start = method(0, 10, 10, &[8, 0]);
        let cause = parse(&start).unwrap_err();
        assert!(cause.message.ends_with("speaks 8-0"), "{}", cause.message);
    }

    #[test]
    fn what_is_not_amqp_is_told_at_once() {
        for (bytes, hint) in [
            (&b"\x15\x03\x03\x00\x02\x02\x0a"[..], Some("amqps://")),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", Some("web server")),
            (b"AM1", None),
            (b" ", None),
            (b"-ERR unknown\r\n", None),
            // A length, and an end that is none.
            (b"\x01\0\0\xff\xff\xff\xff", None),
            (b"\x01\0\0\0\0\0\x04\0\x0a\0\x33\x00", None),
            // Too short for a name; content, unasked; a method that nobody knows.
            (b"\x01\0\0\0\0\0\x02\0\x0a\xce", None),
            (b"\x03\0\x01\0\0\0\x00\xce", None),
            (b"\x01\0\0\0\0\0\x04\0\x63\0\x33\xce", None),
            // Those that we know, cut short.
            (b"\x01\0\0\0\0\0\x04\0\x0a\0\x1e\xce", None),
            (b"\x01\0\0\0\0\0\x05\0\x0a\0\x0a\0\xce", None),
            (b"\x01\0\0\0\0\0\x06\0\x0a\0\x32\x01\x40\xce", None),
        ] {
            let cause = parse(bytes).expect_err("not AMQP");
            assert_eq!(cause.reason, Reason::Protocol, "{bytes:?}");
            let said = cause.hint.as_deref();
            match hint {
                None => assert_eq!(said, None, "{bytes:?}"),
                Some(hint) => assert!(said.unwrap().contains(hint), "{said:?}"),
            }
        }
    }

    #[test]
    fn a_text_that_the_broker_has_cut_is_still_a_text() {
        let mut text = "é".repeat(126).into_bytes();
        text.push(0xc3);
        let (word, _) = parse(&close(1, 404, &text)).unwrap().unwrap();
        let Word::ChannelClose(refusal) = word else {
            panic!("{word:?}")
        };
        assert_eq!(refusal.code, 404);
        assert!(refusal.text.ends_with("é\u{fffd}"), "{}", refusal.text);
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn no_method_is_a_panic(
            class in prop::sample::select(vec![10_u16, 20, 50, 60]),
            number in 0_u16..130,
            arguments in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let _ = parse(&method(1, class, number, &arguments));
        }
    }
}
