//! The settings file: what the flags say, in YAML, and the overrides.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use conncheck_config::{ConfigError, Connection, read_one};
use conncheck_probes::ResolverChoice;
use conncheck_probes::types::TypeInfo;
use serde::de::{self, Deserialize, Deserializer};

use crate::cli::{Count, Listen, NameGlob, TypeName, whole_file};
use crate::duration::{Interval, Timeout};
use crate::logging::{LogFormat, LogLevel};

/// Everything that the file can say. What it does not say is left to the flags and the defaults.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// Files, folders and globs with definitions, relative to this file.
    pub connections: Vec<String>,
    /// A folder with secrets, relative to this file.
    pub secrets_dir: Option<PathBuf>,
    /// Where HTTP is served: `127.0.0.1:9797`.
    pub listen: Option<Listen>,
    /// For connections that do not say so themselves.
    pub defaults: Defaults,
    /// How many attempts may run at the same time.
    pub concurrency: Option<Count>,
    /// Exceptions; the first that matches wins, field by field.
    pub overrides: Vec<Override>,
    /// Whether programs that a kubeconfig names (exec plugins) are run: `true` if not given.
    pub exec_plugins: Option<bool>,
    /// Who answers names: `auto`, `system` or `IP:PORT,…`.
    pub resolver: Option<Resolver>,
    /// `text` or `json`.
    pub log_format: Option<LogFormat>,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub log_level: Option<LogLevel>,
    /// How long running attempts may go on after SIGTERM.
    pub shutdown_grace: Option<Timeout>,
}

/// When a connection is attempted, and when it counts as up.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Defaults {
    /// How often: `30s`.
    pub interval: Option<Interval>,
    /// How long an attempt may take: `10s`.
    pub timeout: Option<Timeout>,
    /// Successes in a row after which a connection is up again.
    pub rise: Option<Count>,
    /// Failures in a row after which a connection is down.
    pub fall: Option<Count>,
}

/// An exception from the defaults.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// Which connections are meant; all of it must be so.
    #[serde(default, rename = "match")]
    pub matches: Match,
    pub interval: Option<Interval>,
    pub timeout: Option<Timeout>,
    pub rise: Option<Count>,
    pub fall: Option<Count>,
    /// Listed, and not attempted.
    pub paused: Option<bool>,
}

/// Which connections an override means.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    /// The type, by any of its names.
    #[serde(rename = "type")]
    pub ty: Option<TypeName>,
    /// A glob for the name, or for `namespace/name`.
    pub name: Option<NameGlob>,
    /// A glob for the namespace.
    pub namespace: Option<NameGlob>,
    /// Labels that it must have.
    pub labels: BTreeMap<String, String>,
}

impl Settings {
    /// Reads the file.
    pub fn read(path: &Path) -> Result<Self, Vec<ConfigError>> {
        let file = path.to_string_lossy();
        let text = fs::read_to_string(path).map_err(|err| {
            vec![ConfigError {
                place: whole_file(&file),
                type_name: None,
                connection: None,
                message: format!("the settings file cannot be read: {err}"),
                hint: None,
            }]
        })?;
        read_one(&file, &text)
    }
}

impl Match {
    /// Whether it means `connection`.
    pub fn takes(&self, connection: &Connection, ty: &TypeInfo) -> bool {
        let namespace = &connection.id.namespace;
        let mut labels = self.labels.iter();
        self.ty.is_none_or(|name| name.is(ty))
            && self.name.as_ref().is_none_or(|glob| glob.takes(connection))
            && self
                .namespace
                .as_ref()
                .is_none_or(|glob| glob.is_match(namespace))
            && labels.all(|(key, value)| connection.labels.get(key) == Some(value))
    }
}

/// [`ResolverChoice`] as the file spells it.
#[derive(Debug)]
pub struct Resolver(pub ResolverChoice);

impl FromStr for Resolver {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self)
    }
}

/// Deserializes by parsing text, so that the mistake is told in one place and gets its line.
macro_rules! deserialize_from_str {
    ($($ty:ty)*) => {$(
        impl<'de> Deserialize<'de> for $ty {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    )*};
}

deserialize_from_str!(Count Interval Listen NameGlob Resolver Timeout TypeName);
