//! The plugins of Nagios: what others make of the same server.

use std::{
    ffi::OsStr,
    process::{Command, Stdio},
};

use crate::{
    error::{Error, Result},
    install,
    rig::Skipped,
};

/// What a plugin says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// 0 is well; 1, 2 and 3 are `WARNING`, `CRITICAL` and `UNKNOWN`.
    pub code: i32,
    /// For people.
    pub said: String,
}

impl Verdict {
    pub fn is_ok(&self) -> bool {
        self.code == 0
    }
}

/// Runs a plugin by its name, such as `check_http`.
pub fn run(plugin: &str, args: &[&str]) -> Result<Verdict, Skipped> {
    run_with(plugin, args, &[])
}

/// The same with variables in its environment: some are told there alone whom to trust.
pub fn run_with(plugin: &str, args: &[&str], envs: &[(&str, &OsStr)]) -> Result<Verdict, Skipped> {
    Ok(verdict(plugin, args, envs)?)
}

fn verdict(plugin: &str, args: &[&str], envs: &[(&str, &OsStr)]) -> Result<Verdict> {
    let program = install::program(plugin)
        .ok_or_else(|| Error::missing(plugin, install::MONITORING_PLUGINS.name))?;
    let output = Command::new(program)
        .args(args)
        .env("LC_ALL", "C")
        .envs(envs.iter().copied())
        .stdin(Stdio::null())
        .output()
        .map_err(Error::doing(format!("cannot run {plugin}")))?;
    Ok(Verdict {
        code: output.status.code().unwrap_or(3),
        said: String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    })
}
