//! What one run fetches and the next ones find: a folder of its own below `target/rig`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Result},
    install,
};

/// Such a folder.
pub(crate) struct Kept {
    pub name: &'static str,
    /// What is in it. One with anything else is made anew.
    pub contents: &'static [&'static str],
}

/// Written last, so that what was interrupted is made anew; holds the contents.
const READY: &str = "ready";

impl Kept {
    pub fn dir(&self) -> Result<PathBuf> {
        Ok(install::cache_dir()?.join(self.name))
    }

    pub fn is_ready(&self) -> Result<bool> {
        let there = fs::read_to_string(self.dir()?.join(READY));
        Ok(there.is_ok_and(|there| there == self.wanted()))
    }

    /// Has it made, unless it is there with all that is wanted. Says whether it had to.
    pub fn ensure(&self, make: impl FnOnce(&Path) -> Result<()>) -> Result<bool> {
        if self.is_ready()? {
            return Ok(false);
        }
        let _alone = install::lock()?;
        // Whoever held the lock may have done it.
        if self.is_ready()? {
            return Ok(false);
        }
        let dir = self.dir()?;
        let _ = fs::remove_dir_all(&dir);
        make(&dir)?;
        fs::write(dir.join(READY), self.wanted()).map_err(Error::doing(format!(
            "cannot mark {} as ready",
            dir.display()
        )))?;
        Ok(true)
    }

    fn wanted(&self) -> String {
        self.contents.join("\n")
    }
}
