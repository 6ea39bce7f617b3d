//! `rig install`: all that the tests need, and nothing twice.

use conncheck_rig::{
    Error, Result,
    install::{self, NGINX, POSTGRES, Package, REDIS, Report},
    prometheus,
};

/// Everything, told in full.
pub fn run() -> Result<()> {
    let report = ensure(&install::ALL)?;
    if !report.present.is_empty() {
        println!("present: {}", names(&report.present));
    }
    let mut missing = complaints(&report);
    match prometheus::install_python_client() {
        Ok(true) => println!("installed: prometheus_client, in a venv of its own"),
        Ok(false) => println!("present: prometheus_client"),
        Err(err) => missing.push(format!("prometheus_client: {err}")),
    }
    fail_with(&missing)
}

/// Only the servers, and not a word if they are there.
pub fn servers() -> Result<()> {
    fail_with(&complaints(&ensure(&[POSTGRES, REDIS, NGINX])?))
}

fn ensure(packages: &[Package]) -> Result<Report> {
    let absent: Vec<Package> = packages
        .iter()
        .copied()
        .filter(|&package| !install::is_there(package))
        .collect();
    if !absent.is_empty() {
        println!("installing {} (about a minute) …", names(&absent));
    }
    let report = install::ensure(packages)?;
    if !report.installed.is_empty() {
        println!("installed: {}", names(&report.installed));
    }
    Ok(report)
}

fn names(packages: &[Package]) -> String {
    packages
        .iter()
        .map(|package| package.name)
        .collect::<Vec<_>>()
        .join(", ")
}

fn complaints(report: &Report) -> Vec<String> {
    report
        .missing
        .iter()
        .map(|(package, why)| format!("{}: {why}", package.name))
        .collect()
}

fn fail_with(missing: &[String]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::new(format!(
        "not to be had:\n{}",
        missing.join("\n")
    )))
}
