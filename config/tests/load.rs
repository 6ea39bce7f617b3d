//! What loads, and as what.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::disallowed_types,
    reason = "a test panics, and its clock is a real one"
)]

use std::path::Path;

use conncheck_config::{Field, Loaded, Loader, RefKind, Trust, read_one};

fn load(text: &str) -> Loaded {
    let mut loader = Loader::default();
    loader.add("test.yaml", text, Trust::Local);
    loader.finish()
}

/// Loads `text` and says it in one line per thing, places left out.
#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let loaded = load(text);
    let mut said: Vec<String> = Vec::new();
    said.extend(loaded.connections.iter().map(|c| c.id.to_string()));
    said.extend(
        loaded
            .passed_over
            .iter()
            .map(|p| format!("passed over {}", p.kind)),
    );
    said.extend(
        loaded
            .warnings
            .iter()
            .map(|w| format!("warning: {}", w.message)),
    );
    said.extend(
        loaded
            .errors
            .iter()
            .map(|e| format!("error: {}", e.message)),
    );
    assert_eq!(said, expected, "{:#?}", loaded.errors);
}

const REDIS: &str = "apiVersion: mission-control.flanksource.com/v1
kind: Connection
metadata: {name: cache}
spec: {type: redis, url: redis://cache.example.com}
";

#[test]
fn every_sample_loads_without_a_word() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples");
    let mut count = 0;
    for folder in [samples.clone(), samples.join("reference")] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let loaded = load(&text);
            assert_eq!(loaded.errors, [], "{}", path.display());
            assert_eq!(loaded.warnings, [], "{}", path.display());
            assert_eq!(loaded.connections.len(), 1, "{}", path.display());
            // Each brings its secret along.
            let connection = &loaded.connections[0];
            let named = connection.type_name.as_ref().or(connection.block.as_ref());
            let type_name = &named.unwrap().value;
            let lookup = Documents(&loaded);
            connection
                .resolve(type_name, &[], &lookup)
                .unwrap_or_else(|unresolved| panic!("{}: {unresolved:?}", path.display()));
            count += 1;
        }
    }
    assert!(count >= 8, "{count} samples");
}

struct Documents<'a>(&'a Loaded);

impl conncheck_config::Lookup for Documents<'_> {
    fn find(
        &self,
        kind: RefKind,
        namespace: &str,
        name: &str,
        _: &[&str],
    ) -> Result<conncheck_config::Found, conncheck_config::NotFound> {
        let found = self.0.documents.find(kind, namespace, name);
        found.ok_or_else(conncheck_config::NotFound::default)
    }

    fn file(&self, _: &str) -> Result<conncheck_config::Secret, conncheck_config::NotFound> {
        Err(conncheck_config::NotFound::default())
    }

    fn env(&self, _: &str) -> Result<conncheck_config::Secret, conncheck_config::NotFound> {
        Err(conncheck_config::NotFound::default())
    }
}

#[test]
fn a_connection_has_its_fields_and_places() {
    let text = "apiVersion: mission-control.flanksource.com/v1
kind: Connection
metadata:
  name: production-db
  namespace: shop
  labels: {tier: cache, team: 7}
  annotations:
    conncheck/interval: 30s
  creationTimestamp: null
  managedFields: [{manager: kubectl}]
spec:
  type: Postgres
  name: Production
  description: 123
  icon: postgres
  url: POSTGRES://db.example.com
  labels: {tier: database, blue: true}
status: {ref: x}
";
    let loaded = load(text);
    assert_eq!(loaded.errors, []);
    let connection = &loaded.connections[0];
    assert_eq!(connection.id.to_string(), "shop/production-db");
    assert_eq!(connection.place.to_string(), "test.yaml:4:9");
    assert_eq!(connection.type_name.as_ref().unwrap().value, "Postgres");
    assert_eq!(
        connection.type_name.as_ref().unwrap().place.to_string(),
        "test.yaml:12:9"
    );
    assert_eq!(connection.display_name.as_deref(), Some("Production"));
    assert_eq!(connection.description.as_deref(), Some("123"));
    assert_eq!(connection.icon.as_deref(), Some("postgres"));
    assert_eq!(connection.url_scheme().as_deref(), Some("postgres"));
    assert!(!connection.needs_lookup());
    let labels: Vec<_> = connection
        .labels
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    assert_eq!(labels, ["blue=true", "team=7", "tier=database"]);
    let interval = &connection.annotations["conncheck/interval"];
    assert_eq!(interval.value, "30s");
    assert_eq!(interval.place.to_string(), "test.yaml:8:25");
    let partial = connection.resolve_partly("postgres", &[]);
    assert!(partial.url_is_known);
    assert_eq!(
        partial.resolved.place_of(Field::Url).to_string(),
        "test.yaml:16:8"
    );
    // Nothing was said about it, so the connection stands in.
    assert_eq!(
        partial.resolved.place_of(Field::Password).to_string(),
        "test.yaml:4:9"
    );
}

