//! An HTTP proxy of our own that opens tunnels (`CONNECT`, RFC 9110 section 9.3.6) and nothing else.

use std::{
    io::{self, Write},
    net::{Shutdown, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};

use crate::{
    acceptor::{ANY, Acceptor},
    error::Result,
    http::{read_request, response},
};

/// A proxy that goes wherever it is asked to.
pub struct TunnelProxy {
    acceptor: Acceptor,
    asked: Arc<Mutex<Vec<String>>>,
}

impl TunnelProxy {
    /// Open to everybody.
    pub fn start() -> Result<TunnelProxy> {
        TunnelProxy::wanting(None)
    }

    /// With a login of its own; without it, 407.
    pub fn with_login(username: &str, password: &str) -> Result<TunnelProxy> {
        let encoded = BASE64_STANDARD.encode(format!("{username}:{password}"));
        TunnelProxy::wanting(Some(format!("Basic {encoded}")))
    }

    fn wanting(login: Option<String>) -> Result<TunnelProxy> {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        let acceptor = Acceptor::start("proxy", ANY, move |client, _| {
            // An error here is one of the two leaving.
            let _ = serve(client, login.as_deref(), &seen);
        })?;
        Ok(TunnelProxy { acceptor, asked })
    }

    pub fn port(&self) -> u16 {
        self.acceptor.addr().port()
    }

    /// Where it was asked to go, `host:port` each.
    pub fn asked(&self) -> Vec<String> {
        let asked = self.asked.lock();
        asked.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn serve(
    client: &mut TcpStream,
    login: Option<&str>,
    asked: &Mutex<Vec<String>>,
) -> io::Result<()> {
    let Some(request) = read_request(client) else {
        return Ok(());
    };
    if request.method != "CONNECT" {
        return client.write_all(&response(405, &[], "CONNECT, please\n"));
    }
    if login.is_some() && request.header("proxy-authorization") != login {
        let headers = [("Proxy-Authenticate", "Basic realm=\"rig\"")];
        return client.write_all(&response(407, &headers, ""));
    }
    asked
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(request.target.clone());
    let Ok(server) = TcpStream::connect(&request.target) else {
        return client.write_all(&response(502, &[], "no such server\n"));
    };
    server.set_nodelay(true)?;
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    thread::scope(|scope| {
        scope.spawn(|| relay(client, &server));
        relay(&server, client);
    });
    Ok(())
}

/// Hands on until one end is over, and tells the other.
fn relay(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
