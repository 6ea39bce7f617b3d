//! The report for people: what is up first, what is down last, with everything one needs to act.

use std::io::{self, Write};
use std::time::Duration;

use conncheck_config::Identity;
use conncheck_probes::TlsFacts;
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
    let rows: Vec<_> = report.entries.iter().map(Row::from).collect();
    let widths: [usize; COLUMNS] = std::array::from_fn(|column| {
        rows.iter()
            .map(|row| row.cells[column].width())
            .max()
            .unwrap_or(0)
    });
    let (good, bad): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.entry.outcome.is_up());
    for row in good {
        let (on, off) = paint(GREEN);
        writeln!(out, "{on}up{off}    {}", row.aligned(&widths))?;
    }
    for id in &report.paused {
        let (on, off) = paint(YELLOW);
        writeln!(out, "{on}--{off}    {}  paused, not probed", named(id))?;
    }
    for row in bad {
        let (on, off) = paint(RED);
        writeln!(out, "{on}down{off}  {}", row.aligned(&widths))?;
        let Err(failure) = &row.entry.outcome.result else {
            continue;
        };
        let phase = failure.phase.map(|phase| format!("in {phase}"));
        let code = failure.code.as_ref().map(|code| format!("code {code}"));
        let details: Vec<_> = [phase, code].into_iter().flatten().collect();
        let details = match details.is_empty() {
            true => String::new(),
            false => format!(" ({})", details.join(", ")),
        };
        let (reason, details, message) =
            (failure.reason, OneLine(&details), OneLine(&failure.message));
        writeln!(out, "      {on}{reason}{off}{details}: {message}")?;
        if let Some(hint) = &failure.hint {
            writeln!(out, "      hint: {}", OneLine(hint))?;
        }
    }
    if !report.errors.is_empty() {
        let gap = if report.entries.is_empty() { "" } else { "\n" };
        write!(out, "{gap}")?;
        for error in &report.errors {
            let (on, off) = paint(RED);
            let error = error.to_string();
            let mut lines = error.lines();
            writeln!(
                out,
                "{on}invalid{off}  {}",
                OneLine(lines.next().unwrap_or_default())
            )?;
            for line in lines {
                writeln!(out, "         {}", OneLine(line))?;
            }
        }
    }
    summary(report, colour, out)
}

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

const COLUMNS: usize = 4;

/// One line of the table; the last cell is not padded.
struct Row<'a> {
    entry: &'a Entry,
    /// Name, type, duration, phases.
    cells: [String; COLUMNS],
    rest: String,
}

impl<'a> From<&'a Entry> for Row<'a> {
    fn from(entry: &'a Entry) -> Self {
        let outcome = &entry.outcome;
        let phases = outcome.phases.iter();
        let phases: Vec<_> = phases
            .map(|(phase, duration)| format!("{phase} {}", measured(*duration)))
            .collect();
        let certificate = outcome
            .tls
            .as_ref()
            .and_then(|tls| certificate(tls, outcome.started_at));
        let server = outcome
            .server
            .as_deref()
            .map(|server| OneLine(server).to_string());
        let rest: Vec<_> = [certificate, server].into_iter().flatten().collect();
        Self {
            entry,
            cells: [
                named(&entry.id),
                entry.type_name.to_owned(),
                measured(outcome.duration),
                phases.join(", "),
            ],
            rest: rest.join("  "),
        }
    }
}

impl Row<'_> {
    fn aligned(&self, widths: &[usize; COLUMNS]) -> String {
        let mut line = String::new();
        for (column, (cell, width)) in self.cells.iter().zip(widths).enumerate() {
            let padding = " ".repeat(width - cell.width());
            // Numbers stand to the right, so that they can be compared.
            match column {
                2 => line.extend([&padding, cell.as_str(), "  "]),
                _ => line.extend([cell, padding.as_str(), "  "]),
            }
        }
        line.push_str(&self.rest);
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

/// `cert 70d`, counted from `now`.
fn certificate(tls: &TlsFacts, now: Timestamp) -> Option<String> {
    let left = tls.earliest_expiry?.duration_since(now);
    let about = |duration: Duration| match duration.as_secs() / 3600 {
        hours @ 0..48 => format!("{hours}h"),
        hours => format!("{}d", hours / 24),
    };
    let about = about(left.unsigned_abs());
    Some(match (left.is_negative(), tls.verified) {
        (true, _) => format!("cert expired {about} ago"),
        (false, true) => format!("cert {about}"),
        (false, false) => format!("cert {about}, not verified"),
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