#[test]
fn other_kinds_are_passed_over_with_all_that_is_wrong_in_them() {
    check(
        &format!(
            "{REDIS}---\napiVersion: apps/v1\nkind: Deployment\na: 1\na: 2\nb: *none\nc: !Ref x\n[x]: y\n"
        ),
        &["default/cache", "passed over Deployment"],
    );
    // Similar names of other people's.
    check(
        "apiVersion: kabanero.io/v1\nkind: Collection\n",
        &["passed over Collection"],
    );
    check(
        "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nspec: {x: '{{ $labels.a }} {{ .Value }}'}\n",
        &["passed over PrometheusRule"],
    );
}

#[test]
fn empty_documents_comments_marks_and_line_ends_do_not_matter() {
    check("", &[]);
    check("\u{feff}", &[]);
    check("---\n---\n# nothing\n---\n...\n", &[]);
    check("{}", &[]);
    check(
        &format!("\u{feff}# first\n\n---\n{REDIS}---\n"),
        &["default/cache"],
    );
    check(&REDIS.replace('\n', "\r\n"), &["default/cache"]);
    check(&format!("%YAML 1.2\n---\n{REDIS}"), &["default/cache"]);
}

#[test]
fn json_is_yaml() {
    let json = |name: &str| {
        format!(
            r#"{{"apiVersion": "mission-control.flanksource.com/v1", "kind": "Connection",
	"metadata": {{"name": "{name}"}}, "spec": {{"type": "redis", "url": "redis:\/\/h", "description": "\ud83d\ude00"}}}}"#
        )
    };
    check(&json("a"), &["default/a"]);
    check(
        &format!(
            r#"{{"apiVersion": "v1", "kind": "List", "items": [{}, {}]}}"#,
            json("a"),
            json("b")
        ),
        &["default/a", "default/b"],
    );
    check(
        &format!(
            r#"{{"apiVersion": "x/v1", "kind": "ConnectionList", "metadata": {{"resourceVersion": "1"}}, "items": [{}]}}"#,
            json("a")
        ),
        &["default/a"],
    );
}

#[test]
fn json_lines() {
    let json = |name: &str| {
        format!(
            r#"{{"apiVersion": "mission-control.flanksource.com/v1", "kind": "Connection", "metadata": {{"name": "{name}"}}, "spec": {{"type": "redis", "url": "redis://h"}}}}"#
        )
    };
    check(
        &format!("{}\n{}\n{}\n", json("a"), json("b"), json("c")),
        &["default/a", "default/b", "default/c"],
    );
}

#[test]
fn a_typed_list_need_not_repeat_the_kind() {
    check(
        "kind: ConnectionList\nitems:\n- apiVersion: mission-control.flanksource.com/v1\n  metadata: {name: a}\n  spec: {type: redis, url: redis://h}\n",
        &["default/a"],
    );
    check(
        "kind: List\nitems:\n- metadata: {name: a}\n",
        &["error: a document without `kind`"],
    );
}

