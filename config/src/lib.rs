//! Text to [`Connection`]: no tokio, no driver, no I/O.
//!
//! [`Loader`] takes texts and gives back what was right and everything that was wrong.
//! [`Connection::resolve`] then looks up the references (through a [`Lookup`] that the caller
//! supplies), trims, and fills the templates.

mod connection;
mod de;
mod document;
mod error;
mod forms;
mod in_url;
mod legacy;
mod node;
mod read;
mod resolve;
mod schema;
mod secret;
mod secrets;
mod template;
mod urls;
mod value;
mod words;

pub use connection::{Connection, Partial};
pub use document::{Documents, Loaded, Loader, PassedOver, Trust};
pub use error::{ConfigError, Identity, Place, Spanned};
pub use forms::{BlockInfo, blocks};
pub use legacy::{LegacyInfo, legacy};
pub use node::{Node, NodeError, read_one};
pub use resolve::{
    COMMON_KEYS, Field, Found, Lookup, NotFound, RefKind, Resolved, SecretKey, Unresolved,
};
pub use schema::{TypeWords, schema};
pub use secret::{REDACTED, Secret};
pub use urls::urls;
pub use words::closest;
