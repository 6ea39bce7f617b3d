//! Where secrets are looked for: documents, folders, the environment.
//!
//! Files block, and a hung mount blocks for ever. So whoever asks does it through
//! [`Secrets::reading`]: on a thread for that, under a deadline, and behind a semaphore that a
//! hung thread keeps, so that the threads that hang are counted and cannot use up the pool. What is
//! in the loaded documents and in the environment is at hand ([`Secrets::at_hand`]).

use std::collections::BTreeMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use conncheck_config::{Documents, Found, Lookup, NotFound, RefKind, Secret};
use conncheck_probes::Files;
use tokio::sync::{OwnedMutexGuard, Semaphore};
use tokio::time::{Instant, timeout_at};

/// What Kubernetes allows a secret.
const LARGEST: u64 = 1 << 20;

/// How many readings may block at once. tokio's pool has 512 threads, and `/metrics` needs one.
pub const READERS: usize = 256;

/// The prefix of the variables that are secrets.
const VARIABLE: &str = "CONNCHECK_SECRET_";

/// Every place where secrets are looked for.
#[derive(Debug)]
pub struct Secrets {
    documents: Documents,
    dir: Option<PathBuf>,
    credentials: Option<PathBuf>,
    /// Whether programs that a kubeconfig or a credential names are run.
    exec_plugins: bool,
    readers: Arc<Semaphore>,
    /// Whether nothing is at hand, since building a probe may block.
    blocks: bool,
    /// How many readings have come to their end, in time.
    ended: AtomicU64,
    /// When the last of them did, or when one began and no other was under way.
    moved: Mutex<Instant>,
}

/// Reading did not end in time.
#[derive(Debug)]
pub struct Hangs;

impl Secrets {
    /// `dir` is `--secrets-dir`, `credentials` systemd's `$CREDENTIALS_DIRECTORY`.
    pub fn new(documents: Documents, dir: Option<PathBuf>, credentials: Option<PathBuf>) -> Self {
        Self {
            documents,
            dir,
            credentials,
            exec_plugins: true,
            readers: Arc::new(Semaphore::new(READERS)),
            blocks: false,
            ended: AtomicU64::new(0),
            moved: Mutex::new(Instant::now()),
        }
    }

    /// Runs programs that a kubeconfig or a credential names, or refuses to.
    #[must_use]
    pub fn exec_plugins(mut self, are_run: bool) -> Self {
        self.exec_plugins = are_run;
        self
    }

    /// Whether a probe can be built without blocking.
    #[must_use]
    pub fn builds_block(mut self, blocks: bool) -> Self {
        self.blocks = blocks;
        self
    }

    /// Does `work` where it may block. `turn` is the target's own: it is not asked for again while
    /// an earlier reading of the same target still hangs.
    pub async fn reading<T: Send + 'static>(
        self: &Arc<Self>,
        turn: &Arc<tokio::sync::Mutex<()>>,
        deadline: Instant,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, Hangs> {
        let res = timeout_at(deadline, async {
            let turn: OwnedMutexGuard<()> = Arc::clone(turn).lock_owned().await;
            if self.under_way() == 0 {
                *self.moved() = Instant::now();
            }
            let permit = Arc::clone(&self.readers).acquire_owned().await;
            let secrets = Arc::clone(self);
            tokio::task::spawn_blocking(move || {
                let _until_done = (turn, permit);
                work(&secrets)
            })
            .await
        });
        match res.await {
            Ok(Ok(done)) => {
                self.ended.fetch_add(1, Ordering::Relaxed);
                *self.moved() = Instant::now();
                Ok(done)
            }
            Ok(Err(err)) if err.is_panic() => std::panic::resume_unwind(err.into_panic()),
            Ok(Err(_)) | Err(_) => Err(Hangs),
        }
    }

    /// Does `work` here and now, if nothing that it asks for has to be read from a file.
    pub fn at_hand<T>(&self, work: impl FnOnce(Asking<'_>) -> Option<T>) -> Option<T> {
        if self.blocks {
            return None;
        }
        work(Asking {
            only_at_hand: true,
            ..Asking::new(self)
        })
    }

    /// How many readings have come to their end, in time.
    pub fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    /// How many readings have begun and not ended, in time or not.
    pub fn under_way(&self) -> usize {
        READERS - self.readers.available_permits()
    }

    /// For how long none of those under way has come to its end.
    pub fn idle(&self) -> Duration {
        self.moved().elapsed()
    }

    fn moved(&self) -> MutexGuard<'_, Instant> {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_at_hand(&self, question: &Question) -> bool {
        match question {
            Question::Find {
                kind,
                namespace,
                name,
                ..
            } => {
                let has_folders = self.dir.is_some() || self.credentials.is_some();
                !has_folders || self.documents.contains(*kind, namespace, name)
            }
            Question::Variable(_) => true,
            Question::File(_) | Question::Named(_) => false,
        }
    }