#[test]
fn one_bad_document_does_not_hide_the_others() {
    let good = |name: &str| REDIS.replace("cache}", &format!("{name}}}"));
    let text = [
        good("a"),
        "kind: Connection\nspec: [\n".into(),
        good("b"),
        "a: 'unclosed\n".into(),
        good("c"),
        "a: b: c\n".into(),
        "\t- x\n".into(),
        good("d"),
        "x: ]\n".into(),
        format!("x: {}\n", "[".repeat(200)),
        good("e"),
    ]
    .join("---\n");
    let loaded = load(&text);
    let names: Vec<&str> = loaded
        .connections
        .iter()
        .map(|c| c.id.name.as_str())
        .collect();
    assert_eq!(names, ["a", "b", "c", "d", "e"], "{:#?}", loaded.errors);
    assert_eq!(loaded.errors.len(), 6, "{:#?}", loaded.errors);
}

#[test]
fn anchors_aliases_and_merges() {
    let text = "apiVersion: mission-control.flanksource.com/v1
kind: Connection
metadata: {name: a, labels: &labels {a: one, b: two}}
spec:
  type: http
  url: &url http://h/
  labels:
    <<: [*labels, {a: three, c: four}]
    b: own
  properties:
    headers: {X-Url: *url}
    key: &key name
    *key : x
";
    let loaded = load(text);
    assert_eq!(loaded.errors, []);
    let connection = &loaded.connections[0];
    let labels: Vec<_> = connection
        .labels
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    assert_eq!(labels, ["a=one", "b=own", "c=four"]);
    let resolved = connection.resolve_partly("http", &[]).resolved;
    let headers = resolved.properties.get("headers").unwrap();
    assert_eq!(headers.get("X-Url").unwrap().text(), Some("http://h/"));
    assert_eq!(resolved.properties.get("name").unwrap().text(), Some("x"));
}

