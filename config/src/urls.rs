//! Several URLs in one text, and what is put into a URL.

use std::net::Ipv6Addr;

/// The URLs of a text that may hold several, with commas or white space between them. Only what
/// begins another URL ends the one before it: a password may hold a comma.
pub fn urls(text: &str) -> Vec<&str> {
    let starts = starts(text);
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    let parts = starts.iter().zip(ends);
    parts
        .map(|(start, end)| text[*start..end].trim_matches(between))
        .collect()
}

/// Where they start; the first at 0.
pub(crate) fn starts(text: &str) -> Vec<usize> {
    let of_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    let mut starts = vec![0];
    for (at, _) in text.match_indices("://") {
        let before = text[..at].trim_end_matches(of_scheme);
        let is_first = before.trim_end_matches(between).is_empty();
        if before.ends_with(between) && before.len() < at && !is_first {
            starts.push(before.len());
        }
    }
    starts
}

fn between(c: char) -> bool {
    c == ',' || c.is_whitespace()
}

/// Whether a host says its port.
pub(crate) fn has_port(host: &str) -> bool {
    let host = host.trim();
    match host.rsplit_once(']') {
        Some((_, rest)) => rest.starts_with(':'),
        None => host.contains(':') && !is_bare_ipv6(host),
    }
}

/// An IPv6 address without the brackets that it needs in a URL.
pub(crate) fn is_bare_ipv6(host: &str) -> bool {
    host.parse::<Ipv6Addr>().is_ok()
}

/// Whether the query of a URL has this option; case does not matter.
pub(crate) fn has_option(url: &str, name: &str) -> bool {
    option(url, name).is_some()
}

/// This option as it stands in the query of a URL; case does not matter.
pub(crate) fn option<'a>(url: &'a str, name: &str) -> Option<&'a str> {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    query.split(['&', ';']).find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        key.eq_ignore_ascii_case(name).then_some(value)
    })
}

/// A URL with one more option. `value` is as it must stand in a query.
pub(crate) fn with_option(url: &str, name: &str, value: &str) -> String {
    let has_query = url.contains('?');
    let has_path = url
        .split_once("://")
        .is_none_or(|(_, rest)| rest.contains('/'));
    let between = match (has_query, has_path) {
        (true, _) if url.ends_with(['?', '&']) => "",
        (true, _) => "&",
        (false, true) => "?",
        (false, false) => "/?",
    };
    format!("{url}{between}{name}={value}")
}

/// Why a port that stands beside a URL cannot be put into it: the end of a sentence about it, and the
/// way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadPort {
    NoNumber,
    Contradicts,
    NoPlace,
}

impl BadPort {
    pub fn message(self) -> &'static str {
        match self {
            Self::NoNumber => "is not a number from 1 to 65535",
            Self::Contradicts => "contradicts the `url`, which has another port",
            Self::NoPlace => "cannot be put into a `url` of this form",
        }
    }

    pub fn hint(self) -> Option<&'static str> {
        match self {
            Self::NoNumber => None,
            Self::Contradicts => Some("keep one of them"),
            Self::NoPlace => Some("write it into the `url`"),
        }
    }
}

/// A number from 1 to 65535.
pub(crate) fn is_port(text: &str) -> bool {
    let text = text.trim();
    text.bytes().all(|b| b.is_ascii_digit()) && text.parse().is_ok_and(|port: u16| port > 0)
}

/// A URL, keyword DSN or bare host with the port that stands beside it.
pub(crate) fn with_port(url: &str, port: &str) -> Result<String, BadPort> {
    if !is_port(port) {
        return Err(BadPort::NoNumber);
    }
    let port = port.trim();
    if starts(url).len() > 1 {
        return Err(BadPort::NoPlace);
    }
    let scheme = url.find("://").map(|at| &url[..at]);
    if scheme.is_none() && url.contains('=') && !url.contains('?') {
        return with_port_keyword(url, port);
    }
    if scheme.is_some_and(|scheme| scheme.ends_with("+srv") || scheme == "unix") {
        return Err(BadPort::NoPlace);
    }
    let start = scheme.map_or(0, |scheme| scheme.len() + 3);
    // As Go's MySQL driver has it.
    if let Some(open) = url[start..].find("@tcp(").map(|at| start + at + 5)
        && let Some(close) = url[open..].find(')').map(|at| open + at)
    {
        return into_host(url, open, close, port);
    }
    let end = url[start..]
        .find(['/', '?', '#'])
        .map_or(url.len(), |at| start + at);
    let host = url[start..end]
        .rfind('@')
        .map_or(start, |at| start + at + 1);
    into_host(url, host, end, port)
}

