//! Templates: `$(username)`, `$(properties.region)`; `{{username}}` spells the same.
//!
//! What looks like a variable between the brackets is one; anything else (`$(a|b)` in a regular
//! expression, `{{"a": 1}}` in a body) is text. `$$(` and `$${{` are the brackets themselves.
//!
//! A filled value is never scanned again. How it is written depends on where it stands, so that it
//! cannot end the part that it is in:
//!
//! | where | how |
//! |---|---|
//! | the whole `url` is one template; a text that is neither URL nor DSN | as it is |
//! | user-info or query of a URL | percent-encoded, all but letters, digits and `-._~` |
//! | one of several URLs | by its own parts |
//! | host of a URL | percent-encoded where it would end the host: `/ ? # @ \ %`, white space |
//! | path of a URL | percent-encoded where it would end the path: `? # \ %`, white space |
//! | fragment of a URL | percent-encoded: `%`, white space |
//! | keyword DSN (`host=… password=…`) | libpq's quotes: `'…'` with `\'` and `\\` |
//! | ADO string (`Server=…;Password=…`) | `"…"` with `""`, where it needs quotes |
//!
//! A property that starts with `scheme://` is a URL too; any other property takes values as they
//! are.

use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::urls;
use crate::words::{listed, nearest};

/// One piece of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    Text(&'a str),
    /// The name between the brackets.
    Variable(&'a str),
}

/// What a template may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Variable<'a> {
    Username,
    Password,
    Name,
    Namespace,
    Type,
    Property(&'a str),
}

const NAMES: [&str; 5] = ["username", "password", "name", "namespace", "type"];

/// Splits `text` at its templates.
pub(crate) fn parse(text: &str) -> Vec<Part<'_>> {
    parse_known(text, |_| true)
}

/// Splits `text` at the templates whose name is `known`; any other is text.
pub(crate) fn parse_known(text: &str, mut known: impl FnMut(&str) -> bool) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut at = 0;
    while let Some(found) = text[at..].find(['$', '{']) {
        let here = at + found;
        let rest = &text[here..];
        // An escape: its first `$` goes, the brackets stay.
        if rest.starts_with("$$(") || rest.starts_with("$${{") {
            push_text(&mut parts, &text[start..here]);
            start = here + if rest.starts_with("$$(") { 1 } else { 2 };
            at = here + 3;
            continue;
        }
        match bracketed(rest, "$(", ")").or_else(|| bracketed(rest, "{{", "}}")) {
            Some((name, len)) if known(name) => {
                push_text(&mut parts, &text[start..here]);
                parts.push(Part::Variable(name));
                start = here + len;
                at = start;
            }
            // `$` and `{` are one byte long.
            _ => at = here + 1,
        }
    }
    push_text(&mut parts, &text[start..]);
    parts
}

fn push_text<'a>(parts: &mut Vec<Part<'a>>, text: &'a str) {
    if !text.is_empty() {
        parts.push(Part::Text(text));
    }
}

/// The name at the start of `text` between `open` and `close`, and how long all of it is.
fn bracketed<'a>(text: &'a str, open: &str, close: &str) -> Option<(&'a str, usize)> {
    /// Far longer than any name, and keeps the search linear.
    const LONGEST: usize = 200;
    let inner = text.strip_prefix(open)?;
    let name_end = inner
        .char_indices()
        .take(LONGEST)
        .find(|(_, c)| !(c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | ' ')))
        .map(|(at, _)| at)?;
    let name = inner[..name_end].trim_matches(' ');
    match inner[name_end..].starts_with(close) && !name.is_empty() {
        true => Some((name, open.len() + name_end + close.len())),
        false => None,
    }
}

/// What a name stands for.
pub(crate) fn variable(name: &str) -> Option<Variable<'_>> {
    Some(match name {
        "username" => Variable::Username,
        "password" => Variable::Password,
        "name" => Variable::Name,
        "namespace" => Variable::Namespace,
        "type" => Variable::Type,
        _ => Variable::Property(name.strip_prefix("properties.")?),
    })
}

/// Message and hint for a name that stands for nothing. The name is quoted only where it is
/// close to one of ours: it may as well be a piece of a password.
pub(crate) fn unknown_variable(name: &str, properties: &[&str]) -> (String, String) {
    if let Some(meant) = nearest(name, &NAMES) {
        return (
            format!("unknown template variable `{name}`"),
            format!("did you mean `$({meant})`?"),
        );
    }
    if let Some(property) = properties.iter().find(|property| **property == name) {
        return (
            format!("unknown template variable `{name}`"),
            format!("did you mean `$(properties.{property})`?"),
        );
    }
    (
        "unknown template variable".to_owned(),
        format!(
            "known are {}; for the brackets themselves write `$$(` or `$${{{{`",
            listed(&[&NAMES[..], &["properties.KEY"]].concat())
        ),
    )
}

