//! A program of this machine that a definition has run: the only place where one is started.
//!
//! It gets no terminal and no input, an environment that is given and not inherited, and a process
//! group of its own, which is killed when the attempt ends: also the children that a wrapper script
//! leaves behind are gone then. What it may say is bounded. Its output is taken for a secret, and of
//! what it complains about only the last line is kept.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::Path;
use std::process::Stdio;

use conncheck_config::Secret;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use crate::cause::Cause;
use crate::outcome::Reason;

/// How much a program may say: a credential is a few kilobytes.
const OUTPUT_MAX_BYTES: u64 = 1024 * 1024;

/// What is run.
pub(crate) struct Program {
    /// A path, or a name that is looked up in the `PATH` of `environment`.
    pub(crate) command: String,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(OsString, OsString)>,
}

impl fmt::Debug for Program {
    /// Its name: arguments and environment may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Program {
    /// What it is called in messages: its file name.
    pub(crate) fn name(&self) -> &str {
        let name = Path::new(&self.command).file_name();
        name.and_then(|name| name.to_str()).unwrap_or(&self.command)
    }

    /// Runs it to its end, with `more` in its environment, and gives what it wrote.
    pub(crate) async fn run(&self, more: &[(&str, &str)]) -> Result<Secret, Cause> {
        let mut command = Command::new(&self.command);
        command
            .args(&self.arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .envs(more.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let child = command.spawn().map_err(|error| self.not_started(&error))?;
        let mut running = Running::new(child);
        let (output, complaint) = tokio::try_join!(
            read(running.child.stdout.take()),
            read(running.child.stderr.take())
        )
        .map_err(|error| match error.kind() {
            io::ErrorKind::FileTooLarge => Cause::protocol(format!(
                "the program `{}` wrote more than 1 MiB",
                self.name()
            )),
            _ => Cause::new(
                Reason::Internal,
                format!(
                    "what the program `{}` says cannot be read: {error}",
                    self.name()
                ),
            ),
        })?;
        let status = running.child.wait().await.map_err(|error| {
            Cause::new(
                Reason::Internal,
                format!(
                    "the program `{}` cannot be waited for: {error}",
                    self.name()
                ),
            )
        })?;
        if status.success() {
            return String::from_utf8(output).map(Secret::new).map_err(|_| {
                Cause::protocol(format!(
                    "what the program `{}` wrote is not UTF-8 text",
                    self.name()
                ))
            });
        }
        // `exit status: 1`, `signal: 9 (SIGKILL)`
        let code = status.to_string().replace("exit status: ", "exit ");
        let complaint = String::from_utf8_lossy(&complaint);
        let last_line = complaint
            .lines()
            .map(str::trim)
            .rfind(|line| !line.is_empty());
        let message = match last_line {
            Some(line) => format!("the program `{}` failed ({code}): {line}", self.name()),
            None => format!(
                "the program `{}` failed ({code}) and did not say why",
                self.name()
            ),
        };
        Err(Cause::new(Reason::Auth, message).code(code).hint(
            "run it by hand as the user that conncheck runs as: it must get a credential without asking anybody",
        ))
    }

    fn not_started(&self, error: &io::Error) -> Cause {
        let name = self.name();
        match error.kind() {
            io::ErrorKind::NotFound => {
                Cause::new(Reason::Secret, format!("the program `{name}` is not there")).hint(
                    "install it where conncheck runs, in its `PATH`, or name it by its whole path",
                )
            }
            io::ErrorKind::PermissionDenied => Cause::new(
                Reason::Secret,
                format!("the program `{name}` may not be run"),
            )
            .hint("is it executable for the user that conncheck runs as?"),
            _ => Cause::new(
                Reason::Secret,
                format!("the program `{name}` cannot be run: {error}"),
            ),
        }
    }
}

/// What an argument or a variable of a program may hold: a client secret, say. Not the names of flags,
/// nor short words, which would make a riddle of every message.
pub(crate) fn secret_in(argument: &str) -> Option<Secret> {
    const SHORTEST: usize = 6;
    let text = match argument.split_once('=') {
        Some((flag, value)) if flag.starts_with('-') => value,
        _ => argument,
    };
    let text = text.trim();
    (text.len() >= SHORTEST && !text.starts_with('-')).then(|| Secret::new(text))
}

/// A command line as words: blanks part them, unless quoted. No shell reads it.
pub(crate) fn words(command: &str) -> Result<Vec<String>, &'static str> {
    let mut res = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = command.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(end), c) if c == end => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => {
                let c = chars.next().ok_or("it ends with a `\\`")?;
                // Within quotes it stands before a quote or another one of itself only.
                if quote.is_some() && !matches!(c, '"' | '\\') {
                    word.get_or_insert_default().push('\\');
                }
                word.get_or_insert_default().push(c);
            }
            (None, c) if c.is_whitespace() => res.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote in it is not closed");
    }
    res.extend(word);
    match res.is_empty() {
        true => Err("it is empty"),
        false => Ok(res),
    }
}

