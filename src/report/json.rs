//! The report for machines. Its keys are always there; null is where there is nothing to say.

use std::io;
use std::time::Duration;

use conncheck_config::ConfigError;
use conncheck_probes::{Outcome, Phase, types};
use jiff::Timestamp;
use serde::{Serialize, Serializer};

use super::{Entry, Report};

/// Writes the report as one JSON document.
pub fn write(report: &Report, out: &mut dyn io::Write) -> io::Result<()> {
    let document = Document {
        summary: Summary {
            total: report.entries.len(),
            up: report.up(),
            down: report.down(),
            invalid: report.invalid,
            paused: report.paused.len(),
        },
        connections: report.entries.iter().map(Connection::from).collect(),
        errors: report.errors.iter().map(Mistake::from).collect(),
    };
    serde_json::to_writer_pretty(&mut *out, &document)?;
    writeln!(out)
}

#[derive(Serialize)]
struct Document<'a> {
    summary: Summary,
    connections: Vec<Connection<'a>>,
    errors: Vec<Mistake<'a>>,
}

#[derive(Serialize)]
struct Summary {
    /// Attempted ones.
    total: usize,
    up: usize,
    down: usize,
    /// Definitions that are wrong.
    invalid: usize,
    /// Not attempted.
    paused: usize,
}

/// One connection and what came of its last attempt.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Connection<'a> {
    namespace: &'a str,
    name: &'a str,
    #[serde(rename = "type")]
    type_name: &'a str,
    up: bool,
    reason: Option<&'static str>,
    phase: Option<&'static str>,
    code: Option<&'a str>,
    message: Option<&'a str>,
    hint: Option<&'a str>,
    started_at: String,
    duration_seconds: f64,
    /// Those that were reached, in order.
    phases: Phases<'a>,
    tls: Option<Tls<'a>>,
    endpoint: Option<&'a str>,
    server: Option<&'a str>,
    /// Whom the server takes us for, where that is no secret.
    identity: Option<&'a str>,
    credential_expiry: Option<String>,
    /// The hosts that failed before the one that is up.
    failed_before: &'a [String],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Tls<'a> {
    version: Option<&'a str>,
    verified: bool,
    earliest_expiry: Option<String>,
    subject: Option<&'a str>,
    issuer: Option<&'a str>,
}

/// An object with seconds by phase, in the order in which they happen.
struct Phases<'a>(&'a [(Phase, Duration)]);

impl Serialize for Phases<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let seconds =
            |(phase, duration): &(Phase, Duration)| (phase.as_str(), duration.as_secs_f64());
        serializer.collect_map(self.0.iter().map(seconds))
    }
}

/// One mistake in a definition.
#[derive(Serialize)]
pub struct Mistake<'a> {
    file: &'a str,
    /// Null where the whole file is meant.
    line: Option<u32>,
    column: Option<u32>,
    /// Null where it is not known, or none is meant.
    #[serde(rename = "type")]
    type_name: Option<&'a str>,
    connection: Option<String>,
    message: &'a str,
    hint: Option<&'a str>,
}

impl<'a> From<&'a Entry> for Connection<'a> {
    fn from(entry: &'a Entry) -> Self {
        let Outcome {
            started_at,
            duration,
            phases,
            tls,
            server,
            identity,
            http_status: _,
            credential_expiry,
            failed_before,
            result,
        } = &entry.outcome;
        let failure = result.as_ref().err();
        Self {
            namespace: &entry.id.namespace,
            name: &entry.id.name,
            type_name: entry.type_name,
            up: failure.is_none(),
            reason: failure.map(|failure| failure.reason.as_str()),
            phase: failure
                .and_then(|failure| failure.phase)
                .map(|phase| phase.as_str()),
            code: failure.and_then(|failure| failure.code.as_deref()),
            message: failure.map(|failure| failure.message.as_str()),
            hint: failure.and_then(|failure| failure.hint.as_deref()),
            started_at: format!("{started_at:.3}"),
            duration_seconds: duration.as_secs_f64(),
            phases: Phases(phases),
            tls: tls.as_ref().map(|tls| Tls {
                version: tls.version.as_deref(),
                verified: tls.verified,
                earliest_expiry: tls.earliest_expiry.as_ref().map(Timestamp::to_string),
                subject: tls.subject.as_deref(),
                issuer: tls.issuer.as_deref(),
            }),
            endpoint: entry.endpoint.as_deref(),
            server: server.as_deref(),
            identity: identity.as_deref(),
            credential_expiry: credential_expiry.as_ref().map(Timestamp::to_string),
            failed_before,
        }
    }
}

impl<'a> From<&'a ConfigError> for Mistake<'a> {
    fn from(error: &'a ConfigError) -> Self {
        let somewhere = error.place.line > 0;
        Self {
            file: &error.place.file,
            line: somewhere.then_some(error.place.line),
            column: somewhere.then_some(error.place.column),
            type_name: (error.type_name.as_deref())
                .map(|name| types::find(name).map_or(name, |ty| ty.name)),
            connection: error.connection.as_ref().map(ToString::to_string),
            message: &error.message,
            hint: error.hint.as_deref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::Output;
    use crate::report::tests::{report, written};

    #[test]
    fn keys_are_always_there() {
        insta::assert_snapshot!(written(&report(), Output::Json, true));
    }
}
