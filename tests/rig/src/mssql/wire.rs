//! The server's side of TDS: packets, TLS inside of them, and the tokens of an answer.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
    sync::Arc,
};

use rustls::{ServerConfig, ServerConnection};

pub(super) const SQL_BATCH: u8 = 0x01;
pub(super) const RESPONSE: u8 = 0x04;
pub(super) const ATTENTION: u8 = 0x06;
pub(super) const LOGIN7: u8 = 0x10;
pub(super) const PRELOGIN: u8 = 0x12;

const HEADER_BYTES: usize = 8;

/// How encryption stands in PRELOGIN.
pub(super) const OFF: u8 = 0;
pub(super) const ON: u8 = 1;
pub(super) const NOT_SUPPORTED: u8 = 2;
pub(super) const REQUIRED: u8 = 3;

/// One connection, encrypted or not.
pub(super) struct Line<'a> {
    tcp: &'a mut TcpStream,
    tls: Option<ServerConnection>,
    /// How long the packets are that we send.
    pub(super) packet_bytes: usize,
}

impl<'a> Line<'a> {
    pub(super) fn new(tcp: &'a mut TcpStream) -> Line<'a> {
        Line {
            tcp,
            tls: None,
            packet_bytes: 4096,
        }
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// The first byte that comes, which stays where it is.
    pub(super) fn first_byte(&self) -> io::Result<Option<u8>> {
        let mut byte = [0];
        Ok((self.tcp.peek(&mut byte)? > 0).then_some(byte[0]))
    }

    /// TDS 8.0: a handshake like any other.
    pub(super) fn shake_hands(&mut self, config: &Arc<ServerConfig>) -> io::Result<()> {
        let mut tls = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
        while tls.is_handshaking() {
            tls.complete_io(self.tcp)?;
        }
        self.tls = Some(tls);
        Ok(())
    }

    /// Up to TDS 7.4: a handshake inside of PRELOGIN packets.
    pub(super) fn shake_hands_in_packets(&mut self, config: &Arc<ServerConfig>) -> io::Result<()> {
        let mut tls = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
        while tls.is_handshaking() {
            let (kind, said) = self.message()?;
            if kind != PRELOGIN {
                return Err(io::Error::other(format!(
                    "a message of the type 0x{kind:02x} in the handshake"
                )));
            }
            let mut said = &said[..];
            let mut processed = Ok(());
            while !said.is_empty() && processed.is_ok() {
                tls.read_tls(&mut said)?;
                processed = tls.process_new_packets().map(drop);
            }
            let mut answer = Vec::new();
            while tls.wants_write() {
                tls.write_tls(&mut answer)?;
            }
            if !answer.is_empty() {
                self.send(PRELOGIN, &answer)?;
            }
            processed.map_err(io::Error::other)?;
        }
        self.tls = Some(tls);
        Ok(())
    }

    /// Only the login was to be encrypted. Nobody says goodbye.
    pub(super) fn forget_tls(&mut self) {
        self.tls = None;
    }

    /// The next message: its type, and what is inside of its packets.
    pub(super) fn message(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut message = Vec::new();
        loop {
            let mut header = [0; HEADER_BYTES];
            self.read_exact(&mut header)?;
            let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
            let Some(length) = length.checked_sub(HEADER_BYTES) else {
                return Err(io::Error::other("a packet shorter than its header"));
            };
            let from = message.len();
            message.resize(from + length, 0);
            self.read_exact(&mut message[from..])?;
            if header[1] & 1 != 0 {
                return Ok((header[0], message));
            }
        }
    }

    pub(super) fn send(&mut self, kind: u8, message: &[u8]) -> io::Result<()> {
        let room = self.packet_bytes - HEADER_BYTES;
        let count = message.len().div_ceil(room).max(1);
        let mut packets = Vec::new();
        for index in 0..count {
            let part = &message[index * room..message.len().min((index + 1) * room)];
            let length = (part.len() + HEADER_BYTES) as u16;
            packets.extend([kind, u8::from(index + 1 == count)]);
            packets.extend(length.to_be_bytes());
            // Our process number, 51 as for the first user ever; the packet's number; no window.
            packets.extend([0, 51, (index + 1) as u8, 0]);
            packets.extend(part);
        }
        self.write_all(&packets)?;
        self.flush()
    }

    /// Says goodbye, then listens how the other side does.
    pub(super) fn hang_up(&mut self) -> String {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            let _ = tls.complete_io(self.tcp);
        }
        let _ = self.tcp.shutdown(std::net::Shutdown::Write);
        match io::copy(self, &mut io::sink()) {
            Ok(_) => IN_ORDER.to_owned(),
            Err(err) => how_it_ended(&err),
        }
    }
}

/// How a connection ends that ends well.
pub(super) const IN_ORDER: &str = "in order";

/// What a failed read says of how the other side left.
pub(super) fn how_it_ended(err: &io::Error) -> String {
    let text = err.to_string();
    match err.kind() {
        // rustls says so of an end without TLS' own goodbye.
        ErrorKind::UnexpectedEof if text.contains("close_notify") => "without close_notify".into(),
        // Of `read_exact`, at the beginning of a message.
        ErrorKind::UnexpectedEof => IN_ORDER.into(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => "by a reset".into(),
        _ => text,
    }
}

impl Read for Line<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            Some(tls) => rustls::Stream::new(tls, self.tcp).read(buf),
            None => self.tcp.read(buf),
        }
    }
}

