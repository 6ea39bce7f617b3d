//! Sources to targets: everything that is right, and everything that is wrong.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use conncheck_config::{ConfigError, Connection, PassedOver};
use conncheck_probes::Env;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::cli::Options;
use crate::redact::Redactor;
use crate::secrets::{READERS, Secrets};
use crate::source;
use crate::target::{self, Context, Definition, Target};

/// What came of reading all definitions.
#[derive(Default)]
pub struct Loaded {
    /// The selected ones, in the order of the sources.
    pub targets: Vec<Arc<Target>>,
    /// Everything that is wrong, selected or not.
    pub errors: Vec<ConfigError>,
    /// What works and should be mended.
    pub warnings: Vec<ConfigError>,
    /// Secrets that are missing or of no use so far: their targets run and say so.
    pub unresolved: Vec<ConfigError>,
    /// How many definitions are right, selected or not.
    pub valid: usize,
    /// Documents of other kinds, which are nobody's mistake.
    pub passed_over: Vec<PassedOver>,
    /// The files that were looked at.
    pub files: Vec<String>,
}

impl Loaded {
    /// How many definitions are wrong. One may have several mistakes.
    pub fn invalid(&self) -> usize {
        let nameless = self
            .errors
            .iter()
            .filter(|error| error.connection.is_none())
            .count();
        let named = self
            .errors
            .iter()
            .filter_map(|error| error.connection.as_ref());
        nameless + named.collect::<BTreeSet<_>>().len()
    }
}

/// Reads and builds everything.
pub async fn load(options: &Options, env: &Env, redactor: &Arc<Redactor>) -> Loaded {
    // The authorities that this machine trusts are files too.
    let roots = tokio::task::spawn_blocking(conncheck_probes::read_system_roots);
    let paths = options.paths.clone();
    let read = tokio::task::spawn_blocking(move || source::read(&paths)).await;
    let snapshot = match read {
        Ok(snapshot) => snapshot,
        Err(err) => std::panic::resume_unwind(err.into_panic()),
    };
    redactor.add(snapshot.documents.secrets());
    let names = snapshot.connections.iter();
    redactor.keep(names.flat_map(|connection| {
        let id = &connection.id;
        [id.namespace.as_str(), id.name.as_str()]
    }));
    let roots_hang = timeout(PACE.patience, roots).await.is_err();
    let absolute = |dir: &PathBuf| std::path::absolute(dir).unwrap_or_else(|_| dir.clone());
    let context = Context {
        secrets: Arc::new(
            Secrets::new(
                snapshot.documents,
                options.secrets_dir.as_ref().map(absolute),
                options.credentials_dir.clone(),
            )
            .exec_plugins(options.exec_plugins)
            .builds_block(roots_hang),
        ),
        env: env.clone(),
        redactor: Arc::clone(redactor),
    };
    let mut loaded = Loaded {
        errors: snapshot.errors,
        warnings: snapshot.warnings,
        passed_over: snapshot.passed_over,
        files: snapshot.files,
        ..Loaded::default()
    };
    let secrets = Arc::clone(&context.secrets);
    let (rules, selection) = (options.rules.clone(), options.selection.clone());
    let shared = Arc::new((rules, selection, snapshot.revisions, context));
    let look = move |connection: Connection, within| {
        let shared = Arc::clone(&shared);
        async move {
            let (rules, selection, revisions, context) = &*shared;
            let definition = Definition::read(connection, rules)?;
            let Definition { connection, ty, .. } = &definition;
            if !selection.takes(connection, ty) {
                return Target::judge(&definition, context).map(|()| None);
            }
            let text = revisions.get(&connection.place.file).copied();
            let text = text.unwrap_or_default();
            let res = Target::load(definition, text, within, context).await;
            res.map(Some)
        }
    };
    let all = side_by_side(snapshot.connections, PACE, &secrets, look).await;
    for res in all {
        match res {
            Ok(selected) => {
                loaded.valid += 1;
                if let Some(target::Loaded { target, unresolved }) = selected {
                    loaded.targets.push(target);
                    loaded.unresolved.extend(unresolved);
                }
            }
            Err(errors) => loaded.errors.extend(errors),
        }
    }
    loaded.errors.sort_by(|a, b| a.place.cmp(&b.place));
    let Loaded {
        errors,
        warnings,
        unresolved,
        ..
    } = &mut loaded;
    for mistake in errors.iter_mut().chain(warnings).chain(unresolved) {
        let clean = |text: &mut String| *text = redactor.redact(text).into_owned();
        clean(&mut mistake.message);
        mistake.hint.iter_mut().for_each(clean);
    }
    for other in &mut loaded.passed_over {
        other.kind = redactor.redact(&other.kind).into_owned();
    }
    loaded
}

/// How [`side_by_side`] goes about it.
#[derive(Clone, Copy)]
struct Pace {
    /// How many are looked at at a time. Each has a thread while it is read, with memory of its own.
    lanes: usize,
    /// How often it is seen whether there should be more.
    tick: Duration,
    /// How long reading the secrets of one may take.
    patience: Duration,
}

const PACE: Pace = Pace {
    lanes: 4,
    tick: Duration::from_millis(100),
    patience: Duration::from_secs(5),
};

/// Lanes that read so many in a tick are busy, and others beside them would not be faster.
const BUSY: u64 = 10;

