//! References, templates, and what becomes secret.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::disallowed_types,
    reason = "a test panics, and its clock is a real one"
)]

use std::collections::BTreeMap;

use conncheck_config::{
    Connection, Documents, Field, Found, Loader, Lookup, NotFound, RefKind, Resolved, Secret,
    SecretKey, Trust, Unresolved,
};

/// Two secrets, a config map, a file and a variable.
struct Store;

impl Lookup for Store {
    fn find(
        &self,
        kind: RefKind,
        namespace: &str,
        name: &str,
        _: &[&str],
    ) -> Result<Found, NotFound> {
        let values: &[(&str, &str)] = match (kind, namespace, name) {
            (RefKind::Secret, "default", "db") => &[
                ("username", "shop \n"),
                ("password", "hunter2@/\n"),
                (
                    "uri",
                    "postgres://$(username):$(password)@db.example.com/$(unknown)\n",
                ),
                ("ca.crt", "-----BEGIN CERTIFICATE-----\n"),
                ("token", "tok-12345\n"),
                ("host", "production-db"),
                ("blank", " \n"),
            ],
            (RefKind::Secret, "default", "odd") => &[("bindDN", "cn=x"), ("bindPassword", "y")],
            (RefKind::Secret, "default", "aws") => &[("AWS_ACCESS_KEY_ID", "AKIA-12345")],
            (RefKind::Secret, "default", "token") => &[("bearer", "tok-12345")],
            (RefKind::Secret, "default", "half") => &[("username", ""), ("password", " \n")],
            (RefKind::Secret, "default", "emptied") => &[("user", ""), ("token", "tok-12345")],
            (RefKind::Secret, "vault", "empty") => &[],
            (RefKind::ConfigMap, "default", "db") => &[
                ("host", "db.example.com\n"),
                ("user", "confmap-user"),
                ("blank", "\n"),
            ],
            _ => {
                return Err(NotFound {
                    looked_in: vec![
                        "documents".into(),
                        "environment CONNCHECK_SECRET_X_*".into(),
                    ],
                    detail: None,
                });
            }
        };
        let values = values
            .iter()
            .map(|(key, value)| ((*key).to_owned(), Secret::new(*value)));
        Ok(Found {
            source: "the store".into(),
            values: values.collect::<BTreeMap<_, _>>(),
        })
    }

    fn file(&self, path: &str) -> Result<Secret, NotFound> {
        match path {
            "/run/token" => Ok(Secret::new("from-file\r\n")),
            _ => Err(NotFound {
                looked_in: Vec::new(),
                detail: Some("permission denied".into()),
            }),
        }
    }

    fn env(&self, name: &str) -> Result<Secret, NotFound> {
        match name {
            "TOKEN" => Ok(Secret::new("from-env")),
            _ => Err(NotFound::default()),
        }
    }
}

#[track_caller]
fn connection(spec: &str) -> Connection {
    let mut loader = Loader::default();
    let text = format!(
        "apiVersion: mission-control.flanksource.com/v1\nkind: Connection\nmetadata: {{name: production-db}}\nspec:\n{spec}"
    );
    loader.add("t.yaml", &text, Trust::Local);
    let mut loaded = loader.finish();
    assert_eq!(loaded.errors, []);
    loaded.connections.remove(0)
}

/// What the type of these tests reads beside the common keys.
const TOKEN: SecretKey = SecretKey(&["token", "bearer"]);

#[track_caller]
fn resolve(spec: &str) -> Resolved {
    try_resolve(spec, &[TOKEN]).unwrap()
}

fn try_resolve(spec: &str, own_keys: &'static [SecretKey]) -> Result<Resolved, Vec<Unresolved>> {
    let connection = connection(spec);
    let type_name = connection.type_name.as_ref().unwrap().value.clone();
    connection.resolve(&type_name, own_keys, &Store)
}

#[track_caller]
fn url(spec: &str) -> String {
    resolve(spec).url.unwrap().expose().to_owned()
}

#[track_caller]
fn unresolved(spec: &str) -> Vec<String> {
    let problems = try_resolve(spec, &[]).unwrap_err();
    problems.iter().map(said).collect()
}

fn said(problem: &Unresolved) -> String {
    match &problem.hint {
        Some(hint) => format!("{}: {}; {hint}", problem.place, problem.message),
        None => format!("{}: {}", problem.place, problem.message),
    }
}

