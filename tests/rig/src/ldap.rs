//! A directory of our own: what slapd cannot be made to say, in the bytes of RFC 4511.
//!
//! Active Directory's texts, a server that is busy, one that ends a connection with a notice, a bind that is
//! referred elsewhere. It knows no entries: each request gets the answers that a test gives.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
};

use crate::{
    acceptor::{ANY, Acceptor},
    error::Result,
};

/// What it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    Bind,
    Search,
    StartTls,
    /// Something else, by its tag.
    Other(u8),
}

/// What it says to that.
#[derive(Debug, Clone)]
pub enum Answer {
    /// The result of the request: its code and the server's words.
    Result(u8, String),
    /// The same with the URLs of whom to ask instead.
    Referral(Vec<String>),
    /// An entry without attributes.
    Entry(String),
    /// Where else to search.
    Reference(String),
    /// The notice of disconnection: its code and the server's words.
    Notice(u8, String),
    /// Bytes as they are.
    Raw(Vec<u8>),
    HangUp,
}

impl Answer {
    /// `success`
    pub fn success() -> Answer {
        Answer::Result(0, String::new())
    }
}

/// A listener that gives each request the answers of its owner's choice.
pub struct LdapPeer {
    acceptor: Acceptor,
}

impl LdapPeer {
    pub fn start(
        answers: impl Fn(Request) -> Vec<Answer> + Send + Sync + 'static,
    ) -> Result<LdapPeer> {
        let acceptor = Acceptor::start("ldap peer", ANY, move |stream, _| {
            // An error here is the other side leaving, which is its right.
            let _ = serve(stream, &answers);
        })?;
        Ok(LdapPeer { acceptor })
    }

    pub fn addr(&self) -> SocketAddr {
        self.acceptor.addr()
    }
}

fn serve(stream: &mut TcpStream, answers: &impl Fn(Request) -> Vec<Answer>) -> io::Result<()> {
    const UNBIND: u8 = 0x42;
    loop {
        let (id, tag) = read(stream)?;
        let (request, response) = match tag {
            UNBIND => return Ok(()),
            0x60 => (Request::Bind, 0x61),
            0x63 => (Request::Search, 0x65),
            0x77 => (Request::StartTls, 0x78),
            tag => (Request::Other(tag), 0x78),
        };
        for answer in answers(request) {
            let (id, operation) = match answer {
                Answer::HangUp => return Ok(()),
                Answer::Raw(bytes) => {
                    stream.write_all(&bytes)?;
                    continue;
                }
                Answer::Result(code, text) => (id, element(response, &result(code, &text))),
                Answer::Referral(urls) => {
                    let urls: Vec<u8> = urls.iter().flat_map(|url| octets(url)).collect();
                    let parts = [result(10, ""), element(0xa3, &urls)].concat();
                    (id, element(response, &parts))
                }
                Answer::Entry(dn) => {
                    let parts = [octets(&dn), element(0x30, b"")].concat();
                    (id, element(0x64, &parts))
                }
                Answer::Reference(url) => (id, element(0x73, &octets(&url))),
                Answer::Notice(code, text) => {
                    let name = element(0x8a, b"1.3.6.1.4.1.1466.20036");
                    (0, element(0x78, &[result(code, &text), name].concat()))
                }
            };
            let message = [element(0x02, &[id]), operation].concat();
            stream.write_all(&element(0x30, &message))?;
        }
    }
}

/// The number of the next request, and the tag of what it asks.
fn read(stream: &mut TcpStream) -> io::Result<(u8, u8)> {
    let mut head = [0; 2];
    stream.read_exact(&mut head)?;
    let length = match head[1] {
        short @ 0..0x80 => u64::from(short),
        long => {
            let mut bytes = [0; 8];
            let count = usize::from(long & 0x7f).min(8);
            stream.read_exact(&mut bytes[8 - count..])?;
            u64::from_be_bytes(bytes)
        }
    };
    let mut message = Vec::new();
    stream.take(length).read_to_end(&mut message)?;
    match message[..] {
        [0x02, 0x01, id, tag, ..] => Ok((id, tag)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn result(code: u8, text: &str) -> Vec<u8> {
    [element(0x0a, &[code]), octets(""), octets(text)].concat()
}

fn octets(text: &str) -> Vec<u8> {
    element(0x04, text.as_bytes())
}

/// An element; its length as Active Directory writes it, in four bytes.
fn element(tag: u8, contents: &[u8]) -> Vec<u8> {
    let length = (contents.len() as u32).to_be_bytes();
    [&[tag, 0x84][..], &length, contents].concat()
}