    fn ask(&self, question: &Question) -> Answer {
        match question {
            Question::Find {
                kind,
                namespace,
                name,
                wanted,
            } => Answer::Found(self.search(*kind, namespace, name, wanted)),
            Question::File(path) => Answer::Secret(read_file(path).map_err(|err| NotFound {
                looked_in: vec![format!("the file `{path}`")],
                detail: Some(err),
            })),
            Question::Variable(name) => Answer::Secret(variable(name).ok_or_else(|| NotFound {
                looked_in: vec![format!("the environment variable `{name}`")],
                detail: None,
            })),
            Question::Named(path) => Answer::Text(read_file(path)),
        }
    }

    fn search(
        &self,
        kind: RefKind,
        namespace: &str,
        name: &str,
        wanted: &[String],
    ) -> Result<Found, NotFound> {
        if let Some(found) = self.documents.find(kind, namespace, name) {
            return Ok(found);
        }
        let mut not_found = NotFound {
            looked_in: vec!["the loaded documents".to_owned()],
            detail: None,
        };
        if let Some(odd) = [namespace, name].into_iter().find(|part| !is_plain(part)) {
            not_found.detail = Some(format!("`{}` cannot be a file name", odd.escape_debug()));
            return Err(not_found);
        }
        if let Some(dir) = &self.dir {
            for folder in [dir.join(namespace).join(name), dir.join(name)] {
                match keys_in(&folder, "") {
                    Ok(values) if !values.is_empty() => return Ok(found(&folder, values)),
                    Ok(_) => {}
                    Err(err) => not_found.detail = Some(denied(&folder, &err)),
                }
                not_found.looked_in.push(format!("`{}`", folder.display()));
            }
        }
        if kind == RefKind::ConfigMap {
            return Err(not_found);
        }
        if let Some(dir) = &self.credentials {
            match keys_in(dir, &format!("{name}.")) {
                Ok(values) if !values.is_empty() => return Ok(found(dir, values)),
                Ok(_) => {}
                Err(err) => not_found.detail = Some(denied(dir, &err)),
            }
            let place = format!("`{}`", dir.join(format!("{name}.*")).display());
            not_found.looked_in.push(place);
        }
        let mut values = BTreeMap::new();
        for key in wanted {
            if let Some(value) = variable(&variable_of(name, key)) {
                values.insert(key.clone(), value);
            }
        }
        if values.is_empty() {
            let variables = format!("the environment (`{}`)", variable_of(name, "<KEY>"));
            not_found.looked_in.push(variables);
            return Err(not_found);
        }
        let source = format!("the environment (`{}`)", variable_of(name, "<KEY>"));
        Ok(Found { source, values })
    }
}

/// Something that was asked for.
#[derive(Debug)]
enum Question {
    Find {
        kind: RefKind,
        namespace: String,
        name: String,
        wanted: Vec<String>,
    },
    File(String),
    Variable(String),
    /// A file that a URL or a setting names.
    Named(String),
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Found(Result<Found, NotFound>),
    Secret(Result<Secret, NotFound>),
    Text(Result<Secret, String>),
    /// It was not asked for, since that may block.
    NotAtHand,
}

/// Everything that was asked while a probe was built, and the answers. While the answers are the
/// same, the probe is.
#[derive(Debug, Default)]
pub struct Asked(Vec<(Question, Answer)>);

impl Asked {
    /// Whether nothing was asked, so that nothing can change.
    pub fn is_nothing(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the answers are still the same. Blocks.
    pub fn holds(&self, secrets: &Secrets) -> bool {
        self.0
            .iter()
            .all(|(question, answer)| secrets.ask(question) == *answer)
    }
}

/// Asks, and notes what was asked. Blocks, but in [`Secrets::at_hand`].
pub struct Asking<'a> {
    secrets: &'a Secrets,
    asked: Mutex<Asked>,
    only_at_hand: bool,
}

