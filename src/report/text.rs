//! The report for people: what is up first, what is down last, with everything one needs to act.

use std::io::{self, Write};
use std::time::Duration;

use conncheck_config::Identity;
use conncheck_probes::{Phase, TlsFacts};
use jiff::Timestamp;
use unicode_width::UnicodeWidthStr;

use super::{Entry, Report};
use crate::duration::measured;
use crate::logging::OneLine;

const GREEN: &str = "\x1b[32m";
const RED: &str = "\x1b[31m";
const YELLOW: &str = "\x1b[33m";
const DIM: &str = "\x1b[2m";
const OFF: &str = "\x1b[0m";

/// Writes the report as an aligned table.
pub fn write(report: &Report, colour: bool, out: &mut dyn Write) -> io::Result<()> {
    let paint = |with: &'static str| if colour { (with, OFF) } else { ("", "") };
    let table = Table::of(&report.entries);
    if !report.entries.is_empty() {
        let (on, off) = paint(DIM);
        writeln!(out, "{on}{:INDENT$}{}{off}", "", table.header())?;
    }
    let (up, down): (Vec<_>, Vec<_>) = report.entries.iter().partition(|e| e.outcome.is_up());
    let (on, off) = paint(GREEN);
    for entry in up {
        writeln!(out, "{on}up{off}{:7}{}", "", table.row(entry))?;
        if let Some(identity) = &entry.outcome.identity {
            writeln!(out, "{:INDENT$}as {}", "", OneLine(identity))?;
        }
        for failed in &entry.outcome.failed_before {
            writeln!(out, "{:INDENT$}failed before: {}", "", OneLine(failed))?;
        }
    }
    let (on, off) = paint(YELLOW);
    for id in &report.paused {
        writeln!(out, "{on}paused{off}{:3}{}", "", named(id))?;
    }
    let (on, off) = paint(RED);
    for entry in down {
        writeln!(out, "{on}down{off}{:5}{}", "", table.row(entry))?;
        let Err(failure) = &entry.outcome.result else {
            continue;
        };
        let phase = failure.phase.map(|phase| format!("in {phase}"));
        let code = failure.code.as_ref().map(|code| format!("code {code}"));
        let details: Vec<_> = [phase, code].into_iter().flatten().collect();
        let details = match details.is_empty() {
            true => String::new(),
            false => format!(" ({})", details.join(", ")),
        };
        let (details, message) = (OneLine(&details), OneLine(&failure.message));
        writeln!(
            out,
            "{:INDENT$}{on}{}{off}{details}: {message}",
            "", failure.reason
        )?;
        if let Some(hint) = &failure.hint {
            writeln!(out, "{:INDENT$}hint: {}", "", OneLine(hint))?;
        }
    }
    if !report.entries.is_empty() && !report.errors.is_empty() {
        writeln!(out)?;
    }
    for error in &report.errors {
        let error = error.to_string();
        let mut lines = error.lines().map(OneLine);
        if let Some(line) = lines.next() {
            writeln!(out, "{on}invalid{off}{:2}{line}", "")?;
        }
        for line in lines {
            writeln!(out, "{:INDENT$}{line}", "")?;
        }
    }
    summary(report, colour, out)
}

/// Where the second column starts: behind the longest of `up`, `paused`, `down` and `invalid`.
const INDENT: usize = 9;

fn summary(report: &Report, colour: bool, out: &mut dyn Write) -> io::Result<()> {
    let mut parts = Vec::new();
    let counts = [
        (report.up(), "up", GREEN),
        (report.down(), "down", RED),
        (report.paused.len(), "paused", YELLOW),
        (report.invalid, "invalid", RED),
    ];
    for (count, what, with) in counts {
        match (count, colour) {
            (0, _) => {}
            (_, true) => parts.push(format!("{with}{count} {what}{OFF}")),
            (_, false) => parts.push(format!("{count} {what}")),
        }
    }
    if report.entries.is_empty() {
        parts.push("nothing to probe".to_owned());
    }
    if report.not_selected > 0 {
        parts.push(format!("{} not selected", report.not_selected));
    }
    let (dim, off) = if colour { (DIM, OFF) } else { ("", "") };
    let gap =
        match report.entries.is_empty() && report.errors.is_empty() && report.paused.is_empty() {
            true => "",
            false => "\n",
        };
    writeln!(
        out,
        "{gap}{} {dim}in {}{off}",
        parts.join(", "),
        measured(report.took)
    )
}

