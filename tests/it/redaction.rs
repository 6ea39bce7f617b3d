//! No secret in any output.
//!
//! A marker stands in every field that may hold a secret, of every type, right and wrong alike;
//! then everything that the program can say is searched for it: reports, logs at every level,
//! `/metrics`. The peers are the worst there are: some repeat in their answers what they were sent.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use conncheck_probes::types;
use conncheck_rig::apiserver::{data, kubeconfig};
use conncheck_rig::faults::{self, Peer, Step};
use conncheck_rig::http::{HttpPeer, response};
use conncheck_rig::ldap::{Answer, LdapPeer};
use conncheck_rig::mongodb::{self, MongoPeer, doc};
use conncheck_rig::pki::rsa_key;
use conncheck_rig::{IdpKind, MssqlKind, Rig, SecantusKind, SlapdKind, SmtpPeer, need};
use serde_json::{Value, json};

use crate::check::with;
use crate::program::{Daemon, code, conncheck, document, text, write};

crate::trials![
    where_nobody_listens,
    at_a_silent_peer,
    at_nonsense,
    at_an_echo,
    at_an_echo_that_greets,
    at_an_echo_over_http,
    at_an_echo_of_google,
    at_an_echo_of_aws,
    at_an_echo_of_azure,
    at_an_echo_of_mongodb,
    at_an_echo_of_ldap,
    at_an_echo_of_smtp,
    at_mongodb,
    at_postgres,
    at_rabbitmq,
    at_redis,
    at_slapd,
    at_mariadb,
    at_mssql,
    at_nginx,
    at_nginx_over_tls,
    at_the_idp,
    mistakes_are_told_without_the_value,
];

/// With everything in it that some encoding would change.
const MARKER: &str = "M4RK3R s/cr+t:@?&'%";

/// What of it shows however it was encoded.
const TELLTALES: [&str; 3] = ["M4RK3R", "TTRSSzNS", "cr%2Bt"];

