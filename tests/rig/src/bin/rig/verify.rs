//! `cargo verify`: everything that must hold before a change lands, step by step.
//!
//! A failed step does not hide the ones behind it: all of them run, and the table at the end says which held.

use std::{
    env, fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use conncheck_rig::{Error, REQUIRE_SERVERS, Result, install::workspace};
use serde_json::Value;

use crate::{
    cargo::{self, cargo},
    demo, install,
};

enum Verdict {
    Held,
    Failed(String),
    /// Could not be done here, and why. Said aloud, no failure.
    Skipped(String),
}

struct Step {
    name: String,
    verdict: Verdict,
    took: Duration,
}

#[derive(Default)]
struct Steps(Vec<Step>);

pub fn run() -> Result<()> {
    let mut steps = Steps::default();
    steps.work("install", || install::run().map(|()| Verdict::Held));
    steps.cargo("format", &["fmt", "--all", "--check"]);
    steps.cargo(
        "lints",
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ],
    );
    match feature_sets() {
        Ok(sets) => {
            for (package, feature) in sets {
                let mut args = vec!["clippy", "-p", &package, "--no-default-features"];
                let name = match &feature {
                    Some(feature) => {
                        args.extend(["--features", feature]);
                        format!("lints: {package}, only `{feature}`")
                    }
                    None => format!("lints: {package}, no features"),
                };
                args.extend(["--", "-D", "warnings"]);
                steps.cargo(&name, &args);
            }
        }
        Err(err) => steps.work("lints: each feature alone", || Err(err)),
    }
    steps.work("dependencies", || {
        deny(&["check", "bans", "licenses", "sources"])
    });
    steps.work("dependencies: advisories", advisories);
    steps.cargo("tests", &["test", "--workspace"]);
    steps.work("docker-compose.yml", compose);
    steps.work("demo", || {
        // What the tests have just built; a build of its own would resolve other features and start over.
        demo::run_with(&cargo::built()?).map(|()| Verdict::Held)
    });
    steps.summary()
}

impl Steps {
    fn work(&mut self, name: &str, work: impl FnOnce() -> Result<Verdict>) {
        println!("\n━━ {name}");
        let started = Instant::now();
        let verdict = work().unwrap_or_else(|err| Verdict::Failed(err.to_string()));
        match &verdict {
            Verdict::Held => {}
            Verdict::Failed(why) => println!("FAILED: {why}"),
            Verdict::Skipped(why) => println!("NOT CHECKED: {why}"),
        }
        self.0.push(Step {
            name: name.into(),
            verdict,
            took: started.elapsed(),
        });
    }

    fn cargo(&mut self, name: &str, args: &[&str]) {
        self.work(name, || {
            let mut command = Command::new(cargo());
            command.args(args).env(REQUIRE_SERVERS, "1");
            succeed(&mut command, &format!("cargo {}", args.join(" ")))
        });
    }

    fn summary(&self) -> Result<()> {
        let width = self
            .0
            .iter()
            .map(|step| step.name.chars().count())
            .max()
            .unwrap_or(0);
        println!("\n━━ summary");
        for Step {
            name,
            verdict,
            took,
        } in &self.0
        {
            let verdict = match verdict {
                Verdict::Held => "ok",
                Verdict::Failed(_) => "FAILED",
                Verdict::Skipped(_) => "not checked",
            };
            println!("{name:width$}  {:7.1} s  {verdict}", took.as_secs_f64());
        }
        let failed = self
            .0
            .iter()
            .filter(|step| matches!(step.verdict, Verdict::Failed(_)))
            .count();
        if failed == 0 {
            Ok(())
        } else {
            Err(Error::new(format!(
                "{failed} of {} steps failed",
                self.0.len()
            )))
        }
    }
}

/// Runs it in the workspace, its output here.
fn succeed(command: &mut Command, words: &str) -> Result<Verdict> {
    println!("$ {words}");
    let status = command
        .current_dir(workspace())
        .stdin(Stdio::null())
        .status()
        .map_err(|err| Error::new(format!("cannot run `{words}`: {err}")))?;
    Ok(if status.success() {
        Verdict::Held
    } else {
        Verdict::Failed(format!("`{words}`: {status}"))
    })
}

/// Whether a command is here: it runs and says so.
fn works(program: &str, args: &[&str]) -> bool {
    let status = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

/// The packages that have features, with none and with each alone. Read from the manifests, so that a new type is
/// not forgotten.
fn feature_sets() -> Result<Vec<(String, Option<String>)>> {
    let output = Command::new(cargo())
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(workspace())
        .stdin(Stdio::null())
        .output()
        .map_err(|err| Error::new(format!("cannot run `cargo metadata`: {err}")))?;
    let metadata: Value = serde_json::from_slice(&output.stdout)
        .map_err(|err| Error::new(format!("`cargo metadata` says no JSON: {err}")))?;
    let mut sets = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let Some(name) = package["name"].as_str() else {
            continue;
        };
        let features: Vec<&String> = package["features"]
            .as_object()
            .into_iter()
            .flat_map(|features| features.keys())
            .collect();
        if features.is_empty() {
            continue;
        }
        sets.push((name.to_owned(), None));
        // The daemon's features only pass on those of the probes.
        if name == "conncheck-probes" {
            let each = features
                .into_iter()
                .filter(|feature| !matches!(feature.as_str(), "default" | "all"));
            sets.extend(each.map(|feature| (name.to_owned(), Some(feature.clone()))));
        }
    }
    Ok(sets)
}

fn deny(args: &[&str]) -> Result<Verdict> {
    let cargo = cargo();
    if !works(&cargo.to_string_lossy(), &["deny", "--version"]) {
        return Ok(Verdict::Skipped(
            "cargo-deny is not installed (`cargo install cargo-deny --locked`)".into(),
        ));
    }
    succeed(
        Command::new(&cargo).arg("deny").args(args),
        &format!("cargo deny {}", args.join(" ")),
    )
}

/// Only with a database at hand: fetching one needs a network that a build machine may not have.
fn advisories() -> Result<Verdict> {
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(env::home_dir()?.join(".cargo")));
    let databases = home
        .map(|home| home.join("advisory-dbs"))
        .unwrap_or_default();
    // A lock file alone, left by a failed fetch, is no database.
    let mut entries = fs::read_dir(&databases).into_iter().flatten().flatten();
    if !entries.any(|entry| entry.path().join(".git").exists()) {
        let why = format!(
            "there is no advisory database in {} (`cargo deny fetch`)",
            databases.display()
        );
        return Ok(Verdict::Skipped(why));
    }
    deny(&["--offline", "check", "advisories"])
}

fn compose() -> Result<Verdict> {
    if works("docker", &["compose", "version"]) {
        return succeed(
            Command::new("docker").args(["compose", "config", "-q"]),
            "docker compose config -q",
        );
    }
    if works("docker-compose", &["version"]) {
        return succeed(
            Command::new("docker-compose").args(["config", "-q"]),
            "docker-compose config -q",
        );
    }
    Ok(Verdict::Skipped(
        "there is no `docker compose` here, nor `docker-compose`".into(),
    ))
}
