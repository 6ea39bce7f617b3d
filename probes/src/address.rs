//! Reading the parts of a URL that every type shares.
//!
//! [`Location`] is a URL as the web has them. What names several hosts, as drivers of databases do, is
//! none: those types read it themselves, with what stands at the end here.

use percent_encoding::percent_decode_str;
use url::Url;

use conncheck_config::{Field, Secret};

use crate::attempt::Address;
use crate::probe::{Access, Invalid};

/// A URL, read but not yet understood by its type.
pub(crate) struct Location {
    /// Lower case, without `://`.
    pub(crate) scheme: String,
    /// The user, decoded.
    pub(crate) username: Option<String>,
    /// The password, decoded.
    pub(crate) password: Option<String>,
    /// A name, or an address without brackets; absent where the URL has none.
    pub(crate) host: Option<String>,
    pub(crate) port: Option<u16>,
    /// Decoded, with its leading slash.
    pub(crate) path: String,
    /// As it was written, where a slash may be part of a name (`/%2f`).
    pub(crate) raw_path: String,
    /// Decoded, in order.
    pub(crate) query: Vec<(String, String)>,
}

impl Location {
    /// Reads a URL. No message quotes it: it may hold a password.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| match error {
            url::ParseError::RelativeUrlWithoutBase => {
                "it has no scheme (`redis://`, `https://` …)".to_owned()
            }
            url::ParseError::InvalidPort => {
                "the port is not a number below 65536; if the password has a `:`, `/`, `@` or `#` in it, \
                 percent-encode it or give it as `password`"
                    .to_owned()
            }
            error => error.to_string(),
        })?;
        let username = match url.username() {
            "" => None,
            user => Some(leniently_decoded(user)?),
        };
        Ok(Self {
            scheme: url.scheme().to_owned(),
            username,
            password: url.password().map(leniently_decoded).transpose()?,
            host: match url.host_str() {
                None | Some("") => None,
                Some(host) => Some(leniently_decoded(
                    host.trim_start_matches('[').trim_end_matches(']'),
                )?),
            },
            port: url.port(),
            path: leniently_decoded(url.path())?,
            raw_path: url.path().to_owned(),
            query: url
                .query_pairs()
                .map(|(key, value)| (key.into_owned(), value.into_owned()))
                .collect(),
        })
    }

    /// Reads the URL of something to log in to; a mistake is placed there. What would be lost or
    /// mistaken is refused: a fragment, and the rest of a password that was not encoded.
    pub(crate) fn of(access: &Access<'_>, url: &Secret) -> Result<Self, Invalid> {
        let bad = |error: &str| access.invalid(Field::Url, format!("bad `url`: {error}"));
        let text = url.expose();
        if text.contains('#') {
            return Err(
                bad("there is a `#` in it, and what stands behind one is dropped")
                    .hint("write it `%23`"),
            );
        }
        let (authority, tail) = authority_and_tail(text);
        if let Err(mistake) = may_be_password(authority, tail) {
            return Err(Invalid {
                hint: mistake.hint,
                ..bad(&mistake.message)
            });
        }
        Self::parse(text).map_err(|error| bad(&error))
    }

    /// The host and port, where both are needed and the port has a default.
    pub(crate) fn address(&self, access: &Access<'_>, port: u16) -> Result<Address, Invalid> {
        match &self.host {
            Some(host) => Ok(Address::Tcp {
                host: host.clone(),
                port: self.port.unwrap_or(port),
            }),
            None => Err(access.invalid(Field::Url, "bad `url`: it has no host")),
        }
    }
}

/// What stands between `://` and the path or the options, and the rest.
fn authority_and_tail(url: &str) -> (&str, &str) {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()))
}

pub(crate) const ENCODE: &str = "is it still the password? percent-encode a `:`, `/`, `?`, `#`, `@` or `%` in it, or give it as `password`";

/// The way out where a password is missing.
pub(crate) const NO_PASSWORD: &str =
    "give `password` or a `secretRef`; an empty one (`user:@host`) cannot be given";