impl<'a> Asking<'a> {
    /// Nothing asked so far.
    pub fn new(secrets: &'a Secrets) -> Self {
        Self {
            secrets,
            asked: Mutex::default(),
            only_at_hand: false,
        }
    }

    /// Whether something was asked for that is not at hand, so that the answers say nothing.
    pub fn has_missed(&self) -> bool {
        let missed = |(_, answer): &(_, Answer)| *answer == Answer::NotAtHand;
        self.lock().0.iter().any(missed)
    }

    /// Whether anything was asked for outside of the loaded documents, so that it may come
    /// differently the next time.
    pub fn went_outside(&self) -> bool {
        let documents = &self.secrets.documents;
        let outside = |(question, _): &(Question, _)| match question {
            Question::Find {
                kind,
                namespace,
                name,
                ..
            } => !documents.contains(*kind, namespace, name),
            Question::File(_) | Question::Variable(_) | Question::Named(_) => true,
        };
        self.lock().0.iter().any(outside)
    }

    fn lock(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was asked.
    pub fn asked(self) -> Asked {
        self.asked
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn ask<T>(&self, question: Question, unwrap: impl FnOnce(&Answer) -> T) -> T {
        let answer = match self.only_at_hand && !self.secrets.is_at_hand(&question) {
            true => Answer::NotAtHand,
            false => self.secrets.ask(&question),
        };
        let res = unwrap(&answer);
        self.lock().0.push((question, answer));
        res
    }

    fn secret(&self, question: Question) -> Result<Secret, NotFound> {
        self.ask(question, |answer| match answer {
            Answer::Secret(res) => res.clone(),
            _ => Err(NotFound::default()),
        })
    }
}

impl Lookup for Asking<'_> {
    fn find(
        &self,
        kind: RefKind,
        namespace: &str,
        name: &str,
        wanted: &[&str],
    ) -> Result<Found, NotFound> {
        let question = Question::Find {
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            wanted: wanted.iter().map(|&key| key.to_owned()).collect(),
        };
        self.ask(question, |answer| match answer {
            Answer::Found(res) => res.clone(),
            _ => Err(NotFound::default()),
        })
    }

    fn file(&self, path: &str) -> Result<Secret, NotFound> {
        self.secret(Question::File(path.to_owned()))
    }

    fn env(&self, name: &str) -> Result<Secret, NotFound> {
        self.secret(Question::Variable(name.to_owned()))
    }
}

impl Files for Asking<'_> {
    fn read(&self, path: &str) -> Result<Secret, String> {
        self.ask(Question::Named(path.to_owned()), |answer| match answer {
            Answer::Text(res) => res.clone(),
            _ => Err(String::new()),
        })
    }

    fn variable(&self, name: &str) -> Option<String> {
        let value = Lookup::env(self, name).ok()?;
        Some(value.expose().to_owned())
    }

    /// Ours, without what is ours alone: the secrets of other connections among it.
    fn environment(&self) -> Result<Vec<(OsString, OsString)>, String> {
        const OURS: [&str; 2] = ["CONNCHECK_", "CREDENTIALS_DIRECTORY"];
        if !self.secrets.exec_plugins {
            return Err(
                "it has a program run, and `--no-exec-plugins` says to run none".to_owned(),
            );
        }
        let is_ours = |name: &OsStr| {
            let name = name.as_encoded_bytes();
            OURS.iter().any(|ours| name.starts_with(ours.as_bytes()))
        };
        Ok(env::vars_os().filter(|(name, _)| !is_ours(name)).collect())
    }
}

fn found(folder: &Path, values: BTreeMap<String, Secret>) -> Found {
    Found {
        source: format!("`{}`", folder.display()),
        values,
    }
}

fn denied(folder: &Path, err: &io::Error) -> String {
    format!("`{}` cannot be read: {err}", folder.display())
}

/// Whether it is one component of a path and stays where it is put.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0'])
}

/// The files in `folder` whose names begin with `prefix`, by what follows it. A folder that is not
/// there has none. What is hidden, too large or not text is no key.
fn keys_in(folder: &Path, prefix: &str) -> io::Result<BTreeMap<String, Secret>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(err) => {
            return match err.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(BTreeMap::new()),
                _ => Err(err),
            };
        }
    };
    let mut values = BTreeMap::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(key) = name.to_str().and_then(|name| name.strip_prefix(prefix)) else {
            continue;
        };
        if key.is_empty() || key.starts_with('.') {
            continue;
        }
        if let Ok(value) = read_text(&entry.path()) {
            values.insert(key.to_owned(), value);
        }
    }
    Ok(values)
}

