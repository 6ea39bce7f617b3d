//! The messages of LDAPv3 (RFC 4511) that a probe needs, as bytes and back.
//!
//! `asn1-rs` writes and reads the headers of the elements. An element is read when it is asked for,
//! one level at a time and out of what has arrived, so neither a length nor a nesting of the peer's
//! choice costs anything.

use asn1_rs::{Any, Class, FromBer, Header, Length, Tag, ToDer};
use bytes::{Buf, BytesMut};

use crate::cause::Cause;

/// The longest message that is waited for. A root DSE has some ten kilobytes.
const MESSAGE_MAX_BYTES: usize = 1024 * 1024;

/// How we ask for TLS, and what a server says of its own accord before it hangs up.
const START_TLS: &str = "1.3.6.1.4.1.1466.20037";
const NOTICE_OF_DISCONNECTION: &str = "1.3.6.1.4.1.1466.20036";

/// Tag numbers of universal types.
const BOOLEAN: u32 = 1;
const INTEGER: u32 = 2;
const OCTET_STRING: u32 = 4;
const ENUMERATED: u32 = 10;
const SEQUENCE: u32 = 16;
const SET: u32 = 17;

/// A bind by name and password; both empty is an anonymous one.
pub(super) fn simple_bind(name: &str, password: &str) -> Vec<u8> {
    let password = context(0, password.as_bytes());
    bind(name, password)
}

/// A bind as whoever TLS or the unix socket says that we are. The empty credentials are the initial
/// response that SASL has for "no other than that": without it the server would ask for it.
pub(super) fn external_bind() -> Vec<u8> {
    bind("", context_of(3, &[octets(b"EXTERNAL"), octets(b"")]))
}

fn bind(name: &str, authentication: Vec<u8>) -> Vec<u8> {
    operation(
        0,
        &[number(INTEGER, 3), octets(name.as_bytes()), authentication],
    )
}

/// What to look for.
pub(super) struct Search<'a> {
    pub(super) base: &'a str,
    /// As RFC 4511 numbers them.
    pub(super) scope: u8,
    /// As [`super::filter`] packs it.
    pub(super) filter: &'a [u8],
    pub(super) attributes: &'a [String],
    /// Whether the names of attributes do, without their values.
    pub(super) types_only: bool,
}

/// A search that wants one entry and no more. Aliases are not followed.
pub(super) fn search(search: &Search<'_>) -> Vec<u8> {
    let attributes: Vec<Vec<u8>> = search
        .attributes
        .iter()
        .map(|name| octets(name.as_bytes()))
        .collect();
    let types_only = if search.types_only { 0xff } else { 0 };
    operation(
        3,
        &[
            octets(search.base.as_bytes()),
            number(ENUMERATED, search.scope),
            number(ENUMERATED, 0),
            number(INTEGER, 1),
            number(INTEGER, 0),
            number(BOOLEAN, types_only),
            search.filter.to_vec(),
            sequence(&attributes),
        ],
    )
}

/// The request for TLS on this connection.
pub(super) fn start_tls() -> Vec<u8> {
    operation(23, &[context(0, START_TLS.as_bytes())])
}

/// The goodbye. It has no answer.
pub(super) fn unbind() -> Vec<u8> {
    element(Class::Application, false, 2, b"")
}

/// An operation as the message number `id`.
pub(super) fn message(id: u8, operation: Vec<u8>) -> Vec<u8> {
    sequence(&[number(INTEGER, id), operation])
}

fn operation(tag: u32, parts: &[Vec<u8>]) -> Vec<u8> {
    element(Class::Application, true, tag, &parts.concat())
}

/// A number below 128.
fn number(tag: u32, value: u8) -> Vec<u8> {
    element(Class::Universal, false, tag, &[value])
}

pub(super) fn octets(value: &[u8]) -> Vec<u8> {
    element(Class::Universal, false, OCTET_STRING, value)
}

pub(super) fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    element(Class::Universal, true, SEQUENCE, &parts.concat())
}

/// An element whose meaning depends on where it stands.
pub(super) fn context(tag: u32, value: &[u8]) -> Vec<u8> {
    element(Class::ContextSpecific, false, tag, value)
}

pub(super) fn context_of(tag: u32, parts: &[Vec<u8>]) -> Vec<u8> {
    element(Class::ContextSpecific, true, tag, &parts.concat())
}

