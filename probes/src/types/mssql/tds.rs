//! TDS 7.4 and 8.0 (MS-TDS): packets, the messages that we send, the tokens that come back.
//!
//! Nothing that is read here is believed: a length is not allocated for before its bytes have come,
//! and what does not parse is an error.

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::coop::consume_budget;

use crate::attempt::Stream;
use crate::cause::{Cause, heard_or_sent};
use crate::outcome::Reason;

/// Types of messages.
const SQL_BATCH: u8 = 0x01;
pub(super) const RESPONSE: u8 = 0x04;
const ATTENTION: u8 = 0x06;
const LOGIN7: u8 = 0x10;
pub(super) const PRELOGIN: u8 = 0x12;

pub(super) const HEADER_BYTES: usize = 8;

/// How long packets are until something else is agreed on.
const PACKET_BYTES: usize = 4096;

/// The longest packet there can be.
pub(super) const PACKET_MAX_BYTES: usize = 32_767;

/// The longest answer to a PRELOGIN. Real ones have some forty bytes.
const PRELOGIN_MAX_BYTES: usize = 4096;

/// The last packet of a message.
const END_OF_MESSAGE: u8 = 0x01;

/// One way or another to encrypt, as PRELOGIN names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// The login alone.
    Off,
    /// Everything.
    On,
    /// It cannot.
    NotSupported,
    /// Everything, or nothing will come of it.
    Required,
}

impl Offer {
    const ALL: [Self; 4] = [Self::Off, Self::On, Self::NotSupported, Self::Required];

    fn code(self) -> u8 {
        match self {
            Self::Off => 0,
            Self::On => 1,
            Self::NotSupported => 2,
            Self::Required => 3,
        }
    }
}

/// Major, minor, build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version(pub(super) u8, pub(super) u8, pub(super) u16);

/// What a server answers to PRELOGIN.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Prelogin {
    pub(super) version: Option<Version>,
    pub(super) encryption: Offer,
    /// Whether it is the instance that was asked for.
    pub(super) is_instance: bool,
}

/// What a login says.
pub(super) struct Login<'a> {
    /// TDS 8.0 in place of 7.4.
    pub(super) strict: bool,
    pub(super) username: &'a str,
    pub(super) password: &'a str,
    pub(super) server: &'a str,
    pub(super) database: &'a str,
    pub(super) app_name: &'a str,
    pub(super) workstation: &'a str,
    pub(super) language: &'a str,
    pub(super) read_only: bool,
    pub(super) packet_bytes: u32,
}

