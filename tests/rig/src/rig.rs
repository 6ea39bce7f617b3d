//! All servers of a test run, started when first asked for.

use std::{
    any::Any,
    collections::BTreeMap,
    env, fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::{Duration, SystemTime},
};

use rustix::fs::{Access, FlockOperation, flock, statvfs};
use tempfile::TempDir;

use crate::{
    error::{Error, Result},
    exim::{Exim, EximKind},
    mariadb::{MariaDb, MariaDbKind},
    nginx::{Nginx, NginxKind},
    pki::Pki,
    postfix::{Postfix, PostfixKind},
    postgres::{Postgres, PostgresKind},
    process::Process,
    rabbitmq::{RabbitMq, RabbitMqKind},
    redis::{Redis, RedisKind},
};

/// Set to `1`: a server that cannot be had fails the test instead of skipping it.
pub const REQUIRE_SERVERS: &str = "CONNCHECK_REQUIRE_SERVERS";

const PREFIX: &str = "conncheck-rig-";

/// A server that is not there, and why.
#[derive(Debug, Clone)]
pub struct Skipped {
    pub name: String,
    pub why: String,
    missing: bool,
    impossible: bool,
}

impl Skipped {
    /// For the end of a test that cannot run: says so, or panics if servers are required and this one could be
    /// had, or if this is no missing package but a server that does not start.
    pub fn tell(&self) {
        assert!(
            self.missing && (self.impossible || !required()),
            "{} is not to be had: {}",
            self.name,
            self.why
        );
        eprintln!("skipped: {} is not to be had: {}", self.name, self.why);
    }
}

impl From<Skipped> for Error {
    fn from(skipped: Skipped) -> Error {
        let mut err = Error::new(format!("{}: {}", skipped.name, skipped.why));
        err.missing = skipped.missing;
        err.impossible = skipped.impossible;
        err
    }
}

impl From<Error> for Skipped {
    /// For programs that are no servers, like `promtool`.
    fn from(err: Error) -> Skipped {
        Skipped {
            name: "a tool".into(),
            why: err.to_string(),
            missing: err.missing,
            impossible: err.impossible,
        }
    }
}

/// In a test: the server, or the test ends here, skipped (see [`Skipped::tell`]).
#[macro_export]
macro_rules! need {
    ($server:expr) => {
        $crate::need!($server, ())
    };
    ($server:expr, $otherwise:expr) => {
        match $server {
            Ok(server) => server,
            Err(skipped) => {
                skipped.tell();
                return $otherwise;
            }
        }
    };
}

/// A running server of the rig. Dropping it stops it.
pub trait Server: Any + Send + Sync {
    /// What it runs as; several where it needs helpers.
    fn processes(&self) -> Vec<&Process>;
}

/// The variants of a server, and how each is started. It stands in the file of its server.
pub trait Kind: Copy + fmt::Debug + Send + Sync + 'static {
    type Server: Server;

    /// What it is called in logs and in the list of those that were skipped.
    const NAME: &'static str;

    /// Starts this variant under `name`.
    fn start(self, rig: &Rig, name: &str) -> Result<Self::Server>;
}

/// A server that was asked for: running, or why not.
type Slot = Arc<OnceLock<Result<Arc<dyn Server>, Skipped>>>;

/// Owns a temporary folder and the servers in it. Dropping it stops what it started and removes the folder.
pub struct Rig {
    // Before the folder: fields are dropped in this order.
    servers: Mutex<BTreeMap<String, Slot>>,
    adopted: Mutex<Vec<Arc<Process>>>,
    pki: Pki,
    skipped: Mutex<Vec<Skipped>>,
    dir: TempDir,
    _lock: fs::File,
}

impl Rig {
    /// The certificates and a folder. Servers start when they are first asked for.
    pub fn new() -> Result<Rig> {
        let parent = parent();
        sweep(&parent);
        let dir = tempfile::Builder::new()
            .prefix(PREFIX)
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir_in(&parent)
            .map_err(Error::doing(format!(
                "cannot create a folder in {}",
                parent.display()
            )))?;
        let lock = lock_of(dir.path()).map_err(Error::doing("cannot lock the rig's folder"))?;
        let pki = Pki::new(&dir.path().join("pki"))?;
        Ok(Rig {
            servers: Mutex::default(),
            adopted: Mutex::default(),
            pki,
            skipped: Mutex::new(Vec::new()),
            dir,
            _lock: lock,
        })
    }

    /// The same with the main servers started.
    pub fn start() -> Result<Rig> {
        let rig = Rig::new()?;
        rig.start_all()?;
        Ok(rig)
    }

    /// Starts the main servers side by side. If one does not start, or is not installed and servers are
    /// required, that is an error; for those not installed otherwise see [`Rig::skipped`].
    pub fn start_all(&self) -> Result<()> {
        thread::scope(|scope| {
            scope.spawn(|| drop(self.postgres()));
            scope.spawn(|| drop(self.rabbitmq()));
            scope.spawn(|| drop(self.mariadb()));
            scope.spawn(|| drop(self.redis()));
            scope.spawn(|| drop(self.nginx()));
            scope.spawn(|| drop(self.exim()));
        });
        let bad: Vec<String> = self
            .skipped()
            .into_iter()
            .filter(|skipped| required() || !skipped.missing)
            .map(|skipped| format!("{}: {}", skipped.name, skipped.why))
            .collect();
        if bad.is_empty() {
            Ok(())
        } else {
            Err(Error::new(bad.join("\n")))
        }
    }

