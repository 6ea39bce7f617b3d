//! A value that must not be seen.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use zeroize::Zeroizing;

/// What stands wherever a secret would.
pub const REDACTED: &str = "[redacted]";

/// A secret text: prints as `[redacted]`, is never serialized, and is wiped when dropped.
///
/// [`Secret::expose`] stands only where a driver takes the value.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes ownership of `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The value itself, for the one who hands it to a peer.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The same secret without the white space around it: a newline at the end of one is common.
    #[must_use]
    pub fn trimmed(&self) -> Self {
        Self::new(self.0.trim())
    }

    /// Whether its text stands in too many others to be taken out of them: what is shorter than four
    /// letters, `true` and `false`, numbers of fewer than six digits (ports, counts).
    pub fn is_commonplace(&self) -> bool {
        is_commonplace(&self.0)
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

pub(crate) fn is_commonplace(text: &str) -> bool {
    let few_digits = text.len() < 6 && text.bytes().all(|b| b.is_ascii_digit());
    text.chars().count() < 4 || matches!(text, "true" | "false") || few_digits
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl<'de> Deserialize<'de> for Secret {
    /// Reads a scalar. The error never quotes what stood there, as serde's own would.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Secret;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Secret, E> {
                Ok(Secret::new(text))
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<Secret, E> {
                Ok(Secret::new(text))
            }
        }

        deserializer.deserialize_string(Text)
    }
}

/// Written like any text.
impl JsonSchema for Secret {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }
}