#[test]
fn secrets_and_config_maps_are_found() {
    let text = "apiVersion: v1
kind: Secret
metadata: {name: db, namespace: shop}
type: Opaque
data: {password: aHVudGVyMg==, folded: 'aHVu
 dGVyMg==', binary: //79, user: c2hvcA==}
stringData: {user: other, port: 5432, empty: }
---
apiVersion: v1
kind: ConfigMap
metadata: {name: db, namespace: shop}
data: {host: db.example.com}
binaryData: {x: //79}
";
    let loaded = load(text);
    assert_eq!(loaded.errors, []);
    let secret = loaded
        .documents
        .find(RefKind::Secret, "shop", "db")
        .unwrap();
    let values: Vec<String> = secret
        .values
        .iter()
        .map(|(k, v)| format!("{k}={}", v.expose()))
        .collect();
    assert_eq!(
        values,
        [
            "empty=",
            "folded=hunter2",
            "password=hunter2",
            "port=5432",
            "user=other"
        ]
    );
    assert_eq!(secret.source, "document test.yaml:3:18");
    assert_eq!(loaded.documents.secrets().count(), 5);
    let map = loaded
        .documents
        .find(RefKind::ConfigMap, "shop", "db")
        .unwrap();
    assert_eq!(map.values["host"].expose(), "db.example.com");
    assert!(
        loaded
            .documents
            .find(RefKind::Secret, "default", "db")
            .is_none()
    );
}

#[test]
fn value_objects_stand_where_texts_do() {
    let text = "apiVersion: mission-control.flanksource.com/v1
kind: Connection
metadata: {name: a}
spec:
  type: postgres
  url: {value: 'postgres://h/'}
  username: {valueFrom: {configMapKeyRef: {name: db, key: user}}}
  password: {valueFrom: {secretKeyRef: {name: db, key: password}}}
---
apiVersion: v1
kind: Secret
metadata: {name: db}
stringData: {password: one}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: db}
data: {user: two}
";
    let loaded = load(text);
    assert_eq!(loaded.errors, []);
    let resolved = loaded.connections[0]
        .resolve("postgres", &[], &Documents(&loaded))
        .unwrap();
    assert_eq!(resolved.url.unwrap().expose(), "postgres://h/");
    assert_eq!(resolved.username.unwrap().expose(), "two");
    assert_eq!(resolved.password.unwrap().expose(), "one");
}

#[test]
fn duplicates_across_files_name_both_places() {
    let mut loader = Loader::default();
    loader.add("a.yaml", REDIS, Trust::Local);
    loader.add("b.yaml", REDIS, Trust::Local);
    let loaded = loader.finish();
    assert_eq!(loaded.connections.len(), 1);
    assert_eq!(
        loaded.errors[0].message,
        "defined twice, first at a.yaml:3:18"
    );
    assert_eq!(loaded.errors[0].place.to_string(), "b.yaml:3:18");
}

#[test]
fn a_helm_template_is_one_error_and_its_neighbours_in_other_files_load() {
    let mut loader = Loader::default();
    loader.add(
        "a.yaml",
        &format!("{{{{- range .Values.dbs }}}}\n---\n{REDIS}{{{{- end }}}}\n"),
        Trust::Local,
    );
    loader.add("b.yaml", REDIS, Trust::Local);
    let loaded = loader.finish();
    assert_eq!(loaded.errors.len(), 1, "{:#?}", loaded.errors);
    assert!(loaded.errors[0].message.contains("Helm"));
    assert_eq!(loaded.connections.len(), 1);
}

#[test]
fn settings_report_every_mistake() {
    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Settings {
        interval: u16,
        #[serde(default)]
        names: Vec<String>,
        #[serde(default)]
        on: Option<bool>,
    }

    let said = |text: &str| match read_one::<Settings>("conncheck.yaml", text) {
        Ok(settings) => vec![format!("{settings:?}")],
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    };
    assert_eq!(
        said("interval: 3\nnames: [a, 1]"),
        ["Settings { interval: 3, names: [\"a\", \"1\"], on: None }"]
    );
    assert_eq!(
        said("# nothing\n"),
        ["conncheck.yaml:1:1: `interval` is missing"]
    );
    assert_eq!(
        said("interval: 99999\nname: x\nnames: {}\non: yes\non: no\n"),
        [
            "conncheck.yaml:1:11: `interval`: expected a whole number from 0 to 65535",
            "conncheck.yaml:2:1: unknown field `name`\nhint: did you mean `names`?",
            "conncheck.yaml:3:8: `names`: expected a list, found a mapping",
            "conncheck.yaml:4:5: `on`: expected `true` or `false`, found text\nhint: write `true`",
            "conncheck.yaml:5:1: duplicate key `on`, first on line 4",
        ]
    );
    assert_eq!(
        said("interval: 1\n---\ninterval: 2\n"),
        [
            "conncheck.yaml:3:1: a second document; the first starts on line 1\nhint: settings are one document; remove the `---`"
        ]
    );
    assert_eq!(
        said("[1]"),
        ["conncheck.yaml:1:1: expected a mapping, found a list"]
    );
}

/// `cargo test --release -p conncheck-config --test load -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn ten_thousand_documents_load_in_half_a_second() {
    let text: String = (0..10_000)
        .map(|n| {
            format!(
                "apiVersion: mission-control.flanksource.com/v1
kind: Connection
metadata:
  name: service-{n}
  namespace: team-{}
  labels: {{app.kubernetes.io/name: service-{n}, app.kubernetes.io/part-of: shop}}
  annotations:
    conncheck/interval: 30s
    kubectl.kubernetes.io/last-applied-configuration: '{}'
spec:
  type: http
  name: Service number {n}
  description: Connection to the service that does the work of number {n}
  url: https://$(username):$(password)@service-{n}.example.com/health
  username: conncheck
  password: secret://service-{n}/password
  properties:
    headers:
      Accept: application/json
      X-Tenant: tenant-{n}
    expectedStatus: [200, 204]
  labels:
    environment: production
    tier: frontend
---
",
                n % 100,
                "x".repeat(120)
            )
        })
        .collect();
    let start = std::time::Instant::now();
    let loaded = load(&text);
    let took = start.elapsed();
    println!(
        "{} bytes, {} connections: {took:?}",
        text.len(),
        loaded.connections.len()
    );
    assert_eq!(loaded.errors, []);
    let start = std::time::Instant::now();
    for connection in &loaded.connections {
        std::hint::black_box(connection.resolve_partly("http", &[]));
    }
    println!("resolved in part: {:?}", start.elapsed());
    assert!(took.as_secs_f64() < 0.5);
}
