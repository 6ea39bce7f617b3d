//! Phrases that messages share: names in backticks, lists, suggestions.

/// A name as a message shows it: in backticks, on one line, and not endless.
pub(crate) fn quoted(name: &str) -> String {
    const LONGEST: usize = 60;
    let mut shown: String = name
        .chars()
        .take(LONGEST)
        .flat_map(|c| {
            // Quotes and letters stay as they are; line breaks and other controls do not.
            let escaped: Vec<char> = match c.is_control() {
                true => c.escape_default().collect(),
                false => vec![c],
            };
            escaped
        })
        .collect();
    if name.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}

/// `a`, `b` and `c`; the first of them when there are many.
pub(crate) fn listed<S: AsRef<str>>(names: &[S]) -> String {
    const MOST: usize = 20;
    let shown = names.iter().take(MOST);
    let mut shown: Vec<String> = shown.map(|name| quoted(name.as_ref())).collect();
    if names.len() > MOST {
        shown.push(format!("{} more", names.len() - MOST));
    }
    let names = shown;
    match names.as_slice() {
        [] => String::new(),
        [only] => only.clone(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}

/// The one of `known` that `word` was probably meant to be: the same but for case and punctuation,
/// or a few letters away.
pub fn closest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Longer than any name of ours, and the distance is quadratic in its length.
    if word.len() > 64 {
        return None;
    }
    // More than any list of ours, so that many mistakes in a large document cost no more.
    const MOST: usize = 200;
    let word = plain(word);
    known
        .into_iter()
        .take(MOST)
        .map(|candidate| {
            let distance = strsim::damerau_levenshtein(&word, &plain(candidate));
            (distance, candidate)
        })
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).clamp(1, 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// [`closest`] among names of any kind.
pub(crate) fn nearest<'a, S: AsRef<str>>(name: &str, candidates: &'a [S]) -> Option<&'a str> {
    closest(name, candidates.iter().map(AsRef::as_ref))
}

fn plain(name: &str) -> String {
    name.chars()
        .filter(|c| !matches!(c, '-' | '_'))
        .map(|c| c.to_ascii_lowercase())
        .collect()
}

/// The way out of an unknown name: the one that was meant, or all there are.
pub(crate) fn suggestion<S: AsRef<str>>(name: &str, candidates: &[S]) -> Option<String> {
    if let Some(meant) = nearest(name, candidates) {
        return Some(format!("did you mean `{meant}`?"));
    }
    match candidates {
        [] => None,
        [only] => Some(format!("only {} is known here", quoted(only.as_ref()))),
        all => Some(format!("known here are {}", listed(all))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_what_was_meant() {
        let fields = ["username", "password", "insecureSkipVerify"];
        assert_eq!(nearest("pasword", &fields), Some("password"));
        assert_eq!(
            nearest("insecure_skip_verify", &fields),
            Some("insecureSkipVerify")
        );
        assert_eq!(nearest("colour", &fields), None);
    }

    #[test]
    fn a_quoted_name_is_one_short_line() {
        assert_eq!(quoted("a\nb"), "`a\\nb`");
        assert_eq!(quoted(&"x".repeat(100)).chars().count(), 63);
    }
}
