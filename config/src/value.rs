//! Values: a text, or a reference to one.

use std::fmt;

use crate::words::quoted;
use crate::{Place, RefKind, Secret};

/// A text as it stands, or where to find it.
#[derive(Clone)]
pub(crate) struct Value {
    pub place: Place,
    pub source: Source,
}

#[derive(Clone)]
pub(crate) enum Source {
    Literal(Secret),
    Reference(Reference),
}

/// Where a value is to be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reference {
    /// A key of a secret or config map in the connection's own namespace.
    Key {
        kind: RefKind,
        name: String,
        key: String,
    },
    /// `file:///path`
    File(String),
    /// `env://NAME`
    Env(String),
}

impl Value {
    /// A text with nothing in it.
    pub fn is_empty(&self) -> bool {
        self.literal().is_some_and(|text| text.trim().is_empty())
    }

    /// The text, when it is one.
    pub fn literal(&self) -> Option<&str> {
        match &self.source {
            Source::Literal(text) => Some(text.expose()),
            Source::Reference(_) => None,
        }
    }
}

impl Reference {
    /// Whether it reads what belongs to the machine rather than to the connection's owner.
    pub fn is_local(&self) -> bool {
        !matches!(self, Self::Key { .. })
    }

    /// The same as a text.
    pub fn as_text(&self) -> String {
        match self {
            Self::Key { kind, name, key } => {
                let scheme = match kind {
                    RefKind::Secret => "secret",
                    RefKind::ConfigMap => "configmap",
                };
                format!("{scheme}://{name}/{key}")
            }
            Self::File(path) => format!("file://{path}"),
            Self::Env(name) => format!("env://{name}"),
        }
    }

    /// Whether the value is secret by where it comes from. A config map's is not.
    pub fn is_secret(&self) -> bool {
        !matches!(
            self,
            Self::Key {
                kind: RefKind::ConfigMap,
                ..
            }
        )
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::Literal(_) => f.write_str(crate::secret::REDACTED),
            Source::Reference(reference) => reference.fmt(f),
        }
    }
}

/// Why a text that starts like a reference is none: message and hint.
pub(crate) type NotAReference = (String, Option<String>);

/// Reads a text that starts like a reference; `None` for any other.
pub(crate) fn reference(text: &str) -> Option<Result<Reference, NotAReference>> {
    let text = text.trim();
    if let Some(rest) = text.strip_prefix("secret://") {
        Some(key(RefKind::Secret, "secret", rest))
    } else if let Some(rest) = text.strip_prefix("configmap://") {
        Some(key(RefKind::ConfigMap, "configmap", rest))
    } else if let Some(rest) = text.strip_prefix("file://") {
        Some(file(rest))
    } else if let Some(name) = text.strip_prefix("env://") {
        Some(env(name))
    } else {
        let (scheme, _) = text.split_once("://")?;
        UNSUPPORTED
            .iter()
            .find(|(name, _)| *name == scheme)
            .map(|(scheme, instead)| {
                let message = format!("`{scheme}://` references are not supported");
                Err((
                    message,
                    Some(format!("{instead}, and write `secret://NAME/KEY`")),
                ))
            })
    }
}

/// References of others, and what to do instead.
const UNSUPPORTED: [(&str, &str); 3] = [
    ("helm", "put the value into a secret"),
    (
        "serviceaccount",
        "put a token of the service account into a secret",
    ),
    ("connection", "put what both connections need into a secret"),
];

fn key(kind: RefKind, scheme: &str, rest: &str) -> Result<Reference, NotAReference> {
    let form = format!("write `{scheme}://NAME/KEY`");
    match rest.split('/').collect::<Vec<_>>().as_slice() {
        [name, key] if !name.is_empty() && !key.is_empty() => {
            if let Err(problem) = check_name(name, false) {
                return Err((
                    format!("`{scheme}://` reference: the name {problem}"),
                    Some(form),
                ));
            }
            if !key
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
            {
                let message = format!(
                    "`{scheme}://` reference: the key may have letters, digits, `-`, `_` and `.`"
                );
                return Err((message, Some(form)));
            }
            Ok(Reference::Key {
                kind,
                name: (*name).to_owned(),
                key: (*key).to_owned(),
            })
        }
        [name] | [name, ""] if !name.is_empty() => {
            Err((format!("`{scheme}://` reference without a key"), Some(form)))
        }
        [_, _, _] => Err((
            format!("`{scheme}://` reference with more than a name and a key"),
            Some(format!(
                "{form}; it is looked up in the connection's own namespace"
            )),
        )),
        _ => Err((
            format!("`{scheme}://` reference without a name"),
            Some(form),
        )),
    }
}

