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
        let decode = |text: &str| {
            percent_decode_str(text)
                .decode_utf8()
                .map(std::borrow::Cow::into_owned)
                .map_err(|_| "a percent-encoded part of it is not UTF-8 text".to_owned())
        };
        let username = match url.username() {
            "" => None,
            user => Some(decode(user)?),
        };
        Ok(Self {
            scheme: url.scheme().to_owned(),
            username,
            password: url.password().map(decode).transpose()?,
            host: match url.host_str() {
                None | Some("") => None,
                Some(host) => Some(decode(host.trim_start_matches('[').trim_end_matches(']'))?),
            },
            port: url.port(),
            path: decode(url.path())?,
            raw_path: url.path().to_owned(),
            query: url
                .query_pairs()
                .map(|(key, value)| (key.into_owned(), value.into_owned()))
                .collect(),
        })
    }

    /// Reads the connection's URL; a mistake is placed there.
    pub(crate) fn of(access: &Access<'_>, url: &Secret) -> Result<Self, Invalid> {
        Self::parse(url.expose())
            .map_err(|error| access.invalid(Field::Url, format!("bad `url`: {error}")))
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

/// The refusal of an option that this type does not honour: never ignored.
pub(crate) fn unknown_option(
    access: &Access<'_>,
    option: &str,
    known: &'static [&'static str],
) -> Invalid {
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
            .hint("an IPv6 address stands in brackets: `[::1]:5432`")),
        false => Ok((name, port)),
    }
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
    String::from_utf8(bytes).map_err(|_| mistake("a percent-encoded part of it is not UTF-8 text"))
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
