//! Reading the parts of a URL that every type shares.

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
