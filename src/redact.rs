//! The second wall: known secret values, struck out of what is written.
//!
//! The first is that a `Secret` has no face and that an outcome is scrubbed by the one who made
//! it. This one stands at the log and at the report, and strikes out whatever got there all the
//! same: as it is, as a log or JSON would quote it, and as a URL would encode it.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aho_corasick::{AhoCorasick, MatchKind};
use arc_swap::ArcSwap;
use conncheck_config::{REDACTED, Secret};
use conncheck_probes::{Phase, Reason};

/// Shorter values are left alone: striking out every `a` would hide everything and keep nothing.
const SHORTEST: usize = 4;

/// So many values may be new before they are merged with the others. Building the searcher anew
/// takes tens of milliseconds with ten thousand values, so it is not done for each new one.
const RECENT: usize = 256;

/// Every secret value that is known so far.
#[derive(Default)]
pub struct Redactor {
    known: Mutex<Known>,
    /// Whether values are known that `search` does not look for yet. The searcher is built by who
    /// needs it next, so that ten thousand additions in a row cost one.
    stale: AtomicBool,
    /// Read by every line of log, hence without a lock.
    search: ArcSwap<Search>,
}

#[derive(Default)]
struct Known {
    values: HashSet<String>,
    settled: Vec<String>,
    recent: Vec<String>,
    /// What every line may show; see [`Redactor::keep`].
    public: String,
    public_grew: bool,
}

#[derive(Clone, Default)]
struct Search {
    settled: Option<AhoCorasick>,
    recent: Option<AhoCorasick>,
}

