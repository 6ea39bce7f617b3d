//! The log, on standard error: one line when a connection changes state, none while it stays.
//!
//! Only our own crates speak at the chosen level. A dependency says no more than its warnings at
//! any level: drivers trace what they send, passwords included. And whatever is written goes past
//! the [`Redactor`].

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

use conncheck_config::ConfigError;
use conncheck_probes::{Outcome, Reason};
use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber, debug, error, info, warn};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::duration::measured;
use crate::redact::Redactor;
use crate::state::{Changed, Facts};

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people: `time level message key=value …`.
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Error,
    Warn,
    /// Tells when a connection changes state.
    Info,
    /// Tells of each attempt.
    Debug,
    Trace,
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

/// Starts the log of this process, in colour if that is allowed and it goes to a terminal.
pub fn init(format: LogFormat, level: LogLevel, colour: bool, redactor: Arc<Redactor>) {
    let filter = filter(level);
    let writer = Stderr(redactor);
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        // It would tell of a closed standard error on standard error, and panic.
        .log_internal_errors(false);
    // Only a second call fails, and there the first one stands.
    let _ = match format {
        LogFormat::Text => {
            let colour = colour && io::stderr().is_terminal();
            let layer = layer.event_format(Text { colour });
            registry.with(layer).try_init()
        }
        LogFormat::Json => {
            let layer = layer.json().flatten_event(true);
            let layer = layer.with_current_span(false).with_span_list(false);
            registry.with(layer).try_init()
        }
    };
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let message = panic.payload_as_str().unwrap_or("no message");
        error!(
            place,
            panic = message,
            "a bug of conncheck: something panicked"
        );
    }));
}

/// Our crates are all called `conncheck…`.
fn filter(level: LogLevel) -> Targets {
    let ours = LevelFilter::from(level);
    Targets::new()
        .with_default(ours.min(LevelFilter::WARN))
        .with_target("conncheck", ours)
}

/// Tells of an attempt.
pub fn attempted(facts: &Facts, outcome: &Outcome) {
    if !tracing::enabled!(Level::DEBUG) {
        return;
    }
    let mut phases = String::new();
    for (phase, duration) in &outcome.phases {
        let gap = if phases.is_empty() { "" } else { ", " };
        let _ = write!(phases, "{gap}{phase} {}", measured(*duration));
    }
    let failure = outcome.result.as_ref().err();
    debug!(
        connection = %facts.id,
        "type" = facts.type_name,
        up = outcome.is_up(),
        duration = measured(outcome.duration),
        phases,
        reason = failure.map(|failure| failure.reason.as_str()),
        phase = failure.and_then(|failure| failure.phase).map(|phase| phase.as_str()),
        code = failure.and_then(|failure| failure.code.as_deref()),
        detail = failure.map(|failure| failure.message.as_str()),
        "attempt"
    );
}

/// Tells that a connection is now up or down.
pub fn state_changed(changed: &Changed) {
    let record = &changed.record;
    let Some(outcome) = &record.last else { return };
    let lasted = changed.lasted.map(|lasted| {
        let seconds = std::time::Duration::from_secs(lasted.as_secs());
        humantime::format_duration(seconds).to_string()
    });
    let id = &record.facts.id;
    let type_name = record.facts.type_name;
    let endpoint = record.endpoint.as_deref();
    let Err(failure) = &outcome.result else {
        info!(
            connection = %id,
            "type" = type_name,
            endpoint,
            duration = measured(outcome.duration),
            down_for = lasted,
            "connection is up"
        );
        return;
    };
    macro_rules! down {
        ($level:ident) => {
            $level!(
                connection = %id,
                "type" = type_name,
                reason = failure.reason.as_str(),
                phase = failure.phase.map(|phase| phase.as_str()),
                code = failure.code,
                detail = failure.message,
                hint = failure.hint.as_deref(),
                endpoint,
                failures = record.consecutive_failures,
                up_for = lasted,
                "connection is down"
            )
        };
    }
    match failure.reason {
        Reason::Internal => down!(error),
        _ => down!(warn),
    }
}

/// Tells of a mistake because of which a definition is not probed.
pub fn definition_refused(mistake: &ConfigError) {
    error!(
        place = %mistake.place,
        connection = mistake.connection.as_ref().map(tracing::field::display),
        "type" = mistake.type_name,
        detail = mistake.message,
        hint = mistake.hint,
        "a definition is wrong and not probed"
    );
}

/// Tells of something in a definition that works and should be mended.
pub fn definition_warned(mistake: &ConfigError) {
    warn!(
        place = %mistake.place,
        connection = mistake.connection.as_ref().map(tracing::field::display),
        "type" = mistake.type_name,
        detail = mistake.message,
        hint = mistake.hint,
        "a definition should be mended"
    );
}

/// `2026-11-22T07:40:03.123Z WARN  connection is down connection=default/db reason=auth …`
struct Text {
    colour: bool,
}