/// Whether the tail of a URL may be the rest of a password with a `/` or `?` in it, since there is an
/// `@` in the tail and none in the authority: then no part of it is quoted. An error where it cannot
/// well be anything else, as in `amqp://app:2024?Spring@host/`, of which `app:2024` would be taken for
/// the place.
///
/// The value of an option may have an `@` (`?from=probe@example.com`), and so may a DN in a path: what
/// comes behind a `=` is let pass. And where there is no `:` there is no password.
pub(crate) fn may_be_password(authority: &str, tail: &str) -> Result<bool, Mistake> {
    let Some((before, _)) = tail.rsplit_once('@') else {
        return Ok(false);
    };
    if authority.contains('@') || authority.starts_with('[') {
        return Ok(false);
    }
    let is_no_value = tail
        .split(['/', '?', '&'])
        .filter_map(|part| part.split_once('@'))
        .any(|(before, _)| !before.contains('='));
    match is_no_value && (authority.contains(':') || before.contains(':')) {
        true => Err(
            mistake("there is an `@` behind its first `/` or `?`, and none before").hint(ENCODE),
        ),
        false => Ok(true),
    }
}

/// Whether the options of the connection's URL may be the rest of a password.
pub(crate) fn options_may_be_password(access: &Access<'_>) -> bool {
    access.url().is_ok_and(|url| {
        let (authority, tail) = authority_and_tail(url.expose());
        may_be_password(authority, tail).unwrap_or(true)
    })
}

/// The refusal of an option that this type does not honour: never ignored.
pub(crate) fn unknown_option(
    access: &Access<'_>,
    option: &str,
    known: &'static [&'static str],
) -> Invalid {
    if options_may_be_password(access) {
        return access
            .invalid(Field::Url, "bad `url`: it has an option that is not known")
            .hint(ENCODE);
    }
    let invalid = access.invalid(Field::Url, format!("bad `url`: unknown option `{option}`"));
    match conncheck_config::closest(option, known.iter().copied()) {
        Some(close) => invalid.hint(format!("did you mean `{close}`?")),
        None => invalid.hint(match known {
            [] => "there are none".to_owned(),
            known => format!("known options: {}", known.join(", ")),
        }),
    }
}

