//! A name server of our own: right answers, refusals, slow ones, and none at all.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use hickory_proto::{
    op::{Message, Metadata, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME, SRV, TXT},
    },
};

use crate::{
    acceptor::Acceptor,
    error::{Error, Result},
};

/// What the server says about a name.
#[derive(Debug, Clone)]
pub enum Answer {
    /// These addresses: the IPv4 ones to an A question, the IPv6 ones to AAAA.
    Addresses(Vec<IpAddr>),
    /// An alias; the target's own answer follows it.
    Alias(String),
    /// SRV records: these hosts and ports.
    Services(Vec<(String, u16)>),
    /// TXT records, each of these pieces.
    Texts(Vec<Vec<String>>),
    /// NXDOMAIN. Also what names get that nobody has told it of.
    NoSuchName,
    /// The name exists and has no address.
    NoData,
    /// SERVFAIL.
    ServerFailure,
    /// REFUSED.
    Refused,
    /// Not a word.
    Silence,
    /// Bytes that are no DNS message.
    Nonsense,
    /// Over UDP only "ask again over TCP", over TCP these addresses.
    Truncated(Vec<IpAddr>),
    /// The same, but later.
    After(Duration, Box<Answer>),
}

impl Answer {
    /// One address.
    pub fn address(ip: impl Into<IpAddr>) -> Answer {
        Answer::Addresses(vec![ip.into()])
    }
}

/// A question that came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Lower case, without the dot at the end.
    pub name: String,
    /// `A`, `AAAA`, …
    pub record_type: String,
    pub over_tcp: bool,
}

/// Listens on one port of 127.0.0.1, UDP and TCP.
pub struct DnsServer {
    shared: Arc<Shared>,
    tcp: Acceptor,
    udp: Option<thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    names: Mutex<BTreeMap<String, Answer>>,
    questions: Mutex<Vec<Question>>,
    stopping: AtomicBool,
}

impl DnsServer {
    /// A server that knows no name yet.
    pub fn start() -> Result<DnsServer> {
        let (listener, udp) = sockets()?;
        let addr = listener
            .local_addr()
            .map_err(Error::doing("the name server's address"))?;
        let shared = Arc::new(Shared::default());
        let for_tcp = Arc::clone(&shared);
        let tcp = Acceptor::over("name server", listener, move |stream, _| {
            over_tcp(stream, &for_tcp)
        })?;
        let for_udp = Arc::clone(&shared);
        let udp = thread::Builder::new()
            .name(format!("rig-dns-{}", addr.port()))
            .spawn(move || over_udp(&udp, &for_udp))
            .map_err(Error::doing("a thread for the name server"))?;
        Ok(DnsServer {
            shared,
            tcp,
            udp: Some(udp),
        })
    }

    /// From now on `name` has this answer.
    pub fn set(&self, name: &str, answer: Answer) {
        lock(&self.shared.names).insert(plain(name), answer);
    }

    /// The same, for building.
    #[must_use]
    pub fn with(self, name: &str, answer: Answer) -> DnsServer {
        self.set(name, answer);
        self
    }

    /// What goes into `--resolver`.
    pub fn addr(&self) -> SocketAddr {
        self.tcp.addr()
    }

    pub fn questions(&self) -> Vec<Question> {
        lock(&self.shared.questions).clone()
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        if let Ok(waker) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)) {
            let _ = waker.send_to(&[], self.addr());
        }
        if let Some(udp) = self.udp.take() {
            let _ = udp.join();
        }
    }
}

/// One port number for both.
fn sockets() -> Result<(TcpListener, UdpSocket)> {
    let mut last = String::new();
    for _ in 0..20 {
        let pair = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| {
            let udp = UdpSocket::bind(listener.local_addr()?)?;
            udp.set_read_timeout(Some(Duration::from_secs(1)))?;
            Ok((listener, udp))
        });
        match pair {
            Ok(pair) => return Ok(pair),
            Err(err) => last = err.to_string(),
        }
    }
    Err(Error::new(format!("no port for the name server: {last}")))
}

