//! What the owner wrote: one `Connection`.

use std::collections::BTreeMap;

use crate::{Identity, Place, Spanned};

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