/// What is wrong with a text. Quotes no value: any of them may be secret.
#[derive(Debug, PartialEq)]
pub(crate) struct Mistake {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

pub(crate) fn mistake(message: impl Into<String>) -> Mistake {
    Mistake {
        message: message.into(),
        hint: None,
    }
}

impl Mistake {
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// `name:port`, `[v6]:port`.
pub(crate) fn host_and_port(host: &str) -> Result<(&str, &str), Mistake> {
    let (name, port) = match host.strip_prefix('[') {
        None => host.split_once(':').unwrap_or((host, "")),
        Some(rest) => {
            let (name, rest) = rest
                .split_once(']')
                .ok_or_else(|| mistake("an IPv6 address has no closing `]`"))?;
            match rest.strip_prefix(':') {
                Some(port) => (name, port),
                None if rest.is_empty() => (name, ""),
                None => return Err(mistake("there is something between `]` and the port")),
            }
        }
    };
    match port.contains(':') {
        true => Err(mistake("a host has too many `:`")
            .hint("an IPv6 address stands in brackets: `[::1]:PORT`")),
        false => Ok((name, port)),
    }
}

const NOT_UTF8: &str = "a percent-encoded part of it is not UTF-8 text";

/// `%41` is `A`, and a `%` without two digits behind it is a `%`, as browsers have it.
pub(crate) fn leniently_decoded(text: &str) -> Result<String, String> {
    percent_decode_str(text)
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| NOT_UTF8.to_owned())
}

/// `%41` is `A`, and `+` is `+`.
pub(crate) fn decode(text: &str) -> Result<String, Mistake> {
    let bad = || {
        mistake("a `%` is not followed by two hexadecimal digits")
            .hint("a `%` itself is written `%25`")
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        match (first, tail) {
            (b'%', [high, low, tail @ ..]) => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                let (high, low) = digit(high).zip(digit(low)).ok_or_else(bad)?;
                bytes.push((high * 16 + low) as u8);
                rest = tail;
            }
            (b'%', _) => return Err(bad()),
            (byte, tail) => {
                bytes.push(*byte);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).map_err(|_| mistake(NOT_UTF8))
}

/// The value called `text`; all are named where there is none.
pub(crate) fn one_of<T: Copy>(
    option: &str,
    text: &str,
    known: &[(&'static str, T)],
) -> Result<T, Mistake> {
    if let Some((_, value)) = known.iter().find(|(name, _)| *name == text) {
        return Ok(*value);
    }
    let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
    let wrong = mistake(format!("unknown value of `{option}`"));
    Err(
        match conncheck_config::closest(text, names.iter().copied()) {
            Some(close) => wrong.hint(format!(
                "did you mean `{close}`? it knows {}",
                names.join(", ")
            )),
            None => wrong.hint(format!("it knows {}", names.join(", "))),
        },
    )
}

#[cfg(test)]
mod tests {
    use crate::testing::{build_or_say, quoted};

    fn mistake_in(ty: &str, url: &str) -> Option<String> {
        build_or_say(ty, &format!("url: {}", quoted(url))).err()
    }

    #[test]
    fn a_password_that_is_not_encoded_is_neither_the_place_nor_quoted() {
        for (ty, url) in [
            ("amqp", "amqp://app:2024?Spring@h/"),
            ("amqp", "amqp://app:2024/Spring@h/vhost"),
            ("amqp", "amqp://app:2024?Spring=1@h/"),
            ("amqp", "amqp://a/pp:Spring@h"),
            ("mssql", "sqlserver://sa:12?Spring@h?database=x"),
            ("mssql", "sqlserver://sa:12?Spring=w@h?database=x"),
            ("mysql", "mysql://app:12?Spring@h/db"),
            ("mysql", "mysql://app:12/Spring@h/db"),
            ("mysql", "mysql://app:pw/Spring@h/db"),
            ("redis", "redis://:12/Spring@h"),
            ("redis", "redis://app:12?Spring=x@h"),
            ("smtp", "smtp://app:12?Spring@h"),
            ("mongodb", "mongodb://app:12?Spring@h/db"),
            ("mongodb", "mongodb://app:12/Spring@h"),
            ("mongodb", "mongodb://app:12/?Spring=w@h"),
        ] {
            let mistake = mistake_in(ty, url).expect(url);
            assert!(!mistake.contains("Spring"), "{url}: {mistake}");
            assert!(mistake.contains("percent-encode"), "{url}: {mistake}");
        }
    }

    #[test]
    fn an_at_sign_has_its_right_places() {
        for (ty, url) in [
            ("amqp", "amqp://app:pw@h:5672/te%40m"),
            ("amqp", "amqp://h/te@m"),
            ("amqp", "amqp://[::1]:5672/te@m"),
            ("mssql", "sqlserver://h:1433?user+id=sa@server&password=p@w"),
            (
                "mysql",
                "mysql://h:3306/db?user=u&connectionAttributes=team:a@b",
            ),
            ("smtp", "smtp://h:587?from=a@example.com&to=b@example.com"),
            ("ldap", "ldap://h:389/mail=a@example.com,dc=example"),
            ("mongodb", "mongodb://h:27017/db?appName=a@b"),
        ] {
            assert_eq!(mistake_in(ty, url), None, "{url}");
        }
    }

    #[test]
    fn what_stands_behind_a_hash_is_not_dropped() {
        for (ty, url) in [
            ("mysql", "mysql://u:p@h/app#2?tls=verify-full"),
            ("amqp", "amqp://app:20#24@h/"),
            ("mssql", "sqlserver://u:p@h?database=a#b"),
            ("redis", "redis://h/#1"),
            ("smtp", "smtp://u:p@h#x"),
        ] {
            let mistake = mistake_in(ty, url).expect(url);
            assert!(mistake.contains("`%23`"), "{url}: {mistake}");
        }
    }
}