fn over_udp(socket: &UdpSocket, shared: &Arc<Shared>) {
    let mut buffer = [0; 4096];
    while !shared.stopping.load(Ordering::Acquire) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let Some((reply, delay)) = reply(&buffer[..length], false, shared) else {
            continue;
        };
        if delay.is_zero() {
            let _ = socket.send_to(&reply, from);
        } else if let Ok(socket) = socket.try_clone() {
            thread::spawn(move || {
                thread::sleep(delay);
                let _ = socket.send_to(&reply, from);
            });
        }
    }
}

fn over_tcp(stream: &mut TcpStream, shared: &Shared) {
    let mut length = [0; 2];
    while stream.read_exact(&mut length).is_ok() {
        let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
        if stream.read_exact(&mut question).is_err() {
            return;
        }
        let Some((reply, delay)) = reply(&question, true, shared) else {
            continue;
        };
        thread::sleep(delay);
        let length = u16::try_from(reply.len()).unwrap_or(u16::MAX).to_be_bytes();
        if stream.write_all(&[&length[..], &reply].concat()).is_err() {
            return;
        }
    }
}

/// The bytes to send and when; `None` for silence.
fn reply(question: &[u8], over_tcp: bool, shared: &Shared) -> Option<(Vec<u8>, Duration)> {
    let request = Message::from_vec(question).ok()?;
    let query = request.queries.first()?;
    let name = plain(&query.name().to_utf8());
    let record_type = query.query_type();
    lock(&shared.questions).push(Question {
        name: name.clone(),
        record_type: record_type.to_string(),
        over_tcp,
    });
    let names = lock(&shared.names);
    let mut answer = names.get(&name).cloned().unwrap_or(Answer::NoSuchName);
    let mut delay = Duration::ZERO;
    while let Answer::After(more, then) = answer {
        delay += more;
        answer = *then;
    }

    let mut message = Message::response(request.metadata.id, request.metadata.op_code);
    message.metadata = Metadata::response_from_request(&request.metadata);
    message.metadata.recursion_available = true;
    message.add_query(query.clone());
    let owner = query.name().clone();
    match answer {
        Answer::Addresses(ips) => add(&mut message, &owner, record_type, &ips),
        Answer::Truncated(ips) if over_tcp => add(&mut message, &owner, record_type, &ips),
        Answer::Truncated(_) => message.metadata.truncation = true,
        Answer::Alias(target) => {
            let alias = Name::from_utf8(&target).ok()?;
            message.add_answer(Record::from_rdata(
                owner,
                TTL,
                RData::CNAME(CNAME(alias.clone())),
            ));
            match names.get(&plain(&target)) {
                Some(Answer::Addresses(ips)) => add(&mut message, &alias, record_type, ips),
                _ => message.metadata.response_code = ResponseCode::NXDomain,
            }
        }
        Answer::Services(services) if record_type == RecordType::SRV => {
            for (target, port) in services {
                let target = Name::from_utf8(&target).ok()?;
                let data = RData::SRV(SRV::new(0, 0, port, target));
                message.add_answer(Record::from_rdata(owner.clone(), TTL, data));
            }
        }
        Answer::Texts(texts) if record_type == RecordType::TXT => {
            for pieces in texts {
                let data = RData::TXT(TXT::new(pieces));
                message.add_answer(Record::from_rdata(owner.clone(), TTL, data));
            }
        }
        Answer::Services(_) | Answer::Texts(_) => {}
        Answer::NoSuchName => message.metadata.response_code = ResponseCode::NXDomain,
        Answer::NoData => {}
        Answer::ServerFailure => message.metadata.response_code = ResponseCode::ServFail,
        Answer::Refused => message.metadata.response_code = ResponseCode::Refused,
        Answer::Nonsense => return Some((b"this is not a message".to_vec(), delay)),
        Answer::Silence | Answer::After(..) => return None,
    }
    Some((message.to_vec().ok()?, delay))
}

/// Nothing of ours is worth keeping.
const TTL: u32 = 0;

fn add(message: &mut Message, owner: &Name, record_type: RecordType, ips: &[IpAddr]) {
    for ip in ips {
        let data = match (record_type, ip) {
            (RecordType::A, IpAddr::V4(ip)) => RData::A(A(*ip)),
            (RecordType::AAAA, IpAddr::V6(ip)) => RData::AAAA(AAAA(*ip)),
            _ => continue,
        };
        message.add_answer(Record::from_rdata(owner.clone(), TTL, data));
    }
}

fn plain(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
