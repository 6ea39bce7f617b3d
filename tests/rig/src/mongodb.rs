//! A peer of our own that speaks MongoDB's wire protocol (`OP_MSG`) and says what it is told to: a member of a
//! replica set that has no primary, a router, a server that does not know the password. A replica set of several
//! members and a sharded cluster are not to be had here; SecantusDB is one member that is always its own primary.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::{
    acceptor::{ANY, Acceptor},
    error::Result,
};

pub use bson::{Binary, DateTime, Document, doc, oid::ObjectId, spec::BinarySubtype};

/// What the peer answers a command with; `None` hangs up.
type Answers = dyn Fn(&Document) -> Option<Document> + Send + Sync;

/// A server that answers each command with what a closure makes of it.
pub struct MongoPeer {
    acceptor: Acceptor,
    heard: Arc<Mutex<Vec<Document>>>,
    answers: Arc<Mutex<Arc<Answers>>>,
}

impl MongoPeer {
    pub fn start(
        answers: impl Fn(&Document) -> Option<Document> + Send + Sync + 'static,
    ) -> Result<MongoPeer> {
        let heard: Arc<Mutex<Vec<Document>>> = Arc::default();
        let answers: Arc<Mutex<Arc<Answers>>> = Arc::new(Mutex::new(Arc::new(answers)));
        let (hears, has) = (Arc::clone(&heard), Arc::clone(&answers));
        let acceptor = Acceptor::start("MongoDB peer", ANY, move |stream, _| {
            // An error here is the other side leaving, which is its right.
            let _ = serve(stream, &hears, &has);
        })?;
        Ok(MongoPeer {
            acceptor,
            heard,
            answers,
        })
    }

    /// One that greets like this and answers everything else with `ok`.
    pub fn greets(hello: Document) -> Result<MongoPeer> {
        MongoPeer::start(greets(hello))
    }

    /// From now on it greets like this: for those who must know each other's ports first.
    pub fn greet(&self, hello: Document) {
        *lock(&self.answers) = Arc::new(greets(hello));
    }

    pub fn addr(&self) -> SocketAddr {
        self.acceptor.addr()
    }

    pub fn port(&self) -> u16 {
        self.addr().port()
    }

    /// Every command that it was sent so far.
    pub fn heard(&self) -> Vec<Document> {
        lock(&self.heard).clone()
    }

    /// How many connections it has accepted.
    pub fn accepted(&self) -> usize {
        self.acceptor.accepted()
    }

    /// Waits until nobody is connected. False if somebody stayed.
    #[must_use]
    pub fn everybody_left(&self, within: Duration) -> bool {
        self.acceptor.wait(within, |acceptor| acceptor.open() == 0)
    }
}

/// The greeting of a member of the replica set `rs0`: `more` says what it is.
pub fn member(members: &[&MongoPeer], more: Document) -> Document {
    let hosts: Vec<String> = members.iter().map(|peer| peer.addr().to_string()).collect();
    let mut hello = doc! { "ok": 1.0, "maxWireVersion": 21, "setName": "rs0", "hosts": hosts };
    hello.extend(more);
    hello
}

fn greets(hello: Document) -> impl Fn(&Document) -> Option<Document> + Send + Sync {
    move |command| {
        Some(match name(command) {
            "hello" => hello.clone(),
            _ => doc! { "ok": 1.0 },
        })
    }
}

/// The name of a command: its first key.
pub fn name(command: &Document) -> &str {
    command.keys().next().map_or("", String::as_str)
}

fn serve(
    stream: &mut TcpStream,
    heard: &Mutex<Vec<Document>>,
    answers: &Mutex<Arc<Answers>>,
) -> io::Result<()> {
    loop {
        let mut header = [0; 16];
        stream.read_exact(&mut header)?;
        let length = i32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let length = usize::try_from(length).unwrap_or_default();
        if !(26..1 << 20).contains(&length) || header[12..] != 2013_i32.to_le_bytes() {
            return Ok(());
        }
        let mut body = vec![0; length - header.len()];
        stream.read_exact(&mut body)?;
        // Flags, and the kind of the one section.
        let command = Document::from_reader(&body[5..]).map_err(io::Error::other)?;
        lock(heard).push(command.clone());
        let answer = Arc::clone(&lock(answers));
        let Some(reply) = answer(&command) else {
            return Ok(());
        };
        let reply = reply.to_vec().map_err(io::Error::other)?;
        let mut message = Vec::new();
        message.extend((21 + reply.len() as i32).to_le_bytes());
        message.extend(1_i32.to_le_bytes());
        message.extend(&header[4..8]);
        message.extend(2013_i32.to_le_bytes());
        message.extend([0; 5]);
        message.extend(reply);
        stream.write_all(&message)?;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
