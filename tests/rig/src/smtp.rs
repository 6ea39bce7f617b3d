//! An SMTP peer of our own, for what Postfix and Exim never say, such as why they refuse an access token. It speaks
//! the real words, without TLS.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::{
    acceptor::{ANY, Acceptor},
    error::Result,
};

/// Greets, answers each line with what a test wants, and remembers what it heard.
pub struct SmtpPeer {
    acceptor: Acceptor,
    heard: Arc<Mutex<Vec<String>>>,
}

impl SmtpPeer {
    /// `answer` makes a reply of a line, both without their ends. `QUIT` is answered here.
    pub fn start(
        greeting: &str,
        answer: impl Fn(&str) -> String + Send + Sync + 'static,
    ) -> Result<SmtpPeer> {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (greeting, hearing) = (greeting.to_owned(), Arc::clone(&heard));
        let acceptor = Acceptor::start("smtp peer", ANY, move |stream, _| {
            // An error here is the other side leaving, which is its right.
            let _ = serve(stream, &greeting, &answer, &hearing);
        })?;
        Ok(SmtpPeer { acceptor, heard })
    }

    /// A server that takes access tokens (XOAUTH2), and refuses every one as large providers do.
    pub fn refuses_tokens() -> Result<SmtpPeer> {
        // {"status":"400","schemes":"Bearer","scope":"https://mail.rig.test/"}
        const WHY: &str = "334 eyJzdGF0dXMiOiI0MDAiLCJzY2hlbWVzIjoiQmVhcmVyIiwic2NvcGUiOiJodHRwczovL21haWwucmlnLnRlc3QvIn0=";
        SmtpPeer::start("220 rig.test ESMTP", |line| {
            match line.split(' ').next().unwrap_or_default() {
                "EHLO" => "250-rig.test\r\n250 AUTH XOAUTH2".into(),
                "AUTH" => WHY.into(),
                "" => "535 5.7.8 Username and Password not accepted".into(),
                _ => "502 5.5.1 unrecognized command".into(),
            }
        })
    }

    pub fn addr(&self) -> SocketAddr {
        self.acceptor.addr()
    }

    pub fn port(&self) -> u16 {
        self.addr().port()
    }

    /// Every line so far, of all connections.
    pub fn heard(&self) -> Vec<String> {
        lock(&self.heard).clone()
    }

    /// Waits until nobody is connected. False if somebody stayed.
    #[must_use]
    pub fn everybody_left(&self, within: Duration) -> bool {
        self.acceptor.wait(within, |acceptor| acceptor.open() == 0)
    }
}

fn serve(
    stream: &mut TcpStream,
    greeting: &str,
    answer: &impl Fn(&str) -> String,
    heard: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut say = stream.try_clone()?;
    write!(say, "{greeting}\r\n")?;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        lock(heard).push(line.clone());
        if line == "QUIT" {
            return write!(say, "221 2.0.0 Bye\r\n");
        }
        write!(say, "{}\r\n", answer(&line))?;
    }
    Ok(())
}

fn lock(heard: &Mutex<Vec<String>>) -> std::sync::MutexGuard<'_, Vec<String>> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}
