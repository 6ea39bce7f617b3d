//! Our own peers do wrong exactly what they say.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use conncheck_rig::{
    Answer, BlackHole, DnsServer, HttpPeer, PATIENCE, Peer, Step, TokenServer,
    faults::{refused, refused_on},
    http::response,
    mongodb::{Document, MongoPeer, doc, name},
};
use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RecordType},
};

#[test]
fn a_refusing_port_refuses() {
    let port = refused().expect("a port");
    let err = TcpStream::connect(port.addr()).expect_err("nobody listens");
    assert_eq!(err.kind(), ErrorKind::ConnectionRefused);
    // Nobody else gets it meanwhile.
    refused_on(port.addr()).err().expect("the port is taken");
}

#[test]
fn a_black_hole_swallows_connections() {
    let hole = BlackHole::start().expect("a kernel that drops what does not fit into the queue");
    for _ in 0..3 {
        let err = TcpStream::connect_timeout(&hole.addr(), Duration::from_millis(200))
            .expect_err("a timeout");
        assert_eq!(err.kind(), ErrorKind::TimedOut);
    }
}

#[test]
fn two_addresses_may_share_a_port() {
    let hole = BlackHole::start_on(SocketAddr::from(([127, 0, 0, 2], 0))).expect("a black hole");
    let peer = Peer::script_on(
        SocketAddr::from(([127, 0, 0, 1], hole.port())),
        [Step::Close],
    );
    assert_eq!(peer.expect("the same port elsewhere").port(), hole.port());
}

#[test]
fn a_silent_peer_is_silent_and_counts() {
    let peer = Peer::silent().expect("a peer");
    let mut stream = connect(peer.addr());
    assert!(peer.has_accepted(1, PATIENCE));
    assert_eq!((peer.accepted(), peer.open()), (1, 1));
    stream
        .set_read_timeout(Some(Duration::from_millis(50)))
        .expect("a timeout");
    stream.read(&mut [0]).expect_err("it says nothing");
    assert!(!peer.everybody_left(Duration::from_millis(20)));
    drop(stream);
    assert!(peer.everybody_left(PATIENCE));
}

#[test]
fn peers_reset_and_close() {
    let peer = Peer::reset().expect("a peer");
    let err = connect(peer.addr()).read(&mut [0]).expect_err("a reset");
    assert_eq!(err.kind(), ErrorKind::ConnectionReset);

    let peer = Peer::closes().expect("a peer");
    assert_eq!(
        connect(peer.addr()).read(&mut [0]).expect("an orderly end"),
        0
    );

    let peer = Peer::resets_after_request().expect("a peer");
    let mut stream = connect(peer.addr());
    stream.write_all(b"hello").expect("a reader");
    assert_eq!(
        stream.read(&mut [0]).expect_err("a reset").kind(),
        ErrorKind::ConnectionReset
    );

    let peer = Peer::closes_after_request().expect("a peer");
    let mut stream = connect(peer.addr());
    stream.write_all(b"hello").expect("a reader");
    assert_eq!(stream.read(&mut [0]).expect("an orderly end"), 0);
}

#[test]
fn peers_greet_reply_trickle_and_babble() {
    let greeting = |peer: &Peer, length: usize| {
        let mut stream = connect(peer.addr());
        let mut said = vec![0; length];
        stream.read_exact(&mut said).expect("a greeting");
        (stream, said)
    };
    let peer = Peer::hangs_after_greeting("220 rig").expect("a peer");
    let (mut stream, said) = greeting(&peer, 7);
    assert_eq!(said, b"220 rig");
    stream
        .set_read_timeout(Some(Duration::from_millis(50)))
        .expect("a timeout");
    stream.read(&mut [0]).expect_err("it hangs");

    let peer = Peer::hangs_after_reply("S").expect("a peer");
    let mut stream = connect(peer.addr());
    stream.write_all(b"ssl?").expect("a reader");
    stream.read_exact(&mut [0]).expect("a reply");

    let started = Instant::now();
    let peer = Peer::trickles("ab", Duration::from_millis(20)).expect("a peer");
    let (stream, said) = greeting(&peer, 5);
    assert_eq!(said, b"ababa");
    assert!(started.elapsed() >= Duration::from_millis(80));
    drop(stream);
    assert!(peer.everybody_left(PATIENCE));

    let peer = Peer::nonsense_greeting().expect("a peer");
    greeting(&peer, 1024);
}

