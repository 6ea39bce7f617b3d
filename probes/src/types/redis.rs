//! `redis`: connect, log in if credentials are given, choose the database if one is named, `PING`.
//!
//! Proves that the server lets us in and answers. Says nothing about its data.
//!
//! The `redis` crate packs the commands and reads the replies; the conversation itself is here. Its
//! own connection set-up sends the login and `SELECT` in one go and keeps only "authentication
//! failed" of the answer, and it drops what a server says before it is asked (`ERR max number of
//! clients reached`).

use conncheck_config::{Field, Secret};
use redis::{ErrorKind, RedisError, Value};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::address::{Location, unknown_option};
use crate::attempt::{Address, Attempt, Stream};
use crate::cause::{Cause, heard_or_sent};
use crate::outcome::{Failure, Phase, Reason};
use crate::probe::{Access, Invalid, ProbeType};
use crate::tls::{Tls, Verify};

/// `spec.properties` of a Redis connection.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Settings {
    /// The number of the database to select; wins over the one in the URL.
    database: Option<u32>,
    /// Accept any certificate.
    insecure_skip_verify: Option<bool>,
    /// The name that the certificate must be for, in place of the URL's host.
    server_name: Option<String>,
}

pub(crate) struct Redis {
    address: Address,
    tls: Option<Tls>,
    credentials: Option<Credentials>,
    database: u32,
}

/// The password, and the ACL user where there is one (Redis 6).
struct Credentials {
    username: Option<Secret>,
    password: Secret,
}

impl ProbeType for Redis {
    type Settings = Settings;

    const FURTHER_REASONS: &'static [Reason] = &[Reason::Permission, Reason::NotFound];

    fn new(access: Access<'_>, settings: Settings) -> Result<Self, Invalid> {
        let url = access.url()?;
        // `host:6379` is a common short form.
        let location = match url.expose().contains("://") {
            true => Location::of(&access, url)?,
            false => Location::of(&access, &Secret::new(format!("redis://{}", url.expose())))?,
        };
        let mut options = UrlOptions::default();
        for (option, value) in &location.query {
            options.read(&access, option, value)?;
        }
        let database = match location.scheme.as_str() {
            "unix" | "redis+unix" => options.database,
            _ => match location.path.trim_matches('/') {
                "" => options.database,
                number => Some(database_number(&access, number)?),
            },
        };
        let username = location.username.as_deref().or(options.username.as_deref());
        let password = location.password.as_deref().or(options.password.as_deref());
        let username = access.username(username);
        let credentials = match (access.password(password), username) {
            (Some(password), username) => Some(Credentials { username, password }),
            (None, None) => None,
            (None, Some(_)) => {
                return Err(access
                    .invalid(Field::Username, "a username without a password")
                    .hint("give `password` or a `secretRef`; a password alone is `redis://:password@host`"));
            }
        };
        let (address, tls) = match location.scheme.as_str() {
            "redis" | "valkey" => {
                access.without_tls("use `rediss://`, or leave it out")?;
                (location.address(&access, 6379)?, None)
            }
            "rediss" | "valkeys" => {
                let mut tls =
                    access.tls_options(settings.insecure_skip_verify, settings.server_name);
                if options.insecure {
                    tls.verify = Verify::Nothing;
                }
                (location.address(&access, 6379)?, Some(access.tls(&tls)?))
            }
            "unix" | "redis+unix" => (Address::Unix(location.path.into()), None),
            _ => {
                return Err(access
                    .invalid(Field::Url, "bad `url`: this scheme is not Redis")
                    .hint("use `redis://`, `rediss://` (TLS) or `unix:///path`"));
            }
        };
        access.may_reach(&address)?;
        Ok(Self {
            address,
            tls,
            credentials,
            database: settings.database.or(database).unwrap_or(0),
        })
    }

    fn endpoint(&self) -> String {
        match (&self.address, &self.tls) {
            (Address::Unix(_), _) => format!("unix://{}", self.address),
            (_, Some(_)) => format!("rediss://{}", self.address),
            (_, None) => format!("redis://{}", self.address),
        }
    }

    async fn probe(&self, attempt: &mut Attempt) -> Result<(), Failure> {
        let mut stream = attempt.dial(&self.address).await?;
        if let Some(tls) = &self.tls {
            (stream, _) = attempt.tls(stream, tls, self.address.host()).await?;
        }
        let mut server = Server::new(stream);
        if let Some(credentials) = &self.credentials {
            attempt
                .phase(Phase::Auth, server.log_in(credentials))
                .await?;
        }
        if self.database != 0 {
            attempt
                .phase(Phase::Auth, server.select(self.database))
                .await?;
        }
        attempt.phase(Phase::Request, server.ping()).await?;
        attempt.goodbye(server.quit()).await;
        Ok(())
    }
}

