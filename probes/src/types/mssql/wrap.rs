//! TLS inside TDS: up to TDS 7.4 the handshake travels in PRELOGIN packets, and what is encrypted
//! afterwards does not.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::tds::{HEADER_BYTES, PRELOGIN, RESPONSE, packets};
use crate::attempt::Stream;

/// The connection below TLS, and how what TLS says is carried over it.
struct Below {
    stream: Stream,
    stage: Stage,
    /// What TLS has said since the last flush, in the handshake.
    said: Vec<u8>,
    /// The same in packets, and how much of them has been sent.
    packets: Vec<u8>,
    sent: usize,
    /// The header of the packet that is being received, as far as it is here.
    header: Vec<u8>,
    /// How much of that packet is still to come.
    body_bytes: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// In packets.
    Handshake,
    /// As it is.
    Through,
    /// Not at all: only the login was to be encrypted, and it is sent.
    Over,
}

/// What TLS is spoken over.
pub(super) struct UnderTls(Arc<Mutex<Below>>);

/// The connection itself, for what is said without TLS.
pub(super) struct Plain(Arc<Mutex<Below>>);

/// Both ends of a connection on which a handshake is to be carried in packets.
pub(super) fn wrap(stream: Stream) -> (UnderTls, Plain) {
    let below = Arc::new(Mutex::new(Below {
        stream,
        stage: Stage::Handshake,
        said: Vec::new(),
        packets: Vec::new(),
        sent: 0,
        header: Vec::new(),
        body_bytes: 0,
    }));
    (UnderTls(Arc::clone(&below)), Plain(below))
}

impl Plain {
    /// The handshake is over: TLS speaks without packets around it.
    pub(super) fn handshake_is_over(&self) {
        lock(&self.0).stage = Stage::Through;
    }

    /// The server has heard the login and goes on without TLS. What TLS has yet to say (its own
    /// goodbye) would be taken for a packet.
    pub(super) fn tls_is_over(&self) {
        lock(&self.0).stage = Stage::Over;
    }
}

/// A panic of another thread cannot happen: both ends belong to one conversation.
fn lock(below: &Mutex<Below>) -> MutexGuard<'_, Below> {
    below.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Below {
    fn stream(&mut self) -> Pin<&mut Stream> {
        Pin::new(&mut self.stream)
    }

    /// Reads what is inside of the packets.
    fn poll_unwrap(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.body_bytes == 0 {
            let mut rest = [0; HEADER_BYTES];
            let mut rest = ReadBuf::new(&mut rest[self.header.len()..]);
            ready!(self.stream().poll_read(cx, &mut rest))?;
            if rest.filled().is_empty() {
                return Poll::Ready(match self.header.is_empty() {
                    true => Ok(()),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                });
            }
            self.header.extend_from_slice(rest.filled());
            if !matches!(self.header[..], [PRELOGIN | RESPONSE, ..]) {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the answer to the TLS handshake is not in a TDS packet",
                )));
            }
            if let [_, _, a, b, _, _, _, _] = self.header[..] {
                self.body_bytes =
                    usize::from(u16::from_be_bytes([a, b])).saturating_sub(HEADER_BYTES);
                self.header.clear();
            }
        }
        let most = self.body_bytes.min(buf.remaining());
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
        ready!(self.stream().poll_read(cx, &mut part))?;
        let received = part.filled().len();
        if received == 0 && most > 0 {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        self.body_bytes -= received;
        buf.advance(received);
        Poll::Ready(Ok(()))
    }

    /// Sends what TLS has said, in packets.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while self.sent < self.packets.len() {
                let part = &self.packets[self.sent..];
                let count = ready!(Pin::new(&mut self.stream).poll_write(cx, part))?;
                if count == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.sent += count;
            }
            if self.said.is_empty() {
                return self.stream().poll_flush(cx);
            }
            self.packets = packets(PRELOGIN, &std::mem::take(&mut self.said), 4096);
            self.sent = 0;
        }
    }
}

impl AsyncRead for UnderTls {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut below = lock(&self.0);
        match below.stage {
            Stage::Handshake => {
                ready!(below.poll_send(cx))?;
                below.poll_unwrap(cx, buf)
            }
            Stage::Through => below.stream().poll_read(cx, buf),
            Stage::Over => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for UnderTls {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut below = lock(&self.0);
        match below.stage {
            Stage::Handshake => below.said.extend_from_slice(buf),
            Stage::Through => return below.stream().poll_write(cx, buf),
            Stage::Over => {}
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut below = lock(&self.0);
        match below.stage {
            Stage::Handshake => below.poll_send(cx),
            Stage::Through => below.stream().poll_flush(cx),
            Stage::Over => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut below = lock(&self.0);
        match below.stage {
            Stage::Handshake => {
                ready!(below.poll_send(cx))?;
                below.stream().poll_shutdown(cx)
            }
            Stage::Through => below.stream().poll_shutdown(cx),
            Stage::Over => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncRead for Plain {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        lock(&self.0).stream().poll_read(cx, buf)
    }
}

impl AsyncWrite for Plain {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        lock(&self.0).stream().poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.0).stream().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        lock(&self.0).stream().poll_shutdown(cx)
    }
}
