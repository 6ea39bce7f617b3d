//! A file system that never answers, as a dead NFS server leaves one.

use std::{
    path::Path,
    process::{Command, Output},
};

use crate::{
    error::{Error, Result},
    install,
    rig::Skipped,
};

const SCRIPT: &str = include_str!("dead_mount.py");
const NOT_HERE: i32 = 77;

/// Runs `command` to its end where `folder` is one. Whatever reads there blocks until the program has ended.
pub fn run_beside(folder: &Path, command: &Command) -> Result<Output, Skipped> {
    Ok(run(folder, command)?)
}

fn run(folder: &Path, command: &Command) -> Result<Output> {
    let mut python = Command::new(install::find(install::PYTHON)?);
    python
        .args(["-c", SCRIPT])
        .arg(folder)
        .arg(command.get_program());
    python.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => python.env(name, value),
            None => python.env_remove(name),
        };
    }
    let output = python.output().map_err(Error::doing("cannot run python"))?;
    match output.status.code() {
        Some(NOT_HERE) => Err(Error::not_here(format!(
            "a mount that never answers: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))),
        _ => Ok(output),
    }
}