fn encoded() -> String {
    percent_encoding::utf8_percent_encode(MARKER, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn assert_clean(what: &str, said: &str) {
    for telltale in TELLTALES {
        let Some(at) = said.find(telltale) else {
            continue;
        };
        let from = said.floor_char_boundary(at.saturating_sub(200));
        let to = said.ceil_char_boundary((at + 100).min(said.len()));
        panic!("{what} says a secret: …{}…", &said[from..to]);
    }
}

/// Every type at `at`, with the marker in every field that may hold a secret.
fn definitions(at: &str) -> Vec<Value> {
    let encoded = encoded();
    let (host, port) = at.rsplit_once(':').unwrap();
    let specs = vec![
        json!({"type": "amqp", "url": format!("amqp://{encoded}:{encoded}@{at}/%2f")}),
        json!({"type": "amqp", "url": format!("amqp://{encoded}:{encoded}@{at}?auth_mechanism=amqplain")}),
        json!({"type": "amqp", "url": format!("amqps://{at}?verify=verify_none"), "username": "probe", "password": MARKER}),
        json!({"type": "amqp", "url": format!("amqp://$(username):$(password)@{at}"), "secretRef": {"name": "whole"}}),
        json!({"type": "amqp", "url": format!("amqp://probe@{at}"), "secretRef": {"name": "single", "key": "password"}}),
        json!({"type": "aws", "url": format!("http://M4RK3R-id:M4RK3R-secret%2F+@{at}")}),
        json!({"type": "aws", "url": format!("http://{at}"), "username": "M4RK3R-id", "password": "M4RK3R-secret", "properties": {"sessionToken": "M4RK3R-session"}}),
        json!({"type": "aws", "url": format!("http://{at}"), "properties": {"accessKey": "M4RK3R-id", "secretKey": "M4RK3R-secret", "assumeRole": {"roleARN": "arn:aws:iam::123456789012:role/a", "externalID": MARKER}}}),
        json!({"type": "aws", "url": format!("http://{at}"), "secretRef": {"name": "aws"}}),
        json!({"type": "aws", "url": format!("http://{at}"), "username": "M4RK3R-id", "secretRef": {"name": "single", "key": "token"}}),
        json!({"type": "aws", "url": format!("http://{at}"), "secretRef": {"name": "aws-files", "key": "keys"}}),
        json!({"type": "aws", "url": format!("http://{at}"), "secretRef": {"name": "aws-files", "key": "role"}}),
        json!({"type": "aws", "url": format!("http://{at}"), "secretRef": {"name": "aws-files", "key": "says"}}),
        json!({"type": "aws", "url": format!("http://{at}"), "secretRef": {"name": "aws-files", "key": "complains"}}),
        json!({"type": "http", "url": format!("http://{at}/?a=b"), "username": "M4RK3R-id", "password": "M4RK3R-secret", "properties": {"awsSigV4": {"service": "es", "region": "eu-west-1", "sessionToken": "M4RK3R-session"}}}),
        json!({"type": "http", "url": format!("http://{at}/"), "properties": {"awsSigV4": {"service": "s3", "accessKey": "M4RK3R-id", "secretKey": "M4RK3R-secret"}}}),
        json!({"type": "redis", "url": format!("redis://{encoded}:{encoded}@{at}")}),
        json!({"type": "redis", "url": format!("redis://{at}?pass={encoded}&user={encoded}")}),
        json!({"type": "redis", "url": format!("redis://{at}"), "username": "probe", "password": MARKER}),
        json!({"type": "redis", "url": format!("redis://$(username):$(password)@{at}"), "secretRef": {"name": "whole"}}),
        json!({"type": "redis", "url": format!("redis://{at}"), "secretRef": {"name": "single", "key": "password"}}),
        json!({"type": "redis", "url": "secret://urls/redis"}),
        json!({"type": "postgres", "url": format!("postgres://{encoded}:{encoded}@{at}/app?sslmode=disable")}),
        json!({"type": "postgres", "url": format!("postgres://{at}/app?user=probe&password={encoded}")}),
        json!({"type": "postgres", "url": dsn(at)}),
        json!({"type": "postgres", "url": format!("postgres://probe@{at}/app"), "password": MARKER}),
        json!({"type": "postgres", "url": format!("postgres://{at}/app"), "secretRef": {"name": "whole"}}),
        json!({"type": "postgres", "url": format!("postgres://probe@{at}/app"), "secretRef": {"name": "single", "key": "password"}}),
        json!({"type": "mongodb", "url": format!("mongodb://{encoded}:{encoded}@{at}/app")}),
        json!({"type": "mongodb", "url": format!("mongodb://{encoded}:{encoded}@{at}/app?authMechanism=PLAIN&tls=true")}),
        json!({"type": "mongodb", "url": format!("mongodb://probe@{at},{at}/?authMechanism=SCRAM-SHA-1"), "password": MARKER}),
        json!({"type": "mongodb", "url": format!("mongodb://{at}/"), "secretRef": {"name": "whole"}}),
        json!({"type": "mongodb", "url": format!("mongodb://$(username):$(password)@{at}/"), "secretRef": {"name": "whole"}}),
        json!({"type": "mongodb", "url": format!("mongodb://probe@{at}/"), "secretRef": {"name": "single", "key": "password"}}),
        json!({"type": "mongodb", "url": format!("mongodb+srv://{encoded}:{encoded}@cluster.conncheck.invalid/app")}),
        json!({"type": "mysql", "url": format!("mysql://{encoded}:{encoded}@{at}/app?tls=disabled")}),
        json!({"type": "mysql", "url": format!("mysql://{encoded}:{encoded}@tcp({at})/app")}),
        json!({"type": "mysql", "url": format!("M4RK3R-user:{MARKER}@tcp({at})/app")}),
        json!({"type": "mysql", "url": format!("mysql://{at}/app?user=probe&password={encoded}")}),
        json!({"type": "mysql", "url": format!("mysql://probe@{at}/app"), "password": MARKER}),
        json!({"type": "mysql", "url": format!("mysql://{at}/app"), "secretRef": {"name": "whole"}}),
        json!({"type": "mysql", "url": format!("probe@tcp({at})/app"), "secretRef": {"name": "single", "key": "password"}}),
        json!({"type": "mssql", "url": format!("sqlserver://{encoded}:{encoded}@{at}?encrypt=disable")}),
        json!({"type": "mssql", "url": format!("mssql://parrot:{encoded}@{at}/orders"), "properties": {"trustServerCertificate": true}}),
        json!({"type": "mssql", "url": ado(at)}),
        json!({"type": "mssql", "url": format!("sqlserver://{at}?password={encoded}&user+id=parrot&encrypt=false")}),
        json!({"type": "mssql", "url": format!("sqlserver://parrot@{at}?encrypt=false"), "password": MARKER}),
        json!({"type": "mssql", "url": format!("sqlserver://{at}?encrypt=optional"), "secretRef": {"name": "whole"}}),
        json!({"type": "mssql", "url": format!("sqlserver://parrot@{at}?encrypt=optional"), "secretRef": {"name": "single", "key": "password"}}),
        json!({"type": "http", "url": format!("http://M4RK3R-user:{encoded}@{at}/")}),
        json!({"type": "http", "url": format!("http://{at}/hook/{encoded}?token={encoded}")}),
        json!({"type": "http", "url": format!("http://{at}/"), "username": "probe", "password": MARKER}),
        json!({"type": "http", "url": format!("http://{at}/"), "properties": {"headers": {"Authorization": format!("Token {MARKER}"), "X-Other": MARKER}}}),
        json!({"type": "http", "url": format!("http://{at}/"), "properties": {"bearer": "M4RK3R-bearer"}}),
        json!({"type": "http", "url": format!("http://{at}/"), "properties": {"method": "POST", "body": format!("{{\"password\": \"{MARKER}\"}}")}}),
        json!({"type": "http", "url": format!("http://{at}/"), "secretRef": {"name": "single", "key": "token"}, "properties": {"apiKeyHeader": "X-Api-Key"}}),
        json!({"type": "http", "url": format!("http://{at}/"), "properties": {"oauth": {"tokenURL": format!("http://{at}/token"), "clientID": "probe", "clientSecret": MARKER}}}),
        json!({"type": "gcp", "url": format!("http://{at}"), "password": google(at)["key"]}),
        json!({"type": "gcp", "url": format!("http://{at}"), "properties": {"credentials": google(at)["user"]}}),
        json!({"type": "gcp", "url": format!("http://{at}"), "secretRef": {"name": "google", "key": "key"}, "properties": {"project": "shop"}}),
        json!({"type": "gcp", "url": format!("http://{at}"), "secretRef": {"name": "google", "key": "user"}}),
        json!({"type": "gcp", "url": format!("http://{at}"), "secretRef": {"name": "google", "key": "federated"}}),
        json!({"type": "gcp", "url": format!("http://{at}"), "secretRef": {"name": "google", "key": "federated-user"}}),
        json!({"type": "gcp", "url": format!("http://{at}"), "secretRef": {"name": "google", "key": "impersonated"}}),
        json!({"type": "ldap", "url": format!("ldap://{encoded}:{encoded}@{at}/dc=a")}),
        json!({"type": "ldap", "url": format!("ldap://{at}/dc=a"), "username": "cn=probe", "password": MARKER}),
        json!({"type": "ldap", "url": format!("ldap://{at}/dc=a????bindname=cn=probe"), "secretRef": {"name": "single", "key": "password"}}),
        json!({"type": "ldap", "url": format!("ldap://{at}"), "secretRef": {"name": "whole"}, "properties": {"startTLS": true, "insecureSkipVerify": true}}),
        json!({"type": "ldap", "url": format!("ldap://{at}"), "username": "cn=probe", "password": MARKER, "properties": {"baseDN": "cn=\"$(password)\"", "filter": "(cn=$(password))"}}),
        json!({"type": "ldap", "url": format!("ldaps://{at}"), "clientCert": "env://CERT_WITH_MARKER", "clientKey": "env://KEY_WITH_MARKER", "properties": {"auth": "external"}}),
        json!({"type": "http", "url": format!("https://{at}/"), "clientCert": "env://CERT_WITH_MARKER", "clientKey": "env://KEY_WITH_MARKER"}),
        json!({"type": "elastic", "url": format!("http://M4RK3R-user:{encoded}@{at}")}),
        json!({"type": "elastic", "url": format!("http://probe@{at}, http://M4RK3R-second:{encoded}@{at},http://{at}/?token={encoded}"), "password": MARKER}),
        json!({"type": "elastic", "url": format!("http://probe:$(password)@{at},http://probe:$(password)@{at}"), "password": MARKER}),
        json!({"type": "elastic", "url": format!("http://{at}"), "secretRef": {"name": "single", "key": "apikey"}}),
        json!({"type": "elastic", "url": format!("http://{at}"), "secretRef": {"name": "single", "key": "encoded"}}),
        json!({"type": "elastic", "url": format!("http://{at}"), "properties": {"bearer": "M4RK3R-bearer", "headers": {"X-Other": MARKER}}}),
        json!({"type": "prometheus", "url": format!("http://M4RK3R-user:{encoded}@{at}/prometheus")}),
        json!({"type": "prometheus", "url": format!("http://{at}/?token={encoded}"), "properties": {"headers": {"X-Other": MARKER}}}),
        json!({"type": "prometheus", "url": format!("http://{at}"), "username": "probe", "password": MARKER}),
        json!({"type": "prometheus", "url": format!("http://{at}"), "secretRef": {"name": "single", "key": "token"}}),
        json!({"type": "prometheus", "url": format!("http://{at}"), "properties": {"bearer": "M4RK3R-bearer"}}),
        json!({"type": "smtp", "url": format!("smtp://{encoded}:{encoded}@{at}?encryption=none")}),
        json!({"type": "smtp", "url": format!("smtp://probe@{at}?encryption=none&auth=login"), "password": MARKER}),
        json!({"type": "smtp", "url": at, "username": MARKER, "password": MARKER, "properties": {"encryption": "none", "auth": "xoauth2"}}),
        json!({"type": "smtp", "url": format!("smtps://{at}"), "secretRef": {"name": "whole"}}),
        json!({"type": "smtp", "url": format!("smtp://probe@{at}"), "secretRef": {"name": "single", "key": "password"}, "properties": {"encryption": "none"}}),
        json!({"type": "webhook", "url": format!("http://{at}/services/{encoded}?sig={encoded}")}),
        json!({"type": "webhook", "url": format!("http://M4RK3R-user:{encoded}@{at}/")}),
        json!({"type": "webhook", "url": format!("http://{at}/"), "secretRef": {"name": "single", "key": "token"}}),
        json!({"type": "webhook", "url": format!("http://{at}/"), "properties": {"method": "POST", "body": format!("{{\"token\": \"{MARKER}\"}}"), "headers": {"X-Other": MARKER}}}),
        json!({"type": "kubernetes", "url": format!("http://{at}"), "password": "M4RK3R-token"}),
        json!({"type": "kubernetes", "url": format!("http://{at}"), "username": "M4RK3R-user", "password": MARKER}),
        json!({"type": "kubernetes", "url": format!("http://M4RK3R-user:{encoded}@{at}")}),
        json!({"type": "kubernetes", "url": format!("http://{at}"), "secretRef": {"name": "single", "key": "token"}}),
        json!({"type": "kubernetes", "secretRef": {"name": "kubeconfigs", "key": "token"}}),
        json!({"type": "kubernetes", "secretRef": {"name": "kubeconfigs", "key": "basic"}}),
        json!({"type": "kubernetes", "secretRef": {"name": "kubeconfigs", "key": "certificate"}}),
        json!({"type": "kubernetes", "secretRef": {"name": "kubeconfigs", "key": "says"}}),
        json!({"type": "kubernetes", "secretRef": {"name": "kubeconfigs", "key": "complains"}}),
        json!({"type": "kubernetes", "properties": {"kubeconfig": kubeconfig_at(at, &json!({"token": "M4RK3R-token"}))}}),
        // The same in the legacy form …
        json!({"type": "postgres", "url": {"value": format!("postgres://$(username):$(password)@{at}/app?sslmode=disable")}, "username": {"value": MARKER}, "password": {"valueFrom": {"secretKeyRef": {"name": "single", "key": "password"}}}}),
        json!({"type": "redis", "url": {"value": host}, "port": {"value": port}, "password": {"value": MARKER}}),
        json!({"type": "opensearch", "url": {"value": "$(password)"}, "password": {"valueFrom": {"secretKeyRef": {"name": "urls", "key": "http"}}}, "insecure_tls": true}),
        json!({"type": "http", "url": {"value": format!("http://{at}/hook/$(password)/$(properties.path)")}, "password": {"value": MARKER}, "properties": {"path": {"valueFrom": {"secretKeyRef": {"name": "single", "key": "token"}}}}}),
        json!({"type": "kubernetes", "certificate": {"value": kubeconfig_at(at, &json!({"token": "M4RK3R-token"}))}}),
        json!({"type": "kubernetes", "certificate": {"valueFrom": {"secretKeyRef": {"name": "kubeconfigs", "key": "basic"}}}}),
        // … and in blocks.
        json!({"postgres": {"url": {"value": format!("postgres://probe:{encoded}@{at}/app?sslmode=disable")}, "insecureTLS": true}}),
        json!({"postgres": {"host": at, "database": {"valueFrom": {"secretKeyRef": {"name": "single", "key": "password"}}}, "username": {"value": MARKER}, "password": MARKER}}),
        json!({"postgres": {"url": {"valueFrom": {"secretKeyRef": {"name": "urls", "key": "postgres"}}}}}),
        json!({"mysql": {"host": host, "port": port, "database": MARKER, "username": MARKER, "password": {"value": MARKER}}}),
        json!({"mssql": {"host": at, "username": {"value": MARKER}, "password": {"valueFrom": {"secretKeyRef": {"name": "single", "key": "password"}}}, "trustServerCertificate": true}}),
        json!({"mongo": {"host": {"value": format!("{at},{at}")}, "database": "app", "username": {"value": "probe"}, "password": {"value": MARKER}, "insecureTLS": true}}),
        json!({"redis": {"url": at, "username": {"value": MARKER}, "password": {"value": MARKER}}}),
        json!({"http": {"url": format!("http://{at}/"), "headers": [{"name": "X-Other", "value": MARKER}, {"name": "X-Third", "valueFrom": {"secretKeyRef": {"name": "single", "key": "token"}}}]}}),
        json!({"http": {"url": format!("http://{at}/"), "username": {"value": "M4RK3R-user"}, "password": {"value": MARKER}}}),
        json!({"http": {"url": format!("http://{at}/"), "bearer": {"valueFrom": {"secretKeyRef": {"name": "single", "key": "token"}}}}}),
        json!({"http": {"url": format!("http://{at}/"), "oauth": {"tokenURL": format!("http://{at}/token"), "clientID": {"value": "probe"}, "clientSecret": {"value": MARKER}, "params": {"assertion": MARKER}}}}),
        json!({"http": {"url": format!("https://{at}/"), "tls": {"cert": "env://CERT_WITH_MARKER", "key": "env://KEY_WITH_MARKER"}}}),
        json!({"prometheus": {"url": {"value": format!("http://{at}")}, "bearer": {"value": "M4RK3R-bearer"}}}),
        json!({"elasticsearch": {"url": format!("http://{at}"), "username": {"value": "probe"}, "password": {"value": MARKER}}}),
        json!({"opensearch": {"urls": [format!("http://probe:$(password)@{at}"), format!("http://M4RK3R-user:{encoded}@{at}")], "password": MARKER}}),
        json!({"smtp": {"host": host, "port": port, "username": {"value": MARKER}, "password": {"value": MARKER}, "encryption": "None", "fromAddress": "a@b"}}),
        json!({"kubernetes": {"certificate": {"value": kubeconfig_at(at, &json!({"token": "M4RK3R-token"}))}}}),
        json!({"kubernetes": {"kubeconfig": {"valueFrom": {"secretKeyRef": {"name": "kubeconfigs", "key": "certificate"}}}}}),
        json!({"gcp": {"endpoint": format!("http://{at}"), "certificate": {"value": google(at)["user"]}, "project": "shop"}}),
        json!({"gcp": {"endpoint": format!("http://{at}"), "credentials": {"valueFrom": {"secretKeyRef": {"name": "google", "key": "key"}}}}}),
        json!({"type": "google_cloud", "url": {"value": format!("http://{at}")}, "certificate": {"value": google(at)["user"]}}),
        json!({"type": "azure", "url": format!("http://{encoded}:{encoded}@{at}/tenant.test")}),
        json!({"type": "azure", "url": format!("http://{at}"), "username": "M4RK3R-user", "password": MARKER, "properties": {"tenantID": "tenant.test"}}),
        json!({"type": "azure", "url": format!("http://{at}/tenant.test"), "secretRef": {"name": "whole"}}),
        json!({"type": "azure", "url": format!("http://{at}/tenant.test"), "secretRef": {"name": "single", "key": "password"}, "properties": {"clientID": "$(name)"}}),
        json!({"type": "azure", "url": format!("http://{at}/granting.test"), "username": "probe", "password": MARKER, "properties": {"subscriptionID": SUBSCRIPTION, "managementEndpoint": format!("http://{at}/M4RK3R")}}),
        json!({"type": "azure", "url": format!("http://{at}/tenant.test"), "username": "probe", "clientCert": "env://APP_CERT_WITH_MARKER", "clientKey": "env://APP_KEY_WITH_MARKER"}),
        json!({"type": "azure", "url": format!("http://{at}/tenant.test"), "username": "probe", "properties": {"federatedTokenFile": federated_token(), "credential": "workloadIdentity"}}),
        json!({"type": "azure", "url": format!("http://{at}"), "properties": {"credential": "environment"}}),
        json!({"type": "azure", "properties": {"credential": "managedIdentity"}}),
    ];
    for info in types::all() {
        assert!(
            specs.iter().any(|spec| spec["type"] == info.name),
            "`{}` has no row here",
            info.name
        );
    }
    specs
        .into_iter()
        .enumerate()
        .map(|(index, spec)| document(&format!("c{index}"), spec))
        .chain([
            secret(
                "whole",
                json!({"username": format!("{MARKER}-user"), "password": MARKER}),
            ),
            secret(
                "single",
                json!({
                    "password": MARKER,
                    "token": "M4RK3R-token",
                    "apikey": "probe:M4RK3R-apikey",
                    "encoded": "cHJvYmU6TTRSSzNSLWFwaWtleQ==",
                }),
            ),
            kubeconfigs(at),
            secret("google", google(at)),
            aws_files(),
            secret(
                "aws",
                json!({"AWS_ACCESS_KEY_ID": "M4RK3R-id", "AWS_SECRET_ACCESS_KEY": "M4RK3R-secret", "AWS_SESSION_TOKEN": "M4RK3R-session"}),
            ),
            secret(
                "urls",
                json!({
                    "redis": format!("redis://{encoded}:{encoded}@{at}"),
                    "postgres": format!("postgres://{encoded}:{encoded}@{at}/app?sslmode=disable"),
                    "http": format!("http://M4RK3R-user:{encoded}@{at}"),
                }),
            ),
        ])
        .collect()
}

/// A file with the token of another identity provider.
fn federated_token() -> &'static Path {
    static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
        let path = Rig::shared().dir().join("federated-token");
        std::fs::write(&path, "M4RK3R-federated\n").unwrap();
        path
    });
    &FILE
}

