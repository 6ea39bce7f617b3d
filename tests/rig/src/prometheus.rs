//! The tools that judge our exposition: `promtool`, and Python's `prometheus_client`.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    error::{Error, Result},
    install, python,
};

/// The path of `promtool`.
pub fn promtool() -> Result<PathBuf> {
    install::find(install::PROMETHEUS)
}

/// The path of `prometheus-blackbox-exporter`.
pub fn blackbox_exporter() -> Result<PathBuf> {
    install::find(install::BLACKBOX)
}

/// `promtool check metrics` over an exposition; the error is what it complains of.
pub fn check_metrics(exposition: &str) -> Result<()> {
    let tool = promtool()?;
    let complaint = feed(&tool, &["check", "metrics"], exposition)?;
    if complaint.trim().is_empty() {
        Ok(())
    } else {
        Err(Error::new(format!("promtool complains:\n{complaint}")))
    }
}

/// `promtool check config` over a configuration of Prometheus.
pub fn check_config(file: &Path) -> Result<()> {
    install::run(
        &promtool()?,
        &["check".as_ref(), "config".as_ref(), file.as_os_str()],
    )
    .map(drop)
}

/// Python's parser of the classic text format: every sample as `name{labels} value`, one a line.
pub fn parse_text(exposition: &str) -> Result<String> {
    parse("prometheus_client.parser", exposition)
}

/// Python's parser of OpenMetrics, the strictest there is.
pub fn parse_openmetrics(exposition: &str) -> Result<String> {
    parse("prometheus_client.openmetrics.parser", exposition)
}

fn parse(module: &str, exposition: &str) -> Result<String> {
    let script = format!(
        "import json, sys\n\
         from {module} import text_string_to_metric_families as parse\n\
         text = sys.stdin.buffer.read().decode('utf-8')\n\
         for family in parse(text):\n\
         \x20   for s in family.samples:\n\
         \x20       print(s.name + json.dumps(s.labels, sort_keys=True, ensure_ascii=False), s.value)\n"
    );
    feed(&python::program("python")?, &["-c", &script], exposition)
}

fn feed(program: &Path, args: &[&str], input: &str) -> Result<String> {
    let doing = || format!("cannot run {}", program.display());
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .env("PYTHONIOENCODING", "utf-8")
        .spawn()
        .map_err(Error::doing(doing()))?;
    let mut stdin = child.stdin.take().ok_or_else(|| Error::new(doing()))?;
    let input = input.to_owned();
    // Beside the reading: a long exposition and a long answer would wait for each other.
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().map_err(Error::doing(doing()))?;
    let _ = writer.join();
    let said = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    Err(Error::new(format!(
        "{} says ({}):\n{said}",
        program.display(),
        output.status
    )))
}
