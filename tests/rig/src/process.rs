//! A server as a child process that cannot be left behind.
//!
//! Three nets: `Drop` stops it, also when a test panics. The kernel signals it when we die without a `Drop`
//! (SIGKILL, abort). And whatever remains of its process group when it ends is killed.

use std::{
    ffi::OsString,
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, getpid, getppid, kill_process, kill_process_group,
    set_parent_process_death_signal, waitid,
};

use crate::{
    PATIENCE,
    error::{Error, Result},
    user::User,
};

/// How long a server has to end by itself before it is killed.
const GRACE: Duration = Duration::from_secs(5);
/// How often a readiness poll asks.
const POLL: Duration = Duration::from_millis(10);

/// What to run.
pub struct Spec {
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    log: PathBuf,
    dir: PathBuf,
    user: Option<User>,
    stop: Signal,
    orphaned: Signal,
    /// Says it to our own terminal instead of a log.
    aloud: bool,
    envs: Vec<(OsString, OsString)>,
}

impl Spec {
    /// `program`, run in `dir`, its output in `dir/NAME.log`.
    pub fn new(name: &str, program: &Path, dir: &Path) -> Spec {
        Spec {
            name: name.into(),
            program: program.into(),
            args: Vec::new(),
            log: dir.join(format!("{name}.log")),
            dir: dir.into(),
            user: None,
            stop: Signal::TERM,
            orphaned: Signal::KILL,
            aloud: false,
            envs: Vec::new(),
        }
    }

