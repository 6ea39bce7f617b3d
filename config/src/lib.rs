//! Text to [`Connection`]: no tokio, no driver, no I/O.

mod connection;
mod error;
mod secret;

pub use connection::Connection;
pub use error::{ConfigError, Identity, Place};
pub use secret::Secret;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spanned<T> {
    pub value: T,
    pub place: Place,
}
