//! What is asked of us: every flag and environment variable, and nothing else reads them.
//!
//! A flag beats its environment twin, which beats the settings file, which beats the default.
//! [`Options`] is what comes of it, and nothing in there is optional that the program needs.
//! (`secrets` reads the variables that *are* secrets; they are not settings and are never shown.)

use std::ffi::OsString;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, ValueEnum};
use conncheck_config::{ConfigError, Connection, Place};
use conncheck_probes::ResolverChoice;
use conncheck_probes::types::{self, TypeInfo};
use globset::{GlobBuilder, GlobMatcher};

use crate::duration::{Interval, Timeout};
use crate::logging::{LogFormat, LogLevel};
use crate::settings::{Override, Settings};

/// Says which of your connections are up, how fast, and why not.
///
/// Without a mode it is a daemon: it attempts every connection on its schedule and serves
/// `/metrics`, `/-/healthy` and `/-/ready`.
///
/// Each option can also be set in the environment, and most of them in the settings file. A flag
/// beats the environment, and that beats the file.
#[derive(Debug, Parser)]
#[command(
    name = "conncheck",
    version,
    max_term_width = 100,
    after_help = "Exit codes: 0 all is well; 1 a connection is down, or the daemon could not run; \
                  2 usage, an invalid definition, or nothing to probe."
)]
struct Cli {
    /// Definitions: files, folders, globs, or `-` for standard input
    ///
    /// [env: CONNCHECK_CONNECTIONS=, separated by `:`]
    #[arg(value_name = "PATH")]
    paths: Vec<String>,

    /// Attempt every connection once, report, and exit
    #[arg(
        long,
        env = "CONNCHECK_CHECK_ONCE",
        help_heading = "Modes",
        conflicts_with = "check_config"
    )]
    #[arg(action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    check_once: bool,

    /// Read all definitions, report every mistake in them, and exit; touches no network
    #[arg(long, env = "CONNCHECK_CHECK_CONFIG", help_heading = "Modes")]
    #[arg(action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    check_config: bool,

    /// Print a JSON Schema of definitions, for editors and pipelines, and exit
    #[arg(
        long,
        env = "CONNCHECK_SCHEMA",
        help_heading = "Modes",
        conflicts_with_all = ["check_once", "check_config"]
    )]
    #[arg(action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    schema: bool,

    /// How the report is written
    #[arg(long, env = "CONNCHECK_OUTPUT", value_enum, default_value = "text")]
    output: Output,

    /// Only connections with these labels
    #[arg(
        long,
        env = "CONNCHECK_SELECT",
        value_name = "KEY=VALUE,…",
        value_delimiter = ','
    )]
    #[arg(help_heading = "Selection")]
    select: Vec<Label>,

    /// Only connections of this type
    #[arg(
        long = "type",
        env = "CONNCHECK_TYPE",
        value_name = "TYPE",
        value_delimiter = ','
    )]
    #[arg(help_heading = "Selection")]
    types: Vec<TypeName>,

    /// Only connections of this name, or `NAMESPACE/NAME`
    #[arg(long = "name", env = "CONNCHECK_NAME", value_name = "GLOB")]
    #[arg(help_heading = "Selection")]
    names: Vec<NameGlob>,

    /// How often a connection is attempted that does not say so itself [default: 30s]
    #[arg(long, env = "CONNCHECK_INTERVAL", value_name = "DURATION")]
    interval: Option<Interval>,

    /// How long an attempt may take, from reading its secrets to the goodbye
    ///
    /// [default: 10s, and never more than the interval]
    #[arg(long, env = "CONNCHECK_TIMEOUT", value_name = "DURATION")]
    timeout: Option<Timeout>,

    /// How many attempts may run at the same time [default: 256]
    #[arg(long, env = "CONNCHECK_CONCURRENCY", value_name = "N")]
    concurrency: Option<Count>,

    /// Where the daemon serves HTTP: `IP:PORT`, or `:PORT` on every address
    ///
    /// [default: 127.0.0.1:9797]
    #[arg(long, env = "CONNCHECK_LISTEN", value_name = "ADDR")]
    listen: Option<Listen>,

    /// A folder with secrets: `NAMESPACE/NAME/KEY` or `NAME/KEY`
    #[arg(long, env = "CONNCHECK_SECRETS_DIR", value_name = "DIR")]
    secrets_dir: Option<PathBuf>,

    /// Run no program that a kubeconfig or a credential names (exec plugins)
    #[arg(long, env = "CONNCHECK_NO_EXEC_PLUGINS")]
    #[arg(action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    no_exec_plugins: bool,

    /// Who answers names: `auto`, `system` or `IP:PORT,…` [default: auto]
    #[arg(long, env = "CONNCHECK_RESOLVER", value_name = "WHO")]
    resolver: Option<ResolverChoice>,

    /// The settings file
    #[arg(long, env = "CONNCHECK_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    /// How the log on standard error is written [default: text]
    #[arg(long, env = "CONNCHECK_LOG_FORMAT", value_name = "FORMAT")]
    log_format: Option<LogFormat>,

    /// What is logged; `debug` tells each attempt [default: info]
    #[arg(long, env = "CONNCHECK_LOG_LEVEL", value_name = "LEVEL")]
    log_level: Option<LogLevel>,

    /// How long running attempts may go on after SIGTERM [default: 5s]
    #[arg(long, env = "CONNCHECK_SHUTDOWN_GRACE", value_name = "DURATION")]
    shutdown_grace: Option<Timeout>,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Daemon,
    CheckOnce,
    CheckConfig,
    Schema,
}

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Everything that was asked of us.
#[derive(Debug)]
pub struct Options {
    pub mode: Mode,
    pub output: Output,
    /// At least one, unless only the schema is asked for.
    pub paths: Vec<String>,
    pub selection: Selection,
    pub rules: Rules,
    pub concurrency: usize,
    pub listen: SocketAddr,
    pub secrets_dir: Option<PathBuf>,
    /// Where systemd put what `LoadCredential` names.
    pub credentials_dir: Option<PathBuf>,
    /// Whether programs that a kubeconfig names are run.
    pub exec_plugins: bool,
    pub resolver: ResolverChoice,
    pub log_format: LogFormat,
    pub log_level: LogLevel,
    /// Whether a terminal may be written to in colour.
    pub colour: bool,
    pub shutdown_grace: Duration,
}

