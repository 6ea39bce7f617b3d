//! The legacy and the block form come to the same as the documented one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::disallowed_types,
    reason = "a test panics, and its clock is a real one"
)]

use conncheck_config::{Connection, Field, Loaded, Loader, Node, Resolved, Secret, Trust};

/// What every `spec` here may refer to.
const SECRET: &str = "---
apiVersion: v1
kind: Secret
metadata: {name: db}
stringData:
  user: us/er@x
  password: p@ss/w:rd?#%
  database: a b/c
  host: db.example.com:6000
  ip: '::1'
  url: https://a.example.com/?q=1
  token: tok-12345
  port: '7000'
  kubeconfig: 'kind: Config'
  json: '{service: aps}'
  template: postgres://$(properties.host)/$(properties.database)
  mongo: mongodb://h/db
  set: mongodb://h/db?replicaSet=rs0
---
apiVersion: v1
kind: Secret
metadata: {name: mongo}
stringData: {url: 'mongodb://h/db'}
---
apiVersion: v1
kind: Secret
metadata: {name: set}
stringData: {url: 'mongodb://h/db?replicaSet=rs0'}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: db}
data: {host: map.example.com, address: 'db.example.com:5432'}
";

fn load(spec: &str) -> Loaded {
    let mut loader = Loader::default();
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    let text = format!(
        "apiVersion: mission-control.flanksource.com/v1\nkind: Connection\nmetadata: {{name: a}}\nspec:\n{spec}{SECRET}"
    );
    loader.add("t.yaml", &text, Trust::Local);
    loader.finish()
}

#[track_caller]
fn connection(loaded: &Loaded) -> &Connection {
    assert_eq!(loaded.errors, []);
    assert_eq!(loaded.warnings, []);
    &loaded.connections[0]
}

#[track_caller]
fn resolve(spec: &str) -> Resolved {
    let loaded = load(spec);
    let connection = connection(&loaded);
    let name = connection.block.as_ref().or(connection.type_name.as_ref());
    let name = &name.unwrap().value;
    let connection = connection.clone().of_type(name);
    connection
        .unwrap_or_else(|errors| panic!("{errors:?}"))
        .resolve(name, &[], &loaded.documents)
        .unwrap_or_else(|unresolved| panic!("{unresolved:?}"))
}

/// Everything that a probe would be built from, one line a thing.
#[track_caller]
fn check(spec: &str, expected: &[&str]) {
    let resolved = resolve(spec);
    let mut said: Vec<String> = Vec::new();
    for (name, value) in [
        ("url", &resolved.url),
        ("username", &resolved.username),
        ("password", &resolved.password),
        ("key", &resolved.key),
        ("caCert", &resolved.ca_cert),
        ("clientCert", &resolved.client_cert),
        ("clientKey", &resolved.client_key),
    ] {
        said.extend(
            value
                .iter()
                .map(|value| format!("{name}={}", value.expose())),
        );
    }
    let skip = resolved.insecure_skip_verify;
    said.extend(skip.map(|skip| format!("insecureSkipVerify={skip}")));
    flat(&resolved.properties, "", &mut said);
    assert_eq!(said, expected, "{spec}");
}

fn flat(node: &Node, path: &str, said: &mut Vec<String>) {
    if let Some(text) = node.text() {
        said.push(format!("{path}={text}"));
    }
    if let Ok(items) = node.deserialize::<Vec<Any>>() {
        for (index, item) in items.iter().enumerate() {
            match &item.0 {
                Ok(text) => said.push(format!("{path}[{index}]={text}")),
                Err(pairs) => {
                    for (key, value) in pairs {
                        said.push(format!("{path}[{index}].{key}={value}"));
                    }
                }
            }
        }
    }
    for (key, _, value) in node.iter() {
        flat(value, &format!("{path}.{key}"), said);
    }
}

/// An item of a list: a text, or a mapping of texts.
struct Any(Result<String, Vec<(String, String)>>);