fn file(rest: &str) -> Result<Reference, NotAReference> {
    match rest.starts_with('/') && rest.len() > 1 {
        true => Ok(Reference::File(rest.to_owned())),
        false => Err((
            "`file://` reference without an absolute path".to_owned(),
            Some("write `file:///path`, with three slashes".to_owned()),
        )),
    }
}

fn env(name: &str) -> Result<Reference, NotAReference> {
    let mut chars = name.chars();
    let first = chars
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    match first && chars.all(|c| c.is_ascii_alphanumeric() || c == '_') {
        true => Ok(Reference::Env(name.to_owned())),
        false => Err((
            "`env://` reference without the name of a variable".to_owned(),
            Some("write `env://NAME`; a name has letters, digits and `_`".to_owned()),
        )),
    }
}

/// Whether Kubernetes would take `name`: as the name of an object, or (`label`) of a namespace.
/// The error continues a sentence that starts with the name.
pub(crate) fn check_name(name: &str, label: bool) -> Result<(), String> {
    let longest = if label { 63 } else { 253 };
    if name.is_empty() {
        return Err("is empty".to_owned());
    }
    if name.len() > longest {
        return Err(format!("is longer than {longest} letters"));
    }
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let inner = |b: u8| edge(b) || b == b'-' || (b == b'.' && !label);
    let ends = edge(name.as_bytes()[0]) && edge(name.as_bytes()[name.len() - 1]);
    match ends && name.bytes().all(inner) && !name.contains("..") {
        true => Ok(()),
        false if label => Err("may only have lower-case letters, digits and inner `-`".to_owned()),
        false => Err("may only have lower-case letters, digits and inner `-` and `.`".to_owned()),
    }
}

/// A name close to `name` that Kubernetes would take, for a hint.
pub(crate) fn mended_name(name: &str, label: bool) -> Option<String> {
    let mended: String = name
        .trim()
        .chars()
        .map(|c| match c.to_ascii_lowercase() {
            ' ' | '_' | '/' => '-',
            '.' if label => '-',
            c => c,
        })
        .collect();
    check_name(&mended, label)
        .is_ok()
        .then(|| format!("did you mean {}?", quoted(&mended)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_in_all_their_forms() {
        let check = |text: &str, expected: Reference| {
            assert_eq!(reference(text), Some(Ok(expected)), "{text}");
        };
        let key = |kind, name: &str, key: &str| Reference::Key {
            kind,
            name: name.into(),
            key: key.into(),
        };
        check("secret://db/pass", key(RefKind::Secret, "db", "pass"));
        check(
            " secret://db/tls.key\n",
            key(RefKind::Secret, "db", "tls.key"),
        );
        check(
            "configmap://db.conf/ca_1",
            key(RefKind::ConfigMap, "db.conf", "ca_1"),
        );
        check("file:///etc/a b", Reference::File("/etc/a b".into()));
        check("env://PGPASSWORD", Reference::Env("PGPASSWORD".into()));
        assert_eq!(reference("https://secret://x"), None);
        assert_eq!(reference("secret:/x/y"), None);
    }

    #[test]
    fn a_broken_reference_says_how_to_write_it() {
        for text in [
            "secret://",
            "secret://x",
            "secret://x/",
            "secret:///y",
            "secret://a/b/c",
            "secret://A/b",
            "secret://a/b c",
            "file://",
            "file:///",
            "file://etc/x",
            "env://",
            "env://1X",
            "env://A-B",
        ] {
            let Some(Err((_, hint))) = reference(text) else {
                panic!("{text} was accepted");
            };
            assert!(
                hint.is_some_and(|hint| hint.starts_with("write `")),
                "{text}"
            );
        }
    }

    #[test]
    fn names_as_kubernetes_takes_them() {
        for name in ["a", "production-db", "a.b", "0"] {
            assert_eq!(check_name(name, false), Ok(()), "{name}");
        }
        for name in ["", "A", "a_b", "-a", "a-", "a..b", "ä", &"a".repeat(254)] {
            assert!(check_name(name, false).is_err(), "{name}");
        }
        assert!(check_name("a.b", true).is_err());
        assert_eq!(
            mended_name("My DB", false).as_deref(),
            Some("did you mean `my-db`?")
        );
    }
}