fn element(class: Class, constructed: bool, tag: u32, contents: &[u8]) -> Vec<u8> {
    let header = Header::new(
        class,
        constructed,
        Tag(tag),
        Length::Definite(contents.len()),
    );
    // Only a writer could fail, and this one is memory.
    Any::new(header, contents).to_der_vec().unwrap_or_default()
}

/// A message of the server's.
#[derive(Debug, PartialEq)]
pub(super) struct Message {
    /// The number of the request that it answers; 0 for what nobody asked for.
    pub(super) id: u32,
    pub(super) response: Response,
}

#[derive(Debug, PartialEq)]
pub(super) enum Response {
    Bind(LdapResult),
    Entry(Entry),
    /// Where else to look, as URLs.
    Reference(Vec<String>),
    SearchDone(LdapResult),
    Extended(LdapResult),
    /// The server ends the connection, and says why.
    Disconnection(LdapResult),
    /// Something that we did not ask for and that is no mistake either.
    Other,
}

/// How a request ended.
#[derive(Debug, Default, PartialEq)]
pub(super) struct LdapResult {
    pub(super) code: u32,
    /// The nearest entry above one that does not exist.
    pub(super) matched_dn: String,
    /// The server's own words.
    pub(super) text: String,
    /// Where to ask instead, as URLs.
    pub(super) referrals: Vec<String>,
}

/// An entry that was found.
#[derive(Debug, PartialEq)]
pub(super) struct Entry {
    attributes: Vec<(String, Vec<String>)>,
}

impl Entry {
    /// The values of an attribute, whatever the case of its name.
    pub(super) fn values(&self, name: &str) -> &[String] {
        self.attributes
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map_or(&[], |(_, values)| values)
    }
}

/// What arrived is no LDAP, and how that shows.
#[derive(Debug, PartialEq)]
pub(super) struct Malformed(&'static str);

impl From<Malformed> for Cause {
    fn from(Malformed(what): Malformed) -> Self {
        Self::protocol(format!("the answer is not LDAP: {what}"))
            .hint("does a directory server listen on that port, and is it the one without TLS?")
    }
}

/// Takes the first message out of `received`; nothing while it is not whole.
pub(super) fn take(received: &mut BytesMut) -> Result<Option<Message>, Malformed> {
    if received.first().is_some_and(|first| *first != 0x30) {
        return Err(Malformed("it does not begin as every message does"));
    }
    let (rest, header) = match Header::from_ber(received) {
        Err(asn1_rs::Err::Incomplete(_)) => return Ok(None),
        Err(_) => return Err(Malformed("its header cannot be read")),
        Ok(found) => found,
    };
    let length = match header.length() {
        Length::Definite(length) if length <= MESSAGE_MAX_BYTES => length,
        Length::Definite(_) => return Err(Malformed("it announces more than a megabyte")),
        Length::Indefinite => return Err(Malformed("it does not say how long it is")),
    };
    let Some(contents) = rest.get(..length) else {
        return Ok(None);
    };
    let message = read(contents)?;
    let whole = received.len() - rest.len() + length;
    received.advance(whole);
    Ok(Some(message))
}

fn read(contents: &[u8]) -> Result<Message, Malformed> {
    let mut parts = Elements(contents);
    let id = parts.number(INTEGER)?;
    let (class, tag, contents) = parts.next()?;
    if class != Class::Application {
        return Err(Malformed("its operation is none"));
    }
    let mut parts = Elements(contents);
    let response = match tag {
        1 => Response::Bind(parts.result()?),
        4 => Response::Entry(parts.entry()?),
        5 => Response::SearchDone(parts.result()?),
        19 => Response::Reference(parts.texts(OCTET_STRING)?),
        24 => {
            let result = parts.result()?;
            let name = parts.optional(Class::ContextSpecific, 10)?;
            match (id, name) {
                (0, Some(name)) if name == NOTICE_OF_DISCONNECTION.as_bytes() => {
                    Response::Disconnection(result)
                }
                (0, _) => Response::Other,
                _ => Response::Extended(result),
            }
        }
        25 => Response::Other,
        _ => return Err(Malformed("its operation is not one of a server's")),
    };
    Ok(Message { id, response })
}

/// Elements that stand one behind the other, not yet read.
struct Elements<'a>(&'a [u8]);

