//! Ports on 127.0.0.1 that nobody else takes in the meantime, as far as that can be had.
//!
//! Chosen below the kernel's ephemeral range: a port from there could be taken, between our choice and the
//! server's bind, by any outgoing connection or any other `bind(0)` of the machine. What is left of the race
//! (two rigs at once) is closed by trying again, see [`retrying`].

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::fd::OwnedFd,
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::net::{
    AddressFamily, SocketType, bind, getsockname, socket, sockopt::set_socket_reuseaddr,
};

use crate::error::{Error, Result};

/// Free ports, held by listeners until [`Reserved::release`].
pub struct Reserved {
    listeners: Vec<TcpListener>,
    ports: Vec<u16>,
}

impl Reserved {
    pub fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// Lets go of the ports, right before the server takes them.
    pub fn release(self) -> Vec<u16> {
        drop(self.listeners);
        self.ports
    }
}

/// `count` free ports.
pub fn reserve(count: usize) -> Result<Reserved> {
    let mut reserved = Reserved {
        listeners: Vec::new(),
        ports: Vec::new(),
    };
    let (low, high) = range();
    for _ in 0..u32::from(high - low) {
        if reserved.ports.len() == count {
            return Ok(reserved);
        }
        let port = low + (next() % u32::from(high - low)) as u16;
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            reserved.listeners.push(listener);
            reserved.ports.push(port);
        }
    }
    if reserved.ports.len() == count {
        return Ok(reserved);
    }
    Err(Error::new(format!(
        "no {count} free ports on 127.0.0.1 between {low} and {high}"
    )))
}

/// Starts something on `count` free ports, with other ports again when one was snatched away.
pub fn retrying<T>(count: usize, mut start: impl FnMut(&[u16]) -> Result<T>) -> Result<T> {
    let mut tries = 0;
    loop {
        tries += 1;
        match start(&reserve(count)?.release()) {
            Err(err) if err.address_in_use && tries < 5 => {}
            result => return result,
        }
    }
}

/// A port that refuses connections for as long as this lives: bound, so that nobody else gets it, and never
/// listening.
pub struct Refused {
    _socket: OwnedFd,
    addr: SocketAddr,
}

impl Refused {
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn port(&self) -> u16 {
        self.addr.port()
    }
}

/// A port of 127.0.0.1 where every connection is refused.
pub fn refused() -> Result<Refused> {
    refused_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
}

/// The same on an address of your choice, port 0 for any.
pub fn refused_on(addr: SocketAddr) -> Result<Refused> {
    let family = if addr.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let sock = socket(family, SocketType::STREAM, None)
        .map_err(Error::doing("a socket for a refusing port"))?;
    // A server that was just stopped leaves connections in TIME_WAIT, which only SO_REUSEADDR looks past. Not
    // without need: with it, another process that uses it too may bind the same port.
    bind(&sock, &addr)
        .or_else(|_| {
            set_socket_reuseaddr(&sock, true)?;
            bind(&sock, &addr)
        })
        .map_err(Error::doing(format!(
            "cannot bind the refusing port {addr}"
        )))?;
    let name = getsockname(&sock).map_err(Error::doing("the address of a refusing port"))?;
    let addr =
        SocketAddr::try_from(name).map_err(Error::doing("the address of a refusing port"))?;
    Ok(Refused {
        _socket: sock,
        addr,
    })
}

/// Below the ephemeral range, above the well-known servers.
fn range() -> (u16, u16) {
    let low = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .unwrap_or(32768);
    if low > 16384 {
        (10240, low)
    } else {
        (49152, 65535)
    }
}

/// A cheap sequence that starts elsewhere in each process and never repeats soon.
fn next() -> u32 {
    static STATE: AtomicU32 = AtomicU32::new(0);
    let step = STATE.fetch_add(1, Ordering::Relaxed);
    let seed = std::process::id().wrapping_mul(7919);
    seed.wrapping_add(step).wrapping_mul(2_654_435_761) >> 8
}
