//! Any text as the URL of any type is read or refused, and so is any text with definitions.
//!
//! What is tried are the corpora of the fuzz targets (`tests/fuzz`) and texts near them. This does
//! without coverage what the targets do with it, on every run and with a stable compiler;
//! `CONNCHECK_FUZZ_CASES` says how many texts are tried for each type.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a test panics, and reads its corpus"
)]

use std::fs;
use std::path::{Path, PathBuf};

use conncheck_probes::types;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

#[path = "../../tests/fuzz/src/lib.rs"]
mod fuzz;

fn corpus(name: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus");
    let entries =
        fs::read_dir(folder.join(name)).unwrap_or_else(|_| panic!("no corpus for `{name}`"));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect()
}

/// What a URL, a DSN or YAML is made of.
const PIECES: &[&str] = &[
    "://",
    ":",
    "@",
    "/",
    "?",
    "&",
    "=",
    "#",
    ",",
    ";",
    "%",
    "%00",
    "%2f",
    "%ff",
    "[",
    "]",
    "[::1]",
    "(",
    ")",
    "{",
    "}",
    "\"",
    "'",
    "\\",
    " ",
    "\n",
    "\t",
    "\u{0}",
    "ü",
    "\u{feff}",
    "$(password)",
    "$(username)",
    "$(",
    "{{name}}",
    "65536",
    "99999999999999999999",
    "-1",
    "true",
    "secret://a/b",
    "file:///x",
    "+",
    "*",
    "..",
    "$$",
];

/// Cuts, doubles and replaces parts of `text`.
fn near(text: &str, changes: &[(usize, usize, u8, usize)], others: &[String]) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for (at, length, how, which) in changes {
        let at = at % (chars.len() + 1);
        let end = (at + length).min(chars.len());
        match how {
            0 => drop(chars.drain(at..end)),
            1 => {
                let copy: Vec<char> = chars[at..end].to_vec();
                chars.splice(at..at, copy);
            }
            2 => drop(chars.splice(at..at, PIECES[which % PIECES.len()].chars())),
            3 => drop(chars.splice(at..end, PIECES[which % PIECES.len()].chars())),
            _ => {
                let other = &others[which % others.len()];
                let from = length % (other.len() + 1);
                drop(chars.splice(at..end, other.chars().skip(from)));
            }
        }
    }
    chars.into_iter().collect()
}

fn check(name: &str, run: impl Fn(&str)) {
    let corpus = corpus(name);
    corpus.iter().for_each(|text| run(text));
    let cases = std::env::var("CONNCHECK_FUZZ_CASES").ok();
    let cases = cases.map_or(300, |cases| cases.parse().unwrap());
    let mut config = Config::with_cases(cases);
    config.failure_persistence = None;
    let change = (0..200_usize, 0..12_usize, 0..5_u8, 0..1000_usize);
    let texts = (0..corpus.len(), prop::collection::vec(change, 0..6));
    TestRunner::new(config)
        .run(&texts, |(index, changes)| {
            run(&near(&corpus[index], &changes, &corpus));
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{name}: {error}"));
}

#[test]
fn any_url_is_read_or_refused() {
    for info in types::all() {
        check(info.name, |text| fuzz::url(info.name, text));
    }
}

#[test]
fn any_definitions_are_read_or_refused() {
    check("loader", fuzz::load);
}