#[test]
fn a_dropped_peer_lets_everybody_go() {
    let peer = Peer::silent().expect("a peer");
    let addr = peer.addr();
    let mut streams: Vec<_> = (0..20).map(|_| connect(addr)).collect();
    assert!(peer.has_accepted(20, PATIENCE));
    drop(peer);
    for stream in &mut streams {
        assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
    }
    TcpStream::connect(addr).expect_err("nobody listens");
}

#[test]
fn an_http_peer_says_what_it_is_told() {
    let peer = HttpPeer::script([
        response(200, &[("X-First", "yes")], "one"),
        b"garbage".to_vec(),
    ])
    .expect("a peer");
    let mut stream = connect(peer.addr());
    stream
        .write_all(b"POST /x HTTP/1.1\r\nHost: h\r\ncontent-LENGTH: 2\r\n\r\nhi")
        .expect("a reader");
    let first = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-First: yes\r\n\r\none";
    let mut said = vec![0; first.len()];
    stream.read_exact(&mut said).expect("a reply");
    assert_eq!(String::from_utf8_lossy(&said), first);
    stream
        .write_all(b"GET /y HTTP/1.1\r\n\r\n")
        .expect("the same connection");
    let mut rest = String::new();
    stream
        .read_to_string(&mut rest)
        .expect("the rest, and the end");
    assert_eq!(rest, "garbage");
    let requests = peer.requests();
    assert_eq!(
        requests
            .iter()
            .map(|request| request.target.as_str())
            .collect::<Vec<_>>(),
        ["/x", "/y"]
    );
    assert_eq!(
        (requests[0].header("Host"), requests[0].body_text()),
        (Some("h"), "hi".to_owned())
    );
}

#[test]
fn a_mongodb_peer_answers_as_told_and_remembers() {
    let peer = MongoPeer::greets(doc! { "ok": 1.0, "setName": "rs0" }).expect("a peer");
    let mut stream = connect(peer.addr());
    let ask = |stream: &mut TcpStream, command: &Document| -> Document {
        let body = command.to_vec().expect("a document");
        let mut message = Vec::new();
        for number in [21 + body.len() as i32, 7, 0, 2013, 0] {
            message.extend(number.to_le_bytes());
        }
        message.push(0);
        message.extend(body);
        stream.write_all(&message).expect("it listens");
        let mut head = [0; 21];
        stream.read_exact(&mut head).expect("an answer");
        assert_eq!(head[8..12], 7_i32.to_le_bytes(), "to this question");
        Document::from_reader(stream).expect("a document")
    };
    let hello = ask(&mut stream, &doc! { "hello": 1, "$db": "admin" });
    assert_eq!(hello, doc! { "ok": 1.0, "setName": "rs0" });
    assert_eq!(ask(&mut stream, &doc! { "ping": 1 }), doc! { "ok": 1.0 });
    let heard = peer.heard();
    assert_eq!(
        heard.iter().map(name).collect::<Vec<_>>(),
        ["hello", "ping"]
    );
    drop(stream);
    assert!(peer.everybody_left(PATIENCE));
}

#[test]
fn tokens_are_for_those_who_know_the_secret() {
    let server = TokenServer::start().expect("a server");
    let ask = |headers: &str, body: &str| {
        let mut stream = connect(server.addr());
        let length = body.len();
        let text =
            format!("POST /token HTTP/1.1\r\nContent-Length: {length}\r\n{headers}\r\n{body}");
        stream.write_all(text.as_bytes()).expect("a reader");
        let mut reply = [0; 1024];
        let length = stream.read(&mut reply).expect("a reply");
        String::from_utf8_lossy(&reply[..length]).into_owned()
    };
    let check = |headers: &str, body: &str, status: &str, part: &str| {
        let reply = ask(headers, body);
        assert!(
            reply.starts_with(&format!("HTTP/1.1 {status}")) && reply.contains(part),
            "{body}: {reply}"
        );
    };
    let basic = "Authorization: Basic cHJvYmU6cHJvYmUtc2VjcmV0\r\n";
    let grant = "grant_type=client_credentials";
    check(basic, grant, "200", "\"rig-token-0\"");
    check(
        "",
        &format!("{grant}&client_id=probe&client_secret=probe-secret"),
        "200",
        "\"rig-token-1\"",
    );
    check("", grant, "401", "invalid_client");
    check(
        "",
        &format!("{grant}&client_id=probe&client_secret=wrong"),
        "401",
        "invalid_client",
    );
    check(
        basic,
        "grant_type=password",
        "400",
        "unsupported_grant_type",
    );
    check(
        basic,
        &format!("{grant}&scope=forbidden"),
        "400",
        "invalid_scope",
    );
}

