//! Who runs a server: PostgreSQL refuses to run as root.

use std::{fs, os::unix::fs::chown, path::Path};

use crate::error::{Error, Result};

#[derive(Debug, Clone, Copy)]
pub(crate) struct User {
    pub uid: u32,
    pub gid: u32,
}

impl User {
    /// The named user when we are root, else `None`: we run as ourselves.
    pub fn instead_of_root(name: &str) -> Result<Option<User>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let passwd =
            fs::read_to_string("/etc/passwd").map_err(Error::doing("cannot read /etc/passwd"))?;
        passwd
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .find(|fields| fields.first() == Some(&name))
            .and_then(|fields| {
                Some(User {
                    uid: fields.get(2)?.parse().ok()?,
                    gid: fields.get(3)?.parse().ok()?,
                })
            })
            .map(Some)
            .ok_or_else(|| {
                Error::new(format!(
                    "we are root, and there is no user `{name}` to run the server as"
                ))
            })
    }
}

/// Hands `path` to the user, if it is another than us.
pub(crate) fn give(path: &Path, user: Option<User>) -> Result<()> {
    let Some(user) = user else { return Ok(()) };
    chown(path, Some(user.uid), Some(user.gid))
        .map_err(Error::doing(format!("cannot chown {}", path.display())))
}
