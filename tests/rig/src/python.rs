//! What the rig needs of Python's registry, in one venv of its own under `target/rig`.

use std::{ffi::OsStr, fs, path::PathBuf};

use crate::{
    error::{Error, Result},
    install,
    kept::Kept,
};

/// Who judges our exposition; the server that speaks MongoDB's wire protocol, which brings MongoDB's own driver
/// along (`pymongo`), by which it is told what to do; the one that answers like OpenSearch; and the one that
/// answers like AWS.
const PACKAGES: &[&str] = &[
    "prometheus_client==0.26.0",
    "SecantusDB==0.7.0b3",
    "osmem-server==0.1.6",
    "moto[server]==5.2.5",
];

const VENV: Kept = Kept {
    name: "venv",
    contents: PACKAGES,
};

/// Makes the venv, unless it is there with all that is wanted. Says whether it had to.
pub fn install() -> Result<bool> {
    VENV.ensure(|venv| {
        let python = install::find(install::PYTHON)?;
        let words = ["-m", "venv"].map(OsStr::new);
        install::run(&python, &[&words[..], &[venv.as_os_str()]].concat())?;
        let pip = ["-m", "pip", "install", "-q", "--disable-pip-version-check"];
        let args: Vec<&OsStr> = pip.iter().chain(PACKAGES).map(OsStr::new).collect();
        install::run(&venv.join("bin/python"), &args).map(drop)
    })
}

/// A program of the venv, such as `python`. Made by [`install`].
pub fn program(name: &str) -> Result<PathBuf> {
    if VENV.is_ready()? {
        Ok(VENV.dir()?.join("bin").join(name))
    } else {
        Err(Error::missing(name, install::PYTHON.name))
    }
}

/// A file of a package in the venv, such as `osmem_server/bin/osmem-server`.
pub fn file(path: &str) -> Result<PathBuf> {
    if !VENV.is_ready()? {
        return Err(Error::missing(path, install::PYTHON.name));
    }
    let lib = VENV.dir()?.join("lib");
    let versions = fs::read_dir(&lib).map_err(Error::doing(format!("{}", lib.display())))?;
    versions
        .flatten()
        .map(|version| version.path().join("site-packages").join(path))
        .find(|file| file.exists())
        .ok_or_else(|| Error::new(format!("there is no `{path}` in {}", lib.display())))
}

/// What the venv has, by name and version.
pub fn names() -> String {
    PACKAGES.join(", ").replace("==", " ")
}
