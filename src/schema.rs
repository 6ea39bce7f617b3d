//! `--schema`: how definitions are written, as a JSON Schema, for editors and pipelines.

use std::io::{self, Write};

use conncheck_config::TypeWords;
use conncheck_probes::types;
use serde_json::{Map, Value, json};

/// Writes the schema.
pub fn write(out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, &schema())?;
    writeln!(out)
}

/// The schema of one document, with the settings of every type of this build.
pub fn schema() -> Value {
    let words: Vec<TypeWords<'_>> = types::all()
        .iter()
        .map(|info| TypeWords {
            name: info.name,
            aliases: info.aliases,
            url_schemes: info.url_schemes,
            secret_keys: info.secret_keys,
            properties: info.settings_schema(),
        })
        .collect();
    conncheck_config::schema(&words, "conncheck/", annotations())
}

/// The annotations that `target` reads.
fn annotations() -> Map<String, Value> {
    let duration = |description: &str, example: &str| {
        json!({
            "description": description,
            "type": "string",
            "pattern": r"^\s*([0-9]+\s*[a-zA-Zµ]+\s*)+$",
            "patternErrorMessage": "A duration has a unit: 30s, 1m30s.",
            "examples": [example],
        })
    };
    [
        (
            "conncheck/interval",
            duration("How often it is attempted, from 1s to a week.", "30s"),
        ),
        (
            "conncheck/timeout",
            duration("How long an attempt may take, from 1ms to an hour.", "10s"),
        ),
        (
            "conncheck/paused",
            json!({
                "description": "Listed, and not attempted.",
                "type": ["boolean", "string"],
                "pattern": r"^\s*(true|false)\s*$",
                "examples": ["true"],
            }),
        ),
    ]
    .map(|(name, schema)| (name.to_owned(), schema))
    .into_iter()
    .collect()
}

