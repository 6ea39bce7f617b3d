//! What the owner wrote: one `Connection`.

use std::collections::BTreeMap;

use crate::{ConfigError, Identity, Lookup, Node, Place, Resolved, Spanned, Unresolved};

/// One `Connection` document, read but not yet resolved.
#[derive(Clone, Debug)]
pub struct Connection {
    pub id: Identity,
    /// Where the document starts to be about this connection (its `metadata.name`).
    pub place: Place,
    /// `spec.type` as written; the table of types in the probes crate knows the names.
    pub type_name: Option<Spanned<String>>,
    /// `spec.name`, for people.
    pub display_name: Option<String>,
    pub description: Option<String>,
    pub icon: Option<String>,
    /// `spec.labels` over `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`, each with the place of its value.
    pub annotations: BTreeMap<String, Spanned<String>>,
}

/// A connection as far as it is known before any secret was read.
#[derive(Clone, Debug)]
pub struct Partial {
    pub resolved: Resolved,
    /// Whether `resolved.url` is what it will be.
    pub url_is_known: bool,
}

impl Connection {
    /// A mistake of this connection.
    pub fn error(
        &self,
        place: Place,
        message: impl Into<String>,
        hint: Option<String>,
    ) -> ConfigError {
        ConfigError {
            place,
            type_name: self.type_name.as_ref().map(|name| name.value.clone()),
            connection: Some(self.id.clone()),
            message: message.into(),
            hint,
        }
    }

    /// The lower-case scheme of a literal `url`, for a connection without `type`.
    pub fn url_scheme(&self) -> Option<String> {
        None
    }

    /// Whether anything of it is a reference.
    pub fn needs_lookup(&self) -> bool {
        false
    }

    /// Looks up the references, trims, fills the templates. `type_name` is the canonical one, for
    /// `$(type)`.
    pub fn resolve(
        &self,
        _type_name: &str,
        _lookup: &dyn Lookup,
    ) -> Result<Resolved, Vec<Unresolved>> {
        Err(Vec::new())
    }

    /// The same without looking anything up: a value that is not known yet is a placeholder, so
    /// that the rest can be judged when the definition is loaded.
    pub fn resolve_partly(&self, _type_name: &str) -> Partial {
        Partial {
            resolved: Resolved {
                id: self.id.clone(),
                url: None,
                username: None,
                password: None,
                key: None,
                others: BTreeMap::new(),
                ca_cert: None,
                client_cert: None,
                client_key: None,
                insecure_skip_verify: None,
                properties: Node::empty(self.place.clone()),
                secrets: Vec::new(),
                place: self.place.clone(),
                places: BTreeMap::new(),
            },
            url_is_known: false,
        }
    }
}
