//! Which values of a connection must never be printed.

use std::collections::HashSet;

use percent_encoding::percent_decode_str;

use crate::Secret;
use crate::connection::Connection;
use crate::node::{Data, Node};
use crate::resolve::{Field, Resolved};
use crate::secret::is_commonplace;
use crate::urls::urls;
use crate::value::{self, Value};

/// Collects the secrets of one connection.
#[derive(Default)]
pub(crate) struct Secrets(Vec<Secret>);

impl Secrets {
    pub fn add(&mut self, value: &Secret) {
        self.0.push(value.trimmed());
    }

    pub fn extend<'a>(&mut self, values: impl Iterator<Item = &'a Secret>) {
        values.for_each(|value| self.add(value));
    }

    /// With those that stand in fields for secrets, without those that are public anyway; the
    /// longest first, so that no part of one is left when they are taken out of a text in turn. What
    /// stands in a field that is not `known` is a placeholder.
    pub fn of(
        mut self,
        connection: &Connection,
        type_name: &str,
        resolved: &Resolved,
        known: impl Fn(Field) -> bool,
    ) -> Vec<Secret> {
        let username = connection.spec.username.as_ref();
        let is_public = username.and_then(Value::literal).is_some();
        for (field, value) in [
            (Field::Password, &resolved.password),
            (Field::SecretRef, &resolved.key),
            (Field::ClientKey, &resolved.client_key),
            (Field::Username, &resolved.username),
        ] {
            if known(field) && !(field == Field::Username && is_public) {
                self.extend(value.iter());
            }
        }
        if let Some(url) = &resolved.url {
            self.address(url.expose());
        }
        self.properties(&resolved.properties, "", false);

        let public = Public::of(connection, type_name, resolved);
        let mut seen = HashSet::new();
        self.0.retain(|secret| {
            !public.covers(secret.expose()) && seen.insert(secret.expose().to_owned())
        });
        self.0
            .sort_by_key(|secret| std::cmp::Reverse(secret.expose().len()));
        self.0
    }

    fn push(&mut self, text: &str) {
        self.0.push(Secret::new(text.trim()));
    }

    /// As it is written and as it is meant.
    fn push_encoded(&mut self, text: &str) {
        self.push(text);
        self.push(&percent_decode_str(text).decode_utf8_lossy());
    }

    /// User-info, and what is called a password, of a URL or DSN, or of several URLs.
    fn address(&mut self, text: &str) {
        urls(text)
            .into_iter()
            .for_each(|address| self.one_address(address));
    }

    fn one_address(&mut self, address: &str) {
        let rest = address.split_once("://").map(|(_, rest)| rest);
        // A password that is not encoded may hold a `/`.
        let authority = match rest {
            Some(rest) => {
                let host_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                match rest[..host_end].contains('@') {
                    true => &rest[..host_end],
                    false => rest.split_once(['?', '#']).map_or(rest, |(rest, _)| rest),
                }
            }
            None => address,
        };
        if let Some((user_info, _)) = authority.rsplit_once('@') {
            self.push_encoded(user_info);
            if let Some((user, password)) = user_info.split_once(':') {
                self.push_encoded(user);
                self.push_encoded(password);
            }
        }
        let pairs = match (rest, address.split_once('?')) {
            (_, Some((_, query))) => query,
            (None, None) => address,
            (Some(_), None) => return,
        };
        for (key, value) in pairs_of(pairs) {
            if is_secret_name(&key) {
                self.push_encoded(&value);
                // libpq's quoting undone, as far as a scrubber needs it.
                self.push(&value.replace("\\'", "'").replace("\\\\", "\\"));
            }
        }
    }

    /// `secret`: the node stands under a name that promises a secret.
    fn properties(&mut self, node: &Node, name: &str, secret: bool) {
        match &node.data {
            Data::Scalar(scalar) => {
                let text = scalar.text.expose();
                // These may be given by their path, which messages name.
                let is_path = matches!(name, "kubeconfig" | "credentials" | "federatedTokenFile")
                    && text.trim_start().starts_with('/');
                if secret && !is_path {
                    self.push(text);
                    // `Bearer abc`: the token alone is as secret.
                    if let Some((_, token)) = text.split_once(' ') {
                        self.push(token);
                    }
                }
                if text.contains("://") {
                    self.address(text);
                }
            }
            Data::Seq(items) => items
                .iter()
                .for_each(|item| self.properties(item, name, secret)),
            Data::Map(_) => {
                // A header as `{name: …, value: …}` is judged by its name.
                let header = node.get("name").and_then(Node::text);
                for (key, _, value) in node.iter() {
                    let secret = match name == "headers" {
                        true => match (header, key) {
                            (Some(_), "name") => false,
                            (Some(header), _) => !is_public_header(header),
                            (None, _) => !is_public_header(key),
                        },
                        false => secret || is_secret_name(key),
                    };
                    self.properties(value, key, secret);
                }
            }
            Data::Removed => {}
        }
    }
}

