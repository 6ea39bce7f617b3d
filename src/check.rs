//! `--check-config`: reads and builds everything, says what is wrong, and touches no network.

use std::io::{self, Write};

use conncheck_config::PassedOver;
use serde::Serialize;

use crate::cli::Output;
use crate::load::Loaded;
use crate::logging::OneLine;
use crate::report::Verdict;
use crate::report::json::Mistake;

/// Whether anything is wrong. A secret that is missing is not: it may be there where we will run.
pub fn verdict(loaded: &Loaded) -> Verdict {
    match loaded.errors.is_empty() {
        true => Verdict::Up,
        false => Verdict::Invalid,
    }
}

/// Writes every mistake, and everything that should be mended.
pub fn write(loaded: &Loaded, output: Output, out: &mut dyn Write) -> io::Result<()> {
    match output {
        Output::Text => text(loaded, out),
        Output::Json => json(loaded, out),
    }
}

fn text(loaded: &Loaded, out: &mut dyn Write) -> io::Result<()> {
    for error in &loaded.errors {
        one(out, "", error)?;
    }
    for warning in loaded.warnings.iter().chain(&loaded.unresolved) {
        one(out, "warning: ", warning)?;
    }
    let (valid, invalid) = (loaded.valid, loaded.invalid());
    let files = loaded.files.len();
    let s = |count| if count == 1 { "" } else { "s" };
    write!(
        out,
        "{valid} valid connection{} in {files} file{}",
        s(valid),
        s(files)
    )?;
    match invalid {
        0 => writeln!(out),
        _ => writeln!(out, ", {invalid} invalid"),
    }
}

fn one(out: &mut dyn Write, label: &str, error: &dyn std::fmt::Display) -> io::Result<()> {
    let error = error.to_string();
    let mut label = label;
    for line in error.lines() {
        writeln!(out, "{label}{}", OneLine(line))?;
        label = "";
    }
    Ok(())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    summary: Summary,
    errors: Vec<Mistake<'a>>,
    warnings: Vec<Mistake<'a>>,
    files: &'a [String],
    passed_over: Vec<Other<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    files: usize,
    /// Connections that are right.
    valid: usize,
    /// Those that are wrong. One may have several mistakes.
    invalid: usize,
    errors: usize,
    warnings: usize,
    passed_over: usize,
}

/// A document of another kind.
#[derive(Serialize)]
struct Other<'a> {
    file: &'a str,
    line: u32,
    kind: &'a str,
}

impl<'a> From<&'a PassedOver> for Other<'a> {
    fn from(document: &'a PassedOver) -> Self {
        Self {
            file: &document.place.file,
            line: document.place.line,
            kind: &document.kind,
        }
    }
}

fn json(loaded: &Loaded, out: &mut dyn Write) -> io::Result<()> {
    let warnings = loaded.warnings.iter().chain(&loaded.unresolved);
    let document = Document {
        summary: Summary {
            files: loaded.files.len(),
            valid: loaded.valid,
            invalid: loaded.invalid(),
            errors: loaded.errors.len(),
            warnings: loaded.warnings.len() + loaded.unresolved.len(),
            passed_over: loaded.passed_over.len(),
        },
        errors: loaded.errors.iter().map(Mistake::from).collect(),
        warnings: warnings.map(Mistake::from).collect(),
        files: &loaded.files,
        passed_over: loaded.passed_over.iter().map(Other::from).collect(),
    };
    serde_json::to_writer_pretty(&mut *out, &document)?;
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use conncheck_config::{ConfigError, Identity, PassedOver, Place};

    use super::*;

    fn mistake(line: u32, name: &str, message: &str) -> ConfigError {
        ConfigError {
            place: Place {
                file: "c.yaml".into(),
                line,
                column: 3,
            },
            type_name: Some("redis".to_owned()),
            connection: Some(Identity {
                namespace: "default".to_owned(),
                name: name.to_owned(),
            }),
            message: message.to_owned(),
            hint: Some("mend it".into()),
        }
    }

    fn written(loaded: &Loaded, output: Output) -> String {
        let mut out = Vec::new();
        write(loaded, output, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_mistake_is_told() {
        let loaded = Loaded {
            errors: vec![mistake(1, "a", "wrong"), mistake(2, "a", "wrong, too")],
            warnings: vec![mistake(3, "b", "odd")],
            unresolved: vec![mistake(4, "c", "missing")],
            valid: 2,
            files: vec!["c.yaml".to_owned()],
            passed_over: vec![PassedOver {
                place: mistake(5, "", "").place,
                kind: "Deployment".to_owned(),
            }],
            ..Loaded::default()
        };
        insta::assert_snapshot!(written(&loaded, Output::Text));
        insta::assert_snapshot!(written(&loaded, Output::Json));
        assert_eq!(verdict(&loaded), Verdict::Invalid);
    }

    #[test]
    fn a_missing_secret_is_no_mistake() {
        let loaded = Loaded {
            unresolved: vec![mistake(4, "c", "missing")],
            valid: 1,
            files: vec!["c.yaml".to_owned()],
            ..Loaded::default()
        };
        assert_eq!(verdict(&loaded), Verdict::Up);
    }
}