/// A file that a definition names. It names it absolutely, or it would depend on where we were
/// started.
fn read_file(path: &str) -> Result<Secret, String> {
    if !path.starts_with('/') {
        return Err(format!("`{path}` is not an absolute path"));
    }
    read_text(Path::new(path)).map_err(|err| format!("`{path}` cannot be read: {err}"))
}

fn read_text(path: &Path) -> io::Result<Secret> {
    // Looked at before it is opened, since opening a pipe waits for its other end.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut text = String::new();
    File::open(path)?
        .take(LARGEST + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > LARGEST {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    Ok(Secret::new(text))
}

fn variable(name: &str) -> Option<Secret> {
    // A name with `=` or a zero byte is no variable, and `var` says so.
    env::var(name).ok().map(Secret::new)
}

/// `db-credentials` and `ca.crt` are `CONNCHECK_SECRET_DB_CREDENTIALS_CA_CRT`.
fn variable_of(name: &str, key: &str) -> String {
    let plain = |text: &str| -> String {
        let upper = |c: char| match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' => c.to_ascii_uppercase(),
            '<' | '>' => c,
            _ => '_',
        };
        text.chars().map(upper).collect()
    };
    format!("{VARIABLE}{}_{}", plain(name), plain(key))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use conncheck_config::{Loader, Trust};

    use super::*;

    /// Secrets from documents, and files in a temporary folder.
    fn secrets(documents: &str, files: &[(&str, &str)]) -> (Secrets, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let mut loader = Loader::default();
        loader.add("documents.yaml", documents, Trust::Local);
        let documents = loader.finish().documents;
        let (of_dir, credentials) = (dir.path().join("dir"), dir.path().join("credentials"));
        (
            Secrets::new(documents, Some(of_dir), Some(credentials)),
            dir,
        )
    }

    const DOCUMENT: &str = "apiVersion: v1\nkind: Secret\nmetadata: {name: db}\n\
                            stringData: {password: from-document}\n";

    /// The values that are found for secret `db` of `default`, or why none are.
    #[track_caller]
    fn check(documents: &str, files: &[(&str, &str)], expected: &str) {
        let (secrets, dir) = secrets(documents, files);
        let found = Asking::new(&secrets).find(RefKind::Secret, "default", "db", &["password"]);
        let shown = match found {
            Ok(found) => {
                let values = found.values.iter();
                let values = values.map(|(key, value)| format!("{key}={}", value.expose()));
                format!(
                    "{} in {}",
                    values.collect::<Vec<_>>().join(" "),
                    found.source
                )
            }
            Err(not_found) => format!("{not_found:?}"),
        };
        assert_eq!(
            shown.replace(&*dir.path().to_string_lossy(), "TMP"),
            expected
        );
    }

    #[test]
    fn documents_win_over_folders_and_the_namespace_over_the_name() {
        let of_namespace = ("dir/default/db/password", "from-namespace\n");
        let of_name = ("dir/db/password", "from-name");
        let credential = ("credentials/db.password", "from-systemd");
        let (secrets, _dir) = secrets(DOCUMENT, &[of_namespace]);
        let found = secrets
            .documents
            .find(RefKind::Secret, "default", "db")
            .unwrap();
        assert_eq!(found.values["password"].expose(), "from-document");
        let files = [of_namespace, of_name, credential];
        check(
            "",
            &files,
            "password=from-namespace\n in `TMP/dir/default/db`",
        );
        check(
            "",
            &[of_name, credential],
            "password=from-name in `TMP/dir/db`",
        );
        check(
            "",
            &[credential],
            "password=from-systemd in `TMP/credentials`",
        );
    }

    #[test]
    fn what_is_hidden_or_another_secret_is_no_key() {
        let files = [
            ("dir/default/db/..data/password", "hidden"),
            ("dir/default/db/.hidden", "hidden"),
            ("dir/default/db/user", "me"),
            ("credentials/db-replica.password", "another"),
        ];
        check("", &files, "user=me in `TMP/dir/default/db`");
    }

    #[test]
    fn what_is_not_there_says_where_it_was_looked_for() {
        check(
            "",
            &[],
            "NotFound { looked_in: [\"the loaded documents\", \"`TMP/dir/default/db`\", \
             \"`TMP/dir/db`\", \"`TMP/credentials/db.*`\", \
             \"the environment (`CONNCHECK_SECRET_DB_<KEY>`)\"], detail: None }",
        );
    }

    #[test]
    fn no_name_leads_out_of_the_folder() {
        let (secrets, _dir) = secrets("", &[("out/password", "no"), ("dir/x/y", "")]);
        let asking = Asking::new(&secrets);
        for (namespace, name) in [
            ("..", "out"),
            ("default", "../out"),
            ("default", ".."),
            ("", "x"),
        ] {
            let found = asking.find(RefKind::Secret, namespace, name, &["password"]);
            assert!(found.is_err(), "{namespace}/{name}");
        }
    }

    #[test]
    fn variables_are_named_after_secret_and_key() {
        assert_eq!(
            variable_of("db-credentials", "ca.crt"),
            "CONNCHECK_SECRET_DB_CREDENTIALS_CA_CRT"
        );
        // Cargo sets this one for its tests.
        let (secrets, _dir) = secrets("", &[]);
        let asking = Asking::new(&secrets);
        let name = asking.env("CARGO_PKG_NAME").unwrap();
        assert_eq!(name.expose(), "conncheck");
        assert!(asking.env("CONNCHECK_NOT_SET").is_err());
        assert!(asking.env("a=b\0").is_err());
    }

    #[test]
    fn a_program_gets_our_environment_without_what_is_ours_alone() {
        let (secrets, _dir) = secrets("", &[]);
        // Cargo sets these two for its tests.
        let asking = Asking::new(&secrets);
        let given = asking.environment().unwrap();
        assert!(given.iter().any(|(name, _)| name == "CARGO_PKG_NAME"));
        assert_eq!(
            asking.variable("CARGO_PKG_NAME").as_deref(),
            Some("conncheck")
        );
        let ours = |name: &OsString| name.to_string_lossy().starts_with("CONNCHECK_");
        assert!(!given.iter().any(|(name, _)| ours(name)));
        let refusing = secrets.exec_plugins(false);
        assert!(Asking::new(&refusing).environment().is_err());
    }

    #[test]
    fn files_are_named_absolutely_and_are_files() {
        let (secrets, dir) = secrets("", &[("a.pem", "pem")]);
        let asking = Asking::new(&secrets);
        let path = dir.path().join("a.pem").to_string_lossy().into_owned();
        assert_eq!(asking.file(&path).unwrap().expose(), "pem");
        assert_eq!(asking.read(&path).unwrap().expose(), "pem");
        let refused = ["a.pem", "/dev/zero", "/", "/nowhere", ""].map(|path| asking.read(path));
        assert!(refused.iter().all(Result::is_err), "{refused:?}");
    }

    #[test]
    fn answers_hold_until_something_changes() {
        let (secrets, dir) = secrets("", &[("dir/default/db/password", "old")]);
        let asking = Asking::new(&secrets);
        let _ = asking.find(RefKind::Secret, "default", "db", &["password"]);
        let _ = asking.file("/nowhere");
        assert!(asking.went_outside());
        let asked = asking.asked();
        assert!(asked.holds(&secrets));
        fs::write(dir.path().join("dir/default/db/password"), "new").unwrap();
        assert!(!asked.holds(&secrets));
    }

    #[tokio::test]
    async fn a_reading_that_hangs_holds_up_only_its_own_target() {
        let secrets = Arc::new(secrets("", &[]).0);
        let (release, hang) = std::sync::mpsc::channel::<()>();
        let (hanging, other) = (Arc::default(), Arc::default());
        let soon = || Instant::now() + Duration::from_millis(50);
        let later = || Instant::now() + Duration::from_secs(30);
        let res = secrets
            .reading(&hanging, soon(), move |_| hang.recv())
            .await;
        assert!(res.is_err());
        assert!(
            secrets.reading(&hanging, soon(), |_| ()).await.is_err(),
            "not asked twice"
        );
        assert!(secrets.reading(&other, later(), |_| ()).await.is_ok());
        assert_eq!(secrets.readers.available_permits(), READERS - 1);
        release.send(()).unwrap();
        assert!(secrets.reading(&hanging, later(), |_| ()).await.is_ok());
    }
}