impl<'de> serde::Deserialize<'de> for Any {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum Either {
            Text(String),
            Map(std::collections::BTreeMap<String, String>),
        }
        Ok(Self(match Either::deserialize(deserializer)? {
            Either::Text(text) => Ok(text),
            Either::Map(map) => Err(map.into_iter().collect()),
        }))
    }
}

#[test]
fn a_host_and_a_database_become_a_url() {
    check(
        "postgres: {host: {value: db.example.com}, database: {value: shop}, username: {value: u}, password: {value: p}}",
        &[
            "url=postgres://db.example.com/shop",
            "username=u",
            "password=p",
        ],
    );
    check(
        "postgres: {host: 'db.example.com:6432'}",
        &["url=postgres://db.example.com:6432"],
    );
    check("mysql: {host: h, database: shop}", &["url=mysql://h/shop"]);
    check("mysql: {host: h}", &["url=mysql://h"]);
    check(
        "mssql: {host: h, database: shop, trustServerCertificate: true}",
        &[
            "url=sqlserver://h?database=shop",
            ".trustServerCertificate=true",
        ],
    );
    check(
        "mongo: {host: 'h1:1,h2:2', database: shop, replicaSet: rs0}",
        &["url=mongodb://h1:1,h2:2/shop?replicaSet=rs0"],
    );
    check(
        "mongo: {host: h, insecureTLS: true}",
        &["url=mongodb://h/?tls=true", "insecureSkipVerify=true"],
    );
}

#[test]
fn each_part_is_encoded_for_its_place() {
    check(
        "postgres: {host: configmap://db/host, database: secret://db/database, username: secret://db/user, password: secret://db/password}",
        &[
            "url=postgres://map.example.com/a%20b%2Fc",
            "username=us/er@x",
            "password=p@ss/w:rd?#%",
        ],
    );
    check(
        "mssql:\n  host: {valueFrom: {secretKeyRef: {name: db, key: host}}}\n  database: {valueFrom: {secretKeyRef: {name: db, key: database}}}",
        &["url=sqlserver://db.example.com:6000?database=a%20b%2Fc"],
    );
    check(
        "postgres: {host: secret://db/ip, database: '50%?'}",
        &["url=postgres://[::1]/50%25%3F"],
    );
}

#[test]
fn a_port_may_stand_beside_a_host() {
    check(
        "postgres: {host: h, port: 6000}",
        &["url=postgres://h:6000"],
    );
    check(
        "postgres: {host: '::1', port: {value: '6000'}, database: a}",
        &["url=postgres://[::1]:6000/a"],
    );
    check(
        "postgres: {host: 'h:6000', port: 6000}",
        &["url=postgres://h:6000"],
    );
    check(
        "mysql: {host: configmap://db/host, port: secret://db/port}",
        &["url=mysql://map.example.com:7000"],
    );
    // What the field says of itself.
    check("smtp: {host: m}", &["url=smtp://m:587"]);
    check("smtp: {host: m, port: 25}", &["url=smtp://m:25"]);
    check("smtp: {host: 'm:2525'}", &["url=smtp://m:2525"]);
}

#[test]
fn a_url_may_name_the_fields_beside_it() {
    check(
        "postgres:\n  url: {value: 'postgres://$(username):$(password)@$(properties.host)/{{ properties.database }}'}\n  host: h\n  database: a b\n  username: secret://db/user\n  password: secret://db/password",
        &[
            "url=postgres://us%2Fer%40x:p%40ss%2Fw%3Ard%3F%23%25@h/a%20b",
            "username=us/er@x",
            "password=p@ss/w:rd?#%",
        ],
    );
}

#[test]
fn options_go_into_a_url_that_is_given() {
    check(
        "mongo: {url: 'mongodb://h', replicaSet: rs0, insecureTLS: true}",
        &[
            "url=mongodb://h/?replicaSet=rs0&tls=true",
            "insecureSkipVerify=true",
        ],
    );
    // Who has said something about TLS there is not contradicted.
    check(
        "mongo: {url: 'mongodb://h/?ssl=false', insecureTLS: true}",
        &["url=mongodb://h/?ssl=false", "insecureSkipVerify=true"],
    );
    check(
        "mongo: {url: 'mongodb+srv://h/', insecureTLS: true}",
        &["url=mongodb+srv://h/", "insecureSkipVerify=true"],
    );
    check(
        "mongo: {url: secret://db/url, insecureTLS: true}",
        &["url=https://a.example.com/?q=1", "insecureSkipVerify=true"],
    );
}

