//! The table of types: the one place where a type is registered.
//!
//! A type whose driver was left out of this build is still in the table, and says which feature it
//! needs.

use std::sync::Arc;

use conncheck_config::Resolved;
use schemars::Schema;

use crate::outcome::Reason;
use crate::probe::{Files, Invalid, Probe};

type Build = fn(&Resolved, &dyn Files) -> Result<Arc<dyn Probe>, Vec<Invalid>>;
type CheckSettings = fn(&Resolved) -> Vec<Invalid>;
type SettingsSchema = fn() -> Schema;

/// A type of connection.
pub struct TypeInfo {
    /// The canonical name, as it stands in `connection_type`.
    pub name: &'static str,
    /// Other names for it.
    pub aliases: &'static [&'static str],
    /// The URL schemes that are this type where no `type` is given.
    pub url_schemes: &'static [&'static str],
    /// The Cargo feature that brings its driver, if it needs one.
    pub feature: Option<&'static str>,
    /// The reasons it can give.
    pub reasons: &'static [Reason],
    driver: Option<Driver>,
}

/// What a type can do that is part of this build.
type Driver = (Build, CheckSettings, SettingsSchema);

/// The reasons that every type can give, whatever it speaks.
const COMMON_REASONS: [Reason; 15] = [
    Reason::Dns,
    Reason::ConnectRefused,
    Reason::ConnectUnreachable,
    Reason::ConnectReset,
    Reason::Timeout,
    Reason::TlsExpired,
    Reason::TlsNotYetValid,
    Reason::TlsUnknownCa,
    Reason::TlsNameMismatch,
    Reason::TlsOther,
    Reason::Auth,
    Reason::Protocol,
    Reason::Unavailable,
    Reason::Secret,
    Reason::Internal,
];

/// [`COMMON_REASONS`] and those of one type. `N` is how many that makes.
const fn with_common<const N: usize>(further: &[Reason]) -> [Reason; N] {
    let mut all = [Reason::Internal; N];
    let mut index = 0;
    while index < N {
        all[index] = match index < COMMON_REASONS.len() {
            true => COMMON_REASONS[index],
            false => further[index - COMMON_REASONS.len()],
        };
        index += 1;
    }
    all
}

/// `module "feature" => Type, "name", [aliases], [schemes];`: a line of the table.
macro_rules! types {
    ($($module:ident $($feature:literal)? => $ty:ident, $name:literal, [$($alias:literal),*], [$($scheme:literal),*];)*) => {
        static TABLE: &[TypeInfo] = &[$({
            #[allow(unused_mut, unused_assignments)]
            let mut feature: Option<&'static str> = None;
            $(feature = Some($feature);)?
            #[allow(unused_variables)]
            let left_out: (&'static [Reason], Option<Driver>) = (&[], None);
            $(#[cfg(feature = $feature)])?
            let left_out: (&'static [Reason], Option<Driver>) = (
                {
                    use crate::probe::ProbeType;
                    const FURTHER: &[Reason] = <$module::$ty as ProbeType>::FURTHER_REASONS;
                    static REASONS: [Reason; COMMON_REASONS.len() + FURTHER.len()] = with_common(FURTHER);
                    &REASONS
                },
                Some((
                    crate::probe::build::<$module::$ty>,
                    check_settings::<$module::$ty>,
                    settings_schema::<$module::$ty>,
                )),
            );
            TypeInfo {
                name: $name,
                aliases: &[$($alias),*],
                url_schemes: &[$($scheme),*],
                feature,
                reasons: left_out.0,
                driver: left_out.1,
            }
        }),*];
    };
}

// Not by the macro: rustfmt finds only what is declared plainly.
#[cfg(feature = "amqp")]
mod amqp;
mod aws;
mod azure;
mod elastic;
mod gcp;
mod http;
mod kubernetes;
#[cfg(feature = "ldap")]
mod ldap;
#[cfg(feature = "mongodb")]
mod mongodb;
#[cfg(feature = "mssql")]
mod mssql;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "postgres")]
mod postgres;
mod prometheus;
#[cfg(feature = "redis")]
mod redis;
mod smtp;
mod webhook;

types! {
    amqp "amqp" => Amqp, "amqp", ["rabbitmq"], ["amqp", "amqps"];
    aws => Aws, "aws", [], [];

    gcp => Gcp, "gcp", ["google_cloud"], [];

    http => Http, "http", ["https"], ["http", "https"];

    kubernetes => Kubernetes, "kubernetes", ["k8s"], [];
    mongodb "mongodb" => MongoDb, "mongodb", ["mongo"], ["mongodb", "mongodb+srv"];
    ldap "ldap" => Ldap, "ldap", ["ldaps"], ["ldap", "ldaps", "ldapi"];
    mysql "mysql" => Mysql, "mysql", ["mariadb"], ["mysql", "mariadb"];
    mssql "mssql" => Mssql, "mssql", ["sql_server", "sqlserver", "sql-server"], ["sqlserver", "mssql"];

    postgres "postgres" => Postgres, "postgres", ["postgresql"], ["postgres", "postgresql"];

    redis "redis" => Redis, "redis", ["valkey"], ["redis", "rediss", "valkey", "valkeys", "unix", "redis+unix"];

    prometheus => Prometheus, "prometheus", [], [];
    azure => Azure, "azure", [], [];
    elastic => Elastic, "elastic", ["elasticsearch", "elastic-search", "opensearch"], [];
    webhook => Webhook, "webhook", ["generic_webhook"], [];
    smtp => Smtp, "smtp", ["email"], ["smtp", "smtps"];

}

