//! The located tree: YAML in which each node knows its place.

use serde::de::DeserializeOwned;

use crate::{ConfigError, Place};

/// A scalar, a list or a mapping, and where it stands.
#[derive(Clone)]
pub struct Node {
    pub place: Place,
}

/// What is wrong inside a [`Node`]. Never quotes a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeError {
    pub place: Place,
    /// From the root of the tree, such as `properties.headers`.
    pub path: String,
    /// Complete: names the path where that helps.
    pub message: String,
    pub hint: Option<String>,
}

impl Node {
    /// An empty mapping that stands at `place`.
    pub(crate) fn empty(place: Place) -> Self {
        Self { place }
    }

    /// The tree as a `T`, or the first mistake.
    pub fn deserialize<T: DeserializeOwned>(&self) -> Result<T, NodeError> {
        self.deserialize_all().map_err(|_| NodeError {
            place: self.place.clone(),
            path: String::new(),
            message: "not built yet".into(),
            hint: None,
        })
    }

    /// The tree as a `T`, or every mistake in it, in the order of the file. Mistakes that hang on
    /// a value that is not known yet (see `Connection::resolve_partly`) are left out, so the list
    /// may be empty.
    pub fn deserialize_all<T: DeserializeOwned>(&self) -> Result<T, Vec<NodeError>> {
        Err(Vec::new())
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node({})", self.place)
    }
}

/// One YAML document of settings into a `T`: strict, every mistake located.
pub fn read_one<T: DeserializeOwned>(_file: &str, _text: &str) -> Result<T, Vec<ConfigError>> {
    Err(Vec::new())
}
