//! LDAP URLs (RFC 4516): `ldap://host:port/base?attributes?scope?filter?extensions`.
//!
//! Two things beyond the standard are read as well: user-info, since that is how every other type
//! spells a login, and `ldapi://%2Fpath%2Fof%2Fsocket`, as OpenLDAP has it.

use conncheck_config::{Field, Secret};
use percent_encoding::percent_decode_str;
use schemars::JsonSchema;
use serde::Deserialize;

use super::dn::is_attribute;
use crate::address::{Location, unknown_option};
use crate::probe::{Access, Invalid};

/// How far below the base a search looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Scope {
    /// The base itself.
    #[default]
    Base,
    /// What stands directly below it.
    One,
    /// The base and everything below it.
    Sub,
}

/// A URL, understood.
pub(super) struct LdapUrl {
    pub(super) location: Location,
    pub(super) base: Option<String>,
    pub(super) attributes: Vec<String>,
    pub(super) scope: Option<Scope>,
    pub(super) filter: Option<String>,
    pub(super) start_tls: bool,
    /// The user: of the user-info, or of the extension `bindname`.
    pub(super) username: Option<String>,
}

impl LdapUrl {
    pub(super) fn read(access: &Access<'_>, url: &Secret) -> Result<Self, Invalid> {
        let bad = |what: &str| access.invalid(Field::Url, format!("bad `url`: {what}"));
        let text = url.expose();
        if text.contains('#') {
            return Err(bad("a `#` has no meaning in it").hint("write `%23` for a `#` in a value"));
        }
        // The question marks separate parts here; there are no pairs behind the first.
        let (start, query) = text.split_once('?').unwrap_or((text, ""));
        let location = Location::of(access, &Secret::new(start))?;
        let parts: Vec<&str> = query.split('?').collect();
        if parts.len() > 4 {
            return Err(bad("there are more than four `?` in it")
                .hint("it is `ldap://host/base?attributes?scope?filter?extensions`; a `?` in one of these is `%3F`"));
        }
        let part = |index: usize| decoded(access, parts.get(index).copied().unwrap_or_default());
        let mut read = Self {
            base: some(location.path.trim_start_matches('/')),
            attributes: attributes(access, &part(0)?)?,
            scope: scope(access, &part(1)?)?,
            filter: some(&part(2)?),
            start_tls: false,
            username: location.username.clone(),
            location,
        };
        for extension in parts.get(3).copied().unwrap_or_default().split(',') {
            read.extension(access, extension)?;
        }
        Ok(read)
    }

    /// One extension. A leading `!` says that it must be honoured, which goes without saying here.
    fn extension(&mut self, access: &Access<'_>, text: &str) -> Result<(), Invalid> {
        let text = text.trim_start_matches('!');
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let name = decoded(access, name)?;
        match name.to_ascii_lowercase().as_str() {
            "" => {}
            "starttls" | "1.3.6.1.4.1.1466.20037" => self.start_tls = true,
            "bindname" => {
                let value = decoded(access, value)?;
                self.username = self.username.take().or_else(|| some(&value));
            }
            password if password.contains("pw") || password.contains("pass") => {
                return Err(access
                    .invalid(
                        Field::Url,
                        "bad `url`: a password is not taken from its extensions",
                    )
                    .hint("give `password` or a `secretRef`"));
            }
            // The value of a `bindname` whose commas are not encoded, for instance.
            _ if !is_attribute(&name) || value.is_empty() && !name.contains('.') => {
                return Err(access
                    .invalid(Field::Url, "bad `url`: an extension is not known")
                    .hint("known are `bindname` and `StartTLS`; a `,` in a value is `%2C`"));
            }
            _ => return Err(unknown_option(access, &name, &["bindname", "StartTLS"])),
        }
        Ok(())
    }
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn decoded(access: &Access<'_>, text: &str) -> Result<String, Invalid> {
    match percent_decode_str(text).decode_utf8() {
        Ok(decoded) => Ok(decoded.into_owned()),
        Err(_) => Err(access.invalid(
            Field::Url,
            "bad `url`: a percent-encoded part of it is not UTF-8 text",
        )),
    }
}

fn attributes(access: &Access<'_>, text: &str) -> Result<Vec<String>, Invalid> {
    let names = text
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty());
    names
        .map(
            |name| match is_attribute(name) || matches!(name, "*" | "+") {
                true => Ok(name.to_owned()),
                false => Err(access
                    .invalid(
                        Field::Url,
                        "bad `url`: an attribute behind the first `?` is not the name of one",
                    )
                    .hint(
                        "a URL of LDAP is `ldap://host/base?attributes?scope?filter?extensions`",
                    )),
            },
        )
        .collect()
}

fn scope(access: &Access<'_>, text: &str) -> Result<Option<Scope>, Invalid> {
    match text.to_ascii_lowercase().as_str() {
        "" => Ok(None),
        "base" => Ok(Some(Scope::Base)),
        "one" | "onelevel" => Ok(Some(Scope::One)),
        "sub" | "subtree" => Ok(Some(Scope::Sub)),
        _ => Err(access
            .invalid(
                Field::Url,
                "bad `url`: the scope, behind the second `?`, is not known",
            )
            .hint("it is `base`, `one` or `sub`")),
    }
}