/// Whether Helm would have filled this, had it been asked to.
pub(crate) fn is_helm(name: &str) -> bool {
    let first = name.trim_start_matches(['-', ' ']);
    first.starts_with('.')
        || HELM_WORDS.iter().any(|word| {
            first == *word
                || first
                    .strip_prefix(word)
                    .is_some_and(|rest| rest.starts_with(' '))
        })
}

const HELM_WORDS: [&str; 15] = [
    "if", "else", "end", "range", "with", "define", "template", "include", "block", "toYaml",
    "tpl", "required", "default", "printf", "quote",
];

/// Line and column of the first sign of a Helm template that was not rendered, outside of
/// comments.
pub(crate) fn find_helm(text: &str) -> Option<(usize, usize)> {
    for (line, content) in text.lines().enumerate() {
        if content.trim_start().starts_with('#') {
            continue;
        }
        let mut from = 0;
        while let Some(found) = content[from..].find("{{") {
            let at = from + found;
            let inside = &content[at + 2..];
            let trimmed = inside.trim_start_matches(['-', ' ']);
            if inside.starts_with('-') || trimmed.starts_with("/*") || is_helm(trimmed) {
                return Some((line + 1, content[..at].chars().count() + 1));
            }
            from = at + 2;
        }
    }
    None
}

/// Fills the templates of `parts` with what `value` gives, which is asked once for each. Some
/// templates are a segment of a path, in which no `/` is left.
pub(crate) fn fill(
    parts: &[Part<'_>],
    kind: Kind,
    mut value: impl FnMut(&str) -> Option<String>,
    is_segment: impl Fn(&str) -> bool,
) -> Option<String> {
    let form = Form::of(parts, kind);
    let mut filled = String::new();
    let mut here = Here::default();
    for (index, part) in parts.iter().enumerate() {
        match part {
            Part::Text(text) => {
                filled.push_str(text);
                here.pass(text, matches!(form, Form::Libpq));
            }
            Part::Variable(name) => {
                let last = match parts.get(index + 1) {
                    None => true,
                    Some(Part::Text(text)) => {
                        text.starts_with(|c: char| c.is_whitespace() || c == ';')
                    }
                    Some(Part::Variable(_)) => false,
                };
                here.is_segment = is_segment(name);
                form.write(&value(name)?, &here, last, &mut filled);
                here.at += MARK.len();
                here.behind_equals = false;
            }
        }
    }
    Some(filled)
}

/// Where in the text a template stands.
#[derive(Default)]
struct Here {
    /// In the text with a mark in place of each template.
    at: usize,
    /// The quote that is open.
    quote: Option<char>,
    /// Directly behind a `=`, white space aside: the value starts here.
    behind_equals: bool,
    /// It is a segment of a path, not a piece of one.
    is_segment: bool,
}

impl Here {
    fn pass(&mut self, text: &str, escapes: bool) {
        self.at += text.len();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                '\\' if escapes => {
                    chars.next();
                }
                '\'' | '"' if self.quote.is_none() && (c == '\'' || !escapes) => {
                    self.quote = Some(c);
                }
                c if self.quote == Some(c) => self.quote = None,
                _ => {}
            }
        }
        self.behind_equals = match text.trim_end() {
            "" => self.behind_equals,
            text => text.ends_with('='),
        };
    }
}

/// Which rules a text follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `spec.url`: a URL, a DSN, or a bare address.
    Url,
    /// A property: a URL if it starts like one.
    Property,
}

/// A template's place in the text that decides about the form.
const MARK: &str = "\u{0}";

enum Form {
    Raw,
    /// Where user-info, host, path and query end.
    Url {
        scheme: usize,
        user: usize,
        host: usize,
        path: usize,
        query: usize,
    },
    /// Several URLs, by where they start.
    Urls(Vec<(usize, Self)>),
    Libpq,
    Ado,
}

impl Form {
    fn of(parts: &[Part<'_>], kind: Kind) -> Self {
        if matches!(parts, [Part::Variable(_)]) {
            return Self::Raw;
        }
        let text: String = parts
            .iter()
            .map(|part| match part {
                Part::Text(text) => text,
                Part::Variable(_) => MARK,
            })
            .collect();
        let scheme = text.find("://").filter(|end| {
            let scheme = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.' | 0);
            *end > 0 && text[..*end].bytes().all(scheme)
        });
        if let Some(scheme) = scheme {
            return Self::urls(&text, scheme);
        }
        if kind == Kind::Property {
            return Self::Raw;
        }
        // A base in a template, and more behind it.
        if text.starts_with("\u{0}/") || text.starts_with("\u{0}?") {
            return Self::url(&text, MARK.len(), MARK.len());
        }
        let Some((keyword, _)) = text.split_once('=') else {
            return Self::Raw;
        };
        let keyword = keyword.trim();
        let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ' ');
        if keyword.is_empty() || !keyword.chars().all(word) {
            return Self::Raw;
        }
        match keyword.contains(' ') || text.contains(';') {
            true => Self::Ado,
            false => Self::Libpq,
        }
    }