/// Types that a `Connection` may well have and that are not probed (yet), so that the answer to them
/// can be plainer than a spelling suggestion. [`TABLE`] is looked at first.
const KNOWN_ELSEWHERE: &[&str] = &[
    "alertmanager",
    "amqp",
    "anthropic",
    "argo",
    "aws",
    "aws_kms",
    "azure",
    "azure_devops",
    "azure_key_vault",
    "bitbucket",
    "cassandra",
    "clickhouse",
    "consul",
    "datadog",
    "discord",
    "dynatrace",
    "elastic",
    "elasticsearch",
    "email",
    "etcd",
    "exec",
    "facet",
    "folder",
    "gcp",
    "gcp_kms",
    "gcs",
    "gemini",
    "generic",
    "generic_webhook",
    "git",
    "github",
    "gitlab",
    "google_chat",
    "google_cloud",
    "grafana",
    "http_oauth",
    "icinga",
    "ifttt",
    "jenkins",
    "jmeter",
    "junit",
    "k8s",
    "kafka",
    "kubernetes",
    "ldap",
    "loki",
    "mariadb",
    "matrix",
    "mattermost",
    "mongo",
    "mongodb",
    "mssql",
    "mysql",
    "newrelic",
    "ntfy",
    "ollama",
    "openai",
    "opensearch",
    "opsgenie",
    "pagerduty",
    "prometheus",
    "pushbullet",
    "pushover",
    "rabbitmq",
    "restic",
    "rocketchat",
    "s3",
    "sentry",
    "sftp",
    "slack",
    "smb",
    "smtp",
    "snowflake",
    "sql_server",
    "ssh",
    "teams",
    "telegram",
    "vault",
    "webex",
    "webhook",
    "zulip_chat",
];

/// Every type, in the order of the table.
pub fn all() -> &'static [TypeInfo] {
    TABLE
}

/// No type has that name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownType {
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: String,
}

/// The type called `name`; case does not matter.
pub fn find(name: &str) -> Result<&'static TypeInfo, UnknownType> {
    let lower = name.trim().to_ascii_lowercase();
    let names = |info: &TypeInfo| info.name == lower || info.aliases.contains(&lower.as_str());
    if let Some(info) = TABLE.iter().find(|info| names(info)) {
        return Ok(info);
    }
    let supported = TABLE
        .iter()
        .map(|info| info.name)
        .collect::<Vec<_>>()
        .join(", ");
    if KNOWN_ELSEWHERE.contains(&lower.as_str()) {
        return Err(UnknownType {
            message: format!("type `{lower}` is known, but conncheck does not probe it"),
            hint: format!("supported types: {supported}"),
        });
    }
    let spellings = TABLE
        .iter()
        .flat_map(|info| std::iter::once(&info.name).chain(info.aliases));
    let hint = match conncheck_config::closest(&lower, spellings.copied()) {
        Some(close) => format!("did you mean `{close}`?"),
        None => format!("supported types: {supported}"),
    };
    Err(UnknownType {
        message: "unknown type".to_owned(),
        hint,
    })
}

/// The type that a URL of this scheme is, where no `type` is given.
pub fn by_scheme(scheme: &str) -> Option<&'static TypeInfo> {
    TABLE.iter().find(|info| info.url_schemes.contains(&scheme))
}

impl TypeInfo {
    /// Reads a definition. Pure, but for the files that it names.
    pub fn build(
        &self,
        resolved: &Resolved,
        files: &dyn Files,
    ) -> Result<Arc<dyn Probe>, Vec<Invalid>> {
        match self.driver {
            Some((build, ..)) => build(resolved, files),
            None => Err(vec![self.left_out(resolved)]),
        }
    }

    /// Looks at `spec.properties` alone, for a connection whose secrets are still missing.
    pub fn check_settings(&self, resolved: &Resolved) -> Vec<Invalid> {
        match self.driver {
            Some((_, check, _)) => check(resolved),
            None => vec![self.left_out(resolved)],
        }
    }

    /// How `spec.properties` is written, as a JSON Schema (draft 7). Nothing for a type that was left
    /// out of this build.
    pub fn settings_schema(&self) -> Option<Schema> {
        self.driver.map(|(_, _, schema)| schema())
    }

    fn left_out(&self, resolved: &Resolved) -> Invalid {
        Invalid {
            place: resolved.place_of(conncheck_config::Field::Type),
            message: format!("this build of conncheck was made without `{}`", self.name),
            hint: self
                .feature
                .map(|feature| format!("build it with `--features {feature}`")),
        }
    }
}

fn check_settings<P: crate::probe::ProbeType>(resolved: &Resolved) -> Vec<Invalid> {
    crate::probe::settings::<P>(resolved)
        .err()
        .unwrap_or_default()
}

fn settings_schema<P: crate::probe::ProbeType>() -> Schema {
    crate::schema::of_settings::<P::Settings>()
}
