//! Carries connections on to a server, from another address of this machine than its own: a server may treat
//! 127.0.0.1 as one of the family, which what it does to strangers cannot be tested with.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    thread,
};

use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

use crate::{
    acceptor::{ANY, Acceptor},
    error::Result,
};

/// A listener whose connections go on to a port of 127.0.0.1, and come there from an address of your choice.
pub struct Relay {
    acceptor: Acceptor,
}

impl Relay {
    /// To `port`, from `from`: any address of 127.0.0.0/8.
    pub fn start(port: u16, from: Ipv4Addr) -> Result<Relay> {
        let acceptor = Acceptor::start("relay", ANY, move |stream, _| {
            // An error here is that of one of the two sides, which the other one sees as an end.
            let _ = carry(stream, port, from);
        })?;
        Ok(Relay { acceptor })
    }

    pub fn port(&self) -> u16 {
        self.acceptor.addr().port()
    }
}

fn carry(client: &mut TcpStream, port: u16, from: Ipv4Addr) -> io::Result<()> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddr::new(IpAddr::V4(from), 0))?;
    connect(
        &socket,
        &SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port),
    )?;
    let mut server = TcpStream::from(socket);
    server.set_nodelay(true)?;
    let (mut to_server, mut from_client) = (server.try_clone()?, client.try_clone()?);
    let forth = thread::spawn(move || {
        let _ = io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let carried = io::copy(&mut server, client);
    let _ = client.shutdown(Shutdown::Write);
    let _ = forth.join();
    carried.map(drop)
}
