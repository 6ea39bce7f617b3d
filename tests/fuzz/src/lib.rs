//! What the targets do with a text. Whatever it says there is a result, and a result says nothing that
//! it must not.

use std::sync::Once;

use conncheck_config::{
    Connection, Found, Loader, Lookup, NotFound, RefKind, Resolved, Secret, Trust, read_one,
};
use conncheck_probes::Files;
use conncheck_probes::types::{self, TypeInfo};

/// A text with definitions: loaded, resolved and built as far as its types go.
pub fn load(text: &str) {
    set_up();
    for trust in [Trust::Local, Trust::Remote] {
        let mut loader = Loader::default();
        loader.add("fuzz.yaml", text, trust);
        let loaded = loader.finish();
        for error in loaded.errors.iter().chain(&loaded.warnings) {
            let _ = error.to_string();
        }
        for connection in &loaded.connections {
            // No secret has a face.
            let _ = format!("{connection:?}");
            if let Some(info) = type_of(connection) {
                build(connection, info);
            }
        }
    }
    // A quarter of a million aliased values take a sanitizer half a minute, and say nothing new.
    if !text.contains('*') {
        let _ = read_one::<serde_json::Value>("fuzz.yaml", text);
    }
}

/// A text as the `url` of a type, with and without everything that may stand beside it.
pub fn url(type_name: &str, text: &str) {
    set_up();
    // A type that this version has not yet.
    let Ok(info) = types::find(type_name) else {
        return;
    };
    // Lines behind the first are the properties and fields, as YAML.
    let (url, more) = text.split_once('\n').unwrap_or((text, ""));
    let url = serde_json::to_string(url).unwrap_or_default();
    let head = format!("kind: Connection\nmetadata: {{name: a}}\nspec:\n  type: {type_name}\n");
    for more in ["", more] {
        let fields: String = more.lines().map(|line| format!("  {line}\n")).collect();
        let text = format!("{head}  url: {url}\n{fields}");
        let mut loader = Loader::default();
        loader.add("fuzz.yaml", &text, Trust::Local);
        for connection in &loader.finish().connections {
            build(connection, info);
        }
    }
}

fn type_of(connection: &Connection) -> Option<&'static TypeInfo> {
    match connection.type_name.as_ref().or(connection.block.as_ref()) {
        Some(name) => types::find(&name.value).ok(),
        None => types::by_scheme(&connection.url_scheme()?),
    }
}

fn build(connection: &Connection, info: &TypeInfo) {
    let connection = match connection.clone().of_type(info.name) {
        Ok(connection) => connection,
        Err(errors) => {
            assert!(!errors.is_empty());
            for error in errors {
                assert!(!error.to_string().contains(SECRET), "{error}");
            }
            return;
        }
    };
    let partial = info.resolve_partly(&connection);
    // Nothing is said of what hangs on a value that is not known yet.
    judge(info, &partial.resolved, 0);
    match info.resolve(&connection, &Everything) {
        Ok(resolved) => judge(info, &resolved, 1),
        Err(unresolved) => drop(format!("{unresolved:?}")),
    }
}

/// What `Everything` has, so that it is known again.
const SECRET: &str = "zQ7marker9Xp";

/// `least`: how much must be said where it is refused.
fn judge(info: &TypeInfo, resolved: &Resolved, least: usize) {
    match info.build(resolved, &NoFiles) {
        Ok(probe) => {
            // Struck out of whatever a peer says.
            let is_known = (resolved.secrets.iter()).any(|secret| secret.expose() == SECRET);
            let said = probe.scrubber().scrub(SECRET);
            assert!(
                !is_known || said != SECRET,
                "a secret that is not struck out"
            );
        }
        Err(mistakes) => {
            assert!(mistakes.len() >= least, "refused, and nobody says why");
            for mistake in mistakes {
                let said = format!("{} {}", mistake.message, mistake.hint.unwrap_or_default());
                assert!(!said.contains(SECRET), "{said}");
            }
        }
    }
    let _ = info.check_settings(resolved);
}

/// Has every secret.
struct Everything;

impl Lookup for Everything {
    fn find(&self, _: RefKind, _: &str, _: &str, keys: &[&str]) -> Result<Found, NotFound> {
        let values = keys
            .iter()
            .map(|key| ((*key).to_owned(), Secret::new(SECRET)));
        Ok(Found {
            source: "fuzz".to_owned(),
            values: values.collect(),
        })
    }

    fn file(&self, _: &str) -> Result<Secret, NotFound> {
        Ok(Secret::new(SECRET))
    }

    fn env(&self, _: &str) -> Result<Secret, NotFound> {
        Ok(Secret::new(SECRET))
    }
}

struct NoFiles;

impl Files for NoFiles {
    fn read(&self, _: &str) -> Result<Secret, String> {
        Err("there are no files".to_owned())
    }
}

fn set_up() {
    static ONCE: Once = Once::new();
    ONCE.call_once(conncheck_probes::install_crypto_provider);
}