    /// The one of this process, stopped when it exits: for tests that run in threads of one program.
    pub fn shared() -> &'static Rig {
        crate::shared::rig()
    }

    /// The rig's folder; goes with it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// The server of that kind, started when first asked for.
    pub fn get<K: Kind>(&self, kind: K) -> Result<Arc<K::Server>, Skipped> {
        let name = name(K::NAME, &format!("{kind:?}"));
        let slot = Arc::clone(lock(&self.servers).entry(name.clone()).or_default());
        let started = slot.get_or_init(|| match kind.start(self, &name) {
            Ok(server) => Ok(Arc::new(server)),
            Err(err) => {
                let skipped = Skipped {
                    name,
                    why: err.to_string(),
                    missing: err.missing,
                    impossible: err.impossible,
                };
                lock(&self.skipped).push(skipped.clone());
                Err(skipped)
            }
        });
        let server: Arc<dyn Server> = Arc::clone(started.as_ref().map_err(Skipped::clone)?);
        let server: Arc<dyn Any + Send + Sync> = server;
        Ok(server
            .downcast()
            .unwrap_or_else(|_| panic!("two servers are called {}", K::NAME)))
    }

    pub fn postgres(&self) -> Result<Arc<Postgres>, Skipped> {
        self.get(PostgresKind::Main)
    }

    pub fn mariadb(&self) -> Result<Arc<MariaDb>, Skipped> {
        self.get(MariaDbKind::Main)
    }

    pub fn redis(&self) -> Result<Arc<Redis>, Skipped> {
        self.get(RedisKind::Main)
    }

    pub fn rabbitmq(&self) -> Result<Arc<RabbitMq>, Skipped> {
        self.get(RabbitMqKind::Main)
    }

    pub fn nginx(&self) -> Result<Arc<Nginx>, Skipped> {
        self.get(NginxKind::Main)
    }

    pub fn postfix(&self) -> Result<Arc<Postfix>, Skipped> {
        self.get(PostfixKind::Main)
    }

    pub fn exim(&self) -> Result<Arc<Exim>, Skipped> {
        self.get(EximKind::Main)
    }

    /// Who was asked for and was not to be had.
    pub fn skipped(&self) -> Vec<Skipped> {
        lock(&self.skipped).clone()
    }

    /// Takes care of a process that talks to the servers: it is stopped before they are.
    pub fn adopt(&self, process: Process) -> Arc<Process> {
        let process = Arc::new(process);
        lock(&self.adopted).push(Arc::clone(&process));
        process
    }

    /// Stops everything at once and removes the folder. What `Drop` does, for a rig that is never dropped.
    pub fn shut_down(&self) {
        lock(&self.adopted)
            .iter()
            .for_each(|process| process.stop());
        let servers: Vec<Arc<dyn Server>> = lock(&self.servers)
            .values()
            .filter_map(|slot| slot.get()?.as_ref().ok().cloned())
            .collect();
        let all: Vec<&Process> = servers
            .iter()
            .flat_map(|server| server.processes())
            .collect();
        all.iter().for_each(|process| process.ask_to_stop());
        all.iter().for_each(|process| process.stop());
        let _ = fs::remove_dir_all(self.dir.path());
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// `postgres`, `postgres-notyetvalid`.
fn name(server: &str, kind: &str) -> String {
    // Of `Shows(NotYetValid)` what is inside.
    let kind = kind.rsplit('(').next().unwrap_or_default();
    let kind = kind.trim_end_matches(')');
    if kind == "Main" {
        server.into()
    } else {
        format!("{server}-{}", kind.to_ascii_lowercase())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn required() -> bool {
    env::var_os(REQUIRE_SERVERS).is_some_and(|value| value == "1")
}

/// Where rigs live. In memory where there is room: a Postgres cluster is a thousand small files, and making them
/// took 1.0 s on the disk and 0.06 s in memory.
fn parent() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let room = statvfs(memory).map_or(0, |facts| facts.f_bavail * facts.f_frsize);
    let writable = rustix::fs::access(memory, Access::WRITE_OK).is_ok();
    if env::var_os("TMPDIR").is_none() && writable && room > 1 << 30 {
        return memory.into();
    }
    env::temp_dir()
}

/// The lock of a rig that lives. It is called so once it is locked, or another rig would take it for that of one
/// that was killed.
fn lock_of(dir: &Path) -> io::Result<fs::File> {
    let unlocked = dir.join("unlocked");
    let lock = fs::File::create(&unlocked)?;
    flock(&lock, FlockOperation::LockExclusive)?;
    fs::rename(unlocked, dir.join("lock"))?;
    Ok(lock)
}

/// Removes the folders of rigs that were killed. A living one holds the lock in its folder.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) && is_stale(&entry.path()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn is_stale(dir: &PathBuf) -> bool {
    match fs::File::open(dir.join("lock")) {
        Ok(lock) => flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok(),
        // Just being made, or half removed.
        Err(_) => {
            let age = |time: SystemTime| time.elapsed().unwrap_or_default();
            fs::metadata(dir)
                .and_then(|meta| meta.modified())
                .is_ok_and(|time| age(time) > Duration::from_secs(60))
        }
    }
}