impl Write for Line<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            Some(tls) => rustls::Stream::new(tls, self.tcp).write(buf),
            None => self.tcp.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => rustls::Stream::new(tls, self.tcp).flush(),
            None => self.tcp.flush(),
        }
    }
}

/// What a client says in PRELOGIN, as far as a server looks at it.
pub(super) struct Prelogin {
    pub(super) encryption: u8,
    pub(super) instance: String,
}

impl Prelogin {
    pub(super) fn parse(message: &[u8]) -> Option<Prelogin> {
        let mut res = Prelogin {
            encryption: NOT_SUPPORTED,
            instance: String::new(),
        };
        let mut table = message;
        while let [option, a, b, c, d, rest @ ..] = table {
            if *option == 0xff {
                break;
            }
            let from = usize::from(u16::from_be_bytes([*a, *b]));
            let length = usize::from(u16::from_be_bytes([*c, *d]));
            let value = message.get(from..from + length)?;
            match option {
                1 => res.encryption = *value.first()?,
                2 => {
                    let name = value.split(|byte| *byte == 0).next()?;
                    res.instance = String::from_utf8_lossy(name).into_owned();
                }
                _ => {}
            }
            table = rest;
        }
        Some(res)
    }
}

/// The answer to PRELOGIN.
pub(super) fn prelogin(version: [u8; 4], encryption: u8, is_instance: bool) -> Vec<u8> {
    let [major, minor, a, b] = version;
    let options: [(u8, Vec<u8>); 5] = [
        (0, vec![major, minor, a, b, 0, 0]),
        (1, vec![encryption]),
        (2, vec![u8::from(!is_instance)]),
        (3, vec![]),
        (4, vec![0]),
    ];
    let mut table = Vec::new();
    let mut data: Vec<u8> = Vec::new();
    for (option, value) in &options {
        table.push(*option);
        table.extend(((options.len() * 5 + 1 + data.len()) as u16).to_be_bytes());
        table.extend((value.len() as u16).to_be_bytes());
        data.extend(value);
    }
    table.push(0xff);
    table.extend(data);
    table
}

/// A login as it came in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Login {
    pub tds_version: u32,
    pub packet_bytes: u32,
    pub username: String,
    pub password: String,
    pub database: String,
    pub app_name: String,
    pub server_name: String,
    pub workstation: String,
    pub language: String,
    pub read_only: bool,
    /// Whether it came encrypted.
    pub encrypted: bool,
}

impl Login {
    /// Reads a LOGIN7; what is wrong with it otherwise.
    pub(super) fn parse(message: &[u8]) -> Result<Login, String> {
        let u32_at = |at: usize| {
            let bytes = message.get(at..at + 4).ok_or("it is too short")?;
            Ok::<_, String>(u32::from_le_bytes(bytes.try_into().unwrap_or_default()))
        };
        let bytes_at = |at: usize| {
            let place = u32_at(at)?;
            let (from, length) = (
                usize::try_from(place & 0xffff).unwrap_or_default(),
                usize::try_from(place >> 16).unwrap_or_default(),
            );
            message
                .get(from..from + length * 2)
                .ok_or_else(|| format!("the text that is named at {at} is outside of it"))
        };
        let text_at = |at: usize| bytes_at(at).map(from_utf16);
        let length = u32_at(0)?;
        if usize::try_from(length) != Ok(message.len()) {
            return Err(format!("it says {length} and has {} bytes", message.len()));
        }
        let undisguised: Vec<u8> = bytes_at(44)?
            .iter()
            .map(|byte| (byte ^ 0xa5).rotate_left(4))
            .collect();
        Ok(Login {
            tds_version: u32_at(4)?,
            packet_bytes: u32_at(8)?,
            read_only: message.get(26).ok_or("it is too short")? & 0x20 != 0,
            workstation: text_at(36)?,
            username: text_at(40)?,
            password: from_utf16(&undisguised),
            app_name: text_at(48)?,
            server_name: text_at(52)?,
            language: text_at(64)?,
            database: text_at(68)?,
            encrypted: false,
        })
    }
}