#[test]
fn the_tls_switches_of_each_block() {
    let pem = "tls:\n    ca: {value: one}\n    cert: secret://db/user\n    key: {valueFrom: {secretKeyRef: {name: db, key: token}}}\n    insecureSkipVerify: true";
    for block in ["http", "prometheus"] {
        check(
            &format!("{block}:\n  url: https://h/\n  {pem}"),
            &[
                "url=https://h/",
                "caCert=one",
                "clientCert=us/er@x",
                "clientKey=tok-12345",
                "insecureSkipVerify=true",
            ],
        );
    }
    for spec in [
        "postgres: {url: 'x://h', insecureTLS: true}",
        "mysql: {url: 'x://h', insecureTLS: 'true'}",
        "elasticsearch: {url: 'x://h', insecureTLS: {value: true}}",
        "opensearch: {urls: ['x://h'], insecureSkipVerify: true}",
        "http: {url: 'x://h', insecureTLS: true, tls: {insecureSkipVerify: true}}",
        "aws: {url: 'x://h', insecureTLS: true}",
        "type: http\nurl: x://h\ninsecure_tls: true",
        "type: http\nurl: x://h\ninsecure_tls: true\ninsecureSkipVerify: true",
        "redis: {url: 'x://h'}\ninsecureSkipVerify: true",
    ] {
        check(spec, &["url=x://h", "insecureSkipVerify=true"]);
    }
    check(
        "http: {url: 'x://h', insecureTLS: false, tls: {}}",
        &["url=x://h", "insecureSkipVerify=false"],
    );
}