    /// One URL, whose scheme ends there, or several.
    fn urls(text: &str, scheme: usize) -> Self {
        let starts = urls::starts(text);
        let ends = starts.iter().skip(1).copied().chain([text.len()]);
        let mut urls: Vec<(usize, Self)> = starts
            .iter()
            .zip(ends)
            .map(|(start, end)| {
                let found = text[*start..end].find("://");
                let scheme = found.map_or(scheme, |found| start + found);
                (*start, Self::url(&text[..end], scheme, scheme + 3))
            })
            .collect();
        match urls.len() {
            1 => urls.remove(0).1,
            _ => Self::Urls(urls),
        }
    }

    fn url(text: &str, scheme: usize, authority: usize) -> Self {
        let find = |from: usize, any: &[char]| {
            text[from..]
                .find(any)
                .map_or(text.len(), |found| from + found)
        };
        let host = find(authority, &['/', '?', '#']);
        let user = text[authority..host]
            .rfind('@')
            .map_or(authority, |found| authority + found);
        let path = find(host, &['?', '#']);
        let query = find(path, &['#']);
        Self::Url {
            scheme,
            user,
            host,
            path,
            query,
        }
    }

    /// Writes `value` for the template that stands `here`; `last`: nothing of the same word follows.
    fn write(&self, value: &str, here: &Here, last: bool, filled: &mut String) {
        // A value that is nothing but the template.
        let whole = last && here.behind_equals && here.quote.is_none();
        match self {
            Self::Raw => filled.push_str(value),
            Self::Url {
                scheme,
                user,
                host,
                path,
                query,
            } => {
                let set = match here.at {
                    at if at < *scheme => return filled.push_str(value),
                    at if at < *user => ALL,
                    at if at < *host => HOST,
                    at if at < *path && here.is_segment => ALL,
                    at if at < *path => PATH,
                    at if at < *query => ALL,
                    _ => FRAGMENT,
                };
                filled.extend(utf8_percent_encode(value, set));
            }
            Self::Urls(urls) => {
                let own = urls.iter().rev().find(|(start, _)| *start <= here.at);
                if let Some((_, url)) = own {
                    url.write(value, here, last, filled);
                }
            }
            Self::Libpq => {
                if whole {
                    filled.push('\'');
                }
                for c in value.chars() {
                    let blank = c.is_whitespace() && here.quote.is_none() && !whole;
                    if blank || matches!(c, '\'' | '\\') {
                        filled.push('\\');
                    }
                    filled.push(c);
                }
                if whole {
                    filled.push('\'');
                }
            }
            Self::Ado => {
                let plain = |c: char| {
                    c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | ',' | ':' | '\\')
                };
                match here.quote {
                    None if whole && !value.chars().all(plain) => {
                        filled.push('"');
                        filled.push_str(&value.replace('"', "\"\""));
                        filled.push('"');
                    }
                    None => filled.push_str(value),
                    // Inside of quotes, a quote is written twice.
                    Some(quote) => {
                        filled.push_str(&value.replace(quote, &quote.to_string().repeat(2)));
                    }
                }
            }
        }
    }
}

/// Everything but what a URL never minds (RFC 3986 "unreserved").
pub(crate) const ALL: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
const FRAGMENT: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'"').add(b'<').add(b'>');
const PATH: &AsciiSet = &FRAGMENT.add(b'?').add(b'#').add(b'\\');
const HOST: &AsciiSet = &PATH.add(b'/').add(b'@');

#[cfg(test)]
mod tests {
    use super::*;

    fn url(template: &str, value: &str) -> String {
        fill(
            &parse(template),
            Kind::Url,
            |_| Some(value.to_owned()),
            |_| false,
        )
        .unwrap()
    }

    #[test]
    fn each_of_several_urls_has_its_own_parts() {
        assert_eq!(
            url(
                "https://u:$(password)@a:1, http://u:$(password)@b/$(name)?q=$(name)",
                "x/@,y"
            ),
            "https://u:x%2F%40%2Cy@a:1, http://u:x%2F%40%2Cy@b/x/@,y?q=x%2F%40%2Cy"
        );
    }