const SUBSCRIPTION: &str = "33333333-3333-4333-8333-333333333333";

fn kubeconfig_at(at: &str, user: &Value) -> String {
    kubeconfig(&json!({"server": format!("http://{at}")}), user)
}

/// The marker wherever a kubeconfig may hold a secret, and in what exec plugins say.
fn kubeconfigs(at: &str) -> Value {
    let client = &Rig::shared().pki().client;
    let marked = |pem: &str| data(&format!("{pem}# {MARKER}\n"));
    let plugin = |script: &str| {
        json!({"exec": {
            "apiVersion": "client.authentication.k8s.io/v1", "command": "sh",
            "args": ["-c", script, format!("--secret={MARKER}")],
            "env": [{"name": "SECRET", "value": MARKER}],
        }})
    };
    let credential = json!({
        "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
        "status": {"token": "M4RK3R-granted"},
    });
    let texts = [
        ("token", json!({"token": "M4RK3R-token"})),
        (
            "basic",
            json!({"username": "M4RK3R-user", "password": MARKER}),
        ),
        (
            "certificate",
            json!({
                "client-certificate-data": marked(&client.cert_pem),
                "client-key-data": marked(&client.key_pem),
            }),
        ),
        ("says", plugin(&format!("echo '{credential}'"))),
        (
            "complains",
            plugin("echo \"no login for $SECRET\" >&2; exit 1"),
        ),
    ];
    let texts = texts.map(|(name, user)| (name.to_owned(), kubeconfig_at(at, &user).into()));
    secret("kubeconfigs", Value::Object(texts.into_iter().collect()))
}

