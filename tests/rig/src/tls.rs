//! TLS with any certificate in front of a server that has only one, or none.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    sync::Arc,
};

use rustix::event::{PollFd, PollFlags, poll};
use rustls::{
    RootCertStore, ServerConfig, ServerConnection, SupportedProtocolVersion,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};

use crate::{
    acceptor::{ANY, Acceptor},
    error::{Error, Result},
    pki::Certified,
    process::Process,
    rig::Server,
};

/// What a server is that shows `certified` and asks nobody for a certificate.
pub fn server_config(certified: &Certified) -> Result<ServerConfig> {
    server_config_with(certified, None, rustls::DEFAULT_VERSIONS)
}

/// The same with these versions; given `clients`, it wants a certificate signed by that.
pub fn server_config_with(
    certified: &Certified,
    clients: Option<&Certified>,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<ServerConfig> {
    let clients = match clients {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(authority) => signed_by(authority)?,
    };
    server_config_for(certified, clients, versions)
}

/// The same with somebody who asks for certificates, and takes them or not.
pub(crate) fn server_config_for(
    certified: &Certified,
    clients: Arc<dyn ClientCertVerifier>,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<ServerConfig> {
    let make = || -> Made<ServerConfig> {
        let chain = CertificateDer::pem_slice_iter(certified.cert_pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(certified.key_pem.as_bytes())?;
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(versions)?
            .with_client_cert_verifier(clients);
        Ok(builder.with_single_cert(chain, key)?)
    };
    make().map_err(|err| Error::new(format!("{}: {err}", certified.name)))
}

/// Takes the certificates that this authority has signed.
pub(crate) fn signed_by(authority: &Certified) -> Result<Arc<dyn ClientCertVerifier>> {
    let make = || -> Made<Arc<dyn ClientCertVerifier>> {
        let mut roots = RootCertStore::empty();
        let pem = authority.cert_pem.as_bytes();
        roots.add(CertificateDer::from_pem_slice(pem)?)?;
        let provider = Arc::new(default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        Ok(verifier.build()?)
    };
    make().map_err(|err| Error::new(format!("{}: {err}", authority.name)))
}

type Made<T> = Result<T, Box<dyn std::error::Error>>;

/// Ends TLS and hands on what is inside of it, in both directions.
pub struct Front {
    acceptor: Acceptor,
}

impl Front {
    /// Shows `certified`, and hands on to `port` of 127.0.0.1.
    pub fn start(certified: &Certified, port: u16) -> Result<Front> {
        Front::with(server_config(certified)?, port)
    }

    /// The same as whatever server.
    pub fn with(config: ServerConfig, port: u16) -> Result<Front> {
        let config = Arc::new(config);
        let behind = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let acceptor = Acceptor::start("TLS front", ANY, move |client, _| {
            // An error here is one of the two leaving, or a client that dislikes the certificate.
            let _ = relay(&config, client, behind);
        })?;
        Ok(Front { acceptor })
    }

    pub fn port(&self) -> u16 {
        self.acceptor.addr().port()
    }
}

impl Server for Front {
    fn processes(&self) -> Vec<&Process> {
        Vec::new()
    }
}

fn relay(config: &Arc<ServerConfig>, client: &mut TcpStream, behind: SocketAddr) -> io::Result<()> {
    let mut tls = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
    while tls.is_handshaking() {
        // A refusal is an alert, which is sent before the error is returned.
        tls.complete_io(client)?;
    }
    let mut server = TcpStream::connect(behind)?;
    server.set_nodelay(true)?;
    let mut buffer = [0; 16 * 1024];
    loop {
        // The client's first words may have come together with the end of the handshake.
        let state = tls.process_new_packets().map_err(io::Error::other)?;
        let mut plain = vec![0; state.plaintext_bytes_to_read()];
        tls.reader().read_exact(&mut plain)?;
        server.write_all(&plain)?;
        if state.peer_has_closed() {
            // What the server may still have to say is of no use to anybody.
            return server.shutdown(Shutdown::Both);
        }
        while tls.wants_write() {
            tls.write_tls(client)?;
        }
        let mut ends = [
            PollFd::new(client, PollFlags::IN),
            PollFd::new(&server, PollFlags::IN),
        ];
        poll(&mut ends, None)?;
        let [from_client, from_server] = ends.map(|end| !end.revents().is_empty());
        if from_client && tls.read_tls(client)? == 0 {
            return server.shutdown(Shutdown::Both);
        }
        if from_server {
            match server.read(&mut buffer)? {
                0 => {
                    tls.send_close_notify();
                    tls.write_tls(client)?;
                    return client.shutdown(Shutdown::Write);
                }
                length => tls.writer().write_all(&buffer[..length])?,
            }
        }
    }
}
