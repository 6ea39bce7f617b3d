//! `rig install`: all that the tests need, and nothing twice.

use conncheck_rig::{
    Error, Result,
    install::{self, Package, Report},
    node, python, unpacked,
};

/// Everything, told in full.
pub fn run() -> Result<()> {
    let report = ensure(install::ALL)?;
    if !report.present.is_empty() {
        println!("present: {}", names(&report.present));
    }
    let mut missing = complaints(&report);
    match python::install() {
        Ok(true) => println!("installed: {}, in a venv of their own", python::names()),
        Ok(false) => println!("present: {}", python::names()),
        Err(err) => missing.push(format!("{}: {err}", python::names())),
    }
    match node::install() {
        Ok(true) => println!("installed: {}, in a folder of their own", node::names()),
        Ok(false) => println!("present: {}", node::names()),
        Err(err) => missing.push(format!("{}: {err}", node::names())),
    }
    match unpacked::install() {
        Ok(true) => println!("unpacked: {}", unpacked::names()),
        Ok(false) => println!("present: {}, unpacked", unpacked::names()),
        Err(err) => missing.push(format!("{}: {err}", unpacked::names())),
    }
    fail_with(&missing)
}

/// Only the servers, and not a word if they are there.
pub fn servers() -> Result<()> {
    let mut missing = complaints(&ensure(install::SERVERS)?);
    if let Err(err) = python::install() {
        missing.push(format!("{}: {err}", python::names()));
    }
    if let Err(err) = node::install() {
        missing.push(format!("{}: {err}", node::names()));
    }
    if let Err(err) = unpacked::install() {
        missing.push(format!("{}: {err}", unpacked::names()));
    }
    fail_with(&missing)
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