/// What a column is called, whether it holds numbers (which stand to the right, so that they can
/// be compared), and what it says of an entry.
type Column = (&'static str, bool, fn(&Entry) -> Option<String>);

const COLUMNS: [Column; 10] = [
    ("connection", false, |entry| Some(named(&entry.id))),
    ("type", false, |entry| Some(entry.type_name.to_owned())),
    ("latency", true, |entry| {
        Some(measured(entry.outcome.duration))
    }),
    ("resolve", true, |entry| phase(entry, Phase::Resolve)),
    ("connect", true, |entry| phase(entry, Phase::Connect)),
    ("tls", true, |entry| phase(entry, Phase::Tls)),
    ("auth", true, |entry| phase(entry, Phase::Auth)),
    ("request", true, |entry| phase(entry, Phase::Request)),
    ("certificate", false, |entry| {
        let tls = entry.outcome.tls.as_ref()?;
        certificate(tls, entry.outcome.started_at)
    }),
    ("server", false, |entry| {
        let server = entry.outcome.server.as_deref()?;
        Some(OneLine(server).to_string())
    }),
];

fn phase(entry: &Entry, wanted: Phase) -> Option<String> {
    let mut phases = entry.outcome.phases.iter();
    let (_, duration) = phases.find(|(phase, _)| *phase == wanted)?;
    Some(measured(*duration))
}

/// The columns in which anything stands, and how wide they are.
struct Table(Vec<(Column, usize)>);

impl Table {
    fn of(entries: &[Entry]) -> Self {
        let width = |(name, _, of): &Column| {
            let widest = entries
                .iter()
                .filter_map(of)
                .map(|cell| cell.width())
                .max()?;
            Some(widest.max(name.len()))
        };
        let columns = COLUMNS.into_iter();
        Self(
            columns
                .filter_map(|column| Some((column, width(&column)?)))
                .collect(),
        )
    }

    fn header(&self) -> String {
        self.line(|(name, ..)| (*name).to_owned())
    }

    fn row(&self, entry: &Entry) -> String {
        self.line(|(_, _, of)| of(entry).unwrap_or_default())
    }

    fn line(&self, cell: impl Fn(&Column) -> String) -> String {
        let mut line = String::new();
        for (column, width) in &self.0 {
            let cell = cell(column);
            let padding = " ".repeat(width - cell.width());
            match column.1 {
                true => line.extend([&padding, &cell, "  "]),
                false => line.extend([&cell, padding.as_str(), "  "]),
            }
        }
        line.trim_end().to_owned()
    }
}

/// The default namespace goes without saying.
fn named(id: &Identity) -> String {
    match id.namespace.as_str() {
        "default" => OneLine(&id.name).to_string(),
        _ => OneLine(&id.to_string()).to_string(),
    }
}

/// `70d`, counted from `now`.
fn certificate(tls: &TlsFacts, now: Timestamp) -> Option<String> {
    let left = tls.earliest_expiry?.duration_since(now);
    let about = |duration: Duration| match duration.as_secs() / 3600 {
        hours @ 0..48 => format!("{hours}h"),
        hours => format!("{}d", hours / 24),
    };
    let about = about(left.unsigned_abs());
    Some(match (left.is_negative(), tls.verified) {
        (true, _) => format!("expired {about} ago"),
        (false, true) => about,
        (false, false) => format!("{about}, not verified"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Output;
    use crate::report::tests::{report, written};

    #[test]
    fn aligned_and_the_failing_ones_last() {
        insta::assert_snapshot!(written(&report(), Output::Text, false));
    }

    #[test]
    fn coloured_on_a_terminal() {
        let text = written(&report(), Output::Text, true);
        insta::assert_snapshot!(text.replace('\x1b', "␛"));
    }

    #[test]
    fn nothing_to_probe_says_so() {
        let mut report = Report::default();
        assert_eq!(
            written(&report, Output::Text, false),
            "nothing to probe in 0 µs\n"
        );
        report.not_selected = 3;
        let text = written(&report, Output::Text, false);
        assert_eq!(text, "nothing to probe, 3 not selected in 0 µs\n");
    }
}
