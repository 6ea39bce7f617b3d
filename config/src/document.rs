//! Documents: which are ours, and what is wrong with them.

use std::collections::BTreeMap;

use crate::resolve::{Found, RefKind};
use crate::{ConfigError, Connection, Identity, Place, Secret};

/// Whether the author of a definition may have our files and environment read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Came from a file of ours: `file://` and `env://` are read.
    Local,
    /// Came from the Kubernetes API: `file://` and `env://` are refused.
    Remote,
}

/// Reads texts, any number of documents each, and collects what is right and what is wrong.
#[derive(Debug, Default)]
pub struct Loader {
    loaded: Loaded,
}

/// What a [`Loader`] found.
#[derive(Debug, Default)]
pub struct Loaded {
    pub connections: Vec<Connection>,
    pub documents: Documents,
    pub errors: Vec<ConfigError>,
    pub warnings: Vec<ConfigError>,
    /// Documents of other kinds, which are not ours to judge.
    pub passed_over: Vec<PassedOver>,
}

/// A document of a kind that is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedOver {
    pub place: Place,
    pub kind: String,
}

/// The Secret and ConfigMap documents among the loaded ones.
#[derive(Clone, Debug, Default)]
pub struct Documents {
    found: BTreeMap<(RefKind, Identity), Found>,
}

impl Loader {
    /// Reads the documents of one text. `file` is what messages call it.
    pub fn add(&mut self, _file: &str, _text: &str, _trust: Trust) {}

    /// Everything that was read; duplicate identities are found here.
    pub fn finish(self) -> Loaded {
        self.loaded
    }
}

impl Documents {
    /// The document of that kind, namespace and name.
    pub fn find(&self, kind: RefKind, namespace: &str, name: &str) -> Option<Found> {
        let id = Identity {
            namespace: namespace.into(),
            name: name.into(),
        };
        self.found.get(&(kind, id)).cloned()
    }

    /// Every value of every Secret document, for whoever must keep them from being printed.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        self.found
            .iter()
            .filter(|((kind, _), _)| *kind == RefKind::Secret)
            .flat_map(|(_, found)| found.values.values())
    }
}