/// What came of a request.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// The first error. Those that follow are its consequences.
    pub(super) error: Option<ServerError>,
    /// Who let us in.
    pub(super) login: Option<LoginAck>,
    /// The server to go to instead.
    pub(super) routing: Option<(String, u16)>,
    /// Whether the server says that something went wrong, with an error or without.
    pub(super) failed: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct LoginAck {
    pub(super) name: String,
    pub(super) version: Version,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerError {
    pub(super) number: i32,
    pub(super) state: u8,
    /// The severity: from 17 up it is the server's trouble, from 20 up the session is over.
    pub(super) class: u8,
    pub(super) message: String,
}

/// One side of a conversation in packets.
pub(super) struct Wire {
    stream: Stream,
    /// What has come and is not yet a whole packet.
    received: BytesMut,
    /// What is inside of the packets of the message that is being read.
    payload: Vec<u8>,
    /// How much of it has been read.
    at: usize,
    /// Whether the message's last packet has come.
    is_last: bool,
    packet_bytes: usize,
}

impl Wire {
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            stream,
            received: BytesMut::new(),
            payload: Vec::new(),
            at: 0,
            is_last: false,
            packet_bytes: PACKET_BYTES,
        }
    }

    /// The stream, for TLS. There must be nothing between the two: whoever says more than the answer
    /// could smuggle it into the encrypted conversation.
    pub(super) fn into_stream(self) -> Result<Stream, Cause> {
        match self.received.is_empty() {
            true => Ok(self.stream),
            false => Err(Cause::protocol(
                "there is more behind the answer to the PRELOGIN than belongs there",
            )
            .hint("is it a SQL Server? if so, something on the way adds to what it says")),
        }
    }

    /// Goes on over another stream.
    pub(super) fn switch_to(&mut self, stream: Stream) {
        self.stream = stream;
    }

    /// Ends the connection in order. There is no farewell in TDS: TLS' own, and the end.
    pub(super) async fn close(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Tells what we want, and hears what the server has.
    pub(super) async fn prelogin(
        &mut self,
        want: Offer,
        instance: &str,
    ) -> Result<Prelogin, Cause> {
        let sent = self.send(PRELOGIN, &prelogin(want, instance)).await;
        self.first_packet(sent).await?;
        while !self.is_last {
            if self.payload.len() > PRELOGIN_MAX_BYTES {
                return Err(not_tds());
            }
            self.next_packet().await?;
        }
        Prelogin::parse(&self.payload).ok_or_else(not_tds)
    }

    pub(super) async fn send_login(&mut self, login: &Login<'_>) -> Result<(), Cause> {
        self.send(LOGIN7, &login7(login)).await
    }

    /// The answer to a login that was sent, however that went: a server that turns us away says so
    /// and hangs up before it reads.
    pub(super) async fn login_answer(&mut self, sent: Result<(), Cause>) -> Result<Answer, Cause> {
        self.first_packet(sent).await?;
        self.answer().await
    }

    /// Runs a query to its end.
    pub(super) async fn query(&mut self, query: &str) -> Result<Answer, Cause> {
        let sent = self.send(SQL_BATCH, &sql_batch(query)).await;
        self.first_packet(sent).await?;
        self.answer().await
    }

    /// Asks the server to give up what it is doing, and waits until it has.
    pub(super) async fn cancel(&mut self) -> Result<(), Cause> {
        self.send(ATTENTION, &[]).await?;
        loop {
            self.next_packet().await?;
            // The acknowledgement stands at the end: of the answer that was under way, or of one of
            // its own.
            let ends_with_it = self.payload.last_chunk::<DONE_BYTES>().is_some_and(|done| {
                let status = u16::from_le_bytes([done[1], done[2]]);
                matches!(done[0], 0xFD..) && status & DONE_ATTENTION != 0
            });
            if self.is_last && ends_with_it {
                return Ok(());
            }
            let keep = self.payload.len().saturating_sub(DONE_BYTES);
            self.payload.drain(..keep);
        }
    }

    async fn send(&mut self, kind: u8, message: &[u8]) -> Result<(), Cause> {
        let packets = packets(kind, message, self.packet_bytes);
        self.stream.write_all(&packets).await?;
        Ok(self.stream.flush().await?)
    }

    /// Begins to read a message.
    async fn first_packet(&mut self, sent: Result<(), Cause>) -> Result<(), Cause> {
        self.payload.clear();
        self.at = 0;
        heard_or_sent(self.next_packet().await, sent)
    }

    /// Reads one packet more. What has come of it is kept when this is cut.
    async fn next_packet(&mut self) -> Result<(), Cause> {
        // An empty one costs the server next to nothing, and millions of them come in one piece.
        consume_budget().await;
        loop {
            if let Some(length) = packet_length(&self.received)?
                && self.received.len() >= length
            {
                self.is_last = self.received[1] & END_OF_MESSAGE != 0;
                self.payload
                    .extend_from_slice(&self.received[HEADER_BYTES..length]);
                self.received.advance(length);
                return Ok(());
            }
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(match self.received.is_empty() && self.payload.is_empty() {
                    true => {
                        Cause::new(Reason::ConnectReset, "the server hung up without an answer")
                    }
                    false => Cause::new(
                        Reason::ConnectReset,
                        "the server hung up in the middle of its answer",
                    ),
                });
            }
        }
    }

    /// Makes `count` bytes of the message available.
    async fn need(&mut self, count: usize) -> Result<(), Cause> {
        while self.payload.len() - self.at < count {
            if self.is_last {
                return Err(unreadable("it ends in the middle of a token"));
            }
            self.payload.drain(..self.at);
            self.at = 0;
            self.next_packet().await?;
        }
        Ok(())
    }

    async fn array<const N: usize>(&mut self) -> Result<[u8; N], Cause> {
        self.need(N).await?;
        let mut res = [0; N];
        res.copy_from_slice(&self.payload[self.at..self.at + N]);
        self.at += N;
        Ok(res)
    }

    async fn u8(&mut self) -> Result<u8, Cause> {
        Ok(self.array::<1>().await?[0])
    }

    async fn u16(&mut self) -> Result<u16, Cause> {
        Ok(u16::from_le_bytes(self.array().await?))
    }

    async fn u32(&mut self) -> Result<u32, Cause> {
        Ok(u32::from_le_bytes(self.array().await?))
    }

    /// What stands behind a length of two bytes.
    async fn body(&mut self) -> Result<Vec<u8>, Cause> {
        let length = usize::from(self.u16().await?);
        self.need(length).await?;
        let body = self.payload[self.at..self.at + length].to_vec();
        self.at += length;
        Ok(body)
    }

    /// Passes over bytes, without keeping them all at once.
    async fn skip(&mut self, mut count: u64) -> Result<(), Cause> {
        loop {
            let here = (self.payload.len() - self.at) as u64;
            let passed = here.min(count);
            self.at += passed as usize;
            count -= passed;
            if count == 0 {
                return Ok(());
            }
            self.need(1).await?;
        }
    }

    /// Reads the rest of a message. What a server has said before it hangs up says more than that it
    /// did.
    async fn answer(&mut self) -> Result<Answer, Cause> {
        let mut answer = Answer::default();
        match self.tokens(&mut answer).await {
            Err(cause) if answer.error.is_none() => Err(cause),
            _ => Ok(answer),
        }
    }

    async fn tokens(&mut self, answer: &mut Answer) -> Result<(), Cause> {
        let mut columns = Vec::new();
        // Whether the token before was one that ends a response. An answer without is cut short,
        // though its last packet says that it is the last.
        let mut is_whole = false;
        loop {
            consume_budget().await;
            while self.at == self.payload.len() {
                match (self.is_last, is_whole) {
                    (true, true) => return Ok(()),
                    (true, false) => {
                        return Err(Cause::protocol(
                            "the server's answer breaks off: it has no end (`DONE`)",
                        )
                        .hint("is it a SQL Server, and not something that only begins like one?"));
                    }
                    (false, _) => {}
                }
                self.payload.clear();
                self.at = 0;
                self.next_packet().await?;
            }
            is_whole = false;
            match self.u8().await? {
                0x79 => self.skip(4).await?,
                0x81 => columns = self.columns().await?,
                // TABNAME, COLINFO, ORDER, INFO, SSPI.
                0xA4 | 0xA5 | 0xA9 | 0xAB | 0xED => {
                    let length = self.u16().await?;
                    self.skip(u64::from(length)).await?;
                }
                0xAA => {
                    let body = self.body().await?;
                    let error = ServerError::parse(&body).ok_or_else(|| unreadable("an error"))?;
                    answer.error.get_or_insert(error);
                }
                0xAC => self.return_value().await?,
                0xAD => {
                    let body = self.body().await?;
                    let login = LoginAck::parse(&body).ok_or_else(|| unreadable("the welcome"))?;
                    answer.login = Some(login);
                }
                0xAE => self.features().await?,
                0xD1 => {
                    for column in &columns {
                        self.skip_value(*column).await?;
                    }
                }
                0xD2 => self.row_with_bitmap(&columns).await?,
                0xE3 => {
                    let body = self.body().await?;
                    match EnvChange::parse(&body).ok_or_else(|| unreadable("a change"))? {
                        EnvChange::PacketBytes(bytes) => self.packet_bytes = bytes,
                        EnvChange::Routing(host, port) => answer.routing = Some((host, port)),
                        EnvChange::Other => {}
                    }
                }
                // SESSIONSTATE, FEDAUTHINFO.
                0xE4 | 0xEE => {
                    let length = self.u32().await?;
                    self.skip(u64::from(length)).await?;
                }
                // DONE, DONEPROC, and DONEINPROC, behind which there is always one of these.
                token @ 0xFD..=0xFF => {
                    let done: [u8; DONE_BYTES - 1] = self.array().await?;
                    let status = u16::from_le_bytes([done[0], done[1]]);
                    is_whole = token != 0xFF && status & DONE_MORE == 0;
                    answer.failed |= status & (DONE_ERROR | DONE_SERVER_ERROR) != 0;
                }
                other => return Err(unreadable(&format!("the token 0x{other:02X}"))),
            }
        }
    }

    /// How the values of each column are laid out.
    async fn columns(&mut self) -> Result<Vec<Layout>, Cause> {
        let count = match self.u16().await? {
            u16::MAX => 0,
            count @ ..=COLUMNS_MAX => count,
            count => return Err(unreadable(&format!("a result of {count} columns"))),
        };
        let mut columns = Vec::new();
        for _ in 0..count {
            // User type, flags.
            self.skip(4 + 2).await?;
            let (layout, has_table) = self.type_info().await?;
            if has_table {
                let parts = self.u8().await?;
                for _ in 0..parts {
                    self.skip_text16().await?;
                }
            }
            self.skip_text8().await?;
            columns.push(layout);
        }
        Ok(columns)
    }

    /// How a value of the type that is named here is laid out, and whether its column names its
    /// table.
    async fn type_info(&mut self) -> Result<(Layout, bool), Cause> {
        let (after, layout) = match self.u8().await? {
            // Not the type 0x1F, of which every value is null: it is one for clients alone. As no value
            // is without a byte of its own, a row costs us as much as it is long.
            0x30 | 0x32 => (0, Layout::Fixed(1)),
            0x34 => (0, Layout::Fixed(2)),
            0x38 | 0x3A | 0x3B | 0x7A => (0, Layout::Fixed(4)),
            0x3C | 0x3D | 0x3E | 0x7F => (0, Layout::Fixed(8)),
            // date
            0x28 => (0, Layout::Length8),
            // uniqueidentifier, what may be null of the fixed ones; time, datetime2, datetimeoffset;
            // the binary and text of old.
            0x24 | 0x26 | 0x68 | 0x6D | 0x6E | 0x6F | 0x29..=0x2B | 0x25 | 0x27 | 0x2D | 0x2F => {
                (1, Layout::Length8)
            }
            // decimal, numeric
            0x37 | 0x3F | 0x6A | 0x6C => (3, Layout::Length8),
            // varbinary, binary; varchar, char, nvarchar, nchar with their collation
            kind @ (0xA5 | 0xAD | 0xA7 | 0xAF | 0xE7 | 0xEF) => {
                let layout = match self.u16().await? {
                    u16::MAX => Layout::Parts,
                    _ => Layout::Length16,
                };
                (if matches!(kind, 0xA5 | 0xAD) { 0 } else { 5 }, layout)
            }
            // image; text, ntext
            kind @ (0x22 | 0x23 | 0x63) => {
                self.skip(if kind == 0x22 { 4 } else { 4 + 5 }).await?;
                return Ok((Layout::Pointer, true));
            }
            // sql_variant
            0x62 => (4, Layout::Length32),
            // xml
            0xF1 => {
                if self.u8().await? != 0 {
                    self.skip_text8().await?;
                    self.skip_text8().await?;
                    self.skip_text16().await?;
                }
                (0, Layout::Parts)
            }
            // a type of the user's own
            0xF0 => {
                self.skip(2).await?;
                self.skip_text8().await?;
                self.skip_text8().await?;
                self.skip_text8().await?;
                self.skip_text16().await?;
                (0, Layout::Parts)
            }
            other => return Err(unreadable(&format!("a value of the type 0x{other:02X}"))),
        };
        self.skip(after).await?;
        Ok((layout, false))
    }

    async fn skip_value(&mut self, layout: Layout) -> Result<(), Cause> {
        let length = match layout {
            Layout::Fixed(length) => u64::from(length),
            Layout::Length8 => u64::from(self.u8().await?),
            Layout::Length16 => match self.u16().await? {
                u16::MAX => 0,
                length => u64::from(length),
            },
            Layout::Length32 => u64::from(self.u32().await?),
            Layout::Parts => {
                if u64::from_le_bytes(self.array().await?) == u64::MAX {
                    return Ok(());
                }
                loop {
                    match self.u32().await? {
                        0 => return Ok(()),
                        length => self.skip(u64::from(length)).await?,
                    }
                }
            }
            Layout::Pointer => match self.u8().await? {
                0 => 0,
                pointer => {
                    // The pointer, and a time stamp.
                    self.skip(u64::from(pointer) + 8).await?;
                    u64::from(self.u32().await?)
                }
            },
        };
        self.skip(length).await
    }

    /// A row that says first which of its values are null, and leaves those out.
    async fn row_with_bitmap(&mut self, columns: &[Layout]) -> Result<(), Cause> {
        let mut nulls = Vec::new();
        for _ in 0..columns.len().div_ceil(8) {
            nulls.push(self.u8().await?);
        }
        for (index, column) in columns.iter().enumerate() {
            if nulls[index / 8] & (1 << (index % 8)) == 0 {
                self.skip_value(*column).await?;
            }
        }
        Ok(())
    }

    async fn return_value(&mut self) -> Result<(), Cause> {
        // Its number, name, status, user type, flags.
        self.skip(2).await?;
        self.skip_text8().await?;
        self.skip(1 + 4 + 2).await?;
        let (layout, _) = self.type_info().await?;
        self.skip_value(layout).await
    }

    async fn features(&mut self) -> Result<(), Cause> {
        while self.u8().await? != 0xFF {
            let length = self.u32().await?;
            self.skip(u64::from(length)).await?;
        }
        Ok(())
    }

    async fn skip_text8(&mut self) -> Result<(), Cause> {
        let length = self.u8().await?;
        self.skip(u64::from(length) * 2).await
    }

    async fn skip_text16(&mut self) -> Result<(), Cause> {
        let length = self.u16().await?;
        self.skip(u64::from(length) * 2).await
    }
}