#[test]
fn a_whole_secret_brings_its_keys() {
    let resolved = resolve("  type: postgres\n  username: other\n  secretRef: {name: db}\n");
    assert_eq!(resolved.username.as_ref().unwrap().expose(), "shop");
    assert_eq!(resolved.password.as_ref().unwrap().expose(), "hunter2@/");
    assert_eq!(
        resolved.ca_cert.as_ref().unwrap().expose(),
        "-----BEGIN CERTIFICATE-----"
    );
    assert_eq!(resolved.key, None);
    assert_eq!(resolved.own_key(TOKEN).unwrap().expose(), "tok-12345");
    // Its URL's templates are filled; an unknown name there is nobody's mistake of ours.
    assert_eq!(
        resolved.url.as_ref().unwrap().expose(),
        "postgres://shop:hunter2%40%2F@db.example.com/$(unknown)"
    );
}

#[test]
fn the_url_and_certificates_of_spec_win_over_a_whole_secret() {
    let resolved = resolve(
        "  type: postgres\n  url: postgres://own/\n  caCert: mine\n  secretRef: {name: db}\n",
    );
    assert_eq!(resolved.url.unwrap().expose(), "postgres://own/");
    assert_eq!(resolved.ca_cert.unwrap().expose(), "mine");
}

#[test]
fn one_key_is_the_key_unless_it_is_named_like_a_url() {
    let resolved = resolve(
        "  type: postgres\n  url: postgres://own/\n  secretRef: {name: db, key: password}\n",
    );
    assert_eq!(resolved.key.unwrap().expose(), "hunter2@/");
    assert_eq!(resolved.password, None);
    assert_eq!(resolved.url.unwrap().expose(), "postgres://own/");
    let spec = "  type: postgres\n  username: u\n  password: p\n  url: postgres://own/\n  secretRef: {name: db, key: uri}\n";
    let resolved = resolve(spec);
    assert_eq!(resolved.key, None);
    assert_eq!(
        resolved.url.unwrap().expose(),
        "postgres://u:p@db.example.com/$(unknown)"
    );
}

