//! Any text gives a result, and no secret comes out of anything.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::disallowed_types,
    reason = "a test panics, and its clock is a real one"
)]

use conncheck_config::{Found, Loader, Lookup, NotFound, RefKind, Secret, Trust, read_one};
use proptest::prelude::*;

/// Loads, resolves and prints everything there is to print.
fn all_that_is_said(text: &str, trust: Trust) -> String {
    let mut loader = Loader::default();
    loader.add("t.yaml", text, trust);
    let debug = format!("{loader:?}");
    let loaded = loader.finish();
    let mut said = format!("{debug}{loaded:#?}{:#?}", loaded.documents);
    for error in loaded.errors.iter().chain(&loaded.warnings) {
        said += &format!("{error}\n{error:?}\n");
    }
    for connection in &loaded.connections {
        said += &format!("{connection:?}{:?}", connection.url_scheme());
        let connection = match connection.clone().of_type("http") {
            Ok(connection) => connection,
            Err(errors) => {
                errors
                    .iter()
                    .for_each(|error| said += &format!("{error}\n{error:?}\n"));
                continue;
            }
        };
        let partial = connection.resolve_partly("http", &[]);
        said += &format!("{partial:#?}");
        said += &errors_of(&partial.resolved.properties);
        match connection.resolve("http", &[], &Everything) {
            Ok(resolved) => said += &format!("{resolved:#?}{}", errors_of(&resolved.properties)),
            Err(unresolved) => said += &format!("{unresolved:#?}"),
        }
    }
    said
}

/// What typed readers dislike about the properties.
fn errors_of(properties: &conncheck_config::Node) -> String {
    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Numbers {
        query: u16,
        headers: std::collections::BTreeMap<String, bool>,
        body: Mode,
        list: Vec<Either>,
    }
    #[derive(Debug, serde::Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Mode {
        On,
        Off,
    }
    #[derive(Debug, serde::Deserialize)]
    #[serde(untagged)]
    #[allow(dead_code)]
    enum Either {
        Number(u8),
        Both { a: u8 },
    }
    // Only what went wrong: what was read is the reader's own.
    match properties.deserialize_all::<Numbers>() {
        Ok(_) => String::new(),
        Err(errors) => format!("{errors:#?}"),
    }
}

/// Has every secret, each full of markers.
struct Everything;

impl Lookup for Everything {
    fn find(&self, _: RefKind, _: &str, _: &str, wanted: &[&str]) -> Result<Found, NotFound> {
        let values = wanted
            .iter()
            .map(|key| ((*key).to_owned(), Secret::new(MARKER)));
        Ok(Found {
            source: "everywhere".into(),
            values: values.collect(),
        })
    }

    fn file(&self, _: &str) -> Result<Secret, NotFound> {
        Ok(Secret::new(MARKER))
    }

    fn env(&self, _: &str) -> Result<Secret, NotFound> {
        Ok(Secret::new(MARKER))
    }
}

const MARKER: &str = "zQ7marker9Xp";

/// A value in which nothing is missing that could upset a reader.
fn values() -> Vec<String> {
    [
        MARKER,
        "MARKER MARKER",
        "'MARKER'",
        "\"MARKER\"",
        "{MARKER}",
        "{MARKER: MARKER}",
        "{value: MARKER}",
        "{value: {MARKER: 1}}",
        "{valueFrom: MARKER}",
        "{valueFrom: {secretKeyRef: MARKER}}",
        "[MARKER]",
        "!MARKER x",
        "*MARKER",
        "@MARKER",
        "%MARKER",
        "|\n    MARKER",
        "\"MARKER",
        "MARKER: MARKER",
        "$(MARKER)",
        "{{MARKER}}",
        "'{{ .MARKER }}'",
        "a$(MARKER)b",
        "https://user:MARKER@h/?password=MARKER",
        "https://MARKER@h:port/",
        "host=h password=MARKER",
        "secret://MARKER MARKER",
        "secret://a/MARKER/b",
        "env://MARKER-MARKER",
        "file://MARKER",
        "secret://a/b",
        "\\MARKER",
        "\"\\xMARKER\"",
        "`MARKER",
        "<<MARKER",
        "- MARKER",
        "? MARKER",
        "MARKER #MARKER",
        "0xMARKER",
        "null MARKER",
    ]
    .iter()
    .map(|value| value.replace("MARKER", MARKER))
    .collect()
}