/// The token, its status, the command, a count.
const DONE_BYTES: usize = 13;
const DONE_MORE: u16 = 0x0001;
const DONE_ERROR: u16 = 0x0002;
const DONE_ATTENTION: u16 = 0x0020;
const DONE_SERVER_ERROR: u16 = 0x0100;

/// The most columns of a result (of a `SELECT`; a table has at most 1,024).
const COLUMNS_MAX: u16 = 4096;

/// How a value says how long it is.
#[derive(Clone, Copy, Debug)]
enum Layout {
    Fixed(u8),
    Length8,
    /// Two bytes; all ones is null.
    Length16,
    Length32,
    /// In parts, each with its length, the last one empty (PLP).
    Parts,
    /// Behind a pointer into the table (text, ntext, image).
    Pointer,
}

/// The length of the packet that begins here, once it can be told. What is no packet shows as soon
/// as it can.
fn packet_length(received: &[u8]) -> Result<Option<usize>, Cause> {
    match received {
        [kind, ..] if *kind != RESPONSE => Err(not_tds()),
        // Bits that nobody has given a meaning to.
        [_, status, ..] if status & 0xE0 != 0 => Err(not_tds()),
        [_, _, a, b, ..] => match usize::from(u16::from_be_bytes([*a, *b])) {
            length @ HEADER_BYTES..=PACKET_MAX_BYTES => Ok(Some(length)),
            _ => Err(not_tds()),
        },
        _ => Ok(None),
    }
}