#[test]
fn references_stand_wherever_a_value_may() {
    let resolved = resolve(
        "  type: http
  url: configmap://db/host
  username: configmap://db/user
  password: secret://db/password
  caCert: file:///run/token
  properties:
    bearer: env://TOKEN
    deep: [{x: secret://db/token}, 7]
    plain: https://env://TOKEN
",
    );
    assert_eq!(resolved.url.unwrap().expose(), "db.example.com");
    assert_eq!(resolved.username.unwrap().expose(), "confmap-user");
    assert_eq!(resolved.password.unwrap().expose(), "hunter2@/");
    assert_eq!(resolved.ca_cert.unwrap().expose(), "from-file");
    let properties = &resolved.properties;
    assert_eq!(properties.get("bearer").unwrap().text(), Some("from-env"));
    assert_eq!(
        properties.get("plain").unwrap().text(),
        Some("https://env://TOKEN")
    );
    #[derive(serde::Deserialize)]
    struct Deep {
        x: String,
    }
    let (deep, number): (Deep, u8) = properties.get("deep").unwrap().deserialize().unwrap();
    assert_eq!((deep.x.as_str(), number), ("tok-12345", 7));
}

/// Without it a probe would go without a login, and be up where anybody is let in.
#[test]
fn nothing_where_something_was_referred_to_is_told() {
    assert_eq!(
        unresolved(
            "  type: ldap\n  secretRef: {name: db, key: blank}\n  password: configmap://db/blank\n"
        ),
        [
            "t.yaml:6:14: key `blank` of the secret is empty; a rotation that is half done? leave the reference out if nothing is meant",
            "t.yaml:7:13: what is behind this reference is empty; a rotation that is half done? leave the reference out if nothing is meant",
        ]
    );
    assert_eq!(
        unresolved("  type: ldap\n  secretRef: {name: half}\n"),
        [
            "t.yaml:6:14: secret `default/half` has nothing in `username` and `password`; a rotation that is half done? leave the reference out if nothing is meant"
        ]
    );
}

/// The same with a secret that holds something, and not for this type.
#[test]
fn a_whole_secret_without_a_key_that_its_type_reads_is_told() {
    let check = |name: &str, own_keys: &'static [SecretKey], expected: Option<&str>| {
        let res = try_resolve(
            &format!("  type: ldap\n  secretRef: {{name: {name}}}\n"),
            own_keys,
        );
        let problems = res.err().unwrap_or_default();
        let problems: Vec<String> = problems.iter().map(said).collect();
        let expected: Vec<&str> = expected.into_iter().collect();
        assert_eq!(problems, expected);
    };
    check(
        "odd",
        &[],
        Some(
            "t.yaml:6:14: secret `default/odd` has no key that `ldap` reads; it has `bindDN` and `bindPassword`; `ldap` reads `username`, `password`, `url`, `ca.crt`, `tls.crt` and `tls.key`: give the one that counts such a name, or point at it with `secretRef.key`",
        ),
    );
    // One that another type reads.
    check(
        "aws",
        &[TOKEN],
        Some(
            "t.yaml:6:14: secret `default/aws` has no key that `ldap` reads; it has `AWS_ACCESS_KEY_ID`; `ldap` reads `username`, `password`, `url`, `ca.crt`, `tls.crt`, `tls.key` and `token`: give the one that counts such a name, or point at it with `secretRef.key`",
        ),
    );
    check("aws", &[SecretKey(&["AWS_ACCESS_KEY_ID"])], None);
    check("token", &[TOKEN], None);
}

#[test]
fn a_whole_secret_of_which_nothing_was_used_is_told() {
    let spec = |name: &str| format!("  type: smtp\n  secretRef: {{name: {name}}}\n");
    let resolved = resolve(&spec("token"));
    assert_eq!(
        resolved.unread().map(said).unwrap(),
        "t.yaml:6:14: secret `default/token` has no key that `smtp` reads with these settings; it has `bearer`; name the one that counts with `secretRef.key`, or call them `username` and `password`"
    );
    assert_eq!(resolved.own_key(TOKEN).unwrap().expose(), "tok-12345");
    assert_eq!(resolved.unread(), None);
    // An empty login is none.
    let unread = resolve(&spec("emptied")).unread().map(said).unwrap();
    assert!(unread.contains("it has `token` and `user`"), "{unread}");
    // What every type reads was used.
    assert_eq!(resolve(&spec("db")).unread(), None);
    // Not a whole one, and none.
    let one = "  type: smtp\n  secretRef: {name: db, key: token}\n";
    assert_eq!(resolve(one).unread(), None);
    assert_eq!(resolve("  type: smtp\n").unread(), None);
}

/// Or a secret with that key alone would be told as one without any that is read.
#[cfg(debug_assertions)]
#[test]
#[should_panic(expected = "`host` is read and not declared")]
fn what_a_type_did_not_declare_it_cannot_read() {
    resolve("  type: postgres\n  secretRef: {name: db}\n").own_key(SecretKey(&["host"]));
}

#[test]
fn templates_are_filled_from_everything() {
    assert_eq!(
        url(
            "  type: http\n  url: ' https://$(username):{{password}}@$(namespace).$(name).$(properties.zone)/$(type)?x={{ properties.deep.x }} '\n  username: ' a@b '\n  password: secret://db/password\n  properties: {zone: eu, deep: {x: 'a b'}}\n"
        ),
        "https://a%40b:hunter2%40%2F@default.production-db.eu/http?x=a%20b"
    );
    // The one value of a secret is what `$(password)` means.
    assert_eq!(
        url(
            "  type: http\n  url: https://h/?token=$(password)\n  secretRef: {name: db, key: token}\n"
        ),
        "https://h/?token=tok-12345"
    );
    assert_eq!(
        url(
            "  type: postgres\n  url: host=h password=$(password)\n  secretRef: {name: db, key: password}\n"
        ),
        "host=h password='hunter2@/'"
    );
}

#[test]
fn a_filled_value_is_not_scanned_again() {
    let resolved = resolve(
        "  type: http
  url: https://h/$(properties.a)
  password: $(username)
  username: shop
  properties:
    a: x$(properties.b)
    b: y$(password)
    c: $$(username)
    d: '$(a|b) {{\"a\": 1}}'
",
    );
    assert_eq!(resolved.url.unwrap().expose(), "https://h/xy$(username)");
    assert_eq!(
        resolved.properties.get("c").unwrap().text(),
        Some("$(username)")
    );
    assert_eq!(
        resolved.properties.get("d").unwrap().text(),
        Some("$(a|b) {{\"a\": 1}}")
    );
}

#[test]
fn templates_cannot_grow_without_end() {
    let mut spec =
        "  type: http\n  url: https://h/\n  properties:\n    p0: xxxxxxxxxx\n".to_owned();
    for level in 1..=12 {
        spec += &format!(
            "    p{level}: {}\n",
            format!("$(properties.p{})", level - 1).repeat(10)
        );
    }
    let problems = unresolved(&spec);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].ends_with("the templates of this connection fill to more than 1 MiB"));
}

