//! Search filters (RFC 4515): read when the connection is, so that a mistake is told with its place
//! and not by the server, which often finds nothing in place of complaining.
//!
//! As OpenLDAP's clients do it, the outermost parentheses may be left out, and white space may stand
//! between the parts, so that a long filter can have several lines.

use super::dn::{Mistake, is_attribute};
use super::message::{context, context_of, octets};

/// How deep a filter may be nested. Longer chains of `&` and `|` need no depth.
const MAX_DEPTH: usize = 32;

/// The filter that every entry matches.
pub(super) fn any_entry() -> Vec<u8> {
    context(7, b"objectClass")
}

/// Reads a filter and packs it.
pub(super) fn parse(text: &str) -> Result<Vec<u8>, Mistake> {
    let mut reader = Reader { text, at: 0 };
    reader.skip_space();
    let packed = match reader.peek() {
        Some('(') => reader.filter(0)?,
        _ => reader.item()?,
    };
    reader.skip_space();
    match reader.peek() {
        None => Ok(packed),
        Some(')') => Err(reader.mistake("a `)` that closes nothing")),
        Some(_) => Err(reader.mistake("the filter ends before this")),
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn mistake(&self, what: &'static str) -> Mistake {
        Mistake::new(self.text, self.at, what)
    }

    fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn skip(&mut self, wanted: &str) -> bool {
        let found = self.rest().starts_with(wanted);
        if found {
            self.at += wanted.len();
        }
        found
    }

    /// One filter in parentheses.
    fn filter(&mut self, depth: usize) -> Result<Vec<u8>, Mistake> {
        if depth == MAX_DEPTH {
            return Err(self.mistake("nested too deeply"));
        }
        if !self.skip("(") {
            return Err(self.mistake("expected `(`"));
        }
        self.skip_space();
        let packed = match self.peek() {
            Some('&') => self.set(0, depth)?,
            Some('|') => self.set(1, depth)?,
            Some('!') => {
                self.skip("!");
                self.skip_space();
                let negated = self.filter(depth + 1)?;
                self.skip_space();
                context_of(2, &[negated])
            }
            _ => self.item()?,
        };
        if !self.skip(")") {
            return Err(self.mistake("expected `)`"));
        }
        Ok(packed)
    }

    /// `&` or `|` and its filters. None at all is *true* and *false* (RFC 4526).
    fn set(&mut self, tag: u32, depth: usize) -> Result<Vec<u8>, Mistake> {
        self.at += 1;
        let mut filters = Vec::new();
        loop {
            self.skip_space();
            match self.peek() {
                Some('(') => filters.push(self.filter(depth + 1)?),
                _ => return Ok(context_of(tag, &filters)),
            }
        }
    }

    /// `attribute=value` and its relatives.
    fn item(&mut self) -> Result<Vec<u8>, Mistake> {
        let begins = self.at;
        let attribute = self.name();
        let tag = match self.rest().as_bytes() {
            [b'=', ..] => {
                self.skip("=");
                3
            }
            [b'>', b'=', ..] => 5,
            [b'<', b'=', ..] => 6,
            [b'~', b'=', ..] => 8,
            [b':', ..] => return self.extensible(attribute, begins),
            _ => return Err(self.mistake("expected `attribute=value`")),
        };
        if !is_attribute(attribute) {
            return Err(Mistake::new(
                self.text,
                begins,
                "expected the name of an attribute",
            ));
        }
        let name = octets(attribute.as_bytes());
        if tag != 3 {
            self.at += 2;
            return Ok(context_of(tag, &[name, octets(&self.one_value()?)]));
        }
        let mut parts = vec![self.value()?];
        while self.skip("*") {
            parts.push(self.value()?);
        }
        match &parts[..] {
            [value] => Ok(context_of(3, &[name, octets(value)])),
            [first, last] if first.is_empty() && last.is_empty() => {
                Ok(context(7, attribute.as_bytes()))
            }
            parts => self.substrings(name, parts),
        }
    }

    /// `attribute=first*any*last`
    fn substrings(&self, name: Vec<u8>, parts: &[Vec<u8>]) -> Result<Vec<u8>, Mistake> {
        let last = parts.len() - 1;
        let mut pieces = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            let tag = match index {
                0 => 0,
                index if index == last => 2,
                _ => 1,
            };
            match part.is_empty() {
                false => pieces.push(context(tag, part)),
                true if tag == 1 => {
                    return Err(self.mistake("before this, two `*` with nothing between them"));
                }
                true => {}
            }
        }
        Ok(context_of(4, &[name, super::message::sequence(&pieces)]))
    }

    /// `attribute:dn:rule:=value`
    fn extensible(&mut self, attribute: &str, begins: usize) -> Result<Vec<u8>, Mistake> {
        let (mut dn, mut rule) = (false, None);
        while !self.skip(":=") {
            if !self.skip(":") {
                return Err(self.mistake("expected `:=`"));
            }
            let at = self.at;
            match self.name() {
                name if name.eq_ignore_ascii_case("dn") && !dn && rule.is_none() => dn = true,
                name if is_attribute(name) && rule.is_none() => rule = Some(name),
                _ => {
                    return Err(Mistake::new(
                        self.text,
                        at,
                        "expected the name of a matching rule",
                    ));
                }
            }
        }
        if !(is_attribute(attribute) || attribute.is_empty() && rule.is_some()) {
            return Err(Mistake::new(
                self.text,
                begins,
                "expected the name of an attribute",
            ));
        }
        let mut parts = Vec::new();
        parts.extend(rule.map(|rule| context(1, rule.as_bytes())));
        if !attribute.is_empty() {
            parts.push(context(2, attribute.as_bytes()));
        }
        parts.push(context(3, &self.one_value()?));
        if dn {
            parts.push(context(4, &[0xff]));
        }
        Ok(context_of(9, &parts))
    }

    /// Everything up to what may end a name.
    fn name(&mut self) -> &'a str {
        let rest = self.rest();
        let end = rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ';' | '_')))
            .unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    /// A value without a `*`.
    fn one_value(&mut self) -> Result<Vec<u8>, Mistake> {
        let value = self.value()?;
        match self.peek() {
            Some('*') => Err(self.mistake("a `*` in this value is written `\\2a`")),
            _ => Ok(value),
        }
    }

    /// A value, or a part of one, as bytes.
    fn value(&mut self) -> Result<Vec<u8>, Mistake> {
        let mut value = Vec::new();
        loop {
            let Some(character) = self.peek() else {
                return Ok(value);
            };
            match character {
                ')' | '*' => return Ok(value),
                '(' => return Err(self.mistake("a `(` in a value is written `\\28`")),
                '\0' => return Err(self.mistake("a NUL character in a value is written `\\00`")),
                '\\' => {
                    let byte = (self.rest().get(1..3))
                        .filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
                        .and_then(|digits| u8::from_str_radix(digits, 16).ok())
                        .ok_or_else(|| {
                            self.mistake(
                                "two hexadecimal digits must follow a `\\`, itself written `\\5c`",
                            )
                        })?;
                    value.push(byte);
                    self.at += 3;
                }
                character => {
                    let end = self.at + character.len_utf8();
                    value.extend(&self.text.as_bytes()[self.at..end]);
                    self.at = end;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packed(text: &str) -> Vec<u8> {
        parse(text).unwrap_or_else(|mistake| panic!("{text}: {mistake:?}"))
    }

    #[test]
    fn items_are_packed_as_the_standard_has_them() {
        for (text, bytes) in [
            ("(objectClass=*)", &b"\x87\x0bobjectClass"[..]),
            ("(cn=)", b"\xa3\x06\x04\x02cn\x04\x00"),
            ("(cn=ab)", b"\xa3\x08\x04\x02cn\x04\x02ab"),
            ("cn=ab", b"\xa3\x08\x04\x02cn\x04\x02ab"),
            ("(cn= a b )", b"\xa3\x0b\x04\x02cn\x04\x05 a b "),
            ("(cn>=a)", b"\xa5\x07\x04\x02cn\x04\x01a"),
            ("(cn<=a)", b"\xa6\x07\x04\x02cn\x04\x01a"),
            ("(cn~=a)", b"\xa8\x07\x04\x02cn\x04\x01a"),
            (
                "(cn=\\28\\2A\\29\\5c\\00)",
                b"\xa3\x0b\x04\x02cn\x04\x05(*)\\\0",
            ),
            ("(cn=\\c3\\bc)", b"\xa3\x08\x04\x02cn\x04\x02\xc3\xbc"),
            ("(cn=a=b:c)", b"\xa3\x0b\x04\x02cn\x04\x05a=b:c"),
            ("(cn=a*)", b"\xa4\x09\x04\x02cn\x30\x03\x80\x01a"),
            ("(cn=*a)", b"\xa4\x09\x04\x02cn\x30\x03\x82\x01a"),
            ("(cn=*a*)", b"\xa4\x09\x04\x02cn\x30\x03\x81\x01a"),
            (
                "(cn=a*b*c)",
                b"\xa4\x0f\x04\x02cn\x30\x09\x80\x01a\x81\x01b\x82\x01c",
            ),
            ("(cn:=a)", b"\xa9\x07\x82\x02cn\x83\x01a"),
            (
                "(cn:dn:2.4:=a)",
                b"\xa9\x0f\x81\x032.4\x82\x02cn\x83\x01a\x84\x01\xff",
            ),
            ("(:2.4:=a)", b"\xa9\x08\x81\x032.4\x83\x01a"),
            (
                "(memberOf:1.2.840.113556.1.4.1941:=a)",
                b"\xa9\x26\x81\x171.2.840.113556.1.4.1941\x82\x08memberOf\x83\x01a",
            ),
        ] {
            assert_eq!(packed(text), bytes, "{text}");
        }
    }

    #[test]
    fn sets_hold_filters_and_may_have_lines() {
        let (a, b) = (packed("(a=1)"), packed("(b=2)"));
        let both = context_of(0, &[a.clone(), b.clone()]);
        for text in ["(&(a=1)(b=2))", "(& (a=1)\n  (b=2)\n)", " ( &(a=1)(b=2) ) "] {
            assert_eq!(packed(text), both, "{text}");
        }
        assert_eq!(packed("(|(a=1)(b=2))"), context_of(1, &[a.clone(), b]));
        assert_eq!(packed("(!(a=1))"), context_of(2, &[a]));
        assert_eq!(packed("(&)"), b"\xa0\x00");
        assert_eq!(packed("(|)"), b"\xa1\x00");
    }

    #[test]
    fn a_mistake_is_told_with_its_place() {
        let name = "expected the name of an attribute";
        for (text, at, what) in [
            ("", 1, "expected `attribute=value`"),
            ("(", 2, "expected `attribute=value`"),
            ("()", 2, "expected `attribute=value`"),
            ("(cn)", 4, "expected `attribute=value`"),
            ("(cn=a", 6, "expected `)`"),
            ("(&(a=1)(b=2)", 13, "expected `)`"),
            ("(&a=1)", 3, "expected `)`"),
            ("(!a=1)", 3, "expected `(`"),
            ("(!(a=1)(b=2))", 8, "expected `)`"),
            ("(a=1))", 6, "a `)` that closes nothing"),
            ("a=1)", 4, "a `)` that closes nothing"),
            ("(a=1)(b=2)", 6, "the filter ends before this"),
            ("(=a)", 2, name),
            ("(ä=a)", 2, "expected `attribute=value`"),
            ("(ü=ü\\2)", 2, "expected `attribute=value`"),
            ("(cn=ü(b)", 6, "a `(` in a value is written `\\28`"),
            (
                "(cn=DOMAIN\\user)",
                11,
                "two hexadecimal digits must follow a `\\`, itself written `\\5c`",
            ),
            (
                "(cn=\\2ü)",
                5,
                "two hexadecimal digits must follow a `\\`, itself written `\\5c`",
            ),
            (
                "(cn=\\+2)",
                5,
                "two hexadecimal digits must follow a `\\`, itself written `\\5c`",
            ),
            (
                "(cn=a**b)",
                9,
                "before this, two `*` with nothing between them",
            ),
            ("(cn>=a*)", 7, "a `*` in this value is written `\\2a`"),
            ("(cn:=a*)", 7, "a `*` in this value is written `\\2a`"),
            ("(:=a)", 2, name),
            ("(:dn:=a)", 2, name),
            ("(cn:a b:=c)", 6, "expected `:=`"),
            ("(cn:a:b:=c)", 7, "expected the name of a matching rule"),
            ("(cn::=c)", 5, "expected the name of a matching rule"),
        ] {
            assert_eq!(parse(text), Err(Mistake { at, what }), "{text}");
        }
    }

    #[test]
    fn the_depth_is_bounded() {
        let nested = |depth: usize| format!("{}(a=1){}", "(!".repeat(depth), ")".repeat(depth));
        assert!(parse(&nested(MAX_DEPTH - 1)).is_ok());
        for depth in [MAX_DEPTH, 100_000] {
            assert_eq!(parse(&nested(depth)).unwrap_err().what, "nested too deeply");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_a_panic(text in "[(&|!)a=*:<>~\\\\0ü ]*") {
            let _ = parse(&text);
            let _ = super::super::dn::check(&text);
        }
    }
}