#[cfg(test)]
#[cfg(feature = "all")]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use std::time::Duration;

    use boon::{Compiler, Draft, SchemaIndex, Schemas};
    use conncheck_config::{
        Connection, Found, Loader, Lookup, NotFound, RefKind, Secret, Trust, read_one,
    };
    use conncheck_probes::Files;
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};

    use super::*;
    use crate::cli::Rules;
    use crate::target::{self, ANNOTATIONS};

    /// What the schema cannot see, and why.
    const UNSEEN: &[(&str, &str)] = &[
        ("api-version-missing.yaml", WARNING),
        ("api-version-other.yaml", WARNING),
        ("block-and-password-beside-it.yaml", TOGETHER),
        ("block-certificate-twice.yaml", TOGETHER),
        ("block-empty.yaml", TOGETHER),
        (
            "block-header-without-key.yaml",
            "what a value among settings is made of",
        ),
        ("block-host-is-a-url.yaml", URL),
        ("block-host-names-itself.yaml", TEMPLATE),
        ("block-host-with-bad-port.yaml", URL),
        ("block-host-with-database.yaml", URL),
        ("block-host-with-user.yaml", URL),
        ("block-neither-url-nor-host.yaml", TOGETHER),
        ("block-no-url.yaml", TOGETHER),
        ("block-ntlm.yaml", "a switch may be off"),
        ("block-port-contradicts.yaml", TOGETHER),
        ("block-port-is-a-name.yaml", "what a number is made of"),
        ("block-property-twice.yaml", TOGETHER),
        ("block-replica-set-beside-reference.yaml", TOGETHER),
        ("block-replica-set-twice.yaml", TOGETHER),
        ("block-switches-disagree.yaml", TOGETHER),
        ("block-template-misspelt.yaml", TEMPLATE),
        ("block-template-without-password.yaml", TEMPLATE),
        ("block-two-kubeconfigs.yaml", TOGETHER),
        ("block-url-and-database.yaml", TOGETHER),
        ("block-url-and-host.yaml", TOGETHER),
        ("block-urls-with-a-reference.yaml", TOGETHER),
        ("duplicate-identity.yaml", "it sees one document at a time"),
        ("duplicate-secret.yaml", WARNING),
        ("helm-in-quotes.yaml", TEMPLATE),
        ("legacy-insecure-tls-contradicts.yaml", TOGETHER),
        ("legacy-port-contradicts.yaml", TOGETHER),
        ("legacy-port-has-no-place.yaml", URL),
        ("legacy-port-without-url.yaml", TOGETHER),
        ("legacy-two-certificates.yaml", TOGETHER),
        (
            "reference-in-properties.yaml",
            "a setting's text may be anything",
        ),
        (
            "reference-inside-text.yaml",
            "what it looks like inside of a text",
        ),
        (
            "reference-of-a-service-account.yaml",
            "a setting's text may be anything",
        ),
        ("remote/env-reference-in-properties.yaml", ORIGIN),
        ("remote/file-reference.yaml", ORIGIN),
        ("secret-encrypted-by-sops.yaml", WARNING),
        ("template-circle.yaml", TEMPLATE),
        ("template-misspelt.yaml", TEMPLATE),
        ("template-nothing-to-fill.yaml", TEMPLATE),
        ("template-of-itself.yaml", TEMPLATE),
        ("template-property-is-a-mapping.yaml", TEMPLATE),
        ("template-property-missing.yaml", TEMPLATE),
        ("template-property-misspelt.yaml", TEMPLATE),
        ("template-unknown.yaml", TEMPLATE),
        ("types/amqp-unknown-option.yaml", URL),
        ("types/amqp-vhost-of-two-segments.yaml", URL),
        ("types/aws-access-key-alone.yaml", TOGETHER),
        ("types/aws-bare-keys-as-a-file.yaml", FILE),
        ("types/aws-endpoint-and-url.yaml", TOGETHER),
        ("types/aws-endpoint-without-scheme.yaml", URL),
        ("types/aws-keys-and-profile.yaml", TOGETHER),
        ("types/aws-keys-twice.yaml", TOGETHER),
        ("types/aws-options-in-the-url.yaml", URL),
        ("types/aws-profile-that-is-not-there.yaml", FILE),
        ("types/aws-region-is-a-place.yaml", REGION),
        ("types/aws-region-is-a-zone.yaml", REGION),
        ("types/aws-region-misspelt.yaml", REGION),
        (
            "types/aws-role-session-with-blanks.yaml",
            "what a name is made of",
        ),
        ("types/aws-secret-key-alone-in-a-block.yaml", TOGETHER),
        ("types/aws-secret-key-alone.yaml", TOGETHER),
        (
            "types/aws-secret-key-with-blanks.yaml",
            "what a key is made of",
        ),
        ("types/aws-session-token-alone.yaml", TOGETHER),
        ("types/aws-single-sign-on.yaml", FILE),
        ("types/bad-json-path.yaml", "what an expression is made of"),
        ("types/bad-pem.yaml", "what a certificate is made of"),
        ("types/bad-regex.yaml", "what an expression is made of"),
        ("types/bad-url-postgres.yaml", URL),
        ("types/block-bad-ca.yaml", "what a certificate is made of"),
        (
            "types/block-cert-without-key.yaml",
            "the key may stand in the PEM of the certificate",
        ),
        ("types/block-headers-are-text.yaml", JSON),
        ("types/block-of-other-type.yaml", TOGETHER),
        ("types/block-unknown-option.yaml", URL),
        ("types/block-url-without-scheme.yaml", URL),
        (
            "types/cert-without-key.yaml",
            "the key may stand in the PEM of the certificate",
        ),
        ("types/elastic-urls-in-short.yaml", URL),
        (
            "types/gcp-bare-key.yaml",
            "what a key of a service account is made of",
        ),
        (
            "types/gcp-x509-federation.yaml",
            "what a key of a service account is made of",
        ),
        ("types/jdbc-url-mysql.yaml", URL),
        (
            "types/kubernetes-unknown-context.yaml",
            "what a kubeconfig is made of",
        ),
        ("types/legacy-auth-twice.yaml", TOGETHER),
        ("types/legacy-ca-beside-certificate.yaml", TOGETHER),
        ("types/legacy-database-is-another.yaml", URL),
        ("types/legacy-endpoint-is-another.yaml", TOGETHER),
        ("types/legacy-header-misspelt.yaml", JSON),
        ("types/legacy-headers-are-no-json.yaml", JSON),
        ("types/legacy-host-is-another.yaml", URL),
        ("types/legacy-host-without-url.yaml", TOGETHER),
        (
            "types/legacy-insecure-tls-within-contradicts.yaml",
            TOGETHER,
        ),
        ("types/legacy-ntlm.yaml", "a switch may be off"),
        ("types/legacy-oauth-twice.yaml", TOGETHER),
        ("types/legacy-oauth-with-a-bad-url.yaml", URL),
        ("types/legacy-oauth-without-token-url.yaml", TOGETHER),
        ("types/legacy-port-within-contradicts.yaml", TOGETHER),
        ("types/legacy-replica-set-is-another.yaml", URL),
        (
            "types/legacy-several-scopes.yaml",
            "how many there are in a text",
        ),
        ("types/legacy-tenant-in-block-and-properties.yaml", TOGETHER),
        (
            "types/legacy-tenant-is-a-url.yaml",
            "what a tenant is made of",
        ),
        ("types/legacy-tenant-twice.yaml", TOGETHER),
        ("types/legacy-urls-disagree.yaml", TOGETHER),
        ("types/prometheus-query-in-url.yaml", URL),
        ("types/smtp-encryption-contradicts-scheme.yaml", URL),
        (
            "types/smtp-login-without-username.yaml",
            "what a way of logging in needs",
        ),
        ("types/unknown-libpq-option.yaml", URL),
        ("types/unknown-sslmode.yaml", URL),
        ("types/webhook-header-in-a-shoutrrr-url.yaml", URL),
    ];
    const FILE: &str = "what a file in a secret is made of";
    const REGION: &str = "what a region is called";
    const JSON: &str = "what is written as JSON in a text";
    const TOGETHER: &str = "what does not go together";
    const WARNING: &str = "it is taken, with a warning";
    const TEMPLATE: &str = "what a template names";
    const ORIGIN: &str = "where the definition came from";
    const URL: &str = "what a URL is made of";

    struct Judge {
        schemas: Schemas,
        index: SchemaIndex,
    }

    impl Judge {
        fn new() -> Self {
            let mut schemas = Schemas::new();
            let mut compiler = Compiler::new();
            compiler.set_default_draft(Draft::V7);
            compiler.add_resource("conncheck.json", schema()).unwrap();
            let index = compiler.compile("conncheck.json", &mut schemas).unwrap();
            Self { schemas, index }
        }

        /// What is wrong with the documents of `text`, as an editor would say.
        fn complaints(&self, text: &str) -> Vec<String> {
            let mut complaints = Vec::new();
            for document in text.split("\n---") {
                // The `---` of the first, and what stands behind that of another.
                let document = document.strip_prefix("---").unwrap_or(document);
                match read_one::<Value>("a.yaml", document) {
                    Ok(value) => {
                        let res = self.schemas.validate(&value, self.index);
                        complaints.extend(res.err().map(|error| format!("{error:#}")));
                    }
                    Err(errors) => {
                        complaints.extend(errors.iter().map(|error| format!("no YAML: {error}")));
                    }
                }
            }
            complaints
        }

        #[track_caller]
        fn takes(&self, text: &str) {
            let complaints = self.complaints(text);
            assert!(complaints.is_empty(), "{text}\n{}", complaints.join("\n"));
        }
    }

    fn root() -> PathBuf {
        env!("CARGO_MANIFEST_DIR").into()
    }

    /// Every YAML file below `folder`.
    fn files(folder: &str) -> Vec<(String, String)> {
        fn collect(folder: &Path, into: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => collect(&path, into),
                    false if path.extension().is_some_and(|ext| ext == "yaml") => into.push(path),
                    false => {}
                }
            }
        }
        let mut paths = Vec::new();
        let folder = root().join(folder);
        collect(&folder, &mut paths);
        paths.sort();
        let name = |path: &Path| path.strip_prefix(&folder).unwrap().display().to_string();
        (paths.iter())
            .map(|path| (name(path), fs::read_to_string(path).unwrap()))
            .collect()
    }

    #[test]
    fn the_samples_and_the_readme_are_taken() {
        let judge = Judge::new();
        for (name, text) in files("config/samples") {
            if name.ends_with("cloud-provider.yaml") && types::find("aws").is_err() {
                continue;
            }
            let complaints = judge.complaints(&text);
            assert!(complaints.is_empty(), "{name}: {}", complaints.join("\n"));
        }
        let readme = fs::read_to_string(root().join("README.md")).unwrap();
        for block in readme.split("```yaml\n").skip(1) {
            let block = block.split("```").next().unwrap();
            if block.contains("kind: Connection") {
                judge.takes(block);
            }
        }
        // The forms of a `spec`, each the last cell of its row.
        let section = readme.split("### Every form of a manifest").nth(1).unwrap();
        let rows = section.lines().filter(|line| line.starts_with("| "));
        let cells = rows.filter_map(|row| row.trim_end_matches([' ', '|']).rsplit(" | ").next());
        let specs = cells.filter(|cell| cell.starts_with("`{"));
        let mut count = 0;
        for spec in specs {
            judge.takes(&definition(spec.trim_matches('`')));
            count += 1;
        }
        assert!(count >= 45, "{count}");
    }

    #[test]
    fn what_the_loader_refuses_is_marked() {
        let judge = Judge::new();
        let mut unseen: Vec<String> = Vec::new();
        for (name, text) in files("config/testdata/invalid") {
            if judge.complaints(&text).is_empty() {
                unseen.push(name);
            }
        }
        let listed: Vec<&str> = UNSEEN.iter().map(|(name, _)| *name).collect();
        assert_eq!(unseen, listed, "what is unseen, and what is said to be");
    }

    /// A definition, with `spec` in it.
    fn definition(spec: &str) -> String {
        format!("kind: Connection\nmetadata: {{name: a}}\nspec: {spec}\n")
    }

    #[test]
    fn a_value_may_be_written_in_many_ways() {
        let judge = Judge::new();
        for spec in [
            "{url: 'redis://h', properties: {database: 3}}",
            "{url: {value: 'redis://h'}, properties: {database: '3'}}",
            "{type: Valkey, url: secret://a/url, properties: {database: env://DB}}",
            "{type: ' REDIS ', url: {valueFrom: {secretKeyRef: {name: a, key: url}}}}",
            "{type: amqp, url: 'amqp://h', username: 1, password: true, properties: null}",
            "{type: http, url: 'http://h', properties: {headers: {A: 1}, expectedStatus: [200, 3xx]}}",
            "{type: http, url: 'http://h', properties: {headers: [{name: A, value: b}], method: get}}",
            "{type: mysql, url: 'mysql://h', properties: {tls: VERIFY_CA, insecureSkipVerify: 'true'}}",
            "{type: mssql, url: 'mssql://h', properties: {encrypt: false}}",
            "{type: aws, properties: {assumeRole: {roleArn: 'arn:aws:iam::1:role/r', externalId: x}}}",
            "{http: {url: 'http://h', headers: '[{\"name\": \"A\", \"value\": \"b\"}]', awsSigV4: secret://a/b}}",
            "{prometheus: {url: 'http://h', headers: secret://a/headers}}",
            "{type: http, url: 'http://h', properties: {oauth: {tokenUrl: 'https://t', clientId: a, scopes: [b]}}}",
        ] {
            judge.takes(&definition(spec));
        }
        for spec in [
            "{url: 'gopher://h'}",
            "{type: redis, url: secret://a}",
            "{type: redis, url: {value: a, valueFrom: {secretKeyRef: {name: a, key: b}}}}",
            "{type: redis, url: h, properties: {database: three}}",
            "{url: 'redis://h', properties: {databse: 3}}",
            "{type: redis, url: h, properties: {database: -1}}",
            "{type: mysql, url: h, properties: {tls: off-and-on}}",
        ] {
            let text = definition(spec);
            assert!(!judge.complaints(&text).is_empty(), "{text}");
        }
    }

    #[test]
    fn other_peoples_documents_are_none_of_our_business() {
        let judge = Judge::new();
        for text in [
            "",
            "kind: ScrapeConfig\napiVersion: monitoring.coreos.com/v1alpha1\nspec: {type: 3}",
            "kind: Collection\napiVersion: other.io/v1\nspec: []",
            "kind: Secret\nmetadata: {name: a}\nsops: {}\nwhatever: 1",
            "kind: List\nitems: [{kind: Deployment, spec: 1}]",
        ] {
            judge.takes(text);
        }
        let list =
            |kind: &str| format!("kind: {kind}\nitems: [{{metadata: {{name: a}}, spec: {{}}}}]");
        assert!(!judge.complaints(&list("ConnectionList")).is_empty());
        assert!(!judge.complaints(&list("List")).is_empty());
    }

    /// Whether the loader, and the settings of the type, take every document of `text`.
    fn is_loaded(text: &str) -> bool {
        let mut loader = Loader::default();
        loader.add("a.yaml", text, Trust::Local);
        let loaded = loader.finish();
        let is_right = |connection: &Connection| {
            let Ok(ty) = target::type_of(connection) else {
                return false;
            };
            let annotated = target::plan_of(connection, ty, &rules()).is_ok();
            let Ok(connection) = connection.clone().of_type(ty.name) else {
                return false;
            };
            let partial = ty.resolve_partly(&connection);
            let mut mistakes = match partial.url_is_known {
                true => (ty.build(&partial.resolved, &NoFiles).err()).unwrap_or_default(),
                false => ty.check_settings(&partial.resolved),
            };
            mistakes.retain(|mistake| !partial.is_unknown_at(&mistake.place));
            // A reference in place of a mapping is found out when it is read.
            let resolved = ty.resolve(&connection, &Ones);
            let settled = resolved.is_ok_and(|resolved| match partial.url_is_known {
                true => ty.build(&resolved, &NoFiles).is_ok(),
                false => ty.check_settings(&resolved).is_empty(),
            });
            annotated && settled && mistakes.is_empty()
        };
        loaded.errors.is_empty() && loaded.connections.iter().all(is_right)
    }

    /// Whatever is looked for is there, and is 1.
    struct Ones;

    impl Lookup for Ones {
        fn find(&self, _: RefKind, _: &str, _: &str, keys: &[&str]) -> Result<Found, NotFound> {
            Ok(Found {
                source: "test".to_owned(),
                values: keys
                    .iter()
                    .map(|key| ((*key).to_owned(), Secret::new("1")))
                    .collect(),
            })
        }

        fn file(&self, _: &str) -> Result<Secret, NotFound> {
            Ok(Secret::new("1"))
        }

        fn env(&self, _: &str) -> Result<Secret, NotFound> {
            Ok(Secret::new("1"))
        }
    }

    struct NoFiles;

    impl Files for NoFiles {
        fn read(&self, _: &str) -> Result<Secret, String> {
            Err("there are none".to_owned())
        }
    }

    fn rules() -> Rules {
        Rules {
            interval: Duration::from_secs(30),
            timeout: None,
            rise: 1,
            fall: 1,
            overrides: Vec::new(),
        }
    }

    /// Something that somebody may have meant to write.
    fn other_value() -> impl Strategy<Value = Value> {
        prop::sample::select(vec![
            json!(null),
            json!(true),
            json!("true"),
            json!("TRUE"),
            json!("yes"),
            json!(0),
            json!(200),
            json!(-1),
            json!(1.5),
            json!("0x1F"),
            json!(""),
            json!("x"),
            json!("2xx"),
            json!("30s"),
            json!("secret://a/b"),
            json!("secret://a"),
            json!("env://A"),
            json!("$(name)"),
            json!("https://h"),
            json!("redis"),
            json!("Postgres"),
            json!("explicittls"),
            json!([]),
            json!([1]),
            json!(["x"]),
            json!({}),
            json!({ "value": "x" }),
            json!({ "value": 1, "valueFrom": {} }),
            json!({ "valueFrom": { "secretKeyRef": { "name": "a", "key": "b" } } }),
            json!({ "name": "a" }),
            json!({ "name": "A" }),
            json!([{ "name": "A", "value": 1 }]),
            json!(r#"[{ "name": "A", "value": "b" }]"#),
            json!(" "),
            json!({ "a": "b", "c": 1 }),
            json!({ "tokenURL": "https://h", "scope": ["a"] }),
        ])
    }

    fn other_key() -> impl Strategy<Value = String> {
        let mut keys: Vec<String> = [
            "type",
            "url",
            "username",
            "password",
            "secretRef",
            "caCert",
            "clientKey",
            "name",
            "key",
            "namespace",
            "labels",
            "annotations",
            "conncheck/interval",
            "conncheck/paused",
            "kind",
            "insecureSkipVerify",
            "properties",
            "description",
            "value",
            "valueFrom",
            "items",
            "data",
            "conncheck/x",
            "sops",
        ]
        .map(str::to_owned)
        .into();
        for info in types::all() {
            let schema = info.settings_schema().map(Value::from).unwrap_or_default();
            let settings = schema["properties"].as_object();
            keys.extend(settings.into_iter().flat_map(Map::keys).cloned());
        }
        for legacy in conncheck_config::legacy() {
            keys.extend(legacy.properties.into_iter().map(str::to_owned));
        }
        prop::sample::select(keys)
    }

    /// Replaces, removes, renames or adds something at the `at`th place of `value`.
    fn change(value: &mut Value, at: &mut usize, how: u8, other: &Value, key: &str) {
        if *at == 0 {
            match (how, &mut *value) {
                (0, Value::Object(fields)) => {
                    fields.insert(key.to_owned(), other.clone());
                }
                (1, Value::Object(fields)) => {
                    let first = fields.keys().next().cloned();
                    first.and_then(|first| fields.remove(&first));
                }
                (2, Value::Object(fields)) => {
                    let last = fields.keys().next_back().cloned();
                    if let Some(value) = last.and_then(|last| fields.remove(&last)) {
                        fields.insert(key.to_owned(), value);
                    }
                }
                (3, Value::Array(items)) => items.push(other.clone()),
                _ => *value = other.clone(),
            }
            *at = usize::MAX;
            return;
        }
        *at -= 1;
        let children: Vec<&mut Value> = match value {
            Value::Object(fields) => fields.values_mut().collect(),
            Value::Array(items) => items.iter_mut().collect(),
            _ => Vec::new(),
        };
        for child in children {
            if *at == usize::MAX {
                return;
            }
            change(child, at, how, other, key);
        }
    }

    fn documents() -> Vec<Value> {
        let samples = files("config/samples").into_iter();
        let texts = samples.flat_map(|(_, text)| {
            let documents = text
                .split("\n---")
                .map(|text| text.trim_start_matches("---").to_owned());
            documents.collect::<Vec<_>>()
        });
        let values = texts.map(|text| read_one::<Value>("a.yaml", &text).unwrap());
        values.filter(|value| value.is_object()).collect()
    }

    /// What the schema refuses, the loader refuses: it marks nothing that is right.
    #[test]
    fn nothing_that_is_loaded_is_marked() {
        let judge = Judge::new();
        let documents = documents();
        let changes =
            prop::collection::vec((0..40_usize, 0..5_u8, other_value(), other_key()), 0..3);
        let strategy = (0..documents.len(), changes);
        let mut runner = TestRunner::new(Config::with_cases(3000));
        runner
            .run(&strategy, |(index, changes)| {
                let mut document = documents[index].clone();
                for (at, how, other, key) in changes {
                    let mut at = at;
                    change(&mut document, &mut at, how, &other, &key);
                }
                let text = document.to_string();
                if is_loaded(&text) {
                    let complaints = judge.complaints(&text);
                    prop_assert!(complaints.is_empty(), "{text}\n{}", complaints.join("\n"));
                }
                Ok(())
            })
            .unwrap();
    }

    #[test]
    fn the_annotations_are_those_that_are_read() {
        let mut known = ANNOTATIONS.map(str::to_owned);
        known.sort();
        assert!(annotations().keys().eq(known.iter()));
    }
}