impl Redactor {
    /// From now on strikes out these as well.
    pub fn add<'a>(&self, secrets: impl IntoIterator<Item = &'a Secret>) {
        let mut known = self.lock();
        for value in secrets
            .into_iter()
            .flat_map(|secret| forms(secret.expose()))
        {
            if known.values.insert(value.clone()) {
                known.recent.push(value);
                self.stale.store(true, Ordering::Release);
            }
        }
    }

    /// These are public: names of connections, and where they go. A value that is a part of one is
    /// not struck out here, or a user called `orders` would make `[redacted]-db` of the name
    /// `orders-db` in every line, and hide nothing. (Whoever made the outcome has still taken it out
    /// of what the peer said.)
    pub fn keep<'a>(&self, names: impl IntoIterator<Item = &'a str>) {
        let mut known = self.lock();
        for name in names {
            known.public.push_str(name);
            known.public.push('\n');
            known.public_grew = true;
        }
        self.stale.store(true, Ordering::Release);
    }

    /// `text` without any of them.
    pub fn redact<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.stale.load(Ordering::Acquire) {
            self.refresh();
        }
        let search = self.search.load();
        let mut text = Cow::Borrowed(text);
        for searcher in [&search.settled, &search.recent].into_iter().flatten() {
            if searcher.is_match(&*text) {
                let mut clean = String::with_capacity(text.len());
                searcher.replace_all_with(&text, &mut clean, |_, _, clean| {
                    clean.push_str(REDACTED);
                    true
                });
                text = Cow::Owned(clean);
            }
        }
        text
    }

    fn refresh(&self) {
        let mut known = self.lock();
        let mut search = Search::clone(&self.search.load());
        if known.recent.len() > RECENT || known.public_grew {
            let recent = std::mem::take(&mut known.recent);
            known.settled.extend(recent);
            known.public_grew = false;
            search.settled = searcher(&known.settled, &known.public);
        }
        search.recent = searcher(&known.recent, &known.public);
        self.search.store(search.into());
        self.stale.store(false, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks for the values that are no part of what is public.
fn searcher(values: &[String], public: &str) -> Option<AhoCorasick> {
    if values.is_empty() {
        return None;
    }
    let in_public: HashSet<usize> = AhoCorasick::new(values)
        .ok()?
        .find_overlapping_iter(public)
        .map(|found| found.pattern().as_usize())
        .collect();
    let secret = values.iter().enumerate();
    let secret = secret.filter(|(index, _)| !in_public.contains(index));
    AhoCorasick::builder()
        .match_kind(MatchKind::LeftmostLongest)
        .build(secret.map(|(_, value)| value))
        .ok()
}

/// The forms in which a value may turn up. A text of several lines (PEM) is struck out line by
/// line, since a log would break it there.
fn forms(secret: &str) -> impl Iterator<Item = String> {
    let whole = std::iter::once(secret);
    let parts = whole.chain(secret.lines()).map(str::trim);
    let mut forms = HashSet::new();
    for part in parts.filter(|part| part.chars().count() >= SHORTEST && !is_ours(part)) {
        forms.insert(part.to_owned());
        forms.insert(inside_quotes(&format!("{part:?}")));
        forms.extend(serde_json::to_string(part).map(|json| inside_quotes(&json)));
        for keep in [&b"-._~"[..], b"-._~!$&'()*+,;="] {
            forms.insert(percent_encoded(part, keep));
        }
    }
    forms.into_iter()
}

/// Whether it is a word of our own that happens to be somebody's user name or password too, or a
/// line that every PEM has. Striking it out would make a riddle of every line and hide nothing.
fn is_ours(part: &str) -> bool {
    let types = conncheck_probes::types::all().iter();
    types
        .flat_map(|ty| ty.aliases.iter().chain([&ty.name]))
        .any(|name| *name == part)
        || Reason::ALL.iter().any(|reason| reason.as_str() == part)
        || Phase::ALL.iter().any(|phase| phase.as_str() == part)
        || [
            "default",
            "true",
            "false",
            "null",
            "connection",
            "conncheck",
        ]
        .contains(&part)
        || (part.starts_with("-----") && part.ends_with("-----"))
}

fn inside_quotes(quoted: &str) -> String {
    quoted[1..quoted.len() - 1].to_owned()
}

fn percent_encoded(text: &str, keep: &[u8]) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || keep.contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(secrets: &[&str], text: &str, expected: &str) {
        let redactor = Redactor::default();
        let secrets: Vec<_> = secrets.iter().map(|secret| Secret::new(*secret)).collect();
        redactor.add(&secrets);
        assert_eq!(redactor.redact(text), expected);
    }

    #[test]
    fn a_secret_is_struck_out_in_every_form() {
        check(
            &["hunter2"],
            "password hunter2 refused",
            "password [redacted] refused",
        );
        check(&["p\"w\\d"], r#"{"a":"p\"w\\d"}"#, r#"{"a":"[redacted]"}"#);
        check(
            &["p@ss word"],
            "redis://:p%40ss%20word@h",
            "redis://:[redacted]@h",
        );
        check(&["line one\nline two\n"], "got line two", "got [redacted]");
        check(&["abcd", "abcdef"], "abcdefg", "[redacted]g");
    }

    #[test]
    fn short_values_and_our_own_words_stay() {
        check(&["abc"], "abc", "abc");
        check(&["timeout"], "reason=timeout", "reason=timeout");
        let pem = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----";
        check(
            &[pem],
            "-----BEGIN CERTIFICATE-----",
            "-----BEGIN CERTIFICATE-----",
        );
    }

    #[test]
    fn a_name_that_everybody_sees_stays_whole() {
        let redactor = Redactor::default();
        redactor.add([&Secret::new("orders"), &Secret::new("hunter2")]);
        let line = "shop/orders-db: hunter2";
        assert_eq!(redactor.redact(line), "shop/[redacted]-db: [redacted]");
        redactor.keep(["shop", "orders-db"]);
        assert_eq!(redactor.redact(line), "shop/orders-db: [redacted]");
        redactor.add([&Secret::new("shop/")]);
        assert_eq!(redactor.redact("shop/"), "[redacted]", "more than the name");
    }

    #[test]
    fn values_that_come_later_are_struck_out_too() {
        let redactor = Redactor::default();
        for n in 0..1000 {
            redactor.add([&Secret::new(format!("secret-{n}-"))]);
            assert_eq!(redactor.redact(&format!("secret-{n}-")), "[redacted]");
        }
        assert_eq!(
            redactor.redact("secret-0- secret-999-"),
            "[redacted] [redacted]"
        );
    }
}