/// What may stand behind the `?` of the URL.
#[derive(Default)]
struct UrlOptions {
    database: Option<u32>,
    username: Option<String>,
    password: Option<String>,
    insecure: bool,
}

impl UrlOptions {
    fn read(&mut self, access: &Access<'_>, option: &str, value: &str) -> Result<(), Invalid> {
        match option {
            "db" => self.database = Some(database_number(access, value)?),
            "user" => self.username = Some(value.to_owned()),
            "pass" | "password" => self.password = Some(value.to_owned()),
            "insecure" => self.insecure = !matches!(value, "false" | "0"),
            // What is asked is the same in either protocol.
            "protocol" if matches!(value, "2" | "3" | "resp2" | "resp3") => {}
            _ => {
                return Err(unknown_option(
                    access,
                    option,
                    &["db", "user", "pass", "insecure", "protocol"],
                ));
            }
        }
        Ok(())
    }
}

fn database_number(access: &Access<'_>, text: &str) -> Result<u32, Invalid> {
    text.parse().map_err(|_| {
        access
            .invalid(Field::Url, "bad `url`: the database is not a number")
            .hint("a Redis URL ends in the number of the database: `redis://host:6379/0`")
    })
}

/// The conversation with a server: a command, its reply.
struct Server {
    stream: Stream,
    received: Vec<u8>,
}

impl Server {
    /// The longest reply that is waited for. Those to our commands are a few bytes long.
    const REPLY_MAX_BYTES: usize = 64 * 1024;

    fn new(stream: Stream) -> Self {
        Self {
            stream,
            received: Vec::new(),
        }
    }

    async fn log_in(&mut self, credentials: &Credentials) -> Result<(), Cause> {
        let mut command = redis::cmd("AUTH");
        if let Some(username) = &credentials.username {
            command.arg(username.expose());
        }
        command.arg(credentials.password.expose());
        match self.ask(&command).await? {
            Value::Okay => Ok(()),
            reply => Err(unexpected(&reply, "AUTH")),
        }
    }

    async fn select(&mut self, database: u32) -> Result<(), Cause> {
        match self.ask(redis::cmd("SELECT").arg(database)).await? {
            Value::Okay => Ok(()),
            reply => Err(unexpected(&reply, "SELECT")),
        }
    }

    async fn ping(&mut self) -> Result<(), Cause> {
        match self.ask(&redis::cmd("PING")).await? {
            Value::SimpleString(text) if text == "PONG" => Ok(()),
            reply => Err(unexpected(&reply, "PING")),
        }
    }

    async fn quit(&mut self) {
        // The server closes after its answer; whether it gives one is not our business.
        let _ = self.ask(&redis::cmd("QUIT")).await;
        let _ = self.stream.shutdown().await;
    }

    /// Sends a command and reads its reply. A reply that says "error" is an error.
    async fn ask(&mut self, command: &redis::Cmd) -> Result<Value, Cause> {
        let sent = self.send(&command.get_packed_command()).await;
        heard_or_sent(self.receive().await, sent)
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), Cause> {
        self.stream.write_all(bytes).await?;
        Ok(self.stream.flush().await?)
    }

    async fn receive(&mut self) -> Result<Value, Cause> {
        loop {
            if let Some(reply) = self.parse()? {
                return Ok(reply);
            }
            if self.received.len() > Self::REPLY_MAX_BYTES {
                return Err(Cause::protocol("the reply does not end: this is not Redis"));
            }
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(match self.received.is_empty() {
                    true => {
                        Cause::new(Reason::ConnectReset, "the server hung up without an answer")
                    }
                    false => Cause::protocol("the server hung up in the middle of its answer"),
                });
            }
        }
    }

    /// The reply that was received, or nothing while it is not whole.
    fn parse(&mut self) -> Result<Option<Value>, Cause> {
        // A TLS alert is not text; every reply ends in a line.
        if !self.received.ends_with(b"\r\n") {
            return match self.received.first() {
                Some(first) if !b"+-:$*_#,(!=%~>|".contains(first) => {
                    Err(Cause::protocol("the answer is not in Redis' protocol"))
                }
                _ => Ok(None),
            };
        }
        let reply = match redis::parse_redis_value(&self.received) {
            Err(error) if is_incomplete(&error) => return Ok(None),
            reply => reply.and_then(Value::extract_error),
        };
        self.received.clear();
        Ok(Some(reply?))
    }
}

fn is_incomplete(error: &RedisError) -> bool {
    crate::cause::find::<std::io::Error>(error)
        .is_some_and(|error| error.kind() == std::io::ErrorKind::UnexpectedEof)
}

fn unexpected(reply: &Value, command: &str) -> Cause {
    let what = match reply {
        Value::SimpleString(_) | Value::BulkString(_) => "another text",
        Value::Nil => "nothing",
        _ => "something else",
    };
    Cause::protocol(format!(
        "the answer to `{command}` is {what}, not what Redis answers"
    ))
}