/// How often and how long, for connections that do not say so themselves.
#[derive(Clone, Debug)]
pub struct Rules {
    pub interval: Duration,
    /// `None`: ten seconds, and never more than the interval.
    pub timeout: Option<Duration>,
    pub rise: u32,
    pub fall: u32,
    /// The first that matches wins, field by field.
    pub overrides: Vec<Override>,
}

/// Which connections are meant.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    labels: Vec<Label>,
    types: Vec<TypeName>,
    names: Vec<NameGlob>,
}

impl Selection {
    /// Whether `connection` is one of them.
    pub fn takes(&self, connection: &Connection, ty: &TypeInfo) -> bool {
        let of_type = self.types.is_empty() || self.types.iter().any(|name| name.is(ty));
        let named = self.names.is_empty() || self.names.iter().any(|glob| glob.takes(connection));
        let has = |Label(key, value): &Label| connection.labels.get(key) == Some(value);
        of_type && named && self.labels.iter().all(has)
    }
}

/// Why there are no options.
#[derive(Debug)]
pub enum NoOptions {
    /// clap's answer: help, version, or what is wrong with the command line.
    Clap(clap::Error),
    /// Mistakes in the settings file.
    Settings(Vec<ConfigError>),
}

impl Options {
    /// Reads the command line, the environment and the settings file.
    pub fn read(args: impl IntoIterator<Item = OsString>) -> Result<Self, NoOptions> {
        // What stands in the environment is nobody's business in a help text.
        let mut command = Cli::command().mut_args(|arg| arg.hide_env_values(true));
        let cli = command
            .try_get_matches_from_mut(args)
            .and_then(|matches| Cli::from_arg_matches(&matches))
            .map_err(NoOptions::Clap)?;
        let settings = match &cli.config {
            Some(path) => Settings::read(path).map_err(NoOptions::Settings)?,
            None => Settings::default(),
        };
        let options = merge(cli, settings);
        if options.paths.is_empty() && options.mode != Mode::Schema {
            let message = "no connections: name files, folders or globs, or `-` for standard input";
            let kind = clap::error::ErrorKind::MissingRequiredArgument;
            return Err(NoOptions::Clap(command.error(kind, message)));
        }
        Ok(options)
    }
}

