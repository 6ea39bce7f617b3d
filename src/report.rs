//! The report of `--check-once`: what came of one attempt of every connection.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use conncheck_config::{ConfigError, Identity};
use conncheck_probes::Outcome;

use crate::cli::Output;
use crate::redact::Redactor;

pub mod json;
pub mod text;

/// Everything that a report says.
#[derive(Debug, Default)]
pub struct Report {
    /// In the order of their identities.
    pub entries: Vec<Entry>,
    /// Connections that were not attempted because they are paused.
    pub paused: Vec<Identity>,
    pub errors: Vec<ConfigError>,
    /// How many definitions are wrong.
    pub invalid: usize,
    /// How many definitions there are that were not selected.
    pub not_selected: usize,
    pub took: Duration,
}

/// One connection and what came of its attempt.
#[derive(Debug)]
pub struct Entry {
    pub id: Identity,
    pub type_name: &'static str,
    pub endpoint: Option<Arc<str>>,
    pub outcome: Outcome,
}

impl Entry {
    /// Strikes out what is known to be secret, should it have got so far.
    pub fn redact(&mut self, redactor: &Redactor) {
        let clean = |text: &mut String| *text = redactor.redact(text).into_owned();
        self.outcome.server.iter_mut().for_each(clean);
        self.outcome.identity.iter_mut().for_each(clean);
        self.outcome.failed_before.iter_mut().for_each(clean);
        if let Some(tls) = &mut self.outcome.tls {
            tls.subject
                .iter_mut()
                .chain(&mut tls.issuer)
                .for_each(clean);
        }
        if let Err(failure) = &mut self.outcome.result {
            clean(&mut failure.message);
            failure.code.iter_mut().for_each(clean);
            // A hint that says the same of every target holds no secret.
            if let Some(Cow::Owned(hint)) = &mut failure.hint {
                clean(hint);
            }
        }
    }
}

impl Report {
    /// How many are up.
    pub fn up(&self) -> usize {
        self.entries
            .iter()
            .filter(|entry| entry.outcome.is_up())
            .count()
    }

    /// How many are down.
    pub fn down(&self) -> usize {
        self.entries.len() - self.up()
    }

    /// What the exit code says.
    pub fn verdict(&self) -> Verdict {
        if !self.errors.is_empty() || self.entries.is_empty() {
            Verdict::Invalid
        } else if self.down() > 0 {
            Verdict::Down
        } else {
            Verdict::Up
        }
    }

    /// Writes it.
    pub fn write(&self, output: Output, colour: bool, out: &mut dyn io::Write) -> io::Result<()> {
        match output {
            Output::Text => text::write(self, colour, out),
            Output::Json => json::write(self, out),
        }
    }
}

/// What came of a run, for the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// At least one was attempted, and all are up.
    Up = 0,
    /// One or more are down; or the program could not do its work.
    Down = 1,
    /// Usage, an invalid definition, or nothing to probe.
    Invalid = 2,
}

#[cfg(test)]
mod tests {
    use conncheck_config::Place;
    use conncheck_probes::{Failure, Phase, Reason, TlsFacts};
    use jiff::{SignedDuration, Timestamp};

    use super::*;