/// Public words (names, types, labels) may be shown; everything else must not.
#[test]
fn no_value_of_any_field_is_ever_said() {
    let connection = [
        "url",
        "username",
        "password",
        "caCert",
        "clientCert",
        "clientKey",
        "insecureSkipVerify",
        "secretRef",
        "properties",
        "description",
        "icon",
    ]
    .map(|field| format!("spec:\n  type: http\n  {field}: VALUE\n"));
    let properties = ["query", "headers", "body", "list"].map(|field| {
        format!("spec:\n  type: http\n  url: https://h/\n  properties:\n    {field}: VALUE\n")
    });
    let headers = [
        "spec:\n  type: http\n  url: https://h/\n  properties:\n    headers:\n      X-Key: VALUE\n"
            .to_owned(),
    ];
    let whole = ["spec: VALUE\n".to_owned()];
    for spec in connection
        .iter()
        .chain(&properties)
        .chain(&headers)
        .chain(&whole)
    {
        for value in values() {
            let spec = spec.replace("VALUE", &value);
            let text = format!("apiVersion: v1\nkind: Connection\nmetadata: {{name: a}}\n{spec}");
            for trust in [Trust::Local, Trust::Remote] {
                unsaid(&text, &all_that_is_said(&text, trust));
            }
        }
    }
    for field in ["stringData", "data"] {
        for value in values() {
            let text = format!(
                "apiVersion: v1\nkind: Secret\nmetadata: {{name: a}}\n{field}:\n  key: {value}\n"
            );
            unsaid(&text, &all_that_is_said(&text, Trust::Local));
        }
    }
    for value in values() {
        let text = format!("interval: {value}\n");
        let settings = read_one::<std::collections::BTreeMap<String, u8>>("t.yaml", &text);
        unsaid(&text, &format!("{:?}", settings.map(|_| ())));
    }
}

/// A key is no secret, and a message may name it. Whatever else holds the marker is.
#[track_caller]
fn unsaid(text: &str, said: &str) {
    let names = [
        format!("unknown field `{MARKER}`"),
        format!("unknown property `{MARKER}`"),
        format!("duplicate key `{MARKER}`"),
        // In a path, and in the table of a secret.
        format!(".{MARKER}"),
        format!("\"{MARKER}\": [redacted]"),
    ];
    let rest = names
        .iter()
        .fold(said.to_owned(), |said, name| said.replace(name, ""));
    let lines: Vec<&str> = rest.lines().filter(|line| line.contains(MARKER)).collect();
    assert!(lines.is_empty(), "{text}\nsaid {lines:#?}");
}

