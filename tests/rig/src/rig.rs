//! All servers of a test run, started when first asked for.

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::{Duration, SystemTime},
};

use rustix::fs::{Access, FlockOperation, flock, statvfs};
use tempfile::TempDir;

use crate::{
    error::{Error, Result},
    nginx::Nginx,
    pki::{Certified, Pki},
    postgres::Postgres,
    process::Process,
    redis::Redis,
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
}

impl Skipped {
    /// For the end of a test that cannot run: says so, or panics if servers are required, or if this is no
    /// missing package but a server that does not start.
    pub fn tell(&self) {
        assert!(
            self.missing && !required(),
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

/// Which Postgres.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PostgresKind {
    Main,
    /// With `pki.intermediate`; the next ones with the certificates of their names.
    Intermediate,
    Expired,
    NotYetValid,
    WrongName,
    UnknownCa,
    SelfSigned,
    /// No TLS at all.
    NoTls,
    /// `default_transaction_read_only`.
    ReadOnly,
    /// A hot standby of `Main`.
    Standby,
    /// Never finishes starting: 57P03.
    Starting,
    /// Room for one client, who is there: 53300.
    Full,
}

/// Which Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedisKind {
    Main,
    Intermediate,
    Expired,
    NotYetValid,
    WrongName,
    UnknownCa,
    SelfSigned,
    /// Wants a client certificate.
    MutualTls,
    /// `max number of clients reached`.
    Full,
    /// `MASTERDOWN`.
    MasterDown,
    /// `LOADING`.
    Loading,
}

type Slot<T> = OnceLock<Result<T, Skipped>>;

/// Owns a temporary folder and the servers in it. Dropping it stops what it started and removes the folder.
pub struct Rig {
    // Before the folder: fields are dropped in this order.
    postgres: [Slot<Postgres>; 12],
    redis: [Slot<Redis>; 11],
    nginx: Slot<Nginx>,
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
        let lock = fs::File::create(dir.path().join("lock"))
            .map_err(Error::doing("cannot lock the rig's folder"))?;
        flock(&lock, FlockOperation::LockExclusive)
            .map_err(Error::doing("cannot lock the rig's folder"))?;
        let pki = Pki::new(&dir.path().join("pki"))?;
        Ok(Rig {
            postgres: Default::default(),
            redis: Default::default(),
            nginx: OnceLock::new(),
            adopted: Mutex::default(),
            pki,
            skipped: Mutex::new(Vec::new()),
            dir,
            _lock: lock,
        })
    }

    /// The same with the three main servers started.
    pub fn start() -> Result<Rig> {
        let rig = Rig::new()?;
        rig.start_all()?;
        Ok(rig)
    }

    /// Starts the three main servers side by side. If one does not start, or is not installed and servers are
    /// required, that is an error; for those not installed otherwise see [`Rig::skipped`].
    pub fn start_all(&self) -> Result<()> {
        thread::scope(|scope| {
            scope.spawn(|| drop(self.postgres()));
            scope.spawn(|| drop(self.redis()));
            scope.spawn(|| drop(self.nginx()));
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

    pub fn postgres(&self) -> Result<&Postgres, Skipped> {
        self.postgres_of(PostgresKind::Main)
    }

    pub fn redis(&self) -> Result<&Redis, Skipped> {
        self.redis_of(RedisKind::Main)
    }

    pub fn nginx(&self) -> Result<&Nginx, Skipped> {
        self.fill(&self.nginx, "nginx", || Nginx::start(&self.pki, self.dir()))
    }

    pub fn postgres_of(&self, kind: PostgresKind) -> Result<&Postgres, Skipped> {
        let name = name("postgres", &format!("{kind:?}"));
        self.fill(&self.postgres[kind as usize], &name, || {
            self.start_postgres(kind, &name)
        })
    }

    pub fn redis_of(&self, kind: RedisKind) -> Result<&Redis, Skipped> {
        let name = name("redis", &format!("{kind:?}"));
        self.fill(&self.redis[kind as usize], &name, || {
            self.start_redis(kind, &name)
        })
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
        let postgres = self
            .postgres
            .iter()
            .filter_map(|slot| slot.get()?.as_ref().ok())
            .map(Postgres::process);
        let redis = self
            .redis
            .iter()
            .filter_map(|slot| slot.get()?.as_ref().ok())
            .map(Redis::process);
        let nginx = self
            .nginx
            .get()
            .and_then(|nginx| nginx.as_ref().ok())
            .map(Nginx::process);
        let all: Vec<_> = postgres.chain(redis).chain(nginx).collect();
        all.iter().for_each(|process| process.ask_to_stop());
        all.iter().for_each(|process| process.stop());
        let _ = fs::remove_dir_all(self.dir.path());
    }

    fn fill<'a, T>(
        &self,
        slot: &'a Slot<T>,
        name: &str,
        start: impl FnOnce() -> Result<T>,
    ) -> Result<&'a T, Skipped> {
        let filled = slot.get_or_init(|| {
            start().map_err(|err| {
                let skipped = Skipped {
                    name: name.into(),
                    why: err.to_string(),
                    missing: err.missing,
                };
                lock(&self.skipped).push(skipped.clone());
                skipped
            })
        });
        filled.as_ref().map_err(Skipped::clone)
    }

    fn start_postgres(&self, kind: PostgresKind, name: &str) -> Result<Postgres> {
        let pki = &self.pki;
        let builder = Postgres::builder(pki, self.dir()).name(name);
        match kind {
            PostgresKind::Main => builder,
            PostgresKind::Intermediate => builder.certificate(&pki.intermediate),
            PostgresKind::Expired => builder.certificate(&pki.expired),
            PostgresKind::NotYetValid => builder.certificate(&pki.not_yet_valid),
            PostgresKind::WrongName => builder.certificate(&pki.wrong_name),
            PostgresKind::UnknownCa => builder.certificate(&pki.unknown_ca),
            PostgresKind::SelfSigned => builder.certificate(&pki.self_signed),
            PostgresKind::NoTls => builder.without_tls(),
            PostgresKind::ReadOnly => builder.read_only(),
            PostgresKind::Standby => {
                return builder.standby_of(self.postgres()?).start();
            }
            PostgresKind::Starting => builder.forever_starting(),
            PostgresKind::Full => builder.full(),
        }
        .start()
    }

    fn start_redis(&self, kind: RedisKind, name: &str) -> Result<Redis> {
        let builder = Redis::builder(&self.pki, self.dir()).name(name);
        let with = |certificate: &Certified| {
            Redis::builder(&self.pki, self.dir())
                .name(name)
                .certificate(certificate)
                .start()
        };
        match kind {
            RedisKind::Main => builder.start(),
            RedisKind::Intermediate => with(&self.pki.intermediate),
            RedisKind::Expired => with(&self.pki.expired),
            RedisKind::NotYetValid => with(&self.pki.not_yet_valid),
            RedisKind::WrongName => with(&self.pki.wrong_name),
            RedisKind::UnknownCa => with(&self.pki.unknown_ca),
            RedisKind::SelfSigned => with(&self.pki.self_signed),
            RedisKind::MutualTls => builder.mutual_tls().start(),
            RedisKind::Full => builder.full().start(),
            RedisKind::MasterDown => builder.master_down().start(),
            RedisKind::Loading => builder.loading().start(),
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// `postgres`, `postgres-notyetvalid`.
fn name(server: &str, kind: &str) -> String {
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
