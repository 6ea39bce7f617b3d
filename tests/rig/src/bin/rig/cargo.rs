//! The cargo that built us, and what it builds.

use std::{
    env,
    ffi::OsString,
    path::PathBuf,
    process::{Command, Stdio},
};

use conncheck_rig::{Error, Result, install};

/// The cargo that runs us, else the one that built us.
pub fn cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into())
}

/// The conncheck to show: what `CONNCHECK_BIN` names, else the one of this repository, built now.
pub fn conncheck() -> Result<PathBuf> {
    if let Some(path) = env::var_os("CONNCHECK_BIN") {
        return Ok(path.into());
    }
    let mut args = vec!["build", "-p", "conncheck", "--bin", "conncheck"];
    if built()?.exists() {
        // The first build takes minutes and shows how far it is. A later one is not worth a line.
        args.push("--quiet");
    }
    let status = Command::new(cargo())
        .args(args)
        .current_dir(install::workspace())
        .stdin(Stdio::null())
        .status();
    match status {
        Ok(status) if status.success() => Ok(built()?),
        Ok(status) => Err(Error::new(format!(
            "`cargo build -p conncheck` failed ({status})"
        ))),
        Err(err) => Err(Error::new(format!("cannot run cargo: {err}"))),
    }
}

/// Where cargo puts the daemon's debug build.
pub fn built() -> Result<PathBuf> {
    let target = install::cache_dir()?
        .parent()
        .map(PathBuf::from)
        .unwrap_or_default();
    Ok(target.join("debug/conncheck"))
}
