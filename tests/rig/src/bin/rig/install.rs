//! `rig install`: all that the tests need, and nothing twice.

use conncheck_rig::{Error, Result, install, prometheus};

pub fn run() -> Result<()> {
    let report = install::ensure(&install::ALL)?;
    let names = |packages: &[install::Package]| {
        packages
            .iter()
            .map(|package| package.name)
            .collect::<Vec<_>>()
            .join(", ")
    };
    if !report.present.is_empty() {
        println!("present: {}", names(&report.present));
    }
    if !report.installed.is_empty() {
        println!("installed: {}", names(&report.installed));
    }
    let mut missing: Vec<String> = report
        .missing
        .iter()
        .map(|(package, why)| format!("{}: {why}", package.name))
        .collect();
    match prometheus::install_python_client() {
        Ok(true) => println!("installed: prometheus_client, in a venv of its own"),
        Ok(false) => println!("present: prometheus_client"),
        Err(err) => missing.push(format!("prometheus_client: {err}")),
    }
    if missing.is_empty() {
        Ok(())
    } else {
        Err(Error::new(format!(
            "not to be had:\n{}",
            missing.join("\n")
        )))
    }
}
