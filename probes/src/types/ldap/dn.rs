//! Whether a text can be a distinguished name (RFC 4514), as far as that shows without a schema.

/// What is wrong with a text that the owner wrote, and where.
#[derive(Debug, PartialEq)]
pub(super) struct Mistake {
    /// The character, counted from 1.
    pub(super) at: usize,
    pub(super) what: &'static str,
}

impl Mistake {
    /// A mistake at the byte `at` of `text`.
    pub(super) fn new(text: &str, at: usize, what: &'static str) -> Self {
        Self {
            at: text[..text.floor_char_boundary(at)].chars().count() + 1,
            what,
        }
    }
}

/// Looks at the shape: `attribute=value`, joined by `,` or `+`, with `\` before what would end a
/// value.
pub(super) fn check(text: &str) -> Result<(), Mistake> {
    if let Some(at) = text.find('\0') {
        return Err(Mistake::new(text, at, "a NUL character"));
    }
    // Active Directory's `<GUID=…>` and `<SID=…>`, alone or before a name.
    if text.is_empty() || text.starts_with('<') {
        return Ok(());
    }
    let mut from = 0;
    loop {
        let rest = &text[from..];
        let equals = rest.find(['=', ',', '+', ';', '\\', '"']);
        let name = match equals {
            Some(at) if rest[at..].starts_with('=') => rest[..at].trim(),
            _ => "",
        };
        if !is_attribute(name) {
            return Err(Mistake::new(text, from, "expected `attribute=value`"));
        }
        let value = from + equals.unwrap_or_default() + 1;
        match end_of_value(text, value)? {
            Some(end) => from = end + 1,
            None => return Ok(()),
        }
    }
}

/// Where the value that begins at `from` ends; nothing where the whole name does.
fn end_of_value(text: &str, from: usize) -> Result<Option<usize>, Mistake> {
    let mut quoted = false;
    let mut characters = text[from..].char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' if characters.next().is_none() => {
                return Err(Mistake::new(
                    text,
                    from + at,
                    "a `\\` with nothing behind it",
                ));
            }
            '"' => quoted = !quoted,
            ',' | '+' | ';' if !quoted => return Ok(Some(from + at)),
            _ => {}
        }
    }
    match quoted {
        true => Err(Mistake::new(text, from, "a `\"` that is not closed")),
        false => Ok(None),
    }
}

/// `cn`, `2.5.4.3`, `userCertificate;binary`. Active Directory has names with `_`.
pub(super) fn is_attribute(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ';' | '_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_let_through() {
        for name in [
            "",
            "dc=example,dc=com",
            "cn=admin, dc=example , dc=com",
            "CN=Smith\\, John,OU=People,DC=example,DC=com",
            "cn=a\\2cb+sn=c,dc=d",
            "cn=\"a,b\",dc=c",
            "1.3.6.1.4.1=x",
            "ou=Büro,dc=example",
            "ou=,dc=x",
            "o=a;c=b",
            "<GUID=63560110f7e1d111a6bfaaaf842b9cfa>",
        ] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn what_can_be_no_name_is_told_with_its_place() {
        for (name, at, what) in [
            ("example.com", 1, "expected `attribute=value`"),
            ("dc=a,,dc=b", 6, "expected `attribute=value`"),
            ("dc=a,", 6, "expected `attribute=value`"),
            (",dc=a", 1, "expected `attribute=value`"),
            ("ou=Ü,b", 6, "expected `attribute=value`"),
            ("c n=a", 1, "expected `attribute=value`"),
            ("dc=a\\", 5, "a `\\` with nothing behind it"),
            ("dc=\"a,dc=b", 4, "a `\"` that is not closed"),
            ("dc=a\0", 5, "a NUL character"),
        ] {
            assert_eq!(check(name), Err(Mistake { at, what }), "{name}");
        }
    }
}