/// Looks at all of them and keeps their order. `look` is told how long it may wait for secrets.
///
/// Reading secrets blocks, for long where the file system is slow and for ever where it hangs. So more
/// are looked at at a time when these wait; and each may take so much less as nothing has moved: a
/// thousand secrets on a dead mount take no longer than one.
async fn side_by_side<I, T, L>(
    items: Vec<I>,
    pace: Pace,
    secrets: &Arc<Secrets>,
    look: impl Fn(I, Duration) -> L + Send + Sync + 'static,
) -> Vec<T>
where
    I: Send + 'static,
    T: Send + 'static,
    L: Future<Output = T> + Send,
{
    let count = items.len();
    let waiting = Arc::new(Mutex::new(items.into_iter().enumerate()));
    let look = Arc::new(look);
    let mut lanes = JoinSet::new();
    let grow = |lanes: &mut JoinSet<Vec<(usize, T)>>, by: usize| {
        let left = lock(&waiting).len();
        for _ in 0..by.min(READERS - lanes.len()).min(left) {
            let (waiting, look) = (Arc::clone(&waiting), Arc::clone(&look));
            let secrets = Arc::clone(secrets);
            lanes.spawn(async move {
                let mut all = Vec::new();
                while let Some((number, item)) = next(&waiting) {
                    let within = pace.patience.saturating_sub(secrets.idle());
                    all.push((number, look(item, within).await));
                    // What needs no reading never waits, and others want to run too.
                    tokio::task::yield_now().await;
                }
                all
            });
        }
    };
    grow(&mut lanes, pace.lanes);
    let mut all = Vec::with_capacity(count);
    let mut ended = secrets.ended();
    loop {
        match timeout(pace.tick, lanes.join_next()).await {
            Ok(None) => break,
            Ok(Some(Ok(done))) => all.extend(done),
            Ok(Some(Err(err))) => std::panic::resume_unwind(err.into_panic()),
            Err(_) => {
                let before = std::mem::replace(&mut ended, secrets.ended());
                let are_busy = ended - before >= BUSY * lanes.len() as u64;
                if secrets.under_way() >= lanes.len() && !are_busy {
                    let twice = lanes.len();
                    grow(&mut lanes, twice);
                }
            }
        }
    }
    all.sort_unstable_by_key(|(number, _)| *number);
    all.into_iter().map(|(_, looked)| looked).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The next one; the lock is held for no longer than it takes to get it.
fn next<T>(waiting: &Mutex<impl Iterator<Item = T>>) -> Option<T> {
    lock(waiting).next()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use conncheck_config::Documents;
    use tokio::time::Instant;

    use super::*;

    #[derive(Clone, Copy, PartialEq)]
    enum Item {
        AtHand,
        Read,
        Hangs,
    }

    /// Looks at `count` items, and gives how many of each kind were read. Those that hang do until so
    /// many others have been read.
    async fn check(count: usize, of: fn(usize) -> Item, until: usize, patience: Duration) -> usize {
        let secrets = Arc::new(Secrets::new(Documents::default(), None, None));
        let (end, mount) = mpsc::channel::<()>();
        let (end, mount) = (Arc::new(Mutex::new(Some(end))), Arc::new(Mutex::new(mount)));
        let others = Arc::new(AtomicUsize::new(0));
        let pace = Pace {
            lanes: 2,
            tick: Duration::from_millis(10),
            patience,
        };
        let look = {
            let (secrets, end) = (Arc::clone(&secrets), Arc::clone(&end));
            move |item, within| {
                let (secrets, mount) = (Arc::clone(&secrets), Arc::clone(&mount));
                let (end, others) = (Arc::clone(&end), Arc::clone(&others));
                async move {
                    let kind = of(item);
                    let was_read = match kind {
                        Item::AtHand => true,
                        _ => {
                            let hangs = kind == Item::Hangs;
                            let work = move |_: &Secrets| hangs.then(|| lock(&mount).recv());
                            let deadline = Instant::now() + within;
                            secrets
                                .reading(&Arc::default(), deadline, work)
                                .await
                                .is_ok()
                        }
                    };
                    if kind != Item::Hangs && others.fetch_add(1, Ordering::Relaxed) + 1 == until {
                        lock(&end).take();
                    }
                    (item, was_read)
                }
            }
        };
        let looked = side_by_side((0..count).collect(), pace, &secrets, look).await;
        lock(&end).take();
        let numbers: Vec<_> = looked.iter().map(|(item, _)| *item).collect();
        assert_eq!(
            numbers,
            (0..count).collect::<Vec<_>>(),
            "each once, in order"
        );
        looked.iter().filter(|(_, was_read)| *was_read).count()
    }

    /// They are released by the last of the others, which must not wait for them.
    #[tokio::test]
    async fn what_hangs_keeps_nothing_else_from_being_read() {
        let of = |item| match item % 25 {
            0 => Item::Hangs,
            1 => Item::AtHand,
            _ => Item::Read,
        };
        assert_eq!(check(1000, of, 960, Duration::from_secs(60)).await, 1000);
    }

    /// In turn they would take a minute, and some more for what is at hand between them.
    #[tokio::test]
    async fn where_all_hang_none_is_waited_for_longer_than_one() {
        let of = |item| match item % 2 {
            0 => Item::Hangs,
            _ => Item::AtHand,
        };
        let started = Instant::now();
        let read = check(10_000, of, usize::MAX, Duration::from_secs(3)).await;
        assert_eq!(read, 5000);
        assert!(started.elapsed() < Duration::from_secs(40));
    }
}