/// A message in packets of at most this many bytes.
pub(super) fn packets(kind: u8, message: &[u8], packet_bytes: usize) -> Vec<u8> {
    let room = packet_bytes.clamp(512, PACKET_MAX_BYTES) - HEADER_BYTES;
    // An empty message is a packet too.
    let count = message.len().div_ceil(room).max(1);
    let mut res = Vec::with_capacity(message.len() + count * HEADER_BYTES);
    for index in 0..count {
        let part = &message[index * room..message.len().min((index + 1) * room)];
        let status = if index + 1 == count {
            END_OF_MESSAGE
        } else {
            0
        };
        let length = (part.len() + HEADER_BYTES) as u16;
        res.extend([kind, status]);
        res.extend(length.to_be_bytes());
        // The process (the server's matter), the number of the packet, the window (unused).
        res.extend([0, 0, (index + 1) as u8, 0]);
        res.extend(part);
    }
    res
}

/// PRELOGIN: a table of options with their places, then the options.
fn prelogin(want: Offer, instance: &str) -> Vec<u8> {
    let mut instance = instance.as_bytes().to_vec();
    instance.push(0);
    let options: [(u8, &[u8]); 4] = [
        // Our version. Nobody reads it.
        (0, &[0, 0, 0, 0, 0, 0]),
        (1, &[want.code()]),
        (2, &instance),
        // Several answers at once.
        (4, &[0]),
    ];
    let mut table = Vec::new();
    let mut data: Vec<u8> = Vec::new();
    for (option, value) in options {
        let place = options.len() * 5 + 1 + data.len();
        table.push(option);
        table.extend((place as u16).to_be_bytes());
        table.extend((value.len() as u16).to_be_bytes());
        data.extend(value);
    }
    table.push(0xFF);
    table.extend(data);
    table
}