/// The text of a batch, behind its headers.
pub(super) fn batch_text(message: &[u8]) -> String {
    let headers = message
        .first_chunk()
        .map_or(0, |bytes| u32::from_le_bytes(*bytes));
    let headers = usize::try_from(headers).unwrap_or_default();
    from_utf16(message.get(headers..).unwrap_or_default())
}

fn from_utf16(bytes: &[u8]) -> String {
    let units: Vec<u16> = bytes
        .chunks_exact(2)
        .map(|unit| u16::from_le_bytes([unit[0], unit[1]]))
        .collect();
    String::from_utf16_lossy(&units)
}

pub(super) fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// The tokens of an answer, one behind the other.
#[derive(Default)]
pub(super) struct Tokens(pub(super) Vec<u8>);

/// The bits of a DONE.
pub(super) const MORE: u16 = 0x01;
pub(super) const ERROR: u16 = 0x02;
pub(super) const COUNT: u16 = 0x10;
pub(super) const ATTENTION_HEARD: u16 = 0x20;

impl Tokens {
    pub(super) fn error(self, number: i32, state: u8, class: u8, message: &str) -> Tokens {
        self.says(0xaa, number, state, class, message)
    }

    pub(super) fn info(self, number: i32, message: &str) -> Tokens {
        self.says(0xab, number, 1, 0, message)
    }

    fn says(self, token: u8, number: i32, state: u8, class: u8, message: &str) -> Tokens {
        let mut body = number.to_le_bytes().to_vec();
        body.extend([state, class]);
        body.extend(text16(message));
        body.extend(text8("RIG"));
        body.extend(text8(""));
        body.extend(1_u32.to_le_bytes());
        self.with_body(token, &body)
    }

    /// A change from nothing to `new`.
    pub(super) fn env_change(self, kind: u8, new: &str) -> Tokens {
        let mut body = vec![kind];
        body.extend(text8(new));
        body.extend(text8(""));
        self.with_body(0xe3, &body)
    }

    /// The collation, which is no text: that of Latin1, insensitive.
    pub(super) fn collation(self) -> Tokens {
        let body = [&[7, 5][..], &COLLATION, &[0]].concat();
        self.with_body(0xe3, &body)
    }

    /// Go there instead.
    pub(super) fn routing(self, host: &str, port: u16) -> Tokens {
        let mut place = vec![0];
        place.extend(port.to_le_bytes());
        place.extend(text16(host));
        let mut body = vec![20];
        body.extend((place.len() as u16).to_le_bytes());
        body.extend(place);
        body.extend([0, 0]);
        self.with_body(0xe3, &body)
    }

    pub(super) fn login_ack(self, tds_version: u32, version: [u8; 4]) -> Tokens {
        let mut body = vec![1];
        body.extend(tds_version.to_be_bytes());
        body.extend(text8("Microsoft SQL Server"));
        body.extend(version);
        self.with_body(0xad, &body)
    }

    pub(super) fn done(mut self, status: u16, count: u64) -> Tokens {
        self.0.extend(done(0xfd, status, count));
        self
    }

    /// One column without a name, an `int`, and a row of it.
    pub(super) fn number(mut self, value: i32) -> Tokens {
        self.0.extend([0x81, 1, 0, 0, 0, 0, 0, 0, 0, 0x38, 0, 0xd1]);
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(super) fn raw(mut self, bytes: &[u8]) -> Tokens {
        self.0.extend(bytes);
        self
    }

    fn with_body(mut self, token: u8, body: &[u8]) -> Tokens {
        self.0.push(token);
        self.0.extend((body.len() as u16).to_le_bytes());
        self.0.extend(body);
        self
    }
}

pub(super) fn done(token: u8, status: u16, count: u64) -> Vec<u8> {
    let mut done = vec![token];
    done.extend(status.to_le_bytes());
    // SELECT.
    done.extend(0xc1_u16.to_le_bytes());
    done.extend(count.to_le_bytes());
    done
}

pub(super) const COLLATION: [u8; 5] = [0x09, 0x04, 0xd0, 0x00, 0x34];

pub(super) fn text8(text: &str) -> Vec<u8> {
    let mut res = vec![text.encode_utf16().count() as u8];
    res.extend(utf16(text));
    res
}

pub(super) fn text16(text: &str) -> Vec<u8> {
    let mut res = (text.encode_utf16().count() as u16).to_le_bytes().to_vec();
    res.extend(utf16(text));
    res
}