/// Flags and environment over settings over defaults.
fn merge(cli: Cli, settings: Settings) -> Options {
    let mode = match (cli.check_once, cli.check_config, cli.schema) {
        (true, ..) => Mode::CheckOnce,
        (_, true, _) => Mode::CheckConfig,
        (.., true) => Mode::Schema,
        _ => Mode::Daemon,
    };
    // Paths in the settings file are relative to it.
    let base = cli
        .config
        .as_deref()
        .and_then(Path::parent)
        .unwrap_or(Path::new(""));
    let paths = [cli.paths, environment_paths()]
        .into_iter()
        .find(|paths| !paths.is_empty());
    let from_file = || {
        let paths = settings.connections.iter();
        paths.map(|path| relative_to(base, path)).collect()
    };
    let defaults = settings.defaults;
    Options {
        mode,
        output: cli.output,
        paths: paths.unwrap_or_else(from_file),
        selection: Selection {
            labels: cli.select,
            types: cli.types,
            names: cli.names,
        },
        rules: Rules {
            interval: cli
                .interval
                .or(defaults.interval)
                .map_or(Duration::from_secs(30), |i| i.0),
            timeout: cli.timeout.or(defaults.timeout).map(|timeout| timeout.0),
            rise: defaults.rise.map_or(1, |rise| rise.0),
            fall: defaults.fall.map_or(1, |fall| fall.0),
            overrides: settings.overrides,
        },
        concurrency: cli
            .concurrency
            .or(settings.concurrency)
            .map_or(256, |count| count.0 as usize),
        listen: cli.listen.or(settings.listen).unwrap_or_default().0,
        secrets_dir: cli
            .secrets_dir
            .or_else(|| settings.secrets_dir.map(|dir| base.join(dir))),
        credentials_dir: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
        exec_plugins: !cli.no_exec_plugins && settings.exec_plugins.unwrap_or(true),
        resolver: (cli.resolver)
            .or(settings.resolver.map(|resolver| resolver.0))
            .unwrap_or(ResolverChoice::Auto),
        log_format: cli
            .log_format
            .or(settings.log_format)
            .unwrap_or(LogFormat::Text),
        log_level: cli
            .log_level
            .or(settings.log_level)
            .unwrap_or(LogLevel::Info),
        // See no-color.org.
        colour: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        shutdown_grace: (cli.shutdown_grace)
            .or(settings.shutdown_grace)
            .map_or(Duration::from_secs(5), |grace| grace.0),
    }
}

/// The twin of the paths. clap knows no separator but one that would split flags as well, and a
/// glob may contain a comma.
fn environment_paths() -> Vec<String> {
    let paths = std::env::var("CONNCHECK_CONNECTIONS").unwrap_or_default();
    let paths = paths.split(':').filter(|path| !path.is_empty());
    paths.map(str::to_owned).collect()
}

fn relative_to(base: &Path, path: &str) -> String {
    match path {
        "-" => path.to_owned(),
        _ => base.join(path).to_string_lossy().into_owned(),
    }
}

/// The place of a file as a whole.
pub fn whole_file(path: &str) -> Place {
    Place {
        file: path.into(),
        line: 0,
        column: 0,
    }
}

/// A whole number of at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count(pub u32);

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim().parse() {
            Ok(count) if count > 0 => Ok(Self(count)),
            _ => Err(format!("`{text}` is not a whole number of at least 1")),
        }
    }
}

/// One `KEY=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label(pub String, pub String);

impl FromStr for Label {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                Ok(Self(key.trim().to_owned(), value.trim().to_owned()))
            }
            _ => Err("a label is selected as `key=value`".to_owned()),
        }
    }
}

/// The canonical name of a type that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeName(&'static str);

impl TypeName {
    /// Whether it is the name of `ty`.
    pub fn is(&self, ty: &TypeInfo) -> bool {
        self.0 == ty.name
    }
}

impl FromStr for TypeName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let unknown = |err: types::UnknownType| format!("{}: {}", err.message, err.hint);
        types::find(name).map(|ty| Self(ty.name)).map_err(unknown)
    }
}

/// A glob for a name, or for namespace and name with a slash between.
#[derive(Clone, Debug)]
pub struct NameGlob(GlobMatcher);

impl NameGlob {
    /// Whether it means `connection`.
    pub fn takes(&self, connection: &Connection) -> bool {
        self.is_match(&connection.id.name) || self.is_match(&connection.id.to_string())
    }

    /// Whether it means this very text.
    pub fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

impl FromStr for NameGlob {
    type Err = String;

