//! One error for the whole rig: who, what, and the way out.

use std::fmt;

/// What went wrong, in words for the person who runs the tests.
#[derive(Debug, Clone)]
pub struct Error {
    message: String,
    /// Another process took the port between our choice and the server's bind; worth another try.
    pub(crate) address_in_use: bool,
    /// Not a failure of the rig: a program that it needs is not installed.
    pub(crate) missing: bool,
    /// And could not be had by installing anything.
    pub(crate) impossible: bool,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(message: impl Into<String>) -> Error {
        Error {
            message: message.into(),
            address_in_use: false,
            missing: false,
            impossible: false,
        }
    }

    /// `program` is not on this machine.
    pub(crate) fn missing(program: &str, package: &str) -> Error {
        Error {
            message: format!(
                "`{program}` is not installed (Debian package `{package}`)\n\
                 hint: `cargo run -p conncheck-rig --bin rig -- install` installs what the tests need"
            ),
            address_in_use: false,
            missing: true,
            impossible: false,
        }
    }

    /// Something that this machine, or this user, cannot have whatever is installed.
    pub(crate) fn not_here(why: impl Into<String>) -> Error {
        Error {
            missing: true,
            impossible: true,
            ..Error::new(why)
        }
    }

    /// For `map_err`: what was being done when the operating system said no.
    pub(crate) fn doing<E: fmt::Display>(what: impl Into<String>) -> impl FnOnce(E) -> Error {
        let what = what.into();
        move |err| Error::new(format!("{what}: {err}"))
    }

    pub(crate) fn with_address_in_use(mut self, yes: bool) -> Error {
        self.address_in_use = yes;
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