impl Prelogin {
    fn parse(message: &[u8]) -> Option<Self> {
        let mut version = None;
        let mut encryption = None;
        let mut is_instance = true;
        for entry in message.chunks(5) {
            let [option, a, b, c, d] = *entry else {
                if entry.first() != Some(&0xFF) {
                    return None;
                }
                break;
            };
            if option == 0xFF {
                break;
            }
            let from = usize::from(u16::from_be_bytes([a, b]));
            let length = usize::from(u16::from_be_bytes([c, d]));
            let value = message.get(from..from + length)?;
            match (option, value) {
                (0, [major, minor, a, b, ..]) => {
                    version = Some(Version(*major, *minor, u16::from_be_bytes([*a, *b])));
                }
                (0, _) => return None,
                (1, [code]) => {
                    encryption = Some(*Offer::ALL.iter().find(|offer| offer.code() == *code)?);
                }
                (1, _) => return None,
                (2, [first, ..]) => is_instance = *first == 0,
                _ => {}
            }
        }
        Some(Self {
            version,
            encryption: encryption?,
            is_instance,
        })
    }
}

/// LOGIN7: a fixed part with the place and length of each text, then the texts.
fn login7(login: &Login<'_>) -> Vec<u8> {
    const FIXED_BYTES: usize = 94;
    let version: u32 = match login.strict {
        true => 0x0800_0000,
        false => 0x7400_0004,
    };
    let mut fixed = Vec::with_capacity(FIXED_BYTES);
    let mut data: Vec<u8> = Vec::new();
    // The length, filled in below.
    fixed.extend([0; 4]);
    fixed.extend(version.to_le_bytes());
    fixed.extend(login.packet_bytes.to_le_bytes());
    // The version of the client, its process, a connection to go on with.
    fixed.extend([0; 12]);
    // Say when the database or language changes; that they cannot be had is an error.
    fixed.push(0x20 | 0x40 | 0x80);
    // ODBC's settings of a session, which are ANSI's; the language likewise.
    fixed.push(0x01 | 0x02);
    // Plain SQL; only reading.
    fixed.push(if login.read_only { 0x20 } else { 0 });
    fixed.push(0);
    // The time zone, the locale (en-US).
    fixed.extend([0; 4]);
    fixed.extend(0x0409_u32.to_le_bytes());
    let mut put = |fixed: &mut Vec<u8>, text: &[u8]| {
        fixed.extend(((FIXED_BYTES + data.len()) as u16).to_le_bytes());
        fixed.extend(((text.len() / 2) as u16).to_le_bytes());
        data.extend(text);
    };
    put(&mut fixed, &utf16(login.workstation));
    put(&mut fixed, &utf16(login.username));
    put(&mut fixed, &disguised(login.password));
    put(&mut fixed, &utf16(login.app_name));
    put(&mut fixed, &utf16(login.server));
    put(&mut fixed, &[]);
    put(&mut fixed, &utf16("conncheck"));
    put(&mut fixed, &utf16(login.language));
    put(&mut fixed, &utf16(login.database));
    // The hardware address.
    fixed.extend([0; 6]);
    // Windows' login, a file to attach, a new password.
    put(&mut fixed, &[]);
    put(&mut fixed, &[]);
    put(&mut fixed, &[]);
    fixed.extend([0; 4]);
    fixed.extend(data);
    let length = (fixed.len() as u32).to_le_bytes();
    fixed[..4].copy_from_slice(&length);
    fixed
}

/// A batch: headers, of which there must be the one on the transaction (there is none), and the text.
fn sql_batch(query: &str) -> Vec<u8> {
    let mut message = Vec::new();
    message.extend(22_u32.to_le_bytes());
    message.extend(18_u32.to_le_bytes());
    message.extend(2_u16.to_le_bytes());
    message.extend(0_u64.to_le_bytes());
    message.extend(1_u32.to_le_bytes());
    message.extend(utf16(query));
    message
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// A password as a login writes it: no secret to anybody who has read the specification.
pub(super) fn disguised(password: &str) -> Vec<u8> {
    let mut bytes = utf16(password);
    for byte in &mut bytes {
        *byte = byte.rotate_left(4) ^ 0xA5;
    }
    bytes
}

/// Text as we read it, whatever is in it.
pub(super) fn text(utf16: &[u8]) -> String {
    let units = utf16.as_chunks::<2>().0;
    char::decode_utf16(units.iter().map(|unit| u16::from_le_bytes(*unit)))
        .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect()
}

/// Reads what a token holds.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn text8(&mut self) -> Option<String> {
        let length = usize::from(self.u8()?);
        self.take(length * 2).map(text)
    }

    fn text16(&mut self) -> Option<String> {
        let length = usize::from(self.u16()?);
        self.take(length * 2).map(text)
    }
}