    fn from_str(glob: &str) -> Result<Self, String> {
        let glob = GlobBuilder::new(glob).literal_separator(true).build();
        match glob {
            Ok(glob) => Ok(Self(glob.compile_matcher())),
            Err(err) => Err(err.kind().to_string()),
        }
    }
}

/// Where to listen. Loopback by default: what we tell is for those who run us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen(pub SocketAddr);

impl Default for Listen {
    fn default() -> Self {
        Self((Ipv4Addr::LOCALHOST, 9797).into())
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let addr = match text.split_once(':') {
            // Takes IPv4 as well.
            Some(("", port)) => port
                .parse()
                .ok()
                .map(|port| (Ipv6Addr::UNSPECIFIED, port).into()),
            Some(("localhost", port)) => port
                .parse()
                .ok()
                .map(|port| (Ipv4Addr::LOCALHOST, port).into()),
            _ => text.parse().ok(),
        };
        match addr {
            Some(addr) => Ok(Self(addr)),
            None => Err(format!(
                "`{text}` is not an address such as `127.0.0.1:9797` or `:9797`"
            )),
        }
    }
}

impl fmt::Display for NoOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clap(err) => err.fmt(f),
            Self::Settings(errors) => errors.iter().try_for_each(|err| writeln!(f, "{err}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// What `Options::read` makes of it, in a process of its own: the environment belongs to the
    /// process.
    fn read(args: &[&str], env: &[(&str, &str)]) -> String {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "cli::tests::child", "--ignored", "--nocapture"])
            .env_clear()
            .env("TEST_ARGS", args.join("\n"))
            .envs(env.iter().copied())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let text = text
            .split("<<<")
            .nth(1)
            .and_then(|text| text.split(">>>").next());
        text.unwrap_or_else(|| panic!("{output:?}")).to_owned()
    }

    #[test]
    #[ignore = "is run by the others"]
    fn child() {
        let args = std::env::var("TEST_ARGS").unwrap();
        let args = args.split('\n').filter(|arg| !arg.is_empty());
        let args = std::iter::once("conncheck").chain(args).map(OsString::from);
        match Options::read(args) {
            Ok(options) => println!("<<<{options:?}>>>"),
            Err(err) => println!("<<<{err}>>>"),
        }
    }