impl From<RedisError> for Cause {
    /// Redis' first word, and for the general `ERR` its text, decide.
    fn from(error: RedisError) -> Self {
        if error.kind() == ErrorKind::Parse {
            return Self::protocol("the answer is not in Redis' protocol");
        }
        let Some(code) = error.code().map(str::to_owned) else {
            return Self::from_chain(&error)
                .unwrap_or_else(|| Self::protocol(format!("the answer cannot be read: {error}")));
        };
        let detail = error.detail().unwrap_or_default();
        let (reason, hint) = classify(&code, detail);
        let cause = Self::new(reason, format!("{code} {detail}").trim_end()).code(code);
        match hint {
            "" => cause,
            hint => cause.hint(hint),
        }
    }
}

/// What a Redis error means, by its first word and its text.
fn classify(code: &str, detail: &str) -> (Reason, &'static str) {
    let says = |text: &str| detail.to_ascii_lowercase().contains(text);
    match code {
        "WRONGPASS" => (
            Reason::Auth,
            "wrong username or password, or the user is disabled (`ACL LIST` shows)",
        ),
        "NOAUTH" => (
            Reason::Auth,
            "the server wants a password: give `password` or a `secretRef`",
        ),
        "NOPERM" => (
            Reason::Permission,
            "allow the user the command: `ACL SETUSER … +ping`",
        ),
        "DENIED" => (
            Reason::Permission,
            "protected mode: the server accepts connections from its own machine only",
        ),
        "LOADING" => (
            Reason::Unavailable,
            "it is still reading its data from disk",
        ),
        "MASTERDOWN" => (Reason::Unavailable, "a replica that has lost its master"),
        "CLUSTERDOWN" | "TRYAGAIN" | "BUSY" | "MISCONF" => (Reason::Unavailable, ""),
        "ERR" if says("max number of clients") => (
            Reason::Unavailable,
            "`maxclients` is reached: who holds all the connections?",
        ),
        "ERR" if says("db index is out of range") => (
            Reason::NotFound,
            "the server has fewer databases (`databases` in its configuration)",
        ),
        "ERR" if says("without any password configured") || says("no password is set") => (
            Reason::Auth,
            "the server has no password; leave it out, or set `requirepass` on the server",
        ),
        "ERR" if says("wrong number of arguments for 'auth'") => (
            Reason::Auth,
            "the server is older than Redis 6 and knows no users: leave `username` out",
        ),
        "ERR" if says("select is not allowed in cluster mode") => {
            (Reason::NotFound, "a cluster has database 0 only")
        }
        _ => (Reason::Protocol, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_logins, percent_encoded};

    fn cause_of(line: &[u8]) -> Cause {
        let reply = redis::parse_redis_value(line).and_then(Value::extract_error);
        Cause::from(reply.unwrap_err())
    }

    #[test]
    fn any_login_is_what_was_given() {
        let url = "redis://$(username):$(password)@h/1";
        check_logins("redis", url, percent_encoded, ("", ""), |probe: &Redis| {
            let Credentials { username, password } = probe.credentials.as_ref().unwrap();
            let username = username.as_ref().unwrap();
            (username.expose().to_owned(), password.expose().to_owned())
        });
    }

    #[test]
    fn each_error_has_its_reason() {
        for (line, reason, code) in [
            (
                "-WRONGPASS invalid username-password pair or user is disabled.",
                Reason::Auth,
                "WRONGPASS",
            ),
            ("-NOAUTH Authentication required.", Reason::Auth, "NOAUTH"),
            (
                "-ERR Client sent AUTH, but no password is set",
                Reason::Auth,
                "ERR",
            ),
            (
                "-NOPERM this user has no permissions to run the 'ping' command",
                Reason::Permission,
                "NOPERM",
            ),
            (
                "-DENIED Redis is running in protected mode",
                Reason::Permission,
                "DENIED",
            ),
            (
                "-LOADING Redis is loading the dataset in memory",
                Reason::Unavailable,
                "LOADING",
            ),
            (
                "-MASTERDOWN Link with MASTER is down",
                Reason::Unavailable,
                "MASTERDOWN",
            ),
            (
                "-ERR max number of clients reached",
                Reason::Unavailable,
                "ERR",
            ),
            ("-ERR DB index is out of range", Reason::NotFound, "ERR"),
            ("-ERR unknown command", Reason::Protocol, "ERR"),
        ] {
            let cause = cause_of(format!("{line}\r\n").as_bytes());
            assert_eq!(cause.reason, reason, "{line}");
            assert_eq!(cause.code.as_deref(), Some(code), "{line}");
            assert_eq!(cause.message, line[1..], "{line}");
        }
    }
}