impl<'a> Elements<'a> {
    /// The next one: its class, its tag, its contents.
    fn next(&mut self) -> Result<(Class, u32, &'a [u8]), Malformed> {
        let (rest, header) =
            Header::from_ber(self.0).map_err(|_| Malformed("an element in it is cut off"))?;
        let Length::Definite(length) = header.length() else {
            return Err(Malformed("an element in it does not say how long it is"));
        };
        let (contents, rest) = rest
            .split_at_checked(length)
            .ok_or(Malformed("an element in it is longer than the whole"))?;
        self.0 = rest;
        Ok((header.class(), header.tag().0, contents))
    }

    fn universal(&mut self, wanted: u32) -> Result<&'a [u8], Malformed> {
        match self.next()? {
            (Class::Universal, tag, contents) if tag == wanted => Ok(contents),
            _ => Err(Malformed("an element in it is not the expected one")),
        }
    }

    /// The next one if it is this, which may be left out.
    fn optional(&mut self, class: Class, tag: u32) -> Result<Option<&'a [u8]>, Malformed> {
        let mut ahead = Elements(self.0);
        while !ahead.0.is_empty() {
            let (found_class, found_tag, contents) = ahead.next()?;
            if (found_class, found_tag) == (class, tag) {
                self.0 = ahead.0;
                return Ok(Some(contents));
            }
        }
        Ok(None)
    }

    fn number(&mut self, tag: u32) -> Result<u32, Malformed> {
        let bytes = self.universal(tag)?;
        if bytes.is_empty() || bytes.len() > 4 || bytes[0] & 0x80 != 0 {
            return Err(Malformed("a number in it is out of range"));
        }
        Ok(bytes
            .iter()
            .fold(0, |number, byte| number << 8 | u32::from(*byte)))
    }

    fn text(&mut self) -> Result<String, Malformed> {
        self.universal(OCTET_STRING).map(text_of)
    }

    /// All that is left, as texts.
    fn texts(&mut self, tag: u32) -> Result<Vec<String>, Malformed> {
        let mut texts = Vec::new();
        while !self.0.is_empty() {
            texts.push(text_of(self.universal(tag)?));
        }
        Ok(texts)
    }

    fn result(&mut self) -> Result<LdapResult, Malformed> {
        let code = self.number(ENUMERATED)?;
        let matched_dn = self.text()?;
        let text = self.text()?;
        let referrals = match self.optional(Class::ContextSpecific, 3)? {
            Some(urls) => Elements(urls).texts(OCTET_STRING)?,
            None => Vec::new(),
        };
        Ok(LdapResult {
            code,
            matched_dn,
            text,
            referrals,
        })
    }

    fn entry(&mut self) -> Result<Entry, Malformed> {
        self.text()?;
        let mut list = Elements(self.universal(SEQUENCE)?);
        let mut attributes = Vec::new();
        while !list.0.is_empty() {
            let mut attribute = Elements(list.universal(SEQUENCE)?);
            let name = attribute.text()?;
            let values = Elements(attribute.universal(SET)?).texts(OCTET_STRING)?;
            attributes.push((name, values));
        }
        Ok(Entry { attributes })
    }
}

/// Active Directory ends its texts as C does.
fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .trim_end_matches('\0')
        .to_owned()
}

/// Messages as a server would send them, for tests.
#[cfg(test)]
pub(super) mod sent {
    use super::*;

    pub(crate) fn sent(id: u8, tag: u32, parts: &[Vec<u8>]) -> Vec<u8> {
        message(id, operation(tag, parts))
    }

    pub(crate) fn result(code: u8, matched_dn: &str, text: &str) -> Vec<Vec<u8>> {
        vec![
            number(ENUMERATED, code),
            octets(matched_dn.as_bytes()),
            octets(text.as_bytes()),
        ]
    }

    /// An entry; an attribute with several values stands there several times.
    pub(crate) fn entry(id: u8, attributes: &[(&str, &str)]) -> Vec<u8> {
        let attribute = |(name, value): &(&str, &str)| {
            let values = element(Class::Universal, true, SET, &octets(value.as_bytes()));
            sequence(&[octets(name.as_bytes()), values])
        };
        let attributes: Vec<_> = attributes.iter().map(attribute).collect();
        sent(id, 4, &[octets(b""), sequence(&attributes)])
    }