impl<S, N> FormatEvent<S, N> for Text
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut line: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = *event.metadata().level();
        let (on, off) = match (self.colour, level) {
            (true, Level::ERROR) => ("\x1b[31m", "\x1b[0m"),
            (true, Level::WARN) => ("\x1b[33m", "\x1b[0m"),
            (true, Level::INFO) => ("\x1b[32m", "\x1b[0m"),
            _ => ("", ""),
        };
        let mut fields = Fields::default();
        event.record(&mut fields);
        let now = Timestamp::now();
        write!(line, "{now:.3} {on}{level:<5}{off} {}", fields.message)?;
        writeln!(line, "{}", fields.rest)
    }
}

/// The fields of one event as text.
#[derive(Default)]
struct Fields {
    message: String,
    rest: String,
}

impl Fields {
    fn push(&mut self, field: &Field, value: &str) {
        let (rest, name) = (&mut self.rest, field.name());
        let _ = match name {
            "message" => write!(self.message, "{}", OneLine(value)),
            _ if needs_quotes(value) => write!(rest, " {name}={value:?}"),
            _ => write!(rest, " {name}={value}"),
        };
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, &format!("{value:?}"));
    }
}

fn needs_quotes(value: &str) -> bool {
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '"' && c != '=';
    value.is_empty() || !value.chars().all(plain)
}

/// A text whose control characters are escaped, so that it stays on its line and does nothing to
/// a terminal.
pub struct OneLine<'a>(pub &'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c.is_control() {
            true => write!(f, "{}", c.escape_default()),
            false => f.write_char(c),
        })
    }
}

/// Standard error behind the redactor. Events come as one whole line each.
#[derive(Clone)]
struct Stderr(Arc<Redactor>);

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        io::stderr().write_all(self.0.redact(&text).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::state::State;
    use crate::state::tests::{down, facts, up};

    /// What `speak` writes at `level`, as text without its time.
    fn spoken(level: LogLevel, speak: impl FnOnce()) -> String {
        #[derive(Clone, Default)]
        struct Sink(Arc<Mutex<Vec<u8>>>);
        impl Write for Sink {
            fn write(&mut self, line: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().write(line)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let sink = Sink::default();
        let writer = sink.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(move || writer.clone())
            .event_format(Text { colour: false });
        let subscriber = tracing_subscriber::registry()
            .with(filter(level))
            .with(layer);
        tracing::subscriber::with_default(subscriber, speak);
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        let lines = text.lines().map(|line| line.split_once(' ').unwrap().1);
        lines.collect::<Vec<_>>().join("\n")
    }

    /// A connection that is up, goes down for a minute, and comes back.
    fn story() {
        let state = State::default();
        let facts = facts("db", 1, 1);
        state.apply([Arc::clone(&facts)]);
        let mut failed = down(Reason::Timeout);
        failed.started_at += jiff::SignedDuration::from_secs(90);
        let failure = failed.result.as_mut().unwrap_err();
        failure.code = Some("57P03".to_owned());
        failure.message = "the database system is \"starting up\"\n\x1b[2J".to_owned();
        failure.hint = Some("wait".into());
        let mut back = up();
        back.started_at += jiff::SignedDuration::from_secs(150);
        for outcome in [up(), up(), failed.clone(), failed, back] {
            attempted(&facts, &outcome);
            let endpoint = Some("http://db:80".into());
            if let Some(changed) = state.record(&facts.id, endpoint, outcome) {
                state_changed(&changed);
            }
        }
    }

    #[test]
    fn a_change_is_one_line_and_no_change_is_none() {
        insta::assert_snapshot!(spoken(LogLevel::Info, story), @r#"
        INFO  connection is up connection=default/db type=http endpoint=http://db:80 duration="20.0 ms"
        WARN  connection is down connection=default/db type=http reason=timeout phase=connect code=57P03 detail="the database system is \"starting up\"\n\u{1b}[2J" hint=wait endpoint=http://db:80 failures=1 up_for="1m 30s"
        INFO  connection is up connection=default/db type=http endpoint=http://db:80 duration="20.0 ms" down_for=1m
        "#);
    }

    #[test]
    fn debug_tells_each_attempt() {
        let text = spoken(LogLevel::Debug, story);
        let attempts = text.lines().filter(|line| line.contains(" attempt "));
        assert_eq!(attempts.count(), 5, "{text}");
    }

    #[test]
    fn a_dependency_never_says_more_than_its_warnings() {
        let text = spoken(LogLevel::Trace, || {
            tracing::info!(target: "tokio_postgres", "hello hunter2");
            tracing::trace!(target: "hyper::proto", "hello hunter2");
            tracing::warn!(target: "hickory_resolver", "odd answer");
            tracing::trace!(target: "conncheck_probes::attempt", "ours");
        });
        assert_eq!(text, "WARN  odd answer\nTRACE ours");
        let text = spoken(LogLevel::Error, || {
            tracing::warn!(target: "hickory_resolver", "odd answer");
        });
        assert_eq!(text, "");
    }
}