#[test]
fn what_is_missing_is_named_with_where_it_was_looked_for() {
    assert_eq!(
        unresolved(
            "  type: http\n  url: https://h/\n  password: secret://db/pass\n  username: secret://nope/x\n"
        ),
        [
            "t.yaml:8:13: secret `default/nope` was not found; looked in: documents, environment CONNCHECK_SECRET_X_*",
            "t.yaml:7:13: secret `default/db` has no key `pass`; it has `blank`, `ca.crt`, `host`, `password`, `token`, `uri` and `username`; found in the store",
        ]
    );
    assert_eq!(
        unresolved(
            "  type: http\n  secretRef: {name: empty, namespace: vault, key: x}\n  password: env://NOPE\n  username: file:///nope\n"
        ),
        [
            "t.yaml:6:14: secret `vault/empty` has no key `x`; it is empty; found in the store",
            "t.yaml:8:13: file `/nope`: permission denied",
            "t.yaml:7:13: environment variable `NOPE` was not found",
        ]
    );
    assert_eq!(
        unresolved(
            "  type: http\n  url: https://$(password)@h/\n  secretRef: {name: empty, namespace: vault}\n"
        ),
        [
            "t.yaml:7:14: secret `vault/empty` has no keys; `http` reads `username`, `password`, `url`, `ca.crt`, `tls.crt` and `tls.key`: give the one that counts such a name, or point at it with `secretRef.key`"
        ]
    );
}

#[test]
fn each_secret_is_looked_up_once_for_all_keys_that_are_wanted() {
    struct Count(std::sync::Mutex<Vec<String>>);

    impl Lookup for Count {
        fn find(
            &self,
            kind: RefKind,
            ns: &str,
            name: &str,
            wanted: &[&str],
        ) -> Result<Found, NotFound> {
            let asked = format!("{kind:?} {ns}/{name} {}", wanted.join(","));
            self.0.lock().unwrap().push(asked);
            Err(NotFound::default())
        }
        fn file(&self, _: &str) -> Result<Secret, NotFound> {
            Err(NotFound::default())
        }
        fn env(&self, _: &str) -> Result<Secret, NotFound> {
            Err(NotFound::default())
        }
    }

    let count = Count(Default::default());
    let connection = connection(
        "  type: http\n  url: https://h/\n  username: secret://db/u\n  password: secret://db/p\n  secretRef: {name: db, key: k}\n  properties: {x: secret://db/u}\n",
    );
    let problems = connection.resolve("http", &[], &count).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(*count.0.lock().unwrap(), ["Secret default/db k,p,u"]);
    // Of a whole one, those that this type reads.
    let count = Count(Default::default());
    let connection = self::connection("  type: http\n  secretRef: {name: db}\n");
    for own_keys in [&[][..], &[TOKEN]] {
        connection.resolve("http", own_keys, &count).unwrap_err();
    }
    assert_eq!(
        *count.0.lock().unwrap(),
        [
            "Secret default/db ca.crt,dsn,password,tls.crt,tls.key,uri,url,user,username",
            "Secret default/db bearer,ca.crt,dsn,password,tls.crt,tls.key,token,uri,url,user,username",
        ]
    );
}

#[test]
fn what_is_not_known_yet_is_no_mistake() {
    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Settings {
        #[serde(default)]
        port: Option<u16>,
        #[serde(default)]
        list: Vec<u16>,
        #[serde(default)]
        method: Option<String>,
    }

    let spec =
        |properties: &str| format!("  type: http\n  url: https://h/\n  properties: {properties}\n");
    let mistakes = |properties: &str| -> Vec<String> {
        let partial = connection(&spec(properties)).resolve_partly("http", &[]);
        match partial.resolved.properties.deserialize_all::<Settings>() {
            Ok(_) => Vec::new(),
            Err(errors) => errors
                .iter()
                .map(|error| format!("{} {}", error.path, error.message))
                .collect(),
        }
    };
    assert_eq!(
        mistakes("{port: secret://x/y, list: [1, secret://x/y], method: '$(properties.port)'}"),
        [""; 0]
    );
    assert_eq!(
        mistakes("{port: secret://x/y, list: [x, secret://x/y], methd: GET}"),
        [
            "properties.list[0] `properties.list[0]`: expected a whole number from 0 to 65535, found text",
            "properties.methd unknown property `methd`",
        ]
    );
}

