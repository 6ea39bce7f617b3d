//! What is wrong with a definition: where, whose, what, and the way out.

use std::fmt;
use std::sync::Arc;

/// A place in a file. Lines and columns count from 1; 0 means that the whole file is meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub file: Arc<str>,
    pub line: u32,
    pub column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            f.write_str(&self.file)
        } else {
            write!(f, "{}:{}:{}", self.file, self.line, self.column)
        }
    }
}

/// A namespace and a name: what tells one connection from another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One mistake in a definition, or (among the warnings) one thing to mend.
///
/// Prints as `connections.yaml:19:5: postgres connection `production-db`: unknown property
/// `sslmod``, and the hint on a line of its own behind `hint: `. Never quotes a value that may be
/// secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    pub place: Place,
    /// The type of the connection, where it was understood so far.
    pub type_name: Option<String>,
    /// Whose mistake it is, where it was understood so far.
    pub connection: Option<Identity>,
    pub message: String,
    pub hint: Option<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if let Some(connection) = &self.connection {
            if let Some(type_name) = &self.type_name {
                write!(f, "{type_name} ")?;
            }
            // The default namespace goes without saying.
            match connection.namespace.as_str() {
                "default" => write!(f, "connection `{}`: ", connection.name)?,
                _ => write!(f, "connection `{connection}`: ")?,
            }
        }
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spanned<T> {
    pub value: T,
    pub place: Place,
}

/// One mistake before it is known whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    pub place: Place,
    pub message: String,
    pub hint: Option<String>,
    /// May come from a Helm template that was not rendered.
    pub maybe_helm: bool,
}

impl Mistake {
    pub fn new(place: &Place, message: impl Into<String>) -> Self {
        Self {
            place: place.clone(),
            message: message.into(),
            hint: None,
            maybe_helm: false,
        }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same, with a hint if there is one.
    pub fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint;
        self
    }

    pub fn maybe_helm(mut self) -> Self {
        self.maybe_helm = true;
        self
    }

    /// As an error of no connection.
    pub fn alone(self) -> ConfigError {
        self.of(None, None)
    }

    /// As an error of `connection`.
    pub fn of(self, type_name: Option<String>, connection: Option<Identity>) -> ConfigError {
        ConfigError {
            place: self.place,
            type_name,
            connection,
            message: self.message,
            hint: self.hint,
        }
    }
}
