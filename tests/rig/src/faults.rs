//! Peers that do it wrong, over plain TCP: refuse, hang, hang up, reset, trickle, talk nonsense.
//!
//! Each counts who came and who is still there, so that a test can say that nothing was left open. Each listens
//! on 127.0.0.1 and a free port, or with `…_on` on an address of your choice (all of 127.0.0.0/8 is ours).

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    time::Duration,
};

use rustix::net::{listen, sockopt::set_socket_linger};

use crate::{
    acceptor::{ANY, Acceptor, State},
    error::{Error, Result},
};

pub use crate::ports::{Refused, refused, refused_on};

/// One step of a peer's part in the conversation. After the last one it says nothing more and waits until the
/// other side closes.
#[derive(Debug, Clone)]
pub enum Step {
    /// Waits for the first bytes of the other side.
    Receive,
    /// Waits until the other side has sent so many bytes.
    ReceiveExactly(usize),
    Send(Vec<u8>),
    Wait(Duration),
    /// Sends one byte at a time, over and over, with this much time between.
    Trickle(Vec<u8>, Duration),
    /// Closes orderly: FIN.
    Close,
    /// Closes rudely: RST.
    Reset,
}

/// A listener whose every connection gets the same treatment.
pub struct Peer {
    acceptor: Acceptor,
}

impl Peer {
    /// A peer that follows `steps`.
    pub fn script(steps: impl Into<Vec<Step>>) -> Result<Peer> {
        Peer::script_on(ANY, steps)
    }

    pub fn script_on(addr: SocketAddr, steps: impl Into<Vec<Step>>) -> Result<Peer> {
        let steps: Arc<[Step]> = steps.into().into();
        let acceptor = Acceptor::start("faulty peer", addr, move |stream, state| {
            // An error here is the other side leaving, which is its right.
            let _ = follow(&steps, stream, state);
        })?;
        Ok(Peer { acceptor })
    }

    /// Accepts and never says a word.
    pub fn silent() -> Result<Peer> {
        Peer::script([])
    }

    /// Accepts and resets at once.
    pub fn reset() -> Result<Peer> {
        Peer::script([Step::Reset])
    }

    /// Accepts and closes at once.
    pub fn closes() -> Result<Peer> {
        Peer::script([Step::Close])
    }

    /// Resets once it has heard something.
    pub fn resets_after_request() -> Result<Peer> {
        Peer::script([Step::Receive, Step::Reset])
    }

    /// Closes once it has heard something.
    pub fn closes_after_request() -> Result<Peer> {
        Peer::script([Step::Receive, Step::Close])
    }

    /// Greets with these bytes and then hangs.
    pub fn hangs_after_greeting(greeting: impl Into<Vec<u8>>) -> Result<Peer> {
        Peer::script([Step::Send(greeting.into())])
    }

    /// Answers the first bytes it hears with these and then hangs.
    pub fn hangs_after_reply(reply: impl Into<Vec<u8>>) -> Result<Peer> {
        Peer::script([Step::Receive, Step::Send(reply.into())])
    }

    /// Sends these bytes one at a time, over and over.
    pub fn trickles(bytes: impl Into<Vec<u8>>, interval: Duration) -> Result<Peer> {
        Peer::script([Step::Trickle(bytes.into(), interval)])
    }

    /// Answers the first bytes it hears with a kilobyte that means nothing in any protocol, then hangs.
    pub fn nonsense() -> Result<Peer> {
        Peer::script([Step::Receive, Step::Send(gibberish())])
    }

    /// The same without waiting to be asked.
    pub fn nonsense_greeting() -> Result<Peer> {
        Peer::script([Step::Send(gibberish())])
    }

    pub fn addr(&self) -> SocketAddr {
        self.acceptor.addr()
    }

    pub fn port(&self) -> u16 {
        self.addr().port()
    }

    /// How many connections it has accepted.
    pub fn accepted(&self) -> usize {
        self.acceptor.accepted()
    }

    /// How many connections are open right now.
    pub fn open(&self) -> usize {
        self.acceptor.open()
    }