    #[test]
    fn both_spellings_and_spaces() {
        let expected = vec![Part::Text("a"), Part::Variable("name"), Part::Text("b")];
        assert_eq!(parse("a$(name)b"), expected);
        assert_eq!(parse("a{{name}}b"), expected);
        assert_eq!(parse("a{{ name }}b"), expected);
        assert_eq!(parse("a$( name )b"), expected);
    }

    #[test]
    fn what_is_no_name_is_text() {
        for text in [
            "",
            "$",
            "{",
            "$(",
            "{{",
            "$()",
            "{{}}",
            "$(a|b)",
            r#"{{"a":1}}"#,
            "{{{",
            "$(name",
            "{{name}",
            "^a$(b)?c|",
            "ü$ü",
        ] {
            let parts = parse(text);
            let expected = match text {
                "^a$(b)?c|" => 3,
                "" => 0,
                _ => 1,
            };
            assert_eq!(parts.len(), expected, "{text}");
        }
    }

    #[test]
    fn brackets_can_be_escaped() {
        assert_eq!(url("http://h/$$(name)", "x"), "http://h/$(name)");
        assert_eq!(url("http://h/$${{name}}", "x"), "http://h/{{name}}");
        assert_eq!(url("http://h/$$$(name)", "x"), "http://h/$$(name)");
        assert_eq!(url("http://h/$${{$(name)", "x"), "http://h/{{x");
    }

    #[test]
    fn a_value_cannot_leave_its_part() {
        let hostile = "a@b:c/d?e#f g%\\'\"&=ü";
        let encoded = "a%40b%3Ac%2Fd%3Fe%23f%20g%25%5C%27%22%26%3D%C3%BC";
        assert_eq!(
            url("http://u:$(password)@h/", hostile),
            format!("http://u:{encoded}@h/")
        );
        assert_eq!(
            url("http://h/?q=$(password)#x", hostile),
            format!("http://h/?q={encoded}#x")
        );
        assert_eq!(
            url("http://h/$(name)/x?y", "a/b?c#d%"),
            "http://h/a/b%3Fc%23d%25/x?y"
        );
        assert_eq!(
            url("http://$(name):80/x@y", "h/e@v"),
            "http://h%2Fe%40v:80/x@y"
        );
        assert_eq!(url("http://h/#$(name)", "a?b c"), "http://h/#a?b%20c");
        assert_eq!(url("$(type)://h/", "https"), "https://h/");
    }

    #[test]
    fn a_whole_url_is_taken_raw() {
        assert_eq!(url("$(password)", "http://u:p@h/?a b"), "http://u:p@h/?a b");
        assert_eq!(url("$(properties.base)/x", "http://h"), "http://h/x");
        assert_eq!(
            url("$(properties.base)/x?q=$(password)", "a b"),
            "a b/x?q=a%20b"
        );
        assert_eq!(url("$(properties.host):6379", "h"), "h:6379");
        assert_eq!(
            url("u:$(password)@tcp(h:3306)/db", "p@/"),
            "u:p@/@tcp(h:3306)/db"
        );
    }

    #[test]
    fn a_keyword_dsn_quotes_as_libpq_does() {
        let hostile = r"it's a \ b";
        assert_eq!(
            url("host=h password=$(password)", hostile),
            r"host=h password='it\'s a \\ b'"
        );
        assert_eq!(url("password=$(password) host=h", ""), "password='' host=h");
        assert_eq!(
            url("password='$(password)' host=h", hostile),
            r"password='it\'s a \\ b' host=h"
        );
        assert_eq!(
            url("host=$(name).svc user=x", "a b"),
            r"host=a\ b.svc user=x"
        );
    }

    #[test]
    fn an_ado_string_quotes_where_it_must() {
        assert_eq!(
            url("Server=h;Password=$(password);x=y", "a;b\"c"),
            "Server=h;Password=\"a;b\"\"c\";x=y"
        );
        assert_eq!(url("User Id=$(username)", "sa"), "User Id=sa");
        assert_eq!(
            url("Server=h;Password='$(password)'", "it's"),
            "Server=h;Password='it''s'"
        );
    }

    #[test]
    fn helm_is_told_from_ours() {
        assert_eq!(find_helm("a: 1\nb: {{ .Values.x }}\n"), Some((2, 4)));
        assert_eq!(find_helm("{{- if .Values.x }}\n"), Some((1, 1)));
        assert_eq!(find_helm("{{/* note */}}\n"), Some((1, 1)));
        assert_eq!(
            find_helm("# {{ .Values.x }}\nurl: http://{{username}}@h\n"),
            None
        );
        assert_eq!(find_helm("x: {{ include \"a\" . }}"), Some((1, 4)));
        assert_eq!(
            find_helm("summary: '{{ $labels.instance }} {{endpoint}}'"),
            None
        );
    }
}