/// Pieces of which a text is more likely to upset us than letters.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("apiVersion: v1\nkind: Connection\nmetadata: {name: a}\nspec:\n  ".to_owned()),
        Just("kind: Secret\nmetadata: {name: a}\ndata: ".to_owned()),
        Just("kind: List\nitems:\n".to_owned()),
        prop::sample::select(vec![
            "url: ",
            "type: ",
            "properties: ",
            "password: ",
            "$(",
            ")",
            "{{",
            "}}",
            "username",
            "properties.a",
            "secret://a/b",
            "://",
            "@",
            "---\n",
            "...\n",
            "- ",
            "? ",
            ": ",
            "&a ",
            "*a",
            "<<: ",
            "!x ",
            "!!str ",
            "[",
            "]",
            "{",
            "}",
            "'",
            "\"",
            "|\n",
            ">\n",
            "#",
            "%",
            "\t",
            "\r\n",
            "\n  ",
            "\n    ",
            "\n",
            " ",
            ", ",
            "\u{feff}",
            "\u{0}",
            "\u{85}",
            "\u{2028}",
            "ü",
            "~",
            "null",
            "1",
            "\\",
            "$${{",
            "`",
        ])
        .prop_map(str::to_owned),
        ".{0,8}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn any_text_gives_a_result(pieces in prop::collection::vec(piece(), 0..60)) {
        all_that_is_said(&pieces.concat(), Trust::Local);
    }

    #[test]
    fn any_characters_give_a_result(text in "\\PC{0,200}|[\\[\\]{}:,&*!|>'\"%@`#?\\-\\s a-c]{0,300}") {
        all_that_is_said(&text, Trust::Local);
        let _ = read_one::<Vec<std::collections::BTreeMap<String, u8>>>("t.yaml", &text).map(|_| ());
    }

    /// A secret comes out of the URL as it went in, and ends no part of it on the way.
    #[test]
    fn a_template_brings_any_secret_through_a_url(secret in "[^\\x00]{1,40}", user in "[^\\x00]{1,20}") {
        let secret = secret.trim().to_owned();
        let user = user.trim().to_owned();
        prop_assume!(!secret.is_empty() && !user.is_empty());
        let url = fill("https://$(username):$(password)@host/path?x=$(password)&y=1#f", &user, &secret);
        let rest = url.strip_prefix("https://").unwrap();
        let (user_info, rest) = rest.split_once("@host/path?x=").unwrap();
        let (user_found, password) = user_info.split_once(':').unwrap();
        let query = rest.strip_suffix("&y=1#f").unwrap();
        let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8().unwrap().into_owned();
        prop_assert_eq!(decode(user_found), user);
        prop_assert_eq!(decode(password), secret.clone());
        prop_assert_eq!(decode(query), secret);
    }

    /// And out of a keyword DSN, as libpq reads one.
    #[test]
    fn a_template_brings_any_secret_through_a_dsn(secret in "[^\\x00]{1,40}") {
        let secret = secret.trim().to_owned();
        prop_assume!(!secret.is_empty());
        let dsn = fill("host=h password=$(password) user=u", "u", &secret);
        let quoted = dsn.strip_prefix("host=h password='").unwrap().strip_suffix("' user=u").unwrap();
        let mut found = String::new();
        let mut chars = quoted.chars();
        while let Some(c) = chars.next() {
            prop_assert_ne!(c, '\'');
            found.push(if c == '\\' { chars.next().unwrap() } else { c });
        }
        prop_assert_eq!(found, secret);
    }
}

fn fill(url: &str, user: &str, secret: &str) -> String {
    struct Variables<'a>(&'a str, &'a str);

    impl Lookup for Variables<'_> {
        fn find(&self, _: RefKind, _: &str, _: &str, _: &[&str]) -> Result<Found, NotFound> {
            Err(NotFound::default())
        }

        fn file(&self, _: &str) -> Result<Secret, NotFound> {
            Err(NotFound::default())
        }

        fn env(&self, name: &str) -> Result<Secret, NotFound> {
            Ok(Secret::new(if name == "USER" { self.0 } else { self.1 }))
        }
    }

    let text = format!(
        "apiVersion: v1\nkind: Connection\nmetadata: {{name: a}}\nspec:\n  type: http\n  url: {url}\n  username: env://USER\n  password: env://SECRET\n"
    );
    let mut loader = Loader::default();
    loader.add("t.yaml", &text, Trust::Local);
    let loaded = loader.finish();
    let resolved = loaded.connections[0]
        .resolve("http", &[], &Variables(user, secret))
        .unwrap();
    resolved.url.unwrap().expose().to_owned()
}