/// The marker wherever a credential of Google's may hold a secret, as JSON texts.
fn google(at: &str) -> Value {
    static KEY: LazyLock<String> = LazyLock::new(|| format!("{}# {MARKER}\n", rsa_key().unwrap()));
    let url = |path: &str| format!("http://{at}{path}");
    let key = json!({
        "type": "service_account", "client_email": "M4RK3R@x.test", "private_key_id": "M4RK3R",
        "private_key": *KEY, "token_uri": url("/token"),
    });
    let user = json!({
        "type": "authorized_user", "client_id": "probe", "client_secret": MARKER,
        "refresh_token": MARKER, "token_uri": url("/token"),
    });
    let federated = json!({
        "type": "external_account", "audience": "//a", "subject_token_type": "b",
        "token_url": url("/v1/token"), "client_id": "probe", "client_secret": MARKER,
        "credential_source": {"url": url("/subject"), "headers": {"X-Other": MARKER}},
    });
    let federated_user = json!({
        "type": "external_account_authorized_user", "client_id": "probe", "client_secret": MARKER,
        "refresh_token": MARKER, "token_url": url("/token"),
    });
    let impersonated = json!({
        "type": "impersonated_service_account", "source_credentials": key,
        "service_account_impersonation_url": url("/a:generateAccessToken"),
    });
    json!({
        "key": key.to_string(), "user": user.to_string(), "federated": federated.to_string(),
        "federated-user": federated_user.to_string(), "impersonated": impersonated.to_string(),
    })
}

/// Gives tokens with the marker in them to whoever signs for them, and repeats to all others, and in
/// whatever comes after, what it was sent.
fn google_echo() -> HttpPeer {
    HttpPeer::start(|request| {
        let body = request.body_text();
        let authorization = request.header("authorization").unwrap_or_default();
        let other = request.header("x-other").unwrap_or_default();
        let blanks = body.replace('+', " ");
        let decoded = percent_encoding::percent_decode_str(&blanks).decode_utf8_lossy();
        let sent = format!("{body} {decoded} {authorization} {other}");
        let json = [("Content-Type", "application/json")];
        let reply = match request.target.as_str() {
            "/token" if body.contains("assertion=") => {
                json!({"access_token": "M4RK3R-granted", "token_type": "Bearer"})
            }
            "/subject" => return response(200, &[], "M4RK3R-subject"),
            "/v1/projects/shop" => {
                let error = json!({"code": 403, "status": "PERMISSION_DENIED", "message": sent});
                return response(403, &json, &json!({"error": error}).to_string());
            }
            _ => {
                let error = json!({"error": "invalid_grant", "error_description": sent});
                return response(400, &json, &error.to_string());
            }
        };
        response(200, &json, &reply.to_string())
    })
    .unwrap()
}

/// The marker wherever a credentials file may hold a secret, and in what programs say.
fn aws_files() -> Value {
    let keys = "aws_access_key_id = M4RK3R-id\naws_secret_access_key = M4RK3R-secret\naws_session_token = M4RK3R-session\n";
    let given = json!({
        "Version": 1, "AccessKeyId": "M4RK3R-given", "SecretAccessKey": "M4RK3R-given-secret", "SessionToken": "M4RK3R-given-session",
    });
    let role = "role_arn = arn:aws:iam::123456789012:role/a\nsource_profile = b\n";
    secret(
        "aws-files",
        json!({
            "keys": format!("[default]\n{keys}"),
            "role": format!("[default]\n{role}external_id = {MARKER}\n[b]\n{keys}"),
            "says": format!("[default]\ncredential_process = echo '{given}'\n"),
            "complains": "[default]\ncredential_process = sh -c 'echo no login for $1 >&2; exit 1' sh M4RK3R-argument\n",
        }),
    )
}

fn dsn(at: &str) -> String {
    let (host, port) = at.rsplit_once(':').unwrap();
    let quoted = MARKER.replace('\\', "\\\\").replace('\'', "\\'");
    format!("host={host} port={port} user=probe password='{quoted}' dbname=app")
}

fn ado(at: &str) -> String {
    let server = at.replace(':', ",");
    let quoted = MARKER.replace('"', "\"\"");
    format!("Server=tcp:{server};User Id=parrot;Password=\"{quoted}\";Encrypt=false")
}

fn secret(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data})
}

fn where_nobody_listens() {
    let refused = faults::refused().unwrap();
    say_no_secret(&refused.addr().to_string());
}

fn at_a_silent_peer() {
    let peer = Peer::silent().unwrap();
    say_no_secret(&peer.addr().to_string());
}

fn at_nonsense() {
    let peer = Peer::nonsense().unwrap();
    say_no_secret(&peer.addr().to_string());
}

fn at_an_echo() {
    let peer = Peer::script([
        Step::Receive,
        Step::Send(format!("-ERR you sent {MARKER}\r\n").into_bytes()),
        Step::Close,
    ])
    .unwrap();
    say_no_secret(&peer.addr().to_string());
}

fn at_an_echo_that_greets() {
    // One of those that speak first says what it heard the last time: `Too many connections` of MySQL.
    let said = format!("\x10\x04Too many connections of {MARKER}");
    let length = said.len() as u8 + 1;
    let peer = Peer::script([
        Step::Send([&[length, 0, 0, 0, 0xff], said.as_bytes()].concat()),
        Step::Close,
    ])
    .unwrap();
    say_no_secret(&peer.addr().to_string());
}

fn at_an_echo_over_http() {
    let peer = HttpPeer::start(|request| {
        let sent = format!(
            "{} {} {}",
            request.header("authorization").unwrap_or_default(),
            request.header("x-api-key").unwrap_or_default(),
            request.header("x-other").unwrap_or_default()
        );
        let sent = match request.header("x-amz-security-token") {
            Some(token) => format!("{sent} {token}"),
            None => sent,
        };
        response(
            401,
            &[("Server", &sent), ("WWW-Authenticate", &sent)],
            &sent,
        )
    })
    .unwrap();
    say_no_secret(&peer.addr().to_string());
}

fn at_an_echo_of_google() {
    let peer = google_echo();
    say_no_secret(&peer.addr().to_string());
}

fn at_an_echo_of_aws() {
    // As STS does it to a signature that is wrong, and more: the whole request once more.
    let peer = HttpPeer::start(|request| {
        let token = request.header("x-amz-security-token").unwrap_or_default();
        let signed = request.header("authorization").unwrap_or_default();
        let body = request.body_text().replace('&', "&amp;");
        let sent = format!(
            "<ErrorResponse><Error><Code>SignatureDoesNotMatch</Code><Message>{signed} {token} {body}</Message></Error></ErrorResponse>"
        );
        response(403, &[("Content-Type", "text/xml")], &sent)
    })
    .unwrap();
    say_no_secret(&peer.addr().to_string());
}

