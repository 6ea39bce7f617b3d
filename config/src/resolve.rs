//! References to values: look up, trim, fill the templates.

use std::collections::BTreeMap;

use crate::{Identity, Node, Place, Secret};

/// What a reference points at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefKind {
    Secret,
    ConfigMap,
}

/// Where values are looked for; the daemon supplies it.
pub trait Lookup: Send + Sync {
    /// The first source that has the secret. `wanted`: the keys that would be used (a source that
    /// cannot list its keys, like the environment, is asked for these).
    fn find(
        &self,
        kind: RefKind,
        namespace: &str,
        name: &str,
        wanted: &[&str],
    ) -> Result<Found, NotFound>;

    /// The content of a file, for `file:///path`.
    fn file(&self, path: &str) -> Result<Secret, NotFound>;

    /// The value of a variable, for `env://NAME`.
    fn env(&self, name: &str) -> Result<Secret, NotFound>;
}

/// A [`Lookup`] that has nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoLookup;

impl Lookup for NoLookup {
    fn find(&self, _: RefKind, _: &str, _: &str, _: &[&str]) -> Result<Found, NotFound> {
        Err(NotFound::default())
    }

    fn file(&self, _: &str) -> Result<Secret, NotFound> {
        Err(NotFound::default())
    }

    fn env(&self, _: &str) -> Result<Secret, NotFound> {
        Err(NotFound::default())
    }
}

/// A secret or config map that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where, for messages.
    pub source: String,
    pub values: BTreeMap<String, Secret>,
}

/// Nothing was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NotFound {
    /// Every place that was tried, for messages.
    pub looked_in: Vec<String>,
    /// What went wrong, where more than absence did, such as a file that may not be read.
    pub detail: Option<String>,
}

/// A value that could not be had: what was looked for, where, and which keys exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unresolved {
    pub place: Place,
    pub message: String,
    pub hint: Option<String>,
}

/// The parts of a `Connection` that a message may point at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    Type,
    Url,
    Username,
    Password,
    SecretRef,
    CaCert,
    ClientCert,
    ClientKey,
    InsecureSkipVerify,
    Properties,
}

/// Everything of a connection that a probe is built from; nothing in it is a reference or a
/// template any more.
#[derive(Clone, Debug)]
pub struct Resolved {
    pub id: Identity,
    pub url: Option<Secret>,
    pub username: Option<Secret>,
    pub password: Option<Secret>,
    /// The one value of a `secretRef` with `key`, unless the key is named like a URL.
    pub key: Option<Secret>,
    /// The remaining keys of a `secretRef` without `key`; each type picks its own.
    pub others: BTreeMap<String, Secret>,
    pub ca_cert: Option<Secret>,
    pub client_cert: Option<Secret>,
    pub client_key: Option<Secret>,
    /// From `spec`; `properties.insecureSkipVerify` stays among the properties.
    pub insecure_skip_verify: Option<bool>,
    /// An empty mapping when there are none.
    pub properties: Node,
    /// Every value that came from a reference or stands in a field for secrets: never to be
    /// printed.
    pub secrets: Vec<Secret>,
    pub(crate) place: Place,
    pub(crate) places: BTreeMap<Field, Place>,
}

impl Resolved {
    /// Where `field` stands, or the connection itself when it is not given.
    pub fn place_of(&self, field: Field) -> Place {
        self.places.get(&field).unwrap_or(&self.place).clone()
    }
}