#[test]
fn values_within_properties_are_objects_too() {
    check(
        "http:
  url: https://h/
  bearer: {valueFrom: {secretKeyRef: {name: db, key: token}}}
  headers:
  - {name: X-A, value: b}
  - {name: X-B, valueFrom: {secretKeyRef: {name: db, key: token}}}
  - {name: X-C, value: secret://db/port}
  oauth:
    clientID: {value: me}
    clientSecret: {valueFrom: {secretKeyRef: {name: db, key: password}}}
    tokenURL: https://t/
    scope: [a, b]
    params: {value: own, host: configmap://db/host}
  awsSigV4:
    service: es
    region: eu-west-1
    accessKey: {value: AKIA}
    secretKey: {valueFrom: {secretKeyRef: {name: db, key: token}}}",
        &[
            "url=https://h/",
            ".bearer=tok-12345",
            ".headers[0].name=X-A",
            ".headers[0].value=b",
            ".headers[1].name=X-B",
            ".headers[1].value=tok-12345",
            ".headers[2].name=X-C",
            ".headers[2].value=7000",
            ".oauth.clientID=me",
            ".oauth.clientSecret=p@ss/w:rd?#%",
            ".oauth.tokenURL=https://t/",
            ".oauth.scope[0]=a",
            ".oauth.scope[1]=b",
            ".oauth.params.value=own",
            ".oauth.params.host=map.example.com",
            ".awsSigV4.service=es",
            ".awsSigV4.region=eu-west-1",
            ".awsSigV4.accessKey=AKIA",
            ".awsSigV4.secretKey=tok-12345",
        ],
    );
    // In every form.
    check(
        "type: http\nurl: https://h/\nproperties:\n  bearer: {value: x}\n  headers: {X-A: {valueFrom: {configMapKeyRef: {name: db, key: host}}}, value: y}",
        &[
            "url=https://h/",
            ".bearer=x",
            ".headers.X-A=map.example.com",
            ".headers.value=y",
        ],
    );
}

#[test]
fn the_blocks_of_the_clouds() {
    check(
        "aws: {region: eu-west-1, profile: a, accessKey: {value: AKIA}, secretKey: secret://db/token, sessionToken: {value: s}, assumeRole: 'arn:x'}",
        &[
            "username=AKIA",
            "password=tok-12345",
            ".region=eu-west-1",
            ".profile=a",
            ".sessionToken=s",
            ".assumeRole=arn:x",
        ],
    );
    check(
        "azure: {clientID: {value: c}, clientSecret: secret://db/token, tenantID: secret://db/user, subscriptionID: s}",
        &[
            "password=tok-12345",
            ".clientID=c",
            ".tenantID=us/er@x",
            ".subscriptionID=s",
        ],
    );
    for field in ["certificate", "credentials"] {
        check(
            &format!("gcp: {{{field}: secret://db/kubeconfig, project: p, endpoint: 'https://e'}}"),
            &["url=https://e", "key=kind: Config", ".project=p"],
        );
    }
    // What their machines know without being told.
    for block in ["aws", "azure", "gcp"] {
        check(&format!("{block}: {{}}"), &[]);
    }
    for spec in [
        "kubernetes: {certificate: secret://db/kubeconfig}",
        "kubernetes: {kubeconfig: {valueFrom: {secretKeyRef: {name: db, key: kubeconfig}}}}",
        "type: kubernetes\ncertificate: secret://db/kubeconfig",
        "type: K8s\ncertificate: {value: 'kind: Config'}",
        "type: google_cloud\ncertificate: {value: 'kind: Config'}",
    ] {
        check(spec, &["key=kind: Config"]);
    }
}

#[test]
fn the_other_blocks() {
    check(
        "redis: {url: 'h:6379', username: u, password: {value: p}}",
        &["url=h:6379", "username=u", "password=p"],
    );
    check(
        "prometheus: {url: {value: 'http://p'}, username: u, password: p, bearer: {}, oauth: {}}",
        &["url=http://p", "username=u", "password=p"],
    );
    check(
        "opensearch: {urls: ['https://a:1', 'https://b'], index: 'logs-*'}",
        &["url=https://a:1,https://b", ".index=logs-*"],
    );
    check(
        "opensearch: {urls: [secret://db/url], ntlm: false, digest: false}",
        &["url=https://a.example.com/?q=1"],
    );
    check(
        "smtp: {host: m, username: u, password: p, encryption: ExplicitTLS, auth: Plain, fromAddress: a@b, fromName: A, toAddresses: [c@d], subject: x, headers: {a: b}}",
        &[
            "url=smtp://m:587",
            "username=u",
            "password=p",
            ".encryption=ExplicitTLS",
            ".auth=Plain",
        ],
    );
}

/// As `kubectl get -o yaml` shows a manifest that a controller has written back.
#[test]
fn a_dumped_manifest_says_nothing_with_empty_objects() {
    check(
        "url: {}\nusername: {}\npassword: {}\nport: {}\ncertificate: {}\ninsecure_tls: false\npostgres:\n  url: {}\n  host: {value: h}\n  username: {value: u}\n  password: {value: '', valueFrom: {secretKeyRef: {name: db, key: token}}}\n  database: {}",
        &[
            "url=postgres://h",
            "username=u",
            "password=tok-12345",
            "insecureSkipVerify=false",
        ],
    );
}

#[test]
fn the_legacy_form() {
    check(
        "type: opensearch\nurl: {value: $(password)}\npassword: {valueFrom: {secretKeyRef: {name: db, key: url}}}",
        &[
            "url=https://a.example.com/?q=1",
            "password=https://a.example.com/?q=1",
        ],
    );
    check(
        "type: postgres\nurl: {value: 'postgres://$(username):$(password)@h/db'}\nusername: {name: x, valueFrom: {secretKeyRef: {name: db, key: user}}}\npassword: {valueFrom: {secretKeyRef: {name: db, key: password}}}\ncertificate: {value: pem}\nport: {value: 6000}",
        &[
            "url=postgres://us%2Fer%40x:p%40ss%2Fw%3Ard%3F%23%25@h:6000/db",
            "username=us/er@x",
            "password=p@ss/w:rd?#%",
            "caCert=pem",
        ],
    );
    check("type: redis\nurl: h\nport: 6379", &["url=h:6379"]);
    check(
        "type: postgres\nurl: host=h user=u\nport: secret://db/port",
        &["url=host=h user=u port=7000"],
    );
}

#[test]
fn properties_of_the_legacy_form_come_to_the_type_s_own() {
    check(
        "type: azure
username: {value: id}
properties: {tenant: example.com, clientSecret: secret://db/password, insecure_tls: 'false', scopes: ''}",
        &[
            "username=id",
            "password=p@ss/w:rd?#%",
            ".tenantID=example.com",
            ".insecureSkipVerify=false",
        ],
    );
    check(
        "type: aws
url: ''
properties: {region: eu-west-1, profile: '', assumeRole: {value: ''}, sessionToken: {}, bucket: b}",
        &[".region=eu-west-1"],
    );
    check(
        "type: gcp
url: {value: ''}
certificate: secret://db/password
properties: {endpoint: 'https://a.example.com', project: p}",
        &[
            "url=https://a.example.com",
            "key=p@ss/w:rd?#%",
            ".project=p",
        ],
    );
    check(
        "type: redis\nurl: {value: h}\nproperties: {db: '3'}",
        &["url=h", ".database=3"],
    );
    check(
        "type: elastic
url: {value: 'https://a'}
properties: {urls: 'https://a, https://b', index: 'logs-*', ntlm: 'false'}",
        &["url=https://a, https://b", ".index=logs-*"],
    );
    check(
        "type: elastic\nproperties: {urls: ['https://a', 'https://b'], insecure_tls: 'true'}",
        &["url=https://a,https://b", ".insecureSkipVerify=true"],
    );
    check(
        "type: smtp
url: {value: 'smtp://mail'}
properties: {host: mail, port: '587', authMethod: Plain, auth: Plain, encryptionMethod: Auto, to: a@b}",
        &["url=smtp://mail:587", ".auth=Plain", ".encryption=Auto"],
    );
    check(
        "type: webhook\nurl: 'https://a'\nproperties: {key: message, requestMethod: POST}",
        &["url=https://a"],
    );
}

#[test]
fn a_login_over_http_in_the_legacy_form() {
    check(
        r#"type: http
url: {value: "https://a"}
properties:
  headers: '[{"name": "A", "value": "b $(properties.more)"}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "db", "key": "token"}}}]'
  more: c
  scopes: read, write
  params: '{"audience": "x", "n": 1}'
  clientID: {value: us}
  clientSecret: secret://db/token
  tokenURL: https://login
  ca: one
  cert: two
  key: secret://db/password"#,
        &[
            "url=https://a",
            "caCert=one",
            "clientCert=two",
            "clientKey=p@ss/w:rd?#%",
            ".headers[0].name=A",
            ".headers[0].value=b c",
            ".headers[1].name=B",
            ".headers[1].value=tok-12345",
            ".more=c",
            ".oauth.scope=read write",
            ".oauth.params.audience=x",
            ".oauth.params.n=1",
            ".oauth.clientID=us",
            ".oauth.clientSecret=tok-12345",
            ".oauth.tokenURL=https://login",
        ],
    );
    // As a mapping, behind a reference, and where it is none.
    check(
        "type: http\nurl: 'https://a'\nproperties: {headers: '{\"A\": \"b\"}', awsSigV4: secret://db/json}",
        &["url=https://a", ".headers.A=b", ".awsSigV4.service=aps"],
    );
    check(
        "type: http\nurl: 'https://a'\nproperties: {headers: secret://db/token, body: '[1]'}",
        &["url=https://a", ".headers=tok-12345", ".body=[1]"],
    );
}

#[test]
fn what_a_url_was_made_of_is_found_by_its_templates() {
    check(
        "type: mssql
url: {value: 'sqlserver://$(properties.host)?database=$(properties.database)&TrustServerCertificate=$(properties.trust_server_certificate)'}
properties: {host: secret://db/host, database: a b, trust_server_certificate: 'true'}",
        &[
            "url=sqlserver://db.example.com:6000?database=a%20b&TrustServerCertificate=true",
            ".trustServerCertificate=true",
        ],
    );
    // A URL that is not there yet may name anything.
    check(
        "type: postgres
url: secret://db/template
properties: {host: h, database: d}",
        &["url=postgres://h/d"],
    );
    check(
        "type: mongodb
url: {value: 'mongodb://h/db'}
properties: {host: h, replica_set: secret://db/token, database: other}",
        &["url=mongodb://h/db?replicaSet=tok-12345", ".database=other"],
    );
    check(
        "type: mongodb
url: {value: 'mongodb://h/db?replicaSet=rs0'}
properties: {replica_set: rs0}",
        &["url=mongodb://h/db?replicaSet=rs0"],
    );
    // With the port or without it, encoded or not, in whatever case.
    for (host, database) in [
        ("DB.example.com:5432", "a b"),
        ("db.example.com", "a%20b"),
        ("configmap://db/address", "$(properties.part) b"),
    ] {
        check(
            &format!(
                "type: postgres
url: {{value: 'postgres://$(username):$(password)@db.example.com/a%20b'}}
username: u
password: p
properties: {{host: {host}, database: {database}, part: a}}"
            ),
            &[
                "url=postgres://u:p@db.example.com/a%20b",
                "username=u",
                "password=p",
                ".part=a",
            ],
        );
    }
}

#[test]
fn what_the_url_must_say_is_compared_whoever_brings_it() {
    // What it does not say is put there.
    for url in [
        "url: secret://db/mongo",
        "secretRef: {name: mongo, key: url}",
        "secretRef: {name: mongo}",
        // The secret's wins.
        "secretRef: {name: mongo, key: url}\nurl: {value: 'mongodb://other/'}",
    ] {
        check(
            &format!("type: mongodb\n{url}\nproperties: {{replica_set: rs0, host: 'h:27017'}}"),
            &["url=mongodb://h/db?replicaSet=rs0"],
        );
    }
    check(
        "mongo: {replicaSet: rs0, database: db}\nsecretRef: {name: mongo}",
        &["url=mongodb://h/db?replicaSet=rs0"],
    );
    check(
        "type: mongodb
url: secret://db/set
properties: {replica_set: rs0}",
        &["url=mongodb://h/db?replicaSet=rs0"],
    );
    for (spec, message) in [
        (
            "type: mongodb\nurl: secret://db/set\nproperties: {replica_set: rs1}",
            "t.yaml:7:29 `properties.replica_set` contradicts the `url`, which has another `replicaSet`",
        ),
        (
            "type: mongodb\nurl: {value: 'mongodb://h/?replicaSet=rs0'}\nproperties: {replica_set: secret://db/token}",
            "t.yaml:7:29 `properties.replica_set` contradicts the `url`, which has another `replicaSet`",
        ),
        (
            "mongo: {replicaSet: rs1}\nsecretRef: {name: set}",
            "t.yaml:5:23 `mongo.replicaSet` contradicts the `url`, which has another `replicaSet`",
        ),
        (
            "type: mongodb\nsecretRef: {name: mongo}\nproperties: {host: h, replica_set: secret://db/nope}",
            "t.yaml:7:38 secret `default/db` has no key `nope`",
        ),
        (
            "type: mongodb\nsecretRef: {name: mongo}\nproperties: {host: other}",
            "t.yaml:7:22 `properties.host` is not in the `url`",
        ),
        (
            "mongo: {database: other}\nsecretRef: {name: mongo}",
            "t.yaml:5:21 `mongo.database` is not in the `url`",
        ),
        (
            "type: postgres\nurl: {value: 'postgres://h/workshop'}\nproperties: {database: $(properties.a), a: shop}",
            "t.yaml:7:26 `properties.database` is not in the `url`",
        ),
    ] {
        let loaded = load(spec);
        let connection = connection(&loaded);
        let name = connection.block.as_ref().or(connection.type_name.as_ref());
        let name = &name.unwrap().value;
        let connection = connection.clone().of_type(name).unwrap();
        let unresolved = connection.resolve(name, &[], &loaded.documents);
        let [err] = &unresolved.unwrap_err()[..] else {
            panic!("{spec}");
        };
        let told = format!("{} {}", err.place, err.message);
        assert!(told.starts_with(message), "{told}");
    }
}

#[test]
fn what_stands_beside_a_block() {
    check(
        "name: shop\ndescription: x\nicon: y\nlabels: {a: b}\npostgres: {host: h}\ncaCert: pem\nclientCert: c\nclientKey: k\nproperties: {query: SELECT 2}\nsecretRef: {name: db}",
        &[
            "url=postgres://h",
            "username=us/er@x",
            "password=p@ss/w:rd?#%",
            "caCert=pem",
            "clientCert=c",
            "clientKey=k",
            ".query=SELECT 2",
        ],
    );
    // A whole secret may bring the address as well.
    check(
        "http: {bearer: x}\nproperties: {method: HEAD}\nsecretRef: {name: db, key: url}",
        &[
            "url=https://a.example.com/?q=1",
            ".method=HEAD",
            ".bearer=x",
        ],
    );
}

#[test]
fn a_mistake_is_placed_and_named_where_it_was_written() {
    let loaded = load("postgres:\n  host: {value: h}\n  username: u\n  insecureTLS: true");
    let connection = connection(&loaded);
    let partial = connection.resolve_partly("postgres", &[]);
    let place = |field| partial.resolved.place_of(field).to_string();
    assert_eq!(place(Field::Url), "t.yaml:6:19");
    assert_eq!(place(Field::Username), "t.yaml:7:15");
    assert_eq!(place(Field::InsecureSkipVerify), "t.yaml:8:18");
    let words = |text: &str| connection.in_own_words(text.to_owned());
    assert_eq!(words("bad `url`: x"), "bad `postgres.host`: x");
    assert_eq!(
        words("give `spec.password`"),
        "give `spec.postgres.password`"
    );
    assert_eq!(words("`insecureSkipVerify`"), "`postgres.insecureTLS`");
    assert_eq!(words("`secretRef`, `caCert`"), "`secretRef`, `caCert`");

    let loaded =
        load("http:\n  url: https://h/\n  headers: [{name: a}]\n  tls: {ca: x}\nclientKey: y");
    let connection = connection_of(&loaded);
    let words = |text: &str| connection.in_own_words(text.to_owned());
    assert_eq!(
        words("`properties.headers[0]`, `url`, `caCert`, `clientCert`, `clientKey`"),
        "`http.headers[0]`, `http.url`, `http.tls.ca`, `http.tls.cert`, `clientKey`"
    );
}

fn connection_of(loaded: &Loaded) -> &Connection {
    connection(loaded)
}

#[test]
fn what_is_not_known_before_the_secret_is() {
    let known = |spec: &str| {
        let loaded = load(spec);
        let partial = connection(&loaded).resolve_partly("postgres", &[]);
        (partial.url_is_known, partial.resolved.url.is_some())
    };
    assert_eq!(
        known("postgres: {host: h, password: secret://db/password}"),
        (true, true)
    );
    assert_eq!(known("postgres: {host: secret://db/host}"), (false, false));
    assert_eq!(
        known("postgres: {host: h, database: secret://db/database}"),
        (false, false)
    );
    assert_eq!(
        known("postgres: {host: h, port: secret://db/port}"),
        (false, false)
    );
}

#[test]
fn what_cannot_be_had_is_told_of_its_place() {
    let unresolved = |spec: &str| -> Vec<String> {
        let loaded = load(spec);
        let err = connection(&loaded)
            .resolve("postgres", &[], &loaded.documents)
            .unwrap_err();
        err.iter()
            .map(|unresolved| format!("{} {}", unresolved.place, unresolved.message))
            .collect()
    };
    assert_eq!(
        unresolved("postgres: {host: secret://db/nope}"),
        [
            "t.yaml:5:20 secret `default/db` has no key `nope`; it has `database`, `host`, `ip`, `json`, `kubeconfig`, `mongo`, `password`, `port`, `set`, `template`, `token`, `url` and `user`"
        ]
    );
    assert_eq!(
        unresolved("postgres: {host: secret://db/url}"),
        ["t.yaml:5:20 `host`: a URL where a host is expected"]
    );
    assert_eq!(
        unresolved("postgres: {host: secret://db/host, port: secret://db/port}"),
        ["t.yaml:5:44 `port` contradicts the `url`, which has another port"]
    );
    assert_eq!(
        unresolved("postgres: {host: h, port: secret://db/user}"),
        ["t.yaml:5:29 `port` is not a number from 1 to 65535"]
    );
}

/// A property is there for the templates that name it, whether or not its type knows it.
#[test]
fn a_property_that_a_template_names_is_no_mistake() {
    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        #[serde(default)]
        method: Option<String>,
    }
    let settings = |spec: &str| -> Result<Option<String>, Vec<String>> {
        let loaded = load(spec);
        let resolved = connection(&loaded)
            .resolve("http", &[], &loaded.documents)
            .unwrap();
        assert_eq!(
            resolved.properties.deserialize::<Settings>().is_ok(),
            resolved.properties.deserialize_all::<Settings>().is_ok()
        );
        match resolved.properties.deserialize_all::<Settings>() {
            Ok(settings) => Ok(settings.method),
            Err(errors) => Err(errors.into_iter().map(|error| error.message).collect()),
        }
    };
    let spec = |properties: &str| {
        format!(
            "type: http\nurl: https://$(properties.zone)/$(properties.deep.x)\nproperties: {{{properties}}}"
        )
    };
    assert_eq!(
        settings(&spec("zone: eu, deep: {x: y}, method: GET")),
        Ok(Some("GET".into()))
    );
    assert_eq!(
        settings(&spec(
            "zone: $(properties.own), own: b, deep: {x: y}, methd: GET"
        )),
        Err(vec!["unknown property `methd`".into()])
    );
    assert_eq!(
        settings(&spec("zone: eu, deep: {x: y}, method: [], zome: a")),
        Err(vec![
            "`properties.method`: expected text, found a list".into(),
            "unknown property `zome`".into()
        ])
    );
}

#[test]
fn what_stands_where_secrets_stand_is_secret_in_blocks_too() {
    let secrets = |spec: &str| -> Vec<String> {
        let resolved = resolve(spec);
        let mut secrets: Vec<String> = resolved
            .secrets
            .iter()
            .map(Secret::expose)
            .map(str::to_owned)
            .collect();
        secrets.sort();
        secrets
    };
    assert_eq!(
        secrets(
            "http: {url: 'https://h/', bearer: {value: bear-er}, headers: [{name: X-Key, value: header-key}], oauth: {clientSecret: {value: client-secret}}, awsSigV4: {secretKey: {value: aws-secret}, sessionToken: session}, tls: {key: private}}"
        ),
        [
            "aws-secret",
            "bear-er",
            "client-secret",
            "header-key",
            "private",
            "session"
        ]
    );
    assert_eq!(
        secrets("aws: {accessKey: {value: AKIA-1}, secretKey: {value: aws-secret}}"),
        ["aws-secret"]
    );
    assert_eq!(
        secrets(
            "postgres: {host: h, database: secret://db/database, username: secret://db/user, password: secret://db/password}"
        ),
        ["a b/c", "p@ss/w:rd?#%", "us/er@x"]
    );
    assert_eq!(
        secrets("type: kubernetes\ncertificate: {value: kubeconfig-text}"),
        ["kubeconfig-text"]
    );
}

/// The path of a URL is public as far as it is written out.
#[test]
fn a_secret_that_a_template_brings_into_a_path_is_secret() {
    let resolved =
        resolve("type: http\nurl: https://h/hook/$(password)/tail\npassword: secret://db/token");
    let secrets: Vec<&str> = resolved.secrets.iter().map(Secret::expose).collect();
    assert_eq!(secrets, ["tok-12345"]);
}