fn at_an_echo_of_azure() {
    // A token endpoint that gives away what it should not, and a Resource Manager that repeats it.
    let peer = HttpPeer::start(|request| {
        let sent = ["authorization", "x-identity-header"];
        let sent = sent.map(|name| request.header(name).unwrap_or_default());
        let sent = format!("{} {}", sent.join(" "), request.body_text());
        if request.target.starts_with("/granting.test/") {
            let token = json!({"access_token": "M4RK3R-granted"});
            return response(200, &[], &token.to_string());
        }
        let said = match request.target.contains("/subscriptions/") {
            true => json!({"error": {"code": "Denied", "message": sent}}),
            false => {
                json!({"error": "invalid_client", "error_description": format!("AADSTS1: {sent}")})
            }
        };
        response(401, &[], &said.to_string())
    })
    .unwrap();
    say_no_secret(&peer.addr().to_string());
}

fn at_an_echo_of_mongodb() {
    let peer = MongoPeer::start(|command| {
        let text = match command.get_binary_generic("payload") {
            Ok(payload) => String::from_utf8_lossy(payload).into_owned(),
            Err(_) => command.to_string(),
        };
        let mechanisms = ["SCRAM-SHA-256"];
        Some(match mongodb::name(command) {
            "hello" => {
                doc! { "ok": 1.0, "maxWireVersion": 21, "setName": &text, "saslSupportedMechs": mechanisms }
            }
            _ => doc! { "ok": 0.0, "code": 18, "codeName": &text, "errmsg": &text },
        })
    })
    .unwrap();
    say_no_secret(&peer.addr().to_string());
}

fn at_an_echo_of_ldap() {
    let peer = LdapPeer::start(|_| {
        let sent = format!("you sent {MARKER} as {MARKER}-user");
        let refer = format!("ldap://{}:{}@127.0.0.1/{}", encoded(), encoded(), encoded());
        vec![Answer::Result(49, sent), Answer::Referral(vec![refer])]
    })
    .unwrap();
    say_no_secret(&peer.addr().to_string());
}

fn at_an_echo_of_smtp() {
    let peer = SmtpPeer::start("220 peer ESMTP", |line| match line.split_once(' ') {
        Some(("EHLO", _)) => "250-peer\r\n250 AUTH PLAIN LOGIN XOAUTH2".into(),
        Some(("AUTH", "LOGIN")) => "334 VXNlcm5hbWU6".into(),
        Some(("AUTH", login)) => match login.strip_prefix("XOAUTH2 ") {
            Some(token) => format!("334 {token}"),
            None => format!("535 you sent {login}"),
        },
        // Who logs in by LOGIN is `probe`.
        _ if line == "cHJvYmU=" => "334 UGFzc3dvcmQ6".into(),
        _ => format!("535 you sent {line}"),
    })
    .unwrap();
    say_no_secret(&peer.addr().to_string());
}

fn at_mongodb() {
    let server = need!(Rig::shared().get(SecantusKind::Main));
    say_no_secret(&local(server.port()));
}

fn at_postgres() {
    let server = need!(Rig::shared().postgres());
    say_no_secret(&local(server.port()));
}

fn at_rabbitmq() {
    let server = need!(Rig::shared().rabbitmq());
    say_no_secret(&local(server.port()));
}

fn at_redis() {
    let server = need!(Rig::shared().redis());
    say_no_secret(&local(server.port()));
}

fn at_slapd() {
    let server = need!(Rig::shared().get(SlapdKind::Main));
    say_no_secret(&local(server.port()));
}

fn at_mariadb() {
    let server = need!(Rig::shared().mariadb());
    say_no_secret(&local(server.port()));
}

fn at_mssql() {
    let server = need!(Rig::shared().get(MssqlKind::Main));
    say_no_secret(&local(server.port()));
}

fn at_nginx() {
    let server = need!(Rig::shared().nginx());
    say_no_secret(&local(server.http));
}

fn at_nginx_over_tls() {
    let server = need!(Rig::shared().nginx());
    say_no_secret(&local(server.https));
}

fn at_the_idp() {
    let server = need!(Rig::shared().get(IdpKind::Main));
    say_no_secret(&local(server.port()));
}

