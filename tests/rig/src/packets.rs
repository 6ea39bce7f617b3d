//! MySQL's packets, for both sides of a conversation: a length, a number, and what is in it.

use std::io::{self, Read, Write};

pub(crate) struct Packets<S> {
    pub stream: S,
    /// The number of the next packet, whoever sends it.
    pub sequence: u8,
}

impl<S: Read + Write> Packets<S> {
    pub fn new(stream: S) -> Packets<S> {
        Packets {
            stream,
            sequence: 0,
        }
    }

    pub fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut head = [0; 4];
        self.stream.read_exact(&mut head)?;
        let [low, middle, high, sequence] = head;
        if sequence != self.sequence {
            return Err(invalid(format!(
                "packet {sequence} came, and {} was due",
                self.sequence
            )));
        }
        self.sequence = sequence.wrapping_add(1);
        let length = u32::from_le_bytes([low, middle, high, 0]);
        let mut packet = vec![0; length as usize];
        self.stream.read_exact(&mut packet)?;
        Ok(packet)
    }

    pub fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        let [low, middle, high, _] = (packet.len() as u32).to_le_bytes();
        let mut bytes = vec![low, middle, high, self.sequence];
        self.sequence = self.sequence.wrapping_add(1);
        bytes.extend_from_slice(packet);
        self.stream.write_all(&bytes)?;
        self.stream.flush()
    }
}

/// Takes a text that ends in a NUL off the front.
pub(crate) fn text<'a>(rest: &mut &'a [u8]) -> io::Result<&'a [u8]> {
    let end = rest.iter().position(|byte| *byte == 0);
    let end = end.ok_or_else(|| invalid("a text that does not end"))?;
    let (text, tail) = rest.split_at(end);
    *rest = &tail[1..];
    Ok(text)
}

/// Takes `count` bytes off the front.
pub(crate) fn bytes<'a>(rest: &mut &'a [u8], count: usize) -> io::Result<&'a [u8]> {
    let (bytes, tail) = rest
        .split_at_checked(count)
        .ok_or_else(|| invalid("a packet that is too short"))?;
    *rest = tail;
    Ok(bytes)
}

/// Takes a length-encoded value off the front; `None` is NULL.
pub(crate) fn value<'a>(rest: &mut &'a [u8]) -> io::Result<Option<&'a [u8]>> {
    let first = bytes(rest, 1)?[0];
    let length = match first {
        0xfb => return Ok(None),
        0xfc => {
            let length = bytes(rest, 2)?;
            usize::from(u16::from_le_bytes([length[0], length[1]]))
        }
        0xfd.. => return Err(invalid("a value of more than 64 KiB")),
        length => usize::from(length),
    };
    bytes(rest, length).map(Some)
}

pub(crate) fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}