    pub(crate) fn reference(id: u8, url: &str) -> Vec<u8> {
        sent(id, 19, &[octets(url.as_bytes())])
    }

    pub(crate) fn notice(code: u8, text: &str) -> Vec<u8> {
        let name = context(10, NOTICE_OF_DISCONNECTION.as_bytes());
        sent(0, 24, &[result(code, "", text), vec![name]].concat())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::sent::{notice, reference, result, sent};
    use super::*;

    fn one(bytes: &[u8]) -> Result<Option<Message>, Malformed> {
        take(&mut BytesMut::from(bytes))
    }

    fn response(bytes: &[u8]) -> Response {
        one(bytes).unwrap().unwrap().response
    }

    #[test]
    fn requests_are_packed_as_the_standard_has_them() {
        assert_eq!(
            message(1, simple_bind("cn=a", "pw")),
            b"\x30\x12\x02\x01\x01\x60\x0d\x02\x01\x03\x04\x04cn=a\x80\x02pw"
        );
        assert_eq!(
            message(1, external_bind()),
            b"\x30\x18\x02\x01\x01\x60\x13\x02\x01\x03\x04\x00\xa3\x0c\x04\x08EXTERNAL\x04\x00"
        );
        assert_eq!(
            message(1, start_tls()),
            b"\x30\x1d\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.1466.20037"
        );
        assert_eq!(message(3, unbind()), b"\x30\x05\x02\x01\x03\x42\x00");
        let filter = context(7, b"objectClass");
        let search = search(&Search {
            base: "dc=a",
            scope: 2,
            filter: &filter,
            attributes: &["1.1".to_owned()],
            types_only: true,
        });
        assert_eq!(
            message(2, search),
            b"\x30\x2e\x02\x01\x02\x63\x29\x04\x04dc=a\x0a\x01\x02\x0a\x01\x00\x02\x01\x01\x02\x01\x00\
              \x01\x01\xff\x87\x0bobjectClass\x30\x05\x04\x031.1"
        );
        // A long one, whose length needs bytes of its own.
        let long = message(1, simple_bind("", &"x".repeat(300)));
        assert_eq!(long[..8], [0x30, 0x82, 1, 0x3c, 2, 1, 1, 0x60]);
    }

    #[test]
    fn results_are_read_with_all_that_they_say() {
        let bytes = sent(1, 1, &result(49, "", "80090308: data 52e\0"));
        assert_eq!(
            response(&bytes),
            Response::Bind(LdapResult {
                code: 49,
                text: "80090308: data 52e".to_owned(),
                ..LdapResult::default()
            })
        );
        let mut parts = result(10, "dc=a", "");
        parts.push(context_of(3, &[octets(b"ldap://b"), octets(b"ldap://c")]));
        parts.push(context(7, b"server's credentials"));
        assert_eq!(
            response(&sent(1, 5, &parts)),
            Response::SearchDone(LdapResult {
                code: 10,
                matched_dn: "dc=a".to_owned(),
                text: String::new(),
                referrals: vec!["ldap://b".to_owned(), "ldap://c".to_owned()],
            })
        );
        // As Active Directory writes lengths: four bytes, whatever they say.
        let active_directory = b"\x30\x84\x00\x00\x00\x10\x02\x01\x01\x61\x84\x00\x00\x00\x07\x0a\x01\x00\x04\x00\x04\x00";
        assert_eq!(
            response(active_directory),
            Response::Bind(LdapResult::default())
        );
    }

    #[test]
    fn a_notice_of_disconnection_is_nobody_s_answer() {
        let message = one(&notice(52, "shutting down")).unwrap().unwrap();
        assert_eq!(message.id, 0);
        assert!(matches!(
            message.response,
            Response::Disconnection(LdapResult { code: 52, .. })
        ));
        assert_eq!(response(&sent(0, 24, &result(0, "", ""))), Response::Other);
        assert!(matches!(
            response(&sent(1, 24, &result(0, "", ""))),
            Response::Extended(_)
        ));
    }

    #[test]
    fn entries_and_references_are_read() {
        let attribute = |name: &str, values: &[&str]| {
            let values: Vec<u8> = values
                .iter()
                .flat_map(|value| octets(value.as_bytes()))
                .collect();
            let values = element(Class::Universal, true, SET, &values);
            sequence(&[octets(name.as_bytes()), values])
        };
        let attributes = sequence(&[
            attribute("vendorName", &["Example"]),
            attribute("objectClass", &["top", "OpenLDAProotDSE"]),
            attribute("jpegPhoto", &[]),
        ]);
        let Response::Entry(entry) = response(&sent(2, 4, &[octets(b""), attributes])) else {
            panic!("an entry");
        };
        assert_eq!(entry.values("vendorname"), ["Example"]);
        assert_eq!(entry.values("objectClass").len(), 2);
        assert!(entry.values("jpegPhoto").is_empty());
        assert!(entry.values("other").is_empty());
        assert_eq!(
            response(&reference(2, "ldap://b/dc=c")),
            Response::Reference(vec!["ldap://b/dc=c".to_owned()])
        );
    }

    #[test]
    fn messages_come_one_by_one_and_in_pieces() {
        let first = sent(1, 1, &result(0, "", ""));
        let second = sent(2, 5, &result(0, "", ""));
        let mut received = BytesMut::new();
        for byte in &first {
            assert_eq!(take(&mut received), Ok(None));
            received.extend_from_slice(&[*byte]);
        }
        received.extend_from_slice(&second);
        assert_eq!(take(&mut received).unwrap().unwrap().id, 1);
        assert_eq!(take(&mut received).unwrap().unwrap().id, 2);
        assert_eq!(take(&mut received), Ok(None));
        assert!(received.is_empty());
    }

    #[test]
    fn what_is_no_ldap_is_refused_as_soon_as_it_shows() {
        let indefinite = "it does not say how long it is";
        let expected = "an element in it is not the expected one";
        for (bytes, what) in [
            (&b"H"[..], "it does not begin as every message does"),
            (b"\x15\x03\x03", "it does not begin as every message does"),
            (b"\x30\x80", indefinite),
            (b"\x30\xff", "its header cannot be read"),
            (
                b"\x30\x84\x7f\xff\xff\xff",
                "it announces more than a megabyte",
            ),
            (
                b"\x30\x88\xff\xff\xff\xff\xff\xff\xff\xff",
                "it announces more than a megabyte",
            ),
            (b"\x30\x00", "an element in it is cut off"),
            (
                b"\x30\x02\x02\x01",
                "an element in it is longer than the whole",
            ),
            (b"\x30\x03\x04\x01\x01", expected),
            (b"\x30\x03\x02\x01\x81", "a number in it is out of range"),
            (
                b"\x30\x07\x02\x05\x01\x01\x01\x01\x01",
                "a number in it is out of range",
            ),
            (b"\x30\x05\x02\x01\x01\x30\x00", "its operation is none"),
            (
                b"\x30\x05\x02\x01\x01\x60\x00",
                "its operation is not one of a server's",
            ),
            (
                b"\x30\x05\x02\x01\x01\x61\x00",
                "an element in it is cut off",
            ),
            (
                b"\x30\x07\x02\x01\x01\x61\x80\x00\x00",
                "an element in it does not say how long it is",
            ),
        ] {
            assert_eq!(one(bytes), Err(Malformed(what)), "{bytes:x?}");
        }
    }

    #[test]
    fn a_deep_nesting_costs_nothing() {
        // 100,000 sequences, each in the one before it.
        let mut nested = Vec::new();
        for _ in 0..100_000 {
            let length = nested.len() + 2;
            nested.extend([0x30, 0]);
            assert!(length < MESSAGE_MAX_BYTES);
        }
        let bytes = sent(
            2,
            4,
            &[
                octets(b""),
                element(Class::Universal, true, SEQUENCE, &nested),
            ],
        );
        assert!(one(&bytes).is_err());
        let indefinite = [
            &[0x30, 0x83, 0x01, 0x00, 0x00][..],
            &[0x30, 0x80].repeat(32768),
        ]
        .concat();
        assert!(one(&indefinite).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_panic(bytes: Vec<u8>) {
            let _ = one(&bytes);
            let _ = one(&[&[0x30, bytes.len().min(127) as u8][..], &bytes].concat());
            let _ = one(&sent(1, 4, std::slice::from_ref(&bytes)));
            let _ = one(&sent(0, 24, &[bytes]));
        }
    }
}