fn local(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// Reports, logs and metrics of all [`definitions`] at this address.
fn say_no_secret(at: &str) {
    let idp = need!(Rig::shared().get(IdpKind::Main));
    let application = idp.certificate();
    let dir = tempfile::tempdir().unwrap();
    let connections = dir.path().join("connections");
    std::fs::create_dir(&connections).unwrap();
    write(&connections.join("a.yaml"), &definitions(at));
    let pki = Rig::shared().pki();
    let environment = [
        (
            "CERT_WITH_MARKER",
            format!("{}# {MARKER}\n", pki.client.cert_pem),
        ),
        (
            "KEY_WITH_MARKER",
            format!("{}# {MARKER}\n", pki.client.key_pem),
        ),
        (
            "APP_CERT_WITH_MARKER",
            format!("{}# {MARKER}\n", application.cert_pem),
        ),
        (
            "APP_KEY_WITH_MARKER",
            format!("{}# {MARKER}\n", application.key_pem),
        ),
        ("AZURE_TENANT_ID", "tenant.test".to_owned()),
        ("AZURE_CLIENT_ID", "M4RK3R-user".to_owned()),
        ("AZURE_CLIENT_SECRET", MARKER.to_owned()),
        ("IDENTITY_ENDPOINT", format!("http://{at}/msi/M4RK3R")),
        ("IDENTITY_HEADER", MARKER.to_owned()),
    ];
    for output in ["text", "json"] {
        let mut command = conncheck(&[
            "--check-once",
            "--output",
            output,
            "--timeout",
            "300ms",
            "--log-level",
            "trace",
        ]);
        let output = command
            .arg(&connections)
            .envs(environment.clone())
            .output()
            .unwrap();
        assert!(
            [0, 1].contains(&code(&output)),
            "{}{}",
            text(&output.stdout),
            text(&output.stderr)
        );
        assert_clean("the report", &text(&output.stdout));
        assert_clean("the log", &text(&output.stderr));
    }
    for format in ["text", "json"] {
        let mut command = conncheck(&[connections.to_str().unwrap()]);
        command.envs(environment.clone());
        command.args([
            "--interval",
            "1s",
            "--timeout",
            "300ms",
            "--log-level",
            "trace",
            "--log-format",
            format,
        ]);
        let daemon = Daemon::start_command(&connections, command);
        let is_connection = |document: &&Value| document["kind"] == "Connection";
        let count = definitions(at).iter().filter(is_connection).count();
        let metrics = daemon.wait_for("attempt of each", |metrics| {
            metrics.matches("\nprobe_success{").count() >= count
        });
        assert_clean("/metrics", &metrics);
        assert_clean("the log", &daemon.log());
    }
}

/// The marker in every place where it is a mistake.
fn mistakes_are_told_without_the_value() {
    let spec = json!({"type": "redis", "url": "redis://127.0.0.1:1"});
    let http = json!({"type": "http", "url": "http://127.0.0.1:1"});
    let mysql = json!({"type": "mysql", "url": "mysql://a@127.0.0.1:1/app"});
    let postgres = json!({"type": "postgres", "url": "postgres://a@127.0.0.1:1/app"});
    let smtp = json!({"type": "smtp", "url": "smtp://127.0.0.1:1"});
    let webhook = json!({"type": "webhook", "url": "http://127.0.0.1:1/hook"});
    let kubernetes = |kubeconfig: String| json!({"type": "kubernetes", "properties": {"kubeconfig": kubeconfig}});
    let cluster = json!({"server": "http://127.0.0.1:1"});
    let gcp = |json: Value| json!({"type": "gcp", "password": json.to_string()});
    let azure = json!({"type": "azure", "password": MARKER, "properties": {"tenantID": "a.test", "clientID": "a"}});
    let encoded = encoded();
    let aws = json!({"type": "aws", "username": "AKIARIG", "password": "a"});
    let specs = vec![
        json!({"type": "aws", "username": MARKER, "password": "a"}),
        json!({"type": "aws", "username": "AKIARIG", "password": MARKER}),
        json!({"type": "aws", "username": MARKER}),
        json!({"type": "aws", "password": MARKER}),
        json!({"type": "aws", "url": format!("https://[{MARKER}]")}),
        json!({"type": "aws", "url": format!("https://127.0.0.1:1/?{encoded}={encoded}")}),
        json!({"type": "aws", "url": format!("https://{encoded}:{encoded}@127.0.0.1:1")}),
        json!({"type": "aws", "secretRef": {"name": "aws", "key": "line"}}),
        json!({"type": "aws", "secretRef": {"name": "aws", "key": "section"}}),
        json!({"type": "aws", "secretRef": {"name": "aws", "key": "half"}}),
        json!({"type": "aws", "secretRef": {"name": "aws", "key": "role"}}),
        json!({"type": "aws", "secretRef": {"name": "aws", "key": "source"}}),
        json!({"type": "aws", "secretRef": {"name": "aws", "key": "program"}}),
        json!({"type": "aws", "secretRef": {"name": "aws", "key": "region"}}),
        with(aws.clone(), json!({"properties": {"sessionToken": MARKER}})),
        with(aws.clone(), json!({"properties": {"secretKey": MARKER}})),
        with(aws.clone(), json!({"properties": {"region": MARKER}})),
        with(aws.clone(), json!({"properties": {"endpoint": MARKER}})),
        with(aws.clone(), json!({"properties": {"assumeRole": MARKER}})),
        with(
            aws,
            json!({"properties": {"assumeRole": {"roleARN": MARKER, "externalID": MARKER}}}),
        ),
        json!({"type": "amqp", "url": format!("amqp://probe:{MARKER}@127.0.0.1")}),
        json!({"type": "amqp", "url": format!("amqp://:{encoded}@127.0.0.1:99999")}),
        json!({"type": "amqp", "url": format!("amqp://{encoded}@127.0.0.1/a")}),
        json!({"type": "amqp", "url": format!("amqp://a:b@127.0.0.1/{encoded}/c")}),
        json!({"type": "amqp", "url": format!("amqp://a:b@127.0.0.1?heartbeat={encoded}")}),
        json!({"type": "amqp", "url": format!("amqp://a:b@127.0.0.1?auth_mechanism={encoded}")}),
        json!({"type": "amqp", "url": format!("amqps://a:b@127.0.0.1?verify={encoded}")}),
        json!({"type": "amqp", "url": format!("amqps://a:b@127.0.0.1?password={encoded}")}),
        json!({"type": "amqp", "url": "amqp://a:b@127.0.0.1", "properties": {"resourceAlarms": MARKER}}),
        json!({"type": "redis", "url": MARKER}),
        json!({"type": "redis", "url": format!("redis://probe:{MARKER}@127.0.0.1")}),
        json!({"type": "redis", "url": format!("redis://:{encoded}@127.0.0.1:99999")}),
        json!({"type": "redis", "url": format!("redis://127.0.0.1/{encoded}")}),
        json!({"type": "redis", "url": format!("redis://127.0.0.1?db={encoded}")}),
        json!({"type": "redis", "url": format!("ftp://:{encoded}@127.0.0.1")}),
        json!({"type": "mysql", "url": format!("a:{MARKER}@tcp(127.0.0.1:1)")}),
        json!({"type": "mysql", "url": format!("a:{MARKER}@cloudsql(127.0.0.1:1)/app")}),
        json!({"type": "mysql", "url": format!("mysql://a:{encoded}@127.0.0.1:port/app")}),
        json!({"type": "mysql", "url": format!("mysql://a:b@127.0.0.1:1/app?tls={encoded}")}),
        json!({"type": "mysql", "url": format!("mysql://a:b@127.0.0.1:1/app?timeout={encoded}")}),
        json!({"type": "mysql", "url": format!("mysql://127.0.0.1:1/app?password={encoded}")}),
        with(mysql.clone(), json!({"properties": {"tls": MARKER}})),
        with(mysql.clone(), json!({"properties": {"query": [MARKER]}})),
        with(mysql, json!({"clientCert": MARKER})),
        json!({"type": "http", "url": format!("http://[{MARKER}]/")}),
        json!({"type": "postgres", "url": format!("postgres://a:{MARKER}@127.0.0.1:1/app?sslmode={encoded}")}),
        json!({"type": "postgres", "url": format!("host=127.0.0.1 password='{MARKER}")}),
        json!({"type": "postgres", "url": format!("host=127.0.0.1 sslmode={encoded}")}),
        json!({"type": "postgres", "url": format!("postgres://a:{encoded}@127.0.0.1:port/app")}),
        json!({"type": "mongodb", "url": format!("mongodb://a:{MARKER}@127.0.0.1/app")}),
        json!({"type": "mongodb", "url": format!("mongodb://a:1/{MARKER}@127.0.0.1/app")}),
        json!({"type": "mongodb", "url": format!("mongodb://a:{encoded}@127.0.0.1:port/app")}),
        json!({"type": "mongodb", "url": format!("mongodb://a:b@127.0.0.1/?authMechanism={encoded}")}),
        json!({"type": "mongodb", "url": format!("mongodb://a:b@127.0.0.1/?authMechanismProperties={encoded}")}),
        json!({"type": "mongodb", "url": format!("mongodb://a:b@127.0.0.1/?tls=true&tlsCertificateKeyFilePassword={encoded}")}),
        json!({"type": "mongodb", "url": format!("mongodb://127.0.0.1/?readPreference={encoded}")}),
        json!({"type": "mongodb", "url": format!("mongodb://127.0.0.1/?connectTimeoutMS={encoded}")}),
        json!({"type": "mongodb", "url": format!("mongodb://127.0.0.1/{encoded}")}),
        json!({"type": "mongodb", "url": "mongodb://127.0.0.1/", "password": MARKER}),
        json!({"type": "mongodb", "url": "mongodb://127.0.0.1/", "properties": {"readPreference": MARKER}}),
        json!({"type": "mongodb", "url": "mongodb://127.0.0.1/", "properties": {"database": MARKER}}),
        json!({"type": "ldap", "url": format!("ldap://cn=a:{encoded}@127.0.0.1:port")}),
        json!({"type": "ldap", "url": format!("ldap://127.0.0.1/{encoded}")}),
        json!({"type": "ldap", "url": format!("ldap://127.0.0.1/dc=a?{encoded}")}),
        json!({"type": "ldap", "url": format!("ldap://127.0.0.1/dc=a??{encoded}")}),
        json!({"type": "ldap", "url": format!("ldap://127.0.0.1/dc=a???({encoded}")}),
        json!({"type": "ldap", "url": format!("ldap://127.0.0.1/dc=a????bindname=cn=a,x-bindpw={encoded}")}),
        json!({"type": "ldap", "url": format!("ldap://127.0.0.1/dc=a????{encoded}")}),
        json!({"type": "ldap", "url": "ldap://127.0.0.1", "password": MARKER}),
        json!({"type": "ldap", "url": "ldap://127.0.0.1", "username": format!("cn=a,{MARKER}"), "password": MARKER}),
        json!({"type": "ldap", "url": "ldap://127.0.0.1", "properties": {"baseDN": MARKER}}),
        json!({"type": "ldap", "url": "ldap://127.0.0.1", "properties": {"filter": format!("({MARKER}")}}),
        json!({"type": "ldap", "url": "ldap://127.0.0.1", "properties": {"auth": MARKER}}),
        json!({"type": "ldap", "url": "ldap://127.0.0.1", "properties": {"scope": MARKER}}),
        json!({"type": "mssql", "url": format!("sqlserver://a:{MARKER}@127.0.0.1:1?encrypt={encoded}")}),
        json!({"type": "mssql", "url": format!("sqlserver://a:b@127.0.0.1:1?encrypt={encoded}")}),
        json!({"type": "mssql", "url": format!("sqlserver://a:b@127.0.0.1/{encoded}")}),
        json!({"type": "mssql", "url": format!("Server=127.0.0.1;User Id=a;Password={MARKER};{MARKER}=1")}),
        json!({"type": "mssql", "url": format!("Server=127.0.0.1;User Id=a;Password=x;{MARKER}")}),
        json!({"type": "mssql", "url": format!("Server=127.0.0.1;User Id=a;Password=\"{MARKER}")}),
        json!({"type": "mssql", "url": format!("Server={MARKER};User Id=a;Password=x")}),
        json!({"type": "mssql", "url": format!("Server=127.0.0.1;User Id=a;Password=\"{MARKER}\";Packet Size={MARKER}")}),
        json!({"type": "mssql", "url": "sqlserver://a:b@127.0.0.1:1", "properties": {"encrypt": MARKER}}),
        with(spec.clone(), json!({"username": {"M4RK3R": MARKER}})),
        with(spec.clone(), json!({"password": [MARKER]})),
        with(spec.clone(), json!({"password": {"value": [MARKER]}})),
        with(spec.clone(), json!({"caCert": MARKER})),
        with(
            spec.clone(),
            json!({"clientCert": MARKER, "clientKey": MARKER}),
        ),
        with(spec.clone(), json!({"clientKey": MARKER})),
        with(spec.clone(), json!({"insecureSkipVerify": MARKER})),
        with(spec.clone(), json!({"properties": MARKER})),
        with(spec.clone(), json!({"properties": {"database": MARKER}})),
        with(spec.clone(), json!({"labels": [MARKER]})),
        with(
            spec,
            json!({"password": "$(pasword)", "url": format!("redis://:$(nothing){encoded}@h")}),
        ),
        with(http.clone(), json!({"properties": {"headers": MARKER}})),
        with(
            http.clone(),
            json!({"properties": {"headers": {"Bad Name": MARKER}}}),
        ),
        with(
            http.clone(),
            json!({"properties": {"headers": {"X-Good": format!("{MARKER}\nX-Evil: 1")}}}),
        ),
        with(
            http.clone(),
            json!({"properties": {"headers": [{"name": "A", "valeu": MARKER}]}}),
        ),
        with(
            http.clone(),
            json!({"properties": {"expectedStatus": MARKER}}),
        ),
        with(
            http.clone(),
            json!({"properties": {"bodyRegex": format!("({MARKER}")}}),
        ),
        with(http.clone(), json!({"properties": {"jsonPath": MARKER}})),
        with(http.clone(), json!({"properties": {"bearer": [MARKER]}})),
        with(http.clone(), json!({"properties": {"method": MARKER}})),
        with(http.clone(), json!({"properties": {"oauth": MARKER}})),
        with(
            http.clone(),
            json!({"properties": {"oauth": {"tokenURL": MARKER, "clientID": MARKER, "clientSecret": MARKER}}}),
        ),
        with(
            http,
            json!({"properties": {"bearer": MARKER, "followRedirects": MARKER}}),
        ),
        json!({"type": "elastic", "url": format!("https://u:{MARKER}@a,https://{MARKER}")}),
        json!({"type": "elastic", "url": format!("https://a.test:9200,b:{encoded}@h:port")}),
        json!({"type": "elastic", "url": "http://127.0.0.1:1", "properties": {"minimumStatus": MARKER}}),
        json!({"type": "prometheus", "url": format!("http://{MARKER}/")}),
        json!({"type": "prometheus", "url": format!("http://127.0.0.1:1/?query={encoded}")}),
        json!({"type": "webhook", "url": format!("http://[{MARKER}]/hook")}),
        with(webhook.clone(), json!({"properties": {"body": MARKER}})),
        with(
            webhook,
            json!({"properties": {"method": MARKER, "body": MARKER}}),
        ),
        json!({"type": "gcp", "url": format!("https://[{MARKER}]"), "password": "{}"}),
        json!({"type": "gcp", "url": format!("https://probe:{encoded}@a.test"), "password": google("a.test")["user"]}),
        json!({"type": "gcp", "username": MARKER, "password": google("a.test")["user"]}),
        json!({"type": "gcp", "password": MARKER}),
        json!({"type": "gcp", "password": "M4RK3R"}),
        json!({"type": "gcp", "password": google("a.test")["user"], "properties": {"project": MARKER}}),
        json!({"type": "gcp", "properties": {"credentials": format!("[\"{MARKER}\"]")}}),
        gcp(json!({"type": MARKER})),
        gcp(json!({"type": "service_account", "private_key": MARKER})),
        gcp(json!({"type": "authorized_user", "client_secret": [MARKER]})),
        gcp(json!({"type": "authorized_user", "universe_domain": MARKER})),
        gcp(
            json!({"type": "external_account", "audience": "a", "subject_token_type": "b", "credential_source": {"url": MARKER}}),
        ),
        gcp(
            json!({"type": "external_account", "audience": "a", "subject_token_type": "b", "credential_source": {"url": "http://a.test", "headers": {"A": format!("{MARKER}\n")}}}),
        ),
        gcp(
            json!({"type": "external_account", "audience": "a", "subject_token_type": "b", "credential_source": {"executable": {"command": format!("a '{MARKER}")}}}),
        ),
        json!({"type": "kubernetes", "url": format!("https://[{MARKER}]")}),
        json!({"type": "kubernetes", "url": format!("http://127.0.0.1:1/?token={encoded}")}),
        json!({"type": "kubernetes", "url": "http://127.0.0.1:1", "password": format!("{MARKER}\nX-Evil: 1")}),
        json!({"type": "kubernetes", "properties": {"server": MARKER}}),
        json!({"type": "kubernetes", "properties": {"inCluster": MARKER}}),
        kubernetes(format!("a: {MARKER}\n\t{MARKER}")),
        kubernetes(format!(
            "users:\n- name: a\n  user: {{token: [\"{MARKER}\"]}}"
        )),
        kubernetes(kubeconfig(
            &cluster,
            &json!({"token": format!("{MARKER}\nX-Evil: 1")}),
        )),
        kubernetes(kubeconfig(
            &cluster,
            &json!({"token": MARKER, "password": MARKER}),
        )),
        kubernetes(kubeconfig(
            &cluster,
            &json!({"client-key-data": MARKER, "client-certificate-data": MARKER}),
        )),
        kubernetes(kubeconfig(
            &cluster,
            &json!({"auth-provider": {"config": {"token": MARKER}}}),
        )),
        kubernetes(kubeconfig(
            &cluster,
            &json!({"exec": {"command": "x", "args": [MARKER]}}),
        )),
        kubernetes(kubeconfig(
            &json!({"server": format!("http://{MARKER}@127.0.0.1:x")}),
            &json!({}),
        )),
        kubernetes(kubeconfig(
            &json!({"server": "http://127.0.0.1:1", "proxy-url": MARKER}),
            &json!({}),
        )),
        json!({"type": "smtp", "url": format!("smtp://probe:{MARKER}@127.0.0.1")}),
        json!({"type": "smtp", "url": format!("lmtp://probe:{encoded}@127.0.0.1")}),
        json!({"type": "smtp", "url": format!("smtp://127.0.0.1/{encoded}")}),
        json!({"type": "smtp", "url": format!("smtp://127.0.0.1?auth={encoded}")}),
        json!({"type": "smtp", "url": format!("smtp://127.0.0.1?encryption={encoded}")}),
        json!({"type": "smtp", "url": format!("smtp://127.0.0.1?clientHost={encoded}")}),
        with(smtp.clone(), json!({"password": MARKER})),
        with(smtp.clone(), json!({"username": MARKER})),
        with(
            smtp.clone(),
            json!({"username": format!("\u{1}{MARKER}"), "password": "a"}),
        ),
        with(smtp.clone(), json!({"properties": {"auth": MARKER}})),
        with(smtp.clone(), json!({"properties": {"encryption": MARKER}})),
        with(smtp, json!({"properties": {"heloName": MARKER}})),
        with(azure.clone(), json!({"url": format!("https://[{MARKER}]")})),
        with(
            azure.clone(),
            json!({"url": format!("https://a:{encoded}@h.test/{encoded}/c")}),
        ),
        with(
            azure.clone(),
            json!({"url": format!("https://h.test/?token={encoded}")}),
        ),
        with(
            azure.clone(),
            json!({"url": format!("ftp://a:{encoded}@h.test")}),
        ),
        with(azure.clone(), json!({"username": "other"})),
        with(azure.clone(), json!({"clientCert": MARKER})),
        with(azure.clone(), json!({"properties": {"tenantID": MARKER}})),
        with(
            azure.clone(),
            json!({"properties": {"clientID": MARKER}, "username": "a"}),
        ),
        with(
            azure.clone(),
            json!({"properties": {"subscriptionID": MARKER}}),
        ),
        with(azure.clone(), json!({"properties": {"resource": MARKER}})),
        with(azure.clone(), json!({"properties": {"credential": MARKER}})),
        with(
            azure.clone(),
            json!({"properties": {"credential": "managedIdentity"}}),
        ),
        with(
            azure,
            json!({"properties": {"subscriptionID": SUBSCRIPTION, "managementEndpoint": MARKER}}),
        ),
        with(postgres.clone(), json!({"clientCert": MARKER})),
        with(postgres, json!({"properties": {"serverName": MARKER}})),
        // The legacy form.
        json!({"type": "redis", "url": {"value": [MARKER]}}),
        json!({"type": "redis", "url": {"value": "redis://a"}, "port": {"value": MARKER}}),
        json!({"type": "redis", "url": {"value": "redis://a"}, "insecure_tls": MARKER}),
        json!({"type": "redis", "url": {"value": "redis://a"}, "password": {"valueFrom": {"secretKeyRef": {"name": MARKER, "key": MARKER}}}}),
        json!({"type": "redis", "url": {"value": "redis://a"}, "password": {"valueFrom": {"helmRef": {"name": MARKER, "key": MARKER}}}}),
        json!({"type": "redis", "url": {"value": "redis://a"}, "password": format!("helm://{MARKER}")}),
        json!({"type": "redis", "url": {"value": "rediss://a"}, "certificate": {"value": MARKER}}),
        json!({"type": "kubernetes", "certificate": {"value": format!("a: {MARKER}\n\t{MARKER}")}}),
        json!({"type": "git", "url": {"value": MARKER}, "certificate": {"value": MARKER}}),
        // Blocks.
        json!({"postgres": MARKER}),
        json!({"postgres": [MARKER]}),
        json!({"postgres": {"url": {"value": format!("postgres://a:{MARKER}@127.0.0.1:1/app?sslmode={encoded}")}}}),
        json!({"postgres": {"host": format!("a:{MARKER}@127.0.0.1")}}),
        json!({"postgres": {"host": MARKER}}),
        json!({"postgres": {"host": format!("postgres://a:{MARKER}@127.0.0.1")}}),
        json!({"postgres": {"host": "a", "port": MARKER}}),
        json!({"postgres": {"host": "a", "insecureTLS": MARKER}}),
        json!({"postgres": {"host": "a", "password": {"M4RK3R": MARKER}}}),
        json!({"postgres": {"host": "a", "password": {"value": MARKER, "valueFrom": {"secretKeyRef": MARKER}}}}),
        json!({"postgres": {"host": "a", "password": "$(properties.host)"}, "password": MARKER}),
        json!({"postgres": {"url": format!("postgres://$(nothing){encoded}@h")}}),
        json!({"postgres": {"host": "a"}, "mysql": {"host": "b", "password": MARKER}}),
        json!({"slack": {"token": {"value": MARKER}}}),
        json!({"mssql": {"host": "a", "trustServerCertificate": MARKER}}),
        json!({"mongo": {"url": format!("mongodb://a:{encoded}@127.0.0.1/?replicaSet=x"), "replicaSet": MARKER}}),
        json!({"http": {"url": format!("http://[{MARKER}]/")}}),
        json!({"http": {"url": "http://a", "headers": MARKER}}),
        json!({"http": {"url": "http://a", "headers": [{"name": "Bad Name", "value": MARKER}]}}),
        json!({"http": {"url": "http://a", "headers": [{"name": "X", "value": format!("{MARKER}\nX-Evil: 1")}]}}),
        json!({"http": {"url": "http://a", "headers": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": MARKER}}}]}}),
        json!({"http": {"url": "http://a", "bearer": [MARKER]}}),
        json!({"http": {"url": "http://a", "oauth": MARKER}}),
        json!({"http": {"url": "http://a", "oauth": {"tokenURL": MARKER, "clientID": MARKER, "clientSecret": {"value": MARKER}}}}),
        json!({"http": {"url": "http://a", "tls": MARKER}}),
        json!({"http": {"url": "http://a", "tls": {"ca": {"value": MARKER}}}}),
        json!({"http": {"url": "http://a", "tls": {"cert": MARKER, "key": MARKER}}}),
        json!({"http": {"url": "http://a", "awsSigV4": {"service": [MARKER], "secretKey": {"value": [MARKER]}}}}),
        json!({"http": {"url": "http://a", "bearer": MARKER}, "properties": {"bearer": MARKER}}),
        json!({"opensearch": {"urls": [format!("http://a:{MARKER}@b"), "secret://a/b"]}}),
        json!({"smtp": {"host": "a", "encryption": MARKER}}),
        json!({"kubernetes": {"certificate": {"value": format!("a: {MARKER}\n\t{MARKER}")}}}),
        json!({"kubernetes": {"certificate": MARKER, "kubeconfig": MARKER}}),
        json!({"kubernetes": {"eks": {"secretKey": {"value": MARKER}}}}),
        json!({"aws": {"secretKey": [MARKER]}}),
        json!({"azure": {"clientSecret": {"value": [MARKER]}}}),
        json!({"gcp": {"credentials": {"value": [MARKER]}}}),
        json!({"gcp": {"credentials": MARKER}}),
        json!({"type": "gcp", "certificate": {"value": "M4RK3R"}}),
    ];
    let count = specs.len();
    let mut documents: Vec<Value> = specs
        .into_iter()
        .enumerate()
        .map(|(index, spec)| document(&format!("c{index}"), spec))
        .collect();
    documents.push(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bad"}, "data": {"password": MARKER}}));
    let role = "role_arn = arn:aws:iam::123456789012:role/a";
    documents.push(secret(
        "aws",
        json!({
            "line": MARKER,
            "section": format!("[{MARKER}"),
            "half": "[default]\naws_access_key_id = M4RK3R-id",
            "role": format!("[default]\nrole_arn = {MARKER}\ncredential_source = Environment"),
            "source": format!("[default]\n{role}\nsource_profile = {MARKER}"),
            "program": "[default]\ncredential_process = 'M4RK3R",
            "region": format!("[default]\naws_access_key_id = M4RK3R-id\naws_secret_access_key = M4RK3R-secret\nregion = {MARKER}"),
        }),
    ));
    documents.push(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "worse"}, "stringData": MARKER}));
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("a.yaml"), &documents);
    std::fs::write(
        dir.path().join("b.yaml"),
        format!("kind: Connection\nspec:\n  password: \"{MARKER}\n"),
    )
    .unwrap();
    std::fs::write(
        dir.path().join("c.yaml"),
        format!("kind: Connection\npassword: {MARKER}: x\n\t{MARKER}\n"),
    )
    .unwrap();
    let path = dir.path().to_str().unwrap();
    for args in [
        &["--check-config", path][..],
        &["--check-config", "--output", "json", path],
        &[
            "--check-once",
            "--timeout",
            "300ms",
            "--log-level",
            "trace",
            path,
        ],
        &[
            "--check-once",
            "--output",
            "json",
            "--timeout",
            "300ms",
            path,
        ],
    ] {
        let output = conncheck(args).output().unwrap();
        assert_eq!(code(&output), 2);
        assert_clean("the report", &text(&output.stdout));
        assert_clean("the log", &text(&output.stderr));
    }
    let output = conncheck(&["--check-config", path]).output().unwrap();
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    let told = |name: &str| said.contains(&format!("connection `{name}`"));
    let silent: Vec<String> = (0..count)
        .map(|index| format!("c{index}"))
        .filter(|name| !told(name))
        .collect();
    assert!(
        silent.is_empty(),
        "no mistake was seen in {silent:?}:\n{said}"
    );
}