    /// Waits until nobody is connected, since a close takes a moment to arrive. False if somebody stayed.
    #[must_use]
    pub fn everybody_left(&self, within: Duration) -> bool {
        self.acceptor.wait(within, |acceptor| acceptor.open() == 0)
    }

    /// Waits until `count` connections have been accepted in all.
    #[must_use]
    pub fn has_accepted(&self, count: usize, within: Duration) -> bool {
        self.acceptor
            .wait(within, |acceptor| acceptor.accepted() >= count)
    }
}

fn follow(steps: &[Step], stream: &mut TcpStream, state: &State) -> io::Result<()> {
    let mut buffer = [0; 4096];
    for step in steps {
        match step {
            Step::Receive => {
                if stream.read(&mut buffer)? == 0 {
                    return Ok(());
                }
            }
            Step::ReceiveExactly(count) => {
                io::copy(&mut stream.take(*count as u64), &mut io::sink())?;
            }
            Step::Send(bytes) => stream.write_all(bytes)?,
            Step::Wait(time) => {
                if gone_within(stream, *time, state)? {
                    return Ok(());
                }
            }
            Step::Trickle(bytes, interval) => {
                for byte in bytes.iter().cycle() {
                    stream.write_all(&[*byte])?;
                    if gone_within(stream, *interval, state)? {
                        return Ok(());
                    }
                }
            }
            Step::Close => return Ok(()),
            Step::Reset => return reset(stream),
        }
    }
    io::copy(stream, &mut io::sink()).map(drop)
}

/// Reads for `time`; true when the other side closed meanwhile, or we are to stop.
fn gone_within(stream: &mut TcpStream, time: Duration, state: &State) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    let until = std::time::Instant::now() + time;
    let result = loop {
        let left = until.saturating_duration_since(std::time::Instant::now());
        if left.is_zero() || state.stopping() {
            break Ok(state.stopping());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer) {
            Ok(0) => break Ok(true),
            Ok(_) => {}
            Err(err)
                if matches!(
                    err.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) => {}
            Err(err) => break Err(err),
        }
    };
    stream.set_read_timeout(None)?;
    result
}

/// The next close of this socket is an RST.
fn reset(stream: &TcpStream) -> io::Result<()> {
    Ok(set_socket_linger(stream, Some(Duration::ZERO))?)
}

fn gibberish() -> Vec<u8> {
    (0..1024_u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

/// A port that swallows every SYN, as a firewall does: connecting neither succeeds nor fails.
///
/// A listener with the shortest queue, kept full by connections of our own that nobody accepts: the kernel drops
/// further ones. Where a kernel answers all the same, `start` says so instead of pretending.
pub struct BlackHole {
    _listener: TcpListener,
    _filling: Vec<TcpStream>,
    addr: SocketAddr,
}

impl BlackHole {
    pub fn start() -> Result<BlackHole> {
        BlackHole::start_on(ANY)
    }

    pub fn start_on(addr: SocketAddr) -> Result<BlackHole> {
        let listener = TcpListener::bind(addr)
            .map_err(Error::doing(format!("black hole: cannot listen on {addr}")))?;
        let addr = listener
            .local_addr()
            .map_err(Error::doing("black hole: its address"))?;
        // The standard library asked for a long queue. Listening again shortens it.
        listen(&listener, 0).map_err(Error::doing("black hole: a shorter queue"))?;
        let mut filling = Vec::new();
        while filling.len() < 64 {
            match TcpStream::connect_timeout(&addr, Duration::from_millis(150)) {
                Ok(stream) => filling.push(stream),
                Err(err) if err.kind() == io::ErrorKind::TimedOut => {
                    return Ok(BlackHole {
                        _listener: listener,
                        _filling: filling,
                        addr,
                    });
                }
                Err(err) => {
                    return Err(Error::new(format!(
                        "black hole: connecting to {addr}: {err}"
                    )));
                }
            }
        }
        Err(Error::new(format!(
            "black hole: this kernel goes on accepting connections to {addr}"
        )))
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn port(&self) -> u16 {
        self.addr.port()
    }
}