    /// The settings file says `file`, the environment `env`, the flag `flag`: `shown` with the
    /// value of each is found in the options when that is the strongest of them.
    #[track_caller]
    fn check(flag: &str, key: &str, values: [&str; 3], shown: [&str; 4]) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("conncheck.yaml");
        let settings = match key.split_once('.') {
            Some((group, key)) => format!("{group}:\n  {key}: {}\n", values[0]),
            None => format!("{key}: {}\n", values[0]),
        };
        std::fs::write(&file, settings).unwrap();
        let config = format!("--config={}", file.display());
        let variable = format!("CONNCHECK_{}", flag.replace('-', "_").to_uppercase());
        let env = [(variable.as_str(), values[1])];
        let flag = format!("--{flag}={}", values[2]);
        let seen = [
            read(&["x.yaml"], &[]),
            read(&["x.yaml", &config], &[]),
            read(&["x.yaml", &config], &env),
            read(&["x.yaml", &config, &flag], &env),
        ];
        for (seen, shown) in seen.iter().zip(shown) {
            assert!(seen.contains(shown), "{key}: {shown} is not in {seen}");
        }
    }

    #[test]
    fn a_flag_beats_the_environment_and_that_the_file_and_that_the_default() {
        check(
            "interval",
            "defaults.interval",
            ["1m", "2m", "3m"],
            [
                "interval: 30s",
                "interval: 60s",
                "interval: 120s",
                "interval: 180s",
            ],
        );
        check(
            "timeout",
            "defaults.timeout",
            ["1s", "2s", "3s"],
            [
                "timeout: None",
                "timeout: Some(1s)",
                "timeout: Some(2s)",
                "timeout: Some(3s)",
            ],
        );
        check(
            "concurrency",
            "concurrency",
            ["1", "2", "3"],
            [
                "concurrency: 256",
                "concurrency: 1",
                "concurrency: 2",
                "concurrency: 3",
            ],
        );
        check(
            "listen",
            "listen",
            ["127.0.0.1:1", "localhost:2", ":3"],
            [
                "listen: 127.0.0.1:9797",
                "listen: 127.0.0.1:1",
                "listen: 127.0.0.1:2",
                "listen: [::]:3",
            ],
        );
        check(
            "resolver",
            "resolver",
            ["system", "10.0.0.1", "auto"],
            [
                "resolver: Auto",
                "resolver: System",
                "resolver: Servers([10.0.0.1:53])",
                "resolver: Auto",
            ],
        );
        check(
            "secrets-dir",
            "secretsDir",
            ["/a", "/b", "/c"],
            [
                "secrets_dir: None",
                "Some(\"/a\")",
                "Some(\"/b\")",
                "Some(\"/c\")",
            ],
        );
        check(
            "log-format",
            "logFormat",
            ["json", "text", "json"],
            [
                "log_format: Text",
                "log_format: Json",
                "log_format: Text",
                "log_format: Json",
            ],
        );
        check(
            "log-level",
            "logLevel",
            ["warn", "error", "debug"],
            [
                "log_level: Info",
                "log_level: Warn",
                "log_level: Error",
                "log_level: Debug",
            ],
        );
        check(
            "shutdown-grace",
            "shutdownGrace",
            ["1s", "2s", "3s"],
            [
                "shutdown_grace: 5s",
                "shutdown_grace: 1s",
                "shutdown_grace: 2s",
                "shutdown_grace: 3s",
            ],
        );
    }

    #[test]
    fn paths_come_from_the_flags_or_the_environment_or_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("conncheck.yaml");
        std::fs::write(&file, "connections: [c, /d/*.yaml, '-']\n").unwrap();
        let config = format!("--config={}", file.display());
        let variable = [("CONNCHECK_CONNECTIONS", "one:two/{a,b}.yaml")];
        let base = dir.path().display();
        let from_file = format!("paths: [\"{base}/c\", \"/d/*.yaml\", \"-\"]");
        assert!(read(&[&config], &[]).contains(&from_file));
        assert!(read(&[&config], &variable).contains(r#"paths: ["one", "two/{a,b}.yaml"]"#));
        assert!(read(&[&config, "x"], &variable).contains(r#"paths: ["x"]"#));
        assert!(read(&[], &[]).contains("no connections: name files, folders or globs"));
    }

    #[test]
    fn modes_come_from_the_environment_too() {
        assert!(read(&["x"], &[]).contains("mode: Daemon"));
        assert!(read(&["x"], &[("CONNCHECK_CHECK_ONCE", "yes")]).contains("mode: CheckOnce"));
        assert!(read(&["x"], &[("CONNCHECK_CHECK_ONCE", "0")]).contains("mode: Daemon"));
        assert!(read(&["x", "--check-config"], &[]).contains("mode: CheckConfig"));
        assert!(read(&["--schema"], &[]).contains("mode: Schema"));
        for both in [
            ["--check-config", "--check-once"],
            ["--schema", "--check-once"],
        ] {
            let refused = read(&[&["x"][..], &both].concat(), &[]);
            assert!(refused.contains("cannot be used with"), "{refused}");
        }
    }

    #[test]
    fn no_help_shows_what_stands_in_the_environment() {
        let env = [
            ("CONNCHECK_SECRET_DB_PASSWORD", "hunter2"),
            ("CONNCHECK_SELECT", "password=hunter2"),
        ];
        for args in [
            &["--help"][..],
            &["-h"],
            &["--nope"],
            &["x", "--type", "nope"],
        ] {
            let text = read(args, &env);
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("conncheck.yaml");
        std::fs::write(
            &file,
            "intervall: 3s\ndefaults: {interval: 0s, rise: 0}\nlisten: here\n\
             overrides:\n- match: {type: redsi, name: '['}\n  timeout: 1\n",
        )
        .unwrap();
        let config = format!("--config={}", file.display());
        let text = read(&["x", &config], &[]);
        insta::assert_snapshot!(text.replace(&*file.to_string_lossy(), "conncheck.yaml"));

        let refused = |arg: &str| {
            let text = read(&["x", arg], &[]);
            text.lines().next().unwrap().to_owned()
        };
        let lines = [
            "--interval=0s",
            "--interval=500ms",
            "--timeout=0",
            "--timeout=5",
            "--concurrency=0",
            "--listen=nowhere",
            "--select=tier",
            "--type=redsi",
            "--name=[",
            "--resolver=nobody",
            "--output=xml",
        ];
        insta::assert_snapshot!(lines.map(refused).join("\n"));
    }
}