impl ServerError {
    fn parse(body: &[u8]) -> Option<Self> {
        let mut fields = Fields(body);
        Some(Self {
            number: i32::from_le_bytes(fields.array()?),
            state: fields.u8()?,
            class: fields.u8()?,
            message: fields.text16()?,
        })
    }
}

impl LoginAck {
    fn parse(body: &[u8]) -> Option<Self> {
        let mut fields = Fields(body);
        // The interface, the version of TDS.
        fields.take(1 + 4)?;
        let name = fields.text8()?;
        let [major, minor, a, b] = fields.array()?;
        Some(Self {
            name: name.trim_matches(['\0', ' ']).to_owned(),
            version: Version(major, minor, u16::from_be_bytes([a, b])),
        })
    }
}

/// What an ENVCHANGE changes, as far as it is our business.
#[derive(Debug, PartialEq, Eq)]
enum EnvChange {
    PacketBytes(usize),
    Routing(String, u16),
    Other,
}

impl EnvChange {
    fn parse(body: &[u8]) -> Option<Self> {
        let mut fields = Fields(body);
        match fields.u8()? {
            4 => {
                let bytes = fields.text8()?.parse().ok()?;
                (512..=PACKET_MAX_BYTES)
                    .contains(&bytes)
                    .then_some(Self::PacketBytes(bytes))
            }
            20 => {
                // The length of it all, the protocol: TCP.
                fields.u16()?;
                if fields.u8()? != 0 {
                    return None;
                }
                let port = fields.u16()?;
                let host = fields.text16()?;
                Some(Self::Routing(host, port))
            }
            _ => Some(Self::Other),
        }
    }
}

fn not_tds() -> Cause {
    Cause::protocol("the answer is not in SQL Server's protocol (TDS)")
        .hint("is it the port of a SQL Server?")
}