#[test]
fn the_name_server_answers_as_told() {
    let v4 = Ipv4Addr::new(127, 0, 0, 7);
    let v6 = Ipv6Addr::LOCALHOST;
    let server = DnsServer::start()
        .expect("a server")
        .with("Both.test", Answer::Addresses(vec![v4.into(), v6.into()]))
        .with("alias.test", Answer::Alias("both.test".into()))
        .with("broken.test", Answer::ServerFailure)
        .with("refused.test", Answer::Refused)
        .with("empty.test", Answer::NoData)
        .with("silent.test", Answer::Silence)
        .with("long.test", Answer::Truncated(vec![v4.into()]))
        .with(
            "slow.test",
            Answer::After(Duration::from_millis(100), Box::new(Answer::address(v4))),
        );
    server.set(
        "_db._tcp.test",
        Answer::Services(vec![("a.test".into(), 1), ("b.test".into(), 2)]),
    );
    server.set(
        "said.test",
        Answer::Texts(vec![vec!["a".into(), "b".into()]]),
    );
    let ask = |name, kind| ask_udp(server.addr(), name, kind, PATIENCE).expect("an answer");
    let ips = |message: &Message| -> Vec<IpAddr> {
        message
            .answers
            .iter()
            .filter_map(|record| record.data.ip_addr())
            .collect()
    };
    assert_eq!(ips(&ask("both.test.", RecordType::A)), [v4]);
    assert_eq!(ips(&ask("both.test.", RecordType::AAAA)), [v6]);
    assert_eq!(ips(&ask("alias.test.", RecordType::A)), [v4]);
    assert_eq!(
        ask("empty.test.", RecordType::A).metadata.response_code,
        ResponseCode::NoError
    );
    assert_eq!(
        ask("nowhere.test.", RecordType::A).metadata.response_code,
        ResponseCode::NXDomain
    );
    assert_eq!(
        ask("broken.test.", RecordType::A).metadata.response_code,
        ResponseCode::ServFail
    );
    assert_eq!(
        ask("refused.test.", RecordType::A).metadata.response_code,
        ResponseCode::Refused
    );
    let a_while = Duration::from_millis(400);
    assert!(ask_udp(server.addr(), "silent.test.", RecordType::A, a_while).is_none());
    assert!(ask("long.test.", RecordType::A).metadata.truncation);
    assert_eq!(
        ips(&ask_tcp(server.addr(), "long.test.", RecordType::A)),
        [v4]
    );
    let started = Instant::now();
    assert_eq!(ips(&ask("slow.test.", RecordType::A)), [v4]);
    assert!(started.elapsed() >= Duration::from_millis(100));
    let questions = server.questions();
    assert_eq!(
        (
            questions[0].name.as_str(),
            questions[0].record_type.as_str()
        ),
        ("both.test", "A")
    );
    assert!(
        questions
            .iter()
            .any(|question| question.over_tcp && question.name == "long.test")
    );
    let services = ask("_db._tcp.test.", RecordType::SRV);
    let services: Vec<_> = services
        .answers
        .iter()
        .map(|record| record.data.to_string())
        .collect();
    assert_eq!(services, ["0 0 1 a.test.", "0 0 2 b.test."]);
    let texts = ask("said.test.", RecordType::TXT);
    assert_eq!(texts.answers[0].data.to_string(), "ab");
    assert!(ask("said.test.", RecordType::A).answers.is_empty());
}

fn connect(addr: SocketAddr) -> TcpStream {
    TcpStream::connect(addr).expect("a listener")
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_utf8(name).expect("a name"), kind));
    message.to_vec().expect("a message")
}

/// The answer, if one comes in this time.
fn ask_udp(server: SocketAddr, name: &str, kind: RecordType, within: Duration) -> Option<Message> {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(within)).expect("a timeout");
    socket
        .send_to(&question(name, kind), server)
        .expect("a way");
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer).ok()?;
    Some(Message::from_vec(&buffer[..length]).expect("a message"))
}

fn ask_tcp(server: SocketAddr, name: &str, kind: RecordType) -> Message {
    let mut stream = connect(server);
    let question = question(name, kind);
    stream
        .write_all(&[&(question.len() as u16).to_be_bytes()[..], &question].concat())
        .expect("a reader");
    let mut length = [0; 2];
    stream.read_exact(&mut length).expect("a reply");
    let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut reply).expect("a reply");
    Message::from_vec(&reply).expect("a message")
}