#[test]
fn a_partial_knows_what_it_knows() {
    let partial = connection(
        "  type: http\n  url: https://$(name)/\n  username: shop\n  password: secret://x/y\n  clientCert: pem\n  clientKey: secret://x/z\n  properties: {a: secret://x/y}\n",
    )
    .resolve_partly("http", &[]);
    assert!(partial.url_is_known);
    assert_eq!(
        partial.resolved.url.as_ref().unwrap().expose(),
        "https://production-db/"
    );
    assert!(partial.is_known(Field::Username));
    assert!(!partial.is_known(Field::Password));
    assert!(partial.resolved.password.is_some());
    assert!(partial.resolved.client_cert.is_none() && partial.resolved.client_key.is_none());
    let place = &partial.resolved.properties.get("a").unwrap().place;
    assert!(partial.is_unknown_at(place));

    let url_known = |spec: &str| connection(spec).resolve_partly("http", &[]).url_is_known;
    assert!(!url_known(
        "  type: http\n  url: https://$(password)@h/\n  secretRef: {name: db}\n"
    ));
    assert!(!url_known(
        "  type: http\n  url: https://h/\n  secretRef: {name: db, key: url}\n"
    ));
    assert!(url_known(
        "  type: http\n  url: https://h/\n  secretRef: {name: db, key: token}\n"
    ));
    assert!(!url_known("  type: http\n  secretRef: {name: db}\n"));
    assert!(!url_known(
        "  type: http\n  url: https://h/$(properties.a)\n  properties: {a: env://X}\n"
    ));
    assert!(
        url_known("  type: http\n  properties: {a: env://X}\n"),
        "it is known to be absent"
    );
}

#[test]
fn without_references_nothing_is_looked_up() {
    let connection = connection("  type: http\n  url: https://h/$(name)\n");
    assert!(!connection.needs_lookup());
    connection
        .resolve("http", &[], &Documents::default())
        .unwrap();
}

#[track_caller]
fn secrets(spec: &str, expected: &[&str]) {
    let resolved = resolve(spec);
    let mut secrets: Vec<&str> = resolved.secrets.iter().map(Secret::expose).collect();
    secrets.sort_unstable();
    assert_eq!(secrets, expected);
}

#[test]
fn what_stands_where_secrets_stand_is_secret() {
    secrets(
        "  type: http
  url: https://user%40x:p%20w1@h.example.com/path1?token=abc%2F1&page=second
  properties:
    headers: {Authorization: Bearer tok-en, Accept: application/json, X-Tenant: tenant-a}
    bearer: bear-er
    apiKeyHeader: X-Api-Key
    method: DELETE
    oauth: {clientSecret: client-secret, clientID: client-id, tokenURL: 'https://login.example.com/token'}
",
        &[
            "Bearer tok-en", "abc%2F1", "abc/1", "bear-er", "client-secret", "p w1", "p%20w1", "tenant-a", "tok-en", "user%40x", "user%40x:p%20w1", "user@x", "user@x:p w1",
        ],
    );
    secrets(
        "  type: http\n  url: https://h/\n  properties:\n    headers: [{name: Accept, value: text/html}, {name: X-Key, value: header-key}]\n",
        &["header-key"],
    );
    secrets(
        "  type: postgres\n  url: host=h user=shop password='it\\'s' port=5432\n",
        &["it's", "it\\'s"],
    );
    secrets(
        "  type: mssql\n  url: Server=h;User Id=sa;Password=hunter2;x=y\n",
        &["hunter2"],
    );
    secrets(
        "  type: mysql\n  url: user:hunter2@tcp(h:3306)/db\n",
        &["hunter2", "user", "user:hunter2"],
    );
}

#[test]
fn what_came_from_a_secret_is_secret_unless_it_is_public_anyway() {
    secrets(
        "  type: postgres\n  url: postgres://h/\n  secretRef: {name: db}\n",
        &[
            "-----BEGIN CERTIFICATE-----",
            "hunter2@/",
            "postgres://$(username):$(password)@db.example.com/$(unknown)",
            "shop",
            "tok-12345",
        ],
    );
    // A config map holds no secrets, unless it is used as one.
    secrets(
        "  type: http\n  url: configmap://db/host\n  username: configmap://db/user\n",
        &["confmap-user"],
    );
    // Said in public: the name, the type, a literal user, the host.
    secrets(
        "  type: postgres\n  url: postgres://postgres:production-db@db.example.com/\n  username: admin\n  password: admin\n",
        &["postgres:production-db"],
    );
}