fn unreadable(what: &str) -> Cause {
    Cause::protocol(format!(
        "the server's answer cannot be read: {what} is not as it must be"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads an answer of these bytes, in packets of at most so many.
    async fn read(payload: &[u8], packet_bytes: usize) -> Result<Answer, Cause> {
        let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
        let mut wire = Wire::new(Stream::new(ours));
        let packets = packets(RESPONSE, payload, packet_bytes);
        let peer = async {
            // It may have heard enough before the end.
            let _ = theirs.write_all(&packets).await;
            drop(theirs);
        };
        let reader = async {
            wire.first_packet(Ok(())).await?;
            wire.answer().await
        };
        let (res, ()) = tokio::join!(reader, peer);
        res
    }

    fn error(number: i32, message: &str) -> Vec<u8> {
        let mut body = number.to_le_bytes().to_vec();
        body.extend([1, 16]);
        body.extend((message.encode_utf16().count() as u16).to_le_bytes());
        body.extend(utf16(message));
        body.extend([0, 0, 1, 0, 0, 0]);
        let length = (body.len() as u16).to_le_bytes();
        [&[0xAA][..], &length, &body].concat()
    }

    fn done(status: u16) -> Vec<u8> {
        let mut done = vec![0xFD];
        done.extend(status.to_le_bytes());
        done.extend([0; 10]);
        done
    }

    /// An int column without a name, and a row.
    const ONE: &[u8] = &[0x81, 1, 0, 0, 0, 0, 0, 0, 0, 0x38, 0, 0xD1, 1, 0, 0, 0];

    #[tokio::test]
    async fn an_answer_is_read_however_it_is_cut_into_packets() {
        let payload = [ONE, &done(0x11), ONE, &error(208, "nö"), &done(0x02)].concat();
        for packet_bytes in [512, 4096] {
            let answer = read(&payload, packet_bytes).await.unwrap();
            let error = answer.error.expect("an error");
            assert_eq!((error.number, error.class), (208, 16));
            assert_eq!(error.message, "nö");
            assert!(answer.failed);
        }
        // Packets of one byte each.
        let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
        let mut wire = Wire::new(Stream::new(ours));
        for (index, byte) in payload.iter().enumerate() {
            let last = u8::from(index + 1 == payload.len());
            theirs
                .write_all(&[RESPONSE, last, 0, 9, 0, 0, 0, 0, *byte])
                .await
                .unwrap();
        }
        wire.first_packet(Ok(())).await.unwrap();
        assert_eq!(wire.answer().await.unwrap().error.unwrap().number, 208);
    }

    #[tokio::test]
    async fn the_first_error_counts_and_stands_though_the_server_hangs_up() {
        let payload = [
            error(4060, "no such database"),
            error(18456, "login failed"),
        ]
        .concat();
        // The rest of the message never comes.
        let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
        let mut wire = Wire::new(Stream::new(ours));
        let mut packet = packets(RESPONSE, &payload, 4096);
        packet[1] = 0;
        theirs.write_all(&packet).await.unwrap();
        drop(theirs);
        wire.first_packet(Ok(())).await.unwrap();
        let answer = wire.answer().await.unwrap();
        assert_eq!(answer.error.unwrap().number, 4060);
    }

    #[tokio::test]
    async fn every_end_of_an_answer_that_is_too_early_is_an_error() {
        let with_an_error = [ONE, &error(208, "x"), &done(0x02)].concat();
        let error_ends = ONE.len() + error(208, "x").len();
        for payload in [with_an_error, [ONE, &done(0x11), ONE, &done(0)].concat()] {
            for length in 0..payload.len() {
                match read(&payload[..length], 4096).await {
                    Err(cause) => assert_eq!(cause.reason, Reason::Protocol, "{length}"),
                    // The error that came before is worth more.
                    Ok(answer) => assert!(
                        answer.error.is_some() && length >= error_ends,
                        "{length}: {answer:?}"
                    ),
                }
            }
            read(&payload, 4096).await.unwrap();
        }
    }

    #[tokio::test]
    async fn an_answer_ends_with_what_says_that_it_is_over() {
        let of = |token: u8, status: u16| [&[token], &done(status)[1..]].concat();
        for end in [of(0xFD, 0), of(0xFE, 0), of(0xFD, 0x10)] {
            read(&[ONE, &end].concat(), 4096).await.unwrap();
        }
        for no_end in [
            Vec::new(),
            ONE.to_vec(),
            of(0xFD, DONE_MORE),
            of(0xFE, DONE_MORE | 0x10),
            of(0xFF, 0),
            [&done(0)[..], ONE].concat(),
        ] {
            let cause = read(&no_end, 4096).await.expect_err("cut short");
            assert_eq!(cause.reason, Reason::Protocol);
            assert!(cause.message.contains("breaks off"), "{cause:?}");
        }
    }

    /// Reads what comes for as long as it is allowed to, and says for how long it was at it.
    async fn read_without_end(head: &[u8], piece: &[u8]) -> std::time::Duration {
        let bytes = [head, &piece.repeat(8 * 1024 * 1024 / piece.len())].concat();
        // Never pending, so that nothing but the budget of a task makes it let go.
        let mut wire = Wire::new(Stream::new(tokio::io::join(
            std::io::Cursor::new(bytes),
            tokio::io::sink(),
        )));
        let start = tokio::time::Instant::now();
        let reader = async {
            wire.first_packet(Ok(())).await?;
            wire.answer().await
        };
        let limit = std::time::Duration::from_millis(50);
        assert!(
            tokio::time::timeout(limit, reader).await.is_err(),
            "it has an end, or did not let go"
        );
        start.elapsed()
    }

    #[tokio::test]
    async fn what_has_no_end_is_cut_at_the_deadline() {
        let in_packets = |payload: &[u8]| {
            let mut packet = packets(RESPONSE, payload, PACKET_MAX_BYTES);
            packet[1] = 0;
            packet
        };
        let empty_rows = in_packets(&[0xD1; 32_000]);
        let wide = [
            &[0x81, 0, 0x10][..],
            &[0, 0, 0, 0, 0, 0, 0x26, 4, 0].repeat(4096),
        ]
        .concat();
        let (first, rest) = wide.split_at(32_000);
        let columns = [in_packets(first), in_packets(rest)].concat();
        // A bitmap of nulls, and nothing behind it.
        let all_null = in_packets(&[&[0xD2][..], &[0xFF; 512]].concat().repeat(60));
        for (head, piece) in [
            (&[][..], &[RESPONSE, 0, 0, 8, 0, 0, 0, 0][..]),
            (&[], &empty_rows),
            (&columns, &all_null),
        ] {
            let took = read_without_end(head, piece).await;
            assert!(took < std::time::Duration::from_secs(2), "{took:?}");
        }
    }

    #[tokio::test]
    async fn lengths_that_lie_are_not_believed() {
        for payload in [
            // An error of 65,535 bytes; a feature of four gigabytes; a state of as many.
            &[0xAA, 0xFF, 0xFF, 0][..],
            &[0xAE, 1, 0xFF, 0xFF, 0xFF, 0xFF, 0],
            &[0xE4, 0xFF, 0xFF, 0xFF, 0xFF, 0],
            // 65,534 columns; 4,097; a type that does not exist, and one that is for clients; a token
            // that does not exist.
            &[0x81, 0xFE, 0xFF, 0, 0],
            &[
                &[0x81, 1, 0x10][..],
                &[0, 0, 0, 0, 0, 0, 0x38, 0].repeat(4097),
                &done(0),
            ]
            .concat(),
            &[0x81, 1, 0, 0, 0, 0, 0, 0, 0, 0x77, 0],
            &[0x81, 1, 0, 0, 0, 0, 0, 0, 0, 0x1F, 0, 0xD1],
            &[0x42],
            // A change of the packets' length to what cannot be.
            &[0xE3, 7, 0, 4, 2, b'1', 0, b'2', 0, 0],
            // Routing by something that is not TCP.
            &[0xE3, 9, 0, 20, 5, 0, 1, 0, 0, 0, 0, 0],
        ] {
            let cause = read(payload, 4096).await.expect_err("unreadable");
            assert_eq!(cause.reason, Reason::Protocol, "{payload:?}: {cause:?}");
        }
    }

    #[test]
    fn what_is_no_packet_shows_at_once() {
        for received in [
            &b"H"[..],
            b"\x15\x03\x01",
            b"\x04\xff",
            b"\x04\x01\0\x07",
            b"\x04\x01\xff\xff",
        ] {
            let cause = packet_length(received).expect_err("no packet");
            assert_eq!(cause.reason, Reason::Protocol);
        }
        assert_eq!(packet_length(b"").unwrap(), None);
        assert_eq!(packet_length(b"\x04\x01\0").unwrap(), None);
        assert_eq!(packet_length(b"\x04\x01\0\x08").unwrap(), Some(8));
    }

    #[test]
    fn a_message_is_cut_into_packets() {
        assert_eq!(packets(ATTENTION, &[], 4096), [6, 1, 0, 8, 0, 0, 1, 0]);
        let message: Vec<u8> = (0..=255).cycle().take(1200).collect();
        let packets = packets(SQL_BATCH, &message, 512);
        let (mut rest, mut payload, mut number) = (&packets[..], Vec::new(), 0);
        while let [kind, status, a, b, _, _, packet, _, ..] = *rest {
            number += 1;
            let length = usize::from(u16::from_be_bytes([a, b]));
            assert_eq!((kind, packet), (SQL_BATCH, number));
            assert_eq!(status == END_OF_MESSAGE, rest.len() == length);
            assert!(length <= 512);
            payload.extend(&rest[HEADER_BYTES..length]);
            rest = &rest[length..];
        }
        assert_eq!((payload, number), (message, 3));
    }

    #[test]
    fn prelogin_says_and_hears() {
        let asked = prelogin(Offer::On, "SQLEXPRESS");
        let heard = Prelogin::parse(&asked).unwrap();
        assert_eq!(heard.encryption, Offer::On);
        assert!(!heard.is_instance, "its name is no zero");
        let answer = b"\0\0\x10\0\x06\x01\0\x16\0\x01\x02\0\x17\0\x01\xff\x10\0\x10\x27\0\0\x03\0";
        assert_eq!(
            Prelogin::parse(answer),
            Some(Prelogin {
                version: Some(Version(16, 0, 4135)),
                encryption: Offer::Required,
                is_instance: true,
            })
        );
        for wrong in [
            &b""[..],
            b"\xff",
            b"\x01\0\x06\0\x01\xff\x09",
            b"\x01\xff\xff\xff\xff\xff\0",
            b"\x01\0\x06",
            b"HTTP/1.1 400 Bad Request",
        ] {
            assert_eq!(Prelogin::parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_password_is_disguised_as_the_specification_says() {
        // `a`: 61 00, its halves exchanged 16 00, XOR A5.
        assert_eq!(disguised("a"), [0xB3, 0xA5]);
        assert_eq!(text(&utf16("pä\u{1F600}")), "pä\u{1F600}");
        // Half a pair.
        assert_eq!(text(&[0x00, 0xD8]), "\u{FFFD}");
    }

    #[test]
    fn a_login_has_its_texts_where_it_says() {
        let login = login7(&Login {
            strict: false,
            username: "sa",
            password: "pw",
            server: "host",
            database: "orders",
            app_name: "app",
            workstation: "here",
            language: "",
            read_only: true,
            packet_bytes: 4096,
        });
        assert_eq!(login[..4], (login.len() as u32).to_le_bytes());
        assert_eq!(login[4..8], 0x7400_0004_u32.to_le_bytes());
        assert_eq!(login[26], 0x20);
        for (place, text) in [
            (36, utf16("here")),
            (40, utf16("sa")),
            (44, disguised("pw")),
            (48, utf16("app")),
            (52, utf16("host")),
            (60, utf16("conncheck")),
            (64, vec![]),
            (68, utf16("orders")),
        ] {
            let at = |at: usize| usize::from(u16::from_le_bytes([login[at], login[at + 1]]));
            let (from, length) = (at(place), at(place + 2) * 2);
            assert_eq!(login[from..from + length], text, "{place}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_answer_is_too_strange(payload: Vec<u8>) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _ = runtime.block_on(read(&payload, 512));
            let _ = Prelogin::parse(&payload);
        }

        #[test]
        fn nor_is_one_that_begins_right(
            tail: Vec<u8>,
            types in proptest::collection::vec(0x1F_u8.., 1..6),
        ) {
            let mut payload = vec![0x81, types.len() as u8, 0];
            for kind in types {
                payload.extend([0, 0, 0, 0, 0, 0, kind, 4, 0, 0, 0, 0, 0, 0]);
            }
            payload.push(0xD1);
            payload.extend(tail);
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _ = runtime.block_on(read(&payload, 512));
        }
    }
}
