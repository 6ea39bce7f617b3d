//! The table of types: the one place where a type is registered.
//!
//! A type whose driver was left out of this build is still in the table, and says which feature it
//! needs.

use std::sync::Arc;

use conncheck_config::{Connection, Lookup, Partial, Resolved, SecretKey, Unresolved};
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
    /// The keys of a whole secret that it reads beside those that every type does.
    pub secret_keys: &'static [SecretKey],
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
            let left_out: (&'static [Reason], &'static [SecretKey], Option<Driver>) = (&[], &[], None);
            $(#[cfg(feature = $feature)])?
            let left_out: (&'static [Reason], &'static [SecretKey], Option<Driver>) = (
                {
                    use crate::probe::ProbeType;
                    const FURTHER: &[Reason] = <$module::$ty as ProbeType>::FURTHER_REASONS;
                    static REASONS: [Reason; COMMON_REASONS.len() + FURTHER.len()] = with_common(FURTHER);
                    &REASONS
                },
                <$module::$ty as crate::probe::ProbeType>::SECRET_KEYS,
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
                secret_keys: left_out.1,
                driver: left_out.2,
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
    /// Looks up what a connection of this type refers to, as far as this type reads it.
    pub fn resolve(
        &self,
        connection: &Connection,
        lookup: &dyn Lookup,
    ) -> Result<Resolved, Vec<Unresolved>> {
        connection.resolve(self.name, self.secret_keys, lookup)
    }

    /// The same without looking anything up.
    pub fn resolve_partly(&self, connection: &Connection) -> Partial {
        connection.resolve_partly(self.name, self.secret_keys)
    }

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

#[cfg(all(test, feature = "all"))]
mod tests {
    use std::collections::BTreeSet;

    use conncheck_config::{COMMON_KEYS, Trust};

    use super::*;
    use crate::testing::{build, check_refused, resolve};

    const WHOLE: &str = "secretRef: {name: login}\n";

    /// Neither a token nor a name may have it in it.
    const BROKEN: &str = "a\u{1}b c";
    const KUBECONFIG: &str = "\
        {current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}], \
        clusters: [{name: c, cluster: {server: 'https://h'}}], users: [{name: u, user: {token: t}}]}";
    const FILE: &str = "[default]\naws_access_key_id=AKIA1\naws_secret_access_key=s3cr3t-1\n";
    const GOOGLES: &str = r#"{"type": "authorized_user", "client_id": "1", "client_secret": "s", "refresh_token": "r"}"#;

    /// How one sees that a key is read.
    struct Row {
        types: &'static [&'static str],
        key: &'static str,
        spec: &'static str,
        /// What else the secret holds.
        beside: &'static [(&'static str, &'static str)],
        good: &'static str,
        /// With this value, or without any, the definition is refused.
        bad: Option<&'static str>,
    }

    const fn row(
        types: &'static [&'static str],
        key: &'static str,
        spec: &'static str,
        beside: &'static [(&'static str, &'static str)],
        good: &'static str,
        bad: Option<&'static str>,
    ) -> Row {
        Row {
            types,
            key,
            spec,
            beside,
            good,
            bad,
        }
    }

    #[rustfmt::skip]
    const ROWS: &[Row] = &[
        row(&["http", "prometheus", "webhook", "elastic"], "token", "url: http://h", &[], "t", Some(BROKEN)),
        row(&["http", "prometheus", "webhook", "elastic"], "api-key", "url: http://h", &[], "t", Some(BROKEN)),
        row(&["http", "prometheus", "webhook"], "clientID",
            "properties: {oauth: {tokenURL: 'http://h', clientSecret: s}}", &[("url", "http://h")], "c", None),
        row(&["http", "prometheus", "webhook"], "clientSecret",
            "properties: {oauth: {tokenURL: 'http://h', clientID: c}}", &[("url", "http://h")], "s", None),
        row(&["http"], "AWS_ACCESS_KEY_ID", "url: http://h\nproperties: {awsSigV4: {service: s3, region: r}}",
            &[("password", "s")], "AKIA1", Some(BROKEN)),
        row(&["http"], "AWS_SECRET_ACCESS_KEY", "url: http://h\nproperties: {awsSigV4: {service: s3, region: r}}",
            &[("username", "AKIA1")], "s", Some(BROKEN)),
        row(&["http"], "AWS_SESSION_TOKEN", "url: http://h\nproperties: {awsSigV4: {service: s3, region: r}}",
            &[("username", "AKIA1"), ("password", "s")], "t", Some(BROKEN)),
        row(&["http"], "credentials", "url: http://h\nproperties: {awsSigV4: {service: s3, region: r}}",
            &[], FILE, Some(BROKEN)),
        row(&["aws"], "AWS_ACCESS_KEY_ID", "", &[("password", "s")], "AKIA1", Some(BROKEN)),
        row(&["aws"], "AWS_SECRET_ACCESS_KEY", "", &[("username", "AKIA1")], "s", Some(BROKEN)),
        row(&["aws"], "AWS_SESSION_TOKEN", "", &[("username", "AKIA1"), ("password", "s")], "t", Some(BROKEN)),
        row(&["aws"], "credentials", "", &[], FILE, Some(BROKEN)),
        row(&["azure"], "clientID", "properties: {tenantID: t.test}", &[("password", "s")], "c", None),
        row(&["azure"], "clientSecret", "properties: {tenantID: t.test, credential: clientSecret}",
            &[("username", "c")], "s", None),
        row(&["azure"], "tenantID", "", &[("username", "c"), ("password", "s")], "t.test", None),
        row(&["gcp"], "credentials", "", &[], GOOGLES, Some("{}")),
        row(&["kubernetes"], "kubeconfig", "", &[], KUBECONFIG, Some("{x: 1}")),
        row(&["kubernetes"], "token", "url: https://h", &[], "t", Some(BROKEN)),
        row(&["smtp"], "token", "url: smtps://h\nusername: u\nproperties: {auth: XOAUTH2}", &[], "t", Some(BROKEN)),
    ];

    /// A key that is declared and not read would make a secret look as if it brought a login.
    #[test]
    fn every_type_reads_the_keys_that_it_declares() {
        let mut seen = 0;
        for info in all() {
            for key in info.secret_keys {
                let row = ROWS
                    .iter()
                    .find(|row| row.types.contains(&info.name) && row.key == key.name())
                    .unwrap_or_else(|| panic!("no row for `{}` of `{}`", key.name(), info.name));
                seen += 1;
                for name in key.0 {
                    let with = |value: Option<&'static str>| {
                        let mut secret = row.beside.to_vec();
                        secret.extend(value.map(|value| (*name, value)));
                        build(info.name, &format!("{WHOLE}{}", row.spec), &secret)
                    };
                    if let Err(mistakes) = with(Some(row.good)) {
                        panic!("`{name}` of `{}`: {mistakes:?}", info.name);
                    }
                    assert!(with(row.bad).is_err(), "`{name}` of `{}`", info.name);
                }
            }
        }
        let rows: usize = ROWS.iter().map(|row| row.types.len()).sum();
        assert_eq!(seen, rows, "a row for a key that is not declared");
    }

    /// Where anybody is let in, such a connection would be up.
    #[test]
    fn a_secret_with_the_keys_of_other_types_is_of_no_use() {
        let names = |key: &SecretKey| key.0.iter().copied();
        let every: BTreeSet<&str> = all()
            .iter()
            .flat_map(|info| info.secret_keys.iter().flat_map(names))
            .collect();
        for info in all() {
            let own: BTreeSet<&str> = info.secret_keys.iter().flat_map(names).collect();
            let others: Vec<(&str, &str)> = every
                .difference(&own)
                .map(|name| (*name, "v4lu3"))
                .collect();
            let unresolved = resolve(Trust::Local, info.name, WHOLE, &others).err();
            let unresolved = &unresolved.expect(info.name)[0];
            let expected = format!(
                "secret `default/login` has no key that `{}` reads; it has ",
                info.name
            );
            assert!(unresolved.message.starts_with(&expected), "{unresolved:?}");
            let hint = unresolved.hint.as_ref().unwrap();
            for key in COMMON_KEYS.iter().chain(info.secret_keys) {
                assert!(hint.contains(&format!("`{}`", key.name())), "{hint}");
            }
            assert!(!format!("{}{hint}", unresolved.message).contains("v4lu3"));
            // With one of its own it is of use.
            for name in own {
                let mut secret = others.clone();
                secret.push((name, "v4lu3"));
                resolve(Trust::Local, info.name, WHOLE, &secret).unwrap();
            }
        }
    }

    /// The type would read the key, and these settings do not.
    #[test]
    fn a_secret_of_which_nothing_is_used_is_a_mistake() {
        for (ty, spec, key) in [
            ("smtp", "url: smtp://h", "token"),
            ("http", "url: http://h", "AWS_ACCESS_KEY_ID"),
            ("http", "url: http://h", "clientSecret"),
            ("webhook", "url: http://h", "clientID"),
            (
                "http",
                "url: http://h\nproperties: {oauth: {tokenURL: 'http://h', clientID: c, clientSecret: s}}",
                "token",
            ),
        ] {
            let res = build(ty, &format!("{WHOLE}{spec}"), &[(key, "v4lu3")]);
            check_refused(
                res,
                &format!(
                    "secret `default/login` has no key that `{ty}` reads with these settings; it has `{key}`"
                ),
            );
        }
    }
}
