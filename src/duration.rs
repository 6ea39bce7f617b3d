//! Durations as people write and read them.

use std::str::FromStr;
use std::time::Duration;

/// How often a connection is attempted: between a second and a week.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval(pub Duration);

/// How long something may take: between a millisecond and an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeout(pub Duration);

impl FromStr for Interval {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (least, most) = (Duration::from_secs(1), Duration::from_hours(7 * 24));
        parse("an interval", text, least, most).map(Self)
    }
}

impl FromStr for Timeout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (least, most) = (Duration::from_millis(1), Duration::from_hours(1));
        parse("a timeout", text, least, most).map(Self)
    }
}

fn parse(what: &str, text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    let text = text.trim();
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number && text.bytes().any(|byte| byte != b'0') {
        return Err(format!("`{text}` has no unit: write `{text}s` for seconds"));
    }
    let duration = humantime::parse_duration(text)
        .map_err(|_| format!("`{text}` is not a duration such as `30s` or `1m30s`"))?;
    if duration < least || duration > most {
        return Err(format!(
            "`{text}` is not between {} and {}, as {what} must be",
            humantime::format_duration(least),
            humantime::format_duration(most),
        ));
    }
    Ok(duration)
}

/// A measured duration for people, with three digits that matter: `870 µs`, `12.3 ms`, `1.52 s`.
pub fn measured(duration: Duration) -> String {
    let micros = duration.as_secs_f64() * 1e6;
    match micros {
        0.0..999.5 => format!("{micros:.0} µs"),
        999.5..9_995.0 => format!("{:.2} ms", micros / 1e3),
        9_995.0..99_950.0 => format!("{:.1} ms", micros / 1e3),
        99_950.0..999_500.0 => format!("{:.0} ms", micros / 1e3),
        999_500.0..9_995_000.0 => format!("{:.2} s", micros / 1e6),
        _ => format!("{:.1} s", micros / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_checked_where_they_are_read() {
        let read = |text: &str| text.parse::<Interval>().map(|interval| interval.0);
        assert_eq!(read("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(read(" 1m30s "), Ok(Duration::from_secs(90)));
        let refused = [
            "",
            "0",
            "0s",
            "30",
            "999ms",
            "8d",
            "-1s",
            "soon",
            "99999999999999999999y",
        ];
        let messages: Vec<_> = refused.map(|text| read(text).unwrap_err()).into();
        insta::assert_snapshot!(messages.join("\n"), @r"
        `` is not a duration such as `30s` or `1m30s`
        `0` is not between 1s and 7days, as an interval must be
        `0s` is not between 1s and 7days, as an interval must be
        `30` has no unit: write `30s` for seconds
        `999ms` is not between 1s and 7days, as an interval must be
        `8d` is not between 1s and 7days, as an interval must be
        `-1s` is not a duration such as `30s` or `1m30s`
        `soon` is not a duration such as `30s` or `1m30s`
        `99999999999999999999y` is not a duration such as `30s` or `1m30s`
        ");
    }

    /// Whatever is read can be added to any moment.
    #[test]
    fn nothing_is_longer_than_its_limit() {
        let interval = |text: &str| text.parse::<Interval>().map(|interval| interval.0);
        let timeout = |text: &str| text.parse::<Timeout>().map(|timeout| timeout.0);
        assert_eq!(interval("7d"), Ok(Duration::from_hours(7 * 24)));
        assert_eq!(timeout("1h"), Ok(Duration::from_hours(1)));
        assert_eq!(timeout("1ms"), Ok(Duration::from_millis(1)));
        for (text, expected) in [
            (
                "1h 1ns",
                "`1h 1ns` is not between 1ms and 1h, as a timeout must be",
            ),
            (
                "999us",
                "`999us` is not between 1ms and 1h, as a timeout must be",
            ),
            (
                "584y",
                "`584y` is not between 1ms and 1h, as a timeout must be",
            ),
        ] {
            assert_eq!(timeout(text), Err(expected.to_owned()));
        }
        // As long as a duration can be, and longer.
        for text in ["18446744073709551615s", "18446744073709551616s", "7d 1ns"] {
            interval(text).expect_err(text);
            timeout(text).expect_err(text);
        }
    }

    #[test]
    fn measured_durations_keep_three_digits() {
        let shown = [
            0, 870, 1_000, 9_990, 12_345, 123_456, 999_600, 1_523_000, 60_000_000,
        ]
        .map(|micros| measured(Duration::from_micros(micros)));
        assert_eq!(
            shown.join(", "),
            "0 µs, 870 µs, 1.00 ms, 9.99 ms, 12.3 ms, 123 ms, 1.00 s, 1.52 s, 60.0 s"
        );
    }
}