    pub fn args<S: Into<OsString>>(mut self, args: impl IntoIterator<Item = S>) -> Spec {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Runs as this user instead of ours.
    pub(crate) fn user(mut self, user: Option<User>) -> Spec {
        self.user = user;
        self
    }

    /// What asks it to end: SIGTERM unless said otherwise.
    pub(crate) fn stop_with(mut self, signal: Signal) -> Spec {
        self.stop = signal;
        self
    }

    /// What the kernel sends when we are gone: SIGKILL unless said otherwise.
    pub(crate) fn when_orphaned(mut self, signal: Signal) -> Spec {
        self.orphaned = signal;
        self
    }

    /// Its output goes where ours goes; there is no log then.
    pub fn aloud(mut self) -> Spec {
        self.aloud = true;
        self
    }

    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Spec {
        self.envs.push((name.into(), value.into()));
        self
    }

    pub fn spawn(self) -> Result<Process> {
        Process::spawn(self)
    }
}

/// A running server. Dropping it stops it.
pub struct Process {
    name: String,
    pid: Pid,
    log: PathBuf,
    stop: Signal,
    life: Arc<Life>,
}

/// Shared with the thread that waits for the process.
#[derive(Default)]
struct Life {
    /// The status once it has ended and been reaped. As long as it is `None` the pid is ours: it is reaped
    /// under this lock, so a signal sent under it cannot hit a stranger with the same number.
    ended: Mutex<Option<ExitStatus>>,
    changed: Condvar,
}

impl Life {
    fn lock(&self) -> MutexGuard<'_, Option<ExitStatus>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Process {
    fn spawn(spec: Spec) -> Result<Process> {
        let life = Arc::new(Life::default());
        let (tell, told) = mpsc::channel();
        let Spec {
            name, log, stop, ..
        } = &spec;
        let (name, log, stop) = (name.clone(), log.clone(), *stop);
        let supervised = Arc::clone(&life);
        // The death signal comes when the *thread* that forked ends, not the process. Hence a thread of its
        // own that lives as long as the child: a test's thread may end much earlier.
        thread::Builder::new()
            .name(format!("rig-{name}"))
            .stack_size(128 * 1024)
            .spawn(move || supervise(spec, &supervised, &tell))
            .map_err(Error::doing(format!("a thread for {name}")))?;
        let pid = told
            .recv()
            .map_err(Error::doing(format!("the thread that starts {name}")))??;
        Ok(Process {
            name,
            pid,
            log,
            stop,
            life,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    pub fn is_running(&self) -> bool {
        self.life.lock().is_none()
    }

    /// Everything it has said on its output so far.
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Sends a signal to the process itself. Does nothing once it has ended.
    pub fn signal(&self, signal: Signal) {
        let ended = self.life.lock();
        if ended.is_none() {
            let _ = kill_process(self.pid, signal);
        }
    }

    /// Stops the clock of the process and its descendants (SIGSTOP): the kernel still accepts connections for
    /// it, and nobody answers. Returns when every thread stands still: one that is running at the signal goes on
    /// for a moment.
    pub fn pause(&self) {
        self.signal_tree(Signal::STOP);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline && !family(self.pid).into_iter().all(stands_still) {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Undoes [`Process::pause`].
    pub fn resume(&self) {
        self.signal_tree(Signal::CONT);
    }

    /// Ends it: gracefully, and by force after five seconds. Returns when it is gone.
    pub fn stop(&self) {
        self.ask_to_stop();
        if self.wait(GRACE).is_none() {
            self.kill();
        }
    }

    /// The graceful half of [`Process::stop`], without the waiting.
    pub fn ask_to_stop(&self) {
        self.resume();
        self.signal(self.stop);
    }

    /// Ends it by force. Returns when it is gone.
    pub fn kill(&self) {
        self.signal_tree(Signal::KILL);
        let _ = self.wait(PATIENCE);
    }

    /// Waits until it has ended by itself, `None` if it has not within the time.
    pub fn wait(&self, within: Duration) -> Option<ExitStatus> {
        let ended = self.life.lock();
        let (ended, _) = self
            .life
            .changed
            .wait_timeout_while(ended, within, |ended| ended.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        *ended
    }

    /// Asks `poll` until it says yes. An early end, or the deadline, is an error with the last answer and the
    /// end of the log.
    pub fn wait_ready(
        &self,
        within: Duration,
        mut poll: impl FnMut() -> Result<(), String>,
    ) -> Result<()> {
        let started = Instant::now();
        loop {
            let Err(why) = poll() else { return Ok(()) };
            if let Some(status) = *self.life.lock() {
                return Err(self.failed(&format!("ended before it answered ({status})")));
            }
            if started.elapsed() > within {
                return Err(self.failed(&format!("did not answer within {within:?}: {why}")));
            }
            thread::sleep(POLL);
        }
    }

    fn failed(&self, what: &str) -> Error {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(15)..].join("\n  ");
        let in_use = log.to_ascii_lowercase().contains("address already in use");
        Error::new(format!(
            "{} {what}\nthe end of {}:\n  {tail}",
            self.name,
            self.log.display()
        ))
        .with_address_in_use(in_use)
    }

    fn signal_tree(&self, signal: Signal) {
        let ended = self.life.lock();
        if ended.is_some() {
            return;
        }
        // Servers put their children into groups of their own, so the group alone is not enough.
        for pid in family(self.pid) {
            let _ = kill_process(pid, signal);
        }
        let _ = kill_process_group(self.pid, signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Starts the process, tells its pid, waits for its end, and cleans up behind it.
fn supervise(spec: Spec, life: &Life, tell: &mpsc::Sender<Result<Pid>>) {
    let name = spec.name.clone();
    let mut child = match command(spec).and_then(|mut command| {
        command.spawn().map_err(Error::doing(format!(
            "cannot start {name} ({})",
            command.get_program().display()
        )))
    }) {
        Ok(child) => child,
        Err(err) => {
            let _ = tell.send(Err(err));
            return;
        }
    };
    let pid = Pid::from_child(&child);
    let _ = tell.send(Ok(pid));
    // Not reaped yet: the number stays ours until we hold the lock.
    while let Err(rustix::io::Errno::INTR) = waitid(
        WaitId::Pid(pid),
        WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
    ) {}
    let mut ended = life.lock();
    let _ = kill_process_group(pid, Signal::KILL);
    *ended = Some(child.wait().unwrap_or_default());
    life.changed.notify_all();
}

fn command(spec: Spec) -> Result<Command> {
    let mut command = Command::new(&spec.program);
    command
        .args(&spec.args)
        .current_dir(&spec.dir)
        .stdin(Stdio::null())
        .env("LC_ALL", "C.UTF-8")
        .envs(spec.envs)
        .process_group(0);
    if !spec.aloud {
        let doing = || Error::doing(format!("cannot write {}", spec.log.display()));
        let log = File::create(&spec.log).map_err(doing())?;
        command
            .stderr(log.try_clone().map_err(doing())?)
            .stdout(log);
    }
    if let Some(user) = &spec.user {
        command.uid(user.uid).gid(user.gid);
    }
    let (parent, orphaned) = (getpid(), spec.orphaned);
    let before_exec = move || {
        set_parent_process_death_signal(Some(orphaned))?;
        // We may have died between the fork and the line above; then the signal never comes.
        if getppid() != Some(parent) {
            return Err(rustix::io::Errno::SRCH.into());
        }
        Ok(())
    };
    // SAFETY: between fork and exec only three system calls are made; nothing allocates or takes a lock. The
    // standard library runs this after it has changed the user, which would clear the death signal again.
    #[expect(
        unsafe_code,
        reason = "the only way to ask for a death signal before exec"
    )]
    unsafe {
        command.pre_exec(before_exec);
    }
    Ok(command)
}

/// Whether no thread of the process runs. One that is gone, or about to be reaped, does not.
fn stands_still(pid: Pid) -> bool {
    let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())) else {
        return true;
    };
    tasks.flatten().all(|task| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        // After the name, which is in parentheses and may hold any.
        let state = stat
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.chars().next());
        matches!(state, None | Some('T' | 't' | 'Z' | 'X'))
    })
}

/// The process, its children, grandchildren and so on.
fn family(pid: Pid) -> Vec<Pid> {
    let mut found = vec![pid];
    let mut todo = vec![pid];
    while let Some(parent) = todo.pop() {
        let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", parent.as_raw_nonzero())) else {
            continue;
        };
        for task in tasks.flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            let children = children
                .split_whitespace()
                .filter_map(|child| Pid::from_raw(child.parse().ok()?));
            for child in children {
                found.push(child);
                todo.push(child);
            }
        }
    }
    found
}