async fn read(pipe: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut res = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(OUTPUT_MAX_BYTES + 1)
            .read_to_end(&mut res)
            .await?;
    }
    match res.len() as u64 > OUTPUT_MAX_BYTES {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok(res),
    }
}

/// A program and all its children, who end with this.
struct Running {
    child: Child,
    /// The group is called like its first process, and there as long as any process is in it.
    group: Option<Pid>,
}

impl Running {
    fn new(child: Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self {
            group: id.and_then(Pid::from_raw),
            child,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            // It fails where nobody is left. The child itself is collected by tokio.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::LONG;

    fn shell(script: &str) -> Program {
        Program {
            command: "/bin/sh".to_owned(),
            arguments: vec!["-c".to_owned(), script.to_owned()],
            environment: vec![
                ("PATH".into(), "/usr/bin:/bin".into()),
                ("A".into(), "1".into()),
            ],
        }
    }

    async fn failure(program: &Program) -> Cause {
        program.run(&[]).await.unwrap_err()
    }

    #[tokio::test]
    async fn it_gets_what_it_is_given_and_nothing_else() {
        let program = shell("env | grep -v -e ^PWD -e ^SHLVL -e ^_ -e ^OLDPWD | sort; cat");
        let said = program.run(&[("B", "2")]).await.unwrap();
        assert_eq!(said.expose(), "A=1\nB=2\nPATH=/usr/bin:/bin\n");
    }

    #[tokio::test]
    async fn its_failure_is_told_by_its_last_line() {
        let cause = failure(&shell(
            "echo one >&2; echo 'not logged in' >&2; echo >&2; exit 3",
        ))
        .await;
        assert_eq!(cause.reason, Reason::Auth);
        assert_eq!(cause.code.as_deref(), Some("exit 3"));
        assert_eq!(
            cause.message,
            "the program `sh` failed (exit 3): not logged in"
        );
        let cause = failure(&shell("kill -9 $$")).await;
        assert_eq!(
            cause.message,
            "the program `sh` failed (signal: 9 (SIGKILL)) and did not say why"
        );
    }

    #[tokio::test]
    async fn one_that_is_not_there_or_not_executable_says_so() {
        for (command, message) in [
            (
                "no-such-plugin",
                "the program `no-such-plugin` is not there",
            ),
            ("/no/such/plugin", "the program `plugin` is not there"),
            ("/etc/passwd", "the program `passwd` may not be run"),
        ] {
            let program = Program {
                command: command.to_owned(),
                ..shell("")
            };
            let cause = failure(&program).await;
            assert_eq!(
                (cause.reason, cause.message.as_str()),
                (Reason::Secret, message)
            );
        }
    }

    #[tokio::test]
    async fn what_it_says_is_bounded() {
        for script in ["yes", "yes >&2"] {
            let cause = failure(&shell(script)).await;
            assert_eq!(cause.message, "the program `sh` wrote more than 1 MiB");
        }
        let cause = failure(&shell("printf '\\377'")).await;
        assert_eq!(cause.reason, Reason::Protocol);
    }

    /// Whether a process is there, and not only waiting to be collected.
    fn lives(pid: &str) -> bool {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
            !stat
                .rsplit(')')
                .next()
                .unwrap_or_default()
                .starts_with(" Z")
        })
    }

    async fn is_gone(pid: &str) {
        let gone = async {
            while lives(pid) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LONG, gone).await.expect("it lives on");
    }

    #[tokio::test]
    async fn its_children_end_with_it_however_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let pids = dir.path().join("pids");
        let script = |end: &str| {
            shell(&format!(
                "sleep 600 >/dev/null 2>&1 & echo $$ $! >{}; {end}",
                pids.display()
            ))
        };
        script("exit 0").run(&[]).await.unwrap();
        let text = std::fs::read_to_string(&pids).unwrap();
        is_gone(text.split_whitespace().last().unwrap()).await;

        let hanging = script("wait");
        let cut = tokio::time::timeout(Duration::from_millis(500), hanging.run(&[])).await;
        assert!(cut.is_err());
        let text = std::fs::read_to_string(&pids).unwrap();
        for pid in text.split_whitespace() {
            is_gone(pid).await;
        }
    }

    #[test]
    fn a_command_is_words() {
        for (command, expected) in [
            ("a b  c", vec!["a", "b", "c"]),
            (
                r#""/a b/c" --x 'y "z"' """#,
                vec!["/a b/c", "--x", "y \"z\"", ""],
            ),
            (r#"a\ b "c\"d\e""#, vec!["a b", r#"c"d\e"#]),
        ] {
            assert_eq!(words(command).unwrap(), expected);
        }
        for command in ["", "  ", "'a", "\"a", "a\\"] {
            assert!(words(command).is_err(), "{command}");
        }
    }
}
