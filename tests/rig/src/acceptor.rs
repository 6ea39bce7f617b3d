//! What all our own peers share: a listener, a thread per connection, and the count of who is there.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::error::{Error, Result};

/// Any free port of 127.0.0.1.
pub(crate) const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

pub(crate) struct Acceptor {
    addr: SocketAddr,
    state: Arc<State>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Default)]
pub(crate) struct State {
    accepted: AtomicUsize,
    open: AtomicUsize,
    stopping: AtomicBool,
    streams: Mutex<HashMap<usize, TcpStream>>,
}

impl State {
    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}

impl Acceptor {
    /// Listens on `addr` and gives each connection to `serve`, in a thread of its own.
    pub fn start(
        name: &str,
        addr: SocketAddr,
        serve: impl Fn(&mut TcpStream, &State) + Send + Sync + 'static,
    ) -> Result<Acceptor> {
        let listener = TcpListener::bind(addr)
            .map_err(Error::doing(format!("{name}: cannot listen on {addr}")))?;
        Acceptor::over(name, listener, serve)
    }

    pub fn over(
        name: &str,
        listener: TcpListener,
        serve: impl Fn(&mut TcpStream, &State) + Send + Sync + 'static,
    ) -> Result<Acceptor> {
        let addr = listener
            .local_addr()
            .map_err(Error::doing(format!("{name}: its address")))?;
        let state = Arc::new(State::default());
        let (shared, serve) = (Arc::clone(&state), Arc::new(serve));
        let thread = thread::Builder::new()
            .name(format!("rig-{name}"))
            .spawn(move || accept(&listener, &shared, &serve))
            .map_err(Error::doing(format!("{name}: a thread")))?;
        Ok(Acceptor {
            addr,
            state,
            thread: Some(thread),
        })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::Acquire)
    }

    pub fn open(&self) -> usize {
        self.state.open.load(Ordering::Acquire)
    }

    pub fn wait(&self, within: Duration, done: impl Fn(&Acceptor) -> bool) -> bool {
        let started = Instant::now();
        while !done(self) {
            if started.elapsed() > within {
                return false;
            }
            thread::sleep(Duration::from_millis(2));
        }
        true
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.state.stopping.store(true, Ordering::Release);
        // Wakes it from `accept`.
        let _ = TcpStream::connect_timeout(&self.addr, Duration::from_secs(1));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        for stream in self
            .state
            .streams
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
        {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.wait(Duration::from_secs(1), |acceptor| acceptor.open() == 0);
    }
}

fn accept<S>(listener: &TcpListener, state: &Arc<State>, serve: &Arc<S>)
where
    S: Fn(&mut TcpStream, &State) + Send + Sync + 'static,
{
    for stream in listener.incoming() {
        if state.stopping() {
            return;
        }
        let Ok(mut stream) = stream else {
            // Out of descriptors, or gone again. Not worth a busy loop.
            thread::sleep(Duration::from_millis(5));
            continue;
        };
        let _ = stream.set_nodelay(true);
        let number = state.accepted.fetch_add(1, Ordering::AcqRel);
        state.open.fetch_add(1, Ordering::AcqRel);
        if let Ok(stream) = stream.try_clone() {
            state
                .streams
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(number, stream);
        }
        let (shared, serve) = (Arc::clone(state), Arc::clone(serve));
        let started = thread::Builder::new()
            .stack_size(512 * 1024)
            .spawn(move || {
                let _leaves = Leaves {
                    number,
                    state: &shared,
                };
                serve(&mut stream, &shared);
                // The clone for `Drop` goes first: the last descriptor decides between FIN and RST.
                shared
                    .streams
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .remove(&number);
                drop(stream);
            });
        if started.is_err() {
            drop(Leaves { number, state });
        }
    }
}

/// Counts a connection out, also when its handler panics.
struct Leaves<'a> {
    number: usize,
    state: &'a State,
}

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.state
            .streams
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.number);
        self.state.open.fetch_sub(1, Ordering::AcqRel);
    }
}