    fn id(namespace: &str, name: &str) -> Identity {
        Identity {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    fn entry(namespace: &str, name: &str, type_name: &'static str, millis: u64) -> Entry {
        let at = |micros| Duration::from_micros(micros);
        Entry {
            id: id(namespace, name),
            type_name,
            endpoint: Some(format!("{type_name}://{name}:1").into()),
            outcome: Outcome {
                started_at: "2026-11-22T07:40:03.25Z".parse().unwrap(),
                duration: Duration::from_millis(millis),
                phases: vec![(Phase::Resolve, at(100)), (Phase::Connect, at(870))],
                tls: None,
                server: None,
                identity: None,
                http_status: None,
                credential_expiry: None,
                failed_before: Vec::new(),
                result: Ok(()),
            },
        }
    }

    pub(super) fn report() -> Report {
        let mut cache = entry("default", "cache", "redis", 1);
        cache.outcome.server = Some("Redis 7.0.15".to_owned());
        cache.outcome.identity = Some("somebody (of somewhere)".to_owned());
        let mut db = entry("shop", "datenbank-größe", "postgres", 12);
        db.outcome
            .phases
            .push((Phase::Tls, Duration::from_micros(4_100)));
        db.outcome
            .phases
            .push((Phase::Auth, Duration::from_micros(7_100)));
        db.outcome.server = Some("PostgreSQL 15.18".to_owned());
        db.outcome.tls = Some(TlsFacts {
            version: Some("TLSv1.3".to_owned()),
            verified: true,
            earliest_expiry: Some(db.outcome.started_at + SignedDuration::from_hours(70 * 24 + 5)),
            subject: Some("CN=db".to_owned()),
            issuer: Some("CN=ca".to_owned()),
        });
        db.outcome.credential_expiry = Some(Timestamp::UNIX_EPOCH);
        db.outcome.failed_before = vec!["`db-1:5432`: connection refused".to_owned()];
        let mut expired = entry("default", "old", "http", 5);
        expired.outcome.tls = Some(TlsFacts {
            version: Some("TLSv1.2".to_owned()),
            verified: false,
            earliest_expiry: Some(db.outcome.started_at - SignedDuration::from_hours(50)),
            ..TlsFacts::default()
        });
        expired.outcome.result = Err(Failure {
            reason: Reason::TlsExpired,
            phase: Some(Phase::Tls),
            code: None,
            message: "the certificate of `old` expired 2 days ago".to_owned(),
            hint: Some("renew it".into()),
        });
        let mut wrong = entry("default", "billing", "postgres", 8);
        wrong.outcome.result = Err(Failure {
            reason: Reason::Auth,
            phase: Some(Phase::Auth),
            code: Some("28P01".to_owned()),
            message: "password authentication failed for user \"x\"\n\u{1b}[2Jboo".to_owned(),
            hint: None,
        });
        let mut secretless = entry("default", "secretless", "redis", 0);
        secretless.endpoint = None;
        secretless.outcome.phases.clear();
        secretless.outcome.result = Err(Failure {
            reason: Reason::Secret,
            phase: None,
            code: None,
            message: "secret `default/redis` was not found".to_owned(),
            hint: None,
        });
        let place = Place {
            file: "connections.yaml".into(),
            line: 19,
            column: 5,
        };
        let error = ConfigError {
            place,
            type_name: Some("postgres".to_owned()),
            connection: Some(id("default", "production-db")),
            message: "unknown property `sslmod`".to_owned(),
            hint: Some("did you mean `sslmode`?".into()),
        };
        Report {
            entries: vec![wrong, cache, expired, secretless, db],
            paused: vec![id("default", "asleep")],
            errors: vec![error],
            invalid: 1,
            not_selected: 0,
            took: Duration::from_millis(1210),
        }
    }

    pub(super) fn written(report: &Report, output: Output, colour: bool) -> String {
        let mut out = Vec::new();
        report.write(output, colour, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_exit_code_says_the_worst() {
        let up = || vec![entry("a", "b", "http", 1)];
        let check = |entries, errors, expected| {
            let report = Report {
                entries,
                errors,
                ..Report::default()
            };
            assert_eq!(report.verdict(), expected);
        };
        check(up(), Vec::new(), Verdict::Up);
        check(report().entries, Vec::new(), Verdict::Down);
        check(Vec::new(), Vec::new(), Verdict::Invalid);
        check(up(), report().errors, Verdict::Invalid);
        check(report().entries, report().errors, Verdict::Invalid);
    }

    #[test]
    fn a_known_secret_is_struck_out() {
        let redactor = Redactor::default();
        redactor.add([&conncheck_config::Secret::new("15.18")]);
        let mut report = report();
        report
            .entries
            .iter_mut()
            .for_each(|entry| entry.redact(&redactor));
        let text = written(&report, Output::Text, false);
        assert!(text.contains("PostgreSQL [redacted]") && !text.contains("15.18"));
    }
}
