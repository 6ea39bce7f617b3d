//! Several URLs in one text.

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
}
