//! One mistake per file; the messages are a snapshot, read in review like prose.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::disallowed_types,
    reason = "a test panics, and its clock is a real one"
)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use conncheck_config::{Loaded, Loader, Trust};

#[test]
fn every_mistake_has_a_message_one_can_act_on() {
    insta::assert_snapshot!(messages("testdata/invalid", Trust::Local));
}

/// As if these had come from the Kubernetes API.
#[test]
fn a_remote_definition_may_not_read_our_files() {
    insta::assert_snapshot!(messages("testdata/invalid/remote", Trust::Remote));
}

/// What is said about each file of `folder`.
fn messages(folder: &str, trust: Trust) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut said = String::new();
    for path in yaml_files(&folder) {
        let name = path.file_name().unwrap().to_str().unwrap();
        let loaded = load(&path, trust);
        let _ = writeln!(said, "# {name}");
        for error in &loaded.errors {
            let _ = writeln!(said, "error: {error}");
        }
        for warning in &loaded.warnings {
            let _ = writeln!(said, "warning: {warning}");
        }
        for connection in &loaded.connections {
            let _ = writeln!(said, "loaded: {}", connection.id);
        }
        said.push('\n');
        assert!(
            !loaded.errors.is_empty() || !loaded.warnings.is_empty(),
            "{name} was accepted"
        );
    }
    assert!(!said.contains("hunter2"), "a value was quoted:\n{said}");
    said
}

/// Mistakes that only the types can see are not ours to report.
#[test]
fn what_only_the_types_can_judge_is_loaded() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/invalid/types");
    for path in yaml_files(&folder) {
        let loaded = load(&path, Trust::Local);
        assert_eq!(loaded.errors, [], "{}", path.display());
        assert_eq!(loaded.connections.len(), 1, "{}", path.display());
    }
}

fn load(path: &Path, trust: Trust) -> Loaded {
    let mut loader = Loader::default();
    let name = path.file_name().unwrap().to_str().unwrap();
    loader.add(name, &std::fs::read_to_string(path).unwrap(), trust);
    loader.finish()
}

fn yaml_files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}