fn into_host(url: &str, start: usize, end: usize, port: &str) -> Result<String, BadPort> {
    let host = &url[start..end];
    if is_bare_ipv6(host) {
        return Ok(format!("{}[{host}]:{port}{}", &url[..start], &url[end..]));
    }
    if host.is_empty() || host.contains([',', '(', '%', ' ']) || host.starts_with(':') {
        return Err(BadPort::NoPlace);
    }
    match host.rsplit_once(':').filter(|_| has_port(host)) {
        Some((_, own)) if own == port => Ok(url.to_owned()),
        Some(_) => Err(BadPort::Contradicts),
        None => Ok(format!("{}:{port}{}", &url[..end], &url[end..])),
    }
}

fn with_port_keyword(url: &str, port: &str) -> Result<String, BadPort> {
    if url.contains(';') {
        return Err(BadPort::NoPlace);
    }
    let own = url
        .split_whitespace()
        .find_map(|word| word.strip_prefix("port="));
    match own {
        Some(own) if own.trim_matches('\'') == port => Ok(url.to_owned()),
        Some(_) => Err(BadPort::Contradicts),
        None => Ok(format!("{} port={port}", url.trim_end())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_and_white_space_stand_between_urls() {
        for (text, expected) in [
            ("https://a", &["https://a"][..]),
            ("https://a,https://b", &["https://a", "https://b"]),
            (" https://a , http://b\n", &["https://a", "http://b"]),
            ("https://a https://b/x,", &["https://a", "https://b/x"]),
            (
                "https://u:p,w@a:1,https://u:p w@b:2",
                &["https://u:p,w@a:1", "https://u:p w@b:2"],
            ),
            ("https://a,b", &["https://a,b"]),
            ("https://a?to=http://b", &["https://a?to=http://b"]),
            ("https://a,://b", &["https://a,://b"]),
            ("a,b", &["a,b"]),
            ("", &[""]),
        ] {
            assert_eq!(urls(text), expected);
        }
    }

    #[test]
    fn a_port_goes_where_the_url_has_its_own() {
        use BadPort::*;
        for (url, port, expected) in [
            ("redis://h", "6379", Ok("redis://h:6379")),
            (
                "redis://u:p@h/0?x=y",
                "6379",
                Ok("redis://u:p@h:6379/0?x=y"),
            ),
            ("redis://u:a@b@h", "1", Ok("redis://u:a@b@h:1")),
            ("redis://h:6379", " 6379\n", Ok("redis://h:6379")),
            ("redis://h:6379", "6380", Err(Contradicts)),
            ("redis://[::1]/0", "1", Ok("redis://[::1]:1/0")),
            ("redis://[::1]:1/0", "1", Ok("redis://[::1]:1/0")),
            ("h", "25", Ok("h:25")),
            ("h:25", "26", Err(Contradicts)),
            ("::1", "25", Ok("[::1]:25")),
            (
                "u:p@tcp(h)/db?tls=true",
                "3306",
                Ok("u:p@tcp(h:3306)/db?tls=true"),
            ),
            ("mysql://u:p@tcp(h:1)/db", "3306", Err(Contradicts)),
            ("u@unix(/x)/db", "3306", Err(NoPlace)),
            ("host=h user=u", "5432", Ok("host=h user=u port=5432")),
            ("host=h port=5432", "5432", Ok("host=h port=5432")),
            ("host=h port='1'", "5432", Err(Contradicts)),
            ("Server=h;Password=x", "1433", Err(NoPlace)),
            ("mongodb://a,b/db", "1", Err(NoPlace)),
            ("mongodb+srv://a/db", "1", Err(NoPlace)),
            ("https://a,https://b", "1", Err(NoPlace)),
            ("unix:///x", "1", Err(NoPlace)),
            ("http:///x", "1", Err(NoPlace)),
            ("http://h", "0", Err(NoNumber)),
            ("http://h", "65536", Err(NoNumber)),
            ("http://h", "+1", Err(NoNumber)),
            ("http://h", "http", Err(NoNumber)),
        ] {
            assert_eq!(
                with_port(url, port).as_deref(),
                expected.as_ref().map(|url| *url),
                "{url} {port}"
            );
        }
    }

    #[test]
    fn an_option_goes_behind_the_others() {
        for (url, expected) in [
            ("mongodb://h", "mongodb://h/?tls=true"),
            ("mongodb://h/", "mongodb://h/?tls=true"),
            ("mongodb://h/db", "mongodb://h/db?tls=true"),
            ("mongodb://h/db?a=b", "mongodb://h/db?a=b&tls=true"),
            ("mongodb://h/db?", "mongodb://h/db?tls=true"),
        ] {
            assert_eq!(with_option(url, "tls", "true"), expected);
            assert!(has_option(expected, "TLS"));
            assert!(!has_option(url, "tls"));
        }
    }
}