/// `key=value` pairs behind `&`, `;` or white space, quotes taken off.
fn pairs_of(text: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut rest = text;
    while let Some((key, value)) = rest.split_once('=') {
        let key = key.trim_matches(|c: char| c.is_whitespace() || matches!(c, '&' | ';'));
        let key = key.rsplit(['&', ';']).next().unwrap_or(key).trim();
        let value = value.trim_start();
        let end = match value.chars().next() {
            Some(quote @ ('\'' | '"')) => closing(value, quote),
            // White space ends a value of libpq's, not of ADO's, whose passwords rarely have any.
            _ => value
                .find(|c: char| c.is_whitespace() || matches!(c, '&' | ';' | '#'))
                .unwrap_or(value.len()),
        };
        let bare = value[..end].trim_matches(['\'', '"']);
        pairs.push((key.to_owned(), bare.to_owned()));
        rest = &value[end..];
    }
    pairs
}

/// Where the text that starts with `quote` ends, its closing quote included.
fn closing(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// Whether a field of this name holds a secret.
fn is_secret_name(name: &str) -> bool {
    const SIGNS: [&str; 12] = [
        "pass",
        "pwd",
        "secret",
        "token",
        "bearer",
        "apikey",
        "api-key",
        "authorization",
        "cookie",
        "credential",
        "kubeconfig",
        "privatekey",
    ];
    // These hold the name of something that is secret, or where to get one.
    const NAMES: [&str; 4] = ["apikeyheader", "tokenurl", "token_url", "secretname"];
    let name = name.to_ascii_lowercase();
    if NAMES.contains(&name.as_str()) {
        return false;
    }
    name == "key" || name.ends_with("key") || SIGNS.iter().any(|sign| name.contains(sign))
}

/// Headers whose values say nothing about who sends them. A value that came from a secret is
/// secret all the same.
fn is_public_header(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.starts_with("accept")
        || matches!(
            name.as_str(),
            "content-type"
                | "user-agent"
                | "cache-control"
                | "connection"
                | "host"
                | "origin"
                | "pragma"
                | "referer"
        )
}

/// What a message about the connection says in any case.
struct Public(HashSet<String>);

impl Public {
    fn of(connection: &Connection, type_name: &str, resolved: &Resolved) -> Self {
        let mut public = HashSet::new();
        let mut add = |text: &str| public.insert(text.trim().to_owned());
        add(&connection.id.name);
        add(&connection.id.namespace);
        add(type_name);
        connection.type_name.iter().for_each(|name| {
            add(&name.value);
        });
        if let Some(username) = connection.spec.username.as_ref().and_then(Value::literal)
            && value::reference(username).is_none()
        {
            add(username);
        }
        // Which kind of credential, and none itself.
        if type_name == "azure"
            && let Some(kind) = resolved.properties.get("credential").and_then(Node::text)
        {
            add(kind);
        }
        let authority_end = |rest: &str| rest.find(['/', '?', '#']).unwrap_or(rest.len());
        if let Some(url) = &resolved.url
            && let Some((_, rest)) = url.expose().split_once("://")
        {
            let authority = &rest[..authority_end(rest)];
            let authority = authority.rsplit('@').next().unwrap_or_default();
            for address in authority.split(',') {
                add(address);
                add(address.rsplit_once(':').map_or(address, |(host, _)| host));
            }
        }
        // The path of a URL that anyone can read in the definition: as it is written there, since a
        // template may have brought a secret into it.
        if let Some(url) = connection.spec.url.as_ref().and_then(Value::literal)
            && let Some((_, rest)) = url.split_once("://")
        {
            let path = rest[authority_end(rest)..].split(['?', '#']).next();
            path.unwrap_or_default().split('/').for_each(|part| {
                add(part);
            });
        }
        Self(public)
    }

    /// Whether `text` may be printed although it stands where secrets stand.
    ///
    /// Taking `postgres` out of every line would make reports unreadable, so these are not
    /// secrets: what is shorter than four letters, `true` and `false`, numbers of fewer than six
    /// digits (ports, counts), and what the definition says in public: the connection's name,
    /// namespace and type, a literal `spec.username`, the URL's hosts and a literal URL's path.
    fn covers(&self, text: &str) -> bool {
        is_commonplace(text) || self.0.contains(text)
    }
}
