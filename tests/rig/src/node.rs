//! What the rig needs of npm, in one folder of its own under `target/rig`.

use std::{ffi::OsStr, fs, path::PathBuf};

use crate::{
    error::{Error, Result},
    install,
    kept::Kept,
};

/// A certified OAuth2 server, and what it checks tokens with.
const PACKAGES: &[&str] = &["oidc-provider@9.13.3", "jose@6.2.18"];

const FOLDER: Kept = Kept {
    name: "node",
    contents: PACKAGES,
};

/// Makes the folder, unless it is there with all that is wanted. Says whether it had to.
pub fn install() -> Result<bool> {
    FOLDER.ensure(|dir| {
        let npm = install::find(install::NPM)?;
        let doing = || Error::doing(format!("cannot prepare {}", dir.display()));
        fs::create_dir_all(dir).map_err(doing())?;
        // npm looks for a project upwards and would find somebody else's.
        fs::write(dir.join("package.json"), "{\"private\": true}\n").map_err(doing())?;
        let words = [
            "install",
            "--prefix",
            // No script of a package runs here.
            "--ignore-scripts",
            "--save-exact",
            "--no-audit",
            "--no-fund",
            "--loglevel=error",
        ];
        let mut args: Vec<&OsStr> = words.iter().map(OsStr::new).collect();
        args.insert(2, dir.as_os_str());
        args.extend(PACKAGES.iter().map(OsStr::new));
        install::run(&npm, &args).map(drop)
    })
}

/// Where the packages are. Made by [`install`].
pub fn modules() -> Result<PathBuf> {
    if FOLDER.is_ready()? {
        Ok(FOLDER.dir()?.join("node_modules"))
    } else {
        Err(Error::missing("oidc-provider", install::NPM.name))
    }
}

/// What is there, by name and version.
pub fn names() -> String {
    PACKAGES.join(", ").replace('@', " ")
}
